/* Functions, inlined functions, a call through a pointer and a callback from a library. */
#include "stop.h"

static INLINE void innermost(int n)
{
	if (n > 0)
		stop();
	NO_TAIL;
}

static INLINE void middle(int n)
{
	volatile int keep = n;
	innermost(keep + 1);
	NO_TAIL;
}

static NOINLINE int compare(const void *left, const void *right)
{
	middle(*(const int *)left);
	NO_TAIL;
	return *(const int *)left - *(const int *)right;
}

static NOINLINE void sort(int *numbers, size_t count)
{
	qsort(numbers, count, sizeof *numbers, compare);
	NO_TAIL;
}

static NOINLINE void through_pointer(void (*function)(int *, size_t))
{
	int numbers[] = { 3, 2, 1 };
	function(numbers, 3);
	NO_TAIL;
}

int main(void)
{
	through_pointer(sort);
	NO_TAIL;
	return 0;
}
