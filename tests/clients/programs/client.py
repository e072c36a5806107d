# SPDX-License-Identifier: MIT
"""What Python programs do with sockets, one function for each habit: client.py HABIT PORT.

Each tells its own side of every connection, "local ADDRESS PORT", so that the tests can compare it
with what the server saw. The server is an echo, but for urllib.
"""

import asyncio
import errno
import os
import select
import socket
import subprocess
import sys
import threading
import urllib.request

SERVER = ("127.0.0.1", int(sys.argv[2]))
SERVER6 = ("::1", int(sys.argv[2]))
TIMEOUT = 20


def tell(sock):
    print("local", *sock.getsockname()[:2], flush=True)


def talk(sock, data=b"hello"):
    tell(sock)
    sock.sendall(data)
    print(sock.recv(100).decode())


def plain():
    for server in (SERVER, SERVER6, ("localhost", SERVER[1])):
        with socket.create_connection(server, TIMEOUT) as sock:
            talk(sock)
    with socket.socket(socket.AF_INET6) as sock:  # IPv4 through an IPv6 socket
        sock.connect(("::ffff:127.0.0.1", SERVER[1]))
        print("peer", sock.getpeername()[0])
        print("local", sock.getsockname()[0].removeprefix("::ffff:"), sock.getsockname()[1])
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.connect(SERVER)
        print("reuse", sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
        talk(sock)


def source_address():
    for address in ("127.0.0.1", "127.0.0.2", ""):
        with socket.create_connection(SERVER, TIMEOUT, source_address=(address, 0)) as sock:
            talk(sock)
    with socket.create_connection(SERVER6, TIMEOUT, source_address=("::1", 0)) as sock:
        talk(sock)


def one_source():
    """The address is given as a third argument; five connections at a time."""
    source = (sys.argv[3], 0)
    socks = [socket.create_connection(SERVER, TIMEOUT, source) for _ in range(5)]
    for sock in socks:
        talk(sock)


def source_port():
    """The port is given as a third argument, and has to stay."""
    with socket.create_connection(
        SERVER, TIMEOUT, source_address=("127.0.0.1", int(sys.argv[3]))
    ) as sock:
        talk(sock)


def streams():
    async def one(number, **options):
        reader, writer = await asyncio.open_connection(*SERVER, **options)
        writer.write(b"%d\n" % number)
        answer = await reader.readline()
        tell(writer.get_extra_info("socket"))
        writer.close()
        await writer.wait_closed()
        return int(answer)

    async def all_of_them():
        print(await asyncio.gather(*(one(number) for number in range(50))))
        print(
            await asyncio.gather(
                *(one(number, local_addr=("127.0.0.1", 0)) for number in range(10))
            )
        )

    asyncio.run(asyncio.wait_for(all_of_them(), TIMEOUT))


def threads():
    def many():
        for _ in range(10):
            with socket.create_connection(SERVER, TIMEOUT) as sock:
                sock.sendall(b"hello")
                if sock.recv(100) != b"hello":
                    os._exit(1)

    workers = [threading.Thread(target=many) for _ in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("done")


def children():
    """A connection before, in and after a child that closes descriptors it does not know."""
    with socket.create_connection(SERVER, TIMEOUT) as before:
        if len(sys.argv) == 3:
            for options in (
                {"close_fds": True},
                {"close_fds": False},
                {"close_fds": True, "pass_fds": [before.fileno()]},
            ):
                sys.stdout.flush()
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "child"],
                    check=True,
                    timeout=TIMEOUT,
                    **options,
                )
            pid = os.fork()
            if not pid:
                before.sendall(b"from a fork")
                print(before.recv(100).decode())
                with socket.create_connection(SERVER, TIMEOUT) as own:
                    talk(own)
                sys.stdout.flush()
                os._exit(0)
            print("fork", os.waitpid(pid, 0)[1])
        before.sendall(b"still here")
        print(before.recv(100).decode())
        tell(before)


def non_blocking():
    with socket.socket() as sock:
        sock.setblocking(False)
        print("first", errno.errorcode[sock.connect_ex(SERVER)])
        select.select([], [sock], [], TIMEOUT)
        print("error", sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        print("then", sock.connect_ex(SERVER), errno.errorcode[sock.connect_ex(SERVER)])
        sock.setblocking(True)
        talk(sock)


def pending():
    """A connect that cannot finish yet: the queue of the listener, here in this process, is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        with socket.create_connection(
            listening.getsockname(), TIMEOUT
        ) as filling, socket.socket() as sock:
            tell(filling)
            sock.setblocking(False)
            print(*(errno.errorcode[sock.connect_ex(listening.getsockname())] for _ in range(3)))
            tell(sock)
            listening.accept()[0].close()
            select.select([], [sock], [], TIMEOUT)
            print("then", sock.connect_ex(listening.getsockname()))


def listening():
    """bind to port 0 is how servers begin, too."""
    for family, address in (
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET, ""),
        (socket.AF_INET6, "::"),
    ):
        for asks_first in (True, False):
            with socket.socket(family) as server:
                server.bind((address, 0))
                if asks_first:
                    print("port", server.getsockname()[1] > 0)
                server.listen()
                port = server.getsockname()[1]
                print("listens", port > 0, flush=True)
                here = "127.0.0.1" if family == socket.AF_INET else "::1"
                with socket.create_connection((here, port), TIMEOUT) as sock, server.accept()[
                    0
                ] as got:
                    print("same", got.getpeername()[1] == sock.getsockname()[1])
                    tell(sock)


def asked_before():
    """bind to port 0, ask which port it is, then connect: curl and Java do this.

    Which port that was is not told: it may be another after the connect, see fixport(7)."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.connect(SERVER)
        print("port", port > 0)
        talk(sock)


def refused():
    """The last argument is a port nobody listens on."""
    for kind in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(kind) as sock:
            address = ("::1" if kind == socket.AF_INET6 else "127.0.0.1", SERVER[1])
            print(*(errno.errorcode[sock.connect_ex(address)] for _ in range(3)))
    with socket.socket() as sock:
        sock.setblocking(False)
        print(errno.errorcode[sock.connect_ex(SERVER)])
        select.select([], [sock], [], TIMEOUT)
        print(errno.errorcode[sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])


def fast_open():
    with socket.socket() as sock:
        print(sock.sendto(b"hello", socket.MSG_FASTOPEN, SERVER))
        tell(sock)
        print(sock.recv(100).decode())
    with socket.socket() as sock:
        print(sock.sendmsg([b"hel", b"lo"], [], socket.MSG_FASTOPEN, SERVER))
        tell(sock)
        print(sock.recv(100).decode())


def urls():
    for host in ("127.0.0.1", "localhost", "[::1]"):
        with urllib.request.urlopen(f"http://{host}:{SERVER[1]}/", timeout=TIMEOUT) as answer:
            print(answer.status, answer.read().decode())


globals()[sys.argv[1]]()
