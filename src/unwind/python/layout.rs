//! Where the fields lie that are read, by the interpreter's version.
//!
//! Up to 3.12 from the interpreter's own headers (Include/internal/pycore_*.h, Include/cpython/*.h), for 64-bit
//! machines; 3.13 says it itself (`_Py_DebugOffsets`, at the start of `_PyRuntime`).

use super::Reader;

/// Offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// `_PyRuntimeState`: the first interpreter.
    pub interpreters: u64,
    /// `PyInterpreterState`: the next one, and the first thread.
    pub next_interpreter: u64,
    pub threads: u64,
    pub thread: Thread,
    pub frame: Frame,
    pub code: Code,
    pub text: Text,
}

/// `PyThreadState`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    pub next: u64,
    /// What leads to the frame that runs: pointers at these offsets, one behind the other.
    pub frame: (u64, Option<u64>),
    /// `pthread_self()`
    pub id: u64,
    /// `gettid()`
    pub native_id: Option<u64>,
}

/// `PyFrameObject` up to 3.10, `_PyInterpreterFrame` later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub previous: u64,
    pub code: u64,
    /// Where in the code it is.
    pub position: (u64, Position),
    pub entry: Entry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// `int`: bytes from the code's start.
    Bytes,
    /// `int`: instructions of two bytes.
    Units,
    /// A pointer to the instruction.
    Pointer,
}

/// What separates the frames that one call of the evaluation function runs from those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Each has its own.
    Each,
    /// A flag in the last of them.
    Flag(u64),
    /// A frame behind the last of them that has this byte at 3 or more: it lies on the C stack.
    Shim(u64),
}

/// `PyCodeObject`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    pub first_line: u64,
    pub file: u64,
    pub name: u64,
    pub lines: (u64, Lines),
    /// Where the instructions begin, if within the object.
    pub start: u64,
}

/// How the line table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// Up to 3.9 (Objects/lnotab_notes.txt).
    Pairs,
    /// 3.10 (PEP 626).
    Ranges,
    /// 3.11 and later (Objects/locations.md).
    Locations,
}

/// `PyASCIIObject` and `PyCompactUnicodeObject`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub length: u64,
    pub state: u64,
    pub ascii: u64,
    pub compact: u64,
}

const TEXT: Text = Text { length: 16, state: 32, ascii: 48, compact: 72 };
const TEXT_12: Text = Text { ascii: 40, compact: 56, ..TEXT };

const V3_8: Layout = Layout {
    interpreters: 32,
    next_interpreter: 0,
    threads: 8,
    thread: Thread { next: 8, frame: (24, None), id: 176, native_id: None },
    frame: Frame { previous: 24, code: 32, position: (104, Position::Bytes), entry: Entry::Each },
    code: Code { first_line: 40, file: 104, name: 112, lines: (120, Lines::Pairs), start: 0 },
    text: TEXT,
};

const V3_10: Layout = Layout {
    frame: Frame { position: (96, Position::Units), ..V3_8.frame },
    code: Code { lines: (120, Lines::Ranges), ..V3_8.code },
    ..V3_8
};

const V3_11: Layout = Layout {
    interpreters: 40,
    next_interpreter: 0,
    threads: 16,
    thread: Thread { next: 8, frame: (56, Some(8)), id: 152, native_id: Some(160) },
    frame: Frame { previous: 48, code: 32, position: (56, Position::Pointer), entry: Entry::Flag(68) },
    code: Code { first_line: 72, file: 112, name: 128, lines: (136, Lines::Locations), start: 184 },
    text: TEXT,
};

const V3_12: Layout = Layout {
    threads: 72,
    thread: Thread { next: 8, frame: (56, Some(0)), id: 136, native_id: Some(144) },
    frame: Frame { previous: 8, code: 0, position: (56, Position::Pointer), entry: Entry::Shim(70) },
    code: Code { first_line: 68, file: 112, name: 128, lines: (136, Lines::Locations), start: 192 },
    text: TEXT_12,
    ..V3_11
};

impl Layout {
    /// Of a version, as (major, minor). `None` if it isn't known.
    pub fn of(version: (u8, u8), reader: &Reader<'_>, runtime: u64) -> Option<Self> {
        match version {
            (3, 13) => Self::told(reader, runtime),
            _ if reader.word != 8 => None,
            (3, 8 | 9) => Some(V3_8),
            (3, 10) => Some(V3_10),
            (3, 11) => Some(V3_11),
            (3, 12) => Some(V3_12),
            _ => None,
        }
    }

    /// What `_PyRuntime` says of itself in 3.13.
    fn told(reader: &Reader<'_>, runtime: u64) -> Option<Self> {
        /// Larger structures are nobody's.
        const LARGEST: u64 = 1 << 24;
        if reader.bytes(runtime, 8)? != *b"xdebugpy" {
            return None;
        }
        let number = |at: u64| -> Option<u64> {
            let bytes = reader.bytes(runtime.checked_add(at)?, 8)?;
            Some(u64::from_le_bytes(*bytes.first_chunk()?)).filter(|offset| *offset < LARGEST)
        };
        // A build without the global lock has strings and code of another form.
        if number(16)? != 0 {
            return None;
        }
        let ascii = number(560)?;
        Some(Self {
            interpreters: number(40)?,
            next_interpreter: number(64)?,
            threads: number(72)?,
            thread: Thread {
                next: number(168)?,
                frame: (number(184)?, None),
                id: number(192)?,
                native_id: Some(number(200)?),
            },
            frame: Frame {
                previous: number(232)?,
                code: number(240)?,
                position: (number(248)?, Position::Pointer),
                entry: Entry::Shim(number(264)?),
            },
            code: Code {
                file: number(280)?,
                name: number(296)?,
                lines: (number(304)?, Lines::Locations),
                first_line: number(312)?,
                start: number(344)?,
            },
            text: Text {
                state: number(544)?,
                length: number(552)?,
                ascii,
                compact: ascii.checked_add(2 * u64::from(reader.word))?,
            },
        })
    }
}
