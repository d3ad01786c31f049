//! Processes that don't hold still: threads that end, and programs that become others, in the middle of a trace.

use super::guest::Folder;
use nix::sys::ptrace;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::Symbolizer;
use sockstrace::unwind::{Arch, Limits, LiveMemory, Registers, Trace, Unwinder};
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// As long as it lives.
fn threads(child: &mut Child) -> Option<Vec<Pid>> {
    if child.try_wait().unwrap().is_some() {
        return None;
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", child.id())) else { return Some(Vec::new()) };
    let tid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw);
    Some(tasks.filter_map(|entry| tid(entry.ok()?)).collect())
}

/// Where a thread stands that isn't held.
fn standing(tid: Pid, arch: Arch) -> Option<Registers> {
    let text = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
    let mut last = text.split_whitespace().rev().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let (pc, sp) = (last.next()??, last.next()??);
    Some(Registers::of_pc_and_sp(arch, pc, sp))
}

/// Compiles, runs and traces it to its end; gives how many traces there were.
fn follow(flags: &str, arch: Arch, look: impl Fn(&Unwinder, Pid, Pid) -> Option<Trace>) -> Option<usize> {
    let folder = Folder::new();
    let program = folder.compile("gcc", "moving.c", &format!("-g -O1 -pthread {flags}"))?;
    let mut child = Command::new(program).arg("120").spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let unwinder = Unwinder::with_limits(Limits { time: Duration::from_millis(100), ..Limits::default() });
    let symbolizer = Symbolizer::default();
    let (mut traces, mut named) = (0, 0);
    let until = Instant::now() + Duration::from_secs(60);
    while let Some(tids) = threads(&mut child) {
        assert!(Instant::now() < until, "it does not end");
        for tid in tids {
            let started = Instant::now();
            let Some(trace) = look(&unwinder, pid, tid) else { continue };
            let stack = symbolizer.symbolize(&trace);
            assert!(!stack.frames.is_empty() && trace.frames.len() <= Limits::default().frames);
            assert!(started.elapsed() < Duration::from_secs(10));
            traces += 1;
            named += usize::from(stack.frames.iter().any(|frame| frame.function.as_deref() == Some("recurse")));
        }
    }
    // What it did was not disturbed.
    assert!(child.wait().unwrap().success());
    eprintln!("{arch:?}: {traces} traces, {named} with names");
    assert!(named > 0);
    Some(traces)
}

/// The memory changes while it is read.
#[test]
fn threads_that_run_on() {
    for (flags, arch) in [("", Arch::X86_64), ("-m32", Arch::I386)] {
        let traces = follow(flags, arch, |unwinder, pid, tid| {
            let registers = standing(tid, arch)?;
            Some(unwinder.unwind(&unwinder.image(pid).ok()?, &registers, &LiveMemory::new(tid)))
        });
        assert!(traces.is_none_or(|traces| traces > 20), "{traces:?}");
        assert!(traces.is_some() || arch == Arch::I386);
    }
}

/// Each is held, if it lives so long.
#[test]
fn threads_that_end() {
    for (flags, arch) in [("", Arch::X86_64), ("-m32", Arch::I386)] {
        let traces = follow(flags, arch, |unwinder, pid, tid| {
            ptrace::seize(tid, ptrace::Options::empty()).ok()?;
            let _ = ptrace::interrupt(tid);
            // The end of the process is for others to see.
            let ended = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::__WALL | WaitPidFlag::WNOWAIT;
            if let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitid(Id::Pid(tid), ended)
                && tid == pid
            {
                return None;
            }
            let signal = loop {
                match waitpid(tid, Some(WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::Stopped(_, signal)) => break Some(signal),
                    Ok(WaitStatus::PtraceEvent(..)) => break None,
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => return None,
                    Ok(_) => {}
                }
            };
            let trace = ptrace::getregs(tid).ok().and_then(|registers| {
                let image = unwinder.image(pid).ok()?;
                Some(unwinder.unwind(&image, &Registers::from(&registers), &LiveMemory::new(tid)))
            });
            let signal = signal.filter(|signal| *signal != nix::sys::signal::Signal::SIGTRAP);
            if ptrace::detach(tid, signal).is_err() {
                // Killed meanwhile: by an exec, perhaps, that waits until its tracer has seen its end.
                let _ = waitpid(tid, Some(WaitPidFlag::__WALL));
            }
            trace
        });
        assert!(traces.is_none_or(|traces| traces > 20), "{traces:?}");
        assert!(traces.is_some() || arch == Arch::I386);
    }
}
