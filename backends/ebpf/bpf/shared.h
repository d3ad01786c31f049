// SPDX-License-Identifier: GPL-2.0-or-later
// What programs and the backend say to each other. src/record.rs mirrors it; a test compares the sizes.
#pragma once

#include "kernel.h"

enum operation {
	OP_NONE,
	OP_BIND,
	OP_CONNECT,
	OP_LISTEN,
	OP_ACCEPT,
	OP_ACCEPT4,
	OP_SENDTO,
	OP_SENDMSG,
	OP_SENDMMSG,
	OP_RECVFROM,
	OP_RECVMSG,
	OP_RECVMMSG,
	// i386: which operation it is stands in its first argument.
	OP_SOCKETCALL,
	OP_IO_URING_ENTER,
	// Told where LSM programs refuse them, and never asked for.
	OP_SOCKET,
	OP_SETSOCKOPT,
};

enum abi { ABI_NATIVE, ABI_COMPAT, ABI_IO_URING, ABI_IO_URING_COMPAT, ABI_UNKNOWN };

enum kind { KIND_CALL = 1, KIND_TCP_STATE, KIND_EXEC, KIND_EXIT, KIND_FORK, KIND_SOCKET, KIND_STACK, KIND_ACTED,
	    KIND_DIVERTED };

// Where an address comes from.
enum source {
	FROM_NOWHERE,
	// The copy that the kernel made and uses (cgroup hooks).
	FROM_HOOK,
	// The kernel's socket.
	FROM_SOCKET,
	// The caller's memory, read at the call's end.
	FROM_USER,
};

enum flag {
	// The call ended; without it its thread did, or a further address follows.
	HAS_RESULT = 1,
	HAS_SOCKET = 2,
	HAS_LOCAL = 4,
	HAS_PEER = 8,
	// More addresses of the same call follow (sendmmsg, recvmmsg).
	MORE = 16,
	// The rules in the kernel were asked.
	JUDGED = 32,
	// They say that it leaks.
	LEAKS = 64,
	// There is a stack of this thread and time.
	HAS_STACK = 128,
};

struct endpoint {
	u8 ip[16];
	be16 port;
	u16 family;
	u32 scope;
};

struct record {
	u32 kind;
	u32 tgid;
	u32 tid;
	u32 uid;
	u64 time;
	// The call's value; old and new state; an exit code; of an exec the parent's thread group; a socket's cookie.
	s64 result;
	u8 comm[16];
	s32 fd;
	u32 netns;
	u16 family;
	u16 type;
	u16 protocol;
	u16 name_length;
	u8 op;
	u8 abi;
	u8 source;
	u8 flags;
	// Of a send: MSG_*. Of a diverted connection: the sequence number of its SYN.
	u32 message_flags;
	struct endpoint local;
	struct endpoint peer;
	// `enum way`, of a send.
	u32 way;
	// `enum diversion`, of what leaks.
	u32 diversion;
	// A sockaddr. Of a diverted connection: its destination, a struct endpoint. Of an exec: the path of what is executed, for
	// scripts that of their interpreter.
	u8 name[128];
};

// What a message's control data say of its way.
enum way {
	BY_DESTINATION,
	// By other hosts.
	SOURCE_ROUTED,
	// By an interface or routing table of the program's choice.
	CHOSEN,
	// More than is looked at, or unreadable.
	UNTOLD,
};

// What became of a leak, where connections are diverted.
enum diversion {
	NOT_ASKED,
	DIVERTED,
	// No TCP connection.
	NO_STREAM,
	MULTIPATH,
	BOUND_TO_DEVICE,
	// Its socket is in another network namespace.
	ELSEWHERE,
	NO_HOLE,
	// It is refused as the kernel does that.
	TO_A_GROUP,
};

// What is known of a process of the tree.
enum member {
	IS_KNOWN = 1,
	// It made a call that was counted, and that was told.
	HAS_ACTED,
	// It leaked, and dies for it.
	DOOMED,
};

// Settings, fixed when the programs are loaded.
enum filter { BY_TREE = 1, BY_UID = 2, BY_NETNS = 4, BY_NAME = 8, BY_CGROUP = 16 };
#define CHUNK 256
#define CHUNKS 64

#define MOST_MODULES 24

// A file that a process has loaded: what to add to its addresses as linked, and its path, empty for the program itself.
struct module {
	u64 bias;
	u8 name[88];
};

struct modules {
	u64 count;
	struct module all[MOST_MODULES];
};

// The stack of a thread at the end of its call, whose record has the same time: the registers in the kernel's layout
// for tracers (as far as it is that of struct pt_regs), and memory from below the stack pointer upwards.
struct stack {
	u32 kind;
	u32 tid;
	u64 time;
	u64 base;
	u32 length;
	u32 padding;
	u8 registers[USER_REGISTERS];
	u8 bytes[CHUNKS * CHUNK];
	struct modules modules;
};

// Of which calls stacks are taken.
enum stacks { NO_STACKS, STACKS_OF_LEAKS, ALL_STACKS };

// What becomes of what leaks, where the tree is judged.
enum judging { NO_JUDGING, JUDGE_ONLY, REFUSE, KILL, KILL_TREE };
