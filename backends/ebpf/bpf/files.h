// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets that exist already: one record each, and their users remembered for what TCP does with them.
#pragma once

#include "emit.h"

SECTION("iter/task_file") int existing(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct seq_file *seq = context->meta->seq;
	struct record *record;
	struct owner owner = {};
	struct service service = {};
	struct sock *sk, *named;
	u32 zero = 0, length;
	u16 family;
	u64 key;

	if (!task || !file)
		return 0;
	sk = sock_of_file(file);
	if (!sk)
		return 0;
	owner.tgid = READ(task->tgid);
	owner.tid = READ(task->pid);
	owner.uid = uid_of(task);
	if (!is_wanted(task, owner.tgid, owner.uid, 0) || !is_wanted_netns(netns_of_sock(sk)))
		return 0;
	read_kernel(owner.comm, sizeof(owner.comm), (void *)__builtin_preserve_access_index(&task->comm));
	record = map_lookup(&scratch_record, &zero);
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	family = family_of(sk);
	key = (u64)sk;
	record->kind = KIND_SOCKET;
	record->tgid = owner.tgid;
	record->tid = owner.tid;
	record->uid = owner.uid;
	record->time = ktime();
	__builtin_memcpy(record->comm, owner.comm, sizeof(owner.comm));
	record->fd = context->fd;
	record->netns = netns_of_sock(sk);
	record->family = family;
	record->type = READ(sk->sk_type);
	record->protocol = READ(sk->sk_protocol);
	record->result = READ(sk->__sk_common.skc_state);
	record->flags = HAS_SOCKET;
	if (is_inet(family)) {
		ends_of(&record->local, &record->peer, sk, family);
		record->flags |= HAS_LOCAL;
		if (record->peer.port)
			record->flags |= HAS_PEER;
		if (record->type == SOCK_STREAM) {
			map_update(&owners, &key, &owner, ANY);
			if (record->result == TCP_LISTEN) {
				service_of(&service, sk, family);
				map_update(&listeners, &service, &owner, ANY);
			}
		}
	} else if (family == AF_UNIX) {
		named = unix_peer(sk);
		length = named ? unix_name(named, record->name) : unix_name(sk, record->name);
		if (length && length <= sizeof(record->name)) {
			record->name_length = length;
			record->source = FROM_SOCKET;
		}
		if (named)
			record->flags |= HAS_PEER;
	}
	seq_write(seq, record, sizeof(*record));
	return 0;
}
