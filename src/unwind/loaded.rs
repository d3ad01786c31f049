//! The mappings of a process that has ended, from what it had loaded.

use super::modules::elf::Elf;
use super::modules::open::open;
use super::{Mapping, Maps};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// A file that a process had loaded.
#[derive(Debug, Clone, Copy)]
pub struct Loaded<'p> {
    /// Its path.
    pub path: &'p str,
    /// What to add to its addresses as linked.
    pub bias: u64,
}

impl Maps {
    /// As the files that now have these paths are loaded. What can't be opened, or is no ELF file, is left out.
    #[must_use]
    pub fn of_loaded(files: &[Loaded<'_>]) -> Self {
        files.iter().filter_map(mappings).flatten().collect()
    }
}

fn mappings(loaded: &Loaded<'_>) -> Option<Vec<Mapping>> {
    let file = open(loaded.path)?;
    let status = file.metadata().ok()?;
    let path: Arc<str> = loaded.path.into();
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
    Some(Elf::map(&file)?.segments.iter().filter_map(of).collect())
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
            let elf = Elf::map(&open(&mapping.path).unwrap()).unwrap();
            let segment = elf.segments.iter().find(|segment| segment.executable).unwrap();
            let bias = mapping.start.wrapping_sub(segment.address & !(PAGE - 1));
            let again = Maps::of_loaded(&[Loaded { path: &mapping.path, bias }]);
            assert!(again.all().contains(mapping), "{mapping:?} isn't in {again:?}");
        }
        let none = [Loaded { path: "/dev/zero", bias: 0 }, Loaded { path: "/etc/passwd", bias: 0 }];
        assert!(Maps::of_loaded(&none).all().is_empty());
    }
}
