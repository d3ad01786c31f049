//! Gates for datagrams: sockets inside the namespace at the addresses that may be reached, and what carries
//! their traffic to the same addresses outside.
//!
//! A gate is opened when the judge has allowed a datagram to its address: rules can cover more addresses than
//! could be bound. Without a gate there is nobody at the address. A gate leads to its own address and nowhere
//! else. Each program socket that sends to a gate gets a socket outside that is connected to the gate's
//! address; answers come back from that address.

use super::namespaces::Inside;
use super::sys;
use super::udp::UdpGate;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often, in milliseconds, clients that fell silent are looked for.
const SWEEP: u16 = 5000;

const STACK_BYTES: usize = 256 << 10;

/// How often a gate is asked for what is left in it.
const LAST_TURNS: usize = 1024;

/// All gates of a namespace.
#[derive(Debug)]
pub struct Gates(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    inside: Arc<Inside>,
    epoll: Epoll,
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    gates: HashMap<SocketAddr, Arc<UdpGate>>,
    sources: HashMap<u64, Source>,
}

/// What an epoll event is about.
#[derive(Debug, Clone)]
enum Source {
    /// A datagram of the program's.
    Program(Arc<UdpGate>),
    /// A datagram for this client of the gate.
    Answer(Arc<UdpGate>, SocketAddr),
}

impl Gates {
    /// Gates of the namespaces that `inside` makes sockets in.
    ///
    /// # Errors
    /// Where descriptors or threads can't be had.
    pub fn new(inside: Arc<Inside>) -> Result<Self, Errno> {
        let shared = Arc::new(Shared {
            inside,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            state: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("gates".into()).stack_size(STACK_BYTES);
        thread.spawn(move || serving.serve()).map_err(|_| Errno::EAGAIN)?;
        Ok(Self(shared))
    }

    /// Makes the way for a datagram of the program's to `address`.
    ///
    /// # Errors
    /// Where sockets can't be had.
    pub fn admit_datagram(&self, address: SocketAddr) -> Result<(), Errno> {
        let address = reached(address);
        let mut state = self.0.lock();
        if state.gates.contains_key(&address) {
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
        self.0.watch(&mut state, gate.socket().as_fd(), Source::Program(Arc::clone(&gate)))?;
        state.gates.insert(address, gate);
        Ok(())
    }

    /// Whether a server of the program's own has this TCP address.
    ///
    /// # Errors
    /// Where sockets can't be had.
    pub fn is_taken(&self, address: SocketAddr) -> Result<bool, Errno> {
        let address = reached(address);
        let probe = self.0.inside.socket(family(&address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        // Else connections that have ended would count for a minute.
        sys::set_reuse(probe.as_fd())?;
        sys::set_freebind(probe.as_fd(), &address)?;
        match sys::bind(probe.as_fd(), &address) {
            Err(Errno::EADDRINUSE) => Ok(true),
            other => other.map(|()| false),
        }
    }

    /// Carries out what the program has sent.
    pub fn finish(&self) {
        let gates: Vec<_> = self.0.lock().gates.values().cloned().collect();
        for gate in gates {
            // As much as a socket's buffer may hold; nobody adds to it any more.
            for _ in 0..LAST_TURNS {
                if !gate.carry_out(&self.0) {
                    break;
                }
            }
        }
    }
}

/// The unspecified address is this host (`ip_route_output_key_hash_rcu`), and a mapped one its IPv4 address.
#[must_use]
pub fn reached(address: SocketAddr) -> SocketAddr {
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

    /// Watches a client's socket outside.
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
                    Some(Source::Program(gate)) => {
                        // What is left is told once more.
                        gate.carry_out(self);
                    }
                    Some(Source::Answer(gate, client)) => gate.carry_back(client, self),
                    None => {}
                }
            }
            if swept.elapsed() >= Duration::from_millis(SWEEP.into()) {
                swept = Instant::now();
                let gates: Vec<_> = self.lock().gates.values().cloned().collect();
                for gate in gates {
                    gate.sweep(self);
                }
            }
        }
    }
}
