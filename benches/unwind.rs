//! What a trace costs: the first one of a process, later ones, and their symbols; and beside it what gdb and
//! eu-stack take for the same process, in the same run.
//!
//! `SOCKSTRACE_WITHOUT=chromium,eu-stack,…` leaves out what isn't there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{BatchSize, Criterion};
use nix::sched::CloneFlags;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::Symbolizer;
use sockstrace::unwind::{LiveMemory, Registers, StackCopy, Trace, Unwinder};
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that is traced, in a folder of its own.
struct Guest {
    child: Child,
    folder: PathBuf,
}

impl Guest {
    fn start(make: impl FnOnce(&Path) -> Command) -> Self {
        let folder = std::env::temp_dir().join(format!("bench-unwind-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut command = make(&folder);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The one says `ready`, the browser where it listens.
        let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let is_browser = command.get_args().any(|argument| argument == "chromium");
        let mut lines: Box<dyn Iterator<Item = String>> = if is_browser {
            Box::new(BufReader::new(errors).lines().map_while(Result::ok))
        } else {
            Box::new(BufReader::new(output).lines().map_while(Result::ok))
        };
        assert!(lines.any(|line| line == "ready" || line.starts_with("DevTools listening")));
        std::thread::sleep(Duration::from_secs(1));
        Self { child, folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn stop(&self) {
        ptrace::seize(self.pid(), ptrace::Options::empty()).unwrap();
        ptrace::interrupt(self.pid()).unwrap();
        waitpid(self.pid(), Some(WaitPidFlag::__WALL)).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A browser's other processes write a little longer.
        for _ in 0..50 {
            if std::fs::remove_dir_all(&self.folder).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn is_here(program: &str) -> bool {
    let without = std::env::var("SOCKSTRACE_WITHOUT").unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    assert!(here || without.split(',').any(|what| what == program), "{program} is needed");
    here && !without.split(',').any(|what| what == program)
}

fn small(folder: &Path) -> Command {
    let program = folder.join("small");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stacks/deep.c");
    let built = Command::new("gcc").args(["-g", "-O2", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success());
    let mut command = Command::new(program);
    command.arg("24");
    command
}

/// The same where the C library has no debug file, as on most machines: in a mount namespace that hides it.
fn plain(folder: &Path) -> Command {
    let small = small(folder);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", "mount -t tmpfs none /usr/lib/debug && exec \"$0\" 24"])
        .arg(small.get_program());
    command
}

/// A CPython of one's own making has its debug information, as a rule.
fn python(_: &Path) -> Command {
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv/versions/3.11.7/bin/python3"));
    let script = "import time\nprint('ready', flush=True)\nsorted([1], key=lambda _: time.sleep(1000))";
    let mut command = Command::new(own.filter(|path| path.exists()).unwrap_or("/usr/bin/python3".into()));
    command.args(["-c", script]);
    command
}

/// In a network namespace of its own.
fn chromium(folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-n", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]);
    command.arg(format!("--user-data-dir={}", folder.display())).arg("about:blank");
    command
}

fn trace(unwinder: &Unwinder, pid: Pid, registers: &Registers) -> Trace {
    let image = unwinder.image(pid).unwrap();
    unwinder.unwind(&image, registers, &LiveMemory::new(pid))
}

/// One first trace by a process that has done nothing yet: µs while the thread is stopped, µs with symbols,
/// and the process's peak memory in KiB.
fn once(pid: Pid) {
    let started = Instant::now();
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    let registers = Registers::from(&ptrace::getregs(pid).unwrap());
    let trace = trace(&Unwinder::default(), pid, &registers);
    ptrace::detach(pid, None).unwrap();
    let stopped = started.elapsed();
    let stack = Symbolizer::default().symbolize(&trace);
    let all = started.elapsed();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    println!("{} {} {peak} {}", stopped.as_micros(), all.as_micros(), stack.frames.len());
}

const PLAIN: &str = "small, no debug file of the C library";

/// A name, and what starts the program.
type Subject = (&'static str, fn(&Path) -> Command);

fn median(mut values: Vec<u128>) -> u128 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Has a command see the files that the process sees.
fn enter(command: &mut Command, pid: &str) {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
    // SAFETY: one system call, on a descriptor that is open as long as the closure is.
    unsafe {
        command.pre_exec(move || Ok(nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?));
    }
}

/// Runs a debugger: its time in µs and its peak memory in KiB.
fn debugger(arguments: &[&str], inside: Option<&str>) -> (u128, u128) {
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).env_remove("DEBUGINFOD_URLS");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(pid) = inside {
        enter(&mut command, pid);
    }
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut status = 0;
    // SAFETY: plain data, which the call fills in; the child is ours and not waited for otherwise.
    let usage = unsafe {
        let mut usage: nix::libc::rusage = std::mem::zeroed();
        nix::libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage);
        usage
    };
    let elapsed = started.elapsed().as_micros();
    let _ = child.try_wait();
    (elapsed, usage.ru_maxrss.cast_unsigned().into())
}

/// The first trace, ours and theirs, one after the other.
fn compare(name: &str, guest: &Guest) {
    let pid = guest.pid().to_string();
    let inside = (name == PLAIN).then_some(&*pid);
    let (mut stopped, mut ours, mut memory, mut frames) = (Vec::new(), Vec::new(), 0, 0);
    let (mut gdb, mut eu) = (Vec::new(), Vec::new());
    let with_eu = is_here("eu-stack");
    for _ in 0..9 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if let Some(pid) = inside {
            enter(&mut command, pid);
        }
        let output = command.args(["--once", &pid]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut numbers = text.split_whitespace().map(|number| number.parse::<u128>().unwrap());
        stopped.push(numbers.next().unwrap());
        ours.push(numbers.next().unwrap());
        memory = memory.max(numbers.next().unwrap());
        frames = numbers.next().unwrap();
        gdb.push(debugger(&["gdb", "-nx", "-p", &pid, "--batch", "-ex", "bt"], inside));
        if with_eu {
            eu.push(debugger(&["eu-stack", "-s", "-i", "-1", "-p", &pid], inside));
        }
    }
    let ours = median(ours);
    println!(
        "{name}, first trace, {frames} frames: {ours} µs, of which the thread is stopped for {} µs; {} MiB",
        median(stopped),
        memory / 1024
    );
    for (who, all) in [("gdb", gdb), ("eu-stack", eu)].into_iter().filter(|(_, all)| !all.is_empty()) {
        let time = median(all.iter().map(|run| run.0).collect());
        let memory = median(all.iter().map(|run| run.1).collect());
        println!("    {who}: {time} µs, {} times as long; {} MiB", time / ours.max(1), memory / 1024);
    }
}

fn traces(c: &mut Criterion, name: &str, guest: &Guest) {
    guest.stop();
    let registers = Registers::from(&ptrace::getregs(guest.pid()).unwrap());
    let trace = |unwinder: &Unwinder| trace(unwinder, guest.pid(), &registers);
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    let known = trace(&unwinder);
    let stack = symbolizer.symbolize(&known);
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
    group.bench_function("warm: mappings, unwinding", |b| b.iter(|| trace(&unwinder)));
    let image = unwinder.image(guest.pid()).unwrap();
    let copy = StackCopy::take(guest.pid(), registers.sp(), 64 << 10);
    let _ = unwinder.unwind(&image, &registers, &copy);
    group.bench_function("warm: unwinding a copy", |b| {
        b.iter(|| unwinder.unwind(black_box(&image), &registers, &copy));
    });
    group.bench_function("warm: symbols", |b| b.iter(|| symbolizer.symbolize(black_box(&known))));
    group.finish();
    ptrace::detach(guest.pid(), None).unwrap();
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--once") {
        once(Pid::from_raw(arguments[at + 1].parse().unwrap()));
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    // `cargo test --benches` only wants to know whether it runs.
    let is_test = !arguments.iter().any(|argument| argument == "--bench");
    let mut all: Vec<Subject> = vec![("small", small), ("python", python)];
    if nix::unistd::Uid::effective().is_root() && !is_test {
        all.insert(1, (PLAIN, plain));
    }
    if is_here("chromium") && !is_test {
        all.push(("chromium", chromium));
    }
    for (name, make) in all {
        let guest = Guest::start(make);
        if !is_test {
            compare(name, &guest);
        }
        // We are outside of the other's mount namespace.
        if name != PLAIN {
            traces(&mut criterion, name, &guest);
        }
    }
    criterion.final_summary();
}
