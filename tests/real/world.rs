//! The world that real programs see: a network namespace without a way out, with a web server, a real
//! SOCKS proxy (microsocks), an HTTP proxy, and a name server that answers nothing.

use crate::support::run::{Outcome, Run};
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Where the web server is.
pub const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Where the proxies are: SOCKS on port 9050, HTTP on port 8080.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// What stands in resolv.conf.
pub const NAMES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// What a page says once its script has run.
pub const TEXT: &str = "A page of the test, with script";
/// An ordinary user.
pub const NOBODY: u32 = 65534;

const PAGE: &str = "<!doctype html>\n<html><head><title>Test</title></head><body><p id=\"text\">A page of the test\
    </p><script>\ndocument.getElementById('text').textContent += ', with script';\n\
    const report = new XMLHttpRequest();\nreport.open('POST', '/report', false);\n\
    report.send(document.body.innerText);\n</script></body></html>\n";

/// A request that arrived at the web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET /`
    pub line: String,
    /// Whether it came by way of a proxy.
    pub proxied: bool,
    /// What was posted.
    pub body: String,
}

/// The world of one thread.
#[derive(Debug)]
pub struct World {
    /// An empty directory, `/tmp/ssr-…`; removed in the end.
    pub dir: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    names: UdpSocket,
    microsocks: Child,
    _names_of_its_own: NameService,
}

fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl World {
    /// Takes the calling thread into a new network and mount namespace, and everything that it starts.
    ///
    /// # Panics
    /// Where something of it can't be had.
    pub fn new() -> Self {
        // SAFETY: no memory is involved; both namespaces are a thread's own (its working directory too).
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
        assert_eq!(unshared, 0, "namespaces need root: {}", Error::last_os_error());
        let dir = PathBuf::from(format!("/tmp/ssr-{}-{}", std::process::id(), unique()));
        fs::create_dir(&dir).unwrap();
        for arguments in [
            "link set lo up".to_owned(),
            format!("addr add {WEB}/32 dev lo"),
            format!("addr add {PROXY}/32 dev lo"),
            format!("addr add {NAMES}/32 dev lo"),
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is needed");
            assert!(status.success(), "ip {arguments}");
        }
        let names_of_its_own = NameService::new(&dir);
        let requests = Arc::default();
        serve(WEB, 80, &requests, web);
        serve(PROXY, 8080, &requests, |stream, _| http_proxy(stream));
        let names = UdpSocket::bind((NAMES, 53)).unwrap();
        names.set_nonblocking(true).unwrap();
        let mut microsocks = Command::new(require("microsocks", "microsocks").expect("microsocks is needed"));
        // The web server knows the proxy by the address that it connects from.
        microsocks.args(["-i", "203.0.113.9", "-p", "9050", "-b", "203.0.113.9"]);
        let microsocks = microsocks.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let world = Self { dir, requests, names, microsocks, _names_of_its_own: names_of_its_own };
        let start = Instant::now();
        while TcpStream::connect((PROXY, 9050)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "microsocks does not answer");
            thread::sleep(Duration::from_millis(10));
        }
        world
    }

    /// A new directory for a run, the user's own, that serves as its home too.
    pub fn home(&self, user: u32) -> PathBuf {
        let home = self.dir.join(format!("home{}", unique()));
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
        home
    }

    /// A run in `home` as `user`: under a backend with microsocks and the HTTP proxy as its proxies, or
    /// natively.
    #[allow(clippy::unused_self, reason = "it is this world that the run is in")]
    pub fn run(&self, backend: Option<&str>, user: u32, home: &Path) -> Run {
        let run = Run::maybe(backend, home)
            .args([format!("--proxy=socks5://{PROXY}:9050"), format!("--proxy=http://{PROXY}:8080")])
            .linger(Duration::from_secs(5))
            .deadline(Duration::from_secs(120))
            .env("HOME", home)
            .env("TMPDIR", home)
            .env("PATH", PATH);
        if user == 0 { run } else { run.user(user) }
    }

    /// The requests that arrived since the last time.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// How many DNS queries arrived since the last time.
    pub fn queries(&self) -> usize {
        let mut buffer = [0; 512];
        std::iter::from_fn(|| self.names.recv(&mut buffer).ok()).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.microsocks.kill();
        let _ = self.microsocks.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where programs are looked for: not in the places of version managers, which put scripts in between.
pub const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/usr/local/sbin";

/// The program's path.
///
/// # Errors
/// Names the package.
pub fn require(program: &str, package: &str) -> Result<PathBuf, String> {
    let found = PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{program} is missing: install the package {package} (or set SOCKSTRACE_WITHOUT)"))
}

/// Whether the user does without this program: `java` means `java-socks` too.
pub fn is_unwanted(program: &str) -> bool {
    let program = program.split('-').next().unwrap_or_default();
    let without = std::env::var("SOCKSTRACE_WITHOUT").unwrap_or_default();
    let unwanted = without.split(',').any(|word| word == program);
    if unwanted {
        eprintln!("real_programs: not run, as SOCKSTRACE_WITHOUT has it: {program}");
    }
    unwanted
}

/// Names are asked of the world's own name server, which nobody else can reach. The thread's next world
/// starts from this one's mounts: they are undone in the end.
#[derive(Debug, Default)]
struct NameService(Vec<CString>);

impl NameService {
    fn new(dir: &Path) -> Self {
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
        let mut mounted = Self::default();
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        for (name, text) in [
            ("resolv.conf", format!("nameserver {NAMES}\noptions timeout:1 attempts:1\n")),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
            // Git asks for the machine's own name, for who committed; Firefox does too.
            ("hosts", format!("127.0.0.1 localhost {}\n", hostname.trim())),
        ] {
            let file = dir.join(name);
            fs::write(&file, text).unwrap();
            let target = Path::new("/etc").join(name);
            // What the link leads to, where it is one.
            let target = fs::canonicalize(&target).unwrap_or_else(|error| panic!("/etc/{name}: {error}"));
            let [file, target] =
                [file, target].map(|path| CString::new(path.into_os_string().into_encoded_bytes()).unwrap());
            mount(&file, &target, libc::MS_BIND);
            mounted.0.push(target);
        }
        mounted
    }
}

impl Drop for NameService {
    fn drop(&mut self) {
        for target in &self.0 {
            // SAFETY: a string.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) {
    // SAFETY: two strings; the other arguments may be null.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), flags, ptr::null()) };
    assert_eq!(result, 0, "mounting on {target:?}: {}", Error::last_os_error());
}

type Requests = Arc<Mutex<Vec<Request>>>;

/// Serves each connection on a thread of its own. The threads stay until the test ends.
fn serve(
    address: Ipv4Addr,
    port: u16,
    requests: &Requests,
    handle: impl Fn(TcpStream, &Requests) -> Option<()> + Send + Sync + Copy + 'static,
) {
    let listener = TcpListener::bind((address, port)).unwrap_or_else(|e| panic!("{address}:{port}: {e}"));
    let requests = Arc::clone(requests);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let requests = Arc::clone(&requests);
            thread::spawn(move || handle(stream, &requests));
        }
    });
}

/// Start line, headers in lower case, and the reader at the body.
fn head(stream: &TcpStream) -> Option<(String, Vec<String>, BufReader<TcpStream>)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let first = lines.first()?.clone();
    Some((first, lines.iter().skip(1).map(|line| line.to_ascii_lowercase()).collect(), reader))
}

fn web(mut stream: TcpStream, requests: &Requests) -> Option<()> {
    let from_proxy = matches!(stream.peer_addr().ok()?, SocketAddr::V4(peer) if IpAddr::V4(*peer.ip()) == PROXY);
    let (first, headers, mut reader) = head(&stream)?;
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name).map(str::trim));
    let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    requests.lock().unwrap().push(Request {
        line: format!("{method} {path}"),
        proxied: from_proxy || header("via:").is_some(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let (status, kind, content) = match (method, path.split('?').next()?) {
        ("GET", "/") => ("200 OK", "text/html; charset=utf-8", PAGE.as_bytes().to_vec()),
        ("POST", "/report") => ("200 OK", "text/plain", Vec::new()),
        ("GET", path) => match repository_file(path) {
            Some(content) => ("200 OK", "application/octet-stream", content),
            None => ("404 Not Found", "text/plain", b"nothing here\n".to_vec()),
        },
        _ => ("405 Method Not Allowed", "text/plain", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&content).ok()
}

/// A request by absolute URI, or CONNECT.
fn http_proxy(mut stream: TcpStream) -> Option<()> {
    let (first, headers, mut reader) = head(&stream)?;
    let mut words = first.split(' ');
    let (method, uri) = (words.next()?, words.next()?);
    let mut upstream;
    if method == "CONNECT" {
        upstream = TcpStream::connect(uri).ok()?;
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    } else {
        let rest = uri.strip_prefix("http://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        upstream = TcpStream::connect(address).ok()?;
        let kept = headers.iter().filter(|line| !line.starts_with("connection:") && !line.starts_with("proxy-"));
        let headers = kept.fold(String::new(), |text, line| text + line + "\r\n");
        let request = format!("{method} /{path} HTTP/1.1\r\nVia: 1.1 test\r\nConnection: close\r\n{headers}\r\n");
        upstream.write_all(request.as_bytes()).ok()?;
    }
    let mut back = upstream.try_clone().ok()?;
    let mut client = stream.try_clone().ok()?;
    thread::spawn(move || {
        let _ = std::io::copy(&mut reader, &mut upstream);
        upstream.shutdown(std::net::Shutdown::Write)
    });
    let _ = std::io::copy(&mut back, &mut client);
    client.shutdown(std::net::Shutdown::Both).ok()
}

/// A file of the git repository that is served as plain files ("dumb" HTTP).
fn repository_file(path: &str) -> Option<Vec<u8>> {
    if path.contains("..") {
        return None;
    }
    let relative = path.strip_prefix("/repository.git/")?;
    fs::read(Path::new(env!("CARGO_TARGET_TMPDIR")).join("real/repository.git").join(relative)).ok()
}

/// All that can be said about a run in a failure's text.
pub fn described(outcome: &Outcome) -> String {
    let tail: Vec<&str> = outcome.stderr.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    format!("{outcome:?}\n  stderr's end:\n    {}", tail.join("\n    "))
}
