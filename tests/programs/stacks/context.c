/* A coroutine. */
#include "stop.h"
#include <ucontext.h>

static ucontext_t outer, inner;

static NOINLINE void body(int n)
{
	volatile int keep = n;
	(void)keep;
	stop();
	NO_TAIL;
}

static void coroutine(void)
{
	body(1);
	NO_TAIL;
}

int main(void)
{
	static char stack[1 << 16];
	getcontext(&inner);
	inner.uc_stack.ss_sp = stack;
	inner.uc_stack.ss_size = sizeof stack;
	inner.uc_link = &outer;
	makecontext(&inner, coroutine, 0);
	swapcontext(&outer, &inner);
	return 0;
}
