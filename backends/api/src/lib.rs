//! What a sockstrace backend and the pipeline say to each other.
//!
//! A *backend* ([`Backend`]) runs or attaches to a program, stops the system calls that it is asked to
//! stop ([`Trap`]), and carries out the answer ([`Reply`]). It knows nothing of proxies, policy or
//! outputs. Whoever judges is a [`Handler`]: it is given each [`InterceptedCall`] with a [`Tracee`]
//! through which the caller's memory and descriptors can be read.
//!
//! # What a backend owes
//!
//! - It launches PROGRAM (or attaches) so that no asked call runs unjudged, in any ABI of the machine.
//! - It reports processes born, exec'd and gone as far as [`Capabilities`] says.
//! - It carries out a reply exactly once, and gives the caller the errno and the signal behaviour that
//!   the kernel would have given.
//! - It fails closed: when the backend or the supervisor dies, trapped calls fail or the tree ends.
//!
//! The crate also holds what every backend needs: the system call tables ([`arch`]), building the
//! seccomp filter that selects the calls ([`filter`]), starting a program ([`launch`]), reading another
//! process ([`remote`], [`proc`]), ending a whole process tree ([`tree`]), and noticing who is stuck
//! ([`watchdog`]).

pub mod arch;
pub mod call;
pub mod captured;
pub mod filter;
pub mod hooks;
pub mod job;
pub mod launch;
pub mod look;
pub mod observed;
pub mod proc;
pub mod reach;
pub mod reap;
pub mod remote;
pub mod signals;
pub mod tree;
pub mod watchdog;

use std::fmt;

pub use call::{Abi, InterceptedCall, Syscall};
use captured::{Captured, Wanted};
pub use filter::{Comparison, Condition, Trap};
use hooks::Hooks;
pub use launch::Command;
pub use look::{Halted, Look};
use nix::errno::Errno;
use nix::unistd::Pid;
use observed::{Diverted, Observation, Observer, Scope};
use remote::{Identity, Remote};
use std::ffi::{CString, OsString};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// What may be asked of a backend before the program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent yes/no properties, named at each use")]
pub struct Capabilities {
    /// It can run a program ([`Backend::run`]).
    pub launch: bool,
    /// It can watch the whole machine ([`Backend::watch`]).
    pub watch: bool,
    /// A call can be refused with an errno of our choice.
    pub refuse: bool,
    /// A call can be replaced by a result that the supervisor obtained itself.
    pub perform: bool,
    /// The return value of a call that was let go is known.
    pub observes_results: bool,
    /// A running process can be attached to.
    pub attach: bool,
    /// Every process birth, exec and exit is reported.
    pub reports_processes: bool,
    /// A thread in a call can be held still and looked at ([`Outcome::Look`]).
    pub looks: bool,
    /// A call that is let continue and looked at comes again ([`Tracee::repeats`]).
    pub repeats: bool,
    /// A thread is held at the exit of a call until [`Handler::leaving`] returns, so that what the kernel wrote
    /// into its memory can be read.
    pub holds_at_exit: bool,
    /// Payloads are copied in the kernel ([`Handler::captures`], [`Observer::captures`]).
    pub captures: bool,
    /// Internet destinations are judged in the kernel, by the rules of [`Plan::hooks`]: what is stopped at is the
    /// rest.
    pub hooks: bool,
    /// Connections that leak can be diverted there ([`Hooks::holes`]).
    pub diverts: bool,
}

/// What is to be watched, and how; the same for every backend.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The calls to stop at.
    pub traps: Vec<Trap>,
    /// `Some`: calls that are not named here fail with EPERM (`--syscalls strict`).
    pub allowed_syscalls: Option<Vec<&'static str>>,
    /// What becomes of descendants that outlive PROGRAM.
    pub leftover: Leftover,
    /// The handler wants [`Handler::returned`] for calls that it let continue.
    pub observe_results: bool,
    /// Who may turn what a call means behind the handler's back is to be known: see [`Tracee::is_alone`].
    pub heeds_sharing: bool,
    /// PROGRAM runs in a user namespace of its own, so that an unprivileged supervisor can read
    /// processes that are not dumpable.
    pub user_namespace: bool,
    /// PROGRAM runs in these namespaces, which exist already, instead of in a user namespace of its own.
    pub namespaces: Option<Arc<Namespaces>>,
    /// What is judged in the kernel, by backends whose [`Capabilities::hooks`] is set.
    pub hooks: Option<Hooks>,
}

/// A user namespace, and a network namespace that belongs to it. They live as long as somebody holds these
/// descriptors, or a process is in them.
#[derive(Debug)]
pub struct Namespaces {
    /// The parent of the user namespace, to which PROGRAM's mounts belong: in there PROGRAM has no rights.
    pub holder: OwnedFd,
    /// Files that PROGRAM finds /dev/null in place of; those that aren't there are passed over.
    pub covered: Vec<CString>,
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace.
    pub network: OwnedFd,
}

/// What becomes of descendants that outlive PROGRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leftover {
    /// The backend returns when the last of them has ended.
    #[default]
    Wait,
    /// They are ended with SIGKILL.
    Kill,
}

/// How PROGRAM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Ended {
    /// The status that a shell would report: the exit status, or 128 + signal.
    #[must_use]
    pub fn shell_status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => 128_i32.saturating_add(signal),
        }
    }
}

/// A thread that is stopped in an intercepted call.
///
/// Everything read through it is a copy of what the tracee had at that moment, and must be taken once:
/// other threads may change the original at any time.
pub trait Tracee {
    /// The id of the stopped thread.
    fn tid(&self) -> Pid;

    /// The process (thread group) that the thread belongs to.
    fn pid(&self) -> Pid;

    /// Copies `buffer.len()` bytes from `address`. Returns how many bytes could be read before the first
    /// unmapped page (`Err(Fault)` if none).
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError>;

    /// Writes to the tracee's memory; all or an error.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError>;

    /// A duplicate of the tracee's descriptor (close-on-exec), sharing its open file description.
    ///
    /// # Errors
    /// EBADF where the tracee has no such descriptor; EPERM where the process can't be reached; ESRCH
    /// where it is gone.
    fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno>;

    /// Whether the thread is still stopped in this very call (it may have been killed).
    fn is_waiting(&self) -> bool;

    /// The [`InterceptedCall::id`] of the call that this one is made anew in place of: it was answered with
    /// [`Reply::Continue`] and looked at, and comes once more before the kernel carries it out. What the thread
    /// asks for may have changed in between, so that it is to be judged again.
    fn repeats(&self) -> Option<u64> {
        None
    }

    /// The thread's process, its parent and its real ids.
    ///
    /// # Errors
    /// ESRCH where it is gone.
    fn identity(&self) -> Result<Identity, Errno> {
        Remote::open(self.tid())?.identity()
    }

    /// The thread's name, and the path of its executable.
    fn names(&self) -> (Option<OsString>, Option<PathBuf>) {
        (proc::thread_name(self.tid()), proc::executable(self.pid()))
    }

    /// The thread's name.
    fn name(&self) -> Option<OsString> {
        self.names().0
    }

    /// Whether nobody but this very thread can change what its call will do: see [`Remote::is_alone`].
    fn is_alone(&self) -> bool {
        Remote::open(self.tid()).is_ok_and(|remote| remote.is_alone())
    }

    /// The inode number of the socket behind a descriptor, which names it among all of the machine as long as it
    /// exists, whoever holds it. `None` where the descriptor is no socket, or can't be looked at.
    fn socket_inode(&self, fd: i32) -> Option<u64> {
        Remote::open(self.tid()).ok()?.socket_inode(fd)
    }

    /// Whether a call that was begun [`Patience::AtOnce`] may block after all, where it seldom does: the others
    /// are held up for a few milliseconds then, until somebody else sees to them.
    fn may_linger(&self) -> bool {
        false
    }
}

/// Why memory of a tracee could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryError {
    /// The address isn't mapped, or not with the needed rights: the kernel would have said EFAULT.
    Fault,
    /// The process is out of our reach (not dumpable, another user namespace).
    Denied,
    /// The process is gone.
    Gone,
    /// The page isn't resident, so that reading it could block, and the caller has no time:
    /// ask to be called again with [`Patience::MayBlock`].
    WouldBlock,
}

/// Whether the handler may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Other calls wait behind this one: answer at once or with [`Outcome::NeedsPatience`].
    AtOnce,
    /// The handler has a thread to itself and may wait for the network or for memory.
    MayBlock,
}

/// What the handler answers.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// This is the answer.
    Reply(Reply),
    /// This is the answer, once the thread has been looked at. The look comes after the judgement, and before
    /// the thread runs a single instruction of its own with the answer. With [`Reply::Continue`] the call may
    /// come again: see [`Capabilities::repeats`]. Only to backends whose [`Capabilities::looks`] is set.
    Look(Reply, Look),
    /// Nothing was done yet; call again with [`Patience::MayBlock`]. Never an answer to that.
    NeedsPatience,
}

/// How an intercepted call ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The kernel carries the call out as it stands (it reads the tracee's memory anew).
    Continue,
    /// The call was performed on the tracee's behalf and gave this value.
    Return(i64),
    /// The call fails with this errno.
    Fail(Errno),
    /// A signal for the thread interrupted the call before anything was done: what the kernel does with
    /// `ERESTARTSYS` (restart, or EINTR where the handler was installed without SA_RESTART).
    Restart,
    /// `socket(domain, kind, protocol)` is carried out with these very values, whatever now stands in
    /// the tracee's memory (i386 `socketcall`).
    OpenSocket {
        /// Address family, as in socket(2).
        domain: i32,
        /// Type with its flags, as in socket(2).
        kind: i32,
        /// Protocol, as in socket(2).
        protocol: i32,
    },
}

/// A process event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A process was born. `parent` is 0 where it isn't known.
    Born {
        /// The new process.
        pid: Pid,
        /// Its parent.
        parent: Pid,
    },
    /// The process runs a new program.
    Exec {
        /// The process.
        pid: Pid,
    },
    /// The process ended; `None` where how is not known.
    Gone {
        /// The process.
        pid: Pid,
        /// How it ended.
        ended: Option<Ended>,
    },
}

/// Who was attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The processes, the one that was named first.
    pub processes: Vec<Pid>,
    /// What can't be seen of them, in words for a person.
    pub limits: Vec<String>,
}

/// The judge of intercepted calls. Shared by all threads of a backend.
pub trait Handler: Send + Sync {
    /// Judges one call and, where asked to, performs it.
    fn handle(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> Outcome;

    /// A call that was let continue (or became [`Reply::OpenSocket`]) gave this result (negative: −errno).
    /// Only from backends whose [`Capabilities::observes_results`] is set, when [`Plan::observe_results`] asks
    /// for it.
    fn returned(&self, call: &InterceptedCall, result: i64);

    /// As [`Handler::returned`], with the thread held at the call's exit: what the call has written into its
    /// memory is there, unless another thread was faster. Whether that is all: `false`, never where the handler
    /// may block, is the wish to be asked again with [`Patience::MayBlock`]. Only from backends whose
    /// [`Capabilities::holds_at_exit`] is set; others call [`Handler::returned`].
    fn leaving(&self, call: &InterceptedCall, result: i64, _tracee: &dyn Tracee, _patience: Patience) -> bool {
        self.returned(call, result);
        true
    }

    /// Whether anybody waits for [`Handler::returned`] of this call, which was let continue: a backend need not
    /// see to the results of others.
    fn awaits_result(&self, _call: &InterceptedCall) -> bool {
        true
    }

    /// A call that was to be reported by [`Handler::returned`] never will be: its thread is gone, or it was
    /// interrupted and is made again, which is a call of its own.
    fn abandoned(&self, call: &InterceptedCall);

    /// A process was born, exec'd or ended.
    fn process(&self, event: ProcessEvent);

    /// Something that was judged in the kernel, and has ended ([`Plan::hooks`]).
    fn observed(&self, _: Observation) {}

    /// A connection that leaks waits at a hole ([`Hooks::holes`]). `show` takes the address that the program is to see
    /// as its socket's own.
    fn diverted(&self, _: Diverted, _show: &mut dyn FnMut(IpAddr)) {}

    /// Connects are stopped at after all: what was to be done instead is done ([`Hooks::held`]). Before the program
    /// starts.
    fn holds_connects(&self) {}

    /// What odd sockets do is judged in the kernel ([`Hooks::odd_sockets`]). Before the program starts.
    fn judges_odd_sockets(&self) {}

    /// Who was attached to is held still, before anything of it is judged. Only from [`Backend::attach`].
    fn attached(&self, _: &Attached) {}

    /// The backend lets all threads go: what blocks in the place of one is to return as if a signal had come
    /// for it.
    fn let_go(&self) {}

    /// What is to be captured, by backends whose [`Capabilities::captures`] is set.
    fn captures(&self) -> Option<Wanted> {
        None
    }

    /// Something was captured ([`Handler::captures`]). Called by one thread at a time.
    fn captured(&self, _: Captured) {}

    /// PROGRAM itself has ended; descendants of it may go on.
    fn program_ended(&self, _ended: Ended) {}
}

/// Why a backend can't run, or stopped running.
#[derive(Debug)]
pub enum BackendError {
    /// PROGRAM does not exist (exit status 127).
    NotFound(String),
    /// PROGRAM exists but can't be executed (exit status 126).
    NotExecutable(String, Errno),
    /// sockstrace itself failed: what, and why (exit status 125).
    Failed(String, Errno),
    /// The kernel or this user can't do what the backend needs: what, and what to change.
    Unavailable(String),
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(program) => write!(f, "{program}: not found"),
            Self::NotExecutable(program, errno) => write!(f, "{program}: can't be executed: {}", errno.desc()),
            Self::Failed(what, errno) => write!(f, "{what}: {} ({errno:?})", errno.desc()),
            Self::Unavailable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for BackendError {}

impl BackendError {
    /// For `map_err`: names what was being done when `errno` came.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |errno| Self::Failed(what, errno)
    }
}

/// A finding of `sockstrace doctor`.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Whether it is there: `Some(false)` stops the backend from working, `None` only limits it.
    pub works: Option<bool>,
    /// Details, and what to change.
    pub detail: String,
}

/// A way of intercepting system calls.
pub trait Backend: Send + Sync {
    /// The name for `--backend` and for events.
    fn name(&self) -> &'static str;

    /// What it can do on any machine where it works.
    fn capabilities(&self) -> Capabilities;

    /// Looks whether it works for this kernel and this user, by trying.
    fn probe(&self) -> Vec<Finding>;

    /// Runs a program to its end (and, with [`Leftover::Wait`], to its last descendant's end), asking
    /// `handler` for each trapped call.
    fn run(&self, command: &Command, plan: &Plan, handler: Arc<dyn Handler>) -> Result<Ended, BackendError>;

    /// Judges what a running process, its descendants and their threads do from now on, until the last of them
    /// has ended, or a signal (SIGINT, SIGTERM, SIGHUP) ends that: they go on then as if nothing had been. To
    /// be called before threads are started that don't block these signals.
    ///
    /// # Errors
    /// Where it can't ([`Capabilities::attach`]), or that process can't be attached to.
    fn attach(&self, _pid: Pid, _: &Plan, _: Arc<dyn Handler>) -> Result<(), BackendError> {
        Err(BackendError::Unavailable(format!("the {} backend can't attach to running processes", self.name())))
    }

    /// Watches processes that it did not start until a signal (SIGINT, SIGTERM, SIGHUP) ends that.
    ///
    /// # Errors
    /// Where it can't ([`Capabilities::watch`]), or this machine doesn't let it.
    fn watch(&self, _: &Scope, _: &dyn Observer) -> Result<(), BackendError> {
        Err(BackendError::Unavailable(format!("the {} backend can't watch the whole machine", self.name())))
    }
}
