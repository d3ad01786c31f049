//! The page's data: events as columns of numbers. What repeats (texts, frames, stacks, kinds of events,
//! threads) stands once in a table; an event is a place in the table of kinds, one in that of threads, and a
//! time.

use super::super::leaks::cut;
use super::super::record::{Frame, Record};
use super::super::{End, totals::Totals};
use crate::blame;
use crate::output::escape::escaped;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Write};

/// Leaks and allowed calls of which the page has the events one by one; the rest is counted.
const LEAKS: u64 = 200_000;
const ALLOWED: u64 = 100_000;
/// What the tables may take up, in bytes.
const ROOM: usize = 64 << 20;
/// Processes of which the page knows starts and ends.
const PROCESSES: usize = 50_000;

/// A table in which each entry stands once.
#[derive(Debug)]
struct Table<T> {
    list: Vec<T>,
    places: HashMap<T, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { list: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    /// The entry's place, and whether it is new.
    fn put(&mut self, entry: T) -> (usize, bool) {
        if let Some(&place) = self.places.get(&entry) {
            return (place, false);
        }
        let place = self.list.len();
        self.list.push(entry.clone());
        self.places.insert(entry, place);
        (place, true)
    }
}

/// A frame as the page shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shown {
    name: usize,
    module: usize,
    file_text: usize,
    /// How the frame was found, where that is less than certain.
    doubt: usize,
    own: bool,
    inlined: bool,
    /// The source file as the stream has it.
    pub(super) file: String,
    /// From 1; 0 where it isn't known.
    pub(super) line: u64,
}

/// Everything about an event that others share: whether it is a leak; class, call, destination, program,
/// executable, action, errno, reason and rule, and what is wrong with the stack, as texts; the stack.
type Kind = (bool, [usize; 10], Option<usize>);
/// Process id, thread id, parent; name and executable as texts.
type Thread = (i64, i64, Option<i64>, usize, usize);

/// The events so far.
#[derive(Debug, Default)]
pub(super) struct Columns {
    texts: Table<String>,
    frames: Table<Shown>,
    /// The blamed frame's index, and the frames.
    stacks: Table<(Option<usize>, Vec<usize>)>,
    kinds: Table<Kind>,
    threads: Table<Thread>,
    /// Kind, thread, and microseconds since the event before.
    events: Vec<(u32, u32, i64)>,
    /// Processes' starts and ends: process id, parent, name, executable, how it ended.
    processes: HashMap<i64, (Option<i64>, usize, usize, usize)>,
    size: usize,
    leaks: u64,
    allowed: u64,
    omitted_leaks: u64,
    omitted_allowed: u64,
    /// The first event's time, and the last one's, in nanoseconds since 1970.
    start: Option<u64>,
    now: u64,
}

impl Columns {
    pub(super) fn add(&mut self, record: &Record<'_>) {
        if record.kind.as_deref() == Some("process") {
            self.process(record);
        }
        if !record.is_judged() {
            return;
        }
        let leak = record.is_leak();
        let (count, limit, omitted) = if leak {
            (&mut self.leaks, LEAKS, &mut self.omitted_leaks)
        } else {
            (&mut self.allowed, ALLOWED, &mut self.omitted_allowed)
        };
        if *count >= limit || self.size > ROOM {
            *omitted = omitted.saturating_add(1);
            return;
        }
        *count = count.saturating_add(1);
        let kind = self.kind(record, leak);
        let thread = self.thread(record);
        let time = record.nanoseconds().unwrap_or(self.now);
        if self.start.is_none() {
            (self.start, self.now) = (Some(time), time);
        }
        // Microseconds of the difference would add up to something else than the difference of microseconds.
        let start = self.start.unwrap_or(time);
        let micros = |time: u64| (i128::from(time).saturating_sub(i128::from(start)).div_euclid(1000)) as i64;
        self.events.push((kind as u32, thread as u32, micros(time).saturating_sub(micros(self.now))));
        self.now = time;
    }

    fn text(&mut self, text: &str) -> usize {
        // Nothing on the page can steer a terminal, or its reader's eyes, after it is copied.
        let (place, new) = self.texts.put(escaped(&cut(text)).to_string());
        if new {
            // Twice in memory, and its place in the table.
            self.size = self.size.saturating_add(text.len().saturating_mul(2)).saturating_add(80);
        }
        place
    }

    fn kind(&mut self, record: &Record<'_>, leak: bool) -> usize {
        let stack = self.stack(record);
        let optional =
            |text: &Option<super::super::record::Text<'_>>| text.as_deref().unwrap_or_default().to_owned();
        let texts = [
            if leak { record.class_name().to_owned() } else { "allowed".into() },
            record.call_name().to_owned(),
            record.destination(),
            record.program().to_owned(),
            optional(&record.exe),
            optional(&record.action),
            optional(&record.errno),
            optional(&record.reason),
            optional(&record.rule),
            stack_doubts(record),
        ];
        let texts = texts.map(|text| self.text(&text));
        let (place, new) = self.kinds.put((leak, texts, stack));
        if new {
            self.size = self.size.saturating_add(2 * size_of::<Kind>());
        }
        place
    }

    fn stack(&mut self, record: &Record<'_>) -> Option<usize> {
        let frames = record.frames();
        if frames.is_empty() {
            return None;
        }
        let exe = record.exe.as_deref();
        let own = blame::own(frames, exe);
        let places: Vec<_> = frames.iter().zip(own).map(|(frame, own)| self.frame(frame, own)).collect();
        let size = places.len().saturating_mul(2 * size_of::<usize>()).saturating_add(100);
        let (place, new) = self.stacks.put((blame::blamed(frames, exe), places));
        if new {
            self.size = self.size.saturating_add(size);
        }
        Some(place)
    }

    fn frame(&mut self, frame: &Frame<'_>, own: bool) -> usize {
        let file = cut(frame.file.as_deref().unwrap_or_default());
        let shown = Shown {
            name: self.text(&frame.name()),
            module: self.text(frame.module.as_deref().unwrap_or_default()),
            file_text: self.text(&file),
            own,
            doubt: self.text(frame.doubt().unwrap_or_default()),
            inlined: frame.inlined == Some(true),
            line: frame.line.unwrap_or(0),
            file,
        };
        let size = shown.file.len().saturating_add(size_of::<Shown>()).saturating_mul(2);
        let (place, new) = self.frames.put(shown);
        if new {
            self.size = self.size.saturating_add(size);
        }
        place
    }

    fn thread(&mut self, record: &Record<'_>) -> usize {
        let name = self.text(record.process.as_deref().unwrap_or_default());
        let exe = self.text(record.exe.as_deref().unwrap_or_default());
        let pid = record.pid.unwrap_or(0);
        let (place, new) = self.threads.put((pid, record.tid.unwrap_or(pid), record.ppid, name, exe));
        if new {
            self.size = self.size.saturating_add(2 * size_of::<Thread>());
        }
        place
    }

    fn process(&mut self, record: &Record<'_>) {
        let Some(pid) = record.pid else { return };
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&pid) {
            return;
        }
        let name = self.text(record.process.as_deref().unwrap_or_default());
        let exe = self.text(record.exe.as_deref().unwrap_or_default());
        let end = match (record.event.as_deref(), record.status, record.signal) {
            (Some("exit"), _, Some(signal)) => format!("ended by signal {signal}"),
            (Some("exit"), Some(status), None) => format!("exit {status}"),
            _ => String::new(),
        };
        let end = self.text(&end);
        self.processes.insert(pid, (record.ppid, name, exe, end));
    }

    pub(super) fn frames(&self) -> &[Shown] {
        &self.frames.list
    }

    /// The frames whose sources are of interest: blamed ones, then others of the program's own code.
    pub(super) fn worth_an_excerpt(&self) -> Vec<usize> {
        let blamed = self.stacks.list.iter().filter_map(|(blamed, frames)| frames.get((*blamed)?).copied());
        let own = self.frames.list.iter().enumerate().filter(|(_, frame)| frame.own).map(|(index, _)| index);
        let known = |index: &usize| self.frames.list.get(*index).is_some_and(|frame| frame.line > 0);
        blamed.chain(own).filter(known).collect()
    }

    /// Writes everything as JSON that can stand within a `script` element.
    pub(super) fn write(&self, out: &mut dyn Write, end: &End<'_>, excerpts: &[Option<Value>]) -> io::Result<()> {
        let mut out = Tame(out);
        let member = |out: &mut Tame<'_>, name: &str, value: &dyn Fn(&mut Tame<'_>) -> serde_json::Result<()>| {
            write!(out, ",\n\"{name}\":")?;
            value(out).map_err(io::Error::from)
        };
        write!(out, "{{\"totals\":{}", totals(end.totals))?;
        // JavaScript's dates are milliseconds.
        let start = self.start.map(|start| start / 1_000_000);
        member(&mut out, "start", &|out| serde_json::to_writer(out, &start))?;
        member(&mut out, "warnings", &|out| serde_json::to_writer(out, &warnings(end)))?;
        let omitted = json!({"leaks": self.omitted_leaks, "allowed": self.omitted_allowed});
        member(&mut out, "omitted", &|out| serde_json::to_writer(out, &omitted))?;
        member(&mut out, "strings", &|out| serde_json::to_writer(out, &self.texts.list))?;
        list(&mut out, "frames", self.frames.list.iter().zip(excerpts), |(frame, excerpt)| {
            let flags = (u8::from(frame.own), u8::from(frame.inlined));
            json!([frame.name, frame.module, frame.file_text, frame.line, flags.0, flags.1, frame.doubt, excerpt])
        })?;
        list(&mut out, "stacks", self.stacks.list.iter(), |(blamed, frames)| {
            let blamed = blamed.map_or(-1, |blamed| blamed as i64);
            std::iter::once(blamed).chain(frames.iter().map(|frame| *frame as i64)).collect::<Value>()
        })?;
        list(&mut out, "shapes", self.kinds.list.iter(), |(leak, texts, stack)| {
            let stack = stack.map_or(-1, |stack| stack as i64);
            let texts = texts.iter().map(|text| *text as i64);
            std::iter::once(i64::from(*leak)).chain(texts).chain([stack]).collect::<Value>()
        })?;
        list(&mut out, "threads", self.threads.list.iter(), |thread| json!(thread))?;
        let mut processes: Vec<_> = self.processes.iter().collect();
        processes.sort_unstable();
        list(&mut out, "processes", processes.into_iter(), |(pid, (parent, name, exe, end))| {
            json!([pid, parent, name, exe, end])
        })?;
        write!(out, ",\n\"events\":{{\"shape\":[")?;
        column(&mut out, self.events.iter().map(|event| i64::from(event.0)))?;
        write!(out, "],\n\"thread\":[")?;
        column(&mut out, self.events.iter().map(|event| i64::from(event.1)))?;
        write!(out, "],\n\"time\":[")?;
        column(&mut out, self.events.iter().map(|event| event.2))?;
        write!(out, "]}}}}")
    }
}

/// Why the stack is not all that one would wish.
fn stack_doubts(record: &Record<'_>) -> String {
    let truncated = record.stack_truncated.as_deref().map(|why| format!("It ends early: {why}."));
    let partial = record.stack_partial.as_deref().map(|why| format!("It is the best that could be had: {why}."));
    truncated.into_iter().chain(partial).collect::<Vec<_>>().join(" ")
}

fn totals(totals: &Totals) -> Value {
    let classes = totals.classes.iter().map(|(class, count)| (escaped(class).to_string(), (*count).into()));
    json!({
        "leaks": totals.leaks,
        "calls": totals.calls(),
        "processes": totals.processes(),
        "exit": totals.exit,
        "classes": classes.collect::<serde_json::Map<_, _>>(),
    })
}

fn warnings(end: &End<'_>) -> Vec<String> {
    end.warnings.iter().map(|warning| escaped(warning).to_string()).collect()
}

fn list<T>(
    out: &mut Tame<'_>,
    name: &str,
    entries: impl Iterator<Item = T>,
    value: impl Fn(T) -> Value,
) -> io::Result<()> {
    write!(out, ",\n\"{name}\":[")?;
    for (index, entry) in entries.enumerate() {
        if index > 0 {
            out.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut *out, &value(entry))?;
    }
    write!(out, "]")
}

fn column(out: &mut dyn Write, numbers: impl Iterator<Item = i64>) -> io::Result<()> {
    for (index, number) in numbers.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(out, "{comma}{number}")?;
    }
    Ok(())
}

/// JSON on its way into a page: `<` is written as an escape, so that no text can end the element or begin a
/// comment. Outside of texts JSON has none.
struct Tame<'o>(&'o mut dyn Write);

impl Write for Tame<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for (index, piece) in bytes.split(|&byte| byte == b'<').enumerate() {
            if index > 0 {
                self.0.write_all(b"\\u003c")?;
            }
            self.0.write_all(piece)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_the_script_element() {
        let mut page = Vec::new();
        serde_json::to_writer(Tame(&mut page), "</script><!--").unwrap();
        assert_eq!(page, br#""\u003c/script>\u003c!--""#);
        let back: String = serde_json::from_slice(&page).unwrap();
        assert_eq!(back, "</script><!--");
    }
}
