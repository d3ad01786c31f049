//! Stack traces of leaks, in both backends, in log and in block: compared with gdb's at the same call; and
//! that neither the calls nor what they do changes because a trace is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]
#![cfg(target_arch = "x86_64")]

#[allow(dead_code, reason = "shared with tests/stacks.rs")]
#[path = "stacks/compare.rs"]
mod compare;
#[path = "traces/counts.rs"]
mod counts;
#[allow(dead_code, reason = "shared with tests/stacks.rs")]
#[path = "stacks/guest.rs"]
mod guest;
#[path = "traces/reach.rs"]
mod reach;
mod support;

use compare::{Line, lines_of, same};
use guest::{Folder, run};
use sockstrace::symbols::Frame;
use sockstrace::unwind::How;
use std::fs;
use std::process::Command;
use std::time::Duration;
use support::BACKENDS;
use support::cases::{run_all, with_privilege};
use support::run::{Event, Outcome, Run};
use support::stage::{Stage, Truth};

/// The frames of an event's stack.
fn frames(event: &Event) -> Vec<Frame> {
    let all = event.0.get("stack").and_then(|stack| stack.as_array().cloned()).unwrap_or_default();
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").expect("hexadecimal"), 16).unwrap();
    all.iter()
        .map(|frame| {
            let text = |key: &str| frame.get(key).and_then(|value| value.as_str());
            Frame {
                ip: number(text("ip").expect("an ip")),
                module: text("module").map(Into::into),
                build_id: text("build_id").map(Into::into),
                offset: text("offset").map(number),
                function: text("function").map(Into::into),
                file: text("file").map(Into::into),
                line: frame.get("line").and_then(serde_json::Value::as_u64).map(|line| line as u32),
                inlined: frame["inlined"].as_bool().expect("inlined"),
                how: match text("how") {
                    None => How::Cfi,
                    Some("interpreter") => How::Interpreter,
                    Some("frame-pointer") => How::FramePointer,
                    Some("tail-call") => How::TailCall,
                    Some(_) => How::Guess,
                },
                signal: frame.get("signal").is_some_and(|signal| signal.as_bool() == Some(true)),
            }
        })
        .collect()
}

fn functions(event: &Event) -> Vec<String> {
    frames(event).iter().map(|frame| frame.function.as_deref().unwrap_or("?").to_owned()).collect()
}

/// gdb's stack at the program's first connect.
fn gdb(program: &str, arguments: &[&str], narrow: bool) -> Vec<Line> {
    const SCRIPT: &str = r#"
import gdb
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() == gdb.SIGTRAMP_FRAME:
        print("FRAME\tsignal\t\t")
    else:
        sal = gdb.find_pc_line(frame.pc() - 1) if frame.level() == 0 else frame.find_sal()
        at = "%s:%d" % (sal.symtab.filename, sal.line) if sal.symtab else ""
        kind = {gdb.INLINE_FRAME: "inlined", gdb.TAILCALL_FRAME: "tail"}.get(frame.type(), "normal")
        print("FRAME\t%s\t%s\t%s" % (kind, frame.name() or "", at))
    frame = frame.older()
"#;
    let folder = Folder::new();
    let script = folder.file("script.py");
    fs::write(&script, SCRIPT).unwrap();
    let mut command = Command::new("gdb");
    command.env_remove("DEBUGINFOD_URLS").args(["-nx", "-batch"]);
    let mut orders = vec![
        "set backtrace past-main on",
        "set backtrace past-entry on",
        "set backtrace limit 0",
        "set startup-with-shell off",
        "handle SIGSEGV nostop noprint pass",
    ];
    if narrow {
        // The C library's way: socket goes in and comes out, and connect goes in.
        orders.extend(["catch syscall socketcall", "run", "continue", "continue"]);
    } else {
        orders.extend(["catch syscall connect", "run"]);
    }
    for order in orders {
        command.args(["-ex", order]);
    }
    command.args(["-x", &script, "--args", program]).args(arguments);
    let output = command.output().expect("gdb is needed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
    assert!(!lines.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    lines
}

/// A program of the corpus.
#[derive(Clone, Copy)]
struct Case {
    source: &'static str,
    flags: &'static str,
    arguments: &'static [&'static str],
    user: bool,
    stripped: bool,
}

impl Case {
    const fn new(source: &'static str, flags: &'static str) -> Self {
        Self { source, flags, arguments: &[], user: false, stripped: false }
    }

    const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    const fn as_user(mut self) -> Self {
        self.user = true;
        self
    }

    /// Debug information in a file of its own.
    const fn stripped(mut self) -> Self {
        self.stripped = true;
        self
    }
}

const CASES: &[Case] = &[
    Case::new("chain.c", "-g -O0"),
    Case::new("chain.c", "-g -O2"),
    Case::new("chain.c", "-g -O2").as_user(),
    Case::new("chain.c", "-g -O2 -static-pie").as_user(),
    Case::new("chain.c", "-g -O2 -static -no-pie"),
    Case::new("chain.c", "-gdwarf-4 -O2 -gz=zlib"),
    Case::new("chain.c", "-g -O2 -m32"),
    Case::new("chain.c", "-g -O2 -m32").as_user(),
    Case::new("chain.c", "-g -O2").stripped(),
    Case::new("classes.cpp", "-g -O2"),
    Case::new("frames.c", "-g -O2"),
    Case::new("signals.c", "-g -O2"),
    Case::new("signals.c", "-g -O2").arguments(&["on its own stack"]),
    Case::new("noreturn.c", "-g -O2"),
    Case::new("tails.c", "-g -O2"),
    Case::new("tails.c", "-g -O2").arguments(&["3"]).as_user(),
    Case::new("tails.c", "-g -O2 -m32").stripped(),
    Case::new("deep.c", "-g -O0").arguments(&["300"]).as_user(),
];

impl Case {
    fn build(&self) -> Option<Folder> {
        let folder = Folder::new();
        let compiler = if self.source.ends_with("cpp") { "g++" } else { "gcc" };
        let program = folder.compile(compiler, self.source, &format!("{} -DLEAK", self.flags))?;
        if self.stripped {
            let debug = folder.file("program.debug");
            run("objcopy", &["--only-keep-debug", &program, &debug]);
            run("strip", &["--strip-all", &program]);
            run("objcopy", &[&format!("--add-gnu-debuglink={debug}"), &program]);
        }
        Some(folder)
    }

    fn run(&self, folder: &Folder, backend: &str, options: &[&str]) -> (Outcome, Truth) {
        let stage = Stage::new();
        let mut words = vec![folder.file("program")];
        words.extend(self.arguments.iter().map(ToString::to_string));
        let mut run = Run::new(backend, &stage.dir).allow_stage().args(options);
        if self.user {
            run = run.user(61_010);
        }
        let outcome = run.program(words).deadline(Duration::from_secs(60)).run();
        let truth = stage.truth();
        (outcome, truth)
    }

    fn check(&self) -> Result<(), String> {
        let Some(folder) = self.build() else {
            return if self.flags.contains("-m32") { Ok(()) } else { Err("does not compile".into()) };
        };
        let expected = {
            let _stage = Stage::new();
            gdb(&folder.file("program"), self.arguments, self.flags.contains("-m32"))
        };
        for backend in BACKENDS {
            for action in ["log", "block"] {
                let (outcome, truth) = self.run(&folder, backend, &["--on-leak", action]);
                let wrong = |what: &str| Err(format!("{backend} {action}: {what}\n{truth:?}\n{outcome:?}"));
                // Let go, the connect is followed by a datagram to the peer that it has set.
                let arrives = usize::from(action == "log");
                if truth.udp.len() != arrives || outcome.leaks().count() != 1 {
                    return wrong(&format!("{} arrived", truth.udp.len()));
                }
                let event = outcome.leaks().next().unwrap();
                let ours = lines_of(&frames(event));
                if !same(&ours, &expected) || !event.lacks("stack_truncated") || !event.lacks("stack_partial") {
                    return wrong(&format!("ours {ours:#?}\ngdb's {expected:#?}"));
                }
                if !outcome.complaints().is_empty() {
                    return wrong(&outcome.complaints().join("; "));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn as_gdb_has_them() {
    with_privilege("as_gdb_has_them", || {
        run_all(
            CASES,
            |case| format!("{} {} {:?} {}", case.source, case.flags, case.arguments, case.user),
            Case::check,
        );
    });
}

/// A library that a thread loaded, and whose file is gone when it calls.
#[test]
fn a_thread_in_a_deleted_library() {
    with_privilege("a_thread_in_a_deleted_library", || {
        for backend in BACKENDS {
            let folder = Folder::new();
            let library = folder.compile("gcc", "loaded.c", "-g -O2 -DLEAK -shared -fPIC -DLIBRARY").unwrap();
            fs::rename(&library, folder.file("library.so")).unwrap();
            let program = folder.compile("gcc", "loaded.c", "-g -O2 -DLEAK -pthread").unwrap();
            let stage = Stage::new();
            let words = [program, folder.file("library.so")];
            let outcome = Run::new(backend, &stage.dir).allow_stage().on_leak("block").program(words).run();
            assert!(!fs::exists(folder.file("library.so")).unwrap());
            let event = outcome.leaks().next().unwrap();
            let functions = functions(event);
            let end = functions.iter().position(|function| function == "thread").expect("the thread's start");
            assert_eq!(functions[end - 4..end], ["stop", "callback", "call", "entry"], "{functions:?}");
            assert_ne!(event.number("pid"), event.number("tid"));
        }
    });
}

/// What ends the process, or all of them, comes after the trace.
#[test]
fn of_the_dead() {
    with_privilege("of_the_dead", || {
        let case = Case::new("chain.c", "-g -O2");
        let folder = case.build().unwrap();
        let mut all = Vec::new();
        for backend in BACKENDS {
            for action in ["kill", "kill-tree", "core"] {
                all.push((backend, action));
            }
        }
        run_all(
            &all,
            |(backend, action)| format!("{backend} {action}"),
            |(backend, action)| {
                let (outcome, truth) = case.run(&folder, backend, &["--on-leak", action]);
                let event = outcome.leaks().next().ok_or("no leak")?;
                let functions = functions(event);
                let has = |name: &&str| functions.iter().any(|function| function == name);
                let complete = ["stop", "middle", "sort", "main", "_start"].iter().all(has);
                let ended = matches!(outcome.code(), Some(134 | 137));
                let lives = outcome.stdout.contains('\n');
                if complete && ended && !lives && truth.foreign().is_empty() && outcome.complaints().is_empty() {
                    return Ok(());
                }
                Err(format!("{functions:?}\n{truth:?}\n{outcome:?}"))
            },
        );
    });
}

#[test]
fn only_where_asked_for() {
    with_privilege("only_where_asked_for", || {
        let case = Case::new("chain.c", "-g -O2");
        let folder = case.build().unwrap();
        for backend in BACKENDS {
            for (options, has_stack, arrives) in [
                (&["--stack=never", "--on-leak=block"][..], false, false),
                (&["--trace=all", "--allow=203.0.113.5", "--stack=auto"], false, true),
                (&["--trace=all", "--allow=203.0.113.5", "--stack=always"], true, true),
                (&["--trace=all", "--allow=203.0.113.5", "--stack=always", "--on-leak=log"], true, true),
            ] {
                let (outcome, truth) = case.run(&folder, backend, options);
                let calls = outcome.events.iter().filter(|event| event.text("kind") == "syscall");
                let found: Vec<_> = calls.map(|event| !event.lacks("stack")).collect();
                assert_eq!(found, [has_stack], "{backend} {options:?} {outcome:?}");
                assert_eq!(truth.udp.len(), usize::from(arrives), "{backend} {options:?}");
            }
        }
    });
}
