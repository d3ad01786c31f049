//! IP packets with TCP or UDP in them, for conversations that never were packets.

use std::net::{IpAddr, SocketAddr};

/// As the process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// TCP flags (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    const FIN_BIT: u8 = 1;
    const SYN_BIT: u8 = 2;
    pub(super) const SYN: Self = Self(2);
    pub(super) const SYN_ACK: Self = Self(0x12);
    pub(super) const ACK: Self = Self(0x10);
    pub(super) const FIN: Self = Self(0x11);
    /// Push and acknowledge.
    pub(super) const DATA: Self = Self(0x18);
}

/// The state of one conversation.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    own: SocketAddr,
    peer: SocketAddr,
    stream: bool,
    /// The next sequence numbers: ours and the peer's.
    sent: u32,
    received: u32,
}

impl Conversation {
    pub(super) fn new(own: SocketAddr, peer: SocketAddr, stream: bool) -> Self {
        Self { own, peer, stream, sent: 0, received: 0 }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Leaves a gap of `bytes` in the stream.
    pub(super) fn skip(&mut self, direction: Direction, bytes: usize) {
        let next = match direction {
            Direction::Out => &mut self.sent,
            Direction::In => &mut self.received,
        };
        *next = next.wrapping_add(bytes as u32);
    }

    /// The next packet: `payload`, and `lost` more bytes that belong to it but are not there.
    pub(super) fn segment(&mut self, direction: Direction, flags: Flags, payload: &[u8], lost: usize) -> Vec<u8> {
        let (from, to, sequence, acknowledged) = match direction {
            Direction::Out => (self.own, self.peer, self.sent, self.received),
            Direction::In => (self.peer, self.own, self.received, self.sent),
        };
        let length = payload.len().saturating_add(lost);
        let mut body = Vec::with_capacity(payload.len().saturating_add(20));
        body.extend(from.port().to_be_bytes());
        body.extend(to.port().to_be_bytes());
        let header = if self.stream { 20 } else { 8 };
        if self.stream {
            const WINDOW: u16 = 0xFFFF;
            let acknowledged = if flags == Flags::SYN { 0 } else { acknowledged };
            body.extend(sequence.to_be_bytes());
            body.extend(acknowledged.to_be_bytes());
            body.extend([5 << 4, flags.0]);
            body.extend(WINDOW.to_be_bytes());
            body.extend([0; 4]);
            let flagged = usize::from(flags.0 & (Flags::SYN_BIT | Flags::FIN_BIT) != 0);
            self.skip(direction, length.saturating_add(flagged));
        } else {
            body.extend((length.saturating_add(header) as u16).to_be_bytes());
            body.extend([0; 2]);
        }
        body.extend(payload);
        let whole = length.saturating_add(header);
        let protocol: u8 = if self.stream { 6 } else { 17 };
        // Of what isn't there a checksum can't be made.
        let checksum = if lost == 0 { transport_checksum(from.ip(), to.ip(), protocol, &body) } else { 0 };
        let at = if self.stream { 16 } else { 6 };
        if let Some(place) = body.get_mut(at..at + 2) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        let mut packet = ip_header(from.ip(), to.ip(), protocol, whole as u16);
        packet.extend(body);
        packet
    }
}

/// An IP header for `length` bytes (RFC 791, RFC 8200).
fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> Vec<u8> {
    const HOPS: u8 = 64;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend(length.saturating_add(20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let checksum = !fold(sum(&header));
            if let Some(place) = header.get_mut(10..12) {
                place.copy_from_slice(&checksum.to_be_bytes());
            }
            header
        }
        (from, to) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, HOPS]);
            header.extend(wide(from));
            header.extend(wide(to));
            header
        }
    }
}

fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The internet checksum (RFC 1071) over the pseudo header and the body.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()).saturating_add(sum(&to.octets())),
        (from, to) => sum(&wide(from)).saturating_add(sum(&wide(to))),
    };
    let total = addresses.saturating_add(u64::from(protocol)).saturating_add(body.len() as u64);
    match !fold(total.saturating_add(sum(body))) {
        // In UDP 0 says that there is none.
        0 => 0xFFFF,
        checksum => checksum,
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| {
        let byte = |index: usize| u64::from(pair.get(index).copied().unwrap_or(0));
        byte(0) << 8 | byte(1)
    };
    bytes.chunks(2).map(word).fold(0, u64::saturating_add)
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF).saturating_add(sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // Its section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x01])), 0x0100);
    }
}
