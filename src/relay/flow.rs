//! Two connected sockets, each of which gets what the other receives: bytes without copying them
//! (splice(2)), the end of each direction by itself, resets as resets, urgent data as urgent.
//!
//! Nothing is read before the other side can take it, so that whoever sends too fast is held up by TCP, as
//! without us; at most one chunk a direction is on its way.

use super::pipes::{self, Pipe};
use super::reactor::{Actor, Events, Next, Place, Unsettled};
use super::sys;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, shutdown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that are copied at a time, where splicing can't be had: around urgent data, or without a pipe.
const COPIED: usize = 64 << 10;
/// Chunks that a direction moves before others have their turn.
const TURN: usize = 8;

/// Called once when the flow has ended.
pub type OnEnd = Box<dyn FnOnce() + Send>;

/// The two sockets and what is between them.
pub struct Flow {
    /// Slot 0: the program's end.
    inner: End,
    /// Slot 1: the way out.
    outer: End,
    /// What the program sends.
    outward: Direction,
    /// What the program receives.
    inward: Direction,
    on_end: Option<OnEnd>,
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts, each named at its use")]
struct End {
    socket: OwnedFd,
    /// There may be something to read (also: an end, an error).
    readable: bool,
    /// There may be room to write.
    writable: bool,
    /// There is urgent data, or the mark of it.
    urgent: bool,
    /// The urgent byte was read, but not yet what follows: splice(2) doesn't get past it.
    marked: bool,
    /// Nobody takes what is written there: it failed.
    broken: bool,
}

/// One direction.
#[derive(Default)]
struct Direction {
    pipe: Option<Pipe>,
    /// Bytes that were copied, and wait.
    copied: Vec<u8>,
    /// An urgent byte that waits behind them.
    urgent: Option<u8>,
    /// The sender has ended: nothing more will come.
    ended: bool,
    /// That was passed on, or nobody is there to whom it could be.
    done: bool,
}

/// What came of moving bytes in one direction.
#[derive(PartialEq, Eq)]
enum Moved {
    /// All that can be moved now.
    Enough,
    /// There is more, but others have their turn.
    More,
    /// The sender's connection failed: the other end is to be reset.
    Reset,
}

impl Flow {
    /// Joins `inner` (the program's end) and `outer` (the way out); both must be non-blocking. `early` is what
    /// has been received from outside already and is for the program. `on_end` is called when both have
    /// ended.
    #[must_use]
    pub fn new(inner: OwnedFd, outer: OwnedFd, early: Vec<u8>, on_end: OnEnd) -> Self {
        let inward = Direction { copied: early, ..Direction::default() };
        Self {
            inner: End::new(inner),
            outer: End::new(outer),
            outward: Direction::default(),
            inward,
            on_end: Some(on_end),
        }
    }

    /// As [`Flow::new`], where bytes for the outside have been received from the program already.
    #[must_use]
    pub fn with_outgoing(mut self, early: Vec<u8>) -> Self {
        self.outward.copied = early;
        self
    }

    fn pump(&mut self, place: &Place<'_>) -> Next {
        let broken = (self.inner.broken, self.outer.broken);
        let outward = self.outward.pump(&mut self.inner, &mut self.outer, place);
        let inward = self.inward.pump(&mut self.outer, &mut self.inner, place);
        if outward == Moved::Reset {
            sys::reset_on_close(self.outer.socket.as_fd());
            return Next::End;
        }
        if inward == Moved::Reset {
            sys::reset_on_close(self.inner.socket.as_fd());
            return Next::End;
        }
        // An end that failed after it had ended properly: what was for it is lost, and its peer must know.
        for (broken, ended, other) in [
            (self.inner.broken, self.outward.done, &self.outer),
            (self.outer.broken, self.inward.done, &self.inner),
        ] {
            if broken && ended {
                sys::reset_on_close(other.socket.as_fd());
                return Next::End;
            }
        }
        if self.outward.done && self.inward.done {
            return Next::End;
        }
        // What has just failed as a destination may have to be read to its end as a source.
        let has_failed = broken != (self.inner.broken, self.outer.broken);
        if has_failed || outward == Moved::More || inward == Moved::More { Next::Again } else { Next::Wait }
    }
}

impl Actor for Flow {
    fn start(&mut self, place: &Place<'_>) -> Next {
        for (slot, end) in [(0, &self.inner), (1, &self.outer)] {
            match place.watch(slot, end.socket.as_fd()) {
                // Whoever came before us watches it already, under the same number.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(_) => return Next::End,
            }
            sys::send_at_once(end.socket.as_fd());
        }
        self.pump(place)
    }

    fn ready(&mut self, slot: u8, events: Events, place: &Place<'_>) -> Next {
        let end = if slot == 0 { &mut self.inner } else { &mut self.outer };
        let failed = events.intersects(Events::EPOLLERR | Events::EPOLLHUP);
        end.readable |= failed || events.intersects(Events::EPOLLIN | Events::EPOLLRDHUP | Events::EPOLLPRI);
        end.writable |= failed || events.contains(Events::EPOLLOUT);
        end.urgent |= events.contains(Events::EPOLLPRI);
        self.pump(place)
    }

    fn resume(&mut self, place: &Place<'_>) -> Next {
        self.pump(place)
    }

    fn unsettled(&self) -> Unsettled {
        match &self.outward {
            Direction { done: true, .. } => Unsettled::Nothing,
            outward if outward.holds_bytes() || outward.ended => Unsettled::Bytes,
            _ => Unsettled::Open,
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
    }
}

impl End {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, readable: true, writable: true, urgent: false, marked: false, broken: false }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Direction {
    fn holds_bytes(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.filled > 0) || !self.copied.is_empty() || self.urgent.is_some()
    }

    fn pump(&mut self, from: &mut End, to: &mut End, place: &Place<'_>) -> Moved {
        if self.done {
            return Moved::Enough;
        }
        let moved = self.move_bytes(from, to, place);
        if !self.holds_bytes()
            && let Some(pipe) = self.pipe.take()
        {
            pipe.give_back();
        }
        moved
    }

    fn move_bytes(&mut self, from: &mut End, to: &mut End, place: &Place<'_>) -> Moved {
        let mut turns = 0;
        loop {
            if self.holds_bytes() && !self.deliver(to, place) {
                if !to.broken {
                    return Moved::Enough;
                }
                // Nobody takes it. Its own direction tells how that came about: a reset, most likely.
                self.discard();
                to.readable = true;
            }
            if self.ended {
                // ENOTCONN: it is gone, as its own direction will see.
                let _: Result<(), Errno> = shutdown(to.socket_number(), Shutdown::Write);
                self.done = true;
                return Moved::Enough;
            }
            if !from.readable || !(to.writable || to.broken) {
                return Moved::Enough;
            }
            if turns == TURN {
                return Moved::More;
            }
            turns += 1;
            match self.read(from, to) {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => from.readable = false,
                Err(_) => return Moved::Reset,
            }
        }
    }

    fn discard(&mut self) {
        self.pipe = None;
        self.copied = Vec::new();
        self.urgent = None;
    }

    /// Reads what there is; notes the end.
    fn read(&mut self, from: &mut End, to: &End) -> Result<(), Errno> {
        if !from.urgent
            && !from.marked
            && !to.broken
            && let Some(pipe) = self.pipe.take().or_else(|| Pipe::take().ok())
        {
            let result = self.pipe.insert(pipe).fill(from.fd(), pipes::chunk());
            match result {
                Ok(1..) => return Ok(()),
                // The end, or the mark of urgent data: reading tells.
                Ok(_) => from.urgent = sys::is_at_mark(from.fd()),
                Err(errno) => return Err(errno),
            }
        }
        self.read_by_copy(from)
    }

    fn read_by_copy(&mut self, from: &mut End) -> Result<(), Errno> {
        if from.urgent && sys::is_at_mark(from.fd()) {
            let mut byte = [0];
            (from.urgent, from.marked) = (false, true);
            match sys::receive(from.fd(), &mut byte, MsgFlags::MSG_OOB) {
                Ok(1) => {
                    self.urgent = byte.first().copied();
                    return Ok(());
                }
                // EINVAL: there is none, or it was read.
                Ok(_) | Err(Errno::EINVAL | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mut buffer = vec![0; COPIED];
        match sys::receive(from.fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                buffer.truncate(length);
                self.copied = buffer;
                from.marked = false;
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Writes what waits; whether all of it is gone.
    fn deliver(&mut self, to: &mut End, place: &Place<'_>) -> bool {
        while self.holds_bytes() {
            if to.broken || !to.writable {
                return false;
            }
            match self.write(to.fd()) {
                Ok(length) => place.moved(length),
                Err(Errno::EAGAIN) => to.writable = false,
                Err(Errno::EINTR) => {}
                Err(_) => to.broken = true,
            }
        }
        true
    }

    fn write(&mut self, to: BorrowedFd<'_>) -> Result<usize, Errno> {
        // Copied bytes are read only where the pipe is empty, and the other way round.
        if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.filled > 0) {
            return pipe.drain(to);
        }
        if !self.copied.is_empty() {
            let length = sys::transmit(to, &self.copied, MsgFlags::empty())?;
            self.copied.drain(..length);
            return Ok(length);
        }
        if let Some(byte) = self.urgent {
            sys::transmit(to, &[byte], MsgFlags::MSG_OOB)?;
            self.urgent = None;
        }
        Ok(1)
    }
}

impl End {
    fn socket_number(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.socket.as_raw_fd()
    }
}
