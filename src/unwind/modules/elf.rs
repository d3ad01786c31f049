//! An ELF file, as far as unwinding and symbols need it: mapped rather than read, and parsed once.

use super::copy::FileCopy;
use super::guard::FileMap;
use super::inflate::Inflated;
use super::mounts;
use crate::unwind::Arch;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{CompressionHeader as _, FileHeader, ProgramHeader as _, SectionHeader as _};
use object::{CompressedData, CompressionFormat, Endianness};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// No section that is decompressed may be larger, nor grow by a larger factor than zlib can.
const DECOMPRESSED: u64 = 2 << 30;
const FACTOR: u64 = 1100;

/// Where the bytes are.
pub enum Bytes {
    /// A mapped file.
    Mapped(FileMap),
    /// A copied one.
    Copied(FileCopy),
    /// Read from memory, or decompressed.
    Owned(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Copied(copy) => copy,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A loaded part of the file.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The address that the file was linked for.
    pub address: u64,
    /// Its bytes in the file.
    pub file: Range<u64>,
    /// It is code.
    pub executable: bool,
}

/// A section.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its address, 0 if it isn't loaded.
    pub address: u64,
    /// Its bytes in the file; empty where it has none (SHT_NOBITS).
    pub file: Range<u64>,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_link`.
    pub link: u32,
    compression: Option<(CompressionFormat, u64, u64)>,
}

/// A section's contents that are not as they stand in the file.
enum Contents {
    Whole(Vec<u8>),
    Growing(Inflated),
}

/// An ELF file.
pub struct Elf {
    bytes: Bytes,
    /// The machine.
    pub arch: Arch,
    /// 64 bits rather than 32.
    pub is_64: bool,
    /// The loaded segments.
    pub segments: Vec<Segment>,
    /// `PT_GNU_EH_FRAME`: its address.
    pub eh_frame_hdr: Option<u64>,
    sections: Vec<Section>,
    by_name: HashMap<String, usize>,
    decompressed: Vec<OnceLock<Option<Contents>>>,
    /// The build-id, where there is one.
    pub build_id: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for Elf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Elf").field("arch", &self.arch).field("build_id", &self.build_id).finish_non_exhaustive()
    }
}

impl Elf {
    /// Parses an open file: maps it where its file system lasts, copies it elsewhere, which may last for ever. `None` if
    /// it is no ELF file of a machine that we know.
    #[must_use]
    pub fn of_file(file: &File) -> Option<Self> {
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        Self::parse(if mounts::holds(file) {
            Bytes::Mapped(FileMap::of(file).ok()?)
        } else {
            Bytes::Copied(FileCopy::of(file).ok()?)
        })
    }

    /// Parses bytes. `None` if they are no ELF file of a machine that we know.
    #[must_use]
    pub fn parse(bytes: Bytes) -> Option<Self> {
        let head = bytes.get().get(..6)?;
        if head.get(..4)? != elf::ELFMAG || head.get(5) != Some(&elf::ELFDATA2LSB.0) {
            return None;
        }
        let is_64 = head.get(4) == Some(&elf::ELFCLASS64.0);
        let parsed = if is_64 {
            Parsed::of::<FileHeader64<Endianness>>(bytes.get())?
        } else {
            Parsed::of::<FileHeader32<Endianness>>(bytes.get())?
        };
        let mut by_name = HashMap::with_capacity(parsed.sections.len());
        for (index, section) in parsed.sections.iter().enumerate() {
            by_name.entry(section.name.clone()).or_insert(index);
        }
        Some(Self {
            arch: Arch::of_elf(parsed.machine)?,
            is_64,
            segments: parsed.segments,
            eh_frame_hdr: parsed.eh_frame_hdr,
            by_name,
            decompressed: parsed.sections.iter().map(|_| OnceLock::new()).collect(),
            sections: parsed.sections,
            build_id: parsed.build_id,
            bytes,
        })
    }

    /// All bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get()
    }

    /// Bytes by their place in the file.
    #[must_use]
    pub fn file_range(&self, range: &Range<u64>) -> Option<&[u8]> {
        self.bytes().get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// A section by name (the first of that name).
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(*self.by_name.get(name)?)
    }

    /// A section by number.
    #[must_use]
    pub fn section_at(&self, index: u32) -> Option<&Section> {
        self.sections.get(usize::try_from(index).ok()?)
    }

    /// The contents of a section, decompressed if need be, once.
    #[must_use]
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        self.data_up_to(name, usize::MAX)
    }

    /// The contents of a section from its start to at least `wanted`, if it has so many: what is compressed
    /// is inflated no further.
    #[must_use]
    pub fn data_up_to(&self, name: &str, wanted: usize) -> Option<&[u8]> {
        let index = *self.by_name.get(name)?;
        let section = self.sections.get(index)?;
        let raw = self.file_range(&section.file)?;
        let Some((format, header, size)) = section.compression else { return Some(raw) };
        let packed = raw.get(usize::try_from(header).ok()?..)?;
        match self.decompressed.get(index)?.get_or_init(|| contents(packed, format, size)).as_ref()? {
            Contents::Whole(bytes) => Some(bytes),
            Contents::Growing(inflated) => {
                let bytes = inflated.up_to(packed, wanted);
                (bytes.len() >= wanted.min(inflated.size())).then_some(bytes)
            }
        }
    }

    /// The size of a section's contents, and whether they have to be decompressed.
    #[must_use]
    pub fn data_size(&self, name: &str) -> Option<(u64, bool)> {
        let section = self.section(name)?;
        Some(match section.compression {
            Some((_, _, size)) => (size, true),
            None => (section.file.end.saturating_sub(section.file.start), false),
        })
    }

    /// The bytes of a section as they stand in the file.
    #[must_use]
    pub fn raw_data(&self, section: &Section) -> Option<&[u8]> {
        self.file_range(&section.file)
    }

    /// The value of a defined symbol of the dynamic symbol table.
    #[must_use]
    pub fn dynamic_symbol(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        self.symbol_of(".dynsym", name.as_ref(), true)
    }

    /// The value of a defined symbol of the full symbol table.
    #[must_use]
    pub fn symbol(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        self.symbol_of(".symtab", name.as_ref(), true)
    }

    /// Whether the dynamic symbol table wants a symbol from another file.
    #[must_use]
    pub fn imports(&self, name: impl AsRef<[u8]>) -> bool {
        self.symbol_of(".dynsym", name.as_ref(), false).is_some()
    }

    fn symbol_of(&self, table: &str, name: &[u8], is_defined: bool) -> Option<u64> {
        let table = self.section(table)?;
        let (symbols, strings) = (self.raw_data(table)?, self.raw_data(self.section_at(table.link)?)?);
        let size = if self.is_64 { 24 } else { 16 };
        symbols.chunks_exact(size).find_map(|symbol| {
            let at = u32::from_le_bytes(*symbol.first_chunk()?);
            let found = strings.get(usize::try_from(at).ok()?..)?.strip_prefix(name)?.first();
            // The full table may have the version behind the name: `name@@GLIBC_2.2.5`.
            let found = matches!(found, Some(0 | b'@'));
            let (section, value) = if self.is_64 {
                (symbol.get(6..8)?, u64::from_le_bytes(*symbol.get(8..)?.first_chunk()?))
            } else {
                (symbol.get(14..16)?, u32::from_le_bytes(*symbol.get(4..)?.first_chunk()?).into())
            };
            (found && (section != [0, 0]) == is_defined).then_some(value)
        })
    }

    /// The address, as linked, of a place in the file (by the executable segment, if two share a page).
    #[must_use]
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| segment.file.contains(&offset);
        let segment = self
            .segments
            .iter()
            .filter(holds)
            .find(|segment| segment.executable)
            .or_else(|| self.segments.iter().find(holds))?;
        segment.address.checked_add(offset.checked_sub(segment.file.start)?)
    }

    /// The bytes of a loaded segment from this address, as linked, to the segment's end.
    #[must_use]
    pub fn at_address(&self, address: u64) -> Option<&[u8]> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            let from = segment.file.start.checked_add(within)?;
            if from >= segment.file.end { None } else { self.file_range(&(from..segment.file.end)) }
        })
    }
}

fn contents(data: &[u8], format: CompressionFormat, size: u64) -> Option<Contents> {
    if size > DECOMPRESSED || size > (data.len() as u64).saturating_add(64).saturating_mul(FACTOR) {
        return None;
    }
    if format == CompressionFormat::Zlib {
        return Some(Contents::Growing(Inflated::new(usize::try_from(size).ok()?)));
    }
    match (CompressedData { format, data, uncompressed_size: size }).decompress().ok()? {
        Cow::Owned(bytes) => Some(Contents::Whole(bytes)),
        Cow::Borrowed(bytes) => Some(Contents::Whole(bytes.to_vec())),
    }
}

struct Parsed {
    machine: u16,
    segments: Vec<Segment>,
    eh_frame_hdr: Option<u64>,
    sections: Vec<Section>,
    build_id: Option<Arc<[u8]>>,
}

impl Parsed {
    fn of<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<Self> {
        let header = H::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let mut parsed = Self {
            machine: header.e_machine(endian).0,
            segments: Vec::new(),
            eh_frame_hdr: None,
            sections: Vec::new(),
            build_id: None,
        };
        // What is read from a process's memory may have lost either table.
        for program in header.program_headers(endian, data).unwrap_or_default() {
            let (offset, size) = program.file_range(endian);
            match program.p_type(endian) {
                elf::PT_LOAD => parsed.segments.push(Segment {
                    address: program.p_vaddr(endian).into(),
                    file: offset..offset.saturating_add(size),
                    executable: program.p_flags(endian).0 & elf::PF_X.0 != 0,
                }),
                elf::PT_GNU_EH_FRAME => parsed.eh_frame_hdr = Some(program.p_vaddr(endian).into()),
                elf::PT_NOTE if parsed.build_id.is_none() => {
                    if let Ok(Some(notes)) = program.notes(endian, data) {
                        parsed.build_id = build_id::<H>(endian, notes);
                    }
                }
                _ => {}
            }
        }
        if let Ok(sections) = header.sections(endian, data) {
            for section in sections.iter() {
                let name = sections.section_name(endian, section).unwrap_or_default();
                let (offset, size) = section.file_range(endian).unwrap_or_default();
                let range = offset..offset.saturating_add(size);
                if let Some(section) = gnu_compressed(name, data, &range) {
                    parsed.sections.push(section);
                    continue;
                }
                parsed.sections.push(Section {
                    name: String::from_utf8_lossy(name).into_owned(),
                    address: section.sh_addr(endian).into(),
                    file: range,
                    kind: section.sh_type(endian).0,
                    link: section.sh_link(endian),
                    compression: compression::<H>(endian, data, section),
                });
                if parsed.build_id.is_none()
                    && let Ok(Some(notes)) = section.notes(endian, data)
                {
                    parsed.build_id = build_id::<H>(endian, notes);
                }
            }
        }
        Some(parsed)
    }
}

/// `.zdebug_…`, as sections were compressed before there was a flag for it: `ZLIB`, and the size in eight bytes,
/// the highest first.
fn gnu_compressed(name: &[u8], data: &[u8], file: &Range<u64>) -> Option<Section> {
    let name = format!(".debug_{}", str::from_utf8(name.strip_prefix(b".zdebug_")?).ok()?);
    let head = data.get(usize::try_from(file.start).ok()?..)?.strip_prefix(b"ZLIB")?;
    let size = u64::from_be_bytes(*head.first_chunk()?);
    let compression = Some((CompressionFormat::Zlib, 12, size));
    Some(Section { name, address: 0, file: file.clone(), kind: elf::SHT_PROGBITS.0, link: 0, compression })
}

fn compression<H: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    data: &[u8],
    section: &H::SectionHeader,
) -> Option<(CompressionFormat, u64, u64)> {
    let (header, offset, _) = section.compression(endian, data).ok()??;
    let format = match header.ch_type(endian) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => CompressionFormat::Unknown,
    };
    let begin: u64 = section.sh_offset(endian).into();
    Some((format, offset.checked_sub(begin)?, header.ch_size(endian).into()))
}

fn build_id<H: FileHeader>(
    endian: H::Endian,
    mut notes: object::read::elf::NoteIterator<'_, H>,
) -> Option<Arc<[u8]>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            // The usual ones have 8, 16 or 20 bytes.
            return (2..=64).contains(&note.desc().len()).then(|| note.desc().into());
        }
    }
    None
}
