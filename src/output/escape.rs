//! Text from tracees on its way to a terminal.

use std::fmt::{self, Display, Write};

/// Shows `text` so that it can neither break out of its line nor steer a terminal.
pub(crate) fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

pub(crate) struct Escaped<'t>(&'t str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() || reorders(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Line and paragraph separators, and the marks that make terminals show text in another order.
fn reorders(character: char) -> bool {
    matches!(character,
        '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out() {
        let hostile = "a\n\r\t\u{1b}[31m\u{7f}\u{9b}1m\u{202e}\u{2028}b é";
        let shown = escaped(hostile).to_string();
        assert_eq!(shown, "a\\n\\r\\t\\u{1b}[31m\\u{7f}\\u{9b}1m\\u{202e}\\u{2028}b é");
    }
}
