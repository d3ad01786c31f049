//! What a client sends to a SOCKS5 proxy, message by message, from however few of its bytes have come:
//! RFC 1928, RFC 1929, and Tor's commands (socks-extensions.txt).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A message, or that there is more to come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The message, and how many bytes it took.
    Whole(T, usize),
    /// The bytes so far are the beginning of one.
    Partial,
    /// No message begins like this.
    Wrong(Malformed),
}

/// How a message breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A greeting that offers nothing.
    NoMethods,
    /// It offers 0xFF, the proxy's word for refusal.
    OffersRefusal,
    /// The version of the username/password message isn't 1.
    AuthVersion(u8),
    /// A username of no length.
    EmptyUsername,
    /// A password of no length.
    EmptyPassword,
    /// The request's version isn't 5.
    RequestVersion(u8),
    /// A command that neither RFC 1928 nor Tor knows.
    Command(u8),
    /// The reserved byte isn't 0.
    Reserved(u8),
    /// An address type that RFC 1928 doesn't know.
    AddressType(u8),
    /// A name of no length.
    EmptyName,
    /// A name with a byte that no host name has.
    NameByte(u8),
    /// A connection to port 0.
    PortZero,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethods => f.write_str("the greeting offers no authentication method"),
            Self::OffersRefusal => f.write_str("the greeting offers method 0xff, which is none"),
            Self::AuthVersion(version) => {
                write!(f, "the username/password message has version {version}, not 1")
            }
            Self::EmptyUsername => f.write_str("the username is empty"),
            Self::EmptyPassword => f.write_str("the password is empty"),
            Self::RequestVersion(version) => write!(f, "the request has version {version}, not 5"),
            Self::Command(command) => write!(f, "the request has the unknown command {command:#04x}"),
            Self::Reserved(byte) => write!(f, "the request's reserved byte is {byte:#04x}, not 0"),
            Self::AddressType(kind) => write!(f, "the request has the unknown address type {kind:#04x}"),
            Self::EmptyName => f.write_str("the request names no host"),
            Self::NameByte(byte) => write!(f, "the request's host name has the byte {byte:#04x} in it"),
            Self::PortZero => f.write_str("the request is for port 0"),
        }
    }
}

/// "No authentication required"
pub const NO_AUTH: u8 = 0;
/// Username/password
pub const PASSWORD: u8 = 2;
/// The proxy's refusal of all methods.
pub const REFUSAL: u8 = 0xFF;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A connection.
    Connect,
    /// A connection to be waited for.
    Bind,
    /// A way for datagrams.
    UdpAssociate,
    /// Tor: a name's address.
    Resolve,
    /// Tor: an address's name.
    ResolvePtr,
}

impl Command {
    fn new(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Connect,
            2 => Self::Bind,
            3 => Self::UdpAssociate,
            0xF0 => Self::Resolve,
            0xF1 => Self::ResolvePtr,
            _ => return None,
        })
    }

    /// The name in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::UdpAssociate => "udp-associate",
            Self::Resolve => "resolve",
            Self::ResolvePtr => "resolve-ptr",
        }
    }
}

/// Where a request leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, for the proxy to resolve: printable ASCII, or bytes above.
    Name(Vec<u8>),
}

impl Host {
    /// The address, be it that it was sent as a name.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(name) => {
                let name = str::from_utf8(name).ok()?;
                let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
                bare.parse().ok()
            }
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What for.
    pub command: Command,
    /// Where to.
    pub host: Host,
    /// At which port.
    pub port: u16,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{}:{}", String::from_utf8_lossy(name), self.port),
        }
    }
}

/// Username and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// 1 to 255 bytes.
    pub username: Vec<u8>,
    /// 1 to 255 bytes.
    pub password: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// The methods that a greeting offers. Its version has been looked at.
#[must_use]
pub fn greeting(bytes: &[u8]) -> Parsed<Vec<u8>> {
    let Some(&count) = bytes.get(1) else { return Parsed::Partial };
    if count == 0 {
        return Parsed::Wrong(Malformed::NoMethods);
    }
    let end = usize::from(count).saturating_add(2);
    let come = bytes.get(2..end.min(bytes.len())).unwrap_or_default();
    if come.contains(&REFUSAL) {
        return Parsed::Wrong(Malformed::OffersRefusal);
    }
    if bytes.len() < end { Parsed::Partial } else { Parsed::Whole(come.to_vec(), end) }
}

/// The username/password message of RFC 1929.
#[must_use]
pub fn login(bytes: &[u8]) -> Parsed<Login> {
    let field = |at: usize| {
        let length = usize::from(*bytes.get(at)?);
        Some((length, bytes.get(at.saturating_add(1)..at.saturating_add(1).saturating_add(length))))
    };
    match bytes.first() {
        None => return Parsed::Partial,
        Some(1) => {}
        Some(&other) => return Parsed::Wrong(Malformed::AuthVersion(other)),
    }
    let username = match field(1) {
        Some((0, _)) => return Parsed::Wrong(Malformed::EmptyUsername),
        Some((_, Some(username))) => username,
        _ => return Parsed::Partial,
    };
    let at = username.len().saturating_add(2);
    match field(at) {
        Some((0, _)) => Parsed::Wrong(Malformed::EmptyPassword),
        Some((length, Some(password))) => {
            let login = Login { username: username.to_vec(), password: password.to_vec() };
            Parsed::Whole(login, at.saturating_add(1).saturating_add(length))
        }
        _ => Parsed::Partial,
    }
}

/// A request.
#[must_use]
pub fn request(bytes: &[u8]) -> Parsed<Request> {
    match head(bytes) {
        Err(wrong) => Parsed::Wrong(wrong),
        Ok(None) => Parsed::Partial,
        Ok(Some((command, host, end))) => {
            let Some(port) = bytes.get(end..).and_then(<[u8]>::first_chunk) else { return Parsed::Partial };
            let port = u16::from_be_bytes(*port);
            if port == 0 && command == Command::Connect {
                return Parsed::Wrong(Malformed::PortZero);
            }
            Parsed::Whole(Request { command, host, port }, end.saturating_add(2))
        }
    }
}

/// All of a request but its port, and where that begins. Each byte is judged as soon as it is there.
fn head(bytes: &[u8]) -> Result<Option<(Command, Host, usize)>, Malformed> {
    let mut rest = bytes.iter().copied();
    match rest.next() {
        None => return Ok(None),
        Some(5) => {}
        Some(other) => return Err(Malformed::RequestVersion(other)),
    }
    let Some(byte) = rest.next() else { return Ok(None) };
    let command = Command::new(byte).ok_or(Malformed::Command(byte))?;
    match rest.next() {
        None => return Ok(None),
        Some(0) => {}
        Some(other) => return Err(Malformed::Reserved(other)),
    }
    let address = bytes.get(4..).unwrap_or_default();
    Ok(match rest.next() {
        None => None,
        Some(1) => address.first_chunk::<4>().map(|ip| (command, Host::Ip(Ipv4Addr::from(*ip).into()), 8)),
        Some(4) => address.first_chunk::<16>().map(|ip| (command, Host::Ip(Ipv6Addr::from(*ip).into()), 20)),
        Some(3) => name(address)?.map(|name| {
            let end = name.len().saturating_add(5);
            (command, Host::Name(name), end)
        }),
        Some(other) => return Err(Malformed::AddressType(other)),
    })
}

fn name(bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let Some((&length, rest)) = bytes.split_first() else { return Ok(None) };
    let length = usize::from(length);
    if length == 0 {
        return Err(Malformed::EmptyName);
    }
    let come = rest.get(..length.min(rest.len())).unwrap_or_default();
    // Host names beyond ASCII are as the program has encoded them.
    if let Some(byte) = come.iter().find(|byte| byte.is_ascii_control() || **byte == b' ') {
        return Err(Malformed::NameByte(*byte));
    }
    Ok((come.len() == length).then(|| come.to_vec()))
}
