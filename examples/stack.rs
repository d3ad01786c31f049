//! Prints the stacks of all threads of a process, as eu-stack does, with the functions that CPython runs:
//!
//! ```sh
//! cargo run --example stack -- PID
//! ```
//!
//! Each thread is stopped (PTRACE_SEIZE, PTRACE_INTERRUPT), unwound and let go; the symbols are looked up
//! when all of them run again.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::{Stack, Symbolizer};
use sockstrace::unwind::{LiveMemory, Registers, Trace, Unwinder};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let pid = std::env::args().nth(1).ok_or("usage: stack PID")?;
    let pid = Pid::from_raw(pid.parse()?);
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.push(Pid::from_raw(entry?.file_name().to_string_lossy().parse()?));
    }
    threads.sort_unstable();
    let unwinder = Unwinder::default();
    let traces: Vec<_> = threads.into_iter().map(|tid| (tid, trace(&unwinder, pid, tid))).collect();
    let symbolizer = Symbolizer::default();
    for (tid, trace) in traces {
        println!("TID {tid}:");
        match trace {
            Ok(trace) => print(&symbolizer.symbolize(&trace)),
            // It may have ended meanwhile.
            Err(error) => println!("    {error}"),
        }
    }
    Ok(())
}

/// Stops a thread, unwinds it and lets it go.
fn trace(unwinder: &Unwinder, pid: Pid, tid: Pid) -> Result<Trace, Box<dyn Error>> {
    ptrace::seize(tid, ptrace::Options::empty())?;
    ptrace::interrupt(tid)?;
    // A stop for a signal that came just now: the thread must get it when it goes on.
    let signal = match waitpid(tid, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(_, signal) => Some(signal),
        WaitStatus::PtraceEvent(..) => None,
        other => return Err(format!("{other:?}").into()),
    };
    let trace = look(unwinder, pid, tid);
    ptrace::detach(tid, signal.filter(|signal| *signal != Signal::SIGTRAP))?;
    trace
}

fn look(unwinder: &Unwinder, pid: Pid, tid: Pid) -> Result<Trace, Box<dyn Error>> {
    let registers = Registers::from(&ptrace::getregs(tid)?);
    let image = unwinder.image(pid)?;
    Ok(unwinder.unwind(&image, &registers, &LiveMemory::new(tid)))
}

fn print(stack: &Stack) {
    for (number, frame) in stack.frames.iter().enumerate() {
        print!("#{number:<3} {:#018x}", frame.ip);
        match &frame.function {
            Some(function) => print!(" {function}"),
            None => print!(" ??"),
        }
        if let Some(file) = &frame.file {
            print!(" {file}");
            if let Some(line) = frame.line {
                print!(":{line}");
            }
        } else if let Some(module) = &frame.module {
            print!(" ({module}+{:#x})", frame.offset.unwrap_or(0));
        }
        if frame.inlined {
            print!(" [inlined]");
        }
        if frame.how.as_str() != "cfi" {
            print!(" [{}]", frame.how.as_str());
        }
        if frame.signal {
            print!(" [signal handler called]");
        }
        println!();
    }
    if let Some(reason) = stack.truncated {
        println!("    ({reason})");
    }
}
