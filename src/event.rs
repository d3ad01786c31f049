//! The event schema, once. Keys and values are public interface: a change is a breaking change.

mod stack;

pub use stack::{Frame, Stack};

use crate::operation::{Address, SocketKind, UnixAddress};
use crate::policy::Class;
use nix::errno::Errno;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

/// The version of the schema (`v`).
pub const VERSION: u8 = 1;

/// One line of the event stream.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    v: u8,
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// What happened (`kind`).
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly all are calls, and none is kept")]
pub enum Body {
    /// A call was judged.
    Syscall(Call),
    /// The SOCKS handshake of a connection was judged.
    Socks(Socks),
    /// A process runs a new program, or ended.
    Process(Process),
    /// A TCP connection's state changed.
    TcpState(TcpState),
    /// Events were lost here.
    Lost(Lost),
    /// The last line.
    Summary(Summary),
}

impl Event {
    /// An event of this moment.
    #[must_use]
    pub fn now(body: Body) -> Self {
        Self { v: VERSION, time: SystemTime::now(), body }
    }

    /// An event of that moment.
    #[must_use]
    pub fn at(time: SystemTime, body: Body) -> Self {
        Self { v: VERSION, time, body }
    }

    /// When it happened.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.time
    }
}

/// Who did something.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Who {
    /// How it came to be known.
    pub backend: &'static str,
    /// Process id.
    pub pid: i32,
    /// Thread id.
    pub tid: i32,
    /// The process's parent at that moment: who started whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppid: Option<i32>,
    /// The thread's name. It can be anything the program likes: whoever shows it must escape it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The executable's path, as hostile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// A judged call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// Who made it.
    #[serde(flatten)]
    pub who: Who,
    /// Its name.
    pub syscall: &'static str,
    /// The binary interface.
    pub abi: &'static str,
    /// What carried it out, where that was no system call: `io_uring`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'static str>,
    /// The caller's descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// What kind of socket that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Socket>,
    /// The address it is about ([`address`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What the program saw: −1 where the call failed.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub returned: Option<i64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<Cow<'static, str>>,
    /// What the policy says.
    pub verdict: Judgement,
    /// Of a leak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// What was done.
    pub action: Action,
    /// Why, in words for a person.
    pub reason: Cow<'static, str>,
    /// The rule that decided, as the user wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where in the program it was made.
    #[serde(flatten, serialize_with = "stack::serialize")]
    pub stack: Option<Arc<Stack>>,
}

impl Call {
    /// Fills in `return` and `errno` from a result as the kernel gives it (negative: −errno).
    pub fn set_result(&mut self, result: i64) {
        if (-4095..0).contains(&result) {
            self.returned = Some(-1);
            self.errno = Some(errno_name(result.saturating_neg() as i32));
        } else {
            self.returned = Some(result);
            self.errno = None;
        }
    }
}

/// A judged SOCKS handshake.
#[derive(Debug, Clone, Serialize)]
pub struct Socks {
    /// The call that made the connection, and the verdict.
    #[serde(flatten)]
    pub call: Call,
    /// What was seen of the handshake.
    pub socks: Handshake,
}

/// What was seen of a SOCKS handshake, in names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Handshake {
    /// The authentication methods that the program offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<Vec<String>>,
    /// The method that the proxy chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// The username, shortened unless the user wants to see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password, in the same way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// What was asked for: `connect`, `resolve`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'static str>,
    /// Where to: host (a name or an address) and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judgement {
    /// No leak.
    Allowed,
    /// A leak.
    Leak,
}

/// What was done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It was let go.
    Continue,
    /// It was refused.
    Block,
    /// It was sent through the proxy.
    Redirect,
    /// The process was killed.
    Kill,
    /// The whole tree was killed.
    KillTree,
    /// The process was ended with SIGABRT and a core.
    Core,
}

/// A kind of socket, in names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// Address family.
    pub family: Cow<'static, str>,
    /// Type; a number where it has no name.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Protocol of an internet socket; a number where it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Cow<'static, str>>,
}

impl From<&SocketKind> for Socket {
    fn from(socket: &SocketKind) -> Self {
        let named_or = |name: Option<&'static str>, number: i32| {
            name.map_or_else(|| Cow::Owned(number.to_string()), Cow::Borrowed)
        };
        let protocol_matters = socket.is_internet() && socket.protocol != 0;
        let protocol = socket.protocol_name().map(Cow::Borrowed);
        Self {
            family: named_or(socket.family.name(), socket.family.0),
            kind: named_or(socket.kind.name(), socket.kind.0),
            protocol: protocol.or_else(|| protocol_matters.then(|| Cow::Owned(socket.protocol.to_string()))),
        }
    }
}

/// A process event.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Which process; `tid` is its first thread.
    #[serde(flatten)]
    pub who: Who,
    /// What happened to it.
    pub event: Change,
    /// Exit status, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It runs a new program.
    Exec,
    /// It ended.
    Exit,
}

/// A change of a TCP connection's state.
#[derive(Debug, Clone, Serialize)]
pub struct TcpState {
    /// Whose socket it is; process 0 where that isn't known.
    #[serde(flatten)]
    pub who: Who,
    /// What it is.
    pub socket: Socket,
    /// Its own address.
    pub local: String,
    /// The other's.
    pub remote: String,
    /// The state before.
    pub old: TcpStateName,
    /// The state from now on.
    pub new: TcpStateName,
}

/// A TCP state by its number (<`net/tcp_states.h`>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpStateName(pub u8);

impl TcpStateName {
    /// The kernel's name, without its `TCP_`, and the one in words joined: `SYN_SENT`, `SynSent`.
    fn names(self) -> Option<(&'static str, &'static str)> {
        Some(match self.0 {
            1 => ("ESTABLISHED", "Established"),
            2 => ("SYN_SENT", "SynSent"),
            3 => ("SYN_RECV", "SynRecv"),
            4 => ("FIN_WAIT1", "FinWait1"),
            5 => ("FIN_WAIT2", "FinWait2"),
            6 => ("TIME_WAIT", "TimeWait"),
            7 => ("CLOSE", "Close"),
            8 => ("CLOSE_WAIT", "CloseWait"),
            9 => ("LAST_ACK", "LastAck"),
            10 => ("LISTEN", "Listen"),
            11 => ("CLOSING", "Closing"),
            12 => ("NEW_SYN_RECV", "NewSynRecv"),
            13 => ("BOUND_INACTIVE", "BoundInactive"),
            _ => return None,
        })
    }

    /// As the kernel writes it: `SYN_SENT`.
    #[must_use]
    pub fn kernel(self) -> Cow<'static, str> {
        self.names().map_or_else(|| Cow::Owned(self.0.to_string()), |(kernel, _)| Cow::Borrowed(kernel))
    }

    /// As sockwho writes it: `SynSent`.
    #[must_use]
    pub fn joined(self) -> Cow<'static, str> {
        self.names().map_or_else(|| Cow::Owned(self.0.to_string()), |(_, joined)| Cow::Borrowed(joined))
    }
}

impl Serialize for TcpStateName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.kernel())
    }
}

/// Events that were lost between the one before this and the next.
#[derive(Debug, Clone, Serialize)]
pub struct Lost {
    /// Where.
    pub backend: &'static str,
    /// How many.
    pub dropped: u64,
}

/// The whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Calls that were judged.
    pub events: u64,
    /// Leaks among them.
    pub leaks: u64,
    /// PROGRAM, and the processes that made judged calls.
    pub processes: u64,
    /// Events that were lost.
    pub dropped: u64,
    /// sockstrace's own exit status.
    pub exit: i32,
}

/// An address as events write it; `None` where there is none.
#[must_use]
pub fn address(address: &Address) -> Option<String> {
    match address {
        Address::Unspecified | Address::Unix(UnixAddress::Unnamed) => None,
        address => Some(address.to_string()),
    }
}

/// The name of an errno. A few numbers without one reach programs all the same.
#[must_use]
pub fn errno_name(number: i32) -> Cow<'static, str> {
    // ENOTSUPP is the kernel's own, but escapes from some protocols.
    const ENOTSUPP: i32 = 524;
    match Errno::from_raw(number) {
        Errno::EPERM => Cow::Borrowed("EPERM"),
        Errno::UnknownErrno if number == ENOTSUPP => Cow::Borrowed("ENOTSUPP"),
        Errno::UnknownErrno => Cow::Owned(number.to_string()),
        errno => Cow::Owned(format!("{errno:?}")),
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // humantime panics before 1970.
    let time = (*time).max(SystemTime::UNIX_EPOCH);
    serializer.collect_str(&humantime::format_rfc3339_nanos(time))
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::stack::tests::frame;
    use super::*;
    use crate::operation::{Family, SocketType};
    use std::time::Duration;

    /// A leak that was refused.
    pub(crate) fn leak() -> Event {
        let mut call = Call {
            who: Who {
                backend: "seccomp",
                pid: 1234,
                tid: 1237,
                ppid: Some(1200),
                process: Some("curl".into()),
                exe: Some("/usr/bin/curl".into()),
            },
            syscall: "connect",
            abi: "x86_64",
            via: None,
            fd: Some(5),
            socket: Some(Socket::from(&SocketKind { family: Family::INET, kind: SocketType::STREAM, protocol: 6 })),
            address: Some("203.0.113.5:80".into()),
            returned: None,
            errno: None,
            verdict: Judgement::Leak,
            class: Some(Class::Outbound),
            action: Action::Block,
            reason: "no proxy or rule covers it".into(),
            rule: None,
            stack: None,
        };
        call.set_result(-1);
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 42);
        Event { v: VERSION, time, body: Body::Syscall(call) }
    }

    /// The same with changes.
    pub(crate) fn call(change: impl FnOnce(&mut Call)) -> Event {
        let mut event = leak();
        if let Body::Syscall(call) = &mut event.body {
            change(call);
        }
        event
    }

    #[test]
    fn a_call_has_the_contracts_keys() {
        assert_eq!(
            serde_json::to_string(&leak()).unwrap(),
            "{\"v\":1,\"time\":\"2023-11-14T22:13:20.000000042Z\",\"kind\":\"syscall\",\
             \"backend\":\"seccomp\",\"pid\":1234,\"tid\":1237,\"ppid\":1200,\"process\":\"curl\",\
             \"exe\":\"/usr/bin/curl\",\"syscall\":\"connect\",\"abi\":\"x86_64\",\"fd\":5,\
             \"socket\":{\"family\":\"inet\",\"type\":\"stream\",\"protocol\":\"tcp\"},\
             \"address\":\"203.0.113.5:80\",\"return\":-1,\"errno\":\"EPERM\",\"verdict\":\"leak\",\
             \"class\":\"outbound\",\"action\":\"block\",\"reason\":\"no proxy or rule covers it\"}"
        );
    }

    #[test]
    fn other_kinds() {
        let json = |body| serde_json::to_value(Event::now(body)).unwrap();
        let who = Who { backend: "ptrace", pid: 1, tid: 1, ..Who::default() };
        let process = Process { who, event: Change::Exit, status: None, signal: Some(9) };
        let value = json(Body::Process(process));
        assert_eq!((&value["kind"], &value["event"]), (&"process".into(), &"exit".into()));
        assert_eq!((&value["signal"], value.get("status")), (&9.into(), None));
        assert_eq!(value["pid"], 1);
        let who = Who { backend: "ebpf", pid: 9, tid: 9, ..Who::default() };
        let socket = Socket::from(&SocketKind { family: Family::INET, kind: SocketType::STREAM, protocol: 6 });
        let (local, remote) = ("127.0.0.1:5".into(), "127.0.0.1:80".into());
        let (old, new) = (TcpStateName(2), TcpStateName(99));
        let value = json(Body::TcpState(TcpState { who, socket, local, remote, old, new }));
        assert_eq!(
            (&value["kind"], &value["old"], &value["new"]),
            (&"tcp_state".into(), &"SYN_SENT".into(), &"99".into())
        );
        assert_eq!((&value["local"], &value["socket"]["protocol"]), (&"127.0.0.1:5".into(), &"tcp".into()));
        let value = json(Body::Lost(Lost { backend: "ebpf", dropped: 3 }));
        assert_eq!((&value["kind"], &value["dropped"]), (&"lost".into(), &3.into()));
        let summary = Summary { events: 5, leaks: 1, processes: 2, dropped: 0, exit: 23 };
        let value = json(Body::Summary(summary));
        for (key, expected) in [("events", 5), ("leaks", 1), ("processes", 2), ("dropped", 0), ("exit", 23)] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(value["kind"], "summary");
        assert_eq!(serde_json::to_value(Action::KillTree).unwrap(), "kill-tree");
    }

    #[test]
    fn results() {
        let result = |value| {
            let mut event = leak();
            let Body::Syscall(call) = &mut event.body else { unreachable!() };
            call.set_result(value);
            (call.returned, call.errno.clone().map(Cow::into_owned))
        };
        assert_eq!(result(7), (Some(7), None));
        assert_eq!(result(-111), (Some(-1), Some("ECONNREFUSED".into())));
        assert_eq!(result(-524), (Some(-1), Some("ENOTSUPP".into())));
        assert_eq!(result(-600), (Some(-1), Some("600".into())));
    }

    #[test]
    fn sockets_and_addresses() {
        let socket = |family, kind, protocol| {
            let socket = Socket::from(&SocketKind { family: Family(family), kind: SocketType(kind), protocol });
            (socket.family.into_owned(), socket.kind.into_owned(), socket.protocol.map(Cow::into_owned))
        };
        assert_eq!(socket(99, 9, 1), ("99".into(), "9".into(), None));
        assert_eq!(socket(2, 3, 47), ("inet".into(), "raw".into(), Some("47".into())));
        assert_eq!(socket(1, 1, 0), ("unix".into(), "stream".into(), None));
        assert_eq!(address(&Address::Unspecified), None);
        assert_eq!(address(&Address::Unix(UnixAddress::Unnamed)), None);
        assert_eq!(address(&Address::Unix(UnixAddress::Abstract(b"x".to_vec()))), Some("@x".into()));
    }
}
