//! Signal trampolines without call frame information.

use crate::unwind::arch::Trampoline;

/// Registers in `struct sigcontext_32`.
const SIGCONTEXT: [(u8, i64); 9] =
    [(7, 16), (6, 20), (5, 24), (4, 28), (3, 32), (2, 36), (1, 40), (0, 44), (8, 56)];

/// Whether the bytes begin with `pop %eax; mov $__NR_sigreturn,%eax; int $0x80` (the sigcontext lies behind
/// the signal number), or `mov $__NR_rt_sigreturn,%eax; int $0x80` (behind signal, info, context pointers).
pub(super) fn trampoline(code: &[u8]) -> Option<Trampoline> {
    const PLAIN: [u8; 8] = [0x58, 0xb8, 0x77, 0, 0, 0, 0xcd, 0x80];
    const REALTIME: [u8; 7] = [0xb8, 0xad, 0, 0, 0, 0xcd, 0x80];
    if code.starts_with(&PLAIN) {
        Some(Trampoline { block: 4, pointer: None, registers: &SIGCONTEXT })
    } else if code.starts_with(&REALTIME) {
        // uc_flags, uc_link, uc_stack (12 bytes) come before the sigcontext.
        Some(Trampoline { block: 20, pointer: Some(8), registers: &SIGCONTEXT })
    } else {
        None
    }
}
