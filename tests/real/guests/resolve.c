/* resolve NAME: what the C library makes of it. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **arguments)
{
    struct addrinfo *one, hints = {.ai_socktype = SOCK_STREAM};
    int failed = count < 2 ? EAI_NONAME : getaddrinfo(arguments[1], NULL, &hints, &one);
    if (failed) {
        puts(gai_strerror(failed));
        return 1;
    }
    for (; one; one = one->ai_next) {
        char text[200];
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
