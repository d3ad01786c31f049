/* The same destination in odd places: lengths, ends of pages, read-only, shared, never touched memory. */
#include "common.h"
#include <sys/mman.h>

#define PAGE 4096

/* TCP connect with the sockaddr at this place and of this length. */
static int connect_from(const void *where, socklen_t length)
{
    int fd = open_socket(((const struct sockaddr *)where)->sa_family, SOCK_STREAM, 0);
    if (connect(fd, where, length) != 0)
        return refused("connect");
    return deliver(fd);
}

/* As connect_from, but this process never reads the memory itself. */
static int connect4_untouched(const void *where)
{
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, where, sizeof(struct sockaddr_in)) != 0)
        return refused("connect");
    return deliver(fd);
}

static int length28(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    return connect_from(&to, 28);
}

static int length128(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    return connect_from(&to, 128);
}

static int sendto_length(socklen_t length)
{
    struct address to = at(FOREIGN4, PORT);
    to.length = length;
    return sendto_and_close(open_socket(AF_INET, SOCK_DGRAM, 0), to, 0);
}

static int sendto28(char **args) { (void)args; return sendto_length(28); }
static int sendto128(char **args) { (void)args; return sendto_length(128); }

/* sizeof(struct sockaddr_in6) before scope ids existed. */
static int v6_length24(char **args)
{
    (void)args;
    struct address to = at(FOREIGN6, PORT);
    return connect_from(&to, 24);
}

/* sendmsg cuts a longer msg_namelen to 128. */
static int namelen_huge(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    struct iovec data = {TOKEN, sizeof TOKEN - 1};
    struct msghdr message = {.msg_name = &to, .msg_namelen = 0x7FFFFFFF, .msg_iov = &data, .msg_iovlen = 1};
    return sendmsg(open_socket(AF_INET, SOCK_DGRAM, 0), &message, 0) < 0 ? refused("sendmsg") : 0;
}

/* A page with the address in its last bytes, and nothing behind. */
static void *at_page_end(int protection, int flags)
{
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        broken("mmap");
    munmap(pages + PAGE, PAGE);
    struct address to = at(FOREIGN4, PORT);
    void *where = pages + PAGE - to.length;
    memcpy(where, &to, to.length);
    mprotect(pages, PAGE, protection);
    return where;
}

static int page_end(char **args)
{
    (void)args;
    return connect_from(at_page_end(PROT_READ | PROT_WRITE, MAP_PRIVATE), sizeof(struct sockaddr_in));
}

static int read_only(char **args)
{
    (void)args;
    return connect_from(at_page_end(PROT_READ, MAP_PRIVATE), sizeof(struct sockaddr_in));
}

static int shared(char **args)
{
    (void)args;
    return connect_from(at_page_end(PROT_READ | PROT_WRITE, MAP_SHARED), sizeof(struct sockaddr_in));
}

static int across_pages(char **args)
{
    (void)args;
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct address to = at(FOREIGN4, PORT);
    memcpy(pages + PAGE - 5, &to, to.length);
    return connect_from(pages + PAGE - 5, to.length);
}

/* In the program's file, on a page that nothing reads before the kernel does. */
static const struct {
    char before[PAGE];
    struct sockaddr_in to;
    char after[PAGE];
} far_away __attribute__((aligned(PAGE))) = {
    .to = {.sin_family = AF_INET, .sin_port = __builtin_bswap16(PORT), .sin_addr = {__builtin_bswap32(0xCB007105)}},
    .before = {1},
};

static int untouched_data(char **args)
{
    (void)args;
    return connect4_untouched(&far_away.to);
}

/* In a file mapping that was never touched here. */
static int file_mapping(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    int file = memfd_create("address", 0);
    if (file < 0 || write(file, &to, to.length) < 0)
        broken("memfd");
    void *where = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    return where == MAP_FAILED ? 2 : connect4_untouched(where);
}

/* .bss is zero: port 0 of 0.0.0.0 with AF_UNSPEC; the port is set by the one store before. */
static struct sockaddr_in6 blank __attribute__((aligned(PAGE)));

static int untouched_bss(char **args)
{
    (void)args;
    /* Nothing but zeros: AF_UNSPEC, 0.0.0.0, port 0. Linux answers a UDP send with EINVAL, so that the
     * vector connects instead: AF_INET 0.0.0.0 is this host. */
    blank.sin6_family = AF_INET;
    blank.sin6_port = htons(PORT);
    return connect_from(&blank, sizeof(struct sockaddr_in));
}

static int paged_out(char **args)
{
    (void)args;
    struct address to = at(FOREIGN4, PORT);
    char path[] = "/tmp/sockstrace-address-XXXXXX";
    int file = mkstemp(path);
    if (file < 0 || write(file, &to, to.length) < 0 || fsync(file) != 0)
        broken("mkstemp");
    unlink(path);
    void *where = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    return where == MAP_FAILED ? 2 : connect4_untouched(where);
}

/* Execute-only memory where the processor has protection keys; else plain read and execute. */
static int executable(char **args)
{
    (void)args;
    return connect4_untouched(at_page_end(PROT_READ | PROT_EXEC, MAP_PRIVATE));
}

const struct vector address_vectors[] = {
    {"address-length-28", length28},
    {"address-length-128", length128},
    {"address-sendto-28", sendto28},
    {"address-sendto-128", sendto128},
    {"address-v6-length-24", v6_length24},
    {"address-namelen-huge", namelen_huge},
    {"address-page-end", page_end},
    {"address-read-only", read_only},
    {"address-shared", shared},
    {"address-across-pages", across_pages},
    {"address-untouched-data", untouched_data},
    {"address-file-mapping", file_mapping},
    {"address-bss", untouched_bss},
    {"address-paged-out", paged_out},
    {"address-executable", executable},
    {NULL, NULL},
};
