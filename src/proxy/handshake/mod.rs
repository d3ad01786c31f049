//! The SOCKS5 handshake with a proxy, judged as it goes by, whatever pieces it comes in.
//!
//! An [`Inspector`] is given what the client sends and what the proxy answers. It tells which of the client's
//! bytes may go on to the proxy: those of messages that were judged good, and no other. The handshake is a
//! dialogue: whether a login or a request follows the greeting is for the proxy to say, so that what a client
//! sends ahead waits for the proxy's choice. Nothing here does any I/O.

mod rules;
#[cfg(test)]
mod tests;
mod wire;

pub use rules::{Auth, Fault, Rules, method_name, shown};
pub use wire::{Command, Host, Login, Malformed, Request};

use std::sync::Arc;
use wire::{NO_AUTH, PASSWORD, Parsed};

/// What was seen of a handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The methods that the client offered.
    pub offered: Option<Vec<u8>>,
    /// The method that the proxy chose.
    pub chosen: Option<u8>,
    /// Username and password.
    pub login: Option<Login>,
    /// The request.
    pub request: Option<Request>,
    /// Where SOCKS4 or HTTP was to lead.
    pub foreign: Option<String>,
}

/// How far a handshake has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Going,
    /// It was good; whatever follows is no longer the handshake's.
    Good,
    /// It is a leak.
    Bad(Fault),
}

/// Login and request at their longest.
const LONGEST: usize = 513 + 262;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// The proxy is to choose.
    Choice,
    Login,
    Request,
    Over,
}

/// Looks at one handshake.
#[derive(Debug)]
pub struct Inspector {
    rules: Arc<Rules>,
    stage: Stage,
    /// Bytes of the client's that were not judged yet.
    held: Vec<u8>,
    /// The proxy's answer to the greeting, as far as it is there.
    answer: Vec<u8>,
    seen: Seen,
}

impl Inspector {
    /// For a connection that begins.
    #[must_use]
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules, stage: Stage::Greeting, held: Vec::new(), answer: Vec::new(), seen: Seen::default() }
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether more of the client's bytes could change anything: while the proxy is to choose, and what came
    /// ahead is as much as a handshake can be, they can wait in the socket.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.held.len() < LONGEST
    }

    /// Bytes that were not judged, for whoever lets them go all the same.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The client has sent these bytes. Returns those that may go on to the proxy.
    pub fn from_client(&mut self, bytes: &[u8]) -> (Vec<u8>, Progress) {
        self.held.extend_from_slice(bytes);
        self.advance()
    }

    /// The proxy has sent these bytes (the client may see them in any case). Returns those of the client's
    /// that may go on to the proxy now.
    pub fn from_proxy(&mut self, bytes: &[u8]) -> (Vec<u8>, Progress) {
        if self.stage == Stage::Choice {
            let missing = 2_usize.saturating_sub(self.answer.len());
            self.answer.extend(bytes.iter().take(missing));
            if let &[version, method] = self.answer.as_slice() {
                self.seen.chosen = (version == 5).then_some(method);
            }
        }
        self.advance()
    }

    /// Whether it is the proxy's turn: what the client has sent means nothing before that.
    #[must_use]
    pub fn awaits_proxy(&self) -> bool {
        self.stage == Stage::Choice && self.answer.len() < 2
    }

    /// The client sends no more, and the proxy's choice is known.
    #[must_use]
    pub fn end(&self) -> Progress {
        match self.stage {
            Stage::Over => Progress::Good,
            // It gave up between two messages, or never said a word.
            _ if self.held.is_empty() => Progress::Going,
            Stage::Greeting => Progress::Bad(match self.held.first() {
                Some(&first) if first != 5 => rules::foreign(first, &self.held),
                _ => Fault::CutOff,
            }),
            _ => Progress::Bad(Fault::CutOff),
        }
    }

    fn advance(&mut self) -> (Vec<u8>, Progress) {
        let mut good = Vec::new();
        loop {
            let before = self.stage;
            match self.step() {
                Ok(None) => return (good, Progress::Going),
                Ok(Some(length)) => {
                    let rest = self.held.split_off(length.min(self.held.len()));
                    good.append(&mut std::mem::replace(&mut self.held, rest));
                }
                Err(fault) => return (good, Progress::Bad(fault)),
            }
            if self.stage == Stage::Over {
                good.append(&mut self.held);
                return (good, Progress::Good);
            }
            debug_assert_ne!(before, self.stage);
        }
    }

    /// Judges the next message, if it is there: its length.
    fn step(&mut self) -> Result<Option<usize>, Fault> {
        match self.stage {
            Stage::Greeting => self.greeting(),
            Stage::Choice => self.choice(),
            Stage::Login => {
                let Some((login, length)) = whole(wire::login(&self.held))? else { return Ok(None) };
                let judged = self.rules.login(&login);
                self.seen.login = Some(login);
                judged?;
                self.stage = Stage::Request;
                Ok(Some(length))
            }
            Stage::Request => {
                let Some((request, length)) = whole(wire::request(&self.held))? else { return Ok(None) };
                let judged = self.rules.request(&request);
                self.seen.request = Some(request);
                judged?;
                self.stage = Stage::Over;
                Ok(Some(length))
            }
            Stage::Over => Ok(Some(self.held.len())),
        }
    }

    fn greeting(&mut self) -> Result<Option<usize>, Fault> {
        match self.held.first() {
            None => return Ok(None),
            Some(5) => {}
            // What it asks for is worth telling; none of it gets further.
            Some(&first) if self.held.len() < LONGEST && !rules::is_foreign_request(first, &self.held) => {
                return Ok(None);
            }
            Some(&first) => {
                self.seen.foreign = rules::foreign_destination(&self.held);
                return Err(rules::foreign(first, &self.held));
            }
        }
        let Some((methods, length)) = whole(wire::greeting(&self.held))? else { return Ok(None) };
        let judged = self.rules.greeting(&methods);
        self.seen.offered = Some(methods);
        judged?;
        self.stage = Stage::Choice;
        Ok(Some(length))
    }

    /// The proxy's choice is judged when the client goes on with it.
    fn choice(&mut self) -> Result<Option<usize>, Fault> {
        if self.answer.len() < 2 || self.held.is_empty() {
            return Ok(None);
        }
        let Some(chosen) = self.seen.chosen else { return Err(Fault::ProxyIsNone) };
        self.rules.choice(self.seen.offered.as_deref().unwrap_or_default(), chosen)?;
        self.stage = if chosen == PASSWORD { Stage::Login } else { Stage::Request };
        debug_assert!(matches!(chosen, PASSWORD | NO_AUTH));
        Ok(Some(0))
    }
}

fn whole<T>(parsed: Parsed<T>) -> Result<Option<(T, usize)>, Fault> {
    match parsed {
        Parsed::Whole(message, length) => Ok(Some((message, length))),
        Parsed::Partial => Ok(None),
        Parsed::Wrong(how) => Err(Fault::Malformed(how)),
    }
}
