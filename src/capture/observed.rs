//! What programs in the kernel have copied (`--backend ebpf`): sockets are known by the inode numbers that they
//! tell, and nobody is held up.

use super::book::id;
use super::notes;
use super::pipes;
use super::record::{Direction, Kind, Record, Who};
use super::wish::Wish;
use super::writer::{Item, Writer};
use crate::event::{self, errno_name};
use crate::operation::decode::Sockaddr;
use crate::operation::{Address, Family, SocketKind, SocketType};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use sockstrace_backend::captured::{Captured, Deed, Missed, Missing, Moved, Seen, Source};
use sockstrace_backend::observed::Actor;
use sockstrace_backend::proc;
use sockstrace_backend::remote::Remote;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The sockets that were told of.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<Sockets>);

#[derive(Debug, Default)]
struct Sockets {
    by_inode: HashMap<u64, Socket>,
    connections: u64,
    /// What runs already is watched.
    attached: bool,
}

#[derive(Debug)]
struct Socket {
    kind: SocketKind,
    connection: Option<Arc<str>>,
    address: Option<Address>,
    path: Option<Arc<str>>,
    who: Who,
    fd: i32,
    closed: Option<SystemTime>,
}

impl Observed {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs already is watched.
    pub fn attach(&self) {
        self.sockets().attached = true;
    }

    /// Records what was captured.
    pub fn take(&self, captured: Captured, wish: &Wish, writer: &Writer) {
        match captured {
            Captured::Ready(time, actor, path) => {
                let mut record = at(time, Kind::Ready, who(&actor));
                let path = proc::executable(Pid::from_raw(actor.pid)).unwrap_or(path);
                record.raw = Some(path.to_string_lossy().into_owned());
                writer.put(record.into());
            }
            Captured::Seen(seen) => self.sockets().see(*seen, wish, writer),
            Captured::Gone(time, inode) => {
                let Some(mut socket) = self.sockets().by_inode.remove(&inode) else { return };
                socket.closed.get_or_insert(time);
                socket.close(writer);
            }
            Captured::Missed(inode, missed) => {
                let sockets = self.sockets();
                let socket = sockets.by_inode.get(&inode);
                // Of one that isn't wanted nothing is missing.
                if socket.is_none_or(|socket| socket.connection.is_some()) {
                    miss(socket, SystemTime::now(), missed, writer);
                }
            }
            Captured::Lost(count) => {
                let mut record = Record::now(Kind::Error, Who::default());
                record.raw = Some(format!("{count} records were lost: there was no room for them"));
                writer.miss(record, 0, count);
            }
        }
    }

    /// No more comes: who isn't known to be closed is closed now.
    pub fn finish(&self, writer: &Writer) {
        let mut left: Vec<_> = self.sockets().by_inode.drain().map(|(_, socket)| socket).collect();
        left.sort_by_key(|socket| socket.closed.unwrap_or_else(SystemTime::now));
        for socket in &left {
            socket.close(writer);
        }
    }
}

impl Sockets {
    fn see(&mut self, seen: Seen, wish: &Wish, writer: &Writer) {
        let kind = SocketKind {
            family: Family(seen.socket.family),
            kind: SocketType(seen.socket.kind),
            protocol: seen.socket.protocol,
        };
        let who = who(&seen.actor);
        if let Deed::Closed = seen.deed {
            if let Some(socket) = self.by_inode.get_mut(&seen.inode) {
                (socket.who, socket.fd, socket.closed) = (who, seen.fd, Some(seen.time));
            }
            return;
        }
        let number = self.connections;
        let socket = self.by_inode.entry(seen.inode).or_insert_with(|| Socket {
            kind,
            connection: None,
            address: None,
            path: None,
            who: who.clone(),
            fd: seen.fd,
            closed: None,
        });
        let named = |address: &Address| event::address(address).is_some();
        let ends = [seen.peer, seen.local].into_iter().flatten().map(Address::Internet);
        let unix = seen.name.as_ref().map(|name| Sockaddr::from_bytes(name).address());
        if let Some(address) = ends.chain(unix).find(named) {
            socket.path = event::address(&address).map(Into::into);
            socket.address = Some(address);
        }
        match seen.deed {
            Deed::Listens => {
                if wish.wants_address(socket.address.as_ref()) {
                    (socket.who, socket.fd) = (who, seen.fd);
                    writer.put(socket.record(Kind::Listen, seen.time).into());
                }
                return;
            }
            Deed::Failed(call, errno, out) => {
                let Some(id) = socket.connection.clone() else { return };
                miss(Some(socket), seen.time, seen.missed, writer);
                if errno == Errno::EINPROGRESS {
                    return;
                }
                let mut record = at(seen.time, Kind::Error, who);
                record.fd = Some(seen.fd);
                record.conn_id = Some(id);
                record.direction = Some(direction(out));
                record.syscall = Some(call.name());
                record.raw = Some(format!("{}: {}", call.name(), errno_name(errno as i32)));
                writer.put(record.into());
                return;
            }
            _ => {}
        }
        let with = match &seen.deed {
            Deed::Moved(moved) => moved.address.as_ref().map(|name| Sockaddr::from_bytes(name).address()),
            _ => None,
        };
        let wants = |address| wish.wants_address(address);
        if !wants(socket.address.as_ref()) && !with.as_ref().is_some_and(|address| wants(Some(address))) {
            return;
        }
        // The end of a stream is no message.
        let stream = kind.kind == SocketType::STREAM;
        let is_end = |moved: &Moved| moved.size == 0 && stream && moved.control.is_empty();
        if matches!(&seen.deed, Deed::Moved(moved) if is_end(moved)) && socket.connection.is_none() {
            return;
        }
        if socket.connection.is_none() {
            socket.connection = Some(id(number.saturating_add(1), socket.address.as_ref()).into());
            (socket.who, socket.fd) = (who.clone(), seen.fd);
            let mut record = socket.record(Kind::Open, seen.time);
            record.note(how(&seen.deed, self.attached));
            writer.put(record.into());
            self.connections = number.saturating_add(1);
        }
        let Some(socket) = self.by_inode.get(&seen.inode) else { return };
        miss(Some(socket), seen.time, seen.missed, writer);
        let Deed::Moved(moved) = seen.deed else { return };
        if is_end(&moved) {
            return;
        }
        let mut record = at(seen.time, Kind::Data, who);
        record.fd = Some(seen.fd);
        record.path = with.as_ref().and_then(event::address).map(Into::into).or_else(|| socket.path.clone());
        record.conn_id.clone_from(&socket.connection);
        record.socket_type = kind.kind.name();
        let name = |fd: i32| {
            let (_, inode) = moved.passed.iter().find(|(passed, _)| *passed == fd)?;
            self.by_inode.get(inode)?.connection.as_ref().map(ToString::to_string)
        };
        record.raw = notes::describe(&moved.control, moved.abi, &name);
        let thrown = stream && kind.is_internet() && !moved.out && moved.flags & libc::MSG_TRUNC != 0;
        if thrown {
            record.note("MSG_TRUNC: thrown away");
        }
        put(record, moved, seen.actor.pid, thrown, wish, writer);
    }
}

/// Writes a message.
fn put(mut record: Record, mut moved: Moved, pid: i32, thrown: bool, wish: &Wish, writer: &Writer) {
    if let Some(source) = moved.source {
        let wanted = usize::try_from(moved.size.min(wish.per_event)).unwrap_or(usize::MAX);
        moved.bytes = of_file(Pid::from_raw(pid), source, wanted);
    }
    record.direction = Some(direction(moved.out));
    record.size = Some(moved.size);
    record.syscall = Some(moved.call.name());
    if (moved.bytes.len() as u64) < moved.size && !thrown {
        record.note(match moved.missing {
            Some(Missing::NoRoom) => {
                "the rest is missing: there was no room for it between the kernel and sockstrace"
            }
            Some(Missing::Elsewhere) if moved.source.is_none() => {
                "missing: it never was in the program's memory, and other memory isn't seen"
            }
            None if moved.bytes.len() as u64 == wish.per_event => "cut by --capture-max",
            _ => "the rest could not be read",
        });
    }
    writer.put(Item { record, bytes: moved.bytes });
}

/// What a sendfile has read, as the file has it now, where the process still has it.
fn of_file(pid: Pid, source: Source, wanted: usize) -> Vec<u8> {
    let file = Remote::open(pid).and_then(|remote| remote.duplicate(source.fd));
    let file = file.ok().filter(|file| fstat(file).is_ok_and(|stat| stat.st_ino == source.inode));
    file.map(|file| pipes::in_file(&file, source.offset, wanted)).unwrap_or_default()
}

/// Says what was lost of a socket.
fn miss(socket: Option<&Socket>, time: SystemTime, missed: Missed, writer: &Writer) {
    let Missed { calls_in, bytes_in, calls_out, bytes_out } = missed;
    for (way, calls, bytes) in [(Direction::In, calls_in, bytes_in), (Direction::Out, calls_out, bytes_out)] {
        if calls == 0 {
            continue;
        }
        let mut record = at(time, Kind::Error, Who::default());
        if let Some(socket) = socket {
            record.fd = Some(socket.fd);
            record.path.clone_from(&socket.path);
            record.conn_id.clone_from(&socket.connection);
        }
        record.direction = Some(way);
        record.size = Some(bytes);
        record.raw = Some(format!(
            "{bytes} bytes of {calls} calls are missing here: there was no room for them between the kernel and sockstrace"
        ));
        writer.miss(record, bytes, calls);
    }
}

impl Socket {
    fn record(&self, kind: Kind, time: SystemTime) -> Record {
        let mut record = at(time, kind, self.who.clone());
        record.fd = Some(self.fd);
        record.path.clone_from(&self.path);
        if kind != Kind::Listen {
            record.conn_id.clone_from(&self.connection);
        }
        record.family = self.kind.family.name();
        record.socket_type = self.kind.kind.name();
        record
    }

    fn close(&self, writer: &Writer) {
        if self.connection.is_some() {
            writer.put(self.record(Kind::Close, self.closed.unwrap_or_else(SystemTime::now)).into());
        }
    }
}

fn how(deed: &Deed, attached: bool) -> &'static str {
    match deed {
        Deed::Existing if attached => "there already",
        Deed::Existing => "there when the program started",
        Deed::Connected => "connected",
        Deed::Accepted => "accepted",
        Deed::Paired => "socketpair",
        Deed::Listens | Deed::Closed | Deed::Failed(..) | Deed::Moved(_) => "first seen",
    }
}

fn direction(out: bool) -> Direction {
    if out { Direction::Out } else { Direction::In }
}

fn at(time: SystemTime, kind: Kind, who: Who) -> Record {
    Record { ts_ms: time, ..Record::now(kind, who) }
}

fn who(actor: &Actor) -> Who {
    let process = actor.name.to_string_lossy().into();
    Who { pid: Some(actor.pid), tid: Some(actor.tid), process: Some(process) }
}
