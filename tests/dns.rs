//! `--dns redirect`: what a program sees is what a resolver would have told it, and nobody but the proxy sees
//! a packet.
//!
//! The witnesses: the packets of the whole network namespace, name servers that note who asks, and one that
//! answers nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "real/recipes.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod recipes;
#[path = "dns/server.rs"]
mod server;
mod support;
#[path = "real/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use server::{Asked, BIG, Server};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::BACKENDS;
use support::capture::Capture;
use support::cases::{root_is_alone, run_all, with_privilege};
use support::programs::programs;
use support::run::{Outcome, Run, Status};
use world::{NOBODY, PROXY, World, is_unwanted, require};

/// Name servers that answer; the second pair is asked besides.
const SERVERS: [&str; 4] = ["203.0.113.61", "203.0.113.62", "2001:db8::61", "2001:db8::62"];
const TCP: &str = "--dns=redirect=tcp://203.0.113.61";

/// The world with name servers, and everything that is sent in it.
struct Scene {
    world: World,
    server: Server,
    capture: Capture,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let server = Server::start(&SERVERS);
        Self { world, server, capture: Capture::new() }
    }

    fn run(&self, backend: &str, user: u32) -> Run {
        let home = self.world.home(user);
        self.world.run(Some(backend), user, &home)
    }

    /// Forgets what was sent so far.
    fn begin(&self) {
        self.server.asked();
        self.world.queries();
        self.capture.drain();
    }

    /// What was sent since then that was not to be: all but packets to and from the proxy, or on loopback.
    fn leaked(&self) -> Vec<String> {
        let proxied = |ip: IpAddr| ip == IpAddr::V4(PROXY);
        let asked = self.server.asked();
        let direct = asked.iter().filter(|asked| asked.by == "udp" || !proxied(asked.from));
        let mut leaked: Vec<_> = direct.map(|asked| format!("{asked:?}")).collect();
        let queries = self.world.queries();
        leaked.extend((queries > 0).then(|| format!("{queries} queries at the silent server")));
        let packets = self.capture.drain();
        leaked.extend(packets.iter().filter_map(|packet| {
            let (source, destination) = packet.addresses?;
            let inside = source.is_loopback() && destination.is_loopback();
            (!inside && !proxied(source) && !proxied(destination)).then(|| format!("{packet:?}"))
        }));
        leaked
    }
}

/// Whether all is well with a run that only asked.
fn wrong(outcome: &Outcome, scene: &Scene) -> Vec<String> {
    let mut wrong = outcome.complaints();
    wrong.extend(scene.leaked());
    if outcome.leaks().next().is_none() {
        wrong.push("no event".into());
    }
    wrong
}

fn users() -> Vec<u32> {
    if root_is_alone() { vec![0] } else { vec![0, NOBODY] }
}

fn verdict(wrong: &[String], outcome: &Outcome) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n  {outcome:?}", wrong.join("; "))) }
}

/// Every way in which a datagram or a stream can ask: the same lines natively, with a resolver that answers,
/// and redirected.
#[test]
fn every_way_of_asking_is_answered_as_natively() {
    with_privilege("every_way_of_asking_is_answered_as_natively", || {
        let pairs = [(SERVERS[0], SERVERS[1]), (SERVERS[2], SERVERS[3])];
        let mapped = ("::ffff:203.0.113.61", "::ffff:203.0.113.62");
        let programs = programs();
        let clients: Vec<_> = [Some(&programs.dns), programs.dns32.as_ref()].into_iter().flatten().collect();
        let mut cases = Vec::new();
        for backend in BACKENDS {
            for pair in pairs.into_iter().chain([mapped]) {
                for client in &clients {
                    for user in users() {
                        for on_leak in ["block", "log"] {
                            cases.push((backend, pair, *client, user, on_leak));
                        }
                    }
                }
            }
        }
        let name =
            |(backend, pair, client, user, on_leak): &(&str, (&str, &str), &std::path::PathBuf, u32, &str)| {
                format!("{backend} {} {} {user} {on_leak}", pair.0, client.file_name().unwrap().display())
            };
        run_all(&cases, name, |(backend, pair, client, user, on_leak)| {
            let scene = Scene::new();
            let command = [client.as_os_str(), pair.0.as_ref(), pair.1.as_ref()];
            let home = scene.world.home(*user);
            let native = scene.world.run(None, *user, &home).program(command).run();
            if native.status != Status::Exited(0) || !scene.server.asked().iter().any(|asked| asked.by == "udp") {
                return Err(format!("natively: {native:?}"));
            }
            // What is still under way stays behind.
            let scene = Scene::new();
            scene.begin();
            let outcome = scene.run(backend, *user).on_leak(on_leak).arg(TCP).program(command).run();
            let mut wrong = wrong(&outcome, &scene);
            if outcome.stdout != native.stdout {
                wrong.push(format!("natively:\n{}\nredirected:\n{}", native.stdout, outcome.stdout));
            }
            if outcome.status != Status::Exited(23) {
                wrong.push(format!("{:?}", outcome.status));
            }
            let event = |syscall: &str, class: &str, reason: &str| {
                outcome.leaks().any(|event| {
                    event.text("syscall") == syscall
                        && (event.text("class"), event.text("action")) == (class, "redirect")
                        && event.text("reason").contains(reason)
                })
            };
            for (syscall, class, reason) in [
                ("connect", "disclosure", "through the proxy"),
                ("connect", "outbound", "through the proxy"),
                ("sendto", "outbound", "A wWw.site.example"),
                ("sendmsg", "outbound", "AAAA wWw.site.example"),
                ("sendmmsg", "outbound", "A wWw.site.example"),
            ] {
                if !event(syscall, class, reason) {
                    wrong.push(format!("no event for {syscall}, {class}"));
                }
            }
            verdict(&wrong, &outcome)
        });
    });
}

/// Under `--isolate`, where there is no way to a name server.
#[test]
fn from_within_isolation() {
    with_privilege("from_within_isolation", || {
        let mut cases = Vec::new();
        for backend in BACKENDS {
            for user in users() {
                cases.extend(["block", "redirect", "log"].map(|on_leak| (backend, user, on_leak)));
            }
        }
        run_all(
            &cases,
            |case| format!("{case:?}"),
            |&(backend, user, on_leak)| {
                let command = [programs().dns.as_os_str(), SERVERS[0].as_ref(), SERVERS[1].as_ref()];
                let scene = Scene::new();
                let home = scene.world.home(user);
                let native = scene.world.run(None, user, &home).program(command).run();
                let scene = Scene::new();
                scene.begin();
                let run = scene.run(backend, user).on_leak(on_leak).args([TCP, "--isolate"]);
                let outcome = run.program(command).run();
                let mut wrong = wrong(&outcome, &scene);
                if outcome.stdout != native.stdout || outcome.stdout.is_empty() {
                    wrong.push(format!("natively:\n{}\nisolated:\n{}", native.stdout, outcome.stdout));
                }
                verdict(&wrong, &outcome)
            },
        );
    });
}

/// A program that resolves a name: its command, and what it prints.
struct Client {
    name: &'static str,
    needs: &'static [(&'static str, &'static str)],
    command: fn() -> Vec<String>,
    prints: &'static [&'static str],
    /// What only a resolver can tell, not Tor's RESOLVE.
    only_by_resolver: bool,
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

const DIG: &[(&str, &str)] = &[("dig", "bind9-dnsutils")];

fn clients() -> Vec<Client> {
    let client = |name, needs, command, prints| Client { name, needs, command, prints, only_by_resolver: false };
    let resolver =
        |name, needs, command, prints| Client { only_by_resolver: true, ..client(name, needs, command, prints) };
    vec![
        client("glibc", &[], || words("getent ahostsv4 www.site.example"), &["203.0.113.5"]),
        client(
            "musl",
            &[("musl-gcc", "musl-tools")],
            || vec![recipes::musl("resolve"), "www.site.example".into()],
            &["203.0.113.5"],
        ),
        client(
            "go",
            &[("go", "golang-go")],
            || vec![recipes::go("resolve"), "www.site.example".into()],
            &["203.0.113.5"],
        ),
        client(
            "node",
            &[("node", "nodejs")],
            || vec!["node".into(), recipes::guest("resolve.js"), "www.site.example".into()],
            &["lookup 203.0.113.5", "resolve4 [ '203.0.113.5' ]"],
        ),
        client(
            "java",
            &[("java", "default-jdk-headless"), ("javac", "default-jdk-headless")],
            || words(&format!("java -Xshare:auto -cp {} Resolve www.site.example", recipes::classes("Resolve"))),
            &["203.0.113.5"],
        ),
        client(
            "python",
            &[("python3", "python3")],
            || {
                let script = "import socket; print(socket.gethostbyname('www.site.example'))";
                vec!["/usr/bin/python3".into(), "-c".into(), script.into()]
            },
            &["203.0.113.5"],
        ),
        client(
            "curl",
            &[("curl", "curl")],
            || words("curl -4 -sS --socks5 203.0.113.9:9050 http://www.site.example/"),
            &["A page of the test"],
        ),
        client("dig", DIG, || words("dig +short www.site.example A"), &["203.0.113.5"]),
        client("dig elsewhere", DIG, || words("dig +short @198.51.100.7 www.site.example A"), &["203.0.113.5"]),
        client("dig by IPv6", DIG, || words("dig +short @2001:db8:1::7 www.site.example A"), &["203.0.113.5"]),
        client("dig by TCP", DIG, || words("dig +short +tcp @2001:db8:1::7 www.site.example A"), &["203.0.113.5"]),
        client("dig by TCP4", DIG, || words("dig +short +tcp @198.51.100.7 www.site.example A"), &["203.0.113.5"]),
        resolver("glibc pointer", &[], || words("getent hosts 203.0.113.5"), &["www.site.example"]),
        resolver("glibc IPv6", &[], || words("getent ahostsv6 www.site.example"), &["2001:db8::5"]),
        resolver(
            "dig big",
            DIG,
            || words("dig +noedns @198.51.100.7 big.site.example TXT"),
            &["in TCP mode", BIG[7]],
        ),
        resolver("dig nothing", DIG, || words("dig www.site.example MX"), &["status: NOERROR", "ANSWER: 0"]),
        resolver(
            "many",
            &[("node", "nodejs")],
            || vec!["node".into(), recipes::guest("resolve.js"), "--many".into(), "200".into()],
            &["all right"],
        ),
    ]
}

fn wanted_clients() -> Vec<Client> {
    let mut clients = clients();
    clients.retain(|client| !is_unwanted(client.name.split(' ').next().unwrap()));
    for (program, package) in clients.iter().flat_map(|client| client.needs) {
        require(program, package).unwrap();
    }
    clients
}

fn shows(outcome: &Outcome, texts: &[&str]) -> Vec<String> {
    let missing = texts.iter().filter(|text| !outcome.stdout.contains(*text));
    let mut wrong: Vec<_> = missing.map(|text| format!("no {text:?}")).collect();
    if outcome.status != Status::Exited(23) {
        wrong.push(format!("{:?}", outcome.status));
    }
    wrong
}

/// Through microsocks, to a resolver of the user's.
#[test]
fn real_programs_by_a_resolver() {
    with_privilege("real_programs_by_a_resolver", || {
        let clients = wanted_clients();
        let mut cases = Vec::new();
        for client in &clients {
            for user in users() {
                cases.extend(BACKENDS.map(|backend| (client, backend, user)));
            }
        }
        let name = |(client, backend, user): &(&Client, &str, u32)| format!("{} {backend} {user}", client.name);
        run_all(&cases, name, |(client, backend, user)| {
            let scene = Scene::new();
            scene.begin();
            let outcome = scene.run(backend, *user).arg(TCP).program((client.command)()).run();
            let mut wrong = shows(&outcome, client.prints);
            if scene.server.count() == 0 {
                wrong.push("nobody was asked".into());
            }
            wrong.extend(self::wrong(&outcome, &scene));
            verdict(&wrong, &outcome)
        });
    });
}

/// A real tor, which has no network, but knows an address for the name.
struct Tor(Child);

impl Tor {
    const PORT: u16 = 9150;

    fn start(dir: &Path) -> Self {
        let data = dir.join("tor");
        fs::create_dir(&data).unwrap();
        let settings = format!(
            "SocksPort {PROXY}:{}\nSocksPolicy accept *\nDataDirectory {}\nAutomapHostsOnResolve 1\n\
             VirtualAddrNetworkIPv6 [fd00:1234::]/64\nMapAddress www.site.example 203.0.113.5\n\
             MapAddress six.site.example [2001:db8::5]\nDisableDebuggerAttachment 0\n",
            Self::PORT,
            data.display()
        );
        fs::write(dir.join("torrc"), settings).unwrap();
        let mut tor = Command::new(require("tor", "tor").unwrap());
        tor.args(["--defaults-torrc", "/nonexistent", "--ignore-missing-torrc", "--quiet", "-f"]);
        let tor = Self(tor.arg(dir.join("torrc")).stdout(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        // It listens a while before it answers.
        let answers = || {
            let mut stream = TcpStream::connect((PROXY, Self::PORT))?;
            stream.write_all(&[5, 1, 0])?;
            stream.read_exact(&mut [0; 2])
        };
        while answers().is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "tor does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        tor
    }
}

impl Drop for Tor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tor's RESOLVE.
#[test]
fn real_programs_by_tor() {
    if is_unwanted("tor") {
        return;
    }
    with_privilege("real_programs_by_tor", || {
        let cases: Vec<_> = users().into_iter().flat_map(|user| BACKENDS.map(|backend| (user, backend))).collect();
        run_all(
            &cases,
            |(user, backend)| format!("tor {backend} {user}"),
            |(user, backend)| {
                let scene = Scene::new();
                let _tor = Tor::start(&scene.world.dir);
                for client in wanted_clients().iter().filter(|client| !client.only_by_resolver) {
                    scene.begin();
                    let home = scene.world.home(*user);
                    // The first proxy resolves.
                    let proxies = [Tor::PORT, 9050].map(|port| format!("--proxy=socks5://{PROXY}:{port}"));
                    let run = Run::new(backend, &home).args(proxies).arg("--dns=redirect");
                    let run = run.env("HOME", &home).env("PATH", world::PATH).linger(Duration::from_secs(5));
                    let run = if *user == 0 { run } else { run.user(*user) };
                    let outcome = run.program((client.command)()).run();
                    let mut wrong = shows(&outcome, client.prints);
                    wrong.extend(self::wrong(&outcome, &scene));
                    verdict(&wrong, &outcome).map_err(|wrong| format!("{}: {wrong}", client.name))?;
                }
                Ok(())
            },
        );
    });
}

/// What Tor's RESOLVE says of other kinds and names.
#[test]
fn what_tor_does_not_say() {
    if is_unwanted("tor") {
        return;
    }
    with_privilege("what_tor_does_not_say", || {
        run_all(
            &BACKENDS,
            |backend| (*backend).into(),
            |backend| {
                require("dig", "bind9-dnsutils")?;
                let scene = Scene::new();
                let _tor = Tor::start(&scene.world.dir);
                scene.begin();
                for (question, expected) in [
                    ("six.site.example AAAA", &["status: NOERROR", "2001:db8::5"][..]),
                    ("six.site.example A", &["status: NOERROR", "ANSWER: 0"]),
                    ("www.site.example AAAA", &["status: NOERROR", "ANSWER: 0"]),
                    ("www.site.example HTTPS", &["status: NOERROR", "ANSWER: 0"]),
                    ("www.site.example MX", &["status: NOTIMP"]),
                    ("www.site.example.exit A", &["status: NXDOMAIN"]),
                    // Tor gives an address of its own to an onion service.
                    ("x.onion AAAA", &["status: NOERROR", "fd00:1234:"]),
                    ("-x 192.168.1.1", &["status: NXDOMAIN"]),
                    ("localhost A", &["127.0.0.1"]),
                    ("+ednsopt=8:000118000a0102 +dnssec www.site.example A", &["203.0.113.5", "flags: do"]),
                    ("+opcode=status www.site.example A", &["status: NOTIMP"]),
                    ("-c CH version.bind TXT", &["status: REFUSED"]),
                ] {
                    let home = scene.world.home(0);
                    let command = words(&format!("dig {question}"));
                    let run = Run::new(backend, &home).arg(format!("--proxy=socks5://{PROXY}:{}", Tor::PORT));
                    let outcome = run.arg("--dns=redirect").program(command).run();
                    let mut wrong = shows(&outcome, expected);
                    wrong.extend(self::wrong(&outcome, &scene));
                    verdict(&wrong, &outcome).map_err(|wrong| format!("{question}: {wrong}"))?;
                }
                Ok(())
            },
        );
    });
}

/// A proxy that isn't there, that says nothing, that has no RESOLVE: a failure in time, and never a query past
/// it.
#[test]
fn without_the_proxy_nothing_is_sent() {
    with_privilege("without_the_proxy_nothing_is_sent", || {
        let modes = ["--dns=redirect", TCP];
        let cases: Vec<_> = BACKENDS.iter().flat_map(|backend| modes.map(|mode| (*backend, mode))).collect();
        run_all(
            &cases,
            |(backend, mode)| format!("{backend} {mode}"),
            |(backend, mode)| {
                let scene = Scene::new();
                let silent = TcpListener::bind((PROXY, 9999)).unwrap();
                for (port, note, limit) in [(9998, "refused", 3), (9999, "", 12), (9050, "resolves no names", 3)] {
                    if port == 9050 && *mode == TCP {
                        continue;
                    }
                    scene.begin();
                    let home = scene.world.home(0);
                    let run = Run::new(backend, &home).arg(format!("--proxy=socks5://{PROXY}:{port}")).arg(mode);
                    let run = run.program(["dig", "+timeout=10", "+tries=1", "www.site.example"]);
                    let outcome = run.deadline(Duration::from_secs(30)).run();
                    let mut wrong = wrong(&outcome, &scene);
                    if !outcome.stdout.contains("status: SERVFAIL") || outcome.elapsed > Duration::from_secs(limit)
                    {
                        wrong.push("no failure in time".into());
                    }
                    if !outcome.stderr.to_lowercase().contains(note) {
                        wrong.push(format!("no word of {note:?}"));
                    }
                    verdict(&wrong, &outcome).map_err(|wrong| format!("port {port}: {wrong}"))?;
                }
                drop(silent);
                Ok(())
            },
        );
    });
}

/// Allowed resolvers are asked directly; what can't be redirected is refused.
#[test]
fn what_is_not_redirected() {
    with_privilege("what_is_not_redirected", || {
        run_all(
            &BACKENDS,
            |backend| (*backend).into(),
            |backend| {
                let scene = Scene::new();
                scene.begin();
                let ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n";
                let send =
                    "try: print(s.sendto(b'x' * 30, ('203.0.113.61', 53)))\nexcept OSError as e: print(e.strerror)";
                let bind = "s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'veth0')\n";
                let elsewhere = "import ctypes; ctypes.CDLL(None).unshare(0x40000000)\n";
                let port = send.replace("53", "5353");
                Command::new("ip")
                    .args(["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"])
                    .status()
                    .unwrap();
                for (what, script, options, prints, reason) in [
                    ("allowed", [ask, send].concat(), &["--allow=203.0.113.61:53"][..], "30", ""),
                    (
                        "bound",
                        [ask, bind, send].concat(),
                        &["--on-leak=log"],
                        "Operation not permitted",
                        "bound to an interface",
                    ),
                    (
                        "elsewhere",
                        [elsewhere, ask, send].concat(),
                        &[],
                        "Operation not permitted",
                        "another network",
                    ),
                    ("other port", [ask, &port].concat(), &[], "Operation not permitted", "no proxy or rule"),
                ] {
                    let run =
                        scene.run(backend, 0).arg(TCP).args(options).program(["/usr/bin/python3", "-c", &script]);
                    let outcome = run.run();
                    let mut wrong = outcome.complaints();
                    if outcome.stdout.trim() != prints {
                        wrong.push(format!("printed {:?}", outcome.stdout));
                    }
                    let told = outcome.leaks().map(|event| event.text("reason").to_owned()).collect::<String>();
                    if told.is_empty() != reason.is_empty() || !told.contains(reason) {
                        wrong.push(format!("told {told:?}"));
                    }
                    // What is allowed arrives as it is.
                    let asked = scene.server.asked();
                    let direct = |asked: &Asked| asked.by == "udp" && asked.bytes == [b'x'; 30];
                    if (asked.len() == 1 && direct(&asked[0])) != (what == "allowed") || asked.len() > 1 {
                        wrong.push(format!("{asked:?}"));
                    }
                    verdict(&wrong, &outcome).map_err(|wrong| format!("{what}: {wrong}"))?;
                }
                Ok(())
            },
        );
    });
}
