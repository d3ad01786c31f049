//! What is answered to a query, by the mode.

use super::asker::{ADDRESS_TYPE_NOT_SUPPORTED, Asker, COMMAND_NOT_SUPPORTED};
use super::forward::Forwarder;
use super::lookups::{Asked, Found, Lookups};
use super::message::{Answer, Query, Subject, host};
use super::mode::Mode;
use super::names::{Names, is_pooled};
use crate::proxy::client::blocking::Failure;
use hickory_proto::rr::Name;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When the asker gets SERVFAIL at the latest: the C library, Go and musl wait for five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);

/// The TTL of what we know ourselves, in seconds.
const OWN_TTL: u32 = 60;

/// Answers queries.
#[derive(Debug)]
pub struct Service {
    source: Source,
    names: Names,
}

#[derive(Debug)]
enum Source {
    Proxy(Arc<Lookups>),
    Resolver(Forwarder),
    Pool,
}

/// How an answer comes.
#[derive(Debug)]
pub enum Readiness {
    /// It is known, or nobody needs to be asked.
    Now(Option<Vec<u8>>),
    /// Somebody must be asked: [`Service::ask`].
    Later,
}

impl Service {
    /// `None` for the mode in which nothing is answered.
    #[must_use]
    pub fn new(mode: Mode, asker: Asker) -> Option<Self> {
        let source = match mode {
            Mode::Judge => return None,
            Mode::Resolve => Source::Proxy(Lookups::new(asker, complain)),
            Mode::Tcp(resolver) => Source::Resolver(Forwarder::new(asker, resolver)),
            Mode::Map => Source::Pool,
        };
        Some(Self { source, names: Names::default() })
    }

    /// The names that addresses stand for.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The name that an address stands for: `None` for one that stands for none.
    ///
    /// # Errors
    /// For an address that could, but was given to no name; in words that end a reason.
    pub fn name_of(&self, ip: IpAddr) -> Result<Option<String>, &'static str> {
        if !matches!(self.source, Source::Pool) || !is_pooled(ip) {
            return Ok(None);
        }
        self.names.name_of(ip).map(Some).ok_or("the address stands for no name that was asked for")
    }

    /// The answer, where nobody has to be asked for it.
    #[must_use]
    pub fn at_once(&self, query: &Query) -> Readiness {
        match self.known(query) {
            Some(answer) => Readiness::Now(query.answered(&answer)),
            None => Readiness::Later,
        }
    }

    /// Asks the proxy, or the resolver behind it.
    #[must_use]
    pub fn ask(&self, query: &Query) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let answer = match &self.source {
            Source::Proxy(lookups) => resolved(lookups, query, deadline),
            Source::Resolver(forwarder) => match forwarder.ask(query, deadline) {
                Ok(answer) => return Some(answer),
                Err(failure) => {
                    complain(&failure);
                    Answer::Failed
                }
            },
            Source::Pool => Answer::Failed,
        };
        query.answered(&answer)
    }

    fn known(&self, query: &Query) -> Option<Answer> {
        let subject = query.subject();
        let host = query.host();
        if let Some(local) = host.as_deref().and_then(|host| localhost(host, &subject)) {
            return Some(local);
        }
        if let Source::Resolver(_) = self.source {
            // RFC 7686: a resolver must not learn of onion services.
            let onion = host.is_some_and(|host| host.rsplit('.').next() == Some("onion"));
            return onion.then_some(Answer::NoSuchName);
        }
        match subject {
            Subject::Ipv4 | Subject::Ipv6 => match (&self.source, host) {
                // What can't be a host's name isn't asked for.
                (_, None) => Some(Answer::NoSuchName),
                (Source::Pool, Some(host)) => Some(match (self.names.addresses_of(&host), subject) {
                    (None, _) => Answer::Failed,
                    (Some((four, _)), Subject::Ipv4) => Answer::Address(four.into(), OWN_TTL),
                    (Some((_, six)), _) => Answer::Address(six.into(), OWN_TTL),
                }),
                (_, Some(_)) => None,
            },
            Subject::Pointer(ip) => self.known_name(ip),
            Subject::PointerElsewhere | Subject::Optional => Some(Answer::Nothing),
            Subject::Other => Some(Answer::NotImplemented),
        }
    }

    /// Names of addresses that nobody outside knows, and that nobody outside is asked for.
    fn known_name(&self, ip: IpAddr) -> Option<Answer> {
        if ip.is_loopback() {
            return Some(pointer(b"localhost", OWN_TTL));
        }
        if let Source::Pool = self.source {
            let name = self.names.name_of(ip);
            return Some(name.map_or(Answer::NoSuchName, |name| pointer(name.as_bytes(), OWN_TTL)));
        }
        is_local(ip).then_some(Answer::NoSuchName)
    }
}

fn resolved(lookups: &Arc<Lookups>, query: &Query, deadline: Instant) -> Answer {
    let asked = match (query.subject(), query.host()) {
        (Subject::Ipv4 | Subject::Ipv6, Some(host)) => Asked::Name(host),
        (Subject::Pointer(ip), _) => Asked::Address(ip),
        _ => return Answer::NotImplemented,
    };
    let Some((found, lifetime)) = lookups.find(&asked, deadline) else { return Answer::Failed };
    let ttl = u32::try_from(lifetime.as_secs()).unwrap_or(0);
    match (found, query.subject()) {
        (Found::Address(ip), subject) => match (ip.to_canonical(), subject) {
            (ip @ IpAddr::V4(_), Subject::Ipv4) | (ip @ IpAddr::V6(_), Subject::Ipv6) => Answer::Address(ip, ttl),
            // A proxy gives one address, of the family that it likes better.
            _ => Answer::Nothing,
        },
        (Found::Name(name), _) => pointer(&name, ttl),
        (Found::NoSuchName, _) => Answer::NoSuchName,
        (Found::Failed, _) => Answer::Failed,
    }
}

/// RFC 6761, 6.3: never asked for.
fn localhost(host: &str, subject: &Subject) -> Option<Answer> {
    if host != "localhost" && !host.ends_with(".localhost") {
        return None;
    }
    Some(match subject {
        Subject::Ipv4 => Answer::Address(Ipv4Addr::LOCALHOST.into(), OWN_TTL),
        Subject::Ipv6 => Answer::Address(Ipv6Addr::LOCALHOST.into(), OWN_TTL),
        _ => Answer::Nothing,
    })
}

/// A name as the proxy tells it, which may be anything.
fn pointer(name: &[u8], ttl: u32) -> Answer {
    let text = std::str::from_utf8(name).ok();
    let name = text.and_then(|text| Name::from_ascii(text).ok()).filter(|name| host(name).is_some());
    match name {
        Some(mut name) => {
            name.set_fqdn(true);
            Answer::Pointer(name, ttl)
        }
        None => Answer::Failed,
    }
}

/// Addresses of this host, its network, and special ones (RFC 6303, RFC 6890): asking for their names would
/// tell of them.
fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private()
                || ip.is_link_local()
                || ip.is_multicast()
                || matches!((first, second), (0 | 127 | 240..=255, _) | (100, 64..=127) | (198, 18..=19))
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
        }
    }
}

/// Tells the user once why names aren't resolved.
fn complain(failure: &Failure) {
    static TOLD: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    let (index, what) = match failure {
        Failure::Refused(refusal)
            if matches!(refusal.reply, Some(COMMAND_NOT_SUPPORTED | ADDRESS_TYPE_NOT_SUPPORTED)) =>
        {
            (0, "the proxy resolves no names: use --dns redirect=tcp://RESOLVER, or redirect=map".to_owned())
        }
        Failure::Refused(refusal) => (1, format!("a DNS query failed: {}", refusal.why)),
        Failure::Unfit(why) => (1, format!("a DNS query failed: the proxy {why}")),
        Failure::Broken(error) => (1, format!("a DNS query failed: the proxy: {error}")),
    };
    if TOLD.get(index).is_some_and(|told| !told.swap(true, Ordering::Relaxed)) {
        // Not eprintln!, which panics where standard error is closed.
        let _: std::io::Result<()> = writeln!(std::io::stderr(), "sockstrace: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(mode: Mode) -> Service {
        // Nobody is there: whatever is answered nevertheless was not asked for.
        let proxy: crate::policy::Proxy = "socks5://127.0.0.1:1".parse().unwrap();
        Service::new(mode, proxy.into()).unwrap()
    }

    fn query(name: &str, kind: u16) -> Query {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, kind as u8, 0, 1]);
        Query::parse(&bytes).unwrap()
    }

    #[test]
    fn what_nobody_is_asked_for() {
        let resolve = service(Mode::Resolve);
        let tcp = service(Mode::Tcp("192.0.2.53:53".parse().unwrap()));
        let ip = |text: &str| Some(Answer::Address(text.parse().unwrap(), OWN_TTL));
        for (name, kind, by_proxy, by_resolver) in [
            ("localhost", 1, ip("127.0.0.1"), ip("127.0.0.1")),
            ("A.LocalHost", 28, ip("::1"), ip("::1")),
            ("www.example", 1, None, None),
            ("x.onion", 1, None, Some(Answer::NoSuchName)),
            ("1.2.3.4", 1, Some(Answer::NoSuchName), None),
            ("www.example", 65, Some(Answer::Nothing), None),
            ("www.example", 16, Some(Answer::NotImplemented), None),
            ("1.2.168.192.in-addr.arpa", 12, Some(Answer::NoSuchName), None),
            ("1.0.0.127.in-addr.arpa", 12, Some(pointer(b"localhost", OWN_TTL)), None),
            ("1.2.0.192.in-addr.arpa", 12, None, None),
        ] {
            let query = query(name, kind);
            assert_eq!(resolve.known(&query), by_proxy, "{name}");
            assert_eq!(tcp.known(&query), by_resolver, "{name}");
        }
    }

    #[test]
    fn mapped_names_come_back() {
        let map = service(Mode::Map);
        let Some(Answer::Address(IpAddr::V4(ip), _)) = map.known(&query("Some.Onion", 1)) else {
            panic!("no address")
        };
        assert_eq!(map.names().name_of(ip.into()).as_deref(), Some("some.onion"));
        let [a, b, c, d] = ip.octets();
        let back = map.known(&query(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), 12));
        assert_eq!(back, Some(pointer(b"some.onion", OWN_TTL)));
        assert!(matches!(map.known(&query("some.onion", 28)), Some(Answer::Address(IpAddr::V6(_), _))));
        assert_eq!(map.known(&query("4.3.2.1.in-addr.arpa", 12)), Some(Answer::NoSuchName));
    }

    #[test]
    fn names_that_the_proxy_makes_up() {
        assert!(matches!(pointer(b"Host.example", 1), Answer::Pointer(name, 1) if name.is_fqdn()));
        for name in [&b""[..], b"\xFF", b"a\nb", b"..", &[b'x'; 70]] {
            assert_eq!(pointer(name, 1), Answer::Failed);
        }
    }

    #[test]
    fn without_a_proxy_there_is_a_failure_at_once() {
        let start = Instant::now();
        let reply = service(Mode::Resolve).ask(&query("www.example", 1)).unwrap();
        assert_eq!(reply[3] & 0xF, 2, "SERVFAIL");
        assert!(start.elapsed() < PATIENCE);
    }
}
