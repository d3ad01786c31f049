/* Lives and ends of processes: exit statuses, children, daemons, job control, credentials. */
#include "hostile.h"
#include <sys/ioctl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

/* args: a status. */
static int exit_with(char **args)
{
    _exit(atoi(args[0]));
}

/* args: a signal. */
static int die_by(char **args)
{
    signal(atoi(args[0]), SIG_DFL);
    kill(getpid(), atoi(args[0]));
    sleep_ms(1000);
    return 1;
}

/* args: a status to exit with after a leak. */
static int leak_then(char **args)
{
    leak_tcp4(args);
    return atoi(args[0]);
}

/* A child leaks; what became of it is printed. */
static int leaking_child(char **args)
{
    pid_t child = fork();
    if (child == 0) {
        leak_tcp4(args);
        pause(); /* where it survives its leak it has to be ended */
    }
    sleep_ms(300);
    int status, ended = waitpid(child, &status, WNOHANG) == child;
    if (!ended) {
        kill(child, SIGTERM);
        say("child went on; ended", wait_for(child));
    } else {
        say("child ended", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
    return 0;
}

/* A child's pidfd is readable exactly when it can be waited for. args: how many. */
static int pidfds(char **args)
{
    int late = 0, wrong = 0;
    for (int i = 0; i < atoi(args[0]); i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(i % 100);
        int pidfd = syscall(SYS_pidfd_open, child, 0);
        struct pollfd ready = {.fd = pidfd, .events = POLLIN};
        if (poll(&ready, 1, 5000) != 1)
            broken("poll");
        siginfo_t info = {0};
        if (waitid(P_PIDFD, pidfd, &info, WEXITED | WNOHANG) != 0)
            wrong++;
        else if (info.si_pid != child)
            late++;
        else if (info.si_code != CLD_EXITED || info.si_status != i % 100)
            wrong++;
        close(pidfd);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    while (wait(NULL) > 0)
        ;
    say("not reapable at once", late);
    say("wrong", wrong);
    return 0;
}

/* SIGCHLD, stops and continuations of children are reported as they are natively. */
static volatile int children;

static void on_child(int signal)
{
    (void)signal;
    children++;
}

static int child_states(char **args)
{
    (void)args;
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    /* Ours may be an orphaned process group, whose members SIGTSTP doesn't stop. */
    setpgid(child, child);
    int status = 0;
    kill(child, SIGSTOP);
    say("stopped", waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    kill(child, SIGCONT);
    say("continued", waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    kill(child, SIGTSTP);
    say("stopped", waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    kill(child, SIGKILL);
    say("killed", waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    say("SIGCHLDs", children >= 3);
    say("no more", waitpid(-1, &status, 0));
    return 0;
}

/* A daemon that leaks after args[0] ms; the program ends at once with args[1]. */
static int daemon_later(char **args)
{
    fflush(stdout);
    if (fork() == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        sleep_ms(atoi(args[0]));
        struct address to = at(FOREIGN4, PORT);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int result = connect(fd, &to.any, to.length);
        FILE *file = fopen("daemon.new", "w");
        if (file) {
            fprintf(file, "%s\n", result == 0 ? "connected" : strerrorname_np(errno));
            fclose(file);
            rename("daemon.new", "daemon");
        }
        if (result == 0)
            deliver(fd);
        _exit(0);
    }
    wait(NULL); /* the middle one: the daemon exists */
    return atoi(args[1]);
}

/* Who a UNIX socket says its peer is. */
static int credentials(char **args)
{
    (void)args;
    struct address where = at_path("who.sock"), dgram = at_path("who.dgram");
    int listener = open_socket(AF_UNIX, SOCK_STREAM, 0), receiver = open_socket(AF_UNIX, SOCK_DGRAM, 0), on = 1;
    bind(listener, &where.any, where.length);
    listen(listener, 5);
    bind(receiver, &dgram.any, dgram.length);
    setsockopt(receiver, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open_socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, &where.any, where.length) != 0)
            _exit(refused("connect"));
        fd = open_socket(AF_UNIX, SOCK_DGRAM, 0);
        struct iovec data = {"x", 1};
        struct msghdr message = {.msg_name = &dgram, .msg_namelen = dgram.length, .msg_iov = &data, .msg_iovlen = 1};
        if (sendto(fd, "x", 1, 0, &dgram.any, dgram.length) != 1 || sendmsg(fd, &message, 0) != 1)
            _exit(refused("send"));
        _exit(0);
    }
    int server = accept(listener, NULL, NULL);
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    getsockopt(server, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    say("peer is the child", peer.pid == child && peer.uid == getuid());
    for (int i = 0; i < 2; i++) {
        char byte;
        struct iovec data = {&byte, 1};
        union {
            struct cmsghdr head;
            char bytes[CMSG_SPACE(sizeof(struct ucred))];
        } control;
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (recvmsg(receiver, &message, 0) != 1)
            broken("recvmsg");
        memcpy(&peer, CMSG_DATA(&control.head), sizeof peer);
        say("sender is the child", peer.pid == child);
    }
    return wait_for(child);
}

/* Descriptor numbers are the lowest free ones, and nothing else is open. */
static int descriptors(char **args)
{
    (void)args;
    struct address to = at(PROXY4, PROXY_PORT), foreign = at(FOREIGN4, PORT);
    for (int i = 0; i < 20; i++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        say("socket", fd);
        if (i % 2)
            connect(fd, &to.any, to.length);
        else
            connect(fd, &foreign.any, foreign.length);
        struct address local = {.length = sizeof local.storage};
        say("getsockname", getsockname(fd, &local.any, &local.length));
        say("CLOEXEC", fcntl(fd, F_GETFD));
        say("flags", fcntl(fd, F_GETFL));
        if (i % 3 == 0)
            close(fd);
    }
    for (int fd = 0; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            say("open", fd);
    return 0;
}

/* A relative path means the caller's directory, which may have gone. */
static int relative_paths(char **args)
{
    (void)args;
    struct address where = at_path("here.sock");
    if (mkdir("deep", 0700) != 0 || chdir("deep") != 0)
        broken("mkdir");
    int listener = open_socket(AF_UNIX, SOCK_STREAM, 0);
    say("bind", bind(listener, &where.any, where.length));
    say("listen", listen(listener, 5));
    say("connect", connect(open_socket(AF_UNIX, SOCK_STREAM, 0), &where.any, where.length));
    struct address peer = {.length = sizeof peer.storage};
    int client = accept(listener, NULL, NULL);
    getsockname(client, &peer.any, &peer.length);
    printf("bound as %s\n", peer.un.sun_path);
    say("bind again", bind(open_socket(AF_UNIX, SOCK_STREAM, 0), &where.any, where.length));
    unlink("here.sock");
    rmdir("../deep");
    say("bind in a directory that is gone", bind(open_socket(AF_UNIX, SOCK_STREAM, 0), &where.any, where.length));
    say("connect there", connect(open_socket(AF_UNIX, SOCK_STREAM, 0), &where.any, where.length));
    umask(077);
    if (chdir("..") != 0)
        broken("chdir");
    struct address masked = at_path("masked.sock");
    say("bind", bind(open_socket(AF_UNIX, SOCK_STREAM, 0), &masked.any, masked.length));
    struct stat status;
    stat("masked.sock", &status);
    say("mode", status.st_mode & 0777);
    say("owner", status.st_uid == getuid() && status.st_gid == getgid());
    return 0;
}

/* Ticks until it has ticked args[0] times, with a judged call at each; for job control. */
static int tick(char **args)
{
    struct address to = at(PROXY4, PROXY_PORT);
    for (int i = 0; i < atoi(args[0]); i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        printf("tick %d %s\n", i, connect(fd, &to.any, to.length) == 0 ? "connected" : strerrorname_np(errno));
        fflush(stdout);
        close(fd);
        sleep_ms(50);
    }
    puts("all ticked");
    return 0;
}

/* Reads a line from the terminal: the foreground process group may. */
static int read_line(char **args)
{
    (void)args;
    char line[64] = "";
    printf("say something\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    printf("heard %s", line);
    return 0;
}

/* Types a command for the shell that started us; "apart" from another session, which takes a privilege. */
static int type_in(char **args)
{
    if (args[0]) {
        pid_t child = fork();
        if (child != 0)
            return child < 0 || waitpid(child, NULL, 0) != child;
        /* Of a session with a terminal of its own, as of one with none. */
        int main_end = posix_openpt(O_RDWR | O_NOCTTY);
        if (setsid() < 0 || grantpt(main_end) != 0 || unlockpt(main_end) != 0 ||
            ioctl(open(ptsname(main_end), O_RDWR), TIOCSCTTY, 0) != 0)
            return 1;
    }
    const char *command = "echo typed by a prog''ram\n";
    for (; *command; command++)
        if (ioctl(0, TIOCSTI, command) != 0)
            break;
    say("ioctl", *command ? -1 : 0);
    return 0;
}

const struct vector life_cases[] = {
    {"exit", exit_with},
    {"die", die_by},
    {"leak-then", leak_then},
    {"leaking-child", leaking_child},
    {"pidfds", pidfds},
    {"child-states", child_states},
    {"daemon-later", daemon_later},
    {"credentials", credentials},
    {"descriptors-kept", descriptors},
    {"relative-paths", relative_paths},
    {"tick", tick},
    {"read-line", read_line},
    {"type-in", type_in},
    {NULL, NULL},
};
