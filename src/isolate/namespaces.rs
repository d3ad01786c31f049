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
use std::ffi::CString;
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
    /// Makes a user namespace in which every id is what it is here, as far as we may map it, one more in it, and in
    /// that a network namespace with nothing in it.
    ///
    /// # Errors
    /// Where the kernel or this user can't: names what to look at.
    pub fn new(covered: Vec<CString>) -> Result<Self, BackendError> {
        let making = || BackendError::doing("making namespaces for --isolate");
        let mapping = || BackendError::doing("mapping user ids into the user namespace of --isolate");
        let maps = Maps::of_ours().map_err(mapping())?;
        // SAFETY: the child has made them in the table that it shares with us, for us to own.
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };

        let mut child = Child::start(found_holder).map_err(making())?;
        let [errno, holder, ..] = child.report().map_err(refused)?;
        if errno != 0 {
            return Err(refused(Errno::from_raw(errno)));
        }
        let holder = own(holder);
        maps.write(child.pid).map_err(mapping())?;
        drop(child);

        let inside = holder.as_raw_fd();
        let mut child = Child::start(move || found(inside)).map_err(making())?;
        let [errno, user, network, control, netlink, ..] = child.report().map_err(refused)?;
        if errno != 0 {
            return Err(refused(Errno::from_raw(errno)));
        }
        let namespaces = Namespaces { holder, covered, user: own(user), network: own(network) };
        let founded = Self { namespaces: Arc::new(namespaces), control: own(control), netlink: own(netlink) };
        // Only who is in its parent may map ids into a namespace.
        let pid = child.pid;
        let write = move || {
            enter(inside, libc::CLONE_NEWUSER)?;
            maps.write(pid).map(|()| [0; REPORTED])
        };
        let [errno, ..] = Child::start(write).and_then(|mut writer| writer.report()).map_err(mapping())?;
        if errno != 0 {
            return Err(mapping()(Errno::from_raw(errno)));
        }
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

fn enter(namespace: RawFd, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::setns(namespace, kind) }).map(drop)
}

/// In the first child.
fn found_holder() -> Result<Report, Errno> {
    let mut report = [-1; REPORTED];
    // SAFETY: integers and a constant path.
    let user = unsafe {
        Errno::result(libc::unshare(libc::CLONE_NEWUSER))?;
        Errno::result(libc::open(c"/proc/self/ns/user".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?
    };
    report.iter_mut().zip([0, user]).for_each(|(to, from)| *to = from);
    Ok(report)
}

/// In the second child.
fn found(holder: RawFd) -> Result<Report, Errno> {
    let mut report = [-1; REPORTED];
    enter(holder, libc::CLONE_NEWUSER)?;
    // SAFETY: integers and constant paths.
    let fds = unsafe {
        Errno::result(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET))?;
        disable_mptcp();
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

/// Has the kernel answer as one without multipath TCP, so that programs do with TCP: the sockets of the former
/// can't be held until a connection is made outside. Where it can't be written (no MPTCP, /proc/sys read-only)
/// they are refused one by one.
fn disable_mptcp() {
    // SAFETY: constant strings; the descriptor was made here.
    unsafe {
        let fd = libc::open(c"/proc/sys/net/mptcp/enabled".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// The ids that a user namespace is to have, under the same numbers as here: all of ours where we may
/// (`CAP_SETUID`, `CAP_SETGID`), else the own ones alone: `user_namespaces(7)`.
struct Maps {
    uids: String,
    gids: String,
    /// Groups can't be changed inside.
    denies_groups: bool,
}

impl Maps {
    fn of_ours() -> Result<Self, Errno> {
        const CAP_SETGID: u64 = 1 << 6;
        const CAP_SETUID: u64 = 1 << 7;
        let all = CAP_SETUID | CAP_SETGID;
        if Status::of(Pid::this())?.capabilities & all == all {
            let (uids, gids) = (identity("/proc/self/uid_map")?, identity("/proc/self/gid_map")?);
            return Ok(Self { uids, gids, denies_groups: false });
        }
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Ok(Self { uids: format!("{uid} {uid} 1\n"), gids: format!("{gid} {gid} 1\n"), denies_groups: true })
    }

    /// Gives them to the user namespace of `child`. Async-signal-safe.
    fn write(&self, child: Pid) -> Result<(), Errno> {
        if self.denies_groups {
            put(child, "setgroups", "deny")?;
        }
        put(child, "uid_map", &self.uids)?;
        put(child, "gid_map", &self.gids)
    }
}

/// Writes to a file of the process, in one write, as the kernel wants it, and without allocating.
fn put(child: Pid, file: &str, content: &str) -> Result<(), Errno> {
    let mut path = [0_u8; 64];
    let mut rest = path.as_mut_slice();
    // As much as fits: more than enough, and a zero stays at the end.
    let told = std::io::Write::write_fmt(&mut rest, format_args!("/proc/{child}/{file}"));
    if told.is_err() || rest.is_empty() {
        return Err(Errno::ENAMETOOLONG);
    }
    // SAFETY: a C string, and bytes of our own with their length; the descriptor was made here.
    unsafe {
        let fd = Errno::result(libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = Errno::result(libc::write(fd, content.as_ptr().cast(), content.len()));
        libc::close(fd);
        written.map(drop)
    }
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
            enter(user, libc::CLONE_NEWUSER)?;
            enter(network, libc::CLONE_NEWNET)?;
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
