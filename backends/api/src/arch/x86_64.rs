//! System call numbers of x86_64.

use crate::call::Syscall;

pub(super) fn number(call: Syscall) -> Option<i32> {
    Some(match call {
        Syscall::Accept => 43,
        Syscall::Accept4 => 288,
        Syscall::Bind => 49,
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
        Syscall::ProcessVmWritev => 311,
        Syscall::Ptrace => 101,
        Syscall::Recvfrom => 45,
        Syscall::Recvmmsg => 299,
        Syscall::Recvmsg => 47,
        Syscall::RequestKey => 249,
        Syscall::Sendmmsg => 307,
        Syscall::Sendmsg => 46,
        Syscall::Sendto => 44,
        Syscall::Setsockopt => 54,
        Syscall::Socket => 41,
        Syscall::RecvmmsgTime64 | Syscall::Socketcall => return None,
    })
}
