//! One function a system call: what it asks for, in the order in which the kernel looks at it.

use super::{Scene, Subject};
use crate::action::perform::unix_path::{Found, Origin};
use crate::action::perform::{Performed, Socket, failed, sys};
use crate::event::Action;
use crate::operation::address::{Address, UnixAddress};
use crate::operation::decode::{self, Arguments, MAX_VECTORS, Message, Sockaddr, message_at, sendto_message};
use crate::operation::layout::{self, Unreadable};
use crate::operation::{Family, Operation, SocketKind, SocketType, Way, delegate, interest, netlink, option};
use nix::errno::Errno;
use sockstrace_backend::{Outcome, Patience, Reply, Syscall};
use std::os::fd::AsFd;

const CONTINUE: Outcome = Outcome::Reply(Reply::Continue);

/// How much of a netlink message is searched for requests.
const SEARCHED: usize = 8192;

/// Whether a message is all that its call sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

impl Scene<'_> {
    pub(super) fn play(&mut self) -> Outcome {
        let call = match Arguments::of(self.call, self.tracee) {
            Ok(Some(call)) => call,
            Ok(None) => return CONTINUE,
            Err(unreadable) => return self.unreadable(Subject::default(), unreadable),
        };
        self.name = call.syscall.name();
        let fd = Subject { fd: Some(call.int(0)), ..Subject::default() };
        let outcome = match call.syscall {
            Syscall::Connect => self.connect(&call),
            Syscall::Sendto => self.sendto(&call),
            Syscall::Sendmsg => self.sendmsg(&call),
            Syscall::Sendmmsg => Ok(self.sendmmsg(&call)),
            Syscall::Bind => self.bind(&call),
            Syscall::Listen => Ok(self.listen(&call)),
            Syscall::Accept | Syscall::Accept4 => Ok(self.accept(&call)),
            Syscall::Socket => Ok(self.socket(&call)),
            Syscall::Setsockopt => self.setsockopt(&call),
            Syscall::Ioctl => self.ioctl(&call),
            Syscall::IoUringSetup => Ok(self.decide(Subject::default(), &Operation::IoUring, || CONTINUE)),
            Syscall::Getpeername => Ok(self.redirected_peer(&call).unwrap_or_else(|| self.getpeername(&call))),
            Syscall::Recvfrom => Ok(self.recvfrom(&call)),
            Syscall::Recvmsg => Ok(self.recvmsg(&call)),
            Syscall::Recvmmsg | Syscall::RecvmmsgTime64 => Ok(self.recvmmsg(&call)),
            Syscall::Getsockname => Ok(self.getsockname(&call)),
            Syscall::Getsockopt => Ok(self.getsockopt(&call)),
            Syscall::PidfdGetfd => Ok(self.decide(fd, &Operation::TakeDescriptor, || CONTINUE)),
            Syscall::Bpf
            | Syscall::RequestKey
            | Syscall::Ptrace
            | Syscall::ProcessVmWritev
            | Syscall::Mount
            | Syscall::Fsopen => self.delegate(Subject::default(), &call),
            // Taken apart above; and what goes where another call has led.
            Syscall::Socketcall
            | Syscall::Close
            | Syscall::Preadv2
            | Syscall::Pwritev2
            | Syscall::Read
            | Syscall::Readv
            | Syscall::Recv
            | Syscall::Send
            | Syscall::Sendfile
            | Syscall::Sendfile64
            | Syscall::Socketpair
            | Syscall::Splice
            | Syscall::Write
            | Syscall::Writev => Ok(CONTINUE),
        };
        outcome.unwrap_or_else(|unreadable| self.unreadable(fd, unreadable))
    }

    /// Net/socket.c, `__sys_connect`: descriptor, address, socket.
    fn connect(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        let address = self.address(call)?;
        if let Ok(address) = &address
            && let Some(outcome) = self.leave_to_kernel(call.int(0), address)
        {
            return Ok(outcome);
        }
        let (socket, address) = match self.with_socket(call, address) {
            Ok(both) => both,
            Err(refused) => return Ok(refused),
        };
        let subject = subject(call, &socket);
        let named = matches!(address.address(), Address::Unix(UnixAddress::Path(_) | UnixAddress::Abstract(_)));
        if named && heeds_path(&socket.kind, &address) {
            return Ok(self.connect_unix(subject, &socket, &address));
        }
        let operation = Operation::Connect { destination: address.address() };
        let to_us = |stand_in: Option<Sockaddr>| self.performer().connect(&socket, &stand_in.unwrap_or(address));
        if let Some(outcome) = self.redirect_query(subject, &operation, &socket, Some(&address), None, to_us) {
            return Ok(outcome);
        }
        let perform = || {
            if socket.kind.family == Family::NETLINK && self.tracee.is_alone() {
                return CONTINUE;
            }
            self.told(&socket, || self.performer().connect(&socket, &address))
        };
        Ok(self.decide_or(subject, &operation, perform, || {
            if socket.kind.is_internet_datagram() {
                self.redirect_datagram(&operation, &socket, Some(&address), to_us)
            } else {
                self.redirect_connect(call.int(0), &socket, &address)
            }
        }))
    }

    /// Where it is left to the kernel whatever the socket is, and not shown, nobody need look at the socket.
    fn leave_to_kernel(&self, fd: i32, address: &Sockaddr) -> Option<Outcome> {
        let destination = address.address();
        let internet = matches!(destination, Address::Internet(_));
        if !internet || !self.only_logs() || self.pipeline.traces_all() || self.pipeline.leads_elsewhere() {
            return None;
        }
        let operation = Operation::Connect { destination };
        // Judged as the worst socket that it can be.
        let verdict = self.pipeline.config.policy.judge(&operation, None);
        if verdict.is_leak() {
            return None;
        }
        let subject = Subject { fd: Some(fd), ..Subject::default() };
        self.record(subject, &operation, &verdict, Action::Continue, &Reply::Continue, None);
        Some(CONTINUE)
    }

    fn connect_unix(&self, subject: Subject<'_>, socket: &Socket, address: &Sockaddr) -> Outcome {
        let found = match self.find(&socket.kind, address) {
            Ok(found) => found,
            Err(errno) => return self.path_fails(subject, address, errno),
        };
        let resolver = found.as_ref().and_then(|found| self.resolver_behind(found));
        let destination = resolver.unwrap_or_else(|| destination(address, found.as_ref()));
        let subject = Subject { file: found.as_ref(), ..subject };
        let operation = Operation::Connect { destination };
        if let Some(refused) = self.refuse_resolver(subject, &operation) {
            return refused;
        }
        let perform = || {
            let performer = self.performer();
            match &found {
                // What was judged by its path is reached by what was found, not by the path.
                Some(found) => performer.connect_found(socket, found),
                // Who is alone may still share memory: there the name may be another one by now.
                None if !self.heeds_names(&socket.kind) && self.tracee.is_alone() => CONTINUE,
                None if self.patience == Patience::AtOnce => Outcome::NeedsPatience,
                None => match self.walk(address) {
                    Ok(Some(found)) => performer.connect_found(socket, &found),
                    Ok(None) => performer.connect_abstract(socket, address),
                    Err(errno) => failed(errno),
                },
            }
        };
        self.decide_or(subject, &operation, perform, || self.pass_unix(subject, socket, &operation))
    }

    /// Whether it matters to which file a path leads.
    fn heeds_files(&self, kind: &SocketKind) -> bool {
        let streams = kind.kind != SocketType::DGRAM;
        self.pipeline.config.policy.judges_unix() || (streams && self.pipeline.inspects_files())
    }

    /// Whether it matters which name is connected to.
    fn heeds_names(&self, kind: &SocketKind) -> bool {
        self.heeds_files(kind) || (kind.kind != SocketType::DGRAM && self.can_reach_resolver())
    }

    /// Whether what such a socket sends is judged by what lies in memory.
    fn heeds_messages(&self, kind: &SocketKind) -> bool {
        match kind.family {
            Family::UNIX => kind.kind == SocketType::DGRAM && self.pipeline.config.policy.judges_unix(),
            Family::NETLINK => self.pipeline.config.policy.judges_disclosure(),
            _ => false,
        }
    }

    /// The socket file behind a path, where paths are judged.
    fn find(&self, kind: &SocketKind, address: &Sockaddr) -> Result<Option<Found>, Errno> {
        match address.address() {
            Address::Unix(UnixAddress::Path(_)) if heeds_path(kind, address) && self.heeds_files(kind) => {
                if self.patience == Patience::AtOnce { Err(Errno::EAGAIN) } else { self.walk(address) }
            }
            Address::Unix(named @ UnixAddress::Path(_))
                if heeds_path(kind, address) && kind.kind != SocketType::DGRAM =>
            {
                self.find_resolver(&named, || self.walk(address))
            }
            _ => Ok(None),
        }
    }

    /// [`Scene::find`] for an address given with a message, which datagram sockets alone heed.
    fn find_named(&self, kind: &SocketKind, name: &Sockaddr) -> Result<Option<Found>, Errno> {
        if kind.kind == SocketType::DGRAM { self.find(kind, name) } else { Ok(None) }
    }

    fn walk(&self, address: &Sockaddr) -> Result<Option<Found>, Errno> {
        let Address::Unix(UnixAddress::Path(path)) = address.address() else { return Ok(None) };
        Origin::of(self.tracee)?.find(&path).map(Some)
    }

    /// A path that leads to nothing can't leak; the walk may also want more time.
    fn path_fails(&self, subject: Subject<'_>, address: &Sockaddr, errno: Errno) -> Outcome {
        match errno {
            Errno::EAGAIN if self.patience == Patience::AtOnce => Outcome::NeedsPatience,
            Errno::EPERM | Errno::EACCES => {
                // Perhaps only we are denied: judged by the name, performed by nobody.
                let destination = address.address();
                self.decide(subject, &Operation::Connect { destination }, || failed(errno))
            }
            errno => self.kernel_refuses(subject, errno),
        }
    }

    fn sendto(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        // `__sys_sendto`: descriptor and socket before the address.
        let socket = match self.socket_of(call) {
            Ok(socket) => socket,
            Err(refused) => return Ok(refused),
        };
        let subject = subject(call, &socket);
        match sendto_message(self.tracee, call)? {
            Ok(message) => Ok(self.send(subject, &socket, &message, call, Whole::Yes)),
            Err(errno) => Ok(self.kernel_refuses(subject, errno)),
        }
    }

    fn sendmsg(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        let socket = match self.socket_of(call) {
            Ok(socket) => socket,
            Err(refused) => return Ok(refused),
        };
        let subject = subject(call, &socket);
        match message_at(self.tracee, call.abi, call.arg(1), call.int(2))? {
            Ok(message) => Ok(self.send(subject, &socket, &message, call, Whole::Yes)),
            Err(errno) => Ok(self.kernel_refuses(subject, errno)),
        }
    }

    /// Net/socket.c, `__sys_sendmmsg`: message after message, until one fails; how many went out.
    fn sendmmsg(&self, call: &Arguments) -> Outcome {
        let socket = match self.socket_of(call) {
            Ok(socket) => socket,
            Err(refused) => return refused,
        };
        let subject = subject(call, &socket);
        let count = (call.arg(2) & 0xFFFF_FFFF).min(MAX_VECTORS);
        let entry = layout::batch_entry_bytes(call.abi) as u64;
        if count > 1 && self.patience == Patience::AtOnce {
            // Half of them done can't be handed on to somebody with more time.
            return Outcome::NeedsPatience;
        }
        // Where a query among them isn't left to the kernel, none is.
        let datagrams = socket.kind.is_internet_datagram();
        self.performs.set(count > 1 && datagrams && self.only_logs() && self.pipeline.dns.is_some());
        // Nor can the kernel go on behind the first one that we perform: all or none are left to it.
        let whole = if count > 1 { Whole::No } else { Whole::Yes };
        let mut sent = 0_u64;
        while sent < count {
            let header = call.arg(1).wrapping_add(sent.wrapping_mul(entry));
            let outcome = match message_at(self.tracee, call.abi, header, call.int(3)) {
                Ok(Ok(message)) => self.send(subject, &socket, &message, call, whole),
                Ok(Err(errno)) => self.kernel_refuses(subject, errno),
                Err(unreadable) => self.unreadable(subject, unreadable),
            };
            match outcome {
                Outcome::Reply(Reply::Return(bytes)) => {
                    let length = (bytes as u32).to_ne_bytes();
                    let at = header.wrapping_add(layout::message_header_bytes(call.abi) as u64);
                    if self.tracee.write(at, &length).is_err() {
                        // Sent, but not counted: as the kernel has it.
                        return if sent == 0 { failed(Errno::EFAULT) } else { returned(sent) };
                    }
                }
                // Left to the kernel: the others are judged all the same.
                Outcome::Reply(Reply::Continue) => {}
                other if sent == 0 => return other,
                _ => return returned(sent),
            }
            sent = sent.saturating_add(1);
            if matches!(outcome, Outcome::Reply(Reply::Continue)) && sent == count {
                return CONTINUE;
            }
        }
        returned(sent)
    }

    /// One message.
    fn send(
        &self,
        subject: Subject<'_>,
        socket: &Socket,
        message: &Message,
        call: &Arguments,
        whole: Whole,
    ) -> Outcome {
        if socket.kind.family == Family::NETLINK && self.pipeline.config.policy.judges_disclosure() {
            match self.shows_network(message) {
                Ok(None) => {}
                Ok(Some(request)) => {
                    let operation = Operation::ShowNetwork { request };
                    return self
                        .decide(subject, &operation, || self.perform_send(socket, message, call, None, whole));
                }
                Err(unreadable) => return self.unreadable(subject, unreadable),
            }
        }
        let found = match message.name.as_ref().map(|name| self.find_named(&socket.kind, name)).transpose() {
            Ok(found) => found.flatten(),
            Err(errno) => {
                let name = message.name.unwrap_or(Sockaddr::from_bytes(&[]));
                return self.path_fails(subject, &name, errno);
            }
        };
        let destination = match &message.name {
            Some(name) => named_destination(&socket.kind, name, message.flags, found.as_ref()),
            None => None,
        };
        // A datagram without an address of its own goes to the peer that connect has set, perhaps before
        // we looked. A stream was judged when it was connected or accepted.
        let peer = || {
            let connected = socket.kind.is_internet_datagram() || socket.kind.family == Family::VSOCK;
            let peer = connected.then(|| sys::peer_name(socket.as_fd()).ok()).flatten();
            peer.map(|peer| self.meant(peer.address(), &socket.kind))
        };
        let way = if socket.kind.is_internet() { decode::way(&message.control, call.abi) } else { Way::default() };
        let operation = Operation::Send { destination: destination.or_else(peer), way };
        let to_us = |stand_in: Option<Sockaddr>| {
            // Without what could send it elsewhere, or from an address that can't reach us.
            let message = Message { name: stand_in, control: Vec::new(), ..message.clone() };
            self.performer().send(socket, &message, call.abi, None)
        };
        // What cuts it into segments stays (`UDP_SEGMENT`); what chooses its way was refused before.
        let to_the_proxy = |stand_in: Option<Sockaddr>| {
            let message = Message { name: stand_in, ..message.clone() };
            self.performer().send(socket, &message, call.abi, None)
        };
        let given = message.name.as_ref();
        if let Some(outcome) = self.redirect_query(subject, &operation, socket, given, Some(message), to_us) {
            return outcome;
        }
        let subject = Subject { file: found.as_ref(), ..subject };
        let perform = || self.perform_send(socket, message, call, found.as_ref(), whole);
        self.decide_or(subject, &operation, perform, || {
            if socket.kind.is_internet_datagram() {
                self.redirect_datagram(&operation, socket, given, to_the_proxy)
            } else {
                self.redirect_send(call.int(0), socket, message, call.abi)
            }
        })
    }

    fn perform_send(
        &self,
        socket: &Socket,
        message: &Message,
        call: &Arguments,
        found: Option<&Found>,
        whole: Whole,
    ) -> Performed {
        let local = matches!(socket.kind.family, Family::UNIX | Family::NETLINK | Family::ALG);
        // Who is alone may still share memory.
        let is_left = local && !self.heeds_messages(&socket.kind) && found.is_none();
        if is_left && whole == Whole::Yes && self.tracee.is_alone() {
            return CONTINUE;
        }
        if found.is_none() && message.name.is_some_and(|name| names_path(&socket.kind, &name)) {
            if self.patience == Patience::AtOnce {
                return Outcome::NeedsPatience;
            }
            return match message.name.as_ref().map(|name| self.walk(name)).transpose() {
                Ok(found) => self.performer().send(socket, message, call.abi, found.flatten().as_ref()),
                Err(errno) => failed(errno),
            };
        }
        self.performer().send(socket, message, call.abi, found)
    }

    /// The request for addresses, routes or links in a netlink message.
    fn shows_network(&self, message: &Message) -> Result<Option<&'static str>, Unreadable> {
        let mut bytes = vec![0; SEARCHED.min(usize::try_from(message.payload.length()).unwrap_or(SEARCHED))];
        let mut filled = 0_usize;
        for vector in message.payload.vectors() {
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            let take = usize::try_from(vector.length).unwrap_or(usize::MAX).min(rest.len());
            match layout::copy(self.tracee, vector.base, rest.get_mut(..take).unwrap_or_default()) {
                // The kernel will find the same fault.
                Err(Unreadable::Fault) => return Ok(None),
                other => other?,
            }
            filled = filled.saturating_add(take);
        }
        Ok(netlink::shows_network(&bytes))
    }

    fn bind(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        // `__sys_bind` looks at the socket before the address.
        if let Err(refused) = self.socket_of(call) {
            return Ok(refused);
        }
        let (socket, address) = match self.socket_and_address(call)? {
            Ok(both) => both,
            Err(refused) => return Ok(refused),
        };
        let local = match address.address() {
            // `__inet_bind` takes AF_UNSPEC for AF_INET.
            Address::Unspecified if socket.kind.family == Family::INET => {
                Address::parse_as_inet(address.as_bytes())
            }
            // Neither takes an address of another family.
            other if socket.kind.is_internet() && !matches!(other, Address::Internet(_)) => {
                Address::Malformed(other.family())
            }
            address => address,
        };
        Ok(self.decide(subject(call, &socket), &Operation::Bind { local }, || {
            if !self.pipeline.config.policy.judges_incoming() {
                return CONTINUE;
            }
            match socket.kind.family {
                Family::UNIX | Family::NETLINK if self.tracee.is_alone() => CONTINUE,
                Family::UNIX => self.performer().bind_path(&socket, &address),
                _ => self.performer().bind(&socket, &address),
            }
        }))
    }

    fn listen(&self, call: &Arguments) -> Outcome {
        let perform = |socket: &Socket| {
            // listen is where a UNIX socket gets the credentials that its peers see.
            let local = socket.kind.family == Family::UNIX && self.tracee.is_alone();
            if local || !self.pipeline.config.policy.judges_incoming() {
                return CONTINUE;
            }
            self.performer().listen(socket, call.int(1))
        };
        self.on_local_address(call, |local| Operation::Listen { local }, perform)
    }

    fn accept(&self, call: &Arguments) -> Outcome {
        self.on_local_address(call, |local| Operation::Accept { local }, |_| CONTINUE)
    }

    /// Calls that are judged by the address that the socket is bound to.
    fn on_local_address(
        &self,
        call: &Arguments,
        operation: impl FnOnce(Address) -> Operation,
        perform: impl FnOnce(&Socket) -> Performed,
    ) -> Outcome {
        let socket = match self.socket_of(call) {
            Ok(socket) => socket,
            Err(refused) => return refused,
        };
        let local = match sys::local_name(socket.as_fd()) {
            Ok(name) => name.address(),
            Err(errno) => return self.kernel_refuses(subject(call, &socket), errno),
        };
        self.decide(subject(call, &socket), &operation(local), || perform(&socket))
    }

    fn socket(&self, call: &Arguments) -> Outcome {
        let (domain, kind, protocol) = (call.int(0), call.int(1), call.int(2));
        let asked = SocketKind { family: Family(domain), kind: SocketType::from_argument(kind), protocol };
        let subject = Subject { socket: Some(&asked), ..Subject::default() };
        let operation = self.opening(&asked);
        self.decide(subject, &operation, || {
            if call.from_memory { Outcome::Reply(Reply::OpenSocket { domain, kind, protocol }) } else { CONTINUE }
        })
    }

    fn setsockopt(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        let (level, name) = (call.int(1), call.int(2));
        if !option::is_judged(level, name, call.int(4)) {
            return Ok(CONTINUE);
        }
        let socket = match self.socket_of(call) {
            Ok(socket) => socket,
            Err(refused) => return Ok(refused),
        };
        let subject = subject(call, &socket);
        let length = match usize::try_from(call.int(4)) {
            Ok(length) => length.min(option::LONGEST),
            Err(_) => return Ok(self.kernel_refuses(subject, Errno::EINVAL)),
        };
        let mut value = vec![0; length];
        let read = layout::copy(self.tracee, call.arg(3), &mut value);
        if read == Err(Unreadable::Fault) && !self.only_logs() {
            // Level, name and length are looked at first.
            return Ok(self.performer().set_unreadable_option(&socket, level, name, call.int(4)));
        }
        read?;
        let value = option::native(level, name, value, call.abi);
        let perform = || self.performer().set_option(&socket, level, name, &value);
        // An IPv4 socket has no IPv6 options.
        let applies =
            socket.kind.is_internet() && (level, socket.kind.family) != (libc::IPPROTO_IPV6, Family::INET);
        Ok(match option::meaning(level, name, &value).filter(|_| applies) {
            Some(operation) => self.decide(subject, &operation, perform),
            // Options that redirect nothing, or are taken back.
            None if self.only_logs() => CONTINUE,
            None => perform(),
        })
    }

    fn ioctl(&self, call: &Arguments) -> Result<Outcome, Unreadable> {
        let subject = Subject { fd: Some(call.int(0)), ..Subject::default() };
        let operation = match (call.int(1), interest::showing_request(call.int(1))) {
            (interest::TUNSETIFF, _) => Operation::AttachTun,
            (delegate::TIOCSTI | delegate::TIOCLINUX, _) => return self.delegate(subject, call),
            (_, Some(request)) => Operation::ShowNetwork { request },
            _ => return Ok(CONTINUE),
        };
        Ok(self.decide(subject, &operation, || CONTINUE))
    }

    /// Calls that have others act.
    fn delegate(&self, subject: Subject<'_>, call: &Arguments) -> Result<Outcome, Unreadable> {
        Ok(match delegate::delegated(call, self.tracee)? {
            Some(what) => self.decide(subject, &Operation::Delegate { what }, || CONTINUE),
            None => CONTINUE,
        })
    }

    fn socket_of(&self, call: &Arguments) -> Result<Socket, Outcome> {
        let fd = call.int(0);
        let subject = Subject { fd: Some(fd), ..Subject::default() };
        Socket::of(self.tracee, fd).map_err(|errno| self.kernel_refuses(subject, errno))
    }

    /// Descriptor and address of connect and bind, in the kernel's order: descriptor, address, socket. The
    /// address is read first all the same (see `sockstrace_backend::remote`).
    fn socket_and_address(&self, call: &Arguments) -> Result<Result<(Socket, Sockaddr), Outcome>, Unreadable> {
        let address = self.address(call)?;
        Ok(self.with_socket(call, address))
    }

    /// The address that the call's second and third arguments give.
    fn address(&self, call: &Arguments) -> Result<Result<Sockaddr, Errno>, Unreadable> {
        match decode::sockaddr(self.tracee, call.arg(1), call.int(2)) {
            Err(Unreadable::Denied) => Ok(Err(Errno::EPERM)),
            other => other,
        }
    }

    /// The call's socket beside its address, or what the kernel says of either.
    fn with_socket(
        &self,
        call: &Arguments,
        address: Result<Sockaddr, Errno>,
    ) -> Result<(Socket, Sockaddr), Outcome> {
        let fd = call.int(0);
        let subject = Subject { fd: Some(fd), ..Subject::default() };
        match (Socket::of(self.tracee, fd), address) {
            (Err(errno), Err(_)) if errno != Errno::ENOTSOCK => Err(self.kernel_refuses(subject, errno)),
            (_, Err(errno)) | (Err(errno), _) => Err(self.kernel_refuses(subject, errno)),
            (Ok(socket), Ok(address)) => Ok((socket, address)),
        }
    }
}

fn subject<'a>(call: &Arguments, socket: &'a Socket) -> Subject<'a> {
    Subject { fd: Some(call.int(0)), socket: Some(&socket.kind), file: None }
}

fn returned(count: u64) -> Outcome {
    Outcome::Reply(Reply::Return(count as i64))
}

/// The address to judge: a path is the file that it leads to.
fn destination(address: &Sockaddr, found: Option<&Found>) -> Address {
    match found.map(Found::path) {
        Some(Ok(path)) => Address::Unix(UnixAddress::Path(path)),
        _ => address.address(),
    }
}

/// Whether the kernel looks a UNIX address up for such a socket: `unix_validate_addr` (net/unix/af_unix.c).
fn heeds_path(kind: &SocketKind, address: &Sockaddr) -> bool {
    const LONGEST: usize = size_of::<libc::sockaddr_un>();
    kind.family == Family::UNIX && address.as_bytes().len() <= LONGEST
}

/// Whether a message's address is a path that is looked up.
fn names_path(kind: &SocketKind, name: &Sockaddr) -> bool {
    kind.kind == SocketType::DGRAM
        && heeds_path(kind, name)
        && matches!(name.address(), Address::Unix(UnixAddress::Path(_)))
}

/// What the kernel makes of an address given with a message.
pub(super) fn named_destination(
    kind: &SocketKind,
    name: &Sockaddr,
    flags: i32,
    found: Option<&Found>,
) -> Option<Address> {
    // TCP heeds it with MSG_FASTOPEN alone (`tcp_sendmsg_locked`, `mptcp_sendmsg_fastopen`).
    let ignores =
        matches!((kind.family, kind.kind), (Family::INET | Family::INET6 | Family::SMC, SocketType::STREAM))
            && matches!(kind.protocol, 0 | libc::IPPROTO_TCP | libc::IPPROTO_MPTCP)
            && flags & libc::MSG_FASTOPEN == 0;
    // Streams refuse it, sequenced packets ignore it (`unix_stream_sendmsg`, `unix_seqpacket_sendmsg`).
    let ignores = ignores || (kind.family == Family::UNIX && kind.kind != SocketType::DGRAM);
    match (name.address(), kind.family) {
        _ if ignores => None,
        // `udp_sendmsg` and `raw_sendmsg` take AF_UNSPEC for AF_INET, `udpv6_sendmsg` for no address.
        (Address::Unspecified, Family::INET) if kind.kind != SocketType::STREAM => {
            Some(Address::parse_as_inet(name.as_bytes()))
        }
        (Address::Unspecified, Family::INET6) => None,
        _ => Some(destination(name, found)),
    }
}
