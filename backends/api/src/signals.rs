//! The signal state that PROGRAM is to inherit, and what the supervisor does with signals of its own.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The highest signal number of Linux.
pub const HIGHEST: i32 = 64;

/// What this process inherited and PROGRAM is to inherit in turn.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    /// Ignored signals; bit 0 is signal 1.
    pub ignored: u64,
    /// Blocked signals.
    pub mask: libc::sigset_t,
    /// Which of descriptors 0, 1, 2 were closed; bit 0 is descriptor 0.
    pub closed_standard_fds: u8,
}

static IGNORED_AT_START: AtomicU64 = AtomicU64::new(0);
static CLOSED_AT_START: AtomicU8 = AtomicU8::new(0);

/// Notes what Rust's runtime is about to change before `main`: it ignores SIGPIPE and opens /dev/null
/// for closed standard descriptors.
extern "C" fn note_state_at_start() {
    let mut ignored = 0_u64;
    for signal in 1..=HIGHEST {
        if is_ignored(signal) {
            ignored |= bit(signal);
        }
    }
    IGNORED_AT_START.store(ignored, Ordering::Relaxed);
    let mut closed = 0_u8;
    for fd in 0..3_u8 {
        // SAFETY: takes integers only.
        if unsafe { libc::fcntl(i32::from(fd), libc::F_GETFD) } == -1 {
            closed |= 1_u8 << fd;
        }
    }
    CLOSED_AT_START.store(closed, Ordering::Relaxed);
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: reads the disposition into memory of the right type; a zeroed sigaction is valid.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[used]
// SAFETY: the C library calls every function of this section once, before main; ours has the type that
// it wants and needs nothing that is not yet set up.
#[unsafe(link_section = ".init_array")]
static NOTE_STATE_AT_START: extern "C" fn() = note_state_at_start;

impl Inherited {
    /// Captures it; to be called first of all in `main`.
    pub fn capture() -> Result<Self, Errno> {
        let mask = SigSet::thread_get_mask()?;
        Ok(Self {
            ignored: IGNORED_AT_START.load(Ordering::Relaxed),
            mask: *mask.as_ref(),
            closed_standard_fds: CLOSED_AT_START.load(Ordering::Relaxed),
        })
    }
}

/// The bit of `signal` in the masks of [`Inherited`] and of /proc/PID/status.
#[must_use]
pub fn bit(signal: i32) -> u64 {
    match u32::try_from(signal.wrapping_sub(1)) {
        Ok(position @ 0..=63) => 1 << position,
        _ => 0,
    }
}

/// The signals that end the watching of what runs already: SIGINT, SIGTERM and SIGHUP, but for those that whoever
/// started us wants ignored (nohup(1), and shells' background jobs).
#[must_use]
pub fn ending() -> SigSet {
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    ending.into_iter().filter(|signal| !is_ignored(*signal as i32)).collect()
}

/// Blocks every signal in the calling thread (and in those it starts) and returns the mask before.
pub fn block_all() -> Result<SigSet, Errno> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(before)
}

/// Installs a handler that does nothing, without SA_RESTART: the signal interrupts a blocking call of the
/// thread that it is sent to.
pub fn make_interrupting(signal: Signal) -> Result<(), Errno> {
    extern "C" fn nothing(_: i32) {}
    let handler = nix::sys::signal::SigHandler::Handler(nothing);
    let action = nix::sys::signal::SigAction::new(handler, nix::sys::signal::SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(signal, &action) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_at_start_is_noted_before_rust_changes_it() {
        // Rust ignores SIGPIPE before main; whoever runs the tests normally does not.
        let inherited = Inherited::capture().unwrap();
        assert_eq!(inherited.ignored & bit(libc::SIGPIPE), 0);
    }

    #[test]
    fn bits_stay_in_range() {
        assert_eq!(bit(1), 1);
        assert_eq!(bit(64), 1 << 63);
        assert_eq!((bit(0), bit(65), bit(i32::MIN)), (0, 0, 0));
    }
}
