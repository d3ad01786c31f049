//! Which calls must be stopped at, and why.
//!
//! | call | stopped at | because |
//! | --- | --- | --- |
//! | connect | always | TCP and UDP destinations, UNIX sockets |
//! | sendto | with a destination (always with `--disclosure leak`) | datagrams, MSG_FASTOPEN; netlink dumps |
//! | sendmsg, sendmmsg | always | the destination lies in memory, where a filter can't look |
//! | socket | raw, packet and unknown kinds | they send what they like |
//! | setsockopt | source routes, routing headers (a flow label's too), multicast joins, the choice of an interface | they redirect packets (those to loopback too), or the kernel sends some |
//! | ioctl | TUNSETIFF, TIOCSTI, TIOCLINUX; SIOCGIF* with `--disclosure leak` | a TUN interface injects packets; a shell outside obeys what is typed for it; addresses of the host |
//! | `request_key` | with callout information | the kernel has a helper resolve names (`dns_resolver`) |
//! | mount, fsopen | always | network file systems: the kernel connects |
//! | bpf | commands that attach, detach, run or get hold of programs | programs in the kernel send packets, lead connections elsewhere, and judge (ebpf) |
//! | ptrace, `process_vm_writev` | attaching; always | a process outside the tree can be made to send |
//! | `io_uring_setup` | always | its operations pass filters and tracers unseen |
//! | `pidfd_getfd` | always | brings in a descriptor from another process |
//! | recvfrom (with room for an address), recvmsg, recvmmsg, getpeername | with `--dns redirect`, and with `--on-leak redirect` to a SOCKS5 proxy | they would name a peer that isn't the one which was asked |
//! | getpeername, getsockname, getsockopt of `SO_ERROR` and `SO_PEERNAME` | where connections are made by way of us (`--on-leak redirect`, `--isolate`, `--socks-…`) | the kernel knows other ends and errors than the program is to see |
//! | bind, listen, accept, accept4 | with `--incoming block`, and to be shown with `--trace all` | reachable from outside |
//!
//! What isn't here can't reach a destination that none of these has set: write, send without an address,
//! sendfile and splice use a peer that connect (judged) gave. The hostile guest `unnamed` tries them on whatever
//! sockets can be had, bound and listening too. Netlink sockets speak to the kernel and to processes of the network
//! namespace: to have the kernel send elsewhere by them takes `CAP_NET_ADMIN` there.

use super::decode::IPV6_2292RTHDR;
use super::delegate::{ATTACHING, BPF_COMMANDS, TIOCLINUX, TIOCSTI};
use super::{Family, SocketKind, SocketType};
use sockstrace_backend::{Comparison, Condition, Syscall, Trap};

/// What the traps depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Interest {
    /// bind, listen and accept are judged or shown.
    pub incoming: bool,
    /// Netlink dumps and SIOCGIF* are judged.
    pub disclosure: bool,
    /// Sockets may lead elsewhere than the program knows, so that what names their peers must be corrected.
    pub peers: bool,
    /// Connections may lead elsewhere than the program knows, so that what names their ends must be corrected.
    pub redirects: bool,
    /// What is judged in the kernel, and not to be stopped at.
    pub hooked: Option<Hooked>,
}

/// How internet destinations are judged in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Hooked {
    /// They are to be held up all the same: UNIX destinations are judged, which the hooks can't, or who leaks is to
    /// wait until the whole tree has been killed.
    pub holds: bool,
    /// Control data are judged there where they can be, so that messages are not to be stopped at.
    pub messages: bool,
    /// So are the operations of an io_uring.
    pub rings: bool,
    /// So is who is served: bind, listen, accept.
    pub serving: bool,
}

impl Hooked {
    /// The calls that the hooks judge alone.
    #[must_use]
    pub fn covers(self, call: Syscall) -> bool {
        match call {
            Syscall::Connect | Syscall::Sendto => !self.holds,
            // Not sendmmsg: of its messages, the kernel's hook sees not all.
            Syscall::Sendmsg => self.messages && !self.holds,
            Syscall::IoUringSetup => self.rings,
            Syscall::Bind | Syscall::Listen | Syscall::Accept | Syscall::Accept4 => self.serving,
            _ => false,
        }
    }
}

/// `SO_BINDTOIFINDEX` of <asm-generic/socket.h>.
pub const SO_BINDTOIFINDEX: i32 = 62;
/// `IP_UNICAST_IF` of <linux/in.h>.
pub const IP_UNICAST_IF: i32 = 50;
/// `IPV6_UNICAST_IF` of <linux/in6.h>.
pub const IPV6_UNICAST_IF: i32 = 76;
/// `IPV6_2292PKTOPTIONS` of <linux/in6.h>.
pub const IPV6_2292PKTOPTIONS: i32 = 6;
/// `IPV6_JOIN_ANYCAST` of <linux/in6.h>.
pub const IPV6_JOIN_ANYCAST: i32 = 27;
/// `MCAST_JOIN_GROUP` of <linux/in.h>.
pub const MCAST_JOIN_GROUP: i32 = 42;
/// `MCAST_JOIN_SOURCE_GROUP` of <linux/in.h>.
pub const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
/// `IPV6_FLOWLABEL_MGR` of <linux/in6.h>.
pub const IPV6_FLOWLABEL_MGR: i32 = 32;
/// `struct in6_flowlabel_req` of <linux/in6.h>. What follows it are control messages for all packets of the label,
/// which may hold a routing header (`fl_create`, `net/ipv6/ip6_flowlabel.c`).
pub const FLOW_LABEL_BYTES: usize = 32;
/// `TUNSETIFF` of <`linux/if_tun.h`>.
pub const TUNSETIFF: i32 = 0x4004_54CA;

/// The socket options that are stopped at: level and name.
pub const OPTIONS: [(i32, i32); 18] = [
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_IP, IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, IPV6_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP),
    (libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP),
    (libc::IPPROTO_IP, MCAST_JOIN_GROUP),
    (libc::IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP),
    (libc::IPPROTO_IPV6, libc::IPV6_RTHDR),
    (libc::IPPROTO_IPV6, IPV6_2292RTHDR),
    (libc::IPPROTO_IPV6, IPV6_2292PKTOPTIONS),
    (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP),
    (libc::IPPROTO_IPV6, IPV6_JOIN_ANYCAST),
    (libc::IPPROTO_IPV6, MCAST_JOIN_GROUP),
    (libc::IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP),
];

/// The ioctls that show the host's interfaces and addresses: netdevice(7).
const SHOWING: [(i32, &str); 11] = [
    (0x8910, "SIOCGIFNAME"),
    (0x8912, "SIOCGIFCONF"),
    (0x8913, "SIOCGIFFLAGS"),
    (0x8915, "SIOCGIFADDR"),
    (0x8917, "SIOCGIFDSTADDR"),
    (0x8919, "SIOCGIFBRDADDR"),
    (0x891B, "SIOCGIFNETMASK"),
    (0x8927, "SIOCGIFHWADDR"),
    (0x8933, "SIOCGIFINDEX"),
    (0x8954, "SIOCGARP"),
    (0x8970, "SIOCGIFMAP"),
];

/// `SO_PEERNAME` of <asm-generic/socket.h>: getpeername(2) as an option.
pub const SO_PEERNAME: i32 = 28;

/// Options of `SOL_SOCKET` that tell how a redirected connection fares, or where it leads.
const SHOWN: [i32; 2] = [libc::SO_ERROR, SO_PEERNAME];

/// The name of a request that shows the host's network.
#[must_use]
pub fn showing_request(request: i32) -> Option<&'static str> {
    SHOWING.iter().find(|(number, _)| *number == request).map(|(_, name)| *name)
}

/// The traps.
#[must_use]
pub fn traps(interest: Interest) -> Vec<Trap> {
    let int = |argument, value| Condition::new(argument, Comparison::int_equal(value));
    let mut traps = vec![
        Trap::always(Syscall::Connect),
        Trap::always(Syscall::Sendmsg),
        Trap::always(Syscall::Sendmmsg),
        Trap::always(Syscall::IoUringSetup),
        Trap::always(Syscall::PidfdGetfd),
        Trap::when(Syscall::Ioctl, [int(1, TUNSETIFF)]),
        Trap::when(Syscall::Ioctl, [int(1, TIOCSTI)]),
        Trap::when(Syscall::Ioctl, [int(1, TIOCLINUX)]),
        Trap::when(Syscall::RequestKey, [Condition::new(2, Comparison::NotEqual(0))]),
        Trap::when(Syscall::Mount, [Condition::new(2, Comparison::NotEqual(0))]),
        Trap::always(Syscall::Fsopen),
        Trap::always(Syscall::ProcessVmWritev),
    ];
    traps.extend(BPF_COMMANDS.map(|command| Trap::when(Syscall::Bpf, [int(0, command)])));
    traps.extend(ATTACHING.map(|request| Trap::when(Syscall::Ptrace, [int(0, request)])));
    traps.extend(sockets());
    traps.extend(OPTIONS.map(|(level, name)| Trap::when(Syscall::Setsockopt, [int(1, level), int(2, name)])));
    // Without more than itself the request asks for a label, which the kernel writes back.
    let more = Condition::new(4, Comparison::Greater(FLOW_LABEL_BYTES as u64));
    let label = [int(1, libc::IPPROTO_IPV6), int(2, IPV6_FLOWLABEL_MGR), more];
    traps.push(Trap::when(Syscall::Setsockopt, label));
    if interest.disclosure {
        traps.push(Trap::always(Syscall::Sendto));
        traps.extend(SHOWING.map(|(request, _)| Trap::when(Syscall::Ioctl, [int(1, request)])));
    } else {
        traps.push(Trap::when(Syscall::Sendto, [Condition::new(4, Comparison::NotEqual(0))]));
    }
    if interest.peers {
        traps.push(Trap::when(Syscall::Recvfrom, [Condition::new(4, Comparison::NotEqual(0))]));
        let always = [Syscall::Recvmsg, Syscall::Recvmmsg, Syscall::RecvmmsgTime64];
        traps.extend(always.map(Trap::always));
    }
    if interest.peers || interest.redirects {
        traps.push(Trap::always(Syscall::Getpeername));
    }
    if interest.redirects {
        traps.push(Trap::always(Syscall::Getsockname));
        traps.extend(SHOWN.map(|name| Trap::when(Syscall::Getsockopt, [int(1, libc::SOL_SOCKET), int(2, name)])));
    }
    if interest.incoming {
        traps.extend([Syscall::Bind, Syscall::Listen, Syscall::Accept, Syscall::Accept4].map(Trap::always));
    }
    if let Some(hooked) = interest.hooked {
        // Netlink dumps are read from what is sent.
        let is_needed = |call| call == Syscall::Sendto && interest.disclosure;
        traps.retain(|trap| !hooked.covers(trap.syscall) || is_needed(trap.syscall));
        traps.extend(unhooked_sockets());
    }
    traps
}

/// `SOCK_TYPE_MASK`, include/linux/net.h
const TYPE_MASK: u64 = 0xF;

/// All kinds of socket but streams and datagrams of UNIX, IPv4 and IPv6, and netlink's (without IPsec's), which are
/// judged when they are used.
fn sockets() -> Vec<Trap> {
    const IPPROTO_L2TP: i32 = 115;
    const SOCK_PACKET: i32 = 10; // obsolete: packets of an interface, under AF_INET
    let family = |value| Condition::new(0, Comparison::int_equal(value));
    let kind = |value: i32| Condition::new(1, Comparison::Masked { mask: TYPE_MASK, expected: value as u64 });
    let protocol = |value| Condition::new(2, Comparison::int_equal(value));
    let mut traps = Vec::new();
    for internet in [libc::AF_INET, libc::AF_INET6] {
        for odd in [libc::SOCK_RAW, libc::SOCK_RDM, SOCK_PACKET] {
            traps.push(Trap::when(Syscall::Socket, [family(internet), kind(odd)]));
        }
        // SOCK_SEQPACKET is SCTP, whatever the protocol.
        traps.push(Trap::when(Syscall::Socket, [family(internet), kind(libc::SOCK_SEQPACKET)]));
        for odd in [IPPROTO_L2TP, libc::IPPROTO_SCTP] {
            traps.push(Trap::when(Syscall::Socket, [family(internet), protocol(odd)]));
        }
    }
    // 3 to 15 without AF_INET6, 10: in few rules, for each of which libseccomp takes its time.
    for (mask, expected) in [(!0_u32, 3), (!3, 4), (!1, 8), (!0, 11), (!3, 12)] {
        let others = Comparison::Masked { mask: u64::from(mask), expected };
        traps.push(Trap::when(Syscall::Socket, [Condition::new(0, others)]));
    }
    traps.push(Trap::when(Syscall::Socket, [family(libc::AF_NETLINK), protocol(libc::NETLINK_XFRM)]));
    // Compared with all 64 bits: garbage in the upper half makes it larger, so that it is looked at.
    let above = Condition::new(0, Comparison::Greater(libc::AF_NETLINK as u64));
    traps.push(Trap::when(Syscall::Socket, [above]));
    traps
}

/// Kinds of internet sockets whose connects or sends no hook of the kernel sees: all but TCP, MPTCP and UDP.
fn unhooked_sockets() -> Vec<Trap> {
    let mut traps = Vec::new();
    for internet in [libc::AF_INET, libc::AF_INET6] {
        let family = Condition::new(0, Comparison::int_equal(internet));
        let kind = |value| Condition::new(1, Comparison::Masked { mask: TYPE_MASK, expected: value });
        let protocol = |comparison| Condition::new(2, comparison);
        let (stream, datagram, dccp) = (libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64, libc::SOCK_DCCP as u64);
        let (tcp, udp) = (libc::IPPROTO_TCP as u64, libc::IPPROTO_UDP as u64);
        traps.push(Trap::when(Syscall::Socket, [family, kind(dccp)]));
        // MPTCP's number is above TCP's: it is looked at, and let go.
        traps.push(Trap::when(Syscall::Socket, [family, kind(stream), protocol(Comparison::Greater(tcp))]));
        traps.push(Trap::when(Syscall::Socket, [family, kind(datagram), protocol(Comparison::Greater(udp))]));
        let icmp = Comparison::int_equal(libc::IPPROTO_ICMP);
        traps.push(Trap::when(Syscall::Socket, [family, kind(datagram), protocol(icmp)]));
    }
    traps
}

/// Whether the hooks of the kernel see all that such a socket sends to (UNIX and netlink sockets leave no host).
#[must_use]
pub fn is_hooked(socket: &SocketKind) -> bool {
    match (socket.family, socket.kind) {
        (Family::UNIX | Family::NETLINK | Family::ALG, _) => true,
        (Family::INET | Family::INET6, SocketType::STREAM) => {
            matches!(socket.protocol, 0 | libc::IPPROTO_TCP | libc::IPPROTO_MPTCP)
        }
        (Family::INET | Family::INET6, SocketType::DGRAM) => matches!(socket.protocol, 0 | libc::IPPROTO_UDP),
        _ => false,
    }
}

/// Whether programs in the kernel can see what it sends to, though no hook on addresses does
/// ([`sockstrace_backend::hooks::Hooks::odd_sockets`]).
#[must_use]
pub fn is_odd(socket: &SocketKind) -> bool {
    match (socket.family, socket.kind) {
        (Family::VSOCK, _) => true,
        (Family::INET | Family::INET6, SocketType::DCCP) => matches!(socket.protocol, 0 | libc::IPPROTO_DCCP),
        (Family::INET, SocketType::DGRAM) => matches!(socket.protocol, libc::IPPROTO_UDPLITE | libc::IPPROTO_ICMP),
        (Family::INET6, SocketType::DGRAM) => {
            matches!(socket.protocol, libc::IPPROTO_UDPLITE | libc::IPPROTO_ICMPV6)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trapped(interest: Interest, syscall: Syscall, args: [u64; 6]) -> bool {
        traps(interest).iter().any(|trap| trap.matches(syscall, &args))
    }

    const PLAIN: Interest =
        Interest { incoming: false, disclosure: false, peers: false, redirects: false, hooked: None };

    #[test]
    fn ordinary_sockets_are_not_stopped_at() {
        for (domain, kind, protocol) in
            [(1, 1, 0), (2, 1, 6), (2, 0x80802, 17), (10, 1, 262), (16, 3, 0), (2, 2, 1)]
        {
            assert!(!trapped(PLAIN, Syscall::Socket, [domain, kind, protocol, 0, 0, 0]), "{domain} {kind}");
        }
    }

    #[test]
    fn every_other_kind_of_socket_is() {
        for (domain, kind, protocol) in [
            (2, 0x80003, 1),
            (10, 3, 58),
            (2, 10, 3),
            (17, 3, 3),
            (17, 2, 0),
            (16, 3, 6),
            (40, 1, 0),
            (31, 3, 1),
            (44, 3, 0),
        ] {
            assert!(trapped(PLAIN, Syscall::Socket, [domain, kind, protocol, 0, 0, 0]), "{domain} {kind}");
        }
        for domain in (3..10).chain(11..16).chain(17..60) {
            assert!(trapped(PLAIN, Syscall::Socket, [domain, 1, 0, 0, 0, 0]), "{domain}");
        }
        assert!(trapped(PLAIN, Syscall::Socket, [0x1_0000_0011, 3, 0, 0, 0, 0]), "garbage in the upper half");
        assert!(trapped(PLAIN, Syscall::Socket, [0xFFFF_FFFF_0000_0002, 3, 0, 0, 0, 0]));
    }

    #[test]
    fn flow_labels_are_stopped_at_if_they_bring_options() {
        let set = |length| trapped(PLAIN, Syscall::Setsockopt, [3, 41, 32, 1, length, 0]);
        assert!(set(33) && set(32 + 40) && set(u64::MAX) && !set(32) && !set(0));
    }

    #[test]
    fn sendto_without_destination_is_not() {
        assert!(!trapped(PLAIN, Syscall::Sendto, [3, 1, 1, 0, 0, 0]));
        assert!(trapped(PLAIN, Syscall::Sendto, [3, 1, 1, 0, 1 << 33, 16]));
        assert!(trapped(Interest { disclosure: true, ..PLAIN }, Syscall::Sendto, [3, 1, 1, 0, 0, 0]));
    }

    #[test]
    fn receiving_is_stopped_at_only_where_peers_need_correction() {
        let peers = Interest { peers: true, ..PLAIN };
        for call in [Syscall::Recvmsg, Syscall::Recvmmsg, Syscall::Getpeername] {
            assert!(!trapped(PLAIN, call, [3, 1, 1, 0, 1, 1]) && trapped(peers, call, [3, 1, 1, 0, 1, 1]));
        }
        assert!(trapped(peers, Syscall::Recvfrom, [3, 1, 1, 0, 1 << 40, 1]));
        assert!(!trapped(peers, Syscall::Recvfrom, [3, 1, 1, 0, 0, 0]));
    }

    #[test]
    fn what_the_hooks_judge_is_not_stopped_at() {
        let hooked = |holds, messages, rings, serving| Interest {
            hooked: Some(Hooked { holds, messages, rings, serving }),
            incoming: true,
            ..PLAIN
        };
        let sendto = [3, 1, 1, 0, 1, 16];
        for number in 0..16 {
            let [holds, messages, rings, serving] = [1, 2, 4, 8].map(|bit| number & bit != 0);
            let interest = hooked(holds, messages, rings, serving);
            assert_eq!(trapped(interest, Syscall::Connect, [0; 6]), holds, "{interest:?}");
            assert_eq!(trapped(interest, Syscall::Sendto, sendto), holds, "{interest:?}");
            assert_eq!(trapped(interest, Syscall::Sendmsg, [0; 6]), holds || !messages, "{interest:?}");
            assert!(trapped(interest, Syscall::Sendmmsg, [0; 6]), "{interest:?}");
            assert_eq!(trapped(interest, Syscall::IoUringSetup, [0; 6]), !rings, "{interest:?}");
            for call in [Syscall::Bind, Syscall::Listen, Syscall::Accept, Syscall::Accept4] {
                assert_eq!(trapped(interest, call, [0; 6]), !serving, "{interest:?}");
            }
        }
        let interest = Interest { disclosure: true, ..hooked(false, false, true, false) };
        assert!(trapped(interest, Syscall::Sendto, [3, 1, 1, 0, 0, 0]));
    }

    #[test]
    fn sockets_that_no_hook_sees_are_stopped_at() {
        let interest =
            Interest { hooked: Some(Hooked { holds: false, messages: true, rings: true, serving: true }), ..PLAIN };
        for (domain, kind, protocol) in
            [(2, 2, 1), (10, 2, 58), (2, 2, 136), (10, 6, 0), (2, 1, 256), (2, 0x80802, 136), (40, 1, 0)]
        {
            let socket = SocketKind { family: Family(domain), kind: SocketType::from_argument(kind), protocol };
            let args = [domain as u64, kind as u64, protocol as u64, 0, 0, 0];
            assert!(!is_hooked(&socket) && trapped(interest, Syscall::Socket, args), "{socket:?}");
            // SMC's are none of them.
            assert_eq!(is_odd(&socket), protocol != 256, "{socket:?}");
        }
        for (domain, kind, protocol) in
            [(1, 1, 0), (2, 1, 6), (10, 1, 262), (2, 2, 0), (10, 0x80802, 17), (16, 3, 0)]
        {
            let socket = SocketKind { family: Family(domain), kind: SocketType::from_argument(kind), protocol };
            assert!(is_hooked(&socket) && !is_odd(&socket), "{socket:?}");
        }
    }
}
