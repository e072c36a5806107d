# SPDX-License-Identifier: MIT
"""What is done in the network: fixport-setup on its machines, servers, and clients that ask them.

For the test and for the demonstration.
"""

import concurrent.futures
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass

import machine
import network
import siteconf

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(os.environ.get("FIXPORT_BUILD", "build"))
SHIM = os.path.join(BUILD, "shim", "libfixport.so")
TOOLS = os.path.join(BUILD, "tools")
CONFIG = "/etc/fixport.conf"
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
SERVERS = {"host-a": [siteconf.HOST_SERVICE, siteconf.OTHER_SERVICE],
           "host-b": [siteconf.HOST_SERVICE, siteconf.FEW_SERVICE],
           "node1": [siteconf.SSH],
           "pod-c": [siteconf.POD_SERVICE, siteconf.OTHER_SERVICE, siteconf.BUSY_PORT],
           "pod-d": [siteconf.POD_SERVICE], "pod-e": [siteconf.POD_SERVICE],
           "pod-b": [siteconf.POD_SERVICE]}


NEEDED = ("unshare", "nsenter", "ip", "iptables-nft", "iptables-legacy", "nft", "conntrack", "curl",
          "nc", "tee", "grep")


def impossible():
    """Why none of this can be here, or None."""
    if os.geteuid() != 0:
        return "namespaces with firewalls need root"
    path = environment()["PATH"]
    missing = [name for name in NEEDED if not shutil.which(name, path=path)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    hidden = [folder for folder in (HERE, BUILD) if folder.startswith(machine.HIDDEN)]
    return f"{hidden[0]} would be hidden in the machines" if hidden else machine.refused()


def environment(shim=False):
    """The environment of a program in a machine, with or without the library."""
    path = f"{TOOLS}:{os.environ['PATH']}:/usr/sbin:/sbin"
    if not shim:
        return machine.environment(PATH=path)
    before = os.environ.get("FIXPORT_TEST_PRELOAD", "").split()
    return machine.environment(PATH=path, LD_PRELOAD=":".join([*before, SHIM]))


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    status: int  # of the client
    address: str  # of the client as the server saw it, "" if it was never answered
    port: int
    text: str  # what the client printed

    def __bool__(self):
        return self.status == 0 and self.port != 0


def client(tool, address, port, options=()):
    """Return: a client's command, and its standard input."""
    if tool == "nc":
        return ["nc", "-w", "3", *options, address, str(port)], "GET / HTTP/1.0\r\n\r\n"
    if tool == "python3":
        return [sys.executable, os.path.join(HERE, "client.py"), address, str(port), "1", "1"], ""
    if ":" in address:
        address = f"[{address}]"
    return ["curl", "-sS", "--connect-timeout", "3", *options,
            f"http://{address}:{port}/api/healthy/check"], ""


def at_once(function, arguments):
    """Return: the results, in the order of the arguments."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(function, arguments))


class Held:
    """A client that holds its connections until finish()."""

    def __init__(self, process):
        self.process = process
        self.text = ""
        for line in process.stdout:
            if line == "done\n":
                break
            self.text += line

    def finish(self):
        """Return: the pairs of its own port and the one that the server saw."""
        self.process.communicate()
        pairs = re.findall(r"^(\d+) \S+ (\d+)$", self.text, re.M)
        return [(int(mine), int(seen)) for mine, seen in pairs]


class Trial(network.Network):
    """The network with a configuration on its machines and servers in it."""

    def __init__(self, kind, wish):
        super().__init__(kind)
        self.wish = wish

    def _build(self):
        super()._build()
        for computer in self:
            with open(computer.path(CONFIG), "w", encoding="ascii") as file:
                file.write(self.wish.text())
        self._manifest()
        started = {name: self._serve(name, ports) for name, ports in SERVERS.items()
                   if name in self.machines}
        for name, server in started.items():
            if server.stdout.readline() != "ready\n":
                raise machine.Failed(f"{name}: its server does not start")

    def _manifest(self):
        path = self["node1"].path(MANIFEST)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as file:
                file.write(siteconf.MANIFEST)

    def _serve(self, name, ports):
        return self[name].start([sys.executable, os.path.join(HERE, "server.py"),
                                 *map(str, ports)])

    def setup(self, name, *argv, timeout=60):
        """fixport-setup on a machine. Return: as subprocess.run()."""
        config = ["--config", CONFIG] if argv[0] in ("plan", "apply", "doctor") else []
        return self[name].run(["fixport-setup", *config, *argv], env=environment(), timeout=timeout)

    def setup_all(self, *argv):
        """The same on all machines. Return: {name: result}."""
        return self.on_all(lambda name: self.setup(name, *argv))

    def on_all(self, function):
        """Calls a function with each machine's name, at the same time. Return: {name: result}."""
        names = [computer.name for computer in self]
        return dict(zip(names, at_once(function, names)))

    def findings(self, name):
        """Return: the errors that fixport-setup doctor finds on a machine, as a list of dicts."""
        done = self.setup(name, "doctor", "--json")
        if done.returncode not in (0, 2):
            raise machine.Failed(f"doctor on {name}: {done.stdout}{done.stderr}")
        return [finding for finding in json.loads(done.stdout)["findings"]
                if finding["severity"] == "error"]

    def boot(self, name):
        """What the machine's own unit starts at boot. Return: as subprocess.run()."""
        folder = self[name].path("/etc/systemd/system")
        unit = next(n for n in sorted(os.listdir(folder)) if n.startswith("fixport"))
        with open(os.path.join(folder, unit), encoding="utf-8") as file:
            command = re.search(r"^ExecStart=(\S+)(.*)$", file.read(), re.M)
        return self.setup(name, *command[2].split()) if command else None

    def ask(self, where, to, port, tool="curl", shim=True, family=4, options=()):
        """Sends a request. Return: an Answer."""
        argv, stdin = client(tool, network.STATIONS[to].address(family), port, options)
        done = self[where].run(argv, stdin, env=environment(shim))
        seen = re.findall(r"([0-9a-f.:]*[.:][0-9a-f.:]*) (\d+)$", done.stdout, re.M)
        address, seen_port = seen[-1] if seen else ("", 0)
        return Answer(done.returncode, address, int(seen_port), done.stdout + done.stderr)

    def hold(self, where, to, port, *numbers, shim=True, family=4):
        """Starts client.py with HELD, ROUNDS and perhaps LOCAL-PORT. Return: a Held."""
        argv = [sys.executable, os.path.join(HERE, "client.py"),
                network.STATIONS[to].address(family), str(port), *map(str, numbers)]
        return Held(self[where].start(argv, environment(shim)))

    def tracked(self, where, to, port, family=4):
        """The connections to a destination that a machine tracks.

        Return: a set of (client's address, its port, its port after masquerading).
        """
        address = network.STATIONS[to].address(family)
        text = self[where].must(["conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp",
                                 "--orig-dst", address, "--orig-port-dst", str(port)])
        found = re.findall(r"src=(\S+) dst=\S+ sport=(\d+) .*src=.* dport=(\d+)", text)
        return {(address, int(mine), int(out)) for address, mine, out in found}

    def rejected(self, family=4):
        """How many packets the administrator's own REJECT has rejected so far."""
        tool = f"{'ip' if family == 4 else 'ip6'}tables-{self.kind.iptables}-save"
        text = self["gateway"].must([tool, "-c", "-t", "filter"])
        return int(re.search(r"^\[(\d+):\d+\] -A FORWARD -j REJECT", text, re.M)[1])
