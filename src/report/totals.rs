//! What a whole stream adds up to.

use super::record::Record;
use std::collections::{BTreeMap, HashSet};

/// Process ids that are told apart: there can't be more at one time than `pid_max` allows.
const PIDS: usize = 1 << 22;
/// Classes that are counted one by one; the contract has four.
const CLASSES: usize = 64;

/// Counts over a stream.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Leaks seen.
    pub leaks: u64,
    /// Judged events seen, leaks among them.
    pub judged: u64,
    /// Judged calls as the summaries tell them: with `--trace leaks` most are not in the stream.
    pub calls: Option<u64>,
    /// Processes as the summaries tell them.
    processes: Option<u64>,
    seen: HashSet<i64>,
    /// Leaks by class.
    pub classes: BTreeMap<String, u64>,
    /// The earliest and the latest time, in nanoseconds since 1970.
    pub first: Option<u64>,
    /// See `first`.
    pub last: Option<u64>,
    /// Exit status of the last run.
    pub exit: Option<i64>,
}

impl Totals {
    /// Counts an event.
    pub fn add(&mut self, record: &Record<'_>) {
        if let Some(time) = record.nanoseconds() {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
        if record.kind.as_deref() == Some("summary") {
            let add = |sum: Option<u64>, more: Option<u64>| match (sum, more) {
                (None, more) => more,
                (Some(sum), more) => Some(sum.saturating_add(more.unwrap_or(0))),
            };
            self.calls = add(self.calls, record.events);
            self.processes = add(self.processes, record.processes);
            self.exit = record.exit;
            return;
        }
        if let Some(pid) = record.pid
            && self.seen.len() < PIDS
        {
            self.seen.insert(pid);
        }
        if record.is_judged() {
            self.judged = self.judged.saturating_add(1);
        }
        if record.is_leak() {
            self.leaks = self.leaks.saturating_add(1);
            let class = record.class_name();
            let room = self.classes.len() < CLASSES;
            if let Some(count) = self.classes.get_mut(class) {
                *count = count.saturating_add(1);
            } else if room {
                self.classes.insert(super::leaks::cut(class), 1);
            }
        }
    }

    /// Judged calls: what the summaries say, or what was seen where there is none.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.unwrap_or(0).max(self.judged)
    }

    /// Processes: what the summaries say, or what was seen.
    #[must_use]
    pub fn processes(&self) -> u64 {
        self.processes.unwrap_or(0).max(self.seen.len() as u64)
    }

    /// From the first event to the last, in nanoseconds.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.last.unwrap_or(0).saturating_sub(self.first.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_know_more_than_the_stream() {
        let mut totals = Totals::default();
        for line in [
            r#"{"kind":"syscall","pid":1,"verdict":"leak","class":"inbound","time":"2026-01-01T00:00:02Z"}"#,
            r#"{"kind":"socks","pid":2,"verdict":"leak","class":"proxy","time":"2026-01-01T00:00:01Z"}"#,
            r#"{"kind":"summary","events":9,"leaks":2,"processes":1,"exit":23,"time":"2026-01-01T00:00:04Z"}"#,
        ] {
            totals.add(&Record::parse(line.as_bytes()).unwrap());
        }
        assert_eq!((totals.leaks, totals.judged, totals.calls(), totals.processes()), (2, 2, 9, 2));
        assert_eq!((totals.duration(), totals.exit), (3_000_000_000, Some(23)));
        assert_eq!(totals.classes.get("proxy"), Some(&1));
    }
}
