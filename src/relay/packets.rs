//! What the network says to who can't be connected, written by hand: RFC 9293 (TCP), RFC 792 (ICMP), RFC 4443
//! (ICMPv6). Sent to addresses of this host alone.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// `IPPROTO_*`
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Who asks for it (RFC 5082) hears no packet that has less.
const HOPS: u8 = 255;

const TCP_HEADER: usize = 20;
/// RST and ACK.
const RESET: u8 = 0x14;
const SYN: u8 = 0x02;

/// What can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// The host: EHOSTUNREACH.
    Host,
    /// Its network: ENETUNREACH.
    Network,
}

/// A socket for packets with their IP header, on which nothing is received.
pub fn raw_socket(v4: bool) -> Result<OwnedFd, Errno> {
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
}

/// Sends a packet, which is for this address.
pub fn send_to(to: IpAddr, packet: &[u8]) -> Result<(), Errno> {
    let socket = raw_socket(to.is_ipv4())?;
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::MSG_DONTWAIT).map(drop)
}

/// The reset with which `hole` answers the SYN of this number from `theirs`. `None` where they are of different
/// families.
pub fn reset(theirs: SocketAddr, hole: SocketAddr, sequence: u32) -> Option<Vec<u8>> {
    let ends = Ends::of(hole.ip(), theirs.ip())?;
    let mut segment = tcp(hole.port(), theirs.port(), 0, sequence.wrapping_add(1), RESET);
    let sum = ends.checksum(TCP, &segment).to_be_bytes();
    segment.splice(16..18, sum);
    Some(ends.packet(TCP, &segment))
}

/// What a router says of the SYN of this number that `theirs` has sent to `hole`: it quotes it.
pub fn unreachable(theirs: SocketAddr, hole: SocketAddr, sequence: u32, what: Unreachable) -> Option<Vec<u8>> {
    let sent = Ends::of(theirs.ip(), hole.ip())?;
    let quoted = sent.packet(TCP, &tcp(theirs.port(), hole.port(), sequence, 0, SYN));
    let ends = Ends::of(hole.ip(), theirs.ip())?;
    // Destination unreachable: its type by protocol, and the codes for network and host.
    let (protocol, kind, code) = match (ends, what) {
        (Ends::V4(..), Unreachable::Network) => (ICMP, 3, 0),
        (Ends::V4(..), Unreachable::Host) => (ICMP, 3, 1),
        (Ends::V6(..), Unreachable::Network) => (ICMPV6, 1, 0),
        (Ends::V6(..), Unreachable::Host) => (ICMPV6, 1, 3),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let sum = if protocol == ICMP { folded(sum(&message)) } else { ends.checksum(protocol, &message) };
    message.splice(2..4, sum.to_be_bytes());
    Some(ends.packet(protocol, &message))
}

fn tcp(from: u16, to: u16, sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut segment = Vec::with_capacity(TCP_HEADER);
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    // Its length in words of four bytes; no window, no checksum yet, nothing urgent.
    segment.extend([(TCP_HEADER as u8) << 2, flags, 0, 0, 0, 0, 0, 0]);
    segment
}

/// Source and destination.
#[derive(Debug, Clone, Copy)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn of(from: IpAddr, to: IpAddr) -> Option<Self> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Some(Self::V4(from, to)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Some(Self::V6(from, to)),
            _ => None,
        }
    }

    /// With an IP header in front.
    fn packet(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        match self {
            Self::V4(from, to) => {
                let length = (payload.len() as u16).saturating_add(20).to_be_bytes();
                packet.extend([0x45, 0, length[0], length[1], 0, 0, 0, 0, HOPS, protocol, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                let sum = folded(sum(&packet)).to_be_bytes();
                packet.splice(10..12, sum);
            }
            Self::V6(from, to) => {
                let length = (payload.len() as u16).to_be_bytes();
                packet.extend([0x60, 0, 0, 0, length[0], length[1], protocol, HOPS]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
        }
        packet.extend(payload);
        packet
    }

    /// Over the payload and what stands for the header (RFC 9293, 3.1; RFC 8200, 8.1).
    fn checksum(self, protocol: u8, payload: &[u8]) -> u16 {
        let addresses = match self {
            Self::V4(from, to) => sum(&from.octets()).saturating_add(sum(&to.octets())),
            Self::V6(from, to) => sum(&from.octets()).saturating_add(sum(&to.octets())),
        };
        let rest = u32::from(protocol).saturating_add(payload.len() as u32);
        folded(addresses.saturating_add(rest).saturating_add(sum(payload)))
    }
}

/// The sum of all words of two bytes. Some hundred of them: it doesn't overflow.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).fold(0, u32::saturating_add)
}

/// The checksum that such a sum gives (RFC 1071).
fn folded(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF).saturating_add(sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_the_rfcs_have_them() {
        let ends = |six: bool| -> [SocketAddr; 2] {
            let texts = if six { ["[::1]:5000", "[::1]:80"] } else { ["127.0.0.1:5000", "127.0.0.1:80"] };
            texts.map(|text| text.parse().unwrap())
        };
        let [theirs, hole] = ends(false);
        let packet = reset(theirs, hole, 0xFFFF_FFFF).unwrap();
        assert_eq!(packet.len(), 40);
        assert_eq!(packet[..20], [69, 0, 0, 40, 0, 0, 0, 0, 255, 6, 0xBD, 0xCD, 127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(packet[20..36], [0, 80, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x14, 0, 0]);
        // A sum over what holds its own checksum is all ones.
        assert_eq!(folded(sum(&packet[12..]).saturating_add(6 + 20)), 0);
        let packet = unreachable(theirs, hole, 7, Unreachable::Host).unwrap();
        assert_eq!((packet[9], packet[20], packet[21], packet.len()), (ICMP, 3, 1, 20 + 8 + 40));
        assert_eq!(folded(sum(&packet[20..])), 0);
        assert_eq!(packet[48 + 4..48 + 8], [0, 0, 0, 7]);
        let [theirs, hole] = ends(true);
        for packet in [reset(theirs, hole, 7).unwrap(), unreachable(theirs, hole, 7, Unreachable::Network).unwrap()]
        {
            let (protocol, length) = (u32::from(packet[6]), packet.len() as u32 - 40);
            assert_eq!(folded(sum(&packet[8..]).saturating_add(protocol + length)), 0, "{packet:?}");
        }
        assert!(reset(theirs, "127.0.0.1:1".parse().unwrap(), 7).is_none());
    }
}
