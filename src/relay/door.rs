//! Where a tracee's socket is connected to us at once, since the other side is there already: nothing has to be
//! held ([`super::ground`]).

use super::ground::Held;
use super::sys;
use nix::errno::Errno;
use nix::sys::socket::{Backlog, SockFlag, accept4, listen, setsockopt, sockopt};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Strangers who are turned away before the door is given up.
const STRANGERS: i32 = 16;

/// A listening socket for one connection.
#[derive(Debug)]
pub struct Door {
    listener: OwnedFd,
    address: SocketAddr,
}

impl Door {
    /// On the same loopback as the hole of a socket that is about to connect.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn beside(held: &Held) -> Result<Self, Errno> {
        let hole = sys::unmapped(held.hole());
        let listener = held.another(&hole)?;
        // Ports of connections that have ended will do.
        setsockopt(&listener, sockopt::ReuseAddr, &true)?;
        sys::bind_to(listener.as_fd(), SocketAddr::new(hole.ip(), 0))?;
        listen(&listener, Backlog::new(STRANGERS)?)?;
        let address = sys::local_address(listener.as_fd())?;
        let address = if held.hole().is_ipv6() { sys::mapped(address) } else { address };
        Ok(Self { listener, address })
    }

    /// Where it is, as the socket's family writes it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Our end (non-blocking) of the connection that `theirs` has made, and of no other.
    ///
    /// # Errors
    /// EAGAIN where it isn't there.
    pub fn let_in(self, theirs: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let theirs = sys::unmapped(sys::local_address(theirs)?);
        for _ in 0..=STRANGERS {
            let end = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
            // SAFETY: the kernel has just made this descriptor for us.
            let end = unsafe { OwnedFd::from_raw_fd(end) };
            if sys::peer_address(end.as_fd()).is_ok_and(|peer| peer == theirs) {
                return Ok(end);
            }
            sys::reset_on_close(end.as_fd());
        }
        Err(Errno::EAGAIN)
    }
}
