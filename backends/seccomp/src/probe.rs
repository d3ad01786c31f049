//! What this kernel and this user can do: for `sockstrace doctor`.

use nix::errno::Errno;
use sockstrace_backend::filter::{Filter, Interception};
use sockstrace_backend::proc::Status;
use sockstrace_backend::{Finding, Syscall, Trap};
use std::fs;

/// Looks at everything the backend needs.
pub fn findings() -> Vec<Finding> {
    vec![installable(), killable_wait(), descriptors(), lost_replies(), reach(), stacks()]
}

fn finding(what: &str, works: Option<bool>, detail: impl Into<String>) -> Finding {
    Finding { what: what.into(), works, detail: detail.into() }
}

/// Installs a filter with a listener in a child, as a run would.
fn installable() -> Finding {
    let what = "a seccomp filter with a listener";
    let tried = Filter::intercepting(&[Trap::always(Syscall::Connect)], Interception::Notify)
        .map_err(|error| error.to_string())
        .and_then(|filter| try_in_child(&filter).map_err(explain));
    match tried {
        Ok(()) => finding(what, Some(true), "installed in a trial"),
        Err(why) => finding(what, Some(false), why),
    }
}

fn explain(errno: Errno) -> String {
    match errno {
        Errno::EBUSY => "another supervisor listens already (a container runtime): use --backend ptrace".into(),
        Errno::EINVAL | Errno::ENOSYS => {
            "the kernel has no SECCOMP_RET_USER_NOTIF (Linux 5.0): use --backend ptrace".into()
        }
        Errno::EPERM | Errno::EACCES => {
            "seccomp(2) is forbidden here (a container's profile?): use --backend ptrace".into()
        }
        other => format!("seccomp(2) failed: {}", other.desc()),
    }
}

fn try_in_child(filter: &Filter) -> Result<(), Errno> {
    let instructions = filter.instructions();
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: the child makes three system calls and ends; a refused prctl shows in seccomp's result.
    let pid = Errno::result(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            let fd = libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program);
            libc::_exit(if fd >= 0 { 0 } else { Errno::last_raw() & 0x7F });
        }
    }
    match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        nix::sys::wait::WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
        _ => Err(Errno::EPERM),
    }
}

/// The running kernel's version: (major, minor, patch).
fn kernel() -> (u32, u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

/// Whether a thread's wait can be made one that only its answer or its end ends.
pub fn waits_killably() -> bool {
    kernel() >= (5, 19, 0)
}

fn killable_wait() -> Finding {
    let what = "calls protected from signals once received";
    if waits_killably() {
        finding(what, Some(true), "WAIT_KILLABLE_RECV (Linux 5.19)")
    } else {
        finding(what, None, "Linux 5.19 is needed: a signal may make a judged call fail with EINTR or run twice")
    }
}

fn descriptors() -> Finding {
    let what = "descriptors of threads with a table of their own";
    match kernel() {
        version if version >= (6, 9, 0) => finding(what, Some(true), "PIDFD_THREAD (Linux 6.9)"),
        version if version >= (5, 6, 0) => {
            finding(what, None, "Linux 6.9 is needed: such threads' calls count as leaks and are refused")
        }
        _ => finding(what, Some(false), "pidfd_getfd (Linux 5.6) is missing"),
    }
}

fn lost_replies() -> Finding {
    let what = "fast replies";
    let (major, minor, patch) = kernel();
    if (major, minor) >= (6, 18) || ((major, minor) == (6, 12) && patch >= 52) {
        finding(what, Some(true), "never lost (Linux 6.18, 6.12.52)")
    } else {
        finding(what, None, "this kernel may lose a reply that comes very fast (mended in 6.18 and 6.12.52)")
    }
}

fn reach() -> Finding {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let what = "processes that are not dumpable";
    if Status::of(nix::unistd::Pid::this()).is_ok_and(|status| status.capabilities & CAP_SYS_PTRACE != 0) {
        finding(what, Some(true), "CAP_SYS_PTRACE reaches them")
    } else {
        let remedy = "their calls count as leaks: use --user-namespace, or give sockstrace CAP_SYS_PTRACE";
        finding(what, None, remedy)
    }
}

/// Whether a thread can be held for its stack trace, found out by doing it.
fn stacks() -> Finding {
    const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let what = "stack traces";
    if !waits_killably() {
        return finding(what, None, "Linux 5.19 is needed: without it they are guessed from two registers");
    }
    match hold_child() {
        Ok(()) => finding(what, Some(true), "threads can be held by ptrace for a moment"),
        Err(errno) => {
            let scope = fs::read_to_string(SCOPE).unwrap_or_default();
            let remedy = match scope.trim() {
                "2" => format!("give sockstrace CAP_SYS_PTRACE, or write 1 to {SCOPE}"),
                "3" => format!("{SCOPE} is 3: not before the next boot"),
                _ => "does a container's seccomp profile forbid ptrace?".into(),
            };
            let why = errno.desc();
            finding(what, None, format!("ptrace: {why}; they are guessed from two registers\n{remedy}"))
        }
    }
}

fn hold_child() -> Result<(), Errno> {
    // SAFETY: the child makes one system call, which only a signal ends, and ends.
    let pid = Errno::result(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::pause();
            libc::_exit(0);
        }
    }
    let pid = nix::unistd::Pid::from_raw(pid);
    let held = nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    nix::sys::wait::waitpid(pid, None)?;
    held
}
