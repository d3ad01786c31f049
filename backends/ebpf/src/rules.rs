//! The rules in the form that the programs look up (bpf/rules.h): networks in a trie, each with the number of a set
//! of ports; networks with the same ports share one.

use nix::errno::Errno;
use sockstrace_backend::BackendError;
use sockstrace_backend::hooks::Network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// One bit a port.
const BITMAP_BYTES: usize = 8192;

/// `max_entries` of the trie.
const MOST_NETWORKS: usize = 65_536;

/// Prefix length, address in IPv6 spelling, number of the set of ports.
type Entry = (u32, [u8; 16], u32);

/// Networks and sets of ports.
#[derive(Debug, Default)]
pub struct Tables {
    networks: Vec<Entry>,
    served: Vec<Entry>,
    sets: Vec<[u8; Tables::SET_BYTES]>,
}

impl Tables {
    /// `struct ports`
    pub const SET_BYTES: usize = 2 * BITMAP_BYTES;

    /// The tables for these networks of destinations, and of local addresses.
    pub fn of(networks: &[Network], served: &[Network]) -> Result<Self, BackendError> {
        let count = networks.len().max(served.len());
        if count > MOST_NETWORKS {
            let what = format!("compiling the rules: {count} networks are more than the ebpf backend takes");
            return Err(BackendError::Failed(what, Errno::E2BIG));
        }
        let mut tables = Self::default();
        let mut known: HashMap<[u8; Self::SET_BYTES], u32> = HashMap::new();
        let mut entry = |network: &Network| {
            let set = ports(network);
            let next = tables.sets.len() as u32;
            let index = *known.entry(set).or_insert(next);
            if index == next {
                tables.sets.push(set);
            }
            let (ip, prefix) = match network.ip {
                IpAddr::V4(ip) => (ip.to_ipv6_mapped(), u32::from(network.prefix).saturating_add(96)),
                IpAddr::V6(ip) => (ip, u32::from(network.prefix)),
            };
            (prefix, ip.octets(), index)
        };
        let networks: Vec<Entry> = networks.iter().map(&mut entry).collect();
        let served: Vec<Entry> = served.iter().map(&mut entry).collect();
        Ok(Self { networks, served, ..tables })
    }

    /// Destinations.
    pub fn networks(&self) -> &[Entry] {
        &self.networks
    }

    /// Local addresses.
    pub fn served(&self) -> &[Entry] {
        &self.served
    }

    /// The sets of ports.
    pub fn port_sets(&self) -> &[[u8; Self::SET_BYTES]] {
        &self.sets
    }

    /// How many sets the map is to hold; it can't be empty.
    pub fn sets(&self) -> u32 {
        (self.sets.len() as u32).max(1)
    }
}

fn ports(network: &Network) -> [u8; Tables::SET_BYTES] {
    let mut set = [0; Tables::SET_BYTES];
    let (tcp, others) = set.split_at_mut(BITMAP_BYTES);
    fill(tcp, &network.tcp);
    fill(others, &network.others);
    set
}

fn fill(bitmap: &mut [u8], ranges: &[RangeInclusive<u16>]) {
    for port in ranges.iter().cloned().flatten() {
        if let Some(byte) = bitmap.get_mut(usize::from(port >> 3)) {
            *byte |= 1 << (port & 7);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_programs_look() {
        let network = |ip: &str, prefix, tcp: Vec<RangeInclusive<u16>>| Network {
            ip: ip.parse().unwrap(),
            prefix,
            tcp,
            others: vec![53..=53],
        };
        let networks = [
            network("10.0.0.0", 8, vec![0..=0, 9..=17, 65535..=65535]),
            network("2001:db8::", 32, vec![]),
            network("::", 0, vec![]),
        ];
        let tables = Tables::of(&networks, &networks[..1]).unwrap();
        let mapped: std::net::Ipv6Addr = "::ffff:10.0.0.0".parse().unwrap();
        assert_eq!(tables.networks()[0], (104, mapped.octets(), 0));
        assert_eq!((tables.networks()[1].2, tables.networks()[2].2, tables.sets()), (1, 1, 2));
        let set = &tables.port_sets()[0];
        assert_eq!((set[0], set[1], set[2], set[8191]), (1, 0xFE, 3, 0x80));
        assert_eq!(set[BITMAP_BYTES + 6], 1 << 5);
        assert_eq!(tables.served(), &tables.networks()[..1]);
        assert_eq!(Tables::default().sets(), 1);
    }
}
