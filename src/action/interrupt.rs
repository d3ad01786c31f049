//! Blocking on a tracee's behalf, and stopping when a signal arrives for it.
//!
//! A thread whose call we perform can't be interrupted itself, so that a signal for it must interrupt us.
//! The kernel tells nobody that a signal is pending in another process: one watcher thread looks at
//! /proc/TID/status of every thread for which somebody blocks, and interrupts the one who does. Calls that
//! block rarely are left to the watchdog ([`sockstrace_backend::watchdog`]).

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};
use sockstrace_backend::proc::Status;
use sockstrace_backend::watchdog::Mark;
use sockstrace_backend::{Tracee, signals};
use std::collections::HashMap;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The signal that interrupts our own blocking calls.
const INTERRUPT: Signal = Signal::SIGUSR2;

/// How soon the watcher looks first, and how rarely at last: what a signal may come late.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_INTERVAL: Duration = Duration::from_millis(20);

/// Why a blocking call on a tracee's behalf gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It failed.
    Failed(Errno),
    /// A signal for the tracee (or its end) interrupted it.
    Interrupted,
}

/// Watches over the threads that block on a tracee's behalf.
#[derive(Debug)]
pub struct Watcher(&'static Shared);

/// There is one watcher in a process: the signal belongs to it.
static SHARED: LazyLock<Shared> = LazyLock::new(Shared::default);

thread_local! {
    /// This thread's brief calls: they are interrupted where they aren't brief.
    static BRIEF: Mark = {
        let worker = gettid();
        Mark::new(move || interrupt(worker))
    };
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blocked: HashMap<u64, Blocked>,
    next: u64,
    started: bool,
    /// All threads are let go: nobody blocks any more.
    let_go: bool,
}

#[derive(Debug)]
struct Blocked {
    tracee: Pid,
    process: Pid,
    worker: Pid,
    look: Instant,
    interval: Duration,
}

impl Watcher {
    /// Makes it; its thread starts when it is first needed.
    pub fn new() -> Result<Self, Errno> {
        signals::make_interrupting(INTERRUPT)?;
        Ok(Self(&SHARED))
    }

    /// Runs `call`, which may block, until it gives something else than EINTR or a signal for the tracee
    /// interrupts it.
    pub fn run<T>(&self, tracee: &dyn Tracee, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Broken> {
        let key = self.0.enter(tracee);
        let result = loop {
            match call() {
                Err(Errno::EINTR) if !self.0.lock().let_go && !is_interrupted(tracee.tid(), tracee.pid()) => {}
                Err(Errno::EINTR) => break Err(Broken::Interrupted),
                Err(errno) => break Err(Broken::Failed(errno)),
                Ok(value) => break Ok(value),
            }
        };
        self.0.lock().blocked.remove(&key);
        result
    }

    /// Interrupts whoever blocks, now and from now on.
    pub fn interrupt_all(&self) {
        let mut state = self.0.lock();
        state.let_go = true;
        for blocked in state.blocked.values_mut() {
            blocked.look = Instant::now();
        }
        self.0.work.notify_all();
    }

    /// Runs `call`, which blocks rarely, where others wait behind us; `None` where it had to be interrupted
    /// because it did block.
    pub fn briefly<T>(&self, call: impl FnOnce() -> Result<T, Errno>) -> Option<Result<T, Errno>> {
        // Without a watchdog nothing would end it.
        let result = BRIEF.with(|brief| brief.during(call));
        match result {
            Some(Err(Errno::EINTR)) | None => None,
            Some(result) => Some(result),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that there is a watcher. Without one calls still work; signals only wait for them to end.
    fn start(&'static self, state: &mut State) {
        if !state.started {
            let thread = std::thread::Builder::new().name("watcher".into());
            state.started = thread.spawn(|| self.watch()).is_ok();
        }
    }

    fn enter(&'static self, tracee: &dyn Tracee) -> u64 {
        let mut state = self.lock();
        let key = state.next;
        state.next = state.next.wrapping_add(1);
        let blocked = Blocked {
            tracee: tracee.tid(),
            process: tracee.pid(),
            worker: gettid(),
            look: Instant::now() + FIRST_LOOK,
            interval: FIRST_LOOK,
        };
        state.blocked.insert(key, blocked);
        self.start(&mut state);
        if state.blocked.len() == 1 {
            self.work.notify_one();
        }
        key
    }

    fn watch(&self) {
        let mut state = self.lock();
        loop {
            state = self.look_at_blocked(state);
            let earliest = state.blocked.values().map(|blocked| blocked.look).min();
            state = match earliest.map(|look| look.saturating_duration_since(Instant::now())) {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => self.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn look_at_blocked<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let now = Instant::now();
        // With many, look at each more rarely, so that looking stays a small part of the time.
        let slowest = LAST_INTERVAL.max(Duration::from_micros(200) * state.blocked.len() as u32);
        let mut due: Vec<(u64, Pid, Pid, Pid)> = Vec::new();
        for (key, blocked) in state.blocked.iter_mut().filter(|(_, blocked)| blocked.look <= now) {
            blocked.interval = (blocked.interval * 2).min(slowest);
            blocked.look = now + blocked.interval;
            due.push((*key, blocked.tracee, blocked.process, blocked.worker));
        }
        if due.is_empty() {
            return state;
        }
        let all = state.let_go;
        drop(state);
        due.retain(|(_, tracee, process, _)| all || is_interrupted(*tracee, *process));
        let state = self.lock();
        for (key, _, _, worker) in due {
            // Under the lock: whoever is still listed is still in (or about to enter) its call.
            if state.blocked.contains_key(&key) {
                interrupt(worker);
            }
        }
        state
    }
}

fn interrupt(worker: Pid) {
    // SAFETY: takes integers only; the thread is ours. It can't fail but by the thread's end.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), worker.as_raw(), INTERRUPT as i32) };
}

/// Whether a signal waits for the thread, or it is gone, or its process is being stopped.
fn is_interrupted(tracee: Pid, process: Pid) -> bool {
    let Ok(status) = Status::of(tracee) else { return true };
    if matches!(status.state, b'Z' | b'X') || status.deliverable() != 0 {
        return true;
    }
    if status.deliverable_to_process() != 0 {
        return true;
    }
    // A group stop: the other threads have stopped, this one can't before its call ends.
    status.threads > 1 && Status::of(process).is_ok_and(|leader| leader.state == b'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_call_that_blocks_is_interrupted() {
        let watcher = Watcher::new().unwrap();
        assert_eq!(watcher.briefly(|| Ok(7)), Some(Ok(7)));
        assert_eq!(watcher.briefly(|| Err::<(), _>(Errno::EPERM)), Some(Err(Errno::EPERM)));
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(watcher.briefly(|| nix::unistd::read(&reader, &mut [0])), None);
    }
}
