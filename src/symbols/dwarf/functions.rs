//! The function at an address, and those that were inlined there.

use super::super::names::demangle;
use super::super::{Answer, Symbol};
use super::lines::{self, Lines};
use super::tail::Calls;
use super::unit::Code;
use super::{Fuel, Slice, Spans, View};
use gimli::{AttributeValue, DebugInfoOffset, DwTag, Dwarf, Unit, UnitHeader, UnitOffset, UnitRef};
use std::sync::Arc;

/// References from a function to its declaration are no longer than this.
pub(super) const HOPS: usize = 16;

/// Deeper inlining is nobody's.
const INLINED: usize = 256;

/// The functions at an address of a unit, the innermost inlined one first.
pub(super) fn at(view: &View<'_>, address: u64, fuel: &Fuel) -> Option<Answer> {
    let unit = UnitRef::new(view.dwarf, view.unit);
    let outer = view.skeleton.map_or(unit, |(dwarf, unit)| UnitRef::new(dwarf, unit));
    let lines = view.index.lines.get_or_init(|| Lines::of(outer, fuel));
    let location = lines.as_ref().and_then(|lines| lines.at(address));
    let (mut file, mut line) = match location {
        Some((file, line)) => (lines::file_name(outer, file), line),
        None => (None, None),
    };
    let Some(entry) = function(view, address, fuel) else {
        let symbols = vec![Symbol { function: None, file, line, inlined: false }];
        return location.map(|_| Answer { symbols, start: None });
    };
    let mut symbols = Vec::new();
    // The call sites name files by the table that belongs to the unit itself.
    let files = if unit.line_program.is_some() { unit } else { outer };
    for inlined in inlined(unit, entry, address, fuel).unwrap_or_default().into_iter().rev() {
        let function = name(view.dwarf, unit, inlined.entry, fuel);
        symbols.push(Symbol { function, file, line, inlined: true });
        (file, line) = (inlined.file.and_then(|file| lines::file_name(files, file)), inlined.line);
    }
    symbols.push(Symbol { function: name(view.dwarf, unit, entry, fuel), file, line, inlined: false });
    Some(Answer { symbols, start: start(unit, entry, fuel) })
}

/// The calls of the function at an address.
pub(super) fn calls(view: &View<'_>, address: u64, fuel: &Fuel) -> Option<Calls> {
    let entry = function(view, address, fuel)?;
    Calls::of(view.dwarf, UnitRef::new(view.dwarf, view.unit), entry, fuel)
}

/// The entry of the function that the code at an address belongs to.
fn function(view: &View<'_>, address: u64, fuel: &Fuel) -> Option<UnitOffset> {
    let unit = UnitRef::new(view.dwarf, view.unit);
    let functions = view.index.functions.get_or_init(|| functions(unit, false, fuel).unwrap_or_default());
    let entry = super::find(functions, address).or_else(|| {
        let nested = view.index.nested.get_or_init(|| self::functions(unit, true, fuel).unwrap_or_default());
        super::find(nested, address)
    })?;
    Some(UnitOffset(entry))
}

/// Where a function is entered.
fn start(unit: UnitRef<'_, Slice<'_>>, entry: UnitOffset, fuel: &Fuel) -> Option<u64> {
    let mut entries = unit.entries_raw(Some(entry)).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    fuel.spend(abbreviation.attributes().len() as u64)?;
    let mut code = Code::default();
    for specification in abbreviation.attributes() {
        code.note(unit, &entries.read_attribute(*specification).ok()?);
    }
    code.start(unit, fuel)
}

/// Whether functions may be found under an entry of this kind.
fn holds_functions(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_compile_unit
            | gimli::DW_TAG_partial_unit
            | gimli::DW_TAG_skeleton_unit
            | gimli::DW_TAG_namespace
            | gimli::DW_TAG_module
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_enumeration_type
            | gimli::DW_TAG_interface_type
    )
}

/// All functions of a unit that have code; `nested`: those inside of functions too.
fn functions(unit: UnitRef<'_, Slice<'_>>, nested: bool, fuel: &Fuel) -> Option<Spans> {
    let mut spans = Spans::new();
    let mut entries = unit.entries_raw(None).ok()?;
    while !entries.is_empty() {
        let offset = entries.next_offset();
        let Some(abbreviation) = entries.read_abbreviation().ok()? else { continue };
        fuel.spend(1)?;
        let is_function = abbreviation.tag() == gimli::DW_TAG_subprogram;
        let skip = abbreviation.has_children() && !nested && !holds_functions(abbreviation.tag());
        if !is_function && !skip {
            entries.skip_attributes(abbreviation.attributes()).ok()?;
            continue;
        }
        let mut code = Code::default();
        let mut sibling = None;
        fuel.spend(abbreviation.attributes().len() as u64)?;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification).ok()?;
            if attribute.name() == gimli::DW_AT_sibling {
                sibling = Some(attribute.value());
            } else if is_function {
                code.note(unit, &attribute);
            }
        }
        if is_function && code.is_some() {
            code.each(unit, fuel, |begin, end| {
                spans.push((begin, end, offset.0));
                true
            });
        }
        if skip
            && let Some(AttributeValue::UnitRef(sibling)) = sibling
            && sibling.0 > entries.next_offset().0
            && let Ok(behind) = unit.entries_raw(Some(sibling))
        {
            entries = behind;
        }
    }
    spans.sort_unstable();
    Some(spans)
}

/// An inlined function and its call site.
struct Inlined {
    entry: UnitOffset,
    file: Option<u64>,
    line: Option<u32>,
}

/// The functions that were inlined into this one at an address, the outermost first.
fn inlined(unit: UnitRef<'_, Slice<'_>>, function: UnitOffset, address: u64, fuel: &Fuel) -> Option<Vec<Inlined>> {
    let mut found = Vec::new();
    let mut entries = unit.entries_raw(Some(function)).ok()?;
    let mut entered = false;
    // Where the entries that are read stand relative to the function; a jump begins to count anew.
    let mut base = 0_isize;
    // The scope that the address is known to lie in, and one to be passed over.
    let mut scope = 0_isize;
    let mut passing: Option<isize> = None;
    while !entries.is_empty() && found.len() < INLINED {
        let depth = base.checked_add(entries.next_depth())?;
        let offset = entries.next_offset();
        let Some(abbreviation) = entries.read_abbreviation().ok()? else {
            continue;
        };
        fuel.spend(1)?;
        if entered && depth <= scope {
            break; // Nothing behind the innermost scope can hold the address as well.
        }
        if let Some(over) = passing {
            if depth > over {
                entries.skip_attributes(abbreviation.attributes()).ok()?;
                continue;
            }
            passing = None;
        }
        if !entered {
            entered = true;
            entries.skip_attributes(abbreviation.attributes()).ok()?;
            continue;
        }
        let is_inlined = abbreviation.tag() == gimli::DW_TAG_inlined_subroutine;
        let is_scope = is_inlined || abbreviation.tag() == gimli::DW_TAG_lexical_block;
        if !is_scope && !abbreviation.has_children() {
            entries.skip_attributes(abbreviation.attributes()).ok()?;
            continue;
        }
        let mut code = Code::default();
        let mut sibling = None;
        let (mut file, mut line) = (None, None);
        fuel.spend(abbreviation.attributes().len() as u64)?;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_sibling => sibling = Some(attribute.value()),
                gimli::DW_AT_call_file => {
                    file = match attribute.value() {
                        AttributeValue::FileIndex(index) => Some(index),
                        value => value.udata_value(),
                    }
                }
                gimli::DW_AT_call_line => line = attribute.udata_value().and_then(|line| u32::try_from(line).ok()),
                _ => code.note(unit, &attribute),
            }
        }
        if is_scope && code.contains(unit, address, fuel) {
            if is_inlined {
                found.push(Inlined { entry: offset, file, line });
            }
            scope = depth;
        } else if is_scope && !is_inlined && !code.is_some() {
            // A block without addresses of its own is just looked through.
        } else if abbreviation.has_children() {
            match sibling {
                Some(AttributeValue::UnitRef(sibling)) if sibling.0 > entries.next_offset().0 => {
                    entries = unit.entries_raw(Some(sibling)).ok()?;
                    base = depth;
                }
                _ => passing = Some(depth),
            }
        }
    }
    Some(found)
}

/// The name of a function: of itself, or of what it is an instance or the definition of.
fn name<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: UnitRef<'_, Slice<'a>>,
    entry: UnitOffset,
    fuel: &Fuel,
) -> Option<Arc<str>> {
    let (mut plain, mut scopes): (Option<Slice<'a>>, Option<String>) = (None, None);
    let mut at = At::Here(entry);
    // Entries of other units are reached by units that are made for them.
    let mut other: Option<(&Dwarf<Slice<'a>>, Unit<Slice<'a>>)> = None;
    for _ in 0..HOPS {
        let entry = match at {
            At::Here(entry) => entry,
            At::Elsewhere(offset) => {
                let dwarf = other.as_ref().map_or(dwarf, |(dwarf, _)| dwarf);
                let header = unit_of(dwarf, offset, fuel)?;
                let entry = offset.to_unit_offset(&header)?;
                let unit = dwarf.unit(header).ok()?;
                other = Some((dwarf, unit));
                entry
            }
            At::Alternate(offset) => {
                let dwarf = other.as_ref().map_or(dwarf, |(dwarf, _)| dwarf).sup()?;
                let header = unit_of(dwarf, offset, fuel)?;
                let entry = offset.to_unit_offset(&header)?;
                let unit = dwarf.unit(header).ok()?;
                other = Some((dwarf, unit));
                entry
            }
        };
        let unit = other.as_ref().map_or(unit, |(dwarf, unit)| UnitRef::new(dwarf, unit));
        let mut entries = unit.entries_raw(Some(entry)).ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        fuel.spend(abbreviation.attributes().len() as u64)?;
        let mut next = None;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                    if let Ok(name) = unit.attr_string(attribute.value()) {
                        return Some(demangle(name.slice()));
                    }
                }
                gimli::DW_AT_name if plain.is_none() => plain = unit.attr_string(attribute.value()).ok(),
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => next = Some(attribute.value()),
                _ => {}
            }
        }
        if scopes.is_none() && plain.is_some() {
            scopes = Some(scope(unit, entry, fuel).unwrap_or_default());
        }
        at = match next {
            Some(AttributeValue::UnitRef(offset)) => At::Here(offset),
            Some(AttributeValue::DebugInfoRef(offset)) => At::Elsewhere(offset),
            Some(AttributeValue::DebugInfoRefSup(offset)) => At::Alternate(offset),
            _ => break,
        };
    }
    let name = String::from_utf8_lossy(plain?.slice());
    Some(scopes.map_or_else(|| name.as_ref().into(), |scopes| format!("{scopes}{name}").into()))
}

/// Whether functions have the names of what they are declared in.
fn has_scopes(unit: UnitRef<'_, Slice<'_>>) -> Option<bool> {
    let mut entries = unit.entries_raw(None).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        if attribute.name() == gimli::DW_AT_language {
            return Some(matches!(
                attribute.value(),
                AttributeValue::Language(
                    gimli::DW_LANG_C_plus_plus
                        | gimli::DW_LANG_C_plus_plus_03
                        | gimli::DW_LANG_C_plus_plus_11
                        | gimli::DW_LANG_C_plus_plus_14
                        | gimli::DW_LANG_C_plus_plus_17
                        | gimli::DW_LANG_C_plus_plus_20
                        | gimli::DW_LANG_Rust
                )
            ));
        }
    }
    Some(false)
}

/// The namespaces and classes around an entry: `outer::Class::`. Functions that no other unit can see have no
/// linkage name to tell.
fn scope(unit: UnitRef<'_, Slice<'_>>, target: UnitOffset, fuel: &Fuel) -> Option<String> {
    const DEEPEST: usize = 64;
    if !has_scopes(unit)? {
        return None;
    }
    let mut around: Vec<(isize, Option<String>)> = Vec::new();
    let mut entries = unit.entries_raw(None).ok()?;
    let mut base = 0_isize;
    while !entries.is_empty() && entries.next_offset() < target {
        let depth = base.checked_add(entries.next_depth())?;
        let Some(abbreviation) = entries.read_abbreviation().ok()? else { continue };
        fuel.spend(1)?;
        while around.last().is_some_and(|(outer, _)| *outer >= depth) {
            around.pop();
        }
        if !abbreviation.has_children() || around.len() >= DEEPEST {
            entries.skip_attributes(abbreviation.attributes()).ok()?;
            continue;
        }
        let (mut name, mut sibling) = (None, None);
        fuel.spend(abbreviation.attributes().len() as u64)?;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_sibling => sibling = Some(attribute.value()),
                gimli::DW_AT_name => name = unit.attr_string(attribute.value()).ok(),
                _ => {}
            }
        }
        if let Some(AttributeValue::UnitRef(sibling)) = sibling
            && sibling > entries.next_offset()
            && sibling <= target
        {
            entries = unit.entries_raw(Some(sibling)).ok()?;
            base = depth;
            continue;
        }
        let tag = abbreviation.tag();
        let named = holds_functions(tag) && depth > 0;
        around.push((
            depth,
            named.then(|| match name {
                Some(name) => String::from_utf8_lossy(name.slice()).into_owned(),
                None if tag == gimli::DW_TAG_namespace => "(anonymous namespace)".to_owned(),
                None => "(anonymous class)".to_owned(),
            }),
        ));
    }
    let depth = base.checked_add(entries.next_depth())?;
    let scopes = around.iter().filter(|(outer, _)| *outer < depth).filter_map(|(_, name)| name.as_deref());
    Some(scopes.fold(String::new(), |text, name| text + name + "::"))
}

enum At {
    Here(UnitOffset),
    Elsewhere(DebugInfoOffset),
    Alternate(DebugInfoOffset),
}

/// The header of the unit that an entry lies in.
pub(super) fn unit_of<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    offset: DebugInfoOffset,
    fuel: &Fuel,
) -> Option<UnitHeader<Slice<'a>>> {
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().ok()? {
        fuel.spend(1)?;
        if offset.to_unit_offset(&header).is_some() {
            return Some(header);
        }
    }
    None
}
