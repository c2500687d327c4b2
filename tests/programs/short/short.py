# HTTP/1.1 with the shortest answer that there is, after a while. See ../README.md.
import socket, ssl, sys, threading, time

address, port, certificate, key, keylog, think_ms = sys.argv[1:7]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.keylog_filename = keylog
if len(sys.argv) > 7:
    context.set_alpn_protocols(sys.argv[7].split(","))


def serve(connection):
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            head = b""
            while piece := tls.recv(4096):
                head += piece
                while b"\r\n\r\n" in head:
                    head = head.split(b"\r\n\r\n", 1)[1]
                    time.sleep(int(think_ms) / 1000)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except OSError:
        pass


with socket.create_server((address, int(port)), backlog=64) as listener:
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()
