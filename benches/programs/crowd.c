/* A guest that makes its supervisor (its parent) remember things, and prints what memory that one uses, in KiB.
 *
 *   crowd peak PROCESSES SOCKETS   so many processes and sockets at once, each used; the peak
 *   crowd growth PROCESSES CALLS   so many short processes with CALLS each, one after the other; what the last
 *                                  nine tenths of them added
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static long supervisor(const char *key)
{
	char path[64], line[256];
	long value = -1;
	snprintf(path, sizeof path, "/proc/%d/status", getppid());
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, key, strlen(key)))
			value = atol(line + strlen(key));
	if (file)
		fclose(file);
	return value;
}

static void use(int udp, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(udp, (void *)&to, sizeof to) < 0) {
		perror("connect");
		_exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int processes = atoi(argv[2]), many = atoi(argv[3]), status, ready[2];
	if (!strcmp(argv[1], "growth")) {
		long before = 0;
		for (int i = 0; i < processes; i++) {
			if (i == processes / 10)
				before = supervisor("VmRSS:");
			if (fork() == 0) {
				int udp = socket(AF_INET, SOCK_DGRAM, 0);
				for (int call = 0; call < many; call++)
					use(udp, 1 + (i * 31 + call) % 60000);
				_exit(0);
			}
			wait(&status);
			if (status)
				return 1;
		}
		printf("%ld\n", supervisor("VmRSS:") - before);
		return 0;
	}
	pid_t child[4096];
	if (processes < 1 || processes > 4096 || pipe(ready) < 0)
		return 2;
	for (int i = 0; i < processes; i++)
		if ((child[i] = fork()) == 0) {
			for (int socket_number = 0; socket_number < many / processes; socket_number++)
				use(socket(AF_INET, SOCK_DGRAM, 0), 9050);
			if (write(ready[1], "", 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
	char byte;
	for (int i = 0; i < processes; i++)
		if (read(ready[0], &byte, 1) != 1)
			return 1;
	printf("%ld\n", supervisor("VmHWM:"));
	for (int i = 0; i < processes; i++)
		kill(child[i], SIGKILL);
	while (wait(&status) > 0)
		;
	return 0;
}
