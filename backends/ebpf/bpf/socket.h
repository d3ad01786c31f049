// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets: from a descriptor to the kernel's socket, and what it knows of its addresses.
#pragma once

#include "helpers.h"
#include "shared.h"

// A socket lies before its inode (`struct socket_alloc` of include/net/sock.h): one reading takes both. What lies before another
// inode is not looked at.
SUBPROGRAM struct sock *sock_of_file(struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	u64 inode_at = OFFSET_OF(((struct socket_alloc *)0)->vfs_inode);
	u64 mode_at = inode_at + OFFSET_OF(((struct inode *)0)->i_mode);
	u64 at = OFFSET_OF(((struct socket_alloc *)0)->socket.sk);
	u8 bytes[112];
	struct sock *sk;
	u16 mode;

	if (at < mode_at && mode_at - at <= sizeof(bytes) - sizeof(mode)) {
		if (read_kernel(bytes, sizeof(bytes), (u8 *)inode - inode_at + at))
			return 0;
		__builtin_memcpy(&sk, bytes, sizeof(sk));
		__builtin_memcpy(&mode, bytes + (mode_at - at), sizeof(mode));
	} else {
		mode = READ(inode->i_mode);
		sk = READ(((struct socket_alloc *)((u8 *)inode - inode_at))->socket.sk);
	}
	return (mode & S_IFMT) == S_IFSOCK ? sk : 0;
}

INLINE u64 inode_of_file(struct file *file)
{
	struct inode *inode = READ(file->f_inode);

	return READ(inode->i_ino);
}

// The file behind a descriptor of the task (as current_task_direct() gives it).
INLINE struct file *file_of_fd(struct task_struct *task, s32 fd)
{
	struct files_struct *files = task->files;
	struct file **array, *file = 0;
	struct fdtable *table;

	// Not with a thread that is ending.
	if (!files)
		return 0;
	table = files->fdt;
	if (fd < 0 || (u32)fd >= table->max_fds)
		return 0;
	array = table->fd;
	read_kernel(&file, sizeof(file), &array[(u32)fd]);
	return file;
}

INLINE struct sock *sock_of_fd(struct task_struct *task, s32 fd)
{
	struct file *file = file_of_fd(task, fd);

	return file ? sock_of_file(file) : 0;
}

INLINE u16 family_of(struct sock *sk)
{
	return READ(sk->__sk_common.skc_family);
}

INLINE u32 netns_of_sock(struct sock *sk)
{
	struct net *net = READ(sk->__sk_common.skc_net.net);

	return READ(net->ns.inum);
}

// The first bytes of a socket, with its addresses: one reading takes less time than one for each field.
struct head {
	u8 bytes[96];
};

INLINE void head_of(struct head *head, struct sock *sk)
{
	if (read_kernel(head, sizeof(*head), &sk->__sk_common))
		__builtin_memset(head, 0, sizeof(*head));
}

// A field from there, or, where a kernel has it further back, from the socket.
#define FROM_HEAD(to, head, sk, field)                                                                          \
	({                                                                                                      \
		u64 at_ = OFFSET_OF(((struct sock_common *)0)->field);                                          \
		if (at_ <= sizeof((head)->bytes) - sizeof(to))                                                  \
			__builtin_memcpy(&(to), (head)->bytes + at_, sizeof(to));                               \
		else                                                                                            \
			read_kernel(&(to), sizeof(to),                                                          \
				    (void *)__builtin_preserve_access_index(&(sk)->__sk_common.field)); \
	})

// They lie side by side in the kernels of today.
INLINE void type_of(u16 *type, u16 *protocol, struct sock *sk)
{
	u16 both[2] = {};

	if (OFFSET_OF(sk->sk_protocol) == OFFSET_OF(sk->sk_type) + 2) {
		read_kernel(both, sizeof(both), (void *)__builtin_preserve_access_index(&sk->sk_type));
		*type = both[0];
		*protocol = both[1];
	} else {
		*type = READ(sk->sk_type);
		*protocol = READ(sk->sk_protocol);
	}
}

// The number of a network namespace, which mostly is that of the running thread. `task` as current_task_direct() gives it.
INLINE u32 number_of_netns(struct net *net, struct task_struct *task)
{
	struct net *own = task->nsproxy->net_ns, *same = own;

	// The verifier lets us look into one of them alone, which the compiler, who may not know this, would take for the other.
	asm volatile("" : "+r"(same));
	return net == same ? own->ns.inum : READ(net->ns.inum);
}

INLINE void look_at_sock(struct sock *sk, struct task_struct *task, u16 *family, u16 *type, u16 *protocol, u32 *netns)
{
	struct net *net;
	struct head head;

	head_of(&head, sk);
	FROM_HEAD(*family, &head, sk, skc_family);
	FROM_HEAD(net, &head, sk, skc_net);
	type_of(type, protocol, sk);
	*netns = number_of_netns(net, task);
}

INLINE void ends_of(struct endpoint *local, struct endpoint *peer, struct sock *sk, u16 family)
{
	struct head head;
	u16 number;
	be32 ip;

	head_of(&head, sk);
	local->family = family;
	peer->family = family;
	// The former is gone when a connection closes.
	FROM_HEAD(number, &head, sk, skc_num);
	local->port = number ? __builtin_bswap16(number) : READ(((struct inet_sock *)sk)->inet_sport);
	FROM_HEAD(peer->port, &head, sk, skc_dport);
	FROM_HEAD(local->scope, &head, sk, skc_bound_dev_if);
	peer->scope = local->scope;
	if (family == AF_INET6) {
		FROM_HEAD(local->ip, &head, sk, skc_v6_rcv_saddr);
		FROM_HEAD(peer->ip, &head, sk, skc_v6_daddr);
	} else {
		__builtin_memset(local->ip, 0, 16);
		__builtin_memset(peer->ip, 0, 16);
		FROM_HEAD(ip, &head, sk, skc_rcv_saddr);
		__builtin_memcpy(local->ip, &ip, 4);
		FROM_HEAD(ip, &head, sk, skc_daddr);
		__builtin_memcpy(peer->ip, &ip, 4);
	}
}

// An IPv4 address in IPv6 spelling, where zeros are.
INLINE void map_ip4(u8 *to, be32 ip)
{
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &ip, 4);
}

// Field by field, which takes little of the stack.
INLINE void local_of(struct endpoint *to, struct sock *sk, u16 family)
{
	u16 number = READ(sk->__sk_common.skc_num);

	to->family = family;
	to->port = number ? __builtin_bswap16(number) : READ(((struct inet_sock *)sk)->inet_sport);
	to->scope = READ(sk->__sk_common.skc_bound_dev_if);
	__builtin_memset(to->ip, 0, 16);
	if (family == AF_INET6)
		read_kernel(to->ip, 16, (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
	else
		read_kernel(to->ip, 4, (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr));
}

// The name of a UNIX socket, as a sockaddr; its length, 0 where it has none.
SUBPROGRAM int unix_name(struct sock *sk, u8 *to)
{
	struct unix_sock *un = (struct unix_sock *)sk;
	struct unix_address *address;
	u32 length;

	if (!sk || !to)
		return 0;
	address = READ(un->addr);
	if (!address)
		return 0;
	length = READ(address->len);
	if (length == 0 || length > 110)
		return 0;
	if (read_kernel(to, length, (void *)__builtin_preserve_access_index(&address->name)))
		return 0;
	return length;
}

INLINE struct sock *unix_peer(struct sock *sk)
{
	struct unix_sock *un = (struct unix_sock *)sk;

	return READ(un->peer);
}
