//! Processes with their descendants, as /proc has them now.

use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::proc::{self, Status};
use std::collections::HashSet;

/// These processes, and all that descend from them, but for this one, which may be a child of who is watched.
pub fn with_descendants(roots: &[Pid]) -> Vec<u32> {
    let mut all = proc::all_processes();
    all.retain(|entry| entry.pid != Pid::this());
    let mut family: HashSet<i32> = roots.iter().map(|pid| pid.as_raw()).collect();
    loop {
        let before = family.len();
        let children = all.iter().filter(|entry| family.contains(&entry.parent.as_raw()));
        family.extend(children.map(|entry| entry.pid.as_raw()).collect::<Vec<_>>());
        if family.len() == before {
            break;
        }
    }
    family.into_iter().map(|pid| pid as u32).collect()
}

/// This process, as the kernel numbers it. In a container it isn't told: 0, which nobody's number is.
pub fn own() -> u32 {
    let own = || std::fs::read_link("/proc/self").ok()?.to_str()?.parse().ok();
    if proc::shows_initial_ids() { own().unwrap_or(0) } else { 0 }
}

/// Whether none of a process's threads runs any more, though its parent may not have waited for it yet.
pub fn has_ended(pid: Pid) -> bool {
    Status::of(pid).is_err_and(|errno| errno == Errno::ESRCH) || proc::is_zombie(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_belong_to_their_parents() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let family = with_descendants(&[Pid::this()]);
        let pid = Pid::from_raw(child.id() as i32);
        assert!(!has_ended(pid) && !has_ended(Pid::from_raw(1)));
        child.kill().unwrap();
        while Status::of(pid).unwrap().state != b'Z' {}
        assert!(has_ended(pid), "nobody has waited for it");
        child.wait().unwrap();
        assert!(has_ended(pid));
        assert!(family.contains(&std::process::id()) && family.contains(&child.id()));
        assert!(with_descendants(&[]).is_empty());
    }
}
