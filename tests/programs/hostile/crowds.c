/* Many: calls, threads, processes, and their sudden ends. */
#include "hostile.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* What all threads and processes count together. */
struct counts {
    int allowed, refused, odd;
};
static struct counts *counts;

static void share_counts(void)
{
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void add(int *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* One allowed connection, and one that isn't. */
static void both(void)
{
    struct address to = at(PROXY4, PROXY_PORT), foreign = at(FOREIGN4, PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    add(connect(fd, &to.any, to.length) == 0 ? &counts->allowed : &counts->odd);
    close(fd);
    fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, &foreign.any, foreign.length) != 0)
        add(errno == EPERM ? &counts->refused : &counts->odd);
    close(fd);
}

static pthread_barrier_t barrier;

static void *thread_both(void *unused)
{
    pthread_barrier_wait(&barrier);
    both();
    return unused;
}

/* 1,000 threads at once. */
static int threads(char **args)
{
    (void)args;
    enum { COUNT = 1000 };
    static pthread_t all[COUNT];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    share_counts();
    pthread_barrier_init(&barrier, NULL, COUNT);
    for (int i = 0; i < COUNT; i++)
        if (pthread_create(&all[i], &small, thread_both, NULL) != 0)
            broken("pthread_create");
    for (int i = 0; i < COUNT; i++)
        pthread_join(all[i], NULL);
    printf("allowed %d odd %d\n", counts->allowed, counts->odd);
    fprintf(stderr, "refused %d\n", counts->refused);
    return 0;
}

/* Forks in a loop, up to the limit of processes: 600 children, 40 at once. */
static int forks(char **args)
{
    (void)args;
    struct rlimit limit = {40, 40};
    share_counts();
    if (setrlimit(RLIMIT_NPROC, &limit) != 0)
        broken("setrlimit");
    int born = 0, refused_forks = 0;
    for (int i = 0; born < 600 && i < 100000; i++) {
        pid_t child = fork();
        if (child == 0) {
            both();
            _exit(0);
        }
        if (child > 0) {
            born++;
            continue;
        }
        refused_forks++;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        sleep_ms(1);
    }
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    printf("born %d allowed %d odd %d\n", born, counts->allowed, counts->odd);
    fprintf(stderr, "refused %d, forks refused %d\n", counts->refused, refused_forks);
    return 0;
}

/* Generations: each process has a child, 300 deep, and leaves at once. */
static int generations(char **args)
{
    (void)args;
    share_counts();
    int ends[2];
    if (pipe(ends) != 0)
        broken("pipe");
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child < 0)
            broken("fork");
        if (child > 0) {
            if (i > 0)
                _exit(0);
            close(ends[1]);
            char byte;
            while (read(ends[0], &byte, 1) < 0)
                ;
            wait_for(child);
            printf("allowed %d odd %d\n", counts->allowed, counts->odd);
            return 0;
        }
        both();
    }
    _exit(0);
}

/* Processes that are killed at any moment of a judged call. */
static int sudden_ends(char **args)
{
    (void)args;
    share_counts();
    unsigned seed = 1;
    for (int round = 0; round < 150; round++) {
        pid_t child = fork();
        if (child == 0)
            for (int i = 0; i < 100000; i++)
                both();
        seed = seed * 1103515245 + 12345;
        usleep(seed / 65536 % 3000);
        kill(child, round % 3 ? SIGKILL : SIGTERM);
        int ended = wait_for(child);
        if (ended != (round % 3 ? 137 : 143))
            printf("round %d ended with %d\n", round, ended);
    }
    both();
    printf("odd %d\n", counts->odd);
    return 0;
}

/* Threads that end, exec and exit in the middle of each other's calls. */
static void *for_ever(void *unused)
{
    for (int i = 0; i < 100000; i++)
        both();
    return unused;
}

static int sudden_execs(char **args)
{
    (void)args;
    share_counts();
    fflush(stdout);
    for (int round = 0; round < 60; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            for (int i = 0; i < 4; i++)
                pthread_create(&thread, NULL, for_ever, NULL);
            usleep(round * 37 % 2500);
            execl("/proc/self/exe", "hostile", "exit", "9", (char *)NULL);
            _exit(1);
        }
        int ended = wait_for(child);
        if (ended != 9)
            printf("round %d ended with %d\n", round, ended);
    }
    printf("odd %d\n", counts->odd);
    return 0;
}

/* args: how many. Warm up, meet the harness, call, meet it again. */
static int endless(char **args)
{
    struct address to = at(PROXY4, ALLOWED_PORT), foreign = at(FOREIGN4, PORT), proxy = at(PROXY4, PROXY_PORT);
    int rounds = atoi(args[0]), failures = 0;
    for (int part = 0; part < 2; part++) {
        for (int i = 0; i < (part == 0 ? 2000 : rounds); i++) {
            int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
            failures += connect(fd, &to.any, to.length) != 0;
            failures += sendto(fd, "x", 1, 0, &to.any, to.length) != 1;
            if (i % 20 == 0)
                failures += connect(fd, &foreign.any, foreign.length) == 0;
            close(fd);
            if (i % 100 == 0) {
                fd = open_socket(AF_INET, SOCK_STREAM, 0);
                failures += connect(fd, &proxy.any, proxy.length) != 0;
                close(fd);
            }
        }
        meet(part == 0 ? "go" : "end");
    }
    say("failures", failures);
    return 0;
}

/* Leaks without end, slowly, by several calls: until somebody stops it (5 s at most). */
static int leak_on(char **args)
{
    (void)args;
    struct address tcp = at(FOREIGN4, PORT), six = at(FOREIGN6, PORT);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 1000; i++) {
        if (i == 5) {
            puts("leaking");
            fflush(stdout);
        }
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, &tcp.any, tcp.length) == 0)
            (void)!write(fd, TOKEN, sizeof TOKEN - 1);
        close(fd);
        fd = socket(AF_INET6, SOCK_DGRAM, 0);
        sendto(fd, TOKEN, sizeof TOKEN - 1, 0, &six.any, six.length);
        close(fd);
        struct iovec data = {TOKEN, sizeof TOKEN - 1};
        struct msghdr message = {.msg_name = &tcp, .msg_namelen = tcp.length, .msg_iov = &data, .msg_iovlen = 1};
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        sendmsg(fd, &message, 0);
        close(fd);
        sleep_ms(5);
    }
    return 0;
}

static void *burst_thread(void *count)
{
    struct address to = at(PROXY4, ALLOWED_PORT);
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (long i = 0; i < (long)count; i++)
        if (connect(fd, &to.any, to.length) != 0)
            abort();
    return NULL;
}

/* args: how many connects, by two threads. Prints how many were made a second. */
static int burst(char **args)
{
    pthread_t threads[2];
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, burst_thread, (void *)(atol(args[0]) / 2));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &to);
    double seconds = (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9;
    printf("%.0f\n", atol(args[0]) / seconds);
    return 0;
}

static void *leak_on_thread(void *unused)
{
    leak_on(NULL);
    return unused;
}

/* The same from a daemon, a thread, and with a thread that waits in a judged call. */
static void *wait_thread(void *unused)
{
    struct address to = at(PROXY4, 9070);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, &to.any, to.length);
    return unused;
}

static int leak_everywhere(char **args)
{
    pthread_t thread;
    full_listener(at(PROXY4, 9070));
    if (fork() == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        return leak_on(args);
    }
    pthread_create(&thread, NULL, wait_thread, NULL);
    pthread_create(&thread, NULL, leak_on_thread, NULL);
    return leak_on(args);
}

/* Many leaks at once, for output that can't be written. args: how many. */
static int leak_many(char **args)
{
    struct address to = at(FOREIGN4, PORT);
    int refusals = 0;
    for (int i = 0; i < atoi(args[0]); i++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        refusals += connect(fd, &to.any, to.length) != 0 && errno == EPERM;
        close(fd);
    }
    printf("refused %d\n", refusals);
    return 0;
}

const struct vector crowd_cases[] = {
    {"threads", threads},
    {"forks", forks},
    {"generations", generations},
    {"sudden-ends", sudden_ends},
    {"sudden-execs", sudden_execs},
    {"endless", endless},
    {"leak-on", leak_on},
    {"leak-everywhere", leak_everywhere},
    {"leak-many", leak_many},
    {"burst", burst},
    {NULL, NULL},
};
