//! Each of the program's sockets and its association with the proxy.

use super::stand_ins::{StandIns, plain};
use super::{Meaning, Way, why};
use crate::proxy::client::{Bound, blocking, datagram};
use crate::relay::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use nix::unistd::Pid;
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Sockets that are known, and associations at a time: each costs a thread, and a connection to the proxy.
const KNOWN_AT_MOST: usize = 4096;
const ASSOCIATIONS_AT_MOST: usize = 256;
const STACK_BYTES: usize = 256 << 10;

/// An association ends when nothing was sent or received for so long (RFC 4787, REQ-5: at least two minutes).
const IDLE: Duration = Duration::from_secs(180);
/// How long the proxy may take, and for how long it isn't asked again after it has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Datagrams that wait for an association, and those whose socket hasn't been announced yet.
const WAITING_AT_MOST: usize = 64;
const PARKED_AT_MOST: usize = 256;
const PARKED: Duration = Duration::from_secs(2);

/// What a proxy may need to pass the last datagrams on, before its association ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Destinations that are remembered by name.
const NAMES_AT_MOST: usize = 256;

/// The program's sockets.
pub struct Senders {
    way: Arc<Way>,
    meaning: Meaning,
    known: Mutex<Known>,
    complained: AtomicBool,
}

#[derive(Default)]
struct Known {
    by_source: HashMap<SocketAddr, Sender>,
    parked: VecDeque<Parked>,
}

struct Sender {
    cookie: u64,
    pid: Pid,
    used: Instant,
    association: Option<Arc<Association>>,
}

struct Parked {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    since: Instant,
}

/// What the threads share of an association.
struct Association {
    /// The program's socket.
    source: SocketAddr,
    state: Mutex<State>,
    /// When it was used last, and when it was begun.
    used: Mutex<Instant>,
    begun: Instant,
    /// Destinations that the proxy knows by name, so that answers come from addresses which nobody has sent to.
    named: Mutex<VecDeque<SocketAddr>>,
}

enum State {
    /// The proxy hasn't answered yet.
    Waiting(Vec<Vec<u8>>),
    Open(Arc<UdpSocket>),
    Ended,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Senders {
    /// Nobody is known yet.
    pub fn new(way: Arc<Way>, meaning: Meaning) -> Self {
        Self { way, meaning, known: Mutex::default(), complained: AtomicBool::new(false) }
    }

    /// See [`super::Datagrams::announce`].
    pub fn announce(&self, source: SocketAddr, cookie: u64, pid: Pid, owner: &Arc<StandIns>) {
        let source = plain(source);
        let mut known = lock(&self.known);
        if known.by_source.get(&source).is_some_and(|sender| sender.cookie != cookie)
            && let Some(sender) = known.by_source.remove(&source)
        {
            // The port is another socket's by now, which has nothing to do with the old one.
            sender.end();
        }
        if known.by_source.len() >= KNOWN_AT_MOST {
            known.forget_oldest();
        }
        let now = Instant::now();
        let sender = known.by_source.entry(source);
        sender.or_insert(Sender { cookie, pid, used: now, association: None }).used = now;
        let (waited, others): (VecDeque<_>, _) =
            std::mem::take(&mut known.parked).into_iter().partition(|one| one.from == source);
        known.parked = others;
        drop(known);
        for one in waited {
            self.forward(one.from, one.to, &one.payload, owner);
        }
    }

    /// Sends `payload`, which the program's socket at `from` has sent, to `to`.
    pub fn forward(&self, from: SocketAddr, to: SocketAddr, payload: &[u8], owner: &Arc<StandIns>) {
        let from = plain(from);
        let mut known = lock(&self.known);
        let now = Instant::now();
        let Some(sender) = known.by_source.get_mut(&from) else {
            known.parked.retain(|one| now.saturating_duration_since(one.since) < PARKED);
            if known.parked.len() < PARKED_AT_MOST {
                known.parked.push_back(Parked { from, to, payload: payload.to_vec(), since: now });
            }
            return;
        };
        sender.used = now;
        let Some(target) = (self.meaning)(to) else { return };
        // Only a name that is too long fails, and there is none.
        let Ok(datagram) = datagram::wrap(&target, payload) else { return };
        if let Some(association) = sender.association.as_ref().filter(|association| association.is_alive()) {
            return association.send(datagram, &target, to);
        }
        if sender.association.as_ref().is_some_and(|association| association.begun.elapsed() < RETRY) {
            return;
        }
        let association = Arc::new(Association::new(from));
        sender.association = Some(Arc::clone(&association));
        let pid = sender.pid;
        known.end_one_too_many(from);
        drop(known);
        association.send(datagram, &target, to);
        let owner = Arc::clone(owner);
        let thread = thread::Builder::new().name("datagrams".into()).stack_size(STACK_BYTES);
        let own = Arc::clone(&association);
        if thread.spawn(move || owner.senders().serve(&own, pid, &owner)).is_err() {
            association.end();
        }
    }

    /// Keeps an association for as long as it lasts.
    fn serve(&self, association: &Association, pid: Pid, owner: &Arc<StandIns>) {
        match self.open(association, pid) {
            Ok((stream, socket)) => association.receive(&stream, &socket, owner),
            Err(why) if !self.complained.swap(true, Ordering::Relaxed) => {
                let line = format!("sockstrace: datagrams are lost: the proxy: {why}\n");
                let _: std::io::Result<()> = std::io::stderr().write_all(line.as_bytes());
            }
            Err(_) => {}
        }
        association.end();
    }

    fn open(&self, association: &Association, pid: Pid) -> Result<(blocking::Stream, Arc<UdpSocket>), String> {
        let (stream, relay) = self.way.associate(Some(pid), PATIENCE).map_err(|failure| why(&failure))?;
        let any =
            if relay.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        // Connected: nobody but the relay is heard.
        let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(relay).map(|()| socket));
        let socket = Arc::new(socket.map_err(|error| error.to_string())?);
        let mut state = lock(&association.state);
        if let State::Waiting(waiting) = std::mem::replace(&mut *state, State::Open(Arc::clone(&socket))) {
            for datagram in waiting {
                transmit(&socket, &datagram);
            }
            Ok((stream, socket))
        } else {
            Err("it took too long".into())
        }
    }

    /// See [`super::Datagrams::settle`].
    pub fn settle(&self) {
        let end = Instant::now() + PATIENCE;
        let associations: Vec<_> =
            lock(&self.known).by_source.values().filter_map(|sender| sender.association.clone()).collect();
        for association in associations {
            while association.is_waiting() && Instant::now() < end {
                thread::sleep(Duration::from_millis(2));
            }
            let since = lock(&association.used).elapsed();
            thread::sleep(LAST_WORDS.saturating_sub(since));
        }
    }
}

/// EAGAIN, and what came back of an earlier one: lost, as on any network.
fn transmit(socket: &UdpSocket, datagram: &[u8]) {
    let _: Result<usize, Errno> = sys::transmit(socket.as_fd(), datagram, MsgFlags::empty());
}

impl Known {
    fn forget_oldest(&mut self) {
        let oldest = self.by_source.iter().min_by_key(|(_, sender)| sender.used).map(|(source, _)| *source);
        if let Some(sender) = oldest.and_then(|source| self.by_source.remove(&source)) {
            sender.end();
        }
    }

    /// Ends the association that was used least lately, where there are too many; not that of `but`.
    fn end_one_too_many(&mut self, but: SocketAddr) {
        let alive = |sender: &Sender| sender.association.as_ref().is_some_and(|association| association.is_alive());
        let living = self.by_source.iter_mut().filter(|(source, sender)| **source != but && alive(sender));
        let living: Vec<_> = living.map(|(_, sender)| sender).collect();
        if living.len() >= ASSOCIATIONS_AT_MOST
            && let Some(oldest) = living.into_iter().min_by_key(|sender| sender.used)
        {
            oldest.end();
        }
    }
}

impl Sender {
    fn end(&self) {
        if let Some(association) = &self.association {
            association.end();
        }
    }
}

impl Association {
    fn new(source: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            source,
            state: Mutex::new(State::Waiting(Vec::new())),
            used: Mutex::new(now),
            begun: now,
            named: Mutex::default(),
        }
    }

    fn is_alive(&self) -> bool {
        !matches!(*lock(&self.state), State::Ended)
    }

    fn is_waiting(&self) -> bool {
        matches!(*lock(&self.state), State::Waiting(_))
    }

    /// Its thread notices within a second.
    fn end(&self) {
        *lock(&self.state) = State::Ended;
    }

    fn send(&self, datagram: Vec<u8>, target: &super::Target, to: SocketAddr) {
        *lock(&self.used) = Instant::now();
        if matches!(target, super::Target::Name(..)) {
            let mut named = lock(&self.named);
            named.retain(|known| *known != to);
            named.push_back(to);
            if named.len() > NAMES_AT_MOST {
                named.pop_front();
            }
        }
        match &mut *lock(&self.state) {
            State::Waiting(waiting) if waiting.len() < WAITING_AT_MOST => waiting.push(datagram),
            State::Open(socket) => transmit(socket, &datagram),
            State::Waiting(_) | State::Ended => {}
        }
    }

    /// Hands on what comes, until the proxy ends it, or nobody needs it any more.
    fn receive(&self, stream: &blocking::Stream, socket: &UdpSocket, owner: &Arc<StandIns>) {
        const TICK: u16 = 1000;
        let mut buffer = vec![0; 65_536];
        while self.is_alive() && lock(&self.used).elapsed() < IDLE {
            let mut fds =
                [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stream.socket(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(TICK)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            let [_, control] = &fds;
            if control.any().unwrap_or(true) {
                match sys::receive(stream.socket(), &mut [0; 64], MsgFlags::empty()) {
                    // RFC 1928: the association ends with its connection.
                    Ok(0) => return,
                    // Nothing is to be said there.
                    Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(_) => return,
                }
            }
            // ECONNREFUSED and the like come of what was sent before.
            while let Ok(length) = sys::receive(socket.as_fd(), &mut buffer, MsgFlags::empty()) {
                let Some((origin, payload)) = datagram::unwrap(buffer.get(..length).unwrap_or_default()) else {
                    continue;
                };
                if let Some(origin) = self.origin(&origin, owner) {
                    *lock(&self.used) = Instant::now();
                    owner.deliver(origin, self.source, payload);
                }
            }
        }
    }

    /// Whom the program is to see as the source. What was sent to a name may be answered from any address.
    fn origin(&self, bound: &Bound, owner: &StandIns) -> Option<SocketAddr> {
        let port = match bound {
            Bound::Address(address) if owner.knows(*address) => return Some(plain(*address)),
            Bound::Address(address) => address.port(),
            Bound::Name(_, port) => *port,
        };
        let named = lock(&self.named).iter().rev().find(|known| known.port() == port).copied();
        match bound {
            Bound::Address(address) => Some(named.unwrap_or(plain(*address))),
            Bound::Name(..) => named,
        }
    }
}
