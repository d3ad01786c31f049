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

/* Submits one entry and waits for its result: negative errno or a value. */
static int ring_do(struct ring *ring, const struct io_uring_sqe *entry)
{
    volatile uint32_t *tail = (uint32_t *)(ring->queues + ring->params.sq_off.tail);
    uint32_t mask = *(uint32_t *)(ring->queues + ring->params.sq_off.ring_mask), at = *tail & mask;
    ring->entries[at] = *entry;
    ((uint32_t *)(ring->queues + ring->params.sq_off.array))[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    unsigned flags = IORING_ENTER_GETEVENTS | (ring->flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0);
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, flags, NULL, 0) < 0)
        return -errno;
    volatile uint32_t *head = (uint32_t *)(ring->queues + ring->params.cq_off.head);
    mask = *(uint32_t *)(ring->queues + ring->params.cq_off.ring_mask);
    struct io_uring_cqe *results = (struct io_uring_cqe *)(ring->queues + ring->params.cq_off.cqes);
    int result = results[*head & mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static int failed(const char *what, int result)
{
    errno = -result;
    return refused(what);
}

static int connect_by(struct ring *ring)
{
    struct address to = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    struct io_uring_sqe connect_entry = {
        .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&to, .off = to.length};
    int result = ring_do(ring, &connect_entry);
    if (result < 0)
        return failed("connect by io_uring", result);
    struct io_uring_sqe send_entry = {
        .opcode = IORING_OP_SEND, .fd = fd, .addr = (uintptr_t)TOKEN, .len = sizeof TOKEN - 1};
    result = ring_do(ring, &send_entry);
    return result < 0 ? failed("send by io_uring", result) : 0;
}

static int uring_connect_with(unsigned flags)
{
    struct ring ring;
    return ring_open(&ring, flags) != 0 ? 1 : connect_by(&ring);
}

/* One that was there before: args are its descriptor and, in hexadecimal, what io_uring_setup told of it. */
static int inherited_ring(char **args)
{
    struct ring ring = {.fd = atoi(args[0])};
    for (size_t i = 0; i < sizeof ring.params; i++)
        sscanf(args[1] + 2 * i, "%2hhx", (unsigned char *)&ring.params + i);
    return ring_map(&ring) != 0 ? 1 : connect_by(&ring);
}

static int uring_connect(char **args) { (void)args; return uring_connect_with(0); }
static int uring_sqpoll(char **args) { (void)args; return uring_connect_with(IORING_SETUP_SQPOLL); }

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
    {NULL, NULL},
};
