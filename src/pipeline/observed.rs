//! What a watching backend reports: judged by the same policy as what others hold up, and recorded.

use super::attached;
use super::calls::named_destination;
use super::hooked::UNSEEN;
use crate::aside::within;
use crate::capture::Recording;
use crate::config::{Config, Trace, Watching};
use crate::event::{
    self, Action, Body, Call, Change, Event, Judgement, Lost, Process, Socket, Summary, TcpState, Who,
};
use crate::operation::address::Address;
use crate::operation::decode::Sockaddr;
use crate::operation::interest;
use crate::operation::{Family, Operation, SocketKind, SocketType, Way};
use crate::output::Recorder;
use crate::output::live::Tally;
use crate::policy::{Policy, Verdict};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::captured::{Captured, Wanted};
use sockstrace_backend::observed::{
    Actor, Course, Executed, ExistingSocket, Interface, Kind, Observation, ObservedCall, Observer, SocketCall,
    StateChange,
};
use sockstrace_backend::proc;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

const UNTOLD: &str = "more control messages than are looked at, or such as can't be read";
const CONNECTED_VSOCK: &str = "whatever a vsock is connected to, it is another machine or the hypervisor";
const OF_RING: &str = "the option can choose the way of packets, and to what an io_uring sets it isn't looked at";

/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(5);
/// How long a path may take to be resolved.
const RESOLVING: Duration = Duration::from_millis(200);
/// How often an onlooker is told how far it is.
const TALLIES: Duration = Duration::from_millis(200);

/// Judges what was seen, and records it.
pub struct Witness {
    config: Config,
    watching: Watching,
    backend: &'static str,
    recorder: Recorder,
    /// `--capture`
    recording: Option<Recording>,
    tell: fn(&str),
    /// Processes have the numbers in /proc by which the backend knows them.
    shows_ids: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    judged: u64,
    leaks: u64,
    lost: u64,
    /// When an onlooker was told last.
    told: Option<Instant>,
    processes: HashSet<i32>,
    /// Of living processes, as far as that was asked.
    known: HashMap<i32, Known>,
    /// What living processes have executed since watching began.
    executed: HashMap<i32, Executed>,
}

/// What /proc says of a process.
#[derive(Clone, Default)]
pub(super) struct Known {
    executable: Option<String>,
    parent: Option<i32>,
}

impl Known {
    pub(super) fn of(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        Self {
            executable: proc::executable(pid).map(|path| path.to_string_lossy().into_owned()),
            parent: proc::Entry::of(pid).map(|entry| entry.parent.as_raw()),
        }
    }

    /// With what was told of the process's exec: it may have ended since.
    pub(super) fn or(self, executed: Option<&Executed>) -> Self {
        let Some(executed) = executed else { return self };
        let path = || {
            let path = executed.path.clone()?;
            let given = path.clone();
            // As /proc/PID/exe gives it.
            let resolved = within(RESOLVING, move || given.canonicalize().ok()).flatten();
            Some(resolved.unwrap_or(path).to_string_lossy().into_owned())
        };
        Self { executable: self.executable.or_else(path), parent: self.parent.or(executed.parent) }
    }

    /// The process of which this is known.
    pub(super) fn who(self, backend: &'static str, actor: &Actor) -> Who {
        Who {
            backend,
            pid: actor.pid,
            tid: actor.tid,
            ppid: self.parent,
            process: (actor.pid != 0).then(|| actor.name.to_string_lossy().into_owned()),
            exe: self.executable,
        }
    }
}

impl Witness {
    /// For what `backend` sees. `tell` tells the user about the watching itself.
    #[must_use]
    pub fn new(
        config: Config,
        watching: Watching,
        backend: &'static str,
        recorder: Recorder,
        tell: fn(&str),
    ) -> Self {
        let (shows_ids, state) = (proc::shows_initial_ids(), RefCell::default());
        Self { config, watching, backend, recorder, recording: None, tell, shows_ids, state }
    }

    /// What is captured goes to `recording`. To be called before watching begins.
    pub fn capture(&mut self, recording: Recording) {
        recording.begin(self.backend);
        self.recording = Some(recording);
    }

    /// Whether something leaked.
    #[must_use]
    pub fn saw_leaks(&self) -> bool {
        self.state.borrow().leaks > 0
    }

    /// Writes the last line.
    pub fn finish(&self, exit: i32) {
        if let Some(losses) = self.recording.as_ref().and_then(Recording::finish) {
            crate::run::say(&losses);
        }
        let state = self.state.borrow();
        let summary = Summary {
            events: state.judged,
            leaks: state.leaks,
            processes: state.processes.len() as u64,
            dropped: state.lost,
            exit,
        };
        self.recorder.finish(Event::now(Body::Summary(summary)), LAST_LINES);
    }

    fn call(&self, seen: &ObservedCall) {
        let addresses = Addresses::of(seen);
        if !self.is_wanted(&addresses.all(seen)) {
            return;
        }
        let kind = seen.socket.map(socket_kind);
        let verdict = judge(&self.config.policy, seen, kind.as_ref(), &addresses);
        let mut state = self.state.borrow_mut();
        state.judged = state.judged.saturating_add(1);
        state.processes.insert(seen.actor.pid);
        if verdict.is_leak() {
            state.leaks = state.leaks.saturating_add(1);
        }
        self.tell(&mut state);
        if !verdict.is_leak() && (!self.traces_all() || !self.recorder.wants_allowed()) {
            return;
        }
        let who = self.who(&mut state, &seen.actor);
        let mut call = event_of(who, seen, kind.as_ref(), &addresses, &verdict, Action::Continue);
        if let Some(result) = seen.result {
            call.set_result(result);
        }
        drop(state);
        self.recorder.add(Event::at(seen.time, Body::Syscall(call)).into());
    }

    /// Whether what is no leak is recorded: for the file, or for an onlooker.
    fn traces_all(&self) -> bool {
        self.config.trace == Trace::All || self.recorder.is_shown()
    }

    /// Tells an onlooker how far it is, now and then.
    fn tell(&self, state: &mut State) {
        if self.recorder.is_shown() && state.told.is_none_or(|told| told.elapsed() >= TALLIES) {
            state.told = Some(Instant::now());
            let (calls, leaks, processes) = (state.judged, state.leaks, state.processes.len() as u64);
            self.recorder.tell(Tally { calls, leaks, processes });
        }
    }

    /// A socket of who is attached to: shown whatever is traced, as nothing else will tell of it.
    fn existing(&self, socket: &ExistingSocket) {
        let shown = attached::shown(socket);
        let local = socket.local.map(Address::Internet);
        if !self.is_wanted(&[local, shown].into_iter().flatten().collect::<Vec<_>>()) {
            return;
        }
        let mut state = self.state.borrow_mut();
        let who = self.who(&mut state, &socket.actor);
        let call = attached::call_of(&self.config.policy, socket, who);
        state.judged = state.judged.saturating_add(1);
        state.leaks = state.leaks.saturating_add(u64::from(call.class.is_some()));
        state.processes.insert(socket.actor.pid);
        drop(state);
        self.recorder.add(Event::at(socket.time, Body::Syscall(call)).into());
    }

    fn state_change(&self, change: &StateChange) {
        let addresses = [change.local, change.remote].map(Address::Internet);
        if !self.is_wanted(&addresses) || !self.traces_all() || !self.recorder.wants_allowed() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let nobody = Actor::default();
        let actor = change.actor.as_ref().unwrap_or(&nobody);
        let [local, remote] = addresses.map(|address| address.to_string());
        let body = TcpState {
            who: self.who(&mut state, actor),
            socket: Socket::from(&socket_kind(change.socket)),
            local,
            remote,
            old: event::TcpStateName(change.old),
            new: event::TcpStateName(change.new),
        };
        drop(state);
        self.recorder.add(Event::at(change.time, Body::TcpState(body)).into());
    }

    fn process(&self, time: SystemTime, actor: &Actor, change: Change, wait_status: i32) {
        let mut state = self.state.borrow_mut();
        let known = state.known.remove(&actor.pid);
        let executed = (change == Change::Exit).then(|| state.executed.remove(&actor.pid)).flatten();
        // Process events have no address, so that a filter on addresses lets none through.
        let filtered = self.watching.addresses.is_some() || !self.watching.ports.is_empty();
        if !self.traces_all() || filtered {
            return;
        }
        if change == Change::Exit {
            // Who has ended has no executable any more.
            state.known.insert(actor.pid, known.unwrap_or_default().or(executed.as_ref()));
        }
        let who = self.who(&mut state, actor);
        if change == Change::Exit {
            state.known.remove(&actor.pid);
        }
        let (status, signal) = match (change, wait_status & 0x7F) {
            (Change::Exec, _) => (None, None),
            (Change::Exit, 0) => (Some((wait_status >> 8) & 0xFF), None),
            (Change::Exit, signal) => (None, Some(signal)),
        };
        drop(state);
        let process = Process { who, event: change, status, signal };
        self.recorder.add(Event::at(time, Body::Process(process)).into());
    }

    fn lost(&self, count: u64) {
        let mut state = self.state.borrow_mut();
        state.lost = state.lost.saturating_add(count);
        drop(state);
        let lost = Lost { backend: self.backend, dropped: count };
        self.recorder.add(Event::now(Body::Lost(lost)).into());
    }

    fn who(&self, state: &mut State, actor: &Actor) -> Who {
        let known = match actor.pid {
            0 => Known::default(),
            // Who has this number in /proc is another one.
            _ if !self.shows_ids => Known::default(),
            pid => {
                let State { known, executed, .. } = state;
                known.entry(pid).or_insert_with(|| Known::of(pid).or(executed.get(&pid))).clone()
            }
        };
        known.who(self.backend, actor)
    }

    /// Whether the filters on addresses and ports let through what has these.
    fn is_wanted(&self, addresses: &[Address]) -> bool {
        let Watching { addresses: rules, ports, .. } = &self.watching;
        let covered = rules.as_ref().is_none_or(|rules| addresses.iter().any(|address| rules.covers(address)));
        let has_port = |address: &Address| {
            address.ip().is_some_and(|(_, port)| ports.iter().any(|range| range.contains(&port)))
        };
        covered && (ports.is_empty() || addresses.iter().any(has_port))
    }
}

impl Observer for Witness {
    fn observe(&self, observation: Observation) {
        match observation {
            Observation::Existing(socket) => self.existing(&socket),
            Observation::Call(call) => self.call(&call),
            Observation::State(change) => self.state_change(&change),
            Observation::Exec(time, actor, executed) => {
                if self.shows_ids {
                    self.state.borrow_mut().executed.insert(actor.pid, executed);
                }
                self.process(time, &actor, Change::Exec, 0);
            }
            Observation::Exit(time, actor, status) => self.process(time, &actor, Change::Exit, status),
            Observation::Lost(count) => self.lost(count),
            Observation::CaughtUp => self.recorder.flush(),
            // Where nothing is refused, everything is told.
            Observation::Acted(_) | Observation::Passed(_) | Observation::Diverted(_) => {}
        }
    }

    fn captures(&self) -> Option<Wanted> {
        self.recording.as_ref().map(Recording::wanted)
    }

    fn captured(&self, captured: Captured) {
        if let Some(recording) = &self.recording {
            recording.observed(captured);
        }
    }

    fn begun(&self, limits: &[String]) {
        if let Some(recording) = &self.recording {
            let attached = self.watching.scope.attaches.then(|| self.watching.scope.filters.trees.first().copied());
            recording.watches(attached.flatten());
        }
        for limit in limits {
            (self.tell)(limit);
        }
        let what = match self.watching.scope.filters.trees.first() {
            Some(pid) if self.watching.scope.attaches => format!("watching process {pid} and its children"),
            _ => "watching the machine".into(),
        };
        (self.tell)(&format!("{what}; Ctrl-C ends it"));
    }
}

/// The event for it, but for its result.
pub(super) fn event_of(
    who: Who,
    seen: &ObservedCall,
    kind: Option<&SocketKind>,
    addresses: &Addresses,
    verdict: &Verdict<'_>,
    action: Action,
) -> Call {
    Call {
        who,
        syscall: seen.call.name(),
        abi: match seen.interface {
            Interface::Call(abi) | Interface::IoUring(abi) => abi.name(),
            Interface::Unknown => "unknown",
        },
        via: matches!(seen.interface, Interface::IoUring(_)).then_some("io_uring"),
        fd: seen.fd,
        socket: kind.map(Socket::from),
        address: addresses.shown.as_ref().and_then(event::address),
        returned: None,
        errno: None,
        verdict: if verdict.is_leak() { Judgement::Leak } else { Judgement::Allowed },
        class: verdict.leak,
        action,
        reason: verdict.reason.clone(),
        rule: verdict.rule.map(ToOwned::to_owned),
        stack: None,
    }
}

/// What the policy says of a call that was seen.
pub(super) fn judge<'p>(
    policy: &'p Policy,
    seen: &ObservedCall,
    kind: Option<&SocketKind>,
    addresses: &Addresses,
) -> Verdict<'p> {
    // What the kernel has looked at no further went nowhere.
    let refused = seen.leaks != Some(true);
    let errnos = [Errno::EBADF, Errno::ENOTSOCK, Errno::EFAULT, Errno::EINVAL];
    if refused && seen.result.is_some_and(|result| errnos.iter().any(|errno| result == -i64::from(*errno as i32))) {
        return Verdict { leak: None, reason: Cow::Borrowed("the kernel refused its arguments"), rule: None };
    }
    let judged = || addresses.judged.clone();
    let malformed = || Address::Malformed(Family::UNSPEC);
    let operation = match seen.call {
        SocketCall::Connect => Operation::Connect { destination: judged().unwrap_or_else(malformed) },
        SocketCall::Sendto | SocketCall::Sendmsg | SocketCall::Sendmmsg => {
            let way = match seen.course {
                Course::ByDestination => Way::ByDestination,
                Course::SourceRouted => Way::SourceRouted,
                Course::Chosen => Way::Chosen,
                Course::Untold => return policy.judge(&Operation::Undecidable { why: UNTOLD }, kind),
            };
            Operation::Send { destination: judged(), way }
        }
        SocketCall::Bind => Operation::Bind { local: judged().unwrap_or_else(malformed) },
        SocketCall::Listen => Operation::Listen { local: judged().unwrap_or_else(malformed) },
        SocketCall::Accept | SocketCall::Accept4 => Operation::Accept { local: judged().unwrap_or_else(malformed) },
        SocketCall::Recvfrom | SocketCall::Recvmsg | SocketCall::Recvmmsg => {
            return Verdict { leak: None, reason: Cow::Borrowed("only receives"), rule: None };
        }
        SocketCall::Socket => Operation::Open,
        SocketCall::Setsockopt => Operation::Undecidable { why: OF_RING },
    };
    let verdict = policy.judge(&operation, kind);
    if seen.leaks == Some(true) && !verdict.is_leak() && kind.is_some_and(|kind| kind.family == Family::VSOCK) {
        return policy.judge(&Operation::Undecidable { why: CONNECTED_VSOCK }, kind);
    }
    let unseen = seen.leaks == Some(true) && kind.is_some_and(|kind| !interest::is_hooked(kind));
    if unseen && !verdict.is_leak() {
        return policy.judge(&Operation::Undecidable { why: UNSEEN }, kind);
    }
    verdict
}

/// The addresses of a call.
pub(super) struct Addresses {
    /// What the policy judges.
    judged: Option<Address>,
    /// What the event shows.
    shown: Option<Address>,
}

impl Addresses {
    pub(super) fn of(seen: &ObservedCall) -> Self {
        let named = seen.address.as_ref().map(|(bytes, _)| Sockaddr::from_bytes(bytes));
        let name = named.as_ref().map(Sockaddr::address);
        let internet = |address: Option<SocketAddr>| address.map(Address::Internet);
        let peer = || internet(seen.peer);
        match seen.call {
            SocketCall::Connect | SocketCall::Bind => {
                let name = match (name, seen.socket) {
                    // `__inet_bind` takes AF_UNSPEC for AF_INET.
                    (Some(Address::Unspecified), Some(socket))
                        if seen.call == SocketCall::Bind && socket.family == libc::AF_INET =>
                    {
                        named.as_ref().map(|name| Address::parse_as_inet(name.as_bytes()))
                    }
                    (name, _) => name,
                };
                Self { judged: name.clone(), shown: name }
            }
            SocketCall::Sendto | SocketCall::Sendmsg | SocketCall::Sendmmsg => {
                let kind = seen.socket.map(socket_kind);
                let destination = match (&named, &kind) {
                    (Some(name), Some(kind)) => named_destination(kind, name, seen.flags, None),
                    _ => None,
                };
                // A stream was judged when it was connected: its peer is shown alone.
                let datagram = kind.is_some_and(SocketKind::is_internet_datagram);
                let judged = destination.or_else(|| if datagram { peer() } else { None });
                Self { shown: judged.clone().or_else(peer).or(name), judged }
            }
            SocketCall::Listen => {
                let local = internet(seen.local).or(name);
                Self { judged: local.clone().or_else(|| untold(seen)), shown: local }
            }
            SocketCall::Accept | SocketCall::Accept4 => {
                let accepted = seen.result.is_some_and(|result| result >= 0);
                let judged = internet(seen.local).or_else(|| untold(seen));
                // Who isn't served by whom.
                let refused = || internet(seen.local).filter(|_| seen.leaks == Some(true));
                let shown = if accepted { peer().or(name) } else { refused() };
                Self { judged, shown }
            }
            SocketCall::Recvfrom | SocketCall::Recvmsg | SocketCall::Recvmmsg => {
                // A stream's receiver gets no address, whatever it asks for.
                let stream = seen.socket.is_some_and(|socket| socket.kind == SocketType::STREAM.0);
                let shown = if stream { peer().or(name) } else { name.or_else(peer) };
                Self { judged: None, shown }
            }
            SocketCall::Socket | SocketCall::Setsockopt => Self { judged: None, shown: None },
        }
    }

    /// All that a filter may look at.
    fn all(&self, seen: &ObservedCall) -> Vec<Address> {
        let ends = [seen.local, seen.peer].into_iter().flatten().map(Address::Internet);
        self.judged.iter().chain(&self.shown).cloned().chain(ends).collect()
    }
}

/// Stands for the local address of a socket of which none is told; no rule looks at which it is.
fn untold(seen: &ObservedCall) -> Option<Address> {
    match seen.socket?.family {
        libc::AF_UNIX => Some(Address::Unix(crate::operation::UnixAddress::Unnamed)),
        libc::AF_VSOCK => Some(Address::Vsock { cid: libc::VMADDR_CID_ANY, port: libc::VMADDR_PORT_ANY }),
        _ => None,
    }
}

pub(super) fn socket_kind(kind: Kind) -> SocketKind {
    SocketKind { family: Family(kind.family), kind: SocketType(kind.kind), protocol: kind.protocol }
}
