/* The cheapest supervisors that the kernel's interfaces allow: the limit that sockstrace is held against.
 * They judge nothing.
 *
 *   bare continue|continue-sendmsg|perform|perform-near|trace-continue|trace-perform|filter PROGRAM [ARG]...
 *
 * connect is sent to a seccomp listener, or (trace-) stops for a tracer. `continue` copies the address and lets
 * the call go (-sendmsg: and takes and lets go each sendmsg); `perform` connects a duplicate of the tracee's socket and answers with the result; `-near` has the
 * kernel wake both on one processor (Linux 6.6). `filter` installs the filter and leaves the program alone.
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
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* What is intercepted besides connect. */
static unsigned also = SYS_connect;

static int install(unsigned action, unsigned long flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, also, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* connect(2) of the tracee, from here: 0 or -errno. */
static int perform(unsigned tid, int fd, void *address, size_t length)
{
	static int pidfd = -1;
	static unsigned known;
	if (known != tid) {
		if (pidfd >= 0)
			close(pidfd);
		pidfd = syscall(SYS_pidfd_open, tid, 0x80 /* PIDFD_THREAD */);
		known = tid;
	}
	int duplicate = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	int result = connect(duplicate, address, length) < 0 ? -errno : 0;
	close(duplicate);
	return result;
}

static size_t copy(unsigned tid, unsigned long from, unsigned long length, char *to, size_t room)
{
	struct iovec here = { to, length < room ? length : room }, there = { (void *)from, here.iov_len };
	process_vm_readv(tid, &here, 1, &there, 1, 0);
	return here.iov_len;
}

static void supervise(int listener, int performs)
{
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
		size_t length = copy(call.pid, call.data.args[1], call.data.args[2], address, sizeof address);
		answer.id = call.id;
		if (performs) {
			answer.error = perform(call.pid, call.data.args[0], address, length);
		} else {
			answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		}
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

static int trace(pid_t program, int performs)
{
	int status, outcome = 0;
	for (;;) {
		pid_t tid = waitpid(-1, &status, __WALL);
		if (tid < 0)
			return outcome;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (tid == program)
				outcome = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
			continue;
		}
		int event = status >> 16, signal = event ? 0 : WSTOPSIG(status);
		if (event == PTRACE_EVENT_SECCOMP) {
			struct __ptrace_syscall_info info;
			char address[128];
			ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info);
			size_t length = copy(tid, info.seccomp.args[1], info.seccomp.args[2], address, sizeof address);
			if (performs) {
				/* Cheaper than to fetch all registers and to put them back. */
				long result = perform(tid, info.seccomp.args[0], address, length);
				ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, orig_rax), -1L);
				ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, rax), result);
			}
		}
		ptrace(PTRACE_CONT, tid, 0, signal);
	}
}

int main(int argc, char **argv)
{
	int channel[2], listener, status;
	if (argc < 3 || pipe(channel) < 0)
		return 2;
	int performs = strstr(argv[1], "perform") != NULL;
	if (strstr(argv[1], "-sendmsg"))
		also = SYS_sendmsg;
	if (!strcmp(argv[1], "filter")) {
		install(SECCOMP_RET_ALLOW, 0);
		execvp(argv[2], argv + 2);
		return 127;
	}
	if (!strncmp(argv[1], "trace", 5)) {
		pid_t child = fork();
		if (child == 0) {
			char go;
			if (read(channel[0], &go, 1) != 1 || install(SECCOMP_RET_TRACE, 0) < 0)
				_exit(1);
			execvp(argv[2], argv + 2);
			_exit(127);
		}
		long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
		if (ptrace(PTRACE_SEIZE, child, 0, options | PTRACE_O_EXITKILL) < 0 || write(channel[1], "", 1) != 1)
			return 1;
		return trace(child, performs);
	}
	/* The table of descriptors is shared until exec, and the listener with it. */
	pid_t child = syscall(SYS_clone, 0x400 /* CLONE_FILES */ | 17 /* SIGCHLD */, 0, 0, 0, 0);
	if (child == 0) {
		listener = install(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER | (1UL << 5));
		if (write(channel[1], &listener, sizeof listener) != sizeof listener || listener < 0)
			_exit(1);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (read(channel[0], &listener, sizeof listener) != sizeof listener || listener < 0)
		return 1;
	if (strstr(argv[1], "-near") && ioctl(listener, SECCOMP_IOW(4, __u64), 1UL /* SYNC_WAKE_UP */) < 0)
		return 1;
	supervise(listener, performs);
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}
