//! Tracees' sockets that lead to us instead of to their destination, and look as if they did not.
//!
//! Three parts, each of use by itself:
//!
//! - [`ground`]: a tracee's socket is held in SYN_SENT for as long as it takes ([`Ground::hold`],
//!   [`Held::connect`]); then it becomes connected to a socket of ours ([`Waiting::admit`]) or fails
//!   ([`Waiting::refuse`]). [`knock`] is the same for sockets of which the address is known alone.
//! - [`book`]: what the program is to see of such a socket (getpeername, getsockname, `SO_ERROR`, the result
//!   of a second connect): [`Record`].
//! - [`reactor`] and [`flow`]: threads that speak to the other side ([`Actor`]) and then pass bytes on
//!   ([`Flow`]).
//!
//! # How to land a connection
//!
//! ```text
//! let ground = relay.ground_of(socket)?;             // of the socket's network namespace
//! let mut held = ground.hold(duplicate, destination)?;
//! let record = Record::new(cookie, destination, held.hole());
//! relay.book.enter(&record);
//! held.connect()                                     // EINPROGRESS, or blocks, as the socket has it
//! relay.reactor.spawn(Box::new(actor))               // an Actor that owns `held`, and later …
//!     let inner = record.change(Stage::Connected, || held.admit())?;   // … drop `held` at once: it keeps
//!     Next::Become(Box::new(Flow::new(inner, outer, early, on_end)))   //   the program's socket open
//! ```
//!
//! # Where it lives
//!
//! In threads of the supervisor. If it dies, so do the connections, by resets, and new calls fail: nothing
//! gets past. A process of its own would survive the supervisor, but then nobody would judge what goes
//! through it. Before sockstrace ends it waits for what the program has sent ([`Reactor::settle`]).
//!
//! # What can still be seen
//!
//! - The kernel's own tables (/proc/net/tcp, `sock_diag`) name the loopback addresses; `TCP_INFO`, `TCP_MAXSEG`
//!   and the like are those of a loopback connection.
//! - An error that came while a non-blocking socket was connecting is told exactly by connect and
//!   `SO_ERROR`; whoever reads or writes without asking first sees ECONNRESET.
//! - A program that closes a connecting socket keeps its source port busy until the proxy has answered.
//! - `TCP_FASTOPEN_CONNECT` and (root) `SO_BINDTODEVICE` are taken off the socket.

pub mod book;
pub mod door;
pub mod flow;
pub mod ground;
pub mod knock;
mod packets;
mod pipes;
pub mod reactor;
pub mod sys;
#[cfg(test)]
mod tests;

pub use book::{Book, Record, Stage};
pub use door::Door;
pub use flow::Flow;
pub use ground::{Ground, Held, SocketSource, Unfit};
pub use knock::Knock;
pub use reactor::{Actor, Events, Next, Place, Reactor, Unsettled};

use nix::errno::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// A program's socket that connects to a hole.
pub trait Waiting: Send {
    /// Has [`Actor::ready`] called under `slot` where it may have stopped waiting.
    ///
    /// # Errors
    /// Where nothing more can be watched.
    fn watch(&self, slot: u8, place: &Place<'_>) -> Result<(), Errno>;

    /// Ends [`Waiting::watch`].
    fn unwatch(&self, place: &Place<'_>);

    /// Whether it is in SYN_SENT.
    fn is_waiting(&self) -> bool;

    /// Connects it: returns our end (non-blocking). It may still be about to be established, which epoll
    /// tells; where the program has given up meanwhile it fails with ECONNREFUSED.
    ///
    /// # Errors
    /// EAGAIN where the socket isn't connecting yet (its thread is about to); what connect(2) gives.
    fn admit(&self) -> Result<OwnedFd, Errno>;

    /// Whether `end`, which [`Waiting::admit`] gave, has met that socket and no other.
    fn meeting(&self, end: BorrowedFd<'_>) -> Meeting;

    /// Ends the attempt, with this errno as far as it can be told. Whether that is done: a socket that is busy just
    /// now may have to be refused once more.
    fn refuse(&self, errno: Errno) -> bool;
}

/// What became of our end of a connection ([`Waiting::meeting`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// It isn't known yet: epoll tells when to ask again.
    Pending,
    /// It is connected to the program's socket, or was, and what came from there can be read.
    Met,
    /// It was, but was reset, and there is nothing to read.
    Reset,
    /// It isn't: the program has given up.
    Missed,
}

/// The three parts together.
#[derive(Debug)]
pub struct Relay {
    /// The records.
    pub book: Arc<Book>,
    /// The threads.
    pub reactor: Reactor,
    own: Arc<Ground>,
    own_namespace: Option<u64>,
    others: Mutex<HashMap<u64, Arc<Ground>>>,
}

impl Relay {
    /// With the ground of our own network namespace.
    ///
    /// # Errors
    /// Where no socket can be made.
    pub fn new() -> Result<Self, Errno> {
        let any = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        let probe = sys::tcp_socket(&any)?;
        Ok(Self {
            book: Arc::default(),
            reactor: Reactor::new(),
            own: Arc::new(Ground::own()),
            own_namespace: sys::namespace_cookie(probe.as_fd()),
            others: Mutex::default(),
        })
    }

    /// Adds the ground of another network namespace, in which `source` makes sockets.
    ///
    /// # Errors
    /// What `source` gives; EOPNOTSUPP where the kernel doesn't number namespaces.
    pub fn add_ground(&self, source: SocketSource) -> Result<(), Errno> {
        let any = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        let probe = source(&any)?;
        let cookie = sys::namespace_cookie(probe.as_fd()).ok_or(Errno::EOPNOTSUPP)?;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.insert(cookie, Arc::new(Ground::new(source)));
        Ok(())
    }

    /// The ground of our own network namespace, and the namespace's number.
    ///
    /// # Errors
    /// Where the kernel doesn't number them (before 5.14).
    pub fn own_ground(&self) -> Result<(&Arc<Ground>, u64), Unfit> {
        let namespace = self.own_namespace.ok_or_else(|| Unfit("the kernel doesn't number namespaces".into()))?;
        Ok((&self.own, namespace))
    }

    /// The ground of the network namespace in which the socket was made.
    ///
    /// # Errors
    /// Where there is none.
    pub fn ground_of(&self, socket: BorrowedFd<'_>) -> Result<Arc<Ground>, Unfit> {
        let namespace = sys::namespace_cookie(socket);
        // A kernel that can't tell (before 5.14): if it is another one, the hole isn't there, and connecting
        // to it fails.
        if namespace == self.own_namespace || namespace.is_none() {
            return Ok(Arc::clone(&self.own));
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let found = namespace.and_then(|cookie| others.get(&cookie).cloned());
        found.ok_or_else(|| Unfit("its socket is in another network namespace".into()))
    }
}
