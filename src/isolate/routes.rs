//! Loopback, and the addresses that can be reached inside: rtnetlink(7), netdevice(7).

use nix::errno::Errno;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The loopback device of every network namespace is its first (`loopback_net_init`).
const LOOPBACK: u32 = 1;
const NEW_ROUTE: u16 = 24;
const FLAGS: u16 = 1 | 4 | 0x400; // NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE
const ERROR: u16 = 2;
const DESTINATION: u16 = 1;
const OUTGOING: u16 = 4;
const LOCAL_TABLE: u8 = 255;
const STATIC: u8 = 4;
const SCOPE_HOST: u8 = 254;
const LOCAL: u8 = 2;

/// Brings loopback up. `control` is an internet socket of the namespace.
pub fn bring_loopback_up(control: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: all fields are integers or arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(b"lo").for_each(|(to, from)| *to = *from as libc::c_char);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: a structure of our own, as the request wants it.
    Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// Makes every address of the network one of the namespace's own ("AnyIP": a local route), so that sockets can
/// be bound to it and packets to it stay inside.
///
/// # Errors
/// The kernel's. Where it has no IPv6 nothing is done for IPv6.
pub fn make_local(netlink: BorrowedFd<'_>, ip: IpAddr, prefix: u8) -> Result<(), Errno> {
    let message = local_route(ip, prefix);
    // SAFETY: bytes of our own and their length.
    let sent = unsafe { libc::send(netlink.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    Errno::result(sent)?;
    let mut answer = [0_u8; 4096];
    // SAFETY: a buffer of our own and its size.
    let length = unsafe { libc::recv(netlink.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let length = Errno::result(length)? as usize;
    let answer = answer.get(..length).unwrap_or_default();
    // struct nlmsghdr, then struct nlmsgerr, whose first field is 0 or the negative errno.
    let kind = answer.get(4..6).and_then(<[u8]>::first_chunk).map(|kind| u16::from_ne_bytes(*kind));
    let code = answer.get(16..20).and_then(<[u8]>::first_chunk).map(|code| i32::from_ne_bytes(*code));
    match (kind, code.map(|code| Errno::from_raw(code.saturating_neg()))) {
        (Some(ERROR), _) if code == Some(0) => Ok(()),
        (Some(ERROR), Some(Errno::EEXIST)) => Ok(()),
        (Some(ERROR), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) if ip.is_ipv6() => Ok(()),
        (Some(ERROR), Some(errno)) => Err(errno),
        _ => Err(Errno::EPROTO),
    }
}

fn local_route(ip: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6 as u8, ip.octets().to_vec()),
    };
    // struct rtmsg: family, destination and source length, tos, table, protocol, scope, type, flags.
    let mut body = vec![family, prefix, 0, 0, LOCAL_TABLE, STATIC, SCOPE_HOST, LOCAL, 0, 0, 0, 0];
    let mut attribute = |kind: u16, value: &[u8]| {
        // Both values are multiples of four bytes long.
        body.extend((value.len() as u16 + 4).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    };
    attribute(DESTINATION, &address);
    attribute(OUTGOING, &LOOPBACK.to_ne_bytes());
    let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
    message.extend(NEW_ROUTE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_as_long_as_it_says() {
        for (ip, prefix, length) in [("10.0.0.0", 8, 44), ("2001:db8::", 32, 56)] {
            let message = local_route(ip.parse().unwrap(), prefix);
            assert_eq!(message.len(), length);
            assert_eq!(u32::from_ne_bytes(*message.first_chunk().unwrap()) as usize, length);
            assert_eq!((message[17], message[23]), (prefix, LOCAL));
        }
    }
}
