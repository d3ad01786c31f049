//! Mapped files whose end may be cut off at any moment by those who may write to them.
//!
//! Reading a mapped page that lies behind a file's end raises SIGBUS, and the traced program may be the one
//! that cuts the end off. So a handler of that signal looks whether the address lies in one of our maps, and
//! puts a page of zeros there; any other SIGBUS goes where it would have gone. Zeros instead of what was
//! there are nothing new for the readers of a file whose contents are not to be trusted.
//!
//! The handler is put in place with the first file that is mapped. A thread that reads such files must not
//! have SIGBUS blocked: the kernel kills then (signal(7), "hardware-generated").

use libc::{c_int, c_void, siginfo_t};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Where a map lies; 0: the slot is free, [`CLAIMED`]: it is being filled.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
}

const CLAIMED: usize = 1;

/// More files than are ever kept mapped: modules, their debug files, and split ones.
const SLOTS: usize = 4096;

static MAPS: [Slot; SLOTS] = [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; SLOTS];
/// All slots in use lie before this one.
static USED: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A file mapped for reading, which may be cut off without harm.
pub struct FileMap {
    map: Mmap,
    slot: &'static Slot,
}

impl FileMap {
    /// Maps a whole file.
    ///
    /// # Errors
    /// What mmap(2) gives; `ENOMEM` too when too many files are mapped, or the handler can't be put in place.
    pub fn of(file: &File) -> io::Result<Self> {
        if !install() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        // SAFETY: the mapping is private and read-only, and read only through slices of bytes. A writer may
        // change what we see, which whoever reads it must stand anyway (the contents are hostile); that
        // pages may vanish is what this module is for.
        let map = unsafe { Mmap::map(file) }?;
        let start = map.as_ptr().addr();
        let end = start.saturating_add(map.len());
        for (index, slot) in MAPS.iter().enumerate() {
            if slot.start.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                slot.end.store(end, Ordering::Release);
                slot.start.store(start, Ordering::Release);
                USED.fetch_max(index.saturating_add(1), Ordering::AcqRel);
                return Ok(Self { map, slot });
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // Nobody reads the map any more, and it is unmapped after this.
        self.slot.start.store(0, Ordering::Release);
    }
}

/// Whether an address lies in one of the maps.
fn is_ours(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(SLOTS);
    MAPS.iter().take(used).any(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        // The slot of the thread that faults doesn't change; another may be changing hands just now.
        start > CLAIMED && (start..end).contains(&address) && slot.start.load(Ordering::Acquire) == start
    })
}

/// Only what signal-safety(7) allows, and mmap(2), which is a bare system call.
extern "C" fn handle(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a valid siginfo (SA_SIGINFO), whose address is set for this signal.
    let address = unsafe { (*info).si_addr() };
    let page = PAGE.load(Ordering::Relaxed);
    if is_ours(address.addr()) {
        let from = address.map_addr(|address| address & !page.wrapping_sub(1));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: errno of the thread that was interrupted is kept; the page belongs to one of our own maps,
        // which are at least as large, and stays readable.
        let done = unsafe {
            let errno = libc::__errno_location();
            let kept = *errno;
            let done = libc::mmap(from, page, libc::PROT_READ, flags, -1, 0);
            *errno = kept;
            done
        };
        if done != libc::MAP_FAILED {
            return;
        }
    }
    // As it would be without us: the instruction faults again.
    if let Some(before) = BEFORE.get() {
        // SAFETY: an action that sigaction(2) gave.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

/// Puts the handler in place, once. Whether it is there.
fn install() -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: sysconf(3) has no preconditions; the structures are plain data that is then filled in; the
        // handler does only what a handler may.
        unsafe {
            if let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
                PAGE.store(page, Ordering::Relaxed);
            }
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
                return;
            }
            let _ = BEFORE.set(before);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                return;
            }
        }
        INSTALLED.store(1, Ordering::Release);
    });
    INSTALLED.load(Ordering::Acquire) == 1
}

static INSTALLED: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_was_cut_off_reads_as_zeros() {
        let path = std::env::temp_dir().join(format!("guard-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&vec![7; 5 * 4096]).unwrap();
        let map = FileMap::of(&file).unwrap();
        let other = FileMap::of(&file).unwrap();
        assert!(map.iter().all(|byte| *byte == 7));
        file.set_len(4096 + 100).unwrap();
        let expected = [vec![7; 4196], vec![0; 4 * 4096 - 100]].concat();
        assert_eq!(&*map, expected);
        drop(map);
        file.set_len(0).unwrap();
        assert!(other.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn any_other_sigbus_ends_us() {
        // In a child, as it is to die: of a map that isn't ours.
        FileMap::of(&File::open("/proc/self/exe").unwrap()).unwrap();
        // SAFETY: the child only maps, reads and ends.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                // SAFETY: a map of a file without contents, of which a byte is read.
                unsafe {
                    let file = libc::memfd_create(c"empty".as_ptr(), 0);
                    let map = libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, file, 0);
                    map.cast::<u8>().read_volatile();
                    libc::_exit(0)
                }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                let nix::sys::wait::WaitStatus::Signaled(_, signal, _) = status else { panic!("{status:?}") };
                assert_eq!(signal, nix::sys::signal::Signal::SIGBUS);
            }
        }
    }
}
