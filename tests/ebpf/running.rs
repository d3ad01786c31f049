//! `--backend ebpf -- PROGRAM`: what the tables of the vectors don't show.

use super::alone;
use super::support::lsm_works;
use super::support::programs::programs;
use super::support::run::{Event, Run, Status, patience, sockstrace};
use super::support::stage::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs a stage's thread of its own: it is taken into a network namespace.
pub(super) fn on_stage(body: impl FnOnce(&Stage) + Send) {
    std::thread::scope(|scope| scope.spawn(|| body(&Stage::new())).join().unwrap());
}

/// The root of a user namespace may load nothing, and is told so.
#[test]
fn a_user_namespace_is_not_enough() {
    let Some(_alone) = alone() else { return };
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]).arg(sockstrace()).args(["--backend=ebpf", "--", "true"]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && told.contains("as root of the machine"), "{output:?}");
}

/// What the backend can't do is said before the program starts.
#[test]
fn what_it_cannot_do_is_refused() {
    let Some(_alone) = alone() else { return };
    let mark = std::env::temp_dir().join(format!("sst-running-{}", std::process::id()));
    let cases: [(&[&str], &str); 7] = [
        (&["--on-leak=core"], "--on-leak log, block, redirect, kill or kill-tree"),
        (&["--on-leak=redirect", "--dns=redirect=map"], "--dns redirect"),
        (&["--isolate"], "--isolate"),
        (&["--dns=redirect"], "--dns redirect"),
        (&["--socks-auth=required"], "--socks-auth"),
        (&["--socks-isolation=x"], "--socks-isolation"),
        (&["--socks-names"], "--socks-names"),
    ];
    for (options, why) in cases {
        let mut command = Command::new(sockstrace());
        let output = command.arg("--backend=ebpf").args(options).args(["--", "touch"]).arg(&mark).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && told.contains(why), "{options:?}: {:?} {told}", output.status);
        assert!(!mark.exists(), "{options:?}: it ran");
    }
}

/// Of another cgroup namespace the hooks see a part of the cgroups alone, and a program could leave that.
#[test]
fn a_part_of_the_cgroups_is_not_enough() {
    let Some(_alone) = alone() else { return };
    let mut command = Command::new("unshare");
    command.arg("--cgroup").arg(sockstrace()).args(["--backend=ebpf", "--", "echo", "it ran"]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && told.contains("cgroup namespace"), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

/// What is let go isn't told, but counted, and so is who did it; what is refused is told whole.
#[test]
fn what_is_let_go_is_counted() {
    const SENDS: &str = "
import os, socket
def send(count):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(count):
        udp.sendto(b'x', ('203.0.113.9', 9053))
send(700)
child = os.fork()
if child == 0:
    send(300)
    os._exit(0)
os.waitpid(child, 0)
tcp = socket.socket()
assert tcp.connect_ex(('203.0.113.9', 9050)) == 0
for family, address in [(socket.AF_INET, ('203.0.113.5', 7777)), (socket.AF_INET6, ('2001:db8::5', 7777))]:
    leak = socket.socket(family, socket.SOCK_DGRAM)
    os.dup2(leak.fileno(), 77)
    try:
        socket.socket(fileno=77).sendto(b'x', socket.MSG_DONTWAIT, address)
    except OSError as error:
        print(error.errno)
";
    let Some(_alone) = alone() else { return };
    on_stage(|stage| {
        for (on_leak, refused) in [("block", true), ("log", false)] {
            let run = Run::new("ebpf", &stage.dir).on_leak(on_leak).allow_stage();
            let run = run.args(["--block-errno=EHOSTUNREACH", "--stack=never"]);
            let outcome = run.program(["/usr/bin/python3", "-c", SENDS]).run();
            let (printed, errno, action, result) =
                if refused { ("113\n113\n", "EHOSTUNREACH", "block", -1) } else { ("", "", "continue", 1) };
            assert!(outcome.complaints().is_empty() && outcome.stdout == printed, "{outcome:?}");
            assert_eq!(outcome.status, Status::Exited(23), "{outcome:?}");
            let summary = outcome.summary.as_ref().expect("a summary");
            let counts = ["events", "leaks", "processes", "dropped"].map(|key| summary.number(key));
            assert_eq!(counts, [1003, 2, 2, 0].map(Some), "{outcome:?}");
            assert_eq!(outcome.events.len(), 2, "{outcome:?}");
            for (event, address) in outcome.events.iter().zip(["203.0.113.5:7777", "[2001:db8::5]:7777"]) {
                let told = ["syscall", "abi", "address", "errno", "action", "verdict"].map(|key| event.text(key));
                assert_eq!(told, ["sendto", std::env::consts::ARCH, address, errno, action, "leak"], "{event:?}");
                assert_eq!((event.number("fd"), event.number("return")), (Some(77), Some(result)), "{event:?}");
            }
            assert_eq!(stage.truth().foreign().is_empty(), refused, "{on_leak}");
        }
    });
}

/// A program that is root can't take away what judges it.
#[test]
fn judges_are_not_detached() {
    const DETACHES: &str = "
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    return libc.syscall({'x86_64': 321, 'aarch64': 280}[os.uname().machine], command, attributes, len(attributes))
links = []
for name in os.listdir('/proc/%d/fdinfo' % os.getppid()):
    try:
        lines = open('/proc/%d/fdinfo/%s' % (os.getppid(), name)).read().splitlines()
    except OSError:
        continue
    links += [int(line.split()[1]) for line in lines if line.startswith('link_id:')]
assert links
for link in links:
    fd = bpf(30, struct.pack('I', link) + bytes(28))
    if fd >= 0:
        bpf(34, struct.pack('I', fd) + bytes(28))
print(ctypes.get_errno())
print(socket.socket().connect_ex(('203.0.113.5', 7777)))
";
    let Some(_alone) = alone() else { return };
    on_stage(|stage| {
        let run = Run::new("ebpf", &stage.dir).allow_stage().arg("--stack=never");
        let outcome = run.program(["/usr/bin/python3", "-c", DETACHES]).run();
        assert!(outcome.complaints().is_empty() && outcome.stdout == "1\n1\n", "{outcome:?}");
        let told: Vec<_> = outcome.leaks().map(|leak| leak.text("syscall")).collect();
        assert!(told.contains(&"bpf") && told.last() == Some(&"connect"), "{outcome:?}");
        assert!(stage.truth().foreign().is_empty());
    });
}

/// Where another /sys is mounted, as by `ip netns exec`, nothing has to be mounted by hand.
#[test]
fn cgroups_need_no_mount() {
    let Some(_alone) = alone() else { return };
    on_stage(|stage| {
        let hidden = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
        let run = Run::new("ebpf", &stage.dir).allow_stage().arg("--stack=never");
        let connect = "import socket; print(socket.socket().connect_ex(('203.0.113.5', 7777)))";
        let outcome = run
            .program(["/usr/bin/python3", "-c", connect])
            .wrap(["unshare", "--mount", "sh", "-c", hidden, "sh"])
            .run();
        assert!(outcome.stdout == "1\n" && outcome.status == Status::Exited(23), "{outcome:?}");
    });
}

/// With LSM programs sendmsg waits for nobody: it goes on while sockstrace stands still, and is judged all the same.
#[test]
fn messages_wait_for_nobody() {
    const SENDS: &str = "
import array, os, socket, sys, time
os.chdir(sys.argv[1])
left, right = socket.socketpair()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
open('ready', 'w').close()
while not os.path.exists('go'):
    time.sleep(0.01)
for _ in range(100):
    left.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))])
udp.sendmsg([b'x'], [], 0, ('203.0.113.9', 9053))
chosen = (socket.IPPROTO_IP, 8, b'\\2\\0\\0\\0' + bytes(8))
for control, address in [([], ('203.0.113.5', 7777)), ([chosen], ('127.0.0.1', 9053))]:
    try:
        udp.sendmsg([b'x'], control, 0, address)
    except OSError as error:
        print(error.errno, flush=True)
open('done', 'w').close()
";
    let Some(_alone) = alone() else { return };
    if !lsm_works() {
        return println!("skipped: this kernel takes no LSM programs");
    }
    on_stage(|stage| {
        let run = Run::new("ebpf", &stage.dir).allow_stage().args(["--allow-loopback", "--stack=never"]);
        let program = ["/usr/bin/python3".as_ref(), "-c".as_ref(), SENDS.as_ref(), stage.dir.as_os_str()];
        let running = run.program(program).start();
        let is_there = |name: &str| {
            let end = Instant::now() + patience(Duration::from_secs(10));
            while !stage.dir.join(name).exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            stage.dir.join(name).exists()
        };
        let sockstrace = Pid::from_raw(running.pid);
        assert!(is_there("ready"));
        kill(sockstrace, Signal::SIGSTOP).unwrap();
        std::fs::write(stage.dir.join("go"), "").unwrap();
        let went_on = is_there("done");
        kill(sockstrace, Signal::SIGCONT).unwrap();
        let outcome = running.finish();
        assert!(went_on, "{outcome:?}");
        assert!(outcome.complaints().is_empty() && outcome.stdout == "1\n1\n", "{outcome:?}");
        let told: Vec<_> = outcome.leaks().map(|leak| (leak.text("syscall"), leak.text("address"))).collect();
        assert_eq!(told, [("sendmsg", "203.0.113.5:7777"), ("sendmsg", "127.0.0.1:9053")], "{outcome:?}");
        assert!(stage.truth().foreign().is_empty());
    });
}

/// What an io_uring does stays judged when sockstrace is killed, and who does it dies.
#[test]
fn rings_are_judged_to_the_end() {
    let Some(_alone) = alone() else { return };
    if !lsm_works() {
        return println!("skipped: this kernel takes no LSM programs");
    }
    on_stage(|stage| {
        let run = Run::new("ebpf", &stage.dir).allow_stage().arg("--stack=never").linger(Duration::from_secs(1));
        let running = run.program([programs().vectors.as_os_str(), "uring-on".as_ref()]).start();
        let end = Instant::now() + patience(Duration::from_secs(10));
        while !stage.dir.join("ready").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(stage.dir.join("ready").exists());
        // Time to tell what was refused; it goes on for two seconds at least.
        std::thread::sleep(patience(Duration::from_millis(200)));
        kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
        let outcome = running.finish();
        assert!(outcome.left.is_empty(), "{outcome:?}");
        let ring = |event: &&Event| (event.text("syscall"), event.text("via")) == ("sendmsg", "io_uring");
        assert!(outcome.leaks().filter(ring).count() > 2, "{outcome:?}");
        assert!(stage.truth().foreign().is_empty(), "{outcome:?}");
    });
}

/// A resolver behind a UNIX socket is known by the path at which it listens; others are connected to.
#[test]
fn resolvers_are_not_asked() {
    const ASKS: &str = "
import os, socket
os.makedirs('/run/avahi-daemon')
os.symlink('/run/avahi-daemon/socket', '/run/link')
for path, by in [('/run/avahi-daemon/socket', '/run/link'), ('/run/other', '/run/other')]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.setblocking(False)
    error = socket.socket(socket.AF_UNIX).connect_ex(by)
    try:
        server.accept()
        print(error, 'served')
    except BlockingIOError:
        print(error, 'not served')
";
    let Some(_alone) = alone() else { return };
    for action in ["block", "redirect"] {
        on_stage(|stage| {
            let run = Run::new("ebpf", &stage.dir).allow_stage().on_leak(action).arg("--stack=never");
            let outcome = if lsm_works() {
                let own_run = "mount -t tmpfs none /run && exec /usr/bin/python3 -c \"$0\"";
                run.program(["unshare", "-m", "sh", "-c", own_run, ASKS]).run()
            } else {
                // Known by what is there when the program starts.
                let own_run = "mount -t tmpfs none /run && mkdir /run/avahi-daemon && touch /run/avahi-daemon/socket && \
                               exec \"$@\"";
                let again =
                    ASKS.replace("os.makedirs('/run/avahi-daemon')", "os.remove('/run/avahi-daemon/socket')");
                run.wrap(["unshare", "-m", "sh", "-c", own_run, "sh"])
                    .program(["/usr/bin/python3", "-c", &again])
                    .run()
            };
            assert!(outcome.complaints().is_empty(), "{outcome:?}");
            assert_eq!(outcome.stdout, "1 not served\n0 served\n", "{outcome:?}");
            let told: Vec<_> = outcome.leaks().map(|leak| (leak.text("syscall"), leak.text("address"))).collect();
            assert_eq!(told, [("connect", "/run/avahi-daemon/socket")], "{outcome:?}");
            let as_resolver =
                |leak: &Event| leak.text("reason").starts_with("a resolver") && leak.text("action") == "block";
            assert!(outcome.leaks().all(as_resolver), "{outcome:?}");
        });
    }
}

/// Of more calls than can be written none is lost in silence.
#[test]
fn what_a_burst_loses_is_counted() {
    const CALLS: u64 = 400_000;
    let Some(_alone) = alone() else { return };
    on_stage(|stage| {
        let run = Run::new("ebpf", &stage.dir).allow_stage().on_leak("log").arg("--trace=all");
        let guest =
            [programs().hostile.as_os_str(), "burst".as_ref(), CALLS.to_string().as_ref()].map(OsStr::to_owned);
        let outcome = run.program(guest).deadline(Duration::from_secs(60)).run();
        assert!(outcome.complaints().is_empty(), "{outcome:?}");
        let summary = outcome.summary.as_ref().expect("a summary");
        let [seen, dropped] = ["events", "dropped"].map(|key| summary.number(key).unwrap() as u64);
        // Records of processes may be among what is lost.
        assert!((CALLS..CALLS + 4).contains(&(seen + dropped)), "{outcome:?}");
        let written = outcome.events.iter().filter(|event| event.text("kind") == "syscall").count() as u64;
        let told = outcome.events.iter().filter(|event| event.text("kind") == "lost");
        let told: i64 = told.map(|event| event.number("dropped").unwrap()).sum();
        assert_eq!((written, told as u64), (seen, dropped), "{outcome:?}");
        // What isn't known to be all is no success.
        assert_eq!(outcome.status, Status::Exited(if dropped > 0 { 125 } else { 0 }), "{outcome:?}");
        println!("{} calls a second, {dropped} of {CALLS} not written", outcome.stdout.trim());
    });
}

/// Who leaks and has ended a moment later is known all the same, and so is the line to blame: also of who dies for it.
#[test]
fn who_ends_at_once_is_known() {
    let Some(_alone) = alone() else { return };
    let guest = &programs().traces;
    for (mode, times) in [("log", 20), ("block", 20), ("kill", 5)] {
        let often = format!("for number in $(seq {times}); do {} once; done", guest.display());
        on_stage(|stage| {
            let run = Run::new("ebpf", &stage.dir).allow_stage().on_leak(mode);
            let outcome = run.program(["sh", "-c", &often]).run();
            let leaks: Vec<&Event> = outcome.leaks().collect();
            assert_eq!(leaks.len(), times, "{outcome:?}");
            for leak in leaks {
                assert_eq!(leak.text("exe"), guest.to_str().unwrap(), "{leak:?}");
                assert!(leak.number("ppid").is_some(), "{leak:?}");
                let frames = leak.0["stack"].as_array().expect("a stack");
                let named = |name: &str| frames.iter().find(|frame| frame["function"] == name);
                let line = |name: &str| named(name).and_then(|frame| frame["line"].as_u64());
                assert!(["send_number", "once", "main"].iter().all(|name| line(name).is_some()), "{leak:?}");
            }
        });
    }
}
