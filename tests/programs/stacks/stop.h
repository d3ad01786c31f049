/* Says that it is ready and waits for ever: where the traces are taken. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif
static __attribute__((noinline)) void stop(void)
{
	if (write(1, "ready\n", 6) != 6)
		exit(1);
	for (;;)
		pause();
}
#ifdef __cplusplus
}
#endif

/* Keeps a call from becoming a jump. */
#define NO_TAIL __asm__ volatile("" ::: "memory")
#define NOINLINE __attribute__((noinline))
#define INLINE inline __attribute__((always_inline))
