//! `--socks-auth`, `--socks-isolation`, `--socks-names`: a table of handshakes, sent by every family of system
//! calls, split at every byte, to a proxy that notes what reaches it. Of a bad handshake nothing does but the
//! messages before its fault.
//!
//! `SOCKSTRACE_CASE=name` runs the cases whose name contains it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::BACKENDS;
use support::cases::{run_all, with_privilege};
use support::programs::programs;
use support::run::{Outcome, Run, Status};
use support::stage::Stage;

/// How `tests/programs/handshakes.c` carries bytes, whatever the socket.
const FAMILIES: [&str; 12] = [
    "write", "writev", "pwritev2", "send", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "vmsplice",
    "dup", "other",
];
/// And how it connects.
const OPENINGS: [&str; 3] = ["nonblocking", "fastopen", "fastopen-connect"];
/// Where leaks are only logged, `io_uring_setup` is let through.
const RING: &str = "uring";

/// The proxy's ports, by the method that it chooses whatever is offered; `PASSWORD` where that is offered, else
/// none.
const SENSIBLE: u16 = 7201;
const CHOOSES_NONE: u16 = 7202;
const CHOOSES_GSSAPI: u16 = 7203;
const REFUSES: u16 = 7204;
const CHOOSES_PASSWORD: u16 = 7205;

/// A handshake: its messages, how many may reach the proxy, and a word of the reason if it is a leak.
struct Row {
    port: u16,
    messages: Vec<Vec<u8>>,
    reaches: usize,
    reason: Option<&'static str>,
}

fn bad(port: u16, reason: &'static str, reaches: usize, messages: &[&[u8]]) -> Row {
    let messages = messages.iter().map(|message| message.to_vec()).collect();
    Row { port, messages, reaches, reason: Some(reason) }
}

fn good(messages: &[&[u8]]) -> Row {
    let messages: Vec<Vec<u8>> = messages.iter().map(|message| message.to_vec()).collect();
    Row { port: SENSIBLE, reaches: messages.len(), messages, reason: None }
}

fn login(username: &str, password: &str) -> Vec<u8> {
    let field = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![1], field(username), field(password)].concat()
}

fn ask(command: u8, name: &str, port: u16) -> Vec<u8> {
    [&[5, command, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat()
}

const NONE: &[u8] = &[5, 1, 0];
const BOTH: &[u8] = &[5, 2, 0, 2];
const PASSWORD: &[u8] = &[5, 1, 2];
const BY_V4: &[u8] = &[5, 1, 0, 1, 203, 0, 113, 5, 0, 80];
const BY_V6: &[u8] = &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 80];
const DATA: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// What any kind of inspection finds.
fn any() -> Vec<Row> {
    let (name, login) = (ask(1, "site.example", 80), login("user", "word"));
    let first = |reason, message: &[u8]| bad(SENSIBLE, reason, 0, &[message]);
    let request = |reason, message: &[u8]| bad(SENSIBLE, reason, 1, &[NONE, message]);
    let auth = |reason, message: &[u8]| bad(SENSIBLE, reason, 1, &[BOTH, message, &name]);
    vec![
        first("SOCKS4 ", b"\x04\x01\x00\x50\xcb\x00\x71\x05me\0"),
        first("SOCKS4", b"\x04\x01\x00\x50\x00\x00\x00\x01me\0site.example\0"),
        first("HTTP", b"CONNECT site.example:80 HTTP/1.1\r\n\r\n"),
        first("HTTP", b"GET http://site.example/ HTTP/1.1\r\n\r\n"),
        first("TLS", b"\x16\x03\x01\x00\x05hello"),
        first("first byte is 0x06", b"\x06\x01\x00"),
        first("first byte is 0x00", b"\x00\x00\x00"),
        first("first byte is 0xff", b"\xff\x01"),
        first("no authentication method", &[5, 0]),
        first("0xff", &[5, 2, 2, 0xFF]),
        auth("version 5", &[5, 1, b'u', 1, b'p']),
        auth("version 0", &[0, 1, b'u', 1, b'p']),
        auth("username is empty", &[1, 0, 1, b'p']),
        auth("password is empty", &[1, 1, b'u', 0]),
        request("version 1", &login),
        request("version 4", b"\x04\x01\x00\x01\x01\x02\x03\x04\x00\x50"),
        request("version 71", DATA),
        request("command 0x00", b"\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50"),
        request("command 0x04", b"\x05\x04\x00\x01\x01\x02\x03\x04\x00\x50"),
        request("command 0xf2", b"\x05\xf2\x00\x01\x01\x02\x03\x04\x00\x50"),
        request("reserved byte is 0x05", b"\x05\x01\x05\x01\x01\x02\x03\x04\x00\x50"),
        request("address type 0x00", b"\x05\x01\x00\x00\x01\x02\x03\x04\x00\x50"),
        request("address type 0x02", b"\x05\x01\x00\x02\x01\x02\x03\x04\x00\x50"),
        request("names no host", b"\x05\x01\x00\x03\x00\x00\x50"),
        request("byte 0x00", &ask(1, "site\0example", 80)),
        request("byte 0x20", &ask(1, "site example", 80)),
        request("port 0", &ask(1, "site.example", 0)),
        request("ends in the middle", &BY_V6[..9]),
        bad(SENSIBLE, "command 0x09", 2, &[BOTH, &login, &[5, 9]]),
        bad(CHOOSES_GSSAPI, "gssapi", 1, &[&[5, 2, 0, 1], &[1, 1, 0, 1, 9]]),
        bad(CHOOSES_PASSWORD, "did not offer", 1, &[NONE, &login, &name]),
        bad(CHOOSES_NONE, "did not offer", 1, &[PASSWORD, &name]),
        bad(REFUSES, "refused all", 1, &[BOTH, &name]),
        good(&[NONE, &name, DATA]),
        good(&[NONE, BY_V4, DATA]),
        good(&[NONE, BY_V6]),
        good(&[BOTH, &login, &name, DATA]),
        good(&[NONE, &ask(0xF0, "site.example", 0)]),
    ]
}

fn required() -> Vec<Row> {
    let name = ask(1, "site.example", 80);
    vec![
        bad(SENSIBLE, "not offered", 0, &[NONE, &name]),
        bad(SENSIBLE, "not offered", 0, &[&[5, 1, 1]]),
        bad(CHOOSES_NONE, "without username and password", 1, &[BOTH, &name, DATA]),
        bad(SENSIBLE, "password is empty", 1, &[BOTH, &[1, 1, b'u', 0], &name]),
        good(&[BOTH, &login("u", "p"), &name, DATA]),
        good(&[PASSWORD, &login(&"x".repeat(40), "p"), &name]),
    ]
}

fn tor() -> Vec<Row> {
    let name = ask(1, "site.example", 80);
    let user = |reason, username: &str| bad(SENSIBLE, reason, 1, &[PASSWORD, &login(username, "iso"), &name]);
    vec![
        user("does not begin with <torS0X>", "name"),
        user("does not begin with <torS0X>", "<tors0x>0"),
        user("the format is missing", "<torS0X>"),
        user("unknown format '2'", "<torS0X>2"),
        user("where nothing may", "<torS0X>0rest"),
        user("no RPC object", "<torS0X>1"),
        bad(SENSIBLE, "password is empty", 1, &[PASSWORD, b"\x01\x09<torS0X>0\x00", &name]),
        bad(SENSIBLE, "Tor has no bind", 2, &[PASSWORD, &login("<torS0X>0", "i"), &ask(2, "a.b", 1)]),
        bad(SENSIBLE, "not offered", 0, &[NONE, &name]),
        good(&[PASSWORD, &login("<torS0X>0", "tab-1"), &name, DATA]),
        good(&[PASSWORD, &login("<torS0X>1object", "tab-1"), &name]),
    ]
}

fn isolation() -> Vec<Row> {
    let name = ask(1, "site.example", 80);
    vec![
        bad(SENSIBLE, "does not match", 1, &[PASSWORD, &login("u", "tab-x"), &name]),
        bad(SENSIBLE, "not offered", 0, &[NONE, &name]),
        good(&[PASSWORD, &login("u", "tab-17"), &name]),
    ]
}

fn names() -> Vec<Row> {
    vec![
        bad(SENSIBLE, "for an address", 1, &[NONE, BY_V4, DATA]),
        bad(SENSIBLE, "for an address", 1, &[NONE, BY_V6]),
        bad(SENSIBLE, "for an address", 1, &[NONE, &ask(1, "203.0.113.5", 80)]),
        good(&[NONE, &ask(1, "site.example", 80), DATA]),
        good(&[NONE, b"\x05\xf1\x00\x01\x01\x02\x03\x04\x00\x00"]),
    ]
}

/// What reached the proxy: at each port, connection by connection.
type Reached = Arc<Mutex<BTreeMap<u16, Vec<Option<Vec<u8>>>>>>;

/// How clients get to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    V4,
    V6,
    Unix,
}

impl Way {
    fn host(self, stage: &Stage, port: u16) -> String {
        match self {
            Self::V4 => "203.0.113.9".into(),
            Self::V6 => "2001:db8::9".into(),
            Self::Unix => stage.dir.join(format!("proxy-{port}")).display().to_string(),
        }
    }

    fn option(self, stage: &Stage, port: u16) -> String {
        let host = self.host(stage, port);
        match self {
            Self::V4 => format!("--proxy=socks5://{host}:{port}"),
            Self::V6 => format!("--proxy=socks5://[{host}]:{port}"),
            Self::Unix => format!("--proxy=socks5+unix://{host}"),
        }
    }
}

fn proxy(stage: &Stage, way: Way, port: u16, reached: &Reached) {
    let host = way.host(stage, port);
    if way == Way::Unix {
        let listener = UnixListener::bind(&host).unwrap();
        std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o777)).unwrap();
        serve(move || listener.accept().unwrap().0, port, reached);
    } else {
        let listener = TcpListener::bind((host.as_str(), port)).unwrap();
        serve(move || listener.accept().unwrap().0, port, reached);
    }
}

fn serve<S: Read + Write + Send + 'static>(
    mut accept: impl FnMut() -> S + Send + 'static,
    port: u16,
    reached: &Reached,
) {
    let reached = Arc::clone(reached);
    thread::spawn(move || {
        loop {
            let stream = accept();
            let index = {
                let mut reached = reached.lock().unwrap();
                let connections = reached.entry(port).or_default();
                connections.push(None);
                connections.len() - 1
            };
            let reached = Arc::clone(&reached);
            thread::spawn(move || {
                let mut all = Vec::new();
                let _ = speak(stream, port, &mut all);
                reached.lock().unwrap().get_mut(&port).unwrap()[index] = Some(all);
            });
        }
    });
}

fn take(stream: &mut impl Read, all: &mut Vec<u8>, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    for byte in bytes.chunks_mut(1) {
        stream.read_exact(byte)?;
        all.extend_from_slice(byte);
    }
    Ok(bytes)
}

fn speak(mut stream: impl Read + Write, port: u16, all: &mut Vec<u8>) -> std::io::Result<()> {
    let head = take(&mut stream, all, 2)?;
    let offered = take(&mut stream, all, head[1].into())?;
    let choice = match port {
        CHOOSES_NONE => 0,
        CHOOSES_GSSAPI => 1,
        REFUSES => 0xFF,
        CHOOSES_PASSWORD => 2,
        _ if offered.contains(&2) => 2,
        _ => 0,
    };
    stream.write_all(&[5, choice])?;
    if choice == 2 {
        let head = take(&mut stream, all, 2)?;
        take(&mut stream, all, head[1].into())?;
        let length = take(&mut stream, all, 1)?;
        take(&mut stream, all, length[0].into())?;
        stream.write_all(&[1, 0])?;
    }
    let head = take(&mut stream, all, 4)?;
    let length = match head[3] {
        1 => 4,
        4 => 16,
        _ => take(&mut stream, all, 1)?[0].into(),
    };
    take(&mut stream, all, length + 2)?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut rest = Vec::new();
    let result = stream.read_to_end(&mut rest);
    all.extend(&rest);
    result?;
    stream.write_all(&rest)
}

/// One connection of a run.
struct Attempt<'r> {
    row: &'r Row,
    family: &'static str,
    split: usize,
}

/// Every row, split at every byte: by each family if all are asked for, else by families in turn.
fn attempts<'r>(rows: &'r [Row], families: &[&'static str], each: bool) -> Vec<Attempt<'r>> {
    let mut turn = families.iter().copied().cycle();
    let mut all = Vec::new();
    for row in rows {
        for split in 0..row.messages.concat().len() {
            let chosen = if each { families.to_vec() } else { vec![turn.next().unwrap()] };
            all.extend(chosen.into_iter().map(|family| Attempt { row, family, split }));
        }
    }
    // And whole, by each family.
    all.extend(rows.iter().flat_map(|row| families.iter().map(move |&family| Attempt { row, family, split: 0 })));
    all
}

/// A run over a table.
#[derive(Debug, Clone, Copy)]
struct Case {
    backend: &'static str,
    action: &'static str,
    way: Way,
    options: &'static [&'static str],
    /// Every family at every split.
    each: bool,
}

fn check(case: Case, rows: &[Row]) -> Result<(), String> {
    let Case { backend, action, way, options, each } = case;
    let stage = Stage::new();
    let reached = Reached::default();
    let ports = SENSIBLE..=CHOOSES_PASSWORD;
    ports.clone().for_each(|port| proxy(&stage, way, port, &reached));
    let openings: &[&str] = if way == Way::Unix { &OPENINGS[..1] } else { &OPENINGS };
    let mut families = [&FAMILIES[..], openings].concat();
    // In a network namespace rings are refused all the same.
    families.extend((action == "log" && !options.contains(&"--isolate")).then_some(RING));
    let attempts = attempts(rows, &families, each);
    let mut list = String::new();
    for Attempt { row, family, split } in &attempts {
        let hex: String =
            row.messages.concat().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        writeln!(list, "{} {} {family} {split} {hex}", way.host(&stage, row.port), row.port).unwrap();
    }
    fs::write(stage.dir.join("list"), list).unwrap();
    let outcome = Run::new(backend, &stage.dir)
        .args(ports.map(|port| way.option(&stage, port)))
        .args(options)
        .on_leak(action)
        .args(["--stack=never", "--show-secrets"])
        .deadline(Duration::from_secs(240))
        .program([programs().handshakes.as_os_str(), "list".as_ref()])
        .run();
    let start = Instant::now();
    let goes_on = || reached.lock().unwrap().values().flatten().any(Option::is_none);
    while goes_on() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(5));
    }
    let mut by_port: BTreeMap<u16, _> =
        reached.lock().unwrap().iter().map(|(port, all)| (*port, all.clone().into_iter())).collect();
    let mut next = |port| by_port.get_mut(&port).and_then(Iterator::next).map(Option::unwrap_or_default);
    let reached: Vec<Vec<u8>> = attempts.iter().map_while(|attempt| next(attempt.row.port)).collect();
    let mut wrong = outcome.complaints();
    judge(case, &attempts, &reached, &outcome, &mut wrong);
    let count = wrong.len();
    wrong.truncate(5);
    if wrong.is_empty() { Ok(()) } else { Err(format!("{count} wrong: {wrong:#?}\n  {outcome:?}")) }
}

fn judge(case: Case, attempts: &[Attempt<'_>], reached: &[Vec<u8>], outcome: &Outcome, wrong: &mut Vec<String>) {
    let action = case.action;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    if lines.len() != attempts.len() || reached.len() != attempts.len() {
        wrong.push(format!("{} attempts, {} answers, {} connections", attempts.len(), lines.len(), reached.len()));
        return;
    }
    let mut leaks = outcome.leaks().filter(|event| event.text("kind") == "socks");
    for ((attempt, line), arrived) in attempts.iter().zip(lines).zip(reached) {
        let Attempt { row, family, split } = attempt;
        let what = format!("{:?} by {family}, split at {split}", row.reason.unwrap_or("good"));
        let all = row.messages.concat();
        let expected = if action == "log" { all.clone() } else { row.messages[..row.reaches].concat() };
        // Where leaks are let go, the proxy reads no further than it understands.
        // Else whole messages arrive: all good ones, but for those that came together with the fault.
        let whole = (0..=row.reaches).map(|count| row.messages[..count].concat()).any(|good| good == *arrived);
        let fits = if action == "log" { expected.starts_with(arrived) } else { whole };
        if !fits {
            wrong.push(format!("{what}: {arrived:02x?} reached the proxy, not {expected:02x?}"));
        }
        let Some(reason) = row.reason else {
            if !line.starts_with("end ") || *arrived != all {
                wrong.push(format!("{what}: {line}"));
            }
            continue;
        };
        // UNIX sockets know no reset. Whatever ended, no request was granted.
        let (end, answer) = line.split_once(' ').unwrap_or_default();
        let refused = end == "reset" || (end == "end" && case.way == Way::Unix && answer.len() <= 8);
        if action != "log" && !refused {
            wrong.push(format!("{what}: {line}"));
        }
        let call = if *family == "fastopen" { "sendto" } else { "connect" };
        match leaks.next() {
            Some(event)
                if event.text("reason").contains(reason)
                    && event.text("class") == "proxy"
                    && event.text("syscall") == call => {}
            event => wrong.push(format!("{what}: told as {event:?}")),
        }
    }
    if leaks.next().is_some() {
        wrong.push("more leaks were told".into());
    }
    let expected = if attempts.iter().any(|attempt| attempt.row.reason.is_some()) { 23 } else { 0 };
    if outcome.status != Status::Exited(expected) {
        wrong.push(format!("{:?}", outcome.status));
    }
}

fn table(test: &str, options: &'static [&'static str], rows: &[Row]) {
    with_privilege(test, || {
        let mut cases = Vec::new();
        for backend in BACKENDS {
            for (action, way, each) in [
                ("block", Way::V4, true),
                ("log", Way::V4, false),
                ("redirect", Way::V6, false),
                ("block", Way::Unix, false),
                ("log", Way::Unix, false),
            ] {
                cases.push(Case { backend, action, way, options, each });
            }
        }
        run_all(&cases, |case| format!("{case:?}"), |case| check(*case, rows));
    });
}

#[test]
fn any_handshake() {
    table("any_handshake", &["--socks-auth=any"], &any());
}

#[test]
fn credentials() {
    table("credentials", &["--socks-auth=required"], &required());
}

#[test]
fn stream_isolation() {
    table("stream_isolation", &["--socks-auth=tor"], &tor());
}

#[test]
fn isolation_field() {
    table("isolation_field", &["--socks-isolation=^tab-[0-9]+$"], &isolation());
}

#[test]
fn names_not_addresses() {
    table("names_not_addresses", &["--socks-names"], &names());
}

#[test]
fn isolated() {
    table("isolated", &["--socks-auth=tor", "--isolate"], &tor());
}

#[test]
fn faults_are_many() {
    let faults = [any(), required(), tor(), isolation(), names()];
    let count = faults.iter().flatten().filter(|row| row.reason.is_some()).count();
    assert!(count >= 40, "{count}");
}

/// The other actions.
#[test]
fn endings() {
    with_privilege("endings", || {
        let cases: Vec<_> = BACKENDS
            .iter()
            .flat_map(|backend| {
                [
                    ("kill", 137, "kill"),
                    ("kill-tree", 137, "kill-tree"),
                    ("core", 134, "core"),
                    ("redirect", 23, "block"),
                ]
                .map(|(on_leak, status, action)| (*backend, on_leak, status, action))
            })
            .collect();
        run_all(
            &cases,
            |case| format!("{case:?}"),
            |&(backend, on_leak, status, action)| {
                let stage = Stage::new();
                let reached = Reached::default();
                proxy(&stage, Way::V4, SENSIBLE, &reached);
                let line = format!("203.0.113.9 {SENSIBLE} write 0 {}\n", "0401005001020304".to_owned() + "00");
                fs::write(stage.dir.join("list"), line).unwrap();
                let outcome = Run::new(backend, &stage.dir)
                    .arg(format!("--proxy=socks5://203.0.113.9:{SENSIBLE}"))
                    .arg("--socks-auth=any")
                    .on_leak(on_leak)
                    .program([programs().handshakes.as_os_str(), "list".as_ref()])
                    .run();
                thread::sleep(Duration::from_millis(50));
                let mut wrong = outcome.complaints();
                if outcome.status != Status::Exited(status) {
                    wrong.push(format!("not {status}"));
                }
                let told = outcome.leaks().filter(|event| event.text("kind") == "socks").collect::<Vec<_>>();
                let stack = told.first().and_then(|event| event.0["stack"].as_array()).map_or(0, Vec::len);
                if told.len() != 1 || told[0].text("action") != action || stack == 0 {
                    wrong.push(format!("told as {told:?}"));
                }
                if reached.lock().unwrap().values().flatten().flatten().any(|bytes| !bytes.is_empty()) {
                    wrong.push("it reached the proxy".into());
                }
                if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} {outcome:?}")) }
            },
        );
    });
}

/// A connection that PROGRAM would inherit has a handshake that nobody has seen.
#[test]
fn inherited_connections_are_severed() {
    with_privilege("inherited_connections_are_severed", || {
        run_all(
            &BACKENDS,
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                let reached = Reached::default();
                proxy(&stage, Way::V4, SENSIBLE, &reached);
                let connection = TcpStream::connect(("203.0.113.9", SENSIBLE)).unwrap();
                let outcome = Run::new(backend, &stage.dir)
                    .arg(format!("--proxy=socks5://203.0.113.9:{SENSIBLE}"))
                    .arg("--socks-auth=any")
                    .inherit(&connection, 7)
                    .program(["sh", "-c", "printf '\\005\\001\\000' >&7"])
                    .run();
                drop(connection);
                thread::sleep(Duration::from_millis(50));
                let mut wrong = outcome.complaints();
                let told = outcome.leaks().filter(|event| event.text("class") == "proxy").count();
                if told != 1 || outcome.status != Status::Exited(23) {
                    wrong.push("not told".into());
                }
                if reached.lock().unwrap().values().flatten().flatten().any(|bytes| !bytes.is_empty()) {
                    wrong.push("it reached the proxy".into());
                }
                if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} {outcome:?}")) }
            },
        );
    });
}

/// What an event tells of a handshake, and what it keeps to itself.
#[test]
fn events() {
    with_privilege("events", || {
        let cases: Vec<_> =
            BACKENDS.iter().flat_map(|backend| [false, true].map(|shows| (*backend, shows))).collect();
        run_all(&cases, |case| format!("{case:?}"), |&(backend, shows)| told(backend, shows));
    });
}

fn told(backend: &str, shows: bool) -> Result<(), String> {
    let stage = Stage::new();
    proxy(&stage, Way::V4, SENSIBLE, &Reached::default());
    let rows = [
        good(&[BOTH, &login("secret-user", "tab-secret"), &ask(1, "site.example", 80)]),
        bad(SENSIBLE, "", 2, &[BOTH, &login("secret-user", "tab-secret"), BY_V4]),
        bad(SENSIBLE, "", 1, &[BOTH, &login("secret-user", "secret")]),
        bad(SENSIBLE, "", 0, &[b"\x04\x01\x00\x50\x00\x00\x00\x01me\0site.example\0"]),
    ];
    let mut list = String::new();
    for row in &rows {
        let hex = row.messages.concat().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        writeln!(list, "203.0.113.9 {SENSIBLE} send 5 {hex}").unwrap();
    }
    fs::write(stage.dir.join("list"), list).unwrap();
    let outcome = Run::new(backend, &stage.dir)
        .arg(format!("--proxy=socks5://203.0.113.9:{SENSIBLE}"))
        .args(["--socks-isolation=^tab-", "--socks-names", "--trace=all"])
        .args(shows.then_some("--show-secrets"))
        .program([programs().handshakes.as_os_str(), "list".as_ref()])
        .run();
    let events: Vec<_> = outcome.events.iter().filter(|event| event.text("kind") == "socks").collect();
    let (user, tab, other) = if shows {
        ("secret-user", "tab-secret", "secret")
    } else {
        ("se… (11 bytes)", "ta… (10 bytes)", "se… (6 bytes)")
    };
    let methods = json!(["none", "password"]);
    let expected = [
        json!({"offered": methods, "chosen": "password", "username": user, "password": tab,
               "command": "connect", "destination": "site.example:80"}),
        json!({"offered": methods, "chosen": "password", "username": user, "password": tab,
               "command": "connect", "destination": "203.0.113.5:80"}),
        json!({"offered": methods, "chosen": "password", "username": user, "password": other}),
        json!({"destination": "site.example:80"}),
    ];
    let mut wrong = outcome.complaints();
    if events.iter().map(|event| &event.0["socks"]).ne(expected.iter()) {
        wrong.push("another content".into());
    }
    for (event, verdict) in events.iter().zip(["allowed", "leak", "leak", "leak"]) {
        // The stack is that of connect(2): of the first frames, one is the guest's.
        let begins = event.0["stack"]
            .as_array()
            .is_some_and(|frames| frames.iter().any(|frame| frame["function"] == "begin"));
        let is_right = event.text("verdict") == verdict
            && event.text("syscall") == "connect"
            && event.text("address") == format!("203.0.113.9:{SENSIBLE}")
            && (begins || verdict == "allowed");
        if !is_right {
            wrong.push(format!("{}", event.0));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} {events:?} {outcome:?}")) }
}
