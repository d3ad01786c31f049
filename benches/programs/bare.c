/* The cheapest supervisors that the kernel's interfaces allow: the limit that sockstrace is held against.
 * They judge nothing.
 *
 *   bare continue|perform PROGRAM [ARG]...
 *
 * connect is sent to a seccomp listener. `continue` copies the address and lets the call go; `perform`
 * connects a duplicate of the tracee's socket and answers with the result.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int install(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | (1UL << 5);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void supervise(int listener, int performs)
{
	int pidfd = -1;
	unsigned known = 0;
	for (;;) {
		struct seccomp_notif call;
		struct seccomp_notif_resp answer;
		memset(&call, 0, sizeof call);
		memset(&answer, 0, sizeof answer);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) {
			struct pollfd fd = { listener, POLLIN, 0 };
			if (poll(&fd, 1, 0) == 1 && fd.revents & POLLHUP)
				return;
			continue;
		}
		char address[128];
		size_t length = call.data.args[2] < sizeof address ? call.data.args[2] : sizeof address;
		struct iovec here = { address, length }, there = { (void *)call.data.args[1], length };
		process_vm_readv(call.pid, &here, 1, &there, 1, 0);
		answer.id = call.id;
		if (performs) {
			if (known != call.pid) {
				if (pidfd >= 0)
					close(pidfd);
				pidfd = syscall(SYS_pidfd_open, call.pid, 0x80 /* PIDFD_THREAD */);
				known = call.pid;
			}
			int fd = syscall(SYS_pidfd_getfd, pidfd, call.data.args[0], 0);
			answer.error = connect(fd, (void *)address, length) < 0 ? -errno : 0;
			close(fd);
		} else {
			answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		}
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

int main(int argc, char **argv)
{
	int channel[2], listener, status;
	if (argc < 3 || pipe(channel) < 0)
		return 2;
	/* The table of descriptors is shared until exec, and the listener with it. */
	pid_t child = syscall(SYS_clone, 0x400 /* CLONE_FILES */ | 17 /* SIGCHLD */, 0, 0, 0, 0);
	if (child == 0) {
		listener = install();
		if (write(channel[1], &listener, sizeof listener) != sizeof listener || listener < 0)
			_exit(1);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (read(channel[0], &listener, sizeof listener) != sizeof listener || listener < 0)
		return 1;
	supervise(listener, !strcmp(argv[1], "perform"));
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}
