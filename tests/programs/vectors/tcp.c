/* Connections: TCP in all its forms, fast open, MPTCP, and other stream protocols. */
#include "common.h"
#include <linux/mptcp.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define FAMILY_SMC 43

static int tcp_to(const char *ip, int port)
{
    struct address to = at(ip, port);
    return connect_and_deliver(open_socket(to.any.sa_family, SOCK_STREAM, 0), to);
}

static int tcp6(char **args) { (void)args; return tcp_to(FOREIGN6, PORT); }
static int tcp_mapped(char **args) { (void)args; return tcp_to(MAPPED, PORT); }
static int other_port(char **args) { (void)args; return tcp_to(PROXY4, PORT); }
static int dns_tcp(char **args) { (void)args; return tcp_to(FOREIGN4, 53); }
static int any4(char **args) { (void)args; return tcp_to("0.0.0.0", PORT); }
static int any6(char **args) { (void)args; return tcp_to("::", PORT); }
static int any_mapped(char **args) { (void)args; return tcp_to("::ffff:0.0.0.0", PORT); }
static int loopback4(char **args) { (void)args; return tcp_to("127.0.0.1", PORT); }
static int loopback6(char **args) { (void)args; return tcp_to("::1", PORT); }
static int link_local(char **args) { (void)args; return tcp_to("fe80::5%" LINK, PORT); }

static int nonblocking_to(const char *ip)
{
    struct address to = at(ip, PORT);
    int fd = open_socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(fd, &to.any, to.length) != 0) {
        if (errno != EINPROGRESS)
            return refused("connect");
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        int error = 0;
        socklen_t size = sizeof error;
        if (poll(&ready, 1, 3000) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
            broken("poll");
        if (error) {
            errno = error;
            return refused("connect, later");
        }
    }
    return deliver(fd);
}

static int nonblocking4(char **args) { (void)args; return nonblocking_to(FOREIGN4); }
static int nonblocking6(char **args) { (void)args; return nonblocking_to(FOREIGN6); }

static int source_bound(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct address from = at(PROXY4, 0);
    if (bind(fd, &from.any, from.length) != 0)
        return refused("bind");
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

static int bound_to_device(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) != 0)
        return refused("SO_BINDTODEVICE");
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

static int marked(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0), mark = 7;
    if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0)
        return refused("SO_MARK");
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

/* An allowed connection, dissolved with AF_UNSPEC, then a foreign one on the same socket. */
static int unspec_then(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct address proxy = at(PROXY4, PROXY_PORT);
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    if (connect(fd, &proxy.any, proxy.length) != 0 || connect(fd, &nowhere, sizeof nowhere) != 0)
        return refused("connect to the proxy and AF_UNSPEC") + 1;
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

static int fastopen_sendto(const char *ip, int protocol)
{
    struct address to = at(ip, PORT);
    return sendto_and_close(open_socket(to.any.sa_family, SOCK_STREAM, protocol), to, MSG_FASTOPEN);
}

static int fastopen4(char **args) { (void)args; return fastopen_sendto(FOREIGN4, 0); }
static int fastopen6(char **args) { (void)args; return fastopen_sendto(FOREIGN6, 0); }
static int mptcp_fastopen(char **args) { (void)args; return fastopen_sendto(FOREIGN4, IPPROTO_MPTCP); }

static int fastopen_sendmsg(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    return sendmsg(fd, &message, MSG_FASTOPEN) < 0 ? refused("sendmsg") : 0;
}

static int fastopen_sendmmsg(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct mmsghdr message = {
        .msg_hdr = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1}};
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    return sendmmsg(fd, &message, 1, MSG_FASTOPEN) != 1 ? refused("sendmmsg") : 0;
}

/* connect only notes the address; the first write sends SYN and data. */
static int fastopen_connect(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on) != 0)
        broken("TCP_FASTOPEN_CONNECT");
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

static int of_protocol(const char *ip, int family, int type, int protocol)
{
    return connect_and_deliver(open_socket(family, type, protocol), at(ip, PORT));
}

static int mptcp4(char **args) { (void)args; return of_protocol(FOREIGN4, AF_INET, SOCK_STREAM, IPPROTO_MPTCP); }
static int mptcp6(char **args) { (void)args; return of_protocol(FOREIGN6, AF_INET6, SOCK_STREAM, IPPROTO_MPTCP); }
static int smc4(char **args) { (void)args; return of_protocol(FOREIGN4, FAMILY_SMC, SOCK_STREAM, 0); }
static int smc_ipproto(char **args) { (void)args; return of_protocol(FOREIGN4, AF_INET, SOCK_STREAM, 256); }

/* Nobody listens there: that the answer comes shows that the question was sent. */
static int ask(int type, int protocol)
{
    struct address to = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, type, protocol);
    return connect(fd, &to.any, to.length) != 0 && errno != ECONNREFUSED ? refused("connect") : 0;
}

static int sctp4(char **args) { (void)args; return ask(SOCK_STREAM, IPPROTO_SCTP); }
static int dccp4(char **args) { (void)args; return ask(SOCK_DCCP, IPPROTO_DCCP); }

/* A socket under repair is connected without a packet; leaving repair sends one. */
static int repair(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0), on = 1, off = 0;
    struct address to = at(FOREIGN4, PORT);
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) != 0)
        return refused("TCP_REPAIR");
    if (connect(fd, &to.any, to.length) != 0)
        return refused("connect");
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off) != 0)
        return refused("TCP_REPAIR off");
    return 0; /* the witness knows of no such connection and answers with RST */
}

/* A connect that fails, then a foreign one on the same socket. */
static int connect_twice(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct address dead = at(PROXY4, ALLOWED_PORT); /* allowed, but UDP alone is served there */
    if (connect(fd, &dead.any, dead.length) == 0)
        broken("nobody should listen there");
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

const struct vector tcp_vectors[] = {
    {"tcp4", leak_tcp4},
    {"tcp6", tcp6},
    {"tcp-mapped", tcp_mapped},
    {"tcp-proxy-other-port", other_port},
    {"dns-tcp", dns_tcp},
    {"tcp-any4", any4},
    {"tcp-any6", any6},
    {"tcp-any-mapped", any_mapped},
    {"tcp-loopback4", loopback4},
    {"tcp-loopback6", loopback6},
    {"tcp6-link-local", link_local},
    {"tcp4-nonblocking", nonblocking4},
    {"tcp6-nonblocking", nonblocking6},
    {"tcp4-source-bound", source_bound},
    {"tcp4-bind-to-device", bound_to_device},
    {"tcp4-mark", marked},
    {"tcp4-unspec-then", unspec_then},
    {"tcp4-connect-twice", connect_twice},
    {"fastopen4-sendto", fastopen4},
    {"fastopen6-sendto", fastopen6},
    {"fastopen4-sendmsg", fastopen_sendmsg},
    {"fastopen4-sendmmsg", fastopen_sendmmsg},
    {"fastopen4-connect", fastopen_connect},
    {"mptcp4", mptcp4},
    {"mptcp6", mptcp6},
    {"mptcp4-fastopen", mptcp_fastopen},
    {"smc4", smc4},
    {"smc4-ipproto", smc_ipproto},
    {"sctp4", sctp4},
    {"dccp4", dccp4},
    {"tcp4-repair", repair},
    {NULL, NULL},
};
