// SPDX-License-Identifier: GPL-2.0-or-later
// Threads and processes: born, exec'd, gone.
#pragma once

#include "emit.h"

// `path`: what it executes, or 0.
INLINE void emit_process(u32 kind, struct task_struct *task, s64 value, const char *path)
{
	struct record *record;
	long length;

	if (!wanted_processes || !is_wanted_netns(netns_of(task)))
		return;
	record = reserve(kind);
	if (!record)
		return;
	record->tgid = READ(task->tgid);
	record->tid = READ(task->pid);
	record->uid = uid_of(task);
	read_kernel(record->comm, sizeof(record->comm), (void *)__builtin_preserve_access_index(&task->comm));
	record->result = value;
	if (path) {
		// With its NUL.
		length = read_kernel_string(record->name, sizeof(record->name), path);
		record->name_length = length > 1 && length < (long)sizeof(record->name) ? length - 1 : 0;
	}
	submit(record);
}

SECTION("tp_btf/sched_process_fork") int process_fork(u64 *context)
{
	struct task_struct *parent = (struct task_struct *)context[0];
	struct task_struct *child = (struct task_struct *)context[1];
	u32 from = READ(parent->tgid), to = READ(child->tgid);
	u8 known = IS_KNOWN;

	if (from == to)
		return 0;
	if (filters & BY_TREE) {
		if (!map_lookup(&tree, &from))
			return 0;
		if (map_update(&tree, &to, &known, ANY)) {
			count_lost();
			// It would not be judged: no further.
			if (judges > JUDGE_ONLY)
				end_tree();
		}
	}
	return 0;
}

SECTION("tp_btf/sched_process_exec") int process_exec(u64 *context)
{
	struct task_struct *task = (struct task_struct *)context[0];
	u32 former = (u32)context[1];
	struct linux_binprm *program = (struct linux_binprm *)context[2];
	struct task_struct *parent;

	// A thread that executes a program becomes its process's first.
	map_delete(&calls, &former);
	parent = READ(task->real_parent);
	if (is_wanted(task, READ(task->tgid), uid_of(task), 1))
		emit_process(KIND_EXEC, task, READ(parent->tgid), READ(program->interp));
	return 0;
}

SECTION("tp_btf/sched_process_exit") int process_exit(u64 *context)
{
	struct task_struct *task = (struct task_struct *)context[0];
	u32 tid = READ(task->pid), tgid = READ(task->tgid);
	struct signal_struct *signal;
	int code;

	map_delete(&calls, &tid);
	// The process ends with its last thread, in whatever order they go.
	signal = READ(task->signal);
	if (READ(signal->live.counter) != 0)
		return 0;
	// Should the tree outlive who judges it, the guardian keeps these programs, and the rest is silence.
	if (judges && tgid == own_tgid)
		end_tree();
	code = READ(signal->group_exit_code);
	if (is_wanted(task, tgid, uid_of(task), 1))
		emit_process(KIND_EXIT, task, code ? code : READ(task->exit_code), 0);
	if (filters & BY_TREE)
		map_delete(&tree, &tgid);
	return 0;
}
