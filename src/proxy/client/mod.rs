//! What a client says to a proxy until the tunnel stands: bytes in, bytes out, no I/O.
//!
//! Nothing is sent ahead of an answer that decides what comes next: proxies that read a message at a time
//! would lose it. [`Negotiation::wants`] says how much may be read, so that no byte of the tunnel is taken for
//! a reply; what an HTTP proxy sends behind its reply comes out of [`Progress::Done`].

pub mod blocking;
pub mod datagram;
mod http;
mod socks5;

pub use socks5::{Bound, Command};

use crate::policy::{Credentials, Scheme};
use nix::errno::Errno;
use std::fmt;
use std::net::SocketAddr;

/// What a proxy is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address. An IPv4-mapped one goes as IPv4.
    Address(SocketAddr),
    /// A name, of at most 255 bytes, that the proxy resolves, and a port.
    Name(String, u16),
}

impl fmt::Display for Target {
    /// As HTTP's CONNECT writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What connect(2) would have given, had the destination or the network itself answered so.
    pub errno: Errno,
    /// What the proxy said, in words for a person.
    pub why: String,
    /// It isn't about the destination: the proxy itself doesn't work as asked (credentials, protocol).
    pub by_proxy_itself: bool,
    /// The code of the SOCKS5 reply, if that is what refuses.
    pub reply: Option<u8>,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send what [`Negotiation::take_outgoing`] gives (perhaps nothing), then read on.
    More,
    /// The tunnel stands.
    Done {
        /// What the proxy sent behind its reply: it belongs to the tunnel.
        early: Vec<u8>,
        /// The address that the proxy names in its reply.
        bound: Option<Bound>,
    },
}

/// A handshake.
#[derive(Debug)]
pub struct Negotiation {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    talk: Talk,
}

#[derive(Debug)]
enum Talk {
    Socks(socks5::Talk),
    Http(http::Talk),
}

/// What a part of the handshake wants next.
enum Step {
    /// Send these, and go on with the answer.
    Say(Vec<u8>),
    /// It needs more bytes.
    Read,
    /// It has ended.
    Done { early: Vec<u8>, bound: Option<Bound> },
}

impl Negotiation {
    /// For the proxy that is spoken to by `scheme`. HTTP takes no credentials, and connects alone: other
    /// commands are refused before anything is sent.
    ///
    /// # Errors
    /// Where the proxy can't be asked for that.
    pub fn new(
        scheme: Scheme,
        command: Command,
        target: &Target,
        credentials: Option<Credentials>,
    ) -> Result<Self, Refusal> {
        let (talk, outgoing) = match scheme {
            Scheme::Socks5 => {
                let (talk, outgoing) = socks5::Talk::begin(command, target, credentials)?;
                (Talk::Socks(talk), outgoing)
            }
            Scheme::Http if command == Command::Connect => (Talk::Http(http::Talk), http::request(target)),
            Scheme::Http => return Err(Refusal::proxy("an HTTP proxy can only connect")),
        };
        Ok(Self { outgoing, incoming: Vec::new(), talk })
    }

    /// What is to be sent now.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// How many bytes may be read at most; at least one.
    #[must_use]
    pub fn wants(&self) -> usize {
        match &self.talk {
            Talk::Socks(talk) => talk.reply_length(&self.incoming).saturating_sub(self.incoming.len()).max(1),
            Talk::Http(_) => http::PIECE,
        }
    }

    /// Takes what was read: at most [`Negotiation::wants`] bytes; none means that the proxy has closed.
    ///
    /// # Errors
    /// The proxy's refusal, or what is wrong with its answer.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        if bytes.is_empty() {
            // What ssh -D does where it can't connect.
            return Err(Refusal::destination(Errno::ECONNREFUSED, "the proxy closed the connection"));
        }
        self.incoming.extend_from_slice(bytes);
        let step = match &mut self.talk {
            Talk::Socks(talk) => talk.step(&self.incoming)?,
            Talk::Http(talk) => talk.step(&self.incoming)?,
        };
        Ok(match step {
            Step::Say(words) => {
                self.incoming.clear();
                self.outgoing = words;
                Progress::More
            }
            Step::Read => Progress::More,
            Step::Done { early, bound } => Progress::Done { early, bound },
        })
    }
}

impl Refusal {
    fn destination(errno: Errno, why: impl Into<String>) -> Self {
        Self { errno, why: why.into(), by_proxy_itself: false, reply: None }
    }

    /// The proxy can't be reached.
    #[must_use]
    pub fn unreachable(errno: Errno, why: String) -> Self {
        Self { errno, why, by_proxy_itself: true, reply: None }
    }

    fn proxy(why: impl Into<String>) -> Self {
        Self { errno: Errno::ECONNREFUSED, why: why.into(), by_proxy_itself: true, reply: None }
    }
}

#[cfg(test)]
mod tests;
