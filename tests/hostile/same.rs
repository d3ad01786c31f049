//! Guests that print what they saw: natively and under sockstrace it must be the same.

use super::support::BACKENDS;
use super::support::cases::run_all;
use super::support::programs::programs;
use super::support::run::{Outcome, Run, Status};
use super::support::stage::{Stage, Truth};
use std::time::Duration;

/// A guest of `tests/programs/hostile`.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent properties, named at each use")]
pub struct Case {
    name: &'static str,
    args: &'static [&'static str],
    options: &'static [&'static str],
    traced: bool,
    narrow: bool,
    user: Option<u32>,
    leaks: Leaks,
    blocked_only: bool,
    prints: Option<&'static str>,
    other_refusal: bool,
}

/// Whether the guest tries to leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaks {
    No,
    Yes,
    Perhaps,
}

impl Case {
    /// Compared with the native run, in log and block.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            args: &[],
            options: &[],
            traced: false,
            narrow: false,
            user: None,
            leaks: Leaks::No,
            blocked_only: false,
            prints: None,
            other_refusal: false,
        }
    }

    /// The guest's arguments.
    pub fn args(mut self, args: &'static [&'static str]) -> Self {
        self.args = args;
        self
    }

    /// Options of sockstrace.
    pub fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// With a trace of every call.
    pub fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// The i386 guest.
    pub fn narrow(mut self) -> Self {
        self.narrow = true;
        self
    }

    /// As this user.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// It also leaks: 23 instead of 0, and nothing arrives when blocked.
    pub fn leaks(mut self) -> Self {
        self.leaks = Leaks::Yes;
        self
    }

    /// It leaks or not, as chance has it.
    pub fn leaks_perhaps(mut self) -> Self {
        self.leaks = Leaks::Perhaps;
        self
    }

    /// Only in block mode, and not compared with the native run: its point is that nothing arrives.
    pub fn only_blocked(mut self) -> Self {
        self.blocked_only = true;
        self.leaks = Leaks::Perhaps;
        self
    }

    /// What the kernel refuses with another errno may be refused with EPERM, and counted as a leak: what
    /// can't be judged is refused.
    pub fn other_refusal(mut self) -> Self {
        self.other_refusal = true;
        self.leaks = Leaks::Perhaps;
        self
    }

    /// Standard output holds this.
    pub fn prints(mut self, text: &'static str) -> Self {
        self.prints = Some(text);
        self
    }

    fn run(&self, backend: Option<&str>, action: &str) -> (Outcome, Truth) {
        let mut stage = Stage::new();
        stage.serve();
        let programs = programs();
        let program =
            if self.narrow { programs.hostile32.clone().expect("cc -m32") } else { programs.hostile.clone() };
        let mut words = vec![program, self.name.into()];
        words.extend(self.args.iter().map(Into::into));
        let mut run = Run::maybe(backend, &stage.dir).on_leak(action).allow_stage().args(self.options);
        if self.traced {
            run = run.args(["--stack=always", "--trace=all"]);
        }
        if let Some(user) = self.user {
            run = run.user(user);
        }
        let outcome = run.program(words).deadline(Duration::from_secs(60)).run();
        let truth = stage.truth();
        (outcome, truth)
    }

    fn check(&self, backend: &str, action: &str) -> Result<(), String> {
        let (outcome, truth) = self.run(Some(backend), action);
        let mut wrong = outcome.complaints();
        if action == "block" && self.leaks != Leaks::No && !self.other_refusal && !truth.foreign().is_empty() {
            wrong.push(format!("LEAK: {truth:?}"));
        }
        let leaks = outcome.leaks().count();
        let fits = match self.leaks {
            Leaks::No => leaks == 0 && outcome.status == Status::Exited(0),
            Leaks::Yes => leaks > 0 && outcome.status == Status::Exited(23),
            Leaks::Perhaps => matches!(outcome.status, Status::Exited(0 | 1 | 23)),
        };
        if !fits {
            wrong.push(format!("{leaks} leaks, {:?}", outcome.status));
        }
        if outcome.summary.is_none() {
            wrong.push("no summary".into());
        }
        if let Some(text) = self.prints
            && !outcome.stdout.contains(text)
        {
            wrong.push(format!("does not print {text:?}"));
        }
        if !self.blocked_only {
            let (native, _) = self.run(None, action);
            if native.status != Status::Exited(0) {
                wrong.push(format!("natively {:?} {:?}", native.status, native.stderr));
            }
            wrong.extend(differences(&native.stdout, &outcome.stdout, self.other_refusal));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n  {outcome:?}", wrong.join("\n  "))) }
    }
}

/// Lines that differ, the first few; with `other_refusal`, one error in the place of another EPERM is none.
fn differences(native: &str, traced: &str, other_refusal: bool) -> Option<String> {
    let refused = |one: &str, other: &str| one.contains(" -> E") && other.ends_with(" -> EPERM");
    let (native, traced): (Vec<&str>, Vec<&str>) = (native.lines().collect(), traced.lines().collect());
    let pairs: Vec<String> = native
        .iter()
        .zip(&traced)
        .filter(|(one, other)| one != other && !(other_refusal && refused(one, other)))
        .map(|(one, other)| format!("natively `{one}`, traced `{other}`"))
        .collect();
    if native.len() != traced.len() {
        return Some(format!("{} lines natively, {} traced; {pairs:?}", native.len(), traced.len()));
    }
    let shown = &pairs[..pairs.len().min(12)];
    (!pairs.is_empty()).then(|| format!("{} lines differ: {}", pairs.len(), shown.join("; ")))
}

/// Runs the cases with each backend, in log and in block.
pub fn run_cases(cases: &[Case]) {
    let mut all = Vec::new();
    for case in cases {
        if case.narrow && programs().hostile32.is_none() {
            continue;
        }
        for backend in BACKENDS {
            for action in ["log", "block"] {
                if action == "block" || !case.blocked_only {
                    all.push((case, backend, action));
                }
            }
        }
    }
    run_all(
        &all,
        |(case, backend, action)| {
            let width = if case.narrow { " i386" } else { "" };
            let traced = if case.traced { " traced" } else { "" };
            format!("{}{width}{traced} {backend} {action} {:?}", case.name, case.options)
        },
        // Two runs of a busy machine may differ by themselves (ports in use, timing): only what differs
        // every time is sockstrace's doing.
        |(case, backend, action)| case.check(backend, action).or_else(|_| case.check(backend, action)),
    );
}
