//! 64-bit x86.

mod calls;
mod registers;
mod signal;

pub(super) use calls::{call_before, syscall_before};

use super::arch::Spec;

pub(super) static SPEC: Spec = Spec {
    word: 8,
    pc: 16,
    sp: 7,
    fp: 6,
    link: None,
    frame_record: (0, 8),
    address_mask: u64::MAX,
    window: 8,
    call_before,
    syscall_before,
    trampoline: signal::trampoline,
};
