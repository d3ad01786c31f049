// SPDX-License-Identifier: GPL-2.0-or-later
// Which files a process has loaded, and where: for stacks of who has ended before /proc could be asked. As debuggers
// find them in a core: the kernel's auxiliary vector leads to the program's headers, those to what the dynamic linker tells
// debuggers (`struct r_debug` of <link.h>). 64-bit programs alone.
#pragma once

#include "task.h"

// <elf.h>
#define AT_PHDR 3
#define AT_PHNUM 5
#define PT_LOAD 1
#define PT_DYNAMIC 2
#define PT_PHDR 6
#define DT_DEBUG 21

// More than any program has, or as many as are looked at.
#define MOST_AUXILIARY 20
#define MOST_HEADERS 32
#define MOST_ENTRIES 64

// sizeof(Elf64_Ehdr), behind which the program headers stand; sizeof(Elf64_Phdr), and where p_offset and p_vaddr are in it
#define FILE_HEADER_BYTES 64
#define HEADER_BYTES 56
#define HEADER_PLACE 8

struct dynamic_entry {
	u64 tag;
	u64 value;
};

// <link.h>, as far as debuggers know it
struct link_map {
	u64 bias;
	u64 name;
	u64 dynamic;
	u64 next;
};

// Where the dynamic linker tells debuggers what it has loaded, 0 where nobody does.
INLINE u64 debug_of(u64 headers, u64 count, u64 *bias)
{
	struct dynamic_entry entry;
	u64 place[2] = {}, dynamic = 0;
	u32 index, type = 0;

	for (index = 0; index < MOST_HEADERS && index < count; index++) {
		if (read_user(&type, sizeof(type), (void *)headers + index * HEADER_BYTES))
			return 0;
		if (type != PT_PHDR && type != PT_DYNAMIC && type != PT_LOAD)
			continue;
		if (read_user(place, sizeof(place), (void *)headers + index * HEADER_BYTES + HEADER_PLACE))
			return 0;
		if (type == PT_PHDR)
			*bias = headers - place[1];
		else if (type == PT_DYNAMIC)
			dynamic = place[1];
		else if (!place[0] && !*bias)
			*bias = headers - FILE_HEADER_BYTES - place[1];
	}
	if (!dynamic)
		return 0;
	dynamic += *bias;
	for (index = 0; index < MOST_ENTRIES; index++) {
		if (read_user(&entry, sizeof(entry), (void *)dynamic + index * sizeof(entry)) || !entry.tag)
			return 0;
		if (entry.tag == DT_DEBUG)
			return entry.value;
	}
	return 0;
}

// Of the running thread.
GLOBAL int note_modules(struct modules *modules)
{
	struct task_struct *task = current_task_direct();
	struct mm_struct *mm = READ(task->mm);
	u64 pair[2] = {}, headers = 0, count = 0, bias = 0, at = 0;
	struct link_map map;
	u32 index;

	if (!modules)
		return 0;
	modules->count = 0;
	if (!mm || is_compat(task))
		return 0;
	for (index = 0; index < MOST_AUXILIARY; index++) {
		read_kernel(pair, sizeof(pair), (u8 *)__builtin_preserve_access_index(&mm->saved_auxv) + index * sizeof(pair));
		if (pair[0] == AT_PHDR)
			headers = pair[1];
		if (pair[0] == AT_PHNUM)
			count = pair[1];
	}
	if (!headers)
		return 0;
	// The program itself, then what the dynamic linker has loaded for it.
	at = debug_of(headers, count, &bias);
	modules->all[0].bias = bias;
	modules->all[0].name[0] = 0;
	modules->count = 1;
	// r_map
	if (!at || read_user(&at, sizeof(at), (void *)(at + 8)))
		return 0;
	for (index = 0; index < MOST_MODULES && at; index++) {
		if (read_user(&map, sizeof(map), (void *)at))
			return 0;
		at = map.next;
		// The first is the program.
		if (!index)
			continue;
		modules->all[index].bias = map.bias;
		modules->all[index].name[0] = 0;
		read_user_string(modules->all[index].name, sizeof(modules->all[index].name), (void *)map.name);
		modules->count = index + 1;
	}
	return 0;
}
