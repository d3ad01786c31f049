//! `--tui` on a real terminal: what it shows beside what happened, what the keys do, and that the terminal is as it
//! was afterwards, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::run::sockstrace;
use support::stage::Stage;
use support::terminal::Terminal;
use support::{BACKENDS, FOREIGN4, PORT};

/// A shell on a terminal, and what the terminal shows.
struct Shell {
    terminal: Terminal,
    screen: vt100::Parser,
    taken: usize,
    dir: PathBuf,
}

fn size(size: u16) -> NonZero<u16> {
    NonZero::new(size).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Shell {
    fn new(dir: &Path) -> Self {
        let mut terminal = Terminal::new(dir);
        terminal.resize(40, 160);
        terminal.type_line("export TERM=xterm-256color; unset NO_COLOR");
        Self { terminal, screen: vt100::Parser::new(size(40), size(160), 0), taken: 0, dir: dir.into() }
    }

    /// Runs sockstrace with these words; its exit status is shown as `[status N]`.
    fn run(&mut self, words: &str) {
        let own = sockstrace();
        self.keys(&format!("{} --tui {words}; echo \"[stat\"us $?]\n", own.display()));
    }

    fn keys(&mut self, keys: &str) {
        self.terminal.type_raw(keys);
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.text();
        self.screen.screen_mut().set_size(size(rows), size(columns));
        self.terminal.resize(rows, columns);
    }

    fn text(&mut self) -> String {
        let bytes = self.terminal.bytes();
        self.screen.process(&bytes[self.taken..]);
        self.taken = bytes.len();
        self.screen.screen().contents()
    }

    /// Waits until the screen is as it should be.
    fn until(&mut self, what: &str, good: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let text = self.text();
            if good(&text) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "no {what} on the screen:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn shows(&mut self, what: &str) -> String {
        self.until(what, |text| text.contains(what))
    }

    /// A file that the guest makes.
    fn file(&self, name: &str) -> String {
        let (path, start) = (self.dir.join(name), Instant::now());
        while !path.exists() {
            assert!(start.elapsed() < PATIENCE, "no {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::read_to_string(path).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.join(name), content).unwrap();
    }

    /// The terminal is the shell's again, as it was.
    fn is_restored(&mut self) {
        self.text();
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "{}", screen.contents());
        self.keys("stty -a | tr ';' ' ' > modes\n");
        let start = Instant::now();
        loop {
            let modes = self.file("modes");
            if modes.contains("iexten") {
                for mode in ["isig", "icanon", "opost", "iexten"] {
                    assert!(modes.split_whitespace().any(|word| word == mode), "{mode}: {modes}");
                }
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{modes:?}");
        }
    }
}

/// Leaks to the witness, then waits for the file `go`.
const GUEST: &str = "\
import os, signal, socket, sys, time
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(60)
def dial():
    return socket.socket().connect_ex(('203.0.113.5', 7777))
print('terminals', [os.isatty(fd) for fd in range(3)], flush=True)
print('errno', dial(), 'input', repr(sys.stdin.read()), flush=True)
open('pid.new', 'w').write(str(os.getpid()))
os.rename('pid.new', 'pid')
while not os.path.exists('go'):
    time.sleep(0.02)
print('\\x1b[2J\\x1b[Hlast words', flush=True)
";

fn stage() -> (Stage, Shell) {
    let stage = Stage::new();
    let shell = Shell::new(&stage.dir);
    shell.write("guest.py", GUEST);
    (stage, shell)
}

const PYTHON: &str = "/usr/bin/python3";

#[test]
fn a_leak_is_shown_and_stopped() {
    for backend in BACKENDS {
        let (stage, mut shell) = stage();
        shell.run(&format!("--backend {backend} --format jsonl -o events -- {PYTHON} guest.py"));
        let destination = format!("TCP {FOREIGN4}:{PORT}");
        let text = shell.until("the leak", |text| text.contains(&destination) && text.contains("1 leak,"));
        for part in ["outbound", "blocked EPERM", "python3[", "Stack", "Output", backend, "running"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        // Its own terminal, without input; and where in the program it was.
        shell.shows("terminals [False, True, True]");
        shell.shows("errno 1 input ''");
        shell.shows("> dial at ");
        shell.keys("\r");
        let text = shell.shows("Details");
        for part in ["reason        no proxy or rule covers it", "guest.py:5", "errno         EPERM"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        shell.keys("\x1b");
        shell.until("the panes", |text| !text.contains("Details") && text.contains("Leaks 1"));
        shell.keys("/nobody\r");
        shell.shows("Leaks 0 of 1");
        shell.keys("\x1b");
        shell.until("the leak again", |text| text.contains("Leaks 1 ") && !text.contains("filter:"));
        shell.keys("?");
        shell.shows("Shift-Tab");
        shell.keys("q");
        shell.write("go", "");
        shell.shows("ended, exit status 23");
        let text = shell.shows("last words");
        assert!(text.contains("ended with 0") && text.contains("Leaks 1"), "{text}");
        shell.keys("q");
        shell.shows("[status 23]");
        let text = shell.shows("sockstrace: 1 leak in ");
        assert!(!text.contains("last words"), "{text}");
        shell.is_restored();
        // What happened, and what was written.
        let foreign = stage.truth().foreign();
        assert!(foreign.is_empty(), "{foreign:?}");
        let events = shell.file("events");
        let kinds: Vec<serde_json::Value> =
            events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(kinds.len(), 2, "the leak and the summary: {events}");
        assert_eq!((&kinds[0]["verdict"], &kinds[0]["errno"]), (&"leak".into(), &"EPERM".into()));
        assert_eq!(kinds[1]["leaks"], 1);
    }
}

#[test]
fn what_is_let_go_arrives_and_what_is_redirected_stays_so() {
    let (stage, mut shell) = stage();
    shell.write("go", "");
    shell.run(&format!("--on-leak log -- {PYTHON} guest.py > out 2> err"));
    shell.shows("ended, exit status 23");
    let text = shell.shows("let go");
    assert!(!text.contains("last words") && !text.contains("Output 1"), "{text}");
    shell.keys("q");
    shell.shows("[status 23]");
    assert!(!stage.truth().foreign().is_empty());
    assert!(shell.file("out").contains("terminals [False, False, False]\nerrno 0 input ''\n"));
    // Events go there, as ever.
    let err = shell.file("err");
    assert!(err.contains("LEAK connect TCP 203.0.113.5:7777") && err.contains("sockstrace: 1 leak in "), "{err}");
    assert!(!shell.text().contains("1 leak in"));
}

#[test]
fn keys_end_the_program() {
    let (_stage, mut shell) = stage();
    shell.write(
        "int.py",
        "import os, signal, time\n\
         def end(*_): open('int', 'w').write('x'); os._exit(5)\n\
         signal.signal(signal.SIGINT, end)\nsignal.alarm(60)\nopen('ready', 'w')\n\
         while True: time.sleep(1)\n",
    );
    shell.run(&format!("-o events -- {PYTHON} int.py"));
    shell.file("ready");
    shell.shows("running");
    shell.keys("\x03");
    shell.shows("ended, exit status 5");
    shell.file("int");
    shell.keys("\x03");
    shell.shows("[status 5]");
    // As a question, and then in earnest.
    shell.run(&format!("-o events -- {PYTHON} guest.py"));
    shell.file("pid");
    shell.shows("Leaks 1");
    shell.keys("q");
    shell.shows("q: end it");
    shell.keys("n");
    shell.until("the panes", |text| !text.contains("q: end it"));
    shell.keys("qq");
    shell.shows("ended, exit status 143");
    shell.keys("q");
    shell.shows("[status 143]");
    shell.run("-o events -- /bin/bash -c \"trap '' TERM; while :; do read -t 1 x < <(:); sleep 0.1; done\"");
    shell.shows("/usr/bin/bash");
    std::thread::sleep(Duration::from_millis(300));
    shell.keys("qq");
    shell.shows("asked to end");
    shell.keys("q");
    shell.shows("ended, exit status 137");
    shell.keys("q");
    shell.shows("[status 137]");
    shell.is_restored();
}

#[test]
fn any_size_and_back_to_the_shell() {
    let (_stage, mut shell) = stage();
    shell.run(&format!("-o events -- {PYTHON} guest.py"));
    shell.shows("Leaks 1");
    for (rows, columns) in [(1, 1), (2, 3), (5, 20), (12, 60), (100, 300), (40, 160)] {
        shell.resize(rows, columns);
        std::thread::sleep(Duration::from_millis(200));
        shell.text();
    }
    shell.shows("Leaks 1");
    shell.keys("\x1a");
    shell.until("the shell", |text| text.contains("Stopped"));
    assert!(!shell.screen.screen().alternate_screen());
    shell.keys("echo she''ll; fg\n");
    shell.until("the screen", |text| text.contains("Leaks 1") && text.contains("running"));
    shell.write("go", "");
    shell.shows("ended, exit status 23");
    shell.keys("q");
    shell.until("the end", |text| text.contains("sockstrace: 1 leak in ") && text.contains("shell"));
    shell.is_restored();
}

#[test]
fn a_terminal_that_goes_away_ends_nothing_but_the_view() {
    let (stage, mut shell) = stage();
    shell.write(
        "hup.py",
        "import os, signal, time\n\
         signal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.alarm(60)\n\
         def end(*_): open('hup.tmp', 'w').write('x'); os.rename('hup.tmp', 'hup'); os._exit(0)\n\
         signal.signal(signal.SIGHUP, end)\nopen('parent', 'w').write(str(os.getppid()))\nopen('ready', 'w')\n\
         while True: time.sleep(1)\n",
    );
    shell.run(&format!("-o events -- {PYTHON} hup.py"));
    shell.file("ready");
    shell.shows("running");
    let supervisor: u32 = shell.file("parent").parse().unwrap();
    let front = parent(supervisor).expect("the supervisor runs");
    let dir = shell.dir.clone();
    drop(shell);
    let start = Instant::now();
    while !dir.join("hup").exists() || parent(supervisor).is_some() || parent(front).is_some() {
        assert!(start.elapsed() < PATIENCE, "hup: {}, {:?}", dir.join("hup").exists(), parent(front));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::fs::read_to_string(dir.join("events")).unwrap().contains("no leak in"));
    drop(stage);
}

/// A process's parent; `None` where it is gone.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?;
    words.next()?.parse().ok().filter(|_| state != "Z")
}

#[test]
fn who_is_killed_leaves_the_terminal_as_it_was() {
    for victim in ["supervisor", "front, asked", "program"] {
        let (stage, mut shell) = stage();
        shell.run(&format!("-o events -- {PYTHON} guest.py"));
        let program: u32 = shell.file("pid").parse().unwrap();
        shell.shows("Leaks 1");
        let supervisor = parent(program).unwrap();
        let (pid, signal, status) = match victim {
            "supervisor" => (supervisor, libc::SIGKILL, 125),
            "program" => (program, libc::SIGKILL, 137),
            _ => (parent(supervisor).unwrap(), libc::SIGTERM, 143),
        };
        // SAFETY: takes integers only; a process that this test has started.
        assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
        if victim == "front, asked" {
            // It doesn't wait for a key.
            shell.shows("[status 143]");
        } else {
            shell.shows(&format!("ended, exit status {status}"));
            shell.keys("q");
            shell.shows(&format!("[status {status}]"));
        }
        shell.is_restored();
        let start = Instant::now();
        shell.write("go", "");
        while parent(program).is_some() {
            assert!(start.elapsed() < PATIENCE, "{victim}: the program runs on");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(stage.truth().foreign().is_empty());
    }
}

#[test]
fn a_flood_is_counted_whole() {
    let (_stage, mut shell) = stage();
    shell.write(
        "flood.py",
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for _ in range(20000): s.sendto(b'x', ('203.0.113.9', 9053))\n",
    );
    shell.run(&format!("--allow 203.0.113.9:9053 -o events -- {PYTHON} flood.py"));
    let text = shell.shows("ended, exit status 0");
    let number = |before: &str| -> u64 {
        let (start, _) = text.split_once(before).unwrap_or_else(|| panic!("{before}:\n{text}"));
        start.rsplit([' ', '|']).next().unwrap().parse().unwrap()
    };
    let judged = number(" calls judged");
    assert!((20_000..20_050).contains(&judged), "{judged}");
    let unshown = number(" events not shown");
    assert!((5000..20_000).contains(&unshown), "{unshown}");
    shell.keys("q");
    shell.shows("no leak in ");
}

#[test]
fn where_it_cannot_be_it_says_why() {
    let (_stage, mut shell) = stage();
    for (options, why) in
        [("--live always", "accepted with it: never"), ("--leftover background", "accepted with it: wait, kill")]
    {
        shell.run(&format!("{options} -- true"));
        shell.shows(why);
        shell.shows("[status 125]");
        shell.keys("clear\n");
    }
    // A program that isn't there is told at once.
    shell.run("-- ./nothing-here");
    shell.shows("[status 127]");
    let text = shell.text();
    assert!(text.contains("nothing-here") && !text.contains("leak in"), "{text}");
    shell.is_restored();
    shell.keys("export TERM=dumb\n");
    shell.run("-- true");
    shell.shows("can't be drawn on");
    let mut alone = Command::new("setsid");
    alone.args(["--wait".as_ref(), sockstrace().as_os_str(), "--tui".as_ref(), "true".as_ref()]);
    let said = alone.env("TERM", "xterm").output().unwrap();
    assert_eq!(said.status.code(), Some(125));
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(why.contains("no terminal to draw on (/dev/tty"), "{why}");
}

#[test]
fn the_machine_is_watched_until_q() {
    let (stage, mut shell) = stage();
    shell.run(&format!("--all --filter pid={} -o events", std::process::id()));
    shell.shows("watching the machine");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.send_to(b"seen", (FOREIGN4, PORT)).unwrap();
    let text = shell.until("the leak", |text| text.contains(&format!("UDP {FOREIGN4}:{PORT}")));
    assert!(text.contains("ebpf") && text.contains("let go"), "{text}");
    assert_eq!(stage.truth().udp, [b"seen"]);
    // Nothing is run, so that nothing is asked.
    shell.keys("q");
    shell.shows("[status 0]");
    shell.is_restored();
    let events = shell.file("events");
    assert!(events.contains(&format!("LEAK sendto UDP {FOREIGN4}:{PORT}")), "{events}");
}
