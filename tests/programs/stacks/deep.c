/* Deep recursion. */
#include "stop.h"

static NOINLINE int deeper(int depth)
{
	volatile int here = depth;
	if (depth == 0)
		stop();
	int below = deeper(depth - 1);
	NO_TAIL;
	return here + below;
}

int main(int argc, char **argv)
{
	return deeper(argc > 1 ? atoi(argv[1]) : 100);
}
