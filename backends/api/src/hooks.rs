//! What a backend with programs in the kernel judges there, without asking: rules compiled from the policy.

use crate::Trap;
use crate::observed::SocketCall;
use nix::errno::Errno;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What is judged and told by programs in the kernel, beside the calls that are stopped at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Hooks {
    /// Where traffic may go: of the networks that an address is in, the smallest decides. There is one for every
    /// address.
    pub networks: Vec<Network>,
    /// What becomes of internet traffic to elsewhere; `None`: it is only reported.
    pub refusal: Option<Refusal>,
    /// The system calls to report ([`crate::Handler::observed`]).
    pub calls: Vec<SocketCall>,
    /// The system calls of which what a hook lets go is counted ([`crate::observed::Observation::Passed`]), not reported.
    /// Of those that aren't among `calls` what is refused is reported all the same.
    pub counted: Vec<SocketCall>,
    /// Control data of messages are to be judged too, so that sendmsg need not be stopped at. Where the kernel has no hook
    /// for that, the backend stops at it all the same.
    pub messages: bool,
    /// UDP-Lite, ping, DCCP and vsock sockets are to be judged where they connect and send too. Where the kernel has no
    /// hooks for that, nobody sees it, and opening one is to be refused: the handler is told where it has
    /// ([`crate::Handler::judges_odd_sockets`]).
    pub odd_sockets: bool,
    /// The operations of an io_uring to report.
    pub requests: Vec<SocketCall>,
    /// An io_uring may be had, because its operations are judged as calls are. Where the kernel has no hooks for that,
    /// the backend stops at `io_uring_setup` all the same.
    pub rings: bool,
    /// Level and name of socket options that an io_uring may not set: of system calls, their values are judged.
    pub options: Vec<(i32, i32)>,
    /// Paths of UNIX sockets that may not be connected to. Where the kernel has no hook for that, and one of them is
    /// there, the backend stops at connect all the same (where connections are to be led to `holes`: as `held` says).
    pub closed_paths: Vec<PathBuf>,
    /// Where the outside may be served, for every local address; `None` where anybody may be. Where the kernel has no
    /// hooks for that, the backend stops at bind, listen and accept all the same.
    pub served: Option<Vec<Network>>,
    /// Calls that serve are not to be stopped at, because `served` is judged in the kernel.
    pub serving: bool,
    /// Of which of these calls the stack is told too.
    pub stacks: StacksOf,
    /// Where connections lead that would be refused, where that can be. By backends whose
    /// [`crate::Capabilities::diverts`] is set.
    pub holes: Option<Holes>,
    /// With `holes`: what is to be done instead where connects must be held up. The handler is told then
    /// ([`crate::Handler::holds_connects`]).
    pub held: Option<Box<Held>>,
}

/// What is judged in the kernel, and stopped at, where connects are held up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Judged in the kernel.
    pub hooks: Hooks,
    /// Stopped at.
    pub traps: Vec<Trap>,
}

/// Listening sockets whose queues are full, so that who connects to them waits in SYN_SENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holes {
    /// The network namespace that they are in (`SO_NETNS_COOKIE`).
    pub namespace: u64,
    /// Ports of 127.0.0.1.
    pub v4: Vec<u16>,
    /// Ports of ::1.
    pub v6: Vec<u16>,
}

/// The system calls by which the outside is served.
pub const SERVING: [SocketCall; 4] =
    [SocketCall::Bind, SocketCall::Listen, SocketCall::Accept, SocketCall::Accept4];

impl Hooks {
    /// Leaves messages to who stops at them.
    pub fn forget_messages(&mut self) {
        self.messages = false;
        self.forget(&[SocketCall::Sendmsg]);
    }

    /// Leaves connects to who stops at them.
    pub fn forget_connects(&mut self) {
        self.closed_paths.clear();
        self.forget(&[SocketCall::Connect]);
    }

    /// Leaves rings to who stops at their making.
    pub fn forget_rings(&mut self) {
        self.rings = false;
        self.requests.clear();
        self.options.clear();
    }

    /// Leaves local addresses to who stops at bind, listen and accept.
    pub fn forget_serving(&mut self) {
        self.serving = false;
        self.served = None;
        self.forget(&SERVING);
    }

    fn forget(&mut self, calls: &[SocketCall]) {
        self.calls.retain(|call| !calls.contains(call));
        self.counted.retain(|call| !calls.contains(call));
    }

    /// Whether nobody asks for what is let go: the hooks can tell the rest by themselves.
    #[must_use]
    pub fn tells_refusals_alone(&self) -> bool {
        let goes_on = self.refusal.is_some_and(|refusal| refusal.then == Then::GoesOn);
        goes_on && self.calls.is_empty() && self.requests.is_empty() && self.stacks != StacksOf::Everything
    }
}

/// Of which calls the stack is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StacksOf {
    /// None.
    Nothing,
    /// Those that leak.
    Leaks,
    /// All that are reported.
    Everything,
}

/// What may be reached in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The ports that sockets may reach which speak TCP.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// The ports that others may reach.
    pub others: Vec<RangeInclusive<u16>>,
}

/// How a leak is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the call returns.
    pub errno: Errno,
    /// What becomes of who made it.
    pub then: Then,
}

/// What becomes of a process whose leak was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes on.
    GoesOn,
    /// It is killed before it runs another instruction.
    Dies,
    /// It is, and nothing that the tree does is let through any more, until the handler has ended it.
    TreeDies,
}
