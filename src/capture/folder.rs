//! The directory of a capture: nothing outside of it is ever written, whatever the program puts into it.

use super::is_safe_id;
use super::record::Direction;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::Arc;

/// So many payload files are open at once.
const OPEN_FILES: usize = 128;
/// The space that is kept for `events.jsonl` when all else has no more: for so many bytes of records what was
/// cut can still be told.
const RESERVE: u64 = 1 << 20;

pub(super) const EVENTS: &str = "events.jsonl";

/// An open directory, and what was written to it.
#[derive(Debug)]
pub(super) struct Folder {
    directory: OwnedFd,
    events: File,
    /// Whole lines of `events.jsonl`, in bytes.
    events_length: u64,
    reserved: u64,
    files: HashMap<(Arc<str>, Direction), Payloads>,
    open: usize,
}

/// A payload file.
#[derive(Debug)]
struct Payloads {
    file: Option<File>,
    length: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl Folder {
    /// Makes the directory, or takes one that is empty or holds a former capture, which goes.
    ///
    /// # Errors
    /// What is wrong with it, in words for the user.
    pub fn create(path: &Path) -> Result<Self, String> {
        let said = |what: &str| format!("{}: {what}", path.display());
        let failed = |errno: Errno| said(errno.desc());
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| said(&error.to_string()))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(path, flags, Mode::empty()).map_err(failed)?;
        empty(&directory, path)?;
        let events = make(&directory, EVENTS).map_err(failed)?;
        Ok(Self { directory, events, events_length: 0, reserved: 0, files: HashMap::new(), open: 0 })
    }

    /// Appends a line to `events.jsonl`: the whole of it or nothing.
    pub fn write_event(&mut self, line: &[u8]) -> io::Result<()> {
        let end = self.events_length.saturating_add(line.len() as u64);
        if end.saturating_add(RESERVE / 4) > self.reserved {
            let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Where the file system can't, or is full, there is no reserve.
            if fallocate(&self.events, flags, self.events_length as i64, RESERVE as i64).is_ok() {
                self.reserved = self.events_length.saturating_add(RESERVE);
            }
        }
        if let Err(error) = self.events.write_all_at(line, self.events_length) {
            // A piece of a line would spoil the next.
            let _: Result<(), Errno> = ftruncate(&self.events, self.events_length as i64);
            return Err(error);
        }
        self.events_length = end;
        Ok(())
    }

    /// Appends to a connection's payloads: where they begin and how much of them is there now.
    pub fn append(&mut self, id: &Arc<str>, direction: Direction, bytes: &[u8]) -> (u64, u64, io::Result<()>) {
        let offset = self.files.get(&(Arc::clone(id), direction)).map_or(0, |payloads| payloads.length);
        let payloads = match self.payloads(id, direction) {
            Ok(payloads) => payloads,
            Err(error) => return (offset, 0, Err(error)),
        };
        let Some(file) = &payloads.file else { return (offset, 0, Err(ErrorKind::NotFound.into())) };
        let (mut done, mut rest) = (0_u64, bytes);
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match file.write_at(rest, offset.saturating_add(done)) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    done = done.saturating_add(written as u64);
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        payloads.length = offset.saturating_add(done);
        (offset, done, result)
    }

    /// The connection is closed: nothing follows.
    pub fn close(&mut self, id: &Arc<str>) {
        for direction in [Direction::In, Direction::Out] {
            if let Some(Payloads { file: Some(_), .. }) = self.files.remove(&(Arc::clone(id), direction)) {
                self.open = self.open.saturating_sub(1);
            }
        }
    }

    /// Gives back what is reserved.
    pub fn finish(&mut self) {
        let _: Result<(), Errno> = ftruncate(&self.events, self.events_length as i64);
    }

    fn payloads(&mut self, id: &Arc<str>, direction: Direction) -> io::Result<&mut Payloads> {
        if self.open >= OPEN_FILES {
            self.files.values_mut().for_each(|payloads| payloads.file = None);
            self.open = 0;
        }
        let key = (Arc::clone(id), direction);
        let name = name(id, direction)?;
        if !self.files.contains_key(&key) {
            let file = make(&self.directory, &name)?;
            let identity = identity(&fstat(&file)?);
            self.files.insert(key.clone(), Payloads { file: Some(file), length: 0, identity });
            self.open = self.open.saturating_add(1);
        }
        let payloads = self.files.get_mut(&key).ok_or(ErrorKind::NotFound)?;
        if payloads.file.is_none() {
            let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = File::from(openat(&self.directory, name.as_str(), flags, Mode::empty())?);
            if identity(&fstat(&file)?) != payloads.identity {
                return Err(io::Error::other("another file stands in its place"));
            }
            payloads.file = Some(file);
            self.open = self.open.saturating_add(1);
        }
        Ok(payloads)
    }
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn name(id: &str, direction: Direction) -> io::Result<String> {
    if !is_safe_id(id) {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(match direction {
        Direction::In => format!("{id}.in.bin"),
        Direction::Out => format!("{id}.out.bin"),
    })
}

/// A new file: neither a link nor anything else that is there already.
fn make(directory: &OwnedFd, name: &str) -> Result<File, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

/// Removes a former capture; whatever else is there is an error.
fn empty(directory: &OwnedFd, path: &Path) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| said(&error))? {
        names.push(entry.map_err(|error| said(&error))?.file_name());
    }
    let is_payload = |name: &str| {
        let id = name.strip_suffix(".in.bin").or_else(|| name.strip_suffix(".out.bin"));
        id.is_some_and(is_safe_id)
    };
    let is_ours = |name: &std::ffi::OsString| {
        let named = name.to_str().is_some_and(|name| name == EVENTS || is_payload(name));
        let stat = fstatat(directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        named && stat.is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG)
    };
    let whole = names.is_empty() || names.iter().any(|name| name == EVENTS);
    if !whole || !names.iter().all(is_ours) {
        return Err(said(&"it holds something else than a former capture: choose a new or an empty directory"));
    }
    for name in names {
        unlinkat(directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(|errno| said(&errno.desc()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(std::path::PathBuf);
    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sockstrace-folder-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap()
        }
    }
    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_former_capture_goes_and_nothing_else() {
        let place = Place::new("former");
        let mut folder = Folder::create(&place.0).unwrap();
        folder.write_event(b"{}\n").unwrap();
        let id = "1-x".into();
        assert!(matches!(folder.append(&id, Direction::In, b"old"), (0, 3, Ok(()))));
        assert!(matches!(folder.append(&id, Direction::In, b"er"), (3, 2, Ok(()))));
        folder.finish();
        assert_eq!((place.read(EVENTS), place.read("1-x.in.bin")), ("{}\n".into(), "older".into()));
        drop(Folder::create(&place.0).unwrap());
        assert!(!place.0.join("1-x.in.bin").exists());
        std::fs::write(place.0.join("thesis.txt"), "years of work").unwrap();
        assert!(Folder::create(&place.0).unwrap_err().contains("something else"));
        assert_eq!(place.read("thesis.txt"), "years of work");
    }

    #[test]
    fn nothing_outside_is_written() {
        let (place, outside) = (Place::new("links"), Place::new("outside"));
        std::fs::create_dir(&outside.0).unwrap();
        let victim = outside.0.join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        let mut folder = Folder::create(&place.0).unwrap();
        for name in ["1.in.bin", "2.out.bin"] {
            std::os::unix::fs::symlink(&victim, place.0.join(name)).unwrap();
        }
        std::fs::hard_link(&victim, place.0.join("3.in.bin")).unwrap();
        for (id, direction) in [("1", Direction::In), ("2", Direction::Out), ("3", Direction::In)] {
            assert!(folder.append(&id.into(), direction, b"evil").2.is_err());
        }
        for id in ["../outside/victim", "/etc/x", "", "."] {
            assert!(folder.append(&id.into(), Direction::In, b"evil").2.is_err());
        }
        // Taken away and replaced behind our back, and opened again.
        let id = "4".into();
        assert!(folder.append(&id, Direction::In, b"good").2.is_ok());
        folder.open = OPEN_FILES;
        std::fs::remove_file(place.0.join("4.in.bin")).unwrap();
        std::fs::hard_link(&victim, place.0.join("4.in.bin")).unwrap();
        assert!(folder.append(&id, Direction::In, b"evil").2.is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn many_connections_need_few_descriptors() {
        let place = Place::new("many");
        let mut folder = Folder::create(&place.0).unwrap();
        for round in ["a", "b"] {
            for id in 0..OPEN_FILES + 20 {
                assert!(folder.append(&id.to_string().into(), Direction::Out, round.as_bytes()).2.is_ok());
            }
        }
        assert!((0..OPEN_FILES + 20).all(|id| place.read(&format!("{id}.out.bin")) == "ab"));
        folder.close(&"0".into());
        assert!(folder.open <= OPEN_FILES);
    }
}
