/*
 * Sockets of all families that can be had, never told where to by a call that names it: whatever is written to
 * them in ways that aren't judged must not leave the host.
 */
#include "hostile.h"
#include <signal.h>
#include <sys/sendfile.h>

static void write_every_way(int fd, int file, int ends[2])
{
    struct iovec token = {TOKEN, sizeof TOKEN - 1};
    off_t start = 0;
    (void)!write(fd, TOKEN, sizeof TOKEN - 1);
    (void)!writev(fd, &token, 1);
    (void)!pwritev2(fd, &token, 1, -1, 0);
    (void)!send(fd, TOKEN, sizeof TOKEN - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)!sendfile(fd, file, &start, sizeof TOKEN - 1);
    if (write(ends[1], TOKEN, sizeof TOKEN - 1) > 0 &&
        splice(ends[0], NULL, fd, NULL, sizeof TOKEN - 1, SPLICE_F_NONBLOCK) < 0) {
        char rest[sizeof TOKEN];
        (void)!read(ends[0], rest, sizeof rest);
    }
}

static void use(int fd, int family, int file, int ends[2])
{
    write_every_way(fd, file, ends);
    /* Bound to all zeroes: any interface, any port. */
    struct sockaddr_storage anywhere = {.ss_family = family};
    for (socklen_t length = 8; length <= 32; length += 4)
        if (bind(fd, (struct sockaddr *)&anywhere, length) == 0)
            break;
    write_every_way(fd, file, ends);
    listen(fd, 1);
    write_every_way(fd, file, ends);
    close(fd);
}

static int unnamed(char **args)
{
    (void)args;
    static const int protocols[] = {0, 1, 2, 6, 16, 17, 58, 136, 255, 262, 0x0300 /* ETH_P_ALL */};
    int ends[2], had = 0;
    signal(SIGPIPE, SIG_IGN);
    int file = open("token", O_RDWR | O_CREAT, 0600);
    if (file < 0 || write(file, TOKEN, sizeof TOKEN - 1) < 0 || pipe2(ends, O_NONBLOCK) != 0)
        broken("token");
    for (int family = 0; family < 64; family++)
        for (int type = 1; type <= 10; type++)
            for (size_t i = 0; i < LENGTH(protocols); i++) {
                int pair[2], fd = socket(family, type | SOCK_NONBLOCK, protocols[i]);
                if (fd >= 0) {
                    had++;
                    use(fd, family, file, ends);
                }
                if (socketpair(family, type | SOCK_NONBLOCK, protocols[i], pair) == 0) {
                    use(pair[0], family, file, ends);
                    use(pair[1], family, file, ends);
                }
            }
    /* All that netlink speaks: without privileges, and with them, what is no message is refused. */
    for (int protocol = 0; protocol < 32; protocol++) {
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, protocol);
        if (fd >= 0)
            use(fd, AF_NETLINK, file, ends);
    }
    say("sockets", had > 10 ? 0 : -1);
    return 0;
}

const struct vector unnamed_cases[] = {
    {"unnamed", unnamed},
    {NULL, NULL},
};
