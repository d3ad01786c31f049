//! What a kind of socket can do by itself, whatever it is used for.

use crate::operation::{Family, SocketKind, SocketType};

/// `IPPROTO_L2TP`: a datagram socket that sends IP packets of its own (`net/l2tp/l2tp_ip.c`).
const L2TP: i32 = 115;
const SCTP: &str = "an SCTP socket connects by socket options too, and its peer names further addresses";
const IPSEC: &str = "the socket changes how the host's IPsec routes packets";
/// `SOCK_PACKET`, for any family an old spelling of `AF_PACKET` (`__sock_create`).
const OBSOLETE_PACKET: SocketType = SocketType(10);
/// `SOCK_MAX`: the kernel answers EINVAL from here on.
const FIRST_INVALID_TYPE: i32 = 11;

/// Why a socket of this kind is a leak as such: sockstrace couldn't judge where its packets go.
/// `None` where it is harmless, or judged when it is used.
pub(super) fn leaks_by_itself(socket: &SocketKind) -> Option<&'static str> {
    if !(0..FIRST_INVALID_TYPE).contains(&socket.kind.0) {
        return None;
    }
    if socket.kind == OBSOLETE_PACKET && socket.is_internet() {
        return Some("an (obsolete) packet socket can send any frame past every IP rule");
    }
    match socket.family {
        Family::NETLINK if socket.protocol == libc::NETLINK_XFRM => Some(IPSEC),
        // Judged when used, or without a way out, or (0) unknown to the kernel: EAFNOSUPPORT.
        Family::UNIX | Family::NETLINK | Family::ALG | Family::VSOCK | Family(..=0) => None,
        Family::INET | Family::INET6 | Family::SMC => match socket.kind {
            SocketType::RAW => Some("a raw socket writes its own headers: its packets can go anywhere"),
            _ if socket.protocol == L2TP => Some("an L2TP socket sends IP packets of its own, unjudged"),
            SocketType::SEQPACKET => Some(SCTP),
            _ if socket.protocol == libc::IPPROTO_SCTP => Some(SCTP),
            SocketType::STREAM | SocketType::DGRAM | SocketType::DCCP => None,
            _ => Some("a socket of unknown type: where it sends can't be judged"),
        },
        Family::PACKET => Some("a packet socket can send any frame past every IP rule"),
        Family(number) => Some(match number {
            15 => IPSEC,
            21 => "an RDS socket sends over InfiniBand or TCP, unjudged",
            29 => "a CAN socket sends on the host's CAN buses",
            30 => "a TIPC socket reaches other hosts of the cluster",
            31 => "a Bluetooth socket reaches devices nearby",
            33 => "an RxRPC socket sends UDP packets of its own, unjudged",
            24 => "a PPP socket makes a tunnel, past every IP rule",
            41 => "a KCM socket sends on a TCP connection of another socket",
            44 => "an XDP socket sends any frame past every IP rule",
            _ => "a socket of this family can reach other hosts, in a way that can't be judged",
        }),
    }
}

/// Whether the socket speaks TCP, as proxies do (MPTCP and SMC sockets do to a peer that knows no
/// better).
pub(super) fn speaks_tcp(socket: &SocketKind) -> bool {
    const PROTOCOLS: [i32; 4] = [0, libc::IPPROTO_TCP, 256, libc::IPPROTO_MPTCP];
    socket.kind == SocketType::STREAM
        && match socket.family {
            // Its protocol numbers are its own: 0 for IPv4, 1 for IPv6.
            Family::SMC => true,
            Family::INET | Family::INET6 => PROTOCOLS.contains(&socket.protocol),
            _ => false,
        }
}

/// Whether it waits for connections with listen(2), so that a bind alone makes nothing reachable.
pub(super) fn listens(socket: &SocketKind) -> bool {
    matches!(socket.kind, SocketType::STREAM | SocketType::SEQPACKET | SocketType::DCCP)
}
