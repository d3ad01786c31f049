//! Over loopback, in this process: one socket plays the tracee's.

use super::*;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

fn far(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn tracee(family: AddressFamily, flags: SockFlag) -> OwnedFd {
    socket(family, SockType::Stream, flags, None).unwrap()
}

fn events_of(fd: &OwnedFd, wait: u16) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::from(wait)).unwrap();
    fds[0].revents().unwrap()
}

fn hold(socket: &OwnedFd, destination: &str) -> Held {
    let ground = Arc::new(Ground::own());
    ground.hold(socket.try_clone().unwrap(), far(destination)).unwrap()
}

/// A connected pair: the tracee's socket and our end.
fn landed(destination: &str, family: AddressFamily) -> (TcpStream, OwnedFd) {
    let program = tracee(family, SockFlag::SOCK_NONBLOCK);
    let mut held = hold(&program, destination);
    assert_eq!(held.connect(), Err(Errno::EINPROGRESS));
    let end = held.admit().unwrap();
    assert_eq!(events_of(&program, 5000), PollFlags::POLLOUT);
    let program = TcpStream::from(program);
    program.set_nonblocking(false).unwrap();
    program.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (program, end)
}

#[test]
fn a_held_socket_waits_and_is_admitted_at_once() {
    for (family, destination) in [
        (AddressFamily::Inet, "192.0.2.1:80"),
        (AddressFamily::Inet6, "[2001:db8::1]:80"),
        (AddressFamily::Inet6, "[::ffff:192.0.2.1]:80"),
    ] {
        let program = tracee(family, SockFlag::SOCK_NONBLOCK);
        let mut held = hold(&program, destination);
        assert_eq!(held.connect(), Err(Errno::EINPROGRESS));
        assert_eq!(events_of(&program, 30), PollFlags::empty());
        assert_eq!(sys::connect_to(program.as_fd(), held.hole()), Err(Errno::EALREADY));
        assert!(held.is_waiting());
        let start = Instant::now();
        let end = held.admit().unwrap();
        assert_eq!(events_of(&program, 5000), PollFlags::POLLOUT);
        // Far less than the second after which a SYN is sent again.
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(sys::take_error(program.as_fd()), Ok(()));
        send(program.as_raw_fd(), b"x", MsgFlags::empty()).unwrap();
        assert_eq!(events_of(&end, 5000) & PollFlags::POLLIN, PollFlags::POLLIN);
        let mut byte = [0];
        assert_eq!(recv(end.as_raw_fd(), &mut byte, MsgFlags::empty()), Ok(1));
    }
}

#[test]
fn a_blocking_connect_waits_for_admission() {
    let program = tracee(AddressFamily::Inet, SockFlag::empty());
    let held = hold(&program, "192.0.2.1:80");
    assert_eq!(held.admit().unwrap_err(), Errno::EAGAIN, "not connecting yet");
    let (hole, start) = (held.hole(), Instant::now());
    let thread = thread::spawn(move || (sys::connect_to(program.as_fd(), hole), start.elapsed()));
    while !held.is_waiting() {
        assert!(start.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    let _end = held.admit().unwrap();
    let (result, elapsed) = thread.join().unwrap();
    assert_eq!(result, Ok(()));
    assert!(elapsed >= Duration::from_millis(50));
}

#[test]
fn a_refused_socket_is_as_the_kernel_leaves_it() {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let destination = if family == AddressFamily::Inet { "192.0.2.1:80" } else { "[2001:db8::1]:80" };
        let program = tracee(family, SockFlag::SOCK_NONBLOCK);
        let mut held = hold(&program, destination);
        assert_eq!(held.connect(), Err(Errno::EINPROGRESS));
        assert!(held.refuse(Errno::ECONNREFUSED));
        let native = tracee(family, SockFlag::SOCK_NONBLOCK);
        let nobody = if family == AddressFamily::Inet { "127.0.0.1:1" } else { "[::1]:1" };
        assert_eq!(sys::connect_to(native.as_fd(), far(nobody)), Err(Errno::EINPROGRESS));
        assert_eq!(events_of(&program, 1000), events_of(&native, 1000));
        for (socket, errno) in [(&program, Errno::ECONNRESET), (&native, Errno::ECONNREFUSED)] {
            assert_eq!(sys::connect_to(socket.as_fd(), held.hole()), Err(errno));
            assert_eq!(sys::take_error(socket.as_fd()), Ok(()));
        }
    }
}

#[test]
fn who_gives_up_is_not_connected() {
    let program = tracee(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    let mut held = hold(&program, "192.0.2.1:80");
    assert_eq!(held.connect(), Err(Errno::EINPROGRESS));
    sys::disconnect(program.as_fd()).unwrap();
    assert_eq!(held.admit().unwrap_err(), Errno::EAGAIN);
}

/// The program's end and the outside's end, with a flow between them.
fn flowing(reactor: &Reactor) -> (TcpStream, TcpStream) {
    let (program, inner) = landed("192.0.2.1:80", AddressFamily::Inet);
    let (outside, outer) = landed("192.0.2.2:80", AddressFamily::Inet);
    reactor.spawn(Box::new(Flow::new(inner, outer, b"early ".to_vec(), Box::new(|| ())))).unwrap();
    (program, outside)
}

#[test]
fn bytes_and_ends_flow_in_each_direction_by_itself() {
    let reactor = Reactor::new();
    let (mut program, mut outside) = flowing(&reactor);
    program.write_all(b"question").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    outside.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    outside.write_all(b"answer").unwrap();
    drop(outside);
    text.clear();
    program.read_to_string(&mut text).unwrap();
    assert_eq!(text, "early answer");
    reactor.settle();
}

#[test]
fn large_amounts_arrive_whole_both_ways_and_slow_readers_are_waited_for() {
    const SIZE: usize = 40 << 20;
    let reactor = Reactor::new();
    let (program, outside) = flowing(&reactor);
    let pattern = |seed: usize| (0..SIZE).map(move |at| (at.wrapping_mul(31) ^ (at >> 9) ^ seed) as u8);
    let mut threads = Vec::new();
    for (end, seed, other, early) in [(&program, 1, 2, 6), (&outside, 2, 1, 0)] {
        let (mut from, mut to) = (end.try_clone().unwrap(), end.try_clone().unwrap());
        threads.push(thread::spawn(move || {
            from.write_all(&pattern(seed).collect::<Vec<_>>()).unwrap();
            from.shutdown(Shutdown::Write).unwrap();
        }));
        threads.push(thread::spawn(move || {
            let mut all = vec![0; early];
            to.read_exact(&mut all).unwrap();
            thread::sleep(Duration::from_millis(100));
            all.clear();
            to.read_to_end(&mut all).unwrap();
            assert!(all.into_iter().eq(pattern(other)), "what arrived isn't what was sent");
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_reset_is_a_reset_on_the_other_side() {
    for from_program in [true, false] {
        let reactor = Reactor::new();
        let (mut program, outside) = flowing(&reactor);
        let mut early = [0; 6];
        program.read_exact(&mut early).unwrap();
        let (sender, mut receiver) = if from_program { (program, outside) } else { (outside, program) };
        sys::reset_on_close(sender.as_fd());
        drop(sender);
        let error = receiver.read(&mut early).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    }
}

#[test]
fn what_is_sent_to_a_closed_end_resets_the_sender() {
    let reactor = Reactor::new();
    let (mut program, mut outside) = flowing(&reactor);
    let mut early = [0; 6];
    program.read_exact(&mut early).unwrap();
    drop(program);
    let start = Instant::now();
    while outside.write_all(b"still there?").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn urgent_data_stays_urgent_and_in_its_place() {
    let reactor = Reactor::new();
    let (program, outside) = flowing(&reactor);
    for (bytes, flags) in [(&b"before"[..], MsgFlags::empty()), (b"!", MsgFlags::MSG_OOB)] {
        send(program.as_raw_fd(), bytes, flags).unwrap();
    }
    let mut fds = [PollFd::new(outside.as_fd(), PollFlags::POLLPRI)];
    assert_eq!(poll(&mut fds, PollTimeout::from(5000_u16)), Ok(1));
    send(program.as_raw_fd(), b"after", MsgFlags::empty()).unwrap();
    let fd = outside.as_raw_fd();
    let mut buffer = [0; 64];
    assert_eq!(recv(fd, &mut buffer, MsgFlags::empty()), Ok(6));
    assert_eq!(&buffer[..6], b"before");
    assert!(sys::is_at_mark(outside.as_fd()));
    assert_eq!(recv(fd, &mut buffer, MsgFlags::MSG_OOB), Ok(1));
    assert_eq!(buffer[0], b'!');
    assert_eq!(recv(fd, &mut buffer, MsgFlags::empty()), Ok(5));
    assert_eq!(&buffer[..5], b"after");
}

#[test]
fn what_a_program_sent_before_it_ended_is_settled() {
    const SIZE: usize = 4 << 20;
    let reactor = Reactor::new();
    let (mut program, mut outside) = flowing(&reactor);
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        thread::sleep(Duration::from_millis(200));
        outside.read_to_end(&mut all).map(|_| all.len())
    });
    program.read_exact(&mut [0; 6]).unwrap();
    program.write_all(&vec![7; SIZE]).unwrap();
    drop(program);
    reactor.settle();
    assert_eq!(reader.join().unwrap().unwrap(), SIZE);
}

#[test]
fn thousands_of_connections_need_no_threads_of_their_own() {
    let reactor = Reactor::new();
    let mut all: Vec<_> = (0..400).map(|_| flowing(&reactor)).collect();
    for (number, (program, _)) in all.iter_mut().enumerate() {
        program.write_all(&number.to_ne_bytes()).unwrap();
    }
    for (number, (program, outside)) in all.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        outside.read_exact(&mut bytes).unwrap();
        assert_eq!(usize::from_ne_bytes(bytes), number);
        outside.write_all(b"ok").unwrap();
        let mut answer = [0; 8];
        program.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"early ok");
    }
}
