//! The table of leak vectors: each is first shown to work natively (what it sends arrives), then run with
//! each backend under log, block, kill-tree and redirect.
//!
//! - log: reported with the right call, address, class and ABI; arrives; exit status as natively, but
//!   `--leak-exit-code` for 0.
//! - block: reported; nothing arrives; the call returns -1 and EPERM.
//! - kill-tree: reported; nothing arrives; 137; nothing is left running.
//! - redirect: reported; nothing arrives but at the proxy, by its own connections: all that can come by it does, and
//!   all else is blocked.
//!
//! `SOCKSTRACE_CASE=name` runs the rows whose name contains it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "vectors/check.rs"]
mod check;
#[path = "vectors/redirected.rs"]
mod redirected;
#[path = "vectors/rows.rs"]
mod rows;
#[path = "vectors/sink.rs"]
mod sink;
mod support;
#[path = "vectors/table.rs"]
mod table;

use check::{Mode, USER_NAMESPACE, check, is_available, skipped};
use support::cases::{root_is_alone, run_all, with_privilege};

/// What kernels may lack: rows that need it are skipped there, and named. All else must be there.
const OPTIONAL: &[&str] = &[
    "probe-smc",
    "probe-smc-ipproto",
    "probe-sctp",
    "probe-dccp",
    "probe-mptcp",
    "probe-mptcp-fastopen",
    "probe-udplite",
    "probe-xdp",
    "probe-vsock",
    "probe-uring",
    "probe-uring-option",
    "probe-uring-listen",
    "probe-uring-udplite",
    "probe-i386",
    "probe-tun",
    "probe-rthdr",
    "probe-flow-route",
    "probe-no-x32",
    "probe-nobody",
];

fn table(test: &str, mode: Mode, user: Option<u32>) {
    with_privilege(test, || {
        if user.is_some() && root_is_alone() {
            return println!("skipped: in a user namespace of the tests there is no other user");
        }
        let rows: Vec<_> = rows::rows()
            .into_iter()
            .filter(|row| row.needs.is_none_or(is_available) && (user.is_none() || !row.root))
            .collect();
        run_all(&rows, table::Vector::name, |row| check(row, mode, user));
    });
}

#[test]
fn every_row_is_a_row() {
    let rows = rows::rows();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let skipped = skipped(&rows);
    println!("{} rows; skipped because this kernel can't: {skipped:?}", rows.len());
    let unknown: Vec<_> = skipped.iter().filter(|(_, probe)| !OPTIONAL.contains(probe)).collect();
    assert!(unknown.is_empty(), "skipped, though every kernel can: {unknown:?}");
}

#[test]
fn natively() {
    table("natively", Mode::Native, None);
}

#[test]
fn seccomp_log() {
    table("seccomp_log", Mode::Log("seccomp"), None);
}

#[test]
fn seccomp_block() {
    table("seccomp_block", Mode::Block("seccomp"), None);
}

#[test]
fn seccomp_kill_tree() {
    table("seccomp_kill_tree", Mode::KillTree("seccomp"), None);
}

#[test]
fn ptrace_log() {
    table("ptrace_log", Mode::Log("ptrace"), None);
}

#[test]
fn ptrace_block() {
    table("ptrace_block", Mode::Block("ptrace"), None);
}

#[test]
fn ptrace_kill_tree() {
    table("ptrace_kill_tree", Mode::KillTree("ptrace"), None);
}

/// With programs in the kernel, where they may be loaded.
fn in_kernel(test: &str, mode: Mode) {
    if support::ebpf_works() {
        table(test, mode, None);
    }
}

#[test]
fn ebpf_log() {
    in_kernel("ebpf_log", Mode::Log("ebpf"));
}

#[test]
fn ebpf_block() {
    in_kernel("ebpf_block", Mode::Block("ebpf"));
}

#[test]
fn ebpf_kill_tree() {
    in_kernel("ebpf_kill_tree", Mode::KillTree("ebpf"));
}

#[test]
fn seccomp_redirect() {
    table("seccomp_redirect", Mode::Redirect("seccomp"), None);
}

#[test]
fn ptrace_redirect() {
    table("ptrace_redirect", Mode::Redirect("ptrace"), None);
}

#[test]
fn ebpf_redirect() {
    in_kernel("ebpf_redirect", Mode::Redirect("ebpf"));
}

/// An ordinary user's uid; nobody.
const ORDINARY: u32 = 65534;

#[test]
fn seccomp_block_unprivileged() {
    table("seccomp_block_unprivileged", Mode::Block("seccomp"), Some(ORDINARY));
}

#[test]
fn ptrace_block_unprivileged() {
    table("ptrace_block_unprivileged", Mode::Block("ptrace"), Some(ORDINARY));
}

#[test]
fn seccomp_kill_tree_unprivileged() {
    table("seccomp_kill_tree_unprivileged", Mode::KillTree("seccomp"), Some(ORDINARY));
}

/// In a user namespace of sockstrace's making nobody is out of reach.
fn in_user_namespace(test: &str, mode: Mode) {
    with_privilege(test, || {
        if root_is_alone() {
            return println!("skipped: in a user namespace of the tests there is no other user");
        }
        let rows: Vec<_> = rows::rows()
            .into_iter()
            .filter(|row| !row.root && row.options.is_empty() && row.needs.is_none_or(is_available))
            .map(|row| row.options(&[USER_NAMESPACE]))
            .collect();
        run_all(&rows, table::Vector::name, |row| check(row, mode, Some(ORDINARY)));
    });
}

#[test]
fn seccomp_block_in_user_namespace() {
    in_user_namespace("seccomp_block_in_user_namespace", Mode::Block("seccomp"));
}

#[test]
fn ptrace_block_in_user_namespace() {
    in_user_namespace("ptrace_block_in_user_namespace", Mode::Block("ptrace"));
}
