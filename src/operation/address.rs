//! Socket addresses as the kernel reads them.

use super::socket::Family;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The size of the kernel's `struct sockaddr_storage`: no address is longer (connect and bind answer
/// EINVAL).
pub const STORAGE_BYTES: usize = 128;

/// A socket address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6. An IPv4-mapped IPv6 address is kept as written; [`Address::ip`] unmaps it.
    Internet(SocketAddr),
    /// A UNIX domain socket.
    Unix(UnixAddress),
    /// `AF_NETLINK`
    Netlink {
        /// Port id; 0 is the kernel.
        port: u32,
        /// Multicast groups.
        groups: u32,
    },
    /// `AF_PACKET`
    Packet {
        /// Interface index.
        interface: i32,
        /// Ethernet protocol, host byte order.
        protocol: u16,
    },
    /// `AF_VSOCK`
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// `AF_UNSPEC`: as a destination of connect it dissolves an association.
    Unspecified,
    /// Another family; its bytes mean nothing to sockstrace.
    Other(Family),
    /// Too short or too long for its family (the kernel refuses it with EINVAL).
    Malformed(Family),
}

/// The address of a UNIX domain socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// A path, as given or as resolved.
    Path(OsString),
    /// An abstract name, without its leading NUL; it may hold NULs.
    Abstract(Vec<u8>),
    /// No name.
    Unnamed,
}

impl Address {
    /// Reads the bytes of a `struct sockaddr` as the kernel would for a socket of `socket_family`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let Some(family) = bytes.first_chunk::<2>() else {
            return Self::Malformed(Family::UNSPEC);
        };
        let family = Family(i32::from(u16::from_ne_bytes(*family)));
        match family {
            Family::UNSPEC => Self::Unspecified,
            Family::INET => parse_inet(bytes),
            Family::INET6 => parse_inet6(bytes),
            Family::UNIX => Self::Unix(UnixAddress::parse(bytes.get(2..).unwrap_or_default())),
            Family::NETLINK => match (u32_at(bytes, 4), u32_at(bytes, 8)) {
                (Some(port), Some(groups)) => Self::Netlink { port, groups },
                _ => Self::Malformed(family),
            },
            Family::PACKET => match (bytes.get(2..4), u32_at(bytes, 4)) {
                (Some(&[high, low]), Some(interface)) => {
                    Self::Packet { interface: interface as i32, protocol: u16::from_be_bytes([high, low]) }
                }
                _ => Self::Malformed(family),
            },
            Family::VSOCK => match (u32_at(bytes, 4), u32_at(bytes, 8)) {
                (Some(port), Some(cid)) => Self::Vsock { cid, port },
                _ => Self::Malformed(family),
            },
            other => Self::Other(other),
        }
    }

    /// The same bytes read as an IPv4 address, whatever family they name: what UDP, raw and bind make of
    /// `AF_UNSPEC` (`udp_sendmsg`, `raw_sendmsg`, `__inet_bind` in net/ipv4).
    #[must_use]
    pub fn parse_as_inet(bytes: &[u8]) -> Self {
        parse_inet(bytes)
    }

    /// The IP address and port. An IPv4-mapped address is its IPv4 address.
    #[must_use]
    pub fn ip(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Internet(address) => Some((address.ip().to_canonical(), address.port())),
            _ => None,
        }
    }

    /// The family that the address names.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Internet(SocketAddr::V4(_)) => Family::INET,
            Self::Internet(SocketAddr::V6(_)) => Family::INET6,
            Self::Unix(_) => Family::UNIX,
            Self::Netlink { .. } => Family::NETLINK,
            Self::Packet { .. } => Family::PACKET,
            Self::Vsock { .. } => Family::VSOCK,
            Self::Unspecified => Family::UNSPEC,
            Self::Other(family) | Self::Malformed(family) => *family,
        }
    }
}

impl UnixAddress {
    /// Reads `sun_path` with the length that the caller gave (unix(7), *Address format*).
    #[must_use]
    pub fn parse(path: &[u8]) -> Self {
        match path.split_first() {
            None => Self::Unnamed,
            Some((0, name)) => Self::Abstract(name.to_vec()),
            Some(_) => {
                let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
                Self::Path(OsString::from_vec(path.get(..end).unwrap_or(path).to_vec()))
            }
        }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn port_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))
}

fn parse_inet(bytes: &[u8]) -> Address {
    // The kernel wants sizeof(struct sockaddr_in) = 16 bytes, though it reads only 8.
    let fields = (bytes.len() >= 16).then(|| Some((port_of(bytes)?, bytes.get(4..)?.first_chunk::<4>()?)));
    match fields.flatten() {
        Some((port, ip)) => Address::Internet(SocketAddrV4::new(Ipv4Addr::from(*ip), port).into()),
        None => Address::Malformed(Family::INET),
    }
}

fn parse_inet6(bytes: &[u8]) -> Address {
    // SIN6_LEN_RFC2133 (include/linux/in6.h): 24 bytes do, then the scope id is 0.
    let fields = || {
        let flow = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?);
        let ip = bytes.get(8..)?.first_chunk::<16>()?;
        Some((port_of(bytes)?, Ipv6Addr::from(*ip), flow, u32_at(bytes, 24).unwrap_or(0)))
    };
    match fields() {
        Some((port, ip, flow, scope)) => Address::Internet(SocketAddrV6::new(ip, port, flow, scope).into()),
        None => Address::Malformed(Family::INET6),
    }
}

impl fmt::Display for Address {
    /// As events write it: `1.2.3.4:80`, `[::1]:80`, `/run/x.sock`, `@abstract`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet(address) => match (address.ip().to_canonical(), address) {
                (ip @ IpAddr::V4(_), _) => write!(f, "{ip}:{}", address.port()),
                (_, address) => write!(f, "{address}"),
            },
            Self::Unix(address) => write!(f, "{address}"),
            Self::Netlink { port, groups } => write!(f, "netlink:{port}:{groups:#x}"),
            Self::Packet { interface, protocol } => write!(f, "packet:{interface}:{protocol:#06x}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Unspecified => f.write_str("unspec"),
            Self::Other(family) => write!(f, "{family}"),
            Self::Malformed(family) => write!(f, "malformed {family}"),
        }
    }
}

impl fmt::Display for UnixAddress {
    /// Control characters and bytes that aren't UTF-8 are escaped: a name can't break out of its line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write_escaped(f, path.as_bytes()),
            Self::Abstract(name) => {
                f.write_str("@")?;
                write_escaped(f, name)
            }
            Self::Unnamed => Ok(()),
        }
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(length: usize) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 80, 127, 0, 0, 1];
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn lengths_are_the_kernels() {
        assert_eq!(Address::parse(&inet(16)).to_string(), "127.0.0.1:80");
        assert_eq!(Address::parse(&inet(15)), Address::Malformed(Family::INET));
        assert_eq!(Address::parse(&[2]), Address::Malformed(Family::UNSPEC));
        assert_eq!(Address::parse(&[]), Address::Malformed(Family::UNSPEC));
        let mut six = vec![10, 0, 0, 80, 0, 0, 0, 0];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(Address::parse(&six).to_string(), "[::1]:80");
        six.pop();
        assert_eq!(Address::parse(&six), Address::Malformed(Family::INET6));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mut six = vec![10, 0, 1, 187, 0, 0, 0, 0];
        six.extend("::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0; 4]);
        let address = Address::parse(&six);
        assert_eq!(address.to_string(), "192.0.2.1:443");
        assert_eq!(address.ip(), Some(("192.0.2.1".parse().unwrap(), 443)));
    }

    #[test]
    fn unix_names() {
        assert_eq!(UnixAddress::parse(b""), UnixAddress::Unnamed);
        assert_eq!(UnixAddress::parse(b"/run/x\0junk").to_string(), "/run/x");
        assert_eq!(UnixAddress::parse(b"\0a\0b").to_string(), "@a\\u{0}b");
        assert_eq!(UnixAddress::parse(b"/a\n\xff").to_string(), "/a\\n\\xff");
    }
}
