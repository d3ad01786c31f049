//! Runs the guests of `guests/guest.c` under the backend, with a handler that knows what they expect.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use sockstrace_backend::proc::Status;
use sockstrace_backend::signals::Inherited;
use sockstrace_backend::{
    Backend, BackendError, Command, Ended, Handler, InterceptedCall, Leftover, MemoryError, Outcome, Patience,
    Plan, ProcessEvent, Reply, Syscall, Tracee, Trap,
};
use sockstrace_backend_ptrace::PtraceBackend;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Runs `test` in a process of its own, where it is the main thread and nobody else has children. A hang is
/// a failure.
pub fn isolated(test: impl FnOnce()) {
    isolated_for(Duration::from_secs(30), test);
}

pub fn isolated_for(limit: Duration, test: impl FnOnce()) {
    guests();
    // SAFETY: the harness's other threads only wait; the C library's fork makes its own locks usable.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            std::panic::set_hook(Box::new(|info| {
                // Past the harness's capture, which is lost with this process.
                let text = format!("{info}\n");
                // SAFETY: bytes of our own.
                unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            }));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            // SAFETY: ends the process without the harness's exit handlers.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        ForkResult::Parent { child } => child,
    };
    let start = Instant::now();
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive if start.elapsed() > limit => {
                let _ = kill(child, Signal::SIGKILL);
                waitpid(child, None).unwrap();
                panic!("hangs");
            }
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(5)),
            status => {
                assert_eq!(status, WaitStatus::Exited(child, 0));
                return;
            }
        }
    }
}

/// The compiled guests: 64-bit, and 32-bit where the compiler can.
pub fn guests() -> &'static (PathBuf, Option<PathBuf>) {
    static GUESTS: OnceLock<(PathBuf, Option<PathBuf>)> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/guest.c");
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("guests-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        // Unprivileged runs must reach it.
        let directory = directory.canonicalize().unwrap();
        let compile = |name: &str, flags: &[&str]| {
            let output = directory.join(name);
            let mut command = std::process::Command::new("cc");
            command.args(flags).args(["-O1", "-pthread", "-o"]).arg(&output).arg(source);
            command.output().unwrap().status.success().then_some(output)
        };
        (compile("guest", &[]).unwrap(), compile("guest32", &["-m32"]))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Filtered,
    FullStop,
}

pub const MODES: [Mode; 2] = [Mode::Filtered, Mode::FullStop];

/// One run.
#[derive(Debug, Clone)]
pub struct Run {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub mode: Mode,
    pub plan: Plan,
}

impl Run {
    pub fn of(guest: &str) -> Self {
        Self::program(guests().0.clone(), guest)
    }

    /// In 32 bits; `None` where the compiler can't.
    pub fn of_i386(guest: &str) -> Option<Self> {
        guests().1.clone().map(|program| Self::program(program, guest))
    }

    fn program(program: PathBuf, guest: &str) -> Self {
        let mut traps: Vec<Trap> = [Syscall::Connect, Syscall::Accept, Syscall::Accept4].map(Trap::always).into();
        // Makes the filter trap socketcall's SYS_SOCKET; SOCK_DGRAM only, so that the rest costs nothing.
        let kind = sockstrace_backend::Condition::new(
            1,
            sockstrace_backend::Comparison::Masked { mask: 0xF, expected: libc::SOCK_DGRAM as u64 },
        );
        traps.push(Trap::when(Syscall::Socket, [kind]));
        Self {
            program,
            arguments: vec![guest.into()],
            mode: Mode::Filtered,
            plan: Plan {
                traps,
                allowed_syscalls: None,
                leftover: Leftover::Wait,
                observe_results: false,
                heeds_sharing: true,
                user_namespace: false,
                namespaces: None,
                hooks: None,
            },
        }
    }

    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub fn observed(mut self) -> Self {
        self.plan.observe_results = true;
        self
    }

    pub fn go(&self) -> (Result<Ended, BackendError>, Arc<Judge>) {
        let backend = match self.mode {
            Mode::Filtered => PtraceBackend::new(),
            Mode::FullStop => PtraceBackend::full_stop(),
        };
        if self.mode == Mode::FullStop {
            // SAFETY: this process has one thread yet.
            unsafe { std::env::set_var("FULL_STOP", "1") };
        }
        let command = Command {
            program: self.program.clone().into_os_string(),
            arguments: self.arguments.iter().map(OsString::from).collect(),
            inherited: Inherited::capture().unwrap(),
            severed: Vec::new(),
        };
        let judge = Arc::new(Judge { observes: self.plan.observe_results, ..Judge::default() });
        let before = open_descriptors();
        let result = backend.run(&command, &self.plan, Arc::clone(&judge) as Arc<dyn Handler>);
        assert!(nix::sys::wait::wait() == Err(Errno::ECHILD), "a child is left");
        // Workers may still hold a thread's pidfd for a moment.
        let start = Instant::now();
        while open_descriptors() > before && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(open_descriptors(), before, "descriptors leak");
        (result, judge)
    }

    /// Runs it and expects exit status 0.
    pub fn succeeds(&self) -> Arc<Judge> {
        let (result, judge) = self.go();
        assert_eq!(result.unwrap(), Ended::Exited(0), "{self:?}");
        assert_eq!(*judge.ended.lock().unwrap(), [Ended::Exited(0)]);
        judge.processes_balance();
        judge
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Answers by the address; see `guest.c`.
#[derive(Debug, Default)]
pub struct Judge {
    pub handled: Mutex<Vec<InterceptedCall>>,
    pub returned: Mutex<Vec<(Syscall, i64)>>,
    pub abandoned: Mutex<Vec<Syscall>>,
    pub processes: Mutex<Vec<ProcessEvent>>,
    pub ended: Mutex<Vec<Ended>>,
    observes: bool,
    open: Mutex<HashMap<u64, InterceptedCall>>,
    restarts: Mutex<u32>,
}

impl Judge {
    /// Every process born has gone.
    pub fn processes_balance(&self) {
        let processes = self.processes.lock().unwrap();
        let of = |want: fn(&ProcessEvent) -> Option<Pid>| {
            let mut pids: Vec<i32> = processes.iter().filter_map(want).map(Pid::as_raw).collect();
            pids.sort_unstable();
            pids
        };
        let born = of(|event| if let ProcessEvent::Born { pid, .. } = event { Some(*pid) } else { None });
        let gone = of(|event| if let ProcessEvent::Gone { pid, .. } = event { Some(*pid) } else { None });
        for (these, those, what) in [(&born, &gone, "not gone"), (&gone, &born, "not born")] {
            let odd: Vec<_> = these.iter().filter(|pid| !those.contains(pid)).collect();
            assert!(
                odd.is_empty() && born.len() == gone.len(),
                "{what}: {odd:?} of {} and {}",
                born.len(),
                gone.len()
            );
        }
        assert!(self.open.lock().unwrap().is_empty(), "calls were neither reported nor abandoned");
    }

    fn connect(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience, args: [u64; 3]) -> Outcome {
        let [fd, address, length] = args;
        let mut bytes = [0; 16];
        let wanted = bytes.len().min(length as usize);
        match tracee.read(address, &mut bytes[..wanted]) {
            Err(MemoryError::WouldBlock) => return Outcome::NeedsPatience,
            Ok(16) if bytes[4..7] == [127, 0, 0] => {}
            _ => return Outcome::Reply(Reply::Continue),
        }
        match (bytes[7], patience) {
            (2, _) => Outcome::Reply(Reply::Fail(Errno::EHOSTUNREACH)),
            (3, _) => {
                bytes[7] = 1;
                let reply = match tracee.duplicate(fd as i32) {
                    Err(errno) => Reply::Fail(errno),
                    // SAFETY: sixteen bytes of our own.
                    Ok(socket) => match unsafe { libc::connect(socket.as_raw_fd(), bytes.as_ptr().cast(), 16) } {
                        0 => Reply::Return(0),
                        _ => Reply::Fail(Errno::last()),
                    },
                };
                Outcome::Reply(reply)
            }
            (6, _) => {
                let mut restarts = self.restarts.lock().unwrap();
                *restarts = 1 - *restarts;
                Outcome::Reply(if *restarts == 1 { Reply::Restart } else { Reply::Fail(Errno::ENETDOWN) })
            }
            (4 | 5, Patience::AtOnce) => Outcome::NeedsPatience,
            (4, _) => {
                wait_while(tracee, 300, || true);
                Outcome::Reply(Reply::Fail(Errno::ETIMEDOUT))
            }
            (5, _) => {
                let restarts = std::mem::take(&mut *self.restarts.lock().unwrap());
                if restarts > 0 {
                    return Outcome::Reply(Reply::Fail(Errno::ENETDOWN));
                }
                let mut pending = false;
                wait_while(tracee, 3000, || {
                    let status = Status::of(call.tid).unwrap_or_default();
                    let both = status.pending | status.shared_pending;
                    pending = both & !status.blocked != 0;
                    !pending
                });
                if !pending {
                    return Outcome::Reply(Reply::Fail(Errno::ECANCELED));
                }
                *self.restarts.lock().unwrap() += 1;
                Outcome::Reply(Reply::Restart)
            }
            _ => Outcome::Reply(Reply::Continue),
        }
    }
}

fn wait_while(tracee: &dyn Tracee, milliseconds: u64, mut go_on: impl FnMut() -> bool) {
    let start = Instant::now();
    while tracee.is_waiting() && start.elapsed() < Duration::from_millis(milliseconds) && go_on() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Handler for Judge {
    fn handle(&self, call: &InterceptedCall, tracee: &dyn Tracee, patience: Patience) -> Outcome {
        if patience == Patience::AtOnce {
            self.handled.lock().unwrap().push(*call);
        }
        let outcome = match call.syscall {
            Syscall::Connect => self.connect(call, tracee, patience, [call.arg(0), call.arg(1), call.arg(2)]),
            Syscall::Socketcall => {
                let mut words = [0; 12];
                match tracee.read(call.arg(1), &mut words) {
                    Err(MemoryError::WouldBlock) => return Outcome::NeedsPatience,
                    Ok(12) => {}
                    _ => return Outcome::Reply(Reply::Continue),
                }
                let (words, _) = words.as_chunks::<4>();
                let word = |index: usize| u32::from_ne_bytes(words[index]);
                let args = [0, 1, 2].map(|index| u64::from(word(index)));
                match call.int(0) {
                    1 => Outcome::Reply(Reply::OpenSocket {
                        domain: word(0) as i32,
                        kind: word(1) as i32,
                        protocol: word(2) as i32,
                    }),
                    3 => self.connect(call, tracee, patience, args),
                    _ => Outcome::Reply(Reply::Continue),
                }
            }
            _ => Outcome::Reply(Reply::Continue),
        };
        if self.observes && matches!(outcome, Outcome::Reply(Reply::Continue)) {
            self.open.lock().unwrap().insert(call.id, *call);
        }
        outcome
    }

    fn returned(&self, call: &InterceptedCall, result: i64) {
        self.open.lock().unwrap().remove(&call.id);
        self.returned.lock().unwrap().push((call.syscall, result));
    }

    fn abandoned(&self, call: &InterceptedCall) {
        assert!(self.open.lock().unwrap().remove(&call.id).is_some());
        self.abandoned.lock().unwrap().push(call.syscall);
    }

    fn program_ended(&self, ended: Ended) {
        self.ended.lock().unwrap().push(ended);
    }

    fn process(&self, event: ProcessEvent) {
        self.processes.lock().unwrap().push(event);
    }
}
