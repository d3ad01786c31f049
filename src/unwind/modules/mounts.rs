//! The file systems that last: they were there before the program began, and no other process serves them.
//!
//! A file that is kept open, or mapped, keeps its file system from being unmounted, and of one that a program serves
//! (FUSE) or another machine does, its server from ending: whatever the program mounts for itself is only copied
//! ([`super::copy`]).

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::LazyLock;

#[derive(Debug, Default, PartialEq, Eq)]
struct Mounts {
    ids: HashSet<u64>,
    devices: HashSet<(u32, u32)>,
}

static LASTING: LazyLock<Mounts> = LazyLock::new(|| {
    // Names of folders can be anything.
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    Mounts::parse(&String::from_utf8_lossy(&text))
});

/// Takes what is mounted now for what lasts. To be called before the program begins; later calls change nothing.
pub fn note() {
    LazyLock::force(&LASTING);
}

/// Whether it is the device of a file system that lasts.
pub fn has_device(device: (u32, u32)) -> bool {
    LASTING.devices.contains(&device)
}

/// Whether a file was opened by way of a mount that lasts. Its file system is not asked.
pub fn holds(file: &File) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.is_some_and(|id: u64| LASTING.ids.contains(&id))
}

/// Whether such a file system is served by another process or another machine.
fn is_served(kind: &str) -> bool {
    ["fuse", "nfs", "cifs", "smb", "9p", "ceph", "afs"].iter().any(|prefix| kind.starts_with(prefix))
}

impl Mounts {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5))
    fn parse(text: &str) -> Self {
        let mut mounts = Self::default();
        for line in text.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let mut fields = head.split(' ');
            let id = fields.next().and_then(|id| id.parse().ok());
            let device = fields.nth(1).and_then(|device| device.split_once(':'));
            let device = device.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            let (Some(id), Some(device)) = (id, device) else { continue };
            if tail.split(' ').next().is_some_and(|kind| !is_served(kind)) {
                mounts.ids.insert(id);
                mounts.devices.insert(device);
            }
        }
        mounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts() {
        let mounts = Mounts::parse(
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
             41 22 0:36 / /mnt/a\\040b rw - fuse.sshfs x rw\n\
             garbage - ext4\n\
             42 22 0:37 / /tmp rw master:3 propagate_from:2 - tmpfs tmpfs rw\n\
             43 22 0:38 / /net rw - nfs4 server:/ rw\n",
        );
        let expected = Mounts { ids: HashSet::from([22, 42]), devices: HashSet::from([(254, 0), (0, 37)]) };
        assert_eq!(mounts, expected);
    }

    #[test]
    fn our_own_program_lasts() {
        note();
        assert!(holds(&File::open("/proc/self/exe").unwrap()));
    }
}
