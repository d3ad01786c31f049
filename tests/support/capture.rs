//! A packet socket that sees every packet of a network namespace, as it is sent.

use super::cases::root_is_alone;
use super::{ALLOWED_PORT, LISTEN_PORT, PORT, PROXY_PORT, PROXY4, PROXY6, RELAY_PORT, TOKEN};
use std::fmt;
use std::io::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The socket.
#[derive(Debug)]
pub struct Capture(OwnedFd);

/// One packet, from its network header on.
#[derive(Clone)]
pub struct Packet {
    /// `ETH_P_*` in host byte order.
    pub ethernet: u16,
    /// The interface's number; 1 is loopback.
    pub interface: i32,
    /// Source and destination, for IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IP protocol.
    pub protocol: u8,
    /// Source and destination port, for TCP and UDP.
    pub ports: (u16, u16),
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Of the calling thread's network namespace.
    pub fn new() -> Self {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: no memory is involved.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, all)
        };
        assert!(fd >= 0, "packet socket: {}", Error::last_os_error());
        // SAFETY: the descriptor is new and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        widen_buffer(socket.as_raw_fd(), 256 << 20);
        Self(socket)
    }

    /// What came since the last time.
    ///
    /// # Panics
    /// Where the kernel had to drop packets: then there is no ground truth.
    pub fn drain(&self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let mut buffer = vec![0_u8; 70_000];
        loop {
            // SAFETY: an all-zero sockaddr_ll is valid, and the kernel writes within the sizes given.
            let (length, from) = unsafe {
                let mut from: libc::sockaddr_ll = std::mem::zeroed();
                let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                let into = buffer.as_mut_ptr().cast();
                let address = (&raw mut from).cast();
                (libc::recvfrom(self.0.as_raw_fd(), into, buffer.len(), 0, address, &raw mut size), from)
            };
            let Ok(length) = usize::try_from(length) else { break };
            let bytes = &buffer[..length.min(buffer.len())];
            packets.push(Packet::parse(u16::from_be(from.sll_protocol), from.sll_ifindex, bytes));
        }
        let (_, dropped) = self.statistics();
        // In a user namespace the buffer is small; the witnesses at the addresses lose nothing.
        assert!(dropped == 0 || root_is_alone(), "the packet witness lost packets");
        packets
    }

    fn statistics(&self) -> (u32, u32) {
        let mut counts = [0_u32; 2];
        let mut size = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the option is a struct of two 32-bit counters.
        let result = unsafe {
            let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
            libc::getsockopt(self.0.as_raw_fd(), level, name, counts.as_mut_ptr().cast(), &raw mut size)
        };
        assert_eq!(result, 0, "PACKET_STATISTICS: {}", Error::last_os_error());
        (counts[0], counts[1])
    }
}

/// A receive buffer of this size, whatever the limit; in a user namespace as much as the limit allows.
pub fn widen_buffer(socket: RawFd, bytes: i32) {
    // SAFETY: the option is an int.
    let set = |name| unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(socket, libc::SOL_SOCKET, name, (&raw const bytes).cast(), size) == 0
    };
    assert!(set(libc::SO_RCVBUFFORCE) || set(libc::SO_RCVBUF), "{}", Error::last_os_error());
}

impl Packet {
    fn parse(ethernet: u16, interface: i32, bytes: &[u8]) -> Self {
        let mut packet =
            Self { ethernet, interface, addresses: None, protocol: 0, ports: (0, 0), bytes: bytes.to_vec() };
        let header = match ethernet {
            0x0800 if bytes.len() >= 20 => {
                let ip = |at: usize| IpAddr::V4(Ipv4Addr::from(*bytes[at..].first_chunk::<4>().unwrap()));
                packet.addresses = Some((ip(12), ip(16)));
                packet.protocol = bytes[9];
                usize::from(bytes[0] & 15) * 4
            }
            0x86DD if bytes.len() >= 40 => {
                let ip = |at: usize| IpAddr::V6(Ipv6Addr::from(*bytes[at..].first_chunk::<16>().unwrap()));
                packet.addresses = Some((ip(8), ip(24)));
                packet.protocol = bytes[6];
                let mut header = 40;
                // Hop-by-hop options, destination options and routing headers.
                while matches!(packet.protocol, 0 | 43 | 60) && bytes.len() >= header + 8 {
                    packet.protocol = bytes[header];
                    header += (usize::from(bytes[header + 1]) + 1) * 8;
                }
                header
            }
            _ => bytes.len(),
        };
        if matches!(packet.protocol, 6 | 17 | 136)
            && let Some(&[a, b, c, d]) = bytes.get(header..).and_then(|rest| rest.first_chunk::<4>())
        {
            packet.ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        } else if matches!(packet.protocol, 1 | 58) {
            packet.ports = (bytes.get(header).copied().unwrap_or(0).into(), 0); // the ICMP type
        }
        packet
    }

    /// Whether it has these bytes in it.
    pub fn holds(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// Whether it belongs to nobody: the kernel's own neighbour discovery, and answers to what failed.
    fn is_noise(&self) -> bool {
        let group = |text: &str| match text.parse::<IpAddr>().unwrap() {
            IpAddr::V4(ip) => self.holds(&ip.octets()),
            IpAddr::V6(ip) => self.holds(&ip.octets()),
        };
        match (self.ethernet, self.protocol) {
            (0x0800, 2) => !group("239.1.2.3"),
            (0x0800, 1) => self.ports.0 == 3,
            (0x86DD, 58) => match self.ports.0 {
                1 | 133..=137 => true,
                130..=132 | 143 => !group("ff02::1234"),
                _ => false,
            },
            (0x0800 | 0x86DD, _) => false,
            _ => !self.holds(TOKEN), // ARP and the like
        }
    }

    /// Whether it goes to or comes from an allowed address, or belongs to the harness as a client.
    fn is_allowed(&self) -> bool {
        let Some((source, destination)) = self.addresses else { return false };
        let proxies = [PROXY4.parse::<IpAddr>().unwrap(), PROXY6.parse().unwrap()];
        let allowed = |ip: IpAddr, port: u16| match self.protocol {
            // 9060 and 9070: where guests listen for themselves, under a rule that allows it.
            6 => proxies.contains(&ip) && matches!(port, PROXY_PORT | ALLOWED_PORT | 9060 | 9070),
            17 => proxies.contains(&ip) && matches!(port, ALLOWED_PORT | RELAY_PORT),
            _ => false,
        };
        let client = [self.ports.0, self.ports.1].contains(&LISTEN_PORT);
        allowed(source, self.ports.0) || allowed(destination, self.ports.1) || client
    }

    /// Whether it may be between the program and sockstrace: it doesn't leave the loopback interface, one of its ends
    /// has a loopback address, and none is where a witness or the program itself is to be reached.
    pub fn is_within(&self) -> bool {
        let witnesses = [PORT, LISTEN_PORT, 53];
        let local = self.addresses.is_some_and(|(from, to)| from.is_loopback() || to.is_loopback());
        let ports = [self.ports.0, self.ports.1];
        self.interface == 1
            && matches!(self.protocol, 6 | 17)
            && local
            && !ports.iter().any(|port| witnesses.contains(port))
    }

    /// Whether it is part of a leak.
    pub fn is_foreign(&self) -> bool {
        !self.is_noise() && !self.is_allowed()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addresses {
            Some((source, destination)) => {
                let (from, to) = self.ports;
                write!(f, "protocol {} {source}:{from} -> {destination}:{to}", self.protocol)?;
            }
            None => write!(f, "ethernet {:#06x}", self.ethernet)?,
        }
        write!(f, ", {} bytes", self.bytes.len())?;
        if self.holds(TOKEN) { write!(f, " with the token") } else { Ok(()) }
    }
}
