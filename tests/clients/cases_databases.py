# SPDX-License-Identifier: MIT
"""Database clients: the hosts behind a firewall are databases more often than anything else.

libpq connects non-blocking and polls; redis-benchmark opens many connections at once from one event
loop. The servers are real, and it is their log that tells the ports.
"""

import re

from daemons import postgres, postgres_bin, redis
from harness import case


@case("psql: a query over IPv4 and IPv6")
def psql(t):
    program = t.need("psql")
    port, peers = t.enter_context(postgres(t))
    for host in ("127.0.0.1", "::1"):
        t.same(
            [
                program,
                "-X",
                "-h",
                host,
                "-p",
                port,
                "-U",
                "postgres",
                "-c",
                "select 6 * 7 as answer",
            ],
            peers.take,
        )


@case("psql: pgbench, a connection for each transaction")
def pgbench(t):
    program = postgres_bin() / "pgbench"
    port, peers = t.enter_context(postgres(t))
    to_server = ["-h", "127.0.0.1", "-p", port, "-U", "postgres", "postgres"]
    t.same([program, "-i", "-q", *to_server], peers.take)
    t.same(
        [program, "-C", "-c", "4", "-t", "25", *to_server],
        peers.take,
        at_least=100,
        normalise=lambda text: re.findall(r"^number of .*$", text, re.M),
    )


@case("redis-cli: set and get over IPv4 and IPv6")
def redis_cli(t):
    program = t.need("redis-cli")
    port, peers = t.enter_context(redis(t))
    for host in ("127.0.0.1", "::1"):
        t.same([program, "-h", host, "-p", port], peers.take, stdin="set answer 42\nget answer\n")


@case("redis-cli: connection refused")
def redis_cli_refused(t):
    program = t.need("redis-cli")
    t.same([program, "-p", "1", "ping"], lambda _: [], status=1, at_least=0)


@case("redis-benchmark: 50 clients at once")
def redis_benchmark(t):
    program = t.need("redis-benchmark")
    port, peers = t.enter_context(redis(t))
    t.same(
        [program, "-p", port, "-c", "50", "-n", "5000", "-t", "set,get", "--csv"],
        peers.take,
        normalise=lambda text: re.findall(r'^"(\w+)"', text, re.M),
        at_least=100,
    )
