//! Pipes for splice(2), shared by all connections of a thread: only one with bytes in it is tied up.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Empty pipes that are kept.
const KEPT: usize = 16;

/// The size that is asked for, in bytes: `fs.pipe-max-size` by default, above which only root goes. Where an
/// ordinary user has too many (`fs.pipe-user-pages-soft`) it stays at what the kernel gives.
const SIZE: i32 = 1 << 20;

/// What may wait in all pipes together before connections get smaller pieces.
const PLENTY: usize = 64 << 20;
const SMALL_CHUNK: usize = 64 << 10;

/// Bytes that wait in all pipes.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How many bytes are to be taken from a socket at a time.
#[must_use]
pub fn chunk() -> usize {
    if WAITING.load(Ordering::Relaxed) > PLENTY { SMALL_CHUNK } else { SIZE as usize }
}

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes that wait in it.
    pub filled: usize,
}

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// Where there are no descriptors left.
    pub fn take() -> Result<Self, Errno> {
        if let Some(pipe) = POOL.with(|pool| pool.borrow_mut().pop()) {
            return Ok(pipe);
        }
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A small one works too.
        let _: Result<i32, Errno> = fcntl(&into, FcntlArg::F_SETPIPE_SZ(SIZE));
        Ok(Self { out, into, filled: 0 })
    }

    /// Gives it back. With bytes in it, it is closed.
    pub fn give_back(self) {
        if self.filled == 0 {
            POOL.with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEPT {
                    pool.push(self);
                }
            });
        }
    }

    /// Moves up to `most` bytes from a socket into the pipe. 0: the end, or (see tcp(7), urgent data) a mark.
    pub fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
        let moved = splice(from, None, &self.into, None, most, FLAGS)?;
        self.filled = self.filled.saturating_add(moved);
        WAITING.fetch_add(moved, Ordering::Relaxed);
        Ok(moved)
    }

    /// Moves bytes from the pipe to a socket.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> Result<usize, Errno> {
        let moved = splice(&self.out, None, to, None, self.filled, FLAGS)?;
        self.filled = self.filled.saturating_sub(moved);
        WAITING.fetch_sub(moved, Ordering::Relaxed);
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        WAITING.fetch_sub(self.filled, Ordering::Relaxed);
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);
