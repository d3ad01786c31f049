/*
 * Traffic that is no leak: `quiet NAME` does it, and exits with 0 when all of it worked. Every result that
 * a tracer could spoil is checked here.
 */
#include "vectors/common.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
            _exit(1);                                                                 \
        }                                                                             \
    } while (0)

static int new_socket(int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    CHECK(fd >= 0);
    return fd;
}

/* Sends one byte with a descriptor and the sender's credentials; the other side checks both. */
static void pass_descriptor(int from, int to)
{
    int on = 1, pipe_ends[2];
    CHECK(setsockopt(to, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    CHECK(pipe(pipe_ends) == 0);
    char byte = 'x';
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr head;
        char bytes[256];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(sizeof(int))};
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &pipe_ends[1], sizeof(int));
    CHECK(sendmsg(from, &message, 0) == 1);
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(to, &message, 0) == 1);
    int passed = -1;
    pid_t sender = -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_type == SCM_RIGHTS)
            memcpy(&passed, CMSG_DATA(head), sizeof passed);
        if (head->cmsg_type == SCM_CREDENTIALS)
            sender = ((struct ucred *)CMSG_DATA(head))->pid;
    }
    CHECK(sender == getpid());
    CHECK(write(passed, "y", 1) == 1 && read(pipe_ends[0], &byte, 1) == 1 && byte == 'y');
    close(passed);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void stream_at(struct address where)
{
    int listener = new_socket(AF_UNIX, SOCK_STREAM, 0), client = new_socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, &where.any, where.length) == 0 && listen(listener, 5) == 0);
    CHECK(connect(client, &where.any, where.length) == 0);
    int server = accept(listener, NULL, NULL);
    struct ucred peer;
    socklen_t size = sizeof peer;
    CHECK(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid());
    for (int i = 0; i < 200; i++) {
        struct iovec data = {"hello", 5};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
        char buffer[8];
        CHECK(sendmsg(client, &message, 0) == 5 && recv(server, buffer, 5, 0) == 5);
    }
    pass_descriptor(client, server);
    close(listener);
    close(client);
    close(server);
}

static void unix_streams(void)
{
    stream_at(at_path("quiet.sock"));
    stream_at(at_abstract("quiet", 5));
    stream_at(at_abstract("qu\0iet", 6));
    /* Autobound: a name of the kernel's choice. */
    struct address local = {.length = sizeof(sa_family_t)}, peer;
    local.any.sa_family = AF_UNIX;
    int fd = new_socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(bind(fd, &local.any, local.length) == 0);
    peer.length = sizeof peer.storage;
    CHECK(getsockname(fd, &peer.any, &peer.length) == 0 && peer.length == 8);
    CHECK(sendto(fd, "x", 1, 0, &peer.any, peer.length) == 1);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pass_descriptor(pair[0], pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    pass_descriptor(pair[0], pair[1]);
    /* Nobody there: the kernel's own errors. */
    struct address nobody = at_path("nobody.sock");
    fd = new_socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(fd, &nobody.any, nobody.length) == -1 && errno == ENOENT);
    nobody = at_path("quiet.sock");
    CHECK(connect(fd, &nobody.any, nobody.length) == -1 && errno == ECONNREFUSED);
}

static void unix_datagrams(void)
{
    struct address where = at_path("quiet.dgram");
    int receiver = new_socket(AF_UNIX, SOCK_DGRAM, 0), sender = new_socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(bind(receiver, &where.any, where.length) == 0);
    struct iovec data = {"hello", 5};
    for (int i = 0; i < 200; i++) {
        char buffer[8];
        CHECK(sendto(sender, "hello", 5, 0, &where.any, where.length) == 5 && recv(receiver, buffer, 5, 0) == 5);
        struct mmsghdr messages[2];
        memset(messages, 0, sizeof messages);
        for (int j = 0; j < 2; j++)
            messages[j].msg_hdr = (struct msghdr){
                .msg_name = &where, .msg_namelen = where.length, .msg_iov = &data, .msg_iovlen = 1};
        CHECK(sendmsg(sender, &messages[0].msg_hdr, 0) == 5 && recv(receiver, buffer, 5, 0) == 5);
        CHECK(sendmmsg(sender, messages, 2, 0) == 2 && messages[0].msg_len == 5 && messages[1].msg_len == 5);
        CHECK(recv(receiver, buffer, 5, 0) == 5 && recv(receiver, buffer, 5, 0) == 5);
    }
    CHECK(connect(sender, &where.any, where.length) == 0 && send(sender, "x", 1, 0) == 1);
}

/* The harness listens on ok.sock and ok.dgram, which a rule allows. */
static void unix_allowed(void)
{
    for (int i = 0; i < 100; i++) {
        struct address where = at_path(i % 2 ? "ok.sock" : "sub/../ok.sock");
        int fd = new_socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(connect(fd, &where.any, where.length) == 0 && write(fd, "x", 1) == 1);
        close(fd);
    }
    struct address where = at_path("ok.dgram");
    CHECK(sendto(new_socket(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, &where.any, where.length) == 1);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pass_descriptor(pair[0], pair[1]);
}

static void netlink(void)
{
    struct ifaddrs *list;
    CHECK(getifaddrs(&list) == 0);
    freeifaddrs(list);
    struct if_nameindex *names = if_nameindex();
    CHECK(names);
    if_freenameindex(names);
    struct ifreq entry = {.ifr_name = "lo"};
    CHECK(ioctl(new_socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFADDR, &entry) == 0);
    int fd = new_socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
    struct sockaddr_nl local = {.nl_family = AF_NETLINK};
    CHECK(bind(fd, (struct sockaddr *)&local, sizeof local) == 0);
    close(fd);
    fd = socket(AF_ALG, SOCK_SEQPACKET, 0); /* the kernel's cryptography, where it is built in */
    CHECK(fd >= 0 || errno == EAFNOSUPPORT);
}

/* Thousands of connections to the proxy, and datagrams where a rule allows them. */
static void proxy(void)
{
    struct address proxies[2] = {at(PROXY4, PROXY_PORT), at(PROXY6, PROXY_PORT)};
    struct address allowed[2] = {at(PROXY4, ALLOWED_PORT), at(PROXY6, ALLOWED_PORT)};
    struct address mapped = at("::ffff:203.0.113.9", PROXY_PORT);
    for (int i = 0; i < 3000; i++) {
        struct address to = i % 10 == 9 ? mapped : proxies[i % 2];
        int fd = new_socket(to.any.sa_family, SOCK_STREAM, 0);
        CHECK(connect(fd, &to.any, to.length) == 0);
        CHECK(write(fd, "\5\1\0", 3) == 3);
        close(fd);
        to = allowed[i % 2];
        fd = new_socket(to.any.sa_family, SOCK_DGRAM, 0);
        CHECK(sendto(fd, "x", 1, 0, &to.any, to.length) == 1);
        close(fd);
    }
}

static void proxy_nonblocking(void)
{
    for (int i = 0; i < 500; i++) {
        struct address to = at(PROXY4, PROXY_PORT);
        int fd = new_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = -1;
        CHECK(connect(fd, &to.any, to.length) == -1 && errno == EINPROGRESS);
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        socklen_t size = sizeof error;
        CHECK(poll(&ready, 1, 2000) == 1);
        CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
        CHECK(fcntl(fd, F_GETFL) == (O_RDWR | O_NONBLOCK));
        CHECK(connect(fd, &to.any, to.length) == 0); /* finds itself connected */
        CHECK(connect(fd, &to.any, to.length) == -1 && errno == EISCONN);
        close(fd);
    }
}

/* Every way of sending on a connection to the proxy. */
static void proxy_sends(void)
{
    struct address to = at(PROXY4, PROXY_PORT);
    int fd = new_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(sendto(fd, "x", 1, MSG_FASTOPEN, &to.any, to.length) == 1);
    struct iovec data = {"hello", 5};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &data, .msg_iovlen = 1}};
    for (int i = 0; i < 200; i++) {
        CHECK(send(fd, "x", 1, 0) == 1 && sendto(fd, "x", 1, 0, NULL, 0) == 1);
        CHECK(sendmsg(fd, &message.msg_hdr, 0) == 5 && sendmmsg(fd, &message, 1, 0) == 1 && writev(fd, &data, 1) == 5);
    }
    /* An address on a connected TCP socket is ignored without fast open: EISCONN with it only. */
    CHECK(sendto(fd, "x", 1, 0, &to.any, to.length) == 1);
    int mptcp = socket(AF_INET, SOCK_STREAM, 262);
    if (mptcp >= 0)
        CHECK(connect(mptcp, &to.any, to.length) == 0);
}

/* Associations made, dissolved and made anew with allowed peers. */
static void dissolved(void)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    struct address to = at(PROXY4, ALLOWED_PORT), to6 = at(PROXY6, ALLOWED_PORT);
    int fd = new_socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(connect(fd, &nowhere, sizeof nowhere) == 0);
    for (int i = 0; i < 50; i++) {
        CHECK(connect(fd, &to.any, to.length) == 0 && send(fd, "x", 1, 0) == 1);
        CHECK(connect(fd, &nowhere, sizeof nowhere) == 0);
        CHECK(send(fd, "x", 1, 0) == -1 && errno == EDESTADDRREQ);
    }
    /* On a connected IPv6 socket AF_UNSPEC in a send means: no address given. */
    fd = new_socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(connect(fd, &to6.any, to6.length) == 0);
    struct sockaddr_in6 unspec = {.sin6_family = AF_UNSPEC};
    CHECK(sendto(fd, "x", 1, 0, (struct sockaddr *)&unspec, sizeof unspec) == 1);
    /* AF_UNSPEC in an IPv4 send is AF_INET. */
    to.any.sa_family = AF_UNSPEC;
    CHECK(sendto(new_socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, &to.any, to.length) == 1);
}

static void options(void)
{
    int on = 1, fd = new_socket(AF_INET, SOCK_STREAM, 0), six = new_socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_TOS, &on, sizeof on) == 0);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, "", 0) == 0);
    CHECK(setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0);
    CHECK(setsockopt(six, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) == 0);
    CHECK(setsockopt(six, IPPROTO_IPV6, IPV6_RTHDR, NULL, 0) == 0);
    int unread;
    CHECK(ioctl(six, FIONREAD, &unread) == 0 && ioctl(six, FIONBIO, &on) == 0);
}

/* Listening is nobody's business without --incoming; the client is on the way of a rule. */
static void listening(void)
{
    struct address local = at(PROXY4, 9060);
    int listener = new_socket(AF_INET, SOCK_STREAM, 0), client = new_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, &local.any, local.length) == 0 && listen(listener, 5) == 0);
    CHECK(connect(client, &local.any, local.length) == 0);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char buffer[8];
    CHECK(server >= 0 && write(server, "hello", 5) == 5 && read(client, buffer, 5) == 5);
}

static void resolver(void)
{
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    CHECK(getaddrinfo("localhost", "80", NULL, &list) == 0);
    freeaddrinfo(list);
    CHECK(getaddrinfo("localhost", "80", &hints, &list) == 0);
    freeaddrinfo(list);
    CHECK(getaddrinfo("127.0.0.1", "80", NULL, &list) == 0);
    freeaddrinfo(list);
}

static void *some_connects(void *unused)
{
    struct address to = at(PROXY4, PROXY_PORT);
    for (int i = 0; i < 20; i++) {
        int fd = new_socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(fd, &to.any, to.length) == 0);
        close(fd);
    }
    return unused;
}

static void many(void)
{
    for (int i = 0; i < 10; i++)
        if (fork() == 0) {
            pthread_t threads[10];
            for (int j = 0; j < 10; j++)
                CHECK(pthread_create(&threads[j], NULL, some_connects, NULL) == 0);
            for (int j = 0; j < 10; j++)
                pthread_join(threads[j], NULL);
            _exit(0);
        }
    for (int i = 0; i < 10; i++) {
        int status;
        CHECK(wait(&status) > 0 && status == 0);
    }
}

/* Into a child's memory, as debuggers and Wine do. */
static void own_children(void)
{
    static volatile int word;
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(ends[1]);
        char byte;
        (void)!read(ends[0], &byte, 1);
        _exit(word);
    }
    close(ends[0]);
    int value = 7, status;
    struct iovec from = {&value, sizeof value}, to = {(void *)&word, sizeof word};
    CHECK(process_vm_writev(child, &from, 1, &to, 1, 0) == sizeof value);
    close(ends[1]);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* Types into a terminal that only the tree reads, as a terminal multiplexer's shell does. */
static void own_terminal(void)
{
    int main_end = posix_openpt(O_RDWR | O_NOCTTY), status;
    CHECK(main_end >= 0 && grantpt(main_end) == 0 && unlockpt(main_end) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setsid() > 0);
        int end = open(ptsname(main_end), O_RDWR);
        CHECK(end >= 0 && ioctl(end, TIOCSCTTY, 0) == 0);
        /* EIO where the administrator has forbidden it (dev.tty.legacy_tiocsti). */
        CHECK(ioctl(end, TIOCSTI, "x") == 0 || errno == EIO);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} all[] = {
    {"unix-streams", unix_streams},
    {"unix-datagrams", unix_datagrams},
    {"unix-allowed", unix_allowed},
    {"netlink", netlink},
    {"proxy", proxy},
    {"proxy-nonblocking", proxy_nonblocking},
    {"proxy-sends", proxy_sends},
    {"dissolved", dissolved},
    {"options", options},
    {"listening", listening},
    {"resolver", resolver},
    {"many", many},
    {"own-children", own_children},
    {"own-terminal", own_terminal},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < LENGTH(all); i++)
        if (argc > 1 && strcmp(argv[1], all[i].name) == 0) {
            all[i].run();
            return 0;
        }
    return 2;
}
