// A pool of one connection by net/http as it comes: it offers HTTP/2, and speaks what the server chooses. See ../README.md.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	url, version := os.Args[1], os.Args[2]
	requests, err := strconv.Atoi(os.Args[3])
	check(err)
	pause, err := time.ParseDuration(os.Args[4])
	check(err)
	keylog, err := os.OpenFile(os.Args[5], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	config := tls.Config{InsecureSkipVerify: true, KeyLogWriter: keylog}
	config.MinVersion = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[version]
	config.MaxVersion = config.MinVersion
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &config, ForceAttemptHTTP2: true, MaxConnsPerHost: 1}}
	for request := 0; request < requests; request++ {
		if request > 0 {
			time.Sleep(pause)
		}
		response, err := client.Get(url)
		check(err)
		_, err = io.Copy(io.Discard, response.Body)
		check(err)
		check(response.Body.Close())
	}
	client.CloseIdleConnections()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "pooled.go:", err)
		os.Exit(1)
	}
}
