// SPDX-License-Identifier: GPL-2.0-or-later
// The judgement in the kernel: rules compiled from the user's, for internet destinations of the launched tree.
#pragma once

#include "maps.h"
#include "socket.h"
#include "task.h"

// A network in IPv6 spelling: IPv4 is ::ffff:0:0/96.
struct prefix {
	u32 length;
	u8 ip[16];
};

INLINE void set_ip4(struct prefix *to, be32 ip)
{
	map_ip4(to->ip, ip);
}

// Whether it is an IPv4 address, which begins with ten zeros.
INLINE int is_ip4(const struct prefix *to)
{
	u32 words[3];

	__builtin_memcpy(words, to->ip, 12);
	return !words[0] && !words[1] && !to->ip[8] && !to->ip[9] && to->ip[10] == 0xff && to->ip[11] == 0xff;
}

// One bit a port, for sockets that speak TCP and for others.
struct ports {
	u8 tcp[8192];
	u8 others[8192];
};

struct {
	TYPE(MAP_LPM_TRIE);
	ENTRIES(65536);
	FLAGS(NO_PREALLOCATION);
	struct prefix *key;
	u32 *value;
} networks MAP;

struct {
	TYPE(MAP_ARRAY);
	ENTRIES(1);
	u32 *key;
	struct ports *value;
} port_sets MAP;

// Local addresses that may be bound and served.
struct {
	TYPE(MAP_LPM_TRIE);
	ENTRIES(65536);
	FLAGS(NO_PREALLOCATION);
	struct prefix *key;
	u32 *value;
} served MAP;

// Whether a set of ports has this one, in network byte order.
INLINE int has_port(u32 *index, u32 protocol, u32 port)
{
	struct ports *set;
	u32 number;
	u8 byte;

	if (!index)
		return 0;
	set = map_lookup(&port_sets, index);
	if (!set)
		return 0;
	number = ((port & 0xff) << 8) | ((port >> 8) & 0xff);
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
		byte = set->tcp[(number >> 3) & 8191];
	else
		byte = set->others[(number >> 3) & 8191];
	return (byte >> (number & 7)) & 1;
}

// Whether the rules let such a socket send there; `port` in network byte order. What can't be told is refused.
SUBPROGRAM int is_allowed(struct prefix *to, u32 protocol, u32 port)
{
	return to ? has_port(map_lookup(&networks, to), protocol, port) : 0;
}

// Whether the rules let the outside be served at a local address.
SUBPROGRAM int is_served(struct prefix *at, u32 port)
{
	return at ? has_port(map_lookup(&served, at), IPPROTO_TCP, port) : 0;
}

INLINE int is_ending(void)
{
	u32 zero = 0;
	u32 *flag = map_lookup(&ending, &zero);

	return !flag || *flag;
}

INLINE void end_tree(void)
{
	u32 zero = 0, one = 1;

	map_update(&ending, &zero, &one, ANY);
}
