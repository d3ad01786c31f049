//! io_urings that processes have already.

use crate::tree::with_descendants;
use nix::unistd::Pid;
use sockstrace_backend::proc;

/// In words for a person: what can't be known of the io_urings of these processes and their descendants.
pub fn of_trees(roots: &[Pid]) -> Vec<String> {
    let processes = with_descendants(roots);
    let blind = "sockets that are registered with it can't be listed; what it does from now on is seen";
    let rings = processes
        .into_iter()
        .flat_map(|pid| proc::rings(Pid::from_raw(pid as i32)).into_iter().map(move |fd| (pid, fd)));
    rings.map(|(pid, fd)| format!("process {pid} has an io_uring (descriptor {fd}): {blind}")).collect()
}
