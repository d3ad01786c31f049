//! A table of handshakes, each in every pair of pieces, byte by byte, and with the proxy's choice early and late.

use super::*;
use regex::bytes::Regex;

const NO: u8 = 0;
const GSSAPI: u8 = 1;

fn any() -> Rules {
    Rules::default()
}

fn required() -> Rules {
    Rules { auth: Auth::Required, ..Rules::default() }
}

fn tor() -> Rules {
    Rules { auth: Auth::Tor, ..Rules::default() }
}

fn names() -> Rules {
    Rules { names: true, ..Rules::default() }
}

fn matching(regex: &str) -> Rules {
    Rules { isolation: Some(Regex::new(regex).unwrap()), ..Rules::default() }
}

fn greet(methods: &[u8]) -> Vec<u8> {
    [&[5, methods.len() as u8], methods].concat()
}

fn login(username: &str, password: &str) -> Vec<u8> {
    let field = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![1], field(username), field(password)].concat()
}

fn by_name(command: u8, name: &str, port: u16) -> Vec<u8> {
    [&[5, command, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat()
}

const BY_V4: &[u8] = &[5, 1, 0, 1, 203, 0, 113, 5, 0, 80];
const BY_V6: &[u8] = &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 80];

/// What the client sends, message by message; the proxy's answer to the first; what is to come of it, and how
/// many messages may reach the proxy.
struct Row {
    name: &'static str,
    rules: Rules,
    messages: Vec<Vec<u8>>,
    answer: [u8; 2],
    expected: Progress,
    reaches: usize,
}

fn row(
    name: &'static str,
    rules: Rules,
    messages: &[&[u8]],
    choice: u8,
    expected: Progress,
    reaches: usize,
) -> Row {
    let messages = messages.iter().map(|message| message.to_vec()).collect();
    Row { name, rules, messages, answer: [5, choice], expected, reaches }
}

fn bad(name: &'static str, rules: Rules, messages: &[&[u8]], choice: u8, fault: Fault, reaches: usize) -> Row {
    row(name, rules, messages, choice, Progress::Bad(fault), reaches)
}

fn broken(name: &'static str, messages: &[&[u8]], choice: u8, how: Malformed) -> Row {
    bad(name, any(), messages, choice, Fault::Malformed(how), messages.len() - 1)
}

fn good(name: &'static str, rules: Rules, messages: &[&[u8]], choice: u8) -> Row {
    row(name, rules, messages, choice, Progress::Good, messages.len())
}

fn foreign_rows() -> Vec<Row> {
    let first = |name, message: &[u8], fault| bad(name, any(), &[message], NO, fault, 0);
    vec![
        first("SOCKS4", b"\x04\x01\x00\x50\xcb\x00\x71\x05me\0", Fault::Socks4 { named: false }),
        first("HTTP CONNECT", b"CONNECT site.example:80 HTTP/1.1\r\n\r\n", Fault::Http),
        first("HTTP GET", b"GET http://site.example/ HTTP/1.1\r\n\r\n", Fault::Http),
        first("TLS", b"\x16\x03\x01\x00\x05", Fault::Tls),
        first("SSH", b"SSH-2.0-x\r\n", Fault::Http),
        first("SOCKS6", b"\x06\x00", Fault::NotSocks(6)),
        first("zeros", b"\x00\x00", Fault::NotSocks(0)),
        first("lower case", b"hello", Fault::NotSocks(b'h')),
        first("a line feed first", b"\nGET", Fault::NotSocks(b'\n')),
        first("0xff", b"\xff\xff", Fault::NotSocks(0xFF)),
    ]
}

fn malformed_rows() -> Vec<Row> {
    let greeting = greet(&[NO, PASSWORD]);
    let fine = login("user", "word");
    let request = |name, message: &[u8], how| broken(name, &[&greet(&[NO]), message], NO, how);
    let auth = |name, message: &[u8], how| broken(name, &[&greeting, message], PASSWORD, how);
    vec![
        broken("no methods", &[&[5, 0]], NO, Malformed::NoMethods),
        broken("the refusal offered", &[&[5, 2, 2, 0xFF]], NO, Malformed::OffersRefusal),
        auth("login version 5", b"\x05\x01u\x01p", Malformed::AuthVersion(5)),
        auth("login version 0", b"\x00\x01u\x01p", Malformed::AuthVersion(0)),
        auth("empty username", b"\x01\x00\x01p", Malformed::EmptyUsername),
        auth("empty password", b"\x01\x01u\x00", Malformed::EmptyPassword),
        auth("both empty", b"\x01\x00\x00", Malformed::EmptyUsername),
        auth("a request instead of a login", BY_V4, Malformed::AuthVersion(5)),
        request("a login unasked", &fine, Malformed::RequestVersion(1)),
        request("request version 4", b"\x04\x01\x00\x01\x01\x02\x03\x04\x00\x50", Malformed::RequestVersion(4)),
        request("data instead of a request", b"GET / HTTP/1.1\r\n", Malformed::RequestVersion(b'G')),
        request("command 0", b"\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50", Malformed::Command(0)),
        request("command 4", b"\x05\x04\x00\x01\x01\x02\x03\x04\x00\x50", Malformed::Command(4)),
        request("command 0xf2", b"\x05\xf2\x00\x01\x01\x02\x03\x04\x00\x50", Malformed::Command(0xF2)),
        request("reserved byte", b"\x05\x01\x05\x01\x01\x02\x03\x04\x00\x50", Malformed::Reserved(5)),
        request("address type 0", b"\x05\x01\x00\x00\x01\x02\x03\x04\x00\x50", Malformed::AddressType(0)),
        request("address type 2", b"\x05\x01\x00\x02\x01\x02\x03\x04\x00\x50", Malformed::AddressType(2)),
        request("address type 5", b"\x05\x01\x00\x05\x01\x02\x03\x04\x00\x50", Malformed::AddressType(5)),
        request("an empty name", b"\x05\x01\x00\x03\x00\x00\x50", Malformed::EmptyName),
        request("a NUL in the name", &by_name(1, "site\0.example", 80), Malformed::NameByte(0)),
        request("a space in the name", &by_name(1, "site example", 80), Malformed::NameByte(b' ')),
        request("a line feed in the name", &by_name(1, "site\n", 80), Malformed::NameByte(b'\n')),
        request("port 0", &by_name(1, "site.example", 0), Malformed::PortZero),
        request("port 0 by address", b"\x05\x01\x00\x01\x01\x02\x03\x04\x00\x00", Malformed::PortZero),
        broken("after a login", &[&greeting, &fine, b"\x05\x09"], PASSWORD, Malformed::Command(9)),
    ]
}

fn auth_rows() -> Vec<Row> {
    let (both, only) = (greet(&[NO, PASSWORD]), greet(&[PASSWORD]));
    let request = by_name(1, "site.example", 80);
    let user = |username: &str, fault| {
        bad("Tor's format", tor(), &[&only, &login(username, "iso"), &request], PASSWORD, fault, 1)
    };
    let mismatch = |regex: &str| Fault::Isolation(regex.into());
    vec![
        bad("no password offered", required(), &[&greet(&[NO]), &request], NO, Fault::NoPasswordOffered, 0),
        bad("no password offered to Tor", tor(), &[&greet(&[NO]), &request], NO, Fault::NoPasswordOffered, 0),
        bad("GSSAPI alone", required(), &[&greet(&[GSSAPI])], NO, Fault::NoPasswordOffered, 0),
        bad("no password for the regex", matching("x"), &[&greet(&[NO])], NO, Fault::NoPasswordOffered, 0),
        bad("fallback", required(), &[&both, &request], NO, Fault::FellBack(NO), 1),
        bad("fallback with Tor", tor(), &[&both, &request], NO, Fault::FellBack(NO), 1),
        bad("a login after the fallback", required(), &[&both, &login("u", "p")], NO, Fault::FellBack(NO), 1),
        bad("GSSAPI", any(), &[&greet(&[NO, GSSAPI]), b"\x01\x01"], GSSAPI, Fault::Opaque(GSSAPI), 1),
        bad("a private method", any(), &[&greet(&[0x80]), b"x"], 0x80, Fault::Opaque(0x80), 1),
        bad("what was not offered", any(), &[&greet(&[NO]), &login("u", "p")], PASSWORD, Fault::NotOffered(2), 1),
        bad("no auth was not offered", any(), &[&only, &request], NO, Fault::NotOffered(0), 1),
        bad("refused, yet it goes on", any(), &[&both, &request], REFUSED, Fault::Refused, 1),
        user("name", Fault::NotTor),
        user("<tors0x>0", Fault::NotTor),
        user("<torS0X", Fault::NotTor),
        user(" <torS0X>0", Fault::NotTor),
        user("<torS0X>", Fault::TorFormatMissing),
        user("<torS0X>2", Fault::TorFormat(b'2')),
        user("<torS0X>x", Fault::TorFormat(b'x')),
        user("<torS0X>0rest", Fault::TorRest),
        user("<torS0X>1", Fault::TorNoObject),
        bad("an empty isolation", tor(), &[&only, b"\x01\x09<torS0X>0\x00"], PASSWORD, EMPTY, 1),
        bad(
            "another isolation",
            matching("^tab-"),
            &[&only, &login("u", "xtab-1")],
            PASSWORD,
            mismatch("^tab-"),
            1,
        ),
        bad("BIND with Tor", tor(), &[&only, &login("<torS0X>0", "i"), &by_name(2, "x.y", 1)], PASSWORD, BIND, 2),
        bad("UDP with Tor", tor(), &[&only, &login("<torS0X>0", "i"), &by_name(3, "x.y", 1)], PASSWORD, UDP, 2),
        bad("IPv4 for a name", names(), &[&greet(&[NO]), BY_V4], NO, Fault::Literal, 1),
        bad("IPv6 for a name", names(), &[&greet(&[NO]), BY_V6], NO, Fault::Literal, 1),
        bad(
            "an address as a name",
            names(),
            &[&greet(&[NO]), &by_name(1, "203.0.113.5", 80)],
            NO,
            Fault::Literal,
            1,
        ),
        bad("IPv6 as a name", names(), &[&greet(&[NO]), &by_name(1, "[2001:db8::5]", 80)], NO, Fault::Literal, 1),
        bad("RESOLVE of an address", names(), &[&greet(&[NO]), &by_name(0xF0, "::1", 80)], NO, Fault::Literal, 1),
    ]
}

const REFUSED: u8 = 0xFF;
const EMPTY: Fault = Fault::Malformed(Malformed::EmptyPassword);
const BIND: Fault = Fault::NotTors(Command::Bind);
const UDP: Fault = Fault::NotTors(Command::UdpAssociate);

fn good_rows() -> Vec<Row> {
    let (both, only) = (greet(&[NO, PASSWORD]), greet(&[PASSWORD]));
    let request = by_name(1, "site.example", 80);
    let longest = "x".repeat(255);
    let data = b"GET / HTTP/1.1\r\n\r\n\x04\x05\x00";
    vec![
        good("plain", any(), &[&greet(&[NO]), &request], NO),
        good("with data", any(), &[&greet(&[NO]), &request, data], NO),
        good("all methods", any(), &[&greet(&(0..255).collect::<Vec<u8>>()), &request], NO),
        good("IPv4", any(), &[&greet(&[NO]), BY_V4], NO),
        good("IPv6", any(), &[&greet(&[NO]), BY_V6], NO),
        good("login though not asked for", any(), &[&both, &login("u", "p"), &request, data], PASSWORD),
        good("login", required(), &[&both, &login("u", "p"), &request], PASSWORD),
        good("the longest", required(), &[&only, &login(&longest, &longest), &by_name(1, &longest, 1)], PASSWORD),
        good("Tor's", tor(), &[&only, &login("<torS0X>0", "tab"), &request, data], PASSWORD),
        good("Tor's with an object", tor(), &[&only, &login("<torS0X>1object", "tab"), &request], PASSWORD),
        good("RESOLVE", tor(), &[&only, &login("<torS0X>0", "t"), &by_name(0xF0, "a.b", 0)], PASSWORD),
        good("an isolation", matching("^tab-[0-9]+$"), &[&only, &login("u", "tab-17"), &request], PASSWORD),
        good("unanchored", matching("b-1"), &[&only, &login("u", "tab-17"), &request], PASSWORD),
        good("names", names(), &[&greet(&[NO]), &request], NO),
        good(
            "RESOLVE_PTR is by address",
            names(),
            &[&greet(&[NO]), b"\x05\xf1\x00\x01\x01\x02\x03\x04\x00\x00"],
            NO,
        ),
        good("BIND", any(), &[&greet(&[NO]), b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"], NO),
        good("UDP", names(), &[&greet(&[NO]), b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"], NO),
        good("bytes above ASCII", any(), &[&greet(&[NO]), &by_name(1, "b\u{fc}cher.example", 80)], NO),
    ]
}

/// Plays the client's pieces against a proxy that answers the greeting, at once or when all has been sent.
fn play(row: &Row, pieces: &[&[u8]], late: bool) -> (Vec<u8>, Progress) {
    let mut inspector = Inspector::new(Arc::new(row.rules.clone()));
    let (mut reached, mut progress, mut answered) = (Vec::new(), Progress::Going, false);
    for piece in pieces.iter().map(Some).chain([None]) {
        if progress != Progress::Going {
            break;
        }
        if let Some(piece) = piece {
            let (bytes, now) = inspector.from_client(piece);
            reached.extend(bytes);
            progress = now;
        }
        if !answered && progress == Progress::Going && !reached.is_empty() && (!late || piece.is_none()) {
            answered = true;
            for byte in row.answer {
                if progress == Progress::Going {
                    let (bytes, now) = inspector.from_proxy(&[byte]);
                    reached.extend(bytes);
                    progress = now;
                }
            }
        }
    }
    (reached, progress)
}

#[test]
fn every_handshake_in_every_pieces() {
    let faults: Vec<Row> = [foreign_rows(), malformed_rows(), auth_rows()].into_iter().flatten().collect();
    assert!(faults.len() >= 60, "{}", faults.len());
    for row in faults.into_iter().chain(good_rows()) {
        let all = row.messages.concat();
        let reaches = row.messages[..row.reaches].concat();
        let single: Vec<&[u8]> = all.chunks(1).collect();
        let halves = (0..all.len()).map(|at| vec![&all[..at], &all[at..]]);
        for pieces in halves.chain([vec![&all[..]], single, row.messages.iter().map(Vec::as_slice).collect()]) {
            for late in [false, true] {
                let (mut reached, progress) = play(&row, &pieces, late);
                let split = pieces.first().map_or(0, |first| first.len());
                if progress == Progress::Good {
                    // What follows a good handshake isn't the inspector's any more.
                    reached.truncate(reaches.len());
                    assert!(reaches.starts_with(&reached), "{}: split at {split}", row.name);
                } else {
                    assert_eq!(reached, reaches, "{}: split at {split}, late {late}", row.name);
                }
                assert_eq!(progress, row.expected, "{}: split at {split}, late {late}", row.name);
            }
        }
    }
}

#[test]
fn socks4a_is_told_from_its_first_piece() {
    let mut inspector = Inspector::new(Arc::default());
    let (reached, progress) = inspector.from_client(b"\x04\x01\x00\x50\x00\x00\x00\x01me\0site.example\0");
    assert_eq!((reached, progress), (Vec::new(), Progress::Bad(Fault::Socks4 { named: true })));
    assert_eq!(inspector.seen().foreign.as_deref(), Some("site.example:80"));
    assert_eq!(
        rules::foreign_destination(b"\x04\x01\x00\x50\xcb\x00\x71\x05me\0").as_deref(),
        Some("203.0.113.5:80")
    );
    assert_eq!(rules::foreign_destination(b"CONNECT a.b:1 HTTP/1.1\r\n").as_deref(), Some("a.b:1"));
    assert_eq!(rules::foreign_destination(b"\x04\x01\x00"), None);
}

#[test]
fn what_is_foreign_is_told_whole() {
    for (message, destination) in [
        (&b"\x04\x01\x00\x50\x00\x00\x00\x01me\0site.example\0"[..], "site.example:80"),
        (b"\x04\x01\x00\x50\xcb\x00\x71\x05me\0", "203.0.113.5:80"),
        (b"CONNECT site.example:80 HTTP/1.1\n", "site.example:80"),
    ] {
        let mut inspector = Inspector::new(Arc::default());
        let (last, rest) = message.split_last().unwrap();
        for byte in rest {
            assert_eq!(inspector.from_client(&[*byte]), (Vec::new(), Progress::Going));
            assert!(matches!(inspector.end(), Progress::Bad(Fault::Socks4 { .. } | Fault::Http)));
        }
        assert!(matches!(inspector.from_client(&[*last]), (_, Progress::Bad(_))));
        assert_eq!(inspector.seen().foreign.as_deref(), Some(destination));
    }
    let mut inspector = Inspector::new(Arc::default());
    let (_, progress) = inspector.from_client(&[b'A'; 1024]);
    assert_eq!(progress, Progress::Bad(Fault::Http), "endless");
}

#[test]
fn what_ends_in_the_middle_is_cut_off() {
    let all = [greet(&[NO]), by_name(1, "site.example", 80)].concat();
    for end in 0..=all.len() {
        let mut inspector = Inspector::new(Arc::default());
        inspector.from_client(&all[..end]);
        inspector.from_proxy(&[5, 0]);
        let between = [0, 3].contains(&end);
        let expected = match end {
            _ if between => Progress::Going,
            _ if end == all.len() => Progress::Good,
            _ => Progress::Bad(Fault::CutOff),
        };
        assert_eq!(inspector.end(), expected, "{end}");
    }
}

#[test]
fn a_proxy_that_speaks_otherwise_gets_nothing_more() {
    for answer in [&b"HT"[..], &[4, 0], &[0, 0]] {
        let mut inspector = Inspector::new(Arc::default());
        assert_eq!(inspector.from_client(&greet(&[NO])), (greet(&[NO]), Progress::Going));
        assert_eq!(inspector.from_proxy(answer), (Vec::new(), Progress::Going));
        assert_eq!(inspector.from_client(&[5]), (Vec::new(), Progress::Bad(Fault::ProxyIsNone)));
    }
}

#[test]
fn credentials_are_shortened() {
    assert_eq!(shown(b"secret-word", false), "se… (11 bytes)");
    assert_eq!(shown(b"pass", false), "… (4 bytes)");
    assert_eq!(shown(b"secret-word", true), "secret-word");
    assert_eq!(shown(b"<torS0X>0", false), "<torS0X>0");
}

#[test]
fn noise_never_panics() {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for _ in 0..20_000 {
        let mut inspector = Inspector::new(Arc::new(tor()));
        for _ in 0..6 {
            let bytes: Vec<u8> = (0..next() % 24).map(|_| if next() < 160 { next() % 6 } else { next() }).collect();
            if next() < 128 {
                inspector.from_proxy(&bytes);
            } else {
                inspector.from_client(&[&[5, 1, 2][..], &bytes].concat());
            }
            let _ = inspector.end();
        }
    }
}
