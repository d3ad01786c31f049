//! `/proc/PID/maps`.

use super::query::Query;
use nix::unistd::Pid;
use std::io::{self, Read};
use std::sync::Arc;

/// A mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// It may be executed.
    pub executable: bool,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device, as (major, minor).
    pub device: (u32, u32),
    /// The file's inode; 0 where there is no file.
    pub inode: u64,
    /// The path as the kernel gives it, without ` (deleted)`; `[vdso]` and the like; or empty.
    pub path: Arc<str>,
    /// The kernel says that the file has no name any more.
    pub deleted: bool,
}

/// The mappings of a process at one moment, ordered by address.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    mappings: Vec<Mapping>,
}

impl Maps {
    /// A process may have 65,530 mappings unless its administrator raised vm.max_map_count; more is not read.
    pub(super) const MOST: usize = 1 << 18;

    /// Reads the mappings of a process.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let mut text = Vec::with_capacity(16 << 10);
        // A file of the kernel's that stays within MOST lines of at most some 4200 bytes.
        std::fs::File::open(format!("/proc/{pid}/maps"))?.take(256 << 20).read_to_end(&mut text)?;
        if text.is_empty() {
            // A process without memory: it is ending.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Self::parse(&text))
    }

    /// Parses the text of `/proc/PID/maps`. Lines that make no sense are skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut mappings: Vec<Mapping> = Vec::new();
        for line in text.split(|byte| *byte == b'\n').take(Self::MOST) {
            let previous = mappings.last().map(|mapping| (&mapping.path, mapping.deleted));
            let Some(mapping) = parse_line(line, previous) else { continue };
            if mapping.start < mapping.end {
                mappings.push(mapping);
            }
        }
        // The kernel gives them in order, one line at a time; a mapping may have changed between two reads.
        mappings.into_iter().collect()
    }

    /// What is mapped at an address of our own.
    pub(super) fn shown(address: u64) -> Option<Mapping> {
        let own = Pid::this();
        match Query::of(own).ok()? {
            Some(query) => query.at(address),
            None => Self::of(own).ok()?.find(address).map(|(_, mapping)| mapping.clone()),
        }
    }

    /// All mappings.
    #[must_use]
    pub fn all(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The number and the mapping that an address lies in.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(usize, &Mapping)> {
        let index = self.mappings.partition_point(|mapping| mapping.start <= address).checked_sub(1)?;
        let mapping = self.mappings.get(index)?;
        (address < mapping.end).then_some((index, mapping))
    }
}

impl FromIterator<Mapping> for Maps {
    fn from_iter<I: IntoIterator<Item = Mapping>>(mappings: I) -> Self {
        let mut mappings: Vec<Mapping> = mappings.into_iter().collect();
        mappings.sort_by_key(|mapping| mapping.start);
        Self { mappings }
    }
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// `start-end rwxp offset major:minor inode    path`
fn parse_line(line: &[u8], previous: Option<(&Arc<str>, bool)>) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut range = fields.next()?.splitn(2, |byte| *byte == b'-');
    let (start, end) = (number(range.next()?, 16)?, number(range.next()?, 16)?);
    let executable = fields.next()?.get(2) == Some(&b'x');
    let offset = number(fields.next()?, 16)?;
    let mut device = fields.next()?.splitn(2, |byte| *byte == b':');
    let device = (number(device.next()?, 16)? as u32, number(device.next()?, 16)? as u32);
    let inode = number(fields.next()?, 10)?;
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) if inode != 0 => (path, true),
        _ => (path, false),
    };
    // Most mappings have the path of the one before: share it.
    let path = match previous {
        Some((known, same)) if same == deleted && known.as_bytes() == path => Arc::clone(known),
        _ => String::from_utf8_lossy(path).into(),
    };
    Some(Mapping { start, end, executable, offset, device, inode, path, deleted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let maps = Maps::parse(
            b"00400000-00401000 r--p 00000000 fe:01 99                         /bin/a b (deleted)\n\
              00401000-00402000 r-xp 00001000 fe:01 99                         /bin/a b (deleted)\n\
              garbage\n\
              7ffd0000-7ffd1000 r-xp 00000000 00:00 0                          [vdso]\n\
              7fff0000-7fff1000 rw-p 00000000 00:00 0 \n",
        );
        assert_eq!(maps.all().len(), 4);
        let (index, mapping) = maps.find(0x0040_1fff).unwrap();
        assert_eq!(index, 1);
        assert_eq!((&*mapping.path, mapping.deleted, mapping.executable), ("/bin/a b", true, true));
        assert_eq!((mapping.offset, mapping.device, mapping.inode), (0x1000, (0xfe, 1), 99));
        assert_eq!(&*maps.find(0x7ffd_0000).unwrap().1.path, "[vdso]");
        assert_eq!(&*maps.find(0x7fff_0000).unwrap().1.path, "");
        assert!(maps.find(0x0040_2000).is_none());
        assert!(maps.find(0).is_none());
        assert!(maps.find(u64::MAX).is_none());
    }

    #[test]
    fn our_own_code_is_executable() {
        let maps = Maps::of(nix::unistd::getpid()).unwrap();
        let (_, mapping) = maps.find(our_own_code_is_executable as fn() as usize as u64).unwrap();
        assert!(mapping.executable && mapping.inode != 0);
    }
}
