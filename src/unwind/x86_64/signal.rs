//! Signal trampolines without call frame information (musl, and programs with their own).

use crate::unwind::arch::Trampoline;

/// `struct ucontext` lies at the stack pointer when the handler has returned; its `sigcontext` has the
/// registers in this order (arch/x86/include/uapi/asm/sigcontext.h).
const SIGCONTEXT: [(u8, i64); 17] = [
    (8, 0),
    (9, 8),
    (10, 16),
    (11, 24),
    (12, 32),
    (13, 40),
    (14, 48),
    (15, 56),
    (5, 64),
    (4, 72),
    (6, 80),
    (3, 88),
    (1, 96),
    (0, 104),
    (2, 112),
    (7, 120),
    (16, 128),
];

/// Whether the bytes begin with `mov $__NR_rt_sigreturn,%rax; syscall`.
pub(super) fn trampoline(code: &[u8]) -> Option<Trampoline> {
    const LONG: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    const SHORT: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];
    (code.starts_with(&LONG) || code.starts_with(&SHORT)).then_some(Trampoline {
        block: 40,
        pointer: None,
        registers: &SIGCONTEXT,
    })
}
