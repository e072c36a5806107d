# SPDX-License-Identifier: MIT
"""The reference network: hosts and a cluster on one LAN, and a firewall in between.

     host-a 192.168.31.67  ─┐                    ┌─ node1 192.168.31.17 ── pods 10.200.1.0/24
     host-b 192.168.31.130 ─┴─ gateway .31.2 ────┴─ node2 192.168.31.45 ── pods 10.200.36.0/24
                            (hosts' side)  (nodes' side)               and, borrowed, 10.200.1.93

It is one network of addresses, 192.168.31.0/24, with the gateway between its two halves: it
answers ARP and neighbour discovery for the other side's machines, as a firewall does that was put
into a LAN without new addresses. So nothing gets around it, by whichever address it is sent.
With Kind.flat it is one wire, and the gateway is a machine like all others on it.

What is here before fixport comes: the addresses, the cluster's own routes between its nodes, a
CNI's masquerading on the nodes (CNI), and an administrator's firewall on the gateway (FIREWALL).
The hosts know nothing of the pods. Everything is there for IPv6 as well.
"""

import shutil
import tempfile
from dataclasses import dataclass

from machine import WORK, Machine


@dataclass(frozen=True)
class Station:
    """A machine on the LAN, or a pod: its name and addresses."""

    name: str
    ipv4: str
    ipv6: str

    def address(self, family):
        return self.ipv4 if family == 4 else self.ipv6


GATEWAY = Station("gateway", "192.168.31.2", "fd00:31::2")
HOSTS = [Station("host-a", "192.168.31.67", "fd00:31::67"),
         Station("host-b", "192.168.31.130", "fd00:31::130")]
WORKERS = [Station("node1", "192.168.31.17", "fd00:31::17"),
           Station("node2", "192.168.31.45", "fd00:31::45")]
BRIDGES = {"node1": ("10.200.1.1/24", "fd00:200:1::1/64"),
           "node2": ("10.200.36.1/24", "fd00:200:36::1/64"),
           "gateway": ("10.200.3.1/24", "fd00:200:3::1/64")}
PODS = [(Station("pod-c", "10.200.1.91", "fd00:200:1::91"), "node1"),
        (Station("pod-c2", "10.200.1.92", "fd00:200:1::92"), "node1"),
        (Station("pod-d", "10.200.36.5", "fd00:200:36::5"), "node2"),
        (Station("pod-e", "10.200.1.93", "fd00:200:1::93"), "node2"),
        (Station("pod-b", "10.200.3.7", "fd00:200:3::7"), "gateway")]  # Kind.node_gateway
BORROWED = PODS[3][0]  # on node2, with an address of node1's block
HOST_NETWORK = Station("pod-h", WORKERS[0].ipv4, WORKERS[0].ipv6)  # a pod in node1's network
STATIONS = {s.name: s for s in [GATEWAY, *HOSTS, *WORKERS, *(pod for pod, _ in PODS), HOST_NETWORK]}

CLUSTER = {4: "10.200.0.0/16", 6: "fd00:200::/32"}
BLOCK = {("node1", 4): "10.200.1.0/24", ("node1", 6): "fd00:200:1::/64",
         ("node2", 4): "10.200.36.0/24", ("node2", 6): "fd00:200:36::/64",
         ("gateway", 4): "10.200.3.0/24", ("gateway", 6): "fd00:200:3::/64"}
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}

# Table nat of a node, as these components write it. {block}: the node's pods; {cluster}: all.
CNI = {
    # the plugins bridge and ptp, podman: the port is kept if it is free
    "plain": """
:CNI-3f8a1c - [0:0]
-A POSTROUTING -s {block} -m comment --comment "name: \\"cbr0\\"" -j CNI-3f8a1c
-A CNI-3f8a1c -d {cluster} -j ACCEPT
-A CNI-3f8a1c ! -d {multicast} -m comment --comment "name: \\"cbr0\\"" -j MASQUERADE
""",
    # Flannel, and Calico in other chains: always another port
    "random-fully": """
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -s {cluster} -d {cluster} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} -m comment --comment "flanneld masq" \
-j MASQUERADE --random-fully
""",
    # Calico with natPortRange
    "to-ports": """
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -p tcp -s {cluster} ! -d {cluster} -j MASQUERADE --to-ports 45000-45999
-A cali-nat-outgoing -s {cluster} ! -d {cluster} -j MASQUERADE
""",
}

# Table filter of the gateway. Pods may connect to the hosts' port 60001, but the answers only pass
# to the ports that were agreed on, 61001-61999; the administrator uses ssh; the rest is rejected.
FIREWALL = {
    "reject": """
-A FORWARD -p tcp --dport 22 -j ACCEPT
-A FORWARD -p tcp --sport 22 -j ACCEPT
-A FORWARD -p tcp --dport 60001 -j ACCEPT
-A FORWARD -p tcp --sport 60001 --dport 61001:61999 -j ACCEPT
-A FORWARD -j REJECT
""",
    # the same on a machine with Docker
    "docker": """
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -i docker0 -j ACCEPT
""",
}


@dataclass(frozen=True)
class Kind:
    """What differs between the networks that are tried."""

    cni: str = "random-fully"
    firewall: str = "reject"
    iptables: str = "nft"  # the backend that CNI and administrator use
    untracked: bool = False  # the gateway tracks no connections at all
    forwarding: bool = True  # the gateway forwards before fixport comes
    flat: bool = False  # the gateway is not between the others
    node_gateway: bool = False  # the gateway is a node as well


class Network:
    """All machines, by name; use as a context."""

    def __init__(self, kind):
        self.kind = kind
        self.folder = tempfile.mkdtemp(dir=WORK)
        self.machines = {}
        self.interfaces = 0

    def __getitem__(self, name):
        return self.machines[name]

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._halt()
        shutil.rmtree(self.folder)

    def _halt(self):
        for machine in reversed(self.machines.values()):
            machine.halt()
        self.machines = {}

    def reboot(self):
        """Starts all machines anew: their files are kept, their networks are as at first."""
        self._halt()
        self._build()

    def __iter__(self):
        """The machines that are set up: all but pods and the switches."""
        return (self.machines[s.name] for s in [*HOSTS, GATEWAY, *WORKERS])

    def _build(self):
        self.interfaces = 0
        self._switch()
        for host in HOSTS:
            self._plug(self._machine(host.name), "hosts")
            self._address(host)
        self._gateway()
        for node in WORKERS:
            self._plug(self._machine(node.name), "nodes")
            self._address(node)
        for node in self.nodes():
            self._node(node)
        for pod, node in PODS:
            if STATIONS[node] in self.nodes():
                self._pod(pod, node)
        self.machines[HOST_NETWORK.name] = Machine(HOST_NETWORK.name, self.folder,
                                                   self[WORKERS[0].name], host_network=True)

    def nodes(self):
        return [*WORKERS, GATEWAY] if self.kind.node_gateway else WORKERS

    def _switch(self):
        switch = self._machine("switch")
        for side in ("hosts", "nodes"):
            switch.ip(f"link add {side} type bridge mcast_snooping 0\nlink set {side} up\n")
        if self.kind.flat:
            switch.ip("link add cable type veth peer name elbac\n"
                      "link set cable master hosts up\nlink set elbac master nodes up\n")

    def _machine(self, name, node=None):
        self.machines[name] = Machine(name, self.folder, node)
        return self.machines[name]

    def _mac(self):
        """An address for the next interface, the same each time the network is made."""
        self.interfaces += 1
        return f"02:00:00:00:31:{self.interfaces:02x}"

    def _plug(self, machine, side, interface="eth0"):
        """Connects a machine with a side of the LAN."""
        port = f"{machine.name}-{side}"[:15]
        self["switch"].ip(f"link add {port} type veth peer name {interface} "
                          f"address {self._mac()} netns {machine.process.pid}\n"
                          f"link set {port} master {side} up\n")
        machine.ip(f"link set {interface} up\n")

    def _address(self, station, interface="eth0"):
        self[station.name].ip(f"addr add {station.ipv4}/24 dev {interface}\n"
                              f"addr add {station.ipv6}/64 dev {interface} nodad\n")

    def _gateway(self):
        machine = self._machine(GATEWAY.name)
        on = int(self.kind.forwarding)
        machine.sysctl(ipv4__ip_forward=on, ipv6__conf__all__forwarding=on)
        self._plug(machine, "hosts")
        self._address(GATEWAY)
        if not self.kind.flat:
            self._plug(machine, "nodes", "eth1")
            self._between(machine)
        for family in (4, 6):
            self.restore(machine, family, "filter", FIREWALL[self.kind.firewall])
            if self.kind.untracked:
                self.restore(machine, family, "raw", "-A PREROUTING -j CT --notrack\n")

    @staticmethod
    def _between(machine):
        """The gateway answers on each side for those of the other; without the usual delay."""
        for interface in ("eth0", "eth1"):
            machine.sysctl(**{f"ipv4__conf__{interface}__proxy_arp": 1,
                              f"ipv6__conf__{interface}__proxy_ndp": 1,
                              f"ipv4__neigh__{interface}__proxy_delay": 0,
                              f"ipv6__neigh__{interface}__proxy_delay": 0})
        machine.ip(f"addr add {GATEWAY.ipv6}/128 dev eth1 nodad\n" +
                   "".join(f"neigh add proxy {host.ipv6} dev eth1\n" for host in HOSTS) +
                   "".join(f"neigh add proxy {node.ipv6} dev eth0\n"
                           f"route add {node.ipv4} dev eth1\n"
                           f"route add {node.ipv6} dev eth1\n" for node in WORKERS))

    def _node(self, node):
        """Makes a machine a node: the bridge of its pods, and what the CNI does."""
        machine = self[node.name]
        machine.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        ipv4, ipv6 = BRIDGES[node.name]
        machine.ip(f"link add cni0 address {self._mac()} type bridge mcast_snooping 0\n"
                   "link set cni0 up\n"
                   f"addr add {ipv4} dev cni0\n"
                   f"addr add {ipv6} dev cni0 nodad\n")
        for family in (4, 6):
            machine.ip("".join(self._cluster_routes(node, family)))
            self.restore(machine, family, "nat", CNI[self.kind.cni].format(
                block=BLOCK[node.name, family], cluster=CLUSTER[family],
                multicast=MULTICAST[family]))

    def _cluster_routes(self, node, family):
        """To the other nodes' blocks, and to the address that node2 has borrowed."""
        for other in self.nodes():
            if other is not node:
                yield f"route add {BLOCK[other.name, family]} via {other.address(family)}\n"
        lender = "dev cni0" if node.name == "node2" else f"via {WORKERS[1].address(family)}"
        yield f"route add {BORROWED.address(family)} {lender}\n"

    def _pod(self, pod, node):
        machine = self._machine(pod.name, self[node])
        self[node].ip(f"link add {pod.name} address {self._mac()} type veth "
                      f"peer name eth0 address {self._mac()} netns {machine.process.pid}\n"
                      f"link set {pod.name} master cni0 up\n")
        ipv4, ipv6 = (text.split("/")[0] for text in BRIDGES[node])
        machine.ip("link set eth0 up\n"
                   f"addr add {pod.ipv4}/32 dev eth0\n"
                   f"addr add {pod.ipv6}/128 dev eth0 nodad\n"
                   f"route add default via {ipv4} dev eth0 onlink\n"
                   f"route add default via {ipv6} dev eth0 onlink\n")

    def restore(self, machine, family, table, rules):
        """Adds rules by iptables-restore, in the backend that is used here."""
        tool = f"{'ip' if family == 4 else 'ip6'}tables-{self.kind.iptables}-restore"
        machine.must([tool, "-w", "5", "--noflush"], f"*{table}\n{rules.strip()}\nCOMMIT\n")
