//! `--on-leak redirect`: what is made through the proxy, and what the program sees of it afterwards.
//!
//! Calls that only look at a socket are answered by us where it was redirected, and left to the kernel for
//! all others; no event is written for them.

use super::{Pipeline, Scene, Subject};
use crate::action::perform::{Performed, Socket, failed, returned, sys};
use crate::config::{Config, OnLeak};
use crate::event::Action;
use crate::operation::address::Address;
use crate::operation::decode::{Arguments, Message, Sockaddr};
use crate::operation::interest::SO_PEERNAME;
use crate::operation::layout::{self, Unreadable};
use crate::operation::{Family, Operation, SocketType};
use crate::policy::Verdict;
use crate::proxy::isolation::Isolation;
use crate::redirect::{Redirected, Redirector};
use crate::relay::Unfit;
use nix::errno::Errno;
use sockstrace_backend::{Abi, Outcome, Patience, Reply};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

const CONTINUE: Outcome = Outcome::Reply(Reply::Continue);

/// Whether connections are made by way of us.
pub(crate) fn lands_connections(config: &Config) -> bool {
    config.on_leak == OnLeak::Redirect || config.handshake.is_some() || config.isolate
}

/// What makes them, where there are any.
pub(super) fn redirector(config: &Config, isolation: &Arc<Isolation>) -> Result<Option<Redirector>, Errno> {
    if !lands_connections(config) {
        return Ok(None);
    }
    let hides_addresses = config.policy.judges_disclosure() || config.isolate;
    Redirector::new(config.policy.first_proxy().cloned(), Arc::clone(isolation), hides_addresses).map(Some)
}

/// Who hands out credentials for the first proxy.
pub(super) fn isolation(config: &Config) -> Arc<Isolation> {
    let own = config.policy.first_proxy().and_then(|proxy| proxy.credentials().cloned());
    Arc::new(Isolation::new(config.isolate_by, config.isolate_format, own))
}

/// Why most calls can't be redirected.
pub(super) fn nothing_to_redirect() -> Unfit {
    Unfit("only connections and datagrams can be".into())
}

fn diverted_in_kernel() -> Unfit {
    Unfit("only TCP connections can be by programs in the kernel".into())
}

impl Pipeline {
    /// Waits until what redirected connections still hold is delivered.
    pub fn settle(&self) {
        if let Some(redirector) = &self.redirector {
            redirector.relay.reactor.settle();
        }
        if let Some(datagrams) = &self.datagrams {
            datagrams.settle();
        }
    }
}

impl Scene<'_> {
    /// A leak that is to be made through the proxy; blocked where that can't be.
    pub(super) fn redirect(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        redirect: impl FnOnce() -> Result<Redirected, Unfit>,
    ) -> Outcome {
        let redirected = if self.is_diverted_in_kernel() { Err(diverted_in_kernel()) } else { redirect() };
        match redirected {
            Ok(Redirected { performed, repeats }) => {
                if let Outcome::Reply(reply) = &performed
                    && !repeats
                {
                    let note = self.name_meant(operation).map(|name| format!("asked of the proxy as {name}"));
                    self.record(subject, operation, verdict, Action::Redirect, reply, note);
                }
                performed
            }
            Err(Unfit(why)) => self.act(subject, operation, verdict, Some(format!("not redirected: {why}"))),
        }
    }

    /// A connection by way of us: through the proxy; or to one, past the judge of handshakes; or out of isolation.
    pub(super) fn redirect_connect(
        &self,
        fd: i32,
        socket: &Socket,
        address: &Sockaddr,
    ) -> Result<Redirected, Unfit> {
        match (&self.pipeline.redirector, address.address()) {
            (Some(redirector), Address::Internet(proxy)) if self.inspects(proxy) => {
                let named = Address::Internet(proxy);
                let examiner = || self.examiner(fd, &socket.kind, &named);
                redirector.pass(&self.performer(), socket, proxy, Some(&examiner))
            }
            (Some(redirector), Address::Internet(allowed)) if self.lies_outside(allowed) => {
                redirector.pass(&self.performer(), socket, allowed, None)
            }
            (Some(redirector), Address::Internet(destination)) => {
                redirector.connect(&self.performer(), socket, destination, &self.asked_for(destination)?)
            }
            _ => Err(nothing_to_redirect()),
        }
    }

    /// A message that would connect first (`MSG_FASTOPEN`); whatever else is sent can't be redirected.
    pub(super) fn redirect_send(
        &self,
        fd: i32,
        socket: &Socket,
        message: &Message,
        abi: Abi,
    ) -> Result<Redirected, Unfit> {
        let Some(name) = &message.name else { return Err(nothing_to_redirect()) };
        if socket.kind.kind != SocketType::STREAM || message.flags & libc::MSG_FASTOPEN == 0 {
            return Err(nothing_to_redirect());
        }
        if message.flags & libc::MSG_DONTWAIT != 0 && !sys::is_nonblocking(socket.duplicate.as_fd()) {
            return Err(Unfit("MSG_FASTOPEN with MSG_DONTWAIT on a blocking socket".into()));
        }
        if self.patience == Patience::AtOnce && !sys::is_nonblocking(socket.duplicate.as_fd()) {
            // Half of it done can't be handed on to somebody with more time.
            return Ok(Redirected::now(Outcome::NeedsPatience));
        }
        let connected = self.redirect_connect(fd, socket, name)?;
        Ok(match connected.performed {
            Outcome::Reply(Reply::Return(_)) => {
                let data = Message { name: None, flags: message.flags & !libc::MSG_FASTOPEN, ..message.clone() };
                let performed = self.performer().send(socket, &data, abi, None);
                Redirected { performed, ..connected }
            }
            _ => connected,
        })
    }

    /// Performs an allowed connect; an error of an earlier redirected one, which the kernel would tell now, is
    /// told as it was.
    pub(super) fn told(&self, socket: &Socket, connect: impl FnOnce() -> Performed) -> Performed {
        let Some(redirector) = &self.pipeline.redirector else { return connect() };
        let known = redirector.relay.book.find(socket.duplicate.as_fd());
        match connect() {
            Outcome::Reply(Reply::Fail(errno)) => failed(redirector.told(known.as_ref(), errno)),
            other => other,
        }
    }

    /// getpeername(2) of a socket that was redirected; `None` for all others.
    pub(super) fn redirected_peer(&self, call: &Arguments) -> Option<Outcome> {
        self.seen_peer(call).map(|name| self.answer_name(call, Some(name)))
    }

    fn seen_peer(&self, call: &Arguments) -> Option<Sockaddr> {
        self.seen_by(call, |redirector, socket| {
            let fd = socket.duplicate.as_fd();
            if socket.kind.family == Family::UNIX {
                return redirector.peers.of(fd);
            }
            let named = internet(&sys::peer_name(fd).ok()?)?;
            let peer = redirector.peer(fd, named)?;
            Some(Sockaddr::for_internet(peer, socket.kind.family))
        })
    }

    /// getsockname(2)
    pub(super) fn getsockname(&self, call: &Arguments) -> Outcome {
        let seen = self.seen_by(call, |redirector, socket| {
            let named = internet(&sys::local_name(socket.duplicate.as_fd()).ok()?)?;
            let local = match self.datagram_peer(socket) {
                Some(destination) => redirector.local_of_datagrams(destination, named),
                None => redirector.local(socket.duplicate.as_fd(), named),
            }?;
            Some(Sockaddr::for_internet(local, socket.kind.family))
        });
        self.answer_name(call, seen)
    }

    /// What the program is to see instead of the kernel's answer, in the layout of its socket.
    fn seen_by(
        &self,
        call: &Arguments,
        see: impl FnOnce(&Redirector, &Socket) -> Option<Sockaddr>,
    ) -> Option<Sockaddr> {
        let redirector = self.pipeline.redirector.as_ref()?;
        let socket = Socket::of(self.tracee, call.int(0)).ok()?;
        see(redirector, &socket)
    }

    fn answer_name(&self, call: &Arguments, name: Option<Sockaddr>) -> Outcome {
        let Some(name) = name else { return CONTINUE };
        self.write_address(&name, call.arg(1), call.arg(2)).map_or_else(|outcome| outcome, |()| returned(0))
    }

    /// getsockopt(2) of `SO_ERROR` and `SO_PEERNAME`: net/core/sock.c, `sk_getsockopt`.
    pub(super) fn getsockopt(&self, call: &Arguments) -> Outcome {
        let (level, option) = (call.int(1), call.int(2));
        let Some(redirector) = self.pipeline.redirector.as_ref().filter(|_| level == libc::SOL_SOCKET) else {
            return CONTINUE;
        };
        if option == SO_PEERNAME {
            return self.peer_option(call);
        }
        let Ok(socket) = Socket::of(self.tracee, call.int(0)) else { return CONTINUE };
        let fd = socket.duplicate.as_fd();
        if option != libc::SO_ERROR || !redirector.has_error(fd) {
            return CONTINUE;
        }
        let written = self.room(call.arg(4)).and_then(|room| {
            // The error is gone once it is read: nothing may fail for want of time behind it.
            if self.patience == Patience::AtOnce && self.peek(call.arg(3)).is_err() {
                return Err(Outcome::NeedsPatience);
            }
            let errno = match redirector.take_error(fd) {
                Some(Err(errno)) => errno as i32,
                Some(Ok(())) | None => 0,
            };
            let value = errno.to_ne_bytes();
            let room = room.min(value.len());
            self.put(call.arg(3), value.get(..room).unwrap_or_default())?;
            self.put(call.arg(4), &(room as u32).to_ne_bytes())
        });
        written.map_or_else(|outcome| outcome, |()| returned(0))
    }

    fn peer_option(&self, call: &Arguments) -> Outcome {
        let Some(name) = self.seen_peer(call) else { return CONTINUE };
        let written = self.room(call.arg(4)).and_then(|room| {
            let bytes = name.as_bytes().get(..room).ok_or_else(|| failed(Errno::EINVAL))?;
            self.put(call.arg(3), bytes)?;
            self.put(call.arg(4), &(room as u32).to_ne_bytes())
        });
        written.map_or_else(|outcome| outcome, |()| returned(0))
    }

    /// The `int` by which the program says how much room it has.
    fn room(&self, address: u64) -> Result<usize, Outcome> {
        let mut bytes = [0; 4];
        layout::copy(self.tracee, address, &mut bytes).map_err(|error| match error {
            Unreadable::WouldBlock if self.patience == Patience::AtOnce => Outcome::NeedsPatience,
            Unreadable::Gone => failed(Errno::ESRCH),
            // Out of reach: then the socket was too.
            _ => failed(Errno::EFAULT),
        })?;
        usize::try_from(i32::from_ne_bytes(bytes)).map_err(|_| failed(Errno::EINVAL))
    }

    fn peek(&self, address: u64) -> Result<(), Unreadable> {
        match layout::copy(self.tracee, address, &mut [0]) {
            Err(Unreadable::WouldBlock) => Err(Unreadable::WouldBlock),
            // Writing will say what is wrong.
            _ => Ok(()),
        }
    }
}

fn internet(name: &Sockaddr) -> Option<SocketAddr> {
    match name.address() {
        Address::Internet(address) => Some(address),
        _ => None,
    }
}
