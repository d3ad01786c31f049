//! A process's mappings with the modules behind them.

use super::arch::{Call, Trampoline};
use super::{Arch, Mapping, Maps, Memory, Module, ModuleCache, Place};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

/// The vdso has two pages or so.
const VDSO: u64 = 1 << 20;

/// What a process had mapped at one moment.
#[derive(Debug)]
pub struct ProcessImage {
    pid: Pid,
    maps: Maps,
    modules: Vec<OnceLock<Option<Arc<Module>>>>,
    cache: Arc<ModuleCache>,
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
        Ok(Self::of_maps(pid, Maps::of(pid)?, cache))
    }

    /// An image of mappings that were read by other means.
    #[must_use]
    pub fn of_maps(pid: Pid, maps: Maps, cache: Arc<ModuleCache>) -> Self {
        let modules = maps.all().iter().map(|_| OnceLock::new()).collect();
        Self { pid, maps, modules, cache }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The mappings.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Opens every file that is mapped as code, so that the image can be used when the process is gone.
    pub fn pin(&self) {
        for (index, mapping) in self.maps.all().iter().enumerate() {
            if mapping.executable {
                let _ = self.module(index, mapping);
            }
        }
    }

    fn module(&self, index: usize, mapping: &Mapping) -> Option<&Arc<Module>> {
        let slot = self.modules.get(index)?;
        slot.get_or_init(|| {
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
        })
        .as_ref()
    }

    /// What an address lies in.
    #[inline]
    pub(super) fn locate(&self, address: u64) -> Option<Located<'_>> {
        let (index, mapping) = self.maps.find(address)?;
        let offset = address.checked_sub(mapping.start)?.checked_add(mapping.offset)?;
        let module = self.module(index, mapping);
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
        self.maps.find(address).is_some_and(|(_, mapping)| mapping.executable)
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
            Call::Indirect => Some(Called::Anywhere),
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
