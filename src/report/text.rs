//! The report without options: what leaked, by class, for a person at a terminal.

use super::leaks::Leak;
use super::{End, Report, clock};
use crate::output::escape::escaped;
use std::io::{self, Write};

/// A summary in words.
pub(super) struct Text(Box<dyn Write>);

/// Of the kinds of leaks, how many are shown.
const SHOWN: usize = 100;

impl Text {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self(out)
    }
}

impl Report for Text {
    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let out = &mut self.0;
        let totals = end.totals;
        let (calls, processes) = (totals.calls(), totals.processes());
        match totals.leaks {
            0 => write!(out, "No leak")?,
            leaks => write!(out, "{leaks} {}", plural(leaks, "leak"))?,
        }
        write!(out, " in {calls} {} of {processes} ", plural(calls, "call"))?;
        writeln!(out, "{}", if processes == 1 { "process" } else { "processes" })?;
        if let (Some(first), Some(last)) = (totals.first, totals.last) {
            write!(out, "from {} to {}", clock(first), clock(last))?;
            match totals.exit {
                Some(exit) => writeln!(out, ", exit status {exit}")?,
                None => writeln!(out)?,
            }
        }
        let mut leaks: Vec<_> = end.leaks.list().iter().collect();
        leaks.sort_by_key(|leak| (order(&leak.class), std::cmp::Reverse(leak.count)));
        let mut class = None;
        for leak in leaks.iter().take(SHOWN) {
            if class.replace(&leak.class) != Some(&leak.class) {
                let count = totals.classes.get(&leak.class).copied().unwrap_or(leak.count);
                writeln!(out, "\n{}: {count} {}", escaped(&leak.class), plural(count, "leak"))?;
            }
            show(out, leak, "  ")?;
        }
        let rest = leaks.iter().skip(SHOWN).fold(end.leaks.others, |sum, leak| sum.saturating_add(leak.count));
        if rest > 0 {
            writeln!(out, "\nand {rest} more; --html shows them")?;
        }
        out.flush()
    }
}

/// A leak in a few lines.
pub(super) fn show(out: &mut dyn Write, leak: &Leak, indent: &str) -> io::Result<()> {
    writeln!(out, "{indent}{:>5} × {}, {}", leak.count, escaped(&leak.headline()), escaped(&leak.done()))?;
    if !leak.reason.is_empty() {
        writeln!(out, "{indent}        {}", escaped(&leak.reason))?;
    }
    if let Some(culprit) = leak.culprit() {
        writeln!(out, "{indent}        in {}", escaped(&culprit))?;
    }
    Ok(())
}

/// Known classes first, in the order of the contract.
fn order(class: &str) -> (usize, &str) {
    const CLASSES: [&str; 4] = ["outbound", "inbound", "disclosure", "proxy"];
    (CLASSES.iter().position(|known| *known == class).unwrap_or(CLASSES.len()), class)
}

pub(super) fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}
