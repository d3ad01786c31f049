//! System call numbers of x86_64.

use crate::call::Syscall;

pub(super) const CLONE: i32 = 56;

pub(super) fn number(call: Syscall) -> Option<i32> {
    Some(match call {
        Syscall::Accept => 43,
        Syscall::Accept4 => 288,
        Syscall::Bind => 49,
        Syscall::Bpf => 321,
        Syscall::Close => 3,
        Syscall::Connect => 42,
        Syscall::Fsopen => 430,
        Syscall::Getpeername => 52,
        Syscall::Getsockname => 51,
        Syscall::Getsockopt => 55,
        Syscall::IoUringSetup => 425,
        Syscall::Ioctl => 16,
        Syscall::Listen => 50,
        Syscall::Mount => 165,
        Syscall::PidfdGetfd => 438,
        Syscall::Preadv2 => 327,
        Syscall::ProcessVmWritev => 311,
        Syscall::Ptrace => 101,
        Syscall::Pwritev2 => 328,
        Syscall::Read => 0,
        Syscall::Readv => 19,
        Syscall::Recvfrom => 45,
        Syscall::Recvmmsg => 299,
        Syscall::Recvmsg => 47,
        Syscall::RequestKey => 249,
        Syscall::Sendfile => 40,
        Syscall::Sendmmsg => 307,
        Syscall::Sendmsg => 46,
        Syscall::Sendto => 44,
        Syscall::Setsockopt => 54,
        Syscall::Socket => 41,
        Syscall::Socketpair => 53,
        Syscall::Splice => 275,
        Syscall::Write => 1,
        Syscall::Writev => 20,
        Syscall::Recv | Syscall::RecvmmsgTime64 | Syscall::Send | Syscall::Sendfile64 | Syscall::Socketcall => {
            return None;
        }
    })
}
