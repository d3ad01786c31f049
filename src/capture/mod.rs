//! Captured payloads: what a `--capture` directory holds, writing it and reading it.
//!
//! `DIR/events.jsonl` has one JSON object a line ([`Entry`]); `DIR/<conn_id>.in.bin` and
//! `DIR/<conn_id>.out.bin` have the bytes of each connection and direction, in order.
//!
//! # How it is done
//!
//! A backend that holds threads at the entry to and at the exit from a call shows both to the [`Recording`].
//! What is written is copied at the entry, where the kernel copies it too, and cut to what the call then says
//! that it took; what is read is copied at the exit, before the thread can change it. A socket is known by its
//! inode number, so that dup, fork, exec and `SCM_RIGHTS` don't make another connection of it.
//!
//! Limits: who shares memory or a socket with the caller can be faster than we; of calls on one socket by
//! several threads at once the order is that of their ends. Beyond 1 MiB a call (`transfer::EARLY`), what is
//! written is copied at the exit. Bytes that splice(2) moves between a socket and a pipe are seen as long as
//! they are in either. Rings (io_uring, packet and XDP sockets) and Linux AIO pass unseen.
//!
//! A backend with programs in the kernel copies by itself, when a call has ended, and tells the [`Recording`] what it
//! has got; sockets then have the inode numbers that it tells, and are gone when it says so (`observed`).

mod book;
mod folder;
mod notes;
mod observed;
mod pipes;
mod reader;
mod record;
mod recording;
pub mod show;
mod transfer;
pub mod wish;
mod writer;

pub use reader::{Capture, Entry, Growing, Payload, entries, follow};
pub use recording::{Recording, traps};
pub use wish::Wish;

/// The longest name that is taken for a connection id, in bytes: with `.out.bin` it stays below the 255 of file
/// systems.
pub const LONGEST_ID: usize = 200;

/// Whether a connection id can stand in a file's name, and leads nowhere out of the directory.
#[must_use]
pub fn is_safe_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= LONGEST_ID
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@+=,".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_their_directory() {
        for id in ["1", "17-run_user.sock", "a.b", "@abstract"] {
            assert!(is_safe_id(id), "{id}");
        }
        let long = "x".repeat(LONGEST_ID + 1);
        for id in ["", ".", "..", "../x", "a/b", "a\0", "a\nb", ".x", "é", &long] {
            assert!(!is_safe_id(id), "{id}");
        }
    }
}
