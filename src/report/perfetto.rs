//! `--perfetto`: Chrome's trace event format (JSON), which ui.perfetto.dev, chrome://tracing and Speedscope
//! read: a track for each thread, an instant for each judged call, a slice for each program that a process
//! ran.

use super::leaks::cut;
use super::record::Record;
use super::{End, Report, clock};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::io::{self, Write};

/// A trace, written as the events pass.
pub(super) struct Perfetto {
    out: Box<dyn Write>,
    begun: bool,
    /// The first event's time in nanoseconds since 1970: a JSON number couldn't hold absolute ones.
    origin: Option<u64>,
    /// The last event's time, after `origin`.
    now: i128,
    named: HashSet<(i64, i64)>,
    running: HashSet<i64>,
}

/// Threads that get a name, and processes whose programs are followed; what comes after is shown without.
const KNOWN: usize = 1 << 20;

impl Perfetto {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        let (named, running) = (HashSet::new(), HashSet::new());
        Self { out, begun: false, origin: None, now: 0, named, running }
    }

    fn put(&mut self, event: &Value) -> io::Result<()> {
        let before: &[u8] = if self.begun { b",\n" } else { b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n" };
        self.out.write_all(before)?;
        self.begun = true;
        Ok(serde_json::to_writer(&mut self.out, event)?)
    }

    /// Microseconds since the first event.
    fn time(&mut self, record: &Record<'_>) -> Value {
        if let Some(time) = record.nanoseconds() {
            let origin = *self.origin.get_or_insert(time);
            self.now = i128::from(time).saturating_sub(i128::from(origin));
        }
        self.timestamp()
    }

    #[allow(clippy::cast_precision_loss, reason = "exact below 100 days")]
    fn timestamp(&self) -> Value {
        (self.now as f64 / 1000.0).into()
    }

    fn name(&mut self, record: &Record<'_>, pid: i64, tid: i64) -> io::Result<()> {
        for (what, number, name) in
            [("process_name", pid, Some(record.program())), ("thread_name", tid, record.process.as_deref())]
        {
            let key = (if what == "process_name" { -1 } else { pid }, number);
            if let Some(name) = name
                && self.named.len() < KNOWN
                && self.named.insert(key)
            {
                let args = json!({"name": cut(name)});
                self.put(&json!({"ph": "M", "name": what, "pid": pid, "tid": number, "args": args}))?;
            }
        }
        Ok(())
    }

    fn process(&mut self, record: &Record<'_>, pid: i64, time: &Value) -> io::Result<()> {
        if self.running.remove(&pid) {
            self.put(&json!({"ph": "E", "pid": pid, "tid": pid, "ts": time}))?;
        }
        let known = [("status", record.status), ("signal", record.signal)];
        let args: Map<_, _> =
            known.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))).collect();
        if record.event.as_deref() == Some("exec") {
            if self.running.len() < KNOWN {
                let name = cut(record.exe.as_deref().unwrap_or(record.program()));
                self.running.insert(pid);
                self.put(&json!({"ph": "B", "name": name, "cat": "process", "pid": pid, "tid": pid, "ts": time}))?;
            }
        } else {
            let name = record.event.as_deref().unwrap_or("process");
            self.put(&json!({"ph": "i", "s": "t", "name": cut(name), "cat": "process", "pid": pid, "tid": pid,
                "ts": time, "args": args}))?;
        }
        Ok(())
    }

    fn judged(&mut self, record: &Record<'_>, pid: i64, tid: i64, time: &Value) -> io::Result<()> {
        let destination = record.destination();
        let name = format!("{} {destination}", record.call_name());
        // chrome://tracing has names for colours; others ignore them.
        let colour = if record.is_leak() { "terrible" } else { "good" };
        let category =
            if record.is_leak() { format!("leak,{}", cut(record.class_name())) } else { "allowed".into() };
        let event = json!({"ph": "i", "s": "t", "name": cut(name.trim_end()), "cat": category, "cname": colour, "pid": pid,
            "tid": tid, "ts": time, "args": arguments(record)});
        self.put(&event)
    }
}

impl Report for Perfetto {
    fn event(&mut self, record: &Record<'_>) -> io::Result<()> {
        let time = self.time(record);
        if record.kind.as_deref() == Some("summary") {
            return Ok(());
        }
        let (pid, tid) = (record.pid.unwrap_or(0), record.tid.or(record.pid).unwrap_or(0));
        self.name(record, pid, tid)?;
        if record.kind.as_deref() == Some("process") {
            self.process(record, pid, &time)
        } else {
            self.judged(record, pid, tid, &time)
        }
    }

    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let time = self.timestamp();
        let mut running: Vec<_> = self.running.drain().collect();
        running.sort_unstable();
        for pid in running {
            self.put(&json!({"ph": "E", "pid": pid, "tid": pid, "ts": time}))?;
        }
        if !self.begun {
            write!(self.out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        }
        let start = self.origin.map(clock);
        let other = json!({"tool": concat!("sockstrace ", env!("CARGO_PKG_VERSION")), "start": start,
            "warnings": end.warnings});
        writeln!(self.out, "\n],\"otherData\":{other}}}")?;
        self.out.flush()
    }
}

/// What a click on an event shows.
fn arguments(record: &Record<'_>) -> Value {
    let texts = [
        ("verdict", &record.verdict),
        ("class", &record.class),
        ("reason", &record.reason),
        ("rule", &record.rule),
        ("action", &record.action),
        ("errno", &record.errno),
        ("address", &record.address),
        ("backend", &record.backend),
        ("abi", &record.abi),
    ];
    let texts = texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), cut(text.as_ref()?).into())));
    let numbers = [("fd", record.fd), ("return", record.returned)];
    let numbers = numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into())));
    let mut arguments: Map<_, _> = texts.chain(numbers).collect();
    let frames = record.frames().iter().map(|frame| match frame.place() {
        Some(place) => cut(&format!("{} ({place})", frame.name())).into(),
        None => cut(&frame.name()).into(),
    });
    let frames: Vec<Value> = frames.collect();
    if !frames.is_empty() {
        arguments.insert("stack".into(), frames.into());
    }
    arguments.into()
}
