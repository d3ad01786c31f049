//! The loop: waits for the next stop, and does what is due.
//!
//! All ptrace requests come from the thread that runs it, as the kernel wants.

use crate::attached::Attachment;
use crate::control::{self, Resume};
use crate::registers::Registers;
use crate::select::Selector;
use crate::sharing;
use crate::stops::{self, Change};
use crate::threads::{AtExit, Phase, Thread, Threads};
use crate::worker::Workers;
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sockstrace_backend::job::Supervision;
use sockstrace_backend::launch::Started;
use sockstrace_backend::proc::Status;
use sockstrace_backend::remote::RemoteCache;
use sockstrace_backend::{BackendError, Ended, Handler, Leftover, Plan, ProcessEvent, tree};
use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Until PROGRAM runs: its end is then its parent's, our own, business alone.
pub fn options_before_exec() -> Options {
    Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD
}

fn options(mode: Mode) -> Options {
    let common = options_before_exec() | births_and_ends();
    match mode {
        Mode::Filtered => common | Options::PTRACE_O_TRACESECCOMP,
        // Without the option, calls that a filter of the program's own wants traced fail with ENOSYS, as
        // they would without us.
        Mode::FullStop => common,
    }
}

/// For what ran before us: our end isn't its own.
pub fn options_attached() -> Options {
    births_and_ends() | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD
}

/// Until its first stop, as long as others are seized: see [`crate::attached`].
pub fn options_seized() -> Options {
    options_attached() - Options::PTRACE_O_TRACEEXIT
}

fn births_and_ends() -> Options {
    Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXIT
}

/// How many stops of the same tracees may be served while others wait: looking for those costs a system call.
const EVERY: u32 = 8;

/// How calls are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A seccomp filter stops those that matter.
    Filtered,
    /// Every call of every thread stops, twice.
    FullStop,
}

/// The tracer of one program.
pub struct Tracer {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) selector: Selector,
    pub(crate) mode: Mode,
    pub(crate) threads: Threads,
    pub(crate) remotes: Arc<RemoteCache>,
    pub(crate) workers: Workers,
    pub(crate) observe: bool,
    /// Leaks are refused, so that nobody may come to be that isn't traced.
    pub(crate) refuses: bool,
    pub(crate) last_id: u64,
    /// Tracees that were seen before the event that announces them.
    unannounced: HashSet<i32>,
    /// Where we have started PROGRAM.
    supervision: Option<Supervision>,
    leftover: Leftover,
    /// 0 where none was started.
    program: Pid,
    /// Until PROGRAM is executed.
    started: Option<Started>,
    ended: Option<Ended>,
    pub(crate) failure: Option<BackendError>,
    /// Where processes are traced that ran before us.
    pub(crate) attached: Option<Attachment>,
    /// The signal of a group-stop of PROGRAM's, in which we are to follow when it is complete: what a shell
    /// would be told then.
    follow: Option<i32>,
    /// Whatever is left is to end: new tracees too.
    killing: bool,
    killer: Option<JoinHandle<()>>,
    rounds: u32,
}

impl Tracer {
    /// A tracer for a child that was seized and told to execute PROGRAM.
    pub fn new(
        plan: &Plan,
        mode: Mode,
        handler: Arc<dyn Handler>,
        workers: Workers,
        supervision: Supervision,
        started: Started,
    ) -> Self {
        let program = started.pid();
        let mut tracer = Self {
            supervision: Some(supervision),
            program,
            started: Some(started),
            ..Self::of_nobody(plan, mode, handler, workers)
        };
        tracer.threads.add(program, program);
        tracer.handler.process(ProcessEvent::Born { pid: program, parent: Pid::this() });
        tracer
    }

    /// A tracer that has no tracees yet.
    pub(crate) fn of_nobody(plan: &Plan, mode: Mode, handler: Arc<dyn Handler>, workers: Workers) -> Self {
        Self {
            handler,
            selector: Selector::new(&plan.traps),
            mode,
            threads: Threads::default(),
            remotes: Arc::new(RemoteCache::new(remotes_to_keep())),
            workers,
            observe: plan.observe_results,
            refuses: plan.heeds_sharing,
            last_id: 0,
            unannounced: HashSet::new(),
            supervision: None,
            leftover: plan.leftover,
            program: Pid::from_raw(0),
            started: None,
            ended: None,
            failure: None,
            attached: None,
            follow: None,
            killing: false,
            killer: None,
            rounds: 0,
        }
    }

    /// Runs until no tracee and no child is left.
    pub fn run(mut self) -> Result<Ended, BackendError> {
        let mut changes = Vec::new();
        loop {
            match self.serve(&mut changes) {
                Ok(()) => {}
                Err(Errno::ECHILD) => break,
                Err(errno) => {
                    // Without a tracer's answers the tree hangs: end it, with ourselves unharmed.
                    tree::kill_descendants();
                    return Err(BackendError::Failed("waiting for the traced program".into(), errno));
                }
            }
            if let Some(signal) = self.follow.take_if(|_| self.threads.all_stopped(self.program))
                && let Some(supervision) = &self.supervision
            {
                supervision.stop_like_program(signal);
            }
        }
        if let Some(killer) = self.killer.take() {
            // It returns when nobody is left. It can't have panicked: that would have ended us.
            let _: std::thread::Result<()> = killer.join();
        }
        self.workers.finish();
        self.carry_out_answers();
        match (self.failure, self.ended) {
            (Some(failure), _) => Err(failure),
            (None, Some(ended)) => Ok(ended),
            (None, None) => Err(BackendError::Failed("the program's end was missed".into(), Errno::ECHILD)),
        }
    }

    /// Waits for what happens next, and does what is due.
    ///
    /// # Errors
    /// ECHILD where no tracee and no child is left.
    pub(crate) fn serve(&mut self, changes: &mut Vec<(Pid, Change)>) -> Result<(), Errno> {
        self.carry_out_answers();
        match control::wait() {
            Ok(change) => changes.push(change),
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        // The kernel reports the oldest tracee first, so that one in a tight loop would leave the others
        // without a turn: now and then take all that stopped, then serve each once.
        self.rounds = self.rounds.wrapping_add(1);
        while self.rounds.is_multiple_of(EVERY)
            && self.threads.count() > 1
            && changes.len() < 4096
            && let Some(change) = control::poll()
        {
            changes.push(change);
        }
        for (tid, change) in changes.drain(..) {
            self.on_change(tid, change);
        }
        Ok(())
    }

    pub(crate) fn on_change(&mut self, tid: Pid, change: Change) {
        if let Change::Ended(ended) = change {
            return self.on_end(tid, ended);
        }
        if self.threads.get(tid).is_none() {
            self.adopt(tid);
            self.unannounced.insert(tid.as_raw());
        }
        if let Some(thread) = self.threads.get(tid) {
            thread.told = false;
            thread.stopped &= matches!(change, Change::GroupStop(_));
            if self.attached.is_some() && !std::mem::replace(&mut thread.tells_its_end, true) {
                let set = control::set_options(tid, options_attached());
                self.check(tid, set);
            }
        }
        match change {
            Change::Seccomp => self.on_seccomp(tid),
            Change::Syscall => {
                let place = control::place(tid);
                if let Some(place) = self.check(tid, place)
                    && !self.passes(tid, &place)
                {
                    self.on_syscall(tid, place);
                }
            }
            Change::Signal(signal) => {
                self.hide_interruption_at_trap(tid);
                self.resume(tid, signal);
            }
            Change::GroupStop(signal) => self.on_group_stop(tid, signal),
            Change::Trap => {
                if self.process_of(tid) == Some(self.program) {
                    self.follow = None;
                }
                self.on_trap(tid);
            }
            Change::NewTask => self.on_new_task(tid),
            Change::Exec => self.on_exec(tid),
            Change::Exit => self.on_exit(tid),
            Change::Other | Change::Ended(_) => self.resume(tid, 0),
        }
    }

    /// Lets a stopped thread go on.
    pub(crate) fn resume(&mut self, tid: Pid, signal: i32) {
        if let Some(change) = control::poll_one(tid) {
            // A SIGKILL took it out of that stop and on to PTRACE_EVENT_EXIT, which must not be resumed unseen.
            return self.on_change(tid, change);
        }
        self.go_on(tid, signal);
    }

    /// As [`Tracer::resume`], for a thread that was looked at a few microseconds ago. (What is missed then costs its
    /// parent as long as [`Tracer::on_exit`] says.)
    pub(crate) fn go_on(&mut self, tid: Pid, signal: i32) {
        let to_exit = matches!(
            self.threads.get(tid).map(|thread| &thread.phase),
            Some(Phase::Leaving(_) | Phase::Interrupted { .. })
        );
        self.tell_again(tid);
        let how = if to_exit || self.mode == Mode::FullStop { Resume::Syscall } else { Resume::Continue };
        let resumed = control::resume(tid, how, signal);
        self.check(tid, resumed);
    }

    /// ESRCH: a SIGKILL took it out of its stop, and the wait will tell. Anything else must not happen; the
    /// process then doesn't go on unwatched.
    pub(crate) fn check<T>(&mut self, tid: Pid, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Errno::ESRCH) => None,
            Err(errno) => {
                self.give_up(tid, errno);
                None
            }
        }
    }

    fn give_up(&mut self, tid: Pid, errno: Errno) {
        if self.attached.is_none() {
            return self.end_process(tid);
        }
        // It isn't ours to end.
        let what = format!("tracing thread {tid}, which goes on unwatched");
        self.failure.get_or_insert(BackendError::Failed(what, errno));
        // Where it isn't stopped either, it is let go with the rest.
        let _: Result<(), Errno> = control::detach(tid, 0);
        self.drop_thread(tid);
    }

    pub(crate) fn end_process(&mut self, tid: Pid) {
        let pid = self.process_of(tid).unwrap_or(tid);
        // ESRCH: it has ended already.
        let _: Result<(), Errno> = kill(pid, Signal::SIGKILL);
    }

    fn process_of(&mut self, tid: Pid) -> Option<Pid> {
        self.threads.get(tid).map(|thread| thread.pid)
    }

    /// Makes a new tracee known.
    pub(crate) fn adopt(&mut self, tid: Pid) {
        // Where /proc doesn't tell any more, a SIGKILL was faster.
        let status = Status::of(tid).unwrap_or(Status { tgid: tid.as_raw(), ..Status::default() });
        let pid = Pid::from_raw(status.tgid);
        if self.threads.add(tid, pid) {
            if self.attached.is_some() {
                tree::join(pid);
            }
            self.handler.process(ProcessEvent::Born { pid, parent: Pid::from_raw(status.parent) });
        }
        if self.killing {
            self.end_process(tid);
        }
    }

    fn on_new_task(&mut self, tid: Pid) {
        if let Some(new) = self.message(tid) {
            sharing::note_birth(tid, new);
            // Its own first stop may have come before, and even its end.
            if !self.unannounced.remove(&new.as_raw()) && self.threads.get(new).is_none() {
                self.adopt(new);
            }
        }
        self.restore_arguments(tid);
        if !self.holds(tid) {
            self.resume(tid, 0);
        }
    }

    /// A task was made, so the kernel has copied the arguments: what was changed in them can be restored. A
    /// vfork's parent comes to its call's exit late.
    fn restore_arguments(&mut self, tid: Pid) {
        let Some(thread) = self.threads.get(tid) else { return };
        match &thread.phase {
            Phase::Leaving(AtExit::Poke { address, word }) => {
                let restored = control::poke(tid, *address, *word);
                thread.phase = Phase::Running;
                self.check(tid, restored.or(Ok(())));
            }
            Phase::Leaving(AtExit::Restore(frame, arguments, None)) => {
                let restored = Registers::load(tid).and_then(|mut registers| {
                    registers.set_arguments(frame.abi, **arguments, false);
                    registers.store()
                });
                thread.phase = Phase::Running;
                self.check(tid, restored);
            }
            _ => {}
        }
    }

    /// The thread that the event is about.
    ///
    /// After a SIGKILL, what is read may be the message of `PTRACE_EVENT_EXIT` already: an exit status. But
    /// then that stop can be waited for.
    fn message(&mut self, tid: Pid) -> Option<Pid> {
        let message = control::message(tid);
        let message = self.check(tid, message).map(Pid::from_raw)?;
        match control::poll_one(tid) {
            Some(change) => {
                self.on_change(tid, change);
                None
            }
            None => Some(message),
        }
    }

    fn on_exec(&mut self, tid: Pid) {
        // A thread that is not the first takes the process's id; the others are gone.
        let Some(former) = self.message(tid) else { return };
        for other in self.threads.others(tid) {
            self.drop_thread(other);
        }
        if former != tid {
            self.drop_thread(former);
        }
        // What was open in the old program is closed; its process goes on.
        self.drop_thread(tid);
        self.threads.add(tid, tid);
        if tid == self.program
            && let Some(started) = self.started.take()
        {
            let set = control::set_options(tid, options(self.mode));
            self.check(tid, set);
            // The pipe is closed by exec, which has just happened: this doesn't wait.
            if let Err(error) = started.outcome() {
                self.failure = Some(error);
            }
        }
        self.handler.process(ProcessEvent::Exec { pid: tid });
        self.resume(tid, 0);
    }

    /// The thread ends: let it go before it is a zombie, so that its real parent can reap it as soon as it
    /// hears of its end.
    fn on_exit(&mut self, tid: Pid) {
        let status = control::message(tid).ok().map(stops::ended);
        self.forget(tid, status);
        // ESRCH: a second SIGKILL. It ends as our tracee then, which costs its parent a moment.
        let _: Result<(), Errno> = control::detach(tid, 0);
    }

    /// A tracee or child is gone and reaped.
    fn on_end(&mut self, tid: Pid, ended: Ended) {
        self.forget(tid, Some(ended));
        if tid != self.program || self.ended.is_some() {
            return;
        }
        self.ended = Some(ended);
        if let Some(supervision) = &mut self.supervision {
            supervision.program_ended();
        }
        if let Some(started) = self.started.take() {
            let never_ran = || BackendError::Failed("the program ended before it ran".into(), Errno::ECHILD);
            self.failure = Some(started.outcome().err().unwrap_or_else(never_ran));
        } else {
            self.handler.program_ended(ended);
        }
        if self.leftover == Leftover::Kill {
            self.kill_the_rest();
        }
    }

    /// Ends what PROGRAM left. A process that is forked meanwhile can't run before we let it, and is ended
    /// then.
    fn kill_the_rest(&mut self) {
        self.killing = true;
        for pid in self.threads.processes() {
            self.end_process(pid);
        }
        // And, should one ever have escaped us, by the family tree; on a thread of its own, as they must be
        // let go and reaped meanwhile. Where there is no thread to be had, there are no such processes either
        // unless somebody worked hard for it.
        self.killer = std::thread::Builder::new().name("killer".into()).spawn(tree::kill_descendants).ok();
    }

    pub(crate) fn forget(&mut self, tid: Pid, ended: Option<Ended>) {
        if let Some((pid, true)) = self.drop_thread(tid) {
            if self.attached.is_some() {
                tree::leave(pid);
            }
            self.handler.process(ProcessEvent::Gone { pid, ended });
        }
    }

    /// Drops a thread; tells its process, and whether that is gone with it.
    pub(crate) fn drop_thread(&mut self, tid: Pid) -> Option<(Pid, bool)> {
        let (Thread { pid, phase, again, .. }, last) = self.threads.remove(tid)?;
        self.remotes.forget(tid);
        let again = again.and_then(|again| again.at_exit).map(Phase::Leaving);
        for phase in [Some(phase), again].into_iter().flatten() {
            if let Some(call) = phase.unreported() {
                self.handler.abandoned(call);
            }
        }
        Some((pid, last))
    }

    fn on_group_stop(&mut self, tid: Pid, signal: i32) {
        if let Some(thread) = self.threads.get(tid) {
            // Once: when it is still stopped, this is only what it says about SIGCONT and the like.
            let is_new = !std::mem::replace(&mut thread.stopped, true);
            if is_new && thread.pid == self.program {
                self.follow = Some(signal);
            }
        }
        let listening = control::listen(tid);
        // EIO: it isn't in a group-stop any more, as SIGCONT has come, or SIGKILL.
        if listening == Err(Errno::EIO) {
            return self.resume(tid, 0);
        }
        self.check(tid, listening);
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("mode", &self.mode).field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// How many threads are kept in mind, each with up to five descriptors: a part of those that we may have.
fn remotes_to_keep() -> usize {
    let (soft, _) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
    (soft / 8).clamp(16, 1024) as usize
}
