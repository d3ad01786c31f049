// SPDX-License-Identifier: GPL-2.0-or-later
// The programs that capture payloads. They know the processes of a tree by themselves: another object judges.

#include "capture.h"

SECTION("tp_btf/sched_process_fork") int member_born(u64 *context)
{
	struct task_struct *parent = (struct task_struct *)context[0];
	struct task_struct *child = (struct task_struct *)context[1];
	u32 from = READ(parent->tgid), to = READ(child->tgid);
	u8 known = IS_KNOWN;

	if (from == to || !(filters & BY_TREE) || !map_lookup(&tree, &from))
		return 0;
	if (map_update(&tree, &to, &known, ANY))
		lose_record();
	return 0;
}

SECTION("tp_btf/sched_process_exit") int member_gone(u64 *context)
{
	struct task_struct *task = (struct task_struct *)context[0];
	u32 tid = READ(task->pid), tgid = READ(task->tgid);
	struct signal_struct *signal = READ(task->signal);

	map_delete(&moves, &tid);
	if ((filters & BY_TREE) && READ(signal->live.counter) == 0)
		map_delete(&tree, &tgid);
	return 0;
}

SUBPROGRAM long tell_inherited(u32 fd, struct move *move)
{
	struct task_struct *task = current_task_direct();
	struct transfer *told;

	if (!meet(move, (s32)fd))
		return 0;
	told = reserve_transfer(TOLD_EXISTING, move->inode);
	if (!told) {
		lose_record();
		return 0;
	}
	told->fd = fd;
	describe_caller(told, task);
	describe_socket(told, (struct sock *)move->sk);
	submit(told);
	return 0;
}

SECTION("tp_btf/sched_process_exec") int program_starts(u64 *context)
{
	struct task_struct *task = current_task_direct();
	u32 zero = 0, *root = map_lookup(&starting, &zero);
	struct linux_binprm *program = (struct linux_binprm *)context[2];
	struct transfer *told;
	struct move move = {};
	long length;

	if (!root || !*root || *root != (u32)task->tgid)
		return 0;
	*root = 0;
	told = reserve_transfer(TOLD_READY, 0);
	if (told) {
		describe_caller(told, task);
		// With its NUL; what ended early has no executable to look at any more.
		length = read_kernel_string(told->to, sizeof(told->to), READ(program->filename));
		if (length > 1)
			told->to_length = length - 1;
		submit(told);
	} else {
		lose_record();
	}
	loop(most_descriptors, tell_inherited, &move, 0);
	return 0;
}

// Who is freed is held by nobody any more, neither by a descriptor nor by a message on its way. (raw_tp: tp_btf wants to
// know the types of arguments, and some kernels have void * there, which it doesn't take.)
SECTION("raw_tp/kmem_cache_free") int object_freed(u64 *context)
{
	u64 holder = context[1], *inode = map_lookup(&holders, &holder);
	struct transfer *told;
	struct met *met;
	u64 key;

	if (!inode)
		return 0;
	key = *inode;
	told = reserve_transfer(TOLD_GONE, key);
	if (told) {
		submit(told);
		map_delete(&sockets, &key);
	} else {
		met = map_lookup(&sockets, &key);
		if (met)
			met->gone = 1;
	}
	map_delete(&holders, &holder);
	return 0;
}

// Sockets that exist already.
SECTION("iter/task_file") int met_already(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct transfer *told;
	struct met new = {};
	struct sock *sk;
	u64 inode, holder;

	if (!task || !file)
		return 0;
	sk = sock_of_file(file);
	if (!sk || !is_wanted_family(family_of(sk)))
		return 0;
	if (context->fd >= most_descriptors || !is_wanted(task, READ(task->tgid), uid_of(task), 0) ||
	    !is_wanted_netns(netns_of(task)))
		return 0;
	inode = inode_of_file(file);
	// Of several descriptors the first is told.
	if (map_lookup(&sockets, &inode))
		return 0;
	if (map_update(&sockets, &inode, &new, ANY))
		return 0;
	holder = (u64)READ(file->private_data);
	map_update(&holders, &holder, &inode, ANY);
	told = reserve_transfer(TOLD_EXISTING, inode);
	if (!told) {
		lose_record();
		return 0;
	}
	told->fd = context->fd;
	describe_caller(told, task);
	describe_socket(told, sk);
	submit(told);
	return 0;
}

// The kernel lends its tracing helpers to programs under its own licence alone.
char licence[] SECTION("license") = "GPL";
