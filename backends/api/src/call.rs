//! Intercepted calls and their names.

use crate::arch;
use nix::unistd::Pid;

/// The binary interface through which a system call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86 (`int 0x80`, also from 64-bit code).
    I386,
    /// 64-bit ARM.
    Aarch64,
}

impl Abi {
    /// Its name in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Its `AUDIT_ARCH_*` value of <linux/audit.h>.
    #[must_use]
    pub fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    /// The ABI with this `AUDIT_ARCH_*` value.
    #[must_use]
    pub fn from_audit_arch(arch: u32) -> Option<Self> {
        [Self::X86_64, Self::I386, Self::Aarch64].into_iter().find(|abi| abi.audit_arch() == arch)
    }

    /// The width of a pointer and of `long`, in bytes.
    #[must_use]
    pub fn pointer_bytes(self) -> usize {
        match self {
            Self::I386 => 4,
            Self::X86_64 | Self::Aarch64 => 8,
        }
    }
}

macro_rules! syscalls {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The system calls that sockstrace can judge.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Syscall { $($(#[$doc])* $variant,)* }

        impl Syscall {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, as in syscalls(2).
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

syscalls! {
    /// accept(2)
    Accept = "accept",
    /// accept4(2)
    Accept4 = "accept4",
    /// bind(2)
    Bind = "bind",
    /// bpf(2)
    Bpf = "bpf",
    /// close(2)
    Close = "close",
    /// connect(2)
    Connect = "connect",
    /// fsopen(2)
    Fsopen = "fsopen",
    /// getpeername(2)
    Getpeername = "getpeername",
    /// getsockname(2)
    Getsockname = "getsockname",
    /// getsockopt(2)
    Getsockopt = "getsockopt",
    /// `io_uring_setup(2)`
    IoUringSetup = "io_uring_setup",
    /// ioctl(2)
    Ioctl = "ioctl",
    /// listen(2)
    Listen = "listen",
    /// mount(2)
    Mount = "mount",
    /// `pidfd_getfd(2)`
    PidfdGetfd = "pidfd_getfd",
    /// preadv2(2)
    Preadv2 = "preadv2",
    /// `process_vm_writev(2)`
    ProcessVmWritev = "process_vm_writev",
    /// ptrace(2)
    Ptrace = "ptrace",
    /// pwritev2(2)
    Pwritev2 = "pwritev2",
    /// read(2)
    Read = "read",
    /// readv(2)
    Readv = "readv",
    /// recv(2), of i386 socketcall only
    Recv = "recv",
    /// recvfrom(2)
    Recvfrom = "recvfrom",
    /// recvmmsg(2)
    Recvmmsg = "recvmmsg",
    /// recvmmsg(2) with 64-bit times, of 32-bit interfaces
    RecvmmsgTime64 = "recvmmsg_time64",
    /// recvmsg(2)
    Recvmsg = "recvmsg",
    /// `request_key(2)`
    RequestKey = "request_key",
    /// send(2), of i386 socketcall only
    Send = "send",
    /// sendfile(2)
    Sendfile = "sendfile",
    /// sendfile(2) with a 64-bit offset, of 32-bit interfaces
    Sendfile64 = "sendfile64",
    /// sendmmsg(2)
    Sendmmsg = "sendmmsg",
    /// sendmsg(2)
    Sendmsg = "sendmsg",
    /// sendto(2)
    Sendto = "sendto",
    /// setsockopt(2)
    Setsockopt = "setsockopt",
    /// socket(2)
    Socket = "socket",
    /// socketcall(2), i386 only
    Socketcall = "socketcall",
    /// socketpair(2)
    Socketpair = "socketpair",
    /// splice(2)
    Splice = "splice",
    /// write(2)
    Write = "write",
    /// writev(2)
    Writev = "writev",
}

impl Syscall {
    /// Its number in `abi`, if the call exists there.
    #[must_use]
    pub fn number(self, abi: Abi) -> Option<i32> {
        arch::number(self, abi)
    }

    /// The call with this number.
    #[must_use]
    pub fn from_number(number: i32, abi: Abi) -> Option<Self> {
        Self::ALL.iter().copied().find(|call| call.number(abi) == Some(number))
    }
}

/// A call that a thread is stopped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterceptedCall {
    /// Names this call among all that the backend ever reports.
    pub id: u64,
    /// The thread that makes it.
    pub tid: Pid,
    /// The interface that it was made through.
    pub abi: Abi,
    /// Which call.
    pub syscall: Syscall,
    /// Its arguments as the registers hold them.
    pub args: [u64; 6],
}

impl InterceptedCall {
    /// Argument `index` (0 to 5) as the kernel's 32-bit `int`.
    #[must_use]
    pub fn int(&self, index: usize) -> i32 {
        self.arg(index) as i32
    }

    /// Argument `index` (0 to 5) in full; for i386 the upper half is zero.
    #[must_use]
    pub fn arg(&self, index: usize) -> u64 {
        let value = self.args.get(index).copied().unwrap_or(0);
        if self.abi == Abi::I386 { value & 0xFFFF_FFFF } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_in_every_abi() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64] {
            for call in Syscall::ALL {
                if let Some(number) = call.number(abi) {
                    assert_eq!(Syscall::from_number(number, abi), Some(*call), "{abi:?} {call:?}");
                }
            }
        }
    }

    #[test]
    fn i386_arguments_lose_their_upper_half() {
        let call = InterceptedCall {
            id: 0,
            tid: Pid::from_raw(1),
            abi: Abi::I386,
            syscall: Syscall::Connect,
            args: [u64::MAX; 6],
        };
        assert_eq!(call.arg(1), 0xFFFF_FFFF);
        assert_eq!(call.int(0), -1);
    }
}
