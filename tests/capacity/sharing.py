# SPDX-License-Identifier: MIT
"""K destinations x N ports at the same time, all of them, in one namespace and in several."""

import os
import subprocess

from place import BY_BIND, BY_RANGE, NO_OPTION, Client, Places, Pool

WAYS = [("by range", BY_RANGE, None), ("by bind", BY_BIND, None),
        ("without IP_LOCAL_PORT_RANGE", BY_RANGE, NO_OPTION)]

# destinations, ports, lanes of the pool, threads
ONE = [(1, 8000, None, 1), (10, 1000, None, 4), (100, 100, None, 1), (20, 300, 8, 1),
       (100, 50, 8, 4)]
SEVERAL = [(1, 3000, None, 1), (10, 500, None, 2), (100, 30, None, 1), (20, 40, 8, 1)]


def fill(pool, places, destinations, each, threads, fake):
    """Every place tries to have all. Return: what each client said."""
    clients = [Client(place, pool, "hold", "-d", destinations, "-n", each, "-t", threads, "-r",
                      pool.ports, tag=tag, fake=fake)
               for tag, place in enumerate(places, 1)]
    said = [client.said() for client in clients]
    entries = pool.entries()
    for client in clients:
        client.kill()
    return said, entries


def total(said, name):
    return sum(one.get(name, 0) for one in said)


def check_case(tap, places, case, way, fake):
    destinations, each, lanes, threads = case
    ports = f"40000-{40000 + each - 1}"
    with Pool(ports, destinations, lanes) as pool:
        said, entries = fill(pool, places, destinations, each, threads, fake)
        wanted = destinations * each
        refused = (len(places) - 1) * wanted
        wrong = sum(total(said, name) for name in ("failed", "outside", "clash"))
        tap.point(total(said, "made") == wanted == entries and total(said, "refused") == refused
                  and not wrong,
                  f"sharing: {destinations} x {each} at once, {len(places)} namespace(s), "
                  f"{threads} thread(s), {lanes or 'default'} lanes, {way}",
                  *said, f"{entries} in the ledger", pool.said())
        left = pool.reclaim() and pool.leases()
        tap.point(left["used"] == left["letgo"] == 0,
                  "sharing: nothing is in use after reclaim", left)


def check_starved(tap):
    """Processes of one namespace share a lane, on one processor that they hardly get: a thread is often
    stopped between asking the kernel for a 4-tuple and connecting there, while others go on."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
    try:
        with Places(1, *BY_BIND, connections=5000) as (place,), Pool("40000-40049", 100, 8) as pool:
            clients = [Client(place, pool, "hold", "-d", 100, "-n", 10, "-t", 4, "-r", pool.ports, tag=tag)
                       for tag in range(1, 6)]
            said = [client.said() for client in clients]
            for client in clients:
                client.kill()
            tap.point(total(said, "made") == 5000, "sharing: 100 x 50 at once, 5 processes, 4 threads, "
                      "8 lanes, by bind, starved of processors", *said, pool.said())
    finally:
        for one in busy:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, processors)


def check(tap):
    check_starved(tap)
    for way, sysctls, fake in WAYS:
        everything = [(case, 1) for case in ONE] + [(case, 3) for case in SEVERAL]
        for case, count in everything[1::2] if fake else everything:
            with Places(count, *sysctls, connections=case[0] * case[1]) as places:
                check_case(tap, places, case, way, fake)
