//! Two network namespaces joined by one link: the program is alone in one, all else is in the other.

use crate::support::capture::{Capture, Packet};
use crate::support::run::{Run, patience};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Error};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where the proxies are.
pub const PROXY: &str = "203.0.113.9";

/// The names that proxies know, as those of `services.py` do, and nobody else.
const HOSTS: &str = "127.0.0.1 localhost\n203.0.113.5 www.site.example\n2001:db8::5 six.site.example\n";

/// What is outside: services and proxies.
pub struct World {
    /// An empty directory, removed in the end.
    pub dir: PathBuf,
    /// The witness on the program's side of the link.
    capture: Capture,
    /// TCP connections of untraced runs: their last packets may come seconds later.
    untraced: RefCell<HashSet<[SocketAddr; 2]>>,
    outside: Child,
    others: Vec<Child>,
}

fn unshare() {
    // SAFETY: no memory is involved; a network namespace is a thread's own.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(unshared, 0, "a network namespace needs root: {}", Error::last_os_error());
}

fn ip(commands: &str, inside_of: Option<u32>) {
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut command = match inside_of {
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", &pid.to_string(), "-n", "ip"]);
                command
            }
            None => Command::new("ip"),
        };
        let status = command.args(line.split_whitespace()).status().expect("iproute2 is needed");
        assert!(status.success(), "ip {line}");
    }
}

/// `tests/programs/redirect/NAME`
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/redirect").join(name)
}

impl World {
    /// Takes the calling thread into the inner namespace.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/ssw-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("hosts"), HOSTS).unwrap();
        unshare();
        ip(
            "link set lo up
             addr add 203.0.113.5/32 dev lo
             addr add 203.0.113.9/32 dev lo
             addr add 2001:db8::5/128 dev lo nodad
             addr add 2001:db8::9/128 dev lo nodad",
            None,
        );
        let mut outside = Command::new("/usr/bin/python3")
            .arg(program("services.py"))
            .arg(dir.join("log"))
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("real"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed");
        let mut line = String::new();
        BufReader::new(outside.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        // Any user may use the proxy there.
        fs::set_permissions(dir.join("log.sock"), fs::Permissions::from_mode(0o777)).unwrap();
        unshare();
        ip(
            &format!(
                "link set lo up
                 link add veth0 type veth peer name veth1 netns {}
                 addr add 198.51.100.1/24 dev veth0
                 addr add 2001:db8:1::1/64 dev veth0 nodad
                 link set veth0 up",
                outside.id()
            ),
            None,
        );
        ip(
            "addr add 198.51.100.2/24 dev veth1
             addr add 2001:db8:1::2/64 dev veth1 nodad
             link set veth1 up",
            Some(outside.id()),
        );
        ip("route add default via 198.51.100.2\n-6 route add default via 2001:db8:1::2", None);
        let untraced = RefCell::default();
        let world = Self { dir, capture: Capture::new(), untraced, outside, others: Vec::new() };
        // The link comes up a moment later.
        Self::wait_for("2001:db8::9", 1080);
        Self::wait_for(PROXY, 1080);
        world.strangers();
        world
    }

    /// Starts another proxy outside.
    pub fn start<S: AsRef<std::ffi::OsStr>>(&mut self, words: impl IntoIterator<Item = S>, port: u16) {
        let log = fs::File::create(self.dir.join(format!("proxy-{port}"))).unwrap();
        let proxy = self.outside().args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.others.push(proxy.unwrap());
        Self::wait_for(PROXY, port);
    }

    /// What is run outside, where names are known.
    fn outside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.outside.id().to_string(), "-n", "--", "unshare", "-m", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"").arg(self.dir.join("hosts"));
        command.current_dir(&self.dir);
        command
    }

    /// A Tor network outside, with its SocksPort at port 9050: the name of an onion service in front of the services.
    pub fn start_tor(&mut self) -> String {
        let log = fs::File::create(self.dir.join("tor.log")).unwrap();
        let mut tor = self.outside();
        tor.arg("/usr/bin/python3").arg(program("tornet.py")).arg(self.dir.join("tor"));
        let mut tor = tor.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut name = String::new();
        BufReader::new(tor.stdout.take().unwrap()).read_line(&mut name).unwrap();
        self.others.push(tor);
        let log = || fs::read_to_string(self.dir.join("tor.log")).unwrap();
        assert!(name.ends_with(".onion\n"), "no Tor network: {name:?} {}", log());
        name.trim().to_owned()
    }

    /// Starts a real proxy outside, by its name: its URL.
    pub fn start_proxy(&mut self, name: &str) -> String {
        let dir = self.dir.display().to_string();
        let (url, port, command) = match name {
            "microsocks" => ("socks5://203.0.113.9:2001", 2001, "microsocks -p 2001".to_owned()),
            "microsocks-password" => {
                let command = "microsocks -p 2002 -u us:er -P s3cret".to_owned();
                ("socks5://us%3Aer:s3cret@203.0.113.9:2002", 2002, command)
            }
            "dante" => {
                let config = "logoutput: stderr\ninternal: 203.0.113.9 port = 2003\nexternal: lo\nclientmethod: none\n\
                     socksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
                     client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n";
                fs::write(self.dir.join("danted.conf"), config).unwrap();
                ("socks5://203.0.113.9:2003", 2003, format!("danted -f {dir}/danted.conf"))
            }
            "tinyproxy" => {
                let config = "Port 2004\nListen 203.0.113.9\nTimeout 60\nMaxClients 100\nLogLevel Error\n";
                fs::write(self.dir.join("tinyproxy.conf"), config).unwrap();
                ("http://203.0.113.9:2004", 2004, format!("tinyproxy -d -c {dir}/tinyproxy.conf"))
            }
            "ssh" => {
                self.start_sshd();
                let command = format!(
                    "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o LogLevel=ERROR \
                     -F none -N -p 2006 -i {dir}/key -D 203.0.113.9:2005 203.0.113.9"
                );
                ("socks5://203.0.113.9:2005", 2005, command)
            }
            other => panic!("no such proxy: {other}"),
        };
        self.start(command.split_whitespace(), port);
        url.to_owned()
    }

    /// An ssh server of the test's own, with a key of its own.
    fn start_sshd(&mut self) {
        let dir = self.dir.display().to_string();
        for key in ["key", "host"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(self.dir.join(key))
                .status();
            assert!(made.is_ok_and(|status| status.success()), "openssh-client is needed");
        }
        fs::copy(self.dir.join("key.pub"), self.dir.join("authorized")).unwrap();
        let config = format!(
            "Port 2006\nListenAddress 203.0.113.9\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n"
        );
        fs::write(self.dir.join("sshd.conf"), config).unwrap();
        let _ = fs::create_dir_all("/run/sshd");
        self.start(["/usr/sbin/sshd", "-D", "-e", "-f", &format!("{dir}/sshd.conf")], 2006);
    }

    fn wait_for(address: &str, port: u16) {
        let start = Instant::now();
        while std::net::TcpStream::connect((address, port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "nobody answers at {address} {port}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A run of `tests/programs/redirect/cases.py`: natively, or redirected by this proxy.
    pub fn run(&self, backend: Option<&str>, proxy: &str, cases: &[&str]) -> Run {
        let run = Run::maybe(backend, &self.dir).args(["--stack=never", "--on-leak=redirect"]);
        let words = ["/usr/bin/python3".into(), program("cases.py").into_os_string()];
        let words = words.into_iter().chain(cases.iter().map(Into::into));
        run.arg(format!("--proxy={proxy}")).program(words).deadline(Duration::from_secs(60))
    }

    /// Packets on the link, or on the program's loopback from or to other addresses than loopback's own, that
    /// have nothing to do with a proxy.
    pub fn strangers(&self) -> Vec<Packet> {
        let proxies = ["203.0.113.9", "2001:db8::9"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let is_strange = |packet: &Packet| match packet.addresses {
            Some((source, destination)) => {
                let with_proxy = [source, destination].iter().any(|ip| proxies.contains(ip));
                let local = |ip: IpAddr| {
                    ip.is_loopback()
                        || ["198.51.100.1", "2001:db8:1::1"].iter().any(|own| ip == own.parse::<IpAddr>().unwrap())
                };
                // Neighbour discovery belongs to nobody.
                !(with_proxy || packet.protocol == 58 || local(source) && local(destination))
            }
            None => false,
        };
        let untraced = self.untraced.borrow();
        let is_new = |packet: &Packet| flow(packet).is_none_or(|flow| !untraced.contains(&flow));
        self.capture.drain().into_iter().filter(is_strange).filter(is_new).collect()
    }

    /// The packets of an untraced run that has ended. What still comes on its connections is nobody's later.
    pub fn natives(&self) -> Vec<Packet> {
        let begun = Instant::now();
        let mut packets = Vec::new();
        // On a busy machine they come late.
        while packets.is_empty() && begun.elapsed() < patience(Duration::from_secs(3)) {
            thread::sleep(Duration::from_millis(100));
            packets = self.strangers();
        }
        self.untraced.borrow_mut().extend(packets.iter().filter_map(flow));
        packets
    }

    /// What the proxies of `services.py` were asked for since the last time.
    pub fn asked(&self) -> Vec<String> {
        let log = self.dir.join("log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        text.lines().map(str::to_owned).collect()
    }
}

/// The two ends of a TCP connection, in either direction the same.
fn flow(packet: &Packet) -> Option<[SocketAddr; 2]> {
    let (source, destination) = packet.addresses.filter(|_| packet.protocol == 6)?;
    let mut ends = [SocketAddr::new(source, packet.ports.0), SocketAddr::new(destination, packet.ports.1)];
    ends.sort();
    Some(ends)
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.others.iter_mut().chain([&mut self.outside]) {
            // Those that read their input end themselves, and what they have started.
            if child.stdin.take().is_none() {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
