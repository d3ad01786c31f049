//! What PROGRAM and sockstrace itself write to the terminal: the last lines, as text. What would move the cursor
//! is left out, except that a carriage return begins the line anew, as progress bars do.

use super::text::plain;
use std::collections::VecDeque;
use std::rc::Rc;

/// Lines that are kept, and characters of each.
const LINES: usize = 1000;
const COLUMNS: usize = 500;
/// Bytes of a line that are looked at.
const BYTES: usize = 4 * COLUMNS;

/// The last lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Output {
    lines: VecDeque<Rc<str>>,
    /// The line that is being written.
    line: Vec<u8>,
    /// The next character begins the line anew.
    anew: bool,
    state: State,
}

/// Within a control sequence (ECMA-48).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and bytes that lead to a final one.
    Intermediate,
    /// Behind `ESC [`.
    Control,
    /// Within a string that BEL or `ESC \` ends: titles, links, pictures.
    String,
    /// Behind an ESC in such a string.
    StringEscape,
}

impl Output {
    /// Takes what was written.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        // Whatever it stands in, these begin something new (VT500's parser).
        if matches!(byte, 0x18 | 0x1a) {
            self.state = State::Text;
            return;
        }
        self.state = match (self.state, byte) {
            (State::String, 0x1b) => State::StringEscape,
            (State::String, 0x07) | (State::StringEscape, b'\\') => State::Text,
            (State::String, _) | (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            (State::StringEscape, _) => {
                self.state = State::Escape;
                return self.byte(byte);
            }
            (_, 0x1b) => State::Escape,
            (State::Escape, b'[') | (State::Control, 0x20..=0x3f) => State::Control,
            (State::Escape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            (State::Control, 0x40..=0x7e) | (State::Escape | State::Intermediate, 0x30..=0x7e) => State::Text,
            (state, _) => {
                self.text(byte);
                // A control character takes effect within a sequence too.
                if byte < 0x20 { state } else { State::Text }
            }
        };
    }

    fn text(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                if self.lines.len() >= LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(self.current());
                self.line.clear();
                self.anew = false;
            }
            b'\r' => self.anew = true,
            0x08 => {
                self.line.pop();
            }
            b'\t' => self.put(b" "),
            0x00..=0x1f | 0x7f => {}
            byte => self.put(&[byte]),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.anew) {
            self.line.clear();
        }
        if self.line.len() < BYTES {
            self.line.extend_from_slice(bytes);
        }
    }

    fn current(&self) -> Rc<str> {
        plain(&String::from_utf8_lossy(&self.line), COLUMNS).into()
    }

    /// Whether anything was written.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.line.is_empty()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len().saturating_add(usize::from(!self.line.is_empty()))
    }

    /// The lines from that index on; the last one may be unfinished.
    pub fn from(&self, index: usize) -> impl Iterator<Item = Rc<str>> {
        let last = (!self.line.is_empty()).then(|| self.current());
        self.lines.iter().map(Rc::clone).chain(last).skip(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut output = Output::default();
        output.push(text);
        let lines: Vec<String> = output.from(0).map(|line| line.to_string()).collect();
        assert_eq!(lines.len(), output.len());
        // However it is split.
        let mut one_by_one = Output::default();
        for byte in text {
            one_by_one.push(&[*byte]);
        }
        assert!(one_by_one.from(0).map(|line| line.to_string()).eq(lines.iter().cloned()));
        lines
    }

    #[test]
    fn text_without_what_steers() {
        assert_eq!(lines(b"a\r\nb\n"), ["a", "b"]);
        assert_eq!(
            lines(b"\x1b[1;31mred\x1b[0m \x1b(Bplain\x1b]0;title\x07!\x1b]8;;x\x1b\\link"),
            ["red plain!link"]
        );
        assert_eq!(lines(b"10%\r20%\r100%\ndone"), ["100%", "done"]);
        assert_eq!(lines("h\u{e9}\x08\x08x\ty".as_bytes()), ["hx y"]);
        assert_eq!(lines(b"\x1bPq#0;2\x1b\\a\x1b[?1049h\x1b[2Jb\x18c"), ["abc"]);
        assert_eq!(lines("\u{202e}漢".as_bytes()), ["\\u{202e}漢"]);
        assert_eq!(lines(b""), [""; 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut output = Output::default();
        output.push(b"\x1b]");
        output.push(&vec![b'x'; 1 << 20]);
        assert!(output.is_empty() && output.line.capacity() < BYTES);
        output.push(b"\x07");
        output.push(&vec![b'x'; 1 << 20]);
        assert!(output.line.len() <= BYTES);
        output.push(&b"y\n".repeat(LINES * 2));
        assert_eq!(output.len(), LINES);
    }
}
