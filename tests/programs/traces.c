/* Leaks whose traces are taken: many in a row, under signals, from processes that can't be looked into. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in foreign(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(7777) };
	inet_pton(AF_INET, "203.0.113.5", &to.sin_addr);
	return to;
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
}

/* Sends a number; interrupted, again. */
static __attribute__((noinline)) int send_number(int fd, unsigned number)
{
	struct sockaddr_in to = foreign();
	char text[32];
	ssize_t sent;
	int length = snprintf(text, sizeof text, "%u", number);
	do
		sent = sendto(fd, text, length, 0, (struct sockaddr *)&to, sizeof to);
	while (sent < 0 && errno == EINTR);
	return sent == length ? 0 : errno;
}

static unsigned first, count;

static void *numbers(void *start)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned failed = 0;
	for (unsigned n = 0; n < count; n++)
		failed += send_number(fd, *(unsigned *)start + n) != 0;
	printf("failed %u\n", failed);
	return NULL;
}

/* numbered COUNT THREADS [alarms]: each thread sends COUNT numbers of its own. */
static int numbered(char **args)
{
	unsigned threads = atoi(args[1]);
	pthread_t ids[64];
	unsigned starts[64];
	count = atoi(args[0]);
	if (args[2]) {
		struct sigaction action = { .sa_handler = on_alarm };
		struct itimerval often = { { 0, 700 }, { 0, 700 } };
		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &often, NULL);
	}
	for (unsigned n = 0; n < threads && n < 64; n++) {
		starts[n] = first + n * count;
		pthread_create(&ids[n], NULL, numbers, &starts[n]);
	}
	for (unsigned n = 0; n < threads && n < 64; n++)
		pthread_join(ids[n], NULL);
	return args[2] && alarms == 0;
}

/* From a process that hides its memory. */
static int hidden(char **args)
{
	(void)args;
	if (prctl(PR_SET_DUMPABLE, 0))
		return 1;
	printf("%d\n", send_number(socket(AF_INET, SOCK_DGRAM, 0), 7));
	return 0;
}

static int once(char **args)
{
	(void)args;
	printf("%d\n", send_number(socket(AF_INET, SOCK_DGRAM, 0), 7));
	return 0;
}

/* here PORT: a datagram to loopback. */
static int here(char **args)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(args[0])) };
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return sendto(socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (struct sockaddr *)&to, sizeof to) != 1;
}

/* The arguments change between two looks at them: what arrives is one of both, and once. */
static struct sockaddr_in flipping;
static volatile int done;

static void *flip(void *unused)
{
	(void)unused;
	volatile in_addr_t *address = &flipping.sin_addr.s_addr;
	while (!done)
		*address ^= htonl(5) ^ htonl(9);
	return NULL;
}

static int flipped(char **args)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), failed = 0;
	pthread_t id;
	flipping = foreign();
	flipping.sin_port = htons(9053);
	pthread_create(&id, NULL, flip, NULL);
	for (int n = atoi(args[0]); n > 0; n--)
		failed += sendto(fd, "x", 1, 0, (struct sockaddr *)&flipping, sizeof flipping) != 1;
	done = 1;
	pthread_join(id, NULL);
	printf("failed %d\n", failed);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(char **);
	} all[] = { { "numbered", numbered }, { "hidden", hidden }, { "once", once }, { "flipped", flipped },
		    { "here", here } };
	for (unsigned n = 0; argc > 1 && n < sizeof all / sizeof *all; n++)
		if (!strcmp(argv[1], all[n].name))
			return all[n].run(argv + 2);
	return 2;
}
