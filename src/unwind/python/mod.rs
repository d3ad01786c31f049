//! The Python functions that a thread of CPython runs, read from its memory.
//!
//! A module that has the symbol `_PyRuntime` is an interpreter (or its library). From there the list of
//! interpreters leads to the threads, among which the one that is unwound is known by its thread pointer or its
//! number, and that leads to its frames, innermost first. They come in activations: what one call of
//! `_PyEval_EvalFrameDefault` runs. Which native frames those calls are is known only when they have names, so
//! [`crate::symbols`] puts the two together.
//!
//! Versions 3.8 to 3.13 are known; of another one nothing is said. What is read may be anything: each read is
//! checked, their number and the sum of what they give is bounded, and what makes no sense ends the list.

mod layout;
mod lines;

use super::{Memory, Module, Registers, modules::elf::Elf};
use layout::{Entry, Layout, Position};
use std::cell::Cell;
use std::sync::Arc;

/// A Python function that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its qualified name (3.11 and later), or its name.
    pub function: Arc<str>,
    /// The source file.
    pub file: Arc<str>,
    /// The line in it.
    pub line: Option<u32>,
}

/// What one call of the interpreter's evaluation function runs, innermost first.
pub type Activation = Vec<Script>;

/// An interpreter, as its file has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interpreter {
    version: (u8, u8),
    /// The address of `_PyRuntime`, as linked.
    runtime: u64,
}

/// What one trace may read, and how many interpreters and threads are looked at.
const BYTES: usize = 8 << 20;
const READS: u32 = 1 << 15;
const STATES: usize = 4096;

/// The longest name, path and line table.
const NAME: u64 = 1024;
const PATH: u64 = 4096;
const LINES: u64 = 1 << 20;

/// Memory with a limit to what is read of it.
pub(super) struct Reader<'a> {
    memory: &'a dyn Memory,
    word: u8,
    bytes: Cell<usize>,
    reads: Cell<u32>,
}

impl<'a> Reader<'a> {
    pub fn new(memory: &'a dyn Memory, word: u8) -> Self {
        Self { memory, word, bytes: Cell::new(BYTES), reads: Cell::new(READS) }
    }

    fn spend(&self, bytes: usize) -> Option<()> {
        self.bytes.set(self.bytes.get().checked_sub(bytes)?);
        self.reads.set(self.reads.get().checked_sub(1)?);
        Some(())
    }

    fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        self.spend(length)?;
        let mut bytes = vec![0; length];
        self.memory.read(address, &mut bytes)?;
        Some(bytes)
    }

    fn number(&self, base: u64, offset: u64, size: u8) -> Option<u64> {
        self.spend(size.into())?;
        self.memory.word(base.checked_add(offset)?, size)
    }

    /// A pointer, which may be null but not in the first page.
    fn pointer(&self, base: u64, offset: u64) -> Option<u64> {
        let pointer = self.number(base, offset, self.word)?;
        (pointer == 0 || pointer >= 4096).then_some(pointer)
    }
}

impl Interpreter {
    /// Of a module that is one.
    pub fn of(elf: &Elf) -> Option<Self> {
        let runtime = elf.dynamic_symbol("_PyRuntime")?;
        let has = |name| elf.dynamic_symbol(name).is_some();
        let version = if let Some(at) = elf.dynamic_symbol("Py_Version") {
            // `const unsigned long`, as in PY_VERSION_HEX.
            let version = u32::from_le_bytes(*elf.at_address(at)?.first_chunk()?);
            ((version >> 24) as u8, (version >> 16) as u8)
        } else if has("Py_NewRef") {
            (3, 10)
        } else if has("PyFrame_GetCode") {
            (3, 9)
        } else if has("PyCode_NewWithPosOnlyArgs") {
            (3, 8)
        } else {
            return None;
        };
        Some(Self { version, runtime })
    }

    /// What a thread runs. `bias` is what to add to addresses as linked.
    pub fn activations(
        &self,
        bias: u64,
        registers: &Registers,
        memory: &dyn Memory,
        most: usize,
    ) -> Option<Vec<Activation>> {
        let reader = Reader::new(memory, registers.arch().word());
        let runtime = self.runtime.wrapping_add(bias);
        let layout = Layout::of(self.version, &reader, runtime)?;
        let frame = current_frame(&layout, &reader, runtime, registers)?;
        Some(frames(&layout, &reader, frame, most))
    }
}

/// The frame that a thread runs.
fn current_frame(layout: &Layout, reader: &Reader<'_>, runtime: u64, registers: &Registers) -> Option<u64> {
    let native = reader.memory.thread().and_then(inner_tid);
    let is_ours = |thread: u64| {
        if let Some(pointer) = registers.thread_pointer() {
            return reader.number(thread, layout.thread.id, reader.word) == Some(pointer);
        }
        let id = layout.thread.native_id.and_then(|offset| reader.number(thread, offset, reader.word));
        id.is_some() && id == native
    };
    let mut interpreter = reader.pointer(runtime, layout.interpreters)?;
    let mut left = STATES;
    while interpreter != 0 {
        let mut thread = reader.pointer(interpreter, layout.threads)?;
        while thread != 0 {
            left = left.checked_sub(1)?;
            if is_ours(thread) {
                let (first, second) = layout.thread.frame;
                let mut frame = reader.pointer(thread, first)?;
                if let Some(second) = second
                    && frame != 0
                {
                    frame = reader.pointer(frame, second)?;
                }
                // A thread may have a state in several interpreters.
                if frame != 0 {
                    return Some(frame);
                }
            }
            thread = reader.pointer(thread, layout.thread.next)?;
        }
        left = left.checked_sub(1)?;
        interpreter = reader.pointer(interpreter, layout.next_interpreter)?;
    }
    None
}

/// A thread's number as it has it itself, in its own pid namespace.
fn inner_tid(tid: nix::unistd::Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

fn frames(layout: &Layout, reader: &Reader<'_>, innermost: u64, most: usize) -> Vec<Activation> {
    let mut all: Vec<Activation> = Vec::new();
    let mut now = Activation::new();
    let mut next = Some(innermost);
    for _ in 0..most {
        let Some(frame) = next.filter(|frame| *frame != 0) else { break };
        next = reader.pointer(frame, layout.frame.previous);
        let mark = match layout.frame.entry {
            Entry::Each => Some(1),
            Entry::Flag(offset) | Entry::Shim(offset) => reader.number(frame, offset, 1),
        };
        let is_shim = matches!(layout.frame.entry, Entry::Shim(_)) && mark.is_some_and(|mark| mark >= 3);
        if !is_shim {
            let Some(script) = script(layout, reader, frame) else { break };
            now.push(script);
        }
        let is_last = match layout.frame.entry {
            Entry::Each => true,
            Entry::Flag(_) => mark.is_some_and(|mark| mark != 0),
            Entry::Shim(_) => is_shim,
        };
        if is_last && !now.is_empty() {
            all.push(std::mem::take(&mut now));
        }
    }
    if !now.is_empty() {
        all.push(now);
    }
    all
}

fn script(layout: &Layout, reader: &Reader<'_>, frame: u64) -> Option<Script> {
    let code = reader.pointer(frame, layout.frame.code).filter(|code| *code != 0)?;
    let text = |offset: u64, longest: u64| {
        let object = reader.pointer(code, offset).filter(|object| *object != 0)?;
        text(layout, reader, object, longest)
    };
    let (function, file) = (text(layout.code.name, NAME)?, text(layout.code.file, PATH)?);
    Some(Script { function: function.into(), file: file.into(), line: line(layout, reader, frame, code) })
}

fn line(layout: &Layout, reader: &Reader<'_>, frame: u64, code: u64) -> Option<u32> {
    let (offset, position) = layout.frame.position;
    let at = match position {
        // −1 before the first instruction.
        Position::Bytes => (reader.number(frame, offset, 4)? as u32).cast_signed().max(0).cast_unsigned(),
        Position::Units => {
            (reader.number(frame, offset, 4)? as u32).cast_signed().max(0).cast_unsigned().checked_mul(2)?
        }
        Position::Pointer => {
            let start = code.checked_add(layout.code.start)?;
            let at = reader.number(frame, offset, reader.word)?;
            // One instruction before the first when it has not begun.
            u32::try_from(at.saturating_sub(start)).ok()?
        }
    };
    let first = u32::try_from(reader.number(code, layout.code.first_line, 4)?).ok()?;
    let (offset, format) = layout.code.lines;
    let table = reader.pointer(code, offset).filter(|table| *table != 0)?;
    // PyBytesObject: ob_size, ob_shash, ob_sval.
    let word = u64::from(reader.word);
    let length = reader.number(table, word.checked_mul(2)?, reader.word).filter(|length| *length <= LINES)?;
    let table = reader.bytes(table.checked_add(word.checked_mul(4)?)?, usize::try_from(length).ok()?)?;
    lines::line(format, &table, first, at)
}

/// A string, of which only the beginning if it is longer.
fn text(layout: &Layout, reader: &Reader<'_>, object: u64, longest: u64) -> Option<String> {
    const COMPACT: u64 = 1 << 5;
    const ASCII: u64 = 1 << 6;
    let state = reader.number(object, layout.text.state, 4)?;
    if state & COMPACT == 0 {
        return None;
    }
    let start = if state & ASCII != 0 { layout.text.ascii } else { layout.text.compact };
    let width = (state >> 2) & 7;
    let length = reader.number(object, layout.text.length, reader.word)?.min(longest);
    let size = usize::try_from(length.checked_mul(width)?).ok()?;
    let bytes = reader.bytes(object.checked_add(start)?, size)?;
    let text: String = match width {
        1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        2 => units(bytes.chunks_exact(2)),
        4 => units(bytes.chunks_exact(4)),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// Little-endian code points. There may be lone surrogates among them, as in paths that are no UTF-8.
fn units<'a>(units: impl Iterator<Item = &'a [u8]>) -> String {
    let point = |unit: &[u8]| unit.iter().rev().fold(0_u32, |point, byte| point << 8 | u32::from(*byte));
    units.map(|unit| char::from_u32(point(unit)).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

impl Module {
    /// What a thread runs in this module, if it is an interpreter.
    pub(super) fn activations(
        &self,
        bias: u64,
        registers: &Registers,
        memory: &dyn Memory,
        most: usize,
    ) -> Option<Vec<Activation>> {
        self.interpreter()?.activations(bias, registers, memory, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::tests::{Random, rounds};
    use crate::unwind::{Arch, StackCopy};
    use std::time::{Duration, Instant};

    const BASE: u64 = 0x10_0000;
    const SIZE: usize = 0x8000;
    const FRAMES: u64 = 6;

    /// A thread with some frames, all of one function.
    fn made_up(layout: &Layout) -> Vec<u8> {
        let mut bytes = vec![0_u8; SIZE];
        let mut put = |at: u64, value: u64| {
            let at = (at - BASE) as usize;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        let (interpreter, thread, chain) = (BASE + 0x1000, BASE + 0x2000, BASE + 0x3000);
        let (frames, code, name, lines) = (BASE + 0x4000, BASE + 0x6000, BASE + 0x7000, BASE + 0x7800);
        put(BASE + layout.interpreters, interpreter);
        put(interpreter + layout.threads, thread);
        put(thread + layout.thread.id, 7);
        put(thread + layout.thread.frame.0, if layout.thread.frame.1.is_some() { chain } else { frames });
        if let Some(offset) = layout.thread.frame.1 {
            put(chain + offset, frames);
        }
        for number in 0..FRAMES {
            let frame = frames + number * 0x100;
            if number + 1 < FRAMES {
                put(frame + layout.frame.previous, frame + 0x100);
            }
            put(frame + layout.frame.code, code);
            match layout.frame.position {
                (offset, Position::Pointer) => put(frame + offset, code + layout.code.start + 2),
                (offset, _) => put(frame + offset, 1),
            }
            match layout.frame.entry {
                Entry::Flag(offset) => put(frame + offset, number % 2),
                Entry::Shim(offset) => put(frame + offset, number % 3 / 2 * 3),
                Entry::Each => {}
            }
        }
        put(code + layout.code.name, name);
        put(code + layout.code.file, name);
        put(code + layout.code.lines.0, lines);
        put(code + layout.code.first_line, 10);
        put(name + layout.text.length, 3);
        put(name + layout.text.state, 1 << 2 | 1 << 5 | 1 << 6);
        put(name + layout.text.ascii, u64::from_le_bytes(*b"abc\0\0\0\0\0"));
        put(lines + 16, 2);
        put(lines + 32, u64::from_le_bytes([0xd9, 2, 0, 0, 0, 0, 0, 0]));
        bytes
    }

    #[test]
    fn noise_for_an_interpreter() {
        let mut random = Random::new(5);
        let mut registers = Registers::of_pc_and_sp(Arch::X86_64, 1, 1);
        registers.set_thread_pointer(7);
        for minor in 8..=12 {
            let layout = Layout::of((3, minor), &Reader::new(&StackCopy::of(0, Vec::new()), 8), BASE).unwrap();
            let whole = made_up(&layout);
            let interpreter = Interpreter { version: (3, minor), runtime: BASE };
            let run = |bytes: Vec<u8>| interpreter.activations(0, &registers, &StackCopy::of(BASE, bytes), 500);
            let all = run(whole.clone()).unwrap();
            let expected = match layout.frame.entry {
                Entry::Each => vec![1; 6],
                Entry::Flag(_) => vec![2; 3],
                Entry::Shim(_) => vec![2; 2],
            };
            assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), expected);
            assert!(all.iter().flatten().all(|script| &*script.function == "abc" && &*script.file == "abc"));
            for _ in 0..rounds(400) {
                let mut bytes = whole.clone();
                for _ in 0..=random.below(6) {
                    // Where there is something.
                    let at = loop {
                        let at = random.below(SIZE / 8) * 8;
                        if bytes[at..at + 8] != [0; 8] {
                            break at;
                        }
                    };
                    let value = match random.below(5) {
                        0 => random.next(),
                        1 => u64::MAX,
                        2 => random.below(1 << 20) as u64,
                        _ => BASE + random.below(SIZE) as u64 / 8 * 8,
                    };
                    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                }
                let started = Instant::now();
                let all = run(bytes).unwrap_or_default();
                assert!(started.elapsed() < Duration::from_secs(5));
                assert!(all.iter().map(Vec::len).sum::<usize>() <= 500);
            }
        }
    }
}
