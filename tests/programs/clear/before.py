# TLS that does not begin with the first byte. See ../README.md.
import json, socket, ssl, sys, threading, time

what, how, address, port, certificate, key = sys.argv[1:7]
NAME, THINK, PAUSE, EXCHANGES = "programs.test", 0.02, 0.2, 3
PROXY1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"
PROXY2 = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11, 0, 12]) + socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + b"\x9c\x40\x01\xbb"
CONNECT = b"CONNECT programs.test:443 HTTP/1.1\r\nHost: programs.test:443\r\n%s\r\n"
LOGIN = b"Proxy-Authorization: Basic bGFiOmxhYg==\r\n"
# What each side says in clear, client `>` and server `<`, in turn.
BEFORE = {
    "plain": [],
    "proxy1": [(">", PROXY1)],
    "proxy1-same": [(">", PROXY1)],
    "proxy2": [(">", PROXY2)],
    "proxy2-same": [(">", PROXY2)],
    "mysql": [("<", b"\x4a\0\0\0\x0a8.0.30\0" + b"g" * 66), (">", b"\x20\0\0\1" + b"s" * 32)],
    "starttls": [("<", b"220 mail\r\n"), (">", b"EHLO lab\r\n"), ("<", b"250-mail\r\n250 STARTTLS\r\n"), (">", b"STARTTLS\r\n"), ("<", b"220 go\r\n")],
    "socks5": [(">", b"\5\1\0"), ("<", b"\5\0"), (">", b"\5\1\0\1\x0a\x63\2\2\1\xbb"), ("<", b"\5\0\0\1\0\0\0\0\0\0")],
    "connect": [(">", CONNECT % b""), ("<", b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
                (">", CONNECT % LOGIN), ("<", b"HTTP/1.1 200 Connection established\r\n\r\n")],
    "connect-early": [(">", CONNECT % b""), ("<", b"HTTP/1.1 200 Connection established\r\n\r\n")],
    "segments": [],
    "records": [],
}[how]


def exactly(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data


def serve(connection, context):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for side, words in BEFORE:
            if side == ">":
                exactly(connection, len(words))
            else:
                time.sleep(THINK)
                connection.sendall(words)
        with context.wrap_socket(connection, server_side=True) as tls:
            while tls.recv(4):
                time.sleep(THINK)
                tls.sendall(b"good")
    except OSError:
        pass


def server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((address, int(port)), backlog=64) as listener:
        threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0], context), daemon=True).start()


def client():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(coming, going, server_hostname=NAME)
    connection = socket.create_connection((address, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    glued, asked, exchanges = b"", None, []
    for number, (side, words) in enumerate(BEFORE):
        if side == "<" and how == "connect-early":
            continue
        if side == "<":
            exactly(connection, len(words))
            if asked:
                exchanges.append((time.monotonic() - asked) * 1e6)
        elif how.endswith("-same"):
            glued = words
        else:
            asked = time.monotonic()
            connection.sendall(words)
    skip = len(BEFORE[-1][1]) if how == "connect-early" else 0

    def flush():
        nonlocal glued
        data, glued = glued + going.read(), b""
        if how == "records" and data[:1] == b"\x16" and data[5:6] == b"\x01":
            body = data[5:]
            data = b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in (body[at : at + 7] for at in range(0, len(body), 7)))
        if how == "segments" and data[:1] == b"\x16" and data[5:6] == b"\x01":
            for at in range(0, len(data), 5):
                connection.sendall(data[at : at + 5])
                time.sleep(0.0005)
        elif data:
            connection.sendall(data)

    def until(step):
        while True:
            try:
                result = step()
                flush()
                return result
            except ssl.SSLWantReadError:
                flush()
                coming.write(connection.recv(65536))

    begun = time.monotonic()
    if skip:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            flush()
        exactly(connection, skip)
    until(tls.do_handshake)
    tls_us = (time.monotonic() - begun) * 1e6
    times = []
    for number in range(EXCHANGES):
        time.sleep(PAUSE)
        asked = time.monotonic()
        tls.write(b"asks")
        flush()
        until(lambda: tls.read(4))
        times.append((time.monotonic() - asked) * 1e6)
    connection.close()
    # The first exchange in clear is none of TLS, nor a turn.
    print(json.dumps({"tls_us": tls_us, "ttfb_us": times[0], "turns_us": exchanges[1:] + times[1:]}))


server() if what == "serve" else client()
