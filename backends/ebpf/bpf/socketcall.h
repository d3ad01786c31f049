// SPDX-License-Identifier: GPL-2.0-or-later
// i386: the call behind a socketcall.
#pragma once

#include "maps.h"
#include "task.h"

// The operation behind a socketcall (net/socket.c, `__do_sys_socketcall`).
GLOBAL int multiplexed(u64 number)
{
	switch (number) {
	case 2:
		return OP_BIND;
	case 3:
		return OP_CONNECT;
	case 4:
		return OP_LISTEN;
	case 5:
		return OP_ACCEPT;
	case 9: // send: sendto without an address
	case 11:
		return OP_SENDTO;
	case 10: // recv
	case 12:
		return OP_RECVFROM;
	case 16:
		return OP_SENDMSG;
	case 17:
		return OP_RECVMSG;
	case 18:
		return OP_ACCEPT4;
	case 19:
		return OP_RECVMMSG;
	case 20:
		return OP_SENDMMSG;
	default:
		return OP_NONE;
	}
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
