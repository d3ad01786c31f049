//! Text from tracees on its way to the screen: nothing that steers a terminal, changes the order of what it shows,
//! or has no width.

use crate::output::escape::escaped;
use unicode_width::UnicodeWidthChar;

/// What of `text` can be drawn, at most `limit` characters of it.
#[must_use]
pub(super) fn plain(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    let mut left = limit;
    let mut buffer = [0; 4];
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(1);
            shown.push(character);
            continue;
        }
        let piece = escaped(character.encode_utf8(&mut buffer)).to_string();
        // Marks that are put onto others, joiners, fillers.
        let piece = match character.width() {
            Some(1..) => piece,
            _ if piece.starts_with('\\') => piece,
            _ => character.escape_unicode().to_string(),
        };
        let length = piece.chars().count();
        if length > left {
            break;
        }
        left = left.saturating_sub(length);
        shown.push_str(&piece);
    }
    if limit > 0 && shown.chars().count() >= limit && text.chars().count() > limit {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_and_nothing_is_invisible() {
        let hostile = "a\u{1b}[2J\n\u{202e}\u{200d}e\u{301}\u{0}\u{9b}\u{ad}漢é";
        let shown = plain(hostile, 200);
        assert_eq!(shown, "a\\u{1b}[2J\\n\\u{202e}\\u{200d}e\\u{301}\\u{0}\\u{9b}\\u{ad}漢é");
        for character in shown.chars() {
            assert!(!character.is_control() && character.width() > Some(0), "{character:?}");
        }
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(plain("abcdef", 4), "abc…");
        assert_eq!(plain("abcd", 4), "abcd");
        assert_eq!(plain("", 4), "");
        assert_eq!(plain("abc", 0), "");
        assert!(plain(&"\u{1b}".repeat(100), 10).chars().count() <= 10);
        assert_eq!(plain(&"x".repeat(1 << 20), 300).chars().count(), 300);
    }
}
