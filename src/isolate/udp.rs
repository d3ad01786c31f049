//! A gate for datagrams.

use super::gates::{Shared, family};
use super::sys;
use nix::errno::Errno;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A client that was silent for so long gets a new socket outside when it sends again (RFC 4787 asks for two
/// minutes at least).
const IDLE: Duration = Duration::from_secs(180);

/// Clients of one gate.
const CLIENTS: usize = 1024;

/// Datagrams that are carried in a row before others have their turn.
const IN_A_ROW: usize = 64;

/// No datagram is longer.
const LONGEST: usize = 65_535;

/// The gate.
#[derive(Debug)]
pub struct UdpGate {
    address: SocketAddr,
    socket: OwnedFd,
    clients: Mutex<HashMap<SocketAddr, Client>>,
}

#[derive(Debug)]
struct Client {
    outside: OwnedFd,
    token: u64,
    used: Instant,
}

impl UdpGate {
    /// A gate for `address`, to which `socket` is bound inside.
    #[must_use]
    pub fn new(address: SocketAddr, socket: OwnedFd) -> Self {
        Self { address, socket, clients: Mutex::default() }
    }

    /// Its socket inside.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<SocketAddr, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program has sent something. Whether there may be more.
    pub(super) fn carry_out(self: &Arc<Self>, shared: &Shared) -> bool {
        let mut buffer = vec![0; LONGEST];
        for _ in 0..IN_A_ROW {
            let Ok((length, client)) = sys::receive(self.socket.as_fd(), &mut buffer) else { return false };
            let Some(datagram) = buffer.get(..length) else { return false };
            // What can't be sent is lost, as datagrams are.
            let _: Result<(), Errno> = self.send(client, datagram, shared);
        }
        true
    }

    fn send(self: &Arc<Self>, client: SocketAddr, datagram: &[u8], shared: &Shared) -> Result<(), Errno> {
        let mut clients = self.clients();
        if !clients.contains_key(&client) {
            if clients.len() >= CLIENTS {
                return Err(Errno::EMFILE);
            }
            let outside = sys::socket(family(&self.address), libc::SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
            sys::connect(outside.as_fd(), &self.address)?;
            let token = shared.watch_answers(&outside, self, client)?;
            clients.insert(client, Client { outside, token, used: Instant::now() });
        }
        let Some(known) = clients.get_mut(&client) else { return Err(Errno::EIO) };
        known.used = Instant::now();
        match sys::send(known.outside.as_fd(), datagram) {
            // Of an earlier one.
            Err(Errno::ECONNREFUSED) => sys::send(known.outside.as_fd(), datagram),
            other => other,
        }
    }

    /// Something came for the client.
    pub(super) fn carry_back(&self, client: SocketAddr, _shared: &Shared) {
        let mut buffer = vec![0; LONGEST];
        for _ in 0..IN_A_ROW {
            let mut clients = self.clients();
            let Some(known) = clients.get_mut(&client) else { return };
            let received = sys::receive(known.outside.as_fd(), &mut buffer);
            known.used = Instant::now();
            drop(clients);
            let Some(datagram) = received.ok().and_then(|(length, _)| buffer.get(..length)) else { return };
            // The client may be gone.
            let _: Result<(), Errno> = sys::send_to(self.socket.as_fd(), datagram, &client);
        }
    }

    /// Closes what was silent for long.
    pub(super) fn sweep(&self, shared: &Shared) {
        let mut clients = self.clients();
        let tokens: Vec<u64> =
            clients.extract_if(|_, client| client.used.elapsed() > IDLE).map(|(_, client)| client.token).collect();
        drop(clients);
        shared.forget(tokens);
    }
}
