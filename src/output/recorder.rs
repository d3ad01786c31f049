//! Writing events in the order in which they were recorded.
//!
//! An event that has no stack, and before which none waits, is written at once. One that has goes to a queue,
//! and behind it all others: a thread of its own waits for the stacks, names them and writes.

use super::{Human, Jsonl, Output, Paths, Sink, Sockwho};
use crate::config::Format;
use crate::event::{Body, Event, Socks, Stack};
use crate::stacks::Awaited;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an event waits for its stack to be taken: longer than any unwinding lasts. Memory that the
/// program holds back may keep it from being taken at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many events may wait; then their program waits.
const QUEUED: usize = 8192;

/// An event, and the stack that it is to get.
#[derive(Debug)]
pub struct Slip {
    /// The event.
    pub event: Event,
    /// Its stack.
    pub stack: Option<Awaited>,
}

impl From<Event> for Slip {
    fn from(event: Event) -> Self {
        Self { event, stack: None }
    }
}

/// Writes events as they happen. Shared by all threads of a backend.
pub struct Recorder(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    moved: Condvar,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Slip, Instant)>,
    /// The thread has one in hand.
    busy: bool,
    /// There is a thread.
    served: bool,
    /// The end has come: stacks that aren't named by now won't be.
    hurries: bool,
}

struct Writer {
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
            Format::Human => Box::new(Human::new(sink.wants_colour(), Paths::of_this_process())),
            Format::Jsonl => Box::new(Jsonl),
            Format::Sockwho => Box::new(Sockwho),
        };
        Ok(Self::new(output, sink))
    }

    /// There is a [`super::live::LiveLine`] where events go: they are written over it.
    pub fn share_line(&self) {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).sink.share_line();
    }

    /// Writes `output`'s lines to `sink`.
    #[must_use]
    pub fn new(output: Box<dyn Output>, sink: Sink) -> Self {
        let writer = Mutex::new(Writer { output, sink, lines: Vec::new() });
        Self(Arc::new(Shared { queue: Mutex::default(), moved: Condvar::new(), writer }))
    }

    /// Writes one event, at once or when what is before it has been written. A failure never stops the
    /// caller: the event is counted as lost, and the first time that is told on standard error. A summary gets
    /// what was lost before it added.
    pub fn write(&self, slip: Slip) {
        let mut queue = self.0.queue();
        if slip.stack.is_none() && queue.is_idle() {
            // With the queue's lock, so that nobody overtakes.
            return self.0.write(slip.event);
        }
        while queue.waiting.len() >= QUEUED {
            queue = self.0.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.served {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("recorder".into());
            queue.served = thread.spawn(move || shared.serve()).is_ok();
        }
        if !queue.served {
            // No thread to be had: what is more important is that it is written.
            return self.0.write(slip.event);
        }
        queue.waiting.push_back((slip, Instant::now()));
        self.0.moved.notify_all();
    }

    /// Waits until all that was recorded is written, but no longer than this.
    pub fn settle(&self, patience: Duration) {
        let queue = self.0.queue();
        let moved = self.0.moved.wait_timeout_while(queue, patience, |queue| !queue.is_idle());
        drop(moved);
    }

    /// Writes the last event, when all before it have been written. Stacks for which there is no time any more
    /// stay away, and that is said.
    pub fn finish(&self, last: Event, patience: Duration) {
        self.settle(patience);
        self.0.queue().hurries = true;
        self.write(last.into());
        self.settle(patience);
    }

    /// How many events were lost so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.writer().sink.dropped()
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.busy
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic elsewhere doesn't make the sink less usable.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut event: Event) {
        let mut writer = self.writer();
        let Writer { output, sink, lines } = &mut *writer;
        if let Body::Summary(summary) = &mut event.body {
            summary.dropped = summary.dropped.saturating_add(sink.dropped());
        }
        lines.clear();
        match output.write(&event, lines) {
            Ok(()) => sink.write(lines),
            Err(error) => sink.lose(&error),
        }
    }

    /// Writes what is queued, for ever.
    fn serve(&self) {
        let mut queue = self.queue();
        loop {
            let Some((Slip { mut event, stack }, since)) = queue.waiting.pop_front() else {
                queue = self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy = true;
            let hurries = queue.hurries;
            drop(queue);
            if let (Some(stack), Body::Syscall(call) | Body::Socks(Socks { call, .. })) = (stack, &mut event.body) {
                call.stack = Some(if hurries {
                    Arc::new(Stack::missing("there was no time to name it before the end"))
                } else {
                    stack.name(since.checked_add(PATIENCE).unwrap_or(since))
                });
            }
            self.write(event);
            queue = self.queue();
            queue.busy = false;
            self.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Summary, tests::leak};
    use crate::stacks::promise;

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
        recorder.write(leak().into());
        recorder.write(leak().into());
        assert_eq!(recorder.dropped(), 2);

        let (sender, receiver) = std::sync::mpsc::channel();
        let sink = Sink::file(Path::new("/dev/null")).unwrap();
        let recorder = Recorder::new(Box::new(Spy(sender)), sink);
        recorder.write(leak().into());
        recorder.write(Event::now(Body::Summary(Summary { dropped: 3, ..Summary::default() })).into());
        assert_eq!(receiver.recv(), Ok(4));
    }

    #[test]
    fn a_file_is_emptied_and_written_line_by_line() {
        let path = std::env::temp_dir().join(format!("sockstrace-out-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        let recorder = Recorder::open(Format::Jsonl, Some(&path)).unwrap();
        recorder.write(leak().into());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.starts_with("{\"v\":1,") && text.ends_with("}\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    struct Order(std::sync::mpsc::Sender<(i32, bool)>);
    impl Output for Order {
        fn write(&mut self, event: &Event, _: &mut Vec<u8>) -> io::Result<()> {
            let Body::Syscall(call) = &event.body else { return Ok(()) };
            self.0.send((call.fd.unwrap(), call.stack.is_some())).map_err(io::Error::other)
        }
    }

    #[test]
    fn events_behind_one_that_waits_for_its_stack_wait_too() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let sink = Sink::file(Path::new("/dev/null")).unwrap();
        let recorder = Recorder::new(Box::new(Order(sender)), sink);
        let numbered = |fd| crate::event::tests::call(|call| call.fd = Some(fd));
        let stacks = std::sync::Arc::default();
        let (first, awaited) = promise(&stacks);
        recorder.write(numbered(0).into());
        recorder.write(Slip { event: numbered(1), stack: Some(awaited.clone()) });
        recorder.write(numbered(2).into());
        recorder.write(Slip { event: numbered(3), stack: Some(awaited) });
        assert_eq!(receiver.recv(), Ok((0, false)));
        recorder.settle(Duration::from_millis(20));
        assert!(receiver.try_recv().is_err());
        drop(first);
        recorder.settle(Duration::from_secs(10));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(1, true), (2, false), (3, true)]);
        recorder.write(numbered(4).into());
        assert_eq!(receiver.try_recv(), Ok((4, false)));
    }
}
