//! What a handshake must show (`--socks-auth`, `--socks-isolation`, `--socks-names`), as pure functions.

use super::wire::{Command, Login, Malformed, NO_AUTH, PASSWORD, REFUSAL, Request};
use regex::bytes::Regex;
use std::fmt;

/// `--socks-auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// Anything well formed.
    #[default]
    Any,
    /// Username and password.
    Required,
    /// Tor's stream-isolation format.
    Tor,
}

/// All that a handshake is held against.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `--socks-auth`
    pub auth: Auth,
    /// `--socks-isolation`
    pub isolation: Option<Regex>,
    /// `--socks-names`
    pub names: bool,
}

/// Why a handshake is a leak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It breaks the protocol.
    Malformed(Malformed),
    /// It stops in the middle of a message.
    CutOff,
    /// SOCKS4; `named`: 4a, with a name.
    Socks4 {
        /// The name is for the proxy to resolve.
        named: bool,
    },
    /// HTTP.
    Http,
    /// TLS.
    Tls,
    /// Something else, beginning with this byte.
    NotSocks(u8),
    /// Username/password isn't offered, but asked for.
    NoPasswordOffered,
    /// Offered beside other methods, it wasn't chosen, and the client goes on without.
    FellBack(u8),
    /// The proxy chose a method that isn't looked into.
    Opaque(u8),
    /// The proxy chose what wasn't offered.
    NotOffered(u8),
    /// The proxy refused all methods, and the client goes on all the same.
    Refused,
    /// The proxy's answer is no SOCKS5, and the client goes on all the same.
    ProxyIsNone,
    /// The username isn't of Tor's format.
    NotTor,
    /// It is, but the character that tells the format is missing.
    TorFormatMissing,
    /// Nobody knows that format.
    TorFormat(u8),
    /// Something follows format 0.
    TorRest,
    /// Format 1 names no object.
    TorNoObject,
    /// `--socks-isolation` doesn't match.
    Isolation(String),
    /// An address where a name was to be.
    Literal,
    /// A command that Tor doesn't have.
    NotTors(Command),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(how) => write!(f, "{how}"),
            Self::CutOff => f.write_str("the handshake ends in the middle"),
            Self::Socks4 { named: false } => f.write_str("SOCKS4 is spoken, by address, not SOCKS5"),
            Self::Socks4 { named: true } => f.write_str("SOCKS4a is spoken, not SOCKS5"),
            Self::Http => f.write_str("HTTP is spoken, not SOCKS5"),
            Self::Tls => f.write_str("TLS is spoken, not SOCKS5"),
            Self::NotSocks(byte) => write!(f, "no SOCKS5 is spoken: the first byte is {byte:#04x}"),
            Self::NoPasswordOffered => f.write_str("username and password are not offered"),
            Self::FellBack(method) => {
                write!(
                    f,
                    "the client goes on with the method {}, without username and password",
                    method_name(*method)
                )
            }
            Self::Opaque(method) => {
                write!(f, "the method {} can't be looked into", method_name(*method))
            }
            Self::NotOffered(method) => {
                write!(f, "the client goes on with the method {}, which it did not offer", method_name(*method))
            }
            Self::Refused => f.write_str("the client goes on though the proxy refused all methods"),
            Self::ProxyIsNone => f.write_str("the client goes on though the proxy's answer is no SOCKS5"),
            Self::NotTor => {
                f.write_str("the username does not begin with <torS0X>, Tor's mark of stream isolation")
            }
            Self::TorFormatMissing => f.write_str("nothing follows <torS0X>: the format is missing"),
            Self::TorFormat(format) => {
                write!(f, "<torS0X> is followed by the unknown format {:?}", char::from(*format))
            }
            Self::TorRest => f.write_str("something follows <torS0X>0, where nothing may"),
            Self::TorNoObject => f.write_str("<torS0X>1 names no RPC object"),
            Self::Isolation(regex) => write!(f, "the isolation field (the password) does not match {regex}"),
            Self::Literal => {
                f.write_str("the request is for an address, not a name: it was resolved past the proxy, perhaps")
            }
            Self::NotTors(command) => write!(f, "Tor has no {}", command.name()),
        }
    }
}

/// A method's name in events and reasons.
#[must_use]
pub fn method_name(method: u8) -> String {
    match method {
        NO_AUTH => "none".into(),
        1 => "gssapi".into(),
        PASSWORD => "password".into(),
        REFUSAL => "refused".into(),
        other => format!("{other:#04x}"),
    }
}

/// Tor's mark: socks-extensions.txt, proposal 351.
const TOR: &[u8] = b"<torS0X>";

/// Whether the username is Tor's mark and a format alone: no secret.
#[must_use]
pub fn is_tor_mark(username: &[u8]) -> bool {
    username.strip_prefix(TOR).is_some_and(|rest| rest == b"0")
}

impl Rules {
    /// Whether credentials must be shown.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        self.auth != Auth::Any || self.isolation.is_some()
    }

    /// Judges a greeting.
    pub fn greeting(&self, methods: &[u8]) -> Result<(), Fault> {
        if self.wants_login() && !methods.contains(&PASSWORD) { Err(Fault::NoPasswordOffered) } else { Ok(()) }
    }

    /// Judges that the client goes on with the method that the proxy chose.
    pub fn choice(&self, offered: &[u8], chosen: u8) -> Result<(), Fault> {
        match chosen {
            REFUSAL => Err(Fault::Refused),
            chosen if !offered.contains(&chosen) => Err(Fault::NotOffered(chosen)),
            PASSWORD => Ok(()),
            chosen if self.wants_login() => Err(Fault::FellBack(chosen)),
            NO_AUTH => Ok(()),
            chosen => Err(Fault::Opaque(chosen)),
        }
    }

    /// Judges username and password.
    pub fn login(&self, login: &Login) -> Result<(), Fault> {
        if self.auth == Auth::Tor {
            match login.username.strip_prefix(TOR) {
                None => return Err(Fault::NotTor),
                Some([]) => return Err(Fault::TorFormatMissing),
                Some([b'0']) => {}
                Some([b'0', ..]) => return Err(Fault::TorRest),
                Some([b'1']) => return Err(Fault::TorNoObject),
                Some([b'1', ..]) => {}
                Some([format, ..]) => return Err(Fault::TorFormat(*format)),
            }
        }
        match &self.isolation {
            Some(regex) if !regex.is_match(&login.password) => Err(Fault::Isolation(regex.as_str().into())),
            _ => Ok(()),
        }
    }

    /// Judges a request.
    pub fn request(&self, request: &Request) -> Result<(), Fault> {
        let tors = matches!(request.command, Command::Connect | Command::Resolve | Command::ResolvePtr);
        if self.auth == Auth::Tor && !tors {
            return Err(Fault::NotTors(request.command));
        }
        // The reverse lookup is of an address by its nature; the address of datagrams is the client's own.
        let names = matches!(request.command, Command::Connect | Command::Bind | Command::Resolve);
        if self.names && names && request.host.literal().is_some() {
            return Err(Fault::Literal);
        }
        Ok(())
    }
}

/// What is spoken instead of SOCKS5, from its first bytes (one at least).
#[must_use]
pub fn foreign(first: u8, bytes: &[u8]) -> Fault {
    match first {
        // Version, command, port, address: 0.0.0.x means that a name follows the user's.
        4 => Fault::Socks4 { named: matches!(bytes.get(4..8), Some([0, 0, 0, 1..=255])) },
        0x16 => Fault::Tls,
        b'A'..=b'Z' => Fault::Http,
        other => Fault::NotSocks(other),
    }
}

/// Whether all is there of a SOCKS4 request (version, command, port, address, user, perhaps a name) or of the first
/// line of HTTP; of others nothing is to be known.
#[must_use]
pub fn is_foreign_request(first: u8, bytes: &[u8]) -> bool {
    match first {
        4 => {
            let fields = if matches!(bytes.get(4..8), Some([0, 0, 0, 1..=255])) { 2 } else { 1 };
            // Each field ends in a zero, so that something (nothing, perhaps) follows the last.
            bytes.get(8..).unwrap_or_default().split(|byte| *byte == 0).nth(fields).is_some()
        }
        b'A'..=b'Z' => bytes.contains(&b'\n'),
        _ => true,
    }
}

/// The host and port that SOCKS4 or HTTP CONNECT asks for, as far as they are there.
#[must_use]
pub fn foreign_destination(bytes: &[u8]) -> Option<String> {
    match bytes.first()? {
        4 => {
            let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            if !matches!(ip, [0, 0, 0, 1..=255]) {
                return Some(format!("{}:{port}", std::net::Ipv4Addr::from(ip)));
            }
            let mut fields = bytes.get(8..)?.split(|byte| *byte == 0);
            let name = fields.nth(1).filter(|name| !name.is_empty())?;
            Some(format!("{}:{port}", String::from_utf8_lossy(name)))
        }
        b'C' => {
            let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
            let target = line.strip_prefix(b"CONNECT ")?.split(|byte| *byte == b' ').next()?;
            Some(String::from_utf8_lossy(target).into_owned())
        }
        _ => None,
    }
}

/// The bytes of a credential as an event may show them: without `secret`, just how they begin.
#[must_use]
pub fn shown(credential: &[u8], secrets: bool) -> String {
    const SHOWN: usize = 2;
    let text = String::from_utf8_lossy(credential);
    if secrets || is_tor_mark(credential) {
        return text.into_owned();
    }
    let start: String =
        if credential.len() > 2 * SHOWN { text.chars().take(SHOWN).collect() } else { String::new() };
    format!("{start}… ({} bytes)", credential.len())
}
