//! `--folded`: a line for each distinct stack of a leak, outermost function first, and how often it came,
//! as flame graph tools read it. The program stands before it, the leaking call after it.

use super::leaks::cut;
use super::record::Record;
use super::{End, Report, say};
use crate::output::escape::escaped;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Folded stacks.
pub(super) struct Folded {
    out: Box<dyn Write>,
    stacks: BTreeMap<String, u64>,
    size: usize,
    others: u64,
}

/// How much the stacks may take up, in bytes.
const ROOM: usize = 256 << 20;

impl Folded {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self { out, stacks: BTreeMap::new(), size: 0, others: 0 }
    }
}

impl Report for Folded {
    fn event(&mut self, record: &Record<'_>) -> io::Result<()> {
        if !record.is_leak() {
            return Ok(());
        }
        let stack = fold(record);
        if let Some(count) = self.stacks.get_mut(&stack) {
            *count = count.saturating_add(1);
        } else if self.size.saturating_add(stack.len()) > ROOM {
            self.others = self.others.saturating_add(1);
        } else {
            self.size = self.size.saturating_add(stack.len());
            self.stacks.insert(stack, 1);
        }
        Ok(())
    }

    fn finish(&mut self, _: &End<'_>) -> io::Result<()> {
        for (stack, count) in &self.stacks {
            writeln!(self.out, "{stack} {count}")?;
        }
        if self.others > 0 {
            say(&format!("{} leaks have stacks for which --folded had no room", self.others));
        }
        self.out.flush()
    }
}

fn fold(record: &Record<'_>) -> String {
    let mut parts = vec![part(record.program())];
    parts.extend(record.frames().iter().rev().map(|frame| part(&frame.name())));
    let destination = record.destination();
    let space = if destination.is_empty() { "" } else { " " };
    parts.push(part(&format!("{}{space}{destination} [{}]", record.call_name(), record.class_name())));
    parts.join(";")
}

/// Semicolons separate functions, and a line is a stack.
fn part(name: &str) -> String {
    escaped(&cut(name)).to_string().replace(';', ":")
}

#[cfg(test)]
mod tests {
    use super::super::leaks::tests::leak;
    use super::*;
    use serde_json::json;

    #[test]
    fn outermost_first_and_nothing_breaks_out() {
        let folded = |value: serde_json::Value| fold(&Record::parse(value.to_string().as_bytes()).unwrap());
        assert_eq!(folded(leak()), "app;main;dial;connect;connect TCP 203.0.113.5:80 [outbound]");
        let mut hostile = leak();
        hostile["exe"] = json!("/x/a;b\nc 7");
        hostile["stack"] = json!([{"function": "f;g\n1"}, {}]);
        assert_eq!(folded(hostile), "a:b\\nc 7;?;f:g\\n1;connect TCP 203.0.113.5:80 [outbound]");
    }
}
