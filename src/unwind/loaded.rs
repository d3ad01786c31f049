//! The mappings of a process that has ended, from what it had loaded.

use super::modules::elf::Elf;
use super::modules::open::{PATIENCE, open};
use super::{Mapping, Maps};
use crate::aside::within;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// A file that a process had loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its path.
    pub path: String,
    /// What to add to its addresses as linked.
    pub bias: u64,
}

impl Maps {
    /// As the files that now have these paths are loaded. What can't be opened, or is no ELF file, is left out; all of
    /// them where that takes too long.
    #[must_use]
    pub fn of_loaded(files: Vec<Loaded>) -> Self {
        within(PATIENCE, move || files.iter().filter_map(mappings).flatten().collect()).unwrap_or_default()
    }
}

fn mappings(loaded: &Loaded) -> Option<Vec<Mapping>> {
    let file = open(Path::new(&loaded.path))?;
    let status = file.metadata().ok()?;
    let path: Arc<str> = loaded.path.as_str().into();
    let of = |segment: &super::modules::elf::Segment| {
        let length = segment.file.end.checked_sub(segment.file.start)?;
        let address = loaded.bias.wrapping_add(segment.address);
        Some(Mapping {
            start: address & !(PAGE - 1),
            end: address.checked_add(length)?.checked_next_multiple_of(PAGE)?,
            executable: segment.executable,
            offset: segment.file.start & !(PAGE - 1),
            device: (libc::major(status.dev()), libc::minor(status.dev())),
            inode: status.ino(),
            path: Arc::clone(&path),
            deleted: false,
        })
    };
    Some(Elf::of_file(&file)?.segments.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    /// What this process has mapped as code is found anew from where its files were loaded.
    #[test]
    fn a_process_is_put_together_again() {
        let own = Maps::of(Pid::this()).unwrap();
        let is_code = |mapping: &&Mapping| mapping.executable && mapping.path.starts_with('/');
        let code: Vec<&Mapping> = own.all().iter().filter(is_code).collect();
        assert!(code.len() > 1, "{own:?}");
        for mapping in code {
            let elf = Elf::of_file(&open(Path::new(&*mapping.path)).unwrap()).unwrap();
            let segment = elf.segments.iter().find(|segment| segment.executable).unwrap();
            let bias = mapping.start.wrapping_sub(segment.address & !(PAGE - 1));
            let again = Maps::of_loaded(vec![Loaded { path: mapping.path.to_string(), bias }]);
            assert!(again.all().contains(mapping), "{mapping:?} isn't in {again:?}");
        }
        let none = ["/dev/zero", "/etc/passwd"].map(|path| Loaded { path: path.into(), bias: 0 });
        assert!(Maps::of_loaded(none.into()).all().is_empty());
    }
}
