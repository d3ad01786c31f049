//! Asking the proxy for what names need, with the credentials of whoever keeps connections apart.

use crate::policy::Proxy;
use crate::proxy::client::blocking::{self, Failure, Stream};
use crate::proxy::client::{Bound, Command, Target};
use crate::proxy::isolation::Isolation;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// What a SOCKS reply calls the lack of a route to the host; Tor answers it for every name without an address.
pub const HOST_UNREACHABLE: u8 = 4;
/// The command isn't known: a proxy without RESOLVE.
pub const COMMAND_NOT_SUPPORTED: u8 = 7;
/// Address type not supported.
pub const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// The proxy, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Asker {
    proxy: Proxy,
    isolation: Arc<Isolation>,
}

impl Asker {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(proxy: Proxy, isolation: Arc<Isolation>) -> Self {
        Self { proxy, isolation }
    }

    /// The address of a name, by RESOLVE.
    ///
    /// # Errors
    /// Where the proxy gives none.
    pub fn resolve(&self, name: &str, deadline: Instant) -> Result<IpAddr, Failure> {
        match self.ask(Command::Resolve, &Target::Name(name.into(), 0), deadline)?.1 {
            Some(Bound::Address(address)) => Ok(address.ip()),
            _ => Err(Failure::Unfit("answered RESOLVE with a name")),
        }
    }

    /// The name of an address, by `RESOLVE_PTR`.
    ///
    /// # Errors
    /// Where the proxy gives none.
    pub fn resolve_pointer(&self, ip: IpAddr, deadline: Instant) -> Result<Vec<u8>, Failure> {
        match self.ask(Command::ResolvePtr, &Target::Address(SocketAddr::new(ip, 0)), deadline)?.1 {
            Some(Bound::Name(name, _)) => Ok(name),
            _ => Err(Failure::Unfit("answered RESOLVE_PTR with an address")),
        }
    }

    /// A TCP connection through the proxy.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub fn connect(&self, to: SocketAddr, deadline: Instant) -> Result<Stream, Failure> {
        Ok(self.ask(Command::Connect, &Target::Address(to), deadline)?.0)
    }

    fn ask(
        &self,
        command: Command,
        target: &Target,
        deadline: Instant,
    ) -> Result<(Stream, Option<Bound>), Failure> {
        let credentials = self.isolation.credentials(None, Some(target));
        let credentials = credentials.map_err(|errno| Failure::Broken(errno.into()))?;
        blocking::ask(&self.proxy, command, target, credentials, deadline)
    }
}

#[cfg(test)]
impl From<Proxy> for Asker {
    fn from(proxy: Proxy) -> Self {
        let isolation = Isolation::new(None, crate::config::IsolateFormat::default(), proxy.credentials().cloned());
        Self::new(proxy, Arc::new(isolation))
    }
}
