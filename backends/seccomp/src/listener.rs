//! The listener's ioctls. libseccomp's own receive and respond hide errno and look the API level up each
//! time.

use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

/// A notification, `struct seccomp_notif` of <linux/seccomp.h>.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Its cookie.
    pub id: u64,
    /// The calling thread, in our pid namespace (0: outside of it).
    pub tid: i32,
    /// `AUDIT_ARCH_*`
    pub arch: u32,
    /// System call number.
    pub number: i32,
    /// Arguments.
    pub args: [u64; 6],
    /// The instruction after the call's.
    pub ip: u64,
}

/// The receiving end.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// The kernel may know more fields than our headers: room for them.
#[repr(C, align(8))]
struct Buffer {
    notification: libc::seccomp_notif,
    future: [u64; 16],
}

const fn ioctl_number(direction: u32, number: u32, size: usize) -> libc::Ioctl {
    ((direction << 30) | ((size as u32) << 16) | ((b'!' as u32) << 8) | number) as libc::Ioctl
}
const WRITE: u32 = 1;
const READ_WRITE: u32 = 3;
const RECV: libc::Ioctl = ioctl_number(READ_WRITE, 0, size_of::<libc::seccomp_notif>());
const SEND: libc::Ioctl = ioctl_number(READ_WRITE, 1, size_of::<libc::seccomp_notif_resp>());
const ID_VALID: libc::Ioctl = ioctl_number(WRITE, 2, size_of::<u64>());
const ADDFD: libc::Ioctl = ioctl_number(WRITE, 3, size_of::<libc::seccomp_notif_addfd>());

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`; its argument is the flags themselves.
const SET_FLAGS: libc::Ioctl = ioctl_number(WRITE, 4, size_of::<u64>());
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`
const SYNC_WAKE_UP: u64 = 1;

impl Listener {
    /// From the descriptor that seccomp(2) gave.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Whether caller and receiver are woken on one processor, or wherever the scheduler likes. Before Linux 6.6 it
    /// always chooses.
    pub fn wake_near(&self, near: bool) {
        let flags = if near { SYNC_WAKE_UP } else { 0 };
        // SAFETY: takes integers only.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FLAGS, flags) };
    }

    /// Waits for a notification.
    ///
    /// # Errors
    /// ENOENT where the caller vanished meanwhile, or no task uses the filter any more
    /// ([`Listener::is_abandoned`] tells); EINTR.
    pub fn receive(&self) -> Result<Notification, Errno> {
        let mut buffer = MaybeUninit::<Buffer>::zeroed();
        // SAFETY: the kernel wants a zeroed structure of its own size; ours is larger.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), RECV, buffer.as_mut_ptr()) })?;
        // SAFETY: all fields are integers, for which zero and whatever the kernel wrote are valid.
        let notification = unsafe { buffer.assume_init() }.notification;
        Ok(Notification {
            id: notification.id,
            tid: notification.pid as i32,
            arch: notification.data.arch,
            number: notification.data.nr,
            args: notification.data.args,
            ip: notification.data.instruction_pointer,
        })
    }

    /// Whether no task uses the filter any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd of our own.
        (unsafe { libc::poll(&raw mut fd, 1, 0) }) == 1 && fd.revents & libc::POLLHUP != 0
    }

    /// Answers: `value` if `error` is 0, else `error` (a negative errno).
    pub fn respond(&self, id: u64, value: i64, error: i32) -> Result<(), Errno> {
        self.send(id, value, error, 0)
    }

    /// Lets the kernel carry the call out.
    pub fn respond_continue(&self, id: u64) -> Result<(), Errno> {
        self.send(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    fn send(&self, id: u64, val: i64, error: i32, flags: u32) -> Result<(), Errno> {
        let mut response = libc::seccomp_notif_resp { id, val, error, flags };
        // SAFETY: a structure of our own, of the size that the number names.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), SEND, &raw mut response) }).map(drop)
    }

    /// Whether the call still waits for its answer.
    #[must_use]
    pub fn is_valid(&self, id: u64) -> bool {
        // SAFETY: reads eight bytes of our own.
        (unsafe { libc::ioctl(self.0.as_raw_fd(), ID_VALID, &raw const id) }) == 0
    }

    /// Installs `fd` in the caller's descriptor table and answers with its number (Linux 5.9).
    ///
    /// In two steps, though `SECCOMP_ADDFD_FLAG_SEND` makes one of them: before the caller goes on, our own
    /// descriptor must be closed, or what it closes would live on for a moment and keep its port.
    pub fn respond_with_descriptor(&self, id: u64, fd: OwnedFd, close_on_exec: bool) -> Result<(), Errno> {
        let addfd = libc::seccomp_notif_addfd {
            id,
            flags: 0,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: a structure of our own, of the size that the number names.
        let number = Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), ADDFD, &raw const addfd) })?;
        drop(fd);
        self.respond(id, i64::from(number), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_header() {
        assert_eq!(RECV as u32, 0xC050_2100);
        assert_eq!(SEND as u32, 0xC018_2101);
        assert_eq!(ID_VALID as u32, 0x4008_2102);
        assert_eq!(ADDFD as u32, 0x4018_2103);
        assert_eq!(SET_FLAGS as u32, 0x4008_2104);
    }
}
