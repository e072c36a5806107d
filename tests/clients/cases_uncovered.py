# SPDX-License-Identifier: MIT
"""Programs that a preload library cannot reach. Their connections come from the kernel's own ports.

Each is asserted as what it is, so that the documentation can say so and stays true: a point here
that fails because the port came from the range is good news, and the documentation is out of date.
That the shim does its work in the very same place is shown in each case first.
"""

import re

from harness import Skip, case, without_ports
from processes import Failure
from servers import Http
from settings import PROGRAMS, in_range

SERVERS = 5


def uncovered(t, argv_for):
    """The program gives the same result, runs to its end, and connects from the kernel's ports.

    @argv_for: given a server, returns the command line of a client to it.

    Several servers, because a range that overlaps the kernel's own is hit by chance, and then again
    and again for the same server.
    """
    peers = []
    for _ in range(SERVERS):
        server = t.enter_context(Http())
        argv = argv_for(server)
        t.shim_works(server)
        plain = t.run(argv, shim=False)
        server.take()
        shimmed = t.run(argv, shim=True)
        peers += server.take()
        t.equal(
            (shimmed.status, without_ports(shimmed.out)),
            (plain.status, without_ports(plain.out)),
            "result with the shim",
        )
        t.equal(plain.status, 0, f"exit status ({plain.err})")
        t.quiet(shimmed)
    t.from_kernel(peers, at_least=SERVERS)
    if all(in_range(peer.port) for peer in peers):
        raise Failure(f"all of {len(peers)} connections came from the range: is it covered now?")


@case("static: a statically linked program is not covered")
def static(t):
    program = t.compile(PROGRAMS / "reach.c", "-static")
    t.equal(t.is_static(program), True, "linked statically")
    uncovered(t, lambda server: [program, server.port])


@case("static: the same program linked dynamically is covered")
def dynamic(t):
    server = t.enter_context(Http())
    program = t.compile(PROGRAMS / "reach.c")
    t.equal(t.is_static(program), False, "linked statically")
    t.same_told([program, server.port], server)


@case("go: gron is not covered, although it is linked dynamically")
def go(t):
    program = t.need("gron")
    t.equal(t.is_static(program), False, "linked statically")
    uncovered(t, lambda server: [program, server.url(path="/answer.json")])


@case("deepbind: a library opened with RTLD_DEEPBIND is not covered")
def deepbind(t):
    library = t.compile(PROGRAMS / "reach.c", "-shared", "-fPIC")
    program = t.compile(PROGRAMS / "deepbind.c", "-ldl")
    uncovered(t, lambda server: [program, library, server.port])


def opens_deeply(t, argv, name):
    """Whether a program opens the library @name with RTLD_DEEPBIND, which changes with versions."""
    spy = t.compile(PROGRAMS / "opens.c", "-shared", "-fPIC", "-ldl")
    said = t.run(argv, shim=False, env={"LD_PRELOAD": str(spy)}).err
    return re.search(rf"^deepbind .*/{name}$", said, re.M) is not None


@case("deepbind: php's curl extension is not covered, if php opens it so")
def php_curl(t):
    with Http() as server:
        deeply = opens_deeply(t, php_fetches(t, server), r"curl\.so")
    if deeply:
        uncovered(t, lambda server: php_fetches(t, server))
    else:
        server = t.enter_context(Http())
        t.same(php_fetches(t, server), server.take)


@case("deepbind: php's curl extension is covered with libcurl preloaded")
def php_curl_preloaded(t):
    """What is loaded before the extension keeps the order of symbols that it was loaded with."""
    server = t.enter_context(Http())
    t.same(php_fetches(t, server), server.take, env={"LD_PRELOAD": "libcurl.so.4"})


def php_fetches(t, server):
    php = t.need("php")
    if "curl" not in t.run([php, "-m"], shim=False).out.split():
        raise Skip("php's curl extension is not installed")
    return [php, PROGRAMS / "curl.php", server.url()]
