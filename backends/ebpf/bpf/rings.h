// SPDX-License-Identifier: GPL-2.0-or-later
// Handing records over.
#pragma once

#include "helpers.h"

// BPF_RB_NO_WAKEUP, BPF_RB_FORCE_WAKEUP
#define NO_WAKEUP 1
#define FORCE_WAKEUP 2

// Not zero: who empties the rings looks into them every few milliseconds for now (src/attention.rs), and isn't to be woken.
struct {
	TYPE(MAP_ARRAY);
	ENTRIES(1);
	u32 *key;
	u32 *value;
} attended MAP;

// Otherwise the kernel wakes the reader whenever it had caught up, by an interrupt that costs a microsecond: where calls come as
// fast as they are read, at each of them.
INLINE void submit(void *record)
{
	u32 zero = 0, *is_attended = map_lookup(&attended, &zero);

	ring_submit(record, is_attended && *is_attended ? NO_WAKEUP : 0);
}
