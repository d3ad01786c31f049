//! The values of `--dns`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// How DNS queries are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As any traffic.
    #[default]
    Judge,
    /// Answered by the proxy itself: Tor's RESOLVE and RESOLVE_PTR.
    Resolve,
    /// Handed on to this resolver by TCP through the proxy.
    Tcp(SocketAddr),
    /// Answered with addresses that stand for the names.
    Map,
}

const FORMS: &str = "accepted: judge, redirect, redirect=tcp://RESOLVER[:PORT] or redirect=map";

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "judge" => Self::Judge,
            "redirect" => Self::Resolve,
            "redirect=map" => Self::Map,
            _ => match text.strip_prefix("redirect=tcp://") {
                Some(resolver) => Self::Tcp(resolver_address(resolver)?),
                None => return Err(FORMS.into()),
            },
        })
    }
}

fn resolver_address(text: &str) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let text = text.strip_suffix('/').unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS)).or_else(|_| text.parse());
    let address = address.map_err(|_| {
        format!("the resolver must be an IP address, not {text:?}: a leak detector never resolves a name; {FORMS}")
    })?;
    if address.port() == 0 || address.ip().to_canonical().is_unspecified() {
        return Err(format!("{address} can't be connected to"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let tcp = |text: &str| Ok(Mode::Tcp(text.parse().unwrap()));
        for (text, expected) in [
            ("judge", Ok(Mode::Judge)),
            ("redirect", Ok(Mode::Resolve)),
            ("redirect=map", Ok(Mode::Map)),
            ("redirect=tcp://192.0.2.53", tcp("192.0.2.53:53")),
            ("redirect=tcp://192.0.2.53:5353/", tcp("192.0.2.53:5353")),
            ("redirect=tcp://2001:db8::53", tcp("[2001:db8::53]:53")),
            ("redirect=tcp://[2001:db8::53]", tcp("[2001:db8::53]:53")),
            ("redirect=tcp://[2001:db8::53]:853", tcp("[2001:db8::53]:853")),
        ] {
            assert_eq!(text.parse::<Mode>(), expected, "{text}");
        }
        for (text, why) in [
            ("", "accepted"),
            ("map", "redirect=map"),
            ("redirect=", "accepted"),
            ("redirect=udp://192.0.2.53", "accepted"),
            ("redirect=tcp://dns.example", "never resolves"),
            ("redirect=tcp://", "never resolves"),
            ("redirect=tcp://192.0.2.53:0", "can't be connected"),
            ("redirect=tcp://0.0.0.0", "can't be connected"),
        ] {
            let error = text.parse::<Mode>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
