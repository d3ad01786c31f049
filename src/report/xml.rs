//! Text in XML.

use std::fmt::{self, Display, Write};

/// `text` as character data or an attribute's value (in double quotes). What XML 1.0 can't hold at all,
/// escaped or not, is written as Rust would escape it.
pub(super) fn xml(text: &str) -> Xml<'_> {
    Xml(text)
}

pub(super) struct Xml<'t>(&'t str);

impl Display for Xml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                // Attributes would have them as spaces.
                '\t' | '\n' | '\r' => write!(f, "&#{};", u32::from(character))?,
                '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                    write!(f, "{}", character.escape_unicode())?;
                }
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out() {
        let hostile = "a<b>&\"'\n\u{1}]]>\u{ffff}é";
        assert_eq!(xml(hostile).to_string(), "a&lt;b&gt;&amp;&quot;'&#10;\\u{1}]]&gt;\\u{ffff}é");
    }
}
