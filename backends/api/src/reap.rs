//! waitid(2) as it is: nix's `WaitStatus` can't represent real-time signals.

use crate::Ended;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::mem::MaybeUninit;

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended, and was reaped.
    Ended(Pid, Ended),
    /// A signal stopped it (job control).
    Stopped(Pid, i32),
}

/// Waits until a child of the calling *thread* ends or is stopped. Orphans of the tree are children of the
/// subreaper's main thread; threads that other threads of ours trace are left to these (`__WNOTHREAD`).
///
/// # Errors
/// ECHILD where there is none; EINTR.
pub fn next_change() -> Result<Change, Errno> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: the kernel fills in a siginfo_t of our own.
    Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) })?;
    // SAFETY: zeroed, then filled in by waitid, which sets these fields for every child.
    let (code, pid, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, Pid::from_raw(info.si_pid()), info.si_status())
    };
    Ok(match code {
        libc::CLD_EXITED => Change::Ended(pid, Ended::Exited(status)),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Ended(pid, Ended::Signaled(status)),
        _ => Change::Stopped(pid, status),
    })
}
