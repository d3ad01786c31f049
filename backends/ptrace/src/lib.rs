//! The ptrace backend: `ptrace(2)`, with a seccomp filter that spares the program all stops but those that
//! matter.
//!
//! - **Hybrid.** A filter answers `SECCOMP_RET_TRACE` for the calls that are to be judged; no other call
//!   stops. Where no filter can be installed, every call stops instead ([`PtraceBackend::full_stop`]).
//! - **One stop a call.** The stop comes before the call. What is refused or was performed by us is skipped
//!   there (call number −1, result in its register): no second stop. A second one, at the call's exit, is
//!   made where the result is to be observed, registers restored, or an interrupted call restarted.
//! - **One thread traces** (the kernel wants that), asleep in waitpid(2). A call whose judgement may block
//!   goes to a worker thread while its own stays in its stop, so that none waits behind it.
//! - **Exits.** A thread is let go at `PTRACE_EVENT_EXIT`, before it is a zombie: its real parent can reap it
//!   the moment it hears of it. A tracer that holds on makes waitid(2) say "not yet" after the pidfd polled
//!   readable.
//! - **Job control.** Tracees are seized: group-stops are listened to, SIGCONT ends them, signals pass
//!   unchanged, with their siginfo.
//! - **It fails closed.** When the tracer dies, `PTRACE_O_EXITKILL` ends the tree; a request that fails in
//!   an unforeseen way ends the process that it was for. Not so for processes that were attached to, which ran
//!   before us and go on after us: see the module `attached`.
//!
//! # Limits
//!
//! - A tracee has one tracer: debuggers don't work inside the tree (EPERM, as under any tracer).
//! - A seccomp listener of the program's own is refused with EBUSY, as it would outdo our filter; listeners
//!   installed outside, before us (container runtimes), answer before us.
//! - The kernel interrupts a traced thread even for signals that it ignores. Calls that are not restarted
//!   (`epoll_wait`, `sigtimedwait`) may return EINTR where they wouldn't untraced.
//! - A process is in a group-stop only when all its threads are: one whose call is being performed joins
//!   when that ends.
//! - A clone3(2) whose flags another thread changes while the kernel reads them may make an untraced child.
//!   Its trapped calls fail with ENOSYS.
//! - A thread that SIGKILL takes out of a stop comes to its `PTRACE_EVENT_EXIT` stop by itself. If that happens
//!   between our last look and our request to go on, some 0.3 µs, it goes on from there unseen and ends as our
//!   tracee: its parent's pidfd then polls readable a moment before it can be reaped. (Measured: once in a
//!   thousand processes that are killed while they make threads; never in others.)
//! - aarch64 is written but was neither compiled nor run yet.

mod arch;
mod attached;
mod calls;
mod control;
mod frame;
mod full_stop;
mod probe;
mod registers;
mod select;
mod sharing;
mod stops;
mod threads;
mod tracee;
mod tracer;
mod worker;

use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use sockstrace_backend::filter::{Filter, Interception, is_of_start};
use sockstrace_backend::job::Supervision;
use sockstrace_backend::launch::{self, Waiting};
use sockstrace_backend::{
    Backend, BackendError, Capabilities, Command, Ended, Finding, Handler, Plan, signals, tree,
};
use std::cell::Cell;
use std::sync::Arc;
use tracer::{Mode, Tracer};
use worker::{WAKE, Workers};

/// The backend.
///
/// [`Backend::run`] must be called on the process's main thread, whose children orphans of the tree become,
/// and which must have no other children: it returns when none is left.
#[derive(Debug, Default)]
pub struct PtraceBackend {
    full_stop: bool,
}

impl PtraceBackend {
    /// Makes it; nothing happens before [`Backend::run`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that uses no filter though there might be one: each call of the program stops twice.
    #[must_use]
    pub fn full_stop() -> Self {
        Self { full_stop: true }
    }
}

impl Backend for PtraceBackend {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            launch: true,
            watch: false,
            refuse: true,
            perform: true,
            observes_results: true,
            attach: true,
            reports_processes: true,
            looks: true,
            hooks: false,
            diverts: false,
            repeats: false,
            holds_at_exit: true,
            captures: false,
        }
    }

    fn probe(&self) -> Vec<Finding> {
        probe::findings()
    }

    fn run(&self, command: &Command, plan: &Plan, handler: Arc<dyn Handler>) -> Result<Ended, BackendError> {
        let doing = BackendError::doing;
        tree::become_subreaper().map_err(doing("becoming the tree's subreaper"))?;
        signals::make_interrupting(WAKE).map_err(doing("preparing the tracer's signal"))?;
        let wake = SigSet::from(WAKE);
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&wake), None)
            .map_err(doing("unblocking the tracer's signal"))?;
        let workers = Workers::start(Arc::clone(&handler)).map_err(doing("starting a thread"))?;
        let mut supervision = Supervision::begin().map_err(doing("taking over signals"))?;
        let (waiting, mode) = self.start(command, plan)?;
        let started = waiting.exec_without_waiting()?;
        supervision.forward_to(started.pid()).map_err(doing("opening the program's pidfd"))?;
        Tracer::new(plan, mode, handler, workers, supervision, started).run()
    }

    fn attach(&self, pid: Pid, plan: &Plan, handler: Arc<dyn Handler>) -> Result<(), BackendError> {
        attached::attach(pid, plan, handler)
    }
}

impl PtraceBackend {
    /// Starts the child: under a filter, or without one where none can be installed.
    fn start(&self, command: &Command, plan: &Plan) -> Result<(Waiting, Mode), BackendError> {
        if self.full_stop {
            return start_in(Mode::FullStop, command, plan)
                .map(|child| (child, Mode::FullStop))
                .map_err(|(error, _)| error);
        }
        match start_in(Mode::Filtered, command, plan) {
            Ok(child) => Ok((child, Mode::Filtered)),
            // It was ours to trace, and then the kernel (or a filter around us) refused the filter.
            Err((error @ BackendError::Failed(..), true)) => match start_in(Mode::FullStop, command, plan) {
                Ok(child) => Ok((child, Mode::FullStop)),
                Err(_) => Err(error),
            },
            Err((error, _)) => Err(error),
        }
    }
}

/// Starts the child; an error comes with whether it could be seized.
fn start_in(mode: Mode, command: &Command, plan: &Plan) -> Result<Waiting, (BackendError, bool)> {
    let unseized = |error| (error, false);
    let (filter, late) = match mode {
        Mode::Filtered => {
            let own = select::Selector::own_traps();
            let (late, early): (Vec<_>, Vec<_>) =
                plan.traps.iter().cloned().partition(|trap| is_of_start(trap.syscall));
            let filter = Filter::intercepting_also(&early, &own, Interception::Trace).map_err(unseized)?;
            let late = (!late.is_empty()).then(|| Filter::intercepting(&late, Interception::Trace));
            (Some(filter), late.transpose().map_err(unseized)?)
        }
        Mode::FullStop => (None, None),
    };
    let strict = plan.allowed_syscalls.as_deref().map(Filter::allowing_only).transpose().map_err(unseized)?;
    let setup = launch::Setup {
        intercepting: filter.as_ref(),
        listener: false,
        late: late.as_ref(),
        strict: strict.as_ref(),
        user_namespace: plan.user_namespace,
        namespaces: plan.namespaces.as_deref(),
    };
    let seized = Cell::new(false);
    let options = match mode {
        Mode::Filtered => tracer::options_before_exec() | Options::PTRACE_O_TRACESECCOMP,
        Mode::FullStop => tracer::options_before_exec(),
    };
    let attach = |pid| {
        control::seize(pid, options).map_err(cannot_seize)?;
        seized.set(true);
        Ok(())
    };
    launch::start(command, &setup, attach).map_err(|error| (error, seized.get()))
}

fn cannot_seize(errno: Errno) -> BackendError {
    match errno {
        Errno::EPERM => BackendError::Unavailable(
            "ptrace is not permitted (see /proc/sys/kernel/yama/ptrace_scope, and what the container allows)"
                .into(),
        ),
        other => BackendError::Failed("tracing the program".into(), other),
    }
}
