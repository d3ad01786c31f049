/* io_uring without its library: operations that no system call filter sees. */
#include "common.h"
#include <linux/io_uring.h>
#include <sys/mman.h>

struct ring {
    int fd;
    unsigned flags;
    char *queues; /* submission and completion ring, one mapping */
    struct io_uring_params params;
    struct io_uring_sqe *entries;
};

static int ring_map(struct ring *ring)
{
    size_t bytes = ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
    size_t other = ring->params.sq_off.array + ring->params.sq_entries * sizeof(uint32_t);
    int protection = PROT_READ | PROT_WRITE, sharing = MAP_SHARED | MAP_POPULATE;
    ring->queues = mmap(NULL, bytes > other ? bytes : other, protection, sharing, ring->fd, IORING_OFF_SQ_RING);
    ring->entries = mmap(NULL, ring->params.sq_entries * sizeof(struct io_uring_sqe), protection, sharing, ring->fd,
                         IORING_OFF_SQES);
    if (ring->queues == MAP_FAILED || (void *)ring->entries == MAP_FAILED)
        return refused("mmap of the ring");
    return 0;
}

static int ring_open(struct ring *ring, unsigned flags)
{
    memset(ring, 0, sizeof *ring);
    ring->params.flags = ring->flags = flags;
    ring->fd = syscall(SYS_io_uring_setup, 8, &ring->params);
    return ring->fd < 0 ? refused("io_uring_setup") : ring_map(ring);
}

static void ring_put(struct ring *ring, const struct io_uring_sqe *entry)
{
    volatile uint32_t *tail = (uint32_t *)(ring->queues + ring->params.sq_off.tail);
    uint32_t mask = *(uint32_t *)(ring->queues + ring->params.sq_off.ring_mask), at = *tail & mask;
    ring->entries[at] = *entry;
    ((uint32_t *)(ring->queues + ring->params.sq_off.array))[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

/* Has `count` entries done. */
static int ring_enter(struct ring *ring, int count)
{
    unsigned flags = IORING_ENTER_GETEVENTS | (ring->flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0);
    return syscall(SYS_io_uring_enter, ring->fd, count, count, flags, NULL, 0) < 0 ? -errno : 0;
}

/* The next result: negative errno or a value. */
static int ring_take(struct ring *ring)
{
    volatile uint32_t *head = (uint32_t *)(ring->queues + ring->params.cq_off.head);
    uint32_t mask = *(uint32_t *)(ring->queues + ring->params.cq_off.ring_mask);
    struct io_uring_cqe *results = (struct io_uring_cqe *)(ring->queues + ring->params.cq_off.cqes);
    int result = results[*head & mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

/* Submits one entry and waits for its result. */
static int ring_do(struct ring *ring, const struct io_uring_sqe *entry)
{
    ring_put(ring, entry);
    int entered = ring_enter(ring, 1);
    return entered < 0 ? entered : ring_take(ring);
}

static int failed(const char *what, int result)
{
    errno = -result;
    return refused(what);
}

static int connect_by(struct ring *ring, unsigned entry_flags)
{
    struct address to = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct io_uring_sqe connect_entry = {
        .opcode = IORING_OP_CONNECT, .flags = entry_flags, .fd = fd, .addr = (uintptr_t)&to, .off = to.length};
    int result = ring_do(ring, &connect_entry);
    if (result < 0)
        return failed("connect by io_uring", result);
    struct io_uring_sqe send_entry = {
        .opcode = IORING_OP_SEND, .fd = fd, .addr = (uintptr_t)TOKEN, .len = sizeof TOKEN - 1};
    result = ring_do(ring, &send_entry);
    return result < 0 ? failed("send by io_uring", result) : 0;
}

static int uring_connect_with(unsigned flags, unsigned entry_flags)
{
    struct ring ring;
    return ring_open(&ring, flags) != 0 ? 1 : connect_by(&ring, entry_flags);
}

/* One that was there before: args are its descriptor and, in hexadecimal, what io_uring_setup told of it. */
static int inherited_ring(char **args)
{
    struct ring ring = {.fd = atoi(args[0])};
    for (size_t i = 0; i < sizeof ring.params; i++)
        sscanf(args[1] + 2 * i, "%2hhx", (unsigned char *)&ring.params + i);
    return ring_map(&ring) != 0 ? 1 : connect_by(&ring, 0);
}

static int uring_connect(char **args) { (void)args; return uring_connect_with(0, 0); }
static int uring_sqpoll(char **args) { (void)args; return uring_connect_with(IORING_SETUP_SQPOLL, 0); }
/* By a worker of the ring. */
static int uring_async(char **args) { (void)args; return uring_connect_with(0, IOSQE_ASYNC); }

/* The second waits for the first. */
static int uring_linked(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct address to = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct io_uring_sqe connect_entry = {
        .opcode = IORING_OP_CONNECT, .flags = IOSQE_IO_LINK, .fd = fd, .addr = (uintptr_t)&to, .off = to.length};
    struct io_uring_sqe send_entry = {
        .opcode = IORING_OP_SEND, .fd = fd, .addr = (uintptr_t)TOKEN, .len = sizeof TOKEN - 1};
    ring_put(&ring, &connect_entry);
    ring_put(&ring, &send_entry);
    int result = ring_enter(&ring, 2);
    if (result < 0)
        return failed("io_uring_enter", result);
    result = ring_take(&ring);
    if (result < 0)
        return failed("connect by io_uring", result);
    result = ring_take(&ring);
    return result < 0 ? failed("send by io_uring", result) : 0;
}

/* A socket of a kind that filters look at, which no filter sees: IORING_OP_SOCKET (5.19). */
static int uring_odd(int type, int protocol, void *payload, size_t length)
{
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct io_uring_sqe socket_entry = {
        .opcode = IORING_OP_SOCKET, .fd = AF_INET, .off = type, .len = protocol};
    int fd = ring_do(&ring, &socket_entry);
    if (fd < 0)
        return failed("socket by io_uring", fd);
    struct address to = at(FOREIGN4, type == SOCK_RAW ? 0 : PORT);
    struct iovec data = {payload, length};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    struct io_uring_sqe entry = {.opcode = IORING_OP_SENDMSG, .fd = fd, .addr = (uintptr_t)&message, .len = 1};
    int result = ring_do(&ring, &entry);
    return result < 0 ? failed("sendmsg by io_uring", result) : 0;
}

static int uring_raw(char **args)
{
    (void)args;
    unsigned char echo[8] = {8, 0, 0xF7, 0xFF}; /* type, code, checksum */
    return uring_odd(SOCK_RAW, IPPROTO_ICMP, echo, sizeof echo);
}

static int uring_udplite(char **args)
{
    (void)args;
    return uring_odd(SOCK_DGRAM, IPPROTO_UDPLITE, TOKEN, sizeof TOKEN - 1);
}

static int uring_knows_udplite(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    return socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE) < 0 ? refused("socket") : 0;
}

/* Loose source route by FOREIGN4: no operation, LSRR, length, pointer, one hop. */
static void route_by_foreign(unsigned char options[8])
{
    uint32_t hop = inet_addr(FOREIGN4);
    memcpy(options, "\1\x83\7\4", 4);
    memcpy(options + 4, &hop, 4);
}

/* Control data of a message to an allowed address. */
static int uring_control(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(8)];
    } control = {.head = {.cmsg_level = IPPROTO_IP, .cmsg_type = IP_RETOPTS, .cmsg_len = CMSG_LEN(8)}};
    route_by_foreign(CMSG_DATA(&control.head));
    struct address to = at(PROXY4, ALLOWED_PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1,
                             .msg_control = &control, .msg_controllen = sizeof control};
    struct io_uring_sqe entry = {.opcode = IORING_OP_SENDMSG, .fd = open_socket(AF_INET, SOCK_DGRAM, 0),
                                 .addr = (uintptr_t)&message, .len = 1};
    int result = ring_do(&ring, &entry);
    return result < 0 ? failed("sendmsg by io_uring", result) : 0;
}

/* SOCKET_URING_OP_SETSOCKOPT (6.7). */
static int ring_option(struct ring *ring, int fd, int level, int name, const void *value, uint32_t length)
{
    struct io_uring_sqe entry = {.opcode = 46 /* IORING_OP_URING_CMD */, .fd = fd, .off = 3};
    uint32_t option[2] = {level, name};
    uint64_t pointer = (uintptr_t)value;
    memcpy(&entry.addr, option, sizeof option);
    memcpy((char *)&entry + 44, &length, sizeof length);
    memcpy((char *)&entry + 48, &pointer, sizeof pointer);
    return ring_do(ring, &entry);
}

static int uring_option(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    unsigned char options[8];
    route_by_foreign(options);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    int result = ring_option(&ring, fd, IPPROTO_IP, IP_OPTIONS, options, sizeof options);
    return result < 0 ? failed("setsockopt by io_uring", result) : sendto_and_close(fd, at(PROXY4, ALLOWED_PORT), 0);
}

/* Binds, listens and accepts (the first two 6.11). */
static int uring_serve(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct address local = at("0.0.0.0", LISTEN_PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct io_uring_sqe bind_entry = {
        .opcode = 56 /* BIND */, .fd = fd, .addr = (uintptr_t)&local, .off = local.length};
    int result = ring_do(&ring, &bind_entry);
    if (result < 0)
        return failed("bind by io_uring", result);
    struct io_uring_sqe listen_entry = {.opcode = 57 /* LISTEN */, .fd = fd, .len = 5};
    result = ring_do(&ring, &listen_entry);
    if (result < 0)
        return failed("listen by io_uring", result);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    struct io_uring_sqe accept_entry = {.opcode = IORING_OP_ACCEPT, .fd = fd};
    int client = ring_do(&ring, &accept_entry);
    if (client < 0)
        return failed("accept by io_uring", client);
    return write(client, "served", 6) == 6 ? 0 : refused("write");
}

/* A listener that was bound and listens already. */
static int uring_accept(char **args)
{
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    int fd = atoi(args[0]);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    struct io_uring_sqe accept_entry = {.opcode = IORING_OP_ACCEPT, .fd = fd};
    int client = ring_do(&ring, &accept_entry);
    if (client < 0)
        return failed("accept by io_uring", client);
    return write(client, "served", 6) == 6 ? 0 : refused("write");
}

/* Sends again and again, two seconds long or until it is killed. The file "ready" says that it does. */
static int uring_on(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct address to = at(FOREIGN4, PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    struct io_uring_sqe entry = {.opcode = IORING_OP_SENDMSG, .fd = open_socket(AF_INET, SOCK_DGRAM, 0),
                                 .addr = (uintptr_t)&message, .len = 1};
    for (int round = 0; round < 2000; round++) {
        ring_do(&ring, &entry);
        if (round == 5)
            close(open("ready", O_CREAT | O_WRONLY, 0600));
        sleep_ms(1);
    }
    return 0;
}

/* Probes: does this kernel know these operations? */
static int uring_knows_options(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    int one = 1, result = ring_option(&ring, open_socket(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return result < 0 ? failed("setsockopt by io_uring", result) : 0;
}

static int uring_knows_listen(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct io_uring_sqe entry = {.opcode = 57, .fd = open_socket(AF_INET, SOCK_STREAM, 0), .len = 5};
    int result = ring_do(&ring, &entry);
    return result < 0 ? failed("listen by io_uring", result) : 0;
}

static int uring_sendmsg(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct address to = at(FOREIGN4, PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    struct io_uring_sqe entry = {.opcode = IORING_OP_SENDMSG, .fd = open_socket(AF_INET, SOCK_DGRAM, 0),
                                 .addr = (uintptr_t)&message, .len = 1};
    int result = ring_do(&ring, &entry);
    return result < 0 ? failed("sendmsg by io_uring", result) : 0;
}

/* IORING_OP_SEND with an address (6.0). */
static int uring_sendto(char **args)
{
    (void)args;
    struct ring ring;
    if (ring_open(&ring, 0) != 0)
        return 1;
    struct address to = at(FOREIGN4, PORT);
    struct io_uring_sqe entry = {.opcode = IORING_OP_SEND, .fd = open_socket(AF_INET, SOCK_DGRAM, 0),
                                 .addr = (uintptr_t)TOKEN, .len = sizeof TOKEN - 1, .addr2 = (uintptr_t)&to};
    *(uint16_t *)((char *)&entry + offsetof(struct io_uring_sqe, file_index)) = to.length; /* addr_len */
    int result = ring_do(&ring, &entry);
    return result < 0 ? failed("send by io_uring", result) : 0;
}

const struct vector uring_vectors[] = {
    {"uring-connect", uring_connect},
    {"uring-sqpoll-connect", uring_sqpoll},
    {"uring-sendmsg", uring_sendmsg},
    {"uring-sendto", uring_sendto},
    {"inherited-ring", inherited_ring},
    {"uring-async", uring_async},
    {"uring-linked", uring_linked},
    {"uring-raw", uring_raw},
    {"uring-udplite", uring_udplite},
    {"uring-control", uring_control},
    {"uring-option", uring_option},
    {"uring-serve", uring_serve},
    {"uring-accept", uring_accept},
    {"uring-on", uring_on},
    {"probe-uring-option", uring_knows_options},
    {"probe-uring-listen", uring_knows_listen},
    {"probe-uring-udplite", uring_knows_udplite},
    {NULL, NULL},
};
