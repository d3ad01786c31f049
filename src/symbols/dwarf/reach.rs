//! How far into each section a unit reaches: of compressed sections no more is inflated.
//!
//! A distribution's debug files are compressed as a rule, and inflating them whole is most of what a first
//! trace costs.

use crate::unwind::modules::elf::Elf;
use gimli::{DebugAbbrev, DebugInfo, DebugInfoOffset, EndianSlice, LittleEndian, SectionId, UnitHeader};

/// What a unit's abbreviations rarely exceed.
const ABBREVIATIONS: usize = 32 << 10;

/// From so many bytes on a second thread pays.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Up to where the sections are needed, in bytes from their start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub info: usize,
    pub abbreviations: usize,
    pub lines: usize,
}

impl Reach {
    /// Of a unit. `None` if it can't be told.
    pub fn of(elf: &Elf, unit: usize) -> Option<Self> {
        let compressed = |id: SectionId| elf.data_size(id.name()).is_some_and(|(size, packed)| packed && size > 0);
        if !compressed(SectionId::DebugInfo) {
            // Nothing to spare.
            return Some(Self { info: usize::MAX, abbreviations: usize::MAX, lines: usize::MAX });
        }
        let is_large = elf.data_size(SectionId::DebugInfo.name())?.0 > WORTH_A_THREAD;
        let known = elf.data_up_to(SectionId::DebugInfo.name(), 0).map_or(0, <[u8]>::len);
        if is_large && unit.saturating_sub(known) as u64 > WORTH_A_THREAD {
            // Most of the time goes into this section; the others that will be needed are done meanwhile.
            return std::thread::scope(|scope| {
                let ahead = std::thread::Builder::new().spawn_scoped(scope, || {
                    for id in [
                        SectionId::DebugAbbrev,
                        SectionId::DebugLine,
                        SectionId::DebugStr,
                        SectionId::DebugLineStr,
                        SectionId::DebugRngLists,
                        SectionId::DebugRanges,
                    ] {
                        let _ = elf.data(id.name());
                    }
                });
                let info = unit_end(elf, SectionId::DebugInfo, unit);
                // Where no thread can be had it is done here, later.
                let _ = ahead.map(std::thread::ScopedJoinHandle::join);
                Self::with_info(elf, unit, info?)
            });
        }
        Self::with_info(elf, unit, unit_end(elf, SectionId::DebugInfo, unit)?)
    }

    fn with_info(elf: &Elf, unit: usize, info: usize) -> Option<Self> {
        let section = EndianSlice::new(elf.data_up_to(SectionId::DebugInfo.name(), info)?, LittleEndian);
        let header = DebugInfo::from(section).header_from_offset(DebugInfoOffset(unit)).ok()?;
        let from = header.debug_abbrev_offset().0;
        let mut abbreviations = from.saturating_add(ABBREVIATIONS);
        let parsed = |up_to| {
            let data = elf.data_up_to(SectionId::DebugAbbrev.name(), up_to)?;
            header.abbreviations(&DebugAbbrev::new(data, LittleEndian)).ok()
        };
        let mut table = parsed(abbreviations);
        if table.is_none() {
            abbreviations = usize::MAX;
            table = parsed(abbreviations);
        }
        let table = table?;
        let lines = match line_program(&header, &table) {
            Some(offset) => unit_end(elf, SectionId::DebugLine, offset)?,
            None => 0,
        };
        Some(Self { info, abbreviations, lines })
    }

    /// Whether that is all that there is.
    pub fn is_everything(&self, elf: &Elf) -> bool {
        [
            (SectionId::DebugInfo, self.info),
            (SectionId::DebugAbbrev, self.abbreviations),
            (SectionId::DebugLine, self.lines),
        ]
        .iter()
        .all(|(id, reach)| elf.data_size(id.name()).is_none_or(|(size, _)| size <= *reach as u64))
    }
}

/// Where the unit (or line program) ends that begins here: a length comes first.
fn unit_end(elf: &Elf, id: SectionId, from: usize) -> Option<usize> {
    let head = elf.data_up_to(id.name(), from.checked_add(12)?)?;
    let length = u32::from_le_bytes(*head.get(from..)?.first_chunk()?);
    let (header, length) = if length == u32::MAX {
        (12, u64::from_le_bytes(*head.get(from.checked_add(4)?..)?.first_chunk()?))
    } else {
        (4, u64::from(length))
    };
    from.checked_add(header)?.checked_add(usize::try_from(length).ok()?)
}

/// Where the unit's line program begins.
fn line_program(header: &UnitHeader<super::Slice<'_>>, abbreviations: &gimli::Abbreviations) -> Option<usize> {
    let mut entries = header.entries_raw(abbreviations, None).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        if let gimli::AttributeValue::DebugLineRef(offset) = attribute.value()
            && attribute.name() == gimli::DW_AT_stmt_list
        {
            return Some(offset.0);
        }
    }
    None
}
