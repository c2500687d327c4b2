"""TLS under a filter that ends the process at any system call that is newer than the filter: COUNT ADDRESS PORT NAME AUTHORITY.

Services under systemd live like this; the kernel's calls for uretprobes are such ones. Prints how many were answered.
"""
import ctypes
import socket
import ssl
import struct
import sys

COUNT, ADDRESS, PORT, NAME, AUTHORITY = sys.argv[1:]
# Calls before uretprobe(2), 335, and those from 424 to 440 are known.
PROGRAM = [
    (0x20, 0, 0, 0),  # load the number
    (0x35, 0, 2, 335),  # below 335: allow
    (0x35, 0, 2, 424),  # below 424: end
    (0x25, 1, 0, 440),  # above 440: end
    (0x06, 0, 0, 0x7FFF0000),  # allow
    (0x06, 0, 0, 0x80000000),  # end the process
]
FILTER = b"".join(struct.pack("HBBI", *line) for line in PROGRAM)


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


libc = ctypes.CDLL(None, use_errno=True)
context = ssl.create_default_context(cafile=AUTHORITY)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(len(PROGRAM), FILTER)), 0, 0) == 0, ctypes.get_errno()
if NAME == "probe":
    libc.syscall(450)
    print("alive")
    sys.exit()
answered = refused = 0
for number in range(int(COUNT)):
    with socket.create_connection((ADDRESS, int(PORT)), timeout=20) as plain:
        try:
            # Every other name is none of the server's.
            with context.wrap_socket(plain, server_hostname=NAME if number % 2 == 0 else "else.where") as stream:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answered += stream.recv(4) == b"HTTP"
        except ssl.SSLCertVerificationError:
            refused += 1
print("answered", answered, "refused", refused)
