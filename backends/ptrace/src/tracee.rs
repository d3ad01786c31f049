//! A thread stopped in a judged call, as the handler sees it.

use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::remote::{Identity, Remote, RemoteCache};
use sockstrace_backend::{MemoryError, Patience, Tracee};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The thread, for as long as it stays in its stop.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// The thread.
    pub tid: Pid,
    /// Its process.
    pub pid: Pid,
    /// The threads known so far.
    pub remotes: Arc<RemoteCache>,
    /// Cleared by the tracer when the thread leaves its stop.
    pub waiting: Arc<AtomicBool>,
    /// Whether reading may wait for a page.
    pub patience: Patience,
}

impl Stopped {
    fn remote(&self) -> Result<Arc<Remote>, MemoryError> {
        self.remotes.get(self.tid).map_err(|errno| match errno {
            Errno::ESRCH => MemoryError::Gone,
            _ => MemoryError::Denied,
        })
    }

    /// The thread, if its memory at `address` can be used without waiting longer than is allowed.
    ///
    /// The tracer has one thread, which must not wait for a userfaultfd of the program that it traces.
    fn ready(&self, address: u64, length: usize) -> Result<Arc<Remote>, MemoryError> {
        let remote = self.remote()?;
        if self.patience == Patience::AtOnce && !remote.is_resident(address, length) {
            return Err(MemoryError::WouldBlock);
        }
        Ok(remote)
    }
}

impl Tracee for Stopped {
    fn tid(&self) -> Pid {
        self.tid
    }

    fn pid(&self) -> Pid {
        self.pid
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError> {
        self.ready(address, buffer.len())?.read(address, buffer)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.ready(address, data.len())?.write(address, data)
    }

    fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno> {
        match self.remotes.get(self.tid)?.duplicate(fd) {
            // The cache may still have a thread that ended, and whose id is another's now.
            Err(Errno::ESRCH) => self.remotes.renew(self.tid)?.duplicate(fd),
            other => other,
        }
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    fn identity(&self) -> Result<Identity, Errno> {
        self.remotes.get(self.tid)?.identity()
    }

    fn names(&self) -> (Option<OsString>, Option<PathBuf>) {
        let remote = self.remotes.get(self.tid).ok();
        remote.map_or((None, None), |remote| (remote.thread_name(), remote.executable()))
    }

    fn name(&self) -> Option<OsString> {
        self.remotes.get(self.tid).ok()?.thread_name()
    }

    fn socket_inode(&self, fd: i32) -> Option<u64> {
        self.remotes.get(self.tid).ok()?.socket_inode(fd)
    }

    fn is_alone(&self) -> bool {
        self.remotes.get(self.tid).is_ok_and(|remote| remote.is_alone())
    }
}
