//! Founding the namespaces, and getting sockets that belong to them.
//!
//! Only a process of one thread may change its user namespace, and this one must stay outside: a short-lived
//! child does it. It shares our descriptor table (`CLONE_FILES`), so that what it opens in there is ours. It
//! makes only async-signal-safe calls.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read, write};
use sockstrace_backend::proc::Status;
use sockstrace_backend::{BackendError, Namespaces, signals};
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

/// How many sockets are fetched at a time: each time costs a fork.
const BATCH: usize = 16;

/// How many numbers a child reports.
const REPORTED: usize = BATCH + 1;

/// What the child tells: 0 or the errno, and descriptors.
type Report = [i32; REPORTED];

/// The namespaces, with a socket of either kind that configuring the network needs.
#[derive(Debug)]
pub struct Founded {
    /// What PROGRAM is to enter.
    pub namespaces: Arc<Namespaces>,
    /// `AF_INET`, for ioctls.
    pub control: OwnedFd,
    /// `NETLINK_ROUTE`
    pub netlink: OwnedFd,
}

impl Founded {
    /// Makes a user namespace in which every id is what it is here, as far as we may map it, and in it a
    /// network namespace with nothing in it.
    ///
    /// # Errors
    /// Where the kernel or this user can't: names what to look at.
    pub fn new() -> Result<Self, BackendError> {
        let mut child = Child::start(found).map_err(BackendError::doing("making namespaces for --isolate"))?;
        let [errno, user, network, control, netlink, ..] = child.report().map_err(refused)?;
        if errno != 0 {
            return Err(refused(Errno::from_raw(errno)));
        }
        // SAFETY: the child has made them in the table that it shares with us, for us to own.
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let namespaces = Namespaces { user: own(user), network: own(network) };
        let founded = Self { namespaces: Arc::new(namespaces), control: own(control), netlink: own(netlink) };
        map_ids(child.pid).map_err(BackendError::doing("mapping user ids into the user namespace of --isolate"))?;
        Ok(founded)
    }
}

fn refused(errno: Errno) -> BackendError {
    let what = match errno {
        Errno::EPERM | Errno::EACCES => {
            "--isolate: namespaces are forbidden here (a container's profile, \
             /proc/sys/kernel/unprivileged_userns_clone, /proc/sys/kernel/apparmor_restrict_unprivileged_userns, \
             or a chroot)"
        }
        Errno::ENOSPC | Errno::EUSERS => {
            "--isolate: no more namespaces (/proc/sys/user/max_user_namespaces, max_net_namespaces)"
        }
        Errno::EINVAL | Errno::ENOSYS => "--isolate: this kernel has no user or network namespaces",
        errno => return BackendError::Failed("making namespaces for --isolate".into(), errno),
    };
    BackendError::Failed(what.into(), errno)
}

/// In the child.
fn found() -> Result<Report, Errno> {
    let mut report = [-1; REPORTED];
    // SAFETY: integers and constant paths.
    let fds = unsafe {
        Errno::result(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET))?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        [
            Errno::result(libc::open(c"/proc/self/ns/user".as_ptr(), flags))?,
            Errno::result(libc::open(c"/proc/self/ns/net".as_ptr(), flags))?,
            Errno::result(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?,
            Errno::result(libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            ))?,
        ]
    };
    report.iter_mut().zip([0].into_iter().chain(fds)).for_each(|(to, from)| *to = from);
    Ok(report)
}

/// Gives the child's user namespace the ids that we have, under the same numbers: all of ours where we may
/// (`CAP_SETUID`, `CAP_SETGID`), else the own ones alone: `user_namespaces(7)`.
fn map_ids(child: Pid) -> Result<(), Errno> {
    const CAP_SETGID: u64 = 1 << 6;
    const CAP_SETUID: u64 = 1 << 7;
    let may_map_all = Status::of(Pid::this())?.capabilities & (CAP_SETUID | CAP_SETGID) == CAP_SETUID | CAP_SETGID;
    let put = |file: &str, content: &str| {
        // In one write, as the kernel wants it.
        fs::write(format!("/proc/{child}/{file}"), content).map_err(|error| errno_of(&error))
    };
    if may_map_all {
        put("uid_map", &identity("/proc/self/uid_map")?)?;
        return put("gid_map", &identity("/proc/self/gid_map")?);
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    put("setgroups", "deny")?;
    put("uid_map", &format!("{uid} {uid} 1\n"))?;
    put("gid_map", &format!("{gid} {gid} 1\n"))
}

/// A map in which each id that exists here has its own number.
fn identity(own: &str) -> Result<String, Errno> {
    let text = fs::read_to_string(own).map_err(|error| errno_of(&error))?;
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (first, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{first} {first} {count}\n"))
    });
    Ok(lines.collect())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Domain, type and protocol.
type Kind = (i32, i32, i32);

/// Sockets that belong to the namespaces. Whoever has one can do with it from outside what he likes: a
/// socket stays where it was born.
#[derive(Debug)]
pub struct Inside {
    namespaces: Arc<Namespaces>,
    spare: Mutex<HashMap<Kind, Vec<OwnedFd>>>,
}

impl Inside {
    /// For these namespaces.
    #[must_use]
    pub fn new(namespaces: Arc<Namespaces>) -> Self {
        Self { namespaces, spare: Mutex::default() }
    }

    /// socket(2) inside: close-on-exec, and with whatever flags `kind` has.
    ///
    /// # Errors
    /// As socket(2) and fork(2).
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        let key = (domain, kind, protocol);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let list = spare.entry(key).or_default();
        if list.is_empty() {
            list.extend(self.fetch(key)?);
        }
        list.pop().ok_or(Errno::EMFILE)
    }

    fn fetch(&self, (domain, kind, protocol): Kind) -> Result<Vec<OwnedFd>, Errno> {
        let (user, network) = (self.namespaces.user.as_raw_fd(), self.namespaces.network.as_raw_fd());
        let open = move || {
            let mut report = [-1; REPORTED];
            // SAFETY: integers only.
            unsafe {
                Errno::result(libc::setns(user, libc::CLONE_NEWUSER))?;
                Errno::result(libc::setns(network, libc::CLONE_NEWNET))?;
            }
            for (index, to) in report.iter_mut().enumerate() {
                if index == 0 {
                    *to = 0;
                    continue;
                }
                // SAFETY: integers only.
                match Errno::result(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) }) {
                    Ok(fd) => *to = fd,
                    // One is enough.
                    Err(errno) if index == 1 => return Err(errno),
                    Err(_) => break,
                }
            }
            Ok(report)
        };
        let [errno, fds @ ..] = Child::start(open)?.report()?;
        if errno != 0 {
            return Err(Errno::from_raw(errno));
        }
        // SAFETY: as in `Founded::new`.
        Ok(fds.into_iter().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
    }
}

/// A child that reports, then waits to be let go.
struct Child {
    pid: Pid,
    report: OwnedFd,
    go: Option<OwnedFd>,
    /// The child's own ends, which it has in the table that we share.
    _theirs: [OwnedFd; 2],
}

impl Child {
    /// Forks; the child runs `act`, which may make async-signal-safe calls only.
    fn start(act: impl FnOnce() -> Result<Report, Errno>) -> Result<Self, Errno> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let ((report, their_report), (their_go, go)) = (pipe()?, pipe()?);
        // A signal handler of ours must not run there.
        let before: SigSet = signals::block_all()?;
        // No signal tells of its end (exit signal 0): it isn't among PROGRAM's.
        // SAFETY: without CLONE_VM this is a fork; the child calls `act` and `_exit`.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::CLONE_FILES), 0, 0, 0, 0) };
        if pid == 0 {
            let mut numbers = act().unwrap_or_else(|errno| {
                let mut failed = [-1; REPORTED];
                failed.iter_mut().take(1).for_each(|first| *first = errno as i32);
                failed
            });
            // SAFETY: memory of our own and its size; `_exit` runs nothing of the parent's.
            unsafe {
                libc::write(their_report.as_raw_fd(), numbers.as_mut_ptr().cast(), size_of::<Report>());
                libc::read(their_go.as_raw_fd(), numbers.as_mut_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        let forked = Errno::result(pid);
        before.thread_set_mask()?;
        let pid = Pid::from_raw(forked? as i32);
        Ok(Self { pid, report, go: Some(go), _theirs: [their_report, their_go] })
    }

    fn report(&mut self) -> Result<Report, Errno> {
        let mut bytes = [0_u8; size_of::<Report>()];
        loop {
            let mut fds = [PollFd::new(self.report.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(100_u8)) {
                // Its end doesn't close the pipe, whose other end is in our table too.
                Ok(0) if has_ended(self.pid) => return Err(Errno::ECHILD),
                Ok(0) | Err(Errno::EINTR) => continue,
                other => other?,
            };
            match read(&self.report, &mut bytes) {
                Err(Errno::EINTR) => {}
                Ok(length) if length == bytes.len() => break,
                Ok(_) => return Err(Errno::EPROTO),
                Err(errno) => return Err(errno),
            }
        }
        let mut numbers = [0; REPORTED];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
            *number = bytes.first_chunk().map_or(-1, |bytes| i32::from_ne_bytes(*bytes));
        }
        Ok(numbers)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let told = self.go.take().map(|go| write(&go, b"g"));
        if !matches!(told, Some(Ok(1))) {
            // ESRCH: it is gone.
            let _: Result<(), Errno> = kill(self.pid, Signal::SIGKILL);
        }
        while waitpid(self.pid, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

fn has_ended(pid: Pid) -> bool {
    // WNOWAIT leaves it to be reaped.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    !matches!(nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}
