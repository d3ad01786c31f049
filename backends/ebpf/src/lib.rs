//! The eBPF backend: programs in the kernel report what processes do with sockets, of the whole machine.
//!
//! The programs are written in C (`bpf/`), compiled by clang when the crate is built, and relocated against
//! the running kernel's BTF when they are loaded. No kprobes, nothing pinned: when this process ends, however
//! that comes about, they are gone.
//!
//! # Where addresses come from
//!
//! A tracepoint that reads the caller's memory reads what may have changed since the kernel did, or is not
//! there yet. So the point of truth is the cgroup hooks on `bind`, `connect`, `sendmsg` and `recvmsg` of
//! internet sockets: what they are given is the kernel's own copy, whatever interface the call came by. They
//! are attached at the root of the cgroup hierarchy, because a socket keeps the cgroup that it was made in.
//! Between a system call's entry and its exit (`raw_syscalls`), the thread's call is kept in a map; the hooks
//! put the address there, and the exit adds the result and reports it. Peers come from the kernel's socket,
//! names of UNIX sockets too. What is left (other families, UNIX paths, addresses that the kernel refused) is
//! read from the caller's memory at the call's end, when the kernel has just used it.
//!
//! # Running a program
//!
//! The same hooks then judge: where the calling thread's process belongs to the tree (a map of process ids that
//! fork and exit keep), the address is looked up in the compiled rules (`rules.rs`), and refused if need be. What
//! they don't see is held up by a seccomp filter (`run.rs`), or judged by LSM programs where the kernel takes them
//! (`guards.rs`): with these an io_uring needn't be refused. Where what is let go is not to be told, the hooks count it,
//! tell what they refuse by themselves, and nothing is attached to system calls at all (`bpf/refusals.h`). Who leaks is killed at the end of its call by the
//! kernel itself. If this process dies, a guardian (`guardian.rs`) keeps the programs in place and ends the tree.
//!
//! # Diverting connections
//!
//! With [`sockstrace_backend::hooks::Hooks::holes`] a TCP connection that leaks isn't refused: the connect hook puts
//! the address of a hole in the place of its destination (`bpf/diversions.h`), and remembers that by the socket's cookie.
//! Before its SYN leaves, a sock_ops program tells the handler who waits at which hole. getpeername and getsockname
//! have hooks of their own, which say what would have been true. If this process dies the holes are closed: who is sent
//! there is refused, and so is everybody else, as the tree is ending.
//!
//! # Limits
//!
//! - Process ids are those of the initial pid namespace.
//! - io_uring: Linux 6.0; of multishot requests the last completion alone.
//! - x32 calls are not seen.

mod attention;
mod calls;
mod capture;
mod cgroup;
mod guardian;
mod guards;
mod maps;
mod probe;
mod programs;
mod reader;
mod record;
mod rings;
mod rules;
mod run;
mod translate;
mod tree;
mod trial;
mod watch;

use sockstrace_backend::observed::{Observer, Scope};
use sockstrace_backend::{Backend, BackendError, Capabilities, Command, Ended, Finding, Handler, Plan};
use std::sync::Arc;

/// The backend.
#[derive(Debug, Default)]
pub struct EbpfBackend;

impl EbpfBackend {
    /// Makes it; nothing happens before [`Backend::watch`].
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Backend for EbpfBackend {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            launch: true,
            watch: true,
            refuse: true,
            perform: false,
            // Of what is stopped at; what the hooks tell has a result.
            observes_results: false,
            attach: true,
            reports_processes: true,
            // By the seccomp backend; the hooks copy stacks.
            looks: true,
            repeats: true,
            holds_at_exit: false,
            captures: true,
            hooks: true,
            diverts: true,
        }
    }

    fn probe(&self) -> Vec<Finding> {
        probe::findings()
    }

    fn run(&self, command: &Command, plan: &Plan, handler: Arc<dyn Handler>) -> Result<Ended, BackendError> {
        run::run(command, plan, handler)
    }

    fn watch(&self, scope: &Scope, observer: &dyn Observer) -> Result<(), BackendError> {
        watch::watch(scope, observer)
    }
}
