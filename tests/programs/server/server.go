// HTTP/1.1 and HTTP/2 by net/http and crypto/tls. See ../README.md for the arguments.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	address, certificate, key := os.Args[1], os.Args[4], os.Args[5]
	first, ports := number(os.Args[2]), number(os.Args[3])
	keylog, err := os.OpenFile(os.Args[6], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	think := func(writer http.ResponseWriter, request *http.Request) {
		time.Sleep(time.Duration(number(strings.TrimPrefix(request.URL.Path, "/think/"))) * time.Millisecond)
		io.WriteString(writer, "answered\n")
	}
	for port := first; port < first+ports; port++ {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		check(err)
		server := http.Server{
			Handler:   http.HandlerFunc(think),
			TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, KeyLogWriter: keylog},
			ErrorLog:  log.New(io.Discard, "", 0),
		}
		go func() { check(server.ServeTLS(listener, certificate, key)) }()
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "server.go:", err)
		os.Exit(1)
	}
}
