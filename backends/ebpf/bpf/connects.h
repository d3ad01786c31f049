// SPDX-License-Identifier: GPL-2.0-or-later
// connect of sockets that the hooks on addresses don't see, where LSM programs can be had.
#pragma once

#include "messages.h"

SECTION("lsm/socket_connect") long on_connect(u64 *context)
{
	struct socket *socket = (struct socket *)context[0];
	struct prefix to = { .length = 128 };
	struct refusal_of what = { .op = OP_CONNECT };
	struct sock *sk = socket->sk;
	s32 length = (s32)context[2];
	u16 family = 0, port = 0;
	u8 *member;

	if (!sk)
		return 0;
	look_at_kind(&what.kind, sk);
	if (is_hooked(&what.kind))
		return 0;
	member = member_of(current_task_direct());
	if (!member)
		return 0;
	// Nobody of the tree has made such a socket.
	if (!is_odd(&what.kind))
		goto leaks;
	if (length >= 2 && read_kernel(&family, 2, (void *)context[1]))
		goto leaks;
	// The kernel dissolves an association, or refuses it (EINVAL), as what is too short below.
	if (!family)
		return 0;
	if (!is_inet(what.kind.family) || !is_inet(family)) {
		note_other(&what, context[1]);
		goto leaks;
	}
	if (length < (family == AF_INET6 ? 24 : 16))
		return 0;
	if (!named_destination(&to, &port, context[1], length, what.kind.family))
		goto leaks;
	// A ping socket's has been seen by the hooks on addresses since Linux 6.1.
	if (!is_ending() && is_allowed(&to, what.kind.protocol, port))
		return let_go(OP_CONNECT, member, what.kind.type == SOCK_DGRAM && what.kind.protocol != IPPROTO_UDPLITE);
	name_refused(&what, &to, port);
leaks:
	return refuse(&what, sk);
}
