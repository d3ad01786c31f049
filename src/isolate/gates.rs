//! Gates: sockets inside the namespace at the addresses that may be reached, and what carries their traffic to
//! the same addresses outside.
//!
//! A gate is opened when the judge has allowed a connection, or a datagram, to its address: rules can cover
//! more addresses than could be listened on. Without a gate there is nobody at the address: the kernel
//! refuses. A gate leads to its own address and nowhere else.
//!
//! **TCP.** The connection outside is made first, so that what it meets (refused, unreachable, timed out) can
//! be given to the program as its own; then the program's connection inside is taken and joined with it. A
//! non-blocking connect waits for the outside [`AT_ONCE`] at most; after that it is let go, and a failure
//! outside is a reset inside.
//!
//! **UDP.** Each program socket that sends to a gate gets a socket outside that is connected to the gate's
//! address; answers come back from that address.

use super::namespaces::Inside;
use super::relay::relay;
use super::sys;
use super::udp::UdpGate;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a non-blocking connect may be held up until the outside has answered.
pub const AT_ONCE: Duration = Duration::from_millis(250);

/// A TCP gate that nobody uses is closed after this time, so that the program can listen there itself.
const IDLE: Duration = Duration::from_secs(10);

/// How often idle gates are looked for.
const SWEEP: u16 = 5000;

/// A relay's thread needs little.
const STACK_BYTES: usize = 64 << 10;

/// All gates of a namespace.
#[derive(Debug)]
pub struct Gates(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    inside: Inside,
    epoll: Epoll,
    state: Mutex<State>,
    next: AtomicU64,
    /// Relays that may still have something of the program's.
    relays: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    tcp: HashMap<SocketAddr, TcpGate>,
    udp: HashMap<SocketAddr, Arc<UdpGate>>,
    sources: HashMap<u64, Source>,
}

/// What an epoll event is about.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A connection waits at this gate.
    Tcp(SocketAddr),
    /// A datagram of the program's.
    Udp(Arc<UdpGate>),
    /// A datagram for this client of the gate.
    Answer(Arc<UdpGate>, SocketAddr),
}

#[derive(Debug)]
struct TcpGate {
    listener: OwnedFd,
    token: u64,
    /// Connections outside that wait for the program's: all lead to the same place, so that any will do.
    ready: VecDeque<(OwnedFd, Instant)>,
    /// Connections outside that are being made.
    pending: usize,
    used: Instant,
}

/// What became of the attempt to let a connection through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The program's own connect will meet what it should.
    Granted,
    /// The outside refuses it.
    Refused(Errno),
}

impl Gates {
    /// Gates of the namespaces that `inside` makes sockets in.
    ///
    /// # Errors
    /// Where descriptors or threads can't be had.
    pub fn new(inside: Inside) -> Result<Self, Errno> {
        let shared = Arc::new(Shared {
            inside,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            state: Mutex::default(),
            next: AtomicU64::new(0),
            relays: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        spawn("gates", STACK_BYTES * 4, move || serving.serve())?;
        Ok(Self(shared))
    }

    /// Makes the way for a datagram of the program's to `address`.
    ///
    /// # Errors
    /// Where sockets can't be had.
    pub fn admit_datagram(&self, address: SocketAddr) -> Result<(), Errno> {
        let address = destination(address);
        let mut state = self.0.lock();
        if state.udp.contains_key(&address) {
            return Ok(());
        }
        let socket = self.0.inside.socket(family(&address), libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
        sys::set_reuse(socket.as_fd())?;
        sys::set_freebind(socket.as_fd(), &address)?;
        match sys::bind(socket.as_fd(), &address) {
            // A server of the program's own.
            Err(Errno::EADDRINUSE) => return Ok(()),
            other => other?,
        }
        let gate = Arc::new(UdpGate::new(address, socket));
        self.0.watch(&mut state, gate.socket().as_fd(), Source::Udp(Arc::clone(&gate)))?;
        state.udp.insert(address, gate);
        Ok(())
    }

    /// Makes the way for a TCP connection of the program's to `address`. `wait` waits for a descriptor as
    /// long as it may, with poll(2)'s meaning of `Ok(0)`, and may fail with EINTR. `again`: for the same call it
    /// was made already.
    ///
    /// # Errors
    /// EINTR from `wait`; where sockets can't be had.
    pub fn admit_stream(
        &self,
        address: SocketAddr,
        again: bool,
        mut wait: impl FnMut(&OwnedFd) -> Result<i32, Errno>,
    ) -> Result<Admission, Errno> {
        let address = destination(address);
        if (again && self.0.is_ready(address)) || !self.0.open(address)? {
            return Ok(Admission::Granted);
        }
        let outside = connect(address);
        let outcome = match outside {
            Ok(socket) => match wait(&socket) {
                Ok(0) => Ok(socket),
                Ok(_) => sys::pending_error(socket.as_fd()).map(|()| socket).map_err(Some),
                // The caller's wait was interrupted: nothing is known.
                Err(errno) => {
                    self.0.settle(address, None);
                    return Err(errno);
                }
            },
            Err(errno) => Err(Some(errno)),
        };
        match outcome {
            Ok(socket) => {
                self.0.settle(address, Some(socket));
                Ok(Admission::Granted)
            }
            Err(errno) => {
                let errno = errno.unwrap_or(Errno::ECONNREFUSED);
                let closed = self.0.settle(address, None);
                // With nobody at the gate the kernel refuses it just as it would be refused outside.
                let natural = closed && errno == Errno::ECONNREFUSED;
                Ok(if natural { Admission::Granted } else { Admission::Refused(errno) })
            }
        }
    }

    /// Waits until what the program has sent is on its way, but no longer than `patience` at a time without
    /// progress.
    pub fn finish(&self, patience: Duration) {
        let start = Instant::now();
        while self.0.relays.load(Ordering::SeqCst) > 0 && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits for a connection that was begun; `None`: as long as it takes.
pub fn wait_for(socket: &OwnedFd, time: Option<Duration>) -> Result<i32, Errno> {
    let timeout = time.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout)
}

/// The unspecified address is this host (`ip_route_output_key_hash_rcu`), and a mapped one its IPv4 address.
fn destination(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

pub(super) fn family(address: &SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// Begins a connection outside.
fn connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = sys::socket(family(&address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
    match sys::connect(socket.as_fd(), &address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

pub(super) fn spawn(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let thread = std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(body);
    thread.map(drop).map_err(|_| Errno::EAGAIN)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, state: &mut State, fd: impl AsFd, source: Source) -> Result<u64, Errno> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        state.sources.insert(token, source);
        let added = self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token));
        if added.is_err() {
            state.sources.remove(&token);
        }
        added.map(|()| token)
    }

    /// Watches a UDP client's socket outside.
    pub(super) fn watch_answers(
        &self,
        fd: impl AsFd,
        gate: &Arc<UdpGate>,
        client: SocketAddr,
    ) -> Result<u64, Errno> {
        self.watch(&mut self.lock(), fd, Source::Answer(Arc::clone(gate), client))
    }

    /// What is watched no more; closing its descriptor has taken it out of the epoll set.
    pub(super) fn forget(&self, tokens: impl IntoIterator<Item = u64>) {
        let mut state = self.lock();
        for token in tokens {
            state.sources.remove(&token);
        }
    }

    /// Whether a connection outside waits for one of the program's.
    fn is_ready(&self, address: SocketAddr) -> bool {
        self.lock().tcp.get(&address).is_some_and(|gate| !gate.ready.is_empty())
    }

    /// Opens the gate, for a connection that [`Shared::settle`] is to be told of. `false` where the program
    /// itself listens there.
    fn open(&self, address: SocketAddr) -> Result<bool, Errno> {
        let mut state = self.lock();
        if let Some(gate) = state.tcp.get_mut(&address) {
            gate.pending = gate.pending.saturating_add(1);
            gate.used = Instant::now();
            return Ok(true);
        }
        let listener = self.inside.socket(family(&address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        // Else connections that have ended would bar the way for a minute.
        sys::set_reuse(listener.as_fd())?;
        sys::set_freebind(listener.as_fd(), &address)?;
        match sys::bind(listener.as_fd(), &address).and_then(|()| sys::listen(listener.as_fd())) {
            Err(Errno::EADDRINUSE) => return Ok(false),
            other => other?,
        }
        let token = self.watch(&mut state, &listener, Source::Tcp(address))?;
        let gate = TcpGate { listener, token, ready: VecDeque::new(), pending: 1, used: Instant::now() };
        state.tcp.insert(address, gate);
        Ok(true)
    }

    /// A connection outside was made (or is being made), or it failed. Whether the gate was closed.
    fn settle(&self, address: SocketAddr, outside: Option<OwnedFd>) -> bool {
        let mut state = self.lock();
        let Some(gate) = state.tcp.get_mut(&address) else { return true };
        gate.pending = gate.pending.saturating_sub(1);
        gate.used = Instant::now();
        let failed = outside.is_none();
        gate.ready.extend(outside.map(|socket| (socket, Instant::now())));
        let idle = gate.pending == 0 && gate.ready.is_empty();
        failed && idle && close(&mut state, address)
    }

    fn serve(self: &Arc<Self>) {
        let mut events = [EpollEvent::empty(); 64];
        let mut swept = Instant::now();
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(SWEEP)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // Without it nothing gets through: the gates stay shut.
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                let source = self.lock().sources.get(&event.data()).cloned();
                match source {
                    Some(Source::Tcp(address)) => self.accept(address),
                    Some(Source::Udp(gate)) => gate.carry_out(self),
                    Some(Source::Answer(gate, client)) => gate.carry_back(client, self),
                    None => {}
                }
            }
            if swept.elapsed() >= Duration::from_millis(SWEEP.into()) {
                swept = Instant::now();
                self.sweep();
            }
        }
    }

    /// Takes all connections that wait at the gate.
    fn accept(self: &Arc<Self>, address: SocketAddr) {
        loop {
            let mut state = self.lock();
            let Some(gate) = state.tcp.get_mut(&address) else { return };
            let Ok(inner) = sys::accept(gate.listener.as_fd()) else { return };
            gate.used = Instant::now();
            let ready = gate.ready.pop_front().map(|(socket, _)| socket);
            drop(state);
            // One that no connect announced (a hole in the judge) gets no further than any other.
            let Ok(outer) = ready.map_or_else(|| connect(address), Ok) else { continue };
            self.relays.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(self);
            let join = move || {
                relay(&inner, &outer, || {
                    shared.relays.fetch_sub(1, Ordering::SeqCst);
                });
            };
            if spawn("relay", STACK_BYTES, join).is_err() {
                self.relays.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn sweep(&self) {
        let mut state = self.lock();
        let mut idle = Vec::new();
        for (address, gate) in &mut state.tcp {
            gate.ready.retain(|(_, since)| since.elapsed() < IDLE);
            if gate.pending == 0 && gate.ready.is_empty() && gate.used.elapsed() > IDLE {
                idle.push(*address);
            }
        }
        for address in idle {
            close(&mut state, address);
        }
        let gates: Vec<_> = state.udp.values().cloned().collect();
        drop(state);
        for gate in gates {
            gate.sweep(self);
        }
    }
}

fn close(state: &mut State, address: SocketAddr) -> bool {
    if let Some(gate) = state.tcp.remove(&address) {
        state.sources.remove(&gate.token);
    }
    true
}
