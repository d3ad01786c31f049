//! Event streams that no run has to make.

use serde_json::{Value, json};

/// Text that tries to break out of whatever it is put into.
pub const HOSTILE: &str = "x</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>\
    \"';]]>--><!--&lt;\n\r\t\u{1b}[31m\u{202e}\u{2028}\u{0}\u{ffff};{{data}}${1+1}`";

/// A leak to `address`, with a stack of `dial` in `main` of a program.
pub fn leak(address: &str) -> Value {
    json!({"v": 1, "time": "2026-01-01T00:00:00.500000000Z", "kind": "syscall", "backend": "seccomp", "pid": 10,
        "tid": 11, "ppid": 9, "process": "app", "exe": "/srv/app", "syscall": "connect", "abi": "x86_64",
        "fd": 3, "socket": {"family": "inet", "type": "stream", "protocol": "tcp"}, "address": address,
        "return": -1, "errno": "EPERM", "verdict": "leak", "class": "outbound", "action": "block",
        "reason": "no proxy or rule covers it",
        "stack": [
            {"ip": "0x7f01", "module": "/lib/libc.so.6", "offset": "0x1", "function": "connect", "inlined": false},
            {"ip": "0x5501", "module": "/srv/app", "offset": "0x2", "function": "dial", "file": "src/a.c",
             "line": 3, "inlined": false},
            {"ip": "0x5601", "module": "/srv/app", "offset": "0x3", "function": "main", "file": "src/a.c",
             "line": 7, "inlined": false}]})
}

/// A leak of which every text is hostile.
pub fn hostile() -> Value {
    let mut leak = leak("203.0.113.66:80");
    for key in ["process", "exe", "syscall", "address", "errno", "class", "action", "reason", "rule", "kind"] {
        leak[key] = json!(HOSTILE);
    }
    leak["socket"] = json!({"family": HOSTILE, "type": HOSTILE, "protocol": HOSTILE});
    for key in ["ip", "module", "build_id", "offset", "function", "file", "how"] {
        leak["stack"][1][key] = json!(HOSTILE);
    }
    leak
}

pub fn summary(events: u64, leaks: u64) -> Value {
    json!({"v": 1, "time": "2026-01-01T00:00:03Z", "kind": "summary", "events": events, "leaks": leaks,
        "processes": 1, "dropped": 0, "exit": 23})
}

/// Events as lines.
pub fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect::<Vec<_>>().concat()
}

/// The leaks, and a summary.
pub fn stream(leaks: &[Value]) -> String {
    let count = leaks.len() as u64;
    lines(leaks) + &lines(&[summary(count, count)])
}

/// `count` leaks of a few kinds over many processes, every fifth call allowed.
pub fn crowd(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let mut event = leak(&format!("203.0.113.{}:{}", n % 7, 80 + n % 3));
        let (pid, millis) = (100 + n % 50, n % 1000);
        event["time"] = json!(format!("2026-01-01T00:{:02}:{:02}.{millis:03}Z", n / 60_000 % 60, n / 1000 % 60));
        (event["pid"], event["tid"]) = (json!(pid), json!(pid));
        event["ppid"] = json!(if pid == 100 { 1 } else { 100 });
        event["class"] = json!(["outbound", "outbound", "disclosure"][n % 3]);
        if n % 5 == 4 {
            (event["verdict"], event["class"]) = (json!("allowed"), Value::Null);
            (event["action"], event["stack"]) = (json!("continue"), Value::Null);
        }
        text.push_str(&lines(&[event]));
    }
    text + &lines(&[summary(count as u64, (count - count / 5) as u64)])
}
