#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows in half a minute what fixport does: real programs, their source ports as the server saw them.

Every client runs twice against the same server, once as it is and once by fixport-run. Nothing is
changed in any of them. It all happens on loopback and needs no privilege; the pool is a file in a
folder that is removed at the end.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ.get("FIXPORT_BUILD", "build")
RUN = os.path.join(BUILD, "tools", "fixport-run")
POOL = os.path.join(BUILD, "tools", "fixport-pool")
PORTS = "61000-61099"
LO, HI = (int(port) for port in PORTS.split("-"))

PYTHON_FOUR = """
import socket, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(4)]
"""

RESTRICTED = "\x1b[32m{}\x1b[0m"
ELSEWHERE = "\x1b[33m{}\x1b[0m"


class Server:
    """Answers HTTP a little, and remembers the port that each connection came from."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        self.seen = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, peer = self.socket.accept()
            self.seen.append(peer[1])
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    @staticmethod
    def answer(connection):
        with connection:
            connection.settimeout(5)
            try:
                if connection.recv(4096).startswith((b"GET", b"HEAD")):
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            except OSError:
                pass

    def ports_of(self, argv, count):
        """Runs a client that makes @count connections. Return: their source ports."""
        self.seen = []
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=30, check=False)
        if done.returncode:
            sys.exit(f"demo: {' '.join(argv)}: exit status {done.returncode}: "
                     f"{done.stderr.decode(errors='replace')}")
        limit = time.monotonic() + 5
        while len(self.seen) < count and time.monotonic() < limit:
            time.sleep(0.01)
        return list(self.seen)


def clients(port):
    url = f"http://127.0.0.1:{port}/"
    return [
        ("curl", 1, ["curl", "-s", url]),
        ("curl --interface lo", 1, ["curl", "-s", "--interface", "lo", url]),
        ("wget", 1, ["wget", "-q", "-O", "-", url]),
        ("nc", 1, ["nc", "-z", "127.0.0.1", str(port)]),
        ("python3, 4 at once", 4, [sys.executable, "-c", PYTHON_FOUR, str(port)]),
        ("perl", 1, ["perl", "-MIO::Socket::INET", "-e",
                     'IO::Socket::INET->new(PeerAddr => "127.0.0.1:$ARGV[0]") or die $!', str(port)]),
        ("bash /dev/tcp", 1, ["bash", "-c", 'exec 3<>"/dev/tcp/127.0.0.1/$0"', str(port)]),
    ]


def shown(ports):
    text = " ".join(str(port) for port in ports)
    width = max(24 - len(text), 0)
    if sys.stdout.isatty():
        inside = all(LO <= port <= HI for port in ports)
        text = (RESTRICTED if inside else ELSEWHERE).format(text)
    return text + " " * width


def by_fixport(pool, argv):
    return [RUN, "--pool", pool, "--", *argv]


def table(server, pool):
    print(f"{'program':22}  {'source port, as it is':24}  with fixport, ports {PORTS}")
    print("─" * 22 + "  " + "─" * 24 + "  " + "─" * 32)
    outside = 0
    for name, count, argv in clients(server.port):
        if not shutil.which(argv[0]):
            print(f"{name:22}  (not installed)")
            continue
        plain = server.ports_of(argv, count)
        fixed = server.ports_of(by_fixport(pool, argv), count)
        outside += sum(not LO <= port <= HI for port in fixed) + max(count - len(fixed), 0)
        print(f"{name:22}  {shown(plain)}  {shown(fixed)}")
    return outside


def main():
    server = Server()
    with tempfile.TemporaryDirectory(prefix="fixport-demo-") as folder:
        pool = os.path.join(folder, "pool")
        subprocess.run([POOL, "create", "--pool", pool, "-p", PORTS, "-t", "127.0.0.1"], check=True,
                       stdout=subprocess.DEVNULL)
        print(f"""
A firewall lets only connections from the source ports {PORTS} through. These are
ordinary programs, connecting to a server on this machine; the server says which port
each connection came from.
""")
        outside = table(server, pool)
        print("\nWhat the pool says afterwards (fixport-pool status):\n", flush=True)
        subprocess.run([POOL, "--pool", pool, "status"], check=True)
    if outside:
        sys.exit(f"\ndemo: {outside} connections came from outside the range")
    print("\nTry it yourself:")
    print(f"  {os.path.relpath(RUN)} -p {PORTS} -t HOST -- PROGRAM...")


if __name__ == "__main__":
    main()
