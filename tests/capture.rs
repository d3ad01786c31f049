//! Capture compared with what the programs themselves, or witnesses outside, say of the same bytes: each byte,
//! in order, in both directions.
//!
//! A program that isn't installed fails its test, unless `SOCKSTRACE_WITHOUT=psql,…` names it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "capture/bounds.rs"]
mod bounds;
#[path = "capture/captured.rs"]
mod captured;
#[path = "capture/holes.rs"]
mod holes;
#[path = "capture/programs.rs"]
mod real;
#[path = "capture/relay.rs"]
mod relay;
#[path = "capture/running.rs"]
mod running;
mod support;

use captured::{Captured, Place};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use support::programs::programs;
use support::run::{Outcome, Run, Status};

/// What `tests/programs/capture/capture.c` can do.
const CASES: [&str; 11] = [
    "stream",
    "dgram",
    "seqpacket",
    "peek",
    "flood",
    "moved",
    "family",
    "passed",
    "named",
    "interrupted",
    "faults",
];

/// Runs a case, and what it says of itself: descriptor and way (`in`, `out`) to bytes.
fn run(guest: &Path, case: &str, backend: &str, options: &[&str]) -> (Outcome, Told, Captured, Place) {
    let place = Place::new(case);
    let (own, capture) = (place.folder("own"), place.0.join("capture"));
    let outcome = Run::new(backend, &place.0)
        .args(["--allow-loopback", "--trace=all", "--capture"])
        .arg(&capture)
        .args(options)
        .program([guest.as_os_str(), case.as_ref(), own.as_os_str()])
        .deadline(Duration::from_secs(60))
        .run();
    assert_eq!(outcome.status, Status::Exited(0), "{case}: {outcome:?}");
    assert!(outcome.complaints().is_empty(), "{case}: {:?}", outcome.complaints());
    let mut told = Told::new();
    for entry in std::fs::read_dir(&own).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some((fd, way)) = name.split_once('.') {
            told.insert((fd.parse().unwrap(), way.to_owned()), std::fs::read(&path).unwrap());
        }
    }
    (outcome, told, Captured::read(&capture), place)
}

type Told = BTreeMap<(i64, String), Vec<u8>>;

/// What the program says of each socket is what was captured of it.
fn compare(case: &str, told: &Told, captured: &Captured) {
    captured.check();
    let mut seen = Told::new();
    for connection in &captured.connections {
        for way in ["in", "out"] {
            let bytes = connection.bytes(way);
            if !bytes.is_empty() {
                // A number comes again when it was closed.
                seen.entry((connection.fd, way.to_owned())).or_default().extend(bytes);
            }
        }
    }
    let told: Told = told
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(key, bytes)| (key.clone(), bytes.clone()))
        .collect();
    let keys = |told: &Told| told.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&told), keys(&seen), "{case}");
    for (key, bytes) in &told {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        assert!(bytes == &seen[key], "{case} {key:?}: {:?} but {:?}", text(bytes), text(&seen[key]));
    }
}

/// The backends that capture, as far as they work here.
fn captors() -> Vec<&'static str> {
    let ebpf = support::ebpf_works().then_some("ebpf");
    ["ptrace"].into_iter().chain(ebpf).collect()
}

fn every_way(guest: &Path) {
    for backend in captors() {
        for case in CASES.into_iter().filter(|case| backend == "ptrace" || *case != "moved") {
            let (_, told, captured, _place) = run(guest, case, backend, &[]);
            compare(&format!("{backend} {case}"), &told, &captured);
        }
    }
}

/// What a splice moves was never in the program's memory.
#[test]
fn what_programs_in_the_kernel_do_not_see_is_counted() {
    for guest in [Some(&programs().capture), programs().capture32.as_ref()].into_iter().flatten() {
        if !captors().contains(&"ebpf") {
            return;
        }
        let (outcome, told, captured, _place) = run(guest, "moved", "ebpf", &[]);
        let total: usize = told.values().map(Vec::len).sum();
        let (size, stored) = captured.data().fold((0, 0), |(a, b), record| (a + record.size, b + record.stored));
        assert_eq!(size, total as u64);
        let unseen: Vec<_> = captured.data().filter(|record| record.stored != record.size).collect();
        assert!(
            unseen.len() == 3 && unseen.iter().all(|it| it.stored == 0 && it.syscall == "splice"),
            "{unseen:?}"
        );
        let last = captured.records.last().unwrap();
        assert_eq!((last.kind.as_str(), last.size), ("error", size - stored));
        assert!(outcome.stderr.contains("were not stored"), "{}", outcome.stderr);
        // What a file was sent from is read there.
        let sent = captured.data().filter(|record| record.syscall.starts_with("sendfile"));
        assert!(sent.count() >= 2 && stored > 0);
    }
}

#[test]
fn every_way_to_read_and_to_write() {
    every_way(&programs().capture);
}

#[test]
fn every_way_of_i386() {
    if let Some(guest) = &programs().capture32 {
        every_way(guest);
    }
}

#[test]
fn other_families_on_request() {
    captors().into_iter().for_each(other_families);
}

fn other_families(backend: &str) {
    let (_, told, captured, _place) = run(&programs().capture, "inet", backend, &["--capture-family=inet"]);
    let thrown = captured.data().find(|record| record.raw.contains("MSG_TRUNC")).expect("a record of it");
    assert_eq!((thrown.size, thrown.stored), (4, 0));
    // What was thrown away is cut, and counted.
    assert!(captured.records.last().unwrap().raw.contains("4 bytes of 1 data records"));
    let paths: Vec<_> = captured.connections.iter().map(|connection| connection.path.as_str()).collect();
    assert!(paths.len() == 2 && paths.iter().all(|path| path.starts_with("127.0.0.1:")), "{paths:?}");
    let told: Vec<_> = told.values().collect();
    let all: Vec<_> = captured.connections.iter().flat_map(|c| [c.bytes("in"), c.bytes("out")]).collect();
    assert!(told.iter().all(|bytes| all.contains(bytes)), "{told:?} {all:?}");

    let (_, _, captured, _place) = run(&programs().capture, "inet", backend, &[]);
    assert!(captured.connections.is_empty());
}

#[test]
fn auto_takes_a_backend_that_can() {
    let (outcome, told, captured, _place) = run(&programs().capture, "named", "auto", &[]);
    compare("named", &told, &captured);
    assert!(outcome.events.iter().all(|event| event.text("backend") == "ptrace"));
    let place = Place::new("seccomp");
    let refused = Run::new("seccomp", &place.0).args(["--capture", "x"]).program(["true"]).run();
    assert_eq!(refused.status, Status::Exited(125));
    assert!(refused.stderr.contains("can't capture") && refused.stderr.contains("--backend ptrace"));
    assert!(!place.0.join("x").exists());
}

#[test]
fn judging_is_as_without() {
    captors().into_iter().for_each(judging_is_as_without_on);
}

fn judging_is_as_without_on(backend: &str) {
    let judged = |options: &[&str]| {
        let place = Place::new("judged");
        let own = place.folder("own");
        let capture = place.0.join("capture");
        let mut run = Run::new(backend, &place.0).arg("--trace=all").args(options);
        if options.is_empty() {
            run = run.arg("--capture").arg(&capture);
        }
        let outcome = run.program([programs().capture.as_os_str(), "named".as_ref(), own.as_os_str()]).run();
        let told = |event: &support::run::Event| {
            (event.text("syscall").to_owned(), event.text("verdict").to_owned(), event.number("return"))
        };
        // Of processes the ebpf backend tells what it is told, which may be a little later.
        let calls = outcome.events.iter().filter(|event| event.text("kind") == "syscall");
        (calls.map(told).collect::<Vec<_>>(), outcome.summary.unwrap().number("events"))
    };
    assert_eq!(judged(&[]), judged(&["--stack=never"]));
}

#[test]
fn records_tell_who_where_and_what_came_with_it() {
    captors().into_iter().for_each(records_tell);
}

fn records_tell(backend: &str) {
    let (outcome, _, captured, place) = run(&programs().capture, "named", backend, &[]);
    let kinds: Vec<_> = captured.records.iter().map(|record| record.kind.as_str()).collect();
    assert_eq!(&kinds[..2], ["init", "ready"], "{kinds:?}");
    assert!(captured.records[1].raw.ends_with("capture"));
    let path = place.0.join("own/named.sock").display().to_string();
    let listens: Vec<_> = captured.records.iter().filter(|record| record.kind == "listen").collect();
    assert_eq!(listens.len(), 2);
    assert_eq!(listens[0].path, path);
    assert!(listens[1].path.starts_with('@'));
    let opened = |how: &str| captured.connections.iter().filter(|c| c.how == how && c.path == path).count();
    assert_eq!((opened("connected"), opened("accepted")), (1, 1));
    let pids: std::collections::BTreeSet<_> = captured.data().map(|record| record.pid).collect();
    assert_eq!(pids.len(), 1);
    assert!(captured.data().all(|record| record.process == "capture" && record.tid == record.pid));
    // The letter went to an address, and its sender has none.
    let letter = captured.data().find(|record| record.direction == "out" && record.size == 6).unwrap();
    assert_eq!((letter.path.as_str(), letter.socket_type.as_str()), (path.as_str(), "dgram"));
    let error = captured.records.iter().find(|record| record.kind == "error").expect("the broken pipe");
    assert!(error.raw.contains("EPIPE"), "{}", error.raw);
    assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);

    let (_, _, captured, _place) = run(&programs().capture, "passed", backend, &[]);
    let notes: Vec<_> = captured.data().map(|record| record.raw.as_str()).filter(|raw| !raw.is_empty()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("SCM_RIGHTS: descriptors ")), "{notes:?}");
    assert!(notes[1].contains("SCM_CREDENTIALS: pid ") && notes[1].contains("uid 0"), "{notes:?}");
}

#[test]
fn names_that_a_program_chooses_lead_nowhere() {
    captors().into_iter().for_each(names_lead_nowhere);
}

fn names_lead_nowhere(backend: &str) {
    let (_, _, captured, place) = run(&programs().capture, "named", backend, &[]);
    let odd = captured.connections.iter().find(|connection| connection.socket_type == "seqpacket").unwrap();
    assert!(odd.path.starts_with('@') && odd.id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c)));
    let mut names: Vec<_> = std::fs::read_dir(&place.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["capture", "own"]);
}

#[test]
fn paths_choose() {
    captors().into_iter().for_each(paths_choose_on);
}

fn paths_choose_on(backend: &str) {
    let (_, told, captured, _place) =
        run(&programs().capture, "named", backend, &["--capture-path", "/**/named.*"]);
    assert!(captured.connections.iter().all(|connection| connection.socket_type != "seqpacket"));
    let all: Vec<_> = captured.connections.iter().flat_map(|c| [c.bytes("in"), c.bytes("out")]).collect();
    for bytes in [&b"hello"[..], b"and to you", b"letter"] {
        assert!(all.iter().any(|captured| captured == bytes), "{all:?} {told:?}");
    }
    let (_, _, captured, _place) = run(&programs().capture, "named", backend, &["--capture-path", "/nowhere/*"]);
    assert!(captured.connections.is_empty() && captured.data().count() == 0);
    assert!(captured.records.iter().all(|record| record.kind != "listen"));
}
