//! Capturing payloads: programs at the beginnings and ends of system calls copy what was moved.
//!
//! They are an object of their own (`bpf/capture.bpf.c`), with a ring and filters of its own, so that judging costs
//! the same with and without. A payload is copied when its call has ended, in the length that the call gave: the
//! kernel has just been there, so that the memory is present, and what isn't is told as missing. Nobody waits: what
//! the ring has no room for is counted by socket and direction, and told with the next record of that socket.

mod assemble;
mod record;
mod steps;
mod thread;

pub use thread::Thread;

use crate::attention::{Attention, Found};
use crate::maps::{self, failed, of};
use crate::programs::{NO_PROGRAMS, brief, chain, loader};
use crate::translate::Clock;
use assemble::Assembler;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{Iter, Program};
use aya::{Btf, Ebpf};
use nix::unistd::Pid;
use record::Told;
use sockstrace_backend::BackendError;
use sockstrace_backend::captured::{Captured, Missed, Wanted};
use sockstrace_backend::observed::Filters;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};

/// The tracepoints, with the program for each. What begins is seen last.
pub const TRACEPOINTS: [(&str, &str); 6] = [
    ("object_freed", "kmem_cache_free"),
    ("member_gone", "sched_process_exit"),
    ("member_born", "sched_process_fork"),
    ("program_starts", "sched_process_exec"),
    ("move_ends", "sys_exit"),
    ("move_begins", "sys_enter"),
];

const DETACHED: &str = "they are detached";

#[cfg(have_programs)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/capture.bpf.o")));
#[cfg(not(have_programs))]
const OBJECT: Option<&[u8]> = None;

/// Programs that capture, and what they tell.
pub struct Capture {
    /// Gone when they are detached.
    bpf: Option<Ebpf>,
    btf: Btf,
    ring: RingBuf<MapData>,
    sockets: HashMap<MapData, u64, Met>,
    lost: PerCpuArray<MapData, u64>,
    lost_told: u64,
    assembler: Assembler,
}

/// `struct met` of bpf/payloads.h: bytes in and out, calls in and out, and whether it is gone.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct Met([u64; 5]);

// SAFETY: an array of integers.
unsafe impl aya::Pod for Met {}

impl Capture {
    /// Loads the programs for these processes; `launched`: and for a tree that is to come.
    pub fn load(wanted: &Wanted, filters: &Filters, launched: bool) -> Result<Self, BackendError> {
        let object = OBJECT.ok_or_else(|| BackendError::Unavailable(NO_PROGRAMS.into()))?;
        let (mut loader, btf) = loader()?;
        let families = wanted.families.as_ref().map_or(u64::MAX, |families| {
            let bit = |family: &i32| u32::try_from(*family).ok().and_then(|family| 1_u64.checked_shl(family));
            families.iter().filter_map(bit).fold(0, |all, bit| all | bit)
        });
        let mut bpf = loader
            .override_global("own_tgid", &crate::tree::own(), true)
            .override_global("filters", &maps::filter_bits(filters, launched), true)
            .override_global("cgroup_count", &(filters.cgroups.len() as u32), true)
            .override_global("families", &families, true)
            .override_global("most_bytes", &wanted.most_bytes, true)
            .override_global("most_descriptors", &u32::try_from(wanted.descriptors).unwrap_or(u32::MAX), true)
            .load(object)
            .map_err(|error| BackendError::Unavailable(format!("BPF maps can't be made: {}", chain(&error))))?;
        maps::fill_calls(&mut bpf, steps::numbers(steps::NATIVE), steps::compat())?;
        maps::fill_filters(&mut bpf, filters)?;
        Ok(Self {
            ring: maps::take(&mut bpf, "payloads")?,
            sockets: maps::take(&mut bpf, "sockets")?,
            lost: maps::take(&mut bpf, "lost_records")?,
            bpf: Some(bpf),
            btf,
            lost_told: 0,
            assembler: Assembler::default(),
        })
    }

    /// Loads one tracepoint's program.
    pub fn load_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<(), String> {
        let Self { bpf: Some(bpf), btf, .. } = self else { return Err(DETACHED.into()) };
        let loaded = match bpf.program_mut(program) {
            Some(Program::BtfTracePoint(program)) => program.load(tracepoint, btf),
            Some(Program::RawTracePoint(program)) => program.load(),
            _ => return Err(format!("there is no program {program}")),
        };
        loaded.map_err(|error| brief(&error))
    }

    fn attach_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<(), String> {
        let attached = match self.bpf()?.program_mut(program) {
            Some(Program::BtfTracePoint(program)) => program.attach().map(drop),
            Some(Program::RawTracePoint(program)) => program.attach(tracepoint).map(drop),
            _ => return Err(format!("there is no program {program}")),
        };
        attached.map_err(|error| brief(&error))
    }

    /// Attaches all of them.
    pub fn attach(&mut self) -> Result<(), BackendError> {
        for (program, tracepoint) in TRACEPOINTS {
            let loaded = self.load_tracepoint(program, tracepoint);
            loaded.and_then(|()| self.attach_tracepoint(program, tracepoint)).map_err(|why| {
                BackendError::Unavailable(format!("capturing at the tracepoint {tracepoint}: {why}"))
            })?;
        }
        Ok(())
    }

    fn bpf(&mut self) -> Result<&mut Ebpf, String> {
        self.bpf.as_mut().ok_or_else(|| DETACHED.into())
    }

    fn attached(&mut self) -> Result<&mut Ebpf, BackendError> {
        self.bpf().map_err(BackendError::Unavailable)
    }

    /// This process is to become PROGRAM, and what descends from it is the tree.
    pub fn adopt(&mut self, pid: Pid) -> Result<(), BackendError> {
        let pid = pid.as_raw() as u32;
        let mut starting: Array<&mut MapData, u32> = maps::map(self.attached()?, "starting")?;
        starting.set(0, pid, 0).map_err(failed("starting"))?;
        maps::fill_set(self.attached()?, "tree", &[pid])
    }

    /// Brings the trees up to date with what happened before the programs were attached.
    pub fn catch_up(&mut self, filters: &Filters) -> Result<(), BackendError> {
        maps::catch_up(self.attached()?, &filters.trees)
    }

    /// Has the sockets told that exist already.
    pub fn tell_existing(&mut self) -> Result<(), String> {
        let Self { bpf: Some(bpf), btf, .. } = self else { return Err(DETACHED.into()) };
        let program: &mut Iter = of(bpf, "met_already")?;
        program.load("task_file", btf).map_err(|error| brief(&error))?;
        let link = program.attach().and_then(|id| program.take_link(id)).map_err(|error| brief(&error))?;
        let mut file = link.into_file().map_err(|error| chain(&error))?;
        // What it tells goes to the ring.
        file.read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
    }

    /// What can be polled for records; it lives as long as this.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Has this ring attended to, too; once.
    pub fn have_attended(&mut self, attention: &mut Attention) -> Result<(), BackendError> {
        attention.attend_to(self.attached()?)
    }

    /// Takes what is there now, but not for ever.
    pub fn drain(&mut self, sink: &mut dyn FnMut(Captured)) -> Found {
        const AT_ONCE: usize = 16_384;
        let mut first = true;
        for _ in 0..AT_ONCE {
            let Some(item) = self.ring.next() else { return if first { Found::Nothing } else { Found::All } };
            if std::mem::take(&mut first) {
                self.assembler.set_clock(Clock::now());
            }
            match Told::parse(&item) {
                Some(told) => self.assembler.put(told, sink),
                None => sink(Captured::Lost(1)),
            }
        }
        Found::Part
    }

    /// Tells how many records were lost since the last time.
    pub fn tell_lost(&mut self, sink: &mut dyn FnMut(Captured)) {
        let Ok(counts) = self.lost.get(&0, 0) else { return };
        let sum = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let new = sum.saturating_sub(std::mem::replace(&mut self.lost_told, sum));
        if new > 0 {
            sink(Captured::Lost(new));
        }
    }

    /// Detaches the programs, and tells what is left, and what was lost and couldn't be told.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Captured)) {
        self.bpf = None;
        while self.drain(sink) == Found::Part {}
        self.assembler.finish(sink);
        for (inode, Met([bytes_in, bytes_out, calls_in, calls_out, _])) in self.sockets.iter().flatten() {
            let missed = Missed { calls_in, bytes_in, calls_out, bytes_out };
            if !missed.is_nothing() {
                sink(Captured::Missed(inode, missed));
            }
        }
        self.tell_lost(sink);
    }
}
