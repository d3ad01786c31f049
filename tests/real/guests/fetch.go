// fetch URL [PROXY-URL]: prints the page.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
)

func main() {
	transport := &http.Transport{}
	if len(os.Args) > 2 {
		proxy, err := url.Parse(os.Args[2])
		if err != nil {
			panic(err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	response, err := (&http.Client{Transport: transport}).Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		panic(err)
	}
}
