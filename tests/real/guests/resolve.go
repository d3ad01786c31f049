// resolve NAME: by Go's own resolver, as the binary has no C library.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	addresses, err := net.LookupHost(os.Args[1])
	fmt.Println(addresses, err)
	if err != nil {
		os.Exit(1)
	}
}
