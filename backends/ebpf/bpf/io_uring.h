// SPDX-License-Identifier: GPL-2.0-or-later
// io_uring: operations without system calls. A request is followed from its submission to its completion; the
// hooks in between tell its address, on the submitting thread, the ring's own, or a worker.
#pragma once

#include "calls.h"

// enum io_uring_op of <linux/io_uring.h>
INLINE u8 operation_of_request(u8 opcode)
{
	switch (opcode) {
	case 9: // SENDMSG
	case 48: // SENDMSG_ZC
		return OP_SENDMSG;
	case 10: // RECVMSG
		return OP_RECVMSG;
	case 13: // ACCEPT
		return OP_ACCEPT;
	case 16: // CONNECT
		return OP_CONNECT;
	case 26: // SEND
	case 47: // SEND_ZC
		return OP_SENDTO;
	case 27: // RECV
	case 58: // RECV_ZC
		return OP_RECVFROM;
	case 56: // BIND
		return OP_BIND;
	case 57: // LISTEN
		return OP_LISTEN;
	default:
		return OP_NONE;
	}
}

SECTION("tp_btf/io_uring_submit_req") int request_submit(u64 *context)
{
	struct io_kiocb *request = (struct io_kiocb *)context[0];
	struct task_struct *task = current_task_direct();
	u64 key = (u64)request;
	u8 op = operation_of_request(READ(request->opcode));
	u32 tid = task->pid, tgid, uid, zero = 0;
	struct call *call, *thread;
	int compat;

	thread = call_of(tid);
	if (op == OP_NONE) {
		// What the hooks see now is this request's, not the one's before.
		if (thread)
			thread->request = 0;
		return 0;
	}
	tgid = task->tgid;
	uid = own_uid_of(task);
	if (!is_wanted(task, tgid, uid, 1))
		return 0;
	if (!thread && !(task->flags & PF_IO_WORKER))
		thread = call_of_thread(tid);
	call = map_lookup(&scratch, &zero);
	if (!call)
		return 0;
	compat = thread && thread->abi == ABI_COMPAT;
	if (thread) {
		thread->request = key;
		if (op == OP_CONNECT)
			thread->connecting = key;
	} else {
		// The ring's own thread (SQPOLL), which enters no system call.
		clear(call);
		call->op = OP_IO_URING_ENTER;
		call->request = key;
		call->connecting = op == OP_CONNECT ? key : 0;
		map_update(&calls, &tid, call, ANY);
	}
	clear(call);
	call->op = op;
	call->abi = compat ? ABI_IO_URING_COMPAT : ABI_IO_URING;
	call->tid = tid;
	call->tgid = tgid;
	call->uid = uid;
	// A registered file's index is no descriptor (REQ_F_FIXED_FILE is bit 0).
	call->fd = READ(request->flags) & 1 ? -1 : READ(request->cqe.fd);
	copy_comm(call->comm, task);
	look_at(call, task);
	if (map_update(&requests, &key, call, ANY))
		count_lost();
	return 0;
}

SECTION("tp_btf/io_uring_complete") int request_complete(u64 *context)
{
	struct io_kiocb *request = (struct io_kiocb *)context[1];
	u64 key = (u64)request;
	struct call *call = map_lookup(&requests, &key);
	struct task_struct *task = current_task_direct();
	s64 result;

	if (!call)
		return 0;
	result = READ(request->cqe.res);
	if (task->tgid == call->tgid)
		note_service(call, task, result);
	if (wanted_requests & (1u << call->op))
		emit_call(call, result, HAS_RESULT);
	punish(call);
	map_delete(&requests, &key);
	return 0;
}
