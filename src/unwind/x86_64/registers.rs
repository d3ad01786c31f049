//! Registers as the kernel gives them.

use crate::unwind::arch::{Arch, Registers};

#[cfg(target_arch = "x86_64")]
impl From<&libc::user_regs_struct> for Registers {
    /// The registers of a stopped thread; an i386 one is known by its code segment.
    fn from(user: &libc::user_regs_struct) -> Self {
        const USER32_CS: u64 = 0x23; // arch/x86/include/asm/segment.h
        if user.cs == USER32_CS {
            let mut registers = Self::new(Arch::I386);
            let values = [user.rax, user.rcx, user.rdx, user.rbx, user.rsp, user.rbp, user.rsi, user.rdi, user.rip];
            for (number, value) in (0_u8..).zip(values) {
                registers.set(number, value);
            }
            return registers;
        }
        let mut registers = Self::new(Arch::X86_64);
        let values = [
            user.rax, user.rdx, user.rcx, user.rbx, user.rsi, user.rdi, user.rbp, user.rsp, user.r8, user.r9,
            user.r10, user.r11, user.r12, user.r13, user.r14, user.r15, user.rip,
        ];
        for (number, value) in (0_u8..).zip(values) {
            registers.set(number, value);
        }
        if user.fs_base != 0 {
            registers.set_thread_pointer(user.fs_base);
        }
        registers
    }
}
