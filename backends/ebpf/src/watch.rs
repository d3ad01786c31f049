//! Watching: everything attached, the ring emptied until somebody ends it.

use crate::programs::Programs;
use crate::record::Record;
use crate::translate::{Clock, Translator};
use crate::{cgroup, probe};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sockstrace_backend::BackendError;
use sockstrace_backend::observed::{Observation, Observer, Scope};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// After the first record of a burst the reader waits for more: the kernel wakes it for the first one alone.
const GATHER: Duration = Duration::from_millis(2);

/// How often lost records are looked for.
const CHECK: Duration = Duration::from_millis(250);

/// Watches until SIGINT, SIGTERM or SIGHUP (unless that is ignored) comes.
pub fn watch(scope: &Scope, observer: &dyn Observer) -> Result<(), BackendError> {
    probe::require()?;
    let root = cgroup::root().ok_or_else(|| BackendError::Unavailable(cgroup::MISSING.into()))?;
    // First, so that none of them ends us between attaching and the summary.
    let mut ending = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ending.add(signal);
    }
    ending.thread_block().map_err(BackendError::doing("blocking signals"))?;
    let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(BackendError::doing("making a signalfd"))?;
    let mut programs = Programs::load(scope)?;
    let (ring, lost) = (programs.ring()?, programs.lost()?);
    programs.attach(&root)?;
    programs.catch_up(scope)?;
    // With a cgroup filter it can't be told whose sockets are wanted: they are learnt by their use.
    if scope.filters.cgroups.is_empty()
        && let Err(why) = programs.existing()
    {
        let loss = "whose a TCP connection is that exists already is not known";
        programs.limits.push(format!("the iterator over open files: {why}: {loss}"));
    }
    observer.begun(&programs.limits);
    let mut reader = Reader { ring, lost, told: 0, translator: Translator::default(), observer };
    let result = reader.read_until(&signals);
    // Detached before the last look, so that it is the last.
    drop(programs);
    reader.drain();
    reader.tell_lost();
    result
}

struct Reader<'o> {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    told: u64,
    translator: Translator,
    observer: &'o dyn Observer,
}

impl Reader<'_> {
    fn read_until(&mut self, signals: &SignalFd) -> Result<(), BackendError> {
        let mut checked = Instant::now();
        // SAFETY: the ring, and with it the descriptor, lives as long as this reader.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        // Where nothing is lost nothing must be looked for: no wake-ups of an idle machine.
        let mut busy = false;
        loop {
            let mut fds = [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let timeout = if busy { PollTimeout::from(CHECK.as_millis() as u16) } else { PollTimeout::NONE };
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(BackendError::Failed("waiting for records".into(), errno)),
            }
            let [records, end] = &fds;
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            if is_ready(end) {
                return Ok(());
            }
            busy = is_ready(records);
            if busy {
                std::thread::sleep(GATHER);
                self.drain();
            }
            if !busy || checked.elapsed() >= CHECK {
                self.tell_lost();
                checked = Instant::now();
            }
        }
    }

    /// Takes what is there now, but not for ever: there may come more than can be written.
    fn drain(&mut self) {
        const AT_ONCE: usize = 32_768;
        self.translator.set_clock(Clock::now());
        let Self { ring, translator, observer, .. } = self;
        for _ in 0..AT_ONCE {
            let Some(item) = ring.next() else { return };
            let record = Record::parse(&item);
            drop(item);
            match record {
                Some(record) => translator.translate(record, &mut |observation| observer.observe(observation)),
                None => observer.observe(Observation::Lost(1)),
            }
        }
    }

    fn tell_lost(&mut self) {
        let counts = self.lost.get(&0, 0);
        let sum =
            counts.map_or(self.told, |counts| counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)));
        let new = sum.saturating_sub(self.told);
        if new > 0 {
            self.told = sum;
            self.observer.observe(Observation::Lost(new));
        }
    }
}
