// One HTTPS request with the key shares that Go offers by itself; from 1.24 on one of them is post-quantum (X25519MLKEM768).
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
)

func fail(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Arguments: address, server name, file for the secrets.
func main() {
	keys, err := os.OpenFile(os.Args[3], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0600)
	fail(err)
	config := &tls.Config{ServerName: os.Args[2], InsecureSkipVerify: true, KeyLogWriter: keys}
	connection, err := tls.Dial("tcp", os.Args[1], config)
	fail(err)
	_, err = connection.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	fail(err)
	answer, _ := io.ReadAll(connection)
	fmt.Println(string(answer))
	connection.Close()
}
