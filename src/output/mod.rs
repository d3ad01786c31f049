//! Events on their way out: one [`Output`] a format, and the [`Recorder`] that writes what it gives.

mod escape;
mod human;
mod jsonl;
mod sink;
mod sockwho;

pub use human::Human;
pub use jsonl::Jsonl;
pub use sink::Sink;
pub use sockwho::Sockwho;

use crate::config::Format;
use crate::event::{Body, Event};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A format of events.
pub trait Output: Send {
    /// Appends the event's lines, each with its newline, to `lines`; nothing where the format has no
    /// words for it.
    ///
    /// # Errors
    /// Where the event can't be written in this format; it then counts as lost.
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()>;
}

/// Writes events as they happen. Shared by all threads of a backend.
pub struct Recorder(Mutex<Inner>);

struct Inner {
    output: Box<dyn Output>,
    sink: Sink,
    lines: Vec<u8>,
}

impl Recorder {
    /// Opens `file` (created or emptied), or standard error.
    ///
    /// # Errors
    /// Where that fails.
    pub fn open(format: Format, file: Option<&Path>) -> io::Result<Self> {
        let sink = match file {
            Some(path) => Sink::file(path)?,
            None => Sink::standard_error()?,
        };
        let output: Box<dyn Output> = match format {
            Format::Human => Box::new(Human::new(sink.wants_colour())),
            Format::Jsonl => Box::new(Jsonl),
            Format::Sockwho => Box::new(Sockwho),
        };
        Ok(Self::new(output, sink))
    }

    /// Writes `output`'s lines to `sink`.
    #[must_use]
    pub fn new(output: Box<dyn Output>, sink: Sink) -> Self {
        Self(Mutex::new(Inner { output, sink, lines: Vec::new() }))
    }

    /// Writes one event. A failure never stops the caller: the event is counted as lost, and the first
    /// time that is told on standard error. A summary gets what was lost before it added.
    pub fn write(&self, mut event: Event) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        if let Body::Summary(summary) = &mut event.body {
            summary.dropped = summary.dropped.saturating_add(inner.sink.dropped());
        }
        inner.lines.clear();
        match inner.output.write(&event, &mut inner.lines) {
            Ok(()) => inner.sink.write(&inner.lines),
            Err(error) => inner.sink.lose(&error),
        }
    }

    /// How many events were lost so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner().sink.dropped()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere doesn't make the sink less usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Summary, tests::leak};

    struct Spy(std::sync::mpsc::Sender<u64>);
    impl Output for Spy {
        fn write(&mut self, event: &Event, _: &mut Vec<u8>) -> io::Result<()> {
            match &event.body {
                Body::Summary(summary) => self.0.send(summary.dropped).map_err(io::Error::other),
                _ => Err(io::Error::other("no words")),
            }
        }
    }

    #[test]
    fn a_full_disk_is_counted_and_reaches_the_summary() {
        let recorder = Recorder::open(Format::Jsonl, Some(Path::new("/dev/full"))).unwrap();
        recorder.write(leak());
        recorder.write(leak());
        assert_eq!(recorder.dropped(), 2);

        let (sender, receiver) = std::sync::mpsc::channel();
        let sink = Sink::file(Path::new("/dev/null")).unwrap();
        let recorder = Recorder::new(Box::new(Spy(sender)), sink);
        recorder.write(leak());
        recorder.write(Event::now(Body::Summary(Summary { dropped: 3, ..Summary::default() })));
        assert_eq!(receiver.recv(), Ok(4));
    }

    #[test]
    fn a_file_is_emptied_and_written_line_by_line() {
        let path = std::env::temp_dir().join(format!("sockstrace-out-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        let recorder = Recorder::open(Format::Jsonl, Some(&path)).unwrap();
        recorder.write(leak());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.starts_with("{\"v\":1,") && text.ends_with("}\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
