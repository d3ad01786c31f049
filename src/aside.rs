//! What may last for ever, done by threads that are given up then.
//!
//! Files that the traced program serves itself (FUSE), or that lie on a server that is gone, hold up whoever opens or
//! reads them, and nothing but an answer brings a thread back from there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// So many may be at it at once, those that were given up included; with more nothing is tried any more.
const MOST: usize = 16;

static AT_IT: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread as long as it is at it.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let others = AT_IT.fetch_add(1, Ordering::AcqRel);
        Some(Self).filter(|_| others < MOST)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        AT_IT.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Does it on a thread of its own. `None` where it lasts longer than `patience` (it may still come to its end later), or
/// no thread is to be had.
pub fn within<T: Send + 'static>(patience: Duration, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let place = Place::take()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        let done = act();
        drop(place);
        // Nobody may wait for it any more.
        let _ = sender.send(done);
    };
    std::thread::Builder::new().name("aside".into()).spawn(work).ok()?;
    receiver.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_given_up() {
        let minute = Duration::from_secs(60);
        assert_eq!(within(minute, || 5), Some(5));
        let (release, waits) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let act = move || {
            let _ = waits.recv();
            let _ = tell.send("done");
        };
        assert_eq!(within(Duration::from_millis(1), act), None);
        assert_eq!(within(minute, || 6), Some(6));
        // It is not broken off.
        drop(release);
        assert_eq!(told.recv_timeout(minute), Ok("done"));
    }
}
