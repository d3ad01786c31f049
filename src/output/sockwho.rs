//! `--format sockwho`: `<process-name>/<pid>/<fd> syscall::<name>(<address>) = <return> [ERRNO]`, for
//! judged calls alone.

use super::Output;
use super::escape::escaped;
use crate::event::{Body, Event};
use std::io::{self, Write};

/// The format of sockwho.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sockwho;

impl Output for Sockwho {
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()> {
        let Body::Syscall(call) = &event.body else {
            return Ok(());
        };
        let name = escaped(call.who.process.as_deref().unwrap_or("?"));
        write!(lines, "{name}/{}/", call.who.pid)?;
        match call.fd {
            Some(fd) => write!(lines, "{fd}")?,
            None => write!(lines, "-")?,
        }
        let address = escaped(call.address.as_deref().unwrap_or(""));
        write!(lines, " syscall::{}({address}) = ", call.syscall)?;
        match call.returned {
            Some(value) => write!(lines, "{value}")?,
            None => write!(lines, "?")?,
        }
        match &call.errno {
            Some(errno) => writeln!(lines, " [{errno}]"),
            None => writeln!(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Call, Summary, tests::call};

    fn line(change: impl FnOnce(&mut Call)) -> String {
        let mut lines = Vec::new();
        Sockwho.write(&call(change), &mut lines).unwrap();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn lines() {
        assert_eq!(line(|_| {}), "curl/1234/5 syscall::connect(203.0.113.5:80) = -1 [EPERM]\n");
        assert_eq!(line(|call| call.set_result(0)), "curl/1234/5 syscall::connect(203.0.113.5:80) = 0\n");
        let unknown = line(|call| {
            call.returned = None;
            call.errno = None;
            call.address = None;
            call.fd = None;
            call.syscall = "io_uring_setup";
            call.who.process = Some("a\nb".into());
        });
        assert_eq!(unknown, "a\\nb/1234/- syscall::io_uring_setup() = ?\n");
    }

    #[test]
    fn only_calls_have_lines() {
        let mut lines = Vec::new();
        Sockwho.write(&Event::now(Body::Summary(Summary::default())), &mut lines).unwrap();
        assert!(lines.is_empty());
    }
}
