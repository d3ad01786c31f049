// SPDX-License-Identifier: GPL-2.0-or-later
// Connections that leak lead to a hole instead: a listening socket of the supervisor's on loopback whose queue is full, so
// that they wait in SYN_SENT until it has found out what becomes of them. Who asks such a socket for its ends is told
// what they would have been.
#pragma once

#include "emit.h"

// So many holes there are of each family; none at all: nothing is diverted.
const volatile u32 holes4;
const volatile u32 holes6;
// The network namespace of the holes, by its cookie.
const volatile u64 holes_namespace;

#define MOST_HOLES 16
// Of each network namespace the first interface.
#define LOOPBACK_INTERFACE 1
#define LOOPBACK4 0x7f000001
// bpf_sock_ops.op: before the SYN of connect leaves, when its source is known.
#define ABOUT_TO_CONNECT 3

struct diverted {
	struct endpoint destination;
	struct endpoint hole;
	u32 tgid;
	u32 tid;
};

struct address {
	u32 words[4];
};

// By the sockets' cookies.
struct {
	TYPE(MAP_LRU_HASH);
	ENTRIES(65536);
	u64 *key;
	struct diverted *value;
} diversions MAP;

// The addresses that such sockets are shown to have themselves, in IPv6 spelling.
struct {
	TYPE(MAP_LRU_HASH);
	ENTRIES(65536);
	u64 *key;
	struct address *value;
} sources MAP;

// The holes' ports in network byte order: those of IPv4, then those of IPv6.
struct {
	TYPE(MAP_ARRAY);
	ENTRIES(2 * MOST_HOLES);
	u32 *key;
	u32 *value;
} holes MAP;

INLINE be32 network_order(u32 number)
{
	return __builtin_bswap32(number);
}

INLINE int is_mapped(const be32 *ip6)
{
	return !ip6[0] && !ip6[1] && ip6[2] == network_order(0xffff);
}

// Multicast, or everybody: no connection goes there (`tcp_v4_connect`, `tcp_v6_connect`).
INLINE int is_group(int six, be32 ip4, const be32 *ip6)
{
	if (six && !is_mapped(ip6))
		return (ip6[0] & 0xff) == 0xff;
	if (six)
		ip4 = ip6[3];
	return (ip4 & 0xf0) == 0xe0 || ip4 == 0xffffffff;
}

// Whether the socket leads to the hole of this diversion. Each field is read by itself: the verifier takes no pointer that
// is one field's or another's.
INLINE int leads_to_hole(struct bpf_sock *sk, const struct diverted *to)
{
	const volatile struct bpf_sock *fields = sk;
	be16 port = fields->dst_port;
	be32 four = fields->dst_ip4;
	be32 six0 = fields->dst_ip6[0], six1 = fields->dst_ip6[1], six2 = fields->dst_ip6[2], six3 = fields->dst_ip6[3];

	if (port != to->hole.port)
		return 0;
	if (to->hole.family == AF_INET)
		return four == network_order(LOOPBACK4);
	return !six0 && !six1 && !six2 && six3 == network_order(1);
}

// Whether it is a subflow of multipath TCP, which can't be held.
INLINE int is_multipath(struct tcp_sock *tcp)
{
	return EXISTS(tcp->is_mptcp) && tcp->is_mptcp;
}

// Has a connect that leaks go to a hole, if it can: `enum diversion`.
INLINE u8 divert(struct bpf_sock_addr *context, u32 tgid, u32 tid, int six, be32 ip4, const be32 *ip6, u16 port)
{
	struct bpf_sock *sk = context->sk;
	struct diverted to = {};
	struct tcp_sock *tcp;
	u32 index, count, *number;
	int four = !six || is_mapped(ip6);
	u64 cookie;

	if (context->type != SOCK_STREAM || context->protocol != IPPROTO_TCP)
		return NO_STREAM;
	tcp = tcp_sock_of(sk);
	if (!tcp || is_multipath(tcp))
		return MULTIPATH;
	if (is_group(six, ip4, ip6))
		return TO_A_GROUP;
	if (sk->bound_dev_if > LOOPBACK_INTERFACE)
		return BOUND_TO_DEVICE;
	if (netns_cookie(context) != holes_namespace)
		return ELSEWHERE;
	// Where there is no ::1, IPv4 will do, as long as the socket isn't bound to an address of IPv6.
	if (!four && !holes6 && !sk->src_ip6[0] && !sk->src_ip6[1] && !sk->src_ip6[2] && !sk->src_ip6[3])
		four = 1;
	count = four ? holes4 : holes6;
	if (!count)
		return NO_HOLE;
	index = random() % count + (four ? 0 : MOST_HOLES);
	number = map_lookup(&holes, &index);
	if (!number || !*number)
		return NO_HOLE;
	to.tgid = tgid;
	to.tid = tid;
	to.hole.port = *number;
	to.hole.family = four ? AF_INET : AF_INET6;
	to.destination.port = port;
	to.destination.family = six ? AF_INET6 : AF_INET;
	if (six) {
		__builtin_memcpy(to.destination.ip, ip6, 16);
	} else {
		__builtin_memcpy(to.destination.ip, &ip4, 4);
	}
	cookie = cookie_of(context);
	map_delete(&sources, &cookie);
	if (map_update(&diversions, &cookie, &to, ANY))
		return NO_HOLE;
	// The verifier takes no pointers into it that were made before.
	asm volatile("" : "+r"(context));
	context->user_port = *number;
	if (six) {
		context->user_ip6[0] = 0;
		context->user_ip6[1] = 0;
		context->user_ip6[2] = four ? network_order(0xffff) : 0;
		context->user_ip6[3] = network_order(four ? LOOPBACK4 : 1);
	} else {
		context->user_ip4 = network_order(LOOPBACK4);
	}
	return DIVERTED;
}

// Tells who waits at a hole, and by which address and sequence number he is known there.
SECTION("sockops") int about_to_connect(struct bpf_sock_ops *context)
{
	struct diverted *to;
	struct record *record;
	struct bpf_sock *sk;
	struct tcp_sock *tcp;
	u64 cookie;

	if (context->op != ABOUT_TO_CONNECT)
		return 1;
	sk = context->sk;
	if (!sk)
		return 1;
	cookie = cookie_of(context);
	to = map_lookup(&diversions, &cookie);
	if (!to || !leads_to_hole(sk, to))
		return 1;
	tcp = tcp_sock_of(sk);
	if (!tcp)
		return 1;
	record = reserve(KIND_DIVERTED);
	if (!record)
		return 1;
	record->tgid = to->tgid;
	record->tid = to->tid;
	record->result = cookie;
	record->message_flags = tcp->write_seq;
	record->flags = HAS_LOCAL | HAS_PEER;
	ends_of(&record->local, &record->peer, (struct sock *)tcp, to->hole.family);
	__builtin_memcpy(record->name, &to->destination, sizeof(struct endpoint));
	record->name_length = sizeof(struct endpoint);
	submit(record);
	return 1;
}

INLINE struct diverted *diversion_of(struct bpf_sock_addr *context)
{
	struct bpf_sock *sk = context->sk;
	struct diverted *to;
	u64 cookie;

	if (!sk->dst_port)
		return 0;
	cookie = cookie_of(context);
	to = map_lookup(&diversions, &cookie);
	return to && leads_to_hole(sk, to) ? to : 0;
}

INLINE void show(struct bpf_sock_addr *context, int six, const struct address *ip, u32 four)
{
	if (six) {
		context->user_ip6[0] = ip->words[0];
		context->user_ip6[1] = ip->words[1];
		context->user_ip6[2] = ip->words[2];
		context->user_ip6[3] = ip->words[3];
	} else {
		context->user_ip4 = four;
	}
}

INLINE int show_peer(struct bpf_sock_addr *context, int six)
{
	struct diverted *to = diversion_of(context);
	struct address ip;

	if (to) {
		__builtin_memcpy(&ip, to->destination.ip, 16);
		show(context, six, &ip, ip.words[0]);
		context->user_port = to->destination.port;
	}
	return 1;
}

INLINE int show_source(struct bpf_sock_addr *context, int six)
{
	struct address *ip;
	u64 cookie;

	if (diversion_of(context)) {
		cookie = cookie_of(context);
		ip = map_lookup(&sources, &cookie);
		if (ip)
			show(context, six, ip, ip->words[3]);
	}
	return 1;
}

#define NAMING_HOOK(name, six, shows)                                         \
	SECTION("cgroup/" #name) int on_##name(struct bpf_sock_addr *context) \
	{                                                                     \
		return shows(context, six);                                   \
	}

NAMING_HOOK(getpeername4, 0, show_peer)
NAMING_HOOK(getpeername6, 1, show_peer)
NAMING_HOOK(getsockname4, 0, show_source)
NAMING_HOOK(getsockname6, 1, show_source)
