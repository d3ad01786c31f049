//! A SOCKS5 proxy that is the far end itself: whatever it is asked for, it takes what is sent there, and notes it.

use super::support::stage::{Stage, receive};
use super::support::{PROXY4, RELAY_PORT};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The proxy of a stage.
pub struct Sink {
    passed: Arc<Mutex<Passed>>,
    stop: Arc<AtomicBool>,
    acceptor: thread::JoinHandle<()>,
    relay: UdpSocket,
}

/// What has come by way of the proxy.
#[derive(Debug, Default)]
pub struct Passed {
    /// Destinations of connections, and what was sent on them.
    pub streams: Vec<(SocketAddr, Vec<u8>)>,
    /// Destinations of datagrams, and their payloads.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
}

impl Sink {
    /// Where the stage has its proxy.
    pub fn start(stage: &Stage) -> Self {
        let passed = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let listeners = stage.proxy_listeners();
        let (noting, stopping) = (Arc::clone(&passed), Arc::clone(&stop));
        let acceptor = thread::spawn(move || accept(&listeners, &noting, &stopping));
        Self { passed, stop, acceptor, relay: receive(&format!("{PROXY4}:{RELAY_PORT}")) }
    }

    /// What has come, when all who could send have ended.
    pub fn finish(self) -> Passed {
        self.stop.store(true, Ordering::Relaxed);
        self.acceptor.join().unwrap();
        let mut passed = std::mem::take(&mut *self.passed.lock().unwrap());
        let mut buffer = vec![0; 70_000];
        while let Ok(length) = self.relay.recv(&mut buffer) {
            // RFC 1928, section 7: two bytes of zeros, the fragment's number, and the destination.
            let mut datagram = &buffer[3..length];
            let destination = address(&mut datagram).unwrap();
            passed.datagrams.push((destination, datagram.to_vec()));
        }
        passed
    }
}

fn accept(listeners: &[TcpListener], passed: &Arc<Mutex<Passed>>, stop: &AtomicBool) {
    let mut serving = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut ready: Vec<_> =
            listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut ready, PollTimeout::from(20_u8)).unwrap();
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                let passed = Arc::clone(passed);
                serving.push(thread::spawn(move || {
                    // The program may use the proxy itself, and not as a proxy.
                    let _ = serve(stream, &passed);
                }));
            }
        }
        serving.retain(|thread| !thread.is_finished());
    }
    for thread in serving {
        thread.join().unwrap();
    }
}

fn serve(mut stream: TcpStream, passed: &Mutex<Passed>) -> Result<(), Error> {
    stream.set_nonblocking(false)?;
    // Whoever could say more has ended long before.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let [version, methods] = exactly(&mut stream)?;
    if version != 5 {
        return Err(ErrorKind::InvalidData.into());
    }
    stream.read_exact(&mut vec![0; methods.into()])?;
    stream.write_all(&[5, 0])?;
    let [_, command, _] = exactly(&mut stream)?;
    let destination = address(&mut stream)?;
    let bound: SocketAddr = (PROXY4.parse::<Ipv4Addr>().unwrap(), RELAY_PORT).into();
    let IpAddr::V4(ip) = bound.ip() else { unreachable!() };
    let mut reply = vec![5, 0, 0, 1];
    reply.extend(ip.octets());
    reply.extend(bound.port().to_be_bytes());
    // It is noted before anybody can see that it was taken.
    let place = (command == 1).then(|| {
        let streams = &mut passed.lock().unwrap().streams;
        streams.push((destination, Vec::new()));
        streams.len() - 1
    });
    stream.write_all(&reply)?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        match place {
            _ if length == 0 => return Ok(()),
            Some(place) => passed.lock().unwrap().streams[place].1.extend(&buffer[..length]),
            None => {}
        }
    }
}

fn exactly<const N: usize>(from: &mut impl Read) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// An address in a request or a datagram's header; names are not expected.
fn address(from: &mut impl Read) -> Result<SocketAddr, Error> {
    let ip: IpAddr = match exactly(from)? {
        [1] => Ipv4Addr::from(exactly::<4>(from)?).into(),
        [4] => Ipv6Addr::from(exactly::<16>(from)?).into(),
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(exactly(from)?)))
}
