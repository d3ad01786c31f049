//! Every option of the command line, once: as flag (clap), file key (serde) and environment variable.

use clap::Args;
use serde::{Deserialize, Deserializer};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where an option's value comes from; later ones override earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The file of `--config`.
    File(PathBuf),
    /// A `SOCKSTRACE_*` variable.
    Environment,
    /// The command line.
    Flag,
}

/// A value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) source: Source,
}

/// A type that options may have.
pub(super) trait Value: Sized {
    fn from_environment(text: OsString) -> Result<Self, String>;
    /// For messages.
    fn shown(&self) -> String;
}

macro_rules! options {
    ($($(#[$attribute:meta])* $field:ident: $type:ty,)*) => {
        /// The options as one source gives them, unchecked.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        #[allow(rustdoc::broken_intra_doc_links, reason = "help texts are no markdown")]
        pub struct Options {
            $($(#[$attribute])* #[arg(long)] pub $field: Option<$type>,)*
        }

        impl Options {
            /// Reads the `SOCKSTRACE_*` variables; an empty one is as good as none.
            pub(super) fn from_environment(
                get: &dyn Fn(&str) -> Option<OsString>,
            ) -> Result<Self, (&'static str, OsString, String)> {
                Ok(Self { $($field: {
                    let text = get(&variable(stringify!($field))).filter(|text| !text.is_empty());
                    text.map(|text| {
                        Value::from_environment(text.clone())
                            .map_err(|why| (stringify!($field), text, why))
                    }).transpose()?
                },)* })
            }
        }

        /// The options of all sources, each with the source that decided.
        #[derive(Debug, Default)]
        pub(super) struct Layers {
            $(pub(super) $field: Option<Given<$type>>,)*
        }

        impl Layers {
            /// Puts `options` above what is there: what they give replaces it.
            pub(super) fn put(&mut self, options: Options, source: &Source) {
                $(if let Some(value) = options.$field {
                    self.$field = Some(Given { value, source: source.clone() });
                })*
            }

            /// What is given: option (as spelled here), value for messages, source.
            pub(super) fn given(&self) -> Vec<(&'static str, String, &Source)> {
                let all = [$(self.$field.as_ref().map(|given| {
                    (stringify!($field), given.value.shown(), &given.source)
                }),)*];
                all.into_iter().flatten().collect()
            }
        }
    };
}

options! {
    /// How system calls are intercepted: auto (the best that works here), seccomp, ptrace or ebpf
    /// [default: auto]
    #[arg(value_name = "NAME", help_heading = "What is watched")]
    backend: String,

    /// Attach to a running process and its children
    #[arg(value_name = "PID", help_heading = "What is watched")]
    #[serde(deserialize_with = "text_or_number")]
    pid: String,

    /// Watch the whole machine (ebpf backend)
    #[arg(value_name = "BOOL", help_heading = "What is watched",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    all: bool,

    /// With --all: which operations, by the names of their system calls (connect, bind, ...), and set_state
    /// for TCP's states; separated by commas [default: all]
    #[arg(value_name = "NAMES", help_heading = "What is watched")]
    #[serde(deserialize_with = "one_or_many")]
    calls: Vec<String>,

    /// With --all: only what pid=PID (with its descendants), name=NAME, uid=USER, cgroup=PATH, netns=PATH,
    /// port=PORT[-PORT] or address=RULE says; repeatable, of one kind each may fit, of several kinds all must
    #[arg(value_name = "KEY=VALUE", help_heading = "What is watched")]
    #[serde(deserialize_with = "one_or_many")]
    filter: Vec<String>,

    /// Run PROGRAM in a user namespace of its own, so that an unprivileged sockstrace can read
    /// processes that hide their memory (browsers' sandboxes)
    #[arg(value_name = "BOOL", help_heading = "What is watched",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    user_namespace: bool,

    /// What to do with processes that outlive PROGRAM: wait (stay until the last has ended), kill, or
    /// background (exit with PROGRAM, go on judging behind it) [default: wait]
    #[arg(value_name = "WHAT", help_heading = "What is watched")]
    leftover: String,

    /// A proxy that traffic may go to: socks5://HOST:PORT, socks5://USER:PASS@HOST:PORT,
    /// socks5+unix:///PATH or http://HOST:PORT, where HOST is an IP address or localhost; repeatable
    /// [default: socks5://127.0.0.1:9050 and socks5://[::1]:9050]
    #[arg(value_name = "URL", help_heading = "What is a leak")]
    #[serde(deserialize_with = "one_or_many")]
    proxy: Vec<String>,

    /// A destination that is no leak: IP or CIDR, each with an optional :PORT or :PORT-PORT ([IPv6] in
    /// brackets then), or unix:GLOB, where * stops at a slash, ** does not, and @ begins an abstract
    /// name; repeatable
    #[arg(value_name = "RULE", help_heading = "What is a leak")]
    #[serde(deserialize_with = "one_or_many")]
    allow: Vec<String>,

    /// Loopback is no leak
    #[arg(value_name = "BOOL", help_heading = "What is a leak",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    allow_loopback: bool,

    /// Whether looking at the host's addresses and routes (netlink dumps, SIOCGIF* ioctls) is a leak:
    /// ignore or leak [default: ignore]
    #[arg(value_name = "WHAT", help_heading = "What is a leak")]
    disclosure: String,

    /// Whether UNIX sockets are judged: allow, or leak (all but those that a unix: rule or a
    /// socks5+unix proxy covers) [default: allow]
    #[arg(value_name = "WHAT", help_heading = "What is a leak")]
    unix: String,

    /// Whether listening sockets are judged: allow, or block (all but those of --allow-incoming)
    /// [default: allow]
    #[arg(value_name = "WHAT", help_heading = "What is a leak")]
    incoming: String,

    /// A local address that may be bound and listened on, as an IP or CIDR rule of --allow; implies
    /// --incoming block; repeatable
    #[arg(value_name = "RULE", help_heading = "What is a leak")]
    #[serde(deserialize_with = "one_or_many")]
    allow_incoming: Vec<String>,

    /// What the SOCKS5 handshake with a proxy must show: any (anything well formed), required
    /// (username and password) or tor (Tor's stream isolation) [default: not inspected]
    #[arg(value_name = "WHAT", help_heading = "What is a leak")]
    socks_auth: String,

    /// What the isolation field (the password) must match, unanchored; implies --socks-auth required
    #[arg(value_name = "REGEX", help_heading = "What is a leak")]
    socks_isolation: String,

    /// A SOCKS5 request to a proxy must be for a name: one for an address is a sign that the name was resolved
    /// past the proxy; implies --socks-auth any
    #[arg(value_name = "BOOL", help_heading = "What is a leak",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    socks_names: bool,

    /// What becomes of DNS queries: judge (as any traffic); redirect (the first --proxy resolves them:
    /// Tor's RESOLVE); redirect=tcp://RESOLVER[:PORT] (they go to that resolver, by TCP through the
    /// proxy); or redirect=map (they are answered with addresses that stand for the names)
    /// [default: judge]
    #[arg(value_name = "WHAT", help_heading = "What happens to a leak")]
    dns: String,

    /// What happens to an operation that leaks: log (let it go), block, redirect (to the first
    /// --proxy), kill (the process), kill-tree, or core (end the process with a core) [default: block]
    #[arg(value_name = "WHAT", help_heading = "What happens to a leak")]
    on_leak: String,

    /// With --on-leak redirect to a SOCKS5 proxy: fresh random credentials, so that the proxy keeps
    /// connections apart that don't belong together (Tor uses other circuits): connection, destination,
    /// process or run say what shares them [default: those of the proxy's URL, or none]
    #[arg(value_name = "WHAT", help_heading = "What happens to a leak")]
    isolate_by: String,

    /// What the credentials of --isolate-by look like: random, or tor (Tor's extended format, the
    /// username `<torS0X>0`) [default: random]
    #[arg(value_name = "FORMAT", help_heading = "What happens to a leak")]
    isolate_format: String,

    /// What a refused call returns, by its name in errno(3) [default: EPERM]
    #[arg(value_name = "NAME", help_heading = "What happens to a leak")]
    block_errno: String,

    /// all, or strict: a call outside the built-in allow-list gets EPERM [default: all]
    #[arg(value_name = "WHICH", help_heading = "What happens to a leak")]
    syscalls: String,

    /// Run PROGRAM in a network namespace from which only the proxies and the allowed addresses can be
    /// reached
    #[arg(value_name = "BOOL", help_heading = "What happens to a leak",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    isolate: bool,

    /// Exit status when PROGRAM succeeded but leaked [default: 23]
    #[arg(value_name = "N", help_heading = "What happens to a leak")]
    #[serde(deserialize_with = "text_or_number")]
    leak_exit_code: String,

    /// Which events are written: leaks or all [default: leaks]
    #[arg(value_name = "WHICH", help_heading = "What is written")]
    trace: String,

    /// Write usernames and passwords of SOCKS5 handshakes in full
    #[arg(value_name = "BOOL", help_heading = "What is written",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    show_secrets: bool,

    /// Stack traces: auto (on leaks), always (on every event that is written) or never [default: auto]
    #[arg(value_name = "WHEN", help_heading = "What is written")]
    stack: String,

    /// How events are written: human, jsonl or sockwho [default: human]
    #[arg(value_name = "FORMAT", help_heading = "What is written")]
    format: String,

    /// Where events go [default: standard error]
    #[arg(short = 'o', value_name = "FILE", help_heading = "What is written")]
    output: PathBuf,

    /// A line on the terminal that says how many calls were judged, while the program runs: auto (where
    /// standard error is a terminal, and standard output is not), always (wherever standard error is one) or
    /// never [default: auto]
    #[arg(value_name = "WHEN", help_heading = "What is written")]
    live: String,

    /// Show processes, connections and leaks on the terminal, live; ? there shows the keys. PROGRAM gets a terminal
    /// of its own, whose output is shown too, and no input from it
    #[arg(value_name = "BOOL", help_heading = "What is written",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    tui: bool,

    /// Write what is said on UNIX sockets to DIR: events.jsonl, and the bytes of each connection and
    /// direction (ptrace and ebpf backends); DIR is made, or must be empty or hold a former capture, which goes
    #[arg(value_name = "DIR", help_heading = "What is captured")]
    capture: PathBuf,

    /// Capture sockets of this family: unix, inet, inet6, netlink, ... or all; repeatable [default: unix]
    #[arg(value_name = "NAME", help_heading = "What is captured")]
    #[serde(deserialize_with = "one_or_many")]
    capture_family: Vec<String>,

    /// Capture only UNIX sockets whose path or @name matches, as in --allow unix:GLOB
    #[arg(value_name = "GLOB", help_heading = "What is captured")]
    capture_path: String,

    /// Capture at most this much of one call; K, M and G may stand behind the number [default: 64M]
    #[arg(value_name = "BYTES", help_heading = "What is captured")]
    #[serde(deserialize_with = "text_or_number")]
    capture_max: String,

    /// Capture at most this much of all calls [default: 4G]
    #[arg(value_name = "BYTES", help_heading = "What is captured")]
    #[serde(deserialize_with = "text_or_number")]
    capture_total: String,

    /// How many descriptors are looked at for sockets that are open when the program starts [default: 4096]
    #[arg(value_name = "N", help_heading = "What is captured")]
    #[serde(deserialize_with = "text_or_number")]
    capture_max_fds: String,
}

/// The environment variable of an option, spelled with underscores or dashes.
pub(super) fn variable(option: &str) -> String {
    format!("SOCKSTRACE_{}", option.replace('-', "_").to_ascii_uppercase())
}

impl Options {
    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// What is wrong and in which line. The line itself isn't quoted: it may hold a password.
    pub(super) fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            let before = start.and_then(|start| text.get(..start)).unwrap_or_default();
            let number = before.matches('\n').count().saturating_add(1);
            let line = text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
            let key = match line.split_once('=') {
                Some((key, _)) => format!(", {}", key.trim()),
                None => String::new(),
            };
            format!("line {number}{key}: {}", error.message())
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Environment => f.write_str("in the environment"),
            Self::Flag => f.write_str("on the command line"),
        }
    }
}

impl Value for String {
    fn from_environment(text: OsString) -> Result<Self, String> {
        text.into_string().map_err(|_| "it is not UTF-8".into())
    }

    fn shown(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    fn from_environment(text: OsString) -> Result<Self, String> {
        Ok(text.into())
    }

    fn shown(&self) -> String {
        Path::display(self).to_string()
    }
}

impl Value for bool {
    fn from_environment(text: OsString) -> Result<Self, String> {
        switch(&text.to_string_lossy())
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Value for Vec<String> {
    /// Separated by commas, except between the braces of a glob's alternatives.
    fn from_environment(text: OsString) -> Result<Self, String> {
        let text = String::from_environment(text)?;
        let mut depth = 0_usize;
        let separates = |character| {
            match character {
                '{' => depth = depth.saturating_add(1),
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            character == ',' && depth == 0
        };
        let items = text.split(separates).map(str::trim).filter(|item| !item.is_empty());
        Ok(items.map(str::to_owned).collect())
    }

    fn shown(&self) -> String {
        self.join(", ")
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("accepted are true and false (or 1 and 0)".into()),
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or an array of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(input)? {
        OneOrMany::One(item) => vec![item],
        OneOrMany::Many(items) => items,
    }))
}

fn text_or_number<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number")]
    enum TextOrNumber {
        Text(String),
        Number(i64),
    }
    Ok(Some(match TextOrNumber::deserialize(input)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_long_names() {
        let options = Options::from_toml(
            "proxy = 'socks5://127.0.0.1:1'\nallow = ['1.2.3.4', '::1']\n\
             allow-loopback = true\nleak-exit-code = 7\non-leak = 'kill-tree'\n",
        );
        let expected = Options {
            proxy: Some(vec!["socks5://127.0.0.1:1".into()]),
            allow: Some(vec!["1.2.3.4".into(), "::1".into()]),
            allow_loopback: Some(true),
            leak_exit_code: Some("7".into()),
            on_leak: Some("kill-tree".into()),
            ..Options::default()
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_a_file_may_not_hold_is_named() {
        let error = Options::from_toml("unix = 'leak'\non-leek = 'log'\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("`on-leek`"), "{error}");
        let error = Options::from_toml("on_leak = 'log'\n").unwrap_err();
        assert!(error.contains("`on_leak`"), "{error}");
        let error = Options::from_toml("backend = 3\n").unwrap_err();
        assert!(error.contains("line 1, backend") && error.contains("string"), "{error}");
        let error = Options::from_toml("proxy = [3]\n").unwrap_err();
        assert!(error.contains("line 1, proxy") && error.contains("array of strings"), "{error}");
        let error = Options::from_toml("proxy = 'socks5://u:secret@1.2.3.4:1\n").unwrap_err();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
        assert!(Options::from_toml("config = 'x'\n").is_err());
    }

    #[test]
    fn the_environment() {
        let get = |name: &str| match name {
            "SOCKSTRACE_ALLOW" => Some("1.2.3.4, unix:/run/{a,b},,::1".into()),
            "SOCKSTRACE_ALLOW_LOOPBACK" => Some("1".into()),
            "SOCKSTRACE_ON_LEAK" => Some("log".into()),
            "SOCKSTRACE_UNIX" => Some("".into()),
            _ => None,
        };
        let options = Options::from_environment(&get).unwrap();
        let allow = ["1.2.3.4", "unix:/run/{a,b}", "::1"].map(str::to_owned);
        let expected = Options {
            allow: Some(allow.into()),
            allow_loopback: Some(true),
            on_leak: Some("log".into()),
            ..Options::default()
        };
        assert_eq!(options, expected);
        let get = |name: &str| (name == "SOCKSTRACE_ISOLATE").then(|| "maybe".into());
        assert_eq!(Options::from_environment(&get).unwrap_err().0, "isolate");
    }
}
