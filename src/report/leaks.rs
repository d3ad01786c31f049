//! The distinct leaks of a stream: one entry for each fingerprint and blamed line, with what the first of
//! them said and how often it came.

use super::fingerprint::{Fingerprint, Fingerprints, Prints};
use super::record::{Frame, Record, Text};
use std::borrow::Cow;
use std::collections::HashMap;

/// How much the entries may take up altogether, in bytes.
const ROOM: usize = 256 << 20;
/// The longest string that is kept, in bytes: hostile programs name things as they like.
const LONGEST: usize = 4096;

/// A leak, as it was seen first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys of the event stream")]
pub struct Leak {
    pub fingerprints: Fingerprints,
    /// How often it happened.
    pub count: u64,
    /// The first and the last time, in nanoseconds since 1970.
    pub first: Option<u64>,
    /// See `first`.
    pub last: Option<u64>,
    pub class: String,
    /// System call or kind of event.
    pub call: String,
    /// Protocol and address.
    pub destination: String,
    pub program: String,
    pub process: Option<String>,
    pub exe: Option<String>,
    pub pid: Option<i64>,
    pub tid: Option<i64>,
    pub action: Option<String>,
    pub errno: Option<String>,
    pub reason: String,
    pub rule: Option<String>,
    /// Innermost frame first.
    pub stack: Vec<Frame<'static>>,
    /// The index of the frame to blame.
    pub blamed: Option<usize>,
}

impl Leak {
    fn new(record: &Record<'_>, fingerprints: Fingerprints, blamed: Option<usize>) -> Self {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| cut(text));
        Self {
            fingerprints,
            count: 0,
            first: record.nanoseconds(),
            last: None,
            class: cut(record.class_name()),
            call: cut(record.call_name()),
            destination: cut(&record.destination()),
            program: cut(record.program()),
            process: text(&record.process),
            exe: text(&record.exe),
            pid: record.pid,
            tid: record.tid,
            action: text(&record.action),
            errno: text(&record.errno),
            reason: cut(record.reason.as_deref().unwrap_or_default()),
            rule: text(&record.rule),
            stack: record.frames().iter().map(owned).collect(),
            blamed,
        }
    }

    /// The frame in the program's own code.
    #[must_use]
    pub fn blame(&self) -> Option<&Frame<'static>> {
        self.stack.get(self.blamed?)
    }

    /// `connect TCP 203.0.113.5:80 by curl`
    #[must_use]
    pub fn headline(&self) -> String {
        let space = if self.destination.is_empty() { "" } else { " " };
        format!("{}{space}{} by {}", self.call, self.destination, self.program)
    }

    /// What was done with it, in words.
    #[must_use]
    pub fn done(&self) -> String {
        let done = match self.action.as_deref() {
            Some("continue") | None => "let go",
            Some("block") => "blocked",
            Some("redirect") => "redirected to the proxy",
            Some("kill") => "process killed",
            Some("kill-tree") => "tree killed",
            Some("core") => "process ended with SIGABRT",
            Some(other) => other,
        };
        self.errno.as_ref().map_or_else(|| done.to_owned(), |errno| format!("{done} ({errno})"))
    }

    /// `fetch (src/fetch.c:12)`: the blamed function and line; `None` without a stack.
    #[must_use]
    pub fn culprit(&self) -> Option<String> {
        let frame = self.blame()?;
        Some(match frame.place() {
            Some(place) => format!("{} ({place})", frame.name()),
            None => frame.name(),
        })
    }

    fn size(&self) -> usize {
        let option = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let text = |text: &Option<Text<'_>>| text.as_ref().map_or(0, |text| text.len());
        let frames = self.stack.iter().map(|frame| {
            let texts = [
                &frame.ip,
                &frame.module,
                &frame.build_id,
                &frame.offset,
                &frame.function,
                &frame.file,
                &frame.how,
            ];
            texts.into_iter().map(text).sum::<usize>().saturating_add(size_of::<Frame<'_>>())
        });
        let own =
            [&self.process, &self.exe, &self.action, &self.errno, &self.rule].map(option).iter().sum::<usize>();
        let texts = [&self.class, &self.call, &self.destination, &self.program, &self.reason].map(String::len);
        frames.chain(texts).chain([own, size_of::<Self>()]).sum()
    }
}

/// `text`, not longer than the limit.
#[must_use]
pub fn short(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return Cow::Borrowed(text);
    }
    let end = (0..=LONGEST).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
}

/// As [`short`], to be kept.
#[must_use]
pub fn cut(text: &str) -> String {
    short(text).into_owned()
}

fn owned(frame: &Frame<'_>) -> Frame<'static> {
    let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| Text(Cow::Owned(cut(text))));
    Frame {
        ip: text(&frame.ip),
        module: text(&frame.module),
        build_id: text(&frame.build_id),
        offset: text(&frame.offset),
        function: text(&frame.function),
        file: text(&frame.file),
        line: frame.line,
        inlined: frame.inlined,
        how: text(&frame.how),
    }
}

/// All distinct leaks of a stream, in the order in which they came first.
#[derive(Debug, Default)]
pub struct Leaks {
    list: Vec<Leak>,
    places: HashMap<(Fingerprint, u64), usize>,
    prints: Prints,
    size: usize,
    /// Leaks of which there was no room to keep more than this number.
    pub others: u64,
}

impl Leaks {
    /// Adds a leak. Returns its index, unless there is no room for it.
    pub fn add(&mut self, record: &Record<'_>) -> Option<usize> {
        let fingerprints = self.prints.of(record);
        let blamed = crate::blame::blamed(record.frames(), record.exe.as_deref());
        let line = blamed.and_then(|index| record.frames().get(index)?.line).unwrap_or(0);
        let key = (fingerprints.leak, line);
        let index = match self.places.get(&key) {
            Some(&index) => index,
            None => self.keep(key, Leak::new(record, fingerprints, blamed))?,
        };
        let leak = self.list.get_mut(index)?;
        leak.count = leak.count.saturating_add(1);
        leak.last = record.nanoseconds().or(leak.last);
        Some(index)
    }

    fn keep(&mut self, key: (Fingerprint, u64), leak: Leak) -> Option<usize> {
        let size = self.size.saturating_add(leak.size());
        if size > ROOM {
            self.others = self.others.saturating_add(1);
            return None;
        }
        self.size = size;
        let index = self.list.len();
        self.list.push(leak);
        self.places.insert(key, index);
        Some(index)
    }

    /// The leaks, in the order in which they came first.
    #[must_use]
    pub fn list(&self) -> &[Leak] {
        &self.list
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A leak with a stack.
    pub(in crate::report) fn leak() -> Value {
        json!({"v": 1, "kind": "syscall", "time": "2026-01-01T00:00:00.5Z", "backend": "seccomp", "pid": 10,
            "tid": 11, "process": "app", "exe": "/srv/app", "syscall": "connect", "fd": 3, "verdict": "leak",
            "class": "outbound", "address": "203.0.113.5:80", "return": -1, "errno": "EPERM",
            "action": "block", "reason": "no proxy or rule covers it",
            "socket": {"family": "inet", "type": "stream", "protocol": "tcp"},
            "stack": [
                {"ip": "0x7f01", "module": "/lib/libc.so.6", "function": "connect"},
                {"ip": "0x5501", "module": "/srv/app", "function": "dial", "file": "/srv/src/a.c", "line": 10},
                {"ip": "0x5601", "module": "/srv/app", "function": "main", "file": "/srv/src/a.c", "line": 20}]})
    }

    pub(in crate::report) fn add(leaks: &mut Leaks, value: &Value) -> Option<usize> {
        leaks.add(&Record::parse(value.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn repetitions_are_counted_and_lines_kept_apart() {
        let mut leaks = Leaks::default();
        let mut other = leak();
        other["stack"][1]["line"] = json!(12);
        let indexes = [&leak(), &other, &leak()].map(|leak| add(&mut leaks, leak));
        assert_eq!(indexes, [Some(0), Some(1), Some(0)]);
        let [first, second] = leaks.list() else { panic!("{leaks:?}") };
        assert_eq!((first.count, second.count), (2, 1));
        assert_eq!(first.fingerprints, second.fingerprints);
        assert_eq!(first.headline(), "connect TCP 203.0.113.5:80 by app");
        assert_eq!(second.culprit().as_deref(), Some("dial (/srv/src/a.c:12)"));
        assert_eq!(first.done(), "blocked (EPERM)");
    }

    #[test]
    fn hostile_lengths_are_cut() {
        let mut leaks = Leaks::default();
        let mut long = leak();
        long["process"] = json!("é".repeat(1 << 20));
        long["stack"][1]["function"] = json!("x".repeat(1 << 20));
        add(&mut leaks, &long);
        assert!(leaks.size < 40_000, "{}", leaks.size);
    }
}
