# SPDX-License-Identifier: MIT
"""A process that may write the pool's shares writes random bytes into it, all the time. The others neither
crash nor hang; what they lose is said, not judged."""

import random
import subprocess

from place import BY_BIND, BY_RANGE, SCRIBBLE, Client, Places, Pool

# What is written to, roughly: layout.h.
PARTS = [("anywhere", 0, 0), ("its counters", 0, 4096), ("its holders and lanes", 4096, 150 << 10),
         ("its words", 256 << 10, 0)]


def scribble(pool, first, last):
    seed = random.randrange(1 << 30)
    process = subprocess.Popen([SCRIBBLE, pool.shares(), str(seed), str(first), str(last)], text=True,
                               stdout=subprocess.PIPE, stderr=pool.errors)
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the scribbler did not start")
    return process


def stop(process):
    process.kill()
    process.wait()
    process.stdout.close()


def tools_survive(pool):
    """Each command of fixport-pool ends by itself, whatever it says."""
    return [command for command in (["status"], ["status", "--json"], ["list"], ["metrics"],
                                    ["reclaim"], ["reload", "-c", pool.config])
            for _ in range(3) if pool.tool(*command).returncode < 0]


def check_part(tap, what, first, last, sysctls):
    with Places(2, *sysctls, connections=20000) as places, Pool("40000-40999", 3) as pool:
        scribbler = scribble(pool, first, last)
        clients = [Client(place, pool, "short", "-t", 4, "-d", 3, "-n", 10 ** 9, "-s", 2, "-r",
                          pool.ports, tag=tag) for tag, place in enumerate(places * 2, 1)]
        late = [Client(place, pool, "short", "-n", 50) for place in places * 5]
        try:
            crashed = tools_survive(pool)
        except subprocess.TimeoutExpired as hung:
            crashed = [hung.cmd]
        ends = [client.end() for client in clients + late]
        stop(scribbler)
        said = [client.said_at_end for client in clients]
        lost = {name: sum(one.get(name, 0) for one in said)
                for name in ("made", "refused", "failed", "outside", "clash")}
        tap.point(not any(ends) and not crashed,
                  f"scribbler: {what}: nobody crashes or hangs", f"made and lost: {lost}", ends,
                  crashed, pool.said())


def check(tap):
    for what, first, last in PARTS:
        check_part(tap, f"{what}, by range", first, last, BY_RANGE)
    check_part(tap, "its words, by bind", 256 << 10, 0, BY_BIND)
