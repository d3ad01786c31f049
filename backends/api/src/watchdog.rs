//! Notices when something that is brief as a rule isn't.
//!
//! Arming a timer for each call would cost more than the call. So whoever does something brief counts its
//! beginning and its end ([`Mark::during`]), and one thread looks at the counts every few milliseconds: one
//! that stands at the same odd number twice is somebody who is stuck. That thread starts with the first brief
//! thing, and sleeps while nothing brief is done.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often it looks: who is stuck is noticed after one to two of these.
pub const TICK: Duration = Duration::from_millis(2);

/// Without anything brief for so many ticks, it sleeps until the next one.
const IDLE_TICKS: u32 = 50;

/// One thread's brief doings.
pub struct Mark(Arc<Counts>);

struct Counts {
    /// Odd while something is being done.
    count: AtomicU64,
    /// The count when the watchdog last looked.
    seen: AtomicU64,
    stuck: Box<dyn Fn() + Send + Sync>,
}

struct Watchdog {
    state: Mutex<State>,
    work: Condvar,
    /// The thread ticks: it need not be woken.
    ticks: AtomicBool,
}

struct State {
    marks: Vec<Weak<Counts>>,
    started: bool,
}

static WATCHDOG: Watchdog = Watchdog {
    state: Mutex::new(State { marks: Vec::new(), started: false }),
    work: Condvar::new(),
    ticks: AtomicBool::new(false),
};

impl Mark {
    /// `stuck` is called on the watchdog's thread when something done under this mark takes longer than a
    /// tick or two, and then at each tick until it ends. It may end, and something new begin, just before
    /// that.
    pub fn new(stuck: impl Fn() + Send + Sync + 'static) -> Self {
        let counts = Arc::new(Counts { count: AtomicU64::new(0), seen: AtomicU64::new(0), stuck: Box::new(stuck) });
        let mut state = WATCHDOG.lock();
        state.marks.retain(|mark| mark.strong_count() > 0);
        state.marks.push(Arc::downgrade(&counts));
        Self(counts)
    }

    /// Does something brief (one thing at a time); `None`, and nothing done, where nobody could watch it.
    pub fn during<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        // Before the look at `ticks`: either we see that it sleeps, or it sees that we have begun.
        self.0.count.fetch_add(1, Ordering::SeqCst);
        let watched = WATCHDOG.ticks.load(Ordering::SeqCst) || WATCHDOG.wake();
        let result = watched.then(act);
        self.0.count.fetch_add(1, Ordering::SeqCst);
        result
    }
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mark").field(&self.0.count).finish()
    }
}

impl Counts {
    /// Whether anything was done since the last look, and whether it is stuck.
    fn look(&self) -> (bool, bool) {
        let count = self.count.load(Ordering::SeqCst);
        let before = self.seen.swap(count, Ordering::SeqCst);
        let busy = count % 2 == 1;
        (busy || count != before, busy && count == before)
    }
}

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&'static self, state: &mut State) -> io::Result<()> {
        if !state.started {
            std::thread::Builder::new().name("watchdog".into()).spawn(|| self.watch())?;
            state.started = true;
        }
        Ok(())
    }

    /// Makes it tick; `false` where there can't be one.
    fn wake(&'static self) -> bool {
        let mut state = self.lock();
        if self.start(&mut state).is_err() {
            return false;
        }
        self.ticks.store(true, Ordering::SeqCst);
        self.work.notify_one();
        true
    }

    fn watch(&self) {
        let mut idle = 0_u32;
        loop {
            let (active, stuck) = look(&self.lock());
            for mark in stuck {
                (mark.stuck)();
            }
            idle = if active { 0 } else { idle.saturating_add(1) };
            if idle > IDLE_TICKS {
                self.rest();
                idle = 0;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Sleeps until somebody wakes it.
    fn rest(&self) {
        let mut state = self.lock();
        self.ticks.store(false, Ordering::SeqCst);
        // Who began before it could see that is still to be watched.
        if look(&state).0 {
            self.ticks.store(true, Ordering::SeqCst);
            return;
        }
        // Under the lock, which `wake` takes.
        while !self.ticks.load(Ordering::SeqCst) {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Whether anybody did anything, and who is stuck.
fn look(state: &State) -> (bool, Vec<Arc<Counts>>) {
    let (mut active, mut stuck) = (false, Vec::new());
    for mark in state.marks.iter().filter_map(Weak::upgrade) {
        let (was_active, is_stuck) = mark.look();
        active |= was_active;
        if is_stuck {
            stuck.push(mark);
        }
    }
    (active, stuck)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn who_is_stuck_is_noticed_again_and_again_and_who_is_brief_is_not() {
        let (sender, receiver) = mpsc::channel();
        let slow = Mark::new(move || {
            let _: Result<(), mpsc::SendError<()>> = sender.send(());
        });
        let (complaint, complaints) = mpsc::channel();
        let brief = Mark::new(move || {
            let _: Result<(), mpsc::SendError<()>> = complaint.send(());
        });
        // Also after it has gone to sleep.
        for pause in [Duration::ZERO, TICK * (IDLE_TICKS + 20)] {
            std::thread::sleep(pause);
            let noticed = slow.during(|| {
                (0..3).all(|_| {
                    assert_eq!(brief.during(|| 7), Some(7));
                    receiver.recv_timeout(Duration::from_secs(20)).is_ok()
                })
            });
            assert_eq!(noticed, Some(true));
        }
        assert!(complaints.try_recv().is_err());
    }
}
