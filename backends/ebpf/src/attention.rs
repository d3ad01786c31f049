//! Waiting for records, without having the kernel wake us for each of them.

use crate::maps;
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sockstrace_backend::BackendError;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How long records may lie in a ring, where nobody waits for what they tell.
pub const GATHER: Duration = Duration::from_millis(5);

/// How often lost records are looked for.
pub const CHECK: Duration = Duration::from_millis(250);

/// So often nothing may be found until the kernel is asked to wake us.
const PATIENCE: u32 = 8;

/// What a wait has ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The rings are to be looked into.
    ToLook,
    /// Nothing came for a while.
    InVain,
    /// It is over.
    ToEnd,
}

/// What was found in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// No record.
    Nothing,
    /// All that was there when the look began.
    All,
    /// As much as is taken at once.
    Part,
}

/// How closely rings are watched: after a record that we were woken for we look by ourselves every few milliseconds, until
/// some time nothing was found.
pub struct Attention {
    /// `attended` of bpf/rings.h, of each object whose rings these are.
    told: Vec<Array<MapData, u32>>,
    gather: Duration,
    /// Records with stacks come, for which the kernel wakes us in any case.
    heeds_stacks: bool,
    /// How often nothing was found; `None`: the kernel wakes us.
    in_vain: Option<u32>,
    /// There is more than was taken.
    has_more: bool,
}

impl Attention {
    /// Of rings whose records may lie for so long; with no time at all the kernel wakes us for each.
    pub fn new(gather: Duration) -> Self {
        Self { told: Vec::new(), gather, heeds_stacks: false, in_vain: None, has_more: false }
    }

    /// The same where records have stacks, which are read at once: the mappings that they lie in go with their process.
    pub fn to_stacks(gather: Duration) -> Self {
        Self { heeds_stacks: true, ..Self::new(gather) }
    }

    /// Attends to this object's ring; once.
    pub fn attend_to(&mut self, bpf: &mut Ebpf) -> Result<(), BackendError> {
        self.told.push(maps::take(bpf, "attended")?);
        Ok(())
    }

    /// Waits for `rings`, or until `end` is ready; where nothing comes, for `at_most`.
    pub fn wait(
        &mut self,
        rings: &[BorrowedFd<'_>],
        end: BorrowedFd<'_>,
        at_most: PollTimeout,
    ) -> Result<Woken, Errno> {
        if self.in_vain.is_none() {
            let woken = wait(rings, end, at_most)?;
            if woken != Woken::ToLook || self.gather.is_zero() {
                return Ok(woken);
            }
            self.set(Some(0));
        }
        let pause = if self.has_more { Duration::ZERO } else { self.gather };
        let rings = if self.heeds_stacks { rings } else { &[] };
        let woken = wait(rings, end, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO))?;
        Ok(if woken == Woken::ToEnd { woken } else { Woken::ToLook })
    }

    /// Tells what has come of looking.
    pub fn found(&mut self, found: Found) {
        self.has_more = found == Found::Part;
        let Some(in_vain) = self.in_vain else { return };
        let in_vain = if found == Found::Nothing { in_vain.saturating_add(1) } else { 0 };
        self.set((in_vain < PATIENCE).then_some(in_vain));
    }

    fn set(&mut self, in_vain: Option<u32>) {
        if self.in_vain.is_some() != in_vain.is_some() {
            for map in &mut self.told {
                // We are woken needlessly, or (what a poll finds) too late.
                let _: Result<(), MapError> = map.set(0, u32::from(in_vain.is_some()), 0);
            }
        }
        self.in_vain = in_vain;
    }
}

fn wait(rings: &[BorrowedFd<'_>], end: BorrowedFd<'_>, at_most: PollTimeout) -> Result<Woken, Errno> {
    let mut fds: Vec<_> =
        [&end].into_iter().chain(rings).map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)).collect();
    match poll(&mut fds, at_most) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(match fds.split_first() {
        Some((end, _)) if is_ready(end) => Woken::ToEnd,
        Some((_, rings)) if rings.iter().any(is_ready) => Woken::ToLook,
        _ => Woken::InVain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{pipe, write};
    use std::os::fd::AsFd;
    use std::time::Instant;

    const NOW: PollTimeout = PollTimeout::ZERO;

    #[test]
    fn the_kernel_is_asked_again_when_nothing_was_found_for_a_while() {
        let ((ring, producer), (end, _holder)) = (pipe().unwrap(), pipe().unwrap());
        let mut attention = Attention::new(Duration::from_millis(1));
        let wait = |attention: &mut Attention| attention.wait(&[ring.as_fd()], end.as_fd(), NOW).unwrap();
        assert_eq!(wait(&mut attention), Woken::InVain);
        write(&producer, b"x").unwrap();
        assert_eq!(wait(&mut attention), Woken::ToLook);
        attention.found(Found::All);
        // By ourselves from now on.
        nix::unistd::read(&ring, &mut [0]).unwrap();
        for _ in 0..PATIENCE {
            assert_eq!(wait(&mut attention), Woken::ToLook);
            attention.found(Found::Nothing);
        }
        assert_eq!(wait(&mut attention), Woken::InVain);
    }

    #[test]
    fn who_may_not_wait_is_woken_for_each_record() {
        let ((ring, producer), (end, _holder)) = (pipe().unwrap(), pipe().unwrap());
        let mut attention = Attention::new(Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(attention.wait(&[ring.as_fd()], end.as_fd(), NOW), Ok(Woken::InVain));
            write(&producer, b"x").unwrap();
            assert_eq!(attention.wait(&[ring.as_fd()], end.as_fd(), NOW), Ok(Woken::ToLook));
            nix::unistd::read(&ring, &mut [0]).unwrap();
            attention.found(Found::All);
        }
    }

    #[test]
    fn the_end_is_seen_in_the_midst_of_a_flood_which_is_read_without_pauses() {
        let ((ring, producer), (end, holder)) = (pipe().unwrap(), pipe().unwrap());
        let mut attention = Attention::new(Duration::from_secs(20));
        write(&producer, b"x").unwrap();
        attention.found(Found::Part);
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(attention.wait(&[ring.as_fd()], end.as_fd(), NOW), Ok(Woken::ToLook));
            attention.found(Found::Part);
        }
        drop(holder);
        assert_eq!(attention.wait(&[ring.as_fd()], end.as_fd(), NOW), Ok(Woken::ToEnd));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
