//! Calls of a program that is isolated: the way out for what is allowed, and no way around the namespace.

use super::{Pipeline, Scene, Subject};
use crate::action::interrupt::Broken;
use crate::action::perform::{Performed, failed, sys};
use crate::isolate::{AT_ONCE, Admission, Isolation, wait_for};
use crate::operation::{Address, Family, Operation, SocketKind, SocketType};
use nix::errno::Errno;
use sockstrace_backend::{Outcome, Patience, Reply};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

impl Pipeline {
    /// PROGRAM will be isolated. To be called before it starts.
    ///
    /// # Errors
    /// Where there are no sockets to be had inside.
    pub fn isolate(&mut self, isolation: Isolation) -> Result<(), Errno> {
        if let Some(dns) = &mut self.dns {
            dns.live_in(isolation.socket_source());
        }
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.live_in(isolation.socket_source());
        }
        if let Some(redirector) = &self.redirector {
            redirector.relay.add_ground(isolation.sockets())?;
        }
        self.isolation = Some(isolation);
        Ok(())
    }

    /// Whether a leak gets nowhere even if it is let go, so that `--on-leak log` may do that.
    pub(super) fn is_held(&self, operation: &Operation, socket: Option<&SocketKind>) -> bool {
        if self.isolation.is_none() {
            return true;
        }
        let family = socket.map(|socket| socket.family);
        match operation {
            // Its rings would carry UNIX connections, too.
            Operation::IoUring | Operation::Undecidable { .. } => false,
            // From whoever is outside of the user namespace the kernel gives nothing.
            Operation::TakeDescriptor | Operation::AttachTun | Operation::ShowNetwork { .. } => true,
            _ => matches!(family, Some(Family::INET | Family::INET6 | Family::NETLINK | Family::PACKET)),
        }
    }
}

impl Scene<'_> {
    /// Makes the way for what is allowed to go to the outside. `None`: the call is to go on.
    pub(super) fn admit(&self, subject: Subject<'_>, operation: &Operation) -> Option<Performed> {
        let isolation = self.pipeline.isolation.as_ref()?;
        let (Operation::Connect { destination } | Operation::Send { destination: Some(destination), .. }) =
            operation
        else {
            return None;
        };
        let (Address::Internet(address), Some(kind), Some(socket)) =
            (destination, subject.socket, subject.duplicate)
        else {
            return None;
        };
        if !self.pipeline.config.policy.names(*address) {
            return None;
        }
        match kind.kind {
            SocketType::DGRAM => isolation.gates().admit_datagram(*address).err().map(failed),
            SocketType::STREAM => self.admit_stream(isolation, *address, socket),
            _ => None,
        }
    }

    fn admit_stream(
        &self,
        isolation: &Isolation,
        address: SocketAddr,
        socket: BorrowedFd<'_>,
    ) -> Option<Performed> {
        if sys::peer_name(socket).is_ok() {
            // EISCONN, or the data of a fast open that has had its answer.
            return None;
        }
        if self.patience == Patience::AtOnce {
            return Some(Outcome::NeedsPatience);
        }
        let time = sys::is_nonblocking(socket).then_some(AT_ONCE);
        let again = self.tracee.repeats().is_some();
        let admission = self
            .pipeline
            .watcher
            .run(self.tracee, || isolation.gates().admit_stream(address, again, |outside| wait_for(outside, time)));
        match admission {
            Ok(Admission::Granted) => None,
            Ok(Admission::Refused(errno)) | Err(Broken::Failed(errno)) => Some(failed(errno)),
            Err(Broken::Interrupted) if sys::has_send_timeout(socket) => Some(failed(Errno::EINTR)),
            Err(Broken::Interrupted) => Some(Outcome::Reply(Reply::Restart)),
        }
    }

    /// Whether it is about a UNIX socket that was bound inside.
    pub(super) fn is_own(&self, subject: Subject<'_>) -> bool {
        let (Some(isolation), Some(file)) = (&self.pipeline.isolation, subject.file) else { return false };
        file.identity().is_ok_and(|(device, inode)| isolation.is_own(device, inode))
    }

    /// Whether the kernel must not be left to it, though all else is only logged: what was judged must be what
    /// is done.
    pub(super) fn must_perform(&self, subject: Subject<'_>) -> bool {
        let unix = subject.socket.is_some_and(|socket| socket.family == Family::UNIX);
        unix && self.pipeline.isolation.is_some()
    }
}
