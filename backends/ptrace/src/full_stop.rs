//! Tracing without a filter: every call of every thread stops at its entry and at its exit.
//!
//! Only where no seccomp filter can be installed, as every call of the program costs two stops.
//!
//! The entry stop comes before the program's own filters, whose verdicts stand above ours. So where the
//! program has any, a call that is to be judged is first made harmless (its descriptor −1) and let through:
//! if it fails with just the errno of that, the filters have passed it, and it is judged at its exit. If it is
//! to be carried out after all, it is made again from the same place, and let pass. (Number −1, by which a call
//! is skipped otherwise, would be shown to the filters, and a sandbox that lists what it allows would refuse or
//! kill.) A process without filters is judged at the entry.

use crate::calls::minus_one;
use crate::frame::Frame;
use crate::registers::Registers;
use crate::select::Wanted;
use crate::threads::{AtExit, Harmless, Phase, Stand};
use crate::tracer::Tracer;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::proc::Status;
use sockstrace_backend::{Abi, Syscall};

/// x32 calls have this bit in their number: an interface that the filter refuses as well.
const X32: i32 = 0x4000_0000;

impl Tracer {
    /// At the entry of a call.
    pub(crate) fn on_entry(&mut self, tid: Pid, frame: Frame) {
        let Some(thread) = self.threads.get(tid) else { return };
        // Judged already, at its exit. Whatever else comes first (a handler of the program's) ends that.
        if let Some(again) = thread.again.take() {
            if again.frame == frame {
                thread.phase = again.at_exit.map_or(Phase::Running, Phase::Leaving);
                return self.resume(tid, 0);
            }
            if let Some(call) = again.at_exit.map(Phase::Leaving).as_ref().and_then(Phase::unreported) {
                self.handler.abandoned(call);
            }
        }
        if frame.abi == Abi::X86_64 && frame.number & X32 != 0 && frame.number > 0 {
            return self.refuse(tid, Errno::ENOSYS);
        }
        let Some(wanted) = self.selector.select(&frame) else { return self.resume(tid, 0) };
        self.settle(tid);
        // What an attached process asks for besides isn't refused.
        let refusable = self.attached.is_none() || matches!(wanted, Wanted::Judge(_));
        match harmless(wanted, frame.abi).filter(|_| refusable && has_filters(tid)) {
            Some(how) => self.make_harmless(tid, wanted, frame, how),
            None => self.on_wanted(tid, frame, wanted),
        }
    }

    fn make_harmless(&mut self, tid: Pid, wanted: Wanted, frame: Frame, (argument, value, error): Change) {
        let changed = Registers::load(tid).and_then(|mut registers| {
            let arguments = registers.arguments(frame.abi);
            let mut changed = arguments;
            if let Some(register) = changed.get_mut(argument) {
                *register = value;
            }
            registers.set_arguments(frame.abi, changed, false);
            registers.store()?;
            Ok(arguments)
        });
        let Some(arguments) = self.check(tid, changed) else { return };
        if let Some(thread) = self.threads.get(tid) {
            thread.phase = Phase::Leaving(AtExit::Judge(Box::new(Harmless { frame, wanted, arguments, error })));
        }
        self.resume(tid, 0);
    }

    /// At the exit of a call that was made harmless.
    pub(crate) fn on_harmless_exit(&mut self, tid: Pid, harmless: &Harmless, value: i64) {
        let passed = value == -i64::from(harmless.error as i32);
        let refused = match harmless.wanted {
            Wanted::Clone3 => Some(Errno::ENOSYS),
            Wanted::Listener => Some(Errno::EBUSY),
            Wanted::Judge(_) | Wanted::Clone => None,
        };
        let restored = Registers::load(tid).and_then(|mut registers| {
            // Judged, its result is written anew, so that its register is restored as well.
            registers.set_arguments(harmless.frame.abi, harmless.arguments, !passed || refused.is_some());
            if let Some(errno) = refused.filter(|_| passed) {
                registers.set_result(-i64::from(errno as i32));
            }
            registers.store()
        });
        if self.check(tid, restored).is_none() {
            return;
        }
        match harmless.wanted {
            Wanted::Judge(syscall) if passed => self.judge(tid, syscall, Stand::Exit(harmless.frame)),
            _ => self.resume(tid, 0),
        }
    }
}

/// Whether the thread has seccomp filters. Where that can't be known it is treated as if.
fn has_filters(tid: Pid) -> bool {
    Status::of(tid).map_or(true, |status| status.seccomp != 0)
}

/// An argument, its value by which the call does nothing, and the errno that it then gives.
type Change = (usize, u64, Errno);

fn harmless(wanted: Wanted, abi: Abi) -> Option<Change> {
    Some(match wanted {
        Wanted::Judge(Syscall::Socket) => (0, minus_one(abi), Errno::EAFNOSUPPORT),
        Wanted::Judge(Syscall::Socketcall) => (0, 0, Errno::EINVAL),
        Wanted::Judge(Syscall::IoUringSetup) => (1, 0, Errno::EFAULT),
        Wanted::Judge(_) => (0, minus_one(abi), Errno::EBADF),
        // The size of its arguments.
        Wanted::Clone3 => (1, 0, Errno::EINVAL),
        // The operation.
        Wanted::Listener => (0, minus_one(abi), Errno::EINVAL),
        // It goes on in any case.
        Wanted::Clone => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_judged_call_can_be_made_harmless() {
        for syscall in Syscall::ALL {
            let (argument, _, error) = harmless(Wanted::Judge(*syscall), Abi::I386).unwrap();
            assert!(argument < 6 && error as i32 > 0);
        }
    }
}
