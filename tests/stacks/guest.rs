//! Programs that have stopped where they are to be traced, and gdb's view of them.

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sockstrace::symbols::{Stack, Symbolizer};
use sockstrace::unwind::{Limits, LiveMemory, Registers, Unwinder};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::compare::Line;

/// A folder of the test's own, removed at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stacks-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Compiles one of the programs; `None` where this compiler can't.
    pub fn compile(&self, compiler: &str, source: &str, flags: &str) -> Option<String> {
        let program = self.file("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stacks").join(source);
        let mut command = Command::new(compiler);
        command.arg(source).arg("-o").arg(&program).args(flags.split_whitespace()).current_dir(&self.0);
        // Old ways of mangling are for those who ask for them.
        command.env("RUSTC_BOOTSTRAP", "1");
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

/// Programs that the machine needn't have: `SOCKSTRACE_WITHOUT=node,java`.
pub fn is_left_out(program: &str) -> bool {
    std::env::var("SOCKSTRACE_WITHOUT").unwrap_or_default().split(',').any(|other| other == program)
}

pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// A program that has stopped where it is to be traced.
pub struct Guest {
    child: Child,
    /// What it said before it was ready.
    pub said: Vec<String>,
}

impl Guest {
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        Self::of(Command::new(program).args(arguments))
    }

    /// Starts a program that says `ready` when it is.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it has ended: {said:?}");
            if line == "ready\n" {
                break;
            }
            said.push(line.trim_end().to_owned());
        }
        let guest = Self { child, said };
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

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn threads(&self) -> Vec<Pid> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut tids: Vec<_> = tasks
            .map(|entry| Pid::from_raw(entry.unwrap().file_name().to_str().unwrap().parse().unwrap()))
            .collect();
        tids.sort_unstable();
        tids
    }

    /// Stops a thread, unwinds it, lets it go, and names the frames.
    pub fn trace(&self, tid: Pid, limits: Limits) -> (Stack, Registers) {
        self.trace_by(&Unwinder::with_limits(limits), &Symbolizer::default(), tid)
    }

    pub fn trace_by(&self, unwinder: &Unwinder, symbolizer: &Symbolizer, tid: Pid) -> (Stack, Registers) {
        let mut found = None;
        halt(tid, |registers| {
            let image = unwinder.image(self.pid()).unwrap();
            found = Some((unwinder.unwind(&image, registers, &LiveMemory::new(tid)), *registers));
        });
        let (trace, registers) = found.unwrap();
        (symbolizer.symbolize(&trace), registers)
    }

    /// Stops the first thread for a moment.
    pub fn halted(&self, look: impl FnOnce(Pid, &Registers)) {
        halt(self.pid(), |registers| look(self.pid(), registers));
    }

    /// gdb's backtrace of a thread.
    pub fn gdb(&self, tid: Pid) -> Vec<Line> {
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
    else:
        # gdb says where the innermost will go on; we say which line made the call.
        sal = gdb.find_pc_line(frame.pc() - 1) if frame.level() == 0 else frame.find_sal()
        at = "%s:%d" % (sal.symtab.filename, sal.line) if sal.symtab else ""
        kind = {{gdb.INLINE_FRAME: "inlined", gdb.TAILCALL_FRAME: "tail"}}.get(frame.type(), "normal")
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

/// Stops a thread for a moment.
fn halt(tid: Pid, look: impl FnOnce(&Registers)) {
    ptrace::seize(tid, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(tid).unwrap();
    waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
    look(&Registers::from(&ptrace::getregs(tid).unwrap()));
    ptrace::detach(tid, None).unwrap();
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
