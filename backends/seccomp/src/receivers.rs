//! The threads that receive notifications.
//!
//! One leads: it waits in the ioctl and handles what it receives at once. Where the handler needs time,
//! the leader first hands its place to a resting thread (or a new one) and only then goes on with its
//! call. So the kernel wakes one thread a call, and a slow call holds up nobody.

use crate::again::Repeats;
use crate::listener::{Listener, Notification};
use crate::probe;
use crate::reply::Answering;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::remote::{Remote, RemoteCache};
use sockstrace_backend::{
    Abi, BackendError, Handler, InterceptedCall, Look, MemoryError, Outcome, Patience, Reply, Syscall, Tracee,
};
use std::cell::{Ref, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Small, as there may be a thousand of them; handling a call needs a few KiB.
const STACK_BYTES: usize = 256 << 10;

/// Threads that rest for their next turn; more than these end.
const RESTING_AT_MOST: usize = 4;

/// Cached pidfds; each is an open descriptor.
const CACHED_REMOTES: usize = 256;

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

struct Shared {
    listener: Listener,
    handler: Arc<dyn Handler>,
    reaper: Pid,
    repeats: Repeats,
    waits_killably: bool,
    remotes: RemoteCache,
    turns: Mutex<Turns>,
    turn: Condvar,
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
        loop {
            match self.listener.receive() {
                Ok(notification) => {
                    if !self.handle(&notification) && !self.rest() {
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

    /// Handles one call; whether this thread still leads.
    fn handle(self: &Arc<Self>, notification: &Notification) -> bool {
        let Some(call) = intercepted(notification) else {
            self.answering().carry_out(notification, &Reply::Fail(Errno::ENOSYS));
            return true;
        };
        let waiting = match Waiting::new(self, &call, notification) {
            Ok(waiting) => waiting,
            Err(errno) => {
                // The thread is gone, or we are out of descriptors: refuse.
                self.answering().carry_out(notification, &Reply::Fail(errno));
                return true;
            }
        };
        let (reply, look, leads) = match self.handler.handle(&call, &waiting, Patience::AtOnce) {
            Outcome::Reply(reply @ Reply::OpenSocket { .. }) => (reply, None, !self.pass_lead()),
            Outcome::Reply(reply) => (reply, None, true),
            // The thread must be waited for.
            Outcome::Look(reply, look) => (reply, Some(look), !self.pass_lead()),
            Outcome::NeedsPatience => {
                let leads = !self.pass_lead();
                let waiting = Waiting { patience: Patience::MayBlock, ..waiting };
                match self.handler.handle(&call, &waiting, Patience::MayBlock) {
                    Outcome::Reply(reply) => (reply, None, leads),
                    Outcome::Look(reply, look) => (reply, Some(look), leads),
                    Outcome::NeedsPatience => (Reply::Fail(Errno::EPERM), None, leads),
                }
            }
        };
        self.answer(notification, &call, &reply, look);
        leads
    }

    fn answer(&self, notification: &Notification, call: &InterceptedCall, reply: &Reply, look: Option<Look>) {
        let Some(look) = look else { return self.answering().carry_out(notification, reply) };
        match self.remotes.get(call.tid) {
            Ok(remote) => {
                self.answering().look_and_carry_out(notification, call, remote.pid(), reply, look);
            }
            // It is gone.
            Err(_) => self.answering().carry_out(notification, reply),
        }
    }

    /// Makes another thread the leader; `false` where there is none to be had.
    fn pass_lead(self: &Arc<Self>) -> bool {
        let mut turns = self.turns();
        if turns.given < turns.resting {
            turns.given = turns.given.saturating_add(1);
            self.turn.notify_one();
            return true;
        }
        drop(turns);
        spawn(self).is_ok()
    }

    /// Rests until there is a turn to lead; `false` where enough others rest.
    fn rest(&self) -> bool {
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
    patience: Patience,
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
        Ok(Self { shared, id, remote, patience: Patience::AtOnce, repeats })
    }

    fn remote(&self) -> Ref<'_, Arc<Remote>> {
        self.remote.borrow()
    }

    /// Whether the memory may be touched: at once only where that can't block.
    fn may_touch(&self, address: u64, length: usize) -> Result<(), MemoryError> {
        let waits = self.patience == Patience::AtOnce && !self.remote().is_resident(address, length);
        if waits { Err(MemoryError::WouldBlock) } else { Ok(()) }
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
        self.may_touch(address, buffer.len())?;
        self.remote().read(address, buffer)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.may_touch(address, data.len())?;
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
}
