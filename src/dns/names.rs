//! Addresses that stand for names (`--dns redirect=map`).
//!
//! A query is answered with an address out of a pool, and a connect to that address is made through the
//! proxy to the name. So nobody resolves it but the proxy, and names that only the proxy knows (.onion) work.
//!
//! The pools, and why these:
//!
//! - 198.18.0.0/15 is set aside for benchmarks (RFC 2544): on no network that a program runs in is there
//!   anything to be reached, yet programs treat it as they treat the internet, unlike loopback (for browsers
//!   another security context, and with `--allow-loopback` allowed) and 240.0.0.0/4 (for some, no address).
//! - fd73:6f63:6b73::/96 is a unique local prefix (RFC 4193) of our own. Programs that sort addresses
//!   (RFC 6724) put it behind IPv4.
//!
//! A connect to a pool's address is a leak whatever the rules say, so that none is ever let go as it is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const IPV4_POOL: u32 = 0xC612_0000; // 198.18.0.0
const IPV6_POOL: u128 = 0xfd73_6f63_6b73 << 80;

/// Names that can be there at a time: all of the /15 but its first and last address.
const CAPACITY: u32 = (1 << 17) - 2;

/// For how long a name keeps its address after it was last used, when addresses run out.
const KEPT: Duration = Duration::from_secs(3600);

/// How many entries are looked at for an old one.
const LOOKED_AT: u32 = 1024;

/// Names and their addresses.
#[derive(Debug, Default)]
pub struct Names(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<String, u32>,
    by_index: HashMap<u32, Entry>,
    /// Given last.
    last: u32,
}

#[derive(Debug)]
struct Entry {
    name: String,
    used: Instant,
}

impl Names {
    /// The addresses for a name (lower case, without the root's dot). `None` where there are no more.
    pub fn addresses_of(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let mut table = self.table();
        let now = Instant::now();
        let index = match table.by_name.get(name).copied() {
            Some(index) => {
                if let Some(entry) = table.by_index.get_mut(&index) {
                    entry.used = now;
                }
                index
            }
            None => table.give(name, now)?,
        };
        Some((Ipv4Addr::from(IPV4_POOL | index), Ipv6Addr::from(IPV6_POOL | u128::from(index))))
    }

    /// The name that an address stands for.
    pub fn name_of(&self, ip: IpAddr) -> Option<String> {
        let index = index_of(ip)?;
        let mut table = self.table();
        let entry = table.by_index.get_mut(&index)?;
        entry.used = Instant::now();
        Some(entry.name.clone())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn give(&mut self, name: &str, now: Instant) -> Option<u32> {
        for _ in 0..LOOKED_AT {
            self.last = self.last % CAPACITY + 1;
            let index = self.last;
            let old = match self.by_index.get(&index) {
                None => None,
                Some(entry) if now.saturating_duration_since(entry.used) >= KEPT => Some(entry.name.clone()),
                Some(_) => continue,
            };
            if let Some(old) = old {
                self.by_name.remove(&old);
            }
            self.by_name.insert(name.to_owned(), index);
            self.by_index.insert(index, Entry { name: name.to_owned(), used: now });
            return Some(index);
        }
        None
    }
}

/// Whether the address belongs to a pool, given to a name or not.
#[must_use]
pub fn is_pooled(ip: IpAddr) -> bool {
    index_of(ip).is_some()
}

fn index_of(ip: IpAddr) -> Option<u32> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let bits = u32::from(ip);
            (bits & !0x1_FFFF == IPV4_POOL).then_some(bits & 0x1_FFFF)
        }
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            let index = bits & 0xFFFF_FFFF;
            (bits & !0xFFFF_FFFF == IPV6_POOL).then_some(index as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_addresses() {
        let names = Names::default();
        let (four, six) = names.addresses_of("a.example").unwrap();
        assert_eq!((four.to_string().as_str(), six.to_string().as_str()), ("198.18.0.1", "fd73:6f63:6b73::1"));
        assert_ne!(names.addresses_of("b.onion").unwrap().0, four);
        assert_eq!(names.addresses_of("a.example"), Some((four, six)));
        let mapped = four.to_ipv6_mapped();
        for ip in [IpAddr::V4(four), IpAddr::V6(six), IpAddr::V6(mapped)] {
            assert_eq!(names.name_of(ip).as_deref(), Some("a.example"), "{ip}");
            assert!(is_pooled(ip));
        }
        let unknown: IpAddr = "198.19.255.254".parse().unwrap();
        assert_eq!((names.name_of(unknown), is_pooled(unknown)), (None, true));
        for ip in ["198.17.255.255", "198.20.0.0", "127.0.0.1", "fd73:6f63:6b73:0:0:1::1", "::1"] {
            assert!(!is_pooled(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn addresses_run_out_rather_than_change_their_name() {
        let names = Names::default();
        for index in 0..CAPACITY {
            let (four, _) = names.addresses_of(&index.to_string()).unwrap();
            assert!(is_pooled(four.into()) && four.octets() != [198, 19, 255, 255]);
        }
        assert_eq!(names.addresses_of("one more"), None);
        let first = "198.18.0.1".parse().unwrap();
        assert_eq!(names.name_of(first).as_deref(), Some("0"));
        // An old one gives way.
        let long_ago = Instant::now().checked_sub(KEPT).unwrap();
        for index in 1..=CAPACITY {
            if let Some(entry) = names.table().by_index.get_mut(&index) {
                entry.used = long_ago;
            }
        }
        let (four, _) = names.addresses_of("one more").unwrap();
        assert_eq!(names.name_of(four.into()).as_deref(), Some("one more"));
        assert_eq!(names.table().by_index.len(), CAPACITY as usize);
        assert_eq!(names.table().by_name.len(), CAPACITY as usize);
    }
}
