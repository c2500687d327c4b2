"""HTTP/1.1 by http.server and ssl. See ../README.md for the arguments."""
import http.server
import ssl
import sys
import threading
import time

ADDRESS, FIRST, PORTS, CERTIFICATE, KEY, KEYLOG = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(int(self.path.removeprefix("/think/")) / 1000)
        self.send_response(200)
        self.send_header("Content-Length", "9")
        # Kept until the head is flushed, so head and body leave as one.
        self._headers_buffer.append(b"\r\nanswered\n")
        self.wfile.write(b"".join(self._headers_buffer))
        self._headers_buffer = []

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def get_request(self):
        # The handshake comes with the first read, on the connection's own thread.
        plain, address = self.socket.accept()
        return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_):
        # Clients that close without close_notify are no news.
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
context.set_alpn_protocols(["http/1.1"])
context.keylog_filename = KEYLOG
for port in range(int(FIRST), int(FIRST) + int(PORTS)):
    threading.Thread(target=Server((ADDRESS, port), Handler).serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
