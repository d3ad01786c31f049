//! Whether a UNIX socket with a path was bound inside: sock_diag(7).
//!
//! Such a socket belongs to the network namespace in which it was made, so that the kernel lists inside just
//! those that PROGRAM's own processes have bound.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const BY_FAMILY: u16 = 20; // SOCK_DIAG_BY_FAMILY
const REQUEST_DUMP: u16 = 0x301; // NLM_F_REQUEST, NLM_F_DUMP
const DONE: u16 = 3;
const ERROR: u16 = 2;
const SHOW_VFS: u32 = 2;
const VFS: u16 = 1;
/// struct nlmsghdr; struct `unix_diag_msg`; struct nlattr.
const HEADER: usize = 16;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;

/// Whether a socket of the namespace is bound to the file with this device and inode number (as stat(2) has
/// them). `diagnosis` is a `NETLINK_SOCK_DIAG` socket of the namespace.
pub fn is_bound_to(diagnosis: BorrowedFd<'_>, device: u64, inode: u64) -> Result<bool, Errno> {
    let mut request = 40_u32.to_ne_bytes().to_vec();
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(SHOW_VFS.to_ne_bytes());
    request.extend([0; 8]);
    // SAFETY: bytes of our own and their length.
    Errno::result(unsafe { libc::send(diagnosis.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) })?;
    let mut buffer = vec![0_u8; 32 << 10];
    let mut found = false;
    // To the end even when it was found: what is left would answer the next question.
    loop {
        // SAFETY: a buffer of our own and its size.
        let length = unsafe { libc::recv(diagnosis.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = match Errno::result(length) {
            Err(Errno::EINTR) => continue,
            other => other? as usize,
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                DONE => return Ok(found),
                ERROR => return Err(Errno::EPROTO),
                _ => found |= vfs(body).is_some_and(|file| file == (device, inode & 0xFFFF_FFFF)),
            }
            rest = next;
        }
    }
}

fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Device and inode number of the file that a listed socket is bound to.
fn vfs(body: &[u8]) -> Option<(u64, u64)> {
    let mut rest = body.get(MESSAGE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(ATTRIBUTE..length)?;
        if kind == VFS {
            let inode = u32::from_ne_bytes(*value.first_chunk()?);
            let device = u32::from_ne_bytes(*value.get(4..)?.first_chunk()?);
            // The kernel's own form: MKDEV, include/linux/kdev_t.h.
            return Some((libc::makedev(device >> 20, device & 0xF_FFFF), inode.into()));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}
