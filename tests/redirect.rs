//! `--on-leak redirect`: programs see what they would see without a proxy, while nothing but the proxy is
//! spoken to.
//!
//! `SOCKSTRACE_CASE=name` runs what has that in its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;
#[path = "redirect/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use std::fs;
use std::time::Duration;
use support::cases::{root_is_alone, run_all, with_privilege};
use support::programs::programs;
use support::run::{Outcome, Run, Status};
use support::{BACKENDS, backends, ebpf_works};
use world::{World, program};

/// The proxies of `services.py`.
const PLAIN: &str = "socks5://203.0.113.9:1080";
const PLAIN6: &str = "socks5://[2001:db8::9]:1080";
const HTTP: &str = "http://203.0.113.9:1082";

const NOBODY: u32 = 65534;

/// With it the ebpf backend holds connects up, and redirects as seccomp does.
const HOLDS: &str = "--unix=leak";

/// The cases of `cases.py`.
fn cases() -> Vec<String> {
    let text = fs::read_to_string(program("cases.py")).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("def case_")?.strip_suffix("():"));
    names.map(str::to_owned).collect()
}

/// What is wrong with a redirected run.
fn faults(world: &World, outcome: &Outcome, expected: &str) -> Vec<String> {
    let mut faults = outcome.complaints();
    if outcome.stdout != expected {
        let different = outcome.stdout.lines().zip(expected.lines()).find(|(seen, native)| seen != native);
        faults.push(format!("other output than natively, first: {different:?}"));
    }
    if outcome.status != Status::Exited(23) {
        faults.push(format!("{:?} instead of 23", outcome.status));
    }
    let strangers = world.strangers();
    if !strangers.is_empty() {
        faults.push(format!("packets past the proxy: {strangers:?}"));
    }
    let redirected = |event: &support::run::Event| {
        event.text("action") == "redirect"
            && ["outbound", "disclosure"].contains(&event.text("class"))
            && !event.text("address").is_empty()
    };
    if outcome.leaks().next().is_none() || !outcome.leaks().all(redirected) {
        faults.push("not all leaks were redirected".into());
    }
    faults
}

fn verdict(faults: &[String], outcome: &Outcome) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(format!("{}\n  {outcome:?}", faults.join("; "))) }
}

/// Every case, natively and redirected: by all backends, as root and as an ordinary user, in a user
/// namespace and in isolation, through a SOCKS proxy over IPv4, over IPv6 and by a UNIX socket, and through an
/// HTTP proxy.
#[test]
fn programs_see_no_difference() {
    with_privilege("programs_see_no_difference", || {
        let mut ways = vec![
            ("seccomp", 0, "plain", None),
            ("ptrace", 0, "plain", None),
            ("seccomp", 0, "plain6", None),
            ("seccomp", 0, "unix", None),
            ("ptrace", 0, "http", None),
        ];
        if ebpf_works() {
            ways.extend(["plain", "plain6", "http", "unix"].map(|kind| ("ebpf", 0, kind, None)));
            ways.push(("ebpf", 0, "plain", Some(HOLDS)));
        }
        if !root_is_alone() {
            ways.extend([
                ("seccomp", NOBODY, "plain", None),
                ("ptrace", NOBODY, "plain", None),
                ("seccomp", NOBODY, "http", Some("--user-namespace")),
            ]);
        }
        let all: Vec<_> =
            cases().into_iter().flat_map(|case| ways.iter().map(move |way| (case.clone(), *way))).collect();
        // One world serves many: setting one up takes longer than a case.
        let chunks: Vec<_> = all.chunks(all.len().div_ceil(6)).collect();
        run_all(
            &chunks,
            |chunk| {
                let mut names: Vec<&str> = chunk.iter().map(|(case, _)| case.as_str()).collect();
                names.dedup();
                names.join(" ")
            },
            |chunk| {
                let world = World::new();
                let wanted = std::env::var("SOCKSTRACE_CASE").unwrap_or_default();
                let mut failures = Vec::new();
                for (case, (backend, user, kind, option)) in *chunk {
                    // UNIX sockets know neither resets nor (as TCP has them) urgent data.
                    let beyond_unix = case.starts_with("reset") || case == "urgent";
                    // Only a SOCKS proxy with an address of its own relays datagrams.
                    let beyond = match *kind {
                        "unix" => beyond_unix || case.starts_with("udp"),
                        "http" => case.starts_with("udp"),
                        _ => false,
                    };
                    // Programs in the kernel divert connections alone.
                    let diverts = *backend == "ebpf" && *option != Some(HOLDS);
                    let beyond = beyond || diverts && case.starts_with("udp");
                    if !case.contains(&wanted) || beyond {
                        continue;
                    }
                    let native = world.run(None, PLAIN, &[case]).run();
                    assert_eq!(native.status, Status::Exited(0), "{case} natively: {native:?}");
                    assert!(!world.natives().is_empty(), "natively {case} reaches the services");
                    let unix = format!("socks5+unix://{}/log.sock", world.dir.display());
                    let proxy = match *kind {
                        "plain" => PLAIN,
                        "plain6" => PLAIN6,
                        "http" => HTTP,
                        _ => &unix,
                    };
                    let mut run = world.run(Some(backend), proxy, &[case]).args(*option);
                    if *user != 0 {
                        run = run.user(*user);
                    }
                    let outcome = run.run();
                    if let Err(why) = verdict(&faults(&world, &outcome, &native.stdout), &outcome) {
                        failures.push(format!("{case} {backend} {user} {kind}: {why}"));
                    }
                }
                if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
            },
        );
    });
}

/// Real proxies, none of which can all that the one of `services.py` can.
#[test]
fn real_proxies() {
    const CASES: [&str; 8] = [
        "blocking",
        "blocking_refused",
        "nonblocking",
        "nonblocking_refused",
        "speaks_first",
        "bulk",
        "threads",
        "asyncio",
    ];
    with_privilege("real_proxies", || {
        run_all(&["microsocks", "microsocks-password", "dante", "tinyproxy", "ssh"], ToString::to_string, |name| {
            let mut world = World::new();
            let url = world.start_proxy(name);
            let mut failures = Vec::new();
            let datagrams = ["udp_one_address_for_all", "udp_many", "udp_batches"];
            for case in CASES.into_iter().chain(datagrams.into_iter().filter(|_| *name == "dante")) {
                // ssh answers a request before it knows, and ends the connection if it fails.
                if *name == "ssh" && case.contains("refused") {
                    continue;
                }
                let native = world.run(None, PLAIN, &[case]).run();
                world.natives();
                let held = if case.len() % 2 == 0 { "seccomp" } else { "ptrace" };
                let diverts = ebpf_works() && !case.starts_with("udp");
                for backend in [Some(held), diverts.then_some("ebpf")].into_iter().flatten() {
                    let outcome = world.run(Some(backend), &url, &[case]).run();
                    if let Err(why) = verdict(&faults(&world, &outcome, &native.stdout), &outcome) {
                        failures.push(format!("{case} {backend}: {why}"));
                    }
                }
            }
            if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
        });
    });
}

/// What the proxy answers, and what connect(2) then says, at once and later.
#[test]
fn answers_become_errors() {
    const TABLE: &[(&str, u16, &str)] = &[
        (PLAIN, 30001, "EHOSTUNREACH"),
        (PLAIN, 30002, "EHOSTUNREACH"),
        (PLAIN, 30003, "ENETUNREACH"),
        (PLAIN, 30004, "EHOSTUNREACH"),
        (PLAIN, 30005, "ECONNREFUSED"),
        (PLAIN, 30006, "ETIMEDOUT"),
        (PLAIN, 30007, "ECONNREFUSED"),
        (PLAIN, 30008, "ENETUNREACH"),
        (PLAIN, 30242, "EHOSTUNREACH"),
        (PLAIN, 31000, "ECONNREFUSED"),
        (PLAIN, 31001, "ECONNREFUSED"),
        (HTTP, 30403, "EHOSTUNREACH"),
        (HTTP, 30407, "ECONNREFUSED"),
        (HTTP, 30502, "ECONNREFUSED"),
        (HTTP, 30504, "ETIMEDOUT"),
        ("http://203.0.113.9:1080", 80, "ECONNREFUSED"),
        // Nobody is there; wants a password; takes none; refuses these.
        ("socks5://203.0.113.9:1999", 80, "ECONNREFUSED"),
        ("socks5://203.0.113.9:1081", 80, "ECONNREFUSED"),
        ("socks5://u:p@203.0.113.9:1080", 80, "ECONNREFUSED"),
        ("socks5://wrong:p@203.0.113.9:1081", 80, "ECONNREFUSED"),
        ("socks5+unix:///nonexistent/socket", 80, "ECONNREFUSED"),
    ];
    with_privilege("answers_become_errors", || {
        let world = World::new();
        for (number, (proxy, port, errno)) in TABLE.iter().enumerate() {
            for backend in [Some(BACKENDS[number % 2]), ebpf_works().then_some("ebpf")].into_iter().flatten() {
                let run = world.run(Some(backend), proxy, &["errors"]).env("PORT", port.to_string()).run();
                // Nothing makes a connection time out before its time.
                let errno = if backend == "ebpf" && *errno == "ETIMEDOUT" { "EHOSTUNREACH" } else { errno };
                let expected = format!(
                    "-- errors\n{errno} ENOTCONN 0\nEINPROGRESS True {errno} 0\nEINPROGRESS True {errno} EINPROGRESS\n"
                );
                assert_eq!(run.stdout, expected, "{backend} {proxy} {port}: {run:?}");
                assert_eq!(run.status, Status::Exited(23), "{run:?}");
                assert!(world.strangers().is_empty(), "{proxy} {port}");
            }
        }
    });
}

/// A proxy that says nothing: the program's own timeouts hold, and its end is not waited for.
#[test]
fn silence_is_waited_for_as_long_as_the_program_likes() {
    with_privilege("silence_is_waited_for_as_long_as_the_program_likes", || {
        let world = World::new();
        for backend in backends() {
            let run = world.run(Some(backend), PLAIN, &["silence"]).env("PORT", "31002").run();
            assert_eq!(
                run.stdout, "-- silence\nEINPROGRESS [] EALREADY\nEINPROGRESS True\nEINTR\ntimed out\n",
                "{run:?}"
            );
            assert!(run.elapsed < Duration::from_secs(10), "{run:?}");
            assert!(run.complaints().is_empty(), "{run:?}");
        }
    });
}

/// Who shares credentials.
#[test]
fn credentials_isolate() {
    with_privilege("credentials_isolate", || {
        let world = World::new();
        world.asked();
        // Connections: A and B of one process, then A of another.
        for (options, same) in [
            (&["--isolate-by=connection"][..], [false, false]),
            (&["--isolate-by=destination"], [false, true]),
            (&["--isolate-by=process", "--isolate-format=tor"], [true, false]),
            (&["--isolate-by=run"], [true, true]),
        ] {
            for backend in backends() {
                let proxy = "socks5://203.0.113.9:1081";
                let run = world.run(Some(backend), proxy, &["credentials"]).args(options).run();
                assert_eq!(run.stdout, "-- credentials\nNone\nNone\nNone\n", "{run:?}");
                let asked = world.asked();
                let words: Vec<Vec<&str>> = asked.iter().map(|line| line.split(' ').collect()).collect();
                assert_eq!(words.len(), 3, "{asked:?}");
                assert!(words[0][1] == "7" && words[1][1] == "19" && words[2][1] == "7", "{asked:?}");
                assert_eq!(
                    [words[0][2..] == words[1][2..], words[0][2..] == words[2][2..]],
                    same,
                    "{options:?} {asked:?}"
                );
                let tor = options.len() > 1;
                assert_eq!(words.iter().all(|words| words[2] == "<torS0X>0"), tor, "{asked:?}");
                assert!(words.iter().all(|words| words[3].len() == 32), "{asked:?}");
            }
        }
        // The user's own.
        let run = world.run(Some("seccomp"), "socks5://me:mine@203.0.113.9:1081", &["credentials"]).run();
        assert_eq!(run.status, Status::Exited(23), "{run:?}");
        assert_eq!(world.asked()[0], "203.0.113.5 7 me mine");
    });
}

/// `--dns redirect=map`: the program resolves names itself, and nobody but the proxy hears of them; names that only
/// the proxy knows work, and an address of the pool gets nowhere else.
#[test]
fn names_are_asked_of_the_proxy() {
    const NAMES: [&str; 4] = [
        "www.site.example",
        "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
        "six.site.example",
        "nowhere.example",
    ];
    with_privilege("names_are_asked_of_the_proxy", || {
        let world = World::new();
        world.asked();
        let allow = ["--allow=198.0.0.0/8", "--allow=fd00::/8"];
        for (backend, proxy, options) in [
            ("seccomp", PLAIN, &[][..]),
            ("ptrace", PLAIN6, &allow),
            ("ptrace", HTTP, &allow),
            ("seccomp", "socks5://203.0.113.9:1081", &["--isolate-by=destination"]),
            ("seccomp", PLAIN, &["--isolate"]),
        ] {
            let cases = ["names"].into_iter().chain(NAMES).collect::<Vec<_>>();
            let run = world.run(Some(backend), proxy, &cases).arg("--dns=redirect=map").args(options).run();
            let mut expected = vec!["-- names".to_owned()];
            expected.extend(NAMES[..3].iter().map(|name| format!("{name} True True True {name}")));
            // HTTP's 502 is either.
            expected
                .push(format!("nowhere.example {}", if proxy == HTTP { "ECONNREFUSED" } else { "EHOSTUNREACH" }));
            let last =
                "198.19.250.7 EPERM\nfd73:6f63:6b73::1:7 EPERM\nAF_INET None True True\nAF_INET6 None True True\n";
            expected.push(last.to_owned());
            let mut expected = expected.join("\n");
            if proxy != HTTP {
                expected += "datagram True\n";
            }
            assert_eq!(run.stdout, expected, "{backend} {proxy} {run:?}");
            assert!(world.strangers().is_empty(), "{run:?}");
            let asked = world.asked();
            let hosts: std::collections::BTreeSet<&str> = asked
                .iter()
                .filter_map(|line| line.split(' ').next())
                .filter(|word| *word != "associate")
                .collect();
            assert_eq!(hosts, NAMES.into_iter().collect(), "asked by name alone");
            let named = |event: &support::run::Event| {
                event.text("action") == "redirect"
                    && event.text("reason").contains("asked of the proxy as six.site.example")
            };
            assert!(run.leaks().any(named), "{run:?}");
            if options == ["--isolate-by=destination"] {
                let of = |name: &str| {
                    let lines = asked.iter().filter(|line| line.starts_with(name));
                    lines
                        .map(|line| line.split_once(' ').unwrap().1.to_owned())
                        .collect::<std::collections::BTreeSet<_>>()
                };
                assert_eq!(of("www.site.example").len(), 1, "{asked:?}");
                assert_ne!(of("www.site.example"), of("six.site.example"), "{asked:?}");
            }
        }
    });
}

/// What is no TCP connection is blocked, and says so; what is allowed goes its own way.
#[test]
fn the_rest_is_blocked_or_allowed() {
    with_privilege("the_rest_is_blocked_or_allowed", || {
        let world = World::new();
        for backend in BACKENDS {
            let run = world.run(Some(backend), HTTP, &["not_connections"]).run();
            assert_eq!(run.stdout, "-- not_connections\nudp EPERM\nudp connect EPERM\nmptcp EPERM\n", "{run:?}");
            let blocked = run.leaks().all(|event| {
                event.text("action") == "block"
                    && event.text("errno") == "EPERM"
                    && event.text("reason").contains("not redirected: ")
            });
            assert!(blocked && run.leaks().count() == 3, "{run:?}");
            let why =
                |event: &support::run::Event| event.text("reason").contains("an HTTP proxy carries no datagrams");
            assert_eq!(run.leaks().filter(|event| why(event)).count(), 2, "{run:?}");
            assert!(world.strangers().is_empty());
            // Allowed: past the proxy, and so named.
            let run = world
                .run(Some(backend), PLAIN, &["blocking"])
                .arg("--allow=203.0.113.5")
                .arg("--allow=2001:db8::5")
                .run();
            assert_eq!(run.status, Status::Exited(0), "{run:?}");
            assert!(!world.strangers().is_empty());
        }
    });
}

/// What programs in the kernel divert: connections by i386 calls too; and they refuse the rest, and say why.
#[test]
fn in_the_kernel() {
    with_privilege("in_the_kernel", || {
        if !ebpf_works() {
            return;
        }
        let world = World::new();
        let run = world.run(Some("ebpf"), PLAIN, &["not_connections"]).run();
        assert_eq!(run.stdout, "-- not_connections\nudp EPERM\nudp connect EPERM\nmptcp EPERM\n", "{run:?}");
        let told: Vec<_> = run.leaks().map(|event| (event.text("action"), event.text("errno"))).collect();
        assert_eq!(told, [("block", "EPERM"); 3], "{run:?}");
        for (event, why) in run.leaks().zip(["only TCP connections", "only TCP connections", "multipath TCP"]) {
            assert!(event.text("reason").contains(&format!("not redirected: {why}")), "{run:?}");
        }
        // Allowed: past the proxy, and so named.
        let run =
            world.run(Some("ebpf"), PLAIN, &["blocking"]).arg("--allow=203.0.113.5").arg("--allow=2001:db8::5");
        let run = run.run();
        assert_eq!(run.status, Status::Exited(0), "{run:?}");
        assert!(!world.strangers().is_empty());
        world.asked();
        let built = programs();
        let guests = [Some((&built.vectors, "x86_64")), built.vectors32.as_ref().map(|guest| (guest, "i386"))];
        for (guest, abi) in guests.into_iter().flatten() {
            for name in ["tcp4", "tcp6"] {
                let run = Run::new("ebpf", &world.dir).args(["--stack=never", "--on-leak=redirect"]);
                let run = run.arg(format!("--proxy={PLAIN}")).program([guest.as_os_str(), name.as_ref()]).run();
                let told: Vec<_> = run.leaks().collect();
                let seen = ["action", "abi", "errno", "address"].map(|key| told[0].text(key));
                let host = if name == "tcp4" { "203.0.113.5" } else { "2001:db8::5" };
                let address = if name == "tcp4" { "203.0.113.5:7777" } else { "[2001:db8::5]:7777" };
                assert_eq!(seen, ["redirect", abi, "ECONNREFUSED", address], "{run:?}");
                assert!(world.asked().iter().any(|line| line.starts_with(&format!("{host} 7777"))), "{run:?}");
                assert!(world.strangers().is_empty());
            }
        }
        // Who gives up is not waited for, though the proxy says nothing.
        let run = world.run(Some("ebpf"), PLAIN, &["gives_up"]).env("PORT", "31002").start();
        run.wait_for_stdout("given up");
        let sockets = || {
            let entries = fs::read_dir(format!("/proc/{}/fd", run.pid)).unwrap().flatten();
            let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
            targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
        };
        let before = sockets();
        std::thread::sleep(Duration::from_millis(2500));
        let after = sockets();
        let outcome = run.finish();
        // The holes, and what they are filled with.
        assert!(before > 80 && after <= 60, "{before} {after} {outcome:?}");
        assert_eq!((outcome.stdout.as_str(), outcome.status), ("-- gives_up\ngiven up\n", Status::Exited(23)));
        // Killed while a connection waits: nobody goes on, and nothing gets past.
        let run = world.run(Some("ebpf"), PLAIN, &["waits"]).env("PORT", "31002").start();
        run.wait_for_stdout("waits");
        std::thread::sleep(Duration::from_millis(200));
        // SAFETY: takes integers only.
        assert_eq!(unsafe { libc::kill(run.pid, libc::SIGKILL) }, 0);
        let outcome = run.finish();
        assert!(!outcome.stdout.contains("connected"), "{outcome:?}");
        assert!(world.strangers().is_empty());
    });
}

/// What isn't redirected of datagrams, those of a program that ends at once, and who shares an association.
#[test]
fn datagrams() {
    with_privilege("datagrams", || {
        let world = World::new();
        world.asked();
        for backend in BACKENDS {
            let run = world.run(Some(backend), PLAIN, &["multicast"]).run();
            let expected = "-- multicast\nEPERM EPERM\nEINVAL 1 (b'x', ('203.0.113.5', 7))\n";
            assert_eq!(run.stdout, expected, "{run:?}");
            let blocked = run.leaks().filter(|event| event.text("action") == "block");
            assert!(blocked.count() == 2 && run.leaks().any(|event| event.text("reason").contains("multicast")));
            assert!(world.strangers().is_empty());
            // The services note what has arrived at port 27.
            world.asked();
            let run = world.run(Some(backend), PLAIN, &["udp_ends"]).run();
            assert_eq!(run.status, Status::Exited(23), "{run:?}");
            std::thread::sleep(Duration::from_millis(100));
            let asked = world.asked();
            assert!(asked.contains(&"datagram last words".to_owned()), "{asked:?} {run:?}");
            for (options, same) in [("--isolate-by=connection", false), ("--isolate-by=run", true)] {
                world.asked();
                let proxy = "socks5://203.0.113.9:1081";
                let run = world.run(Some(backend), proxy, &["udp_isolated"]).arg(options).run();
                let line = "1 b'x' ('203.0.113.5', 7)\n";
                assert_eq!(run.stdout, format!("-- udp_isolated\n{line}{line}"), "{run:?}");
                let asked = world.asked();
                let last: Vec<_> = asked.iter().rev().take(2).collect();
                assert_eq!(last[0] == last[1], same, "{asked:?}");
            }
            let run = world.run(Some(backend), PLAIN, &["udp_isolated"]).arg("--isolate").run();
            assert!(run.stdout.contains("1 b'x' ('203.0.113.5', 7)\n"), "{run:?}");
            assert!(world.strangers().is_empty());
        }
    });
}

/// What a program has sent when it ends still arrives; when sockstrace dies, nothing goes on past it.
#[test]
fn ends() {
    with_privilege("ends", || {
        let world = World::new();
        for backend in backends() {
            let run = world.run(Some(backend), PLAIN, &["sends_and_ends"]).run();
            assert_eq!(run.status, Status::Exited(23), "{run:?}");
            // The service tells a second program what the first had sent.
            let run = world.run(Some(backend), PLAIN, &["stays"]).start();
            run.wait_for_stdout("connected");
            // SAFETY: takes integers only.
            assert_eq!(unsafe { libc::kill(run.pid, libc::SIGKILL) }, 0);
            let outcome = run.finish();
            assert!(outcome.stdout.contains("connected\n"), "{outcome:?}");
            assert!(!outcome.stdout.contains("still"), "{outcome:?}");
            assert!(world.strangers().is_empty());
        }
    });
}

/// Under `--isolate` too.
#[test]
fn from_within_isolation() {
    with_privilege("from_within_isolation", || {
        if root_is_alone() {
            return println!("skipped: in a user namespace of the tests");
        }
        let world = World::new();
        for backend in BACKENDS {
            for user in [0, NOBODY] {
                let mut run = world.run(Some(backend), PLAIN, &["isolated"]).arg("--isolate");
                if user != 0 {
                    run = run.user(user);
                }
                let run = run.run();
                assert_eq!(
                    run.stdout, "-- isolated\nNone ('203.0.113.5', 7) True\nEINPROGRESS ECONNREFUSED\n",
                    "{run:?}"
                );
                assert!(world.strangers().is_empty());
            }
        }
    });
}
