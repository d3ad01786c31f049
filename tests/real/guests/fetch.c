/* fetch direct ADDRESS PORT | fetch socks ADDRESS PORT PROXY PROXYPORT: prints the page at /. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int reach(const char *address, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    inet_pton(AF_INET, address, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    return fd;
}

int main(int argc, char **argv)
{
    int fd;
    char buffer[4096];
    ssize_t got;
    if (argc == 6) {
        unsigned char request[10] = {5, 1, 0, 1}, reply[10];
        fd = reach(argv[4], argv[5]);
        if (write(fd, "\5\1\0", 3) != 3 || recv(fd, reply, 2, MSG_WAITALL) != 2 || reply[1] != 0)
            fail("greeting");
        inet_pton(AF_INET, argv[2], request + 4);
        request[8] = atoi(argv[3]) >> 8;
        request[9] = atoi(argv[3]) & 255;
        if (write(fd, request, 10) != 10 || recv(fd, reply, 10, MSG_WAITALL) != 10 || reply[1] != 0)
            fail("request");
    } else {
        fd = reach(argv[2], argv[3]);
    }
    dprintf(fd, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", argv[2]);
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, got, stdout);
    return got < 0;
}
