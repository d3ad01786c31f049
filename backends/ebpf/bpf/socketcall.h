// SPDX-License-Identifier: GPL-2.0-or-later
// i386: the call behind a socketcall.
#pragma once

#include "maps.h"
#include "task.h"

// The operations behind socketcalls (net/socket.c, `__do_sys_socketcall`); of others OP_NONE. A table, as the verifier
// would follow each answer of a switch on its own.
static const u8 socketcalls[] = {
	[2] = OP_BIND,
	[3] = OP_CONNECT,
	[4] = OP_LISTEN,
	[5] = OP_ACCEPT,
	// send: sendto without an address
	[9] = OP_SENDTO,
	// recv
	[10] = OP_RECVFROM,
	[11] = OP_SENDTO,
	[12] = OP_RECVFROM,
	[16] = OP_SENDMSG,
	[17] = OP_RECVMSG,
	[18] = OP_ACCEPT4,
	[19] = OP_RECVMMSG,
	[20] = OP_SENDMMSG,
};

INLINE u8 multiplexed(u64 number)
{
	return number < sizeof(socketcalls) ? socketcalls[number] : OP_NONE;
}

// Takes a socketcall apart. Its arguments lie in the caller's memory, which may not be there yet.
GLOBAL int take_apart(struct call *call)
{
	u32 args[6] = {};
	u8 op;

	if (!call)
		return 0;
	op = multiplexed(call->args[0]);
	if (op == OP_NONE)
		return 0;
	// The longest has six; the shortest end may lie at the end of a page.
	if (read_user(args, sizeof(args), (void *)call->args[1]) &&
	    read_user(args, 16, (void *)call->args[1]) && read_user(args, 12, (void *)call->args[1]) &&
	    read_user(args, 8, (void *)call->args[1]))
		return 0;
	if (call->args[0] == 9 || call->args[0] == 10) {
		args[4] = 0;
		args[5] = 0;
	}
	call->op = op;
	call->args[0] = args[0];
	call->args[1] = args[1];
	call->args[2] = args[2];
	call->args[3] = args[3];
	call->args[4] = args[4];
	call->args[5] = args[5];
	return 1;
}
