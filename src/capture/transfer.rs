//! What a call moves, and where it lies: every way to read from a socket and to write to one.

use super::record::Direction;
use crate::operation::address::Address;
use crate::operation::decode::{Arguments, MAX_VECTORS, Sockaddr};
use crate::operation::layout::{self, MessageHeader, Unreadable, Vector};
use sockstrace_backend::{Abi, Syscall, Tracee};

/// So much of what a call writes is copied before the kernel does; the rest when it is known how much the
/// kernel took.
pub const EARLY: usize = 1 << 20;

/// Control messages beyond this are not looked at.
const CONTROL: u64 = 1 << 16;

/// What a call is to a capture.
#[derive(Debug)]
pub(super) enum Step {
    /// It moves bytes between this descriptor and memory.
    Memory {
        fd: i32,
        direction: Direction,
        messages: Vec<Message>,
        batch: bool,
        flags: i32,
    },
    /// From a file, from an offset that lies in memory with this width, to a socket.
    File {
        fd: i32,
        file: i32,
        offset: Option<(u64, usize)>,
    },
    /// Between a pipe and a socket.
    Pipe {
        input: i32,
        output: i32,
        length: u64,
    },
    Connect {
        fd: i32,
    },
    Accept {
        fd: i32,
    },
    Pair {
        at: u64,
    },
    Listen {
        fd: i32,
    },
    Close {
        fd: i32,
    },
}

/// One message, or all that a call moves.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub vectors: Vec<Vector>,
    /// Where its `struct msghdr` lies.
    pub header: Option<u64>,
    /// Where the kernel writes its length.
    pub length_at: Option<u64>,
    pub name: Name,
}

/// The address that comes with a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    None,
    /// Given: where, and its length.
    Given(u64, i32),
    /// To be had at the exit: where, and where its length lies.
    Taken(u64, u64),
    /// In the message's header.
    Header,
}

impl Step {
    /// The descriptor of the socket, where the call names it and it is but one.
    pub fn fd(&self) -> Option<i32> {
        match *self {
            Self::Memory { fd, .. }
            | Self::File { fd, .. }
            | Self::Connect { fd }
            | Self::Accept { fd }
            | Self::Listen { fd }
            | Self::Close { fd } => Some(fd),
            Self::Pipe { .. } | Self::Pair { .. } => None,
        }
    }

    /// What the call is; `None` where it moves nothing, or nothing anew.
    pub fn of(call: &Arguments, tracee: &dyn Tracee) -> Result<Option<Self>, Unreadable> {
        use Direction::{In, Out};
        let fd = call.int(0);
        let plain = |direction, flags, name| {
            let vectors = vec![Vector { base: call.arg(1), length: call.arg(2) }];
            let messages = vec![Message { vectors, header: None, length_at: None, name }];
            Self::Memory { fd, direction, messages, batch: false, flags }
        };
        let vectors = |direction| {
            let count = call.arg(2);
            if count > MAX_VECTORS {
                return Ok(None);
            }
            let vectors = layout::vectors(tracee, call.abi, call.arg(1), count as usize)?;
            let messages = vec![Message { vectors, header: None, length_at: None, name: Name::None }];
            Ok(Some(Self::Memory { fd, direction, messages, batch: false, flags: 0 }))
        };
        Ok(Some(match call.syscall {
            Syscall::Read => plain(In, 0, Name::None),
            Syscall::Write => plain(Out, 0, Name::None),
            Syscall::Recv => plain(In, call.int(3), Name::None),
            Syscall::Send => plain(Out, call.int(3), Name::None),
            Syscall::Sendto if call.arg(4) == 0 => plain(Out, call.int(3), Name::None),
            Syscall::Sendto => plain(Out, call.int(3), Name::Given(call.arg(4), call.int(5))),
            Syscall::Recvfrom if call.arg(4) == 0 => plain(In, call.int(3), Name::None),
            Syscall::Recvfrom => plain(In, call.int(3), Name::Taken(call.arg(4), call.arg(5))),
            Syscall::Readv | Syscall::Preadv2 => return vectors(In),
            Syscall::Writev | Syscall::Pwritev2 => return vectors(Out),
            Syscall::Sendmsg | Syscall::Recvmsg => {
                let direction = if call.syscall == Syscall::Sendmsg { Out } else { In };
                let Some(message) = message(tracee, call.abi, call.arg(1))? else { return Ok(None) };
                Self::Memory { fd, direction, messages: vec![message], batch: false, flags: call.int(2) }
            }
            Syscall::Sendmmsg | Syscall::Recvmmsg | Syscall::RecvmmsgTime64 => {
                let direction = if call.syscall == Syscall::Sendmmsg { Out } else { In };
                let messages = batch(tracee, call)?;
                Self::Memory { fd, direction, messages, batch: true, flags: call.int(3) }
            }
            Syscall::Sendfile | Syscall::Sendfile64 => {
                let width = if call.syscall == Syscall::Sendfile { call.abi.pointer_bytes() } else { 8 };
                let offset = Some((call.arg(2), width)).filter(|(at, _)| *at != 0);
                Self::File { fd, file: call.int(1), offset }
            }
            Syscall::Splice => Self::Pipe { input: fd, output: call.int(2), length: call.arg(4) },
            Syscall::Connect => Self::Connect { fd },
            Syscall::Accept | Syscall::Accept4 => Self::Accept { fd },
            Syscall::Socketpair => Self::Pair { at: call.arg(3) },
            Syscall::Listen => Self::Listen { fd },
            Syscall::Close => Self::Close { fd },
            _ => return Ok(None),
        }))
    }

    /// Whether what is read stays to be read again, or was never sent: MSG_PEEK, and the queue of errors, where
    /// the kernel returns what was sent.
    pub fn takes_nothing(&self) -> bool {
        const NOTHING: i32 = libc::MSG_PEEK | libc::MSG_ERRQUEUE;
        matches!(self, Self::Memory { direction: Direction::In, flags, .. } if flags & NOTHING != 0)
    }
}

fn message(tracee: &dyn Tracee, abi: Abi, at: u64) -> Result<Option<Message>, Unreadable> {
    let header = layout::message_header(tracee, abi, at)?;
    if header.vector_count > MAX_VECTORS {
        return Ok(None);
    }
    let vectors = layout::vectors(tracee, abi, header.vectors, header.vector_count as usize)?;
    Ok(Some(Message { vectors, header: Some(at), length_at: None, name: Name::Header }))
}

fn batch(tracee: &dyn Tracee, call: &Arguments) -> Result<Vec<Message>, Unreadable> {
    let (entry, header) = (layout::batch_entry_bytes(call.abi), layout::message_header_bytes(call.abi));
    let count = (call.arg(2) & 0xFFFF_FFFF).min(MAX_VECTORS);
    let mut messages = Vec::new();
    for index in 0..count {
        let at = call.arg(1).wrapping_add(index.wrapping_mul(entry as u64));
        match message(tracee, call.abi, at) {
            Ok(Some(message)) => {
                messages.push(Message { length_at: Some(at.wrapping_add(header as u64)), ..message });
            }
            // The kernel gets as far.
            Ok(None) | Err(Unreadable::Fault) => break,
            Err(other) => return Err(other),
        }
    }
    Ok(messages)
}

/// The bytes of `vectors` from `skip` on, up to `limit` of them, as far as they can be read.
pub(super) fn gather(
    tracee: &dyn Tracee,
    vectors: &[Vector],
    skip: u64,
    limit: usize,
) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    let mut skip = skip;
    for vector in vectors {
        let skipped = skip.min(vector.length);
        skip = skip.saturating_sub(skipped);
        let base = vector.base.wrapping_add(skipped);
        let room = limit.saturating_sub(bytes.len());
        let wanted = usize::try_from(vector.length.saturating_sub(skipped)).unwrap_or(usize::MAX).min(room);
        if wanted == 0 {
            continue;
        }
        let start = bytes.len();
        bytes.resize(start.saturating_add(wanted), 0);
        match tracee.read(base, bytes.get_mut(start..).unwrap_or_default()) {
            Ok(length) if length == wanted => {}
            Ok(length) => {
                bytes.truncate(start.saturating_add(length));
                break;
            }
            Err(error) => {
                bytes.truncate(start);
                match Unreadable::from(error) {
                    Unreadable::Fault => break,
                    other => return Err(other),
                }
            }
        }
    }
    Ok(bytes)
}

/// Address and control messages of a message, as they are now: of one that was received, at its exit.
pub(super) fn surroundings(
    tracee: &dyn Tracee,
    abi: Abi,
    message: &Message,
) -> Result<(Option<Address>, Vec<u8>), Unreadable> {
    let header = match message.header {
        Some(at) => layout::message_header(tracee, abi, at)?,
        None => MessageHeader::default(),
    };
    let (at, length) = match message.name {
        Name::None => (0, 0),
        Name::Given(at, length) => (at, length),
        Name::Taken(at, length_at) => {
            let mut length = [0; 4];
            layout::copy(tracee, length_at, &mut length)?;
            (at, i32::from_ne_bytes(length))
        }
        Name::Header => (header.name, header.name_length),
    };
    let length = usize::try_from(length).unwrap_or(0).min(crate::operation::address::STORAGE_BYTES);
    let mut name = vec![0; if at == 0 { 0 } else { length }];
    layout::copy(tracee, at, &mut name)?;
    let mut control = vec![0; header.control_length.min(CONTROL) as usize];
    if header.control == 0 {
        control.clear();
    }
    layout::copy(tracee, header.control, &mut control)?;
    let address = (!name.is_empty()).then(|| Sockaddr::from_bytes(&name).address());
    Ok((address, control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::unistd::Pid;
    use sockstrace_backend::MemoryError;
    use std::os::fd::OwnedFd;

    /// Memory from address 1000 on.
    struct Memory(Vec<u8>);
    impl Tracee for Memory {
        fn tid(&self) -> Pid {
            Pid::this()
        }
        fn pid(&self) -> Pid {
            Pid::this()
        }
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError> {
            let start = address.checked_sub(1000).ok_or(MemoryError::Fault)?;
            let there = self.0.get(start as usize..).filter(|there| !there.is_empty()).ok_or(MemoryError::Fault)?;
            let length = there.len().min(buffer.len());
            buffer[..length].copy_from_slice(&there[..length]);
            Ok(length)
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), MemoryError> {
            Err(MemoryError::Denied)
        }
        fn duplicate(&self, _: i32) -> Result<OwnedFd, Errno> {
            Err(Errno::EBADF)
        }
        fn is_waiting(&self) -> bool {
            true
        }
    }

    fn vector(base: u64, length: u64) -> Vector {
        Vector { base, length }
    }

    #[test]
    fn bytes_are_gathered_in_order_within_bounds() {
        let memory = Memory(b"0123456789".to_vec());
        let vectors = [vector(1002, 3), vector(0, 0), vector(1000, 2), vector(1008, u64::MAX)];
        let gather = |skip, limit| gather(&memory, &vectors, skip, limit).unwrap();
        assert_eq!(gather(0, 100), b"2340189");
        assert_eq!(gather(0, 4), b"2340");
        assert_eq!(gather(4, 100), b"189");
        assert_eq!(gather(5, 1), b"8");
        assert!(gather(9, 100).is_empty());
        assert!(super::gather(&memory, &[vector(5, 4)], 0, 9).unwrap().is_empty());
    }

    #[test]
    fn peeking_takes_nothing() {
        let of = |syscall, flags| {
            let args = [3, 1000, 5, flags, 0, 0];
            Step::of(&Arguments { syscall, abi: Abi::X86_64, args, from_memory: false }, &Memory(Vec::new()))
        };
        let peeks = |syscall, flags| of(syscall, flags as u64).unwrap().unwrap().takes_nothing();
        assert!(peeks(Syscall::Recvfrom, libc::MSG_PEEK | libc::MSG_DONTWAIT));
        assert!(peeks(Syscall::Recv, libc::MSG_ERRQUEUE));
        assert!(!peeks(Syscall::Recvfrom, libc::MSG_DONTWAIT));
        // The flag means nothing to a send, nor to a read.
        assert!(!peeks(Syscall::Sendto, libc::MSG_PEEK) && !peeks(Syscall::Read, libc::MSG_PEEK));
        assert!(of(Syscall::Socket, 0).unwrap().is_none());
    }
}
