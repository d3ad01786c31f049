//! Payloads that a backend with programs in the kernel copies there, while nobody is held up.

use crate::call::{Abi, Syscall};
use crate::observed::{Actor, Kind};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

/// What is to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Sockets of these families (`AF_*`); `None`: of any.
    pub families: Option<Vec<i32>>,
    /// Bytes of one call, at most.
    pub most_bytes: u64,
    /// How many descriptors of a process are looked at for sockets that are there already.
    pub descriptors: usize,
}

/// What was captured, in the order of the calls' ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// PROGRAM runs, from this file, as far as 127 bytes name it.
    Ready(SystemTime, Actor, PathBuf),
    /// Something was done with a socket.
    Seen(Box<Seen>),
    /// The socket with this inode number is held by nobody any more.
    Gone(SystemTime, u64),
    /// What was lost of the socket with this inode number since the last time.
    Missed(u64, Missed),
    /// So many records were lost besides.
    Lost(u64),
}

/// What there was no room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// Calls, or messages, and the bytes that the program read in them.
    pub calls_in: u64,
    /// Bytes of these.
    pub bytes_in: u64,
    /// Calls, or messages, and the bytes that it wrote.
    pub calls_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
}

impl Missed {
    /// Whether there is nothing missing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A socket on which something was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub time: SystemTime,
    /// Who.
    pub actor: Actor,
    /// The caller's descriptor.
    pub fd: i32,
    /// The socket's inode number, which names it as long as somebody holds it.
    pub inode: u64,
    /// What it is.
    pub socket: Kind,
    /// It has a peer.
    pub connected: bool,
    /// Its own address, of the internet families.
    pub local: Option<SocketAddr>,
    /// The address that it is connected to.
    pub peer: Option<SocketAddr>,
    /// Of a UNIX socket the `sockaddr` of its peer, or its own where that has no name.
    pub name: Option<Vec<u8>>,
    /// What was lost of it before this.
    pub missed: Missed,
    /// What was done.
    pub deed: Deed,
}

/// What is done with a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Nothing: it was there already.
    Existing,
    /// connect(2)
    Connected,
    /// accept(2) gave it.
    Accepted,
    /// socketpair(2) gave it.
    Paired,
    /// listen(2)
    Listens,
    /// A descriptor of it was closed.
    Closed,
    /// A call failed; whether it would have written.
    Failed(Syscall, Errno, bool),
    /// Bytes went through it: one call, or one message of it.
    Moved(Moved),
}

/// A message, or what a call moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// By which call.
    pub call: Syscall,
    /// Through which interface.
    pub abi: Abi,
    /// The program wrote it.
    pub out: bool,
    /// So many bytes, as the kernel says.
    pub size: u64,
    /// `MSG_*`
    pub flags: i32,
    /// The first of them, as the caller's memory had them when the call had ended.
    pub bytes: Vec<u8>,
    /// Why there are no more.
    pub missing: Option<Missing>,
    /// The `sockaddr` that came with it.
    pub address: Option<Vec<u8>>,
    /// The control messages that came with it, perhaps not all.
    pub control: Vec<u8>,
    /// Of descriptors in there, those that are sockets, with their inode numbers.
    pub passed: Vec<(i32, u64)>,
    /// The file that it was read from.
    pub source: Option<Source>,
}

/// Why bytes are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// There was no room between the kernel and us.
    NoRoom,
    /// The caller's memory couldn't be read.
    Unreadable,
    /// They never were in the caller's memory.
    Elsewhere,
}

/// A part of a file of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The caller's descriptor.
    pub fd: i32,
    /// The file's inode number.
    pub inode: u64,
    /// Where it begins.
    pub offset: u64,
}
