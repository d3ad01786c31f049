//! Payload capture (`--capture`): shows calls to the recording before they are judged and when they end.

use super::Pipeline;
use crate::capture::Recording;
use sockstrace_backend::captured::Wanted;
use sockstrace_backend::filter::socketcall_number;
use sockstrace_backend::{InterceptedCall, Outcome, Patience, Reply, Syscall, Tracee, Trap};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// A recording, and which of the calls that it sees are to be judged, too.
pub(super) struct Capturing {
    pub(super) recording: Recording,
    /// The backend captures by itself: the recording sees no calls.
    pub(super) by_backend: AtomicBool,
    judged: Vec<Trap>,
    syscalls: HashSet<Syscall>,
}

impl Capturing {
    pub(super) fn new(recording: Recording, judged: Vec<Trap>) -> Self {
        let syscalls = judged.iter().map(|trap| trap.syscall).collect();
        Self { recording, by_backend: AtomicBool::new(false), judged, syscalls }
    }

    /// Whether the call would have been stopped at without a capture.
    fn judges(&self, call: &InterceptedCall) -> bool {
        if call.syscall == Syscall::Socketcall {
            let number = Some(call.int(0));
            return self.judged.iter().any(|trap| socketcall_number(trap.syscall) == number);
        }
        self.syscalls.contains(&call.syscall)
            && self.judged.iter().any(|trap| trap.matches(call.syscall, &call.args))
    }
}

impl Pipeline {
    /// What is captured goes to `recording`; `judged` are the traps without it. To be called before PROGRAM
    /// starts.
    pub fn capture(&mut self, recording: Recording, judged: Vec<Trap>) {
        self.capturing = Some(Capturing::new(recording, judged));
    }

    /// Whether anything is captured.
    #[must_use]
    pub fn captures(&self) -> bool {
        self.capturing.is_some()
    }

    /// What the backend is to capture by itself, where it does.
    pub(super) fn wanted_of_backend(&self) -> Option<Wanted> {
        let capturing = self.capturing.as_ref()?;
        capturing.by_backend.load(Ordering::SeqCst).then(|| capturing.recording.wanted())
    }

    pub(super) fn recording(&self) -> Option<&Recording> {
        self.capturing.as_ref().map(|capturing| &capturing.recording)
    }

    /// Judges a call, and shows it to the recording.
    pub(super) fn handle_captured(
        &self,
        capturing: &Capturing,
        call: &InterceptedCall,
        tracee: &dyn Tracee,
        patience: Patience,
    ) -> Outcome {
        if capturing.by_backend.load(Ordering::SeqCst) {
            return self.judge(call, tracee, patience);
        }
        let recording = &capturing.recording;
        if !recording.enters(call, tracee, patience) {
            return Outcome::NeedsPatience;
        }
        if !capturing.judges(call) {
            return Outcome::Reply(Reply::Continue);
        }
        let outcome = self.judge(call, tracee, patience);
        let given = match &outcome {
            Outcome::NeedsPatience => None,
            Outcome::Reply(reply) | Outcome::Look(reply, _) => match reply {
                Reply::Continue => return outcome,
                Reply::Return(value) => Some(*value),
                Reply::Fail(errno) => Some(-i64::from(*errno as i32)),
                Reply::Restart | Reply::OpenSocket { .. } => None,
            },
        };
        match given {
            // It is done already: what can't be read at once isn't there.
            Some(value) => {
                recording.leaves(call, value, tracee, Patience::MayBlock);
            }
            None => recording.forget(call),
        }
        outcome
    }
}
