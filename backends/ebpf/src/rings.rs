//! io_urings that processes have already.

use crate::tree::with_descendants;
use nix::unistd::Pid;
use std::fs;

/// In words for a person: what can't be known of the io_urings of these processes and their descendants.
pub fn of_trees(roots: &[Pid]) -> Vec<String> {
    let processes = with_descendants(roots);
    let blind = "sockets that are registered with it can't be listed; what it does from now on is seen";
    let rings = processes.into_iter().flat_map(|pid| of_process(pid).into_iter().map(move |fd| (pid, fd)));
    rings.map(|(pid, fd)| format!("process {pid} has an io_uring (descriptor {fd}): {blind}")).collect()
}

/// The descriptors of a process's rings. Whoever is gone has none.
fn of_process(pid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_ring = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|target| target.as_os_str() == "anon_inode:[io_uring]")
    };
    let numbers = entries.flatten().filter(|entry| is_ring(&entry.path()));
    numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
