/*
 * AF_UNIX destinations under --unix leak. The working directory, which the harness makes, holds:
 *   leak.sock, leak.dgram    witnesses of leaks
 *   ok.sock, ok.dgram        allowed by --allow unix:DIRECTORY/ok.*
 *   ok.link -> leak.sock     a name that the rule matches, for a socket that it doesn't
 *   sub/                     a directory
 *   jail/                    a root in which DIRECTORY/ok.sock is another witness of leaks
 */
#include "common.h"
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>

static const char *here(const char *name)
{
    static char path[512];
    char directory[256];
    if (!getcwd(directory, sizeof directory))
        broken("getcwd");
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static int stream_to(struct address to)
{
    return connect_and_deliver(open_socket(AF_UNIX, SOCK_STREAM, 0), to);
}

static int absolute(char **args) { (void)args; return stream_to(at_path(here("leak.sock"))); }
static int relative(char **args) { (void)args; return stream_to(at_path("leak.sock")); }
static int through_link(char **args) { (void)args; return stream_to(at_path(here("ok.link"))); }
static int dot_dot(char **args) { (void)args; return stream_to(at_path("sub/../leak.sock")); }
static int dot_dot_ok(char **args) { (void)args; return stream_to(at_path(here("ok.sock/../leak.sock"))); }
static int proc_cwd(char **args) { (void)args; return stream_to(at_path("/proc/self/cwd/leak.sock")); }

static int proc_root(char **args)
{
    (void)args;
    char path[512];
    snprintf(path, sizeof path, "/proc/self/root%s", here("leak.sock"));
    return stream_to(at_path(path));
}

static int proc_thread_self(char **args)
{
    (void)args;
    return stream_to(at_path("/proc/thread-self/cwd/leak.sock"));
}

static int changed_directory(char **args)
{
    (void)args;
    if (chdir("sub") != 0)
        broken("chdir");
    return stream_to(at_path("../leak.sock"));
}

/* Not terminated by a NUL, and longer than any path: 108 bytes of dots and slashes. */
static int full_length(char **args)
{
    (void)args;
    struct address to = {.length = sizeof(struct sockaddr_un)};
    to.un.sun_family = AF_UNIX;
    memset(to.un.sun_path, '/', sizeof to.un.sun_path);
    const char *name = "leak.sock";
    for (size_t i = 0; i + 1 < sizeof to.un.sun_path - strlen(name); i += 2)
        to.un.sun_path[i] = '.';
    memcpy(to.un.sun_path + sizeof to.un.sun_path - strlen(name), name, strlen(name));
    return stream_to(to);
}

/* The length cuts the path: "leak.sockets" of which 9 bytes count. */
static int cut_length(char **args)
{
    (void)args;
    struct address to = at_path("leak.sockets");
    to.length = offsetof(struct sockaddr_un, sun_path) + 9;
    return stream_to(to);
}

/* A magic link to the directory, and one to the socket itself. */
static int proc_fd_directory(char **args)
{
    (void)args;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/leak.sock", open(".", O_PATH | O_DIRECTORY));
    return stream_to(at_path(path));
}

static int proc_fd_socket(char **args)
{
    (void)args;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", open("leak.sock", O_PATH));
    return stream_to(at_path(path));
}

static int in_chroot(char **args)
{
    (void)args;
    if (chroot(".") != 0)
        return refused("chroot") + 1;
    return stream_to(at_path("/leak.sock"));
}

/* In the jail, the very path that is allowed outside is another socket. */
static int in_jail(char **args)
{
    (void)args;
    struct address to = at_path(here("ok.sock"));
    if (chroot("jail") != 0)
        return refused("chroot") + 1;
    return stream_to(to);
}

/* In a mount namespace of its own, leak.sock lies where ok.sock was. */
static int mounted(char **args)
{
    (void)args;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("leak.sock", "ok.sock", NULL, MS_BIND, NULL) != 0)
        return refused("mount") + 1;
    return stream_to(at_path(here("ok.sock")));
}

static int abstract(char **args) { (void)args; return stream_to(at_abstract("sockstrace-leak", 15)); }
static int abstract_nul(char **args) { (void)args; return stream_to(at_abstract("ok\0leak", 7)); }

static int dgram_sendto(char **args)
{
    (void)args;
    return sendto_and_close(open_socket(AF_UNIX, SOCK_DGRAM, 0), at_path("leak.dgram"), 0);
}

static int dgram_sendmsg(char **args)
{
    (void)args;
    struct address to = at_path(here("leak.dgram"));
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = to.length, .msg_iov = &data, .msg_iovlen = 1};
    return sendmsg(open_socket(AF_UNIX, SOCK_DGRAM, 0), &message, 0) < 0 ? refused("sendmsg") : 0;
}

static int dgram_second(char **args)
{
    (void)args;
    struct address to[2] = {at_path("ok.dgram"), at_path("leak.dgram")};
    struct iovec data[2] = {{"harmless", 8}, {TOKEN, sizeof TOKEN - 1}};
    struct mmsghdr messages[2];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < 2; i++) {
        messages[i].msg_hdr.msg_name = &to[i];
        messages[i].msg_hdr.msg_namelen = to[i].length;
        messages[i].msg_hdr.msg_iov = &data[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int sent = sendmmsg(open_socket(AF_UNIX, SOCK_DGRAM, 0), messages, 2, 0);
    return sent < 0 ? refused("sendmmsg") : sent != 2;
}

static int dgram_connect(char **args)
{
    (void)args;
    return connect_and_deliver(open_socket(AF_UNIX, SOCK_DGRAM, 0), at_path("leak.dgram"));
}

/* A link that another thread turns between the allowed socket and the other one. */
static void *turn_link(void *unused)
{
    (void)unused;
    for (int i = 0;; i++) {
        char name[32];
        snprintf(name, sizeof name, "turn.%d", i % 2);
        unlink(name);
        if (symlink(i % 2 ? "leak.sock" : "ok.sock", name) != 0 || rename(name, "ok.turning") != 0)
            broken("rename");
    }
    return NULL;
}

static int flipped_link(char **args)
{
    (void)args;
    pthread_t thread;
    if (symlink("ok.sock", "ok.turning") != 0 || pthread_create(&thread, NULL, turn_link, NULL) != 0)
        broken("symlink");
    int result = 1;
    for (int round = 0; more_rounds(round); round++) {
        usleep(50); /* the witness's queue is finite */
        int fd = open_socket(AF_UNIX, SOCK_STREAM, 0);
        struct address to = at_path("ok.turning"), peer = {.length = sizeof peer.storage};
        if (connect(fd, &to.any, to.length) == 0) {
            if (write(fd, TOKEN, sizeof TOKEN - 1) > 0 && getpeername(fd, &peer.any, &peer.length) == 0 &&
                strstr(peer.un.sun_path, "leak.sock"))
                result = 0;
        }
        close(fd);
    }
    _exit(result);
}

/* Memory that another process of the tree shares; it turns a word of it between two values. */
static volatile uint32_t *turned_by_another(void *page, size_t offset, uint32_t one, uint32_t other, pid_t *child)
{
    volatile uint32_t *word = (volatile uint32_t *)((char *)page + offset);
    *child = fork();
    if (*child == 0)
        for (;;) {
            *word = one;
            for (int i = 0; i < 40; i++)
                __asm__ volatile("pause");
            *word = other;
            for (int i = 0; i < 40; i++)
                __asm__ volatile("pause");
            if (getppid() == 1)
                _exit(0);
        }
    return word;
}

static void *shared_page(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        broken("mmap");
    return page;
}

/* sockstrace-okay, which is allowed and ours, or sockstrace-leak. */
static int flipped_name(char **args)
{
    (void)args;
    struct address okay = at_abstract("sockstrace-okay", 15), peer;
    int server = open_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), result = 1;
    if (bind(server, &okay.any, okay.length) != 0 || listen(server, 4096) != 0)
        broken("listen");
    uint32_t one, other;
    memcpy(&one, "okay", 4);
    memcpy(&other, "leak", 4);
    char *page = shared_page();
    /* So that the word is aligned. */
    struct sockaddr *turning = memcpy(page + 2, &okay.un, okay.length);
    pid_t child;
    turned_by_another(page, 16, one, other, &child);
    for (int round = 0; more_rounds(round); round++) {
        int fd = open_socket(AF_UNIX, SOCK_STREAM, 0);
        peer.length = sizeof peer.storage;
        if (connect(fd, turning, okay.length) == 0 && write(fd, TOKEN, sizeof TOKEN - 1) > 0 &&
            getpeername(fd, &peer.any, &peer.length) == 0 && memcmp(peer.un.sun_path + 12, "leak", 4) == 0)
            result = 0;
        close(fd);
        close(accept(server, NULL, NULL));
    }
    kill(child, SIGKILL);
    wait_for(child);
    _exit(result);
}

/* To nobody, or to leak.dgram. */
static int flipped_length(char **args)
{
    (void)args;
    struct address to = at_path(here("leak.dgram"));
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr *message = shared_page();
    *message = (struct msghdr){.msg_name = &to, .msg_iov = &data, .msg_iovlen = 1};
    pid_t child;
    turned_by_another(message, offsetof(struct msghdr, msg_namelen), 0, to.length, &child);
    int fd = open_socket(AF_UNIX, SOCK_DGRAM, 0), result = 1;
    for (int round = 0; more_rounds(round); round++)
        if (sendmsg(fd, message, MSG_DONTWAIT) > 0)
            result = 0;
    kill(child, SIGKILL);
    wait_for(child);
    _exit(result);
}

const struct vector unix_vectors[] = {
    {"unix-absolute", absolute},
    {"unix-relative", relative},
    {"unix-link", through_link},
    {"unix-dot-dot", dot_dot},
    {"unix-dot-dot-file", dot_dot_ok},
    {"unix-proc-cwd", proc_cwd},
    {"unix-proc-root", proc_root},
    {"unix-proc-thread-self", proc_thread_self},
    {"unix-chdir", changed_directory},
    {"unix-full-length", full_length},
    {"unix-cut-length", cut_length},
    {"unix-proc-fd-directory", proc_fd_directory},
    {"unix-proc-fd-socket", proc_fd_socket},
    {"unix-chroot", in_chroot},
    {"unix-jail", in_jail},
    {"unix-mounted", mounted},
    {"unix-abstract", abstract},
    {"unix-abstract-nul", abstract_nul},
    {"unix-dgram-sendto", dgram_sendto},
    {"unix-dgram-sendmsg", dgram_sendmsg},
    {"unix-dgram-second", dgram_second},
    {"unix-dgram-connect", dgram_connect},
    {"unix-flipped-link", flipped_link},
    {"unix-flipped-name", flipped_name},
    {"unix-flipped-length", flipped_length},
    {NULL, NULL},
};
