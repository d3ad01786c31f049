/* Never the same for long: threads that come and go, libraries' pages that do, and itself again and again. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static __attribute__((noinline)) int recurse(int depth)
{
	volatile char here[64];
	memset((char *)here, depth, sizeof here);
	if (depth == 0)
		usleep(50);
	else
		recurse(depth - 1);
	return here[3];
}

static void *thread(void *unused)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	recurse(20);
	munmap(page, 4096);
	return unused;
}

int main(int argc, char **argv)
{
	int left = argc > 1 ? atoi(argv[1]) : 0;
	for (int round = 0; round < 5; round++) {
		pthread_t ids[4];
		for (int n = 0; n < 4; n++)
			pthread_create(&ids[n], NULL, thread, NULL);
		for (int n = 0; n < 4; n++)
			pthread_join(ids[n], NULL);
	}
	if (left == 0)
		return 0;
	pthread_t last;
	pthread_create(&last, NULL, thread, NULL);
	char text[16];
	snprintf(text, sizeof text, "%d", left - 1);
	execl("/proc/self/exe", argv[0], text, NULL);
	return 1;
}
