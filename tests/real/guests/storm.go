// storm PROXY COUNT: COUNT connections to the proxy with a SOCKS greeting each, from many goroutines,
// while others never yield, so that the runtime preempts them with SIGURG all the time. Prints how many
// greetings were answered; any error ends it.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

func greet(proxy string) error {
	connection, err := net.Dial("tcp", proxy)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := connection.Write([]byte{5, 1, 0}); err != nil {
		return err
	}
	answer := make([]byte, 2)
	_, err = connection.Read(answer)
	return err
}

// spin makes no call at which the scheduler could step in.
func spin(done *uint32) (sum uint64) {
	for atomic.LoadUint32(done) == 0 {
		for i := uint64(0); i < 1<<24; i++ {
			sum += i ^ sum<<1
		}
	}
	return
}

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	runtime.GOMAXPROCS(4)
	seen := make(chan os.Signal, 1)
	signal.Notify(seen, syscall.SIGURG)
	var done uint32
	for i := 0; i < 3; i++ {
		go spin(&done)
	}
	var workers sync.WaitGroup
	var left, answered int64 = int64(count), 0
	for i := 0; i < 16; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for atomic.AddInt64(&left, -1) >= 0 {
				if err := greet(os.Args[1]); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				atomic.AddInt64(&answered, 1)
			}
		}()
	}
	workers.Wait()
	atomic.StoreUint32(&done, 1)
	<-seen // the preemption that this is about did happen
	fmt.Println(answered, "answered")
}
