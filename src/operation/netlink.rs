//! Netlink requests that show the host's network: rtnetlink(7).

use super::layout::number;

/// The first request among these netlink messages that shows addresses, links, routes, neighbours or
/// rules, by name.
#[must_use]
pub fn shows_network(payload: &[u8]) -> Option<&'static str> {
    const HEADER: usize = 16; // struct nlmsghdr
    let mut rest = payload;
    while rest.len() >= HEADER {
        let length = number(rest, 0, 4) as usize;
        let kind = rest.get(4..).and_then(<[u8]>::first_chunk).map(|kind| u16::from_ne_bytes(*kind))?;
        if let Some(name) = name(kind) {
            return Some(name);
        }
        if length < HEADER {
            return None;
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// The reading requests of <linux/rtnetlink.h>.
fn name(kind: u16) -> Option<&'static str> {
    Some(match kind {
        18 => "RTM_GETLINK",
        22 => "RTM_GETADDR",
        26 => "RTM_GETROUTE",
        30 => "RTM_GETNEIGH",
        34 => "RTM_GETRULE",
        58 => "RTM_GETMULTICAST",
        62 => "RTM_GETANYCAST",
        66 => "RTM_GETNEIGHTBL",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes
    }

    #[test]
    fn the_second_request_counts_too() {
        assert_eq!(shows_network(&message(22, 16)), Some("RTM_GETADDR"));
        assert_eq!(shows_network(&[message(16, 16), message(26, 16)].concat()), Some("RTM_GETROUTE"));
        assert_eq!(shows_network(&message(16, 16)), None);
    }

    #[test]
    fn nonsense_lengths_end_the_search() {
        for length in [0, 1, 15, 17, u32::MAX, u32::MAX - 3] {
            assert_eq!(shows_network(&[message(16, length), vec![0; 40]].concat()), None);
        }
        assert_eq!(shows_network(&[0; 15]), None);
    }
}
