//! What differs between processor architectures; the folders' files mirror each other.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{
    arguments, ending_call, fails_when_interrupted, make_again, set_arguments, set_number, set_result, skip,
};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    arguments, ending_call, fails_when_interrupted, make_again, set_arguments, set_number, set_result, skip,
};

use sockstrace_backend::Abi;

/// Numbers of calls that matter to a tracer though they are never judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// clone(2)
    pub clone: i32,
    /// clone3(2)
    pub clone3: i32,
    /// seccomp(2)
    pub seccomp: i32,
}

/// Those of an ABI.
pub fn numbers(abi: Abi) -> Numbers {
    match abi {
        Abi::X86_64 => Numbers { clone: 56, clone3: 435, seccomp: 317 },
        Abi::I386 => Numbers { clone: 120, clone3: 435, seccomp: 354 },
        Abi::Aarch64 => Numbers { clone: 220, clone3: 435, seccomp: 277 },
    }
}
