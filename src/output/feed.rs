//! Events on their way to whoever looks on (`--tui`), beside those that are written.
//!
//! Who looks on is another process at the end of a pipe, and never waited for: what doesn't fit is counted and
//! goes unseen. Of calls that are allowed only so many a second are shown at all, so that a flood of them costs no
//! more than a count.

use super::live::Tally;
use crate::event::{Body, Event, Judgement};
use serde::Serialize;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Allowed calls that are shown in each [`WINDOW_MS`].
const ALLOWED: u64 = 500;
const WINDOW_MS: u64 = 100;
/// The longest line, in bytes: longer ones (hostile names on deep stacks) are not shown.
const LONGEST: usize = 256 << 10;

/// The writing end of a pipe on which nobody is waited for.
#[derive(Debug)]
pub struct Feed {
    pipe: Option<File>,
    /// What is left of a line that was begun.
    rest: Vec<u8>,
    line: Vec<u8>,
    covers_stderr: bool,
    missed: u64,
}

/// A tally, and how many events were not shown.
#[derive(Serialize)]
struct TallyLine {
    kind: &'static str,
    events: u64,
    leaks: u64,
    processes: u64,
    dropped: u64,
}

impl Feed {
    /// On a pipe that is non-blocking. `covers_stderr`: standard error is where the viewer draws, so that events
    /// are not written there.
    #[must_use]
    pub fn new(pipe: File, covers_stderr: bool) -> Self {
        Self { pipe: Some(pipe), rest: Vec::new(), line: Vec::new(), covers_stderr, missed: 0 }
    }

    /// Whether standard error is where the viewer draws.
    #[must_use]
    pub fn covers_stderr(&self) -> bool {
        self.covers_stderr
    }

    /// Shows an event, if there is room.
    pub(super) fn show(&mut self, event: &Event) {
        if !self.put(event) && !matches!(event.body, Body::Summary(_)) {
            self.missed = self.missed.saturating_add(1);
        }
    }

    /// Shows how far it is.
    pub(super) fn tell(&mut self, tally: Tally, missed: &Budget) {
        let Tally { calls: events, leaks, processes } = tally;
        let dropped = self.missed.saturating_add(missed.missed());
        // The next one says it as well.
        let _: bool = self.put(&TallyLine { kind: "tally", events, leaks, processes, dropped });
    }

    fn put(&mut self, what: &impl Serialize) -> bool {
        if !self.flush() {
            return false;
        }
        self.line.clear();
        if serde_json::to_writer(&mut self.line, what).is_err() || self.line.len() > LONGEST {
            return false;
        }
        self.line.push(b'\n');
        std::mem::swap(&mut self.rest, &mut self.line);
        self.flush();
        true
    }

    /// Writes what is left; whether nothing is any more.
    fn flush(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        while !self.rest.is_empty() {
            match pipe.write(&self.rest) {
                Ok(written) => drop(self.rest.drain(..written.min(self.rest.len()))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // The viewer is gone.
                Err(_) => {
                    self.pipe = None;
                    return false;
                }
            }
        }
        true
    }
}

/// How many allowed calls are still to be shown. Shared by all threads, without a lock.
#[derive(Debug)]
pub struct Budget {
    start: Instant,
    window: AtomicU64,
    taken: AtomicU64,
    missed: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { start: Instant::now(), window: zero(), taken: zero(), missed: zero() }
    }
}

impl Budget {
    /// Whether one more is shown.
    pub fn take(&self) -> bool {
        let window = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX) / WINDOW_MS;
        // A race lets a few more through, which is as well.
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.taken.store(0, Ordering::Relaxed);
        }
        let shown = self.taken.fetch_add(1, Ordering::Relaxed) < ALLOWED;
        if !shown {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        shown
    }

    fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// Whether an event is written with `--trace leaks`.
pub(super) fn is_of_leaks(event: &Event) -> bool {
    match &event.body {
        Body::Syscall(call) => call.verdict == Judgement::Leak,
        Body::Socks(socks) => socks.call.verdict == Judgement::Leak,
        Body::Lost(_) | Body::Summary(_) => true,
        Body::Process(_) | Body::TcpState(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Summary;
    use crate::event::tests::{call, leak};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Read;

    fn feed() -> (Feed, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        for end in [&reader, &writer] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        (Feed::new(writer.into(), true), reader.into())
    }

    fn all(reader: &mut File) -> String {
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn who_does_not_read_misses_whole_events_and_is_told_how_many() {
        let (mut feed, mut reader) = feed();
        for _ in 0..100 {
            feed.show(&leak());
        }
        let budget = Budget::default();
        let mut text = all(&mut reader);
        feed.tell(Tally { calls: 100, leaks: 100, processes: 1 }, &budget);
        feed.show(&Event::now(Body::Summary(Summary::default())));
        text += &all(&mut reader);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect();
        let shown = lines.iter().filter(|line| line["kind"] == "syscall").count();
        assert!((5..50).contains(&shown), "{shown}");
        let tally = &lines[lines.len() - 2];
        assert_eq!((&tally["kind"], tally["dropped"].as_u64()), (&"tally".into(), Some(100 - shown as u64)));
        assert_eq!(lines[lines.len() - 1]["kind"], "summary");
    }

    #[test]
    fn who_is_gone_is_no_trouble() {
        let (mut feed, reader) = feed();
        drop(reader);
        feed.show(&leak());
        feed.show(&leak());
        assert!(feed.pipe.is_none());
    }

    #[test]
    fn a_hostile_line_is_not_shown_and_keeps_nothing_up() {
        let (mut feed, mut reader) = feed();
        feed.show(&call(|call| call.who.process = Some("x".repeat(LONGEST))));
        feed.show(&leak());
        assert_eq!((all(&mut reader).lines().count(), feed.missed), (1, 1));
    }

    #[test]
    fn a_flood_of_allowed_calls_is_counted() {
        let budget = Budget::default();
        let shown = (0..100_000).filter(|_| budget.take()).count() as u64;
        // As many windows as it took.
        let windows = u64::try_from(budget.start.elapsed().as_millis()).unwrap() / WINDOW_MS + 1;
        assert!((ALLOWED..=ALLOWED * (windows + 1)).contains(&shown), "{shown} in {windows}");
        assert_eq!(budget.missed(), 100_000 - shown);
    }
}
