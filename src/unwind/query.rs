//! Asking the kernel for single mappings (`PROCMAP_QUERY`, Linux 6.11), where it can be asked.

use super::Mapping;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `struct procmap_query` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Default)]
pub struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const EXECUTABLE: u64 = 4;
const COVERING_OR_NEXT: u64 = 16;

/// The longest name that the kernel gives: PATH_MAX with what it appends.
const NAME: usize = 4096 + 64;

nix::ioctl_readwrite!(procmap_query, b'f', 17, ProcmapQuery);

/// The mappings of a process that can be asked for one by one.
#[derive(Debug)]
pub(super) struct Query(File);

impl Query {
    /// Opens the mappings of a process; `None` where the kernel doesn't know such questions.
    ///
    /// # Errors
    /// What opening `/proc/PID/maps` gives; ESRCH for a process without memory, which is ending.
    pub fn of(pid: Pid) -> io::Result<Option<Self>> {
        let query = Self(File::open(format!("/proc/{pid}/maps"))?);
        match query.ask(0, COVERING_OR_NEXT) {
            Ok(_) | Err(Errno::ENOENT) => Ok(Some(query)),
            Err(Errno::ESRCH) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            Err(_) => Ok(None),
        }
    }

    /// The mapping that an address lies in.
    pub fn at(&self, address: u64) -> Option<Mapping> {
        self.ask(address, 0).ok()
    }

    /// The first executable mapping that ends behind an address.
    pub fn code_from(&self, address: u64) -> Option<Mapping> {
        self.ask(address, COVERING_OR_NEXT | EXECUTABLE).ok()
    }

    fn ask(&self, address: u64, flags: u64) -> Result<Mapping, Errno> {
        let mut name = [0_u8; NAME];
        let mut query = ProcmapQuery {
            size: size_of::<ProcmapQuery>() as u64,
            query_flags: flags,
            query_addr: address,
            vma_name_size: NAME as u32,
            vma_name_addr: name.as_mut_ptr().expose_provenance() as u64,
            ..ProcmapQuery::default()
        };
        // SAFETY: the structure is the kernel's, and the name's buffer has the size that it says.
        unsafe { procmap_query(self.0.as_raw_fd(), &raw mut query) }?;
        let name = name.get(..query.vma_name_size as usize).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let (path, deleted) = match name.strip_suffix(b" (deleted)") {
            Some(path) if query.inode != 0 => (path, true),
            _ => (name, false),
        };
        Ok(Mapping {
            start: query.vma_start,
            end: query.vma_end,
            executable: query.vma_flags & EXECUTABLE != 0,
            offset: query.vma_offset,
            device: (query.dev_major, query.dev_minor),
            inode: query.inode,
            path: String::from_utf8_lossy(path).into(),
            deleted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::Maps;

    #[test]
    fn the_same_as_in_the_text() {
        let pid = nix::unistd::getpid();
        let Some(query) = Query::of(pid).unwrap() else { return };
        let maps = Maps::of(pid).unwrap();
        let code: Vec<_> = maps.all().iter().filter(|mapping| mapping.executable && mapping.inode != 0).collect();
        assert!(code.len() > 1);
        for mapping in &code {
            assert_eq!(&&query.at(mapping.start).unwrap(), mapping);
            assert_eq!(&&query.at(mapping.end - 1).unwrap(), mapping);
        }
        assert_eq!(&query.code_from(0).unwrap(), code[0]);
        assert_eq!(query.at(8), None);
        let vdso = maps.all().iter().find(|mapping| &*mapping.path == "[vdso]").unwrap();
        assert_eq!(&query.at(vdso.start).unwrap(), vdso);
    }

    #[test]
    fn a_process_that_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let query = Query::of(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(query.is_none_or(|query| query.at(0x1000).is_none()));
        assert!(Query::of(pid).is_err());
    }
}
