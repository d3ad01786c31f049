//! One line of a recorded event stream, read leniently: unknown keys are ignored, and what is absent or null
//! is `None`. Nothing in it can be trusted to be short, printable or true.

use crate::blame::StackFrame;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// A string, borrowed from the line where it holds no escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// `Option<Cow<str>>` would always be copied.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        input.deserialize_str(Borrowing)
    }
}

/// One event.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
#[allow(missing_docs, reason = "the keys of the event stream")]
pub struct Record<'a> {
    pub v: Option<u64>,
    pub time: Option<Text<'a>>,
    pub kind: Option<Text<'a>>,
    pub backend: Option<Text<'a>>,
    pub pid: Option<i64>,
    pub tid: Option<i64>,
    pub ppid: Option<i64>,
    pub process: Option<Text<'a>>,
    pub exe: Option<Text<'a>>,
    pub syscall: Option<Text<'a>>,
    pub abi: Option<Text<'a>>,
    pub fd: Option<i64>,
    pub socket: Option<Socket<'a>>,
    pub address: Option<Text<'a>>,
    #[serde(rename = "return")]
    pub returned: Option<i64>,
    pub errno: Option<Text<'a>>,
    pub verdict: Option<Text<'a>>,
    pub class: Option<Text<'a>>,
    pub action: Option<Text<'a>>,
    pub reason: Option<Text<'a>>,
    pub rule: Option<Text<'a>>,
    pub stack: Option<Vec<Frame<'a>>>,
    pub stack_truncated: Option<Text<'a>>,
    pub stack_partial: Option<Text<'a>>,
    /// Of a process event: `exec` or `exit`.
    pub event: Option<Text<'a>>,
    pub status: Option<i64>,
    pub signal: Option<i64>,
    /// Of a TCP state change.
    pub remote: Option<Text<'a>>,
    pub new: Option<Text<'a>>,
    pub events: Option<u64>,
    pub leaks: Option<u64>,
    pub processes: Option<u64>,
    pub dropped: Option<u64>,
    pub exit: Option<i64>,
}

/// What kind of socket it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
#[allow(missing_docs, reason = "the keys of the event stream")]
pub struct Socket<'a> {
    pub family: Option<Text<'a>>,
    #[serde(rename = "type")]
    pub kind: Option<Text<'a>>,
    pub protocol: Option<Text<'a>>,
}

/// One frame of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
#[allow(missing_docs, reason = "the keys of the event stream")]
pub struct Frame<'a> {
    pub ip: Option<Text<'a>>,
    pub module: Option<Text<'a>>,
    pub build_id: Option<Text<'a>>,
    pub offset: Option<Text<'a>>,
    pub function: Option<Text<'a>>,
    pub file: Option<Text<'a>>,
    pub line: Option<u64>,
    pub inlined: Option<bool>,
    /// How the frame was found, where that is less than certain.
    pub how: Option<Text<'a>>,
}

impl StackFrame for Frame<'_> {
    fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }
    fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }
    fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
    fn is_script(&self) -> bool {
        self.how.as_deref() == Some(crate::unwind::How::Interpreter.as_str())
    }
}

impl Frame<'_> {
    /// The function, or the place in the module, in a word.
    #[must_use]
    pub fn name(&self) -> String {
        if let Some(function) = &self.function {
            return function.to_string();
        }
        match (self.module.as_deref().map(base), &self.offset, &self.ip) {
            (Some(module), Some(offset), _) => format!("{module}+{}", &**offset),
            (Some(module), None, _) => module.to_owned(),
            (None, _, Some(ip)) => ip.to_string(),
            (None, _, None) => "?".into(),
        }
    }

    /// What a reader must know of how the frame was found.
    #[must_use]
    pub fn doubt(&self) -> Option<&str> {
        self.how.as_deref().filter(|_| !self.is_script())
    }

    /// `file:line`, as far as it is known.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let file = self.file.as_deref()?;
        Some(self.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
    }
}

impl<'a> Record<'a> {
    /// Reads one line.
    ///
    /// # Errors
    /// Where it is no JSON object, or a known key has a value of another type.
    pub fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        if line.first() != Some(&b'{') {
            // serde takes arrays for structures too.
            return Err(serde_json::Error::custom("it is no JSON object"));
        }
        match std::str::from_utf8(line) {
            // Checked as a whole, which is faster than string by string.
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(line),
        }
    }

    /// Whether it is a leak, whatever kind of event it is.
    #[must_use]
    pub fn is_leak(&self) -> bool {
        self.verdict.as_deref() == Some("leak")
    }

    /// Whether it is about something that was judged.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.verdict.is_some()
    }

    /// The class of a leak; one without is taken for the worst.
    #[must_use]
    pub fn class_name(&self) -> &str {
        self.class.as_deref().unwrap_or("outbound")
    }

    /// What was called: the system call, or the kind of event.
    #[must_use]
    pub fn call_name(&self) -> &str {
        self.syscall.as_deref().or(self.kind.as_deref()).unwrap_or("?")
    }

    /// The executable's name without folders, or the thread's name.
    #[must_use]
    pub fn program(&self) -> &str {
        let exe = self.exe.as_deref().map(|exe| base(exe.strip_suffix(" (deleted)").unwrap_or(exe)));
        exe.filter(|name| !name.is_empty()).or(self.process.as_deref()).unwrap_or("?")
    }

    /// Protocol and address: `TCP 203.0.113.5:80`, `UNIX /run/x.sock`, `packet raw`; empty where there is
    /// neither.
    #[must_use]
    pub fn destination(&self) -> String {
        let mut words = Vec::new();
        if let Some(socket) = &self.socket {
            match (socket.protocol.as_deref(), socket.family.as_deref()) {
                (Some(protocol), _) => words.push(protocol.to_ascii_uppercase()),
                (None, Some(family @ ("unix" | "netlink" | "vsock"))) => words.push(family.to_ascii_uppercase()),
                (None, family) => {
                    words.extend(family.map(str::to_owned));
                    words.extend(socket.kind.as_deref().map(str::to_owned));
                }
            }
        }
        words.extend(self.address.as_deref().map(str::to_owned));
        words.join(" ")
    }

    /// When it happened, in nanoseconds since 1970; `None` where `time` is absent, earlier or malformed.
    #[must_use]
    pub fn nanoseconds(&self) -> Option<u64> {
        let time = humantime::parse_rfc3339(self.time.as_deref()?).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    }

    /// The stack, innermost frame first; empty where there is none.
    #[must_use]
    pub fn frames(&self) -> &[Frame<'a>] {
        self.stack.as_deref().unwrap_or_default()
    }

    /// The frame in the program's own code.
    #[must_use]
    pub fn blamed(&self) -> Option<&Frame<'a>> {
        let frames = self.frames();
        frames.get(crate::blame::blamed(frames, self.exe.as_deref())?)
    }
}

/// What stands after the last slash.
#[must_use]
pub fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_same_and_unknown_keys_nothing() {
        let bare = Record::parse(br#"{"kind":"syscall"}"#).unwrap();
        let nulls = br#"{"kind":"syscall","fd":null,"socket":null,"stack":null,"novel":{"x":[1]},"class":null}"#;
        let nulls = Record::parse(nulls).unwrap();
        assert_eq!(format!("{bare:?}"), format!("{nulls:?}"));
        assert_eq!((bare.call_name(), bare.program(), &*bare.destination()), ("syscall", "?", ""));
        let frame = br#"{"stack":[{"function":null,"module":"/lib/x.so","offset":"0x12","colour":3}]}"#;
        assert_eq!(Record::parse(frame).unwrap().frames()[0].name(), "x.so+0x12");
    }

    #[test]
    fn what_our_own_writer_writes_is_read() {
        let line = serde_json::to_vec(&crate::event::tests::leak()).unwrap();
        let record = Record::parse(&line).unwrap();
        assert!(record.is_leak());
        assert_eq!(record.destination(), "TCP 203.0.113.5:80");
        assert_eq!(record.nanoseconds(), Some(1_700_000_000_000_000_042));
        assert_eq!((record.program(), record.class_name()), ("curl", "outbound"));
    }

    #[test]
    fn odd_values_are_errors_and_no_panics() {
        for odd in [&b"[]"[..], b"3", b"{\"pid\":\"x\"}", b"{\"stack\":[3]}", b"{", b"\xff", b"{\"fd\":1e400}"] {
            assert!(Record::parse(odd).is_err(), "{odd:?}");
        }
        for time in ["", "yesterday", "1969-12-31T23:59:59Z", "9999-99-99T99:99:99Z"] {
            let line = format!("{{\"time\":{time:?}}}");
            assert_eq!(Record::parse(line.as_bytes()).unwrap().nanoseconds(), None);
        }
    }
}
