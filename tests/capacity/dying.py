# SPDX-License-Identifier: MIT
"""Processes that are killed or stopped anywhere, and a pool file that is taken away from under
live ones. Afterwards, the quarantine being over, every port is to be had again."""

import os
import random
import re
import signal
import subprocess
import time

from place import (BY_BIND, BY_RANGE, CLIENT, HANG, LONG, PORT, STORM, Client, Places, Pool, facts,
                   fptest, wait_for)

TIMES = 5 if LONG else 1
QUARANTINE = 1
PORTS, OTHERS = "40000-40999", "40000-41099"
SIZE = 1000


def total(said, name):
    return sum(one.get(name, 0) for one in said)


def storm(pool, place, mode, count, longest_us, commands):
    """Starts one; its line tells what became of it."""
    env = dict(os.environ, FIXPORT_STORM_PRELOAD=fptest.PRELOAD, FIXPORT_POOL=pool.path)
    argv = [STORM, mode, str(count), "4", str(longest_us), str(random.randrange(1 << 30)),
            place.netns, *commands]
    return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=pool.errors)


def finish(storms):
    """Return: their sums; {} if one hangs."""
    said = []
    for one in storms:
        try:
            said.append(facts(one.communicate(timeout=HANG)[0]))
        except subprocess.TimeoutExpired:
            one.kill()
            return {}
    return {name: total(said, name) for name in said[0]}


def commands_of(pool):
    """What is started: mostly clients; and all that changes the pool, or makes and removes one."""
    tool = f"{fptest.POOL_TOOL} --pool {pool.path}"
    short = f"{CLIENT} short -p {PORT} -d 2 -t 2"
    own = f"FIXPORT_POOL={pool.file('own')} FIXPORT_PORTS=42000-42099 FIXPORT_TO=127.0.0.0/8"
    return [f"{short} -n 20", f"{short} -n 500", f"{short} -n 500 -a",
            f"{CLIENT} hold -p {PORT} -d 2 -n 20",
            f"{tool} reload -c {pool.config}", f"{tool} reload -c {pool.file('others')}",
            f"{tool} reclaim", f"{tool} status --json",
            f"{own} {short} -n 20", f"{fptest.POOL_TOOL} --pool {pool.file('own')} remove --force"]


def all_ports(pool, place, destinations):
    """A newcomer's attempt to have every port of the pool, when the quarantine is over."""
    pool.must("reload", "-c", pool.config)
    pool.must("reclaim")
    time.sleep(QUARANTINE + 0.2)
    newcomer = Client(place, pool, "hold", "-d", destinations, "-n", SIZE, "-r", PORTS)
    said = newcomer.said()
    newcomer.end()
    return said


def check_everything_back(tap, pool, destinations, what):
    with Places(1, *BY_RANGE) as (place,):
        said = all_ports(pool, place, destinations)
        tap.point(said.get("made") == destinations * SIZE and not said["outside"],
                  f"dying: every port is to be had again {what}", said, pool.said())


def check_killed(tap):
    count = 2000 * TIMES
    with Places(2, *BY_RANGE) as places, Pool(PORTS, quarantine=QUARANTINE) as pool:
        pool.write_config("others", OTHERS)
        did = finish([storm(pool, place, "kill", count // 2, 6000, commands_of(pool))
                      for place in places])
        tap.point(did.get("started", 0) >= count and not did["crashed"],
                  f"dying: {count} processes, killed anywhere", did)
        left = [name for name in os.listdir(pool.folder.name)
                if name not in ("conf", "others", "pool", "own", "errors")]
        shares = [name for name in left if re.fullmatch(r"(pool|own)\.[0-9a-f]{16}", name)]
        left = [name for name in left if name not in shares and name != "pool.lock"]
        # A process that is killed between two calls leaves the shares of a pool that is none.
        tap.point(not left and len(shares) <= 4, "dying: they leave no files behind", left, shares)
        check_everything_back(tap, pool, 2, "after the storm")


def check_stopped_at_start(tap):
    """Whatever a stopped process was about to do, another comes to its end."""
    count = 150 * TIMES
    with Places(2, *BY_RANGE) as places, Pool(PORTS, quarantine=QUARANTINE) as pool:
        pool.write_config("others", OTHERS)
        commands = [c for c in commands_of(pool) if " reload" not in c]
        commands[0] = f"{CLIENT} short -p {PORT} -n 20 -e"
        did = finish([storm(pool, place, "stop", count, 4000, commands) for place in places])
        tap.point(did and not did["hung"] and not did["bad"] and not did["crashed"],
                  f"dying: {2 * count} processes, stopped anywhere, hold nobody up", did,
                  pool.said())


def progress_of(file, tags):
    file.seek(0)
    numbers = memoryview(file.read()).cast("l")
    return [numbers[tag] for tag in tags]


def others_go_on(file, tags, limit):
    """Until each of these clients has made some more connections."""
    before = progress_of(file, tags)
    while time.monotonic() < limit:
        if all(now > was + 10 for now, was in zip(progress_of(file, tags), before)):
            return True
        time.sleep(0.001)
    return False


def busy_clients(pool, places):
    """Clients that begin together and count in a file. Return: both."""
    counts = pool.sparse("progress", 4096)
    clients = [Client(place, pool, "short", "-b", "-t", 4, "-d", 2, "-n", 10 ** 9, "-s", HANG, "-c",
                      counts, tag=tag) for tag, place in enumerate(places, 1)]
    time.sleep(0.2)
    for client in clients:
        client.tell("begin")
    return clients, counts


def check_stopped(tap, way, sysctls):
    """One of many that connect all the time is stopped at a random moment, again and again."""
    tries = 100 * TIMES
    with Places(2, *sysctls) as places, Pool(PORTS, quarantine=QUARANTINE) as pool:
        clients, counts = busy_clients(pool, places * 2)
        held_up = 0
        with open(counts, "rb", buffering=0) as file:
            started = others_go_on(file, [1, 2, 3, 4], time.monotonic() + HANG)
            for _ in range(tries):
                victim = random.randrange(4)
                time.sleep(random.random() / 200)
                clients[victim].signal(signal.SIGSTOP)
                others = [tag for tag in (1, 2, 3, 4) if tag != victim + 1]
                held_up += not others_go_on(file, others, time.monotonic() + 10)
                clients[victim].signal(signal.SIGCONT)
            made = sum(progress_of(file, [1, 2, 3, 4]))
        for client in clients:
            client.kill()
        tap.point(started and not held_up,
                  f"dying: stopped {tries} times while it connects, it holds nobody up, {way}",
                  f"{made} connections, {held_up} times held up")
        check_everything_back(tap, pool, 2, f"after stopping, {way}")


def check_leases(tap):
    """Ten thousand leases of killed holders, and one reclaim."""
    places, each = 5, 2000
    with Places(places, *BY_RANGE, connections=each) as pods, \
            Pool(f"40000-{40000 + places * each - 1}", quarantine=QUARANTINE) as pool:
        clients = [Client(place, pool, "hold", "-n", each) for place in pods]
        made = total([client.said() for client in clients], "made")
        for client in clients:
            client.kill()
        back = pool.reclaim()
        tap.equal((made, back["reclaimed"]), (places * each, places * each),
                  "dying: one reclaim takes 10,000 leases of killed holders back")
        tap.equal(pool.leases(), {"used": 0, "letgo": 0, "resting": places * each},
                  "dying: and they rest")
        time.sleep(QUARANTINE + 0.2)
        with Places(1, *BY_RANGE, connections=places * each) as (place,):
            newcomer = Client(place, pool, "hold", "-n", places * each)
            said = newcomer.said()
            newcomer.end()
        tap.equal((said["made"], said["refused"]), (places * each, 0),
                  "dying: after the quarantine a newcomer has them all")


# ---- a reboot ----

# Until it is rebooted, a node's monotonic clock is this many seconds ahead of what it is afterwards.
EARLIER = ["unshare", "--time", "--monotonic", "1000000", "--fork"]


class EarlierPlace:
    """A place before the reboot."""

    def __init__(self, place):
        self.place = place

    def command(self, argv, env=None):
        return [*EARLIER, *self.place.command(argv, env)]


def alive(pool):
    return sum(holder["alive"] for holder in pool.status()["holders"])


def check_reboot(tap):
    """A pool on a file system that outlives it: all times in it have not come yet."""
    if subprocess.run([*EARLIER, "true"], capture_output=True, check=False).returncode:
        tap.cannot("dying: a reboot", "the kernel has no time namespaces")
        return
    with Places(2, *BY_RANGE) as places, Pool(PORTS, quarantine=QUARANTINE) as pool:
        resting, used = [Client(EarlierPlace(place), pool, "hold", "-n", SIZE // 2)
                         for place in places]
        made = total([resting.said(), used.said()], "made")
        resting.kill()
        wait_for(lambda: alive(pool) == 1)
        subprocess.run([*EARLIER, fptest.POOL_TOOL, "--pool", pool.path, "reclaim"], check=True,
                       capture_output=True)
        used.kill()
        wait_for(lambda: alive(pool) == 0)
        tap.equal((made, pool.leases()), (SIZE, {"used": SIZE // 2, "letgo": 0, "resting": 0}),
                  "dying: after a reboot nothing rests")
        check_everything_back(tap, pool, 1, "after a reboot")


# ---- the pool file ----

CREATE = ["create", "-c"]


def removed(pool):
    pool.must("remove", "--force")


def replaced(pool):
    pool.must("remove", "--force")
    pool.must(*CREATE, pool.config)


def renamed_over(pool):
    os.rename(pool.path, pool.file("old"))
    pool.must(*CREATE, pool.config)


def truncated(size):
    def cut(pool):
        os.truncate(pool.path, size)
    return cut


def shares_truncated(size):
    def cut(pool):
        os.truncate(pool.shares(), size)
    return cut


def truncated_and_replaced(pool):
    os.truncate(pool.path, 100)
    os.unlink(pool.path)
    pool.must(*CREATE, pool.config)


def zeroed(pool):
    with open(pool.path, "r+b") as file:
        file.write(bytes(os.path.getsize(pool.path)))


# what happens to the file, and whether clients are to use the one that is there then
MISHAPS = [("removed", removed, False), ("removed and made again", replaced, True),
           ("moved away and made again", renamed_over, True), ("emptied", truncated(0), False),
           ("cut in its header", truncated(100), False),
           ("made longer", truncated(200000), False),
           ("robbed of its shares", shares_truncated(0), True),
           ("cut in its words", shares_truncated(200000), True),
           ("cut, unlinked and made again", truncated_and_replaced, True),
           ("filled with zeros", zeroed, False)]


def check_mishap(tap, what, mishap, goes_on):
    with Places(1, *BY_RANGE) as places, Pool(PORTS) as pool:
        held = Client(places[0], pool, "hold", "-n", 20)
        held.said()
        clients, counts = busy_clients(pool, places * 4)
        with open(counts, "rb", buffering=0) as file:
            others_go_on(file, [1, 2, 3, 4], time.monotonic() + HANG)
            mishap(pool)
            found = goes_on and wait_for(lambda: uses(pool) > 1000) and \
                others_go_on(file, [1, 2, 3, 4], time.monotonic() + HANG)
        if not goes_on:
            time.sleep(0.3)
        running = [client.process.poll() for client in [*clients, held]]
        more = held.ask("more 3")
        ended = held.end()
        for client in clients:
            client.kill()
        tap.point(running == [None] * 5 and found == goes_on and ended == 0 and len(more) > 5,
                  f"dying: the pool is {what}: nobody crashes or hangs" +
                  (", and all go on with the new one" if goes_on else ""),
                  running, more, ended, pool.said())


def uses(pool):
    """How often ports have been taken from the pool that is there now."""
    return sum(holder["taken"] for holder in pool.status()["holders"])


def check(tap):
    check_killed(tap)
    check_stopped_at_start(tap)
    check_stopped(tap, "by range", BY_RANGE)
    check_stopped(tap, "by bind", BY_BIND)
    check_leases(tap)
    check_reboot(tap)
    for what, mishap, goes_on in MISHAPS:
        check_mishap(tap, what, mishap, goes_on)
