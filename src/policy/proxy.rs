//! Proxy URLs.

use super::unix::with_resolved_prefix;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A proxy that traffic may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    text: String,
    scheme: Scheme,
    endpoint: Endpoint,
    credentials: Option<Credentials>,
}

/// What is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// SOCKS version 5.
    Socks5,
    /// HTTP CONNECT.
    Http,
}

/// Where a proxy listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP addresses: one, or those of `localhost`.
    Tcp(Vec<SocketAddr>),
    /// A UNIX socket: its path as written and, where links lead elsewhere, as resolved.
    Unix(Vec<PathBuf>),
}

/// Username and password, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// 1 to 255 bytes.
    pub username: Vec<u8>,
    /// 1 to 255 bytes.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    /// Neither belongs in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

const FORMS: &str = "socks5://HOST:PORT, socks5://USER:PASS@HOST:PORT, socks5+unix:///PATH or \
                     http://HOST:PORT";

impl Proxy {
    /// The URL as the user wrote it, its password masked.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is spoken to it.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Username and password, if the URL has them.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Adds where links on a UNIX proxy's path lead to, as operations carry resolved paths.
    #[must_use]
    pub fn resolved(mut self, canonicalize: &dyn Fn(&Path) -> Option<PathBuf>) -> Self {
        if let Endpoint::Unix(paths) = &mut self.endpoint {
            let more = paths.iter().filter_map(|path| with_resolved_prefix(path, canonicalize));
            let more: Vec<_> = more.collect();
            paths.extend(more);
        }
        self
    }

    /// The proxies that Tor opens by default.
    pub(super) fn defaults() -> Vec<Self> {
        [(IpAddr::V4(Ipv4Addr::LOCALHOST)), (IpAddr::V6(Ipv6Addr::LOCALHOST))]
            .map(|ip| SocketAddr::new(ip, 9050))
            .map(|address| Self {
                text: format!("socks5://{address}"),
                scheme: Scheme::Socks5,
                endpoint: Endpoint::Tcp(vec![address]),
                credentials: None,
            })
            .into()
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or(format!("a proxy is {FORMS}"))?;
        let text = redact(url).into_owned();
        let (scheme, endpoint, credentials) = match scheme.to_ascii_lowercase().as_str() {
            "socks5+unix" => (Scheme::Socks5, unix_endpoint(rest)?, None),
            "socks5" => {
                let (credentials, host) = match rest.rsplit_once('@') {
                    Some((userinfo, host)) => (Some(credentials(userinfo)?), host),
                    None => (None, rest),
                };
                (Scheme::Socks5, tcp_endpoint(host)?, credentials)
            }
            "http" if rest.contains('@') => {
                return Err("credentials are for socks5:// alone".into());
            }
            "http" => (Scheme::Http, tcp_endpoint(rest)?, None),
            other => return Err(format!("no such scheme: {other}://; a proxy is {FORMS}")),
        };
        Ok(Self { text, scheme, endpoint, credentials })
    }
}

fn tcp_endpoint(host_and_port: &str) -> Result<Endpoint, String> {
    let host_and_port = host_and_port.strip_suffix('/').unwrap_or(host_and_port);
    let addresses = match host_and_port.rsplit_once(':') {
        Some((name, port)) if name.eq_ignore_ascii_case("localhost") => {
            let port = port.parse().map_err(|_| format!("no port number: {port}"))?;
            vec![
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
            ]
        }
        _ => vec![host_and_port.parse().map_err(|_| why_no_address(host_and_port))?],
    };
    for address in &addresses {
        if address.port() == 0 {
            return Err("port 0 can't be connected to".into());
        }
        if address.ip().to_canonical().is_unspecified() {
            return Err(format!("{} is no proxy's address: name the one it listens on", address.ip()));
        }
    }
    Ok(Endpoint::Tcp(addresses))
}

fn why_no_address(host_and_port: &str) -> String {
    if host_and_port.parse::<Ipv4Addr>().is_ok()
        || host_and_port.ends_with(']')
        || host_and_port.eq_ignore_ascii_case("localhost")
    {
        return "the port is missing".into();
    }
    if host_and_port.parse::<Ipv6Addr>().is_ok() {
        return "an IPv6 address stands in brackets: [::1]:9050".into();
    }
    let (host, port) = host_and_port.rsplit_once(':').unwrap_or((host_and_port, ""));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.unwrap_or(host).parse::<IpAddr>().is_ok() {
        return match (bracketed, port.parse::<u16>()) {
            (None, Ok(_)) => "an IPv6 address stands in brackets: [::1]:9050".into(),
            _ => format!("no port number: {port}"),
        };
    }
    format!("the host must be an IP address or localhost, not {host:?}: a leak detector never resolves a name")
}

fn unix_endpoint(rest: &str) -> Result<Endpoint, String> {
    if !rest.starts_with('/') {
        return Err("the path must be absolute: socks5+unix:///PATH".into());
    }
    let path = percent_decoded(rest)?;
    if path.contains(&0) {
        return Err("a path holds no NUL".into());
    }
    Ok(Endpoint::Unix(vec![PathBuf::from(OsString::from_vec(path))]))
}

fn credentials(userinfo: &str) -> Result<Credentials, String> {
    let (username, password) = userinfo.split_once(':').ok_or("a username comes with a password")?;
    let credentials = Credentials { username: percent_decoded(username)?, password: percent_decoded(password)? };
    // RFC 1929: both lengths are one byte, from 1.
    for (what, value) in [("username", &credentials.username), ("password", &credentials.password)] {
        if !(1..=255).contains(&value.len()) {
            return Err(format!("a SOCKS5 {what} has 1 to 255 bytes, not {}", value.len()));
        }
    }
    Ok(credentials)
}

/// Unlike a browser's, this fails on a stray `%`: a password must not silently become another one.
fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => {
                return Err("% must be followed by two hexadecimal digits (%25 is % itself)".into());
            }
        }
    }
    Ok(decoded)
}

/// A proxy URL with its password masked, for messages and events.
#[must_use]
pub fn redact(url: &str) -> Cow<'_, str> {
    let masked = || {
        let (scheme, rest) = url.split_once("://")?;
        let (userinfo, host) = rest.rsplit_once('@')?;
        let (username, _) = userinfo.split_once(':')?;
        Some(format!("{scheme}://{username}:***@{host}"))
    };
    masked().map_or(Cow::Borrowed(url), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Proxy, String> {
        url.parse()
    }

    fn tcp(url: &str) -> Vec<String> {
        match parse(url).unwrap().endpoint {
            Endpoint::Tcp(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Endpoint::Unix(_) => panic!("{url} is a path"),
        }
    }

    #[test]
    fn forms() {
        assert_eq!(tcp("socks5://127.0.0.1:9050"), ["127.0.0.1:9050"]);
        assert_eq!(tcp("SOCKS5://[::1]:9050/"), ["[::1]:9050"]);
        assert_eq!(tcp("http://localhost:8118"), ["127.0.0.1:8118", "[::1]:8118"]);
        assert_eq!(parse("http://1.2.3.4:1").unwrap().scheme(), Scheme::Http);
        assert_eq!(
            parse("socks5+unix:///run/tor%20x/socks").unwrap().endpoint,
            Endpoint::Unix(vec!["/run/tor x/socks".into()])
        );
    }

    #[test]
    fn credentials_are_decoded_and_masked() {
        let proxy = parse("socks5://a%3Ab:p%40s%25:@x@10.0.0.1:1080").unwrap();
        let credentials = proxy.credentials().unwrap();
        assert_eq!(credentials.username, b"a:b");
        assert_eq!(credentials.password, b"p@s%:@x");
        assert_eq!(proxy.text(), "socks5://a%3Ab:***@10.0.0.1:1080");
        assert!(!format!("{proxy:?}").contains("p@s"));
        let long = format!("socks5://u:{}@1.2.3.4:1", "x".repeat(256));
        assert!(parse(&long).unwrap_err().contains("255"));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (url, why) in [
            ("127.0.0.1:9050", "socks5://"),
            ("socks4://127.0.0.1:9050", "no such scheme"),
            ("socks5://tor.example:9050", "never resolves"),
            ("socks5://example", "never resolves"),
            ("socks5://127.0.0.1", "port is missing"),
            ("socks5://localhost", "port is missing"),
            ("socks5://[::1]", "port is missing"),
            ("socks5://::1", "brackets"),
            ("socks5://::1:9050", "brackets"),
            ("socks5://127.0.0.1:70000", "no port number"),
            ("socks5://127.0.0.1:0", "port 0"),
            ("socks5://0.0.0.0:9050", "no proxy's address"),
            ("socks5://[::]:9050", "no proxy's address"),
            ("socks5://[::ffff:0.0.0.0]:9050", "no proxy's address"),
            ("socks5://u@127.0.0.1:1", "password"),
            ("socks5://:p@127.0.0.1:1", "username"),
            ("socks5://u:%zz@127.0.0.1:1", "hexadecimal"),
            ("http://u:p@127.0.0.1:1", "socks5:// alone"),
            ("socks5+unix://run/x", "absolute"),
            ("socks5+unix:///run/%00", "NUL"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn a_link_on_a_unix_path_adds_where_it_leads() {
        let link = |path: &Path| (path == Path::new("/var/run")).then(|| PathBuf::from("/run"));
        let proxy = parse("socks5+unix:///var/run/tor/socks").unwrap().resolved(&link);
        let both = vec!["/var/run/tor/socks".into(), "/run/tor/socks".into()];
        assert_eq!(proxy.endpoint, Endpoint::Unix(both));
    }
}
