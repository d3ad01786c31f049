//! Ending what leaks: kill, kill-tree, core.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sockstrace_backend::proc::Status;
use sockstrace_backend::{signals, tree};
use std::fs;
use std::time::Duration;

/// How long a process may take to die of SIGABRT before SIGKILL ends it (it may handle SIGABRT; writing a
/// core takes time, but then it is no longer running).
const GRACE: Duration = Duration::from_secs(1);

/// Ends the process.
pub fn kill_process(pid: Pid) {
    // ESRCH: it is gone, as it should be.
    let _: Result<(), Errno> = kill(pid, Signal::SIGKILL);
}

/// Ends the whole tree. All that lives gets SIGKILL before this returns, while the leaking thread is still
/// held in its call, so that nobody acts on its end; what is forked meanwhile is hunted down on a thread of
/// its own, because judging (and so refusing) must go on until all are gone.
pub fn kill_tree() {
    tree::kill_round();
    if std::thread::Builder::new().name("kill-tree".into()).spawn(tree::kill_descendants).is_err() {
        tree::kill_descendants();
    }
}

/// Ends the process with SIGABRT, sent to the very thread that leaked: its core shows the call.
pub fn abort_with_core(pid: Pid, tid: Pid) {
    // SAFETY: takes integers only. ESRCH: it is gone.
    unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), tid.as_raw(), libc::SIGABRT) };
    let ensure = move || {
        std::thread::sleep(GRACE);
        // It blocks, ignores or handles SIGABRT, which nobody outside can change.
        let survives = Status::of(pid).is_ok_and(|status| {
            !matches!(status.state, b'Z' | b'X') && status.shared_pending & signals::bit(libc::SIGKILL) == 0
        });
        if survives && !dumps_core(pid) {
            kill_process(pid);
        }
    };
    if std::thread::Builder::new().name("core".into()).spawn(ensure).is_err() {
        kill_process(pid);
    }
}

/// `CoreDumping` of /proc/PID/status (Linux 4.15).
fn dumps_core(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("CoreDumping:\t1"))
}

/// Where the core of the process will go, in words: core(5).
#[must_use]
pub fn core_place(pid: Pid) -> String {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim_end();
    if let Some(program) = pattern.strip_prefix('|') {
        return format!("core piped to {}", program.trim_start());
    }
    match soft_core_limit(pid) {
        Some(0) => return "no core: the process's RLIMIT_CORE is 0 (ulimit -c unlimited)".into(),
        Some(_) => {}
        None => return "whether there is a core is not known: its limits can't be read".into(),
    }
    let mut name = expand(pattern, pid);
    let uses_pid = fs::read_to_string("/proc/sys/kernel/core_uses_pid").is_ok_and(|value| value.trim() == "1");
    if uses_pid && !pattern.contains("%p") {
        name = format!("{name}.{pid}");
    }
    if name.starts_with('/') {
        return format!("core in {name}");
    }
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) => format!("core in {}/{name}", directory.display()),
        Err(_) => format!("core in {name}, in the process's working directory"),
    }
}

fn soft_core_limit(pid: Pid) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(RLIM_INFINITY),
        number => number.parse().ok(),
    }
}

/// The specifiers that can be known before; others are left as they are.
fn expand(pattern: &str, pid: Pid) -> String {
    let mut name = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            name.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => name.push('%'),
            Some('p' | 'P') => name.push_str(&pid.to_string()),
            Some('s') => name.push_str(&libc::SIGABRT.to_string()),
            Some('e') => {
                let comm = sockstrace_backend::proc::thread_name(pid).unwrap_or_default();
                name.push_str(&comm.to_string_lossy());
            }
            Some(other) => name.extend(['%', other]),
            None => {}
        }
    }
    name
}

/// A warning for `--on-leak core` where no core can come of it: PROGRAM inherits our limit.
#[must_use]
pub fn core_warning() -> Option<&'static str> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let limit = getrlimit(Resource::RLIMIT_CORE).map_or(1, |(soft, _)| soft);
    (limit == 0 && !pattern.starts_with('|'))
        .then_some("RLIMIT_CORE is 0, so that no core will be written: run `ulimit -c unlimited` first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_patterns_are_expanded() {
        let pid = Pid::from_raw(42);
        assert_eq!(expand("core.%p", pid), "core.42");
        assert_eq!(expand("/c/%%-%s-%t%", pid), "/c/%-6-%t");
    }
}
