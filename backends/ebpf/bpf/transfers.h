// SPDX-License-Identifier: GPL-2.0-or-later
// Payloads: copied out of the caller's memory when the call has ended, as much as it moved. The kernel has just
// read or written it, so that it is there; what isn't is missing, and that is told.
#pragma once

#include "payloads.h"
#include "socket.h"
#include "task.h"

#define PAGE 4096

// A walk over the caller's vectors. It isn't on the stack, of which the verifier follows each value.
struct walk {
	u64 vectors;
	u64 base;
	u64 length;
	u64 left;
	u64 done;
	u64 id;
	u32 count;
	u32 pieces;
	u8 compat;
	u8 page_by_page;
	u8 about;
};

struct {
	TYPE(MAP_PERCPU_ARRAY);
	ENTRIES(1);
	u32 *key;
	struct walk *value;
} scratch_walk MAP;

// What a loop's body is given must be on the stack.
struct place {
	struct walk *walk;
};

INLINE void lose_record(void)
{
	u32 zero = 0;
	u64 *count = map_lookup(&lost_records, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

INLINE void lose_call(u64 inode, int out, s64 bytes)
{
	struct met *met = map_lookup(&sockets, &inode);

	if (!met) {
		lose_record();
		return;
	}
	if (bytes < 0)
		bytes = 0;
	__sync_fetch_and_add(&met->lost_bytes[out ? 1 : 0], bytes);
	__sync_fetch_and_add(&met->lost_calls[out ? 1 : 0], 1);
}

// A record about a socket; the pieces are the caller's to add.
INLINE struct transfer *reserve_transfer(u32 kind, u64 inode)
{
	struct transfer *told = ring_reserve(&payloads, sizeof(struct transfer), 0);
	struct met *met;

	if (!told)
		return 0;
	__builtin_memset(told, 0, sizeof(struct transfer));
	told->kind = kind;
	told->inode = inode;
	told->time = ktime();
	told->fd = -1;
	met = inode ? map_lookup(&sockets, &inode) : 0;
	if (met) {
		told->lost_bytes[0] = __sync_lock_test_and_set(&met->lost_bytes[0], 0);
		told->lost_bytes[1] = __sync_lock_test_and_set(&met->lost_bytes[1], 0);
		told->lost_calls[0] = __sync_lock_test_and_set(&met->lost_calls[0], 0);
		told->lost_calls[1] = __sync_lock_test_and_set(&met->lost_calls[1], 0);
	}
	return told;
}

INLINE void describe_caller(struct transfer *told, struct task_struct *task)
{
	told->tgid = READ(task->tgid);
	told->tid = READ(task->pid);
	read_kernel(told->comm, sizeof(told->comm), (void *)__builtin_preserve_access_index(&task->comm));
}

INLINE void describe_socket(struct transfer *told, struct sock *sk)
{
	struct sock *peer;
	u32 length = 0;

	told->family = family_of(sk);
	told->type = READ(sk->sk_type);
	told->protocol = READ(sk->sk_protocol);
	if (told->family == AF_INET || told->family == AF_INET6) {
		ends_of(&told->local, &told->peer, sk, told->family);
		told->about |= HAS_ENDPOINTS;
		if (told->peer.port)
			told->about |= HAS_PEER_NOW;
	} else if (told->family == AF_UNIX) {
		peer = unix_peer(sk);
		if (peer) {
			told->about |= HAS_PEER_NOW;
			length = unix_name(peer, told->name);
		}
		// A name of two bytes is a family alone.
		if (length <= 2)
			length = unix_name(sk, told->name);
		if (length <= sizeof(told->name))
			told->name_length = length;
	}
}

INLINE int read_vector(u64 *base, u64 *length, u64 at, int compat)
{
	u32 half[2] = {};
	u64 whole[2] = {};

	if (compat) {
		if (read_user(half, sizeof(half), (void *)at))
			return 0;
		*base = half[0];
		*length = half[1];
	} else {
		if (read_user(whole, sizeof(whole), (void *)at))
			return 0;
		*base = whole[0];
		*length = whole[1];
	}
	return 1;
}

// Copies up to SIZE bytes as one piece; the record has room for as many, whatever is needed of it.
#define COPY(SIZE)                                                                                            \
	{                                                                                                     \
		struct {                                                                                      \
			struct piece piece;                                                                   \
			u8 bytes[SIZE];                                                                       \
		} *copy = ring_reserve(&payloads, sizeof(*copy), 0);                                          \
		if (!copy) {                                                                                  \
			walk->about |= RING_WAS_FULL;                                                         \
			return 1;                                                                             \
		}                                                                                             \
		asm volatile("" : "+r"(length));                                                              \
		if (length > SIZE)                                                                            \
			length = SIZE;                                                                        \
		if (read_user(copy->bytes, length, (void *)walk->base)) {                                     \
			ring_discard(copy, NO_WAKEUP);                                                        \
			goto unreadable;                                                                      \
		}                                                                                             \
		copy->piece.kind = TOLD_BYTES;                                                                \
		copy->piece.length = length;                                                                  \
		copy->piece.id = walk->id;                                                                    \
		ring_submit(copy, NO_WAKEUP);                                                                 \
	}

#define LARGEST 65536

SUBPROGRAM long copy_more(u32 index, struct place *place)
{
	struct walk *walk = place->walk;
	u64 room, wanted = walk->left;
	u32 length;

	if (!walk->left)
		return 1;
	if (!walk->length) {
		if (!walk->count)
			return 1;
		if (!read_vector(&walk->base, &walk->length, walk->vectors, walk->compat)) {
			walk->about |= WAS_UNREADABLE;
			return 1;
		}
		walk->vectors += walk->compat ? 8 : 16;
		walk->count--;
		return 0;
	}
	if (wanted > walk->length)
		wanted = walk->length;
	room = walk->page_by_page ? PAGE - (walk->base & (PAGE - 1)) : LARGEST;
	if (wanted > room)
		wanted = room;
	length = (u32)wanted;
	if (length <= 256)
		COPY(256)
	else if (length <= 1024)
		COPY(1024)
	else if (length <= 4096)
		COPY(4096)
	else if (length <= 16384)
		COPY(16384)
	else
		COPY(LARGEST)
	walk->base += length;
	walk->length -= length;
	walk->left -= length;
	walk->done += length;
	walk->pieces++;
	return 0;
unreadable:
	// Of several pages only some may be there.
	if (walk->page_by_page) {
		walk->about |= WAS_UNREADABLE;
		return 1;
	}
	walk->page_by_page = 1;
	return 0;
}

struct header {
	u64 name;
	u64 vectors;
	u64 count;
	u64 control;
	u64 control_length;
	s32 name_length;
	u32 flags;
};

// struct msghdr, and that of 32 bits.
INLINE int read_header(struct header *header, u64 at, int compat)
{
	u32 half[7] = {};
	u64 whole[7] = {};

	if (compat) {
		if (read_user(half, sizeof(half), (void *)at))
			return 0;
		header->name = half[0];
		header->name_length = half[1];
		header->vectors = half[2];
		header->count = half[3];
		header->control = half[4];
		header->control_length = half[5];
	} else {
		if (read_user(whole, sizeof(whole), (void *)at))
			return 0;
		header->name = whole[0];
		header->name_length = (s32)whole[1];
		header->vectors = whole[2];
		header->count = whole[3];
		header->control = whole[4];
		header->control_length = whole[5];
	}
	return 1;
}

// Descriptors in a control message.
struct descriptors {
	struct control *control;
	u32 first;
	u32 bytes;
};

SUBPROGRAM long name_descriptor(u32 index, struct descriptors *all)
{
	struct control *control = all->control;
	u32 at = all->first + index * 4;
	struct file *file;
	s32 fd;

	if (index >= PASSED || at + 4 > all->bytes || at > CONTROL_BYTES - 4)
		return 1;
	__builtin_memcpy(&fd, control->bytes + at, 4);
	file = file_of_fd(current_task_direct(), fd);
	if (file && sock_of_file(file))
		control->inodes[index] = inode_of_file(file);
	return 0;
}

// Control messages, and which sockets the descriptors are that come first. Whether there is such a record.
INLINE int tell_control(u64 id, u64 at, u64 length, int compat)
{
	struct control *control;
	u32 bytes = length > CONTROL_BYTES ? CONTROL_BYTES : (u32)length;
	u32 first = compat ? 12 : 16;
	struct descriptors all = { .first = first };
	s32 level, type;

	if (!at || length < 12)
		return 0;
	control = ring_reserve(&payloads, sizeof(struct control), 0);
	if (!control)
		return 0;
	__builtin_memset(control, 0, sizeof(struct control));
	asm volatile("" : "+r"(bytes));
	if (bytes > CONTROL_BYTES)
		bytes = CONTROL_BYTES;
	if (read_user(control->bytes, bytes, (void *)at)) {
		ring_discard(control, NO_WAKEUP);
		return 0;
	}
	__builtin_memcpy(&level, control->bytes + first - 8, 4);
	__builtin_memcpy(&type, control->bytes + first - 4, 4);
	if (level == 1 && type == 1) {
		all.control = control;
		all.bytes = bytes;
		loop(PASSED, name_descriptor, &all, 0);
	}
	control->piece.kind = TOLD_CONTROL;
	control->piece.length = bytes;
	control->piece.id = id;
	ring_submit(control, NO_WAKEUP);
	return 1;
}

INLINE void read_name(struct transfer *told, u64 at, s64 length)
{
	u32 bytes = length > (s64)sizeof(told->to) ? sizeof(told->to) : (u32)length;

	if (!at || length <= 0)
		return;
	asm volatile("" : "+r"(bytes));
	if (bytes > sizeof(told->to))
		return;
	if (!read_user(told->to, bytes, (void *)at))
		told->to_length = bytes;
}

INLINE u32 flags_of(struct move *move)
{
	switch (move->step) {
	case STEP_RECVMSG:
	case STEP_SENDMSG:
		return move->args[2];
	case STEP_RECVFROM:
	case STEP_SENDTO:
	case STEP_RECVMMSG:
	case STEP_SENDMMSG:
		return move->args[3];
	default:
		return 0;
	}
}

// A call that has ended, or one message of it, whose header lies at `at`; `result` is the number of its bytes.
GLOBAL int tell_call(struct move *move, u64 at, s64 result)
{
	struct task_struct *task = current_task_direct();
	struct header header = {};
	struct transfer *told;
	struct place place;
	struct walk *walk;
	s32 length = 0;
	u32 zero = 0;

	walk = map_lookup(&scratch_walk, &zero);
	if (!move || !walk)
		return 0;
	told = reserve_transfer(TOLD_CALL, move->inode);
	if (!told) {
		lose_call(move->inode, move->out, move->step < STEP_CONNECT ? result : 0);
		return 0;
	}
	told->id = __sync_fetch_and_add(&last_id, 1);
	told->fd = move->fd;
	told->result = result;
	told->number = move->number;
	told->step = move->step;
	told->abi = move->abi;
	told->message_flags = flags_of(move);
	if (move->out)
		told->about |= GOES_OUT;
	describe_caller(told, task);
	describe_socket(told, (struct sock *)move->sk);
	if (result < 0 || move->step >= STEP_CONNECT)
		goto out;
	__builtin_memset(walk, 0, sizeof(*walk));
	walk->compat = move->abi == ABI_COMPAT;
	walk->id = told->id;
	walk->left = result;
	if (walk->left > most_bytes)
		walk->left = most_bytes;
	// TCP throws such bytes away: nothing was written.
	if (!move->out && (told->message_flags & MSG_TRUNC) && told->type == SOCK_STREAM && told->family != AF_UNIX)
		walk->left = 0;
	switch (move->step) {
	case STEP_READ:
	case STEP_WRITE:
		walk->base = move->args[1];
		walk->length = move->args[2];
		break;
	case STEP_READV:
	case STEP_WRITEV:
		walk->vectors = move->args[1];
		walk->count = move->args[2];
		break;
	case STEP_SENDTO:
		walk->base = move->args[1];
		walk->length = move->args[2];
		read_name(told, move->args[4], (s32)move->args[5]);
		break;
	case STEP_RECVFROM:
		walk->base = move->args[1];
		walk->length = move->args[2];
		if (move->args[4] && !read_user(&length, 4, (void *)move->args[5]))
			read_name(told, move->args[4], length);
		break;
	case STEP_SENDFILE:
	case STEP_SENDFILE64:
		told->source_fd = move->source_fd;
		told->source_inode = move->source_inode;
		told->source_offset = move->source_offset;
		told->about |= WAS_ELSEWHERE;
		goto out;
	case STEP_SPLICE:
		told->source_fd = -1;
		told->about |= WAS_ELSEWHERE;
		goto out;
	default:
		if (!read_header(&header, at, walk->compat)) {
			told->about |= WAS_UNREADABLE;
			goto out;
		}
		walk->vectors = header.vectors;
		walk->count = header.count;
		read_name(told, header.name, header.name_length);
		if (tell_control(walk->id, header.control, header.control_length, walk->compat))
			walk->pieces++;
	}
	place.walk = walk;
	loop(1 << 20, copy_more, &place, 0);
	told->stored = walk->done;
	told->pieces = walk->pieces;
	told->about |= walk->about;
out:
	submit(told);
	return 0;
}
