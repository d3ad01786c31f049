//! Performing a call on the tracee's behalf, on a duplicate of its socket, with the copy that was judged.
//!
//! What the kernel would do in the tracee it does here: the duplicate shares the open file description, so
//! that flags, peers and errors are those of the tracee's socket. What can't be performed without the
//! difference being seen is left to the kernel where nobody can change it meanwhile
//! ([`Tracee::is_alone`]):
//!
//! | what | performed | why not always |
//! | --- | --- | --- |
//! | IPv4, IPv6 and other families | always | |
//! | AF_UNIX connect and sends | where other threads could interfere | peers see the supervisor's process id (SO_PEERCRED, SCM_CREDENTIALS where it may not name the tracee) |
//! | netlink sends | where other threads could interfere | an unbound socket would get the supervisor's port id |

pub mod receive;
pub mod send;
pub mod sys;
pub mod unix_path;

use super::identity;
use super::interrupt::{Broken, Watcher};
use crate::operation::decode::Sockaddr;
use crate::operation::{Address, Family, SocketKind, SocketType};
use nix::errno::Errno;
use sockstrace_backend::{Outcome, Patience, Reply, Tracee};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use unix_path::Found;

/// A duplicate of the tracee's socket.
#[derive(Debug)]
pub struct Socket {
    /// Shares the tracee's open file description.
    pub duplicate: OwnedFd,
    /// What kind of socket it is.
    pub kind: SocketKind,
}

impl Socket {
    /// The socket behind the tracee's descriptor.
    ///
    /// # Errors
    /// EBADF and ENOTSOCK as the kernel's own; EPERM where the tracee is out of reach.
    pub fn of(tracee: &dyn Tracee, fd: i32) -> Result<Self, Errno> {
        let duplicate = tracee.duplicate(fd)?;
        let kind = sys::kind(duplicate.as_fd())?;
        Ok(Self { duplicate, kind })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.duplicate.as_fd()
    }
}

/// What performing gave: an answer, or the wish for more time with nothing done yet.
pub type Performed = Outcome;

/// The answer that gives `value`.
pub fn returned(value: i64) -> Performed {
    Outcome::Reply(Reply::Return(value))
}

/// The answer that fails with `errno`.
pub fn failed(errno: Errno) -> Performed {
    Outcome::Reply(Reply::Fail(errno))
}

fn finished(result: Result<(), Errno>) -> Performed {
    result.map_or_else(failed, |()| returned(0))
}

/// What is needed to perform: the thread in whose place, and how long it may take.
#[derive(Clone, Copy)]
pub struct Performer<'a> {
    /// Watches for signals while we block.
    pub watcher: &'a Watcher,
    /// In whose place.
    pub tracee: &'a dyn Tracee,
    /// Whether we may block.
    pub patience: Patience,
}

impl Performer<'_> {
    /// connect(2)
    pub fn connect(&self, socket: &Socket, address: &Sockaddr) -> Performed {
        // Only connections wait for an answer; a datagram socket just notes its peer.
        let may_block = !matches!(socket.kind.kind, SocketType::DGRAM | SocketType::RAW);
        if may_block && !sys::is_nonblocking(socket.fd()) {
            // What is begun and called again tells a timeout by another errno.
            if self.patience == Patience::AtOnce && !sys::has_send_timeout(socket.fd()) {
                // A connection that was begun goes on when connect is called again (`SS_CONNECTING`).
                let begun = self.watcher.briefly(|| sys::connect(socket.fd(), address.as_bytes()));
                return begun.map_or(Outcome::NeedsPatience, finished);
            }
            return self.blocking(socket, || sys::connect(socket.fd(), address.as_bytes()).map(|()| 0));
        }
        self.bind_netlink(socket);
        finished(sys::connect(socket.fd(), address.as_bytes()))
    }

    /// An unbound netlink socket gets the process id of whoever first sends as its port: the tracee's.
    fn bind_netlink(&self, socket: &Socket) {
        let local = || sys::local_name(socket.fd()).map(|name| name.address());
        if socket.kind.family != Family::NETLINK || !matches!(local(), Ok(Address::Netlink { port: 0, .. })) {
            return;
        }
        let mut address = [0; 12]; // struct sockaddr_nl: family, padding, port, groups
        let fields = [(Family::NETLINK.0 as u32).to_ne_bytes(), self.tracee.pid().as_raw().to_ne_bytes()];
        address.iter_mut().zip(fields.as_flattened()).for_each(|(to, from)| *to = *from);
        // Where that port is taken the kernel chooses another, as it would for the tracee.
        let _: Result<(), Errno> = sys::bind(socket.fd(), &address);
    }

    /// connect(2) of a UNIX socket to the file that was found for its path.
    pub fn connect_found(&self, socket: &Socket, found: &Found) -> Performed {
        let address = unix_address(found);
        self.blocking(socket, || {
            identity::as_tracee(self.tracee, || sys::connect(socket.fd(), address.as_bytes())).map(|()| 0)
        })
    }

    /// connect(2) of a UNIX socket to an abstract name.
    pub fn connect_abstract(&self, socket: &Socket, address: &Sockaddr) -> Performed {
        self.blocking(socket, || {
            identity::as_tracee(self.tracee, || sys::connect(socket.fd(), address.as_bytes())).map(|()| 0)
        })
    }

    /// bind(2) of an internet socket.
    pub fn bind(&self, socket: &Socket, address: &Sockaddr) -> Performed {
        let bind = || sys::bind(socket.fd(), address.as_bytes());
        // Ports below 1024 need a capability that the tracee may lack.
        let privileged = identity::may_bind_any_port(self.tracee);
        let result = if privileged { bind() } else { identity::as_tracee(self.tracee, bind) };
        finished(result)
    }

    /// bind(2) of a UNIX socket: the file appears where, and as whose, the tracee would make it.
    pub fn bind_path(&self, socket: &Socket, address: &Sockaddr) -> Performed {
        if self.patience == Patience::AtOnce {
            return Outcome::NeedsPatience;
        }
        finished(unix_path::in_place_of(self.tracee, || sys::bind(socket.fd(), address.as_bytes())))
    }

    /// listen(2)
    pub fn listen(&self, socket: &Socket, backlog: i32) -> Performed {
        finished(sys::listen(socket.fd(), backlog))
    }

    /// setsockopt(2)
    pub fn set_option(&self, socket: &Socket, level: i32, name: i32, value: &[u8]) -> Performed {
        let set = || sys::set_option(socket.fd(), level, name, value);
        finished(identity::with_rights_of(self.tracee, set))
    }

    /// setsockopt(2) with a value that can't be read.
    pub fn set_unreadable_option(&self, socket: &Socket, level: i32, name: i32, length: i32) -> Performed {
        finished(sys::set_unreadable_option(socket.fd(), level, name, length))
    }

    /// Performs what may block. Signals for the tracee interrupt it as they would interrupt the tracee.
    fn blocking(&self, socket: &Socket, call: impl FnMut() -> Result<i64, Errno>) -> Performed {
        if self.patience == Patience::AtOnce {
            return Outcome::NeedsPatience;
        }
        match self.watcher.run(self.tracee, call) {
            Ok(value) => returned(value),
            Err(Broken::Failed(errno)) => failed(errno),
            Err(Broken::Interrupted) => interrupted(socket),
        }
    }
}

/// `sock_intr_errno`: with a timeout set, an interrupted call isn't restarted.
pub fn interrupted(socket: &Socket) -> Performed {
    if sys::has_send_timeout(socket.fd()) { failed(Errno::EINTR) } else { Outcome::Reply(Reply::Restart) }
}

/// The address through which a found socket file is reached.
fn unix_address(found: &Found) -> Sockaddr {
    let mut bytes = (Family::UNIX.0 as u16).to_ne_bytes().to_vec();
    bytes.extend(std::ffi::OsStr::new(&found.own_path()).as_bytes());
    bytes.push(0);
    Sockaddr::from_bytes(&bytes)
}
