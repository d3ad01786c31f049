//! Processes with their descendants, as /proc has them now.

use nix::unistd::Pid;
use sockstrace_backend::proc;
use std::collections::HashSet;

/// These processes, and all that descend from them.
pub fn with_descendants(roots: &[Pid]) -> Vec<u32> {
    let all = proc::all_processes();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_belong_to_their_parents() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let family = with_descendants(&[Pid::this()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.contains(&std::process::id()) && family.contains(&child.id()));
        assert!(with_descendants(&[]).is_empty());
    }
}
