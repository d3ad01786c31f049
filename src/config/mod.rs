//! One validated [`Config`] out of file, environment and flags.
//!
//! Flags override the environment, which overrides the file. A repeatable option is replaced as a whole:
//! one `--allow` on the command line, and the list of the file is not used.

mod capture;
mod choices;
mod errno;
mod options;
mod scope;

pub use choices::{BackendChoice, Format, IsolateBy, IsolateFormat, Leftover, Live, OnLeak, Stack, Trace};
pub use options::{Options, Source};
pub use scope::Watching;

use crate::capture::Wish;
use crate::cli::Run;
use crate::dns::Mode;
use crate::dns::names::is_pooled;
use crate::policy::{Policy, PolicyOptions, Scheme, redact};
use crate::proxy::handshake::{Auth, Rules};
use choices::{Choice, Disclosure, Incoming, SocksAuth, Syscalls, Unix};
use nix::errno::Errno;
use nix::unistd::Pid;
use options::{Given, Layers, variable};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// What the user asked for, checked.
#[allow(clippy::struct_excessive_bools, reason = "independent options, each named at its use")]
#[derive(Debug)]
pub struct Config {
    /// How system calls are intercepted.
    pub backend: BackendChoice,
    /// What is a leak.
    pub policy: Policy,
    /// How DNS queries are treated.
    pub dns: Mode,
    /// What happens to one.
    pub on_leak: OnLeak,
    /// What shares credentials at the proxy; `None`: they are those of its URL.
    pub isolate_by: Option<IsolateBy>,
    /// What such credentials look like.
    pub isolate_format: IsolateFormat,
    /// What a refused call returns.
    pub block_errno: Errno,
    /// What becomes of processes that outlive PROGRAM.
    pub leftover: Leftover,
    /// Calls outside the built-in allow-list get EPERM.
    pub strict: bool,
    /// Which events are written.
    pub trace: Trace,
    /// Which of them get a stack trace.
    pub stack: Stack,
    /// How they are written.
    pub format: Format,
    /// Where they go; `None` is standard error.
    pub output: Option<PathBuf>,
    /// Exit status when PROGRAM succeeded but leaked: 0 to 255.
    pub leak_exit_code: i32,
    /// What SOCKS5 handshakes with a proxy must show; `None`: they aren't looked at.
    pub handshake: Option<Arc<Rules>>,
    /// Usernames and passwords are written in full.
    pub show_secrets: bool,
    /// PROGRAM runs in a network namespace without a link to the outside.
    pub isolate: bool,
    /// PROGRAM runs in a user namespace of its own.
    pub user_namespace: bool,
    /// Whether a line on the terminal says how it goes.
    pub live: Live,
    /// Whether a screen shows it (`--tui`).
    pub tui: bool,
    /// What is captured.
    pub capture: Option<Wish>,
    /// What is watched where there is no PROGRAM (`--all`, `--pid`).
    pub watching: Option<Watching>,
    /// The process of `--pid`, where it may be judged before it acts, and not only watched.
    pub attach: Option<Pid>,
    /// PROGRAM and its arguments; empty with `watching` and `attach` alone.
    pub program: Vec<OsString>,
}

/// What is wrong with the options, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The exit status of PROGRAM is 0 to 255, and so is ours.
const DEFAULT_LEAK_EXIT_CODE: i32 = 23;

impl Config {
    /// Merges and checks what the command line, the environment (`get`) and the file say.
    ///
    /// # Errors
    /// Names option, value, source, and what would be accepted.
    pub fn load(run: Run, get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let layers = layers(run.config, run.options, get)?;
        let scope::Running { watching, attach } = scope::running(&layers, !run.program.is_empty())?;
        let backend = choice("backend", layers.backend.as_ref())?;
        if run.program.is_empty() && watching.is_none() && attach.is_none() {
            return Err(ConfigError("PROGRAM is missing: sockstrace [OPTIONS] [--] PROGRAM [ARG]...".into()));
        }
        let block_errno = parsed("block_errno", layers.block_errno.as_ref(), errno::from_name)?;
        let leak_exit_code = parsed("leak_exit_code", layers.leak_exit_code.as_ref(), exit_code)?;
        let dns: Mode = parsed("dns", layers.dns.as_ref(), str::parse)?.unwrap_or_default();
        let policy = policy(&layers, dns)?;
        let handshake = handshake(&layers)?;
        // What ran before us is harmed only where that is asked for.
        let on_leak = match &layers.on_leak {
            None if watching.is_some() || attach.is_some() => OnLeak::Log,
            given => choice("on_leak", given.as_ref())?,
        };
        check_dns(&layers, dns, &policy, on_leak)?;
        let tui = shows_screen(&layers)?;
        let (isolate_by, isolate_format) = isolation(&layers, &policy, on_leak)?;
        Ok(Self {
            dns,
            policy,
            capture: capture::wish(&layers)?,
            live: if tui { Live::Never } else { choice("live", layers.live.as_ref())? },
            tui,
            backend,
            on_leak,
            isolate_by,
            isolate_format,
            block_errno: block_errno.unwrap_or(Errno::EPERM),
            leftover: choice("leftover", layers.leftover.as_ref())?,
            strict: choice::<Syscalls>("syscalls", layers.syscalls.as_ref())? == Syscalls::Strict,
            trace: match &layers.trace {
                None if layers.all.as_ref().is_some_and(|given| given.value) => Trace::All,
                given => choice("trace", given.as_ref())?,
            },
            stack: choice("stack", layers.stack.as_ref())?,
            format: choice("format", layers.format.as_ref())?,
            output: layers.output.as_ref().map(output).transpose()?,
            leak_exit_code: leak_exit_code.unwrap_or(DEFAULT_LEAK_EXIT_CODE),
            handshake: handshake.map(Arc::new),
            show_secrets: layers.show_secrets.as_ref().is_some_and(|given| given.value),
            isolate: isolates(&layers),
            user_namespace: layers.user_namespace.is_some_and(|given| given.value),
            watching,
            attach,
            program: run.program,
        })
    }
}

fn layers(
    file: Option<PathBuf>,
    flags: Options,
    get: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    let named = || get(&variable("config")).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = file.or_else(named) {
        let complaint = |why: String| ConfigError(format!("configuration file {}: {why}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| complaint(error.to_string()))?;
        let options = Options::from_toml(&text).map_err(complaint)?;
        layers.put(options, &Source::File(path.clone()));
    }
    let environment = Options::from_environment(get)
        .map_err(|(option, text, why)| refused(option, &text.to_string_lossy(), &Source::Environment, &why))?;
    layers.put(environment, &Source::Environment);
    layers.put(flags, &Source::Flag);
    Ok(layers)
}

fn policy(layers: &Layers, dns: Mode) -> Result<Policy, ConfigError> {
    // The kernel resolves links before the policy sees a path, so that rules must be resolved too.
    let canonicalize = |path: &Path| std::fs::canonicalize(path).ok();
    let allow_incoming = list::<crate::policy::Rule>("allow_incoming", layers.allow_incoming.as_ref())?;
    if let (Some(rule), Some(given)) = (allow_incoming.iter().find(|rule| rule.is_unix()), &layers.allow_incoming) {
        let why = "a UNIX socket can't be reached from outside and is never refused; accepted: IP or CIDR";
        return Err(refused("allow_incoming", rule.text(), &given.source, why));
    }
    let allow = list::<crate::policy::Rule>("allow", layers.allow.as_ref())?;
    if let (Some(rule), Some(given)) = (allow.iter().find(|rule| rule.is_abstract()), &layers.allow)
        && isolates(layers)
    {
        let why = "under --isolate abstract names are PROGRAM's own: those outside can't be reached";
        return Err(refused("allow", rule.text(), &given.source, why));
    }
    let options = PolicyOptions {
        proxies: list("proxy", layers.proxy.as_ref())?
            .into_iter()
            .map(|proxy: crate::policy::Proxy| proxy.resolved(&canonicalize))
            .collect(),
        allow: allow.into_iter().map(|rule| rule.resolved(&canonicalize)).collect(),
        allow_loopback: layers.allow_loopback.as_ref().is_some_and(|given| given.value),
        judge_disclosure: choice::<Disclosure>("disclosure", layers.disclosure.as_ref())? == Disclosure::Leak,
        judge_unix: judges_unix(layers)?,
        isolated: isolates(layers),
        redirects_dns: dns != Mode::Judge,
        maps_names: dns == Mode::Map,
        incoming: judges_incoming(layers)?.then_some(allow_incoming),
    };
    Policy::new(options).map_err(|why| ConfigError(format!("the rules can't be compiled: {why}")))
}

/// `--socks-auth`, `--socks-isolation` (which implies `required`) and `--socks-names`.
fn handshake(layers: &Layers) -> Result<Option<Rules>, ConfigError> {
    let isolation = parsed("socks_isolation", layers.socks_isolation.as_ref(), |text| {
        regex::bytes::Regex::new(text).map_err(|error| error.to_string())
    })?;
    let names = layers.socks_names.as_ref().is_some_and(|given| given.value);
    let auth = parsed("socks_auth", layers.socks_auth.as_ref(), SocksAuth::from_word)?.map(|auth| match auth {
        SocksAuth::Any => Auth::Any,
        SocksAuth::Required => Auth::Required,
        SocksAuth::Tor => Auth::Tor,
    });
    if auth.is_none() && isolation.is_none() && !names {
        return Ok(None);
    }
    Ok(Some(Rules { auth: auth.unwrap_or_default(), isolation, names }))
}

fn isolates(layers: &Layers) -> bool {
    layers.isolate.as_ref().is_some_and(|given| given.value)
}

/// `--isolate` implies `--unix leak`, unless the user says otherwise: a network namespace doesn't stop them.
fn judges_unix(layers: &Layers) -> Result<bool, ConfigError> {
    let unix = choice::<Unix>("unix", layers.unix.as_ref())?;
    Ok(unix == Unix::Leak || (isolates(layers) && layers.unix.is_none()))
}

/// What each way of answering queries needs.
fn check_dns(layers: &Layers, mode: Mode, policy: &Policy, on_leak: OnLeak) -> Result<(), ConfigError> {
    let Some(given) = &layers.dns else { return Ok(()) };
    let speaks_socks = policy.first_proxy().is_some_and(|proxy| proxy.scheme() == Scheme::Socks5);
    let why = match mode {
        Mode::Resolve if !speaks_socks => {
            "names are asked for by SOCKS5, and the first --proxy is HTTP; accepted with it: \
             redirect=tcp://RESOLVER, redirect=map"
        }
        Mode::Map if on_leak != OnLeak::Redirect => {
            "its addresses lead somewhere with --on-leak redirect alone, which makes them names again"
        }
        Mode::Map if policy.networks().any(|(ip, _)| is_pooled(ip)) => {
            "a proxy or --allow rule is in 198.18.0.0/15 or fd73:6f63:6b73::/96, whose addresses stand for names"
        }
        _ => return Ok(()),
    };
    Err(refused("dns", &given.value, &given.source, why))
}

/// `--allow-incoming` implies `--incoming block`, unless `--incoming allow` comes from a source above it.
fn judges_incoming(layers: &Layers) -> Result<bool, ConfigError> {
    let incoming = choice::<Incoming>("incoming", layers.incoming.as_ref())?;
    match (&layers.incoming, &layers.allow_incoming) {
        (Some(given), Some(rules)) if incoming == Incoming::Allow => match given.source.cmp(&rules.source) {
            std::cmp::Ordering::Less => Ok(true),
            std::cmp::Ordering::Greater => Ok(false),
            std::cmp::Ordering::Equal => {
                let why = "--allow-incoming, given too, implies block";
                Err(refused("incoming", &given.value, &given.source, why))
            }
        },
        (_, Some(_)) => Ok(true),
        (_, None) => Ok(incoming == Incoming::Block),
    }
}

/// `--isolate-by` and `--isolate-format`, where they can have an effect.
fn isolation(
    layers: &Layers,
    policy: &Policy,
    on_leak: OnLeak,
) -> Result<(Option<IsolateBy>, IsolateFormat), ConfigError> {
    let by = parsed("isolate_by", layers.isolate_by.as_ref(), IsolateBy::from_word)?;
    let format = choice("isolate_format", layers.isolate_format.as_ref())?;
    if let Some(given) = &layers.isolate_by {
        let proxy = policy.first_proxy();
        let why = if on_leak != OnLeak::Redirect {
            "it is for --on-leak redirect"
        } else if proxy.is_some_and(|proxy| proxy.scheme() != Scheme::Socks5) {
            "the first --proxy is no SOCKS5 proxy, and takes no credentials"
        } else if proxy.is_some_and(|proxy| proxy.credentials().is_some()) {
            "the first --proxy has credentials already"
        } else {
            return Ok((by, format));
        };
        return Err(refused("isolate_by", &given.value, &given.source, why));
    }
    match &layers.isolate_format {
        Some(given) => Err(refused("isolate_format", &given.value, &given.source, "it goes with --isolate-by")),
        None => Ok((by, format)),
    }
}

/// Whether `--tui` is given, which has the terminal for itself.
fn shows_screen(layers: &Layers) -> Result<bool, ConfigError> {
    if layers.tui.as_ref().is_none_or(|given| !given.value) {
        return Ok(false);
    }
    if let Some(given) = &layers.live
        && choice::<Live>("live", Some(given))? != Live::Never
    {
        let why = "--tui, given too, has the terminal for itself, and shows as much; accepted with it: never";
        return Err(refused("live", &given.value, &given.source, why));
    }
    if let Some(given) = &layers.leftover
        && choice::<Leftover>("leftover", Some(given))? == Leftover::Background
    {
        let why = "--tui, given too, stays until all is over; accepted with it: wait, kill";
        return Err(refused("leftover", &given.value, &given.source, why));
    }
    Ok(true)
}

fn output(given: &Given<PathBuf>) -> Result<PathBuf, ConfigError> {
    if given.value.as_os_str() == "-" {
        let why = "standard output is PROGRAM's own; accepted: a file's name (./- for one named -)";
        return Err(refused("output", "-", &given.source, why));
    }
    Ok(given.value.clone())
}

fn exit_code(text: &str) -> Result<i32, String> {
    let code = text.parse().ok().filter(|code| (0..=255).contains(code));
    code.ok_or_else(|| "accepted: 0 to 255".into())
}

fn choice<C: Choice + Default>(option: &str, given: Option<&Given<String>>) -> Result<C, ConfigError> {
    Ok(parsed(option, given, C::from_word)?.unwrap_or_default())
}

fn parsed<T>(
    option: &str,
    given: Option<&Given<String>>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    given
        .map(|given| parse(&given.value).map_err(|why| refused(option, &given.value, &given.source, &why)))
        .transpose()
}

fn list<T: FromStr<Err = String>>(option: &str, given: Option<&Given<Vec<String>>>) -> Result<Vec<T>, ConfigError> {
    let Some(given) = given else {
        return Ok(Vec::new());
    };
    let parse = |item: &String| item.parse().map_err(|why: String| refused(option, item, &given.source, &why));
    given.value.iter().map(parse).collect()
}

fn refused(option: &str, value: &str, source: &Source, why: &str) -> ConfigError {
    let flag = option.replace('_', "-");
    let place = match source {
        Source::Environment => format!("{} in the environment", variable(option)),
        other => other.to_string(),
    };
    ConfigError(format!("--{flag} {:?} ({place}) is not accepted: {why}", redact(value)))
}

#[cfg(test)]
mod tests;
