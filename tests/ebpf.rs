//! The eBPF backend: what `--all` sees of the whole machine, here of the tests' own processes.
//!
//! What is right is what the programs did: the guests of the leak vectors with the witnesses of their stages,
//! and sockets of the tests' own, whose addresses the kernel tells.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "ebpf/attach.rs"]
mod attach;
#[allow(dead_code, reason = "judging by event is for backends that run programs")]
#[path = "vectors/check.rs"]
mod check;
#[path = "ebpf/odd_sockets.rs"]
mod odd_sockets;
#[path = "ebpf/owners.rs"]
mod owners;
#[path = "vectors/redirected.rs"]
mod redirected;
#[path = "vectors/rows.rs"]
mod rows;
#[path = "ebpf/running.rs"]
mod running;
#[path = "vectors/sink.rs"]
mod sink;
mod support;
#[allow(dead_code, reason = "as above")]
#[path = "vectors/table.rs"]
mod table;
#[path = "ebpf/watcher.rs"]
mod watcher;

use check::{Mode, arrived, is_available};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::run::patience;
use support::stage::Stage;
use table::{At, Exception, Fixture, Native, Vector};
use watcher::Watcher;

/// What is watched: rows that are about other calls are not for this backend yet.
const WATCHED: [&str; 8] = ["connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"];

fn text<'v>(event: &'v Value, key: &str) -> &'v str {
    event[key].as_str().unwrap_or_default()
}

fn has_address(event: &Value, at: At) -> bool {
    let address = text(event, "address");
    match at {
        At::Is(expected) => address == expected,
        At::Starts(start) => address.starts_with(start),
        At::Ends(end) => address.ends_with(end),
        At::Any => true,
    }
}

/// Rows that are left out, each with its reason.
fn left_out(row: &Vector) -> Option<&'static str> {
    if !row.calls.iter().any(|call| WATCHED.contains(call)) {
        return Some("another call is reported in its place");
    }
    if row.excepts(|it| matches!(it, Exception::AnyStatus(_))) {
        return Some("a race of a hundred thousand calls");
    }
    match (row.guest, row.fixture) {
        (_, Fixture::Unix) => Some("paths are shown as given, not as resolved"),
        _ if row.options.contains(&"--unix=leak") => Some("UNIX sockets are no leaks without --unix leak"),
        (guest, _) if guest.starts_with("x32") => Some("x32 calls are not seen"),
        (guest, _) if guest.contains("source-route") || guest.contains("rthdr") => {
            Some("control messages are not looked at")
        }
        (guest, _) if guest.starts_with("netlink-") => Some("what is asked of netlink is not looked at"),
        _ => None,
    }
}

/// One test at a time: each sees this whole process. `None` where nobody can watch.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    support::ebpf_works().then_some(alone)
}

/// Every way past the proxy is seen, with the address that the kernel used, while it goes through.
#[test]
fn every_vector_is_seen() {
    let Some(_alone) = alone() else { return };
    let mut watcher = Watcher::start(&[
        // Not what the witnesses receive.
        &format!("--calls={}", WATCHED.join(",")),
        "--incoming=block",
        "--proxy=socks5://203.0.113.9:9050",
        "--proxy=socks5://[2001:db8::9]:9050",
    ]);
    let (mut wrong, mut checked, mut skipped) = (Vec::new(), 0, Vec::new());
    for row in rows::rows() {
        if !row.needs.is_none_or(is_available) || row.native == Native::Fails {
            continue;
        }
        if let Some(why) = left_out(&row) {
            skipped.push((row.name(), why));
            continue;
        }
        // On a thread: a stage takes its thread into a namespace of its own.
        let (shown, what) = std::thread::scope(|scope| {
            let run = || {
                let mut stage = Stage::new();
                let (outcome, truth, served) = check::perform(&mut stage, &row, Mode::Native, None);
                (arrived(&row, &truth, &outcome, served), format!("{outcome:?}"))
            };
            scope.spawn(run).join().unwrap()
        });
        let fits = |event: &Value| {
            row.calls.contains(&text(event, "syscall"))
                && has_address(event, row.address)
                && text(event, "class") == row.class
                && row.abi == text(event, "abi")
                && (!row.guest.starts_with("uring-") || text(event, "via") == "io_uring")
        };
        let seen = watcher.wait_for(patience(Duration::from_secs(2)), fits);
        checked += 1;
        if !seen {
            let calls: Vec<_> = watcher.since().iter().map(ToString::to_string).collect();
            let all = calls.join("\n    ");
            wrong.push(format!(
                "{} (arrived: {shown}): {:?} not seen\n  {what}\n    {all}",
                row.name(),
                row.address
            ));
        }
        watcher.forget();
    }
    println!("{checked} rows; left out: {skipped:?}");
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 60, "{checked}");
    let summary = watcher.stop();
    assert_eq!(summary["dropped"], 0, "{summary}");
}

/// A thread's name as the kernel keeps it: the tests' threads have their tests' names.
fn own_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_owned()
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn lines_are_those_of_sockwho() {
    let Some(_alone) = alone() else { return };
    let name = own_name();
    let watcher = Watcher::start_with(&["--format=sockwho", &format!("--filter=name={name}")]);
    let (listener, closed) = (TcpListener::bind("127.0.0.1:0").unwrap(), closed_port());
    let server = listener.local_addr().unwrap();
    let client = TcpStream::connect(server).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    TcpStream::connect(("127.0.0.1", closed)).unwrap_err();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = udp.local_addr().unwrap();
    udp.send_to(b"abc", own).unwrap();
    assert_eq!(udp.recv_from(&mut [0; 9]).unwrap(), (3, own));
    let six = UdpSocket::bind("[::1]:0").unwrap();
    six.send_to(b"six", six.local_addr().unwrap()).unwrap();
    let expected = {
        let fd = |socket: &dyn AsRawFd| format!("{name}/{}/{}", std::process::id(), socket.as_raw_fd());
        let state = format!("{name}/{} socket::set_state", std::process::id());
        [
            format!("{} syscall::bind(127.0.0.1:0) = 0", fd(&listener)),
            format!("{} syscall::listen({server}) = 0", fd(&listener)),
            format!("{} syscall::connect({server}) = 0", fd(&client)),
            format!("{} syscall::accept4({peer}) = {}", fd(&listener), accepted.as_raw_fd()),
            format!("syscall::connect(127.0.0.1:{closed}) = -1 [ECONNREFUSED]"),
            format!("{} syscall::sendto({own}) = 3", fd(&udp)),
            format!("{} syscall::recvfrom({own}) = 3", fd(&udp)),
            format!("{} syscall::sendto({}) = 3", fd(&six), six.local_addr().unwrap()),
            format!("{state}({server} <-> 0.0.0.0:0) Close -> Listen"),
            format!("{state}(127.0.0.1:0 <-> {server}) Close -> SynSent"),
            format!("{state}({peer} <-> {server}) SynSent -> Established"),
            format!("{state}({server} <-> {peer}) SynRecv -> Established"),
            format!("<-> 127.0.0.1:{closed}) SynSent -> Close"),
        ]
    };
    drop((listener, client, accepted));
    let text = watcher.stop_for_text();
    for line in expected {
        assert!(text.lines().any(|there| there.ends_with(&line)), "{line} is not in\n{text}");
    }
}

/// Each filter lets through what it says and nothing else.
#[test]
fn filters() {
    let Some(_alone) = alone() else { return };
    let by_name = format!("--filter=name={}", own_name());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (server, closed) = (listener.local_addr().unwrap(), closed_port());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let filters = [
        ("calls", "--calls=connect,sendto".to_owned()),
        ("states", "--calls=set_state".to_owned()),
        ("port", format!("--filter=port={closed}")),
        ("address", format!("--filter=address={server}")),
        ("nobody", "--filter=uid=65534".to_owned()),
        ("netns", "--filter=netns=/proc/self/ns/net".to_owned()),
        ("elsewhere", "--filter=netns=1".to_owned()),
        ("tree", format!("--filter=pid={}", std::process::id())),
        ("sleeper", format!("--filter=pid={}", sleeper.id())),
    ];
    let watchers: Vec<_> = filters
        .iter()
        .map(|(what, filter)| (*what, Watcher::start_with(&["--format=jsonl", &by_name, filter])))
        .collect();
    TcpStream::connect(server).unwrap();
    listener.accept().unwrap();
    TcpStream::connect(("127.0.0.1", closed)).unwrap_err();
    udp.send_to(b"x", udp.local_addr().unwrap()).unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    for (what, watcher) in watchers {
        let text = watcher.stop_for_text();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut calls: Vec<_> = events
            .iter()
            .filter(|event| event["kind"] == "syscall")
            .map(|event| format!("{} {}", self::text(event, "syscall"), self::text(event, "address")))
            .collect();
        let states = events.iter().filter(|event| event["kind"] == "tcp_state").count();
        calls.retain(|call| !call.starts_with("accept"));
        let (to_server, to_closed) = (format!("connect {server}"), format!("connect 127.0.0.1:{closed}"));
        let sent = format!("sendto {}", udp.local_addr().unwrap());
        let all = vec![to_server.clone(), to_closed.clone(), sent];
        let expected = match what {
            "calls" | "netns" | "tree" => all,
            "port" => vec![to_closed],
            "address" => vec![to_server],
            _ => Vec::new(),
        };
        assert_eq!(calls, expected, "{what}\n{text}");
        match what {
            "calls" | "nobody" | "elsewhere" | "sleeper" => assert_eq!(states, 0, "{what}\n{text}"),
            _ => assert!(states > 0, "{what}\n{text}"),
        }
    }
}

/// A user is who he is outside of his user namespace.
#[test]
fn users_are_those_of_the_machine() {
    let Some(_alone) = alone() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let watcher = Watcher::start_with(&["--format=jsonl", "--calls=connect", "--filter=uid=65534"]);
    let connect = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))";
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user"])
        .args(["/usr/bin/python3", "-c", connect, &server.port().to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let text = watcher.stop_for_text();
    assert!(text.contains(&format!("\"address\":\"{server}\"")), "{text}");
}

/// What a process executed is known, however soon it has ended.
#[test]
fn short_lives_have_executables() {
    let Some(_alone) = alone() else { return };
    let guest = &support::programs::programs().traces;
    let watcher = watcher::Watcher::start(&[]);
    for _ in 0..20 {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        assert!(std::process::Command::new(guest).args(["here", &port]).status().unwrap().success());
    }
    let text = watcher.stop_for_text();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let sent: Vec<Value> =
        events.filter(|event| event["syscall"] == "sendto" && event["process"] == "traces").collect();
    assert_eq!(sent.len(), 20, "{text}");
    for event in sent {
        assert_eq!(
            (event["exe"].as_str(), event["ppid"].as_u64()),
            (guest.to_str(), Some(u64::from(std::process::id())))
        );
    }
}

/// In a container /proc has other numbers than the kernel: nobody is taken for another one.
#[test]
fn containers_number_processes_otherwise() {
    let Some(_alone) = alone() else { return };
    let contained = |words: &[&str]| {
        let mut command = std::process::Command::new("timeout");
        command.args(["--signal=KILL", "60", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(words).arg(support::run::sockstrace());
        command.args(["--all", "--format=jsonl", "--trace=all"]);
        command
    };
    let output = contained(&[]).arg("--filter=pid=1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && told.contains("pid namespace"), "{output:?}");
    let path = format!("/tmp/sst-contained-{}", std::process::id());
    // Somebody in there gets the number that we have outside.
    let script =
        "echo $0 > /proc/sys/kernel/ns_last_pid; sleep 60 & \"$@\" & own=$!; read end; kill $own; wait $own";
    let before = (std::process::id() - 1).to_string();
    let mut command = contained(&["sh", "-c", script, &before]);
    command.arg(format!("--filter=name={}", own_name())).arg(format!("--output={path}"));
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("pid namespace")));
    assert!(lines.any(|line| line.contains("watching the machine")));
    TcpStream::connect(("127.0.0.1", closed_port())).unwrap_err();
    child.wait().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let connect = events.find(|event| event["syscall"] == "connect").expect("a connect");
    assert_eq!(connect["pid"], std::process::id(), "{text}");
    assert!(connect["exe"].is_null() && connect["ppid"].is_null(), "{text}");
}

/// Stops it, and sends so many datagrams.
fn send_while_it_stands_still(watcher: &Watcher, count: u64) {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = udp.local_addr().unwrap();
    watcher.signal(libc::SIGSTOP);
    for _ in 0..count {
        udp.send_to(b"x", own).unwrap();
    }
}

/// Who ends it loses nothing of what has happened before.
#[test]
fn what_is_there_at_the_end_is_told() {
    const SENT: u64 = 100_000;
    let Some(_alone) = alone() else { return };
    let options = ["--format=jsonl", "--calls=sendto", &format!("--filter=name={}", own_name())];
    let watcher = Watcher::start_with(&options);
    send_while_it_stands_still(&watcher, SENT);
    watcher.signal(libc::SIGTERM);
    watcher.signal(libc::SIGCONT);
    let text = watcher.stop_for_text();
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((summary["events"].as_u64(), summary["dropped"].as_u64()), (Some(SENT), Some(0)), "{summary}");
    assert_eq!(text.lines().filter(|line| line.contains(r#""syscall":"sendto""#)).count() as u64, SENT);
}

/// While the reader stands still, events are lost: so many, and that is said where it happened.
#[test]
fn what_is_lost_is_counted() {
    const SENT: u64 = 200_000;
    let Some(_alone) = alone() else { return };
    let mut watcher =
        Watcher::start_with(&["--format=jsonl", "--calls=sendto", &format!("--filter=name={}", own_name())]);
    send_while_it_stands_still(&watcher, SENT);
    watcher.signal(libc::SIGCONT);
    assert!(watcher.wait_for(patience(Duration::from_secs(10)), |event| event["kind"] == "lost"));
    let text = watcher.stop_for_text();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = events.last().unwrap();
    let (seen, dropped) = (summary["events"].as_u64().unwrap(), summary["dropped"].as_u64().unwrap());
    assert!(dropped > 0 && seen > 0, "{summary}");
    assert_eq!(seen + dropped, SENT, "{summary}");
    let told: u64 =
        events.iter().filter(|event| event["kind"] == "lost").map(|e| e["dropped"].as_u64().unwrap()).sum();
    assert_eq!(told, dropped);
    let written = events.iter().filter(|event| event["kind"] == "syscall").count() as u64;
    assert_eq!(written, seen);
}

/// However it ends, its programs go with it.
#[test]
fn nothing_is_left_in_the_kernel() {
    const GET_FD_BY_ID: libc::c_int = 13; // BPF_PROG_GET_FD_BY_ID of <linux/bpf.h>
    let Some(_alone) = alone() else { return };
    let watcher = Watcher::start(&[]);
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", watcher.pid())).unwrap() {
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        ids.extend(info.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    assert!(ids.len() >= 16, "{ids:?}");
    let exists = |id: &u32| {
        let attributes = [*id, 0, 0, 0];
        // SAFETY: bpf(2) reads as many bytes as it is told; a descriptor that it makes is closed.
        unsafe {
            let fd = libc::syscall(libc::SYS_bpf, GET_FD_BY_ID, attributes.as_ptr(), size_of_val(&attributes));
            fd >= 0 && libc::close(fd as i32) == 0
        }
    };
    assert!(ids.iter().all(exists));
    watcher.signal(libc::SIGKILL);
    drop(watcher);
    // The kernel frees them after a grace period.
    let start = std::time::Instant::now();
    while ids.iter().any(exists) {
        assert!(start.elapsed() < Duration::from_secs(10), "{ids:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
