//! Bad input and bad company: arguments that make no sense, memory that is held back, signals, crowds,
//! sudden ends. Most guests print what they saw; that must be the same as natively, in log and in block.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "hostile/ends.rs"]
mod ends;
#[path = "hostile/resolvers.rs"]
mod resolvers;
#[path = "hostile/rights.rs"]
mod rights;
#[path = "hostile/same.rs"]
mod same;
mod support;

use same::{Case, run_cases};
use support::cases::with_privilege;

/// Everything may pass: what is compared is how arguments are read and errors are given.
const ALL_ALLOWED: &[&str] = &["--allow=0.0.0.0/0", "--allow=::/0"];
/// The same with UNIX destinations and local addresses judged, so that those calls are performed too.
const ALL_JUDGED: &[&str] = &[
    "--allow=0.0.0.0/0",
    "--allow=::/0",
    "--unix=leak",
    "--allow=unix:**",
    "--allow=unix:@**",
    "--incoming=block",
    "--allow-incoming=0.0.0.0/0",
    "--allow-incoming=::/0",
];
/// What signal cases use besides the proxy: a listener whose queue is full, and an own one.
const OWN_LISTENERS: &[&str] = &["--allow=203.0.113.9"];
const UNIX_JUDGED: &[&str] = &["--unix=leak", "--allow=unix:**", "--allow=unix:@**"];

#[test]
fn arguments() {
    with_privilege("arguments", || {
        let mut cases = Vec::new();
        for options in [ALL_ALLOWED, ALL_JUDGED] {
            for name in ["lengths", "descriptors", "messages", "vectors"] {
                cases.push(Case::new(name).options(options));
                cases.push(Case::new(name).options(options).narrow());
            }
            // Families and types that nobody can judge.
            for name in ["families", "sockets"] {
                cases.push(Case::new(name).options(options).other_refusal());
                cases.push(Case::new(name).options(options).other_refusal().narrow());
            }
        }
        cases.push(Case::new("socketcalls").options(ALL_ALLOWED).narrow());
        run_cases(&cases);
    });
}

/// The same with nothing allowed: errors differ, but nothing arrives and nobody falls over.
#[test]
fn arguments_of_leaks() {
    with_privilege("arguments_of_leaks", || {
        let mut cases = Vec::new();
        for name in ["lengths", "families", "descriptors", "messages", "vectors", "sockets"] {
            cases.push(Case::new(name).only_blocked());
            cases.push(Case::new(name).only_blocked().narrow());
            cases.push(Case::new(name).only_blocked().options(&[
                "--unix=leak",
                "--incoming=block",
                "--disclosure=leak",
            ]));
        }
        run_cases(&cases);
    });
}

#[test]
fn memory() {
    with_privilege("memory", || {
        run_cases(&[
            Case::new("late-allowed"),
            Case::new("late-sendmsg-allowed"),
            Case::new("late-payload"),
            Case::new("late-foreign").only_blocked().prints("connect -> EPERM"),
            Case::new("late-sendmsg-foreign").only_blocked().prints("sendmsg -> EPERM"),
            Case::new("never").leaks(),
            Case::new("never-killed"),
            Case::new("vanishing").leaks_perhaps(),
        ]);
    });
}

#[test]
fn signals() {
    with_privilege("signals", || {
        let names = [
            "interrupted",
            "restarted",
            "timed",
            "nonblocking",
            "undisturbed",
            "nested",
            "half-sent",
            "broken-pipe",
            "not-held-up",
            "killed",
            "shut-down",
        ];
        let mut cases: Vec<Case> = names.iter().map(|name| Case::new(name).options(OWN_LISTENERS)).collect();
        cases.push(Case::new("flood").leaks());
        cases.push(Case::new("unix-queue"));
        cases.push(Case::new("unix-queue").options(UNIX_JUDGED));
        cases.push(Case::new("broken-pipe").options(&[
            "--allow=203.0.113.9",
            "--unix=leak",
            "--allow=unix:**",
            "--allow=unix:@**",
        ]));
        run_cases(&cases);
    });
}

#[test]
fn crowds() {
    with_privilege("crowds", || {
        run_cases(&[
            Case::new("threads").leaks(),
            Case::new("forks").leaks().user(61_001),
            Case::new("generations").leaks(),
            Case::new("sudden-ends").leaks(),
            Case::new("sudden-execs").leaks(),
        ]);
    });
}

/// Nothing of it changes because a trace is taken of every call.
#[test]
fn traced() {
    with_privilege("traced", || {
        let mut cases: Vec<Case> = [
            "interrupted",
            "restarted",
            "timed",
            "nonblocking",
            "undisturbed",
            "nested",
            "half-sent",
            "broken-pipe",
            "not-held-up",
            "killed",
            "shut-down",
        ]
        .iter()
        .map(|name| Case::new(name).options(OWN_LISTENERS).traced())
        .collect();
        cases.push(Case::new("flood").leaks().traced());
        cases.push(Case::new("unix-queue").traced());
        cases.push(Case::new("unix-queue").options(UNIX_JUDGED).traced());
        for name in ["threads", "generations", "sudden-ends", "sudden-execs"] {
            cases.push(Case::new(name).leaks().traced());
        }
        cases.push(Case::new("forks").leaks().user(61_001).traced());
        for name in ["lengths", "descriptors", "messages", "vectors"] {
            cases.push(Case::new(name).options(ALL_ALLOWED).traced());
            cases.push(Case::new(name).options(ALL_JUDGED).narrow().traced());
        }
        cases.push(Case::new("socketcalls").options(ALL_ALLOWED).narrow().traced());
        for name in ["late-allowed", "late-sendmsg-allowed", "late-payload", "never-killed"] {
            cases.push(Case::new(name).traced());
        }
        cases.push(Case::new("never").leaks().traced());
        cases.push(Case::new("child-states").traced());
        cases.push(Case::new("credentials").traced());
        cases.push(Case::new("descriptors-kept").leaks().traced());
        run_cases(&cases);
    });
}

#[test]
fn lives() {
    with_privilege("lives", || {
        run_cases(&[
            Case::new("pidfds").args(&["2000"]),
            Case::new("child-states"),
            Case::new("credentials"),
            // Not with judged paths: what is judged by its path is performed, and peers see sockstrace (README).
            Case::new("descriptors-kept").leaks(),
            Case::new("relative-paths"),
            Case::new("relative-paths").options(UNIX_JUDGED),
            Case::new("relative-paths").options(UNIX_JUDGED).user(61_002),
        ]);
    });
}

/// A program of the same user as sockstrace can't have sockstrace act for it.
#[test]
fn supervisors() {
    with_privilege("supervisors", || {
        run_cases(&[Case::new("overwritten")
            .only_blocked()
            .user(61_003)
            .prints("open of its memory -> EACCES\nlist of its descriptors -> EACCES\nPTRACE_SEIZE -> EPERM\n")]);
    });
}

/// Nothing is sent by sockets of any kind that no judged call has told where to.
#[test]
fn unnamed() {
    with_privilege("unnamed", || {
        run_cases(&[
            Case::new("unnamed").only_blocked().prints("sockets -> 0"),
            Case::new("unnamed").only_blocked().prints("sockets -> 0").narrow(),
            Case::new("unnamed").only_blocked().prints("sockets -> 0").user(61_004),
        ]);
    });
}

/// What the program mounts, and serves, is as free as natively once a stack led there.
#[test]
fn mounts() {
    with_privilege("mounts", || {
        run_cases(&["unmounted", "served", "withheld"].map(|name| Case::new(name).leaks()));
    });
}
