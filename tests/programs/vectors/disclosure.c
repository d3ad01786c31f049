/* The host's network shows itself without a packet, under --disclosure leak. Prints what it learnt. */
#include "common.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/ioctl.h>

enum how { BY_SENDTO, BY_SENDMSG, BY_SEND, BY_WRITE, BY_SENDMMSG };

/* Asks for a dump and reads the first answer. */
static int dump(int request, enum how how)
{
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } ask = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof ask.body), .nlmsg_type = request,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.rtgen_family = AF_UNSPEC},
    };
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct iovec data = {&ask, ask.head.nlmsg_len};
    struct mmsghdr message = {
        .msg_hdr = {.msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &data, .msg_iovlen = 1}};
    int fd = open_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    ssize_t sent = -1;
    switch (how) {
    case BY_SENDTO:
        sent = sendto(fd, &ask, data.iov_len, 0, (struct sockaddr *)&kernel, sizeof kernel);
        break;
    case BY_SENDMSG:
        sent = sendmsg(fd, &message.msg_hdr, 0);
        break;
    case BY_SEND:
        sent = send(fd, &ask, data.iov_len, 0);
        break;
    case BY_WRITE:
        sent = write(fd, &ask, data.iov_len);
        break;
    case BY_SENDMMSG:
        sent = sendmmsg(fd, &message, 1, 0);
        break;
    }
    if (sent < 0)
        return refused("netlink request");
    char buffer[32768];
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    const struct nlmsghdr *answer = (const struct nlmsghdr *)buffer;
    if (got < (ssize_t)sizeof *answer || answer->nlmsg_type == NLMSG_ERROR)
        return refused("netlink answer");
    printf("disclosed message %d of %zd bytes\n", answer->nlmsg_type, got);
    return 0;
}

static int addresses(char **args) { (void)args; return dump(RTM_GETADDR, BY_SENDTO); }
static int addresses_sendmsg(char **args) { (void)args; return dump(RTM_GETADDR, BY_SENDMSG); }
static int addresses_sendmmsg(char **args) { (void)args; return dump(RTM_GETADDR, BY_SENDMMSG); }
static int addresses_send(char **args) { (void)args; return dump(RTM_GETADDR, BY_SEND); }
static int addresses_write(char **args) { (void)args; return dump(RTM_GETADDR, BY_WRITE); }
static int routes(char **args) { (void)args; return dump(RTM_GETROUTE, BY_SENDTO); }
static int links(char **args) { (void)args; return dump(RTM_GETLINK, BY_SENDTO); }

static int by_getifaddrs(char **args)
{
    (void)args;
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0)
        return refused("getifaddrs");
    printf("disclosed %s\n", list->ifa_name);
    return 0;
}

static int siocgifconf(char **args)
{
    (void)args;
    struct ifreq entries[8];
    struct ifconf request = {.ifc_len = sizeof entries, .ifc_req = entries};
    if (ioctl(open_socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFCONF, &request) != 0)
        return refused("SIOCGIFCONF");
    printf("disclosed %zu interfaces\n", request.ifc_len / sizeof entries[0]);
    return 0;
}

static int siocgif(unsigned long request, const char *what)
{
    struct ifreq entry = {.ifr_name = LINK};
    if (ioctl(open_socket(AF_INET, SOCK_DGRAM, 0), request, &entry) != 0)
        return refused(what);
    printf("disclosed %s\n", what);
    return 0;
}

static int siocgifaddr(char **args) { (void)args; return siocgif(SIOCGIFADDR, "SIOCGIFADDR"); }
static int siocgifhwaddr(char **args) { (void)args; return siocgif(SIOCGIFHWADDR, "SIOCGIFHWADDR"); }

/* Rubbish above the 32 bits of the request, on a TCP socket: the kernel ignores it. */
static int siocgif_high(char **args)
{
    (void)args;
    struct ifreq entry = {.ifr_name = LINK};
    unsigned long long rubbish = 0x1234500000000ULL;
    int fd = open_socket(AF_INET6, SOCK_STREAM, 0);
    if (syscall(SYS_ioctl, fd, SIOCGIFHWADDR | (unsigned long)rubbish, &entry) != 0)
        return refused("SIOCGIFHWADDR");
    puts("disclosed SIOCGIFHWADDR");
    return 0;
}

const struct vector disclosure_vectors[] = {
    {"netlink-addresses", addresses},
    {"netlink-addresses-sendmsg", addresses_sendmsg},
    {"netlink-addresses-sendmmsg", addresses_sendmmsg},
    {"netlink-addresses-send", addresses_send},
    {"netlink-addresses-write", addresses_write},
    {"netlink-routes", routes},
    {"netlink-links", links},
    {"getifaddrs", by_getifaddrs},
    {"siocgifconf", siocgifconf},
    {"siocgifaddr", siocgifaddr},
    {"siocgifhwaddr", siocgifhwaddr},
    {"siocgif-high-request", siocgif_high},
    {NULL, NULL},
};
