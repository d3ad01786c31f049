//! Running a program: internet destinations are judged by the hooks in the kernel, everything else by the seccomp
//! backend, which holds the rest of the calls up. Both tell the same handler, in order.

use crate::attention::{Attention, CHECK, Found, GATHER, Woken};
use crate::capture::{self, Capture};
use crate::guardian::Guardian;
use crate::guards::{self, Guard};
use crate::programs::{Aim, Programs, Sources, TreeMaps};
use crate::reader::Reader;
use crate::{cgroup, probe, trial};
use aya::maps::MapError;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollTimeout;
use nix::unistd::pipe2;
use sockstrace_backend::hooks::{Hooks, StacksOf, Then};
use sockstrace_backend::observed::{Filters, Observation, Scope};
use sockstrace_backend::{
    BackendError, Command, Ended, Handler, InterceptedCall, Outcome, Patience, Plan, ProcessEvent, Syscall, Tracee,
    Trap,
};
use sockstrace_backend_seccomp::SeccompBackend;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Runs it.
pub fn run(command: &Command, plan: &Plan, handler: Arc<dyn Handler>) -> Result<Ended, BackendError> {
    let Some(hooks) = &plan.hooks else {
        return Err(BackendError::Failed("running without rules for the kernel".into(), Errno::EINVAL));
    };
    probe::require()?;
    probe::require_own_pids()?;
    probe::require_all_cgroups()?;
    let root = cgroup::root().ok_or_else(|| BackendError::Unavailable(cgroup::MISSING.into()))?;
    let (mut hooks, mut plan) = (hooks.clone(), plan.clone());
    let mut missing = if trial::is_lsm_listed() { Vec::new() } else { Guard::ALL.to_vec() };
    let mut programs = loop {
        if guards::holds_connects(&missing, &hooks)
            && let Some(held) = hooks.held.take()
        {
            handler.holds_connects();
            (hooks, plan.traps) = (held.hooks, held.traps);
        }
        let held = guards::do_without(&missing, &mut hooks);
        plan.traps.extend(held.into_iter().map(Trap::always));
        let mut programs = Programs::load(Aim { scope: &scope_of(&hooks), hooks: Some(&hooks) })?;
        let needed = guards::needed(&hooks).into_iter().filter(|guard| !missing.contains(guard));
        let more: Vec<Guard> = needed.filter(|guard| programs.attach_guard(*guard).is_err()).collect();
        if more.is_empty() {
            break programs;
        }
        // At most once for each of them.
        missing.extend(more);
    };
    if hooks.odd_sockets {
        handler.judges_odd_sockets();
    }
    let reader = Reader::of(&mut programs)?;
    let sources = hooks.holes.is_some().then(|| programs.sources()).transpose()?;
    let hooks = &hooks;
    programs.attach(&root.directory, Aim { scope: &scope_of(hooks), hooks: Some(hooks) })?;
    let mut capture =
        handler.captures().map(|wanted| Capture::load(&wanted, &Filters::default(), true)).transpose()?;
    if let Some(capture) = &mut capture {
        capture.attach()?;
    }
    if !hooks.requests.is_empty() && !programs.sees_requests {
        // What can't be seen is judged as a whole.
        plan.traps.push(Trap::always(Syscall::IoUringSetup));
    }
    let maps = programs.tree_maps()?;
    let both = Arc::new(Both { handler, reader: Mutex::new(reader), sources: Mutex::new(sources) });
    // The tree that dies must be ended at once, and who waits at a hole must not wait for us.
    let hurries = hooks.holes.is_some() || hooks.refusal.is_some_and(|refusal| refusal.then == Then::TreeDies);
    let gather = if hurries { Duration::ZERO } else { GATHER };
    let has_stacks = hooks.stacks != StacksOf::Nothing;
    let mut attention = if has_stacks { Attention::to_stacks(gather) } else { Attention::new(gather) };
    programs.have_attended(&mut attention)?;
    let listener = Listener::start(&both, maps, attention, hooks)?;
    let told: Arc<dyn Handler> = Arc::<Both>::clone(&both);
    let mut payloads = None;
    let ended = SeccompBackend::new().run_with(command, &plan, &told, |child| {
        if let Some(mut capture) = capture.take() {
            capture.adopt(child)?;
            payloads = Some(capture::Thread::start(capture, &both.handler)?);
        }
        programs.adopt(child)
    });
    listener.stop();
    drop(programs);
    if let Some(payloads) = payloads {
        payloads.stop();
    }
    while both.catch_up() == Found::Part {}
    both.reader().tell_counts(&mut |observation| both.handler.observed(observation));
    ended
}

fn scope_of(hooks: &Hooks) -> Scope {
    Scope { calls: hooks.calls.clone(), states: false, filters: Filters::default(), attaches: false }
}

/// Passes calls on to the handler, and before each what the hooks have told.
struct Both {
    handler: Arc<dyn Handler>,
    reader: Mutex<Reader>,
    /// Where connections are diverted.
    sources: Mutex<Option<Sources>>,
}

impl Both {
    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what has happened until now; not for ever, as there may come more than can be told.
    fn catch_up(&self) -> Found {
        self.reader().drain(&mut |observation| match observation {
            Observation::Diverted(diverted) => {
                self.handler.diverted(diverted, &mut |source| self.show(diverted.cookie, source));
            }
            observation => self.handler.observed(observation),
        })
    }

    fn show(&self, cookie: u64, source: IpAddr) {
        let source = match source {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        if let Some(sources) = self.sources.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // Where there is no room for it, the program sees loopback's address.
            let _: Result<(), MapError> = sources.insert(cookie, source.octets(), 0);
        }
    }
}

impl Handler for Both {
    fn handle(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> Outcome {
        self.catch_up();
        self.handler.handle(call, tracee, patience)
    }

    fn returned(&self, call: &InterceptedCall, result: i64) {
        self.handler.returned(call, result);
    }

    fn awaits_result(&self, call: &InterceptedCall) -> bool {
        self.handler.awaits_result(call)
    }

    fn abandoned(&self, call: &InterceptedCall) {
        self.handler.abandoned(call);
    }

    fn process(&self, event: ProcessEvent) {
        self.catch_up();
        self.handler.process(event);
    }

    fn observed(&self, observation: Observation) {
        self.handler.observed(observation);
    }

    fn program_ended(&self, ended: Ended) {
        self.catch_up();
        self.handler.program_ended(ended);
    }
}

/// The thread that waits for records; the guardian is its child.
struct Listener {
    thread: JoinHandle<()>,
    stop: OwnedFd,
}

impl Listener {
    fn start(both: &Arc<Both>, maps: TreeMaps, attention: Attention, hooks: &Hooks) -> Result<Self, BackendError> {
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).map_err(BackendError::doing("making a pipe"))?;
        // Counts must be fetched: nobody is woken for them.
        let counts = !hooks.counted.is_empty();
        let both = Arc::clone(both);
        let (tell, started) = sync_channel(1);
        let builder = std::thread::Builder::new().name("records".into());
        let thread =
            builder.spawn(move || listen(&both, &maps, &stopped, (attention, counts), &tell)).map_err(|error| {
                BackendError::Failed("starting a thread".into(), sockstrace_backend::filter::errno_of(&error))
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { thread, stop }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BackendError::Failed("starting a thread".into(), Errno::ECHILD)),
        }
    }

    fn stop(self) {
        drop(self.stop);
        // It doesn't panic; and if it did, all is over anyhow.
        let _: std::thread::Result<()> = self.thread.join();
    }
}

fn listen(
    both: &Both,
    maps: &TreeMaps,
    stopped: &OwnedFd,
    (mut attention, counts): (Attention, bool),
    tell: &SyncSender<Result<(), BackendError>>,
) {
    let guardian = match Guardian::start(maps) {
        Ok(guardian) => guardian,
        Err(error) => {
            // Who started us waits for it.
            let _: Result<(), _> = tell.send(Err(error));
            return;
        }
    };
    let _: Result<(), _> = tell.send(Ok(()));
    let ring = both.reader().descriptor();
    // SAFETY: the ring, and with it the descriptor, lives as long as `both`.
    let ring = unsafe { BorrowedFd::borrow_raw(ring) };
    let check = PollTimeout::from(CHECK.as_millis() as u16);
    let mut checked = Instant::now();
    let mut at_most = if counts { check } else { PollTimeout::NONE };
    loop {
        match attention.wait(&[ring], stopped.as_fd(), at_most) {
            Ok(Woken::ToLook) => {
                attention.found(both.catch_up());
                at_most = check;
                if checked.elapsed() < CHECK {
                    continue;
                }
            }
            Ok(Woken::InVain) if !counts => at_most = PollTimeout::NONE,
            Ok(Woken::InVain) => {}
            // No error is documented for valid descriptors. What the hooks tell is still taken in before each call.
            Ok(Woken::ToEnd) | Err(_) => break,
        }
        both.reader().tell_counts(&mut |observation| both.handler.observed(observation));
        checked = Instant::now();
    }
    guardian.dismiss();
}
