// Handshakes of many goroutines at once, each by sockets within this process: COUNT. Every other client does not trust the
// server. Prints how many were accepted and refused.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	count, err := strconv.Atoi(os.Args[1])
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"many.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	certificate, err := x509.ParseCertificate(der)
	check(err)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	check(err)
	go func() {
		for {
			connection, err := listener.Accept()
			check(err)
			go func() {
				defer connection.Close()
				if connection.(*tls.Conn).Handshake() == nil {
					_, _ = connection.Write([]byte("hello"))
				}
			}()
		}
	}()
	trusting, doubting := x509.NewCertPool(), x509.NewCertPool()
	trusting.AddCert(certificate)
	var accepted, refused, odd atomic.Int64
	var all sync.WaitGroup
	// All goroutines are there at once; as many sockets as the limit on files allows are.
	places := make(chan struct{}, 400)
	for i := 0; i < count; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			places <- struct{}{}
			defer func() { <-places }()
			roots := trusting
			if i%2 == 1 {
				roots = doubting
			}
			connection, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{ServerName: "many.test", RootCAs: roots})
			if err != nil {
				refused.Add(1)
				return
			}
			defer connection.Close()
			answer := make([]byte, 5)
			if n, err := connection.Read(answer); err == nil && string(answer[:n]) == "hello" {
				accepted.Add(1)
			} else {
				odd.Add(1)
			}
		}(i)
	}
	all.Wait()
	fmt.Println("accepted", accepted.Load(), "refused", refused.Load(), "odd", odd.Load())
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
