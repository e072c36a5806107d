#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Connects to server.py again and again: client.py HOST PORT HELD ROUNDS [LOCAL-PORT]

Holds HELD connections at once and renews them all ROUNDS times. Prints for each connection the port
that it has here, and the address and port that the server saw, then "done", and waits for the end
of its input with the last ones open.
"""

import socket
import sys


def connect(host, port, local):
    source = ("", local) if local else None
    connection = socket.create_connection((host, port), timeout=10, source_address=source)
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    answer = b""
    while answer.count(b"\n") < 4:
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionError("the server closed early")
        answer += piece
    seen = answer.splitlines()[-1].decode()
    return connection, f"{connection.getsockname()[1]} {seen}"


def main():
    host, (port, held, rounds, *local) = sys.argv[1], map(int, sys.argv[2:])
    for _ in range(rounds):
        connections = [None] * held
        for i in range(held):
            connections[i], line = connect(host, port, *(local or [0]))
            print(line)
    print("done", flush=True)
    sys.stdin.read()


main()
