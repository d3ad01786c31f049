//! A connection to a proxy whose handshake is looked at as it goes by.
//!
//! What is judged good goes on to the proxy, and nothing else does. What the proxy says goes to the program.
//! As soon as the handshake is over the two sockets are a [`Flow`]: later bytes are not touched.

use crate::proxy::handshake::{Fault, Inspector, Progress, Seen};
use crate::relay::flow::OnEnd;
use crate::relay::{Actor, Events, Flow, Next, Place, Unsettled, sys};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Told what came of a handshake, with the fault if it is a leak; says whether the connection may go on.
pub type Verdict = Box<dyn FnOnce(&Seen, Option<&Fault>) -> Onward + Send>;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// It goes on, unjudged from here.
    Pass,
    /// It is reset.
    Reset,
}

/// What is to be done with a connection when it stands.
pub struct Examiner {
    /// Judges the bytes.
    pub inspector: Inspector,
    /// Hears the result.
    pub verdict: Verdict,
}

/// Slots of the reactor, as [`Flow`] has them.
const PROGRAM: u8 = 0;
const PROXY: u8 = 1;

/// Read at a time: a handshake's messages are shorter.
const CHUNK: usize = 1024;

/// Bytes for the program that wait; the proxy's part of a handshake is far shorter.
const ENOUGH: usize = 64 << 10;

/// The connection, while its handshake lasts.
pub struct Inspecting {
    sockets: Option<(OwnedFd, OwnedFd)>,
    inspector: Inspector,
    verdict: Option<Verdict>,
    to_proxy: Vec<u8>,
    to_program: Vec<u8>,
    /// The proxy has ended its side.
    proxy_ended: bool,
    /// The program has ended its own.
    program_ended: bool,
    on_end: Option<OnEnd>,
}

impl Inspecting {
    /// `program` is our end of the program's connection, `proxy` the way on; both are non-blocking.
    #[must_use]
    pub fn new(program: OwnedFd, proxy: OwnedFd, examiner: Examiner, on_end: OnEnd) -> Self {
        Self {
            sockets: Some((program, proxy)),
            inspector: examiner.inspector,
            verdict: Some(examiner.verdict),
            to_proxy: Vec::new(),
            to_program: Vec::new(),
            proxy_ended: false,
            program_ended: false,
            on_end: Some(on_end),
        }
    }

    fn pump(&mut self, place: &Place<'_>) -> Next {
        loop {
            let Some((program, proxy)) = &self.sockets else { return Next::End };
            let (program, proxy) = (program.as_fd(), proxy.as_fd());
            let mut moved = match transmit(proxy, &mut self.to_proxy) {
                Ok(sent) => sent > 0,
                Err(_) => return self.breaks(),
            };
            match transmit(program, &mut self.to_program) {
                Ok(sent) => moved |= sent > 0,
                Err(_) => return self.breaks(),
            }
            let mut buffer = [0; CHUNK];
            if !self.proxy_ended && self.to_program.len() < ENOUGH {
                match sys::receive(proxy, &mut buffer, MsgFlags::empty()) {
                    Ok(0) => {
                        self.proxy_ended = true;
                        moved = true;
                    }
                    Ok(length) => {
                        let bytes = buffer.get(..length).unwrap_or_default();
                        self.to_program.extend_from_slice(bytes);
                        place.moved(length);
                        let advance = self.inspector.from_proxy(bytes);
                        if let Some(next) = self.advance(advance) {
                            return next;
                        }
                        continue;
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(_) => return self.breaks(),
                }
            }
            if self.proxy_ended && self.to_program.is_empty() {
                // ENOTCONN: the program is gone, as reading from it will tell.
                let _: Result<(), Errno> = shutdown(program.as_raw_fd(), Shutdown::Write);
            }
            if self.program_ended && (self.proxy_ended || !self.inspector.awaits_proxy()) {
                return self.both_said();
            }
            if self.inspector.has_room() && !self.program_ended {
                match sys::receive(program, &mut buffer, MsgFlags::empty()) {
                    Ok(0) => {
                        self.program_ended = true;
                        moved = true;
                    }
                    Ok(length) => {
                        place.moved(length);
                        moved = true;
                        let advance = self.inspector.from_client(buffer.get(..length).unwrap_or_default());
                        if let Some(next) = self.advance(advance) {
                            return next;
                        }
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(_) => return self.breaks(),
                }
            }
            if !moved {
                return Next::Wait;
            }
        }
    }

    /// Takes what the inspector says; the connection's next life, if this one is over.
    fn advance(&mut self, (good, progress): (Vec<u8>, Progress)) -> Option<Next> {
        self.to_proxy.extend(good);
        match progress {
            Progress::Going => None,
            Progress::Good => {
                self.tell(None);
                Some(self.pass())
            }
            Progress::Bad(fault) => Some(match self.tell(Some(&fault)) {
                Onward::Reset => self.reset(),
                Onward::Pass => {
                    let held = self.inspector.take_held();
                    self.to_proxy.extend(held);
                    self.pass()
                }
            }),
        }
    }

    /// Nothing more will be said that could change anything.
    fn both_said(&mut self) -> Next {
        match self.inspector.end() {
            Progress::Bad(fault) => {
                if self.tell(Some(&fault)) == Onward::Reset {
                    return self.reset();
                }
                let held = self.inspector.take_held();
                self.to_proxy.extend(held);
            }
            // It has said nothing, or what it said was good: nothing more will come.
            Progress::Going | Progress::Good => {}
        }
        self.pass()
    }

    fn tell(&mut self, fault: Option<&Fault>) -> Onward {
        self.verdict.take().map_or(Onward::Reset, |verdict| verdict(self.inspector.seen(), fault))
    }

    fn pass(&mut self) -> Next {
        let (Some((program, proxy)), Some(on_end)) = (self.sockets.take(), self.on_end.take()) else {
            return Next::End;
        };
        let early = std::mem::take(&mut self.to_program);
        let flow = Flow::new(program, proxy, early, on_end).with_outgoing(std::mem::take(&mut self.to_proxy));
        Next::Become(Box::new(flow))
    }

    fn reset(&mut self) -> Next {
        if let Some((program, _)) = &self.sockets {
            sys::reset_on_close(program.as_fd());
        }
        self.sockets = None;
        Next::End
    }

    /// One side failed: the other is to see it.
    fn breaks(&mut self) -> Next {
        if let Some((program, proxy)) = &self.sockets {
            sys::reset_on_close(program.as_fd());
            sys::reset_on_close(proxy.as_fd());
        }
        self.sockets = None;
        Next::End
    }
}

/// Sends what can be sent of `bytes`.
fn transmit(socket: std::os::fd::BorrowedFd<'_>, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
    let mut sent = 0_usize;
    while !bytes.is_empty() {
        match sys::transmit(socket, bytes, MsgFlags::empty()) {
            Ok(length) => {
                bytes.drain(..length.min(bytes.len()));
                sent = sent.saturating_add(length);
            }
            // Our end may still be about to be established.
            Err(Errno::EAGAIN | Errno::ENOTCONN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(sent)
}

impl Actor for Inspecting {
    fn start(&mut self, place: &Place<'_>) -> Next {
        let Some((program, proxy)) = &self.sockets else { return Next::End };
        let watched = [(PROGRAM, program), (PROXY, proxy)].map(|(slot, socket)| {
            sys::send_at_once(socket.as_fd());
            place.watch(slot, socket.as_fd())
        });
        // Whoever came before us watches it already, under the same number.
        if watched.iter().any(|watched| !matches!(watched, Ok(()) | Err(Errno::EEXIST))) {
            return self.breaks();
        }
        self.pump(place)
    }

    fn ready(&mut self, _: u8, _: Events, place: &Place<'_>) -> Next {
        self.pump(place)
    }

    fn resume(&mut self, place: &Place<'_>) -> Next {
        self.pump(place)
    }

    fn unsettled(&self) -> Unsettled {
        if self.to_proxy.is_empty() { Unsettled::Open } else { Unsettled::Bytes }
    }
}

impl Drop for Inspecting {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
    }
}
