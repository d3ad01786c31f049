//! `/tmp/perf-PID.map`, in which JIT compilers say what they made.

use crate::aside::within;
use crate::unwind::modules::open::PATIENCE;
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex, PoisonError};

/// What is read of one file, and how many are kept.
const BYTES: u64 = 256 << 20;
const FUNCTIONS: usize = 1 << 20;
const MAPS: usize = 16;

/// What is kept of a name.
const NAME: usize = 4096;

/// No line is longer that means anything.
const LINE: usize = 64 << 10;

/// By so many bytes it is known whether a file has grown or was written anew.
const KNOWN: usize = 256;

#[derive(Default)]
struct PerfMap {
    file: Option<(u64, u64)>,
    /// Size and time of change when it was read.
    state: (u64, i64, i64),
    /// So many bytes were understood, which end with these.
    read: u64,
    end: Vec<u8>,
    /// start → (end, name); what is written later replaces what it overlaps.
    functions: BTreeMap<u64, (u64, Arc<str>)>,
}

/// The maps that were read.
#[derive(Default)]
pub(super) struct PerfMaps {
    maps: Mutex<HashMap<Pid, PerfMap>>,
}

impl PerfMaps {
    /// What a JIT compiler calls the function at an address. `look`: whether the file is to be looked at again.
    pub fn at(&self, pid: Pid, address: u64, look: bool) -> Option<Arc<str>> {
        let maps = || self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = maps().remove(&pid).unwrap_or_default();
        if look {
            let update = move || {
                map.update(pid);
                map
            };
            map = within(PATIENCE, update).unwrap_or_default();
        }
        let name = map.at(address);
        let mut maps = maps();
        if maps.len() >= MAPS {
            maps.clear();
        }
        maps.insert(pid, map);
        name
    }
}

/// The file, if it belongs to the process's user or to root.
fn open(pid: Pid) -> Option<File> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // The innermost of the numbers is how the process calls itself.
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?;
    let path = format!("/proc/{pid}/root/tmp/perf-{inner}.map");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && (metadata.uid() == owner || metadata.uid() == 0)).then_some(file)
}

impl PerfMap {
    fn at(&self, address: u64) -> Option<Arc<str>> {
        let (_, (end, name)) = self.functions.range(..=address).next_back()?;
        (address < *end).then(|| Arc::clone(name))
    }

    /// Reads what was added to the file, or all of it if it is another one.
    fn update(&mut self, pid: Pid) -> Option<()> {
        let mut file = open(pid)?;
        let metadata = file.metadata().ok()?;
        let state = |metadata: &Metadata| (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        let identity = Some((metadata.dev(), metadata.ino()));
        if identity == self.file && state(&metadata) == self.state {
            return Some(());
        }
        if identity != self.file || !self.has_grown(&mut file) {
            *self = Self { file: identity, ..Self::default() };
        }
        self.state = state(&metadata);
        file.seek(SeekFrom::Start(self.read)).ok()?;
        self.read_lines(&mut file.take(BYTES.saturating_sub(self.read)))
    }

    /// Whether what was read still stands there.
    fn has_grown(&self, file: &mut File) -> bool {
        let from = self.read.saturating_sub(self.end.len() as u64);
        let mut end = vec![0; self.end.len()];
        file.seek(SeekFrom::Start(from)).is_ok() && file.read_exact(&mut end).is_ok() && end == self.end
    }

    /// Takes whole lines; one may be half written.
    fn read_lines(&mut self, source: &mut impl std::io::Read) -> Option<()> {
        let mut text: Vec<u8> = Vec::new();
        loop {
            let before = text.len();
            source.by_ref().take(LINE as u64).read_to_end(&mut text).ok()?;
            if text.len() == before {
                return Some(());
            }
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
            for line in text.get(..whole)?.split(|byte| *byte == b'\n') {
                self.add(line);
            }
            // The start of a line without end is dropped: what is left of it will mean nothing.
            let done = if whole == 0 && text.len() >= LINE { text.len() } else { whole };
            self.read = self.read.saturating_add(done as u64);
            self.end.extend_from_slice(text.get(..done)?);
            self.end.drain(..self.end.len().saturating_sub(KNOWN));
            text.drain(..done);
        }
    }

    /// `start size name`
    fn add(&mut self, line: &[u8]) -> Option<()> {
        let mut fields = line.splitn(3, |byte| *byte == b' ');
        let mut number = || {
            let text = std::str::from_utf8(fields.next()?).ok()?;
            u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
        };
        let (start, size) = (number()?, number()?);
        let name = fields.next()?.get(..).map(|name| name.get(..NAME).unwrap_or(name))?;
        let end = start.checked_add(size).filter(|end| *end > start)?;
        // At most one begins before and reaches in.
        if let Some((_, (before, _))) = self.functions.range_mut(..start).next_back() {
            *before = (*before).min(start);
        }
        while let Some(inside) = self.functions.range(start..end).next().map(|(inside, _)| *inside) {
            self.functions.remove(&inside);
        }
        if self.functions.len() < FUNCTIONS {
            self.functions.insert(start, (end, String::from_utf8_lossy(name).into()));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::jit_names;
    use super::*;
    use crate::unwind::tests::{Random, rounds};

    #[test]
    fn later_lines_replace_earlier_ones() {
        let mut map = PerfMap::default();
        for line in ["1000 100 first", "garbage", "0x1080 10 second one", "ffffffffffffffff 2 over", "2000 0 none"]
        {
            map.add(line.as_bytes());
        }
        assert_eq!(map.at(0x1000).as_deref(), Some("first"));
        assert_eq!(map.at(0x1080).as_deref(), Some("second one"));
        assert_eq!(map.at(0x1090), None);
        assert_eq!(map.at(0x2000), None);
    }

    #[test]
    fn a_file_is_read_as_it_grows_and_when_it_is_written_anew() {
        let pid = nix::unistd::getpid();
        let path = format!("/tmp/perf-{pid}.map");
        std::fs::write(&path, "10 10 one\n20 10 tw").unwrap();
        let maps = PerfMaps::default();
        assert_eq!(maps.at(pid, 0x18, true).as_deref(), Some("one"));
        assert_eq!(maps.at(pid, 0x28, true), None);
        std::fs::write(&path, "10 10 one\n20 10 two\n").unwrap();
        assert_eq!(maps.at(pid, 0x28, false), None);
        assert_eq!(maps.at(pid, 0x28, true).as_deref(), Some("two"));
        // As the JVM does when it is asked again: the same file, longer, with other contents.
        std::fs::write(&path, "30 10 three\n40 10 four\n50 10 five\n").unwrap();
        assert_eq!(maps.at(pid, 0x28, true), None);
        assert_eq!(maps.at(pid, 0x38, true).as_deref(), Some("three"));
        assert_eq!(maps.at(pid, 0x58, true).as_deref(), Some("five"));
        std::fs::write(&path, "60 10 six\n").unwrap();
        assert_eq!(maps.at(pid, 0x38, true), None);
        assert_eq!(maps.at(pid, 0x68, true).as_deref(), Some("six"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn mutilated_files() {
        let mut whole = Vec::new();
        for number in 0..400_u64 {
            let kind = ["LazyCompile:~f /a b/c.js:1:2", "int A.b()", "Builtin:X", "py::f:/x.py", "LA;::b"];
            let name = kind[number as usize % kind.len()];
            whole.extend(format!("{:x} {:x} {name}\n", 0x1000 + number * 0x40, 0x20 + number % 0x60).into_bytes());
        }
        let mut random = Random::new(5);
        for _ in 0..rounds(400) {
            let mut bytes = whole.clone();
            for _ in 0..20 {
                if !bytes.is_empty() {
                    random.mutilate(&mut bytes, 0);
                }
            }
            if random.below(4) == 0 {
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, std::iter::repeat_n(b'7', 3 * LINE));
            }
            let mut map = PerfMap::default();
            map.read_lines(&mut &*bytes).unwrap();
            assert!(map.read <= bytes.len() as u64 && map.end.len() <= KNOWN);
            let mut behind = 0;
            for (start, (end, name)) in &map.functions {
                assert!(behind <= *start && start < end);
                behind = *end;
                let symbol = jit_names::symbol(name);
                assert!(symbol.function.is_some());
            }
        }
    }
}
