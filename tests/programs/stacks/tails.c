/* Functions that end by jumping into others: nothing of them is left on the stack.
 *
 * -DOTHER: the functions of another unit. */
#include "stop.h"

#define ALONE __attribute__((noipa))

int beyond(int n);
int far_away(int n);

#ifdef OTHER

ALONE int far_away(int n)
{
	return beyond(n + 1);
}

#else

static volatile int kept;

ALONE int last(int n)
{
	stop();
	kept = n;
	return n + 1;
}

/* One way. */
ALONE static int third(int n)
{
	kept = n;
	return last(n + 1);
}

ALONE static int second(int n)
{
	return third(n * 2);
}

static INLINE int within(int n)
{
	kept = n;
	return second(n + 7);
}

ALONE static int first(int n)
{
	if (n < 0)
		return n;
	return within(n - 3);
}

/* Two ways, which part and come together. */
ALONE static int left(int n)
{
	return last(n - 1);
}

ALONE static int right(int n)
{
	return last(n - 2);
}

ALONE static int fork_of_ways(int n)
{
	return n & 1 ? left(n) : right(n);
}

ALONE static int before_fork(int n)
{
	return fork_of_ways(n + 2);
}

ALONE static int after_fork(int n)
{
	return third(n);
}

ALONE static int left_again(int n)
{
	return after_fork(n - 1);
}

ALONE static int right_again(int n)
{
	return after_fork(n - 2);
}

ALONE static int around(int n)
{
	return n & 1 ? left_again(n) : right_again(n);
}

ALONE static int before_around(int n)
{
	return around(n + 2);
}

/* A way that the compiler doesn't know. */
static int (*volatile pointer)(int) = last;

ALONE static int through_pointer(int n)
{
	return pointer(n);
}

/* Around and around. */
ALONE static int odd(int n);

ALONE static int even(int n)
{
	return n == 0 ? last(n) : odd(n - 1);
}

ALONE static int odd(int n)
{
	return n == 0 ? kept : even(n - 1);
}

#ifdef FAR
ALONE int beyond(int n)
{
	return second(n);
}
#endif

int main(int argc, char **argv)
{
	int n = 0;
	switch (argc > 1 ? argv[1][0] : '1') {
	case '1': n = first(argc); break;
	case '2': n = before_fork(argc); break;
	case '3': n = before_around(argc); break;
	case 'p': n = through_pointer(argc); break;
	case 'r': n = even(argc * 4); break;
	case 'd': n = last(argc); break;
#ifdef FAR
	case 'f': n = far_away(argc); break;
#endif
	}
	return n + kept;
}
#endif
