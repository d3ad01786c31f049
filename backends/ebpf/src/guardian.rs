//! Should this process end before the tree has, its programs would end with it, and what the tree sends would no
//! longer be judged. So another process keeps them in the kernel until it has killed the whole tree.
//!
//! It is a fork that makes only async-signal-safe calls. It holds the descriptors of the programs and nothing else
//! of ours, waits for the end of a pipe, and is in a session of its own, so that what ends our group doesn't end it.
//! Who kills both at once takes the programs out of the kernel: nothing is pinned, so that nothing stays behind.

use crate::programs::TreeMaps;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use sockstrace_backend::{BackendError, signals, tree};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// It, running.
#[derive(Debug)]
pub struct Guardian {
    pid: Pid,
    /// Open as long as we live.
    alive: Option<OwnedFd>,
}

impl Guardian {
    /// Starts it, as a child of the calling thread, which must live until [`Guardian::dismiss`]: others then
    /// don't meet it among the children that they wait for.
    pub fn start(maps: &TreeMaps) -> Result<Self, BackendError> {
        let (hears, alive) = pipe2(OFlag::O_CLOEXEC).map_err(BackendError::doing("making a pipe"))?;
        let (tree, ending, hears) = (maps.tree.as_raw_fd(), maps.ending.as_raw_fd(), hears);
        let mut kept = programs().map_err(BackendError::doing("looking at our own descriptors"))?;
        kept.extend([tree, ending, hears.as_raw_fd()]);
        kept.sort_unstable();
        kept.dedup();
        let before = signals::block_all().map_err(BackendError::doing("blocking signals"))?;
        // SAFETY: the child makes only async-signal-safe calls on what was prepared before.
        let forked = Errno::result(unsafe { libc::fork() });
        if forked == Ok(0) {
            guard(&kept, hears.as_raw_fd(), tree, ending);
        }
        before.thread_set_mask().map_err(BackendError::doing("restoring signals"))?;
        let pid = Pid::from_raw(forked.map_err(BackendError::doing("forking the guardian"))?);
        tree::set_apart(pid);
        Ok(Self { pid, alive: Some(alive) })
    }

    /// Has it end, which it does when none of the tree lives any more.
    pub fn dismiss(mut self) {
        self.alive = None;
        // SAFETY: takes integers and a null pointer, which it may.
        let reap = || Errno::result(unsafe { libc::waitpid(self.pid.as_raw(), std::ptr::null_mut(), 0) });
        while reap() == Err(Errno::EINTR) {}
        tree::set_apart(Pid::from_raw(0));
    }
}

/// Our descriptors of BPF links, programs and maps.
fn programs() -> Result<Vec<RawFd>, Errno> {
    let failed = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let mut kept = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let number: Option<RawFd> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // The directory's own descriptor is closed by now.
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().starts_with("anon_inode:bpf") {
            kept.extend(number);
        }
    }
    Ok(kept)
}

/// The child's life.
fn guard(kept: &[RawFd], hears: RawFd, tree: RawFd, ending: RawFd) -> ! {
    // SAFETY: system calls with integers and pointers to our own stack; none allocates or takes a lock.
    unsafe {
        libc::setsid();
        // By a name of its own: who ends sockstrace by name (pkill) is not to end both at once.
        libc::prctl(libc::PR_SET_NAME, c"sst-guardian".as_ptr());
        spare_memory();
        let mut first: RawFd = 0;
        for fd in kept {
            if *fd > first {
                libc::syscall(libc::SYS_close_range, first, fd.wrapping_sub(1), 0);
            }
            first = fd.wrapping_add(1);
        }
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
        let mut byte = 0_u8;
        while libc::read(hears, (&raw mut byte).cast(), 1) == -1 && *libc::__errno_location() == libc::EINTR {}
        write_element(ending, 0, 1);
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // Half a minute: what can't be killed by then (a process in a system call that never ends) can't call.
        for _ in 0..30_000 {
            if kill_all(tree) == 0 {
                break;
            }
            libc::nanosleep(&raw const pause, std::ptr::null_mut());
        }
        libc::_exit(0)
    }
}

/// Where memory is short, others are killed first (proc_pid_oom_score_adj(5)).
fn spare_memory() {
    let least = b"-1000";
    // SAFETY: a constant path, and a buffer of that length. Where it fails, all is as before.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, least.as_ptr().cast(), least.len());
            libc::close(file);
        }
    }
}

/// `union bpf_attr` of <linux/bpf.h> for elements of maps: the descriptor, padding, and pointers to key, and to
/// value or next key.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const UPDATE_ELEMENT: libc::c_long = 2;
const NEXT_KEY: libc::c_long = 4;

fn element(command: libc::c_long, map: RawFd, key: u64, value: u64) -> libc::c_long {
    let attributes = Element { map: map as u32, padding: 0, key, value, flags: 0 };
    // SAFETY: the attributes live until the call returns, and what they point to is the caller's.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of::<Element>()) }
}

fn write_element(map: RawFd, key: u32, value: u32) {
    element(UPDATE_ELEMENT, map, &raw const key as u64, &raw const value as u64);
}

/// Sends SIGKILL to every process of the map; how many there are.
fn kill_all(tree: RawFd) -> u32 {
    let (mut key, mut next, mut count) = (0_u32, 0_u32, 0_u32);
    let mut from = 0_u64;
    while element(NEXT_KEY, tree, from, &raw mut next as u64) == 0 {
        // SAFETY: takes integers.
        unsafe { libc::kill(next as i32, libc::SIGKILL) };
        count = count.saturating_add(1);
        key = next;
        from = &raw const key as u64;
        // A map that changes may start over; we come again.
        if count > 4_194_304 {
            break;
        }
    }
    let _ = key;
    count
}
