# SPDX-License-Identifier: MIT
"""Programs that are little more than a socket: what is asked of one can be said precisely.

A port that the program was told to use stays, an address that it was told to use stays, datagrams
and Unix sockets stay untouched.
"""

import re
import socket
import threading

from daemons import openssl_server
from harness import case
from processes import Daemon
from servers import Datagrams, Echo, Greeter, Relay, free_port, is_listening
from settings import TIMEOUT


def nc(t):
    program = t.need("nc.openbsd")
    return [program, "-w", "10"]


def exactly(t, port):
    """A judge: the program's own port stayed."""

    def judge(peers, at_least):
        t.equal(
            [peer.port for peer in peers], [port] * max(1, at_least), "ports that the server saw"
        )

    return judge


@case("nc: over IPv4 and IPv6")
def nc_plain(t):
    server = t.enter_context(Echo())
    for host in ("127.0.0.1", "::1"):
        t.same([*nc(t), "-N", host, server.port], server.take, stdin="hello\n")


@case("nc: -s takes the address and not the port")
def nc_source(t):
    server = t.enter_context(Echo())
    t.same(
        [*nc(t), "-N", "-s", "127.0.0.2", "127.0.0.1", server.port], server.take, stdin="hello\n"
    )


@case("nc: -p stays what it says")
def nc_port(t):
    server = t.enter_context(Echo())
    for options in ((), ("-s", "127.0.0.1")):
        port = free_port()
        argv = [*nc(t), "-N", "-p", port, *options, "127.0.0.1", server.port]
        # Only once: without the shim first, the port would be in TIME_WAIT for the second.
        result = t.run(argv, shim=True, stdin="hello\n")
        t.equal((result.status, result.out), (0, "hello\n"), "what nc gave back")
        exactly(t, port)(server.take(), 1)


@case("nc: -z finds open and closed ports")
def nc_scan(t):
    server = t.enter_context(Echo())
    t.same([*nc(t), "-z", "127.0.0.1", server.port], server.take)
    t.same([*nc(t), "-z", "127.0.0.1", free_port()], lambda _: [], status=1, at_least=0)


@case("nc: -u is left alone")
def nc_datagrams(t):
    server = t.enter_context(Datagrams())
    # One datagram back ends it: -W 1.
    t.same(
        [*nc(t), "-u", "-W", "1", "127.0.0.1", server.port],
        server.take,
        stdin="hello\n",
        judge=t.from_kernel,
    )


@case("nc: -U is left alone")
def nc_unix(t):
    path = str(t.tmp / "socket")
    listening = t.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(path)
    listening.listen()
    listening.settimeout(TIMEOUT)

    def serve():
        for _ in range(2):
            with listening.accept()[0] as sock:
                sock.sendall(b"hello\n")

    threading.Thread(target=serve, daemon=True).start()
    t.same([*nc(t), "-U", path], lambda _: [], stdin_open=True, at_least=0)


@case("socat: over IPv4 and IPv6")
def socat(t):
    server = t.enter_context(Echo())
    for address in (
        f"TCP4:127.0.0.1:{server.port}",
        f"TCP6:[::1]:{server.port}",
        f"TCP4:127.0.0.1:{server.port},bind=127.0.0.2",
        f"TCP4:127.0.0.1:{server.port},reuseaddr,keepalive",
    ):
        t.same([t.need("socat"), "-t", "10", "-", address], server.take, stdin="hello\n")


@case("socat: sourceport stays what it says")
def socat_port(t):
    server = t.enter_context(Echo())
    port = free_port()
    address = f"TCP4:127.0.0.1:{server.port},sourceport={port}"
    result = t.run([t.need("socat"), "-t", "10", "-", address], shim=True, stdin="hello\n")
    t.equal((result.status, result.out), (0, "hello\n"), "what socat gave back")
    exactly(t, port)(server.take(), 1)


@case("socat: a forking relay")
def socat_relay(t):
    server = t.enter_context(Echo())
    program = t.need("socat")
    for shim in (False, True):
        port = free_port()
        argv = [program, f"TCP4-LISTEN:{port},bind=127.0.0.1,fork", f"TCP4:127.0.0.1:{server.port}"]
        with Daemon(
            argv, t.env(shim), t.tmp / "socat.log", ready=lambda: is_listening(port)
        ) as relay:
            for number in range(10):
                with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
                    sock.sendall(b"hello %d\n" % number)
                    sock.shutdown(socket.SHUT_WR)
                    t.equal(sock.makefile("rb").read(), b"hello %d\n" % number, "what came back")
            said = re.sub(r"^.* W exiting on signal 15\n", "", relay.said(), flags=re.M)  # 1.8 says so
            t.equal(said, "", "what socat complained of")
        (t.from_range if shim else t.from_kernel)(server.take(), at_least=10)


@case("busybox: telnet")
def busybox_telnet(t):
    server = t.enter_context(Greeter())
    program = t.need("busybox")
    t.same(
        [program, "telnet", "127.0.0.1", server.port],
        server.take,
        status=1,
        judge=t.judge_of(program),
        stdin_open=True,
    )


@case("openssl: s_client against s_server")
def openssl(t):
    program = t.need("openssl")
    port, certificate = t.enter_context(openssl_server(t))
    relay = t.enter_context(Relay(port))
    t.same(
        [
            program,
            "s_client",
            "-connect",
            f"127.0.0.1:{relay.port}",
            "-quiet",
            "-verify_quiet",
            "-verify_return_error",
            "-CAfile",
            certificate,
        ],
        relay.take,
        stdin="hello\nCLOSE\n",
    )
