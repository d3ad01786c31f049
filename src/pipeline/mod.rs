//! The way of a call: intercepted call → operation → verdict → action → reply, and an event on the side.
//!
//! Nothing here knows which backend stopped the call, what makes a leak, or how events are written.

mod attached;
mod calls;
mod captured;
mod datagrams;
mod dns;
mod hooked;
mod inherited;
mod inspected;
mod isolated;
mod observed;
mod receive;
mod redirected;
mod traced;

pub(crate) use redirected::lands_connections;

use crate::action::interrupt::Watcher;
use crate::action::perform::unix_path::Found;
use crate::action::perform::{Performed, Performer, failed};
use crate::capture::Recording;
use crate::cli::FAILURE;
use crate::config::{Config, Format, OnLeak, Trace};
use crate::dns::Dns;
use crate::event::{self, Action, Body, Call, Change, Event, Judgement, Process, Summary, Who};
use crate::isolate::Isolation;
use crate::operation::address::Address;
use crate::operation::layout::Unreadable;
use crate::operation::{Operation, SocketKind, Way};
use crate::output::live::Tally;
use crate::output::{Recorder, Slip};
use crate::policy::Verdict;
use crate::redirect::datagrams::Datagrams;
use crate::redirect::{Redirected, Redirector};
use crate::relay::Unfit;
use crate::stacks::Stacks;
use captured::Capturing;
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::captured::{Captured, Wanted};
use sockstrace_backend::observed::{Diverted, Observation};
use sockstrace_backend::{
    Attached, Capabilities, Ended, Handler, InterceptedCall, Outcome, Patience, ProcessEvent, Reply, Tracee, proc,
};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use traced::{Before, Traced};

pub use observed::Witness;

/// Who wants to know sockstrace's exit status as soon as PROGRAM has ended.
pub type OnProgramEnd = Box<dyn Fn(u8) + Send + Sync>;

/// Judges calls, acts on them and records what happened.
pub struct Pipeline {
    config: Config,
    recorder: Recorder,
    watcher: Watcher,
    /// `--isolate`
    isolation: Option<Isolation>,
    /// Answers redirected queries.
    dns: Option<Dns>,
    /// Where connections are made by way of us.
    redirector: Option<Redirector>,
    /// `--capture`
    capturing: Option<Capturing>,
    datagrams: Option<Datagrams>,
    /// Itself, for what outlives a call.
    own: Weak<Self>,
    on_program_end: OnProgramEnd,
    /// Results of calls that continue will come by [`Handler::returned`].
    observes_results: AtomicBool,
    /// The backend can look at threads, and somebody wants to see their stacks.
    looks: AtomicBool,
    /// Calls that were let go and looked at come again.
    repeats: AtomicBool,
    /// Internet destinations are judged in the kernel.
    hooks: AtomicBool,
    /// Connects are held up all the same, to be redirected.
    holds: AtomicBool,
    /// What odd sockets ([`crate::operation::interest::is_odd`]) do is judged in the kernel too.
    judges_odd_sockets: AtomicBool,
    stacks: Arc<Stacks>,
    judged: AtomicU64,
    leaks: AtomicU64,
    /// The tree is being killed: nothing is let through any more.
    ending: AtomicBool,
    seen: Mutex<Seen>,
    /// The process that was seen last, so that it need not be looked up again.
    last_seen: AtomicI32,
}

#[derive(Default)]
struct Seen {
    backend: &'static str,
    /// PROGRAM, and whoever made a judged call: what every backend knows alike.
    processes: HashSet<i32>,
    program_runs: bool,
    /// With `--trace all`: what the living processes run.
    programs: HashMap<i32, Who>,
    /// Events that wait for their call's result.
    pending: HashMap<u64, Vec<Slip>>,
    /// Calls that were let go with a look, and may come again.
    let_go: BTreeMap<u64, Before>,
    /// What is known for calls that are judged in the kernel.
    hooked: hooked::Known,
}

/// A call on its way.
struct Scene<'a> {
    pipeline: &'a Pipeline,
    call: &'a InterceptedCall,
    tracee: &'a dyn Tracee,
    patience: Patience,
    /// The name to report: that of the call behind a `socketcall`.
    name: &'static str,
    /// Its stack.
    traced: Traced,
    /// Leaks are only recorded, but what the call does is performed by us all the same.
    performs: Cell<bool>,
}

/// What an operation is about, for the event.
#[derive(Clone, Copy, Default)]
struct Subject<'a> {
    fd: Option<i32>,
    socket: Option<&'a SocketKind>,
    /// The socket file that the destination's path leads to.
    file: Option<&'a Found>,
}

impl Pipeline {
    /// A pipeline for one run.
    ///
    /// # Errors
    /// Where the signal that interrupts our own blocking calls can't be set up, or no socket can be made.
    pub fn new(config: Config, recorder: Recorder, on_program_end: OnProgramEnd) -> Result<Self, Errno> {
        let isolation = redirected::isolation(&config);
        let dns = config.policy.first_proxy().and_then(|proxy| Dns::new(config.dns, proxy, &isolation));
        Ok(Self {
            redirector: redirected::redirector(&config, &isolation)?,
            datagrams: datagrams::datagrams(&config, dns.as_ref(), &isolation),
            own: Weak::new(),
            config,
            dns,
            recorder,
            watcher: Watcher::new()?,
            isolation: None,
            capturing: None,
            on_program_end,
            observes_results: AtomicBool::new(false),
            looks: AtomicBool::new(false),
            repeats: AtomicBool::new(false),
            hooks: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            judges_odd_sockets: AtomicBool::new(false),
            stacks: Arc::default(),
            judged: AtomicU64::new(0),
            leaks: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            seen: Mutex::default(),
            last_seen: AtomicI32::new(0),
        })
    }

    /// Events now come from the backend of this name; with `observes_results`, the results of calls that
    /// continue come by [`Handler::returned`].
    pub fn begin(&self, backend: &'static str, observes_results: bool, capabilities: Capabilities) {
        self.seen().backend = backend;
        self.observes_results.store(observes_results, Ordering::SeqCst);
        self.looks.store(capabilities.looks && self.shows_stacks(), Ordering::SeqCst);
        self.repeats.store(capabilities.repeats, Ordering::SeqCst);
        self.hooks.store(capabilities.hooks, Ordering::SeqCst);
        if let Some(capturing) = &self.capturing {
            capturing.by_backend.store(capabilities.captures, Ordering::SeqCst);
            capturing.recording.begin(backend);
        }
    }

    /// Whether words for a person are in nobody's way: not among lines that a machine reads.
    #[must_use]
    pub fn tells_people(&self) -> bool {
        self.config.output.is_some() || self.config.format == Format::Human
    }

    /// Whether queries are redirected.
    #[must_use]
    pub fn redirects_dns(&self) -> bool {
        self.dns.is_some()
    }

    /// Whether handshakes with a proxy are judged.
    #[must_use]
    pub fn inspects(&self) -> bool {
        self.config.handshake.is_some()
    }

    /// Whether PROGRAM is isolated.
    #[must_use]
    pub fn isolates(&self) -> bool {
        self.isolation.is_some()
    }

    /// What happens to leaks.
    #[must_use]
    pub fn on_leak(&self) -> OnLeak {
        self.config.on_leak
    }

    /// What was judged by now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            calls: self.judged.load(Ordering::Relaxed),
            leaks: self.leaks.load(Ordering::Relaxed),
            processes: self.seen().processes.len() as u64,
        }
    }

    /// Tells an onlooker what was judged by now.
    pub fn tell_tally(&self) {
        self.recorder.tell(self.tally());
    }

    /// sockstrace's exit status for the way in which PROGRAM ended.
    #[must_use]
    pub fn exit_status(&self, ended: Ended) -> u8 {
        match u8::try_from(ended.shell_status()).unwrap_or(u8::MAX) {
            0 if self.leaks.load(Ordering::SeqCst) > 0 => self.config.leak_exit_code as u8,
            // What could not be written may have been a leak.
            0 => {
                self.recorder.settle(LAST_STACKS);
                let lost = self.seen().hooked.lost();
                if lost > 0 || self.recorder.dropped() > 0 { FAILURE } else { 0 }
            }
            status => status,
        }
    }

    /// PROGRAM's tree has ended: lets out what it has sent, and writes the last line.
    pub fn finish(&self, exit: i32) {
        if let Some(isolation) = &self.isolation {
            isolation.finish();
        }
        if let Some(losses) = self.recording().and_then(Recording::finish) {
            crate::report::say(&losses);
        }
        let pending = std::mem::take(&mut self.seen().pending);
        pending.into_values().flatten().for_each(|slip| self.recorder.write(slip));
        let processes = self.seen().processes.len() as u64;
        let summary = Summary {
            events: self.judged.load(Ordering::SeqCst),
            leaks: self.leaks.load(Ordering::SeqCst),
            processes,
            dropped: self.seen().hooked.lost(),
            exit,
        };
        self.recorder.finish(Event::now(Body::Summary(summary)), LAST_STACKS);
    }

    fn judge(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> Outcome {
        let traced = self.traced(tracee);
        let performs = Cell::new(false);
        let name = call.syscall.name();
        let mut scene = Scene { pipeline: self, call, tracee, patience, name, traced, performs };
        let outcome = scene.play();
        scene.look_at(outcome)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is allowed may be made by way of us.
    fn leads_elsewhere(&self) -> bool {
        self.isolation.is_some() || self.dns.is_some() || self.capturing.is_some() || self.inspects()
    }

    /// Whether allowed calls and processes are recorded: for the file, or for an onlooker.
    fn traces_all(&self) -> bool {
        self.config.trace == Trace::All || self.recorder.is_shown()
    }

    /// A thread that is stopped in a call.
    fn who(&self, tracee: &dyn Tracee) -> Who {
        let parent = tracee.identity().ok().map(|identity| identity.parent);
        self.named(tracee.pid(), tracee.tid(), parent, tracee.names())
    }

    /// A process that isn't.
    fn who_is(&self, pid: Pid) -> Who {
        let parent = proc::Entry::of(pid).map(|entry| entry.parent);
        self.named(pid, pid, parent, (proc::thread_name(pid), proc::executable(pid)))
    }

    fn named(
        &self,
        pid: Pid,
        tid: Pid,
        parent: Option<Pid>,
        (name, exe): (Option<OsString>, Option<PathBuf>),
    ) -> Who {
        let text = |text: OsString| text.into_string().unwrap_or_else(|text| text.to_string_lossy().into_owned());
        Who {
            backend: self.seen().backend,
            pid: pid.as_raw(),
            tid: tid.as_raw(),
            ppid: parent.map(Pid::as_raw),
            process: name.map(text),
            exe: exe.map(|path| text(path.into_os_string())),
        }
    }
}

impl Handler for Pipeline {
    fn handle(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> Outcome {
        if self.ending.load(Ordering::SeqCst) {
            return failed(Errno::EPERM);
        }
        match &self.capturing {
            Some(capturing) => self.handle_captured(capturing, call, tracee, patience),
            None => self.judge(call, tracee, patience),
        }
    }

    fn leaving(&self, call: &InterceptedCall, result: i64, tracee: &dyn Tracee, patience: Patience) -> bool {
        let done = self.recording().is_none_or(|recording| recording.leaves(call, result, tracee, patience));
        if done {
            self.returned(call, result);
        }
        done
    }

    fn returned(&self, call: &InterceptedCall, result: i64) {
        if let Some(recording) = self.recording() {
            recording.forget(call);
        }
        let pending = self.seen().pending.remove(&call.id);
        for mut slip in pending.into_iter().flatten() {
            if let Body::Syscall(call) = &mut slip.event.body {
                call.set_result(result);
            }
            self.recorder.write(slip);
        }
    }

    fn awaits_result(&self, call: &InterceptedCall) -> bool {
        self.seen().pending.contains_key(&call.id)
            || self.recording().is_some_and(|recording| recording.awaits(call))
    }

    fn abandoned(&self, call: &InterceptedCall) {
        if let Some(recording) = self.recording() {
            recording.forget(call);
        }
        let pending = self.seen().pending.remove(&call.id);
        pending.into_iter().flatten().for_each(|slip| self.recorder.write(slip));
    }

    fn observed(&self, observation: Observation) {
        self.observe(observation);
    }

    fn diverted(&self, diverted: Diverted, show: &mut dyn FnMut(IpAddr)) {
        self.divert(&diverted, show);
    }

    fn holds_connects(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    fn judges_odd_sockets(&self) {
        self.judges_odd_sockets.store(true, Ordering::SeqCst);
    }

    fn attached(&self, attached: &Attached) {
        self.on_attached(attached);
    }

    fn let_go(&self) {
        self.watcher.interrupt_all();
    }

    fn captures(&self) -> Option<Wanted> {
        self.wanted_of_backend()
    }

    fn captured(&self, captured: Captured) {
        if let Some(recording) = self.recording() {
            recording.observed(captured);
        }
    }

    fn program_ended(&self, ended: Ended) {
        (self.on_program_end)(self.exit_status(ended));
    }

    fn process(&self, event: ProcessEvent) {
        let (pid, change, ended) = match event {
            ProcessEvent::Born { .. } => return,
            ProcessEvent::Exec { pid } => {
                let mut seen = self.seen();
                let is_first = !std::mem::replace(&mut seen.program_runs, true);
                if is_first {
                    seen.processes.insert(pid.as_raw());
                }
                drop(seen);
                let tells = is_first && self.wanted_of_backend().is_none();
                if let Some(recording) = self.recording().filter(|_| tells) {
                    recording.ready(pid);
                }
                (pid, Change::Exec, None)
            }
            ProcessEvent::Gone { pid, ended } => (pid, Change::Exit, ended),
        };
        if self.traces_all() {
            let (status, signal) = match ended {
                Some(Ended::Exited(status)) => (Some(status), None),
                Some(Ended::Signaled(signal)) => (None, Some(signal)),
                None => (None, None),
            };
            // Who has ended has no name any more: it is that of its last exec.
            let known = match change {
                Change::Exec => None,
                Change::Exit => self.seen().programs.remove(&pid.as_raw()),
            };
            let who = known.unwrap_or_else(|| self.who_is(pid));
            if change == Change::Exec {
                self.seen().programs.insert(pid.as_raw(), who.clone());
            }
            let process = Process { who, event: change, status, signal };
            self.recorder.write(Event::now(Body::Process(process)).into());
        }
    }
}

impl Scene<'_> {
    fn performer(&self) -> Performer<'_> {
        Performer { watcher: &self.pipeline.watcher, tracee: self.tracee, patience: self.patience }
    }

    /// Whether leaks are only recorded, so that what is allowed is left to the kernel too.
    fn only_logs(&self) -> bool {
        self.pipeline.config.on_leak == OnLeak::Log && !self.performs.get()
    }

    /// Judges, then has it performed (`perform`) or does to it what leaks are to suffer.
    fn decide(&self, subject: Subject<'_>, operation: &Operation, perform: impl FnOnce() -> Performed) -> Outcome {
        self.decide_or(subject, operation, perform, || Err(redirected::nothing_to_redirect()))
    }

    /// As [`Scene::decide`], where a leak may be made through the proxy instead (`redirect`).
    fn decide_or(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        perform: impl FnOnce() -> Performed,
        redirect: impl FnOnce() -> Result<Redirected, Unfit>,
    ) -> Outcome {
        let mut verdict = self.pipeline.config.policy.judge(operation, subject.socket);
        if verdict.is_leak() && self.is_own(subject) {
            verdict = Verdict::allowed("a UNIX socket of the isolated program's own");
        }
        if verdict.is_leak() && !self.performs.get() {
            return if self.pipeline.config.on_leak == OnLeak::Redirect {
                self.redirect(subject, operation, &verdict, redirect)
            } else {
                self.act(subject, operation, &verdict, None)
            };
        }
        if self.is_inspected(subject, operation) {
            return self.inspect(subject, operation, &verdict, redirect);
        }
        if self.leads_out(subject, operation) {
            return self.let_out(subject, operation, &verdict, redirect, perform);
        }
        let outcome = match self.admit(subject, operation) {
            Some(refused) => refused,
            None if self.only_logs() && !self.must_perform(subject) => Outcome::Reply(Reply::Continue),
            None => perform(),
        };
        match &outcome {
            // Either comes again, and is judged again.
            Outcome::NeedsPatience | Outcome::Reply(Reply::Restart) | Outcome::Look(..) => {}
            Outcome::Reply(reply) => self.record(subject, operation, &verdict, Action::Continue, reply, None),
        }
        outcome
    }

    fn act(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        note: Option<String>,
    ) -> Outcome {
        let refusal = match operation {
            // What a kernel without it answers: libraries fall back.
            Operation::IoUring => Errno::ENOSYS,
            _ => self.pipeline.config.block_errno,
        };
        let (action, reply) = match self.pipeline.config.on_leak {
            OnLeak::Log if self.pipeline.is_held(operation, subject.socket) => (Action::Continue, Reply::Continue),
            // Under `redirect`: what can't be.
            OnLeak::Log | OnLeak::Block | OnLeak::Redirect => (Action::Block, Reply::Fail(refusal)),
            OnLeak::Kill => (Action::Kill, Reply::Fail(refusal)),
            OnLeak::KillTree => (Action::KillTree, Reply::Fail(refusal)),
            OnLeak::Core => (Action::Core, Reply::Fail(refusal)),
        };
        if action == Action::KillTree {
            self.pipeline.ending.store(true, Ordering::SeqCst);
        }
        // The event first: who is dead has no name any more.
        let place = (action == Action::Core).then(|| crate::action::end::core_place(self.tracee.pid()));
        let note = note.or(place);
        self.record(subject, operation, verdict, action, &reply, note);
        self.end(action);
        Outcome::Reply(reply)
    }

    /// The kernel itself refuses the arguments.
    fn kernel_refuses(&self, subject: Subject<'_>, errno: Errno) -> Outcome {
        match errno {
            // The tracee is gone; nobody sees the answer.
            Errno::ESRCH => return failed(errno),
            // Out of reach, or we are out of descriptors: not the kernel's refusal but our own inability.
            Errno::EPERM | Errno::EACCES => return self.undecidable(subject, OUT_OF_REACH),
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => return self.undecidable(subject, OUT_OF_RESOURCES),
            _ => {}
        }
        let reply = if self.only_logs() { Reply::Continue } else { Reply::Fail(errno) };
        let verdict = Verdict { leak: None, reason: Cow::Borrowed("the kernel refuses its arguments"), rule: None };
        let nothing = Operation::Send { destination: None, way: Way::ByDestination };
        self.record(subject, &nothing, &verdict, Action::Continue, &reply, None);
        Outcome::Reply(reply)
    }

    /// Nothing can be said of the call, so that it counts as a leak.
    fn undecidable(&self, subject: Subject<'_>, why: &'static str) -> Outcome {
        self.decide(subject, &Operation::Undecidable { why }, || failed(Errno::EPERM))
    }

    fn unreadable(&self, subject: Subject<'_>, unreadable: Unreadable) -> Outcome {
        match unreadable {
            Unreadable::Fault => self.kernel_refuses(subject, Errno::EFAULT),
            Unreadable::Denied => self.undecidable(subject, OUT_OF_REACH),
            Unreadable::Gone => failed(Errno::ESRCH),
            Unreadable::WouldBlock if self.patience == Patience::AtOnce => Outcome::NeedsPatience,
            Unreadable::WouldBlock => self.undecidable(subject, "its memory can't be read in time"),
        }
    }

    fn record(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        action: Action,
        reply: &Reply,
        note: Option<String>,
    ) {
        let pipeline = self.pipeline;
        let written = verdict.is_leak() || pipeline.traces_all();
        let may_meet_again = written && self.may_meet_again(verdict.is_leak());
        let known = may_meet_again.then(|| self.fingerprint(subject, operation, verdict));
        if self.was_recorded(written, known.as_ref()) {
            return;
        }
        pipeline.judged.fetch_add(1, Ordering::SeqCst);
        if verdict.is_leak() {
            pipeline.leaks.fetch_add(1, Ordering::SeqCst);
        }
        let pid = self.tracee.pid().as_raw();
        if pipeline.last_seen.swap(pid, Ordering::Relaxed) != pid {
            pipeline.seen().processes.insert(pid);
        }
        if !written {
            return;
        }
        if !verdict.is_leak() && !pipeline.recorder.wants_allowed() {
            if let Some(known) = known {
                self.note(known);
            }
            return;
        }
        let mut reason = verdict.reason.clone();
        if let Some(note) = note {
            reason = Cow::Owned(format!("{reason}; {note}"));
        }
        let mut call = Call {
            who: pipeline.who(self.tracee),
            syscall: self.name,
            abi: self.call.abi.name(),
            via: None,
            fd: subject.fd,
            socket: subject.socket.map(event::Socket::from),
            address: address(operation).and_then(event::address),
            returned: None,
            errno: None,
            verdict: if verdict.is_leak() { Judgement::Leak } else { Judgement::Allowed },
            class: verdict.leak,
            action,
            reason,
            rule: verdict.rule.map(ToOwned::to_owned),
            stack: None,
        };
        match reply {
            Reply::Return(value) => call.set_result(*value),
            // Who is killed sees nothing.
            Reply::Fail(errno) if matches!(action, Action::Continue | Action::Block | Action::Redirect) => {
                call.set_result(i64::from((*errno as i32).wrapping_neg()));
            }
            _ => {}
        }
        let stack = self.awaits_stack(verdict.is_leak());
        if let Some(known) = known {
            self.note(known);
        }
        let slip = Slip { event: Event::now(Body::Syscall(call)), stack };
        if *reply == Reply::Continue && pipeline.observes_results.load(Ordering::SeqCst) {
            pipeline.seen().pending.entry(self.call.id).or_default().push(slip);
        } else {
            pipeline.recorder.write(slip);
        }
    }
}

/// How long the last events may wait for their stacks, when the program has ended.
const LAST_STACKS: Duration = Duration::from_secs(30);

const OUT_OF_REACH: &str = "the process can't be looked into (not dumpable, or in another user namespace); \
                            run sockstrace as root, or with --user-namespace";
const OUT_OF_RESOURCES: &str = "sockstrace is out of descriptors or memory";

/// The address that an operation is about.
fn address(operation: &Operation) -> Option<&Address> {
    match operation {
        Operation::Connect { destination } => Some(destination),
        Operation::Send { destination, .. } => destination.as_ref(),
        Operation::Bind { local } | Operation::Listen { local } | Operation::Accept { local } => Some(local),
        Operation::JoinGroup { group } => Some(group),
        Operation::Inherit { peer } => Some(peer),
        Operation::Open
        | Operation::IoUring
        | Operation::SourceRoute
        | Operation::ChooseInterface { .. }
        | Operation::Delegate { .. }
        | Operation::AttachTun
        | Operation::ShowNetwork { .. }
        | Operation::TakeDescriptor
        | Operation::Undecidable { .. } => None,
    }
}
