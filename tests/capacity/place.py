# SPDX-License-Identifier: MIT
"""What the capacity test is made of: network namespaces with a server each, which stand for the pods
of one node; clients in them; and the pool that they share."""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402 (found by the line above)

SERVER, CLIENT, STORM, SCRIBBLE = (fptest.program("capacity", name)
                                   for name in ("server", "client", "storm", "scribble"))
FAKE = fptest.program("fake", "libfake.so")
PORT = 1000  # the server's: below every range here
LONG = os.environ.get("FIXPORT_CAPACITY_LONG") == "1"
HANG = 900 if LONG else 120  # seconds after which something that ends by itself is taken to hang
DESCRIPTORS = 19000  # a process may have so many connections

BY_RANGE = ("ip_local_port_range=32768 60999",)
BY_BIND = ("ip_local_port_range=61000 65535",)
NO_OPTION = {"FAKE": "setsockopt/0/51=92"}  # IP_LOCAL_PORT_RANGE: ENOPROTOOPT


def facts(line):
    """The numbers of "name=number" pairs."""
    return {name: int(value) for name, value in re.findall(r"(\w+)=(-?\d+)", line)}


def wait_for(condition):
    """Return: whether it has come true before that looks like a hang."""
    limit = time.monotonic() + HANG
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


class Place:
    """A network namespace and the server in it."""

    def __init__(self, *sysctls, connections=1000):
        processes = connections // DESCRIPTORS + 1
        self.server = subprocess.Popen([SERVER, str(PORT), str(processes), *sysctls], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       start_new_session=True)
        self.netns = f"/proc/{self.server.pid}/ns/net"

    def ready(self):
        if self.server.stdout.readline() != "ready\n":
            raise RuntimeError("the server did not start")
        return self

    def command(self, argv, env=None):
        """@argv in the namespace, with the shim if there is an environment for it."""
        variables = [f"{k}={v}" for k, v in (env or {}).items()]
        return ["nsenter", f"--net={self.netns}", "env", *variables, *argv]

    def run(self, argv, env=None, **options):
        return subprocess.run(self.command(argv, env), text=True, capture_output=True, check=False,
                              **options)

    def release(self):
        """The server closes what it was told to keep."""
        os.killpg(self.server.pid, signal.SIGUSR1)

    def signal(self, number):
        os.killpg(self.server.pid, number)

    def states(self):
        """{source port: state} of the client's ends."""
        out = self.run(["ss", "-Htan", "dport", "=", f":{PORT}"]).stdout
        return {int(field[3].rsplit(":", 1)[1]): field[0]
                for field in (line.split() for line in out.splitlines())}

    def close(self):
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server.stdin.close()
        self.server.stdout.close()


class Places:
    """Some places for the time of a with."""

    def __init__(self, count, *sysctls, connections=1000):
        self.places = [Place(*sysctls, connections=connections) for _ in range(count)]

    def __enter__(self):
        return [place.ready() for place in self.places]

    def __exit__(self, *_):
        for place in self.places:
            place.close()


class Client:
    """A client process in a place. Its lines are read by facts()."""

    def __init__(self, place, pool, mode, *arguments, tag=1, fake=None, preload=True, **variables):
        env = pool.environment(fake, **variables) if preload else None
        argv = [CLIENT, mode, "-p", PORT, "-g", tag, *arguments]
        if pool.ledger:
            argv += ["-l", pool.ledger]
        self.process = subprocess.Popen(place.command([str(a) for a in argv], env), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=pool.errors, start_new_session=True)
        self.said_at_end = {}

    def said(self):
        """Its next line; {} if it has ended without one."""
        return facts(self.process.stdout.readline())

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command):
        self.tell(command)
        return self.said()

    def end(self):
        """Lets it end by itself. Return: its exit status, None if it hangs."""
        self.process.stdin.close()
        try:
            status = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.said_at_end = facts(self.process.stdout.read())
        self.process.stdout.close()
        return status

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()


CONFIG = """[pool]
path = {path}
ports = {ports}
quarantine = {quarantine}
when-exhausted = {exhausted}
mode = 0600
scope = {scope}
{lanes}
[rule capacity]
to = 127.0.0.0/8
"""


class Pool:
    """A pool in a folder of its own, with a ledger for so many destinations (client.c)."""

    def __init__(self, ports, destinations=0, lanes=None, quarantine=1, exhausted="fail",
                 scope="node", folder="/dev/shm"):
        self.folder = tempfile.TemporaryDirectory(dir=folder, prefix="fixport-capacity-")
        self.path = os.path.join(self.folder.name, "pool")
        self.options = {"quarantine": quarantine, "exhausted": exhausted, "scope": scope,
                        "lanes": f"lanes = {lanes}" if lanes else ""}
        self.config = self.write_config("conf", ports)
        self.ports = ports
        self.errors = open(self.file("errors"), "w+", encoding="utf-8", errors="replace")
        self.ledger = self.sparse("ledger", destinations * 65536) if destinations else None
        self.must("create", "-c", self.config)

    def file(self, name):
        return os.path.join(self.folder.name, name)

    def shares(self):
        """The file that all users of the pool write to, by its tag (layout.h)."""
        return glob.glob(self.path + "." + "[0-9a-f]" * 16)[0]

    def sparse(self, name, size):
        with open(self.file(name), "wb") as file:
            file.truncate(size)
        return self.file(name)

    def write_config(self, name, ports):
        with open(self.file(name), "w", encoding="ascii") as file:
            file.write(CONFIG.format(path=self.path, ports=ports, **self.options))
        return self.file(name)

    def environment(self, fake=None, **variables):
        preload = fptest.PRELOAD + (":" + FAKE if fake else "")
        return {"LD_PRELOAD": preload, "FIXPORT_POOL": self.path, "FIXPORT_ON_ERROR": "fail",
                **(fake or {}), **variables}

    def tool(self, *arguments):
        return subprocess.run([fptest.POOL_TOOL, "--pool", self.path, *arguments], text=True,
                              capture_output=True, check=False, timeout=HANG)

    def must(self, *arguments):
        done = self.tool(*arguments)
        if done.returncode:
            raise RuntimeError(f"fixport-pool {arguments[0]}: {done.stderr}")
        return done.stdout

    def status(self):
        return json.loads(self.must("status", "--json"))

    def reclaim(self):
        return json.loads(self.must("reclaim", "--json"))

    def leases(self):
        return self.status()["leases"]

    def entries(self):
        """How many pairs of destination and port have a connection, as the ledger says."""
        with open(self.ledger, "rb") as file:
            text = file.read()
        return len(text) - text.count(0)

    def said(self):
        """What the clients, the shim and the tools said on standard error, in short."""
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if "warning: " not in line]
        return "\n".join(lines[:4])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.errors.close()
        self.folder.cleanup()
