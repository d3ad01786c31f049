//! A SOCKS handshake for a person, in a few words.

use super::escape::escaped;
use crate::event::Handshake;
use std::fmt::{self, Display};

/// Of the methods that are offered, how many are named: there may be 255.
const METHODS: usize = 6;

/// ` {offered none, password; chosen password; user ab… (12 bytes), password (7 bytes); connect example.org:80}`,
/// as far as the handshake came; nothing where nothing was seen.
#[derive(Clone, Copy)]
pub(super) struct Said<'e>(pub Option<&'e Handshake>);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Handshake { offered, chosen, username, password, command, destination }) = self.0 else {
            return Ok(());
        };
        let mut parts = Vec::new();
        if let Some(methods) = offered {
            parts.push(format!("offered {}", list(methods)));
        }
        if let Some(method) = chosen {
            parts.push(format!("chosen {}", escaped(method)));
        }
        let login = [("user", username), ("password", password)];
        let login = login.map(|(what, said)| said.as_deref().map(|said| format!("{what} {}", Quoted(said))));
        let login: Vec<_> = login.into_iter().flatten().collect();
        if !login.is_empty() {
            parts.push(login.join(", "));
        }
        match (command, destination) {
            (Some(command), Some(destination)) => parts.push(format!("{command} {}", escaped(destination))),
            (Some(command), None) => parts.push((*command).to_owned()),
            (None, Some(destination)) => parts.push(format!("asked for {}", escaped(destination))),
            (None, None) => {}
        }
        if parts.is_empty() { Ok(()) } else { write!(f, " {{{}}}", parts.join("; ")) }
    }
}

fn list(methods: &[String]) -> String {
    if methods.is_empty() {
        return "no method".into();
    }
    let mut named: Vec<_> = methods.iter().take(METHODS).map(|method| escaped(method).to_string()).collect();
    let more = methods.len().saturating_sub(METHODS);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}

/// What the program wrote into a field: in quotes, so that it can't pass for what follows.
struct Quoted<'e>(&'e str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escaped(&self.0.replace('\\', "\\\\").replace('"', "\\\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(handshake: &Handshake) -> String {
        Said(Some(handshake)).to_string()
    }

    fn methods(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn as_far_as_it_came() {
        assert_eq!(Said(None).to_string(), "");
        assert_eq!(said(&Handshake::default()), "");
        let mut seen = Handshake { offered: Some(methods(&["none", "password"])), ..Handshake::default() };
        assert_eq!(said(&seen), " {offered none, password}");
        seen.chosen = Some("password".into());
        (seen.username, seen.password) = (Some("<torS0X>0".into()), Some("ab… (12 bytes)".into()));
        (seen.command, seen.destination) = (Some("connect"), Some("example.org:80".into()));
        let whole = " {offered none, password; chosen password; user \"<torS0X>0\", password \"ab… (12 bytes)\"; \
                     connect example.org:80}";
        assert_eq!(said(&seen), whole);
        let foreign = Handshake { destination: Some("HTTP".into()), ..Handshake::default() };
        assert_eq!(said(&foreign), " {asked for HTTP}");
        assert_eq!(
            said(&Handshake { offered: Some(methods(&[])), ..Handshake::default() }),
            " {offered no method}"
        );
    }

    #[test]
    fn what_a_program_writes_stays_in_its_place() {
        let hostile = "x\"; connect 1.2.3.4:80}\n\u{1b}[2J\u{202e}\\";
        let text = said(&Handshake {
            offered: Some(methods(&["0x03"; 255])),
            username: Some(hostile.into()),
            destination: Some(hostile.into()),
            ..Handshake::default()
        });
        assert!(!text.contains(['\n', '\u{1b}', '\u{202e}']), "{text:?}");
        assert!(text.contains("user \"x\\\"; connect 1.2.3.4:80}\\n\\u{1b}[2J\\u{202e}\\\\\""), "{text}");
        assert!(text.starts_with(" {offered 0x03, 0x03, 0x03, 0x03, 0x03, 0x03, 249 more; "), "{text}");
    }
}
