//! Files that are copied, not mapped, so that nothing is kept of where they lie.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// No larger file is copied, nor more of all together.
const LARGEST: u64 = 512 << 20;
const TOGETHER: u64 = 1 << 30;

static COPIED: AtomicU64 = AtomicU64::new(0);

/// The contents of a file, in memory of ours.
pub struct FileCopy {
    bytes: Vec<u8>,
    _share: Share,
}

/// What a copy has of all that may be copied.
struct Share(u64);

impl Share {
    fn take(size: u64) -> Option<Self> {
        let share = Self(size);
        let before = COPIED.fetch_add(size, Ordering::AcqRel);
        before.checked_add(size).is_some_and(|sum| sum <= TOGETHER).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        COPIED.fetch_sub(self.0, Ordering::AcqRel);
    }
}

impl FileCopy {
    /// Copies a whole file.
    ///
    /// # Errors
    /// What reading gives; `EFBIG` where it is too large, or too much is copied already.
    pub fn of(file: &File) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
        let size = file.metadata()?.len();
        let share = Some(size).filter(|size| *size <= LARGEST).and_then(Share::take).ok_or_else(too_large)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(size).map_err(|_| too_large())?).map_err(|_| too_large())?;
        file.take(size).read_to_end(&mut bytes)?;
        Ok(Self { bytes, _share: share })
    }
}

impl Deref for FileCopy {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_within_bounds() {
        let path = std::env::temp_dir().join(format!("copy-{}", std::process::id()));
        std::fs::write(&path, b"contents").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let copy = FileCopy::of(&file).unwrap();
        assert_eq!(&*copy, b"contents");
        // Without blocks on the disk.
        file.set_len(LARGEST + 1).unwrap();
        assert_eq!(FileCopy::of(&file).err().and_then(|error| error.raw_os_error()), Some(libc::EFBIG));
        assert!(Share::take(TOGETHER).is_none());
        drop(copy);
        assert!(Share::take(TOGETHER).is_some());
    }
}
