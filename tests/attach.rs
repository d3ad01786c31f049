//! `--pid` with the ptrace backend: what runs already is judged from then on, and unharmed when it is let go.
//!
//! The guest checks itself (`tests/programs/attached.c`); whoever listens here knows which of its connections came.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::programs::programs;
use support::run::sockstrace;

/// Who is told of connections: by thread, the numbers of those that came, in order.
#[derive(Clone)]
struct Listener {
    port: u16,
    came: Arc<Mutex<HashMap<u8, Vec<u16>>>>,
}

impl Listener {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let came = Arc::<Mutex<HashMap<u8, Vec<u16>>>>::default();
        let this = Self { port: listener.local_addr().unwrap().port(), came: Arc::clone(&came) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (thread, number) = connection(stream.local_addr().unwrap());
                came.lock().unwrap().entry(thread).or_default().push(number);
                // The guest's connections are short.
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_ok() {
                    let _ = stream.write_all(&byte);
                }
            }
        });
        this
    }

    fn came(&self) -> HashMap<u8, Vec<u16>> {
        self.came.lock().unwrap().clone()
    }
}

/// 127.(T+1).(N/256).(N%256)
fn connection(address: SocketAddr) -> (u8, u16) {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let [_, thread, high, low] = address.ip().octets();
    (thread, u16::from_be_bytes([high, low]))
}

/// The guest, or another program that says when it is ready and ends with its standard input.
struct Guest {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Guest {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, told }
    }

    fn checking(program: &Path, what: &str, listener: &Listener) -> Self {
        Self::start(Command::new(program).args([what, &listener.port.to_string()]))
    }

    fn python(program: &str) -> Self {
        Self::start(Command::new("/usr/bin/python3").args(["-c", program]))
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Says a line to it.
    fn tell(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.told.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Ends it; what it says of itself.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "the guest hangs: {}", states(self.pid()));
            sleep(Duration::from_millis(5));
        }
        let mut told = String::new();
        self.told.read_to_string(&mut told).unwrap();
        told
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The states of a process's threads.
fn states(pid: i32) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    let state = |path: PathBuf| {
        let text = fs::read_to_string(path.join("status")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("State:")).and_then(|state| state.trim().chars().next())
    };
    tasks.flatten().filter_map(|entry| state(entry.path())).collect()
}

fn await_that(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(2));
    }
}

/// A sockstrace that is attached.
struct Attached {
    child: Child,
    events: PathBuf,
}

impl Attached {
    /// Returns when it is.
    fn to(pid: i32, options: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let events = std::env::temp_dir().join(format!("sockstrace-attach-{}-{number}", std::process::id()));
        let mut command = Command::new(sockstrace());
        command.args(["--backend=ptrace", "--format=jsonl", "--pid", &pid.to_string(), "-o"]).arg(&events);
        command.args(options).stdin(Stdio::null()).stderr(Stdio::piped());
        // Whoever runs the tests in the background may ignore it, which would be respected.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe { command.pre_exec(|| signal(Signal::SIGINT, SigHandler::SigDfl).map(drop).map_err(Into::into)) };
        let mut child = command.spawn().unwrap();
        let mut told = String::new();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let own = child.id() as i32;
        std::thread::spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // SAFETY: takes integers; whoever waits for what it says hasn't reaped it.
                unsafe { libc::kill(own, libc::SIGKILL) };
            }
        });
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        while !told.contains("attached to process") {
            assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
        }
        drop(done);
        Self { child, events }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: takes integers; the child was not reaped yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for its end; the exit status, and the events.
    fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "sockstrace hangs");
            sleep(Duration::from_millis(2));
        };
        let text = fs::read_to_string(&self.events).unwrap();
        (status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn interrupt(self) -> (Option<i32>, Vec<Value>) {
        self.signal(libc::SIGINT);
        self.end()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.events);
    }
}

fn connects(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|event| event["syscall"] == "connect")
}

/// The connections of the guest that events are about, by thread.
fn told_of(events: &[Value]) -> HashMap<u8, Vec<u16>> {
    let mut told: HashMap<u8, Vec<u16>> = HashMap::new();
    for event in connects(events) {
        let (thread, number) = connection(event["address"].as_str().unwrap().parse().unwrap());
        told.entry(thread).or_default().push(number);
    }
    told
}

fn guests() -> Vec<&'static Path> {
    let programs = programs();
    [Some(&programs.attached), programs.attached32.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect()
}

#[test]
fn natively_the_guest_finds_nothing() {
    for program in guests() {
        let guest = Guest::checking(program, "checks", &Listener::start());
        sleep(Duration::from_millis(500));
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{told}");
    }
}

/// Every connection from the first that is told of to the last is told of, once, and came.
#[test]
fn no_connection_is_missed() {
    for program in guests() {
        let listener = Listener::start();
        let guest = Guest::checking(program, "checks", &listener);
        sleep(Duration::from_millis(100));
        let attached = Attached::to(guest.pid(), &[]);
        let before = listener.came();
        sleep(Duration::from_millis(500));
        let after = listener.came();
        let (status, events) = attached.interrupt();
        assert_eq!(status, Some(23));
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{told}");
        let seen = told_of(&events);
        assert_eq!(seen.len(), 2, "{seen:?}");
        let came = listener.came();
        for (thread, numbers) in &seen {
            let (first, last) = (numbers[0], *numbers.last().unwrap());
            // One whose call was in progress when we came is made anew, and told of.
            assert!(numbers.iter().copied().eq(first..=last), "{thread}: {numbers:?}");
            assert!(numbers.iter().all(|number| came[thread].contains(number)));
            let newest = |came: &HashMap<u8, Vec<u16>>| came.get(thread).and_then(|of| of.last().copied());
            assert!(Some(first) <= newest(&before).map(|number| number + 2), "{first}, {before:?}");
            assert!(Some(last) >= newest(&after), "{last}, {after:?}");
        }
        let results = connects(&events).filter(|event| event["return"] == 0).count();
        // The last of each thread may have been let go with us.
        assert!(results + 2 >= connects(&events).count(), "{results}");
        assert_eq!(events.last().unwrap()["kind"], "summary");
    }
}

/// What is refused doesn't come; before and after it does.
#[test]
fn leaks_are_refused_while_attached() {
    for program in guests() {
        let listener = Listener::start();
        let guest = Guest::checking(program, "connects", &listener);
        await_that("it connects", || listener.came().len() == 2);
        let attached = Attached::to(guest.pid(), &["--on-leak=block"]);
        sleep(Duration::from_millis(300));
        let (status, events) = attached.interrupt();
        assert_eq!(status, Some(23));
        let refused = told_of(&events);
        assert!(refused.len() == 2 && connects(&events).all(|event| event["errno"] == "EPERM"), "{events:?}");
        let last = |numbers: &[u16]| numbers.last().copied();
        await_that("it goes on", || {
            let came = listener.came();
            refused.iter().all(|(thread, numbers)| last(&came[thread]) > last(numbers))
        });
        let came = listener.came();
        for (thread, numbers) in &refused {
            // The first one's handshake may have been under way when we came.
            let through = numbers.iter().skip(1).find(|number| came[thread].contains(number));
            assert_eq!(through, None, "{thread}: {numbers:?}");
        }
        let told = guest.end();
        assert!(told.starts_with("ok: ") && !told.contains(" 0 refused"), "{told}");
    }
}

/// No child is made that isn't traced, whatever another thread does to the flags in memory.
#[test]
fn nobody_is_born_out_of_sight() {
    for program in guests() {
        let listener = Listener::start();
        let guest = Guest::checking(program, "escapes", &listener);
        let count = || listener.came().values().map(Vec::len).sum::<usize>();
        await_that("it connects", || count() > 2);
        let attached = Attached::to(guest.pid(), &["--on-leak=block"]);
        await_that("what had begun before has come", || {
            let before = count();
            sleep(Duration::from_millis(100));
            count() == before
        });
        let before = count();
        sleep(Duration::from_millis(700));
        let after = count();
        let (_, events) = attached.interrupt();
        assert!(connects(&events).count() > 0, "{events:?}");
        assert_eq!(after, before);
        await_that("it goes on", || count() > after);
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{told}");
    }
}

/// What is allowed is performed in its place, and it is let go in the midst of that.
#[test]
fn it_is_let_go_under_load() {
    const TIMES: u64 = 50;
    for (program, options) in guests().into_iter().flat_map(|guest| {
        [["--on-leak=log", "--trace=all"], ["--on-leak=block", "--allow-loopback"]].map(|options| (guest, options))
    }) {
        let listener = Listener::start();
        let guest = Guest::checking(program, "checks", &listener);
        for round in 0..TIMES / 2 {
            let attached = Attached::to(guest.pid(), &options);
            sleep(Duration::from_millis(round * 7 % 40));
            if round % 2 == 0 {
                attached.signal(libc::SIGTERM);
            } else {
                attached.signal(libc::SIGINT);
            }
            let (status, _) = attached.end();
            assert!(matches!(status, Some(0 | 23)), "{status:?}");
        }
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{program:?} {options:?}: {told}");
    }
}

/// Should sockstrace be killed (as when it is dropped here), who was attached to goes on.
#[test]
fn it_outlives_us() {
    for mode in ["log", "block"] {
        let listener = Listener::start();
        let guest = Guest::checking(&programs().attached, "connects", &listener);
        for _ in 0..10 {
            let attached = Attached::to(guest.pid(), &["--on-leak", mode]);
            sleep(Duration::from_millis(20));
            drop(attached);
        }
        let before = listener.came()[&1].len();
        await_that("it connects again", || listener.came()[&1].len() > before + 10);
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{told}");
    }
}

/// While one thread executes a program, all others of its process end, and it gets the first one's id.
#[test]
fn programs_are_executed_meanwhile() {
    for program in guests() {
        let guest = Guest::checking(program, "executes", &Listener::start());
        let (mut rounds, mut executed) = (0, 0);
        // None is told of where an exec takes longer than we stay.
        while rounds < 60 || executed <= 30 {
            rounds += 1;
            assert!(rounds <= 600, "{executed}");
            let attached = Attached::to(guest.pid(), &["--trace=all"]);
            sleep(Duration::from_millis(15));
            let (status, events) = attached.interrupt();
            assert_eq!(status, Some(0), "{events:?}");
            executed += events.iter().filter(|event| event["event"] == "exec").count();
        }
        let told = guest.end();
        assert!(told.starts_with("ok: "), "{told}");
    }
}

/// A program that obeys, line by line.
const OBEDIENT: &str = "import os, socket, sys, time
print('ready', flush=True)
for line in sys.stdin:
    try:
        exec(line)
        print('done', flush=True)
    except OSError as error:
        print(error.errno, flush=True)";

#[test]
fn a_stopped_process_stays_stopped() {
    let mut guest = Guest::python(OBEDIENT);
    let pid = guest.pid();
    // Where these tests are a session by themselves their process group is orphaned: SIGTSTP stops nobody there
    // (signal(7), setpgid(2)).
    assert_eq!(guest.tell("import os; os.setpgid(0, 0)"), "done");
    let signal = |signal| {
        // SAFETY: takes integers; the guest was not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    };
    // The parent's view: what is told of stops and goings-on.
    let changes = || {
        let mut status = 0;
        // SAFETY: writes an int of our own.
        let changed =
            unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED | libc::WCONTINUED | libc::WNOHANG) };
        (changed == pid).then_some(status)
    };
    signal(libc::SIGSTOP);
    await_that("it stops", || changes().is_some_and(|status| libc::WIFSTOPPED(status)));
    let attached = Attached::to(pid, &["--trace=all"]);
    sleep(Duration::from_millis(50));
    assert_eq!(states(pid), "t");
    attached.interrupt();
    await_that("it is in its stop", || states(pid) == "T");
    sleep(Duration::from_millis(50));
    assert_eq!((states(pid), changes()), ("T".into(), None));
    signal(libc::SIGCONT);
    assert_eq!(guest.tell("pass"), "done");
    assert!(changes().is_some_and(|status| libc::WIFCONTINUED(status)));

    // Stopped, continued and stopped while we are there.
    let attached = Attached::to(pid, &["--trace=all"]);
    for _ in 0..3 {
        signal(libc::SIGSTOP);
        await_that("its parent hears of the stop", || changes().is_some_and(|status| libc::WIFSTOPPED(status)));
        signal(libc::SIGCONT);
        await_that("its parent hears of its going on", || {
            changes().is_some_and(|status| libc::WIFCONTINUED(status))
        });
        assert_eq!(guest.tell("pass"), "done");
    }
    signal(libc::SIGTSTP);
    await_that("its parent hears of the stop", || changes().is_some_and(|status| libc::WIFSTOPPED(status)));
    attached.interrupt();
    await_that("it is in its stop", || states(pid) == "T");
    signal(libc::SIGCONT);
    assert_eq!(guest.tell("pass"), "done");
}

/// What is there is told first: sockets of the process and of its children; rings are named.
#[test]
fn what_is_there_is_told_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let connect = format!("socket.create_connection(('127.0.0.1', {}))", server.port());
    let mut guest = Guest::python(OBEDIENT);
    assert_eq!(
        guest.tell(&format!("before = {connect}; waiting = socket.create_server(('127.0.0.1', 0))")),
        "done"
    );
    // A child that is there already, with a descriptor of its own.
    let child = format!(
        "r, w = os.pipe(); child = os.fork(); child or (({connect}), os.read(r, 1), {connect}, os._exit(0))"
    );
    assert_eq!(guest.tell(&child), "done");
    let mut accepted = vec![listener.accept().unwrap().0, listener.accept().unwrap().0];
    let attached = Attached::to(guest.pid(), &["--trace=all"]);
    assert_eq!(guest.tell(&format!("after = {connect}")), "done");
    assert_eq!(guest.tell("os.write(w, b'x'); os.waitpid(child, 0)"), "done");
    assert_eq!(
        guest.tell(&format!("again = os.fork(); again or ({connect}, os._exit(0)); os.waitpid(again, 0)")),
        "done"
    );
    accepted.extend((0..3).map(|_| listener.accept().unwrap().0));
    let (status, events) = attached.interrupt();
    assert_eq!(status, Some(23));
    let first = events.iter().position(|event| event["syscall"] != "attach").unwrap();
    let (there, then) = events.split_at(first);
    assert!(then.iter().all(|event| event["syscall"] != "attach"), "{then:?}");
    let to_server = |events: &[Value], pid: Option<i32>| {
        let is_it =
            |event: &&Value| event["address"] == server.to_string() && pid.is_none_or(|pid| event["pid"] == pid);
        events.iter().filter(is_it).count()
    };
    // `before`, inherited by the child too. (What the child's first went to was closed at once.)
    assert_eq!((to_server(there, Some(guest.pid())), to_server(there, None) >= 2), (1, true), "{there:?}");
    assert!(there.iter().all(|event| event["pid"] != guest.pid() || event["action"] == "continue"));
    assert_eq!((to_server(then, Some(guest.pid())), to_server(then, None)), (1, 3), "{then:?}");
    // Nothing was closed or shut down.
    assert_eq!(guest.tell("before.sendall(b'y'); after.sendall(b'z')"), "done");
    let mut byte = [0];
    accepted[0].read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"y");
}

#[test]
fn it_ends_with_the_last_process() {
    let mut guest = Guest::python(OBEDIENT);
    let attached = Attached::to(guest.pid(), &["--trace=all"]);
    // An orphan of it goes on for a moment.
    let orphan = "os.fork() or (time.sleep(0.5), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\
                  .connect(('127.0.0.1', 9)), os._exit(0))";
    assert_eq!(guest.tell(orphan), "done");
    guest.end();
    let (status, events) = attached.end();
    assert_eq!(status, Some(23), "{events:?}");
    assert!(connects(&events).any(|event| event["address"] == "127.0.0.1:9"), "{events:?}");
    assert_eq!(events.iter().filter(|event| event["event"] == "exit").count(), 2, "{events:?}");
}

#[test]
fn killing() {
    let leak = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))";
    for (mode, survivors) in [("kill", 1), ("kill-tree", 0), ("core", 1)] {
        let mut guest = Guest::python(OBEDIENT);
        // A child, whose parent has ended: no descendant of anybody's that is known.
        let orphan = "r, w = os.pipe(); middle = os.fork() or (os.fork() or (os.close(w), os.read(r, 1), os._exit(0)), os._exit(0)); \
                      os.waitpid(middle, 0)";
        let attached = Attached::to(guest.pid(), &["--on-leak", mode]);
        assert_eq!(guest.tell(orphan), "done");
        writeln!(guest.child.stdin.as_mut().unwrap(), "{leak}").unwrap();
        let ended = guest.child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&ended);
        assert_eq!(signal, Some(if mode == "core" { libc::SIGABRT } else { libc::SIGKILL }), "{mode}");
        if survivors > 0 {
            // Its end of the pipe is the last: nobody writes to it any more.
            sleep(Duration::from_millis(100));
        }
        let (status, events) = attached.end();
        assert_eq!(status, Some(23));
        let leaks: Vec<_> = connects(&events).collect();
        assert!(leaks.len() == 1 && leaks[0]["action"] == mode, "{events:?}");
    }
}

/// A tracer that is there already, and others that can't be attached to.
#[test]
fn refusals() {
    let told = |options: &[&str]| {
        let output = Command::new(sockstrace()).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let mut guest = Guest::python(OBEDIENT);
    let pid = guest.pid().to_string();
    let own = std::process::id().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["--backend=ptrace", "--pid=2147483647"], "there is no process"),
        (&["--backend=ptrace", "--pid", &own], "an ancestor of this sockstrace"),
        (&["--backend=seccomp", "--pid", &pid], "accepted: auto, ebpf, with --pid ptrace"),
        (&["--backend=ptrace", "--all"], "accepted: auto, ebpf"),
        (&["--on-leak=redirect", "--pid", &pid], "accepted: log, block"),
        (&["--backend=ptrace", "--filter=port=80", "--pid", &pid], "--backend ebpf"),
        (&["--on-leak=block", "--socks-auth=tor", "--pid", &pid], "no meaning"),
        (&["--backend=ptrace", "--capture=/tmp", "--pid", &pid], "only the ebpf backend"),
        (&["--backend=ptrace", "--pid", &pid, "true"], "one or the other"),
    ];
    for (options, why) in cases {
        let told = told(options);
        assert!(told.contains(why), "{options:?}: {told}");
    }
    let attached = Attached::to(guest.pid(), &[]);
    let second = told(&["--backend=ptrace", "--pid", &pid]);
    assert!(second.contains("traced by tracer (process ") && second.contains("already"), "{second}");
    assert_eq!(guest.tell("pass"), "done");
    attached.interrupt();
    assert_eq!(guest.tell("pass"), "done");
    // Another user's; ourselves as an ordinary user.
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(sockstrace())
        .args(["--backend=ptrace", "--pid", &pid])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && told.contains("run sockstrace as root"), "{told}");
    assert_eq!(guest.tell("pass"), "done");
}
