// SPDX-License-Identifier: GPL-2.0-or-later
// LSM programs, where the kernel takes them: they see what is done to sockets by whatever way, and so what an io_uring
// does, which passes the filter that accompanies the hooks on addresses.
#pragma once

#include "calls.h"

// Socket options that choose the way of packets, or have the kernel send some.
struct option {
	s32 level;
	s32 name;
};

struct {
	TYPE(MAP_HASH);
	ENTRIES(64);
	struct option *key;
	u8 *value;
} options MAP;

struct path {
	u8 bytes[108];
};

// Paths of UNIX sockets that are not to be connected to, as who listens there has bound them.
struct {
	TYPE(MAP_HASH);
	ENTRIES(64);
	struct path *key;
	u8 *value;
} closed_paths MAP;

// Whether it is judged where such a socket sends; UNIX and netlink sockets leave no host (`is_hooked` of
// src/operation/interest.rs), but for those that have IPsec put packets on another way.
INLINE int is_hooked(const struct socket_kind *kind)
{
	switch (kind->family) {
	case AF_UNIX:
	case AF_ALG:
		return 1;
	case AF_NETLINK:
		return kind->protocol != NETLINK_XFRM;
	case AF_INET:
	case AF_INET6:
		if (kind->type == SOCK_STREAM)
			return !kind->protocol || kind->protocol == IPPROTO_TCP || kind->protocol == IPPROTO_MPTCP;
		return kind->type == SOCK_DGRAM && (!kind->protocol || kind->protocol == IPPROTO_UDP);
	}
	return 0;
}

// Whether LSM programs alone judge where such a socket sends (connects.h, messages.h).
INLINE int is_odd(const struct socket_kind *kind)
{
	if (!judges_odd_sockets)
		return 0;
	if (kind->family == AF_VSOCK)
		return 1;
	if (!is_inet(kind->family))
		return 0;
	if (kind->type == SOCK_DCCP)
		return !kind->protocol || kind->protocol == IPPROTO_DCCP;
	if (kind->type != SOCK_DGRAM)
		return 0;
	return kind->protocol == IPPROTO_UDPLITE ||
	       kind->protocol == (kind->family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

INLINE void look_at_kind(struct socket_kind *kind, struct sock *sk)
{
	kind->family = sk->__sk_common.skc_family;
	kind->type = sk->sk_type;
	kind->protocol = sk->sk_protocol;
}

// Whether the running process belongs to the tree: what is known of it, or 0.
INLINE u8 *member_of(struct task_struct *task)
{
	u32 tgid = task->tgid;

	return map_lookup(&tree, &tgid);
}

// Has it told that an operation leaks, and who does it killed if need be: whether it is to be refused.
GLOBAL int refuses(struct refusal_of *what)
{
	struct call *call;

	if (!what)
		return 1;
	call = tells_refusals_alone ? 0 : call_in_hook(what->op);
	if (call && (!fits(call, what->op) || (is_request(call) && call->sk != what->sk)))
		call = 0;
	if (call) {
		end_message(call);
		call->way = what->way;
		call->verdict |= JUDGED | LEAKS;
	}
	// Where leaks are only recorded, the call's end tells them.
	if (judges == JUDGE_ONLY && !is_ending())
		return 0;
	if (judges == KILL_TREE)
		end_tree();
	if (kills())
		send_signal(SIGKILL);
	if (call && (what->name_length || what->listener)) {
		call->name_length = copy_name(call->name, what);
		call->source = FROM_HOOK;
	}
	if (is_untold(call))
		emit_refusal(what, 1);
	return 1;
}

// What the program is to return.
INLINE long refuse(struct refusal_of *what, struct sock *sk)
{
	what->sk = (u64)sk;
	return refuses(what) ? refused : 0;
}

// sizeof(struct sockaddr_vm)
#define VSOCK_NAME 16

// Notes an address that no rule knows: no more of it than a vsock's has.
INLINE void note_other(struct refusal_of *what, u64 address)
{
	if (address && !read_kernel(what->name, VSOCK_NAME, (void *)address))
		what->name_length = VSOCK_NAME;
}

// Has it counted, or told at its call's end, that an operation is let go. With `is_counted`, another hook counts it.
INLINE long let_go(u8 op, u8 *member, int is_counted)
{
	struct call *call;

	if (tells_refusals_alone) {
		if (!is_counted)
			count_in_hook(current_task_direct(), member, op);
		return 0;
	}
	call = call_in_hook(op);
	if (call && fits(call, op))
		call->verdict |= JUDGED;
	return 0;
}

// What a ring asks for: system calls are held up for it.
INLINE long refuse_unheld(struct refusal_of *what, struct sock *sk)
{
	struct entry entry = {};

	look_at_entry(&entry);
	if (judges == JUDGE_ONLY && !is_ending()) {
		if (entry.of_ring)
			emit_refusal(what, 1);
		return 0;
	}
	return refuse(what, sk);
}

SECTION("lsm/socket_create") long on_create(u64 *context)
{
	struct refusal_of what = { .op = OP_SOCKET };

	what.kind.family = context[0];
	what.kind.type = context[1];
	what.kind.protocol = context[2];
	// The kernel's own sockets are its own affair.
	if ((u32)context[3] || is_hooked(&what.kind) || is_odd(&what.kind))
		return 0;
	if (!member_of(current_task_direct()))
		return 0;
	return refuse_unheld(&what, 0);
}

SECTION("lsm/socket_setsockopt") long on_option(u64 *context)
{
	struct socket *socket = (struct socket *)context[0];
	struct option option = { .level = (s32)context[1], .name = (s32)context[2] };
	struct refusal_of what = { .op = OP_SETSOCKOPT };
	struct sock *sk = socket->sk;

	if (!sk || !member_of(current_task_direct()))
		return 0;
	look_at_kind(&what.kind, sk);
	if (what.kind.family == AF_UNIX || what.kind.family == AF_NETLINK || what.kind.family == AF_ALG)
		return 0;
	if (!map_lookup(&options, &option))
		return 0;
	return refuse_unheld(&what, sk);
}

// The address that is to be bound, 1 where there is one that the kernel takes.
INLINE int bound_address(struct prefix *at, u16 *port, u64 address, s32 length, u16 own)
{
	u8 given[24] = {};
	u16 family;
	be32 ip4;

	if (length < 16 || read_kernel(given, length < 24 ? 16 : 24, (void *)address))
		return 0;
	__builtin_memcpy(&family, given, 2);
	__builtin_memcpy(port, given + 2, 2);
	if (own == AF_INET6) {
		__builtin_memcpy(at->ip, given + 8, 16);
		return family == AF_INET6 && length >= 24;
	}
	__builtin_memcpy(&ip4, given + 4, 4);
	set_ip4(at, ip4);
	// `__inet_bind` takes AF_UNSPEC for it.
	return family == AF_INET || family == 0;
}

SECTION("lsm/socket_bind") long on_bind(u64 *context)
{
	struct socket *socket = (struct socket *)context[0];
	struct prefix at = { .length = 128 };
	struct refusal_of what = { .op = OP_BIND };
	struct sock *sk = socket->sk;
	u16 port = 0;
	u8 *member;

	if (!sk)
		return 0;
	look_at_kind(&what.kind, sk);
	if (what.kind.family == AF_UNIX || what.kind.family == AF_NETLINK || what.kind.family == AF_ALG)
		return 0;
	member = member_of(current_task_direct());
	if (!member)
		return 0;
	if (is_inet(what.kind.family)) {
		if (!bound_address(&at, &port, context[1], (s32)context[2], what.kind.family))
			return 0;
		// No port yet: judged when it listens.
		if (!port && what.kind.type != SOCK_DGRAM && what.kind.type != SOCK_RAW)
			return 0;
		if (!is_ending() && is_served(&at, port))
			return let_go(what.op, member, 0);
		name_refused(&what, &at, port);
	} else {
		note_other(&what, context[1]);
	}
	return refuse(&what, sk);
}

INLINE long on_service(struct socket *socket, u8 op)
{
	struct prefix at = { .length = 128 };
	struct refusal_of what = { .op = op };
	struct sock *sk = socket->sk;
	struct endpoint local = {};
	u8 *member;

	if (!sk)
		return 0;
	look_at_kind(&what.kind, sk);
	if (what.kind.family == AF_UNIX || what.kind.family == AF_NETLINK || what.kind.family == AF_ALG)
		return 0;
	member = member_of(current_task_direct());
	if (!member)
		return 0;
	if (is_inet(what.kind.family)) {
		local_of(&local, sk, what.kind.family);
		if (what.kind.family == AF_INET6)
			__builtin_memcpy(at.ip, local.ip, 16);
		else
			set_ip4(&at, *(be32 *)local.ip);
		if (!is_ending() && is_served(&at, local.port))
			return let_go(op, member, 0);
	}
	return refuse(&what, sk);
}

SECTION("lsm/socket_listen") long on_listen(u64 *context)
{
	return on_service((struct socket *)context[0], OP_LISTEN);
}

SECTION("lsm/socket_accept") long on_accept(u64 *context)
{
	return on_service((struct socket *)context[0], OP_ACCEPT);
}

// `other` listens: outside of the tree, so that the tree has no say in how it is called.
SECTION("lsm/unix_stream_connect") long on_unix_connect(u64 *context)
{
	struct sock *sk = (struct sock *)context[0], *other = (struct sock *)context[1];
	struct refusal_of what = { .op = OP_CONNECT };
	u8 name[112] = {};

	if (!member_of(current_task_direct()))
		return 0;
	if (unix_name(other, name) <= 2)
		return 0;
	if (!map_lookup(&closed_paths, name + 2))
		return 0;
	look_at_kind(&what.kind, sk);
	what.listener = (u64)other;
	return refuse(&what, sk);
}
