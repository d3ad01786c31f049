//! The Perfetto report held against the rules of Chrome's trace event format ("Trace Event Format", 2016) and
//! what Perfetto's importer asks for beyond them: no time below 0, ids of 32 bits.

use crate::made::{crowd, hostile, leak, lines, summary};
use crate::tool::{Folder, call};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// Checks a trace and returns its events.
///
/// # Panics
/// Where it breaks a rule.
pub fn check(trace: &Value) -> &Vec<Value> {
    let whole = trace.as_object().expect("an object");
    assert!(whole.keys().all(|key| ["displayTimeUnit", "traceEvents", "otherData"].contains(&key.as_str())));
    assert!(["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap()));
    assert!(trace["otherData"].is_object());
    let events = trace["traceEvents"].as_array().expect("an array");
    // What is open on each track: when it began.
    let mut open: HashMap<(i64, i64), Vec<f64>> = HashMap::new();
    for event in events {
        let keys: BTreeSet<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        let phase = event["ph"].as_str().expect("a phase");
        let [pid, tid] = ["pid", "tid"].map(|key| event[key].as_i64().expect("an integer"));
        assert!([pid, tid].iter().all(|id| u32::try_from(*id).is_ok()), "{event}");
        let allowed: &[&str] = match phase {
            "M" => &["ph", "name", "pid", "tid", "args"],
            "B" => &["ph", "name", "cat", "pid", "tid", "ts"],
            "E" => &["ph", "pid", "tid", "ts"],
            "i" => &["ph", "name", "cat", "cname", "pid", "tid", "ts", "s", "args"],
            other => panic!("nobody writes {other}: {event}"),
        };
        assert!(keys.iter().all(|key| allowed.contains(key)), "{event}");
        if phase != "E" {
            assert!(!event["name"].as_str().expect("a name").is_empty(), "{event}");
        }
        assert!(event.get("args").is_none_or(Value::is_object), "{event}");
        if phase == "M" {
            assert!(["process_name", "thread_name"].contains(&event["name"].as_str().unwrap()), "{event}");
            assert!(event["args"]["name"].is_string(), "{event}");
            continue;
        }
        let time = event["ts"].as_f64().filter(|time| time.is_finite() && *time >= 0.0).expect("a time");
        let track = open.entry((pid, tid)).or_default();
        match phase {
            "i" => assert!(event["s"] == "t" && event["cat"].is_string(), "{event}"),
            "B" => {
                assert!(track.last().is_none_or(|outer| time >= *outer), "not within what surrounds it: {event}");
                track.push(time);
            }
            _ => {
                let begin = track.pop().unwrap_or_else(|| panic!("ends what never began: {event}"));
                assert!(time >= begin, "ends before it begins: {event}");
            }
        }
    }
    assert!(open.values().all(Vec::is_empty), "never ends: {open:?}");
    events
}

fn trace(events: &str) -> Value {
    let folder = Folder::new();
    folder.file("events", events);
    let said = call(&folder.0, ["report", "events", "--perfetto", "p"], b"");
    assert_eq!(said.status, 0, "{said:?}");
    serde_json::from_str(&folder.read("p")).unwrap()
}

fn process(pid: i64, time: &str, event: &str) -> Value {
    json!({"v": 1, "time": time, "kind": "process", "backend": "seccomp", "pid": pid, "tid": pid,
        "process": "sh", "exe": "/bin/sh", "event": event})
}

#[test]
fn any_stream_becomes_a_trace_by_the_rules() {
    let many = trace(&crowd(3000));
    let events = check(&many);
    let instants: Vec<f64> =
        events.iter().filter(|event| event["ph"] == "i").map(|event| event["ts"].as_f64().unwrap()).collect();
    assert_eq!(instants.len(), 3000);
    assert!(instants.is_sorted(), "a stream in order gives a trace in order");
    let mut bare = hostile();
    for key in ["pid", "tid"] {
        bare[key] = json!(-5);
    }
    bare["time"] = Value::Null;
    let mut huge = leak("203.0.113.5:80");
    (huge["pid"], huge["tid"]) = (json!(i64::MAX), json!(i64::MIN));
    assert!(check(&trace(&lines(&[hostile(), bare, huge, summary(3, 3)]))).len() >= 3);
}

#[test]
fn times_and_programs_out_of_order_break_no_rule() {
    let stream = [
        // Ends, begins twice, and ends before it began; and one that never ends.
        process(7, "2026-01-01T00:00:10Z", "exit"),
        process(7, "2026-01-01T00:00:11Z", "exec"),
        process(7, "2026-01-01T00:00:12Z", "exec"),
        leak("203.0.113.5:80"),
        process(7, "2026-01-01T00:00:09Z", "exit"),
        process(8, "2026-01-01T00:00:13Z", "exec"),
        // Of another day, as in a second file; and of no day at all.
        process(9, "2025-12-20T00:00:00Z", "exec"),
        process(9, "yesterday", "exit"),
        process(10, "1970-01-01T00:00:00Z", "exec"),
    ];
    let whole = trace(&lines(&stream));
    let events = check(&whole);
    assert_eq!(events.iter().filter(|event| event["ph"] == "B").count(), 5);
    let at = |name: &str| {
        let event = events.iter().find(|event| event["name"].as_str().is_some_and(|text| text.starts_with(name)));
        event.expect("it is there")["ts"].as_f64().unwrap()
    };
    // To the microsecond, whatever it counts from: 9.5 s lie between these.
    assert!((at("exit") - at("connect") - 9_500_000.0).abs() < 0.001);
}
