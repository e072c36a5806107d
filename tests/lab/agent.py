#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One machine's part in the matrix: agent.py PORT...

Answers on each TCP and UDP PORT with the address and port that it saw, a line for a line. Reads
requests from its standard input, JSON objects a line, does them all at the same time, and writes a
line for each: {"id": ..., "good": true, "said": "10.1.2.3 61001"}. What there is to do:

    {"do": "tcp" | "udp", "to": ADDRESS, "port": PORT, "from": SOURCE-PORT or 0}
    {"do": "whole", ..., "patience": SECONDS}   as "tcp", to its end: what is said has the server's
                                                own address and port, too; it closes first
    {"do": "ping", "to": ADDRESS}
    {"do": "open", "to": ..., "port": ..., "from": ...}   a session that stays open; as "tcp"
    {"do": "use", "session": id of the open}              a line and its answer on that session
"""

import json
import os
import socket
import struct
import sys
import threading

PATIENCE = 3  # seconds
WHERE = b"where\n"
sessions = {}
speaking = threading.Lock()


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def talk(connection):
    try:
        answers = {b"who\n": "%s %d\n" % connection.getpeername()[:2],
                   b"where\n": "%s %d\n" % connection.getsockname()[:2]}
        while (line := connection.recv(200)) and line != b"bye\n":
            connection.sendall(answers.get(line, "?\n").encode())
    except OSError:
        pass
    connection.close()


def serve(port):
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True,
                               backlog=200)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", port))

    def accept():
        while True:
            threading.Thread(target=talk, args=(tcp.accept()[0],), daemon=True).start()

    def echo():
        while True:
            _, peer = udp.recvfrom(200)
            udp.sendto(b"%s %d\n" % (peer[0].encode(), peer[1]), peer)
    for loop in (accept, echo):
        threading.Thread(target=loop, daemon=True).start()


def ask(connection, what=b"who\n"):
    connection.sendall(what)
    said = connection.recv(200)
    if not said.endswith(b"\n"):
        raise OSError("closed by the other side")
    return said.decode().replace("::ffff:", "").strip()


def connect(task, kind):
    connection = socket.socket(family(task["to"]), kind)
    connection.settimeout(task.get("patience", PATIENCE))
    if task.get("from"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(("", task["from"]))
    connection.connect((task["to"], task["port"]))
    return connection


def once(task, kind):
    with connect(task, kind) as connection:
        said = ask(connection)
        if kind == socket.SOCK_STREAM:  # no TIME_WAIT that the next one would meet
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return said


def whole(task):
    with connect(task, socket.SOCK_STREAM) as connection:
        said = f"{ask(connection)} {ask(connection, WHERE)}"
        connection.sendall(b"bye\n")
        if connection.recv(200):
            raise OSError("does not end")
        return said


def start(task):
    sessions[task["id"]] = connect(task, socket.SOCK_STREAM)
    return ask(sessions[task["id"]])


def ping(task):
    v6 = ":" in task["to"]
    with socket.socket(family(task["to"]), socket.SOCK_RAW,
                       socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP) as raw:
        raw.settimeout(PATIENCE)
        key = os.urandom(8)
        packet = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 1, 1) + key
        if not v6:
            total = sum(struct.unpack("!8H", packet))
            packet = packet[:2] + struct.pack("!H", ~(total % 65535) & 65535) + packet[4:]
        raw.sendto(packet, (task["to"], 0))
        while True:
            answer, peer = raw.recvfrom(200)
            if key in answer and answer[0 if v6 else 20] == (129 if v6 else 0):
                return peer[0]


DO = {"tcp": lambda task: once(task, socket.SOCK_STREAM),
      "udp": lambda task: once(task, socket.SOCK_DGRAM),
      "whole": whole, "ping": ping, "open": start, "use": lambda task: ask(sessions[task["session"]])}


def work(task):
    try:
        result = {"id": task["id"], "good": True, "said": DO[task["do"]](task)}
    except (OSError, KeyError) as error:
        result = {"id": task["id"], "good": False, "said": repr(error)}
    with speaking:
        print(json.dumps(result), flush=True)


def main():
    for port in sys.argv[1:]:
        serve(int(port))
    print("ready", flush=True)
    for line in sys.stdin:
        threading.Thread(target=work, args=(json.loads(line),), daemon=True).start()


main()
