//! Socket families, types and protocols, as numbers of the kernel and as names.

use std::fmt;

/// An address family (`AF_*`). Unknown numbers are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Family(pub i32);

impl Family {
    /// `AF_UNSPEC`
    pub const UNSPEC: Self = Self(libc::AF_UNSPEC);
    /// `AF_UNIX`
    pub const UNIX: Self = Self(libc::AF_UNIX);
    /// `AF_INET`
    pub const INET: Self = Self(libc::AF_INET);
    /// `AF_INET6`
    pub const INET6: Self = Self(libc::AF_INET6);
    /// `AF_NETLINK`
    pub const NETLINK: Self = Self(libc::AF_NETLINK);
    /// `AF_PACKET`
    pub const PACKET: Self = Self(libc::AF_PACKET);
    /// `AF_VSOCK`
    pub const VSOCK: Self = Self(libc::AF_VSOCK);
    /// `AF_ALG`
    pub const ALG: Self = Self(libc::AF_ALG);
    /// `AF_SMC` (`net/smc`): TCP addresses over RDMA or TCP.
    pub const SMC: Self = Self(43);

    /// The name in events, where the family has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "unspec",
            1 => "unix",
            2 => "inet",
            3 => "ax25",
            4 => "ipx",
            5 => "appletalk",
            6 => "netrom",
            9 => "x25",
            10 => "inet6",
            11 => "rose",
            15 => "key",
            16 => "netlink",
            17 => "packet",
            20 => "atmsvc",
            21 => "rds",
            23 => "irda",
            24 => "pppox",
            26 => "llc",
            27 => "ib",
            28 => "mpls",
            29 => "can",
            30 => "tipc",
            31 => "bluetooth",
            33 => "rxrpc",
            34 => "isdn",
            35 => "phonet",
            36 => "ieee802154",
            37 => "caif",
            38 => "alg",
            39 => "nfc",
            40 => "vsock",
            41 => "kcm",
            42 => "qipcrtr",
            43 => "smc",
            44 => "xdp",
            45 => "mctp",
            _ => return None,
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "family {}", self.0),
        }
    }
}

/// A socket type (`SOCK_*`) without its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketType(pub i32);

impl SocketType {
    /// `SOCK_STREAM`
    pub const STREAM: Self = Self(libc::SOCK_STREAM);
    /// `SOCK_DGRAM`
    pub const DGRAM: Self = Self(libc::SOCK_DGRAM);
    /// `SOCK_RAW`
    pub const RAW: Self = Self(libc::SOCK_RAW);
    /// `SOCK_SEQPACKET`
    pub const SEQPACKET: Self = Self(libc::SOCK_SEQPACKET);
    /// `SOCK_DCCP` (datagram congestion control)
    pub const DCCP: Self = Self(6);

    /// The type in the second argument of socket(2), whose upper bits are flags (`SOCK_TYPE_MASK` of
    /// include/linux/net.h).
    #[must_use]
    pub fn from_argument(argument: i32) -> Self {
        Self(argument & 0xF)
    }

    /// The name in events, where the type has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "stream",
            2 => "dgram",
            3 => "raw",
            4 => "rdm",
            5 => "seqpacket",
            6 => "dccp",
            10 => "packet",
            _ => return None,
        })
    }
}

/// What kind of socket a call is about: `SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`, or the arguments of
/// socket(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketKind {
    /// Address family.
    pub family: Family,
    /// Type.
    pub kind: SocketType,
    /// Protocol number within the family.
    pub protocol: i32,
}

impl SocketKind {
    /// Whether it belongs to IPv4 or IPv6 (SMC and MPTCP sockets included: they use IP addresses).
    #[must_use]
    pub fn is_internet(self) -> bool {
        matches!(self.family, Family::INET | Family::INET6 | Family::SMC)
    }

    /// Whether it is a datagram socket of IPv4 or IPv6 (UDP, UDP-Lite, ping): connecting it sends no
    /// packet.
    #[must_use]
    pub fn is_internet_datagram(self) -> bool {
        self.is_internet() && matches!(self.kind, SocketType::DGRAM | SocketType::RAW)
    }

    /// The protocol's name in events, where it has one.
    #[must_use]
    pub fn protocol_name(self) -> Option<&'static str> {
        if !self.is_internet() {
            return None;
        }
        Some(match (self.protocol, self.kind) {
            (0, SocketType::STREAM) | (6, _) => "tcp",
            (0, SocketType::DGRAM) | (17, _) => "udp",
            (1, _) => "icmp",
            (33, _) => "dccp",
            (58, _) => "icmpv6",
            (115, _) => "l2tp",
            (132, _) => "sctp",
            (136, _) => "udplite",
            (255, _) => "raw",
            (256, _) => "smc",
            (262, _) => "mptcp",
            _ => return None,
        })
    }
}
