//! Records, and the bytes that belong to them, put together in the order in which the calls ended.

use super::record::{Told, Transfer, about, kind};
use super::steps;
use crate::translate::Clock;
use nix::errno::Errno;
use sockstrace_backend::Abi;
use sockstrace_backend::captured::{Captured, Deed, Missing, Moved, Seen, Source};
use sockstrace_backend::observed::{Actor, Kind};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Records that wait for their bytes, or for those of others before them.
#[derive(Debug, Default)]
pub struct Assembler {
    queue: VecDeque<Transfer>,
    pieces: HashMap<u64, Pieces>,
    clock: Clock,
}

/// What has come of a record.
#[derive(Debug, Default)]
struct Pieces {
    count: u32,
    bytes: Vec<u8>,
    control: Vec<u8>,
    passed: Vec<u64>,
}

impl Assembler {
    /// Translates with this clock from now on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Takes a record in; what is whole goes to `sink`.
    pub fn put(&mut self, told: Told<'_>, sink: &mut dyn FnMut(Captured)) {
        match told {
            Told::Transfer(transfer) => {
                if transfer.pieces > 0 {
                    // All of them come behind it, and no more than it says.
                    let bytes = Vec::with_capacity(usize::try_from(transfer.stored).unwrap_or(0).min(1 << 26));
                    self.pieces.insert(transfer.id, Pieces { bytes, ..Pieces::default() });
                }
                self.queue.push_back(*transfer);
            }
            Told::Bytes(id, bytes) => {
                if let Some(pieces) = self.pieces.get_mut(&id) {
                    pieces.count = pieces.count.saturating_add(1);
                    pieces.bytes.extend_from_slice(bytes);
                }
            }
            Told::Control(id, control, passed) => {
                if let Some(pieces) = self.pieces.get_mut(&id) {
                    pieces.count = pieces.count.saturating_add(1);
                    (pieces.control, pieces.passed) = (control.to_vec(), passed);
                }
            }
        }
        while let Some(first) = self.queue.front() {
            let come = self.pieces.get(&first.id).map_or(0, |pieces| pieces.count);
            if first.pieces > 0 && come < first.pieces {
                return;
            }
            self.tell_first(sink);
        }
    }

    /// Nothing more comes: tells what is left.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Captured)) {
        while !self.queue.is_empty() {
            self.tell_first(sink);
        }
        self.pieces.clear();
    }

    fn tell_first(&mut self, sink: &mut dyn FnMut(Captured)) {
        let Some(transfer) = self.queue.pop_front() else { return };
        let has_pieces = transfer.pieces > 0;
        let pieces = has_pieces.then(|| self.pieces.remove(&transfer.id)).flatten().unwrap_or_default();
        let time = self.clock.time(transfer.time);
        match transfer.kind {
            kind::READY => sink(Captured::Ready(time, actor(&transfer), OsString::from_vec(transfer.to).into())),
            kind::GONE => {
                if !transfer.missed.is_nothing() {
                    sink(Captured::Missed(transfer.inode, transfer.missed));
                }
                sink(Captured::Gone(time, transfer.inode));
            }
            _ => {
                let Some(deed) = deed(&transfer, pieces) else { return };
                sink(Captured::Seen(Box::new(Seen {
                    time,
                    actor: actor(&transfer),
                    fd: transfer.fd,
                    inode: transfer.inode,
                    socket: Kind {
                        family: transfer.family.into(),
                        kind: transfer.socket_type.into(),
                        protocol: transfer.protocol.into(),
                    },
                    connected: transfer.is(about::HAS_PEER),
                    local: transfer.local,
                    peer: transfer.peer,
                    missed: transfer.missed,
                    deed,
                    name: (!transfer.name.is_empty()).then_some(transfer.name),
                })));
            }
        }
    }
}

fn actor(transfer: &Transfer) -> Actor {
    let end = transfer.comm.iter().position(|&byte| byte == 0).unwrap_or(transfer.comm.len());
    let name = OsString::from_vec(transfer.comm.get(..end).unwrap_or_default().to_vec());
    Actor { pid: transfer.tgid, tid: transfer.tid, name, uid: 0 }
}

/// What was done; `None` for what isn't known.
fn deed(transfer: &Transfer, pieces: Pieces) -> Option<Deed> {
    match (transfer.kind, transfer.step) {
        (kind::EXISTING, _) => return Some(Deed::Existing),
        (kind::CALL, steps::CONNECT) => return Some(Deed::Connected),
        (kind::CALL, steps::ACCEPT) => return Some(Deed::Accepted),
        (kind::CALL, steps::SOCKETPAIR) => return Some(Deed::Paired),
        (kind::CALL, steps::LISTEN) => return Some(Deed::Listens),
        (kind::CALL, steps::CLOSE) => return Some(Deed::Closed),
        (kind::CALL, _) => {}
        _ => return None,
    }
    let abi = if transfer.abi == 0 { steps::NATIVE } else { Abi::I386 };
    let call = steps::call(transfer.number, abi)?;
    let out = transfer.is(about::GOES_OUT);
    let Ok(size) = u64::try_from(transfer.result) else {
        let errno = Errno::from_raw(i32::try_from(transfer.result.saturating_neg()).unwrap_or(0));
        return Some(Deed::Failed(call, errno, out));
    };
    let reasons = [
        (about::RING_WAS_FULL, Missing::NoRoom),
        (about::WAS_UNREADABLE, Missing::Unreadable),
        (about::WAS_ELSEWHERE, Missing::Elsewhere),
    ];
    let Pieces { bytes, control, passed, .. } = pieces;
    Some(Deed::Moved(Moved {
        call,
        abi,
        out,
        size,
        flags: transfer.message_flags as i32,
        missing: reasons.iter().find(|(flag, _)| transfer.is(*flag)).map(|(_, reason)| *reason),
        address: (!transfer.to.is_empty()).then(|| transfer.to.clone()),
        passed: sockets_in(&control, &passed, abi),
        bytes,
        control,
        source: (transfer.source_inode != 0).then_some(Source {
            fd: transfer.source_fd,
            inode: transfer.source_inode,
            offset: transfer.source_offset,
        }),
    }))
}

/// The descriptors of the first control message that are sockets.
fn sockets_in(control: &[u8], inodes: &[u64], abi: Abi) -> Vec<(i32, u64)> {
    // `struct cmsghdr` has a length of the pointer's width, and two integers.
    let first = abi.pointer_bytes().saturating_add(8);
    let fds = control.get(first..).unwrap_or_default().chunks_exact(4);
    let fds = fds.filter_map(|bytes| bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)));
    fds.zip(inodes.iter().copied()).filter(|(_, inode)| *inode != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: u64, pieces: u32, inode: u64) -> Told<'static> {
        let bytes = [0; 440];
        let Some(Told::Transfer(mut transfer)) = Told::parse(&bytes) else { panic!("no record") };
        (transfer.kind, transfer.step, transfer.id, transfer.inode) = (kind::CALL, 1, id, inode);
        (transfer.pieces, transfer.result, transfer.family) = (pieces, 4, 1);
        transfer.number = steps::numbers(steps::NATIVE).into_iter().find(|(_, step)| *step == 1).unwrap().0;
        Told::Transfer(transfer)
    }

    #[test]
    fn calls_come_in_the_order_of_their_ends_with_their_bytes() {
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        let mut sink = |captured: Captured| match captured {
            Captured::Seen(one) => match one.deed {
                Deed::Moved(moved) => seen.push((one.inode, moved.bytes)),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assembler.put(told(1, 2, 10), &mut sink);
        assembler.put(Told::Bytes(1, b"on"), &mut sink);
        assembler.put(told(2, 1, 20), &mut sink);
        assembler.put(Told::Bytes(2, b"two"), &mut sink);
        assembler.put(told(3, 0, 30), &mut sink);
        assembler.put(Told::Bytes(1, b"e"), &mut sink);
        assembler.put(told(4, 3, 40), &mut sink);
        assembler.finish(&mut sink);
        assert_eq!(seen, [(10, b"one".to_vec()), (20, b"two".to_vec()), (30, vec![]), (40, vec![])]);
    }

    #[test]
    fn passed_sockets_have_their_descriptors() {
        let mut control = vec![0; 16];
        control.extend([5_i32, 6, 7].iter().flat_map(|fd| fd.to_ne_bytes()));
        assert_eq!(sockets_in(&control, &[0, 99, 0], Abi::X86_64), [(6, 99)]);
        assert!(sockets_in(&[1, 2, 3], &[1], Abi::I386).is_empty());
    }
}
