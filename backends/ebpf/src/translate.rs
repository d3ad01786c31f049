//! From records to observations.

use crate::calls;
use crate::record::{self, Record, diversion, flag, kind, source, way};
use sockstrace_backend::Abi;
use sockstrace_backend::observed::{
    Actor, Course, Diversion, Diverted, Executed, ExistingSocket, Interface, Kind, Observation, ObservedCall,
    Origin, StateChange, UserStack,
};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Puts records together that belong to one call.
#[derive(Debug, Default)]
pub struct Translator {
    /// By thread: the addresses of a call that goes on.
    unfinished: HashMap<i32, Vec<Record>>,
    clock: Clock,
}

/// What turns the kernel's monotonic time into the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The time of day at the monotonic clock's zero.
    zero: SystemTime,
    /// When it was read: nanoseconds of the monotonic clock.
    read: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { zero: SystemTime::UNIX_EPOCH, read: 0 }
    }
}

impl Clock {
    /// As the clocks stand now: the time of day may have been set since the last time.
    pub fn now() -> Self {
        let mut since = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid clock, and a timespec to write to.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut since) };
        let since = Duration::new(since.tv_sec.unsigned_abs(), since.tv_nsec.unsigned_abs() as u32);
        let zero = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { zero, read: since.as_nanos() as u64 }
    }

    /// Whether a record was written after this clock was read.
    pub fn is_before(self, nanoseconds: u64) -> bool {
        self.read < nanoseconds
    }

    /// The time of day of a record.
    pub fn time(self, nanoseconds: u64) -> SystemTime {
        self.zero.checked_add(Duration::from_nanos(nanoseconds)).unwrap_or(self.zero)
    }
}

impl Translator {
    /// Translates with this clock from now on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Gives what a record tells to `sink`, with the stack of its call.
    pub fn translate(&mut self, record: Record, mut stack: Option<UserStack>, sink: &mut dyn FnMut(Observation)) {
        let time = self.clock.time(record.time);
        match record.kind {
            kind::CALL if record.has(flag::MORE) => self.unfinished.entry(record.tid).or_default().push(record),
            kind::CALL => {
                let (result, op) = (record.has(flag::HAS_RESULT).then_some(record.result), record.op);
                // What another call left behind lost its end.
                let before = self.unfinished.remove(&record.tid).unwrap_or_default();
                for part in before.into_iter().chain([record]) {
                    let result = if part.op == op { result } else { None };
                    if let Some(mut call) = self.call(part, result) {
                        call.stack = stack.take().map(Box::new);
                        sink(Observation::Call(call));
                    }
                }
            }
            kind::TCP_STATE => {
                if let (Some(local), Some(remote)) = (record.local, record.peer) {
                    let (old, new) = ((record.result >> 32) as u8, record.result as u8);
                    let owner = (record.tgid != 0).then(|| actor(&record));
                    let socket = socket(&record);
                    sink(Observation::State(StateChange { time, actor: owner, socket, local, remote, old, new }));
                }
            }
            kind::SOCKET => sink(Observation::Existing(ExistingSocket {
                time,
                actor: actor(&record),
                fd: record.fd,
                socket: socket(&record),
                // TCP_LISTEN of <net/tcp_states.h>, which other families use too.
                listens: record.result == 10,
                local: record.local,
                peer: record.peer,
                name: (!record.name.is_empty()).then_some(record.name),
            })),
            kind::EXEC => {
                let actor = actor(&record);
                let path = Some(PathBuf::from(OsString::from_vec(record.name)));
                let executed = Executed {
                    path: path.filter(|path| path.is_absolute()),
                    parent: i32::try_from(record.result).ok().filter(|parent| *parent > 0),
                };
                sink(Observation::Exec(time, actor, executed));
            }
            kind::EXIT => sink(Observation::Exit(time, actor(&record), record.result as i32)),
            kind::DIVERTED => {
                let destination = record::endpoint(&record.name);
                if let (Some(local), Some(hole), Some(destination)) = (record.local, record.peer, destination) {
                    sink(Observation::Diverted(Diverted {
                        cookie: record.result as u64,
                        pid: record.tgid,
                        local,
                        hole,
                        destination,
                        sequence: record.message_flags,
                    }));
                }
            }
            kind::ACTED => sink(Observation::Acted(actor(&record))),
            _ => {}
        }
    }

    fn call(&self, record: Record, result: Option<i64>) -> Option<ObservedCall> {
        let call = calls::call(record.op)?;
        let interface = match record.abi {
            0 => Interface::Call(native()),
            1 => Interface::Call(Abi::I386),
            2 => Interface::IoUring(native()),
            3 => Interface::IoUring(Abi::I386),
            _ => Interface::Unknown,
        };
        let origin = if record.source == source::USER { Origin::Memory } else { Origin::Kernel };
        let named = record.source != source::NOWHERE && !record.name.is_empty();
        Some(ObservedCall {
            time: self.clock.time(record.time),
            actor: actor(&record),
            call,
            interface,
            fd: (record.fd >= 0 || matches!(interface, Interface::Call(_))).then_some(record.fd),
            socket: record.has(flag::HAS_SOCKET).then(|| socket(&record)),
            local: record.local,
            peer: record.peer,
            flags: record.message_flags as i32,
            course: course(record.way),
            result,
            leaks: record.has(flag::JUDGED).then(|| record.has(flag::LEAKS)),
            diversion: diverted(record.diversion),
            stack: None,
            address: named.then_some((record.name, origin)),
        })
    }
}

fn course(way: u32) -> Course {
    match way {
        way::BY_DESTINATION => Course::ByDestination,
        way::SOURCE_ROUTED => Course::SourceRouted,
        way::CHOSEN => Course::Chosen,
        _ => Course::Untold,
    }
}

fn diverted(diversion: u32) -> Option<Diversion> {
    Some(match diversion {
        diversion::DIVERTED | diversion::TO_A_GROUP => Diversion::Made,
        diversion::NO_STREAM => Diversion::NoStream,
        diversion::MULTIPATH => Diversion::Multipath,
        diversion::BOUND_TO_DEVICE => Diversion::BoundToDevice,
        diversion::ELSEWHERE => Diversion::Elsewhere,
        diversion::NO_HOLE => Diversion::NoHole,
        _ => return None,
    })
}

fn native() -> Abi {
    if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 }
}

fn actor(record: &Record) -> Actor {
    let end = record.comm.iter().position(|&byte| byte == 0).unwrap_or(record.comm.len());
    let name = OsString::from_vec(record.comm.get(..end).unwrap_or_default().to_vec());
    Actor { pid: record.tgid, tid: record.tid, name, uid: record.uid }
}

fn socket(record: &Record) -> Kind {
    Kind { family: record.family.into(), kind: record.socket_type.into(), protocol: record.protocol.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockstrace_backend::observed::SocketCall;

    fn record(flags: u8, name: u8, result: i64) -> Record {
        Record {
            kind: kind::CALL,
            tgid: 5,
            tid: 6,
            uid: 0,
            time: 1_000_000_000,
            result,
            comm: *b"name\0junk\0\0\0\0\0\0\0",
            fd: 3,
            family: 2,
            socket_type: 2,
            protocol: 17,
            op: calls::code(SocketCall::Sendmmsg),
            abi: 0,
            source: 1,
            flags,
            message_flags: 0,
            local: None,
            peer: None,
            way: 0,
            diversion: 0,
            name: vec![name],
        }
    }

    #[test]
    fn messages_of_one_call_share_its_result() {
        let mut translator = Translator::default();
        let mut seen = Vec::new();
        let mut sink = |observation| match observation {
            Observation::Call(call) => seen.push(call),
            other => panic!("{other:?}"),
        };
        translator.translate(record(flag::MORE, 1, 0), None, &mut sink);
        translator.translate(record(flag::MORE, 2, 0), None, &mut sink);
        translator.translate(record(flag::HAS_RESULT, 3, 7), None, &mut sink);
        let told: Vec<_> = seen.iter().map(|call| (call.address.clone().unwrap().0[0], call.result)).collect();
        assert_eq!(told, [(1, Some(7)), (2, Some(7)), (3, Some(7))]);
        assert_eq!((seen[0].actor.pid, seen[0].actor.tid), (5, 6));
        assert_eq!(seen[0].actor.name, "name");
        assert_eq!(seen[0].time, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    }

    #[test]
    fn a_call_without_an_end_has_no_result() {
        let mut translator = Translator::default();
        let mut seen = Vec::new();
        translator.translate(record(0, 1, 9), None, &mut |observation| seen.push(observation));
        assert!(matches!(&seen[..], [Observation::Call(call)] if call.result.is_none()));
    }
}
