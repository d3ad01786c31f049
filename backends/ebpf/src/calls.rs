//! Which system call is which operation, and how the programs number operations.

use sockstrace_backend::observed::SocketCall;

/// `enum operation` of bpf/shared.h.
pub fn code(call: SocketCall) -> u8 {
    match call {
        SocketCall::Bind => 1,
        SocketCall::Connect => 2,
        SocketCall::Listen => 3,
        SocketCall::Accept => 4,
        SocketCall::Accept4 => 5,
        SocketCall::Sendto => 6,
        SocketCall::Sendmsg => 7,
        SocketCall::Sendmmsg => 8,
        SocketCall::Recvfrom => 9,
        SocketCall::Recvmsg => 10,
        SocketCall::Recvmmsg => 11,
        SocketCall::Socket => 14,
        SocketCall::Setsockopt => 15,
    }
}

/// The operation of a code.
pub fn call(code_of: u8) -> Option<SocketCall> {
    SocketCall::ALL.iter().chain(SocketCall::UNWATCHED).copied().find(|call| code(*call) == code_of)
}

const SOCKETCALL: u8 = 12;
/// `OP_IO_URING_ENTER`
pub const IO_URING_ENTER: u8 = 13;

/// System call numbers of the machine's own interface, with their operations.
pub fn native() -> Vec<(u32, u8)> {
    let calls = SocketCall::ALL.iter().map(|call| (number(*call) as u32, code(*call)));
    calls.chain([(libc::SYS_io_uring_enter as u32, IO_URING_ENTER)]).collect()
}

fn number(call: SocketCall) -> libc::c_long {
    match call {
        SocketCall::Bind => libc::SYS_bind,
        SocketCall::Connect => libc::SYS_connect,
        SocketCall::Listen => libc::SYS_listen,
        SocketCall::Accept => libc::SYS_accept,
        SocketCall::Accept4 => libc::SYS_accept4,
        SocketCall::Sendto => libc::SYS_sendto,
        SocketCall::Sendmsg => libc::SYS_sendmsg,
        SocketCall::Sendmmsg => libc::SYS_sendmmsg,
        SocketCall::Recvfrom => libc::SYS_recvfrom,
        SocketCall::Recvmsg => libc::SYS_recvmsg,
        SocketCall::Recvmmsg => libc::SYS_recvmmsg,
        SocketCall::Socket => libc::SYS_socket,
        SocketCall::Setsockopt => libc::SYS_setsockopt,
    }
}

/// Those of i386 (arch/x86/entry/syscalls/syscall_32.tbl). accept is a socketcall alone there.
pub fn compat() -> Vec<(u32, u8)> {
    if !cfg!(target_arch = "x86_64") {
        return Vec::new();
    }
    vec![
        (361, code(SocketCall::Bind)),
        (362, code(SocketCall::Connect)),
        (363, code(SocketCall::Listen)),
        (364, code(SocketCall::Accept4)),
        (369, code(SocketCall::Sendto)),
        (370, code(SocketCall::Sendmsg)),
        (345, code(SocketCall::Sendmmsg)),
        (371, code(SocketCall::Recvfrom)),
        (372, code(SocketCall::Recvmsg)),
        (337, code(SocketCall::Recvmmsg)),
        (417, code(SocketCall::Recvmmsg)), // recvmmsg_time64
        (102, SOCKETCALL),
        (426, IO_URING_ENTER),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_programs() {
        let header = include_str!("../bpf/shared.h");
        let list = header.split_once("enum operation {").unwrap().1.split_once('}').unwrap().0;
        let names: Vec<_> = list.lines().filter_map(|line| line.trim().strip_prefix("OP_")).collect();
        for call in SocketCall::ALL.iter().chain(SocketCall::UNWATCHED) {
            let expected = format!("{},", call.name().to_ascii_uppercase());
            assert_eq!(names[usize::from(code(*call))], expected);
            assert_eq!(super::call(code(*call)), Some(*call));
        }
        assert_eq!(names[usize::from(SOCKETCALL)], "SOCKETCALL,");
        assert_eq!(names[usize::from(IO_URING_ENTER)], "IO_URING_ENTER,");
    }
}
