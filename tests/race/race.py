#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Many processes and threads on one pool, in several network namespaces, some of them killed.

What is checked is checked from outside, against the sockets that the kernel lists while every
client is stopped, never against what the pool says:

  I1  no two live connections of different namespaces have the same source port and destination,
      and every source port is in the range;
  I2  when all clients have been killed, a newcomer can have every single port again after the
      quarantine.

Each namespace has its own loopback with a server on the same address and ports, so that all of
them compete for the ports towards the same destinations. Prints TAP. Needs root for namespaces;
without it, or with FIXPORT_RACE_NAMESPACES=0, everything runs in the namespace it is in.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402 (found by the line above)

WORKER = fptest.program("race", "worker")
POOL_TOOL = fptest.POOL_TOOL
SECONDS = float(os.environ.get("FIXPORT_RACE_SECONDS", "12"))
SEED = int(os.environ.get("FIXPORT_RACE_SEED", str(random.randrange(1 << 30))))
DESTINATIONS = [7001, 7002, 7003]
QUARANTINE = 3  # seconds; longer than the servers need to close what killed clients left

CONFIG = """[pool]
path = {path}
ports = {ports}
quarantine = {quarantine}
mode = 0600
[rule race]
to = 127.0.0.0/8
"""


class Place:
    """A network namespace, or the one we are in."""

    def __init__(self, name):
        self.name = name
        if name:
            subprocess.run(["ip", "netns", "add", name], check=True)
            self.run(["ip", "link", "set", "lo", "up"], check=True)
        self.server = None

    def command(self, argv):
        return fptest.in_netns(self.name, *argv) if self.name else list(argv)

    def run(self, argv, **options):
        return subprocess.run(self.command(argv), **options)

    def start(self, argv, **options):
        return subprocess.Popen(self.command(argv), start_new_session=True, **options)

    def serve(self):
        self.server = self.start([WORKER, "serve", *map(str, DESTINATIONS)],
                                 stdout=subprocess.PIPE, text=True)
        if self.server.stdout.readline() != "ready\n":
            raise RuntimeError("the server did not start")

    def connections(self):
        """{(source port, destination port): state} of every live client socket."""
        out = self.run(["ss", "-Htan"], capture_output=True, text=True, check=True).stdout
        found = {}
        for line in out.splitlines():
            field = line.split()
            if len(field) < 5 or field[0] in ("LISTEN", "TIME-WAIT", "UNCONN"):
                continue
            port, peer = (int(a.rsplit(":", 1)[1]) for a in field[3:5])
            if peer in DESTINATIONS:
                found[port, peer] = field[0]
        return found

    def remove(self):
        if self.server:
            kill_group(self.server)
        if self.name:
            subprocess.run(["ip", "netns", "del", self.name], check=False)


def kill_group(process, number=signal.SIGKILL):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    if number == signal.SIGKILL:
        process.wait()


def environment(pool):
    return fptest.environment(FIXPORT_POOL=pool, FIXPORT_ON_ERROR="fail")


def stopped(process):
    """Waits until every thread of a process group is stopped."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        out = subprocess.run(["ps", "-o", "stat=", "-s", str(process.pid)], capture_output=True,
                             text=True, check=False).stdout.split()
        if all(state[0] in "TZ" for state in out):
            return True
        time.sleep(0.01)
    return False


class Race:
    def __init__(self, places, ports, pool, errors):
        self.places = places
        self.errors = errors
        self.lo, self.hi = (int(p) for p in ports.split("-"))
        self.pool = pool
        self.random = random.Random(SEED)
        self.workers = []
        self.clashes = []
        self.outside = []
        self.seen = 0
        self.killed = 0
        self.made = 0

    def start_worker(self):
        place = self.random.choice(self.places)
        argv = [WORKER, "hammer", str(self.random.choice([1, 2, 4, 8])),
                str(self.random.uniform(0.2, 3)), *map(str, DESTINATIONS)]
        self.workers.append(place.start(argv, env=environment(self.pool), stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True))

    def collect(self):
        for worker in [w for w in self.workers if w.poll() is not None]:
            self.workers.remove(worker)
            made = re.search(r"made (\d+)", worker.stdout.read())
            self.made += int(made.group(1)) if made else 0

    def inspect(self):
        """Stops every client and looks at what the kernel has."""
        for worker in self.workers:
            kill_group(worker, signal.SIGSTOP)
        still = all([stopped(worker) for worker in self.workers])
        owner = {}
        for place in self.places:
            for connection, state in place.connections().items():
                self.seen += 1
                if not self.lo <= connection[0] <= self.hi:
                    self.outside.append((place.name, connection, state))
                first = owner.setdefault(connection, (place.name, state))
                if first[0] != place.name:
                    self.clashes.append((connection, first, (place.name, state)))
        for worker in self.workers:
            kill_group(worker, signal.SIGCONT)
        return still

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while len(self.workers) < 10:
                self.start_worker()
            time.sleep(self.random.uniform(0.05, 0.3))
            if self.random.random() < 0.5 and self.workers:
                victim = self.random.choice(self.workers)
                kill_group(victim)
                self.killed += 1
            self.collect()
            self.inspect()
        for worker in self.workers:
            kill_group(worker)
        self.workers.clear()


def status(pool):
    out = subprocess.run([POOL_TOOL, "--pool", pool, "status", "--json"], capture_output=True,
                         text=True, check=True).stdout
    return json.loads(out)


def everything_comes_back(tap, race, place, ports):
    """A newcomer holds every port towards one destination at the same time."""
    size = race.hi - race.lo + 1
    reclaim = subprocess.run([POOL_TOOL, "--pool", race.pool, "reclaim"], capture_output=True,
                             text=True, check=False)
    time.sleep(QUARANTINE + 0.2)
    holder = place.start([WORKER, "hold", str(size), str(DESTINATIONS[0])],
                         env=environment(race.pool), stdout=subprocess.PIPE, text=True)
    line = holder.stdout.readline().strip()
    mine = [c for c in place.connections() if c[1] == DESTINATIONS[0] and race.lo <= c[0] <= race.hi]
    kill_group(holder)
    tap.point(line == f"made {size} refused 0 failed 0",
              f"I2 ({ports}): after the quarantine a newcomer gets all {size} ports again", line,
              f"reclaim said: {(reclaim.stdout + reclaim.stderr).strip()}",
              f"the kernel lists {len(set(mine))} of them")


def race_in(tap, places, newcomer, ports, what):
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fixport-race-") as folder:
        pool = os.path.join(folder, "pool")
        config = os.path.join(folder, "conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(CONFIG.format(path=pool, ports=ports, quarantine=QUARANTINE))
        subprocess.run([POOL_TOOL, "create", "-c", config], check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        with open(os.path.join(folder, "errors"), "w+", encoding="utf-8", errors="replace") as errors:
            race = Race(places, ports, pool, errors)
            race.run(SECONDS)
            errors.seek(0)
            said = errors.read()
        facts = (f"seed {SEED}: {race.made}+ connections made, {race.seen} seen in the kernel, "
                 f"{race.killed} processes killed")
        tap.point(race.seen > 0 and not race.clashes,
                  f"I1 ({what}, {ports}): no port twice towards a destination", facts,
                  *map(str, race.clashes[:5]))
        tap.point(race.seen > 0 and not race.outside, f"I1 ({what}, {ports}): every port in the range",
                  *map(str, race.outside[:5]))
        tap.point(not said, f"nothing on stderr, from the shim or a sanitizer ({what}, {ports})",
                  said[:6000])
        tap.point(status(pool)["state"] == "live", f"the pool is still sound ({what}, {ports})")
        everything_comes_back(tap, race, newcomer, ports)


def namespaces_allowed():
    if os.geteuid() != 0 or os.environ.get("FIXPORT_RACE_NAMESPACES") == "0":
        return False
    return fptest.can_make_netns()


def race_on(tap, names, ports, way):
    """Makes the places, lets all but the last one race, and removes them."""
    places = []
    try:
        for name in names:
            places.append(Place(name and f"{name}-{ports[:2]}"))
            places[-1].serve()
        clients = places[:-1] or places
        what = f"{len(clients)} namespaces" if names[0] else "one namespace"
        race_in(tap, clients, places[-1], ports, f"{what}, {way}")
    finally:
        for place in places:
            place.remove()


def main():
    tap = fptest.Tap()
    random.seed(SEED)
    if namespaces_allowed():
        names = [f"fprace{os.getpid()}-{i}" for i in range(4)]
    else:
        names = [None]
        if os.environ.get("FIXPORT_RACE_NAMESPACES") != "0":
            tap.cannot("race between namespaces", "making network namespaces needs root")
    race_on(tap, names, "50000-50149", "by range")
    race_on(tap, names, "61000-61149", "by bind")
    tap.end()


if __name__ == "__main__":
    main()
