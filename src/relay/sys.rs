//! The socket calls that the relay needs, beyond what nix has.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername, getsockname, recv,
    send, setsockopt, socket, sockopt,
};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `TCP_CLOSE`, `TCP_SYN_SENT`: include/net/tcp_states.h.
pub const CLOSE: u8 = 7;
/// See [`CLOSE`].
pub const ESTABLISHED: u8 = 1;
/// See [`CLOSE`].
pub const SYN_SENT: u8 = 2;
/// See [`CLOSE`].
pub const SYN_RECV: u8 = 3;

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;

/// A TCP socket of the calling thread's network namespace.
pub fn tcp_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// bind(2)
pub fn bind_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// bind(2) to an address that other sockets of ours are bound to as well.
pub fn bind_shared(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    bind_to(socket, address)
}

/// connect(2)
pub fn connect_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// getsockname(2) of an internet socket.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    internet(&getsockname(socket.as_raw_fd())?)
}

/// getpeername(2) of an internet socket.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    internet(&getpeername(socket.as_raw_fd())?)
}

fn internet(name: &SockaddrStorage) -> Result<SocketAddr, Errno> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from(std::net::SocketAddrV4::from(*name)));
    let v6 = || name.as_sockaddr_in6().map(|name| SocketAddr::from(std::net::SocketAddrV6::from(*name)));
    v4.or_else(v6).ok_or(Errno::EAFNOSUPPORT)
}

/// An IPv4 address as an IPv6 socket writes it.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// An IPv4-mapped address as IPv4.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => SocketAddr::new(ip.to_canonical(), address.port()),
        _ => address,
    }
}

/// Whether the address is `::` or `0.0.0.0`, mapped or not.
#[must_use]
pub fn is_unspecified(address: IpAddr) -> bool {
    address.to_canonical().is_unspecified() || address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Dissolves an association or an attempt to connect: connect(2) to `AF_UNSPEC`.
pub fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let nowhere = [0_u8; size_of::<libc::sockaddr>()];
    let length = nowhere.len() as libc::socklen_t;
    // SAFETY: bytes of our own and their length.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), nowhere.as_ptr().cast(), length) }).map(drop)
}

fn option<const N: usize>(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<([u8; N], usize), Errno> {
    let mut value = [0_u8; N];
    let mut length = N as libc::socklen_t;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: a buffer of our own and its size.
    Errno::result(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, pointer, &raw mut length) })?;
    Ok((value, (length as usize).min(N)))
}

fn set_int(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let length = size_of::<i32>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: an int of our own and its size.
    Errno::result(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) }).map(drop)
}

/// The state of a TCP socket, the first byte of `struct tcp_info`.
pub fn tcp_state(socket: BorrowedFd<'_>) -> Result<u8, Errno> {
    let ([state], _) = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(state)
}

/// `SO_ERROR`: the error that waits for the program. Reading it takes it away.
pub fn take_error(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let (value, _) = option(socket, libc::SOL_SOCKET, libc::SO_ERROR)?;
    match i32::from_ne_bytes(value) {
        0 => Ok(()),
        number => Err(Errno::from_raw(number)),
    }
}

/// `SO_COOKIE`: a number that no other socket of this machine has, nor ever had since it booted.
pub fn cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let (value, _) = option(socket, libc::SOL_SOCKET, libc::SO_COOKIE)?;
    Ok(u64::from_ne_bytes(value))
}

/// The socket's network namespace, as a number of its own; `None` where the kernel can't tell.
#[must_use]
pub fn namespace_cookie(socket: BorrowedFd<'_>) -> Option<u64> {
    let (value, _) = option(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    Some(u64::from_ne_bytes(value))
}

/// The interface that the socket is bound to (`SO_BINDTODEVICE`).
pub fn device(socket: BorrowedFd<'_>) -> Result<Option<String>, Errno> {
    let (name, length) = option::<{ libc::IFNAMSIZ }>(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE)?;
    let name = name.get(..length).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
}

/// Takes `SO_BINDTODEVICE` back; only who has `CAP_NET_RAW` may.
pub fn unbind_device(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, 0)
}

/// Whether connect(2) would only remember the address, and the SYN go with the first data
/// (`TCP_FASTOPEN_CONNECT`).
#[must_use]
pub fn connects_later(socket: BorrowedFd<'_>) -> bool {
    let option = option::<4>(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT);
    option.is_ok_and(|(value, _)| i32::from_ne_bytes(value) != 0)
}

/// Turns `TCP_FASTOPEN_CONNECT` off; EINVAL where the socket isn't closed.
pub fn connect_at_once(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 0)
}

/// What `IP_TTL` can be at most.
pub const MOST_HOPS: i32 = 255;

/// `IPV6_MINHOPCOUNT` (include/uapi/linux/in6.h).
const IPV6_MINHOPCOUNT: i32 = 73;

/// How many hops the socket's packets may take, by either protocol.
pub fn hops(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let (four, _) = option(socket, libc::IPPROTO_IP, libc::IP_TTL)?;
    // An IPv4 socket has no IPv6 options; −1 is the default, far from the most.
    let six = option(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS).map_or([0; 4], |(value, _)| value);
    Ok(i32::from_ne_bytes(four).max(i32::from_ne_bytes(six)))
}

/// The socket is to drop packets that have less than the most hops left (RFC 5082): all but such as were sent
/// so on purpose.
pub fn hear_nobody(socket: BorrowedFd<'_>, v6: bool) -> Result<(), Errno> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) } else { (libc::IPPROTO_IP, libc::IP_MINTTL) };
    set_int(socket, level, name, MOST_HOPS)
}

/// Whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`).
#[must_use]
pub fn is_v6_only(socket: BorrowedFd<'_>) -> bool {
    let option = option::<4>(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    option.is_ok_and(|(value, _)| i32::from_ne_bytes(value) != 0)
}

/// Sends small writes at once: what the other end sent in pieces isn't held back here.
pub fn send_at_once(socket: BorrowedFd<'_>) {
    // A UNIX socket has no such option, and needs none.
    let _: Result<(), Errno> = set_int(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
}

/// Closing the socket is to reset its connection.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // It can't fail for a socket; if it did, the other end would see an end instead of a reset.
    let _: Result<(), Errno> = setsockopt(&socket, sockopt::Linger, &linger);
}

/// `SIOCATMARK` (include/uapi/asm-generic/sockios.h).
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Whether the next byte to be read is the urgent one (sockatmark(3)).
#[must_use]
pub fn is_at_mark(socket: BorrowedFd<'_>) -> bool {
    let mut mark = 0_i32;
    // SAFETY: the kernel writes an int of our own.
    (unsafe { libc::ioctl(socket.as_raw_fd(), SIOCATMARK, &raw mut mark) }) == 0 && mark != 0
}

/// recv(2) without waiting.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
    recv(socket.as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT)
}

/// send(2) without waiting and without SIGPIPE.
pub fn transmit(socket: BorrowedFd<'_>, bytes: &[u8], flags: MsgFlags) -> Result<usize, Errno> {
    send(socket.as_raw_fd(), bytes, flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Whether `address` is one of the host's own: then a socket can be bound to it.
#[must_use]
pub fn is_own(address: IpAddr, make: impl FnOnce(&SocketAddr) -> Result<OwnedFd, Errno>) -> bool {
    let address = SocketAddr::new(address, 0);
    address.ip().is_loopback() || make(&address).is_ok_and(|probe| bind_to(probe.as_fd(), address).is_ok())
}
