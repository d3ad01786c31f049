//! Many leaks: each is carried out once, recorded once, and has its trace.

use super::support::BACKENDS;
use super::support::cases::{run_all, with_privilege};
use super::support::programs::programs;
use super::support::run::Run;
use super::support::stage::Stage;
use std::collections::HashSet;
use std::time::Duration;

struct Case {
    backend: &'static str,
    calls: usize,
    threads: usize,
    alarms: bool,
}

fn check(case: &Case) -> Result<(), String> {
    let Case { backend, calls, threads, alarms } = case;
    let stage = Stage::new();
    let mut words = vec![programs().traces.display().to_string(), "numbered".into()];
    words.extend([calls.to_string(), threads.to_string()]);
    words.extend(alarms.then(|| "alarms".to_owned()));
    let outcome = Run::new(backend, &stage.dir)
        .allow_stage()
        .on_leak("log")
        .program(words)
        .deadline(Duration::from_secs(300))
        .run();
    let truth = stage.truth();
    let all = calls * threads;
    let distinct: HashSet<_> = truth.udp.iter().collect();
    let traced = outcome.leaks().filter(|event| {
        let named = |frame: &serde_json::Value| frame["function"] == "send_number";
        event.0["stack"].as_array().is_some_and(|stack| stack.iter().any(named))
    });
    let counts = [truth.udp.len(), distinct.len(), outcome.leaks().count(), traced.count()];
    let failed = outcome.stdout.lines().any(|line| line != "failed 0");
    if counts != [all; 4] || failed || outcome.code() != Some(23) || !outcome.complaints().is_empty() {
        return Err(format!("arrived, distinct, recorded, traced: {counts:?} of {all}\n{outcome:?}"));
    }
    Ok(())
}

/// The witness's buffer holds 64 MiB of datagrams, which is some 80,000 of these.
#[test]
fn each_once() {
    let mut all = Vec::new();
    for backend in BACKENDS {
        all.push(Case { backend, calls: 50_000, threads: 1, alarms: false });
        all.push(Case { backend, calls: 20_000, threads: 1, alarms: true });
        all.push(Case { backend, calls: 3_000, threads: 8, alarms: true });
    }
    let name = |case: &Case| format!("{} {} × {} {}", case.backend, case.threads, case.calls, case.alarms);
    with_privilege("counts::each_once", || run_all(&all, name, check));
}

/// The destination changes while the call is judged: what arrives is of both kinds, each call once.
#[test]
fn arguments_that_change() {
    with_privilege("counts::arguments_that_change", || {
        for backend in BACKENDS {
            let stage = Stage::new();
            let words = [programs().traces.display().to_string(), "flipped".into(), "4000".into()];
            let run = Run::new(backend, &stage.dir).args(["--allow=203.0.113.9", "--on-leak=log", "--trace=all"]);
            let outcome = run.args(["--stack=always"]).program(words).deadline(Duration::from_secs(60)).run();
            let truth = stage.truth();
            // The foreign address has no listener at that port, so that only what is allowed arrives.
            assert!(truth.allowed > 0 && truth.allowed < 4000, "{truth:?}");
            assert!(outcome.stdout.contains("failed 0"), "{outcome:?}");
            let calls = outcome.events.iter().filter(|event| event.text("syscall") == "sendto");
            let calls: Vec<_> = calls.collect();
            // One that has changed when it comes again is another judgement, and a record of its own.
            assert!((4000..=8000).contains(&calls.len()), "{}", calls.len());
            assert!(calls.iter().all(|event| !event.lacks("stack")));
            if backend == "ptrace" {
                assert_eq!(calls.len(), 4000);
            }
        }
    });
}
