//! Socket options that redirect packets, or make the kernel send some: ip(7), ipv6(7), RFC 3542, RFC 3678.

use super::Operation;
use super::address::Address;
use super::decode::{IPV6_2292RTHDR, Sockaddr, has_source_route, leads_out};
use super::interest::{
    FLOW_LABEL_BYTES, IP_UNICAST_IF, IPV6_2292PKTOPTIONS, IPV6_FLOWLABEL_MGR, IPV6_JOIN_ANYCAST, IPV6_UNICAST_IF,
    MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, OPTIONS, SO_BINDTOIFINDEX,
};
use super::layout;
use sockstrace_backend::Abi;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// No judged option has a longer value (`struct group_source_req` is 264 bytes).
pub const LONGEST: usize = 1024;

/// Whether the option is looked at, with a value of so many bytes.
#[must_use]
pub fn is_judged(level: i32, name: i32, length: i32) -> bool {
    let labels = (level, name) == (libc::IPPROTO_IPV6, IPV6_FLOWLABEL_MGR);
    OPTIONS.contains(&(level, name)) || (labels && length > FLOW_LABEL_BYTES as i32)
}

/// What setting the option to `value` (native layout) does; `None` where it redirects nothing.
#[must_use]
pub fn meaning(level: i32, name: i32, value: &[u8]) -> Option<Operation> {
    let group = |address: Option<IpAddr>| {
        let group = Address::Internet(SocketAddr::new(address?, 0));
        Some(Operation::JoinGroup { group })
    };
    let chosen = |option, is_chosen: bool| is_chosen.then_some(Operation::ChooseInterface { option });
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => {
            let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
            chosen("SO_BINDTODEVICE", !matches!(name, b"" | b"lo"))
        }
        (libc::SOL_SOCKET, SO_BINDTOIFINDEX) => chosen("SO_BINDTOIFINDEX", leads_out(value, 0)),
        (libc::SOL_SOCKET, libc::SO_MARK) => chosen("SO_MARK", layout::number(value, 0, 4) != 0),
        // In network byte order.
        (libc::IPPROTO_IP, IP_UNICAST_IF) => chosen("IP_UNICAST_IF", leads_out(&reversed(value), 0)),
        (libc::IPPROTO_IPV6, IPV6_UNICAST_IF) => chosen("IPV6_UNICAST_IF", leads_out(&reversed(value), 0)),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => chosen("IPV6_PKTINFO", leads_out(value, 16)),
        (libc::IPPROTO_IP, libc::IP_OPTIONS) => has_source_route(value).then_some(Operation::SourceRoute),
        (libc::IPPROTO_IPV6, libc::IPV6_RTHDR | IPV6_2292RTHDR | IPV6_2292PKTOPTIONS) => {
            (!value.is_empty()).then_some(Operation::SourceRoute)
        }
        (libc::IPPROTO_IPV6, IPV6_FLOWLABEL_MGR) => {
            (value.len() > FLOW_LABEL_BYTES).then_some(Operation::SourceRoute)
        }
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_ADD_SOURCE_MEMBERSHIP) => {
            group(value.first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip).into()))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | IPV6_JOIN_ANYCAST) => {
            group(value.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into()))
        }
        // struct group_req: interface index, padding, struct sockaddr_storage.
        (_, MCAST_JOIN_GROUP | MCAST_JOIN_SOURCE_GROUP) => {
            let address = Sockaddr::from_bytes(value.get(8..).unwrap_or_default()).address();
            group(address.ip().map(|(ip, _)| ip))
        }
        _ => None,
    }
}

/// A big-endian int as a native one.
fn reversed(value: &[u8]) -> [u8; 4] {
    value.first_chunk::<4>().map_or([0; 4], |bytes| u32::from_be_bytes(*bytes).to_ne_bytes())
}

/// The value in native layout: on i386 the address of a `struct group_req` isn't padded.
#[must_use]
pub fn native(level: i32, name: i32, mut value: Vec<u8>, abi: Abi) -> Vec<u8> {
    let padded = matches!((level, name), (_, MCAST_JOIN_GROUP | MCAST_JOIN_SOURCE_GROUP));
    if padded && abi == Abi::I386 && value.len() >= 4 {
        value.splice(4..4, [0; 4]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_every_structure() {
        let group = |level, name, value: &[u8]| match meaning(level, name, value) {
            Some(Operation::JoinGroup { group }) => group.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(group(0, 35, &[224, 0, 0, 251, 0, 0, 0, 0]), "224.0.0.251:0");
        let six = "ff02::fb".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(group(41, 20, &[&six[..], &[0; 4]].concat()), "[ff02::fb]:0");
        let mut request = vec![1, 0, 0, 0, 2, 0, 0, 0, 224, 0, 0, 251];
        request.resize(132, 0);
        let native = native(0, MCAST_JOIN_GROUP, request, Abi::I386);
        assert_eq!(group(0, MCAST_JOIN_GROUP, &native), "224.0.0.251:0");
        for length in 0..16 {
            assert!(!matches!(meaning(41, 20, &six[..length]), Some(Operation::JoinGroup { .. })));
        }
    }

    #[test]
    fn interfaces_other_than_loopback_are_a_choice() {
        let chosen = |level, name, value: &[u8]| {
            matches!(meaning(level, name, value), Some(Operation::ChooseInterface { .. }))
        };
        assert!(chosen(1, libc::SO_BINDTODEVICE, b"eth0\0"));
        assert!(chosen(1, libc::SO_BINDTODEVICE, b"lo0"));
        assert!(!chosen(1, libc::SO_BINDTODEVICE, b"lo\0rest"));
        assert!(!chosen(1, libc::SO_BINDTODEVICE, b""));
        assert!(chosen(1, SO_BINDTOIFINDEX, &2_u32.to_ne_bytes()) && !chosen(1, SO_BINDTOIFINDEX, &[0; 4]));
        assert!(chosen(0, IP_UNICAST_IF, &2_u32.to_be_bytes()) && !chosen(0, IP_UNICAST_IF, &1_u32.to_be_bytes()));
        assert!(chosen(41, IPV6_UNICAST_IF, &7_u32.to_be_bytes()));
        assert!(chosen(1, libc::SO_MARK, &7_u32.to_ne_bytes()) && !chosen(1, libc::SO_MARK, &[0; 4]));
        let info = [&[0; 16][..], &3_u32.to_ne_bytes()].concat();
        assert!(chosen(41, libc::IPV6_PKTINFO, &info) && !chosen(41, libc::IPV6_PKTINFO, &[9; 16]));
    }

    #[test]
    fn taking_options_back_is_no_leak() {
        assert_eq!(meaning(0, libc::IP_OPTIONS, &[]), None);
        assert_eq!(meaning(41, libc::IPV6_RTHDR, &[]), None);
        assert_eq!(meaning(41, IPV6_FLOWLABEL_MGR, &[0; 32]), None);
        assert_eq!(meaning(41, IPV6_FLOWLABEL_MGR, &[0; 72]), Some(Operation::SourceRoute));
        assert_eq!(meaning(0, libc::IP_OPTIONS, &[0x83, 7, 4, 1, 2, 3, 4, 0]), Some(Operation::SourceRoute));
        assert_eq!(meaning(41, libc::IPV6_RTHDR, &[0; 24]), Some(Operation::SourceRoute));
    }
}
