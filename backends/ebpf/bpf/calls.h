// SPDX-License-Identifier: GPL-2.0-or-later
// System calls: the addresses that the kernel copies on the way, and their end.
#pragma once

#include "refusals.h"

INLINE void clear(struct call *call)
{
	__builtin_memset(call, 0, __builtin_offsetof(struct call, name));
}

// What a thread asks for, by the registers of its call: the operation, OP_NONE where it is none that is looked at.
INLINE u8 look_at_registers(struct call *call, struct task_struct *task, struct pt_regs *regs, u8 op, int compat)
{
	clear(call);
	call->abi = compat ? ABI_COMPAT : ABI_NATIVE;
	call->tid = task->pid;
	call->tgid = task->tgid;
	call->uid = own_uid_of(task);
	copy_comm(call->comm, task);
	arguments(call->args, regs, compat);
	call->op = op;
	if (op == OP_SOCKETCALL && multiplexed(call->args[0]) == OP_NONE)
		call->op = OP_NONE;
	else if (op == OP_SOCKETCALL)
		take_apart(call);
	if (skips_unaddressed && call->op == OP_SENDTO && !call->args[4])
		call->op = OP_NONE;
	call->fd = (s32)call->args[0];
	return call->op;
}

// The same of the running thread, in a hook.
INLINE int begins(struct call *call)
{
	struct task_struct *task = current_task_direct();
	struct pt_regs *regs = registers_of(task);
	int compat = is_compat(task);
	u8 op = operation_of(call_number(regs), compat);

	// What a ring does after a call's end is done in no call.
	if (op == OP_NONE || !is_in_call(regs))
		return 0;
	// Nobody leaves the tree but by ending.
	if (filters != BY_TREE && !is_wanted(task, task->tgid, own_uid_of(task), 1))
		return 0;
	return look_at_registers(call, task, regs, op, compat);
}

// A call begins, as hooks on addresses see it, which have noted its socket.
GLOBAL int begin_with_address(struct call *call)
{
	struct sock *sk = call ? (struct sock *)call->sk : 0;

	if (!call || !begins(call))
		return 0;
	call->sk = (u64)sk;
	call->netns = number_of_netns(READ(sk->__sk_common.skc_net.net), current_task_direct());
	return 1;
}

// As others see it.
GLOBAL int begin(struct call *call)
{
	return call ? begins(call) : 0;
}

GLOBAL int look_at_descriptor(struct call *call)
{
	if (call && call->op != OP_IO_URING_ENTER && call->op != OP_SOCKETCALL)
		look_at(call, current_task_direct());
	return 0;
}

// Room for the calls of the running thread; those whose end tells all that there is to tell need none.
GLOBAL int make_room(void)
{
	struct task_struct *task = current_task_direct();
	struct pt_regs *regs = registers_of(task);
	u32 tid = task->pid;

	if (!is_in_call(regs) || operation_of(call_number(regs), is_compat(task)) == OP_NONE)
		return 0;
	if (!is_wanted(task, task->tgid, own_uid_of(task), 1))
		return 0;
	if (map_update(&calls, &tid, &no_call, ANY))
		count_lost();
	return 1;
}

// The entry for the calls of the running thread.
INLINE struct call *room_of(u32 tid)
{
	struct call *call = map_lookup(&calls, &tid);

	if (!call && make_room())
		call = map_lookup(&calls, &tid);
	return call;
}

// The call that the running thread is in.
INLINE struct call *call_of_thread(u32 tid)
{
	struct call *call = room_of(tid);

	if (!call || call->op != OP_NONE)
		return call;
	if (!begin(call))
		return 0;
	look_at_descriptor(call);
	return call;
}

// The same where a hook on addresses knows the socket.
INLINE struct call *call_at_socket(u32 tid, struct bpf_sock *sk)
{
	struct call *call = room_of(tid);

	if (!call || call->op != OP_NONE)
		return call;
	call->sk = (u64)sk;
	return begin_with_address(call) ? call : 0;
}

// One record a message; the last one is left to the caller.
GLOBAL int emit_batch(struct call *call, s64 count)
{
	u64 size = call && call->abi == ABI_COMPAT ? 32 : 64;
	u32 index;

	if (!call)
		return 0;
	for (index = 0; index < 1024; index++) {
		call->name_length = 0;
		call->source = FROM_NOWHERE;
		name_from_message(call, call->args[1] + index * size);
		if ((s64)index + 1 >= count)
			break;
		emit_call(call, 0, MORE);
	}
	return 0;
}

// Who leaks dies before it runs another instruction.
INLINE void punish(struct call *call)
{
	u8 *member;

	if (!kills())
		return;
	member = map_lookup(&tree, &call->tgid);
	if ((call->verdict & LEAKS) || (member && *member == DOOMED))
		send_signal(SIGKILL);
}

// Whether a hook has let it go, and nobody asks for that. Of several messages each has a verdict of its own.
INLINE int is_counted(struct call *call)
{
	return (counted_ops & (1u << call->op)) && (call->verdict & (JUDGED | LEAKS)) == JUDGED &&
	       !takes_message_batch(call->op);
}

// Whether a hook may have been asked about a call of these registers. Without judges there are but those on addresses.
INLINE int has_hooks(u8 op, struct pt_regs *regs, int compat)
{
	return judges || op != OP_SENDTO || compat || fifth_argument(regs);
}

SECTION("tp_btf/sys_exit") int sys_exit(u64 *context)
{
	struct task_struct *task = current_task_direct();
	struct pt_regs *regs = (struct pt_regs *)context[0];
	s64 result = (s64)context[1];
	int compat = is_compat(task);
	u8 op = operation_of(call_number(regs), compat);
	u32 tid, zero = 0, flags = HAS_RESULT;
	struct call *call;
	u8 *member;

	// Most calls are none of ours.
	if (op == OP_NONE)
		return 0;
	tid = task->pid;
	call = has_hooks(op, regs, compat) ? call_of(tid) : 0;
	// What a tracer has changed on the way.
	if (call && op != OP_SOCKETCALL && call->op != op) {
		call->op = OP_NONE;
		call = 0;
	}
	if (!call) {
		// No hook was asked about it.
		if ((op == OP_IO_URING_ENTER && !kills()) || !is_wanted(task, task->tgid, own_uid_of(task), 1))
			return 0;
		call = map_lookup(&scratch, &zero);
		if (!call || !look_at_registers(call, task, regs, op, compat))
			return 0;
		if (call->op != OP_IO_URING_ENTER && call->op != OP_SOCKETCALL)
			look_at(call, task);
	} else if (call->op == OP_SOCKETCALL && take_apart(call)) {
		call->fd = (s32)call->args[0];
		look_at(call, task);
	}
	if (call->op == OP_IO_URING_ENTER || call->op == OP_SOCKETCALL)
		goto out;
	note_service(call, task, result);
	if (!(wanted_ops & (1u << call->op)))
		goto out;
	if (is_counted(call)) {
		member = map_lookup(&tree, &call->tgid);
		if (member)
			count_passed(task, member);
		goto out;
	}
	// ERESTARTSYS and its kin: the call comes again, or gives EINTR; which of them isn't known yet.
	if (result <= -512 && result >= -516)
		flags = 0;
	if (call->source == FROM_NOWHERE) {
		if ((wanted_ops & (1u << OP_SENDMMSG | 1u << OP_RECVMMSG)) && takes_message_batch(call->op))
			emit_batch(call, result);
		else if (call->op != OP_SENDTO || call->args[4])
			name_at_exit(call, result);
	} else {
		complete_scope(call);
	}
	add_stack(call, regs);
	emit(call, result, flags);
out:
	punish(call);
	call->op = OP_NONE;
	return 0;
}

// The call on whose behalf a hook runs for such an operation; `knows_socket`: it is a hook on addresses, and this the socket.
INLINE struct call *call_behind(u8 op, int knows_socket, struct bpf_sock *sk)
{
	struct task_struct *task = current_task_direct();
	u32 tid = task->pid;
	struct io_worker *worker = 0;
	struct call *thread, *call;
	struct io_wq_work *work;
	u64 request;

	// A ring's own thread (SQPOLL) is marked as a worker too, but has no work queue.
	if (task->flags & PF_IO_WORKER)
		worker = READ(task->worker_private);
	if (worker) {
		work = READ(worker->cur_work);
		if (!work)
			return 0;
		request = (u64)work - OFFSET_OF(((struct io_kiocb *)0)->work);
	} else {
		thread = knows_socket ? call_at_socket(tid, sk) : call_of_thread(tid);
		if (!thread || thread->op != OP_IO_URING_ENTER)
			return thread;
		request = thread->connecting;
		call = op == OP_CONNECT ? map_lookup(&requests, &request) : 0;
		if (call)
			return call;
		request = thread->request;
	}
	return map_lookup(&requests, &request);
}

INLINE struct call *call_in_hook(u8 op)
{
	return call_behind(op, 0, 0);
}

// A further message of the same call begins.
INLINE void end_message(struct call *call)
{
	if (call->source != FROM_HOOK || !takes_message_batch(call->op))
		return;
	complete_scope(call);
	emit_call(call, 0, MORE);
	call->source = FROM_NOWHERE;
	call->name_length = 0;
	call->way = BY_DESTINATION;
	call->verdict &= ~(JUDGED | LEAKS);
}

// Multipath TCP where its first subflow is named.
INLINE u16 protocol_of(struct bpf_sock_addr *context)
{
	struct tcp_sock *tcp;

	if (context->protocol != IPPROTO_TCP)
		return context->protocol;
	tcp = tcp_sock_of(context->sk);
	return tcp && is_multipath(tcp) ? IPPROTO_MPTCP : IPPROTO_TCP;
}

INLINE int keep(struct call *call, struct bpf_sock_addr *context, int six, be32 ip4, const be32 *ip6, u16 port)
{
	u16 family = six ? AF_INET6 : AF_INET;

	end_message(call);
	__builtin_memset(call->name, 0, 28);
	__builtin_memcpy(call->name, &family, 2);
	__builtin_memcpy(call->name + 2, &port, 2);
	if (six) {
		__builtin_memcpy(call->name + 8, ip6, 16);
		call->name_length = 28;
	} else {
		__builtin_memcpy(call->name + 4, &ip4, 4);
		call->name_length = 16;
	}
	call->source = FROM_HOOK;
	// Another thread may have put another socket in the place of the one that was there when the call began. (What is
	// named is told of multipath TCP, not the subflow.)
	if (!call->has_socket || call->family != context->family || call->type != context->type) {
		call->has_socket = 1;
		call->family = context->family;
		call->type = context->type;
		call->protocol = protocol_of(context);
	}
	return 1;
}

INLINE int on_address(struct bpf_sock_addr *context, int six, u8 op)
{
	struct call *call = tells_refusals_alone ? 0 : call_behind(op, 1, context->sk);
	int verdict = 1;
	be32 ip4 = 0, ip6[4] = {};
	u16 port = context->user_port;

	if (!call && !judges)
		return 1;
	if (six) {
		ip6[0] = context->user_ip6[0];
		ip6[1] = context->user_ip6[1];
		ip6[2] = context->user_ip6[2];
		ip6[3] = context->user_ip6[3];
	} else {
		ip4 = context->user_ip4;
	}
	if (call)
		keep(call, context, six, ip4, ip6, port);
	if (judges && op != OP_NONE)
		verdict = judge(context, call, six, ip4, ip6, port, op);
	return verdict;
}

#define HOOK(name, six, op)                                                   \
	SECTION("cgroup/" #name) int on_##name(struct bpf_sock_addr *context) \
	{                                                                     \
		return on_address(context, six, op);                          \
	}

// What is bound and what is received goes nowhere.
HOOK(bind4, 0, OP_NONE)
HOOK(bind6, 1, OP_NONE)
HOOK(connect4, 0, OP_CONNECT)
HOOK(connect6, 1, OP_CONNECT)
HOOK(sendmsg4, 0, OP_SENDMSG)
HOOK(sendmsg6, 1, OP_SENDMSG)
HOOK(recvmsg4, 0, OP_NONE)
HOOK(recvmsg6, 1, OP_NONE)
