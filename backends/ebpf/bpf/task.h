// SPDX-License-Identifier: GPL-2.0-or-later
// Threads: who calls, whether that is wanted, and through which interface.
#pragma once

#include "maps.h"

INLINE u32 uid_of(struct task_struct *task)
{
	struct cred *cred = READ(task->cred);

	return READ(cred->uid.val);
}

INLINE u32 netns_of(struct task_struct *task)
{
	struct nsproxy *proxy = READ(task->nsproxy);
	struct net *net = READ(proxy->net_ns);

	return READ(net->ns.inum);
}

// Whether a thread's doings are reported. `current`: it is the running one.
INLINE int is_wanted(struct task_struct *task, u32 tgid, u32 uid, int current)
{
	struct name name = {};
	u32 netns, index;

	if (tgid == own_tgid)
		return 0;
	if ((filters & BY_TREE) && !map_lookup(&tree, &tgid))
		return 0;
	if ((filters & BY_UID) && !map_lookup(&uids, &uid))
		return 0;
	if (filters & BY_NETNS) {
		netns = netns_of(task);
		if (!map_lookup(&netnses, &netns))
			return 0;
	}
	if (filters & BY_NAME) {
		read_kernel(&name, sizeof(name), (void *)__builtin_preserve_access_index(&task->comm));
		if (!map_lookup(&names, &name))
			return 0;
	}
	if (filters & BY_CGROUP) {
		if (!current)
			return 0;
		for (index = 0; index < 64; index++) {
			if (index >= cgroup_count)
				return 0;
			if (current_under_cgroup(&cgroups, index) == 1)
				return 1;
		}
		return 0;
	}
	return 1;
}

// The interface of the current system call; `task` as current_task_direct() gives it (arch/x86/include/asm/thread_info.h: TS_COMPAT).
INLINE int is_compat(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return task->thread_info.status & 2;
#else
	return 0;
#endif
}

// `regs` is the tracepoint's own argument, which the kernel lets us look into directly.
INLINE void arguments(u64 *args, struct pt_regs *regs, int compat)
{
#if defined(__TARGET_ARCH_x86)
	if (compat) {
		args[0] = (u32)regs->bx;
		args[1] = (u32)regs->cx;
		args[2] = (u32)regs->dx;
		args[3] = (u32)regs->si;
		args[4] = (u32)regs->di;
		args[5] = (u32)regs->bp;
	} else {
		args[0] = regs->di;
		args[1] = regs->si;
		args[2] = regs->dx;
		args[3] = regs->r10;
		args[4] = regs->r8;
		args[5] = regs->r9;
	}
#else
	args[0] = regs->regs[0];
	args[1] = regs->regs[1];
	args[2] = regs->regs[2];
	args[3] = regs->regs[3];
	args[4] = regs->regs[4];
	args[5] = regs->regs[5];
#endif
}

// The number of the call that was entered so.
INLINE u32 call_number(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return (u32)regs->orig_ax;
#else
	return (u32)regs->syscallno;
#endif
}

INLINE u8 operation_of(u32 number, int compat)
{
	u8 *op = compat ? map_lookup(&compat_calls, &number) : map_lookup(&native_calls, &number);

	return op ? *op : OP_NONE;
}

// The operation behind a socketcall (net/socket.c, `__do_sys_socketcall`).
INLINE u8 multiplexed(u64 number)
{
	switch (number) {
	case 2:
		return OP_BIND;
	case 3:
		return OP_CONNECT;
	case 4:
		return OP_LISTEN;
	case 5:
		return OP_ACCEPT;
	case 9: // send: sendto without an address
	case 11:
		return OP_SENDTO;
	case 10: // recv
	case 12:
		return OP_RECVFROM;
	case 16:
		return OP_SENDMSG;
	case 17:
		return OP_RECVMSG;
	case 18:
		return OP_ACCEPT4;
	case 19:
		return OP_RECVMMSG;
	case 20:
		return OP_SENDMMSG;
	default:
		return OP_NONE;
	}
}

// Takes a socketcall apart. Its arguments lie in the caller's memory, which may not be there yet.
GLOBAL int take_apart(struct call *call)
{
	u32 args[6] = {};
	u8 op;

	if (!call)
		return 0;
	op = multiplexed(call->args[0]);
	if (op == OP_NONE)
		return 0;
	// The longest has six; the shortest end may lie at the end of a page.
	if (read_user(args, sizeof(args), (void *)call->args[1]) &&
	    read_user(args, 16, (void *)call->args[1]) && read_user(args, 12, (void *)call->args[1]) &&
	    read_user(args, 8, (void *)call->args[1]))
		return 0;
	if (call->args[0] == 9 || call->args[0] == 10) {
		args[4] = 0;
		args[5] = 0;
	}
	call->op = op;
	call->args[0] = args[0];
	call->args[1] = args[1];
	call->args[2] = args[2];
	call->args[3] = args[3];
	call->args[4] = args[4];
	call->args[5] = args[5];
	return 1;
}
