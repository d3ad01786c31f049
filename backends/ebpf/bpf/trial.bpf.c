// SPDX-License-Identifier: GPL-2.0-or-later
// Whether LSM programs are heeded: they may be loaded and attached where the kernel never asks them (lsm= without bpf).

#include "helpers.h"

// Who tries, and with a message of how many bytes.
const volatile u32 own_tgid;
const volatile u32 trial_bytes;

SECTION("lsm/socket_sendmsg") long trial(u64 *context)
{
	if ((u64)context[2] != trial_bytes)
		return 0;
	if (current_task_direct()->tgid != own_tgid)
		return 0;
	return -EPERM;
}

char licence[] SECTION("license") = "GPL";
