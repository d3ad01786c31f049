// SPDX-License-Identifier: GPL-2.0-or-later
// Whose calls are looked at, and which.
#pragma once

#include "helpers.h"
#include "shared.h"

// Our own thread group, which is never reported.
const volatile u32 own_tgid;
// Which of the filter maps decide (`enum filter`).
const volatile u32 filters;
const volatile u32 cgroup_count;

// More than any interface has.
#define CALLS_OF_ABI 512

// Operations by system call number: the machine's own interface, then i386's. One map: of two the kernel couldn't know in advance
// which is asked, and would not compile the lookup in.
struct {
	TYPE(MAP_ARRAY);
	ENTRIES(2 * CALLS_OF_ABI);
	u32 *key;
	u8 *value;
} operations MAP;

// Filters. Processes (IS_KNOWN, or HAS_ACTED). A tree of more processes is not judged any further, but ended, or said to be lost.
struct {
	TYPE(MAP_HASH);
	ENTRIES(131072);
	FLAGS(NO_PREALLOCATION);
	u32 *key;
	u8 *value;
} tree MAP;

struct {
	TYPE(MAP_HASH);
	ENTRIES(256);
	u32 *key;
	u8 *value;
} uids MAP;

struct {
	TYPE(MAP_HASH);
	ENTRIES(256);
	u32 *key;
	u8 *value;
} netnses MAP;

struct name {
	u8 text[16];
};

struct {
	TYPE(MAP_HASH);
	ENTRIES(256);
	struct name *key;
	u8 *value;
} names MAP;

struct {
	TYPE(MAP_CGROUP_ARRAY);
	ENTRIES(64);
	u32 *key;
	u32 *value;
} cgroups MAP;
