// Moves bytes over sockets in every way there is, and writes down itself what it has said and heard:
// capture CASE DIRECTORY. DIRECTORY/FD.out and FD.in then hold what must have been captured of the socket that
// first had the descriptor FD.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
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

static const char *directory;
static char *volatile nowhere;

#define CHECK(what) do { if (!(what)) { fail(__LINE__, #what); } } while (0)

static void fail(int line, const char *what) {
    fprintf(stderr, "line %d: %s: %s\n", line, what, strerror(errno));
    exit(1);
}

static void note(int fd, const char *way, const void *bytes, ssize_t count) {
    char path[512];
    snprintf(path, sizeof path, "%s/%d.%s", directory, fd, way);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    CHECK(file >= 0 && write(file, bytes, count) == count && close(file) == 0);
}

static ssize_t said(int fd, const void *bytes, ssize_t count) {
    CHECK(count >= 0);
    note(fd, "out", bytes, count);
    return count;
}

static ssize_t heard(int fd, const void *bytes, ssize_t count) {
    CHECK(count >= 0);
    note(fd, "in", bytes, count);
    return count;
}

static void pair(int type, int ends[2]) {
    CHECK(socketpair(AF_UNIX, type, 0, ends) == 0);
}

// Through socketcall where there is one: its arguments lie in memory.
static long call(int number, int direct, long a, long b, long c, long d, long e, long f) {
#ifdef __i386__
    (void)direct;
    long arguments[6] = {a, b, c, d, e, f};
    return syscall(SYS_socketcall, number, arguments);
#else
    (void)number;
    return syscall(direct, a, b, c, d, e, f);
#endif
}

#ifdef __i386__
#define DIRECT(name) 0
#else
#define DIRECT(name) SYS_##name
#endif

static void calls(int type) {
    int s[2];
    pair(type, s);
    char in[64];
    struct iovec parts[3] = {{in, 3}, {in + 3, 0}, {in + 3, 61}};
    struct iovec words[3] = {{"one ", 4}, {"", 0}, {"two", 3}};

    said(s[0], "write", write(s[0], "write", 5));
    heard(s[1], in, read(s[1], in, sizeof in));
    said(s[1], "one two", writev(s[1], words, 3));
    heard(s[0], in, readv(s[0], parts, 3));
    said(s[0], "one two", pwritev2(s[0], words, 3, -1, 0));
    heard(s[1], in, preadv2(s[1], parts, 3, -1, 0));
    CHECK(pwrite(s[0], "x", 1, 0) == -1 && errno == ESPIPE);
    CHECK(pread(s[0], in, 1, 0) == -1 && errno == ESPIPE);
    said(s[0], "send", send(s[0], "send", 4, MSG_NOSIGNAL));
    heard(s[1], in, recv(s[1], in, sizeof in, 0));
    said(s[0], "sendto", sendto(s[0], "sendto", 6, 0, NULL, 0));
    heard(s[1], in, recvfrom(s[1], in, sizeof in, 0, NULL, NULL));

    struct msghdr out = {.msg_iov = words, .msg_iovlen = 3}, back = {.msg_iov = parts, .msg_iovlen = 3};
    said(s[0], "one two", sendmsg(s[0], &out, 0));
    heard(s[1], in, recvmsg(s[1], &back, 0));
    said(s[0], "one two", call(16, DIRECT(sendmsg), s[0], (long)&out, 0, 0, 0, 0));
    heard(s[1], in, call(17, DIRECT(recvmsg), s[1], (long)&back, 0, 0, 0, 0));
    said(s[0], "again", call(11, DIRECT(sendto), s[0], (long)"again", 5, 0, 0, 0));
    heard(s[1], in, call(12, DIRECT(recvfrom), s[1], (long)in, sizeof in, 0, 0, 0));
#ifdef __i386__
    said(s[0], "old", call(9, 0, s[0], (long)"old", 3, 0, 0, 0));
    heard(s[1], in, call(10, 0, s[1], (long)in, sizeof in, 0, 0, 0));
#endif

    struct mmsghdr batch[2] = {{.msg_hdr = out}, {.msg_hdr = out}}, took[2] = {{.msg_hdr = back}};
    char second[64];
    struct iovec other = {second, sizeof second};
    took[1].msg_hdr = (struct msghdr){.msg_iov = &other, .msg_iovlen = 1};
    CHECK(sendmmsg(s[0], batch, 2, 0) == 2);
    said(s[0], "one two", batch[0].msg_len);
    said(s[0], "one two", batch[1].msg_len);
    int count = recvmmsg(s[1], took, 2, MSG_WAITFORONE, NULL);
    CHECK(count >= 1);
    heard(s[1], in, took[0].msg_len);
    if (count == 2) {
        heard(s[1], second, took[1].msg_len);
    }

    // Cut off: a datagram's rest is lost, a stream's stays.
    said(s[0], "longer", send(s[0], "longer", 6, 0));
    heard(s[1], in, read(s[1], in, 4));
    CHECK(close(s[0]) == 0);
    if (type == SOCK_STREAM) {
        heard(s[1], in, read(s[1], in, sizeof in));
    }
    close(s[1]);
}

static void peek(void) {
    int s[2];
    pair(SOCK_STREAM, s);
    char in[64];
    said(s[0], "peeked", write(s[0], "peeked", 6));
    CHECK(recv(s[1], in, sizeof in, MSG_PEEK) == 6 && recv(s[1], in, 3, MSG_PEEK) == 3);
    struct iovec part = {in, sizeof in};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    CHECK(recvmsg(s[1], &message, MSG_PEEK) == 6);
    heard(s[1], in, read(s[1], in, 2));
    heard(s[1], in, read(s[1], in, sizeof in));
    CHECK(recv(s[1], in, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

static char *pattern(size_t size) {
    char *bytes = malloc(size);
    uint32_t state = 7;
    for (size_t index = 0; index < size; index++) {
        state = state * 1664525 + 1013904223;
        bytes[index] = state >> 24;
    }
    return bytes;
}

struct flow {
    int fd;
    size_t size;
};

static void *drink(void *argument) {
    struct flow *flow = argument;
    char *in = malloc(flow->size);
    for (size_t done = 0; done < flow->size;) {
        size_t wanted = 1 + (done * 7919) % 100000;
        ssize_t count = read(flow->fd, in, wanted);
        CHECK(count > 0);
        heard(flow->fd, in, count);
        done += count;
    }
    free(in);
    return NULL;
}

// More than a socket takes at once: short counts, calls that wait, and one that is larger than what is copied
// early.
static void flood(void) {
    int s[2], t[2];
    pair(SOCK_STREAM, s);
    pair(SOCK_STREAM, t);
    size_t size = 5000000;
    char *bytes = pattern(size);
    size_t done = 0;
    ssize_t count;
    while ((count = send(s[0], bytes + done, size - done, MSG_DONTWAIT)) > 0) {
        said(s[0], bytes + done, count);
        done += count;
    }
    CHECK(errno == EAGAIN && done < size);
    struct flow flow = {s[1], size}, other = {t[1], size};
    pthread_t thread, second;
    CHECK(pthread_create(&thread, NULL, drink, &flow) == 0 && pthread_create(&second, NULL, drink, &other) == 0);
    said(s[0], bytes + done, write(s[0], bytes + done, size - done));
    said(t[0], bytes, write(t[0], bytes, size));
    CHECK(pthread_join(thread, NULL) == 0 && pthread_join(second, NULL) == 0);
}

static void moved(void) {
    int s[2], p[2];
    pair(SOCK_STREAM, s);
    CHECK(pipe(p) == 0);
    char path[512], in[128];
    snprintf(path, sizeof path, "%s/file", directory);
    int file = open(path, O_RDWR | O_CREAT, 0666);
    CHECK(write(file, "0123456789abcdef", 16) == 16 && lseek(file, 2, SEEK_SET) == 2);
    said(s[0], "2345", sendfile(s[0], file, NULL, 4));
    off_t offset = 10;
    said(s[0], "abc", sendfile(s[0], file, &offset, 3));
    CHECK(offset == 13 && lseek(file, 0, SEEK_CUR) == 6);
#ifdef __i386__
    loff_t wide = 12;
    said(s[0], "cd", syscall(SYS_sendfile64, s[0], file, &wide, 2));
#endif
    // The pipe holds more than is moved.
    CHECK(write(p[1], "from a pipe", 11) == 11);
    said(s[0], "from a", splice(p[0], NULL, s[0], NULL, 6, 0));
    CHECK(read(p[0], in, 5) == 5);
    heard(s[1], in, read(s[1], in, 3));
    // Into a pipe that holds something.
    CHECK(write(p[1], "before", 6) == 6);
    ssize_t count = splice(s[1], NULL, p[1], NULL, 100, 0);
    CHECK(count > 0 && read(p[0], in, sizeof in) == 6 + count);
    heard(s[1], in + 6, count);
    // One that has to wait for what it moves.
    if (fork() == 0) {
        usleep(100000);
        said(s[0], "late", write(s[0], "late", 4));
        _exit(0);
    }
    count = splice(s[1], NULL, p[1], NULL, 100, 0);
    CHECK(count == 4 && read(p[0], in, sizeof in) == 4);
    heard(s[1], in, count);
    wait(NULL);
}

static void family(char *self) {
    int s[2];
    char in[64], number[16], other[16];
    pair(SOCK_STREAM, s);
    int copy = dup(s[0]);
    CHECK(copy != s[0] && close(s[0]) == 0);
    said(s[0], "dup ", write(copy, "dup ", 4));
    CHECK(dup2(copy, 77) == 77 && close(copy) == 0);
    pid_t child = fork();
    if (child == 0) {
        said(s[0], "child ", write(77, "child ", 6));
        snprintf(number, sizeof number, "%d", s[0]);
        snprintf(other, sizeof other, "%d", 77);
        execl("/proc/self/exe", self, "exec", directory, number, other, NULL);
        _exit(1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    said(s[0], "parent", write(77, "parent", 6));
    CHECK(close(77) == 0);
    for (ssize_t count; (count = read(s[1], in, sizeof in)) > 0;) {
        heard(s[1], in, count);
    }
}

static void passed(void) {
    int s[2], t[2];
    pair(SOCK_STREAM, s);
    pair(SOCK_DGRAM, t);
    int on = 1;
    CHECK(setsockopt(t[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    char in[64];
    union {
        struct cmsghdr header;
        char space[256];
    } control = {0};
    struct iovec part = {"fd", 2};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(sizeof(int))};
    control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(4)};
    memcpy(CMSG_DATA(&control.header), &s[0], sizeof(int));
    said(t[0], "fd", sendmsg(t[0], &message, 0));
    said(s[0], "before ", write(s[0], "before ", 7));
    pid_t child = fork();
    if (child == 0) {
        close(s[0]);
        part = (struct iovec){in, sizeof in};
        message.msg_controllen = sizeof control;
        heard(t[1], in, recvmsg(t[1], &message, 0));
        int got = -1;
        for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
            if (each->cmsg_type == SCM_RIGHTS) {
                memcpy(&got, CMSG_DATA(each), sizeof got);
            }
        }
        CHECK(got >= 0);
        said(s[0], "passed", write(got, "passed", 6));
        _exit(0);
    }
    close(s[0]);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    heard(s[1], in, read(s[1], in, sizeof in));
}

static void named(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/named.sock", directory);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 5) == 0);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&address, sizeof address) == 0);
    int server = accept(listener, NULL, NULL);
    char in[64];
    said(client, "hello", send(client, "hello", 5, 0));
    heard(server, in, recv(server, in, sizeof in, 0));
    said(server, "and to you", send(server, "and to you", 10, 0));
    heard(client, in, read(client, in, sizeof in));
    CHECK(shutdown(server, SHUT_RDWR) == 0 && send(server, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    close(server), close(client), close(listener);
    unlink(address.sun_path);

    // Datagrams: to an address, and from one.
    int box = socket(AF_UNIX, SOCK_DGRAM, 0), sender = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(bind(box, (void *)&address, sizeof address) == 0);
    said(sender, "letter", sendto(sender, "letter", 6, 0, (void *)&address, sizeof address));
    said(sender, "", sendto(sender, "", 0, 0, (void *)&address, sizeof address));
    heard(box, in, recvfrom(box, in, sizeof in, 0, NULL, NULL));
    CHECK(recv(box, in, sizeof in, 0) == 0);
    unlink(address.sun_path);

    struct sockaddr_un odd = {.sun_family = AF_UNIX};
    static const char name[] = "\0../../\n\x1b[2J/etc/\xff";
    memcpy(odd.sun_path, name, sizeof name - 1);
    // Others run at the same time, and these names are the whole namespace's.
    int digits = sprintf(odd.sun_path + sizeof name - 1, "%d", (int)getpid());
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + sizeof name - 1 + digits;
    listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK(bind(listener, (void *)&odd, length) == 0 && listen(listener, 5) == 0);
    client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK(connect(client, (void *)&odd, length) == 0);
    server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    said(client, "odd", write(client, "odd", 3));
    heard(server, in, read(server, in, sizeof in));
}

static void on_alarm(int signal) {
    (void)signal;
}

static void interrupted(void) {
    int s[2];
    char in[64];
    pair(SOCK_STREAM, s);
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    pid_t child = fork();
    if (child == 0) {
        for (int count = 0; count < 5; count++) {
            usleep(30000);
            kill(getppid(), SIGALRM);
        }
        said(s[0], "at last", write(s[0], "at last", 7));
        _exit(0);
    }
    heard(s[1], in, read(s[1], in, sizeof in));
    wait(NULL);
    action.sa_flags = 0;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(1);
    CHECK(read(s[1], in, sizeof in) == -1 && errno == EINTR);
    said(s[0], "after", write(s[0], "after", 5));
    heard(s[1], in, read(s[1], in, sizeof in));
}

static void faults(void) {
    int s[2];
    char in[64];
    pair(SOCK_STREAM, s);
    char *page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(page + 4096, 4096) == 0);
    memcpy(page + 4092, "edge", 4);
    CHECK(write(s[0], nowhere, 5) == -1 && errno == EFAULT);
    CHECK(send(s[0], (void *)-1, 5, 0) == -1 && errno == EFAULT);
    CHECK(writev(s[0], (void *)(nowhere + 16), 3) == -1 && errno == EFAULT);
    CHECK(sendmsg(s[0], (void *)-1, 0) == -1 && errno == EFAULT);
    CHECK(recvmsg(s[0], NULL, 0) == -1 && errno == EFAULT);
    CHECK(write(-1, "x", 1) == -1 && errno == EBADF && read(12345, in, 1) == -1 && errno == EBADF);
    said(s[0], page + 4092, write(s[0], page + 4092, 4));
    // Untouched memory, and that of a file.
    said(s[0], "\0\0\0", write(s[0], page + 2 * 4096, 3));
    int file = open("/proc/self/exe", O_RDONLY);
    char *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    said(s[0], "\177ELF", write(s[0], mapped, 4));
    heard(s[1], in, read(s[1], in, sizeof in));
}

static void inet(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (void *)&address, &length) == 0);
    CHECK(connect(client, (void *)&address, length) == 0);
    int server = accept(listener, NULL, NULL);
    char in[64];
    said(client, "thrown", write(client, "thrown", 6));
    usleep(20000);
    // TCP throws away what is read so.
    CHECK(recv(server, in, 4, MSG_TRUNC) == 4);
    heard(server, in, read(server, in, sizeof in));
    said(server, "answer", write(server, "answer", 6));
    heard(client, in, read(client, in, sizeof in));
}

int main(int count, char **words) {
    CHECK(count >= 3);
    const char *name = words[1];
    directory = words[2];
    if (strcmp(name, "stream") == 0) {
        calls(SOCK_STREAM);
    } else if (strcmp(name, "dgram") == 0) {
        calls(SOCK_DGRAM);
    } else if (strcmp(name, "seqpacket") == 0) {
        calls(SOCK_SEQPACKET);
    } else if (strcmp(name, "peek") == 0) {
        peek();
    } else if (strcmp(name, "flood") == 0) {
        flood();
    } else if (strcmp(name, "moved") == 0) {
        moved();
    } else if (strcmp(name, "family") == 0) {
        family(words[0]);
    } else if (strcmp(name, "exec") == 0) {
        said(atoi(words[3]), "exec ", write(atoi(words[4]), "exec ", 5));
    } else if (strcmp(name, "passed") == 0) {
        passed();
    } else if (strcmp(name, "named") == 0) {
        named();
    } else if (strcmp(name, "interrupted") == 0) {
        interrupted();
    } else if (strcmp(name, "faults") == 0) {
        faults();
    } else if (strcmp(name, "inet") == 0) {
        inet();
    } else {
        fprintf(stderr, "no case %s\n", name);
        return 2;
    }
    return 0;
}
