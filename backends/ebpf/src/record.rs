//! Records of the programs, as bpf/shared.h lays them out.

use sockstrace_backend::observed::{LoadedFile, UserStack};
use std::ffi::{CStr, OsStr};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// `sizeof(struct record)`
pub const BYTES: usize = 256;

/// `enum kind`
pub mod kind {
    pub const CALL: u32 = 1;
    pub const TCP_STATE: u32 = 2;
    pub const EXEC: u32 = 3;
    pub const EXIT: u32 = 4;
    pub const SOCKET: u32 = 6;
    pub const ACTED: u32 = 8;
    pub const DIVERTED: u32 = 9;
}

/// `enum source`
pub mod source {
    pub const NOWHERE: u8 = 0;
    pub const USER: u8 = 3;
}

/// `enum flag`
pub mod flag {
    pub const HAS_RESULT: u8 = 1;
    pub const HAS_SOCKET: u8 = 2;
    pub const HAS_LOCAL: u8 = 4;
    pub const HAS_PEER: u8 = 8;
    pub const MORE: u8 = 16;
    pub const JUDGED: u8 = 32;
    pub const LEAKS: u8 = 64;
    pub const HAS_STACK: u8 = 128;
}

/// `enum way`
pub mod way {
    pub const BY_DESTINATION: u32 = 0;
    pub const SOURCE_ROUTED: u32 = 1;
    pub const CHOSEN: u32 = 2;
}

/// `enum diversion`
pub mod diversion {
    pub const DIVERTED: u32 = 1;
    pub const NO_STREAM: u32 = 2;
    pub const MULTIPATH: u32 = 3;
    pub const BOUND_TO_DEVICE: u32 = 4;
    pub const ELSEWHERE: u32 = 5;
    pub const NO_HOLE: u32 = 6;
    pub const TO_A_GROUP: u32 = 7;
}

/// The stack of the call whose record has the same thread and time.
#[derive(Debug)]
pub struct StackRecord {
    /// The thread.
    pub tid: i32,
    /// What the call's record has for its time.
    pub time: u64,
    /// Its stack.
    pub stack: UserStack,
}

/// CHUNKS and CHUNK of bpf/shared.h
const STACK_BYTES: usize = 64 * 256;

impl StackRecord {
    /// Reads a `struct stack`; `None` where the bytes are none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const KIND: u32 = 7;
        // USER_REGISTERS of bpf/kernel.h
        const REGISTERS: usize = if cfg!(target_arch = "x86_64") { 168 } else { 272 };
        let memory = 32_usize.checked_add(REGISTERS)?;
        if u32_at(bytes, 0)? != KIND {
            return None;
        }
        let length = usize::try_from(u32_at(bytes, 24)?).ok()?;
        let modules = bytes.get(memory.checked_add(STACK_BYTES)?..)?;
        Some(Self {
            tid: u32_at(bytes, 4)? as i32,
            time: u64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?),
            stack: UserStack {
                registers: registers(bytes.get(32..memory)?),
                base: u64::from_ne_bytes(*bytes.get(16..)?.first_chunk()?),
                bytes: bytes.get(memory..memory.checked_add(length.min(STACK_BYTES))?)?.to_vec(),
                loaded: loaded(modules)?,
            },
        })
    }
}

/// `struct modules`
fn loaded(bytes: &[u8]) -> Option<Vec<LoadedFile>> {
    // struct module
    const EACH: usize = 96;
    let (count, modules) = bytes.split_first_chunk()?;
    let count = usize::try_from(u64::from_ne_bytes(*count)).ok()?;
    let file = |module: &[u8]| {
        let (bias, name) = module.split_first_chunk()?;
        let name = CStr::from_bytes_until_nul(name).ok()?;
        let path = Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        Some(LoadedFile { path: path.filter(|path| !path.as_os_str().is_empty()), bias: u64::from_ne_bytes(*bias) })
    };
    // What has no path is but the first, the program itself; a path that didn't fit is none.
    let named = |(index, file): &(usize, LoadedFile)| {
        *index == 0
            || file.path.as_ref().is_some_and(|path| path.is_absolute() && path.as_os_str().len() < EACH - 9)
    };
    let files = modules.chunks_exact(EACH).take(count).map_while(file).enumerate();
    Some(files.filter(named).map(|(_, file)| file).collect())
}

/// The kernel's `struct pt_regs` is the beginning of what tracers get.
fn registers(bytes: &[u8]) -> libc::user_regs_struct {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let length = bytes.len().min(size_of::<libc::user_regs_struct>());
    // SAFETY: no more bytes are copied than there are on either side, and every pattern of bits is a value of the
    // structure, which is made of integers.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), registers.as_mut_ptr().cast(), length);
        registers.assume_init()
    }
}

/// `struct record`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: u32,
    pub tgid: i32,
    pub tid: i32,
    pub uid: u32,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    pub result: i64,
    pub comm: [u8; 16],
    pub fd: i32,
    pub family: u16,
    pub socket_type: u16,
    pub protocol: u16,
    pub op: u8,
    pub abi: u8,
    pub source: u8,
    pub flags: u8,
    pub message_flags: u32,
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// `enum way`
    pub way: u32,
    /// `enum diversion`
    pub diversion: u32,
    pub name: Vec<u8>,
}

impl Record {
    /// Reads a record; `None` where the bytes are none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let flags = *bytes.get(67)?;
        let has = |flag| flags & flag != 0;
        let name_length = usize::from(u16_at(bytes, 62)?);
        Some(Self {
            kind: u32_at(bytes, 0)?,
            tgid: u32_at(bytes, 4)? as i32,
            tid: u32_at(bytes, 8)? as i32,
            uid: u32_at(bytes, 12)?,
            time: u64::from_ne_bytes(*bytes.get(16..)?.first_chunk()?),
            result: i64::from_ne_bytes(*bytes.get(24..)?.first_chunk()?),
            comm: *bytes.get(32..)?.first_chunk()?,
            fd: u32_at(bytes, 48)? as i32,
            family: u16_at(bytes, 56)?,
            socket_type: u16_at(bytes, 58)?,
            protocol: u16_at(bytes, 60)?,
            op: *bytes.get(64)?,
            abi: *bytes.get(65)?,
            source: *bytes.get(66)?,
            flags,
            message_flags: u32_at(bytes, 68)?,
            local: if has(flag::HAS_LOCAL) { endpoint(bytes.get(72..96)?) } else { None },
            peer: if has(flag::HAS_PEER) { endpoint(bytes.get(96..120)?) } else { None },
            way: u32_at(bytes, 120)?,
            diversion: u32_at(bytes, 124)?,
            name: bytes.get(128..128_usize.checked_add(name_length)?)?.to_vec(),
        })
    }

    /// Reads records that follow one another.
    pub fn parse_all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks_exact(BYTES).filter_map(Self::parse)
    }

    /// Whether the flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// `struct endpoint`
pub fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(16..)?.first_chunk()?);
    let family = i32::from(u16_at(bytes, 18)?);
    // The peer of a UNIX socket has none.
    if family != libc::AF_INET && family != libc::AF_INET6 {
        return None;
    }
    if family == libc::AF_INET6 {
        let ip = Ipv6Addr::from(*bytes.first_chunk::<16>()?);
        // The device that the socket is bound to names the scope of a link-local address alone.
        let scope = if ip.is_unicast_link_local() { u32_at(bytes, 20)? } else { 0 };
        return Some(SocketAddrV6::new(ip, port, 0, scope).into());
    }
    Some(SocketAddr::new(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_record_is_read_field_by_field() {
        let mut bytes = vec![0; BYTES];
        bytes[..4].copy_from_slice(&kind::CALL.to_ne_bytes());
        bytes[4..8].copy_from_slice(&77_u32.to_ne_bytes());
        bytes[24..32].copy_from_slice(&(-111_i64).to_ne_bytes());
        bytes[32..36].copy_from_slice(b"curl");
        bytes[62..64].copy_from_slice(&16_u16.to_ne_bytes());
        bytes[67] = flag::HAS_PEER | flag::HAS_RESULT;
        bytes[96..112].copy_from_slice(&"fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes[112..114].copy_from_slice(&443_u16.to_be_bytes());
        bytes[114..116].copy_from_slice(&10_u16.to_ne_bytes());
        bytes[116..120].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[120..124].copy_from_slice(&way::CHOSEN.to_ne_bytes());
        bytes[124..128].copy_from_slice(&diversion::NO_HOLE.to_ne_bytes());
        bytes[128] = 2;
        let record = Record::parse(&bytes).unwrap();
        assert_eq!((record.kind, record.tgid, record.result), (kind::CALL, 77, -111));
        assert_eq!(record.peer.unwrap().to_string(), "[fe80::1%2]:443");
        assert_eq!((record.local, record.name.len(), record.name[0]), (None, 16, 2));
        assert_eq!((record.way, record.diversion), (way::CHOSEN, diversion::NO_HOLE));
        bytes[114..116].fill(0);
        assert_eq!(Record::parse(&bytes).unwrap().peer, None);
    }

    #[test]
    fn a_stack_is_read() {
        let registers = if cfg!(target_arch = "x86_64") { 168 } else { 272 };
        let mut bytes = vec![0; 32 + registers + STACK_BYTES + 8 + 24 * 96];
        let modules = 32 + registers + STACK_BYTES;
        bytes[modules] = 3;
        bytes[modules + 9] = 0x40;
        bytes[modules + 8 + 96 + 8..][..6].copy_from_slice(b"/lib/x");
        // Not a path.
        bytes[modules + 8 + 2 * 96 + 8] = b'v';
        bytes[..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&78_u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&5_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&0x7FFE_0000_u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&512_u32.to_ne_bytes());
        bytes[32] = 15;
        bytes[32 + registers] = 9;
        let StackRecord { tid, time, stack } = StackRecord::parse(&bytes).unwrap();
        assert_eq!((tid, time), (78, 5));
        assert_eq!((tid, stack.base, stack.bytes.len(), stack.bytes[0]), (78, 0x7FFE_0000, 512, 9));
        let files: Vec<_> = stack.loaded.iter().map(|file| (file.path.as_deref(), file.bias)).collect();
        assert_eq!(files, [(None, 0x4000), (Some(Path::new("/lib/x")), 0)]);
        #[cfg(target_arch = "x86_64")]
        assert_eq!((stack.registers.r15, stack.registers.fs_base), (15, 0));
        assert!(StackRecord::parse(&bytes[..modules]).is_none());
        assert!(StackRecord::parse(&[]).is_none());
    }

    #[test]
    fn what_is_no_record_is_none() {
        for length in [0, 1, BYTES - 1, BYTES + 1] {
            assert_eq!(Record::parse(&vec![0; length]), None);
        }
        let mut bytes = vec![0; BYTES];
        bytes[62..64].copy_from_slice(&129_u16.to_ne_bytes());
        assert_eq!(Record::parse(&bytes), None);
    }
}
