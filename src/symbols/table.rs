//! Symbol tables: `.symtab` and `.dynsym`.

use super::names::demangle;
use crate::unwind::Module;
use crate::unwind::modules::elf::Elf;
use std::sync::Arc;

/// Where a symbol's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Module,
    Separate,
    Mini,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    address: u64,
    /// Which of several at the same address is the best: the last.
    rank: u8,
    size: u64,
    source: Source,
    dynamic: bool,
    name: u32,
}

/// The functions of a module by address.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    mini: Option<Elf>,
}

/// More symbols than any program has.
const MOST: usize = 1 << 23;

/// How many symbols are looked at before the one that begins last.
const BACK: usize = 16;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Table {
    pub fn of(module: &Module, mini: Option<Elf>) -> Self {
        let mut entries = Vec::new();
        let mut add = |elf: Option<&Elf>, source, dynamic| {
            elf.and_then(|elf| read(elf, source, dynamic, &mut entries));
        };
        add(module.elf(), Source::Module, false);
        if module.elf().is_some_and(|elf| elf.section(".symtab").is_none()) {
            add(module.separate(), Source::Separate, false);
            add(mini.as_ref(), Source::Mini, false);
            add(module.elf(), Source::Module, true);
        }
        entries.sort_unstable();
        Self { entries, mini }
    }

    /// The function at an address.
    pub fn at(&self, module: &Module, address: u64) -> Option<Arc<str>> {
        let behind = self.entries.partition_point(|entry| entry.address <= address);
        let before = self.entries.get(..behind)?;
        let entry = before
            .iter()
            .rev()
            .take(BACK)
            .find(|entry| address.checked_sub(entry.address).is_some_and(|within| within < entry.size))
            // A label without a size (assembler) reaches to the next symbol, if the table has all of them.
            .or_else(|| before.last().filter(|entry| entry.size == 0 && !entry.dynamic))?;
        // Of several names the one with which a program calls it: `connect`, not `__libc_connect`.
        let names = before.iter().rev().take(BACK).filter(|other| {
            (other.address, other.size) == (entry.address, entry.size) && other.rank / 8 == entry.rank / 8
        });
        let names = names.filter_map(|entry| self.name(module, entry));
        let best = names.min_by_key(|name| name.iter().take_while(|byte| **byte == b'_').count())?;
        Some(demangle_plain(best))
    }

    fn name<'a>(&'a self, module: &'a Module, entry: &Entry) -> Option<&'a [u8]> {
        let elf = match entry.source {
            Source::Module => module.elf(),
            Source::Separate => module.separate(),
            Source::Mini => self.mini.as_ref(),
        }?;
        let table = elf.section(if entry.dynamic { ".dynsym" } else { ".symtab" })?;
        let strings = elf.raw_data(elf.section_at(table.link)?)?;
        let name = strings.get(usize::try_from(entry.name).ok()?..)?.split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then_some(name)
    }
}

/// Without the version of a symbol (`connect@@GLIBC_2.2.5`), as `.symtab` may have it.
fn demangle_plain(name: &[u8]) -> Arc<str> {
    demangle(name.split(|byte| *byte == b'@').next().unwrap_or(name))
}

fn read(elf: &Elf, source: Source, dynamic: bool, entries: &mut Vec<Entry>) -> Option<()> {
    let data = elf.data(if dynamic { ".dynsym" } else { ".symtab" })?;
    let size = if elf.is_64 { 24 } else { 16 };
    for symbol in data.chunks_exact(size).take(MOST) {
        let (info, section, address, size) = if elf.is_64 {
            (*symbol.get(4)?, u16_at(symbol, 6)?, u64_at(symbol, 8)?, u64_at(symbol, 16)?)
        } else {
            let (address, size) = (u32_at(symbol, 4)?, u32_at(symbol, 8)?);
            (*symbol.get(12)?, u16_at(symbol, 14)?, address.into(), size.into())
        };
        let (binding, kind) = (info >> 4, info & 15);
        let is_function = matches!(kind, 2 | 10); // STT_FUNC, STT_GNU_IFUNC
        let is_label = kind == 0 && size == 0 && binding == 1 || kind == 0 && size > 0;
        // SHN_UNDEF, or an absolute value.
        if section == 0 || section == 0xfff1 || !(is_function || is_label) {
            continue;
        }
        let rank = match binding {
            1 => 2, // STB_GLOBAL
            2 => 1, // STB_WEAK
            _ => 0,
        };
        let rank = rank + if is_function { 8 } else { 0 };
        entries.push(Entry { address, rank, size, source, dynamic, name: u32_at(symbol, 0)? });
    }
    Some(())
}
