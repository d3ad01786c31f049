//! `--diff`: which leaks are new, gone, and the same.

use super::fingerprint::Fingerprint;
use super::leaks::{Leak, Leaks};
use super::text::{plural, show};
use super::{End, Report};
use crate::output::escape::escaped;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

/// How the leaks of a stream stand to those of an earlier one.
#[derive(Debug, Default)]
pub struct Diff {
    /// Not in the baseline.
    pub new: Vec<Leak>,
    /// Only in the baseline.
    pub gone: Vec<Leak>,
    /// In both.
    pub same: Vec<Leak>,
    fresh: HashSet<Fingerprint>,
    /// Codes that leaked in the baseline, to whatever address.
    known_code: HashSet<Fingerprint>,
}

impl Diff {
    /// Compares. With `any_destination` the code alone counts.
    #[must_use]
    pub fn new(baseline: &Leaks, now: &Leaks, any_destination: bool) -> Self {
        let key = |leak: &Leak| if any_destination { leak.fingerprints.code } else { leak.fingerprints.leak };
        let before = by_key(baseline, key);
        let after = by_key(now, key);
        let mut diff = Self {
            known_code: baseline.list().iter().map(|leak| leak.fingerprints.code).collect(),
            ..Self::default()
        };
        let (known, still): (HashSet<_>, HashSet<_>) =
            (before.iter().map(|(key, _)| *key).collect(), after.iter().map(|(key, _)| *key).collect());
        for (key, leak) in after {
            if known.contains(&key) {
                diff.same.push(leak);
            } else {
                diff.fresh.insert(key);
                diff.new.push(leak);
            }
        }
        diff.gone.extend(before.into_iter().filter(|(key, _)| !still.contains(key)).map(|(_, leak)| leak));
        diff
    }

    /// Whether a leak is not in the baseline.
    #[must_use]
    pub fn is_new(&self, leak: &Leak) -> bool {
        self.fresh.contains(&leak.fingerprints.leak) || self.fresh.contains(&leak.fingerprints.code)
    }
}

/// One leak for each key, in order; what differs in its line alone is added up.
fn by_key(leaks: &Leaks, key: impl Fn(&Leak) -> Fingerprint) -> Vec<(Fingerprint, Leak)> {
    let mut places: HashMap<Fingerprint, usize> = HashMap::new();
    let mut list: Vec<(Fingerprint, Leak)> = Vec::new();
    for leak in leaks.list() {
        let key = key(leak);
        if let Some((_, first)) = places.get(&key).and_then(|&place| list.get_mut(place)) {
            first.count = first.count.saturating_add(leak.count);
        } else {
            places.insert(key, list.len());
            list.push((key, leak.clone()));
        }
    }
    list
}

/// The comparison for a person.
pub(super) struct Text(Box<dyn Write>);

impl Text {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self(out)
    }
}

impl Report for Text {
    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let out = &mut self.0;
        let Some(diff) = end.diff else { return Ok(()) };
        let count = |leaks: &[Leak]| {
            let count = leaks.len() as u64;
            format!("{count} {}", plural(count, "leak"))
        };
        writeln!(out, "{} new, {} gone, {} the same", count(&diff.new), diff.gone.len(), diff.same.len())?;
        for (title, leaks) in [("new", &diff.new), ("gone", &diff.gone), ("same", &diff.same)] {
            for leak in leaks {
                writeln!(out, "\n{title}  {}  {}", escaped(&leak.class), leak.fingerprints.leak.hex())?;
                show(out, leak, "  ")?;
                if title == "new" && diff.known_code.contains(&leak.fingerprints.code) {
                    writeln!(out, "          the same code leaks to another address in the baseline")?;
                }
            }
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaks::tests::{add, leak};
    use super::*;
    use serde_json::{Value, json};

    fn leaks(all: &[Value]) -> Leaks {
        let mut leaks = Leaks::default();
        for leak in all {
            add(&mut leaks, leak);
        }
        leaks
    }

    fn to(address: &str) -> Value {
        let mut leak = leak();
        leak["address"] = json!(address);
        leak
    }

    fn counts(diff: &Diff) -> (usize, usize, usize) {
        (diff.new.len(), diff.gone.len(), diff.same.len())
    }

    #[test]
    fn new_gone_and_same() {
        let before = leaks(&[to("203.0.113.5:80"), to("203.0.113.6:80")]);
        let mut shifted = to("203.0.113.5:80");
        shifted["stack"][1]["line"] = json!(99);
        let now = leaks(&[shifted, to("203.0.113.7:80"), to("203.0.113.5:80")]);
        let diff = Diff::new(&before, &now, false);
        assert_eq!(counts(&diff), (1, 1, 1));
        assert_eq!(diff.same[0].count, 2);
        assert!(diff.is_new(&diff.new[0]) && !diff.is_new(&diff.same[0]));
        assert_eq!(diff.new[0].destination, "TCP 203.0.113.7:80");
        assert_eq!(counts(&Diff::new(&before, &now, true)), (0, 0, 1));
        assert_eq!(counts(&Diff::new(&Leaks::default(), &now, false)), (2, 0, 0));
    }
}
