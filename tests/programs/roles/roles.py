"""Connections whose role is not plain, for the lab's `connect` and `existing`. Of the standard library alone.

roles.py meet FROM-ADDRESS FROM-PORT ADDRESS PORT   connects when a line comes, without a listener: to itself, or to who does the same
roles.py ask ADDRESS PORT HOST                      asks over MPTCP by HTTP, and stays for a second
roles.py leave ADDRESS PORT COUNT                   listens, leaves the listener to a child, and ends; the child answers so many
roles.py alone ADDRESS PORT                         accepts one connection, closes the listener, and stays until its input ends
"""

import os
import signal
import socket
import sys
import time

IPPROTO_MPTCP = 262


def listen(address, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, int(port)))
    listener.listen(16)
    return listener


def meet(own_address, own_port, address, port):
    connection = socket.socket()
    connection.bind((own_address, int(own_port)))
    print("ready", flush=True)
    sys.stdin.readline()
    connection.settimeout(10)
    connection.connect((address, int(port)))
    connection.sendall(b"hello")
    connection.recv(100)
    # Who closes first is the lab's to say.
    sys.stdin.readline()
    connection.close()
    print(os.getpid(), flush=True)


def ask(address, port, host):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    connection.connect((address, int(port)))
    # The other subflows join while this one has said nothing, as the name comes late in life, too.
    time.sleep(0.3)
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    connection.recv(1000)
    time.sleep(0.7)
    connection.close()
    print(os.getpid(), flush=True)


def leave(address, port, count):
    listener = listen(address, port)
    if os.fork():
        os._exit(0)
    # The lab may be gone.
    signal.alarm(60)
    # The parent has ended by the time of the first connection.
    time.sleep(0.5)
    print(os.getpid(), flush=True)
    for _ in range(int(count)):
        connection, _ = listener.accept()
        connection.sendall(connection.recv(1000))
        connection.recv(1000)
        connection.close()


def alone(address, port):
    listener = listen(address, port)
    print("ready", flush=True)
    connection, _ = listener.accept()
    listener.close()
    print("alone", flush=True)
    sys.stdin.read()
    connection.close()


{"meet": meet, "ask": ask, "leave": leave, "alone": alone}[sys.argv[1]](*sys.argv[2:])
