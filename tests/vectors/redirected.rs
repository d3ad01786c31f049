//! `--on-leak redirect`: what can be led through the proxy comes by it, and by no other way; all else is refused.

use super::check::{block, expect_status, nothing_arrived, traced};
use super::sink::Passed;
use super::support::TOKEN;
use super::support::run::{Event, Outcome, Status};
use super::support::stage::Truth;
use super::table::{At, Exception, Seen, Vector};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What becomes of a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// What it sends comes by the proxy.
    Led,
    /// It is refused.
    Refused,
    /// Either.
    Open,
}

/// What the row is in this mode.
pub fn adapt(row: &mut Vector) {
    // Where a UDP socket is connected, nothing that it could disclose is to be had.
    if matches!(row.seen, Seen::Told) && row.options.is_empty() {
        row.options = &["--disclosure=leak"];
    }
}

fn fate(row: &Vector, backend: &str) -> Fate {
    let excepted = |it: &Exception| match it {
        Exception::Unfit(backends, _) => backends.contains(&backend),
        Exception::Hopeless(name, _) => *name == backend,
        Exception::NoEvent(_) | Exception::OfRing => true,
        _ => false,
    };
    let connects = row.calls == ["connect"];
    let moves = connects || row.calls.iter().all(|call| ["sendto", "sendmsg", "sendmmsg"].contains(call));
    // Programs in the kernel divert TCP alone.
    let takes_datagrams = backend != "ebpf";
    let is_fit = match row.seen {
        Seen::Tcp | Seen::Packet(6, _) => true,
        Seen::Udp => takes_datagrams,
        Seen::Told => takes_datagrams && connects,
        Seen::Token => takes_datagrams && row.excepts(|it| matches!(it, Exception::LedAsAny(_))),
        _ => false,
    };
    let is_path = matches!(row.address, At::Ends(_));
    if !moves || !is_fit || is_path || row.calls.is_empty() || row.excepts(excepted) {
        Fate::Refused
    } else if row.excepts(|it| matches!(it, Exception::MayBeRefusedInLog(_))) {
        Fate::Open
    } else {
        Fate::Led
    }
}

/// Judges a run.
pub fn redirect(
    row: &Vector,
    backend: &'static str,
    outcome: &Outcome,
    truth: &Truth,
    served: bool,
    passed: &Passed,
    wrong: &mut Vec<String>,
) {
    let is_led = match fate(row, backend) {
        Fate::Led => true,
        Fate::Refused => false,
        Fate::Open => outcome.leaks().any(|event| event.text("action") == "redirect"),
    };
    if is_led {
        led(row, backend, outcome, passed, wrong);
        // What it is told as its own address is looked at there.
        let untold = Vector { seen: Seen::Nothing, ..row.clone() };
        nothing_arrived(&untold, truth, outcome, served, wrong);
    } else {
        block(row, backend, outcome, truth, served, wrong);
        let tokens = passed.streams.iter().chain(&passed.datagrams).filter(|(_, payload)| holds_token(payload));
        if tokens.count() > 0 {
            wrong.push("what was refused came by the proxy".into());
        }
    }
    let other = outcome.leaks().find(|event| !["redirect", "block"].contains(&event.text("action")));
    if let Some(event) = other {
        wrong.push(format!("neither redirected nor blocked: {}", event.0));
    }
    let dropped = outcome.summary.as_ref().and_then(|summary| summary.number("dropped"));
    if dropped.unwrap_or(0) == 0 {
        told_as_passed(outcome, passed, wrong);
    }
}

fn led(row: &Vector, backend: &'static str, outcome: &Outcome, passed: &Passed, wrong: &mut Vec<String>) {
    let races = row.excepts(|it| matches!(it, Exception::AnyStatus(_)));
    let before = wrong.len();
    traced(row, backend, "redirect", outcome, wrong);
    if races {
        // Whether any of a race's rounds is won is left to chance; that nothing arrives, and what comes is told, isn't.
        let mut at = 0;
        wrong.retain(|text| {
            at += 1;
            at <= before || !(text.starts_with("no leak event") || text.starts_with("no event"))
        });
        if matches!(outcome.status, Status::Exited(2 | 3 | 126 | 127)) {
            wrong.push(format!("ended with {:?}", outcome.status));
        }
        return;
    }
    expect_status(outcome, &[23], wrong);
    let comes = |all: &[(SocketAddr, Vec<u8>)], with_token: bool| {
        let fits = |(to, payload): &(SocketAddr, Vec<u8>)| {
            row.address.fits(&to.to_string()) && (!with_token || holds_token(payload))
        };
        all.iter().any(fits)
    };
    let came = match row.seen {
        Seen::Tcp => comes(&passed.streams, true),
        Seen::Packet(..) => comes(&passed.streams, false),
        // `--disclosure leak` shows loopback's address alone.
        Seen::Told => ["disclosed 127.0.0.1\n", "disclosed ::1\n"].contains(&outcome.stdout.as_str()),
        _ => comes(&passed.datagrams, true),
    };
    if !came {
        wrong.push(format!("it was not led as it should be: {passed:?}"));
    }
}

/// What came by the proxy has been told as redirected, and what was told as connected came.
fn told_as_passed(outcome: &Outcome, passed: &Passed, wrong: &mut Vec<String>) {
    let redirected = || outcome.leaks().filter(|event| event.text("action") == "redirect");
    let all: BTreeSet<String> = redirected().map(address).collect();
    let connected: BTreeSet<String> =
        redirected().filter(|event| is_stream(event) && has_begun(event)).map(address).collect();
    let texts = |of: &[(SocketAddr, Vec<u8>)]| of.iter().map(|(to, _)| to.to_string()).collect::<BTreeSet<_>>();
    let (streams, datagrams) = (texts(&passed.streams), texts(&passed.datagrams));
    if let Some(untold) = streams.union(&datagrams).find(|to| !all.contains(*to)) {
        wrong.push(format!("{untold} came by the proxy, and was not told as redirected"));
    }
    if let Some(lost) = connected.difference(&streams).next() {
        wrong.push(format!("{lost} was told as redirected, and the proxy was not asked for it"));
    }
}

/// Its address, without the scope of a link-local one.
fn address(event: &Event) -> String {
    match event.text("address").split_once('%') {
        Some((ip, rest)) => format!("{ip}{}", rest.trim_start_matches(|letter| letter != ']')),
        None => event.text("address").to_owned(),
    }
}

fn is_stream(event: &Event) -> bool {
    event.0["socket"]["type"] == "stream"
}

fn has_begun(event: &Event) -> bool {
    event.number("return").is_some_and(|result| result >= 0)
}

fn holds_token(payload: &[u8]) -> bool {
    payload.windows(TOKEN.len()).any(|window| window == TOKEN)
}
