//! Empties the ring of records.

use crate::attention::Found;
use crate::programs::Programs;
use crate::record::{Record, StackRecord, flag};
use crate::translate::{Clock, Translator};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use sockstrace_backend::BackendError;
use sockstrace_backend::observed::Observation;
use sockstrace_backend::observed::UserStack;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};

/// It.
pub struct Reader {
    ring: RingBuf<MapData>,
    stacks: Stacks,
    lost: Counter,
    passed: Counter,
    translator: Translator,
}

impl Reader {
    /// Takes ring and counters; once.
    pub fn of(programs: &mut Programs) -> Result<Self, BackendError> {
        let stacks = Stacks { ring: programs.ring("stacks")?, taken: HashMap::new() };
        Ok(Self {
            ring: programs.ring("ring")?,
            stacks,
            lost: Counter { map: programs.counter("lost")?, told: 0 },
            passed: Counter { map: programs.counter("passed")?, told: 0 },
            translator: Translator::default(),
        })
    }

    /// What can be polled for records; it lives as long as the reader.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Takes what is there now, but not for ever: there may come as much as can be read, or more.
    pub fn drain(&mut self, sink: &mut dyn FnMut(Observation)) -> Found {
        let found = self.take(sink);
        if found != Found::Nothing {
            sink(Observation::CaughtUp);
        }
        found
    }

    fn take(&mut self, sink: &mut dyn FnMut(Observation)) -> Found {
        const AT_ONCE: usize = 32_768;
        let mut clock = None;
        for _ in 0..AT_ONCE {
            let Some(item) = self.ring.next() else {
                return if clock.is_none() { Found::Nothing } else { Found::All };
            };
            let clock = *clock.get_or_insert_with(|| {
                let clock = Clock::now();
                self.translator.set_clock(clock);
                clock
            });
            let record = Record::parse(&item);
            drop(item);
            let Some(record) = record else {
                sink(Observation::Lost(1));
                continue;
            };
            let is_last = clock.is_before(record.time);
            let stack = self.stacks.of(&record);
            self.translator.translate(record, stack, sink);
            if is_last {
                return Found::All;
            }
        }
        Found::Part
    }

    /// Translates records that came another way.
    pub fn translate_all(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Observation)) {
        self.translator.set_clock(Clock::now());
        Record::parse_all(bytes).for_each(|record| self.translator.translate(record, None, sink));
        sink(Observation::CaughtUp);
    }

    /// Tells how many records the ring had no room for, and how many calls were let go and not told, since the last
    /// time.
    pub fn tell_counts(&mut self, sink: &mut dyn FnMut(Observation)) {
        let counts =
            [(self.passed.take(), Observation::Passed as fn(u64) -> _), (self.lost.take(), Observation::Lost)];
        let new = counts.into_iter().filter(|(count, _)| *count > 0);
        if new.map(|(count, tell)| sink(tell(count))).count() > 0 {
            sink(Observation::CaughtUp);
        }
    }
}

/// What the programs count, on each processor by itself.
struct Counter {
    map: PerCpuArray<MapData, u64>,
    told: u64,
}

impl Counter {
    /// What it has counted since the last time.
    fn take(&mut self) -> u64 {
        let counts = self.map.get(&0, 0);
        let sum =
            counts.map_or(self.told, |counts| counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)));
        sum.saturating_sub(std::mem::replace(&mut self.told, sum))
    }
}

/// Stacks come by a ring of their own, before the records of their calls.
struct Stacks {
    ring: RingBuf<MapData>,
    /// By thread and time.
    taken: HashMap<(i32, u64), UserStack>,
}

impl Stacks {
    fn of(&mut self, record: &Record) -> Option<UserStack> {
        // More are stacks whose calls were lost: the ring holds no more.
        const KEPT: usize = 256;
        if !record.has(flag::HAS_STACK) {
            return None;
        }
        let key = (record.tid, record.time);
        if !self.taken.contains_key(&key) {
            if self.taken.len() > KEPT {
                self.taken.clear();
            }
            while let Some(item) = self.ring.next() {
                if let Some(StackRecord { tid, time, stack }) = StackRecord::parse(&item) {
                    self.taken.insert((tid, time), stack);
                }
            }
        }
        self.taken.remove(&key)
    }
}
