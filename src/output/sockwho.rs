//! `--format sockwho`: `<process-name>/<pid>/<fd> syscall::<name>(<address>) = <return> [ERRNO]` for judged
//! calls, `<process-name>/<pid> socket::set_state(<local> <-> <remote>) <Old> -> <New>` for TCP's states, and a
//! comment where events were lost or a SOCKS handshake was judged.

use super::Output;
use super::escape::escaped;
use crate::event::{Body, Call, Event, Socks, TcpState};
use std::io::{self, Write};

/// The format of sockwho.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sockwho;

impl Output for Sockwho {
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()> {
        match &event.body {
            Body::Syscall(call) => write_call(call, lines),
            Body::Socks(Socks { call, .. }) => {
                let name = escaped(call.who.process.as_deref().unwrap_or("?"));
                writeln!(lines, "# {name}/{}: {}", call.who.pid, escaped(&call.reason))
            }
            Body::TcpState(change) => write_state(change, lines),
            Body::Lost(lost) => writeln!(lines, "# {} events lost", lost.dropped),
            Body::Process(_) | Body::Summary(_) => Ok(()),
        }
    }
}

fn write_state(change: &TcpState, lines: &mut Vec<u8>) -> io::Result<()> {
    let TcpState { who, local, remote, old, new, .. } = change;
    let name = escaped(who.process.as_deref().unwrap_or("?"));
    let (old, new) = (old.joined(), new.joined());
    writeln!(lines, "{name}/{} socket::set_state({local} <-> {remote}) {old} -> {new}", who.pid)
}

fn write_call(call: &Call, lines: &mut Vec<u8>) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Lost, Socket, Summary, TcpStateName, Who, tests::call};

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
    fn states_and_losses_have_lines_and_the_rest_has_none() {
        let mut lines = Vec::new();
        let change = TcpState {
            who: Who { pid: 7, process: Some("a\nb".into()), ..Who::default() },
            socket: Socket { family: "inet".into(), kind: "stream".into(), protocol: Some("tcp".into()) },
            local: "192.0.2.1:0".into(),
            remote: "192.0.2.2:443".into(),
            old: TcpStateName(7),
            new: TcpStateName(2),
        };
        Sockwho.write(&Event::now(Body::TcpState(change)), &mut lines).unwrap();
        Sockwho.write(&Event::now(Body::Lost(Lost { backend: "ebpf", dropped: 3 })), &mut lines).unwrap();
        assert_eq!(
            std::str::from_utf8(&lines).unwrap(),
            "a\\nb/7 socket::set_state(192.0.2.1:0 <-> 192.0.2.2:443) Close -> SynSent\n# 3 events lost\n"
        );
        lines.clear();
        Sockwho.write(&Event::now(Body::Summary(Summary::default())), &mut lines).unwrap();
        assert!(lines.is_empty());
    }
}
