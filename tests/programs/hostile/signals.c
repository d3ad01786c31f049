/*
 * Signals during calls that wait, and what the caller sees of them: EINTR, a restart, nothing at all.
 * Linux's rules are those of signal(7), "Interruption of system calls".
 */
#include "hostile.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#define WAITING_PORT 9070 /* at PROXY4: nobody accepts, until release() */

static volatile int handled;

static void count(int signal)
{
    (void)signal;
    handled++;
}

static void handle(int signal, int flags)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = flags};
    sigaction(signal, &action, NULL);
}

static void alarm_in(int milliseconds)
{
    struct itimerval timer = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static struct address waiting_place(void)
{
    return at(PROXY4, WAITING_PORT);
}

/* Accepts what waits, after a while, in a process of its own that dismiss() ends. */
static pid_t release(int listener, int milliseconds)
{
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return child;
    sleep_ms(milliseconds);
    for (int i = 0; i < 1000; i++) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        if (poll(&ready, 1, 10) == 1)
            accept(listener, NULL, NULL);
    }
    _exit(0);
}

static void dismiss(pid_t child)
{
    kill(child, SIGKILL);
    wait_for(child);
}

static void say_elapsed(long start, long at_least, long less_than)
{
    long elapsed = now_ms() - start;
    if (elapsed < at_least || elapsed >= less_than)
        printf("  after %ld ms, not %ld to %ld\n", elapsed, at_least, less_than);
    else
        printf("  in time\n");
}

/* A handler without SA_RESTART: EINTR; the connection goes on being made. */
static int interrupted(char **args)
{
    (void)args;
    struct address to = waiting_place();
    full_listener(to);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    handle(SIGALRM, 0);
    alarm_in(100);
    long start = now_ms();
    say("connect", connect(fd, &to.any, to.length));
    say_elapsed(start, 90, 600);
    say("handled", handled);
    say("flags", fcntl(fd, F_GETFL));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    say("again, without waiting", connect(fd, &to.any, to.length));
    return 0;
}

/* With SA_RESTART the call goes on, and ends when the other side answers. */
static int restarted(char **args)
{
    (void)args;
    struct address to = waiting_place();
    int listener = full_listener(to), fd = open_socket(AF_INET, SOCK_STREAM, 0);
    pid_t child = release(listener, 300);
    handle(SIGALRM, SA_RESTART);
    alarm_in(100);
    long start = now_ms();
    say("connect", connect(fd, &to.any, to.length));
    say_elapsed(start, 250, 8000);
    say("handled", handled);
    say("flags", fcntl(fd, F_GETFL));
    dismiss(child);
    return 0;
}

/* SO_SNDTIMEO bounds the wait; a signal then gives EINTR even with SA_RESTART. */
static int timed(char **args)
{
    (void)args;
    struct address to = waiting_place();
    full_listener(to);
    struct timeval patience = {0, 200000};
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    long start = now_ms();
    say("connect with a timeout", connect(fd, &to.any, to.length));
    say_elapsed(start, 180, 700);
    start = now_ms();
    say("once more", connect(fd, &to.any, to.length));
    say_elapsed(start, 0, 700);
    fd = open_socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    handle(SIGALRM, SA_RESTART);
    alarm_in(80);
    start = now_ms();
    say("with a signal", connect(fd, &to.any, to.length));
    say_elapsed(start, 70, 700);
    say("flags", fcntl(fd, F_GETFL));
    return 0;
}

static int nonblocking(char **args)
{
    (void)args;
    struct address to = waiting_place();
    int listener = full_listener(to), fd = open_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    say("connect", connect(fd, &to.any, to.length));
    say("again", connect(fd, &to.any, to.length));
    say("flags", fcntl(fd, F_GETFL));
    pid_t child = release(listener, 0);
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    say("poll", poll(&ready, 1, 5000));
    dismiss(child);
    say("connected", connect(fd, &to.any, to.length));
    say("once more", connect(fd, &to.any, to.length));
    say("flags", fcntl(fd, F_GETFL));
    return 0;
}

/* Ignored signals, and those for another thread, don't interrupt; neither does SIGSTOP with SIGCONT. */
static int undisturbed(char **args)
{
    (void)args;
    struct address to = waiting_place();
    int listener = full_listener(to), fd = open_socket(AF_INET, SOCK_STREAM, 0);
    pid_t helper = release(listener, 500);
    signal(SIGUSR1, SIG_IGN);
    handle(SIGUSR2, 0);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        for (int i = 0; i < 5; i++) {
            sleep_ms(40);
            kill(parent, SIGUSR1);
            kill(parent, SIGUSR2);
            kill(parent, SIGSTOP);
            sleep_ms(20);
            kill(parent, SIGCONT);
        }
        _exit(0);
    }
    long start = now_ms();
    say("connect", connect(fd, &to.any, to.length));
    say_elapsed(start, 400, 8000);
    say("handled", handled);
    wait_for(child);
    dismiss(helper);
    return 0;
}

/* A handler that runs in the middle of a judged call makes another one. */
static int handler_result = -2, handler_errno;

static void connect_in_handler(int signal)
{
    (void)signal;
    struct address to = at(PROXY4, PROXY_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0), before = errno;
    handler_result = connect(fd, &to.any, to.length);
    handler_errno = errno;
    errno = before;
    close(fd);
}

static int nested(char **args)
{
    (void)args;
    struct address to = waiting_place();
    int listener = full_listener(to), fd = open_socket(AF_INET, SOCK_STREAM, 0);
    pid_t child = release(listener, 300);
    struct sigaction action = {.sa_handler = connect_in_handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    alarm_in(100);
    say("outer connect", connect(fd, &to.any, to.length));
    errno = handler_errno;
    say("inner connect", handler_result);
    dismiss(child);
    return 0;
}

/* A timer that fires all the time, with SA_RESTART: no call may notice. */
static int flood(char **args)
{
    (void)args;
    handle(SIGALRM, SA_RESTART);
    struct itimerval timer = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &timer, NULL);
    struct address to = at(PROXY4, PROXY_PORT), udp_to = at(PROXY4, ALLOWED_PORT), foreign = at(FOREIGN4, PORT);
    int failures = 0, odd = 0, udp = open_socket(AF_INET, SOCK_DGRAM, 0);
    for (int round = 0; more_rounds(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        failures += connect(fd, &to.any, to.length) != 0;
        close(fd);
        struct iovec data = {"x", 1};
        struct msghdr message = {.msg_name = &udp_to, .msg_namelen = udp_to.length, .msg_iov = &data, .msg_iovlen = 1};
        failures += sendmsg(udp, &message, 0) != 1;
        failures += sendto(udp, "x", 1, 0, &udp_to.any, udp_to.length) != 1;
        fd = open_socket(AF_INET, SOCK_STREAM, 0);
        odd += connect(fd, &foreign.any, foreign.length) != 0 && errno != EPERM;
        close(fd);
    }
    timer = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &timer, NULL);
    say("failures", failures);
    say("odd errors of the foreign ones", odd);
    return 0;
}

/* A send that waits for room: what had gone before the signal is counted. */
static int half_sent(char **args)
{
    (void)args;
    struct address local = at(PROXY4, 0);
    int listener = open_socket(AF_INET, SOCK_STREAM, 0), fd = open_socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, &local.any, local.length);
    listen(listener, 1);
    getsockname(listener, &local.any, &local.length);
    if (connect(fd, &local.any, local.length) != 0)
        return refused("connect");
    static char megabytes[64 << 20];
    struct iovec data = {megabytes, sizeof megabytes};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    handle(SIGALRM, SA_RESTART);
    alarm_in(150);
    ssize_t sent = sendmsg(fd, &message, 0);
    say("sent a part", sent > 0 && sent < (ssize_t)sizeof megabytes);
    for (int i = 0; i < 20; i++) { /* buffers grow */
        while (sendmsg(fd, &message, MSG_DONTWAIT) > 0)
            ;
        sleep_ms(10);
    }
    struct timeval patience = {0, 100000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    say("no room, timeout", sendmsg(fd, &message, 0));
    handle(SIGALRM, 0);
    patience.tv_usec = 0;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    alarm_in(50);
    say("no room, signal", sendmsg(fd, &message, 0));
    say("no room, at once", sendmsg(fd, &message, MSG_DONTWAIT));
    say("flags", fcntl(fd, F_GETFL));
    return 0;
}

/* A full queue of a UNIX datagram socket. */
static int unix_queue(char **args)
{
    (void)args;
    struct address where = at_path("full.dgram");
    int receiver = open_socket(AF_UNIX, SOCK_DGRAM, 0), sender = open_socket(AF_UNIX, SOCK_DGRAM, 0);
    bind(receiver, &where.any, where.length);
    while (sendto(sender, "x", 1, MSG_DONTWAIT, &where.any, where.length) == 1)
        ;
    say("full", -1);
    handle(SIGALRM, 0);
    alarm_in(80);
    long start = now_ms();
    say("interrupted", sendto(sender, "x", 1, 0, &where.any, where.length));
    say_elapsed(start, 70, 600);
    handle(SIGALRM, SA_RESTART);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        sleep_ms(250);
        _exit(recv(receiver, &byte, 1, 0) != 1);
    }
    alarm_in(80);
    start = now_ms();
    say("restarted", sendto(sender, "x", 1, 0, &where.any, where.length));
    say_elapsed(start, 200, 2000);
    return wait_for(child);
}

static int broken_pipe(char **args)
{
    (void)args;
    handle(SIGPIPE, SA_RESTART);
    struct address to = at(PROXY4, PROXY_PORT);
    struct iovec data = {"x", 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &data, .msg_iovlen = 1}};
    int fd = open_socket(AF_INET, SOCK_STREAM, 0), pair[2];
    if (connect(fd, &to.any, to.length) != 0)
        return refused("connect");
    shutdown(fd, SHUT_WR);
    say("sendmsg", sendmsg(fd, &message.msg_hdr, 0));
    say("signals", handled);
    say("sendmmsg", sendmmsg(fd, &message, 1, 0));
    say("signals", handled);
    say("sendto with an address", sendto(fd, "x", 1, 0, &to.any, to.length));
    say("signals", handled);
    say("quiet sendmsg", sendmsg(fd, &message.msg_hdr, MSG_NOSIGNAL));
    say("signals", handled);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        broken("socketpair");
    close(pair[1]);
    say("UNIX sendmsg", sendmsg(pair[0], &message.msg_hdr, 0));
    say("signals", handled);
    fd = open_socket(AF_INET, SOCK_STREAM, 0);
    say("not connected", sendmsg(fd, &message.msg_hdr, 0));
    say("signals", handled);
    signal(SIGPIPE, SIG_DFL);
    pid_t child = fork();
    if (child == 0) {
        sendmsg(pair[0], &message.msg_hdr, 0);
        _exit(0);
    }
    say("a child ends with", wait_for(child));
    return 0;
}

/* A connect that is refused later, and one that waits while other threads go on. */
static void *wait_in_connect(void *unused)
{
    struct address to = waiting_place();
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, &to.any, to.length);
    return unused;
}

static int not_held_up(char **args)
{
    (void)args;
    full_listener(waiting_place());
    for (int i = 0; i < 30; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_in_connect, NULL);
    }
    sleep_ms(50);
    struct address to = at(PROXY4, PROXY_PORT);
    long start = now_ms();
    for (int i = 0; i < 200; i++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, &to.any, to.length) != 0)
            return refused("connect") + 1;
        close(fd);
    }
    say_elapsed(start, 0, 1000);
    fflush(stdout);
    _exit(0);
}

/* Killed in a connect that waits: by SIGKILL, by SIGTERM, by the exit of another thread. */
static int killed(char **args)
{
    (void)args;
    full_listener(waiting_place());
    fflush(stdout);
    static const int signals[] = {SIGKILL, SIGTERM, SIGABRT};
    for (size_t i = 0; i < LENGTH(signals); i++) {
        pid_t child = fork();
        if (child == 0)
            wait_in_connect(NULL);
        sleep_ms(60);
        long start = now_ms();
        kill(child, signals[i]);
        say("child", wait_for(child));
        say_elapsed(start, 0, 500);
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_in_connect, NULL);
        sleep_ms(60);
        _exit(5);
    }
    say("exit of another thread", wait_for(child));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_in_connect, NULL);
        sleep_ms(60);
        execl("/proc/self/exe", "hostile", "exit", "6", (char *)NULL);
    }
    say("execve by another thread", wait_for(child));
    struct address to = at(PROXY4, PROXY_PORT);
    say("and still", connect(open_socket(AF_INET, SOCK_STREAM, 0), &to.any, to.length));
    return 0;
}

/* Closed by another thread while it waits. */
static volatile int shared_fd;

static void *close_shared(void *unused)
{
    sleep_ms(100);
    shutdown(shared_fd, SHUT_RDWR);
    return unused;
}

static int shut_down(char **args)
{
    (void)args;
    struct address to = waiting_place();
    full_listener(to);
    shared_fd = open_socket(AF_INET, SOCK_STREAM, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, close_shared, NULL);
    long start = now_ms();
    say("connect", connect(shared_fd, &to.any, to.length));
    say_elapsed(start, 80, 1000);
    return 0;
}

const struct vector signal_cases[] = {
    {"interrupted", interrupted},
    {"restarted", restarted},
    {"timed", timed},
    {"nonblocking", nonblocking},
    {"undisturbed", undisturbed},
    {"nested", nested},
    {"flood", flood},
    {"half-sent", half_sent},
    {"unix-queue", unix_queue},
    {"broken-pipe", broken_pipe},
    {"not-held-up", not_held_up},
    {"killed", killed},
    {"shut-down", shut_down},
    {NULL, NULL},
};
