//! Sockets that the hooks on addresses don't see: where LSM programs do they are judged as others are, and elsewhere there
//! are none where leaks are refused.

use super::alone;
use super::running::on_stage;
use super::support::capture::Packet;
use super::support::lsm_works;
use super::support::run::{Outcome, Run, patience};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kinds of the guest's sockets, with what their packets say.
const KINDS: [(&str, u8, &str); 4] = [
    ("udplite4", 136, "203.0.113.9"),
    ("udplite6", 136, "2001:db8::9"),
    ("ping4", 1, "203.0.113.9"),
    ("ping6", 58, "2001:db8::9"),
];

/// Two that receive, two of each kind of UDP-Lite, and one of each other.
const OPENED: usize = 2 + 2 * 2 + 2 + 2;

/// What the guest tells: of which kind, in which way, how it ended.
fn told(outcome: &Outcome) -> Vec<[&str; 3]> {
    let words = |line| -> [&str; 3] { str::split(line, ' ').collect::<Vec<_>>().try_into().expect(line) };
    outcome.stdout.lines().map(words).collect()
}

/// How each way of sending is to end.
fn expected(name: &str, way: &str) -> &'static [&'static str] {
    match (name, way) {
        (_, "sendto-unspecified") if name == "udplite4" => &["EPERM"],
        (_, "send-unconnected" | "send-dissolved" | "sendto-unspecified") => &["EDESTADDRREQ"],
        // No connection, and nobody who would take one.
        ("dccp4" | "dccp6", "send") => &["ENOTCONN", "EPIPE"],
        ("dccp4" | "dccp6", "connect") => &["ECONNREFUSED"],
        (_, way) if way.ends_with("foreign") => &["EPERM"],
        _ => &["done"],
    }
}

/// Somebody outside of the tree, who hands over what leads to the witness or can.
const GIVES: &str = "
import socket
given = [socket.socket(socket.AF_INET, kind, protocol) for kind, protocol in [(2, 136), (2, 1), (3, 1)]]
for connected in given[:2]:
    connected.connect(('203.0.113.5', 9053))
giver = socket.socket(socket.AF_UNIX)
giver.settimeout(60)
giver.bind('giver.sock')
giver.listen()
taker = giver.accept()[0]
for one in given:
    socket.send_fds(taker, [b'x'], [one.fileno()])
";

/// Has it wait for the guest.
fn giver(dir: &Path) -> Child {
    let giver = Command::new("/usr/bin/python3").args(["-c", GIVES]).current_dir(dir).spawn().unwrap();
    let end = Instant::now() + patience(Duration::from_secs(10));
    while !dir.join("giver.sock").exists() {
        assert!(Instant::now() < end, "nobody gives");
        std::thread::sleep(Duration::from_millis(5));
    }
    giver
}

#[test]
fn may_send_where_it_is_allowed() {
    let Some(_alone) = alone() else { return };
    on_stage(|stage| {
        let guest = ["/usr/bin/python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ebpf/odd_sockets.py")];
        let giver = lsm_works().then(|| giver(&stage.dir));
        let run = Run::new("ebpf", &stage.dir).allow_stage().arg("--stack=never");
        let outcome = run.program(guest).deadline(Duration::from_secs(20)).run();
        if let Some(mut giver) = giver {
            assert!(giver.wait().unwrap().success());
        }
        assert!(outcome.complaints().is_empty(), "{outcome:?}");
        let (truth, told) = (stage.truth(), told(&outcome));
        let to = |ip: IpAddr| truth.packets.iter().filter(move |it| it.addresses.is_some_and(|(_, to)| to == ip));
        // What it was handed has the witness's address for its own, so that answers to its pings go there.
        let is_answer = |it: &&Packet| (it.protocol, it.ports.0) == (1, 0);
        let foreign = |ip: &str| to(ip.parse().unwrap()).filter(|it| !is_answer(it)).count();
        assert_eq!((foreign("203.0.113.5"), foreign("2001:db8::5")), (0, 0), "{truth:?} {outcome:?}");
        assert!(truth.tcp.is_empty() && truth.udp.is_empty());
        let refused = told.iter().filter(|[_, _, result]| *result == "EPERM").count();
        if !lsm_works() {
            // The kernel may have no DCCP; sockstrace answers first.
            assert!(told.iter().all(|[_, way, result]| (*way, *result) == ("socket", "EPERM")), "{outcome:?}");
            assert!(outcome.leaks().all(|leak| leak.text("syscall") == "socket"), "{outcome:?}");
            // Two more that would have received.
            return assert_eq!((refused, outcome.leaks().count()), (6, 8), "{outcome:?}");
        }
        let lacking: Vec<_> = told.iter().filter(|[_, way, _]| *way == "socket").collect();
        if !lacking.is_empty() {
            println!("skipped: this kernel has none of {lacking:?}");
        }
        for [name, way, result] in &told {
            let is_lacking = name.starts_with("dccp") && *way == "socket";
            assert!(is_lacking || expected(name, way).contains(result), "{name} {way}: {result}, {outcome:?}");
        }
        for (name, protocol, ip) in KINDS {
            let came = to(ip.parse().unwrap()).filter(|it| it.protocol == protocol && it.holds(b"odd-sockets"));
            let is_sent =
                |it: &&[&str; 3]| it[0] == name && ["send", "writ"].contains(&&it[1][..4]) && it[2] == "done";
            let (sent, came) = (told.iter().filter(is_sent).count(), came.count());
            // Each is seen as it goes and as it comes; what IPv6's sends to a mapped address is IPv4.
            let expected = 2 * (sent - usize::from(name == "udplite6"));
            assert!(sent >= 5 && came >= expected, "{name}: {came} packets of {sent} messages, {truth:?}");
        }
        assert_eq!(outcome.leaks().count(), refused, "{outcome:?}");
        // The others: what is let go is counted where it is named, and so are sockets that are opened.
        let is_counted = |it: &&[&str; 3]| {
            let named = ["connect", "connect-again", "sendto", "sendmsg", "sendto-mapped"].contains(&it[1]);
            named && ["done", "ECONNREFUSED"].contains(&it[2])
        };
        let events = outcome.summary.as_ref().and_then(|summary| summary.number("events"));
        let counted = told.iter().filter(is_counted).count();
        assert_eq!(events, Some((refused + counted + OPENED) as i64), "{outcome:?}");
        // What a raw socket's header says is its own affair.
        for leak in outcome.leaks().filter(|leak| leak.0["socket"]["type"] != "raw") {
            let address = leak.text("address");
            let is_foreign = ["203.0.113.5:9053", "[2001:db8::5]:9053"].contains(&address);
            assert!(is_foreign && leak.text("reason").contains("no proxy or rule covers it"), "{leak:?}");
            let discloses = leak.text("syscall") == "connect" && leak.0["socket"]["type"] == "dgram";
            assert_eq!(leak.text("class"), if discloses { "disclosure" } else { "outbound" }, "{leak:?}");
            assert_eq!((leak.text("errno"), leak.text("action")), ("EPERM", "block"), "{leak:?}");
        }
    });
}

/// In the words of the guests below.
const VSOCK: &str = "
import ctypes, errno, socket, sys
def tell(way, act):
    try:
        print(way, act() or 'done', flush=True)
    except OSError as error:
        print(way, errno.errorcode.get(error.errno, 'ETIMEDOUT'), flush=True)
port = int(sys.argv[1])
try:
    vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
except OSError as error:
    print('socket', errno.errorcode[error.errno])
    sys.exit()
";

const SERVES: &str = "
tell('bind', lambda: vsock.bind((socket.VMADDR_CID_ANY, port)))
tell('listen', vsock.listen)
def served():
    global vsock
    vsock = vsock.accept()[0]
tell('accept', served)
";

const SENDS: &str = "
tell('recv', lambda: vsock.recv(9).decode())
tell('send', lambda: vsock.send(b'leak'))
tell('write', lambda: __import__('os').write(vsock.fileno(), b'leak'))
";

/// Somebody outside of the tree.
const CALLS: &str = "
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    if vsock.connect_ex((1, int(sys.argv[1]))) == 0:
        vsock.send(b'question')
        print(vsock.recv(99))
        break
    time.sleep(0.05)
";

#[test]
fn vsocks_neither_connect_nor_serve() {
    let Some(_alone) = alone() else { return };
    // Ports of vsock belong to no network namespace.
    let port = (50_000 + std::process::id() % 10_000).to_string();
    let available = Command::new("/usr/bin/python3").args(["-c", VSOCK, &port]).output().unwrap();
    if !available.stdout.is_empty() {
        return println!("skipped: this kernel has no vsock");
    }
    on_stage(|stage| {
        let connects = format!("{VSOCK}tell('connect', lambda: vsock.connect((1, port)))\n{SERVES}");
        let run = Run::new("ebpf", &stage.dir).allow_stage().args(["--incoming=block", "--stack=never"]);
        let outcome = run.program(["/usr/bin/python3", "-c", &connects, &port]).run();
        assert!(outcome.complaints().is_empty(), "{outcome:?}");
        let leaks: Vec<_> =
            outcome.leaks().map(|it| ["syscall", "class", "address"].map(|key| it.text(key))).collect();
        if !lsm_works() {
            assert_eq!(outcome.stdout, "socket EPERM\n", "{outcome:?}");
            return assert_eq!(leaks, [["socket", "outbound", ""]], "{outcome:?}");
        }
        assert_eq!(outcome.stdout, "connect EPERM\nbind EPERM\nlisten EPERM\naccept EPERM\n", "{outcome:?}");
        let (to, at) = (format!("vsock:1:{port}"), format!("vsock:{}:{port}", libc::VMADDR_CID_ANY));
        let all = [
            ["connect", "outbound", &to],
            ["bind", "inbound", &at],
            ["listen", "inbound", ""],
            ["accept4", "inbound", ""],
        ];
        assert_eq!(leaks, all, "{outcome:?}");
    });
    if !lsm_works() {
        return;
    }
    // Who is connected to from outside, where that is allowed, tells nothing.
    on_stage(|stage| {
        let limit = patience(Duration::from_secs(10)).as_secs().to_string();
        let mut caller = Command::new("/usr/bin/python3");
        let caller = caller.args(["-c", CALLS, &port, &limit]).stdout(Stdio::piped()).spawn().unwrap();
        let serves = format!("{VSOCK}vsock.settimeout({limit})\n{SERVES}{SENDS}");
        let run = Run::new("ebpf", &stage.dir).allow_stage().arg("--stack=never");
        let outcome =
            run.program(["/usr/bin/python3", "-c", &serves, &port]).deadline(Duration::from_secs(30)).run();
        let caller = caller.wait_with_output().unwrap();
        let heard = String::from_utf8_lossy(&caller.stdout).into_owned();
        if outcome.stdout.contains("accept ETIMEDOUT") || outcome.stdout.contains("bind EADDRNOTAVAIL") {
            return println!("skipped: nobody here can be reached by vsock: {outcome:?}");
        }
        let all = "bind done\nlisten done\naccept done\nrecv question\nsend EPERM\nwrite EPERM\n";
        assert_eq!((outcome.stdout.as_str(), heard.as_str()), (all, "b''\n"), "{outcome:?}");
        let leaks: Vec<_> = outcome.leaks().map(|it| (it.text("class"), it.text("action"))).collect();
        assert_eq!(leaks, [("outbound", "block"); 2], "{outcome:?}");
    });
}
