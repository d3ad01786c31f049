//! A line on the terminal that says how it goes while PROGRAM runs.
//!
//! The terminal is PROGRAM's, too: so there is a line only where PROGRAM's output goes elsewhere, unless the user
//! asks for one. It never scrolls, and the cursor stays at its beginning, so that whatever else is written there
//! takes its place.

use super::ticker::Ticker;
use crate::config::Live;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How often it is written, where something has changed.
const INTERVAL: Duration = Duration::from_millis(500);
/// Ends a line at the cursor.
pub(super) const CLEAR: &[u8] = b"\x1b[K";

/// What the line says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were judged.
    pub calls: u64,
    /// Leaks among them.
    pub leaks: u64,
    /// Processes that made them.
    pub processes: u64,
}

/// Whether there is to be a line.
#[must_use]
pub fn is_wanted(live: Live) -> bool {
    let capable = std::env::var_os("TERM").is_some_and(|terminal| !terminal.is_empty() && terminal != "dumb");
    let wanted = match live {
        Live::Never => false,
        Live::Always => true,
        Live::Auto => !io::stdout().is_terminal() && capable,
    };
    wanted && io::stderr().is_terminal()
}

/// Begins: there is a line as long as the ticker lives.
pub fn start(tally: impl Fn() -> Tally + Send + 'static) -> Ticker {
    let (mut shown, mut blocked) = (None, false);
    Ticker::start("live", INTERVAL, move |last| {
        // From the background too it must not stop us: where that isn't wanted, nothing is written.
        if !std::mem::replace(&mut blocked, true) {
            let _: nix::Result<()> = SigSet::from(Signal::SIGTTOU).thread_block();
        }
        let now = tally();
        if last {
            if shown.is_some() && is_ours() {
                write(CLEAR);
            }
        } else if shown != Some(now) && is_ours() {
            write(&line(now, columns()));
            shown = Some(now);
        }
    })
}

/// The line, the rest of what stood there cleared, and the cursor at its beginning.
fn line(tally: Tally, columns: usize) -> Vec<u8> {
    let Tally { calls, leaks, processes } = tally;
    let plural = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let text = format!(
        "sockstrace: {} judged, {}, {}",
        plural(calls, "call", "calls"),
        plural(leaks, "leak", "leaks"),
        plural(processes, "process", "processes")
    );
    // The last column would make some terminals go on to the next line.
    let cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    [b"\r", cut.as_bytes(), CLEAR, b"\r"].concat()
}

fn write(bytes: &[u8]) {
    // Standard error that can't be written has nobody to be told of it.
    let _: io::Result<()> = io::stderr().write_all(bytes);
}

/// Whether we are in the foreground of the terminal that standard error is.
fn is_ours() -> bool {
    io::stderr().is_terminal() && tcgetpgrp(io::stderr()) == Ok(getpgrp())
}

fn columns() -> usize {
    // SAFETY: any bytes make a valid winsize, and the kernel writes one of our own.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let got = libc::ioctl(io::stderr().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size);
        if got == 0 { size.ws_col } else { 0 }
    };
    if size == 0 { 80 } else { usize::from(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_and_leaves_the_cursor_at_its_beginning() {
        let tally = Tally { calls: 1200, leaks: 1, processes: 3 };
        assert_eq!(line(tally, 80), b"\rsockstrace: 1200 calls judged, 1 leak, 3 processes\x1b[K\r");
        assert_eq!(line(tally, 11), b"\rsockstrace\x1b[K\r");
        assert_eq!(line(tally, 0), b"\r\x1b[K\r");
    }
}
