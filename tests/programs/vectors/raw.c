/* Sockets below TCP and UDP: raw IP, packet sockets, TUN, XDP, vsock. */
#include "common.h"
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/vm_sockets.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>

static uint16_t checksum(const void *data, size_t length)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < length; i += 2) {
        uint16_t word;
        memcpy(&word, (const char *)data + i, 2);
        sum += word;
    }
    if (length % 2)
        sum += ((const uint8_t *)data)[length - 1];
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum;
}

static int raw_icmp(char **args)
{
    (void)args;
    struct {
        struct icmphdr head;
        char data[sizeof TOKEN];
    } echo = {.head = {.type = ICMP_ECHO}, .data = TOKEN};
    echo.head.checksum = checksum(&echo, sizeof echo);
    struct address to = at(FOREIGN4, 0);
    int fd = open_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    return sendto(fd, &echo, sizeof echo, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

static int raw6_icmp(char **args)
{
    (void)args;
    struct {
        struct icmp6_hdr head;
        char data[sizeof TOKEN];
    } echo = {.head = {.icmp6_type = ICMP6_ECHO_REQUEST}, .data = TOKEN};
    struct address to = at(FOREIGN6, 0);
    int fd = open_socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    return sendto(fd, &echo, sizeof echo, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

/* An IPv4 UDP datagram to the witness, built by hand. Returns its length. */
static size_t build_datagram(char *buffer)
{
    struct {
        struct iphdr ip;
        struct udphdr udp;
        char data[sizeof TOKEN - 1];
    } __attribute__((packed)) packet = {
        .ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
               .saddr = inet_addr(FOREIGN4), .daddr = inet_addr(FOREIGN4)},
        .udp = {.uh_sport = htons(4000), .uh_dport = htons(PORT), .uh_ulen = htons(8 + sizeof TOKEN - 1)},
    };
    memcpy(packet.data, TOKEN, sizeof packet.data);
    packet.ip.tot_len = htons(sizeof packet);
    packet.ip.check = checksum(&packet.ip, sizeof packet.ip);
    memcpy(buffer, &packet, sizeof packet);
    return sizeof packet;
}

static int raw_header(char **args)
{
    (void)args;
    char packet[128];
    size_t length = build_datagram(packet);
    struct address to = at(FOREIGN4, 0);
    int fd = open_socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    return sendto(fd, packet, length, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

/* The kernel adds the IP header. */
static int raw_udp(char **args)
{
    (void)args;
    char packet[128];
    size_t length = build_datagram(packet) - sizeof(struct iphdr);
    struct address to = at(FOREIGN4, 0);
    int fd = open_socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    return sendto(fd, packet + sizeof(struct iphdr), length, 0, &to.any, to.length) < 0 ? refused("sendto") : 0;
}

static int raw_connected(char **args)
{
    (void)args;
    char packet[128];
    size_t length = build_datagram(packet) - sizeof(struct iphdr);
    struct address to = at(FOREIGN4, 0);
    int fd = open_socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    if (connect(fd, &to.any, to.length) != 0)
        return refused("connect");
    return write(fd, packet + sizeof(struct iphdr), length) < 0 ? refused("write") : 0;
}

/* An Ethernet frame on the loopback interface. */
static int send_frame(int fd)
{
    char frame[160] = {0};
    frame[12] = ETH_P_IP >> 8;
    size_t length = 14 + build_datagram(frame + 14);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
                             .sll_ifindex = if_nametoindex("lo"), .sll_halen = 6};
    return sendto(fd, frame, length, 0, (struct sockaddr *)&to, sizeof to) < 0 ? refused("sendto") : 0;
}

static int packet_raw(char **args)
{
    (void)args;
    return send_frame(open_socket(AF_PACKET, SOCK_RAW, 0));
}

/* Bound to the interface, then plain write. */
static int packet_bound(char **args)
{
    (void)args;
    int fd = open_socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
                             .sll_ifindex = if_nametoindex("lo")};
    if (bind(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return refused("bind");
    char frame[160] = {0};
    frame[12] = ETH_P_IP >> 8;
    size_t length = 14 + build_datagram(frame + 14);
    return write(fd, frame, length) < 0 ? refused("write") : 0;
}

/* A bound packet socket that was there before. */
static int inherited_frame(char **args)
{
    char frame[160] = {0};
    frame[12] = ETH_P_IP >> 8;
    size_t length = 14 + build_datagram(frame + 14);
    return write(atoi(args[0]), frame, length) < 0 ? refused("write") : 0;
}

static int packet_dgram(char **args)
{
    (void)args;
    char packet[128];
    size_t length = build_datagram(packet);
    int fd = open_socket(AF_PACKET, SOCK_DGRAM, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
                             .sll_ifindex = if_nametoindex("lo"), .sll_halen = 6};
    return sendto(fd, packet, length, 0, (struct sockaddr *)&to, sizeof to) < 0 ? refused("sendto") : 0;
}

/* socket(AF_INET, SOCK_PACKET) becomes a packet socket inside the kernel. */
static int packet_obsolete(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_PACKET, htons(ETH_P_ALL));
    char frame[160] = {0};
    frame[12] = ETH_P_IP >> 8;
    size_t length = 14 + build_datagram(frame + 14);
    struct sockaddr_pkt {
        unsigned short family;
        unsigned char device[14];
        unsigned short protocol;
    } to = {.family = AF_PACKET, .device = "lo", .protocol = htons(ETH_P_IP)};
    return sendto(fd, frame, length, 0, (struct sockaddr *)&to, sizeof to) < 0 ? refused("sendto") : 0;
}

/* A packet written to a TUN interface comes in as if from outside. */
static int tun(char **args)
{
    (void)args;
    int fd = open("/dev/net/tun", O_RDWR);
    if (fd < 0)
        broken("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    if (ioctl(fd, TUNSETIFF, &request) != 0)
        return refused("TUNSETIFF");
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(control, SIOCSIFFLAGS, &request) != 0)
        return refused("SIOCSIFFLAGS");
    char packet[128];
    return write(fd, packet, build_datagram(packet)) < 0 ? refused("write") : 0;
}

/* Only opened: sending needs a whole set of rings. */
static int xdp(char **args)
{
    (void)args;
    open_socket(44 /* AF_XDP */, SOCK_RAW, 0);
    return 0;
}

static int xfrm(char **args)
{
    (void)args;
    open_socket(AF_NETLINK, SOCK_RAW, 6 /* NETLINK_XFRM */);
    return 0;
}

/* CID 1 is this machine itself; without its transport the kernel refuses. Never the hypervisor's CID 2. */
static int vsock(char **args)
{
    (void)args;
    int fd = open_socket(AF_VSOCK, SOCK_STREAM, 0);
    struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = PORT};
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return refused("connect");
    return deliver(fd);
}

const struct vector raw_vectors[] = {
    {"raw-icmp", raw_icmp},
    {"raw6-icmp", raw6_icmp},
    {"raw-header", raw_header},
    {"raw-udp", raw_udp},
    {"raw-connected", raw_connected},
    {"packet-raw", packet_raw},
    {"packet-bound", packet_bound},
    {"inherited-frame", inherited_frame},
    {"packet-dgram", packet_dgram},
    {"packet-obsolete", packet_obsolete},
    {"tun", tun},
    {"xfrm", xfrm},
    {"xdp", xdp},
    {"vsock", vsock},
    {NULL, NULL},
};
