//! Watching: everything attached, the ring emptied until somebody ends it.

use crate::capture::Capture;
use crate::programs::{Aim, Programs};
use crate::reader::{CHECK, GATHER, Reader};
use crate::{cgroup, probe, rings};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use sockstrace_backend::observed::{Observer, Scope};
use sockstrace_backend::proc::Status;
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
    let mut programs = Programs::load(Aim { scope, hooks: None })?;
    let mut reader = Reader::of(&mut programs)?;
    programs.attach(&root, Aim { scope, hooks: None })?;
    programs.catch_up(scope)?;
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
    let result = read_until(&mut reader, capture.as_mut(), &signalled, observer, &mut is_over);
    // Detached before the last look, so that it is the last.
    drop(programs);
    reader.drain(&mut |observation| observer.observe(observation));
    reader.tell_counts(&mut |observation| observer.observe(observation));
    if let Some(mut capture) = capture {
        capture.finish(&mut |captured| observer.captured(captured));
    }
    result
}

fn require_alive(pids: &[Pid]) -> Result<(), BackendError> {
    for pid in pids {
        if Status::of(*pid).is_err() {
            return Err(BackendError::Unavailable(format!("there is no process {pid}")));
        }
    }
    Ok(())
}

fn read_until(
    reader: &mut Reader,
    mut capture: Option<&mut Capture>,
    signals: &SignalFd,
    observer: &dyn Observer,
    is_over: &mut dyn FnMut() -> Result<bool, BackendError>,
) -> Result<(), BackendError> {
    let mut checked = Instant::now();
    // SAFETY: the ring, and with it the descriptor, lives as long as the reader.
    let ring = unsafe { BorrowedFd::borrow_raw(reader.descriptor()) };
    // SAFETY: as above; where there is no capture, the records' ring takes its place.
    let payloads = capture.as_ref().map_or(ring, |it| unsafe { BorrowedFd::borrow_raw(it.descriptor()) });
    // Where nothing is lost nothing must be looked for: no wake-ups of an idle machine.
    let mut busy = false;
    loop {
        let mut fds =
            [ring, signals.as_fd(), payloads].map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        let timeout = if busy { PollTimeout::from(CHECK.as_millis() as u16) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(BackendError::Failed("waiting for records".into(), errno)),
        }
        let [records, end, payloads] = &fds;
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if is_ready(end) {
            return Ok(());
        }
        busy = is_ready(records) || is_ready(payloads);
        if busy {
            std::thread::sleep(GATHER);
            reader.drain(&mut |observation| observer.observe(observation));
            if let Some(capture) = &mut capture {
                capture.drain(&mut |captured| observer.captured(captured));
            }
        }
        // The last one's end was a record too, and so are the ends that came before the first look.
        if is_over()? {
            return Ok(());
        }
        if !busy || checked.elapsed() >= CHECK {
            reader.tell_counts(&mut |observation| observer.observe(observation));
            if let Some(capture) = &mut capture {
                capture.tell_lost(&mut |captured| observer.captured(captured));
            }
            checked = Instant::now();
        }
    }
}
