//! What a backend sees of processes that it doesn't hold up: operations on sockets that have ended, TCP's
//! states, processes. Nothing here can be answered.

use crate::call::Abi;
use crate::captured::{Captured, Wanted};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

macro_rules! socket_calls {
    ({ $($(#[$doc:meta])* $variant:ident = $name:literal,)* }
     { $($(#[$only_doc:meta])* $only:ident = $only_name:literal,)* }) => {
        /// Operations on sockets.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum SocketCall { $($(#[$doc])* $variant,)* $($(#[$only_doc])* $only,)* }

        impl SocketCall {
            /// Those that can be watched.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Those that are told where they are refused, and can't be watched.
            pub const UNWATCHED: &'static [Self] = &[$(Self::$only,)*];

            /// The system call's name, as in syscalls(2).
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* $(Self::$only => $only_name,)* }
            }
        }
    };
}

socket_calls! {
{
    /// bind(2)
    Bind = "bind",
    /// connect(2)
    Connect = "connect",
    /// listen(2)
    Listen = "listen",
    /// accept(2)
    Accept = "accept",
    /// accept4(2)
    Accept4 = "accept4",
    /// sendto(2), and send(2) where it is a call of its own
    Sendto = "sendto",
    /// sendmsg(2)
    Sendmsg = "sendmsg",
    /// sendmmsg(2)
    Sendmmsg = "sendmmsg",
    /// recvfrom(2), and recv(2) where it is a call of its own
    Recvfrom = "recvfrom",
    /// recvmsg(2)
    Recvmsg = "recvmsg",
    /// recvmmsg(2)
    Recvmmsg = "recvmmsg",
}
{
    /// socket(2)
    Socket = "socket",
    /// setsockopt(2)
    Setsockopt = "setsockopt",
}
}

/// What is to be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// These operations.
    pub calls: Vec<SocketCall>,
    /// Changes of TCP's states.
    pub states: bool,
    /// Only processes that all of these filters let through.
    pub filters: Filters,
    /// [`Filters::trees`] are what is attached to: what they have open already is told first, and watching ends
    /// with the last of them.
    pub attaches: bool,
}

/// Which processes are watched: of each list that isn't empty, one entry must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// These processes and their descendants.
    pub trees: Vec<Pid>,
    /// The thread's name: at most 15 bytes.
    pub names: Vec<OsString>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Network namespaces of the thread, by the inode numbers of /proc/PID/ns/net.
    pub netns: Vec<u32>,
    /// Directories of the cgroup2 file system: the cgroup and those below it.
    pub cgroups: Vec<PathBuf>,
}

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// The process; 0 where it isn't known.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// Its name at that time.
    pub name: OsString,
    /// Its real user id.
    pub uid: u32,
}

/// A socket's kind, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `AF_*`
    pub family: i32,
    /// `SOCK_*`
    pub kind: i32,
    /// `IPPROTO_*`
    pub protocol: i32,
}

/// How an operation was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// By a system call.
    Call(Abi),
    /// By an io_uring, which was entered through this interface.
    IoUring(Abi),
    /// It was refused in the kernel, on whose request isn't known.
    Unknown,
}

/// Where an address was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is the copy that the kernel made and used.
    Kernel,
    /// The caller's memory: another thread may have changed it since.
    Memory,
}

/// What a message's control data say of its way, where the kernel's copy of them was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Course {
    /// Nothing, or they weren't looked at.
    #[default]
    ByDestination,
    /// By other hosts.
    SourceRouted,
    /// By an interface or a routing table of the program's choice.
    Chosen,
    /// They can't be told: there are more of them than are looked at.
    Untold,
}

/// An operation that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedCall {
    /// When.
    pub time: SystemTime,
    /// Who.
    pub actor: Actor,
    /// What.
    pub call: SocketCall,
    /// How.
    pub interface: Interface,
    /// The caller's descriptor; `None` for a registered file of an io_uring.
    pub fd: Option<i32>,
    /// What it is; `None` where it is no socket.
    pub socket: Option<Kind>,
    /// The `sockaddr` that was given, or was received; of a UNIX socket without one that of its peer.
    pub address: Option<(Vec<u8>, Origin)>,
    /// The socket's own address, of the internet families.
    pub local: Option<SocketAddr>,
    /// The address that it is connected to (of accept: the new socket).
    pub peer: Option<SocketAddr>,
    /// `MSG_*`, of a send.
    pub flags: i32,
    /// The way that a message takes.
    pub course: Course,
    /// What it gave (negative: −errno). `None` where its thread was killed in it, or a signal interrupted it.
    pub result: Option<i64>,
    /// What the rules in the kernel said: whether it leaks. `None` where they weren't asked.
    pub leaks: Option<bool>,
    /// What became of a leak, where connections are diverted.
    pub diversion: Option<Diversion>,
    /// The caller's stack as it was at the call's end, where it was asked for.
    pub stack: Option<Box<UserStack>>,
}

/// What became of a leak, where connections are diverted ([`crate::hooks::Hooks::holes`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diversion {
    /// It was diverted; or it was refused as the kernel does that, because nobody can connect there.
    Made,
    /// It was refused, being no TCP connection.
    NoStream,
    /// … because its socket speaks multipath TCP.
    Multipath,
    /// … because its socket is bound to a device.
    BoundToDevice,
    /// … because its socket is in another network namespace than the holes.
    Elsewhere,
    /// … because there is no hole for it.
    NoHole,
}

/// A connection that waits at a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverted {
    /// Its socket (`SO_COOKIE`).
    pub cookie: u64,
    /// Whose it is.
    pub pid: i32,
    /// Where its packets come from.
    pub local: SocketAddr,
    /// The hole.
    pub hole: SocketAddr,
    /// Where the program wants to go.
    pub destination: SocketAddr,
    /// The sequence number of its SYN.
    pub sequence: u32,
}

/// A copy of a thread's registers and of its stack.
#[derive(Clone)]
pub struct UserStack {
    /// The registers; of segments only those that the kernel keeps.
    pub registers: libc::user_regs_struct,
    /// The address of the first byte.
    pub base: u64,
    /// The memory there.
    pub bytes: Vec<u8>,
    /// What the process had loaded then, as far as it tells debuggers.
    pub loaded: Vec<LoadedFile>,
}

/// An ELF file that a process has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFile {
    /// Its path; `None`: it is the program itself.
    pub path: Option<PathBuf>,
    /// What to add to its addresses as linked.
    pub bias: u64,
}

impl fmt::Debug for UserStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserStack").field("base", &self.base).finish_non_exhaustive()
    }
}

impl PartialEq for UserStack {
    fn eq(&self, other: &Self) -> bool {
        let sp = |stack: &Self| crate::look::stack_pointer(&stack.registers);
        (sp(self), self.base, &self.bytes) == (sp(other), other.base, &other.bytes)
    }
}

impl Eq for UserStack {}

/// A change of a TCP state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// When.
    pub time: SystemTime,
    /// Whose socket it is, as far as that is known.
    pub actor: Option<Actor>,
    /// What it is.
    pub socket: Kind,
    /// Its own address.
    pub local: SocketAddr,
    /// The other's.
    pub remote: SocketAddr,
    /// `TCP_*` of <`net/tcp_states.h`>.
    pub old: u8,
    /// As `old`.
    pub new: u8,
}

/// A socket that was there before watching began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingSocket {
    /// When it was looked at.
    pub time: SystemTime,
    /// A process that has it.
    pub actor: Actor,
    /// Its descriptor there.
    pub fd: i32,
    /// What it is.
    pub socket: Kind,
    /// It waits for connections.
    pub listens: bool,
    /// Its own address, of the internet families.
    pub local: Option<SocketAddr>,
    /// The address that it is connected to.
    pub peer: Option<SocketAddr>,
    /// Of a UNIX socket the `sockaddr` of its peer, or its own where it has none.
    pub name: Option<Vec<u8>>,
}

/// What the kernel says of an exec, for when /proc doesn't any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// The path that was executed, of scripts that of their interpreter, where it is absolute.
    pub path: Option<PathBuf>,
    /// The process's parent.
    pub parent: Option<i32>,
}

/// What a watching backend reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// There is a socket already.
    Existing(ExistingSocket),
    /// An operation ended.
    Call(ObservedCall),
    /// A TCP connection's state changed.
    State(StateChange),
    /// A process runs a new program.
    Exec(SystemTime, Actor, Executed),
    /// A process ended, with this wait status (wait(2)).
    Exit(SystemTime, Actor, i32),
    /// A connection was diverted.
    Diverted(Diverted),
    /// A process made the first call that was judged in the kernel, let go and not told.
    Acted(Actor),
    /// So many calls were let go and not told since the last report of this.
    Passed(u64),
    /// So many of the above were lost since the last report of this.
    Lost(u64),
    /// All that had happened by now has been told.
    CaughtUp,
}

/// Whom observations are told. Called by one thread.
pub trait Observer {
    /// Something was seen.
    fn observe(&self, observation: Observation);

    /// What is to be captured.
    fn captures(&self) -> Option<Wanted> {
        None
    }

    /// Something was captured.
    fn captured(&self, _: Captured) {}

    /// Watching has begun: what happens from now on is seen, but for what `limits` says in words for a person.
    fn begun(&self, limits: &[String]);
}
