//! Receiving a datagram on the tracee's behalf.

use super::{Performer, Socket, sys};
use crate::action::interrupt::Broken;
use crate::operation::decode::{MSG_CMSG_COMPAT, Sockaddr};
use nix::errno::Errno;
use sockstrace_backend::Patience;

/// No datagram is longer, with UDP_GRO neither.
const LONGEST_DATAGRAM: usize = 1 << 17;

/// The kernel gives far less control data.
const LONGEST_CONTROL: usize = 1 << 16;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Room for the payload, in bytes.
    pub room: usize,
    /// Room for control messages, in bytes.
    pub control: usize,
    /// The flags of the call.
    pub flags: i32,
}

/// A datagram.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// As much of it as there is room for.
    pub payload: Vec<u8>,
    /// What the call returns: with `MSG_TRUNC` the length on the wire.
    pub length: usize,
    /// Where it comes from.
    pub source: Option<Sockaddr>,
    /// Control messages, native.
    pub control: Vec<u8>,
    /// `msg_flags`
    pub flags: i32,
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreceived {
    /// The call fails.
    Failed(Errno),
    /// A signal for the tracee interrupted it.
    Interrupted,
    /// Nothing was done yet; with time it can be.
    NeedsPatience,
}

impl Performer<'_> {
    /// recvmsg(2), for one datagram.
    ///
    /// # Errors
    /// Where there is none.
    pub fn receive(&self, socket: &Socket, wanted: &Wanted) -> Result<Received, Unreceived> {
        let flags = wanted.flags & !MSG_CMSG_COMPAT;
        let nonblocking = flags & libc::MSG_DONTWAIT != 0 || sys::is_nonblocking(socket.fd());
        if self.patience == Patience::AtOnce {
            // What is taken must be written to memory, which may take time: look first, without taking. The error
            // queue can't be looked at (`ip_recv_error` knows no MSG_PEEK).
            if flags & libc::MSG_ERRQUEUE != 0 {
                return Err(Unreceived::NeedsPatience);
            }
            return Err(match sys::receive(socket.fd(), 0, 0, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) if nonblocking => Unreceived::Failed(Errno::EAGAIN),
                Ok(_) | Err(Errno::EAGAIN) => Unreceived::NeedsPatience,
                // An error that was waiting, and is told once.
                Err(errno) => Unreceived::Failed(errno),
            });
        }
        let (room, control) = (wanted.room.min(LONGEST_DATAGRAM), wanted.control.min(LONGEST_CONTROL));
        let once = |flags| sys::receive(socket.fd(), room, control, flags);
        match once(flags | libc::MSG_DONTWAIT) {
            // The error queue never blocks.
            Err(Errno::EAGAIN) if !nonblocking && flags & libc::MSG_ERRQUEUE == 0 => {}
            other => return other.map_err(Unreceived::Failed),
        }
        self.watcher.run(self.tracee, || once(flags)).map_err(|broken| match broken {
            Broken::Failed(errno) => Unreceived::Failed(errno),
            // With a timeout set, an interrupted call isn't restarted (`sock_intr_errno`).
            Broken::Interrupted if sys::has_receive_timeout(socket.fd()) => Unreceived::Failed(Errno::EINTR),
            Broken::Interrupted => Unreceived::Interrupted,
        })
    }
}
