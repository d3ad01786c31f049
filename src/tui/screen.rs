//! The terminal that is drawn on: `/dev/tty`, whatever standard input and output are. Nothing waits for it: what it
//! doesn't take at once is kept, and nothing new is drawn until then.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp, write};
use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::OnceLock;

/// The alternate screen, without a cursor (xterm's ctlseqs).
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// Back to the screen as it was: plain text, a cursor.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// For [`restore`]: the terminal's descriptor, and its modes before.
static BEFORE: OnceLock<(i32, libc::termios)> = OnceLock::new();

/// The controlling terminal.
#[derive(Debug)]
pub(super) struct Screen {
    tty: OwnedFd,
    before: Termios,
    /// What is to be written.
    pending: Vec<u8>,
    entered: bool,
}

impl Screen {
    /// Opens the terminal; it stays as it is.
    ///
    /// # Errors
    /// Where there is none, in words.
    pub fn open() -> Result<Self, String> {
        let none = |errno: Errno| format!("--tui: there is no terminal to draw on (/dev/tty: {})", errno.desc());
        // A description of our own: O_NONBLOCK is nobody else's business.
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let tty = open("/dev/tty", flags, Mode::empty()).map_err(none)?;
        let before = tcgetattr(&tty).map_err(none)?;
        if std::env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb") {
            return Err("--tui: the terminal can't be drawn on (TERM is empty or dumb)".into());
        }
        Ok(Self { tty, before, pending: Vec::new(), entered: false })
    }

    /// Takes the screen over. In the background this stops us, as it does any editor, until we are continued in the
    /// foreground.
    ///
    /// # Errors
    /// Where the terminal's modes can't be set.
    pub fn enter(&mut self) -> Result<(), Errno> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.tty, SetArg::TCSADRAIN, &raw)?;
        // Once; the descriptor stays open for as long as we live.
        let _: Result<(), _> = BEFORE.set((self.tty.as_raw_fd(), self.before.clone().into()));
        self.entered = true;
        self.pending.clear();
        self.put(ENTER);
        Ok(())
    }

    /// Gives the screen back as it was.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.entered) {
            self.pending.clear();
            restore();
        }
    }

    /// Whether we are in the terminal's foreground.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub fn is_ours(&self) -> Result<bool, Errno> {
        tcgetpgrp(&self.tty).map(|group| group == getpgrp())
    }

    /// Reads what was typed; 0 where it is gone.
    ///
    /// # Errors
    /// As read(2): EAGAIN where nothing was.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        read(&self.tty, buffer)
    }

    /// Whether something waits to be written.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what the terminal takes.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn flush(&mut self) -> Result<(), Errno> {
        while !self.pending.is_empty() {
            match write(&self.tty, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written.min(self.pending.len()))),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Rows and columns; 24 × 80 where the terminal doesn't know.
    pub fn size(&self) -> libc::winsize {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel writes a winsize of our own.
        let got = unsafe { libc::ioctl(self.tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        if got != 0 || size.ws_row == 0 || size.ws_col == 0 {
            (size.ws_row, size.ws_col) = (24, 80);
        }
        size
    }

    /// Whether a descriptor is this very terminal.
    pub fn is(&self, fd: i32) -> bool {
        let device = |fd: i32| {
            let mut device: libc::c_uint = 0;
            // SAFETY: the kernel writes an unsigned int of our own.
            let got = unsafe { libc::ioctl(fd, libc::TIOCGDEV, &raw mut device) };
            (got == 0).then_some(device)
        };
        device(fd).is_some_and(|number| Some(number) == device(self.tty.as_raw_fd()))
    }
}

impl AsFd for Screen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

/// Gives the terminal back; also for a panic's hook: system calls alone. It waits a moment at most for a terminal
/// that takes nothing.
pub(super) fn restore() {
    let Some((fd, before)) = BEFORE.get() else { return };
    let mut rest = LEAVE;
    for _ in 0..100 {
        // SAFETY: bytes of our own; the descriptor is never closed. TCSANOW doesn't wait for output.
        let written = unsafe {
            libc::tcsetattr(*fd, libc::TCSANOW, before);
            libc::write(*fd, rest.as_ptr().cast(), rest.len())
        };
        match usize::try_from(written) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(_) if matches!(Errno::last(), Errno::EAGAIN | Errno::EINTR) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(_) => return,
        }
        if rest.is_empty() {
            return;
        }
    }
}

/// The screen as ratatui draws on it: cells become control sequences.
#[derive(Debug)]
pub(super) struct Canvas(pub Rc<RefCell<Screen>>);

impl Canvas {
    fn put(&self, bytes: &[u8]) {
        self.0.borrow_mut().put(bytes);
    }
}

impl Backend for Canvas {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        let mut bytes = Vec::new();
        let (mut style, mut next) = (None, None);
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                bytes.extend(format!("\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1).bytes());
            }
            if style != Some((cell.fg, cell.modifier)) {
                bytes.extend(rendition(cell.fg, cell.modifier).bytes());
                style = Some((cell.fg, cell.modifier));
            }
            bytes.extend(cell.symbol().bytes());
            // Behind a wide character it stands elsewhere: that is told anew.
            next = cell.symbol().is_ascii().then_some((x.saturating_add(1), y));
        }
        if style.is_some() {
            bytes.extend(b"\x1b[0m");
        }
        self.put(&bytes);
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.put(b"\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.put(b"\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        // Nobody is asked: the whole screen is drawn.
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.put(format!("\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1).as_bytes());
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.put(b"\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        // Only the whole screen is ever cleared.
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        let size = self.0.borrow().size();
        Ok(Size { width: size.ws_col, height: size.ws_row })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.0.borrow_mut().flush()?)
    }
}

/// SGR (ECMA-48 8.3.117) for what the views use.
fn rendition(colour: Color, modifier: Modifier) -> String {
    let mut codes = String::from("\x1b[0");
    for (wanted, code) in [(Modifier::BOLD, ";1"), (Modifier::DIM, ";2"), (Modifier::REVERSED, ";7")] {
        if modifier.contains(wanted) {
            codes.push_str(code);
        }
    }
    codes.push_str(match colour {
        Color::Red => ";31",
        Color::Cyan => ";36",
        _ => "",
    });
    codes.push('m');
    codes
}
