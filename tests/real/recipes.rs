//! How each program is told to fetch the page, through a proxy and direct.

use super::world::{PATH, PROXY, require};
use crate::support::run::Event;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One program.
pub struct Recipe {
    /// Its name, as in `SOCKSTRACE_WITHOUT`.
    pub name: &'static str,
    /// What it needs, and the package that has it.
    pub needs: &'static [(&'static str, &'static str)],
    /// The command line, with what it stands on made in the home that it gets.
    pub command: fn(&Setting) -> Vec<String>,
    /// Where its page text shows.
    pub shows: Shows,
    /// Leaks that it has though it was told to use the proxy, each with its reason.
    pub known: fn(&Event) -> bool,
}

/// What the command is made for.
pub struct Setting<'s> {
    /// An empty directory, and HOME.
    pub home: &'s Path,
    /// The web server: an address, or a name.
    pub site: &'s str,
    /// Whether it is to use the proxy.
    pub proxied: bool,
    /// Whether it runs as root.
    pub root: bool,
}

/// Where a program's page text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// On standard output, which is the same in each run.
    Stdout,
    /// The page's script posts it.
    Report,
}

fn url(setting: &Setting) -> String {
    format!("http://{}/", setting.site)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn none(_: &Event) -> bool {
    false
}

/// All of them.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "curl",
        needs: &[("curl", "curl")],
        command: |setting| {
            let proxy = format!("socks5h://{PROXY}:9050");
            let proxied = if setting.proxied { vec!["--proxy", &proxy] } else { vec!["--noproxy", "*"] };
            words(&[&["curl", "-sS", &url(setting)], &proxied[..]].concat())
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "wget",
        needs: &[("wget", "wget")],
        command: |setting| {
            let proxy = format!("http_proxy=http://{PROXY}:8080");
            let proxy = if setting.proxied { proxy.as_str() } else { "no_proxy=*" };
            words(&["env", proxy, "wget", "-q", "--tries=1", "-O", "-", &url(setting)])
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "git",
        needs: &[("git", "git")],
        command: |setting| {
            repository();
            let proxy = if setting.proxied { format!("socks5h://{PROXY}:9050") } else { String::new() };
            let script = "git -c http.proxy=\"$1\" clone -q \"$2\" copy && cat copy/page";
            words(&["sh", "-c", script, "sh", &proxy, &format!("{}repository.git", url(setting))])
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "python",
        needs: &[("python3", "python3")],
        command: |setting| {
            let proxy = PROXY.to_string();
            let proxied = if setting.proxied { vec![proxy.as_str(), "9050"] } else { Vec::new() };
            words(&[&["python3", &guest("fetch.py"), &url(setting)], &proxied[..]].concat())
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "node",
        needs: &[("node", "nodejs")],
        command: |setting| {
            let proxy = PROXY.to_string();
            let proxied = if setting.proxied { vec![proxy.as_str(), "9050"] } else { Vec::new() };
            words(&[&["node", &guest("fetch.js"), setting.site, "80"], &proxied[..]].concat())
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "java",
        needs: &[("java", "default-jdk-headless"), ("javac", "default-jdk-headless")],
        command: |setting| java(setting, "http", "8080"),
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "java-socks",
        needs: &[("java", "default-jdk-headless"), ("javac", "default-jdk-headless")],
        command: |setting| java(setting, "socks", "9050"),
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "go",
        needs: &[("go", "golang-go")],
        command: |setting| {
            let proxy = format!("socks5://{PROXY}:9050");
            let proxied = if setting.proxied { vec![proxy.as_str()] } else { Vec::new() };
            words(&[&[&go("fetch"), &*url(setting)], &proxied[..]].concat())
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "musl",
        needs: &[("musl-gcc", "musl-tools")],
        command: |setting| {
            let fetch = musl("fetch");
            let proxy = PROXY.to_string();
            let proxied = if setting.proxied { vec![proxy.as_str(), "9050"] } else { Vec::new() };
            let mode = if setting.proxied { "socks" } else { "direct" };
            words(&[&[fetch.as_str(), mode, setting.site, "80"], &proxied[..]].concat())
        },
        shows: Shows::Stdout,
        known: none,
    },
    Recipe {
        name: "chromium",
        needs: &[("chromium", "chromium")],
        command: chromium,
        shows: Shows::Stdout,
        // It connects a UDP socket to a public IPv6 address to learn whether there is a route, whatever
        // proxy it has. Nothing is sent; getsockname would then tell the machine's IPv6 address.
        known: |event| event.text("class") == "disclosure" && event.text("address") == "[2001:4860:4860::8888]:443",
    },
    Recipe {
        name: "firefox",
        needs: &[("firefox-esr", "firefox-esr")],
        command: firefox,
        shows: Shows::Report,
        known: none,
    },
];

fn java(setting: &Setting, kind: &str, port: &str) -> Vec<String> {
    let classes = classes("Fetch");
    let proxy = PROXY.to_string();
    let kind = if setting.proxied { kind } else { "direct" };
    let proxied = if setting.proxied { vec![proxy.as_str(), port] } else { Vec::new() };
    words(&[&["java", "-Xshare:auto", "-cp", &classes, "Fetch", kind, &url(setting)], &proxied[..]].concat())
}

fn chromium(setting: &Setting) -> Vec<String> {
    let profile = format!("--user-data-dir={}", setting.home.join("profile").display());
    let proxy = format!("--proxy-server=socks5://{PROXY}:9050");
    // Without the rule it resolves the names of its own services past the proxy.
    let rule = format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {PROXY}, EXCLUDE {}", setting.site);
    let mut command = words(&[
        "chromium",
        "--headless",
        "--no-first-run",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--dump-dom",
        &profile,
        &rule,
        if setting.proxied { &proxy } else { "--proxy-server=direct://" },
    ]);
    if setting.root {
        command.push("--no-sandbox".into());
    }
    command.push(url(setting));
    command
}

fn firefox(setting: &Setting) -> Vec<String> {
    let profile = setting.home.join("profile");
    fs::create_dir(&profile).unwrap();
    let mut preferences = format!(
        "user_pref('network.proxy.type', {});\n\
         user_pref('network.captive-portal-service.enabled', false);\n\
         user_pref('network.connectivity-service.enabled', false);\n",
        u8::from(setting.proxied)
    );
    if setting.proxied {
        preferences = format!(
            "{preferences}user_pref('network.proxy.socks', '{PROXY}');\n\
             user_pref('network.proxy.socks_port', 9050);\n\
             user_pref('network.proxy.socks_version', 5);\n\
             user_pref('network.proxy.socks_remote_dns', true);\n\
             user_pref('network.proxy.allow_bypass', false);\n"
        );
    }
    fs::write(profile.join("user.js"), preferences).unwrap();
    if !setting.root {
        use super::world::NOBODY;
        std::os::unix::fs::chown(&profile, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let (profile, picture) = (profile.display().to_string(), setting.home.join("page.png").display().to_string());
    let firefox = [
        "firefox-esr",
        "--headless",
        "--no-remote",
        "--profile",
        &profile,
        "--screenshot",
        &picture,
        &url(setting),
    ];
    // Natively too it waits for ever for a page that can't be had.
    let timeout = ["timeout", "--kill-after=5", "25"];
    if setting.proxied { words(&firefox) } else { words(&[&timeout[..], &firefox].concat()) }
}

/// The path of a source in `tests/real/guests`.
pub fn guest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/guests").join(name).display().to_string()
}

/// A static Go program of `tests/real/guests`.
pub fn go(name: &str) -> String {
    let source = format!("{name}.go");
    built(&format!("{name}-go"), &[&source], |sources, output| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(output).args(sources);
        let cache = output.with_file_name("go-cache");
        go.env("CGO_ENABLED", "0").env("GOCACHE", cache).env("GO111MODULE", "off").env("GOPROXY", "off");
        go
    })
}

/// A static C program of `tests/real/guests`, with musl.
pub fn musl(name: &str) -> String {
    built(&format!("{name}-musl"), &[&format!("{name}.c")], |sources, output| {
        let mut musl = Command::new("musl-gcc");
        musl.args(["-static", "-O1", "-o"]).arg(output).args(sources);
        musl
    })
}

/// The folder of a compiled Java class of `tests/real/guests`.
pub fn classes(name: &str) -> String {
    built(&format!("{name}-classes"), &[&format!("{name}.java")], |sources, output| {
        let mut javac = Command::new("javac");
        javac.arg("-d").arg(output).args(sources);
        javac
    })
}

/// What the compiler makes of sources in `tests/real/guests`, made anew when one of them is newer.
fn built(name: &str, sources: &[&str], compiler: impl Fn(&[PathBuf], &Path) -> Command) -> String {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real");
    fs::create_dir_all(&folder).unwrap();
    let output = folder.join(name);
    let sources: Vec<PathBuf> = sources.iter().map(|source| guest(source).into()).collect();
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&output).is_none_or(|built| sources.iter().any(|source| changed(source) > Some(built))) {
        let made = compiler(&sources, &output).env("PATH", PATH).output();
        let made = made.unwrap_or_else(|error| panic!("building {name}: {error}"));
        assert!(made.status.success(), "building {name}: {}", String::from_utf8_lossy(&made.stderr));
        if output.is_dir() {
            fs::File::open(&output).and_then(|folder| folder.set_modified(std::time::SystemTime::now())).unwrap();
        }
    }
    output.display().to_string()
}

/// The repository that the web server has at /repository.git.
fn repository() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real");
    if folder.join("repository.git/info/refs").exists() {
        return;
    }
    fs::create_dir_all(&folder).unwrap();
    let script = "rm -rf work repository.git && git init -q work && echo 'A page of the test' > work/page &&
        git -C work add page && git -C work -c user.name=test -c user.email=test@localhost commit -qm page &&
        git clone -q --bare work repository.git && git -C repository.git update-server-info";
    let mut shell = Command::new("sh");
    let made = shell.args(["-ec", script]).current_dir(&folder).env("HOME", &folder).env("PATH", PATH).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Recipe {
    /// # Errors
    /// Names a package.
    pub fn check_needs(&self) -> Result<(), String> {
        self.needs.iter().try_for_each(|(program, package)| require(program, package).map(drop))
    }
}
