//! The threads that receive notifications.
//!
//! One leads: it waits in the ioctl and handles what it receives at once. Where the handler needs time,
//! the leader first hands its place to a resting thread (or a new one) and only then goes on with its
//! call. So the kernel wakes one thread a call, and a slow call holds up nobody.
//!
//! Nobody can tell beforehand whether a program's memory has to be waited for: its pages may be another
//! process's to fill (userfaultfd(2), FUSE). So the leader just reads; where that lasts, the watchdog notices
//! it and gives its place to another.

use crate::again::Repeats;
use crate::listener::{Listener, Notification};
use crate::probe;
use crate::reply::Answering;
use crate::tables;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::remote::{Identity, Remote, RemoteCache};
use sockstrace_backend::watchdog::Mark;
use sockstrace_backend::{
    Abi, BackendError, Handler, InterceptedCall, Look, MemoryError, Outcome, Patience, Reply, Syscall, Tracee, tree,
};
use std::cell::{Ref, RefCell};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Small, as there may be a thousand of them; handling a call needs a few KiB.
const STACK_BYTES: usize = 256 << 10;

/// Threads that rest for their next turn; more than these end.
const RESTING_AT_MOST: usize = 4;

/// Threads that are kept in mind; each costs up to four descriptors.
const CACHED_REMOTES: usize = 160;

/// So many calls in a row come from one thread before it counts as the only one that calls.
const ROW: u32 = 16;

/// Starts receiving. The threads end when no task uses the filter any more. To be called on the thread that
/// reaps our children.
pub fn start(listener: OwnedFd, handler: Arc<dyn Handler>) -> Result<(), BackendError> {
    let shared = Arc::new(Shared {
        listener: Listener::new(listener),
        handler,
        reaper: nix::unistd::gettid(),
        repeats: Repeats::default(),
        waits_killably: probe::waits_killably(),
        remotes: RemoteCache::new(CACHED_REMOTES),
        callers: Callers::default(),
        turns: Mutex::new(Turns::default()),
        turn: Condvar::new(),
    });
    spawn(&shared).map_err(|error| {
        BackendError::Failed("starting a thread".into(), sockstrace_backend::filter::errno_of(&error))
    })
}

fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let builder = std::thread::Builder::new().name("receiver".into()).stack_size(STACK_BYTES);
    builder.spawn(move || shared.lead()).map(drop)
}

/// Whether a thread leads. Changed under the lock of [`Turns`] alone. Who has been relieved without having seen
/// it may receive one call more: no harm.
type Post = Arc<AtomicBool>;

struct Shared {
    listener: Listener,
    handler: Arc<dyn Handler>,
    reaper: Pid,
    repeats: Repeats,
    waits_killably: bool,
    remotes: RemoteCache,
    callers: Callers,
    turns: Mutex<Turns>,
    turn: Condvar,
}

/// Who calls. One thread sleeps until it is answered, and we until it calls again: one processor for both spares waking
/// another one, which costs more than all else. Of several threads, all would gather on that one, while another stands
/// idle.
#[derive(Default)]
struct Callers {
    last: AtomicI32,
    row: AtomicU32,
}

impl Callers {
    /// A call of this thread; only the leader counts. What to change: whether there is one caller alone.
    fn count(&self, tid: i32) -> Option<bool> {
        let row = self.row.load(Ordering::Relaxed);
        if self.last.load(Ordering::Relaxed) != tid {
            self.last.store(tid, Ordering::Relaxed);
            self.row.store(0, Ordering::Relaxed);
            return (row >= ROW).then_some(false);
        }
        if row < ROW {
            self.row.store(row.saturating_add(1), Ordering::Relaxed);
        }
        (row.saturating_add(1) == ROW).then_some(true)
    }
}

#[derive(Default)]
struct Turns {
    /// Threads that wait to lead.
    resting: usize,
    /// Turns given to them and not yet taken.
    given: usize,
}

impl Shared {
    fn lead(self: &Arc<Self>) {
        let post = Post::new(AtomicBool::new(true));
        let mark = {
            let (shared, post) = (Arc::clone(self), Post::clone(&post));
            Mark::new(move || shared.relieve(&post))
        };
        loop {
            match self.listener.receive() {
                Ok(notification) => {
                    if let Some(alone) = self.callers.count(notification.tid) {
                        self.listener.wake_near(alone);
                    }
                    self.handle(&notification, &post, &mark);
                    if !post.load(Ordering::Acquire) && !self.rest(&post) {
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) if self.listener.is_abandoned() => return,
                // The caller was killed between its wake-up and our read.
                Err(Errno::ENOENT) => {}
                // Nothing else is documented. Without a receiver, trapped calls would wait for ever: end,
                // so that they fail with ENOSYS.
                Err(errno) => {
                    eprintln!("sockstrace: receiving from the seccomp listener failed: {}", errno.desc());
                    std::process::abort();
                }
            }
        }
    }

    fn answering(&self) -> Answering<'_> {
        let (listener, repeats) = (&self.listener, &self.repeats);
        Answering { listener, reaper: self.reaper, repeats, waits_killably: self.waits_killably }
    }

    fn handle(self: &Arc<Self>, notification: &Notification, post: &Post, mark: &Mark) {
        if tables::makes_sharer(notification) {
            tree::note_shared_table();
            return self.answering().carry_out(notification, &Reply::Continue);
        }
        let Some(call) = intercepted(notification) else {
            return self.answering().carry_out(notification, &Reply::Fail(Errno::ENOSYS));
        };
        let waiting = match Waiting::new(self, &call, notification) {
            Ok(waiting) => waiting,
            // The thread is gone, or we are out of descriptors: refuse.
            Err(errno) => return self.answering().carry_out(notification, &Reply::Fail(errno)),
        };
        // Unwatched (no thread is to be had) it may block all the same, if somebody can lead meanwhile.
        let hurried = mark.during(|| self.handler.handle(&call, &waiting, Patience::AtOnce));
        if !matches!(hurried, Some(Outcome::Reply(_)))
            || matches!(hurried, Some(Outcome::Reply(Reply::OpenSocket { .. })))
        {
            self.relieve(post);
        }
        let outcome = match hurried {
            Some(Outcome::NeedsPatience) | None => self.handler.handle(&call, &waiting, Patience::MayBlock),
            Some(outcome) => outcome,
        };
        match outcome {
            Outcome::Reply(reply) => self.answering().carry_out(notification, &reply),
            Outcome::Look(reply, look) => self.look_and_answer(notification, &call, &reply, look),
            Outcome::NeedsPatience => self.answering().carry_out(notification, &Reply::Fail(Errno::EPERM)),
        }
    }

    fn look_and_answer(&self, notification: &Notification, call: &InterceptedCall, reply: &Reply, look: Look) {
        match self.remotes.get(call.tid) {
            Ok(remote) => {
                self.answering().look_and_carry_out(notification, call, remote.pid(), reply, look);
            }
            // It is gone.
            Err(_) => self.answering().carry_out(notification, reply),
        }
    }

    /// Makes another thread the leader in place of the one of this post, which stays where there is none to be
    /// had.
    fn relieve(self: &Arc<Self>, post: &Post) {
        let mut turns = self.turns();
        if !post.load(Ordering::Acquire) {
            return;
        }
        let relieved = if turns.given < turns.resting {
            turns.given = turns.given.saturating_add(1);
            self.turn.notify_one();
            true
        } else {
            spawn(self).is_ok()
        };
        post.store(!relieved, Ordering::Release);
    }

    /// Rests until there is a turn to lead; `false` where enough others rest.
    fn rest(&self, post: &Post) -> bool {
        let mut turns = self.turns();
        if turns.resting >= RESTING_AT_MOST {
            return false;
        }
        turns.resting = turns.resting.saturating_add(1);
        while turns.given == 0 {
            turns = self.turn.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.given = turns.given.saturating_sub(1);
        turns.resting = turns.resting.saturating_sub(1);
        post.store(true, Ordering::Release);
        true
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn intercepted(notification: &Notification) -> Option<InterceptedCall> {
    let abi = Abi::from_audit_arch(notification.arch)?;
    let syscall = Syscall::from_number(notification.number, abi)?;
    Some(InterceptedCall {
        id: notification.id,
        tid: Pid::from_raw(notification.tid),
        abi,
        syscall,
        args: notification.args,
    })
}

/// A thread that waits in a notification.
struct Waiting<'s> {
    shared: &'s Shared,
    id: u64,
    remote: RefCell<Arc<Remote>>,
    repeats: Option<u64>,
}

impl<'s> Waiting<'s> {
    fn new(shared: &'s Shared, call: &InterceptedCall, notification: &Notification) -> Result<Self, Errno> {
        if notification.tid <= 0 {
            return Err(Errno::ESRCH);
        }
        let remote = shared.remotes.get(call.tid)?;
        let repeats = shared.repeats.of(call, remote.pid(), notification.ip);
        let (id, remote) = (notification.id, RefCell::new(remote));
        Ok(Self { shared, id, remote, repeats })
    }

    fn remote(&self) -> Ref<'_, Arc<Remote>> {
        self.remote.borrow()
    }
}

impl Tracee for Waiting<'_> {
    fn tid(&self) -> Pid {
        self.remote().tid()
    }

    fn pid(&self) -> Pid {
        self.remote().pid()
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError> {
        self.remote().read(address, buffer)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        // Between our last look and now the thread may have been killed and its number reused.
        if !self.is_waiting() {
            return Err(MemoryError::Gone);
        }
        self.remote().write(address, data)
    }

    fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno> {
        let result = self.remote().duplicate(fd);
        if result.as_ref().err() != Some(&Errno::ESRCH) {
            return result;
        }
        // The cache held a thread of this number that has ended since.
        let tid = self.tid();
        let remote = self.shared.remotes.renew(tid)?;
        if !self.is_waiting() {
            return Err(Errno::ESRCH);
        }
        let result = remote.duplicate(fd);
        self.remote.replace(remote);
        result
    }

    fn is_waiting(&self) -> bool {
        self.shared.listener.is_valid(self.id)
    }

    fn repeats(&self) -> Option<u64> {
        self.repeats
    }

    fn identity(&self) -> Result<Identity, Errno> {
        self.remote().identity()
    }

    fn names(&self) -> (Option<OsString>, Option<PathBuf>) {
        (self.remote().thread_name(), self.remote().executable())
    }

    fn is_alone(&self) -> bool {
        self.remote().is_alone()
    }

    fn may_linger(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_is_told_from_several() {
        let callers = Callers::default();
        let mut changes = Vec::new();
        for (index, tid) in [7; 40].into_iter().chain([8, 7, 8, 7]).chain([8; 20]).enumerate() {
            changes.extend(callers.count(tid).map(|alone| (index, alone)));
        }
        assert_eq!(changes, [(16, true), (40, false), (60, true)]);
    }
}
