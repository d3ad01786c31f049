//! System call numbers of aarch64.

use crate::call::Syscall;

pub(super) const CLONE: i32 = 220;

pub(super) fn number(call: Syscall) -> Option<i32> {
    Some(match call {
        Syscall::Accept => 202,
        Syscall::Accept4 => 242,
        Syscall::Bind => 200,
        Syscall::Bpf => 280,
        Syscall::Close => 57,
        Syscall::Connect => 203,
        Syscall::Fsopen => 430,
        Syscall::Getpeername => 205,
        Syscall::Getsockname => 204,
        Syscall::Getsockopt => 209,
        Syscall::IoUringSetup => 425,
        Syscall::Ioctl => 29,
        Syscall::Listen => 201,
        Syscall::Mount => 40,
        Syscall::PidfdGetfd => 438,
        Syscall::Preadv2 => 286,
        Syscall::ProcessVmWritev => 271,
        Syscall::Ptrace => 117,
        Syscall::Pwritev2 => 287,
        Syscall::Read => 63,
        Syscall::Readv => 65,
        Syscall::Recvfrom => 207,
        Syscall::Recvmmsg => 243,
        Syscall::Recvmsg => 212,
        Syscall::RequestKey => 218,
        Syscall::Sendfile => 71,
        Syscall::Sendmmsg => 269,
        Syscall::Sendmsg => 211,
        Syscall::Sendto => 206,
        Syscall::Setsockopt => 208,
        Syscall::Socket => 198,
        Syscall::Socketpair => 199,
        Syscall::Splice => 76,
        Syscall::Write => 64,
        Syscall::Writev => 66,
        Syscall::Recv | Syscall::RecvmmsgTime64 | Syscall::Send | Syscall::Sendfile64 | Syscall::Socketcall => {
            return None;
        }
    })
}
