//! Another process, seen from outside: its memory and its descriptors.
//!
//! A [`Remote`] holds a pidfd. As long as that can be used, the thread that it was opened for lives, and
//! what was read by thread id *before* such a use came from that thread: so callers read memory first and
//! duplicate descriptors second.

use crate::MemoryError;
use crate::proc::Status;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstatat;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// `PIDFD_THREAD` (Linux 6.9): the pidfd is of the thread, not of its process.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

const PAGE: u64 = 4096;

/// A thread of another process.
#[derive(Debug)]
pub struct Remote {
    tid: Pid,
    pid: Pid,
    pidfd: OwnedFd,
    /// Its descriptors are out of reach: before Linux 6.9 a pidfd leads to those of the process alone, and the thread
    /// has a table of its own, or its process has none any more because the first thread has ended.
    is_apart: bool,
    /// Files in /proc, opened when they are first needed: looking their paths up costs more than reading.
    pagemap: OnceLock<Option<File>>,
    directory: OnceLock<Option<File>>,
    children: OnceLock<Option<File>>,
    name: OnceLock<Option<File>>,
}

/// Who a thread is: numbers as our own namespaces have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its process.
    pub pid: Pid,
    /// That one's parent.
    pub parent: Pid,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
}

impl Identity {
    fn read(tid: Pid) -> Result<Self, Errno> {
        let status = Status::of(tid)?;
        let (pid, parent) = (Pid::from_raw(status.tgid), Pid::from_raw(status.parent));
        Ok(Self { pid, parent, uid: status.uid[0], gid: status.gid[0] })
    }
}

impl Remote {
    /// Opens the thread.
    ///
    /// # Errors
    /// ESRCH where it is gone; EMFILE and the like where we can't.
    pub fn open(tid: Pid) -> Result<Self, Errno> {
        let (pidfd, pid, is_apart) = match pidfd_open(tid, PIDFD_THREAD) {
            Err(Errno::EINVAL) => {
                let pid = Identity::read(tid)?.pid;
                let shares = match shares_descriptors(tid, pid) {
                    Err(Errno::ESRCH) => return Err(Errno::ESRCH),
                    shares => shares == Ok(true),
                };
                (pidfd_open(pid, 0)?, pid, !shares)
            }
            pidfd => {
                let pidfd = pidfd?;
                let identity = identity_of(pidfd.as_fd()).map_or_else(|| Identity::read(tid), Ok)?;
                (pidfd, identity.pid, false)
            }
        };
        let [pagemap, directory, children, name] = std::array::from_fn(|_| OnceLock::new());
        Ok(Self { tid, pid, pidfd, is_apart, pagemap, directory, children, name })
    }

    /// Who it is now: ids change.
    ///
    /// # Errors
    /// ESRCH where it is gone.
    pub fn identity(&self) -> Result<Identity, Errno> {
        identity_of(self.pidfd.as_fd()).map_or_else(|| Identity::read(self.tid), Ok)
    }

    /// Whether nobody but this very thread can change what its call will do: no other thread, and no process
    /// that shares its descriptor table. Of parents and children that is asked; of others it can't be, so that nobody
    /// is alone any more once a process was made that shares a table: [`crate::tree::note_shared_table`].
    #[must_use]
    pub fn is_alone(&self) -> bool {
        // One directory a thread, besides `.` and `..` (fs/proc/base.c).
        const ONE_THREAD: u64 = 3;
        if self.tid != self.pid || crate::tree::shares_tables() || self.task_links() != Some(ONE_THREAD) {
            return false;
        }
        let Ok(identity) = self.identity() else { return false };
        let parent = Some(identity.parent).filter(|parent| *parent != Pid::this() && parent.as_raw() > 1);
        // One out of reach (PR_SET_DUMPABLE) may share it.
        let shares = |relative| !matches!(shares_descriptors(self.pid, relative), Ok(false) | Err(Errno::ESRCH));
        !parent.is_some_and(shares) && self.children().is_some_and(|children| !children.into_iter().any(shares))
    }

    /// The thread's name: see [`crate::proc::thread_name`].
    #[must_use]
    pub fn thread_name(&self) -> Option<OsString> {
        let file = self.name.get_or_init(|| File::open(format!("/proc/{}/comm", self.tid)).ok()).as_ref()?;
        let mut buffer = [0; 64];
        let length = file.read_at(&mut buffer, 0).ok()?;
        let name = buffer.get(..length)?;
        Some(OsStr::from_bytes(name.strip_suffix(b"\n").unwrap_or(name)).to_owned())
    }

    /// The executable's path: see [`crate::proc::executable`].
    #[must_use]
    pub fn executable(&self) -> Option<PathBuf> {
        readlinkat(self.directory()?, "exe").ok().map(PathBuf::from)
    }

    /// Its directory in /proc.
    fn directory(&self) -> Option<&File> {
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
            options.open(format!("/proc/{}", self.tid)).ok()
        };
        self.directory.get_or_init(open).as_ref()
    }

    fn task_links(&self) -> Option<u64> {
        let stat = fstatat(self.directory()?, "task", AtFlags::empty()).ok()?;
        Some(stat.st_nlink)
    }

    /// The children of a process with one thread; `None` where they can't be told, or are too many.
    fn children(&self) -> Option<Vec<Pid>> {
        let open = || File::open(format!("/proc/{0}/task/{0}/children", self.pid)).ok();
        let file = self.children.get_or_init(open).as_ref()?;
        let mut buffer = [0; 1024];
        let length = file.read_at(&mut buffer, 0).ok().filter(|length| *length < buffer.len())?;
        let text = str::from_utf8(buffer.get(..length)?).ok()?;
        text.split_ascii_whitespace().map(|child| child.parse().ok().map(Pid::from_raw)).collect()
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the thread still exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A pidfd polls readable when its task has ended.
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// See [`crate::Tracee::duplicate`].
    pub fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno> {
        if self.is_apart {
            return Err(Errno::EPERM);
        }
        // SAFETY: takes integers only.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), fd, 0) };
        let duplicate = Errno::result(result)?;
        // SAFETY: the kernel has just made this descriptor for us (close-on-exec).
        Ok(unsafe { OwnedFd::from_raw_fd(duplicate as i32) })
    }

    /// See [`crate::Tracee::socket_inode`].
    #[must_use]
    pub fn socket_inode(&self, fd: i32) -> Option<u64> {
        let target = readlinkat(self.directory()?, format!("fd/{fd}").as_str()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    }

    /// See [`crate::Tracee::read`]; blocks where the page has to be brought in.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let end = address.checked_add(buffer.len() as u64).ok_or(MemoryError::Fault)?;
        let wanted = buffer.len();
        if address % PAGE + wanted as u64 <= PAGE {
            // The usual case, without a list.
            let page = [RemoteIoVec { base: address as usize, len: wanted }];
            return process_vm_readv(self.tid, &mut [IoSliceMut::new(buffer)], &page).map_err(memory_error);
        }
        let mut done = 0_usize;
        // An element that can't be read whole may be refused whole: so one element a page, many at once.
        while done < wanted {
            let mut pages = Vec::with_capacity(2);
            let mut from = address.saturating_add(done as u64);
            while from < end && pages.len() < 1024 {
                let to = end.min((from / PAGE).saturating_add(1).saturating_mul(PAGE));
                pages.push(RemoteIoVec { base: from as usize, len: to.saturating_sub(from) as usize });
                from = to;
            }
            let span: usize = pages.iter().map(|page| page.len).sum();
            let Some(target) = buffer.get_mut(done..).and_then(|rest| rest.get_mut(..span)) else { break };
            match process_vm_readv(self.tid, &mut [IoSliceMut::new(target)], &pages) {
                Ok(0) => break,
                Ok(read) => {
                    done = done.saturating_add(read);
                    if read < span {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(memory_error(errno)),
                Err(_) => break,
            }
        }
        if done == 0 { Err(MemoryError::Fault) } else { Ok(done) }
    }

    /// See [`crate::Tracee::write`].
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        address.checked_add(data.len() as u64).ok_or(MemoryError::Fault)?;
        let remote = [RemoteIoVec { base: address as usize, len: data.len() }];
        match process_vm_writev(self.tid, &[IoSlice::new(data)], &remote) {
            Ok(written) if written == data.len() => Ok(()),
            Ok(_) => Err(MemoryError::Fault),
            Err(errno) => Err(memory_error(errno)),
        }
    }

    /// Whether every page of the range is resident, so that reading it can't block (unless another
    /// thread drops the page just now). `false` where that can't be known.
    #[must_use]
    pub fn is_resident(&self, address: u64, length: usize) -> bool {
        const PRESENT: u64 = 1 << 63; // Documentation/admin-guide/mm/pagemap.rst
        let Some(last) = address.checked_add((length as u64).max(1) - 1) else { return true };
        let pagemap = self.pagemap.get_or_init(|| File::open(format!("/proc/{}/pagemap", self.tid)).ok());
        let Some(pagemap) = pagemap else { return false };
        let mut entries = [0; 8 * 256];
        let (mut page, last) = (address / PAGE, last / PAGE);
        while page <= last {
            let count = (last - page).saturating_add(1).min(256);
            let Some(entries) = entries.get_mut(..count as usize * 8) else { return false };
            let read = page.checked_mul(8).map(|offset| pagemap.read_exact_at(entries, offset));
            let (entries, _) = entries.as_chunks::<8>();
            if !matches!(read, Some(Ok(())))
                || entries.iter().any(|entry| u64::from_ne_bytes(*entry) & PRESENT == 0)
            {
                return false;
            }
            page = page.saturating_add(count);
        }
        true
    }
}

fn memory_error(errno: Errno) -> MemoryError {
    match errno {
        Errno::ESRCH => MemoryError::Gone,
        Errno::EPERM => MemoryError::Denied,
        _ => MemoryError::Fault,
    }
}

/// `struct pidfd_info` of <linux/pidfd.h>, as of Linux 6.13.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    others: [u32; 7],
}

/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: libc::Ioctl = ((3 << 30) | ((size_of::<PidfdInfo>() as u32) << 16) | 0xFF0B) as libc::Ioctl;

/// What the kernel says of the task of a pidfd; `None` where it can't (before Linux 6.13), or the task is gone.
fn identity_of(pidfd: BorrowedFd<'_>) -> Option<Identity> {
    const PID: u64 = 1;
    const CREDENTIALS: u64 = 2;
    let mut info = PidfdInfo { mask: PID | CREDENTIALS, ..PidfdInfo::default() };
    // SAFETY: a structure of our own, of the size that the number names.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    let known = result == 0 && info.mask & (PID | CREDENTIALS) == PID | CREDENTIALS;
    let (pid, parent) = (Pid::from_raw(info.tgid as i32), Pid::from_raw(info.ppid as i32));
    known.then_some(Identity { pid, parent, uid: info.ruid, gid: info.rgid })
}

fn pidfd_open(pid: Pid, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the two tasks share one descriptor table: kcmp(2) with `KCMP_FILES`.
pub fn shares_descriptors(tid: Pid, pid: Pid) -> Result<bool, Errno> {
    const KCMP_FILES: i32 = 2;
    if tid == pid {
        return Ok(true);
    }
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, tid.as_raw(), pid.as_raw(), KCMP_FILES, 0, 0) };
    Errno::result(result).map(|order| order == 0)
}

/// The threads that were met lately, so that a judged call need not open a pidfd.
#[derive(Debug)]
pub struct RemoteCache {
    known: Mutex<HashMap<i32, Arc<Remote>>>,
    capacity: usize,
}

impl RemoteCache {
    /// A cache that keeps at most `capacity` descriptors open.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { known: Mutex::new(HashMap::new()), capacity: capacity.max(1) }
    }

    /// The thread, from the cache or opened anew. What comes from the cache may be gone meanwhile: see
    /// [`RemoteCache::renew`].
    pub fn get(&self, tid: Pid) -> Result<Arc<Remote>, Errno> {
        if let Some(remote) = self.lock().get(&tid.as_raw()) {
            return Ok(Arc::clone(remote));
        }
        self.renew(tid)
    }

    /// Opens the thread anew and replaces what the cache had.
    pub fn renew(&self, tid: Pid) -> Result<Arc<Remote>, Errno> {
        let remote = match Remote::open(tid) {
            Err(Errno::EMFILE) => {
                self.lock().clear();
                Remote::open(tid)
            }
            other => other,
        };
        let mut known = self.lock();
        known.remove(&tid.as_raw());
        let remote = Arc::new(remote?);
        if known.len() >= self.capacity {
            known.retain(|_, remote| remote.is_alive());
        }
        if known.len() >= self.capacity {
            known.clear();
        }
        known.insert(tid.as_raw(), Arc::clone(&remote));
        Ok(remote)
    }

    /// Forgets a thread that has ended.
    pub fn forget(&self, tid: Pid) {
        self.lock().remove(&tid.as_raw());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Arc<Remote>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_before_the_first_hole() {
        // Three pages, the middle one taken away.
        let size = std::num::NonZeroUsize::new(3 * PAGE as usize).unwrap();
        let (prot, flags) = (
            nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
            nix::sys::mman::MapFlags::MAP_PRIVATE,
        );
        // SAFETY: a fresh mapping, one page of which is taken away again; never dereferenced here.
        let base = unsafe { nix::sys::mman::mmap_anonymous(None, size, prot, flags) }.unwrap().as_ptr() as u64;
        // SAFETY: as above.
        unsafe {
            nix::sys::mman::munmap(std::ptr::NonNull::new((base + PAGE) as *mut _).unwrap(), PAGE as usize)
                .unwrap();
        }
        let me = Remote::open(nix::unistd::gettid()).unwrap();
        let mut buffer = vec![1; 3 * PAGE as usize];
        assert_eq!(me.read(base, &mut buffer), Ok(PAGE as usize));
        assert_eq!(me.read(base + PAGE - 2, &mut buffer[..4]), Ok(2));
        assert_eq!(me.read(base + PAGE, &mut buffer[..4]), Err(MemoryError::Fault));
        assert_eq!(me.read(u64::MAX - 1, &mut buffer[..4]), Err(MemoryError::Fault));
        assert_eq!(me.read(0, &mut []), Ok(0));
        assert!(!me.is_resident(base + PAGE, 1));
        assert!(me.is_resident(buffer.as_ptr() as u64, buffer.len()));
    }

    #[test]
    fn the_kernel_says_of_a_pidfd_what_proc_says() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
        let me = Remote::open(nix::unistd::gettid()).unwrap();
        let identity = Identity::read(nix::unistd::gettid()).unwrap();
        assert_eq!(me.identity(), Ok(identity));
        assert_eq!((me.pid(), identity.parent), (Pid::this(), Pid::parent()));
        assert_eq!(me.thread_name(), crate::proc::thread_name(me.tid()));
        assert_eq!(me.executable(), crate::proc::executable(Pid::this()));
        assert!(identity_of(me.pidfd.as_fd()).is_none_or(|known| known == identity));
    }

    /// A process with one child, both asleep: ended by the test's end at the latest.
    fn pair(flags: i32) -> Pid {
        // SAFETY: both make a few system calls and sleep until they are killed.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
            Pid::from_raw(pid)
        }
    }

    #[test]
    fn a_process_is_alone_without_threads_or_shared_descriptors() {
        assert!(!Remote::open(nix::unistd::gettid()).unwrap().is_alone());
        for (flags, alone) in [(0, true), (libc::CLONE_FILES, false)] {
            let pid = pair(flags);
            let remote = Remote::open(pid).unwrap();
            while remote.children().unwrap().is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert_eq!(remote.is_alone(), alone);
            // The child's parent is not we.
            assert_eq!(Remote::open(remote.children().unwrap()[0]).unwrap().is_alone(), alone);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            nix::sys::wait::waitpid(pid, None).unwrap();
            assert!(!remote.is_alone());
        }
    }

    #[test]
    fn descriptors_are_duplicated() {
        let me = Remote::open(nix::unistd::gettid()).unwrap();
        assert!(me.duplicate(me.pidfd.as_raw_fd()).is_ok());
        assert_eq!(me.duplicate(-1).unwrap_err(), Errno::EBADF);
        assert!(me.is_alive());
    }

    #[test]
    fn the_cache_keeps_within_its_capacity() {
        let cache = RemoteCache::new(1);
        let me = nix::unistd::gettid();
        let first = cache.get(me).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.get(me).unwrap()));
        cache.get(Pid::this()).unwrap();
        assert!(cache.lock().len() <= 1);
    }
}
