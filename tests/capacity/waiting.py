# SPDX-License-Identifier: MIT
"""A range that is full, and connections that wait for a port: they get it, and do not spin."""

import re
import time

from place import BY_BIND, BY_RANGE, Client, Places, Pool, wait_for

PORTS = "40000-40019"
SIZE = 20
WAIT = "wait 60s"
# A waiter looks a few times a second for closes that nobody saw; how often it may switch in the
# course of a second is generous, and still a hundredth of what a spinning one does.
SWITCHES_A_SECOND = 100
SECONDS = 2


def full(pool, place, size=SIZE):
    client = Client(place, pool, "hold", "-n", size)
    assert client.said()["made"] == size, pool.said()
    return client


def start_waiter(pool, place, threads=1):
    """One that waits by now."""
    before = pool.status()["counters"]["waited"]
    waiter = Client(place, pool, "hold", "-n", threads, "-t", threads)
    limit = time.monotonic() + 20
    while pool.status()["counters"]["waited"] < before + threads and time.monotonic() < limit:
        time.sleep(0.01)
    return waiter


def switches_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
    return 0


def check_same(tap, way, sysctls):
    with Places(1, *sysctls) as (place,), Pool(PORTS, 1, exhausted=WAIT) as pool:
        holder = full(pool, place)
        waiter = start_waiter(pool, place)
        before = switches_of(waiter.process.pid)
        time.sleep(SECONDS)
        switches = switches_of(waiter.process.pid) - before
        tap.point(switches < SECONDS * SWITCHES_A_SECOND, f"waiting: it does not spin, {way}",
                  f"{switches} voluntary context switches in {SECONDS} s")
        holder.ask("close 1")
        said = waiter.said()
        tap.point(said["made"] == 1 and not said["refused"],
                  f"waiting: it gets the port that comes free in its namespace, {way}", said)
        waiter.end()
        crowd = start_waiter(pool, place, SIZE // 2)
        holder.ask(f"close {SIZE // 2}")
        said = crowd.said()
        tap.point(said["made"] == SIZE // 2 and not said["clash"],
                  f"waiting: {SIZE // 2} threads get {SIZE // 2} ports, {way}", said)
        crowd.end()
        holder.end()


def check_other(tap, way, sysctls):
    """The other namespace's processes find out when they connect."""
    with Places(2, *sysctls) as (here, there), Pool(PORTS, exhausted=WAIT) as pool:
        holder = full(pool, there)
        waiter = start_waiter(pool, here)
        holder.ask("reset 5")
        busy = Client(there, pool, "short", "-f", 1, "-n", 10 ** 9, "-s", 20)
        said = waiter.said()
        tap.point(said["made"] == 1 and not said["refused"],
                  f"waiting: it gets a port that a living namespace has let go of, {way}", said)
        waiter.end()
        busy.kill()
        holder.end()


def check_dead(tap, way, sysctls):
    with Places(2, *sysctls) as (here, there), Pool(PORTS, exhausted=WAIT) as pool:
        holder = full(pool, there)
        waiter = start_waiter(pool, here, 8)
        holder.kill()
        said = waiter.said()
        tap.point(said["made"] == 8 and not said["refused"],
                  f"waiting: 8 threads get ports of a namespace that has died, {way}", said)
        waiter.kill()


def check_busy(tap, way, sysctls):
    """A namespace that goes through all ports, but has one connection at a time, leaves some to
    another; and its closes do not wake who cannot have what they let go."""
    with Places(2, *sysctls) as (here, there), Pool(PORTS, exhausted="wait 10s") as pool:
        busy = Client(there, pool, "short", "-z", "-n", 10 ** 9, "-s", 20)
        wait_for(lambda: sum(pool.leases().values()) == SIZE)
        waiter = Client(here, pool, "hold", "-n", 1)
        said = waiter.said()
        busy.kill()
        waiter.end()
        tap.point(said["made"] == 1,
                  f"waiting: it gets a port beside a namespace that is busy, {way}", said)
        tap.point(said["switches"] < 10 * SWITCHES_A_SECOND,
                  f"waiting: others' closes do not wake it in vain, {way}", said)


def check_told(tap, way, sysctls):
    """How long it takes until a port is free, and that there are too few of them."""
    with Places(2, *sysctls) as (here, there), Pool(PORTS, quarantine=100) as pool:
        full(pool, there).kill()
        log = pool.file("log")
        client = Client(here, pool, "hold", "-n", 1, FIXPORT_LOG=log)
        said = client.said()
        client.end()
        with open(log, encoding="ascii") as file:
            line = file.read()
        rule = pool.status()["rules"][0]
        text, metrics = pool.must("status"), pool.must("metrics")
        in_log = re.fullmatch(r"fixport\[\d+\] exhausted 127.0.0.1:1000 first port free in (\d+) s\n", line)
        tap.point(said["refused"] == 1 and in_log and 0 < int(in_log[1]) <= 100,
                  f"waiting: the log says how long until a port is free, {way}", line)
        tap.point(0 < rule["next_free"] <= 100 and rule["let_go_per_second"] == 2 and rule["ports_needed"] == 200 and
                  re.search(r"first port free in \d+ s, left by a namespace that has ended\n", text) and
                  "warning: 2 ports a second are let go of; with a quarantine of 100 s and 0 in use that takes 200 ports"
                  in text and re.search(r'^fixport_rule_next_free_seconds{rule="capacity"} \d', metrics, re.M) and
                  'fixport_rule_needed_ports{rule="capacity"} 200\n' in metrics,
                  f"waiting: so do status and metrics, and that 20 ports cannot be enough, {way}", rule, text)
        pool.must("reclaim")
    with Places(1, *sysctls) as (place,), Pool(PORTS, quarantine=100) as pool:
        holder = full(pool, place)
        rule = pool.status()["rules"][0]
        tap.point(rule["next_free"] is None and "no port is free, and none is about to be" in pool.must("status") and
                  'fixport_rule_next_free_seconds{rule="capacity"} +Inf' in pool.must("metrics"),
                  f"waiting: that nobody knows is said, {way}", rule)
        holder.kill()


def check_refused(tap, way, sysctls):
    """Without wait: exactly what is there, then EADDRNOTAVAIL; and again when some come free."""
    with Places(1, *sysctls) as (place,), Pool(PORTS, 1) as pool:
        holder = full(pool, place)
        said = holder.ask("more 50")
        tap.point(said["made"] == SIZE and said["refused"] == 50 and not said["failed"],
                  f"waiting: a full range is EADDRNOTAVAIL, {way}", said)
        holder.ask("close 7")
        said = holder.ask("more 50")
        tap.point(said["made"] == SIZE + 7 and said["refused"] == 93,
                  f"waiting: of 7 that came free 7 are had, {way}", said)
        holder.kill()


def check(tap):
    for way, sysctls in (("by range", BY_RANGE), ("by bind", BY_BIND)):
        check_refused(tap, way, sysctls)
        check_told(tap, way, sysctls)
        check_same(tap, way, sysctls)
        check_other(tap, way, sysctls)
        check_dead(tap, way, sysctls)
        check_busy(tap, way, sysctls)
