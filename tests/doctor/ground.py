# SPDX-License-Identifier: MIT
"""Where the truth comes from: a site in namespaces (the matrix's), one machine of which has somebody
else's rules, and real connections through it.
"""

import os
import random
import re
import sys
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab")]
import corpus  # noqa: E402
import matrix  # noqa: E402
import state  # noqa: E402
from machine import Failed  # noqa: E402
from matrix import (CLOSED, FAMILIES, HOST_PORTS, HOSTS, IDLE, NODES, POD_PORTS,  # noqa: E402
                    POD_SERVICE, PODS, SERVICE)
from trial import environment  # noqa: E402

PATIENCE = 1.8  # seconds: a SYN that is lost is sent again after one
TOGETHER, OWN = 61778, 61888  # others' are drawn from the rest


@dataclass(frozen=True)
class Target:
    """A machine under test: in which topology, which one, its interfaces."""

    topology: str
    machine: str
    out: str
    into: str


TARGETS = {"host": Target("routed", "host-a", "lan31", "lan31"),
           "gateway": Target("routed", "gw", "lan31", "lan32"),
           "one-arm": Target("one-arm", "gw", "lan31", "lan31"),
           "node": Target("routed", "node1", "lan32", "cni0"),
           "node-gateway": Target("nodes", "node1", "lan31", "cni0")}
IPTABLES = {(4, "nft"): "iptables-nft", (6, "nft"): "ip6tables-nft",
            (4, "legacy"): "iptables-legacy", (6, "legacy"): "ip6tables-legacy"}
EMPTY = "".join(f"*{table}\n{''.join(f':{chain} ACCEPT [0:0]{chr(10)}' for chain in chains.split())}"
                "COMMIT\n" for table, chains in
                (("raw", "PREROUTING OUTPUT"),
                 ("mangle", "PREROUTING INPUT FORWARD OUTPUT POSTROUTING"),
                 ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"),
                 ("filter", "INPUT FORWARD OUTPUT")))
# What leaves a node for a gateway that would reject it anyway.
WATCH = """\
table inet watch {
    set seen4 { type inet_service . inet_service; flags dynamic; }
    set seen6 { type inet_service . inet_service; flags dynamic; }
    chain pre {
        type filter hook prerouting priority -400;
        meta nfproto ipv4 tcp flags & (syn | ack) == syn update @seen4 { tcp sport . tcp dport }
        meta nfproto ipv6 tcp flags & (syn | ack) == syn update @seen6 { tcp sport . tcp dport }
    }
}
"""
# What doctor must leave as it is.
LOOK = ("iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; "
        "nft -s list ruleset; ipset save; ip -o link; ip -o addr; ip rule; ip -6 rule; "
        "ip route show table all; ip -6 route show table all; "
        "grep -r '' /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/netfilter")
# What is left of connections that failed half-way would meet the next from the same port.
FORGET = "ss -HK state connected >/dev/null; conntrack -F 2>/dev/null"
UNSTEADY = re.compile(r"conntrack_count.*\n|buckets.*\n|(expires|timeout|valid_lft|preferred_lft) \S+|"
                      r"conntrack_expect_max.*\n|nf_log.*\n")


@dataclass(frozen=True)
class Flow:
    """A connection that is made."""

    kind: str
    client: str
    server: str
    dport: int
    sport: int
    family: int
    passes: bool  # as the configuration says
    keeps: bool = True  # its source port: a firewall looks at it

    def name(self):
        return (f"{self.client}:{self.sport} to {self.server}:{self.dport}, IPv{self.family}"
                f"{'' if self.passes else ', not agreed on'}")


class Ground(matrix.Site):
    """The site with nobody else's rules, all set up but the machine under test."""

    def __init__(self, role):
        self.target = TARGETS[role]
        super().__init__(matrix.TOPOLOGIES[self.target.topology], True)

    def __enter__(self):
        super().__enter__()
        try:
            for name in self.topology.roles:
                if name != self.target.machine:
                    self.change(name, "apply")
            self.it = self[self.target.machine]
            self.beyond = self["gw"] if self.topology.roles[self.it.name] == "node" else None
            if self.beyond:
                self.beyond.must(["nft", "-f", "-"], WATCH)
            self.bare = self._rules()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _strict(self, machine):
        machine.must(["sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1"])

    def _agent(self, name):
        if name in HOSTS:  # matrix's hosts have nobody on the second service
            ports = (*matrix.PORTS["host"], IDLE)
        else:
            ports = next(p for kind, p in matrix.PORTS.items() if name.startswith(kind))
        self.start_agent(name, ports)

    def change(self, name, what):
        done = self.setup(name, what)
        if done.returncode:
            raise Failed(f"{what} on {name}: {done.stdout}{done.stderr}")
        return done

    # ---- rules of the machine under test ----

    def words(self):
        """What the corpus calls by name, by family."""
        lan = {family: lambda name, f=family: self.address(name, f) for family in FAMILIES}
        return {family: {
            "PODS": matrix.CLUSTER[family], "SERVICES": matrix.SERVICE_ADDRESS[family] +
            ("/16" if family == 4 else "/112"),
            "NODES": re.sub(r"\.\d+$", ".0/24", lan[4]("node1")) if family == 4
            else f"fd00:{self.lan_of('node1')}::/64",
            "HOSTS": "192.168.31.0/24" if family == 4 else "fd00:31::/64",
            "POD": lan[family]("pod-c"), "NODE": lan[family]("node1"), "NODEB": lan[family]("node2"),
            "HOST": lan[family]("host-a"), "HOSTB": lan[family]("host-b"),
            "OTHER": lan[family]("other"),
            "OUT": self.target.out, "IN": self.target.into} for family in FAMILIES}

    def load(self, case):
        words = self.words()
        if case.kernel and self.it.run(["sh", "-c", case.kernel]).returncode:
            return f"this kernel cannot do it: {case.kernel}"
        if "sh" in case.text:
            self.it.must(["sh", "-ec", corpus.fill(case.text["sh"], words, 4)])
        for family, section in ((4, "iptables"), (6, "ip6tables")):
            text = case.text.get(section)
            if text is None and family == 6 and "iptables" in case.text:
                text = corpus.for_ipv6(case.text["iptables"])
            if text and text.strip():
                self.it.must([f"{IPTABLES[family, case.backend]}-restore", "-w", "5", "--noflush"],
                             corpus.fill(text, words, family))
        if "nft" in case.text:
            self.it.must(["nft", "-f", "-"], corpus.fill(case.text["nft"], words, 4))
        return None

    def _rules(self):
        """Everything that reset() brings back: native tables, and those of iptables-nft."""
        text = re.sub(r"^# Warning: table .*\n(table (?:.*\n)*?\}\n)", "",
                      self.it.must(["nft", "-s", "list", "ruleset"]), flags=re.M)
        return [("nft", "-f", "-"), text], \
            *([(f"{IPTABLES[family, 'nft']}-restore", "-w", "5"),
               self.it.must([f"{IPTABLES[family, 'nft']}-save"])] for family in FAMILIES)

    def reset(self, rules, case):
        if "undo" in case.text:
            self.it.must(["sh", "-ec", corpus.fill(case.text["undo"], self.words(), 4)])
        self.it.must(["nft", "flush", "ruleset"])
        for argv, text in rules:
            self.it.must(argv, text)
        if case.backend == "legacy":
            for family in FAMILIES:
                self.it.must([f"{IPTABLES[family, 'legacy']}-restore", "-w", "5"], EMPTY)
        self.it.must(["ipset", "destroy"])

    def look(self):
        text = self.it.run(["sh", "-c", LOOK]).stdout
        return UNSTEADY.sub("", state.VOLATILE.sub("", text))

    # ---- connections ----

    def flows(self):
        """Those that meet the machine under test."""
        role = self.target.machine
        pods = ["pod-c"] if role == "node1" else list(PODS)
        hosts = ["host-a"] if role == "host-a" else list(HOSTS)
        for family in FAMILIES:
            for pod in pods:
                for host in hosts:
                    yield from self._between(pod, host, family, (pod, host) == (pods[0], hosts[0]))
            for host in hosts if role == "node1" else ():
                yield Flow("this node to hosts", role, host, SERVICE, OWN, family, True)
            if len(pods) > 1:
                for pod in pods:
                    yield Flow("together", pod, hosts[0], SERVICE, TOGETHER, family, True)
            if role not in HOSTS:
                yield Flow("not a service", pods[0], hosts[0], CLOSED, 61600, family, False)
                yield Flow("not the pool's", pods[-1], hosts[-1], SERVICE, 62000, family, False)
            if "gateway" in self.topology.roles[role]:
                yield Flow("not a service", hosts[0], pods[0], CLOSED, 60300, family, False)

    def _between(self, pod, host, family, edges):
        def some(ports):
            inner = random.choice([port for port in ports[1:-1] if port not in (TOGETHER, OWN)])
            return (ports[0], inner, ports[-1]) if edges else (inner,)
        for dport in (SERVICE, IDLE):
            for sport in some(POD_PORTS):
                yield Flow("pods to hosts", pod, host, dport, sport, family, True)
        for sport in some(HOST_PORTS):
            yield Flow("hosts to pods", host, pod, POD_SERVICE, sport, family, True,
                       keeps=self.target.machine in HOSTS)

    def fate(self):
        """Makes all connections. Return: lines about those that did not go as agreed."""
        for name, machine in self.machines.items():
            if name != "switch":
                machine.run(["sh", "-c", FORGET])
        if self.beyond:
            self.beyond.must(["nft", "flush set inet watch seen4; flush set inet watch seen6"])
        flows = list(self.flows())
        results = self.play([(flow, flow.client, {
            "do": "whole", "to": self.address(flow.server, flow.family), "port": flow.dport,
            "from": flow.sport, "patience": PATIENCE}) for flow in flows])
        for flow in flows if self.beyond else ():
            if not flow.passes and self._left(flow):
                results[flow]["good"] = True
        return [f"{flow.name()}: {said}" for flow in flows
                if (said := wrong(flow, results[flow], self.address(flow.server, flow.family)))]

    def _left(self, flow):
        element = f"{{ {flow.sport} . {flow.dport} }}"
        return not self.beyond.run(["nft", "get", "element", "inet", "watch", f"seen{flow.family}",
                                    element]).returncode


def wrong(flow, result, server):
    if not flow.passes:
        return "passes" if result["good"] else None
    if not result["good"]:
        return f"fails ({result['said']})"
    _, port, *where = result["said"].split()
    if where != [server, str(flow.dport)]:
        return f"comes to {' '.join(where)}"
    return f"arrives from port {port}" if flow.keeps and int(port) != flow.sport else None


def doctor(site):
    """Return: as subprocess.run()."""
    return site.it.run(["fixport-setup", "doctor", "--json"], env=environment(), timeout=60)


assert set(NODES) == {"node1", "node2"}
