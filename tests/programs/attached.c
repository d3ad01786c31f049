/*
 * What a program does while somebody attaches to it and lets it go: each thread checks that nothing happens to it
 * that wouldn't have happened alone. Ends when its standard input does; then says "ok" with what it counted, or
 * what was wrong.
 *
 *   attached checks PORT      all of the below
 *   attached connects PORT    connections alone, which may be refused (EPERM)
 *   attached escapes PORT     connections by children that may not be traced: flags of clone3 turn meanwhile
 *   attached executes PORT    replaced by itself again and again, by another than the first of its threads
 *
 * Connection N of connecting thread T goes to 127.(T+1).(N/256).(N%256): who listens knows which came.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int ends, bad, refused, connected, waits, sent, handled, taken, born, timeouts;
static int tolerant, port;

static void wrong(const char *format, ...)
{
	char text[256];
	va_list list;
	va_start(list, format);
	vsnprintf(text, sizeof text, format, list);
	va_end(list);
	if (bad++ < 10)
		printf("bad: %s\n", text);
}

static void pause_for(long microseconds)
{
	struct timespec time = {0, microseconds * 1000};
	if (nanosleep(&time, NULL))
		wrong("nanosleep: %s", strerror(errno));
}

static void *connects(void *argument)
{
	unsigned thread = (unsigned)(size_t)argument;
	for (unsigned n = 0; !ends && n < 65536; n++) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
		to.sin_addr.s_addr = htonl(127u << 24 | (thread + 1) << 16 | n);
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0) {
			wrong("socket: %s", strerror(errno));
		} else if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
			if (tolerant && errno == EPERM)
				refused++;
			else
				wrong("connect: %s", strerror(errno));
		} else {
			char byte = 0;
			if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1 || byte != 'x')
				wrong("echo: %s", strerror(errno));
			connected++;
		}
		close(fd);
		pause_for(500);
	}
	return NULL;
}

/* epoll_wait fails with EINTR when it is interrupted, whether or not a handler runs. */
static int event, epoll;

static void *waits_for_events(void *argument)
{
	(void)argument;
	while (!ends) {
		struct epoll_event got;
		uint64_t value;
		int count = epoll_wait(epoll, &got, 1, -1);
		if (count != 1)
			wrong("epoll_wait: %d %s", count, strerror(errno));
		else if (read(event, &value, sizeof value) == sizeof value)
			waits++;
	}
	return NULL;
}

/* So does sigtimedwait. None is lost, none comes twice. */
static void *takes_signals(void *argument)
{
	sigset_t set;
	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	for (;;) {
		siginfo_t info;
		int signal = sigwaitinfo(&set, &info);
		if (signal < 0) {
			wrong("sigwaitinfo: %s", strerror(errno));
			continue;
		}
		if (info.si_value.sival_int < 0)
			return NULL;
		if (info.si_value.sival_int != taken)
			wrong("signal %d came in place of %d", info.si_value.sival_int, taken);
		taken++;
	}
}

static void handler(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if (info->si_code != SI_QUEUE)
		wrong("a signal of nobody's: %d", info->si_code);
	handled++;
}

/* Limited by a timeout, a receiving call isn't made again when it is interrupted. */
static void *times_out(void *argument)
{
	int pair[2];
	struct timeval limit = {0, 20000};
	char byte;
	(void)argument;
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	while (!ends) {
		if (recv(pair[0], &byte, 1, 0) != -1 || errno != EAGAIN)
			wrong("recv: %s", strerror(errno));
		struct pollfd nothing = {pair[0], POLLIN, 0};
		if (poll(&nothing, 1, 10) != 0)
			wrong("poll: %s", strerror(errno));
		timeouts++;
	}
	return NULL;
}

static void *nothing(void *argument)
{
	return argument;
}

static void *bears(void *argument)
{
	(void)argument;
	while (!ends) {
		pthread_t thread;
		void *result;
		int status;
		pid_t child = vfork();
		if (!child) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(9);
		}
		if (waitpid(child, &status, 0) != child || status)
			wrong("vfork: %s, %x", strerror(errno), status);
		child = fork();
		if (!child)
			_exit(7);
		if (waitpid(child, &status, 0) != child || status != 7 << 8)
			wrong("fork: %s, %x", strerror(errno), status);
		if (pthread_create(&thread, NULL, nothing, &born) || pthread_join(thread, &result) || result != &born)
			wrong("pthread_create");
		born++;
		pause_for(2000);
	}
	return NULL;
}

static int semaphore;

static void *semaphores(void *argument)
{
	struct sembuf down = {0, -1, 0};
	(void)argument;
	while (!ends)
		if (semop(semaphore, &down, 1))
			wrong("semop: %s", strerror(errno));
	return NULL;
}

static void *sends(void *argument)
{
	pthread_t *taker = argument;
	struct sembuf up = {0, 1, 0};
	while (!ends) {
		uint64_t one = 1;
		union sigval value = {.sival_int = sent};
		pause_for(1000);
		if (write(event, &one, sizeof one) != sizeof one)
			wrong("eventfd: %s", strerror(errno));
		/* Not more than may be queued. */
		if (sent - taken < 100 && sent - handled < 100) {
			if (pthread_sigqueue(*taker, SIGRTMIN + 1, value) || sigqueue(getpid(), SIGRTMIN + 2, value))
				wrong("sigqueue: %s", strerror(errno));
			else
				sent++;
		}
		semop(semaphore, &up, 1);
	}
	return NULL;
}

static char **arguments;

static void *executes(void *argument)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	pause_for(now.tv_nsec / 1000 % 3000);
	execv("/proc/self/exe", arguments);
	wrong("execv: %s", strerror(errno));
	return argument;
}

static void *sleeps(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static int is_executed(void)
{
	pthread_t thread;
	struct pollfd input = {0, POLLIN, 0};
	if (!getenv("READY")) {
		setenv("READY", "1", 1);
		printf("ready\n");
	}
	/* Nothing is ever written there. */
	if (poll(&input, 1, 0)) {
		printf("ok: executed\n");
		return 0;
	}
	for (int i = 0; i < 12; i++)
		pthread_create(&thread, NULL, sleeps, NULL);
	pthread_create(&thread, NULL, executes, NULL);
	sleeps(NULL);
	return 1;
}

static struct clone_args turning = {.exit_signal = SIGCHLD};

static void *turns_flags(void *argument)
{
	volatile uint64_t *flags = (volatile uint64_t *)&turning.flags;
	(void)argument;
	while (!ends) {
		*flags = CLONE_UNTRACED;
		for (int i = 0; i < 20; i++)
			__asm__ volatile("pause");
		*flags = 0;
		for (int i = 0; i < 20; i++)
			__asm__ volatile("pause");
	}
	return NULL;
}

/* Each connection is a child's, made by clone3, or by clone where there is no clone3. */
static int escapes(void)
{
	pthread_t turner;
	struct pollfd input = {0, POLLIN, 0};
	pthread_create(&turner, NULL, turns_flags, NULL);
	printf("ready\n");
	for (unsigned n = 0; poll(&input, 1, 0) == 0; n++) {
		long child = syscall(SYS_clone3, &turning, sizeof turning);
		if (child < 0 && errno == ENOSYS)
			child = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
		if (child == 0) {
			struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
			to.sin_addr.s_addr = htonl(127u << 24 | 1u << 16 | (n & 0xffff));
			_exit(connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&to, sizeof to) != 0);
		}
		if (child < 0)
			wrong("clone3: %s", strerror(errno));
		else if (waitpid(child, NULL, __WALL) != child)
			wrong("waitpid: %s", strerror(errno));
		pause_for(500);
	}
	ends = 1;
	pthread_join(turner, NULL);
	if (!bad)
		printf("ok: it ended\n");
	return bad != 0;
}

int main(int argc, char **argv)
{
	enum { THREADS = 2 };
	pthread_t connecting[THREADS], taker, others[6];
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct epoll_event wanted = {.events = EPOLLIN};
	sigset_t set;
	char buffer[64];
	if (argc < 3)
		return 2;
	tolerant = !strcmp(argv[1], "connects");
	port = atoi(argv[2]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	arguments = argv;
	if (!strcmp(argv[1], "executes"))
		return is_executed();
	if (!strcmp(argv[1], "escapes"))
		return escapes();
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigaddset(&set, SIGRTMIN + 2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGRTMIN + 2, &action, NULL);
	if (!tolerant) {
		event = eventfd(0, 0);
		epoll = epoll_create1(0);
		epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted);
		semaphore = semget(IPC_PRIVATE, 1, 0600);
		pthread_create(&taker, NULL, takes_signals, NULL);
		pthread_create(&others[0], NULL, waits_for_events, NULL);
		pthread_create(&others[1], NULL, times_out, NULL);
		pthread_create(&others[2], NULL, bears, NULL);
		pthread_create(&others[3], NULL, semaphores, NULL);
		pthread_create(&others[4], NULL, sends, &taker);
		/* This thread takes the handled ones. */
		sigdelset(&set, SIGRTMIN + 1);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	}
	for (size_t i = 0; i < THREADS; i++) {
		sigset_t all;
		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, &set);
		pthread_create(&connecting[i], NULL, connects, (void *)i);
		pthread_sigmask(SIG_SETMASK, &set, NULL);
	}
	printf("ready\n");
	for (;;) {
		ssize_t count = read(0, buffer, sizeof buffer);
		if (count == 0)
			break;
		if (count < 0)
			wrong("read: %s", strerror(errno));
	}
	ends = 1;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(connecting[i], NULL);
	if (!tolerant) {
		uint64_t one = 1;
		struct sembuf up = {0, 1, 0};
		union sigval last = {.sival_int = -1};
		pthread_join(others[4], NULL);
		semop(semaphore, &up, 1);
		if (write(event, &one, sizeof one) != sizeof one)
			wrong("eventfd: %s", strerror(errno));
		for (int i = 0; i < 1000 && taken < sent; i++)
			pause_for(1000);
		pthread_sigqueue(taker, SIGRTMIN + 1, last);
		pthread_join(taker, NULL);
		for (int i = 0; i < 4; i++)
			pthread_join(others[i], NULL);
		semctl(semaphore, 0, IPC_RMID);
		if (taken != sent || handled != sent)
			wrong("of %d signals %d were taken, %d handled", sent, taken, handled);
		if (!waits || !born || !timeouts || !sent)
			wrong("nothing was done: %d %d %d %d", waits, born, timeouts, sent);
	}
	printf("%s: %d connected, %d refused, %d born, %d signals\n", bad ? "failed" : "ok", connected, refused, born, sent);
	return bad != 0;
}
