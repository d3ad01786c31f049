//! Calls that programs in the kernel judge: which those are, and what becomes of what they tell.
//!
//! The rules in the kernel are those of the policy, compiled. What was judged there is judged here once more, for
//! the reason and the rule; where the two differ, one of them is wrong, and that is said.

use super::observed::{self, Addresses, event_of, judge, socket_kind};
use super::{Pipeline, Scene};
use crate::action::end;
use crate::config::{OnLeak, Stack};
use crate::event::{Action, Body, Event, Lost};
use crate::operation::interest::{self, Hooked, Interest};
use crate::operation::{Operation, SocketKind, SocketType};
use crate::output::Slip;
use crate::policy::Verdict;
use crate::redirect::Redirector;
use crate::redirect::datagrams::Datagrams;
use crate::relay::Unfit;
use crate::run::say;
use crate::stacks::promise;
use nix::unistd::Pid;
use sockstrace_backend::hooks::{Held, Hooks, Network, Refusal, SERVING, StacksOf, Then};
use sockstrace_backend::observed::{
    Diversion, Diverted, Executed, Interface, Observation, ObservedCall, SocketCall,
};
use sockstrace_backend::{BackendError, Handler, Plan, Syscall};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

pub(super) const UNSEEN: &str =
    "no hook in the kernel sees what such a socket sends: --backend seccomp judges it when it is used";
const DIFFERS: &str = "the rules in the kernel say otherwise, which is a bug of sockstrace";

/// What is known of processes, and what was lost.
#[derive(Default)]
pub(super) struct Known {
    processes: HashMap<i32, observed::Known>,
    executed: HashMap<i32, Executed>,
    lost: u64,
}

impl Known {
    /// How many events were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

impl Pipeline {
    /// The plan for a backend that judges internet destinations in the kernel.
    ///
    /// # Errors
    /// Where connections can't be diverted there.
    pub fn plan_with_hooks(&self, plan: Plan) -> Result<Plan, BackendError> {
        let redirector = self.redirector.as_ref().filter(|_| self.config.on_leak == OnLeak::Redirect);
        let held = redirector.map(|_| self.judged_in_kernel(true));
        if let Some(held) = &held
            && self.config.policy.judges_unix()
        {
            self.holds_connects();
            return Ok(Plan { traps: held.traps.clone(), hooks: Some(held.hooks.clone()), ..plan });
        }
        let holes = redirector.map(Redirector::holes).transpose();
        let holes = holes.map_err(|Unfit(why)| {
            BackendError::Unavailable(format!("--on-leak redirect by programs in the kernel: {why}"))
        })?;
        let Held { hooks, traps } = self.judged_in_kernel(false);
        Ok(Plan { traps, hooks: Some(Hooks { holes, held: held.map(Box::new), ..hooks }), ..plan })
    }

    /// What the kernel judges, and what is stopped at. With `redirects` these are connections and datagrams too, to be
    /// redirected as by a backend without hooks.
    fn judged_in_kernel(&self, redirects: bool) -> Held {
        let policy = &self.config.policy;
        let refusal = match self.config.on_leak {
            OnLeak::Block | OnLeak::Redirect => Some(Then::GoesOn),
            OnLeak::Kill => Some(Then::Dies),
            OnLeak::KillTree => Some(Then::TreeDies),
            _ => None,
        };
        let ends = self.config.on_leak == OnLeak::KillTree;
        let holds = policy.judges_unix() || ends || redirects;
        // Netlink dumps are read from what is sent.
        let messages = !policy.judges_disclosure();
        // What is held up to be looked at can't be when a ring does it, nor does a ring wait for a redirected connection.
        let rings = !policy.judges_unix() && messages && self.config.on_leak != OnLeak::Redirect;
        let serving = policy.judges_incoming() && refusal.is_some() && !ends;
        let hooked = Hooked { holds, messages, rings, serving };
        let interest = Interest {
            incoming: policy.judges_incoming(),
            disclosure: policy.judges_disclosure(),
            peers: redirects && policy.first_proxy().is_some_and(Datagrams::may_be_offered),
            redirects,
            hooked: Some(hooked),
        };
        let covers = |call: Syscall| hooked.covers(call);
        let mut calls = Vec::new();
        if covers(Syscall::Connect) {
            calls.push(SocketCall::Connect);
        }
        if covers(Syscall::Sendto) && !policy.judges_disclosure() {
            calls.push(SocketCall::Sendto);
        }
        let messages = covers(Syscall::Sendmsg);
        if messages {
            calls.push(SocketCall::Sendmsg);
        }
        if serving || (self.traces_all() && !policy.judges_incoming()) {
            calls.extend(SERVING);
        }
        // What is let go is only told with --trace all; and where who leaks is killed, as what says in the kernel that a
        // process has acted would take the place of what says that it is doomed (`enum member`).
        let goes_on = refusal.is_none_or(|then| then == Then::GoesOn);
        let counts = goes_on && !self.traces_all() && self.config.stack != Stack::Always;
        let counted = if counts { calls.clone() } else { Vec::new() };
        // Who is refused and goes on needs no end of his call.
        let refuses_alone = counts && self.config.on_leak == OnLeak::Block;
        if refuses_alone {
            calls.clear();
        }
        let mut requests = Vec::new();
        if rings && !refuses_alone {
            requests.extend([SocketCall::Connect, SocketCall::Sendto, SocketCall::Sendmsg]);
            if self.traces_all() || policy.judges_incoming() {
                requests.extend(SERVING);
            }
        }
        let refusal = refusal.map(|then| Refusal { errno: self.config.block_errno, then });
        let stacks = match self.config.stack {
            Stack::Never => StacksOf::Nothing,
            _ if !self.shows_stacks() => StacksOf::Nothing,
            Stack::Auto => StacksOf::Leaks,
            Stack::Always => StacksOf::Everything,
        };
        let hooks = Hooks {
            networks: if redirects {
                with_stand_ins(policy.networks_in_kernel())
            } else {
                policy.networks_in_kernel()
            },
            refusal,
            calls,
            counted,
            messages,
            odd_sockets: refusal.is_some(),
            requests,
            rings,
            options: if rings { ring_options() } else { Vec::new() },
            closed_paths: policy.closed_paths(),
            served: refusal.and_then(|_| policy.served_in_kernel()),
            serving,
            stacks,
            holes: None,
            held: None,
        };
        Held { hooks, traps: interest::traps(interest) }
    }

    /// Whether leaks are refused in the kernel.
    pub(super) fn refuses_in_kernel(&self) -> bool {
        self.hooks.load(Ordering::SeqCst) && self.config.on_leak != OnLeak::Log
    }

    /// Takes in what was judged in the kernel.
    pub(super) fn observe(&self, observation: Observation) {
        match observation {
            Observation::Call(call) => self.hooked_call(&call),
            Observation::Lost(count) => {
                let mut seen = self.seen();
                seen.hooked.lost = seen.hooked.lost.saturating_add(count);
                let lost = Lost { backend: seen.backend, dropped: count };
                drop(seen);
                self.recorder.add(Event::now(Body::Lost(lost)).into());
            }
            Observation::Acted(actor) => {
                self.seen().processes.insert(actor.pid);
            }
            Observation::Passed(count) => {
                self.judged.fetch_add(count, Ordering::SeqCst);
            }
            Observation::Exec(_, actor, executed) => {
                let mut seen = self.seen();
                seen.hooked.processes.remove(&actor.pid);
                seen.hooked.executed.insert(actor.pid, executed);
            }
            Observation::Exit(_, actor, _) => {
                let mut seen = self.seen();
                seen.hooked.processes.remove(&actor.pid);
                seen.hooked.executed.remove(&actor.pid);
            }
            Observation::CaughtUp => self.recorder.flush(),
            Observation::State(_) | Observation::Existing(_) | Observation::Diverted(_) => {}
        }
    }

    /// Asks the proxy for a connection that waits at a hole.
    pub(super) fn divert(&self, diverted: &Diverted, show: &mut dyn FnMut(IpAddr)) {
        let Some(redirector) = &self.redirector else { return };
        if let Err(Unfit(why)) = redirector.divert(diverted, show) {
            let Diverted { pid, destination, .. } = diverted;
            say(&format!("the connection of process {pid} to {destination} is not redirected: {why}"));
        }
    }

    fn hooked_call(&self, seen: &ObservedCall) {
        let addresses = Addresses::of(seen);
        let kind = seen.socket.map(socket_kind);
        let mut verdict = judge(&self.config.policy, seen, kind.as_ref(), &addresses);
        self.judged.fetch_add(1, Ordering::SeqCst);
        self.seen().processes.insert(seen.actor.pid);
        if seen.leaks.is_some_and(|leaks| leaks != verdict.is_leak() && !self.ending.load(Ordering::SeqCst)) {
            say(&format!("{} of process {}: {DIFFERS}", seen.call.name(), seen.actor.pid));
            verdict = Verdict { reason: Cow::Owned(format!("{}; {DIFFERS}", verdict.reason)), ..verdict };
        }
        if verdict.is_leak() && is_of_no_internet(seen) {
            verdict = Verdict::allowed("such a socket takes no internet address: the program has changed it since");
        }
        let action = self.action_of(seen, &verdict);
        if let Some(why) = seen.diversion.and_then(why_not_redirected) {
            verdict.reason = Cow::Owned(format!("{}; not redirected: {why}", verdict.reason));
        }
        if verdict.is_leak() {
            self.leaks.fetch_add(1, Ordering::SeqCst);
        }
        if verdict.is_leak() || (self.traces_all() && self.recorder.wants_allowed()) {
            let who = self.hooked_who(seen);
            let program = who.exe.clone();
            let mut call = event_of(who, seen, kind.as_ref(), &addresses, &verdict, action);
            // Who is killed sees nothing.
            if let (Some(result), Action::Continue | Action::Block | Action::Redirect) = (seen.result, action) {
                call.set_result(result);
            }
            let stack = seen.stack.as_ref().map(|copy| {
                let (promise, awaited) = promise(&self.stacks);
                promise.keep_copy(Pid::from_raw(seen.actor.pid), program.as_deref(), copy);
                awaited
            });
            self.recorder.add(Slip { event: Event::at(seen.time, Body::Syscall(call)), stack });
        }
        match action {
            Action::Kill if seen.interface == Interface::Unknown => {
                end::kill_process(Pid::from_raw(seen.actor.pid));
            }
            Action::KillTree if !self.ending.swap(true, Ordering::SeqCst) => end::kill_tree(),
            _ => {}
        }
    }

    /// What was done in the kernel.
    fn action_of(&self, seen: &ObservedCall, verdict: &Verdict<'_>) -> Action {
        match (seen.leaks, self.config.on_leak) {
            (_, OnLeak::Log) => Action::Continue,
            (_, OnLeak::Redirect) if verdict.is_leak() => match seen.diversion {
                Some(Diversion::Made) => Action::Redirect,
                // The kernel wasn't asked: the socket has been redirected before, or connects nowhere.
                None if seen.leaks.is_none() && connects(seen) => Action::Redirect,
                _ => Action::Block,
            },
            (Some(true), on_leak) => on_leak.action(),
            // The kernel itself refused it before the rules were asked: nothing has left.
            (None, _) if verdict.is_leak() && seen.result.is_some_and(|result| result < 0) => Action::Block,
            _ => Action::Continue,
        }
    }

    fn hooked_who(&self, seen: &ObservedCall) -> crate::event::Who {
        let pid = seen.actor.pid;
        let state = self.seen();
        let backend = state.backend;
        let (known, executed) = (state.hooked.processes.get(&pid), state.hooked.executed.get(&pid));
        let (known, executed) = (known.cloned(), executed.cloned());
        drop(state);
        let known = known.unwrap_or_else(|| {
            let known = observed::Known::of(pid).or(executed.as_ref());
            self.seen().hooked.processes.insert(pid, known.clone());
            known
        });
        known.who(backend, &seen.actor)
    }
}

/// The socket options that no ring may set.
fn ring_options() -> Vec<(i32, i32)> {
    let labels = (libc::IPPROTO_IPV6, interest::IPV6_FLOWLABEL_MGR);
    interest::OPTIONS.into_iter().chain([labels]).collect()
}

/// Whether it is connect(2) of a stream.
fn connects(seen: &ObservedCall) -> bool {
    seen.call == SocketCall::Connect && seen.socket.is_some_and(|socket| socket.kind == SocketType::STREAM.0)
}

/// Datagrams to loopback are let through by the kernel, which doesn't know those of our addresses that stand for
/// destinations: each call was held up before it got there.
fn with_stand_ins(mut networks: Vec<Network>) -> Vec<Network> {
    for network in networks.iter_mut().filter(|network| network.ip.to_canonical().is_loopback()) {
        network.others = vec![0..=u16::MAX];
    }
    networks
}

/// Whether the kernel took an address, without asking the rules, for a socket that takes none of the internet.
fn is_of_no_internet(seen: &ObservedCall) -> bool {
    let accepted = seen.leaks.is_none() && seen.result.is_some_and(|result| result >= 0);
    let local = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_ALG];
    accepted && seen.socket.is_some_and(|socket| local.contains(&socket.family))
}

/// Why a leak was refused where others are redirected.
fn why_not_redirected(diversion: Diversion) -> Option<&'static str> {
    Some(match diversion {
        Diversion::Made => return None,
        Diversion::NoStream => "only TCP connections can be by programs in the kernel",
        Diversion::Multipath => "multipath TCP can't be held until the proxy has answered",
        Diversion::BoundToDevice => "its socket is bound to a device",
        Diversion::Elsewhere => "its socket is in another network namespace",
        Diversion::NoHole => "nothing can be bound on loopback",
    })
}

impl Scene<'_> {
    /// Whether connections are diverted in the kernel, so that what is held up can't be redirected.
    pub(super) fn is_diverted_in_kernel(&self) -> bool {
        self.pipeline.hooks.load(Ordering::SeqCst) && !self.pipeline.holds.load(Ordering::SeqCst)
    }

    /// What opening such a socket is: where leaks are refused in the kernel, and it can't be seen there what the
    /// socket does, nothing can be said of it.
    pub(super) fn opening(&self, asked: &SocketKind) -> Operation {
        let is_seen = interest::is_hooked(asked)
            || (interest::is_odd(asked) && self.pipeline.judges_odd_sockets.load(Ordering::SeqCst));
        let harmless = || !self.pipeline.config.policy.judge(&Operation::Open, Some(asked)).is_leak();
        if self.pipeline.refuses_in_kernel() && !is_seen && harmless() {
            return Operation::Undecidable { why: UNSEEN };
        }
        Operation::Open
    }
}
