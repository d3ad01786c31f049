/* Who leaks: children of every kind of birth, threads, daemons, other programs. */
#include "common.h"
#include <dlfcn.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#define STACK_BYTES (256 * 1024)

static int child_leak(void *unused)
{
    (void)unused;
    return leak_tcp4(NULL);
}

static int fork_child(char **args)
{
    pid_t child = fork();
    if (child == 0)
        _exit(leak_tcp4(args));
    return wait_for(child);
}

/* Three generations. */
static int fork_deep(char **args)
{
    for (int depth = 0; depth < 3; depth++) {
        pid_t child = fork();
        if (child != 0)
            return wait_for(child);
    }
    return leak_tcp4(args);
}

static int vfork_child(char **args)
{
    volatile int result = 2;
    pid_t child = vfork();
    if (child == 0) {
        result = leak_tcp4(args);
        _exit(result);
    }
    return wait_for(child);
}

static int clone_child(int flags)
{
    char *stack = malloc(STACK_BYTES);
    pid_t child = clone(child_leak, stack + STACK_BYTES, flags, NULL);
    if (child < 0)
        broken("clone");
    return wait_for(child);
}

static int clone_vm(char **args) { (void)args; return clone_child(CLONE_VM | SIGCHLD); }
static int clone_vm_files(char **args) { (void)args; return clone_child(CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD); }
static int clone_untraced(char **args) { (void)args; return clone_child(CLONE_UNTRACED | SIGCHLD); }
static int clone_vm_untraced(char **args) { (void)args; return clone_child(CLONE_VM | CLONE_UNTRACED | SIGCHLD); }
static int clone_silent(char **args) { (void)args; return clone_child(0); /* no exit signal */ }
static int clone_newpid(char **args) { (void)args; return clone_child(CLONE_NEWPID | SIGCHLD); }
static int clone_newuser(char **args) { (void)args; return clone_child(CLONE_NEWUSER | SIGCHLD); }

/* A sibling: its parent is our parent, so that we can't wait for it. */
static int clone_parent(char **args)
{
    (void)args;
    int ends[2];
    if (pipe(ends) != 0)
        broken("pipe");
    pid_t middle = fork();
    if (middle == 0) {
        pid_t sibling = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (sibling == 0)
            _exit(leak_tcp4(NULL));
        if (write(ends[1], &sibling, sizeof sibling) < 0)
            _exit(2);
        _exit(0);
    }
    pid_t sibling;
    wait_for(middle);
    if (read(ends[0], &sibling, sizeof sibling) != sizeof sibling)
        broken("read");
    return wait_for(sibling);
}

static int clone3_child(char **args)
{
    struct clone_args how = {.exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &how, sizeof how);
    /* As the C library does. */
    if (child < 0 && errno == ENOSYS)
        child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child < 0)
        broken("clone3");
    if (child == 0)
        _exit(leak_tcp4(args));
    return wait_for(child);
}

static int clone3_clear_handlers(char **args)
{
    struct clone_args how = {.flags = CLONE_CLEAR_SIGHAND | CLONE_UNTRACED, .exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &how, sizeof how);
    if (child < 0 && errno == ENOSYS)
        child = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    if (child < 0)
        broken("clone3");
    if (child == 0)
        _exit(leak_tcp4(args));
    return wait_for(child);
}

static void *thread_leak(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)leak_tcp4(NULL);
}

static int thread(char **args)
{
    (void)args;
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, thread_leak, NULL) != 0)
        broken("pthread_create");
    pthread_join(thread, &result);
    return (int)(intptr_t)result;
}

/* The leader ends first; the process lives on in its thread. */
static void *thread_after_leader(void *unused)
{
    (void)unused;
    sleep_ms(50);
    exit(leak_tcp4(NULL));
}

static int leader_gone(char **args)
{
    (void)args;
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_after_leader, NULL) != 0)
        broken("pthread_create");
    pthread_exit(NULL);
}

/* A thread whose descriptor table is its own. */
static void *thread_own_files(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FILES) != 0)
        broken("unshare");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (dup2(fd, 60) < 0)
        broken("dup2");
    return (void *)(intptr_t)connect_and_deliver(60, at(FOREIGN4, PORT));
}

static int own_files(char **args)
{
    (void)args;
    pthread_t thread;
    void *result;
    /* In the process's own table, descriptor 60 is an innocent one. */
    int innocent = socket(AF_UNIX, SOCK_STREAM, 0);
    dup2(innocent, 60);
    if (pthread_create(&thread, NULL, thread_own_files, NULL) != 0)
        broken("pthread_create");
    pthread_join(thread, &result);
    return (int)(intptr_t)result;
}

/* Double fork and setsid: PROGRAM is long gone with 0 when the daemon leaks. */
static int daemon_leak(char **args)
{
    pid_t child = fork();
    if (child != 0)
        return wait_for(child);
    setsid();
    if (fork() != 0)
        _exit(0);
    sleep_ms(300);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    _exit(leak_tcp4(args));
}

/* A child that simply outlives its parent, in the same session. */
static int outlive(char **args)
{
    if (fork() != 0)
        return 0;
    sleep_ms(300);
    _exit(leak_tcp4(args));
}

static int become(char *const words[])
{
    extern char **environ;
    execve("/proc/self/exe", words, environ);
    broken("execve");
}

static int exec(char **args)
{
    (void)args;
    return become((char *[]){"vectors", "tcp4", NULL});
}

static void *thread_exec(void *unused)
{
    (void)unused;
    become((char *[]){"vectors", "tcp4", NULL});
    return NULL;
}

/* execve from a thread that isn't the leader: it takes the leader's id. */
static int exec_from_thread(char **args)
{
    (void)args;
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_exec, NULL) != 0)
        broken("pthread_create");
    for (;;)
        pause();
}

static int fork_exec(char **args)
{
    pid_t child = fork();
    if (child == 0)
        _exit(exec(args));
    return wait_for(child);
}

static int vfork_exec(char **args)
{
    (void)args;
    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "vectors", "tcp4", (char *)NULL);
        _exit(2);
    }
    return wait_for(child);
}

static int memfd_exec(char **args)
{
    (void)args;
    extern char **environ;
    int self = open("/proc/self/exe", O_RDONLY), copy = memfd_create("anonymous", MFD_CLOEXEC);
    char buffer[65536];
    ssize_t got;
    while ((got = read(self, buffer, sizeof buffer)) > 0)
        if (write(copy, buffer, got) != got)
            broken("write");
    fexecve(copy, (char *[]){"vectors", "tcp4", NULL}, environ);
    broken("fexecve");
}

/* leaklib.so, beside this program, connects in its constructor; leak_result tells how it went. */
static int dlopen_leak(char **args)
{
    (void)args;
    char path[512];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
    if (length < 0)
        broken("readlink");
    path[length] = 0;
    strcpy(strrchr(path, '/') + 1, sizeof(void *) == 8 ? "leaklib.so" : "leaklib32.so");
    void *library = dlopen(path, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    return *(int *)dlsym(library, "leak_result");
}

const struct vector birth_vectors[] = {
    {"fork", fork_child},
    {"fork-deep", fork_deep},
    {"vfork", vfork_child},
    {"clone-vm", clone_vm},
    {"clone-vm-files", clone_vm_files},
    {"clone-untraced", clone_untraced},
    {"clone-vm-untraced", clone_vm_untraced},
    {"clone-silent", clone_silent},
    {"clone-newpid", clone_newpid},
    {"clone-newuser", clone_newuser},
    {"clone-parent", clone_parent},
    {"clone3", clone3_child},
    {"clone3-untraced", clone3_clear_handlers},
    {"thread", thread},
    {"thread-leader-gone", leader_gone},
    {"thread-own-files", own_files},
    {"daemon", daemon_leak},
    {"outlive", outlive},
    {"exec", exec},
    {"exec-from-thread", exec_from_thread},
    {"fork-exec", fork_exec},
    {"vfork-exec", vfork_exec},
    {"memfd-exec", memfd_exec},
    {"dlopen", dlopen_leak},
    {NULL, NULL},
};
