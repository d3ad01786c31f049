/* Sends handshakes in pieces, each line of the file one connection:
 *
 *     IP|PATH PORT FAMILY SPLIT HEX
 *
 * Prints how each ended and what came back. FAMILY says by which calls the bytes go. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

typedef int (*sender)(int fd, unsigned char *data, size_t length);

/* Whether all of it was taken. */
static int all(ssize_t sent, size_t length) { return sent == (ssize_t)length; }

static int by_write(int fd, unsigned char *data, size_t length) { return all(write(fd, data, length), length); }

/* Two pieces, one of them perhaps empty. */
static void halves(struct iovec parts[2], unsigned char *data, size_t length) {
    parts[0] = (struct iovec){data, length / 2};
    parts[1] = (struct iovec){data + length / 2, length - length / 2};
}

static int by_writev(int fd, unsigned char *data, size_t length) {
    struct iovec parts[2];
    halves(parts, data, length);
    return all(writev(fd, parts, 2), length);
}

static int by_pwritev2(int fd, unsigned char *data, size_t length) {
    struct iovec parts[2];
    halves(parts, data, length);
    return all(pwritev2(fd, parts, 2, -1, 0), length);
}

static int by_send(int fd, unsigned char *data, size_t length) {
    return all(send(fd, data, length, MSG_NOSIGNAL), length);
}

/* With an address, which a connected stream socket ignores (UNIX: refuses). */
static int by_sendto(int fd, unsigned char *data, size_t length) {
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) != 0) return 0;
    if (peer.ss_family == AF_UNIX) return all(sendto(fd, data, length, 0, NULL, 0), length);
    return all(sendto(fd, data, length, 0, (struct sockaddr *)&peer, size), length);
}

static int by_sendmsg(int fd, unsigned char *data, size_t length) {
    struct iovec parts[2];
    halves(parts, data, length);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return all(sendmsg(fd, &message, 0), length);
}

static int by_sendmmsg(int fd, unsigned char *data, size_t length) {
    struct iovec parts[2];
    halves(parts, data, length);
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &parts[0], .msg_iovlen = 1}},
                                  {.msg_hdr = {.msg_iov = &parts[1], .msg_iovlen = 1}}};
    return sendmmsg(fd, messages, 2, 0) == 2;
}

static int by_sendfile(int fd, unsigned char *data, size_t length) {
    int file = memfd_create("piece", 0);
    if (file < 0 || write(file, data, length) != (ssize_t)length) die("memfd");
    off_t start = 0;
    ssize_t sent = sendfile(fd, file, &start, length);
    int errnum = errno;
    close(file);
    errno = errnum;
    return all(sent, length);
}

static int by_pipe(int fd, unsigned char *data, size_t length, int map) {
    int ends[2];
    if (pipe(ends) != 0) die("pipe");
    struct iovec whole = {data, length};
    ssize_t filled = map ? vmsplice(ends[1], &whole, 1, 0) : write(ends[1], data, length);
    if (filled != (ssize_t)length) die("filling a pipe");
    ssize_t sent = splice(ends[0], NULL, fd, NULL, length, 0);
    int errnum = errno;
    close(ends[0]), close(ends[1]);
    errno = errnum;
    return all(sent, length);
}

static int by_splice(int fd, unsigned char *data, size_t length) { return by_pipe(fd, data, length, 0); }
static int by_vmsplice(int fd, unsigned char *data, size_t length) { return by_pipe(fd, data, length, 1); }

/* By another number. */
static int by_dup(int fd, unsigned char *data, size_t length) {
    int other = dup(fd);
    int taken = by_write(other, data, length), errnum = errno;
    close(other);
    errno = errnum;
    return taken;
}

/* By another process, to which the socket was passed. */
static int by_other(int fd, unsigned char *data, size_t length) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) die("socketpair");
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {data, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    pid_t child = fork();
    if (child == 0) {
        close(fd);
        if (recvmsg(pair[1], &message, 0) != 1) _exit(1);
        int got;
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
        _exit(by_write(got, data, length) ? 0 : errno);
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(pair[0], &message, 0) != 1) die("passing a socket");
    close(pair[0]), close(pair[1]);
    int status;
    if (waitpid(child, &status, 0) != child) die("waitpid");
    errno = WEXITSTATUS(status);
    return status == 0;
}

/* One ring for all. */
static int by_uring(int fd, unsigned char *data, size_t length) {
    static int ring = -1;
    static struct io_uring_params params;
    static char *queue;
    static struct io_uring_sqe *entries;
    if (ring < 0) {
        ring = syscall(SYS_io_uring_setup, 4, &params);
        if (ring < 0) die("io_uring_setup");
        size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
        queue = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
        entries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
        if (queue == MAP_FAILED || entries == MAP_FAILED) die("io_uring");
    }
    unsigned *tail = (unsigned *)(queue + params.sq_off.tail);
    unsigned slot = *tail & (params.sq_entries - 1);
    entries[slot] = (struct io_uring_sqe){
        .opcode = IORING_OP_SEND, .fd = fd, .addr = (unsigned long)data, .len = length, .msg_flags = MSG_NOSIGNAL};
    ((unsigned *)(queue + params.sq_off.array))[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) die("io_uring_enter");
    unsigned *head = (unsigned *)(queue + params.cq_off.head);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(queue + params.cq_off.cqes) + (*head & (params.cq_entries - 1));
    int result = done->res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    errno = result < 0 ? -result : 0;
    return all(result, length);
}

static const struct {
    const char *name;
    sender send;
} FAMILIES[] = {
    {"write", by_write},       {"writev", by_writev},     {"pwritev2", by_pwritev2}, {"send", by_send},
    {"sendto", by_sendto},     {"sendmsg", by_sendmsg},   {"sendmmsg", by_sendmmsg}, {"sendfile", by_sendfile},
    {"splice", by_splice},     {"vmsplice", by_vmsplice}, {"dup", by_dup},           {"other", by_other},
    {"nonblocking", by_write}, {"fastopen", by_write},    {"fastopen-connect", by_write}, {"uring", by_uring},
};

static socklen_t resolve(struct sockaddr_storage *address, const char *host, int port) {
    memset(address, 0, sizeof *address);
    if (host[0] == '/') {
        struct sockaddr_un *un = (void *)address;
        un->sun_family = AF_UNIX;
        strncpy(un->sun_path, host, sizeof un->sun_path - 1);
        return sizeof *un;
    }
    if (strchr(host, ':')) {
        struct sockaddr_in6 *in6 = (void *)address;
        *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
        if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1) die("address");
        return sizeof *in6;
    }
    struct sockaddr_in *in = (void *)address;
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1) die("address");
    return sizeof *in;
}

static int begin(const char *host, int port, const char *family, unsigned char *first, size_t length) {
    struct sockaddr_storage address;
    socklen_t size = resolve(&address, host, port);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (strcmp(family, "fastopen") == 0) {
        if (sendto(fd, first, length, MSG_FASTOPEN, (void *)&address, size) != (ssize_t)length) die("sendto");
        return fd;
    }
    if (strcmp(family, "fastopen-connect") == 0) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one) != 0) die("TCP_FASTOPEN_CONNECT");
    }
    if (strcmp(family, "nonblocking") == 0) {
        int flags = fcntl(fd, F_GETFL), error = 0;
        socklen_t error_size = sizeof error;
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
        if (connect(fd, (void *)&address, size) != 0) {
            if (errno != EINPROGRESS) die("connect");
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            if (poll(&ready, 1, 5000) != 1) die("poll");
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
            errno = error;
            if (error) die("connecting");
        }
        fcntl(fd, F_SETFL, flags);
    } else if (connect(fd, (void *)&address, size) != 0) {
        die("connect");
    }
    return fd;
}

static void talk(char *line) {
    char host[128], family[32];
    int port, split, start;
    if (sscanf(line, "%127s %d %31s %d %n", host, &port, family, &split, &start) != 4) die("a line");
    static unsigned char data[4096];
    size_t length = 0;
    for (char *hex = line + start; hex[0] >= '0' && length < sizeof data; hex += 2) {
        unsigned byte;
        sscanf(hex, "%2x", &byte);
        data[length++] = byte;
    }
    sender send_by = NULL;
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES; i++)
        if (strcmp(FAMILIES[i].name, family) == 0) send_by = FAMILIES[i].send;
    if (!send_by) die("a family");
    int opens = strcmp(family, "fastopen") == 0, sent = 1;
    size_t first = opens ? (split ? (size_t)split : length) : 0;
    int fd = begin(host, port, family, data, first);
    struct sockaddr_storage wanted, named;
    socklen_t size = sizeof named;
    resolve(&wanted, host, port);
    if (getpeername(fd, (void *)&named, &size) == 0 && memcmp(&wanted, &named, size < sizeof wanted ? size : sizeof wanted) != 0) {
        printf("another peer\n");
        return;
    }
    size_t ends[3] = {first, split, length};
    for (int i = 0; i < 2 && sent; i++) {
        if (ends[i + 1] <= ends[i]) {
            ends[i + 1] = ends[i];
            continue;
        }
        sent = send_by(fd, data + ends[i], ends[i + 1] - ends[i]);
        if (i == 0) usleep(150);
    }
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    shutdown(fd, SHUT_WR);
    static unsigned char answer[8192];
    size_t got = 0;
    ssize_t part;
    while ((part = recv(fd, answer + got, sizeof answer - got, 0)) > 0) got += part;
    const char *how = part == 0 ? "end" : errno == EAGAIN ? "timeout" : "reset";
    printf("%s ", sent ? how : "reset");
    for (size_t i = 0; i < got; i++) printf("%02x", answer[i]);
    printf("\n");
    close(fd);
}

int main(int argc, char **argv) {
    FILE *list = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (!list) die("the list");
    signal(SIGPIPE, SIG_IGN);
    static char line[16384];
    while (fgets(line, sizeof line, list)) talk(line);
    fflush(stdout);
    return 0;
}
