//! From registers and raw memory to what a call asks for.
//!
//! Everything is copied from the tracee once; what is judged and what is performed is that copy. Where
//! the kernel would refuse the arguments, the errno is kept in its place (`Result<_, Errno>`), because the
//! order in which the kernel checks descriptor, address and message is observable.

use super::Way;
use super::address::{Address, STORAGE_BYTES};
use super::layout::{self, MessageHeader, Unreadable, Vector, copy};
use super::socket::Family;
use nix::errno::Errno;
use sockstrace_backend::{Abi, InterceptedCall, Syscall, Tracee};
use std::net::SocketAddr;

/// `UIO_MAXIOV` (include/uapi/linux/uio.h): vectors of a message, and messages of a sendmmsg.
pub const MAX_VECTORS: u64 = 1024;

/// `MSG_CMSG_COMPAT` (include/linux/socket.h)
pub const MSG_CMSG_COMPAT: i32 = i32::MIN;

/// More control data than this is refused as the kernel refuses what exceeds `net.core.optmem_max`.
const MAX_CONTROL: u64 = 1 << 20;

/// A call with its arguments, `socketcall` taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arguments {
    /// Which call.
    pub syscall: Syscall,
    /// Through which interface.
    pub abi: Abi,
    /// Its arguments.
    pub args: [u64; 6],
    /// They were copied from memory, which may hold something else by the time the kernel reads it.
    pub from_memory: bool,
}

impl Arguments {
    /// Those of `call`; `None` where a `socketcall` is none of ours.
    pub fn of(call: &InterceptedCall, tracee: &dyn Tracee) -> Result<Option<Self>, Unreadable> {
        let args = std::array::from_fn(|index| call.arg(index));
        let direct = Self { syscall: call.syscall, abi: call.abi, args, from_memory: false };
        if call.syscall != Syscall::Socketcall {
            return Ok(Some(direct));
        }
        let Some((syscall, count)) = multiplexed(call.int(0)) else { return Ok(None) };
        let mut bytes = [0; 24];
        let wanted = bytes.get_mut(..count * 4).unwrap_or_default();
        copy(tracee, call.arg(1), wanted)?;
        let args = std::array::from_fn(|index| layout::number(&bytes, index * 4, 4));
        Ok(Some(Self { syscall, args, from_memory: true, ..direct }))
    }

    /// Argument `index` as an `int`.
    #[must_use]
    pub fn int(&self, index: usize) -> i32 {
        self.arg(index) as i32
    }

    /// Argument `index`.
    #[must_use]
    pub fn arg(&self, index: usize) -> u64 {
        self.args.get(index).copied().unwrap_or(0)
    }
}

/// The call behind a `socketcall` number, and how many arguments it has: net/socket.c, `nargs`.
fn multiplexed(number: i32) -> Option<(Syscall, usize)> {
    Some(match number {
        1 => (Syscall::Socket, 3),
        2 => (Syscall::Bind, 3),
        3 => (Syscall::Connect, 3),
        4 => (Syscall::Listen, 2),
        5 => (Syscall::Accept, 3),
        6 => (Syscall::Getsockname, 3),
        7 => (Syscall::Getpeername, 3),
        8 => (Syscall::Socketpair, 4),
        9 => (Syscall::Send, 4),
        10 => (Syscall::Recv, 4),
        11 => (Syscall::Sendto, 6),
        12 => (Syscall::Recvfrom, 6),
        14 => (Syscall::Setsockopt, 5),
        15 => (Syscall::Getsockopt, 5),
        16 => (Syscall::Sendmsg, 3),
        17 => (Syscall::Recvmsg, 3),
        18 => (Syscall::Accept4, 4),
        19 => (Syscall::Recvmmsg, 5),
        20 => (Syscall::Sendmmsg, 4),
        _ => return None,
    })
}

/// The bytes of a `struct sockaddr`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sockaddr {
    bytes: [u8; STORAGE_BYTES],
    length: usize,
}

impl Sockaddr {
    /// The bytes, as many as the caller gave.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// From bytes; what exceeds the kernel's storage is cut.
    #[must_use]
    pub fn from_bytes(given: &[u8]) -> Self {
        let mut bytes = [0; STORAGE_BYTES];
        let length = given.len().min(STORAGE_BYTES);
        bytes.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
        Self { bytes, length }
    }

    /// The bytes for an address, in the layout of `family`: in IPv6's, an IPv4 address is a mapped one.
    #[must_use]
    pub fn for_internet(address: SocketAddr, family: Family) -> Self {
        let mut bytes = (family.0 as u16).to_ne_bytes().to_vec();
        bytes.extend(address.port().to_be_bytes());
        let (six, flow, scope) = match address {
            SocketAddr::V4(four) if family != Family::INET6 => {
                bytes.extend(four.ip().octets());
                bytes.extend([0; 8]); // padding
                return Self::from_bytes(&bytes);
            }
            SocketAddr::V4(four) => (four.ip().to_ipv6_mapped(), 0, 0),
            SocketAddr::V6(six) => (*six.ip(), six.flowinfo(), six.scope_id()),
        };
        bytes.extend(flow.to_be_bytes());
        bytes.extend(six.octets());
        bytes.extend(scope.to_ne_bytes());
        Self::from_bytes(&bytes)
    }

    /// The address that they mean.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::parse(self.as_bytes())
    }
}

impl std::fmt::Debug for Sockaddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sockaddr({:?})", self.address())
    }
}

/// Copies an address as `move_addr_to_kernel` does (net/socket.c).
pub fn sockaddr(tracee: &dyn Tracee, address: u64, length: i32) -> Result<Result<Sockaddr, Errno>, Unreadable> {
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= STORAGE_BYTES) else {
        return Ok(Err(Errno::EINVAL));
    };
    let mut bytes = [0; STORAGE_BYTES];
    match copy(tracee, address, bytes.get_mut(..length).unwrap_or_default()) {
        Ok(()) => Ok(Ok(Sockaddr { bytes, length })),
        Err(Unreadable::Fault) => Ok(Err(Errno::EFAULT)),
        Err(other) => Err(other),
    }
}

/// One message to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The address given with it.
    pub name: Option<Sockaddr>,
    /// Where its payload lies in the tracee.
    pub payload: Payload,
    /// Its control messages, in the tracee's ABI.
    pub control: Vec<u8>,
    /// The flags of the call.
    pub flags: i32,
}

/// Where a payload lies.
#[derive(Debug, Clone)]
pub enum Payload {
    /// In one piece.
    One(Vector),
    /// In several.
    Many(Vec<Vector>),
}

impl Payload {
    /// The pieces.
    #[must_use]
    pub fn vectors(&self) -> &[Vector] {
        match self {
            Self::One(vector) => std::slice::from_ref(vector),
            Self::Many(vectors) => vectors,
        }
    }

    /// The sum of their lengths.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.vectors().iter().fold(0, |sum, vector| sum.saturating_add(vector.length))
    }
}

/// The message of a sendto.
pub fn sendto_message(tracee: &dyn Tracee, call: &Arguments) -> Result<Result<Message, Errno>, Unreadable> {
    let name = match call.arg(4) {
        0 => None,
        address => match sockaddr(tracee, address, call.int(5))? {
            Ok(name) => Some(name),
            Err(errno) => return Ok(Err(errno)),
        },
    };
    let payload = Payload::One(Vector { base: call.arg(1), length: call.arg(2) });
    Ok(Ok(Message { name, payload, control: Vec::new(), flags: call.int(3) }))
}

/// The message behind a `struct msghdr` at `address`, checked in the order of `copy_msghdr_from_user` and
/// `____sys_sendmsg` (net/socket.c).
pub fn message_at(
    tracee: &dyn Tracee,
    abi: Abi,
    address: u64,
    flags: i32,
) -> Result<Result<Message, Errno>, Unreadable> {
    // The flag is the kernel's own, for 32-bit callers; from 64-bit ones it is refused.
    if abi != Abi::I386 && flags & MSG_CMSG_COMPAT != 0 {
        return Ok(Err(Errno::EINVAL));
    }
    let read = layout::message_header(tracee, abi, address).and_then(|header| {
        Ok(match name_of(tracee, &header)? {
            Err(errno) => Err(errno),
            Ok(name) if header.vector_count <= MAX_VECTORS => {
                let vectors = layout::vectors(tracee, abi, header.vectors, header.vector_count as usize)?;
                // A length that is negative as ssize_t: EINVAL (`__import_iovec`).
                let limit = if abi.pointer_bytes() == 4 { i32::MAX as u64 } else { i64::MAX as u64 };
                if vectors.iter().any(|vector| vector.length > limit) {
                    return Ok(Err(Errno::EINVAL));
                }
                control_of(tracee, abi, &header)?.map(|control| Message {
                    name,
                    payload: Payload::Many(vectors),
                    control,
                    flags,
                })
            }
            Ok(_) => Err(Errno::EMSGSIZE),
        })
    });
    match read {
        Err(Unreadable::Fault) => Ok(Err(Errno::EFAULT)),
        other => other,
    }
}

fn name_of(tracee: &dyn Tracee, header: &MessageHeader) -> Result<Result<Option<Sockaddr>, Errno>, Unreadable> {
    match (header.name, header.name_length) {
        (0, _) | (_, 0) => Ok(Ok(None)),
        (_, ..0) => Ok(Err(Errno::EINVAL)),
        // Unlike connect and sendto, sendmsg cuts what is too long.
        (name, length) => {
            let cut = usize::try_from(length).unwrap_or(0).min(STORAGE_BYTES);
            Ok(sockaddr(tracee, name, cut as i32)?.map(Some))
        }
    }
}

fn control_of(tracee: &dyn Tracee, abi: Abi, header: &MessageHeader) -> Result<Result<Vec<u8>, Errno>, Unreadable> {
    if header.control_length == 0 {
        return Ok(Ok(Vec::new()));
    }
    if header.control_length > i32::MAX as u64 {
        return Ok(Err(Errno::ENOBUFS));
    }
    // `cmsghdr_from_user_compat_to_kern` (net/compat.c) walks the headers first, and wants one.
    if abi == Abi::I386 && !has_compat_control(tracee, header)? {
        return Ok(Err(Errno::EINVAL));
    }
    if header.control_length > MAX_CONTROL {
        return Ok(Err(Errno::ENOBUFS));
    }
    let mut control = vec![0; header.control_length as usize];
    copy(tracee, header.control, &mut control)?;
    Ok(Ok(control))
}

/// Whether the first 32-bit control message has a length that can be.
fn has_compat_control(tracee: &dyn Tracee, header: &MessageHeader) -> Result<bool, Unreadable> {
    const HEADER: u64 = 12; // struct compat_cmsghdr
    if header.control == 0 || header.control_length < HEADER {
        return Ok(false);
    }
    let mut length = [0; 4];
    copy(tracee, header.control, &mut length)?;
    Ok((HEADER..=header.control_length).contains(&u64::from(u32::from_ne_bytes(length))))
}

/// The way that control messages give a packet: IP source routing (`IP_RETOPTS`, ip(7)), an IPv6 routing
/// header (RFC 3542), or an interface (`IP_PKTINFO`, `IPV6_PKTINFO`) or routing mark of their choice.
#[must_use]
pub fn way(control: &[u8], abi: Abi) -> Way {
    let ways =
        layout::control_messages(control, abi).flatten().map(|message| match (message.level, message.kind) {
            (libc::IPPROTO_IP, libc::IP_RETOPTS) if has_source_route(message.data) => Way::SourceRouted,
            (libc::IPPROTO_IPV6, libc::IPV6_RTHDR | IPV6_2292RTHDR) => Way::SourceRouted,
            // struct in_pktinfo begins, struct in6_pktinfo ends with the index.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if leads_out(message.data, 0) => Way::Chosen,
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO | IPV6_2292PKTINFO) if leads_out(message.data, 16) => {
                Way::Chosen
            }
            (libc::SOL_SOCKET, libc::SO_MARK) if layout::number(message.data, 0, 4) != 0 => Way::Chosen,
            _ => Way::ByDestination,
        });
    ways.fold(Way::ByDestination, |all, one| match (all, one) {
        (Way::SourceRouted, _) | (_, Way::SourceRouted) => Way::SourceRouted,
        (Way::Chosen, _) | (_, Way::Chosen) => Way::Chosen,
        _ => Way::ByDestination,
    })
}

/// Whether the interface index at `offset` names another interface than loopback, which is the first of
/// each network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
#[must_use]
pub fn leads_out(value: &[u8], offset: usize) -> bool {
    !matches!(layout::number(value, offset, 4), 0 | 1)
}

/// `IPV6_2292PKTINFO` of <linux/in6.h>.
pub const IPV6_2292PKTINFO: i32 = 2;

/// `IPV6_2292RTHDR` of <linux/in6.h>.
pub const IPV6_2292RTHDR: i32 = 5;

/// Whether IP options (RFC 791) hold a loose or strict source route. Options that make no sense count.
#[must_use]
pub fn has_source_route(options: &[u8]) -> bool {
    let mut rest = options;
    loop {
        rest = match *rest {
            [] | [0, ..] => return false,
            [1, ref after @ ..] => after,
            [0x83 | 0x89, ..] => return true,
            [_, length, ..] if length >= 2 => rest.get(usize::from(length)..).unwrap_or_default(),
            _ => return true,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_in_the_family_that_is_asked_for() {
        for (address, family, expected) in [
            ("192.0.2.1:53", Family::INET, "192.0.2.1:53"),
            ("192.0.2.1:53", Family::INET6, "192.0.2.1:53"),
            ("[fe80::1%7]:53", Family::INET6, "[fe80::1%7]:53"),
        ] {
            let bytes = Sockaddr::for_internet(address.parse().unwrap(), family);
            assert_eq!((bytes.address().family(), bytes.address().to_string().as_str()), (family, expected));
            assert_eq!(bytes.as_bytes().len(), if family == Family::INET { 16 } else { 28 });
        }
    }

    #[test]
    fn source_routes_are_found_behind_other_options() {
        assert!(has_source_route(&[1, 1, 0x83, 7, 4, 192, 0, 2, 1]));
        assert!(has_source_route(&[7, 3, 4, 0x89, 3, 4]));
        assert!(!has_source_route(&[7, 7, 4, 0, 0, 0, 0, 0]));
        assert!(!has_source_route(&[]));
        assert!(has_source_route(&[7, 0]), "nonsense is no reason to let it pass");
        assert!(has_source_route(&[7]));
    }
}
