//! The line that says how it goes: on a terminal alone, and never in the way of what the program writes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::time::Duration;
use support::run::sockstrace;
use support::terminal::Terminal;

/// Everything that a shell on a terminal shows for a command.
fn shown(command: &str) -> String {
    let mut terminal = Terminal::new(Path::new("/tmp"));
    terminal.type_line(&format!("export TERM=xterm NO_COLOR=1; {command}; echo 'clo''sed' $?"));
    let mut said = String::new();
    for _ in 0..100 {
        said += &terminal.rest(Duration::from_millis(100));
        if said.contains("closed ") {
            break;
        }
    }
    said
}

/// A leak, refused, then a while without anything.
const GUEST: &str = "/usr/bin/python3 -c \"import socket, time; socket.socket().connect_ex(('127.0.0.1', 9)); \
                     print('mine', flush=True); time.sleep(1.2)\"";

#[test]
fn it_shows_where_the_program_writes_elsewhere() {
    let own = sockstrace();
    let own = own.display();
    for backend in support::BACKENDS {
        let said = shown(&format!("{own} --backend {backend} -- {GUEST} > /dev/null"));
        assert!(said.contains("\rsockstrace: 1 call judged, 1 leak, 1 process\u{1b}[K\r"), "{said:?}");
        // It goes when the program does, and the event stands in a line of its own.
        let (before, after) = said.split_once("LEAK").expect("the leak");
        assert!(before.ends_with("\u{1b}[K") && after.contains("closed 23"), "{said:?}");
        assert!(said.contains("1 process\u{1b}[K\r\u{1b}[K"), "{said:?}");
    }
}

#[test]
fn it_is_not_in_the_way() {
    let own = sockstrace();
    let own = own.display();
    // The program writes to the terminal; or nobody looks; or it isn't wanted.
    for (options, rest) in [("", ""), ("", "2> /dev/null > /dev/null"), ("--live=never", "> /dev/null")] {
        let said = shown(&format!("{own} {options} -o /dev/null -- {GUEST} {rest}"));
        assert!(!said.contains("judged") && said.contains("closed 23"), "{said:?}");
    }
    let said = shown(&format!("TERM=dumb {own} -o /dev/null -- {GUEST} > /dev/null"));
    assert!(!said.contains("judged"), "{said:?}");
    let said = shown(&format!("{own} --live=always -o /dev/null -- {GUEST}"));
    assert!(said.contains("mine\r\n") && said.contains("1 leak, 1 process"), "{said:?}");
    // In the background it is silent.
    let said = shown(&format!("{own} -o /dev/null -- {GUEST} > /dev/null & sleep 1"));
    assert!(!said.contains("judged"), "{said:?}");
}
