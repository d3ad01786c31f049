//! Line tables.

use super::{Fuel, Slice};
use gimli::UnitRef;
use std::sync::Arc;

/// The lines of a unit by address.
#[derive(Debug, Default)]
pub(super) struct Lines {
    sequences: Vec<Sequence>,
}

#[derive(Debug)]
struct Sequence {
    start: u64,
    end: u64,
    /// (address, file, line; 0 for none).
    rows: Vec<(u64, u32, u32)>,
}

/// A file's number and a line.
pub(super) type Location = (u64, Option<u32>);

impl Lines {
    /// Runs the line program of a unit.
    pub fn of(unit: UnitRef<'_, Slice<'_>>, fuel: &Fuel) -> Option<Self> {
        let mut sequences = Vec::new();
        let mut rows: Vec<(u64, u32, u32)> = Vec::new();
        let mut program = unit.line_program.clone()?.rows();
        while let Ok(Some((_, row))) = program.next_row() {
            if fuel.spend(1).is_none() {
                break;
            }
            if row.end_sequence() {
                let rows = std::mem::take(&mut rows);
                let start = rows.first().map_or(0, |row| row.0);
                // What the linker dropped is left at 0.
                if start != 0 && start < row.address() {
                    sequences.push(Sequence { start, end: row.address(), rows });
                }
                continue;
            }
            let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0));
            let entry = (row.address(), u32::try_from(row.file_index()).unwrap_or(u32::MAX), line);
            // Of several rows for one address the last is meant.
            match rows.last_mut() {
                Some(last) if last.0 == entry.0 => *last = entry,
                Some(last) if last.0 > entry.0 => {}
                _ => rows.push(entry),
            }
        }
        sequences.sort_unstable_by_key(|sequence| sequence.start);
        Some(Self { sequences })
    }

    /// The line at an address.
    pub fn at(&self, address: u64) -> Option<Location> {
        const BACK: usize = 8;
        let behind = self.sequences.partition_point(|sequence| sequence.start <= address);
        let sequence =
            self.sequences.get(..behind)?.iter().rev().take(BACK).find(|sequence| address < sequence.end)?;
        let index = sequence.rows.partition_point(|row| row.0 <= address).checked_sub(1)?;
        let (_, file, line) = *sequence.rows.get(index)?;
        Some((file.into(), (line != 0).then_some(line)))
    }
}

/// The path of a file of a unit.
pub(super) fn file_name(unit: UnitRef<'_, Slice<'_>>, file: u64) -> Option<Arc<str>> {
    let header = unit.line_program.as_ref()?.header();
    let entry = header.file(file)?;
    let mut path = String::new();
    if let Some(folder) = &unit.comp_dir {
        push(&mut path, folder.slice());
    }
    // In DWARF 4 the folder 0 is that of the compilation, in DWARF 5 it is written down.
    if (entry.directory_index() != 0 || header.version() >= 5)
        && let Some(folder) = entry.directory(header)
        && let Ok(folder) = unit.attr_string(folder)
    {
        push(&mut path, folder.slice());
    }
    push(&mut path, unit.attr_string(entry.path_name()).ok()?.slice());
    Some(path.into())
}

/// Appends to a path, or replaces it by an absolute one.
fn push(path: &mut String, part: &[u8]) {
    let part = String::from_utf8_lossy(part);
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(&part);
}
