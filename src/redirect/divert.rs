//! Connections that a backend's programs in the kernel have sent to a hole: [`crate::relay::knock`].

use super::brisk::Conversation;
use super::dial::{Errand, Way};
use super::{Redirector, source_for};
use crate::proxy::client::Target;
use crate::relay::{Knock, Record, Unfit};
use nix::unistd::Pid;
use sockstrace_backend::hooks::Holes;
use sockstrace_backend::observed::Diverted;
use std::net::IpAddr;

/// Holes of each family: a program in the kernel can't have more dug. Each takes some 28,000 connections.
const HOLES: usize = 8;

impl Redirector {
    /// Holes for the kernel to choose from.
    ///
    /// # Errors
    /// Why that can't be.
    pub fn holes(&self) -> Result<Holes, Unfit> {
        Knock::can_be()?;
        let (ground, namespace) = self.relay.own_ground()?;
        let ports = |v4| ground.holes(v4, HOLES).iter().map(std::net::SocketAddr::port).collect::<Vec<_>>();
        let holes = Holes { namespace, v4: ports(true), v6: ports(false) };
        if holes.v4.is_empty() && holes.v6.is_empty() {
            return Err(Unfit("nothing can be bound on loopback".into()));
        }
        Ok(holes)
    }

    /// Asks the proxy for who waits at a hole. `show` takes the address that the program is to see as its own.
    ///
    /// # Errors
    /// Why that can't be: he waits until his patience ends.
    pub fn divert(&self, diverted: &Diverted, show: &mut dyn FnMut(IpAddr)) -> Result<(), Unfit> {
        let Diverted { cookie, pid, local, hole, destination, sequence } = *diverted;
        if self.shows(destination, local)
            && let Some(source) = source_for(destination)
        {
            show(source);
        }
        let (ground, _) = self.relay.own_ground()?;
        let knock = Knock::new(ground, cookie, local, hole, sequence)?;
        let proxy = self.proxy.as_ref().ok_or_else(|| Unfit("there is no proxy".into()))?;
        let negotiation = self.negotiation(proxy, Pid::from_raw(pid), &Target::Address(destination))?;
        let errand = (Errand::Ask(Conversation::new(negotiation)), Way::to(proxy.endpoint()));
        // It is in nobody's book: the kernel's programs say what is to be seen of it.
        let record = Record::new(cookie, destination, hole);
        self.dial(Box::new(knock), &record, errand, true)
    }
}
