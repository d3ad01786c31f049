//! What others make of the formats.

use crate::made::{hostile, leak, stream, summary};
use crate::support::programs::programs;
use crate::support::run::Run;
use crate::support::stage::Stage;
use crate::support::{BACKENDS, FOREIGN4, PORT};
use crate::tool::{Folder, call, python};
use serde_json::{Value, json};
use std::path::Path;

/// Validates with Python's jsonschema.
fn validate(sarif: &Path) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sarif-2.1.0.json");
    let program = "import json, sys, jsonschema\n\
                   schema, log = (json.load(open(name, encoding='utf-8')) for name in sys.argv[1:3])\n\
                   validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())\n\
                   for error in validator.iter_errors(log): print(list(error.absolute_path), error.message)";
    let said = python(program, &[&schema, sarif]);
    assert_eq!((said.status, said.stdout.trim()), (0, ""), "{}", said.stderr);
}

fn all_formats(folder: &Folder, more: &[&str]) {
    let words =
        ["report", "events", "--html", "h", "--sarif", "s", "--junit", "j", "--perfetto", "p", "--folded", "f"];
    let said = call(&folder.0, words.iter().chain(more), b"");
    assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""));
}

fn json_of(folder: &Folder, name: &str) -> Value {
    serde_json::from_str(&folder.read(name)).unwrap()
}

/// A real leak, recorded with its stack: every format puts it at the line of the guest's source that connects.
#[test]
fn a_real_leak_is_at_its_line_in_every_format() {
    for backend in BACKENDS {
        let stage = Stage::new();
        let folder = Folder::new();
        let outcome = Run::new(backend, &stage.dir)
            .own_output()
            .args(["--stack=auto", "--trace=all", "--format=jsonl", "-o"])
            .arg(folder.path("events"))
            .program([programs().vectors.as_os_str(), "tcp4".as_ref()])
            .run();
        assert!(outcome.complaints().is_empty(), "{outcome:?}");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        all_formats(&folder, &["--source-root", sources.to_str().unwrap()]);
        validate(&folder.path("s"));

        let result = &json_of(&folder, "s")["runs"][0]["results"][0];
        let place = &result["locations"][0]["physicalLocation"];
        let file = place["artifactLocation"]["uri"].as_str().unwrap();
        let line = place["region"]["startLine"].as_u64().unwrap() as usize;
        assert_eq!(place["artifactLocation"]["uriBaseId"], "SRCROOT", "{place}");
        let source = std::fs::read_to_string(sources.join(file)).unwrap();
        let blamed = source.lines().nth(line - 1).unwrap();
        assert!(blamed.contains("connect("), "{backend}: {file}:{line}: {blamed}");

        let destination = format!("TCP {FOREIGN4}:{PORT}");
        let folded = folder.read("f");
        let (stack, count) = folded.trim_end().rsplit_once(' ').unwrap();
        assert_eq!(count, "1");
        assert!(stack.starts_with("vectors;") && stack.contains(";main;"), "{stack}");
        assert!(stack.ends_with(&format!(";connect {destination} [outbound]")), "{stack}");

        let trace = json_of(&folder, "p");
        let events = crate::trace::check(&trace);
        let instant = events.iter().find(|event| event["cat"] == "leak,outbound").expect("the leak is there");
        assert_eq!(
            (&instant["ph"], instant["name"].as_str()),
            (&json!("i"), Some(&*format!("connect {destination}")))
        );
        let phase = |letter: &str| events.iter().filter(|event| event["ph"] == letter).count();
        assert!(phase("B") > 0 && phase("B") == phase("E"), "programs begin and end: {events:?}");

        let junit = folder.read("j");
        let case = format!("connect {destination} by vectors, in ");
        assert!(junit.contains(&case) && junit.contains(&format!("line=\"{line}\"")), "{junit}");
    }
}

#[test]
fn hostile_strings_break_no_format() {
    let folder = Folder::new();
    let mut relative = leak("203.0.113.9:80");
    relative["stack"][1]["file"] = json!("../../etc/a b#?%.c");
    relative["stack"][1]["line"] = json!(0);
    let mut bare = hostile();
    (bare["stack"], bare["exe"], bare["pid"]) = (Value::Null, Value::Null, json!(-5));
    folder.file("events", stream(&[hostile(), leak("203.0.113.5:80"), relative, bare]));
    all_formats(&folder, &[]);
    validate(&folder.path("s"));
    let trace = json_of(&folder, "p");
    assert_eq!(crate::trace::check(&trace).iter().filter(|event| event["ph"] == "i").count(), 4);
    let count = "import sys, xml.etree.ElementTree as tree\n\
                 print(len(tree.parse(sys.argv[1]).getroot().findall('.//failure')))";
    let said = python(count, &[&folder.path("j")]);
    assert_eq!((said.stdout.trim(), said.stderr.as_str()), ("4", ""));
    for line in folder.read("f").lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        assert!(count == "1" && stack.split(';').count() >= 2, "{line}");
        assert!(!line.contains(|c: char| c.is_control()), "{line}");
    }
}

#[test]
fn a_clean_run_is_a_clean_report() {
    let folder = Folder::new();
    folder.file("events", format!("{}\n", summary(7, 0)));
    all_formats(&folder, &[]);
    validate(&folder.path("s"));
    assert_eq!(json_of(&folder, "s")["runs"][0]["results"], json!([]));
    assert!(folder.read("j").contains("tests=\"1\" failures=\"0\" errors=\"0\""));
    assert_eq!((folder.read("f").as_str(), json_of(&folder, "p")["traceEvents"].clone()), ("", json!([])));
    let said = call(&folder.0, ["report", "events"], b"");
    assert!(said.stdout.starts_with("No leak in 7 calls of 1 process\n"), "{said:?}");
}
