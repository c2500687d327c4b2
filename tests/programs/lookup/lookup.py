# Lookups by getaddrinfo of the C library. See ../README.md for the arguments.
import concurrent.futures
import os
import socket
import sys


def look_up(name):
    try:
        socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    except OSError:
        pass  # Many names fail on purpose.


with open("/proc/self/comm") as comm:
    print(os.getpid(), comm.read().strip(), flush=True)
with concurrent.futures.ThreadPoolExecutor(int(sys.argv[2])) as pool:
    list(pool.map(look_up, sys.argv[3:]))
