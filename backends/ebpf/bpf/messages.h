// SPDX-License-Identifier: GPL-2.0-or-later
// What messages carry besides their payload, in the kernel's own copy, where LSM programs can be had: control data that
// give a packet another way than its destination's, and datagrams that name no destination.
#pragma once

#include "guards.h"

// struct cmsghdr, in the machine's own layout: the kernel has converted what 32-bit callers gave.
struct control {
	u64 length;
	s32 level;
	s32 kind;
};

// More control messages than this are not looked at.
#define MOST_CONTROLS 16
// MAX_IPOPTLEN
#define MOST_OPTIONS 40
#define IPOPT_END 0
#define IPOPT_NOOP 1
#define IPOPT_LSRR 0x83
#define IPOPT_SSRR 0x89

#define SOL_IP 0
#define SOL_SOCKET 1
#define SOL_IPV6 41
#define SO_MARK 36
#define IP_RETOPTS 7
#define IP_PKTINFO 8
#define IPV6_2292PKTINFO 2
#define IPV6_2292RTHDR 5
#define IPV6_PKTINFO 50
#define IPV6_RTHDR 57

// Whether IP options (RFC 791: a byte that ends them or does nothing, or type, length and data) hold a loose or strict
// source route. Nonsense is taken for one, as by the pipeline (src/operation/decode.rs).
GLOBAL int has_source_route(u64 options, u64 length)
{
	u8 bytes[MOST_OPTIONS + 1] = {};
	u32 index, skipped = 0;

	if (length > MOST_OPTIONS)
		length = MOST_OPTIONS;
	if (length && read_kernel(bytes, length, (void *)options))
		return 1;
	for (index = 0; index < MOST_OPTIONS && index < length; index++) {
		if (skipped) {
			skipped--;
			continue;
		}
		if (bytes[index] == IPOPT_END)
			return 0;
		if (bytes[index] == IPOPT_NOOP)
			continue;
		if (bytes[index] == IPOPT_LSRR || bytes[index] == IPOPT_SSRR)
			return 1;
		if (index + 1 >= length || bytes[index + 1] < 2)
			return 1;
		skipped = bytes[index + 1] - 1;
	}
	return 0;
}

// Whether the index of an interface is another than loopback's, which is the first of each network namespace.
INLINE int leads_out(u64 data, u64 length, u32 offset)
{
	u32 index = 0;

	if (length < offset + 4)
		return 0;
	return read_kernel(&index, 4, (void *)(data + offset)) || index > 1;
}

INLINE int way_of_one(struct control *control, u64 data, u64 length)
{
	u32 mark = 0;

	switch (control->level) {
	case SOL_IP:
		if (control->kind == IP_RETOPTS && has_source_route(data, length))
			return SOURCE_ROUTED;
		// struct in_pktinfo begins, struct in6_pktinfo ends with the index.
		if (control->kind == IP_PKTINFO && leads_out(data, length, 0))
			return CHOSEN;
		break;
	case SOL_IPV6:
		if (control->kind == IPV6_RTHDR || control->kind == IPV6_2292RTHDR)
			return SOURCE_ROUTED;
		if ((control->kind == IPV6_PKTINFO || control->kind == IPV6_2292PKTINFO) && leads_out(data, length, 16))
			return CHOSEN;
		break;
	case SOL_SOCKET:
		if (control->kind == SO_MARK && length >= 4 && (read_kernel(&mark, 4, (void *)data) || mark))
			return CHOSEN;
		break;
	}
	return BY_DESTINATION;
}

// `enum way`; walks them as the kernel does (`for_each_cmsghdr`).
GLOBAL int way_of(u64 at, u64 left)
{
	struct control control;
	int way = BY_DESTINATION, one;
	u32 count;
	u64 step;

	for (count = 0; count < MOST_CONTROLS; count++) {
		if (left < sizeof(control))
			return way;
		if (read_kernel(&control, sizeof(control), (void *)at))
			return UNTOLD;
		// The kernel refuses it (EINVAL).
		if (control.length < sizeof(control) || control.length > left)
			return way;
		one = way_of_one(&control, at + sizeof(control), control.length - sizeof(control));
		if (one == SOURCE_ROUTED)
			return SOURCE_ROUTED;
		if (one == CHOSEN)
			way = CHOSEN;
		step = (control.length + 7) & ~7ull;
		if (step >= left)
			return way;
		at += step;
		left -= step;
	}
	return UNTOLD;
}

// The destination that a message names, 1 where there is one that is understood by a socket of the family `own`.
INLINE int named_destination(struct prefix *to, u16 *port, u64 name, s32 length, u16 own)
{
	u8 given[24] = {};
	u16 family;
	be32 ip4;

	if (!name || length < 16)
		return 0;
	// SIN6_LEN_RFC2133
	if (read_kernel(given, length < 24 ? 16 : 24, (void *)name))
		return 0;
	__builtin_memcpy(&family, given, 2);
	__builtin_memcpy(port, given + 2, 2);
	if (family == AF_INET6 && length >= 24) {
		__builtin_memcpy(to->ip, given + 8, 16);
		return 1;
	}
	// Datagrams take AF_UNSPEC for it; those of IPv6 for no destination.
	if (family != AF_INET && (family || own != AF_INET))
		return 0;
	__builtin_memcpy(&ip4, given + 4, 4);
	set_ip4(to, ip4);
	return 1;
}

// The address that a datagram socket is connected to, 1 where it is.
INLINE int connected_to(struct prefix *to, u16 *port, struct sock *sk, u16 family)
{
	if (READ(sk->__sk_common.skc_state) != TCP_ESTABLISHED)
		return 0;
	*port = READ(sk->__sk_common.skc_dport);
	if (family == AF_INET6)
		read_kernel(to->ip, 16, (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
	else
		set_ip4(to, READ(sk->__sk_common.skc_daddr));
	return 1;
}

// Loopback's addresses, and those that mean this host.
INLINE int is_this_host(const struct prefix *to)
{
	u32 words[4];

	__builtin_memcpy(words, to->ip, 16);
	if (words[0] || words[1])
		return 0;
	if (is_ip4(to))
		return to->ip[12] == 127 || words[3] == 0;
	return words[2] == 0 && to->ip[12] == 0 && to->ip[13] == 0 && to->ip[14] == 0 && to->ip[15] < 2;
}

// Whether the destination is to be judged here: the hooks on addresses see what UDP names, and no more of it. A stream,
// as DCCP's, goes where its connection goes.
INLINE int asks_for_destination(const struct socket_kind *kind, int odd, int named)
{
	return odd ? named || kind->type == SOCK_DGRAM : !named && kind->protocol == IPPROTO_UDP;
}

// Every message of every socket passes here: those of UNIX sockets, and those that neither carry control data nor go
// without a destination, which the hooks on addresses judge, at almost no cost.
//
// Not every message of a sendmmsg does, but of those in a row to the same destination the first alone (net/socket.c,
// `____sys_sendmsg`). Nor, before Linux 6.5, what sendfile and splice give to UDP-Lite of IPv4 (`sock_sendpage`): that
// goes to the peer that connect has set.
SECTION("lsm/socket_sendmsg") long on_message(u64 *context)
{
	struct socket *socket = (struct socket *)context[0];
	struct msghdr *message = (struct msghdr *)context[1];
	struct prefix to = { .length = 128 };
	struct refusal_of what = { .op = OP_SENDMSG };
	struct sock *sk = socket->sk;
	u64 name, controls;
	int is_leak, has, named, hooked, odd;
	u16 port = 0;
	u8 *member;

	if (!sk)
		return 0;
	look_at_kind(&what.kind, sk);
	if (what.kind.family == AF_UNIX)
		return 0;
	hooked = is_hooked(&what.kind);
	if (hooked && !is_inet(what.kind.family))
		return 0;
	name = (u64)message->msg_name;
	controls = message->msg_controllen;
	if (hooked && !controls && (name || what.kind.type != SOCK_DGRAM))
		return 0;
	member = member_of(current_task_direct());
	if (!member)
		return 0;
	odd = !hooked && is_odd(&what.kind);
	// Nobody of the tree has made such a socket, or it is none that may send.
	if (!is_inet(what.kind.family) || (!hooked && !odd)) {
		if (judges <= JUDGE_ONLY)
			return 0;
		if (odd)
			note_other(&what, name);
		goto leaks;
	}
	if (controls)
		what.way = way_of((u64)message->msg_control, controls);
	// A stream goes where its connection goes.
	if (what.way == CHOSEN && (what.kind.type == SOCK_STREAM || what.kind.type == SOCK_DCCP))
		what.way = BY_DESTINATION;
	named = named_destination(&to, &port, name, message->msg_namelen, what.kind.family);
	has = named || connected_to(&to, &port, sk, what.kind.family);
	is_leak = what.way == SOURCE_ROUTED || what.way == UNTOLD || (what.way == CHOSEN && has && is_this_host(&to));
	is_leak |= odd && is_ending();
	// Where leaks are only recorded, the call's end tells them.
	if (!is_leak && has && judges > JUDGE_ONLY && asks_for_destination(&what.kind, odd, named))
		is_leak = !is_allowed(&to, what.kind.protocol, port);
	// The hooks on addresses see what UDP-Lite names too; what names nothing isn't counted of any socket.
	if (!is_leak)
		return odd ? let_go(OP_SENDMSG, member, !named || what.kind.protocol == IPPROTO_UDPLITE) : 0;
	if (has)
		name_refused(&what, &to, port);
leaks:
	return refuse(&what, sk);
}
