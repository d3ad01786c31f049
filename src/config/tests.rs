//! Precedence, validation, messages.

use super::*;
use crate::operation::{Address, Family, Operation, SocketKind, SocketType};

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockstrace-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn load(file: Option<&File>, environment: &[(&str, &str)], options: Options) -> Result<Config, ConfigError> {
    let run = Run { config: file.map(|file| file.0.clone()), options, program: vec!["p".into()] };
    Config::load(run, &|name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
}

fn error(environment: &[(&str, &str)], options: Options) -> String {
    load(None, environment, options).unwrap_err().to_string()
}

fn leaks(config: &Config, to: &str) -> bool {
    let socket = SocketKind { family: Family::INET, kind: SocketType::STREAM, protocol: 6 };
    let destination = Address::Internet(to.parse().unwrap());
    config.policy.judge(&Operation::Connect { destination }, Some(&socket)).is_leak()
}

#[test]
fn defaults_are_the_contracts() {
    let config = load(None, &[], Options::default()).unwrap();
    assert_eq!(config.backend, BackendChoice::Auto);
    assert_eq!(config.on_leak, OnLeak::Block);
    assert_eq!(config.block_errno, Errno::EPERM);
    assert_eq!(config.leftover, Leftover::Wait);
    assert_eq!((config.trace, config.format), (Trace::Leaks, Format::Human));
    assert_eq!((config.output.clone(), config.leak_exit_code), (None, 23));
    assert!(!config.strict && !config.user_namespace);
    assert!(!config.policy.judges_incoming() && !config.policy.judges_unix());
    assert!(!leaks(&config, "127.0.0.1:9050") && leaks(&config, "127.0.0.1:80"));
}

#[test]
fn flags_override_the_environment_and_that_the_file() {
    let file = File::new(
        "precedence",
        "on-leak = 'log'\nblock-errno = 'EACCES'\nformat = 'jsonl'\nallow = ['192.0.2.1', '192.0.2.2']\n\
         allow-loopback = true\nleak-exit-code = 0\n",
    );
    let environment = [("SOCKSTRACE_BLOCK_ERRNO", "ENETUNREACH"), ("SOCKSTRACE_FORMAT", "sockwho")];
    let flags = Options {
        format: Some("human".into()),
        allow: Some(vec!["192.0.2.3".into()]),
        allow_loopback: Some(false),
        ..Options::default()
    };
    let config = load(Some(&file), &environment, flags).unwrap();
    assert_eq!(config.on_leak, OnLeak::Log);
    assert_eq!(config.block_errno, Errno::ENETUNREACH);
    assert_eq!(config.format, Format::Human);
    assert_eq!(config.leak_exit_code, 0);
    assert!(leaks(&config, "192.0.2.1:1") && !leaks(&config, "192.0.2.3:1"), "lists are replaced");
    assert!(leaks(&config, "127.0.0.1:1"));

    let path = file.0.to_str().unwrap();
    let config = load(None, &[("SOCKSTRACE_CONFIG", path)], Options::default()).unwrap();
    assert!(!leaks(&config, "192.0.2.1:1") && !leaks(&config, "127.0.0.1:1"));
}

#[test]
fn messages_name_option_value_source_and_what_is_accepted() {
    let has = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    };
    let flags = Options { on_leak: Some("ignore".into()), ..Options::default() };
    has(error(&[], flags), &["--on-leak", "\"ignore\"", "command line", "log, block, redirect, kill"]);
    let environment = [("SOCKSTRACE_LEAK_EXIT_CODE", "256")];
    let message = error(&environment, Options::default());
    has(message, &["--leak-exit-code", "\"256\"", "SOCKSTRACE_LEAK_EXIT_CODE", "0 to 255"]);
    let environment = [("SOCKSTRACE_ALLOW_LOOPBACK", "perhaps")];
    has(error(&environment, Options::default()), &["--allow-loopback", "SOCKSTRACE_ALLOW_LOOPBACK", "true"]);
    let file = File::new("message", "unix = 'block'\n");
    let message = load(Some(&file), &[], Options::default()).unwrap_err().to_string();
    has(message, &["--unix", "\"block\"", file.0.to_str().unwrap(), "allow, leak"]);
    let flags = Options { proxy: Some(vec!["socks5://u:pw@tor.example:1".into()]), ..Options::default() };
    let message = error(&[], flags);
    assert!(!message.contains("pw"), "{message}");
    has(message, &["--proxy", "never resolves"]);
    let flags = Options { output: Some("-".into()), ..Options::default() };
    has(error(&[], flags), &["--output", "standard output"]);
    let missing = Run { config: Some("/nonexistent/x.toml".into()), ..Run::default() };
    has(Config::load(missing, &|_| None).unwrap_err().to_string(), &["/nonexistent/x.toml"]);
    has(Config::load(Run::default(), &|_| None).unwrap_err().to_string(), &["PROGRAM"]);
}

#[test]
fn defaults_may_be_named() {
    let fine = [("SOCKSTRACE_DNS", "judge"), ("SOCKSTRACE_ALL", "0")];
    assert!(load(None, &fine, Options::default()).is_ok());
    assert!(error(&[("SOCKSTRACE_STACK", "x")], Options::default()).contains("accepted: auto, always, never"));
    assert!(error(&[("SOCKSTRACE_DNS", "x")], Options::default()).contains("accepted: judge"));
}

#[test]
fn allow_incoming_implies_block() {
    let rules = || Some(vec!["127.0.0.1:80".into()]);
    let config = load(None, &[], Options { allow_incoming: rules(), ..Options::default() }).unwrap();
    assert!(config.policy.judges_incoming());
    let both = Options { allow_incoming: rules(), incoming: Some("allow".into()), ..Options::default() };
    assert!(error(&[], both).contains("--incoming"));
    // A later source overrides an earlier one, in both directions.
    let allow = Options { incoming: Some("allow".into()), ..Options::default() };
    let config = load(None, &[("SOCKSTRACE_ALLOW_INCOMING", "127.0.0.1")], allow).unwrap();
    assert!(!config.policy.judges_incoming());
    let flags = Options { allow_incoming: rules(), ..Options::default() };
    let config = load(None, &[("SOCKSTRACE_INCOMING", "allow")], flags).unwrap();
    assert!(config.policy.judges_incoming());
    let unix = Options { allow_incoming: Some(vec!["unix:/x".into()]), ..Options::default() };
    assert!(error(&[], unix).contains("unix:/x"));
}

fn load_all(options: Options) -> Result<Config, ConfigError> {
    let run = Run { options: Options { all: Some(true), ..options }, ..Run::default() };
    Config::load(run, &|_| None)
}

#[test]
fn the_whole_machine_is_only_watched() {
    use sockstrace_backend::observed::SocketCall;
    let config = load_all(Options::default()).unwrap();
    let watching = config.watching.unwrap();
    assert_eq!((config.on_leak, config.trace), (OnLeak::Log, Trace::All));
    assert_eq!((watching.scope.calls.len(), watching.scope.states), (SocketCall::ALL.len(), true));
    let some = Options { calls: Some(vec!["connect, bind".into()]), ..Options::default() };
    let watching = load_all(some).unwrap().watching.unwrap();
    assert_eq!(watching.scope.calls, [SocketCall::Connect, SocketCall::Bind]);
    assert!(!watching.scope.states);
    let filter = |items: &[&str]| {
        let filter = Some(items.iter().map(|item| (*item).to_owned()).collect());
        load_all(Options { filter, ..Options::default() }).map(|config| config.watching.unwrap())
    };
    let watching = filter(&["uid=7", "uid=root", "name=a,b", "netns=net:[9]", "port=1-5", "address=::1"]).unwrap();
    let filters = &watching.scope.filters;
    assert_eq!((&filters.uids[..], &filters.netns[..], &watching.ports[..]), (&[7, 0][..], &[9][..], &[1..=5][..]));
    assert_eq!(filters.names, ["a,b"]);
    assert!(watching.addresses.is_some_and(|rules| rules.covers(&Address::Internet("[::1]:9".parse().unwrap()))));
    for (item, why) in [
        ("80", "accepted: pid=PID"),
        ("colour=red", "accepted: pid=PID"),
        ("pid=0", "no process id"),
        ("pid=999999999", "no such process"),
        ("port=9-1", "before it starts"),
        ("port=http", "no port number"),
        ("name=a-name-of-18-bytes", "name=a-name-of-18-by"),
        ("uid=no.such.user", "no such user"),
        ("cgroup=/tmp", "cgroup2"),
        ("netns=/nonexistent", "/run/netns"),
        ("address=example.org", "never resolves"),
    ] {
        let error = filter(&[item]).unwrap_err().to_string();
        assert!(error.starts_with("--filter ") && error.contains(why), "{error}");
    }
}

#[test]
fn what_has_no_meaning_beside_all_is_refused() {
    let refuses = |options: Options, part: &str| {
        let error = load_all(options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let none = Options::default;
    refuses(Options { on_leak: Some("block".into()), ..none() }, "accepted: log");
    refuses(Options { backend: Some("ptrace".into()), ..none() }, "accepted: auto, ebpf");
    refuses(Options { leftover: Some("kill".into()), ..none() }, "--leftover");
    refuses(Options { calls: Some(vec!["read".into()]), ..none() }, "accepted: bind, connect");
    refuses(Options { calls: Some(Vec::new()), ..none() }, "names nothing");
    let program =
        Run { options: Options { all: Some(true), ..none() }, program: vec!["p".into()], ..Run::default() };
    assert!(Config::load(program, &|_| None).unwrap_err().to_string().contains("PROGRAM"));
    for options in [
        Options { calls: Some(vec!["connect".into()]), ..none() },
        Options { filter: Some(vec!["uid=0".into()]), ..none() },
    ] {
        assert!(load(None, &[], options).unwrap_err().to_string().contains("--all and --pid alone"));
    }
    assert!(load_all(Options { backend: Some("ebpf".into()), ..none() }).is_ok());
}

#[test]
fn dns_is_redirected_by_proxies_that_can() {
    let dns = |value: &str, proxy: Option<&str>| {
        let proxy = proxy.map(|proxy| vec![proxy.to_owned()]);
        load(None, &[("SOCKSTRACE_DNS", value)], Options { proxy, ..Options::default() })
    };
    assert_eq!(dns("redirect", None).unwrap().dns, Mode::Resolve);
    let resolver = "192.0.2.53:53".parse().unwrap();
    assert_eq!(dns("redirect=tcp://192.0.2.53", Some("socks5+unix:///run/x")).unwrap().dns, Mode::Tcp(resolver));
    let error = dns("redirect", Some("http://127.0.0.1:8118")).unwrap_err().to_string();
    assert!(error.contains("--dns") && error.contains("HTTP"), "{error}");
    let error = dns("redirect=tcp://dns.example", None).unwrap_err().to_string();
    assert!(error.contains("SOCKSTRACE_DNS") && error.contains("never resolves"), "{error}");
    assert_eq!(dns("judge", Some("http://127.0.0.1:8118")).unwrap().dns, Mode::Judge);
    assert_eq!(dns("redirect=tcp://192.0.2.53", Some("http://127.0.0.1:8118")).unwrap().dns, Mode::Tcp(resolver));
}

#[test]
fn names_come_back_only_where_connections_are_redirected() {
    let map = |on_leak: &str, proxy: &str, allow: Option<&str>| {
        let flags = Options {
            dns: Some("redirect=map".into()),
            on_leak: Some(on_leak.into()),
            proxy: Some(vec![proxy.into()]),
            allow: allow.map(|rule| vec![rule.into()]),
            ..Options::default()
        };
        load(None, &[], flags).map(|config| config.dns).map_err(|error| error.to_string())
    };
    for proxy in ["socks5://127.0.0.1:9050", "http://127.0.0.1:8118", "socks5+unix:///run/x"] {
        assert_eq!(map("redirect", proxy, Some("192.0.2.0/24")), Ok(Mode::Map));
    }
    assert!(map("block", "socks5://127.0.0.1:9050", None).unwrap_err().contains("--on-leak redirect"));
    for (proxy, allow) in [
        ("socks5://198.18.0.1:1080", None),
        ("socks5://127.0.0.1:9050", Some("198.19.0.0/16")),
        ("socks5://127.0.0.1:9050", Some("[fd73:6f63:6b73::1]:80")),
    ] {
        assert!(map("redirect", proxy, allow).unwrap_err().contains("stand for names"), "{proxy} {allow:?}");
    }
}

#[test]
fn isolation_is_refused_where_it_would_do_nothing() {
    let flags = |proxy: &str, on_leak: &str| Options {
        proxy: Some(vec![proxy.into()]),
        on_leak: Some(on_leak.into()),
        isolate_by: Some("destination".into()),
        ..Options::default()
    };
    let config = load(None, &[], flags("socks5://127.0.0.1:1", "redirect")).unwrap();
    assert_eq!((config.isolate_by, config.isolate_format), (Some(IsolateBy::Destination), IsolateFormat::Random));
    assert!(error(&[], flags("socks5://127.0.0.1:1", "block")).contains("--on-leak redirect"));
    assert!(error(&[], flags("http://127.0.0.1:1", "redirect")).contains("no SOCKS5"));
    assert!(error(&[], flags("socks5://u:p@127.0.0.1:1", "redirect")).contains("credentials already"));
    let lone = Options { isolate_format: Some("tor".into()), ..Options::default() };
    assert!(error(&[], lone).contains("--isolate-by"));
    let word = Options { isolate_by: Some("x".into()), ..flags("socks5://127.0.0.1:1", "redirect") };
    assert!(error(&[], word).contains("connection, destination, process, run"));
}

#[test]
fn a_process_is_attached_to() {
    let load_pid = |pid: &str, options: Options| {
        let run = Run { options: Options { pid: Some(pid.into()), ..options }, ..Run::default() };
        Config::load(run, &|_| None)
    };
    let none = Options::default;
    let config = load_pid("77", none()).unwrap();
    let attach = config.attach;
    let scope = config.watching.unwrap().scope;
    assert_eq!((config.on_leak, config.trace, scope.attaches), (OnLeak::Log, Trace::Leaks, true));
    assert_eq!(scope.filters.trees, [nix::unistd::Pid::from_raw(77)]);
    assert!(!load_all(none()).unwrap().watching.unwrap().scope.attaches);
    for pid in ["0", "-1", "init", ""] {
        assert!(load_pid(pid, none()).unwrap_err().to_string().contains("a process id"), "{pid}");
    }
    assert!(load_pid("1", Options { all: Some(true), ..none() }).unwrap_err().to_string().contains("--pid"));
    assert_eq!(attach, Some(nix::unistd::Pid::from_raw(77)));
    let with =
        |backend: &str, options: Options| load_pid("1", Options { backend: Some(backend.into()), ..options });
    assert!(with("ebpf", none()).unwrap().attach.is_none());
    let judged = with("ptrace", none()).unwrap();
    assert!(judged.watching.is_none() && judged.attach.is_some() && judged.on_leak == OnLeak::Log);
    for backend in ["auto", "ptrace"] {
        let kills = with(backend, Options { on_leak: Some("kill".into()), ..none() }).unwrap();
        assert!(kills.watching.is_none() && kills.attach.is_some() && kills.on_leak == OnLeak::Kill);
        assert!(with(backend, Options { on_leak: Some("redirect".into()), ..none() }).is_err());
    }
    assert!(with("ebpf", Options { on_leak: Some("kill".into()), ..none() }).is_err());
    assert!(with("ptrace", Options { calls: Some(vec!["connect".into()]), ..none() }).is_err());
    assert!(load_pid("1", Options { leak_exit_code: Some("3".into()), ..none() }).is_ok());
}
