/* A guest that makes the calls of a browser's page load, and prints how long they took, in nanoseconds.
 *
 *   mix FILE PROCESSES THREADS PAGES STEPS
 *
 * FILE has a line a call: its name and how often it is made a page (see benches/mix). The calls of a page are
 * dealt out to all threads of all processes and made in an order that is the same in each run. Between them STEPS
 * steps are computed, about a nanosecond each. With 0 steps, it is the worst case for whoever watches.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FUTEX, EPOLL_WAIT, POLL, RECVMSG, SENDTO, SENDMSG, CONNECT, READ, WRITE, OTHER, KINDS };
static const char *const names[KINDS] = {
	"futex", "epoll_wait", "poll", "recvmsg", "sendto", "sendmsg", "connect", "read", "write", "other",
};
static int counts[KINDS];
static long pages, steps;
static int workers;
/* Shared by all processes: everybody begins at once. */
static pthread_barrier_t *start;

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static void shuffle(unsigned char *calls, size_t length, unsigned seed)
{
	for (size_t i = length; i > 1; i--) {
		seed = seed * 1664525 + 1013904223;
		size_t other = (seed >> 8) % i;
		unsigned char call = calls[i - 1];
		calls[i - 1] = calls[other];
		calls[other] = call;
	}
}

static void *work(void *argument)
{
	long number = (long)argument;
	unsigned char *calls = NULL;
	size_t length = 0;
	for (int kind = 0; kind < KINDS; kind++) {
		/* What can't be divided goes to the first ones. */
		int share = counts[kind] / workers + (number < counts[kind] % workers);
		calls = realloc(calls, length + share + 1);
		memset(calls + length, kind, share);
		length += share;
	}
	shuffle(calls, length, number + 1);
	int pair[2], epoll = epoll_create1(0), zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0 || epoll < 0 || zero < 0 || null < 0)
		die("preparing");
	char bytes[65536] = "";
	struct iovec vector = { bytes, 64 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9050) };
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	struct epoll_event event;
	struct pollfd polled = { pair[0], POLLIN, 0 };
	int word = 0;
	volatile unsigned result = number;
	pthread_barrier_wait(start);
	for (long page = 0; page < pages; page++)
		for (size_t i = 0; i < length; i++) {
			int fd;
			unsigned value = result;
			for (long step = 0; step < steps; step++)
				value = value * 1664525 + 1013904223;
			result = value;
			switch (calls[i]) {
			case FUTEX: syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); break;
			case EPOLL_WAIT: epoll_wait(epoll, &event, 1, 0); break;
			case POLL: poll(&polled, 1, 0); break;
			case RECVMSG:
				vector.iov_len = sizeof bytes;
				recvmsg(pair[1], &message, 0);
				vector.iov_len = 64;
				break;
			case SENDTO:
				if (sendto(pair[0], bytes, 64, 0, NULL, 0) < 0 && errno == EAGAIN)
					recv(pair[1], bytes, sizeof bytes, 0);
				break;
			case SENDMSG:
				if (sendmsg(pair[0], &message, 0) < 0 && errno == EAGAIN)
					recv(pair[1], bytes, sizeof bytes, 0);
				break;
			case CONNECT:
				/* Mostly nobody listens there: refused at once, the whole way through the kernel. */
				fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
				connect(fd, (void *)&to, sizeof to);
				close(fd);
				break;
			case READ: if (read(zero, bytes, 64) != 64) die("read"); break;
			case WRITE: if (write(null, bytes, 64) != 64) die("write"); break;
			default: syscall(SYS_getppid);
			}
		}
	return NULL;
}

int main(int argc, char **argv)
{
	char name[32];
	int count;
	FILE *file = argc == 6 ? fopen(argv[1], "r") : NULL;
	if (!file)
		return 2;
	while (fscanf(file, "%31s %d\n", name, &count) == 2) {
		int kind = 0;
		while (kind < OTHER && strcmp(name, names[kind]))
			kind++;
		counts[kind] += count;
	}
	int processes = atoi(argv[2]), threads = atoi(argv[3]);
	pages = atol(argv[4]);
	steps = atol(argv[5]);
	workers = processes * threads;
	if (processes < 1 || threads < 1 || workers > 256)
		return 2;
	start = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_barrierattr_t shared;
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(start, &shared, workers + 1);
	for (long process = 0; process < processes; process++)
		if (fork() == 0) {
			pthread_t thread[256];
			for (long i = 0; i < threads; i++)
				pthread_create(&thread[i], NULL, work, (void *)(process * threads + i));
			for (long i = 0; i < threads; i++)
				pthread_join(thread[i], NULL);
			_exit(0);
		}
	struct timespec from, to;
	pthread_barrier_wait(start);
	clock_gettime(CLOCK_MONOTONIC, &from);
	int status, good = 1;
	while (wait(&status) > 0)
		good &= status == 0;
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.0f\n", (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec));
	return !good;
}
