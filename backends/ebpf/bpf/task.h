// SPDX-License-Identifier: GPL-2.0-or-later
// Threads: who calls, whether that is wanted, and through which interface.
#pragma once

#include "filters.h"

INLINE u32 uid_of(struct task_struct *task)
{
	struct cred *cred = READ(task->cred);

	return READ(cred->uid.val);
}

// Of the running thread, as current_task_direct() gives it. (The helper would tell the number that its user namespace has for it.)
INLINE u32 own_uid_of(struct task_struct *task)
{
	return task->cred->uid.val;
}

// `task` as current_task_direct() gives it.
INLINE void copy_comm(u8 *to, struct task_struct *task)
{
	u64 *words = (u64 *)task->comm;
	u64 first = words[0], second = words[1];

	__builtin_memcpy(to, &first, 8);
	__builtin_memcpy(to + 8, &second, 8);
}

INLINE u32 netns_of(struct task_struct *task)
{
	struct nsproxy *proxy = READ(task->nsproxy);
	struct net *net = READ(proxy->net_ns);

	return READ(net->ns.inum);
}

// Whether what happens in a network namespace is reported. Of a socket it is that of its birth, wherever its user is.
INLINE int is_wanted_netns(u32 netns)
{
	return !(filters & BY_NETNS) || map_lookup(&netnses, &netns);
}

// Whether a thread's doings are reported, in whatever network namespace. `current`: it is the running one.
INLINE int is_wanted(struct task_struct *task, u32 tgid, u32 uid, int current)
{
	struct name name = {};
	u32 index;

	if (tgid == own_tgid)
		return 0;
	if ((filters & BY_TREE) && !map_lookup(&tree, &tgid))
		return 0;
	if ((filters & BY_UID) && !map_lookup(&uids, &uid))
		return 0;
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
	// In whose own place the result is when the call has ended.
	args[0] = regs->orig_x0;
	args[1] = regs->regs[1];
	args[2] = regs->regs[2];
	args[3] = regs->regs[3];
	args[4] = regs->regs[4];
	args[5] = regs->regs[5];
#endif
}

// Natively.
INLINE u64 fifth_argument(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs->r8;
#else
	return regs->regs[4];
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

// Whether the call of these registers has no result yet.
INLINE int is_in_call(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	// arch/x86/entry/entry_64.S: PUSH_AND_CLEAR_REGS rax=$-ENOSYS
	return (s64)regs->ax == -ENOSYS;
#else
	return regs->regs[0] == regs->orig_x0;
#endif
}

INLINE u8 operation_of(u32 number, int compat)
{
	u32 index = compat ? number + CALLS_OF_ABI : number;
	u8 *op;

	if (number >= CALLS_OF_ABI)
		return OP_NONE;
	op = map_lookup(&operations, &index);
	return op ? *op : OP_NONE;
}
