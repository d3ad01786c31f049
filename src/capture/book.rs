//! Which sockets there are, known by their inode numbers, whoever holds them under whatever descriptor.
//!
//! That a socket is gone is told by an epoll instance that it was once added to: the kernel removes what
//! nobody holds any more, and lists the rest (`/proc/thread-self/fdinfo`). It is asked for no events, and holds
//! nothing open.

use super::record::{Kind, Record, Who};
use super::wish::Wish;
use crate::action::perform::sys;
use crate::event;
use crate::operation::{Address, Family, SocketKind, SocketType, UnixAddress};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::stat::fstat;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How a descriptor of the caller is duplicated.
pub(super) type Duplicate<'a> = &'a dyn Fn(i32) -> Result<OwnedFd, Errno>;

/// The part of a socket's name that goes into the id, at most.
const LABEL: usize = 40;

/// All sockets that were met.
#[derive(Debug)]
pub(super) struct Book {
    wish: Arc<Wish>,
    epoll: Epoll,
    sockets: Mutex<Sockets>,
}

#[derive(Debug, Default)]
struct Sockets {
    by_inode: HashMap<u64, Socket>,
    connections: u64,
    /// Counts looks for closed ones.
    sweep: u64,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, named at each use")]
struct Socket {
    kind: SocketKind,
    wanted: bool,
    connection: Option<Arc<str>>,
    /// Its peer's address or its own, as far as they are known.
    address: Option<Address>,
    path: Option<Arc<str>>,
    /// The names were asked for, and won't change.
    asked: bool,
    settled: bool,
    /// Calls that haven't come to their end.
    busy: u32,
    /// The epoll instance tells when it is gone.
    watched: bool,
    /// Met in this round: what was listed before doesn't tell of it.
    round: u64,
    who: Who,
    fd: i32,
    closed: Option<SystemTime>,
}

/// A connection that is captured.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub id: Arc<str>,
    pub path: Option<Arc<str>>,
    pub kind: SocketKind,
}

impl Book {
    pub fn new(wish: Arc<Wish>) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { wish, epoll, sockets: Mutex::default() })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins on this socket; what it is, where it is captured. To be followed by [`Book::leave`].
    pub fn enter(
        &self,
        inode: u64,
        fd: i32,
        who: &dyn Fn() -> Who,
        duplicate: Duplicate<'_>,
    ) -> Option<SocketKind> {
        let mut sockets = self.sockets();
        let round = sockets.sweep;
        if let Some(socket) = sockets.by_inode.get_mut(&inode) {
            if !socket.wanted {
                return None;
            }
            socket.busy = socket.busy.saturating_add(1);
            return Some(socket.kind);
        }
        let socket = duplicate_of(inode, fd, duplicate)?;
        let kind = sys::kind(socket.as_fd()).ok()?;
        // Where there are too many watches, its end won't be seen.
        let watched = self.epoll.add(&socket, EpollEvent::new(EpollFlags::empty(), inode)).is_ok();
        let wanted = self.wish.wants_family(kind.family);
        let who = if wanted { who() } else { Who::default() };
        let socket = Socket {
            kind,
            wanted,
            connection: None,
            address: None,
            path: None,
            asked: false,
            settled: false,
            busy: u32::from(wanted),
            watched,
            round,
            who,
            fd,
            closed: None,
        };
        sockets.by_inode.insert(inode, socket);
        wanted.then_some(kind)
    }

    /// A call that was begun on this socket has ended.
    pub fn leave(&self, inode: u64) {
        if let Some(socket) = self.sockets().by_inode.get_mut(&inode) {
            socket.busy = socket.busy.saturating_sub(1);
        }
    }

    /// The connection of a socket on which something happens, and its `open` record where it is new. `None`
    /// where it isn't captured. `with` is the address that came with a message; with `again`, names are asked for
    /// again.
    pub fn open(
        &self,
        inode: u64,
        fd: i32,
        (with, again): (Option<&Address>, bool),
        who: &dyn Fn() -> Who,
        duplicate: Duplicate<'_>,
    ) -> Option<(Connection, Option<Record>)> {
        let mut sockets = self.sockets();
        let number = sockets.connections;
        let socket = sockets.by_inode.get_mut(&inode).filter(|socket| socket.wanted)?;
        let streams = socket.kind.kind != SocketType::DGRAM;
        if again || !socket.asked || (streams && !socket.settled) {
            socket.ask(inode, fd, duplicate);
        }
        let wants = |address| self.wish.wants_address(address);
        if !wants(socket.address.as_ref()) && !with.is_some_and(|address| wants(Some(address))) {
            // What isn't connected can still be; and datagrams bring addresses of their own.
            socket.wanted = !(streams && socket.settled);
            return None;
        }
        let mut record = None;
        let id = if let Some(id) = &socket.connection {
            Arc::clone(id)
        } else {
            let id: Arc<str> = id(number.saturating_add(1), socket.address.as_ref()).into();
            socket.connection = Some(Arc::clone(&id));
            (socket.who, socket.fd) = (who(), fd);
            record = Some(socket.record(Kind::Open));
            id
        };
        let connection = Connection { id, path: socket.path.clone(), kind: socket.kind };
        if record.is_some() {
            sockets.connections = number.saturating_add(1);
        }
        Some((connection, record))
    }

    /// A listening socket's record.
    pub fn listen(&self, inode: u64, fd: i32, who: Who, duplicate: Duplicate<'_>) -> Option<Record> {
        let mut sockets = self.sockets();
        let socket = sockets.by_inode.get_mut(&inode).filter(|socket| socket.wanted)?;
        socket.ask(inode, fd, duplicate);
        (socket.who, socket.fd) = (who, fd);
        let record = socket.record(Kind::Listen);
        self.wish.wants_address(socket.address.as_ref()).then_some(record)
    }

    /// A descriptor of the socket was closed.
    pub fn close(&self, inode: u64, fd: i32, who: Who) {
        if let Some(socket) = self.sockets().by_inode.get_mut(&inode) {
            (socket.who, socket.fd, socket.closed) = (who, fd, Some(SystemTime::now()));
        }
    }

    /// Whether the socket has a connection that is captured.
    pub fn is_open(&self, inode: u64) -> bool {
        self.sockets().by_inode.get(&inode).is_some_and(|socket| socket.connection.is_some())
    }

    /// The connection of a socket, by its id.
    pub fn name(&self, inode: u64) -> Option<String> {
        self.sockets().by_inode.get(&inode)?.connection.as_ref().map(ToString::to_string)
    }

    /// Forgets sockets that nobody holds any more; the `close` records of those that were captured.
    pub fn sweep(&self) -> Vec<Record> {
        let mut sockets = self.sockets();
        if sockets.by_inode.is_empty() {
            return Vec::new();
        }
        sockets.sweep = sockets.sweep.saturating_add(1);
        let round = sockets.sweep;
        drop(sockets);
        let Some(living) = self.living() else { return Vec::new() };
        let mut closed = Vec::new();
        self.sockets().by_inode.retain(|inode, socket| {
            let stays = !socket.watched || living.contains(inode) || socket.busy > 0 || socket.round >= round;
            if !stays && socket.connection.is_some() {
                let mut record = socket.record(Kind::Close);
                record.ts_ms = socket.closed.unwrap_or(record.ts_ms);
                closed.push(record);
            }
            stays
        });
        closed.sort_by_key(|record| record.ts_ms);
        closed
    }

    /// The inode numbers of the sockets that the epoll instance still knows: fs/eventpoll.c,
    /// `ep_show_fdinfo`.
    fn living(&self) -> Option<HashSet<u64>> {
        let path = format!("/proc/thread-self/fdinfo/{}", self.epoll.0.as_raw_fd());
        let text = std::fs::read_to_string(path).ok()?;
        let inode = |line: &str| {
            let data = line.strip_prefix("tfd:")?.split_once("data:")?.1;
            u64::from_str_radix(data.split_ascii_whitespace().next()?, 16).ok()
        };
        Some(text.lines().filter_map(inode).collect())
    }
}

impl Socket {
    fn ask(&mut self, inode: u64, fd: i32, duplicate: Duplicate<'_>) {
        let Some(socket) = duplicate_of(inode, fd, duplicate) else { return };
        let named = |address: &Address| event::address(address).is_some();
        let peer = sys::peer_name(socket.as_fd()).map(|name| name.address());
        self.asked = true;
        self.settled = peer.is_ok();
        let own = || sys::local_name(socket.as_fd()).ok().map(|name| name.address()).filter(named);
        self.address = peer.ok().filter(named).or_else(own);
        self.path = self.address.as_ref().and_then(event::address).map(Into::into);
    }

    fn record(&self, kind: Kind) -> Record {
        let mut record = Record::now(kind, self.who.clone());
        record.fd = Some(self.fd);
        record.path.clone_from(&self.path);
        if kind != Kind::Listen {
            record.conn_id.clone_from(&self.connection);
        }
        record.family = self.kind.family.name();
        record.socket_type = self.kind.kind.name();
        record
    }
}

/// A duplicate, if it is still this socket's.
fn duplicate_of(inode: u64, fd: i32, duplicate: Duplicate<'_>) -> Option<OwnedFd> {
    let socket = duplicate(fd).ok()?;
    (inode_of(socket.as_fd()) == Some(inode)).then_some(socket)
}

fn inode_of(fd: BorrowedFd<'_>) -> Option<u64> {
    fstat(fd).ok().map(|stat| stat.st_ino)
}

/// A number, and for people the last part of the name: nothing that could lead out of a directory.
pub(super) fn id(number: u64, address: Option<&Address>) -> String {
    let name = match address {
        Some(Address::Unix(UnixAddress::Path(path))) => {
            std::path::Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
        }
        Some(Address::Unix(UnixAddress::Abstract(name))) => Some(format!("@{}", String::from_utf8_lossy(name))),
        Some(address) if address.family() != Family::UNIX => event::address(address),
        _ => None,
    };
    let safe = |character: char| {
        if character.is_ascii_alphanumeric() || "-_.@+=,".contains(character) { character } else { '_' }
    };
    let label: String = name.unwrap_or_default().chars().map(safe).take(LABEL).collect();
    if label.is_empty() { number.to_string() } else { format!("{number}-{label}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::is_safe_id;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn book() -> Book {
        let wish = Wish {
            directory: "/".into(),
            families: Some(vec![Family::UNIX]),
            paths: None,
            per_event: 1,
            total: 1,
            descriptors: 1,
        };
        Book::new(Arc::new(wish)).unwrap()
    }

    #[test]
    fn ids_are_safe_whatever_a_program_binds() {
        let path = |bytes: &[u8]| {
            use std::os::unix::ffi::OsStrExt;
            Address::Unix(UnixAddress::Path(std::ffi::OsStr::from_bytes(bytes).into()))
        };
        let abstracts = |bytes: &[u8]| Address::Unix(UnixAddress::Abstract(bytes.to_vec()));
        for address in [
            path(b"/run/../../etc/passwd"),
            path(b"/.."),
            path(b"/a/\xff\n\x1b[2J;rm -rf"),
            path(b"/x/.hidden"),
            path(&[b'x'; 108]),
            abstracts(b"../\0/\0x"),
            abstracts(&[]),
        ] {
            let id = id(7, Some(&address));
            assert!(is_safe_id(&id) && id.starts_with('7'), "{id}");
        }
        assert_eq!(id(3, Some(&path(b"/run/x.sock"))), "3-x.sock");
        assert_eq!(id(4, None), "4");
    }

    #[test]
    fn a_socket_lasts_until_nobody_holds_it() {
        let book = book();
        let who = || Who { pid: Some(1), ..Who::default() };
        let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let inode = inode_of(one.as_fd()).unwrap();
        let (fd, copy) = (one.as_raw_fd(), one.try_clone().unwrap());
        let duplicate = |_: i32| copy.try_clone().map_err(|_| Errno::EMFILE);
        assert_eq!(book.enter(inode, fd, &who, &duplicate).unwrap().family, Family::UNIX);
        let (connection, open) = book.open(inode, fd, (None, false), &who, &duplicate).unwrap();
        assert!(open.is_some() && *connection.id == *"1");
        assert!(book.open(inode, fd, (None, false), &who, &duplicate).unwrap().1.is_none());
        book.leave(inode);
        drop(one);
        assert!(book.sweep().is_empty(), "a duplicate is left");
        book.close(inode, fd, Who { pid: Some(2), ..Who::default() });
        drop(copy);
        let closed = book.sweep();
        assert_eq!(closed.iter().map(|record| record.who.pid).collect::<Vec<_>>(), [Some(2)]);
        assert!(book.sweep().is_empty() && !book.is_open(inode));
        drop(other);
    }

    #[test]
    fn descriptors_that_are_others_meanwhile_are_not_taken() {
        let book = book();
        let null = || nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
        assert!(book.enter(42, 0, &Who::default, &|_| null()).is_none());
        assert!(book.sockets().by_inode.is_empty());
    }
}
