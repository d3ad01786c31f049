//! Files in odd places and of odd kinds, and files that change.

use super::compare::{Line, compare, lines};
use super::guest::{Folder, Guest, run};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Uid, getpid};
use sockstrace::aside::within;
use sockstrace::symbols::{Stack, Symbolizer};
use sockstrace::unwind::modules::elf::{Bytes, Elf};
use sockstrace::unwind::{Arch, Limits, LiveMemory, Memory as _, Reason, Registers, StackCopy, Trace, Unwinder};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FLAGS: &str = "-g -O2";

/// The lines of the program as it is when nothing is odd.
fn usual(folder: &Folder) -> (String, Vec<Line>) {
    let program = folder.compile("gcc", "chain.c", FLAGS).unwrap();
    let guest = Guest::start(&program, &[]);
    let stack = compare(&guest, guest.pid());
    assert!(stack.frames.iter().any(|frame| frame.inlined));
    (program, lines(&stack))
}

fn ours(guest: &Guest) -> Vec<Line> {
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    assert_eq!(stack.truncated, None, "{stack:#?}");
    lines(&stack)
}

/// Moves the debug information of a program to a file of its own.
fn split_off(folder: &Folder, program: &str) -> String {
    let debug = folder.file("program.debug");
    run("objcopy", &["--only-keep-debug", program, &debug]);
    run("strip", &["--strip-all", program]);
    run("objcopy", &[&format!("--add-gnu-debuglink={debug}"), program]);
    debug
}

#[test]
fn a_debug_file_that_is_cut_off() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", FLAGS).unwrap();
    let debug = split_off(&folder, &program);
    let guest = Guest::start(&program, &[]);
    let unwinder = Unwinder::default();
    let mut trace: Option<Trace> = None;
    guest.halted(|tid, registers| {
        let image = unwinder.image(guest.pid()).unwrap();
        trace = Some(unwinder.unwind(&image, registers, &LiveMemory::new(tid)));
    });
    let mut trace = trace.unwrap();
    let symbolizer = Symbolizer::default();
    assert!(symbolizer.symbolize(&trace).frames.iter().any(|frame| frame.inlined));
    // It is mapped now.
    File::options().write(true).open(&debug).unwrap().set_len(0).unwrap();
    for _ in 0..20 {
        for frame in &mut trace.frames {
            frame.lookup += 1;
            frame.ip += 1;
            frame.place.as_mut().unwrap().offset += 1;
        }
        assert!(symbolizer.symbolize(&trace).frames.len() >= trace.frames.len());
    }
}

#[test]
fn a_debug_file_that_is_a_fifo() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", FLAGS).unwrap();
    let debug = split_off(&folder, &program);
    fs::remove_file(&debug).unwrap();
    nix::unistd::mkfifo(Path::new(&debug), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let trace = move || {
        let guest = Guest::start(&program, &[]);
        guest.trace(guest.pid(), Limits::default()).0
    };
    let stack = within(Duration::from_secs(60), trace).expect("it waits for a writer");
    assert!(stack.frames.len() > 5, "{stack:#?}");
}

#[test]
fn a_debug_file_that_is_cut_off_all_the_time() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", FLAGS).unwrap();
    let debug = split_off(&folder, &program);
    let guest = Guest::start(&program, &[]);
    let whole = fs::read(&debug).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&debug).unwrap();
            let mut length = 1;
            while !stop.load(Ordering::Relaxed) {
                length = length * 31 % whole.len();
                file.set_len(length as u64).unwrap();
                file.write_all_at(&whole, 0).unwrap();
            }
        });
        for _ in 0..50 {
            let (stack, _) = guest.trace(guest.pid(), Limits::default());
            assert!(stack.frames.len() > 5);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lines(&guest.trace(guest.pid(), Limits::default()).0).iter().any(|line| line.inlined));
}

#[test]
fn what_several_debug_files_share() {
    let folder = Folder::new();
    let (program, expected) = usual(&folder);
    fs::rename(&program, folder.file("first")).unwrap();
    let second = folder.compile("gcc", "frames.c", FLAGS).unwrap();
    let common = folder.file("common");
    run("dwz", &["-m", &common, &folder.file("first"), &second]);
    assert!(Path::new(&common).exists());
    let guest = Guest::start(&folder.file("first"), &[]);
    assert_eq!(ours(&guest), expected);
    compare(&guest, guest.pid());
}

#[test]
fn sections_compressed_in_each_way() {
    let folder = Folder::new();
    let (program, expected) = usual(&folder);
    for kind in ["zlib", "zlib-gnu", "zstd"] {
        let packed = folder.file(kind);
        run("objcopy", &[&format!("--compress-debug-sections={kind}"), &program, &packed]);
        assert_eq!(ours(&Guest::start(&packed, &[])), expected, "{kind}");
    }
}

#[test]
fn a_program_without_a_name() {
    let folder = Folder::new();
    let (program, expected) = usual(&folder);
    let file = File::from(memfd_create(c"nameless", MFdFlags::empty()).unwrap());
    file.write_all_at(&fs::read(&program).unwrap(), 0).unwrap();
    let guest = Guest::start(&format!("/proc/{}/fd/{}", getpid(), file.as_raw_fd()), &[]);
    assert_eq!(ours(&guest), expected);
    drop(file);
    assert_eq!(ours(&guest), expected);
}

#[test]
fn a_program_in_another_mount_namespace() {
    if !Uid::effective().is_root() {
        return;
    }
    let folder = Folder::new();
    let (program, expected) = usual(&folder);
    let inside = folder.file("inside");
    fs::create_dir(&inside).unwrap();
    let script = format!("mount -t tmpfs none {inside} && cp {program} {inside}/program && exec {inside}/program");
    let guest = Guest::of(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    assert!(!Path::new(&inside).join("program").exists());
    assert_eq!(ours(&guest), expected);
}

#[test]
fn as_an_ordinary_user() {
    if !Uid::effective().is_root() {
        return;
    }
    let folder = Folder::new();
    let (program, _) = usual(&folder);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "files::the_ordinary_user", "--nocapture"])
        .env("STACKS_PROGRAM", program)
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Run by the test above, as another user.
#[test]
#[ignore = "a part of as_an_ordinary_user"]
fn the_ordinary_user() {
    assert!(!Uid::effective().is_root());
    let folder = Folder::new();
    let own = folder.file("own");
    fs::copy(std::env::var("STACKS_PROGRAM").unwrap(), &own).unwrap();
    let guest = Guest::start(&own, &[]);
    // No map_files for such users.
    assert!(
        File::open(format!("/proc/{}/map_files", guest.pid())).is_err() || {
            let mut files = fs::read_dir(format!("/proc/{}/map_files", guest.pid())).unwrap();
            files.all(|file| File::open(file.unwrap().path()).is_err())
        }
    );
    let expected = ours(&guest);
    for function in ["compare", "middle", "innermost", "sort", "through_pointer", "main", "_start"] {
        assert!(expected.iter().any(|line| line.function.as_deref() == Some(function)), "{expected:?}");
    }
    fs::remove_file(&own).unwrap();
    assert_eq!(ours(&guest), expected);
    // Another one in its place isn't believed: /proc/PID/exe still is.
    fs::copy("/bin/true", &own).unwrap();
    assert_eq!(ours(&guest), expected);
}

#[test]
fn a_library_in_the_place_of_another() {
    let folder = Folder::new();
    let mut libraries = Vec::new();
    for name in ["first", "other"] {
        let flags = format!("{FLAGS} -shared -fPIC -DNAME={name}");
        let library = folder.compile("gcc", "reload.c", &flags).unwrap();
        fs::rename(&library, folder.file(name)).unwrap();
        libraries.push(folder.file(name));
    }
    let program = folder.compile("gcc", "reload.c", FLAGS).unwrap();
    let guest = Guest::start(&program, &[&libraries[0], &libraries[1]]);
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    let trace = || {
        let (stack, _) = guest.trace_by(&unwinder, &symbolizer, guest.pid());
        assert!(super::compare::same(&lines(&stack), &guest.gdb(guest.pid())), "{stack:#?}");
        stack
    };
    let frame = |stack: &Stack, name: &str| {
        stack.frames.iter().find(|frame| frame.function.as_deref() == Some(name)).cloned().unwrap()
    };
    let first = frame(&trace(), "first");
    kill(guest.pid(), Signal::SIGUSR1).unwrap();
    let has_changed = || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", guest.pid())).unwrap();
        let call = fs::read_to_string(format!("/proc/{}/syscall", guest.pid())).unwrap();
        maps.contains(&libraries[1]) && !maps.contains(&libraries[0]) && call.starts_with("34 ")
    };
    while !has_changed() {
        std::thread::yield_now();
    }
    let other = frame(&trace(), "other");
    assert_eq!(first.ip, other.ip, "the second library is elsewhere");
    assert_ne!(first.module, other.module);
}

#[test]
fn the_vdso() {
    let (unwinder, pid) = (Unwinder::default(), getpid());
    let image = unwinder.image(pid).unwrap();
    let vdso = image.maps().all().iter().find(|mapping| &*mapping.path == "[vdso]").unwrap();
    let mut bytes = vec![0; (vdso.end - vdso.start) as usize];
    LiveMemory::new(pid).read(vdso.start, &mut bytes).unwrap();
    let function = Elf::parse(Bytes::Owned(bytes)).unwrap().dynamic_symbol("__vdso_clock_gettime").unwrap();
    // As if it had just been called from here.
    let back = the_vdso as fn() as usize as u64 + 1;
    let stack = StackCopy::of(0x7000, [back.to_le_bytes(), [0; 8]].concat());
    let registers = Registers::of_pc_and_sp(Arch::X86_64, vdso.start + function, 0x7000);
    let trace = unwinder.unwind(&image, &registers, &stack);
    assert_eq!(trace.frames[1].ip, back);
    let stack = Symbolizer::default().symbolize(&trace);
    assert_eq!(stack.frames[0].module.as_deref(), Some("[vdso]"));
    assert!(stack.frames[0].function.as_deref().unwrap().ends_with("clock_gettime"), "{stack:#?}");
}

#[test]
fn gigabytes() {
    let folder = Folder::new();
    let (program, expected) = usual(&folder);
    // A hole of 3 GiB behind what matters, and a section that claims to be it.
    let file = File::options().write(true).open(&program).unwrap();
    file.set_len(3 << 30).unwrap();
    drop(file);
    let guest = Guest::start(&program, &[]);
    assert_eq!(ours(&guest), expected);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 1 << 20, "{peak} KiB");
}

#[test]
fn a_limit_of_time() {
    let limits = Limits { time: std::time::Duration::ZERO, ..Limits::default() };
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", FLAGS).unwrap();
    let guest = Guest::start(&program, &[]);
    let (stack, _) = guest.trace(guest.pid(), limits);
    assert_eq!(stack.truncated, Some(Reason::TooSlow));
}
