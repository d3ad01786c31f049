//! Two connected stream sockets made into one connection.
//!
//! Bytes go through a pipe by splice(2), without a copy in user space, and no further than the other end
//! takes them. A half that ends is shut down on the other side when all before it has gone through; a reset,
//! or an error, resets the other side.

use super::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::pipe2;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a pipe may hold; less where the user's share of pipe memory is used up (`pipe(7)`).
const PIPE_BYTES: i32 = 1 << 20;

/// One direction.
struct Half<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// Bytes in the pipe.
    held: usize,
    ended: bool,
    shut: bool,
}

/// Relays until both halves have ended or either side is reset. `b` may still be connecting. `sent` is called
/// once, when nothing more goes from `a` to `b`.
pub fn relay(a: &OwnedFd, b: &OwnedFd, sent: impl FnOnce()) {
    let mut sent = Some(sent);
    let mut tell = || sent.take().map_or((), |sent| sent());
    let result = run(a.as_fd(), b.as_fd(), &mut tell);
    tell();
    if result.is_err() {
        reset(a.as_fd());
        reset(b.as_fd());
    }
}

/// Closing will now send a reset.
fn reset(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // It can't fail on a stream socket of ours; for UNIX sockets it means nothing.
    let _: Result<(), Errno> = setsockopt(&socket, sockopt::Linger, &linger);
}

fn run(a: BorrowedFd<'_>, b: BorrowedFd<'_>, sent: &mut dyn FnMut()) -> Result<(), Errno> {
    for socket in [a, b] {
        let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // Small writes of the program must not wait for each other twice. Not there for UNIX sockets.
        let _: Result<(), Errno> = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    }
    wait_connected(b)?;
    let half = |from, to| Half { from, to, pipe: None, held: 0, ended: false, shut: false };
    let (mut there, mut back) = (half(a, b), half(b, a));
    while !(there.shut && back.shut) {
        // What is in a pipe must go out before more comes in.
        let wants = |reads: &Half<'_>, writes: &Half<'_>| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !reads.ended && reads.held == 0);
            events.set(PollFlags::POLLOUT, writes.held > 0);
            events
        };
        let asked = [wants(&there, &back), wants(&back, &there)];
        let mut fds: Vec<PollFd<'_>> = [a, b]
            .into_iter()
            .zip(asked)
            .zip([there.ended && back.shut, back.ended && there.shut])
            // A side that is through would report its hang-up for ever.
            .filter(|(_, through)| !through)
            .map(|((fd, events), _)| PollFd::new(fd, events))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        for fd in &fds {
            if fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
                sys::pending_error(fd.as_fd())?;
            }
        }
        there.step()?;
        back.step()?;
        if there.shut {
            sent();
        }
    }
    Ok(())
}

/// Waits until a connection that was begun is made.
fn wait_connected(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return sys::pending_error(socket),
        }
    }
}

impl Half<'_> {
    /// Moves what can be moved without waiting.
    fn step(&mut self) -> Result<(), Errno> {
        while self.held == 0 && !self.ended || self.held > 0 {
            let moved = if self.held == 0 { self.fill()? } else { self.drain()? };
            if !moved {
                break;
            }
        }
        if self.ended && self.held == 0 && !self.shut {
            self.shut = true;
            // ENOTCONN: the other side is gone, and needs no telling.
            match shutdown(self.to.as_raw_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTCONN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<bool, Errno> {
        let pipe = self.pipe.take().map_or_else(new_pipe, Ok)?;
        let result = moved(self.from, pipe.1.as_fd(), PIPE_BYTES as usize);
        self.pipe = Some(pipe);
        match result {
            Ok(0) => self.ended = true,
            Ok(length) => self.held = length,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }

    fn drain(&mut self) -> Result<bool, Errno> {
        let Some((reader, _)) = &self.pipe else { return Err(Errno::EBADF) };
        match moved(reader.as_fd(), self.to, self.held) {
            Ok(length) => {
                self.held = self.held.saturating_sub(length);
                Ok(length > 0)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pipe = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // EPERM, EBUSY: it stays as it is.
    let _: Result<i32, Errno> = fcntl(&pipe.1, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok(pipe)
}

fn moved(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> Result<usize, Errno> {
    loop {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(from, None, to, None, length, flags) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
