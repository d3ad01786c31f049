//! `--socks-auth` and its like: connections to a proxy are made by way of us, so that their handshakes can be
//! judged.

use super::redirected::nothing_to_redirect;
use super::traced::carry_out;
use super::{Pipeline, Scene, Subject};
use crate::action::end;
use crate::action::perform::Socket;
use crate::action::perform::unix_path::Found;
use crate::config::OnLeak;
use crate::event::{self, Action, Body, Call, Event, Handshake, Judgement, Socks, Who};
use crate::operation::{Address, Operation, SocketType};
use crate::output::Slip;
use crate::policy::{Class, Verdict};
use crate::proxy::handshake::{Fault, Inspector, Seen, method_name, shown};
use crate::redirect::Redirected;
use crate::redirect::inspect::{Examiner, Onward};
use crate::relay::Unfit;
use crate::stacks::Awaited;
use nix::unistd::Pid;
use sockstrace_backend::remote::Remote;
use sockstrace_backend::{Outcome, Reply};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Whose handshake it is.
struct Client {
    who: Who,
    /// Tells whether the process still is who it was.
    process: Option<Remote>,
    syscall: &'static str,
    abi: &'static str,
    fd: Option<i32>,
    socket: Option<event::Socket>,
    address: String,
    stack: Option<Awaited>,
}

impl Pipeline {
    /// Makes itself known to what outlives a call: judged handshakes. To be called once, before it is used.
    pub fn share(self) -> Arc<Self> {
        Arc::new_cyclic(|own| Self { own: Weak::clone(own), ..self })
    }

    /// Whether UNIX sockets with a path may be proxies whose handshakes are judged.
    pub(super) fn inspects_files(&self) -> bool {
        self.config.handshake.is_some() && self.config.policy.has_unix_proxy()
    }

    /// A handshake is over, or a leak.
    fn judged_handshake(&self, client: &Client, seen: &Seen, fault: Option<&Fault>) -> Onward {
        let secrets = self.config.show_secrets;
        self.judged.fetch_add(1, Ordering::SeqCst);
        if fault.is_some() {
            self.leaks.fetch_add(1, Ordering::SeqCst);
        }
        let action = match (fault, self.config.on_leak) {
            (None, _) | (_, OnLeak::Log) => Action::Continue,
            // There is no other proxy to speak to it as it should be.
            (_, OnLeak::Redirect) => Action::Block,
            (_, on_leak) => on_leak.action(),
        };
        if action == Action::KillTree {
            self.ending.store(true, Ordering::SeqCst);
        }
        let pid = Pid::from_raw(client.who.pid);
        if fault.is_some() || self.traces_all() {
            let mut reason = match fault {
                None => Cow::Borrowed("a SOCKS5 handshake of the kind that was asked for"),
                Some(fault) => Cow::Owned(fault.to_string()),
            };
            if action == Action::Core {
                reason = Cow::Owned(format!("{reason}; {}", end::core_place(pid)));
            } else if fault.is_some() && self.config.on_leak == OnLeak::Redirect {
                reason = Cow::Owned(format!("{reason}; not redirected: it leads to a proxy already"));
            }
            let call = Call {
                who: client.who.clone(),
                syscall: client.syscall,
                abi: client.abi,
                via: None,
                fd: client.fd,
                socket: client.socket.clone(),
                address: Some(client.address.clone()),
                returned: None,
                errno: None,
                verdict: if fault.is_some() { Judgement::Leak } else { Judgement::Allowed },
                class: fault.map(|_| Class::Proxy),
                action,
                reason,
                rule: None,
                stack: None,
            };
            let socks = handshake(seen, secrets);
            let event = Event::now(Body::Socks(Socks { call, socks }));
            self.recorder.write(Slip { event, stack: client.stack.clone() });
        }
        match action {
            Action::Continue => return Onward::Pass,
            Action::KillTree => end::kill_tree(),
            action if client.process.as_ref().is_some_and(Remote::is_alive) => {
                carry_out(action, pid, Pid::from_raw(client.who.tid));
            }
            // Who made the connection is gone, and only the connection is left to be ended.
            _ => {}
        }
        Onward::Reset
    }
}

fn handshake(seen: &Seen, secrets: bool) -> Handshake {
    let login = seen.login.as_ref();
    let request = seen.request.as_ref();
    Handshake {
        offered: seen.offered.as_ref().map(|methods| methods.iter().map(|method| method_name(*method)).collect()),
        chosen: seen.chosen.map(method_name),
        username: login.map(|login| shown(&login.username, secrets)),
        password: login.map(|login| shown(&login.password, secrets)),
        command: request.map(|request| request.command.name()),
        destination: request.map(ToString::to_string).or_else(|| seen.foreign.clone()),
    }
}

impl Scene<'_> {
    /// Whether it is a connection to a proxy, and handshakes are judged.
    pub(super) fn is_inspected(&self, subject: Subject<'_>, operation: &Operation) -> bool {
        let (Operation::Connect { destination } | Operation::Send { destination: Some(destination), .. }) =
            operation
        else {
            return false;
        };
        let streams = subject.socket.is_some_and(|socket| socket.kind == SocketType::STREAM);
        streams
            && match destination {
                Address::Internet(address) => self.inspects(*address),
                Address::Unix(_) => subject.file.is_some_and(|file| self.inspects_file(file)),
                _ => false,
            }
    }

    /// Whether it is the socket of a proxy, by whatever path it was found.
    fn inspects_file(&self, file: &Found) -> bool {
        let is_same = |path: &Path| {
            let there = std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
            matches!((there, file.identity()), (Ok(there), Ok(found)) if there == found)
        };
        self.pipeline.inspects_files() && self.pipeline.config.policy.proxy_paths().any(is_same)
    }

    /// As [`Scene::redirect_connect`], for a UNIX socket.
    pub(super) fn pass_unix(
        &self,
        subject: Subject<'_>,
        socket: &Socket,
        operation: &Operation,
    ) -> Result<Redirected, Unfit> {
        match (&self.pipeline.redirector, operation, subject.file, subject.fd) {
            (Some(redirector), Operation::Connect { destination }, Some(file), Some(fd))
                if self.inspects_file(file) =>
            {
                let examiner = || self.examiner(fd, &socket.kind, destination);
                redirector.pass_unix(&self.performer(), socket, file, &examiner)
            }
            _ => Err(nothing_to_redirect()),
        }
    }

    pub(super) fn inspects(&self, address: SocketAddr) -> bool {
        let config = &self.pipeline.config;
        config.handshake.is_some() && config.policy.is_proxy(address)
    }

    /// Has the connection made by way of us.
    pub(super) fn inspect(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        land: impl FnOnce() -> Result<Redirected, Unfit>,
    ) -> Outcome {
        let landed = land().map(|landed| self.landed(subject, operation, verdict, landed));
        landed.unwrap_or_else(|Unfit(why)| {
            let reason = Cow::Owned(format!("its handshake with the proxy can't be judged: {why}"));
            let verdict = Verdict { leak: Some(Class::Proxy), reason, rule: None };
            self.act(subject, operation, &verdict, None)
        })
    }

    /// Records an allowed connection that is made by way of us.
    pub(super) fn landed(
        &self,
        subject: Subject<'_>,
        operation: &Operation,
        verdict: &Verdict<'_>,
        Redirected { performed, repeats }: Redirected,
    ) -> Outcome {
        if let Outcome::Reply(reply) = &performed
            && *reply != Reply::Restart
            && !repeats
        {
            self.record(subject, operation, verdict, Action::Continue, reply, None);
        }
        performed
    }

    /// Who is to judge the handshake of a connection that begins now.
    pub(super) fn examiner(
        &self,
        fd: i32,
        kind: &crate::operation::SocketKind,
        address: &Address,
    ) -> Result<Examiner, Unfit> {
        let rules = self.pipeline.config.handshake.clone().ok_or_else(|| Unfit("nobody asked for it".into()))?;
        let client = Client {
            who: self.pipeline.who(self.tracee),
            process: Remote::open(self.tracee.pid()).ok(),
            syscall: self.name,
            abi: self.call.abi.name(),
            fd: Some(fd),
            socket: Some(event::Socket::from(kind)),
            address: address.to_string(),
            stack: if self.pipeline.shows_stacks() { self.awaits_stack(true) } else { None },
        };
        let pipeline = Weak::clone(&self.pipeline.own);
        let verdict = move |seen: &Seen, fault: Option<&Fault>| match pipeline.upgrade() {
            Some(pipeline) => pipeline.judged_handshake(&client, seen, fault),
            // The run is over.
            None => Onward::Reset,
        };
        Ok(Examiner { inspector: Inspector::new(rules), verdict: Box::new(verdict) })
    }
}
