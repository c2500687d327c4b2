"""One TLS connection that trusts one authority: ADDRESS PORT NAME VERSION AUTHORITY. Prints how it went."""
import socket
import ssl
import sys

ADDRESS, PORT, NAME, TLS, AUTHORITY = sys.argv[1:]
context = ssl.create_default_context(cafile=AUTHORITY)
context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[TLS]
context.set_alpn_protocols(["h2", "http/1.1"])
try:
    with socket.create_connection((ADDRESS, int(PORT)), timeout=1.5) as plain:
        with context.wrap_socket(plain, server_hostname=NAME) as stream:
            stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
            print("ok", len(stream.recv(4096)))
except OSError as error:
    print("failed:", error)
