/*
 * Traffic to an allowed address that is sent by another way (source routing), and packets that the
 * kernel sends by itself (group membership).
 */
#include "common.h"
#include <linux/ipv6.h>
#include <linux/seg6.h>
#include <netinet/ip.h>

#define GROUP4 "239.1.2.3"
#define GROUP6 "ff02::1234"

/* Loose source route by FOREIGN4: LSRR, length, pointer, one hop. */
static void build_lsrr(unsigned char *options)
{
    uint32_t hop = inet_addr(FOREIGN4);
    options[0] = IPOPT_NOP;
    options[1] = IPOPT_LSRR;
    options[2] = 7;
    options[3] = 4;
    memcpy(options + 4, &hop, 4);
}

static int lsrr_udp(char **args)
{
    (void)args;
    unsigned char options[8];
    build_lsrr(options);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    if (setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, sizeof options) != 0)
        return refused("IP_OPTIONS");
    return sendto_and_close(fd, at(PROXY4, ALLOWED_PORT), 0);
}

static int lsrr_tcp(char **args)
{
    (void)args;
    unsigned char options[8];
    build_lsrr(options);
    int fd = open_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, sizeof options) != 0)
        return refused("IP_OPTIONS");
    struct address to = at(PROXY4, PROXY_PORT);
    /* The SYN goes to the hop; nobody answers, as a source route isn't accepted by default. */
    if (connect(fd, &to.any, to.length) != 0 && errno != EINPROGRESS)
        return refused("connect");
    return 0;
}

/* The routed hop as control data of one message. */
static int send_with_control(struct address to, int level, int type, const void *data, size_t length)
{
    union {
        struct cmsghdr head;
        char bytes[256];
    } control = {0};
    struct iovec payload = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &payload, .msg_iovlen = 1,
                             .msg_control = &control, .msg_controllen = CMSG_SPACE(length)};
    control.head.cmsg_level = level;
    control.head.cmsg_type = type;
    control.head.cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(&control.head), data, length);
    int fd = open_socket(to.any.sa_family, SOCK_DGRAM, 0);
    return sendmsg(fd, &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int lsrr_control(char **args)
{
    (void)args;
    unsigned char options[8];
    build_lsrr(options);
    return send_with_control(at(PROXY4, ALLOWED_PORT), IPPROTO_IP, IP_RETOPTS, options, sizeof options);
}

/* The route with the second of two messages to the same destination: the kernel asks its security modules but once. */
static int lsrr_second(char **args)
{
    (void)args;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(8)];
    } control = {.head = {.cmsg_level = IPPROTO_IP, .cmsg_type = IP_RETOPTS, .cmsg_len = CMSG_LEN(8)}};
    build_lsrr(CMSG_DATA(&control.head));
    struct address to = at(PROXY4, ALLOWED_PORT);
    struct iovec payload = {TOKEN, sizeof TOKEN - 1};
    struct msghdr plain = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &payload, .msg_iovlen = 1};
    struct mmsghdr messages[2] = {{.msg_hdr = plain}, {.msg_hdr = plain}};
    messages[1].msg_hdr.msg_control = &control;
    messages[1].msg_hdr.msg_controllen = sizeof control;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0), sent = sendmmsg(fd, messages, 2, 0);
    return sent < 2 ? refused("sendmmsg") : 0;
}

/* A segment routing header (type 4) whose first segment is FOREIGN6. */
struct segments {
    struct ipv6_sr_hdr head;
    struct in6_addr list[2];
};

static void build_segments(struct segments *header)
{
    memset(header, 0, sizeof *header);
    header->head.hdrlen = (sizeof *header >> 3) - 1;
    header->head.type = 4;
    header->head.segments_left = header->head.first_segment = 1;
    header->list[1] = at(FOREIGN6, 0).in6.sin6_addr; /* visited first */
}

static int rthdr_udp(char **args)
{
    (void)args;
    struct segments header;
    build_segments(&header);
    int fd = open_socket(AF_INET6, SOCK_DGRAM, 0);
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header) != 0)
        return refused("IPV6_RTHDR");
    return sendto_and_close(fd, at(PROXY6, ALLOWED_PORT), 0);
}

static int rthdr_tcp(char **args)
{
    (void)args;
    struct segments header;
    build_segments(&header);
    int fd = open_socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header) != 0)
        return refused("IPV6_RTHDR");
    struct address to = at(PROXY6, PROXY_PORT);
    if (connect(fd, &to.any, to.length) != 0 && errno != EINPROGRESS)
        return refused("connect");
    return 0;
}

/* The option set after an allowed connect: later segments take the other way. */
static int rthdr_late(char **args)
{
    (void)args;
    struct segments header;
    build_segments(&header);
    int fd = open_socket(AF_INET6, SOCK_STREAM, 0);
    struct address to = at(PROXY6, PROXY_PORT);
    if (connect(fd, &to.any, to.length) != 0)
        return refused("connect to the proxy") + 1;
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header) != 0)
        return refused("IPV6_RTHDR");
    return deliver(fd);
}

static int rthdr_control(char **args)
{
    (void)args;
    struct segments header;
    build_segments(&header);
    return send_with_control(at(PROXY6, ALLOWED_PORT), IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header);
}

/* A flow label leased with options: all that is sent with it takes their route. Of routing headers Linux takes type
 * 2 here (Mobile IPv6), which names the next hop alone. */
static int lease_route(int fd, uint32_t *label)
{
    struct {
        struct in6_flowlabel_req request;
        struct cmsghdr head;
        struct rt2_hdr header;
    } lease = {
        .request = {.flr_dst = at(PROXY6, 0).in6.sin6_addr, .flr_action = IPV6_FL_A_GET, .flr_share = IPV6_FL_S_EXCL,
                    .flr_flags = IPV6_FL_F_CREATE},
        .head = {.cmsg_len = CMSG_LEN(sizeof(struct rt2_hdr)), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_RTHDR},
        .header = {.rt_hdr = {.hdrlen = 2, .type = 2, .segments_left = 1}, .addr = at(FOREIGN6, 0).in6.sin6_addr},
    };
    _Static_assert(offsetof(__typeof__(lease), header) == 32 + CMSG_LEN(0), "the data follow their head");
    int result = setsockopt(fd, IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, &lease, sizeof lease);
    *label = lease.request.flr_label;
    return result;
}

static int probe_flow_route(char **args)
{
    (void)args;
    uint32_t label;
    return lease_route(open_socket(AF_INET6, SOCK_DGRAM, 0), &label) != 0 ? refused("IPV6_FLOWLABEL_MGR") : 0;
}

static int flow_route(char **args)
{
    (void)args;
    uint32_t label;
    int on = 1, fd = open_socket(AF_INET6, SOCK_DGRAM, 0);
    if (lease_route(fd, &label) != 0)
        return refused("IPV6_FLOWLABEL_MGR");
    struct address to = at(PROXY6, ALLOWED_PORT);
    to.in6.sin6_flowinfo = label;
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, &on, sizeof on) != 0)
        return refused("IPV6_FLOWINFO_SEND");
    return sendto_and_close(fd, to, 0);
}

/* The RFC 2292 way: a whole set of control data as a socket option. */
static int rthdr_pktoptions(char **args)
{
    (void)args;
    struct segments header;
    build_segments(&header);
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(struct segments))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof header), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_2292RTHDR}};
    memcpy(CMSG_DATA(&control.head), &header, sizeof header);
    int fd = open_socket(AF_INET6, SOCK_DGRAM, 0);
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_2292PKTOPTIONS, &control, sizeof control) != 0)
        return refused("IPV6_2292PKTOPTIONS");
    return sendto_and_close(fd, at(PROXY6, ALLOWED_PORT), 0);
}

/* The interface chosen by control data, on the way to a foreign address. */
static int pktinfo_control(char **args)
{
    (void)args;
    struct in_pktinfo info = {.ipi_ifindex = if_nametoindex("lo")};
    return send_with_control(at(FOREIGN4, PORT), IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
}

/* A destination that stays in the host, or so it seems: the socket's interface decides. */
static int chosen(int level, int option, const void *value, socklen_t length)
{
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    if (setsockopt(fd, level, option, value, length) != 0)
        return refused("setsockopt");
    return sendto_and_close(fd, at("127.0.0.1", PORT), 0);
}

static int bind_device(char **args)
{
    (void)args;
    return chosen(SOL_SOCKET, SO_BINDTODEVICE, LINK, sizeof LINK);
}

static int bind_index(char **args)
{
    (void)args;
    int index = if_nametoindex(LINK);
    return chosen(SOL_SOCKET, 62 /* SO_BINDTOIFINDEX */, &index, sizeof index);
}

static int unicast_interface(char **args)
{
    (void)args;
    uint32_t index = htonl(if_nametoindex(LINK));
    return chosen(IPPROTO_IP, 50 /* IP_UNICAST_IF */, &index, sizeof index);
}

static int pktinfo_loopback(char **args)
{
    (void)args;
    struct in_pktinfo info = {.ipi_ifindex = if_nametoindex(LINK)};
    return send_with_control(at("127.0.0.1", PORT), IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
}

static int igmp(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct ip_mreqn group = {.imr_ifindex = if_nametoindex(LINK)};
    group.imr_multiaddr.s_addr = inet_addr(GROUP4);
    if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) != 0)
        return refused("IP_ADD_MEMBERSHIP");
    sleep_ms(150);
    return 0;
}

static int join_group(struct address group, int level, int option)
{
    struct group_req request = {.gr_interface = if_nametoindex(LINK)};
    memcpy(&request.gr_group, &group.storage, group.length);
    int fd = open_socket(group.any.sa_family, SOCK_DGRAM, 0);
    if (setsockopt(fd, level, option, &request, sizeof request) != 0)
        return refused("MCAST_JOIN_GROUP");
    sleep_ms(150);
    return 0;
}

static int igmp_group_req(char **args) { (void)args; return join_group(at(GROUP4, 0), IPPROTO_IP, MCAST_JOIN_GROUP); }
static int mld_group_req(char **args) { (void)args; return join_group(at(GROUP6, 0), IPPROTO_IPV6, MCAST_JOIN_GROUP); }

static int igmp_source(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct ip_mreq_source request = {.imr_multiaddr.s_addr = inet_addr(GROUP4),
                                     .imr_interface.s_addr = inet_addr("198.51.100.1"),
                                     .imr_sourceaddr.s_addr = inet_addr(FOREIGN4)};
    if (setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &request, sizeof request) != 0)
        return refused("IP_ADD_SOURCE_MEMBERSHIP");
    sleep_ms(150);
    return 0;
}

static int mld(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET6, SOCK_DGRAM, 0);
    struct ipv6_mreq group = {.ipv6mr_interface = if_nametoindex(LINK)};
    group.ipv6mr_multiaddr = at(GROUP6, 0).in6.sin6_addr;
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &group, sizeof group) != 0)
        return refused("IPV6_ADD_MEMBERSHIP");
    sleep_ms(150);
    return 0;
}

const struct vector route_vectors[] = {
    {"lsrr-udp", lsrr_udp},
    {"lsrr-tcp", lsrr_tcp},
    {"lsrr-control", lsrr_control},
    {"lsrr-second", lsrr_second},
    {"rthdr-udp", rthdr_udp},
    {"rthdr-tcp", rthdr_tcp},
    {"rthdr-late", rthdr_late},
    {"rthdr-control", rthdr_control},
    {"rthdr-pktoptions", rthdr_pktoptions},
    {"rthdr-flow-label", flow_route},
    {"probe-flow-route", probe_flow_route},
    {"pktinfo-control", pktinfo_control},
    {"pktinfo-loopback", pktinfo_loopback},
    {"bind-device", bind_device},
    {"bind-index", bind_index},
    {"unicast-interface", unicast_interface},
    {"igmp-join", igmp},
    {"igmp-join-group-req", igmp_group_req},
    {"igmp-join-source", igmp_source},
    {"mld-join", mld},
    {"mld-join-group-req", mld_group_req},
    {NULL, NULL},
};
