// One TLS connection that trusts one authority: ADDRESS PORT NAME VERSION AUTHORITY. Prints how it went.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	address, name, version, authority := net.JoinHostPort(os.Args[1], os.Args[2]), os.Args[3], os.Args[4], os.Args[5]
	text, err := os.ReadFile(authority)
	if err != nil {
		panic(err)
	}
	config := tls.Config{ServerName: name, RootCAs: x509.NewCertPool(), NextProtos: []string{"h2", "http/1.1"}}
	config.RootCAs.AppendCertsFromPEM(text)
	config.MinVersion = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[version]
	config.MaxVersion = config.MinVersion
	dialer := net.Dialer{Timeout: 1500 * time.Millisecond}
	stream, err := tls.DialWithDialer(&dialer, "tcp", address, &config)
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	defer stream.Close()
	answer := make([]byte, 4096)
	if _, err = stream.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err == nil {
		_, err = stream.Read(answer)
	}
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	fmt.Println("ok")
}
