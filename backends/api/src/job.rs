//! Job control: sockstrace stands between a shell and PROGRAM, and must not be felt there.
//!
//! Both are in one process group, so that what the terminal sends (Ctrl-C, Ctrl-\, Ctrl-Z, a hang-up, the
//! stop of a background read) reaches PROGRAM by itself. Of these signals sockstrace takes no notice while
//! PROGRAM runs. What somebody sends to sockstrace alone (`kill`, a service manager) is meant for PROGRAM
//! and is handed on. Where a terminal stop has stopped PROGRAM, sockstrace stops itself, because it is
//! sockstrace whose stop the shell waits for; SIGCONT goes to the group and continues both.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::signals::bit;

/// The signals that are PROGRAM's business while it runs.
const SUPERVISED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The pidfd of PROGRAM, for the handler; −1 while there is none.
static PROGRAM: AtomicI32 = AtomicI32::new(-1);

/// Signals that are to be handed on, as bits: they wait here until there is a PROGRAM.
static EARLY: AtomicU64 = AtomicU64::new(0);

/// Hands a signal on that was sent to this process. Async-signal-safe: system calls and atomics.
extern "C" fn hand_on(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO; both fields are set for
    // every signal, and __errno_location is the calling thread's own.
    let (code, errno) = unsafe { ((*info).si_code, *libc::__errno_location()) };
    // Positive: the kernel's own doing, that is the terminal's, and then PROGRAM got it too.
    if code <= 0 {
        EARLY.fetch_or(bit(signal), Ordering::SeqCst);
        let pidfd = PROGRAM.load(Ordering::SeqCst);
        if pidfd >= 0 {
            send_early(pidfd);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Sends on what is noted in [`EARLY`], each signal once.
fn send_early(pidfd: i32) {
    let early = EARLY.swap(0, Ordering::SeqCst);
    for signal in SUPERVISED.map(|signal| signal as libc::c_int) {
        if early & bit(signal) != 0 {
            // ESRCH: PROGRAM has just ended, and whoever sent the signal has what he wanted.
            let no_info = std::ptr::null::<libc::siginfo_t>();
            // SAFETY: takes integers and a null siginfo_t, which means that of kill(2).
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, no_info, 0) };
        }
    }
}

/// The time during which signals are PROGRAM's. One at a time in a process.
#[derive(Debug)]
pub struct Supervision {
    before: Vec<(Signal, SigAction)>,
    program: Option<OwnedFd>,
}

impl Supervision {
    /// Takes the signals over; to be called before PROGRAM is started. PROGRAM's own dispositions come from
    /// [`crate::launch::Command::inherited`] and are not touched by this.
    pub fn begin() -> Result<Self, Errno> {
        let handler = SigHandler::SigAction(hand_on);
        let action = SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_SIGINFO, SigSet::empty());
        let mut supervision = Self { before: Vec::with_capacity(SUPERVISED.len()), program: None };
        for signal in SUPERVISED {
            // SAFETY: the handler is async-signal-safe.
            supervision.before.push((signal, unsafe { sigaction(signal, &action) }?));
        }
        Ok(supervision)
    }

    /// From now on signals go to `program`, a child of ours that was not reaped yet; those too that came
    /// before this call.
    pub fn forward_to(&mut self, program: Pid) -> Result<(), Errno> {
        // SAFETY: takes integers only.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, program.as_raw(), 0) })?;
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        PROGRAM.store(pidfd.as_raw_fd(), Ordering::SeqCst);
        send_early(pidfd.as_raw_fd());
        self.program = Some(pidfd);
        Ok(())
    }

    /// To be called when `signal` has stopped PROGRAM: where it is one of the terminal's (Ctrl-Z, a read or
    /// write from the background), this process stops too, and the call returns when it is continued. A
    /// plain SIGSTOP was meant for PROGRAM alone.
    pub fn stop_like_program(&self, signal: i32) {
        if matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
            // It can't fail: the signal exists and is sent to ourselves.
            let _: Result<(), Errno> = raise(Signal::SIGSTOP);
        }
    }

    /// PROGRAM has ended, but descendants of it are still judged: signals mean sockstrace again, as they did
    /// before [`Supervision::begin`], so that Ctrl-C ends the wait for them.
    pub fn program_ended(&mut self) {
        for (signal, before) in self.before.drain(..) {
            // SAFETY: what was in force before.
            let _: Result<SigAction, Errno> = unsafe { sigaction(signal, &before) };
        }
        PROGRAM.store(-1, Ordering::SeqCst);
        self.program = None;
        // What came before there was a PROGRAM, and found none: it is ours.
        let early = EARLY.swap(0, Ordering::SeqCst);
        for signal in SUPERVISED {
            if early & bit(signal as i32) != 0 {
                let _: Result<(), Errno> = raise(signal);
            }
        }
    }
}

impl Drop for Supervision {
    fn drop(&mut self) {
        self.program_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    #[test]
    fn signals_sent_to_us_reach_the_program_and_the_dispositions_come_back() {
        let mut supervision = Supervision::begin().unwrap();
        // Early: kept until there is a program.
        raise(Signal::SIGTERM).unwrap();
        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg("100").process_group(0).spawn().unwrap();
        supervision.forward_to(Pid::from_raw(child.id() as i32)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        // Gone: nobody to tell, and we live on.
        raise(Signal::SIGHUP).unwrap();
        supervision.stop_like_program(libc::SIGSTOP);
        drop(supervision);
        // SAFETY: reads the disposition back and sets the same.
        let now = unsafe {
            sigaction(Signal::SIGTERM, &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty()))
        };
        assert!(matches!(now.unwrap().handler(), SigHandler::SigDfl));
    }
}
