# SPDX-License-Identifier: MIT
"""A server and its clients in one process: connects COUNT times to itself on loopback, prints the
source ports that the server saw, and keeps the connections until stdin ends. If a line is read, it
closes them, the server's side first, so that none of the source ports stays in TIME_WAIT; says so,
and goes on waiting."""
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
kept = []
ports = []
for _ in range(int(sys.argv[2])):
    client = socket.create_connection(server.getsockname())
    accepted, peer = server.accept()
    ports.append(peer[1])
    kept += [(accepted, client)]
print("ports", *ports, flush=True)
if sys.stdin.readline():
    for accepted, client in kept:
        accepted.close()
        client.recv(1)
        client.close()
    print("closed", flush=True)
    sys.stdin.readline()
