//! The same with blocking sockets, for whoever has a thread to wait in: names that are resolved, datagrams.

use super::{Bound, Command, Negotiation, Progress, Refusal, Target};
use crate::policy::{Credentials, Endpoint, Proxy};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why the proxy gave no answer.
#[derive(Debug)]
pub enum Failure {
    /// It can't be reached, went away, or took too long.
    Broken(io::Error),
    /// It refused.
    Refused(Refusal),
    /// It answered what makes no sense; ends a sentence that begins with the proxy.
    Unfit(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A connection to a proxy, and through it, with one deadline for everything.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    deadline: Instant,
    /// What came behind the proxy's reply.
    early: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Asks the proxy; what it answers, and the connection.
///
/// # Errors
/// Where it can't be asked or refuses, or hasn't answered by the deadline.
pub fn ask(
    proxy: &Proxy,
    command: Command,
    target: &Target,
    credentials: Option<Credentials>,
    deadline: Instant,
) -> Result<(Stream, Option<Bound>), Failure> {
    let mut negotiation = Negotiation::new(proxy.scheme(), command, target, credentials)?;
    let mut stream = Stream::open(proxy, deadline)?;
    loop {
        stream.send(&negotiation.take_outgoing())?;
        let mut buffer = vec![0; negotiation.wants()];
        let length = stream.read(&mut buffer)?;
        if let Progress::Done { early, bound } = negotiation.take(buffer.get(..length).unwrap_or_default())? {
            stream.early = early;
            return Ok((stream, bound));
        }
    }
}

impl Stream {
    fn open(proxy: &Proxy, deadline: Instant) -> Result<Self, Failure> {
        let socket = match proxy.endpoint() {
            Endpoint::Tcp(addresses) => {
                let attempt = |address| TcpStream::connect_timeout(address, time_left(deadline)?);
                let tcp = first_good(addresses.iter().map(attempt))?;
                tcp.set_nodelay(true)?;
                Socket::Tcp(tcp)
            }
            Endpoint::Unix(paths) => {
                let attempt = |path: &PathBuf| connect_unix(path, time_left(deadline)?);
                Socket::Unix(first_good(paths.iter().map(attempt))?)
            }
        };
        Ok(Self { socket, deadline, early: Vec::new() })
    }

    /// Whoever goes on using it has this much time.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The address of the proxy itself; `None` for a UNIX socket.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.peer_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.as_fd(),
        }
    }

    /// Writes all of it, within the deadline.
    ///
    /// # Errors
    /// What write(2) gives.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = Some(time_left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(tcp) => {
                tcp.set_write_timeout(left)?;
                tcp.write_all(bytes)
            }
            Socket::Unix(unix) => {
                unix.set_write_timeout(left)?;
                unix.write_all(bytes)
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(self.early.drain(..length)) {
                *place = byte;
            }
            return Ok(length);
        }
        let left = Some(time_left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(tcp) => {
                tcp.set_read_timeout(left)?;
                tcp.read(buffer)
            }
            Socket::Unix(unix) => {
                unix.set_read_timeout(left)?;
                unix.read(buffer)
            }
        }
    }
}

/// `UnixStream::connect`, which would wait for ever for a proxy that accepts nothing: unix(7) has it wait no longer than
/// `SO_SNDTIMEO`.
fn connect_unix(path: &Path, left: Duration) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(left))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The first that succeeds, or why the last failed.
fn first_good<T>(attempts: impl Iterator<Item = io::Result<T>>) -> io::Result<T> {
    let mut last = Err(ErrorKind::NotFound.into());
    for attempt in attempts {
        if attempt.is_ok() {
            return attempt;
        }
        last = attempt;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, TcpListener};
    use std::thread;

    fn resolve(proxy: &Proxy, name: &str, deadline: Instant) -> Result<Bound, Failure> {
        let target = Target::Name(name.into(), 0);
        ask(proxy, Command::Resolve, &target, proxy.credentials().cloned(), deadline)
            .map(|(_, bound)| bound.unwrap())
    }

    /// A proxy that expects these bytes and answers those, step by step, and then closes.
    fn scripted(steps: &[(&'static [u8], &'static [u8])], userinfo: &str) -> Proxy {
        let steps = steps.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("socks5://{userinfo}{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            for (expected, answer) in steps {
                let mut got = vec![0; expected.len()];
                client.read_exact(&mut got).unwrap();
                assert_eq!(got, expected);
                // Byte by byte: nothing may depend on how they arrive.
                for byte in answer {
                    client.write_all(&[*byte]).unwrap();
                }
            }
            // What was not read would make closing a reset.
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        });
        proxy.parse().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn names_and_addresses() {
        let request: &[u8] = b"\x05\xF0\x00\x03\x09a.example\x00\x00";
        let proxy =
            scripted(&[(b"\x05\x01\x00", b"\x05\x00"), (request, b"\x05\x00\x00\x01\xC0\x00\x02\x07\0\0")], "");
        let address = Bound::Address(SocketAddr::from(([192, 0, 2, 7], 0)));
        assert_eq!(resolve(&proxy, "a.example", soon()).unwrap(), address);
        let proxy = scripted(
            &[
                (b"\x05\x01\x02", b"\x05\x02"),
                (b"\x01\x02me\x03sec", b"\x01\x00"),
                (b"\x05\xF1\x00\x01\xC0\x00\x02\x07\x00\x00", b"\x05\x00\x00\x03\x03x.y\0\0"),
            ],
            "me:sec@",
        );
        let target = Target::Address((IpAddr::from([192, 0, 2, 7]), 0).into());
        let credentials = proxy.credentials().cloned();
        let (_, bound) = ask(&proxy, Command::ResolvePtr, &target, credentials, soon()).unwrap();
        assert_eq!(bound, Some(Bound::Name(b"x.y".to_vec(), 0)));
    }

    #[test]
    fn what_goes_through_is_read_behind_the_reply() {
        let proxy = scripted(
            &[
                (b"\x05\x01\x00", b"\x05\x00"),
                (
                    b"\x05\x01\x00\x01\xC0\x00\x02\x35\x00\x35",
                    b"\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0data",
                ),
            ],
            "",
        );
        let target = Target::Address("192.0.2.53:53".parse().unwrap());
        let (mut stream, _) = ask(&proxy, Command::Connect, &target, None, soon()).unwrap();
        let mut data = [0; 4];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(data, *b"data");
    }

    #[test]
    fn what_an_http_proxy_sends_with_its_reply_belongs_to_the_tunnel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.read_exact(&mut [0; 30]).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\nda").unwrap();
            thread::sleep(Duration::from_millis(20));
            client.write_all(b"ta").unwrap();
        });
        let target = Target::Address("192.0.2.53:53".parse().unwrap());
        let (mut stream, _) = ask(&proxy, Command::Connect, &target, None, soon()).unwrap();
        let mut data = [0; 4];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(data, *b"data");
    }

    #[test]
    fn refusals_and_nonsense() {
        for (steps, expected) in [
            (&[(&b"\x05\x01\x00"[..], &b"\x05\xFF"[..])][..], "wants a username"),
            (&[(b"\x05\x01\x00", b"HT")], "speak SOCKS5"),
            (&[(b"\x05\x01\x00", b"\x05\x00"), (b"\x05", b"\x05\x07\x00\x01\0\0\0\0\0\0")], "reply: Some(7)"),
            (&[(b"\x05\x01\x00", b"\x05\x00"), (b"\x05", b"\x05\x00\x00\x09\0")], "unknown type"),
            (&[(b"\x05\x01\x00", b"\x05")], "closed the connection"),
        ] {
            let error = resolve(&scripted(steps, ""), "a.example", soon()).unwrap_err();
            assert!(format!("{error:?}").contains(expected), "{error:?}");
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
        let start = Instant::now();
        let error = resolve(&proxy, "a.example", start + Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, Failure::Broken(_)), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_unix_proxy_that_accepts_nothing_ends_at_the_deadline() {
        use nix::sys::socket::{Backlog, bind, listen};
        let path = std::env::temp_dir().join(format!("sockstrace-blocking-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        // Its queue takes one.
        let _first = UnixStream::connect(&path).unwrap();
        let proxy: Proxy = format!("socks5+unix://{}", path.display()).parse().unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        thread::spawn(move || said.send(resolve(&proxy, "a.example", Instant::now() + Duration::from_millis(200))));
        let answer = heard.recv_timeout(Duration::from_secs(10));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(answer, Ok(Err(Failure::Broken(_)))), "{answer:?}");
    }
}
