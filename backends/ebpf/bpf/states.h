// SPDX-License-Identifier: GPL-2.0-or-later
// TCP's states. They change in whatever context a packet or a timer comes: the running thread has nothing to
// do with it, so that a socket's user is remembered when it connects, listens or accepts.
#pragma once

#include "calls.h"

// Who listens where a connection came to `sk`: at its very address, or at all of them.
INLINE struct owner *owner_of_listener(struct sock *sk, u16 family)
{
	struct service service = {};
	struct owner *owner;

	service_of(&service, sk, family);
	owner = map_lookup(&listeners, &service);
	if (!owner && is_mapped((const be32 *)service.ip)) {
		map_ip4(service.ip, 0);
		owner = map_lookup(&listeners, &service);
	}
	if (owner)
		return owner;
	__builtin_memset(service.ip, 0, 16);
	return map_lookup(&listeners, &service);
}

// A connection that somebody asks for begins in his own call: connect, or a send that opens it (MSG_FASTOPEN; a plain
// write after TCP_FASTOPEN_CONNECT); and so does listening.
INLINE void note_user(struct sock *sk, u64 key, u8 op)
{
	struct task_struct *task = current_task_direct();
	struct owner owner = {};
	struct call *call;

	if (task->flags & PF_IO_WORKER) {
		call = call_in_hook(op);
		if (call) {
			// On a socket beneath the one that was named, too (MPTCP).
			note_owner(call, sk);
			return;
		}
	}
	owner.tgid = task->tgid;
	owner.tid = task->pid;
	owner.uid = own_uid_of(task);
	copy_comm(owner.comm, task);
	// Whoever had a socket at this place in memory before is forgotten.
	if (task->flags & PF_KTHREAD || !is_wanted(task, owner.tgid, owner.uid, 1))
		map_delete(&owners, &key);
	else
		map_update(&owners, &key, &owner, ANY);
}

SECTION("tp_btf/inet_sock_set_state") int set_state(u64 *context)
{
	struct sock *sk = (struct sock *)context[0];
	int before = (int)context[1], after = (int)context[2];
	u64 key = (u64)sk;
	struct owner *owner, *listener;
	u16 family = family_of(sk);
	struct record *record;
	struct service service = {};
	u32 netns;

	if (!wanted_states || !is_inet(family))
		return 0;
	netns = netns_of_sock(sk);
	if (before == TCP_LISTEN && after == TCP_SYN_RECV) {
		// A new socket: what is known of this place in memory was another one's.
		listener = owner_of_listener(sk, family);
		if (listener)
			map_update(&owners, &key, listener, ANY);
		else
			map_delete(&owners, &key);
	}
	if (before == TCP_CLOSE && after == TCP_SYN_SENT)
		note_user(sk, key, OP_CONNECT);
	if (before == TCP_CLOSE && after == TCP_LISTEN)
		note_user(sk, key, OP_LISTEN);
	owner = map_lookup(&owners, &key);
	if ((owner || !(filters & ~BY_NETNS)) && is_wanted_netns(netns)) {
		record = reserve(KIND_TCP_STATE);
		if (record) {
			if (owner) {
				record->tgid = owner->tgid;
				record->tid = owner->tid;
				record->uid = owner->uid;
				__builtin_memcpy(record->comm, owner->comm, sizeof(record->comm));
			}
			record->result = ((s64)before << 32) | (u32)after;
			record->netns = netns;
			record->family = family;
			record->type = READ(sk->sk_type);
			record->protocol = READ(sk->sk_protocol);
			record->flags = HAS_SOCKET | HAS_LOCAL | HAS_PEER;
			ends_of(&record->local, &record->peer, sk, family);
			submit(record);
		}
	}
	if (after != TCP_CLOSE)
		return 0;
	if (before == TCP_LISTEN) {
		// Another process may listen there too (SO_REUSEPORT).
		service_of(&service, sk, family);
		listener = map_lookup(&listeners, &service);
		if (owner && listener && owner->tgid == listener->tgid)
			map_delete(&listeners, &service);
	}
	map_delete(&owners, &key);
	return 0;
}
