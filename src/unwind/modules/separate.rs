//! Debug information in a file of its own.

use super::elf::{Bytes, Elf};
use super::open;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

const DEBUG: &str = "/usr/lib/debug";

/// What `.gnu_debugdata` may grow to.
const MINI: u64 = 64 << 20;
const BUFFER: NonZeroUsize = NonZeroUsize::MIN.saturating_add(0xffff);

/// `/usr/lib/debug/.build-id/xx/yyyy.debug`.
fn by_build_id(id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first()?;
    Some(PathBuf::from(format!("{DEBUG}/.build-id/{first:02x}/{}.debug", super::hex(rest))))
}

/// Where `debuginfod-find` and others have put what they fetched before (debuginfod_find_debuginfo(3)). Nothing
/// is fetched here: a leak detector makes no connections of its own.
fn fetched(id: &[u8]) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DEBUGINFOD_CACHE_PATH")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("debuginfod_client")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/debuginfod_client")))?;
    Some(folder.join(super::hex(id)).join("debuginfo"))
}

/// The debug file of a module: by build-id, which it must have, on the system or among what was fetched before;
/// else by `.gnu_debuglink`, with its checksum.
#[must_use]
pub fn find(module: &Elf, path: &str) -> Option<Elf> {
    if let Some(id) = &module.build_id {
        let paths = [by_build_id(id), fetched(id)];
        let same = |elf: &Elf| elf.build_id.as_ref() == Some(id);
        if let Some(elf) = paths.iter().flatten().find_map(|path| open::elf(path).filter(same)) {
            return Some(elf);
        }
    }
    let section = module.data(".gnu_debuglink")?;
    let name = section.split(|byte| *byte == 0).next()?;
    let at = name.len().checked_add(4)? & !3;
    let wanted = u32::from_le_bytes(*section.get(at..)?.first_chunk()?);
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('/'))?;
    let folder = Path::new(path).parent().filter(|folder| folder.is_absolute())?;
    let inside = Path::new(DEBUG).join(folder.strip_prefix("/").ok()?);
    [folder.join(name), folder.join(".debug").join(name), inside.join(name)].iter().find_map(|candidate| {
        let elf = open::elf(candidate)?;
        let same = match (&elf.build_id, &module.build_id) {
            (Some(its), Some(ours)) => its == ours,
            _ => crc32(elf.bytes()) == wanted,
        };
        same.then_some(elf)
    })
}

/// The file that `.gnu_debugaltlink` of a debug file names (what `dwz` shares between several).
#[must_use]
pub fn alternate(debug: &Elf, path: &str) -> Option<Elf> {
    let section = debug.data(".gnu_debugaltlink")?;
    let name = section.split(|byte| *byte == 0).next()?;
    let id = section.get(name.len().checked_add(1)?..)?;
    let name = Path::new(std::str::from_utf8(name).ok()?);
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    let usual = by_build_id(id);
    let candidates = [usual, Some(folder.join(name)), Some(Path::new(DEBUG).join(".dwz").join(name.file_name()?))];
    candidates
        .into_iter()
        .flatten()
        .find_map(|candidate| open::elf(&candidate).filter(|elf| elf.build_id.as_deref() == Some(id)))
}

/// The symbol table that is compressed in `.gnu_debugdata`.
#[must_use]
pub fn mini(module: &Elf) -> Option<Elf> {
    let packed = std::io::Cursor::new(module.data(".gnu_debugdata")?.to_vec());
    let decoder = xz4rust::XzDecoder::in_heap_with_alloc_dict_size(1 << 16, MINI as usize);
    let mut reader = xz4rust::XzReader::new_with_buffer_size_and_decoder(packed, BUFFER, decoder);
    let mut bytes = Vec::new();
    reader.by_ref().take(MINI).read_to_end(&mut bytes).ok()?;
    Elf::parse(Bytes::Owned(bytes))
}

/// The checksum of `.gnu_debuglink`.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
