//! A shell on a pseudo-terminal, typed at by a test.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The terminal's master side and the shell.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    shell: Child,
    seen: String,
    read_from: usize,
    bytes: Vec<u8>,
}

impl Terminal {
    /// An interactive bash in `dir`.
    pub fn new(dir: &Path) -> Self {
        let (mut master, mut slave) = (0, 0);
        let none = std::ptr::null_mut();
        // SAFETY: the kernel writes two descriptors, which become ours; the other arguments may be null.
        let (master, slave) = unsafe {
            assert_eq!(libc::openpty(&raw mut master, &raw mut slave, none, none.cast(), none.cast()), 0);
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(master, libc::F_SETFL, libc::O_NONBLOCK);
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "-i"]).current_dir(dir).env("PS1", "").env("TERM", "dumb");
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        // SAFETY: between fork and exec only async-signal-safe calls are made.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(Error::last_os_error());
                }
                // Whoever runs the tests in the background has them ignored.
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let mut terminal = Self {
            master,
            shell: command.spawn().expect("bash"),
            seen: String::new(),
            read_from: 0,
            bytes: Vec::new(),
        };
        terminal.type_line("stty -echo; set +o history; echo rea''dy");
        terminal.expect("ready");
        terminal
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.type_raw(&format!("{line}\n"));
    }

    /// Types as it is: `\x1a` is Ctrl-Z, `\x03` Ctrl-C.
    pub fn type_raw(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is shown, after what was expected before.
    ///
    /// # Panics
    /// When it isn't within ten seconds.
    pub fn expect(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            self.read();
            if let Some(at) = self.seen[self.read_from..].find(text) {
                self.read_from += at + text.len();
                return;
            }
            let shown = &self.seen[self.read_from..];
            assert!(start.elapsed() < Duration::from_secs(10), "no {text:?} on the terminal, but {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types a line every 100 ms until `text` is shown.
    ///
    /// # Panics
    /// When it isn't within ten seconds.
    pub fn repeat_until(&mut self, line: &str, text: &str) {
        for _ in 0..100 {
            self.type_line(line);
            std::thread::sleep(Duration::from_millis(100));
            self.read();
            if self.seen[self.read_from..].contains(text) {
                break;
            }
        }
        self.expect(text);
    }

    /// What is shown within this time and was not expected yet.
    pub fn rest(&mut self, time: Duration) -> String {
        std::thread::sleep(time);
        self.read();
        let rest = self.seen[self.read_from..].to_owned();
        self.read_from = self.seen.len();
        rest
    }

    /// All that was shown by now, as it came.
    pub fn bytes(&mut self) -> &[u8] {
        self.read();
        &self.bytes
    }

    /// Gives it another size; who is in its foreground is told.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: a winsize of our own.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = self.master.read(&mut buffer) {
            self.bytes.extend_from_slice(&buffer[..length]);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The hangup of the terminal ends what runs in its foreground; stopped jobs too.
        let _ = self.master.write_all(b"\x03\nkill -9 $(jobs -p) 2>/dev/null; exit\n");
        std::thread::sleep(Duration::from_millis(50));
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let _ = self.master.as_raw_fd();
    }
}
