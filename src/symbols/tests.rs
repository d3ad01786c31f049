//! Hostile debug information: it may tell nothing or lies, but reading it must end and not panic.

use super::*;
use crate::unwind::Place;
use crate::unwind::modules::elf::{Bytes, Elf};
use crate::unwind::tests::{Random, program, program_of, rounds};
use std::time::{Duration, Instant};

fn trace(module: &Arc<Module>, addresses: impl Iterator<Item = u64>) -> Trace {
    let frames = addresses.map(|address| RawFrame {
        ip: address,
        lookup: address.wrapping_sub(1),
        how: How::Cfi,
        signal: false,
        place: Some(Place { path: "/program".into(), module: Some(Arc::clone(module)), offset: address }),
    });
    Trace { pid: nix::unistd::getpid(), frames: frames.collect(), interpreted: Vec::new(), truncated: None }
}

/// The bytes of the file in which the debug information begins.
fn debug_from(bytes: &[u8]) -> usize {
    let elf = Elf::parse(Bytes::Owned(bytes.to_vec())).unwrap();
    usize::try_from(elf.section(".debug_info").unwrap().file.start).unwrap()
}

#[test]
fn a_whole_program_is_understood() {
    let module = Arc::new(Module::of_bytes("/program", program("-g -O1")));
    let stack = Symbolizer::default().symbolize(&trace(&module, 0x1000..0x1400));
    for function in ["main", "stop", "sort", "innermost", "middle", "_start"] {
        assert!(stack.frames.iter().any(|frame| frame.function.as_deref() == Some(function)), "{function}");
    }
    let inlined = stack.frames.iter().find(|frame| frame.inlined).unwrap();
    assert!(inlined.file.as_deref().unwrap().ends_with("/chain.c") && inlined.line.is_some());
}

#[test]
fn mutilated_debug_information() {
    let mut random = Random::new(4);
    for flags in
        ["-g -O2", "-gdwarf-4 -O2", "-gdwarf-5 -O2 -gz=zlib", "-g -O2 -fdebug-types-section -gno-strict-dwarf"]
    {
        let whole = program(flags);
        let from = debug_from(&whole);
        for _ in 0..rounds(400) {
            let mut bytes = whole.clone();
            random.mutilate(&mut bytes, from);
            let module = Arc::new(Module::of_bytes("/program", bytes));
            let trace = trace(&module, (0x1000..0x1400).step_by(37));
            let started = Instant::now();
            let stack = Symbolizer::default().symbolize(&trace);
            assert!(stack.frames.len() >= trace.frames.len());
            assert!(started.elapsed() < Duration::from_secs(20));
        }
    }
}

/// Pairs of frames: each place behind a call, called from each other.
fn calls(module: &Arc<Module>) -> Trace {
    let behind_calls = || (0x1000..0x1800).filter(|address| module.fixed_call_before(*address).is_some());
    let pairs = behind_calls().flat_map(|back| behind_calls().flat_map(move |runs| [runs, back]));
    trace(module, pairs.take(2000))
}

#[test]
fn mutilated_calls() {
    let mut random = Random::new(6);
    for flags in ["-g -O2", "-gdwarf-4 -O2", "-g -O2 -m32"] {
        let whole = program_of("tails.c", flags);
        let module = Arc::new(Module::of_bytes("/program", whole.clone()));
        let stack = Symbolizer::default().symbolize(&calls(&module));
        let ended = |name: &str| {
            stack.frames.iter().any(|frame| frame.how == How::TailCall && frame.function.as_deref() == Some(name))
        };
        assert!(ended("first") && ended("second") && ended("third") && !ended("left"), "{flags}");
        let from = debug_from(&whole);
        for _ in 0..rounds(20) {
            let mut bytes = whole.clone();
            random.mutilate(&mut bytes, from);
            let module = Arc::new(Module::of_bytes("/program", bytes));
            let trace = calls(&module);
            let started = Instant::now();
            let stack = Symbolizer::default().symbolize(&trace);
            assert!(stack.frames.len() >= trace.frames.len());
            assert!(started.elapsed() < Duration::from_secs(20));
        }
    }
}
