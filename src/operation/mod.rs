//! What an intercepted call means: addresses, sockets and what is about to be done with them.
//!
//! This room turns registers and raw memory of a tracee into an [`Operation`]; it decides nothing.

pub mod address;
pub mod decode;
pub mod delegate;
pub mod interest;
pub mod layout;
pub mod netlink;
pub mod option;
pub mod socket;

pub use address::{Address, UnixAddress};
pub use socket::{Family, SocketKind, SocketType};

/// What a message's control data say of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Nothing: the kernel routes it by its destination.
    #[default]
    ByDestination,
    /// By other hosts: IP source routing, an IPv6 routing header.
    SourceRouted,
    /// By an interface or routing table of the program's choice (`IP_PKTINFO`, `IPV6_PKTINFO`, `SO_MARK`).
    Chosen,
}

/// What a call is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// connect(2) to `destination`.
    Connect {
        /// Where to.
        destination: Address,
    },
    /// One message of sendto, sendmsg or sendmmsg.
    Send {
        /// The address given with the message, or the peer that the socket is connected to; `None` where
        /// the socket has neither (the kernel refuses it) or is a connected pair.
        destination: Option<Address>,
        /// What its control data say of the way that it takes.
        way: Way,
    },
    /// bind(2) to a local address.
    Bind {
        /// The address asked for.
        local: Address,
    },
    /// listen(2) on a socket.
    Listen {
        /// The address that the socket is bound to (getsockname).
        local: Address,
    },
    /// accept(2) from a listening socket.
    Accept {
        /// The address that the socket is bound to (getsockname).
        local: Address,
    },
    /// socket(2): the kind is what is being asked for.
    Open,
    /// `io_uring_setup(2)`: operations that the backend can't see.
    IoUring,
    /// setsockopt(2) that sends the socket's packets by another way (IP source routing, IPv6 routing
    /// header).
    SourceRoute,
    /// setsockopt(2) that chooses the interface by which the socket's packets leave, or the routing table.
    ChooseInterface {
        /// The option's name.
        option: &'static str,
    },
    /// Has somebody act who isn't judged: the kernel itself, a process outside the tree.
    Delegate {
        /// Who does what, in words for a person.
        what: &'static str,
    },
    /// setsockopt(2) that joins a multicast group, for which the kernel itself sends IGMP or MLD packets.
    JoinGroup {
        /// The group; the port is 0.
        group: Address,
    },
    /// ioctl(2) that attaches a TUN/TAP interface: packets can be injected into the host's network.
    AttachTun,
    /// An ioctl(2) (SIOCGIF*) or a netlink dump that shows the host's addresses, links or routes.
    ShowNetwork {
        /// What is shown, for the reason: "SIOCGIFCONF", `RTM_GETADDR`.
        request: &'static str,
    },
    /// `pidfd_getfd(2)`: takes a descriptor out of another process.
    TakeDescriptor,
    /// A socket that PROGRAM inherits, connected before it started.
    Inherit {
        /// Its peer.
        peer: Address,
    },
    /// The arguments can't be read or make no sense, so that nothing can be said of the call.
    Undecidable {
        /// Why, in words for a person.
        why: &'static str,
    },
}
