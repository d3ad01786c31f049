//! Bounds: what is cut is counted, nothing else is touched, and the program notices nothing.

use crate::captured::{Captured, Place};
use crate::support::programs::programs;
use crate::support::run::{Run, Status};
use crate::{captors, run};
use std::fs;
use std::time::Duration;

#[test]
fn what_exceeds_a_bound_is_counted() {
    captors().into_iter().for_each(bounds_hold);
}

fn bounds_hold(backend: &str) {
    let (outcome, told, captured, _place) = run(&programs().capture, "flood", backend, &["--capture-max=1000"]);
    let moved: u64 = told.values().map(|bytes| bytes.len() as u64).sum();
    let (size, stored) = captured.data().fold((0, 0), |(a, b), record| (a + record.size, b + record.stored));
    assert_eq!(size, moved);
    assert!(captured.data().all(|record| record.stored == record.size.min(1000)));
    let last = captured.records.last().unwrap();
    assert_eq!((last.kind.as_str(), last.size), ("error", size - stored));
    assert!(outcome.stderr.contains("were not stored"), "{}", outcome.stderr);

    let (_, _, captured, place) = run(&programs().capture, "flood", backend, &["--capture-total=100K"]);
    let stored: u64 = captured.data().map(|record| record.stored).sum();
    assert_eq!(stored, 100 << 10);
    let files = fs::read_dir(place.0.join("capture")).unwrap().map(|entry| entry.unwrap());
    let bytes: u64 = files
        .filter(|file| file.path().extension().is_some_and(|kind| kind == "bin"))
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert_eq!(bytes, stored);
}

#[test]
fn a_full_disk_is_told_and_stalls_nobody() {
    captors().into_iter().for_each(full_disk);
}

fn full_disk(backend: &str) {
    let place = Place::new("full");
    let (own, disk) = (place.folder("own"), place.folder("disk"));
    let outcome = Run::new(backend, &place.0)
        .wrap([
            "unshare",
            "-m",
            "sh",
            "-c",
            "mount -t tmpfs -o size=2m none disk && \"$@\"; status=$?; cp -r disk/capture copy; exit $status",
            "sh",
        ])
        .args(["--capture".as_ref(), disk.join("capture").as_os_str()])
        .program([programs().capture.as_os_str(), "flood".as_ref(), own.as_os_str()])
        .deadline(Duration::from_secs(60))
        .run();
    assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
    assert!(outcome.stderr.contains("were not stored") && outcome.stderr.contains("o space left"), "{outcome:?}");
    let captured = Captured::read(&place.0.join("copy"));
    let (size, stored) = captured.data().fold((0, 0), |(a, b), record| (a + record.size, b + record.stored));
    assert!(size > 10_000_000 && stored < 2 << 20, "{size} {stored}");
    let last = captured.records.last().unwrap();
    assert_eq!((last.kind.as_str(), last.size), ("error", size - stored));
}

#[test]
fn directories_of_others_are_left_alone() {
    let place = Place::new("others");
    let folder = place.folder("folder");
    fs::write(folder.join("events.jsonl"), "mine").unwrap();
    fs::write(folder.join("letter"), "mine").unwrap();
    let again = || Run::new("ptrace", &place.0).args(["--capture", "folder"]).program(["true"]).run();
    let refused = again();
    assert_eq!(refused.status, Status::Exited(125));
    assert!(refused.stderr.contains("folder") && refused.stderr.contains("something else"), "{refused:?}");
    assert_eq!(fs::read(folder.join("events.jsonl")).unwrap(), b"mine");
    fs::remove_file(folder.join("letter")).unwrap();
    assert_eq!(again().status, Status::Exited(0));
    assert_eq!(Captured::read(&folder).records[0].kind, "init");
}

#[test]
fn a_program_that_plants_links_gains_nothing() {
    captors().into_iter().for_each(plants_links);
}

fn plants_links(backend: &str) {
    let place = Place::new("links");
    let victim = place.0.join("victim");
    fs::write(&victim, "untouched").unwrap();
    // Links of every name that may come next, then traffic.
    let script = "import os, socket\n\
        for n in range(1, 9):\n\
        \x20   for way in ('in', 'out'):\n\
        \x20       os.symlink('../victim', f'capture/{n}.{way}.bin')\n\
        a, b = socket.socketpair()\n\
        a.sendall(b'evil')\n\
        assert b.recv(9) == b'evil'\n";
    let outcome = Run::new(backend, &place.0)
        .args(["--capture", "capture"])
        .program(["/usr/bin/python3", "-c", script])
        .run();
    assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert!(outcome.stderr.contains("were not stored"), "{outcome:?}");
}

#[test]
fn sockets_that_a_program_gets_are_found() {
    captors().into_iter().for_each(finds_sockets);
}

fn finds_sockets(backend: &str) {
    let place = Place::new("inherited");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let run = |fds: &str| {
        let folder = format!("capture{fds}");
        let outcome = Run::new(backend, &place.0)
            .args(["--capture", &folder, "--capture-max-fds", fds])
            .inherit(&theirs, 7)
            .program(["true"])
            .run();
        assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
        Captured::read(&place.0.join(folder)).connections
    };
    let found = run("100");
    assert!(found.iter().any(|connection| connection.fd == 7 && connection.how.contains("there when")));
    assert!(run("1").iter().all(|connection| connection.fd != 7));
    drop(ours);
}
