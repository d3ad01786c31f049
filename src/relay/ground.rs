//! Where a tracee's socket lands instead of at its destination.
//!
//! The tracee's own socket must become connected to one of ours, at the very moment at which somebody else
//! (the proxy) has answered, and until then look like any socket that connects: epoll registrations,
//! duplicates, `EALREADY`, timeouts and interruptions must all work. So the kernel does the waiting:
//!
//! - The socket connects to a *hole* on loopback: a listening socket whose queue we have filled, so that
//!   the kernel drops each further SYN without a word (`tcp_conn_request`). The socket is in SYN_SENT, as
//!   with any far destination.
//! - To let it through ([`Waiting::admit`]) we connect a socket of our own *from* the hole's address *to* the
//!   tracee's: a simultaneous open (RFC 9293, 3.5). The tracee's socket is established within
//!   microseconds, without waiting for its SYN to be sent again, and nobody can take its place: ours names
//!   the tracee's address and port, and accepts nothing.
//! - To refuse ([`Waiting::refuse`]), a simultaneous open is begun and reset. (Dissolving the attempt and
//!   repeating it towards a port where nobody listens would leave ECONNREFUSED, but poll(2) wakes in between.)
//!
//! Of a socket that somebody else lets in at a hole, a program in the kernel perhaps, no more than the address is
//! needed for that: [`super::knock`].
//!
//! Both ends belong to the same user, with SO_REUSEPORT: who shares our user id could listen at the hole
//! too. A tracee that does so talks to itself.
//!
//! All of it works for an ordinary user. What was weighed: a filter on a listening socket that drops the
//! SYN (refused to ordinary users on some kernels); accepting at once (the program would see a connection
//! that fails, never a connect that fails); a listener made when the proxy has answered (the SYN is sent
//! again after 1, 2, 4 … seconds); replacing the descriptor (loses epoll registrations and duplicates).

use super::{Events, Meeting, Place, Waiting, sys};
use nix::errno::Errno;
use nix::sys::socket::{Backlog, listen};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holes of one family: each takes as many connections as there are ephemeral ports (some 28,000).
const HOLES_AT_MOST: usize = 16;

/// Makes TCP sockets (non-blocking, close-on-exec) for the family of the given address, in the network
/// namespace of the ground.
pub type SocketSource = Box<dyn Fn(&SocketAddr) -> Result<OwnedFd, Errno> + Send + Sync>;

/// Why a socket can't be held, in words that end a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit(pub String);

impl Unfit {
    fn because(why: &str) -> impl FnOnce(Errno) -> Self {
        let why = why.to_owned();
        move |errno| Self(format!("{why}: {}", errno.desc()))
    }
}

/// The loopback of one network namespace.
pub struct Ground {
    source: SocketSource,
    v4: Mutex<Pitch>,
    v6: Mutex<Pitch>,
}

/// What one address family has.
#[derive(Default)]
struct Pitch {
    holes: Vec<Hole>,
}

/// A listening socket with a full queue.
struct Hole {
    address: SocketAddr,
    _open: Vec<OwnedFd>,
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").finish_non_exhaustive()
    }
}

/// Whom a socket of ours hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    /// Whoever it connects to.
    Peer,
    /// Nobody.
    Nobody,
}

/// A tracee's socket that is (to be) held in SYN_SENT, and of which we have a duplicate.
#[derive(Debug)]
pub struct Held {
    ground: Arc<Ground>,
    socket: OwnedFd,
    /// As the socket's family writes it: IPv4-mapped, perhaps.
    hole: SocketAddr,
}

impl Ground {
    /// The ground of the namespace in which this process's threads are.
    #[must_use]
    pub fn own() -> Self {
        Self::new(Box::new(sys::tcp_socket))
    }

    /// The ground of the namespace that `source` makes sockets in.
    #[must_use]
    pub fn new(source: SocketSource) -> Self {
        Self { source, v4: Mutex::default(), v6: Mutex::default() }
    }

    /// Prepares to hold `socket` (a duplicate of the tracee's), which is about to connect to `destination`.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// Where it can't be held without a packet of it, or of ours, leaving the host.
    pub fn hold(self: &Arc<Self>, socket: OwnedFd, destination: SocketAddr) -> Result<Held, Unfit> {
        let fd = socket.as_fd();
        let local = sys::local_address(fd).map_err(Unfit::because("its address can't be told"))?;
        // Packets of a socket that is bound to a device leave by it, whatever their destination.
        let device = sys::device(fd).map_err(Unfit::because("its device can't be told"))?;
        if let Some(name) = device.filter(|name| name != "lo") {
            sys::unbind_device(fd).map_err(Unfit::because(&format!("it is bound to the device {name}")))?;
        }
        let bound = sys::unmapped(local).ip();
        if !sys::is_unspecified(bound) && !self.is_own(bound) {
            return Err(Unfit(format!("it is bound to {bound}, which is no address of this host")));
        }
        if sys::connects_later(fd) {
            // EINVAL: it connects already, and nothing changes.
            let _: Result<(), Errno> = sys::connect_at_once(fd);
        }
        let as_v4 = destination.ip().to_canonical().is_ipv4();
        let hole = match self.hole(as_v4) {
            // No ::1 here: IPv4 will do, as long as the socket speaks it.
            Err(_) if !as_v4 && sys::is_unspecified(bound) && !sys::is_v6_only(fd) => self.hole(true),
            other => other,
        }
        .map_err(Unfit::because("nothing can be bound on loopback"))?;
        // In the family of the program's address: where that isn't the socket's, the kernel refuses both alike.
        let hole = if destination.is_ipv6() { sys::mapped(hole) } else { hole };
        Ok(Held { ground: Arc::clone(self), socket, hole })
    }

    /// So many holes, or as many as can be had, for who lets sockets in there himself.
    #[must_use]
    pub fn holes(&self, v4: bool, count: usize) -> Vec<SocketAddr> {
        let mut pitch = self.pitch(v4);
        while pitch.holes.len() < count && self.dig(&mut pitch, v4).is_ok() {}
        pitch.holes.iter().map(|hole| hole.address).take(count).collect()
    }

    /// A socket of ours at `hole` that connects to who waits there with this address: at once, or about to.
    pub(super) fn meet(&self, hole: SocketAddr, theirs: SocketAddr, hearing: Hearing) -> Result<OwnedFd, Errno> {
        let end = (self.source)(&hole)?;
        sys::bind_shared(end.as_fd(), hole)?;
        if hearing == Hearing::Nobody {
            sys::hear_nobody(end.as_fd(), hole.is_ipv6())?;
        }
        match sys::connect_to(end.as_fd(), theirs) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(end),
            Err(errno) => Err(errno),
        }
    }

    /// Whether `address` is one of this namespace's own, so that what is sent there leaves no host.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        sys::is_own(address, &self.source)
    }

    /// The newest hole.
    fn hole(&self, v4: bool) -> Result<SocketAddr, Errno> {
        let mut pitch = self.pitch(v4);
        match pitch.holes.last() {
            Some(hole) => Ok(hole.address),
            None => self.dig(&mut pitch, v4),
        }
    }

    fn dig(&self, pitch: &mut Pitch, v4: bool) -> Result<SocketAddr, Errno> {
        // With room for one the queue holds two (`sk_acceptq_is_full`). With room for none the kernel would
        // suspect a flood, and log it.
        const ROOM: i32 = 1;
        const FILL: usize = 2;
        if pitch.holes.len() >= HOLES_AT_MOST {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let socket = (self.source)(&loopback(v4))?;
        sys::bind_shared(socket.as_fd(), loopback(v4))?;
        listen(&socket, Backlog::new(ROOM)?)?;
        let address = sys::local_address(socket.as_fd())?;
        let mut open = vec![socket];
        for _ in 0..FILL {
            let filler = (self.source)(&address)?;
            match sys::connect_to(filler.as_fd(), address) {
                Ok(()) | Err(Errno::EINPROGRESS) => open.push(filler),
                Err(errno) => return Err(errno),
            }
        }
        pitch.holes.push(Hole { address, _open: open });
        Ok(address)
    }

    fn pitch(&self, v4: bool) -> MutexGuard<'_, Pitch> {
        let pitch = if v4 { &self.v4 } else { &self.v6 };
        pitch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn loopback(v4: bool) -> SocketAddr {
    let ip: IpAddr = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(ip, 0)
}

impl Held {
    /// The tracee's socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The address that the socket connects to, and that the kernel names as its peer.
    #[must_use]
    pub fn hole(&self) -> SocketAddr {
        self.hole
    }

    /// Another socket of the same network namespace, for the family of `address`.
    pub(super) fn another(&self, address: &SocketAddr) -> Result<OwnedFd, Errno> {
        (self.ground.source)(address)
    }

    /// connect(2) on the tracee's socket, for a non-blocking one: EINPROGRESS. Any other error, or success, is
    /// what the program is to see, and nothing waits.
    pub fn connect(&mut self) -> Result<(), Errno> {
        loop {
            match sys::connect_to(self.socket(), self.hole) {
                Err(Errno::EADDRNOTAVAIL) if self.move_on() => {}
                other => return other,
            }
        }
    }

    /// The socket leads to another hole from now on: every port was connected to this one (EADDRNOTAVAIL).
    /// `false` where there is none to be had. A blocking socket is connected by its thread, to [`Held::hole`].
    pub fn move_on(&mut self) -> bool {
        let current = sys::unmapped(self.hole);
        let v4 = current.is_ipv4();
        let mut pitch = self.ground.pitch(v4);
        let newest = pitch.holes.last().map(|hole| hole.address).filter(|newest| *newest != current);
        let Some(hole) = newest.or_else(|| self.ground.dig(&mut pitch, v4).ok()) else { return false };
        drop(pitch);
        self.hole = if self.hole.is_ipv6() { sys::mapped(hole) } else { hole };
        true
    }

    /// A first socket of ours begins a simultaneous open, but hears no answer, so that the program's is in
    /// SYN_RECV. It takes the SYN of a second one for a stray, and says so in a challenge ACK (RFC 5961),
    /// which that one answers with a reset.
    fn reset(&self) -> Result<(), Errno> {
        let theirs = sys::unmapped(sys::local_address(self.socket())?);
        // The program's packets must be those that aren't heard.
        if sys::hops(self.socket())? >= sys::MOST_HOPS {
            return Err(Errno::EOPNOTSUPP);
        }
        for hearing in [Hearing::Nobody, Hearing::Peer] {
            self.ground.meet(sys::unmapped(self.hole), theirs, hearing)?;
        }
        Ok(())
    }
}

impl Waiting for Held {
    fn watch(&self, slot: u8, place: &Place<'_>) -> Result<(), Errno> {
        // Its end (a timeout, the program that gives up) is an error for epoll.
        place.watch_for(slot, self.socket(), Events::EPOLLET)
    }

    /// Its description lives on, and so would what epoll knows of it.
    fn unwatch(&self, place: &Place<'_>) {
        place.unwatch(self.socket());
    }

    fn is_waiting(&self) -> bool {
        sys::tcp_state(self.socket()) == Ok(sys::SYN_SENT)
    }

    fn admit(&self) -> Result<OwnedFd, Errno> {
        match sys::tcp_state(self.socket())? {
            sys::SYN_SENT => {}
            sys::CLOSE => return Err(Errno::EAGAIN),
            _ => return Err(Errno::EISCONN),
        }
        let theirs = sys::unmapped(sys::local_address(self.socket())?);
        self.ground.meet(sys::unmapped(self.hole), theirs, Hearing::Peer)
    }

    fn meeting(&self, _: BorrowedFd<'_>) -> Meeting {
        // As long as we hold it nobody else has its address.
        Meeting::Met
    }

    /// To poll(2) the socket looks as after a refusal, at once and in one step. The error that waits on it is
    /// ECONNRESET; whoever tells it to the program tells the right one instead.
    fn refuse(&self, _: Errno) -> bool {
        if !self.is_waiting() {
            return true;
        }
        // What fails here leaves the socket waiting, or connected to nobody.
        let _: Result<(), Errno> = self.reset();
        if matches!(sys::tcp_state(self.socket()), Ok(state) if state != sys::CLOSE) {
            let _: Result<(), Errno> = sys::disconnect(self.socket());
        }
        true
    }
}
