//! What the tracer knows of each tracee.

use crate::frame::Frame;
use nix::unistd::Pid;
use sockstrace_backend::InterceptedCall;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A traced thread.
#[derive(Debug)]
pub struct Thread {
    /// Its process.
    pub pid: Pid,
    /// What it is doing, as far as that concerns the tracer.
    pub phase: Phase,
    /// A call that is about to be made again after it was judged at its exit.
    pub again: Option<Again>,
    /// It is in a group-stop.
    pub stopped: bool,
    /// Where it is, of those that were attached to.
    pub whereabouts: Whereabouts,
    /// It was told to trap, and hasn't yet.
    pub told: bool,
    /// It has the options of those that are attached to, from its first stop on.
    pub tells_its_end: bool,
}

impl Thread {
    /// Whether something must be done to it before it can be let go: it would see that we were there.
    pub fn is_owed(&self) -> bool {
        match &self.phase {
            Phase::Leaving(AtExit::Observe(..)) | Phase::Running | Phase::Interrupted { .. } => {
                matches!(&self.again, Some(Again { at_exit: Some(AtExit::Restore(..)), .. }))
            }
            Phase::Judged { .. } | Phase::Held { .. } | Phase::Leaving(_) => true,
        }
    }

    /// Whether our end would do it no harm where it is.
    pub fn can_go(&self) -> bool {
        !self.is_owed() && (self.stopped || matches!(self.whereabouts, Whereabouts::InCall | Whereabouts::Kept))
    }
}

/// Where a thread is whose calls all stop.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Anywhere.
    #[default]
    AtLarge,
    /// In a call, at whose exit it will stop, or would be made to make it again.
    InCall,
    /// In a call that fails when it is interrupted, instead of being made again.
    InFragileCall,
    /// In a stop in which it stays until the end of the tracing thread.
    Kept,
}

/// What a thread is doing.
#[derive(Debug, Default)]
pub enum Phase {
    /// Its own business.
    #[default]
    Running,
    /// It is stopped while a worker judges its call.
    Judged {
        /// The call.
        call: InterceptedCall,
        /// Where it stands.
        stand: Stand,
        /// Tells the handler that the thread is still there.
        waiting: Arc<AtomicBool>,
    },
    /// It is held at the exit of a call while a worker hears of the result.
    Held {
        /// The call.
        call: InterceptedCall,
        /// Tells the handler that the thread is still there.
        waiting: Arc<AtomicBool>,
    },
    /// It is on its way to the exit of a call, where something is to be done.
    Leaving(AtExit),
    /// A call whose result is wanted was interrupted: it gives EINTR or is made again.
    Interrupted {
        /// The call.
        call: InterceptedCall,
        /// As it was made.
        frame: Frame,
        /// After so many further stops nobody cares any more.
        patience: u8,
    },
}

/// Where a call is judged.
#[derive(Debug, Clone, Copy)]
pub enum Stand {
    /// Before it is carried out.
    Entry(Frame),
    /// At its exit, made harmless: it was not carried out, but the program's own filters passed it.
    Exit(Frame),
}

/// What is to be done at the exit of a call.
#[derive(Debug)]
pub enum AtExit {
    /// Report the result.
    Observe(InterceptedCall, Frame),
    /// Let the kernel restart it or make it fail with EINTR.
    Restart(Frame),
    /// Restore the registers, and report the result.
    Restore(Frame, Box<[u64; 6]>, Option<InterceptedCall>),
    /// Restore what was changed in memory.
    Poke {
        /// Where.
        address: u64,
        /// What was there.
        word: u64,
    },
    /// See whether the harmless call came through, and judge the real one.
    Judge(Box<Harmless>),
}

/// A call that was made harmless, so that the program's own filters have their say before it is judged.
#[derive(Debug)]
pub struct Harmless {
    /// The call as it was made.
    pub frame: Frame,
    /// Why it was stopped.
    pub wanted: crate::select::Wanted,
    /// The registers that held its arguments.
    pub arguments: [u64; 6],
    /// The error that it must give when it comes through.
    pub error: nix::errno::Errno,
}

/// A call that is made again from the same place, judged already.
#[derive(Debug)]
pub struct Again {
    /// As it will be seen.
    pub frame: Frame,
    /// What is to be done at its exit.
    pub at_exit: Option<AtExit>,
}

impl Phase {
    /// The call whose result was to be reported, if the phase ends without one.
    pub fn unreported(&self) -> Option<&InterceptedCall> {
        match self {
            Self::Leaving(AtExit::Observe(call, _) | AtExit::Restore(_, _, Some(call)))
            | Self::Interrupted { call, .. } => Some(call),
            _ => None,
        }
    }
}

/// All traced threads, and the processes that they make up.
#[derive(Debug, Default)]
pub struct Threads {
    threads: HashMap<i32, Thread>,
    processes: HashMap<i32, Process>,
}

#[derive(Debug, Default)]
struct Process {
    threads: HashSet<i32>,
    /// Its birth was reported. It wasn't where a last thread shows up when all others have ended, and with
    /// them, for all we knew, the process.
    reported: bool,
}

impl Threads {
    /// The thread, if it is known.
    pub fn get(&mut self, tid: Pid) -> Option<&mut Thread> {
        self.threads.get_mut(&tid.as_raw())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Adds a thread; whether its process is new with it.
    pub fn add(&mut self, tid: Pid, pid: Pid) -> bool {
        self.threads.insert(
            tid.as_raw(),
            Thread {
                pid,
                phase: Phase::Running,
                again: None,
                stopped: false,
                whereabouts: Whereabouts::AtLarge,
                told: false,
                tells_its_end: false,
            },
        );
        let process = self.processes.entry(pid.as_raw()).or_default();
        process.threads.insert(tid.as_raw());
        let is_new = tid == pid && !process.reported;
        process.reported |= is_new;
        is_new
    }

    /// Removes a thread; whether a process whose birth was reported ends with it.
    pub fn remove(&mut self, tid: Pid) -> Option<(Thread, bool)> {
        let thread = self.threads.remove(&tid.as_raw())?;
        if let Phase::Judged { waiting, .. } | Phase::Held { waiting, .. } = &thread.phase {
            waiting.store(false, Ordering::Release);
        }
        let Some(process) = self.processes.get_mut(&thread.pid.as_raw()) else { return Some((thread, false)) };
        process.threads.remove(&tid.as_raw());
        if !process.threads.is_empty() {
            return Some((thread, false));
        }
        let reported = process.reported;
        self.processes.remove(&thread.pid.as_raw());
        Some((thread, reported))
    }

    /// All threads.
    pub fn all(&self) -> Vec<Pid> {
        self.threads.keys().map(|tid| Pid::from_raw(*tid)).collect()
    }

    /// Whether all can be let go: see [`Thread::can_go`].
    pub fn all_can_go(&self) -> bool {
        self.threads.values().all(Thread::can_go)
    }

    /// Those that can't be let go before they trap, and weren't told to; but for those of which something else is
    /// to be waited for.
    pub fn untold(&self, whereabouts: Whereabouts) -> Vec<Pid> {
        let is_untold = |thread: &Thread| {
            thread.whereabouts == whereabouts && !thread.told && !thread.stopped && !thread.is_owed()
        };
        let untold = self.threads.iter().filter(|(_, thread)| is_untold(thread));
        untold.map(|(tid, _)| Pid::from_raw(*tid)).collect()
    }

    /// All processes.
    pub fn processes(&self) -> Vec<Pid> {
        self.processes.keys().map(|pid| Pid::from_raw(*pid)).collect()
    }

    /// How many of its threads are known.
    pub fn of_process(&self, pid: Pid) -> usize {
        self.processes.get(&pid.as_raw()).map_or(0, |process| process.threads.len())
    }

    /// Whether the process is in a group-stop: all its threads are, but for those held in a judged call.
    pub fn all_stopped(&self, pid: Pid) -> bool {
        let of_it = self.processes.get(&pid.as_raw()).into_iter().flat_map(|process| &process.threads);
        of_it
            .filter_map(|tid| self.threads.get(tid))
            .all(|thread| thread.stopped || matches!(thread.phase, Phase::Judged { .. } | Phase::Held { .. }))
    }

    /// The other threads of a process than the one with the process's own id.
    pub fn others(&self, pid: Pid) -> Vec<Pid> {
        let siblings = self.processes.get(&pid.as_raw()).map(|process| &process.threads);
        siblings.into_iter().flatten().filter(|tid| **tid != pid.as_raw()).map(|tid| Pid::from_raw(*tid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lasts_as_long_as_its_last_thread() {
        let (leader, second) = (Pid::from_raw(10), Pid::from_raw(11));
        let mut threads = Threads::default();
        assert!(threads.add(leader, leader));
        assert!(!threads.add(second, leader));
        assert_eq!(threads.others(leader), [second]);
        assert!(!threads.remove(leader).unwrap().1);
        assert!(threads.remove(second).unwrap().1);
        assert!(threads.remove(second).is_none());
        // A thread that was not yet known when the others ended.
        assert!(!threads.add(second, leader));
        assert!(!threads.remove(second).unwrap().1);
        assert_eq!(threads.count(), 0);
    }
}
