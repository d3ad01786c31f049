//! `--leftover background`: PROGRAM's exit status is returned at once, and its descendants are judged on
//! behind it.
//!
//! The supervisor is a child of the process that the user started. That one waits for PROGRAM's end, which
//! the supervisor tells it through a pipe.

use crate::cli::FAILURE;
use crate::config::Config;
use crate::run;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};
use sockstrace_backend::job::Supervision;
use sockstrace_backend::reach;
use sockstrace_backend::signals::Inherited;
use std::os::fd::{AsFd, OwnedFd};

/// Runs PROGRAM in a supervisor of its own; returns when PROGRAM has ended.
pub fn run(config: Config, inherited: Inherited) -> u8 {
    let Ok((ended, tell)) = pipe2(OFlag::O_CLOEXEC) else { return FAILURE };
    let keeps_stderr = config.output.is_none();
    // SAFETY: no other thread exists yet, so that the child may do as it likes.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ended);
            let told = move |status| tell_and_let_go(&tell, status, keeps_stderr);
            let status = run::run(config, inherited, told);
            std::process::exit(i32::from(status));
        }
        Ok(ForkResult::Parent { child }) => {
            drop(tell);
            reach::leave();
            wait_for_program(child, &ended).unwrap_or(FAILURE)
        }
        Err(_) => FAILURE,
    }
}

/// Tells PROGRAM's status, and lets go of what whoever started us may wait for: the ends of our standard
/// streams. A hang-up of the terminal is no longer our business.
fn tell_and_let_go(tell: &OwnedFd, status: u8, keeps_stderr: bool) {
    // SAFETY: ignoring is no handler. It can't fail for SIGHUP.
    let _: Result<SigHandler, Errno> = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    if let Ok(null) = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
    {
        // Where one of these fails, the stream merely stays open.
        let _: Result<(), Errno> = nix::unistd::dup2_stdin(&null);
        let _: Result<(), Errno> = nix::unistd::dup2_stdout(&null);
        if !keeps_stderr {
            let _: Result<(), Errno> = nix::unistd::dup2_stderr(&null);
        }
    }
    // Whoever waited may have been killed.
    let _: Result<usize, Errno> = write(tell, &[status]);
}

fn wait_for_program(supervisor: Pid, ended: &OwnedFd) -> Result<u8, Errno> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut supervision = Supervision::begin()?;
    supervision.forward_to(supervisor)?;
    loop {
        let mut fds =
            [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let has_told = fds.first().and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        let mut status = [0];
        if has_told && read(ended, &mut status) == Ok(1) {
            return Ok(status.first().copied().unwrap_or(FAILURE));
        }
        // Only the fact counts, not who it was.
        let _: Result<_, Errno> = signals.read_signal();
        let flags = if has_told { WaitPidFlag::WUNTRACED } else { WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG };
        match waitpid(supervisor, Some(flags)) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(status as u8),
            Ok(WaitStatus::Signaled(..)) => return Ok(FAILURE),
            // It stopped itself as PROGRAM did, for the shell to see: the shell sees us.
            Ok(WaitStatus::Stopped(..)) => raise(Signal::SIGSTOP)?,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
