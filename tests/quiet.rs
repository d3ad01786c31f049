//! No false alarms: traffic that is no leak is not reported, works as natively, and PROGRAM's exit status
//! stays its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use std::time::Duration;
use support::backends;
use support::cases::{run_all, with_privilege};
use support::programs::programs;
use support::run::{Run, Status};
use support::stage::Stage;

/// What `tests/programs/quiet.c` can do, and the options that it needs to be no leak.
const TRAFFIC: &[(&str, &[&str])] = &[
    ("unix-streams", &[]),
    ("unix-datagrams", &[]),
    ("unix-allowed", &["--unix=leak"]),
    ("netlink", &[]),
    ("proxy", &[]),
    ("proxy-nonblocking", &[]),
    ("proxy-sends", &[]),
    ("dissolved", &[]),
    ("options", &[]),
    ("listening", &["--allow=203.0.113.9:9060"]),
    // With two results glibc asks for the source address of each by a UDP connect (RFC 6724): to loopback.
    ("resolver", &["--allow-loopback"]),
    ("many", &[]),
    ("own-children", &[]),
    ("own-terminal", &[]),
];

fn check(name: &str, options: &[&str], backend: Option<&str>, action: &str) -> Result<(), String> {
    let mut stage = Stage::new();
    stage.add_unix();
    stage.serve();
    let ok = format!("--allow=unix:{}/ok.*", stage.dir.display());
    let outcome = Run::maybe(backend, &stage.dir)
        .on_leak(action)
        .allow_stage()
        .args(options)
        .args(["--trace=all", &ok])
        .program([programs().quiet.as_os_str(), name.as_ref()])
        .deadline(Duration::from_secs(60))
        .run();
    let mut wrong = outcome.complaints();
    if outcome.status != Status::Exited(0) {
        wrong.push(format!("{:?}", outcome.status));
    }
    if let Some(event) = outcome.leaks().next() {
        wrong.push(format!("a false alarm: {}", event.0));
    }
    if let Some(event) = outcome.events.iter().find(|event| !matches!(event.text("action"), "" | "continue")) {
        wrong.push(format!("not let go: {}", event.0));
    }
    if backend.is_some() {
        let leaks = outcome.summary.as_ref().and_then(|summary| summary.number("leaks"));
        if leaks != Some(0) {
            wrong.push(format!("summary tells {leaks:?} leaks"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n  {outcome:?}", wrong.join("; "))) }
}

#[test]
fn natively() {
    with_privilege("natively", || {
        run_all(TRAFFIC, |(name, _)| (*name).to_owned(), |(name, options)| check(name, options, None, "log"));
    });
}

#[test]
fn no_false_alarms() {
    with_privilege("no_false_alarms", || {
        let mut cases = Vec::new();
        for backend in backends() {
            for action in ["log", "block", "kill-tree"] {
                cases.extend(TRAFFIC.iter().map(|(name, options)| (*name, *options, backend, action)));
            }
        }
        run_all(
            &cases,
            |(name, _, backend, action)| format!("{name} {backend} {action}"),
            |(name, options, backend, action)| check(name, options, Some(backend), action),
        );
    });
}

/// By default only leaks are written: a quiet program leaves a summary and nothing else.
#[test]
fn silence() {
    with_privilege("silence", || {
        run_all(
            &backends(),
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                let program = [programs().quiet.as_os_str(), "proxy-sends".as_ref()];
                let outcome = Run::new(backend, &stage.dir).allow_stage().program(program).run();
                let wrong = outcome.complaints();
                let calls = outcome.events.iter().filter(|event| event.text("kind") == "syscall").count();
                if wrong.is_empty()
                    && calls == 0
                    && outcome.status == Status::Exited(0)
                    && outcome.stderr.is_empty()
                {
                    return Ok(());
                }
                Err(format!("{wrong:?} {outcome:?}"))
            },
        );
    });
}
