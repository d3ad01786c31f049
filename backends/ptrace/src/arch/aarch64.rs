//! Registers of aarch64. Not yet run on such a machine.

use nix::errno::Errno;
use nix::unistd::Pid;
use pete::Registers;
use sockstrace_backend::Abi;

/// The length of `svc`.
const INSTRUCTION: u64 = 4;

/// The register set that holds the number of the call in progress (`NT_ARM_SYSTEM_CALL`).
const SYSTEM_CALL: usize = 0x404;

/// At an entry: the call that will be carried out, −1 for none. At an exit: the call that it was.
pub fn set_number(tid: Pid, _: &mut Registers, number: i32) -> Result<(), Errno> {
    let mut number = number;
    let vector = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<i32>() };
    // SAFETY: the kernel reads one int through the vector, both of which live until it returns.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid.as_raw(), SYSTEM_CALL, &raw const vector) };
    Errno::result(result).map(drop)
}

/// At an entry: the call isn't carried out, and gives `value`.
pub fn skip(tid: Pid, value: i64) -> Result<(), Errno> {
    let mut registers = crate::registers::Registers::load(tid)?;
    registers.set_call(-1)?;
    registers.set_result(value);
    registers.store()
}

/// What the call gives.
pub fn set_result(registers: &mut Registers, value: i64) {
    registers.regs[0] = value as u64;
}

/// Goes back to the call's instruction, which makes call `number`; the kernel restarts calls so. The caller
/// has set the arguments, x0 among them.
pub fn make_again(registers: &mut Registers, number: i32) {
    registers.pc = registers.pc.wrapping_sub(INSTRUCTION);
    registers.regs[8] = i64::from(number) as u64;
}

/// Number and result of the call that is coming to its end: not known here.
pub fn ending_call(_: &Registers, _: Abi) -> Option<(i32, i64)> {
    None
}

/// None are known here: the kernel has prepared the restart of a call, or not, before a tracer sees its end.
pub fn fails_when_interrupted(_: Abi, _: i32) -> bool {
    false
}

/// The registers that hold a call's arguments.
pub fn arguments(registers: &Registers, _: Abi) -> [u64; 6] {
    let [x0, x1, x2, x3, x4, x5, ..] = registers.regs;
    [x0, x1, x2, x3, x4, x5]
}

/// Sets them; at an exit x0 holds the result and is kept.
pub fn set_arguments(registers: &mut Registers, _: Abi, arguments: [u64; 6], at_exit: bool) {
    let kept = if at_exit { 1 } else { 0 };
    for (register, value) in registers.regs.iter_mut().zip(arguments).skip(kept) {
        *register = value;
    }
}
