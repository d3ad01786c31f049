//! What a wait status says.
//!
//! nix's `WaitStatus` can't represent real-time signals and fails on them; pete's `Stop` is built on it and
//! knows no PTRACE_SEIZE, hence neither group-stops nor `PTRACE_EVENT_STOP`. So the status is decoded here.

use sockstrace_backend::Ended;

/// What happened to a tracee or child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is gone, and reaped.
    Ended(Ended),
    /// It is about to take this signal.
    Signal(i32),
    /// At the entry to or the exit from a system call (PTRACE_SYSCALL).
    Syscall,
    /// The filter asks (`SECCOMP_RET_TRACE`).
    Seccomp,
    /// It has made a process or a thread.
    NewTask,
    /// It has a new program.
    Exec,
    /// It is about to end.
    Exit,
    /// Its process is stopped by this signal.
    GroupStop(i32),
    /// A new tracee's first stop, the end of a group-stop, or PTRACE_INTERRUPT.
    Trap,
    /// Something that was not asked for.
    Other,
}

/// The kernel's `PTRACE_EVENT_STOP`.
const EVENT_STOP: i32 = 128;

/// The signals that stop a process.
pub fn is_stopping(signal: i32) -> bool {
    matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

/// How a task ended, from a wait status or the message of `PTRACE_EVENT_EXIT`.
pub fn ended(status: i32) -> Ended {
    if libc::WIFEXITED(status) {
        Ended::Exited(libc::WEXITSTATUS(status))
    } else {
        Ended::Signaled(libc::WTERMSIG(status))
    }
}

/// Decodes what waitpid(2) gave for a seized tracee.
pub fn decode(status: i32) -> Change {
    if !libc::WIFSTOPPED(status) {
        return Change::Ended(ended(status));
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        // PTRACE_O_TRACESYSGOOD marks system call stops.
        0 if signal == libc::SIGTRAP | 0x80 => Change::Syscall,
        // A seized tracee's SIGTRAP without an event is the program's own (int3, kill).
        0 => Change::Signal(signal),
        libc::PTRACE_EVENT_SECCOMP => Change::Seccomp,
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => Change::NewTask,
        libc::PTRACE_EVENT_EXEC => Change::Exec,
        libc::PTRACE_EVENT_EXIT => Change::Exit,
        EVENT_STOP if is_stopping(signal) => Change::GroupStop(signal),
        EVENT_STOP => Change::Trap,
        _ => Change::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_decoded() {
        let stopped = |signal: i32, event: i32| decode(event << 16 | signal << 8 | 0x7F);
        assert_eq!(decode(3 << 8), Change::Ended(Ended::Exited(3)));
        assert_eq!(decode(libc::SIGKILL), Change::Ended(Ended::Signaled(libc::SIGKILL)));
        assert_eq!(decode(0x80 | libc::SIGABRT), Change::Ended(Ended::Signaled(libc::SIGABRT)));
        assert_eq!(stopped(libc::SIGTRAP, 0), Change::Signal(libc::SIGTRAP));
        assert_eq!(stopped(libc::SIGTRAP | 0x80, 0), Change::Syscall);
        assert_eq!(stopped(64, 0), Change::Signal(64));
        assert_eq!(stopped(libc::SIGSTOP, 0), Change::Signal(libc::SIGSTOP));
        assert_eq!(stopped(libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP), Change::Seccomp);
        assert_eq!(stopped(libc::SIGTRAP, EVENT_STOP), Change::Trap);
        assert_eq!(stopped(libc::SIGTSTP, EVENT_STOP), Change::GroupStop(libc::SIGTSTP));
        assert_eq!(stopped(libc::SIGTRAP, 99), Change::Other);
    }
}
