//! System call numbers of i386.

use crate::call::Syscall;

pub(super) const CLONE: i32 = 120;

pub(super) fn number(call: Syscall) -> Option<i32> {
    Some(match call {
        Syscall::Accept4 => 364,
        Syscall::Bind => 361,
        Syscall::Bpf => 357,
        Syscall::Close => 6,
        Syscall::Connect => 362,
        Syscall::Fsopen => 430,
        Syscall::Getpeername => 368,
        Syscall::Getsockname => 367,
        Syscall::Getsockopt => 365,
        Syscall::IoUringSetup => 425,
        Syscall::Ioctl => 54,
        Syscall::Listen => 363,
        Syscall::Mount => 21,
        Syscall::PidfdGetfd => 438,
        Syscall::Preadv2 => 378,
        Syscall::ProcessVmWritev => 348,
        Syscall::Ptrace => 26,
        Syscall::Pwritev2 => 379,
        Syscall::Read => 3,
        Syscall::Readv => 145,
        Syscall::Recvfrom => 371,
        Syscall::Recvmmsg => 337,
        Syscall::RecvmmsgTime64 => 417,
        Syscall::Recvmsg => 372,
        Syscall::RequestKey => 287,
        Syscall::Sendfile => 187,
        Syscall::Sendfile64 => 239,
        Syscall::Sendmmsg => 345,
        Syscall::Sendmsg => 370,
        Syscall::Sendto => 369,
        Syscall::Setsockopt => 366,
        Syscall::Socket => 359,
        Syscall::Socketcall => 102,
        Syscall::Socketpair => 360,
        Syscall::Splice => 313,
        Syscall::Write => 4,
        Syscall::Writev => 146,
        // Only through socketcall.
        Syscall::Accept | Syscall::Recv | Syscall::Send => return None,
    })
}
