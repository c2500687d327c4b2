// Lookups by Go's own resolver. See ../README.md for the arguments.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

func main() {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		panic(err)
	}
	fmt.Println(os.Getpid(), strings.TrimSpace(string(comm)))
	parallel, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	tokens := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for _, name := range os.Args[3:] {
		tokens <- struct{}{}
		all.Add(1)
		go func(name string) {
			defer all.Done()
			// Many names fail on purpose.
			net.LookupHost(name)
			<-tokens
		}(name)
	}
	all.Wait()
}
