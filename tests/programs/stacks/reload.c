/* Unloads a library and loads another, which comes to lie where the first was. */
#include "stop.h"
#include <dlfcn.h>
#include <signal.h>

#ifdef NAME
NOINLINE void NAME(void (*callback)(void))
{
	callback();
	NO_TAIL;
}

void entry(void (*callback)(void))
{
	NAME(callback);
	NO_TAIL;
}
#else
static void wake(int signal)
{
	(void)signal;
}

static NOINLINE void callback(void)
{
	static int said;
	if (!said++ && write(1, "ready\n", 6) != 6)
		exit(1);
	pause();
	NO_TAIL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = wake };
	sigaction(SIGUSR1, &action, NULL);
	for (int n = 1; n < argc; n++) {
		void *library = dlopen(argv[n], RTLD_NOW);
		void (*entry)(void (*)(void)) = dlsym(library, "entry");
		entry(callback);
		dlclose(library);
	}
	return 0;
}
#endif
