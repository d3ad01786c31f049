//! Connections to where the program may go itself, by way of us: because somebody listens ([`super::inspect`]), or
//! because its network namespace has no other way out.

use super::dial::{Errand, Way, begin};
use super::inspect::{Examiner, Inspecting};
use super::{Redirected, Redirector, is_group, may_be_redirected, unix};
use crate::action::perform::unix_path::Found;
use crate::action::perform::{Performed, Performer, Socket, failed, returned, sys as calls};
use crate::operation::{Family, SocketType};
use crate::relay::{Actor, Door, Flow, Record, Stage, Unfit, sys};
use nix::errno::Errno;
use sockstrace_backend::Patience;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Makes somebody who listens, when a connection begins.
type Examiners<'a> = &'a dyn Fn() -> Result<Examiner, Unfit>;

impl Redirector {
    /// connect(2) to `destination` itself, by way of us. What `examiner` gives, when it is begun, listens.
    ///
    /// # Errors
    /// Why that can't be; nothing was done.
    pub fn pass(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        examiner: Option<Examiners<'_>>,
    ) -> Result<Redirected, Unfit> {
        let destination = reached(destination);
        let outside = sys::unmapped(destination);
        let begun = Cell::new(None);
        // Where it comes again, with more time, nothing is begun that will take some.
        let comes_again =
            performer.patience == Patience::AtOnce && !calls::is_nonblocking(socket.duplicate.as_fd());
        let now = !comes_again || sys::is_own(outside.ip(), sys::tcp_socket);
        if now && would_connect(socket, destination) {
            // What fails at once is told at once.
            let onward = match begin(outside) {
                Ok(onward) => onward,
                Err(errno) => return Ok(Redirected::now(failed(errno))),
            };
            // And what stands at once, as on loopback, needs no waiting.
            if sys::tcp_state(onward.as_fd()) == Ok(sys::ESTABLISHED) {
                match self.enter(performer, socket, destination, (onward, Vec::new()), examiner)? {
                    Ok(performed) => return Ok(Redirected::now(performed)),
                    Err((onward, _)) => begun.set(Some(onward)),
                }
            } else {
                begun.set(Some(onward));
            }
        }
        let errand = || {
            let way = begun.take().map_or(Way::Tcp(outside), Way::Begun);
            let errand = match examiner {
                Some(examiner) => Errand::Listen(Some(examiner()?)),
                None => Errand::Join(Vec::new()),
            };
            Ok((errand, vec![way]))
        };
        self.land(performer, socket, destination, &errand)
    }

    /// Connects the program's socket to us, now that the way on stands, and these bytes have come from there. `Err`
    /// gives that back: it has to be held, after all.
    pub(super) fn enter(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        (onward, early): (OwnedFd, Vec<u8>),
        examiner: Option<Examiners<'_>>,
    ) -> Result<Result<Performed, (OwnedFd, Vec<u8>)>, Unfit> {
        let fd = socket.duplicate.as_fd();
        let held = self.hold(socket, destination)?;
        let Ok(door) = Door::beside(&held) else { return Ok(Err((onward, early))) };
        let Ok(cookie) = sys::cookie(fd) else { return Ok(Err((onward, early))) };
        let examiner = examiner.map(|examiner| examiner()).transpose()?;
        let record = Record::new(cookie, destination, door.address());
        record.change(Stage::Connected, || self.relay.book.enter(&record));
        let connected = if calls::is_nonblocking(fd) {
            Some(sys::connect_to(fd, door.address()))
        } else {
            performer.watcher.briefly(|| sys::connect_to(fd, door.address()))
        };
        let performed = match connected {
            Some(Err(Errno::EINPROGRESS)) => failed(Errno::EINPROGRESS),
            Some(Err(errno)) => {
                self.relay.book.forget(&record);
                return Ok(Ok(failed(errno)));
            }
            Some(Ok(())) | None => returned(0),
        };
        let Ok(own) = door.let_in(fd) else {
            self.relay.book.forget(&record);
            let _: Result<(), Errno> = sys::disconnect(fd);
            return Ok(Err((onward, early)));
        };
        let book = Arc::clone(&self.relay.book);
        let on_end = Box::new(move || book.end(&record));
        let actor: Box<dyn Actor> = match examiner {
            Some(examiner) => Box::new(Inspecting::new(own, onward, examiner, on_end)),
            None => Box::new(Flow::new(own, onward, early, on_end)),
        };
        // The connection stands: without a thread it ends at once.
        let _: Result<(), Errno> = self.relay.reactor.spawn(actor);
        Ok(Ok(performed))
    }

    /// connect(2) of a UNIX socket to a proxy's file, by way of us, while `examiner` listens.
    ///
    /// # Errors
    /// Why that can't be; nothing was done.
    pub fn pass_unix(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        found: &Found,
        examiner: Examiners<'_>,
    ) -> Result<Redirected, Unfit> {
        if socket.kind.kind != SocketType::STREAM {
            // A proxy's socket is of another type: the kernel says so.
            return Ok(Redirected::now(performer.connect_found(socket, found)));
        }
        let join = |own, onward| -> Result<Box<dyn Actor>, Unfit> {
            Ok(Box::new(Inspecting::new(own, onward, examiner()?, Box::new(|| {}))))
        };
        unix::pass(performer, socket, found, &self.peers, join, |actor| self.relay.reactor.spawn(actor))
    }
}

/// Whether connect(2) would begin a connection: what else stands in its way is for the kernel to tell.
pub(super) fn would_connect(socket: &Socket, destination: SocketAddr) -> bool {
    let fits = (socket.kind.family == Family::INET) == destination.is_ipv4();
    fits && may_be_redirected(&socket.kind).is_ok()
        && !is_group(destination.ip())
        && sys::tcp_state(socket.duplicate.as_fd()) == Ok(sys::CLOSE)
}

/// The unspecified address is this host (`ip_route_output_key_hash_rcu`).
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !sys::is_unspecified(ip) => ip,
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
