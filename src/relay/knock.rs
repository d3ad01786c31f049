//! Who waits at a hole, and of whom we know no more than where his packets come from.
//!
//! He was sent there by programs in the kernel, which tell his address before his SYN leaves. That is all it takes to
//! let him in ([`Ground`]). Between then and now he may have given up, and somebody else may have his address: so the
//! kernel is asked whose the connection is, before and after (`sock_diag`(7), which finds a socket by its four
//! addresses and compares its cookie).
//!
//! A refusal is what the network would have said: a reset that acknowledges his SYN (ECONNREFUSED), or the ICMP error of
//! a router (EHOSTUNREACH, ENETUNREACH). Both need a raw socket. Nothing makes a connection time out early: who is
//! refused with ETIMEDOUT hears EHOSTUNREACH, as of a router whose packets have expired.

use super::ground::{Ground, Hearing, Unfit};
use super::{Events, Meeting, Place, Waiting, packets, sys};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A socket that connects to a hole.
#[derive(Debug)]
pub struct Knock {
    ground: Arc<Ground>,
    /// Its `SO_COOKIE`.
    cookie: u64,
    /// Its own address; neither this nor the hole's is IPv4-mapped.
    theirs: SocketAddr,
    hole: SocketAddr,
    /// The sequence number of its SYN.
    sequence: u32,
    /// Nobody tells when it gives up: it is looked for now and then.
    ticks: TimerFd,
}

/// How often.
const TICK: TimeSpec = TimeSpec::new(1, 0);

impl Knock {
    /// Who connects from `theirs` to `hole`, which is of this ground.
    ///
    /// # Errors
    /// Where packets to it would leave the host; where there are no descriptors left.
    pub fn new(
        ground: &Arc<Ground>,
        cookie: u64,
        theirs: SocketAddr,
        hole: SocketAddr,
        sequence: u32,
    ) -> Result<Self, Unfit> {
        let theirs = sys::unmapped(theirs);
        if !ground.is_own(theirs.ip()) {
            return Err(Unfit(format!("it is bound to {}, which is no address of this host", theirs.ip())));
        }
        let ticks = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        let ticks = ticks.and_then(|ticks| {
            ticks.set(Expiration::Interval(TICK), TimerSetTimeFlags::empty())?;
            Ok(ticks)
        });
        let ticks = ticks.map_err(|errno| Unfit(format!("sockstrace can't make a timer: {}", errno.desc())))?;
        Ok(Self { ground: Arc::clone(ground), cookie, theirs, hole: sys::unmapped(hole), sequence, ticks })
    }

    /// Whether the kernel gives what is needed.
    ///
    /// # Errors
    /// What is missing.
    pub fn can_be() -> Result<(), Unfit> {
        let because = |what: &'static str| move |errno: Errno| Unfit(format!("{what}: {}", errno.desc()));
        packets::raw_socket(true).map_err(because("no raw socket can be had"))?;
        let any = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0);
        let probe = || {
            let probe = sys::tcp_socket(&any)?;
            sys::bind_to(probe.as_fd(), any)?;
            nix::sys::socket::listen(&probe, nix::sys::socket::Backlog::new(1)?)?;
            let nobody = SocketAddr::new(any.ip(), 0);
            state_of(sys::local_address(probe.as_fd())?, nobody, sys::cookie(probe.as_fd())?)
        };
        probe().map(drop).map_err(because("sockets can't be looked up (CONFIG_INET_TCP_DIAG)"))
    }

    fn state(&self) -> Result<u8, Errno> {
        state_of(self.theirs, self.hole, self.cookie)
    }
}

impl Waiting for Knock {
    fn watch(&self, slot: u8, place: &Place<'_>) -> Result<(), Errno> {
        place.watch_for(slot, self.ticks.as_fd(), Events::EPOLLIN | Events::EPOLLET)
    }

    /// Closing it ends that too.
    fn unwatch(&self, _: &Place<'_>) {}

    fn is_waiting(&self) -> bool {
        self.state() == Ok(sys::SYN_SENT)
    }

    fn admit(&self) -> Result<OwnedFd, Errno> {
        if !self.is_waiting() {
            return Err(Errno::ECONNREFUSED);
        }
        self.ground.meet(self.hole, self.theirs, Hearing::Peer)
    }

    fn meeting(&self, end: BorrowedFd<'_>) -> Meeting {
        if matches!(sys::tcp_state(end), Ok(sys::SYN_SENT | sys::SYN_RECV)) {
            return Meeting::Pending;
        }
        if self.state().is_ok() {
            return Meeting::Met;
        }
        // It is no more. If it has reset the connection, what it sent before must arrive, and the reset.
        match sys::tcp_state(end) {
            Ok(sys::CLOSE) => match sys::receive(end, &mut [0], MsgFlags::MSG_PEEK) {
                Ok(1..) => Meeting::Met,
                Err(Errno::ECONNRESET) => Meeting::Reset,
                // ECONNREFUSED: it wasn't there any more.
                _ => Meeting::Missed,
            },
            _ => Meeting::Missed,
        }
    }

    fn refuse(&self, errno: Errno) -> bool {
        if !self.is_waiting() {
            return true;
        }
        let code = match errno {
            Errno::EHOSTUNREACH | Errno::ETIMEDOUT => Some(packets::Unreachable::Host),
            Errno::ENETUNREACH => Some(packets::Unreachable::Network),
            _ => None,
        };
        let packet = match code {
            Some(code) => packets::unreachable(self.theirs, self.hole, self.sequence, code),
            None => packets::reset(self.theirs, self.hole, self.sequence),
        };
        // Where it can't be sent (memory), the program's own patience ends the attempt.
        let sent = packet.ok_or(Errno::EAFNOSUPPORT).and_then(|packet| packets::send_to(self.theirs.ip(), &packet));
        sent.is_err() || !self.is_waiting()
    }
}

/// Sizes of `struct nlmsghdr` (<linux/netlink.h>), `struct inet_diag_req_v2` (<linux/inet_diag.h>), and the offset of
/// the state in `struct inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const STATE: usize = 1;

/// Of each network namespace the first interface.
const LOOPBACK: u32 = 1;

/// `SOCK_DIAG_BY_FAMILY` of <linux/sock_diag.h>, and the type of an answer that is an error.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;

/// The state of the TCP socket with these ends and this cookie.
///
/// # Errors
/// ENOENT or ESTALE where there is none; EOPNOTSUPP and the like where the kernel can't be asked.
fn state_of(local: SocketAddr, remote: SocketAddr, cookie: u64) -> Result<u8, Errno> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // A sequence number, and our port: the kernel's to choose.
    request.extend([0; 8]);
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    request.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        let mut bytes = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        request.extend(bytes);
    }
    // A socket that is bound to loopback's interface is found by that alone, and others by any.
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend((cookie as u32).to_ne_bytes());
    request.extend(((cookie >> 32) as u32).to_ne_bytes());
    let asked =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    send(asked.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 512];
    // The kernel has answered when send(2) returns.
    let length = recv(asked.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    let answer = answer.get(..length).unwrap_or_default();
    let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_ne_bytes(*bytes));
    let body = answer.get(HEADER..).unwrap_or_default();
    match (kind, body.first_chunk::<4>()) {
        (Some(BY_FAMILY), Some(found)) => Ok(found[STATE]),
        (Some(ERROR), Some(code)) => Err(Errno::from_raw(i32::from_ne_bytes(*code).saturating_neg())),
        _ => Err(Errno::EPROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::ground::Ground;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn knocking(six: bool) -> (OwnedFd, SocketAddr, Arc<Ground>) {
        let ground = Arc::new(Ground::own());
        let hole = ground.holes(!six, 1)[0];
        let program = sys::tcp_socket(&hole).unwrap();
        assert_eq!(sys::connect_to(program.as_fd(), hole), Err(Errno::EINPROGRESS));
        (program, hole, ground)
    }

    fn knock(program: &OwnedFd, hole: SocketAddr, ground: &Arc<Ground>, sequence: u32) -> Knock {
        let (cookie, theirs) =
            (sys::cookie(program.as_fd()).unwrap(), sys::local_address(program.as_fd()).unwrap());
        Knock::new(ground, cookie, theirs, hole, sequence).unwrap()
    }

    fn is_writable(fd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::from(2000_u16)).unwrap();
        fds[0].revents().unwrap().contains(PollFlags::POLLOUT)
    }

    /// The packet that ends it may take a while on a busy machine.
    fn is_over(fd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::from(2000_u16)).unwrap();
        fds[0].revents().unwrap().contains(PollFlags::POLLHUP)
    }

    #[test]
    fn who_waits_is_known_by_his_address_and_let_in() {
        for six in [false, true] {
            let (program, hole, ground) = knocking(six);
            let knock = knock(&program, hole, &ground, 0);
            assert!(knock.is_waiting());
            let end = knock.admit().unwrap();
            assert!(is_writable(&program) && is_writable(&end));
            assert_eq!(knock.meeting(end.as_fd()), Meeting::Met);
            assert!(!knock.is_waiting());
            let other = Knock { cookie: knock.cookie ^ 1, ..knock };
            assert_eq!(other.meeting(end.as_fd()), Meeting::Missed);
        }
    }

    #[test]
    fn who_resets_at_once_was_met() {
        for sent in [&b"some"[..], b""] {
            let (program, hole, ground) = knocking(false);
            let knock = knock(&program, hole, &ground, 0);
            let end = knock.admit().unwrap();
            assert!(is_writable(&program));
            sys::transmit(program.as_fd(), sent, MsgFlags::empty()).unwrap();
            sys::reset_on_close(program.as_fd());
            drop(program);
            assert!(is_over(&end));
            let mut received = [0; 9];
            if sent.is_empty() {
                assert_eq!(knock.meeting(end.as_fd()), Meeting::Reset);
            } else {
                assert_eq!(knock.meeting(end.as_fd()), Meeting::Met);
                assert_eq!(sys::receive(end.as_fd(), &mut received, MsgFlags::empty()), Ok(sent.len()));
                let after = sys::receive(end.as_fd(), &mut received, MsgFlags::empty());
                assert_eq!(after, Err(Errno::ECONNRESET));
            }
        }
    }

    #[test]
    fn who_has_given_up_is_not_met() {
        let (program, hole, ground) = knocking(false);
        let knock = knock(&program, hole, &ground, 0);
        drop(program);
        assert!(!knock.is_waiting());
        assert_eq!(knock.admit().unwrap_err(), Errno::ECONNREFUSED);
        assert!(knock.refuse(Errno::EHOSTUNREACH));
    }
}
