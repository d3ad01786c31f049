//! Asking the proxy for a connection, while the program's socket waits.

use super::brisk::{Conversation, Ended};
use super::inspect::{Examiner, Inspecting};
use crate::policy::Endpoint;
use crate::proxy::client::Refusal;
use crate::relay::{Actor, Book, Events, Flow, Meeting, Next, Place, Record, Stage, Waiting, sys};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a thread may take from our start to its connect(2), before it is taken to have given up.
const THREAD_IS_LATE: Duration = Duration::from_secs(5);

/// How often a socket that is busy is refused: it is for microseconds.
const REFUSALS: u16 = 10_000;

/// Slots of the reactor: those of our end and of the proxy are the ones that [`Flow`] takes over.
const OWN: u8 = 0;
const PROXY: u8 = 1;
const PROGRAM: u8 = 2;

/// Who tells the user that the proxy doesn't work as asked.
pub type Complain = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// One attempt.
pub struct Dialing {
    /// The program's socket; `None` when it has been let go.
    held: Option<Box<dyn Waiting>>,
    record: Arc<Record>,
    book: Arc<Book>,
    ways: Vec<Way>,
    proxy: Option<OwnedFd>,
    stage: Talking,
    errand: Errand,
    begun: Instant,
    /// The program's socket has been seen connecting.
    seen: bool,
    /// A flow took over.
    joined: bool,
    /// How often the program's socket has been refused.
    refusals: u16,
    complain: Complain,
}

enum Talking {
    Connecting,
    Negotiating,
    /// The proxy has answered.
    Admitting,
    /// And our end of the connection to the program is about to stand.
    Meeting(OwnedFd),
    /// It has refused.
    Refusing(Errno),
}

/// What is to be done where the way leads.
pub enum Errand {
    /// It is a proxy, which is asked for a connection elsewhere.
    Ask(Conversation),
    /// It is a proxy to which the program itself speaks; taken once.
    Listen(Option<Examiner>),
    /// It is where the program wants to be, or a proxy that has led there; bytes that came from there already.
    Join(Vec<u8>),
}

/// One way to the other side.
pub enum Way {
    /// An address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
    /// A connection that was begun.
    Begun(OwnedFd),
    /// One that could not be.
    Failed(Errno),
}

impl Way {
    /// The ways to a proxy, the last of which is tried first.
    pub fn to(endpoint: &Endpoint) -> Vec<Self> {
        match endpoint {
            Endpoint::Tcp(addresses) => addresses.iter().rev().copied().map(Self::Tcp).collect(),
            Endpoint::Unix(paths) => paths.iter().take(1).cloned().map(Self::Unix).collect(),
        }
    }
}

impl Dialing {
    /// `held` is (or is about to be) connecting to its hole.
    #[must_use]
    pub fn new(
        held: Box<dyn Waiting>,
        record: Arc<Record>,
        book: Arc<Book>,
        nonblocking: bool,
        (errand, ways): (Errand, Vec<Way>),
        complain: Complain,
    ) -> Self {
        Self {
            held: Some(held),
            record,
            book,
            ways,
            proxy: None,
            stage: Talking::Connecting,
            errand,
            begun: Instant::now(),
            seen: nonblocking,
            joined: false,
            refusals: 0,
            complain,
        }
    }

    /// Connects to the proxy, at the first of its addresses that takes it.
    fn connect(&mut self, place: &Place<'_>) -> Next {
        let mut last = Errno::ECONNREFUSED;
        while let Some(way) = self.ways.pop() {
            match way.connect() {
                Ok(proxy) => {
                    if let Err(errno) = place.watch(PROXY, proxy.as_fd()) {
                        last = errno;
                        continue;
                    }
                    self.proxy = Some(proxy);
                    return Next::Wait;
                }
                Err(errno) => last = errno,
            }
        }
        self.proxy_fails(last, place)
    }

    fn proxy_fails(&mut self, errno: Errno, place: &Place<'_>) -> Next {
        let why = format!("can't be connected to: {}", errno.desc());
        let told = match (&self.errand, errno) {
            (Errand::Ask(_), Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ETIMEDOUT) => errno,
            (Errand::Ask(_), _) => Errno::ECONNREFUSED,
            // The program's own affair.
            _ => errno,
        };
        self.refuse(&Refusal::unreachable(told, why), place)
    }

    fn refuse(&mut self, refusal: &Refusal, place: &Place<'_>) -> Next {
        if refusal.by_proxy_itself && matches!(self.errand, Errand::Ask(_)) {
            (self.complain)(refusal);
        }
        self.proxy = None;
        self.stage = Talking::Refusing(refusal.errno);
        self.go_on(place)
    }

    /// What the proxy has said is passed on to the program's socket.
    fn go_on(&mut self, place: &Place<'_>) -> Next {
        let next = self.pass_on(place);
        if matches!(next, Next::End | Next::Become(_)) {
            self.let_go(place);
        }
        next
    }

    /// The program's socket is the program's alone again.
    fn let_go(&mut self, place: &Place<'_>) {
        if let Some(held) = self.held.take() {
            held.unwatch(place);
        }
    }

    fn pass_on(&mut self, place: &Place<'_>) -> Next {
        let Some(held) = &self.held else { return Next::End };
        if self.record.is_cancelled() {
            return Next::End;
        }
        self.seen = self.seen || held.is_waiting();
        match self.stage {
            Talking::Connecting | Talking::Negotiating => Next::Wait,
            Talking::Refusing(errno) => {
                if !self.seen && self.begun.elapsed() < THREAD_IS_LATE {
                    // Its thread is between our start and its connect, which would find nobody to end it.
                    std::thread::yield_now();
                    return Next::Again;
                }
                let refused = self.record.change(Stage::Refused(errno), || held.refuse(errno));
                self.refusals = self.refusals.saturating_add(1);
                if !refused && self.refusals < REFUSALS {
                    std::thread::yield_now();
                    return Next::Again;
                }
                Next::End
            }
            Talking::Admitting => match self.record.change(Stage::Connected, || held.admit()) {
                Ok(inner) => self.meet(inner, place),
                Err(Errno::EAGAIN) if !self.seen && self.begun.elapsed() < THREAD_IS_LATE => {
                    std::thread::yield_now();
                    Next::Again
                }
                // The program has given up.
                Err(_) => Next::End,
            },
            Talking::Meeting(_) => {
                let Talking::Meeting(inner) = std::mem::replace(&mut self.stage, Talking::Admitting) else {
                    return Next::End;
                };
                self.meet(inner, place)
            }
        }
    }

    /// Our end may be known to stand only later.
    fn meet(&mut self, inner: OwnedFd, place: &Place<'_>) -> Next {
        let Some(held) = &self.held else { return Next::End };
        match held.meeting(inner.as_fd()) {
            Meeting::Met => self.join(inner),
            // As a flow would have passed it on.
            Meeting::Reset => {
                if let Some(proxy) = &self.proxy {
                    sys::reset_on_close(proxy.as_fd());
                }
                Next::End
            }
            Meeting::Missed => {
                sys::reset_on_close(inner.as_fd());
                Next::End
            }
            Meeting::Pending => match place.watch(OWN, inner.as_fd()) {
                Ok(()) | Err(Errno::EEXIST) => {
                    self.stage = Talking::Meeting(inner);
                    Next::Wait
                }
                Err(_) => Next::End,
            },
        }
    }

    fn join(&mut self, inner: OwnedFd) -> Next {
        self.joined = true;
        let Some(outer) = self.proxy.take() else { return Next::End };
        let (book, record) = (Arc::clone(&self.book), Arc::clone(&self.record));
        let on_end = Box::new(move || book.end(&record));
        match &mut self.errand {
            Errand::Ask(_) => Next::End,
            Errand::Join(early) => Next::Become(Box::new(Flow::new(inner, outer, std::mem::take(early), on_end))),
            Errand::Listen(examiner) => match examiner.take() {
                Some(examiner) => Next::Become(Box::new(Inspecting::new(inner, outer, examiner, on_end))),
                None => Next::End,
            },
        }
    }

    /// Says and hears as much as can be.
    fn talk(&mut self, place: &Place<'_>) -> Next {
        loop {
            let Some(proxy) = &self.proxy else { return Next::Wait };
            match self.stage {
                Talking::Admitting | Talking::Meeting(_) | Talking::Refusing(_) => return self.go_on(place),
                Talking::Connecting => match sys::take_error(proxy.as_fd()) {
                    Ok(()) => {
                        sys::send_at_once(proxy.as_fd());
                        self.stage = match self.errand {
                            Errand::Ask(_) => Talking::Negotiating,
                            Errand::Listen(_) | Errand::Join(_) => Talking::Admitting,
                        };
                        continue;
                    }
                    Err(errno) => {
                        self.proxy = None;
                        return if self.ways.is_empty() {
                            self.proxy_fails(errno, place)
                        } else {
                            self.connect(place)
                        };
                    }
                },
                Talking::Negotiating => {}
            }
            let Errand::Ask(conversation) = &mut self.errand else { return Next::End };
            match conversation.go_on(proxy.as_fd()) {
                Ok(None) => return Next::Wait,
                Ok(Some(early)) => {
                    self.errand = Errand::Join(early);
                    self.stage = Talking::Admitting;
                }
                Err(Ended::Refused(refusal)) => return self.refuse(&refusal, place),
                Err(Ended::Broken(errno)) => return self.proxy_fails(errno, place),
            }
        }
    }
}

impl Actor for Dialing {
    fn start(&mut self, place: &Place<'_>) -> Next {
        if self.held.as_ref().is_some_and(|held| held.watch(PROGRAM, place).is_err()) {
            return self.proxy_fails(Errno::ENOMEM, place);
        }
        self.connect(place)
    }

    fn ready(&mut self, slot: u8, events: Events, place: &Place<'_>) -> Next {
        if matches!(self.stage, Talking::Meeting(_)) {
            return self.go_on(place);
        }
        if slot == PROGRAM {
            let Some(held) = &self.held else { return Next::Wait };
            let over = self.seen && !held.is_waiting();
            self.seen |= held.is_waiting();
            if over || self.record.is_cancelled() {
                self.let_go(place);
                return Next::End;
            }
            return Next::Wait;
        }
        let waits = matches!(self.stage, Talking::Connecting)
            && !events.intersects(Events::EPOLLOUT | Events::EPOLLERR | Events::EPOLLHUP);
        if waits { Next::Wait } else { self.talk(place) }
    }

    fn resume(&mut self, place: &Place<'_>) -> Next {
        self.go_on(place)
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        // Without a connection, its record is of use for the error alone.
        if !self.joined {
            self.book.end(&self.record);
        }
    }
}

impl Way {
    /// Begins to go there.
    pub fn connect(self) -> Result<OwnedFd, Errno> {
        match self {
            Self::Tcp(address) => begin(address),
            Self::Unix(path) => unix(&path),
            Self::Begun(socket) => Ok(socket),
            Self::Failed(errno) => Err(errno),
        }
    }
}

/// Begins a connection from our own network namespace.
pub fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = sys::tcp_socket(&address)?;
    match sys::connect_to(socket.as_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn unix(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let proxy = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(proxy.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(proxy)
}
