//! What a capture's directory holds.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of the test's own.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/sst-capture-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// One line.
#[derive(Debug, Default)]
pub struct Record {
    pub kind: String,
    pub ts_ms: f64,
    pub pid: i64,
    pub tid: i64,
    pub process: String,
    pub fd: i64,
    pub path: String,
    pub conn_id: String,
    pub direction: String,
    pub size: u64,
    pub stored: u64,
    pub offset: u64,
    pub socket_type: String,
    pub syscall: String,
    pub raw: String,
}

/// A connection, and the bytes of its files.
#[derive(Debug)]
pub struct Connection {
    pub id: String,
    pub fd: i64,
    pub path: String,
    pub how: String,
    pub socket_type: String,
    bytes: BTreeMap<&'static str, Vec<u8>>,
}

impl Connection {
    pub fn bytes(&self, way: &str) -> Vec<u8> {
        self.bytes.get(way).cloned().unwrap_or_default()
    }
}

/// A capture.
#[derive(Debug)]
pub struct Captured {
    pub records: Vec<Record>,
    pub connections: Vec<Connection>,
    files: usize,
}

impl Captured {
    pub fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap();
        let records: Vec<Record> = text.lines().map(|line| record(&serde_json::from_str(line).unwrap())).collect();
        let open = |record: &Record| {
            let read = |way: &'static str| {
                let file = folder.join(format!("{}.{way}.bin", record.conn_id));
                std::fs::read(file).ok().map(|bytes| (way, bytes))
            };
            Connection {
                id: record.conn_id.clone(),
                fd: record.fd,
                path: record.path.clone(),
                how: record.raw.clone(),
                socket_type: record.socket_type.clone(),
                bytes: ["in", "out"].into_iter().filter_map(read).collect(),
            }
        };
        let connections = records.iter().filter(|record| record.kind == "open").map(open).collect();
        let files = std::fs::read_dir(folder).unwrap().count();
        Self { records, connections, files }
    }

    pub fn data(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.kind == "data")
    }

    /// How many threads have written to a connection.
    pub fn writers(&self, id: &str) -> usize {
        let written = self.data().filter(|record| record.conn_id == id && record.direction == "out");
        written.map(|record| record.tid).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// What is true of every whole capture: each connection is opened once, then speaks, then is closed, and its
    /// records are its files.
    pub fn check(&self) {
        let mut lengths: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut open: BTreeMap<&str, bool> = BTreeMap::new();
        for record in &self.records {
            let id = record.conn_id.as_str();
            match record.kind.as_str() {
                "open" => assert!(open.insert(id, true).is_none(), "{id} opened twice"),
                "close" => assert_eq!(open.insert(id, false), Some(true), "{id} closed"),
                "data" => {
                    assert_eq!(open.get(id), Some(&true), "{record:?}");
                    let length = lengths.entry((id, &record.direction)).or_default();
                    assert_eq!(record.offset, *length, "{record:?}");
                    assert_eq!(record.stored, record.size, "{record:?}");
                    *length += record.stored;
                }
                _ => {}
            }
            assert!(record.ts_ms > 1.7e12, "{record:?}");
        }
        assert!(open.values().all(|open| !open), "not closed: {open:?}");
        for connection in &self.connections {
            for way in ["in", "out"] {
                let length = lengths.remove(&(connection.id.as_str(), way)).unwrap_or(0);
                assert_eq!(connection.bytes(way).len() as u64, length, "{} {way}", connection.id);
            }
        }
        let files: usize = self.connections.iter().map(|connection| connection.bytes.len()).sum();
        assert_eq!(self.files, files + 1);
    }
}

fn record(value: &Value) -> Record {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| value.get(key).and_then(Value::as_i64).unwrap_or(-1);
    let count = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    Record {
        kind: text("type"),
        ts_ms: value["ts_ms"].as_f64().unwrap(),
        pid: number("pid"),
        tid: number("tid"),
        process: text("process"),
        fd: number("fd"),
        path: text("path"),
        conn_id: text("conn_id"),
        direction: text("direction"),
        size: count("size"),
        stored: count("stored"),
        offset: count("offset"),
        socket_type: text("socket_type"),
        syscall: text("syscall"),
        raw: text("raw"),
    }
}
