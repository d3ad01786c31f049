//! `--on-leak redirect`: what would leak is made through the first `--proxy`, to the very destination.
//!
//! | what leaks | what becomes of it |
//! | --- | --- |
//! | connect of a TCP socket, IPv4 or IPv6, blocking or not | redirected |
//! | `MSG_FASTOPEN` with a destination | the same, then the data, as at a first contact without a cookie |
//! | datagrams of a UDP socket, and its connect | sent by the proxy, where it relays datagrams: [`datagrams`] |
//! | MPTCP, SMC, SCTP, DCCP, UDP-Lite; whatever else isn't a connection | blocked: the event says why |
//!
//! The call returns what the proxy's answer means for connect(2) ([`crate::proxy::client`]), and the program's
//! socket is its own all the time: how that is done stands in [`crate::relay`]. A backend that judges in the kernel has
//! TCP connections wait by themselves, and tells us of them ([`Redirector::divert`]); all else it blocks.

mod brisk;
pub mod datagrams;
mod dial;
mod divert;
pub mod inspect;
mod pass;
pub mod unix;

use crate::action::interrupt::Broken;
use crate::action::perform::{Performed, Performer, Socket, failed, interrupted, returned, sys as calls};
use crate::operation::{Family, SocketKind, SocketType};
use crate::policy::Proxy;
use crate::proxy::client::{Command, Negotiation, Refusal, Target};
use crate::proxy::isolation::Isolation;
use crate::relay::{Held, Record, Relay, Stage, Unfit, Waiting, sys};
use brisk::{Asked, Conversation};
use dial::{Complain, Dialing, Errand, Way};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::{Outcome, Patience, Reply};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sends connections through a proxy.
pub struct Redirector {
    /// Where sockets land.
    pub relay: Relay,
    /// Peers of UNIX sockets.
    pub peers: unix::Peers,
    proxy: Option<Proxy>,
    isolation: Arc<Isolation>,
    complain: Complain,
    /// Whether the host's own addresses are to be kept from the program.
    hides_addresses: bool,
}

/// A blocking connect is tried with so many holes, each of which takes some 28,000 connections.
const HOLES: usize = 16;

/// What came of a call that was redirected.
#[derive(Debug)]
pub struct Redirected {
    /// The answer.
    pub performed: Performed,
    /// The same call came before, and was interrupted.
    pub repeats: bool,
}

impl Redirected {
    /// It came for the first time.
    #[must_use]
    pub fn now(performed: Performed) -> Self {
        Self { performed, repeats: false }
    }
}

impl Redirector {
    /// Through `proxy`, or, without one, to where programs may go themselves ([`Redirector::pass`]) alone. With `hides_addresses`, getsockname tells no address of the host.
    ///
    /// # Errors
    /// Where no socket can be made.
    pub fn new(proxy: Option<Proxy>, isolation: Arc<Isolation>, hides_addresses: bool) -> Result<Self, Errno> {
        let name = proxy.as_ref().map_or("", Proxy::text).to_owned();
        let told = AtomicBool::new(false);
        let complain = move |refusal: &Refusal| {
            // Once: it would be the same for each connection.
            if !told.swap(true, Ordering::Relaxed) {
                let _: std::io::Result<()> = writeln!(std::io::stderr(), "sockstrace: {name}: {}", refusal.why);
            }
        };
        let (relay, peers, complain) = (Relay::new()?, unix::Peers::default(), Arc::new(complain));
        Ok(Self { relay, peers, proxy, isolation, complain, hides_addresses })
    }

    /// connect(2) to `destination`, by way of the proxy, which is asked for `target`.
    ///
    /// # Errors
    /// Why it can't be redirected; nothing was done.
    pub fn connect(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        target: &Target,
    ) -> Result<Redirected, Unfit> {
        let errand = || {
            let proxy = self.proxy.as_ref().ok_or_else(|| Unfit("there is no proxy".into()))?;
            let negotiation = self.negotiation(proxy, performer.tracee.pid(), target)?;
            Ok((Errand::Ask(Conversation::new(negotiation)), Way::to(proxy.endpoint())))
        };
        self.land(performer, socket, destination, &errand)
    }

    fn land(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        errand: Errands<'_>,
    ) -> Result<Redirected, Unfit> {
        may_be_redirected(&socket.kind)?;
        if is_group(destination.ip()) {
            // `tcp_v4_connect`, `tcp_v6_connect`
            return Ok(Redirected::now(failed(Errno::ENETUNREACH)));
        }
        let known = self.relay.book.find(socket.duplicate.as_fd());
        if !calls::is_nonblocking(socket.duplicate.as_fd()) {
            return self.connect_blocking(performer, socket, destination, known, errand);
        }
        let mut held = self.hold(socket, destination)?;
        let errand = errand()?;
        match held.connect() {
            Err(Errno::EINPROGRESS) => {
                let record = self.record(&held, destination)?;
                self.dial(Box::new(held), &record, errand, true)?;
                Ok(Redirected::now(failed(Errno::EINPROGRESS)))
            }
            Err(errno) => Ok(Redirected::now(failed(self.told(known.as_ref(), errno)))),
            Ok(()) => Ok(Redirected::now(returned(0))),
        }
    }

    fn connect_blocking(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        mut known: Option<Arc<Record>>,
        errand: Errands<'_>,
    ) -> Result<Redirected, Unfit> {
        if performer.patience == Patience::AtOnce {
            return Ok(Redirected::now(Outcome::NeedsPatience));
        }
        let fd = socket.duplicate.as_fd();
        let repeats = known.as_ref().is_some_and(|record| record.interrupt(false));
        if let Some(record) = &known
            && let Stage::Refused(errno) = record.stage()
        {
            // An attempt that was interrupted, or ended for its caller by SO_SNDTIMEO, was refused since.
            self.relay.book.forget(record);
            if sys::take_error(fd).is_err() {
                // As connect(2) leaves the socket after an error.
                let _: Result<(), Errno> = sys::disconnect(fd);
                return Ok(Redirected { performed: failed(errno), repeats });
            }
            known = None;
        }
        let mut begun = None;
        if known.is_none() && pass::would_connect(socket, destination) {
            begun = match self.ask_at_once(performer, socket, destination, errand()?)? {
                Ok(performed) => return Ok(Redirected { performed, repeats }),
                Err(begun) => Some(begun),
            };
        }
        for _ in 0..HOLES {
            let mut held = self.hold(socket, destination)?;
            let record = if sys::tcp_state(fd) == Ok(sys::CLOSE) {
                let errand = begun.take().map_or_else(errand, Ok)?;
                let record = self.record(&held, destination)?;
                self.dial(Box::new(held), &record, errand, false)?;
                record
            } else {
                // It connects already, or has: the kernel says what that means.
                known.take().unwrap_or_else(|| Record::new(0, destination, held.hole()))
            };
            if let Some(performed) = self.wait(performer, socket, &record) {
                return Ok(Redirected { performed, repeats });
            }
            held = self.hold(socket, destination)?;
            if !held.move_on() {
                break;
            }
        }
        Ok(Redirected { performed: failed(Errno::EADDRNOTAVAIL), repeats })
    }

    /// Where the proxy answers at once. `Err`: it doesn't, and how to go on.
    fn ask_at_once(
        &self,
        performer: &Performer<'_>,
        socket: &Socket,
        destination: SocketAddr,
        (errand, ways): (Errand, Vec<Way>),
    ) -> Result<Result<Performed, (Errand, Vec<Way>)>, Unfit> {
        let through = match brisk::ask(errand, ways) {
            Asked::Through(onward, early) => (onward, early),
            Asked::Refused(refusal) => {
                if refusal.by_proxy_itself {
                    (self.complain)(&refusal);
                }
                return Ok(Ok(failed(refusal.errno)));
            }
            Asked::Later(errand, ways) => return Ok(Err((errand, ways))),
        };
        let entered = self.enter(performer, socket, destination, through, None)?;
        Ok(entered.map_err(|(onward, early)| (Errand::Join(early), vec![Way::Begun(onward)])))
    }

    /// Waits in connect(2), as the program's thread would; `None` where every port leads to this hole already.
    fn wait(&self, performer: &Performer<'_>, socket: &Socket, record: &Arc<Record>) -> Option<Performed> {
        let fd = socket.duplicate.as_fd();
        Some(match performer.watcher.run(performer.tracee, || sys::connect_to(fd, record.hole)) {
            Ok(()) => returned(0),
            Err(Broken::Interrupted) => {
                // It goes on, and may be waited for again.
                let outcome = interrupted(socket);
                record.interrupt(matches!(outcome, Outcome::Reply(Reply::Restart)));
                outcome
            }
            Err(Broken::Failed(errno @ (Errno::EINPROGRESS | Errno::EALREADY))) => failed(errno),
            Err(Broken::Failed(errno)) => {
                let stage = record.stage();
                record.cancel();
                self.relay.book.forget(record);
                match (stage, errno) {
                    (Stage::Refused(errno), _) => {
                        // What ended the attempt may have left an error of its own.
                        let _: Result<(), Errno> = sys::take_error(fd);
                        failed(errno)
                    }
                    (_, Errno::EADDRNOTAVAIL) => return None,
                    (_, errno) => failed(errno),
                }
            }
        })
    }

    fn hold(&self, socket: &Socket, destination: SocketAddr) -> Result<Held, Unfit> {
        let duplicate = socket.duplicate.try_clone();
        let duplicate = duplicate.map_err(|_| Unfit("sockstrace is out of descriptors".into()))?;
        self.relay.ground_of(duplicate.as_fd())?.hold(duplicate, destination)
    }

    fn record(&self, held: &Held, destination: SocketAddr) -> Result<Arc<Record>, Unfit> {
        let cookie = sys::cookie(held.socket());
        let cookie =
            cookie.map_err(|errno| Unfit(format!("the kernel doesn't number sockets: {}", errno.desc())))?;
        let record = Record::new(cookie, destination, held.hole());
        self.relay.book.enter(&record);
        Ok(record)
    }

    fn negotiation(&self, proxy: &Proxy, pid: Pid, target: &Target) -> Result<Negotiation, Unfit> {
        let credentials = self.isolation.credentials(Some(pid), Some(target));
        let credentials = credentials.map_err(|_| Unfit("there are no random bytes to be had".into()))?;
        let negotiation = Negotiation::new(proxy.scheme(), Command::Connect, target, credentials);
        negotiation.map_err(|refusal| Unfit(refusal.why))
    }

    /// Has somebody go that way.
    fn dial(
        &self,
        held: Box<dyn Waiting>,
        record: &Arc<Record>,
        errand: (Errand, Vec<Way>),
        nonblocking: bool,
    ) -> Result<(), Unfit> {
        let (book, complain) = (Arc::clone(&self.relay.book), Arc::clone(&self.complain));
        let dialing = Dialing::new(held, Arc::clone(record), book, nonblocking, errand, complain);
        // Without a thread it is dropped, and an attempt that was begun times out.
        self.relay.reactor.spawn(Box::new(dialing)).map_err(|errno| {
            record.cancel();
            Unfit(format!("sockstrace can't start a thread: {}", errno.desc()))
        })
    }

    /// The errno that is told for one that the kernel gives for a socket, once.
    #[must_use]
    pub fn told(&self, known: Option<&Arc<Record>>, errno: Errno) -> Errno {
        match (known.map(|record| (record, record.stage())), errno) {
            (Some((record, Stage::Refused(told))), Errno::ECONNREFUSED | Errno::ECONNRESET) => {
                self.relay.book.forget(record);
                told
            }
            _ => errno,
        }
    }

    /// Whether the error that waits on the socket may have to be told as another.
    #[must_use]
    pub fn has_error(&self, socket: BorrowedFd<'_>) -> bool {
        let record = self.relay.book.find(socket);
        record.is_some_and(|record| matches!(record.stage(), Stage::Refused(_)))
    }

    /// `SO_ERROR` of a redirected socket; `None` for any other. Reading it takes it away.
    #[must_use]
    pub fn take_error(&self, socket: BorrowedFd<'_>) -> Option<Result<(), Errno>> {
        let record = self.relay.book.find(socket)?;
        let Stage::Refused(told) = record.stage() else { return None };
        Some(sys::take_error(socket).map_err(|_| told))
    }

    /// Whom the program is to see as its peer, given whom the kernel names; `None` where that is right.
    #[must_use]
    pub fn peer(&self, socket: BorrowedFd<'_>, named: SocketAddr) -> Option<SocketAddr> {
        let record = self.relay.book.find(socket)?;
        (sys::unmapped(named) == sys::unmapped(record.hole)).then_some(record.destination)
    }

    /// What the program is to see as its own address; `None` where the kernel's answer is right. It is the
    /// address that routing would have chosen, unless the host's addresses are to be kept from it.
    #[must_use]
    pub fn local(&self, socket: BorrowedFd<'_>, named: SocketAddr) -> Option<SocketAddr> {
        self.local_of_datagrams(self.relay.book.find(socket)?.destination, named)
    }

    /// [`Redirector::local`] of a datagram socket that is connected to `destination`, for the program.
    #[must_use]
    pub fn local_of_datagrams(&self, destination: SocketAddr, named: SocketAddr) -> Option<SocketAddr> {
        let source = if self.shows(destination, named) { source_for(destination) } else { None };
        Some(SocketAddr::new(source?, named.port()))
    }

    /// Whether a socket that leads to `destination` is to show another address than this one that it has.
    fn shows(&self, destination: SocketAddr, own: SocketAddr) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        !self.hides_addresses && is_loopback(own) && !is_loopback(destination)
    }
}

/// Makes what is to be done, and the ways there, when an attempt begins.
type Errands<'a> = &'a dyn Fn() -> Result<(Errand, Vec<Way>), Unfit>;

/// The address from which a packet to `destination` would be sent. Nothing is sent for it.
#[must_use]
pub fn source_for(destination: SocketAddr) -> Option<IpAddr> {
    let destination = sys::unmapped(destination);
    let any: SocketAddr = if destination.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let probe = UdpSocket::bind(any).ok()?;
    probe.connect(destination).ok()?;
    probe.local_addr().ok().map(|address| address.ip())
}

fn is_group(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

/// Whether a socket of this kind can be redirected at all.
fn may_be_redirected(kind: &SocketKind) -> Result<(), Unfit> {
    let why = match (kind.family, kind.kind, kind.protocol) {
        (Family::INET | Family::INET6, SocketType::STREAM, 0 | libc::IPPROTO_TCP) => return Ok(()),
        (Family::INET | Family::INET6, SocketType::STREAM, libc::IPPROTO_MPTCP) => {
            "multipath TCP can't be held until the proxy has answered"
        }
        _ => "proxies take TCP and UDP only",
    };
    Err(Unfit(why.into()))
}

impl std::fmt::Debug for Redirector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redirector").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
