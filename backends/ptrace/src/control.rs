//! The ptrace requests and the wait: the part of pete that is replaced, in one place.
//!
//! What pete 0.13 lacks, and why its `Ptracer` isn't used (its `Tracee` is, for registers: see
//! [`crate::registers`]): its wait asks each tracee with WNOHANG in turn and sleeps between rounds, doubling
//! the sleep without bound; it attaches without PTRACE_SEIZE, so that job control can't be followed; it can
//! neither represent nor pass on real-time signals; and a tracee that vanishes is an internal error.
//! Measured (Linux 6.18, two processors, 2,000 calls stopped by `SECCOMP_RET_TRACE`, in ms):
//!
//! | | at once | after 5 s without a stop | 50 idle threads | 50 threads, after 5 s |
//! | --- | --- | --- | --- | --- |
//! | pete's wait | 52 to 117 | 3,442: the first stop is seen 3.4 s late | 91 | 3,425 |
//! | pete's wait behind a blocking waitid(2) | 8.5 | 14 | 10 to 63 | 47 |
//! | this module | 8.2 | 8.5 | 10 to 14 | 9.6 |
//!
//! Every request may find the tracee gone (ESRCH): a SIGKILL takes a thread out of any stop. That is never
//! an error: the wait tells of its end.

use crate::frame::{Frame, Place};
use crate::stops::{self, Change};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use sockstrace_backend::{Abi, Ended};
use std::mem::MaybeUninit;

/// How a stopped tracee goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// To its next event.
    Continue,
    /// To the next entry to or exit from a system call, or event.
    Syscall,
}

/// Waits for the next change among the calling thread's tracees and children.
///
/// Not those of other threads (`__WNOTHREAD`): whoever traces there waits there.
pub fn wait() -> Result<(Pid, Change), Errno> {
    wait_for(-1, 0).and_then(|change| change.ok_or(Errno::EINTR))
}

/// Waits for this very tracee or child.
pub fn wait_one(tid: Pid) -> Result<Change, Errno> {
    loop {
        match wait_for(tid.as_raw(), 0) {
            Ok(Some((_, change))) => return Ok(change),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The next change, if there is one already.
pub fn poll() -> Option<(Pid, Change)> {
    wait_for(-1, libc::WNOHANG).ok().flatten()
}

/// The next change of this very tracee, if there is one already.
pub fn poll_one(tid: Pid) -> Option<Change> {
    wait_for(tid.as_raw(), libc::WNOHANG).ok().flatten().map(|(_, change)| change)
}

/// Reaps this tracee or child, of any thread of ours, if it has ended.
pub fn reap(tid: Pid) -> Option<Ended> {
    let ended = |flags| {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let (id, flags) = (tid.as_raw() as libc::id_t, libc::WEXITED | libc::WNOHANG | libc::__WALL | flags);
        // SAFETY: the kernel writes a structure of our own; zeroed it is valid.
        let (result, info) =
            unsafe { (libc::waitid(libc::P_PID, id, info.as_mut_ptr(), flags), info.assume_init()) };
        // SAFETY: waitid(2) fills in this member, or leaves it 0.
        let status = unsafe { info.si_status() };
        match info.si_code {
            _ if result != 0 => None,
            libc::CLD_EXITED => Some(Ended::Exited(status)),
            libc::CLD_KILLED | libc::CLD_DUMPED => Some(Ended::Signaled(status)),
            _ => None,
        }
    };
    // Stops of tracees are told of whatever is asked for (`wait_task_stopped`, kernel/exit.c), and are its tracer's to
    // take: so it is looked at first.
    ended(libc::WNOWAIT).and_then(|_| ended(0))
}

fn wait_for(pid: libc::pid_t, flags: i32) -> Result<Option<(Pid, Change)>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes an int of our own.
    let pid = unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL | libc::__WNOTHREAD) };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some((Pid::from_raw(pid), stops::decode(status)))),
    }
}

/// Takes hold of a process of ours without stopping it.
pub fn seize(pid: Pid, options: Options) -> Result<(), Errno> {
    ptrace::seize(pid, options)
}

/// Sets the options of a stopped tracee.
pub fn set_options(tid: Pid, options: Options) -> Result<(), Errno> {
    ptrace::setoptions(tid, options)
}

/// Lets a stopped tracee go on, with a signal (0: none), real-time ones included.
pub fn resume(tid: Pid, how: Resume, signal: i32) -> Result<(), Errno> {
    let request = match how {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::Syscall => libc::PTRACE_SYSCALL,
    };
    request_with(request, tid, signal)
}

/// Leaves a tracee in its group-stop, but hears of its end.
pub fn listen(tid: Pid) -> Result<(), Errno> {
    request_with(libc::PTRACE_LISTEN, tid, 0)
}

/// Makes the tracee trap before it returns to user space.
pub fn interrupt(tid: Pid) -> Result<(), Errno> {
    ptrace::interrupt(tid)
}

/// Lets a stopped tracee go for good, with a signal (0: none).
pub fn detach(tid: Pid, signal: i32) -> Result<(), Errno> {
    request_with(libc::PTRACE_DETACH, tid, signal)
}

fn request_with(request: libc::c_uint, tid: Pid, data: i32) -> Result<(), Errno> {
    // SAFETY: these requests take integers only.
    let result = unsafe { libc::ptrace(request, tid.as_raw(), 0_usize, data as usize) };
    Errno::result(result).map(drop)
}

/// What comes with an event: a new task's id, a former one, an exit status.
pub fn message(tid: Pid) -> Result<i32, Errno> {
    ptrace::getevent(tid).map(|message| message as i32)
}

/// Where in a system call a tracee stands (Linux 5.3).
pub fn place(tid: Pid) -> Result<Place, Errno> {
    let info = syscall_info(tid)?;
    // SAFETY: `op` says which member the kernel has filled in; the others are integers as well.
    let (number, args, value) = unsafe {
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => (info.u.entry.nr, info.u.entry.args, 0),
            libc::PTRACE_SYSCALL_INFO_SECCOMP => (info.u.seccomp.nr, info.u.seccomp.args, 0),
            libc::PTRACE_SYSCALL_INFO_EXIT => (0, [0; 6], info.u.exit.sval),
            _ => return Ok(Place::Elsewhere),
        }
    };
    let (ip, sp) = (info.instruction_pointer, info.stack_pointer);
    if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
        return Ok(Place::Exit { ip, sp, value });
    }
    let Some(abi) = Abi::from_audit_arch(info.arch) else { return Ok(Place::Foreign) };
    let args = if abi == Abi::I386 { args.map(|arg| arg & 0xFFFF_FFFF) } else { args };
    let frame = Frame { abi, number: number as i32, args, ip, sp };
    Ok(if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY { Place::Entry(frame) } else { Place::Seccomp(frame) })
}

/// The interface of the call that a tracee is in, if it is in one; of its processor mode else.
pub fn abi(tid: Pid) -> Result<Option<Abi>, Errno> {
    syscall_info(tid).map(|info| Abi::from_audit_arch(info.arch))
}

fn syscall_info(tid: Pid) -> Result<libc::ptrace_syscall_info, Errno> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to memory of that size.
    let result = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid.as_raw(), size, info.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: all of it is integers, zeroed before the kernel filled it in.
    Ok(unsafe { info.assume_init() })
}

/// All general registers of a stopped tracee.
pub fn registers(tid: Pid) -> Result<libc::user_regs_struct, Errno> {
    ptrace::getregs(tid)
}

/// Reads a word of the tracee's memory; unlike process_vm_readv(2) it never waits for a userfaultfd, but
/// fails.
pub fn peek(tid: Pid, address: u64) -> Result<u64, Errno> {
    ptrace::read(tid, address as ptrace::AddressType).map(|word| word as u64)
}

/// Writes a word of the tracee's memory.
pub fn poke(tid: Pid, address: u64, word: u64) -> Result<(), Errno> {
    ptrace::write(tid, address as ptrace::AddressType, word as libc::c_long)
}
