//! Go programs: the table by which their own runtime walks stacks and names functions.
//!
//! `.gopclntab` is there in stripped programs too. Its form is described in the sources of the runtime
//! (runtime/symtab.go, internal/abi/symtab.go); read are those of Go 1.16 and later. Of each function it gives
//! the name, and by address the size of the frame, the file, the line and what was inlined.
//!
//! A goroutine's frames end at a function with the flag of a top frame (`runtime.goexit`). C code that was
//! called by cgo runs on another stack: `runtime.asmcgocall` has saved the way back.

mod table;

use super::modules::elf::Elf;
use super::{Arch, Module};
use std::ops::Range;
use table::{Table, Version};

/// A function, inlined or not, at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoFunction<'a> {
    /// Its name with package and receiver.
    pub name: &'a [u8],
    /// The source file.
    pub file: Option<&'a [u8]>,
    /// The line in it.
    pub line: Option<u32>,
    /// It was inlined into the next one.
    pub inlined: bool,
}

/// How to leave a frame of a Go function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// The return address stands behind so many bytes from the stack pointer.
    Size(u64),
    /// The same, and what called it was not called but interrupted (`runtime.sigpanic`).
    Interrupted(u64),
    /// It is the outermost.
    Top,
    /// It has changed to another stack, to call C.
    Cgo,
    /// It has changed its stack pointer in ways that nobody has written down.
    Elsewhere,
}

/// Where a program has its table.
#[derive(Debug, Clone)]
pub(super) struct Place {
    section: Range<u64>,
    version: Version,
    /// What addresses of functions are relative to (1.18 and later).
    text: u64,
    /// What places of function data are relative to (1.18 and later), if it can be found.
    data: Option<u64>,
}

/// Deeper inlining is nobody's.
const INLINED: usize = 256;

impl Place {
    pub fn of(elf: &Elf) -> Option<Self> {
        let (address, file) = section(elf)?;
        let bytes = elf.file_range(&file)?;
        let (version, text) = Table::version(bytes, elf.arch.word())?;
        let text = match (version, text) {
            (Version::Go116, _) => 0,
            (_, 0) => relocated(elf, address.checked_add(8)?.checked_add(2 * u64::from(elf.arch.word()))?)?,
            (_, text) => text,
        };
        let data = match version {
            Version::Go116 => Some(0),
            _ => function_data(elf, address, version),
        };
        Some(Self { section: file, version, text, data })
    }

    fn table<'a>(&self, elf: &'a Elf) -> Option<Table<'a>> {
        Table::of(elf.file_range(&self.section)?, self.version, self.text, elf.arch.word())
    }

    /// How to leave the frame of the function at an address.
    pub fn frame(&self, elf: &Elf, address: u64) -> Option<Frame> {
        let table = self.table(elf)?;
        let function = table.function(address)?;
        let name = function.name();
        // The assembler's variant may be named (`.abi0`).
        let name = name.strip_suffix(b".abi0").unwrap_or(name);
        if function.is_top() || matches!(name, b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go") {
            return Some(Frame::Top);
        }
        if name == b"runtime.asmcgocall" && elf.arch == Arch::X86_64 {
            return Some(Frame::Cgo);
        }
        if function.writes_sp() {
            return Some(Frame::Elsewhere);
        }
        let size = u64::try_from(function.frame_size(address)?).ok()?;
        Some(if name == b"runtime.sigpanic" { Frame::Interrupted(size) } else { Frame::Size(size) })
    }

    /// The functions at an address, the innermost inlined one first.
    pub fn functions<'a>(&self, elf: &'a Elf, address: u64) -> Option<Vec<GoFunction<'a>>> {
        let table = self.table(elf)?;
        let function = table.function(address)?;
        let mut found = Vec::new();
        let mut at = address;
        while found.len() < INLINED {
            let (file, line) = (function.file(at), function.line(at));
            let inlined = function.inlined(at).and_then(|index| {
                let start = function.inline_tree(self.data?)?;
                table.inlined(elf.at_address(start)?, index)
            });
            let Some((name, parent)) = inlined else {
                found.push(GoFunction { name: function.name(), file, line, inlined: false });
                return Some(found);
            };
            found.push(GoFunction { name, file, line, inlined: true });
            at = function.entry.checked_add(parent.into())?;
        }
        None
    }
}

/// Where the table begins, as linked, and its bytes in the file.
fn section(elf: &Elf) -> Option<(u64, Range<u64>)> {
    let own = [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| elf.section(name));
    if let Some(section) = own {
        return Some((section.address, section.file.clone()));
    }
    // Other linkers put it together with other things: there it is known by how it begins.
    [".go.buildinfo", ".note.go.buildid"].iter().find_map(|name| elf.section(name))?;
    [".data.rel.ro", ".rodata"].iter().find_map(|name| {
        const ALIGNED: usize = 32;
        let section = elf.section(name)?;
        let bytes = elf.file_range(&section.file)?;
        let skewed = usize::try_from(section.address).ok()? % ALIGNED;
        let first = ALIGNED.checked_sub(skewed)? % ALIGNED;
        (first..bytes.len()).step_by(ALIGNED).find_map(|at| {
            let (version, _) = Table::version(bytes.get(at..)?, elf.arch.word())?;
            Table::of(bytes.get(at..)?, version, 0, elf.arch.word())?;
            let at = at as u64;
            let file = section.file.start.checked_add(at)?..section.file.end;
            Some((section.address.checked_add(at)?, file))
        })
    })
}

/// What a relative relocation puts at an address, as linked: a position-independent program's words are not
/// in the file.
fn relocated(elf: &Elf, address: u64) -> Option<u64> {
    if !elf.is_64 {
        return None;
    }
    let relocations = elf.data(".rela.dyn")?;
    // r_offset, r_info, r_addend
    relocations.chunks_exact(24).find_map(|entry| {
        let word = |at: usize| Some(u64::from_le_bytes(*entry.get(at..)?.first_chunk()?));
        (word(0)? == address).then(|| word(16)).flatten()
    })
}

/// `moduledata.gofunc`: the symbol, or else the word in the structure that begins with a pointer to the table.
fn function_data(elf: &Elf, table: u64, version: Version) -> Option<u64> {
    if let Some(address) = ["go:func.*", "go.func.*"].iter().find_map(|name| elf.symbol(name)) {
        return Some(address);
    }
    let word = u64::from(elf.arch.word());
    let place = match version {
        Version::Go116 => return None,
        Version::Go118 => 38,
        Version::Go120 => 40,
    };
    let at = |address: u64| {
        let bytes = elf.at_address(address)?.get(..word as usize)?;
        let value = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        if value == 0 { relocated(elf, address) } else { Some(value) }
    };
    let needle = table.to_le_bytes();
    let needle = needle.get(..word as usize)?;
    for name in [".noptrdata", ".data", ".go.module"] {
        let Some(section) = elf.section(name) else { continue };
        let Some(bytes) = elf.file_range(&section.file) else { continue };
        let found = bytes.chunks_exact(word as usize).position(|chunk| chunk == needle);
        let relocated = || {
            // The relocation whose addend is the table.
            let relocations = elf.data(".rela.dyn")?.chunks_exact(24);
            let size = section.file.end.checked_sub(section.file.start)?;
            relocations.filter(|entry| entry.get(16..) == Some(&table.to_le_bytes())).find_map(|entry| {
                let offset = u64::from_le_bytes(*entry.first_chunk()?).checked_sub(section.address)?;
                (offset < size).then_some(offset)
            })
        };
        let offset = match found {
            Some(index) => Some(word.checked_mul(index as u64)?),
            None => relocated(),
        };
        if let Some(offset) = offset {
            return at(section.address.checked_add(offset)?.checked_add(word.checked_mul(place)?)?);
        }
    }
    None
}

impl Module {
    /// The Go functions at an address (as linked), the innermost inlined one first.
    pub(crate) fn go_functions(&self, address: u64) -> Option<Vec<GoFunction<'_>>> {
        self.go()?.functions(self.elf()?, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::tests::{Random, rounds};
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn mutilated_tables() {
        let folder = std::env::temp_dir().join(format!("go-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/stacks/frames.go");
        let output = folder.join("program");
        let mut build = Command::new("go");
        build.args(["build", "-ldflags=-s -w", "-o"]).arg(&output).arg(source).current_dir(&folder);
        build.env("GOFLAGS", "-mod=mod").env("GOCACHE", folder.join("cache")).env("GO111MODULE", "off");
        let built = build.status();
        let whole = std::fs::read(&output);
        std::fs::remove_dir_all(&folder).unwrap();
        if !built.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("SOCKSTRACE_WITHOUT").is_some(), "no Go");
            return;
        }
        let whole = whole.unwrap();
        let module = Module::of_bytes("/program", whole.clone());
        let elf = module.elf().unwrap();
        let section = elf.section(".gopclntab").unwrap().file.clone();
        let text = elf.section(".text").unwrap();
        let (start, size) = (text.address, text.file.end - text.file.start);
        let mut random = Random::new(6);
        let named = (0..200).filter(|_| module.go_functions(start + random.next() % size).is_some()).count();
        assert!(named > 150, "{named}");
        for _ in 0..rounds(60) {
            let mut bytes = whole.clone();
            for _ in 0..random.below(200) {
                // The header is where most depends on each byte.
                let length = if random.below(4) == 0 { 72 } else { (section.end - section.start) as usize };
                let at = section.start as usize + random.below(length);
                bytes[at] = random.next() as u8;
            }
            let module = Module::of_bytes("/program", bytes);
            let started = Instant::now();
            for _ in 0..50 {
                let address = start + random.next() % size;
                let _ = module.go_functions(address);
                let _ = module.go().and_then(|place| place.frame(module.elf()?, address));
            }
            assert!(started.elapsed() < Duration::from_secs(5));
        }
    }
}
