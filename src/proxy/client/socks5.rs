//! SOCKS version 5: RFC 1928, RFC 1929, and Tor's additions (socks-extensions.txt).

use super::{Refusal, Step, Target};
use crate::policy::Credentials;
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USERNAME_AND_PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xFF;

/// Address types.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What is asked of a SOCKS proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A TCP connection.
    Connect,
    /// A relay for datagrams. The target is where we will send from; unspecified where that isn't known.
    UdpAssociate,
    /// Tor's own: the address of a name (the port means nothing).
    Resolve,
    /// Tor's own: the name of an address.
    ResolvePtr,
}

impl Command {
    fn number(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::UdpAssociate => 3,
            Self::Resolve => 0xF0,
            Self::ResolvePtr => 0xF1,
        }
    }
}

/// The address in a reply: where the proxy connects from, its UDP relay, or what it has resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// An address.
    Address(SocketAddr),
    /// A name, as it came.
    Name(Vec<u8>, u16),
}

#[derive(Debug)]
pub(super) struct Talk {
    stage: Stage,
    request: Vec<u8>,
    credentials: Option<Credentials>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Method,
    Authentication,
    Reply,
}

impl Talk {
    /// The greeting. Only what will be used is offered: credentials if there are any, so that they can't be
    /// passed over.
    pub(super) fn begin(
        command: Command,
        target: &Target,
        credentials: Option<Credentials>,
    ) -> Result<(Self, Vec<u8>), Refusal> {
        let method = if credentials.is_some() { USERNAME_AND_PASSWORD } else { NO_AUTHENTICATION };
        let talk = Self { stage: Stage::Method, request: request(command, target)?, credentials };
        Ok((talk, vec![VERSION, 1, method]))
    }

    /// How long the message is whose first bytes these are, as far as they tell.
    pub(super) fn reply_length(&self, bytes: &[u8]) -> usize {
        match self.stage {
            Stage::Method | Stage::Authentication => 2,
            Stage::Reply => match (bytes.get(3), bytes.get(4..)) {
                (Some(&kind), Some(address)) => 4_usize.saturating_add(address_length(kind, address).unwrap_or(1)),
                _ => 5,
            },
        }
    }

    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        if bytes.len() < self.reply_length(bytes) {
            return Ok(Step::Read);
        }
        match (self.stage, bytes) {
            (Stage::Method, &[VERSION, method]) => self.method(method),
            // RFC 1929; some proxies give the version of SOCKS.
            (Stage::Authentication, &[_, 0]) => Ok(self.ask()),
            (Stage::Authentication, _) => Err(Refusal::proxy("the proxy refuses the credentials")),
            (Stage::Reply, &[VERSION, 0, _, kind, ref rest @ ..]) => match bound(kind, rest) {
                Some(bound) => Ok(Step::Done { early: Vec::new(), bound: Some(bound) }),
                None => Err(Refusal::proxy("the proxy's reply has an address of unknown type")),
            },
            (Stage::Reply, &[VERSION, code, ..]) => Err(refusal(code)),
            (Stage::Method | Stage::Reply, _) => Err(Refusal::proxy("the proxy doesn't speak SOCKS5")),
        }
    }

    fn method(&mut self, method: u8) -> Result<Step, Refusal> {
        match (method, &self.credentials) {
            (NO_AUTHENTICATION, None) => Ok(self.ask()),
            (USERNAME_AND_PASSWORD, Some(credentials)) => {
                self.stage = Stage::Authentication;
                let mut words = vec![1];
                for field in [&credentials.username, &credentials.password] {
                    // At most 255 bytes: `Credentials` sees to that.
                    words.push(field.len() as u8);
                    words.extend_from_slice(field);
                }
                Ok(Step::Say(words))
            }
            (NO_ACCEPTABLE_METHOD, Some(_)) => Err(Refusal::proxy("the proxy takes no username and password")),
            (NO_ACCEPTABLE_METHOD, None) => Err(Refusal::proxy("the proxy wants a username and password")),
            _ => Err(Refusal::proxy("the proxy chose a method that wasn't offered")),
        }
    }

    fn ask(&mut self) -> Step {
        self.stage = Stage::Reply;
        Step::Say(std::mem::take(&mut self.request))
    }
}

fn request(command: Command, target: &Target) -> Result<Vec<u8>, Refusal> {
    let mut words = vec![VERSION, command.number(), 0];
    write_target(target, &mut words)?;
    Ok(words)
}

/// Type, address and port.
pub(super) fn write_target(target: &Target, words: &mut Vec<u8>) -> Result<(), Refusal> {
    let port = match target {
        Target::Address(address) => {
            match address.ip().to_canonical() {
                IpAddr::V4(ip) => {
                    words.push(IPV4);
                    words.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    words.push(IPV6);
                    words.extend(ip.octets());
                }
            }
            address.port()
        }
        Target::Name(name, port) => {
            let length = u8::try_from(name.len()).ok().filter(|length| *length > 0);
            let length = length.ok_or_else(|| Refusal::proxy("a name for SOCKS5 has 1 to 255 bytes"))?;
            words.extend([NAME, length]);
            words.extend(name.as_bytes());
            *port
        }
    };
    words.extend(port.to_be_bytes());
    Ok(())
}

/// How long an address of this type is with its port, given its first byte; `None` for an unknown type, or where
/// there is none.
pub(super) fn address_length(kind: u8, address: &[u8]) -> Option<usize> {
    match (kind, address.first()?) {
        (IPV4, _) => Some(6),
        (IPV6, _) => Some(18),
        // The first byte is the length of a name.
        (NAME, &length) => Some(3_usize.saturating_add(length.into())),
        _ => None,
    }
}

pub(super) fn bound(kind: u8, bytes: &[u8]) -> Option<Bound> {
    let (address, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let ip = match kind {
        IPV4 => IpAddr::from(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        IPV6 => IpAddr::from(Ipv6Addr::from(*address.first_chunk::<16>()?)),
        NAME => return Some(Bound::Name(address.get(1..)?.to_vec(), port)),
        _ => return None,
    };
    Some(Bound::Address(SocketAddr::new(ip, port)))
}

/// RFC 1928, section 6, and Tor's extended errors. What means that the network doesn't lead there is what a
/// router would make connect(2) say; a rule at the proxy is what a firewall's ICMP message would.
fn refusal(code: u8) -> Refusal {
    let (errno, why) = match code {
        1 => (Errno::EHOSTUNREACH, "general failure"),
        2 => (Errno::EHOSTUNREACH, "not allowed by its rules"),
        3 => (Errno::ENETUNREACH, "network unreachable"),
        4 => (Errno::EHOSTUNREACH, "host unreachable"),
        5 => (Errno::ECONNREFUSED, "connection refused"),
        // Tor says so of any timeout.
        6 => (Errno::ETIMEDOUT, "TTL expired"),
        7 => (Errno::ECONNREFUSED, "command not supported"),
        // Like a host without a route for the family: programs try the other one.
        8 => (Errno::ENETUNREACH, "address type not supported"),
        0xF0..=0xF7 => (Errno::EHOSTUNREACH, "the onion service can't be reached"),
        _ => (Errno::EHOSTUNREACH, "unknown failure"),
    };
    Refusal { reply: Some(code), ..Refusal::destination(errno, format!("the proxy says: {why} ({code})")) }
}
