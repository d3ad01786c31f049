/*
 * Arguments that no program should give: each call's errno is printed, and must be the kernel's own
 * whether or not somebody watches. What could be sent goes to addresses of the stage.
 */
#include "hostile.h"
#include <limits.h>
#include <linux/netlink.h>
#include <sys/mman.h>

#define PAGE 4096

static const struct {
    const char *name;
    int family, type, protocol;
} kinds[] = {
    {"tcp4", AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0},  {"tcp6", AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0},
    {"udp4", AF_INET, SOCK_DGRAM, 0},                   {"udp6", AF_INET6, SOCK_DGRAM, 0},
    {"unix", AF_UNIX, SOCK_STREAM, 0},                  {"unixd", AF_UNIX, SOCK_DGRAM, 0},
    {"netlink", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE},
};

static const uint32_t lengths[] = {0,  1,  2,   3,   4,    7,    8,          12,         15,         16,         17,
                                   23, 24, 25,  27,  28,   29,   32,         109,        110,        111,        127,
                                   128, 129, 256, 4096, 65536, 0x7FFFFFFF, 0x80000000, 0x80000010, 0xFFFFFFF0, 0xFFFFFFFF};

static const uint16_t address_families[] = {0, 1, 2, 3, 10, 16, 17, 40, 44, 45, 46, 255, 256, 0x0200, 0xFFFF};

struct pointer {
    const char *name;
    void *where;
};

/* Places for a sockaddr. The first holds one that is in order. */
static struct pointer pointers[8];
static size_t pointer_count;

static void add_pointer(const char *name, void *where)
{
    pointers[pointer_count++] = (struct pointer){name, where};
}

/* Room of 8192 readable bytes, filled with the address, then with 'x'. */
static char *plain;

static void prepare(void)
{
    plain = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *hole = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(hole + PAGE, PAGE);
    char *closed = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (plain == MAP_FAILED || hole == MAP_FAILED || closed == MAP_FAILED)
        broken("mmap");
    add_pointer("plain", plain);
    add_pointer("null", NULL);
    add_pointer("one", (void *)1);
    add_pointer("end8", hole + PAGE - 8);
    add_pointer("unmapped", hole + PAGE);
    add_pointer("none", closed);
    add_pointer("kernel", (void *)(sizeof(void *) == 8 ? (uintptr_t)0xFFFF888000000000ULL : (uintptr_t)0xC0001000));
    add_pointer("last", (void *)~(uintptr_t)0);
}

static int fresh(size_t kind)
{
    int fd = socket(kinds[kind].family, kinds[kind].type, kinds[kind].protocol);
    if (fd < 0)
        broken("socket");
    return fd;
}

static void fill(struct address with)
{
    memset(plain, 'x', 2 * PAGE);
    memcpy(plain, &with, with.length);
}

/* An address of the socket's own family that means something. */
static struct address meaningful(size_t kind)
{
    struct address address;
    switch (kinds[kind].family) {
    case AF_INET:
        return at(PROXY4, ALLOWED_PORT + 1);
    case AF_INET6:
        return at(PROXY6, ALLOWED_PORT + 1);
    case AF_UNIX:
        return at_path("nobody.sock");
    default:
        memset(&address, 0, sizeof address);
        address.any.sa_family = AF_NETLINK;
        address.length = sizeof(struct sockaddr_nl);
        return address;
    }
}

static void one(const char *call, size_t kind, const char *detail, uint32_t length, long result)
{
    char what[160];
    snprintf(what, sizeof what, "%s %s %s %#x", call, kinds[kind].name, detail, length);
    /* A connect without waiting may or may not have got its answer already. */
    if (result < 0 && (errno == EINPROGRESS || errno == ECONNREFUSED))
        errno = ECONNREFUSED;
    say(what, result < 0 ? -1 : result > 0 ? 1 : 0);
}

/* All calls that take an address, on a fresh socket each. */
static void every_call(size_t kind, const char *detail, void *where, uint32_t length)
{
    int fd = fresh(kind);
    one("connect", kind, detail, length, syscall(SYS_connect, fd, where, length));
    close(fd);
    fd = fresh(kind);
    one("bind", kind, detail, length, syscall(SYS_bind, fd, where, length));
    close(fd);
    unlink("nobody.sock");
    fd = fresh(kind);
    one("sendto", kind, detail, length, syscall(SYS_sendto, fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT, where, length));
    close(fd);
    fd = fresh(kind);
    struct iovec data = {"x", 1};
    struct mmsghdr message = {.msg_hdr = {.msg_name = where, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1}};
    one("sendmsg", kind, detail, length, sendmsg(fd, &message.msg_hdr, MSG_NOSIGNAL | MSG_DONTWAIT));
    close(fd);
    fd = fresh(kind);
    one("sendmmsg", kind, detail, length, sendmmsg(fd, &message, 1, MSG_NOSIGNAL | MSG_DONTWAIT));
    close(fd);
}

/* Pointers times lengths. */
static int lengths_case(char **args)
{
    (void)args;
    prepare();
    for (size_t kind = 0; kind < LENGTH(kinds); kind++) {
        fill(meaningful(kind));
        for (size_t pointer = 0; pointer < pointer_count; pointer++)
            for (size_t length = 0; length < LENGTH(lengths); length++)
                every_call(kind, pointers[pointer].name, pointers[pointer].where, lengths[length]);
    }
    return 0;
}

/* Families that aren't the socket's, known and unknown, at lengths that could fit. */
static int families_case(char **args)
{
    (void)args;
    prepare();
    static const uint32_t some[] = {2, 16, 28, 128};
    for (size_t kind = 0; kind < LENGTH(kinds); kind++)
        for (size_t family = 0; family < LENGTH(address_families); family++)
            for (size_t length = 0; length < LENGTH(some); length++) {
                struct address address = meaningful(kind);
                char detail[32];
                snprintf(detail, sizeof detail, "family %#x", address_families[family]);
                address.any.sa_family = address_families[family];
                fill(address);
                if (address_families[family] == AF_UNIX) {
                    memset(plain + 2, 0, 200);
                    strcpy(plain + 2, "nobody.sock");
                }
                every_call(kind, detail, plain, some[length]);
            }
    return 0;
}

/* Descriptors that are none, or no sockets; bad ones come before bad pointers. */
static int descriptors_case(char **args)
{
    (void)args;
    prepare();
    struct address to = at(PROXY4, PROXY_PORT);
    fill(to);
    struct {
        const char *name;
        int fd;
    } bad[] = {{"minus one", -1},
               {"closed", 800},
               {"huge", INT_MAX},
               {"least", INT_MIN},
               {"file", open("/dev/null", O_RDWR)},
               {"path", open("/", O_PATH)},
               {"directory", open("/", O_RDONLY)}};
    struct iovec data = {"x", 1};
    void *places[] = {plain, NULL, (void *)1};
    for (size_t i = 0; i < LENGTH(bad); i++)
        for (size_t place = 0; place < LENGTH(places); place++)
            for (int length = 0; length < 33; length += 16) {
                struct mmsghdr message = {.msg_hdr = {.msg_name = places[place], .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1}};
                char what[96];
#define TRY(call, expression)                                                              \
    snprintf(what, sizeof what, "%s %s place %zu length %d", call, bad[i].name, place, length); \
    say(what, expression)
                TRY("connect", connect(bad[i].fd, places[place], length));
                TRY("bind", bind(bad[i].fd, places[place], length));
                TRY("listen", listen(bad[i].fd, 1));
                TRY("accept", accept(bad[i].fd, places[place], NULL));
                TRY("sendto", sendto(bad[i].fd, "x", 1, 0, places[place], length));
                TRY("sendmsg", sendmsg(bad[i].fd, &message.msg_hdr, 0));
                TRY("sendmsg bad", sendmsg(bad[i].fd, places[place], 0));
                TRY("sendmmsg", sendmmsg(bad[i].fd, &message, 1, 0));
                TRY("sendmmsg bad", sendmmsg(bad[i].fd, (void *)1, 1, 0));
                TRY("setsockopt", setsockopt(bad[i].fd, IPPROTO_IP, IP_OPTIONS, places[place], length));
            }
    return 0;
}

/* msghdr, its vectors and its control data. */
static int messages_case(char **args)
{
    (void)args;
    prepare();
    static struct iovec many[1100];
    for (size_t i = 0; i < LENGTH(many); i++)
        many[i] = (struct iovec){"x", 1};
    struct address to = at(PROXY4, ALLOWED_PORT);
    struct iovec data = {"x", 1}, bad_base = {(void *)1, 1}, bad_length = {plain, (size_t)-1},
                 too_long = {plain, 70000}, empty = {NULL, 0}, two[2] = {{"x", 1}, {(void *)1, 5}};
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
#define SEND(what, ...)                                                        \
    do {                                                                       \
        struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1}; \
        struct msghdr *m = &message;                                           \
        __VA_ARGS__;                                                           \
        say(what, sendmsg(fd, m, MSG_DONTWAIT));                               \
    } while (0)
    SEND("in order");
    SEND("null header", m = NULL);
    SEND("header one", m = (void *)1);
    SEND("header unmapped", m = pointers[4].where);
    SEND("header at the end", m = pointers[3].where);
    SEND("no vector", m->msg_iovlen = 0);
    SEND("no vector, bad pointer", m->msg_iov = (void *)1; m->msg_iovlen = 0);
    SEND("vector null", m->msg_iov = NULL);
    SEND("vector one", m->msg_iov = (void *)1);
    SEND("vector at the end", m->msg_iov = pointers[3].where);
    SEND("1024 pieces", m->msg_iov = many; m->msg_iovlen = 1024);
    SEND("1025 pieces", m->msg_iov = many; m->msg_iovlen = 1025);
    SEND("all pieces", m->msg_iov = many; m->msg_iovlen = (size_t)-1);
    SEND("bad base", m->msg_iov = &bad_base);
    SEND("second bad", m->msg_iov = two; m->msg_iovlen = 2);
    SEND("bad length", m->msg_iov = &bad_length);
    SEND("too long", m->msg_iov = &too_long);
    SEND("empty", m->msg_iov = &empty);
    SEND("name without length", m->msg_namelen = 0);
    SEND("length without name", m->msg_name = NULL);
    SEND("negative length", m->msg_namelen = -1);
    SEND("length 128", m->msg_namelen = 128);
    SEND("length 129", m->msg_namelen = 129);
    SEND("name one", m->msg_name = (void *)1);
    SEND("name one, bad base", m->msg_name = (void *)1; m->msg_iov = &bad_base);
    SEND("name one, 1025 pieces", m->msg_name = (void *)1; m->msg_iovlen = 1025);
    SEND("control one", m->msg_control = (void *)1; m->msg_controllen = 64);
    SEND("control null", m->msg_control = NULL; m->msg_controllen = 64);
    SEND("control huge", m->msg_control = plain; m->msg_controllen = (size_t)-1);
    SEND("control 2 GiB", m->msg_control = plain; m->msg_controllen = 0x7FFFFFFF);
    SEND("control 100000", m->msg_control = plain; m->msg_controllen = 100000);
    memset(plain, 0, PAGE);
    SEND("control of zeros", m->msg_control = plain; m->msg_controllen = 64);
    SEND("control short", m->msg_control = plain; m->msg_controllen = 3);
    memset(plain, 0xFF, PAGE);
    SEND("control of ones", m->msg_control = plain; m->msg_controllen = 64);
    struct cmsghdr *head = (struct cmsghdr *)plain;
    memset(plain, 0, PAGE);
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(4), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_TTL};
    *(int *)CMSG_DATA(head) = 64;
    SEND("control TTL", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    *(int *)CMSG_DATA(head) = 1000;
    SEND("control bad TTL", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    head->cmsg_type = 12345;
    SEND("control unknown type", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    SEND("control rights on UDP", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0)
        broken("socketpair");
    fd = pair[0];
    to.length = 0;
    *(int *)CMSG_DATA(head) = 900;
    SEND("rights to a closed descriptor", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    *(int *)CMSG_DATA(head) = 1;
    SEND("rights to standard output", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(4));
    struct ucred own = {getpid(), getuid(), getgid()};
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof own), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS};
    memcpy(CMSG_DATA(head), &own, sizeof own);
    SEND("own credentials", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(sizeof own));
    own.pid = getppid();
    memcpy(CMSG_DATA(head), &own, sizeof own);
    if (getuid() != 0)
        SEND("another's credentials", m->msg_control = plain; m->msg_controllen = CMSG_SPACE(sizeof own));
    return 0;
}

/* sendmmsg: counts, arrays that end early, flags; and flags of the others. */
static int vectors_case(char **args)
{
    (void)args;
    prepare();
    struct address to = at(PROXY4, ALLOWED_PORT);
    struct iovec data = {"x", 1}, bad = {(void *)1, 1};
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    static struct mmsghdr messages[1030];
    for (size_t i = 0; i < LENGTH(messages); i++)
        messages[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    say("none", sendmmsg(fd, messages, 0, 0));
    say("none, null", sendmmsg(fd, NULL, 0, 0));
    say("null", sendmmsg(fd, NULL, 1, 0));
    say("two", sendmmsg(fd, messages, 2, 0));
    say("1030", sendmmsg(fd, messages, 1030, MSG_DONTWAIT));
    say("all ones", sendmmsg(fd, messages, -1, MSG_DONTWAIT));
    /* The array runs into a hole after one and a half elements. */
    struct mmsghdr *edge = (struct mmsghdr *)((char *)pointers[4].where - sizeof messages[0] * 3 / 2);
    memcpy((void *)edge, messages, sizeof messages[0] * 3 / 2);
    say("into a hole", sendmmsg(fd, edge, 5, 0));
    /* The results can't be written: the message has gone, the kernel answers EFAULT. */
    struct mmsghdr *fixed = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(fixed, messages, sizeof messages[0] * 2);
    mprotect(fixed, PAGE, PROT_READ);
    say("read-only array", sendmmsg(fd, fixed, 2, 0));
    messages[1].msg_hdr.msg_iov = &bad;
    messages[0].msg_len = messages[1].msg_len = 77;
    say("second bad", sendmmsg(fd, messages, 3, 0));
    say("its first length", messages[0].msg_len);
    say("its second length", messages[1].msg_len);
    messages[1].msg_hdr.msg_iov = &data;
    static const unsigned flags[] = {0, MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_MORE, MSG_CONFIRM, MSG_EOR, MSG_ZEROCOPY,
                                     0x80000000u /* MSG_CMSG_COMPAT */, 0x01000000u, 0x7000000u, 0xFFFF0000u};
    for (size_t i = 0; i < LENGTH(flags); i++) {
        char what[64];
        int own = open_socket(AF_INET, SOCK_DGRAM, 0);
        snprintf(what, sizeof what, "sendto flags %#x", flags[i]);
        say(what, sendto(own, "x", 1, flags[i], &to.any, to.length));
        close(own);
        own = open_socket(AF_INET, SOCK_DGRAM, 0);
        snprintf(what, sizeof what, "sendmsg flags %#x", flags[i]);
        say(what, sendmsg(own, &messages[0].msg_hdr, flags[i]));
        close(own);
        own = open_socket(AF_INET, SOCK_DGRAM, 0);
        snprintf(what, sizeof what, "sendmmsg flags %#x", flags[i]);
        say(what, sendmmsg(own, messages, 2, flags[i]));
        close(own);
    }
    /* Payloads: too long, none, bad, partly bad. */
    memset(plain, 'x', 2 * PAGE);
    say("sendto 0 bytes", sendto(fd, NULL, 0, 0, &to.any, to.length));
    say("sendto 70000 bytes", sendto(fd, plain, 70000, 0, &to.any, to.length));
    say("sendto bad", sendto(fd, (void *)1, 5, 0, &to.any, to.length));
    say("sendto all memory", sendto(fd, plain, (size_t)-1, 0, &to.any, to.length));
    say("sendto into a hole", sendto(fd, pointers[3].where, 100, 0, &to.any, to.length));
    say("sendto bad both", sendto(fd, (void *)1, 5, 0, (void *)1, to.length));
    say("sendto bad payload, no peer", sendto(fd, (void *)1, 5, 0, NULL, 0));
    say("sendto no peer", sendto(fd, "x", 1, 0, NULL, 0));
    say("sendto length only", sendto(fd, "x", 1, 0, NULL, 16));
    return 0;
}

/* socket(2) and the calls around it. */
static int sockets_case(char **args)
{
    (void)args;
    static const int some_families[] = {-1, 0, 1, 2, 9, 10, 16, 46, 47, 255, 65537, INT_MAX};
    static const int some_types[] = {-1, 0, 1, 2, 5, 11, 15, 16, 1 | SOCK_CLOEXEC, 2 | SOCK_NONBLOCK, 1 | 0x100, INT_MAX};
    static const int some_protocols[] = {-1, 0, 6, 17, 256, 262, 99999};
    for (size_t i = 0; i < LENGTH(some_families); i++)
        for (size_t j = 0; j < LENGTH(some_types); j++)
            for (size_t k = 0; k < LENGTH(some_protocols); k++) {
                if (some_families[i] == AF_NETLINK && some_protocols[k] == 6 /* NETLINK_XFRM: a leak */)
                    continue;
                char what[96];
                snprintf(what, sizeof what, "socket %d %#x %d", some_families[i], some_types[j], some_protocols[k]);
                int fd = socket(some_families[i], some_types[j], some_protocols[k]);
                say(what, fd);
                if (fd >= 0)
                    close(fd);
            }
    int fd = open_socket(AF_INET, SOCK_STREAM, 0), udp = open_socket(AF_INET, SOCK_DGRAM, 0);
    say("listen on UDP", listen(udp, 1));
    say("listen, negative", listen(fd, -1));
    say("accept on UDP", accept(udp, NULL, NULL));
    say("accept, not listening", accept(open_socket(AF_INET, SOCK_STREAM, 0), NULL, NULL));
    say("accept4, bad flags", accept4(fd, NULL, NULL, 0x12345));
    static const int levels[] = {-1, 0, 1, 6, 41, 9999};
    static const int names[] = {-1, 0, 1, 4, 24, 35, 42, 57, 66, 99999};
    char value[300] = {0};
    for (size_t i = 0; i < LENGTH(levels); i++)
        for (size_t j = 0; j < LENGTH(names); j++)
            for (int length = -1; length < 300; length += 100) {
                char what[96];
                snprintf(what, sizeof what, "setsockopt %d %d %d", levels[i], names[j], length);
                int own = open_socket(i % 2 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
                say(what, setsockopt(own, levels[i], names[j], value, length));
                say("  bad pointer", setsockopt(own, levels[i], names[j], (void *)1, length));
                close(own);
            }
    say("io_uring_setup, bad", syscall(SYS_io_uring_setup, 0, NULL) < 0 ? 0 : 1);
    return 0;
}

#ifdef __i386__
/* socketcall: numbers and argument arrays. */
static int socketcall_case(char **args)
{
    (void)args;
    prepare();
    unsigned long zeros[6] = {0}, ones[6];
    memset(ones, 0xFF, sizeof ones);
    for (int call = -1; call < 25; call++) {
        char what[64];
        snprintf(what, sizeof what, "socketcall %d", call);
        say(what, syscall(SYS_socketcall, call, NULL));
        say("  one", syscall(SYS_socketcall, call, 1));
        say("  at the end", syscall(SYS_socketcall, call, pointers[3].where));
        say("  ones", syscall(SYS_socketcall, call, ones));
        if (call != 5 && call != 18) /* accept on standard input */
            say("  zeros", syscall(SYS_socketcall, call, zeros) >= 0 ? 1 : -1);
    }
    return 0;
}
#endif

const struct vector argument_cases[] = {
    {"lengths", lengths_case},
    {"families", families_case},
    {"descriptors", descriptors_case},
    {"messages", messages_case},
    {"vectors", vectors_case},
    {"sockets", sockets_case},
#ifdef __i386__
    {"socketcalls", socketcall_case},
#endif
    {NULL, NULL},
};
