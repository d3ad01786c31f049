// SPDX-License-Identifier: GPL-2.0-or-later
// What the capturing programs and the backend say to each other. src/capture/record.rs mirrors it.
#pragma once

#include "filters.h"
#include "rings.h"

// What a call is to a capture.
enum step {
	STEP_NONE,
	STEP_READ,
	STEP_WRITE,
	STEP_READV,
	STEP_WRITEV,
	STEP_RECVFROM,
	STEP_SENDTO,
	STEP_RECVMSG,
	STEP_SENDMSG,
	STEP_RECVMMSG,
	STEP_SENDMMSG,
	// The offset has the width of a pointer, or 64 bits.
	STEP_SENDFILE,
	STEP_SENDFILE64,
	STEP_SPLICE,
	STEP_CONNECT,
	STEP_ACCEPT,
	STEP_SOCKETPAIR,
	STEP_LISTEN,
	STEP_CLOSE,
	// i386: which of them it is stands in its first argument.
	STEP_SOCKETCALL,
};

enum told {
	// A call that has ended, or one message of it.
	TOLD_CALL = 1,
	// A socket that was there when watching began.
	TOLD_EXISTING,
	// A socket that nobody holds any more.
	TOLD_GONE,
	// PROGRAM runs.
	TOLD_READY,
	// Bytes of a call.
	TOLD_BYTES,
	// Control messages of a call.
	TOLD_CONTROL,
};

enum about {
	// The socket has a peer.
	HAS_PEER_NOW = 1,
	// `local` and `peer` are set.
	HAS_ENDPOINTS = 2,
	// Not all bytes are there: the ring was full,
	RING_WAS_FULL = 4,
	// the memory couldn't be read,
	WAS_UNREADABLE = 8,
	// they never lay in the caller's memory.
	WAS_ELSEWHERE = 16,
	// The socket is the sender.
	GOES_OUT = 32,
};

struct transfer {
	u32 kind;
	u32 tgid;
	u32 tid;
	s32 fd;
	u64 time;
	// That of its bytes and control messages, which are `pieces` records behind this one.
	u64 id;
	u64 inode;
	s64 result;
	u64 stored;
	// What was lost of this socket before: in and out.
	u64 lost_bytes[2];
	u64 lost_calls[2];
	// sendfile: the file, and where it was read from.
	u64 source_inode;
	u64 source_offset;
	s32 source_fd;
	u32 pieces;
	// The system call; of socketcall the number of the call behind it, and MULTIPLEXED.
	u32 number;
	// MSG_*
	u32 message_flags;
	u16 family;
	u16 type;
	u16 protocol;
	u16 name_length;
	u16 to_length;
	u8 step;
	u8 abi;
	u8 about;
	u8 padding[3];
	u8 comm[16];
	struct endpoint local;
	struct endpoint peer;
	// A UNIX socket's peer's name, or its own where that has none: a sockaddr.
	u8 name[112];
	// The address that came with a message.
	u8 to[128];
};

#define MULTIPLEXED 0x10000

_Static_assert(sizeof(struct transfer) == 440 && __builtin_offsetof(struct transfer, comm) == 136, "record.rs");

struct piece {
	u32 kind;
	u32 length;
	u64 id;
};

#define PASSED 32
#define CONTROL_BYTES 512

struct control {
	struct piece piece;
	// The sockets behind the descriptors of the first message, where it is SCM_RIGHTS.
	u64 inodes[PASSED];
	u8 bytes[CONTROL_BYTES];
};

// A socket that was met.
struct met {
	// Not told yet: in and out.
	u64 lost_bytes[2];
	u64 lost_calls[2];
	// Nobody holds it any more, and that couldn't be told.
	u64 gone;
};

// A call on its way.
struct move {
	u64 args[6];
	u64 sk;
	u64 inode;
	u64 source_inode;
	u64 source_offset;
	s32 source_fd;
	s32 fd;
	u32 number;
	u8 step;
	u8 abi;
	u8 out;
	u8 padding;
};

// Which families are captured, one bit each.
const volatile u64 families;
// Bytes of a call, at most.
const volatile u64 most_bytes;
// Descriptors of PROGRAM that are looked at.
const volatile u32 most_descriptors;

// A number for each record with pieces.
static volatile u64 last_id;

struct {
	TYPE(MAP_RINGBUF);
	ENTRIES(64 << 20);
} payloads MAP;

// Records that the ring had no room for, and that are counted nowhere else.
struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	u64 *value;
} lost_records MAP;

struct {
	TYPE(MAP_HASH);
	ENTRIES(32768);
	u32 *key;
	struct move *value;
} moves MAP;

struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	struct move *value;
} scratch_move MAP;

// By inode number: it names a socket as long as somebody holds it.
struct {
	TYPE(MAP_HASH);
	ENTRIES(131072);
	FLAGS(NO_PREALLOCATION);
	u64 *key;
	struct met *value;
} sockets MAP;

// The inode numbers of the sockets, by the address of the kernel's structure.
struct {
	TYPE(MAP_HASH);
	ENTRIES(131072);
	FLAGS(NO_PREALLOCATION);
	u64 *key;
	u64 *value;
} holders MAP;

// The process that is to become PROGRAM.
struct {
	TYPE(MAP_ARRAY);
	ENTRIES(1);
	u32 *key;
	u32 *value;
} starting MAP;
