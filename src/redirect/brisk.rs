//! A proxy that answers at once.
//!
//! One on this machine has made a connection on this machine in a fraction of a millisecond. Until then the
//! program's thread has, as far as anybody can see, not begun its connect(2): so a short while is nothing that a
//! scheduler doesn't do to it as well. Then its socket need not be held ([`crate::relay::ground`]), and no thread but
//! the caller's has to be woken on the way. Whoever takes longer is left to [`super::dial`], in the middle of the
//! conversation.

use super::dial::{Errand, Way};
use crate::proxy::client::{Negotiation, Progress, Refusal};
use crate::relay::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a proxy has for all its answers.
const SHORT_WHILE: Duration = Duration::from_millis(2);

/// What is said to a proxy, and how far that has come.
pub struct Conversation {
    negotiation: Negotiation,
    outgoing: Vec<u8>,
}

/// Why a conversation has ended.
pub enum Ended {
    /// The proxy says no, or nothing that makes sense.
    Refused(Refusal),
    /// The connection to it broke.
    Broken(Errno),
}

/// What came of asking.
#[allow(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub enum Asked {
    /// The connection stands; bytes of it that came with the answer.
    Through(OwnedFd, Vec<u8>),
    /// The proxy refuses.
    Refused(Refusal),
    /// It takes its time: how to go on.
    Later(Errand, Vec<Way>),
}

impl Conversation {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(negotiation: Negotiation) -> Self {
        Self { negotiation, outgoing: Vec::new() }
    }

    /// Says and hears what can be at this moment. `None`: the proxy has to be waited for; at the end, the bytes that
    /// came behind its answer.
    ///
    /// # Errors
    /// Why it has ended.
    pub fn go_on(&mut self, proxy: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Ended> {
        loop {
            self.outgoing.extend(self.negotiation.take_outgoing());
            while !self.outgoing.is_empty() {
                match sys::transmit(proxy, &self.outgoing, MsgFlags::empty()) {
                    Ok(length) => drop(self.outgoing.drain(..length)),
                    Err(Errno::EAGAIN) => return Ok(None),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(Ended::Broken(errno)),
                }
            }
            let mut buffer = vec![0; self.negotiation.wants()];
            let length = match sys::receive(proxy, &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                // Closed with something of ours unread: closed.
                Err(Errno::ECONNRESET) => 0,
                Err(errno) => return Err(Ended::Broken(errno)),
            };
            match self.negotiation.take(buffer.get(..length).unwrap_or_default()) {
                Ok(Progress::More) => {}
                Ok(Progress::Done { early, .. }) => return Ok(Some(early)),
                Err(refusal) => return Err(Ended::Refused(refusal)),
            }
        }
    }

    fn waits_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

/// Asks, and waits a short while for the answer.
pub fn ask(errand: Errand, mut ways: Vec<Way>) -> Asked {
    let Errand::Ask(mut conversation) = errand else { return Asked::Later(errand, ways) };
    let Some(way) = ways.pop() else { return Asked::Later(Errand::Ask(conversation), ways) };
    match way.connect() {
        Ok(proxy) => match converse(&mut conversation, proxy.as_fd()) {
            Ok(Some(early)) => return Asked::Through(proxy, early),
            Err(Ended::Refused(refusal)) => return Asked::Refused(refusal),
            // A break is met again, where it is known what it means.
            Ok(None) | Err(Ended::Broken(_)) => ways.push(Way::Begun(proxy)),
        },
        Err(errno) => ways.push(Way::Failed(errno)),
    }
    Asked::Later(Errand::Ask(conversation), ways)
}

fn converse(conversation: &mut Conversation, proxy: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Ended> {
    let begun = Instant::now();
    // A UNIX socket has no such state.
    if sys::tcp_state(proxy).is_ok_and(|state| state != sys::ESTABLISHED) {
        return Ok(None);
    }
    sys::send_at_once(proxy);
    loop {
        if let Some(early) = conversation.go_on(proxy)? {
            return Ok(Some(early));
        }
        let left = SHORT_WHILE.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        let awaited = if conversation.waits_to_send() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        // Interrupted or not: what is there is looked at, and time passes.
        let left = Some(TimeSpec::from_duration(left));
        let _: Result<i32, Errno> = ppoll(&mut [PollFd::new(proxy, awaited)], left, None);
    }
}
