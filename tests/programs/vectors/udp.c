/* Datagrams: UDP with every call and every kind of address, UDP-Lite, ping sockets, multicast. */
#include "common.h"
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <sys/sendfile.h>
#include <sys/mman.h>

static struct iovec token = {TOKEN, sizeof TOKEN - 1};

static int udp_to(const char *ip, int port)
{
    struct address to = at(ip, port);
    return sendto_and_close(open_socket(to.any.sa_family, SOCK_DGRAM, 0), to, 0);
}

static int sendto4(char **args) { (void)args; return udp_to(FOREIGN4, PORT); }
static int sendto6(char **args) { (void)args; return udp_to(FOREIGN6, PORT); }
static int mapped(char **args) { (void)args; return udp_to(MAPPED, PORT); }
static int other_port(char **args) { (void)args; return udp_to(PROXY4, PORT); }
static int any4(char **args) { (void)args; return udp_to("0.0.0.0", PORT); }
static int any6(char **args) { (void)args; return udp_to("::", PORT); }
static int link_local(char **args) { (void)args; return udp_to("fe80::5%" LINK, PORT); }
static int multicast4(char **args) { (void)args; return udp_to("239.1.2.3", PORT); }
static int multicast6(char **args) { (void)args; return udp_to("ff02::1234%" LINK, PORT); }
static int mdns(char **args) { (void)args; return udp_to("224.0.0.251", 5353); }

/* An IPv4 sockaddr on an IPv6 socket. */
static int inet_on_v6(char **args)
{
    (void)args;
    return sendto_and_close(open_socket(AF_INET6, SOCK_DGRAM, 0), at(FOREIGN4, PORT), 0);
}

static int inet_on_v6_connect(char **args)
{
    (void)args;
    return connect_and_deliver(open_socket(AF_INET6, SOCK_DGRAM, 0), at(FOREIGN4, PORT));
}

/* AF_UNSPEC counts as AF_INET for a UDP send. */
static int unspec_family(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    to.any.sa_family = AF_UNSPEC;
    return sendto_and_close(open_socket(AF_INET, SOCK_DGRAM, 0), to, 0);
}

static int broadcast(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
    return sendto_and_close(fd, at("198.51.100.255", PORT), 0);
}

static int limited_broadcast(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, LINK, sizeof LINK);
    return sendto_and_close(fd, at("255.255.255.255", PORT), 0);
}

static int multicast_interface(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct ip_mreqn which = {.imr_ifindex = if_nametoindex(LINK)};
    if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &which, sizeof which) != 0)
        broken("IP_MULTICAST_IF");
    return sendto_and_close(fd, at("239.1.2.3", PORT), 0);
}

static int connected_to(const char *ip)
{
    struct address to = at(ip, PORT);
    int fd = open_socket(to.any.sa_family, SOCK_DGRAM, 0);
    if (connect(fd, &to.any, to.length) != 0)
        exit(refused("connect"));
    return fd;
}

static int connect_send(char **args)
{
    (void)args;
    return send(connected_to(FOREIGN4), TOKEN, sizeof TOKEN - 1, 0) < 0 ? refused("send") : 0;
}

static int connect_write(char **args) { (void)args; return deliver(connected_to(FOREIGN4)); }
static int connect_write6(char **args) { (void)args; return deliver(connected_to(FOREIGN6)); }

static int connect_writev(char **args)
{
    (void)args;
    return writev(connected_to(FOREIGN4), &token, 1) < 0 ? refused("writev") : 0;
}

static int connect_sendmsg(char **args)
{
    (void)args;
    struct msghdr message = {.msg_iov = &token, .msg_iovlen = 1};
    return sendmsg(connected_to(FOREIGN4), &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int connect_sendmmsg(char **args)
{
    (void)args;
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &token, .msg_iovlen = 1}};
    return sendmmsg(connected_to(FOREIGN4), &message, 1, 0) != 1 ? refused("sendmmsg") : 0;
}

static int connect_sendfile(char **args)
{
    (void)args;
    int fd = connected_to(FOREIGN4), file = memfd_create("token", 0);
    if (file < 0 || deliver(file) != 0)
        broken("memfd");
    off_t start = 0;
    return sendfile(fd, file, &start, sizeof TOKEN - 1) < 0 ? refused("sendfile") : 0;
}

static int connect_splice(char **args)
{
    (void)args;
    int fd = connected_to(FOREIGN4), ends[2];
    if (pipe(ends) != 0 || deliver(ends[1]) != 0)
        broken("pipe");
    return splice(ends[0], NULL, fd, NULL, sizeof TOKEN - 1, 0) < 0 ? refused("splice") : 0;
}

/* First an allowed peer, then a foreign one. */
static int reconnect(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct address allowed = at(PROXY4, ALLOWED_PORT);
    if (connect(fd, &allowed.any, allowed.length) != 0)
        return refused("connect to the allowed peer") + 1;
    return connect_and_deliver(fd, at(FOREIGN4, PORT));
}

/* Connected to an allowed peer, but sending elsewhere. */
static int connected_sendto(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct address allowed = at(PROXY4, ALLOWED_PORT);
    if (connect(fd, &allowed.any, allowed.length) != 0)
        return refused("connect to the allowed peer") + 1;
    return sendto_and_close(fd, at(FOREIGN4, PORT), 0);
}

static int sendmsg_to(const char *ip, int family)
{
    struct address to = at(ip, PORT);
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &token, .msg_iovlen = 1};
    return sendmsg(open_socket(family, SOCK_DGRAM, 0), &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int sendmsg4(char **args) { (void)args; return sendmsg_to(FOREIGN4, AF_INET); }
static int sendmsg6(char **args) { (void)args; return sendmsg_to(FOREIGN6, AF_INET6); }
static int sendmsg_mapped(char **args) { (void)args; return sendmsg_to(MAPPED, AF_INET6); }

/* count messages, of which only the one at index leaves the allowed path. */
static int sendmmsg_leak_at(int count, int index)
{
    struct address allowed = at(PROXY4, ALLOWED_PORT), foreign = at(FOREIGN4, PORT);
    struct iovec harmless = {"harmless", 8};
    struct mmsghdr messages[128];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < count; i++) {
        messages[i].msg_hdr.msg_name = i == index ? &foreign : &allowed;
        messages[i].msg_hdr.msg_namelen = allowed.length;
        messages[i].msg_hdr.msg_iov = i == index ? &token : &harmless;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int sent = sendmmsg(open_socket(AF_INET, SOCK_DGRAM, 0), messages, count, 0);
    if (sent < 0)
        return refused("sendmmsg");
    fprintf(stderr, "sent %d\n", sent);
    if (sent != count)
        return 1;
    for (int i = 0; i < count; i++)
        if (messages[i].msg_len != messages[i].msg_hdr.msg_iov->iov_len)
            return 2;
    return 0;
}

static int sendmmsg_first(char **args) { (void)args; return sendmmsg_leak_at(3, 0); }
static int sendmmsg_second(char **args) { (void)args; return sendmmsg_leak_at(2, 1); }
static int sendmmsg_hundredth(char **args) { (void)args; return sendmmsg_leak_at(100, 99); }

/* Only the address is learnt: no datagram. */
static int disclosure(const char *ip)
{
    int fd = connected_to(ip);
    struct address local = {.length = sizeof local.storage};
    char text[64] = "";
    if (getsockname(fd, &local.any, &local.length) != 0)
        return refused("getsockname");
    if (local.any.sa_family == AF_INET)
        inet_ntop(AF_INET, &local.in4.sin_addr, text, sizeof text);
    else
        inet_ntop(AF_INET6, &local.in6.sin6_addr, text, sizeof text);
    printf("disclosed %s\n", text);
    return 0;
}

static int disclosure4(char **args) { (void)args; return disclosure(FOREIGN4); }
static int disclosure6(char **args) { (void)args; return disclosure(FOREIGN6); }

static int dns_udp(char **args)
{
    (void)args;
    static const char query[] = "\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x0fsockstrace-leak\x07invalid\0\0\x01\0\x01";
    struct address to = at(FOREIGN4, 53);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    return sendto(fd, query, sizeof query - 1, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

static int lite(const char *ip)
{
    struct address to = at(ip, PORT);
    return sendto_and_close(open_socket(to.any.sa_family, SOCK_DGRAM, IPPROTO_UDPLITE), to, 0);
}

static int udplite4(char **args) { (void)args; return lite(FOREIGN4); }
static int udplite6(char **args) { (void)args; return lite(FOREIGN6); }

static int ping4(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, 0);
    struct {
        struct icmphdr head;
        char data[sizeof TOKEN];
    } echo = {.head = {.type = ICMP_ECHO}, .data = TOKEN};
    int fd = open_socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    return sendto(fd, &echo, sizeof echo, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

static int ping6(char **args)
{
    (void)args;
    struct address to = at(FOREIGN6, 0);
    struct {
        struct icmp6_hdr head;
        char data[sizeof TOKEN];
    } echo = {.head = {.icmp6_type = ICMP6_ECHO_REQUEST}, .data = TOKEN};
    int fd = open_socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
    return sendto(fd, &echo, sizeof echo, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

/* The first part goes with MSG_MORE; a second call without address releases the datagram. */
static int corked(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    if (sendto(fd, TOKEN, sizeof TOKEN - 1, MSG_MORE, &to.any, to.length) < 0)
        return refused("sendto");
    return send(fd, "", 0, 0) < 0 ? refused("send") : 0;
}

const struct vector udp_vectors[] = {
    {"udp4-sendto", sendto4},
    {"udp6-sendto", sendto6},
    {"udp-mapped", mapped},
    {"udp-proxy-other-port", other_port},
    {"udp-any4", any4},
    {"udp-any6", any6},
    {"udp6-link-local", link_local},
    {"multicast4", multicast4},
    {"multicast6", multicast6},
    {"multicast4-interface", multicast_interface},
    {"mdns", mdns},
    {"broadcast", broadcast},
    {"broadcast-limited", limited_broadcast},
    {"udp6-inet-address", inet_on_v6},
    {"udp6-inet-connect", inet_on_v6_connect},
    {"udp4-unspec-family", unspec_family},
    {"udp4-connect-send", connect_send},
    {"udp4-connect-write", connect_write},
    {"udp6-connect-write", connect_write6},
    {"udp4-connect-writev", connect_writev},
    {"udp4-connect-sendmsg", connect_sendmsg},
    {"udp4-connect-sendmmsg", connect_sendmmsg},
    {"udp4-connect-sendfile", connect_sendfile},
    {"udp4-connect-splice", connect_splice},
    {"udp4-reconnect", reconnect},
    {"udp4-connected-sendto", connected_sendto},
    {"udp4-sendmsg", sendmsg4},
    {"udp6-sendmsg", sendmsg6},
    {"udp-mapped-sendmsg", sendmsg_mapped},
    {"sendmmsg-first", sendmmsg_first},
    {"sendmmsg-second", sendmmsg_second},
    {"sendmmsg-hundredth", sendmmsg_hundredth},
    {"udp4-disclosure", disclosure4},
    {"udp6-disclosure", disclosure6},
    {"dns-udp", dns_udp},
    {"udplite4", udplite4},
    {"udplite6", udplite6},
    {"ping4", ping4},
    {"ping6", ping6},
    {"udp4-corked", corked},
    {NULL, NULL},
};
