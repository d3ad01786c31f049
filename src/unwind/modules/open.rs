//! Finding the very file that a process has mapped.

use super::elf::Elf;
use super::guard::FileMap;
use super::mounts;
use crate::aside::within;
use crate::unwind::{Mapping, Maps};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

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

/// How long it may take to open or to copy a file.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a file that may be anything, and is to be read. It may last for ever.
pub fn open(path: &Path) -> Option<File> {
    // A process can map a device; opening one may have effects.
    let kind = std::fs::metadata(path).ok()?.file_type();
    if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
        return None;
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()
}

/// Opens and parses an ELF file, wherever a path leads that is not to be trusted.
pub fn elf(path: &Path) -> Option<Elf> {
    let path = path.to_owned();
    within(PATIENCE, move || Elf::of_file(&open(&path)?)).flatten()
}

/// Opens the file behind a mapping by `/proc/PID/map_files`, which is the file itself whatever became of its name (it wants
/// CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE). Only a server can make that last.
pub fn by_link(pid: Pid, mapping: &Mapping) -> Option<File> {
    open(Path::new(&format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end)))
}

/// Opens the file behind a mapping, rather by way of a mount that lasts: by its path as we have it or in the process's root,
/// or as its program, if that is still the same file; or by [`by_link`]. It may last for ever.
#[must_use]
pub fn search(pid: Pid, mapping: &Mapping) -> Option<File> {
    let named = |root: &str| {
        let path = mapping.path.starts_with('/').then(|| format!("{root}{}", mapping.path))?;
        open(Path::new(&path)).filter(|file| is_same(file, mapping))
    };
    let of_program = || open(Path::new(&format!("/proc/{pid}/exe"))).filter(|file| is_same(file, mapping));
    let ways: [&dyn Fn() -> Option<File>; 4] =
        [&|| named(""), &|| by_link(pid, mapping), &|| named(&format!("/proc/{pid}/root")), &of_program];
    let mut other = None;
    for file in ways.iter().filter_map(|way| way()) {
        if mounts::holds(&file) {
            return Some(file);
        }
        other.get_or_insert(file);
    }
    other
}

/// Whether a file is the one that is mapped.
fn is_same(file: &File, mapping: &Mapping) -> bool {
    let is_named = |device: u64, inode: u64| {
        (libc::major(device), libc::minor(device)) == mapping.device && inode == mapping.inode
    };
    if file.metadata().is_ok_and(|status| is_named(status.dev(), status.ino())) {
        return true;
    }
    // Some file systems (btrfs; overlayfs of older kernels) have other numbers for what is mapped: what would ours have?
    FileMap::of(file)
        .ok()
        .and_then(|map| Maps::shown(map.as_ptr().addr() as u64))
        .is_some_and(|shown| (shown.device, shown.inode) == (mapping.device, mapping.inode))
}
