//! From frame to frame.

use super::arch::Trampoline;
use super::cfi::{Failure, Found};
use super::image::{Called, Located};
use super::{How, Limits, Memory, ProcessImage, RawFrame, Reason, Registers, Trace};
use std::time::Instant;

/// What follows a frame.
#[expect(clippy::large_enum_variant, reason = "passed on at once, and nearly always the large one")]
enum Step {
    /// Its caller, or what a signal interrupted (`exact`: the address is no return address; `signal`: the frame
    /// is the trampoline by which the handler returns).
    Caller { registers: Registers, how: How, exact: bool, signal: bool },
    /// Nothing: it is the outermost.
    Outermost,
    /// It can't be told.
    Stuck(Reason),
}

struct Walk<'a> {
    image: &'a ProcessImage,
    memory: &'a dyn Memory,
    limits: &'a Limits,
}

/// How far into a function without a frame its system call or its fault may be.
const LEAF: u64 = 1 << 16;

pub(super) fn walk(image: &ProcessImage, registers: &Registers, memory: &dyn Memory, limits: &Limits) -> Trace {
    let walk = Walk { image, memory, limits };
    let mut trace =
        Trace { pid: image.pid(), frames: Vec::with_capacity(32), interpreted: Vec::new(), truncated: None };
    trace.truncated = walk.run(*registers, &mut trace.frames).err();
    trace
}

impl Walk<'_> {
    fn run(&self, mut registers: Registers, frames: &mut Vec<RawFrame>) -> Result<(), Reason> {
        let started = Instant::now();
        let arch = registers.arch();
        let (mut how, mut guessed) = (How::Cfi, false);
        // A thread that made a system call stands behind it, perhaps behind its function too.
        let mut exact = !self.image.syscall_before(arch, registers.pc(), self.memory);
        // Brent: whatever repeats is met again at a power of two.
        let mut mark = (registers.pc(), registers.sp(), registers.fp());
        let mut next_mark = 2_usize;
        loop {
            let ip = registers.pc();
            let lookup = if exact { ip } else { ip.wrapping_sub(1) };
            let located = self.image.locate(lookup);
            frames.push(RawFrame {
                ip,
                lookup,
                how: if guessed { How::Guess } else { how },
                signal: false,
                place: located.map(|located| {
                    let mut place = located.place();
                    place.offset = place.offset.wrapping_add(ip.wrapping_sub(lookup));
                    place
                }),
            });
            let innermost = frames.len() == 1;
            let mut found = self.find(&registers, located, exact);
            let mut located = located;
            let mut entered = false;
            if matches!(found, Found::Nothing) && !exact {
                // Not called but entered as if it had returned there: the start of a coroutine.
                located = self.image.locate(ip);
                found = self.find(&registers, located, true);
                if let Some(frame) = frames.last_mut()
                    && !matches!(found, Found::Nothing)
                {
                    entered = true;
                    frame.lookup = ip;
                    frame.place = located.map(|located| located.place());
                }
            }
            let bias = located.map_or(0, |located| located.bias);
            match self.step(&registers, &found, bias, exact || innermost, guessed) {
                Step::Outermost => return Ok(()),
                Step::Stuck(reason) => return Err(reason),
                Step::Caller { registers: caller, how: by, exact: interrupted, signal } => {
                    if signal && let Some(frame) = frames.last_mut() {
                        frame.signal = true;
                        frame.lookup = frame.ip;
                    }
                    let pc = caller.pc();
                    // A program may have jumped anywhere before the signal came.
                    if !interrupted && !self.image.is_code(pc.wrapping_sub(1)) {
                        return if pc == 0 || entered { Ok(()) } else { Err(Reason::NotCode(pc)) };
                    }
                    let place = (pc, caller.sp(), caller.fp());
                    if place == mark || place == (registers.pc(), registers.sp(), registers.fp()) {
                        return Err(Reason::Loop);
                    }
                    if frames.len() >= next_mark {
                        mark = place;
                        next_mark = next_mark.saturating_mul(2);
                    }
                    how = by;
                    guessed |= by == How::Guess;
                    exact = interrupted;
                    registers = caller;
                }
            }
            if frames.len() >= self.limits.frames {
                return Err(Reason::TooManyFrames);
            }
            if started.elapsed() > self.limits.time {
                return Err(Reason::TooSlow);
            }
        }
    }

    /// What is known of leaving a frame. `exact`: its address is not behind a call.
    fn find(&self, registers: &Registers, located: Option<Located<'_>>, exact: bool) -> Found {
        let trampoline = || self.image.trampoline(registers.arch(), registers.pc(), self.memory);
        match located {
            Some(Located { module: Some(module), address, .. }) => {
                module.tables().find(module, address, exact, trampoline)
            }
            Some(_) => trampoline().map_or(Found::Nothing, Found::Trampoline),
            None => Found::Nothing,
        }
    }

    fn step(&self, registers: &Registers, found: &Found, bias: u64, maybe_leaf: bool, guessed: bool) -> Step {
        match found {
            Found::Rule(rule) => match rule.apply(registers, self.memory, bias) {
                Ok(Some(caller)) => {
                    Step::Caller { registers: caller, how: How::Cfi, exact: rule.interrupted, signal: rule.signal }
                }
                Ok(None) => Step::Outermost,
                // After a guess the other registers are not the frame's: no rule can be held to them.
                Err(_) if guessed && let Some(step) = self.by_guess(registers) => step,
                Err(Failure::Unreadable(address)) => Step::Stuck(Reason::Unreadable(address)),
                Err(Failure::Nonsense) => Step::Stuck(Reason::BadRule(registers.pc())),
            },
            Found::Trampoline(trampoline) => self.interrupted(registers, trampoline),
            Found::Nonsense => Step::Stuck(Reason::BadRule(registers.pc())),
            Found::Nothing => self.without_rule(registers, maybe_leaf),
        }
    }

    /// The registers that a signal frame keeps.
    fn interrupted(&self, registers: &Registers, trampoline: &Trampoline) -> Step {
        let word = registers.arch().word();
        let read = |address: u64| self.memory.word(address, word).ok_or(address);
        let base = match trampoline.pointer {
            None => Ok(registers.sp()),
            Some(offset) => read(registers.sp().wrapping_add_signed(offset)),
        };
        let saved = base.and_then(|base| {
            let mut saved = Registers::new(registers.arch());
            let block = base.wrapping_add_signed(trampoline.block);
            for (number, offset) in trampoline.registers {
                saved.set(*number, read(block.wrapping_add_signed(*offset))?);
            }
            Ok(saved)
        });
        match saved {
            Ok(registers) => Step::Caller { registers, how: How::Cfi, exact: true, signal: true },
            Err(address) => Step::Stuck(Reason::Unreadable(address)),
        }
    }

    /// `maybe_leaf`: the function may not have called anything, so that it may have no frame at all.
    fn without_rule(&self, registers: &Registers, maybe_leaf: bool) -> Step {
        let leaf = if maybe_leaf { self.leaf(registers) } else { None };
        leaf.or_else(|| self.by_frame_pointer(registers))
            .or_else(|| self.by_guess(registers))
            .unwrap_or(Step::Stuck(Reason::NoRule(registers.pc())))
    }

    /// A function that has touched neither its stack nor the frame pointer: its return address is on top,
    /// and the call before that leads into this very function, or it was called where there is no code.
    fn leaf(&self, registers: &Registers) -> Option<Step> {
        let spec = registers.arch().spec();
        let (pc, sp) = (registers.pc(), registers.sp());
        let (back, sp) = match spec.link {
            Some(link) => (registers.get(link)? & spec.address_mask, sp),
            None => (self.memory.word(sp, spec.word)?, sp.checked_add(spec.word.into())?),
        };
        let into = match self.image.call_before(registers.arch(), back, self.memory)? {
            Called::At(target) => pc.checked_sub(target).is_some_and(|distance| distance < LEAF),
            Called::Anywhere => !self.image.is_code(pc),
        };
        if !into {
            return None;
        }
        let mut caller = *registers;
        caller.set(spec.pc, back);
        caller.set(spec.sp, sp);
        Some(Step::Caller { registers: caller, how: How::FramePointer, exact: false, signal: false })
    }

    fn by_frame_pointer(&self, registers: &Registers) -> Option<Step> {
        let spec = registers.arch().spec();
        let (sp, fp) = (registers.sp(), registers.fp()?);
        let word = u64::from(spec.word);
        // Where the stack ends may not be known.
        let end = self.image.mapping(sp).map_or(u64::MAX, |stack| stack.end);
        if fp % word != 0 || fp < sp || fp >= end {
            return None;
        }
        let previous = self.memory.word(fp.checked_add(spec.frame_record.0)?, spec.word)?;
        let back = self.memory.word(fp.checked_add(spec.frame_record.1)?, spec.word)? & spec.address_mask;
        if previous == 0 && back == 0 {
            return Some(Step::Outermost);
        }
        self.image.call_before(registers.arch(), back, self.memory)?;
        let mut caller = Registers::of_pc_and_sp(registers.arch(), back, fp.checked_add(word.checked_mul(2)?)?);
        caller.set(spec.fp, previous);
        Some(Step::Caller { registers: caller, how: How::FramePointer, exact: false, signal: false })
    }

    /// Whether a call stands before an address that may lead to where we are: a direct one within the same
    /// mapping would have to go to the function that we are in.
    fn could_return_to(&self, registers: &Registers, back: u64) -> bool {
        if !self.image.is_code(back) {
            return false;
        }
        let pc = registers.pc();
        let mapping = |address| self.image.mapping(address).map(|mapping| mapping.start);
        match self.image.call_before(registers.arch(), back, self.memory) {
            Some(Called::At(target)) if mapping(target) == mapping(pc) => {
                pc.checked_sub(target).is_some_and(|distance| distance < LEAF)
            }
            Some(_) => true,
            None => false,
        }
    }

    fn by_guess(&self, registers: &Registers) -> Option<Step> {
        let spec = registers.arch().spec();
        let word = u64::from(spec.word);
        let mut at = registers.sp().checked_next_multiple_of(word)?;
        for _ in 0..self.limits.guess_words {
            let value = self.memory.word(at, spec.word)? & spec.address_mask;
            at = at.checked_add(word)?;
            if self.could_return_to(registers, value) {
                let mut caller = *registers;
                caller.set(spec.pc, value);
                caller.set(spec.sp, at);
                return Some(Step::Caller { registers: caller, how: How::Guess, exact: false, signal: false });
            }
        }
        None
    }
}
