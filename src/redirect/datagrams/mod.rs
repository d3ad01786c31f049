//! Datagrams through the proxy: SOCKS5's UDP ASSOCIATE (RFC 1928, section 7).
//!
//! # How a datagram gets there, and back
//!
//! The pipeline performs the program's `connect` and sends towards a socket of ours on loopback that stands for the
//! destination (`stand_ins`), as it does for DNS (see [`crate::dns`]), and names the destination where the kernel
//! would name ours. Each socket of the program's has an association of its own with the proxy (`association`), so
//! that the outside sees one address for it whatever it sends to, and answers from strangers (STUN, DHTs) arrive.
//!
//! Whose a datagram is, is told by its source address, which the pipeline says of each socket that it redirects
//! ([`Datagrams::announce`]).
//!
//! # What isn't carried
//!
//! Multicast and broadcast; ICMP errors; what is sent with an interface of its own. Datagrams are dropped, as on any
//! network, while too many wait for the proxy, and when it ends the association.

mod association;
mod stand_ins;

use crate::dns::SocketSource;
use crate::policy::{Endpoint, Proxy, Scheme};
use crate::proxy::client::blocking::{self, Failure};
use crate::proxy::client::{Command, Target};
use crate::proxy::isolation::Isolation;
use crate::relay::{Unfit, sys};
use association::Senders;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use stand_ins::StandIns;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long the proxy may take to say whether it relays datagrams.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long it isn't asked again when it couldn't be.
const RETRY: Duration = Duration::from_secs(5);

/// "Command not supported".
const NOT_SUPPORTED: u8 = 7;

/// Where we send from: RFC 1928 wants zeros where that isn't known.
const ANYWHERE: Target = Target::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));

/// What the proxy is to be told as the destination of a datagram; `None` for what must not be sent.
pub type Meaning = Box<dyn Fn(SocketAddr) -> Option<Target> + Send + Sync>;

/// Datagrams of one run.
pub struct Datagrams {
    way: Arc<Way>,
    stand_ins: Arc<StandIns>,
    offer: Mutex<Offer>,
    namespace: OnceLock<Option<u64>>,
}

/// How the proxy is spoken to.
#[derive(Debug)]
pub struct Way {
    proxy: Proxy,
    isolation: Arc<Isolation>,
}

/// Whether the proxy relays datagrams.
#[derive(Debug, Clone)]
enum Offer {
    Unknown,
    Given,
    Refused(String),
    /// It couldn't be asked.
    Failed(String, Instant),
}

impl Datagrams {
    /// Nothing is begun yet.
    #[must_use]
    pub fn new(proxy: Proxy, isolation: Arc<Isolation>, meaning: Meaning) -> Self {
        // What can't be is known without asking.
        let offer = match (proxy.scheme(), proxy.endpoint()) {
            (Scheme::Http, _) => Offer::Refused("an HTTP proxy carries no datagrams".into()),
            (_, Endpoint::Unix(_)) => Offer::Refused("a proxy's UNIX socket carries no datagrams".into()),
            (Scheme::Socks5, Endpoint::Tcp(_)) => Offer::Unknown,
        };
        let way = Arc::new(Way { proxy, isolation });
        let source: SocketSource = Box::new(|family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None));
        let senders = Senders::new(Arc::clone(&way), meaning);
        Self {
            way,
            stand_ins: StandIns::new(source, senders),
            offer: Mutex::new(offer),
            namespace: OnceLock::new(),
        }
    }

    /// Whether a datagram could ever go this way.
    #[must_use]
    pub fn may_be_offered(proxy: &Proxy) -> bool {
        proxy.scheme() == Scheme::Socks5 && matches!(proxy.endpoint(), Endpoint::Tcp(_))
    }

    /// The program is in another network namespace. To be called before it starts.
    pub fn live_in(&mut self, source: SocketSource) {
        if let Some(stand_ins) = Arc::get_mut(&mut self.stand_ins) {
            stand_ins.live_in(source);
        }
    }

    /// A number for the network namespace from which we can be reached (Linux 5.14).
    #[must_use]
    pub fn network_namespace(&self) -> Option<u64> {
        *self.namespace.get_or_init(|| {
            let sample = self.stand_ins.socket(AddressFamily::Inet, SockType::Datagram).ok()?;
            sys::namespace_cookie(sample.as_fd())
        })
    }

    /// Whether the proxy relays datagrams; `None` where it would have to be asked, which takes a while.
    ///
    /// # Errors
    /// Why it doesn't.
    #[must_use]
    pub fn offered(&self, may_ask: bool) -> Option<Result<(), Unfit>> {
        let mut offer = match self.offer.try_lock() {
            Ok(offer) => offer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody asks already.
            Err(TryLockError::WouldBlock) if !may_ask => return None,
            Err(TryLockError::WouldBlock) => self.offer.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let asks = match &*offer {
            Offer::Unknown => true,
            Offer::Failed(_, since) => since.elapsed() >= RETRY,
            Offer::Given | Offer::Refused(_) => false,
        };
        if asks {
            if !may_ask {
                return None;
            }
            *offer = self.way.ask();
        }
        Some(match &*offer {
            Offer::Refused(why) | Offer::Failed(why, _) => Err(Unfit(why.clone())),
            Offer::Given | Offer::Unknown => Ok(()),
        })
    }

    /// The address of ours that stands for a destination.
    ///
    /// # Errors
    /// Where there can't be one.
    pub fn stand_in(&self, destination: SocketAddr) -> Result<SocketAddr, Errno> {
        self.stand_ins.stand_in(destination)
    }

    /// The destination that an address of ours stands for.
    #[must_use]
    pub fn stands_for(&self, own: SocketAddr) -> Option<SocketAddr> {
        self.stand_ins.stands_for(own)
    }

    /// Datagrams from `source` are those of the socket with this cookie (`SO_COOKIE`), and of process `pid`.
    pub fn announce(&self, source: SocketAddr, cookie: u64, pid: Pid) {
        self.stand_ins.senders().announce(source, cookie, pid, &self.stand_ins);
    }

    /// Waits until what has been sent is on its way, for a while.
    pub fn settle(&self) {
        self.stand_ins.settle();
        self.stand_ins.senders().settle();
    }
}

impl Way {
    fn ask(&self) -> Offer {
        match self.associate(None, PATIENCE) {
            Ok(_) => Offer::Given,
            Err(Failure::Refused(refusal)) if refusal.reply == Some(NOT_SUPPORTED) => {
                Offer::Refused("the proxy relays no datagrams".into())
            }
            // tor and ssh just close.
            Err(Failure::Refused(refusal)) if refusal.by_proxy_itself || refusal.reply.is_some() => {
                Offer::Refused(format!("the proxy relays no datagrams ({})", refusal.why))
            }
            Err(failure) => {
                Offer::Failed(format!("the proxy relays no datagrams ({})", why(&failure)), Instant::now())
            }
        }
    }

    /// A new association: its connection, and the address of the relay. That is the proxy's own, whatever it says:
    /// nothing is ever sent elsewhere.
    fn associate(&self, pid: Option<Pid>, patience: Duration) -> Result<(blocking::Stream, SocketAddr), Failure> {
        let credentials = self.isolation.credentials(pid, None);
        let credentials = credentials.map_err(|errno| Failure::Broken(errno.into()))?;
        let deadline = Instant::now() + patience;
        let (stream, bound) = blocking::ask(&self.proxy, Command::UdpAssociate, &ANYWHERE, credentials, deadline)?;
        let port = match bound {
            Some(crate::proxy::client::Bound::Address(address)) => address.port(),
            Some(crate::proxy::client::Bound::Name(_, port)) => port,
            None => 0,
        };
        match stream.peer() {
            Some(proxy) if port != 0 => Ok((stream, SocketAddr::new(proxy.ip(), port))),
            _ => Err(Failure::Unfit("named no relay for datagrams")),
        }
    }
}

fn why(failure: &Failure) -> String {
    match failure {
        Failure::Broken(error) => error.to_string(),
        Failure::Refused(refusal) => refusal.why.clone(),
        Failure::Unfit(why) => (*why).into(),
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("way", &self.way).finish_non_exhaustive()
    }
}
