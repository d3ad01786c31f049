//! Registers as the kernel gives them.

#[cfg(target_arch = "aarch64")]
impl From<&libc::user_regs_struct> for crate::unwind::arch::Registers {
    fn from(user: &libc::user_regs_struct) -> Self {
        let mut registers = Self::new(crate::unwind::arch::Arch::Aarch64);
        for (number, value) in (0_u8..).zip(user.regs) {
            registers.set(number, value);
        }
        registers.set(31, user.sp);
        registers.set(32, user.pc);
        registers
    }
}
