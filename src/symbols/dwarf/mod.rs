//! DWARF: where the debug information is, and which unit of it an address belongs to.

mod functions;
mod lines;
mod reach;
mod split;
mod tail;
mod unit;

use super::Answer;
use crate::unwind::Module;
use crate::unwind::modules::elf::Elf;
use crate::unwind::modules::separate;
use gimli::{DebugAranges, DebugInfoOffset, Dwarf, EndianSlice, LittleEndian, SectionId, Unit};
use reach::Reach;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use unit::UnitIndex;

pub(super) use tail::{Calls, Named, Search};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What looking up one address may cost, in entries, attributes, rows and ranges read. CPython's largest
/// unit takes less than a million.
const FUEL: u64 = 50_000_000;

/// Units whose functions and lines are kept.
const UNITS: usize = 512;

/// How much work may still be done.
pub(super) struct Fuel(Cell<u64>);

impl Fuel {
    /// For one question.
    pub fn new() -> Self {
        Self(Cell::new(FUEL))
    }

    fn spend(&self, amount: u64) -> Option<()> {
        self.0.set(self.0.get().checked_sub(amount)?);
        Some(())
    }
}

/// Which addresses a unit has code at: (first, behind the last, the unit).
type Spans = Vec<(u64, u64, usize)>;

/// The debug information of a module.
pub(super) struct Debug {
    separate: bool,
    alternate: Option<Elf>,
    aranges: OnceLock<(Spans, Vec<usize>)>,
    others: OnceLock<Spans>,
    units: Mutex<HashMap<usize, Arc<UnitIndex>>>,
    split: split::Files,
}

impl Debug {
    /// Finds the debug information of a module.
    pub fn of(module: &Module) -> Option<Self> {
        let has = |elf: &Elf| elf.section(".debug_info").is_some_and(|section| !section.file.is_empty());
        let separate = !has(module.elf()?);
        let elf = if separate { module.separate().filter(|elf| has(elf))? } else { module.elf()? };
        Some(Self {
            separate,
            alternate: separate::alternate(elf, module.path()),
            aranges: OnceLock::new(),
            others: OnceLock::new(),
            units: Mutex::default(),
            split: split::Files::default(),
        })
    }

    fn elf<'m>(&self, module: &'m Module) -> Option<&'m Elf> {
        if self.separate { module.separate() } else { module.elf() }
    }

    /// The functions at an address, the innermost inlined one first. `None` if nothing is known.
    pub fn at(&self, module: &Module, address: u64) -> Option<Answer> {
        let elf = self.elf(module)?;
        let fuel = Fuel::new();
        let (spans, with_aranges) = self.aranges.get_or_init(|| aranges(elf, &fuel));
        let known = find(spans, address);
        let of_unit = |offset: usize, reach: Option<&Reach>| {
            let dwarf = self.load(elf, reach);
            self.in_unit(&dwarf, module, offset, |view| functions::at(view, address, &fuel))?
        };
        let mut seen = None;
        if let Some(offset) = known {
            // With no more of the sections than the unit itself needs; if that leaves anything open, again
            // with all of them.
            let reach = Reach::of(elf, offset);
            if let Some(reach) = &reach {
                seen = of_unit(offset, Some(reach));
            }
            if !is_whole(seen.as_ref()) && reach.is_none_or(|reach| !reach.is_everything(elf)) {
                self.units.lock().unwrap_or_else(PoisonError::into_inner).remove(&offset);
                seen = of_unit(offset, None);
            }
            if is_whole(seen.as_ref()) {
                return seen;
            }
        }
        let others = self.others.get_or_init(|| unit::spans(&load(elf, None), with_aranges, &fuel));
        match find(others, address) {
            Some(offset) => of_unit(offset, None).or(seen),
            None => seen,
        }
    }

    /// The calls of the function at an address.
    pub fn calls(&self, module: &Module, address: u64, fuel: &Fuel) -> Option<Calls> {
        let elf = self.elf(module)?;
        let of_unit = |offset| {
            let dwarf = self.load(elf, Reach::of(elf, offset).as_ref());
            self.in_unit(&dwarf, module, offset, |view| functions::calls(view, address, fuel)).flatten()
        };
        let (spans, with_aranges) = self.aranges.get_or_init(|| aranges(elf, fuel));
        find(spans, address).and_then(of_unit).or_else(|| {
            let others = self.others.get_or_init(|| unit::spans(&load(elf, None), with_aranges, fuel));
            find(others, address).and_then(of_unit)
        })
    }

    fn load<'a>(&'a self, elf: &'a Elf, reach: Option<&Reach>) -> Dwarf<Slice<'a>> {
        let mut dwarf = load(elf, reach);
        if let Some(alternate) = &self.alternate {
            dwarf.set_sup(load(alternate, None));
        }
        dwarf
    }

    /// Calls with a unit, or with what was split off from it.
    fn in_unit<T>(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        module: &Module,
        offset: usize,
        use_it: impl Fn(&View<'_>) -> T,
    ) -> Option<T> {
        let lock = || self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&offset).cloned();
        let index = known.unwrap_or_else(|| {
            let mut units = lock();
            if units.len() >= UNITS {
                units.clear();
            }
            Arc::clone(units.entry(offset).or_default())
        });
        let header = dwarf.unit_header(DebugInfoOffset(offset)).ok()?;
        let unit = dwarf.unit(header).ok()?;
        let index = &index;
        if unit.dwo_id.is_some()
            && let Some(found) = self.split.with(dwarf, &unit, module.path(), |dwo, inner| {
                use_it(&View { dwarf: dwo, unit: inner, skeleton: Some((dwarf, &unit)), index })
            })
        {
            return Some(found);
        }
        Some(use_it(&View { dwarf, unit: &unit, skeleton: None, index }))
    }
}

/// A unit and where it belongs.
struct View<'a> {
    dwarf: &'a Dwarf<Slice<'a>>,
    unit: &'a Unit<Slice<'a>>,
    /// Where the lines are, if the unit was split off.
    skeleton: Option<(&'a Dwarf<Slice<'a>>, &'a Unit<Slice<'a>>)>,
    index: &'a UnitIndex,
}

/// Whether nothing is left to be found.
fn is_whole(answer: Option<&Answer>) -> bool {
    answer.is_some_and(|answer| answer.symbols.iter().all(|symbol| symbol.function.is_some()))
}

/// The sections that are needed here, of which only the compressed ones cost anything.
fn load<'a>(elf: &'a Elf, reach: Option<&Reach>) -> Dwarf<Slice<'a>> {
    let load = |id: SectionId| -> Result<Slice<'_>, std::convert::Infallible> {
        let wanted = match id {
            SectionId::DebugLoc
            | SectionId::DebugLocLists
            | SectionId::DebugAranges
            | SectionId::DebugMacinfo
            | SectionId::DebugMacro
            | SectionId::DebugNames
            | SectionId::DebugTypes => None,
            SectionId::DebugInfo => Some(reach.map_or(usize::MAX, |reach| reach.info)),
            SectionId::DebugAbbrev => Some(reach.map_or(usize::MAX, |reach| reach.abbreviations)),
            SectionId::DebugLine => Some(reach.map_or(usize::MAX, |reach| reach.lines)),
            _ => Some(usize::MAX),
        };
        let data = wanted.and_then(|wanted| elf.data_up_to(id.name(), wanted));
        Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
    };
    let Ok(dwarf) = Dwarf::load(load);
    dwarf
}

/// The span that an address lies in. Spans may overlap where weak functions were dropped.
fn find(spans: &Spans, address: u64) -> Option<usize> {
    const BACK: usize = 16;
    let behind = spans.partition_point(|span| span.0 <= address);
    spans.get(..behind)?.iter().rev().take(BACK).find(|span| address < span.1).map(|span| span.2)
}

/// What `.debug_aranges` says, and of which units.
fn aranges(elf: &Elf, fuel: &Fuel) -> (Spans, Vec<usize>) {
    let mut spans = Spans::new();
    let mut units = Vec::new();
    let data = elf.data(SectionId::DebugAranges.name()).unwrap_or_default();
    let mut headers = DebugAranges::new(data, LittleEndian).headers();
    while let Ok(Some(header)) = headers.next() {
        let unit = header.debug_info_offset().0;
        let before = spans.len();
        let mut entries = header.entries();
        while let Ok(Some(entry)) = entries.next() {
            if fuel.spend(1).is_none() {
                break;
            }
            if entry.length() != 0 && entry.address() != 0 {
                spans.push((entry.address(), entry.range().end, unit));
            }
        }
        if spans.len() > before {
            units.push(unit);
        }
    }
    spans.sort_unstable();
    units.sort_unstable();
    (spans, units)
}
