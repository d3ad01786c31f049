//! Stacks of judged calls: unwound where a thread is held still, named behind its back.
//!
//! [`Stacks::take`] unwinds while the backend holds the thread, which is a matter of microseconds once the
//! modules are known. [`Stacks::name`] finds functions, files and lines, which may take long, on whatever
//! thread has time. In between a [`Promise`] connects the event that was recorded with its trace.

mod promise;

pub use promise::{Awaited, Promise, promise};

use crate::event::{Frame, Stack};
use crate::symbols::{self, Symbolizer};
use crate::unwind::{self, Arch, How, LiveMemory, Loaded, ProcessImage, Registers, StackCopy, Trace, Unwinder};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::Abi;
use sockstrace_backend::look::{self, Halted};
use sockstrace_backend::observed::{LoadedFile, UserStack};
use sockstrace_backend::proc::Status;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes and names stacks; one for a run.
#[derive(Default)]
pub struct Stacks {
    unwinder: Unwinder,
    symbolizer: Symbolizer,
    named: Mutex<HashMap<Key, Arc<Stack>>>,
}

impl std::fmt::Debug for Stacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stacks").finish_non_exhaustive()
    }
}

/// A stack that was taken and has no names yet.
#[derive(Debug)]
pub struct Taken {
    trace: Result<Trace, Unread>,
    /// Why it is the best that could be had.
    partial: Option<String>,
}

/// Nothing but where the thread stands is known.
#[derive(Debug)]
struct Unread {
    ip: u64,
    why: String,
}

/// What makes two stacks one: the frames, and what an interpreter runs in them.
type Key = (Box<[Known]>, Box<[Option<Script>]>);

/// A function that is interpreted: its name, file and line.
type Script = (Arc<str>, Arc<str>, Option<u32>);

/// What makes two frames one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    /// 0 where what the address means is the same in every process.
    pid: i32,
    ip: u64,
    module: u64,
    path: Option<Arc<str>>,
    offset: u64,
    how: How,
    signal: bool,
}

/// Named stacks that are kept.
const NAMED: usize = 4096;

impl Stacks {
    /// Unwinds a thread while it is held.
    #[must_use]
    pub fn take(&self, halted: &Halted) -> Taken {
        let (registers, partial) = match &halted.registers {
            look::Registers::All(registers) => (Registers::from(registers), None),
            look::Registers::Few { pc, sp, why } => {
                let arch = match halted.abi {
                    Abi::X86_64 => Arch::X86_64,
                    Abi::I386 => Arch::I386,
                    Abi::Aarch64 => Arch::Aarch64,
                };
                (Registers::of_pc_and_sp(arch, *pc, sp.unwrap_or(0)), Some(why_partial(halted.tid, *why)))
            }
        };
        let trace = match self.unwinder.image(halted.pid) {
            Ok(image) => Ok(self.unwinder.unwind(&image, &registers, &LiveMemory::new(halted.tid))),
            Err(error) => {
                let why = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)).desc();
                Err(Unread { ip: registers.pc(), why: format!("the process's mappings can't be read: {why}") })
            }
        };
        Taken { trace, partial }
    }

    /// Unwinds a copy of a stack of a thread that has run on; `program` is what its process executed.
    #[must_use]
    pub fn take_copy(&self, pid: Pid, program: Option<&str>, copy: &UserStack) -> Taken {
        let registers = Registers::from(&copy.registers);
        let memory = StackCopy::of(copy.base, copy.bytes.clone());
        let unwind = |image: &ProcessImage| self.unwinder.unwind(image, &registers, &memory);
        // Who has executed another program since, has another stack.
        let holds_stack = |image: &ProcessImage| image.mapping(registers.sp()).is_some();
        let live = self.unwinder.image(pid).ok().filter(holds_stack).map(|image| unwind(&image));
        // Who ends meanwhile takes his files along.
        if live.is_some() && self.unwinder.image(pid).is_ok_and(|image| holds_stack(&image)) {
            return Taken { trace: live.ok_or_else(|| unread(&registers)), partial: None };
        }
        let path = |file: &LoadedFile| file.path.as_deref().map_or(program, Path::to_str).map(str::to_owned);
        let loaded = |file: &LoadedFile| Some(Loaded { path: path(file)?, bias: file.bias });
        let image = self.unwinder.image_of_loaded(pid, copy.loaded.iter().filter_map(loaded).collect());
        if image.mapping(registers.pc()).is_none() {
            return Taken { trace: live.ok_or_else(|| unread(&registers)), partial: None };
        }
        let partial = "what the process had loaded was found by name: it had ended, or executed another program";
        Taken { trace: Ok(unwind(&image)), partial: Some(partial.into()) }
    }

    /// Names the frames of a stack.
    #[must_use]
    pub fn name(&self, taken: &Taken) -> Arc<Stack> {
        let trace = match &taken.trace {
            Ok(trace) => trace,
            Err(Unread { ip, why }) => {
                let frames = vec![Frame::of_address(*ip)];
                let partial = taken.partial.clone();
                return Arc::new(Stack { frames, truncated: Some(why.clone()), partial });
            }
        };
        if taken.partial.is_some() || trace.truncated.is_some() {
            return Arc::new(self.symbolize(trace, taken));
        }
        let key = key(trace);
        let named = || self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stack) = named().get(&key) {
            return Arc::clone(stack);
        }
        let stack = Arc::new(self.symbolize(trace, taken));
        let mut named = named();
        if named.len() >= NAMED {
            named.clear();
        }
        named.insert(key, Arc::clone(&stack));
        stack
    }

    fn symbolize(&self, trace: &Trace, taken: &Taken) -> Stack {
        let symbols::Stack { frames, truncated } = self.symbolizer.symbolize(trace);
        Stack {
            frames: frames.into_iter().map(Frame::from).collect(),
            truncated: truncated.map(|reason| reason.to_string()),
            partial: taken.partial.clone(),
        }
    }
}

fn key(trace: &Trace) -> Key {
    let scripts = trace.interpreted.iter().flat_map(|activation| {
        let script =
            |script: &unwind::Script| Some((Arc::clone(&script.function), Arc::clone(&script.file), script.line));
        activation.iter().map(script).chain([None])
    });
    (trace.frames.iter().map(|frame| known(trace.pid, frame)).collect(), scripts.collect())
}

fn known(pid: Pid, frame: &unwind::RawFrame) -> Known {
    let module = frame.place.as_ref().and_then(|place| place.module.as_ref());
    Known {
        // What lies in anonymous memory is the process's own.
        pid: if module.is_some() { 0 } else { pid.as_raw() },
        ip: frame.ip,
        module: module.map_or(0, |module| module.id()),
        path: frame.place.as_ref().map(|place| Arc::clone(&place.path)),
        offset: frame.place.as_ref().map_or(0, |place| place.offset),
        how: frame.how,
        signal: frame.signal,
    }
}

/// Why a thread could not be stopped.
fn unread(registers: &Registers) -> Unread {
    let why = "the process had ended, or executed another program, before its mappings were read";
    Unread { ip: registers.pc(), why: why.into() }
}

fn why_partial(tid: Pid, why: Errno) -> String {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map_or("0", str::trim);
    match (why, tracer) {
        (Errno::EPERM, "0") if Status::of(tid).is_ok() => {
            "the thread may not be traced (not dumpable, or Yama's ptrace_scope)".into()
        }
        (Errno::EPERM, tracer) => format!("process {tracer} traces the thread"),
        (Errno::ENOSYS, _) => "this kernel can't hold a thread at the end of its call (Linux 5.19)".into(),
        (why, _) => format!("the thread can't be traced: {}", why.desc()),
    }
}
