//! Where the cgroup2 file system is.

use std::fs;
use std::path::PathBuf;

/// What to do where there is none.
pub const MISSING: &str = "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup";

/// The root of the cgroup2 hierarchy; it may be mounted anywhere, or not at all.
pub fn root() -> Option<PathBuf> {
    root_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// From lines of proc_pid_mountinfo(5): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE …`
fn root_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescaped(point)))
    })
}

/// Space, tab, newline and backslash are written in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_wherever_it_is_mounted() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw\n\
                     42 31 0:38 /some/group /mnt/part rw - cgroup2 cgroup2 rw\n\
                     41 31 0:38 / /sys/fs/cgroup\\040x rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(root_in(table), Some("/sys/fs/cgroup x".into()));
        assert_eq!(root_in("41 31 0:38 / /x rw - cgroup cgroup rw\n"), None);
    }
}
