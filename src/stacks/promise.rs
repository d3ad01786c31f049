//! The trace that an event waits for.

use super::{Stacks, Taken};
use crate::event::Stack;
use nix::unistd::Pid;
use sockstrace_backend::Halted;
use sockstrace_backend::observed::UserStack;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Gives the trace, at most once. Dropped without one it tells that there is none.
#[derive(Debug)]
pub struct Promise {
    shared: Arc<Shared>,
    stacks: Arc<Stacks>,
}

/// Gets the trace. There may be several for one promise.
#[derive(Debug, Clone)]
pub struct Awaited {
    shared: Arc<Shared>,
    stacks: Arc<Stacks>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Taken(Arc<Taken>),
    Broken,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A promise, and what waits for it.
#[must_use]
pub fn promise(stacks: &Arc<Stacks>) -> (Promise, Awaited) {
    let shared = Arc::<Shared>::default();
    let promise = Promise { shared: Arc::clone(&shared), stacks: Arc::clone(stacks) };
    (promise, Awaited { shared, stacks: Arc::clone(stacks) })
}

impl Promise {
    /// Keeps it with the stack of a thread that is held.
    pub fn keep(self, halted: &Halted) {
        self.keep_with(self.stacks.take(halted));
    }

    /// Keeps it with a copy of a stack.
    pub fn keep_copy(self, pid: Pid, program: Option<&str>, copy: &UserStack) {
        self.keep_with(self.stacks.take_copy(pid, program, copy));
    }

    fn keep_with(&self, taken: Taken) {
        *self.shared.lock() = State::Taken(Arc::new(taken));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if matches!(*state, State::Open) {
            *state = State::Broken;
        }
        self.shared.settled.notify_all();
    }
}

impl Awaited {
    /// Waits for the trace, and names its frames. What comes says why, if there are none.
    #[must_use]
    pub fn name(&self, until: Instant) -> Arc<Stack> {
        match self.wait(until) {
            Ok(taken) => self.stacks.name(&taken),
            Err(why) => Arc::new(Stack::missing(why)),
        }
    }

    fn wait(&self, until: Instant) -> Result<Arc<Taken>, &'static str> {
        let mut state = self.shared.lock();
        loop {
            match &*state {
                State::Taken(taken) => return Ok(Arc::clone(taken)),
                State::Broken => return Err("the thread ended before it could be looked at"),
                State::Open => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the thread could not be looked at in time");
            }
            state = self.shared.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn taken() -> Taken {
        Taken { trace: Err(crate::stacks::Unread { ip: 1, why: "x".into() }), partial: None }
    }

    #[test]
    fn a_promise_is_kept_or_broken() {
        let stacks = Arc::default();
        let promise = || super::promise(&stacks);
        let soon = || Instant::now() + Duration::from_secs(10);
        let (kept, awaited) = promise();
        let other = awaited.clone();
        let waits = std::thread::spawn(move || other.wait(soon()).is_ok());
        kept.keep_with(taken());
        drop(kept);
        assert!(waits.join().unwrap());
        assert_eq!(awaited.name(soon()).truncated.as_deref(), Some("x"));

        let (broken, awaited) = promise();
        drop(broken);
        assert!(awaited.name(soon()).truncated.as_ref().unwrap().contains("ended"));

        let (_open, awaited) = promise();
        assert!(awaited.name(Instant::now()).truncated.as_ref().unwrap().contains("in time"));
    }
}
