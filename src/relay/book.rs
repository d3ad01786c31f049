//! What is known of each socket that was redirected: by the socket itself (`SO_COOKIE`), whatever number it
//! has in which process.

use super::sys;
use nix::errno::Errno;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ended connections that are remembered, because the program may still hold the socket and ask.
const REMEMBERED: usize = 4096;

/// Where a redirected socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for an answer from outside.
    Pending,
    /// It is connected.
    Connected,
    /// It was refused; connect(2) or `SO_ERROR` is to tell this errno.
    Refused(Errno),
}

/// A redirected socket.
#[derive(Debug)]
pub struct Record {
    /// Its `SO_COOKIE`.
    pub cookie: u64,
    /// Where the program wanted to go, and what it is told as its peer.
    pub destination: SocketAddr,
    /// The peer that the kernel names.
    pub hole: SocketAddr,
    stage: Mutex<Stage>,
    /// Nobody waits for it any more.
    cancelled: AtomicBool,
    /// Its thread was interrupted in connect(2), and may call again.
    interrupted: AtomicBool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    records: HashMap<u64, Arc<Record>>,
    /// Those that have ended, oldest first.
    ended: VecDeque<Arc<Record>>,
}

impl Record {
    /// A socket that is about to connect.
    #[must_use]
    pub fn new(cookie: u64, destination: SocketAddr, hole: SocketAddr) -> Arc<Self> {
        let (cancelled, interrupted) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { cookie, destination, hole, stage: Mutex::new(Stage::Pending), cancelled, interrupted })
    }

    /// Whoever waited has given up.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether whoever waited has given up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Notes whether connect(2) was interrupted and may be called again; what was noted before.
    pub fn interrupt(&self, interrupted: bool) -> bool {
        self.interrupted.swap(interrupted, Ordering::AcqRel)
    }

    /// Where it is. While somebody changes it ([`Record::change`]) this waits, for microseconds.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.lock()
    }

    /// Carries out `act`, which changes the socket, and notes `stage`; to others both happen at once.
    pub fn change<T>(&self, stage: Stage, act: impl FnOnce() -> T) -> T {
        let mut current = self.lock();
        *current = stage;
        act()
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Notes a record; what there was for the socket is forgotten.
    pub fn enter(&self, record: &Arc<Record>) {
        self.pages().records.insert(record.cookie, Arc::clone(record));
    }

    /// The record of a socket (a duplicate will do).
    #[must_use]
    pub fn find(&self, socket: BorrowedFd<'_>) -> Option<Arc<Record>> {
        if self.pages().records.is_empty() {
            return None;
        }
        let cookie = sys::cookie(socket).ok()?;
        self.pages().records.get(&cookie).cloned()
    }

    /// The connection is over. It is remembered for a while.
    pub fn end(&self, record: &Arc<Record>) {
        let mut pages = self.pages();
        pages.ended.push_back(Arc::clone(record));
        while pages.ended.len() > REMEMBERED {
            let Some(oldest) = pages.ended.pop_front() else { break };
            // The socket may have been redirected again since.
            if pages.records.get(&oldest.cookie).is_some_and(|known| Arc::ptr_eq(known, &oldest)) {
                pages.records.remove(&oldest.cookie);
            }
        }
    }

    /// Forgets a record: the socket is as it was.
    pub fn forget(&self, record: &Arc<Record>) {
        let mut pages = self.pages();
        if pages.records.get(&record.cookie).is_some_and(|known| Arc::ptr_eq(known, record)) {
            pages.records.remove(&record.cookie);
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
