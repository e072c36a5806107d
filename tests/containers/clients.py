# SPDX-License-Identifier: MIT
"""The programs that connect, run inside of containers, and what the server saw of them."""

import re

import node as nodes

GET = "GET / HTTP/1.0\\r\\n\\r\\n"
PYTHON = """
import socket
c = socket.create_connection(("HOST", PORT), 10)
c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(c.makefile().read())
"""
PERL = """
use IO::Socket::INET;
$c = IO::Socket::INET->new(PeerAddr => "HOST:PORT", Timeout => 10) or die "$!\n";
print $c "GET / HTTP/1.0\\r\\n\\r\\n";
print <$c>;
"""
BASH = f"exec 3<>/dev/tcp/HOST/PORT; printf '{GET}' >&3; cat <&3"

DEBIAN = {
    "curl": ["curl", "-sS", "-m", "10", "http://HOST:PORT/"],
    "wget": ["wget", "-qO-", "-T", "10", "http://HOST:PORT/"],
    "nc": ["sh", "-c", f"printf '{GET}' | nc -N -w 10 HOST PORT"],
    "python3": ["python3", "-c", PYTHON],
    "perl": ["perl", "-e", PERL],
    "bash": ["bash", "-c", BASH],
    "a shell that starts curl": ["sh", "-c", "true; curl -sS http://HOST:PORT/; true"],
}
MUSL = {
    "wget": ["wget", "-qO-", "-T", "10", "http://HOST:PORT/"],
    "nc": ["sh", "-c", f"printf '{GET}' | nc -w 10 HOST PORT"],
    "a shell that starts wget": ["sh", "-c", "true; wget -qO- http://HOST:PORT/; true"],
    "xargs, env and timeout": ["sh", "-c",
                               "echo http://HOST:PORT/ | xargs env timeout 10 wget -qO-"],
}


# Connects N times in one process, and says what becomes of it.
MANY = """
import socket, sys
for i in range(int(sys.argv[3])):
    try:
        c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
        c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(c.getsockname()[1], c.makefile().read().split("\\n")[-2])
        c.close()
    except OSError as error:
        print(error.strerror)
"""


def with_destination(argv, port):
    return [word.replace("HOST", nodes.HOST).replace("PORT", str(port)) for word in argv]


def seen_in(text):
    """What the server answered: (address, port), or None."""
    found = re.search(r"^(\d+\.\d+\.\d+\.\d+) (\d+)\s*$", text, re.M)
    return (found[1], int(found[2])) if found else None


def in_range(ports, lo, hi):
    return bool(ports) and all(lo <= port <= hi for port in ports)


def check_programs(tap, node, programs, start, what, expected, service=nodes.SERVICE):
    """Each of @programs, by the podman command that begins with @start, leaves from the ports
    @expected (lo, hi), under the address of the node."""
    for name, argv in programs.items():
        done = node.podman_try(*start, *with_destination(argv, service), timeout=60)
        seen = seen_in(done.stdout)
        tap.point(seen is not None and seen[0] == nodes.NODE and in_range([seen[1]], *expected)
                  and not done.stderr, f"{what}: {name} leaves from the range",
                  f"exit status {done.returncode}, seen {seen}", done.stderr)


def held(node, start, held_count, rounds, service=nodes.SERVICE):
    """Starts the lab's client, which holds so many connections. Return: a Popen."""
    with open(f"{nodes.LAB}/client.py", encoding="utf-8") as source:
        return node.start([*start, "python3", "-c", source.read(), nodes.HOST, str(service),
                           str(held_count), str(rounds)], env=node.environment())


def lines_of(process):
    """What a client of held() says until it is done: (own port, address seen, port seen)."""
    lines, other = [], []
    for line in process.stdout:
        if line == "done\n":
            break
        words = line.split()
        if len(words) == 3 and words[0].isdigit() and words[2].isdigit():
            lines.append((int(words[0]), words[1], int(words[2])))
        else:
            other.append(line)
    return lines, "".join(other)


# Holds a connection from a port of its own choice, and tells what the server saw.
HOLD = """
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10, ("", int(sys.argv[3])))
c.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
f = c.makefile()
print([f.readline() for _ in range(4)][3], end="", flush=True)
sys.stdin.read()
"""
