//! Maps and programs by their names, and the maps that say whose calls are looked at (bpf/filters.h).

use crate::programs::chain;
use crate::tree;
use aya::Ebpf;
use aya::maps::{Array, CgroupArray, HashMap, Map, MapData, MapError};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::BackendError;
use sockstrace_backend::observed::Filters;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The filters that decide; `launched`: there is a tree, whatever they say. `enum filter` of bpf/shared.h.
pub fn filter_bits(filters: &Filters, launched: bool) -> u32 {
    let bits = [
        (1, launched || !filters.trees.is_empty()),
        (2, !filters.uids.is_empty()),
        (4, !filters.netns.is_empty()),
        (8, !filters.names.is_empty()),
        (16, !filters.cgroups.is_empty()),
    ];
    bits.iter().filter(|(_, on)| *on).fold(0, |sum, (bit, _)| sum | bit)
}

/// Says which call is what, by the numbers of the machine's own interface and of i386.
pub fn fill_calls(bpf: &mut Ebpf, native: Vec<(u32, u8)>, compat: Vec<(u32, u8)>) -> Result<(), BackendError> {
    /// `CALLS_OF_ABI` of bpf/filters.h
    const CALLS: u32 = 512;
    let mut array: Array<&mut MapData, u8> = map(bpf, "operations")?;
    for (first, numbers) in [(0, native), (CALLS, compat)] {
        for (number, code) in numbers.into_iter().filter(|(number, _)| *number < CALLS) {
            array.set(first.saturating_add(number), code, 0).map_err(failed("operations"))?;
        }
    }
    Ok(())
}

/// Fills the maps of the filters.
pub fn fill_filters(bpf: &mut Ebpf, filters: &Filters) -> Result<(), BackendError> {
    fill_set(bpf, "uids", &filters.uids)?;
    fill_set(bpf, "netnses", &filters.netns)?;
    fill_set(bpf, "tree", &tree::with_descendants(&filters.trees))?;
    let names: Vec<_> = filters.names.iter().map(|name| comm(name)).collect();
    fill_set(bpf, "names", &names)?;
    let mut groups: CgroupArray<&mut MapData> = map(bpf, "cgroups")?;
    for (index, path) in (0_u32..).zip(&filters.cgroups) {
        let directory = open(path)?;
        groups.set(index, directory.as_raw_fd(), 0).map_err(failed("cgroups"))?;
    }
    Ok(())
}

/// Adds what the trees have become since they were looked at, and takes out who has ended: before the programs were
/// attached, nobody saw their forks and ends.
pub fn catch_up(bpf: &mut Ebpf, roots: &[Pid]) -> Result<(), BackendError> {
    fill_set(bpf, "tree", &tree::with_descendants(roots))?;
    let mut map: HashMap<&mut MapData, u32, u8> = map(bpf, "tree")?;
    let known: Vec<u32> = map.keys().filter_map(Result::ok).collect();
    for pid in known.into_iter().filter(|pid| tree::has_ended(Pid::from_raw(*pid as i32))) {
        // Its end may have been seen meanwhile.
        let _: Result<(), MapError> = map.remove(&pid);
    }
    Ok(())
}

/// Puts these keys into a map.
pub fn fill_set<K: aya::Pod>(bpf: &mut Ebpf, name: &'static str, keys: &[K]) -> Result<(), BackendError> {
    let mut map: HashMap<&mut MapData, K, u8> = map(bpf, name)?;
    for key in keys {
        map.insert(key, 1, 0).map_err(failed(name))?;
    }
    Ok(())
}

/// A map by its name.
pub fn map<'m, M: TryFrom<&'m mut Map>>(bpf: &'m mut Ebpf, name: &'static str) -> Result<M, BackendError> {
    bpf.map_mut(name).and_then(|map| M::try_from(map).ok()).ok_or_else(|| broken(name))
}

/// Takes a map out; once.
pub fn take<M: TryFrom<Map>>(bpf: &mut Ebpf, name: &'static str) -> Result<M, BackendError> {
    bpf.take_map(name).and_then(|map| M::try_from(map).ok()).ok_or_else(|| broken(name))
}

/// A program by its name.
pub fn of<'b, P>(bpf: &'b mut Ebpf, name: &str) -> Result<&'b mut P, String>
where
    &'b mut P: TryFrom<&'b mut aya::programs::Program>,
{
    let program = bpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| format!("there is no program {name}"))
}

/// Opens a cgroup's directory.
fn open(path: &Path) -> Result<File, BackendError> {
    File::open(path).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        BackendError::Failed(format!("opening the cgroup {}", path.display()), errno)
    })
}

/// For a map that can't be duplicated.
pub fn broken_by(map: &str, error: &std::io::Error) -> BackendError {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    BackendError::Failed(format!("duplicating the BPF map {map}"), errno)
}

/// For a map that isn't there.
pub fn broken(map: &str) -> BackendError {
    BackendError::Failed(format!("the BPF map {map} is not as it was built"), Errno::EINVAL)
}

/// For a map that can't be filled.
pub fn failed(map: &'static str) -> impl Fn(aya::maps::MapError) -> BackendError {
    move |error| BackendError::Unavailable(format!("filling the BPF map {map}: {}", chain(&error)))
}

/// A thread's name as the kernel keeps it: 15 bytes and a NUL.
fn comm(name: &std::ffi::OsStr) -> [u8; 16] {
    use std::os::unix::ffi::OsStrExt;
    let mut comm = [0; 16];
    comm.iter_mut().zip(name.as_bytes().iter().take(15)).for_each(|(to, from)| *to = *from);
    comm
}
