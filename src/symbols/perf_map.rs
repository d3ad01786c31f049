//! `/tmp/perf-PID.map`, in which JIT compilers say what they made.

use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex, PoisonError};

/// What is read of one file, and how many are kept.
const BYTES: u64 = 256 << 20;
const FUNCTIONS: usize = 1 << 20;
const MAPS: usize = 16;

#[derive(Default)]
struct PerfMap {
    inode: u64,
    read: u64,
    /// start → (end, name); what is written later replaces what it overlaps.
    functions: BTreeMap<u64, (u64, Arc<str>)>,
}

/// The maps that were read.
#[derive(Default)]
pub(super) struct PerfMaps {
    maps: Mutex<HashMap<Pid, PerfMap>>,
}

impl PerfMaps {
    /// The function that a JIT compiler has put at an address.
    pub fn at(&self, pid: Pid, address: u64) -> Option<Arc<str>> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if maps.len() >= MAPS && !maps.contains_key(&pid) {
            maps.clear();
        }
        let map = maps.entry(pid).or_default();
        map.update(pid);
        let (_, (end, name)) = map.functions.range(..=address).next_back()?;
        (address < *end).then(|| Arc::clone(name))
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
    /// Reads what was added to the file.
    fn update(&mut self, pid: Pid) -> Option<()> {
        let mut file = open(pid)?;
        let metadata = file.metadata().ok()?;
        if metadata.ino() != self.inode || metadata.size() < self.read {
            *self = Self { inode: metadata.ino(), ..Self::default() };
        }
        if metadata.size() == self.read || self.read >= BYTES {
            return Some(());
        }
        file.seek(SeekFrom::Start(self.read)).ok()?;
        let mut text = Vec::new();
        file.take(BYTES.saturating_sub(self.read)).read_to_end(&mut text).ok()?;
        // A line may be half written.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
        self.read = self.read.saturating_add(whole as u64);
        for line in text.get(..whole)?.split(|byte| *byte == b'\n') {
            self.add(line);
        }
        Some(())
    }

    /// `start size name`
    fn add(&mut self, line: &[u8]) -> Option<()> {
        let mut fields = line.splitn(3, |byte| *byte == b' ');
        let mut number = || {
            let text = std::str::from_utf8(fields.next()?).ok()?;
            u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
        };
        let (start, size) = (number()?, number()?);
        let name = fields.next()?.get(..).map(|name| name.get(..4096).unwrap_or(name))?;
        let end = start.checked_add(size)?;
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
    use super::*;

    #[test]
    fn later_lines_replace_earlier_ones() {
        let mut map = PerfMap::default();
        for line in ["1000 100 first", "garbage", "0x1080 10 second one", "ffffffffffffffff 2 over", "2000 0 none"]
        {
            map.add(line.as_bytes());
        }
        let name = |address| {
            let (_, (end, name)) = map.functions.range(..=address).next_back()?;
            (address < *end).then(|| name.to_string())
        };
        assert_eq!(name(0x1000).unwrap(), "first");
        assert_eq!(name(0x1080).unwrap(), "second one");
        assert_eq!(name(0x1090), None);
        assert_eq!(name(0x2000), None);
    }

    #[test]
    fn a_file_is_read_as_it_grows() {
        let pid = nix::unistd::getpid();
        let path = format!("/tmp/perf-{pid}.map");
        std::fs::write(&path, "10 10 one\n20 10 tw").unwrap();
        let maps = PerfMaps::default();
        assert_eq!(maps.at(pid, 0x18).as_deref(), Some("one"));
        assert_eq!(maps.at(pid, 0x28), None);
        std::fs::write(&path, "10 10 one\n20 10 two\n").unwrap();
        assert_eq!(maps.at(pid, 0x28).as_deref(), Some("two"));
        std::fs::remove_file(&path).unwrap();
    }
}
