//! The rows: every way past the proxy that the tests know.

use super::table::At::{Any, Ends, Is, Starts};
use super::table::Exception::{
    AnyStatus, Errno, Flood, Hopeless, LedAsAny, MayBeRefusedInLog, NoEvent, OddSocket, OfRing, OutOfReach,
    OwnTable, Partial, ProgramHasEnded, SocketRefused, Unfit, UnseenInLog,
};
use super::table::Fixture::{
    BoundPacket, ConnectedTcp, ConnectedUdp, FreshTcp, Handed, Listener, Outside, Ring, Unix,
};
use super::table::Handed::{
    ConnectedTcp as ConnectedTcpSocket, ConnectedUdp as ConnectedUdpSocket, FreshTcp as FreshTcpSocket,
    FreshUdp as FreshUdpSocket,
};
use super::table::{At, Seen, Vector, leak};

const CONNECT: &[&str] = &["connect"];
const SENDTO: &[&str] = &["sendto"];
const SENDMSG: &[&str] = &["sendmsg"];
const SENDMMSG: &[&str] = &["sendmmsg"];
const SOCKET: &[&str] = &["socket"];
const SETSOCKOPT: &[&str] = &["setsockopt"];
const IOCTL: &[&str] = &["ioctl"];
const LOOPBACK: &[&str] = &["--allow-loopback"];
// The making of the ring comes first: where a ring's operations are judged, it is one of the others.
const URING_CONNECT: &[&str] = &["io_uring_setup", "connect"];
const URING_SEND: &[&str] = &["io_uring_setup", "sendmsg", "sendto"];
const URING_SOCKET: &[&str] = &["io_uring_setup", "socket", "sendmsg", "sendto"];
const URING_OPTION: &[&str] = &["io_uring_setup", "setsockopt"];
const URING_SERVE: &[&str] = &["io_uring_setup", "bind", "listen", "accept", "accept4"];
const SERVE: &[&str] = &["bind", "listen", "accept", "accept4"];
const ANY_CALL: &[&str] = &[];

/// The witness's address.
const WITNESS: At = Is("203.0.113.5:7777");
const WITNESS6: At = Is("[2001:db8::5]:7777");

const ALL: &[&str] = &["seccomp", "ptrace", "ebpf"];
const EBPF: &[&str] = &["ebpf"];
const MULTIPATH: &str = "multipath TCP can't be held until the proxy has answered";
const NAMED_TOO_LATE: &str = "TCP reads the message's address where no hook can change it";
const UNKNOWN_MASK: &str = "that it is a network's broadcast address only the host knows";
const FIRST_SENT: &str = "the messages before it were sent: sendmmsg returns their number";
const START: &str = "what becomes of an inherited socket is decided before PROGRAM starts";
const WHOLE: &str = "io_uring may be refused as a whole";
const NO_X32: &str = "x32 is refused, whatever is asked";
const RACE: &str = "which round is refused is left to chance";
const NO_RTHDR: &str = "the kernel refuses it, and nothing is sent";
const LATE: &str = "PROGRAM itself ended with 0 before the leak";

/// All of them.
pub fn rows() -> Vec<Vector> {
    [
        tcp(),
        udp(),
        addresses(),
        raw(),
        routes(),
        births(),
        processes(),
        rings(),
        abis(),
        unix(),
        incoming(),
        disclosures(),
        races(),
    ]
    .concat()
}

fn tcp4(guest: &'static str) -> Vector {
    leak(guest, CONNECT, WITNESS, Seen::Tcp)
}

fn tcp() -> Vec<Vector> {
    vec![
        tcp4("tcp4"),
        tcp4("tcp4").linked_statically(),
        tcp4("tcp4").narrow(),
        leak("tcp6", CONNECT, WITNESS6, Seen::Tcp),
        leak("tcp6", CONNECT, WITNESS6, Seen::Tcp).narrow(),
        tcp4("tcp-mapped"),
        leak("tcp-proxy-other-port", CONNECT, Is("203.0.113.9:7777"), Seen::Tcp),
        leak("dns-tcp", CONNECT, Is("203.0.113.5:53"), Seen::Tcp),
        leak("tcp-any4", CONNECT, Is("0.0.0.0:7777"), Seen::Tcp),
        leak("tcp-any6", CONNECT, Is("[::]:7777"), Seen::Tcp),
        leak("tcp-any-mapped", CONNECT, Is("0.0.0.0:7777"), Seen::Tcp),
        leak("tcp-loopback4", CONNECT, Is("127.0.0.1:7777"), Seen::Tcp),
        leak("tcp-loopback6", CONNECT, Is("[::1]:7777"), Seen::Tcp),
        leak("tcp6-link-local", CONNECT, Starts("[fe80::5"), Seen::Tcp),
        tcp4("tcp4-nonblocking"),
        leak("tcp6-nonblocking", CONNECT, WITNESS6, Seen::Tcp),
        tcp4("tcp4-source-bound"),
        tcp4("tcp4-bind-to-device"),
        leak("tcp4-mark", SETSOCKOPT, Any, Seen::Tcp).root(),
        tcp4("tcp4-unspec-then"),
        tcp4("tcp4-connect-twice"),
        leak("fastopen4-sendto", SENDTO, WITNESS, Seen::Tcp),
        leak("fastopen6-sendto", SENDTO, WITNESS6, Seen::Tcp),
        leak("fastopen4-sendmsg", SENDMSG, WITNESS, Seen::Tcp).except(Unfit(EBPF, NAMED_TOO_LATE)),
        leak("fastopen4-sendmsg", SENDMSG, WITNESS, Seen::Tcp).narrow().except(Unfit(EBPF, NAMED_TOO_LATE)),
        leak("fastopen4-sendmmsg", SENDMMSG, WITNESS, Seen::Tcp).except(Unfit(EBPF, NAMED_TOO_LATE)),
        tcp4("fastopen4-connect"),
        tcp4("mptcp4").needs("probe-mptcp").except(Unfit(ALL, MULTIPATH)),
        leak("mptcp6", CONNECT, WITNESS6, Seen::Tcp).needs("probe-mptcp").except(Unfit(ALL, MULTIPATH)),
        leak("mptcp4-fastopen", SENDTO, WITNESS, Seen::Tcp)
            .needs("probe-mptcp-fastopen")
            .except(Unfit(ALL, MULTIPATH)),
        tcp4("smc4").needs("probe-smc").except(SocketRefused("ebpf")),
        tcp4("smc4-ipproto").needs("probe-smc-ipproto").except(SocketRefused("ebpf")),
        leak("sctp4", SOCKET, Any, Seen::Packet(132, "203.0.113.5")).needs("probe-sctp"),
        leak("dccp4", CONNECT, WITNESS, Seen::Packet(33, "203.0.113.5"))
            .needs("probe-dccp")
            .except(OddSocket("ebpf")),
        leak("tcp4-repair", CONNECT, WITNESS, Seen::Packet(6, "203.0.113.5")).root(),
    ]
}

fn udp() -> Vec<Vector> {
    let connected = |guest| leak(guest, CONNECT, WITNESS, Seen::Udp).disclosure();
    vec![
        leak("udp4-sendto", SENDTO, WITNESS, Seen::Udp),
        leak("udp4-sendto", SENDTO, WITNESS, Seen::Udp).linked_statically(),
        leak("udp4-sendto", SENDTO, WITNESS, Seen::Udp).narrow(),
        leak("udp6-sendto", SENDTO, WITNESS6, Seen::Udp),
        leak("udp-mapped", SENDTO, WITNESS, Seen::Udp),
        leak("udp-proxy-other-port", SENDTO, Is("203.0.113.9:7777"), Seen::Udp),
        leak("udp-any4", SENDTO, Is("0.0.0.0:7777"), Seen::Udp),
        leak("udp-any6", SENDTO, Is("[::]:7777"), Seen::Udp),
        leak("udp6-link-local", SENDTO, Starts("[fe80::5"), Seen::Udp),
        leak("multicast4", SENDTO, Is("239.1.2.3:7777"), Seen::Token),
        leak("multicast6", SENDTO, Starts("[ff02::1234"), Seen::Token),
        leak("multicast4-interface", SENDTO, Is("239.1.2.3:7777"), Seen::Token),
        leak("mdns", SENDTO, Is("224.0.0.251:5353"), Seen::Token),
        leak("broadcast", SENDTO, Is("198.51.100.255:7777"), Seen::Token).except(LedAsAny(UNKNOWN_MASK)),
        leak("broadcast-limited", SETSOCKOPT, Any, Seen::Token),
        leak("udp6-inet-address", SENDTO, WITNESS, Seen::Udp),
        connected("udp6-inet-connect"),
        leak("udp4-unspec-family", SENDTO, WITNESS, Seen::Udp),
        connected("udp4-connect-send"),
        connected("udp4-connect-write"),
        leak("udp6-connect-write", CONNECT, WITNESS6, Seen::Udp).disclosure(),
        connected("udp4-connect-writev"),
        connected("udp4-connect-sendmsg").also("sendmsg", "outbound"),
        connected("udp4-connect-sendmmsg").also("sendmmsg", "outbound"),
        connected("udp4-connect-sendfile"),
        connected("udp4-connect-splice"),
        connected("udp4-reconnect"),
        leak("udp4-connected-sendto", SENDTO, WITNESS, Seen::Udp),
        leak("udp4-sendmsg", SENDMSG, WITNESS, Seen::Udp),
        leak("udp4-sendmsg", SENDMSG, WITNESS, Seen::Udp).narrow(),
        leak("udp6-sendmsg", SENDMSG, WITNESS6, Seen::Udp),
        leak("udp-mapped-sendmsg", SENDMSG, WITNESS, Seen::Udp),
        leak("sendmmsg-first", SENDMMSG, WITNESS, Seen::Udp),
        leak("sendmmsg-second", SENDMMSG, WITNESS, Seen::Udp).except(Partial(FIRST_SENT)),
        leak("sendmmsg-second", SENDMMSG, WITNESS, Seen::Udp).narrow().except(Partial(FIRST_SENT)),
        leak("sendmmsg-hundredth", SENDMMSG, WITNESS, Seen::Udp).except(Partial(FIRST_SENT)),
        leak("udp4-disclosure", CONNECT, WITNESS, Seen::Told).disclosure(),
        leak("udp6-disclosure", CONNECT, WITNESS6, Seen::Told).disclosure(),
        leak("dns-udp", SENDTO, Is("203.0.113.5:53"), Seen::Udp),
        leak("udplite4", SENDTO, WITNESS, Seen::Packet(136, "203.0.113.5"))
            .needs("probe-udplite")
            .except(OddSocket("ebpf")),
        leak("udplite6", SENDTO, WITNESS6, Seen::Packet(136, "2001:db8::5"))
            .needs("probe-udplite")
            .except(OddSocket("ebpf")),
        leak("ping4", SENDTO, Is("203.0.113.5:0"), Seen::Packet(1, "203.0.113.5")).except(OddSocket("ebpf")),
        leak("ping6", SENDTO, Is("[2001:db8::5]:0"), Seen::Packet(58, "2001:db8::5")).except(OddSocket("ebpf")),
        leak("udp4-corked", SENDTO, WITNESS, Seen::Udp),
    ]
}

fn addresses() -> Vec<Vector> {
    vec![
        tcp4("address-length-28"),
        tcp4("address-length-128"),
        leak("address-sendto-28", SENDTO, WITNESS, Seen::Udp),
        leak("address-sendto-128", SENDTO, WITNESS, Seen::Udp),
        leak("address-v6-length-24", CONNECT, WITNESS6, Seen::Tcp),
        leak("address-namelen-huge", SENDMSG, WITNESS, Seen::Udp),
        tcp4("address-page-end"),
        tcp4("address-page-end").narrow(),
        tcp4("address-read-only"),
        tcp4("address-shared"),
        tcp4("address-across-pages"),
        tcp4("address-untouched-data"),
        tcp4("address-file-mapping"),
        leak("address-bss", CONNECT, Is("0.0.0.0:7777"), Seen::Tcp),
        tcp4("address-paged-out"),
        tcp4("address-executable"),
    ]
}

fn raw() -> Vec<Vector> {
    vec![
        leak("raw-icmp", SOCKET, Any, Seen::Packet(1, "203.0.113.5")).root(),
        leak("raw-icmp", SOCKET, Any, Seen::Packet(1, "203.0.113.5")).root().narrow(),
        leak("raw6-icmp", SOCKET, Any, Seen::Packet(58, "2001:db8::5")).root(),
        leak("raw-header", SOCKET, Any, Seen::Udp).root(),
        leak("raw-udp", SOCKET, Any, Seen::Udp).root(),
        leak("raw-connected", SOCKET, Any, Seen::Udp).root(),
        leak("packet-raw", SOCKET, Any, Seen::Token).root().needs("probe-packet"),
        leak("packet-bound", SOCKET, Any, Seen::Token).root().needs("probe-packet"),
        leak("packet-dgram", SOCKET, Any, Seen::Token).root().needs("probe-packet"),
        leak("packet-obsolete", SOCKET, Any, Seen::Token).root().needs("probe-packet"),
        leak("tun", IOCTL, Any, Seen::Token).root().needs("probe-tun"),
        leak("xfrm", SOCKET, Any, Seen::Nothing).root().needs("probe-xfrm"),
        leak("xdp", SOCKET, Any, Seen::Nothing).root().needs("probe-xdp"),
        // CID 1 has no transport on most kernels: ENODEV, ENETUNREACH or ETIMEDOUT.
        leak("vsock", CONNECT, Is("vsock:1:7777"), Seen::Nothing)
            .fails_natively()
            .needs("probe-vsock")
            .except(OddSocket("ebpf")),
    ]
}

fn routes() -> Vec<Vector> {
    let v4 = |guest, calls| leak(guest, calls, Any, Seen::Packet(17, "203.0.113.5"));
    let v6 = |guest, calls| leak(guest, calls, Any, Seen::Packet(17, "2001:db8::5")).root().needs("probe-rthdr");
    let group = Starts("239.1.2.3");
    let group6 = Starts("[ff02::1234");
    vec![
        v4("lsrr-udp", SETSOCKOPT),
        leak("lsrr-tcp", SETSOCKOPT, Any, Seen::Packet(6, "203.0.113.5")),
        v4("lsrr-control", SENDMSG),
        v4("lsrr-control", SENDMSG).narrow(),
        v4("lsrr-second", SENDMMSG).except(Partial(FIRST_SENT)),
        v6("rthdr-udp", SETSOCKOPT),
        leak("rthdr-tcp", SETSOCKOPT, Any, Seen::Packet(6, "2001:db8::5")).root().needs("probe-rthdr"),
        leak("rthdr-late", SETSOCKOPT, Any, Seen::Packet(6, "2001:db8::5")).root().needs("probe-rthdr"),
        // As control data Linux takes routing headers of type 2 alone (Mobile IPv6): EINVAL.
        v6("rthdr-control", SENDMSG).fails_natively().except(NoEvent(NO_RTHDR)),
        v6("rthdr-pktoptions", SETSOCKOPT).fails_natively().except(NoEvent(NO_RTHDR)),
        leak("rthdr-flow-label", SETSOCKOPT, Any, Seen::Packet(17, "2001:db8::5")).needs("probe-flow-route"),
        leak("pktinfo-control", SENDMSG, WITNESS, Seen::Udp),
        leak("pktinfo-loopback", SENDMSG, Any, Seen::Token).options(LOOPBACK),
        leak("pktinfo-loopback", SENDMSG, Any, Seen::Token).options(LOOPBACK).narrow(),
        leak("bind-device", SETSOCKOPT, Any, Seen::Token).options(LOOPBACK),
        leak("bind-device", SETSOCKOPT, Any, Seen::Token).options(LOOPBACK).narrow(),
        leak("bind-index", SETSOCKOPT, Any, Seen::Token).options(LOOPBACK),
        leak("unicast-interface", SETSOCKOPT, Any, Seen::Token).options(LOOPBACK),
        leak("igmp-join", SETSOCKOPT, group, Seen::Group(2, "239.1.2.3")),
        leak("igmp-join-group-req", SETSOCKOPT, group, Seen::Group(2, "239.1.2.3")),
        leak("igmp-join-group-req", SETSOCKOPT, group, Seen::Group(2, "239.1.2.3")).narrow(),
        leak("igmp-join-source", SETSOCKOPT, group, Seen::Group(2, "239.1.2.3")),
        leak("mld-join", SETSOCKOPT, group6, Seen::Group(58, "ff02::1234")),
        leak("mld-join-group-req", SETSOCKOPT, group6, Seen::Group(58, "ff02::1234")),
    ]
}

fn births() -> Vec<Vector> {
    vec![
        tcp4("fork"),
        tcp4("fork-deep"),
        tcp4("vfork"),
        tcp4("vfork").linked_statically(),
        tcp4("clone-vm"),
        tcp4("clone-vm-files"),
        tcp4("clone-untraced"),
        tcp4("clone-vm-untraced"),
        tcp4("clone-silent"),
        tcp4("clone-newpid").root(),
        tcp4("clone-newuser"),
        tcp4("clone-parent"),
        tcp4("clone3"),
        tcp4("clone3-untraced"),
        tcp4("thread"),
        tcp4("thread").linked_statically(),
        tcp4("thread").narrow(),
        tcp4("thread-leader-gone").except(OwnTable),
        tcp4("thread-own-files").except(OwnTable),
        tcp4("daemon").except(ProgramHasEnded(LATE)),
        tcp4("outlive").except(ProgramHasEnded(LATE)),
        tcp4("exec"),
        tcp4("exec-from-thread"),
        tcp4("fork-exec"),
        tcp4("vfork-exec"),
        tcp4("memfd-exec"),
        tcp4("dlopen"),
        tcp4("dlopen").narrow(),
    ]
}

fn processes() -> Vec<Vector> {
    let inherited = |guest, fixture, seen| leak(guest, ANY_CALL, WITNESS, seen).with(fixture);
    vec![
        tcp4("signal-handler"),
        tcp4("signal-in-syscall"),
        tcp4("atexit"),
        tcp4("tls-destructor"),
        tcp4("exit-race").except(Flood("ebpf")),
        tcp4("own-filter"),
        tcp4("undumpable").except(OutOfReach),
        leak("undumpable-udp", SENDTO, WITNESS, Seen::Udp).except(OutOfReach),
        tcp4("userns"),
        tcp4("setuid-nobody").root().needs("probe-nobody"),
        tcp4("chrooted").root(),
        tcp4("odd-name"),
        tcp4("dup"),
        tcp4("descriptor-zero"),
        tcp4("scm-rights"),
        tcp4("scm-rights").narrow(),
        inherited("inherited-write", ConnectedTcp(0), Seen::Tcp).except(AnyStatus(START)),
        inherited("inherited-write", ConnectedTcp(5), Seen::Tcp).except(AnyStatus(START)),
        inherited("inherited-write", ConnectedUdp(5), Seen::Udp).except(AnyStatus(START)),
        inherited("inherited-send", ConnectedUdp(5), Seen::Udp).except(AnyStatus(START)),
        inherited("inherited-sendmsg", ConnectedTcp(5), Seen::Tcp).except(AnyStatus(START)),
        inherited("inherited-sendmsg", ConnectedUdp(5), Seen::Udp).except(AnyStatus(START)),
        tcp4("inherited-connect").with(FreshTcp(5)),
        leak("inherited-frame", ANY_CALL, Any, Seen::Token)
            .with(BoundPacket(5))
            .except(AnyStatus(START))
            .root()
            .needs("probe-packet"),
        leak("inherited-ring", ANY_CALL, Any, Seen::Tcp)
            .with(Ring(5))
            .needs("probe-uring")
            .except(AnyStatus(START)),
        // What a connected TCP socket from outside sends isn't judged: who may hand one over is (`--unix leak`).
        leak("handed-write", CONNECT, Ends("giver.sock"), Seen::Tcp)
            .with(Handed(ConnectedTcpSocket))
            .options(&["--unix=leak"]),
        leak("handed-write", CONNECT, Ends("giver.sock"), Seen::Udp)
            .with(Handed(ConnectedUdpSocket))
            .options(&["--unix=leak"]),
        tcp4("handed-connect").with(Handed(FreshTcpSocket)),
        leak("handed-sendto", SENDTO, WITNESS, Seen::Udp).with(Handed(FreshUdpSocket)),
        leak("handed-sendto", SENDTO, WITNESS, Seen::Udp).with(Handed(ConnectedUdpSocket)),
        leak("handed-sendmsg", SENDMSG, WITNESS, Seen::Udp).with(Handed(ConnectedUdpSocket)),
        leak("handed-sendmmsg", SENDMMSG, WITNESS, Seen::Udp).with(Handed(ConnectedUdpSocket)),
        leak("pidfd-getfd", &["pidfd_getfd"], Any, Seen::Tcp).with(Outside).root(),
        leak("ptrace-outside", &["ptrace"], Any, Seen::Nothing).with(Outside).root(),
        leak("write-outside", &["process_vm_writev"], Any, Seen::Nothing).with(Outside).root(),
        leak("write-outside", &["process_vm_writev"], Any, Seen::Nothing).with(Outside).root().narrow(),
        leak("request-key", &["request_key"], Any, Seen::Nothing).fails_natively(),
        leak("request-key", &["request_key"], Any, Seen::Nothing).fails_natively().narrow(),
        leak("bpf-run", &["bpf"], Any, Seen::Nothing).fails_natively(),
        leak("bpf-run", &["bpf"], Any, Seen::Nothing).fails_natively().narrow(),
        leak("mount-network", &["mount"], Any, Seen::Nothing).fails_natively(),
        leak("mount-network", &["mount"], Any, Seen::Nothing).fails_natively().narrow(),
        leak("fsopen-network", &["fsopen"], Any, Seen::Nothing).fails_natively(),
        tcp4("ptrace-inject")
            .except(Hopeless("ptrace", "the child has a tracer already: PTRACE_TRACEME gives EPERM")),
    ]
}

fn rings() -> Vec<Vector> {
    let uring = |guest, calls, address, seen| {
        leak(guest, calls, address, seen)
            .needs("probe-uring")
            .except(OfRing)
            .except(MayBeRefusedInLog(WHOLE))
            .except(Errno("ENOSYS", "lets libraries fall back"))
    };
    let connect = |guest| uring(guest, URING_CONNECT, WITNESS, Seen::Tcp);
    let hop = Seen::Packet(17, "203.0.113.5");
    vec![
        connect("uring-connect"),
        connect("uring-connect").narrow(),
        connect("uring-sqpoll-connect"),
        connect("uring-async"),
        connect("uring-linked"),
        uring("uring-sendmsg", URING_SEND, WITNESS, Seen::Udp),
        uring("uring-sendto", URING_SEND, WITNESS, Seen::Udp),
        uring("uring-control", URING_SEND, Any, hop).except(UnseenInLog("ebpf")),
        uring("uring-raw", URING_SOCKET, Any, Seen::Packet(1, "203.0.113.5")).root(),
        uring("uring-udplite", URING_SOCKET, WITNESS, Seen::Packet(136, "203.0.113.5"))
            .needs("probe-uring-udplite"),
        uring("uring-option", URING_OPTION, Any, hop).needs("probe-uring-option").except(UnseenInLog("ebpf")),
        Vector { class: "inbound", ..uring("uring-serve", URING_SERVE, Is("0.0.0.0:7788"), Seen::ServedTcp(0)) }
            .options(&["--incoming=block"])
            .needs("probe-uring-listen"),
        Vector { class: "inbound", ..uring("uring-accept", URING_SERVE, Any, Seen::ServedTcp(0)) }
            .options(&["--incoming=block"])
            .with(Listener(5)),
    ]
}

fn abis() -> Vec<Vector> {
    let both = |vector: Vector| [vector.clone().int80().needs("probe-i386"), vector.narrow()];
    let raw = |guest| leak(guest, SOCKET, Any, Seen::Nothing).root();
    let mut rows: Vec<Vector> = [
        tcp4("i386-connect"),
        leak("i386-sendto", SENDTO, WITNESS, Seen::Udp),
        leak("i386-sendmsg", SENDMSG, WITNESS, Seen::Udp),
        leak("i386-sendmmsg", SENDMMSG, WITNESS, Seen::Udp).except(Partial(FIRST_SENT)),
        raw("i386-raw"),
        tcp4("socketcall-connect"),
        leak("socketcall-sendto", SENDTO, WITNESS, Seen::Udp),
        leak("socketcall-sendmsg", SENDMSG, WITNESS, Seen::Udp),
        leak("socketcall-sendmmsg", SENDMMSG, WITNESS, Seen::Udp).except(Partial(FIRST_SENT)),
        raw("socketcall-raw"),
        leak("socketcall-listen", SERVE, Is("0.0.0.0:7788"), Seen::ServedTcp(0)).inbound(),
    ]
    .into_iter()
    .flat_map(both)
    .collect();
    rows.extend([
        tcp4("x32-connect").fails_natively().except(NoEvent(NO_X32)).needs("probe-no-x32"),
        leak("x32-sendmsg", SENDMSG, WITNESS, Seen::Udp)
            .fails_natively()
            .except(NoEvent(NO_X32))
            .needs("probe-no-x32"),
        tcp4("high-number"),
        tcp4("high-arguments"),
    ]);
    rows
}

fn unix() -> Vec<Vector> {
    let to = |guest, calls, address| leak(guest, calls, address, Seen::Unix).with(Unix).options(&["--unix=leak"]);
    let stream = |guest| to(guest, CONNECT, Ends("leak.sock"));
    vec![
        stream("unix-absolute"),
        stream("unix-absolute").narrow(),
        stream("unix-relative"),
        stream("unix-link"),
        stream("unix-dot-dot"),
        stream("unix-proc-cwd"),
        stream("unix-proc-root"),
        stream("unix-proc-thread-self"),
        stream("unix-chdir"),
        stream("unix-full-length"),
        stream("unix-cut-length"),
        stream("unix-proc-fd-directory"),
        stream("unix-proc-fd-socket"),
        stream("unix-chroot").root(),
        to("unix-jail", CONNECT, Any).root(),
        to("unix-mounted", CONNECT, Any).root(),
        to("unix-abstract", CONNECT, Is("@sockstrace-leak")),
        to("unix-abstract-nul", CONNECT, Starts("@ok")),
        to("unix-dgram-sendto", SENDTO, Ends("leak.dgram")),
        to("unix-dgram-sendmsg", SENDMSG, Ends("leak.dgram")),
        to("unix-dgram-sendmsg", SENDMSG, Ends("leak.dgram")).narrow(),
        to("unix-dgram-second", SENDMMSG, Ends("leak.dgram")).except(Partial(FIRST_SENT)),
        to("unix-dgram-connect", CONNECT, Ends("leak.dgram")),
        stream("unix-flipped-link").except(AnyStatus(RACE)),
        leak("unix-flipped-name", CONNECT, Is("@sockstrace-leak"), Seen::Unix)
            .with(Unix)
            .options(&["--unix=leak", "--allow=unix:@sockstrace-okay"])
            .except(AnyStatus(RACE)),
        to("unix-flipped-length", SENDMSG, Ends("leak.dgram")).except(AnyStatus(RACE)),
    ]
}

fn incoming() -> Vec<Vector> {
    let tcp = |guest, address, client| leak(guest, SERVE, address, Seen::ServedTcp(client)).inbound();
    let udp = |guest, address, client| leak(guest, SERVE, address, Seen::ServedUdp(client)).inbound();
    let any = Is("0.0.0.0:7788");
    let any_port = Starts("0.0.0.0:");
    vec![
        tcp("listen4", Is("203.0.113.5:7788"), 0),
        tcp("listen6", Is("[2001:db8::5]:7788"), 2),
        tcp("listen-any4", any, 0),
        tcp("listen-any4", any, 0).narrow(),
        tcp("listen-any6", Is("[::]:7788"), 2),
        tcp("listen-any6", Is("[::]:7788"), 0),
        tcp("listen-loopback", Is("127.0.0.1:7788"), 1),
        tcp("listen-unspec", any, 0),
        tcp("listen-autobind", any_port, 0),
        tcp("listen-port-zero", any_port, 0),
        tcp("listen-mptcp", any, 0).needs("probe-mptcp"),
        udp("udp-bind4", any, 0),
        udp("udp-bind6", Is("[::]:7788"), 2),
        udp("udp-rebind", Any, 0), // kill-tree ends it at the first bind
        tcp("inherited-listener", any, 0).with(Listener(5)),
        tcp("inherited-listener-accept4", any, 0).with(Listener(5)),
    ]
}

fn disclosures() -> Vec<Vector> {
    let shown = |guest, calls| leak(guest, calls, Any, Seen::Told).disclosure().options(&["--disclosure=leak"]);
    vec![
        shown("netlink-addresses", SENDTO),
        shown("netlink-addresses", SENDTO).narrow(),
        shown("netlink-addresses-sendmsg", SENDMSG),
        shown("netlink-addresses-sendmmsg", SENDMMSG),
        shown("netlink-addresses-send", ANY_CALL),
        // A request by write(2) is a known blind spot (README): write can't be stopped at without harm.
        shown("netlink-routes", SENDTO),
        shown("netlink-links", SENDTO),
        shown("getifaddrs", ANY_CALL),
        shown("siocgifconf", IOCTL),
        shown("siocgifconf", IOCTL).narrow(),
        shown("siocgifaddr", IOCTL),
        shown("siocgifhwaddr", IOCTL),
        shown("siocgif-high-request", IOCTL),
    ]
}

/// Races: the guest exits with 1 when any of its 600 rounds was refused.
fn races() -> Vec<Vector> {
    let udp = |guest, calls| leak(guest, calls, WITNESS, Seen::Udp);
    let hop = |guest, calls| leak(guest, calls, Any, Seen::Packet(17, "203.0.113.5"));
    let rows = vec![
        tcp4("flip-connect"),
        tcp4("flip-connect").narrow(),
        leak("flip-connect-nonblocking", CONNECT, WITNESS, Seen::Packet(6, "203.0.113.5")),
        udp("flip-sendto", SENDTO),
        udp("flip-sendmsg", SENDMSG),
        udp("flip-sendmsg", SENDMSG).narrow(),
        udp("flip-sendmmsg", SENDMMSG).except(Partial(FIRST_SENT)),
        udp("flip-namelen", SENDMSG),
        hop("flip-control", SENDMSG),
        tcp4("flip-shared-memory"),
        tcp4("swap-connect"),
        udp("swap-sendto", SENDTO),
        udp("swap-sendmsg", SENDMSG),
        udp("swap-inherited", ANY_CALL).with(ConnectedUdp(5)),
        leak("swap-fastopen", SENDTO, WITNESS, Seen::Tcp),
        tcp4("swap-child"),
        tcp4("swap-orphan"),
        tcp4("swap-orphan").narrow(),
        tcp4("swap-orphan-clone3"),
        tcp4("flip-socketcall").narrow(),
        leak("flip-socketcall-type", SOCKET, Any, Seen::Token).narrow().root(),
    ];
    rows.into_iter().map(|row| row.except(AnyStatus(RACE))).collect()
}
