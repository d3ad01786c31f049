// SPDX-License-Identifier: GPL-2.0-or-later
// The verdict of the hooks: what is let go is counted, or told at its call's end; what is refused and has no such end is
// told here.
#pragma once

#include "diversions.h"
#include "emit.h"

// The call that the running thread is in, by the registers with which it entered it.
struct entry {
	u64 args[6];
	struct pt_regs *regs;
	u8 op;
	u8 abi;
};

// Not of what a ring's worker does: that is no call.
INLINE void look_at_entry(struct entry *entry, struct task_struct *task)
{
	int compat = is_compat(task);
	u32 words[6] = {};

	entry->regs = registers_of(task);
	entry->abi = compat ? ABI_COMPAT : ABI_NATIVE;
	entry->op = task->flags & PF_IO_WORKER ? OP_NONE : operation_of(call_number(entry->regs), compat);
	arguments(entry->args, entry->regs, compat);
	if (entry->op != OP_SOCKETCALL)
		return;
	entry->op = multiplexed(entry->args[0]);
	// Those that reach the hooks have three arguments at least: the descriptor, and an address or a message.
	if (read_user(words, sizeof(words), (void *)entry->args[1]))
		read_user(words, 12, (void *)entry->args[1]);
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

// `to` may be 0: there is no address.
INLINE void emit_refusal(const struct socket_kind *kind, struct entry *entry, const struct prefix *to, u16 port, u8 way,
			 u8 op)
{
	struct record *record = reserve(KIND_CALL);
	struct task_struct *task = current_task_direct();
	u64 time, pointer;

	if (!record)
		return;
	record->tgid = task->tgid;
	record->tid = task->pid;
	record->uid = uid_of(task);
	read_kernel(record->comm, sizeof(record->comm), (void *)__builtin_preserve_access_index(&task->comm));
	record->result = -(s64)refusal;
	record->fd = -1;
	record->op = op;
	record->abi = ABI_UNKNOWN;
	record->source = to ? FROM_HOOK : FROM_NOWHERE;
	record->flags = HAS_RESULT | HAS_SOCKET | JUDGED | LEAKS;
	record->family = kind->family;
	record->type = kind->type;
	record->protocol = kind->protocol;
	record->way = way;
	record->name_length = to ? write_name(record->name, to, port) : 0;
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
		if (tells_refusals_alone && wanted_stacks) {
			time = emit_stack(record->tid, entry->regs);
			if (time) {
				record->time = time;
				record->flags |= HAS_STACK;
			}
		}
	}
	ring_submit(record, 0);
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
	ring_submit(record, 0);
}

// The point of verdict: 0 refuses.
INLINE int judge(struct bpf_sock_addr *context, struct call *call, int six, be32 ip4, const be32 *ip6, u16 port, u8 op)
{
	struct task_struct *task = current_task_direct();
	struct prefix to = { .length = 128 };
	struct socket_kind kind;
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
	if (call)
		call->verdict |= leaks ? JUDGED | LEAKS : JUDGED;
	if (tells_refusals_alone)
		look_at_entry(&entry, task);
	if (!leaks || (judges == JUDGE_ONLY && !ending)) {
		if (tells_refusals_alone)
			count_passed(task, member, entry.op);
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
	if (is_untold(call)) {
		kind.family = context->family;
		kind.type = context->type;
		kind.protocol = context->protocol;
		emit_refusal(&kind, &entry, &to, port, BY_DESTINATION, op);
	}
	if (refusal != EPERM)
		set_return(-(int)refusal);
	return 0;
}

