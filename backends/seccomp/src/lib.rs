//! The seccomp-notify backend: `SECCOMP_RET_USER_NOTIF`, `seccomp_unotify(2)`.
//!
//! A filter sends the calls to be judged to a listener; the calling thread sleeps in the kernel until it
//! is answered. Nothing else of the program is touched: no ptrace, no injected code, no cost to other
//! calls but the filter's.
//!
//! - One thread at a time receives (`receivers.rs`): more would all be woken by each notification. Before
//!   anything that can block, it makes another one the receiver, so that nobody waits behind a slow call.
//! - `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19): once received, a call isn't interrupted by
//!   signals, so that what was performed is never done twice.
//! - A thread that is to be looked at is held by ptrace for a moment, at the exit of its call (`hold.rs`,
//!   `reply.rs`).
//! - When the supervisor dies, the listener closes and trapped calls fail with ENOSYS.

mod again;
mod hold;
mod listener;
mod probe;
mod receivers;
mod reply;
mod tables;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use sockstrace_backend::filter::{Filter, Interception};
use sockstrace_backend::job::Supervision;
use sockstrace_backend::reap::{Change, WAKE, next_change};
use sockstrace_backend::{
    Backend, BackendError, Capabilities, Command, Ended, Finding, Handler, Leftover, Plan, ProcessEvent, launch,
    signals, tree,
};
use std::sync::Arc;

/// The backend.
#[derive(Debug, Default)]
pub struct SeccompBackend;

impl SeccompBackend {
    /// Makes it; nothing happens before [`Backend::run`].
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Backend for SeccompBackend {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            launch: true,
            watch: false,
            refuse: true,
            perform: true,
            observes_results: false,
            attach: false,
            reports_processes: false,
            looks: true,
            repeats: true,
            holds_at_exit: false,
            captures: false,
            hooks: false,
            diverts: false,
        }
    }

    fn probe(&self) -> Vec<Finding> {
        probe::findings()
    }

    fn run(&self, command: &Command, plan: &Plan, handler: Arc<dyn Handler>) -> Result<Ended, BackendError> {
        self.run_with(command, plan, &handler, |_| Ok(()))
    }
}

impl SeccompBackend {
    /// As [`Backend::run`], for a backend that watches by other means too: `attach` is told of the child before
    /// it runs PROGRAM.
    ///
    /// # Errors
    /// As [`Backend::run`], and those of `attach`.
    pub fn run_with(
        &self,
        command: &Command,
        plan: &Plan,
        handler: &Arc<dyn Handler>,
        attach: impl FnOnce(Pid) -> Result<(), BackendError>,
    ) -> Result<Ended, BackendError> {
        let own = plan.heeds_sharing.then(tables::own_traps);
        let own = own.as_ref().map_or(&[][..], |own| own);
        let filter = Filter::intercepting_also(&plan.traps, own, Interception::Notify)?;
        let strict = plan.allowed_syscalls.as_deref().map(Filter::allowing_only).transpose()?;
        let setup = launch::Setup {
            intercepting: Some(&filter),
            listener: true,
            late: None,
            strict: strict.as_ref(),
            user_namespace: plan.user_namespace,
            namespaces: plan.namespaces.as_deref(),
        };
        tree::become_subreaper().map_err(BackendError::doing("becoming the tree's subreaper"))?;
        wakeable().map_err(BackendError::doing("preparing the reaper's signal"))?;
        let mut supervision = Supervision::begin().map_err(BackendError::doing("taking signals over"))?;
        let mut child = launch::start(command, &setup, attach)?;
        let listener = child
            .take_listener()
            .ok_or_else(|| BackendError::Failed("the filter's listener is missing".into(), Errno::EBADF))?;
        receivers::start(listener, Arc::clone(handler))?;
        let program = child.exec()?;
        supervision.forward_to(program).map_err(BackendError::doing("opening the program's pidfd"))?;
        handler.process(ProcessEvent::Exec { pid: program });
        wait_for_tree(program, plan.leftover, &**handler, supervision)
    }
}

/// Lets other threads wake this one, which reaps.
fn wakeable() -> Result<(), Errno> {
    signals::make_interrupting(WAKE)?;
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(WAKE)), None)
}

/// Reaps PROGRAM and whatever of its tree is reparented to us, until none is left.
fn wait_for_tree(
    program: Pid,
    leftover: Leftover,
    handler: &dyn Handler,
    mut supervision: Supervision,
) -> Result<Ended, BackendError> {
    let mut ended = None;
    loop {
        let (pid, how) = match next_change() {
            Ok(Change::Ended(pid, how)) => (pid, how),
            Ok(Change::Stopped(pid, signal)) => {
                if pid == program {
                    supervision.stop_like_program(signal);
                }
                continue;
            }
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => break,
            Err(errno) => return Err(BackendError::Failed("waiting for the program".into(), errno)),
        };
        handler.process(ProcessEvent::Gone { pid, ended: Some(how) });
        if pid == program {
            ended = Some(how);
            supervision.program_ended();
            handler.program_ended(how);
            if leftover == Leftover::Kill {
                // On a thread of its own: they must be reaped meanwhile.
                std::thread::spawn(tree::kill_descendants);
            }
        }
    }
    ended.ok_or_else(|| BackendError::Failed("the program's end was missed".into(), Errno::ECHILD))
}
