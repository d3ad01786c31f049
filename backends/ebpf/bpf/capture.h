// SPDX-License-Identifier: GPL-2.0-or-later
// Which calls move bytes between sockets and memory: their beginnings, where the socket behind the descriptor is
// noted, and their ends.
#pragma once

#include "transfers.h"

INLINE u8 step_of_socketcall(u64 number)
{
	switch (number) {
	case 3:
		return STEP_CONNECT;
	case 4:
		return STEP_LISTEN;
	case 5:
	case 18:
		return STEP_ACCEPT;
	case 8:
		return STEP_SOCKETPAIR;
	case 9: // send: sendto without an address
	case 11:
		return STEP_SENDTO;
	case 10: // recv
	case 12:
		return STEP_RECVFROM;
	case 16:
		return STEP_SENDMSG;
	case 17:
		return STEP_RECVMSG;
	case 19:
		return STEP_RECVMMSG;
	case 20:
		return STEP_SENDMMSG;
	default:
		return STEP_NONE;
	}
}

// Takes a socketcall apart: its arguments lie in memory (net/socket.c, `__do_sys_socketcall`).
INLINE int unpack(struct move *move)
{
	u32 args[6] = {};
	u64 number = move->args[0];

	move->step = step_of_socketcall(number);
	if (move->step == STEP_NONE)
		return 0;
	// The longest has six; the shortest end may lie at the end of a page.
	if (read_user(args, sizeof(args), (void *)move->args[1]) &&
	    read_user(args, 16, (void *)move->args[1]) && read_user(args, 12, (void *)move->args[1]) &&
	    read_user(args, 8, (void *)move->args[1]))
		return 0;
	if (number == 9 || number == 10) {
		args[4] = 0;
		args[5] = 0;
	}
	move->number = MULTIPLEXED | (u32)number;
	move->args[0] = args[0];
	move->args[1] = args[1];
	move->args[2] = args[2];
	move->args[3] = args[3];
	move->args[4] = args[4];
	move->args[5] = args[5];
	return 1;
}

INLINE int is_wanted_family(u32 family)
{
	return family < 64 && (families & (1ull << family));
}

// Notes the socket behind a descriptor, where it is one that is captured. Whether it is.
GLOBAL int meet(struct move *move, s32 fd)
{
	struct file *file = file_of_fd(current_task_direct(), fd);
	struct met new = {};
	struct sock *sk;
	u64 holder, inode;

	if (!move || !file)
		return 0;
	sk = sock_of_file(file);
	if (!sk || !is_wanted_family(family_of(sk)))
		return 0;
	move->fd = fd;
	move->sk = (u64)sk;
	// A copy: Linux 6.1 takes no key out of memory like `move`.
	inode = inode_of_file(file);
	move->inode = inode;
	if (!map_lookup(&sockets, &inode) && !map_update(&sockets, &inode, &new, ANY)) {
		holder = (u64)READ(file->private_data);
		map_update(&holders, &holder, &inode, ANY);
	}
	return 1;
}

// Where a sendfile begins to read.
INLINE void note_source(struct move *move, struct task_struct *task)
{
	struct file *file = file_of_fd(task, (s32)move->args[1]);
	u32 half = 0;

	if (!file)
		return;
	move->source_fd = (s32)move->args[1];
	move->source_inode = inode_of_file(file);
	if (!move->args[2]) {
		move->source_offset = READ(file->f_pos);
	} else if (move->step == STEP_SENDFILE && move->abi == ABI_COMPAT) {
		read_user(&half, 4, (void *)move->args[2]);
		move->source_offset = half;
	} else {
		read_user(&move->source_offset, 8, (void *)move->args[2]);
	}
}

// The socket that a call is about; `late`: it has ended already. Whether it is of interest.
GLOBAL int classify(struct move *move, int late)
{
	struct task_struct *task = current_task_direct();
	struct file *file;
	u64 inode;

	if (!move || (move->step == STEP_SOCKETCALL && !unpack(move)))
		return 0;
	// What stays to be read again, and what was never sent, is not told.
	if ((move->step == STEP_RECVFROM || move->step == STEP_RECVMSG || move->step == STEP_RECVMMSG) &&
	    (flags_of(move) & (MSG_PEEK | MSG_ERRQUEUE)))
		return 0;
	switch (move->step) {
	case STEP_SOCKETPAIR:
		return is_wanted_family((u32)move->args[0]);
	case STEP_SPLICE:
		move->out = 1;
		if (meet(move, (s32)move->args[2]))
			return 1;
		move->out = 0;
		break;
	case STEP_CLOSE:
		// Its number may be another's when it has ended.
		if (late)
			return 0;
		file = file_of_fd(task, (s32)move->args[0]);
		if (!file || !sock_of_file(file))
			return 0;
		inode = inode_of_file(file);
		if (!map_lookup(&sockets, &inode))
			return 0;
		break;
	case STEP_SENDFILE:
	case STEP_SENDFILE64:
		if (late)
			return 0;
		move->out = 1;
		note_source(move, task);
		break;
	case STEP_WRITE:
	case STEP_WRITEV:
	case STEP_SENDTO:
	case STEP_SENDMSG:
	case STEP_SENDMMSG:
		move->out = 1;
	}
	return meet(move, (s32)move->args[0]);
}

// Fills in what a call is. Whether it is of interest.
INLINE int begin(struct move *move, struct task_struct *task, struct pt_regs *regs, u32 number, u8 step, int late)
{
	int compat = is_compat(task);

	__builtin_memset(move, 0, sizeof(*move));
	move->step = step;
	move->number = number;
	move->abi = compat ? ABI_COMPAT : ABI_NATIVE;
	arguments(move->args, regs, compat);
	return classify(move, late);
}

struct batch {
	struct move *move;
};

// One message of a batch: its header, and the length that the kernel has put behind it.
SUBPROGRAM long tell_message(u32 index, struct batch *batch)
{
	struct move *move = batch->move;
	u64 entry = move->abi == ABI_COMPAT ? 32 : 64, after = move->abi == ABI_COMPAT ? 28 : 56;
	u64 at = move->args[1] + index * entry;
	u32 length = 0;

	read_user(&length, 4, (void *)(at + after));
	tell_call(move, at, length);
	return 0;
}

GLOBAL int end(struct move *move, s64 result)
{
	struct batch batch = { .move = move };
	s32 ends[2] = {};

	if (!move)
		return 0;

	// It comes again, or gives EINTR without having done anything.
	if (result <= -512 && result >= -516)
		return 0;
	switch (move->step) {
	case STEP_CONNECT:
		if (!result || result == -EINPROGRESS)
			tell_call(move, 0, 0);
		return 0;
	case STEP_LISTEN:
		if (!result)
			tell_call(move, 0, 0);
		return 0;
	case STEP_CLOSE:
		// Even where it fails the descriptor is gone (close(2)).
		tell_call(move, 0, 0);
		return 0;
	case STEP_ACCEPT:
		if (result >= 0 && meet(move, (s32)result))
			tell_call(move, 0, 0);
		return 0;
	case STEP_SOCKETPAIR:
		if (result || read_user(ends, sizeof(ends), (void *)move->args[3]))
			return 0;
		if (meet(move, ends[0]))
			tell_call(move, 0, 0);
		if (meet(move, ends[1]))
			tell_call(move, 0, 0);
		return 0;
	case STEP_RECVMMSG:
	case STEP_SENDMMSG:
		if (result < 0)
			break;
		// UIO_MAXIOV
		loop(result > 1024 ? 1024 : (u32)result, tell_message, &batch, 0);
		return 0;
	}
	if (result == -EAGAIN || result == -EINTR)
		return 0;
	tell_call(move, move->args[1], result);
	return 0;
}

SECTION("tp_btf/sys_enter") int move_begins(u64 *context)
{
	struct task_struct *task = current_task_direct();
	u32 number = (u32)context[1], tid, tgid, zero = 0;
	u8 step = operation_of(number, is_compat(task));
	struct move *move;

	if (step == STEP_NONE)
		return 0;
	tid = task->pid;
	tgid = task->tgid;
	if (!is_wanted(task, tgid, own_uid_of(task), 1) || !is_wanted_netns(netns_of(task)))
		return 0;
	move = map_lookup(&scratch_move, &zero);
	if (!move || !begin(move, task, (struct pt_regs *)context[0], number, step, 0))
		return 0;
	if (map_update(&moves, &tid, move, ANY))
		lose_record();
	return 0;
}

SECTION("tp_btf/sys_exit") int move_ends(u64 *context)
{
	struct task_struct *task = current_task_direct();
	struct pt_regs *regs = (struct pt_regs *)context[0];
	u32 tid = task->pid, tgid, number, zero = 0;
	struct move *move = map_lookup(&moves, &tid);
	u8 step;

	if (move) {
		end(move, (s64)context[1]);
		map_delete(&moves, &tid);
		return 0;
	}
	// One that was carried out by a supervisor on the caller's behalf was never entered.
	number = call_number(regs);
	step = operation_of(number, is_compat(task));
	if (step == STEP_NONE || (s64)context[1] < 0)
		return 0;
	tgid = task->tgid;
	if (!is_wanted(task, tgid, own_uid_of(task), 1) || !is_wanted_netns(netns_of(task)))
		return 0;
	move = map_lookup(&scratch_move, &zero);
	if (move && begin(move, task, regs, number, step, 1))
		end(move, (s64)context[1]);
	return 0;
}
