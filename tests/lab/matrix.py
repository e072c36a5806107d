# SPDX-License-Identifier: MIT
"""What is not between a pod and a host keeps working, whatever the site looks like and in whichever
order its machines are set up.

For each topology that fixport-setup knows, stateful and stateless, a network is made, and in it all
that people do there: ssh to nodes with sessions that stay open, NodePorts on each node, ping, UDP,
NFS from a reserved port, hosts among themselves, nodes, pods, pods to the rest of the world. All of
it is played before the first apply, between any two, after the last, and on the way back. Somebody
else's chains drop what connection tracking finds invalid, on every machine, and rp_filter is strict.

When all machines are applied, what the configuration promises is tried too: connections between pods
and hosts come from their ports and pass the gateway in both directions, and others do not pass.
"""

import itertools
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

import siteconf
import state
from machine import WORK, Machine
from trial import CONFIG, environment

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = (4, 6)
SSH, WEB, NFS, DNS = 22, 80, 2049, 53
SERVICE, IDLE, POD_SERVICE, CLOSED = 60001, 5432, 8080, 9090
NODE_PORT, LOCAL_PORT = 30080, 30081  # externalTrafficPolicy: Cluster, and Local
POD_PORTS, HOST_PORTS = range(61001, 62000), range(60101, 61000)
PORTS = {"host": (SSH, NFS, DNS, SERVICE, CLOSED), "node": (SSH, DNS), "gw": (SSH,),
         "pod": (POD_SERVICE, CLOSED, 8088), "other": (SSH, WEB, DNS)}
CLUSTER = {4: "10.200.0.0/16", 6: "fd00:200::/32"}
SERVICE_ADDRESS = {4: "10.96.0.10", 6: "fd00:96::10"}  # a Service whose endpoint is host-a

# As kube-proxy writes it, and a CNI that always changes the port.
NAT = """\
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL --dport 30080 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL --dport 30080 -j DNAT --to-destination {pod}:8080
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL --dport 30081 -j DNAT --to-destination {pod}:8080
-A KUBE-SERVICES -p tcp -d {service} --dport 80 -j DNAT --to-destination {host}:60001
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
-A POSTROUTING -s {block} ! -d {cluster} -j MASQUERADE --random-fully
"""
SOMEBODY = """\
table inet somebody {
    chain input { type filter hook input priority filter; ct state invalid counter drop; }
    chain forward { type filter hook forward priority filter; ct state invalid counter drop; }
    chain output { type filter hook output priority filter; ct state invalid counter drop; }
}
"""
SITE = """\
[pool]
ports = 61001-61999
[rule hosts]
to = {hosts}
{machines}
[node node1]
address = {node1}
pods = 10.200.1.0/24, fd00:200:1::/64
[node node2]
address = {node2}
pods = 10.200.36.0/24, fd00:200:36::/64
[hosts]
addresses = {hosts}
services = 60001, 5432
ports = 60101-60999
[pods]
services = 8080
[gateway]
{address}
stateful = {stateful}
[setup]
persist = none
"""


@dataclass(frozen=True)
class Topology:
    """A site. lans: who is on which network of addresses, the first digits of which are the key."""

    lans: dict
    roles: dict
    address: str = ""  # whose addresses are [gateway] address
    gateway: str = ""  # what connections between pods and hosts pass: "" is the pod's own node
    keeps_address: bool = False  # pods towards hosts: else they have the node's


NODES = {"node1": "node", "node2": "node"}
HOSTS = {"host-a": "host", "host-b": "host"}
NUMBER = {"host-a": 67, "host-b": 68, "gw": 2, "node1": 17, "node2": 45, "other": 99}
ALL = ("host-a", "host-b", "node1", "node2", "other")
TOPOLOGIES = {
    "routed": Topology({31: ("host-a", "host-b", "gw"), 32: ("gw", "node1", "node2", "other")},
                       {**HOSTS, "gw": "gateway", **NODES}, "gw", "gw"),
    "nodes": Topology({31: ALL}, {**HOSTS, "node1": "node, gateway", "node2": "node, gateway"}),
    "one-arm": Topology({31: (*ALL, "gw")}, {**HOSTS, "gw": "gateway", **NODES}, "gw", "gw", True),
    "host-gateway": Topology({31: ALL}, {"host-a": "host, gateway", "host-b": "host", **NODES},
                             "host-a", "host-a", True),
}
PODS = {"pod-c": ("node1", 1, 91), "pod-d": ("node2", 36, 5)}
EXPECTED = {"routed": "routed:", "nodes": "the nodes are the firewall", "one-arm": "one arm",
            "host-gateway": "a host is the gateway"}


class Site:
    """A topology's machines, each with its agent; use as a context."""

    def __init__(self, topology, stateful):
        self.topology = topology
        self.stateful = stateful
        self.folder = tempfile.mkdtemp(dir=WORK)
        self.machines = {}
        self.agents = {}
        self.ids = itertools.count()

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for machine in reversed(self.machines.values()):
            machine.halt()
        shutil.rmtree(self.folder)

    def __getitem__(self, name):
        return self.machines[name]

    # ---- addresses ----

    def lan_of(self, name):
        return next(lan for lan, names in self.topology.lans.items() if name in names)

    def address(self, name, family, lan=None):
        if name in PODS:
            _, block, number = PODS[name]
            return f"10.200.{block}.{number}" if family == 4 else f"fd00:200:{block}::{number}"
        lan = lan or self.lan_of(name)
        number = NUMBER[name]
        return f"192.168.{lan}.{number}" if family == 4 else f"fd00:{lan}::{number}"

    def both(self, name):
        lans = [lan for lan, names in self.topology.lans.items() if name in names]
        return ", ".join(self.address(name, family, lan) for lan in lans for family in FAMILIES)

    def config(self):
        hosts = ", ".join(self.both(name) for name in HOSTS)
        machines = "".join(f"[machine {name}]\nroles = {roles}\n"
                           for name, roles in self.topology.roles.items())
        address = f"address = {self.both(self.topology.address)}" if self.topology.address else ""
        return SITE.format(hosts=hosts, machines=machines, address=address,
                           node1=self.both("node1"), node2=self.both("node2"),
                           stateful="yes" if self.stateful else "no")

    # ---- the network ----

    def _build(self):
        switch = self._machine("switch")
        for lan, names in self.topology.lans.items():
            switch.ip(f"link add lan{lan} type bridge mcast_snooping 0\nlink set lan{lan} up\n")
            for name in names:
                self._plug(name, lan)
        for lan, names in self.topology.lans.items():
            for name in names:
                self._default_route(name, lan)
        for number, (pod, (node, block, _)) in enumerate(PODS.items()):
            self._pod(pod, node, block, number)
        for name, machine in self.machines.items():
            if name != "switch":
                self._strict(machine)
                self._agent(name)
        for name in self.topology.roles:
            with open(self[name].path(CONFIG), "w", encoding="ascii") as file:
                file.write(self.config())

    def _machine(self, name, node=None):
        self.machines[name] = Machine(name, self.folder, node)
        return self.machines[name]

    def _plug(self, name, lan):
        machine = self.machines.get(name) or self._machine(name)
        self["switch"].ip(f"link add {name}-{lan} type veth peer name lan{lan} "
                          f"netns {machine.process.pid}\n"
                          f"link set {name}-{lan} master lan{lan} up\n")
        machine.ip(f"link set lan{lan} up\n"
                   f"addr add {self.address(name, 4, lan)}/24 dev lan{lan}\n"
                   f"addr add {self.address(name, 6, lan)}/64 dev lan{lan} nodad\n")

    def _default_route(self, name, lan):
        """To the machine that is on both networks, which forwards."""
        if len(self.topology.lans) == 1:
            return
        if name == "gw":
            self["gw"].sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
            return
        self[name].ip("".join(f"route add default via {self.address('gw', family, lan)}\n"
                              for family in FAMILIES))

    def _pod(self, pod, node, block, number):
        home = self[node]
        home.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        home.ip("link add cni0 type bridge mcast_snooping 0\nlink set cni0 up\n"
                f"addr add 10.200.{block}.1/24 dev cni0\n"
                f"addr add fd00:200:{block}::1/64 dev cni0 nodad\n")
        machine = self._machine(pod, home)
        home.ip(f"link add {pod} type veth peer name eth0 netns {machine.process.pid}\n"
                f"link set {pod} master cni0 up\n")
        machine.ip(f"link set eth0 up\naddr add {self.address(pod, 4)}/32 dev eth0\n"
                   f"addr add {self.address(pod, 6)}/128 dev eth0 nodad\n"
                   f"route add default via 10.200.{block}.1 dev eth0 onlink\n"
                   f"route add default via fd00:200:{block}::1 dev eth0 onlink\n")
        other = [name for name in PODS if name != pod][0]
        other_node, other_block, _ = PODS[other]
        home.ip(f"route add 10.200.{other_block}.0/24 via {self.address(other_node, 4)}\n"
                f"route add fd00:200:{other_block}::/64 via {self.address(other_node, 6)}\n")
        for family in FAMILIES:
            self._translate(home, family, f"10.200.{block}.0/24" if family == 4
                            else f"fd00:200:{block}::/64")
        assert number < len(PODS)

    def _translate(self, node, family, block):
        def bracket(address):
            return f"[{address}]" if family == 6 else address
        text = NAT.format(pod=bracket(self.address("pod-d", family)), block=block,
                          host=bracket(self.address("host-a", family)), cluster=CLUSTER[family],
                          service=SERVICE_ADDRESS[family])
        node.must([f"{'ip' if family == 4 else 'ip6'}tables-nft-restore", "-w", "5", "--noflush"],
                  f"*nat\n{text}COMMIT\n")

    def _strict(self, machine):
        machine.must(["sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1"])
        machine.must(["nft", "-f", "-"], SOMEBODY)

    def _agent(self, name):
        self.start_agent(name, next(p for kind, p in PORTS.items() if name.startswith(kind)))

    def start_agent(self, name, ports):
        self.agents[name] = self[name].start(
            [sys.executable, os.path.join(HERE, "agent.py"), *map(str, ports)], environment())
        if self.agents[name].stdout.readline() != "ready\n":
            raise RuntimeError(f"{name}: its agent does not start")

    # ---- what is done in it ----

    def play(self, tasks):
        """Does them all at the same time. tasks: (name, who, what to do). Return: {name: result}."""
        asked = {}
        for name, who, task in tasks:
            number = next(self.ids)
            asked.setdefault(who, {})[number] = name
            self.agents[who].stdin.write(json.dumps({"id": number, **task}) + "\n")
        results = {}
        for who, names in asked.items():
            self.agents[who].stdin.flush()
        for who, names in asked.items():
            for _ in names:
                result = json.loads(self.agents[who].stdout.readline())
                results[names[result["id"]]] = result
        return results

    def setup(self, name, *argv):
        config = ["--config", CONFIG] if argv[0] in ("plan", "apply") else []
        return self[name].run(["fixport-setup", *config, *argv], env=environment(), timeout=60)


# ---- what people do ----


def flows(site):
    """(from, to, what, port, source port): none is a TCP connection between a pod and a host."""
    yield from ((host, node, "tcp", SSH, 0) for host in HOSTS for node in NODES)
    yield from ((who, node, "tcp", NODE_PORT, 0) for who in (*HOSTS, "other") for node in NODES)
    yield from ((host, "node2", "tcp", LOCAL_PORT, 0) for host in HOSTS)
    for a, b in (("host-a", "node1"), ("node2", "host-b"), ("host-a", "host-b"),
                 ("node1", "node2"), ("pod-c", "pod-d"), ("pod-c", "other"), ("pod-d", "host-b"),
                 ("pod-d", "node1")):
        yield a, b, "ping", 0, 0
    for a, b in (("host-a", "node1"), ("node1", "host-a"), ("pod-c", "other"), ("pod-c", "host-a"),
                 ("pod-c", "node2")):
        yield a, b, "udp", DNS, 0
    yield "node1", "host-a", "tcp", NFS, 801
    yield "node2", "host-b", "tcp", NFS, 802
    yield "node1", "host-a", "tcp", SERVICE, 0  # the node's own, to what pods may reach
    for a, b in (("host-a", "host-b"), ("host-b", "host-a"), ("node1", "node2"),
                 ("node2", "node1"), ("node1", "host-b"), ("pod-c", "node2"), ("pod-d", "other"),
                 ("other", "host-a"), ("other", "node2"), ("host-b", "other")):
        yield a, b, "tcp", SSH, 0
    for a, b in (("pod-c", "pod-d"), ("pod-d", "pod-c"), ("node1", "pod-d"), ("node2", "pod-d")):
        yield a, b, "tcp", POD_SERVICE, 0
    if "gw" in site.machines:
        for a in ("host-a", "node1", "other"):
            yield a, "gw", "tcp", SSH, 0


def tasks_of(site):
    for a, b, what, port, source in flows(site):
        for family in FAMILIES:
            name = f"{a} → {b} {what}{f' {port}' if port else ''} (IPv{family})"
            yield name, a, {"do": what, "to": site.address(b, family), "port": port,
                            "from": source}


# Those of a pod with a host go on, too, if it can be told from the packets that they were there.
SESSIONS = (("host-a", "node1", SSH), ("host-b", "node1", NODE_PORT), ("host-a", "node2", LOCAL_PORT),
            ("node1", "host-a", NFS), ("pod-c", "other", WEB), ("pod-c", "pod-d", POD_SERVICE),
            ("pod-c", "host-a", SERVICE))


def sessions_open(site):
    """Return: tasks that use what was opened."""
    sessions = SESSIONS if site.stateful else SESSIONS[:-1]
    opened = site.play([((a, b, port, family), a, {"do": "open", "to": site.address(b, family),
                                                   "port": port})
                        for a, b, port in sessions for family in FAMILIES])
    return [(f"open session {a} → {b} {port} (IPv{family})", a,
             {"do": "use", "session": result["id"]})
            for (a, b, port, family), result in opened.items()]


def check(tap, site, tasks, when):
    results = site.play(tasks)
    bad = [f"{name}: {result['said']}" for name, result in results.items() if not result["good"]]
    tap.point(not bad, f"{when}: {len(results)} flows go as before", *bad)


# ---- what the configuration promises ----


def pass_gateway(site, family, source, destination, port):
    """Whether the gateway's connection tracking has seen both directions; what it has seen."""
    gateway = site.topology.gateway or PODS[source if source in PODS else destination][0]
    text = site[gateway].must(["conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp", "--orig-port-src",
                               str(port)])
    lines = [line for line in text.splitlines() if f"sport={port} " in line and
             site.address(destination, family) in line]
    return any("UNREPLIED" not in line for line in lines), text


def promised(tap, site, when):
    pods, hosts = iter(POD_PORTS[10:]), iter(HOST_PORTS[10:])
    tasks, wanted = [], {}
    for family in FAMILIES:
        for pod, host in (("pod-c", "host-a"), ("pod-d", "host-a"), ("pod-c", "host-b")):
            for a, b, port, source in ((pod, host, SERVICE, next(pods)),
                                       (host, pod, POD_SERVICE, next(hosts))):
                name = f"{a} → {b} {port} from {source} (IPv{family})"
                wanted[name] = (family, a, b, source)
                tasks.append((name, a, {"do": "tcp", "to": site.address(b, family), "port": port,
                                        "from": source}))
    bad = []
    for name, result in site.play(tasks).items():
        family, a, b, source = wanted[name]
        seen = site.address(a, family)
        if a in PODS and not site.topology.keeps_address:
            seen = site.address(PODS[a][0], family)
        passed, tracked = pass_gateway(site, family, a, b, source)
        if not result["good"] or result["said"] != f"{seen} {source}":
            bad.append(f"{name}: {result['said']}, not {seen} {source}")
        elif not passed:
            bad.append(f"{name}: the gateway saw {tracked}")
    tap.point(not bad, f"{when}: {len(tasks)} connections between pods and hosts keep address and "
              "port, and pass the gateway both ways", *bad)
    service(tap, site, when)
    rejected(tap, site, when)


def service(tap, site, when):
    """A Service that is a host: what the pod asks for is not where it gets."""
    for family in FAMILIES:
        source = POD_PORTS[500 + family]
        task = {"do": "tcp", "to": SERVICE_ADDRESS[family], "port": WEB, "from": source}
        result = site.play([("it", "pod-c", task)])["it"]
        address = site.address("pod-c" if site.topology.keeps_address else "node1", family)
        passed, tracked = pass_gateway(site, family, "pod-c", "host-a", source)
        tap.point(result["said"] == f"{address} {source}" and passed,
                  f"{when}: a Service that is a host, likewise (IPv{family})", result, tracked)


def rejected(tap, site, when):
    cases = (("pod-c", "host-a", SERVICE, 0), ("pod-c", "host-b", CLOSED, POD_PORTS[0]),
             ("pod-d", "host-b", SSH, 0), ("host-a", "pod-c", POD_SERVICE, 59999),
             ("host-b", "pod-d", CLOSED, HOST_PORTS[0]),
             ("host-a", "pod-c", CLOSED, IDLE))  # looks like an answer
    # All machines are one kernel here: the first ICMPv6 error comes while the socket is still in its
    # own connect(), which keeps it as a soft error only. What counts is the answer to a SYN that is
    # sent again, a second later or three.
    tasks = [(f"{a} → {b} {port} from {source or 'any port'} (IPv{family})", a,
              {"do": "tcp", "to": site.address(b, family), "port": port, "from": source,
               "patience": 20})
             for a, b, port, source in cases for family in FAMILIES]
    bad = [f"{name}: {result['said']}" for name, result in site.play(tasks).items()
           if "ConnectionRefused" not in result["said"]]
    tap.point(not bad, f"{when}: {len(tasks)} that were not agreed on are rejected", *bad)


# ---- in any order ----


def orders(names):
    """Each machine is once the first and once the last of them."""
    names = list(names)
    turned = [names[i:] + names[:i] for i in range(len(names))]
    return turned


def play_order(tap, site, tasks, order, before):
    for i, name in enumerate(order):
        done = site.setup(name, "apply")
        when = f"{', '.join(order[:i + 1])} applied"
        if not tap.point(done.returncode == 0, f"{when}: apply on {name}", done.stdout,
                         done.stderr):
            return
        check(tap, site, tasks, when)
    promised(tap, site, f"{', '.join(order)} applied")
    for i, name in enumerate(reversed(order) if len(order) % 2 else order):
        done = site.setup(name, "undo")
        check(tap, site, tasks, f"undone on {i + 1} machines, {name} the last")
        changed = state.difference(before[name], state.of_machine(site[name]))
        tap.point(done.returncode == 0 and not changed, f"undo on {name} leaves it as before",
                  done.stdout, done.stderr, *changed)


def case(tap, name, stateful, which):
    topology = TOPOLOGIES[name]
    with Site(topology, stateful) as site:
        before = {machine: state.of_machine(site[machine]) for machine in topology.roles}
        tasks = [*tasks_of(site), *sessions_open(site)]
        check(tap, site, tasks, "before")
        for machine in topology.roles:
            done = site.setup(machine, "plan")
            tap.point(done.returncode == 2 and EXPECTED[name] in done.stdout,
                      f"plan on {machine} says which topology it is", done.stdout, done.stderr)
        for order in [*orders(topology.roles)][which]:
            play_order(tap, site, tasks, order, before)


# ---- README's site, word for word ----

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as it:
    it.sendall(b"who\\n")
    print(it.getsockname()[1], it.recv(200).decode().replace("::ffff:", ""))
"""
README = os.path.join(HERE, "..", "..", "README.md")


def readme_config():
    with open(README, encoding="utf-8") as file:
        blocks = file.read().split("```ini\n")
    return next(block.split("```")[0] for block in blocks if "[machine host-a]" in block)


def case_readme(tap):
    """The configuration and the commands of README's "The whole site", as they stand there."""
    topology = Topology({31: ALL}, {"host-a": "", "node1": "", "node2": ""})
    with Site(topology, True) as site:
        for name in topology.roles:
            with open(site[name].path(CONFIG), "w", encoding="utf-8") as file:
                file.write(readme_config())
        manifest = site["node1"].path("/etc/kubernetes/manifests/kube-apiserver.yaml")
        os.makedirs(os.path.dirname(manifest), exist_ok=True)
        with open(manifest, "w", encoding="ascii") as file:
            file.write(siteconf.MANIFEST)
        before = {name: state.of_machine(site[name]) for name in topology.roles}
        tasks = [*tasks_of(site), *sessions_open(site)]
        check(tap, site, tasks, "README, before")

        def command(name, *argv, wanted=0):
            done = site[name].run(["fixport-setup", *argv], env=environment(), timeout=60)
            tap.point(done.returncode == wanted, f"README: {name}$ fixport-setup {' '.join(argv)}",
                      done.stdout, done.stderr)
        for name in topology.roles:
            command(name, wanted=2)
            command(name, "apply", "--confirm", "60")
            command(name, "confirm")
            command(name, "status")
            found = json.loads(site[name].run(["fixport-setup", "doctor", "--json"],
                                              env=environment(), timeout=60).stdout)["findings"]
            wrong = [finding for finding in found if finding["severity"] != "info" and
                     finding["id"] not in ("no-systemd", "library-missing", "alias-missing")]  # true, in a lab
            tap.point(not wrong, f"README: {name}$ fixport-setup doctor", *wrong)
            tap.equal("alias-missing" in [finding["id"] for finding in found], name in ("node1", "node2"),
                      f"README: {name}$ fixport-setup doctor: a Service leads to a host where there are such")
            check(tap, site, tasks, f"README, {name} applied")
        for a, b, port, ports in (("pod-c", "host-a", SERVICE, range(61001, 62000)),
                                  ("host-a", "pod-c", 8088, range(61001, 62000))):
            done = site[a].run([sys.executable, "-c", CONNECT, site.address(b, 4), str(port)],
                               env=environment(shim=True))
            left = done.stdout.split()
            tap.point(done.returncode == 0 and int(left[0]) in ports and left[2] == left[0],
                      f"README: {a} → {b}:{port} with the library, from its range", done.stdout,
                      done.stderr)
        for name in topology.roles:
            command(name, "undo")
            changed = state.difference(before[name], state.of_machine(site[name]))
            tap.point(not changed, f"README: after undo {name} is as before", *changed)
        check(tap, site, tasks, "README, after undo")


# ---- sites that are not so plain ----

MASQUERADE = "-A POSTROUTING -o {device} -j MASQUERADE\n"


def arrives(tap, site, what, asked):
    """asked: (from, to, port, source port), all open at the same time. Each has to arrive from its
    own address and port."""
    bad = []
    for family in FAMILIES:
        results = site.play([((a, source), a, {"do": "open", "to": site.address(b, family),
                                               "port": port, "from": source})
                             for a, b, port, source in asked])
        bad += [f"{a} from {source} (IPv{family}): {result['said']}"
                for (a, source), result in results.items()
                if result["said"] != f"{site.address(a, family)} {source}"]
    tap.point(not bad, what, *bad)


def case_masquerade(tap):
    """A gateway that masquerades what leaves it: two pods on two nodes, with one port."""
    with Site(TOPOLOGIES["one-arm"], True) as site:
        for tool in ("iptables-nft-restore", "ip6tables-nft-restore"):
            site["gw"].must([tool, "-w", "5", "--noflush"],
                            f"*nat\n{MASQUERADE.format(device='lan31')}COMMIT\n")
        for name in site.topology.roles:
            done = site.setup(name, "apply")
            tap.point(done.returncode == 0, f"masquerading gateway: apply on {name}", done.stdout,
                      done.stderr)
            if name == "gw":
                tap.point("this gateway translates source addresses" in done.stderr,
                          "apply on gw says that it masquerades", done.stderr)
        arrives(tap, site, "a gateway that masquerades: pods with one port keep address and port",
                [("pod-c", "host-a", SERVICE, 61700), ("pod-d", "host-a", SERVICE, 61700),
                 ("host-a", "pod-c", POD_SERVICE, 60200), ("host-b", "pod-c", POD_SERVICE, 60200)])
        done = site.setup("gw", "plan")
        tap.point(done.returncode == 0, "and plan has nothing to do then", done.stdout, done.stderr)


def case_source_routing(tap):
    """Policy routing sends pods' packets another way than the node's (ip rule from PODS, as AWS)."""
    with Site(TOPOLOGIES["routed"], True) as site:
        for node in NODES:
            block = next(number for home, number, _ in PODS.values() if home == node)
            for family, pods in ((4, f"10.200.{block}.0/24"), (6, f"fd00:200:{block}::/64")):
                for command in (f"route add default via {site.address('other', family)} table 2",
                                f"rule add from {pods} lookup 2 pref 1536",
                                f"rule add to {CLUSTER[family]} lookup main pref 1000"):
                    site[node].must(["ip", f"-{family}", *command.split()])
        for name in site.topology.roles:
            done = site.setup(name, "apply")
            said = name not in NODES or "a rule of policy routing" in done.stderr
            tap.point(done.returncode == 0 and said, f"source routing: apply on {name}",
                      done.stdout, done.stderr)
        promised(tap, site, "pods' packets have a way of their own")
        for node in NODES:
            done = site.setup(node, "plan")
            tap.point(done.returncode == 0, f"source routing: plan on {node} has nothing to do",
                      done.stdout, done.stderr)


def case_mark(tap):
    """Somebody else's marks: a rule that looks at our bit is a refusal; without it nothing of theirs
    is taken to our table."""
    with Site(TOPOLOGIES["one-arm"], True) as site:
        node = site["node1"]
        node.must(["ip", "rule", "add", "fwmark", "0x2001", "lookup", "77", "pref", "500"])
        before = state.of_machine(node)
        done = site.setup("node1", "apply")
        tap.point(done.returncode == 1 and "mark = 0x2000 is in use here" in done.stderr and
                  not state.difference(before, state.of_machine(node)),
                  "a mark that is in use is refused, and nothing changed", done.stdout, done.stderr)
        node.must(["ip", "rule", "del", "fwmark", "0x2001", "lookup", "77", "pref", "500"])
        node.must(["nft", "add table ip theirs; add chain ip theirs out { type route hook output "
                   "priority mangle; }; add rule ip theirs out meta l4proto tcp meta mark set 0x2001"])
        tasks = [*tasks_of(site), *sessions_open(site)]
        check(tap, site, tasks, "marked by somebody, before")
        done = site.setup("node1", "apply")
        tap.point(done.returncode == 0, "apply where somebody marks packets", done.stdout, done.stderr)
        check(tap, site, tasks, "marked by somebody, node1 applied")


def case_blocks(tap):
    """[hosts] is the whole network, with nodes and the gateway in it."""
    for name in ("nodes", "one-arm"):
        with Site(TOPOLOGIES[name], True) as site:
            if name == "nodes":
                wide = "192.168.31.0/24, fd00:31::/64"
            else:  # beside the nodes
                wide = "192.168.31.64/28, 192.168.31.2, fd00:31::67, fd00:31::68"
            hosts = ", ".join(site.both(host) for host in HOSTS)
            for machine in site.topology.roles:
                with open(site[machine].path(CONFIG), "w", encoding="ascii") as file:
                    file.write(site.config().replace(f"addresses = {hosts}", f"addresses = {wide}"))
            tasks = [task for task in [*tasks_of(site), *sessions_open(site)]
                     if "pod-d → other" not in task[0] or name != "nodes"]  # it is a host here
            tasks = [task for task in tasks if not (name == "nodes" and "other" in task[0])]
            check(tap, site, tasks, f"wide hosts, {name}, before")
            for machine in site.topology.roles:
                done = site.setup(machine, "apply")
                tap.point(done.returncode == 0, f"wide hosts, {name}: apply on {machine}",
                          done.stdout, done.stderr)
                check(tap, site, tasks, f"wide hosts, {name}, {machine} applied")
            promised(tap, site, f"wide hosts, {name}")


def case_exclusive_host(tap):
    """exclusive = yes on a gateway that is a host: what is its own goes on."""
    with Site(TOPOLOGIES["host-gateway"], True) as site:
        for machine in site.topology.roles:
            with open(site[machine].path(CONFIG), "w", encoding="ascii") as file:
                file.write(site.config().replace("[gateway]\n", "[gateway]\nexclusive = yes\n"))
        tasks = [*tasks_of(site), *sessions_open(site)]
        check(tap, site, tasks, "exclusive host gateway, before")
        for machine in site.topology.roles:
            done = site.setup(machine, "apply")
            tap.point(done.returncode == 0, f"exclusive host gateway: apply on {machine}",
                      done.stdout, done.stderr)
            check(tap, site, tasks, f"exclusive host gateway, {machine} applied")
        promised(tap, site, "exclusive host gateway")


def case_routes_there(tap):
    """Somebody, a BGP daemon say, has made the routes that are wanted."""
    with Site(TOPOLOGIES["nodes"], True) as site:
        site["host-a"].ip(f"route add 10.200.1.0/24 via {site.address('node1', 4)} proto bird\n")
        before = state.of_machine(site["host-a"])
        done = site.setup("host-a", "apply")
        routes = site["host-a"].must(["ip", "route"])
        tap.point(done.returncode == 0 and "is left to whoever made it" in done.stderr and
                  routes.count("10.200.1.0/24") == 1, "a route that is there already is success",
                  done.stdout, done.stderr, routes)
        done = site.setup("host-a", "plan")
        tap.point(done.returncode == 0, "and plan has nothing to do then", done.stdout, done.stderr)
        done = site.setup("host-a", "undo")
        changed = state.difference(before, state.of_machine(site["host-a"]))
        tap.point(done.returncode == 0 and not changed, "and undo leaves it", done.stdout,
                  done.stderr, *changed)


def cases():
    yield "readme", case_readme
    yield "masquerade", case_masquerade
    yield "source_routing", case_source_routing
    yield "routes_there", case_routes_there
    yield "mark", case_mark
    yield "blocks", case_blocks
    yield "exclusive_host", case_exclusive_host
    for name in TOPOLOGIES:
        for stateful in (True, False):
            # each order once, shared between the two
            which = slice(0 if stateful else 1, None, 2)
            yield (f"matrix_{name}{'' if stateful else '_stateless'}",
                   lambda tap, name=name, stateful=stateful, which=which:
                   case(tap, name, stateful, which))


CASES = dict(cases())
