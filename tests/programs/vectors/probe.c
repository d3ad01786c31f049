/* Not vectors: whether this kernel has what some vectors need. 0 when it has, 1 when not. */
#include "common.h"

static int can_open(int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    return fd < 0 ? refused("socket") : 0;
}

static int smc(char **args) { (void)args; return can_open(43, SOCK_STREAM, 0); }
static int sctp(char **args) { (void)args; return can_open(AF_INET, SOCK_STREAM, IPPROTO_SCTP); }
static int dccp(char **args) { (void)args; return can_open(AF_INET, SOCK_DCCP, IPPROTO_DCCP); }
static int mptcp(char **args) { (void)args; return can_open(AF_INET, SOCK_STREAM, 262); }
static int smc_ipproto(char **args) { (void)args; return can_open(AF_INET, SOCK_STREAM, 256); }
static int udplite(char **args) { (void)args; return can_open(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE); }
static int xfrm(char **args) { (void)args; return can_open(AF_NETLINK, SOCK_RAW, 6); }
static int xdp(char **args) { (void)args; return can_open(44, SOCK_RAW, 0); }
static int vsock(char **args) { (void)args; return can_open(AF_VSOCK, SOCK_STREAM, 0); }
static int packet(char **args) { (void)args; return can_open(AF_PACKET, SOCK_RAW, 0); }
static int tun(char **args) { (void)args; return open("/dev/net/tun", O_RDWR) < 0 ? refused("/dev/net/tun") : 0; }

/* Linux 6.2; to a port where nobody listens. */
static int mptcp_fastopen(char **args)
{
    (void)args;
    struct address to = at("127.0.0.1", 9);
    int fd = open_socket(AF_INET, SOCK_STREAM, 262);
    ssize_t sent = sendto(fd, "", 1, MSG_FASTOPEN, &to.any, to.length);
    return sent < 0 && errno == EOPNOTSUPP ? refused("MSG_FASTOPEN") : 0;
}

static int rthdr(char **args)
{
    (void)args;
    struct { unsigned char head[8]; struct in6_addr list[1]; } header = {.head = {0, 2, 4, 0, 0}};
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    return setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header) != 0 ? refused("IPV6_RTHDR") : 0;
}

static int uring(char **args)
{
    (void)args;
    char params[120] = {0};
    return syscall(SYS_io_uring_setup, 1, params) < 0 ? refused("io_uring_setup") : 0;
}

/* In a user namespace that maps root alone nobody else can be. */
static int nobody(char **args) { (void)args; return setgid(65534) != 0 || setuid(65534) != 0 ? refused("setuid") : 0; }
/* The descriptors of a single thread can be got at: Linux 6.9 (PIDFD_THREAD is O_EXCL). */
static int pidfd_thread(char **args) { (void)args; return syscall(SYS_pidfd_open, gettid(), O_EXCL) < 0 ? refused("pidfd_open") : 0; }
static int any_program(char **args) { (void)args; return 0; /* that this runs is the proof */ }

const struct vector probe_vectors[] = {
    {"probe-smc", smc},
    {"probe-sctp", sctp},
    {"probe-dccp", dccp},
    {"probe-mptcp", mptcp},
    {"probe-smc-ipproto", smc_ipproto},
    {"probe-mptcp-fastopen", mptcp_fastopen},
    {"probe-udplite", udplite},
    {"probe-xfrm", xfrm},
    {"probe-xdp", xdp},
    {"probe-vsock", vsock},
    {"probe-packet", packet},
    {"probe-tun", tun},
    {"probe-rthdr", rthdr},
    {"probe-uring", uring},
    {"probe-nobody", nobody},
    {"probe-pidfd-thread", pidfd_thread},
    {"probe-i386", any_program},
    {NULL, NULL},
};
