//! What `.eh_frame_hdr` is for, where there is none.

use super::Slice;
use gimli::{BaseAddresses, CieOrFde, UnwindSection};

/// The entries of a section, ordered by the addresses that they cover.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<(u64, u64, usize)>,
}

/// More entries than any program has.
const MOST: usize = 1 << 22;

impl Index {
    /// Reads all entries of a section, up to the first that can't be read.
    pub fn of<'a, S: UnwindSection<Slice<'a>>>(section: &S, bases: &BaseAddresses) -> Self {
        let mut entries = Vec::new();
        let mut iterator = section.entries(bases);
        // Most entries share the CIE of the one before.
        let mut last: Option<(S::Offset, gimli::CommonInformationEntry<Slice<'a>>)> = None;
        for _ in 0..MOST {
            let entry = match iterator.next() {
                Ok(Some(CieOrFde::Fde(entry))) => entry,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) | Err(_) => break,
            };
            let fde = entry.parse(|section, bases, offset| match &last {
                Some((known, cie)) if *known == offset => Ok(cie.clone()),
                _ => {
                    let cie = section.cie_from_offset(bases, offset)?;
                    last = Some((offset, cie.clone()));
                    Ok(cie)
                }
            });
            if let Ok(fde) = fde
                && fde.len() > 0
                // What the linker dropped is left at 0.
                && fde.initial_address() != 0
            {
                entries.push((fde.initial_address(), fde.end_address(), fde.offset()));
            }
        }
        entries.sort_unstable();
        Self { entries }
    }

    /// Where the entry for this address begins.
    pub fn find(&self, address: u64) -> Option<usize> {
        let index = self.entries.partition_point(|entry| entry.0 <= address).checked_sub(1)?;
        let (_, end, offset) = *self.entries.get(index)?;
        (address < end).then_some(offset)
    }
}
