//! A network namespace of the calling thread's own, with foreign addresses that exist, a proxy, and
//! witnesses that see whatever arrives. No packet ever leaves it.

use super::capture::{Capture, Packet, widen_buffer};
use super::{ALLOWED_PORT, FOREIGN4, FOREIGN6, PORT, PROXY_PORT, PROXY4, PROXY6};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Interfaces and addresses. veth0 is the interface that isn't loopback; what it sends comes in at veth1.
/// There is a neighbour who would take packets for 127.0.0.1.
const INTERFACES: &str = "\
link set lo up
addr add 203.0.113.5/32 dev lo
addr add 203.0.113.9/32 dev lo
addr add 2001:db8::5/128 dev lo nodad
addr add 2001:db8::9/128 dev lo nodad
link add veth0 type veth peer name veth1
link set veth0 addrgenmode none
link set veth1 addrgenmode none
addr add 198.51.100.1/24 broadcast 198.51.100.255 dev veth0
addr add fe80::5/64 dev veth0 nodad
link set veth0 up
neigh add 127.0.0.1 lladdr 02:00:00:00:00:09 dev veth0
link set veth1 up
route add 224.0.0.0/4 dev veth0
";

const SETTINGS: &[(&str, &str)] = &[
    // Client and server, data in the SYN without a cookie on both sides.
    ("net/ipv4/tcp_fastopen", "1543"),
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/all/seg6_enabled", "1"),
    ("net/ipv6/conf/lo/seg6_enabled", "1"),
];

/// The namespace, its witnesses, and a directory for one run.
#[derive(Debug)]
pub struct Stage {
    /// An empty directory for the run, `/tmp/sst-…`; removed in the end.
    pub dir: PathBuf,
    capture: Capture,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    proxies: Vec<TcpListener>,
    allowed: Vec<UdpSocket>,
    unix: Option<UnixWitnesses>,
    /// The witness's ends of connections that the harness made.
    inherited: RefCell<Vec<TcpStream>>,
    servers: Vec<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct UnixWitnesses {
    leak: Vec<UnixListener>,
    leak_dgram: UnixDatagram,
    // Held open: the program may connect.
    _ok: UnixListener,
    ok_dgram: UnixDatagram,
}

/// What arrived.
#[derive(Default)]
pub struct Truth {
    /// Every packet that is part of a leak.
    pub packets: Vec<Packet>,
    /// Payloads of connections at the witnesses.
    pub tcp: Vec<Vec<u8>>,
    /// Datagrams at the witnesses.
    pub udp: Vec<Vec<u8>>,
    /// Payloads at the UNIX witnesses.
    pub unix: Vec<Vec<u8>>,
    /// Connections to the proxy and datagrams to allowed addresses.
    pub allowed: usize,
}

impl Truth {
    /// Everything that shouldn't have arrived, in words; empty when nothing did.
    pub fn foreign(&self) -> Vec<String> {
        let mut all: Vec<String> = self.packets.iter().map(|packet| format!("packet {packet:?}")).collect();
        all.extend(self.tcp.iter().map(|payload| format!("TCP {:?}", String::from_utf8_lossy(payload))));
        all.extend(self.udp.iter().map(|payload| format!("UDP {:?}", String::from_utf8_lossy(payload))));
        all.extend(self.unix.iter().map(|payload| format!("UNIX {:?}", String::from_utf8_lossy(payload))));
        all
    }

    /// Adds what arrived later.
    pub fn add(&mut self, later: Self) {
        self.packets.extend(later.packets);
        self.tcp.extend(later.tcp);
        self.udp.extend(later.udp);
        self.unix.extend(later.unix);
        self.allowed += later.allowed;
    }
}

impl fmt::Debug for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let foreign = self.foreign();
        let shown = &foreign[..foreign.len().min(6)];
        write!(f, "{} foreign arrivals {shown:?}, {} allowed", foreign.len(), self.allowed)
    }
}

/// Tells directories of one test binary apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Stage {
    /// Takes the calling thread into a new network namespace. Threads and processes that it starts from
    /// now on are in it too.
    ///
    /// # Panics
    /// Where that is not permitted: tests need root (or a user namespace, see [`super::cases`]).
    pub fn new() -> Self {
        // SAFETY: no memory is involved; a network namespace is a thread's own.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(unshared, 0, "a network namespace needs root: {}", Error::last_os_error());
        let mut ip =
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2 is needed");
        ip.stdin.take().unwrap().write_all(INTERFACES.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "ip -batch failed");
        // In a user namespace only groups that exist there can be named.
        let ping_groups = "/proc/sys/net/ipv4/ping_group_range";
        fs::write(ping_groups, "0 2147483647").or_else(|_| fs::write(ping_groups, "0 0")).unwrap();
        for (name, value) in SETTINGS {
            fs::write(Path::new("/proc/sys").join(name), value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let dir = format!("/tmp/sst-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let stage = Self {
            dir: dir.into(),
            capture: Capture::new(),
            tcp: vec![listen(&format!("[::]:{PORT}")), listen("[::]:53")],
            udp: vec![receive(&format!("[::]:{PORT}")), receive("[::]:53")],
            proxies: vec![listen(&format!("{PROXY4}:{PROXY_PORT}")), listen(&format!("[{PROXY6}]:{PROXY_PORT}"))],
            allowed: vec![
                receive(&format!("{PROXY4}:{ALLOWED_PORT}")),
                receive(&format!("[{PROXY6}]:{ALLOWED_PORT}")),
            ],
            unix: None,
            inherited: RefCell::default(),
            servers: Vec::new(),
            stop: Arc::default(),
        };
        stage.wait_for_ipv6();
        stage.truth();
        stage
    }

    /// The kernel inserts an IPv6 address's local route by a worker, a moment after the address can be
    /// bound to (`addrconf_dad_work`, even with nodad): what is sent before is lost. Where many namespaces are
    /// made and torn down, the worker waits its turn.
    fn wait_for_ipv6(&self) {
        let link = format!("fe80::5%{}", interface_index("veth0"));
        let receivers =
            [(&self.udp[0], FOREIGN6, PORT), (&self.udp[0], &link, PORT), (&self.allowed[1], PROXY6, ALLOWED_PORT)];
        for (receiver, ip, port) in receivers {
            let start = Instant::now();
            let mut buffer = [0; 8];
            while receiver.recv(&mut buffer).is_err() {
                assert!(start.elapsed() < Duration::from_secs(30), "IPv6 does not come up: {ip}");
                let probe = UdpSocket::bind("[::]:0").unwrap();
                let _ = probe.send_to(b"probe", format!("[{ip}]:{port}").parse::<SocketAddr>().unwrap());
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Adds UNIX sockets to the directory: see `tests/programs/vectors/unix.c`.
    pub fn add_unix(&mut self) {
        let dir = &self.dir;
        let jail = dir.join("jail").join(dir.strip_prefix("/").unwrap());
        fs::create_dir_all(&jail).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        symlink("leak.sock", dir.join("ok.link")).unwrap();
        let mut leak: Vec<UnixListener> = [dir.join("leak.sock"), jail.join("ok.sock")]
            .iter()
            .map(|path| UnixListener::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
            .collect();
        for name in [&b"sockstrace-leak"[..], b"ok\0leak"] {
            leak.push(UnixListener::bind_addr(&UnixAddr::from_abstract_name(name).unwrap()).unwrap());
        }
        for listener in &leak {
            listener.set_nonblocking(true).unwrap();
            widen(listener.as_raw_fd());
        }
        let ok = UnixListener::bind(dir.join("ok.sock")).unwrap();
        widen(ok.as_raw_fd());
        let leak_dgram = UnixDatagram::bind(dir.join("leak.dgram")).unwrap();
        let ok_dgram = UnixDatagram::bind(dir.join("ok.dgram")).unwrap();
        leak_dgram.set_nonblocking(true).unwrap();
        ok_dgram.set_nonblocking(true).unwrap();
        for name in ["leak.sock", "ok.sock", "leak.dgram", "ok.dgram"] {
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::set_permissions(jail.join("ok.sock"), fs::Permissions::from_mode(0o777)).unwrap();
        self.unix = Some(UnixWitnesses { leak, leak_dgram, _ok: ok, ok_dgram });
    }

    /// Accepts connections from now on (until then they wait in queues of 4,096, which suffices for most
    /// tests). Of connections to the witnesses, the truth then shows the packets alone.
    pub fn serve(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        for listener in self.proxies.iter().chain(&self.tcp) {
            let (listener, stopping) = (listener.try_clone().unwrap(), Arc::clone(&stop));
            self.servers.push(thread::spawn(move || {
                // Clients may send: the latest connections stay open.
                let mut open = VecDeque::new();
                while !stopping.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => open.push_back(stream),
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                    if open.len() > 1500 {
                        open.pop_front();
                    }
                }
            }));
        }
        self.stop = stop;
    }

    /// The listening sockets of the proxy.
    pub fn proxy_listeners(&self) -> Vec<TcpListener> {
        self.proxies.iter().map(|listener| listener.try_clone().unwrap()).collect()
    }

    /// What arrived since the last time.
    pub fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        for listener in &self.tcp {
            truth.tcp.extend(payloads(|| listener.accept().map(|(stream, _)| stream), TcpStream::set_nonblocking));
        }
        for end in self.inherited.borrow_mut().iter_mut() {
            let mut payload = Vec::new();
            let _ = end.read_to_end(&mut payload);
            truth.tcp.extend((!payload.is_empty()).then_some(payload));
        }
        truth.udp.extend(self.udp.iter().flat_map(|socket| datagrams(|buffer| socket.recv(buffer))));
        let proxied = self
            .proxies
            .iter()
            .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
            .sum::<usize>();
        let sent = self.allowed.iter().map(|socket| datagrams(|buffer| socket.recv(buffer)).len()).sum::<usize>();
        truth.allowed = proxied + sent;
        if let Some(unix) = &self.unix {
            for listener in &unix.leak {
                let accept = || listener.accept().map(|(stream, _)| stream);
                truth.unix.extend(payloads(accept, std::os::unix::net::UnixStream::set_nonblocking));
            }
            truth.unix.extend(datagrams(|buffer| unix.leak_dgram.recv(buffer)));
            truth.allowed += datagrams(|buffer| unix.ok_dgram.recv(buffer)).len();
        }
        truth.packets = self.capture.drain();
        truth.packets.retain(Packet::is_foreign);
        truth
    }

    /// A connection to the witness, made by the harness; it isn't part of the truth.
    pub fn connect_tcp(&self) -> TcpStream {
        let stream = TcpStream::connect((FOREIGN4, PORT)).unwrap();
        let (end, _) = self.tcp[0].accept().unwrap();
        end.set_nonblocking(true).unwrap();
        self.inherited.borrow_mut().push(end);
        self.capture.drain(); // the handshake
        stream
    }

    /// A UDP socket connected to the witness.
    pub fn connect_udp() -> UdpSocket {
        let socket = UdpSocket::bind((FOREIGN4, 0)).unwrap();
        socket.connect((FOREIGN4, PORT)).unwrap();
        socket
    }

    /// A listening socket on every address, for the program to inherit.
    pub fn listener() -> TcpListener {
        TcpListener::bind(("0.0.0.0", super::LISTEN_PORT)).unwrap()
    }

    /// Addresses at which the harness tries to reach a program that listens.
    pub fn own_addresses(port: u16) -> [SocketAddr; 4] {
        [FOREIGN4, "127.0.0.1", FOREIGN6, "::1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            let _ = server.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn listen(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    listener.set_nonblocking(true).unwrap();
    widen(listener.as_raw_fd());
    let queue: i32 = 1024;
    // SAFETY: the option is an int.
    let set = unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size,
        )
    };
    assert_eq!(set, 0, "TCP_FASTOPEN: {}", Error::last_os_error());
    listener
}

fn interface_index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: the name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// A longer queue of connections that nobody accepted yet.
fn widen(listener: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::listen(listener, 4096) }, 0);
}

/// A UDP socket that loses nothing.
pub fn receive(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_nonblocking(true).unwrap();
    widen_buffer(socket.as_raw_fd(), 64 << 20);
    socket
}

/// What all waiting connections sent.
fn payloads<S: Read>(
    mut accept: impl FnMut() -> std::io::Result<S>,
    set_nonblocking: impl Fn(&S, bool) -> std::io::Result<()>,
) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Ok(mut stream) = accept() {
        set_nonblocking(&stream, true).unwrap();
        let mut payload = Vec::new();
        match stream.read_to_end(&mut payload) {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
                panic!("witness: {error}")
            }
            _ => all.push(payload),
        }
    }
    all
}

fn datagrams(mut receive: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| receive(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}
