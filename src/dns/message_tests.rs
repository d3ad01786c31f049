use super::*;
use std::str::FromStr;

/// A query by hand: id 0xBEEF, recursion desired.
fn bytes(name: &str, kind: u16, additional: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xBE, 0xEF, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!additional.is_empty())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(additional);
    bytes
}

/// EDNS with a payload of 4096, version, and DO.
fn opt(version: u8) -> Vec<u8> {
    // A cookie and the asker's network (RFC 7873, 7871).
    let options = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2];
    let mut opt = vec![0, 0, 41, 0x10, 0, 0, version, 0x80, 0, 0, options.len() as u8];
    opt.extend(options);
    opt
}

fn parsed(bytes: &[u8]) -> Query {
    Query::parse(bytes).unwrap()
}

fn read(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

#[test]
fn an_answer_repeats_the_question_to_the_letter() {
    let asked = bytes("wWw.ExAmPlE.com", 1, &[]);
    let query = parsed(&asked);
    assert_eq!((query.subject(), query.host().as_deref()), (Subject::Ipv4, Some("www.example.com")));
    assert_eq!(query.summary(), "A wWw.ExAmPlE.com");
    let answer = query.answered(&Answer::Address("192.0.2.7".parse().unwrap(), 60)).unwrap();
    assert_eq!(&answer[..2], &[0xBE, 0xEF]);
    assert_eq!(answer[2..4], [0x81, 0x80], "a response, recursion desired and available, no error");
    assert_eq!(answer[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answer[12..asked.len()], asked[12..], "0x20");
    let message = read(&answer);
    assert_eq!(message.answers[0].data, RData::A(A("192.0.2.7".parse().unwrap())));
    assert_eq!(message.answers[0].ttl, 60);
    assert!(message.edns.is_none());
}

#[test]
fn edns_is_answered_with_edns_and_limits_the_length() {
    let query = parsed(&bytes("x.example", 28, &opt(0)));
    assert_eq!((query.limit(), parsed(&bytes("x.example", 28, &[])).limit()), (4096, 512));
    let message = read(&query.answered(&Answer::Nothing).unwrap());
    let edns = message.edns.as_ref().unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, OWN_LIMIT, true));
    assert!(edns.options().options.is_empty() && message.answers.is_empty());
    let refused = Query::parse(&bytes("x.example", 28, &opt(1))).unwrap_err().unwrap();
    let message = read(&refused);
    assert_eq!(u16::from(message.metadata.response_code), 16, "BADVERS");
    assert_eq!(message.edns.unwrap().version(), 0);
}

#[test]
fn options_are_not_handed_on() {
    let asked = bytes("x.example", 16, &opt(0));
    let handed = parsed(&asked).handed_on().unwrap();
    let message = read(&handed);
    assert_eq!(message.metadata.id, 0xBEEF);
    assert!(message.metadata.recursion_desired);
    assert_eq!(message.queries[0].query_type, RecordType::TXT);
    assert!(message.edns.unwrap().options().options.is_empty());
    assert!(!handed.windows(4).any(|window| window == [1, 2, 3, 4]));
}

#[test]
fn an_answer_to_something_else_is_none() {
    let query = parsed(&bytes("x.example", 1, &[]));
    let good = parsed(&bytes("X.example", 1, &[])).answered(&Answer::Nothing).unwrap();
    assert!(query.is_answered_by(&good));
    let mut other_id = good.clone();
    other_id[0] ^= 1;
    let other_name = parsed(&bytes("y.example", 1, &[])).answered(&Answer::Nothing).unwrap();
    for bad in [&other_id, &other_name, &bytes("x.example", 1, &[]), &good[..20].to_vec()] {
        assert!(!query.is_answered_by(bad));
    }
}

#[test]
fn kinds() {
    for (name, kind, subject) in [
        ("7.2.0.192.in-addr.arpa", 12, Subject::Pointer("192.0.2.7".parse().unwrap())),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6.ArPa",
            12,
            Subject::Pointer("2001:db8::1".parse().unwrap()),
        ),
        ("2.0.192.in-addr.arpa", 12, Subject::PointerElsewhere),
        ("300.2.0.192.in-addr.arpa", 12, Subject::PointerElsewhere),
        ("b._dns-sd._udp.example", 12, Subject::PointerElsewhere),
        ("", 12, Subject::PointerElsewhere),
        ("x.example", 65, Subject::Optional),
        ("x.example", 64, Subject::Optional),
        ("x.example", 15, Subject::Other),
        ("x.example", 255, Subject::Other),
        ("x.example", 4242, Subject::Other),
    ] {
        assert_eq!(parsed(&bytes(name, kind, &[])).subject(), subject, "{name}");
    }
}

#[test]
fn what_no_host_is_called() {
    let host = |name: &str| parsed(&bytes(name, 1, &[])).host();
    assert_eq!(host("_x._tcp.a-b.example").as_deref(), Some("_x._tcp.a-b.example"));
    assert_eq!(host("x.y.onion").as_deref(), Some("x.y.onion"));
    for name in ["", "1.2.3.4", "a b.example", "ex\0.com", "é.example", "a@b"] {
        assert_eq!(host(name), None, "{name:?}");
    }
    // A dot within a label is not a separator.
    let mut odd = bytes("aXb.example", 1, &[]);
    let at = odd.iter().position(|byte| *byte == b'X').unwrap();
    odd[at] = b'.';
    assert_eq!(parsed(&odd).host(), None);
    assert!(host(&vec!["x".repeat(62); 4].join(".")).is_some());
}

#[test]
fn nonsense_is_refused_by_its_kind() {
    let code = |bytes: &[u8]| {
        Query::parse(bytes).unwrap_err().map(|reply| {
            assert_eq!((&reply[..2], reply[2] & 0x80), (&bytes[..2], 0x80));
            reply[3] & 0xF
        })
    };
    let good = bytes("x.example", 1, &[]);
    assert_eq!(code(&good[..11]), None, "no header");
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(code(&response), None);
    let mut update = good.clone();
    update[2] = 5 << 3;
    assert_eq!(code(&update), Some(4));
    let mut none = good.clone();
    none[5] = 0;
    assert_eq!(code(&none), Some(1));
    let mut many = good.clone();
    many[4] = 0xFF;
    assert_eq!(code(&many), Some(1));
    let mut chaos = good.clone();
    let last = chaos.len() - 1;
    chaos[last] = 3;
    assert_eq!(code(&chaos), Some(5));
    for length in 12..good.len() {
        assert_eq!(code(&good[..length]), Some(1), "{length}");
    }
    let mut looped = good[..12].to_vec();
    looped.extend([0xC0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&looped), Some(1));
}

#[test]
fn garbage_never_panics() {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let good = bytes("www.example.com", 12, &opt(0));
    for round in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=round % 4 {
            let at = usize::from(next()) % bytes.len();
            bytes[at] = next();
        }
        bytes.truncate(good.len() - usize::from(next() % 8));
        if let Ok(query) = Query::parse(&bytes) {
            let _ = (query.summary(), query.subject(), query.host(), query.handed_on(), query.truncated());
            let pointer = Answer::Pointer(Name::from_str("a.example.").unwrap(), 1);
            for answer in [pointer, Answer::Failed, Answer::Address(IpAddr::from([1, 2, 3, 4]), 0)] {
                if let Some(reply) = query.answered(&answer) {
                    assert!(Message::from_vec(&reply).is_ok());
                }
            }
        }
    }
}

#[test]
fn a_truncated_answer_says_so() {
    let message = read(&parsed(&bytes("x.example", 16, &[])).truncated().unwrap());
    assert!(message.metadata.truncation && message.answers.is_empty());
    assert_eq!(message.queries.len(), 1);
}
