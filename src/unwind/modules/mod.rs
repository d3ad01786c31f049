//! The files that processes map, opened and parsed once, shared by all processes.

pub mod elf;
mod guard;
mod inflate;
pub mod open;
pub mod separate;

use super::Mapping;
use super::arch::Call;
use super::cfi::Tables;
use super::go;
use super::python::Interpreter;
use elf::{Bytes, Elf};
use nix::unistd::Pid;
use open::Identity;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Hexadecimal digits of bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A file (or the vdso) that a process has mapped.
///
/// It is opened when it is first met, and parsed when an address in it is first unwound. As long as it is
/// kept its inode can't be given to another file.
pub struct Module {
    id: u64,
    path: Arc<str>,
    file: Option<File>,
    identity: Option<Identity>,
    elf: OnceLock<Option<Elf>>,
    separate: OnceLock<Option<Elf>>,
    tables: Tables,
    interpreter: OnceLock<Option<Interpreter>>,
    go: OnceLock<Option<go::Place>>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Module {
    fn new(path: Arc<str>, file: Option<File>, identity: Option<Identity>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            path,
            file,
            identity,
            elf: OnceLock::new(),
            separate: OnceLock::new(),
            tables: Tables::default(),
            interpreter: OnceLock::new(),
            go: OnceLock::new(),
        }
    }

    /// A module of bytes that lie in memory.
    #[must_use]
    pub fn of_bytes(path: &str, bytes: Vec<u8>) -> Self {
        let module = Self::new(path.into(), None, None);
        let _ = module.elf.set(Elf::parse(Bytes::Owned(bytes)));
        module
    }

    /// A module of an open file.
    #[must_use]
    pub fn of_file(path: &str, file: File) -> Self {
        let identity = Identity::of(&file);
        Self::new(path.into(), Some(file), identity)
    }

    /// A number that no other module of this process has, nor will have.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The path by which it was first met.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The parsed file; `None` if it is no ELF file.
    #[must_use]
    pub fn elf(&self) -> Option<&Elf> {
        self.elf.get_or_init(|| self.file.as_ref().and_then(Elf::map)).as_ref()
    }

    /// Its separate debug file, looked for once.
    #[must_use]
    pub fn separate(&self) -> Option<&Elf> {
        self.separate.get_or_init(|| separate::find(self.elf()?, &self.path)).as_ref()
    }

    /// Its build-id.
    #[must_use]
    pub fn build_id(&self) -> Option<&Arc<[u8]>> {
        self.elf()?.build_id.as_ref()
    }

    /// The call that stands before an address (as linked), if no register says where it leads.
    pub(crate) fn fixed_call_before(&self, address: u64) -> Option<FixedCall> {
        let elf = self.elf()?;
        let spec = elf.arch.spec();
        let from = address.checked_sub(spec.window as u64)?;
        match (spec.call_before)(elf.at_address(from)?.get(..spec.window)?)? {
            Call::Direct(offset) => Some(FixedCall::To(address.wrapping_add_signed(offset) & spec.address_mask)),
            Call::Slot => Some(FixedCall::BySlot),
            Call::Indirect => None,
        }
    }

    /// What it is as an interpreter of Python, if it is one.
    pub(super) fn interpreter(&self) -> Option<Interpreter> {
        *self.interpreter.get_or_init(|| self.elf().and_then(Interpreter::of))
    }

    /// Where it has the tables of a Go program, if it is one.
    pub(super) fn go(&self) -> Option<&go::Place> {
        self.go.get_or_init(|| self.elf().and_then(go::Place::of)).as_ref()
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether the file is still what it was when it was opened.
    fn is_current(&self) -> bool {
        self.file.as_ref().is_none_or(|file| Identity::of(file) == self.identity)
    }
}

/// Where a call leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FixedCall {
    /// To this address, as linked.
    To(u64),
    /// To what the dynamic linker has put into a slot.
    BySlot,
}

/// What a mapping says of its file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct MappedFile {
    device: (u32, u32),
    inode: u64,
    path: Arc<str>,
}

/// The modules that were met. Bounded: the oldest half goes when it is full.
#[derive(Debug, Default)]
pub struct ModuleCache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    mapped: HashMap<MappedFile, Arc<Module>>,
    files: HashMap<Identity, Arc<Module>>,
    contents: HashMap<u64, Arc<Module>>,
}

/// Each module keeps a descriptor open.
const MODULES: usize = 512;

impl ModuleCache {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The module behind a mapping of a file.
    pub(super) fn of_mapping(&self, pid: Pid, mapping: &Mapping) -> Option<Arc<Module>> {
        let key = MappedFile { device: mapping.device, inode: mapping.inode, path: Arc::clone(&mapping.path) };
        if let Some(module) = self.lock().mapped.get(&key)
            && module.is_current()
        {
            return Some(Arc::clone(module));
        }
        let file = open::open_mapped(pid, mapping)?;
        let identity = Identity::of(&file)?;
        let mut known = self.lock();
        known.make_room();
        let module = match known.files.get(&identity) {
            Some(module) => Arc::clone(module),
            None => Arc::new(Module::new(Arc::clone(&mapping.path), Some(file), Some(identity))),
        };
        known.files.insert(identity, Arc::clone(&module));
        known.mapped.insert(key, Arc::clone(&module));
        Some(module)
    }

    /// The module whose bytes were read from a process's memory (the vdso).
    pub(super) fn of_content(&self, path: &Arc<str>, bytes: Vec<u8>) -> Arc<Module> {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let mut known = self.lock();
        known.make_room();
        let module = known.contents.entry(hasher.finish());
        let module = module.or_insert_with(|| Arc::new(Module::of_bytes(path, bytes.clone())));
        // A hash is no proof: what is not the same is not shared.
        if module.elf().is_some_and(|elf| elf.bytes() == bytes) {
            return Arc::clone(module);
        }
        Arc::new(Module::of_bytes(path, bytes))
    }
}

impl Known {
    fn make_room(&mut self) {
        if self.files.len() < MODULES && self.mapped.len() < MODULES && self.contents.len() < MODULES {
            return;
        }
        let mut ids: Vec<u64> = self.mapped.values().map(|module| module.id).collect();
        ids.sort_unstable();
        let middle = ids.get(ids.len() / 2).copied().unwrap_or(u64::MAX);
        self.mapped.retain(|_, module| module.id > middle);
        self.files.retain(|_, module| module.id > middle);
        self.contents.retain(|_, module| module.id > middle);
    }
}
