// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's helper functions by their numbers (`__BPF_FUNC_MAPPER` of <linux/bpf.h>).
#pragma once

#include "kernel.h"

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define SUBPROGRAM static __attribute__((noinline))
// Verified once, and not anew at every call.
#define GLOBAL __attribute__((noinline))

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime)(void) = (void *)5;
static u32 (*random)(void) = (void *)7;
// Which may be looked into directly (`bpf_get_current_task_btf`).
static struct task_struct *(*current_task_direct)(void) = (void *)158;
static long (*current_under_cgroup)(void *map, u32 index) = (void *)37;
static u64 (*cookie_of)(void *context) = (void *)46;
static long (*send_signal)(u32 signal) = (void *)109;
static long (*read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*read_user_string)(void *to, u32 size, const void *from) = (void *)114;
static long (*read_kernel_string)(void *to, u32 size, const void *from) = (void *)115;
// Of the network namespace in which a socket was made (Linux 5.14).
static u64 (*netns_cookie)(void *context) = (void *)122;
static long (*seq_write)(struct seq_file *seq, const void *data, u32 size) = (void *)127;
static void *(*ring_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ring_submit)(void *record, u64 flags) = (void *)132;
static void (*ring_discard)(void *record, u64 flags) = (void *)133;
static struct tcp_sock *(*tcp_sock_of)(void *sk) = (void *)137;
// Linux 5.17
static long (*loop)(u32 count, void *callback, void *context, u64 flags) = (void *)181;
// What a refused call returns (Linux 5.18).
static int (*set_return)(int value) = (void *)187;
// The registers with which a thread has entered the kernel (Linux 5.15).
static struct pt_regs *(*registers_of)(struct task_struct *task) = (void *)175;

// A field of a kernel structure, zero where it can't be read.
#define READ(field)                                                                                     \
	({                                                                                              \
		typeof(field) value_;                                                                   \
		__builtin_memset(&value_, 0, sizeof(value_));                                           \
		read_kernel(&value_, sizeof(value_), (void *)__builtin_preserve_access_index(&(field))); \
		value_;                                                                                 \
	})

#define EXISTS(field) __builtin_preserve_field_info(field, 2)
#define SIZE_OF(field) __builtin_preserve_field_info(field, 1)
#define OFFSET_OF(field) __builtin_preserve_field_info(field, 0)

// Map definitions, as BTF says them.
#define TYPE(number) int(*type)[number]
#define ENTRIES(number) int(*max_entries)[number]
#define FLAGS(number) int(*map_flags)[number]
#define MAP SECTION(".maps")

enum {
	MAP_HASH = 1,
	MAP_ARRAY = 2,
	MAP_PERCPU_ARRAY = 6,
	MAP_CGROUP_ARRAY = 8,
	MAP_LRU_HASH = 9,
	MAP_LPM_TRIE = 11,
	MAP_RINGBUF = 27,
};

#define NO_PREALLOCATION 1

#define ANY 0
