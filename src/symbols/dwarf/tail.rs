//! Tail calls: a function that ends by jumping into another leaves no frame behind. Compilers note the calls of a
//! function (`DW_TAG_call_site`, DWARF 5, section 3.4; `DW_TAG_GNU_call_site` before), so that from the function
//! that was called and the one that runs it can be told which lay in between, if only one way leads there.

use super::functions::{HOPS, unit_of};
use super::unit::Code;
use super::{Fuel, Slice};
use gimli::{AttributeValue, Dwarf, Unit, UnitOffset, UnitRef};
use std::collections::HashMap;
use std::rc::Rc;

/// No way is longer, and no search tries more calls.
const DEEPEST: usize = 64;
const TRIED: usize = 10_000;

/// Where a call leads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// To the function of the same module that starts here.
    At(u64),
    /// To a function of that name, which another unit has.
    To(Box<[u8]>),
    /// That is decided when the program runs.
    Unknown,
}

/// One of the modules that are searched, and an address in it.
pub(in crate::symbols) type Spot = (usize, u64);

/// What the symbol tables say of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::symbols) enum Named {
    /// It is here.
    At(Spot),
    /// A module that isn't searched has it.
    Elsewhere,
    /// Nothing.
    Unknown,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    /// The address behind it; 0 if that isn't told.
    back: u64,
    /// It is a jump.
    is_tail: bool,
    target: Target,
}

/// The calls of a function.
#[derive(Debug, Default)]
pub(in crate::symbols) struct Calls {
    /// Where the function is entered.
    start: u64,
    /// All its tail calls are among them.
    complete: bool,
    sites: Vec<Site>,
}

fn is_set(attribute: &gimli::Attribute<Slice<'_>>) -> bool {
    matches!(attribute.value(), AttributeValue::Flag(true))
}

impl Calls {
    /// Of the function of this entry.
    pub(super) fn of<'a>(
        dwarf: &Dwarf<Slice<'a>>,
        unit: UnitRef<'_, Slice<'a>>,
        entry: UnitOffset,
        fuel: &Fuel,
    ) -> Option<Self> {
        let mut calls = Self::default();
        let mut entries = unit.entries_raw(Some(entry)).ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        let mut code = Code::default();
        for specification in abbreviation.attributes() {
            fuel.spend(1)?;
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_call_all_calls
                | gimli::DW_AT_call_all_tail_calls
                | gimli::DW_AT_GNU_all_call_sites
                | gimli::DW_AT_GNU_all_tail_call_sites => calls.complete |= is_set(&attribute),
                _ => code.note(unit, &attribute),
            }
        }
        calls.start = code.start(unit, fuel)?;
        if !abbreviation.has_children() {
            return Some(calls);
        }
        // A function inside of the function, whose calls are its own.
        let mut passing: Option<isize> = None;
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let Some(abbreviation) = entries.read_abbreviation().ok()? else { continue };
            fuel.spend(1)?;
            if depth <= 0 {
                break;
            }
            if passing.is_some_and(|over| depth <= over) {
                passing = None;
            }
            let tag = abbreviation.tag();
            if tag == gimli::DW_TAG_subprogram && passing.is_none() {
                passing = Some(depth);
            }
            let is_call = matches!(tag, gimli::DW_TAG_call_site | gimli::DW_TAG_GNU_call_site);
            if passing.is_some() || !is_call {
                entries.skip_attributes(abbreviation.attributes()).ok()?;
                continue;
            }
            let (mut back, mut is_tail, mut origin, mut computed) = (None, false, None, false);
            for specification in abbreviation.attributes() {
                fuel.spend(1)?;
                let attribute = entries.read_attribute(*specification).ok()?;
                match attribute.name() {
                    gimli::DW_AT_call_return_pc | gimli::DW_AT_low_pc => {
                        back = unit.attr_address(attribute.value()).ok().flatten();
                    }
                    gimli::DW_AT_call_tail_call | gimli::DW_AT_GNU_tail_call => is_tail = is_set(&attribute),
                    gimli::DW_AT_call_origin | gimli::DW_AT_abstract_origin => origin = Some(attribute.value()),
                    gimli::DW_AT_call_target | gimli::DW_AT_GNU_call_site_target => computed = true,
                    _ => {}
                }
            }
            let target = origin.filter(|_| !computed).and_then(|origin| target(dwarf, unit, origin, fuel));
            // Without an address (LLVM gives that of the jump itself) it is a way out all the same.
            let back = back.unwrap_or(0);
            calls.sites.push(Site { back, is_tail, target: target.unwrap_or(Target::Unknown) });
        }
        Some(calls)
    }
}

/// What a reference to a function's entry means.
fn target<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: UnitRef<'_, Slice<'a>>,
    origin: AttributeValue<Slice<'a>>,
    fuel: &Fuel,
) -> Option<Target> {
    let mut other: Option<Unit<Slice<'a>>> = None;
    let mut at = origin;
    let (mut linkage, mut plain, mut is_declaration) = (None, None, false);
    // An entry may be an instance of another, in which the rest stands.
    for _ in 0..HOPS {
        let entry = match at {
            AttributeValue::UnitRef(entry) => entry,
            AttributeValue::DebugInfoRef(offset) => {
                let header = unit_of(dwarf, offset, fuel)?;
                let entry = offset.to_unit_offset(&header)?;
                other = Some(dwarf.unit(header).ok()?);
                entry
            }
            _ => return None,
        };
        let unit = other.as_ref().map_or(unit, |unit| UnitRef::new(dwarf, unit));
        let mut entries = unit.entries_raw(Some(entry)).ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        let mut code = Code::default();
        let mut next = None;
        for specification in abbreviation.attributes() {
            fuel.spend(1)?;
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_declaration => is_declaration |= is_set(&attribute),
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                    linkage = linkage.or(unit.attr_string(attribute.value()).ok());
                }
                gimli::DW_AT_name => plain = plain.or(unit.attr_string(attribute.value()).ok()),
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => next = Some(attribute.value()),
                _ => code.note(unit, &attribute),
            }
        }
        if code.is_some() {
            return code.start(unit, fuel).map(Target::At);
        }
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    linkage.or(plain).filter(|_| is_declaration).map(|name| Target::To(name.slice().into()))
}

/// Nothing certain can be said.
struct Undecided;

/// The ways by which a function can have come to run.
pub(in crate::symbols) struct Search<'a> {
    calls_at: &'a dyn Fn(Spot) -> Option<Calls>,
    named: &'a dyn Fn(&[u8]) -> Named,
    known: HashMap<Spot, Option<Rc<Calls>>>,
    goal: Spot,
    path: Vec<Spot>,
    found: Option<Way>,
    tried: usize,
}

/// A way, and how much of it all ways have in common: so much from its start, so much from its end.
#[derive(Debug)]
struct Way {
    jumps: Vec<Spot>,
    first: usize,
    last: usize,
}

impl<'a> Search<'a> {
    /// For the function that starts at `goal`.
    pub fn new(calls_at: &'a dyn Fn(Spot) -> Option<Calls>, named: &'a dyn Fn(&[u8]) -> Named, goal: Spot) -> Self {
        Self { calls_at, named, known: HashMap::new(), goal, path: Vec::new(), found: None, tried: 0 }
    }

    /// The jumps that lie on all ways from the call before `back`, the innermost first: the addresses behind them.
    pub fn from(mut self, (module, back): Spot) -> Option<Vec<Spot>> {
        let caller = (self.calls_at)((module, back.checked_sub(1)?))?;
        let call = caller.sites.iter().find(|site| site.back == back && !site.is_tail)?;
        self.explore(module, &call.target).ok()?;
        let Way { jumps, first, last } = self.found?;
        if last == jumps.len() {
            return Some(jumps.into_iter().rev().collect());
        }
        let end = jumps.iter().rev().take(last);
        let start = jumps.get(..first)?.iter().rev();
        Some(end.chain(start).copied().collect())
    }

    fn explore(&mut self, module: usize, target: &Target) -> Result<(), Undecided> {
        self.tried = self.tried.saturating_add(1);
        if self.tried > TRIED || self.path.len() > DEEPEST {
            return Err(Undecided);
        }
        let start = match target {
            Target::At(start) => (module, *start),
            Target::To(name) => match (self.named)(name) {
                Named::At(start) => start,
                Named::Elsewhere => return Ok(()),
                Named::Unknown => return Err(Undecided),
            },
            Target::Unknown => return Err(Undecided),
        };
        if start == self.goal {
            return self.arrive();
        }
        let calls_at = self.calls_at;
        let calls = self.known.entry(start).or_insert_with(|| calls_at(start).map(Rc::new)).clone();
        let Some(calls) = calls.filter(|calls| calls.complete && calls.start == start.1) else { return Ok(()) };
        for site in calls.sites.iter().filter(|site| site.is_tail) {
            if site.back == 0 {
                return Err(Undecided);
            }
            let jump = (start.0, site.back);
            if !self.path.contains(&jump) {
                self.path.push(jump);
                self.explore(start.0, &site.target)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn arrive(&mut self) -> Result<(), Undecided> {
        let path = &self.path;
        let Some(way) = &mut self.found else {
            self.found = Some(Way { jumps: path.clone(), first: path.len(), last: path.len() });
            return Ok(());
        };
        let same = |pair: &(&Spot, &Spot)| pair.0 == pair.1;
        way.first = way.jumps.iter().zip(path).take(way.first).take_while(same).count();
        way.last = way.jumps.iter().rev().zip(path.iter().rev()).take(way.last).take_while(same).count();
        if way.first == 0 && way.last == 0 { Err(Undecided) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions by start, with the jumps to others; the address behind a jump is `start * 10 + its number`.
    fn ways(functions: &[(u64, &[u64])], from: u64, goal: u64) -> Option<Vec<u64>> {
        let calls_at = |(_, address): Spot| {
            if address == 999 {
                let call = Site { back: 1000, is_tail: false, target: Target::At(from) };
                return Some(Calls { start: 900, complete: true, sites: vec![call] });
            }
            let (start, targets) = functions.iter().find(|function| function.0 == address)?;
            let sites = targets.iter().zip(1..).map(|(target, number)| Site {
                back: start * 10 + number,
                is_tail: true,
                target: if *target == 0 { Target::Unknown } else { Target::At(*target) },
            });
            Some(Calls { start: *start, complete: true, sites: sites.collect() })
        };
        let found = Search::new(&calls_at, &|_| Named::Unknown, (0, goal)).from((0, 1000));
        found.map(|jumps| jumps.into_iter().map(|(_, back)| back).collect())
    }

    #[test]
    fn one_way() {
        assert_eq!(ways(&[(1, &[2]), (2, &[3])], 1, 3).unwrap(), [21, 11]);
        assert_eq!(ways(&[(1, &[2, 4]), (2, &[3]), (4, &[5])], 1, 3).unwrap(), [21, 11]);
        assert_eq!(ways(&[(1, &[2])], 1, 1).unwrap(), [] as [u64; 0]);
    }

    #[test]
    fn several_ways() {
        // They part and come together: only what they share is certain.
        let parting: &[(u64, &[u64])] = &[(1, &[2]), (2, &[3, 4]), (3, &[5]), (4, &[5]), (5, &[6])];
        assert_eq!(ways(parting, 1, 6).unwrap(), [51, 11]);
        assert_eq!(ways(&[(1, &[2, 3]), (2, &[4]), (3, &[4])], 1, 4), None);
        // Once or more often around.
        assert_eq!(ways(&[(1, &[1, 2])], 1, 2).unwrap(), [12]);
        // One that can't be followed may lead there too.
        assert_eq!(ways(&[(1, &[2, 0])], 1, 2), None);
    }

    #[test]
    fn no_way_and_too_many() {
        assert_eq!(ways(&[(1, &[2])], 1, 3), None);
        let all: Vec<u64> = (1..=30).collect();
        let functions: Vec<_> = all.iter().map(|start| (*start, &*all)).collect();
        assert_eq!(ways(&functions, 1, 99), None);
    }
}
