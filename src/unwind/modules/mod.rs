//! The files that processes map, opened and parsed once, shared by all processes.

mod copy;
pub mod elf;
mod guard;
mod inflate;
mod mounts;
pub mod open;
pub mod separate;

use super::Mapping;
use super::arch::Call;
use super::cfi::Tables;
use super::go;
use super::python::Interpreter;
use crate::aside::within;
use elf::{Bytes, Elf};
use nix::unistd::Pid;
use open::Identity;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

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

    /// A module of an open file that isn't kept, but copied. It may last for ever.
    fn copied(path: Arc<str>, file: &File, identity: Identity) -> Self {
        let module = Self::new(path, None, Some(identity));
        let _ = module.elf.set(Elf::of_file(file));
        module
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
        self.elf.get_or_init(|| self.file.as_ref().and_then(Elf::of_file)).as_ref()
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

    /// Whether the file is still what it was when it was opened; of one that isn't kept open that can't be told.
    fn is_current(&self) -> bool {
        match &self.file {
            Some(file) => Identity::of(file) == self.identity,
            None => self.identity.is_none(),
        }
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
#[derive(Debug)]
pub struct ModuleCache(Arc<Shared>);

impl Default for ModuleCache {
    fn default() -> Self {
        mounts::note();
        Self(Arc::default())
    }
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    /// A search has come to its end.
    found: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    mapped: HashMap<MappedFile, Arc<Module>>,
    files: HashMap<Identity, Arc<Module>>,
    contents: HashMap<u64, Arc<Module>>,
    /// What is being opened or copied, since when. It may have been given up.
    sought: HashMap<MappedFile, Instant>,
}

/// Each module keeps a descriptor open.
const MODULES: usize = 512;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModuleCache {
    /// The module behind a mapping of a file. `None` for one that takes long to be opened or copied; it may be there
    /// the next time.
    pub(super) fn of_mapping(&self, pid: Pid, mapping: &Mapping) -> Option<Arc<Module>> {
        let key = MappedFile { device: mapping.device, inode: mapping.inode, path: Arc::clone(&mapping.path) };
        let current = |known: &Known| known.mapped.get(&key).filter(|module| module.is_current()).cloned();
        if let Some(module) = current(&self.0.lock()) {
            return Some(module);
        }
        if mounts::has_device(mapping.device)
            && let Some(file) = open::by_link(pid, mapping)
            && mounts::holds(&file)
        {
            return self.0.lock().keep(key, file);
        }
        let Some(search) = Search::begin(&self.0, &key) else {
            return self.0.lock().mapped.get(&key).cloned();
        };
        let mapping = mapping.clone();
        within(open::PATIENCE, move || search.module(pid, &mapping)).flatten()
    }

    /// The module whose bytes were read from a process's memory (the vdso).
    pub(super) fn of_content(&self, path: &Arc<str>, bytes: Vec<u8>) -> Arc<Module> {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let mut known = self.0.lock();
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

/// Looks for a file, alone.
struct Search {
    shared: Arc<Shared>,
    key: MappedFile,
}

impl Search {
    /// `None` where somebody else was looking for it; he has found it, or takes long.
    fn begin(shared: &Arc<Shared>, key: &MappedFile) -> Option<Self> {
        let mut known = shared.lock();
        if !known.sought.contains_key(key) {
            known.sought.insert(key.clone(), Instant::now());
            // Nobody who waits is to get what it was before.
            known.mapped.remove(key);
            return Some(Self { shared: Arc::clone(shared), key: key.clone() });
        }
        while let Some(since) = known.sought.get(key) {
            let left = open::PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() {
                break;
            }
            known = shared.found.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// It may last for ever.
    fn module(&self, pid: Pid, mapping: &Mapping) -> Option<Arc<Module>> {
        let file = open::search(pid, mapping)?;
        if mounts::holds(&file) {
            return self.shared.lock().keep(self.key.clone(), file);
        }
        let identity = Identity::of(&file)?;
        let known = self.shared.lock().files.get(&identity).cloned();
        let copied = || Arc::new(Module::copied(Arc::clone(&mapping.path), &file, identity));
        let module = known.unwrap_or_else(copied);
        self.shared.lock().add(self.key.clone(), identity, &module);
        Some(module)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.shared.lock().sought.remove(&self.key);
        self.shared.found.notify_all();
    }
}

impl Known {
    /// Keeps a file open.
    fn keep(&mut self, key: MappedFile, file: File) -> Option<Arc<Module>> {
        let identity = Identity::of(&file)?;
        let known = self.files.get(&identity).cloned();
        let module =
            known.unwrap_or_else(|| Arc::new(Module::new(Arc::clone(&key.path), Some(file), Some(identity))));
        self.add(key, identity, &module);
        Some(module)
    }

    fn add(&mut self, key: MappedFile, identity: Identity, module: &Arc<Module>) {
        self.make_room();
        self.files.insert(identity, Arc::clone(module));
        self.mapped.insert(key, Arc::clone(module));
    }

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
