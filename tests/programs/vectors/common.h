/*
 * What every leak vector shares: the addresses of the stage (tests/support/stage.rs makes them), the
 * token whose arrival is the ground truth, and small helpers.
 *
 * A vector returns 0 when its own attempt succeeded, 1 when it was refused (errno goes to standard
 * error by name), 2 when the guest itself is wrong.
 */
#ifndef VECTORS_COMMON_H
#define VECTORS_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOREIGN4 "203.0.113.5"
#define FOREIGN6 "2001:db8::5"
#define MAPPED "::ffff:203.0.113.5"
#define PROXY4 "203.0.113.9"
#define PROXY6 "2001:db8::9"
#define PORT 7777         /* witnesses of leaks */
#define PROXY_PORT 9050   /* TCP, allowed by --proxy */
#define ALLOWED_PORT 9053 /* UDP, allowed by --allow */
#define LISTEN_PORT 7788  /* where guests listen under --incoming */
#define LINK "veth0"      /* an interface that isn't loopback */
#define TOKEN "sockstrace-leak"

/* A vector: its name on the command line and what it does. */
struct vector {
    const char *name;
    int (*run)(char **args);
};

/* One table a family, each ended by a NULL name. */
extern const struct vector tcp_vectors[], udp_vectors[], address_vectors[], raw_vectors[],
    route_vectors[], process_vectors[], birth_vectors[], abi_vectors[], uring_vectors[],
    unix_vectors[], incoming_vectors[], disclosure_vectors[], race_vectors[], probe_vectors[];

/* Any of the socket addresses, with its length. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    };
    socklen_t length;
};

/* An IPv4 or IPv6 address; "fe80::5%veth0" has a scope. */
struct address at(const char *ip, int port);
/* A UNIX path, or an abstract name where length is given (name without its leading NUL). */
struct address at_path(const char *path);
struct address at_abstract(const char *name, size_t length);

/* Reports errno as the result of what, and returns 1. */
int refused(const char *what);
/* Reports that the guest can't do its work here, and ends with 2. */
void broken(const char *what) __attribute__((noreturn));
/* socket(2) that must succeed for the vector to make sense. */
int open_socket(int family, int type, int protocol);
/* Writes the token with write(2): 0, or 1 where refused. */
int deliver(int fd);
/* connect, then deliver; closes. */
int connect_and_deliver(int fd, struct address to);
/* sendto of the token: 0, or 1 where refused; closes. */
int sendto_and_close(int fd, struct address to, int flags);
/* Waits for a child and gives its exit status (128 + signal). */
int wait_for(pid_t child);
/* The plain vector that others wrap: a TCP connection to FOREIGN4 that delivers the token. */
int leak_tcp4(char **args);
void sleep_ms(int milliseconds);
/* Whether a race goes on: 600 rounds, and at least 150 ms. */
int more_rounds(int round);

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

#endif
