//! The file (or standard error) that events are written to.

use super::live::CLEAR;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How long a reader of a non-blocking pipe or terminal may keep us waiting before an event is lost.
const PATIENCE_MS: u16 = 2_000;

/// Bytes that a regular file takes at once; more would only lie in memory for longer.
const AT_ONCE: usize = 64 << 10;

/// Where lines go. Errors are counted, never returned: judging goes on.
#[derive(Debug)]
pub struct Sink {
    file: File,
    /// The path, for messages; `None` for standard error, which can't be complained about on itself.
    name: Option<String>,
    /// The last write ended within a line.
    in_line: bool,
    /// How long to wait for a reader, in milliseconds; nothing once one has let us wait in vain.
    patience: u16,
    dropped: u64,
    /// What stands in the line of the cursor is not ours ([`super::live`]).
    shared_line: bool,
    /// See [`Sink::at_once`].
    at_once: usize,
}

impl Sink {
    /// Creates or empties a file. PROGRAM doesn't inherit it (close-on-exec).
    pub fn file(path: &Path) -> io::Result<Self> {
        // As a terminal it must not become our controlling one.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(libc::O_NOCTTY);
        let file = options.open(path)?;
        Ok(Self::new(file, Some(path.display().to_string())))
    }

    /// Standard error as we inherited it.
    pub fn standard_error() -> io::Result<Self> {
        // Our own descriptor: std's handle takes a closed one for success.
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self::new(file, None))
    }

    fn new(file: File, name: Option<String>) -> Self {
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let at_once = if is_regular { AT_ONCE } else { libc::PIPE_BUF };
        Self { file, name, in_line: false, patience: PATIENCE_MS, dropped: 0, shared_line: false, at_once }
    }

    /// Whether a person watches, on a terminal, and doesn't mind colour (<https://no-color.org>).
    #[must_use]
    pub fn wants_colour(&self) -> bool {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        self.file.is_terminal()
            && set("NO_COLOR").is_none()
            && set("TERM").is_some_and(|terminal| terminal != "dumb")
    }

    /// From now on lines are written over whatever stands where the cursor is.
    pub fn share_line(&mut self) {
        self.shared_line = true;
    }

    /// How many bytes of several events to write at once: what others write there too isn't to come between them, and a
    /// pipe takes no more in one piece (pipe(7)).
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// How many events were lost.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes the lines of some events with one system call, if all goes well. `ends`: where each event's end.
    pub fn write(&mut self, lines: &[u8], ends: &[usize]) {
        if lines.is_empty() {
            return;
        }
        let mut before = &b""[..];
        if self.shared_line {
            before = CLEAR;
        } else if self.in_line {
            // What failed before left a piece of a line: nothing may be appended to that.
            before = b"\n";
        }
        let (written, result) = match before {
            b"" => self.write_all(lines),
            before => self.write_all(&[before, lines].concat()),
        };
        if let Err(error) = result {
            let written = written.saturating_sub(before.len());
            self.lose(&error, ends.iter().filter(|end| **end > written).count() as u64);
        }
    }

    /// Counts events as lost. The first ones are told on standard error.
    pub fn lose(&mut self, error: &io::Error, count: u64) {
        if let (0, Some(name)) = (self.dropped, &self.name) {
            // Not eprintln!, which panics where standard error fails.
            let _ = writeln!(io::stderr(), "sockstrace: events are lost: {name}: {error}");
        }
        self.dropped = self.dropped.saturating_add(count);
    }

    /// How many bytes could be written, and why not all.
    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut rest = bytes;
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match self.file.write(rest) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let (done, left) = rest.split_at_checked(written).unwrap_or((rest, &[]));
                    self.in_line = done.last() != Some(&b'\n');
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // O_NONBLOCK belongs to the description that we share with others: it stays as it is.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = self.wait() {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        (bytes.len().saturating_sub(rest.len()), result)
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut polled, PollTimeout::from(self.patience)) {
            Ok(0) => {
                // The program's calls wait behind this one: not again for the next event.
                self.patience = 0;
                Err(ErrorKind::WouldBlock.into())
            }
            Ok(_) => {
                self.patience = PATIENCE_MS;
                Ok(())
            }
            Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Read;

    /// A sink on a non-blocking pipe of one page, so that writes can be cut short.
    fn narrow_pipe() -> (Sink, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mut sink = Sink::new(writer.into(), None);
        sink.patience = 300;
        (sink, reader.into())
    }

    /// One event's lines.
    fn write(sink: &mut Sink, lines: &[u8]) {
        sink.write(lines, &[lines.len()]);
    }

    #[test]
    fn a_line_cut_short_does_not_spoil_the_next() {
        let (mut sink, mut reader) = narrow_pipe();
        write(&mut sink, &[b"x".repeat(6000), b"\n".to_vec()].concat());
        assert_eq!((sink.dropped(), sink.patience), (1, 0));
        let mut piece = vec![0; 4096];
        reader.read_exact(&mut piece).unwrap();
        assert_eq!(piece, b"x".repeat(4096));
        write(&mut sink, b"next\n");
        write(&mut sink, b"last\n");
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "\nnext\nlast\n");
    }

    #[test]
    fn a_slow_reader_is_waited_for() {
        let (mut sink, mut reader) = narrow_pipe();
        let slow = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        write(&mut sink, &[b"x".repeat(20_000), b"\n".to_vec()].concat());
        assert_eq!(sink.dropped(), 0);
        drop(sink);
        assert_eq!(slow.join().unwrap(), 20_001);
    }

    #[test]
    fn a_reader_gone_is_a_loss_and_nothing_more() {
        let (mut sink, reader) = narrow_pipe();
        drop(reader);
        write(&mut sink, b"a\n");
        write(&mut sink, b"b\n");
        assert_eq!(sink.dropped(), 2);
    }
}
