//! `sockstrace report`: a recorded event stream in the forms in which people and machines look at such data.
//!
//! The stream is read once, line by line; each `Report` takes what it needs as it passes. What is kept in
//! memory is bounded: see [`leaks`] and the formats.

pub mod diff;
pub mod fingerprint;
mod folded;
mod html;
mod junit;
pub mod leaks;
mod pcapng;
mod perfetto;
pub mod record;
mod sarif;
mod source;
pub mod stream;
mod text;
pub mod totals;
mod xml;

use crate::output::escape::escaped;
use clap::Args;
use diff::Diff;
use leaks::Leaks;
use record::Record;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use stream::{Health, Input};
use totals::Totals;

/// The exit status where `--diff` found new leaks: that of a run that leaks.
const NEW_LEAKS: u8 = 23;

/// `sockstrace report`
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Options {
    /// Files written with --format jsonl; - is standard input
    #[arg(value_name = "EVENTS.jsonl", required = true)]
    pub events: Vec<PathBuf>,

    /// A page for a browser, in one file: leaks, timeline, processes, stacks and sources, with search
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// SARIF 2.1.0, with which CI systems show leaks at the line of code
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,

    /// JUnit XML: a failed test for each leak
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// The timeline for ui.perfetto.dev or chrome://tracing, a track for each thread
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,

    /// Stacks of leaks for flame graph tools
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,

    /// Captured payloads as packets, for Wireshark; EVENTS.jsonl is then that of a --capture directory
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,

    /// Compare with an earlier stream: which leaks are new, gone, and the same. The exit status is 23 where
    /// there are new ones
    #[arg(long, value_name = "BASELINE.jsonl")]
    pub diff: Option<PathBuf>,

    /// With --diff: a leak of the same code to another address is the same leak
    #[arg(long, requires = "diff")]
    pub any_destination: bool,

    /// Where the source files are: SARIF names files relative to it, and sources are looked for there too
    /// [default: the working directory]
    #[arg(long, value_name = "DIR")]
    pub source_root: Option<PathBuf>,
}

/// A format of reports.
trait Report {
    /// Takes one event.
    ///
    /// # Errors
    /// Where writing fails.
    fn event(&mut self, record: &Record<'_>) -> io::Result<()> {
        let _ = record;
        Ok(())
    }

    /// Writes what is left, after the last event.
    ///
    /// # Errors
    /// Where writing fails.
    fn finish(&mut self, end: &End<'_>) -> io::Result<()>;
}

/// What is known at the end of a stream.
struct End<'e> {
    totals: &'e Totals,
    leaks: &'e Leaks,
    warnings: &'e [String],
    diff: Option<&'e Diff>,
    root: &'e source::Root,
}

/// A report on its way into a file.
struct Target {
    name: String,
    report: Box<dyn Report>,
}

/// Writes the reports and returns the exit status.
///
/// # Errors
/// What failed, on what file, in words for the user.
pub fn run(options: &Options) -> Result<u8, String> {
    if let Some(pcapng) = &options.pcapng {
        return pcapng::run(options, pcapng);
    }
    let root = source::Root::new(options.source_root.as_deref())?;
    let inputs: Vec<_> = options.events.iter().map(|path| Input::new(path)).collect();
    if inputs.iter().filter(|input| **input == Input::Standard).count() > 1 {
        return Err("standard input (-) is given more than once".into());
    }
    let baseline = options.diff.as_deref().map(|path| digest(&Input::new(path), "the baseline")).transpose()?;
    let mut targets = targets(options)?;
    let (mut totals, mut leaks) = (Totals::default(), Leaks::default());
    let (mut warnings, mut unreadable) = (Vec::new(), 0_u64);
    for input in &inputs {
        let health = read(input, |record| {
            totals.add(record);
            if record.is_leak() {
                leaks.add(record);
            }
            for target in &mut targets {
                target.report.event(record).map_err(|error| failed(&target.name, &error))?;
            }
            Ok(())
        })?;
        unreadable = unreadable.saturating_add(health.unreadable);
        warnings.extend(health.warnings().into_iter().map(|warning| format!("{}: {warning}", input.name())));
    }
    if leaks.others > 0 {
        warnings.push(format!("{} leaks are counted, but not listed: there are too many kinds", leaks.others));
    }
    for warning in &warnings {
        say(warning);
    }
    let diff = baseline.map(|baseline| Diff::new(&baseline, &leaks, options.any_destination));
    let end = End { totals: &totals, leaks: &leaks, warnings: &warnings, diff: diff.as_ref(), root: &root };
    for target in &mut targets {
        target.report.finish(&end).map_err(|error| failed(&target.name, &error).to_string())?;
    }
    match &diff {
        Some(diff) => verdict(diff, &leaks, unreadable),
        None => Ok(0),
    }
}

/// The exit status of a comparison.
fn verdict(diff: &Diff, leaks: &Leaks, unreadable: u64) -> Result<u8, String> {
    if diff.new.is_empty() && unreadable > 0 {
        return Err("lines that can't be read may have been new leaks: the comparison shows nothing".into());
    }
    if diff.new.is_empty() && leaks.others > 0 {
        return Err("there are too many kinds of leaks to compare them all".into());
    }
    Ok(if diff.new.is_empty() { 0 } else { NEW_LEAKS })
}

/// Reads a stream of which only the leaks are of interest.
fn digest(input: &Input, what: &str) -> Result<Leaks, String> {
    let mut leaks = Leaks::default();
    let health = read_any(input, |record| {
        if record.is_leak() {
            leaks.add(record);
        }
        Ok(())
    })?;
    for warning in health.warnings() {
        say(&format!("{what}, {}: {warning}", input.name()));
    }
    if leaks.others > 0 {
        return Err(format!("{what}, {}, has too many kinds of leaks to compare them all", input.name()));
    }
    Ok(leaks)
}

/// Reads a stream that must hold something.
pub(crate) fn read(input: &Input, take: impl FnMut(&Record<'_>) -> io::Result<()>) -> Result<Health, String> {
    let health = read_any(input, take)?;
    if health.events == 0 {
        let why = if health.unreadable == 0 {
            "it is empty: nothing was recorded, not even a summary".into()
        } else {
            format!("none of its lines is an event ({})", health.faults.join("; "))
        };
        return Err(format!("{}: {why}. Streams are written with --format jsonl -o FILE", input.name()));
    }
    Ok(health)
}

fn read_any(input: &Input, take: impl FnMut(&Record<'_>) -> io::Result<()>) -> Result<Health, String> {
    let mut lines = input.open().map_err(|error| error.to_string())?;
    stream::read(&mut *lines, take).map_err(|error| match error.get_ref() {
        // Ours, with its words.
        Some(_) => error.to_string(),
        None => format!("reading {}: {error}", input.name()),
    })
}

/// Opens every file that is to be written, before anything is read.
fn targets(options: &Options) -> Result<Vec<Target>, String> {
    type Make = fn(Box<dyn Write>) -> Box<dyn Report>;
    let asked: [(&Option<PathBuf>, Make); 5] = [
        (&options.html, |out| Box::new(html::Html::new(out))),
        (&options.sarif, |out| Box::new(sarif::Sarif::new(out))),
        (&options.junit, |out| Box::new(junit::Junit::new(out))),
        (&options.perfetto, |out| Box::new(perfetto::Perfetto::new(out))),
        (&options.folded, |out| Box::new(folded::Folded::new(out))),
    ];
    let mut taken: Vec<_> = options
        .events
        .iter()
        .chain(&options.diff)
        .filter_map(|path| Some((identity(path)?, path.clone())))
        .collect();
    let mut targets = Vec::new();
    let mut standard_output_is_taken = false;
    for (path, make) in asked.iter().filter_map(|(path, make)| Some((path.as_ref()?, make))) {
        if path.as_os_str() == "-" {
            if std::mem::replace(&mut standard_output_is_taken, true) {
                return Err("standard output (-) can take one report".into());
            }
        } else if let Some(other) = identity(path).and_then(|id| taken.iter().find(|(taken, _)| *taken == id)) {
            let (path, other) = (path.display(), other.1.display());
            return Err(format!("{path} is not written: it is the same file as {other}"));
        }
        let out = create(path)?;
        taken.extend(identity(path).map(|id| (id, path.clone())));
        targets.push(Target { name: path.display().to_string(), report: make(out) });
    }
    // A person is told what there is unless all was asked for in files.
    if options.diff.is_some() && !standard_output_is_taken {
        targets
            .push(Target { name: "standard output".into(), report: Box::new(diff::Text::new(standard_output())) });
    } else if targets.is_empty() {
        targets
            .push(Target { name: "standard output".into(), report: Box::new(text::Text::new(standard_output())) });
    }
    Ok(targets)
}

/// Creates a file to write, or takes standard output for `-`.
fn create(path: &Path) -> Result<Box<dyn Write>, String> {
    if path.as_os_str() == "-" {
        return Ok(standard_output());
    }
    let file = File::create(path).map_err(|error| format!("creating {}: {error}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

fn standard_output() -> Box<dyn Write> {
    Box::new(BufWriter::new(io::stdout()))
}

/// What tells a regular file from others.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((metadata.dev(), metadata.ino()))
}

fn failed(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("writing {name}: {error}"))
}

/// Tells the user something. Warnings quote from streams, so that they are escaped.
pub(crate) fn say(what: &str) {
    // Not eprintln!, which panics where standard error is closed.
    let _: io::Result<()> = writeln!(io::stderr(), "sockstrace: {}", escaped(what));
}

/// A time as RFC 3339 writes it, to the millisecond.
fn clock(nanoseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds);
    humantime::format_rfc3339_millis(time).to_string()
}
