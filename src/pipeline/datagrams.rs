//! Datagrams that are sent through the proxy (`--on-leak redirect`): see [`crate::redirect::datagrams`].

use super::{Pipeline, Scene};
use crate::action::perform::{Performed, Socket, failed, sys};
use crate::config::{Config, OnLeak};
use crate::dns::Dns;
use crate::operation::decode::Sockaddr;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType, Way};
use crate::proxy::client::Target;
use crate::proxy::isolation::Isolation;
use crate::redirect::Redirected;
use crate::redirect::datagrams::Datagrams;
use crate::relay::{Unfit, sys as relay};
use nix::errno::Errno;
use sockstrace_backend::{Outcome, Patience, Reply};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

/// What carries datagrams, where connections are redirected.
pub(super) fn datagrams(config: &Config, dns: Option<&Dns>, isolation: &Arc<Isolation>) -> Option<Datagrams> {
    let proxy = config.policy.first_proxy().filter(|_| config.on_leak == OnLeak::Redirect)?;
    let names = dns.map(Dns::namer);
    let meaning = move |destination: SocketAddr| {
        let name = names.as_ref().map_or(Ok(None), |names| names(destination.ip())).ok()?;
        Some(name.map_or(Target::Address(destination), |name| Target::Name(name, destination.port())))
    };
    Some(Datagrams::new(proxy.clone(), Arc::clone(isolation), Box::new(meaning)))
}

impl Pipeline {
    /// The destination that an address of ours stands for.
    pub(super) fn meant_by_datagram(&self, own: SocketAddr, kind: &SocketKind) -> Option<SocketAddr> {
        self.datagrams.as_ref().filter(|_| is_udp(kind))?.stands_for(own)
    }
}

impl Scene<'_> {
    /// A datagram socket's connect or send, made through the proxy: `perform` is given the address to use in the place
    /// of `given`.
    pub(super) fn redirect_datagram(
        &self,
        operation: &Operation,
        socket: &Socket,
        given: Option<&Sockaddr>,
        perform: impl FnOnce(Option<Sockaddr>) -> Performed,
    ) -> Result<Redirected, Unfit> {
        let unfit = |why: &str| Unfit(why.to_owned());
        let (Operation::Connect { destination }
        | Operation::Send { destination: Some(destination), way: Way::ByDestination }) = operation
        else {
            return Err(unfit("the datagram's way is of the program's choice"));
        };
        let (Some(datagrams), Address::Internet(destination), true) =
            (&self.pipeline.datagrams, destination, is_udp(&socket.kind))
        else {
            return Err(unfit("proxies take TCP and UDP only"));
        };
        if is_group(destination.ip()) {
            return Err(unfit("no proxy takes multicast or broadcast"));
        }
        if destination.port() == 0 && matches!(operation, Operation::Send { .. }) {
            // `udp_sendmsg`
            return Ok(Redirected::now(failed(Errno::EINVAL)));
        }
        self.asked_for(*destination)?;
        match datagrams.offered(self.patience == Patience::MayBlock) {
            None => return Ok(Redirected::now(Outcome::NeedsPatience)),
            Some(offered) => offered?,
        }
        self.reaches_loopback(datagrams.network_namespace(), socket).map_err(unfit)?;
        let stand_in = datagrams.stand_in(*destination);
        let stand_in =
            stand_in.map_err(|errno| Unfit(format!("sockstrace can't stand in for it: {}", errno.desc())))?;
        let peer = || sys::peer_name(socket.duplicate.as_fd()).map(|peer| peer.address());
        let family = match given {
            Some(given) => Some(given.address().family()),
            None if matches!(peer(), Ok(Address::Internet(own)) if datagrams.stands_for(own).is_some()) => None,
            // Connected by somebody else, to the destination itself.
            None => Some(socket.kind.family),
        };
        // The source is known beforehand where the socket is bound, and the datagram waits for it else.
        let performed = perform(family.map(|family| Sockaddr::for_internet(stand_in, family)));
        if matches!(performed, Outcome::Reply(Reply::Return(_)))
            && let Ok(cookie) = relay::cookie(socket.duplicate.as_fd())
            && let Ok(local) = relay::local_address(socket.duplicate.as_fd())
        {
            let ip = if relay::is_unspecified(local.ip()) { loopback(stand_in) } else { local.ip() };
            datagrams.announce(SocketAddr::new(ip, local.port()), cookie, self.tracee.pid());
        }
        Ok(Redirected::now(performed))
    }

    /// Whether to the program its datagram socket is connected to what one of ours stands for: where that is.
    pub(super) fn datagram_peer(&self, socket: &Socket) -> Option<SocketAddr> {
        match sys::peer_name(socket.duplicate.as_fd()).ok()?.address() {
            Address::Internet(own) => self.pipeline.meant_by_datagram(own, &socket.kind),
            _ => None,
        }
    }
}

/// The loopback address of the family that packets to `stand_in` are of.
fn loopback(stand_in: SocketAddr) -> IpAddr {
    if stand_in.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn is_udp(kind: &SocketKind) -> bool {
    matches!(kind.family, Family::INET | Family::INET6)
        && kind.kind == SocketType::DGRAM
        && matches!(kind.protocol, 0 | libc::IPPROTO_UDP)
}

fn is_group(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}
