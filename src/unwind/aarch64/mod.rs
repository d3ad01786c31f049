//! 64-bit ARM.

mod calls;
mod registers;
mod signal;

use super::arch::Spec;

pub(super) static SPEC: Spec = Spec {
    word: 8,
    pc: 32,
    sp: 31,
    fp: 29,
    link: Some(30),
    frame_record: (0, 8),
    // 48 bits of address; the bits above may hold a pointer authentication code.
    address_mask: 0xffff_ffff_ffff,
    window: 4,
    call_before: calls::call_before,
    syscall_before: calls::syscall_before,
    trampoline: signal::trampoline,
};
