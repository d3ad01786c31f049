//! The core against made-up and mutilated input: it may find nothing, but it must end and not panic.

use super::cfi::Found;
use super::*;
use crate::unwind::modules::separate;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// How often to try: more with `UNWIND_FUZZ=n`.
pub(crate) fn rounds(usual: usize) -> usize {
    let factor = std::env::var("UNWIND_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(1_usize);
    usual.saturating_mul(factor)
}

/// Numbers that look random and are the same each time.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes some bytes, most of them to the values at which things break, or cuts the end off.
    pub fn mutilate(&mut self, bytes: &mut Vec<u8>, from: usize) {
        for _ in 0..=self.below(12) {
            let at = from + self.below(bytes.len() - from);
            bytes[at] = match self.below(4) {
                0 => 0xff,
                1 => 0x80,
                2 => bytes[at].wrapping_add(1),
                _ => self.next() as u8,
            };
        }
        if self.below(8) == 0 {
            bytes.truncate(from + self.below(bytes.len() - from));
        }
    }
}

/// A small program with every kind of section.
pub(crate) fn program(flags: &str) -> Vec<u8> {
    program_of("chain.c", flags)
}

/// One of the programs.
pub(crate) fn program_of(source: &str, flags: &str) -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let output = std::env::temp_dir().join(format!("unwind-{}-{number}", std::process::id()));
    let source = format!("{}/tests/programs/stacks/{source}", env!("CARGO_MANIFEST_DIR"));
    let built =
        Command::new("gcc").args(flags.split_whitespace()).arg("-o").arg(&output).arg(source).status().unwrap();
    assert!(built.success());
    let bytes = std::fs::read(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    bytes
}

/// Memory in which everything can be read, and has a meaning now and then.
struct Noise(std::cell::RefCell<Random>, Vec<u64>);

impl Memory for Noise {
    fn read(&self, _: u64, buffer: &mut [u8]) -> Option<()> {
        let mut random = self.0.borrow_mut();
        for chunk in buffer.chunks_mut(8) {
            let value = if random.below(3) == 0 { random.next() } else { self.1[random.below(self.1.len())] };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
        (random.below(50) != 0).then_some(())
    }
}

#[test]
fn noise_for_a_stack() {
    let unwinder = Unwinder::with_limits(Limits { frames: 200, ..Limits::default() });
    let image = unwinder.image(nix::unistd::getpid()).unwrap();
    let code: Vec<_> = image.maps().all().iter().filter(|mapping| mapping.executable).collect();
    let mut random = Random::new(1);
    for round in 0..rounds(400) {
        let mut values: Vec<u64> = (0..20)
            .map(|_| {
                let mapping = code[random.below(code.len())];
                mapping.start + random.next() % (mapping.end - mapping.start)
            })
            .collect();
        values.extend([0, 8, u64::MAX, 1 << 63]);
        let arch = [Arch::X86_64, Arch::X86_64, Arch::I386, Arch::Aarch64][round % 4];
        let mut registers = Registers::new(arch);
        for number in 0..40 {
            registers.set(number, values[random.below(values.len())]);
        }
        let trace = unwinder.unwind(&image, &registers, &Noise(Random::new(random.next()).into(), values));
        assert!((1..=200).contains(&trace.frames.len()));
    }
}

#[test]
fn a_stack_that_loops() {
    /// Everywhere the same word.
    struct Same(u64);
    impl Memory for Same {
        fn read(&self, _: u64, buffer: &mut [u8]) -> Option<()> {
            buffer.copy_from_slice(&self.0.to_le_bytes()[..buffer.len()]);
            Some(())
        }
    }
    let unwinder = Unwinder::default();
    let image = unwinder.image(nix::unistd::getpid()).unwrap();
    let here = a_stack_that_loops as fn() as usize as u64;
    let registers = Registers::of_pc_and_sp(Arch::X86_64, here + 1, 0x7000_0000);
    let trace = unwinder.unwind(&image, &registers, &Same(here));
    assert!(trace.frames.len() <= Limits::default().frames);
    assert!(trace.truncated.is_some());
}

#[test]
fn mutilated_files() {
    let mut random = Random::new(2);
    for flags in [
        "-g -O2",
        "-g -O2 -fno-asynchronous-unwind-tables",
        "-g -O2 -m32",
        "-O2 -Wl,--no-eh-frame-hdr -Wl,-z,norelro",
    ] {
        let whole = program(flags);
        let started = Instant::now();
        for _ in 0..rounds(400) {
            let mut bytes = whole.clone();
            // The header alone, the tables, or anything.
            let from = if random.below(4) == 0 { 0 } else { random.below(whole.len()) };
            random.mutilate(&mut bytes, from);
            let module = Module::of_bytes("/mutilated", bytes);
            let Some(elf) = module.elf() else { continue };
            let _ = separate::find(elf, "/tmp/mutilated").map(|debug| separate::alternate(&debug, "/tmp/x"));
            let _ = separate::mini(elf);
            let registers = Registers::of_pc_and_sp(elf.arch, 0x1234, 0x5678);
            for _ in 0..40 {
                let address = 0x1000 + random.next() % 0x400;
                let found = module.tables().find(&module, address, random.below(2) == 0, || None);
                if let Found::Rule(rule) = found {
                    let noise = Noise(Random::new(random.next()).into(), vec![0, 1, u64::MAX]);
                    let _ = rule.apply(&registers, &noise, random.next());
                }
            }
        }
        assert!(started.elapsed().as_secs() < rounds(60) as u64);
    }
}

#[test]
fn noise_for_mappings() {
    let text = std::fs::read("/proc/self/maps").unwrap();
    let mut random = Random::new(3);
    for _ in 0..rounds(400) {
        let mut text = text.clone();
        random.mutilate(&mut text, 0);
        let maps = Maps::parse(&text);
        let image = ProcessImage::of_maps(nix::unistd::getpid(), maps, Arc::default());
        let address = random.next();
        let _ = image.maps().find(address);
    }
}
