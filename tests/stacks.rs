//! Traces of small programs in many flavours, each compared with gdb's on the same stop: the same functions,
//! inlined ones too, the same files and lines; none missing, none invented.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg(target_arch = "x86_64")]

#[path = "stacks/browsers.rs"]
mod browsers;
#[path = "stacks/compare.rs"]
mod compare;
#[path = "stacks/example.rs"]
mod example;
#[path = "stacks/files.rs"]
mod files;
#[path = "stacks/go.rs"]
mod go;
#[path = "stacks/guest.rs"]
mod guest;
#[path = "stacks/jit.rs"]
mod jit;
#[path = "stacks/moving.rs"]
mod moving;
#[path = "stacks/others.rs"]
mod others;
#[path = "stacks/python.rs"]
mod python;

use compare::{compare, lines, same};
use guest::{Folder, Guest, run};
use nix::unistd::Pid;
use sockstrace::symbols::Symbolizer;
use sockstrace::unwind::{How, Limits, LiveMemory, Reason, Registers, StackCopy, Unwinder};
use std::fs;
use std::process::Command;

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
    "-g -O1",
    "-g -O2",
    "-g -O3",
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
    "-ggdb3 -O2 -gz=zlib-gnu",
    "-g -O2 -m32",
    "-g -O0 -m32",
    "-g -O2 -m32 -fno-asynchronous-unwind-tables",
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
fn tail_calls() {
    // The ways, and how many functions are known to have ended.
    for (way, ended) in [("1", 3), ("2", 1), ("3", 3), ("p", 0), ("d", 0)] {
        for flags in
            ["-g -O2", "-gdwarf-4 -O2", "-g -O2 -gsplit-dwarf", "-g -O3 -static-pie", "-g -O2 -m32", "-g -O0"]
        {
            let folder = Folder::new();
            let Some(program) = folder.compile("gcc", "tails.c", flags) else {
                assert!(flags.contains("-m32"));
                continue;
            };
            eprintln!("{flags} {way}");
            let guest = Guest::start(&program, &[way]);
            let stack = compare(&guest, guest.pid());
            let found = lines(&stack).iter().filter(|line| line.tail).count();
            assert_eq!(found, if flags == "-g -O0" { 0 } else { ended }, "{stack:#?}");
        }
    }
}

#[test]
fn tail_calls_in_a_circle() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "tails.c", "-g -O2").unwrap();
    let guest = Guest::start(&program, &["r"]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let ended: Vec<_> =
        lines(&stack).into_iter().filter(|line| line.tail).filter_map(|line| line.function).collect();
    // How often around can't be told; gdb shows one of the ways. The last jump is the same in all.
    assert_eq!(ended, ["even"], "{stack:#?}");
}

#[test]
fn tail_calls_from_one_unit_to_another() {
    for flags in ["-g -O2", "-gdwarf-4 -O2", "-g -O2 -flto", "-g -O2 -fPIE -pie -fno-plt"] {
        let folder = Folder::new();
        let other = folder.compile("gcc", "tails.c", &format!("{flags} -c -DOTHER")).unwrap();
        let object = folder.file("other.o");
        fs::rename(other, &object).unwrap();
        let program = folder.compile("gcc", "tails.c", &format!("{flags} -DFAR {object}")).unwrap();
        eprintln!("{flags}");
        let guest = Guest::start(&program, &["f"]);
        let stack = compare(&guest, guest.pid());
        let ended: Vec<_> = lines(&stack).into_iter().filter(|line| line.tail).collect();
        let names: Vec<_> = ended.iter().filter_map(|line| line.function.as_deref()).collect();
        assert_eq!(names, ["third", "second", "beyond", "far_away"], "{stack:#?}");
    }
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
        // The C library's own name, where its debug information is installed.
        assert!(matches!(ours[end].function.as_deref(), None | Some("__start_context")), "{ours:#?}");
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
    // GNU's tool knows no DWARF 5, and LLVM's does not end with that of GCC.
    for (compiler, flags, tool) in [("gcc", "-gdwarf-4", "dwp"), ("clang", "-gdwarf-5", "llvm-dwp")] {
        if guest::is_left_out(tool) || guest::is_left_out(compiler) {
            continue;
        }
        eprintln!("{compiler} {flags} {tool}");
        let folder = Folder::new();
        // gdb 13 breaks down over a package with DWARF 5, and so is asked about the same without one.
        let program = folder.compile(compiler, "chain.c", &format!("{flags} -O2")).unwrap();
        let guest = Guest::start(&program, &[]);
        let expected = lines(&compare(&guest, guest.pid()));
        drop(guest);
        let program = folder.compile(compiler, "chain.c", &format!("{flags} -O2 -gsplit-dwarf")).unwrap();
        run("timeout", &["60", tool, "-e", &program, "-o", &format!("{program}.dwp")]);
        for file in fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "dwo") {
                fs::remove_file(file).unwrap();
            }
        }
        let guest = Guest::start(&program, &[]);
        let (stack, _) = guest.trace(guest.pid(), Limits::default());
        assert!(stack.frames.iter().any(|frame| frame.inlined));
        assert_eq!(lines(&stack), expected);
    }
}

#[test]
fn frame_pointers_where_there_is_nothing_else() {
    let folder = Folder::new();
    let flags = "-O0 -fno-omit-frame-pointer -fno-asynchronous-unwind-tables";
    let program = folder.compile("gcc", "noreturn.c", flags).unwrap();
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let found: Vec<_> =
        stack.frames.iter().map(|frame| (frame.function.as_deref().unwrap_or_default(), frame.how)).collect();
    let start = found.iter().position(|frame| frame.0 == "stop").unwrap();
    let by = How::FramePointer;
    assert_eq!(found[start + 1..start + 4], [("never", by), ("caller", by), ("main", by)]);
    // The C library's own, named where its debug information is installed.
    let caller = found[start + 4];
    assert!(["__libc_start_call_main", ""].contains(&caller.0) && caller.1 == by, "{found:?}");
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
