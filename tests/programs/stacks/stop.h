/* Says that it is ready and waits for ever, or (with -DLEAK) leaks and ends: where the traces are taken. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef LEAK
#include <arpa/inet.h>
#include <sys/socket.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif
#ifdef LEAK
static __attribute__((noinline)) void stop(void)
{
	struct sockaddr_in to;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	to.sin_family = AF_INET;
	to.sin_port = htons(7777);
	to.sin_addr.s_addr = inet_addr("203.0.113.5");
	int connected = connect(fd, (struct sockaddr *)&to, sizeof to);
	int sent = (int)send(fd, "sockstrace-leak", 15, 0);
	printf("%d %d\n", connected, sent);
	exit(0);
}
#else
static __attribute__((noinline)) void stop(void)
{
	if (write(1, "ready\n", 6) != 6)
		exit(1);
	for (;;)
		pause();
}
#endif
#ifdef __cplusplus
}
#endif

/* Keeps a call from becoming a jump. */
#define NO_TAIL __asm__ volatile("" ::: "memory")
#define NOINLINE __attribute__((noinline))
#define INLINE inline __attribute__((always_inline))
