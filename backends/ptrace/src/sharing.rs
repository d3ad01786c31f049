//! Processes that share a descriptor table: [`sockstrace_backend::tree::note_shared_table`].

use nix::unistd::Pid;
use sockstrace_backend::proc::Status;
use sockstrace_backend::remote::shares_descriptors;
use sockstrace_backend::tree;

/// Notes where a process was made that shares its maker's table, while the maker stands still.
pub fn note_birth(maker: Pid, new: Pid) {
    let is_thread = Status::of(new).is_ok_and(|status| status.tgid != new.as_raw());
    // Who is gone may have made others.
    if !is_thread && shares_descriptors(maker, new) != Ok(false) {
        tree::note_shared_table();
    }
}

/// Notes where some of these share one already.
pub fn note_among(processes: &[Pid]) {
    let share = |one: &Pid, other: &Pid| one != other && shares_descriptors(*one, *other) == Ok(true);
    let mut pairs =
        processes.iter().enumerate().flat_map(|(at, one)| processes.iter().skip(at).map(move |it| (one, it)));
    if pairs.any(|(one, other)| share(one, other)) {
        tree::note_shared_table();
    }
}
