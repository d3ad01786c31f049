//! Looking at a thread that can't run on: its registers and, as long as the look lasts, its memory.

use crate::Abi;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::fmt;

/// A thread that is held still in an intercepted call.
#[derive(Debug)]
pub struct Halted {
    /// The thread.
    pub tid: Pid,
    /// Its process.
    pub pid: Pid,
    /// The interface of the call that it made.
    pub abi: Abi,
    /// Its registers.
    pub registers: Registers,
}

/// The registers of a [`Halted`] thread, as they are behind the instruction that made the call.
#[derive(Clone, Copy)]
pub enum Registers {
    /// All general ones, in the kernel's layout for 64-bit programs (those of an i386 thread too).
    All(libc::user_regs_struct),
    /// The thread could not be stopped, and these alone are known. It waits in its call.
    Few {
        /// The program counter.
        pc: u64,
        /// The stack pointer, where /proc tells it.
        sp: Option<u64>,
        /// Why it could not be stopped.
        why: Errno,
    },
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) => f.write_str("All"),
            Self::Few { pc, sp, why } => write!(f, "Few {{ pc: {pc:#x}, sp: {sp:x?}, why: {why} }}"),
        }
    }
}

/// The stack pointer in the kernel's layout.
#[must_use]
pub fn stack_pointer(registers: &libc::user_regs_struct) -> u64 {
    #[cfg(target_arch = "x86_64")]
    let sp = registers.rsp;
    #[cfg(target_arch = "aarch64")]
    let sp = registers.sp;
    sp
}

/// What is to be done with a thread while it is held still. It may end the thread's process.
///
/// A backend that can't hold the thread any more (it was killed) drops this without a look.
pub struct Look(Box<dyn FnOnce(&Halted) + Send>);

impl Look {
    /// Wraps what is to be done. It may wait for the thread's memory, but for nothing else: the thread is
    /// held until it returns.
    pub fn new(act: impl FnOnce(&Halted) + Send + 'static) -> Self {
        Self(Box::new(act))
    }

    /// Does it.
    pub fn at(self, halted: &Halted) {
        (self.0)(halted);
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}
