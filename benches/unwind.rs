//! What a trace costs: the first one of a process, later ones, and their symbols.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::Symbolizer;
use sockstrace::unwind::{LiveMemory, Registers, StackCopy, Unwinder};
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A program that stays stopped.
struct Guest(Child);

impl Guest {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let guest = Self(child);
        ptrace::seize(guest.pid(), ptrace::Options::PTRACE_O_EXITKILL).unwrap();
        ptrace::interrupt(guest.pid()).unwrap();
        waitpid(guest.pid(), Some(WaitPidFlag::__WALL)).unwrap();
        guest
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn small() -> Guest {
    let program = std::env::temp_dir().join(format!("bench-unwind-{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stacks/deep.c");
    let built = Command::new("gcc").args(["-g", "-O2", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success());
    let guest = Guest::start(Command::new(&program).arg("24"));
    std::fs::remove_file(program).unwrap();
    guest
}

fn python() -> Guest {
    let script = "import time\nprint('ready', flush=True)\nsorted([1], key=lambda _: time.sleep(1000))";
    Guest::start(Command::new("python3").args(["-c", script]))
}

fn traces(c: &mut Criterion, name: &str, guest: &Guest) {
    let registers = Registers::from(&ptrace::getregs(guest.pid()).unwrap());
    let trace = |unwinder: &Unwinder| {
        let image = unwinder.image(guest.pid()).unwrap();
        unwinder.unwind(&image, &registers, &LiveMemory::new(guest.pid()))
    };
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    let known = trace(&unwinder);
    let stack = symbolizer.symbolize(&known);
    assert_eq!(known.truncated, None);
    println!("{name}: {} frames, {} with inlined ones", known.frames.len(), stack.frames.len());
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    group.bench_function("cold: mappings, unwinding, symbols", |b| {
        b.iter(|| Symbolizer::default().symbolize(&trace(&Unwinder::default())));
    });
    group.bench_function("cold: mappings, unwinding", |b| b.iter(|| trace(&Unwinder::default())));
    group.bench_function("cold: symbols", |b| {
        b.iter_batched(
            || trace(&Unwinder::default()),
            |trace| Symbolizer::default().symbolize(&trace),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("warm: mappings, unwinding, symbols", |b| {
        b.iter(|| symbolizer.symbolize(&trace(&unwinder)));
    });
    group.bench_function("warm: mappings", |b| b.iter(|| unwinder.image(guest.pid()).unwrap()));
    let image = unwinder.image(guest.pid()).unwrap();
    let copy = StackCopy::take(guest.pid(), registers.sp(), 64 << 10);
    group.bench_function("warm: unwinding a copy", |b| {
        b.iter(|| unwinder.unwind(black_box(&image), &registers, &copy));
    });
    group.bench_function("warm: symbols", |b| b.iter(|| symbolizer.symbolize(black_box(&known))));
    group.finish();
}

fn all(c: &mut Criterion) {
    traces(c, "small", &small());
    traces(c, "python", &python());
}

criterion_group!(benches, all);
criterion_main!(benches);
