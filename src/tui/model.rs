//! What the screen shows: the last processes, connections and leaks of a stream of events, in bounded memory.

use super::output::Output;
use super::table::{Limit, Row, Table};
use super::text::plain;
use crate::report::record::{Record, Text};
use std::collections::HashMap;
use std::rc::Rc;

/// Rows of each kind.
const ROWS: usize = 10_000;
/// What rows of one kind may take up, in bytes.
const BYTES: usize = 32 << 20;
/// Distinct stacks that are recognised when they come again.
const STACKS: usize = 1000;
/// Frames of a stack that are shown.
const FRAMES: usize = 64;
/// Characters of a name, a path or an address.
const NAME: usize = 200;

/// A stack, innermost frame first, and which frame is to blame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stack {
    pub frames: Vec<String>,
    pub blamed: Option<usize>,
}

/// What is known of one event besides what its row shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Details {
    /// Names and values.
    pub facts: Vec<(&'static str, String)>,
    pub stack: Rc<Stack>,
    /// Whether no other row had this stack before.
    first_of_stack: bool,
}

/// A leak.
#[derive(Debug, Clone)]
pub(super) struct Leak {
    pub time: String,
    pub who: String,
    pub call: String,
    pub destination: String,
    pub class: String,
    pub done: String,
    pub details: Details,
    haystack: String,
}

/// Calls of one process to one destination.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub who: String,
    pub call: String,
    pub destination: String,
    pub count: u64,
    pub leaks: bool,
    /// What the last one gave, or the state of the connection where that is known.
    pub state: String,
    pub last: String,
    pub details: Details,
    haystack: String,
}

/// A process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub pid: i64,
    pub parent: Option<i64>,
    pub name: String,
    pub program: String,
    pub calls: u64,
    pub leaks: u64,
    pub state: String,
    haystack: String,
}

/// Numbers of the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub calls: u64,
    pub leaks: u64,
    pub processes: u64,
    /// Events that came too fast to be shown.
    pub unshown: u64,
    /// Events that the recording lost.
    pub lost: u64,
}

/// Everything. A copy shares the rows.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub tally: Tally,
    pub backend: String,
    /// The exit status, from the summary.
    pub exit: Option<i64>,
    pub leaks: Table<Leak>,
    pub connections: Table<Connection>,
    pub processes: Table<Process>,
    pub output: Output,
    by_place: HashMap<(i64, String), u64>,
    by_pid: HashMap<i64, u64>,
    stacks: HashMap<String, Rc<Stack>>,
    /// The first process that was seen to run a program.
    pub program: Option<i64>,
}

impl Default for Model {
    fn default() -> Self {
        let limit = Limit { rows: ROWS, bytes: BYTES };
        Self {
            tally: Tally::default(),
            backend: String::new(),
            exit: None,
            leaks: Table::new(limit),
            connections: Table::new(limit),
            processes: Table::new(limit),
            output: Output::default(),
            by_place: HashMap::new(),
            by_pid: HashMap::new(),
            stacks: HashMap::new(),
            program: None,
        }
    }
}

impl Model {
    /// Takes a line of the stream.
    pub fn line(&mut self, line: &[u8]) {
        match Record::parse(line) {
            Ok(record) => self.record(&record),
            Err(_) => self.tally.lost = self.tally.lost.saturating_add(1),
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        if let Some(backend) = &record.backend {
            self.backend = plain(backend, NAME);
        }
        match record.kind.as_deref() {
            Some("tally") => self.count(record, record.dropped.unwrap_or(0)),
            Some("summary") => {
                self.count(record, self.tally.unshown);
                self.tally.lost = self.tally.lost.max(record.dropped.unwrap_or(0));
                self.exit = record.exit;
            }
            Some("process") => self.process_event(record),
            Some("tcp_state") => self.state_change(record),
            _ if record.is_judged() => self.judged(record),
            _ => self.tally.lost = self.tally.lost.saturating_add(record.dropped.unwrap_or(0)),
        }
    }

    fn count(&mut self, record: &Record<'_>, unshown: u64) {
        self.tally.calls = record.events.unwrap_or(0);
        self.tally.leaks = record.leaks.unwrap_or(0);
        self.tally.processes = record.processes.unwrap_or(0);
        self.tally.unshown = unshown;
    }

    fn judged(&mut self, record: &Record<'_>) {
        let pid = record.pid.unwrap_or(0);
        let leaks = record.is_leak();
        self.process(record, |process| {
            process.calls = process.calls.saturating_add(1);
            process.leaks = process.leaks.saturating_add(u64::from(leaks));
        });
        let details = self.details(record);
        let who = format!("{}[{pid}]", plain(record.process.as_deref().unwrap_or("?"), NAME));
        let call = plain(record.call_name(), NAME);
        let destination = plain(&record.destination(), NAME);
        let (time, class, done) = (clock(record), plain(class_of(record), NAME), done(record));
        let exe = plain(record.exe.as_deref().unwrap_or_default(), NAME);
        let haystack = [&who, &exe, &call, &destination, &class].map(|text| text.to_lowercase()).join("\n");
        if leaks {
            self.leaks.push(Leak {
                time: time.clone(),
                who: who.clone(),
                call: call.clone(),
                destination: destination.clone(),
                class,
                done: done.clone(),
                details: details.clone(),
                haystack: haystack.clone(),
            });
        }
        if record.address.is_none() {
            return;
        }
        let place = (pid, format!("{call} {destination}"));
        let known = self.by_place.get(&place).copied();
        let changed = known.is_some_and(|number| {
            self.connections.change(number, |connection| {
                connection.count = connection.count.saturating_add(1);
                connection.leaks |= leaks;
                (connection.state, connection.last) = (done.clone(), time.clone());
                // That of a leak says more.
                if leaks || !connection.leaks {
                    connection.details = details.clone();
                }
            })
        });
        if !changed {
            let row =
                Connection { who, call, destination, count: 1, leaks, state: done, last: time, details, haystack };
            let number = self.connections.push(row);
            self.by_place.insert(place, number);
            prune(&mut self.by_place, &self.connections);
        }
    }

    fn process_event(&mut self, record: &Record<'_>) {
        let ended = match (record.event.as_deref(), record.signal, record.status) {
            (Some("exit"), Some(signal), _) => Some(ended_by(signal)),
            (Some("exit"), None, Some(status)) => Some(format!("ended with {status}")),
            (Some("exit"), None, None) => Some("ended".into()),
            _ => None,
        };
        if ended.is_none() && self.program.is_none() {
            self.program = record.pid;
        }
        self.process(record, |process| process.state = ended.unwrap_or_else(|| "runs".into()));
    }

    /// The row of the event's process, to be changed; a new one where there is none.
    fn process(&mut self, record: &Record<'_>, change: impl FnOnce(&mut Process)) {
        let Some(pid) = record.pid else { return };
        let number = self.by_pid.get(&pid).copied().filter(|number| {
            // A number that comes again is another process's.
            self.processes.get(*number).is_some_and(|process| process.state == "runs")
        });
        let number = number.unwrap_or_else(|| {
            let process = Process {
                pid,
                parent: None,
                name: String::new(),
                program: String::new(),
                calls: 0,
                leaks: 0,
                state: "runs".into(),
                haystack: String::new(),
            };
            let number = self.processes.push(process);
            self.by_pid.insert(pid, number);
            prune(&mut self.by_pid, &self.processes);
            number
        });
        self.processes.change(number, |process| {
            process.parent = record.ppid.or(process.parent);
            let known = |text: &Option<Text<'_>>| text.as_deref().map(|text| plain(text, NAME));
            if let Some(name) = known(&record.process) {
                process.name = name;
            }
            if let Some(program) = known(&record.exe) {
                process.program = program;
            }
            process.haystack = format!("{} {} {}", process.pid, process.name, process.program).to_lowercase();
            change(process);
        });
    }

    /// A TCP connection's state is that of the last call to its other end.
    fn state_change(&mut self, record: &Record<'_>) {
        let (Some(pid), Some(remote), Some(new)) = (record.pid, &record.remote, &record.new) else { return };
        let place = (pid, format!("connect TCP {}", plain(remote, NAME)));
        if let Some(number) = self.by_place.get(&place).copied() {
            self.connections.change(number, |connection| connection.state = plain(new, NAME));
        }
    }

    fn details(&mut self, record: &Record<'_>) -> Details {
        let text = |text: &Option<Text<'_>>| text.as_deref().map(|text| plain(text, 4 * NAME));
        let number = |number: Option<i64>| number.map(|number| number.to_string());
        let destination = plain(&record.destination(), 4 * NAME);
        let facts = [
            ("time", text(&record.time)),
            ("process", text(&record.process)),
            ("pid", number(record.pid)),
            ("thread", number(record.tid.filter(|tid| Some(*tid) != record.pid))),
            ("parent", number(record.ppid)),
            ("program", text(&record.exe)),
            ("call", text(&record.syscall)),
            ("abi", text(&record.abi)),
            ("fd", number(record.fd)),
            ("destination", Some(destination).filter(|text| !text.is_empty())),
            ("verdict", text(&record.verdict)),
            ("class", text(&record.class)),
            ("action", text(&record.action)),
            ("return", number(record.returned)),
            ("errno", text(&record.errno)),
            ("reason", text(&record.reason)),
            ("rule", text(&record.rule)),
            ("no more stack", text(&record.stack_truncated)),
            ("best effort", text(&record.stack_partial)),
        ];
        let facts = facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let (stack, first_of_stack) = self.stack(record);
        Details { facts, stack, first_of_stack }
    }

    /// The event's stack, shared with others that have the same, and whether it is the first.
    fn stack(&mut self, record: &Record<'_>) -> (Rc<Stack>, bool) {
        if record.frames().is_empty() {
            return (Rc::default(), false);
        }
        let frame = |frame: &crate::report::record::Frame<'_>| {
            let name = plain(&frame.name(), NAME);
            let place = frame.place().map(|place| format!(" at {}", plain(&place, NAME)));
            let doubt = frame.doubt().map(|doubt| format!(" ({})", plain(doubt, NAME)));
            [Some(name), place, doubt].into_iter().flatten().collect::<String>()
        };
        let frames: Vec<String> = record.frames().iter().take(FRAMES).map(frame).collect();
        let blamed = crate::blame::blamed(record.frames(), record.exe.as_deref());
        let key = frames.join("\n");
        if let Some(stack) = self.stacks.get(&key)
            && stack.blamed == blamed
        {
            return (Rc::clone(stack), false);
        }
        if self.stacks.len() >= STACKS {
            self.stacks.clear();
        }
        let stack = Rc::new(Stack { frames, blamed });
        self.stacks.insert(key, Rc::clone(&stack));
        (stack, true)
    }
}

/// Forgets where rows were that are gone, now and then.
fn prune<K: Eq + std::hash::Hash, R: Row>(places: &mut HashMap<K, u64>, table: &Table<R>) {
    if places.len() > ROWS.saturating_mul(2) {
        places.retain(|_, number| table.get(*number).is_some());
    }
}

fn class_of<'r>(record: &'r Record<'_>) -> &'r str {
    if record.is_leak() { record.class_name() } else { "" }
}

/// `12:34:56.789`, as the event has it.
fn clock(record: &Record<'_>) -> String {
    let time = record.time.as_deref().and_then(|time| time.get(11..23));
    time.map_or_else(String::new, |time| plain(time, 12))
}

/// What became of a call.
fn done(record: &Record<'_>) -> String {
    let did = match record.action.as_deref() {
        Some("block") => "blocked",
        Some("redirect") => "redirected",
        Some("kill") => "process killed",
        Some("kill-tree") => "tree killed",
        Some("core") => "ended with a core",
        _ if record.is_leak() => "let go",
        _ => "",
    };
    let result = match (&record.errno, record.returned) {
        (Some(errno), _) => plain(errno, NAME),
        (None, Some(value)) if did.is_empty() => format!("= {value}"),
        _ => String::new(),
    };
    [did, &result].join(" ").trim().to_owned()
}

fn ended_by(signal: i64) -> String {
    let name = i32::try_from(signal).ok().and_then(|signal| nix::sys::signal::Signal::try_from(signal).ok());
    name.map_or_else(|| format!("ended by signal {signal}"), |name| format!("ended by {name}"))
}

impl Details {
    fn size(&self) -> usize {
        let facts: usize = self.facts.iter().map(|(_, value)| value.len().saturating_add(40)).sum();
        let stack: usize = self.stack.frames.iter().map(|frame| frame.len().saturating_add(24)).sum();
        facts.saturating_add(if self.first_of_stack { stack } else { 0 })
    }
}

/// Of a row's texts and of itself.
fn size_of_texts<const N: usize>(texts: [&String; N]) -> usize {
    texts.into_iter().map(String::len).sum::<usize>().saturating_add(300)
}

impl Row for Leak {
    fn size(&self) -> usize {
        let Self { time, who, call, destination, class, done, details, haystack } = self;
        size_of_texts([time, who, call, destination, class, done, haystack]).saturating_add(details.size())
    }
    fn haystack(&self) -> &str {
        &self.haystack
    }
}

impl Row for Connection {
    fn size(&self) -> usize {
        let Self { who, call, destination, state, last, details, haystack, .. } = self;
        size_of_texts([who, call, destination, state, last, haystack]).saturating_add(details.size())
    }
    fn haystack(&self) -> &str {
        &self.haystack
    }
}

impl Row for Process {
    fn size(&self) -> usize {
        size_of_texts([&self.name, &self.program, &self.state, &self.haystack])
    }
    fn haystack(&self) -> &str {
        &self.haystack
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::event::tests::{call, frame};
    use crate::event::{Body, Change, Event, Judgement, Summary, Who};
    use std::sync::Arc;

    /// The model of these events.
    pub(in crate::tui) fn model(events: &[Event]) -> Model {
        let mut model = Model::default();
        for event in events {
            model.line(&serde_json::to_vec(event).unwrap());
        }
        model
    }

    pub(in crate::tui) fn process(event: Change, pid: i32, status: Option<i32>) -> Event {
        let who = Who { backend: "ptrace", pid, tid: pid, process: Some("curl".into()), ..Who::default() };
        Event::now(Body::Process(crate::event::Process { who, event, status, signal: None }))
    }

    pub(in crate::tui) fn allowed() -> Event {
        call(|call| {
            (call.verdict, call.class, call.action) = (Judgement::Allowed, None, crate::event::Action::Continue);
            call.address = Some("127.0.0.1:9050".into());
            call.reason = "to a proxy".into();
            call.set_result(0);
        })
    }

    /// A leak with a stack of its own.
    pub(in crate::tui) fn stacked(line: u32) -> Event {
        let frames = vec![
            frame("/lib/libc.so.6", "connect", None),
            frame("/usr/bin/curl", "dial", Some(("/src/dial.c", line))),
        ];
        let stack = Arc::new(crate::event::Stack { frames, ..crate::event::Stack::default() });
        call(|call| call.stack = Some(stack))
    }

    #[test]
    fn a_run_in_rows() {
        let summary = Summary { events: 7, leaks: 3, processes: 1, dropped: 2, exit: 23 };
        let mut model = model(&[
            process(Change::Exec, 1234, None),
            allowed(),
            stacked(7),
            stacked(7),
            stacked(8),
            process(Change::Exit, 1234, Some(0)),
            Event::now(Body::Summary(summary)),
        ]);
        model.line(br#"{"kind":"tally","events":9,"leaks":4,"processes":2,"dropped":5}"#);
        assert_eq!(model.tally, Tally { calls: 9, leaks: 4, processes: 2, unshown: 5, lost: 2 });
        assert_eq!((model.exit, model.program), (Some(23), Some(1234)));
        let [first, second, third] = [0, 1, 2].map(|number| Rc::clone(model.leaks.get(number).expect("a leak")));
        assert_eq!(
            [&first.time, &first.who, &first.call, &first.destination, &first.class, &first.done],
            ["22:13:20.000", "curl[1234]", "connect", "TCP 203.0.113.5:80", "outbound", "blocked EPERM"]
        );
        assert_eq!(first.details.stack.frames, ["connect", "dial at /src/dial.c:7"]);
        assert_eq!(first.details.stack.blamed, Some(1));
        assert!(Rc::ptr_eq(&first.details.stack, &second.details.stack));
        assert!(!Rc::ptr_eq(&first.details.stack, &third.details.stack));
        let rows = [0, 1].map(|number| {
            let connection = model.connections.get(number).expect("a connection");
            (connection.destination.clone(), connection.count, connection.leaks, connection.state.clone())
        });
        let proxy = ("TCP 127.0.0.1:9050".into(), 1, false, "= 0".into());
        assert_eq!(rows, [proxy, ("TCP 203.0.113.5:80".into(), 3, true, "blocked EPERM".into())]);
        let process = model.processes.get(0).expect("the process");
        assert_eq!((process.calls, process.leaks, process.state.as_str()), (4, 3, "ended with 0"));
        assert_eq!(model.leaks.matching("203.0.113.5"), [0, 1, 2]);
        assert_eq!((model.leaks.matching("outbound").len(), model.leaks.matching("nobody").len()), (3, 0));
        assert_eq!(model.processes.matching("curl"), [0]);
    }

    #[test]
    fn a_process_id_that_comes_again_is_another_process() {
        let model = model(&[process(Change::Exit, 7, Some(1)), process(Change::Exec, 7, None), allowed()]);
        assert_eq!(model.processes.len(), 3);
        assert_eq!(model.processes.get(1).map(|process| process.state.clone()).as_deref(), Some("runs"));
    }

    #[test]
    fn states_of_connections() {
        let mut model = model(&[allowed()]);
        model.line(
            br#"{"kind":"tcp_state","pid":1234,"remote":"127.0.0.1:9050","old":"SYN_SENT","new":"ESTABLISHED"}"#,
        );
        assert_eq!(model.connections.get(0).map(|row| row.state.clone()).as_deref(), Some("ESTABLISHED"));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut model = Model::default();
        let long = "x".repeat(3000);
        for n in 0..ROWS + 500 {
            let line = format!(
                "{{\"kind\":\"syscall\",\"pid\":{n},\"process\":\"{long}\",\"verdict\":\"leak\",\"address\":\"{n}\",\
                 \"stack\":[{{\"function\":\"{n}{long}\"}}]}}"
            );
            model.line(line.as_bytes());
        }
        for table in [model.leaks.len(), model.connections.len(), model.processes.len()] {
            assert!(table <= ROWS && table > 1000, "{table}");
        }
        assert!(model.leaks.gone() >= 500 && model.stacks.len() <= STACKS);
        assert!(model.by_pid.len() <= 2 * ROWS && model.by_place.len() <= 2 * ROWS);
    }

    #[test]
    fn noise_is_counted_and_no_panic() {
        let mut model = Model::default();
        for line in
            [&b"{"[..], b"", b"[]", b"{}", b"\xff", b"{\"kind\":3}", b"{\"kind\":\"syscall\",\"verdict\":\"x\"}"]
        {
            model.line(line);
        }
        model.line(br#"{"kind":"syscall","verdict":"leak","time":"x","process":"\u001b[2J\n"}"#);
        model.line("{\"kind\":\"syscall\",\"verdict\":\"leak\",\"time\":\"0123456789é12345678901234\"}".as_bytes());
        assert!(model.tally.lost >= 4);
        assert_eq!(model.leaks.get(0).map(|leak| leak.who.clone()).as_deref(), Some("\\u{1b}[2J\\n[0]"));
    }
}
