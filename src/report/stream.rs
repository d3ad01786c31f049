//! A recorded event stream, line by line: memory is bounded by the longest line.

use super::record::Record;
use crate::event::VERSION;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The longest line that is read, in bytes; sockstrace writes none of a tenth of that.
const LONGEST: usize = 16 << 20;
/// How many faulty lines are described one by one.
const DESCRIBED: usize = 5;

/// Where a stream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// `-`
    Standard,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// `-` is standard input.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Standard } else { Self::File(path.to_owned()) }
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Standard => "standard input".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// Where that fails; named.
    pub fn open(&self) -> io::Result<Box<dyn BufRead>> {
        const BUFFER: usize = 1 << 18;
        Ok(match self {
            Self::Standard => Box::new(BufReader::with_capacity(BUFFER, io::stdin())),
            Self::File(path) => {
                let file = File::open(path)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
                Box::new(BufReader::with_capacity(BUFFER, file))
            }
        })
    }
}

/// What a stream turned out to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Lines that are events of a version that is known.
    pub events: u64,
    /// Lines that could not be read, and may have been leaks.
    pub unreadable: u64,
    /// The first few of them, in words.
    pub faults: Vec<String>,
    /// The last line ends within itself: its writer was stopped, or still writes.
    pub truncated: bool,
    /// Summaries seen: one for each recorded run.
    pub summaries: u64,
    /// An event came after the last summary.
    pub open_end: bool,
    /// Events that the recording itself lost.
    pub dropped: u64,
}

impl Health {
    /// What a reader of any report must know, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.faults.clone();
        let more = self.unreadable.saturating_sub(self.faults.len() as u64);
        if more > 0 {
            warnings.push(format!("{more} more lines can't be read"));
        }
        if self.events == 0 && self.unreadable == 0 {
            warnings.push("the file is empty: nothing was recorded, not even a summary".into());
        } else if self.summaries == 0 || self.open_end {
            let end = if self.truncated { "the last line is cut short and the" } else { "the" };
            warnings.push(format!(
                "{end} summary is missing: the run was cut off or still goes on, and there may have been more leaks"
            ));
        }
        if self.dropped > 0 {
            warnings.push(format!("{} events were lost while recording", self.dropped));
        }
        warnings
    }

    fn fault(&mut self, number: u64, why: &str) {
        self.unreadable = self.unreadable.saturating_add(1);
        if self.faults.len() < DESCRIBED {
            self.faults.push(format!("line {number} {why}"));
        }
    }
}

/// Reads a stream to its end, giving each event to `take`.
///
/// # Errors
/// Where reading fails, or `take` does.
pub fn read(input: &mut dyn BufRead, mut take: impl FnMut(&Record<'_>) -> io::Result<()>) -> io::Result<Health> {
    let mut health = Health::default();
    read_lines(input, |number, line| {
        let Line { text, whole, too_long } = line;
        if too_long {
            health.fault(number, &format!("is longer than {LONGEST} bytes"));
            return Ok(());
        }
        match Record::parse(text) {
            Ok(record) if record.v.is_some_and(|version| version != u64::from(VERSION)) => {
                let version = record.v.unwrap_or_default();
                health.fault(number, &format!("has \"v\":{version}; this sockstrace reads {VERSION}"));
            }
            Ok(record) if record.kind.is_none() => health.fault(number, "is no event: it has no \"kind\""),
            Ok(record) => {
                health.events = health.events.saturating_add(1);
                health.open_end = record.kind.as_deref() != Some("summary");
                if !health.open_end {
                    health.summaries = health.summaries.saturating_add(1);
                    health.dropped = health.dropped.saturating_add(record.dropped.unwrap_or(0));
                }
                take(&record)?;
            }
            Err(_) if !whole => {
                health.truncated = true;
                health.open_end = true;
                health.fault(number, "is cut short");
            }
            Err(error) => health.fault(number, &format!("is no event: {error}")),
        }
        Ok(())
    })?;
    Ok(health)
}

/// A line that isn't empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'l> {
    /// Without white space around it; not all of it where it is too long.
    pub(crate) text: &'l [u8],
    /// It ends with a newline.
    pub(crate) whole: bool,
    /// It is longer than anything sockstrace writes.
    pub(crate) too_long: bool,
}

/// Reads lines to the end, giving each with its number (from 1) to `take`.
pub(crate) fn read_lines(
    input: &mut dyn BufRead,
    mut take: impl FnMut(u64, Line<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        number = number.saturating_add(1);
        // Most lines lie in the reader's buffer as a whole, and need not be copied.
        let available = input.fill_buf().unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', available) {
            let text = available.get(..end).unwrap_or_default().trim_ascii();
            if !text.is_empty() {
                take(number, Line { text, whole: true, too_long: false })?;
            }
            input.consume(end.saturating_add(1));
            continue;
        }
        line.clear();
        let length = read_line(input, &mut line)?;
        if length == 0 {
            return Ok(());
        }
        let text = line.trim_ascii();
        let too_long = length > LONGEST;
        if too_long || !text.is_empty() {
            take(number, Line { text, whole: line.last() == Some(&b'\n'), too_long })?;
        }
    }
}

/// Appends a line with its newline to `line`, as far as it isn't too long; returns its length in bytes, 0 at
/// the end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0_usize;
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let (piece, ends) = match memchr::memchr(b'\n', available) {
            Some(end) => (available.get(..=end).unwrap_or(available), true),
            None => (available, false),
        };
        let taken = piece.len();
        length = length.saturating_add(taken);
        if length <= LONGEST {
            line.extend_from_slice(piece);
        } else if ends {
            line.push(b'\n');
        }
        input.consume(taken);
        if ends || taken == 0 {
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(text: &[u8]) -> (Health, u64) {
        let mut seen = 0;
        let mut text = text;
        let health = read(&mut text, |_| {
            seen += 1;
            Ok(())
        });
        (health.unwrap(), seen)
    }

    const EVENT: &str = "{\"v\":1,\"kind\":\"syscall\",\"verdict\":\"leak\"}\n";
    const SUMMARY: &str = "{\"v\":1,\"kind\":\"summary\",\"dropped\":2}\n";

    #[test]
    fn a_whole_stream_has_nothing_to_warn_of_but_losses() {
        let (health, seen) = health(format!("{EVENT}\r\n\n{SUMMARY}").as_bytes());
        assert_eq!((seen, health.events, health.summaries), (2, 2, 1));
        assert_eq!(health.warnings(), ["2 events were lost while recording"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let warns = |text: &str| health(text.as_bytes()).0.warnings().join("; ");
        assert!(warns("").contains("empty"));
        assert!(warns(EVENT).contains("summary is missing"), "{}", warns(EVENT));
        let cut = format!("{EVENT}{{\"v\":1,\"ki");
        assert!(warns(&cut).contains("line 2 is cut short") && warns(&cut).contains("summary is missing"));
        assert!(warns("{\"v\":2,\"kind\":\"syscall\"}\n").contains("\"v\":2; this sockstrace reads 1"));
        assert!(warns("[1]\nhello\n{\"a\":1}\n").contains("line 3 is no event: it has no \"kind\""));
        let many = "x\n".repeat(100) + SUMMARY;
        assert!(warns(&many).contains("95 more lines"), "{}", warns(&many));
    }

    #[test]
    fn a_last_line_that_is_whole_needs_no_newline() {
        let (health, seen) = health(SUMMARY.trim_end().as_bytes());
        assert_eq!((seen, health.truncated, health.open_end), (1, false, false));
    }

    #[test]
    fn an_endless_line_takes_no_endless_memory() {
        let mut text = vec![b'x'; LONGEST + 100];
        text.extend_from_slice(b"\n");
        text.extend_from_slice(SUMMARY.as_bytes());
        let (health, seen) = health(&text);
        assert_eq!((seen, health.unreadable), (1, 1));
        let mut line = Vec::new();
        let length = read_line(&mut &text[..], &mut line).unwrap();
        assert!(length > LONGEST && line.len() <= LONGEST + 1);
    }
}
