//! `--isolate`: PROGRAM in a network namespace that has no link to the outside.
//!
//! # What the kernel holds
//!
//! The namespace has a loopback device and nothing else, for good: it belongs to a user namespace of its own,
//! in which nobody has a right over what is outside: not to enter another network namespace, to move a device
//! between the two, or to look into a process outside and take its sockets. That is so for root, too: inside,
//! root is root over files (all ids are mapped), not over the machine. Whatever PROGRAM sends to an internet
//! address, by whatever call and whether judged or not, ends on this loopback. Abstract UNIX sockets belong to
//! a network namespace, so that those outside can't be reached.
//!
//! The way out is made by *us*, call by call. A TCP connection to a proxy or an allowed address that the judge
//! has seen is held ([`crate::relay`]) while we connect to that very address outside, and then joined with it;
//! for datagrams there are gates. What the judge hasn't seen meets nobody.
//!
//! # What judgement holds
//!
//! A network namespace doesn't stop UNIX sockets with a path (nscd, systemd-resolved, D-Bus), vsock, or
//! descriptors that come from outside. So UNIX sockets are judged (`--unix leak`, unless the user says `allow`;
//! those that were bound inside are PROGRAM's own), and those that are there when PROGRAM starts and may not be
//! connected to are covered as well, by mounts that PROGRAM has no right over ([`covers()`]). vsock and other
//! families without namespaces are refused when they are opened, by their number in a register (a filter's own
//! errno would leave no event), and sockets that PROGRAM would inherit are severed before it runs. All of that
//! is refused with `--on-leak log`, too.

mod covers;
mod gates;
mod namespaces;
mod own;
mod routes;
mod sys;
mod udp;

pub use covers::covers;
pub use gates::Gates;

use crate::relay::SocketSource;
use namespaces::{Founded, Inside};
use sockstrace_backend::{BackendError, Namespaces};
use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The namespaces of a run, with their gates.
#[derive(Debug)]
pub struct Isolation {
    namespaces: Arc<Namespaces>,
    gates: Gates,
    inside: Arc<Inside>,
    /// Lists the namespace's UNIX sockets; one question at a time.
    diagnosis: Mutex<OwnedFd>,
}

impl Isolation {
    /// Makes them; `reachable` are the networks, with their prefix lengths, that gates may be in, and `covered` the
    /// files that PROGRAM is to find /dev/null in place of.
    ///
    /// # Errors
    /// Where any step fails: without it PROGRAM must not run.
    pub fn new(
        reachable: impl IntoIterator<Item = (IpAddr, u8)>,
        covered: Vec<CString>,
    ) -> Result<Self, BackendError> {
        let Founded { namespaces, control, netlink } = Founded::new(covered)?;
        let doing = BackendError::doing;
        routes::bring_loopback_up(control.as_fd()).map_err(doing("bringing up the loopback of --isolate"))?;
        for (ip, prefix) in reachable {
            let route = || format!("--isolate: making {ip}/{prefix} reachable inside");
            routes::make_local(netlink.as_fd(), ip, prefix)
                .map_err(|errno| BackendError::Failed(route(), errno))?;
        }
        let inside = Arc::new(Inside::new(Arc::clone(&namespaces)));
        let diagnosis = inside.socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
        let diagnosis = Mutex::new(diagnosis.map_err(doing("asking for UNIX sockets inside --isolate"))?);
        let gates = Gates::new(Arc::clone(&inside)).map_err(doing("making the gates of --isolate"))?;
        Ok(Self { namespaces, gates, inside, diagnosis })
    }

    /// What PROGRAM is to enter.
    #[must_use]
    pub fn namespaces(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces)
    }

    /// What makes sockets inside.
    #[must_use]
    pub fn socket_source(&self) -> crate::dns::SocketSource {
        let inside = Inside::new(Arc::clone(&self.namespaces));
        Box::new(move |family, kind| inside.socket(family as i32, kind as i32, 0))
    }

    /// TCP sockets inside, non-blocking, in the family of an address.
    #[must_use]
    pub fn sockets(&self) -> SocketSource {
        let inside = Arc::clone(&self.inside);
        Box::new(move |address| {
            let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            inside.socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)
        })
    }

    /// The ways out.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Whether the UNIX socket file with this device and inode number was bound inside. Where the kernel can't
    /// tell (it lacks `unix_diag`, or the file system's numbers differ from stat's) it wasn't.
    #[must_use]
    pub fn is_own(&self, device: u64, inode: u64) -> bool {
        let diagnosis = self.diagnosis.lock().unwrap_or_else(PoisonError::into_inner);
        own::is_bound_to(diagnosis.as_fd(), device, inode).unwrap_or(false)
    }

    /// To be called when PROGRAM's tree has ended: lets out what it has sent.
    pub fn finish(&self) {
        self.gates.finish();
    }
}
