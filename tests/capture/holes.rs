//! More than fits between the kernel and sockstrace: nobody waits, and what is missing is told where it is missing.

use crate::captors;
use crate::captured::{Captured, Place, Record};
use crate::support::run::{Run, Status};
use std::time::Duration;

/// Floods a socket while sockstrace, its parent, stands still. Each byte tells where it stands.
const FLOOD: &str = "import os, signal, socket, sys, threading\n\
    a, b = socket.socketpair()\n\
    count, size = 3000, 65536\n\
    piece = lambda n: b''.join(((n * size + at) // 4).to_bytes(4, 'little') for at in range(0, size, 4))\n\
    first = bytearray(piece(0))\n\
    a.sendall(first); got = 0\n\
    while got < size: got += len(b.recv(size))\n\
    heard = [got]\n\
    def drink():\n\
    \x20   while part := b.recv(100000): heard[0] += len(part)\n\
    thread = threading.Thread(target=drink); thread.start()\n\
    os.kill(os.getppid(), signal.SIGSTOP)\n\
    for n in range(1, count):\n\
    \x20   if n == count - 40: os.kill(os.getppid(), signal.SIGCONT); import time; time.sleep(1)\n\
    \x20   first[0:8] = (n).to_bytes(8, 'little')\n\
    \x20   a.sendall(first)\n\
    a.close(); thread.join()\n\
    print(count * size, heard[0])\n";

#[test]
fn what_finds_no_room_is_counted_where_it_is_missing() {
    if !captors().contains(&"ebpf") {
        return;
    }
    let place = Place::new("holes");
    let capture = place.0.join("capture");
    let outcome = Run::new("ebpf", &place.0)
        .args(["--capture"])
        .arg(&capture)
        .program(["/usr/bin/python3", "-c", FLOOD])
        .deadline(Duration::from_secs(90))
        .run();
    assert_eq!(outcome.status, Status::Exited(0), "{outcome:?}");
    let captured = Captured::read(&capture);
    let mut numbers = outcome.stdout.split_whitespace().map(|number| number.parse::<u64>().unwrap());
    let (sent, heard) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!(sent, heard);
    let of = |way: &'static str| {
        captured.records.iter().filter(move |record| record.direction == way && !record.conn_id.is_empty())
    };
    let mut missing = 0;
    for way in ["out", "in"] {
        let stored: u64 = of(way).map(|record| record.stored).sum();
        let size: u64 = of(way).map(|record| record.size).sum();
        // Bytes and what is missing are all that was said.
        assert_eq!(size, sent, "{way}");
        assert!(stored > 10_000_000 && stored < sent, "{way}: {stored}");
        missing += size - stored;
    }
    let last = captured.records.last().unwrap();
    assert_eq!((last.kind.as_str(), last.size), ("error", missing));
    assert!(outcome.stderr.contains("were not stored"), "{}", outcome.stderr);
    // What is there stands where the records say that it does.
    let connection = captured.connections.iter().find(|connection| !connection.bytes("out").is_empty()).unwrap();
    let bytes = connection.bytes("out");
    let (mut at, mut holes) = (0, 0);
    for record in of("out") {
        holes += u64::from(record.kind == "error");
        at_its_place(record, at, &bytes);
        at += record.size;
    }
    assert!(holes > 0 && holes < 1000, "{holes}");
}

/// Messages begin with their number.
fn at_its_place(record: &Record, at: u64, bytes: &[u8]) {
    const SIZE: u64 = 65536;
    let into = at % SIZE;
    if record.kind == "data" && into == 0 && record.stored >= 8 {
        let offset = record.offset as usize;
        let number = u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
        if at > 0 {
            assert_eq!(number, at / SIZE, "{record:?}");
        }
    }
}
