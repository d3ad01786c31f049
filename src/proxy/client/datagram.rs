//! The header of datagrams that a SOCKS5 proxy relays: RFC 1928, section 7.

use super::socks5::{self, Bound};
use super::{Refusal, Target};

/// A datagram for `target`, as the proxy's relay takes it.
///
/// # Errors
/// Where a name is too long.
pub fn wrap(target: &Target, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
    // Two reserved bytes, and the number of the fragment: none.
    let mut datagram = vec![0, 0, 0];
    socks5::write_target(target, &mut datagram)?;
    datagram.extend_from_slice(payload);
    Ok(datagram)
}

/// Where a datagram from the relay comes from, and what it holds; `None` for fragments (which nobody makes) and
/// nonsense.
#[must_use]
pub fn unwrap(datagram: &[u8]) -> Option<(Bound, &[u8])> {
    let &[_, _, 0, kind, ref rest @ ..] = datagram else { return None };
    let (address, payload) = rest.split_at_checked(socks5::address_length(kind, rest)?)?;
    Some((socks5::bound(kind, address)?, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let four = Target::Address("192.0.2.1:53".parse().unwrap());
        assert_eq!(wrap(&four, b"ab").unwrap(), b"\0\0\0\x01\xC0\0\x02\x01\0\x35ab");
        let mapped = Target::Address("[::ffff:192.0.2.1]:53".parse().unwrap());
        assert_eq!(wrap(&mapped, b"").unwrap(), wrap(&four, b"").unwrap());
        for target in [four, Target::Address("[2001:db8::1]:443".parse().unwrap())] {
            let Target::Address(address) = target else { unreachable!() };
            let datagram = wrap(&target, b"payload").unwrap();
            assert_eq!(unwrap(&datagram), Some((Bound::Address(address), &b"payload"[..])));
        }
        let name = wrap(&Target::Name("a.b".into(), 1), b"x").unwrap();
        assert_eq!(name, b"\0\0\0\x03\x03a.b\0\x01x");
        assert_eq!(unwrap(&name), Some((Bound::Name(b"a.b".to_vec(), 1), &b"x"[..])));
        assert!(wrap(&Target::Name("a".repeat(256), 1), b"x").is_err());
    }

    #[test]
    fn nonsense() {
        let whole = wrap(&Target::Address("192.0.2.1:53".parse().unwrap()), b"").unwrap();
        for end in 0..whole.len() {
            assert_eq!(unwrap(&whole[..end]), None, "{end}");
        }
        assert_eq!(unwrap(b"\0\0\x01\x01\xC0\0\x02\x01\0\x35ab"), None, "a fragment");
        assert_eq!(unwrap(b"\0\0\0\x02\xC0\0\x02\x01\0\x35ab"), None, "an unknown type");
        assert_eq!(unwrap(b"\0\0\0\x03\xFFab"), None, "a name that is cut off");
    }
}
