//! The tree of traced processes: all descendants of this process, daemons included.
//!
//! The supervisor is a child subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): a descendant whose parent
//! ends is reparented to us, so that none leaves the tree. Everything below us is PROGRAM's. Processes that were
//! attached to belong to it too, wherever they stand: see [`join`].

use crate::proc::{self, Entry};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Processes that were attached to.
static ATTACHED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn attached() -> MutexGuard<'static, Vec<i32>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was attached to, or was born to such a one, is one of the tree until it leaves: [`leave`].
pub fn join(pid: Pid) {
    attached().push(pid.as_raw());
}

/// The process has ended, or was let go.
pub fn leave(pid: Pid) {
    attached().retain(|attached| *attached != pid.as_raw());
}

fn is_attached(pid: Pid) -> bool {
    attached().contains(&pid.as_raw())
}

/// Makes orphans of the tree ours.
pub fn become_subreaper() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// A child of ours that isn't PROGRAM's; 0 where there is none.
static OWN: AtomicI32 = AtomicI32::new(0);

/// This child is no part of the tree: a helper of a backend.
pub fn set_apart(child: Pid) {
    OWN.store(child.as_raw(), Ordering::SeqCst);
}

/// Whether processes may share a descriptor table of which one isn't the other's parent.
static SHARES_TABLES: AtomicBool = AtomicBool::new(false);

/// A process of the tree was made that shares its maker's descriptor table (CLONE_FILES of clone(2)), or perhaps was:
/// whose table it is can't be found out any more when the maker has ended.
pub fn note_shared_table() {
    SHARES_TABLES.store(true, Ordering::SeqCst);
}

/// Whether there may be such processes.
#[must_use]
pub fn shares_tables() -> bool {
    SHARES_TABLES.load(Ordering::SeqCst)
}

/// The living processes of the tree.
#[must_use]
pub fn descendants() -> Vec<Pid> {
    let all = proc::all_processes();
    let mut tree = descendants_in(&all, Pid::this());
    let attached = attached();
    tree.extend(all.iter().filter(|it| attached.contains(&it.pid.as_raw()) && !it.has_ended()).map(|it| it.pid));
    tree.retain(|pid| pid.as_raw() != OWN.load(Ordering::SeqCst));
    tree
}

/// Whether `pid` is a living process of the tree.
#[must_use]
pub fn is_within(pid: Pid) -> bool {
    if is_attached(pid) {
        return true;
    }
    let me = Pid::this();
    if pid.as_raw() == OWN.load(Ordering::SeqCst) {
        return false;
    }
    let mut at = pid;
    // Process ids are finite; a chain that is longer changes while we look.
    for _ in 0..1000 {
        match proc::Status::of(at).map(|status| Pid::from_raw(status.parent)) {
            Ok(parent) if parent == me => return true,
            Ok(parent) if parent.as_raw() > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

fn descendants_in(all: &[Entry], root: Pid) -> Vec<Pid> {
    let mut family = HashSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            all.iter().filter(|entry| family.contains(&entry.parent)).map(|entry| entry.pid).collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    all.iter()
        .filter(|entry| entry.pid != root && family.contains(&entry.pid) && !entry.has_ended())
        .map(|e| e.pid)
        .collect()
}

/// Sends SIGKILL to every living process of the tree; `false` where there was none. A fork that goes
/// on meanwhile may leave new ones.
pub fn kill_round() -> bool {
    let alive = descendants();
    // First stop them all, so that none can act on another's end, nor outrun us with forks; then end them.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in &alive {
            // It may have ended meanwhile (ESRCH), or be a set-user-ID program that is not ours to signal
            // (EPERM): no_new_privs prevents that for ordinary users.
            let _: Result<(), Errno> = kill(*pid, signal);
        }
    }
    !alive.is_empty()
}

/// Ends every process of the tree, those included that are forked meanwhile, and returns when none
/// is left alive. Does not reap them: whoever waits for children does, on another thread.
pub fn kill_descendants() {
    let mut pause = Duration::from_micros(200);
    while kill_round() {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_over_generations() {
        let entry = |pid, parent, state| Entry {
            pid: Pid::from_raw(pid),
            parent: Pid::from_raw(parent),
            state,
            threads: 1,
        };
        let all =
            [entry(30, 20, b'S'), entry(20, 10, b'Z'), entry(10, 1, b'S'), entry(40, 1, b'S'), entry(31, 30, b'Z')];
        assert_eq!(descendants_in(&all, Pid::from_raw(10)), [Pid::from_raw(30)]);
    }
}
