/* Asks a resolver in every way in which a datagram or a stream can go there and an answer come back, and
 * prints what a program can see of it: the same natively and under sockstrace.
 *
 * dns-client RESOLVER OTHER_RESOLVER [WAY]: both as IP addresses of one family (IPv4-mapped ones are IPv6). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define A 1
#define AAAA 28

static struct sockaddr_storage resolver, other;
static socklen_t length;
static int family;

static const char *named(int error)
{
    return error ? strerrorname_np(error) : "ok";
}

static void parse(const char *text, struct sockaddr_storage *to)
{
    struct sockaddr_in *four = (void *)to;
    struct sockaddr_in6 *six = (void *)to;
    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = family = AF_INET;
        four->sin_port = htons(53);
        length = sizeof *four;
    } else if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
        six->sin6_family = family = AF_INET6;
        six->sin6_port = htons(53);
        length = sizeof *six;
    } else {
        fprintf(stderr, "no address: %s\n", text);
        exit(2);
    }
}

static const char *shown(const struct sockaddr_storage *address)
{
    static char text[80];
    char ip[64] = "?";
    const struct sockaddr_in *four = (const void *)address;
    const struct sockaddr_in6 *six = (const void *)address;
    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &four->sin_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "%s:%d", ip, ntohs(four->sin_port));
    } else if (address->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &six->sin6_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "[%s%%%u]:%d", ip, six->sin6_scope_id, ntohs(six->sin6_port));
    } else {
        snprintf(text, sizeof text, "family %d", address->ss_family);
    }
    return text;
}

/* A query for www.site.example. */
static size_t query(unsigned char *into, int id, int kind)
{
    static const char rest[] = "\1\0\0\1\0\0\0\0\0\0\3wWw\4site\7example\0\0";
    into[0] = id >> 8;
    into[1] = id;
    memcpy(into + 2, rest, sizeof rest);
    size_t size = 2 + sizeof rest;
    into[size - 1] = kind;
    into[size++] = 0;
    into[size++] = 1;
    return size;
}

/* What an answer says: id, and the last record's data. */
static void show(const char *what, const unsigned char *bytes, long size)
{
    char ip[64] = "-";
    if (size < 12) {
        printf("  %s: %ld bytes\n", what, size);
        return;
    }
    int answers = bytes[6] << 8 | bytes[7];
    int v4 = answers && size > 16 && bytes[size - 6] == 0 && bytes[size - 5] == 4;
    if (v4)
        inet_ntop(AF_INET, bytes + size - 4, ip, sizeof ip);
    else if (answers && size > 28)
        inet_ntop(AF_INET6, bytes + size - 16, ip, sizeof ip);
    printf("  %s: id %d code %d name %.4s answer %s\n", what, bytes[0] << 8 | bytes[1], bytes[3] & 15, bytes + 12, ip);
}

static int datagram(void)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void show_peer(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof peer;
    int failed = getpeername(fd, (void *)&peer, &size);
    printf("  peer: %s, %s, %u bytes\n", named(failed ? errno : 0), failed ? "-" : shown(&peer), failed ? 0 : size);
}

static void receive_from(int fd)
{
    unsigned char buffer[600];
    struct sockaddr_storage from = {0};
    socklen_t size = sizeof from;
    ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &size);
    if (got < 0) {
        printf("  recvfrom: %s\n", named(errno));
        return;
    }
    show("recvfrom", buffer, got);
    printf("  from %s, %u bytes\n", shown(&from), size);
}

static void receive_message(int fd, size_t room, socklen_t name_room, int flags)
{
    unsigned char buffer[600];
    char control[256] = {0};
    struct sockaddr_storage from = {0};
    struct iovec parts[2] = {{buffer, room < 20 ? room : 20}, {buffer + 20, room < 20 ? 0 : room - 20}};
    struct msghdr message = {&from, name_room, parts, 2, control, sizeof control, -1};
    ssize_t got = recvmsg(fd, &message, flags);
    if (got < 0) {
        printf("  recvmsg: %s\n", named(errno));
        return;
    }
    show("recvmsg", buffer, got < (ssize_t)room ? got : (ssize_t)room);
    from.ss_family = name_room ? from.ss_family : 0;
    printf("  from %s, %u bytes, flags %x, control %zu\n", shown(&from), message.msg_namelen, message.msg_flags,
           (size_t)message.msg_controllen);
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
        printf("  control message %d/%d of %zu bytes\n", one->cmsg_level, one->cmsg_type, (size_t)one->cmsg_len);
}

static void sendto_recvfrom(void)
{
    unsigned char bytes[80];
    int fd = datagram();
    long sent = sendto(fd, bytes, query(bytes, 1, A), 0, (void *)&resolver, length);
    printf("  sent %ld\n", sent);
    receive_from(fd);
    show_peer(fd);
    close(fd);
}

static void sendmsg_recvmsg(void)
{
    unsigned char bytes[80];
    int fd = datagram();
    struct iovec part = {bytes, query(bytes, 2, AAAA)};
    struct msghdr message = {&resolver, length, &part, 1, NULL, 0, 0};
    printf("  sent %zd\n", sendmsg(fd, &message, 0));
    receive_message(fd, 600, sizeof resolver, 0);
    close(fd);
}

/* Two messages at once, to two resolvers, as musl asks. */
static void sendmmsg_recvmmsg(void)
{
    unsigned char asked[2][80], answered[2][600];
    struct sockaddr_storage from[2] = {0};
    int fd = datagram();
    struct iovec out[2] = {{asked[0], query(asked[0], 3, A)}, {asked[1], query(asked[1], 4, AAAA)}};
    struct iovec in[2] = {{answered[0], 600}, {answered[1], 600}};
    struct mmsghdr sent[2] = {{{&resolver, length, &out[0], 1, NULL, 0, 0}, 0},
                              {{&other, length, &out[1], 1, NULL, 0, 0}, 0}};
    struct mmsghdr got[2] = {{{&from[0], sizeof from[0], &in[0], 1, NULL, 0, 0}, 0},
                             {{&from[1], sizeof from[1], &in[1], 1, NULL, 0, 0}, 0}};
    struct timespec patience = {10, 0};
    int count = sendmmsg(fd, sent, 2, 0);
    printf("  sent %d: %u and %u\n", count, sent[0].msg_len, sent[1].msg_len);
    count = recvmmsg(fd, got, 2, 0, &patience);
    printf("  received %d, %s\n", count, patience.tv_sec < 10 ? "time has passed" : "no time has passed");
    /* In the order in which they were asked for. */
    int swapped = count == 2 && answered[0][1] > answered[1][1];
    for (int i = 0; i < count; i++) {
        int one = swapped ? 1 - i : i;
        show("recvmmsg", answered[one], got[one].msg_len);
        printf("  from %s, %u bytes\n", shown(&from[one]), got[one].msg_hdr.msg_namelen);
    }
    close(fd);
}

static void connected_send_recv(void)
{
    unsigned char bytes[600];
    int fd = datagram();
    printf("  connect %d\n", connect(fd, (void *)&resolver, length));
    show_peer(fd);
    printf("  sent %zd\n", send(fd, bytes, query(bytes, 5, A), 0));
    show("recv", bytes, recv(fd, bytes, sizeof bytes, 0));
    printf("  wrote %zd\n", write(fd, bytes, query(bytes, 6, AAAA)));
    show("read", bytes, read(fd, bytes, sizeof bytes));
    printf("  sent %zd\n", sendto(fd, bytes, query(bytes, 7, A), 0, (void *)&resolver, length));
    receive_from(fd);
    printf("  sent elsewhere %zd\n", sendto(fd, bytes, query(bytes, 8, A), 0, (void *)&other, length));
    struct sockaddr_storage nobody = {.ss_family = AF_UNSPEC};
    printf("  dissolved %d\n", connect(fd, (void *)&nobody, sizeof(struct sockaddr_in)));
    show_peer(fd);
    printf("  connect %d\n", connect(fd, (void *)&other, length));
    show_peer(fd);
    printf("  sent %zd\n", send(fd, bytes, query(bytes, 9, A), 0));
    receive_message(fd, 600, sizeof resolver, 0);
    close(fd);
}

/* As the C library asks: both queries in one call, on a connected socket that reports errors. */
static void connected_sendmmsg(void)
{
    unsigned char asked[2][80];
    int fd = datagram(), on = 1, received = 0;
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
    printf("  connect %d\n", connect(fd, (void *)&resolver, length));
    struct iovec out[2] = {{asked[0], query(asked[0], 10, A)}, {asked[1], query(asked[1], 11, A)}};
    struct mmsghdr sent[2] = {{{NULL, 0, &out[0], 1, NULL, 0, 0}, 0}, {{NULL, 0, &out[1], 1, NULL, 0, 0}, 0}};
    int count = sendmmsg(fd, sent, 2, MSG_NOSIGNAL);
    printf("  sent %d: %u and %u\n", count, sent[0].msg_len, sent[1].msg_len);
    for (int i = 0; i < 2; i++) {
        unsigned char buffer[600];
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &size);
        if (got > 12 && memcmp(&from, &resolver, sizeof(struct sockaddr_in)) == 0)
            received |= buffer[1] == 10 ? 1 : 2;
    }
    printf("  received %d\n", received);
    close(fd);
}

/* Registrations and duplicates made before the socket is used. */
static void epoll_and_duplicates(void)
{
    unsigned char bytes[600];
    int fd = datagram(), copy = dup(fd), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, ready = {0};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    receive_from(fd);
    printf("  connect %d\n", connect(fd, (void *)&resolver, length));
    receive_message(copy, 600, sizeof resolver, 0);
    printf("  sent %zd\n", send(copy, bytes, query(bytes, 12, A), 0));
    printf("  ready %d\n", epoll_wait(poll, &ready, 1, 10000));
    receive_from(copy);
    receive_from(fd);
    show_peer(copy);
    if (fork() == 0) {
        printf("  sent %zd\n", send(fd, bytes, query(bytes, 13, A), 0));
        epoll_wait(poll, &ready, 1, 10000);
        receive_message(fd, 600, sizeof resolver, 0);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    close(poll);
    close(copy);
    close(fd);
}

/* Little room for the answer, its source, and control messages. */
static void little_room(void)
{
    unsigned char bytes[80];
    int fd = datagram(), on = 1;
    setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on);
    for (int i = 0; i < 4; i++)
        sendto(fd, bytes, query(bytes, 14, A), 0, (void *)&resolver, length);
    receive_message(fd, 30, sizeof resolver, 0);
    receive_message(fd, 30, sizeof resolver, MSG_TRUNC | MSG_PEEK);
    receive_message(fd, 600, 4, 0);
    receive_message(fd, 600, 0, 0);
    struct sockaddr_storage from = {0};
    socklen_t size = 6;
    ssize_t got = recvfrom(fd, bytes, 0, MSG_TRUNC, (void *)&from, &size);
    printf("  recvfrom without room: %d, %u bytes of the source, port %d\n", got > 12, size,
           ntohs(((struct sockaddr_in *)&from)->sin_port));
    printf("  bad address: %zd %s\n", recvfrom(fd, bytes, 80, MSG_DONTWAIT, (void *)&from, NULL), named(errno));
    close(fd);
}

static void *receiver(void *fd)
{
    receive_from(*(int *)fd);
    return NULL;
}

/* Somebody waits for the answer before the question is sent. */
static void receiver_first(void)
{
    unsigned char bytes[80];
    int fd = datagram();
    pthread_t thread;
    struct sockaddr_storage any = {.ss_family = family};
    printf("  bind %d\n", bind(fd, (void *)&any, length));
    pthread_create(&thread, NULL, receiver, &fd);
    usleep(100000);
    sendto(fd, bytes, query(bytes, 15, A), 0, (void *)&resolver, length);
    pthread_join(thread, NULL);
    struct timeval brief = {0, 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
    receive_from(fd);
    receive_message(fd, 600, sizeof resolver, 0);
    close(fd);
}

static int stream(void)
{
    struct timeval patience = {10, 0};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void stream_answer(int fd)
{
    unsigned char bytes[602];
    ssize_t got = 0, more = 1;
    while (more > 0 && (got < 2 || got < 2 + (bytes[0] << 8 | bytes[1]))) {
        more = recv(fd, bytes + got, sizeof bytes - got, 0);
        got += more > 0 ? more : 0;
    }
    show("stream", bytes + 2, got - 2);
}

static void by_stream(void)
{
    unsigned char bytes[200];
    int fd = stream();
    printf("  connect %d\n", connect(fd, (void *)&resolver, length));
    show_peer(fd);
    size_t first = query(bytes + 2, 16, A);
    bytes[0] = 0;
    bytes[1] = first;
    printf("  wrote %zd\n", write(fd, bytes, 9));
    usleep(20000);
    printf("  wrote %zd\n", write(fd, bytes + 9, first + 2 - 9));
    stream_answer(fd);
    printf("  connect %d", connect(fd, (void *)&resolver, length));
    printf(" %s\n", named(errno));
    close(fd);
    /* Without a connect. */
    fd = stream();
    printf("  sent %zd\n", sendto(fd, bytes, first + 2, MSG_FASTOPEN, (void *)&resolver, length));
    stream_answer(fd);
    show_peer(fd);
    close(fd);
    fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int failed = connect(fd, (void *)&resolver, length);
    printf("  connect %s\n", failed ? named(errno) : "at once");
    struct epoll_event event = {.events = EPOLLOUT}, ready = {0};
    int poll = epoll_create1(0);
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    printf("  ready %d\n", epoll_wait(poll, &ready, 1, 10000));
    socklen_t size = sizeof failed;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    printf("  error %s\n", named(failed));
    show_peer(fd);
    close(poll);
    close(fd);
}

/* Not UDP at all: left as they are. */
static void others(void)
{
    char text[8] = "";
    int pair[2];
    struct iovec part = {text, sizeof text};
    struct msghdr message = {NULL, 0, &part, 1, NULL, 0, 0};
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    send(pair[0], "hello", 5, 0);
    printf("  recvmsg %zd %s\n", recvmsg(pair[1], &message, 0), text);
    printf("  recvmsg %zd", recvmsg(pair[1], &message, MSG_DONTWAIT));
    printf(" %s\n", named(errno));
    show_peer(pair[0]);
    printf("  closed: %zd", recvmsg(-1, &message, 0));
    printf(" %s\n", named(errno));
    printf("  file: %d", getpeername(0, (void *)&resolver, NULL));
    printf(" %s\n", named(errno));
}

static const struct {
    const char *name;
    void (*go)(void);
} ways[] = {
    {"sendto-recvfrom", sendto_recvfrom},
    {"sendmsg-recvmsg", sendmsg_recvmsg},
    {"sendmmsg-recvmmsg", sendmmsg_recvmmsg},
    {"connected", connected_send_recv},
    {"connected-sendmmsg", connected_sendmmsg},
    {"epoll-and-duplicates", epoll_and_duplicates},
    {"little-room", little_room},
    {"receiver-first", receiver_first},
    {"stream", by_stream},
    {"others", others},
};

int main(int count, char **arguments)
{
    if (count < 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    parse(arguments[2], &other);
    parse(arguments[1], &resolver);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (count > 3 && strcmp(arguments[3], ways[i].name) != 0)
            continue;
        printf("%s\n", ways[i].name);
        ways[i].go();
    }
    return 0;
}
