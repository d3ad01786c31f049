//! Compressed sections, inflated only as far as someone wants to read.

use flate2::{Decompress, FlushDecompress, Status};
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// How much more than wanted is inflated at once.
const STEP: usize = 64 << 10;

/// The contents of a zlib stream of known size.
pub struct Inflated {
    /// As many bytes as the whole has; those that were never written to cost nothing.
    bytes: NonNull<u8>,
    size: usize,
    /// So many bytes from the start are final.
    done: AtomicUsize,
    state: Mutex<State>,
    /// The memory changes behind shared references, in the part that nobody sees yet.
    _memory: std::marker::PhantomData<UnsafeCell<u8>>,
}

struct State {
    decoder: Decompress,
    /// The stream is broken, or is at its end.
    ended: bool,
}

// SAFETY: the memory is owned; what lies before `done` is never written to again, what lies behind is reached
// only by whoever holds the lock.
unsafe impl Send for Inflated {}
// SAFETY: as above.
unsafe impl Sync for Inflated {}

impl Inflated {
    /// Room for a stream that claims to give so many bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let memory = Box::leak(vec![0_u8; size].into_boxed_slice());
        Self {
            bytes: NonNull::from(memory).cast(),
            size,
            done: AtomicUsize::new(0),
            state: Mutex::new(State { decoder: Decompress::new(true), ended: false }),
            _memory: std::marker::PhantomData,
        }
    }

    /// The size of the whole.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes from the start to at least `wanted`, unless the stream (always the same `input`) ends before.
    pub fn up_to(&self, input: &[u8], wanted: usize) -> &[u8] {
        let wanted = wanted.min(self.size);
        if self.done.load(Ordering::Acquire) < wanted {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.extend(&mut state, input, wanted);
        }
        let done = self.done.load(Ordering::Acquire).min(self.size);
        // SAFETY: the allocation has `size` bytes, and those before `done` don't change any more.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), done) }
    }

    fn extend(&self, state: &mut State, input: &[u8], wanted: usize) {
        let goal = wanted.saturating_add(STEP).min(self.size);
        loop {
            let done = self.done.load(Ordering::Acquire);
            if state.ended || done >= goal {
                return;
            }
            let from = usize::try_from(state.decoder.total_in()).unwrap_or(usize::MAX);
            let rest = input.get(from..).unwrap_or_default();
            // SAFETY: within the allocation; nobody else has a reference into this part, as slices are given
            // out only of what lies before `done`, and we hold the lock.
            let target =
                unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr().add(done), goal.saturating_sub(done)) };
            let before = state.decoder.total_out();
            let status = state.decoder.decompress(rest, target, FlushDecompress::None);
            let added = usize::try_from(state.decoder.total_out().saturating_sub(before)).unwrap_or(0);
            let consumed = usize::try_from(state.decoder.total_in()).unwrap_or(usize::MAX) > from;
            state.ended = match status {
                Ok(Status::Ok | Status::BufError) => added == 0 && !consumed,
                Ok(Status::StreamEnd) | Err(_) => true,
            };
            self.done.store(done.saturating_add(added).min(self.size), Ordering::Release);
        }
    }
}

impl Drop for Inflated {
    fn drop(&mut self) {
        // SAFETY: this is the box that was leaked in `new`, and nobody has a reference into it any more.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.bytes.as_ptr(), self.size)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn no_more_than_is_wanted() {
        let whole: Vec<u8> = (0..1_000_000_u32).map(|n| ((n / 7) ^ n) as u8).collect();
        let input = packed(&whole);
        let inflated = Inflated::new(whole.len());
        assert_eq!(inflated.up_to(&input, 0), b"");
        let first = inflated.up_to(&input, 10);
        assert!((10..=10 + STEP).contains(&first.len()));
        let more = inflated.up_to(&input, 300_000);
        assert!((300_000..=300_000 + STEP).contains(&more.len()));
        assert_eq!(more, &whole[..more.len()]);
        assert_eq!(first, &whole[..first.len()]);
        assert_eq!(inflated.up_to(&input, usize::MAX), whole);
    }

    #[test]
    fn many_readers() {
        let whole: Vec<u8> = (0..2_000_000_u32).map(|n| ((n / 5) ^ n) as u8).collect();
        let input = packed(&whole);
        let inflated = Inflated::new(whole.len());
        std::thread::scope(|scope| {
            for seed in 0..4_usize {
                let (inflated, input, whole) = (&inflated, &input, &whole);
                scope.spawn(move || {
                    for step in 0..40 {
                        let wanted = (step * 50_000 + seed * 999) % whole.len();
                        let bytes = inflated.up_to(input, wanted);
                        assert!(bytes.len() >= wanted && bytes == &whole[..bytes.len()]);
                    }
                });
            }
        });
    }

    #[test]
    fn streams_that_end_too_soon_or_too_late() {
        let whole = vec![1_u8; 100_000];
        let input = packed(&whole);
        assert_eq!(Inflated::new(50_000).up_to(&input, usize::MAX).len(), 50_000);
        assert_eq!(Inflated::new(200_000).up_to(&input, usize::MAX).len(), 100_000);
        assert!(Inflated::new(100_000).up_to(&input[..input.len() / 2], usize::MAX).len() < 100_000);
        assert_eq!(Inflated::new(100).up_to(b"garbage", usize::MAX), b"");
        assert_eq!(Inflated::new(0).up_to(&input, 5), b"");
    }
}
