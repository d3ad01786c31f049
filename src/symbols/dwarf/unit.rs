//! Units: the addresses that they cover, and what is kept of them.

use super::lines::Lines;
use super::{Fuel, Slice, Spans};
use gimli::{AttributeValue, DebugInfoOffset, Dwarf, RangeListsOffset, Unit, UnitRef, UnitType};
use std::sync::OnceLock;

/// What was read of a unit.
#[derive(Debug, Default)]
pub(super) struct UnitIndex {
    /// The functions by address: (first, behind the last, the entry).
    pub functions: OnceLock<Spans>,
    /// The same, with those inside of functions too.
    pub nested: OnceLock<Spans>,
    pub lines: OnceLock<Option<Lines>>,
}

/// The attributes that say where code is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Code {
    low: Option<u64>,
    high: Option<u64>,
    size: Option<u64>,
    ranges: Option<RangeListsOffset<usize>>,
}

impl Code {
    /// Takes the attribute note of, if it is one of those.
    pub fn note<'a>(&mut self, unit: UnitRef<'_, Slice<'a>>, attribute: &gimli::Attribute<Slice<'a>>) {
        match attribute.name() {
            gimli::DW_AT_low_pc => self.low = unit.attr_address(attribute.value()).ok().flatten(),
            gimli::DW_AT_high_pc => match attribute.value() {
                AttributeValue::Udata(size) => self.size = Some(size),
                value => self.high = unit.attr_address(value).ok().flatten(),
            },
            gimli::DW_AT_ranges => self.ranges = unit.attr_ranges_offset(attribute.value()).ok().flatten(),
            _ => {}
        }
    }

    /// Whether there is any.
    pub fn is_some(&self) -> bool {
        self.low.is_some() || self.ranges.is_some()
    }

    /// Calls for every range until the function gives `false`.
    pub fn each(
        &self,
        unit: UnitRef<'_, Slice<'_>>,
        fuel: &Fuel,
        mut visit: impl FnMut(u64, u64) -> bool,
    ) -> Option<()> {
        // What the linker dropped is left at 0 or at a tombstone.
        let mut visit = |begin: u64, end: u64| begin == 0 || begin >= end || visit(begin, end);
        if let Some(offset) = self.ranges {
            let mut ranges = unit.ranges(offset).ok()?;
            while let Some(range) = ranges.next().ok()? {
                fuel.spend(1)?;
                if !visit(range.begin, range.end) {
                    break;
                }
            }
        } else if let Some(low) = self.low {
            let end = match (self.high, self.size) {
                (Some(high), _) => high,
                (None, Some(size)) => low.checked_add(size)?,
                (None, None) => return Some(()),
            };
            visit(low, end);
        }
        Some(())
    }

    /// Where the function is entered: in the first range, wherever the others lie.
    pub fn start(&self, unit: UnitRef<'_, Slice<'_>>, fuel: &Fuel) -> Option<u64> {
        let mut start = None;
        self.each(unit, fuel, |begin, _| {
            start = Some(begin);
            false
        })?;
        start
    }

    /// Whether an address is among them.
    pub fn contains(&self, unit: UnitRef<'_, Slice<'_>>, address: u64, fuel: &Fuel) -> bool {
        let mut inside = false;
        let _ = self.each(unit, fuel, |begin, end| {
            inside = (begin..end).contains(&address);
            !inside
        });
        inside
    }
}

/// The addresses of all units but those of which `.debug_aranges` has told.
pub(super) fn spans(dwarf: &Dwarf<Slice<'_>>, known: &[usize], fuel: &Fuel) -> Spans {
    let mut spans = Spans::new();
    let mut headers = dwarf.units();
    while let Ok(Some(header)) = headers.next() {
        if fuel.spend(1).is_none() {
            break;
        }
        let skipped =
            matches!(header.type_(), UnitType::Type { .. } | UnitType::SplitType { .. } | UnitType::Partial);
        let Some(DebugInfoOffset(offset)) = header.debug_info_offset() else { continue };
        if skipped || known.binary_search(&offset).is_ok() {
            continue;
        }
        if let Ok(unit) = dwarf.unit(header) {
            let _ = add_unit(dwarf, &unit, offset, &mut spans, fuel);
        }
    }
    spans.sort_unstable();
    spans
}

fn add_unit(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    offset: usize,
    spans: &mut Spans,
    fuel: &Fuel,
) -> Option<()> {
    let unit = UnitRef::new(dwarf, unit);
    let mut entries = unit.entries_raw(None).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    fuel.spend(abbreviation.attributes().len() as u64)?;
    let mut code = Code::default();
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        code.note(unit, &attribute);
    }
    code.each(unit, fuel, |begin, end| {
        spans.push((begin, end, offset));
        true
    })
}
