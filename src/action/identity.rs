//! Acting with a tracee's credentials.
//!
//! A privileged supervisor must not lend its rights to an unprivileged tracee: what is performed for it
//! on the file system, or shows credentials to a peer, is done with the tracee's effective ids.

use nix::errno::Errno;
use nix::unistd::{Pid, getegid, geteuid};
use sockstrace_backend::Tracee;
use sockstrace_backend::proc::Status;
use std::fs;

const KEEP: libc::c_long = -1;

/// Runs `act` with the tracee's effective user and groups, in this thread alone.
///
/// # Errors
/// EPERM where we may not become the tracee; what `act` gives.
pub fn as_tracee<T>(tracee: &dyn Tracee, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    as_thread(tracee.tid(), act)
}

/// [`as_tracee`], by thread id.
pub fn as_thread<T>(tid: Pid, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let status = Status::of(tid)?;
    let (uid, gid) = (status.uid[1], status.gid[1]);
    let (own_uid, own_gid) = (geteuid().as_raw(), getegid().as_raw());
    if own_uid != 0 || (uid == 0 && gid == own_gid) {
        // Unprivileged: whatever differs is beyond us, and the kernel judges by what we are.
        return if uid == own_uid { act() } else { Err(Errno::EPERM) };
    }
    let (groups, own_groups) = (groups(tid), groups(Pid::from_raw(0)));
    // The raw calls change this thread alone; the C library's wrappers would change all.
    become_ids(&groups, gid, uid).map_err(|_| Errno::EPERM)?;
    let result = act();
    if become_user(own_uid).and_then(|()| become_groups(&own_groups, own_gid)).is_err() {
        // A supervisor that lost its rights can't judge: fail closed.
        std::process::abort();
    }
    result
}

/// As [`as_tracee`], and without the capabilities that the tracee lacks, as root may: having dropped them, or in a user
/// namespace of its own (whose network namespaces are its owner's too).
///
/// # Errors
/// As [`as_tracee`].
pub fn with_rights_of<T>(tracee: &dyn Tracee, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let status = Status::of(tracee.tid())?;
    if status.uid[1] != 0 || !geteuid().is_root() {
        return as_tracee(tracee, act);
    }
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let theirs = namespace(&tracee.tid().to_string());
    let is_same = theirs.is_some() && theirs == namespace("self");
    let rights = if is_same { status.capabilities } else { 0 };
    let own = Capabilities::of_this_thread()?;
    let lent = [own.effective[0] & rights as u32, own.effective[1] & (rights >> 32) as u32];
    if lent == own.effective {
        return as_tracee(tracee, act);
    }
    Capabilities { effective: lent, ..own }.apply()?;
    let result = act();
    if own.apply().is_err() {
        // As above.
        std::process::abort();
    }
    result
}

/// Those of a thread: capget(2).
#[derive(Clone, Copy)]
struct Capabilities {
    effective: [u32; 2],
    permitted: [u32; 2],
    inheritable: [u32; 2],
}

impl Capabilities {
    /// `_LINUX_CAPABILITY_VERSION_3` of <linux/capability.h>, and this thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];

    fn of_this_thread() -> Result<Self, Errno> {
        let (mut header, mut sets) = (Self::HEADER, [[0_u32; 3]; 2]);
        // SAFETY: a header and two sets of our own.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) })?;
        let [low, high] = sets;
        let each = |index: usize| [low, high].map(|set: [u32; 3]| set.get(index).copied().unwrap_or(0));
        Ok(Self { effective: each(0), permitted: each(1), inheritable: each(2) })
    }

    fn apply(self) -> Result<(), Errno> {
        let mut header = Self::HEADER;
        let ([e0, e1], [p0, p1], [i0, i1]) = (self.effective, self.permitted, self.inheritable);
        let sets = [[e0, p0, i0], [e1, p1, i1]];
        // SAFETY: a header and two sets of our own; of this thread alone.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets) }).map(drop)
    }
}

/// Whether the tracee holds CAP_NET_BIND_SERVICE (capabilities(7)).
pub fn may_bind_any_port(tracee: &dyn Tracee) -> bool {
    const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
    Status::of(tracee.tid()).is_ok_and(|status| status.capabilities & CAP_NET_BIND_SERVICE != 0)
}

fn become_ids(groups: &[u32], gid: u32, uid: u32) -> Result<(), Errno> {
    become_groups(groups, gid)?;
    become_user(uid)
}

fn become_groups(groups: &[u32], gid: u32) -> Result<(), Errno> {
    // SAFETY: a list of our own and its length.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, KEEP, gid, KEEP) }).map(drop)
}

fn become_user(uid: u32) -> Result<(), Errno> {
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, KEEP, uid, KEEP) }).map(drop)
}

/// The supplementary groups of a thread; of this one for 0.
fn groups(tid: Pid) -> Vec<u32> {
    let path = if tid.as_raw() == 0 { "/proc/thread-self/status".into() } else { format!("/proc/{tid}/status") };
    let status = fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_taken_and_given_back() {
        let own = Capabilities::of_this_thread().unwrap();
        Capabilities { effective: [0; 2], ..own }.apply().unwrap();
        assert_eq!(Capabilities::of_this_thread().unwrap().effective, [0; 2]);
        own.apply().unwrap();
        let again = Capabilities::of_this_thread().unwrap();
        assert_eq!((again.effective, again.permitted), (own.effective, own.permitted));
    }
}
