/* The guest of tests/hostile.rs: `hostile NAME [ARG]...`. What it prints is the same without a tracer. */
#include "hostile.h"
#include <time.h>

void say(const char *what, long result)
{
    if (result >= 0)
        printf("%s -> %ld\n", what, result);
    else
        printf("%s -> %s\n", what, strerrorname_np(errno) ? strerrorname_np(errno) : "?");
}

void meet(const char *name)
{
    printf("%s?\n", name);
    fflush(stdout);
    for (int i = 0; i < 6000 && access(name, F_OK) != 0; i++)
        sleep_ms(5);
}

int full_listener(struct address where)
{
    int listener = open_socket(where.any.sa_family, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, &where.any, where.length) != 0 || listen(listener, 0) != 0)
        broken("listen");
    for (int i = 0; i < 4; i++) {
        int filler = open_socket(where.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(filler, &where.any, where.length) != 0 && errno != EINPROGRESS)
            broken("filling the queue");
    }
    sleep_ms(20);
    return listener;
}

long now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static const struct vector *const families[] = {argument_cases, memory_cases, signal_cases,
                                               crowd_cases,    life_cases,   supervisor_cases, unnamed_cases,
                                               mount_cases};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < LENGTH(families); i++)
        for (const struct vector *one = families[i]; one->name; one++)
            if (strcmp(argv[1], one->name) == 0)
                return one->run(argv + 2);
    fprintf(stderr, "no case %s\n", argc > 1 ? argv[1] : "");
    return 2;
}
