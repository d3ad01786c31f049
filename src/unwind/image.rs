//! A process's mappings with the modules behind them.

use super::arch::{Call, Trampoline};
use super::query::Query;
use super::{Arch, Mapping, Maps, Memory, Module, ModuleCache, Place};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The vdso has two pages or so.
const VDSO: u64 = 1 << 20;

/// What a process has mapped.
///
/// Where the kernel can be asked for single mappings (Linux 6.11) only those are looked at that are met: so
/// the process must stay stopped as long as this is used, or it must be [`pin`](Self::pin)ned before.
#[derive(Debug)]
pub struct ProcessImage {
    pid: Pid,
    cache: Arc<ModuleCache>,
    maps: OnceLock<Maps>,
    /// All that will ever be looked at, by address, once it was asked for.
    all: OnceLock<Vec<Entry>>,
    query: Option<Query>,
    /// What was met so far, in the order in which it was.
    met: [OnceLock<Entry>; MET],
    misses: AtomicUsize,
}

/// So many mappings, and questions without an answer, before all are read.
const MET: usize = 32;

/// A mapping and what lies behind it.
#[derive(Debug)]
struct Entry {
    mapping: Mapping,
    module: OnceLock<Option<Arc<Module>>>,
}

impl Entry {
    fn of(mapping: Mapping) -> Self {
        Self { mapping, module: OnceLock::new() }
    }

    fn holds(&self, address: u64) -> bool {
        (self.mapping.start..self.mapping.end).contains(&address)
    }
}

/// An address in a process, as far as unwinding needs to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located<'a> {
    pub mapping: &'a Mapping,
    pub module: Option<&'a Arc<Module>>,
    /// The address as the module was linked, or the offset in the file.
    pub address: u64,
    /// What to add to addresses as linked.
    pub bias: u64,
}

/// Where a call leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Called {
    At(u64),
    Anywhere,
}

impl Located<'_> {
    pub fn place(&self) -> Place {
        let path = Arc::clone(&self.mapping.path);
        Place { path, module: self.module.cloned(), offset: self.address }
    }
}

impl ProcessImage {
    pub(super) fn of(pid: Pid, cache: Arc<ModuleCache>) -> io::Result<Self> {
        match Query::of(pid)? {
            Some(query) => Ok(Self::new(pid, cache, Some(query))),
            None => Ok(Self::of_maps(pid, Maps::of(pid)?, cache)),
        }
    }

    fn new(pid: Pid, cache: Arc<ModuleCache>, query: Option<Query>) -> Self {
        let met = [const { OnceLock::new() }; MET];
        let (maps, all, misses) = (OnceLock::new(), OnceLock::new(), AtomicUsize::new(0));
        Self { pid, cache, maps, all, query, met, misses }
    }

    /// An image of mappings that were read by other means.
    #[must_use]
    pub fn of_maps(pid: Pid, maps: Maps, cache: Arc<ModuleCache>) -> Self {
        let image = Self::new(pid, cache, None);
        let _ = image.all.set(maps.all().iter().cloned().map(Entry::of).collect());
        let _ = image.maps.set(maps);
        image
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// All mappings, as they are when this is first called (empty if they can't be read then).
    #[must_use]
    pub fn maps(&self) -> &Maps {
        self.maps.get_or_init(|| Maps::of(self.pid).unwrap_or_default())
    }

    /// Opens every file that is mapped as code, so that the image can be used when the process runs on or is
    /// gone.
    pub fn pin(&self) {
        let all = self.all.get_or_init(|| match &self.query {
            Some(query) => {
                let mut at = Some(0);
                let next = || {
                    let mapping = query.code_from(at?)?;
                    at = Some(mapping.end).filter(|end| *end > mapping.start);
                    Some(Entry::of(mapping))
                };
                std::iter::from_fn(next).take(Maps::MOST).collect()
            }
            None => Vec::new(),
        });
        for entry in all.iter().filter(|entry| entry.mapping.executable) {
            let _ = self.module(entry);
        }
    }

    /// The mapping that an address lies in. In a pinned image only those of code are known.
    #[must_use]
    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        self.entry(address).map(|entry| &entry.mapping)
    }

    fn entry(&self, address: u64) -> Option<&Entry> {
        if let Some(all) = self.all.get() {
            let index = all.partition_point(|entry| entry.mapping.start <= address).checked_sub(1)?;
            return all.get(index).filter(|entry| entry.holds(address));
        }
        let known = self.met.iter().map_while(OnceLock::get).find(|entry| entry.holds(address));
        if known.is_some() {
            return known;
        }
        if self.misses.load(Ordering::Relaxed) < MET {
            let Some(mapping) = self.query.as_ref()?.at(address) else {
                self.misses.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            let mut entry = Entry::of(mapping);
            for slot in &self.met {
                match slot.set(entry) {
                    Ok(()) => return slot.get(),
                    Err(back) => entry = back,
                }
            }
        }
        // So many: all at once is cheaper now.
        let all = || self.maps().all().iter().cloned().map(Entry::of).collect();
        self.all.get_or_init(all);
        self.entry(address)
    }

    fn module<'a>(&self, entry: &'a Entry) -> Option<&'a Arc<Module>> {
        let mapping = &entry.mapping;
        let open = || {
            if mapping.inode != 0 {
                return self.cache.of_mapping(self.pid, mapping);
            }
            if &*mapping.path != "[vdso]" {
                return None;
            }
            let size = mapping.end.checked_sub(mapping.start).filter(|size| *size <= VDSO)?;
            let mut bytes = vec![0; usize::try_from(size).ok()?];
            let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
            memory.read_exact_at(&mut bytes, mapping.start).ok()?;
            Some(self.cache.of_content(&mapping.path, bytes))
        };
        entry.module.get_or_init(open).as_ref()
    }

    /// What an address lies in.
    #[inline]
    pub(super) fn locate(&self, address: u64) -> Option<Located<'_>> {
        let entry = self.entry(address)?;
        let mapping = &entry.mapping;
        let offset = address.checked_sub(mapping.start)?.checked_add(mapping.offset)?;
        let module = self.module(entry);
        let linked = module.and_then(|module| module.elf()).and_then(|elf| elf.address_of(offset));
        Some(Located {
            mapping,
            module: module.filter(|_| linked.is_some()),
            address: linked.unwrap_or(offset),
            bias: address.wrapping_sub(linked.unwrap_or(0)),
        })
    }

    /// Whether code lies there.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.mapping(address).is_some_and(|mapping| mapping.executable)
    }

    /// Up to 16 bytes of code from an address: from the module's file, else from memory.
    fn code(&self, address: u64, buffer: &mut [u8], memory: &dyn Memory) -> Option<()> {
        if let Some(place) = self.locate(address)
            && let Some(elf) = place.module.and_then(|module| module.elf())
        {
            buffer.copy_from_slice(elf.at_address(place.address)?.get(..buffer.len())?);
            return Some(());
        }
        memory.read(address, buffer)
    }

    /// The bytes of code that end at an address.
    fn code_before<'b>(
        &self,
        arch: Arch,
        address: u64,
        buffer: &'b mut [u8; 16],
        memory: &dyn Memory,
    ) -> Option<&'b [u8]> {
        let mut window = arch.spec().window;
        // Fewer bytes may be all that there are before it.
        while window > 0 {
            let bytes = buffer.get_mut(..window)?;
            let from = address.checked_sub(window as u64)?;
            if self.is_code(from) && self.code(from, bytes, memory).is_some() {
                return buffer.get(..window);
            }
            window /= 2;
        }
        None
    }

    /// Where the call leads that stands before an address, if one does.
    pub(super) fn call_before(&self, arch: Arch, address: u64, memory: &dyn Memory) -> Option<Called> {
        let mut buffer = [0; 16];
        let code = self.code_before(arch, address, &mut buffer, memory)?;
        match (arch.spec().call_before)(code)? {
            Call::Direct(offset) => {
                let target = address.wrapping_add_signed(offset) & arch.spec().address_mask;
                self.is_code(target).then_some(Called::At(target))
            }
            Call::Slot | Call::Indirect => Some(Called::Anywhere),
        }
    }

    /// Whether a system call stands before an address.
    pub(super) fn syscall_before(&self, arch: Arch, address: u64, memory: &dyn Memory) -> bool {
        let mut buffer = [0; 16];
        self.code_before(arch, address, &mut buffer, memory).is_some_and(arch.spec().syscall_before)
    }

    /// The signal trampoline that stands at an address.
    pub(super) fn trampoline(&self, arch: Arch, address: u64, memory: &dyn Memory) -> Option<Trampoline> {
        let mut buffer = [0; 9];
        self.code(address, &mut buffer, memory)?;
        (arch.spec().trampoline)(&buffer)
    }
}
