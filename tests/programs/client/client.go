// HTTP/1.1 and HTTP/2 by net/http and crypto/tls. See ../README.md for the arguments.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"sync"
)

func main() {
	address, port, name, version, protocol, path := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]
	connections, parallel, requests := number(7), number(8), number(9)
	keylog, err := os.OpenFile(os.Args[10], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	config := tls.Config{ServerName: name, InsecureSkipVerify: true, KeyLogWriter: keylog}
	config.MinVersion = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[version]
	config.MaxVersion = config.MinVersion

	tokens := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for i := 0; i < connections; i++ {
		tokens <- struct{}{}
		all.Add(1)
		go func() {
			defer all.Done()
			transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: protocol == "2"}
			if protocol == "1" {
				transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
				transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			}
			transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address, port))
			}
			for request := 0; request < requests; request++ {
				get(transport, "https://"+name+":"+port+path, "HTTP/"+protocol, request > 0)
			}
			transport.CloseIdleConnections()
			<-tokens
		}()
	}
	all.Wait()
}

func get(transport *http.Transport, url, protocol string, reused bool) {
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if got.Reused != reused {
			check(fmt.Errorf("reused: %t", got.Reused))
		}
	}}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", url, nil)
	check(err)
	response, err := transport.RoundTrip(request)
	check(err)
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	check(response.Body.Close())
	if response.StatusCode != 200 || response.Proto[:6] != protocol {
		check(fmt.Errorf("%s %s", response.Proto, response.Status))
	}
}

func number(at int) int {
	value, err := strconv.Atoi(os.Args[at])
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "client.go:", err)
		os.Exit(1)
	}
}
