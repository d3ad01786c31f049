//! Carrying out a reply, with a look at the thread where that is wanted.

use crate::again::Repeats;
use crate::hold::Held;
use crate::listener::{Listener, Notification};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, stat};
use nix::unistd::Pid;
use sockstrace_backend::look::{Halted, Registers, stack_pointer};
use sockstrace_backend::{InterceptedCall, Look, Reply, proc};
use std::os::fd::{FromRawFd, OwnedFd};

/// The kernel's code for "interrupted: restart as the handler's SA_RESTART says" (include/linux/errno.h).
const ERESTARTSYS: i32 = 512;

/// The kernel's code for "interrupted before anything was done: restart in any case".
const ERESTARTNOINTR: i32 = 513;

/// Answers calls.
pub struct Answering<'a> {
    /// Where the answers go.
    pub listener: &'a Listener,
    /// The thread that reaps our children.
    pub reaper: Pid,
    /// Calls that will come again.
    pub repeats: &'a Repeats,
    /// Nothing but its answer, or its end, ends a thread's wait (`WAIT_KILLABLE_RECV`, Linux 5.19).
    pub waits_killably: bool,
}

impl Answering<'_> {
    /// Answers the call. Where the caller is gone there is nobody to answer.
    pub fn carry_out(&self, notification: &Notification, reply: &Reply) {
        let (listener, id) = (self.listener, notification.id);
        let answered = match *reply {
            Reply::Continue => listener.respond_continue(id),
            Reply::Return(value) => listener.respond(id, value, 0),
            Reply::Fail(errno) => listener.respond(id, 0, (errno as i32).wrapping_neg()),
            Reply::Restart => restart(listener, notification, self.reaper),
            Reply::OpenSocket { domain, kind, protocol } => {
                open_socket(listener, notification, domain, kind, protocol)
            }
        };
        self.make_sure(id, answered);
    }

    fn make_sure(&self, id: u64, answered: Result<(), Errno>) {
        match answered {
            Ok(()) | Err(Errno::ENOENT) => {}
            // The answer itself was refused: the call must not stay unanswered.
            Err(_) => match self.listener.respond(id, 0, -libc::EPERM) {
                Ok(()) | Err(_) => {}
            },
        }
    }

    /// Answers the call so that the thread stops at its exit, looks at it there, and lets it go on.
    ///
    /// The order is what matters: seize, interrupt, answer, wait, detach. An interrupt that comes before the
    /// answer makes the thread stop before any instruction of its own; waiting before the answer would last
    /// for ever. A call that is to be carried out is answered with `ERESTARTNOINTR`, and comes again: letting it
    /// continue with an interrupt pending would break it off, perhaps half done.
    pub fn look_and_carry_out(
        &self,
        notification: &Notification,
        call: &InterceptedCall,
        pid: Pid,
        reply: &Reply,
        look: Look,
    ) {
        let halted = |registers| Halted { tid: call.tid, pid, abi: call.abi, registers };
        let held = match reply {
            // It isn't reported as if it had been made, so that nobody looks.
            Reply::Restart => Err(Errno::EINTR),
            // Its wait would end with the interrupt, and the call be made again whatever the answer.
            _ if !self.waits_killably => Err(Errno::ENOSYS),
            _ => Held::take(notification.tid, self.reaper),
        };
        let held = match held {
            Ok(held) => held,
            Err(why) => {
                // It waits for its answer: what /proc tells must do.
                let sp = proc::place(call.tid).map(|(_, sp)| sp);
                if self.listener.is_valid(notification.id) {
                    look.at(&halted(Registers::Few { pc: notification.ip, sp, why }));
                }
                return self.carry_out(notification, reply);
            }
        };
        match reply {
            Reply::Continue => {
                let answered = self.listener.respond(notification.id, 0, ERESTARTNOINTR.wrapping_neg());
                self.make_sure(notification.id, answered);
            }
            reply => self.carry_out(notification, reply),
        }
        let Some(stopped) = held.stop() else { return };
        if let Some(registers) = stopped.registers() {
            if *reply == Reply::Continue {
                self.repeats.expect(call, pid, notification.ip, stack_pointer(&registers));
            }
            look.at(&halted(Registers::All(registers)));
        }
        stopped.let_go();
    }
}

/// Ends the call with `ERESTARTSYS`. User space would see that number if no signal were left to be handled
/// (another thread may have taken it), so the thread is made to stop, and so to pass the kernel's signal code
/// in any case.
fn restart(listener: &Listener, notification: &Notification, reaper: Pid) -> Result<(), Errno> {
    let id = notification.id;
    let Ok(held) = Held::take(notification.tid, reaper) else {
        // Somebody else traces it, or it is out of reach. EINTR is what a handler without SA_RESTART gives.
        return listener.respond(id, 0, -libc::EINTR);
    };
    let answered = listener.respond(id, 0, ERESTARTSYS.wrapping_neg());
    if let Some(stopped) = held.stop() {
        stopped.let_go();
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
