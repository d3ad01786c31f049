//! Symbols: frames → functions, inlined ones too, files and lines.
//!
//! A [`Symbolizer`] takes a [`Trace`] and gives a [`Stack`] of [`Frame`]s. For each module that a frame lies in
//! it looks, only when the frame is met, for
//!
//! 1. DWARF (4, 5 and older; compressed or split) in the module or in its separate debug file: functions,
//!    inlined functions with their call sites, files and lines;
//! 2. the symbol tables: `.symtab` of either, the compressed one of `.gnu_debugdata`, `.dynsym`;
//! 3. `/tmp/perf-PID.map` where there is no module (JIT code); its lines are those at which functions begin.
//!
//! Between a function and the one that called it come those of which debug information says that they ended by
//! jumping on ([`How::TailCall`]), if only one way leads from the one to the other.
//!
//! Go programs have tables of their own, which come first. What CPython runs is in the trace already, and is
//! put before the native frames that run it ([`How::Interpreter`]).
//!
//! Nothing is parsed that isn't needed: the unit that an address lies in is found by `.debug_aranges` where
//! there is one, and of a unit the functions, and of a function the inlined ones, are read when asked for.
//! Answers are kept by module and address. Names are demangled (Rust, C++). No connection is ever made.
//!
//! All of that data may be hostile. The work for one address is bounded, and what makes no sense is left
//! out of the frame.

mod dwarf;
mod jit_names;
mod names;
mod perf_map;
mod table;
mod tail_calls;

#[cfg(test)]
mod tests;

use crate::unwind::modules::hex;
use crate::unwind::modules::separate;
use crate::unwind::{GoFunction, How, Module, RawFrame, Reason, Script, Trace};
use dwarf::Debug;
use nix::unistd::Pid;
use perf_map::PerfMaps;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use table::Table;
use tail_calls::TailCalls;

pub use names::demangle;

/// A frame as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The program counter: of the innermost frame where it stands, of others the return address.
    pub ip: u64,
    /// The path of the module, as the kernel gives it.
    pub module: Option<Arc<str>>,
    /// The module's build-id in hexadecimal digits.
    pub build_id: Option<Arc<str>>,
    /// The address in the module, as its own symbol tables have it.
    pub offset: Option<u64>,
    /// The function, demangled.
    pub function: Option<Arc<str>>,
    /// The source file.
    pub file: Option<Arc<str>>,
    /// The line in it: where the frame is, or whence it called the frame before it.
    pub line: Option<u32>,
    /// The function was inlined into the one of the next frame.
    pub inlined: bool,
    /// How the frame was found.
    pub how: How,
    /// The frame is the trampoline by which a signal handler returns: the next frame was interrupted.
    pub signal: bool,
}

/// The frames of a thread, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
    /// Why the trace ends before the outermost frame, or why some frames have no names; `None` if it is whole.
    pub truncated: Option<Reason>,
}

/// A function at an address: the innermost inlined one first, the one that has the code last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Symbol {
    function: Option<Arc<str>>,
    file: Option<Arc<str>>,
    line: Option<u32>,
    inlined: bool,
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Answer {
    /// The functions; at least one, perhaps with nothing known.
    symbols: Vec<Symbol>,
    /// Where the function that has the code is entered.
    start: Option<u64>,
}

/// How long the symbols of one trace may take; what isn't known by then stays without a name.
const TIME: Duration = Duration::from_secs(5);

struct Time {
    until: Option<Instant>,
    is_over: bool,
    looked_at_jit: bool,
}

impl Time {
    fn is_up(&mut self) -> bool {
        self.is_over |= self.until.is_some_and(|until| Instant::now() > until);
        self.is_over
    }
}

/// What is known of a module.
struct ModuleSymbols {
    module: Arc<Module>,
    build_id: Option<Arc<str>>,
    debug: OnceLock<Option<Debug>>,
    table: OnceLock<Table>,
    answers: Mutex<HashMap<u64, Arc<Answer>>>,
    tail_calls: TailCalls,
}

/// Answers that are kept of one module, and modules that are kept.
const ANSWERS: usize = 1 << 14;
const MODULES: usize = 256;

/// Symbolizes traces; holds the caches, and may be shared by threads.
#[derive(Default)]
pub struct Symbolizer {
    modules: Mutex<HashMap<u64, Arc<ModuleSymbols>>>,
    perf_maps: PerfMaps,
}

impl std::fmt::Debug for Symbolizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbolizer").finish_non_exhaustive()
    }
}

impl Symbolizer {
    /// Says what functions, files and lines the frames of a trace belong to.
    ///
    /// The process need not live any more, but for JIT code.
    #[must_use]
    pub fn symbolize(&self, trace: &Trace) -> Stack {
        let mut frames = Vec::with_capacity(trace.frames.len().saturating_mul(2));
        let mut time = Time { until: Instant::now().checked_add(TIME), is_over: false, looked_at_jit: false };
        let mut interpreted = trace.interpreted.iter();
        let callers = trace.frames.iter().skip(1).map(Some).chain([None]);
        for (raw, caller) in trace.frames.iter().zip(callers) {
            let before = frames.len();
            self.add(trace.pid, raw, &mut time, &mut frames);
            // The functions that are interpreted come before the one that interprets them.
            let own = frames.iter().skip(before).position(is_evaluation);
            if let Some(at) = own.and_then(|own| own.checked_add(before))
                && let Some(frame) = frames.get(at).cloned()
                && let Some(activation) = interpreted.next()
            {
                frames.splice(at..at, activation.iter().map(|script| of_script(script, &frame)));
            }
            if let Some(caller) = caller {
                self.add_tail_calls(raw, caller, &mut time, &mut frames);
            }
        }
        // Those whose native frames were not found.
        if let Some(last) = frames.last().cloned() {
            let of_place = Frame { module: None, build_id: None, offset: None, ip: 0, ..last };
            frames.extend(interpreted.flatten().map(|script| of_script(script, &of_place)));
        }
        let truncated = trace.truncated.or(time.is_over.then_some(Reason::TooSlow));
        Stack { frames, truncated }
    }

    fn add(&self, pid: Pid, raw: &RawFrame, time: &mut Time, frames: &mut Vec<Frame>) {
        let place = raw.place.as_ref();
        let symbols = place.and_then(|place| place.module.as_ref()).map(|module| self.of_module(module));
        let frame = Frame {
            ip: raw.ip,
            module: place.map(|place| Arc::clone(&place.path)).filter(|path| !path.is_empty()),
            build_id: symbols.as_ref().and_then(|symbols| symbols.build_id.clone()),
            offset: place.filter(|place| !place.path.is_empty()).map(|place| place.offset),
            function: None,
            file: None,
            line: None,
            inlined: false,
            how: raw.how,
            signal: raw.signal,
        };
        let (Some(place), Some(symbols)) = (place, symbols) else {
            // The file is looked at once a trace.
            let name = if time.is_up() { None } else { self.perf_maps.at(pid, raw.lookup, !time.looked_at_jit) };
            time.looked_at_jit = true;
            let symbol = name.map(|name| jit_names::symbol(&name)).unwrap_or_default();
            frames.push(of_symbol(&symbol, &frame));
            return;
        };
        let answer = symbols.at(place.offset.wrapping_sub(raw.ip.wrapping_sub(raw.lookup)), time);
        frames.extend(answer.symbols.iter().map(|symbol| of_symbol(symbol, &frame)));
    }

    /// The functions between a frame and its caller that ended by jumping on.
    fn add_tail_calls(&self, raw: &RawFrame, caller: &RawFrame, time: &mut Time, frames: &mut Vec<Frame>) {
        let certain = |frame: &RawFrame| matches!(frame.how, How::Cfi | How::FramePointer) && !frame.signal;
        let was_called = caller.lookup != caller.ip;
        let (Some(place), Some(outer)) = (&raw.place, &caller.place) else { return };
        let (Some(module), Some(other)) = (&place.module, &outer.module) else { return };
        if !was_called || !certain(raw) || !certain(caller) {
            return;
        }
        let (symbols, callers) = (self.of_module(module), self.of_module(other));
        let address = place.offset.wrapping_sub(raw.ip.wrapping_sub(raw.lookup));
        for (of_caller, back) in symbols.tail_calls(address, &callers, outer.offset, time).iter() {
            let (symbols, raw, place) = if *of_caller { (&callers, caller, outer) } else { (&symbols, raw, place) };
            let frame = Frame {
                ip: back.wrapping_add(raw.ip.wrapping_sub(place.offset)),
                module: Some(Arc::clone(&place.path)).filter(|path| !path.is_empty()),
                build_id: symbols.build_id.clone(),
                offset: Some(*back),
                function: None,
                file: None,
                line: None,
                inlined: false,
                how: How::TailCall,
                signal: false,
            };
            let answer = symbols.at(back.wrapping_sub(1), time);
            frames.extend(answer.symbols.iter().map(|symbol| of_symbol(symbol, &frame)));
        }
    }

    fn of_module(&self, module: &Arc<Module>) -> Arc<ModuleSymbols> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if modules.len() >= MODULES && !modules.contains_key(&module.id()) {
            modules.clear();
        }
        let symbols = modules.entry(module.id()).or_insert_with(|| {
            Arc::new(ModuleSymbols {
                module: Arc::clone(module),
                build_id: module.build_id().map(|id| hex(id).into()),
                debug: OnceLock::new(),
                table: OnceLock::new(),
                answers: Mutex::default(),
                tail_calls: TailCalls::default(),
            })
        });
        Arc::clone(symbols)
    }
}

/// Whether a frame is one of the function by which CPython runs Python functions.
fn is_evaluation(frame: &Frame) -> bool {
    let name = frame.function.as_deref().unwrap_or_default();
    name.split('.').next() == Some("_PyEval_EvalFrameDefault")
}

fn of_symbol(symbol: &Symbol, frame: &Frame) -> Frame {
    Frame {
        function: symbol.function.clone(),
        file: symbol.file.clone(),
        line: symbol.line,
        inlined: symbol.inlined,
        ..frame.clone()
    }
}

/// A Python function in the place of the native frame that runs it.
fn of_script(script: &Script, native: &Frame) -> Frame {
    Frame {
        function: Some(Arc::clone(&script.function)),
        file: Some(Arc::clone(&script.file)),
        line: script.line,
        inlined: false,
        how: How::Interpreter,
        signal: false,
        ..native.clone()
    }
}

impl ModuleSymbols {
    /// What is known of an address of the module.
    fn at(&self, address: u64, time: &mut Time) -> Arc<Answer> {
        let answers = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = answers().get(&address) {
            return Arc::clone(known);
        }
        if time.is_up() {
            return Arc::new(Answer { symbols: vec![Symbol::default()], start: None });
        }
        let answer = Arc::new(self.look_up(address));
        let mut answers = answers();
        if answers.len() >= ANSWERS {
            answers.clear();
        }
        answers.insert(address, Arc::clone(&answer));
        answer
    }

    fn look_up(&self, address: u64) -> Answer {
        if let Some(functions) = self.module.go_functions(address) {
            let text = |bytes: &[u8]| -> Arc<str> { String::from_utf8_lossy(bytes).into() };
            let symbol = |function: &GoFunction<'_>| Symbol {
                function: Some(text(function.name)).filter(|name| !name.is_empty()),
                file: function.file.map(text),
                line: function.line.filter(|line| *line != 0),
                inlined: function.inlined,
            };
            return Answer { symbols: functions.iter().map(symbol).collect(), start: None };
        }
        let mut answer = self.debug().and_then(|debug| debug.at(&self.module, address)).unwrap_or_default();
        if answer.symbols.is_empty() {
            answer.symbols.push(Symbol::default());
        }
        if let Some(last) = answer.symbols.last_mut()
            && last.function.is_none()
        {
            last.function = self.table().at(&self.module, address);
        }
        answer
    }

    fn debug(&self) -> Option<&Debug> {
        self.debug.get_or_init(|| Debug::of(&self.module)).as_ref()
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::of(&self.module, self.module.elf().and_then(separate::mini)))
    }
}
