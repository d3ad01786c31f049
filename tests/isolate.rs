//! `--isolate`: nothing gets out, whatever the judge lets go; what may get out is as natively.
//!
//! `SOCKSTRACE_CASE=name` runs the cases whose name contains it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "vectors/check.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod check;
#[path = "vectors/redirected.rs"]
mod redirected;
#[path = "vectors/rows.rs"]
mod rows;
#[path = "vectors/sink.rs"]
mod sink;
mod support;
#[path = "vectors/table.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod table;

use check::{Mode, is_available, perform};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use support::BACKENDS;
use support::cases::{root_is_alone, run_all, with_privilege};
use support::run::{Outcome, Run, Status};
use support::stage::Stage;
use table::{Seen, Vector};

const PYTHON: &str = "/usr/bin/python3";
/// Somebody who is not root.
const ORDINARY: u32 = 65534;

fn script(name: &str) -> String {
    format!("{}/tests/isolate/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Every way past the proxy, let go by the judge (`--on-leak log`): the witnesses see nothing.
fn vectors_stay_inside(test: &str, backend: &'static str, user: Option<u32>) {
    with_privilege(test, || {
        if user.is_some() && root_is_alone() {
            return println!("skipped: in a user namespace of the tests there is no other user");
        }
        let rows: Vec<Vector> = rows::rows()
            .into_iter()
            .filter(|row| row.needs.is_none_or(is_available) && (user.is_none() || !row.root))
            .map(|row| row.options(&["--isolate"]))
            .collect();
        run_all(&rows, Vector::name, |row| {
            let mut stage = Stage::new();
            let (outcome, truth, served) = perform(&mut stage, row, Mode::Log(backend), user);
            // Where the harness itself tries to be served, its own packets are there.
            let is_client = matches!(row.seen, Seen::ServedTcp(_) | Seen::ServedUdp(_));
            let mut wrong = if is_client { Vec::new() } else { truth.foreign() };
            if served {
                wrong.push("the outside was served".into());
            }
            // Bound to loopback, its packets come back and are dropped: it waits.
            let waits = row.guest == "tcp4-bind-to-device";
            let ran = outcome.summary.is_some() && !matches!(outcome.status, Status::Exited(125..=127));
            if !ran && !waits {
                wrong.push("it did not run".into());
            }
            if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} {outcome:?}")) }
        });
    });
}

#[test]
fn seccomp_vectors() {
    vectors_stay_inside("seccomp_vectors", "seccomp", None);
}

#[test]
fn ptrace_vectors() {
    vectors_stay_inside("ptrace_vectors", "ptrace", None);
}

#[test]
fn seccomp_vectors_unprivileged() {
    vectors_stay_inside("seccomp_vectors_unprivileged", "seccomp", Some(ORDINARY));
}

/// The servers that `guest.py` uses, at both addresses of the proxy.
struct Servers {
    sunk: Receiver<usize>,
}

impl Servers {
    fn start() -> Self {
        let (sink, sunk) = channel();
        for ip in ["203.0.113.9", "2001:db8::9"] {
            serve(ip, 7101, |mut stream: TcpStream| {
                let mut reader = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut reader, &mut stream);
            });
            serve(ip, 7103, |stream: TcpStream| {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                // SAFETY: the option is a struct linger.
                unsafe {
                    let size = size_of::<libc::linger>() as libc::socklen_t;
                    let value = (&raw const linger).cast();
                    libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, size);
                }
                thread::sleep(Duration::from_millis(50));
            });
            let sink: Sender<usize> = sink.clone();
            serve(ip, 7104, move |mut stream: TcpStream| {
                // Slow, so that the program has ended long before.
                thread::sleep(Duration::from_millis(400));
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all);
                let _ = sink.send(all.len());
            });
            serve(ip, 7105, |mut stream: TcpStream| {
                let _ = stream.write_all(&vec![b'z'; 3_000_000]);
            });
            let udp = UdpSocket::bind((ip, 7101)).unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], client);
                }
            });
        }
        Self { sunk }
    }
}

fn serve(ip: &str, port: u16, act: impl Fn(TcpStream) + Send + Clone + 'static) {
    let listener = TcpListener::bind((ip, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let act = act.clone();
            thread::spawn(move || act(stream));
        }
    });
}

fn guest(backend: Option<&str>, stage: &Stage, action: &str, words: &[&str]) -> Run {
    let allowed = ["--allow=203.0.113.0/24:7101-7105", "--allow=[2001:db8::/32]:7101-7105", "--allow-loopback"];
    let program = [PYTHON].into_iter().chain(words.iter().copied());
    Run::maybe(backend, &stage.dir)
        .arg("--isolate")
        .args(allowed)
        .on_leak(action)
        .deadline(Duration::from_secs(60))
        .program(program)
}

/// Through the gates all is as without them.
#[test]
fn same_as_natively() {
    with_privilege("same_as_natively", || {
        let mut cases = Vec::new();
        for name in [
            "tcp",
            "refused",
            "nonblocking",
            "reset",
            "speaker",
            "crowd",
            "last_words",
            "udp",
            "own",
            "ids",
            "ended",
        ] {
            for backend in BACKENDS {
                for action in ["block", "log"] {
                    cases.push((name, backend, action, 0));
                }
                if !root_is_alone() {
                    cases.push((name, backend, "block", ORDINARY));
                }
            }
        }
        run_all(
            &cases,
            |case| format!("{case:?}"),
            |&(name, backend, action, user)| {
                let stage = Stage::new();
                let servers = Servers::start();
                let path = script("guest.py");
                let run = |backend| {
                    let run = guest(backend, &stage, action, &[&path, name]);
                    let outcome = if user == 0 { run } else { run.user(user) }.run();
                    let sunk = (name == "last_words").then(|| servers.sunk.recv_timeout(Duration::from_secs(20)));
                    (outcome, sunk)
                };
                let (native, native_sunk) = run(None);
                let (traced, sunk) = run(Some(backend));
                let mut wrong = traced.complaints();
                // As a shell would tell it.
                let expected = match native.status {
                    Status::Signaled(signal) => Status::Exited(128 + signal),
                    other => other,
                };
                if (expected, &native.stdout, &native.stderr) != (traced.status, &traced.stdout, &traced.stderr) {
                    wrong.push("not as natively".into());
                }
                if native.stdout.is_empty() || !native.stderr.is_empty() {
                    wrong.push("the guest is broken".into());
                }
                if native_sunk != sunk || sunk.is_some_and(|sunk| sunk != Ok(3_000_000)) {
                    wrong.push(format!("{sunk:?} arrived instead of {native_sunk:?}"));
                }
                if traced.leaks().next().is_some() {
                    wrong.push("leaks told".into());
                }
                told(&wrong, &[&native, &traced])
            },
        );
    });
}

fn told(wrong: &[String], outcomes: &[&Outcome]) -> Result<(), String> {
    let outcomes: Vec<String> = outcomes.iter().map(|outcome| format!("\n  {outcome:?}")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}{}", outcomes.concat())) }
}

/// Nobody gets out of the namespace, not even root.
#[test]
fn escapes() {
    with_privilege("escapes", || {
        let mut cases = Vec::new();
        for backend in BACKENDS {
            cases.push((backend, 0));
            if !root_is_alone() {
                cases.push((backend, ORDINARY));
            }
        }
        run_all(
            &cases,
            |case| format!("{case:?}"),
            |&(backend, user)| {
                let stage = Stage::new();
                let path = script("escapes.py");
                let pid = std::process::id().to_string();
                let run = guest(Some(backend), &stage, "log", &[&path, &pid]);
                let outcome = if user == 0 { run } else { run.user(user) }.run();
                let mut wrong = outcome.complaints();
                let natively = Run::native(&stage.dir).program([PYTHON, &path, &pid]).run();
                if user == 0 && !natively.stdout.contains("ESCAPED") {
                    wrong.push("the guest can't do it natively either".into());
                }
                if outcome.stdout != "interfaces ['lo']\ndone\n" {
                    wrong.push("it got out".into());
                }
                told(&wrong, &[&outcome, &natively])
            },
        );
    });
}

/// UNIX sockets outside are shut: judged by path, though leaks are only logged; abstract ones by the kernel.
#[test]
fn unix_sockets_outside() {
    with_privilege("unix_sockets_outside", || {
        run_all(
            &BACKENDS,
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                let listener = UnixListener::bind(stage.dir.join("resolver")).unwrap();
                let allowed = UnixListener::bind(stage.dir.join("allowed")).unwrap();
                let named =
                    UnixListener::bind_addr(&UnixAddr::from_abstract_name("sockstrace-outside").unwrap()).unwrap();
                for name in ["resolver", "allowed"] {
                    fs::set_permissions(stage.dir.join(name), fs::Permissions::from_mode(0o777)).unwrap();
                }
                for listener in [&listener, &allowed, &named] {
                    listener.set_nonblocking(true).unwrap();
                }
                // What may not be connected to is covered, and stays so.
                let covers = "import ctypes, os, stat, subprocess\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                    def kinds(): print([stat.S_ISSOCK(os.stat(name).st_mode) for name in ['resolver', 'allowed']])\n\
                    kinds()\nprint(libc.umount2(b'resolver', 0), libc.mount(b'/dev/zero', b'resolver', None, 4096, None))\n\
                    print(subprocess.run(['unshare', '--user', '--map-root-user', '--mount', 'umount', 'resolver'], stderr=-3).returncode != 0)\n\
                    kinds()\n";
                let code = "import socket, errno\nfor name in ['resolver', './resolver', 'allowed', '\\0sockstrace-outside']:\n    \
                        code = socket.socket(socket.AF_UNIX).connect_ex(name)\n    print(errno.errorcode.get(code, 'ok'))";
                let code = format!("{covers}{code}");
                let run = guest(Some(backend), &stage, "log", &["-c", &code]);
                let outcome = run.arg(format!("--allow=unix:{}/allowed", stage.dir.display())).run();
                let mut wrong = outcome.complaints();
                let covered = "[False, True]\n-1 -1\nTrue\n[False, True]\n";
                if outcome.stdout != format!("{covered}EPERM\nEPERM\nok\nECONNREFUSED\n") {
                    wrong.push("other answers".into());
                }
                if listener.accept().is_ok() || named.accept().is_ok() || allowed.accept().is_err() {
                    wrong.push("others were reached".into());
                }
                let blocked = outcome.leaks().filter(|event| event.text("action") == "block").count();
                if blocked != 2 || outcome.status != Status::Exited(23) {
                    wrong.push("not reported".into());
                }
                told(&wrong, &[&outcome])
            },
        );
    });
}

/// Where a step fails, PROGRAM doesn't run.
#[test]
fn it_fails_closed() {
    with_privilege("it_fails_closed", || {
        let stage = Stage::new();
        let limit = "/proc/sys/user/max_net_namespaces";
        let code = format!("unshare --user --map-root-user sh -c 'echo 0 > {limit} && exec \"$0\" \"$@\"' \"$@\"");
        let outcome = Run::new("seccomp", &stage.dir)
            .wrap(["sh", "-c", &code, "sh"])
            .arg("--isolate")
            .program(["touch", "ran"])
            .run();
        assert_eq!(outcome.status, Status::Exited(125), "{outcome:?}");
        assert!(outcome.stderr.contains("--isolate"), "{outcome:?}");
        assert!(!Path::new(&stage.dir).join("ran").exists(), "{outcome:?}");
    });
}
