//! Calls by which a program has somebody else act: the kernel, whose own connections pass no judge, or a
//! process outside of the tree.

use super::decode::Arguments;
use super::layout::{Unreadable, copy};
use nix::unistd::Pid;
use sockstrace_backend::{Syscall, Tracee, proc, tree};
use std::os::fd::{AsRawFd, OwnedFd};

/// ioctl(2) requests that put characters into a terminal's input: ioctl_tty(2), ioctl_console(2).
pub const TIOCSTI: i32 = 0x5412;
/// See [`TIOCSTI`].
pub const TIOCLINUX: i32 = 0x541C;

/// `PTRACE_ATTACH` and `PTRACE_SEIZE` of <linux/ptrace.h>.
pub const ATTACHING: [i32; 2] = [16, 0x4206];

/// Commands of bpf(2), `enum bpf_cmd` of <linux/bpf.h>, by which programs in the kernel are attached, detached, run, or
/// taken hold of, with their maps. They can send packets and lead connections another way, and the ebpf backend's judge.
/// To load them, to make maps and to ask what there is harms nobody.
pub const BPF_COMMANDS: [i32; 10] = [
    8,  // BPF_PROG_ATTACH
    9,  // BPF_PROG_DETACH
    10, // BPF_PROG_TEST_RUN
    13, // BPF_PROG_GET_FD_BY_ID
    14, // BPF_MAP_GET_FD_BY_ID
    17, // BPF_RAW_TRACEPOINT_OPEN
    28, // BPF_LINK_CREATE
    29, // BPF_LINK_UPDATE
    30, // BPF_LINK_GET_FD_BY_ID
    34, // BPF_LINK_DETACH
];

/// File systems whose server the kernel itself connects to.
const NETWORK_FILE_SYSTEMS: [&[u8]; 16] = [
    b"9p",
    b"afs",
    b"beegfs",
    b"ceph",
    b"cifs",
    b"coda",
    b"gfs2",
    b"lustre",
    b"ncpfs",
    b"nfs",
    b"nfs4",
    b"ocfs2",
    b"orangefs",
    b"pvfs2",
    b"smb3",
    b"smbfs",
];

/// The longest name of a file system that is looked at; the kernel knows none so long.
const LONGEST_NAME: usize = 16;

/// What a delegating call has others do; `None` where it is harmless.
pub fn delegated(call: &Arguments, tracee: &dyn Tracee) -> Result<Option<&'static str>, Unreadable> {
    Ok(match call.syscall {
        Syscall::Bpf => {
            Some("attaches, detaches, runs or takes hold of programs in the kernel, which can lead packets")
        }
        // Without callout information the kernel only searches (request_key(2)).
        Syscall::RequestKey => Some("has the kernel start a helper outside the tree, as for DNS queries"),
        Syscall::Ptrace => outside(tracee, call.int(1)).then_some("takes control of a process outside the tree"),
        Syscall::ProcessVmWritev => {
            outside(tracee, call.int(0)).then_some("writes into the memory of a process outside the tree")
        }
        Syscall::Mount => mounts_network(tracee, call.arg(2))?,
        Syscall::Fsopen => mounts_network(tracee, call.arg(0))?,
        Syscall::Ioctl => (!reads_own_terminal(tracee, call.int(0)))
            .then_some("types into a terminal that others read commands from"),
        _ => None,
    })
}

fn mounts_network(tracee: &dyn Tracee, name: u64) -> Result<Option<&'static str>, Unreadable> {
    let mut bytes = [0; LONGEST_NAME];
    let mut length = 0_usize;
    // Byte for byte: what follows the name may not be readable.
    while let Some(byte) = bytes.get_mut(length..length.saturating_add(1)) {
        copy(tracee, name.wrapping_add(length as u64), byte)?;
        if byte == [0] {
            break;
        }
        length = length.saturating_add(1);
    }
    let name = bytes.get(..length).unwrap_or_default();
    let is_network = NETWORK_FILE_SYSTEMS.contains(&name);
    Ok(is_network.then_some("mounts a file system for which the kernel itself connects to a server"))
}

/// Whether `pid`, as the tracee numbers processes, is none of the tree.
fn outside(tracee: &dyn Tracee, pid: i32) -> bool {
    let namespace = |pid: Pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (theirs, ours) = (namespace(tracee.tid()), namespace(Pid::this()));
    // In a namespace that the tree made there is nobody else; in ours the numbers are the same.
    theirs.is_none() || (theirs == ours && !tree::is_within(Pid::from_raw(pid)))
}

/// Whether the terminal is that of the tracee's session, and that is led by a process of the tree (a terminal
/// multiplexer's shell, say). Into others root may type.
fn reads_own_terminal(tracee: &dyn Tracee, fd: i32) -> bool {
    let leads = proc::session(tracee.pid()).is_some_and(tree::is_within);
    let own = proc::terminal(tracee.pid());
    // Nobody may put another one under its number meanwhile.
    leads && own.is_some() && tracee.is_alone() && tracee.duplicate(fd).is_ok_and(|fd| device(&fd) == own)
}

/// The device number of a terminal, whatever path it was opened by.
fn device(terminal: &OwnedFd) -> Option<u32> {
    const TIOCGDEV: libc::Ioctl = 0x8004_5432; // <asm-generic/ioctls.h>
    let mut device = 0_u32;
    // SAFETY: the kernel writes an unsigned int.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), TIOCGDEV, &raw mut device) };
    (result == 0).then_some(device)
}
