// SPDX-License-Identifier: GPL-2.0-or-later
// The verdict of the hooks: what is let go is counted, or told at its call's end; what is refused and has no such end is
// told here.
#pragma once

#include "diversions.h"
#include "emit.h"

// The call that the running thread is in, by the registers with which it entered it.
struct entry {
	u64 args[6];
	// OP_NONE: it is no call of these, or a ring's operation.
	u16 op;
	u16 abi;
	u16 of_ring;
	// Not so in a ring's own threads.
	u16 has_registers;
};

GLOBAL int look_at_entry(struct entry *entry)
{
	struct task_struct *task = current_task_direct();
	int compat = is_compat(task), works = !!(task->flags & PF_IO_WORKER);
	struct pt_regs *regs = registers_of(task);
	u32 words[6] = {};

	if (!entry)
		return 0;
	entry->op = works ? OP_IO_URING_ENTER : operation_of(call_number(regs), compat);
	entry->abi = compat ? ABI_COMPAT : ABI_NATIVE;
	entry->has_registers = !works;
	if (entry->op == OP_IO_URING_ENTER) {
		entry->op = OP_NONE;
		entry->of_ring = 1;
		entry->abi = compat ? ABI_IO_URING_COMPAT : ABI_IO_URING;
		return 1;
	}
	arguments(entry->args, regs, compat);
	if (entry->op != OP_SOCKETCALL)
		return 1;
	entry->op = multiplexed(entry->args[0]);
	// Those that reach the hooks have two arguments (listen), three, or more.
	if (read_user(words, sizeof(words), (void *)entry->args[1]) && read_user(words, 12, (void *)entry->args[1]))
		read_user(words, 8, (void *)entry->args[1]);
	entry->args[0] = words[0];
	entry->args[1] = words[1];
	entry->args[2] = words[2];
	entry->args[3] = words[3];
	entry->args[4] = words[4];
	return 1;
}

// What a socket is.
struct socket_kind {
	u16 family;
	u16 type;
	u16 protocol;
};

// An address as a sockaddr; its length.
INLINE u16 write_name(u8 *name, const struct prefix *to, u16 port)
{
	int four = is_ip4(to);
	u16 family = four ? AF_INET : AF_INET6;

	__builtin_memset(name, 0, 28);
	__builtin_memcpy(name, &family, 2);
	__builtin_memcpy(name + 2, &port, 2);
	if (four)
		__builtin_memcpy(name + 4, to->ip + 12, 4);
	else
		__builtin_memcpy(name + 8, to->ip, 16);
	return four ? 16 : 28;
}

// Whether a call that is refused now is not told at its end.
INLINE int is_untold(struct call *call)
{
	return !call || (!is_request(call) && !(wanted_ops & (1u << call->op)));
}

// sizeof(struct sockaddr_in6), and what fills the structure up
#define LONGEST_NAME 30

// What is refused. Without padding: the verifier of Linux 6.1 wants each byte of what a subprogram is given.
struct refusal_of {
	struct socket_kind kind;
	// `enum way`
	u8 way;
	// What the hook sees of the operation.
	u8 op;
	// The socket, where the hook knows it.
	u64 sk;
	// The UNIX socket that it is about, or 0.
	u64 listener;
	// Or the address; 0: there is none, or it is the socket's own.
	u16 name_length;
	u8 name[LONGEST_NAME];
};

// The address that it is about; its length.
INLINE u16 copy_name(u8 *to, const struct refusal_of *what)
{
	if (what->listener)
		return unix_name((struct sock *)what->listener, to);
	__builtin_memcpy(to, what->name, LONGEST_NAME);
	return what->name_length;
}

INLINE void name_refused(struct refusal_of *what, const struct prefix *to, u16 port)
{
	what->name_length = write_name(what->name, to, port);
}

// Tells of it. With `names_call` it is told of the call by which the running thread entered the kernel.
GLOBAL int emit_refusal(struct refusal_of *what, u32 names_call)
{
	int refuses = judges > JUDGE_ONLY || is_ending();
	struct task_struct *task = current_task_direct();
	struct entry entry = {};
	struct record *record;
	u64 time, pointer;

	if (!what)
		return 0;
	record = reserve(KIND_CALL);
	if (!record)
		return 0;
	look_at_entry(&entry);
	if (!names_call && !entry.of_ring)
		entry.op = OP_NONE;
	record->tgid = task->tgid;
	record->tid = task->pid;
	record->uid = uid_of(task);
	read_kernel(record->comm, sizeof(record->comm), (void *)__builtin_preserve_access_index(&task->comm));
	record->result = refuses ? -(s64)refusal : 0;
	record->fd = -1;
	record->op = what->op;
	record->abi = entry.of_ring ? entry.abi : ABI_UNKNOWN;
	record->flags = (refuses ? HAS_RESULT : 0) | HAS_SOCKET | JUDGED | LEAKS;
	record->family = what->kind.family;
	record->type = what->kind.type;
	record->protocol = what->kind.protocol;
	record->way = what->way;
	record->name_length = copy_name(record->name, what);
	record->source = record->name_length ? FROM_HOOK : FROM_NOWHERE;
	if (what->sk && (what->op == OP_LISTEN || what->op == OP_ACCEPT) && is_inet(what->kind.family)) {
		local_of(&record->local, (struct sock *)what->sk, what->kind.family);
		record->flags |= HAS_LOCAL;
	}
	if (entry.op != OP_NONE) {
		record->op = entry.op;
		record->abi = entry.abi;
		record->fd = (s32)entry.args[0];
		record->message_flags = message_flags_of(entry.op, entry.args);
		if (record->name_length == 28 && is_scoped(record->name)) {
			pointer = name_of(entry.op, entry.args, entry.abi);
			if (pointer)
				add_scope(record->name, pointer);
		}
	}
	if (tells_refusals_alone && wanted_stacks && entry.has_registers && (entry.op != OP_NONE || entry.of_ring)) {
		time = emit_stack(record->tid, registers_of(task));
		if (time) {
			record->time = time;
			record->flags |= HAS_STACK;
		}
	}
	submit_call(record);
	return 1;
}

// What a thread is at of which a hook sees `op`: the call that it is in, or that, of a ring.
GLOBAL int operation_in_hook(u32 op)
{
	struct entry entry = {};

	look_at_entry(&entry);
	return entry.of_ring ? op : entry.op;
}

// What is let go and not told: that it was, and who it was when he hadn't done it before.
INLINE void count_passed(struct task_struct *task, u8 *member)
{
	struct record *record;
	u32 zero = 0;
	u64 *count;

	count = map_lookup(&passed, &zero);
	// Hooks are preempted by others on the same processor.
	if (count)
		__sync_fetch_and_add(count, 1);
	if (*member == HAS_ACTED)
		return;
	record = reserve(KIND_ACTED);
	if (!record)
		return;
	*member = HAS_ACTED;
	record->tgid = task->tgid;
	record->tid = task->pid;
	submit(record);
}

// The same in a hook that sees `in_hook`.
INLINE void count_in_hook(struct task_struct *task, u8 *member, u8 in_hook)
{
	if (counted_ops & (1u << operation_in_hook(in_hook)))
		count_passed(task, member);
}

INLINE int kills(void)
{
	return judges == KILL || judges == KILL_TREE;
}

// Whether it is such an operation that a hook is asked about: a ring may be at another one than it took last (links),
// and be at work at the end of any call.
INLINE int fits(struct call *call, u8 op)
{
	switch (op) {
	case OP_SENDMSG:
		return call->op == OP_SENDMSG || call->op == OP_SENDTO || call->op == OP_SENDMMSG;
	case OP_ACCEPT:
		return call->op == OP_ACCEPT || call->op == OP_ACCEPT4;
	case OP_SOCKET:
	case OP_SETSOCKOPT:
		return 0;
	default:
		return call->op == op || call->op == OP_SOCKETCALL;
	}
}

// The point of verdict: 0 refuses.
INLINE int judge(struct bpf_sock_addr *context, struct call *call, int six, be32 ip4, const be32 *ip6, u16 port, u8 op)
{
	struct task_struct *task = current_task_direct();
	struct prefix to = { .length = 128 };
	struct refusal_of what = {};
	u32 tgid = task->tgid;
	u8 *member, diversion = NOT_ASKED;
	int leaks, ending;

	member = map_lookup(&tree, &tgid);
	if (!member)
		return 1;
	// Whether there is a call is to be read from the pointer itself, as the verifier follows that.
	asm volatile("" : "+r"(call));
	if (six) {
		__builtin_memcpy(to.ip, ip6, 16);
	} else {
		set_ip4(&to, ip4);
	}
	leaks = !is_allowed(&to, context->protocol, port);
	// Also where leaks are only recorded: nobody records any more.
	ending = is_ending();
	leaks |= ending;
	if (call && leaks && is_request(call) && !fits(call, op))
		call = 0;
	if (call)
		call->verdict |= leaks ? JUDGED | LEAKS : JUDGED;
	if (!leaks || (judges == JUDGE_ONLY && !ending)) {
		if (tells_refusals_alone)
			count_in_hook(task, member, op);
		return 1;
	}
	if (judges == KILL_TREE)
		end_tree();
	// Of what is over nobody waits for an answer any more.
	if ((holes4 || holes6) && !ending) {
		diversion = op == OP_CONNECT ? divert(context, tgid, task->pid, six, ip4, ip6, port) : NO_STREAM;
		if (call)
			call->diversion = diversion;
		if (diversion == DIVERTED)
			return 1;
		if (diversion == TO_A_GROUP) {
			set_return(-ENETUNREACH);
			return 0;
		}
	}
	// At the end of the call, or of a ring's operation.
	if (kills())
		*member = DOOMED;
	if (is_untold(call)) {
		what.kind.family = context->family;
		what.kind.type = context->type;
		what.kind.protocol = context->protocol;
		what.op = op;
		name_refused(&what, &to, port);
		// Of calls, those that aren't followed to their end are told as of unknown origin, and ended by who hears it.
		emit_refusal(&what, tells_refusals_alone);
	}
	if (refusal != EPERM)
		set_return(-(int)refusal);
	return 0;
}

