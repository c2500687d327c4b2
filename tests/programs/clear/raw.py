# One request after the other, as unusual as HTTP/1.1 allows. See ../README.md.
import socket, sys, time

address, port, how = sys.argv[1:4]
HEAD = b"Host: raw.programs.test\r\n\r\n"
REQUESTS = {
    "crlf": [b"\r\nGET /status/200 HTTP/1.1\r\n" + HEAD],
    "propfind": [b"PROPFIND /status/207 HTTP/1.1\r\n" + HEAD],
    "long": [b"GET /status/200 HTTP/1.1\r\nX-Filler: " + b"x" * 3000 + b"\r\n" + HEAD],
    "bytes": [bytes([byte]) for byte in b"GET /status/200 HTTP/1.1\r\n" + HEAD],
}[how]
with socket.create_connection((address, int(port))) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for request in range(2):
        for piece in REQUESTS:
            connection.sendall(piece)
            time.sleep(0.001 if how == "bytes" else 0)
        answer = b""
        while b"ok" not in answer.split(b"\r\n\r\n")[-1]:
            answer += connection.recv(4096)
        time.sleep(0.2)
