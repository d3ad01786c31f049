//! waitid(2) as it is: nix's `WaitStatus` can't represent real-time signals.
//!
//! The main thread reaps the children. Other threads may take hold of a child for a moment (ptrace), and the
//! kernel then shows the child's trace stops, and its end, to both: see [`borrow`].

use crate::Ended;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::mem::MaybeUninit;
use std::sync::{RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended, and was reaped.
    Ended(Pid, Ended),
    /// A signal stopped it (job control).
    Stopped(Pid, i32),
}

/// What a thread that was borrowed did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Borrowed {
    /// It stopped for its tracer: the signal, and the `PTRACE_EVENT_*` (0 for a signal that is to be
    /// delivered).
    Stopped {
        /// The signal that it stopped with.
        signal: i32,
        /// The event.
        event: i32,
    },
    /// It ended.
    Ended,
}

/// Wakes the reaper: a signal that does nothing where nobody handles it.
pub const WAKE: Signal = Signal::SIGURG;

/// How long to wait before looking again at what is in other hands.
const A_MOMENT: Duration = Duration::from_micros(50);
const A_WHILE: Duration = Duration::from_millis(1);

/// Held for reading while a thread of ours traces.
static LENT: RwLock<()> = RwLock::new(());

const ANY: i32 = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD;

struct Seen {
    code: i32,
    pid: Pid,
    status: i32,
}

/// `Ok(None)` with WNOHANG where there is no change.
fn wait(kind: libc::idtype_t, id: Pid, options: i32) -> Result<Option<Seen>, Errno> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel fills in a siginfo_t of our own.
    Errno::result(unsafe { libc::waitid(kind, id.as_raw() as libc::id_t, info.as_mut_ptr(), options) })?;
    // SAFETY: zeroed, then filled in by waitid, which sets these fields for every child.
    let (code, pid, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_pid(), info.si_status())
    };
    Ok((pid != 0).then_some(Seen { code, pid: Pid::from_raw(pid), status }))
}

/// Waits until a child of the calling *thread* ends or is stopped. Orphans of the tree are children of the
/// subreaper's main thread; threads that other threads of ours trace are left to these (`__WNOTHREAD`).
///
/// # Errors
/// ECHILD where there is none; EINTR.
pub fn next_change() -> Result<Change, Errno> {
    let all = Pid::from_raw(0);
    loop {
        // Looked at first: a child's trace stop belongs to the thread that traces it.
        let Some(Seen { code, pid, status }) = wait(libc::P_ALL, all, ANY | libc::WNOWAIT)? else { continue };
        let ended = match code {
            libc::CLD_EXITED => Ended::Exited(status),
            libc::CLD_KILLED | libc::CLD_DUMPED => Ended::Signaled(status),
            libc::CLD_TRAPPED => {
                std::thread::sleep(A_MOMENT);
                continue;
            }
            _ => {
                let _nobody_traces = match LENT.try_write() {
                    Ok(guard) => guard,
                    Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
                    Err(TryLockError::WouldBlock) => {
                        std::thread::sleep(A_MOMENT);
                        continue;
                    }
                };
                let options = libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
                match wait(libc::P_PID, pid, options) {
                    Ok(Some(seen)) => return Ok(Change::Stopped(seen.pid, seen.status)),
                    // Continued meanwhile: nothing to tell.
                    Ok(None) | Err(Errno::ECHILD) => continue,
                    Err(errno) => return Err(errno),
                }
            }
        };
        let options = libc::WEXITED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
        match wait(libc::P_PID, pid, options) {
            Ok(Some(_)) => return Ok(Change::Ended(pid, ended)),
            // Whoever traced it was faster, as it became ours only just now.
            Ok(None) | Err(Errno::ECHILD) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// To be held by a thread that traces, from before it attaches until it has let go.
pub fn borrow() -> RwLockReadGuard<'static, ()> {
    LENT.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until a thread that the calling thread traces stops or ends. Either can still be waited for
/// afterwards.
///
/// # Errors
/// ECHILD where it is gone altogether (an exec of another thread took its id).
pub fn await_borrowed(tid: Pid) -> Result<Borrowed, Errno> {
    loop {
        match wait(libc::P_PID, tid, ANY | libc::WNOWAIT) {
            Ok(Some(Seen { code: libc::CLD_TRAPPED | libc::CLD_STOPPED, status, .. })) => {
                return Ok(Borrowed::Stopped { signal: status & 0xFF, event: status >> 8 });
            }
            Ok(Some(_)) => return Ok(Borrowed::Ended),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Sees a thread off that dies while the calling thread traces it. If it is the last of a child of ours, the
/// `reaper` thread, which the kernel doesn't tell of it, is woken until it has reaped it.
pub fn bury(tid: Pid, pid: Pid, reaper: Pid) {
    let ended = libc::WEXITED | libc::__WALL | libc::__WNOTHREAD;
    loop {
        match wait(libc::P_PID, tid, ended | libc::WNOWAIT) {
            Ok(Some(_)) => break,
            Ok(None) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
    let is_ours =
        tid == pid && crate::proc::Status::of(tid).is_ok_and(|status| status.parent == std::process::id() as i32);
    if !is_ours {
        // Its parent hears of it now. ECHILD: it has been reaped.
        let _: Result<Option<Seen>, Errno> = wait(libc::P_PID, tid, ended | libc::WNOHANG);
        return;
    }
    while matches!(wait(libc::P_PID, tid, ended | libc::WNOWAIT | libc::WNOHANG), Ok(Some(_)) | Err(Errno::EINTR)) {
        // SAFETY: takes integers only.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), reaper.as_raw(), WAKE as i32) };
        std::thread::sleep(A_WHILE);
    }
}
