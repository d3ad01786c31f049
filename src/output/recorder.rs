//! Writing events in the order in which they were recorded.
//!
//! - A leak without a stack is written before its call is answered, as is all that isn't a call; unless others are
//!   being written, or wait for their stacks: then it comes behind them.
//! - An allowed call, of which there may be a hundred thousand a second, may tarry for a moment: a thread of its
//!   own words and writes many at once, while the program goes on.
//! - What a backend tells of calls that are over is worded at once, and written with what it tells next.
//! - An event with a stack goes to the same queue, and behind it all others: the thread waits for the stack and
//!   names it.

use super::feed::{self, Budget, Feed};
use super::live::Tally;
use super::{Human, Jsonl, Output, Paths, Sink, Sockwho};
use crate::config::{Format, Trace};
use crate::event::{Body, Event, Judgement, Socks, Stack};
use crate::stacks::Awaited;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long an event waits for its stack to be taken: longer than any unwinding lasts. Memory that the
/// program holds back may keep it from being taken at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many events may wait; then their program waits.
const QUEUED: usize = 8192;

/// How long an event may tarry.
const TARRY: Duration = Duration::from_millis(1);

/// When so many tarry, they are written without waiting for more.
const ENOUGH: usize = 256;

/// So many events are taken from the queue at once.
const BATCH: usize = 64;

/// An event, and the stack that it is to get.
#[derive(Debug)]
pub struct Slip {
    /// The event.
    pub event: Event,
    /// Its stack.
    pub stack: Option<Awaited>,
}

impl Slip {
    /// Whether it need not be written before its call is answered.
    fn may_tarry(&self) -> bool {
        let allowed = matches!(&self.event.body, Body::Syscall(call) if call.verdict == Judgement::Allowed);
        allowed && self.stack.is_none()
    }

    /// The event with its stack, which it may wait for. `hurries`: there is no time for that any more.
    fn complete(self, since: Instant, hurries: bool) -> Event {
        let Self { mut event, stack } = self;
        if let (Some(stack), Body::Syscall(call) | Body::Socks(Socks { call, .. })) = (stack, &mut event.body) {
            call.stack = Some(if hurries {
                Arc::new(Stack::missing("there was no time to name it before the end"))
            } else {
                stack.name(since.checked_add(PATIENCE).unwrap_or(since))
            });
        }
        event
    }
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
    /// Somebody looks on; what is written all the same.
    onlooker: OnceLock<(Trace, Budget)>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Slip, Instant)>,
    /// How many of them wait for their stacks.
    stacks: usize,
    haste: Haste,
    /// The thread has some in hand.
    busy: bool,
    /// There is a thread.
    served: bool,
}

/// How soon what waits is to be written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    /// It may tarry.
    #[default]
    None,
    /// Something among it may not.
    Now,
    /// The end has come: stacks that aren't named by now won't be.
    End,
}

/// No format at all.
struct Silence;

impl Output for Silence {
    fn write(&mut self, _: &Event, _: &mut Vec<u8>) -> io::Result<()> {
        Ok(())
    }
}

struct Writer {
    output: Box<dyn Output>,
    sink: Sink,
    lines: Vec<u8>,
    /// Where each event's lines end.
    ends: Vec<usize>,
    /// Who looks on, and what is written all the same.
    feed: Option<(Feed, Trace)>,
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

    /// There is a live line ([`super::live`]) where events go: they are written over it.
    pub fn share_line(&self) {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).sink.share_line();
    }

    /// Writes `output`'s lines to `sink`.
    #[must_use]
    pub fn new(output: Box<dyn Output>, sink: Sink) -> Self {
        let writer = Mutex::new(Writer { output, sink, lines: Vec::new(), ends: Vec::new(), feed: None });
        let onlooker = OnceLock::new();
        Self(Arc::new(Shared { queue: Mutex::default(), moved: Condvar::new(), writer, onlooker }))
    }

    /// Writes nothing: there is only an onlooker.
    ///
    /// # Errors
    /// Where /dev/null is missing.
    pub fn silent() -> io::Result<Self> {
        Ok(Self::new(Box::new(Silence), Sink::file(Path::new("/dev/null"))?))
    }

    /// From now on everything is shown to an onlooker, and of that written what `trace` says. To be called before
    /// the first event.
    pub fn show(&self, feed: Feed, trace: Trace) {
        self.0.writer().feed = Some((feed, trace));
        // It is set once.
        let _: Result<(), _> = self.0.onlooker.set((trace, Budget::default()));
    }

    /// Whether there is an onlooker.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.0.onlooker.get().is_some()
    }

    /// Whether anybody wants an allowed call that happens now; where not, it is counted.
    #[must_use]
    pub fn wants_allowed(&self) -> bool {
        self.0.onlooker.get().is_none_or(|(trace, budget)| *trace == Trace::All || budget.take())
    }

    /// Tells the onlooker how far it is.
    pub fn tell(&self, tally: Tally) {
        if let (Some((_, budget)), Some((feed, _))) = (self.0.onlooker.get(), &mut self.0.writer().feed) {
            feed.tell(tally, budget);
        }
    }

    /// Writes one event: at once, soon, or when what is before it has been written. A failure never stops the
    /// caller: the event is counted as lost, and the first time that is told on standard error. A summary gets
    /// what was lost before it added.
    pub fn write(&self, slip: Slip) {
        let mut queue = self.0.queue();
        let tarries = slip.may_tarry();
        if !tarries && slip.stack.is_none() && queue.stacks == 0 && !queue.busy {
            // With the queue's lock, so that nobody overtakes.
            queue.calm_down();
            let before = queue.waiting.drain(..).map(|(slip, _)| slip.event);
            return self.0.write(before.chain([slip.event]));
        }
        self.enqueue(queue, slip, tarries);
    }

    /// As [`Recorder::write`], for one of many: it is written with those that follow, and before
    /// [`Recorder::flush`] returns unless it waits for a stack, or behind one.
    pub fn add(&self, slip: Slip) {
        let queue = self.0.queue();
        if slip.stack.is_none() && queue.is_idle() {
            // With the queue's lock, as above.
            return self.0.writer().add(slip.event);
        }
        self.enqueue(queue, slip, true);
    }

    /// Writes what was added.
    pub fn flush(&self) {
        self.0.writer().flush();
    }

    fn enqueue(&self, mut queue: MutexGuard<'_, Queue>, slip: Slip, tarries: bool) {
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
            return self.0.write([slip.event]);
        }
        queue.stacks = queue.stacks.saturating_add(usize::from(slip.stack.is_some()));
        if !tarries {
            queue.hasten(Haste::Now);
        }
        queue.waiting.push_back((slip, Instant::now()));
        // Between these it sleeps for a moment, or is at work.
        if !tarries || queue.waiting.len() == 1 || queue.waiting.len() == ENOUGH {
            self.0.moved.notify_all();
        }
    }

    /// Waits until all that was recorded is written, but no longer than this.
    pub fn settle(&self, patience: Duration) {
        let mut queue = self.0.queue();
        queue.hasten(Haste::Now);
        self.0.moved.notify_all();
        let moved = self.0.moved.wait_timeout_while(queue, patience, |queue| !queue.is_idle());
        drop(moved);
    }

    /// Writes the last event, when all before it have been written. Stacks for which there is no time any more
    /// stay away, and that is said.
    pub fn finish(&self, last: Event, patience: Duration) {
        self.settle(patience);
        self.0.queue().hasten(Haste::End);
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
    fn hasten(&mut self, haste: Haste) {
        self.haste = self.haste.max(haste);
    }

    /// Nothing waits any more.
    fn calm_down(&mut self) {
        if self.haste == Haste::Now {
            self.haste = Haste::None;
        }
    }

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

    /// Writes events, many at once.
    fn write(&self, events: impl IntoIterator<Item = Event>) {
        let mut writer = self.writer();
        for event in events {
            writer.add(event);
        }
        writer.flush();
    }

    /// Writes what is queued, for ever.
    fn serve(&self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut queue = self.queue();
        loop {
            queue = self
                .moved
                .wait_while(queue, |queue| queue.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let tarries = |queue: &mut Queue| queue.haste == Haste::None && queue.waiting.len() < ENOUGH;
            let waited = self.moved.wait_timeout_while(queue, TARRY, tarries);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            // Unless somebody else has written them meanwhile.
            while batch.len() < BATCH && queue.waiting.front().is_some_and(|(slip, _)| slip.stack.is_none()) {
                batch.extend(queue.waiting.pop_front().map(|(slip, _)| slip.event));
            }
            let awaiting = if batch.is_empty() { queue.waiting.pop_front() } else { None };
            queue.stacks = queue.stacks.saturating_sub(usize::from(awaiting.is_some()));
            queue.busy = true;
            let hurries = queue.haste == Haste::End;
            drop(queue);
            batch.extend(awaiting.map(|(slip, since)| slip.complete(since, hurries)));
            self.write(batch.drain(..));
            queue = self.queue();
            queue.busy = false;
            if queue.waiting.is_empty() {
                queue.calm_down();
            }
            self.moved.notify_all();
        }
    }
}

impl Writer {
    /// Words an event; what was worded before it may be written.
    fn add(&mut self, mut event: Event) {
        if let Body::Summary(summary) = &mut event.body {
            self.flush();
            summary.dropped = summary.dropped.saturating_add(self.sink.dropped());
        }
        if let Some((feed, trace)) = &mut self.feed {
            feed.show(&event);
            if *trace == Trace::Leaks && !feed::is_of_leaks(&event) {
                return;
            }
        }
        let before = self.lines.len();
        match self.output.write(&event, &mut self.lines) {
            Ok(()) => {
                if before > 0 && self.lines.len() > self.sink.at_once() {
                    self.sink.write(self.lines.get(..before).unwrap_or_default(), &self.ends);
                    self.lines.drain(..before);
                    self.ends.clear();
                }
                self.ends.push(self.lines.len());
            }
            Err(error) => {
                self.lines.truncate(before);
                self.sink.lose(&error, 1);
            }
        }
    }

    /// Writes what is worded.
    fn flush(&mut self) {
        self.sink.write(&self.lines, &self.ends);
        self.lines.clear();
        self.ends.clear();
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

    #[test]
    fn what_is_added_is_written_with_what_follows_and_in_its_place() {
        let path = std::env::temp_dir().join(format!("sockstrace-added-{}", std::process::id()));
        let recorder = Recorder::open(Format::Jsonl, Some(&path)).unwrap();
        let numbered = |fd| crate::event::tests::call(|call| call.fd = Some(fd));
        let written = || {
            let text = std::fs::read_to_string(&path).unwrap();
            let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["fd"].as_i64();
            text.lines().map(|line| number(line).unwrap()).collect::<Vec<_>>()
        };
        recorder.add(numbered(0).into());
        assert!(written().is_empty());
        recorder.flush();
        assert_eq!(written(), [0]);
        recorder.add(numbered(1).into());
        recorder.write(leak_numbered(2).into());
        assert_eq!(written(), [0, 1, 2]);
        let (first, awaited) = promise(&std::sync::Arc::default());
        recorder.add(Slip { event: numbered(3), stack: Some(awaited) });
        recorder.add(numbered(4).into());
        recorder.flush();
        recorder.settle(Duration::from_millis(20));
        assert_eq!(written(), [0, 1, 2]);
        drop(first);
        recorder.settle(Duration::from_secs(10));
        assert_eq!(written(), [0, 1, 2, 3, 4]);
        std::fs::remove_file(&path).unwrap();
    }

    fn leak_numbered(number: i32) -> Event {
        let mut event = leak();
        if let Body::Syscall(call) = &mut event.body {
            call.fd = Some(number);
        }
        event
    }
}
