//! Captures that no run has to make: as packets, read by tshark, and shown.

use crate::tool::{Folder, Said, call, said};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Bytes of every value, more than a packet takes.
fn long() -> Vec<u8> {
    (0..150_000_u32).map(|n| ((n * 7) >> 3) as u8).collect()
}

/// A conversation over a UNIX stream, a datagram, a TCP connection, and one that tries to get out.
fn capture() -> Folder {
    let folder = Folder::new();
    let entry = |kind: &str, id: &str, more: Value| {
        let mut entry = json!({"type": kind, "ts_ms": 1_767_225_600_000.25, "pid": 12, "tid": 13,
            "process": "client\u{1b}[31m", "fd": 5, "conn_id": id, "path": "/run/x.sock"});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let data = |id: &str, way: &str, size: usize| entry("data", id, json!({"direction": way, "size": size}));
    let stack =
        json!({"direction": "out", "size": 18, "stack": [{"function": "write_all", "file": "io.c", "line": 7}]});
    let length = long().len();
    let entries = [
        json!({"type": "init", "ts_ms": 1, "raw": "pid 12"}),
        entry("open", "1-x", json!({"socket_type": "stream"})),
        entry("data", "1-x", stack),
        data("1-x", "in", length),
        entry("data", "1-x", json!({"direction": "out", "size": 500, "stored": 4})),
        data("1-x", "out", 3),
        entry("open", "2", json!({"socket_type": "dgram"})),
        data("2", "out", 5),
        data("2", "in", 0),
        entry("open", "3", json!({"path": "203.0.113.5:80"})),
        data("3", "out", 18),
        entry("close", "3", json!({"path": null})),
        data("../../../etc/passwd", "in", 10),
        entry("close", "1-x", json!({})),
        entry("error", "1-x", json!({"raw": "nothing"})),
    ];
    folder.file("events.jsonl", crate::made::lines(&entries) + "garbage\n");
    folder.file("1-x.out.bin", "GET / HTTP/1.0\r\n\r\ncut!end");
    folder.file("1-x.in.bin", long());
    folder.file("2.out.bin", "hello");
    folder.file("2.in.bin", "");
    folder.file("3.out.bin", "GET / HTTP/1.0\r\n\r\n");
    folder
}

fn tshark(file: &Path, words: &[&str]) -> Said {
    let mut command = Command::new("tshark");
    command.args([
        "-o",
        "tcp.check_checksum:TRUE",
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
    ]);
    command.env("LC_ALL", "C.UTF-8").arg("-r").arg(file).args(words);
    let said = said(&mut command, b"");
    assert_eq!(said.status, 0, "{said:?}");
    said
}

#[test]
fn packets_are_what_was_said_and_tshark_has_no_complaint() {
    let folder = capture();
    let out = Folder::new();
    let file = out.path("x.pcapng");
    let words = ["report", folder.0.to_str().unwrap(), "--pcapng", file.to_str().unwrap()];
    let written = call(&out.0, words, b"");
    assert_eq!(written.status, 0, "{written:?}");
    assert!(
        written.stderr.contains("1 lines can't be read") && written.stderr.contains("1 payloads"),
        "{written:?}"
    );

    let wrong = "_ws.malformed || tcp.checksum.status == 0 || udp.checksum.status == 0 || ip.checksum.status == 0";
    assert_eq!(tshark(&file, &["-Y", &format!("({wrong}) && !(frame.cap_len < frame.len)")]).stdout, "");

    // The bytes of the stream, each direction in order, put together again by Wireshark.
    let follow = tshark(&file, &["-q", "-z", "follow,tcp,raw,0"]).stdout;
    let bytes = |lines: Vec<&str>| -> Vec<u8> {
        let hex = lines.concat();
        (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
    };
    let is_hex = |line: &&str| !line.trim().is_empty() && line.trim().bytes().all(|byte| byte.is_ascii_hexdigit());
    let (theirs, ours): (Vec<_>, Vec<_>) = follow.lines().filter(is_hex).partition(|line| line.starts_with('\t'));
    assert_eq!(bytes(theirs.iter().map(|line| line.trim()).collect()), long());
    assert!(bytes(ours).starts_with(b"GET / HTTP/1.0\r\n\r\n"));

    let requests = tshark(&file, &["-Y", "http.request", "-T", "fields", "-e", "ip.dst", "-e", "frame.comment"]);
    assert_eq!(requests.stdout.lines().filter(|line| line.starts_with("203.0.113.5")).count(), 1, "{requests:?}");
    let comments = tshark(&file, &["-T", "fields", "-e", "frame.comment"]).stdout;
    for part in ["[12/13] fd 5: 18 bytes, /run/x.sock", "write_all io.c:7", "client\\u{1b}[31m"] {
        assert!(comments.contains(part), "{part:?} in {comments}");
    }
    let udp =
        tshark(&file, &["-Y", "udp", "-T", "fields", "-e", "data.data", "-e", "frame.len", "-e", "frame.cap_len"]);
    assert!(udp.stdout.starts_with("68656c6c6f"), "{udp:?}");
    // What was not stored is missing, not invented.
    let cut = tshark(
        &file,
        &["-Y", "frame.cap_len < frame.len", "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len"],
    );
    let lengths: Vec<u32> = cut.stdout.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(lengths.len() % 2, 0);
    assert!(lengths.chunks(2).any(|pair| pair[0] - pair[1] == 496), "{cut:?}");
}

#[test]
fn what_is_no_capture_is_refused() {
    let folder = capture();
    let path = folder.0.to_str().unwrap();
    let own = folder.path("1-x.out.bin");
    for words in [
        &["report", "-", "--pcapng", "x"][..],
        &["report", path, path, "--pcapng", "x"],
        &["report", path, "--pcapng", "x", "--html", "y"],
        &["report", "missing", "--pcapng", "x"],
        &["report", path, "--pcapng", own.to_str().unwrap()],
        &["capture", "show", "missing"],
        &["capture"],
    ] {
        let out = Folder::new();
        let said = call(&out.0, words, b"");
        assert!(said.status == 125 && !said.stderr.is_empty(), "{words:?} {said:?}");
    }
    assert!(folder.read("1-x.out.bin").starts_with("GET"));
}

#[test]
fn a_capture_is_shown_by_time() {
    let folder = capture();
    let shown = call(&folder.0, ["capture", "show", "."], b"");
    assert_eq!(shown.status, 0, "{shown:?}");
    let at = |part: &str| shown.stdout.find(part).unwrap_or_else(|| panic!("{part:?} in {}", shown.stdout));
    let out = at("→ data client\\u{1b}[31m[12/13] fd 5 1-x /run/x.sock 18 bytes\n    GET / HTTP/1.0\\r\n");
    assert!(out < at("500 bytes, 496 of them not stored\n    cut!⏎\n"));
    assert!(at("10 bytes, not readable") > out && at("2026-01-01T00:00:00.000Z") < out);
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains("root:"));
    let hex = call(&folder.0, ["capture", "show", ".", "--hex", "--connection", "2"], b"").stdout;
    assert!(hex.contains("00000000  68 65 6c 6c 6f ") && !hex.contains("HTTP"), "{hex}");
}

#[test]
fn a_capture_that_is_being_made_is_followed() {
    use std::io::{BufRead, Write};
    let folder = Folder::new();
    let line = |kind: &str, size: usize| {
        let entry = json!({"type": kind, "ts_ms": 1, "conn_id": "1", "direction": "out", "size": size});
        crate::made::lines(&[entry])
    };
    let mut events = std::fs::File::create(folder.path("events.jsonl")).unwrap();
    let mut command = std::process::Command::new(crate::support::run::sockstrace());
    command.args(["capture", "show", "--follow", "."]).current_dir(&folder.0);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut shown = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    for (count, text) in ["first", "second"].into_iter().enumerate() {
        let mut bytes = std::fs::OpenOptions::new();
        let mut bytes = bytes.create(true).append(true).open(folder.path("1.out.bin")).unwrap();
        bytes.write_all(text.as_bytes()).unwrap();
        let line = line("data", text.len());
        // A piece of a line is no line yet.
        let (begin, end) = line.split_at(line.len() / 2);
        events.write_all(begin.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300 * count as u64));
        events.write_all(end.as_bytes()).unwrap();
        assert!(shown.next().unwrap().unwrap().contains(&format!("{} bytes", text.len())));
        assert_eq!(shown.next().unwrap().unwrap(), format!("    {text}⏎"));
    }
    // Whoever listened is gone.
    drop(shown);
    events.write_all(line("close", 0).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
