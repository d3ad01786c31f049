//! The process that draws and takes the keys.

use super::TAKEN;
use super::app::{App, Wish};
use super::keys::{Key, Keys};
use super::screen::{Canvas, Screen, restore};
use super::view;
use crate::cli::FAILURE;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};
use ratatui::Terminal;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two drawings.
const FRAME: Duration = Duration::from_millis(80);
/// How long it waits where nothing happens: the foreground and an Escape are looked after in between.
const REST: Duration = Duration::from_millis(200);
/// A line of events that is longer is no event.
const LONGEST: usize = 1 << 20;
/// What is read at a time from the pipe and the pseudo-terminal, before keys are looked after.
const PORTION: usize = 256 << 10;

/// What it holds.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Front {
    screen: Rc<RefCell<Screen>>,
    app: App,
    keys: Keys,
    supervisor: Pid,
    /// Of PROGRAM, once it is known: its number may come again.
    program: Option<OwnedFd>,
    events: Option<File>,
    line: Vec<u8>,
    /// The supervisor's terminal, and whether nobody writes to it any more.
    master: Option<OwnedFd>,
    output_ended: bool,
    status: Option<u8>,
    /// Nobody looks any more: the terminal is gone, or somebody wants an end.
    unwatched: bool,
    left: bool,
    suspended: bool,
}

impl Front {
    pub fn new(screen: Screen, app: App, supervisor: Pid, events: File, master: OwnedFd) -> Self {
        Self {
            screen: Rc::new(RefCell::new(screen)),
            app,
            keys: Keys::default(),
            supervisor,
            program: None,
            events: Some(events),
            line: Vec::new(),
            master: Some(master),
            output_ended: false,
            status: None,
            unwatched: false,
            left: false,
            suspended: false,
        }
    }

    /// Draws until the supervisor has ended and the user has seen enough; the exit status. With `shows_end` the
    /// last line is told on standard error, which was covered.
    pub fn run(mut self, taken: &SigSet, shows_end: bool) -> Result<u8, String> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        let result = self.serve(taken);
        self.screen.borrow_mut().leave();
        let status = result.map_err(|error| {
            // Without us nobody would see what it does.
            let _: Result<(), Errno> = kill(self.supervisor, Signal::SIGKILL);
            format!("--tui: {error}")
        })?;
        if shows_end {
            // A terminal that is gone has nobody to be told of it.
            let _: io::Result<()> = io::stderr().write_all(self.end(status).as_bytes());
        }
        Ok(status)
    }

    fn serve(&mut self, taken: &SigSet) -> io::Result<u8> {
        let signals = SignalFd::with_flags(taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut terminal = Terminal::new(Canvas(Rc::clone(&self.screen)))?;
        let (mut drawn, mut changed) = (Instant::now(), true);
        loop {
            if changed && drawn.elapsed() >= FRAME && !self.hides() && !self.screen.borrow().is_busy() {
                if terminal.draw(|frame| view::draw(frame, &self.app)).is_err() {
                    self.hang_up();
                }
                self.resize();
                (drawn, changed) = (Instant::now(), false);
            }
            if let Some(status) = self.status
                && (self.left || self.unwatched || self.was_short())
            {
                return Ok(status);
            }
            let patience = if changed && !self.hides() { FRAME.saturating_sub(drawn.elapsed()) } else { REST };
            let ready = self.wait(&signals, patience)?;
            if ready.signals {
                changed |= self.take_signals(&signals, &mut terminal)?;
            }
            self.mind_foreground(&mut terminal)?;
            if ready.events {
                changed |= self.take_events();
            }
            if ready.output {
                changed |= self.take_output();
            }
            if ready.writable && self.screen.borrow_mut().flush().is_err() {
                self.hang_up();
            }
            changed |= self.take_keys(ready.keys, &mut terminal)?;
            changed |= self.reap();
        }
    }

    fn hides(&self) -> bool {
        self.unwatched || self.suspended
    }

    fn wait(&self, signals: &SignalFd, patience: Duration) -> io::Result<Ready> {
        let screen = self.screen.borrow();
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let mut wanted = PollFlags::POLLIN;
        if screen.is_busy() {
            wanted |= PollFlags::POLLOUT;
        }
        let place = |fds: &Vec<PollFd<'_>>, there: bool| there.then_some(fds.len());
        let keys = place(&fds, !self.hides());
        if keys.is_some() {
            fds.push(PollFd::new(screen.as_fd(), wanted));
        }
        let events = place(&fds, self.events.is_some());
        fds.extend(self.events.as_ref().map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
        let output = place(&fds, self.writers().is_some());
        fds.extend(self.writers().map(|master| PollFd::new(master.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let happened = |index: Option<usize>| {
            index.and_then(|index| fds.get(index)).and_then(PollFd::revents).unwrap_or(PollFlags::empty())
        };
        let any = |index| !happened(index).is_empty();
        Ok(Ready {
            signals: any(Some(0)),
            keys: happened(keys).intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR),
            writable: happened(keys).contains(PollFlags::POLLOUT),
            events: any(events),
            output: any(output),
        })
    }

    fn take_signals(&mut self, signals: &SignalFd, terminal: &mut Terminal<Canvas>) -> io::Result<bool> {
        while let Some(info) = signals.read_signal()? {
            let Some(signal) = TAKEN.into_iter().find(|signal| *signal as u32 == info.ssi_signo) else { continue };
            // Positive: the kernel's own doing.
            let was_sent = info.ssi_code <= 0;
            match signal {
                Signal::SIGHUP if !was_sent => self.hang_up(),
                Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM => {
                    // Whoever ends us means PROGRAM, and waits for no key.
                    self.unwatched = true;
                    self.screen.borrow_mut().leave();
                    self.tell_supervisor(signal);
                }
                Signal::SIGTSTP => self.suspend(terminal)?,
                Signal::SIGCONT if !self.hides() => terminal.clear()?,
                _ => {}
            }
        }
        Ok(true)
    }

    /// A signal that was sent to us is the supervisor's, and by it PROGRAM's.
    fn tell_supervisor(&self, signal: Signal) {
        if self.status.is_none() {
            // It can't be gone: it wasn't waited for yet.
            let _: Result<(), Errno> = kill(self.supervisor, signal);
        }
    }

    /// The terminal is gone, and so is its stand-in. PROGRAM and those with it hear of it as they would from the
    /// shell that they were started by; the kernel tells the leader of the session alone, which is the supervisor.
    fn hang_up(&mut self) {
        if !std::mem::replace(&mut self.unwatched, true) && self.status.is_none() {
            self.master = None;
            // It can't be gone: it wasn't waited for yet.
            let _: Result<(), Errno> = killpg(self.supervisor, Signal::SIGHUP);
        }
    }

    /// Back to the shell, until it continues us.
    fn suspend(&mut self, terminal: &mut Terminal<Canvas>) -> io::Result<()> {
        if !self.hides() {
            self.screen.borrow_mut().leave();
            self.suspended = true;
            raise(Signal::SIGSTOP)?;
        }
        self.mind_foreground(terminal)
    }

    /// In the background the terminal is left alone.
    fn mind_foreground(&mut self, terminal: &mut Terminal<Canvas>) -> io::Result<()> {
        if self.unwatched {
            return Ok(());
        }
        let is_ours = self.screen.borrow().is_ours();
        match (is_ours, self.suspended) {
            (Err(_), _) => self.hang_up(),
            (Ok(true), true) => {
                if self.screen.borrow_mut().enter().is_err() {
                    self.hang_up();
                    return Ok(());
                }
                self.suspended = false;
                terminal.clear()?;
            }
            (Ok(false), false) => self.suspended = true,
            _ => {}
        }
        Ok(())
    }

    fn take_keys(&mut self, ready: bool, terminal: &mut Terminal<Canvas>) -> io::Result<bool> {
        if self.hides() {
            return Ok(false);
        }
        let mut keys = Vec::new();
        if ready {
            let mut buffer = [0; 1024];
            let got = self.screen.borrow().read(&mut buffer);
            match got {
                Ok(0) => self.hang_up(),
                Ok(count) => keys = self.keys.push(buffer.get(..count).unwrap_or_default()),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => self.hang_up(),
            }
        } else if self.keys.waits() {
            keys.extend(self.keys.pause());
        }
        let any = !keys.is_empty();
        for key in keys {
            self.press(key, terminal)?;
        }
        Ok(any)
    }

    fn press(&mut self, key: Key, terminal: &mut Terminal<Canvas>) -> io::Result<()> {
        match self.app.key(key) {
            Wish::Nothing => {}
            Wish::Leave => {
                self.left = true;
                if self.status.is_none() {
                    self.tell_supervisor(Signal::SIGINT);
                }
            }
            Wish::Type(byte) => {
                if let Some(master) = &self.master {
                    // A pseudo-terminal whose input is full takes no more of it, as any.
                    let _: Result<usize, Errno> = write(master, &[byte]);
                }
            }
            Wish::Terminate => self.tell_supervisor(Signal::SIGTERM),
            Wish::Kill => self.kill_program(),
            Wish::Suspend => self.suspend(terminal)?,
        }
        Ok(())
    }

    fn kill_program(&mut self) {
        let killed = self.program.as_ref().is_some_and(|program| {
            let no_info = std::ptr::null::<libc::siginfo_t>();
            // SAFETY: takes integers and a null siginfo_t, which means that of kill(2).
            let sent = unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, program.as_raw_fd(), libc::SIGKILL, no_info, 0)
            };
            sent == 0
        });
        if !killed {
            // It has ended, and others of its tree are waited for: Ctrl-C ends that.
            self.tell_supervisor(Signal::SIGINT);
        }
    }

    fn take_events(&mut self) -> bool {
        let Some(events) = &mut self.events else { return false };
        let mut portion = vec![0; PORTION];
        match events.read(&mut portion) {
            Ok(0) => self.events = None,
            Ok(count) => {
                for piece in portion.get(..count).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                    if self.line.len() < LONGEST {
                        self.line.extend_from_slice(piece);
                    }
                    if piece.ends_with(b"\n") {
                        self.app.model.line(self.line.trim_ascii());
                        self.line.clear();
                    }
                }
                self.find_program();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.events = None,
        }
        true
    }

    /// Takes hold of PROGRAM, as soon as it is known.
    fn find_program(&mut self) {
        if let (None, Some(pid)) = (&self.program, self.app.model.program) {
            // SAFETY: takes integers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            // SAFETY: the kernel has just made this descriptor for us.
            self.program = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
    }

    /// The supervisor's terminal, where somebody may write to it.
    fn writers(&self) -> Option<&OwnedFd> {
        self.master.as_ref().filter(|_| !self.output_ended)
    }

    fn take_output(&mut self) -> bool {
        let Some(master) = self.writers() else { return false };
        let mut buffer = [0; 16 << 10];
        match read(master, &mut buffer) {
            Ok(count @ 1..) => {
                self.app.model.output.push(buffer.get(..count).unwrap_or_default());
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => false,
            // EIO: nobody has the other end any more. Ours stays open: closed, it is a hang-up to whoever is left.
            Ok(_) | Err(_) => {
                self.output_ended = true;
                false
            }
        }
    }

    /// Looks whether the supervisor has ended.
    fn reap(&mut self) -> bool {
        if self.status.is_some() {
            return false;
        }
        let status = match waitpid(self.supervisor, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => status as u8,
            Ok(WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => FAILURE,
            _ => return false,
        };
        // The last that was said; a process that is left behind could go on for ever.
        for _ in 0..1000 {
            if !self.take_rest() {
                break;
            }
        }
        self.status = Some(status);
        self.app.end(status);
        true
    }

    /// Reads on; whether there may be more.
    fn take_rest(&mut self) -> bool {
        let events = self.events.as_ref().is_some_and(has_more) && self.take_events();
        let output = self.writers().is_some_and(has_more) && self.take_output();
        events || output
    }

    /// Nothing was run: there is nothing to be looked at but why.
    fn was_short(&self) -> bool {
        let model = &self.app.model;
        self.app.runs_program && model.program.is_none() && model.tally.calls == 0
    }

    /// The pseudo-terminal has the size of the terminal.
    fn resize(&self) {
        let Some(master) = &self.master else { return };
        let size = self.screen.borrow().size();
        // SAFETY: a winsize of our own. Nobody is told where nothing has changed.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    /// What stands on the terminal afterwards.
    fn end(&self, status: u8) -> String {
        let model = &self.app.model;
        if self.was_short() || model.exit.is_none() {
            let said = model.output.from(0).fold(String::new(), |text, line| text + &line + "\n");
            let killed = if model.exit.is_none() && status == FAILURE && said.is_empty() {
                "sockstrace: the supervisor was killed\n"
            } else {
                ""
            };
            return said + killed;
        }
        let tally = model.tally;
        let plural = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let leaks = if tally.leaks == 0 { "no leak".into() } else { plural(tally.leaks, "leak", "leaks") };
        let calls = plural(tally.calls, "call", "calls");
        let processes = plural(tally.processes, "process", "processes");
        let lost = if tally.lost == 0 {
            String::new()
        } else {
            format!("; {} lost", plural(tally.lost, "event", "events"))
        };
        format!("sockstrace: {leaks} in {calls} of {processes}{lost}\n")
    }
}

fn has_more(fd: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// What can be read or written.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    keys: bool,
    writable: bool,
    events: bool,
    output: bool,
}
