// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets: from a descriptor to the kernel's socket, and what it knows of its addresses.
#pragma once

#include "helpers.h"
#include "shared.h"

INLINE struct sock *sock_of_file(struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	struct socket *socket;

	if ((READ(inode->i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = READ(file->private_data);
	return READ(socket->sk);
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

INLINE void local_of(struct endpoint *to, struct sock *sk, u16 family)
{
	be32 ip;

	to->family = family;
	// Not skc_num, which is gone when a connection closes.
	to->port = READ(((struct inet_sock *)sk)->inet_sport);
	to->scope = READ(sk->__sk_common.skc_bound_dev_if);
	if (family == AF_INET6) {
		read_kernel(to->ip, 16, (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
	} else {
		ip = READ(sk->__sk_common.skc_rcv_saddr);
		__builtin_memset(to->ip, 0, 16);
		__builtin_memcpy(to->ip, &ip, 4);
	}
}

INLINE void peer_of(struct endpoint *to, struct sock *sk, u16 family)
{
	be32 ip;

	to->family = family;
	to->port = READ(sk->__sk_common.skc_dport);
	to->scope = READ(sk->__sk_common.skc_bound_dev_if);
	if (family == AF_INET6) {
		read_kernel(to->ip, 16, (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
	} else {
		ip = READ(sk->__sk_common.skc_daddr);
		__builtin_memset(to->ip, 0, 16);
		__builtin_memcpy(to->ip, &ip, 4);
	}
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
