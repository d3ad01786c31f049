/* Calls of functions that don't return at the very end of a function. */
#include "stop.h"

static NOINLINE __attribute__((noreturn)) void never(void)
{
	stop();
	__builtin_unreachable();
}

static NOINLINE __attribute__((noreturn)) void caller(int n)
{
	volatile int keep = n;
	(void)keep;
	never();
}

NOINLINE int behind(void)
{
	return 5;
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 0)
		caller(argc);
	return behind();
}
