//! Socket files that are covered in PROGRAM's own mount namespace.
//!
//! A UNIX socket with a path is reached by its file, whatever the network namespace. So those that somebody
//! listens on outside, and that PROGRAM may not connect to, have `/dev/null` mounted over them: connecting gives
//! ECONNREFUSED by the kernel, and who is not in the user namespace to which the mounts belong can't take them
//! off. What comes to be later, or is found by another link to the same file, is for the judge.

use crate::operation::{Address, Family, Operation, SocketKind, SocketType, UnixAddress};
use crate::policy::Policy;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// No more than that: the kernel has a limit too (/proc/sys/fs/mount-max).
const MOST: usize = 4096;

/// The files to be covered.
#[must_use]
pub fn covers(policy: &Policy) -> Vec<CString> {
    // What can't be read hides nothing: the judge holds it.
    let table = fs::read("/proc/self/net/unix").unwrap_or_default();
    let files: BTreeSet<PathBuf> = listed(&table)
        .filter_map(|path| fs::canonicalize(OsStr::from_bytes(path)).ok())
        .filter(|path| is_forbidden(policy, path))
        .collect();
    files.into_iter().take(MOST).filter_map(|path| CString::new(path.as_os_str().as_bytes()).ok()).collect()
}

fn is_forbidden(policy: &Policy, path: &std::path::Path) -> bool {
    let destination = Address::Unix(UnixAddress::Path(path.as_os_str().to_owned()));
    let kind = SocketKind { family: Family::UNIX, kind: SocketType::STREAM, protocol: 0 };
    policy.judge(&Operation::Connect { destination }, Some(&kind)).is_leak()
}

/// Paths of the sockets that can be connected to: net/unix/af_unix.c, `unix_seq_show`: Num, RefCount, Protocol,
/// Flags, Type, St, Inode, Path.
fn listed(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    table.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
        let slash = line.iter().position(|&byte| byte == b'/')?;
        let (fields, path) = line.split_at_checked(slash)?;
        let fields: Vec<&str> = str::from_utf8(fields).ok()?.split_ascii_whitespace().collect();
        // Seven fields, and the path begins with the slash: relative ones have something before it.
        let [_, _, _, flags, kind, _, _] = fields.as_slice() else { return None };
        let listens = u32::from_str_radix(flags, 16).ok()? & LISTENING != 0;
        (listens || *kind == DATAGRAM).then_some(path)
    })
}

/// `__SO_ACCEPTCON` (include/linux/net.h).
const LISTENING: u32 = 0x1_0000;
/// `SOCK_DGRAM`
const DATAGRAM: &str = "0002";

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn sockets_that_can_be_connected_to() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff0: 00000002 00000000 00010000 0001 01  1 /run/a b\n\
            ffff0: 00000003 00000000 00000000 0001 03  2 /run/connected\n\
            ffff0: 00000003 00000000 00000000 0002 01  3 /run/log\n\
            ffff0: 00000002 00000000 00010000 0001 01  4 @/abstract\n\
            ffff0: 00000002 00000000 00010000 0001 01  5 relative/path\n\
            ffff0: 00000002 00000000 00010000 0005 01  6\n";
        assert_eq!(listed(table).collect::<Vec<_>>(), [&b"/run/a b"[..], b"/run/log"]);
    }
}
