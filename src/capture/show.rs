//! `sockstrace capture show DIR`: what was said, both directions by time.

use super::{Capture, Entry, Payload, entries, follow};
use crate::output::escape::escaped;
use clap::Args;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

/// `sockstrace capture show`
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Options {
    /// The --capture directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Bytes as hexadecimal numbers, too
    #[arg(long)]
    pub hex: bool,

    /// This connection alone
    #[arg(long, value_name = "ID")]
    pub connection: Option<String>,

    /// Go on with what comes, until interrupted
    #[arg(long)]
    pub follow: bool,
}

/// Writes the conversation to standard output.
///
/// # Errors
/// What failed, on what, in words for the user.
pub fn run(options: &Options) -> Result<(), String> {
    let (mut capture, lines) = Capture::open(&options.directory)?;
    let mut lines: Box<dyn BufRead> = if options.follow { Box::new(follow(lines)) } else { Box::new(lines) };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let faults = entries(&mut *lines, |entry| {
        let wanted = options.connection.as_deref().is_none_or(|id| entry.conn_id.as_deref() == Some(id));
        // All are read, as positions in the files add up.
        let payload = (entry.kind.as_deref() == Some("data")).then(|| capture.payload(entry));
        if !wanted {
            return Ok(());
        }
        show(&mut out, entry, payload.as_ref(), options.hex)?;
        // Somebody waits for it.
        if options.follow { out.flush() } else { Ok(()) }
    });
    let faults = faults.and_then(|faults| out.flush().map(|()| faults));
    if options.follow && faults.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return Ok(());
    }
    let faults = faults.map_err(|error| format!("{}: {error}", options.directory.display()))?;
    if faults > 0 {
        crate::report::say(&format!("{}: {faults} lines can't be read", options.directory.display()));
    }
    Ok(())
}

fn show(out: &mut dyn Write, entry: &Entry<'_>, payload: Option<&Payload>, hex: bool) -> io::Result<()> {
    let time = std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::from_micros(entry.microseconds()))
        .filter(|time| *time < std::time::UNIX_EPOCH + LATEST);
    match time {
        Some(time) => write!(out, "{} ", humantime::format_rfc3339_millis(time))?,
        None => write!(out, "? ")?,
    }
    let arrow = match entry.direction.as_deref() {
        Some("out") => "→",
        Some("in") => "←",
        _ => "·",
    };
    let text =
        |text: &Option<crate::report::record::Text<'_>>| escaped(text.as_deref().unwrap_or_default()).to_string();
    write!(out, "{arrow} {} {}", text(&entry.kind), escaped(&entry.actor()))?;
    for part in [text(&entry.conn_id), text(&entry.path), text(&entry.raw)] {
        if !part.is_empty() {
            write!(out, " {part}")?;
        }
    }
    let size = entry.size.unwrap_or(0);
    match payload {
        None => writeln!(out),
        Some(Payload::Unreadable(why)) => writeln!(out, " {size} bytes, not readable: {}", escaped(why)),
        Some(Payload::Bytes(bytes)) => {
            let cut = size.saturating_sub(bytes.len() as u64);
            let cut = if cut > 0 { format!(", {cut} of them not stored") } else { String::new() };
            writeln!(out, " {size} bytes{cut}")?;
            if hex { show_hex(out, bytes) } else { show_text(out, bytes) }
        }
    }
}

/// The last second that has a four-digit year.
const LATEST: std::time::Duration = std::time::Duration::from_secs(253_402_300_799);

/// Lines of text; what can't be printed is escaped.
fn show_text(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        write!(out, "    ")?;
        let (line, ends) = line.strip_suffix(b"\n").map_or((line, false), |line| (line, true));
        for chunk in line.utf8_chunks() {
            write!(out, "{}", escaped(chunk.valid()))?;
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        writeln!(out, "{}", if ends { "" } else { "⏎" })?;
    }
    Ok(())
}

/// Offset, sixteen bytes, and their characters.
fn show_hex(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    for (row, chunk) in bytes.chunks(16).enumerate() {
        write!(out, "    {:08x} ", row.saturating_mul(16))?;
        for place in 0..16 {
            match chunk.get(place) {
                Some(byte) => write!(out, " {byte:02x}")?,
                None => write!(out, "   ")?,
            }
        }
        let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        writeln!(out, "  {}", chunk.iter().map(shown).collect::<String>())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_their_lines() {
        let shown = |write: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
            let mut out = Vec::new();
            write(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = shown(&|out| show_text(out, b"GET /\r\n\x1b[2J\xff end"));
        assert_eq!(text, "    GET /\\r\n    \\u{1b}[2J\\xff end⏎\n");
        let hex = shown(&|out| show_hex(out, b"0123456789abcdef\x1b"));
        let first = "    00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef\n";
        assert!(hex.starts_with(first) && hex.trim_end().ends_with("  ."), "{hex}");
    }
}
