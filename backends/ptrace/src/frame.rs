//! A system call as the kernel shows it to a tracer.

use sockstrace_backend::Abi;

/// A call's number, arguments and where it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The interface.
    pub abi: Abi,
    /// The call's number there.
    pub number: i32,
    /// Its arguments.
    pub args: [u64; 6],
    /// The instruction after the call's.
    pub ip: u64,
    /// The stack pointer.
    pub sp: u64,
}

impl Frame {
    /// Whether `other` is this call made again from the same place: a restart.
    pub fn is_same_call(&self, other: &Self) -> bool {
        (self.abi, self.number, self.ip, self.sp) == (other.abi, other.number, other.ip, other.sp)
    }
}

/// Where in a system call a tracee is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At its entry.
    Entry(Frame),
    /// Where the filter asked.
    Seccomp(Frame),
    /// At its exit.
    Exit {
        /// Where user space goes on.
        ip: u64,
        /// Its stack pointer.
        sp: u64,
        /// What the call gave, −errno where it failed.
        value: i64,
    },
    /// In a call through an interface that isn't known.
    Foreign,
    /// In none.
    Elsewhere,
}

/// Whether a call with this result was interrupted, so that it is either restarted or fails with EINTR
/// (`ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`, `ERESTART_RESTARTBLOCK`: include/linux/errno.h).
pub fn is_interrupted(value: i64) -> bool {
    matches!(-value, 512 | 513 | 514 | 516)
}
