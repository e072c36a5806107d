# SPDX-License-Identifier: MIT
"""A machine of the lab: namespaces of its own, that is a network, mounts and a host name.

A machine is held by a process that waits for the end of its standard input; with that process
its namespaces go, and nothing else knows of them. The lab itself runs in a pid namespace of its
own (isolate()), so that whatever ends it, however hard, ends everything that it started, and in a
mount namespace, so that its files never were on a disk. There is nothing to clean up.

What a machine keeps over a reboot, /etc and /var/lib, lies in a folder of the lab that is mounted
into it. /run is new each time. Everything else is the real system's.
"""

import os
import shutil
import signal
import subprocess
import sys

WORK = "/run/fixport-lab"
HIDDEN = ("/run", "/var/lib", "/etc")  # what a machine has of its own

# A machine's own folders, then a line that says it is there.
BOOT_MACHINE = """
set -e
hostname "$1"
mount -n --bind "$2/etc" /etc
mount -n --bind "$2/lib" /var/lib
mount -n -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/fixport
ip link set lo up
echo up
exec cat
"""

# A pod is begun in its node's mounts, and in its network if that stays the pod's: it has all mounts
# but /run, and of that only the pool's folder, as by a hostPath volume.
BOOT_POD = """
set -e
hostname "$1"
mount -n -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/fixport
mount -n --bind /run/fixport /mnt/fixport
mount -n --move /mnt /run
ip link set lo up
echo up
exec cat
"""


class Failed(Exception):
    """A command of the lab did not do what it should; the text says all of it."""


NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def refused():
    """Return: why namespaces cannot be made here, or None."""
    done = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "no namespaces" if done.returncode else None


def isolate():
    """Starts this program again in namespaces of its own, as init of its pid namespace."""
    if os.environ.pop("FIXPORT_LAB_INSIDE", "") == str(os.getppid()):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # init gets what it asks for only
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
                       check=True)
        os.mkdir(WORK)
        return
    os.environ["FIXPORT_LAB_INSIDE"] = "0"  # what getppid() says to the first of a pid namespace
    os.execvp("unshare", [*NAMESPACES, sys.executable, *sys.argv])


class Machine:
    """One machine, which keeps its files in @folder, or a pod of @node, with a network of its own
    or (@host_network) the node's."""

    def __init__(self, name, folder, node=None, host_network=False):
        self.name = name
        self.node = node
        folder = os.path.join(folder, name)
        if not node and not os.path.isdir(folder):
            os.makedirs(os.path.join(folder, "lib"))
            shutil.copytree("/etc", os.path.join(folder, "etc"), symlinks=True)
        prefix = node.inside("--mount", *["--net"] * host_network) if node else []
        self.process = subprocess.Popen(
            [*prefix, "unshare", "--mount", *["--net"] * (not host_network), "--uts", "sh", "-c",
             BOOT_POD if node else BOOT_MACHINE, "sh", name, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started = []
        if self.process.stdout.readline() != "up\n":
            raise Failed(f"{name}: its namespaces could not be made")
        if not host_network:
            self._settle()

    def _settle(self):
        # duplicate address detection would make the first second of each address a useless one
        self.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0,
                    ipv6__conf__all__accept_ra=0, ipv6__conf__default__accept_ra=0)
        # many scenes at once would use up what a second is allowed to have of ICMP errors
        self.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)

    def inside(self, *what):
        """What to put before a command so that it runs in this machine."""
        return ["nsenter", f"--target={self.process.pid}", *(what or ("--mount", "--net", "--uts")),
                "--"]

    def run(self, argv, stdin="", env=None, timeout=120):
        """Runs a command here. Return: as subprocess.run(), with text."""
        return subprocess.run([*self.inside(), *argv], input=stdin, env=env or environment(),
                              capture_output=True, text=True, timeout=timeout, check=False)

    def must(self, argv, stdin=""):
        """Runs a command that cannot fail. Return: its output."""
        done = self.run(argv, stdin)
        if done.returncode:
            raise Failed(f"{self.name}: {' '.join(argv)}: exit status {done.returncode}: "
                         f"{done.stdout}{done.stderr}\n{stdin}")
        return done.stdout

    def start(self, argv, env=None):
        """Starts a program here that goes on until halt(). Return: a Popen with pipes."""
        process = subprocess.Popen([*self.inside(), *argv], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env=env or environment())
        self.started.append(process)
        return process

    def ip(self, text):
        """ip(8), a command a line."""
        self.must(["ip", "-batch", "-"], text)

    def sysctl(self, **values):
        """Sets sysctls of the network; "__" in a name is a dot, what stands before it "net."."""
        for name, value in values.items():
            self.write("/proc/sys/net/" + name.replace("__", "/"), f"{value}\n")

    def write(self, path, text):
        self.must(["tee", path], text)

    def path(self, path):
        """Where a file of this machine is, as seen by the lab."""
        return f"/proc/{self.process.pid}/root{path}"

    def halt(self):
        """Ends the machine and what start() began there; what it keeps stays for the next."""
        for process in [*self.started, self.process]:
            process.stdin.close()
            process.kill() if process is not self.process else None
            process.wait()
            process.stdout.close()


def environment(**more):
    """The environment of a program in a machine: nothing of the tests' own."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith("FIXPORT_") and name != "LD_PRELOAD"}
    return dict(clean, LC_ALL="C", **more)
