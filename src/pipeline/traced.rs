//! Stacks: which calls get one, and calls that come again because theirs was taken.

use super::{Pipeline, Scene, Subject, address};
use crate::action::end;
use crate::config::{Format, Stack};
use crate::event::{self, Action, Socket};
use crate::operation::Operation;
use crate::policy::{Class, Verdict};
use crate::stacks::{Awaited, Promise, promise};
use nix::unistd::Pid;
use sockstrace_backend::{Halted, Look, Outcome, Reply, Tracee};
use std::cell::RefCell;
use std::sync::atomic::Ordering;

/// Calls that may come again are remembered so long; a program can leave many from its signal handlers.
const LET_GO: usize = 4096;

/// What is known of a call's stack while it is judged.
#[derive(Default)]
pub(super) struct Traced(RefCell<State>);

#[derive(Default)]
struct State {
    /// The stack is wanted.
    promise: Option<Promise>,
    awaited: Option<Awaited>,
    /// What is to be done when it has been taken.
    end: Option<Action>,
    /// What was recorded of this call.
    recorded: Recorded,
    /// The call comes again; what was recorded of it the first time, and isn't met yet.
    before: Option<Before>,
}

/// A call that was let go and recorded.
#[derive(Clone)]
pub(super) struct Before {
    awaited: Awaited,
    recorded: Recorded,
}

/// What was recorded of a call.
#[derive(Clone, Default)]
struct Recorded {
    written: Vec<Fingerprint>,
    /// Judgements that were only counted.
    counted: u64,
}

/// What makes two judgements one, if the call is the same.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    name: &'static str,
    fd: Option<i32>,
    socket: Option<Socket>,
    address: Option<String>,
    class: Option<Class>,
    leak: bool,
}

impl Pipeline {
    /// Whether anybody wants to see stacks.
    pub(super) fn shows_stacks(&self) -> bool {
        self.config.stack != Stack::Never && self.config.format != Format::Sockwho
    }

    /// `--stack`
    #[must_use]
    pub fn stack(&self) -> Stack {
        self.config.stack
    }

    /// For a call that is about to be judged.
    pub(super) fn traced(&self, tracee: &dyn Tracee) -> Traced {
        let before = tracee.repeats().and_then(|id| self.seen().let_go.get(&id).cloned());
        Traced(RefCell::new(State { before, ..State::default() }))
    }
}

impl Scene<'_> {
    pub(super) fn fingerprint(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
    ) -> Fingerprint {
        Fingerprint {
            name: self.name,
            fd: subject.fd,
            socket: subject.socket.map(Socket::from),
            address: address(operation).and_then(event::address),
            class: verdict.leak,
            leak: verdict.is_leak(),
        }
    }

    /// Whether what is written of this call now must be known again later: it came before, or may come again.
    pub(super) fn may_meet_again(&self, leaks: bool) -> bool {
        self.traced.0.borrow().before.is_some() || self.wants_stack(leaks)
    }

    /// Whether the same was recorded when the call came the first time. What isn't `written` is only counted.
    pub(super) fn was_recorded(&self, written: bool, known: Option<&Fingerprint>) -> bool {
        let mut state = self.traced.0.borrow_mut();
        if let Some(before) = &mut state.before {
            let same = |known| before.recorded.written.iter().position(|other| other == known);
            if let Some(index) = known.and_then(same) {
                before.recorded.written.swap_remove(index);
                return true;
            }
            if !written && before.recorded.counted > 0 {
                before.recorded.counted = before.recorded.counted.saturating_sub(1);
                return true;
            }
        }
        if !written {
            state.recorded.counted = state.recorded.counted.saturating_add(1);
        }
        false
    }

    /// Notes what is recorded now.
    pub(super) fn note(&self, known: Fingerprint) {
        self.traced.0.borrow_mut().recorded.written.push(known);
    }

    fn wants_stack(&self, leaks: bool) -> bool {
        let pipeline = self.pipeline;
        pipeline.looks.load(Ordering::SeqCst) && (leaks || pipeline.config.stack == Stack::Always)
    }

    /// The stack that an event will get, where it gets one.
    pub(super) fn awaits_stack(&self, leaks: bool) -> Option<Awaited> {
        if !self.wants_stack(leaks) {
            return None;
        }
        let mut state = self.traced.0.borrow_mut();
        if let Some(before) = &state.before {
            // Another judgement of the same call, at the same place.
            return Some(before.awaited.clone());
        }
        if state.awaited.is_none() {
            let (promise, awaited) = promise(&self.pipeline.stacks);
            (state.promise, state.awaited) = (Some(promise), Some(awaited));
        }
        state.awaited.clone()
    }

    /// Ends what leaks: at once, or as soon as its stack has been taken.
    pub(super) fn end(&self, action: Action) {
        let mut state = self.traced.0.borrow_mut();
        if state.promise.is_some() {
            state.end = Some(action);
        } else {
            carry_out(action, self.tracee.pid(), self.tracee.tid());
        }
    }

    /// Has the thread looked at, where its stack is wanted.
    pub(super) fn look_at(self, outcome: Outcome) -> Outcome {
        let Outcome::Reply(reply) = outcome else { return outcome };
        if reply == Reply::Restart {
            // It comes again.
            return Outcome::Reply(reply);
        }
        if let Some(id) = self.tracee.repeats() {
            self.pipeline.seen().let_go.remove(&id);
        }
        let State { promise: Some(promise), awaited: Some(awaited), end, recorded, .. } = self.traced.0.take()
        else {
            return Outcome::Reply(reply);
        };
        if reply == Reply::Continue && self.pipeline.repeats.load(Ordering::SeqCst) {
            let mut seen = self.pipeline.seen();
            seen.let_go.insert(self.call.id, Before { awaited, recorded });
            if seen.let_go.len() > LET_GO {
                seen.let_go.pop_first();
            }
        }
        let (pid, tid) = (self.tracee.pid(), self.tracee.tid());
        let looker = Looker { promise: Some(promise), end, pid, tid };
        Outcome::Look(reply, Look::new(move |halted| looker.look(halted)))
    }
}

/// Takes the stack, then does what is to be done to the thread; the latter in any case.
struct Looker {
    promise: Option<Promise>,
    end: Option<Action>,
    pid: Pid,
    tid: Pid,
}

impl Looker {
    fn look(mut self, halted: &Halted) {
        if let Some(promise) = self.promise.take() {
            promise.keep(halted);
        }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        if let Some(action) = self.end.take() {
            carry_out(action, self.pid, self.tid);
        }
    }
}

pub(super) fn carry_out(action: Action, pid: Pid, tid: Pid) {
    match action {
        Action::Kill => end::kill_process(pid),
        Action::KillTree => end::kill_tree(),
        Action::Core => end::abort_with_core(pid, tid),
        Action::Continue | Action::Block | Action::Redirect => {}
    }
}
