//! Signal trampolines without call frame information.

use crate::unwind::arch::Trampoline;

const REGISTERS: [(u8, i64); 33] = {
    let mut registers = [(0, 0); 33];
    let mut number = 0;
    while number < 33 {
        registers[number] = (number as u8, 8 * number as i64);
        number += 1;
    }
    registers
};

/// Whether the bytes begin with `mov x8, #__NR_rt_sigreturn; svc #0`. At the stack pointer lie siginfo
/// (128 bytes) and the ucontext, whose sigcontext begins at 168 with the fault address.
pub(super) fn trampoline(code: &[u8]) -> Option<Trampoline> {
    const CODE: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
    // siginfo 128, then uc_flags 8, uc_link 8, uc_stack 24, sigmask and padding 128, aligned to 16: 176,
    // then fault_address 8.
    code.starts_with(&CODE).then_some(Trampoline { block: 128 + 176 + 8, pointer: None, registers: &REGISTERS })
}
