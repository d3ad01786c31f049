//! Keys, as terminals send them: xterm's control sequences (ctlseqs), which all of today's have in common.

/// What somebody has pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A character that is written.
    Char(char),
    /// A control character: `Control(b'c')`.
    Control(u8),
    Enter,
    Escape,
    Backspace,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

/// Bytes that make no whole key yet.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<u8>);

/// No sequence of a key is longer.
const LONGEST: usize = 32;

impl Keys {
    /// Takes what was read; the keys that are whole.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.0.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut rest = self.0.as_slice();
        while let Some((key, after)) = next(rest) {
            keys.extend(key);
            rest = after;
        }
        let rest = rest.to_vec();
        self.0 = if rest.len() > LONGEST { Vec::new() } else { rest };
        keys
    }

    /// Nothing came for a while: what looked like the begin of a sequence was the key Escape.
    pub fn pause(&mut self) -> Option<Key> {
        let escape = self.0.first() == Some(&0x1b);
        self.0.clear();
        escape.then_some(Key::Escape)
    }

    /// Whether something is left to be waited for.
    pub fn waits(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The first key and what follows it; `None` for it where the bytes mean none, and for all where they aren't
/// whole.
fn next(bytes: &[u8]) -> Option<(Option<Key>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let key = match first {
        0x1b => return sequence(rest),
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        control @ 1..=26 => Key::Control(control.wrapping_add(b'a').wrapping_sub(1)),
        0x1c => Key::Control(b'\\'),
        0 | 0x1d..=0x1f => return Some((None, rest)),
        b' '..=b'~' => Key::Char(char::from(first)),
        0x80.. => return character(bytes),
    };
    Some((Some(key), rest))
}

/// Behind an ESC.
fn sequence(bytes: &[u8]) -> Option<(Option<Key>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        b'[' => {
            let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            let (parameters, last) = rest.split_at_checked(end)?;
            let (&last, after) = last.split_first()?;
            // `5~`, and with modifiers `5;2~`.
            let number = parameters.split(|byte| *byte == b';').next();
            let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            Some((named(last, number), after))
        }
        b'O' => {
            let (&last, after) = rest.split_first()?;
            Some((named(last, None), after))
        }
        // Escape twice.
        0x1b => Some((Some(Key::Escape), bytes)),
        // Alt with a key: nobody asked for that.
        _ => next(bytes).map(|(_, after)| (None, after)),
    }
}

fn named(last: u8, number: Option<u8>) -> Option<Key> {
    Some(match (last, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', Some(1 | 7)) => Key::Home,
        (b'F', _) | (b'~', Some(4 | 8)) => Key::End,
        (b'Z', _) => Key::BackTab,
        (b'M', None) => Key::Enter,
        (b'~', Some(5)) => Key::PageUp,
        (b'~', Some(6)) => Key::PageDown,
        _ => return None,
    })
}

/// A character of several bytes.
fn character(bytes: &[u8]) -> Option<(Option<Key>, &[u8])> {
    let start = bytes.get(..bytes.len().min(4)).unwrap_or(bytes);
    for length in 1..=start.len() {
        let (piece, _) = start.split_at_checked(length)?;
        if let Ok(text) = std::str::from_utf8(piece) {
            return Some((text.chars().next().map(Key::Char), bytes.get(length..)?));
        }
    }
    match std::str::from_utf8(start) {
        // It goes on.
        Err(error) if error.error_len().is_none() => None,
        _ => Some((None, bytes.get(1..)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Keys::default().push(bytes)
    }

    #[test]
    fn every_key_however_it_is_split() {
        let all: &[(&[u8], Key)] = &[
            (b"q", Key::Char('q')),
            ("é".as_bytes(), Key::Char('é')),
            ("漢".as_bytes(), Key::Char('漢')),
            (b"\x03", Key::Control(b'c')),
            (b"\x1a", Key::Control(b'z')),
            (b"\x1c", Key::Control(b'\\')),
            (b"\r", Key::Enter),
            (b"\t", Key::Tab),
            (b"\x1b[Z", Key::BackTab),
            (b"\x7f", Key::Backspace),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[1;5C", Key::Right),
            (b"\x1b[D", Key::Left),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6;2~", Key::PageDown),
            (b"\x1b[H", Key::Home),
            (b"\x1b[1~", Key::Home),
            (b"\x1bOF", Key::End),
            (b"\x1b[8~", Key::End),
        ];
        let bytes: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        let expected: Vec<Key> = all.iter().map(|(_, key)| *key).collect();
        assert_eq!(keys(&bytes), expected);
        let mut one_by_one = Keys::default();
        let got: Vec<Key> = bytes.iter().flat_map(|byte| one_by_one.push(&[*byte])).collect();
        assert_eq!(got, expected);
        assert!(!one_by_one.waits());
    }

    #[test]
    fn escape_alone_is_told_by_the_pause_behind_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"\x1b"), []);
        assert!(keys.waits());
        assert_eq!((keys.pause(), keys.pause()), (Some(Key::Escape), None));
        assert_eq!(keys.push(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
    }

    #[test]
    fn noise_is_no_key_and_no_trouble() {
        assert_eq!(
            keys(b"\x1b[999;999R\x1b[Ia\xffb\x00\x1bx\xc3("),
            [Key::Char('a'), Key::Char('b'), Key::Char('(')]
        );
        let mut endless = Keys::default();
        endless.push(b"\x1b[");
        for _ in 0..1000 {
            endless.push(b"1;");
        }
        assert!(endless.0.len() <= LONGEST + 2);
    }
}
