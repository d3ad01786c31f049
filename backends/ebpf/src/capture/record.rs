//! Records of the capturing programs, as bpf/payloads.h lays them out.

use crate::record::{endpoint, u16_at, u32_at};
use sockstrace_backend::captured::Missed;
use std::net::SocketAddr;

/// `enum told`
pub mod kind {
    pub const CALL: u32 = 1;
    pub const EXISTING: u32 = 2;
    pub const GONE: u32 = 3;
    pub const READY: u32 = 4;
    pub const BYTES: u32 = 5;
    pub const CONTROL: u32 = 6;
}

/// `enum about`
pub mod about {
    pub const HAS_PEER: u8 = 1;
    pub const HAS_ENDPOINTS: u8 = 2;
    pub const RING_WAS_FULL: u8 = 4;
    pub const WAS_UNREADABLE: u8 = 8;
    pub const WAS_ELSEWHERE: u8 = 16;
    pub const GOES_OUT: u8 = 32;
}

/// `sizeof(struct transfer)`
const TRANSFER: usize = 440;
/// `sizeof(struct piece)`
const PIECE: usize = 16;
/// `PASSED`
const PASSED: usize = 32;

/// A record.
#[derive(Debug)]
pub enum Told<'a> {
    /// All but the bytes.
    Transfer(Box<Transfer>),
    /// Bytes of the record with this id.
    Bytes(u64, &'a [u8]),
    /// Control messages of the record with this id, and the sockets of the first descriptors, by inode number.
    Control(u64, &'a [u8], Vec<u64>),
}

/// `struct transfer`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub kind: u32,
    pub tgid: i32,
    pub tid: i32,
    pub fd: i32,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    pub id: u64,
    pub inode: u64,
    pub result: i64,
    pub stored: u64,
    pub missed: Missed,
    pub source_inode: u64,
    pub source_offset: u64,
    pub source_fd: i32,
    pub pieces: u32,
    pub number: u32,
    pub message_flags: u32,
    pub family: u16,
    pub socket_type: u16,
    pub protocol: u16,
    pub step: u8,
    pub abi: u8,
    pub about: u8,
    pub comm: [u8; 16],
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub name: Vec<u8>,
    pub to: Vec<u8>,
}

impl<'a> Told<'a> {
    /// Reads a record; `None` where the bytes are none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let kind = u32_at(bytes, 0)?;
        if kind != kind::BYTES && kind != kind::CONTROL {
            return Transfer::parse(bytes).map(Box::new).map(Self::Transfer);
        }
        let length = u32_at(bytes, 4)? as usize;
        let id = u64_at(bytes, 8)?;
        if kind == kind::BYTES {
            return Some(Self::Bytes(id, bytes.get(PIECE..PIECE.checked_add(length)?)?));
        }
        let inodes = bytes.get(PIECE..)?.get(..PASSED * 8)?;
        let inodes = inodes.chunks_exact(8).filter_map(|inode| u64_at(inode, 0)).collect();
        let rest = bytes.get(PIECE + PASSED * 8..)?;
        Some(Self::Control(id, rest.get(..length)?, inodes))
    }
}

impl Transfer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != TRANSFER {
            return None;
        }
        let about = *bytes.get(132)?;
        let has_endpoints = about & about::HAS_ENDPOINTS != 0;
        let end = |at: usize| if has_endpoints { bytes.get(at..).and_then(endpoint) } else { None };
        let named = |at: usize, length: u16| bytes.get(at..)?.get(..usize::from(length)).map(<[u8]>::to_vec);
        Some(Self {
            kind: u32_at(bytes, 0)?,
            tgid: u32_at(bytes, 4)? as i32,
            tid: u32_at(bytes, 8)? as i32,
            fd: u32_at(bytes, 12)? as i32,
            time: u64_at(bytes, 16)?,
            id: u64_at(bytes, 24)?,
            inode: u64_at(bytes, 32)?,
            result: u64_at(bytes, 40)? as i64,
            stored: u64_at(bytes, 48)?,
            missed: Missed {
                bytes_in: u64_at(bytes, 56)?,
                bytes_out: u64_at(bytes, 64)?,
                calls_in: u64_at(bytes, 72)?,
                calls_out: u64_at(bytes, 80)?,
            },
            source_inode: u64_at(bytes, 88)?,
            source_offset: u64_at(bytes, 96)?,
            source_fd: u32_at(bytes, 104)? as i32,
            pieces: u32_at(bytes, 108)?,
            number: u32_at(bytes, 112)?,
            message_flags: u32_at(bytes, 116)?,
            family: u16_at(bytes, 120)?,
            socket_type: u16_at(bytes, 122)?,
            protocol: u16_at(bytes, 124)?,
            step: *bytes.get(130)?,
            abi: *bytes.get(131)?,
            about,
            comm: *bytes.get(136..)?.first_chunk()?,
            local: end(152),
            peer: end(176).filter(|_| about & about::HAS_PEER != 0),
            name: named(200, u16_at(bytes, 126)?.min(112))?,
            to: named(312, u16_at(bytes, 128)?.min(128))?,
        })
    }

    /// Whether the flag of [`about`] is set.
    pub fn is(&self, flag: u8) -> bool {
        self.about & flag != 0
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_field_by_field() {
        let mut bytes = vec![0; TRANSFER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &kind::CALL.to_ne_bytes());
        put(32, &77_u64.to_ne_bytes());
        put(40, &(-32_i64).to_ne_bytes());
        put(64, &5_u64.to_ne_bytes());
        put(120, &1_u16.to_ne_bytes());
        put(126, &3_u16.to_ne_bytes());
        put(128, &2_u16.to_ne_bytes());
        put(130, &[6, 1, about::GOES_OUT]);
        put(136, b"curl\0");
        put(200, &[1, 0, 65]);
        put(312, &[1, 0]);
        let Some(Told::Transfer(record)) = Told::parse(&bytes) else { panic!("no record") };
        assert_eq!((record.inode, record.result, record.missed.bytes_out), (77, -32, 5));
        assert_eq!((record.family, record.step, record.abi, record.is(about::GOES_OUT)), (1, 6, 1, true));
        assert_eq!((record.name, record.to, &record.comm[..5]), (vec![1, 0, 65], vec![1, 0], &b"curl\0"[..]));
        assert!(record.local.is_none() && record.peer.is_none());
    }

    #[test]
    fn pieces_are_no_longer_than_they_are() {
        let mut bytes = [0; 16 + 8];
        bytes[0] = kind::BYTES as u8;
        bytes[4] = 3;
        bytes[8] = 9;
        bytes[16..19].copy_from_slice(b"abc");
        assert!(matches!(Told::parse(&bytes), Some(Told::Bytes(9, b"abc"))));
        bytes[4] = 9;
        assert!(Told::parse(&bytes).is_none());
        bytes[0] = kind::CONTROL as u8;
        assert!(Told::parse(&bytes).is_none() && Told::parse(&[]).is_none());
    }
}
