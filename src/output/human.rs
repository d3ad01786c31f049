//! `--format human`: a line a leak, its stack where that is a new one, and a summary.

use super::Output;
use super::escape::escaped;
use super::handshake::Said;
use super::stack::{Paths, Shown, Stacks};
use crate::event::{Action, Body, Call, Change, Event, Judgement, Process, Summary, TcpState, Who};
use crate::policy::Class;
use anstyle::{AnsiColor, Style};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, Write};

/// Lines for a person.
#[derive(Debug)]
pub struct Human {
    colour: bool,
    stacks: Stacks,
    tally: HashMap<(Class, String), Tally>,
    /// Leaks to destinations for which the tally had no room.
    untallied: u64,
}

/// Leaks to one destination.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    /// By the number of the stack.
    stacks: HashMap<usize, u64>,
}

/// Destinations that are counted one by one: a hostile program could name millions.
const TALLIED: usize = 10_000;
/// Of these, how many the summary shows.
const SHOWN: usize = 30;
/// Stacks of one destination that are counted one by one, and how many the summary shows.
const TALLIED_STACKS: usize = 100;
const SHOWN_STACKS: usize = 3;

const LEAK: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

impl Human {
    /// With or without colour; paths on stacks are shortened.
    #[must_use]
    pub fn new(colour: bool, paths: Paths) -> Self {
        Self { colour, stacks: Stacks::new(colour, paths), tally: HashMap::new(), untallied: 0 }
    }

    fn style(&self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }

    fn call(&mut self, call: &Call, said: Said<'_>, lines: &mut Vec<u8>) -> io::Result<()> {
        let what = Destination(call);
        let shown = call.stack.as_ref().map(|stack| self.stacks.number(stack, call.who.exe.as_deref()));
        let number = match &shown {
            Some(Shown::New(number, _)) => *number,
            Some(Shown::Known(number)) => Some(*number),
            None => None,
        };
        match (call.verdict, call.class) {
            (Judgement::Leak, class) => {
                let class = class.unwrap_or(Class::Outbound);
                self.count(class, what.to_string(), number);
                let style = self.style(LEAK);
                write!(lines, "{style}LEAK{style:#} {}{what} by {} ", call.syscall, Actor(&call.who))?;
                write!(lines, "{}: {class}, {}", Done(call), call.reason)?;
                if let Some(rule) = &call.rule {
                    write!(lines, " (rule {})", escaped(rule))?;
                }
                writeln!(lines, "{said}{}", Numbered(number))?;
            }
            (Judgement::Allowed, _) => {
                let style = self.style(DIM);
                write!(lines, "{style}ok   {}{what} by {}", call.syscall, Actor(&call.who))?;
                write!(lines, "{}: {}", Returned(call), call.reason)?;
                if let Some(rule) = &call.rule {
                    write!(lines, " (rule {})", escaped(rule))?;
                }
                writeln!(lines, "{said}{}{style:#}", Numbered(number))?;
            }
        }
        match shown {
            Some(Shown::New(_, stack)) => lines.write_all(stack.as_bytes()),
            Some(Shown::Known(_)) | None => Ok(()),
        }
    }

    fn process(&self, process: &Process, lines: &mut Vec<u8>) -> io::Result<()> {
        let style = self.style(DIM);
        let who = Actor(&process.who);
        write!(lines, "{style}")?;
        match (process.event, process.status, process.signal) {
            (Change::Exec, ..) => {
                let program = process.who.exe.as_deref().unwrap_or("another program");
                write!(lines, "exec {who} runs {}", escaped(program))?;
            }
            (Change::Exit, _, Some(signal)) => match Signal::try_from(signal) {
                Ok(name) => write!(lines, "exit {who} ended by {name}")?,
                Err(_) => write!(lines, "exit {who} ended by signal {signal}")?,
            },
            (Change::Exit, Some(status), None) => write!(lines, "exit {who} with status {status}")?,
            (Change::Exit, None, None) => write!(lines, "exit {who}")?,
        }
        writeln!(lines, "{style:#}")
    }

    fn state(&self, change: &TcpState, lines: &mut Vec<u8>) -> io::Result<()> {
        let style = self.style(DIM);
        let TcpState { who, local, remote, old, new, .. } = change;
        let (old, new) = (old.kernel(), new.kernel());
        writeln!(lines, "{style}tcp  {local} <-> {remote} {old} -> {new} by {}{style:#}", Actor(who))
    }

    fn summary(&self, summary: &Summary, lines: &mut Vec<u8>) -> io::Result<()> {
        let Summary { events, leaks, processes, dropped, .. } = *summary;
        write!(lines, "sockstrace: ")?;
        if leaks == 0 {
            write!(lines, "no leak")?;
        } else {
            let style = self.style(LEAK);
            write!(lines, "{style}{}{style:#}", Count(leaks, "leak"))?;
        }
        write!(lines, " in {} of {}", Count(events, "call"), Count(processes, "process"))?;
        if dropped > 0 {
            write!(lines, "; {} lost", Count(dropped, "event"))?;
        }
        writeln!(lines)?;

        let mut tally: Vec<_> = self.tally.iter().collect();
        tally.sort_by(|((class, what), tally), ((other_class, other_what), other)| {
            class.cmp(other_class).then(other.count.cmp(&tally.count)).then(what.cmp(other_what))
        });
        for ((class, what), tally) in tally.iter().take(SHOWN) {
            writeln!(lines, "  {class:<10} {:>6} ×{what}", tally.count)?;
            self.origins(tally, lines)?;
        }
        let unseen = tally.iter().skip(SHOWN).map(|(_, tally)| tally.count);
        let unseen = unseen.fold(self.untallied, u64::saturating_add);
        if unseen > 0 {
            writeln!(lines, "  and {} to other destinations", Count(unseen, "leak"))?;
        }
        Ok(())
    }

    /// Where leaks to a destination came from.
    fn origins(&self, tally: &Tally, lines: &mut Vec<u8>) -> io::Result<()> {
        let mut stacks: Vec<_> = tally.stacks.iter().map(|(number, count)| (*number, *count)).collect();
        stacks.retain(|(number, _)| !self.stacks.blamed(*number).is_empty());
        stacks.sort_by(|(number, count), (other, other_count)| other_count.cmp(count).then(number.cmp(other)));
        for (number, count) in stacks.iter().take(SHOWN_STACKS) {
            let blamed = self.stacks.blamed(*number);
            writeln!(lines, "             {count:>6} × by {blamed}{}", Numbered(Some(*number)))?;
        }
        let more = stacks.len().saturating_sub(SHOWN_STACKS);
        if more > 0 {
            writeln!(lines, "                    and by {more} more")?;
        }
        Ok(())
    }

    fn count(&mut self, class: Class, what: String, stack: Option<usize>) {
        let key = (class, what);
        if self.tally.len() < TALLIED || self.tally.contains_key(&key) {
            let tally = self.tally.entry(key).or_default();
            tally.count = tally.count.saturating_add(1);
            if let Some(stack) = stack
                && (tally.stacks.len() < TALLIED_STACKS || tally.stacks.contains_key(&stack))
            {
                let count = tally.stacks.entry(stack).or_insert(0);
                *count = count.saturating_add(1);
            }
        } else {
            self.untallied = self.untallied.saturating_add(1);
        }
    }
}

impl Output for Human {
    fn write(&mut self, event: &Event, lines: &mut Vec<u8>) -> io::Result<()> {
        match &event.body {
            Body::Syscall(call) => self.call(call, Said(None), lines),
            Body::Socks(socks) => self.call(&socks.call, Said(Some(&socks.socks)), lines),
            Body::Process(process) => self.process(process, lines),
            Body::TcpState(change) => self.state(change, lines),
            Body::Lost(lost) => writeln!(lines, "sockstrace: {} lost here", Count(lost.dropped, "event")),
            Body::Summary(summary) => self.summary(summary, lines),
        }
    }
}

/// ` TCP 203.0.113.5:80`: protocol and address, as far as there are any.
struct Destination<'e>(&'e Call);

impl Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.0.socket {
            match (&socket.protocol, socket.family.as_ref()) {
                (Some(protocol), _) => write!(f, " {}", protocol.to_ascii_uppercase())?,
                (None, family @ ("unix" | "netlink" | "vsock")) => {
                    write!(f, " {}", family.to_ascii_uppercase())?;
                }
                (None, family) => write!(f, " {family} {}", socket.kind)?,
            }
        }
        match &self.0.address {
            Some(address) => write!(f, " {}", escaped(address)),
            None => Ok(()),
        }
    }
}

/// `curl[1234/1237]`: name, process, and thread where it is another one.
struct Actor<'e>(&'e Who);

impl Display for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Who { pid, tid, process, .. } = self.0;
        write!(f, "{}[{pid}", escaped(process.as_deref().unwrap_or("?")))?;
        if tid != pid {
            write!(f, "/{tid}")?;
        }
        f.write_str("]")
    }
}

/// What was done with a leak: `blocked (EPERM)`.
struct Done<'e>(&'e Call);

impl Display for Done<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.action {
            Action::Continue => "let go",
            Action::Block => "blocked",
            Action::Redirect => "redirected to the proxy",
            Action::Kill => "process killed",
            Action::KillTree => "tree killed",
            Action::Core => "process ended with SIGABRT",
        })?;
        match &self.0.errno {
            Some(errno) => write!(f, " ({errno})"),
            None => Ok(()),
        }
    }
}

/// What a call gave: ` = 0`, ` = -1 EPERM`, or nothing where that isn't known.
struct Returned<'e>(&'e Call);

impl Display for Returned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.returned, &self.0.errno) {
            (Some(value), Some(errno)) => write!(f, " = {value} {errno}"),
            (Some(value), None) => write!(f, " = {value}"),
            (None, _) => Ok(()),
        }
    }
}

/// ` [stack 3]`
struct Numbered(Option<usize>);

impl Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, " [stack {number}]"),
            None => Ok(()),
        }
    }
}

/// `1 leak`, `2 leaks`.
struct Count(u64, &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = match (count, noun.ends_with('s')) {
            (1, _) => "",
            (_, true) => "es",
            (_, false) => "s",
        };
        write!(f, "{count} {noun}{plural}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::{call, leak};
    use crate::event::{Handshake, Socks};

    fn written(human: &mut Human, event: &Event) -> String {
        let mut lines = Vec::new();
        human.write(event, &mut lines).unwrap();
        String::from_utf8(lines).unwrap()
    }

    fn plain() -> Human {
        Human::new(false, Paths::default())
    }

    fn line(change: impl FnOnce(&mut Call)) -> String {
        written(&mut plain(), &call(change))
    }

    #[test]
    fn a_leak_is_one_line_that_says_everything() {
        assert_eq!(
            line(|_| {}),
            "LEAK connect TCP 203.0.113.5:80 by curl[1234/1237] blocked (EPERM): outbound, \
             no proxy or rule covers it\n"
        );
        let bare = line(|call| {
            call.syscall = "io_uring_setup";
            (call.socket, call.address, call.fd) = (None, None, None);
            (call.errno, call.returned) = (None, None);
            call.who.tid = call.who.pid;
            call.action = Action::KillTree;
        });
        assert!(bare.starts_with("LEAK io_uring_setup by curl[1234] tree killed: outbound, "), "{bare}");
    }

    #[test]
    fn an_allowed_call_names_its_rule_and_result() {
        let ok = line(|call| {
            call.verdict = Judgement::Allowed;
            call.class = None;
            call.action = Action::Continue;
            call.set_result(-115);
            call.reason = "to a proxy".into();
            call.rule = Some("socks5://[::1]:9050".into());
        });
        assert_eq!(
            ok,
            "ok   connect TCP 203.0.113.5:80 by curl[1234/1237] = -1 EINPROGRESS: to a proxy \
             (rule socks5://[::1]:9050)\n"
        );
    }

    #[test]
    fn a_handshake_shows_what_was_said() {
        let mut event = leak();
        if let Body::Syscall(call) = event.body.clone() {
            let offered = Some(vec!["none".to_owned()]);
            let (command, destination) = (Some("connect"), Some("example.org:80".to_owned()));
            let socks = Handshake { offered, command, destination, ..Handshake::default() };
            event.body = Body::Socks(Socks { call, socks });
        }
        assert_eq!(
            written(&mut plain(), &event),
            "LEAK connect TCP 203.0.113.5:80 by curl[1234/1237] blocked (EPERM): outbound, \
             no proxy or rule covers it {offered none; connect example.org:80}\n"
        );
    }

    #[test]
    fn hostile_names_stay_in_their_line() {
        let text = line(|call| {
            call.who.process = Some("x\nLEAK\u{1b}[2J".into());
            call.address = Some("/run/\r\n\u{202e}".into());
        });
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn colour_only_where_asked_for() {
        assert!(written(&mut Human::new(true, Paths::default()), &leak()).starts_with("\u{1b}["));
        assert!(!line(|_| {}).contains('\u{1b}'));
    }

    #[test]
    fn processes() {
        let process = |event, status, signal| {
            let who =
                Who { pid: 7, tid: 7, process: Some("sh".into()), exe: Some("/bin/sh".into()), ..Who::default() };
            let event = Event::now(Body::Process(Process { who, event, status, signal }));
            written(&mut plain(), &event)
        };
        assert_eq!(process(Change::Exec, None, None), "exec sh[7] runs /bin/sh\n");
        assert_eq!(process(Change::Exit, Some(3), None), "exit sh[7] with status 3\n");
        assert_eq!(process(Change::Exit, None, Some(9)), "exit sh[7] ended by SIGKILL\n");
        assert_eq!(process(Change::Exit, None, Some(40)), "exit sh[7] ended by signal 40\n");
        assert_eq!(process(Change::Exit, None, None), "exit sh[7]\n");
    }

    #[test]
    fn the_summary_counts_by_class_and_destination() {
        let mut human = plain();
        let summary = |events, leaks, processes, dropped| {
            Event::now(Body::Summary(Summary { events, leaks, processes, dropped, exit: 0 }))
        };
        assert_eq!(written(&mut human, &summary(1, 0, 1, 0)), "sockstrace: no leak in 1 call of 1 process\n");
        let other = call(|call| {
            call.class = Some(Class::Disclosure);
            call.address = Some("[::1]:53".into());
        });
        for event in [&leak(), &other, &leak()] {
            written(&mut human, event);
        }
        assert_eq!(
            written(&mut human, &summary(9, 3, 2, 1)),
            "sockstrace: 3 leaks in 9 calls of 2 processes; 1 event lost\n  \
             outbound        2 × TCP 203.0.113.5:80\n  \
             disclosure      1 × TCP [::1]:53\n"
        );
    }

    #[test]
    fn identical_stacks_are_folded() {
        use crate::event::Stack;
        use crate::event::tests::frame;
        let mut human = plain();
        let event = |line| {
            let own = frame("/usr/bin/curl", "fetch", Some(("src/fetch.c", line)));
            let frames = vec![frame("/lib/libc.so.6", "connect", None), own];
            let stack = std::sync::Arc::new(Stack { frames, ..Stack::default() });
            call(|call| call.stack = Some(std::sync::Arc::clone(&stack)))
        };
        let first = written(&mut human, &event(7));
        let stack = "covers it [stack 1]\n      connect in libc.so.6\n    > fetch at src/fetch.c:7\n";
        assert!(first.ends_with(stack), "{first}");
        let again = written(&mut human, &event(7));
        assert!(again.ends_with("covers it [stack 1]\n"), "{again}");
        for line in [8, 8, 8, 9, 10] {
            written(&mut human, &event(line));
        }
        let summary = written(&mut human, &Event::now(Body::Summary(Summary { leaks: 7, ..Summary::default() })));
        let tally = "  outbound        7 × TCP 203.0.113.5:80\n             \
                     \x20    3 × by fetch at src/fetch.c:8 [stack 2]\n             \
                     \x20    2 × by fetch at src/fetch.c:7 [stack 1]\n             \
                     \x20    1 × by fetch at src/fetch.c:9 [stack 3]\n                    and by 1 more\n";
        assert!(summary.ends_with(tally), "{summary}");
    }

    #[test]
    fn the_tally_is_bounded() {
        let mut human = plain();
        for n in 0..TALLIED + 5 {
            written(&mut human, &call(|call| call.address = Some(n.to_string())));
        }
        written(&mut human, &call(|call| call.address = Some("0".into())));
        assert_eq!((human.tally.len(), human.untallied), (TALLIED, 5));
        let summary = written(&mut human, &Event::now(Body::Summary(Summary::default())));
        let others = TALLIED - SHOWN + 5;
        assert!(summary.ends_with(&format!("  and {others} leaks to other destinations\n")), "{summary}");
        assert!(summary.contains("     2 × TCP 0\n"), "{summary}");
    }
}
