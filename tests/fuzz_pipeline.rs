//! A bounded fuzz test: hostile arguments, memory and descriptors through the whole pipeline.
//!
//! No call may panic, hang, or be let through where nothing allows it. The tracee is made up; its
//! descriptors are real sockets without peers, and no rule allows an address, so that no packet leaves.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};
use nix::unistd::{Pid, gettid};
use sockstrace::capture::{Recording, Wish, traps};
use sockstrace::cli::Run;
use sockstrace::config::{Config, Format, Options};
use sockstrace::output::Recorder;
use sockstrace::pipeline::Pipeline;
use sockstrace_backend::look::Registers;
use sockstrace_backend::{
    Abi, Capabilities, Halted, Handler, InterceptedCall, MemoryError, Outcome, Patience, Reply, Syscall, Tracee,
};
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;

/// xorshift64*: reproducible, and good enough to find what breaks.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number that tends to be interesting.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4),
            1 => self.below(40),
            2 => [16, 28, 110, 128, 129, 1024, 1025][self.below(7) as usize],
            3 => u64::MAX - self.below(3),
            4 => u64::from(u32::MAX) - self.below(3),
            5 => (i32::MAX as u64).wrapping_add(self.below(3)),
            6 => BASE + self.below(SIZE as u64 + 64),
            _ => self.next(),
        }
    }
}

/// The only mapped region: below 4 GiB, so that i386 pointers reach it.
const BASE: u64 = 0x1000_0000;
const SIZE: usize = 4096;

struct MadeUp {
    memory: RefCell<Vec<u8>>,
    sockets: Vec<OwnedFd>,
}

impl Tracee for MadeUp {
    fn tid(&self) -> Pid {
        gettid()
    }

    fn pid(&self) -> Pid {
        Pid::this()
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, MemoryError> {
        let memory = self.memory.borrow();
        let start = address.checked_sub(BASE).ok_or(MemoryError::Fault)?;
        let there = memory.get(start as usize..).filter(|there| !there.is_empty()).ok_or(MemoryError::Fault)?;
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let mut memory = self.memory.borrow_mut();
        let start = address.checked_sub(BASE).ok_or(MemoryError::Fault)? as usize;
        let end = start.checked_add(data.len()).ok_or(MemoryError::Fault)?;
        memory.get_mut(start..end).ok_or(MemoryError::Fault)?.copy_from_slice(data);
        Ok(())
    }

    fn duplicate(&self, fd: i32) -> Result<OwnedFd, Errno> {
        let socket = usize::try_from(fd).ok().and_then(|fd| self.sockets.get(fd)).ok_or(Errno::EBADF)?;
        socket.try_clone().map_err(|_| Errno::EMFILE)
    }

    fn socket_inode(&self, fd: i32) -> Option<u64> {
        let stat = nix::sys::stat::fstat(self.sockets.get(usize::try_from(fd).ok()?)?).ok()?;
        (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
    }

    fn is_waiting(&self) -> bool {
        true
    }
}

fn sockets() -> Vec<OwnedFd> {
    let open = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap();
    let (one, other) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
            .unwrap();
    vec![
        open(AddressFamily::Inet, SockType::Stream),
        open(AddressFamily::Inet, SockType::Datagram),
        open(AddressFamily::Inet6, SockType::Stream),
        open(AddressFamily::Inet6, SockType::Datagram),
        open(AddressFamily::Unix, SockType::Datagram),
        one,
        other,
        std::fs::File::open("/dev/null").unwrap().into(),
    ]
}

/// Memory that looks like addresses, message headers and control messages often enough.
fn memory(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIZE);
    while bytes.len() < SIZE {
        match random.below(5) {
            0 => bytes.extend([2, 0, 0, 80, 203, 0, 113, 5, 0, 0, 0, 0, 0, 0, 0, 0]),
            1 => bytes.extend(random.number().to_ne_bytes()),
            2 => bytes.extend((random.number() as u32).to_ne_bytes()),
            3 => bytes.extend([random.below(45) as u8, 0]),
            _ => bytes.extend(random.next().to_ne_bytes()),
        }
    }
    bytes.truncate(SIZE);
    bytes
}

fn pipeline(options: Options) -> Pipeline {
    let run = Run { program: vec!["true".into()], options, ..Run::default() };
    let config = Config::load(run, &|_| None).unwrap();
    let recorder = Recorder::open(Format::Jsonl, Some(Path::new("/dev/null"))).unwrap();
    let pipeline = Pipeline::new(config, recorder, Box::new(|_| ())).unwrap();
    let capabilities = Capabilities {
        launch: true,
        watch: false,
        refuse: true,
        perform: true,
        observes_results: false,
        attach: false,
        reports_processes: false,
        looks: true,
        repeats: true,
        holds_at_exit: false,
        captures: false,
        hooks: false,
        diverts: false,
    };
    pipeline.begin("fuzz", false, capabilities);
    pipeline
}

/// The answer; where a look is wanted, it is seldom had, and then of a place that makes no sense.
fn answer(outcome: Outcome, abi: Abi, random: &mut Random) -> Option<Reply> {
    match outcome {
        Outcome::Reply(reply) => Some(reply),
        Outcome::Look(reply, look) => {
            if random.below(32) == 0 {
                let registers =
                    Registers::Few { pc: random.number(), sp: Some(random.number()), why: Errno::EPERM };
                look.at(&Halted { tid: gettid(), pid: Pid::this(), abi, registers });
            }
            Some(reply)
        }
        Outcome::NeedsPatience => None,
    }
}

fn everything_judged() -> Options {
    Options {
        on_leak: Some("block".into()),
        trace: Some("all".into()),
        incoming: Some("block".into()),
        disclosure: Some("leak".into()),
        unix: Some("leak".into()),
        ..Options::default()
    }
}

#[test]
fn hostile_calls_neither_break_the_pipeline_nor_pass_it() {
    let pipeline = pipeline(everything_judged());
    let mut random = Random(0x5EED_CA11);
    let mut tracee = MadeUp { memory: RefCell::default(), sockets: sockets() };
    let calls: Vec<_> = Syscall::ALL.iter().copied().filter(|call| *call != Syscall::Setsockopt).collect();
    for round in 0..60_000_u64 {
        if round % 16 == 0 {
            tracee.memory = RefCell::new(memory(&mut random));
        }
        let syscall = calls[random.below(calls.len() as u64) as usize];
        let abi = if random.below(2) == 0 { Abi::X86_64 } else { Abi::I386 };
        let mut args: [u64; 6] = std::array::from_fn(|_| random.number());
        args[0] = random.below(9);
        let call = InterceptedCall { id: round, tid: gettid(), abi, syscall, args };
        let outcome = pipeline.handle(&call, &tracee, Patience::MayBlock);
        let Some(reply) = answer(outcome, abi, &mut random) else {
            panic!("{call:?}: no answer to a patient caller")
        };
        if reply == Reply::Continue {
            // Left to the kernel: only what can't reach a network (or is none of our calls).
            let harmless = matches!(
                syscall,
                // Who asks or receives sends nothing.
                Syscall::Getpeername
                    | Syscall::Getsockname
                    | Syscall::Getsockopt
                    | Syscall::Recvfrom
                    | Syscall::Recvmsg
                    | Syscall::Recvmmsg
                    | Syscall::RecvmmsgTime64
                    // Of file systems, those without a server.
                    | Syscall::Mount
                    | Syscall::Fsopen
                    | Syscall::Socket
                    | Syscall::Socketcall
                    | Syscall::Ioctl
                    | Syscall::Bind
                    | Syscall::Accept
                    | Syscall::Accept4
            ) || goes_where_another_led(syscall);
            assert!(harmless, "{call:?} was let through");
        }
    }
}

#[test]
fn hostile_options_are_performed_or_refused() {
    let pipeline = pipeline(everything_judged());
    let mut random = Random(0x0B71_0145);
    let mut tracee = MadeUp { memory: RefCell::default(), sockets: sockets() };
    for round in 0..20_000_u64 {
        if round % 16 == 0 {
            tracee.memory = RefCell::new(memory(&mut random));
        }
        let level = [0, 41][random.below(2) as usize];
        let args = [random.below(9), level, random.below(60), random.number(), random.number(), 0];
        let call =
            InterceptedCall { id: round, tid: gettid(), abi: Abi::X86_64, syscall: Syscall::Setsockopt, args };
        let outcome = pipeline.handle(&call, &tracee, Patience::MayBlock);
        let Some(reply) = answer(outcome, Abi::X86_64, &mut random) else { panic!("{call:?}: no answer") };
        let joins_or_routes =
            matches!((level, args[2]), (0, 4 | 35 | 39 | 42 | 46) | (41, 5 | 6 | 20 | 27 | 42 | 46 | 57));
        assert!(!(joins_or_routes && reply == Reply::Continue), "{call:?} was let through");
    }
}

/// Calls that are stopped at to be captured, and judged never.
fn goes_where_another_led(syscall: Syscall) -> bool {
    let judged = [
        Syscall::Accept,
        Syscall::Accept4,
        Syscall::Connect,
        Syscall::Listen,
        Syscall::Sendmmsg,
        Syscall::Sendmsg,
        Syscall::Sendto,
    ];
    !judged.contains(&syscall) && traps(&[]).iter().any(|trap| trap.syscall == syscall)
}

/// Whatever a call claims to move, and whatever it then says that it has moved.
#[test]
fn hostile_calls_are_captured_within_bounds() {
    let directory = std::env::temp_dir().join(format!("sockstrace-fuzz-{}", std::process::id()));
    let wish = Wish {
        directory: directory.clone(),
        families: None,
        paths: None,
        per_event: 10_000,
        total: 1 << 20,
        descriptors: 0,
    };
    let mut pipeline = pipeline(Options { on_leak: Some("log".into()), ..Options::default() });
    // Nothing is judged: performed sends would fill the sockets.
    pipeline.capture(Recording::start(wish).unwrap(), Vec::new());
    let mut random = Random(0xCA97_0123);
    let mut tracee = MadeUp { memory: RefCell::default(), sockets: sockets() };
    let calls: Vec<Syscall> =
        traps(&[]).into_iter().map(|trap| trap.syscall).chain([Syscall::Socketcall]).collect();
    for round in 0..60_000_u64 {
        if round % 16 == 0 {
            tracee.memory = RefCell::new(memory(&mut random));
        }
        let syscall = calls[random.below(calls.len() as u64) as usize];
        let abi = if random.below(2) == 0 { Abi::X86_64 } else { Abi::I386 };
        let mut args: [u64; 6] = std::array::from_fn(|_| random.number());
        args[0] = random.below(20);
        let call = InterceptedCall { id: round, tid: gettid(), abi, syscall, args };
        let outcome = pipeline.handle(&call, &tracee, Patience::MayBlock);
        assert!(matches!(outcome, Outcome::Reply(Reply::Continue)), "{outcome:?}");
        match random.below(8) {
            0 => pipeline.abandoned(&call),
            1 => pipeline.returned(&call, -4),
            _ => assert!(pipeline.leaving(&call, random.number() as i64, &tracee, Patience::MayBlock)),
        }
        assert!(!pipeline.awaits_result(&call));
    }
    pipeline.finish(0);
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(Result::unwrap).collect();
    let of_payloads = files.iter().filter(|file| file.path().extension().is_some_and(|kind| kind == "bin"));
    let stored: u64 = of_payloads.map(|file| file.metadata().unwrap().len()).sum();
    assert!(stored > 0 && stored <= 1 << 20, "{stored}");
    std::fs::remove_dir_all(&directory).unwrap();
}
