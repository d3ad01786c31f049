//! Sockets that PROGRAM inherits: connected before anything was judged.

use super::Pipeline;
use crate::action::perform::sys;
use crate::config::OnLeak;
use crate::event::{self, Action, Body, Call, Event, Judgement, Socket};
use crate::operation::Operation;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;

impl Pipeline {
    /// Judges the connected sockets among our own descriptors that PROGRAM is to inherit, and returns those
    /// that it must not get. Listening and unconnected ones are judged when they are used.
    #[must_use]
    pub fn judge_inherited(&self) -> Vec<RawFd> {
        let mut severed = Vec::new();
        for fd in open_descriptors() {
            // SAFETY: looked at only; nobody else closes descriptors of ours at this time, and a number that
            // is closed already gives EBADF.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            if is_inherited(borrowed) && self.judge_one(fd, borrowed) {
                severed.push(fd);
            }
        }
        severed
    }

    /// Whether the descriptor is to be severed.
    fn judge_one(&self, fd: RawFd, socket: BorrowedFd<'_>) -> bool {
        let (Ok(kind), Ok(peer)) = (sys::kind(socket), sys::peer_name(socket)) else { return false };
        let operation = Operation::Inherit { peer: peer.address() };
        let verdict = self.config.policy.judge(&operation, Some(&kind));
        self.judged.fetch_add(1, Ordering::SeqCst);
        let leaks = verdict.is_leak();
        if leaks {
            self.leaks.fetch_add(1, Ordering::SeqCst);
        }
        let severs = leaks && self.config.on_leak != OnLeak::Log;
        if leaks || self.traces_all() {
            let own = Pid::this();
            let call = Call {
                who: self.who(own, own),
                syscall: "execve",
                abi: sockstrace_backend::arch::ABIS.first().map_or("", |abi| abi.name()),
                fd: Some(fd),
                socket: Some(Socket::from(&kind)),
                address: event::address(&peer.address()),
                returned: None,
                errno: None,
                verdict: if leaks { Judgement::Leak } else { Judgement::Allowed },
                class: verdict.leak,
                action: if leaks { self.config.on_leak.action() } else { Action::Continue },
                reason: verdict.reason.clone(),
                rule: verdict.rule.map(ToOwned::to_owned),
                // Nothing of PROGRAM runs yet.
                stack: None,
            };
            self.recorder.write(Event::now(Body::Syscall(call)).into());
        }
        severs
    }
}

fn open_descriptors() -> Vec<RawFd> {
    let Ok(directory) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_inherited(fd: BorrowedFd<'_>) -> bool {
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
    flags.is_ok_and(|flags| !flags.contains(FdFlag::FD_CLOEXEC))
}
