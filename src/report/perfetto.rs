//! `--perfetto`: Chrome's trace event format (JSON), which ui.perfetto.dev, chrome://tracing and Speedscope
//! read: a track for each thread, an instant for each judged call, a slice for each program that a process
//! ran.

use super::leaks::{cut, short};
use super::record::{Frame, Record, Text};
use super::{End, Report, clock};
use serde::Serialize;
use serde_json::{Map, json};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

/// A trace, written as the events pass.
pub(super) struct Perfetto {
    out: Box<dyn Write>,
    begun: bool,
    /// What times count from, in nanoseconds since 1970: a JSON number couldn't hold absolute ones.
    origin: Option<u64>,
    /// The last event's time, after `origin`.
    now: u64,
    named: HashSet<(i64, i64)>,
    /// When each process began what it runs.
    running: HashMap<i64, f64>,
}

/// Times count from so long before the first event, in nanoseconds: streams that follow may be older, and Perfetto
/// drops what is before 0. A double has these times to the nanosecond all the same.
const BEFORE: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// Threads that get a name, and processes whose programs are followed; what comes after is shown without.
const KNOWN: usize = 1 << 20;

impl Perfetto {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        let (named, running) = (HashSet::new(), HashMap::new());
        Self { out, begun: false, origin: None, now: 0, named, running }
    }

    fn put(&mut self, event: &impl Serialize) -> io::Result<()> {
        let before: &[u8] = if self.begun { b",\n" } else { b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n" };
        self.out.write_all(before)?;
        self.begun = true;
        Ok(serde_json::to_writer(&mut self.out, event)?)
    }

    /// Microseconds since the origin.
    fn time(&mut self, record: &Record<'_>) -> f64 {
        if let Some(time) = record.nanoseconds() {
            let origin = *self.origin.get_or_insert(time.saturating_sub(BEFORE));
            self.now = time.saturating_sub(origin);
        }
        self.timestamp()
    }

    #[allow(clippy::cast_precision_loss, reason = "exact below 100 days")]
    fn timestamp(&self) -> f64 {
        self.now as f64 / 1000.0
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

    fn process(&mut self, record: &Record<'_>, pid: i64, time: f64) -> io::Result<()> {
        if let Some(begin) = self.running.remove(&pid) {
            // Nothing ends before it begins, whatever the stream says.
            self.put(&json!({"ph": "E", "pid": pid, "tid": pid, "ts": time.max(begin)}))?;
        }
        let known = [("status", record.status), ("signal", record.signal)];
        let args: Map<_, _> =
            known.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))).collect();
        if record.event.as_deref() == Some("exec") {
            if self.running.len() < KNOWN {
                let name = cut(record.exe.as_deref().unwrap_or(record.program()));
                self.running.insert(pid, time);
                self.put(&json!({"ph": "B", "name": name, "cat": "process", "pid": pid, "tid": pid, "ts": time}))?;
            }
        } else {
            let name = record.event.as_deref().unwrap_or("process");
            self.put(&json!({"ph": "i", "s": "t", "name": cut(name), "cat": "process", "pid": pid, "tid": pid,
                "ts": time, "args": args}))?;
        }
        Ok(())
    }

    fn judged(&mut self, record: &Record<'_>, pid: i64, tid: i64, time: f64) -> io::Result<()> {
        let name = format!("{} {}", record.call_name(), record.destination());
        let category = if record.is_leak() {
            Cow::Owned(format!("leak,{}", short(record.class_name())))
        } else {
            Cow::Borrowed("allowed")
        };
        let instant = Instant {
            ph: "i",
            s: "t",
            name: short(name.trim_end()),
            cat: category,
            // chrome://tracing has names for colours; others ignore them.
            cname: if record.is_leak() { "terrible" } else { "good" },
            pid,
            tid,
            ts: time,
            args: Arguments::of(record),
        };
        self.put(&instant)
    }
}

impl Report for Perfetto {
    fn event(&mut self, record: &Record<'_>) -> io::Result<()> {
        let time = self.time(record);
        if record.kind.as_deref() == Some("summary") {
            return Ok(());
        }
        let id = |id: Option<i64>| id.filter(|id| i32::try_from(*id).is_ok_and(|id| id >= 0));
        let pid = id(record.pid).unwrap_or(0);
        let tid = id(record.tid).unwrap_or(pid);
        self.name(record, pid, tid)?;
        if record.kind.as_deref() == Some("process") {
            self.process(record, pid, time)
        } else {
            self.judged(record, pid, tid, time)
        }
    }

    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let time = self.timestamp();
        let mut running: Vec<_> = self.running.drain().collect();
        running.sort_unstable_by_key(|(pid, _)| *pid);
        for (pid, begin) in running {
            self.put(&json!({"ph": "E", "pid": pid, "tid": pid, "ts": time.max(begin)}))?;
        }
        if !self.begun {
            write!(self.out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        }
        let origin = self.origin.map(clock);
        let other = json!({"tool": concat!("sockstrace ", env!("CARGO_PKG_VERSION")), "origin": origin,
            "warnings": end.warnings});
        writeln!(self.out, "\n],\"otherData\":{other}}}")?;
        self.out.flush()
    }
}

/// A judged call.
#[derive(Serialize)]
struct Instant<'r> {
    ph: &'static str,
    s: &'static str,
    name: Cow<'r, str>,
    cat: Cow<'r, str>,
    cname: &'static str,
    pid: i64,
    tid: i64,
    ts: f64,
    args: Arguments<'r>,
}

/// What a click on an event shows.
#[derive(Serialize)]
struct Arguments<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abi: Option<Cow<'r, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<i64>,
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    returned: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stack: Vec<String>,
}

impl<'r> Arguments<'r> {
    fn of(record: &'r Record<'_>) -> Self {
        let text = |text: &'r Option<Text<'_>>| text.as_deref().map(short);
        let frame = |frame: &Frame<'_>| match frame.place() {
            Some(place) => cut(&format!("{} ({place})", frame.name())),
            None => cut(&frame.name()),
        };
        Self {
            verdict: text(&record.verdict),
            class: text(&record.class),
            reason: text(&record.reason),
            rule: text(&record.rule),
            action: text(&record.action),
            errno: text(&record.errno),
            address: text(&record.address),
            backend: text(&record.backend),
            abi: text(&record.abi),
            fd: record.fd,
            returned: record.returned,
            stack: record.frames().iter().map(frame).collect(),
        }
    }
}
