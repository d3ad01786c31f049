//! A line of `events.jsonl`.

use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::SystemTime;

/// One record; what is `None` isn't written.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(serialize_with = "milliseconds")]
    pub ts_ms: SystemTime,
    #[serde(flatten)]
    pub who: Who,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conn_id: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// What the call said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How much of it is in the file, and from where on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Init,
    Ready,
    Open,
    Close,
    Listen,
    Data,
    Error,
}

/// Seen from the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    In,
    Out,
}

/// Who did it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Who {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Arc<str>>,
}

impl Record {
    /// One with nothing but a kind, of this moment.
    pub fn now(kind: Kind, who: Who) -> Self {
        Self {
            kind,
            ts_ms: SystemTime::now(),
            who,
            fd: None,
            path: None,
            conn_id: None,
            direction: None,
            size: None,
            stored: None,
            offset: None,
            family: None,
            socket_type: None,
            syscall: None,
            raw: None,
        }
    }

    /// Adds to what is said in words.
    pub fn note(&mut self, more: &str) {
        match &mut self.raw {
            Some(raw) => {
                raw.push_str("; ");
                raw.push_str(more);
            }
            None => self.raw = Some(more.to_owned()),
        }
    }
}

/// Since 1970, with the microseconds behind the point: what a double holds exactly enough.
#[allow(clippy::cast_precision_loss, reason = "exact until the year 2255")]
fn milliseconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64(since.as_micros() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_that_its_reader_understands() {
        let mut record = Record::now(Kind::Data, Who { pid: Some(7), ..Who::default() });
        record.ts_ms = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_767_225_600_000_123);
        record.direction = Some(Direction::Out);
        record.note("a");
        record.note("b");
        let line = serde_json::to_string(&record).unwrap();
        let expected = r#"{"type":"data","ts_ms":1767225600000.123,"pid":7,"direction":"out","raw":"a; b"}"#;
        assert_eq!(line, expected);
        let entry: super::super::Entry<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!(entry.microseconds(), 1_767_225_600_000_123);
    }
}
