//! Calls of a program that is isolated: the way out for what is allowed, and no way around the namespace.

use super::{Pipeline, Scene, Subject};
use crate::action::perform::{Performed, failed};
use crate::event::Action;
use crate::isolate::Isolation;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType};
use crate::policy::Verdict;
use crate::redirect::Redirected;
use crate::relay::Unfit;
use nix::errno::Errno;
use sockstrace_backend::{Outcome, Reply};
use std::net::SocketAddr;

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
    /// Makes the way for datagrams that are allowed to go to the outside. `None`: the call is to go on.
    pub(super) fn admit(&self, subject: Subject<'_>, operation: &Operation) -> Option<Performed> {
        let isolation = self.pipeline.isolation.as_ref()?;
        let address = internet_destination(operation).filter(|address| self.lies_outside(*address))?;
        let datagrams = subject.socket.is_some_and(|socket| socket.kind == SocketType::DGRAM);
        if datagrams { isolation.gates().admit_datagram(address).err().map(failed) } else { None }
    }

    /// Whether it is an address outside that may be reached.
    pub(super) fn lies_outside(&self, address: SocketAddr) -> bool {
        self.pipeline.isolation.is_some() && self.pipeline.config.policy.names(address)
    }

    /// Whether it is a connection that is allowed to go to the outside.
    pub(super) fn leads_out(&self, subject: Subject<'_>, operation: &Operation) -> bool {
        let streams = subject.socket.is_some_and(|kind| kind.is_internet() && kind.kind == SocketType::STREAM);
        streams && internet_destination(operation).is_some_and(|address| self.lies_outside(address))
    }

    /// Has it made by us, unless it is for a server of the program's own.
    pub(super) fn let_out(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        land: impl FnOnce() -> Result<Redirected, Unfit>,
        perform: impl FnOnce() -> Performed,
    ) -> Outcome {
        let taken = match (&self.pipeline.isolation, internet_destination(operation)) {
            (Some(isolation), Some(address)) => isolation.gates().is_taken(address),
            _ => Ok(false),
        };
        match taken {
            Ok(false) => {}
            Ok(true) => return self.landed(subject, operation, verdict, Redirected::now(perform())),
            Err(errno) => return failed(errno),
        }
        match land() {
            Ok(landed) => self.landed(subject, operation, verdict, landed),
            Err(Unfit(why)) => {
                // As the kernel answers where nobody is.
                let reply = Reply::Fail(Errno::ECONNREFUSED);
                let note = Some(format!("it can't be let out of --isolate: {why}"));
                self.record(subject, operation, verdict, Action::Block, &reply, note);
                Outcome::Reply(reply)
            }
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
        unix && (self.pipeline.isolation.is_some() || self.pipeline.inspects_files())
    }
}

fn internet_destination(operation: &Operation) -> Option<SocketAddr> {
    match operation {
        Operation::Connect { destination: Address::Internet(address) }
        | Operation::Send { destination: Some(Address::Internet(address)), .. } => Some(*address),
        _ => None,
    }
}
