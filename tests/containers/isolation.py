# SPDX-License-Identifier: MIT
"""Starts the tests in namespaces and control groups of their own.

podman makes a bridge, iptables rules, mounts and control groups: all of that happens in namespaces
that go with this program, however it ends. Control groups are no namespace's: they are made below
one folder in each hierarchy, which the first process, outside of it all, takes away at the end.
"""

import os
import signal
import subprocess
import sys
import time

from machine import NAMESPACES, WORK

INSIDE = "FIXPORT_CONTAINERS_INSIDE"
PREFIX = "fixport-containers-"
UNSHARE = [*NAMESPACES, "--uts", "--ipc", "--cgroup"]


def hierarchies():
    """Return: the control groups' hierarchies here: (folder, type, options) of each."""
    found = []
    with open("/proc/self/mounts", encoding="ascii") as mounts:
        for line in mounts:
            _, folder, kind, options, *_ = line.split()
            if kind in ("cgroup", "cgroup2"):
                found.append((folder, kind, options))
    return found


def group_make(folder, name):
    """A control group for a process to enter; cpuset wants its members told first."""
    group = os.path.join(folder, name)
    os.makedirs(group, exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):
        own, above = (os.path.join(place, setting) for place in (group, folder))
        if os.path.exists(above) and os.path.exists(own):
            with open(above, encoding="ascii") as source, open(own, "w", encoding="ascii") as into:
                into.write(source.read().strip())
    return group


def groups_enter(name):
    for folder, _, _ in hierarchies():
        with open(os.path.join(group_make(folder, name), "cgroup.procs"), "w",
                  encoding="ascii") as members:
            members.write("0")


def groups_remove(name):
    """Removes what groups_enter() made, as soon as the last process in it is gone."""
    for folder, _, _ in hierarchies():
        for _ in range(50):
            try:
                for place, _, _ in os.walk(os.path.join(folder, name), topdown=False):
                    os.rmdir(place)
                break
            except OSError:
                time.sleep(0.1)  # the kernel ends processes when it gets to it


def groups_sweep():
    """Removes what runs left behind that were killed."""
    for folder, _, _ in hierarchies():
        for name in os.listdir(folder):
            if name.startswith(PREFIX) and not os.path.exists(f"/proc/{name[len(PREFIX):]}"):
                groups_remove(name)


def refused():
    """Return: why none of this can be made here, or None."""
    if not hierarchies():
        return "no control groups are mounted, as in a chroot"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "no namespaces" if done.returncode else None


def run_inside():
    """Runs this program again, isolated, under an init that takes in the orphans that podman makes.
    Return: its exit status."""
    groups_sweep()
    name = f"{PREFIX}{os.getpid()}"
    argv = ["setpriv", "--pdeathsig", "KILL", *UNSHARE, "catatonit", "--", sys.executable,
            *sys.argv]
    try:
        with subprocess.Popen(argv, preexec_fn=lambda: groups_enter(name),
                              env=dict(os.environ, **{INSIDE: "1"})) as process:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: process.kill())
            status = process.wait()
        return status if status >= 0 else 1
    finally:
        groups_remove(name)


def is_inside():
    return os.environ.pop(INSIDE, "") == "1"


def groups_mount():
    """Mounts the hierarchies anew: their root is then the group that we are in. In one of version 2
    only a group without processes may have limited ones below it, so these get one."""
    for folder, kind, options in reversed(hierarchies()):
        subprocess.run(["umount", "-n", folder], check=True)
        known = [word for word in options.split(",") if word not in ("rw", "relatime", "seclabel")]
        subprocess.run(["mount", "-n", "-t", kind, "-o", ",".join(known) or "rw", kind, folder],
                       check=True)
        if kind == "cgroup2":
            os.mkdir(os.path.join(folder, "tests"))
            with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as members:
                processes = members.read().split()
            for process in processes:
                with open(os.path.join(folder, "tests", "cgroup.procs"), "w",
                          encoding="ascii") as into:
                    into.write(process)


def settle():
    """The files of this run, inside."""
    groups_mount()
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    os.mkdir(WORK)
