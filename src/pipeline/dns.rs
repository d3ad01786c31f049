//! DNS queries that are answered through the proxy (`--dns redirect`): see [`crate::dns`].

use super::{Scene, Subject};
use crate::action::perform::unix_path::Found;
use crate::action::perform::{Performed, Socket, failed, sys};
use crate::dns::message::Query;
use crate::dns::{self, Dns, Transport};
use crate::event::Action;
use crate::operation::decode::{Message, Sockaddr};
use crate::operation::layout::Unreadable;
use crate::operation::{Address, Operation, SocketKind, SocketType, UnixAddress, Way, layout};
use crate::policy::{self, Verdict};
use crate::proxy::client::Target;
use crate::relay::Unfit;
use nix::errno::Errno;
use nix::sys::stat::stat;
use sockstrace_backend::{Outcome, Patience, Reply};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

/// How much of a message is looked at for its question: names end within 255 bytes, headers after 12.
const LOOKED_AT: usize = 512;

/// Packets for loopback stay there even if they are bound to it.
const LOOPBACK_INTERFACE: u32 = 1;

impl Scene<'_> {
    /// Where `operation` would take a query to a resolver past the proxy, has it performed towards us
    /// instead: `perform` is given the address to use in the place of `given`. `None` for all else.
    pub(super) fn redirect_query(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        socket: &Socket,
        given: Option<&Sockaddr>,
        message: Option<&Message>,
        perform: impl FnOnce(Option<Sockaddr>) -> Performed,
    ) -> Option<Outcome> {
        let dns = self.pipeline.dns.as_ref()?;
        let (resolver, transport) = asked(operation, &socket.kind)?;
        let judged = self.pipeline.config.policy.judge(operation, subject.socket);
        if !judged.is_leak() {
            return None;
        }
        let question = match message.filter(|_| transport == Transport::Udp).map(|message| self.question(message)) {
            Some(Err(Unreadable::WouldBlock)) if self.patience == Patience::AtOnce => {
                return Some(Outcome::NeedsPatience);
            }
            Some(Ok(question)) => question,
            Some(Err(_)) | None => None,
        };
        let reached = self.reaches_loopback(dns.network_namespace(), socket);
        let stand_in = reached.map_err(|why| format!("it can't be redirected: {why}")).and_then(|()| {
            dns.stand_in(resolver, transport)
                .map_err(|errno| format!("sockstrace can't listen for it: {}", errno.desc()))
        });
        let (outcome, action, note) = match stand_in {
            Ok(stand_in) => {
                let family = match given {
                    Some(given) => Some(given.address().family()),
                    None if leads_to_us(dns, socket, transport) => None,
                    // Connected by somebody else, past the resolver that we are.
                    None => Some(socket.kind.family),
                };
                let outcome = perform(family.map(|family| Sockaddr::for_internet(stand_in, family)));
                (outcome, Action::Redirect, None)
            }
            Err(why) => (failed(self.pipeline.config.block_errno), Action::Block, Some(why)),
        };
        if let Outcome::Reply(reply) = &outcome
            && *reply != Reply::Restart
        {
            let verdict = Verdict { reason: reason(operation, question.as_ref(), note), ..judged };
            self.record(subject, operation, &verdict, action, reply, None);
        }
        Some(outcome)
    }

    /// What the proxy is asked for where the program connects to `destination`: a name, if that stands for one.
    pub(super) fn asked_for(&self, destination: SocketAddr) -> Result<Target, Unfit> {
        let name = self.pipeline.dns.as_ref().map_or(Ok(None), |dns| dns.name_of(destination.ip()));
        let name = name.map_err(|why| Unfit(why.into()))?;
        Ok(name.map_or(Target::Address(destination), |name| Target::Name(name, destination.port())))
    }

    /// The name that an operation's address stands for.
    pub(super) fn name_meant(&self, operation: &Operation) -> Option<String> {
        let (ip, _) = super::address(operation)?.ip()?;
        self.pipeline.dns.as_ref()?.name_of(ip).ok().flatten()
    }

    /// Whether the socket can reach us on loopback, in the network namespace of this number; or why not.
    pub(super) fn reaches_loopback(&self, namespace: Option<u64>, socket: &Socket) -> Result<(), &'static str> {
        let interface = sys::bound_interface(socket.duplicate.as_fd()).unwrap_or(0);
        if !matches!(interface, 0 | LOOPBACK_INTERFACE) {
            return Err("its socket is bound to an interface");
        }
        let same = match (sys::network_namespace(socket.duplicate.as_fd()), namespace) {
            (Ok(theirs), Some(own)) => theirs == own,
            // An older kernel: by the thread, which may have changed since.
            _ => self.pipeline.isolation.is_none() && self.shares_network_namespace(),
        };
        if same { Ok(()) } else { Err("its socket is in another network namespace") }
    }

    fn shares_network_namespace(&self) -> bool {
        let of = |path: &str| std::fs::read_link(path).ok();
        let theirs = of(&format!("/proc/{}/ns/net", self.tracee.tid()));
        theirs.is_some() && theirs == of("/proc/thread-self/ns/net")
    }

    /// The query in a message, if it is one.
    fn question(&self, message: &Message) -> Result<Option<Query>, Unreadable> {
        let mut bytes = Vec::new();
        for vector in message.payload.vectors() {
            let take =
                usize::try_from(vector.length).unwrap_or(LOOKED_AT).min(LOOKED_AT.saturating_sub(bytes.len()));
            let mut piece = vec![0; take];
            layout::copy(self.tracee, vector.base, &mut piece)?;
            bytes.append(&mut piece);
        }
        Ok(Query::parse(&bytes).ok())
    }

    /// The address that the program means where the kernel names one of ours.
    pub(super) fn meant(&self, address: Address, kind: &SocketKind) -> Address {
        let Address::Internet(own) = &address else { return address };
        self.meant_by(*own, kind).map_or(address, Address::Internet)
    }

    fn meant_by(&self, own: SocketAddr, kind: &SocketKind) -> Option<SocketAddr> {
        let by_dns = || self.pipeline.dns.as_ref()?.stands_for(own, transport(kind)?);
        self.pipeline.meant_by_datagram(own, kind).or_else(by_dns)
    }

    /// [`Scene::meant`] for bytes, in the same layout. `None` where nothing changes.
    pub(super) fn meant_bytes(&self, bytes: &Sockaddr, kind: &SocketKind) -> Option<Sockaddr> {
        let Address::Internet(own) = bytes.address() else { return None };
        let resolver = self.meant_by(own, kind)?;
        Some(Sockaddr::for_internet(resolver, bytes.address().family()))
    }

    /// Refuses a UNIX socket behind which names are resolved, so that the C library asks by DNS; `None` for all
    /// else.
    pub(super) fn refuse_resolver(&self, subject: Subject<'_>, operation: &Operation) -> Option<Outcome> {
        let Operation::Connect { destination: Address::Unix(address) } = operation else { return None };
        let judged = self.pipeline.config.policy.judge(operation, subject.socket);
        if self.pipeline.dns.is_none() || policy::resolver_at(address).is_none() || !judged.is_leak() {
            return None;
        }
        let reply = Reply::Fail(self.pipeline.config.block_errno);
        self.record(subject, operation, &judged, Action::Block, &reply, None);
        Some(Outcome::Reply(reply))
    }

    /// Where UNIX sockets aren't judged but for those of resolvers: what the path leads to, if it could be one.
    ///
    /// # Errors
    /// EAGAIN where finding it out may take time; why a resolver's path leads nowhere.
    pub(super) fn find_resolver(
        &self,
        named: &UnixAddress,
        walk: impl FnOnce() -> Result<Option<Found>, Errno>,
    ) -> Result<Option<Found>, Errno> {
        let by_name = policy::resolver_at(named).is_some_and(|resolver| self.judges_resolver(resolver));
        match (by_name, self.patience) {
            // By a link, perhaps.
            (false, _) if !self.can_reach_resolver() => Ok(None),
            (_, Patience::AtOnce) => Err(Errno::EAGAIN),
            (true, Patience::MayBlock) => walk(),
            (false, Patience::MayBlock) => Ok(walk().unwrap_or(None)),
        }
    }

    /// Whether a resolver that is judged listens.
    pub(super) fn can_reach_resolver(&self) -> bool {
        policy::RESOLVERS.iter().any(|(path, kind)| self.judges_resolver(*kind) && Path::new(path).exists())
    }

    /// The resolver whose socket was found: mounted elsewhere, it has another path.
    pub(super) fn resolver_behind(&self, found: &Found) -> Option<Address> {
        let identity = found.identity().ok()?;
        let is_same = |path: &str| stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == identity);
        let mut judged = policy::RESOLVERS.iter().filter(|(_, kind)| self.judges_resolver(*kind));
        let (path, _) = judged.find(|(path, _)| is_same(path))?;
        Some(Address::Unix(UnixAddress::Path((*path).into())))
    }

    fn judges_resolver(&self, resolver: policy::Resolver) -> bool {
        self.pipeline.config.policy.judges_resolver(resolver)
    }
}

/// Whether the socket is connected to one of ours.
fn leads_to_us(dns: &Dns, socket: &Socket, transport: Transport) -> bool {
    let peer = sys::peer_name(socket.duplicate.as_fd()).map(|peer| peer.address());
    matches!(peer, Ok(Address::Internet(own)) if dns.stands_for(own, transport).is_some())
}

/// The resolver that an operation is about, by its port, and how it is asked.
fn asked(operation: &Operation, kind: &SocketKind) -> Option<(SocketAddr, Transport)> {
    let (Operation::Connect { destination }
    | Operation::Send { destination: Some(destination), way: Way::ByDestination | Way::Chosen }) = operation
    else {
        return None;
    };
    match destination {
        Address::Internet(address) if address.port() == dns::PORT => Some((*address, transport(kind)?)),
        _ => None,
    }
}

/// What DNS is spoken by: not by UDP-Lite, ping, DCCP, SCTP and the like.
fn transport(kind: &SocketKind) -> Option<Transport> {
    match (kind.is_internet(), kind.kind, kind.protocol) {
        (true, SocketType::DGRAM, 0 | libc::IPPROTO_UDP) => Some(Transport::Udp),
        (true, SocketType::STREAM, 0 | libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => Some(Transport::Tcp),
        _ => None,
    }
}

fn reason(operation: &Operation, question: Option<&Query>, note: Option<String>) -> Cow<'static, str> {
    let what = match (operation, question) {
        (Operation::Connect { .. }, _) => "a resolver".to_owned(),
        (_, Some(query)) => format!("a DNS query ({})", query.summary()),
        (_, None) => "a DNS query".to_owned(),
    };
    let done = note.unwrap_or_else(|| match operation {
        Operation::Connect { .. } => "what is asked there is answered through the proxy".into(),
        _ => "answered through the proxy".into(),
    });
    Cow::Owned(format!("{what}: {done}"))
}
