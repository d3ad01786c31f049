/* Frames whose size isn't known beforehand, and realigned ones. */
#include "stop.h"
#include <alloca.h>
#include <string.h>

static NOINLINE void vla(size_t size)
{
	char array[size];
	memset(array, 1, size);
	stop();
	NO_TAIL;
	memset(array, 2, size);
}

static NOINLINE void allocated(size_t size)
{
	volatile char *memory = alloca(size);
	memory[0] = 1;
	vla(size + 100);
	NO_TAIL;
	memory[1] = 2;
}

static NOINLINE void realigned(size_t size, long a, long b, long c, long d, long e, long f, long g)
{
	volatile char aligned[64] __attribute__((aligned(64)));
	volatile char *memory = alloca(size);
	aligned[0] = memory[0] = (char)(a + b + c + d + e + f + g);
	allocated(size);
	NO_TAIL;
	aligned[1] = memory[1] = 3;
}

int main(int argc, char **argv)
{
	(void)argv;
	realigned((size_t)argc * 1000, 1, 2, 3, 4, 5, 6, 7);
	NO_TAIL;
	return 0;
}
