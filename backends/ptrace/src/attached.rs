//! Processes that ran before us: seized in the midst of what they do, and let go as if nothing had been.
//!
//! - **All of them.** Every thread is seized, and new ones are looked for until there are none: those that
//!   seized ones make are traced from their birth. Descendants follow likewise. Then all are held still for the
//!   moment in which the handler looks at what they have.
//! - **No filter.** One that we added would stay when we go. So each call of each thread stops, twice
//!   ([`crate::full_stop`]).
//! - **Interruptions aren't seen.** Whoever is stopped comes out of its call as if a signal had come. The kernel
//!   makes most calls again. A few fail with EINTR instead (`epoll_wait`, `sigtimedwait`): these are given the
//!   kernel's own sign that a call is to be made again unless a handler runs. A time limit of such a call begins
//!   anew; a call that has done a part of what was asked returns with that part, as after any signal.
//! - **Letting go**: what is in a stop of ours is brought to where it can go on by itself, never at the entry of a
//!   call, which would begin as if a signal were pending. Who is in a call isn't interrupted, unless it is one of
//!   those few: the end of the tracing thread frees it in the kernel. Who is in a group-stop stays in it.
//! - **Our end isn't theirs.** There is no `PTRACE_O_EXITKILL`: should sockstrace be killed, they go on as they
//!   did before it came. To end a service because its observer has ended would be the greater harm, also where
//!   leaks are refused: it ran unjudged before. Who is in a stop at that very moment may notice: a signal that
//!   we had just been told of is lost, a call of those few that is just being entered fails with EINTR, and one
//!   that is just being looked at may fail with EBADF where the program has seccomp filters.
//!
//! - **Executing.** Who executes a program holds a lock that PTRACE_SEIZE waits for, until all other threads of its
//!   process have ended and whoever traces them has reaped them. So until all are seized none stops at its end
//!   (`PTRACE_O_TRACEEXIT`), and another thread of ours reaps them.
//!
//! A thread in an uninterruptible wait (vfork, a dead file server) is traced from the end of that wait on.

use crate::arch;
use crate::control;
use crate::frame::Place;
use crate::registers::Registers;
use crate::sharing;
use crate::stops::Change;
use crate::threads::Whereabouts;
use crate::tracer::{self, Mode, Tracer};
use crate::worker::{WAKE, Workers};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, gettid, pipe2};
use sockstrace_backend::proc::{self, Status};
use sockstrace_backend::{Attached, BackendError, Ended, Handler, Plan, reach, signals, tree};
use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long threads may take to come to their first stop: longer than any that can be interrupted does.
const GATHERING: Duration = Duration::from_millis(300);

/// How long those may take that can't be, as the kernel says: a disk's answer.
const UNINTERRUPTIBLE: Duration = Duration::from_millis(10);

/// How long calls in our hands may take to come back when all are let go.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How long threads may take to come to a stop by themselves when all are let go: one that is told to stop may begin
/// a call just then, which could be cut short by that (a long write).
const UNTOLD: Duration = Duration::from_millis(2);

/// How often the threads of a process are looked through, until none is new. One that makes threads faster has
/// traced ones make them in the end.
const ROUNDS: u32 = 1000;

/// How often a thread may be met that can't be seized, as it ends or another executes a program.
const TRIES: u32 = 10;

/// How often a process is looked for that seems to be none, on a machine that may be busy.
const LOOKS: u32 = 50;

/// And the time between.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// Between looks, while there is a limit to the waiting.
const A_MOMENT: Duration = Duration::from_micros(200);

/// How far the tracer is with those that it was attached to.
#[derive(Debug)]
pub enum Attachment {
    /// Threads are being seized, and held at their first stop.
    Gathering(HashSet<i32>),
    /// They go about their business.
    Tracing,
    /// They are let go.
    LettingGo,
}

/// What the two threads share.
#[derive(Debug, Default)]
struct Shared {
    /// The tracer is to let go.
    ends: AtomicBool,
    /// Its thread.
    tracer: AtomicI32,
    /// What is to be done while the tracer waits for PTRACE_SEIZE.
    seizing: Mutex<Seizing>,
}

/// Processes whose threads are being seized.
#[derive(Debug, Default)]
struct Seizing {
    /// The one just now.
    process: Option<Pid>,
    /// Those of its threads that have ended, reaped in the tracer's place.
    ended: Vec<(Pid, Ended)>,
    /// There will be no other.
    is_over: bool,
}

impl Shared {
    fn seizing(&self) -> MutexGuard<'_, Seizing> {
        self.seizing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps those threads of the process in hand that have ended, as the one that executes a program waits for that
    /// and the tracer for it; whether there may be more.
    fn reap(&self) -> bool {
        let mut seizing = self.seizing();
        // ESRCH: it is gone.
        for tid in seizing.process.and_then(|pid| proc::threads(pid).ok()).unwrap_or_default() {
            seizing.ended.extend(control::reap(tid).map(|ended| (tid, ended)));
        }
        !seizing.is_over
    }
}

/// Traces until the last process ends, or a signal comes.
pub fn attach(pid: Pid, plan: &Plan, handler: Arc<dyn Handler>) -> Result<(), BackendError> {
    let doing = BackendError::doing;
    require_attachable(pid)?;
    reach::leave();
    // First, so that none of them ends us between attaching and the summary.
    let ending = signals::ending();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ending), None).map_err(doing("blocking signals"))?;
    let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(doing("making a signalfd"))?;
    keep_running().map_err(doing("ignoring Ctrl-Z"))?;
    signals::make_interrupting(WAKE).map_err(doing("preparing the tracer's signal"))?;
    let (alive, held) = pipe2(OFlag::O_CLOEXEC).map_err(doing("making a pipe"))?;
    let shared = Arc::new(Shared::default());
    let (plan, theirs) = (plan.clone(), Arc::clone(&shared));
    let tracer = std::thread::Builder::new()
        .name("tracer".into())
        .spawn(move || {
            let result = trace(pid, &plan, &handler, &theirs);
            drop(held);
            result
        })
        .map_err(|error| {
            BackendError::Failed("starting a thread".into(), sockstrace_backend::filter::errno_of(&error))
        })?;
    let supervised = supervise(&signals, &ending, &alive, &shared);
    // It can't have panicked: that would have ended us.
    let traced = tracer.join().map_or(Ok(()), |result| result.and_then(Tracer::forget_all));
    supervised.and(traced)
}

/// Waits for the tracer's end, and brings it about when a signal comes.
fn supervise(signals: &SignalFd, ending: &SigSet, alive: &OwnedFd, shared: &Shared) -> Result<(), BackendError> {
    loop {
        let ends = shared.ends.load(Ordering::SeqCst);
        let seizes = shared.reap();
        let mut fds =
            [PollFd::new(alive.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Woken again and again: it may be between its look and its sleep.
        match poll(&mut fds, if ends || seizes { PollTimeout::from(1_u8) } else { PollTimeout::NONE }) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(BackendError::Failed("waiting for signals".into(), errno)),
        }
        let [alive, signalled] = &fds;
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if is_ready(alive) {
            return Ok(());
        }
        if is_ready(signalled) && !ends {
            // What signal it was doesn't matter.
            let _: Result<_, Errno> = signals.read_signal();
            shared.ends.store(true, Ordering::SeqCst);
            // A second one ends us at once, should this not come to an end: the kernel lets go then.
            pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(ending), None)
                .map_err(BackendError::doing("unblocking signals"))?;
        }
        if shared.ends.load(Ordering::SeqCst) {
            let tracer = shared.tracer.load(Ordering::SeqCst);
            // SAFETY: takes integers only; a thread of ours, or none.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tracer, WAKE as i32) };
        }
    }
}

/// Stopped by the terminal we would hold all tracees still.
fn keep_running() -> Result<(), Errno> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        // SAFETY: ignoring is no handler.
        unsafe { sigaction(signal, &ignore) }?;
    }
    Ok(())
}

/// The tracing thread.
fn trace(pid: Pid, plan: &Plan, handler: &Arc<dyn Handler>, shared: &Shared) -> Result<Tracer, BackendError> {
    shared.tracer.store(gettid().as_raw(), Ordering::SeqCst);
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(WAKE)), None)
        .map_err(BackendError::doing("unblocking the tracer's signal"))?;
    let workers = Workers::start(Arc::clone(handler)).map_err(BackendError::doing("starting a thread"))?;
    let mut tracer = Tracer::of_nobody(plan, Mode::FullStop, Arc::clone(handler), workers);
    tracer.attached = Some(Attachment::Gathering(HashSet::new()));
    let attached = tracer.gather(pid, shared)?;
    handler.attached(&attached);
    tracer.release();
    let mut changes = Vec::new();
    while !shared.ends.load(Ordering::SeqCst) {
        match tracer.serve(&mut changes) {
            Ok(()) => {}
            Err(Errno::ECHILD) => break,
            Err(errno) => {
                tracer
                    .failure
                    .get_or_insert(BackendError::Failed("waiting for the traced processes".into(), errno));
                break;
            }
        }
    }
    tracer.let_go();
    // What else there is to be done is for others: what happens to tracees before this thread's end is not seen.
    Ok(tracer)
}

impl Tracer {
    /// Seizes the process and its descendants, and holds them.
    fn gather(&mut self, pid: Pid, shared: &Shared) -> Result<Attached, BackendError> {
        patiently(|| self.seize_process(pid, shared)).map_err(|errno| cannot_attach(pid, errno))?;
        let (mut processes, mut limits) = (vec![pid], Vec::new());
        let mut passed_over = HashSet::new();
        loop {
            let new: Vec<Pid> = descendants_of(&processes)
                .into_iter()
                .filter(|pid| !processes.contains(pid) && !passed_over.contains(pid))
                .collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                match self.seize_process(pid, shared) {
                    Ok(()) => processes.push(pid),
                    Err(errno) => {
                        passed_over.insert(pid);
                        if errno != Errno::ESRCH {
                            limits.push(format!("{}: it is not watched", cannot_attach(pid, errno)));
                        }
                    }
                }
            }
        }
        shared.seizing().is_over = true;
        // Only now: while some are traced and stopped, a signal that all ignore interrupts those that aren't.
        for tid in self.threads.all() {
            // ESRCH: it ends. The wait tells.
            let _: Result<(), Errno> = control::interrupt(tid);
        }
        self.await_stops();
        if self.threads.count() == 0 {
            return Err(cannot_attach(pid, Errno::ESRCH));
        }
        processes.extend(self.threads.processes());
        sharing::note_among(&processes);
        let mut known = HashSet::new();
        processes.retain(|pid| known.insert(pid.as_raw()));
        limits.extend(self.unstopped().into_iter().map(|tid| {
            format!("thread {tid} is in a call that can't be interrupted: it is watched from that call's end on")
        }));
        Ok(Attached { processes, limits })
    }

    /// Seizes all threads of a process, those too that are made meanwhile.
    ///
    /// # Errors
    /// Of the first of them.
    fn seize_process(&mut self, pid: Pid, shared: &Shared) -> Result<(), Errno> {
        shared.seizing().process = Some(pid);
        let result = self.seize_threads(pid);
        let ended = {
            let mut seizing = shared.seizing();
            seizing.process = None;
            std::mem::take(&mut seizing.ended)
        };
        for (tid, ended) in ended {
            self.on_change(tid, Change::Ended(ended));
        }
        result?;
        if self.threads.of_process(pid) > 0 { Ok(()) } else { Err(Errno::ESRCH) }
    }

    fn seize_threads(&mut self, pid: Pid) -> Result<(), Errno> {
        let mut tries = TRIES;
        for _ in 0..ROUNDS {
            let before = Status::of(pid)?.threads;
            let listed = proc::threads(pid)?;
            // A list ends early where a thread ends while the kernel writes it.
            let mut settled = listed.len() >= before.max(Status::of(pid)?.threads) as usize;
            for tid in listed {
                let known = self.threads.get(tid).is_some();
                // Known, it may be another: by an exec the process's own id goes to the thread that has called it.
                if known && is_ours(tid) {
                    continue;
                }
                let seized = control::seize(tid, tracer::options_seized());
                // Seized; or, where that fails with EPERM, made by one that was.
                if is_ours(tid) {
                    settled = false;
                    if !known {
                        self.adopt(tid);
                    }
                    continue;
                }
                match seized {
                    // Where PTRACE_SEIZE has waited for its exec, the next look finds it by its process's id.
                    _ if has_ended(tid) => settled &= seized.is_err(),
                    // It is about to end, or has just become another.
                    Ok(()) | Err(Errno::ESRCH | Errno::EPERM) if tries > 0 => {
                        settled = false;
                        tries = tries.saturating_sub(1);
                        std::thread::sleep(BETWEEN_TRIES);
                    }
                    Ok(()) => settled = false,
                    Err(errno) => return Err(errno),
                }
            }
            if settled {
                break;
            }
        }
        Ok(())
    }

    /// Waits until all have stopped, but for those that can't.
    fn await_stops(&mut self) {
        let start = Instant::now();
        while start.elapsed() < GATHERING {
            while let Some((tid, change)) = control::poll() {
                self.on_change(tid, change);
            }
            let unstopped = self.unstopped();
            if unstopped.is_empty() {
                return;
            }
            for tid in unstopped.iter().copied().filter(|tid| !is_ours(*tid)) {
                self.follow_exec(tid);
            }
            // Whoever waits in vfork may wait for one whom we hold.
            if start.elapsed() > UNINTERRUPTIBLE && unstopped.into_iter().all(waits_uninterruptibly) {
                return;
            }
            std::thread::sleep(A_MOMENT);
        }
    }

    /// A thread is gone without an end of which we would have been told: by an exec, its own, which gave it its
    /// process's id, or another's.
    fn follow_exec(&mut self, tid: Pid) {
        let Some(pid) = self.threads.get(tid).map(|thread| thread.pid) else { return };
        if self.threads.get(pid).is_none() && is_ours(pid) {
            self.adopt(pid);
        }
        self.forget(tid, None);
    }

    /// Threads that haven't come to a first stop yet.
    fn unstopped(&mut self) -> Vec<Pid> {
        let Some(Attachment::Gathering(held)) = &self.attached else { return Vec::new() };
        let held = held.clone();
        let mut all = self.threads.all();
        all.retain(|tid| {
            !held.contains(&tid.as_raw()) && self.threads.get(*tid).is_some_and(|thread| !thread.stopped)
        });
        all
    }

    /// Lets those go on that were held; their calls are judged from now on.
    fn release(&mut self) {
        if let Some(Attachment::Gathering(held)) = self.attached.replace(Attachment::Tracing) {
            for tid in held {
                self.resume(Pid::from_raw(tid), 0);
            }
        }
    }

    /// A tracee has trapped, as it was told to.
    pub(crate) fn on_trap(&mut self, tid: Pid) {
        self.hide_interruption_at_trap(tid);
        if let Some(thread) = self.threads.get(tid) {
            thread.whereabouts = Whereabouts::AtLarge;
        }
        if !self.holds(tid) {
            self.resume(tid, 0);
        }
    }

    /// What a call gives that ends with `value`: where an attached process would see an EINTR on our account, it
    /// is made to look like a call that is to be made again.
    pub(crate) fn hide_interruption(&mut self, tid: Pid, value: i64) -> i64 {
        const ERESTARTNOHAND: i64 = 514;
        if value != INTERRUPTED || !self.hide_interruption_at_trap(tid) {
            return value;
        }
        // The kernel looks at it on its way through its signal code, which there may be no signal for.
        let interrupted = control::interrupt(tid);
        self.check(tid, interrupted);
        -ERESTARTNOHAND
    }

    /// As [`Tracer::hide_interruption`], on the way from a call's exit to user space.
    pub(crate) fn hide_interruption_at_trap(&mut self, tid: Pid) -> bool {
        if self.attached.is_none() {
            return false;
        }
        let hidden = control::abi(tid).and_then(|abi| {
            let Some(abi) = abi else { return Ok(false) };
            let mut registers = Registers::load(tid)?;
            let ending = registers.ending_call(abi);
            if !ending
                .is_some_and(|(number, value)| value == INTERRUPTED && arch::fails_when_interrupted(abi, number))
            {
                return Ok(false);
            }
            registers.set_interrupted_unseen();
            registers.store().map(|()| true)
        });
        self.check(tid, hidden).unwrap_or(false)
    }

    /// Notes where a thread is that every call stops, and lets it pass where nobody wants to know any more.
    pub(crate) fn passes(&mut self, tid: Pid, place: &Place) -> bool {
        let Some(attached) = &self.attached else { return false };
        let lets_go = matches!(attached, Attachment::LettingGo);
        let Some(thread) = self.threads.get(tid) else { return true };
        thread.whereabouts = match place {
            Place::Entry(frame) if arch::fails_when_interrupted(frame.abi, frame.number) => {
                Whereabouts::InFragileCall
            }
            Place::Entry(_) => Whereabouts::InCall,
            _ => Whereabouts::AtLarge,
        };
        if !lets_go || thread.is_owed() {
            return false;
        }
        match place {
            Place::Exit { value, .. } => {
                self.hide_interruption(tid, *value);
                self.holds(tid);
            }
            _ => self.resume(tid, 0),
        }
        true
    }

    /// At a stop that isn't the entry of a call, nor for a signal: whether the thread is to stay there until all
    /// are gathered, or until the end of this one lets all go at once.
    pub(crate) fn holds(&mut self, tid: Pid) -> bool {
        match &mut self.attached {
            Some(Attachment::Gathering(held)) => {
                held.insert(tid.as_raw());
                true
            }
            Some(Attachment::LettingGo) => {
                let thread = self.threads.get(tid).filter(|thread| !thread.is_owed());
                thread.is_some_and(|thread| {
                    thread.whereabouts = Whereabouts::Kept;
                    true
                })
            }
            Some(Attachment::Tracing) | None => false,
        }
    }

    /// Before a thread goes on from a stop. Any stop ends what PTRACE_INTERRUPT has asked for.
    pub(crate) fn tell_again(&mut self, tid: Pid) {
        if matches!(self.attached, Some(Attachment::Gathering(_))) {
            let told = control::interrupt(tid);
            self.check(tid, told);
        }
    }

    /// Lets all go on without us.
    ///
    /// Who is in a call comes next to its exit, where the end of this thread does no harm, nor do signals that come
    /// before that, unless it is one of the calls that fail when they are interrupted. Who is in such a one, or in
    /// none, is stopped, and kept there: then all go on at once, as a signal that all ignore interrupts those that
    /// aren't traced while others are.
    fn let_go(&mut self) {
        self.attached = Some(Attachment::LettingGo);
        self.handler.let_go();
        let start = Instant::now();
        loop {
            self.carry_out_answers();
            while let Some((tid, change)) = control::poll() {
                self.on_change(tid, change);
            }
            let waited = start.elapsed();
            if self.threads.all_can_go() || waited > LETTING_GO {
                break;
            }
            self.tell(Whereabouts::InFragileCall);
            if waited > UNTOLD {
                self.tell(Whereabouts::AtLarge);
            }
            std::thread::sleep(A_MOMENT);
        }
    }

    /// Tells those that are there to trap.
    fn tell(&mut self, whereabouts: Whereabouts) {
        for tid in self.threads.untold(whereabouts) {
            if let Some(thread) = self.threads.get(tid) {
                // ESRCH: it ends.
                thread.told = control::interrupt(tid).is_ok();
            }
        }
    }

    /// The tracees aren't ours any more.
    fn forget_all(mut self) -> Result<(), BackendError> {
        for tid in self.threads.all() {
            if let Some((pid, true)) = self.drop_thread(tid) {
                tree::leave(pid);
            }
        }
        self.workers.finish();
        self.failure.map_or(Ok(()), Err)
    }
}

/// The result of an interrupted call.
const INTERRUPTED: i64 = -(Errno::EINTR as i64);

/// Tries again where there seems to be no such process: while a thread that isn't the first executes a program, the
/// process has no first thread for a moment.
fn patiently<T>(mut look: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..LOOKS {
        match look() {
            Err(Errno::ESRCH | Errno::ENOENT) => std::thread::sleep(BETWEEN_TRIES),
            other => return other,
        }
    }
    look()
}

/// Who can't be attached to, found before anything is done to it.
fn require_attachable(pid: Pid) -> Result<(), BackendError> {
    let status = patiently(|| Status::of(pid)).map_err(|errno| cannot_attach(pid, errno))?;
    let unavailable = |why: String| Err(BackendError::Unavailable(why));
    if status.tgid != pid.as_raw() {
        return unavailable(format!("{pid} is a thread of process {0}: use --pid {0}", status.tgid));
    }
    if pid == Pid::this() {
        return unavailable(format!("process {pid} is this sockstrace itself"));
    }
    if ancestors(Pid::this()).contains(&pid) {
        return unavailable(format!(
            "process {pid} is an ancestor of this sockstrace, which would have to wait for itself: start it from \
             elsewhere, or use --backend ebpf"
        ));
    }
    if proc::is_of_kernel(pid) {
        return unavailable(format!("process {pid} is a thread of the kernel's, which makes no system calls"));
    }
    if proc::is_zombie(pid) {
        return unavailable(format!(
            "process {pid} has ended; its parent {} hasn't waited for it yet",
            status.parent
        ));
    }
    Ok(())
}

fn cannot_attach(pid: Pid, errno: Errno) -> BackendError {
    let status = Status::of(pid);
    let why = match (errno, status) {
        (Errno::ESRCH | Errno::ENOENT, _) | (_, Err(Errno::ESRCH)) => {
            return BackendError::Unavailable(format!("there is no process {pid}"));
        }
        (Errno::EPERM, Ok(status)) if status.tracer != 0 => {
            let tracer = Pid::from_raw(status.tracer);
            let name = proc::thread_name(tracer).unwrap_or_default();
            format!("it is traced by {} (process {tracer}) already, and can have one tracer", name.display())
        }
        (Errno::EPERM, Ok(status)) if status.uid[1] != nix::unistd::geteuid().as_raw() => {
            "it is another user's: run sockstrace as root".into()
        }
        (Errno::EPERM, _) if scope() > 0 => format!(
            "{SCOPE} is {}: run sockstrace as root{}",
            scope(),
            if scope() == 1 { ", or write 0 to it" } else { "" }
        ),
        (Errno::EPERM, _) => {
            "it may not be traced (a set-user-ID program, not dumpable, or in another user namespace): run \
             sockstrace as root"
                .into()
        }
        (errno, _) => errno.desc().into(),
    };
    BackendError::Unavailable(format!("can't attach to process {pid}: {why}"))
}

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

fn scope() -> u32 {
    fs::read_to_string(SCOPE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn is_ours(tid: Pid) -> bool {
    Status::of(tid).is_ok_and(|status| status.tracer == gettid().as_raw())
}

/// Whether only what it waits for, or SIGKILL, gets a thread out of its call.
fn waits_uninterruptibly(tid: Pid) -> bool {
    Status::of(tid).is_ok_and(|status| status.state == b'D')
}

/// A thread that is gone, or a zombie.
fn has_ended(tid: Pid) -> bool {
    Status::of(tid).map_or(true, |status| matches!(status.state, b'Z' | b'X' | b'x'))
}

fn descendants_of(roots: &[Pid]) -> Vec<Pid> {
    let all = proc::all_processes();
    let mut family: HashSet<Pid> = roots.iter().copied().collect();
    loop {
        let before = family.len();
        let children: Vec<Pid> = all
            .iter()
            .filter(|entry| family.contains(&entry.parent) && !entry.has_ended())
            .map(|entry| entry.pid)
            .collect();
        family.extend(children);
        if family.len() == before {
            return family.into_iter().collect();
        }
    }
}

fn ancestors(pid: Pid) -> Vec<Pid> {
    let mut ancestors = Vec::new();
    let mut at = pid;
    // Process ids are finite; a chain that is longer changes while we look.
    while ancestors.len() < 1000
        && let Some(entry) = proc::Entry::of(at)
        && entry.parent.as_raw() > 0
    {
        at = entry.parent;
        ancestors.push(at);
    }
    ancestors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pid: Pid) -> String {
        require_attachable(pid).unwrap_err().to_string()
    }

    #[test]
    fn who_can_not_be_attached_to_is_said_before() {
        assert!(refusal(Pid::this()).contains("itself"));
        assert!(refusal(Pid::parent()).contains("an ancestor"));
        assert!(refusal(Pid::from_raw(i32::MAX)).contains("there is no process"));
        let thread = std::thread::spawn(gettid).join().unwrap();
        // It may have gone.
        assert!(require_attachable(thread).is_err());
        let own = std::thread::scope(|scope| scope.spawn(|| refusal(gettid())).join().unwrap());
        assert!(own.contains(&format!("use --pid {}", Pid::this())), "{own}");
        let kernel = Pid::from_raw(2);
        if proc::thread_name(kernel).is_some_and(|name| name == "kthreadd") {
            assert!(refusal(kernel).contains("the kernel's"));
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        while !has_ended(pid) {
            std::thread::sleep(A_MOMENT);
        }
        assert!(refusal(pid).contains("has ended"));
        child.wait().unwrap();
    }
}
