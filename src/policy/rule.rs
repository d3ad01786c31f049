//! Rules of `--allow` and `--allow-incoming`.

use super::nets::Net;
use super::unix;
use ipnetwork::IpNetwork;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One rule: `IP`, `CIDR`, each with an optional `:PORT` or `:PORT-PORT`, or `unix:GLOB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    text: String,
    pub(super) target: Target,
}

/// What a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Net(Net, RangeInclusive<u16>),
    /// Globs as written and as resolved.
    Unix(Vec<String>),
}

impl Rule {
    /// The rule as the user wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is about UNIX sockets.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self.target, Target::Unix(_))
    }

    /// Whether it is about abstract names.
    #[must_use]
    pub fn is_abstract(&self) -> bool {
        matches!(&self.target, Target::Unix(globs) if globs.iter().any(|glob| glob.starts_with('@')))
    }

    /// Adds where links on the literal part of a `unix:` glob lead to, as operations carry resolved
    /// paths.
    #[must_use]
    pub fn resolved(mut self, canonicalize: &dyn Fn(&Path) -> Option<PathBuf>) -> Self {
        if let Target::Unix(globs) = &mut self.target {
            let more = globs.iter().filter(|glob| !glob.starts_with('@'));
            let more = more.filter_map(|glob| unix::glob_with_resolved_prefix(glob, canonicalize));
            let more: Vec<_> = more.collect();
            globs.extend(more);
        }
        self
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = match text.strip_prefix("unix:") {
            Some(glob) => {
                unix::check_glob(glob)?;
                Target::Unix(vec![glob.to_owned()])
            }
            None => net_and_ports(text)?,
        };
        Ok(Self { text: text.to_owned(), target })
    }
}

fn net_and_ports(text: &str) -> Result<Target, String> {
    let (net, ports) = split_ports(text)?;
    let ports = ports.map_or(Ok(0..=u16::MAX), port_range)?;
    // Its parser takes a sign before the prefix length.
    let network = if net.contains('+') { None } else { net.parse::<IpNetwork>().ok() };
    let network = network.ok_or_else(|| no_network(text, &net))?;
    let net = Net::new(network.ip(), network.prefix()).ok_or_else(|| no_network(text, &net))?;
    Ok(Target::Net(net, ports))
}

/// Why `net`, a part of the rule `text`, is no network.
fn no_network(text: &str, net: &str) -> String {
    let (ip, prefix) = net.split_once('/').unwrap_or((net, ""));
    if let Ok(ip) = ip.parse::<IpAddr>() {
        let hint = if prefix.contains(':') { ": [ADDRESS/LENGTH]:PORT?" } else { "" };
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        return format!("{prefix:?} is no prefix length (of {ip} it is at most {whole}){hint}");
    }
    let hint = if text.matches(':').count() > 1 && !text.contains('[') {
        " (before a port, an IPv6 address stands in brackets)"
    } else if ip.chars().any(|c| c.is_ascii_alphabetic()) {
        " (a leak detector never resolves a name)"
    } else {
        ""
    };
    format!("{ip:?} is no IP address{hint}")
}

/// Splits a rule into its network, without brackets, and its ports. `[ADDRESS]/LENGTH:PORT` and
/// `[ADDRESS/LENGTH]:PORT` mean the same.
fn split_ports(text: &str) -> Result<(String, Option<&str>), String> {
    let Some(bracketed) = text.strip_prefix('[') else {
        return Ok(match text.split_once(':') {
            Some((net, ports)) if !ports.contains(':') => (net.to_owned(), Some(ports)),
            _ => (text.to_owned(), None),
        });
    };
    let (address, rest) = bracketed.split_once(']').ok_or("the closing bracket is missing")?;
    let (prefix, ports) = match rest.split_once(':') {
        Some((prefix, ports)) => (prefix, Some(ports)),
        None => (rest, None),
    };
    if !prefix.is_empty() && !prefix.starts_with('/') {
        return Err(format!("after the closing bracket comes /LENGTH or :PORT, not {prefix:?}"));
    }
    Ok((format!("{address}{prefix}"), ports))
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |digits: &str| {
        let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = if only_digits { digits.parse::<u16>().ok() } else { None };
        number.ok_or_else(|| format!("{digits:?} is no port number"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the port range {text} ends before it starts"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        text.parse::<Rule>().map(|rule| rule.target)
    }

    fn net(ip: &str, prefix: u8, ports: RangeInclusive<u16>) -> Target {
        Target::Net(Net::new(ip.parse().unwrap(), prefix).unwrap(), ports)
    }

    #[test]
    fn forms() {
        for (text, ip, prefix, ports) in [
            ("1.2.3.4", "1.2.3.4", 32, 0..=65535),
            ("1.2.3.4:80", "1.2.3.4", 32, 80..=80),
            ("10.0.0.0/8:80-90", "10.0.0.0", 8, 80..=90),
            ("10.1.2.3/8", "10.0.0.0", 8, 0..=65535),
            ("0.0.0.0/0:443", "0.0.0.0", 0, 443..=443),
            ("::1", "::1", 128, 0..=65535),
            ("[::1]", "::1", 128, 0..=65535),
            ("[::1]:0-65535", "::1", 128, 0..=65535),
            ("2001:db8::/32", "2001:db8::", 32, 0..=65535),
            ("[2001:db8::/32]:443", "2001:db8::", 32, 443..=443),
            ("[2001:db8::]/32:443", "2001:db8::", 32, 443..=443),
            ("::ffff:10.0.0.0/104", "10.0.0.0", 8, 0..=65535),
            ("[::ffff:1.2.3.4]:53", "1.2.3.4", 32, 53..=53),
        ] {
            assert_eq!(parse(text), Ok(net(ip, prefix, ports)), "{text}");
        }
        assert_eq!(parse("unix:@x*"), Ok(Target::Unix(vec!["@x*".into()])));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, why) in [
            ("", "no IP address"),
            ("example.org:80", "never resolves"),
            ("localhost", "never resolves"),
            ("1.2.3", "no IP address"),
            ("1.2.3.4:", "no port number"),
            ("1.2.3.4:http", "no port number"),
            ("1.2.3.4:+80", "no port number"),
            ("1.2.3.4:80-", "no port number"),
            ("1.2.3.4:90-80", "before it starts"),
            ("1.2.3.4:65536", "no port number"),
            ("1.2.3.4/33", "at most 32"),
            ("1.2.3.4/+8", "no prefix length"),
            ("::1/129", "at most 128"),
            ("1.2.3.4/", "no prefix length"),
            ("2001:db8::/32:443", "prefix length"),
            ("[::1", "closing bracket"),
            ("[::1]80", "closing bracket"),
            ("2001:db8::1:2:3:4:5:6:443", "brackets"),
            ("unix:relative", "starts with /"),
            ("unix:/x[", "unclosed"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
