//! Carrying out a reply.

use crate::listener::{Listener, Notification};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, stat};
use nix::unistd::Pid;
use sockstrace_backend::Reply;
use std::os::fd::{FromRawFd, OwnedFd};

/// The kernel's code for "interrupted: restart as the handler's SA_RESTART says" (include/linux/errno.h).
const ERESTARTSYS: i32 = 512;

/// Answers the call. Where the caller is gone there is nobody to answer.
pub fn carry_out(listener: &Listener, notification: &Notification, reply: &Reply) {
    let id = notification.id;
    let answered = match *reply {
        Reply::Continue => listener.respond_continue(id),
        Reply::Return(value) => listener.respond(id, value, 0),
        Reply::Fail(errno) => listener.respond(id, 0, (errno as i32).wrapping_neg()),
        Reply::Restart => restart(listener, notification),
        Reply::OpenSocket { domain, kind, protocol } => open_socket(listener, notification, domain, kind, protocol),
    };
    match answered {
        Ok(()) | Err(Errno::ENOENT) => {}
        // The answer itself was refused: the call must not stay unanswered.
        Err(_) => match listener.respond(id, 0, -libc::EPERM) {
            Ok(()) | Err(_) => {}
        },
    }
}

/// Ends the call with `ERESTARTSYS`. User space would see that number if no signal were left to be handled
/// (another thread may have taken it), so a ptrace interrupt makes the thread pass the kernel's signal code
/// in any case. Order matters: seize, interrupt, answer, wait, detach.
fn restart(listener: &Listener, notification: &Notification) -> Result<(), Errno> {
    use nix::sys::ptrace;
    let tid = Pid::from_raw(notification.tid);
    let id = notification.id;
    if ptrace::seize(tid, ptrace::Options::empty()).is_err() {
        // Somebody else traces it, or it is out of reach. EINTR is what a handler without SA_RESTART gives.
        return listener.respond(id, 0, -libc::EINTR);
    }
    let interrupted = ptrace::interrupt(tid);
    let answer = if interrupted.is_ok() { ERESTARTSYS } else { libc::EINTR };
    let answered = listener.respond(id, 0, answer.wrapping_neg());
    let mut status = 0;
    let waited = loop {
        // SAFETY: waits for the thread that we seized; nix can't represent every signal.
        let waited = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, libc::__WALL) };
        if waited != -1 || Errno::last() != Errno::EINTR {
            break waited;
        }
    };
    if waited == tid.as_raw() && libc::WIFSTOPPED(status) {
        // An event stop carries no signal to hand on; a signal-delivery stop does.
        let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
        // SAFETY: integers only. It may have been killed meanwhile: then there is nothing to detach.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, tid.as_raw(), 0, libc::c_long::from(signal)) };
    }
    answered
}

/// socket(2) with these very values, made here and installed there.
fn open_socket(
    listener: &Listener,
    notification: &Notification,
    domain: i32,
    kind: i32,
    protocol: i32,
) -> Result<(), Errno> {
    match socket_in_namespace_of(notification.tid, domain, kind, protocol) {
        Ok(socket) => listener.respond_with_descriptor(notification.id, socket, kind & libc::SOCK_CLOEXEC != 0),
        Err(errno) => listener.respond(notification.id, 0, (errno as i32).wrapping_neg()),
    }
}

fn socket_in_namespace_of(tid: i32, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/{tid}/ns/net");
    let (theirs, ours) = (stat(path.as_str())?, stat("/proc/thread-self/ns/net")?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        return socket(domain, kind, protocol);
    }
    // A namespace is a thread's: use one that ends.
    let namespace = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        socket(domain, kind, protocol)
    })
    .join()
    .unwrap_or(Err(Errno::EPERM))
}

fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only.
    let fd = Errno::result(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
