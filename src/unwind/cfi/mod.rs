//! Call frame information: finding what applies to an address, once.

mod expression;
mod header;
mod index;
mod rule;

pub(super) use rule::{Failure, Rule};

use super::Module;
use super::arch::Trampoline;
use super::go;
use super::modules::elf::Elf;
use gimli::{BaseAddresses, DebugFrame, EhFrame, EndianSlice, LittleEndian, UnwindSection, Vendor};
use header::Table;
use index::Index;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// How to leave a frame whose address is this.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// By this rule.
    Rule(Arc<Rule>),
    /// It is a signal trampoline.
    Trampoline(Trampoline),
    /// Nothing is known.
    Nothing,
    /// What is known makes no sense.
    Nonsense,
}

/// A module's call frame information and the rules that were made of it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    rules: RwLock<HashMap<(u64, bool), Found>>,
    eh_frame: OnceLock<Index>,
    debug_frame: OnceLock<Index>,
    separate: OnceLock<Index>,
}

/// The cache of a module's rules starts anew when it has so many.
const RULES: usize = 1 << 16;

/// Longer entries are nobody's.
const ENTRY: usize = 1 << 20;

impl Tables {
    /// How to leave a frame at this address (as linked) of the module. `exact`: it is not behind a call.
    /// `trampoline` looks at the code.
    pub fn find(
        &self,
        module: &Module,
        address: u64,
        exact: bool,
        trampoline: impl FnOnce() -> Option<Trampoline>,
    ) -> Found {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = rules.get(&(address, exact)) {
            return found.clone();
        }
        drop(rules);
        let found = match trampoline() {
            // Before all rules: what a return address − 1 falls into may be the function before it.
            Some(trampoline) => Found::Trampoline(trampoline),
            None => self.look_up(module, address),
        };
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.len() >= RULES {
            rules.clear();
        }
        rules.insert((address, exact), found.clone());
        found
    }

    fn look_up(&self, module: &Module, address: u64) -> Found {
        let Some(elf) = module.elf() else { return Found::Nothing };
        self.by_eh_frame(elf, address)
            .or_else(|| by_go(module, elf, address))
            .or_else(|| by_debug_frame(elf, &self.debug_frame, address))
            .or_else(|| by_debug_frame(module.separate()?, &self.separate, address))
            .unwrap_or(Found::Nothing)
    }

    fn by_eh_frame(&self, elf: &Elf, address: u64) -> Option<Found> {
        let word = elf.arch.word();
        let mut bases = BaseAddresses::default();
        for (name, set) in [
            (".text", BaseAddresses::set_text as fn(BaseAddresses, u64) -> BaseAddresses),
            (".got", BaseAddresses::set_got),
        ] {
            if let Some(section) = elf.section(name) {
                bases = set(bases, section.address);
            }
        }
        let table = elf.eh_frame_hdr.and_then(|at| Table::of(elf.at_address(at)?, at));
        let section = elf.section(".eh_frame").filter(|section| !section.file.is_empty());
        let (start, bytes) = match (section, &table) {
            (Some(section), _) => (section.address, elf.data(".eh_frame")?),
            (None, Some(table)) => (table.eh_frame, elf.at_address(table.eh_frame)?),
            (None, None) => return None,
        };
        bases = bases.set_eh_frame(start);
        let mut frame = EhFrame::new(bytes, LittleEndian);
        frame.set_address_size(word);
        frame.set_vendor(vendor(elf));
        if let Some(table) = table {
            let offset = table.find(address)?.into();
            let fde = frame.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).ok()?;
            return fde.contains(address).then(|| found(&frame, &bases, &fde, elf, address));
        }
        let offset = self.eh_frame.get_or_init(|| Index::of(&frame, &bases)).find(address)?;
        let fde = frame.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()?;
        Some(found(&frame, &bases, &fde, elf, address))
    }
}

fn by_go(module: &Module, elf: &Elf, address: u64) -> Option<Found> {
    let rule = match module.go()?.frame(elf, address)? {
        go::Frame::Size(size) => Rule::of_frame_size(elf.arch, size, false)?,
        go::Frame::Interrupted(size) => Rule::of_frame_size(elf.arch, size, true)?,
        go::Frame::Top => Rule::outermost(elf.arch),
        go::Frame::Cgo => Rule::of_cgo(),
        go::Frame::Elsewhere => return None,
    };
    Some(Found::Rule(Arc::new(rule)))
}

fn by_debug_frame(elf: &Elf, index: &OnceLock<Index>, address: u64) -> Option<Found> {
    let bytes = elf.data(".debug_frame").filter(|bytes| !bytes.is_empty())?;
    let bases = BaseAddresses::default();
    let mut frame = DebugFrame::new(bytes, LittleEndian);
    frame.set_address_size(elf.arch.word());
    frame.set_vendor(vendor(elf));
    let offset = index.get_or_init(|| Index::of(&frame, &bases)).find(address)?;
    let fde = frame.fde_from_offset(&bases, offset.into(), DebugFrame::cie_from_offset).ok()?;
    Some(found(&frame, &bases, &fde, elf, address))
}

fn vendor(elf: &Elf) -> Vendor {
    match elf.arch {
        super::Arch::Aarch64 => Vendor::AArch64,
        _ => Vendor::Default,
    }
}

fn found<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    fde: &gimli::FrameDescriptionEntry<Slice<'a>>,
    elf: &Elf,
    address: u64,
) -> Found {
    if fde.entry_len() > ENTRY || fde.cie().entry_len() > ENTRY {
        return Found::Nonsense;
    }
    match Rule::of(section, bases, fde, elf.arch, address) {
        Some(rule) => Found::Rule(Arc::new(rule)),
        None => Found::Nonsense,
    }
}
