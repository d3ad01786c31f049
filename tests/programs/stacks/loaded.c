/* A library that is loaded while the program runs, calls back, and loses its file. */
#include "stop.h"
#include <dlfcn.h>
#include <pthread.h>

#ifdef LIBRARY
static INLINE void call(void (*callback)(void))
{
	callback();
	NO_TAIL;
}

NOINLINE void entry(void (*callback)(void))
{
	call(callback);
	NO_TAIL;
}
#else
static NOINLINE void callback(void)
{
	stop();
	NO_TAIL;
}

static void *thread(void *path)
{
	void *library = dlopen(path, RTLD_NOW);
	void (*entry)(void (*)(void)) = dlsym(library, "entry");
	unlink(path);
	entry(callback);
	NO_TAIL;
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t id;
	(void)argc;
	pthread_create(&id, NULL, thread, argv[1]);
	pthread_join(id, NULL);
	return 0;
}
#endif
