//! `sockstrace learn`: out of a recorded event stream, a configuration that allows just what was seen, with
//! who did it beside each rule.

use crate::output::escape::escaped;
use crate::policy::{Proxy, Rule};
use crate::report::record::Record;
use crate::report::stream::Input;
use crate::report::{read, say};
use clap::Args;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `sockstrace learn`
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Options {
    /// Files written with --format jsonl, with --trace all if rules that are in use should be in the
    /// result too; - is standard input
    #[arg(value_name = "EVENTS.jsonl", required = true)]
    pub events: Vec<PathBuf>,

    /// Where the configuration goes [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Writes the configuration.
///
/// # Errors
/// What failed, on what, in words for the user.
pub fn run(options: &Options) -> Result<(), String> {
    let mut learned = Learned::default();
    for path in &options.events {
        let input = Input::new(path);
        let health = read(&input, |record| {
            learned.take(record);
            Ok(())
        })?;
        for warning in health.warnings() {
            say(&format!("{}: {warning}", input.name()));
        }
    }
    if learned.left_out > 0 {
        say(&format!("{} leaks more are left out: a list of rules that long helps nobody", learned.left_out));
    }
    for (what, who) in &learned.beyond {
        say(&format!("no rule can allow this: {what} (by {})", who.shown()));
    }
    let mut text = Vec::new();
    learned.write(&mut text).map_err(|error| error.to_string())?;
    let written = match &options.output {
        Some(path) => File::create(path).and_then(|mut file| file.write_all(&text)),
        None => io::stdout().write_all(&text),
    };
    let name = options.output.as_ref().map_or("standard output".into(), |path| path.display().to_string());
    written.map_err(|error| format!("writing {name}: {error}"))
}

/// More rules than this are not learned: a hostile program can name millions of addresses.
const RULES: usize = 10_000;
/// How many actors stand beside a rule.
const ACTORS: usize = 4;

/// Who did something, and how often.
#[derive(Debug, Default)]
struct Who {
    actors: Vec<String>,
    more: bool,
    count: u64,
}

impl Who {
    fn add(&mut self, record: &Record<'_>) {
        self.count = self.count.saturating_add(1);
        let actor = actor(record);
        if self.actors.contains(&actor) {
            return;
        }
        if self.actors.len() < ACTORS {
            self.actors.push(actor);
        } else {
            self.more = true;
        }
    }

    fn shown(&self) -> String {
        let more = if self.more { " and others" } else { "" };
        let times = if self.count == 1 { String::new() } else { format!(", {} times", self.count) };
        format!("{}{more}{times}", self.actors.join("; "))
    }
}

/// `curl (/usr/bin/curl), connect in fetch (src/fetch.c:12)`, short and on one line.
fn actor(record: &Record<'_>) -> String {
    const WIDEST: usize = 200;
    let bracketed = |text: &str| format!(" ({text})");
    let exe = record.exe.as_deref().map(bracketed).unwrap_or_default();
    let culprit = record.blamed().map(|frame| {
        let place = frame.place().as_deref().map(bracketed).unwrap_or_default();
        format!(" in {}{place}", frame.name())
    });
    let text = format!("{}{exe}, {}{}", record.program(), record.call_name(), culprit.unwrap_or_default());
    escaped(&text).to_string().chars().take(WIDEST).collect()
}

type Rules = BTreeMap<String, Who>;

/// What a stream teaches.
#[derive(Debug, Default)]
struct Learned {
    proxies: Rules,
    allow: Rules,
    incoming: Rules,
    loopback: Option<Who>,
    disclosure: Option<Who>,
    judges_unix: bool,
    /// Leaks that no rule covers, in words.
    beyond: Rules,
    left_out: u64,
}

impl Learned {
    fn take(&mut self, record: &Record<'_>) {
        if record.is_leak() {
            self.leak(record);
        } else if record.is_judged()
            && let Some(rule) = record.rule.as_deref()
        {
            self.rule(rule, record);
        }
    }

    /// A rule that was used is a rule that is needed.
    fn rule(&mut self, rule: &str, record: &Record<'_>) {
        if rule == "--allow-loopback" {
            self.loopback.get_or_insert_default().add(record);
        } else if rule.contains("://") {
            if rule.contains('@') || rule.parse::<Proxy>().is_err() {
                // Its password is masked.
                add(&mut self.beyond, &mut self.left_out, format!("the proxy {rule}: name it yourself"), record);
            } else {
                add(&mut self.proxies, &mut self.left_out, rule.to_owned(), record);
            }
        } else if let Ok(parsed) = rule.parse::<Rule>() {
            self.judges_unix |= parsed.is_unix();
            let rules = if is_incoming(record) { &mut self.incoming } else { &mut self.allow };
            add(rules, &mut self.left_out, rule.to_owned(), record);
        }
    }

    fn leak(&mut self, record: &Record<'_>) {
        let family = record.socket.as_ref().and_then(|socket| socket.family.as_deref());
        let address = record.address.as_deref().unwrap_or_default();
        let internet = address.parse::<SocketAddr>().ok().filter(|_| is_about_an_address(record));
        let rules = &mut self.beyond;
        let left_out = &mut self.left_out;
        match (record.class_name(), internet) {
            ("inbound", Some(address)) => add(&mut self.incoming, left_out, incoming_rule(address), record),
            ("outbound" | "disclosure", Some(address)) => add(&mut self.allow, left_out, rule(address), record),
            ("outbound", None) if family == Some("unix") => match unix_rule(address) {
                Some(rule) => {
                    self.judges_unix = true;
                    add(&mut self.allow, left_out, rule, record);
                }
                None => add(rules, left_out, format!("a UNIX socket's name, {address:?}"), record),
            },
            ("disclosure", None) => self.disclosure.get_or_insert_default().add(record),
            _ => {
                let what = record.reason.as_deref().unwrap_or("a leak of unknown kind");
                add(rules, left_out, format!("{} {}: {what}", record.call_name(), record.destination()), record);
            }
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "# What sockstrace has seen, for --config. Read it before you use it: whatever is allowed")?;
        writeln!(out, "# here is no leak any more. A list given on the command line replaces the list here.")?;
        list(out, "proxy", "Proxies in use.", &self.proxies)?;
        list(out, "allow", "Destinations.", &self.allow)?;
        list(out, "allow-incoming", "Local addresses that are listened on.", &self.incoming)?;
        if let Some(who) = &self.loopback {
            writeln!(out, "\n# {}\nallow-loopback = true", comment(&who.shown()))?;
        }
        if self.judges_unix {
            writeln!(out, "\n# All UNIX sockets but those above are leaks.\nunix = \"leak\"")?;
        }
        if let Some(who) = &self.disclosure {
            writeln!(out, "\n# The host's addresses and routes are looked at: {}", comment(&who.shown()))?;
            writeln!(out, "disclosure = \"ignore\"")?;
        }
        if !self.beyond.is_empty() {
            writeln!(out, "\n# No rule can allow these, which stay leaks:")?;
            for (what, who) in &self.beyond {
                writeln!(out, "# - {} (by {})", comment(what), comment(&who.shown()))?;
            }
        }
        Ok(())
    }
}

fn add(rules: &mut Rules, left_out: &mut u64, rule: String, record: &Record<'_>) {
    if let Some(who) = rules.get_mut(&rule) {
        who.add(record);
    } else if rules.len() < RULES {
        rules.entry(rule).or_default().add(record);
    } else {
        *left_out = left_out.saturating_add(1);
    }
}

fn list(out: &mut dyn Write, key: &str, what: &str, rules: &Rules) -> io::Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n# {what}\n{key} = [")?;
    for (rule, who) in rules {
        writeln!(out, "    # {}", comment(&who.shown()))?;
        writeln!(out, "    {},", toml::Value::String(rule.clone()))?;
    }
    writeln!(out, "]")
}

/// A comment ends where its line does.
fn comment(text: &str) -> String {
    escaped(text).to_string()
}

fn is_incoming(record: &Record<'_>) -> bool {
    matches!(record.call_name(), "bind" | "listen" | "accept" | "accept4")
}

/// Whether a rule about the event's address would cover it: what a raw socket, a source route or an unknown
/// family do leaks whatever the address.
fn is_about_an_address(record: &Record<'_>) -> bool {
    let Some(socket) = &record.socket else { return true };
    let is_internet = matches!(socket.family.as_deref(), Some("inet" | "inet6"));
    is_internet && matches!(socket.kind.as_deref(), Some("stream" | "dgram" | "seqpacket"))
}

fn rule(address: SocketAddr) -> String {
    // Rules have no scope ids.
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

/// As [`rule`], but a port that the kernel chose will be another one next time.
fn incoming_rule(address: SocketAddr) -> String {
    /// `ip_local_port_range`, as the kernel has it unless told otherwise (ip(7)).
    const CHOSEN: std::ops::RangeInclusive<u16> = 32_768..=60_999;
    let rule = rule(address);
    if !CHOSEN.contains(&address.port()) {
        return rule;
    }
    let ip = rule.rsplit_once(':').map_or(rule.as_str(), |(ip, _)| ip);
    format!("{ip}:{}-{}", CHOSEN.start(), CHOSEN.end())
}

/// A rule for just this name; `None` for one that events can't tell exactly.
fn unix_rule(address: &str) -> Option<String> {
    let rule = match address.strip_prefix('@') {
        Some(name) => format!("unix:@{}", globset::escape(name)),
        None => format!("unix:{}", globset::escape(address)),
    };
    let is_exact = address.starts_with(['/', '@']) && !address.contains('\\');
    (is_exact && rule.parse::<Rule>().is_ok()).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn learned(events: &[Value]) -> String {
        let mut learned = Learned::default();
        for event in events {
            learned.take(&Record::parse(event.to_string().as_bytes()).unwrap());
        }
        let mut text = Vec::new();
        learned.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn leak(class: &str, syscall: &str, family: &str, address: &str) -> Value {
        json!({"kind": "syscall", "pid": 1, "process": "x", "exe": "/usr/bin/x", "syscall": syscall,
            "verdict": "leak", "class": class, "reason": "why", "address": address,
            "socket": {"family": family, "type": "stream"}})
    }

    fn parsed(text: &str) -> toml::Table {
        text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn each_kind_of_leak_gets_its_rule() {
        let text = learned(&[
            leak("outbound", "connect", "inet", "203.0.113.5:80"),
            leak("outbound", "connect", "inet6", "[fe80::1%2]:443"),
            leak("disclosure", "connect", "inet", "203.0.113.5:53"),
            leak("outbound", "connect", "unix", "/run/a[1]*.sock"),
            leak("outbound", "connect", "unix", "@name"),
            leak("inbound", "listen", "inet", "0.0.0.0:8080"),
            leak("inbound", "listen", "inet6", "[::]:40123"),
            leak("outbound", "connect", "inet", "203.0.113.5:80"),
        ]);
        let table = parsed(&text);
        assert_eq!(
            table["allow"].to_string(),
            r#"["203.0.113.5:53", "203.0.113.5:80", "[fe80::1]:443", "unix:/run/a[[]1[]][*].sock", "unix:@name"]"#
        );
        assert_eq!(table["allow-incoming"].to_string(), r#"["0.0.0.0:8080", "[::]:32768-60999"]"#);
        assert_eq!(table["unix"].as_str(), Some("leak"));
        assert!(text.contains("# x (/usr/bin/x), connect, 2 times\n"), "{text}");
    }

    #[test]
    fn rules_in_use_are_kept() {
        let used = |rule: &str, syscall: &str| json!({"kind": "syscall", "syscall": syscall, "verdict": "allowed", "rule": rule});
        let table = parsed(&learned(&[
            used("socks5://127.0.0.1:1080", "connect"),
            used("socks5://u:***@127.0.0.1:1081", "connect"),
            used("10.0.0.0/8:80-90", "connect"),
            used("127.0.0.1:8000", "listen"),
            used("--allow-loopback", "connect"),
        ]));
        assert_eq!(table["proxy"].to_string(), r#"["socks5://127.0.0.1:1080"]"#);
        assert_eq!(table["allow"].to_string(), r#"["10.0.0.0/8:80-90"]"#);
        assert_eq!(table["allow-incoming"].to_string(), r#"["127.0.0.1:8000"]"#);
        assert_eq!(table["allow-loopback"].as_bool(), Some(true));
    }

    #[test]
    fn hostile_names_stay_in_their_comment() {
        let mut hostile = leak("outbound", "connect", "unix", "/run/\"]\nallow = [\"0.0.0.0/0");
        hostile["exe"] = json!("/x\nallow-loopback = true\n");
        hostile["reason"] = json!("\nincoming = 'allow'");
        let mut raw = hostile.clone();
        raw["socket"] = json!({"family": "inet", "type": "raw"});
        let table = parsed(&learned(&[hostile, raw]));
        assert_eq!(table.keys().collect::<Vec<_>>(), ["allow", "unix"]);
        let [rule] = &table["allow"].as_array().unwrap()[..] else { panic!("{table}") };
        assert_eq!(rule.as_str(), Some("unix:/run/\"[]]\nallow = [[]\"0.0.0.0/0"));
    }

    #[test]
    fn what_no_rule_covers_is_said() {
        let mut raw = leak("outbound", "socket", "inet", "203.0.113.5:0");
        raw["socket"]["type"] = json!("raw");
        let text = learned(&[raw, leak("proxy", "connect", "inet", "203.0.113.9:9050")]);
        assert!(parsed(&text).is_empty(), "{text}");
        assert_eq!(text.matches("# - ").count(), 2, "{text}");
    }
}
