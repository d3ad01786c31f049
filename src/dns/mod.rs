//! `--dns redirect`: queries to whichever resolver, answered through the proxy.
//!
//! # How a query gets here, and its answer back
//!
//! A UDP or TCP socket that would go to port 53 of an address that is neither a proxy's nor allowed goes to a
//! socket of ours on loopback instead, which stands for that resolver ([`responder`]): the pipeline performs
//! `connect`, `sendto`, `sendmsg` and `sendmmsg` with that address, and gives back the resolver's own
//! where the kernel would tell ours: in the sources of `recvfrom`, `recvmsg` and `recvmmsg` (C libraries drop
//! what comes from elsewhere) and in `getpeername`. So it works the same for every backend, without
//! privileges or namespaces, whether the socket is connected or not, and whatever was done to it before.
//!
//! What else was weighed: a network namespace in which every address is local would need no trap at the
//! receiving calls, but the program's socket would have to be exchanged for one born there, which loses its
//! epoll registrations and duplicates, needs namespaces, and only the seccomp backend can; sources forged by
//! `IP_TRANSPARENT` need a capability, and do nothing for connected sockets.
//!
//! What it costs: the traps. `recvmsg`, `recvmmsg`, `getpeername` and `recvfrom` with an address stop, for
//! all sockets of the tree, only in this mode; `read`, `recv` and all else don't. What isn't a UDP socket
//! that could hear from us is then left to the kernel.
//!
//! What the program can notice: `getsockname` tells a loopback address for a socket that is connected to a
//! resolver. `getsockopt(SO_PEERNAME)`, /proc/net/udp and netlink socket diagnosis tell our address.
//!
//! # What is asked
//!
//! [`mode::Mode`] says by whom names are resolved. When the proxy fails the answer is SERVFAIL; nothing is
//! ever sent past it.
//!
//! # What is no DNS query
//!
//! Port 53 makes one. DNS on other ports, over TLS or HTTPS is traffic like any other, and multicast DNS a
//! leak. Rules stand: a resolver that `--allow` or `--allow-loopback` (127.0.0.53!) covers is asked directly.
//! Sockets of another network namespace, or bound to an interface, can't reach loopback: these are refused.

pub mod asker;
pub mod forward;
pub mod lookups;
pub mod message;
pub mod mode;
pub mod names;
pub mod responder;
pub mod service;

pub use mode::Mode;
pub use responder::{SocketSource, Transport};

use crate::action::perform::sys;
use crate::policy::Proxy;
use crate::proxy::isolation::Isolation;
use asker::Asker;
use nix::errno::Errno;
use responder::Responders;
use service::Service;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

/// The port that makes traffic DNS.
pub const PORT: u16 = 53;

/// Small, as there may be hundreds of threads; a query needs a few KiB.
const STACK_BYTES: usize = 256 << 10;

/// See [`Dns::namer`].
pub type Namer = Box<dyn Fn(IpAddr) -> Result<Option<String>, &'static str> + Send + Sync>;

/// Redirected DNS of one run. Nothing is started before the first query.
#[derive(Debug)]
pub struct Dns {
    service: Arc<Service>,
    responders: Responders,
    namespace: OnceLock<Option<u64>>,
}

impl Dns {
    /// `None` where queries are merely judged.
    #[must_use]
    pub fn new(mode: Mode, proxy: &Proxy, isolation: &Arc<Isolation>) -> Option<Self> {
        let asker = Asker::new(proxy.clone(), Arc::clone(isolation));
        let service = Arc::new(Service::new(mode, asker)?);
        let responders = Responders::new(Arc::clone(&service));
        Some(Self { service, responders, namespace: OnceLock::new() })
    }

    /// The program is in another network namespace, in which `source` makes sockets. To be called before it starts.
    pub fn live_in(&mut self, source: SocketSource) {
        self.responders.live_in(source);
    }

    /// A number for the network namespace from which we can be reached (Linux 5.14).
    #[must_use]
    pub fn network_namespace(&self) -> Option<u64> {
        *self.namespace.get_or_init(|| {
            let sample = self.responders.sample().ok()?;
            sys::network_namespace(sample.as_fd()).ok()
        })
    }

    /// The address of ours that stands for a resolver.
    ///
    /// # Errors
    /// Where there can't be one.
    pub fn stand_in(&self, resolver: SocketAddr, transport: Transport) -> Result<SocketAddr, Errno> {
        self.responders.stand_in(resolver, transport)
    }

    /// The resolver that an address of ours stands for.
    #[must_use]
    pub fn stands_for(&self, own: SocketAddr, transport: Transport) -> Option<SocketAddr> {
        self.responders.stands_for(own, transport)
    }

    /// The name that an address stands for (`--dns redirect=map`): `None` for one that stands for none.
    ///
    /// # Errors
    /// As [`Service::name_of`].
    pub fn name_of(&self, ip: IpAddr) -> Result<Option<String>, &'static str> {
        self.service.name_of(ip)
    }

    /// [`Dns::name_of`] for whoever outlives a call.
    #[must_use]
    pub fn namer(&self) -> Namer {
        let service = Arc::clone(&self.service);
        Box::new(move |ip| service.name_of(ip))
    }
}
