//! Captured payloads: what a `--capture` directory holds, and reading it.
//!
//! `DIR/events.jsonl` has one JSON object a line ([`Entry`]); `DIR/<conn_id>.in.bin` and
//! `DIR/<conn_id>.out.bin` have the bytes of each connection and direction, in order.

mod reader;
pub mod show;

pub use reader::{Capture, Entry, Payload, entries};

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
