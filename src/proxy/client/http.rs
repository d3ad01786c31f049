//! HTTP CONNECT: RFC 9110, section 9.3.6.

use super::{Refusal, Step, Target};
use nix::errno::Errno;

/// How much is read at a time.
pub(super) const PIECE: usize = 4096;

/// Longer replies are refused.
const LONGEST_REPLY: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Talk;

pub(super) fn request(target: &Target) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes()
}

impl Talk {
    #[allow(clippy::unused_self, reason = "beside its sister")]
    pub(super) fn step(&self, bytes: &[u8]) -> Result<Step, Refusal> {
        let mut rest = bytes;
        // Interim replies (1xx) may come before the one.
        loop {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
                return if rest.len() > LONGEST_REPLY || !may_be_http(rest) {
                    Err(Refusal::proxy("the proxy doesn't speak HTTP"))
                } else {
                    Ok(Step::Read)
                };
            };
            let (head, after) = rest.split_at(end.saturating_add(4));
            match status(head).ok_or_else(|| Refusal::proxy("the proxy doesn't speak HTTP"))? {
                100..200 => rest = after,
                200..300 => return Ok(Step::Done { early: after.to_vec(), bound: None }),
                status => return Err(refusal(status)),
            }
        }
    }
}

fn may_be_http(bytes: &[u8]) -> bool {
    bytes.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok().or_else(|| std::str::from_utf8(line.get(..12)?).ok())?;
    let mut words = line.split(' ');
    let version = words.next()?;
    let status = words.next()?.parse().ok()?;
    (version.starts_with("HTTP/1.") && (100..600).contains(&status)).then_some(status)
}

/// Proxies have no exact words: squid says 503 and tinyproxy 500 where a connection is refused, either 502
/// or 504 where it takes too long.
fn refusal(status: u16) -> Refusal {
    let why = format!("the proxy says: {status}");
    match status {
        407 => Refusal::proxy("the proxy wants a username and password (407)"),
        408 | 504 => Refusal::destination(Errno::ETIMEDOUT, why),
        500 | 502 | 503 => Refusal::destination(Errno::ECONNREFUSED, why),
        _ => Refusal::destination(Errno::EHOSTUNREACH, why),
    }
}
