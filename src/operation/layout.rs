//! The structures of the socket calls as they lie in a tracee's memory, for each ABI, in one place.
//!
//! Sources: include/linux/socket.h (`user_msghdr`, `mmsghdr`, `cmsghdr`), include/net/compat.h.

use sockstrace_backend::{Abi, MemoryError, Tracee};

/// Why something could not be copied from a tracee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The kernel itself would have answered EFAULT.
    Fault,
    /// Out of our reach, so that nothing can be said of the call.
    Denied,
    /// The tracee is gone.
    Gone,
    /// Reading could block: come back with time.
    WouldBlock,
}

impl From<MemoryError> for Unreadable {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Fault => Self::Fault,
            MemoryError::Denied => Self::Denied,
            MemoryError::Gone => Self::Gone,
            MemoryError::WouldBlock => Self::WouldBlock,
        }
    }
}

/// Copies exactly `buffer.len()` bytes.
pub fn copy(tracee: &dyn Tracee, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
    if buffer.is_empty() {
        return Ok(());
    }
    match tracee.read(address, buffer) {
        Ok(length) if length == buffer.len() => Ok(()),
        Ok(_) => Err(Unreadable::Fault),
        Err(error) => Err(error.into()),
    }
}

/// A number of `width` (4 or 8) bytes at `offset`; 0 where the buffer ends before.
#[must_use]
pub fn number(bytes: &[u8], offset: usize, width: usize) -> u64 {
    let field = bytes.get(offset..).unwrap_or_default();
    match width {
        4 => field.first_chunk().map_or(0, |word| u64::from(u32::from_ne_bytes(*word))),
        _ => field.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)),
    }
}

/// `struct msghdr`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageHeader {
    /// Pointer to the address, or 0.
    pub name: u64,
    /// Its length, an `int`.
    pub name_length: i32,
    /// Pointer to the I/O vectors.
    pub vectors: u64,
    /// How many.
    pub vector_count: u64,
    /// Pointer to the control messages, or 0.
    pub control: u64,
    /// Their length.
    pub control_length: u64,
}

/// The size of `struct msghdr`.
#[must_use]
pub fn message_header_bytes(abi: Abi) -> usize {
    if abi.pointer_bytes() == 4 { 28 } else { 56 }
}

/// The size of `struct mmsghdr`: a `msghdr`, then `msg_len`, padded.
#[must_use]
pub fn batch_entry_bytes(abi: Abi) -> usize {
    if abi.pointer_bytes() == 4 { 32 } else { 64 }
}

/// Where a `struct msghdr` has the length of the address, of the control messages, and the flags, which
/// recvmsg(2) sets.
#[must_use]
pub fn message_header_results(abi: Abi) -> (u64, u64, u64) {
    let word = abi.pointer_bytes() as u64;
    (word, word.saturating_mul(5), word.saturating_mul(6))
}

/// Copies a `struct msghdr`.
pub fn message_header(tracee: &dyn Tracee, abi: Abi, address: u64) -> Result<MessageHeader, Unreadable> {
    let mut bytes = [0; 56];
    let Some(bytes) = bytes.get_mut(..message_header_bytes(abi)) else { return Err(Unreadable::Fault) };
    copy(tracee, address, bytes)?;
    let word = abi.pointer_bytes();
    // Both layouts are: pointer, int (padded to a word), then four words, then the flags.
    let at = |index: usize| number(bytes, index.saturating_mul(word), word);
    Ok(MessageHeader {
        name: at(0),
        name_length: number(bytes, word, 4) as i32,
        vectors: at(2),
        vector_count: at(3),
        control: at(4),
        control_length: at(5),
    })
}

/// One `struct iovec`: address and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector {
    /// Where.
    pub base: u64,
    /// How many bytes.
    pub length: u64,
}

/// Copies `count` I/O vectors (the caller has bounded `count`).
pub fn vectors(tracee: &dyn Tracee, abi: Abi, address: u64, count: usize) -> Result<Vec<Vector>, Unreadable> {
    let word = abi.pointer_bytes();
    let entry = word.saturating_mul(2);
    let mut bytes = vec![0; entry.saturating_mul(count)];
    copy(tracee, address, &mut bytes)?;
    let vector = |chunk: &[u8]| Vector { base: number(chunk, 0, word), length: number(chunk, word, word) };
    Ok(bytes.chunks_exact(entry).map(vector).collect())
}

/// One control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlMessage<'b> {
    /// `cmsg_level`
    pub level: i32,
    /// `cmsg_type`
    pub kind: i32,
    /// What follows the header.
    pub data: &'b [u8],
}

/// Walks control messages as the kernel does (`for_each_cmsghdr`, `CMSG_OK`). An entry that the kernel
/// refuses with EINVAL ends the walk with an error.
pub fn control_messages(
    bytes: &[u8],
    abi: Abi,
) -> impl Iterator<Item = Result<ControlMessage<'_>, MalformedControl>> {
    let word = abi.pointer_bytes();
    let header = word.saturating_add(8); // cmsg_len, then two ints
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < header {
            return None;
        }
        let length = number(rest, 0, word);
        let length = usize::try_from(length).ok().filter(|length| (header..=rest.len()).contains(length));
        let message = length.and_then(|length| rest.get(header..length));
        let (Some(data), Some(length)) = (message, length) else {
            rest = &[];
            return Some(Err(MalformedControl));
        };
        let (level, kind) = (number(rest, word, 4) as i32, number(rest, word.saturating_add(4), 4) as i32);
        rest = rest.get(length.next_multiple_of(word)..).unwrap_or_default();
        Some(Ok(ControlMessage { level, kind, data }))
    })
}

/// A control message whose length the kernel refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedControl;

/// The control messages (native) as `put_cmsg_compat` (net/compat.c) gives them to a 32-bit receiver who has
/// room for `room` bytes, and whether something was cut.
#[must_use]
pub fn compat_control(native: &[u8], room: usize) -> (Vec<u8>, bool) {
    const HEADER: usize = 12; // struct compat_cmsghdr
    let mut bytes = Vec::new();
    for message in control_messages(native, Abi::X86_64).flatten() {
        let left = room.saturating_sub(bytes.len());
        if left < HEADER {
            return (bytes, true);
        }
        let data = compat_times(&message);
        let length = HEADER.saturating_add(data.len()).min(left);
        bytes.extend((length as u32).to_ne_bytes());
        bytes.extend(message.level.to_ne_bytes());
        bytes.extend(message.kind.to_ne_bytes());
        bytes.extend(data.get(..length.saturating_sub(HEADER)).unwrap_or(&data));
        if length < HEADER.saturating_add(data.len()) {
            return (bytes, true);
        }
        bytes.resize(bytes.len().next_multiple_of(4).min(room), 0);
    }
    (bytes, false)
}

/// Time stamps (`SCM_TIMESTAMP`, `SCM_TIMESTAMPNS`) are two words; all other data have the same layout.
fn compat_times(message: &ControlMessage<'_>) -> Vec<u8> {
    match (message.level, message.kind, message.data) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMP | libc::SCM_TIMESTAMPNS, data) if data.len() == 16 => {
            let words = [number(data, 0, 8) as u32, number(data, 8, 8) as u32];
            words.map(u32::to_ne_bytes).as_flattened().to_vec()
        }
        (_, _, data) => data.to_vec(),
    }
}

/// Builds the native form of control messages.
#[derive(Debug, Default)]
pub struct ControlBuilder {
    bytes: Vec<u8>,
}

impl ControlBuilder {
    /// Appends one message.
    pub fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        self.bytes.resize(self.bytes.len().next_multiple_of(size_of::<usize>()), 0);
        self.bytes.extend(HEADER.saturating_add(data.len()).to_ne_bytes());
        self.bytes.extend(level.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(data);
    }

    /// The finished buffer.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(size_of::<usize>()), 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compat(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((12 + data.len() as u32).to_ne_bytes());
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn compat_control_messages_become_native() {
        let mut bytes = compat(1, 1, &[7, 0, 0, 0, 9]);
        bytes.extend(compat(0, 7, &[]));
        let mut builder = ControlBuilder::default();
        for message in control_messages(&bytes, Abi::I386) {
            let message = message.unwrap();
            builder.push(message.level, message.kind, message.data);
        }
        let native = builder.finish();
        let messages: Vec<_> = control_messages(&native, Abi::X86_64).map(Result::unwrap).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].level, messages[0].kind, messages[0].data), (1, 1, &[7, 0, 0, 0, 9][..]));
        assert_eq!((messages[1].level, messages[1].kind, messages[1].data), (0, 7, &[][..]));
    }

    #[test]
    fn native_control_messages_become_compat() {
        let mut builder = ControlBuilder::default();
        builder.push(0, 8, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        builder.push(1, libc::SCM_TIMESTAMP, &[7_u64.to_ne_bytes(), 9_u64.to_ne_bytes()].concat());
        let native = builder.finish();
        let expected =
            [compat(0, 8, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), compat(1, 29, &[7, 0, 0, 0, 9, 0, 0, 0])];
        assert_eq!(compat_control(&native, 100), (expected.concat(), false));
        for room in 0..44 {
            let (bytes, cut) = compat_control(&native, room);
            assert!(cut && bytes.len() <= room, "{room}");
        }
    }

    #[test]
    fn garbage_ends_the_walk() {
        // Every length of random-looking bytes: no panic, no endless walk, an error at most once.
        let mut state = 1_u32;
        for length in 0..200 {
            for _ in 0..50 {
                let bytes: Vec<u8> = (0..length)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 28) as u8
                    })
                    .collect();
                for abi in [Abi::I386, Abi::X86_64] {
                    let walked: Vec<_> = control_messages(&bytes, abi).take(1000).collect();
                    assert!(walked.len() <= length / 12 + 1);
                    assert!(walked.iter().filter(|entry| entry.is_err()).count() <= 1);
                }
            }
        }
    }
}
