//! Watching: everything attached, the ring emptied until somebody ends it.

use crate::attention::{Attention, CHECK, Found, GATHER, Woken};
use crate::capture::Capture;
use crate::programs::{Aim, Programs, WITHOUT_HOOK};
use crate::reader::Reader;
use crate::{cgroup, probe, rings};
use nix::poll::PollTimeout;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use sockstrace_backend::observed::{Observer, Scope};
use sockstrace_backend::proc::{self, Namespace, Status};
use sockstrace_backend::{BackendError, signals};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// Watches until a signal of [`signals::ending`] comes.
pub fn watch(scope: &Scope, observer: &dyn Observer) -> Result<(), BackendError> {
    probe::require()?;
    let root = cgroup::root().ok_or_else(|| BackendError::Unavailable(cgroup::MISSING.into()))?;
    // First, so that none of them ends us between attaching and the summary.
    let ending = signals::ending();
    ending.thread_block().map_err(BackendError::doing("blocking signals"))?;
    let signalled = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(BackendError::doing("making a signalfd"))?;
    if scope.attaches {
        probe::require_own_pids()?;
        require_alive(&scope.filters.trees)?;
    }
    if !proc::shows_initial_ids() && !scope.filters.trees.is_empty() {
        let why = "the ebpf backend knows processes by their ids in the initial pid namespace, and this is another \
                   one (a container?): use another --filter";
        return Err(BackendError::Unavailable(why.into()));
    }
    let mut programs = Programs::load(Aim { scope, hooks: None })?;
    let mut reader = Reader::of(&mut programs)?;
    let mut attention = Attention::new(GATHER);
    programs.have_attended(&mut attention)?;
    programs.attach(&root.directory, Aim { scope, hooks: None })?;
    programs.catch_up(scope)?;
    if !proc::shows_initial_ids() {
        let loss = "executables and parents are not told";
        programs
            .limits
            .push(format!("process ids are those of the initial pid namespace, and this is another one: {loss}"));
    }
    if !Namespace::Cgroup.is_initial() {
        programs.limits.push(format!("outside of this cgroup namespace {WITHOUT_HOOK}"));
    }
    // With a cgroup filter it can't be told whose sockets are wanted: they are learnt by their use.
    let mut existing = Vec::new();
    if scope.filters.cgroups.is_empty() {
        match programs.existing() {
            Ok(records) => existing = records,
            Err(why) => {
                let loss = "sockets that exist already are not known, nor whose they are";
                programs.limits.push(format!("the iterator over open files: {why}: {loss}"));
            }
        }
    }
    if scope.attaches {
        programs.limits.extend(rings::of_trees(&scope.filters.trees));
    }
    let mut capture =
        observer.captures().map(|wanted| Capture::load(&wanted, &scope.filters, false)).transpose()?;
    if let Some(capture) = &mut capture {
        capture.have_attended(&mut attention)?;
        capture.attach()?;
        capture.catch_up(&scope.filters)?;
        let told = if scope.filters.cgroups.is_empty() {
            capture.tell_existing()
        } else {
            Err("with a cgroup filter it can't be told whose they are".into())
        };
        if let Err(why) = told {
            let loss = "sockets that exist already are captured when they are used";
            programs.limits.push(format!("the iterator over open files: {why}: {loss}"));
        }
    }
    observer.begun(&programs.limits);
    if scope.attaches {
        reader.translate_all(&existing, &mut |observation| observer.observe(observation));
    }
    let mut is_over = || if scope.attaches { programs.is_tree_empty() } else { Ok(false) };
    let result = read_until(&mut reader, capture.as_mut(), attention, &signalled, observer, &mut is_over);
    // Detached before the last look, so that it is the last.
    drop(programs);
    while reader.drain(&mut |observation| observer.observe(observation)) == Found::Part {}
    reader.tell_counts(&mut |observation| observer.observe(observation));
    if let Some(mut capture) = capture {
        capture.finish(&mut |captured| observer.captured(captured));
    }
    result
}

fn require_alive(pids: &[Pid]) -> Result<(), BackendError> {
    for pid in pids {
        let why = match Status::of(*pid) {
            Err(_) => format!("there is no process {pid}"),
            Ok(status) if proc::is_zombie(*pid) => {
                format!("process {pid} has ended; its parent {} hasn't waited for it yet", status.parent)
            }
            Ok(_) => continue,
        };
        return Err(BackendError::Unavailable(why));
    }
    Ok(())
}

fn read_until(
    reader: &mut Reader,
    mut capture: Option<&mut Capture>,
    mut attention: Attention,
    signals: &SignalFd,
    observer: &dyn Observer,
    is_over: &mut dyn FnMut() -> Result<bool, BackendError>,
) -> Result<(), BackendError> {
    let mut checked = Instant::now();
    // SAFETY: the ring, and with it the descriptor, lives as long as the reader.
    let ring = unsafe { BorrowedFd::borrow_raw(reader.descriptor()) };
    // SAFETY: as above.
    let payloads = capture.as_ref().map(|it| unsafe { BorrowedFd::borrow_raw(it.descriptor()) });
    let rings: Vec<_> = [ring].into_iter().chain(payloads).collect();
    // Where nothing is lost nothing must be looked for: no wake-ups of an idle machine.
    let mut at_most = PollTimeout::NONE;
    // Nobody tells of who ended before the programs were attached.
    if is_over()? {
        return Ok(());
    }
    loop {
        let woken = attention.wait(&rings, signals.as_fd(), at_most);
        let woken = woken.map_err(|errno| BackendError::Failed("waiting for records".into(), errno))?;
        match woken {
            Woken::ToEnd => return Ok(()),
            Woken::InVain => at_most = PollTimeout::NONE,
            Woken::ToLook => {
                let mut found = reader.drain(&mut |observation| observer.observe(observation));
                if let Some(capture) = &mut capture {
                    found = found.max(capture.drain(&mut |captured| observer.captured(captured)));
                }
                attention.found(found);
                at_most = PollTimeout::from(CHECK.as_millis() as u16);
            }
        }
        // The last one's end was a record too.
        if is_over()? {
            return Ok(());
        }
        if woken == Woken::InVain || checked.elapsed() >= CHECK {
            reader.tell_counts(&mut |observation| observer.observe(observation));
            if let Some(capture) = &mut capture {
                capture.tell_lost(&mut |captured| observer.captured(captured));
            }
            checked = Instant::now();
        }
    }
}
