//! Reading a capture, entry by entry, each with its bytes.

use super::is_safe_id;
use crate::report::record::{Frame, Text};
use crate::report::stream::{Line, read_lines};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One line of `events.jsonl`. Unknown keys are ignored; what is absent or null is `None`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Entry<'a> {
    /// `init`, `ready`, `open`, `close`, `listen`, `data` or `error`.
    #[serde(rename = "type")]
    pub kind: Option<Text<'a>>,
    /// Milliseconds since 1970.
    pub ts_ms: Option<f64>,
    /// Process id.
    pub pid: Option<i64>,
    /// Thread id.
    pub tid: Option<i64>,
    /// The thread's name.
    pub process: Option<Text<'a>>,
    /// The descriptor.
    pub fd: Option<i64>,
    /// The socket's path, or another address.
    pub path: Option<Text<'a>>,
    /// The connection.
    pub conn_id: Option<Text<'a>>,
    /// `in` or `out`, of data: seen from the process.
    pub direction: Option<Text<'a>>,
    /// Bytes that were read or written.
    pub size: Option<u64>,
    /// Bytes of these that are in the file; all of them where this is absent.
    pub stored: Option<u64>,
    /// Where they begin in the file; behind those before where this is absent.
    pub offset: Option<u64>,
    /// Socket type: `stream`, `dgram`, `seqpacket`.
    pub socket_type: Option<Text<'a>>,
    /// What else there is to say, in words.
    pub raw: Option<Text<'a>>,
    /// Where in the program, innermost frame first.
    pub stack: Option<Vec<Frame<'a>>>,
}

/// The bytes of a `data` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// As many as were stored and are there.
    Bytes(Vec<u8>),
    /// The entry names no file that could be read; why.
    Unreadable(String),
}

/// A capture's directory.
#[derive(Debug)]
pub struct Capture {
    folder: PathBuf,
    positions: HashMap<(String, bool), u64>,
}

/// A file that somebody else appends to: at its end it is waited for.
#[derive(Debug)]
pub struct Growing(File);

/// The lines of a capture that is still being made: they never end.
#[must_use]
pub fn follow(lines: BufReader<File>) -> BufReader<Growing> {
    BufReader::with_capacity(1 << 18, Growing(lines.into_inner()))
}

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) if !buffer.is_empty() => std::thread::sleep(LOOK),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// The most bytes that one entry may bring into memory.
const LARGEST: u64 = 64 << 20;
/// Connections whose positions are remembered: a capture has a file for each.
const CONNECTIONS: usize = 1 << 20;

impl Capture {
    /// A capture, named by its directory or by the `events.jsonl` in it.
    ///
    /// # Errors
    /// Where there is no such thing, in words for the user.
    pub fn open(path: &Path) -> Result<(Self, BufReader<File>), String> {
        let events = if path.is_dir() { path.join("events.jsonl") } else { path.to_owned() };
        let file = File::open(&events).map_err(|error| format!("{}: {error}", events.display()))?;
        let folder = events.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        Ok((Self { folder, positions: HashMap::new() }, BufReader::with_capacity(1 << 18, file)))
    }

    /// The bytes of an entry. Entries must come in the order of the file.
    pub fn payload(&mut self, entry: &Entry<'_>) -> Payload {
        let id = entry.conn_id.as_deref().unwrap_or_default();
        let out = match entry.direction.as_deref() {
            Some("out") => true,
            Some("in") => false,
            other => return Payload::Unreadable(format!("{:?} is no direction", other.unwrap_or_default())),
        };
        if !is_safe_id(id) {
            return Payload::Unreadable(format!("{id:?} is no connection id"));
        }
        let stored = entry.stored.or(entry.size).unwrap_or(0);
        let key = (id.to_owned(), out);
        let offset = entry.offset.unwrap_or_else(|| self.positions.get(&key).copied().unwrap_or(0));
        if self.positions.len() < CONNECTIONS || self.positions.contains_key(&key) {
            self.positions.insert(key, offset.saturating_add(stored));
        }
        let name = format!("{id}.{}.bin", if out { "out" } else { "in" });
        match read(&self.folder.join(&name), offset, stored.min(LARGEST)) {
            Ok(bytes) => Payload::Bytes(bytes),
            Err(error) => Payload::Unreadable(format!("{name}: {error}")),
        }
    }
}

/// Up to `length` bytes from `offset` on of a regular file that is no link.
fn read(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    // A pipe put there must not hang us.
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let length = length.min(metadata.len().saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Reads all entries; returns how many lines were none.
///
/// # Errors
/// Where reading fails, or `take` does.
pub fn entries(lines: &mut dyn BufRead, mut take: impl FnMut(&Entry<'_>) -> io::Result<()>) -> io::Result<u64> {
    let mut faults = 0_u64;
    read_lines(lines, |_, Line { text, too_long, .. }| {
        let parsed = (!too_long && text.first() == Some(&b'{')).then(|| serde_json::from_slice::<Entry<'_>>(text));
        match parsed {
            Some(Ok(entry)) if entry.kind.is_some() => take(&entry),
            _ => {
                faults = faults.saturating_add(1);
                Ok(())
            }
        }
    })?;
    Ok(faults)
}

impl Entry<'_> {
    /// Microseconds since 1970.
    #[must_use]
    pub fn microseconds(&self) -> u64 {
        // As a float: a negative or absurd number becomes the nearest that there is.
        (self.ts_ms.unwrap_or(0.0) * 1000.0) as u64
    }

    /// `curl[12/13] fd 5`
    #[must_use]
    pub fn actor(&self) -> String {
        let ids = match (self.pid, self.tid) {
            (Some(pid), Some(tid)) if pid != tid => format!("[{pid}/{tid}]"),
            (Some(pid), _) => format!("[{pid}]"),
            (None, _) => String::new(),
        };
        let fd = self.fd.map(|fd| format!(" fd {fd}")).unwrap_or_default();
        format!("{}{ids}{fd}", self.process.as_deref().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_in_order_and_from_the_directory_alone() {
        let folder = std::env::temp_dir().join(format!("sockstrace-capture-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("1.out.bin"), "hello world").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.join("2.out.bin")).unwrap();
        std::fs::write(folder.join("events.jsonl"), "").unwrap();
        let (mut capture, _) = Capture::open(&folder).unwrap();
        let mut ask = |text: &str| capture.payload(&serde_json::from_str(text).unwrap());
        let bytes = |text: &str| Payload::Bytes(text.as_bytes().to_vec());
        assert_eq!(ask(r#"{"conn_id":"1","direction":"out","size":5}"#), bytes("hello"));
        assert_eq!(ask(r#"{"conn_id":"1","direction":"out","size":90,"stored":4}"#), bytes(" wor"));
        assert_eq!(ask(r#"{"conn_id":"1","direction":"out","size":90}"#), bytes("ld"));
        assert_eq!(ask(r#"{"conn_id":"1","direction":"out","size":1,"offset":4}"#), bytes("o"));
        let huge = format!(r#"{{"conn_id":"1","direction":"out","size":{0},"offset":{0}}}"#, u64::MAX);
        assert_eq!(ask(&huge), bytes(""));
        for refused in [
            r#"{"conn_id":"../etc/passwd","direction":"out","size":5}"#,
            r#"{"conn_id":"2","direction":"out","size":5}"#,
            r#"{"conn_id":"1","direction":"in","size":5}"#,
            r#"{"conn_id":"1","direction":"sideways","size":5}"#,
            r#"{"direction":"in"}"#,
        ] {
            assert!(matches!(ask(refused), Payload::Unreadable(_)), "{refused}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
