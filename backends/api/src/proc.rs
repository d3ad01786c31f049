//! What /proc says of a process: proc(5).

use nix::errno::Errno;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// The lines of /proc/TID/status that sockstrace uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// `Tgid`: the process that the thread belongs to.
    pub tgid: i32,
    /// `PPid`: its parent.
    pub parent: i32,
    /// `TracerPid`: the thread that traces it, 0 for none.
    pub tracer: i32,
    /// `State`: `R`, `S`, `D`, `T`, `t`, `Z`, `X`.
    pub state: u8,
    /// `Threads`: how many threads the process has.
    pub threads: u32,
    /// `Uid`, real, effective, saved, file system.
    pub uid: [u32; 4],
    /// `Gid`, real, effective, saved, file system.
    pub gid: [u32; 4],
    /// `SigPnd`: signals pending for the thread, as a bit mask (bit 0 is signal 1).
    pub pending: u64,
    /// `ShdPnd`: signals pending for the process.
    pub shared_pending: u64,
    /// `SigBlk`: signals that the thread blocks.
    pub blocked: u64,
    /// `SigIgn`: signals that the process ignores.
    pub ignored: u64,
    /// `CapEff`: effective capabilities.
    pub capabilities: u64,
    /// `Umask`, where the kernel tells it.
    pub umask: Option<u32>,
    /// `Seccomp`: 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
}

impl Status {
    /// Reads /proc/`tid`/status.
    pub fn of(tid: Pid) -> Result<Self, Errno> {
        // In one piece as a rule: what exceeds the room takes more calls.
        let mut text = Vec::with_capacity(4096);
        let file = fs::File::open(format!("/proc/{tid}/status")).map_err(|error| gone(&error))?;
        file.take(u64::MAX).read_to_end(&mut text).map_err(|error| gone(&error))?;
        // The name in it can be any bytes.
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            match key {
                "Tgid" => status.tgid = value.parse().unwrap_or(0),
                "PPid" => status.parent = value.parse().unwrap_or(0),
                "TracerPid" => status.tracer = value.parse().unwrap_or(0),
                "State" => status.state = value.bytes().next().unwrap_or(b'?'),
                "Threads" => status.threads = value.parse().unwrap_or(0),
                "Uid" => status.uid = four(value),
                "Gid" => status.gid = four(value),
                "SigPnd" => status.pending = mask(),
                "ShdPnd" => status.shared_pending = mask(),
                "SigBlk" => status.blocked = mask(),
                "SigIgn" => status.ignored = mask(),
                "CapEff" => status.capabilities = mask(),
                "Umask" => status.umask = u32::from_str_radix(value, 8).ok(),
                "Seccomp" => status.seccomp = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        status
    }

    /// Signals that wait for this very thread and that it neither blocks nor ignores.
    #[must_use]
    pub fn deliverable(&self) -> u64 {
        self.pending & !self.blocked & !self.ignored
    }

    /// Signals that wait for the process and that this thread would take.
    #[must_use]
    pub fn deliverable_to_process(&self) -> u64 {
        self.shared_pending & !self.blocked & !self.ignored
    }
}

fn four(value: &str) -> [u32; 4] {
    let mut ids = value.split_ascii_whitespace().map(|id| id.parse().unwrap_or(u32::MAX));
    std::array::from_fn(|_| ids.next().unwrap_or(u32::MAX))
}

/// A process whose files in /proc are gone is gone itself.
fn gone(error: &std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Errno::ESRCH,
        Some(code) => Errno::from_raw(code),
        None => Errno::EIO,
    }
}

/// The thread's name (`comm`), at most 15 bytes, as the program set it.
#[must_use]
pub fn thread_name(tid: Pid) -> Option<OsString> {
    use std::os::unix::ffi::OsStringExt;
    let mut name = fs::read(format!("/proc/{tid}/comm")).ok()?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Some(OsString::from_vec(name))
}

/// Program counter and stack pointer of a thread that waits in a system call: /proc/TID/syscall of proc(5).
#[must_use]
pub fn place(tid: Pid) -> Option<(u64, u64)> {
    // A thread that was just stopped may still be on its way to sleep: "running".
    const TRIES: u32 = 200;
    const BETWEEN: std::time::Duration = std::time::Duration::from_micros(50);
    for _ in 0..TRIES {
        let text = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
        let hexadecimal = |word: &str| u64::from_str_radix(word.trim().strip_prefix("0x")?, 16).ok();
        let mut words = text.rsplit(' ');
        if let (Some(pc), Some(sp)) = (words.next().and_then(hexadecimal), words.next().and_then(hexadecimal)) {
            return Some((pc, sp));
        }
        std::thread::sleep(BETWEEN);
    }
    None
}

/// The executable's path, as the kernel tells it (` (deleted)` at its end where it is).
#[must_use]
pub fn executable(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The leader of the process's session; `None` where it is gone or not to be seen from here.
#[must_use]
pub fn session(pid: Pid) -> Option<Pid> {
    // state, ppid, pgrp, then session is field 6 of proc_pid_stat(5).
    let session = stat_fields(pid)?.split_ascii_whitespace().nth(3)?.parse().ok()?;
    (session > 0).then(|| Pid::from_raw(session))
}

/// The device number of the process's controlling terminal, as ioctl(2)'s `TIOCGDEV` gives it; `None` without one.
#[must_use]
pub fn terminal(pid: Pid) -> Option<u32> {
    // tty_nr is field 7 of proc_pid_stat(5).
    let number: i32 = stat_fields(pid)?.split_ascii_whitespace().nth(4)?.parse().ok()?;
    (number != 0).then_some(number.cast_unsigned())
}

/// /proc/PID/stat from its third field on.
fn stat_fields(pid: Pid) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses too.
    let after_name = stat.iter().rposition(|&byte| byte == b')')?.checked_add(1)?;
    str::from_utf8(stat.get(after_name..)?).ok().map(ToOwned::to_owned)
}

/// Whether it is a thread of the kernel's own.
#[must_use]
pub fn is_of_kernel(pid: Pid) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000; // include/linux/sched.h
    // flags is field 9 of proc_pid_stat(5).
    let flags = stat_fields(pid).and_then(|fields| fields.split_ascii_whitespace().nth(6)?.parse().ok());
    flags.is_some_and(|flags: u64| flags & PF_KTHREAD != 0)
}

/// The descriptors of a process's io_urings. One that is gone has none.
#[must_use]
pub fn rings(pid: Pid) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_ring =
        |path: PathBuf| fs::read_link(path).is_ok_and(|target| target.as_os_str() == "anon_inode:[io_uring]");
    let numbers = entries.flatten().filter(|entry| is_ring(entry.path()));
    numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The threads of a process.
///
/// # Errors
/// ESRCH where it is gone.
pub fn threads(pid: Pid) -> Result<Vec<Pid>, Errno> {
    let directory = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| gone(&error))?;
    let ids = directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.map(Pid::from_raw).collect())
}

/// Kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Of cgroups.
    Cgroup,
    /// Of process ids.
    Pid,
    /// Of users and their capabilities.
    User,
}

impl Namespace {
    /// What its file under /proc/PID/ns is called, and what that of the initial one shows (<linux/proc_ns.h>).
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Cgroup => ("cgroup", "cgroup:[4026531835]"),
            Self::Pid => ("pid", "pid:[4026531836]"),
            Self::User => ("user", "user:[4026531837]"),
        }
    }

    /// Whether we are in the initial one, with which the machine has started; no if it can't be told.
    #[must_use]
    pub fn is_initial(self) -> bool {
        self.is_initial_of("self")
    }

    fn is_initial_of(self, process: &str) -> bool {
        let (file, initial) = self.names();
        fs::read_link(format!("/proc/{process}/ns/{file}")).is_ok_and(|it| it.as_os_str() == initial)
    }
}

/// Whether /proc shows processes by the numbers that the kernel itself knows, those of the initial pid namespace: in a
/// container it is another namespace's as a rule.
#[must_use]
pub fn shows_initial_ids() -> bool {
    Namespace::Pid.is_initial() || Namespace::Pid.is_initial_of("1")
}

/// Whether a process has ended, and its parent hasn't waited for it yet. While another of its threads than the first executes a
/// program, /proc shows the same for a moment (`de_thread`, `fs/exec.c`): hence several looks.
#[must_use]
pub fn is_zombie(pid: Pid) -> bool {
    const LOOKS: u32 = 3;
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A first thread that has ended may have left others behind.
        let has_ended = |status: Status| matches!(status.state, b'Z' | b'X' | b'x') && status.threads <= 1;
        Status::of(pid).is_ok_and(has_ended)
    })
}

/// Parent, state and id of every process, from one pass over /proc.
#[must_use]
pub fn all_processes() -> Vec<Entry> {
    let Ok(directory) = fs::read_dir("/proc") else { return Vec::new() };
    directory
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Entry::of(Pid::from_raw(pid)))
        .collect()
}

/// A process in /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// Its state letter: that of its first thread.
    pub state: u8,
    /// How many threads it has.
    pub threads: u32,
}

impl Entry {
    /// Reads /proc/PID/stat; `None` where the process is gone.
    #[must_use]
    pub fn of(pid: Pid) -> Option<Self> {
        let rest = stat_fields(pid)?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.bytes().next()?;
        let parent = fields.next()?.parse().ok()?;
        // state, ppid, then num_threads is field 20 of proc_pid_stat(5).
        let threads = fields.nth(15)?.parse().ok()?;
        Some(Self { pid, parent: Pid::from_raw(parent), state, threads })
    }

    /// Whether it has ended (a zombie, or about to vanish). A first thread that has ended may have left
    /// others behind.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_status_is_read() {
        let status = Status::of(Pid::this()).unwrap();
        assert_eq!(status.tgid, std::process::id() as i32);
        assert!(status.threads >= 1);
        assert_eq!(status.uid[1], nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn where_a_waiting_thread_is() {
        // Past its exec: it waits for its input.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"x").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let (pc, sp) = place(pid).unwrap();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let holds = |line: &str, address: u64| {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let bound = |text| u64::from_str_radix(text, 16).unwrap();
            (bound(from)..bound(to)).contains(&address)
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(maps.lines().any(|line| holds(line, pc) && line.contains("r-xp")), "{pc:#x}\n{maps}");
        assert!(maps.lines().any(|line| holds(line, sp) && line.contains("[stack]")), "{sp:#x}\n{maps}");
        assert_eq!(place(pid), None);
    }

    #[test]
    fn pending_signals_are_masked() {
        let status =
            Status::parse("SigPnd:\t0000000000000006\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000000000\n");
        assert_eq!(status.deliverable(), 4);
    }

    #[test]
    fn a_missing_process_is_esrch() {
        assert_eq!(Status::of(Pid::from_raw(i32::MAX)), Err(Errno::ESRCH));
    }

    #[test]
    fn this_process_is_listed_with_its_parent() {
        let me = all_processes().into_iter().find(|entry| entry.pid == Pid::this()).unwrap();
        assert_eq!(me.parent, Pid::parent());
        assert!(!me.has_ended());
        assert!((1..1000).contains(&me.threads));
    }
}
