//! Traces of small programs in many flavours, each compared with gdb's on the same stop: the same functions,
//! inlined ones too, the same files and lines; none missing, none invented.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg(target_arch = "x86_64")]

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::{Frame, Stack, Symbolizer};
use sockstrace::unwind::{How, Limits, LiveMemory, Reason, Registers, StackCopy, Unwinder};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stacks-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Compiles one of the programs; `None` where this compiler can't.
    fn compile(&self, compiler: &str, source: &str, flags: &str) -> Option<String> {
        let program = self.file("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stacks").join(source);
        let mut command = Command::new(compiler);
        command.arg(source).arg("-o").arg(&program).args(flags.split_whitespace()).current_dir(&self.0);
        let output = command.stderr(Stdio::piped()).output().ok()?;
        if !output.status.success() {
            eprintln!("{compiler} {flags}: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(program)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// A program that has stopped where it is to be traced.
struct Guest(Child);

impl Guest {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let guest = Self(child);
        // It says so before it waits.
        let waits = |tid: &Pid| {
            let call = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
            !call.starts_with("running")
        };
        while !guest.threads().iter().all(waits) {
            std::thread::yield_now();
        }
        guest
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn threads(&self) -> Vec<Pid> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let mut tids: Vec<_> = tasks
            .map(|entry| Pid::from_raw(entry.unwrap().file_name().to_str().unwrap().parse().unwrap()))
            .collect();
        tids.sort_unstable();
        tids
    }

    /// Stops a thread, unwinds it, lets it go, and names the frames.
    fn trace(&self, tid: Pid, limits: Limits) -> (Stack, Registers) {
        self.trace_by(&Unwinder::with_limits(limits), &Symbolizer::default(), tid)
    }

    fn trace_by(&self, unwinder: &Unwinder, symbolizer: &Symbolizer, tid: Pid) -> (Stack, Registers) {
        ptrace::seize(tid, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(tid).unwrap();
        waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
        let registers = Registers::from(&ptrace::getregs(tid).unwrap());
        let image = unwinder.image(self.pid()).unwrap();
        let trace = unwinder.unwind(&image, &registers, &LiveMemory::new(tid));
        ptrace::detach(tid, None).unwrap();
        (symbolizer.symbolize(&trace), registers)
    }

    /// gdb's backtrace of a thread. What it makes up of functions that have jumped away into others (tail
    /// calls) is left out: no such frames are on the stack.
    fn gdb(&self, tid: Pid) -> Vec<Line> {
        let script = format!(
            r#"
import gdb
for thread in gdb.selected_inferior().threads():
    if thread.ptid[1] == {tid}:
        thread.switch()
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() == gdb.SIGTRAMP_FRAME:
        print("FRAME\tsignal\t\t")
    elif frame.type() != gdb.TAILCALL_FRAME:
        # gdb says where the innermost will go on; we say which line made the call.
        sal = gdb.find_pc_line(frame.pc() - 1) if frame.level() == 0 else frame.find_sal()
        at = "%s:%d" % (sal.symtab.filename, sal.line) if sal.symtab else ""
        kind = "inlined" if frame.type() == gdb.INLINE_FRAME else "normal"
        print("FRAME\t%s\t%s\t%s" % (kind, frame.name() or "", at))
    frame = frame.older()
"#
        );
        let file = std::env::temp_dir().join(format!("stacks-{tid}.py"));
        fs::write(&file, script).unwrap();
        let mut command = Command::new("gdb");
        command.env_remove("DEBUGINFOD_URLS").args(["-nx", "-batch"]);
        for setting in ["set backtrace past-main on", "set backtrace past-entry on", "set backtrace limit 0"] {
            command.args(["-ex", setting]);
        }
        command.args(["-ex", &format!("attach {}", self.pid()), "-x"]).arg(&file);
        let output = command.output().expect("gdb is needed");
        fs::remove_file(file).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
        assert!(!lines.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        lines
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is compared of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    function: Option<String>,
    location: Option<String>,
    inlined: bool,
    signal: bool,
}

impl Line {
    /// A line of the script above: kind, function, file:line.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("FRAME\t")?.split('\t');
        let (kind, function, at) = (fields.next()?, fields.next()?, fields.next()?);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let location = text(at.rsplit('/').next()?);
        let (inlined, signal) = (kind == "inlined", kind == "signal");
        Some(Self { function: text(&plain(function)), location, inlined, signal })
    }

    fn of(frame: &Frame) -> Self {
        if frame.signal {
            return Self { function: None, location: None, inlined: false, signal: true };
        }
        let file = frame.file.as_deref().and_then(|file| file.rsplit('/').next());
        let location = file.zip(frame.line).map(|(file, line)| format!("{file}:{line}"));
        Self { function: frame.function.as_deref().map(plain), location, inlined: frame.inlined, signal: false }
    }
}

/// A function's name without its parameters, and without what two demanglers write differently.
fn plain(function: &str) -> String {
    let function = function.replace("(anonymous namespace)", "{anonymous}").replace("long int", "long");
    // gdb doesn't name the class of a lambda.
    let function = function.rsplit_once("(anonymous class)::").map_or(&*function, |pair| pair.1);
    function.split_once('(').map_or(function, |pair| pair.0).to_owned()
}

fn lines(stack: &Stack) -> Vec<Line> {
    stack.frames.iter().map(Line::of).collect()
}

/// Whether the lines are the same, but for which of several names a symbol table has for one address.
fn same(ours: &[Line], gdbs: &[Line]) -> bool {
    let name = |line: &Line| {
        let name = line.function.as_deref()?.trim_start_matches('_');
        Some(name.split('.').next()?.trim_end_matches("_impl").to_owned())
    };
    ours.len() == gdbs.len()
        && ours.iter().zip(gdbs).all(|(ours, gdbs)| {
            let alias = ours.location.is_none() && name(ours) == name(gdbs);
            (alias || ours.function == gdbs.function)
                && (&ours.location, ours.inlined, ours.signal) == (&gdbs.location, gdbs.inlined, gdbs.signal)
        })
}

#[track_caller]
fn compare(guest: &Guest, tid: Pid) -> Stack {
    let (stack, _) = guest.trace(tid, Limits { frames: 5000, ..Limits::default() });
    assert_eq!(stack.truncated, None, "{stack:#?}");
    let (ours, gdbs) = (lines(&stack), guest.gdb(tid));
    let show = |lines: &[Line]| lines.iter().fold(String::new(), |text, line| text + &format!("  {line:?}\n"));
    assert!(same(&ours, &gdbs), "ours:\n{}gdb's:\n{}", show(&ours), show(&gdbs));
    assert!(stack.frames.iter().all(|frame| frame.how == How::Cfi), "{stack:#?}");
    stack
}

#[track_caller]
fn flavours(source: &str, arguments: &[&str], all: &[&str]) {
    let compiler = if source == "classes.cpp" { "g++" } else { "gcc" };
    for flags in all {
        let folder = Folder::new();
        let Some(program) = folder.compile(compiler, source, flags) else {
            assert!(flags.contains("-m32") || flags.contains("zstd"), "{source} {flags}");
            continue;
        };
        eprintln!("{source} {flags} {arguments:?}");
        let guest = Guest::start(&program, arguments);
        compare(&guest, guest.pid());
    }
}

const FLAVOURS: &[&str] = &[
    "-g -O0",
    "-g -O2",
    "-g -O2 -fno-omit-frame-pointer",
    "-g -O3 -fomit-frame-pointer -flto",
    "-gdwarf-4 -O2",
    "-gdwarf-5 -O2 -gz=zlib",
    "-g -O2 -static-pie",
    "-g -O2 -static -no-pie",
    "-g -O2 -fno-asynchronous-unwind-tables",
    "-g -O0 -fno-asynchronous-unwind-tables -no-pie",
    "-g -O2 -mstackrealign -mavx2",
    "-g -O2 -Wl,--no-eh-frame-hdr",
    "-g -O2 -gsplit-dwarf",
    "-gdwarf-4 -O2 -gsplit-dwarf",
    "-g -O2 -fdebug-types-section",
    "-g -O2 -m32",
];

#[test]
fn chains_of_calls() {
    flavours("chain.c", &[], FLAVOURS);
}

#[test]
fn classes() {
    // Not with -flto, where gdb calls the lambda by the function around it.
    let all: Vec<_> = FLAVOURS.iter().copied().filter(|flags| !flags.contains("-flto")).collect();
    flavours("classes.cpp", &[], &all);
}

#[test]
fn frames_of_unknown_size() {
    flavours("frames.c", &[], FLAVOURS);
}

#[test]
fn signals() {
    flavours("signals.c", &[], &["-g -O0", "-g -O2", "-g -O2 -static-pie", "-g -O2 -m32"]);
    flavours("signals.c", &["on its own stack"], &["-g -O0", "-g -O2", "-g -O2 -m32"]);
}

#[test]
fn calls_that_never_return() {
    flavours("noreturn.c", &[], FLAVOURS);
}

#[test]
fn coroutines() {
    // gdb takes what lies above the coroutine's start for another frame.
    for flags in ["-g -O0", "-g -O2", "-g -O2 -static-pie"] {
        let folder = Folder::new();
        let program = folder.compile("gcc", "context.c", flags).unwrap();
        let guest = Guest::start(&program, &[]);
        let (stack, _) = guest.trace(guest.pid(), Limits::default());
        let (ours, gdbs) = (lines(&stack), guest.gdb(guest.pid()));
        let end = ours.iter().position(|line| line.function.as_deref() == Some("coroutine")).unwrap() + 1;
        assert!(same(&ours[..end], &gdbs[..end]), "{ours:#?} {gdbs:#?}");
        assert_eq!(ours[end].function.as_deref(), Some("__start_context"));
        assert_eq!(ours.len(), end + 1, "{ours:#?}");
        assert_eq!(stack.truncated, None);
    }
}

#[test]
fn deep_recursion() {
    flavours("deep.c", &["1000"], &["-g -O0", "-g -O2"]);
    let folder = Folder::new();
    let program = folder.compile("gcc", "deep.c", "-g -O0").unwrap();
    let guest = Guest::start(&program, &["10000"]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    assert_eq!(stack.frames.len(), Limits::default().frames);
    assert_eq!(stack.truncated, Some(Reason::TooManyFrames));
}

#[test]
fn a_library_that_was_loaded_by_a_thread_and_deleted() {
    for flags in ["-g -O0", "-g -O2"] {
        let folder = Folder::new();
        let library = folder.compile("gcc", "loaded.c", &format!("{flags} -shared -fPIC -DLIBRARY")).unwrap();
        fs::rename(&library, folder.file("library.so")).unwrap();
        fs::copy(folder.file("library.so"), folder.file("kept.so")).unwrap();
        let program = folder.compile("gcc", "loaded.c", &format!("{flags} -pthread")).unwrap();
        let guest = Guest::start(&program, &[&folder.file("library.so")]);
        let tid = guest.threads()[1];
        let (stack, _) = guest.trace(tid, Limits::default());
        let functions: Vec<_> = stack.frames.iter().filter_map(|frame| frame.function.as_deref()).collect();
        let end = functions.iter().position(|function| *function == "thread").unwrap();
        assert_eq!(functions[end - 4..end], ["stop", "callback", "call", "entry"], "{functions:?}");
        assert_eq!(stack.truncated, None);
        // gdb needs the file back.
        fs::rename(folder.file("kept.so"), folder.file("library.so")).unwrap();
        compare(&guest, tid);
    }
}

#[test]
fn a_program_that_was_replaced() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-g -O2").unwrap();
    let guest = Guest::start(&program, &[]);
    let before = compare(&guest, guest.pid());
    fs::remove_file(&program).unwrap();
    fs::copy("/bin/true", &program).unwrap();
    let (after, _) = guest.trace(guest.pid(), Limits::default());
    assert_eq!(before, after);
}

#[test]
fn one_unwinder_for_many_processes() {
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-g -O2").unwrap();
    let first = Guest::start(&program, &[]);
    let (stack, _) = first.trace_by(&unwinder, &symbolizer, first.pid());
    assert!(same(&lines(&stack), &first.gdb(first.pid())), "{stack:#?}");
    drop(first);
    // The same path and other contents.
    let program = folder.compile("gcc", "frames.c", "-g -O2").unwrap();
    let second = Guest::start(&program, &[]);
    for _ in 0..2 {
        let (stack, _) = second.trace_by(&unwinder, &symbolizer, second.pid());
        assert!(same(&lines(&stack), &second.gdb(second.pid())), "{stack:#?}");
    }
}

#[test]
fn stripped_with_a_debuglink() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-g -O2 -Wl,--build-id=none").unwrap();
    let debug = folder.file("program.debug");
    run("objcopy", &["--only-keep-debug", "--compress-debug-sections", &program, &debug]);
    run("strip", &["--strip-all", &program]);
    run("objcopy", &[&format!("--add-gnu-debuglink={debug}"), &program]);
    let guest = Guest::start(&program, &[]);
    let stack = compare(&guest, guest.pid());
    assert!(stack.frames.iter().any(|frame| frame.inlined));
    drop(guest);
    // Another file of that name is not believed.
    fs::write(&debug, fs::read("/bin/true").unwrap()).unwrap();
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    assert!(stack.frames.iter().all(|frame| frame.function.as_deref() != Some("main")), "{stack:#?}");
}

#[test]
fn cfi_in_the_separate_file_alone() {
    let folder = Folder::new();
    let flags = "-g -O2 -fno-asynchronous-unwind-tables";
    let program = folder.compile("gcc", "chain.c", flags).unwrap();
    let debug = folder.file("program.debug");
    run("objcopy", &["--only-keep-debug", &program, &debug]);
    run("strip", &["--strip-all", &program]);
    run("objcopy", &[&format!("--add-gnu-debuglink={debug}"), &program]);
    let guest = Guest::start(&program, &[]);
    compare(&guest, guest.pid());
}

#[test]
fn packed_symbols() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-O1 -fno-inline -fno-optimize-sibling-calls").unwrap();
    let (mini, packed) = (folder.file("mini"), folder.file("mini.xz"));
    fs::copy(&program, &mini).unwrap();
    run("xz", &["-k", &mini]);
    run("strip", &["--strip-all", &program]);
    run("objcopy", &["--add-section", &format!(".gnu_debugdata={packed}"), &program]);
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let functions: Vec<_> = stack.frames.iter().filter_map(|frame| frame.function.as_deref()).collect();
    for function in ["stop", "compare", "sort", "through_pointer", "main", "_start"] {
        assert!(functions.contains(&function), "{functions:?}");
    }
}

#[test]
fn split_debug_information_in_a_package() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-gdwarf-4 -O2 -gsplit-dwarf").unwrap();
    run("dwp", &["-e", &program, "-o", &format!("{program}.dwp")]);
    for file in fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "dwo") {
            fs::remove_file(file).unwrap();
        }
    }
    let guest = Guest::start(&program, &[]);
    compare(&guest, guest.pid());
}

#[test]
fn frame_pointers_where_there_is_nothing_else() {
    let folder = Folder::new();
    let flags = "-O0 -fno-omit-frame-pointer -fno-asynchronous-unwind-tables";
    let program = folder.compile("gcc", "noreturn.c", flags).unwrap();
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let found: Vec<_> = stack.frames.iter().map(|frame| (frame.function.as_deref().unwrap(), frame.how)).collect();
    let start = found.iter().position(|frame| frame.0 == "stop").unwrap();
    let by = How::FramePointer;
    let expected = [("never", by), ("caller", by), ("main", by), ("__libc_start_call_main", by)];
    assert_eq!(found[start + 1..start + 5], expected);
    assert_eq!(found.last().unwrap().0, "_start");
    assert_eq!(stack.truncated, None);
}

#[test]
fn guesses_say_so() {
    let folder = Folder::new();
    let flags = "-O2 -fomit-frame-pointer -fno-asynchronous-unwind-tables";
    let program = folder.compile("gcc", "noreturn.c", flags).unwrap();
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let main = stack.frames.iter().find(|frame| frame.function.as_deref() == Some("main")).unwrap();
    assert_eq!(main.how, How::Guess);
    assert!(stack.frames.iter().skip_while(|frame| frame.how != How::Guess).all(|frame| frame.how == How::Guess));
}

#[test]
fn a_copy_of_the_stack_is_enough() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-g -O2").unwrap();
    let guest = Guest::start(&program, &[]);
    let (expected, registers) = guest.trace(guest.pid(), Limits::default());
    let copy = StackCopy::take(guest.pid(), registers.sp(), 64 << 10);
    let unwinder = Unwinder::default();
    let image = unwinder.image(guest.pid()).unwrap();
    image.pin();
    drop(guest);
    let trace = unwinder.unwind(&image, &registers, &copy);
    assert_eq!(Symbolizer::default().symbolize(&trace), expected);
    // Nearly nothing of it.
    let trace = unwinder.unwind(&image, &registers, &StackCopy::of(registers.sp(), vec![0; 8]));
    assert!(matches!(trace.truncated, Some(Reason::Unreadable(_)) | None));
}

#[test]
fn a_process_that_is_gone_is_an_error() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    child.wait().unwrap();
    assert!(Unwinder::default().image(pid).is_err());
    let registers = Registers::of_pc_and_sp(sockstrace::unwind::Arch::X86_64, 0x1000, 0x2000);
    let unwinder = Unwinder::default();
    let image = unwinder.image(nix::unistd::getpid()).unwrap();
    let trace = unwinder.unwind(&image, &registers, &LiveMemory::new(pid));
    assert_eq!(trace.frames.len(), 1);
    assert_eq!(trace.truncated, Some(Reason::NoRule(0x1000)));
}
