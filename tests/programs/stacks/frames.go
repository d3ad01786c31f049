// Says what it runs, innermost first, and stays there in a system call.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

func say() {
	pcs := make([]uintptr, 100)
	// Without runtime.Callers and this function.
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	var text strings.Builder
	for {
		frame, more := frames.Next()
		fmt.Fprintf(&text, "%s\t%s\t%d\n", frame.Function, frame.File, frame.Line)
		if !more {
			break
		}
	}
	text.WriteString("ready\n")
	os.Stdout.WriteString(text.String())
}

var pipe [2]int

func stop() {
	var byte [1]byte
	say(); syscall.Read(pipe[0], byte[:])
}

func inlined(n int) int {
	stop()
	return n
}

type thing struct{ depth int }

func (t *thing) method(big [3000]byte) int {
	if t.depth > 0 {
		t.depth--
		return t.method(big) + int(big[t.depth])
	}
	return inlined(7)
}

type caller interface{ call() int }

func (t thing) call() int { return t.method([3000]byte{}) }

func generic[T any](value T, use func(T) int) int {
	return use(value)
}

//go:noinline
func through(c caller) int { return c.call() }

func main() {
	if err := syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	done := make(chan int)
	start := func() { done <- generic(thing{5}, func(t thing) int { return through(t) }) }
	switch os.Args[1] {
	case "goroutine":
		go start()
		<-done
	case "deferred":
		defer func() {
			recover()
			through(thing{1})
		}()
		var nothing *thing
		nothing.depth++
	default:
		fmt.Println(generic(thing{5}, func(t thing) int { return through(t) }))
	}
}
