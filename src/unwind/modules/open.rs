//! Finding the very file that a process has mapped.

use crate::unwind::Mapping;
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

/// What a file is, apart from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    /// Of an open file.
    #[must_use]
    pub fn of(file: &File) -> Option<Self> {
        let status = file.metadata().ok()?;
        Some(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
        })
    }
}

/// Opens a file that may be anything, and is to be read.
pub fn open(path: &str) -> Option<File> {
    // A process can map a device; opening one may have effects.
    let kind = std::fs::metadata(path).ok()?.file_type();
    if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
        return None;
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()
}

/// Opens the file behind a mapping: by `/proc/PID/map_files`, which is the file itself whatever became of
/// its name (it wants CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); else by its path in the process's root or, as that goes
/// with the process, in ours, or as its program, if that is still the same file.
#[must_use]
pub fn open_mapped(pid: Pid, mapping: &Mapping) -> Option<File> {
    if mapping.inode == 0 {
        return None;
    }
    if let Some(file) = open(&format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end)) {
        return Some(file);
    }
    let by_path = |root: &str| {
        if mapping.path.starts_with('/') { open(&format!("{root}{}", mapping.path)) } else { None }
    };
    let by_program = || open(&format!("/proc/{pid}/exe"));
    let same = |file: &File| {
        file.metadata().is_ok_and(|status| {
            let device = (libc::major(status.dev()), libc::minor(status.dev()));
            status.ino() == mapping.inode && device == mapping.device
        })
    };
    by_path(&format!("/proc/{pid}/root"))
        .filter(same)
        .or_else(|| by_path("").filter(same))
        .or_else(|| by_program().filter(same))
}
