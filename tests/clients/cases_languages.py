# SPDX-License-Identifier: MIT
"""The run-times of languages, each with its own way from "connect to this" to the system call.

Their programs stand in programs/, tell their own local ports, and are run once without and once
with the shim against the same servers.
"""

import os
import socket
from pathlib import Path

from harness import case, told, without_ports
from processes import run
from servers import Echo, Http, free_port
from settings import BUILD, HIGH, LOW, PROGRAMS, PYTHON

POOL_TOOL = BUILD / "tools" / "fixport-pool"
SHARED_MEMORY = Path("/dev/shm")


def python(habit, *arguments):
    return [PYTHON, PROGRAMS / "client.py", habit, *arguments]


def python_case(name, habit, connections):
    """A case for a habit of programs/client.py: the server and the program agree on every port."""

    @case(f"python3: {name}")
    def habit_case(t):
        server = t.enter_context(Echo())
        t.same_told(python(habit, server.port), server, at_least=connections)

    return habit_case


python_case("sockets", "plain", 5)
python_case("source_address with port 0", "source_address", 4)
python_case("asyncio streams, 60 at a time", "streams", 60)
python_case("subprocess and fork", "children", 5)
python_case("a non-blocking connect, polled", "non_blocking", 1)
python_case("bind to port 0, asked for before connect", "asked_before", 1)
python_case("MSG_FASTOPEN", "fast_open", 2)


@case("python3: 200 connections in 20 threads")
def python_threads(t):
    server = t.enter_context(Echo())
    t.same(python("threads", server.port), server.take, at_least=200)


@case("python3: source_address when most of the ports are taken")
def python_busy(t):
    """A bind that is refused must not cost the address that the program chose."""
    server = t.enter_context(Echo())
    for port in range(LOW, LOW + 20):
        if port % 3:
            sock = t.enter_context(socket.socket())
            sock.bind(("", port))
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        t.same_told(
            python("one_source", server.port, address),
            server,
            env={"FIXPORT_PORTS": f"{LOW}-{LOW + 19}"},
            at_least=5,
        )


@case("python3: source_address with a port stays")
def python_source_port(t):
    server = t.enter_context(Echo())
    port = free_port()
    result = t.run(python("source_port", server.port, port), shim=True)
    t.equal(
        (result.status, without_ports(result.out)),
        (0, "local 127.0.0.1 PORT\nhello\n"),
        "the result",
    )
    t.equal([peer.port for peer in server.take()], [port], "ports that the server saw")


@case("python3: a connect that stays pending")
def python_pending(t):
    t.same(python("pending", 0), told, normalise=without_ports, at_least=2)


@case("python3: bind to port 0 and listen")
def python_listening(t):
    t.same(python("listening", 0), told, normalise=without_ports, at_least=8)


@case("python3: connection refused, and again on the same socket")
def python_refused(t):
    t.same(python("refused", free_port()), lambda _: [], at_least=0)


@case("python3: with the pool that the shim makes by itself")
def python_default_pool(t):
    server = t.enter_context(Http())

    def pools():
        user = os.geteuid()
        return {*SHARED_MEMORY.glob(f"fixport-{user}-*"), *Path(f"/run/user/{user}").glob("fixport-*")}
    before = pools()
    # Destinations that no other test has, so that the pool is a new one.
    env = {**t.env(True), "FIXPORT_TO": f"127.0.0.1/32:{server.port}"}
    del env["FIXPORT_POOL"]
    try:
        result = run(python("urls", server.port), env)
    finally:
        made = pools() - before
        for path in made:
            path.unlink()
    t.equal(result.status, 0, f"exit status ({result.err})")
    t.equal(sorted(path.suffix != "" for path in made), [False, True], "a pool made, and its shares")
    over_ipv4 = [peer for peer in server.take() if peer.address == "127.0.0.1"]
    t.from_range(over_ipv4)


@case("python3: urllib")
def python_urllib(t):
    server = t.enter_context(Http())
    t.same(python("urls", server.port), server.take, at_least=3)


@case("node: net and http")
def node(t):
    program = t.need("node")
    echo, web = t.enter_context(Echo()), t.enter_context(Http())
    t.same(
        [program, PROGRAMS / "client.js", echo.port, web.port],
        both(echo, web),
        normalise=without_ports,
        at_least=8,
    )


@case("perl: IO::Socket::INET and IO::Socket::IP")
def perl(t):
    server = t.enter_context(Echo())
    t.same_told([t.need("perl"), PROGRAMS / "client.pl", server.port], server, at_least=4)


@case("ruby: TCPSocket, Socket.tcp and net/http")
def ruby(t):
    program = t.need("ruby")
    echo, web = t.enter_context(Echo()), t.enter_context(Http())
    t.same(
        [program, PROGRAMS / "client.rb", echo.port, web.port],
        both(echo, web),
        normalise=without_ports,
        at_least=7,
    )


@case("java: Socket, SocketChannel and HttpClient")
def java(t):
    t.need("javac")  # java runs a source file only where there is a compiler
    program = t.need("java")
    echo, web = t.enter_context(Echo()), t.enter_context(Http())
    t.same(
        [program, PROGRAMS / "Client.java", echo.port, web.port],
        both(echo, web),
        normalise=without_ports,
        at_least=7,
    )


@case("erlang: gen_tcp, with and without an address of its own")
def erlang(t):
    server = t.enter_context(Echo())
    program = t.need("escript")
    t.same_told([program, PROGRAMS / "client.erl", server.port], server, at_least=14)


@case("php: streams and fsockopen")
def php(t):
    server = t.enter_context(Echo())
    t.same_told([t.need("php"), PROGRAMS / "streams.php", server.port], server, at_least=3)


LANGUAGES = {
    "python3": ("python3", "client.py", "source_address"),
    "perl": ("perl", "client.pl"),
    "ruby": ("ruby", "client.rb"),
    "java": ("java", "Client.java"),
    "erlang": ("escript", "client.erl"),
}


def second_rule_case(language, program, script, *habit):
    """A case for two rules with ports of their own: whoever binds to "any port" and asks for it before
    the destination is known leaves from the ports of the rule that comes to match."""

    @case(f"{language}: the ports of the second rule")
    def second_rule(t):
        t.need("javac" if program == "java" else program)
        echo, web = t.enter_context(Echo()), t.enter_context(Http())
        where = [t.need(program), PROGRAMS / script, *habit, echo.port, web.port]
        middle = (LOW + HIGH) // 2
        config, pool = t.tmp / "two.conf", t.tmp / "two"
        config.write_text(
            f"[pool]\nports = {LOW}-{HIGH}\n"
            f"[rule one]\nto = 127.0.0.0/8:1, [::1]:1\nports = {LOW}-{middle}\n"
            f"[rule two]\nto = 127.0.0.0/8, [::1]\nports = {middle + 1}-{HIGH}\n"
        )
        made = t.run([POOL_TOOL, "create", "-c", config, "--pool", pool], shim=False)
        t.equal(made.status, 0, f"a pool of two rules ({made.err})")
        result = run(where, {**t.env(False), "FIXPORT_POOL": str(pool), "LD_PRELOAD": t.env(True)["LD_PRELOAD"]})
        t.equal(result.status, 0, f"exit status ({result.out}{result.err})")
        t.quiet(result)
        peers = [*echo.take(), *web.take()]
        t.from_range(peers, at_least=4)
        t.equal([peer for peer in peers if peer.port <= middle], [], "connections from the first rule's ports")


for name, words in LANGUAGES.items():
    second_rule_case(name, *words)


def both(*servers):
    """What all of @servers saw."""
    return lambda _result: [peer for server in servers for peer in server.take()]
