/* A guest that makes one kind of call in a loop and prints what one costs, in nanoseconds.
 *
 *   calls KIND COUNT THREADS [A_SECOND]
 *
 * The addresses are on loopback. Each thread makes COUNT calls; what is printed is the wall time of all of them.
 * With 0 THREADS the process's first thread makes them, and the process has no other. With A_SECOND they make no more than that.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *kind;
static long count;
/* Nanoseconds from one call of a thread to its next. */
static double interval;
static pthread_barrier_t start;
/* When the first thread began, in nanoseconds. */
static _Atomic long began;

static long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static struct sockaddr_in address(unsigned short port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void check(int good)
{
	if (!good) {
		perror(kind);
		exit(1);
	}
}

static void *run(void *unused)
{
	(void)unused;
	struct sockaddr_in to = address(9050);
	int udp = socket(AF_INET, SOCK_DGRAM, 0), pair[2];
	char byte = 0;
	check(udp >= 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	struct iovec vector = { &byte, 1 };
	struct msghdr plain = { .msg_iov = &vector, .msg_iovlen = 1 }, named = plain;
	named.msg_name = &to;
	named.msg_namelen = sizeof to;
	/* Somebody who takes what is sent, so that no queue fills. */
	int sink = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in here = address(0);
	socklen_t length = sizeof here;
	check(bind(sink, (void *)&here, sizeof here) == 0 && getsockname(sink, (void *)&here, &length) == 0);
	struct sockaddr_in sink_address = here;
	named.msg_name = &sink_address;
	int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
	check(zero >= 0 && null >= 0);
	/* Blocking streams, with somebody who reads. */
	int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), peer;
	struct sockaddr_in listening = address(0);
	length = sizeof listening;
	check(bind(server, (void *)&listening, length) == 0 && listen(server, 1) == 0);
	check(getsockname(server, (void *)&listening, &length) == 0);
	check(connect(client, (void *)&listening, length) == 0 && (peer = accept(server, NULL, NULL)) >= 0);
	pthread_barrier_wait(&start);
	/* Not the main thread, which with real-time priority would come last. */
	long nobody = 0;
	atomic_compare_exchange_strong(&began, &nobody, now());
	for (long i = 0; i < count; i++) {
		while (interval > 0 && now() < began + (long)(i * interval))
			;
		if (!strcmp(kind, "connect")) {
			check(connect(udp, (void *)&to, sizeof to) == 0);
		} else if (!strcmp(kind, "connect-tcp")) {
			/* Nobody listens there: refused at once, the whole way through the kernel. */
			int tcp = socket(AF_INET, SOCK_STREAM, 0);
			struct sockaddr_in nobody = address(1);
			check(connect(tcp, (void *)&nobody, sizeof nobody) == -1);
			close(tcp);
		} else if (!strcmp(kind, "sendto")) {
			check(sendto(udp, &byte, 1, 0, (void *)&sink_address, sizeof sink_address) == 1);
			check(recv(sink, &byte, 1, 0) == 1);
		} else if (!strcmp(kind, "sendmsg-udp")) {
			check(sendmsg(udp, &named, 0) == 1);
			check(recv(sink, &byte, 1, 0) == 1);
		} else if (!strcmp(kind, "sendmsg-unix")) {
			check(sendmsg(pair[0], &plain, 0) == 1);
			check(recv(pair[1], &byte, 1, 0) == 1);
		} else if (!strcmp(kind, "sendmsg-tcp")) {
			check(sendmsg(client, &plain, 0) == 1);
			check(recv(peer, &byte, 1, 0) == 1);
		} else if (!strcmp(kind, "bind")) {
			struct sockaddr_in any = address(0);
			int bound = socket(AF_INET, SOCK_DGRAM, 0);
			check(bind(bound, (void *)&any, sizeof any) == 0);
			close(bound);
		} else if (!strcmp(kind, "getpid")) {
			syscall(SYS_getpid);
		} else if (!strcmp(kind, "read")) {
			check(read(zero, &byte, 1) == 1);
		} else if (!strcmp(kind, "write")) {
			check(write(null, &byte, 1) == 1);
		} else {
			check(0);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5)
		return 2;
	kind = argv[1];
	count = atol(argv[2]);
	int threads = atoi(argv[3]);
	pthread_t thread[64];
	if (threads < 0 || threads > 64)
		return 2;
	if (argc == 5)
		interval = 1e9 * (threads ? threads : 1) / atof(argv[4]);
	pthread_barrier_init(&start, NULL, threads ? threads + 1 : 1);
	for (int i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, run, NULL);
	if (threads)
		pthread_barrier_wait(&start);
	else
		run(NULL);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("%ld\n", now() - began);
	return 0;
}
