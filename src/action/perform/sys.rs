//! The socket calls that are performed, over bytes and plain numbers: nix's typed addresses can't hold
//! what a tracee may give.

use super::receive::Received;
use crate::operation::address::STORAGE_BYTES;
use crate::operation::decode::Sockaddr;
use crate::operation::{Family, SocketKind, SocketType};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What kind of socket it is.
///
/// # Errors
/// ENOTSOCK; EBADF for a descriptor that was opened with `O_PATH`.
///
/// It is remembered by the socket's cookie (`SO_COOKIE`, Linux 4.12), a number that no other socket ever has.
pub fn kind(socket: BorrowedFd<'_>) -> Result<SocketKind, Errno> {
    let family = || int_option(socket, libc::SO_DOMAIN).map(Family);
    let cookie = option(socket, libc::SO_COOKIE, 0_u64).unwrap_or(0);
    KNOWN.with(|known| {
        let place = known.get(cookie as usize % KNOWN_KINDS).filter(|_| cookie != 0);
        if let Some((_, kind)) = place.map(Cell::get).filter(|(of, _)| *of == cookie) {
            // IPV6_ADDRFORM turns IPv6 sockets into IPv4 ones. Nothing else ever changes.
            return Ok(if kind.family == Family::INET6 { SocketKind { family: family()?, ..kind } } else { kind });
        }
        let kind = SocketKind {
            family: family()?,
            kind: SocketType(int_option(socket, libc::SO_TYPE)?),
            protocol: int_option(socket, libc::SO_PROTOCOL)?,
        };
        let constant = matches!(kind.family, Family::UNIX | Family::INET | Family::INET6 | Family::NETLINK);
        if let Some(place) = place.filter(|_| constant) {
            place.set((cookie, kind));
        }
        Ok(kind)
    })
}

const KNOWN_KINDS: usize = 64;
const UNKNOWN: SocketKind = SocketKind { family: Family::UNSPEC, kind: SocketType(0), protocol: 0 };

thread_local! {
    /// Cookies and kinds, at the place that the cookie tells. (No socket has the cookie 0.)
    static KNOWN: [Cell<(u64, SocketKind)>; KNOWN_KINDS] =
        const { [const { Cell::new((0, UNKNOWN)) }; KNOWN_KINDS] };
}

fn int_option(socket: BorrowedFd<'_>, name: i32) -> Result<i32, Errno> {
    option(socket, name, 0)
}

fn option<T: Number>(socket: BorrowedFd<'_>, name: i32, value: T) -> Result<T, Errno> {
    option_of(socket, libc::SOL_SOCKET, name, value)
}

fn option_of<T: Number>(socket: BorrowedFd<'_>, level: i32, name: i32, mut value: T) -> Result<T, Errno> {
    let mut length = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: a value of our own, which any bytes make valid, and its size.
    Errno::result(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// What any bytes make a valid value of: numbers, and structures of numbers.
trait Number: Copy {}
impl Number for i32 {}
impl Number for u64 {}
impl Number for libc::timeval {}

/// Whether the socket has a send timeout (`SO_SNDTIMEO`): then an interrupted call isn't restarted
/// (`sock_intr_errno`, include/net/sock.h).
pub fn has_send_timeout(socket: BorrowedFd<'_>) -> bool {
    has_timeout(socket, libc::SO_SNDTIMEO)
}

/// Whether the socket has a receive timeout (`SO_RCVTIMEO`).
pub fn has_receive_timeout(socket: BorrowedFd<'_>) -> bool {
    has_timeout(socket, libc::SO_RCVTIMEO)
}

fn has_timeout(socket: BorrowedFd<'_>, name: i32) -> bool {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    option(socket, name, none).is_ok_and(|timeout| timeout.tv_sec != 0 || timeout.tv_usec != 0)
}

/// `SO_ACCEPTCONN`
pub fn is_listening(socket: BorrowedFd<'_>) -> bool {
    int_option(socket, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
}

/// Whether the open file description is non-blocking. Unknown counts as blocking.
pub fn is_nonblocking(socket: impl AsFd) -> bool {
    fcntl(socket, FcntlArg::F_GETFL).is_ok_and(|flags| flags & OFlag::O_NONBLOCK.bits() != 0)
}

/// How long a message may be that a UNIX stream takes whole or not at all: what fits in one buffer
/// (`unix_stream_sendmsg`, net/unix/af_unix.c).
pub fn whole_on_unix_stream(socket: BorrowedFd<'_>) -> u64 {
    const LARGEST: u64 = 32 << 10; // UNIX_SKB_FRAGS_SZ
    let room = int_option(socket, libc::SO_SNDBUF).unwrap_or(0);
    (u64::try_from(room).unwrap_or(0) / 2).saturating_sub(64).min(LARGEST)
}

/// Whether a TCP socket may be connected by its first send (`TCP_FASTOPEN_CONNECT`, tcp(7)).
pub fn connects_by_sending(socket: BorrowedFd<'_>) -> bool {
    option_of(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 0) != Ok(0)
}

type NameCall = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;

fn name(socket: BorrowedFd<'_>, call: NameCall) -> Result<Sockaddr, Errno> {
    let mut bytes = [0_u8; STORAGE_BYTES];
    let mut length = STORAGE_BYTES as libc::socklen_t;
    // SAFETY: a buffer of our own and its size.
    Errno::result(unsafe { call(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length) })?;
    Ok(Sockaddr::from_bytes(bytes.get(..length as usize).unwrap_or(&bytes)))
}

/// Whether the socket peeks at a place of its own (`SO_PEEK_OFF`), which peeking moves.
pub fn peeks_at(socket: BorrowedFd<'_>) -> bool {
    option(socket, libc::SO_PEEK_OFF, -1_i32).is_ok_and(|offset| offset >= 0)
}

/// getsockname(2)
pub fn local_name(socket: BorrowedFd<'_>) -> Result<Sockaddr, Errno> {
    name(socket, libc::getsockname)
}

/// getpeername(2)
pub fn peer_name(socket: BorrowedFd<'_>) -> Result<Sockaddr, Errno> {
    name(socket, libc::getpeername)
}

/// connect(2)
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: bytes of our own and their length.
    let result =
        unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    Errno::result(result).map(drop)
}

/// bind(2)
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: bytes of our own and their length.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    Errno::result(result).map(drop)
}

/// listen(2)
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// setsockopt(2)
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: bytes of our own and their length.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    Errno::result(result).map(drop)
}

/// sendto(2): unlike sendmsg, it heeds an address of no length, which most families refuse.
fn send_to(socket: BorrowedFd<'_>, address: &[u8], payload: &[u8], flags: i32) -> Result<usize, Errno> {
    let (fd, length) = (socket.as_raw_fd(), address.len() as libc::socklen_t);
    // SAFETY: bytes of our own and their lengths.
    let sent =
        unsafe { libc::sendto(fd, payload.as_ptr().cast(), payload.len(), flags, address.as_ptr().cast(), length) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// Sends a message. Returns how many bytes were sent.
pub fn send(
    socket: BorrowedFd<'_>,
    address: Option<&[u8]>,
    payload: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    if let (Some(address), []) = (address, control) {
        return send_to(socket, address, payload, flags);
    }
    let vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    send_message(socket, address, vector, control, flags)
}

/// Sends a payload that the kernel can't read, for the errno.
pub fn send_unreadable(
    socket: BorrowedFd<'_>,
    address: Option<&[u8]>,
    length: usize,
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    // The first page is never mapped (mmap_min_addr).
    let vector = libc::iovec { iov_base: std::ptr::without_provenance_mut(1), iov_len: length };
    send_message(socket, address, vector, control, flags)
}

fn send_message(
    socket: BorrowedFd<'_>,
    address: Option<&[u8]>,
    mut vector: libc::iovec,
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    // SAFETY: all fields are integers or pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if let Some(address) = address {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len() as libc::socklen_t;
    }
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len();
    }
    // SAFETY: the call only reads what the message points to: memory of our own that outlives it, or a page
    // that isn't there, which the kernel answers with EFAULT.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// setsockopt(2) with a value that the kernel can't read, for the errno.
pub fn set_unreadable_option(socket: BorrowedFd<'_>, level: i32, name: i32, length: i32) -> Result<(), Errno> {
    let value = std::ptr::without_provenance::<libc::c_void>(1);
    // SAFETY: the page isn't there, which the kernel answers with EFAULT.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length as libc::socklen_t) };
    Errno::result(result).map(drop)
}

/// Receives a message, with room for so many bytes of payload and of control messages.
pub fn receive(socket: BorrowedFd<'_>, room: usize, control: usize, flags: i32) -> Result<Received, Errno> {
    let (mut payload, mut controls) = (vec![0_u8; room], vec![0_u8; control]);
    let mut source = [0_u8; STORAGE_BYTES];
    let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: all fields are integers or pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = source.as_mut_ptr().cast();
    message.msg_namelen = STORAGE_BYTES as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !controls.is_empty() {
        message.msg_control = controls.as_mut_ptr().cast();
        message.msg_controllen = controls.len();
    }
    // SAFETY: the call writes to buffers of our own, within the sizes given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(received)? as usize;
    payload.truncate(length);
    controls.truncate(message.msg_controllen);
    let name = source.get(..message.msg_namelen as usize).filter(|name| !name.is_empty());
    Ok(Received {
        payload,
        length,
        source: name.map(Sockaddr::from_bytes),
        control: controls,
        flags: message.msg_flags,
    })
}

/// The index of the interface that the socket's packets go to whatever their destination: `SO_BINDTODEVICE`,
/// or `IP_UNICAST_IF` and its like. 0 for none.
pub fn bound_interface(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    const SO_BINDTOIFINDEX: i32 = 62; // <asm-generic/socket.h>; Linux 5.1
    const IP_UNICAST_IF: i32 = 50; // <linux/in.h>
    const IPV6_UNICAST_IF: i32 = 76; // <linux/in6.h>
    let device = int_option(socket, SO_BINDTOIFINDEX)?;
    // In network byte order; an IPv4 socket has no IPv6 options.
    let four = option_of(socket, libc::IPPROTO_IP, IP_UNICAST_IF, 0_i32).unwrap_or(0);
    let six = option_of(socket, libc::IPPROTO_IPV6, IPV6_UNICAST_IF, 0_i32).unwrap_or(0);
    let unicast = if four == 0 { six } else { four };
    Ok(if device == 0 { u32::from_be(unicast as u32) } else { device as u32 })
}

/// A number for the network namespace that the socket was made in (Linux 5.14).
pub fn network_namespace(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    const SO_NETNS_COOKIE: i32 = 71; // <asm-generic/socket.h>
    option(socket, SO_NETNS_COOKIE, 0)
}
