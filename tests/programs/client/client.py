"""HTTP/1.1 by http.client and ssl. See ../README.md for the arguments."""
import http.client
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

ADDRESS, PORT, NAME, TLS, HTTP, PATH, CONNECTIONS, PARALLEL, REQUESTS, KEYLOG = sys.argv[1:]
assert HTTP == "1", "the standard library speaks no HTTP/2"


class Connection(http.client.HTTPSConnection):
    """Connects to ADDRESS, names NAME, never connects again."""

    def connect(self):
        assert self.sock is None, "a second connection"
        self.auto_open = 0
        plain = socket.create_connection((ADDRESS, int(PORT)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context.wrap_socket(plain, server_hostname=NAME)


def once(_):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[TLS]
    context.set_alpn_protocols(["http/1.1"])
    context.keylog_filename = KEYLOG
    connection = Connection(NAME, int(PORT), context=context)
    for _ in range(int(REQUESTS)):
        connection.request("GET", PATH)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()


with ThreadPoolExecutor(int(PARALLEL)) as pool:
    list(pool.map(once, range(int(CONNECTIONS))))
