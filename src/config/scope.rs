//! What `--all` and `--pid` watch: `--calls` and `--filter`.

use super::options::{Given, Layers};
use super::{ConfigError, choice, refused};
use crate::config::BackendChoice;
use crate::policy::{Rule, Rules};
use nix::unistd::{Pid, User};
use sockstrace_backend::observed::{Filters, Scope, SocketCall};
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is watched, checked.
#[derive(Debug)]
pub struct Watching {
    /// What the backend is to report.
    pub scope: Scope,
    /// Of that, only what has one of these addresses; `None`: whatever it has.
    pub addresses: Option<Rules>,
    /// Of that, only what has one of these ports; empty: whatever it has.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// The name of TCP state changes in `--calls`.
const STATES: &str = "set_state";

/// Options that say what becomes of calls or of PROGRAM, and so mean nothing where calls are only seen.
const WITHOUT_MEANING: [&str; 11] = [
    "block_errno",
    "leak_exit_code",
    "leftover",
    "user_namespace",
    "syscalls",
    "isolate",
    "live",
    "socks_auth",
    "socks_isolation",
    "socks_names",
    "show_secrets",
];

/// The keys of `--filter`.
const KEYS: &str = "pid=PID (with its descendants), name=NAME, uid=USER, cgroup=PATH, netns=PATH or number, \
                    port=PORT or PORT-PORT, address=RULE as of --allow";

/// What runs already and is asked for.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// By watching it.
    pub watching: Option<Watching>,
    /// By judging what this process does before it is done; with `watching`, where that doesn't work here.
    pub attach: Option<Pid>,
}

/// What is asked for with `--all` or `--pid`; nothing without.
pub(super) fn running(layers: &Layers, has_program: bool) -> Result<Running, ConfigError> {
    let all = layers.all.as_ref().filter(|given| given.value);
    let (option, source) = match (all, &layers.pid) {
        (Some(all), None) => ("all", &all.source),
        (None, Some(pid)) => ("pid", &pid.source),
        (Some(all), Some(_)) => {
            let why = "--pid is given too: it is one or the other (--filter pid=PID narrows --all)";
            return Err(refused("all", "true", &all.source, why));
        }
        (None, None) => return no_watching(layers).map(|()| Running::default()),
    };
    let attached = layers.pid.as_ref().map(process).transpose()?;
    if has_program {
        let value = layers.pid.as_ref().map_or("true", |given| &given.value);
        return Err(refused(option, value, source, "a PROGRAM is given too: it is one or the other"));
    }
    let backend: BackendChoice = choice("backend", layers.backend.as_ref())?;
    let is = |given: &Option<Given<String>>, value: &str| given.as_ref().is_some_and(|given| given.value == value);
    let acts = layers.on_leak.is_some() && !is(&layers.on_leak, "log");
    let narrows = layers.calls.is_some() || layers.filter.is_some();
    let judges = attached.is_some()
        && match backend {
            BackendChoice::Ptrace => true,
            BackendChoice::Auto => acts || is(&layers.stack, "always"),
            _ => false,
        };
    for (option, value, source) in layers.given() {
        if let Some(why) = why_not(option, &value, backend, attached.is_some(), judges) {
            return Err(refused(option, &value, source, why));
        }
    }
    if judges {
        return Ok(Running { watching: None, attach: attached });
    }
    let (calls, states) = calls(layers.calls.as_ref())?;
    let mut watching = Watching {
        scope: Scope {
            calls,
            states,
            filters: Filters { trees: attached.into_iter().collect(), ..Filters::default() },
            attaches: attached.is_some(),
        },
        addresses: None,
        ports: Vec::new(),
    };
    if let Some(given) = &layers.filter {
        let mut addresses = Vec::new();
        for item in &given.value {
            let complaint = |why: String| refused("filter", item, &given.source, &why);
            add(&mut watching, &mut addresses, item).map_err(complaint)?;
        }
        if !addresses.is_empty() {
            let rules = Rules::new(addresses).map_err(|why| ConfigError(format!("--filter: {why}")))?;
            watching.addresses = Some(rules);
        }
    }
    if let Some(capture) = &layers.capture {
        let path = capture.value.display().to_string();
        let why = if watching.scope.filters == Filters::default() {
            "with --all a --filter on processes must say whose payloads are captured"
        } else if watching.addresses.is_some() || !watching.ports.is_empty() {
            "a --filter on addresses or ports doesn't hold for payloads: use --capture-path or --capture-family"
        } else {
            return Ok(Running { watching: Some(watching), attach: None });
        };
        return Err(refused("capture", &path, &capture.source, why));
    }
    let attach = attached.filter(|_| backend == BackendChoice::Auto && !narrows);
    Ok(Running { watching: Some(watching), attach })
}

/// Why an option isn't accepted for what runs already. `judges`: what it does is judged before it is done.
fn why_not(option: &str, value: &str, backend: BackendChoice, pid: bool, judges: bool) -> Option<&'static str> {
    Some(match (option, value) {
        ("backend", _) => match backend {
            BackendChoice::Auto | BackendChoice::Ebpf => return None,
            BackendChoice::Ptrace if judges => return None,
            BackendChoice::Ptrace => "to watch the machine, accepted: auto, ebpf",
            BackendChoice::Seccomp => {
                "it can't be had for what runs already; accepted: auto, ebpf, with --pid ptrace"
            }
        },
        ("on_leak", "log") | ("stack", "auto" | "never") | ("dns", "judge") => return None,
        ("on_leak", "redirect") if judges => {
            "connections by way of sockstrace would end when it lets go; accepted: log, block, kill, kill-tree, core"
        }
        ("on_leak" | "stack" | "block_errno" | "leak_exit_code", _) if judges => return None,
        ("on_leak", _) => {
            "what runs already is only watched: it has sockets that no rule was asked about; accepted: log (with \
             --pid the ptrace backend can do more)"
        }
        ("stack", _) => {
            "what is only watched gives no stacks yet; accepted: never (--pid with the ptrace backend does)"
        }
        ("dns", _) => "with --all and --pid accepted: judge",
        ("leak_exit_code", _) if pid => return None,
        ("calls" | "filter", _) if judges => "it is for what is only watched: --backend ebpf, --on-leak log",
        (option, _) if judges && option.starts_with("capture") => {
            "of what runs already only the ebpf backend captures payloads, with --on-leak log"
        }
        (option, _) if WITHOUT_MEANING.contains(&option) => "it has no meaning with --all and --pid",
        _ => return None,
    })
}

/// Without `--all` and `--pid`.
fn no_watching(layers: &Layers) -> Result<(), ConfigError> {
    for (option, source) in [
        ("calls", layers.calls.as_ref().map(|given| &given.source)),
        ("filter", layers.filter.as_ref().map(|given| &given.source)),
    ] {
        if let Some(source) = source {
            return Err(ConfigError(format!("--{option} ({source}) is for --all and --pid alone")));
        }
    }
    Ok(())
}

/// The process of `--pid`.
fn process(given: &Given<String>) -> Result<Pid, ConfigError> {
    let number = given.value.parse::<i32>().ok().filter(|pid| *pid > 0);
    number.map(Pid::from_raw).ok_or_else(|| refused("pid", &given.value, &given.source, "accepted: a process id"))
}

fn calls(given: Option<&Given<Vec<String>>>) -> Result<(Vec<SocketCall>, bool), ConfigError> {
    let Some(Given { value, source }) = given else { return Ok((SocketCall::ALL.to_vec(), true)) };
    let (mut calls, mut states) = (Vec::new(), false);
    for name in value.iter().flat_map(|item| item.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if name == STATES {
            states = true;
            continue;
        }
        let Some(call) = SocketCall::ALL.iter().find(|call| call.name() == name) else {
            let names: Vec<_> = SocketCall::ALL.iter().map(|call| call.name()).collect();
            let why = format!("accepted: {}, {STATES}", names.join(", "));
            return Err(refused("calls", name, source, &why));
        };
        calls.push(*call);
    }
    if calls.is_empty() && !states {
        return Err(refused("calls", "", source, "it names nothing"));
    }
    Ok((calls, states))
}

fn add(watching: &mut Watching, addresses: &mut Vec<Rule>, item: &str) -> Result<(), String> {
    let (key, value) = item.split_once('=').ok_or_else(|| format!("accepted: {KEYS}"))?;
    let filters = &mut watching.scope.filters;
    match key {
        "pid" => {
            let pid = value.parse().ok().filter(|pid| *pid > 0).ok_or("no process id")?;
            if !Path::new(&format!("/proc/{pid}")).exists() {
                return Err("there is no such process".into());
            }
            filters.trees.push(Pid::from_raw(pid));
        }
        "name" => match value.len() {
            0 => return Err("the name is empty".into()),
            // The kernel keeps 15 bytes of a thread's name (PR_SET_NAME, prctl(2)).
            1..=15 => filters.names.push(value.into()),
            _ => return Err(format!("the kernel keeps 15 bytes of a name: name={}", cut(value))),
        },
        "uid" => filters.uids.push(user(value)?),
        "cgroup" => filters.cgroups.push(cgroup(value)?),
        "netns" => filters.netns.push(netns(value)?),
        "port" => watching.ports.push(ports(value)?),
        "address" => addresses.push(value.parse()?),
        _ => return Err(format!("accepted: {KEYS}")),
    }
    Ok(())
}

fn cut(name: &str) -> &str {
    (0..=15).rev().find_map(|end| name.get(..end)).unwrap_or_default()
}

fn user(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err("there is no such user".into()),
    }
}

fn cgroup(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    // Every directory of a cgroup2 file system has it.
    if path.join("cgroup.controllers").exists() {
        Ok(path)
    } else {
        Err("no directory of a cgroup2 file system (/sys/fs/cgroup/...)".into())
    }
}

fn netns(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(number) = number.parse() {
        return Ok(number);
    }
    match fs::metadata(text) {
        Ok(metadata) => Ok(metadata.ino() as u32),
        Err(error) => Err(format!("{error}; accepted: /run/netns/NAME, /proc/PID/ns/net, or its inode number")),
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port number"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err("the port range ends before it starts".into());
    }
    Ok(first..=last)
}
