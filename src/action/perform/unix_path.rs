//! Finding the socket that a UNIX path leads to, as the tracee's own kernel call would.
//!
//! The walk starts at the tracee's root or working directory (so chroots, mount namespaces and relative
//! paths hold), one component at a time: links are resolved against the tracee's root, and `/proc/self`
//! is the tracee, not us. The result is a handle on the file itself; connecting through it reaches that
//! very socket, whatever the path leads to by then.

use crate::action::identity;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlink, readlinkat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chroot, fchdir};
use sockstrace_backend::Tracee;
use sockstrace_backend::proc::Status;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// `MAXSYMLINKS` (include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// A found socket file.
#[derive(Debug)]
pub struct Found {
    handle: OwnedFd,
    pid: i32,
}

impl Found {
    /// Its path, as the supervisor sees it. What is mounted for the tracee alone has no path of ours, and
    /// is named by way of /proc/PID/root.
    pub fn path(&self) -> Result<OsString, Errno> {
        let path = readlink(self.own_path().as_str())?;
        let ours = stat(path.as_os_str()).map(|stat| (stat.st_dev, stat.st_ino));
        if ours == same_file(&self.handle) {
            return Ok(path);
        }
        let mut theirs = OsString::from(format!("/proc/{}/root", self.pid));
        theirs.push(path);
        Ok(theirs)
    }

    /// Its device and inode number.
    pub fn identity(&self) -> Result<(u64, u64), Errno> {
        same_file(&self.handle)
    }

    /// A `sun_path` of ours that leads to this very file.
    pub fn own_path(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }
}

/// Directories that a walk starts from, opened while we have our own rights.
#[derive(Debug)]
pub struct Origin {
    root: OwnedFd,
    cwd: OwnedFd,
    pid: i32,
    tid: i32,
}

impl Origin {
    /// The tracee's root and working directory.
    pub fn of(tracee: &dyn Tracee) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let at = |link: &str| open(format!("/proc/{}/{link}", tracee.tid()).as_str(), flags, Mode::empty());
        Ok(Self { root: at("root")?, cwd: at("cwd")?, pid: tracee.pid().as_raw(), tid: tracee.tid().as_raw() })
    }

    /// Walks `path`, following links.
    pub fn find(&self, path: &OsStr) -> Result<Found, Errno> {
        let mut pending: VecDeque<OsString> = components(path.as_bytes()).collect();
        let root = same_file(&self.root)?;
        let mut here = if path.as_bytes().starts_with(b"/") { self.root.try_clone() } else { self.cwd.try_clone() }
            .map_err(|_| Errno::EMFILE)?;
        let mut links = 0_usize;
        while let Some(name) = pending.pop_front() {
            if name == ".." && same_file(&here)? == root {
                continue;
            }
            let in_proc = is_proc(&here);
            if let Some(own) = in_proc.then(|| self.own_name(&here, &name)).flatten() {
                own.into_iter().rev().for_each(|part| pending.push_front(part));
                continue;
            }
            let next = openat(
                &here,
                name.as_os_str(),
                OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            if !is_link(&fstat(&next)?) {
                here = next;
                continue;
            }
            links = links.saturating_add(1);
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            if in_proc && !is_proc_root(&here) {
                // A magic link (fd/7, cwd, root, exe): only the kernel can follow it.
                here = openat(&here, name.as_os_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                continue;
            }
            let target = readlinkat(&next, c"")?;
            if target.as_bytes().starts_with(b"/") {
                here = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
            }
            let parts: Vec<_> = components(target.as_bytes()).collect();
            parts.into_iter().rev().for_each(|part| pending.push_front(part));
        }
        Ok(Found { handle: here, pid: self.pid })
    }

    /// `/proc/self` and `/proc/thread-self` mean whoever looks: the tracee.
    fn own_name(&self, directory: &OwnedFd, name: &OsStr) -> Option<Vec<OsString>> {
        let parts = match name.as_bytes() {
            b"self" => vec![self.pid.to_string()],
            b"thread-self" => vec![self.pid.to_string(), "task".into(), self.tid.to_string()],
            _ => return None,
        };
        is_proc_root(directory).then(|| parts.into_iter().map(OsString::from).collect())
    }
}

/// Runs `act` with the tracee's root, working directory, umask and credentials, on a thread of its own
/// (these belong to a thread once `CLONE_FS` is unshared).
///
/// # Errors
/// EPERM where we may not take the tracee's place; what `act` gives.
pub fn in_place_of(tracee: &dyn Tracee, act: impl FnOnce() -> Result<(), Errno> + Send) -> Result<(), Errno> {
    let origin = Origin::of(tracee)?;
    let umask = Status::of(tracee.tid())?.umask.unwrap_or(0o022);
    let tid = tracee.tid();
    let act = move || {
        unshare(CloneFlags::CLONE_FS)?;
        if same_file(&origin.root)? != same_path("/")? {
            fchdir(&origin.root)?;
            chroot(".")?;
        }
        fchdir(&origin.cwd)?;
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
        identity::as_thread(tid, act)
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap_or(Err(Errno::EPERM)))
}

fn same_path(path: &str) -> Result<(u64, u64), Errno> {
    stat(path).map(|stat| (stat.st_dev, stat.st_ino))
}

fn components(path: &[u8]) -> impl Iterator<Item = OsString> + '_ {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    // A path that ends in a slash must lead to a directory: keep that as a final `.`.
    if let [.., last] = parts.as_mut_slice()
        && last.is_empty()
        && path.len() > 1
    {
        *last = b".";
    }
    let last = parts.len().saturating_sub(1);
    parts
        .into_iter()
        .enumerate()
        .filter(move |(index, part)| !part.is_empty() && (*part != b"." || *index == last))
        .map(|(_, part)| OsString::from_vec(part.to_vec()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn same_file(file: &OwnedFd) -> Result<(u64, u64), Errno> {
    fstat(file).map(|stat| (stat.st_dev, stat.st_ino))
}

fn is_link(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits()
}

fn is_proc(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC)
}

/// `PROC_ROOT_INO` (include/linux/proc_ns.h)
fn is_proc_root(directory: &OwnedFd) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_ino == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open_path(path: &std::path::Path) -> OwnedFd {
        open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    }

    fn origin(root: &std::path::Path, cwd: &std::path::Path) -> Origin {
        Origin {
            root: open_path(root),
            cwd: open_path(cwd),
            pid: std::process::id() as i32,
            tid: nix::unistd::gettid().as_raw(),
        }
    }

    #[test]
    fn links_and_dots_lead_where_the_kernel_would_go() {
        let top = std::env::temp_dir().join(format!("sockstrace-walk-{}", std::process::id()));
        std::fs::create_dir_all(top.join("jail/run/deep")).unwrap();
        std::fs::write(top.join("jail/run/x.sock"), "").unwrap();
        std::fs::write(top.join("outside"), "").unwrap();
        symlink("/run/x.sock", top.join("jail/absolute")).unwrap();
        symlink("../../outside", top.join("jail/run/escape")).unwrap();
        symlink("loop", top.join("jail/loop")).unwrap();
        let jail = std::fs::canonicalize(top.join("jail")).unwrap();
        let walk = |path: &str| {
            let found = origin(&jail, &jail.join("run")).find(OsStr::new(path))?;
            found.path().map(|path| path.into_string().unwrap())
        };
        let socket = jail.join("run/x.sock").to_str().unwrap().to_owned();
        for path in
            ["/run/x.sock", "x.sock", "./deep/../x.sock", "/absolute", "/../../run//x.sock", "../run/x.sock"]
        {
            assert_eq!(walk(path), Ok(socket.clone()), "{path}");
        }
        assert_eq!(walk("escape"), Err(Errno::ENOENT), "`..` stops at the tracee's root");
        assert_eq!(walk("/loop"), Err(Errno::ELOOP));
        assert_eq!(walk("/run/x.sock/"), Err(Errno::ENOTDIR));
        assert_eq!(walk("/run/none"), Err(Errno::ENOENT));
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn proc_self_is_the_tracee() {
        let root = std::path::Path::new("/");
        let cwd = std::env::current_dir().unwrap();
        let walk = |path: &str| origin(root, root).find(OsStr::new(path)).and_then(|found| found.path());
        assert_eq!(walk("/proc/self/cwd").unwrap(), cwd.as_os_str());
        assert_eq!(walk("/proc/thread-self/cwd").unwrap(), cwd.as_os_str());
    }
}
