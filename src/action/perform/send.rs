//! Sending a message on the tracee's behalf.

use super::unix_path::Found;
use super::{Performed, Performer, Socket, failed, returned, sys};
use crate::action::identity;
use crate::action::interrupt::Broken;
use crate::operation::decode::{MSG_CMSG_COMPAT, Message, Payload};
use crate::operation::layout::{ControlBuilder, Unreadable, control_messages, number};
use crate::operation::{Family, SocketType};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::unistd::{Pid, getegid, geteuid};
use sockstrace_backend::proc::Status;
use sockstrace_backend::{Abi, MemoryError, Outcome, Patience, Tracee};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

/// How much of a stream's payload is copied and sent at a time.
const CHUNK: u64 = 1 << 20;

/// How much is tried where others wait.
const SHORT: u64 = 64 << 10;

/// No datagram is longer: what exceeds this is EMSGSIZE for every family (net.core.wmem_max is far less).
const LONGEST_DATAGRAM: u64 = 64 << 20;

/// What the kernel cuts a length to (`MAX_RW_COUNT`, include/linux/fs.h).
const LONGEST_CALL: u64 = 0x7FFF_F000;

impl Performer<'_> {
    /// Performs one message. `found` is the socket file that a UNIX path leads to.
    pub fn send(&self, socket: &Socket, message: &Message, abi: Abi, found: Option<&Found>) -> Performed {
        let stream = socket.kind.kind == SocketType::STREAM;
        let waits = stream && may_block(socket, message);
        if waits && self.patience == Patience::AtOnce && !self.may_try(socket, message) {
            return Outcome::NeedsPatience;
        }
        let control = match self.control(socket, message, abi) {
            Ok(control) => control,
            Err(errno) => return failed(errno),
        };
        self.bind_netlink(socket);
        let found = found.map(super::unix_address);
        let name = found.as_ref().or(message.name.as_ref()).map(super::Sockaddr::as_bytes);
        let privileged = socket.kind.is_internet() && asks_for_rights(&message.control, abi);
        let sender = Sender { performer: self, socket, message, name, control: &control.bytes, privileged, waits };
        if stream { sender.stream() } else { sender.datagram() }
    }

    /// Whether a stream's message can be tried without waiting, though the tracee would: what is begun can't be
    /// handed on, so that it must go whole or not at all; or else we must be able to wait for the rest.
    fn may_try(&self, socket: &Socket, message: &Message) -> bool {
        const CONNECTS: i32 = libc::MSG_FASTOPEN;
        let length = message.payload.length();
        match (socket.kind.family, socket.kind.protocol) {
            (Family::UNIX, _) => length <= sys::whole_on_unix_stream(socket.fd()),
            (Family::INET | Family::INET6, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => {
                self.tracee.may_linger()
                    && length <= SHORT
                    && message.control.is_empty()
                    && message.flags & (CONNECTS | libc::MSG_ZEROCOPY) == 0
                    && !sys::connects_by_sending(socket.fd())
            }
            _ => false,
        }
    }

    /// The control messages in native form, descriptors and credentials translated.
    fn control(&self, socket: &Socket, message: &Message, abi: Abi) -> Result<Control, Errno> {
        let mut control = Control::default();
        let mut builder = ControlBuilder::default();
        let unix = socket.kind.family == Family::UNIX;
        let mut names_sender = false;
        for entry in control_messages(&message.control, abi) {
            let entry = entry.map_err(|_| Errno::EINVAL)?;
            match (entry.level, entry.kind) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let data = control.duplicate(self.tracee, entry.data, unix)?;
                    builder.push(entry.level, entry.kind, &data);
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if unix => {
                    names_sender = true;
                    let data = translated_credentials(self.tracee, entry.data)?;
                    builder.push(entry.level, entry.kind, &data);
                }
                _ => builder.push(entry.level, entry.kind, entry.data),
            }
        }
        // Without, the receiver would see us as the sender; only root may name another.
        if unix && !names_sender && geteuid().is_root() {
            let identity = self.tracee.identity()?;
            let credentials = credentials(identity.pid.as_raw(), identity.uid, identity.gid);
            builder.push(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &credentials);
        }
        control.bytes = builder.finish();
        Ok(control)
    }
}

/// Native control messages, and the descriptors that they name (closed after the call).
#[derive(Default)]
struct Control {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Control {
    /// Our duplicates of the tracee's descriptors, as the data of a `SCM_RIGHTS` message. Other families
    /// ignore it (`__sock_cmsg_send`), whatever it holds.
    fn duplicate(&mut self, tracee: &dyn Tracee, data: &[u8], unix: bool) -> Result<Vec<u8>, Errno> {
        const SCM_MAX_FD: usize = 253; // include/net/scm.h
        if !unix {
            return Ok(Vec::new());
        }
        if data.len() / 4 > SCM_MAX_FD {
            return Err(Errno::EINVAL);
        }
        let mut own = Vec::with_capacity(data.len());
        for fd in data.chunks_exact(4) {
            let duplicate = tracee.duplicate(number(fd, 0, 4) as i32)?;
            own.extend(duplicate.as_raw_fd().to_ne_bytes());
            self.descriptors.push(duplicate);
        }
        Ok(own)
    }
}

/// `struct ucred`
fn credentials(pid: i32, uid: u32, gid: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    let fields = [pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()];
    bytes.iter_mut().zip(fields.as_flattened()).for_each(|(to, from)| *to = *from);
    bytes
}

/// Credentials as the tracee gave them, checked by the tracee's rights (`scm_check_creds`, net/core/scm.c)
/// rather than by ours, its process id turned into the one that we see.
fn translated_credentials(tracee: &dyn Tracee, data: &[u8]) -> Result<[u8; 12], Errno> {
    const CAPABLE: u64 = (1 << 21) | (1 << 7) | (1 << 6); // CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID
    if data.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let (pid, uid, gid) = (number(data, 0, 4) as i32, number(data, 4, 4) as u32, number(data, 8, 4) as u32);
    let status = Status::of(tracee.tid())?;
    let own = pid == status.tgid || own_pid_in_its_namespace(tracee.pid()) == Some(pid);
    let its_ids = [0, 1, 2].iter().any(|index| status.uid.get(*index) == Some(&uid))
        && [0, 1, 2].iter().any(|index| status.gid.get(*index) == Some(&gid));
    if !(own && its_ids) && status.capabilities & CAPABLE != CAPABLE {
        return Err(Errno::EPERM);
    }
    if !geteuid().is_root() {
        // The kernel lets us name ourselves alone.
        return Ok(credentials(std::process::id() as i32, geteuid().as_raw(), getegid().as_raw()));
    }
    Ok(credentials(if own { status.tgid } else { pid }, uid, gid))
}

/// The innermost of `NSpid` in /proc/PID/status.
fn own_pid_in_its_namespace(pid: Pid) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

struct Sender<'a> {
    performer: &'a Performer<'a>,
    socket: &'a Socket,
    message: &'a Message,
    name: Option<&'a [u8]>,
    control: &'a [u8],
    /// Some control messages may ask for a capability.
    privileged: bool,
    /// It is a stream's, and the tracee would block.
    waits: bool,
}

/// Whether the kernel may look at the sender's rights for control messages of an internet socket: it does for marks,
/// priorities, IP options and extension headers (`__sock_cmsg_send`, `ip_cmsg_send`, `ip6_datagram_send_ctl`), not for
/// what is named here.
fn asks_for_rights(control: &[u8], abi: Abi) -> bool {
    const FREE: [(i32, i32); 9] = [
        (libc::IPPROTO_IP, libc::IP_TOS),
        (libc::IPPROTO_IP, libc::IP_TTL),
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
        (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    ];
    control_messages(control, abi).flatten().any(|message| !FREE.contains(&(message.level, message.kind)))
}

fn may_block(socket: &Socket, message: &Message) -> bool {
    message.flags & libc::MSG_DONTWAIT == 0 && !sys::is_nonblocking(socket.fd())
}

impl Sender<'_> {
    /// A datagram (or a packet of a sequenced-packet socket) goes whole or not at all.
    fn datagram(&self) -> Performed {
        let length = self.message.payload.length();
        if length > LONGEST_DATAGRAM {
            return failed(Errno::EMSGSIZE);
        }
        let payload = match self.copied(0, length) {
            Ok((payload, copied)) if copied as u64 == length => payload,
            Ok(_) => return self.faulty(length),
            Err(unreadable) => return refused(unreadable),
        };
        match self.once(&payload, libc::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) if may_block(self.socket, self.message) => {
                self.performer.blocking(self.socket, || self.once(&payload, 0).map(|sent| sent as i64))
            }
            Err(errno) => self.failed(errno),
            Ok(sent) => returned(sent as i64),
        }
    }

    /// A stream goes as far as it can; where the tracee would block, to its end.
    fn stream(&self) -> Performed {
        let total = self.message.payload.length().min(LONGEST_CALL);
        let mut sent = 0_u64;
        loop {
            let wanted = total.saturating_sub(sent).min(CHUNK);
            let (chunk, copied) = match self.copied(sent, wanted) {
                Ok(copy) => copy,
                Err(_) if sent > 0 => return returned(sent as i64),
                Err(unreadable) => return refused(unreadable),
            };
            if copied == 0 && wanted > 0 {
                return if sent > 0 { returned(sent as i64) } else { self.faulty(wanted) };
            }
            // What can be read before a hole is sent.
            let chunk = chunk.get(..copied).unwrap_or_default();
            // Descriptors and the address of MSG_FASTOPEN go with the first piece alone.
            let first = sent == 0;
            let result = match (self.waits, self.performer.patience) {
                (true, Patience::MayBlock) => self.wait(chunk, first),
                (true, Patience::AtOnce) => self.try_first(chunk, first),
                (false, _) => self.piece(chunk, first, libc::MSG_DONTWAIT).map_err(Broken::Failed),
            };
            match result {
                // Nothing was sent yet: it can be handed on.
                Err(Broken::Failed(Errno::EAGAIN)) if first && self.waits && self.is_hurried() => {
                    return Outcome::NeedsPatience;
                }
                Ok(piece) => {
                    sent = sent.saturating_add(piece as u64);
                    if sent >= total || piece < chunk.len() || (chunk.len() as u64) < wanted {
                        return returned(sent as i64);
                    }
                }
                Err(_) if sent > 0 => return returned(sent as i64),
                Err(Broken::Interrupted) => return super::interrupted(self.socket),
                Err(Broken::Failed(errno)) => return self.failed(errno),
            }
        }
    }

    /// The payload can't be read. What the kernel finds wrong before it looks there, and that it then finds
    /// this, comes from a send whose payload nobody can read.
    fn faulty(&self, length: u64) -> Performed {
        let flags = self.flags() | libc::MSG_DONTWAIT;
        match sys::send_unreadable(self.socket.fd(), self.name, length as usize, self.control, flags) {
            Err(errno) => self.failed(errno),
            Ok(sent) => returned(sent as i64),
        }
    }

    /// A copy of the payload from `offset` on, and how much of it could be read.
    fn copied(&self, offset: u64, length: u64) -> Result<(Bytes, usize), Unreadable> {
        // The kernel goes on reading the pages of a zero-copy send after the call.
        let mut bytes = if self.message.flags & libc::MSG_ZEROCOPY == 0 || length == 0 {
            Bytes::Heap(vec![0; length as usize])
        } else {
            Bytes::Mapped(Mapping::new(length as usize)?)
        };
        let copied = fill(self.performer.tracee, &self.message.payload, offset, &mut bytes)?;
        Ok((bytes, copied))
    }

    fn is_hurried(&self) -> bool {
        self.performer.patience == Patience::AtOnce
    }

    fn wait(&self, chunk: &[u8], first: bool) -> Result<usize, Broken> {
        self.performer.watcher.run(self.performer.tracee, || self.piece(chunk, first, 0))
    }

    /// Without waiting, as long as nothing was sent; then to the end.
    fn try_first(&self, chunk: &[u8], first: bool) -> Result<usize, Broken> {
        let tried = self.piece(chunk, first, libc::MSG_DONTWAIT).map_err(Broken::Failed)?;
        match chunk.get(tried..) {
            // What went out counts, whatever becomes of the rest.
            Some(rest) if !rest.is_empty() && self.performer.tracee.may_linger() => {
                Ok(tried.saturating_add(self.wait(rest, false).unwrap_or(0)))
            }
            _ => Ok(tried),
        }
    }

    fn piece(&self, chunk: &[u8], first: bool, flags: i32) -> Result<usize, Errno> {
        if first {
            return self.once(chunk, flags);
        }
        let flags = (self.flags() & !libc::MSG_FASTOPEN) | flags;
        sys::send(self.socket.fd(), None, chunk, &[], flags)
    }

    fn once(&self, payload: &[u8], flags: i32) -> Result<usize, Errno> {
        let flags = self.flags() | flags;
        let send = || sys::send(self.socket.fd(), self.name, payload, self.control, flags);
        // A path is opened with somebody's rights: the tracee's.
        if self.socket.kind.family == Family::UNIX && self.name.is_some() {
            return identity::as_tracee(self.performer.tracee, send);
        }
        if self.privileged {
            return identity::with_rights_of(self.performer.tracee, send);
        }
        send()
    }

    /// SIGPIPE is the tracee's; that its pointers were short is its own affair.
    fn flags(&self) -> i32 {
        (self.message.flags & !MSG_CMSG_COMPAT) | libc::MSG_NOSIGNAL
    }

    fn failed(&self, errno: Errno) -> Performed {
        let signalled = errno == Errno::EPIPE
            && self.socket.kind.kind == SocketType::STREAM
            && self.message.flags & libc::MSG_NOSIGNAL == 0;
        if signalled {
            let (pid, tid) = (self.performer.tracee.pid().as_raw(), self.performer.tracee.tid().as_raw());
            // SAFETY: takes integers only. ESRCH: it is gone.
            unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGPIPE) };
        }
        failed(errno)
    }
}

fn refused(unreadable: Unreadable) -> Performed {
    match unreadable {
        Unreadable::Fault => failed(Errno::EFAULT),
        Unreadable::Denied => failed(Errno::EPERM),
        Unreadable::Gone => failed(Errno::ESRCH),
        Unreadable::WouldBlock => Outcome::NeedsPatience,
    }
}

/// A copied payload.
enum Bytes {
    Heap(Vec<u8>),
    Mapped(Mapping),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

/// Pages that are never used again: the kernel may hold on to them after they are unmapped.
struct Mapping {
    start: NonNull<libc::c_void>,
    length: NonZeroUsize,
}

impl Mapping {
    fn new(length: usize) -> Result<Self, Unreadable> {
        let length = NonZeroUsize::new(length).ok_or(Unreadable::Fault)?;
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
        // SAFETY: a fresh mapping of our own.
        let start = unsafe { mmap_anonymous(None, length, protection, flags) }.map_err(|_| Unreadable::Fault)?;
        Ok(Self { start, length })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, initialised with zeros, and ours alone until dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length.get()) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length.get()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this length; no slice outlives it.
        let unmapped = unsafe { munmap(self.start, self.length.get()) };
        debug_assert_eq!(unmapped, Ok(()), "a mapping of our own");
    }
}

/// Copies bytes of the payload from `offset` on, up to the first that can't be read. Returns how many.
fn fill(tracee: &dyn Tracee, payload: &Payload, offset: u64, bytes: &mut [u8]) -> Result<usize, Unreadable> {
    let (mut skip, mut filled) = (offset, 0_usize);
    for vector in payload.vectors() {
        if skip >= vector.length {
            skip = skip.saturating_sub(vector.length);
            continue;
        }
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        let take = usize::try_from(vector.length.saturating_sub(skip)).unwrap_or(usize::MAX).min(rest.len());
        let Some(base) = vector.base.checked_add(skip) else { break };
        let read = match tracee.read(base, rest.get_mut(..take).unwrap_or_default()) {
            Err(MemoryError::Fault) => break,
            other => other?,
        };
        filled = filled.saturating_add(read);
        skip = 0;
        if read < take || filled == bytes.len() {
            break;
        }
    }
    Ok(filled)
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.duplicate.as_fd()
    }
}
