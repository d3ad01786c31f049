//! Threads that can't be stopped, or are looked at by somebody else; and other languages.

use super::guest::Folder;
use super::support::BACKENDS;
use super::support::cases::{root_is_alone, with_privilege};
use super::support::programs::programs;
use super::support::run::{Event, Outcome, Run};
use super::support::stage::Stage;
use super::{frames, functions};
use sockstrace::unwind::How;
use std::fs;
use std::path::Path;
use std::process::Command;

fn leak(outcome: &Outcome) -> &Event {
    outcome.leaks().next().unwrap_or_else(|| panic!("no leak: {outcome:?}"))
}

#[test]
fn a_process_that_hides_its_memory() {
    with_privilege("reach::a_process_that_hides_its_memory", || {
        if root_is_alone() {
            return;
        }
        for backend in BACKENDS {
            for action in ["log", "block"] {
                let stage = Stage::new();
                let words = [programs().traces.display().to_string(), "hidden".into()];
                let run = Run::new(backend, &stage.dir).allow_stage().on_leak(action).user(61_011);
                let outcome = run.program(words).run();
                let event = leak(&outcome);
                assert!(event.text("stack_truncated").contains("Permission denied"), "{outcome:?}");
                assert_eq!(
                    event.text("stack_partial").contains("not dumpable"),
                    backend == "seccomp",
                    "{outcome:?}"
                );
                // Where it stands is known nevertheless.
                let frames = frames(event);
                assert!(frames.len() == 1 && frames[0].ip != 0, "{frames:?}");
                assert_eq!(stage.truth().udp.len(), usize::from(action == "log"));
            }
        }
    });
}

/// A debugger within the tree has the thread: the trace starts from what /proc says.
#[test]
fn a_thread_that_somebody_else_traces() {
    with_privilege("reach::a_thread_that_somebody_else_traces", || {
        if Command::new("strace").arg("-V").output().is_err() {
            eprintln!("strace isn't installed: left out");
            return;
        }
        for action in ["log", "block"] {
            let stage = Stage::new();
            let program = programs().traces.display().to_string();
            let words = ["strace", "-f", "-o", "strace.txt", &program, "once"];
            let outcome = Run::new("seccomp", &stage.dir).allow_stage().on_leak(action).program(words).run();
            let event = leak(&outcome);
            assert!(event.text("stack_partial").ends_with("traces the thread"), "{outcome:?}");
            let functions = functions(event);
            for function in ["send_number", "once", "main"] {
                assert!(functions.iter().any(|name| name == function), "{functions:?}");
            }
            assert_eq!(stage.truth().udp.len(), usize::from(action == "log"));
            let strace = fs::read_to_string(stage.dir.join("strace.txt")).unwrap();
            let result = if action == "log" { "= 1" } else { "= -1 EPERM" };
            let line = strace.lines().find(|line| line.contains("sendto(")).unwrap();
            assert!(line.contains(result), "{line}");
        }
    });
}

#[test]
fn python_is_named() {
    const SCRIPT: &str = "import socket\ndef dial(host):\n    s = socket.socket(socket.AF_INET, \
                          socket.SOCK_DGRAM)\n    s.connect((host, 7777))\ndef main():\n    dial('203.0.113.5')\nmain()\n";
    with_privilege("reach::python_is_named", || {
        for backend in BACKENDS {
            let stage = Stage::new();
            fs::write(stage.dir.join("dial.py"), SCRIPT).unwrap();
            let words = ["/usr/bin/python3", "dial.py"];
            let outcome = Run::new(backend, &stage.dir).allow_stage().on_leak("log").program(words).run();
            let scripts: Vec<_> = frames(leak(&outcome))
                .iter()
                .filter(|frame| frame.how == How::Interpreter)
                .map(|frame| (frame.function.as_deref().unwrap().to_owned(), frame.line.unwrap()))
                .collect();
            let expected = [("dial", 4), ("main", 6), ("<module>", 7)];
            assert_eq!(scripts, expected.map(|(name, line)| (name.to_owned(), line)), "{outcome:?}");
        }
    });
}

#[test]
fn go_is_named() {
    const SOURCE: &str = "package main\n\nimport \"net\"\n\nfunc dial(host string) {\n\tnet.Dial(\"udp\", host)\n}\n\n\
                          func main() { dial(\"203.0.113.5:7777\") }\n";
    with_privilege("reach::go_is_named", || {
        let folder = Folder::new();
        fs::write(folder.file("dial.go"), SOURCE).unwrap();
        let mut build = Command::new("go");
        build.args(["build", "-o", "dial", "dial.go"]).current_dir(&folder.0).env("CGO_ENABLED", "0");
        build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go")).env("GO111MODULE", "off");
        let Ok(status) = build.status() else {
            eprintln!("go isn't installed: left out");
            return;
        };
        assert!(status.success(), "go build");
        for backend in BACKENDS {
            let stage = Stage::new();
            let outcome =
                Run::new(backend, &stage.dir).allow_stage().on_leak("block").program([folder.file("dial")]).run();
            let event = leak(&outcome);
            let named = |name: &str, line: u32| {
                frames(event)
                    .iter()
                    .any(|frame| frame.function.as_deref() == Some(name) && frame.line == Some(line))
            };
            assert!(named("main.dial", 6) && named("main.main", 9), "{:?}", functions(event));
            assert!(event.lacks("stack_truncated"), "{outcome:?}");
        }
    });
}
