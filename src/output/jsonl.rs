//! `--format jsonl`: one JSON object a line.

use super::Output;
use crate::event::Event;
use std::io;

/// JSON lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct Jsonl;

impl Output for Jsonl {
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()> {
        serde_json::to_writer(&mut *lines, event)?;
        lines.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::call;

    #[test]
    fn a_hostile_name_stays_in_its_string() {
        let event = call(|call| call.who.process = Some("x\"}\n{\"kind\":\"summary\"".into()));
        let mut lines = Vec::new();
        Jsonl.write(&event, &mut lines).unwrap();
        assert_eq!(lines.split(|byte| *byte == b'\n').count(), 2);
        let value: serde_json::Value = serde_json::from_slice(&lines).unwrap();
        assert_eq!(value["process"], "x\"}\n{\"kind\":\"summary\"");
        assert_eq!(value["kind"], "syscall");
    }
}
