# SPDX-License-Identifier: MIT
"""The range moves while many connections are made: from the moment that "fixport-pool reload" has
returned, no connection that begins uses the old range. Nor does one that was waiting for a port."""

import bisect
import signal
import struct
import time

import waiting
from place import BY_BIND, BY_RANGE, HANG, Client, Places, Pool

RELOADS = 20
EACH = 100  # ports of a range
FIRST = 40000
APART = 0.1  # seconds between reloads
MOST = 400000  # connections that a client notes at most


def ports_of(index):
    """Each range once, so that a port tells which one was in force."""
    return f"{FIRST + EACH * index}-{FIRST + EACH * (index + 1) - 1}"


def records_of(path):
    """(when a connection began, in ns of CLOCK_MONOTONIC; its source port) of a client's log."""
    with open(path, "rb") as file:
        return struct.iter_unpack("qq", file.read())


def move(pool):
    """Reloads again and again. Return: when each reload had returned, in ns."""
    returned = [0]
    for i in range(1, RELOADS + 1):
        time.sleep(APART)
        pool.must("reload", "-c", pool.write_config(f"conf{i}", ports_of(i)))
        returned.append(time.monotonic_ns())
    return returned


def judge(records, returned):
    """Return: how many connections that began after a reload use a range from before it, and how
    many lie outside of all ranges."""
    old = outside = 0
    for when, port in records:
        index = (port - FIRST) // EACH
        outside += not 0 <= index <= RELOADS
        old += index < bisect.bisect_right(returned, when) - 1
    return old, outside


def check_way(tap, way, sysctls):
    with Places(2, *sysctls) as places, Pool(ports_of(0)) as pool:
        clients = [Client(place, pool, "short", "-b", "-t", 4, "-d", 2, "-n", MOST // 2, "-s", HANG,
                          "-w", pool.file(f"log{tag}"), tag=tag)
                   for tag, place in enumerate(places * 2, 1)]
        time.sleep(0.2)
        for client in clients:
            client.tell("begin")
        returned = move(pool)
        time.sleep(2 * APART)
        for client in clients:
            client.signal(signal.SIGTERM)
        said = [client.said() for client in clients]
        ends = [client.end() for client in clients]
        records = [record for tag in range(1, 5) for record in records_of(pool.file(f"log{tag}"))]
        old, outside = judge(records, returned)
        last = sum((port - FIRST) // EACH == RELOADS for _, port in records)
        tap.point(ends == [0] * 4 and old == outside == 0 and last > 0 and len(records) > 1000,
                  f"reload: {RELOADS} times under load, no connection is late, {way}",
                  f"{len(records)} connections, {old} in an old range, {outside} in none, "
                  f"{last} in the last", *said, pool.said())


def reloaded(pool):
    pool.must("reload", "-c", pool.write_config("new", ports_of(1)))


def replaced(pool):
    pool.must("remove", "--force")
    pool.must("create", "-c", pool.write_config("new", ports_of(1)))


def check_waiting(tap, what, way, change, sysctls):
    """The old range is full and stays so; the new one is empty."""
    with Places(1, *sysctls) as (place,), Pool(ports_of(0), exhausted="wait 60s") as pool:
        holder = waiting.full(pool, place, EACH)
        waiter = waiting.start_waiter(pool, place)
        change(pool)
        said = waiter.said()
        ports = [port for port in place.states() if port >= FIRST + EACH]
        tap.point(said["made"] == 1 and len(ports) == 1,
                  f"reload: the pool is {what}: who waits gets a port of the new range, {way}", said,
                  ports, pool.said())
        waiter.end()
        holder.end()


def check(tap):
    for way, sysctls in (("by range", BY_RANGE), ("by bind", BY_BIND)):
        check_way(tap, way, sysctls)
        check_waiting(tap, "reloaded", way, reloaded, sysctls)
        check_waiting(tap, "replaced", way, replaced, sysctls)
