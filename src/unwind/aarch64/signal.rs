//! Signal trampolines without call frame information.

use crate::unwind::arch::Trampoline;

const REGISTERS: [(u8, i64); 33] = [
    (0, 0),
    (1, 8),
    (2, 16),
    (3, 24),
    (4, 32),
    (5, 40),
    (6, 48),
    (7, 56),
    (8, 64),
    (9, 72),
    (10, 80),
    (11, 88),
    (12, 96),
    (13, 104),
    (14, 112),
    (15, 120),
    (16, 128),
    (17, 136),
    (18, 144),
    (19, 152),
    (20, 160),
    (21, 168),
    (22, 176),
    (23, 184),
    (24, 192),
    (25, 200),
    (26, 208),
    (27, 216),
    (28, 224),
    (29, 232),
    (30, 240),
    (31, 248),
    (32, 256),
];

/// Whether the bytes begin with `mov x8, #__NR_rt_sigreturn; svc #0`. At the stack pointer lie siginfo
/// (128 bytes) and the ucontext, whose sigcontext begins at 168 with the fault address.
pub(super) fn trampoline(code: &[u8]) -> Option<Trampoline> {
    const CODE: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
    // siginfo 128, then uc_flags 8, uc_link 8, uc_stack 24, sigmask and padding 128, aligned to 16: 176,
    // then fault_address 8.
    code.starts_with(&CODE).then_some(Trampoline { block: 128 + 176 + 8, pointer: None, registers: &REGISTERS })
}
