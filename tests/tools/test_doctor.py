#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-setup doctor: every finding is caused for real, in network and mount namespaces of its
own, on a machine that fixport-setup has set up before; and each of these machines is shown to have
none of the findings before it is broken. Where a finding has commands that mend it, they are run,
and the doctor is asked again: what it promised to mend must be gone.

    FIXPORT_BUILD=build tests/tools/test_doctor.py [WORD...]   only the tests with WORD in their name
"""

import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SETUP = os.path.join(fptest.BUILD, "tools", "fixport-setup")
UNSHARE = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
TOOLS = ("ip", "nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "iptables-legacy-save",
         "iptables-nft-save", "sysctl")

SITE = """\
[node node1]
address = 192.168.31.17, fd00:31::17
pods = 10.200.1.0/24, fd00:200:1::/64
[node node2]
address = 192.168.31.45, fd00:31::45
pods = 10.200.36.0/24, fd00:200:36::/64
[pods]
services = 8088
[hosts]
addresses = 192.168.31.67, fd00:31::67
services = 60001-60005
ports = 61000-61999
[gateway]
address = 192.168.31.2, fd00:31::2
[control-plane]
node-ports = 30000-31999
[setup]
persist = own
iptables = nft
[pool]
ports = 62000-62999
"""
GATEWAY = "[gateway]\naddress = 192.168.31.2, fd00:31::2\n"
# Pods get the node's address where no gateway stands on the network that nodes and hosts share.
KEPT = SITE.replace(GATEWAY, "[snat]\nmode = keep\n")
ROUTED = SITE.replace("192.168.31.67, fd00:31::67", "192.168.77.67, fd00:77::67").replace(
    "192.168.31.2, fd00:31::2", "192.168.31.2, 192.168.77.2, fd00:31::2, fd00:77::2")

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --service-cluster-ip-range=10.96.0.0/12
    - --service-node-port-range=30000-31999
    name: kube-apiserver
"""

COMMON = """
set -e
interface() {
    ip link add "$1" type veth peer name "$1-end"
    ip link set "$1" up
    ip link set "$1-end" up
}
ip link set lo up
interface lan
for key in all default lan; do
    sysctl -qw net.ipv4.conf.$key.rp_filter=0 net.ipv4.conf.$key.accept_redirects=0 \
        net.ipv6.conf.$key.accept_redirects=0 net.ipv4.conf.$key.send_redirects=0
done
"""

MACHINES = {
    "node": """
ip address add 192.168.31.17/24 dev lan
ip address add fd00:31::17/64 dev lan nodad
interface cni0
ip address add 10.200.1.1/24 dev cni0
ip address add fd00:200:1::1/64 dev cni0 nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
""",
    "host": """
ip address add 192.168.31.67/24 dev lan
ip address add fd00:31::67/64 dev lan nodad
""",
    "gateway": """
ip address add 192.168.31.2/24 dev lan
ip address add fd00:31::2/64 dev lan nodad
""",
    "control-plane": """
ip address add 192.168.31.17/24 dev lan
mkdir -p "$ROOT/etc/kubernetes/manifests"
printf %s "$MANIFEST" >"$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml"
""",
    "bare": "",
}
# Nodes of other sites: one that steers connections through the gateway, and one behind a router.
MACHINES["steering node"] = MACHINES["routed node"] = MACHINES["node"]
# A gateway between the hosts' network and the nodes'.
MACHINES["routed gateway"] = MACHINES["gateway"] + """
interface far
sysctl -qw net.ipv4.conf.far.rp_filter=0 net.ipv4.conf.far.send_redirects=0
ip address add 192.168.77.2/24 dev far
ip address add fd00:77::2/64 dev far nodad
"""
SITES = {"node": KEPT, "routed node": ROUTED, "routed gateway": ROUTED}

# A rule of Calico's in its place; fixport's own table is gone where it would stand before.
CALICO = """
iptables-nft -t nat -N cali-nat-outgoing
iptables-nft -t nat -A POSTROUTING -j cali-nat-outgoing
iptables-nft -t nat -A cali-nat-outgoing -s 10.200.0.0/16 -m comment --comment cali:x \\
    -j MASQUERADE --random-fully
"""
NO_TABLE = "nft delete table ip fixport\nnft delete table ip6 fixport\n"


class Case:
    """A machine, what is done to it, and what the doctor must say of it."""

    def __init__(self, name, machine, fault, *wanted, absent=(), site=(), command=(), unjudged=None):
        self.name = name
        self.machine = machine
        self.fault = fault
        self.wanted = wanted  # (id, severity, pattern in line or mend or what)
        self.absent = absent  # ids
        self.site = site  # (text, text instead)
        self.command = command  # options of doctor
        self.unjudged = unjudged  # a pattern in all that could not be judged


# What networkd keeps of an interface, and a process of its name.
NETWORKD = """
mkdir -p "$ROOT/run/systemd/netif/links" "$ROOT/etc/systemd/networkd.conf.d" \
    "$ROOT/run/systemd/network" "$ROOT/etc/systemd/network/10-lan.network.d"
cat >"$ROOT/run/systemd/netif/links/$(ip -o link show lan | cut -d: -f1)" <<X
ADMIN_STATE=configured
NETWORK_FILE=/run/systemd/network/10-lan.network
X
printf '[Match]\\nName=lan\\n' >"$ROOT/run/systemd/network/10-lan.network"
DROP_IN="$ROOT/etc/systemd/network/10-lan.network.d/a.conf"
cp "$(command -v sleep)" "$ROOT/systemd-networkd"
"$ROOT/systemd-networkd" 60 >/dev/null 2>&1 &
"""
# As ufw has it: a packet has to be for this machine, or for many, before the user's rules are asked.
UFW = """
iptables-nft-restore --noflush <<X
*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
X
"""
# Where there is no systemd this plays its part; and where there is, there is none for some cases.
SYSTEMCTL = """
command -v systemctl >/dev/null || {
    mkdir "$ROOT/bin"
    cat >"$ROOT/bin/systemctl" <<X
#!/bin/sh
test "\\$*" = "--root=$ROOT enable fixport-setup.service" &&
    ln -s /etc/systemd/system/fixport-setup.service "$ROOT/etc/systemd/system/multi-user.target.wants/"
X
    chmod 755 "$ROOT/bin/systemctl"
    PATH="$ROOT/bin:$PATH"
}
"""
NO_SYSTEMCTL = """
mkdir "$ROOT/bin"
(IFS=:; for folder in $PATH; do ln -s "$folder"/* "$ROOT/bin" 2>/dev/null || :; done)
rm -f "$ROOT/bin/systemctl"
PATH="$ROOT/bin"
"""

# As firewalld has it, in short: what its own zones do not accept is rejected.
FIREWALLD = """
nft -f - <<X
table inet firewalld {
    chain filter_IN_public {
        tcp dport 22 accept
        %s
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        goto filter_IN_public
    }
}
X
"""
NO_UNIT = ("persist = own", "persist = none")


BROKEN = ("connections-lost", "connections-refused", "port-moved", "connections-diverted",
          "connections-let-through")


# Where fixport's own table may not stand before the rule, apply cannot mend it: its owner can.
LEFT = ("[setup]\n", "[setup]\nleave = nft\n")


def snat(name, fault, mend, machine="gateway", site=LEFT, **more):
    return Case(f"SNAT: {name}", machine, fault, ("port-moved", "error", mend), site=site, **more)


def silent(name, fault, *absent, machine="node", **more):
    return Case(name, machine, fault, absent=absent or BROKEN, **more)


# What kube-proxy makes of a Service without a selector.
KUBE_SERVICE = """
iptables-nft -t nat -N KUBE-SEP-A
iptables-nft -t nat -N KUBE-SERVICES
iptables-nft -t nat -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 192.168.31.67:60001
iptables-nft -t nat -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SEP-A
iptables-nft -t nat -A PREROUTING -j KUBE-SERVICES
iptables-nft -t nat -A OUTPUT -j KUBE-SERVICES
"""

# The same by kube-proxy's nftables mode: a verdict map, and chains of endpoints.
KUBE_NFT = """
nft -f - <<X
table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain endpoint-a {
        ip saddr 192.168.31.67 meta mark set meta mark or 0x4000
        meta l4proto tcp dnat to 192.168.31.67:60001
    }
    chain service-shop {
        ip saddr != 10.200.0.0/16 meta mark set meta mark or 0x4000
        numgen random mod 1 vmap { 0 : goto endpoint-a }
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
}
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-shop }
X
"""

# RULE, and maps for it; of the same names in another table there are others.
NFT_MAPS = """
nft -f - <<X
table inet before {
    map hosts {
        type ipv4_addr : ipv4_addr . inet_service
        elements = { 10.96.0.2 : 192.168.31.67 . 22 }
    }
}
table inet mine {
    map hosts {
        type ipv4_addr : ipv4_addr . inet_service
        elements = { 10.96.0.2 : 10.7.7.1 . 60003, 10.96.0.3 : 10.7.7.2 . 60003, 10.96.0.4 : 10.7.7.3 . 60003,
                     10.96.0.5 : 192.168.31.67 . 60003 }
    }
    map hosts6 {
        type ipv6_addr . inet_service : ipv6_addr . inet_service
        elements = { fd00:96::1 . 80 : fd00:31::67 . 60001 }
    }
    map empty {
        type ipv4_addr : ipv4_addr
    }
    chain pre {
        type nat hook prerouting priority dstnat; policy accept;
        RULE
    }
}
X
"""

CASES = [
    # ---- who changes the source port ----
    snat("Calico, iptables-nft", CALICO, r"MASQFullyRandom=false,SNATFullyRandom=false"),
    snat("the exact line is shown", CALICO,
         r"^iptables-nft -t nat -A cali-nat-outgoing -s 10\.200\.0\.0/16 .*--random-fully$"),
    silent("SNAT: fixport's own rule stands before Calico's", CALICO),
    silent("SNAT: no address translation (mode = none) stands before Calico's", CALICO,
           site=("mode = keep", "mode = none")),
    silent("SNAT: so it does where connections are steered", CALICO, machine="steering node"),
    Case("SNAT: connections are steered, and fixport's own rule is gone", "steering node",
         NO_TABLE + CALICO, ("port-moved", "error", "^fixport-setup .* apply$"),
         ("changed-since", "warning", "fixport")),
    silent("SNAT: fixport's own rule stands before Calico's, in a routed site", CALICO,
           machine="routed node"),
    snat("Calico, nft", """
nft -f - <<X
table ip calico {
    set pools { type ipv4_addr; flags interval; elements = { 10.200.0.0/16 }; }
    chain nat-cali-nat-outgoing { ip saddr @pools ip daddr != @pools masquerade fully-random; }
    chain filter { type nat hook postrouting priority srcnat; jump nat-cali-nat-outgoing; }
}
X
""", r"featureDetectOverride"),
    silent("SNAT: a pool of Calico's that covers the hosts", """
nft -f - <<X
table ip calico {
    set pools { type ipv4_addr; flags interval; elements = { 10.200.0.0/16, 192.168.31.0/24 }; }
    chain nat-cali-nat-outgoing { ip saddr @pools ip daddr != @pools masquerade fully-random; }
    chain filter { type nat hook postrouting priority srcnat; jump nat-cali-nat-outgoing; }
}
X
"""),
    snat("Flannel, iptables-legacy", """
iptables-legacy -w -t nat -N FLANNEL-POSTRTG
iptables-legacy -w -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
iptables-legacy -w -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
iptables-legacy -w -t nat -A FLANNEL-POSTRTG -s 10.200.1.0/24 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
""", r"--ip-masq-fully-random-disable"),
    snat("ip-masq-agent", """
iptables-nft -t nat -N IP-MASQ-AGENT
iptables-nft -t nat -A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
iptables-nft -t nat -A IP-MASQ-AGENT -d 10.0.0.0/8 -j RETURN
iptables-nft -t nat -A IP-MASQ-AGENT -j MASQUERADE --random-fully
""", r"nonMasqueradeCIDRs"),
    silent("SNAT: ip-masq-agent with the hosts in nonMasqueradeCIDRs", NO_TABLE + """
iptables-nft -t nat -N IP-MASQ-AGENT
iptables-nft -t nat -A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
iptables-nft -t nat -A IP-MASQ-AGENT -d 192.168.31.0/24 -j RETURN
iptables-nft -t nat -A IP-MASQ-AGENT -j MASQUERADE --random-fully
"""),
    snat("the AWS VPC CNI", """
iptables-nft -t nat -N AWS-SNAT-CHAIN-0
iptables-nft -t nat -A POSTROUTING -j AWS-SNAT-CHAIN-0
iptables-nft -t nat -A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" \\
    -m addrtype ! --dst-type LOCAL -j SNAT --to-source 192.168.31.17 --random
""", r"AWS_VPC_K8S_CNI_RANDOMIZESNAT=none"),
    snat("Antrea", """
iptables-nft -t nat -N ANTREA-POSTROUTING
iptables-nft -t nat -A POSTROUTING -j ANTREA-POSTROUTING
iptables-nft -t nat -A ANTREA-POSTROUTING -s 10.200.1.0/24 -j MASQUERADE --random-fully
""", r"snatFullyRandomPorts: false"),
    snat("Cilium", """
iptables-nft -t nat -N CILIUM_POST_nat
iptables-nft -t nat -A POSTROUTING -j CILIUM_POST_nat
iptables-nft -t nat -A CILIUM_POST_nat -s 10.200.1.0/24 -j MASQUERADE --random-fully
""", r"iptables-random-fully"),
    snat("a CNI plugin's chain", """
iptables-nft -t nat -N CNI-0123
iptables-nft -t nat -A POSTROUTING -s 10.200.1.7/32 -j CNI-0123
iptables-nft -t nat -A CNI-0123 ! -d 224.0.0.0/4 -j MASQUERADE --random
""".replace("10.200.1.7/32", "10.200.1.0/24"), r"given another source port by a CNI plugin"),
    snat("an administrator's rule, IPv6", """
ip6tables-nft -t nat -A POSTROUTING -s fd00:200::/32 -p tcp -j MASQUERADE --random-fully
""", r"^ip6tables-nft -t nat -A POSTROUTING"),
    snat("an administrator's rule, nft", """
nft add table inet mine
nft 'add chain inet mine post { type nat hook postrouting priority srcnat; }'
nft 'add rule inet mine post meta nfproto ipv4 oifname "la*" tcp sport 60000-65000 masquerade random'
""", r"^nft table inet mine, chain post: .* masquerade random$"),
    silent("SNAT: kube-proxy's rule is for marked packets only", """
iptables-nft -t nat -N KUBE-POSTROUTING
iptables-nft -t nat -A POSTROUTING -j KUBE-POSTROUTING
iptables-nft -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables-nft -t nat -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
iptables-nft -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
""", machine="gateway"),
    silent("SNAT: a rule for UDP",
           "iptables-nft -t nat -A POSTROUTING -p udp -j MASQUERADE --random-fully", machine="gateway"),
    silent("SNAT: a rule for other addresses",
           "iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 "
           "-j MASQUERADE --random-fully", machine="gateway"),
    silent("SNAT: a rule for another interface",
           "iptables-nft -t nat -A POSTROUTING -o wan+ -j MASQUERADE --random-fully",
           machine="gateway"),
    silent("SNAT: a chain that nothing leads to", """
iptables-nft -t nat -N stale
iptables-nft -t nat -A stale -j MASQUERADE --random-fully
""", machine="gateway"),
    silent("SNAT: an ACCEPT before it", """
iptables-nft -t nat -A POSTROUTING -s 10.200.0.0/16 -d 192.168.31.67 -j ACCEPT
iptables-nft -t nat -A POSTROUTING -s 10.200.0.0/16 -j MASQUERADE --random-fully
ip6tables-nft -t nat -A POSTROUTING -s fe80::/64 -j MASQUERADE --random-fully
""", machine="gateway"),
    snat("a match that no model would know", """
iptables-nft -t nat -A POSTROUTING -m length --length 0:100 -j MASQUERADE --random
""", "--length 0:100"),
    snat("a plain rule keeps the port, but not that of a second pod", """
iptables-nft -t nat -A POSTROUTING -s 10.200.0.0/16 -j MASQUERADE
""", "-j MASQUERADE"),
    snat("ports confined to others than the pool's", """
iptables-nft -t nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 20000-29999
""", "20000-29999"),
    snat("a gateway's rule", "iptables-nft -t nat -A POSTROUTING -o lan -j MASQUERADE --random-fully",
         "whoever made this rule must leave"),
    snat("a host's rule", "iptables-nft -t nat -A POSTROUTING -o lan -j MASQUERADE --random-fully",
         "from 192.168.31.67 to 10.200", machine="host"),
    snat("a host's rule for what is its own", "iptables-nft -t nat -A POSTROUTING "
         "-m addrtype --src-type LOCAL -j MASQUERADE --random-fully",
         "from 192.168.31.67 to 10.200", machine="host"),
    silent("SNAT: a host's rule for what is not its own", "iptables-nft -t nat -A POSTROUTING "
           "-m addrtype ! --src-type LOCAL -j MASQUERADE --random-fully", machine="host"),
    snat("a gateway's rule, legacy, IPv6", """
ip6tables-legacy -w -t nat -A POSTROUTING -p udp -j MASQUERADE
ip6tables-legacy -w -t nat -A POSTROUTING -o lan -p tcp -m comment --comment "no --random x" \\
    -j MASQUERADE --random
""", "^ip6tables-legacy -t nat -A POSTROUTING .*--random$"),
    snat("words that are made for a shell", """
iptables-nft -t nat -N 'a;id'
iptables-nft -t nat -A POSTROUTING -j 'a;id'
iptables-nft -t nat -A 'a;id' -m comment --comment "it's \\"\\$(id)\\"; #x" -j MASQUERADE --random-fully
""", r"-A a;id -m comment --comment .*-j MASQUERADE", machine="host"),
    snat("a rule of nft ahead of ours", """
nft add table ip mine
nft 'add chain ip mine post { type nat hook postrouting priority srcnat - 20; }'
nft 'add rule ip mine post oifname "lan" counter masquerade fully-random,persistent comment "a random one"'
""", "^nft table ip mine, chain post: .*masquerade fully-random", machine="node"),
    snat("a rule of nft ahead of ours, IPv6, random", """
nft add table inet mine
nft 'add chain inet mine post { type nat hook postrouting priority srcnat - 20; }'
nft 'add rule inet mine post ip6 saddr fd00:200::/32 tcp sport 1-65535 masquerade to :1024-65535 random'
""", "^nft table inet mine, chain post: .*random$", machine="node"),

    snat("fixport's own table ahead of it mends it", CALICO, "^fixport-setup .* apply$", site=()),

    snat("a gateway's rule for two nodes that use one port",
         "iptables-nft -t nat -A POSTROUTING -o far -p tcp -j MASQUERADE", "-j MASQUERADE$",
         machine="routed gateway"),

    Case("SNAT: a rule that gives pods another address than the node's", "node", '''
ip address add 192.168.31.99/24 dev lan
nft 'table ip mine { chain p { type nat hook postrouting priority srcnat - 20;
     ip saddr 10.200.0.0/16 snat to 192.168.31.99; }; }'
''', ("address-changed", "error", "snat to 192.168.31.99$"), site=("mode = keep", "mode = confine")),
    Case("SNAT: a rule that gives pods another address, and nothing else", "node", '''
ip address add 192.168.31.99/24 dev lan
nft 'table ip mine { chain p { type nat hook postrouting priority srcnat - 20;
     ip saddr 10.200.0.0/16 snat to 192.168.31.99; }; }'
''', ("address-changed", "error", r"left from 192\.168\.31\.99")),
    Case("SNAT: nobody gives pods the node's address", "node", NO_TABLE,
         ("address-changed", "error", "^fixport-setup .* apply$")),

    # ---- rules for a part of what is promised ----
    Case("a rule for some of the source ports", "gateway",
         "iptables-nft -I FORWARD -p tcp --sport 62100:62200 -j DROP",
         ("connections-lost", "error", "--sport 62100:62200 -j DROP")),
    Case("a set of nft with one of the source ports", "gateway", """
nft 'table inet mine { set s { type inet_service; elements = { 9, 62345 }; };
     chain c { type filter hook forward priority -5; tcp sport @s drop; }; }'
""", ("connections-lost", "error", "tcp sport @s drop")),
    Case("a rule of policy routing for some of the source ports", "routed gateway",
         "ip rule add pref 10 ipproto tcp sport 62500-62600 prohibit",
         ("connections-refused", "error", "no route to 192.168.77.67 from 192.168.31.17 by lan")),
    Case("a rule for one of many services", "gateway",
         "ip6tables-nft -I FORWARD -p tcp --dport 40280 -j DROP",
         ("connections-lost", "error", "--dport 40280 -j DROP"),
         site=("60001-60005", ", ".join(str(40000 + 10 * i) for i in range(31)))),

    # ---- what a twin cannot show ----
    *(Case(f"not judged: {name}", "gateway", fault, unjudged=unjudged) for name, fault, unjudged in (
        ("a table for bridges", "nft add table bridge mine", "tables for bridges.*table bridge mine"),
        ("a rule that counts by time", "iptables-nft -A FORWARD -p tcp -m limit --limit 9999/s -j DROP",
         "count packets by time.*--limit"),
        ("of a log, nothing", "iptables-nft -A FORWARD -m limit --limit 9999/s -j LOG", "^$"))),

    # ---- ports ----
    Case("ports of the ephemeral range", "node",
         "sysctl -qw net.ipv4.ip_local_port_range='32768 65000' net.ipv4.ip_local_reserved_ports=''",
         ("ports-ephemeral", "warning", "^fixport-setup .* --role node apply$"),
         ("changed-since", "warning", "sysctl net.ipv4.ip_local_reserved_ports")),
    silent("ports of the ephemeral range, reserved",
           "sysctl -qw net.ipv4.ip_local_port_range='32768 65000'", "ports-ephemeral"),
    Case("a program listens in the range", "node", """
python3 -c '
import os, socket
s = socket.socket(); s.bind(("", 62010)); s.listen()
if os.fork(): os._exit(0)
os.close(1); os.close(2)
import time; time.sleep(60)' &
wait $!
""", ("ports-listening", "warning", r"LISTEN 0\.0\.0\.0 62010")),
    Case("a NodePort in the range", "node", """
iptables-nft -t nat -N KUBE-NODEPORTS
iptables-nft -t nat -A KUBE-NODEPORTS -p tcp -m tcp --dport 62001 -j ACCEPT
""", ("node-port-taken", "error", "62001")),
    Case("NodePorts of the manifest overlap the pool's ports", "control-plane",
         'sed -i s/30000-31999/62000-63000/ "$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml"',
         ("node-ports-overlap", "error", "--service-node-port-range=62000-63000"),
         ("manifest-range", "error", "30000-31999")),
    Case("NodePorts in the ephemeral range", "control-plane",
         "sysctl -qw net.ipv4.ip_local_port_range='31000 60000'",
         ("node-ports-ephemeral", "warning", "30000-31999")),
    Case("Cilium and low ports", "node", "interface cilium_host",
         ("cilium-range", "error", "interface cilium_host"),
         ("ports-below-16384", "info", "uname"), site=("62000-62999", "15000-15999")),
    silent("Cilium and high ports", "interface cilium_host", "cilium-range",
           "ports-below-16384"),
    Case("privileged ports", "node", "", ("ports-below-1024", "warning", "unprivileged"),
         site=("62000-62999", "600-999")),

    # ---- routes ----
    Case("no route", "host", "ip route del 10.200.36.0/24",
         ("route-missing", "error", "^fixport-setup .* --role host apply$"),
         site=("[pods]", "[pods]\nblocks = 10.200.1.0/24, 10.200.36.0/24, fd00:200::/32")),
    Case("a more specific route", "host", "ip route add 10.200.36.128/25 via 192.168.31.99",
         ("route-shadowed", "error", "^ip -4 route del 10.200.36.128/25 via 192.168.31.99 dev lan$")),
    Case("a more specific route that leads nowhere, IPv6", "host",
         "ip -6 route add blackhole fd00:200:36::7", ("route-shadowed", "error", "^ip -6 route del blackhole fd00:200:36::7 ")),
    silent("a more specific route the same way",
           "ip route add 10.200.36.128/25 via 192.168.31.2", "route-shadowed", "route-missing",
           machine="host"),
    Case("a policy rule", "host", """
ip route add default via 192.168.31.98 table 77
ip rule add from 192.168.31.67 lookup 77
""", ("route-shadowed", "error", "ip -4 route replace 10.200.1.0/24 via 192.168.31.2 table 77")),
    Case("a policy rule on the gateway", "gateway", """
ip route add default via 192.168.31.98 table 77
ip rule add from 192.168.31.67 iif lan lookup 77
""", ("route-shadowed", "error", "ip rule show")),
    Case("a policy rule for everything", "host", """
ip route add default via 192.168.31.98 table 77
ip rule add to 10.200.0.0/16 lookup 77
""", ("route-shadowed", "error", "another route or policy rule")),
    Case("the next hop does not answer", "gateway",
         "ip neigh replace 192.168.31.45 dev lan nud failed",
         ("next-hop-failed", "error", "192.168.31.45")),
    Case("strict rp_filter", "gateway", """
interface tun9
ip route replace 10.200.36.0/24 dev tun9 proto 161
sysctl -qw net.ipv4.conf.lan.rp_filter=1
""", ("rp-filter", "error", r"net\.ipv4\.conf\.lan\.rp_filter=2")),
    Case("strict rp_filter of a device whose name is made for a shell", "gateway", """
ip link set lan down
ip link set lan name 'l$(id);a.b'
ip link set 'l$(id);a.b' up
ip address replace 192.168.31.2/24 dev 'l$(id);a.b'
ip address replace fd00:31::2/64 dev 'l$(id);a.b' nodad
interface tun9
ip route replace 10.200.36.0/24 dev tun9 proto 161
sysctl -qw 'net.ipv4.conf.l$(id);a/b.rp_filter=1'
""", ("rp-filter", "error", r"^sysctl -w 'net\.ipv4\.conf\.l\$\(id\);a/b\.rp_filter'=2$")),
    silent("strict rp_filter where all goes one way", "sysctl -qw net.ipv4.conf.lan.rp_filter=1",
           "rp-filter", machine="gateway"),
    Case("loose rp_filter of all wins", "gateway", """
interface tun9
ip route replace 10.200.36.0/24 dev tun9 proto 161
sysctl -qw net.ipv4.conf.lan.rp_filter=1 net.ipv4.conf.all.rp_filter=2
""", absent=("rp-filter",)),
    Case("forwarding is off", "gateway", "sysctl -qw net.ipv4.ip_forward=0",
         ("forwarding-off", "error", "--role gateway apply$")),
    Case("forwarding is off for IPv6", "gateway", "sysctl -qw net.ipv6.conf.all.forwarding=0",
         ("forwarding-off", "error", r"net\.ipv6\.conf\.all\.forwarding")),
    Case("forwarding is off on one interface", "node", "sysctl -qw net.ipv4.conf.lan.forwarding=0",
         ("forwarding-off", "error", r"net\.ipv4\.conf\.lan\.forwarding")),
    Case("forwarding is off on a node", "node", "sysctl -qw net.ipv4.ip_forward=0",
         ("forwarding-off", "error", r"^sysctl -w net\.ipv4\.ip_forward=1$")),
    Case("forwarding is off on a node for IPv6", "node", "sysctl -qw net.ipv6.conf.all.forwarding=0",
         ("forwarding-off", "error", r"^sysctl -w net\.ipv6\.conf\.all\.forwarding=1$")),
    Case("networkd removes the routes, and nobody sets them again", "host", NETWORKD,
         ("networkd-routes", "warning", "10-lan.network.d/fixport.conf"), site=NO_UNIT),
    Case("networkd removes the routes, and the unit sets them again", "host", NETWORKD,
         ("networkd-routes", "info", r"Protocol=161 for each in /etc/systemd/network/10-lan\.network\.d")),
    Case("networkd keeps what is configured", "host", NETWORKD + """
printf '[Network]\\nKeepConfiguration = yes\\n' >"$DROP_IN"
""", ("networkd-routes", "info", "fixport-setup .*boot"), site=NO_UNIT),
    Case("networkd keeps what is static, and leaves foreign routes", "host", NETWORKD + """
printf '[Network]\\nKeepConfiguration=static\\n' >"$DROP_IN"
printf '[Network]\\nManageForeignRoutes=off\\n' >"$ROOT/etc/systemd/networkd.conf.d/9.conf"
mkdir -p "$ROOT/usr/lib/systemd/networkd.conf.d"
printf '[Network]\\nManageForeignRoutes=yes\\n' >"$ROOT/usr/lib/systemd/networkd.conf.d/9.conf"
""", ("networkd-routes", "info", "anew"), site=NO_UNIT),
    Case("networkd keeps what is static, but not foreign routes", "host", NETWORKD + """
printf '[Network]\\nKeepConfiguration=static\\n' >"$DROP_IN"
printf '[Network]\\nManageForeignRoutes=no\\n' >"$ROOT/etc/systemd/networkd.conf"
mkdir -p "$ROOT/usr/lib/systemd/networkd.conf.d"
printf '[Network]\\nManageForeignRoutes=yes\\n' >"$ROOT/usr/lib/systemd/networkd.conf.d/9.conf"
""", ("networkd-routes", "warning", "is restarted"), site=NO_UNIT),
    silent("networkd has the routes itself", NETWORKD + """
printf '[Route]\\nDestination=10.200.1.0/24\\nGateway=192.168.31.2\\nProtocol=161\\n' >"$DROP_IN"
""", "networkd-routes", machine="host", site=NO_UNIT),
    silent("networkd does not manage the interface", NETWORKD + """
sed -i s/configured/unmanaged/ "$ROOT"/run/systemd/netif/links/*
""", "networkd-routes", machine="host"),
    silent("an interface that networkd managed", NETWORKD + "kill $!\nwait\n", "networkd-routes",
           machine="host"),
    Case("redirects are sent", "gateway", "sysctl -qw net.ipv4.conf.lan.send_redirects=1",
         ("redirects-sent", "warning", r"net\.ipv4\.conf\.lan\.send_redirects=0")),
    Case("redirects are sent from a device whose name is made for a shell", "gateway", """
ip link set lan down
ip link set lan name 'l`id`|x'
ip link set 'l`id`|x' up
ip address replace 192.168.31.2/24 dev 'l`id`|x'
ip address replace fd00:31::2/64 dev 'l`id`|x' nodad
ip route replace 10.200.1.0/24 via 192.168.31.17 proto 161
sysctl -qw 'net.ipv4.conf.l`id`|x.send_redirects=1'
""", ("redirects-sent", "warning", r"'net\.ipv4\.conf\.l`id`\|x\.send_redirects'=0")),
    Case("redirects are believed by a host", "host",
         "sysctl -qw net.ipv4.conf.lan.accept_redirects=1",
         ("redirects-accepted", "info", r"net\.ipv4\.conf\.lan\.accept_redirects=0")),
    silent("a node may believe redirects: those of what it steers are for pods",
           "sysctl -qw net.ipv4.conf.lan.accept_redirects=1 net.ipv4.conf.all.accept_redirects=1",
           "redirects-accepted", machine="steering node"),

    # ---- the firewall ----
    Case("a rule before our jump rejects", "gateway", "iptables-nft -I FORWARD -j REJECT",
         ("connections-refused", "error", "^iptables-nft -t filter -A FORWARD -j REJECT"),
         ("connections-refused", "error", "^fixport-setup .* apply$")),
    silent("a rule before our jump that decides nothing",
           "iptables-nft -I FORWARD -s 172.17.0.0/16 -j ACCEPT", machine="gateway"),
    Case("a rule before our jump that accepts more than we do", "gateway",
         "iptables-nft -I FORWARD -p tcp --dport 22 -j ACCEPT",
         ("connections-let-through", "error", "apply$")),
    Case("another table of nft drops", "gateway", """
nft add table inet other
nft 'add chain inet other pass { type filter hook forward priority 10; policy drop; }'
nft add rule inet other pass ct state established,related accept
""", ("connections-lost", "error", "nft table inet other, chain pass: policy drop")),
    silent("another table of nft drops other things", """
nft add table inet other
nft 'add chain inet other pass { type filter hook forward priority 10; policy drop; }'
nft add rule inet other pass ip saddr '{ 10.200.0.0/16, 192.168.31.0/24 }' accept
nft add rule inet other pass meta nfproto ipv6 accept
""", machine="gateway"),
    Case("the policy of FORWARD", "node", "iptables-nft -P FORWARD DROP",
         ("connections-lost", "error", "iptables-nft -t filter -P FORWARD DROP")),
    Case("the policy of FORWARD, legacy", "node", "iptables-legacy -w -P FORWARD DROP",
         ("connections-lost", "error", "^iptables-legacy -t filter -P FORWARD DROP")),
    Case("the policy of FORWARD, the other backend on a gateway", "gateway", """
iptables-legacy -w -P FORWARD DROP
ip6tables-legacy -w -P FORWARD DROP
""", ("connections-lost", "error", "^iptables-legacy -t filter -P FORWARD DROP"),
         ("connections-lost", "error", "^ip6tables-legacy -t filter -P FORWARD DROP")),
    Case("a chain of mangle drops", "gateway", """
iptables-nft -t mangle -N mine
iptables-nft -t mangle -A FORWARD -j mine
iptables-nft -t mangle -A mine -d 10.200.36.0/24 -j DROP
""", ("connections-lost", "error", "^iptables-nft -t mangle -A mine -d 10.200.36.0/24 -j DROP")),
    Case("a rule for a few of the pods", "gateway",
         "iptables-nft -I FORWARD -p tcp -s 10.200.1.64/26 -j DROP",
         ("connections-lost", "error", "-A FORWARD -s 10.200.1.64/26")),
    Case("a set of nft's with one of the pods", "gateway", """
nft add table inet mine
nft 'add set inet mine few { type ipv6_addr; elements = { fd00:200:36::77 }; }'
nft 'add chain inet mine pass { type filter hook forward priority 10; }'
nft add rule inet mine pass ip6 saddr @few drop
""", ("connections-lost", "error", "ip6 saddr @few drop")),
    Case("the host's own firewall, nft", "host", """
nft add table inet mine
nft 'add chain inet mine in { type filter hook input priority 0; policy drop; }'
nft add rule inet mine in ct state established accept
""", ("connections-lost", "error", "^nft table inet mine, chain in: policy drop")),
    silent("the policy of FORWARD with rules that accept", """
iptables-nft -P FORWARD DROP
iptables-nft -A FORWARD -i cni0 -j ACCEPT
iptables-nft -A FORWARD -o cni0 -j ACCEPT
"""),
    Case("firewalld", "gateway", """
nft -f - <<X
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10
        ct state { established, related } accept
        iifname "docker0" accept
        reject with icmpx admin-prohibited
    }
}
X
""", ("connections-refused", "error", "nft table inet firewalld, chain filter_FORWARD: reject"),
         ("connections-refused", "error", "firewall-cmd --new-policy")),
    Case("the host's own firewall", "host", """
iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT
iptables-nft -P INPUT DROP
""", ("connections-lost", "error", "-P INPUT DROP")),
    silent("the host's own firewall lets pods in", """
iptables-nft -A INPUT -p tcp -s 10.200.0.0/16 --dport 60000:61000 -j ACCEPT
iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
iptables-nft -P INPUT DROP
""", machine="host"),
    Case("the host's own firewall lets pods in, and no answers to what it asks itself", "host", """
iptables-nft -A INPUT -p tcp -s 10.200.0.0/16 --dport 60000:61000 -j ACCEPT
iptables-nft -P INPUT DROP
""", ("connections-lost", "error", "-P INPUT DROP")),
    Case("the host's own firewall is firewalld", "host", FIREWALLD % "",
         ("connections-refused", "error", "firewalld"),
         ("connections-refused", "error", "--add-rich-rule")),
    silent("firewalld lets pods in", FIREWALLD % "tcp dport 60001-60005 ct state { new, untracked } "
           "accept", machine="host"),
    Case("the host's own firewall looks at flags", "host", """
iptables-nft -A INPUT -p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP
iptables-nft -A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j ACCEPT
iptables-nft -A INPUT -m conntrack --ctstate DNAT -j ACCEPT
iptables-nft -A INPUT -m conntrack --ctstate UNTRACKED,NEW -p tcp --dport 22 -j ACCEPT
iptables-nft -A INPUT -j REJECT
""", ("connections-refused", "error", "-j REJECT")),
    Case("the host's own firewall is ufw", "host", UFW,
         ("connections-lost", "error", "-P INPUT DROP")),
    silent("ufw lets pods in", UFW + "iptables-nft -A ufw-user-input -p tcp -m tcp "
           "--dport 60001:60005 -s 10.200.0.0/16 -j ACCEPT\n", machine="host"),
    silent("the host's own firewall, nft, asks what is local", """
nft add table ip mine
nft 'add chain ip mine in { type filter hook input priority 0; policy drop; }'
nft add rule ip mine in fib daddr type broadcast drop
nft add rule ip mine in fib daddr type != local drop
nft add rule ip mine in tcp dport 60001-60005 accept
nft add rule ip mine in ct state established accept
""", machine="host"),
    Case("a service is translated to another address", "gateway", """
iptables-nft -t nat -A PREROUTING -p tcp --dport 60002 -j DNAT --to-destination 192.168.31.99:80
""", ("connections-diverted", "error", "--to-destination 192.168.31.99:80")),
    Case("a Service leads to a host, and there is no alias", "node", KUBE_SERVICE,
         ("alias-missing", "warning", "-A KUBE-SEP-A .*--to-destination 192.168.31.67:60001"),
         ("alias-missing", "warning", "translated to 192.168.31.67:60001 here"),
         ("alias-missing", "warning", r"server = 192\.168\.31\.67:60001")),
    silent("a Service leads to a host, and an alias says so", KUBE_SERVICE, "alias-missing",
           site=("[setup]", "[alias shop]\nserver = 192.168.31.67:60001\naddresses = 10.96.0.1:80\n[setup]")),
    silent("a Service leads to a host's port that no rule is for, and to pods",
           KUBE_SERVICE.replace("192.168.31.67:60001", "192.168.31.67:22") +
           "iptables-nft -t nat -A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.200.1.9:60001\n", "alias-missing"),
    Case("a Service leads to a host, by nft and IPv6", "node", """
nft add table ip6 kube
nft 'add chain ip6 kube pre { type nat hook prerouting priority dstnat; }'
nft add rule ip6 kube pre ip6 daddr fd00:96::1 tcp dport 80 dnat to '[fd00:31::67]:60002'
""", ("alias-missing", "warning", r"translated to \[fd00:31::67\]:60002 here")),
    Case("a Service leads to a host, by iptables-legacy", "node",
         KUBE_SERVICE.replace("iptables-nft", "iptables-legacy -w"),
         ("alias-missing", "warning", "translated to 192.168.31.67:60001 here")),
    *(Case(f"translated to a host: {rule}", "node",
           f"iptables-nft -t nat -A PREROUTING -p tcp -m comment --comment ' -j DNAT --to-destination 1.2.3.4' {rule}\n",
           ("alias-missing", "warning", f"translated to {to} here")) for rule, to in (
        ("-j DNAT --to-destination 192.168.31.60-192.168.31.70:60001-60003", "192.168.31.67:60001"),
        ("-j DNAT --to-destination 192.168.31.67", "192.168.31.67"),
        ("-d 10.98.0.0/24 -j NETMAP --to 192.168.31.0/24", "192.168.31.67"))),
    *(Case(f"translated to a host, IPv6: {to}", "node",
           f"ip6tables-nft -t nat -A PREROUTING -p tcp -j DNAT --to-destination '{to}'\n",
           ("alias-missing", "warning", rf"translated to \[?fd00:31::67")) for to in (
        "[fd00:31::60-fd00:31::70]:60001-60003", "[fd00:31::67]:60002", "fd00:31::67")),
    *(Case(f"translated to a host by nft: {rule}", "node", NFT_MAPS.replace("RULE", rule),
           ("alias-missing", "warning", f"translated to {to}")) for rule, to in (
        ("meta l4proto tcp dnat ip to jhash ip saddr mod 2 map { 0 : 10.7.7.7, 1 : 192.168.31.67 }:60001", "192.168.31.67:60001 here"),
        ("meta l4proto tcp dnat ip to ip daddr map @hosts", "192.168.31.67:60003 here"),
        ("dnat ip to ip daddr map { 10.96.0.9 : 192.168.31.67 }", "192.168.31.67 here"),
        ("meta l4proto tcp dnat ip to 192.168.31.60-192.168.31.70:60001-60005", "192.168.31.67:60001 here"),
        ("meta l4proto tcp dnat ip to 192.168.31.67:60001 persistent", "192.168.31.67:60001 here"),
        ("dnat ip prefix to ip daddr map { 10.97.0.0/24 : 192.168.31.0/24 }", "192.168.31.67 here"),
        ("dnat ip6 to ip6 daddr . tcp dport map @hosts6", r"\[fd00:31::67\]:60001 here"),
        ("meta l4proto tcp dnat ip6 to [fd00:31::60]-[fd00:31::70]:60002", r"\[fd00:31::67\]:60002 here"))),
    Case("a Service leads to a host, kube-proxy's nftables mode", "node", KUBE_NFT,
         ("alias-missing", "warning", "translated to 192.168.31.67:60001 here"), absent=("alias-not-looked-at",)),
    *(silent(f"translated by nft, but not to a host: {rule}", NFT_MAPS.replace("RULE", rule), "alias-missing",
             "alias-not-looked-at") for rule in (
        "meta l4proto tcp dnat ip to jhash ip saddr mod 2 map { 0 : 10.7.7.7, 1 : 192.168.31.99 }:60001",
        "tcp dport 80 redirect to :60001", "meta l4proto tcp dnat ip to 192.168.31.60-192.168.31.66:60001",
        'tcp dport 80 accept comment "never dnat to 192.168.31.67"',
        "dnat ip to ip daddr map @empty")),
    Case("translated by nft, in a way that is not known", "node",
         NFT_MAPS.replace("RULE", "dnat ip to ip daddr"),
         ("alias-not-looked-at", "info", "dnat ip to ip daddr"), absent=("alias-missing",)),
    Case("both backends", "gateway", "iptables-legacy -w -A INPUT -j ACCEPT",
         ("both-backends", "warning", "iptables-legacy")),
    Case("Docker came later", "gateway", """
iptables-nft -F FORWARD
iptables-nft -N DOCKER-USER
iptables-nft -I FORWARD -j DOCKER-USER
iptables-nft -P FORWARD DROP
""", ("connections-lost", "error", "apply$"), ("changed-since", "warning", "apply$")),
    Case("our jump was flushed", "gateway", "iptables-nft -F FORWARD",
         ("connections-let-through", "error", "apply$"), ("changed-since", "warning", "apply$")),
    Case("all rules were flushed", "gateway",
         "iptables-nft -F; iptables-nft -X; ip6tables-nft -F; ip6tables-nft -X",
         ("connections-let-through", "error", "apply$"), ("changed-since", "warning", "ipv4")),
    Case("our table was flushed", "node", "nft flush ruleset",
         ("changed-since", "warning", "fixport")),

    # ---- the state of things ----
    Case("no pool", "node", 'rm "$ROOT/run/fixport/pool"', ("pool-missing", "error", "run/fixport")),
    Case("a damaged pool", "node", 'head -c 5000 /dev/zero >"$ROOT/run/fixport/pool"',
         ("pool-unusable", "error", "^mv ")),
    Case("a pool of another mode", "node", 'chmod 0600 "$ROOT/run/fixport/pool"',
         ("pool-mode", "warning", "chmod 0644")),
    Case("a pool with other ports", "node",
         'fixport-pool reload --pool "$ROOT/run/fixport/pool" -p 62000-62100 >/dev/null',
         ("pool-outdated", "warning", "62000-62100")),
    Case("a full pool", "node", """
LD_PRELOAD="$SHIM" FIXPORT_POOL="$ROOT/run/fixport/pool" python3 -c '
import os, socket, time
server = socket.socket(); server.bind(("192.168.31.17", 5000)); server.listen()
conns = [socket.create_connection(("192.168.31.17", 5000)) for _ in range(2)]
if os.fork(): os._exit(0)
os.close(1); os.close(2)
time.sleep(60)'
""", ("pool-full", "error", "2 of 2 ports"),
         site=("ports = 62000-62999\n", "ports = 62000-62001\n[rule all]\n")),
    Case("a pool that is nearly full", "node", """
LD_PRELOAD="$SHIM" FIXPORT_POOL="$ROOT/run/fixport/pool" python3 -c '
import os, socket, time
server = socket.socket(); server.bind(("192.168.31.17", 5000)); server.listen(20)
conns = [socket.create_connection(("192.168.31.17", 5000)) for _ in range(9)]
if os.fork(): os._exit(0)
os.close(1); os.close(2)
time.sleep(60)'
""", ("pool-nearly-full", "warning", "9 of 10 ports"),
         site=("ports = 62000-62999\n", "ports = 62000-62009\n[rule all]\n")),
    Case("no library", "host", 'rm -r "$ROOT$LIBDIR"', ("library-missing", "warning", "libfixport.so")),
    Case("no timestamps", "host", "sysctl -qw net.ipv4.tcp_timestamps=0",
         ("timestamps-off", "warning", "tcp_timestamps=1")),
    Case("connection tracking is full", "gateway", """
iptables-nft -A INPUT -m conntrack --ctstate INVALID -j ACCEPT
cat /proc/sys/net/netfilter/nf_conntrack_max | tee "$ROOT/max" >"$ROOT/count"
mount --bind "$ROOT/count" /proc/sys/net/netfilter/nf_conntrack_count
mount --bind "$ROOT/max" /proc/sys/net/netfilter/nf_conntrack_max
""", ("conntrack-full", "error", "nf_conntrack_max=")),
    Case("connection tracking is nearly full", "gateway", """
iptables-nft -A INPUT -m conntrack --ctstate INVALID -j ACCEPT
echo $(($(cat /proc/sys/net/netfilter/nf_conntrack_max) * 95 / 100)) >"$ROOT/count"
cat /proc/sys/net/netfilter/nf_conntrack_max >"$ROOT/max"
mount --bind "$ROOT/count" /proc/sys/net/netfilter/nf_conntrack_count
mount --bind "$ROOT/max" /proc/sys/net/netfilter/nf_conntrack_max
""", ("conntrack-nearly-full", "warning", "nf_conntrack_max=")),
    Case("connection tracking is strict", "gateway", """
sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
""", ("conntrack-strict", "info", "nf_conntrack_tcp_loose")),
    Case("an interrupted apply", "bare", MACHINES["host"] + """
mkdir "$ROOT/bin"
printf '#!/bin/sh\\nkill -9 $PPID\\n' >"$ROOT/bin/sysctl"
chmod 755 "$ROOT/bin/sysctl"
PATH="$ROOT/bin:$PATH" fixport-setup --root "$ROOT" --config "$ROOT/../site.conf" --role host apply \\
    >"$ROOT/applied" 2>&1 || test $? -eq 137
""", ("interrupted", "error", "--role host apply$"),
         command=("--config", "SITE", "--role", "host")),
    Case("an interrupted undo", "host", """
mkdir "$ROOT/bin"
printf '#!/bin/sh\\nkill -9 $PPID\\n' >"$ROOT/bin/sysctl"
chmod 755 "$ROOT/bin/sysctl"
PATH="$ROOT/bin:$PATH" fixport-setup --root "$ROOT" undo >"$ROOT/undone" 2>&1 || test $? -eq 137
""", ("interrupted", "error", "^fixport-setup --root .* undo$")),
    Case("a garbled journal", "host", 'echo "{" >"$ROOT/var/lib/fixport/journal.json"',
         ("journal-unusable", "error", "journal.json")),
    Case("the unit was taken away", "host", SYSTEMCTL + """
rm "$ROOT"/etc/systemd/system/multi-user.target.wants/*
""", ("changed-since", "warning", "link .*fixport-setup"),
         ("unit-disabled", "error", "^systemctl --root=.* enable fixport-setup.service$")),
    Case("the unit was taken away, and there is no systemctl", "host", NO_SYSTEMCTL + """
rm -r "$ROOT"/etc/systemd/system/multi-user.target.wants
""", ("unit-disabled", "error", "^ln -sf .*/fixport-setup.service$")),
    Case("the program of the unit is not there", "host", 'rm "$ROOT$PROGRAM"',
         ("unit-program", "error", "No such file")),
    Case("the program of the unit cannot be executed", "host", 'chmod 644 "$ROOT$PROGRAM"',
         ("unit-program", "error", "Permission denied")),
    silent("without what lasts no unit is needed", "", "unit-disabled", "unit-program",
           machine="host", site=("persist = own", "persist = none")),
    Case("no configuration", "bare", "", ("no-configuration", "info", "fixport.conf --config|--config")),
    Case("no configuration, but strict rp_filter on a router", "bare",
         "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.lan.rp_filter=1",
         ("rp-filter-strict", "info", r"conf\.lan\.rp_filter = 1")),
    silent("no configuration, and strict rp_filter on a machine that routes nothing",
           "sysctl -qw net.ipv4.conf.lan.rp_filter=1", "rp-filter-strict", machine="bare"),
    Case("no configuration, but both backends", "bare", """
iptables-nft -A INPUT -j ACCEPT
iptables-legacy -w -A INPUT -j ACCEPT
""", ("both-backends", "warning", "legacy")),
    Case("no configuration, but a role", "bare", "", ("no-configuration", "info", "--config"),
         absent=("pool-missing", "library-missing", "node-ports-overlap", "ports-ephemeral"),
         command=("--role", "node")),
    Case("a copy of the manifest", "control-plane", """
cp "$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml" "$ROOT/etc/kubernetes/manifests/old.bak"
""", ("manifest-twice", "error", "old.bak")),
    silent("a hidden copy of the manifest", """
cp "$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml" "$ROOT/etc/kubernetes/manifests/.old"
""", "manifest-twice", machine="control-plane"),
    Case("kubeadm took the range back", "control-plane", """
sed -i /node-port-range/d "$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml"
""", ("manifest-range", "error", "is missing")),
    Case("a configuration that cannot work here", "host", "ip address flush dev lan",
         ("cannot-apply", "error", "role host: .* has none of this machine's addresses")),
    Case("a gateway on no network of this machine's", "host", """
ip address flush dev lan
ip address add 192.168.31.67/32 dev lan
""", ("cannot-apply", "error", r"\[gateway\] address = 192.168.31.2 ")),
    Case("a rule for somebody who is no host", "host", "",
         ("rules-and-hosts", "warning", r"line \d+: \[rule r\] has 192\.168\.31\.68"),
         site=("ports = 62000-62999\n", "ports = 62000-62999\n[rule r]\nto = 192.168.31.64/30, "
               "192.168.31.68, fd00:31::67\n")),
    Case("a host for which there is no rule", "host", "",
         ("rules-and-hosts", "warning", r"no \[rule\] is for \[fd00:31::67\]:60001"),
         site=("ports = 62000-62999\n", "ports = 62000-62999\n[rule r]\nto = 192.168.31.67\n")),
    Case("nothing applied yet", "bare", MACHINES["host"], ("not-applied", "info", "apply"),
         ("pool-missing", "error", "pool"), ("route-missing", "error", "10.200.36.0/24"),
         command=("--config", "SITE", "--role", "host")),
    Case("nobody says what the machine is", "bare", "", ("no-role", "info", "--role"),
         command=("--config", "SITE")),
]


# Not by a case: see the tests below. The kernel here has IP_LOCAL_PORT_RANGE, or has it not.
TRIED_ELSEWHERE = {"unconfirmed", "not-looked-at", "no-systemd", "no-local-port-range"}


class Machine:
    """Runs scripts and the doctor in namespaces of their own."""

    def __init__(self):
        self.scratch = tempfile.mkdtemp(prefix="fixport-doctor.", dir="/tmp")
        os.chmod(self.scratch, 0o755)
        self.library = self.program = None
        self.config = os.path.join(self.scratch, "site.conf")
        self.root = os.path.join(self.scratch, "root")

    def write_site(self, site, change):
        assert not change or change[0] in site, f"{change[0]!r} is not in the site"
        text = site.replace(*change) if change else site
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def clear(self):
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in ("etc/systemd/system/multi-user.target.wants", "etc/iproute2/rt_protos.d",
                       "run/lock", "run/fixport", "var/lib"):
            os.makedirs(os.path.join(self.root, folder))
        if self.library:
            os.makedirs(os.path.dirname(self.root + self.library), exist_ok=True)
            with open(self.root + self.library, "w", encoding="utf-8"):
                pass

        if self.program:
            os.makedirs(os.path.dirname(self.root + self.program), exist_ok=True)
            shutil.copy(SETUP, self.root + self.program)

    def environment(self):
        return dict(os.environ, ROOT=self.root, PROGRAM=self.program or "", MANIFEST=MANIFEST, SHIM=fptest.PRELOAD,
                    LIBDIR=os.path.dirname(self.library or "/usr/local/lib/x"), LC_ALL="C.UTF-8",
                    PATH=":".join([os.path.dirname(SETUP), os.environ["PATH"], "/usr/sbin:/sbin"]))

    def run(self, script, change=(), argv=(), site=SITE):
        """A script in new namespaces; then doctor or something else takes its place."""
        self.clear()
        self.write_site(site, change)
        return subprocess.run([*UNSHARE, "sh", "-c", script + '\nexec "$@"', "sh", *argv],
                              env=self.environment(), capture_output=True, text=True, check=False,
                              timeout=120, stdin=subprocess.DEVNULL, errors="replace")

    def setup(self, machine):
        if machine == "bare":
            return COMMON
        return COMMON + MACHINES[machine] + (
            f'fixport-setup --root "$ROOT" --config "{self.config}" --role {role(machine)} --no-rehearsal apply '
            '>"$ROOT/applied" 2>&1 || { cat "$ROOT/applied" >&2; exit 99; }\n')

    def doctor(self, case_machine, fault="", site=(), command=None, options=("--json",), before=()):
        if command is None:
            command = () if case_machine == "bare" else ("--config", "SITE", "--role",
                                                         role(case_machine))
        argv = [*before, SETUP, "--root", self.root, "doctor", *options,
                *(self.config if word == "SITE" else word for word in command)]
        return self.run(self.setup(case_machine) + fault, site, argv, SITES.get(case_machine, SITE))


def role(machine):
    """The last word of what a machine is called."""
    return machine.split()[-1]


def findings(done):
    try:
        return json.loads(done.stdout)["findings"]
    except ValueError:
        return []


def check(tap, good, name, done):
    return tap.point(good, name, *([] if good else [told(done)]))


def told(done):
    return f"exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def counted(list_):
    return [it for it in list_ if it["severity"] != "info"]


def has(list_, id_, severity, pattern):
    return any(it["id"] == id_ and it["severity"] == severity and
               any(re.search(pattern, text or "")
                   for text in (it["line"], it["mend"], it["what"], *it["run"]))
               for it in list_)


def well_formed(list_):
    return all(set(it) == {"id", "severity", "what", "why", "mend", "run", "line"} and it["what"] and
               it["why"] and it["mend"] for it in list_)


def run_and_mend(argv):
    """Inside the namespaces: the doctor, all the commands that it has, the doctor again. JSON."""
    story = {"ran": []}
    for turn in ("first", "second"):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        story[turn] = [done.returncode, done.stdout, done.stderr]
        todo = [command for it in findings(done) for command in it["run"]]
        for command in dict.fromkeys(todo if turn == "first" else []):
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False,
                                  stdin=subprocess.DEVNULL)
            story["ran"].append([command, done.returncode, done.stdout + done.stderr])
    print(json.dumps(story))


MEND = (sys.executable, os.path.abspath(__file__), "--run-and-mend")


def mended(done):
    """What run_and_mend() saw: the first run, and what the commands did not do (texts)."""
    try:
        story = json.loads(done.stdout)
    except ValueError:
        return done, ["it did not come to the end"]
    first, second = (subprocess.CompletedProcess([], *story[turn]) for turn in ("first", "second"))
    wrong = [f"{command}: {status}: {said}" for command, status, said in story["ran"] if status]
    again = {(it["id"], it["what"]) for it in findings(second)}
    wrong += [f"not mended: {it['id']}: {it['what']}: {it['run']}" for it in findings(first)
              if it["run"] and (it["id"], it["what"]) in again]
    if not second.stdout.startswith("{"):
        wrong.append(told(second))
    return first, wrong


# ---- the tests ----


def learn_paths(machine):
    """Where this build looks for the library, and for fixport-setup at boot."""
    done = machine.doctor("host")
    for it in findings(done):
        if it["id"] == "library-missing":
            machine.library = it["line"].split(": ")[0][len(machine.root):]
        if it["id"] == "unit-program":
            machine.program = it["line"].split("ExecStart=")[1].split(": ")[0]


# What a site may have otherwise, and is as well.
HEALTHY = {
    "node": [("mode = keep", f"mode = {mode}") for mode in ("none", "confine")],
    "steering node": [("[setup]", "[setup]\nmark = 0x80000000")],
    "routed node": [("[setup]", f"[snat]\nmode = {mode}\n[setup]") for mode in ("none", "confine")],
    "gateway": [("iptables = nft", "iptables = legacy"),
                *(("[control-plane]", f"{key}\n[control-plane]")
                  for key in ("stateful = no", "exclusive = yes"))],
    "routed gateway": [("[setup]", f"[snat]\nmode = {mode}\n[setup]")
                       for mode in ("none", "confine")],
    "host": [("ports = 61000-61999\n", "")],
}


def test_healthy(tap, machine, name):
    for change in ((), *HEALTHY.get(name, ())):
        done = machine.doctor(name, site=change)
        list_ = findings(done)
        check(tap, done.returncode == 0 and not counted(list_) and done.stdout.startswith("{"),
              f"{name}, {change[-1:]}: nothing is found on a machine that is well", done)


def test_every_finding(tap, _machine):
    """Each finding that the sources can make is made by some test."""
    doctor = Path(__file__).parents[2] / "tools" / "setup" / "doctor"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(doctor.glob("*.c")))
    made = set()
    for call in re.findall(r"finding_add\((.*?)(?:SEVERITY_|severity)", text, re.S):
        made |= set(re.findall(r'"([a-z0-9-]+)"', call))
    made |= set(re.findall(r'\[PROMISE_\w+\] = "([a-z]+-[a-z-]+)"', text))
    made |= set(re.findall(r'ports_shared\([^;]*?"([a-z-]+)"', text))
    made |= set(re.findall(r'way_shadowed\(.*?"([a-z]+-[a-z]+)"', text))
    tried = {want[0] for case in CASES for want in case.wanted} | TRIED_ELSEWHERE
    tap.equal(sorted(made - tried), [], "every finding is tried")
    tap.equal(sorted(tried - made), [], "no test is for a finding that is not there")


def test_case(tap, machine, case):
    done, unmended = mended(machine.doctor(case.machine, case.fault, case.site,
                                           case.command or None, before=MEND))
    list_ = findings(done)
    missing = [want for want in case.wanted if not has(list_, *want)]
    wrong = [it for it in list_ if it["id"] in case.absent]
    status = 2 if counted(list_) else 0
    good = not missing and not wrong and done.returncode == status and done.stdout[:1] == "{"
    good = good and well_formed(list_)
    if case.unjudged:
        notes = json.loads(done.stdout)["not-judged"]
        good = good and re.search(case.unjudged, " ".join(f"{it['what']} {it['line']}"
                                                          for it in notes)) is not None
    tap.point(good, case.name, *([] if good else [f"missing: {missing}", f"wrong: {wrong}",
                                                  told(done)]))
    if any(it["run"] for it in list_):
        tap.point(not unmended, f"{case.name}: the commands mend it",
                  *([] if not unmended else [*unmended, told(done)]))


def test_text(tap, machine):
    done = machine.doctor("gateway", CALICO, site=LEFT, options=())
    lines = done.stdout.splitlines() or [""]
    told_of = [line for line in lines if re.match("error|warning|info", line)]
    check(tap, done.returncode == 2 and "\033" not in done.stdout and
          re.fullmatch(r"\d+ findings?: \d+ errors?(; \d+ notes?)?", lines[-1]) is not None and
          re.match(r"error    pods to hosts: .* by Calico ", (told_of or [""])[0]) is not None and
          any(line.startswith("         line: iptables-nft -t nat") for line in lines),
          "for people: worst first, the line, the count at the end", done)
    check(tap, lines[0].startswith("Tried in a twin") and
          any(re.match(r"  hosts to pods +fd00:31::67\S* to fd00:200:1::/64\S*.* \d+ pass$", line)
              for line in lines) and
          any(re.match(r"  pods to hosts, not a service .* \d+ rejected, as they must be$", line)
              for line in lines), "for people: a table of what was tried", done)
    done = machine.doctor("bare", options=())
    lines = done.stdout.splitlines() or [""]
    check(tap, done.returncode == 0 and lines[-1] == "0 findings; 1 note",
          "for people: 0 findings on a bare machine", done)


def on_terminal(done_argv):
    """Inside the namespaces: runs a program on a terminal of 80 columns, and copies what it says."""
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(done_argv, stdout=child) as process:
        os.close(child)
        try:
            while data := os.read(parent, 4096):
                os.write(1, data)
        except OSError:
            pass  # the end, as a terminal tells it
    sys.exit(process.returncode)


TERMINAL = (sys.executable, os.path.abspath(__file__), "--on-terminal")


def test_terminal(tap, machine):
    fault = CALICO
    done = machine.doctor("gateway", "export TERM=xterm\nunset NO_COLOR\n" + fault, options=(),
                          before=TERMINAL)
    plain = re.sub(r"\033\[[0-9;]*m", "", done.stdout)
    told_why = [line for line in plain.splitlines() if re.match(r" +why:", line)]
    check(tap, done.returncode == 2 and "\033[31;1merror" in done.stdout and told_why and
          all(len(line) <= 80 for line in told_why), "on a terminal: colours, and lines that fit",
          done)
    for setting in ("export TERM=xterm NO_COLOR=1", "export TERM=dumb"):
        done = machine.doctor("gateway", setting + "\n" + fault, options=(), before=TERMINAL)
        check(tap, done.returncode == 2 and "\033" not in done.stdout and "error" in done.stdout,
              f"on a terminal: no colours with {setting}", done)


def test_no_systemd(tap, machine):
    """Under no root but the machine's own: its folders are covered."""
    done = machine.run(COMMON + MACHINES["host"] + f"""
cp -a /etc "$ROOT/real-etc"
rm -rf "$ROOT/real-etc/systemd/system"
mkdir "$ROOT/real-etc/systemd/system"
mount --bind "$ROOT/real-etc" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
fixport-setup --config "{machine.config}" --role host apply >"$ROOT/applied" 2>&1
""", argv=[SETUP, "--json", "--config", machine.config, "--role", "host", "doctor"])
    check(tap, has(findings(done), "no-systemd", "warning", "fixport-setup boot"),
          "a unit where systemd does not run", done)


def test_changes_nothing(tap, machine):
    look = ("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; nft list ruleset; "
            "ip -4 route show table all; ip rule; find \"$ROOT\"")
    script = COMMON + f"""
({look}) >"$ROOT/../before" 2>&1
"{SETUP}" --root "$ROOT" doctor >/dev/null
({look}) >"$ROOT/../after" 2>&1
cmp "$ROOT/../before" "$ROOT/../after"
"""
    done = machine.run(script, argv=["true"])
    check(tap, done.returncode == 0, "a bare machine: no table, no chain, no file is made", done)


def test_unconfirmed(tap, machine):
    setup = f'fixport-setup --root "$ROOT" --config "{machine.config}" --role host'
    done = machine.run(COMMON + MACHINES["host"] + f"""
{setup} --confirm 60 apply >"$ROOT/applied" 2>&1
""", argv=[*MEND, SETUP, "--root", machine.root, "--config", machine.config, "--role", "host",
           "--json", "doctor"])
    done, unmended = mended(done)
    check(tap, has(findings(done), "unconfirmed", "info", "root confirm$"),
          "an apply that waits to be confirmed is a note", done)
    tap.equal(unmended, [], "an apply that waits to be confirmed: the commands mend it")


def test_bad_input(tap, machine):
    done = machine.doctor("bare", site=("62000-62999", "60001-80001"), command=("--config", "SITE"))
    check(tap, done.returncode == 1 and '"result": "failed"' in done.stdout and
          len(done.stderr.splitlines()) == 1 and
          "80001 is not a port" in done.stderr, "a bad configuration: one line, exit 1", done)
    done = machine.doctor("bare", command=("--config", "/nonexistent/x"))
    check(tap, done.returncode == 1 and len(done.stderr.splitlines()) == 1,
          "no configuration where one is named: one line, exit 1", done)


def test_not_root(tap, machine):
    if not shutil.which("setpriv"):
        tap.cannot("without root", "setpriv is not installed")
        return
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", SETUP, "--root",
            machine.root, "doctor", "--json"]
    done = machine.run(COMMON + "sysctl -qw net.ipv4.tcp_timestamps=0\n" + CALICO, argv=argv)
    list_ = findings(done)
    if "ermission denied" in done.stderr and not list_:
        tap.cannot("without root", "the build is not readable to others")
        return
    check(tap, done.returncode == 2 and has(list_, "timestamps-off", "warning", "") and
          "no configuration" in json.loads(done.stdout)["not-judged"][0]["what"],
          "without root: what can be seen, and what could not be tried", done)


HOSTILE = {
    "a loop of chains": ("iptables-nft-save", """*nat
:POSTROUTING ACCEPT [0:0]
:a - [0:0]
:b - [0:0]
-A POSTROUTING -j a
-A a -j b
-A a -j b
-A b -j a
-A b -j a
COMMIT
"""),
    "text without sense": ("iptables-nft-save", """*
:
: :
*nat
:POSTROUTING
-A
-A POSTROUTING
:POSTROUTING ACCEPT
-A POSTROUTING -j
-A POSTROUTING -s
-A POSTROUTING ! ! ! -s ! -d x/y -m -p --mark zz --match-set -j MASQUERADE --to-ports --random
-A POSTROUTING --sport 99999999999:-1 -s 1.2.3.4/99 -m set --match-set -rf src -j SNAT --to-source [
-A POSTROUTING -m comment --comment "\\""" + "x" * 5000 + "\n-A POSTROUTING" + " -s 1.2.3.4" * 999),
    "half of a JSON": ("nft", '{"nftables": [{"table": {"family": "ip", "name": "x"'),
    "JSON of other types": ("nft", json.dumps({"nftables": [
        1, None, {"rule": 3}, {"chain": []}, {"set": {"family": "ip", "elem": {"a": 1}}},
        {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "postrouting", "type": "nat",
                   "prio": "x"}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": "y", "expr": [
            7, {}, {"match": 5}, {"match": {"op": "==", "left": {"&": 3}, "right": {}}},
            {"vmap": {"data": {"set": [1, [2], [3, {}], [{}, {"jump": 9}]]}}},
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                       "right": {"set": [{"prefix": {"addr": 3, "len": "x"}}, {"range": [1]}]}}},
            {"masquerade": {"flags": 5, "port": {"range": "x"}}}]}}]})),
}


def test_hostile(tap, machine):
    for name, (tool, text) in HOSTILE.items():
        with open(os.path.join(machine.scratch, "text"), "w", encoding="utf-8") as file:
            file.write(text)
        script = f"""
mkdir "$ROOT/bin"
printf '#!/bin/sh\\ncat {machine.scratch}/text\\n' >"$ROOT/bin/{tool}"
chmod 755 "$ROOT/bin/{tool}"
PATH="$ROOT/bin:$PATH"
"""
        done = machine.doctor("bare", script)
        check(tap, done.returncode in (0, 2) and well_formed(findings(done)) and
              done.stdout.startswith("{"), f"hostile: {name}", done)
    done = machine.doctor("gateway", """
nft add table ip mine
nft 'add chain ip mine post { type nat hook postrouting priority srcnat - 20; }'
printf 'add rule ip mine post masquerade random comment "\\033[2J\\033]0;x\\007 end"' | nft -f -
""", options=())
    check(tap, done.returncode == 2 and "\033" not in done.stdout and "?[2J" in done.stdout,
          "hostile: control characters in a comment do not reach the terminal", done)
    done = machine.run(COMMON + '''
nft add table ip mine
nft 'add chain ip mine c { type filter hook input priority 0; }'
printf 'add rule ip mine c quota over 5 bytes drop comment "\\033[2J end"' | nft -f -
''', argv=[SETUP, "twin", "true"])
    check(tap, done.returncode == 0 and "\033" not in done.stderr and "?[2J end" in done.stderr,
          "hostile: nor from what the twin's command says", done)


def tests():
    for name in MACHINES:
        yield f"healthy {name}", lambda tap, machine, name=name: test_healthy(tap, machine, name)
    for case in CASES:
        yield case.name, lambda tap, machine, case=case: test_case(tap, machine, case)
    yield "every finding", test_every_finding
    yield "text", test_text
    yield "terminal", test_terminal
    yield "no systemd", test_no_systemd
    yield "changes nothing", test_changes_nothing
    yield "unconfirmed", test_unconfirmed
    yield "bad input", test_bad_input
    yield "not root", test_not_root
    yield "hostile", test_hostile


def main():
    if sys.argv[1:2] == ["--run-and-mend"]:
        run_and_mend(sys.argv[2:])
        return
    if sys.argv[1:2] == ["--on-terminal"]:
        on_terminal(sys.argv[2:])
    tap = fptest.Tap()
    if not os.path.exists(SETUP):
        sys.exit(f"there is no {SETUP}")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for tool in TOOLS:
        if not shutil.which(tool):
            tap.cannot("fixport-setup doctor", f"{tool} is not installed")
            tap.end()
    if subprocess.run([*UNSHARE, "iptables-nft", "-L"], capture_output=True, check=False).returncode:
        tap.cannot("fixport-setup doctor", "no namespaces, or no nftables")
        tap.end()
    machine = Machine()
    words = sys.argv[1:]
    try:
        learn_paths(machine)
        for name, test in tests():
            if not words or any(word in name for word in words):
                test(tap, machine)
    finally:
        shutil.rmtree(machine.scratch, ignore_errors=True)
    tap.end()


if __name__ == "__main__":
    main()
