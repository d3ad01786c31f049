/* Serving the outside, under --incoming block. The harness is the client; it is told the port by a file. */
#include "common.h"

static int tell_port(int fd)
{
    struct address local = {.length = sizeof local.storage};
    if (getsockname(fd, &local.any, &local.length) != 0)
        return refused("getsockname");
    FILE *file = fopen("port.new", "w");
    if (!file)
        broken("port");
    fprintf(file, "%d\n", ntohs(local.in4.sin_port)); /* at the same place in IPv6 */
    fclose(file);
    return rename("port.new", "port");
}

/* Serves one client of a listening socket. Returns 3 when none came. */
static int serve(int fd)
{
    tell_port(fd);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    int client = accept(fd, NULL, NULL);
    if (client < 0)
        return refused("accept");
    if (write(client, "served", 6) != 6)
        return refused("write");
    close(client);
    return 0;
}

static int listen_on(const char *ip, int flags)
{
    struct address local = at(ip, LISTEN_PORT);
    int fd = open_socket(local.any.sa_family, SOCK_STREAM | flags, 0);
    if (bind(fd, &local.any, local.length) != 0)
        return refused("bind");
    if (listen(fd, 5) != 0)
        return refused("listen");
    return serve(fd);
}

static int listen4(char **args) { (void)args; return listen_on(FOREIGN4, 0); }
static int listen6(char **args) { (void)args; return listen_on(FOREIGN6, 0); }
static int listen_any4(char **args) { (void)args; return listen_on("0.0.0.0", 0); }
static int listen_any6(char **args) { (void)args; return listen_on("::", 0); }
static int listen_loopback(char **args) { (void)args; return listen_on("127.0.0.1", 0); }

/* AF_UNSPEC with INADDR_ANY counts as AF_INET for bind. */
static int listen_unspec(char **args)
{
    (void)args;
    struct address local = at("0.0.0.0", LISTEN_PORT);
    local.any.sa_family = AF_UNSPEC;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, &local.any, local.length) != 0)
        return refused("bind");
    if (listen(fd, 5) != 0)
        return refused("listen");
    return serve(fd);
}

/* listen without bind: the kernel chooses a port on every address. */
static int autobind(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (listen(fd, 5) != 0)
        return refused("listen");
    return serve(fd);
}

static int port_zero(char **args)
{
    (void)args;
    struct address local = at("0.0.0.0", 0);
    int fd = open_socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, &local.any, local.length) != 0)
        return refused("bind");
    if (listen(fd, 5) != 0)
        return refused("listen");
    return serve(fd);
}

static int mptcp_listen(char **args)
{
    (void)args;
    struct address local = at("0.0.0.0", LISTEN_PORT);
    int fd = open_socket(AF_INET, SOCK_STREAM, 262);
    if (bind(fd, &local.any, local.length) != 0)
        return refused("bind");
    if (listen(fd, 5) != 0)
        return refused("listen");
    return serve(fd);
}

static int answer_datagram(int fd)
{
    tell_port(fd);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    char buffer[64];
    struct address from = {.length = sizeof from.storage};
    if (recvfrom(fd, buffer, sizeof buffer, 0, &from.any, &from.length) < 0)
        return refused("recvfrom");
    return sendto(fd, "served", 6, 0, &from.any, from.length) < 0 ? refused("sendto") : 0;
}

static int udp_bind(const char *ip)
{
    struct address local = at(ip, LISTEN_PORT);
    int fd = open_socket(local.any.sa_family, SOCK_DGRAM, 0);
    if (bind(fd, &local.any, local.length) != 0)
        return refused("bind");
    return answer_datagram(fd);
}

static int udp4(char **args) { (void)args; return udp_bind("0.0.0.0"); }
static int udp6(char **args) { (void)args; return udp_bind("::"); }

/* The harness made the listening socket before the program started. */
static int inherited(char **args) { return serve(atoi(args[0])); }

static int inherited_accept4(char **args)
{
    int fd = atoi(args[0]);
    tell_port(fd);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 3000) != 1)
        return 3;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return refused("accept4");
    return write(client, "served", 6) != 6;
}

/* Bound to loopback, then dissolved and bound to everything. */
static int rebound(char **args)
{
    (void)args;
    int fd = open_socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    struct address first = at("127.0.0.1", 0);
    (void)!bind(fd, &first.any, first.length);
    connect(fd, &nowhere, sizeof nowhere);
    close(fd);
    return udp_bind("0.0.0.0");
}

const struct vector incoming_vectors[] = {
    {"listen4", listen4},
    {"listen6", listen6},
    {"listen-any4", listen_any4},
    {"listen-any6", listen_any6},
    {"listen-loopback", listen_loopback},
    {"listen-unspec", listen_unspec},
    {"listen-autobind", autobind},
    {"listen-port-zero", port_zero},
    {"listen-mptcp", mptcp_listen},
    {"udp-bind4", udp4},
    {"udp-bind6", udp6},
    {"udp-rebind", rebound},
    {"inherited-listener", inherited},
    {"inherited-listener-accept4", inherited_accept4},
    {NULL, NULL},
};
