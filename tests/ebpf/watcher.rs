//! A `sockstrace --all` that watches this process and its children.

use super::support::run::sockstrace;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// It, running.
pub struct Watcher {
    child: Child,
    events: BufReader<File>,
    file: PathBuf,
    partial: String,
    since: Vec<Value>,
}

impl Watcher {
    /// Starts it with these options, and waits until it watches.
    pub fn start(options: &[&str]) -> Self {
        let own = format!("--filter=pid={}", std::process::id());
        Self::start_with(&[&[own.as_str(), "--format=jsonl"], options].concat())
    }

    /// As [`Watcher::start`], but with no option of ours.
    pub fn start_with(options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = PathBuf::from(format!("/tmp/sst-watch-{}-{number}", std::process::id()));
        let mut command = Command::new(sockstrace());
        command.arg("--all").args(options).arg("-o").arg(&file);
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while told.read_line(&mut line).unwrap() > 0 && !line.contains("watching the machine") {}
        assert!(line.contains("watching the machine"), "{line}");
        let events = BufReader::new(File::open(&file).unwrap());
        Self { child, events, file, partial: String::new(), since: Vec::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Takes in what was written meanwhile.
    fn read(&mut self) {
        while self.events.read_line(&mut self.partial).unwrap() > 0 {
            if self.partial.ends_with('\n') {
                self.since.push(serde_json::from_str(&self.partial).expect("a JSON line"));
                self.partial.clear();
            }
        }
    }

    /// Whether such an event comes, or has come since the last [`Watcher::forget`].
    pub fn wait_for(&mut self, patience: Duration, fits: impl Fn(&Value) -> bool) -> bool {
        let start = Instant::now();
        loop {
            self.read();
            if self.since.iter().any(&fits) {
                return true;
            }
            if start.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The events since the last [`Watcher::forget`].
    pub fn since(&self) -> &[Value] {
        &self.since
    }

    /// Forgets the events so far.
    pub fn forget(&mut self) {
        self.since.clear();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: takes integers; the child was not reaped yet.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Ends it: its summary.
    pub fn stop(mut self) -> Value {
        self.end();
        self.read();
        self.since.pop().expect("a summary")
    }

    /// Ends it: all that it wrote.
    pub fn stop_for_text(mut self) -> String {
        self.end();
        let mut text = String::new();
        File::open(&self.file).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn end(&mut self) {
        // SIGINT may be ignored by whoever runs the tests in the background.
        self.signal(libc::SIGTERM);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended already, and the file be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}
