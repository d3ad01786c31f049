//! Calls at their entry and at their exit, and what is recorded of them.

use super::book::{Book, Connection};
use super::folder::Folder;
use super::observed::Observed;
use super::record::{Direction, Kind, Record, Who};
use super::transfer::{EARLY, Message, Step, gather, surroundings};
use super::wish::Wish;
use super::writer::{Item, Writer};
use super::{notes, pipes};
use crate::event::{self, errno_name};
use crate::operation::decode::Arguments;
use crate::operation::layout::{self, Unreadable};
use crate::operation::{Address, SocketKind, SocketType};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::captured::{Captured, Wanted};
use sockstrace_backend::remote::Remote;
use sockstrace_backend::{Abi, InterceptedCall, Patience, Syscall, Tracee, Trap, proc};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The calls that a capture sees, but for `socketcall`, which comes with them.
const CALLS: [Syscall; 24] = [
    Syscall::Accept,
    Syscall::Accept4,
    Syscall::Close,
    Syscall::Connect,
    Syscall::Listen,
    Syscall::Preadv2,
    Syscall::Pwritev2,
    Syscall::Read,
    Syscall::Readv,
    Syscall::Recv,
    Syscall::Recvfrom,
    Syscall::Recvmmsg,
    Syscall::RecvmmsgTime64,
    Syscall::Recvmsg,
    Syscall::Send,
    Syscall::Sendfile,
    Syscall::Sendfile64,
    Syscall::Sendmmsg,
    Syscall::Sendmsg,
    Syscall::Sendto,
    Syscall::Socketpair,
    Syscall::Splice,
    Syscall::Write,
    Syscall::Writev,
];

/// The traps for `judged` calls and for those that a capture sees.
#[must_use]
pub fn traps(judged: &[Trap]) -> Vec<Trap> {
    // One without conditions takes the place of those with.
    let own = || CALLS.into_iter();
    judged
        .iter()
        .filter(|trap| own().all(|call| call != trap.syscall))
        .cloned()
        .chain(own().map(Trap::always))
        .collect()
}

/// A capture that is being made. Shared by all threads of a backend.
pub struct Recording {
    wish: Arc<Wish>,
    book: Arc<Book>,
    writer: Writer,
    pending: Mutex<HashMap<u64, Pending>>,
    /// What programs in the kernel tell.
    observed: Observed,
}

/// A call that is on its way.
struct Pending {
    step: Step,
    abi: Abi,
    syscall: Syscall,
    fd: i32,
    inode: Option<u64>,
    kind: Option<SocketKind>,
    /// What it writes, a message each.
    pieces: Vec<Piece>,
    /// Where else the bytes are: a file from an offset on, or a pipe.
    source: Option<(OwnedFd, u64)>,
    /// Bytes go into the socket.
    out: bool,
}

/// What is written, as far as it was copied.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    to: Option<Address>,
    notes: Option<String>,
}

/// A message that was moved.
struct Moved {
    size: u64,
    bytes: Vec<u8>,
    address: Option<Address>,
    notes: Option<String>,
}

impl Recording {
    /// Makes the directory, and starts to write.
    ///
    /// # Errors
    /// What failed, in words for the user.
    pub fn start(wish: Wish) -> Result<Self, String> {
        let folder = Folder::create(&wish.directory)?;
        let failed = |errno: Errno| format!("capturing: {}", errno.desc());
        let wish = Arc::new(wish);
        let book = Arc::new(Book::new(Arc::clone(&wish)).map_err(failed)?);
        let swept = Arc::clone(&book);
        let writer = Writer::start(folder, wish.total, Box::new(move |_| swept.sweep())).map_err(failed)?;
        Ok(Self { wish, book, writer, pending: Mutex::default(), observed: Observed::default() })
    }

    /// Writes the `init` record.
    pub fn begin(&self, backend: &str) {
        let mut record = Record::now(Kind::Init, Who { pid: Some(Pid::this().as_raw()), ..Who::default() });
        let families = match &self.wish.families {
            None => "all families".to_owned(),
            Some(families) => families.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let version = env!("CARGO_PKG_VERSION");
        let (event, total) = (self.wish.per_event, self.wish.total);
        record.raw = Some(format!(
            "sockstrace {version}, {backend}: {families}, at most {event} bytes of an event and {total} of all"
        ));
        self.writer.put(record.into());
    }

    /// What a backend is to capture by itself.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted {
            families: self.wish.families.as_ref().map(|families| families.iter().map(|family| family.0).collect()),
            most_bytes: self.wish.per_event,
            descriptors: self.wish.descriptors,
        }
    }

    /// A backend has captured this by itself.
    pub fn observed(&self, captured: Captured) {
        self.observed.take(captured, &self.wish, &self.writer);
    }

    /// What runs already is watched, `pid` or the whole machine: writes the `ready` record.
    pub fn watches(&self, pid: Option<Pid>) {
        self.observed.attach();
        let process = pid.and_then(proc::thread_name).map(|name| name.to_string_lossy().into());
        let number = pid.map(Pid::as_raw);
        let mut record = Record::now(Kind::Ready, Who { pid: number, tid: number, process });
        record.raw = pid.and_then(proc::executable).map(|path| path.to_string_lossy().into_owned());
        self.writer.put(record.into());
    }

    /// PROGRAM runs: writes the `ready` record, and finds the sockets that it has got.
    pub fn ready(&self, pid: Pid) {
        let process = proc::thread_name(pid).map(|name| name.to_string_lossy().into());
        let who = Who { pid: Some(pid.as_raw()), tid: Some(pid.as_raw()), process };
        let mut record = Record::now(Kind::Ready, who.clone());
        record.raw = proc::executable(pid).map(|path| path.to_string_lossy().into_owned());
        self.writer.put(record.into());
        let Ok(remote) = Remote::open(pid) else { return };
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let mut numbers: Vec<i32> = numbers.collect();
        numbers.sort_unstable();
        for fd in numbers.into_iter().take(self.wish.descriptors) {
            let Some(inode) = remote.socket_inode(fd) else { continue };
            let (who, duplicate) = (|| who.clone(), |fd| remote.duplicate(fd));
            if self.book.enter(inode, fd, &who, &duplicate).is_some() {
                self.open(inode, fd, (None, false), "there when the program started", &who, &duplicate);
                self.book.leave(inode);
            }
        }
    }

    /// A call begins. `false`: come again with more patience.
    pub fn enters(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> bool {
        match self.begun(call, tracee) {
            Ok(Some(pending)) => {
                if let Some(before) = self.pending().insert(call.id, pending) {
                    // The same call, asked of before.
                    self.drop_pending(&before);
                }
                true
            }
            Err(Unreadable::WouldBlock) => patience == Patience::MayBlock,
            Ok(None) | Err(_) => true,
        }
    }

    fn begun(&self, call: &InterceptedCall, tracee: &dyn Tracee) -> Result<Option<Pending>, Unreadable> {
        // Most calls of most programs are about files.
        if matches!(
            call.syscall,
            Syscall::Read | Syscall::Write | Syscall::Readv | Syscall::Writev | Syscall::Close
        ) && tracee.socket_inode(call.int(0)).is_none()
        {
            return Ok(None);
        }
        let Some(arguments) = Arguments::of(call, tracee)? else { return Ok(None) };
        let Some(step) = Step::of(&arguments, tracee)?.filter(|step| !step.takes_nothing()) else {
            return Ok(None);
        };
        let (abi, syscall) = (call.abi, arguments.syscall);
        if let Step::Pair { .. } = step {
            return Ok(Some(Pending::new(step, abi, syscall, -1)));
        }
        let (fd, inode, out) = match step {
            Step::Pipe { input, output, .. } => match (tracee.socket_inode(input), tracee.socket_inode(output)) {
                (_, Some(inode)) => (output, inode, true),
                (Some(inode), None) => (input, inode, false),
                (None, None) => return Ok(None),
            },
            Step::Memory { fd, direction, .. } => match tracee.socket_inode(fd) {
                Some(inode) => (fd, inode, direction == Direction::Out),
                None => return Ok(None),
            },
            _ => match step.fd().and_then(|fd| Some((fd, tracee.socket_inode(fd)?))) {
                Some((fd, inode)) => (fd, inode, matches!(step, Step::File { .. })),
                None => return Ok(None),
            },
        };
        if let Step::Close { .. } = step
            && !self.book.is_open(inode)
        {
            return Ok(None);
        }
        let duplicate = |fd| tracee.duplicate(fd);
        let Some(kind) = self.book.enter(inode, fd, &|| who(tracee), &duplicate) else { return Ok(None) };
        let mut pending =
            Pending { inode: Some(inode), kind: Some(kind), out, ..Pending::new(step, abi, syscall, fd) };
        let copied = self.copy(&mut pending, tracee);
        if let Err(unreadable) = copied {
            self.drop_pending(&pending);
            return Err(unreadable);
        }
        Ok(Some(pending))
    }

    /// Copies what is written before the kernel does.
    fn copy(&self, pending: &mut Pending, tracee: &dyn Tracee) -> Result<(), Unreadable> {
        let limit = EARLY.min(usize::try_from(self.wish.per_event).unwrap_or(EARLY));
        match &pending.step {
            Step::Memory { messages, .. } if pending.out => {
                let mut room = EARLY;
                for message in messages {
                    let bytes = match gather(tracee, &message.vectors, 0, limit.min(room)) {
                        Err(Unreadable::WouldBlock) => return Err(Unreadable::WouldBlock),
                        other => other.unwrap_or_default(),
                    };
                    room = room.saturating_sub(bytes.len());
                    let (to, control) = around(tracee, pending.abi, message)?;
                    let notes =
                        notes::describe(&control, pending.abi, &|fd| self.book.name(tracee.socket_inode(fd)?));
                    pending.pieces.push(Piece { bytes, to, notes });
                }
            }
            Step::File { file, offset, .. } => {
                let Ok(file) = tracee.duplicate(*file) else { return Ok(()) };
                let offset = match *offset {
                    Some((at, width)) => {
                        let mut bytes = [0; 8];
                        layout::copy(tracee, at, bytes.get_mut(..width).unwrap_or_default())?;
                        Some(layout::number(&bytes, 0, width))
                    }
                    None => pipes::position(&file),
                };
                pending.source = offset.map(|offset| (file, offset));
            }
            Step::Pipe { input, output, length } => {
                let limit = usize::try_from(*length).unwrap_or(limit).min(limit);
                let bytes = if pending.out {
                    tracee.duplicate(*input).map(|pipe| pipes::in_pipe(&pipe, limit))
                } else {
                    pending.source = tracee.duplicate(*output).ok().map(|pipe| (pipe, 0));
                    tracee.duplicate(*input).map(|socket| pipes::in_socket(&socket, limit))
                };
                pending.pieces.push(Piece { bytes: bytes.unwrap_or_default(), ..Piece::default() });
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the result of this call is wanted.
    pub fn awaits(&self, call: &InterceptedCall) -> bool {
        self.pending().contains_key(&call.id)
    }

    /// The call won't have a result, or none that matters.
    pub fn forget(&self, call: &InterceptedCall) {
        let pending = self.pending().remove(&call.id);
        if let Some(pending) = pending {
            self.drop_pending(&pending);
        }
    }

    /// A call has given `result`, and its thread is still there. `false`: come again with more patience.
    pub fn leaves(&self, call: &InterceptedCall, result: i64, tracee: &dyn Tracee, patience: Patience) -> bool {
        let Some(mut pending) = self.pending().remove(&call.id) else { return true };
        match self.ended(&mut pending, result, tracee, patience) {
            Err(Unreadable::WouldBlock) if patience == Patience::AtOnce => {
                self.pending().insert(call.id, pending);
                return false;
            }
            Ok(()) | Err(_) => {}
        }
        self.drop_pending(&pending);
        true
    }

    /// What a call did. Before anything is recorded all is read, so that it can be done again.
    fn ended(
        &self,
        pending: &mut Pending,
        result: i64,
        tracee: &dyn Tracee,
        patience: Patience,
    ) -> Result<(), Unreadable> {
        let duplicate = |fd| tracee.duplicate(fd);
        let who = || who(tracee);
        let fd = pending.fd;
        match (&pending.step, pending.inode) {
            (Step::Memory { .. } | Step::File { .. } | Step::Pipe { .. }, Some(inode)) => {
                if result < 0 {
                    self.fails(pending, inode, result, &who);
                    return Ok(());
                }
                let moved = self.moved(pending, result as u64, tracee, patience)?;
                self.record(pending, inode, moved, &who, &duplicate);
            }
            (Step::Connect { .. }, Some(inode)) if result == 0 || result == -i64::from(libc::EINPROGRESS) => {
                self.open(inode, fd, (None, true), "connected", &who, &duplicate);
            }
            (Step::Accept { .. }, Some(_)) => {
                if let Ok(fd) = i32::try_from(result)
                    && fd >= 0
                {
                    self.meet(fd, "accepted", tracee, &who);
                }
            }
            (Step::Pair { at }, _) if result == 0 => {
                let mut ends = [0; 8];
                layout::copy(tracee, *at, &mut ends)?;
                for offset in [0, 4] {
                    self.meet(layout::number(&ends, offset, 4) as i32, "socketpair", tracee, &who);
                }
            }
            (Step::Listen { .. }, Some(inode)) if result == 0 => {
                if let Some(record) = self.book.listen(inode, fd, who(), &duplicate) {
                    self.writer.put(record.into());
                }
            }
            (Step::Close { .. }, Some(inode)) => {
                // Even where it fails the descriptor is gone (close(2)).
                self.book.close(inode, fd, who());
                self.writer.poke();
            }
            _ => {}
        }
        Ok(())
    }

    /// A socket that the program has just got.
    fn meet(&self, fd: i32, how: &str, tracee: &dyn Tracee, who: &dyn Fn() -> Who) {
        let Some(inode) = tracee.socket_inode(fd) else { return };
        let duplicate = |fd| tracee.duplicate(fd);
        if self.book.enter(inode, fd, who, &duplicate).is_some() {
            self.open(inode, fd, (None, false), how, who, &duplicate);
            self.book.leave(inode);
        }
    }

    fn open(
        &self,
        inode: u64,
        fd: i32,
        how_to: (Option<&Address>, bool),
        how: &str,
        who: &dyn Fn() -> Who,
        duplicate: super::book::Duplicate<'_>,
    ) -> Option<Connection> {
        let (connection, record) = self.book.open(inode, fd, how_to, who, duplicate)?;
        if let Some(mut record) = record {
            record.note(how);
            self.writer.put(record.into());
        }
        Some(connection)
    }

    /// The messages that a call has moved, with their bytes.
    fn moved(
        &self,
        pending: &mut Pending,
        result: u64,
        tracee: &dyn Tracee,
        patience: Patience,
    ) -> Result<Vec<Moved>, Unreadable> {
        let per_event = usize::try_from(self.wish.per_event).unwrap_or(usize::MAX);
        let kept = |size: u64| usize::try_from(size).unwrap_or(usize::MAX).min(per_event);
        // Out of patience: what can't be had is missing.
        let had = |bytes: Result<Vec<u8>, Unreadable>| match bytes {
            Err(Unreadable::WouldBlock) if patience == Patience::AtOnce => Err(Unreadable::WouldBlock),
            other => Ok(other.unwrap_or_default()),
        };
        let Pending { step, kind, abi, source, out, pieces, .. } = pending;
        let stream = kind.is_some_and(|kind| kind.kind == SocketType::STREAM);
        let mut all = Vec::new();
        match step {
            Step::Memory { messages, batch, flags, .. } => {
                let count = if *batch { usize::try_from(result).unwrap_or(0) } else { 1 };
                // TCP throws away what is read with MSG_TRUNC.
                let nowhere = stream && kind.is_some_and(SocketKind::is_internet) && *flags & libc::MSG_TRUNC != 0;
                for (index, message) in messages.iter().take(count).enumerate() {
                    let size = match message.length_at {
                        Some(at) => length_at(tracee, at)?,
                        None => result,
                    };
                    let there = message.vectors.iter().fold(0_u64, |sum, vector| sum.saturating_add(vector.length));
                    let keep = kept(size.min(there));
                    let (bytes, address, notes) = if *out {
                        let piece = pieces.get(index);
                        let mut bytes = piece.map(|piece| piece.bytes.clone()).unwrap_or_default();
                        bytes.truncate(keep);
                        let done = bytes.len();
                        if done < keep {
                            let rest = gather(tracee, &message.vectors, done as u64, keep.saturating_sub(done));
                            bytes.append(&mut had(rest)?);
                        }
                        (
                            bytes,
                            piece.and_then(|piece| piece.to.clone()),
                            piece.and_then(|piece| piece.notes.clone()),
                        )
                    } else if nowhere {
                        (Vec::new(), None, Some("MSG_TRUNC: thrown away".to_owned()))
                    } else {
                        let bytes = had(gather(tracee, &message.vectors, 0, keep))?;
                        let (address, control) = around(tracee, *abi, message)?;
                        let name = |fd| self.book.name(tracee.socket_inode(fd)?);
                        (bytes, address, notes::describe(&control, *abi, &name))
                    };
                    // The end of a stream is no message.
                    if size > 0 || !stream || notes.is_some() {
                        all.push(Moved { size, bytes, address, notes });
                    }
                }
            }
            Step::File { .. } => {
                let bytes = source.as_ref().map(|(file, offset)| pipes::in_file(file, *offset, kept(result)));
                all.push(Moved::plain(result, bytes.unwrap_or_default()));
            }
            Step::Pipe { .. } => {
                let mut bytes =
                    pieces.first_mut().map(|piece| std::mem::take(&mut piece.bytes)).unwrap_or_default();
                bytes.truncate(kept(result));
                if let Some((pipe, _)) = source.as_ref().filter(|_| (bytes.len() as u64) < result) {
                    // It had to wait for them: they are the last ones in the pipe, unless somebody was faster.
                    let last = pipes::last_in_pipe(pipe, kept(result));
                    bytes = if last.is_empty() { bytes } else { last };
                }
                all.push(Moved::plain(result, bytes));
            }
            _ => {}
        }
        all.retain(|moved| moved.size > 0 || matches!(step, Step::Memory { .. }));
        Ok(all)
    }

    fn record(
        &self,
        pending: &Pending,
        inode: u64,
        moved: Vec<Moved>,
        who: &dyn Fn() -> Who,
        duplicate: super::book::Duplicate<'_>,
    ) {
        for Moved { size, bytes, address, notes } in moved {
            let with = (address.as_ref(), false);
            let Some(connection) = self.open(inode, pending.fd, with, "first seen", who, duplicate) else {
                continue;
            };
            let mut record = Record::now(Kind::Data, who());
            record.fd = Some(pending.fd);
            record.path = address.as_ref().and_then(event::address).map(Into::into).or(connection.path);
            record.conn_id = Some(connection.id);
            record.direction = Some(if pending.out { Direction::Out } else { Direction::In });
            record.size = Some(size);
            record.socket_type = connection.kind.kind.name();
            record.syscall = Some(pending.syscall.name());
            record.raw = notes;
            if (bytes.len() as u64) < size {
                let bound = bytes.len() as u64 == self.wish.per_event;
                record.note(if bound { "cut by --capture-max" } else { "the rest could not be read" });
            }
            self.writer.put(Item { record, bytes });
        }
    }

    /// A call on a connection failed, for another reason than that nothing is there yet.
    fn fails(&self, pending: &Pending, inode: u64, result: i64, who: &dyn Fn() -> Who) {
        let number = i32::try_from(result.saturating_neg()).unwrap_or(0);
        let Some(id) = self.book.name(inode) else { return };
        if matches!(number, libc::EAGAIN | libc::EINTR | libc::EINPROGRESS) {
            return;
        }
        let mut record = Record::now(Kind::Error, who());
        record.fd = Some(pending.fd);
        record.conn_id = Some(id.into());
        record.direction = Some(if pending.out { Direction::Out } else { Direction::In });
        record.syscall = Some(pending.syscall.name());
        record.raw = Some(format!("{}: {}", pending.syscall.name(), errno_name(number)));
        self.writer.put(record.into());
    }

    /// All has ended: what isn't in the files, in words.
    pub fn finish(&self) -> Option<String> {
        let directory = self.wish.directory.display();
        self.observed.finish(&self.writer);
        self.writer.finish().describe().map(|losses| format!("--capture {directory}: {losses}"))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_pending(&self, pending: &Pending) {
        if let Some(inode) = pending.inode {
            self.book.leave(inode);
        }
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl Pending {
    fn new(step: Step, abi: Abi, syscall: Syscall, fd: i32) -> Self {
        Self { step, abi, syscall, fd, inode: None, kind: None, pieces: Vec::new(), source: None, out: false }
    }
}

impl Moved {
    fn plain(size: u64, bytes: Vec<u8>) -> Self {
        Self { size, bytes, address: None, notes: None }
    }
}

fn who(tracee: &dyn Tracee) -> Who {
    let process = tracee.name().map(|name| name.to_string_lossy().into());
    Who { pid: Some(tracee.pid().as_raw()), tid: Some(tracee.tid().as_raw()), process }
}

fn length_at(tracee: &dyn Tracee, at: u64) -> Result<u64, Unreadable> {
    let mut length = [0; 4];
    layout::copy(tracee, at, &mut length)?;
    Ok(u64::from(u32::from_ne_bytes(length)))
}

/// [`surroundings`], as far as they can be read.
fn around(tracee: &dyn Tracee, abi: Abi, message: &Message) -> Result<(Option<Address>, Vec<u8>), Unreadable> {
    match surroundings(tracee, abi, message) {
        Err(Unreadable::WouldBlock) => Err(Unreadable::WouldBlock),
        other => Ok(other.unwrap_or_default()),
    }
}
