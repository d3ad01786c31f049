// SPDX-License-Identifier: GPL-2.0-or-later
// The verdict of the hooks: what is let go is counted, or told at its call's end; what is refused and has no such end is
// told here.
#pragma once

#include "diversions.h"
#include "emit.h"

// The call that the running thread is in, by the registers with which it entered it.
struct entry {
	u64 args[6];
	// Of a call or of a ring that is entered; 0 in a ring's own threads.
	struct pt_regs *regs;
	// OP_NONE: it is no call of these, or a ring's operation.
	u8 op;
	u8 abi;
	u8 of_ring;
};

INLINE void look_at_entry(struct entry *entry, struct task_struct *task)
{
	int compat = is_compat(task), works = !!(task->flags & PF_IO_WORKER);
	struct pt_regs *regs = registers_of(task);
	u32 words[6] = {};

	entry->op = works ? OP_IO_URING_ENTER : operation_of(call_number(regs), compat);
	entry->abi = compat ? ABI_COMPAT : ABI_NATIVE;
	entry->regs = works ? 0 : regs;
	if (entry->op == OP_IO_URING_ENTER) {
		entry->op = OP_NONE;
		entry->of_ring = 1;
		entry->abi = compat ? ABI_IO_URING_COMPAT : ABI_IO_URING;
		return;
	}
	arguments(entry->args, regs, compat);
	if (entry->op != OP_SOCKETCALL)
		return;
	entry->op = multiplexed(entry->args[0]);
	// Those that reach the hooks have two arguments (listen), three, or more.
	if (read_user(words, sizeof(words), (void *)entry->args[1]) && read_user(words, 12, (void *)entry->args[1]))
		read_user(words, 8, (void *)entry->args[1]);
	entry->args[0] = words[0];
	entry->args[1] = words[1];
	entry->args[2] = words[2];
	entry->args[3] = words[3];
	entry->args[4] = words[4];
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

// What is refused.
struct refusal_of {
	struct socket_kind kind;
	// A destination, or what is bound; 0: there is none.
	const struct prefix *to;
	// Or an address that no rule knows, of a length that isn't 0: a UNIX socket's name, a sockaddr_un,
	const u8 *name;
	// or, where that is 0, a struct sockaddr_vm; no more is kept of other families.
	u8 other[16];
	// Or the address that a socket is bound to.
	struct sock *bound;
	u16 name_length;
	u16 port;
	// `enum way`
	u8 way;
	// What the hook sees of the operation.
	u8 op;
};

#define UNIX_NAME 110

// An address that no rule knows; its length.
INLINE u16 write_unruled(u8 *to, const struct refusal_of *what)
{
	if (what->name)
		__builtin_memcpy(to, what->name, UNIX_NAME);
	else
		__builtin_memcpy(to, what->other, sizeof(what->other));
	return what->name_length;
}

INLINE void emit_refusal(const struct refusal_of *what, struct entry *entry)
{
	int refuses = judges > JUDGE_ONLY || is_ending();
	struct record *record = reserve(KIND_CALL);
	struct task_struct *task = current_task_direct();
	u64 time, pointer;

	if (!record)
		return;
	record->tgid = task->tgid;
	record->tid = task->pid;
	record->uid = uid_of(task);
	read_kernel(record->comm, sizeof(record->comm), (void *)__builtin_preserve_access_index(&task->comm));
	record->result = refuses ? -(s64)refusal : 0;
	record->fd = -1;
	record->op = what->op;
	record->abi = entry->of_ring ? entry->abi : ABI_UNKNOWN;
	record->flags = (refuses ? HAS_RESULT : 0) | HAS_SOCKET | JUDGED | LEAKS;
	record->family = what->kind.family;
	record->type = what->kind.type;
	record->protocol = what->kind.protocol;
	record->way = what->way;
	record->source = what->to || what->name_length ? FROM_HOOK : FROM_NOWHERE;
	if (what->to) {
		record->name_length = write_name(record->name, what->to, what->port);
	} else if (what->name_length) {
		record->name_length = write_unruled(record->name, what);
	} else {
		record->name_length = 0;
	}
	if (what->bound && is_inet(what->kind.family)) {
		local_of(&record->local, what->bound, what->kind.family);
		record->flags |= HAS_LOCAL;
	}
	if (entry->op != OP_NONE) {
		record->op = entry->op;
		record->abi = entry->abi;
		record->fd = (s32)entry->args[0];
		record->message_flags = message_flags_of(entry->op, entry->args);
		if (record->name_length == 28 && is_scoped(record->name)) {
			pointer = name_of(entry->op, entry->args, entry->abi);
			if (pointer)
				add_scope(record->name, pointer);
		}
	}
	if (tells_refusals_alone && wanted_stacks && entry->regs && (entry->op != OP_NONE || entry->of_ring)) {
		time = emit_stack(record->tid, entry->regs);
		if (time) {
			record->time = time;
			record->flags |= HAS_STACK;
		}
	}
	submit(record);
}

// What is let go and not told: that it was, and who it was when he hadn't done it before.
INLINE void count_passed(struct task_struct *task, u8 *member, u8 op)
{
	struct record *record;
	u32 zero = 0;
	u64 *count;

	if (!(counted_ops & (1u << op)))
		return;
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
	struct entry entry = {};
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
	if (tells_refusals_alone)
		look_at_entry(&entry, task);
	if (!leaks || (judges == JUDGE_ONLY && !ending)) {
		if (tells_refusals_alone)
			count_passed(task, member, entry.of_ring ? op : entry.op);
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
		// Of calls, those that aren't followed to their end are told as of unknown origin, and ended by who hears it.
		if (!tells_refusals_alone)
			look_at_entry(&entry, task);
		if (!tells_refusals_alone && !entry.of_ring)
			entry.op = OP_NONE;
		what.kind.family = context->family;
		what.kind.type = context->type;
		what.kind.protocol = context->protocol;
		what.to = &to;
		what.port = port;
		what.op = op;
		emit_refusal(&what, &entry);
	}
	if (refusal != EPERM)
		set_return(-(int)refusal);
	return 0;
}

