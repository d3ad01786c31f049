/* Programs on file systems that come and go, or that the program serves itself. */
#include "hostile.h"
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

static char folder[] = "/tmp/mounts-XXXXXX", program[sizeof folder + 16];

static void make_folder(void)
{
    if (!mkdtemp(folder))
        broken("mkdtemp");
    snprintf(program, sizeof program, "%s/program", folder);
}

static void copy_to(const char *path)
{
    static char buffer[1 << 16];
    int from = open("/proc/self/exe", O_RDONLY), to = open(path, O_WRONLY | O_CREAT, 0755);
    for (ssize_t n; (n = read(from, buffer, sizeof buffer)) > 0;)
        if (write(to, buffer, n) != n)
            broken("write");
    if (to < 0 || close(to) != 0)
        broken("copying the program");
    close(from);
}

/* Leaks from the program there. */
static void leak_from_there(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl(program, "hostile", "leak-then", "7", (char *)NULL);
        _exit(1);
    }
    say("program ended with", wait_for(child));
    sleep_ms(200); /* A stack that is taken when its call is over (ebpf) is read by then. */
}

static void unmount(const char *what)
{
    say(what, umount(folder));
    umount2(folder, MNT_DETACH);
}

/* What was mounted for a program that leaked can be unmounted when it has ended. */
static int unmounted(char **args)
{
    (void)args;
    make_folder();
    if (mount("x", folder, "tmpfs", 0, "") != 0)
        broken("tmpfs");
    copy_to(program);
    leak_from_there();
    unmount("umount of a tmpfs");

    char source[sizeof folder + 16], there[sizeof source + 16];
    snprintf(source, sizeof source, "%s.source", folder);
    snprintf(there, sizeof there, "%s/program", source);
    if (mkdir(source, 0755) != 0)
        broken("mkdir");
    copy_to(there);
    for (int own = 0; own < 2; own++) {
        if (own && (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0))
            broken("unshare");
        if (mount(source, folder, NULL, MS_BIND, NULL) != 0)
            broken("bind");
        leak_from_there();
        unmount(own ? "umount of a bind mount in a namespace" : "umount of a bind mount");
    }
    unlink(there);
    rmdir(source);
    rmdir(folder);
    return 0;
}

static void answer(int device, const struct fuse_in_header *question, int error, const void *body, size_t length)
{
    struct fuse_out_header head = {.len = sizeof head + length, .error = error, .unique = question->unique};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)body, length}};
    if (writev(device, parts, 2) < 0 && errno != ENOENT)
        broken("writev to /dev/fuse");
}

static struct fuse_attr attributes(uint64_t node, const struct stat *file)
{
    struct fuse_attr attributes = {.ino = node, .nlink = 1, .blksize = 4096, .mode = S_IFDIR | 0755};
    if (node != 1) {
        attributes.mode = S_IFREG | 0755;
        attributes.size = file->st_size;
    }
    return attributes;
}

/* Serves our own program as whatever is looked for, until the file system is gone; of all attempts to open it so
 * many are answered. */
static void serve(int device, int opened)
{
    static char buffer[1 << 18], page[1 << 17];
    const struct fuse_in_header *question = (void *)buffer;
    int own = open("/proc/self/exe", O_RDONLY);
    struct stat file;
    if (fstat(own, &file) != 0)
        broken("fstat");
    for (;;) {
        if (read(device, buffer, sizeof buffer) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            _exit(errno == ENODEV ? 0 : 1);
        }
        switch (question->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out out = {.major = 7, .minor = 31, .max_readahead = 1 << 16, .max_write = 1 << 16};
            answer(device, question, 0, &out, sizeof out);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out out = {.nodeid = 2, .attr_valid = 9, .entry_valid = 9, .attr = attributes(2, &file)};
            int is_it = strcmp(buffer + sizeof *question, "program") == 0;
            answer(device, question, is_it ? 0 : -ENOENT, &out, is_it ? sizeof out : 0);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out out = {.attr_valid = 9, .attr = attributes(question->nodeid, &file)};
            answer(device, question, 0, &out, sizeof out);
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE};
            if (opened-- > 0)
                answer(device, question, 0, &out, sizeof out);
            break;
        }
        case FUSE_READ: {
            const struct fuse_read_in *asked = (void *)(buffer + sizeof *question);
            size_t length = asked->size < sizeof page ? asked->size : sizeof page;
            ssize_t got = pread(own, page, length, asked->offset);
            answer(device, question, got < 0 ? -EIO : 0, page, got < 0 ? 0 : got);
            break;
        }
        case FUSE_RELEASE:
        case FUSE_FLUSH:
            answer(device, question, 0, NULL, 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            answer(device, question, -ENOSYS, NULL, 0);
        }
    }
}

static pid_t start_server(int opened)
{
    char options[64];
    int device = open("/dev/fuse", O_RDWR);
    if (device < 0)
        broken("/dev/fuse");
    make_folder();
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    if (mount("x", folder, "fuse", 0, options) != 0)
        broken("mounting");
    pid_t server = fork();
    if (server == 0)
        serve(device, opened);
    close(device);
    return server;
}

/* Who serves a program that leaked ends when its file system is unmounted. */
static int served(char **args)
{
    (void)args;
    pid_t server = start_server(1000);
    leak_from_there();
    unmount("umount");
    for (int i = 0; i < 100; i++) {
        int status;
        if (waitpid(server, &status, WNOHANG) == server) {
            say("server ended with", WEXITSTATUS(status));
            rmdir(folder);
            return 0;
        }
        sleep_ms(50);
    }
    kill(server, SIGKILL);
    say("server had to be ended", wait_for(server));
    rmdir(folder);
    return 0;
}

/* Who serves it lets nobody but the kernel open the program. */
static int withheld(char **args)
{
    (void)args;
    pid_t server = start_server(1);
    leak_from_there();
    say("umount", umount2(folder, MNT_DETACH));
    /* By itself, unless somebody waits for its answer. */
    kill(server, SIGKILL);
    wait_for(server);
    rmdir(folder);
    return 0;
}

const struct vector mount_cases[] = {
    {"unmounted", unmounted},
    {"served", served},
    {"withheld", withheld},
    {NULL, NULL},
};
