//! The sockets on loopback at which a program's queries arrive.
//!
//! Each resolver that is asked gets a socket of its own ([`Responders::stand_in`]), so that the address of
//! that socket alone tells for which resolver it stands: nothing is kept about the program's sockets, which
//! may be duplicated, passed on and inherited.

use super::STACK_BYTES;
use super::message::Query;
use super::service::{Readiness, Service};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

/// Resolvers that can be stood in for; each costs a socket and a thread.
const AT_MOST: usize = 256;

/// Queries that wait at a time. Who asks more gets no answer, and asks again.
const WAITING_AT_MOST: usize = 256;

/// TCP connections at a time, and how long one may be silent (RFC 7766, 6.2.3: a few seconds).
const CONNECTIONS_AT_MOST: usize = 256;
const SILENCE: Duration = Duration::from_secs(30);

/// How a query is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In datagrams.
    Udp,
    /// In a stream, each with its length before it.
    Tcp,
}

/// Makes sockets, by family and type, in the network namespace that the program is in.
pub type SocketSource = Box<dyn Fn(AddressFamily, SockType) -> Result<OwnedFd, Errno> + Send + Sync>;

/// The sockets.
pub struct Responders {
    service: Arc<Service>,
    source: SocketSource,
    table: RwLock<Table>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Table {
    by_resolver: HashMap<(SocketAddr, Transport), SocketAddr>,
    by_own: HashMap<(SocketAddr, Transport), SocketAddr>,
}

#[derive(Debug, Default)]
struct Load {
    waiting: AtomicUsize,
    connections: AtomicUsize,
}

/// One of a limited number of places; given back when dropped.
struct Place<'c>(&'c AtomicUsize);

impl<'c> Place<'c> {
    fn take(count: &'c AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::SeqCst) < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Responders {
    /// None are there yet.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        let source = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
        Self { service, source: Box::new(source), table: RwLock::default(), load: Arc::default() }
    }

    /// The program is in another network namespace.
    pub fn live_in(&mut self, source: SocketSource) {
        self.source = source;
    }

    /// A socket where the program's are.
    ///
    /// # Errors
    /// Where there can't be one.
    pub fn sample(&self) -> Result<OwnedFd, Errno> {
        (self.source)(AddressFamily::Inet, SockType::Datagram)
    }

    /// The address that stands for a resolver, made when it is first asked.
    ///
    /// # Errors
    /// Where no socket can be made, or there are too many resolvers.
    pub fn stand_in(&self, resolver: SocketAddr, transport: Transport) -> Result<SocketAddr, Errno> {
        let key = (canonical(resolver), transport);
        if let Some(own) = self.table.read().unwrap_or_else(PoisonError::into_inner).by_resolver.get(&key) {
            return Ok(*own);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = table.by_resolver.get(&key) {
            return Ok(*own);
        }
        if table.by_resolver.len() >= AT_MOST {
            return Err(Errno::ENFILE);
        }
        let own = self.start(key.0.is_ipv6(), transport)?;
        table.by_resolver.insert(key, own);
        table.by_own.insert((own, transport), key.0);
        Ok(own)
    }

    /// The resolver that an address of ours stands for.
    #[must_use]
    pub fn stands_for(&self, own: SocketAddr, transport: Transport) -> Option<SocketAddr> {
        if !own.ip().to_canonical().is_loopback() {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_own.get(&(canonical(own), transport)).copied()
    }

    fn start(&self, ipv6: bool, transport: Transport) -> Result<SocketAddr, Errno> {
        let four = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let kind = match transport {
            Transport::Udp => SockType::Datagram,
            Transport::Tcp => SockType::Stream,
        };
        let bound = |address: SocketAddr| {
            let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
            let socket = (self.source)(family, kind)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            Ok(socket)
        };
        let socket: Result<OwnedFd, Errno> = if ipv6 {
            // Where there is no ::1, an IPv6 socket reaches 127.0.0.1 by its mapped address.
            bound((Ipv6Addr::LOCALHOST, 0).into()).or_else(|_| bound(four))
        } else {
            bound(four)
        };
        let socket = socket?;
        let (service, load) = (Arc::clone(&self.service), Arc::clone(&self.load));
        let thread = thread::Builder::new().name("dns".into()).stack_size(STACK_BYTES);
        let errno = |error: io::Error| sockstrace_backend::filter::errno_of(&error);
        match transport {
            Transport::Udp => {
                let socket = Arc::new(UdpSocket::from(socket));
                let own = socket.local_addr().map_err(errno)?;
                thread.spawn(move || serve_datagrams(&service, &load, &socket)).map_err(errno)?;
                Ok(own)
            }
            Transport::Tcp => {
                listen(&socket, Backlog::MAXCONN)?;
                let listener = TcpListener::from(socket);
                let own = listener.local_addr().map_err(errno)?;
                thread.spawn(move || serve_connections(&service, &load, &listener)).map_err(errno)?;
                Ok(own)
            }
        }
    }
}

impl fmt::Debug for Responders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responders").field("table", &self.table).finish_non_exhaustive()
    }
}

/// An IPv4 address written in IPv6 is that IPv4 address; a flow label makes no difference.
fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(_), SocketAddr::V6(mut six)) => {
            six.set_flowinfo(0);
            six.into()
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// Answers by `reply`: at once, or from another thread.
fn answer(
    service: &Arc<Service>,
    load: &Arc<Load>,
    bytes: &[u8],
    reply: impl FnOnce(Option<&Query>, &[u8]) + Send + 'static,
) {
    let query = match Query::parse(bytes) {
        Ok(query) => query,
        Err(None) => return,
        Err(Some(refusal)) => return reply(None, &refusal),
    };
    match service.at_once(&query) {
        Readiness::Now(None) => {}
        Readiness::Now(Some(answer)) => reply(Some(&query), &answer),
        Readiness::Later => {
            let (service, load) = (Arc::clone(service), Arc::clone(load));
            let work = move || {
                let Some(_place) = Place::take(&load.waiting, WAITING_AT_MOST) else { return };
                if let Some(answer) = service.ask(&query) {
                    reply(Some(&query), &answer);
                }
            };
            // Without a thread there is no answer: who asks will ask again.
            let thread = thread::Builder::new().name("query".into()).stack_size(STACK_BYTES);
            drop(thread.spawn(work));
        }
    }
}

fn serve_datagrams(service: &Arc<Service>, load: &Arc<Load>, socket: &Arc<UdpSocket>) {
    let mut buffer = [0; 4096];
    loop {
        // What an earlier answer met, or a signal.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let socket = Arc::clone(socket);
        answer(service, load, buffer.get(..length).unwrap_or_default(), move |query, answer| {
            let short;
            let answer = match query {
                Some(query) if answer.len() > query.limit() => {
                    short = query.truncated().unwrap_or_default();
                    &short
                }
                _ => answer,
            };
            // Whoever asked may be gone.
            let _: io::Result<usize> = socket.send_to(answer, from);
        });
    }
}

fn serve_connections(service: &Arc<Service>, load: &Arc<Load>, listener: &TcpListener) {
    loop {
        // Descriptors may be short for a while.
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let (service, load) = (Arc::clone(service), Arc::clone(load));
        let thread = thread::Builder::new().name("dns-tcp".into()).stack_size(STACK_BYTES);
        // Without a thread the connection is closed.
        drop(thread.spawn(move || {
            if let Some(_place) = Place::take(&load.connections, CONNECTIONS_AT_MOST) {
                // Whatever is wrong with it, it ends.
                let _: io::Result<()> = serve_connection(&service, &load, stream);
            }
        }));
    }
}

fn serve_connection(service: &Arc<Service>, load: &Arc<Load>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let writer = Arc::new(Mutex::new(stream.try_clone()?));
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let writer = Arc::clone(&writer);
        // Answers may overtake each other (RFC 7766, 6.2.1.1).
        answer(service, load, &message, move |_, answer| {
            let result =
                u16::try_from(answer.len()).map_err(|_| ErrorKind::InvalidData.into()).and_then(|length| {
                    let framed = [&length.to_be_bytes(), answer].concat();
                    writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(&framed)
                });
            // Whoever asked may be gone.
            let _: io::Result<()> = result;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::mode::Mode;
    use super::*;

    const ASKED: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01";

    fn responders() -> Responders {
        let proxy: crate::policy::Proxy = "socks5://127.0.0.1:1".parse().unwrap();
        let service = Service::new(Mode::Map, proxy.into()).unwrap();
        Responders::new(Arc::new(service))
    }

    #[test]
    fn a_resolver_keeps_its_stand_in() {
        let responders = responders();
        let resolver = "192.0.2.53:53".parse().unwrap();
        let own = responders.stand_in(resolver, Transport::Udp).unwrap();
        assert_eq!(responders.stand_in("[::ffff:192.0.2.53]:53".parse().unwrap(), Transport::Udp), Ok(own));
        assert_ne!(responders.stand_in("192.0.2.54:53".parse().unwrap(), Transport::Udp).unwrap(), own);
        assert_eq!(responders.stands_for(own, Transport::Udp), Some(resolver));
        assert_eq!(responders.stands_for(own, Transport::Tcp), None);
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), own.port());
        assert_eq!(responders.stands_for(mapped, Transport::Udp), Some(resolver));
        let link_local = "[fe80::1%3]:53".parse().unwrap();
        let own = responders.stand_in(link_local, Transport::Tcp).unwrap();
        assert_eq!(responders.stands_for(own, Transport::Tcp), Some(link_local));
    }

    #[test]
    fn queries_are_answered_in_datagrams_and_streams() {
        let responders = responders();
        let own = responders.stand_in("192.0.2.53:53".parse().unwrap(), Transport::Udp).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(own).unwrap();
        socket.send(b"nonsense").unwrap();
        socket.send(ASKED).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!((&answer[..2], &answer[length - 4..length]), (&b"\x12\x34"[..], &[127, 0, 0, 1][..]));
        let own = responders.stand_in("192.0.2.53:53".parse().unwrap(), Transport::Tcp).unwrap();
        let mut stream = TcpStream::connect(own).unwrap();
        let framed = [&(ASKED.len() as u16).to_be_bytes()[..], ASKED].concat();
        stream.write_all(&[&framed[..], &framed[..9]].concat()).unwrap();
        stream.write_all(&framed[9..]).unwrap();
        for _ in 0..2 {
            let mut got = vec![0; 2 + length];
            stream.read_exact(&mut got).unwrap();
            assert_eq!((&got[..2], &got[2..]), (&(length as u16).to_be_bytes()[..], &answer[..length]));
        }
    }

    #[test]
    fn their_number_is_limited() {
        let responders = responders();
        for host in 0..AT_MOST {
            let resolver = SocketAddr::from(([192, 0, 2, host as u8], 53));
            responders.stand_in(resolver, Transport::Udp).unwrap();
        }
        assert_eq!(responders.stand_in("198.51.100.1:53".parse().unwrap(), Transport::Udp), Err(Errno::ENFILE));
    }
}
