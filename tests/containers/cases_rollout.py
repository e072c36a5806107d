# SPDX-License-Identifier: MIT
"""Pods that replace each other under load: for how many seconds the new one finds no port.

Fifty short connections a second, through a hundred ports, towards one host. Connection tracking
remembers what has ended for as long as the kernel's defaults say, and so long is the quarantine.
Each way of keeping pods apart is tried with a pod that is stopped and replaced ("replaced") and
with a second one that begins beside it ("beside"), all at once.
"""

import ast
import shutil

import clients
import fptest
import manifests
import node as nodes
import old
from cases_node import SETUP

PORTS = 61001, 61100
RATE = 50
BUSY = 300  # connections, until each port was used
ENOUGH = 100  # connections of the newcomer
PATIENCE = 145  # seconds, for who waits for the quarantine
A_FEW = 10  # seconds that a newcomer may have to wait for the node's helper, on a busy machine
KINDS = "replaced", "beside"

# Short connections, paced: until there are ENOUGH (0: until SIGTERM), or for UNTIL seconds.
LOAD = """
import errno, signal, socket, sys, time
HOST, PORT, RATE, BUSY, ENOUGH, UNTIL = sys.argv[1], *map(int, sys.argv[2:])
made, refused, other, ports, addresses, moved = 0, [], [], set(), set(), []
def finish(*_):
    raise SystemExit
signal.signal(signal.SIGTERM, finish)
began = turn = time.monotonic()
try:
    while (made < ENOUGH or not ENOUGH) and time.monotonic() < began + UNTIL:
        try:
            with socket.create_connection((HOST, PORT), 10) as c:
                c.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
                with c.makefile() as f:
                    address, port = [f.readline() for _ in range(4)][3].split()
                own = c.getsockname()
            made += 1
            ports.add(own[1])
            addresses.add(address == own[0])
            if int(port) != own[1]:
                moved.append((own[1], int(port)))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                refused.append(round(time.monotonic() - began, 2))
            else:
                other.append(str(error))
        if made == BUSY:
            print("busy", flush=True)
        turn = max(turn + 1 / RATE, time.monotonic() - 1)
        time.sleep(max(0, turn - time.monotonic()))
finally:
    print(dict(made=made, refused=refused, other=other[:9], ports=sorted(ports),
               own_address=sorted(addresses), moved=moved[:9]), flush=True)
"""


class Pod:
    """A pod under load. @fixport: the folder of the pool, on the node; @library: of the library."""

    def __init__(self, node, name, fixport, library, port, enough=0):
        self.node, self.name = node, name
        self.process = node.podman_start(
            "run", "--rm", "--name", name, "-v", f"{fixport}:/run/fixport", "-v",
            f"{library}:/opt/fixport:ro", "-e", "LD_PRELOAD=/opt/fixport/libfixport.so", nodes.BASE,
            "python3", "-c", LOAD, nodes.HOST, *map(str, (port, RATE, BUSY, enough, PATIENCE if enough else 1000)))
        self.said = []

    def read_until(self, good):
        """Return: the first line that is @good, or None at the end of its output."""
        for line in self.process.stdout:
            if good(line):
                return line
            self.said.append(line)
        return None

    def wait_busy(self):
        if not self.read_until(lambda line: line == "busy\n"):
            raise nodes.Failed(f"{self.name}: {self.said}")

    def stop(self):
        """As the kubelet does: SIGTERM, and a while later the end."""
        self.node.podman("stop", "-t", "20", self.name)

    def result(self):
        """Waits for its end. Return: what it found, a dict of the names that LOAD prints."""
        line = self.read_until(lambda line: line.startswith("{"))
        self.process.wait()
        if not line:
            raise nodes.Failed(f"{self.name}: {self.said}")
        return ast.literal_eval(line)


class Way:
    """A way to keep pods apart, and its two destinations."""

    count = 0

    def __init__(self, name, fixport, library="/opt/fixport/lib"):
        self.name, self.fixport, self.library = name, fixport, library
        self.port = {kind: 60011 + 2 * Way.count + i for i, kind in enumerate(KINDS)}
        Way.count += 1
        self.first, self.second = {}, {}

    def begin(self, node, kind):
        self.first[kind] = Pod(node, f"{self.name}-{kind}-first", self.fixport, self.library, self.port[kind])

    def follow(self, node, kind):
        if kind == "replaced":
            self.first[kind].stop()
        self.second[kind] = Pod(node, f"{self.name}-{kind}-second", self.fixport, self.library, self.port[kind],
                                ENOUGH)

    def rule(self, *lines):
        """The rules of a configuration for this way."""
        return "".join(f"[rule {self.name}-{kind}]\nto = {nodes.HOST}:{port}\n" + "".join(lines)
                       for kind, port in self.port.items())


def make_pool(node, folder, rules, tool=fptest.POOL_TOOL):
    node.must(["mkdir", "-p", folder])
    node.write("/run/rollout.conf", f"[pool]\nports = {PORTS[0]}-{PORTS[1]}\n{rules}")
    node.must([tool, "create", "-c", "/run/rollout.conf", "--pool", f"{folder}/pool"])


def make_ways(node):
    """The ways, each with its pool."""
    helped = Way("helped", "/run/fixport")
    plain, address = Way("plain", "/run/fixport-plain"), Way("address", "/run/fixport-plain")
    make_pool(node, helped.fixport, helped.rule())
    make_pool(node, plain.fixport, plain.rule() + address.rule("scope = address\n"))
    ways = {way.name: way for way in (helped, plain, address)}
    if old.is_built():
        ways["old"] = before = Way("old", "/run/fixport-old", "/opt/fixport/old")
        node.must(["mkdir", "-p", before.library])
        shutil.copy(old.TREE / "build/shim/libfixport.so", node.path(before.library))
        make_pool(node, before.fixport, before.rule(), old.TREE / "build/tools/fixport-pool")
    return ways


def start_network(node, ways):
    """The host's servers; and the pods keep their addresses on the way to those of "address"."""
    ports = [str(port) for way in ways.values() for port in way.port.values()]
    server = node.host.start(["python3", f"{nodes.LAB}/server.py", *ports])
    server.stdout.readline()
    node.host.ip(f"route add 10.88.0.0/15 via {nodes.NODE}\n")
    for port in ways["address"].port.values():
        node.must(["iptables", "-w", "5", "-t", "nat", "-I", "POSTROUTING", "-p", "tcp", "-d", nodes.HOST, "--dport",
                   str(port), "-j", "ACCEPT"])


def seconds_without(way, kind, second):
    """Says for how many seconds a newcomer had no port. Return: these."""
    refused = second["refused"]
    seconds = refused[-1] if refused else 0.0
    never = "" if second["made"] else " (until the end)"
    print(f"# {way}, {kind}: {seconds:.1f} s without a port{never}, {len(refused)} refused, "
          f"then {second['made']} made", flush=True)
    return seconds


def brief(found):
    """What a pod found, in a few words."""
    return {name: value if not isinstance(value, list) or len(value) < 9 else [*value[:3], "...", value[-1]]
            for name, value in found.items()}


def check_way(tap, name, kind, results, seconds):
    """No connection may have another port than one of the range, on the way or in the pod; the first pod
    is not to suffer from the second, and the second gets ports when it can."""
    first, second = results[name, kind]
    tap.point(all(not found["other"] and not found["moved"] and clients.in_range(found["ports"], *PORTS) and
                  found["own_address"] == [name == "address"] for found in (first, second) if found["made"]),
              f"{name}, {kind}: all connections are from the range, and none was moved", brief(first), brief(second))
    tap.point(not first["refused"] and first["made"] >= BUSY,
              f"{name}, {kind}: the first pod had ports all the time", brief(first))
    if name == "address":
        tap.point(second["made"] == ENOUGH and not second["refused"],
                  f"{name}, {kind}: the second pod has ports at once", brief(second))
    elif name == "helped":
        tap.point(second["made"] == ENOUGH and seconds[name, kind] <= A_FEW,
                  f"{name}, {kind}: the second pod has ports in a few seconds", brief(second))


def case_rollout(tap, node):
    """A pod under load is replaced, or gets company."""
    node.podman("run", "--rm", "-v", "/opt/fixport:/opt/fixport", "fixport", "install", "/opt/fixport/lib")
    node.track(as_kernel=True)
    ways = make_ways(node)
    start_network(node, ways)
    node.play(manifests.daemon(SETUP, "[pool]\n", only="reclaim"))
    both = [(way, kind) for way in ways.values() for kind in KINDS]
    for way, kind in both:
        way.begin(node, kind)
    for way, kind in both:
        way.first[kind].wait_busy()
    for way, kind in both:
        way.follow(node, kind)
    results, seconds = {}, {}
    for way, kind in both:
        second = way.second[kind].result()
        if kind == "beside":
            way.first[kind].stop()
        results[way.name, kind] = way.first[kind].result(), second
        seconds[way.name, kind] = seconds_without(way.name, kind, second)
    for way, kind in both:
        if way.name != "old":  # which is as it was: for the figures
            check_way(tap, way.name, kind, results, seconds)
    tap.point(all(seconds["plain", kind] > 60 for kind in KINDS),
              "without the node's help the quarantine has to be waited for", seconds)


CASES = [("rollout", case_rollout)]
