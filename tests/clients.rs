//! Real programs that know of no proxy and resolve names themselves, through real proxies: they work, and on the only
//! link there is no packet but to the proxy.
//!
//! A program that isn't installed fails its test, unless `SOCKSTRACE_WITHOUT=chromium,…` names it.
//! `SOCKSTRACE_CASE=curl` runs what has that in its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "redirect/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod outside;
#[path = "real/recipes.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod recipes;
mod support;
#[path = "real/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use outside::World;
use recipes::{RECIPES, Recipe, Setting, Shows};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::time::Duration;
use support::BACKENDS;
use support::cases::{root_is_alone, run_all, with_privilege};
use support::run::{Outcome, Run, Status};
use world::{NOBODY, PATH, TEXT, WEB, described, is_unwanted, require};

const SITE: &str = "www.site.example";

fn home(world: &World, user: u32) -> PathBuf {
    let home = world.dir.join("home");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
    home
}

fn run(backend: &str, user: u32, home: &std::path::Path, proxy: &str) -> Run {
    let run = Run::new(backend, home).args(["--on-leak=redirect", "--dns=redirect=map"]);
    let run = run.arg(format!("--proxy={proxy}")).linger(Duration::from_secs(5)).deadline(Duration::from_secs(120));
    let run = run.env("HOME", home).env("TMPDIR", home).env("PATH", PATH);
    if user == 0 { run } else { run.user(user) }
}

/// What went wrong with a run that has leaked only what could be redirected.
fn wrong(world: &World, outcome: &Outcome) -> Vec<String> {
    let mut wrong = outcome.complaints();
    if outcome.status != Status::Exited(23) {
        wrong.push(format!("{:?} instead of 23", outcome.status));
    }
    // The last packets of its connections.
    std::thread::sleep(Duration::from_millis(100));
    let strangers = world.strangers();
    if !strangers.is_empty() {
        wrong.push(format!("packets past the proxy: {strangers:?}"));
    }
    let past = |event: &&support::run::Event| {
        event.text("class") == "outbound"
            && event.text("syscall") == "connect"
            && event.text("action") != "redirect"
            && event.0["socket"]["family"] != "unix"
    };
    wrong.extend(outcome.leaks().find(past).map(|event| format!("not redirected: {}", event.0)));
    wrong
}

fn fetch(recipe: &Recipe, proxy: &str, backend: &str, user: u32) -> Result<(), String> {
    recipe.check_needs()?;
    let mut world = World::new();
    let url = world.start_proxy(proxy);
    world.strangers();
    world.asked();
    let home = home(&world, user);
    // It takes no names.
    let address = WEB.to_string();
    let site = if recipe.name == "musl" { &address } else { SITE };
    let setting = Setting { home: &home, site, proxied: false, root: user == 0 };
    let outcome = run(backend, user, &home, &url).program((recipe.command)(&setting)).run();
    let mut wrong = wrong(&world, &outcome);
    let arrived = world.asked();
    let seen = match recipe.shows {
        Shows::Stdout => outcome.stdout.contains("A page of the test"),
        Shows::Report => arrived.iter().any(|line| *line == format!("http POST {TEXT}")),
    };
    if !seen || !arrived.iter().any(|line| line.starts_with("http GET /")) {
        wrong.push(format!("no page; {arrived:?}"));
    }
    let by_name = |event: &support::run::Event| {
        event.text("action") == "redirect"
            && event.text("reason").contains(&format!("asked of the proxy as {SITE}"))
    };
    if site == SITE && !outcome.leaks().any(by_name) {
        wrong.push("the proxy wasn't asked by name".into());
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n  {}", wrong.join("; "), described(&outcome))) }
}

/// All programs through one proxy of each kind, some through all proxies.
#[test]
fn programs_through_proxies() {
    with_privilege("programs_through_proxies", || {
        let other = if root_is_alone() { 0 } else { NOBODY };
        let mut cases = Vec::new();
        for recipe in RECIPES.iter().filter(|recipe| !is_unwanted(recipe.name) && recipe.name != "java-socks") {
            cases.extend([(recipe, "microsocks", "seccomp", other), (recipe, "tinyproxy", "ptrace", 0)]);
            if ["curl", "git", "python", "go"].contains(&recipe.name) {
                cases.extend([(recipe, "dante", "ptrace", other), (recipe, "ssh", "seccomp", 0)]);
            }
        }
        run_all(
            &cases,
            |(recipe, proxy, backend, user)| format!("{} {proxy} {backend} {user}", recipe.name),
            |(recipe, proxy, backend, user)| fetch(recipe, proxy, backend, *user),
        );
    });
}

/// A whole Tor network: exits, an onion service by its name, refusals, datagrams (none), isolation in Tor's own format.
#[test]
fn through_tor() {
    if is_unwanted("tor") {
        return;
    }
    with_privilege("through_tor", || {
        let tor = "socks5://203.0.113.9:9050";
        for (program, package) in [("tor", "tor"), ("tor-gencert", "tor"), ("curl", "curl"), ("wget", "wget")] {
            require(program, package).unwrap();
        }
        let mut world = World::new();
        let onion = world.start_tor();
        for backend in BACKENDS {
            world.strangers();
            world.asked();
            let home = home(&world, 0);
            let page = |words: &[&str], options: &[&str]| {
                let outcome = run(backend, 0, &home, tor).args(options).program(words).run();
                let wrong = wrong(&world, &outcome);
                let seen = outcome.stdout.contains("A page of the test");
                assert!(wrong.is_empty() && seen, "{words:?} {wrong:?} {}", described(&outcome));
            };
            let site = format!("http://{SITE}/");
            page(&["curl", "-sS", &site], &[]);
            page(&["curl", "-sS", &site], &["--isolate-by=connection", "--isolate-format=tor"]);
            page(&["curl", "-sS", "http://203.0.113.5/"], &["--isolate"]);
            page(&["wget", "-q", "--tries=3", "-O", "-", &format!("http://{onion}/")], &[]);
            let guest = recipes::guest("fetch.py");
            page(&["/usr/bin/python3", &guest, &format!("http://{onion}/")], &["--isolate-by=destination"]);
            // What Tor says of a port where nobody listens.
            let errno = match reply_for("203.0.113.5:9".parse().unwrap()) {
                5 => "ECONNREFUSED",
                1 | 4 => "EHOSTUNREACH",
                other => panic!("Tor says {other}"),
            };
            world.strangers();
            let refused = world.run(Some(backend), tor, &["errors"]).env("PORT", "9").run();
            let expected = format!(
                "-- errors\n{errno} ENOTCONN 0\nEINPROGRESS True {errno} 0\nEINPROGRESS True {errno} EINPROGRESS\n"
            );
            assert_eq!(refused.stdout, expected, "{refused:?}");
            let datagrams = world.run(Some(backend), tor, &["not_connections"]).run();
            assert!(datagrams.stdout.contains("udp EPERM\nudp connect EPERM\n"), "{datagrams:?}");
            let why = |event: &&support::run::Event| event.text("reason").contains("relays no datagrams");
            assert_eq!(datagrams.leaks().filter(why).count(), 2, "{datagrams:?}");
            assert!(world.strangers().is_empty());
        }
    });
}

/// The code that Tor answers with.
fn reply_for(destination: SocketAddrV4) -> u8 {
    let mut tor = TcpStream::connect((outside::PROXY, 9050)).unwrap();
    let mut reply = [0; 10];
    tor.write_all(&[5, 1, 0]).unwrap();
    tor.read_exact(&mut reply[..2]).unwrap();
    let request = [&[5, 1, 0, 1][..], &destination.ip().octets(), &destination.port().to_be_bytes()].concat();
    tor.write_all(&request).unwrap();
    tor.read_exact(&mut reply).unwrap();
    reply[1]
}
