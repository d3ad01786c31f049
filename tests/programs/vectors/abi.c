/* The other binary interfaces of x86: int 0x80 from 64-bit code, i386 and its socketcall, x32. */
#include "common.h"
#include <linux/net.h>
#include <sys/mman.h>

#define I386_SOCKETCALL 102
#define I386_SENDMMSG 345
#define I386_SOCKET 359
#define I386_CONNECT 362
#define I386_SENDTO 369
#define I386_SENDMSG 370

static int plain_tcp(void) { return open_socket(AF_INET, SOCK_STREAM, 0); }
static int plain_udp(void) { return open_socket(AF_INET, SOCK_DGRAM, 0); }

/* A system call of i386, from either kind of program: every pointer must lie below 4 GiB. */
static long int80(uint32_t number, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f)
{
    long result;
#ifdef __x86_64__
    register long r8 __asm__("r8") = 0;
    (void)r8;
    __asm__ volatile("push %%rbp\n\tmov %[f], %%ebp\n\tint $0x80\n\tpop %%rbp"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "r"(f)
                     : "memory", "cc", "r8", "r9", "r10", "r11");
    result = (int)result;
#else
    result = syscall(number, a, b, c, d, e, f);
    if (result < 0)
        result = -errno;
#endif
    if (result < 0) {
        errno = -result;
        return -1;
    }
    return result;
}

/* 32-bit structures, in memory that 32-bit pointers reach. */
struct iovec32 {
    uint32_t base, length;
};
struct msghdr32 {
    uint32_t name, name_length, iov, iov_length, control, control_length, flags;
};
struct mmsghdr32 {
    struct msghdr32 head;
    uint32_t sent;
};
struct low {
    struct sockaddr_in foreign, allowed;
    char token[sizeof TOKEN];
    struct iovec32 data;
    struct msghdr32 message;
    struct mmsghdr32 messages[2];
    uint32_t args[6];
};

#define P(pointer) ((uint32_t)(uintptr_t)(pointer))

static struct low *low(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_32BIT
    flags |= MAP_32BIT;
#endif
    struct low *low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (low == MAP_FAILED)
        broken("mmap");
    low->foreign = at(FOREIGN4, PORT).in4;
    low->allowed = at(PROXY4, ALLOWED_PORT).in4;
    memcpy(low->token, TOKEN, sizeof TOKEN);
    low->data = (struct iovec32){P(low->token), sizeof TOKEN - 1};
    low->message = (struct msghdr32){.name = P(&low->foreign), .name_length = sizeof low->foreign,
                                     .iov = P(&low->data), .iov_length = 1};
    low->messages[0].head = low->messages[1].head = low->message;
    low->messages[0].head.name = P(&low->allowed);
    return low;
}

static long socketcall(struct low *low, int call, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f)
{
    uint32_t args[6] = {a, b, c, d, e, f};
    memcpy(low->args, args, sizeof args);
    return int80(I386_SOCKETCALL, call, P(low->args), 0, 0, 0, 0);
}

static int direct_connect(char **args)
{
    (void)args;
    struct low *low_ = low();
    int fd = plain_tcp();
    if (int80(I386_CONNECT, fd, P(&low_->foreign), sizeof low_->foreign, 0, 0, 0) != 0)
        return refused("connect");
    return deliver(fd);
}

static int direct_sendto(char **args)
{
    (void)args;
    struct low *low_ = low();
    if (int80(I386_SENDTO, plain_udp(), P(low_->token), sizeof TOKEN - 1, 0, P(&low_->foreign), sizeof low_->foreign) < 0)
        return refused("sendto");
    return 0;
}

static int direct_sendmsg(char **args)
{
    (void)args;
    return int80(I386_SENDMSG, plain_udp(), P(&low()->message), 0, 0, 0, 0) < 0 ? refused("sendmsg") : 0;
}

static int direct_sendmmsg(char **args)
{
    (void)args;
    long sent = int80(I386_SENDMMSG, plain_udp(), P(low()->messages), 2, 0, 0, 0);
    return sent < 0 ? refused("sendmmsg") : sent != 2;
}

static int direct_raw(char **args)
{
    (void)args;
    return int80(I386_SOCKET, AF_INET, SOCK_RAW, IPPROTO_ICMP, 0, 0, 0) < 0 ? refused("socket") : 0;
}

static int call_connect(char **args)
{
    (void)args;
    struct low *low_ = low();
    int fd = socketcall(low_, SYS_SOCKET, AF_INET, SOCK_STREAM, 0, 0, 0, 0);
    if (fd < 0)
        return refused("socket") + 1;
    if (socketcall(low_, SYS_CONNECT, fd, P(&low_->foreign), sizeof low_->foreign, 0, 0, 0) != 0)
        return refused("connect");
    return deliver(fd);
}

static int call_sendto(char **args)
{
    (void)args;
    struct low *low_ = low();
    if (socketcall(low_, SYS_SENDTO, plain_udp(), P(low_->token), sizeof TOKEN - 1, 0, P(&low_->foreign),
                   sizeof low_->foreign) < 0)
        return refused("sendto");
    return 0;
}

static int call_sendmsg(char **args)
{
    (void)args;
    struct low *low_ = low();
    return socketcall(low_, SYS_SENDMSG, plain_udp(), P(&low_->message), 0, 0, 0, 0) < 0 ? refused("sendmsg") : 0;
}

static int call_sendmmsg(char **args)
{
    (void)args;
    struct low *low_ = low();
    long sent = socketcall(low_, SYS_SENDMMSG, plain_udp(), P(low_->messages), 2, 0, 0, 0);
    return sent < 0 ? refused("sendmmsg") : sent != 2;
}

static int call_raw(char **args)
{
    (void)args;
    return socketcall(low(), SYS_SOCKET, AF_INET, SOCK_RAW, IPPROTO_ICMP, 0, 0, 0) < 0 ? refused("socket") : 0;
}

static int call_listen(char **args)
{
    (void)args;
    struct low *low_ = low();
    low_->foreign = at("0.0.0.0", LISTEN_PORT).in4;
    int fd = plain_tcp();
    if (socketcall(low_, SYS_BIND, fd, P(&low_->foreign), sizeof low_->foreign, 0, 0, 0) != 0)
        return refused("bind");
    if (socketcall(low_, SYS_LISTEN, fd, 5, 0, 0, 0, 0) != 0)
        return refused("listen");
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    int client = socketcall(low_, SYS_ACCEPT, fd, 0, 0, 0, 0, 0);
    if (client < 0)
        return refused("accept");
    return write(client, "served", 6) != 6;
}

#ifdef __x86_64__
#define X32 0x40000000

/* x32's own numbers for calls with other layouts are 512 and up; connect keeps its number. */
static int x32_connect(char **args)
{
    (void)args;
    struct low *low_ = low();
    int fd = plain_tcp();
    if (syscall(X32 | SYS_connect, fd, &low_->foreign, sizeof low_->foreign) != 0)
        return refused("connect");
    return deliver(fd);
}

static int x32_sendmsg(char **args)
{
    (void)args;
    return syscall(X32 | 518, plain_udp(), &low()->message, 0) < 0 ? refused("sendmsg") : 0;
}

/* Numbers whose low 32 bits are connect: the kernel looks at all 64 bits of rax as an int. */
static int high_number(char **args)
{
    (void)args;
    struct low *low_ = low();
    int fd = plain_tcp();
    long result;
    register long r10 __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(0xABCD00000000L | SYS_connect), "D"(fd), "S"(&low_->foreign), "d"(sizeof low_->foreign), "r"(r10)
                     : "rcx", "r11", "memory");
    if (result != 0) {
        errno = -result;
        return refused("connect");
    }
    return deliver(fd);
}

/* Rubbish in the upper halves of int arguments: the kernel ignores it. */
static int high_arguments(char **args)
{
    (void)args;
    struct low *low_ = low();
    long fd = plain_tcp();
    if (syscall(SYS_connect, fd | 0x1234500000000L, &low_->foreign, sizeof low_->foreign | 0x7700000000L) != 0)
        return refused("connect");
    return deliver(fd);
}
#endif

const struct vector abi_vectors[] = {
    {"i386-connect", direct_connect},
    {"i386-sendto", direct_sendto},
    {"i386-sendmsg", direct_sendmsg},
    {"i386-sendmmsg", direct_sendmmsg},
    {"i386-raw", direct_raw},
    {"socketcall-connect", call_connect},
    {"socketcall-sendto", call_sendto},
    {"socketcall-sendmsg", call_sendmsg},
    {"socketcall-sendmmsg", call_sendmmsg},
    {"socketcall-raw", call_raw},
    {"socketcall-listen", call_listen},
#ifdef __x86_64__
    {"x32-connect", x32_connect},
    {"x32-sendmsg", x32_sendmsg},
    {"high-number", high_number},
    {"high-arguments", high_arguments},
#endif
    {NULL, NULL},
};
