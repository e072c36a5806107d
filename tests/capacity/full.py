# SPDX-License-Identifier: MIT
"""Pools on a file system that is full. /dev/shm is a small one here, in a mount namespace of its own."""

import os
import re
import subprocess
import sys

from place import BY_RANGE, FAKE, HANG, Client, Places, Pool, fptest

MOUNT = 'mount -t tmpfs -o size=6m none /dev/shm && exec "$@"'
INSIDE = "full-inside"


def fill_up(pool):
    """To the last byte."""
    with open(pool.file("ballast"), "ab", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def check_clients(tap, what, pool):
    """Old and new clients on a full file system. Return: how many leases were taken meanwhile."""
    with Places(1, *BY_RANGE) as (place,):
        old = Client(place, pool, "hold", "-n", 1)
        old.said()
        fill_up(pool)
        said = old.ask("more 20")
        new = Client(place, pool, "hold", "-f", 3, "-n", 20)
        newer = new.said()
        ends = [old.end(), new.end()]
        tap.point(ends == [0, 0] and len(said) > 5 and len(newer) > 5,
                  f"full: nobody crashes or hangs: {what}", said, newer, ends, pool.said())
    return said.get("made", 0) + newer.get("made", 0)


def check_pool(tap):
    with Pool("40000-40099") as pool:
        more = pool.write_config("more", "40000-42000")
        less = pool.write_config("less", "40000-40049")
        made = check_clients(tap, "a pool that was made before", pool)
        tap.equal(made, 41, "full: and all get their ports")
        done = pool.tool("reload", "-c", more)
        tap.point(done.returncode == 1 and "room" in done.stderr,
                  "full: rules that need more room are refused", done.returncode, done.stderr)
        tap.equal(pool.status()["port_count"], 100, "full: and the old ones stay")
        tap.equal(pool.tool("reload", "-c", less).returncode, 0,
                  "full: rules that need none are taken")


def check_making(tap):
    with Pool("40000-40099") as pool, Places(1, *BY_RANGE) as (place,):
        pool.must("remove", "--force")
        fill_up(pool)
        done = pool.tool("create", "-c", pool.config)
        tap.point(done.returncode == 1 and "space" in done.stderr and not os.path.exists(pool.path),
                  "full: a pool that cannot be made is said to", done.returncode, done.stderr)
        client = Client(place, pool, "hold", "-n", 5, FIXPORT_PORTS="40000-40099",
                        FIXPORT_TO="127.0.0.0/8")
        said = client.said()
        tap.point(client.end() == 0 and said["refused"] == 5,
                  "full: a program that cannot make its own is refused, as it asked", said, pool.said())
        tap.equal(sorted(os.listdir(pool.folder.name)), ["ballast", "conf", "errors"],
                  "full: no files are left behind")


def check_holes(tap):
    """A pool with holes, as file systems without fallocate(2) make them: a touch may be SIGBUS."""
    with Pool("40000-40099") as pool:
        pool.must("remove", "--force")
        env = dict(os.environ, LD_PRELOAD=FAKE, FAKE="fallocate=95")
        subprocess.run([fptest.POOL_TOOL, "create", "-c", pool.config], env=env, check=True,
                       capture_output=True)
        check_clients(tap, "a pool with holes", pool)


def check_inside(tap):
    check_pool(tap)
    check_making(tap)
    check_holes(tap)


def check(tap):
    """Runs this part again where /dev/shm is small, and repeats what it says."""
    argv = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", sys.executable, sys.argv[0], INSIDE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANG)
    points = re.findall(r"^(not )?ok \d+ - (.*)\n((?:#.*\n)*)", done.stdout, re.M)
    for failed, name, diagnostics in points:
        tap.point(not failed, name, diagnostics.replace("# ", ""))
    if not points or "1.." not in done.stdout:
        tap.point(False, "full: the part comes to its end", done.stdout[-2000:], done.stderr[-2000:])
