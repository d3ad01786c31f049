// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "filters.h"

// Which operations are reported, one bit each (1 << op).
const volatile u32 wanted_ops;
// The same for operations of an io_uring.
const volatile u32 wanted_requests;
// sendto without an address is not looked at.
const volatile u32 skips_unaddressed;
// `enum judging`.
const volatile u32 judges;
// Nobody asks for the beginnings and ends of calls: the hooks tell what they refuse by themselves.
const volatile u32 tells_refusals_alone;
// Operations of which none is told that is let go: they are counted.
const volatile u32 counted_ops;
// `enum stacks`.
const volatile u32 wanted_stacks;
// Sockets that `is_odd` names are judged by LSM programs, and so may be had.
const volatile u32 judges_odd_sockets;
// What a refused call returns: an errno.
const volatile u32 refusal;
// The same as LSM programs return it: the kernel must see that it is no other value.
const volatile s64 refused;
const volatile u32 wanted_states;
const volatile u32 wanted_processes;

// A call on its way, or an io_uring request between submission and completion.
struct call {
	u64 args[6];
	u64 sk;
	// The io_uring request that the thread was given last, and the last that connects: of linked requests, the one that
	// is given last isn't the first to be done.
	u64 request;
	u64 connecting;
	// The socket that accept gave.
	u64 accepted;
	// When its stack was taken.
	u64 stack_time;
	s32 fd;
	u32 tgid;
	u32 tid;
	u32 uid;
	u8 comm[16];
	// OP_NONE where a thread is in no call.
	u8 op;
	u8 abi;
	u8 source;
	u8 has_socket;
	// JUDGED, LEAKS, HAS_STACK
	u8 verdict;
	// `enum way`
	u8 way;
	// `enum diversion`
	u8 diversion;
	u16 family;
	u16 type;
	u16 protocol;
	u16 name_length;
	u32 netns;
	u8 name[128];
};

static const struct call no_call;

// Who uses a socket: for what happens to it when nobody calls.
struct owner {
	u32 tgid;
	u32 tid;
	u32 uid;
	u8 comm[16];
};

// Where is listened: a local address in IPv6 spelling.
struct service {
	u8 ip[16];
	u32 netns;
	u32 port;
};

struct {
	TYPE(MAP_RINGBUF);
	ENTRIES(8 << 20);
} ring MAP;

// Stacks, which are large: they don't push records out. Few fit in, so that taking them apart holds nobody up.
struct {
	TYPE(MAP_RINGBUF);
	ENTRIES(2 << 20);
} stacks MAP;

// Records that the ring had no room for.
struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	u64 *value;
} lost MAP;

// Calls that were let go and not told.
struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	u64 *value;
} passed MAP;

// By thread, from the first call that a hook was asked about to its end: OP_NONE between such calls.
struct {
	TYPE(MAP_HASH);
	ENTRIES(32768);
	u32 *key;
	struct call *value;
} calls MAP;

struct {
	TYPE(MAP_LRU_HASH);
	ENTRIES(16384);
	u64 *key;
	struct call *value;
} requests MAP;

// Large values are put together here: the stack has 512 bytes.
struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	struct call *value;
} scratch MAP;

struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	struct record *value;
} scratch_record MAP;

struct {
	TYPE(MAP_LRU_HASH);
	ENTRIES(65536);
	u64 *key;
	struct owner *value;
} owners MAP;

struct {
	TYPE(MAP_LRU_HASH);
	ENTRIES(4096);
	struct service *key;
	struct owner *value;
} listeners MAP;

// Not zero: the tree is being killed, and nothing is let through any more.
struct {
	TYPE(MAP_ARRAY);
	ENTRIES(1);
	u32 *key;
	u32 *value;
} ending MAP;
