//! Calls that are made again: those that were to be let go and were looked at first.
//!
//! The kernel repeats such a call from the same place and with the same stack. In between the program's
//! signal handlers may run, make calls of their own, and even leave without ever coming back.

use nix::unistd::Pid;
use sockstrace_backend::{InterceptedCall, proc};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nested calls of one thread that are remembered; handlers of handlers.
const NESTED: usize = 16;
/// Threads that are remembered.
const THREADS: usize = 1 << 14;

/// The calls that are awaited.
#[derive(Debug, Default)]
pub struct Repeats {
    threads: Mutex<HashMap<i32, Vec<Awaited>>>,
    /// How many threads there are in it: spares other calls the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Awaited {
    id: u64,
    pid: Pid,
    syscall: i32,
    ip: u64,
    sp: u64,
}

impl Repeats {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Vec<Awaited>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread will make this call again, from this place. To be told before it runs on.
    pub fn expect(&self, call: &InterceptedCall, pid: Pid, ip: u64, sp: u64) {
        let mut threads = self.lock();
        if threads.len() >= THREADS && !threads.contains_key(&call.tid.as_raw()) {
            threads.clear();
        }
        let calls = threads.entry(call.tid.as_raw()).or_default();
        if calls.len() >= NESTED {
            calls.remove(0);
        }
        let syscall = call.syscall.number(call.abi).unwrap_or(-1);
        calls.push(Awaited { id: call.id, pid, syscall, ip, sp });
        self.count.store(threads.len(), Ordering::Release);
    }

    /// The id of the call that this one repeats.
    pub fn of(&self, call: &InterceptedCall, pid: Pid, ip: u64) -> Option<u64> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let syscall = call.syscall.number(call.abi).unwrap_or(-1);
        let is_it = |awaited: &Awaited| (awaited.pid, awaited.syscall, awaited.ip) == (pid, syscall, ip);
        if !self.lock().get(&call.tid.as_raw())?.iter().any(is_it) {
            return None;
        }
        // By its place it may be; the stack pointer tells. (Nobody else adds to what this thread has.)
        let sp = proc::place(call.tid).map(|(_, sp)| sp);
        let mut threads = self.lock();
        let calls = threads.get_mut(&call.tid.as_raw())?;
        let index = calls.iter().rposition(|awaited| is_it(awaited) && sp.is_none_or(|sp| sp == awaited.sp))?;
        let id = calls.get(index).map(|awaited| awaited.id);
        // What was called from a handler within it has ended with the handler.
        calls.truncate(index);
        if calls.is_empty() {
            threads.remove(&call.tid.as_raw());
            self.count.store(threads.len(), Ordering::Release);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockstrace_backend::{Abi, Syscall};

    fn call(id: u64) -> InterceptedCall {
        // No such thread, so that /proc tells no stack pointer.
        InterceptedCall {
            id,
            tid: Pid::from_raw(i32::MAX),
            abi: Abi::X86_64,
            syscall: Syscall::Connect,
            args: [0; 6],
        }
    }

    #[test]
    fn a_repeated_call_is_known_once() {
        let repeats = Repeats::default();
        let pid = Pid::from_raw(7);
        repeats.expect(&call(1), pid, 0x10, 0x20);
        assert_eq!(repeats.of(&call(2), pid, 0x11), None);
        assert_eq!(repeats.of(&call(2), Pid::from_raw(8), 0x10), None);
        assert_eq!(repeats.of(&call(2), pid, 0x10), Some(1));
        assert_eq!(repeats.of(&call(3), pid, 0x10), None);
    }

    #[test]
    fn what_a_handler_left_behind_is_forgotten_with_it() {
        let repeats = Repeats::default();
        let pid = Pid::from_raw(7);
        repeats.expect(&call(1), pid, 0x10, 0x90);
        repeats.expect(&call(2), pid, 0x50, 0x20);
        assert_eq!(repeats.of(&call(3), pid, 0x10), Some(1));
        assert_eq!(repeats.of(&call(4), pid, 0x50), None);
        for id in 0..100 {
            repeats.expect(&call(id), pid, id, 0);
        }
        assert_eq!(repeats.of(&call(5), pid, 1), None);
        assert_eq!(repeats.of(&call(5), pid, 99), Some(99));
    }
}
