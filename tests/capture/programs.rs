//! Real programs, beside the witness between them and their servers.

use crate::captors;
use crate::captured::{Captured, Place};
use crate::relay::{Relay, Said};
use crate::support::run::{Outcome, Run, Status};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that is ended with the test.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, ready: &Path) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self(child);
        let start = Instant::now();
        while !ready.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "{} did not come", ready.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: takes integers only; the process is our child and not yet waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// The program, unless the user does without.
fn find(name: &str) -> Option<PathBuf> {
    // As tests/deps.sh has it.
    let short = name.split('-').next().unwrap();
    let without = std::env::var("SOCKSTRACE_WITHOUT").unwrap_or_default();
    if without.split(',').any(|other| other == short) {
        return None;
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.map(|version| version.unwrap().path().join("bin")));
    }
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    Some(found.unwrap_or_else(|| panic!("{name} is not installed (SOCKSTRACE_WITHOUT={short} does without)")))
}

/// Runs a client under each backend, and holds what was captured at `relay` against what the relay says.
fn witness(
    place: &Place,
    relay: &Relay,
    name: &str,
    environment: &[(&str, &str)],
    command: &[&str],
) -> Vec<Outcome> {
    let on = |backend| witness_on(backend, place, relay, name, environment, command);
    captors().into_iter().map(on).collect()
}

fn witness_on(
    backend: &str,
    place: &Place,
    relay: &Relay,
    name: &str,
    environment: &[(&str, &str)],
    command: &[&str],
) -> Outcome {
    let name = &format!("{backend}-{name}");
    let capture = place.0.join(format!("capture-{name}"));
    let before = relay.said().len();
    let mut run = Run::new(backend, &place.0).args(["--allow-loopback", "--capture"]).arg(&capture);
    for (key, value) in environment {
        run = run.env(key, value);
    }
    let outcome = run.program(command).deadline(Duration::from_secs(60)).run();
    let captured = Captured::read(&capture);
    captured.check();
    let path = relay.path.to_str().unwrap();
    let of_relay = captured.connections.iter().filter(|connection| connection.path == path);
    let mut captured: Vec<Said> =
        of_relay.map(|c| Said { client: c.bytes("out"), server: c.bytes("in") }).collect();
    captured.sort();
    // The last bytes are still on their way through the relay, and what the client didn't wait for.
    let start = Instant::now();
    let same = || {
        let mut said = relay.said().split_off(before);
        said.sort();
        let pairs = || said.iter().zip(&captured);
        let whole = pairs()
            .all(|(said, captured)| said.client == captured.client && said.server.starts_with(&captured.server));
        (said.len() == captured.len() && whole).then_some(()).ok_or(said)
    };
    while let Err(said) = same() {
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {said:#?} but {captured:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let bytes: usize = captured.iter().map(|said| said.client.len() + said.server.len()).sum();
    assert!(bytes > 20, "{name}: only {bytes} bytes; {outcome:?}");
    outcome
}

#[test]
fn dbus() {
    let Some(daemon) = find("dbus-daemon") else { return };
    let place = Place::new("dbus");
    let (bus, between) = (place.0.join("bus"), place.0.join("between"));
    let address = format!("unix:path={}", bus.display());
    let mut command = Command::new(daemon);
    let _server = Server::start(command.args(["--session", "--nofork", "--address", &address]), &bus);
    let relay = Relay::new(&between, &bus);
    let address = format!("unix:path={}", between.display());
    let call = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"];
    let option = format!("--address={address}");
    for (name, command) in [
        ("busctl", vec!["busctl", &option, "--no-pager", "call", call[0], call[1], call[2], "ListNames"]),
        (
            "gdbus",
            vec![
                "gdbus",
                "call",
                "--address",
                &address,
                "--dest",
                call[0],
                "--object-path",
                call[1],
                "--method",
                "org.freedesktop.DBus.ListNames",
            ],
        ),
        (
            "dbus-send",
            vec![
                "dbus-send",
                "--print-reply",
                "--dest=org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.ListNames",
            ],
        ),
    ] {
        if find(name).is_none() {
            continue;
        }
        for outcome in witness(&place, &relay, name, &[("DBUS_SESSION_BUS_ADDRESS", &address)], &command) {
            assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
            assert!(outcome.stdout.contains("org.freedesktop.DBus"), "{outcome:?}");
        }
    }
}

#[test]
fn ssh_agent() {
    let (Some(agent), Some(_), Some(keygen)) = (find("ssh-agent"), find("ssh-add"), find("ssh-keygen")) else {
        return;
    };
    let place = Place::new("ssh");
    let (socket, between, key) = (place.0.join("agent"), place.0.join("between"), place.0.join("key"));
    let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let _server = Server::start(Command::new(agent).args(["-D", "-a"]).arg(&socket), &socket);
    let relay = Relay::new(&between, &socket);
    let environment = [("SSH_AUTH_SOCK", between.to_str().unwrap())];
    for added in witness(&place, &relay, "add", &environment, &["ssh-add", key.to_str().unwrap()]) {
        assert_eq!(added.status, Status::Exited(0), "{added:?}");
    }
    for listed in witness(&place, &relay, "list", &environment, &["ssh-add", "-l"]) {
        assert!(listed.stdout.contains("ED25519"), "{listed:?}");
    }
}

#[test]
fn postgresql() {
    let (Some(_), Some(initdb)) = (find("psql"), find("initdb")) else { return };
    let postgres = initdb.with_file_name("postgres");
    let place = Place::new("psql");
    // It won't run as root.
    let nobody = 65534;
    let owned = |path: &Path| std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).unwrap();
    owned(&place.0);
    let sockets = place.folder("sockets");
    owned(&sockets);
    let data = place.0.join("data");
    let as_nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).current_dir("/");
        command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let made = as_nobody(&initdb).args(["-A", "trust", "-U", "tester", "-D"]).arg(&data).status().unwrap();
    assert!(made.success());
    let socket = sockets.join(".s.PGSQL.5432");
    let mut command = as_nobody(&postgres);
    command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(&sockets);
    let _server = Server::start(&mut command, &socket);
    let between = place.folder("between");
    let relay = Relay::new(&between.join(".s.PGSQL.5432"), &socket);
    let query = "create temp table t as select generate_series(1, 20000) as n, md5('x') as text; \
                 select * from t; copy t to stdout; select 'the end'";
    let host = between.to_str().unwrap();
    let start = Instant::now();
    let outcomes = loop {
        let command = ["psql", "-X", "-h", host, "-U", "tester", "-c", query, "postgres"];
        let name = format!("psql{}", start.elapsed().as_millis());
        let outcomes = witness(&place, &relay, &name, &[], &command);
        // It listens before it is up.
        let all = outcomes.iter().all(|outcome| outcome.status == Status::Exited(0));
        if all || start.elapsed() > Duration::from_secs(20) {
            break outcomes;
        }
    };
    for outcome in outcomes {
        assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
        assert!(outcome.stdout.contains("the end"));
    }
}

#[test]
fn http_over_a_socket() {
    let place = Place::new("http");
    let (socket, between) = (place.0.join("server"), place.0.join("between"));
    let script = "import http.server, socketserver, sys\n\
        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True\n\
        class Handler(http.server.BaseHTTPRequestHandler):\n\
        \x20   protocol_version = 'HTTP/1.1'\n\
        \x20   def address_string(self): return 'unix'\n\
        \x20   def do_POST(self):\n\
        \x20       body = self.rfile.read(int(self.headers['Content-Length']))[::-1] * 3\n\
        \x20       self.send_response(200)\n\
        \x20       self.send_header('Content-Length', str(len(body)))\n\
        \x20       self.end_headers()\n\
        \x20       self.wfile.write(body)\n\
        Server(sys.argv[1], Handler).serve_forever()\n";
    let mut command = Command::new("/usr/bin/python3");
    let _server = Server::start(command.args(["-c", script]).arg(&socket), &socket);
    let relay = Relay::new(&between, &socket);
    std::fs::write(place.0.join("body"), (0..200_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()).unwrap();
    let path = between.to_str().unwrap();
    let command = [
        "curl",
        "-s",
        "--unix-socket",
        path,
        "--data-binary",
        "@body",
        "-o",
        "answer",
        "http://x/one",
        "--next",
        "-s",
        "--unix-socket",
        path,
        "-d",
        "two",
        "http://x/two",
    ];
    for outcome in witness(&place, &relay, "curl", &[], &command) {
        assert!(outcome.status == Status::Exited(0) && outcome.stdout == "owtowtowt", "{outcome:?}");
    }
    assert_eq!(std::fs::metadata(place.0.join("answer")).unwrap().len(), 600_000);
}

#[test]
fn x11() {
    let (Some(xvfb), Some(_)) = (find("Xvfb"), find("xdpyinfo")) else { return };
    let place = Place::new("x11");
    // A display of our own, whose socket the relay stands in for: display N + 1.
    let display = 40 + std::process::id() % 50 * 2;
    let socket = PathBuf::from(format!("/tmp/.X11-unix/X{display}"));
    let mut command = Command::new(xvfb);
    let _server = Server::start(command.arg(format!(":{display}")).args(["-nolisten", "tcp"]), &socket);
    let between = PathBuf::from(format!("/tmp/.X11-unix/X{}", display + 1));
    let relay = Relay::new(&between, &socket);
    let environment = [("DISPLAY", format!(":{}", display + 1))];
    let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let outcomes = witness(&place, &relay, "xdpyinfo", &environment, &["xdpyinfo", "-queryExtensions"]);
    let _ = std::fs::remove_file(&between);
    for outcome in outcomes {
        assert!(outcome.status == Status::Exited(0) && outcome.stdout.contains("number of screens"), "{outcome:?}");
    }
}

/// Both ends of its channels are in the tree: what one process was seen to send, as its memory had it, another was
/// seen to receive.
#[test]
fn chromium() {
    if find("chromium").is_some() {
        captors().into_iter().for_each(chromium_on);
    }
}

fn chromium_on(backend: &str) {
    let place = Place::new("chromium");
    let capture = place.0.join("capture");
    let outcome = Run::new(backend, &place.0)
        .wrap(["unshare", "-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .args(["--leak-exit-code=0", "--stack=never", "--capture"])
        .arg(&capture)
        .program([
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--user-data-dir=profile",
            "--dump-dom",
            "data:text/html,<p>captured",
        ])
        .deadline(Duration::from_secs(90))
        .run();
    assert!(outcome.status == Status::Exited(0) && outcome.stdout.contains("<p>captured"), "{outcome:?}");
    let captured = Captured::read(&capture);
    captured.check();
    let ends: Vec<_> = captured.connections.iter().filter(|connection| connection.how == "socketpair").collect();
    assert!(ends.len() > 20 && ends.len() % 2 == 0, "{}", ends.len());
    let (mut bytes, mut cut_short) = (0, 0);
    for pair in ends.chunks(2) {
        for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            // What was never read is sent all the same. Where several threads write at once, their order is that in
            // which their calls end, and one that has woken its reader may end late.
            let (sent, received) = (from.bytes("out"), to.bytes("in"));
            let whole = sent.starts_with(&received)
                || (captured.writers(&from.id) > 1 && sent.len() >= received.len() && holds(&sent, &received));
            // Who is killed in a call isn't seen to end it: in the end Chromium kills its processes.
            let killed =
                received.len() > sent.len() && received.len() - sent.len() <= 4096 && holds(&received, &sent);
            cut_short += usize::from(killed);
            assert!(whole || killed, "{} to {}: {} and {}", from.id, to.id, sent.len(), received.len());
            bytes += received.len();
        }
    }
    assert!(cut_short <= 2, "{cut_short}");
    assert!(bytes > 100_000, "{bytes}");
}

/// Whether each byte of `part` is among those of `all`, as often as it is there, in whatever order.
fn holds(all: &[u8], part: &[u8]) -> bool {
    let count = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        for byte in bytes {
            counts[usize::from(*byte)] += 1;
        }
        counts
    };
    count(all).iter().zip(count(part)).all(|(all, part)| *all >= part)
}
