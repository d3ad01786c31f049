//! Whose a TCP connection is that changes its state, and in which network namespace.

use super::alone;
use super::watcher::Watcher;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Runs it under a name of its own in a network namespace of its own, and gives what it prints.
fn run(program: &str) -> String {
    let prepared = format!(
        "import ctypes, os, socket, subprocess, time\n\
         subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n\
         def call_me(name): ctypes.CDLL(None).prctl(15, name, 0, 0, 0)\n{program}"
    );
    let output = Command::new("unshare").args(["--net", "/usr/bin/python3", "-c", &prepared]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Who changed to which state, of connections with this end.
fn changes(text: &str, end: &str, address: &str) -> Vec<String> {
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let fitting = events.filter(|event| event["kind"] == "tcp_state" && event[end] == address);
    fitting.map(|it| format!("{} {}", it["process"].as_str().unwrap_or("?"), it["new"].as_str().unwrap())).collect()
}

/// A connection that a send opens is the sender's, as one that connect opens is.
#[test]
fn a_send_that_connects_has_a_sender() {
    let Some(_alone) = alone() else { return };
    for flags in ["0", "1"] {
        let watcher = Watcher::start_with(&["--format=jsonl", "--filter=name=hasty"]);
        let server = run(&format!(
            "server = socket.create_server(('127.0.0.1', 0))
call_me(b'hasty')
client = socket.socket()
if {flags}:
    client.sendmsg([b'x'], [], socket.MSG_FASTOPEN, server.getsockname())
else:
    client.sendto(b'x', socket.MSG_FASTOPEN, server.getsockname())
print('%s:%s' % server.getsockname())"
        ));
        let text = watcher.stop_for_text();
        let changes = changes(&text, "remote", server.trim());
        assert_eq!(changes.get(..2), Some(&["hasty SYN_SENT".into(), "hasty ESTABLISHED".into()][..]), "{text}");
    }
}

/// Nor does what is left of sockets that never got so far as to have a state name others, nor who listens elsewhere.
#[test]
fn a_connection_is_never_somebody_elses() {
    let Some(_alone) = alone() else { return };
    let watcher = Watcher::start_with(&["--format=jsonl"]);
    let server = run("call_me(b'server')
server = socket.create_server(('127.0.0.1', 0), backlog=128)
port = server.getsockname()[1]
if os.fork() == 0:
    call_me(b'stranger')
    sockets = [socket.socket() for _ in range(500)]
    # TCP knows no broadcast: nothing is sent.
    assert all(it.connect_ex(('255.255.255.255', 9)) != 0 for it in sockets)
    os._exit(0)
os.wait()
neighbour = os.fork()
if neighbour == 0:
    call_me(b'stranger')
    elsewhere = socket.create_server(('127.0.0.2', port))
    os.kill(os.getpid(), 19)
os.waitpid(neighbour, os.WUNTRACED)
for _ in range(100):
    client = socket.create_connection(('127.0.0.1', port))
    server.accept()
    client.close()
print('127.0.0.1:%s' % port)
os.kill(neighbour, 9)");
    let text = watcher.stop_for_text();
    let changes = changes(&text, "local", server.trim());
    assert_eq!(changes.iter().filter(|it| *it == "server ESTABLISHED").count(), 100, "{changes:?}");
    assert!(changes.iter().all(|it| it.starts_with("server ")), "{changes:?}");
}

/// A socket is where it was made, wherever its user has gone.
#[test]
fn sockets_are_where_they_were_made() {
    let Some(_alone) = alone() else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = File::open("/proc/thread-self/ns/net").unwrap();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let other = File::open("/proc/thread-self/ns/net").unwrap();
            let inode = other.metadata().unwrap().ino();
            setns(&own, CloneFlags::CLONE_NEWNET).unwrap();
            let watcher = Watcher::start_with(&["--format=jsonl", &format!("--filter=netns={inode}")]);
            let here = TcpListener::bind("127.0.0.1:0").unwrap();
            setns(&other, CloneFlags::CLONE_NEWNET).unwrap();
            let there = TcpListener::bind("127.0.0.1:0").unwrap();
            listen(&here);
            setns(&own, CloneFlags::CLONE_NEWNET).unwrap();
            listen(&there);
            let text = watcher.stop_for_text();
            let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let told = |of: &TcpListener| {
                let is_it = |event: &&Value| {
                    event["syscall"] == "listen" && event["address"] == of.local_addr().unwrap().to_string()
                };
                events.iter().filter(is_it).count()
            };
            assert_eq!((told(&here), told(&there)), (0, 2), "{text}");
        });
    });
}

/// Whose a service is needs no calls to be told.
#[test]
fn states_alone_have_owners() {
    let Some(_alone) = alone() else { return };
    let watcher = Watcher::start_with(&["--format=jsonl", "--calls=set_state"]);
    let server = run("server = socket.create_server(('127.0.0.1', 0))
call_me(b'visitor')
client = socket.create_connection(server.getsockname())
call_me(b'waiter')
server.accept()
print('%s:%s' % server.getsockname())");
    let text = watcher.stop_for_text();
    let came = changes(&text, "local", server.trim());
    assert!(came.iter().any(|it| it.ends_with(" ESTABLISHED")), "{text}");
    assert!(came.iter().all(|it| !it.starts_with('?')), "{came:?}");
    let went = changes(&text, "remote", server.trim());
    assert_eq!(went.get(..2), Some(&["visitor SYN_SENT".into(), "visitor ESTABLISHED".into()][..]), "{text}");
    assert!(!text.contains("\"syscall\""), "{text}");
}

fn listen(listener: &TcpListener) {
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 5) }, 0);
}
