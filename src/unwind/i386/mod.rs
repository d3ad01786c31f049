//! 32-bit x86.

mod signal;

use super::arch::Spec;
use super::x86_64;

pub(super) static SPEC: Spec = Spec {
    word: 4,
    pc: 8,
    sp: 4,
    fp: 5,
    link: None,
    frame_record: (0, 4),
    address_mask: 0xffff_ffff,
    window: 8,
    call_before: x86_64::call_before,
    syscall_before: x86_64::syscall_before,
    trampoline: signal::trampoline,
};
