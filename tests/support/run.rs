//! Running a command, natively or under sockstrace, to its end and no further than a deadline.

use super::programs::programs;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{Error, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the keeper finds the report's descriptor.
const REPORT_FD: RawFd = 9;

/// The program under test; `SOCKSTRACE_BIN` overrides it.
pub fn sockstrace() -> PathBuf {
    std::env::var_os("SOCKSTRACE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_sockstrace").into()).into()
}

/// How long to wait for something: longer by `SOCKSTRACE_TEST_PATIENCE` on a slow machine.
pub fn patience(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        std::env::var("SOCKSTRACE_TEST_PATIENCE").map_or(1, |factor| factor.parse().expect("a number"))
    });
    usual * *FACTOR
}

/// A command to be run.
#[derive(Debug)]
pub struct Run {
    /// sockstrace's options; `None` runs the program natively.
    options: Option<Vec<OsString>>,
    program: Vec<OsString>,
    dir: PathBuf,
    fds: Vec<(RawFd, RawFd)>,
    user: Option<u32>,
    deadline: Duration,
    linger: Duration,
    output: Output,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    stderr: Option<OwnedFd>,
}

/// Where sockstrace's events go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    /// `-o FILE --format jsonl`, parsed into [`Outcome::events`].
    Parsed,
    /// The test gives its own options.
    Own,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// Not before the deadline.
    Deadline,
}

/// What became of a run.
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Events but the summary, in order.
    pub events: Vec<Event>,
    /// The last line.
    pub summary: Option<Event>,
    /// Lines that are not JSON.
    pub garbage: Vec<String>,
    /// Processes that were still running when the command had ended.
    pub left: Vec<String>,
    /// Processes that nobody had waited for when the command had ended.
    pub zombies: Vec<String>,
    /// What hung at the deadline.
    pub hangs: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// One line of the event stream.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    keeper: Child,
    report: File,
    report_text: String,
    started: Instant,
    deadline: Duration,
    files: PathBuf,
    /// The process id of the command (sockstrace, or the program itself when it runs natively).
    pub pid: i32,
}

impl Run {
    /// A program without sockstrace.
    pub fn native(dir: &Path) -> Self {
        Self {
            options: None,
            program: Vec::new(),
            dir: dir.into(),
            fds: Vec::new(),
            user: None,
            deadline: patience(Duration::from_secs(20)),
            linger: Duration::from_secs(3),
            output: Output::Own,
            environment: Vec::new(),
            wrapper: Vec::new(),
            stderr: None,
        }
    }

    /// A program under sockstrace with this backend.
    pub fn new(backend: &str, dir: &Path) -> Self {
        Self { output: Output::Parsed, linger: Duration::ZERO, options: Some(Vec::new()), ..Self::native(dir) }
            .arg("--backend")
            .arg(backend)
    }

    /// As [`Run::new`], or natively for `None`.
    pub fn maybe(backend: Option<&str>, dir: &Path) -> Self {
        backend.map_or_else(|| Self::native(dir), |backend| Self::new(backend, dir))
    }

    /// An option of sockstrace; ignored natively.
    pub fn arg(mut self, option: impl AsRef<OsStr>) -> Self {
        if let Some(options) = &mut self.options {
            options.push(option.as_ref().into());
        }
        self
    }

    /// Several options of sockstrace.
    pub fn args<S: AsRef<OsStr>>(self, options: impl IntoIterator<Item = S>) -> Self {
        options.into_iter().fold(self, Self::arg)
    }

    /// `--on-leak`
    pub fn on_leak(self, action: &str) -> Self {
        self.arg("--on-leak").arg(action)
    }

    /// The proxies and the allowed addresses of the stage.
    pub fn allow_stage(self) -> Self {
        self.args([
            "--proxy=socks5://203.0.113.9:9050",
            "--proxy=socks5://[2001:db8::9]:9050",
            "--allow=203.0.113.9:9053",
            "--allow=[2001:db8::9]:9053",
        ])
    }

    /// The program and its arguments.
    pub fn program<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.program = words.into_iter().map(|word| word.as_ref().into()).collect();
        self
    }

    /// The program gets a duplicate of `fd` as `number`.
    pub fn inherit(mut self, fd: &impl AsRawFd, number: RawFd) -> Self {
        self.fds.push((fd.as_raw_fd(), number));
        self
    }

    /// Runs as an ordinary user.
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Fails the run when it takes longer.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = patience(deadline);
        self
    }

    /// How long processes that are left behind may go on before they are ended.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs everything by another command, such as `setpriv` or `sh -c '… exec "$@"'`.
    pub fn wrap<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = words.into_iter().map(|word| word.as_ref().into()).collect();
        self
    }

    /// Standard error goes there instead of into [`Outcome::stderr`].
    pub fn stderr(mut self, to: OwnedFd) -> Self {
        self.stderr = Some(to);
        self
    }

    /// Leaves `-o` and `--format` to the test.
    pub fn own_output(mut self) -> Self {
        self.output = Output::Own;
        self
    }

    /// Starts it.
    pub fn start(self) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let files = PathBuf::from(format!("/tmp/sst-files-{}-{number}", std::process::id()));
        fs::create_dir(&files).unwrap();
        let mut command = Command::new(&programs().keeper);
        let (deadline, linger) = (self.deadline.as_millis().to_string(), self.linger.as_millis().to_string());
        command.arg(REPORT_FD.to_string()).args([deadline, linger]).current_dir(&self.dir);
        command.args(&self.wrapper);
        if let Some(options) = &self.options {
            command.arg(sockstrace()).args(options);
            if self.output == Output::Parsed {
                let events = File::create(files.join("events")).unwrap();
                if let Some(user) = self.user {
                    std::os::unix::fs::fchown(&events, Some(user), Some(user)).unwrap();
                    std::os::unix::fs::chown(&files, Some(user), Some(user)).unwrap();
                }
                command.args(["--format", "jsonl", "-o"]).arg(files.join("events"));
            }
            command.arg("--");
        }
        command.args(&self.program).envs(self.environment);
        if let Some(user) = self.user {
            command.env("KEEPER_UID", user.to_string());
        }
        command.stdin(Stdio::null());
        command.stdout(File::create(files.join("stdout")).unwrap());
        let stderr = File::create(files.join("stderr")).unwrap();
        command.stderr(self.stderr.map_or_else(|| Stdio::from(stderr), Stdio::from));
        let (read, write) = pipe();
        // Sources are moved out of the way of targets first.
        let mut moved = Vec::new();
        for (from, to) in self.fds.into_iter().chain([(write.as_raw_fd(), REPORT_FD)]) {
            moved.push((duplicate_high(from), to));
        }
        let fds: Vec<(RawFd, RawFd)> = moved.iter().map(|(from, to)| (from.as_raw_fd(), *to)).collect();
        // SAFETY: between fork and exec only dup2 is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                for &(from, to) in &fds {
                    if libc::dup2(from, to) < 0 {
                        return Err(Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let keeper = command.spawn().expect("the keeper starts");
        drop((write, moved));
        let mut running = Running {
            keeper,
            report: File::from(read),
            report_text: String::new(),
            started: Instant::now(),
            deadline: self.deadline,
            files,
            pid: 0,
        };
        running.read_pid();
        running
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().finish()
    }
}

impl Running {
    fn read_pid(&mut self) {
        let mut byte = [0];
        while !self.report_text.ends_with('\n') && self.report.read(&mut byte).unwrap() == 1 {
            self.report_text.push(byte[0].into());
        }
        let words = self.report_text.strip_prefix("pid ").and_then(|rest| rest.trim().parse().ok());
        self.pid = words.unwrap_or_else(|| panic!("keeper said {:?}", self.report_text));
    }

    /// What is on standard output by now.
    pub fn stdout(&self) -> String {
        read(&self.files.join("stdout"))
    }

    /// Waits until standard output holds `text`.
    ///
    /// # Panics
    /// Where it never does.
    pub fn wait_for_stdout(&self, text: &str) {
        let start = Instant::now();
        while !self.stdout().contains(text) {
            assert!(start.elapsed() < self.deadline, "no {text:?} in {:?}", self.stdout());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Outcome {
        self.report.read_to_string(&mut self.report_text).unwrap();
        self.keeper.wait().unwrap();
        let elapsed = self.started.elapsed();
        let lines = |word: &str| -> Vec<String> {
            let with_word = self.report_text.lines().filter_map(|line| line.strip_prefix(word));
            with_word.map(str::to_owned).collect()
        };
        let number = |word: &str| lines(word).first().and_then(|line| line.parse().ok());
        let status = match (number("exited "), number("signaled ")) {
            (Some(status), _) => Status::Exited(status),
            (None, Some(signal)) => Status::Signaled(signal),
            (None, None) => Status::Deadline,
        };
        let (zombies, left) = lines("left ").into_iter().partition(|line| line.split(' ').nth(1) == Some("Z"));
        let (mut events, mut garbage) = (Vec::new(), Vec::new());
        for line in read(&self.files.join("events")).lines() {
            match serde_json::from_str(line) {
                Ok(value) => events.push(Event(value)),
                Err(_) => garbage.push(line.to_owned()),
            }
        }
        let last_is_summary = events.last().is_some_and(|event| event.text("kind") == "summary");
        let summary = if last_is_summary { events.pop() } else { None };
        let outcome = Outcome {
            status,
            stdout: read(&self.files.join("stdout")),
            stderr: read(&self.files.join("stderr")),
            events,
            summary,
            garbage,
            left,
            zombies,
            hangs: lines("hangs "),
            elapsed,
        };
        let _ = fs::remove_dir_all(&self.files);
        outcome
    }
}

impl Outcome {
    /// The exit status, if there is one.
    pub fn code(&self) -> Option<i32> {
        match self.status {
            Status::Exited(code) => Some(code),
            Status::Signaled(_) | Status::Deadline => None,
        }
    }

    /// Events with verdict `leak`.
    pub fn leaks(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.text("verdict") == "leak")
    }

    /// What is wrong with any run, whatever it was to show; empty when all is well.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.status == Status::Deadline {
            complaints.push(format!("did not end in time; hanging: {:?}", self.hangs));
        }
        if !self.left.is_empty() {
            complaints.push(format!("still running behind it: {:?}", self.left));
        }
        if !self.zombies.is_empty() {
            complaints.push(format!("zombies behind it: {:?}", self.zombies));
        }
        if !self.garbage.is_empty() {
            complaints.push(format!("not JSON: {:?}", self.garbage));
        }
        if self.stderr.contains("panicked at") {
            complaints.push("panicked".into());
        }
        complaints
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| {
            let start: String = text.chars().take(600).collect();
            if start.len() < text.len() { start + "…" } else { start }
        };
        write!(f, "{:?} after {:?}\n  stdout: {}", self.status, self.elapsed, cut(&self.stdout))?;
        write!(f, "\n  stderr: {}\n  {} events", cut(&self.stderr), self.events.len())?;
        for event in self.events.iter().take(4).chain(&self.summary) {
            write!(f, "\n    {}", event.0)?;
        }
        Ok(())
    }
}

impl Event {
    /// A string member, or "" where it is absent or null.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number member.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.0.get(key).and_then(Value::as_i64)
    }

    /// Whether the member is absent or null.
    pub fn lacks(&self, key: &str) -> bool {
        self.0.get(key).is_none_or(Value::is_null)
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A duplicate of a descriptor, out of the way of those that children get.
pub fn duplicate_high(fd: RawFd) -> OwnedFd {
    // SAFETY: no memory is involved, and the descriptor that comes back is new.
    unsafe {
        let high = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 200);
        assert!(high >= 0, "{}", Error::last_os_error());
        OwnedFd::from_raw_fd(high)
    }
}

/// A pipe: its reading and its writing end.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors, which are ours.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0, "{}", Error::last_os_error());
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}
