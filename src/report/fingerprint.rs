//! What makes two leaks the same, in one run and in the next.
//!
//! In it: class, call, program, kind of socket, destination, and the functions of the program's own code on
//! the stack. Not in it: process and thread ids, times, instruction addresses, lines, what was done with
//! the call, and functions of libraries (the next version of the C library has others).

use super::record::{Record, base};
use crate::blame;
use std::collections::HashMap;
use std::fmt::Write;

/// Leaks whose fingerprints are remembered, and the longest description of such, in bytes.
const KNOWN: usize = 1024;
const LONGEST: usize = 8192;

/// A hash that different leaks don't share, not even on purpose (SHA-256, cut in half).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// As hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> String {
        self.0.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn of(text: &str) -> Self {
        let hash = hmac_sha256::Hash::hash(text.as_bytes());
        Self(*hash.first_chunk().unwrap_or(&[0; 16]))
    }
}

/// A leak's fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of the leak.
    pub leak: Fingerprint,
    /// Of the code alone, wherever it connects to.
    pub code: Fingerprint,
}

/// Fingerprints of leaks. Hashes of those that come again are remembered.
#[derive(Debug, Default)]
pub struct Prints {
    known: HashMap<String, Fingerprints>,
    text: String,
}

impl Prints {
    /// The fingerprints of a leak.
    pub fn of(&mut self, record: &Record<'_>) -> Fingerprints {
        self.text.clear();
        let code = describe(record, &mut self.text);
        if let Some(prints) = self.known.get(&self.text) {
            return *prints;
        }
        let of = |text: Option<&str>| Fingerprint::of(text.unwrap_or_default());
        let prints = Fingerprints { leak: of(Some(&self.text)), code: of(self.text.get(..code)) };
        if self.text.len() <= LONGEST {
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert(self.text.clone(), prints);
        }
        prints
    }
}

/// Appends what makes the leak what it is; returns where the part about the code ends.
fn describe(record: &Record<'_>, text: &mut String) -> usize {
    text.push_str("sockstrace/1");
    part(text, record.class_name());
    part(text, record.call_name());
    match record.exe {
        Some(_) => part(text, record.program()),
        // Threads are numbered.
        None => part(text, &without_numbers(record.program(), 1)),
    }
    if let Some(socket) = &record.socket {
        for word in [&socket.family, &socket.kind, &socket.protocol] {
            part(text, word.as_deref().unwrap_or_default());
        }
    }
    functions(record, text);
    let code = text.len();
    text.push_str("\0\0");
    text.push_str(&destination(record));
    code
}

/// Appends a part. A separator that none can hold keeps neighbours apart.
fn part(text: &mut String, words: &str) {
    text.push('\0');
    push(text, words);
}

fn push(text: &mut String, words: &str) {
    if words.contains('\0') {
        text.extend(words.chars().filter(|&character| character != '\0'));
    } else {
        text.push_str(words);
    }
}

/// The address, without what differs from run to run.
fn destination(record: &Record<'_>) -> String {
    let address = record.address.as_deref().unwrap_or_default();
    let family = record.socket.as_ref().and_then(|socket| socket.family.as_deref());
    match family {
        // A netlink port is a process id.
        Some("netlink") => String::new(),
        // Paths hold process ids and session numbers.
        Some("unix") => without_numbers(address, 3),
        // The kernel gives ports from this one on (ip_local_port_range) to whoever asks for none.
        Some("inet" | "inet6") if record.class_name() == "inbound" => match address.rsplit_once(':') {
            Some((ip, port)) if port.parse::<u16>().is_ok_and(|port| port >= 32_768) => ip.to_owned(),
            _ => address.to_owned(),
        },
        _ => address.to_owned(),
    }
}

/// Replaces each run of at least `length` digits by one sign.
fn without_numbers(text: &str, length: usize) -> String {
    let mut plain = String::new();
    let mut digits = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        if digits.len() >= length {
            plain.push('#');
        } else {
            plain.push_str(&digits);
        }
        digits.clear();
        if character != '\0' {
            plain.push(character);
        }
    }
    plain
}

/// Appends the functions of the program's own code, or, where there are none, of all code, without repetitions.
fn functions(record: &Record<'_>, text: &mut String) {
    let frames = record.frames();
    let own = blame::own(frames, record.exe.as_deref());
    let any = own.contains(&true);
    let mut last = text.len()..text.len();
    for (frame, own) in frames.iter().zip(own) {
        if any && !own {
            continue;
        }
        let start = text.len();
        part(text, frame.module.as_deref().map(base).unwrap_or_default());
        text.push('!');
        push(text, frame.function.as_deref().map(stable_name).unwrap_or_default());
        if text.get(last.clone()) == text.get(start..) {
            text.truncate(start);
        } else {
            last = start..text.len();
        }
    }
}

/// A function's name without what compilers append to clones of it (`.constprop.0`, `.cold`, `[clone …]`) and
/// the hash at the end of Rust's names (`::h0123456789abcdef`).
fn stable_name(name: &str) -> &str {
    const CLONES: [&str; 6] = [".constprop.", ".isra.", ".part.", ".cold", ".lto_priv.", ".llvm."];
    let name = if name.contains('[') { name.split(" [clone").next().unwrap_or(name) } else { name };
    let end = if name.contains('.') { CLONES.iter().filter_map(|clone| name.find(clone)).min() } else { None };
    let name = end.and_then(|end| name.get(..end)).unwrap_or(name);
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => path,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn leak() -> Value {
        json!({"v": 1, "kind": "syscall", "time": "2026-01-01T00:00:00Z", "pid": 10, "tid": 11,
            "process": "worker-3", "exe": "/srv/app", "syscall": "connect", "verdict": "leak",
            "class": "outbound", "address": "203.0.113.5:80", "errno": "EPERM", "action": "block",
            "socket": {"family": "inet", "type": "stream", "protocol": "tcp"},
            "stack": [
                {"ip": "0x7f01", "module": "/lib/libc.so.6", "function": "connect"},
                {"ip": "0x5501", "module": "/srv/app", "function": "dial", "file": "/src/a.c", "line": 10},
                {"ip": "0x5601", "module": "/srv/app", "function": "main.constprop.0", "file": "/src/a.c",
                 "line": 20}]})
    }

    fn print(value: &Value) -> Fingerprints {
        Prints::default().of(&Record::parse(value.to_string().as_bytes()).unwrap())
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Fingerprints {
        let mut value = leak();
        change(&mut value);
        print(&value)
    }

    #[test]
    fn it_survives_what_changes_from_run_to_run() {
        let same = changed(|leak| {
            for (key, value) in [("pid", json!(99)), ("tid", json!(98)), ("process", json!("worker-7"))] {
                leak[key] = value;
            }
            leak["time"] = json!("2027-01-01T00:00:00Z");
            (leak["action"], leak["errno"]) = (json!("continue"), Value::Null);
            leak["stack"][0] = json!({"module": "/lib/libc.so.6", "function": "__libc_connect"});
            for (frame, ip) in [(1, "0x1"), (2, "0x2")] {
                leak["stack"][frame]["ip"] = json!(ip);
                leak["stack"][frame]["line"] = json!(77);
            }
            leak["stack"][2]["function"] = json!("main");
        });
        assert_eq!(same, print(&leak()));
    }

    #[test]
    fn it_tells_different_leaks_apart() {
        let original = print(&leak());
        for (key, value) in [
            ("class", json!("disclosure")),
            ("syscall", json!("sendto")),
            ("exe", json!("/srv/other")),
            ("socket", json!({"family": "inet", "type": "dgram", "protocol": "udp"})),
            ("stack", Value::Null),
        ] {
            let other = changed(|leak| leak[key] = value.clone());
            assert_ne!(other.leak, original.leak, "{key}");
            assert_ne!(other.code, original.code, "{key}");
        }
        let elsewhere = changed(|leak| leak["address"] = json!("203.0.113.6:80"));
        assert_ne!(elsewhere.leak, original.leak);
        assert_eq!(elsewhere.code, original.code);
        let function = changed(|leak| leak["stack"][1]["function"] = json!("resolve"));
        assert_ne!(function.leak, original.leak);
    }

    #[test]
    fn numbers_in_names_of_sockets_are_no_difference() {
        let at = |family: &str, class: &str, address: &str| {
            changed(|leak| {
                leak["socket"] = json!({"family": family, "type": "stream"});
                (leak["class"], leak["address"]) = (json!(class), json!(address));
            })
        };
        assert_eq!(at("unix", "outbound", "/run/x.1234"), at("unix", "outbound", "/run/x.99999"));
        assert_ne!(at("unix", "outbound", "/tmp/.X11-unix/X0"), at("unix", "outbound", "/tmp/.X11-unix/X1"));
        assert_eq!(at("inet", "inbound", "0.0.0.0:40001"), at("inet", "inbound", "0.0.0.0:51234"));
        assert_ne!(at("inet", "inbound", "0.0.0.0:80"), at("inet", "inbound", "0.0.0.0:81"));
        assert_ne!(at("inet", "outbound", "1.2.3.4:40001"), at("inet", "outbound", "1.2.3.4:40002"));
    }

    #[test]
    fn names_of_clones() {
        assert_eq!(stable_name("f.part.0.cold"), "f");
        assert_eq!(stable_name("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(stable_name("a::hello"), "a::hello");
        assert_eq!(stable_name("f [clone .isra.0]"), "f");
    }
}
