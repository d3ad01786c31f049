//! `--pid`: what runs already.

use super::alone;
use super::support::programs::programs;
use super::support::run::{patience, sockstrace};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A python that does what it is told, line by line, and says when it has.
struct Interpreter {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Interpreter {
    fn start() -> Self {
        let program = "import os, socket, sys\nfor line in sys.stdin:\n exec(line)\n print('done', flush=True)";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, commands, answers }
    }

    fn run(&mut self, line: &str) {
        writeln!(self.commands, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{line}");
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn attach(pid: u32, options: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    // Whoever runs the tests in the background may ignore it.
    attach_where(SigHandler::SigDfl, pid, options)
}

/// With SIGINT ignored at its start, or not.
fn attach_where(sigint: SigHandler, pid: u32, options: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = Command::new(sockstrace());
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe { command.pre_exec(move || signal(Signal::SIGINT, sigint).map(drop).map_err(Into::into)) };
    command.arg(format!("--pid={pid}")).args(options).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let told = BufReader::new(child.stderr.take().unwrap());
    (child, told)
}

fn lines_until(told: &mut impl BufRead, mark: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(told.read_line(&mut line).unwrap() > 0, "{mark} never came: {lines:?}");
        lines.push(line.trim_end().to_owned());
        if line.contains(mark) {
            return lines;
        }
    }
}

fn send(child: &Child, signal: i32) {
    // SAFETY: takes integers; the child was not reaped yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn interrupt(child: &mut Child) -> i32 {
    send(child, libc::SIGINT);
    child.wait().unwrap().code().unwrap()
}

#[test]
fn what_is_there_is_told_then_what_comes_and_nothing_is_harmed() {
    let Some(_alone) = alone() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let mut python = Interpreter::start();
    python.run(&format!("before = socket.create_connection(('127.0.0.1', {}))", server.port()));
    python.run("waiting = socket.create_server(('127.0.0.1', 0))");
    let before = listener.accept().unwrap().1;
    let (mut child, mut told) = attach(python.child.id(), &["--format=human"]);
    let start = lines_until(&mut told, &server.to_string());
    assert!(start.iter().any(|line| line.contains("watching process")), "{start:?}");
    // By a child, too.
    let connect = format!("socket.create_connection(('127.0.0.1', {}))", server.port());
    python.run(&format!("after = {connect}"));
    python.run(&format!("child = os.fork(); child or ({connect}, os._exit(0)); os.waitpid(child, 0)"));
    let mut more = lines_until(&mut told, "LEAK connect");
    more.extend(lines_until(&mut told, "LEAK connect"));
    assert!(more.iter().filter(|line| line.contains(&server.to_string())).count() >= 2, "{more:?}");
    assert_eq!(interrupt(&mut child), 23);
    // It lives on, and its connections with it.
    python.run("before.sendall(b'x'); after.sendall(b'y')");
    let _ = before;
}

/// Started by nohup(1), or in the background of a script.
#[test]
fn an_ignored_signal_does_not_end_it() {
    let Some(_alone) = alone() else { return };
    let mut python = Interpreter::start();
    let (mut child, mut told) = attach_where(SigHandler::SigIgn, python.child.id(), &["--format=human"]);
    lines_until(&mut told, "watching process");
    send(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    python.run(&format!("socket.socket().connect_ex(('127.0.0.1', {}))", closed.port()));
    lines_until(&mut told, &closed.to_string());
    send(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(23));
}

#[test]
fn it_ends_with_the_process() {
    let Some(_alone) = alone() else { return };
    let mut python = Interpreter::start();
    python.run("pass");
    let path = format!("/tmp/sst-attach-{}", std::process::id());
    let output = format!("--output={path}");
    let (mut child, mut told) =
        attach(python.child.id(), &["--format=jsonl", "--trace=all", "--allow-loopback", &output]);
    lines_until(&mut told, "watching process");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = format!("socket.socket().connect_ex(('127.0.0.1', {}))", closed.port());
    python.run(&line);
    drop(python);
    assert_eq!(status_of(&mut child), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let connect = events.iter().find(|event| event["syscall"] == "connect").expect("a connect");
    assert_eq!((&connect["address"], &connect["errno"]), (&closed.to_string().into(), &"ECONNREFUSED".into()));
    assert!(events.iter().any(|event| event["kind"] == "process" && event["event"] == "exit"), "{text}");
    assert_eq!(events.last().unwrap()["kind"], "summary");
}

/// The exit status of who is to end by itself.
fn status_of(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < patience(Duration::from_secs(10)) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("it goes on though the process has ended")
}

/// Also if it has while the programs were being loaded.
#[test]
fn it_ends_with_a_process_that_has_ended() {
    let Some(_alone) = alone() else { return };
    for after in [0, 20, 50, 100, 150, 200, 300] {
        let mut process = Command::new("sleep").arg((f64::from(after) / 1000.0).to_string()).spawn().unwrap();
        let (mut child, mut told) = attach(process.id(), &["--backend=ebpf"]);
        std::thread::scope(|scope| {
            // Nobody waits for it before sockstrace has ended in one half of the cases.
            let waited = (after % 100 == 0).then(|| scope.spawn(|| process.wait()));
            let status = status_of(&mut child);
            let mut text = String::new();
            told.read_to_string(&mut text).unwrap();
            assert!(status == Some(0) || (status == Some(125) && text.contains("process")), "{status:?} {text}");
            drop(waited);
        });
        process.wait().unwrap();
    }
}

/// Who ends without being waited for is no process to attach to.
#[test]
fn the_dead_are_not_attached_to() {
    let Some(_alone) = alone() else { return };
    let mut process = Command::new("true").spawn().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    while !state().contains(") Z ") {}
    let (mut child, mut told) = attach(process.id(), &["--backend=ebpf"]);
    let status = status_of(&mut child);
    let mut text = String::new();
    told.read_to_string(&mut text).unwrap();
    assert!(status == Some(125) && text.contains("hasn't waited for it yet"), "{status:?} {text}");
    process.wait().unwrap();
}

/// sockstrace itself may be a child of who is watched: it doesn't wait for itself.
#[test]
fn it_ends_with_its_parent() {
    let Some(_alone) = alone() else { return };
    let path = format!("/tmp/sst-parent-{}", std::process::id());
    let script = format!(
        "{} --backend=ebpf --pid $$ > /dev/null 2> {path} & echo $!; \
         for i in $(seq 400); do ! grep -q watching {path} || break; sleep 0.05; done",
        sockstrace().display()
    );
    let output = Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).output().unwrap();
    let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let start = Instant::now();
    let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|it| !it.contains(") Z "));
    while runs() {
        if start.elapsed() > patience(Duration::from_secs(10)) {
            // SAFETY: takes integers.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
            panic!("it goes on though the process has ended");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(&path).unwrap();
}

/// Where there is nobody to attach to, and what can't be done to whom one attaches to.
#[test]
fn refusals() {
    let Some(_alone) = alone() else { return };
    let own = std::process::id().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--pid=2147483647"], "there is no process"),
        (&["--pid=nobody"], "a process id"),
        (&["--pid", &own, "--backend=ebpf", "--on-leak=block"], "accepted: log"),
        (&["--pid", &own, "--backend=seccomp"], "accepted: auto, ebpf"),
        (&["--pid", &own, "--backend=ebpf", "--stack=always"], "accepted: never"),
    ];
    for (options, why) in cases {
        let output = Command::new(sockstrace()).args(options).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && told.contains(why), "{options:?}: {told}");
    }
}

/// A ring is named: what was registered with it can't be listed.
#[test]
fn rings_are_named() {
    let Some(_alone) = alone() else { return };
    let mut guest = Command::new(&programs().vectors).arg("probe-uring").spawn().unwrap();
    let has_rings = guest.wait().unwrap().success();
    if !has_rings {
        return println!("skipped: no io_uring here");
    }
    let mut python = Interpreter::start();
    // io_uring_setup(8, zeroed parameters): number 425 on all architectures.
    python.run("import ctypes; ring = ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120))");
    let (mut child, mut told) = attach(python.child.id(), &["--format=human"]);
    let lines = lines_until(&mut told, "watching process");
    assert!(lines.iter().any(|line| line.contains("has an io_uring")), "{lines:?}");
    assert_eq!(interrupt(&mut child), 0);
}
