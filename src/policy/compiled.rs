//! The rules for internet destinations as tables that programs in the kernel can look up: for each network that
//! the policy distinguishes, the ports that may be reached.
//!
//! The tables are asked of [`Policy::judge`] itself, network by network and port range by port range, so that they
//! can't say anything else.

use super::Policy;
use super::unix::RESOLVERS;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType, UnixAddress, Way};
use sockstrace_backend::hooks::Network;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const TCP: SocketKind = SocketKind { family: Family::INET6, kind: SocketType::STREAM, protocol: libc::IPPROTO_TCP };
const UDP: SocketKind = SocketKind { family: Family::INET6, kind: SocketType::DGRAM, protocol: libc::IPPROTO_UDP };

/// A network as a range of numbers. IPv4 and IPv6 are worlds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    is_v4: bool,
    first: u128,
    prefix: u8,
}

impl Block {
    fn new(ip: IpAddr, prefix: u8) -> Self {
        let (is_v4, bits) = match ip {
            IpAddr::V4(ip) => (true, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (false, ip.to_bits()),
        };
        let block = Self { is_v4, first: bits, prefix };
        Self { first: bits & !block.host_bits(), ..block }
    }

    fn host_bits(self) -> u128 {
        let width = if self.is_v4 { 32_u32 } else { 128 };
        let hosts = width.saturating_sub(u32::from(self.prefix));
        1_u128.checked_shl(hosts).map_or(u128::MAX, |size| size.wrapping_sub(1))
    }

    fn last(self) -> u128 {
        self.first | self.host_bits()
    }

    fn contains(self, is_v4: bool, address: u128) -> bool {
        self.is_v4 == is_v4 && self.first <= address && address <= self.last()
    }

    fn ip(self, address: u128) -> IpAddr {
        if self.is_v4 { Ipv4Addr::from_bits(address as u32).into() } else { Ipv6Addr::from_bits(address).into() }
    }

    /// An address of it that is in no smaller block: what is said of it is said of all those.
    fn representative(self, blocks: &BTreeSet<Self>) -> Option<u128> {
        let mut candidate = self.first;
        loop {
            let inner = blocks
                .iter()
                .filter(|it| it.prefix > self.prefix && it.contains(self.is_v4, candidate))
                .min_by_key(|it| it.prefix);
            let Some(inner) = inner else { return Some(candidate) };
            candidate = inner.last().checked_add(1).filter(|next| *next <= self.last())?;
        }
    }
}

impl Policy {
    /// For every address, what may be reached there.
    #[must_use]
    pub fn networks_in_kernel(&self) -> Vec<Network> {
        compile(self.named(), &|address, socket| {
            let destination = Some(Address::Internet(address));
            !self.judge(&Operation::Send { destination, way: Way::ByDestination }, Some(socket)).is_leak()
        })
    }

    /// For every local address, where the outside may be served; `None` where it may be anywhere.
    #[must_use]
    pub fn served_in_kernel(&self) -> Option<Vec<Network>> {
        let may_serve = |address, socket: &SocketKind| {
            !self.judge(&Operation::Listen { local: Address::Internet(address) }, Some(socket)).is_leak()
        };
        Some(compile(self.named_here()?, &may_serve))
    }

    /// The paths of UNIX sockets that leak whatever `--unix` says: resolvers'.
    #[must_use]
    pub fn closed_paths(&self) -> Vec<PathBuf> {
        let leaks = |path: &Path| {
            let destination = Address::Unix(UnixAddress::Path(path.into()));
            self.judge(&Operation::Connect { destination }, None).is_leak()
        };
        // Who listens there may have named it by a link that rules don't know.
        let without_link =
            |path: &Path| path.strip_prefix("/var").map_or(path.to_owned(), |rest| Path::new("/").join(rest));
        let paths = RESOLVERS.iter().map(|(path, _)| Path::new(*path));
        paths.filter(|path| leaks(path) && leaks(&without_link(path))).map(Path::to_owned).collect()
    }
}

/// A table of what `opens` says.
fn compile(
    named: impl Iterator<Item = (IpAddr, u8, RangeInclusive<u16>)>,
    opens: &dyn Fn(SocketAddr, &SocketKind) -> bool,
) -> Vec<Network> {
    let whole = |ip: IpAddr| Block::new(ip, if ip.is_ipv4() { 32 } else { 128 });
    let mut blocks = BTreeSet::from([
        Block::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        Block::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        // This host, as `--allow-loopback` has it.
        Block::new(Ipv4Addr::LOCALHOST.into(), 8),
        whole(Ipv4Addr::UNSPECIFIED.into()),
        whole(Ipv6Addr::LOCALHOST.into()),
        whole(Ipv6Addr::UNSPECIFIED.into()),
    ]);
    // Where a range of ports begins, or the next one.
    let mut edges = BTreeSet::from([0_u16]);
    for (ip, prefix, ports) in named {
        blocks.insert(Block::new(ip, prefix));
        edges.insert(*ports.start());
        edges.extend(ports.end().checked_add(1));
    }
    let edges: Vec<u16> = edges.into_iter().collect();
    let networks = blocks.iter().filter_map(|block| {
        let ip = block.ip(block.representative(&blocks)?);
        Some(Network {
            ip: block.ip(block.first),
            prefix: block.prefix,
            tcp: open_ports(&edges, |port| opens(SocketAddr::new(ip, port), &TCP)),
            others: open_ports(&edges, |port| opens(SocketAddr::new(ip, port), &UDP)),
        })
    });
    networks.collect()
}

fn open_ports(edges: &[u16], is_open: impl Fn(u16) -> bool) -> Vec<RangeInclusive<u16>> {
    let ends = edges.iter().skip(1).map(|next| next.saturating_sub(1)).chain([u16::MAX]);
    let mut open: Vec<RangeInclusive<u16>> = Vec::new();
    for (start, end) in edges.iter().copied().zip(ends).filter(|(start, _)| is_open(*start)) {
        match open.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(start) => *last = *last.start()..=end,
            _ => open.push(start..=end),
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyOptions;

    fn policy(allow: &[&str], allow_loopback: bool) -> Policy {
        let proxies =
            vec!["socks5://10.1.2.3:9050".parse().unwrap(), "socks5://[2001:db8::9]:1080".parse().unwrap()];
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        Policy::new(PolicyOptions { proxies, allow, allow_loopback, ..PolicyOptions::default() }).unwrap()
    }

    #[test]
    fn local_tables_say_what_the_policy_says() {
        let rules: [&[&str]; 4] = [
            &[],
            &["127.0.0.1:8080", "[::1]:1-9"],
            &["0.0.0.0:80", "10.0.0.0/8", "10.1.0.0/16:7"],
            &["0.0.0.0/0:443", "[::]"],
        ];
        for (rules, allow_loopback) in rules.iter().flat_map(|rules| [(rules, false), (rules, true)]) {
            let incoming = Some(rules.iter().map(|rule| rule.parse().unwrap()).collect());
            let policy =
                Policy::new(PolicyOptions { allow_loopback, incoming, ..PolicyOptions::default() }).unwrap();
            let networks = policy.served_in_kernel().unwrap();
            let addresses = [
                "0.0.0.0",
                "0.0.0.1",
                "127.0.0.1",
                "127.0.0.2",
                "10.1.0.1",
                "10.2.0.1",
                "192.0.2.1",
                "::",
                "::1",
                "::2",
            ];
            for (ip, port) in
                addresses.iter().flat_map(|ip| [0, 1, 7, 9, 10, 80, 443, 8080, 65535].map(|port| (*ip, port)))
            {
                let ip: IpAddr = ip.parse().unwrap();
                let local = Address::Internet(SocketAddr::new(ip, port));
                let stages = [(Operation::Listen { local: local.clone() }, TCP), (Operation::Bind { local }, UDP)];
                for (operation, socket) in stages {
                    let allowed = !policy.judge(&operation, Some(&socket)).is_leak();
                    for tcp in [true, false] {
                        assert_eq!(
                            lookup(&networks, ip, port, tcp),
                            allowed,
                            "{ip} {port} {rules:?} {allow_loopback}"
                        );
                    }
                }
            }
        }
        assert_eq!(Policy::new(PolicyOptions::default()).unwrap().served_in_kernel(), None);
    }

    #[test]
    fn resolvers_are_closed_unless_allowed() {
        let closed = |allow: &[&str]| policy(allow, false).closed_paths();
        assert_eq!(closed(&[]).len(), 4, "nscd is asked for much else");
        let avahi = closed(&["unix:/run/avahi-daemon/socket"]);
        assert!(avahi.len() == 2 && avahi.iter().all(|path| path.ends_with("io.systemd.Resolve")), "{avahi:?}");
    }

    /// What the kernel does: the longest prefix, then the port.
    fn lookup(networks: &[Network], ip: IpAddr, port: u16, tcp: bool) -> bool {
        let fits = |network: &&Network| {
            let block = Block::new(network.ip, network.prefix);
            let Block { is_v4, first, .. } = Block::new(ip, if ip.is_ipv4() { 32 } else { 128 });
            block.contains(is_v4, first)
        };
        let network = networks.iter().filter(fits).max_by_key(|network| network.prefix).unwrap();
        let ports = if tcp { &network.tcp } else { &network.others };
        ports.iter().any(|range| range.contains(&port))
    }

    #[test]
    fn tables_say_what_the_policy_says() {
        let rules: [&[&str]; 4] = [
            &[],
            &["10.0.0.0/8:80-90", "10.1.0.0/16", "10.1.2.3:443", "0.0.0.0", "[2001:db8::/32]:53"],
            &["0.0.0.0/0:443", "[::/0]:443", "127.0.0.0/9:22", "255.255.255.255:9"],
            &["10.1.2.0/25", "10.1.2.128/25", "10.1.2.0/24:7", "::1", "[fe80::/10]:1-65535"],
        ];
        let addresses = [
            "0.0.0.0",
            "0.0.0.1",
            "10.0.0.0",
            "10.1.0.0",
            "10.1.2.3",
            "10.1.2.4",
            "10.1.2.129",
            "10.255.255.255",
            "11.0.0.0",
            "126.255.255.255",
            "127.0.0.1",
            "127.128.0.1",
            "127.255.255.255",
            "128.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "2001:db8::9",
            "2001:db8::8",
            "2001:db9::",
            "fe80::1",
            "ff02::1",
        ];
        for (rules, loopback) in rules.iter().flat_map(|rules| [(rules, false), (rules, true)]) {
            let policy = policy(rules, loopback);
            let networks = policy.networks_in_kernel();
            for (ip, port) in addresses.iter().flat_map(|ip| {
                [0, 1, 7, 9, 22, 23, 52, 53, 54, 79, 80, 90, 91, 442, 443, 444, 1080, 9050, 65535]
                    .map(|port| (*ip, port))
            }) {
                let ip: IpAddr = ip.parse().unwrap();
                let destination = Some(Address::Internet(SocketAddr::new(ip, port)));
                let operation = Operation::Send { destination, way: Way::ByDestination };
                for (socket, tcp) in [(TCP, true), (UDP, false)] {
                    let allowed = !policy.judge(&operation, Some(&socket)).is_leak();
                    assert_eq!(lookup(&networks, ip, port, tcp), allowed, "{ip} {port} {tcp} {rules:?} {loopback}");
                }
            }
        }
    }
}
