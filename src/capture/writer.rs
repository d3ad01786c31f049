//! Writing, on a thread of its own and within bounds: neither a full disk nor a flood stalls the program.
//!
//! A call that brings more than the disk takes waits a moment for it, and not again until there is room. What
//! finds no room is cut, and counted: in its record, and in the last one.

use super::folder::Folder;
use super::record::{Direction, Kind, Record, Who};
use nix::errno::Errno;
use sockstrace_backend::signals;
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So many bytes may wait.
const QUEUED_BYTES: usize = 64 << 20;
/// So many records may wait, and twice as many without their bytes.
const QUEUED: usize = 1 << 16;
/// How long a call waits for room, when the disk has shown that it gives some.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often closed sockets are looked for where nobody told of them.
const SWEEP: Duration = Duration::from_millis(100);
/// The part of the time that may be spent on looking for them, inverted.
const SWEEP_SHARE: u32 = 10;
/// How long the last records may take to be written.
const LAST: Duration = Duration::from_secs(60);

/// A record, and the bytes that it is about.
#[derive(Debug)]
pub(super) struct Item {
    pub record: Record,
    pub bytes: Vec<u8>,
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        Self { record, bytes: Vec::new() }
    }
}

/// Finds sockets that are closed; asked now and then, and with `true` for the last time.
pub(super) type Sweep = Box<dyn Fn(bool) -> Vec<Record> + Send>;

/// Takes records, and has them written.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, named at each use")]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Somebody waited for room in vain: nobody does until half of it is free.
    stuck: bool,
    /// A socket may have been closed.
    poked: bool,
    ended: bool,
    done: bool,
    lost: u64,
    losses: Losses,
}

/// What isn't in the files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Losses {
    /// Bytes that calls moved, and records that they are cut in.
    pub bytes: u64,
    pub cut: u64,
    /// Records that aren't there at all.
    pub records: u64,
    /// Why the first of them is missing.
    pub why: Option<String>,
}

impl Losses {
    /// In words, where there is something to say.
    pub fn describe(&self) -> Option<String> {
        let why = self.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        (self.cut > 0 || self.records > 0).then(|| {
            let Self { bytes, cut, records, .. } = self;
            format!("{bytes} bytes of {cut} data records and {records} whole records were not stored{why}")
        })
    }

    fn cut(&mut self, bytes: u64, why: &str) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.cut = self.cut.saturating_add(1);
        self.why.get_or_insert_with(|| why.to_owned());
    }
}

impl Writer {
    /// Starts the thread.
    pub fn start(folder: Folder, total: u64, sweep: Sweep) -> Result<Self, Errno> {
        let shared = Arc::new(Shared { queue: Mutex::default(), moved: Condvar::new() });
        let hand = Hand { shared: Arc::clone(&shared), folder, left: total, sweep, line: Vec::new() };
        // What is to end sockstrace is for whoever watches, and waits for it on another thread.
        let before = signals::block_all()?;
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || hand.work());
        before.thread_set_mask()?;
        let thread = thread.map_err(|error| sockstrace_backend::filter::errno_of(&error))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands a record over.
    pub fn put(&self, mut item: Item) {
        let mut queue = self.shared.queue();
        if !queue.has_room(item.bytes.len()) && !queue.stuck {
            let size = item.bytes.len();
            let wait = self
                .shared
                .moved
                .wait_timeout_while(queue, PATIENCE, |queue| !queue.has_room(size) && !queue.ended);
            queue = wait.unwrap_or_else(PoisonError::into_inner).0;
            queue.stuck = !queue.has_room(size);
        }
        if !queue.has_room(item.bytes.len()) {
            if queue.items.len() >= 2 * QUEUED {
                queue.losses.cut(item.record.size.unwrap_or(0), "the disk is too slow");
                queue.lost = queue.lost.saturating_add(1);
                return;
            }
            item.bytes = Vec::new();
            item.record.note("the disk is too slow");
        }
        queue.bytes = queue.bytes.saturating_add(item.bytes.len());
        queue.items.push_back(item);
        // The thread sleeps only where there is nothing.
        if queue.items.len() == 1 {
            self.shared.moved.notify_all();
        }
    }

    /// Hands over a record of what never came here: so many bytes, in so many records.
    pub fn miss(&self, record: Record, bytes: u64, records: u64) {
        let mut queue = self.shared.queue();
        queue.losses.bytes = queue.losses.bytes.saturating_add(bytes);
        queue.losses.records = queue.losses.records.saturating_add(records);
        queue.losses.why.get_or_insert_with(|| "there was no room between the kernel and sockstrace".to_owned());
        drop(queue);
        self.put(record.into());
    }

    /// A socket may have been closed.
    pub fn poke(&self) {
        self.shared.queue().poked = true;
        self.shared.moved.notify_all();
    }

    /// Writes what is left; what is missing.
    pub fn finish(&self) -> Losses {
        let mut queue = self.shared.queue();
        queue.ended = true;
        self.shared.moved.notify_all();
        let wait = self.shared.moved.wait_timeout_while(queue, LAST, |queue| !queue.done);
        let queue = wait.unwrap_or_else(PoisonError::into_inner).0;
        let (done, mut losses) = (queue.done, queue.losses.clone());
        losses.records = losses.records.saturating_add(queue.lost);
        if !done {
            losses.records = losses.records.saturating_add(queue.items.len() as u64);
            losses.why = Some("the disk doesn't answer".into());
        }
        drop(queue);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && done
        {
            // It has ended, and can't have panicked: that would have ended us.
            let _: std::thread::Result<()> = thread.join();
        }
        losses
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_room(&self, bytes: usize) -> bool {
        // One that is larger than all room finds it when there is nothing else.
        self.items.len() < QUEUED && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= QUEUED_BYTES)
    }
}

/// Who writes.
struct Hand {
    shared: Arc<Shared>,
    folder: Folder,
    /// Bytes that may still be stored.
    left: u64,
    sweep: Sweep,
    line: Vec<u8>,
}

impl Hand {
    fn work(mut self) {
        let mut next_sweep = Instant::now();
        loop {
            let mut queue = self.shared.queue();
            if queue.items.is_empty() && !queue.ended {
                let until = if queue.poked { next_sweep } else { next_sweep.max(Instant::now() + SWEEP) };
                let wait = until.saturating_duration_since(Instant::now());
                queue = self.shared.moved.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
            let ended = queue.ended;
            let items = std::mem::take(&mut queue.items);
            let idle = items.is_empty();
            if !idle {
                drop(queue);
                for item in items {
                    self.write(item);
                }
                continue;
            }
            let sweeps = ended || Instant::now() >= next_sweep;
            if sweeps {
                queue.poked = false;
            }
            drop(queue);
            if sweeps {
                let start = Instant::now();
                let closed = (self.sweep)(ended);
                next_sweep = Instant::now() + start.elapsed() * SWEEP_SHARE;
                // What went through a socket before it was found closed may have come while we looked.
                let before = std::mem::take(&mut self.shared.queue().items);
                for item in before {
                    self.write(item);
                }
                for record in closed {
                    self.write(record.into());
                }
            }
            if ended {
                return self.end();
            }
        }
    }

    fn end(mut self) {
        let mut queue = self.shared.queue();
        let mut losses = queue.losses.clone();
        losses.records = losses.records.saturating_add(queue.lost);
        drop(queue);
        if let Some(text) = losses.describe() {
            let mut record = Record::now(Kind::Error, Who::default());
            record.size = Some(losses.bytes);
            record.raw = Some(text);
            self.write(record.into());
        }
        self.folder.finish();
        queue = self.shared.queue();
        queue.done = true;
        self.shared.moved.notify_all();
    }

    fn write(&mut self, item: Item) {
        let Item { mut record, bytes } = item;
        let size = bytes.len();
        if let (Kind::Data, Some(id), Some(direction)) = (record.kind, record.conn_id.clone(), record.direction) {
            self.store(&mut record, &id, direction, &bytes);
        }
        drop(bytes);
        self.line.clear();
        let line = serde_json::to_writer(&mut self.line, &record).map_err(io::Error::from);
        let line = line.and_then(|()| self.line.write_all(b"\n"));
        let written = line.and_then(|()| self.folder.write_event(&self.line));
        if let (Kind::Close, Some(id)) = (record.kind, &record.conn_id) {
            self.folder.close(id);
        }
        let mut queue = self.shared.queue();
        if let Err(error) = written {
            queue.losses.records = queue.losses.records.saturating_add(1);
            queue.losses.why.get_or_insert_with(|| error.to_string());
        }
        queue.bytes = queue.bytes.saturating_sub(size);
        if queue.bytes <= QUEUED_BYTES / 2 {
            queue.stuck = false;
        }
        self.shared.moved.notify_all();
    }

    fn store(&mut self, record: &mut Record, id: &Arc<str>, direction: Direction, bytes: &[u8]) {
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (offset, stored, result) = self.folder.append(id, direction, bytes.get(..allowed).unwrap_or_default());
        self.left = self.left.saturating_sub(stored);
        (record.offset, record.stored) = (Some(offset), Some(stored));
        let missing = record.size.unwrap_or(0).saturating_sub(stored);
        let why = match &result {
            Err(error) => Some(error.to_string()),
            Ok(()) if allowed < bytes.len() => Some("the bound of the whole capture is reached".to_owned()),
            Ok(()) => None,
        };
        if missing > 0 {
            if let Some(why) = &why {
                record.note(why);
            }
            let why = why.or_else(|| record.raw.clone()).unwrap_or_else(|| "the bound of a record".into());
            self.shared.queue().losses.cut(missing, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("sockstrace-writer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn data(bytes: &[u8]) -> Item {
        let mut record = Record::now(Kind::Data, Who::default());
        record.conn_id = Some("1".into());
        record.direction = Some(Direction::Out);
        record.size = Some(bytes.len() as u64);
        Item { record, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_exceeds_the_total_is_counted() {
        let path = place("total");
        let writer = Writer::start(Folder::create(&path).unwrap(), 8, Box::new(|_| Vec::new())).unwrap();
        for text in ["hello", " world", "!"] {
            writer.put(data(text.as_bytes()));
        }
        let losses = writer.finish();
        assert_eq!((losses.bytes, losses.cut, losses.records), (4, 2, 0));
        assert_eq!(std::fs::read(path.join("1.out.bin")).unwrap(), b"hello wo");
        let events = std::fs::read_to_string(path.join("events.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let stored: Vec<_> = lines.iter().map(|line| line["stored"].as_u64()).collect();
        assert_eq!(stored, [Some(5), Some(3), Some(0), None]);
        assert_eq!((lines[3]["type"].as_str(), lines[3]["size"].as_u64()), (Some("error"), Some(4)));
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_disk_that_does_not_take_anything_stalls_nobody_for_long() {
        let path = place("stuck");
        let shared = Arc::new(Shared { queue: Mutex::default(), moved: Condvar::new() });
        // Nobody works.
        let writer = Writer { shared, thread: Mutex::new(None) };
        let start = Instant::now();
        let piece = vec![0; 1 << 20];
        for _ in 0..200 {
            writer.put(data(&piece));
        }
        assert!(start.elapsed() < PATIENCE * 5, "{:?}", start.elapsed());
        let queue = writer.shared.queue();
        assert!(queue.bytes <= QUEUED_BYTES && queue.items.len() == 200);
        assert!(!path.exists());
    }
}
