//! The SOCKS5 client that names are resolved with: RFC 1928, RFC 1929, and Tor's RESOLVE and RESOLVE_PTR
//! (socks-extensions.txt of the Tor specifications).

use crate::policy::{Credentials, Endpoint, Proxy};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const VERSION: u8 = 5;
const CONNECT: u8 = 0x01;
const RESOLVE: u8 = 0xF0;
const RESOLVE_PTR: u8 = 0xF1;
const NO_AUTHENTICATION: u8 = 0;
const USERNAME_PASSWORD: u8 = 2;

/// What a reply calls the lack of a route to the host; Tor answers it for every name without an address.
pub const HOST_UNREACHABLE: u8 = 4;
/// The command isn't known: a proxy without RESOLVE.
pub const COMMAND_NOT_SUPPORTED: u8 = 7;
/// Address type not supported.
pub const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Why the proxy gave no answer.
#[derive(Debug)]
pub enum Failure {
    /// It can't be reached, went away, or took too long.
    Broken(io::Error),
    /// It isn't what it should be, or takes no such client.
    Unfit(&'static str),
    /// It refused the request, with this code.
    Refused(u8),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// A connection to a proxy, and through it, with one deadline for everything.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    deadline: Instant,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What a request is about, and what a reply tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Ip(IpAddr),
    Name(Vec<u8>),
}

/// The address of a name, by RESOLVE.
///
/// # Errors
/// Where the proxy gives none.
pub fn resolve(proxy: &Proxy, name: &str, deadline: Instant) -> Result<IpAddr, Failure> {
    let name = Address::Name(name.as_bytes().to_vec());
    match Stream::open(proxy, deadline)?.request(RESOLVE, &name, 0)? {
        Address::Ip(ip) => Ok(ip),
        Address::Name(_) => Err(Failure::Unfit("answered RESOLVE with a name")),
    }
}

/// The name of an address, by RESOLVE_PTR.
///
/// # Errors
/// Where the proxy gives none.
pub fn resolve_pointer(proxy: &Proxy, ip: IpAddr, deadline: Instant) -> Result<Vec<u8>, Failure> {
    match Stream::open(proxy, deadline)?.request(RESOLVE_PTR, &Address::Ip(ip), 0)? {
        Address::Name(name) => Ok(name),
        Address::Ip(_) => Err(Failure::Unfit("answered RESOLVE_PTR with an address")),
    }
}

/// A TCP connection through the proxy.
///
/// # Errors
/// Where there is none to be had.
pub fn connect(proxy: &Proxy, to: SocketAddr, deadline: Instant) -> Result<Stream, Failure> {
    let mut stream = Stream::open(proxy, deadline)?;
    stream.request(CONNECT, &Address::Ip(to.ip()), to.port())?;
    Ok(stream)
}

impl Stream {
    /// Connects to the proxy, and shows credentials.
    fn open(proxy: &Proxy, deadline: Instant) -> Result<Self, Failure> {
        let socket = match proxy.endpoint() {
            Endpoint::Tcp(addresses) => {
                let left = time_left(deadline)?;
                let attempts = addresses.iter().map(|address| TcpStream::connect_timeout(address, left));
                let tcp = first_good(attempts)?;
                tcp.set_nodelay(true)?;
                Socket::Tcp(tcp)
            }
            Endpoint::Unix(paths) => Socket::Unix(first_good(paths.iter().map(UnixStream::connect))?),
        };
        let mut stream = Self { socket, deadline };
        stream.authenticate(proxy.credentials())?;
        Ok(stream)
    }

    /// Whoever goes on using it has this much time.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn authenticate(&mut self, credentials: Option<&Credentials>) -> Result<(), Failure> {
        let method = if credentials.is_some() { USERNAME_PASSWORD } else { NO_AUTHENTICATION };
        self.send(&[VERSION, 1, method])?;
        let [version, chosen] = self.bytes_of::<2>()?;
        if version != VERSION {
            return Err(Failure::Unfit("is no SOCKS5 proxy"));
        }
        if chosen != method {
            return Err(Failure::Unfit(match credentials {
                Some(_) => "takes no username and password",
                None => "wants credentials",
            }));
        }
        if let Some(credentials) = credentials {
            let mut message = vec![1]; // the version of RFC 1929
            for part in [&credentials.username, &credentials.password] {
                message.push(part.len() as u8);
                message.extend(part);
            }
            self.send(&message)?;
            let [_, status] = self.bytes_of::<2>()?;
            if status != 0 {
                return Err(Failure::Unfit("refuses the credentials"));
            }
        }
        Ok(())
    }

    fn request(&mut self, command: u8, address: &Address, port: u16) -> Result<Address, Failure> {
        let mut message = vec![VERSION, command, 0];
        match address {
            Address::Ip(IpAddr::V4(ip)) => {
                message.push(1);
                message.extend(ip.octets());
            }
            Address::Ip(IpAddr::V6(ip)) => {
                message.push(4);
                message.extend(ip.octets());
            }
            Address::Name(name) => {
                let length =
                    u8::try_from(name.len()).map_err(|_| Failure::Unfit("can't be asked for so long a name"))?;
                message.extend([3, length]);
                message.extend(name);
            }
        }
        message.extend(port.to_be_bytes());
        self.send(&message)?;
        let [version, code, _, kind] = self.bytes_of::<4>()?;
        if version != VERSION {
            return Err(Failure::Unfit("is no SOCKS5 proxy"));
        }
        if code != 0 {
            return Err(Failure::Refused(code));
        }
        let address = match kind {
            1 => Address::Ip(Ipv4Addr::from(self.bytes_of::<4>()?).into()),
            4 => Address::Ip(Ipv6Addr::from(self.bytes_of::<16>()?).into()),
            3 => {
                let [length] = self.bytes_of::<1>()?;
                let mut name = vec![0; usize::from(length)];
                self.read_exact(&mut name)?;
                Address::Name(name)
            }
            _ => return Err(Failure::Unfit("answered with an address of unknown type")),
        };
        self.bytes_of::<2>()?; // the port
        Ok(address)
    }

    fn bytes_of<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of it, within the deadline.
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
    use std::net::TcpListener;
    use std::thread;

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
        assert_eq!(resolve(&proxy, "a.example", soon()).unwrap(), IpAddr::from([192, 0, 2, 7]));
        let proxy = scripted(
            &[
                (b"\x05\x01\x02", b"\x05\x02"),
                (b"\x01\x02me\x03sec", b"\x01\x00"),
                (b"\x05\xF1\x00\x01\xC0\x00\x02\x07\x00\x00", b"\x05\x00\x00\x03\x03x.y\0\0"),
            ],
            "me:sec@",
        );
        assert_eq!(resolve_pointer(&proxy, IpAddr::from([192, 0, 2, 7]), soon()).unwrap(), b"x.y");
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
        let mut stream = connect(&proxy, "192.0.2.53:53".parse().unwrap(), soon()).unwrap();
        assert_eq!(stream.bytes_of::<4>().unwrap(), *b"data");
    }

    #[test]
    fn refusals_and_nonsense() {
        for (steps, expected) in [
            (&[(&b"\x05\x01\x00"[..], &b"\x05\xFF"[..])][..], "Unfit(\"wants credentials\")"),
            (&[(b"\x05\x01\x00", b"HT")], "Unfit(\"is no SOCKS5 proxy\")"),
            (&[(b"\x05\x01\x00", b"\x05\x00"), (b"\x05", b"\x05\x07\x00\x01\0\0\0\0\0\0")], "Refused(7)"),
            (&[(b"\x05\x01\x00", b"\x05\x00"), (b"\x05", b"\x05\x00\x00\x09")], "Unfit("),
            (&[(b"\x05\x01\x00", b"\x05")], "Broken("),
        ] {
            let error = resolve(&scripted(steps, ""), "a.example", soon()).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
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
}
