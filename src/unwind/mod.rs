//! Unwinding: registers + memory + modules → frames.
//!
//! The core is pure: it takes the [`Registers`] of a stopped thread, a [`Memory`] to read its stack
//! through, and a [`ProcessImage`] (one snapshot of the process's mappings, with the modules behind them),
//! and gives a [`Trace`]. What functions the addresses belong to is the business of [`crate::symbols`].
//!
//! A frame's caller is looked for in this order, and each frame says how it was found ([`How`]):
//!
//! 1. call frame information, with all registers: `.eh_frame` (by the table of `.eh_frame_hdr` or by an
//!    index of our own), what Go programs have instead (`.gopclntab`), and `.debug_frame` (in the file or in
//!    its separate debug file);
//! 2. the known shape of a signal trampoline without such information;
//! 3. the frame pointer, if what it points to stands up to a check: aligned, readable, and a return
//!    address that is executable and stands behind a call instruction;
//! 4. a guess: the first word up the stack that could be a return address. What follows a guess is a
//!    guess too.
//!
//! A trace ends at the outermost function (undefined or zero return address), or it says why it ends
//! before ([`Reason`]). Everything that is read belongs to the traced program and may be hostile: nothing
//! here panics on it, and the work for one trace is bounded ([`Limits`]). The stack pointer may move in
//! either direction, as it does with alternate signal stacks and coroutines.
//!
//! ```no_run
//! use sockstrace::unwind::{LiveMemory, Registers, Unwinder};
//! # fn stopped(_: nix::unistd::Pid) -> nix::libc::user_regs_struct { unimplemented!() }
//! # let (pid, tid) = (nix::unistd::Pid::from_raw(1), nix::unistd::Pid::from_raw(1));
//! let unwinder = Unwinder::default(); // one for all: it holds the caches
//! let image = unwinder.image(pid)?; // the mappings as they are now
//! let registers = Registers::from(&stopped(tid)); // by PTRACE_GETREGS, say
//! let trace = unwinder.unwind(&image, &registers, &LiveMemory::new(tid)); // while the thread is stopped
//! // The thread may run on now.
//! let stack = sockstrace::symbols::Symbolizer::default().symbolize(&trace);
//! # Ok::<(), std::io::Error>(())
//! ```

mod aarch64;
mod arch;
mod cfi;
mod go;
mod i386;
mod image;
mod loaded;
mod maps;
mod memory;
pub mod modules;
mod python;
mod query;
mod walk;
mod x86_64;

#[cfg(test)]
pub(crate) mod tests;

pub use arch::{Arch, Registers};
pub(crate) use go::GoFunction;
pub use image::ProcessImage;
pub use loaded::Loaded;
pub use maps::{Mapping, Maps};
pub use memory::{LiveMemory, Memory, StackCopy};
pub use modules::{Module, ModuleCache};
pub use python::{Activation, Script};

use nix::unistd::Pid;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// By the registers (the innermost frame) or by call frame information: reliable.
    Cfi,
    /// By the frame pointer: right unless a function without one lies between.
    FramePointer,
    /// By looking for what could be a return address on the stack, or as the caller of such a frame.
    Guess,
    /// By what an interpreter says of itself: a function of the program that it runs.
    Interpreter,
    /// By what debug information says of calls: a function that ended by jumping into the one of the frame before
    /// (a tail call). Nothing of it is left on the stack.
    TailCall,
}

impl How {
    /// The word for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cfi => "cfi",
            Self::FramePointer => "frame-pointer",
            Self::Guess => "guess",
            Self::Interpreter => "interpreter",
            Self::TailCall => "tail-call",
        }
    }
}

/// Why a trace ends before the outermost frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// [`Limits::frames`] was reached.
    TooManyFrames,
    /// [`Limits::time`] was reached.
    TooSlow,
    /// The same frame came again.
    Loop,
    /// This memory could not be read.
    Unreadable(u64),
    /// The return address is not in executable memory.
    NotCode(u64),
    /// Nothing says how to go on from this address.
    NoRule(u64),
    /// The call frame information for this address makes no sense.
    BadRule(u64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyFrames => f.write_str("too many frames"),
            Self::TooSlow => f.write_str("out of time"),
            Self::Loop => f.write_str("the stack loops"),
            Self::Unreadable(address) => write!(f, "memory at {address:#x} can't be read"),
            Self::NotCode(address) => write!(f, "return address {address:#x} is not in code"),
            Self::NoRule(address) => write!(f, "no unwind information for {address:#x}"),
            Self::BadRule(address) => write!(f, "bad unwind information for {address:#x}"),
        }
    }
}

/// A frame, not yet symbolized.
#[derive(Debug, Clone)]
pub struct RawFrame {
    /// The program counter: of the innermost frame where it stands, of others the return address.
    pub ip: u64,
    /// The address to look symbols up by: `ip − 1` where the ip stands behind a call, `ip` otherwise.
    pub lookup: u64,
    /// How the frame was found.
    pub how: How,
    /// The frame is the trampoline by which a signal handler returns: the next frame was interrupted.
    pub signal: bool,
    /// What the ip lies in.
    pub place: Option<Place>,
}

/// Where an address lies.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path of the mapping as the kernel gives it; empty for anonymous memory.
    pub path: Arc<str>,
    /// The module, where the mapping is one.
    pub module: Option<Arc<Module>>,
    /// `ip` as an address of the module's own symbol tables (or an offset into the file where that can't
    /// be told).
    pub offset: u64,
}

/// The frames of a thread, innermost first.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The process.
    pub pid: Pid,
    /// The frames, innermost first.
    pub frames: Vec<RawFrame>,
    /// What the interpreter runs, where the frames belong to one (CPython): of each call of its evaluation
    /// function, innermost first. Read only from memory that has it ([`LiveMemory`]).
    pub interpreted: Vec<Activation>,
    /// Why the trace ends before the outermost frame; `None` if it does not.
    pub truncated: Option<Reason>,
}

/// What one trace may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most frames of a trace.
    pub frames: usize,
    /// The most time for a trace; looked at between frames.
    pub time: Duration,
    /// How many words up the stack a guess may look.
    pub guess_words: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frames: 512, time: Duration::from_millis(500), guess_words: 512 }
    }
}

/// Unwinds stacks; holds the caches, and may be shared by threads.
#[derive(Debug, Default)]
pub struct Unwinder {
    modules: Arc<ModuleCache>,
    limits: Limits,
}

impl Unwinder {
    /// An unwinder with other limits than the default ones.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { modules: Arc::default(), limits }
    }

    /// The modules that were met.
    #[must_use]
    pub fn modules(&self) -> &Arc<ModuleCache> {
        &self.modules
    }

    /// The mappings of a process. To be taken while the thread is stopped, as what is mapped may change, and
    /// to be used while it is, unless it is [pinned](ProcessImage::pin).
    ///
    /// # Errors
    /// What opening `/proc/PID/maps` gives: the process is gone or out of reach.
    pub fn image(&self, pid: Pid) -> io::Result<ProcessImage> {
        ProcessImage::of(pid, Arc::clone(&self.modules))
    }

    /// The image of a process that may have ended, from what it had loaded.
    #[must_use]
    pub fn image_of_loaded(&self, pid: Pid, files: Vec<Loaded>) -> ProcessImage {
        ProcessImage::of_maps(pid, Maps::of_loaded(files), Arc::clone(&self.modules))
    }

    /// The frames of a thread.
    #[must_use]
    pub fn unwind(&self, image: &ProcessImage, registers: &Registers, memory: &dyn Memory) -> Trace {
        let mut trace = walk::walk(image, registers, memory, &self.limits);
        let mut last = None;
        trace.interpreted = trace
            .frames
            .iter()
            .filter_map(|frame| Some((frame, frame.place.as_ref()?)))
            .find_map(|(frame, place)| {
                let module = place.module.as_ref().filter(|module| last != Some(module.id()))?;
                last = Some(module.id());
                module.activations(frame.ip.wrapping_sub(place.offset), registers, memory, self.limits.frames)
            })
            .unwrap_or_default();
        trace
    }
}
