/*
 * Runs a command and answers for what is left of it: `keeper REPORT_FD DEADLINE_MS LINGER_MS COMMAND...`
 *
 * The keeper is a child subreaper, so that whatever the command leaves behind becomes its child. It
 * writes lines to REPORT_FD:
 *   pid N                      the command's process
 *   exited N | signaled N      how it ended
 *   deadline                   it didn't end in time (what follows shows where it hangs)
 *   left PID STATE NAME        a process that was still there when it had ended (state Z: a zombie)
 *   hangs PID STATE NAME WCHAN a descendant at the deadline
 * With LINGER_MS > 0, processes left behind get that long to end by themselves. In the end everything
 * is killed, also when the keeper's own parent goes away. With KEEPER_UID in the environment the command
 * runs as that user and group.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int report;

static long now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* One process of /proc: its parent, state and name. */
static int look(int pid, int *parent, char *state, char *name)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0)
        return 0;
    text[length] = 0;
    char *open_at = strchr(text, '('), *end = strrchr(text, ')');
    if (!open_at || !end)
        return 0;
    snprintf(name, 64, "%.*s", (int)(end - open_at - 1), open_at + 1);
    return sscanf(end + 2, "%c %d", state, parent) == 2;
}

static int is_descendant(int pid)
{
    char state, name[64];
    int self = getpid();
    for (int depth = 0; depth < 64 && pid > 1; depth++) {
        int parent;
        if (!look(pid, &parent, &state, name))
            return 0;
        if (parent == self)
            return 1;
        pid = parent;
    }
    return 0;
}

/* Calls act for each descendant; returns how many there are. */
static int descendants(void (*act)(int pid))
{
    DIR *proc = opendir("/proc");
    int count = 0;
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != getpid() && is_descendant(pid)) {
            count++;
            act(pid);
        }
    }
    closedir(proc);
    return count;
}

static void tell_left(int pid)
{
    char state, name[64];
    int parent;
    if (look(pid, &parent, &state, name))
        dprintf(report, "left %d %c %s\n", pid, state, name);
}

static void tell_hanging(int pid)
{
    char state, name[64], path[64], where[128] = "";
    int parent;
    snprintf(path, sizeof path, "/proc/%d/wchan", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && read(file, where, sizeof where - 1) < 0)
        where[0] = 0;
    if (file >= 0)
        close(file);
    if (look(pid, &parent, &state, name))
        dprintf(report, "hangs %d %c %s %s\n", pid, state, name, where);
}

static void end(int pid)
{
    kill(pid, SIGKILL);
}

static void end_all(void)
{
    for (int round = 0; round < 500; round++) {
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            ;
        if (descendants(end) == 0)
            return;
        usleep(2000);
    }
}

static volatile sig_atomic_t orphaned;

static void on_term(int signal)
{
    (void)signal;
    orphaned = 1;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    report = atoi(argv[1]);
    long deadline = now_ms() + atol(argv[2]), linger = atol(argv[3]);
    fcntl(report, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    sigset_t child_signal, before;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_signal, &before);
    pid_t main_child = fork();
    if (main_child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        const char *user = getenv("KEEPER_UID");
        if (user && (setgroups(0, NULL) != 0 || setgid(atoi(user)) != 0 || setuid(atoi(user)) != 0))
            _exit(125);
        unsetenv("KEEPER_UID");
        execvp(argv[4], argv + 4);
        dprintf(2, "keeper: %s: %s\n", argv[4], strerror(errno));
        _exit(125);
    }
    dprintf(report, "pid %d\n", main_child);
    int ended = 0;
    while (!orphaned) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
            if (pid == main_child) {
                dprintf(report, WIFEXITED(status) ? "exited %d\n" : "signaled %d\n",
                        WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
                ended = 1;
                if (linger == 0)
                    descendants(tell_left);
                if (now_ms() + linger < deadline)
                    deadline = now_ms() + linger;
            }
        if (ended && (linger == 0 || (pid < 0 && errno == ECHILD) || now_ms() >= deadline))
            break;
        if (!ended && now_ms() >= deadline) {
            dprintf(report, "deadline\n");
            descendants(tell_hanging);
            break;
        }
        struct timespec patience = {0, 20 * 1000000};
        sigtimedwait(&child_signal, NULL, &patience);
    }
    end_all();
    return 0;
}
