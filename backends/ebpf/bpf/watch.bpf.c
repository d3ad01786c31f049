// SPDX-License-Identifier: GPL-2.0-or-later
// All programs, one object.

#include "calls.h"
#include "connects.h"
#include "files.h"
#include "io_uring.h"
#include "messages.h"
#include "processes.h"
#include "states.h"

// The kernel lends its tracing helpers to programs under its own licence alone.
char licence[] SECTION("license") = "GPL";
