/*
 * The guest of tests/vectors.rs: `vectors NAME [ARG]...` makes one attempt at reaching the network past
 * the proxy, the way that NAME says. `vectors --list` names them all. See common.h for exit statuses.
 */
#include "common.h"

static const struct vector *const families[] = {
    tcp_vectors,     udp_vectors,   address_vectors,  raw_vectors,        route_vectors,
    process_vectors, birth_vectors, abi_vectors,      uring_vectors,      unix_vectors,
    incoming_vectors, disclosure_vectors, race_vectors, probe_vectors,
};

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--list";
    int list = strcmp(name, "--list") == 0;
    for (size_t i = 0; i < LENGTH(families); i++)
        for (const struct vector *vector = families[i]; vector->name; vector++) {
            if (list)
                puts(vector->name);
            else if (strcmp(name, vector->name) == 0)
                return vector->run(argv + 2);
        }
    if (list)
        return 0;
    fprintf(stderr, "no vector %s\n", name);
    return 2;
}
