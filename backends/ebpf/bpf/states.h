// SPDX-License-Identifier: GPL-2.0-or-later
// TCP's states. They change in whatever context a packet or a timer comes: the running thread has nothing to
// do with it, so that a socket's user is remembered when it connects, listens or accepts.
#pragma once

#include "emit.h"

SECTION("tp_btf/inet_sock_set_state") int set_state(u64 *context)
{
	struct sock *sk = (struct sock *)context[0];
	int before = (int)context[1], after = (int)context[2];
	u64 key = (u64)sk;
	struct owner *owner = map_lookup(&owners, &key);
	u16 family = family_of(sk);
	struct task_struct *task;
	struct record *record;
	struct call *call;
	u32 tid;
	struct port port = {};

	if (!owner && before == TCP_LISTEN && after == TCP_SYN_RECV) {
		port.netns = netns_of_sock(sk);
		port.number = READ(sk->__sk_common.skc_num);
		owner = map_lookup(&listeners, &port);
		if (owner)
			map_update(&owners, &key, owner, ANY);
	}
	if (!owner && before == TCP_CLOSE && after == TCP_SYN_SENT) {
		// In connect itself, on a socket beneath the one that was named (MPTCP).
		task = current_task_direct();
		tid = task->pid;
		call = call_of(tid);
		if (call && call->op == OP_CONNECT) {
			note_owner(call, sk);
			owner = map_lookup(&owners, &key);
		}
	}
	if (wanted_states && is_inet(family) && (owner || !filters)) {
		record = reserve(KIND_TCP_STATE);
		if (record) {
			if (owner) {
				record->tgid = owner->tgid;
				record->tid = owner->tid;
				record->uid = owner->uid;
				__builtin_memcpy(record->comm, owner->comm, sizeof(record->comm));
			}
			record->result = ((s64)before << 32) | (u32)after;
			record->netns = netns_of_sock(sk);
			record->family = family;
			record->type = READ(sk->sk_type);
			record->protocol = READ(sk->sk_protocol);
			record->flags = HAS_SOCKET | HAS_LOCAL | HAS_PEER;
			ends_of(&record->local, &record->peer, sk, family);
			submit(record);
		}
	}
	if (after == TCP_CLOSE)
		map_delete(&owners, &key);
	return 0;
}
