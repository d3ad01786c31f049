// SPDX-License-Identifier: GPL-2.0-or-later
// From a call to the record of it.
#pragma once

#include "modules.h"
#include "rings.h"
#include "rules.h"
#include "socket.h"
#include "socketcall.h"

// The call that a thread is in.
INLINE struct call *call_of(u32 tid)
{
	struct call *call = map_lookup(&calls, &tid);

	return call && call->op != OP_NONE ? call : 0;
}

INLINE int is_request(struct call *call)
{
	return call->abi == ABI_IO_URING || call->abi == ABI_IO_URING_COMPAT;
}

INLINE void count_lost(void)
{
	u32 zero = 0;
	u64 *count = map_lookup(&lost, &zero);

	// Hooks are preempted by others on the same processor.
	if (count)
		__sync_fetch_and_add(count, 1);
}

INLINE struct record *reserve(u32 kind)
{
	struct record *record = ring_reserve(&ring, sizeof(struct record), 0);

	if (!record) {
		count_lost();
		return 0;
	}
	__builtin_memset(record, 0, __builtin_offsetof(struct record, name));
	record->kind = kind;
	record->time = ktime();
	return record;
}

// Who reads it is woken for a stack, at once: the mappings that it lies in go when its process ends.
INLINE void submit_call(struct record *record)
{
	if (record->flags & HAS_STACK)
		ring_submit(record, FORCE_WAKEUP);
	else
		submit(record);
}

// Copies a sockaddr of `length` bytes from user memory into the call.
GLOBAL int name_from_user(struct call *call, u64 address, s64 length)
{
	u32 bytes;

	if (!call || !address || length <= 0)
		return 0;
	bytes = length > (s64)sizeof(call->name) ? sizeof(call->name) : (u32)length;
	if (bytes > sizeof(call->name))
		return 0;
	if (read_user(call->name, bytes, (void *)address))
		return 0;
	call->name_length = bytes;
	call->source = FROM_USER;
	return 1;
}

// The name in a struct msghdr at `header`.
GLOBAL int name_from_message(struct call *call, u64 header)
{
	u64 pointer = 0;
	u32 half = 0;
	s32 length = 0;

	if (!call)
		return 0;
	if (call->abi == ABI_COMPAT) {
		read_user(&half, 4, (void *)header);
		pointer = half;
		read_user(&length, 4, (void *)(header + 4));
	} else {
		read_user(&pointer, 8, (void *)header);
		read_user(&length, 4, (void *)(header + 8));
	}
	return name_from_user(call, pointer, length);
}

INLINE int takes_message_batch(u8 op)
{
	return op == OP_SENDMMSG || op == OP_RECVMMSG;
}

// What the caller gave, or got, where no hook told it: its memory, read at the call's end, when the kernel has
// just used it.
GLOBAL int name_at_exit(struct call *call, s64 result)
{
	s32 length = 0;

	if (!call)
		return 0;
	switch (call->op) {
	case OP_BIND:
	case OP_CONNECT:
		return name_from_user(call, call->args[1], (s32)call->args[2]);
	case OP_SENDTO:
		return name_from_user(call, call->args[4], (s32)call->args[5]);
	case OP_SENDMSG:
		return name_from_message(call, call->args[1]);
	case OP_RECVFROM:
		if (result < 0 || !call->args[4])
			return 0;
		read_user(&length, sizeof(length), (void *)call->args[5]);
		return name_from_user(call, call->args[4], length);
	case OP_RECVMSG:
		if (result < 0)
			return 0;
		return name_from_message(call, call->args[1]);
	}
	return 0;
}

// A sockaddr_in6 has room for a scope that the hooks don't tell. The caller's memory does, if it still holds
// the address that the kernel copied.
SUBPROGRAM int add_scope(u8 *name, u64 address)
{
	u8 given[28] = {};
	u64 a, b;

	if (!address || read_user(given, sizeof(given), (void *)address))
		return 0;
	if (__builtin_memcmp(given + 2, name + 2, 2))
		return 0;
	__builtin_memcpy(&a, given + 8, 8);
	__builtin_memcpy(&b, name + 8, 8);
	if (a != b)
		return 0;
	__builtin_memcpy(&a, given + 16, 8);
	__builtin_memcpy(&b, name + 16, 8);
	if (a != b)
		return 0;
	__builtin_memcpy(name + 24, given + 24, 4);
	return 1;
}

GLOBAL int scope_from_user(struct call *call, u64 address)
{
	return call ? add_scope(call->name, address) : 0;
}

// Link-local unicast, or multicast of interface or link scope: only these heed a scope
// (`__ipv6_addr_needs_scope_id`).
INLINE int is_scoped(const u8 *name)
{
	u8 first = name[8], second = name[9];

	return (first == 0xfe && (second & 0xc0) == 0x80) ||
	       (first == 0xff && ((second & 0xf) == 1 || (second & 0xf) == 2));
}

INLINE int heeds_scope(struct call *call)
{
	return call->source == FROM_HOOK && call->name_length == 28 && is_scoped(call->name);
}

// Where a call's address lies in the caller's memory; of several messages that of the first.
INLINE u64 name_of(u8 op, const u64 *args, u8 abi)
{
	u64 pointer = 0;
	u32 half = 0;

	switch (op) {
	case OP_BIND:
	case OP_CONNECT:
		return args[1];
	case OP_SENDTO:
	case OP_RECVFROM:
		return args[4];
	default:
		if (abi == ABI_COMPAT) {
			read_user(&half, 4, (void *)args[1]);
			return half;
		}
		read_user(&pointer, 8, (void *)args[1]);
		return pointer;
	}
}

INLINE u32 message_flags_of(u8 op, const u64 *args)
{
	switch (op) {
	case OP_SENDMSG:
		return args[2];
	case OP_SENDTO:
	case OP_SENDMMSG:
		return args[3];
	default:
		return 0;
	}
}

INLINE void complete_scope(struct call *call)
{
	if (heeds_scope(call) && !is_request(call))
		scope_from_user(call, name_of(call->op, call->args, call->abi));
}

INLINE int is_inet(u16 family)
{
	return family == AF_INET || family == AF_INET6;
}

INLINE void emit(struct call *call, s64 result, u32 flags)
{
	struct record *record;
	struct sock *sk;
	u32 length;

	if (!is_wanted_netns(call->netns))
		return;
	record = reserve(KIND_CALL);
	if (!record)
		return;
	record->tgid = call->tgid;
	record->tid = call->tid;
	record->uid = call->uid;
	__builtin_memcpy(record->comm, call->comm, sizeof(record->comm));
	record->result = result;
	record->fd = call->fd;
	record->netns = call->netns;
	record->op = call->op;
	record->abi = call->abi;
	record->source = call->source;
	record->flags = flags | call->verdict;
	record->way = call->way;
	record->diversion = call->diversion;
	if (call->verdict & HAS_STACK)
		record->time = call->stack_time;
	if (call->has_socket) {
		record->flags |= HAS_SOCKET;
		record->family = call->family;
		record->type = call->type;
		record->protocol = call->protocol;
	}
	record->name_length = call->name_length;
	__builtin_memcpy(record->name, call->name, sizeof(record->name));
	record->message_flags = message_flags_of(call->op, call->args);
	sk = (struct sock *)call->sk;
	if (sk && is_inet(call->family)) {
		ends_of(&record->local, &record->peer, call->accepted ? (struct sock *)call->accepted : sk, call->family);
		if (call->accepted)
			local_of(&record->local, sk, call->family);
		record->flags |= HAS_LOCAL;
		if (record->peer.port)
			record->flags |= HAS_PEER;
	} else if (sk && call->family == AF_UNIX && !call->name_length) {
		// The peer's name for what has one; a listening socket's own.
		if (call->op != OP_LISTEN && call->op != OP_BIND)
			sk = unix_peer(sk);
		length = sk ? unix_name(sk, record->name) : 0;
		if (length && length <= sizeof(record->name)) {
			record->name_length = length;
			record->source = FROM_SOCKET;
		}
	}
	submit_call(record);
}

GLOBAL int emit_call(struct call *call, s64 result, u32 flags)
{
	if (call)
		emit(call, result, flags);
	return 0;
}

// The caller's stack; the time that the call's record is to have, 0 where there is no room for it.
INLINE u64 emit_stack(u32 tid, struct pt_regs *regs)
{
	struct stack *stack = ring_reserve(&stacks, sizeof(struct stack), 0);
	u32 index, length = 0;
	u64 base, time;

	if (!stack)
		return 0;
	time = ktime();
	// From the red zone on.
	base = regs->sp - 128;
	for (index = 0; index < CHUNKS; index++) {
		if (read_user(stack->bytes + index * CHUNK, CHUNK, (void *)(base + index * CHUNK)))
			break;
		length += CHUNK;
	}
	stack->kind = KIND_STACK;
	stack->tid = tid;
	stack->time = time;
	stack->base = base;
	stack->length = length;
	stack->padding = 0;
	note_modules(&stack->modules);
	read_kernel(stack->registers, USER_REGISTERS, regs);
	// Its call's record follows.
	ring_submit(stack, NO_WAKEUP);
	return time;
}

INLINE void add_stack(struct call *call, struct pt_regs *regs)
{
	u64 time;

	if (!wanted_stacks || (wanted_stacks == STACKS_OF_LEAKS && !(call->verdict & LEAKS)))
		return;
	time = emit_stack(call->tid, regs);
	if (time) {
		call->stack_time = time;
		call->verdict |= HAS_STACK;
	}
}

INLINE void note_owner(struct call *call, struct sock *sk)
{
	struct owner owner = {};
	u64 key = (u64)sk;

	if (!wanted_states || !key || !is_inet(call->family) || call->type != SOCK_STREAM)
		return;
	owner.tgid = call->tgid;
	owner.tid = call->tid;
	owner.uid = call->uid;
	__builtin_memcpy(owner.comm, call->comm, sizeof(owner.comm));
	map_update(&owners, &key, &owner, ANY);
}

// The service at a socket's local address.
SUBPROGRAM void service_of(struct service *service, struct sock *sk, u16 family)
{
	struct endpoint local = {};

	local_of(&local, sk, family);
	service->netns = netns_of_sock(sk);
	service->port = local.port;
	__builtin_memset(service->ip, 0, 16);
	if (family == AF_INET)
		map_ip4(service->ip, *(be32 *)local.ip);
	else
		__builtin_memcpy(service->ip, local.ip, 16);
}

INLINE void note_listener(struct call *call)
{
	struct sock *sk = (struct sock *)call->sk;
	struct owner owner = {};
	struct service service = {};

	if (!wanted_states || !sk || !is_inet(call->family))
		return;
	service_of(&service, sk, call->family);
	owner.tgid = call->tgid;
	owner.tid = call->tid;
	owner.uid = call->uid;
	__builtin_memcpy(owner.comm, call->comm, sizeof(owner.comm));
	map_update(&listeners, &service, &owner, ANY);
}

// Whose what a call at its end serves, and has been given, is.
INLINE void note_service(struct call *call, struct task_struct *task, s64 result)
{
	struct sock *sk;

	if (call->op == OP_LISTEN && result == 0)
		note_listener(call);
	if ((call->op != OP_ACCEPT && call->op != OP_ACCEPT4) || result < 0)
		return;
	sk = sock_of_fd(task, (s32)result);
	if (!sk)
		return;
	call->accepted = (u64)sk;
	note_owner(call, sk);
}

// Fills in what is known of the socket behind call->fd.
INLINE void look_at(struct call *call, struct task_struct *task)
{
	struct sock *sk;

	sk = sock_of_fd(task, call->fd);
	call->sk = (u64)sk;
	call->has_socket = 0;
	call->netns = 0;
	if (sk) {
		call->has_socket = 1;
		look_at_sock(sk, task, &call->family, &call->type, &call->protocol, &call->netns);
	} else {
		call->netns = netns_of(task);
	}
}
