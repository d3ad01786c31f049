// The small programs that the tests run under the tracer, by name. Each checks what it sees and exits with 0,
// or says where it failed and exits with 1. All traffic stays on loopback. The handler of the tests judges
// connect by its IPv4 address: 127.0.0.1 is let go, .2 fails with EHOSTUNREACH, .3 is performed (to .1), .4
// takes 300 ms and fails with ETIMEDOUT, .5 waits for a signal and is restarted, .6 is restarted without one.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            int saved = errno;                                                                    \
            fprintf(stderr, "line %d: %s (errno %d %s)\n", __LINE__, #condition, saved, strerror(saved)); \
            _exit(1);                                                                             \
        }                                                                                         \
    } while (0)

#define FAILS(call, error) CHECK((call) == -1 && errno == (error))

extern char **environ;
static const char *self;
static struct sockaddr_in listening;

static struct sockaddr_in host(int last) {
    struct sockaddr_in address = listening;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(0x7F000000 | last);
    if (!address.sin_port) address.sin_port = htons(9);
    return address;
}

static int listener(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7F000001)};
    socklen_t length = sizeof address;
    CHECK(bind(fd, (void *)&address, length) == 0);
    CHECK(listen(fd, 1000) == 0);
    CHECK(getsockname(fd, (void *)&address, &length) == 0);
    listening = address;
    return fd;
}

static int reach(int last) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = host(last);
    int result = connect(fd, (void *)&address, sizeof address);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int status_of(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, __WALL) == child);
    return status;
}

// ---- judging

static int basic(void) {
    listener();
    for (int i = 0; i < 50; i++) {
        CHECK(reach(1) == 0);
        FAILS(reach(2), EHOSTUNREACH);
        CHECK(reach(3) == 0);
    }
    // What the kernel says itself.
    struct sockaddr_in address = host(1);
    FAILS(connect(-1, (void *)&address, sizeof address), EBADF);
    FAILS(connect(1000, (void *)&address, sizeof address), EBADF);
    return 0;
}

static int refused(void) {
    close(listener());
    FAILS(reach(1), ECONNREFUSED);
    return 0;
}

// All registers but the result's survive.
static int registers(void) {
    listener();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    for (int last = 1; last <= 3; last++) {
        struct sockaddr_in address = host(last);
#ifdef __x86_64__
        register long rdi __asm__("rdi") = fd;
        register long rsi __asm__("rsi") = (long)&address;
        register long rdx __asm__("rdx") = sizeof address;
        register long r10 __asm__("r10") = 0x1010;
        register long r8 __asm__("r8") = 0x0808;
        register long r9 __asm__("r9") = 0x0909;
        register long r12 __asm__("r12") = 0x1212;
        long rax = SYS_connect;
        __asm__ volatile("syscall"
                         : "+a"(rax), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "+r"(r12)
                         :
                         : "rcx", "r11", "memory");
        CHECK(rdi == fd && rsi == (long)&address && rdx == sizeof address);
        CHECK(r10 == 0x1010 && r8 == 0x0808 && r9 == 0x0909 && r12 == 0x1212);
        CHECK(rax == (last == 2 ? -EHOSTUNREACH : 0) || rax == -EISCONN);
#elif defined __i386__
        long eax = 102, ecx, edx = 0x1234, esi = 0x5678, edi = 0x9ABC;
        long args[3] = {fd, (long)&address, sizeof address};
        ecx = (long)args;
        __asm__ volatile("push %%ebx; mov $3, %%ebx; int $0x80; cmp $3, %%ebx; jne 1f; jmp 2f; 1: ud2; 2: pop %%ebx"
                         : "+a"(eax), "+c"(ecx), "+d"(edx), "+S"(esi), "+D"(edi)
                         :
                         : "memory");
        CHECK(ecx == (long)args && edx == 0x1234 && esi == 0x5678 && edi == 0x9ABC);
        CHECK(eax == (last == 2 ? -EHOSTUNREACH : 0) || eax == -EISCONN);
#endif
    }
    return 0;
}

#ifdef __x86_64__
static long int80(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

// i386 calls from 64-bit code, the direct one and socketcall.
static int foreign(void) {
    listener();
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(low != MAP_FAILED);
    struct sockaddr_in *address = (void *)low;
    int *args = (void *)(low + 64);
    for (int last = 1; last <= 3; last++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        *address = host(last);
        long result = int80(362, fd, (long)address, sizeof *address);
        CHECK(result == (last == 2 ? -EHOSTUNREACH : 0));
        close(fd);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        args[0] = fd, args[1] = (long)address, args[2] = sizeof *address;
        result = int80(102, 3, (long)args, 0);
        CHECK(result == (last == 2 ? -EHOSTUNREACH : 0));
        close(fd);
    }
    // x32 does not exist.
    FAILS(syscall(0x40000000 | SYS_connect, -1, 0, 0), ENOSYS);
    return 0;
}
#else
// The handler opens AF_INET, SOCK_DGRAM sockets with the values that it saw.
static int foreign(void) {
    long args[3] = {AF_INET, SOCK_DGRAM, 0};
    long eax = 102, ecx = (long)args, edx = 0x1234, esi = 0x5678, edi = 0x9ABC;
    __asm__ volatile("push %%ebx; mov $1, %%ebx; int $0x80; cmp $1, %%ebx; jne 1f; jmp 2f; 1: ud2; 2: pop %%ebx"
                     : "+a"(eax), "+c"(ecx), "+d"(edx), "+S"(esi), "+D"(edi)
                     :
                     : "memory");
    CHECK(eax >= 0);
    CHECK(ecx == (long)args && edx == 0x1234 && esi == 0x5678 && edi == 0x9ABC);
    int type = 0;
    socklen_t length = sizeof type;
    CHECK(getsockopt(eax, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_DGRAM);
    return 0;
}
#endif

// ---- processes and threads

static void *reach_2(void *unused) {
    FAILS(reach(2), EHOSTUNREACH);
    return unused;
}

static int family(void) {
    listener();
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, reach_2, NULL) == 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    pid_t child = fork();
    if (child == 0) {
        reach_2(NULL);
        _exit(3);
    }
    CHECK(status_of(child) == 3 << 8);
    char *const again[] = {(char *)self, "refusal", NULL};
    CHECK(posix_spawn(&child, self, NULL, NULL, again, environ) == 0);
    CHECK(status_of(child) == 0);
    if ((child = vfork()) == 0) {
        execv(self, again);
        _exit(9);
    }
    CHECK(status_of(child) == 0);
    struct clone_args args = {.exit_signal = SIGCHLD};
    child = syscall(SYS_clone3, &args, sizeof args);
    if (child == -1 && errno == ENOSYS && getenv("FULL_STOP")) return 0;
    if (child == 0) {
        reach_2(NULL);
        _exit(4);
    }
    CHECK(child > 0 && status_of(child) == 4 << 8);
    return 0;
}

static int refusal(void) {
    FAILS(reach(2), EHOSTUNREACH);
    return 0;
}

static void *exec_now(void *unused) {
    char *const again[] = {(char *)self, "refusal", NULL};
    usleep(20000);
    execv(self, again);
    return unused;
}

static void *sleep_long(void *unused) {
    sleep(100);
    return unused;
}

static int exec_thread(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread, NULL, sleep_long, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, exec_now, NULL) == 0);
    sleep(100);
    return 1;
}

static void *slow_connect(void *unused) {
    reach(4);
    return unused;
}

// A thread execs while others are in judged calls, and after the first thread has ended.
static int exec_busy(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread, NULL, slow_connect, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, exec_now, NULL) == 0);
    pthread_exit(NULL);
}

static int untraced(void) {
#ifdef __x86_64__
    register long rdi __asm__("rdi") = CLONE_UNTRACED | SIGCHLD;
    long rax = SYS_clone;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall" : "+a"(rax), "+r"(rdi) : "S"(0), "d"(0), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    if (rax == 0) {
        reach_2(NULL);
        _exit(5);
    }
    CHECK(rax > 0 && rdi == (CLONE_UNTRACED | SIGCHLD));
    CHECK(status_of(rax) == 5 << 8);
#endif
    struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    if (child == -1 && errno == ENOSYS && getenv("FULL_STOP")) return 0;
    if (child == 0) {
        reach_2(NULL);
        _exit(6);
    }
    CHECK(child > 0 && args.flags == CLONE_UNTRACED);
    CHECK(status_of(child) == 6 << 8);
    return 0;
}

// ---- ends

static int pidfd_of(pid_t pid) { return syscall(SYS_pidfd_open, pid, 0); }

static void *wait_forever(void *unused) {
    pause();
    return unused;
}

// A child's pidfd that polls readable is reapable at once.
static int reapable(void) {
    int rounds = getenv("ROUNDS") ? atoi(getenv("ROUNDS")) : 2000;
    for (int i = 0; i < rounds; i++) {
        int kind = i % 4, ready[2];
        CHECK(pipe(ready) == 0);
        pid_t child = fork();
        if (child == 0) {
            if (kind == 0) _exit(i & 0x7F);
            if (kind == 1) raise(SIGKILL);
            pthread_t thread;
            for (int j = 0; j < 2; j++) pthread_create(&thread, NULL, wait_forever, NULL);
            if (kind == 2) exit(i & 0x7F);
            CHECK(write(ready[1], "r", 1) == 1);
            pause();
        }
        int fd = pidfd_of(child);
        CHECK(fd >= 0);
        if (kind == 3) {
            // While it makes threads, it is killed in the tracer's hands: see the limits in lib.rs.
            char byte;
            CHECK(read(ready[0], &byte, 1) == 1);
            usleep(i % 100);
            kill(child, SIGKILL);
        }
        close(ready[0]), close(ready[1]);
        struct pollfd wait = {fd, POLLIN, 0};
        CHECK(poll(&wait, 1, 5000) == 1);
        siginfo_t info = {0};
        CHECK(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG) == 0);
        CHECK(info.si_pid == child);
        CHECK(kind % 2 ? info.si_code == CLD_KILLED : info.si_code == CLD_EXITED && info.si_status == (i & 0x7F));
        close(fd);
    }
    return 0;
}

static void *accept_all(void *fd) {
    for (;;) close(accept(*(int *)fd, NULL, NULL));
}

// Children that are killed in the middle of judged calls.
static int killed(void) {
    static int fd;
    fd = listener();
    pthread_t acceptor;
    CHECK(pthread_create(&acceptor, NULL, accept_all, &fd) == 0);
    for (int i = 0; i < 300; i++) {
        int kind = i % 6;
        pid_t child = fork();
        if (child == 0) {
            if (kind == 5) {
                pthread_t thread;
                pthread_create(&thread, NULL, slow_connect, NULL);
            }
            for (;;) reach(kind < 4 ? kind + 1 : 4);
        }
        usleep(i * 7 % 1000);
        kill(child, SIGKILL);
        CHECK(status_of(child) == SIGKILL);
    }
    return 0;
}

// ---- signals

static volatile sig_atomic_t taken, value;
static void take(int signal, siginfo_t *info, void *context) {
    (void)context;
    taken = signal;
    value = info->si_value.sival_int;
}

static void handle(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static int signals(void) {
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++) {
        handle(signal, 0);
        CHECK(sigqueue(getpid(), signal, (union sigval){.sival_int = signal * 7}) == 0);
        CHECK(taken == signal && value == signal * 7);
    }
    handle(SIGTRAP, 0);
    raise(SIGTRAP);
    CHECK(taken == SIGTRAP);
    taken = 0;
    __asm__ volatile("int3");
    CHECK(taken == SIGTRAP);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGTRAP, SIG_DFL);
        __asm__ volatile("int3");
    }
    CHECK((status_of(child) & 0x7F) == SIGTRAP);
    return 0;
}

static void alarm_in(int milliseconds) {
    struct itimerval timer = {.it_value = {0, milliseconds * 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

// The handler restarts a call on 127.0.0.5 when a signal is there; after the second time it gives ENETDOWN.
static int restarts(void) {
    // Another thread took the signal: restarted nevertheless, unseen.
    FAILS(reach(6), ENETDOWN);
    handle(SIGALRM, 0);
    alarm_in(50);
    FAILS(reach(5), EINTR);
    CHECK(taken == SIGALRM);
    FAILS(reach(5), ENETDOWN);
    taken = 0;
    handle(SIGALRM, SA_RESTART);
    alarm_in(50);
    FAILS(reach(5), ENETDOWN);
    CHECK(taken == SIGALRM);
    // No handler.
    signal(SIGALRM, SIG_IGN);
    alarm_in(50);
    FAILS(reach(5), ENETDOWN);
    // Stopped and continued.
    pid_t child = fork();
    if (child == 0) {
        FAILS(reach(5), ENETDOWN);
        _exit(0);
    }
    int status;
    usleep(50000);
    kill(child, SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    usleep(20000);
    kill(child, SIGCONT);
    CHECK(status_of(child) == 0);
    return 0;
}

// A call that is let go, blocks in the kernel (the backlog is full) and is interrupted there.
static int interrupted(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    listener();
    handle(SIGALRM, 0);
    int acceptor = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7F000001)};
    CHECK(bind(acceptor, (void *)&address, sizeof address) == 0 && listen(acceptor, 1) == 0);
    alarm_in(50);
    FAILS(accept(acceptor, NULL, NULL), EINTR);
    handle(SIGALRM, SA_RESTART);
    alarm_in(50);
    struct timeval limit = {0, 150000};
    (void)limit;
    pid_t child = fork();
    if (child == 0) {
        socklen_t length = sizeof address;
        CHECK(getsockname(acceptor, (void *)&address, &length) == 0);
        usleep(150000);
        CHECK(connect(fd, (void *)&address, sizeof address) == 0);
        _exit(0);
    }
    CHECK(accept(acceptor, NULL, NULL) >= 0);
    CHECK(status_of(child) == 0);
    return 0;
}

static int stops(void) {
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            pthread_create(&thread, NULL, wait_forever, NULL);
            for (;;) reach(2);
        }
        // SIGTSTP doesn't stop members of an orphaned process group, which ours may be.
        setpgid(child, child);
        int status;
        usleep(3000);
        kill(child, i % 2 ? SIGSTOP : SIGTSTP);
        CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        usleep(1000);
        kill(child, SIGCONT);
        CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
        kill(child, SIGKILL);
        CHECK(status_of(child) == SIGKILL);
    }
    return 0;
}

// ---- threads

static int patient(void) {
    pthread_t threads[100];
    double start = now();
    for (int i = 0; i < 100; i++) CHECK(pthread_create(&threads[i], NULL, slow_connect, NULL) == 0);
    // Nobody waits behind them.
    double before = now();
    FAILS(reach(2), EHOSTUNREACH);
    CHECK(now() - before < 0.2);
    for (int i = 0; i < 100; i++) pthread_join(threads[i], NULL);
    CHECK(now() - start < 5);
    return 0;
}

static void *spin_connect(void *unused) {
    for (;;) reach(2);
    return unused;
}

// Threads in a tight loop leave a turn to others.
static int fair(void) {
    pthread_t thread;
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread, NULL, spin_connect, NULL) == 0);
    double start = now();
    for (int i = 0; i < 200; i++) FAILS(reach(2), EHOSTUNREACH);
    CHECK(now() - start < 3);
    return 0;
}

static int faulter;
static void *serve_fault(void *page) {
    struct uffd_msg message;
    CHECK(read(faulter, &message, sizeof message) == sizeof message);
    usleep(500000);
    static char content[4096] __attribute__((aligned(4096)));
    struct sockaddr_in address = host(2);
    memcpy(content, &address, sizeof address);
    struct uffdio_copy copy = {.dst = (uintptr_t)page, .src = (uintptr_t)content, .len = 4096};
    CHECK(ioctl(faulter, UFFDIO_COPY, &copy) == 0);
    return NULL;
}

static void *other_work(void *unused) {
    double start = now();
    for (int i = 0; i < 100; i++) FAILS(reach(2), EHOSTUNREACH);
    CHECK(now() - start < 0.45);
    return unused;
}

// The address lies in a page that comes 500 ms after it is asked for; others are judged meanwhile.
static int held_back(void) {
    faulter = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faulter == -1) {
        puts("no userfaultfd");
        return 0;
    }
    struct uffdio_api api = {.api = UFFD_API};
    CHECK(ioctl(faulter, UFFDIO_API, &api) == 0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(ioctl(faulter, UFFDIO_REGISTER, &range) == 0);
    pthread_t thread, other;
    CHECK(pthread_create(&thread, NULL, serve_fault, page) == 0);
    CHECK(pthread_create(&other, NULL, other_work, NULL) == 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(connect(fd, (void *)page, sizeof(struct sockaddr_in)), EHOSTUNREACH);
    pthread_join(thread, NULL);
    pthread_join(other, NULL);
    return 0;
}

// ---- filters of the program's own

static void filter(unsigned number, unsigned action) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int filters(void) {
    listener();
    // As a sandbox that lists what it allows.
    filter(-1, SECCOMP_RET_KILL_PROCESS);
    filter(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, reach_2, NULL) == 0);
    pthread_join(thread, NULL);
    FAILS(syscall(SYS_getppid), EXDEV);
    for (int i = 0; i < 3; i++) {
        CHECK(reach(1) == 0);
        FAILS(reach(2), EHOSTUNREACH);
        CHECK(reach(3) == 0);
    }
    filter(SYS_getpgrp, SECCOMP_RET_TRACE);
    FAILS(syscall(SYS_getpgrp), ENOSYS);
    // Restarted under a filter: still a call of the program's.
    handle(SIGALRM, SA_RESTART);
    alarm_in(50);
    FAILS(reach(5), ENETDOWN);
    filter(SYS_connect, SECCOMP_RET_ERRNO | EXDEV);
    FAILS(reach(1), EXDEV);
    FAILS(reach(2), EXDEV);
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), EBUSY);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
    return 0;
}

// ---- ends of the whole

static int leave_behind(void) {
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            usleep(200000);
            int fd = open(getenv("MARK"), O_CREAT | O_WRONLY, 0600);
            close(fd);
            FAILS(reach(2), EHOSTUNREACH);
            fd = open(getenv("MARK"), O_WRONLY | O_APPEND);
            CHECK(write(fd, "x", 1) == 1);
            _exit(0);
        }
        _exit(0);
    }
    return 7;
}

static int fork_on(void) {
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 20; i++)
        if (fork() == 0)
            for (;;) {
                if (fork() != 0) _exit(0);
                usleep(500);
            }
    usleep(20000);
    return 7;
}

static int crash(void) {
    raise(SIGSEGV);
    return 0;
}

static int seven(void) { return 7; }

static void tell_ready(void) {
    pid_t pid = getpid();
    CHECK(write(atoi(getenv("READY")), &pid, sizeof pid) == sizeof pid);
}

static int await_term(void) {
    /* Whoever runs the tests in the background has it ignored. */
    signal(SIGINT, SIG_DFL);
    handle(SIGTERM, 0);
    tell_ready();
    while (taken != SIGTERM) usleep(1000);
    return 42;
}

static int await_cont(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_forever, NULL) == 0);
    handle(SIGCONT, 0);
    tell_ready();
    while (taken != SIGCONT) usleep(1000);
    return 43;
}

static void *reach_often(void *unused) {
    for (int i = 0; i < 20; i++) FAILS(reach(2), EHOSTUNREACH);
    return unused;
}

// As many threads as asked for, at once.
static int crowd(void) {
    enum { COUNT = 1000 };
    static pthread_t threads[COUNT];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], &small, i % 5 ? reach_often : slow_connect, NULL) == 0);
    for (int i = 0; i < COUNT; i++) pthread_join(threads[i], NULL);
    return 0;
}

static int many(void) {
    int rounds = atoi(getenv("ROUNDS"));
    int last = atoi(getenv("HOST"));
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = host(last);
    double best = 1e9;
    for (int series = 0; series < 9; series++) {
        double start = now();
        for (int i = 0; i < rounds; i++) connect(fd, (void *)&address, sizeof address);
        double each = (now() - start) / rounds * 1e6;
        if (each < best) best = each;
    }
    printf("%.2f\n", best);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} programs[] = {
    {"basic", basic},           {"refused", refused},       {"registers", registers}, {"foreign", foreign},
    {"family", family},         {"refusal", refusal},       {"exec_thread", exec_thread}, {"exec_busy", exec_busy},
    {"untraced", untraced},     {"reapable", reapable},     {"killed", killed},       {"signals", signals},
    {"restarts", restarts},     {"interrupted", interrupted}, {"stops", stops},       {"patient", patient},
    {"fair", fair},             {"held_back", held_back},   {"filters", filters},     {"leave_behind", leave_behind},
    {"fork_on", fork_on},       {"crash", crash},           {"seven", seven},         {"await_term", await_term},
    {"await_cont", await_cont}, {"many", many},             {"crowd", crowd},
};

int main(int argc, char **argv) {
    self = argv[0];
    for (size_t i = 0; argc > 1 && i < sizeof programs / sizeof *programs; i++)
        if (!strcmp(programs[i].name, argv[1])) return programs[i].run();
    return 99;
}
