/*
 * What one thread says while another changes it: addresses, pointers, control data and descriptors that
 * turn between an allowed and a foreign meaning during the call. 600 rounds each at least, and as many as
 * 150 ms take: without a tracer 600 are over before the other thread has begun. A vector returns 1 when
 * any round was refused with EPERM or EACCES, 0 otherwise.
 */
#include "common.h"
#include <linux/sched.h>
#include <netinet/ip.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static struct address allowed, foreign;
static int refusals;

/* Notes a result; only a firewall's answers count. */
static void note(long result)
{
    if (result < 0 && (errno == EPERM || errno == EACCES))
        refusals++;
}

static int verdict(void)
{
    fprintf(stderr, "%d refusals\n", refusals);
    _exit(refusals != 0);
}

/* How long a meaning stays. */
static volatile unsigned turns;

static void linger(void)
{
    turns++;
    for (int i = 0; i < 40; i++)
        __asm__ volatile("pause");
}

static void start(void *(*turn)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, turn, NULL) != 0)
        broken("pthread_create");
    while (turns < 10)
        sleep_ms(1);
}

/* Connections wait at the witness: no more than its queue holds. */
static int more_connects(int round)
{
    return round < 4000 && more_rounds(round);
}

/* The first 8 bytes of a sockaddr_in are all of it: they change at once. */
static volatile uint64_t turning_bytes[4] __attribute__((aligned(64)));

static void *turn_bytes(void *unused)
{
    (void)unused;
    uint64_t one, other;
    memcpy(&one, &allowed, 8);
    memcpy(&other, &foreign, 8);
    for (;;) {
        turning_bytes[0] = one;
        linger();
        turning_bytes[0] = other;
        linger();
    }
    return NULL;
}

static void prepare(int port)
{
    allowed = at(PROXY4, port);
    foreign = at(FOREIGN4, PORT);
    memcpy((void *)turning_bytes, &allowed, 8);
}

static int flip_connect(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    start(turn_bytes);
    for (int round = 0; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        int result = connect(fd, (struct sockaddr *)turning_bytes, sizeof(struct sockaddr_in));
        note(result);
        if (result == 0)
            note(write(fd, TOKEN, sizeof TOKEN - 1));
        close(fd);
    }
    return verdict();
}

static int flip_connect_nonblocking(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    start(turn_bytes);
    for (int round = 0; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        note(connect(fd, (struct sockaddr *)turning_bytes, sizeof(struct sockaddr_in)));
        close(fd);
    }
    return verdict();
}

static int flip_sendto(char **args)
{
    (void)args;
    prepare(ALLOWED_PORT);
    start(turn_bytes);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (int round = 0; more_rounds(round); round++)
        note(sendto(fd, TOKEN, sizeof TOKEN - 1, 0, (struct sockaddr *)turning_bytes, sizeof(struct sockaddr_in)));
    return verdict();
}

/* A message of which one word turns: the pointer to the name. */
static struct iovec token = {TOKEN, sizeof TOKEN - 1};
static struct mmsghdr messages[2];

static void *turn_name(void *unused)
{
    (void)unused;
    volatile struct msghdr *last = &messages[1].msg_hdr;
    for (;;) {
        last->msg_name = &allowed;
        linger();
        last->msg_name = &foreign;
        linger();
    }
    return NULL;
}

static void prepare_messages(void)
{
    prepare(ALLOWED_PORT);
    for (int i = 0; i < 2; i++)
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &allowed, .msg_namelen = allowed.length, .msg_iov = &token, .msg_iovlen = 1};
}

static int flip_sendmsg(char **args)
{
    (void)args;
    prepare_messages();
    start(turn_name);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (int round = 0; more_rounds(round); round++)
        note(sendmsg(fd, &messages[1].msg_hdr, 0));
    return verdict();
}

static int flip_sendmmsg(char **args)
{
    (void)args;
    prepare_messages();
    start(turn_name);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (int round = 0; more_rounds(round); round++) {
        int sent = sendmmsg(fd, messages, 2, 0);
        note(sent);
        refusals += sent == 1; /* the second was refused; its errno isn't reported */
    }
    return verdict();
}

/* The length of the name turns between none and all, on a socket connected to an allowed peer. */
static void *turn_name_length(void *unused)
{
    (void)unused;
    volatile struct msghdr *last = &messages[1].msg_hdr;
    for (;;) {
        last->msg_namelen = 0;
        linger();
        last->msg_namelen = sizeof(struct sockaddr_in);
        linger();
    }
    return NULL;
}

static int flip_namelen(char **args)
{
    (void)args;
    prepare_messages();
    messages[1].msg_hdr.msg_name = &foreign;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(fd, &allowed.any, allowed.length) != 0)
        return refused("connect to the allowed peer") + 1;
    start(turn_name_length);
    for (int round = 0; more_rounds(round); round++)
        note(sendmsg(fd, &messages[1].msg_hdr, 0));
    return verdict();
}

/* Control data that turns between harmless and a source route by the foreign hop. */
static union {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(8)];
} control;

static void *turn_control(void *unused)
{
    (void)unused;
    volatile int *type = &control.head.cmsg_type;
    for (;;) {
        *type = IP_TTL;
        linger();
        *type = IP_RETOPTS;
        linger();
    }
    return NULL;
}

static int flip_control(char **args)
{
    (void)args;
    prepare_messages();
    unsigned char options[8] = {IPOPT_NOP, IPOPT_LSRR, 7, 4};
    memcpy(options + 4, &foreign.in4.sin_addr, 4);
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(8), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_TTL};
    memcpy(CMSG_DATA(&control.head), options, 8);
    messages[1].msg_hdr.msg_control = &control;
    messages[1].msg_hdr.msg_controllen = CMSG_SPACE(8);
    start(turn_control);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (int round = 0; more_rounds(round); round++)
        note(sendmsg(fd, &messages[1].msg_hdr, 0));
    return verdict();
}

/* The descriptor 50 turns between a socket that may do what is asked and one that may not. */
#define TURNING_FD 50
static volatile int one_fd, other_fd;

static void *turn_descriptor(void *unused)
{
    (void)unused;
    for (;;) {
        dup2(one_fd, TURNING_FD);
        linger();
        dup2(other_fd, TURNING_FD);
        linger();
    }
    return NULL;
}

/* A UNIX socket, whose destinations aren't judged, and a TCP socket. */
static int swap_connect(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    one_fd = open_socket(AF_UNIX, SOCK_STREAM, 0);
    other_fd = open_socket(AF_INET, SOCK_STREAM, 0);
    start(turn_descriptor);
    int connected = 0;
    for (int round = 0; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0), last = other_fd;
        other_fd = fd;
        note(connect(TURNING_FD, &foreign.any, foreign.length));
        struct address peer = {.length = sizeof peer.storage};
        if (getpeername(last, &peer.any, &peer.length) == 0 && write(last, TOKEN, sizeof TOKEN - 1) > 0)
            connected++;
        close(last);
    }
    fprintf(stderr, "%d connected\n", connected);
    return verdict();
}

static int swap_sendto(char **args)
{
    (void)args;
    prepare(ALLOWED_PORT);
    one_fd = open_socket(AF_UNIX, SOCK_DGRAM, 0);
    other_fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    start(turn_descriptor);
    for (int round = 0; more_rounds(round); round++)
        note(sendto(TURNING_FD, TOKEN, sizeof TOKEN - 1, 0, &foreign.any, foreign.length));
    return verdict();
}

static int swap_sendmsg(char **args)
{
    (void)args;
    prepare_messages();
    one_fd = open_socket(AF_UNIX, SOCK_DGRAM, 0);
    other_fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    messages[1].msg_hdr.msg_name = &foreign;
    start(turn_descriptor);
    for (int round = 0; more_rounds(round); round++)
        note(sendmsg(TURNING_FD, &messages[1].msg_hdr, 0));
    return verdict();
}

/* Who turns both descriptor and address is another process with the same table and a common page, perhaps an orphan, and out
 * of reach. A netlink socket's connect to a netlink address is left to the kernel where nobody could interfere. */
#define FRESH_FD 51
#define HARMLESS_FD 52

static volatile struct turner {
    uint64_t address[4]; /* the first 8 bytes of either are all of it */
    pid_t process;
    unsigned turns;
} *turner;

static long clone_sharing(int by_clone3)
{
    struct clone_args how = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    long child = by_clone3 ? syscall(SYS_clone3, &how, sizeof how) : -1;
    /* As the C library does. */
    if (child < 0 && (!by_clone3 || errno == ENOSYS))
        child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    return child;
}

static void turn_for_ever(void)
{
    uint64_t harmless = AF_NETLINK, leaking;
    memcpy(&leaking, &foreign, 8);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    turner->process = getpid();
    for (;; turner->turns++) {
        dup2(HARMLESS_FD, TURNING_FD);
        turner->address[0] = harmless;
        linger();
        dup2(FRESH_FD, TURNING_FD);
        turner->address[0] = leaking;
        linger();
    }
}

static int swap_by_process(int is_orphan, int by_clone3)
{
    prepare(PROXY_PORT);
    turner = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    dup2(open_socket(AF_NETLINK, SOCK_RAW, 0), HARMLESS_FD);
    dup2(open_socket(AF_INET, SOCK_STREAM, 0), FRESH_FD);
    long child = clone_sharing(by_clone3);
    if (child < 0)
        broken("clone");
    if (child == 0) {
        if (!is_orphan || clone_sharing(by_clone3) == 0)
            turn_for_ever();
        _exit(0);
    }
    if (is_orphan)
        wait_for(child);
    for (int i = 0; i < 2000 && turner->turns < 10; i++)
        sleep_ms(1);
    for (int round = 0, last = FRESH_FD; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        dup2(fd, FRESH_FD);
        note(connect(TURNING_FD, (struct sockaddr *)turner->address, sizeof(struct sockaddr_in)));
        /* The one before may have been in its place still. */
        struct address peer = {.length = sizeof peer.storage};
        for (int i = 0; i < 2; i++)
            if (getpeername(i ? fd : last, &peer.any, &peer.length) == 0)
                note(write(i ? fd : last, TOKEN, sizeof TOKEN - 1));
        if (last != FRESH_FD)
            close(last);
        last = fd;
    }
    kill(turner->process, SIGKILL);
    if (!is_orphan)
        wait_for(child);
    /* Whoever is the orphan's parent now waits for it. */
    for (int i = 0; i < 2000 && kill(turner->process, 0) == 0; i++)
        sleep_ms(1);
    return verdict();
}

static int swap_child(char **args) { (void)args; return swap_by_process(0, 0); }
static int swap_orphan(char **args) { (void)args; return swap_by_process(1, 0); }
static int swap_orphan_clone3(char **args) { (void)args; return swap_by_process(1, 1); }

/* A socket connected to an allowed peer, and the inherited one (args[0]) connected to a foreign one. */
static int swap_inherited(char **args)
{
    prepare_messages();
    one_fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(one_fd, &allowed.any, allowed.length) != 0)
        return refused("connect to the allowed peer") + 1;
    other_fd = atoi(args[0]);
    messages[1].msg_hdr.msg_name = NULL;
    messages[1].msg_hdr.msg_namelen = 0;
    start(turn_descriptor);
    for (int round = 0; more_rounds(round); round++)
        note(sendmsg(TURNING_FD, &messages[1].msg_hdr, 0));
    return verdict();
}

/* MSG_FASTOPEN on a TCP socket, and a UNIX socket under the same number. */
static int swap_fastopen(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    one_fd = open_socket(AF_UNIX, SOCK_STREAM, 0);
    other_fd = open_socket(AF_INET, SOCK_STREAM, 0);
    start(turn_descriptor);
    for (int round = 0; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0), last = other_fd;
        other_fd = fd;
        note(sendto(TURNING_FD, TOKEN, sizeof TOKEN - 1, MSG_FASTOPEN | MSG_NOSIGNAL, &foreign.any, foreign.length));
        close(last);
    }
    return verdict();
}

#ifdef __i386__
/* The arguments of socketcall lie in memory: the pointer to the address, and the type of a socket, turn. */
static unsigned long call_args[3];

static void *turn_call_address(void *unused)
{
    (void)unused;
    volatile unsigned long *where = &call_args[1];
    for (;;) {
        *where = (unsigned long)&allowed;
        linger();
        *where = (unsigned long)&foreign;
        linger();
    }
    return NULL;
}

static int flip_socketcall(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    call_args[1] = (unsigned long)&allowed;
    call_args[2] = allowed.length;
    start(turn_call_address);
    for (int round = 0; more_connects(round); round++) {
        call_args[0] = open_socket(AF_INET, SOCK_STREAM, 0);
        int result = syscall(SYS_socketcall, 3 /* SYS_CONNECT */, call_args);
        note(result);
        if (result == 0)
            note(write(call_args[0], TOKEN, sizeof TOKEN - 1));
        close(call_args[0]);
    }
    return verdict();
}

static void *turn_call_type(void *unused)
{
    (void)unused;
    volatile unsigned long *type = &call_args[1];
    for (;;) {
        *type = SOCK_DGRAM;
        linger();
        *type = SOCK_RAW;
        linger();
    }
    return NULL;
}

/* A datagram (ping) socket is asked for, a raw one may come. Both are foreign; what counts is that none
 * comes unjudged: with a raw one, an echo goes out. */
static int flip_socketcall_type(char **args)
{
    (void)args;
    prepare(ALLOWED_PORT);
    call_args[0] = AF_INET;
    call_args[1] = SOCK_DGRAM;
    call_args[2] = IPPROTO_UDP;
    start(turn_call_type);
    foreign.in4.sin_port = 0;
    for (int round = 0; more_rounds(round); round++) {
        int fd = syscall(SYS_socketcall, 1 /* SYS_SOCKET */, call_args), type = 0;
        socklen_t size = sizeof type;
        note(fd);
        if (fd < 0)
            continue;
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
        if (type == SOCK_RAW) {
            connect(fd, &foreign.any, foreign.length);
            note(write(fd, TOKEN, sizeof TOKEN - 1));
        }
        close(fd);
    }
    return verdict();
}
#endif

/* A process that shares nothing but memory turns the address. */
static int flip_shared_memory(char **args)
{
    (void)args;
    prepare(PROXY_PORT);
    volatile uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t one, other;
    memcpy(&one, &allowed, 8);
    memcpy(&other, &foreign, 8);
    *shared = one;
    pid_t child = fork();
    if (child == 0)
        for (;;) {
            *shared = one;
            linger();
            *shared = other;
            linger();
            if (getppid() == 1)
                _exit(0);
        }
    for (int round = 0; more_connects(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        int result = connect(fd, (struct sockaddr *)shared, sizeof(struct sockaddr_in));
        note(result);
        if (result == 0)
            note(write(fd, TOKEN, sizeof TOKEN - 1));
        close(fd);
    }
    kill(child, SIGKILL);
    wait_for(child);
    return verdict();
}

const struct vector race_vectors[] = {
    {"flip-connect", flip_connect},
    {"flip-connect-nonblocking", flip_connect_nonblocking},
    {"flip-sendto", flip_sendto},
    {"flip-sendmsg", flip_sendmsg},
    {"flip-sendmmsg", flip_sendmmsg},
    {"flip-namelen", flip_namelen},
    {"flip-control", flip_control},
    {"flip-shared-memory", flip_shared_memory},
    {"swap-connect", swap_connect},
    {"swap-sendto", swap_sendto},
    {"swap-sendmsg", swap_sendmsg},
    {"swap-inherited", swap_inherited},
    {"swap-fastopen", swap_fastopen},
    {"swap-child", swap_child},
    {"swap-orphan", swap_orphan},
    {"swap-orphan-clone3", swap_orphan_clone3},
#ifdef __i386__
    {"flip-socketcall", flip_socketcall},
    {"flip-socketcall-type", flip_socketcall_type},
#endif
    {NULL, NULL},
};
