//! Capturing what runs already.

use crate::captors;
use crate::captured::{Captured, Place};
use crate::support::run::sockstrace;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Has sockets of its own, and says what it is told over one of them, word by word, to itself.
const TALKER: &str = "import os, socket, sys\n\
    a, b = socket.socketpair()\n\
    other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
    os.dup2(a.fileno(), 70)\n\
    for line in sys.stdin:\n\
    \x20   a.sendall(line.encode())\n\
    \x20   assert b.recv(100000) == line.encode()\n\
    \x20   if os.fork() == 0:\n\
    \x20       os.write(70, b'child'); os._exit(0)\n\
    \x20   os.wait(); assert b.recv(5) == b'child'\n\
    \x20   print(a.fileno(), b.fileno(), flush=True)\n";

fn talker() -> (Child, impl FnMut(&str) -> Vec<i64>) {
    let mut command = Command::new("/usr/bin/python3");
    let mut child = command.args(["-c", TALKER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut words, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let say = move |text: &str| {
        writeln!(words, "{text}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer.split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    (child, say)
}

/// sockstrace, when it watches.
fn watch(place: &Place, options: &[&str]) -> Child {
    let mut command = Command::new(sockstrace());
    command.args(["--backend=ebpf", "--capture"]).arg(place.0.join("capture")).args(options);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).current_dir(&place.0).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while told.read_line(&mut line).unwrap() > 0 && !line.contains("Ctrl-C ends it") {}
    assert!(line.contains("Ctrl-C ends it"), "{line}");
    std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    child
}

fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("it doesn't end");
}

/// What is said after attaching is captured, of sockets that were there before.
fn captured_of(options: &dyn Fn(u32) -> Vec<String>, interrupts: bool) {
    let place = Place::new("running");
    let (mut child, mut say) = talker();
    say("before");
    let options = options(child.id());
    let mut watcher = watch(&place, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let long = "x".repeat(70_000);
    say("after");
    let ends = say(&long);
    drop(say);
    assert!(child.wait().unwrap().success());
    if interrupts {
        // SAFETY: takes integers; the child was not reaped yet.
        assert_eq!(unsafe { libc::kill(watcher.id() as i32, libc::SIGTERM) }, 0);
    }
    assert_eq!(wait(&mut watcher), Some(0));
    let captured = Captured::read(&place.0.join("capture"));
    captured.check();
    let kinds: Vec<_> = captured.records.iter().map(|record| record.kind.as_str()).collect();
    assert_eq!(&kinds[..2], ["init", "ready"]);
    assert_eq!(captured.connections.len(), 4, "{:?}", captured.connections);
    assert!(captured.connections.iter().all(|connection| connection.how == "there already"));
    let expected = format!("after\nchild{long}\nchild").into_bytes();
    for (end, way) in ends.into_iter().zip(["out", "in"]) {
        let connection = captured.connections.iter().find(|connection| connection.fd == end).unwrap();
        assert!(connection.bytes(way) == expected, "{end} {way}: {} bytes", connection.bytes(way).len());
    }
    let pids: std::collections::BTreeSet<_> = captured.data().map(|record| record.pid).collect();
    assert_eq!(pids.len(), 3, "the process and two children");
}

#[test]
fn of_a_process() {
    if captors().contains(&"ebpf") {
        captured_of(&|pid| vec![format!("--pid={pid}")], false);
    }
}

#[test]
fn of_the_machine() {
    if captors().contains(&"ebpf") {
        captured_of(&|pid| vec!["--all".into(), format!("--filter=pid={pid}"), "-o/dev/null".into()], true);
    }
}

#[test]
fn of_everybody_only_when_somebody_is_named() {
    let place = Place::new("everybody");
    for (options, named) in
        [(vec!["--all"], "--filter"), (vec!["--all", "--filter=uid=0", "--filter=port=80"], "--capture-path")]
    {
        let capture = place.0.join("capture");
        let output = Command::new(sockstrace()).args(options).arg("--capture").arg(&capture).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("--capture") && said.contains(named), "{said}");
        assert!(!capture.exists());
    }
}
