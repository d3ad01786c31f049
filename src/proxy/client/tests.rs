use super::*;
use std::net::SocketAddr;

fn credentials() -> Credentials {
    Credentials { username: b"user".to_vec(), password: b"secret".to_vec() }
}

fn address(text: &str) -> Target {
    Target::Address(text.parse::<SocketAddr>().unwrap())
}

fn begin(scheme: Scheme, target: &Target, credentials: Option<Credentials>) -> Negotiation {
    Negotiation::new(scheme, Command::Connect, target, credentials).unwrap()
}

/// Feeds the proxy's side, in pieces of at most `piece` bytes and never more than wanted.
fn feed(negotiation: &mut Negotiation, mut bytes: &[u8], piece: usize) -> Result<Progress, Refusal> {
    loop {
        let take = negotiation.wants().min(piece).min(bytes.len());
        let (now, later) = bytes.split_at(take);
        let progress = negotiation.take(now)?;
        bytes = later;
        if bytes.is_empty() || progress != Progress::More {
            assert!(bytes.is_empty(), "it left {bytes:?}");
            return Ok(progress);
        }
    }
}

#[test]
fn socks_without_credentials() {
    for piece in [1, 2, 3, 100] {
        let mut talk = begin(Scheme::Socks5, &address("192.0.2.1:443"), None);
        assert_eq!(talk.take_outgoing(), [5, 1, 0]);
        assert_eq!(feed(&mut talk, &[5, 0], piece), Ok(Progress::More));
        assert_eq!(talk.take_outgoing(), [5, 1, 0, 1, 192, 0, 2, 1, 1, 187]);
        let done = feed(&mut talk, &[5, 0, 0, 1, 198, 51, 100, 7, 4, 210], piece);
        let bound = Some(Bound::Address("198.51.100.7:1234".parse().unwrap()));
        assert_eq!(done, Ok(Progress::Done { early: Vec::new(), bound }));
    }
}

#[test]
fn socks_with_credentials_offers_nothing_else() {
    let mut talk = begin(Scheme::Socks5, &Target::Name("site.example".into(), 80), Some(credentials()));
    assert_eq!(talk.take_outgoing(), [5, 1, 2]);
    assert_eq!(feed(&mut talk, &[5, 2], 1), Ok(Progress::More));
    assert_eq!(talk.take_outgoing(), b"\x01\x04user\x06secret");
    assert_eq!(feed(&mut talk, &[1, 0], 1), Ok(Progress::More));
    assert_eq!(talk.take_outgoing(), b"\x05\x01\x00\x03\x0Csite.example\x00\x50");
    let done = feed(&mut talk, b"\x05\x00\x00\x03\x03abc\x00\x01", 1);
    let bound = Some(Bound::Name(b"abc".to_vec(), 1));
    assert_eq!(done, Ok(Progress::Done { early: Vec::new(), bound }));
    for bad in [&[5, 0][..], &[5, 0xFF], &[4, 2]] {
        let mut talk = begin(Scheme::Socks5, &address("192.0.2.1:443"), Some(credentials()));
        assert!(feed(&mut talk, bad, 9).unwrap_err().by_proxy_itself);
    }
}

#[test]
fn other_forms_of_target_and_command() {
    let request = |command, target: &Target| {
        let mut talk = Negotiation::new(Scheme::Socks5, command, target, None).unwrap();
        talk.take_outgoing();
        feed(&mut talk, &[5, 0], 9).unwrap();
        talk.take_outgoing()
    };
    let mapped = request(Command::Connect, &address("[::ffff:192.0.2.1]:1"));
    assert_eq!(mapped, [5, 1, 0, 1, 192, 0, 2, 1, 0, 1]);
    let v6 = request(Command::UdpAssociate, &address("[2001:db8::1]:1"));
    assert_eq!((&v6[..4], v6.len()), (&[5, 3, 0, 4][..], 22));
    assert_eq!(request(Command::ResolvePtr, &address("192.0.2.1:0"))[1], 0xF1);
    assert_eq!(request(Command::Resolve, &Target::Name("a".into(), 0))[..6], [5, 0xF0, 0, 3, 1, b'a']);
    let long = Target::Name("x".repeat(256), 1);
    assert!(Negotiation::new(Scheme::Socks5, Command::Connect, &long, None).is_err());
    assert!(Negotiation::new(Scheme::Http, Command::Resolve, &long, None).is_err());
}

#[test]
fn socks_refusals_become_what_connect_would_say() {
    for (code, errno) in [
        (1, Errno::EHOSTUNREACH),
        (2, Errno::EHOSTUNREACH),
        (3, Errno::ENETUNREACH),
        (4, Errno::EHOSTUNREACH),
        (5, Errno::ECONNREFUSED),
        (6, Errno::ETIMEDOUT),
        (8, Errno::ENETUNREACH),
        (0xF2, Errno::EHOSTUNREACH),
    ] {
        let mut talk = begin(Scheme::Socks5, &address("192.0.2.1:443"), None);
        feed(&mut talk, &[5, 0], 9).unwrap();
        let refusal = feed(&mut talk, &[5, code, 0, 1, 0, 0, 0, 0, 0, 0], 100).unwrap_err();
        assert_eq!((refusal.errno, refusal.by_proxy_itself), (errno, false), "{code}");
    }
    let mut talk = begin(Scheme::Socks5, &address("192.0.2.1:443"), None);
    assert_eq!(talk.take(&[]).unwrap_err().errno, Errno::ECONNREFUSED);
}

#[test]
fn http() {
    for piece in [1, 7, 4096] {
        let mut talk = begin(Scheme::Http, &address("[2001:db8::1]:443"), None);
        let request = "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n";
        assert_eq!(talk.take_outgoing(), request.as_bytes());
        let reply = b"HTTP/1.1 100 Wait\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n";
        assert_eq!(feed(&mut talk, reply, piece), Ok(Progress::Done { early: Vec::new(), bound: None }));
    }
    let mut talk = begin(Scheme::Http, &address("192.0.2.1:22"), None);
    let done = talk.take(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n");
    assert_eq!(done, Ok(Progress::Done { early: b"SSH-2.0-x\r\n".to_vec(), bound: None }));
    for (reply, errno, itself) in [
        (&b"HTTP/1.1 504 Gateway Timeout\r\n\r\n"[..], Errno::ETIMEDOUT, false),
        (b"HTTP/1.1 500 Unable to connect\r\n\r\n", Errno::ECONNREFUSED, false),
        (b"HTTP/1.1 403 Filtered\r\nA: b\r\n\r\n", Errno::EHOSTUNREACH, false),
        (b"HTTP/1.1 407 No\r\n\r\n", Errno::ECONNREFUSED, true),
        (b"SSH-2.0-OpenSSH\r\n", Errno::ECONNREFUSED, true),
        (b"HTTP/1.1 \xFF\xFF\r\n\r\n", Errno::ECONNREFUSED, true),
    ] {
        let mut talk = begin(Scheme::Http, &address("192.0.2.1:22"), None);
        let refusal = feed(&mut talk, reply, 3).unwrap_err();
        assert_eq!((refusal.errno, refusal.by_proxy_itself), (errno, itself), "{reply:?}");
    }
}

#[test]
fn garbage_never_panics() {
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for round in 0..20_000 {
        let scheme = if round % 2 == 0 { Scheme::Socks5 } else { Scheme::Http };
        let mut talk = begin(scheme, &address("192.0.2.1:22"), (round % 3 == 0).then(credentials));
        if round % 4 == 0 {
            let _ = feed(&mut talk, &[5, 0], 2);
        }
        for _ in 0..20 {
            let length = usize::from(random() % 30).min(talk.wants()).max(1);
            let bytes: Vec<u8> = (0..length).map(|_| random() % 7).collect();
            if talk.take(&bytes).is_err() {
                break;
            }
        }
    }
}
