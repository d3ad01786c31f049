//! The memory of a traced thread.

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::fmt;
use std::io::IoSliceMut;

const PAGE: u64 = 4096;

/// Where the unwinder reads a stack from.
pub trait Memory {
    /// Fills the buffer from this address; `None` if not all of it can be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()>;

    /// The thread whose memory this is, if it is that of a living one.
    fn thread(&self) -> Option<Pid> {
        None
    }

    /// Reads a little-endian word of 1 to 8 bytes.
    fn word(&self, address: u64, size: u8) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, bytes.get_mut(..usize::from(size))?)?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// Copies what can be copied from another process, up to the first page that can't be read.
fn copy(tid: Pid, address: u64, buffer: &mut [u8]) -> usize {
    let wanted = buffer.len();
    let mut done = 0_usize;
    while done < wanted {
        // An element that can't be read whole may be refused whole: so one element a page.
        let mut pages = Vec::with_capacity(16);
        let mut span = 0_usize;
        while pages.len() < 1024 {
            let left = wanted.saturating_sub(done).saturating_sub(span);
            let Some(from) = address.checked_add(done.saturating_add(span) as u64) else { break };
            let len = left.min(PAGE.saturating_sub(from % PAGE) as usize);
            if len == 0 {
                break;
            }
            pages.push(RemoteIoVec { base: from as usize, len });
            span = span.saturating_add(len);
        }
        let Some(target) = buffer.get_mut(done..).and_then(|rest| rest.get_mut(..span)) else { break };
        match process_vm_readv(tid, &mut [IoSliceMut::new(target)], &pages) {
            Ok(read) if read > 0 => {
                done = done.saturating_add(read);
                if read < span {
                    break;
                }
            }
            _ => break,
        }
    }
    done
}

/// The memory of a process as it is, in pages that are read once each.
///
/// The thread must stay stopped as long as this is used.
pub struct LiveMemory {
    tid: Pid,
    chunks: RefCell<Chunks>,
}

/// Pages that were read, `None` for those that can't be.
#[derive(Default)]
struct Chunks {
    pages: Vec<(u64, Option<Box<[u8]>>)>,
    next: usize,
}

/// How many pages are kept, and how many are read at once.
const KEPT: usize = 64;
const AHEAD: usize = 4;

impl LiveMemory {
    /// The memory that this thread sees.
    #[must_use]
    pub fn new(tid: Pid) -> Self {
        Self { tid, chunks: RefCell::default() }
    }

    fn with_page<T>(&self, page: u64, use_it: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let mut chunks = self.chunks.borrow_mut();
        if let Some((_, bytes)) = chunks.pages.iter().find(|(at, _)| *at == page) {
            return use_it(bytes.as_deref()?);
        }
        let mut buffer = vec![0; AHEAD.saturating_mul(PAGE as usize)];
        let read = copy(self.tid, page, &mut buffer);
        for index in 0..AHEAD {
            let from = index.saturating_mul(PAGE as usize);
            let bytes = buffer.get(..read).and_then(|all| all.get(from..from.saturating_add(PAGE as usize)));
            if index > 0 && bytes.is_none() {
                break;
            }
            let at = page.saturating_add(from as u64);
            if index > 0 && chunks.pages.iter().any(|(known, _)| *known == at) {
                continue;
            }
            let entry = (at, bytes.map(Into::into));
            if chunks.pages.len() < KEPT {
                chunks.pages.push(entry);
            } else {
                let next = chunks.next % KEPT;
                if let Some(slot) = chunks.pages.get_mut(next) {
                    *slot = entry;
                }
                chunks.next = next.wrapping_add(1);
            }
        }
        use_it(buffer.get(..read)?.get(..PAGE as usize)?)
    }
}

impl fmt::Debug for LiveMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveMemory").field("tid", &self.tid).finish_non_exhaustive()
    }
}

impl Memory for LiveMemory {
    fn thread(&self) -> Option<Pid> {
        Some(self.tid)
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        let mut at = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let page = at.checked_sub(at % PAGE)?;
            let within = (at % PAGE) as usize;
            let length = rest.len().min((PAGE as usize).saturating_sub(within));
            let (now, later) = rest.split_at_mut(length);
            self.with_page(page, |bytes| {
                now.copy_from_slice(bytes.get(within..)?.get(..length)?);
                Some(())
            })?;
            at = at.checked_add(length as u64)?;
            rest = later;
        }
        Some(())
    }
}

/// A copy of a thread's stack, from the red zone below its stack pointer upwards, with which the thread can
/// run on before it is unwound.
#[derive(Debug, Clone)]
pub struct StackCopy {
    base: u64,
    bytes: Vec<u8>,
}

impl StackCopy {
    /// Copies at most `limit` bytes around the stack pointer of a stopped thread.
    #[must_use]
    pub fn take(tid: Pid, sp: u64, limit: usize) -> Self {
        const RED_ZONE: u64 = 128;
        let base = sp.saturating_sub(RED_ZONE);
        let mut bytes = vec![0; limit];
        let mut read = copy(tid, base, &mut bytes);
        let mut from = base;
        if read == 0 {
            from = sp;
            read = copy(tid, sp, &mut bytes);
        }
        bytes.truncate(read);
        Self { base: from, bytes }
    }

    /// A copy that was made by other means.
    #[must_use]
    pub fn of(base: u64, bytes: Vec<u8>) -> Self {
        Self { base, bytes }
    }
}

impl Memory for StackCopy {
    #[inline]
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        let from = usize::try_from(address.checked_sub(self.base)?).ok()?;
        buffer.copy_from_slice(self.bytes.get(from..)?.get(..buffer.len())?);
        Some(())
    }

    #[inline]
    fn word(&self, address: u64, size: u8) -> Option<u64> {
        let from = usize::try_from(address.checked_sub(self.base)?).ok()?;
        let bytes = self.bytes.get(from..)?;
        if size == 8 {
            return bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word));
        }
        let mut word = [0; 8];
        let length = usize::from(size);
        word.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
        Some(u64::from_le_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_read_across_pages() {
        let data: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let memory = LiveMemory::new(nix::unistd::getpid());
        let mut buffer = vec![0; 19_000];
        let address = data.as_ptr() as u64 + 500;
        memory.read(address, &mut buffer).unwrap();
        assert_eq!(buffer, data[500..19_500]);
        assert_eq!(memory.word(address, 4), Some(u64::from(u32::from_le_bytes([244, 245, 246, 247]))));
        assert_eq!(memory.read(8, &mut buffer), None);
        assert_eq!(memory.word(u64::MAX - 2, 8), None);
    }

    #[test]
    fn a_copy_is_bounded_by_its_ends() {
        let copy = StackCopy::of(1000, (0..16).collect());
        assert_eq!(copy.word(1000, 8), Some(0x0706_0504_0302_0100));
        assert_eq!(copy.word(1012, 4), Some(0x0f0e_0d0c));
        assert_eq!(copy.word(1009, 8), None);
        assert_eq!(copy.word(999, 1), None);
        let local = [7_u64; 4];
        let copy = StackCopy::take(nix::unistd::getpid(), local.as_ptr() as u64, 256);
        assert_eq!(copy.word(local.as_ptr() as u64 + 8, 8), Some(7));
    }
}
