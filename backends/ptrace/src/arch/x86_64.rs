//! Registers of x86_64, in which i386 programs are stopped as well.

use nix::errno::Errno;
use nix::unistd::Pid;
use pete::Registers;
use sockstrace_backend::Abi;

/// The length of `syscall`, `sysenter` and `int 0x80`.
const INSTRUCTION: u64 = 2;

/// At an entry: the call that will be carried out, −1 for none. At an exit: the call that it was.
#[allow(clippy::unnecessary_wraps, reason = "it takes a request of its own on other architectures")]
pub fn set_number(_: Pid, registers: &mut Registers, number: i32) -> Result<(), Errno> {
    registers.orig_rax = i64::from(number) as u64;
    Ok(())
}

/// At an entry: the call isn't carried out, and gives `value`. (Two registers are set in half the time that it takes
/// to fetch all and to put them back.)
pub fn skip(tid: Pid, value: i64) -> Result<(), Errno> {
    let set = |register, value| nix::sys::ptrace::write_user(tid, register as nix::sys::ptrace::AddressType, value);
    set(std::mem::offset_of!(libc::user_regs_struct, orig_rax), -1)?;
    set(std::mem::offset_of!(libc::user_regs_struct, rax), value)
}

/// What the call gives.
pub fn set_result(registers: &mut Registers, value: i64) {
    registers.rax = value as u64;
}

/// Goes back to the call's instruction, which makes call `number`; the kernel restarts calls so.
pub fn make_again(registers: &mut Registers, number: i32) {
    registers.rip = registers.rip.wrapping_sub(INSTRUCTION);
    registers.rax = i64::from(number) as u64;
    // Else the kernel, which still sees a call ending, might take the result for one of its own.
    registers.orig_rax = u64::MAX;
}

/// The registers that hold a call's arguments.
pub fn arguments(registers: &Registers, abi: Abi) -> [u64; 6] {
    let r = registers;
    if abi == Abi::I386 {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp]
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
    }
}

/// Sets them.
pub fn set_arguments(registers: &mut Registers, abi: Abi, arguments: [u64; 6], _at_exit: bool) {
    let r = registers;
    if abi == Abi::I386 {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp] = arguments;
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = arguments;
    }
}
