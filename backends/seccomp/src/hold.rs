//! Holding a thread at the exit of its call: ptrace for a moment.
//!
//! A thread that waits in a notification can be seized, but not stopped: its wait ends with its answer alone.
//! So it is seized, told to stop, and answered by the caller; then it stops on its way back to user space,
//! before any instruction of its own and with the registers of its call. All of that must come from one
//! thread of ours. The program sees nothing of it: signals and group-stops wait, or are handed on.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use sockstrace_backend::proc::Status;
use sockstrace_backend::reap::{self, Borrowed};
use std::sync::RwLockReadGuard;

/// A thread that stops as soon as its call is answered.
#[must_use]
pub struct Held {
    tid: Pid,
    reaper: Pid,
    borrowed: RwLockReadGuard<'static, ()>,
}

/// A thread that has stopped.
#[must_use]
pub struct Stopped {
    held: Held,
    /// A signal that was about to be delivered.
    signal: i32,
}

impl Held {
    /// Takes hold of a thread that waits for its answer.
    ///
    /// # Errors
    /// EPERM where somebody else traces it, or it is out of reach (not dumpable, Yama); ESRCH where it is
    /// gone. Nothing has happened then.
    pub fn take(tid: i32, reaper: Pid) -> Result<Self, Errno> {
        let tid = Pid::from_raw(tid);
        let borrowed = reap::borrow();
        ptrace::seize(tid, ptrace::Options::empty())?;
        let held = Self { tid, reaper, borrowed };
        // ESRCH: it was killed meanwhile. Nothing else can come of a thread that was just seized.
        match ptrace::interrupt(tid) {
            Ok(()) => Ok(held),
            Err(errno) => {
                held.see_off();
                Err(errno)
            }
        }
    }

    /// Waits for the stop; to be called when the call has been answered. `None` where the thread was killed.
    pub fn stop(self) -> Option<Stopped> {
        match reap::await_borrowed(self.tid) {
            // An event stop carries no signal to hand on; a signal-delivery stop does.
            Ok(Borrowed::Stopped { signal, event }) => {
                Some(Stopped { held: self, signal: if event == 0 { signal } else { 0 } })
            }
            Ok(Borrowed::Ended) => {
                self.see_off();
                None
            }
            Err(_) => None,
        }
    }

    fn see_off(self) {
        let pid = Status::of(self.tid).map_or(self.tid, |status| Pid::from_raw(status.tgid));
        // Waiting for its end may take long.
        drop(self.borrowed);
        reap::bury(self.tid, pid, self.reaper);
    }
}

impl Stopped {
    /// Its registers; `None` where it was killed meanwhile.
    pub fn registers(&self) -> Option<libc::user_regs_struct> {
        ptrace::getregs(self.held.tid).ok()
    }

    /// Lets it go on, with the signal that it was about to get.
    pub fn let_go(self) {
        let (tid, signal) = (self.held.tid.as_raw(), libc::c_long::from(self.signal));
        // SAFETY: integers only.
        let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0_usize, signal) };
        if detached == -1 {
            // ESRCH: a SIGKILL took it out of its stop, and it dies as our tracee.
            self.held.see_off();
        }
    }
}
