//! Running one row in one mode, and judging what was seen.

use super::redirected;
use super::sink::Sink;
use super::support::lsm_works;
use super::support::programs::programs;
use super::support::run::{Event, Outcome, Run, Status};
use super::support::stage::{Stage, Truth};
use super::support::{LISTEN_PORT, TOKEN};
use super::table::{At, Binary, Exception, Fixture, Handed, Native, Seen, Vector};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, IoSlice, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The option that puts processes of an ordinary user within reach.
pub const USER_NAMESPACE: &str = "--user-namespace";

/// How a row is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without sockstrace.
    Native,
    /// `--on-leak log` with this backend.
    Log(&'static str),
    /// `--on-leak block`
    Block(&'static str),
    /// `--on-leak kill-tree`
    KillTree(&'static str),
    /// `--on-leak redirect`
    Redirect(&'static str),
}

impl Mode {
    fn action(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Native => None,
            Self::Log(backend) => Some((backend, "log")),
            Self::Block(backend) => Some((backend, "block")),
            Self::KillTree(backend) => Some((backend, "kill-tree")),
            Self::Redirect(backend) => Some((backend, "redirect")),
        }
    }
}

/// Whether the kernel can do what a probe asks; asked once.
pub fn is_available(probe: &'static str) -> bool {
    static KNOWN: Mutex<BTreeMap<&str, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    *known.entry(probe).or_insert_with(|| {
        // In a thread: the stage takes its thread into another namespace.
        thread::spawn(move || match probe {
            "probe-i386" => programs().vectors32.is_some(),
            "probe-no-x32" => !can(&programs().vectors, "x32-connect"),
            probe => can(&programs().vectors, probe),
        })
        .join()
        .unwrap()
    })
}

fn can(program: &Path, probe: &str) -> bool {
    let stage = Stage::new();
    let outcome = Run::native(&stage.dir).program([program.as_os_str(), probe.as_ref()]).run();
    outcome.status == Status::Exited(0)
}

/// Rows that can't be run here, with the probe that failed.
pub fn skipped(rows: &[Vector]) -> Vec<(String, &'static str)> {
    let missing = |row: &Vector| row.needs.filter(|probe| !is_available(probe));
    rows.iter().filter_map(|row| Some((row.name(), missing(row)?))).collect()
}

/// Runs one row.
pub fn check(row: &Vector, mode: Mode, user: Option<u32>) -> Result<(), String> {
    let mut row = row.clone();
    if matches!(mode, Mode::Redirect(_)) {
        redirected::adapt(&mut row);
    }
    if user.is_some() && row.excepts(|it| *it == Exception::OutOfReach) && !row.options.contains(&USER_NAMESPACE) {
        row.address = At::Any;
    }
    if row.excepts(|it| *it == Exception::OwnTable) && !is_available("probe-pidfd-thread") {
        row = Vector { address: At::Any, ..row }
            .except(Exception::MayBeRefusedInLog("out of reach before Linux 6.9"));
    }
    if let Mode::Block(backend) | Mode::KillTree(backend) | Mode::Redirect(backend) = mode
        && row.excepts(|it| match it {
            Exception::SocketRefused(name) => *name == backend,
            Exception::OddSocket(name) => *name == backend && !lsm_works(),
            _ => false,
        })
    {
        (row.calls, row.address) = (&["socket"], At::Any);
    }
    // Rings don't wait for a proxy.
    let judges_rings = |(backend, action)| backend == "ebpf" && action != "redirect";
    let by_lsm = mode.action().is_some_and(judges_rings) && lsm_works();
    if row.excepts(|it| *it == Exception::OfRing) {
        if by_lsm {
            row.calls = &row.calls[1..];
        } else if mode != Mode::Log("ebpf") {
            (row.address, row.class) = (At::Any, "outbound");
        } else if row.excepts(|it| *it == Exception::UnseenInLog("ebpf")) {
            println!("skipped: {} in log mode: this kernel takes no LSM programs", row.name());
            return Ok(());
        }
    }
    // That a race is won at all is left to chance; that it is lost under block isn't.
    let chances = match mode {
        Mode::Native | Mode::Log(_) if row.excepts(|it| matches!(it, Exception::AnyStatus(_))) => 3,
        _ => 1,
    };
    let mut last = Ok(());
    for _ in 0..chances {
        last = check_once(&row, mode, user);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn check_once(row: &Vector, mode: Mode, user: Option<u32>) -> Result<(), String> {
    let mut stage = Stage::new();
    let sink = matches!(mode, Mode::Redirect(_)).then(|| Sink::start(&stage));
    let (outcome, mut truth, served) = perform(&mut stage, row, mode, user);
    let passed = sink.map(Sink::finish).unwrap_or_default();
    let mut wrong = Vec::new();
    match mode {
        Mode::Native => natively(row, &outcome, &truth, served, &mut wrong),
        Mode::Log(backend) => log(row, backend, &outcome, &truth, served, &mut wrong),
        Mode::Block(backend) => block(row, backend, &outcome, &truth, served, &mut wrong),
        Mode::KillTree(backend) => kill_tree(row, backend, &outcome, &truth, served, &mut wrong),
        Mode::Redirect(backend) => {
            truth.packets.retain(|packet| !packet.is_within());
            redirected::redirect(row, backend, &outcome, &truth, served, &passed, &mut wrong);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut text = wrong.join("; ");
    write!(text, "\n  truth: {truth:?}{}\n  {outcome:?}\n", if served { ", served" } else { "" }).unwrap();
    Err(text)
}

/// Runs a row; what became of it, what arrived, and whether the outside was served.
pub fn perform(stage: &mut Stage, row: &Vector, mode: Mode, user: Option<u32>) -> (Outcome, Truth, bool) {
    let programs = programs();
    let program = match row.binary {
        Binary::Wide => programs.vectors.clone(),
        Binary::Static => programs.vectors_static.clone(),
        Binary::Narrow => programs.vectors32.clone().expect("filtered by probe-i386"),
    };
    let mut words = vec![program, row.guest.into()];
    let mut run = Run::maybe(mode.action().map(|(backend, _)| backend), &stage.dir);
    if let Some((_, action)) = mode.action() {
        run = run.on_leak(action).allow_stage().args(row.options);
    }
    if let Some(user) = user {
        run = run.user(user);
    }
    // Held open until the truth is known.
    let mut held: Vec<OwnedFd> = Vec::new();
    match row.fixture {
        Fixture::None => {}
        Fixture::ConnectedTcp(number) => {
            held.push(stage.connect_tcp().into());
            words.push(number.to_string().into());
        }
        Fixture::ConnectedUdp(number) => {
            held.push(Stage::connect_udp().into());
            words.push(number.to_string().into());
        }
        Fixture::FreshTcp(number) => {
            held.push(fresh_tcp());
            words.push(number.to_string().into());
        }
        Fixture::Listener(number) => {
            held.push(Stage::listener().into());
            words.push(number.to_string().into());
        }
        Fixture::BoundPacket(number) => {
            held.push(bound_packet());
            words.push(number.to_string().into());
        }
        Fixture::Ring(number) => {
            let (ring, parameters) = ring();
            held.push(ring);
            words.push(number.to_string().into());
            words.push(parameters.into());
        }
        Fixture::Outside => {
            held.push(stage.connect_tcp().into());
            words.push(std::process::id().to_string().into());
            words.push(held[0].as_raw_fd().to_string().into());
        }
        Fixture::Handed(what) => give(stage, what),
        Fixture::Unix => {
            stage.add_unix();
            run = run.arg(format!("--allow=unix:{}/ok.*", stage.dir.display()));
        }
    }
    if let Fixture::ConnectedTcp(number)
    | Fixture::ConnectedUdp(number)
    | Fixture::FreshTcp(number)
    | Fixture::Listener(number)
    | Fixture::BoundPacket(number)
    | Fixture::Ring(number) = row.fixture
    {
        run = run.inherit(&held[0], number);
    }
    let running = run.program(words).start();
    let client = Client::start(row.seen, stage.dir.clone());
    let outcome = running.finish();
    let served = client.is_some_and(Client::stop);
    let mut truth = stage.truth();
    // What is sent is seen at once, but a receiver may get it a moment later on a busy machine.
    let start = Instant::now();
    while mode == Mode::Native
        && !arrived(row, &truth, &outcome, served)
        && start.elapsed() < Duration::from_secs(1)
    {
        thread::sleep(Duration::from_millis(5));
        truth.add(stage.truth());
    }
    (outcome, truth, served)
}

/// Hands a socket over to the first who connects.
fn give(stage: &Stage, what: Handed) {
    let socket: OwnedFd = match what {
        Handed::ConnectedTcp => stage.connect_tcp().into(),
        Handed::ConnectedUdp => Stage::connect_udp().into(),
        Handed::FreshTcp => fresh_tcp(),
        Handed::FreshUdp => UdpSocket::bind("0.0.0.0:0").unwrap().into(),
    };
    let path = stage.dir.join("giver.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    // It waits for ever where nobody may connect; the test doesn't wait for it.
    thread::spawn(move || {
        let taker = listener.accept().unwrap().0;
        let (data, fds) = ([IoSlice::new(b"x")], [socket.as_raw_fd()]);
        sendmsg::<()>(taker.as_raw_fd(), &data, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None)
            .unwrap();
    });
}

fn fresh_tcp() -> OwnedFd {
    // SAFETY: no memory is involved, and the descriptor is new.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn bound_packet() -> OwnedFd {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: the address outlives the call, and its length is given; the descriptor is new.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
        assert!(fd >= 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = 1; // lo, in each network namespace
        let length = size_of_val(&address) as u32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// An `io_uring` of eight entries, and `struct io_uring_params` in hexadecimal.
fn ring() -> (OwnedFd, String) {
    let mut parameters = [0_u8; 120];
    // SAFETY: the kernel fills the struct, which has this size; the descriptor is new.
    let ring = unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr());
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd as i32)
    };
    (ring, parameters.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Whether the ground truth shows that the vector got through.
pub fn arrived(row: &Vector, truth: &Truth, outcome: &Outcome, served: bool) -> bool {
    let holds = |payload: &Vec<u8>| payload.windows(TOKEN.len()).any(|window| window == TOKEN);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    match row.seen {
        Seen::Tcp => truth.tcp.iter().any(holds),
        Seen::Udp => truth.udp.iter().any(holds),
        Seen::Unix => truth.unix.iter().any(holds),
        Seen::Token => truth.packets.iter().any(|packet| packet.holds(TOKEN)),
        Seen::Packet(protocol, to) => truth.packets.iter().any(|packet| {
            packet.protocol == protocol && packet.addresses.is_some_and(|(_, destination)| destination == ip(to))
        }),
        Seen::Group(protocol, group) => truth.packets.iter().any(|packet| {
            packet.protocol == protocol
                && match ip(group) {
                    IpAddr::V4(ip) => packet.holds(&ip.octets()),
                    IpAddr::V6(ip) => packet.holds(&ip.octets()),
                }
        }),
        Seen::ServedTcp(_) | Seen::ServedUdp(_) => served,
        Seen::Told => outcome.stdout.contains("disclosed"),
        Seen::Nothing => true,
    }
}

/// What may never have happened where a leak is stopped.
pub fn nothing_arrived(row: &Vector, truth: &Truth, outcome: &Outcome, served: bool, wrong: &mut Vec<String>) {
    let foreign = truth.foreign();
    if !foreign.is_empty() {
        wrong.push(format!("LEAK: {} arrivals, first {}", foreign.len(), foreign[0]));
    }
    if served {
        wrong.push("LEAK: the outside was served".into());
    }
    if matches!(row.seen, Seen::Told) && arrived(row, truth, outcome, served) {
        wrong.push("LEAK: the guest learnt what it asked".into());
    }
}

fn natively(row: &Vector, outcome: &Outcome, truth: &Truth, served: bool, wrong: &mut Vec<String>) {
    let expected = i32::from(row.native == Native::Fails);
    if outcome.status != Status::Exited(expected) {
        wrong.push(format!("natively {:?}, not {expected}", outcome.status));
    }
    if row.native == Native::Succeeds && !arrived(row, truth, outcome, served) {
        wrong.push("nothing arrived natively".into());
    }
    if row.native == Native::Fails && !truth.foreign().is_empty() {
        wrong.push("something arrived natively".into());
    }
}

/// The leak event that the row asks for, or why none fits.
fn find<'a>(row: &Vector, backend: &str, outcome: &'a Outcome) -> Result<Vec<&'a Event>, String> {
    let fits = |event: &&Event| {
        (row.calls.is_empty() || row.calls.contains(&event.text("syscall")))
            && row.address.fits(event.text("address"))
            && event.text("class") == row.class
            && event.text("backend") == backend
            && (event.text("abi") == row.abi || event.lacks("syscall"))
    };
    let found: Vec<&Event> = outcome.leaks().filter(fits).collect();
    if found.is_empty() {
        let (calls, address, class, abi) = (row.calls, row.address, row.class, row.abi);
        return Err(format!("no leak event with {calls:?} {address:?} {class} {abi}"));
    }
    Ok(found)
}

/// What every traced run must show: its events, its summary, and nobody left behind.
pub fn traced<'a>(
    row: &Vector,
    backend: &'static str,
    action: &str,
    outcome: &'a Outcome,
    wrong: &mut Vec<String>,
) -> Vec<&'a Event> {
    wrong.extend(outcome.complaints());
    let hopeless = row.excepts(|it| matches!(it, Exception::Hopeless(name, _) if *name == backend));
    if hopeless || row.excepts(|it| matches!(it, Exception::NoEvent(_))) {
        return Vec::new();
    }
    match &outcome.summary {
        Some(summary) => {
            let leaks = outcome.leaks().count() as i64;
            if summary.number("leaks") != Some(leaks) {
                wrong.push(format!("summary tells {:?} leaks, events {leaks}", summary.number("leaks")));
            }
            let flood = row.excepts(|it| *it == Exception::Flood(backend));
            if summary.number("dropped").unwrap_or(0) != 0 && !flood {
                wrong.push("events were dropped".into());
            }
        }
        None => wrong.push("no summary".into()),
    }
    match find(row, backend, outcome) {
        Ok(events) => {
            let start = row.fixture.is_judged_at_start();
            if !start && !events.iter().any(|event| event.text("action") == action) {
                wrong.push(format!("no event with action {action}"));
            }
            if events.iter().any(|event| event.text("reason").is_empty()) {
                wrong.push("no reason given".into());
            }
            if events.iter().any(|event| event.text("reason").contains("a bug of sockstrace")) {
                wrong.push("two judgements differ".into());
            }
            let of_ring = row.excepts(|it| *it == Exception::OfRing) && !row.calls.contains(&"io_uring_setup");
            if of_ring && events.iter().any(|event| event.text("via") != "io_uring") {
                wrong.push("not told as a ring's operation".into());
            }
            events
        }
        Err(text) => {
            wrong.push(text);
            Vec::new()
        }
    }
}

pub fn expect_status(outcome: &Outcome, allowed: &[i32], wrong: &mut Vec<String>) {
    if !outcome.code().is_some_and(|code| allowed.contains(&code)) {
        wrong.push(format!("ended with {:?}, not {allowed:?}", outcome.status));
    }
}

fn log(
    row: &Vector,
    backend: &'static str,
    outcome: &Outcome,
    truth: &Truth,
    served: bool,
    wrong: &mut Vec<String>,
) {
    let events = traced(row, backend, "continue", outcome, wrong);
    if row.excepts(|it| matches!(it, Exception::MayBeRefusedInLog(_))) && outcome.code() == Some(1) {
        // The refusal shows as another action.
        wrong.retain(|text| !text.starts_with("no event with action"));
        return nothing_arrived(row, truth, outcome, served, wrong);
    }
    if row.excepts(|it| matches!(it, Exception::Hopeless(name, _) if *name == backend)) {
        return nothing_arrived(row, truth, outcome, served, wrong);
    }
    let succeeds = row.native == Native::Succeeds;
    if succeeds && !arrived(row, truth, outcome, served) {
        wrong.push("in log mode it did not arrive".into());
    }
    expect_status(outcome, &[if succeeds { 23 } else { 1 }], wrong);
    if let Some((call, class)) = row.also
        && !outcome.leaks().any(|event| event.text("syscall") == call && event.text("class") == class)
    {
        wrong.push(format!("no leak event with {call} {class}"));
    }
    if events.iter().any(|event| event.text("errno") == "EPERM") && succeeds {
        wrong.push("refused in log mode".into());
    }
}

pub fn block(
    row: &Vector,
    backend: &'static str,
    outcome: &Outcome,
    truth: &Truth,
    served: bool,
    wrong: &mut Vec<String>,
) {
    let events = traced(row, backend, "block", outcome, wrong);
    nothing_arrived(row, truth, outcome, served, wrong);
    if !row.excepts(|it| matches!(it, Exception::AnyStatus(_))) {
        // 1 is the guest's own word for refused; 23 means that it ended with 0 all the same.
        expect_status(outcome, &[1, 23], wrong);
    } else if matches!(outcome.status, Status::Exited(2 | 3 | 126 | 127)) {
        wrong.push(format!("ended with {:?}", outcome.status));
    }
    let errnos = |event: &&&Event| {
        event.number("return") == Some(-1)
            && (event.text("errno") == "EPERM"
                || row.excepts(|it| matches!(it, Exception::Errno(name, _) if *name == event.text("errno"))))
    };
    let counted = |event: &&&Event| {
        row.excepts(|it| matches!(it, Exception::Partial(_)))
            && event.number("return").is_some_and(|count| count > 0)
    };
    let start = row.fixture.is_judged_at_start();
    if !events.is_empty() && !start && !events.iter().any(|event| errnos(&event) || counted(&event)) {
        wrong.push("no event returns -1 with EPERM".into());
    }
}

fn kill_tree(
    row: &Vector,
    backend: &'static str,
    outcome: &Outcome,
    truth: &Truth,
    served: bool,
    wrong: &mut Vec<String>,
) {
    traced(row, backend, "kill-tree", outcome, wrong);
    nothing_arrived(row, truth, outcome, served, wrong);
    let unjudged = row.excepts(|it| match it {
        Exception::Hopeless(name, _) => *name == backend,
        Exception::NoEvent(_) => true,
        _ => false,
    });
    if row.excepts(|it| matches!(it, Exception::ProgramHasEnded(_))) {
        expect_status(outcome, &[137, 23], wrong);
    } else if !unjudged {
        expect_status(outcome, &[137], wrong);
    }
}

/// The outside: tries to be served by the guest until it is told to stop.
struct Client {
    thread: thread::JoinHandle<bool>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn start(seen: Seen, dir: PathBuf) -> Option<Self> {
        let (index, tcp) = match seen {
            Seen::ServedTcp(index) => (index, true),
            Seen::ServedUdp(index) => (index, false),
            _ => return None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut served = false;
            while !served && !stopping.load(Ordering::Relaxed) {
                let told = std::fs::read_to_string(dir.join("port")).ok();
                let port = told.and_then(|text| text.trim().parse().ok()).unwrap_or(LISTEN_PORT);
                let address = Stage::own_addresses(port)[index];
                served = if tcp { served_by_tcp(address, &stopping) } else { served_by_udp(address) };
                thread::sleep(Duration::from_millis(3));
            }
            served
        });
        Some(Self { thread, stop })
    }

    fn stop(self) -> bool {
        // A guest that answered at once may have ended before the answer was read.
        thread::sleep(Duration::from_millis(30));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Who inherits a listener may be asked long before it runs: the answer is awaited until the end.
fn served_by_tcp(address: SocketAddr, stopping: &AtomicBool) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut answer, mut length) = ([0; 6], 0);
    while length < answer.len() {
        match stream.read(&mut answer[length..]) {
            Ok(0) => return false,
            Ok(read) => length += read,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return false,
            Err(_) if stopping.load(Ordering::Relaxed) => return false,
            Err(_) => {}
        }
    }
    &answer == b"served"
}

fn served_by_udp(address: SocketAddr) -> bool {
    let local: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut answer = [0; 6];
    let asked = socket.connect(address).and_then(|()| socket.send(b"hello"));
    asked.is_ok() && socket.recv(&mut answer).is_ok() && &answer == b"served"
}
