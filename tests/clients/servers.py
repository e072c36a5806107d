# SPDX-License-Identifier: MIT
"""Servers of our own, for one purpose: to say which source port each connection really came from.

They run in this process, without the shim, and note a peer when its connection is accepted.
"""

import random
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

from processes import wait_until
from settings import TIMEOUT, in_range


class Peer(NamedTuple):
    address: str
    port: int


# A connection that the client undid at once: the kernel does not tell where it came from. No client
# of these tests does that by itself.
ABORTED = Peer("undone by the client", 0)


def free_port(addresses=("127.0.0.1", "::1")):
    """A port below the kernel's own, which no client gets, and outside the range under test."""
    while True:
        port = random.randint(20000, 29999)
        if in_range(port):
            continue
        with suppress(OSError):
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, socket.SOCK_STREAM) as sock:
                    sock.bind((address, port))
            return port


def is_listening(port):
    """Whether somebody listens on IPv4 @port. Asked of the kernel: a trial connection would be
    noted.
    """
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows[1:])


class Listener:
    """Accepts on 127.0.0.1 and ::1, notes each peer, and serves it in a thread of its own."""

    def __init__(self):
        self.port = free_port()
        self.peers = []
        self.lock = threading.Lock()
        self.sockets = []
        self.connections = set()

    def __enter__(self):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, socket.SOCK_STREAM)
            self.sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, self.port))
            sock.listen(512)
            threading.Thread(target=self._accept, args=(sock,), daemon=True).start()
        return self

    def __exit__(self, *_):
        with self.lock:
            ending = [*self.sockets, *self.connections]
        for sock in ending:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for sock in self.sockets:
            sock.close()

    def _accept(self, listening):
        with suppress(OSError):
            while True:
                try:
                    sock, peer = listening.accept()
                except ConnectionAbortedError:  # it was there, and gone before we could look
                    with self.lock:
                        self.peers.append(ABORTED)
                    continue
                with self.lock:
                    self.peers.append(Peer(peer[0], peer[1]))
                    self.connections.add(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            sock.settimeout(TIMEOUT)
            with suppress(OSError):
                self.serve(sock)
        finally:
            with self.lock:
                self.connections.discard(sock)
            sock.close()

    def serve(self, sock):
        raise NotImplementedError

    def take(self, _result=None):
        """Return: the peers that connected since the last call, also those not accepted yet.

        Connections are accepted in their order: once one of our own has been, all before it were.
        """
        own = [self._noted_connection(address) for address in ("127.0.0.1", "::1")]
        with self.lock:
            taken, self.peers = self.peers, []
        for peer in own:  # the last of that name: the kernel may have given its port before, too
            del taken[len(taken) - 1 - taken[::-1].index(peer)]
        return taken

    def _noted_connection(self, address):
        with socket.create_connection((address, self.port), TIMEOUT) as sock:
            own = Peer(*sock.getsockname()[:2])
            wait_until(lambda: own in self.peers, "a connection of our own")
        return own


class Echo(Listener):
    """Gives back what it gets, until the client ends its half."""

    def serve(self, sock):
        while data := sock.recv(65536):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


class Greeter(Listener):
    """Speaks first and closes first, as servers for telnet do."""

    def serve(self, sock):
        sock.sendall(b"hello\r\n")


class Http(Listener):
    """HTTP/1.0 and 1.1, with kept connections: every path is found."""

    def serve(self, sock):
        with sock.makefile("rb") as lines:
            while request := lines.readline():
                _, path, version = request.split()
                headers = {}
                while line := lines.readline().strip():
                    name, _, value = line.partition(b":")
                    headers[name.lower()] = value.strip().lower()
                lines.read(int(headers.get(b"content-length", 0)))
                asked = headers.get(b"connection", b"")
                keep = asked == b"keep-alive" or (version == b"HTTP/1.1" and asked != b"close")
                sock.sendall(self._answer(path, keep))
                if not keep:
                    return

    @staticmethod
    def _answer(path, keep):
        body = b'{"hello": "world"}\n' if path.endswith(b".json") else b"hello\n"
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
            b"Connection: %s\r\n\r\n%s" % (len(body), b"keep-alive" if keep else b"close", body)
        )

    def url(self, host="127.0.0.1", path="/"):
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{path}"


class Relay(Listener):
    """In front of a real server that does not say who its peers are."""

    def __init__(self, behind):
        super().__init__()
        self.behind = behind

    def serve(self, sock):
        with socket.create_connection(("127.0.0.1", self.behind), TIMEOUT) as server:
            back = threading.Thread(target=self._pump, args=(server, sock), daemon=True)
            back.start()
            self._pump(sock, server)
            back.join(TIMEOUT)

    @staticmethod
    def _pump(source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Datagrams:
    """A UDP echo, to see that datagrams are left alone."""

    def __enter__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", free_port()))
        self.port = self.sock.getsockname()[1]
        self.peers = []
        self.thread = threading.Thread(target=self._echo, daemon=True)
        self.thread.start()
        return self

    def _echo(self):
        while True:
            data, peer = self.sock.recvfrom(65536)
            if peer[1] == self.port:
                return
            self.peers.append(Peer(*peer))
            self.sock.sendto(data, peer)

    def take(self, _result=None):
        taken, self.peers = self.peers, []
        return taken

    def __exit__(self, *_):
        self.sock.sendto(b"", ("127.0.0.1", self.port))  # from itself: the order to end
        self.thread.join(TIMEOUT)
        self.sock.close()
