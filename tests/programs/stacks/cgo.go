// Goes from Go to C, and stays there in a system call.
package main

/*
#include <stdio.h>
#include <time.h>

static int inner(int n)
{
	struct timespec long_time = { 1000, 0 };
	puts("ready");
	fflush(stdout);
	return nanosleep(&long_time, NULL) + n;
}

int outer(int n)
{
	return inner(n + 1) + 1;
}
*/
import "C"

//go:noinline
func called(n int) int {
	return int(C.outer(C.int(n))) + 1
}

func main() {
	println(called(3))
}
