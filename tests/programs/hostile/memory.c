/* Memory that a userfaultfd holds back, and memory that goes away while it is read. */
#include "hostile.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE 4096

static int faults;
static char *held;
static struct address in_page;
static volatile int held_ms;

/* A page that nobody can read until the handler gives it. */
static char *hold_page(void)
{
    faults = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (faults < 0)
        broken("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)page, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(faults, UFFDIO_API, &api) != 0 || ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        broken("userfaultfd ioctl");
    return page;
}

/* Gives the page, with the address in it, held_ms after the first fault. */
static void *give_late(void *unused)
{
    (void)unused;
    static char content[PAGE] __attribute__((aligned(PAGE)));
    memcpy(content, &in_page, in_page.length);
    struct pollfd ready = {.fd = faults, .events = POLLIN};
    if (poll(&ready, 1, 10000) != 1)
        return NULL;
    sleep_ms(held_ms);
    struct uffdio_copy copy = {.dst = (uintptr_t)held, .src = (uintptr_t)content, .len = PAGE};
    ioctl(faults, UFFDIO_COPY, &copy);
    return NULL;
}

static int late(struct address content)
{
    pthread_t thread;
    held = hold_page();
    in_page = content;
    held_ms = 300;
    pthread_create(&thread, NULL, give_late, NULL);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    int result = connect(fd, (struct sockaddr *)held, sizeof(struct sockaddr_in));
    say("connect", result);
    if (result == 0)
        deliver(fd);
    return result != 0;
}

static int late_allowed(char **args) { (void)args; return late(at(PROXY4, PROXY_PORT)); }
static int late_foreign(char **args) { (void)args; return late(at(FOREIGN4, PORT)); }

static int late_sendmsg(struct address content)
{
    pthread_t thread;
    held = hold_page();
    in_page = content;
    held_ms = 200;
    pthread_create(&thread, NULL, give_late, NULL);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = held, .msg_namelen = content.length, .msg_iov = &data, .msg_iovlen = 1};
    int result = sendmsg(open_socket(AF_INET, SOCK_DGRAM, 0), &message, 0);
    say("sendmsg", result);
    return result < 0;
}

static int late_sendmsg_allowed(char **args) { (void)args; return late_sendmsg(at(PROXY4, ALLOWED_PORT)); }
static int late_sendmsg_foreign(char **args) { (void)args; return late_sendmsg(at(FOREIGN4, PORT)); }

/* The payload, not the address, is held back. */
static int late_payload(char **args)
{
    (void)args;
    pthread_t thread;
    held = hold_page();
    in_page = at(PROXY4, ALLOWED_PORT);
    held_ms = 200;
    pthread_create(&thread, NULL, give_late, NULL);
    struct address to = at(PROXY4, ALLOWED_PORT);
    say("sendto", sendto(open_socket(AF_INET, SOCK_DGRAM, 0), held, 16, 0, &to.any, to.length));
    return 0;
}

static void *stuck_connect(void *unused)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, (struct sockaddr *)held, sizeof(struct sockaddr_in));
    return unused;
}

/* Twenty threads wait for memory that never comes. */
static void stick_twenty(void)
{
    held = hold_page();
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, stuck_connect, NULL);
    }
    sleep_ms(50);
}

/* The others must not wait for them, and the process can end. */
static int never(char **args)
{
    (void)args;
    stick_twenty();
    struct address to = at(PROXY4, PROXY_PORT), foreign = at(FOREIGN4, PORT);
    long start = now_ms();
    for (int i = 0; i < 50; i++) {
        int fd = open_socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, &to.any, to.length) != 0)
            return refused("connect to the proxy") + 1;
        close(fd);
    }
    say("others waited", now_ms() - start > 3000);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, &foreign.any, foreign.length);
    fflush(stdout);
    _exit(0);
}

/* The same, but ended from outside. */
static int never_killed(char **args)
{
    (void)args;
    pid_t child = fork();
    if (child == 0) {
        stick_twenty();
        pause();
    }
    sleep_ms(200);
    kill(child, SIGKILL);
    say("child", wait_for(child));
    return 0;
}

/* A thread maps and unmaps the page in which the address lies. */
static void *unmap_and_map(void *unused)
{
    (void)unused;
    for (;;) {
        struct address to = at(PROXY4, PROXY_PORT);
        mmap(held, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        memcpy(held, &to, to.length);
        mprotect(held, PAGE, PROT_NONE);
        munmap(held, PAGE);
    }
    return NULL;
}

static int vanishing(char **args)
{
    (void)args;
    /* Whole megabytes around, so that no other mapping takes the place. */
    char *room = mmap(NULL, 1 << 22, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    held = room + (1 << 21);
    pthread_t thread;
    pthread_create(&thread, NULL, unmap_and_map, NULL);
    for (int round = 0; more_rounds(round); round++) {
        int fd = open_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int result = connect(fd, (struct sockaddr *)held, sizeof(struct sockaddr_in));
        if (result != 0 && errno != EFAULT && errno != EINPROGRESS && errno != EAFNOSUPPORT && errno != EINVAL &&
            errno != ENETUNREACH && errno != ECONNREFUSED && errno != EPERM && errno != EADDRNOTAVAIL)
            return refused("an odd errno");
        close(fd);
    }
    _exit(0);
}

const struct vector memory_cases[] = {
    {"late-allowed", late_allowed},
    {"late-foreign", late_foreign},
    {"late-sendmsg-allowed", late_sendmsg_allowed},
    {"late-sendmsg-foreign", late_sendmsg_foreign},
    {"late-payload", late_payload},
    {"never", never},
    {"never-killed", never_killed},
    {"vanishing", vanishing},
    {NULL, NULL},
};
