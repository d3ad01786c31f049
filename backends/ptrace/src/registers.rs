//! The registers of a stopped tracee, by pete.

use crate::arch;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::Abi;

/// The kernel's `ERESTARTSYS`.
const ERESTARTSYS: i64 = 512;

/// The kernel's `ERESTARTNOHAND`.
const ERESTARTNOHAND: i64 = 514;

/// A copy of a tracee's registers; [`Registers::store`] puts it back.
///
/// i386 tracees have them in the 64-bit layout too.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    tid: Pid,
    values: pete::Registers,
}

impl Registers {
    /// Copies them.
    pub fn load(tid: Pid) -> Result<Self, Errno> {
        let values = tracee(tid).registers().map_err(|error| errno(&error))?;
        Ok(Self { tid, values })
    }

    /// Writes them back.
    pub fn store(&self) -> Result<(), Errno> {
        tracee(self.tid).set_registers(self.values).map_err(|error| errno(&error))
    }

    /// At a call's entry: it becomes another.
    pub fn set_call(&mut self, number: i32) -> Result<(), Errno> {
        arch::set_number(self.tid, &mut self.values, number)
    }

    /// At a call's exit: what it gives.
    pub fn set_result(&mut self, value: i64) {
        arch::set_result(&mut self.values, value);
    }

    /// At a call's exit: the call was number `number` and was interrupted before it did anything.
    pub fn set_interrupted(&mut self, number: i32) -> Result<(), Errno> {
        arch::set_number(self.tid, &mut self.values, number)?;
        arch::set_result(&mut self.values, -ERESTARTSYS);
        Ok(())
    }

    /// The number and the result of the call that the thread is coming out of; `None` where it is in none.
    pub fn ending_call(&self, abi: Abi) -> Option<(i32, i64)> {
        arch::ending_call(&self.values, abi)
    }

    /// The call that is coming to its end was interrupted: where a handler runs it fails with EINTR, else it is
    /// made again, as if nothing had been (`ERESTARTNOHAND`).
    pub fn set_interrupted_unseen(&mut self) {
        arch::set_result(&mut self.values, -ERESTARTNOHAND);
    }

    /// At a call's exit: call number `number` is made instead of going on.
    pub fn make_again(&mut self, number: i32) {
        arch::make_again(&mut self.values, number);
    }

    /// The registers that hold a call's arguments.
    pub fn arguments(&self, abi: Abi) -> [u64; 6] {
        arch::arguments(&self.values, abi)
    }

    /// Sets them. At a call's exit, where one of them holds the result as well, that is kept.
    pub fn set_arguments(&mut self, abi: Abi, arguments: [u64; 6], at_exit: bool) {
        arch::set_arguments(&mut self.values, abi, arguments, at_exit);
    }
}

/// At a call's entry: it isn't carried out, and gives `value`.
pub fn skip(tid: Pid, value: i64) -> Result<(), Errno> {
    arch::skip(tid, value)
}

fn tracee(tid: Pid) -> pete::Tracee {
    pete::Tracee::new(pete::Pid::from_raw(tid.as_raw()), None, pete::Stop::SyscallEnter)
}

/// pete's nix is another version than ours.
fn errno(error: &pete::Error) -> Errno {
    match error {
        pete::Error::TraceeDied { source, .. } | pete::Error::Attach { source, .. } | pete::Error::OS(source) => {
            Errno::from_raw(*source as i32)
        }
        pete::Error::IO(error) => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        pete::Error::Internal(_) => Errno::EIO,
    }
}
