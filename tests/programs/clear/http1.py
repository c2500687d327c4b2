# HTTP/1.1 in clear, with answers that are seldom seen. See ../README.md.
import socket, sys, threading, time

address, port = sys.argv[1:3]
THINK, LONG = 0.01, 0.1


def answer(connection, target):
    word, _, value = target.strip("/").partition("/")
    if word == "continue":
        time.sleep(LONG)
    elif word == "hints":
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        time.sleep(LONG)
    elif word == "together":
        time.sleep(THINK)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return
    else:
        time.sleep(THINK)
    status = value if word == "status" else "200"
    connection.sendall(f"HTTP/1.1 {status} Said\r\nContent-Length: 2\r\n\r\nok".encode())


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
            while b"\r\n\r\n" in data.lstrip(b"\r\n"):
                head, data = data.lstrip(b"\r\n").split(b"\r\n\r\n", 1)
                _, target, _ = head.split(b"\r\n")[0].decode().split(" ")
                lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = int(lengths[0]) if lengths else 0
                if target == "/continue":
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                while len(data) < body:
                    data += connection.recv(65536)
                data = data[body:]
                answer(connection, target)
    except OSError:
        pass


with socket.create_server((address, int(port)), backlog=64) as listener:
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
