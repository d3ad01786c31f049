/* A signal handler, on the stack or on one of its own, that interrupts a function. */
#include "stop.h"
#include <signal.h>

static NOINLINE void handler(int number)
{
	(void)number;
	stop();
	NO_TAIL;
}

static NOINLINE void fault(volatile int *nowhere)
{
	*nowhere = 1;
	NO_TAIL;
}

int main(int argc, char **argv)
{
	static char stack[1 << 16];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_NODEFER };
	(void)argv;
	if (argc > 1) {
		sigaltstack(&alternate, NULL);
		action.sa_flags |= SA_ONSTACK;
	}
	sigaction(SIGSEGV, &action, NULL);
	fault((volatile int *)16);
	NO_TAIL;
	return 0;
}
