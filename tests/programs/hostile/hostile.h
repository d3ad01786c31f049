/* The guest of tests/hostile.rs: what its files share. See ../vectors/common.h for the helpers. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "../vectors/common.h"

extern const struct vector argument_cases[], memory_cases[], signal_cases[], crowd_cases[], life_cases[],
    supervisor_cases[], unnamed_cases[], mount_cases[];

/* Prints a result and its errno by name: what is compared with the native run. */
void say(const char *what, long result);
/* Tells the harness that something has been reached, and waits until it creates the file `name`. */
void meet(const char *name);
/* A listening address whose queue is full: connecting to it waits. Returns the listener. */
int full_listener(struct address where);
long now_ms(void);

#endif
