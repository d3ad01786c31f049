//! A connection of a UNIX socket by way of us.
//!
//! The way on is made first, so that what it meets is the program's own; then the program's socket is connected
//! to one of ours. That is listened on at a file in a directory which nobody else may enter, and both are gone
//! before the program's call returns. The peer's name is told as that of the other end ([`Peers`]).
//!
//! What can still be seen: `SO_PEERCRED` names sockstrace, with the program's ids to the other end; descriptors
//! (`SCM_RIGHTS`) don't get through; where a connection over TCP would be reset, this one ends.

use crate::action::identity::as_tracee;
use crate::action::interrupt::Broken;
use crate::action::perform::unix_path::Found;
use crate::action::perform::{Performer, Socket, failed, interrupted, returned, sys as calls};
use crate::operation::decode::Sockaddr;
use crate::relay::{Actor, Unfit, sys};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, mkdtemp, unlinkat};
use sockstrace_backend::Patience;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Redirected;

/// Sockets whose peers are remembered; beyond that the oldest are forgotten.
const REMEMBERED: usize = 16_384;

/// Whom the program is to see as the peers of its UNIX sockets.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    names: HashMap<u64, Sockaddr>,
    order: VecDeque<u64>,
}

impl Peers {
    /// The peer of a socket (a duplicate will do); `None` where the kernel names the right one.
    #[must_use]
    pub fn of(&self, socket: BorrowedFd<'_>) -> Option<Sockaddr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.names.is_empty() {
            return None;
        }
        known.names.get(&sys::cookie(socket).ok()?).copied()
    }

    fn note(&self, socket: BorrowedFd<'_>, name: Sockaddr) {
        let Ok(cookie) = sys::cookie(socket) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.names.insert(cookie, name).is_none() {
            known.order.push_back(cookie);
        }
        while known.order.len() > REMEMBERED {
            let Some(oldest) = known.order.pop_front() else { break };
            known.names.remove(&oldest);
        }
    }
}

/// connect(2) of the program's socket to the file `found`, by way of us. `join` gets our end of the program's
/// connection, and the way on, both non-blocking.
///
/// # Errors
/// Why it can't be had; nothing was done.
pub fn pass(
    performer: &Performer<'_>,
    socket: &Socket,
    found: &Found,
    peers: &Peers,
    join: impl FnOnce(OwnedFd, OwnedFd) -> Result<Box<dyn Actor>, Unfit>,
    spawn: impl FnOnce(Box<dyn Actor>) -> Result<(), Errno>,
) -> Result<Redirected, Unfit> {
    if performer.patience == Patience::AtOnce {
        return Ok(Redirected::now(sockstrace_backend::Outcome::NeedsPatience));
    }
    let theirs = socket.duplicate.as_fd();
    if calls::peer_name(theirs).is_ok() || calls::is_listening(theirs) {
        // The kernel refuses it, and it stays so.
        return Ok(Redirected::now(performer.connect_found(socket, found)));
    }
    let nonblocking = calls::is_nonblocking(theirs);
    let onward = new_socket(nonblocking).map_err(no_descriptors)?;
    let address = address(&found.own_path()).map_err(no_descriptors)?;
    let reach = || as_tracee(performer.tracee, || connect(onward.as_raw_fd(), &address));
    match performer.watcher.run(performer.tracee, reach) {
        Ok(()) => {}
        Err(Broken::Failed(errno)) => return Ok(Redirected::now(failed(errno))),
        Err(Broken::Interrupted) => return Ok(Redirected::now(interrupted(socket))),
    }
    fcntl(&onward, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_descriptors)?;
    let name = calls::peer_name(onward.as_fd());
    let own = match meet(theirs) {
        Ok(Ok(own)) => own,
        Ok(Err(errno)) => return Ok(Redirected::now(failed(errno))),
        Err(errno) => return Err(Unfit(format!("no socket of ours can be made for it: {}", errno.desc()))),
    };
    if let Ok(name) = name {
        peers.note(theirs, name);
    }
    let actor = join(own, onward)?;
    // The connection stands: without a thread it ends at once.
    let _: Result<(), Errno> = spawn(actor);
    Ok(Redirected::now(returned(0)))
}

fn no_descriptors(errno: Errno) -> Unfit {
    Unfit(format!("sockstrace can't make a socket: {}", errno.desc()))
}

fn new_socket(nonblocking: bool) -> Result<OwnedFd, Errno> {
    let mut flags = SockFlag::SOCK_CLOEXEC;
    flags.set(SockFlag::SOCK_NONBLOCK, nonblocking);
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn address(path: &str) -> Result<UnixAddr, Errno> {
    UnixAddr::new(path)
}

/// Connects `theirs` to a socket of ours, and returns our end. The inner error is connect(2)'s own.
fn meet(theirs: BorrowedFd<'_>) -> Result<Result<OwnedFd, Errno>, Errno> {
    const NAME: &str = "s";
    let listener = new_socket(true)?;
    let directory = private_directory()?;
    let held = open(&directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let file = held.as_ref().map_err(|errno| *errno).and_then(|held| {
        // Short, wherever the directory is.
        bind(listener.as_raw_fd(), &address(&format!("/proc/self/fd/{}/{NAME}", held.as_raw_fd()))?)?;
        let file = openat(held, NAME, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        unlinkat(held, NAME, UnlinkatFlags::NoRemoveDir)?;
        file
    });
    // Whatever failed, nothing stays behind.
    let removed = std::fs::remove_dir(&directory);
    let file = file?;
    removed.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    listen(&listener, Backlog::new(1)?)?;
    if let Err(errno) = connect(theirs.as_raw_fd(), &address(&format!("/proc/self/fd/{}", file.as_raw_fd()))?) {
        return Ok(Err(errno));
    }
    let own = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Ok(unsafe { OwnedFd::from_raw_fd(own) }))
}

/// A new directory that only we may enter.
fn private_directory() -> Result<PathBuf, Errno> {
    let make = |parent: PathBuf| mkdtemp(&parent.join("sockstrace-XXXXXX"));
    make(std::env::temp_dir()).or_else(|errno| make("/dev/shm".into()).map_err(|_| errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_meets_us_and_nothing_stays_behind() {
        let theirs = new_socket(false).unwrap();
        let own = meet(theirs.as_fd()).unwrap().unwrap();
        let (mut theirs, mut own) = (UnixStream::from(theirs), UnixStream::from(own));
        own.set_nonblocking(false).unwrap();
        theirs.write_all(b"word").unwrap();
        let mut word = [0; 4];
        own.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"word");
        assert_eq!(meet(theirs.as_fd()).unwrap().unwrap_err(), Errno::EISCONN);
        let prefix = "sockstrace-";
        let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        let fresh = left.filter(|entry| entry.path().read_dir().is_ok_and(|mut list| list.next().is_none()));
        assert_eq!(fresh.count(), 0);
    }

    #[test]
    fn the_oldest_peers_are_forgotten() {
        let peers = Peers::default();
        let sockets: Vec<OwnedFd> = (0..3).map(|_| new_socket(true).unwrap()).collect();
        let name = Sockaddr::from_bytes(b"\x01\x00/run/proxy\0");
        assert!(peers.of(sockets[0].as_fd()).is_none());
        peers.note(sockets[0].as_fd(), name);
        assert!(peers.of(sockets[0].as_fd()).is_some() && peers.of(sockets[1].as_fd()).is_none());
    }
}
