//! Events on their way out: one [`Output`] a format, and the [`Recorder`] that writes what it gives, in the
//! order in which it was recorded.

pub(crate) mod escape;
pub mod feed;
mod handshake;
mod human;
mod jsonl;
pub mod live;
mod recorder;
mod sink;
mod sockwho;
mod stack;
pub mod ticker;

pub use human::Human;
pub use jsonl::Jsonl;
pub use recorder::{Recorder, Slip};
pub use sink::Sink;
pub use sockwho::Sockwho;
pub use stack::Paths;

use crate::event::Event;
use std::io;

/// A format of events.
pub trait Output: Send {
    /// Appends the event's lines, each with its newline, to `lines`; nothing where the format has no
    /// words for it.
    ///
    /// # Errors
    /// Where the event can't be written in this format; it then counts as lost.
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()>;
}
