//! Processes that share a descriptor table.
//!
//! Who shares its table with the caller can put another socket under the number that was judged before the kernel
//! looks at it. That a process is made so can be seen in the flags of clone(2). Those of clone3(2) lie in memory, where a
//! filter can't look and others could change them behind ours: so there is no clone3, as before Linux 5.3, and as in the
//! sandboxes of browsers and containers. C libraries use clone then.

use crate::listener::Notification;
use nix::errno::Errno;
use sockstrace_backend::filter::OwnTrap;
use sockstrace_backend::{Abi, Comparison, Condition, arch};

/// What the filter does for that.
pub fn own_traps() -> [OwnTrap; 2] {
    let (files, thread) = (libc::CLONE_FILES as u64, libc::CLONE_THREAD as u64);
    let process = Comparison::Masked { mask: files | thread, expected: files };
    [
        OwnTrap { name: "clone", conditions: vec![Condition::new(0, process)], refused: None },
        OwnTrap { name: "clone3", conditions: Vec::new(), refused: Some(Errno::ENOSYS) },
    ]
}

/// Whether it is the call of [`own_traps`].
pub fn makes_sharer(notification: &Notification) -> bool {
    Abi::from_audit_arch(notification.arch).is_some_and(|abi| arch::clone(abi) == notification.number)
}
