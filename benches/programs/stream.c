// Sends BYTES over a socketpair to a child, in pieces of PIECE: stream BYTES PIECE

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) {
        return 2;
    }
    size_t left = strtoull(words[1], NULL, 10), piece = strtoull(words[2], NULL, 10);
    char *bytes = calloc(1, piece);
    int ends[2];
    if (!bytes || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
        return 1;
    }
    pid_t child = fork();
    if (child < 0) {
        return 1;
    }
    int sends = child != 0, fd = ends[!sends];
    close(ends[sends]);
    for (size_t index = 0; index < piece; index++) {
        bytes[index] = index * 31 >> 3;
    }
    while (left > 0) {
        size_t wanted = left < piece ? left : piece;
        ssize_t moved = sends ? write(fd, bytes, wanted) : read(fd, bytes, wanted);
        if (moved <= 0) {
            return 1;
        }
        left -= moved;
    }
    int status = 0;
    return sends && (waitpid(child, &status, 0) != child || status != 0);
}
