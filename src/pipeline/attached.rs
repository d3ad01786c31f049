//! Processes that are attached to: what they have already.

use super::Pipeline;
use super::observed::socket_kind;
use crate::action::perform::sys;
use crate::event::{self, Action, Body, Call, Event, Judgement, Socket, Who};
use crate::operation::{Address, Operation};
use crate::policy::{Policy, Verdict};
use crate::run::say;
use nix::unistd::Pid;
use sockstrace_backend::observed::{Actor, ExistingSocket, Kind};
use sockstrace_backend::proc::Status;
use sockstrace_backend::remote::Remote;
use sockstrace_backend::{Attached, proc};
use std::borrow::Cow;
use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

impl Pipeline {
    /// Tells what there is already, before anything is judged.
    pub(super) fn on_attached(&self, attached: &Attached) {
        let mut seen = self.seen();
        seen.program_runs = true;
        seen.processes.extend(attached.processes.iter().map(|pid| pid.as_raw()));
        drop(seen);
        if self.tells_people() {
            let rings = attached.processes.iter().flat_map(|pid| {
                let blind = "its operations are not seen";
                proc::rings(*pid)
                    .into_iter()
                    .map(move |fd| format!("process {pid} has an io_uring (descriptor {fd}): {blind}"))
            });
            for limit in attached.limits.iter().cloned().chain(rings) {
                say(&limit);
            }
            if let Some(pid) = attached.processes.first() {
                say(&format!("attached to process {pid} and its children; Ctrl-C lets them go"));
            }
        }
        for socket in attached.processes.iter().flat_map(|pid| sockets_of(*pid)) {
            let pid = Pid::from_raw(socket.actor.pid);
            let call = call_of(&self.config.policy, &socket, self.who_is(pid));
            self.judged.fetch_add(1, Ordering::SeqCst);
            self.leaks.fetch_add(u64::from(call.class.is_some()), Ordering::SeqCst);
            self.recorder.write(Event::at(socket.time, Body::Syscall(call)).into());
        }
    }
}

/// The event for a socket that was there already: written whatever is traced, as nothing else will tell of it.
pub(super) fn call_of(policy: &Policy, socket: &ExistingSocket, who: Who) -> Call {
    let kind = socket_kind(socket.socket);
    let verdict = verdict_of(policy, socket);
    Call {
        who,
        syscall: "attach",
        abi: sockstrace_backend::arch::ABIS.first().map_or("", |abi| abi.name()),
        via: None,
        fd: Some(socket.fd),
        socket: Some(Socket::from(&kind)),
        address: shown(socket).as_ref().and_then(event::address),
        returned: None,
        errno: None,
        verdict: if verdict.is_leak() { Judgement::Leak } else { Judgement::Allowed },
        class: verdict.leak,
        action: Action::Continue,
        reason: Cow::Owned(format!("it was there already: {}", verdict.reason)),
        rule: verdict.rule.map(ToOwned::to_owned),
        stack: None,
    }
}

fn verdict_of<'p>(policy: &'p Policy, socket: &ExistingSocket) -> Verdict<'p> {
    let operation = match (socket.peer, socket.local) {
        (Some(peer), _) => Operation::Inherit { peer: Address::Internet(peer) },
        (None, Some(local)) if socket.listens => Operation::Listen { local: Address::Internet(local) },
        // Raw and packet sockets need no peer.
        _ => Operation::Open,
    };
    policy.judge(&operation, Some(&socket_kind(socket.socket)))
}

/// The address that is shown.
pub(super) fn shown(socket: &ExistingSocket) -> Option<Address> {
    let internet = socket.peer.or(socket.local).map(Address::Internet);
    internet
        .or_else(|| socket.name.as_ref().map(|name| crate::operation::decode::Sockaddr::from_bytes(name).address()))
}

/// The sockets of a process, by descriptor. One that is gone has none; what can't be reached is passed over.
fn sockets_of(pid: Pid) -> Vec<ExistingSocket> {
    let Ok(directory) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_socket = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:["))
    };
    let numbers = directory.flatten().filter(|entry| is_socket(&entry.path()));
    let mut fds: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    fds.sort_unstable();
    let Ok(remote) = Remote::open(pid) else { return Vec::new() };
    let actor = Actor {
        pid: pid.as_raw(),
        tid: pid.as_raw(),
        name: proc::thread_name(pid).unwrap_or_default(),
        uid: Status::of(pid).map_or(0, |status| status.uid[0]),
    };
    fds.into_iter().filter_map(|fd| existing(&remote, &actor, fd)).collect()
}

fn existing(remote: &Remote, actor: &Actor, fd: i32) -> Option<ExistingSocket> {
    let duplicate = remote.duplicate(fd).ok()?;
    let socket = duplicate.as_fd();
    let kind = sys::kind(socket).ok()?;
    let (own, peer) = (sys::local_name(socket).ok(), sys::peer_name(socket).ok());
    let internet = |name: &Option<crate::operation::decode::Sockaddr>| match name.as_ref()?.address() {
        Address::Internet(address) => Some(address),
        _ => None,
    };
    let (local, remote_end) = (internet(&own), internet(&peer));
    let named = peer.filter(|name| name.as_bytes().len() > size_of::<libc::sa_family_t>()).or(own);
    Some(ExistingSocket {
        time: SystemTime::now(),
        actor: actor.clone(),
        fd,
        socket: Kind { family: kind.family.0, kind: kind.kind.0, protocol: kind.protocol },
        listens: sys::is_listening(socket),
        name: named.filter(|_| local.is_none() && remote_end.is_none()).map(|name| name.as_bytes().to_vec()),
        local,
        peer: remote_end,
    })
}
