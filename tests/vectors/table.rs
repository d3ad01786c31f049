//! What a row of the table says, and how rows are written.

/// One way past the proxy, and what is to be seen of it.
#[derive(Debug, Clone)]
pub struct Vector {
    /// The guest's name for it (`vectors NAME`).
    pub guest: &'static str,
    /// Which build of the guest.
    pub binary: Binary,
    /// Options of sockstrace besides backend, action and proxies.
    pub options: &'static [&'static str],
    /// The call that is to be reported, any of them; empty when any call will do.
    pub calls: &'static [&'static str],
    /// The address to be reported.
    pub address: At,
    /// The class to be reported.
    pub class: &'static str,
    /// A second leak to be reported in log mode: call and class.
    pub also: Option<(&'static str, &'static str)>,
    /// The ABI to be reported.
    pub abi: &'static str,
    /// What shows that it worked.
    pub seen: Seen,
    /// Whether it works without sockstrace.
    pub native: Native,
    /// What the harness prepares.
    pub fixture: Fixture,
    /// A probe that tells whether this kernel can do it.
    pub needs: Option<&'static str>,
    /// Works only for root.
    pub root: bool,
    /// Where the row differs from what all rows have in common.
    pub exceptions: Vec<Exception>,
}

/// Builds of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// x86-64, dynamic.
    Wide,
    /// x86-64, static.
    Static,
    /// i386.
    Narrow,
}

/// What an event says in `address`.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// Exactly this.
    Is(&'static str),
    /// Starting so.
    Starts(&'static str),
    /// Ending so.
    Ends(&'static str),
    /// Whatever it says.
    Any,
}

/// Ground truth.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// The token at the TCP witness.
    Tcp,
    /// The token at the UDP witness.
    Udp,
    /// A packet with the token in it.
    Token,
    /// A packet of this IP protocol to this address.
    Packet(u8, &'static str),
    /// A packet of this IP protocol that names this group.
    Group(u8, &'static str),
    /// The token at a UNIX witness.
    Unix,
    /// The harness was served by the guest's TCP socket at this index of `Stage::own_addresses`.
    ServedTcp(usize),
    /// The same for UDP.
    ServedUdp(usize),
    /// The guest printed what it learnt.
    Told,
    /// Nothing could be seen.
    Nothing,
}

/// How a vector fares natively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// It gets through, and the guest exits with 0.
    Succeeds,
    /// The kernel refuses it (why: see the row), and the guest exits with 1.
    Fails,
}

/// What the harness prepares before the program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// Nothing.
    None,
    /// The program inherits a TCP socket, connected to the witness, as this descriptor.
    ConnectedTcp(i32),
    /// The same with UDP.
    ConnectedUdp(i32),
    /// It inherits an unconnected TCP socket.
    FreshTcp(i32),
    /// It inherits a listening socket.
    Listener(i32),
    /// It inherits a packet socket that is bound to loopback.
    BoundPacket(i32),
    /// It inherits an `io_uring`; guest arguments: the descriptor, and the ring's parameters.
    Ring(i32),
    /// A process outside the tree holds a connected socket; guest arguments: its pid and the descriptor.
    Outside,
    /// UNIX sockets in the working directory, of which `ok.*` are allowed.
    Unix,
    /// A process outside the tree hands over such a socket to whoever connects to `giver.sock`.
    Handed(Handed),
}

/// What is handed over by SCM_RIGHTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// A TCP socket, connected to the witness.
    ConnectedTcp,
    /// A UDP socket, connected to the witness.
    ConnectedUdp,
    /// A TCP socket that isn't connected.
    FreshTcp,
    /// A UDP socket that isn't connected.
    FreshUdp,
}

impl Fixture {
    /// Whether what is inherited is judged before the program starts, and not when it is used.
    pub fn is_judged_at_start(self) -> bool {
        matches!(self, Self::ConnectedTcp(_) | Self::ConnectedUdp(_) | Self::BoundPacket(_) | Self::Ring(_))
    }
}

/// Where a row differs. Each has its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exception {
    /// In log mode the call may be refused all the same.
    MayBeRefusedInLog(&'static str),
    /// A refusal may have this errno instead of EPERM.
    Errno(&'static str, &'static str),
    /// The refused operation may return a count, as the kernel does when a later message fails.
    Partial(&'static str),
    /// No event is needed.
    NoEvent(&'static str),
    /// With this backend the attempt comes to nothing by itself: no event is needed, nothing arrives.
    Hopeless(&'static str, &'static str),
    /// Under kill-tree the status may be PROGRAM's own outcome.
    ProgramHasEnded(&'static str),
    /// For an ordinary user's sockstrace without `--user-namespace` the process is out of reach: it is
    /// refused, and reported without an address.
    OutOfReach,
    /// Before Linux 6.9 the thread's descriptors are out of reach: it is refused, and reported without an address.
    OwnTable,
    /// With this backend the socket itself is refused where leaks are: no hook sees all that it could reach.
    SocketRefused(&'static str),
    /// The same where the kernel takes no LSM programs.
    OddSocket(&'static str),
    /// A flood: with this backend nobody waits for us, and events for which there is no room are counted.
    Flood(&'static str),
    /// By an io_uring: the first of the calls is that which makes it, and where that is what is told, there is no address
    /// and the leak is outbound.
    OfRing,
    /// With this backend it isn't seen in log mode where the kernel takes no LSM programs.
    UnseenInLog(&'static str),
    /// With `--on-leak redirect` these backends can't lead it through the proxy, and refuse it.
    Unfit(&'static [&'static str], &'static str),
    /// With `--on-leak redirect` it is led through the proxy as any other datagram.
    LedAsAny(&'static str),
    /// Refused as a whole, the guest may end in any way.
    AnyStatus(&'static str),
}

/// A row; defaults to [`Class::outbound`](self), no options, the 64-bit guest.
pub fn leak(guest: &'static str, calls: &'static [&'static str], address: At, seen: Seen) -> Vector {
    Vector {
        guest,
        binary: Binary::Wide,
        options: &[],
        calls,
        address,
        class: "outbound",
        also: None,
        abi: "x86_64",
        seen,
        native: Native::Succeeds,
        fixture: Fixture::None,
        needs: None,
        root: false,
        exceptions: Vec::new(),
    }
}

impl Vector {
    /// Its name in failures.
    pub fn name(&self) -> String {
        match self.binary {
            Binary::Wide => self.guest.to_owned(),
            Binary::Static => format!("{} (static)", self.guest),
            Binary::Narrow => format!("{} (i386)", self.guest),
        }
    }

    /// Class `disclosure`.
    pub fn disclosure(mut self) -> Self {
        self.class = "disclosure";
        self
    }

    /// Class `inbound`, under `--incoming block`.
    pub fn inbound(mut self) -> Self {
        self.class = "inbound";
        self.options = &["--incoming=block"];
        self
    }

    /// With these options.
    pub fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// In log mode this is reported too.
    pub fn also(mut self, call: &'static str, class: &'static str) -> Self {
        self.also = Some((call, class));
        self
    }

    /// By the i386 guest.
    pub fn narrow(mut self) -> Self {
        self.binary = Binary::Narrow;
        self.abi = "i386";
        self.needs.get_or_insert("probe-i386");
        self
    }

    /// By the static guest.
    pub fn linked_statically(mut self) -> Self {
        self.binary = Binary::Static;
        self
    }

    /// Through i386 calls of a 64-bit program.
    pub fn int80(mut self) -> Self {
        self.abi = "i386";
        self
    }

    /// The kernel refuses it natively.
    pub fn fails_natively(mut self) -> Self {
        self.native = Native::Fails;
        self
    }

    /// With this prepared.
    pub fn with(mut self, fixture: Fixture) -> Self {
        self.fixture = fixture;
        self
    }

    /// Where this probe succeeds.
    pub fn needs(mut self, probe: &'static str) -> Self {
        self.needs = Some(probe);
        self
    }

    /// Root only.
    pub fn root(mut self) -> Self {
        self.root = true;
        self
    }

    /// With this difference.
    pub fn except(mut self, exception: Exception) -> Self {
        self.exceptions.push(exception);
        self
    }

    /// Whether one of its exceptions is such.
    pub fn excepts(&self, is: impl Fn(&Exception) -> bool) -> bool {
        self.exceptions.iter().any(is)
    }
}

impl At {
    /// Whether an event's address is it.
    pub fn fits(self, address: &str) -> bool {
        match self {
            Self::Is(text) => address == text,
            Self::Starts(text) => address.starts_with(text),
            Self::Ends(text) => address.ends_with(text),
            Self::Any => true,
        }
    }
}
