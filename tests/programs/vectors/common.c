/* Helpers of the leak vectors: see common.h. */
#include "common.h"
#include <time.h>

struct address at(const char *ip, int port)
{
    struct address address;
    memset(&address, 0, sizeof address);
    char text[64];
    snprintf(text, sizeof text, "%s", ip);
    char *scope = strchr(text, '%');
    if (scope)
        *scope++ = 0;
    if (inet_pton(AF_INET, text, &address.in4.sin_addr) == 1) {
        address.in4.sin_family = AF_INET;
        address.in4.sin_port = htons(port);
        address.length = sizeof address.in4;
    } else if (inet_pton(AF_INET6, text, &address.in6.sin6_addr) == 1) {
        address.in6.sin6_family = AF_INET6;
        address.in6.sin6_port = htons(port);
        address.in6.sin6_scope_id = scope ? if_nametoindex(scope) : 0;
        address.length = sizeof address.in6;
    } else {
        broken(ip);
    }
    return address;
}

struct address at_path(const char *path)
{
    struct address address;
    memset(&address, 0, sizeof address);
    address.un.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.un.sun_path)
        broken("path too long");
    strcpy(address.un.sun_path, path);
    address.length = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
    return address;
}

struct address at_abstract(const char *name, size_t length)
{
    struct address address;
    memset(&address, 0, sizeof address);
    address.un.sun_family = AF_UNIX;
    memcpy(address.un.sun_path + 1, name, length);
    address.length = offsetof(struct sockaddr_un, sun_path) + 1 + length;
    return address;
}

int refused(const char *what)
{
    const char *name = strerrorname_np(errno);
    fprintf(stderr, "%s: %s\n", what, name ? name : "?");
    return 1;
}

void broken(const char *what)
{
    fprintf(stderr, "guest can't work: %s: %s\n", what, strerror(errno));
    _exit(2);
}

int open_socket(int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    if (fd < 0)
        _exit(refused("socket"));
    return fd;
}

int deliver(int fd)
{
    if (write(fd, TOKEN, sizeof TOKEN - 1) != sizeof TOKEN - 1)
        return refused("write");
    return 0;
}

int connect_and_deliver(int fd, struct address to)
{
    if (connect(fd, &to.any, to.length) != 0)
        return refused("connect");
    int result = deliver(fd);
    close(fd);
    return result;
}

int sendto_and_close(int fd, struct address to, int flags)
{
    if (sendto(fd, TOKEN, sizeof TOKEN - 1, flags, &to.any, to.length) < 0)
        return refused("sendto");
    close(fd);
    return 0;
}

int wait_for(pid_t child)
{
    int status;
    while (waitpid(child, &status, __WALL) < 0)
        if (errno != EINTR)
            broken("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int leak_tcp4(char **args)
{
    (void)args;
    return connect_and_deliver(open_socket(AF_INET, SOCK_STREAM, 0), at(FOREIGN4, PORT));
}

void sleep_ms(int milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&time, &time) != 0 && errno == EINTR)
        ;
}

int more_rounds(int round)
{
    static struct timespec start;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (round == 0)
        start = now;
    if (round % 32 == 0)
        usleep(50); /* on a busy machine the other thread may wait for this very processor */
    return round < 600 || (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < 150;
}
