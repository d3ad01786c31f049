//! Screens as a terminal would show them.

use super::super::app::{App, Pane};
use super::super::keys::Key;
use super::super::model::tests::{allowed, model, process, stacked};
use super::*;
use crate::event::Change;
use crate::event::tests::call;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn app() -> App {
    let mut app = App::new("curl -sS", true, true);
    let hostile = call(|call| call.who.process = Some("x\u{1b}[2J\n\u{202e}漢".into()));
    app.model = model(&[process(Change::Exec, 1234, None), allowed(), stacked(7), hostile]);
    app.model.line(br#"{"kind":"tally","events":3,"leaks":2,"processes":1,"dropped":4}"#);
    app.model.output.push(b"\x1b[31mhello\x1b[0m from the program\r\n");
    app
}

/// What an app shows at this size, line by line.
fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..height).map(line).collect()
}

fn shows(screen: &[String], text: &str) -> bool {
    screen.iter().any(|line| line.contains(text))
}

#[test]
fn a_large_screen_has_it_all() {
    let screen = screen(&app(), 160, 40);
    let title = &screen[0];
    for part in
        ["sockstrace curl -sS | seccomp | 3 calls judged, 2 leaks, 1 process | running", "4 events not shown"]
    {
        assert!(title.contains(part), "{title}");
    }
    for part in [
        "Processes 1",
        "Connections 2",
        "Leaks 2",
        "Output 1",
        "TCP 127.0.0.1:9050",
        "TCP 203.0.113.5:80",
        "outbound",
        "blocked EPERM",
        "hello from the program",
        "x\\u{1b}[2J\\n\\u{202e}",
        "q end  ? help",
    ] {
        assert!(shows(&screen, part), "{part}: {screen:#?}");
    }
    assert!(shows(&screen, "Stack"));
    let mut app = app();
    app.key(Key::Up);
    let screen = self::screen(&app, 160, 40);
    assert!(shows(&screen, "> dial at /src/dial.c:7"), "{screen:#?}");
}

#[test]
fn a_small_screen_has_the_pane_with_the_keys() {
    let mut app = app();
    for (title, other) in [("Leaks 2", "Connections"), ("Connections 2", "Processes"), ("Processes 1", "Output")] {
        let screen = screen(&app, 60, 12);
        assert!(shows(&screen, title) && !shows(&screen, other), "{screen:#?}");
        app.key(Key::Tab);
    }
    assert!(shows(&screen(&app, 60, 12), "hello from the program"));
}

#[test]
fn any_size_will_do() {
    for focus in Pane::ALL {
        for keys in [&[][..], &[Key::Enter], &[Key::Char('?'), Key::End], &[Key::Char('q')], &[Key::Char('/')]] {
            let mut app = app();
            app.focus = focus;
            app.filter = "漢".repeat(50);
            for key in keys {
                app.key(*key);
            }
            for width in (0..30).chain([79, 80, 81, 200, 500]) {
                for height in (0..12).chain([19, 20, 21, 22, 23, 100]) {
                    screen(&app, width, height);
                }
            }
        }
    }
}

#[test]
fn windows_lie_over_the_panes() {
    let mut app = app();
    app.key(Key::Up);
    app.key(Key::Enter);
    let details = screen(&app, 100, 40);
    for part in
        ["Details", "destination   TCP 203.0.113.5:80", "reason        no proxy or rule", "> dial at /src/dial.c:7"]
    {
        assert!(shows(&details, part), "{part}: {details:#?}");
    }
    // In a small one it is scrolled.
    assert!(!shows(&screen(&app, 40, 10), "> dial"));
    app.key(Key::End);
    assert!(shows(&screen(&app, 40, 10), "> dial at /src/dial.c:7"));
    app.key(Key::Escape);
    app.key(Key::Char('?'));
    assert!(shows(&screen(&app, 100, 40), "Ctrl-Z"));
    app.key(Key::Escape);
    app.key(Key::Char('q'));
    assert!(shows(&screen(&app, 100, 40), "q: end it (SIGTERM)"));
    app.end(23);
    let ended = screen(&app, 160, 40);
    assert!(shows(&ended, "ended, exit status 23") && shows(&ended, "q leave"), "{ended:#?}");
}

#[test]
fn without_colour_there_is_none() {
    let mut app = app();
    for (colour, expected) in [(true, true), (false, false)] {
        app.colour = colour;
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| draw(frame, &app)).unwrap();
        let any = terminal.backend().buffer().content.iter().any(|cell| cell.fg != Color::Reset);
        assert_eq!(any, expected);
    }
}
