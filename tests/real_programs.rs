//! Real programs, natively and under all backends: through a proxy they work as untraced and nothing is
//! reported; told to go direct they are caught.
//!
//! A program that isn't installed fails its test, unless `SOCKSTRACE_WITHOUT=chromium,…` names it.
//! `SOCKSTRACE_CASE=curl` runs what has that in its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "real/recipes.rs"]
mod recipes;
mod support;
#[path = "real/world.rs"]
mod world;

use recipes::{RECIPES, Recipe, Setting, Shows};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::cases::{run_all, with_privilege};
use support::run::{Outcome, Status};
use support::{backends, backends_of};
use world::{NAMES, NOBODY, TEXT, WEB, World, described, is_unwanted, require};

/// How a program is run.
#[derive(Debug, Clone, Copy)]
struct Way {
    backend: Option<&'static str>,
    proxied: bool,
    options: &'static [&'static str],
}

/// Fetches the page and says what of it went wrong, whatever way it was.
fn fetch(world: &World, recipe: &Recipe, user: u32, way: Way) -> (Outcome, Vec<String>, bool) {
    let home = world.home(user);
    let site = WEB.to_string();
    let setting = Setting { home: &home, site: &site, proxied: way.proxied, root: user == 0 };
    world.requests();
    world.queries();
    let command = (recipe.command)(&setting);
    let outcome = world.run(way.backend, user, &home).args(way.options).program(command).run();
    // A report that was sent when the program ended may still be read.
    std::thread::sleep(Duration::from_millis(50));
    let requests = world.requests();
    let mut wrong = outcome.complaints();
    let redirected = way.options.contains(&"--on-leak=redirect");
    if requests.iter().any(|request| request.proxied != (way.proxied || redirected)) {
        wrong.push(format!("it came another way: {requests:?}"));
    }
    if way.backend.is_some() && outcome.summary.is_none() {
        wrong.push("no summary".into());
    }
    let seen = match recipe.shows {
        Shows::Stdout => outcome.stdout.contains("A page of the test"),
        Shows::Report => requests.iter().any(|request| request.body == TEXT),
    };
    let blocked = !way.proxied && way.options.iter().all(|option| *option != "--on-leak=log");
    if way.backend.is_some() && blocked {
        if !requests.is_empty() && !redirected {
            wrong.push(format!("requests got through: {requests:?}"));
        }
        let queries = world.queries();
        if queries > 0 {
            wrong.push(format!("{queries} DNS queries got through"));
        }
    }
    (outcome, wrong, seen)
}

fn check(recipe: &Recipe, user: u32, backend: &'static str) -> Result<(), String> {
    if is_unwanted(recipe.name) {
        return Ok(());
    }
    recipe.check_needs()?;
    let world = World::new();
    let way = |backend, proxied, options| Way { backend, proxied, options };

    let (native, wrong, seen) = fetch(&world, recipe, user, way(None, true, &[]));
    if !wrong.is_empty() || !seen || native.status != Status::Exited(0) {
        return Err(format!("natively: {wrong:?} page seen: {seen}\n  {}", described(&native)));
    }
    let mut failures = Vec::new();
    let mut tell = |what: &str, wrong: Vec<String>, outcome: &Outcome| {
        if !wrong.is_empty() {
            failures.push(format!("{what}: {}\n  {}", wrong.join("; "), described(outcome)));
        }
    };

    // Hooks in the kernel judge, but carry nothing.
    let carries = backend != "ebpf";
    for options in [&[][..], &["--syscalls=strict"], &["--isolate"]].into_iter().take(if carries { 3 } else { 2 }) {
        let (proxied, mut wrong, seen) = fetch(&world, recipe, user, way(Some(backend), true, options));
        if !seen || (recipe.shows == Shows::Stdout && proxied.stdout != native.stdout) {
            wrong.push("another page than natively".into());
        }
        let unknown: Vec<_> = proxied.leaks().filter(|event| !(recipe.known)(event)).collect();
        if !unknown.is_empty() {
            wrong.push(format!("false alarms: {unknown:?}"));
        }
        let expected = if proxied.leaks().next().is_some() { 23 } else { 0 };
        if proxied.status != Status::Exited(expected) {
            wrong.push(format!("{:?} instead of {expected}", proxied.status));
        }
        tell(&format!("through the proxy {options:?}"), wrong, &proxied);
    }

    let target = format!("{WEB}:80");
    let caught = |outcome: &Outcome, wrong: &mut Vec<String>, action: &str| {
        let leaks: Vec<_> = outcome.leaks().filter(|event| event.text("address") == target).collect();
        let expected = |event: &support::run::Event| {
            (event.text("syscall"), event.text("class"), event.text("action")) == ("connect", "outbound", action)
        };
        if leaks.is_empty() || !leaks.iter().all(|event| expected(event)) {
            wrong.push(format!("not caught connecting to {target}"));
        }
    };
    let (blocked, mut wrong, seen) = fetch(&world, recipe, user, way(Some(backend), false, &[]));
    caught(&blocked, &mut wrong, "block");
    if seen {
        wrong.push("the page was seen".into());
    }
    if matches!(blocked.status, Status::Exited(0) | Status::Signaled(_)) {
        wrong.push(format!("{:?} though it leaked", blocked.status));
    }
    tell("direct, blocked", wrong, &blocked);

    let (logged, mut wrong, seen) = fetch(&world, recipe, user, way(Some(backend), false, &["--on-leak=log"]));
    caught(&logged, &mut wrong, "continue");
    if !seen || (recipe.shows == Shows::Stdout && logged.stdout != native.stdout) {
        wrong.push("another page than natively".into());
    }
    if logged.status != Status::Exited(23) {
        wrong.push(format!("{:?} instead of 23", logged.status));
    }
    tell("direct, logged", wrong, &logged);

    if carries {
        // Told nothing of a proxy.
        let (redirected, mut wrong, seen) =
            fetch(&world, recipe, user, way(Some(backend), false, &["--on-leak=redirect"]));
        caught(&redirected, &mut wrong, "redirect");
        if !seen || (recipe.shows == Shows::Stdout && redirected.stdout != native.stdout) {
            wrong.push("another page than natively".into());
        }
        if redirected.status != Status::Exited(23) {
            wrong.push(format!("{:?} instead of 23", redirected.status));
        }
        tell("direct, redirected", wrong, &redirected);
    }

    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Root, and an ordinary user where we can become one.
fn users() -> Vec<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let has_nobody = numbers.chunks(3).any(|range| match range {
        &[first, _, count] => (first..first + count).contains(&u64::from(NOBODY)),
        _ => false,
    });
    if has_nobody { vec![0, NOBODY] } else { vec![0] }
}

/// Users with the backends that work for them.
fn pairs() -> Vec<(u32, &'static str)> {
    let of = |user| backends_of(user).into_iter().map(move |backend| (user, backend));
    users().into_iter().flat_map(of).collect()
}

#[test]
fn programs() {
    with_privilege("programs", || {
        let mut cases = Vec::new();
        for recipe in RECIPES {
            for user in users() {
                cases.extend(backends_of(user).into_iter().map(|backend| (recipe, user, backend)));
            }
        }
        run_all(
            &cases,
            |(recipe, user, backend)| format!("{} {user} {backend}", recipe.name),
            |(recipe, user, backend)| check(recipe, *user, backend),
        );
    });
}

/// `--socks5` where `--socks5-hostname` was meant: the classic mistake.
#[test]
fn curl_that_resolves_by_itself() {
    with_privilege("curl_that_resolves_by_itself", || {
        run_all(
            &backends(),
            |backend| format!("dns {backend}"),
            |backend| {
                require("curl", "curl")?;
                let world = World::new();
                let home = world.home(0);
                let command = ["curl", "-sS", "--socks5", "203.0.113.9:9050", "http://www.site.example/"];
                for (options, queries) in [(&[][..], false), (&["--on-leak=log"], true)] {
                    let outcome = world.run(Some(backend), 0, &home).args(options).program(command).run();
                    let arrived = world.queries();
                    let server = format!("{NAMES}:53");
                    let told = outcome
                        .leaks()
                        .any(|event| event.text("address") == server && event.0["socket"]["protocol"] == "udp");
                    if !told || (arrived > 0) != queries || !outcome.complaints().is_empty() {
                        return Err(format!("{arrived} queries; {options:?}: {}", described(&outcome)));
                    }
                }
                Ok(())
            },
        );
    });
}

/// tor with a SOCKS proxy of its own: its SocksPort serves, and it goes nowhere but to that proxy. Without
/// one it is caught on its way to the directory authorities.
#[test]
fn tor() {
    if is_unwanted("tor") {
        return;
    }
    with_privilege("tor", || {
        let cases: Vec<_> = pairs().into_iter().map(|(user, backend)| (user, Some(backend))).collect();
        let native: Vec<_> = users().into_iter().map(|user| (user, None)).collect();
        run_all(
            &[native, cases].concat(),
            |(user, backend)| format!("tor {user} {backend:?}"),
            |(user, backend)| {
                require("tor", "tor")?;
                let world = World::new();
                tor_serves(&world, *user, *backend)?;
                backend.map_or(Ok(()), |backend| tor_is_caught(&world, *user, backend))
            },
        );
    });
}

const TOR: &str = "tor -f torrc --defaults-torrc /nonexistent --ignore-missing-torrc --DataDirectory data \
    --SocksPort 203.0.113.5:9150 --Log 'notice stdout' \"$@\" &
    tor=$!
    n=0
    until [ -e stop ] || [ $n -ge 600 ]; do sleep 0.1; n=$((n+1)); done
    kill -INT $tor
    wait $tor";

fn tor_serves(world: &World, user: u32, backend: Option<&str>) -> Result<(), String> {
    let home = world.home(user);
    let command = ["sh", "-c", TOR, "sh", "--Socks5Proxy", "203.0.113.9:9050", "--ShutdownWaitLength", "0"];
    let running = world.run(backend, user, &home).program(command).start();
    let start = Instant::now();
    let greeted = loop {
        let greeting = TcpStream::connect((WEB, 9150)).and_then(|mut stream| {
            stream.write_all(&[5, 1, 0])?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        match greeting {
            Ok(answer) => break answer == [5, 0],
            Err(_) if start.elapsed() < Duration::from_secs(60) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break false,
        }
    };
    // Before that it doesn't hear a signal; a little later it has tried the network.
    running.wait_for_stdout("Bootstrapped 0%");
    std::thread::sleep(Duration::from_secs(3));
    fs::write(home.join("stop"), "").unwrap();
    let outcome = running.finish();
    let wrong = outcome.complaints();
    let quiet = outcome.leaks().next().is_none();
    let clean = outcome.stdout.contains("Interrupt: exiting cleanly");
    if greeted && quiet && clean && wrong.is_empty() && outcome.status == Status::Exited(0) {
        return Ok(());
    }
    Err(format!("greeted: {greeted}, clean end: {clean}, {wrong:?} {}\n{}", described(&outcome), outcome.stdout))
}

fn tor_is_caught(world: &World, user: u32, backend: &str) -> Result<(), String> {
    let home = world.home(user);
    let running = world.run(Some(backend), user, &home).program(["sh", "-c", TOR, "sh"]).start();
    running.wait_for_stdout("Bootstrapped 0%");
    std::thread::sleep(Duration::from_secs(3));
    fs::write(home.join("stop"), "").unwrap();
    let outcome = running.finish();
    let caught = outcome.leaks().any(|event| {
        (event.text("syscall"), event.text("class"), event.text("process")) == ("connect", "outbound", "tor")
    });
    let wrong = outcome.complaints();
    if caught && wrong.is_empty() && outcome.status == Status::Exited(23) {
        return Ok(());
    }
    Err(format!("caught: {caught}, {wrong:?} {}\n{}", described(&outcome), outcome.stdout))
}

/// Children end all the time while their parent is in calls: SIGCHLD must disturb none.
#[test]
fn a_thousand_pipelines() {
    let script = "trap 'n=$((n+1))' CHLD; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); \
        echo $i | tr 0-9 a-j | cat || exit 1; done; echo end";
    same_as_natively("pipelines", &|world, backend, user| {
        require("dash", "dash")?;
        let home = world.home(user);
        Ok(world.run(backend, user, &home).program(["dash", "-c", script]).run())
    });
}

/// Go's runtime interrupts busy goroutines with SIGURG; connects must not notice.
#[test]
fn go_under_preemption() {
    if is_unwanted("go") {
        return;
    }
    same_as_natively("storm", &|world, backend, user| {
        require("go", "golang-go")?;
        let home = world.home(user);
        Ok(world
            .run(backend, user, &home)
            .program([recipes::go("storm").as_str(), "203.0.113.9:9050", "3000"])
            .run())
    });
}

/// A run of a program, natively or under a backend.
type RunProgram<'r> = &'r (dyn Fn(&World, Option<&str>, u32) -> Result<Outcome, String> + Sync);

/// Same output and exit status as natively, nothing on standard error and no leak, in log and block.
fn same_as_natively(name: &'static str, run: RunProgram) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    with_privilege(&test, || {
        let cases = pairs();
        run_all(
            &cases,
            |(user, backend)| format!("{name} {user} {backend}"),
            |(user, backend)| {
                let world = World::new();
                let native = run(&world, None, *user)?;
                let traced = run(&world, Some(backend), *user)?;
                let wrong = [native.complaints(), traced.complaints()].concat();
                let same = native.status == Status::Exited(0)
                    && (native.status, &native.stdout, &native.stderr)
                        == (traced.status, &traced.stdout, &traced.stderr);
                if same && wrong.is_empty() && traced.leaks().next().is_none() {
                    return Ok(());
                }
                Err(format!("{wrong:?}\n  natively {}\n  traced {}", described(&native), described(&traced)))
            },
        );
    });
}

/// `<process-name>/<pid>/<fd> syscall::<name>(<address>) = <return> [ERRNO]`, to the letter.
#[test]
fn sockwho_lines() {
    with_privilege("sockwho_lines", || {
        run_all(
            &backends(),
            |backend| format!("sockwho {backend}"),
            |backend| {
                require("curl", "curl")?;
                let world = World::new();
                let home = world.home(0);
                let file = home.join("events");
                let outcome = world
                    .run(Some(backend), 0, &home)
                    .own_output()
                    .args(["--format=sockwho", "--trace=all", "-o"])
                    .arg(&file)
                    .program(["sh", "-c", "curl -s --noproxy '*' http://203.0.113.5/ || echo $$"])
                    .run();
                let text = fs::read_to_string(&file).unwrap();
                let leaks: Vec<&str> = text.lines().filter(|line| line.contains("203.0.113.5")).collect();
                let fine = |line: &&str| {
                    let (head, call) = line.split_once(' ')?;
                    let mut head = head.split('/');
                    let (name, pid, fd) = (head.next()?, head.next()?, head.next()?);
                    let numbers = pid.parse::<u32>().is_ok() && fd.parse::<u32>().is_ok() && head.next().is_none();
                    (name == "curl" && numbers && call == "syscall::connect(203.0.113.5:80) = -1 [EPERM]")
                        .then_some(())
                };
                if leaks.len() == 1 && leaks.iter().all(|line| fine(line).is_some()) {
                    return Ok(());
                }
                Err(format!("{text:?} {}", described(&outcome)))
            },
        );
    });
}

/// `doctor` names all backends that work and what `auto` takes, and its exit status is 0 where one works.
#[test]
fn doctor() {
    let output = std::process::Command::new(support::run::sockstrace()).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    assert!(text.starts_with("Linux "), "{text}");
    for backend in backends() {
        let works = format!("\n{backend}: works\n");
        assert!(text.contains(&works), "{text}");
    }
    assert!(text.ends_with("\n--backend auto takes seccomp.\n"), "{text}");
    let findings = text.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for line in findings {
        let mark = line.split_whitespace().next().unwrap();
        assert!(["yes", "no", "limited"].contains(&mark), "{line}");
    }
}
