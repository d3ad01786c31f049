//! What differs between processor architectures: system call numbers and which ABIs a machine runs.
//!
//! The numbers are the kernel's: `arch/x86/entry/syscalls/syscall_{64,32}.tbl` and
//! `include/uapi/asm-generic/unistd.h`.

mod aarch64;
mod i386;
mod x86_64;

use crate::call::{Abi, Syscall};

/// The ABIs through which a program on this machine can make system calls; the first is the native one.
#[cfg(target_arch = "x86_64")]
pub const ABIS: &[Abi] = &[Abi::X86_64, Abi::I386];
/// The ABIs through which a program on this machine can make system calls; the first is the native one.
#[cfg(target_arch = "aarch64")]
pub const ABIS: &[Abi] = &[Abi::Aarch64];

/// The number of clone(2) in `abi`.
#[must_use]
pub fn clone(abi: Abi) -> i32 {
    match abi {
        Abi::X86_64 => x86_64::CLONE,
        Abi::I386 => i386::CLONE,
        Abi::Aarch64 => aarch64::CLONE,
    }
}

/// The number of `call` in `abi`.
#[must_use]
pub fn number(call: Syscall, abi: Abi) -> Option<i32> {
    match abi {
        Abi::X86_64 => x86_64::number(call),
        Abi::I386 => i386::number(call),
        Abi::Aarch64 => aarch64::number(call),
    }
}
