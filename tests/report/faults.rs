//! Streams that are cut off, empty, mixed, hostile or huge.

use crate::made::{crowd, hostile, leak, lines, stream, summary};
use crate::tool::{Folder, call, said};
use std::process::Command;

const OUR_FAILURE: i32 = 125;

#[test]
fn what_is_no_stream_is_refused_with_a_reason() {
    let folder = Folder::new();
    for (content, why) in [
        ("", "it is empty: nothing was recorded, not even a summary"),
        ("\n\n", "it is empty"),
        ("hello\nworld\n", "none of its lines is an event (line 1 is no event"),
        ("[1,2]\n", "it is no JSON object"),
        ("{\"v\":2,\"kind\":\"syscall\"}\n", "has \"v\":2; this sockstrace reads 1"),
    ] {
        folder.file("events", content);
        for words in [&["report", "events"][..], &["learn", "events"], &["report", "events", "--html", "x.html"]] {
            let said = call(&folder.0, words, b"");
            assert_eq!(said.status, OUR_FAILURE, "{words:?} {said:?}");
            assert!(said.stderr.contains(why) && said.stderr.contains("--format jsonl"), "{said:?}");
            assert_eq!(said.stdout, "");
        }
    }
    let said = call(&folder.0, ["report", "missing"], b"");
    assert!(said.status == OUR_FAILURE && said.stderr.contains("missing: No such file"), "{said:?}");
}

#[test]
fn what_is_doubtful_is_said_and_the_rest_reported() {
    let folder = Folder::new();
    let whole = lines(&[leak("203.0.113.5:80")]);
    let cut = whole.clone() + whole[..whole.len() / 2].trim_end();
    let mixed = format!("{whole}{{\"v\":3,\"kind\":\"syscall\",\"verdict\":\"leak\"}}\n{}", summary(1, 1));
    for (content, why) in [
        (whole.clone(), "the summary is missing"),
        (cut, "line 2 is cut short"),
        (mixed, "line 2 has \"v\":3"),
        (format!("garbage\n{}", stream(&[leak("203.0.113.5:80")])), "line 1 is no event"),
    ] {
        let words = ["report", "-", "--junit", "junit.xml", "--html", "page.html"];
        let said = call(&folder.0, words, content.as_bytes());
        assert_eq!((said.status, said.stdout.as_str()), (0, ""), "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
        assert!(folder.read("junit.xml").contains("<error message="), "{content}");
        let said = call(&folder.0, ["report", "-"], content.as_bytes());
        assert!(said.stdout.starts_with("1 leak in 1 call of 1 process\n"), "{said:?}");
    }
}

#[test]
fn outputs_never_overwrite_what_is_read_or_written() {
    let folder = Folder::new();
    let stream = stream(&[leak("203.0.113.5:80")]);
    folder.file("events", &stream);
    std::os::unix::fs::symlink("events", folder.path("link")).unwrap();
    for words in [
        &["report", "events", "--html", "events"][..],
        &["report", "events", "--html", "link"],
        &["report", "events", "--html", "out", "--sarif", "./out"],
        &["report", "events", "--html", "-", "--sarif", "-"],
        &["report", "-", "-"],
        &["report", "events", "--html", "no/such/folder"],
        &["report", "events", "--sarif", "x", "--source-root", "nowhere"],
        &["report"],
        &["report", "events", "--any-destination"],
    ] {
        let said = call(&folder.0, words, b"");
        assert!(said.status == OUR_FAILURE && !said.stderr.is_empty(), "{words:?} {said:?}");
        assert_eq!(folder.read("events"), stream, "{words:?}");
    }
    let said = call(&folder.0, ["report", "events", "--html", "/dev/full"], b"");
    assert!(said.status == OUR_FAILURE && said.stderr.contains("No space left"), "{said:?}");
}

/// Terminals are steered by control characters, and read from right to left by marks.
#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let folder = Folder::new();
    folder.file("events", stream(&[hostile(), leak("203.0.113.5:80")]));
    folder.file("before", stream(&[]));
    for words in [&["report", "events"][..], &["report", "events", "--diff", "before"], &["learn", "events"]] {
        let said = call(&folder.0, words, b"");
        for text in [&said.stdout, &said.stderr] {
            let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202e}' | '\u{2028}'));
            assert_eq!(bad, None, "{words:?}: {text}");
        }
        assert!(said.stdout.contains("203.0.113.5:80"), "{said:?}");
    }
}

#[test]
fn the_comparison_tells_ci_what_is_new() {
    let folder = Folder::new();
    let mut shifted = leak("203.0.113.5:80");
    for (key, value) in [("pid", 77), ("tid", 78)] {
        shifted[key] = value.into();
    }
    for frame in shifted["stack"].as_array_mut().unwrap() {
        frame["ip"] = "0x9999".into();
        frame["line"] = 41.into();
    }
    folder.file("before", stream(&[leak("203.0.113.5:80"), leak("203.0.113.6:80")]));
    folder.file("same", stream(&[shifted.clone()]));
    folder.file("new", stream(&[shifted.clone(), leak("203.0.113.7:80")]));
    folder.file("cut", stream(&[shifted.clone()]) + "{\"v\":1,\"kind\":\"sysc");
    folder.file("empty", "");
    let compare = |now: &str, before: &str, more: &[&str]| {
        call(&folder.0, ["report", now, "--diff", before].iter().chain(more), b"")
    };
    let same = compare("same", "before", &[]);
    assert_eq!(same.status, 0, "{same:?}");
    assert!(same.stdout.starts_with("0 leaks new, 1 gone, 1 the same\n"), "{same:?}");
    let new = compare("new", "before", &["--sarif", "diff.sarif"]);
    assert_eq!(new.status, 23, "{new:?}");
    assert!(new.stdout.contains("the same code leaks to another address"), "{new:?}");
    let sarif: serde_json::Value = serde_json::from_str(&folder.read("diff.sarif")).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let states: Vec<_> = results.iter().map(|result| result["baselineState"].as_str().unwrap()).collect();
    assert_eq!(states, ["unchanged", "new", "absent"]);
    assert_eq!(compare("new", "before", &["--any-destination"]).status, 0);
    assert_eq!(compare("same", "empty", &[]).status, 23);
    // What can't be read may be new.
    let cut = compare("cut", "before", &[]);
    assert!(cut.status == OUR_FAILURE && cut.stderr.contains("the comparison shows nothing"), "{cut:?}");
    assert_eq!(compare("same", "missing", &[]).status, OUR_FAILURE);
}

/// A stream of any length, in memory that doesn't grow with it.
#[test]
fn memory_is_bounded() {
    let folder = Folder::new();
    let text = crowd(60_000);
    let words = ["report", "-", "--html", "h", "--sarif", "s", "--junit", "j", "--perfetto", "p", "--folded", "f"];
    // 128 MiB of address space, most of it code and thread stacks; the stream has half of that.
    let mut limited = Command::new("prlimit");
    limited.arg("--as=134217728").arg(crate::support::run::sockstrace()).args(words).current_dir(&folder.0);
    let said = said(&mut limited, text.as_bytes());
    assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(text.len() > 36 << 20, "{}", text.len());
    assert!(folder.read("h").len() < 4 << 20);
}
