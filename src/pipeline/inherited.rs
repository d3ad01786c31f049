//! What PROGRAM inherits that can send without a call that is judged.

use super::Pipeline;
use super::hooked::UNSEEN;
use crate::action::perform::sys;
use crate::config::OnLeak;
use crate::event::{self, Action, Body, Call, Event, Judgement, Socket};
use crate::operation::interest;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType, UnixAddress};
use crate::policy::{Class, Verdict};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;

impl Pipeline {
    /// Judges those of our own descriptors that PROGRAM is to inherit, and returns those that it must not get.
    /// Listening and unconnected sockets are judged when they are used, but for those that are leaks as such.
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

    /// Whether it is a connection to a proxy, though handshakes are judged.
    fn escapes_inspection(&self, peer: &Address, kind: &SocketKind) -> bool {
        let leads_to_proxy = match peer {
            Address::Internet(address) => self.config.policy.is_proxy(*address),
            Address::Unix(UnixAddress::Path(path)) => {
                self.config.policy.proxy_paths().any(|proxy| proxy.as_os_str() == path.as_os_str())
            }
            _ => false,
        };
        self.config.handshake.is_some() && kind.kind == SocketType::STREAM && leads_to_proxy
    }

    /// What it can do without a call that is judged; `None` where that is nothing.
    fn judge_sender(
        &self,
        fd: RawFd,
        descriptor: BorrowedFd<'_>,
        kind: Option<&SocketKind>,
        peer: Option<&Address>,
    ) -> Option<Verdict<'_>> {
        let policy = &self.config.policy;
        let Some(kind) = kind else {
            let operation = match Sender::of(fd, descriptor)? {
                Sender::Tun => Operation::AttachTun,
                Sender::IoUring => Operation::IoUring,
            };
            return Some(policy.judge(&operation, None));
        };
        let opened = policy.judge(&Operation::Open, Some(kind));
        if opened.is_leak() {
            return Some(opened);
        }
        if self.refuses_in_kernel() && !interest::is_hooked(kind) {
            // Nobody looks when it is used.
            return Some(policy.judge(&Operation::Undecidable { why: UNSEEN }, Some(kind)));
        }
        let peer = peer?;
        let verdict = policy.judge(&Operation::Inherit { peer: peer.clone() }, Some(kind));
        if verdict.is_leak() || !self.escapes_inspection(peer, kind) {
            return Some(verdict);
        }
        let reason = "connected to a proxy before its handshake could be judged".into();
        Some(Verdict { leak: Some(Class::Proxy), reason, rule: None })
    }

    /// Whether the descriptor is to be severed.
    fn judge_one(&self, fd: RawFd, socket: BorrowedFd<'_>) -> bool {
        let (kind, peer) = (sys::kind(socket).ok(), sys::peer_name(socket).map(|peer| peer.address()));
        let foreign = self.isolation.as_ref().and_then(|_| bypasses_namespace(fd, socket, kind.as_ref()));
        let verdict = match foreign {
            Some(why) => Some(Verdict { leak: Some(Class::Outbound), reason: why.into(), rule: None }),
            None => self.judge_sender(fd, socket, kind.as_ref(), peer.as_ref().ok()),
        };
        let Some(verdict) = verdict else { return false };
        let address = peer.as_ref().ok();
        self.judged.fetch_add(1, Ordering::SeqCst);
        let leaks = verdict.is_leak();
        if leaks {
            self.leaks.fetch_add(1, Ordering::SeqCst);
        }
        let severs = leaks && (self.config.on_leak != OnLeak::Log || self.isolation.is_some());
        if leaks || self.traces_all() {
            let own = Pid::this();
            let call = Call {
                who: self.who_is(own),
                syscall: "execve",
                abi: sockstrace_backend::arch::ABIS.first().map_or("", |abi| abi.name()),
                via: None,
                fd: Some(fd),
                socket: kind.as_ref().map(Socket::from),
                address: address.and_then(event::address),
                returned: None,
                errno: None,
                verdict: if leaks { Judgement::Leak } else { Judgement::Allowed },
                class: verdict.leak,
                action: match self.config.on_leak {
                    _ if !leaks => Action::Continue,
                    OnLeak::Log if severs => Action::Block,
                    // What is connected already stays so, or is taken away.
                    OnLeak::Redirect => Action::Block,
                    on_leak => on_leak.action(),
                },
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

/// Why the descriptor would get PROGRAM out of its network namespace, whoever its peer is: it belongs to the
/// one outside. The standard streams may be UNIX sockets (a journal, another program's pipe).
fn bypasses_namespace(fd: RawFd, descriptor: BorrowedFd<'_>, kind: Option<&SocketKind>) -> Option<&'static str> {
    match kind.map(|kind| kind.family) {
        Some(Family::UNIX) if fd > 2 && sys::peer_name(descriptor).is_err() && !sys::is_listening(descriptor) => {
            Some("an unconnected UNIX socket, whose abstract names are those outside of the namespace")
        }
        Some(Family::UNIX) => None,
        Some(_) => Some("a socket that belongs to the network outside of the namespace"),
        None => match Sender::of(fd, descriptor)? {
            Sender::Tun => Some("a TUN/TAP interface outside of the namespace"),
            Sender::IoUring => Some("an io_uring, which may hold sockets from outside of the namespace"),
        },
    }
}

/// What is no socket, but sends.
enum Sender {
    /// A TUN/TAP interface, or the device that makes one.
    Tun,
    /// An io_uring.
    IoUring,
}

impl Sender {
    fn of(fd: RawFd, descriptor: BorrowedFd<'_>) -> Option<Self> {
        const TUN: (u64, u64) = (10, 200); // Documentation/admin-guide/devices.txt
        let stat = nix::sys::stat::fstat(descriptor).ok()?;
        let device = (nix::sys::stat::major(stat.st_rdev), nix::sys::stat::minor(stat.st_rdev));
        if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && device == TUN {
            return Some(Self::Tun);
        }
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        (link.as_os_str() == "anon_inode:[io_uring]").then_some(Self::IoUring)
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
