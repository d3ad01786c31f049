//! Where the cgroup2 file system is.

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// What to do where there is none.
pub const MISSING: &str = "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup";

/// The root of the cgroup2 hierarchy.
#[derive(Debug)]
pub struct Root {
    /// Its directory.
    pub directory: File,
    /// Where that is, in words for a person.
    pub place: String,
}

/// It may be mounted anywhere, or not at all: `ip netns exec` mounts another /sys. Then it is mounted for us alone.
pub fn root() -> Option<Root> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounted = root_in(&table)
        .and_then(|path| Some(Root { directory: opened(&path)?, place: path.display().to_string() }));
    mounted.or_else(|| {
        Some(Root { directory: unseen().ok()?, place: "mounted nowhere; it can be, for us alone".into() })
    })
}

/// Something else may be mounted over it.
fn opened(path: &Path) -> Option<File> {
    let directory = File::open(path).ok()?;
    let is_it = fstatfs(&directory).is_ok_and(|it| it.filesystem_type() == CGROUP2_SUPER_MAGIC);
    is_it.then_some(directory)
}

/// A mount that is in nobody's namespace, and goes with its descriptor.
fn unseen() -> Result<File, Errno> {
    const CREATE: libc::c_int = 6; // FSCONFIG_CMD_CREATE of <linux/mount.h>
    const CLOEXEC: libc::c_int = 1; // FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: fsopen(2) reads a constant string.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), CLOEXEC) })?;
    // SAFETY: fsconfig(2) takes no strings with this command.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) })?;
    // SAFETY: fsmount(2) takes integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) }).map(File::from)
}

/// The descriptor that a system call has made.
fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as RawFd;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From lines of proc_pid_mountinfo(5): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE …`
fn root_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescaped(point)))
    })
}

/// Space, tab, newline and backslash are written in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_wherever_it_is_mounted() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw\n\
                     42 31 0:38 /some/group /mnt/part rw - cgroup2 cgroup2 rw\n\
                     41 31 0:38 / /sys/fs/cgroup\\040x rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(root_in(table), Some("/sys/fs/cgroup x".into()));
        assert_eq!(root_in("41 31 0:38 / /x rw - cgroup cgroup rw\n"), None);
    }
}
