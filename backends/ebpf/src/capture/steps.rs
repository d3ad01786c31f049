//! Which system call is what to the capturing programs.

use sockstrace_backend::filter::socketcall_number;
use sockstrace_backend::{Abi, Syscall};

/// The machine's own interface.
pub const NATIVE: Abi = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };

/// `MULTIPLEXED` of bpf/payloads.h
const MULTIPLEXED: u32 = 0x1_0000;

/// `enum step` of bpf/payloads.h; `None` for what moves nothing.
fn step(call: Syscall) -> Option<u8> {
    Some(match call {
        Syscall::Read => 1,
        Syscall::Write => 2,
        Syscall::Readv | Syscall::Preadv2 => 3,
        Syscall::Writev | Syscall::Pwritev2 => 4,
        Syscall::Recvfrom => 5,
        Syscall::Sendto => 6,
        Syscall::Recvmsg => 7,
        Syscall::Sendmsg => 8,
        Syscall::Recvmmsg | Syscall::RecvmmsgTime64 => 9,
        Syscall::Sendmmsg => 10,
        Syscall::Sendfile => 11,
        Syscall::Sendfile64 => 12,
        Syscall::Splice => 13,
        Syscall::Connect => CONNECT,
        Syscall::Accept | Syscall::Accept4 => ACCEPT,
        Syscall::Socketpair => SOCKETPAIR,
        Syscall::Listen => LISTEN,
        Syscall::Close => CLOSE,
        Syscall::Socketcall => 19,
        _ => return None,
    })
}

pub const CONNECT: u8 = 14;
pub const ACCEPT: u8 = 15;
pub const SOCKETPAIR: u8 = 16;
pub const LISTEN: u8 = 17;
pub const CLOSE: u8 = 18;

/// System call numbers of an interface, with their steps.
pub fn numbers(abi: Abi) -> Vec<(u32, u8)> {
    let number = |call: &Syscall| Some((u32::try_from(call.number(abi)?).ok()?, step(*call)?));
    Syscall::ALL.iter().filter_map(number).collect()
}

/// Those of i386, where the machine has it.
pub fn compat() -> Vec<(u32, u8)> {
    if cfg!(target_arch = "x86_64") { numbers(Abi::I386) } else { Vec::new() }
}

/// The call of a record.
pub fn call(number: u32, abi: Abi) -> Option<Syscall> {
    if number & MULTIPLEXED == 0 {
        return Syscall::from_number(i32::try_from(number).ok()?, abi);
    }
    let multiplexed = i32::try_from(number & !MULTIPLEXED).ok();
    Syscall::ALL.iter().copied().find(|call| socketcall_number(*call) == multiplexed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_programs() {
        let header = include_str!("../../bpf/payloads.h");
        let list = header.split_once("enum step {").unwrap().1.split_once('}').unwrap().0;
        let names: Vec<_> = list.lines().filter_map(|line| line.trim().strip_prefix("STEP_")).collect();
        for call in Syscall::ALL {
            let Some(step) = step(*call) else { continue };
            let name = call.name().trim_start_matches('p').trim_end_matches("_time64").replace("v2", "v");
            let name = name.replace("accept4", "accept");
            let expected = format!("{},", name.to_ascii_uppercase());
            assert_eq!(names[usize::from(step)], expected);
        }
        assert_eq!(call(MULTIPLEXED | 0xA, Abi::I386), Some(Syscall::Recv));
        assert_eq!(call(3, Abi::I386), Some(Syscall::Read));
    }

    #[test]
    fn every_interface_has_them() {
        for abi in [NATIVE, Abi::I386] {
            let numbers = numbers(abi);
            assert!(numbers.len() >= 20 && numbers.iter().all(|(number, _)| *number < 512), "{numbers:?}");
        }
    }
}
