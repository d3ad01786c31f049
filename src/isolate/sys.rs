//! The socket calls of gates, with addresses of the standard library.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto, setsockopt, sockopt};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// socket(2), close-on-exec.
pub fn socket(family: i32, kind: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only.
    let fd = Errno::result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2)
pub fn bind(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<(), Errno> {
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(*address))
}

/// connect(2)
pub fn connect(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<(), Errno> {
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(*address))
}

/// `SO_REUSEADDR`
pub fn set_reuse(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    setsockopt(&socket, sockopt::ReuseAddr, &true)
}

/// Lets it be bound to any address that is routed as a local one: for IPv6 that isn't enough by itself.
pub fn set_freebind(socket: BorrowedFd<'_>, address: &SocketAddr) -> Result<(), Errno> {
    const IPV6_FREEBIND: i32 = 78; // <linux/in6.h>
    if address.is_ipv4() {
        return Ok(());
    }
    let one = 1_i32;
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: an int of our own and its size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, IPV6_FREEBIND, (&raw const one).cast(), length)
    };
    Errno::result(result).map(drop)
}

/// recvfrom(2) of a datagram: its length and sender.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
    let (length, sender) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
    let sender = sender.and_then(|sender| {
        let v4 = sender.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
        v4.or_else(|| sender.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
    });
    sender.map(|sender| (length, sender)).ok_or(Errno::EAFNOSUPPORT)
}

/// send(2) of a datagram on a connected socket.
pub fn send(socket: BorrowedFd<'_>, datagram: &[u8]) -> Result<(), Errno> {
    nix::sys::socket::send(socket.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// sendto(2)
pub fn send_to(socket: BorrowedFd<'_>, datagram: &[u8], address: &SocketAddr) -> Result<(), Errno> {
    let address = SockaddrStorage::from(*address);
    sendto(socket.as_raw_fd(), datagram, &address, MsgFlags::MSG_NOSIGNAL).map(drop)
}
