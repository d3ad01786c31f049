//! The ptrace backend between a shell and a program: job control and signals.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use nix::pty::openpty;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, killpg, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, read, setpgid, setsid, tcsetpgrp, write};
use sockstrace_backend::proc::Status;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;
use support::{Mode, Run, isolated};

/// A job of a shell on a terminal of its own.
struct Job {
    terminal: OwnedFd,
    /// The process that runs the backend.
    tracer: Pid,
    /// The program.
    program: Pid,
    _shell_end: OwnedFd,
}

impl Job {
    /// Starts it in the foreground, in a session of its own.
    fn start(guest: &str, mode: Mode) -> Self {
        setsid().unwrap();
        let pty = openpty(None, None).unwrap();
        // SAFETY: takes integers only.
        assert_eq!(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0);
        let (ready, told) = pipe().unwrap();
        let run = Run::of(guest).mode(mode);
        // SAFETY: this process has one thread.
        let tracer = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
                // SAFETY: as above.
                unsafe { std::env::set_var("READY", told.as_raw_fd().to_string()) };
                let status = run.go().0.unwrap().shell_status();
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => child,
        };
        drop(told);
        // The parent's own: the child may not have come so far.
        let _ = setpgid(tracer, tracer);
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SIGHUP comes when the terminal is closed.
        for signal in [Signal::SIGTTOU, Signal::SIGHUP] {
            // SAFETY: no handler.
            unsafe { sigaction(signal, &ignore) }.unwrap();
        }
        tcsetpgrp(pty.slave.as_fd(), tracer).unwrap();
        let mut pid = [0; 4];
        assert_eq!(read(&ready, &mut pid).unwrap(), 4);
        let program = Pid::from_raw(i32::from_ne_bytes(pid));
        Self { terminal: pty.master, tracer, program, _shell_end: pty.slave }
    }

    fn press(&self, control: u8) {
        write(&self.terminal, &[control]).unwrap();
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.tracer, Some(WaitPidFlag::WUNTRACED)).unwrap()
    }

    fn is_running(&self) -> bool {
        waitpid(self.tracer, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG)).unwrap() == WaitStatus::StillAlive
    }
}

fn in_each_mode(test: fn(Mode)) {
    for mode in support::MODES {
        isolated(|| test(mode));
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    in_each_mode(|mode| {
        let job = Job::start("await_cont", mode);
        job.press(0x1A);
        assert_eq!(job.wait(), WaitStatus::Stopped(job.tracer, Signal::SIGSTOP));
        assert!(matches!(Status::of(job.program).unwrap().state, b't' | b'T'));
        killpg(job.tracer, Signal::SIGCONT).unwrap();
        assert_eq!(job.wait(), WaitStatus::Exited(job.tracer, 43));
    });
}

#[test]
fn a_stop_of_the_program_alone_is_its_own() {
    in_each_mode(|mode| {
        let job = Job::start("await_cont", mode);
        kill(job.program, Signal::SIGSTOP).unwrap();
        pause();
        assert!(job.is_running());
        assert!(matches!(Status::of(job.program).unwrap().state, b't' | b'T'));
        kill(job.program, Signal::SIGCONT).unwrap();
        assert_eq!(job.wait(), WaitStatus::Exited(job.tracer, 43));
    });
}

#[test]
fn ctrl_c_is_the_programs() {
    in_each_mode(|mode| {
        // It handles SIGTERM alone, so that SIGINT ends it.
        let job = Job::start("await_term", mode);
        job.press(0x03);
        assert_eq!(job.wait(), WaitStatus::Exited(job.tracer, 128 + libc::SIGINT));
    });
}

#[test]
fn signals_to_the_tracer_are_handed_on() {
    in_each_mode(|mode| {
        let job = Job::start("await_term", mode);
        kill(job.tracer, Signal::SIGTERM).unwrap();
        assert_eq!(job.wait(), WaitStatus::Exited(job.tracer, 42));
    });
}

#[test]
fn the_tracers_death_ends_the_program() {
    in_each_mode(|mode| {
        let job = Job::start("await_term", mode);
        kill(job.tracer, Signal::SIGKILL).unwrap();
        assert_eq!(job.wait(), WaitStatus::Signaled(job.tracer, Signal::SIGKILL, false));
        pause();
        assert!(Status::of(job.program).map_or(true, |status| matches!(status.state, b'Z' | b'X')));
    });
}
