//! The policy itself: one function from operation and socket to verdict.

use super::nets::Nets;
use super::proxy::{Endpoint, Proxy};
use super::rule::{Rule, Target};
use super::sockets::{leaks_by_itself, listens, speaks_tcp};
use super::unix::{self, Resolver, UnixGlobs};
use super::{Class, Verdict};
use crate::dns::names::is_pooled;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType, UnixAddress, Way};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a [`Policy`] is made of.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent options, each named at its use")]
pub struct PolicyOptions {
    /// `--proxy`; if empty, Tor's default ports on loopback.
    pub proxies: Vec<Proxy>,
    /// `--allow`
    pub allow: Vec<Rule>,
    /// `--allow-loopback`
    pub allow_loopback: bool,
    /// `--disclosure leak`
    pub judge_disclosure: bool,
    /// `--unix leak`
    pub judge_unix: bool,
    /// `--isolate`: what a network namespace doesn't hold is a leak by itself.
    pub isolated: bool,
    /// `--dns redirect`
    pub redirects_dns: bool,
    /// `--dns redirect=map`: addresses of the pool stand for names.
    pub maps_names: bool,
    /// `--incoming block`, with the rules of `--allow-incoming`; `None` is `--incoming allow`.
    pub incoming: Option<Vec<Rule>>,
}

/// Says of each operation whether it leaks.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent options, each named at its use")]
pub struct Policy {
    proxies: Vec<Proxy>,
    proxies_are_defaults: bool,
    proxies_by_address: HashMap<(IpAddr, u16), usize>,
    proxies_by_path: HashMap<Vec<u8>, usize>,
    allow: Rules,
    allow_loopback: bool,
    judge_disclosure: bool,
    judge_unix: bool,
    redirects_dns: bool,
    maps_names: bool,
    incoming: Option<Rules>,
    isolated: bool,
}

/// Rules with the tables to find them by.
#[derive(Debug)]
pub struct Rules {
    list: Vec<Rule>,
    nets: Nets,
    unix: UnixGlobs,
}

impl Rules {
    /// Builds the tables.
    ///
    /// # Errors
    /// A message where the rules can't be compiled together.
    pub fn new(list: Vec<Rule>) -> Result<Self, String> {
        let nets = Nets::new(list.iter().enumerate().filter_map(|(index, rule)| match &rule.target {
            Target::Net(net, ports) => Some((*net, ports.clone(), index)),
            Target::Unix(_) => None,
        }));
        let unix = UnixGlobs::new(list.iter().enumerate().flat_map(|(index, rule)| {
            let globs: &[String] = match &rule.target {
                Target::Net(..) => &[],
                Target::Unix(globs) => globs,
            };
            globs.iter().map(move |glob| (glob.as_str(), index))
        }))?;
        Ok(Self { list, nets, unix })
    }

    /// Whether one of them covers the address.
    #[must_use]
    pub fn covers(&self, address: &Address) -> bool {
        match address {
            Address::Internet(address) => {
                self.nets.find(address.ip().to_canonical(), Some(address.port())).is_some()
            }
            Address::Unix(address) => self.unix.find(address).is_some(),
            _ => false,
        }
    }

    /// All networks and ports that they name.
    fn named(&self) -> impl Iterator<Item = (IpAddr, u8, RangeInclusive<u16>)> + '_ {
        self.list.iter().filter_map(|rule| match &rule.target {
            Target::Net(net, ports) => {
                let (ip, prefix) = net.parts();
                Some((ip, prefix, ports.clone()))
            }
            Target::Unix(_) => None,
        })
    }

    fn text(&self, index: usize) -> Option<&str> {
        self.list.get(index).map(Rule::text)
    }
}

/// Where a local address comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Bind,
    Use,
}

impl Policy {
    /// Builds the lookup tables.
    ///
    /// # Errors
    /// A message where the rules can't be compiled together.
    pub fn new(options: PolicyOptions) -> Result<Self, String> {
        let proxies_are_defaults = options.proxies.is_empty();
        let proxies = if proxies_are_defaults { Proxy::defaults() } else { options.proxies };
        let mut proxies_by_address = HashMap::new();
        let mut proxies_by_path = HashMap::new();
        for (index, proxy) in proxies.iter().enumerate() {
            match proxy.endpoint() {
                Endpoint::Tcp(addresses) => {
                    for address in addresses {
                        let key = (address.ip().to_canonical(), address.port());
                        proxies_by_address.entry(key).or_insert(index);
                    }
                }
                Endpoint::Unix(paths) => {
                    for path in paths {
                        let path = path.as_os_str().as_bytes().to_vec();
                        proxies_by_path.entry(path).or_insert(index);
                    }
                }
            }
        }
        Ok(Self {
            proxies,
            proxies_are_defaults,
            proxies_by_address,
            proxies_by_path,
            allow: Rules::new(options.allow)?,
            allow_loopback: options.allow_loopback,
            judge_disclosure: options.judge_disclosure,
            judge_unix: options.judge_unix,
            redirects_dns: options.redirects_dns,
            maps_names: options.maps_names,
            incoming: options.incoming.map(Rules::new).transpose()?,
            isolated: options.isolated,
        })
    }

    /// Whether bind, listen and accept can be leaks.
    #[must_use]
    pub fn judges_incoming(&self) -> bool {
        self.incoming.is_some()
    }

    /// Whether UNIX socket destinations can be leaks.
    #[must_use]
    pub fn judges_unix(&self) -> bool {
        self.judge_unix
    }

    /// Whether a resolver behind a UNIX socket is judged, as DNS, whatever `--unix` says.
    #[must_use]
    pub fn judges_resolver(&self, resolver: Resolver) -> bool {
        resolver == Resolver::OfNames || self.redirects_dns
    }

    /// Whether reading the host's addresses and routes is a leak.
    #[must_use]
    pub fn judges_disclosure(&self) -> bool {
        self.judge_disclosure
    }

    /// The networks outside that rules and proxies name: address and prefix length. Loopback is every host's
    /// own.
    pub fn networks(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let whole = |ip: IpAddr| (ip, if ip.is_ipv4() { 32 } else { 128 });
        let proxies = self.proxies_by_address.keys().map(move |(ip, _)| whole(*ip));
        let rules = self.allow.list.iter().filter_map(|rule| match &rule.target {
            Target::Net(net, _) => Some(net.parts()),
            Target::Unix(_) => None,
        });
        proxies.chain(rules).filter(|(ip, _)| !ip.is_loopback())
    }

    /// All networks and ports that rules and proxies name.
    pub(super) fn named(&self) -> impl Iterator<Item = (IpAddr, u8, RangeInclusive<u16>)> + '_ {
        let proxies = self.proxies_by_address.keys().map(|(ip, port)| {
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            (*ip, whole, *port..=*port)
        });
        proxies.chain(self.allow.named())
    }

    /// All networks and ports that rules on local addresses name; `None` where there are none to be judged.
    pub(super) fn named_here(&self) -> Option<impl Iterator<Item = (IpAddr, u8, RangeInclusive<u16>)> + '_> {
        self.incoming.as_ref().map(Rules::named)
    }

    /// Whether a proxy or a rule names the address, and not `--allow-loopback` alone: whoever is isolated has a
    /// loopback of his own.
    #[must_use]
    pub fn names(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        self.proxies_by_address.contains_key(&(ip, port)) || self.allow.nets.find(ip, Some(port)).is_some()
    }

    /// Whether a proxy has a UNIX socket.
    #[must_use]
    pub fn has_unix_proxy(&self) -> bool {
        !self.proxies_by_path.is_empty()
    }

    /// The paths of proxies' UNIX sockets.
    pub fn proxy_paths(&self) -> impl Iterator<Item = &Path> {
        self.proxies_by_path.keys().map(|path| Path::new(OsStr::from_bytes(path)))
    }

    /// Whether a proxy listens at the address.
    #[must_use]
    pub fn is_proxy(&self, address: SocketAddr) -> bool {
        self.proxies_by_address.contains_key(&(address.ip().to_canonical(), address.port()))
    }

    /// The proxy that redirected traffic goes to.
    #[must_use]
    pub fn first_proxy(&self) -> Option<&Proxy> {
        self.proxies.first()
    }

    /// Judges an operation on a socket of the given kind (of the kind asked for, where it opens one).
    /// Where the kind isn't known it is judged as the worst that it can be.
    #[must_use]
    pub fn judge(&self, operation: &Operation, socket: Option<&SocketKind>) -> Verdict<'_> {
        match operation {
            Operation::Connect { destination } => self.connect(destination, socket),
            Operation::Send { destination, way } => self.send(destination.as_ref(), *way, socket),
            Operation::Bind { local } => self.local(Stage::Bind, local, socket),
            Operation::Listen { local } | Operation::Accept { local } => self.local(Stage::Use, local, socket),
            Operation::Open => match socket {
                None => outbound("a socket of unknown kind"),
                Some(SocketKind { family: Family::VSOCK, .. }) if self.isolated => {
                    outbound("a vsock reaches the hypervisor, past every network namespace")
                }
                Some(kind) => match leaks_by_itself(kind) {
                    Some(why) => outbound(why),
                    None => Verdict::allowed("judged when it is used"),
                },
            },
            Operation::IoUring => {
                outbound("an io_uring sends and connects without system calls that can be judged")
            }
            Operation::SourceRoute => outbound("the option sends the socket's packets by way of other hosts"),
            Operation::ChooseInterface { option } => Verdict::leak(
                Class::Outbound,
                format!(
                    "{option}: whatever their destination, even loopback, packets leave by the way that it names"
                ),
            ),
            Operation::Delegate { what } => outbound(what),
            Operation::JoinGroup { group } => self.join(group),
            Operation::AttachTun => outbound("a TUN/TAP interface injects packets into the host's network"),
            Operation::ShowNetwork { request } if self.judge_disclosure => {
                Verdict::leak(Class::Disclosure, format!("{request} shows the host's addresses, links or routes"))
            }
            Operation::ShowNetwork { .. } => {
                Verdict::allowed("shows the host's network, which --disclosure leak would judge")
            }
            Operation::TakeDescriptor => {
                outbound("takes a descriptor, which may be a connected socket, out of another process")
            }
            Operation::Inherit { peer } => self.destination(peer, socket),
            Operation::Undecidable { why } => outbound(why),
        }
    }

    fn connect(&self, destination: &Address, socket: Option<&SocketKind>) -> Verdict<'_> {
        if *destination == Address::Unspecified {
            return Verdict::allowed("dissolves an association");
        }
        let verdict = self.destination(destination, socket);
        let datagram = socket.is_some_and(|socket| socket.is_internet_datagram());
        if verdict.is_leak() && datagram && matches!(destination, Address::Internet(_)) {
            // getsockname tells the local address that routing chose; nothing was sent for it.
            return Verdict::leak(
                Class::Disclosure,
                format!("sends nothing, but getsockname then tells the local address: {}", verdict.reason),
            );
        }
        verdict
    }

    fn send(&self, destination: Option<&Address>, way: Way, socket: Option<&SocketKind>) -> Verdict<'_> {
        // A server that answers by the interface where the question came in does no harm.
        let to_this_host = destination.and_then(Address::ip).is_some_and(|(ip, _)| is_this_host(ip));
        match way {
            Way::SourceRouted => return outbound("the message carries a route by way of other hosts"),
            Way::Chosen if to_this_host => {
                return outbound("addressed to this host, but sent out by an interface of the program's choice");
            }
            Way::Chosen | Way::ByDestination => {}
        }
        // Before the address: packet sockets don't look at its family, nor need one, and a raw socket's
        // header may name another destination than the address.
        if let Some(why) = socket.and_then(leaks_by_itself) {
            return outbound(why);
        }
        match destination {
            None => Verdict::allowed("no destination: the kernel refuses it, or a connected pair"),
            Some(Address::Unspecified) => match socket {
                Some(socket) if !socket.is_internet() || socket.kind == SocketType::STREAM => {
                    Verdict::allowed("AF_UNSPEC is no destination here")
                }
                _ => outbound("AF_UNSPEC with a datagram: where it goes can't be told"),
            },
            Some(destination) => self.destination(destination, socket),
        }
    }

    fn join(&self, group: &Address) -> Verdict<'_> {
        let Some((ip, _)) = group.ip() else {
            return Verdict::allowed("no multicast group: the kernel refuses it");
        };
        // IGMP and MLD have no ports: whoever may send to the group on one may be its member.
        match self.allow.nets.find(ip, None) {
            Some(rule) => Verdict::allowed_by(self.allow.text(rule), "the group is allowed"),
            None => outbound("the kernel announces the membership to the network by IGMP or MLD"),
        }
    }

    /// Traffic to `address`; a leak is outbound.
    fn destination(&self, address: &Address, socket: Option<&SocketKind>) -> Verdict<'_> {
        match address {
            Address::Internet(address) => self.internet(address.ip().to_canonical(), address.port(), socket),
            Address::Unix(address) => self.unix(address),
            Address::Netlink { .. } => Verdict::allowed("netlink stays in the kernel"),
            Address::Malformed(_) => {
                Verdict::allowed("not an address of this family: the kernel refuses it with EINVAL")
            }
            Address::Unspecified => Verdict::allowed("no destination"),
            Address::Vsock { .. } => outbound("a vsock reaches the hypervisor or other machines on it"),
            Address::Packet { .. } => outbound("frames past every IP rule"),
            // Kernel crypto has no peer to send to.
            Address::Other(Family::ALG) => Verdict::allowed("the kernel's crypto, not a network"),
            Address::Other(_) => outbound("an address of this family can't be judged"),
        }
    }

    fn internet(&self, ip: IpAddr, port: u16, socket: Option<&SocketKind>) -> Verdict<'_> {
        // Whatever the rules say: outside, the address is nobody's, or somebody else's.
        if self.maps_names && is_pooled(ip) {
            return outbound("an address that stands for a name");
        }
        let proxy = self.proxies_by_address.get(&(ip, port));
        if let Some(&index) = proxy
            && socket.is_some_and(speaks_tcp)
        {
            return Verdict::allowed_by(self.proxy_text(index), "to a proxy");
        }
        if let Some(rule) = self.allow.nets.find(ip, Some(port)) {
            return Verdict::allowed_by(self.allow.text(rule), "the destination is allowed");
        }
        let this_host = is_this_host(ip);
        if this_host && self.allow_loopback {
            return Verdict::allowed_by(Some("--allow-loopback"), "loopback is allowed");
        }
        outbound(match (proxy, socket) {
            (Some(_), Some(_)) => "a proxy's address, but proxies take TCP only",
            (Some(_), None) => "a proxy's address, but the socket's protocol isn't known",
            (None, _) if this_host => "loopback, and no proxy or rule covers it",
            (None, _) => "no proxy or rule covers it",
        })
    }

    fn unix(&self, address: &UnixAddress) -> Verdict<'_> {
        let resolves = unix::resolver_at(address).is_some_and(|resolver| self.judges_resolver(resolver));
        if !self.judge_unix && !resolves {
            return Verdict::allowed("UNIX sockets are not judged");
        }
        if let UnixAddress::Path(path) = address
            && let Some(&index) = self.proxies_by_path.get(path.as_bytes())
        {
            return Verdict::allowed_by(self.proxy_text(index), "to a proxy");
        }
        if self.isolated && matches!(address, UnixAddress::Abstract(_)) {
            return Verdict::allowed("abstract names are the network namespace's own");
        }
        if *address == UnixAddress::Unnamed {
            return Verdict::allowed("a UNIX socket without a name");
        }
        match self.allow.unix.find(address) {
            Some(rule) => Verdict::allowed_by(self.allow.text(rule), "the UNIX socket is allowed"),
            None if resolves => outbound("a resolver, which asks for names on behalf of whoever connects"),
            None => outbound("a UNIX socket that no proxy or unix: rule covers"),
        }
    }

    /// A local address that is bound, listened on or accepted from.
    fn local(&self, stage: Stage, address: &Address, socket: Option<&SocketKind>) -> Verdict<'_> {
        let Some(rules) = &self.incoming else {
            return Verdict::allowed("incoming connections are not judged");
        };
        match address {
            Address::Internet(address) => {
                let (ip, port) = (address.ip().to_canonical(), address.port());
                if stage == Stage::Bind && port == 0 && socket.is_some_and(listens) {
                    return Verdict::allowed("no port yet: judged when it listens");
                }
                // As a local address the unspecified one is not loopback but every address.
                let wildcard = ip.is_unspecified();
                let rule =
                    if wildcard { rules.nets.find_wildcard(ip, port) } else { rules.nets.find(ip, Some(port)) };
                if let Some(rule) = rule {
                    return Verdict::allowed_by(rules.text(rule), "the local address is allowed");
                }
                if ip.is_loopback() && self.allow_loopback {
                    return Verdict::allowed_by(Some("--allow-loopback"), "reachable by loopback alone");
                }
                inbound(if wildcard {
                    "reachable on every address of the host, and no --allow-incoming rule names that"
                } else {
                    "no --allow-incoming rule covers the local address"
                })
            }
            Address::Unix(_) => Verdict::allowed("a UNIX socket can't be reached from outside"),
            Address::Netlink { .. } => Verdict::allowed("netlink stays in the kernel"),
            Address::Other(Family::ALG) => Verdict::allowed("the kernel's crypto, not a network"),
            Address::Malformed(_) => {
                Verdict::allowed("not an address of this family: the kernel refuses it with EINVAL")
            }
            Address::Unspecified => match socket {
                Some(socket) if !socket.is_internet() && leaks_by_itself(socket).is_none() => {
                    Verdict::allowed("AF_UNSPEC is no address here: the kernel refuses it")
                }
                _ => inbound("AF_UNSPEC binds to every address of the host"),
            },
            Address::Vsock { .. } => inbound("reachable by the hypervisor or other machines on it"),
            Address::Packet { .. } => inbound("receives every frame of an interface"),
            Address::Other(_) => inbound("who reaches an address of this family can't be judged"),
        }
    }

    fn proxy_text(&self, index: usize) -> Option<&str> {
        if self.proxies_are_defaults { None } else { self.proxies.get(index).map(Proxy::text) }
    }
}

/// As a destination the unspecified address is this host too (ip_route_output_key_hash_rcu).
fn is_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

fn outbound(reason: &'static str) -> Verdict<'static> {
    Verdict::leak(Class::Outbound, reason)
}

fn inbound(reason: &'static str) -> Verdict<'static> {
    Verdict::leak(Class::Inbound, reason)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
