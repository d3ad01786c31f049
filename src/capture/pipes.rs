//! Bytes that go from file to socket, or between pipe and socket, without passing through the program.

use crate::action::perform::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, tee};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{pipe2, read};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The largest pipe that anybody may make unless root says otherwise (pipe(7)).
const PIPE: usize = 1 << 20;

/// What can be read from a pipe or socket without waiting.
fn readable(fd: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes an int of our own.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// The first bytes in a pipe, which stay there: up to `limit`.
pub(super) fn in_pipe(pipe: &OwnedFd, limit: usize) -> Vec<u8> {
    copy_of_pipe(pipe, limit).unwrap_or_default()
}

fn copy_of_pipe(pipe: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let limit = limit.min(readable(pipe.as_fd()));
    if limit == 0 {
        return Ok(bytes);
    }
    let (output, input) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // Where that isn't allowed, less is seen.
    let _: Result<i32, Errno> = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
    let copied = tee(pipe, &input, limit, SpliceFFlags::SPLICE_F_NONBLOCK)?;
    bytes.resize(copied, 0);
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(&output, rest)? {
            0 => break,
            length => done = done.saturating_add(length),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The last `count` bytes in a pipe, which stay there; nothing where there are fewer, or not all can be seen.
pub(super) fn last_in_pipe(pipe: &OwnedFd, count: usize) -> Vec<u8> {
    let there = readable(pipe.as_fd());
    if there < count {
        return Vec::new();
    }
    // It may be the end that is written to.
    let path = format!("/proc/thread-self/fd/{}", pipe.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(output) = open(path.as_str(), flags, Mode::empty()) else { return Vec::new() };
    let mut bytes = in_pipe(&output, there);
    if bytes.len() < there { Vec::new() } else { bytes.split_off(there.saturating_sub(count)) }
}

/// The first bytes that wait in a socket, which stay there: up to `limit`.
pub(super) fn in_socket(socket: &OwnedFd, limit: usize) -> Vec<u8> {
    // With data there, an error that the program is to see isn't consumed; and peeking must not move the place
    // at which the program peeks (SO_PEEK_OFF).
    let limit = limit.min(readable(socket.as_fd()));
    if limit == 0 || sys::peeks_at(socket.as_fd()) {
        return Vec::new();
    }
    let mut bytes = vec![0; limit];
    let peeked = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    bytes.truncate(peeked.unwrap_or(0));
    bytes
}

/// A part of a regular file. Files that the program itself may serve (FUSE) aren't read: we would wait for it.
pub(super) fn in_file(file: &OwnedFd, offset: u64, count: usize) -> Vec<u8> {
    const FUSE: i64 = 0x6573_5546; // FUSE_SUPER_MAGIC, <linux/magic.h>
    let is_regular =
        fstat(file).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG);
    let is_fuse = nix::sys::statfs::fstatfs(file).is_ok_and(|stat| stat.filesystem_type().0 == FUSE);
    let Some(file) = file.try_clone().ok().map(File::from).filter(|_| is_regular && !is_fuse) else {
        return Vec::new();
    };
    let mut bytes = vec![0; count];
    let mut done = 0_usize;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) | Err(_) => break,
            Ok(length) => done = done.saturating_add(length),
        }
    }
    bytes.truncate(done);
    bytes
}

/// Where a file is read from next.
pub(super) fn position(file: &OwnedFd) -> Option<u64> {
    let at = nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekCur).ok()?;
    u64::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use nix::unistd::{pipe, write};

    #[test]
    fn looking_takes_nothing_away() {
        let (output, input) = pipe().unwrap();
        assert!(in_pipe(&output, 100).is_empty());
        write(&input, b"hello world").unwrap();
        assert_eq!(in_pipe(&output, 5), b"hello");
        assert_eq!((last_in_pipe(&output, 5), last_in_pipe(&input, 2)), (b"world".to_vec(), b"ld".to_vec()));
        assert!(last_in_pipe(&output, 12).is_empty());
        let mut bytes = [0; 20];
        assert_eq!(read(&output, &mut bytes), Ok(11));

        let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
        assert!(in_socket(&one, 10).is_empty());
        write(&other, b"said").unwrap();
        assert_eq!((in_socket(&one, 10), in_socket(&one, 2)), (b"said".to_vec(), b"sa".to_vec()));
        assert_eq!(read(&one, &mut bytes), Ok(4));
    }

    #[test]
    fn files_are_read_without_moving_them() {
        let path = std::env::temp_dir().join(format!("sockstrace-in-file-{}", std::process::id()));
        std::fs::write(&path, "0123456789").unwrap();
        let file = OwnedFd::from(File::open(&path).unwrap());
        assert_eq!((in_file(&file, 3, 4), position(&file)), (b"3456".to_vec(), Some(0)));
        assert_eq!(in_file(&file, 8, 100), b"89");
        let (output, _input) = pipe().unwrap();
        assert!(in_file(&output, 0, 1).is_empty() && position(&output).is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
