//! Calls that name a socket's peer, where that may be one of ours: getpeername, recvfrom, recvmsg, recvmmsg.
//!
//! Nothing here can leak: what can't be looked into is left to the kernel, and no event is written.

use super::Scene;
use crate::action::perform::receive::{Received, Unreceived, Wanted};
use crate::action::perform::{Socket, failed, sys};
use crate::operation::decode::{Arguments, MAX_VECTORS, MSG_CMSG_COMPAT, Sockaddr};
use crate::operation::layout::{self, MessageHeader, Vector};
use crate::operation::{Family, SocketType};
use nix::errno::Errno;
use sockstrace_backend::{Abi, MemoryError, Outcome, Patience, Reply, Syscall};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const CONTINUE: Outcome = Outcome::Reply(Reply::Continue);

/// A `struct msghdr` to be filled in.
struct Target {
    at: u64,
    header: MessageHeader,
    vectors: Vec<Vector>,
}

impl Scene<'_> {
    pub(super) fn getpeername(&self, call: &Arguments) -> Outcome {
        let Ok(socket) = Socket::of(self.tracee, call.int(0)) else { return CONTINUE };
        let peer = sys::peer_name(socket.duplicate.as_fd()).ok();
        let Some(meant) = peer.and_then(|peer| self.meant_bytes(&peer, &socket.kind)) else { return CONTINUE };
        match self.write_address(&meant, call.arg(1), call.arg(2)) {
            Ok(()) => Outcome::Reply(Reply::Return(0)),
            Err(outcome) => outcome,
        }
    }

    pub(super) fn recvfrom(&self, call: &Arguments) -> Outcome {
        if call.arg(4) == 0 {
            return CONTINUE;
        }
        let Some(socket) = self.hearing_from_us(call) else { return CONTINUE };
        let wanted = Wanted { room: room(call.arg(2)), control: 0, flags: call.int(3) };
        let received = match self.performer().receive(&socket, &wanted) {
            Ok(received) => received,
            Err(unreceived) => return outcome_of(unreceived),
        };
        let vector = Vector { base: call.arg(1), length: call.arg(2) };
        if !self.scatter(&received.payload, &[vector]) {
            return failed(Errno::EFAULT);
        }
        let source = self.meant_source(&received, &socket);
        match source.map_or(Ok(()), |source| self.write_address(&source, call.arg(4), call.arg(5))) {
            Ok(()) => Outcome::Reply(Reply::Return(received.length as i64)),
            Err(outcome) => outcome,
        }
    }

    pub(super) fn recvmsg(&self, call: &Arguments) -> Outcome {
        let Some(socket) = self.hearing_from_us(call) else { return CONTINUE };
        let Some(target) = self.target(call.abi, call.arg(1)) else { return CONTINUE };
        if call.abi != Abi::I386 && call.int(2) & MSG_CMSG_COMPAT != 0 {
            return CONTINUE; // EINVAL
        }
        match self.receive_into(&socket, &target, call.abi, call.int(2)) {
            Ok(length) => Outcome::Reply(Reply::Return(length as i64)),
            Err(outcome) => outcome,
        }
    }

    /// Net/socket.c, `do_recvmmsg`: messages until there is no room, none waits, or the time is over.
    pub(super) fn recvmmsg(&self, call: &Arguments) -> Outcome {
        const MSG_WAITFORONE: i32 = 0x10000;
        let Some(socket) = self.hearing_from_us(call) else { return CONTINUE };
        if call.abi != Abi::I386 && call.int(3) & MSG_CMSG_COMPAT != 0 {
            return CONTINUE; // EINVAL
        }
        let timeout = match self.timeout(call) {
            Ok(timeout) => timeout,
            Err(outcome) => return outcome,
        };
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let count = (call.arg(2) & 0xFFFF_FFFF).min(MAX_VECTORS);
        let entry = layout::batch_entry_bytes(call.abi) as u64;
        let mut flags = call.int(3) & !MSG_WAITFORONE;
        let mut done = 0_u64;
        let mut refused = None;
        while done < count {
            let at = call.arg(1).wrapping_add(done.wrapping_mul(entry));
            let Some(target) = self.target(call.abi, at) else {
                // Of the first one the kernel says what is wrong with it.
                refused = Some(CONTINUE);
                break;
            };
            let length = match self.receive_into(&socket, &target, call.abi, flags) {
                Ok(length) => (length as u32).to_ne_bytes(),
                Err(outcome) => {
                    refused = Some(outcome);
                    break;
                }
            };
            let place = at.wrapping_add(layout::message_header_bytes(call.abi) as u64);
            if self.tracee.write(place, &length).is_err() {
                refused = Some(failed(Errno::EFAULT));
                break;
            }
            done = done.saturating_add(1);
            if call.int(3) & MSG_WAITFORONE != 0 {
                flags |= libc::MSG_DONTWAIT;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
        match refused {
            Some(outcome) if done == 0 => outcome,
            _ => {
                if let Some(end) = end {
                    self.write_timeout(call, end.saturating_duration_since(Instant::now()));
                }
                Outcome::Reply(Reply::Return(done as i64))
            }
        }
    }

    /// The socket, if a datagram from us could arrive at it: a UDP socket that is connected to one of ours,
    /// or to nobody (yet).
    fn hearing_from_us(&self, call: &Arguments) -> Option<Socket> {
        let socket = Socket::of(self.tracee, call.int(0)).ok()?;
        let udp = matches!(socket.kind.family, Family::INET | Family::INET6)
            && socket.kind.kind == SocketType::DGRAM
            && matches!(socket.kind.protocol, 0 | libc::IPPROTO_UDP);
        let hears = udp
            && match sys::peer_name(socket.duplicate.as_fd()) {
                Ok(peer) => self.meant_bytes(&peer, &socket.kind).is_some(),
                Err(errno) => errno == Errno::ENOTCONN,
            };
        hears.then_some(socket)
    }

    fn meant_source(&self, received: &Received, socket: &Socket) -> Option<Sockaddr> {
        received.source.map(|source| self.meant_bytes(&source, &socket.kind).unwrap_or(source))
    }

    /// `None` where the kernel is to say what is wrong.
    fn target(&self, abi: Abi, at: u64) -> Option<Target> {
        let header = layout::message_header(self.tracee, abi, at).ok()?;
        if header.vector_count > MAX_VECTORS || (header.name != 0 && header.name_length < 0) {
            return None;
        }
        let vectors = layout::vectors(self.tracee, abi, header.vectors, header.vector_count as usize).ok()?;
        let longest = if abi.pointer_bytes() == 4 { i32::MAX as u64 } else { i64::MAX as u64 };
        let sane =
            vectors.iter().all(|vector| vector.length <= longest) && i32::try_from(header.control_length).is_ok();
        sane.then_some(Target { at, header, vectors })
    }

    /// One message, written where it belongs. Returns its length.
    fn receive_into(&self, socket: &Socket, target: &Target, abi: Abi, flags: i32) -> Result<usize, Outcome> {
        let all = target.vectors.iter().fold(0_u64, |sum, vector| sum.saturating_add(vector.length));
        let header = &target.header;
        let control = if header.control == 0 { 0 } else { header.control_length };
        // Native control messages are longer: what then doesn't fit is cut as the kernel cuts it.
        let native = if abi == Abi::I386 { control.saturating_mul(2) } else { control };
        let wanted = Wanted { room: room(all), control: room(native), flags };
        let mut received = self.performer().receive(socket, &wanted).map_err(outcome_of)?;
        if !self.scatter(&received.payload, &target.vectors) {
            return Err(failed(Errno::EFAULT));
        }
        if abi == Abi::I386 {
            let (compat, cut) = layout::compat_control(&received.control, room(control));
            received.control = compat;
            received.flags |= if cut { libc::MSG_CTRUNC } else { 0 };
        }
        let (name_length_at, control_length_at, flags_at) = layout::message_header_results(abi);
        let at = |offset: u64| target.at.wrapping_add(offset);
        if header.name != 0 {
            match self.meant_source(&received, socket) {
                Some(source) => self.write_address(&source, header.name, at(name_length_at))?,
                None => self.put(at(name_length_at), &0_i32.to_ne_bytes())?,
            }
        }
        self.put(header.control, &received.control)?;
        let flags = received.flags & !MSG_CMSG_COMPAT;
        self.put(at(flags_at), &flags.to_ne_bytes())?;
        let length = received.control.len() as u64;
        let width = abi.pointer_bytes();
        self.put(at(control_length_at), length.to_ne_bytes().get(..width).unwrap_or_default())?;
        Ok(received.length)
    }

    /// Spreads a payload over the vectors; `false` where the memory isn't there.
    fn scatter(&self, payload: &[u8], vectors: &[Vector]) -> bool {
        let mut rest = payload;
        for vector in vectors {
            let take = room(vector.length).min(rest.len());
            let (piece, after) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            if self.tracee.write(vector.base, piece).is_err() {
                return false;
            }
            rest = after;
        }
        true
    }

    /// `move_addr_to_user` (net/socket.c): as much as there is room for, and the true length.
    pub(super) fn write_address(&self, address: &Sockaddr, at: u64, length_at: u64) -> Result<(), Outcome> {
        let mut room = [0; 4];
        match self.tracee.read(length_at, &mut room) {
            Ok(4) => {}
            Err(MemoryError::WouldBlock) => return Err(self.later()),
            _ => return Err(failed(Errno::EFAULT)),
        }
        let bytes = address.as_bytes();
        let room = usize::try_from(i32::from_ne_bytes(room)).map_err(|_| failed(Errno::EINVAL))?;
        self.put(at, bytes.get(..room).unwrap_or(bytes))?;
        self.put(length_at, &(bytes.len() as u32).to_ne_bytes())
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Outcome> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.tracee.write(at, bytes).map_err(|error| match error {
            MemoryError::WouldBlock => self.later(),
            _ => failed(Errno::EFAULT),
        })
    }

    fn later(&self) -> Outcome {
        if self.patience == Patience::AtOnce { Outcome::NeedsPatience } else { failed(Errno::EFAULT) }
    }

    /// The timeout of a recvmmsg, if there is one. An error where the kernel is to say what is wrong with it.
    fn timeout(&self, call: &Arguments) -> Result<Option<Duration>, Outcome> {
        if call.arg(4) == 0 {
            return Ok(None);
        }
        let width = time_width(call);
        let mut bytes = [0; 16];
        let wanted = bytes.get_mut(..width.saturating_mul(2)).unwrap_or_default();
        layout::copy(self.tracee, call.arg(4), wanted).map_err(|_| CONTINUE)?;
        let signed = |value: u64| if width == 4 { i64::from(value as i32) } else { value as i64 };
        let seconds = u64::try_from(signed(layout::number(&bytes, 0, width)));
        let nanoseconds = u32::try_from(signed(layout::number(&bytes, width, width)));
        match (seconds, nanoseconds) {
            (Ok(seconds), Ok(nanoseconds @ ..1_000_000_000)) => Ok(Some(Duration::new(seconds, nanoseconds))),
            _ => Err(CONTINUE),
        }
    }

    /// What is left of it is written back.
    fn write_timeout(&self, call: &Arguments, left: Duration) {
        let width = time_width(call);
        let fields = [left.as_secs(), u64::from(left.subsec_nanos())].map(u64::to_ne_bytes);
        let mut bytes = Vec::new();
        for field in &fields {
            bytes.extend(field.get(..width).unwrap_or_default());
        }
        // Read-only memory keeps what it has; the messages are there all the same.
        let _: Result<(), MemoryError> = self.tracee.write(call.arg(4), &bytes);
    }
}

/// The width of each half of a `struct timespec`.
fn time_width(call: &Arguments) -> usize {
    if call.abi == Abi::I386 && call.syscall != Syscall::RecvmmsgTime64 { 4 } else { 8 }
}

fn room(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn outcome_of(unreceived: Unreceived) -> Outcome {
    match unreceived {
        Unreceived::Failed(errno) => failed(errno),
        Unreceived::Interrupted => Outcome::Reply(Reply::Restart),
        Unreceived::NeedsPatience => Outcome::NeedsPatience,
    }
}
