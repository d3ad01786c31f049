//! Sockets on loopback, each of which stands for a destination.

use super::association::Senders;
use crate::dns::SocketSource;
use crate::relay::{Actor, Events, Next, Place, Reactor, Unsettled, sys};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockType};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Destinations at a time; each costs a descriptor.
const AT_MOST: usize = 512;
/// When all places are taken, who hasn't been used for so long gives way.
const IDLE: Duration = Duration::from_secs(60);

/// Datagrams that are taken before others have their turn.
const TURN: usize = 64;

/// The longest datagram.
const LONGEST: usize = 65_536;

/// The sockets.
pub struct StandIns {
    source: SocketSource,
    reactor: Reactor,
    table: RwLock<Table>,
    senders: Senders,
    begun: Instant,
}

#[derive(Default)]
struct Table {
    by_destination: HashMap<SocketAddr, Arc<StandIn>>,
    by_own: HashMap<SocketAddr, SocketAddr>,
}

/// One of them.
struct StandIn {
    socket: UdpSocket,
    own: SocketAddr,
    /// When it was used last, in milliseconds since the beginning.
    used: AtomicU64,
    closed: AtomicBool,
}

impl StandIns {
    /// None is there yet.
    pub fn new(source: SocketSource, senders: Senders) -> Arc<Self> {
        let begun = Instant::now();
        Arc::new(Self { source, reactor: Reactor::new(), table: RwLock::default(), senders, begun })
    }

    /// The program is in another network namespace.
    pub fn live_in(&mut self, source: SocketSource) {
        self.source = source;
    }

    /// Whose datagrams arrive here.
    pub fn senders(&self) -> &Senders {
        &self.senders
    }

    /// A socket where the program's are.
    pub fn socket(&self, family: AddressFamily, kind: SockType) -> Result<OwnedFd, Errno> {
        (self.source)(family, kind)
    }

    /// The address that stands for a destination.
    pub fn stand_in(self: &Arc<Self>, destination: SocketAddr) -> Result<SocketAddr, Errno> {
        self.find_or_make(destination).map(|stand_in| stand_in.own)
    }

    /// The destination that an address of ours stands for.
    pub fn stands_for(&self, own: SocketAddr) -> Option<SocketAddr> {
        if !own.ip().to_canonical().is_loopback() {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_own.get(&plain(own)).copied()
    }

    /// Whether the program has sent to this address.
    pub fn knows(&self, destination: SocketAddr) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_destination.contains_key(&plain(destination))
    }

    /// Hands `payload` to the program's socket at `to`, as if it came from `origin`.
    pub fn deliver(self: &Arc<Self>, origin: SocketAddr, to: SocketAddr, payload: &[u8]) {
        // Without one, or where the program has gone: lost, as on any network.
        if let Ok(stand_in) = self.find_or_make(origin)
            && stand_in.own.is_ipv4() == to.is_ipv4()
        {
            let _: std::io::Result<usize> = stand_in.socket.send_to(payload, to);
        }
    }

    /// Waits until what was sent here is on its way to the proxy.
    pub fn settle(&self) {
        self.reactor.settle();
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn find_or_make(self: &Arc<Self>, destination: SocketAddr) -> Result<Arc<StandIn>, Errno> {
        let (key, now) = (plain(destination), self.now());
        let find = |table: &Table| {
            let known = table.by_destination.get(&key)?;
            known.used.store(now, Ordering::Relaxed);
            Some(Arc::clone(known))
        };
        if let Some(known) = find(&self.table.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(known);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = find(&table) {
            return Ok(known);
        }
        if table.by_destination.len() >= AT_MOST {
            table.make_room(now)?;
        }
        let stand_in = Arc::new(self.make(key.is_ipv6(), now)?);
        let listening = Listening { stand_in: Arc::clone(&stand_in), destination: key, owner: Arc::clone(self) };
        self.reactor.spawn(Box::new(listening))?;
        table.by_own.insert(stand_in.own, key);
        table.by_destination.insert(key, Arc::clone(&stand_in));
        Ok(stand_in)
    }

    fn make(&self, ipv6: bool, now: u64) -> Result<StandIn, Errno> {
        let bound = |ip: IpAddr| {
            let family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
            let socket = (self.source)(family, SockType::Datagram)?;
            sys::bind_to(socket.as_fd(), SocketAddr::new(ip, 0))?;
            Ok(socket)
        };
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let socket: Result<OwnedFd, Errno> = if ipv6 {
            // Where there is no ::1, an IPv6 socket reaches 127.0.0.1 by its mapped address.
            bound(Ipv6Addr::LOCALHOST.into()).or_else(|_| bound(four))
        } else {
            bound(four)
        };
        let socket = UdpSocket::from(socket?);
        let errno = |error: std::io::Error| sockstrace_backend::filter::errno_of(&error);
        socket.set_nonblocking(true).map_err(errno)?;
        let own = socket.local_addr().map_err(errno)?;
        Ok(StandIn { socket, own, used: AtomicU64::new(now), closed: AtomicBool::new(false) })
    }
}

impl Table {
    /// The one that hasn't been used for longest goes.
    fn make_room(&mut self, now: u64) -> Result<(), Errno> {
        let oldest = self.by_destination.iter().min_by_key(|(_, stand_in)| stand_in.used.load(Ordering::Relaxed));
        let Some((destination, stand_in)) = oldest else { return Err(Errno::ENOBUFS) };
        let idle = Duration::from_millis(now.saturating_sub(stand_in.used.load(Ordering::Relaxed)));
        if idle < IDLE {
            return Err(Errno::ENOBUFS);
        }
        let (destination, own) = (*destination, stand_in.own);
        stand_in.closed.store(true, Ordering::Relaxed);
        // Wakes its actor, which ends. That it is for nobody else is known by its length.
        let _: std::io::Result<usize> = stand_in.socket.send_to(&[], own);
        self.by_destination.remove(&destination);
        self.by_own.remove(&own);
        Ok(())
    }
}

/// Takes what arrives at one of them.
struct Listening {
    stand_in: Arc<StandIn>,
    destination: SocketAddr,
    owner: Arc<StandIns>,
}

impl Listening {
    fn take(&self) -> Next {
        let mut buffer = vec![0; LONGEST];
        for _ in 0..TURN {
            if self.stand_in.closed.load(Ordering::Relaxed) {
                return Next::End;
            }
            match self.stand_in.socket.recv_from(&mut buffer) {
                Ok((_, from)) if from == self.stand_in.own => {}
                Ok((length, from)) => {
                    self.stand_in.used.store(self.owner.now(), Ordering::Relaxed);
                    let payload = buffer.get(..length).unwrap_or_default();
                    self.owner.senders.forward(from, self.destination, payload, &self.owner);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Next::Wait,
                // What an earlier answer met: a program that is gone.
                Err(_) => {}
            }
        }
        Next::Again
    }
}

impl Actor for Listening {
    fn start(&mut self, place: &Place<'_>) -> Next {
        match place.watch(0, self.stand_in.socket.as_fd()) {
            Ok(()) => self.take(),
            Err(_) => Next::End,
        }
    }

    fn ready(&mut self, _slot: u8, _events: Events, _place: &Place<'_>) -> Next {
        self.take()
    }

    fn resume(&mut self, _place: &Place<'_>) -> Next {
        self.take()
    }

    fn unsettled(&self) -> Unsettled {
        let StandIn { socket, closed, .. } = &*self.stand_in;
        let waits = !closed.load(Ordering::Relaxed) && socket.peek(&mut [0]).is_ok();
        if waits { Unsettled::Bytes } else { Unsettled::Nothing }
    }
}

/// An IPv4 address written in IPv6 is that IPv4 address; a flow label makes no difference.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(_), SocketAddr::V6(mut six)) => {
            six.set_flowinfo(0);
            six.into()
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}
