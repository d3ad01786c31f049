//! `--html`: one page for a browser that holds everything it shows and asks no network.
//!
//! The page (`html/`) is written by hand: markup, styles, and scripts that only ever make text nodes out of
//! what a stream says. A content security policy names the hashes of script and style, so that nothing else
//! could run even if something broke out.

mod columns;

use super::record::Record;
use super::source::{Root, Sources};
use super::xml::xml;
use super::{End, Report};
use columns::Columns;
use serde_json::{Value, json};
use std::io::{self, Write};

/// The page, written when all events have passed.
pub(super) struct Html {
    out: Box<dyn Write>,
    columns: Columns,
}

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");
/// In this order, as one script.
const SCRIPTS: [&str; 9] = [
    include_str!("html/data.js"),
    include_str!("html/dom.js"),
    include_str!("html/filter.js"),
    include_str!("html/timeline.js"),
    include_str!("html/grid.js"),
    include_str!("html/views.js"),
    include_str!("html/icicle.js"),
    include_str!("html/details.js"),
    include_str!("html/main.js"),
];

/// Excerpts of sources in the page.
const EXCERPTS: usize = 2_000;
/// Lines of the table for browsers without scripts.
const STATIC: usize = 200;

impl Html {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self { out, columns: Columns::default() }
    }

    /// Puts excerpts beside the frames of the program's own code, blamed ones first.
    fn excerpts(&mut self, root: &Root) -> Vec<Option<Value>> {
        let mut sources = Sources::default();
        let mut excerpts = vec![None; self.columns.frames().len()];
        let mut count = 0_usize;
        for index in self.columns.worth_an_excerpt() {
            let (Some(frame), Some(place)) = (self.columns.frames().get(index), excerpts.get_mut(index)) else {
                continue;
            };
            if count < EXCERPTS
                && place.is_none()
                && let Some(excerpt) = sources.excerpt(root, &frame.file, frame.line)
            {
                count = count.saturating_add(1);
                *place = Some(json!([excerpt.first, excerpt.lines]));
            }
        }
        excerpts
    }
}

impl Report for Html {
    fn event(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.columns.add(record);
        Ok(())
    }

    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let excerpts = self.excerpts(end.root);
        let script = script();
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
            hash(&script),
            hash(STYLE)
        );
        let title = title(end);
        let mut rest = PAGE;
        while let Some((before, name, after)) = next_place(rest) {
            self.out.write_all(before.as_bytes())?;
            match name {
                "policy" => write!(self.out, "{}", xml(&policy))?,
                "title" => write!(self.out, "{}", xml(&title))?,
                "style" => self.out.write_all(STYLE.as_bytes())?,
                "script" => self.out.write_all(script.as_bytes())?,
                "version" => self.out.write_all(env!("CARGO_PKG_VERSION").as_bytes())?,
                "source" => write!(self.out, "{} events", end.totals.judged)?,
                "static" => write_static(&mut self.out, end)?,
                "data" => self.columns.write(&mut self.out, end, &excerpts)?,
                other => return Err(io::Error::other(format!("the page has a place for {other:?}"))),
            }
            rest = after;
        }
        self.out.write_all(rest.as_bytes())?;
        self.out.flush()
    }
}

/// What stands before the next `{{name}}`, the name, and the rest.
fn next_place(page: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = page.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name, after))
}

fn script() -> String {
    format!("\"use strict\";(() => {{\n{}\n}})();", SCRIPTS.concat())
}

fn title(end: &End<'_>) -> String {
    let (leaks, calls) = (end.totals.leaks, end.totals.calls());
    match leaks {
        0 => format!("No leak in {calls} calls"),
        1 => format!("1 leak in {calls} calls"),
        _ => format!("{leaks} leaks in {calls} calls"),
    }
}

/// For browsers without scripts.
fn write_static(out: &mut dyn Write, end: &End<'_>) -> io::Result<()> {
    writeln!(out, "<p>Without scripts this is all there is:</p>")?;
    for warning in end.warnings {
        writeln!(out, "<p><strong>{}</strong></p>", xml(warning))?;
    }
    writeln!(out, "<table><tr><th>Class</th><th>Times</th><th>What</th><th>Why</th><th>Where</th></tr>")?;
    for leak in end.leaks.list().iter().take(STATIC) {
        write!(out, "<tr><td>{}</td><td>{}</td>", xml(&leak.class), leak.count)?;
        write!(out, "<td>{}, {}</td>", xml(&leak.headline()), xml(&leak.done()))?;
        let culprit = leak.culprit().unwrap_or_default();
        writeln!(out, "<td>{}</td><td>{}</td></tr>", xml(&leak.reason), xml(&culprit))?;
    }
    writeln!(out, "</table>")
}

/// A source of a content security policy: SHA-256 in base64.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(&hmac_sha256::Hash::hash(text.as_bytes())))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            let digit = bits >> (18 - 6 * place) & 63;
            let digit = DIGITS.get(digit as usize).copied().unwrap_or(b'=');
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_has_no_place_that_nobody_fills_and_no_script_ends_early() {
        let mut rest = PAGE;
        let mut names = Vec::new();
        while let Some((_, name, after)) = next_place(rest) {
            names.push(name);
            rest = after;
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["data", "policy", "script", "source", "static", "style", "title", "version"]);
        assert!(!script().contains("</") && !script().contains("<!--") && !STYLE.contains("</"));
    }
}
