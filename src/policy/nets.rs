//! Which rule covers an IP address and port: a hash table for each prefix length in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// A network. An IPv4-mapped IPv6 network is its IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Net {
    V4 { bits: u32, prefix: u8 },
    V6 { bits: u128, prefix: u8 },
}

/// Where `::ffff:0:0/96` ends and the IPv4 address begins.
const MAPPED_PREFIX: u8 = 96;

impl Net {
    /// The network of `ip` with this prefix length, or `None` if no such length exists.
    pub(super) fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) if prefix <= 32 => Some(Self::V4 { bits: ip.to_bits() & mask_v4(prefix), prefix }),
            IpAddr::V6(ip) if prefix <= 128 => match (ip.to_ipv4_mapped(), prefix) {
                (Some(v4), MAPPED_PREFIX..) => Self::new(v4.into(), prefix - MAPPED_PREFIX),
                _ => Some(Self::V6 { bits: ip.to_bits() & mask_v6(prefix), prefix }),
            },
            _ => None,
        }
    }

    /// Its first address and prefix length.
    pub(super) fn parts(self) -> (IpAddr, u8) {
        match self {
            Self::V4 { bits, prefix } => (Ipv4Addr::from_bits(bits).into(), prefix),
            Self::V6 { bits, prefix } => (Ipv6Addr::from_bits(bits).into(), prefix),
        }
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// Rules (as indices) by network and port.
#[derive(Debug, Default)]
pub(super) struct Nets {
    v4: Vec<Level<u32>>,
    v6: Vec<Level<u128>>,
}

/// The networks of one prefix length.
#[derive(Debug)]
struct Level<Bits> {
    prefix: u8,
    nets: HashMap<Bits, Ports>,
}

/// The port ranges of one network, in order and without overlap, each with its rule.
type Ports = Vec<(RangeInclusive<u16>, usize)>;

impl Nets {
    pub(super) fn new(rules: impl IntoIterator<Item = (Net, RangeInclusive<u16>, usize)>) -> Self {
        let mut v4: BTreeMap<u8, HashMap<u32, Ports>> = BTreeMap::new();
        let mut v6: BTreeMap<u8, HashMap<u128, Ports>> = BTreeMap::new();
        for (net, ports, rule) in rules {
            let list = match net {
                Net::V4 { bits, prefix } => v4.entry(prefix).or_default().entry(bits).or_default(),
                Net::V6 { bits, prefix } => v6.entry(prefix).or_default().entry(bits).or_default(),
            };
            list.push((ports, rule));
        }
        Self { v4: levels(v4), v6: levels(v6) }
    }

    /// The rule of the longest prefix that covers `ip` and `port`; without a port, whatever its ports.
    /// An IPv4-mapped address is its IPv4 address.
    pub(super) fn find(&self, ip: IpAddr, port: Option<u16>) -> Option<usize> {
        self.find_where(ip, port, |_| true)
    }

    /// As [`Nets::find`], but of a wildcard address (0.0.0.0, `::`): only a rule that names exactly it,
    /// or everything, covers it.
    pub(super) fn find_wildcard(&self, ip: IpAddr, port: u16) -> Option<usize> {
        let whole = if ip.to_canonical().is_ipv4() { 32 } else { 128 };
        self.find_where(ip, Some(port), |prefix| prefix == 0 || prefix == whole)
    }

    fn find_where(&self, ip: IpAddr, port: Option<u16>, wanted: impl Fn(u8) -> bool) -> Option<usize> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let levels = self.v4.iter().filter(|level| wanted(level.prefix));
                let mut found = levels
                    .filter_map(|level| rule_for(level.nets.get(&(ip.to_bits() & mask_v4(level.prefix)))?, port));
                found.next()
            }
            IpAddr::V6(ip) => {
                let levels = self.v6.iter().filter(|level| wanted(level.prefix));
                let mut found = levels
                    .filter_map(|level| rule_for(level.nets.get(&(ip.to_bits() & mask_v6(level.prefix)))?, port));
                found.next()
            }
        }
    }
}

fn levels<Bits>(by_prefix: BTreeMap<u8, HashMap<Bits, Ports>>) -> Vec<Level<Bits>> {
    let longest_first = by_prefix.into_iter().rev();
    longest_first
        .map(|(prefix, mut nets)| {
            for ports in nets.values_mut() {
                *ports = disjoint(ports);
            }
            Level { prefix, nets }
        })
        .collect()
}

fn rule_for(ports: &Ports, port: Option<u16>) -> Option<usize> {
    let Some(port) = port else {
        return ports.first().map(|(_, rule)| *rule);
    };
    let next = ports.partition_point(|(range, _)| *range.end() < port);
    ports.get(next).filter(|(range, _)| range.contains(&port)).map(|(_, rule)| *rule)
}

/// The same ranges cut so that none overlap; where several do, the rule written first stays.
fn disjoint(ranges: &Ports) -> Ports {
    let mut edges: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (range, rule) in ranges {
        edges.entry(u32::from(*range.start())).or_default().0.push(*rule);
        edges.entry(u32::from(*range.end()) + 1).or_default().1.push(*rule);
    }
    let mut covering: BTreeSet<usize> = BTreeSet::new();
    let mut open: Option<(u32, usize)> = None;
    let mut cut = Vec::new();
    for (at, (beginning, ending)) in edges {
        for rule in &ending {
            covering.remove(rule);
        }
        covering.extend(beginning);
        let first = covering.first().copied();
        if let Some((start, rule)) = open.take_if(|(_, rule)| Some(*rule) != first) {
            // Edges lie between 0 and 65536, and `at` is greater than `start`.
            cut.push((start as u16..=(at - 1) as u16, rule));
        }
        if open.is_none() {
            open = first.map(|rule| (at, rule));
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str, prefix: u8) -> Net {
        Net::new(text.parse().unwrap(), prefix).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        assert_eq!(net("::ffff:10.1.2.3", 104), net("10.0.0.0", 8));
        assert_eq!(net("::ffff:10.1.2.3", 128), net("10.1.2.3", 32));
        assert_eq!(net("::ffff:0:0", 96), net("0.0.0.0", 0));
        assert!(matches!(net("::", 0), Net::V6 { bits: 0, prefix: 0 }));
        assert_eq!(Net::new(ip("1.2.3.4"), 33), None);
        assert_eq!(Net::new(ip("::1"), 129), None);
    }

    #[test]
    fn the_longest_prefix_decides_and_ports_narrow_it() {
        let nets = Nets::new([
            (net("10.0.0.0", 8), 0..=65535, 0),
            (net("10.1.0.0", 16), 80..=90, 1),
            (net("10.1.2.3", 32), 443..=443, 2),
        ]);
        assert_eq!(nets.find(ip("10.1.2.3"), Some(443)), Some(2));
        assert_eq!(nets.find(ip("10.1.2.3"), Some(85)), Some(1));
        assert_eq!(nets.find(ip("10.1.2.3"), Some(91)), Some(0));
        assert_eq!(nets.find(ip("::ffff:10.1.2.3"), Some(443)), Some(2));
        assert_eq!(nets.find(ip("11.1.2.3"), Some(443)), None);
        assert_eq!(nets.find(ip("11.1.2.3"), None), None);
        assert_eq!(nets.find(ip("10.1.2.3"), None), Some(2));
    }

    #[test]
    fn every_prefix_length_covers_exactly_its_network() {
        for prefix in 0..=32_u8 {
            let nets = Nets::new([(net("203.0.113.170", prefix), 0..=65535, 7)]);
            for bit in 0..32_u8 {
                let other = 0xCB00_71AA_u32 ^ (1 << (31 - bit));
                let covered = nets.find(IpAddr::V4(other.into()), Some(1)).is_some();
                assert_eq!(covered, bit >= prefix, "/{prefix}, bit {bit} differs");
            }
        }
        for prefix in 0..=128_u8 {
            let nets = Nets::new([(net("2001:db8::aa", prefix), 0..=65535, 7)]);
            for bit in 0..128_u8 {
                let base: std::net::Ipv6Addr = "2001:db8::aa".parse().unwrap();
                let other = base.to_bits() ^ (1 << (127 - bit));
                let covered = nets.find(IpAddr::V6(other.into()), Some(1)).is_some();
                assert_eq!(covered, bit >= prefix, "/{prefix}, bit {bit} differs");
            }
        }
    }

    #[test]
    fn overlapping_ranges_agree_with_a_linear_scan() {
        // A small generator (xorshift) in place of a dependency.
        let mut state = 0x9E37_79B9_u32;
        let mut next = |bound: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state % bound) as u16
        };
        for _ in 0..200 {
            let ranges: Ports = (0..8)
                .map(|rule| {
                    let start = next(40);
                    (start..=start + next(10), rule)
                })
                .chain([(65530..=65535, 8)])
                .collect();
            let cut = disjoint(&ranges);
            for port in (0..60).chain(65525..=65535) {
                let linear = ranges.iter().find(|(range, _)| range.contains(&port)).map(|r| r.1);
                assert_eq!(rule_for(&cut, Some(port)), linear, "port {port} in {ranges:?}");
            }
        }
    }

    #[test]
    fn a_wildcard_is_covered_only_by_name_or_by_everything() {
        let nets = Nets::new([(net("0.0.0.0", 8), 0..=65535, 0), (net("::", 64), 0..=65535, 1)]);
        assert_eq!(nets.find_wildcard(ip("0.0.0.0"), 80), None);
        assert_eq!(nets.find_wildcard(ip("::"), 80), None);
        let nets = Nets::new([(net("0.0.0.0", 32), 80..=80, 0), (net("::", 0), 0..=65535, 1)]);
        assert_eq!(nets.find_wildcard(ip("0.0.0.0"), 80), Some(0));
        assert_eq!(nets.find_wildcard(ip("0.0.0.0"), 81), None);
        assert_eq!(nets.find_wildcard(ip("::ffff:0.0.0.0"), 80), Some(0));
        assert_eq!(nets.find_wildcard(ip("::"), 80), Some(1));
    }
}
