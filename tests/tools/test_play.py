#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Connections through a twin, and who ended them: machines with all kinds of rules, in network
namespaces of their own, of which tests/tools/play makes a twin.

Every machine lies between clients (eth0: 10.0.0.0/24, fd00:0::/64) and servers (eth1: 10.0.1.0/24,
fd00:1::/64), has address 1 on both sides, and forwards.

    FIXPORT_BUILD=build tests/tools/test_play.py [WORD...]   only the tests with WORD in their name
"""

import concurrent.futures
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

PLAY = fptest.program("tools", "play")

# $1 is a process in the namespace that has the other ends of the interfaces.
MACHINE = """
set -e
mount -n -t tmpfs tmpfs /run
ip link set lo up
ip link add eth0 type veth peer name far0 netns "$1"
ip link add eth1 type veth peer name far1 netns "$1"
for i in 0 1; do
    ip link set eth$i up
    ip addr add 10.0.$i.1/24 dev eth$i
    ip addr add fd00:$i::1/64 dev eth$i nodad
    nsenter -t "$1" --net ip link set far$i up
done
set_to() { echo "$2" > "/proc/sys/net/$1"; }
set_to ipv4/ip_forward 1
set_to ipv6/conf/all/forwarding 1
set_to ipv4/conf/all/rp_filter 0
"""


def play(setup, lines, blaming=True):
    """Plays connections on a machine. Return: their results."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec cat"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        peer.stdout.readline()
        done = subprocess.run(
            ["unshare", "--net", "--mount", "sh", "-c", MACHINE + setup + '\nexec "$2" $3', "sh",
             str(peer.pid), PLAY, "--blame" if blaming else ""],
            input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False)
        peer.stdin.close()
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(results) != len(lines):
        raise RuntimeError(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    return results


# ---- connections ----

def gate(port=5432, sport=61001, client=5, six=False, group=0, to=9):
    """From a client to a server, through the machine."""
    if six:
        return f"eth0 fd00:0::{client} {sport} fd00:1::{to} {port} {group}"
    return f"eth0 10.0.0.{client} {sport} 10.0.1.{to} {port} {group}"


def comes(port=5432, sport=61001, client=5, six=False):
    """From a client to the machine."""
    address = f"fd00:0::{client} {sport} fd00:0::1" if six else f"10.0.0.{client} {sport} 10.0.0.1"
    return f"eth0 {address} {port} 0"


def goes(port=5432, sport=61001, six=False):
    """From the machine to a server."""
    return f"- {'fd00:1::1' if six else '10.0.1.1'} {sport} {'fd00:1::9' if six else '10.0.1.9'} {port} 0"


def passed(**more):
    return dict(result="passed", **more)


def lost(packet, rule, **more):
    return dict(result="lost", packet=packet, rule=rule, **more)


def refused(packet, rule, **more):
    return dict(result="refused", packet=packet, rule=rule, **more)


# ---- what is tried: name, commands, [(connection, what must come of it)] ----

# {I} is iptables-nft or iptables-legacy, {J} the same for IPv6.
SYN_IS_UNTRACKED = "{I} -t raw -A PREROUTING -i eth0 -p tcp --syn -j CT --notrack\n"
DROPS = [(table, chain, connection, packet) for table, chain, connection, packet in [
    ("raw", "PREROUTING", gate(), "SYN"), ("mangle", "PREROUTING", gate(), "SYN"),
    ("mangle", "FORWARD", gate(), "SYN"), ("mangle", "POSTROUTING", gate(), "SYN"),
    ("filter", "INPUT", comes(), "SYN"), ("mangle", "INPUT", comes(), "SYN"),
    ("raw", "OUTPUT", goes(), "SYN"), ("mangle", "OUTPUT", goes(), "SYN"),
    ("filter", "OUTPUT", goes(), "SYN")]]
# What is lost of one pod's connection, on either side of conntrack, must not take the next one's port.
LOSSES = [("SYN", "-t mangle -A POSTROUTING -s 10.0.0.5 -p tcp --syn"),
          ("SYN/ACK", "-A FORWARD -d 10.0.0.5 -p tcp --tcp-flags SYN SYN"),
          ("ACK", "-t raw -A PREROUTING -s 10.0.0.5 -p tcp ! --syn"),
          ("ACK", "-A FORWARD -s 10.0.0.5 -p tcp --tcp-flags SYN,ACK,PSH ACK"),
          ("data", "-t raw -A PREROUTING -s 10.0.0.5 -p tcp --tcp-flags PSH PSH"),
          ("answer", "-A FORWARD -d 10.0.0.5 -p tcp --tcp-flags PSH PSH"),
          ("close", "-t raw -A PREROUTING -s 10.0.0.5 -p tcp --tcp-flags FIN FIN"),
          ("close", "-A FORWARD -d 10.0.0.5 -p tcp --tcp-flags FIN FIN")]
IPTABLES = [
    *[(f"nothing stays of what was lost: {packet}: {rule}",
       f"{{I}} -t nat -A POSTROUTING -o eth1 -j MASQUERADE; {{I}} {rule} -j DROP",
       [(gate(client=5), dict(result="lost", packet=packet, is_rule=True)), (gate(client=6), passed(moved=False)),
        (goes(), passed(moved=False))]) for packet, rule in LOSSES],
    ("ct state invalid drop",
     SYN_IS_UNTRACKED + "{I} -A FORWARD -m conntrack --ctstate INVALID -j DROP",
     [(gate(), lost("SYN/ACK", "{I} -t filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
                    table="filter", chain="FORWARD"))]),
    ("some of the services only", "{I} -A FORWARD -p tcp --dport 60001 -m comment --comment 'not \"it\" -j X' -j DROP",
     [(gate(60001), lost("SYN", '{I} -t filter -A FORWARD -p tcp -m tcp --dport 60001 -m comment '
                                '--comment "not \\"it\\" -j X" -j DROP', comment='not "it" -j X')),
      (gate(5432), passed(out="eth1", seen_from="10.0.0.5", seen_to="10.0.1.9", seen_sport=61001,
                          seen_dport=5432)),
      (gate(60001, six=True), passed())]),
    ("some of the source ports only", "{I} -A FORWARD -p tcp --sport 61500:61600 -j DROP",
     [(gate(sport=61001), passed()),
      (gate(sport=61550), lost("SYN", "{I} -t filter -A FORWARD -p tcp -m tcp --sport 61500:61600 -j DROP"))]),
    ("a chain of somebody's",
     "{I} -N mine; {I} -A FORWARD -j mine; {I} -A mine -p tcp --dport 1 -j ACCEPT; {I} -A mine -j DROP",
     [(gate(), lost("SYN", "{I} -t filter -A mine -j DROP", chain="mine"))]),
    *[(f"{table} {chain}", f"{{I}} -t {table} -A {chain} -p tcp --dport 5432 -j DROP",
       [(line, lost(packet, f"{{I}} -t {table} -A {chain} -p tcp -m tcp --dport 5432 -j DROP",
                    table=table, chain=chain, backend="{I}", is_rule=True))])
      for table, chain, line, packet in DROPS],
    ("IPv6", "{J} -A FORWARD -p tcp --dport 60001 -j DROP; {J} -P OUTPUT DROP",
     [(gate(60001, six=True), lost("SYN", "{J} -t filter -A FORWARD -p tcp -m tcp --dport 60001 -j DROP")),
      (gate(six=True), passed(out="eth1", seen_from="fd00::5", seen_to="fd00:1::9")),
      (gate(60001), passed()),
      (goes(six=True), lost("SYN", "{J} -t filter -P OUTPUT DROP")),
      (comes(six=True), lost("SYN/ACK", "{J} -t filter -P OUTPUT DROP"))]),
    ("OUTPUT policy DROP", "{I} -P OUTPUT DROP",
     [(gate(), passed()), (goes(), lost("SYN", "{I} -t filter -P OUTPUT DROP", chain="OUTPUT")),
      (comes(), lost("SYN/ACK", "{I} -t filter -P OUTPUT DROP", arrived=True, out=""))]),
    ("accepts the services but not the answers",
     "{I} -P FORWARD DROP; {I} -A FORWARD -p tcp --dport 5432 -j ACCEPT",
     [(gate(), lost("SYN/ACK", "{I} -t filter -P FORWARD DROP", out="eth1"))]),
    ("INPUT accepts the pods but not the nodes",
     "{I} -P INPUT DROP; {I} -A INPUT -s 10.0.0.5 -j ACCEPT",
     [(comes(client=5), passed(out="", arrived=True)),
      (comes(client=6), lost("SYN", "{I} -t filter -P INPUT DROP"))]),
    ("CT --notrack", "{I} -t raw -A PREROUTING -p tcp -j CT --notrack; {I} -P FORWARD DROP\n"
     "{I} -A FORWARD -p tcp --dport 5432 -j ACCEPT; {I} -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
     [(gate(), lost("SYN/ACK", "{I} -t filter -P FORWARD DROP"))]),
    ("CT --notrack and --state UNTRACKED",
     "{I} -t raw -A PREROUTING -p tcp -j CT --notrack; {I} -P FORWARD DROP\n"
     "{I} -A FORWARD -p tcp --dport 5432 -j ACCEPT\n"
     "{I} -A FORWARD -m state --state RELATED,ESTABLISHED,UNTRACKED -j ACCEPT",
     [(gate(), passed())]),
    ("CT --notrack of the answers to what is masqueraded",
     "{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE; {I} -t raw -A PREROUTING -i eth1 -j CT --notrack",
     [(gate(), refused("SYN/ACK", "{I} -t raw -A PREROUTING -i eth1 -j CT --notrack")), (goes(), passed())]),
    ("a mark that leads nowhere",
     "{I} -t mangle -A PREROUTING -p tcp -j MARK --set-mark 7; ip rule add fwmark 7 lookup 77\n"
     "ip route add table 77 unreachable default",
     [(gate(), refused("SYN", "{I} -t mangle -A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xffffffff"))]),
    ("only handshakes", "{I} -A FORWARD -p tcp --tcp-flags PSH PSH -i eth1 -j DROP",
     [(gate(), lost("answer", "{I} -t filter -A FORWARD -i eth1 -p tcp -m tcp --tcp-flags PSH PSH -j DROP"))]),
    ("no ACK", "{I} -A FORWARD -p tcp --tcp-flags ACK,SYN,PSH ACK -i eth0 -j DROP",
     [(gate(), lost("ACK", "{I} -t filter -A FORWARD -i eth0 -p tcp -m tcp --tcp-flags SYN,PSH,ACK ACK -j DROP"))]),
    ("no data", "{I} -A INPUT -p tcp --tcp-flags PSH PSH -j DROP; {I} -A FORWARD -p tcp --tcp-flags PSH PSH -j DROP",
     [(gate(), lost("data", "{I} -t filter -A FORWARD -p tcp -m tcp --tcp-flags PSH PSH -j DROP")),
      (comes(), lost("data", "{I} -t filter -A INPUT -p tcp -m tcp --tcp-flags PSH PSH -j DROP", arrived=True)),
      (goes(), lost("answer", "{I} -t filter -A INPUT -p tcp -m tcp --tcp-flags PSH PSH -j DROP", out="eth1"))]),
    ("no end", "{I} -A FORWARD -p tcp --tcp-flags FIN FIN -j DROP",
     [(gate(), lost("close", "{I} -t filter -A FORWARD -p tcp -m tcp --tcp-flags FIN FIN -j DROP"))]),
    ("REJECT", "{I} -A FORWARD -p tcp --dport 1 -j REJECT --reject-with tcp-reset\n"
     "{I} -A FORWARD -p tcp --dport 2 -j REJECT; {I} -A INPUT -p tcp --dport 3 -j REJECT --reject-with tcp-reset\n"
     "{I} -A OUTPUT -p tcp --dport 4 -j REJECT; {I} -A FORWARD -p tcp --sport 5 -j REJECT --reject-with tcp-reset",
     [(gate(1), refused("SYN", "{I} -t filter -A FORWARD -p tcp -m tcp --dport 1 -j REJECT --reject-with tcp-reset")),
      (gate(2), refused("SYN", "{I} -t filter -A FORWARD -p tcp -m tcp --dport 2 -j REJECT "
                               "--reject-with icmp-port-unreachable")),
      (comes(3), refused("SYN", "{I} -t filter -A INPUT -p tcp -m tcp --dport 3 -j REJECT --reject-with tcp-reset")),
      (goes(4), refused("SYN", "{I} -t filter -A OUTPUT -p tcp -m tcp --dport 4 -j REJECT "
                               "--reject-with icmp-port-unreachable")),
      (gate(5), refused("SYN/ACK", "{I} -t filter -A FORWARD -p tcp -m tcp --sport 5 -j REJECT "
                                   "--reject-with tcp-reset", out="eth1"))]),
    ("REDIRECT", "{I} -t nat -A PREROUTING -p tcp --dport 60001 -j REDIRECT --to-ports 8080",
     [(gate(60001), refused("SYN", "{I} -t nat -A PREROUTING -p tcp -m tcp --dport 60001 -j REDIRECT --to-ports 8080")),
      (gate(5432), passed()), (goes(60001), passed())]),
    ("DNAT", "{I} -t nat -A PREROUTING -p tcp --dport 60001 -j DNAT --to-destination 10.0.1.77:7777",
     [(gate(60001), passed(seen_to="10.0.1.77", seen_dport=7777, out="eth1",
                           rule="{I} -t nat -A PREROUTING -p tcp -m tcp --dport 60001 -j DNAT "
                                "--to-destination 10.0.1.77:7777")),
      (comes(60001), passed(seen_to="10.0.1.77", out="eth1")),
      (comes(5432), passed(seen_to="10.0.0.1", out=""))]),
    ("MASQUERADE --random-fully", "{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE --random-fully",
     [(gate(), passed(seen_from="10.0.1.1", moved=True, out="eth1",
                      rule="{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE --random-fully"))]),
    ("MASQUERADE and two pods", "{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE",
     [(gate(client=5, group=1), passed(seen_from="10.0.1.1", moved=False)),
      (gate(client=6, group=1), passed(seen_from="10.0.1.1", moved=True,
                                       rule="{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE")),
      (gate(client=7, group=2), passed(moved=False)), (gate(client=8), passed(moved=False)),
      (gate(client=8, to=8), passed(moved=False)), (gate(client=9), passed(moved=False)),
      (goes(), passed(moved=False))]),
    ("SNAT to other ports", "{I} -t nat -A POSTROUTING -p tcp -o eth1 -j SNAT --to-source 10.0.1.50:3000-3010",
     [(gate(), passed(seen_from="10.0.1.50", moved=True,
                      rule="{I} -t nat -A POSTROUTING -o eth1 -p tcp -j SNAT --to-source 10.0.1.50:3000-3010"))]),
    ("services that share a backend",
     "{I} -t nat -A PREROUTING -p tcp --dport 80:90 -j DNAT --to-destination 10.0.1.77:7777\n"
     "{I} -t nat -A POSTROUTING -o eth1 -j MASQUERADE",
     [(gate(80), passed(seen_to="10.0.1.77", seen_sport=61001)),
      (gate(81), passed(seen_to="10.0.1.77", seen_sport=61001)),
      (gate(82, client=6), passed(seen_to="10.0.1.77", seen_sport=61001))]),
]


def chain(name, hook, rules, priority=0, policy="accept", kind="filter", table="inet x"):
    return (f"nft -f - <<'END'\ntable {table} {{\nchain {name} {{\n"
            f"type {kind} hook {hook} priority {priority}; policy {policy};\n" + "\n".join(rules) +
            "\n}\n}\nEND\n")


NOTRACK = chain("untracked", "prerouting", ['iifname "eth0" tcp flags & (syn | ack) == syn notrack'], -300)
STATES = "ct state vmap { invalid : drop, established : accept, related : accept }"
NFT = [
    ("ct state invalid drop", NOTRACK + chain("y", "forward", ["ct state invalid drop"]),
     [(gate(), lost("SYN/ACK", "nft table inet x, chain y: ct state invalid drop", table="x", chain="y",
                    backend="nft", is_rule=True)),
      (gate(six=True), lost("SYN/ACK", "nft table inet x, chain y: ct state invalid drop")),
      (goes(), passed())]),
    ("some of the services only", chain("y", "forward", ['tcp dport { 60001, 60003 } counter drop comment "not it"']),
     [(gate(60001), dict(result="lost", packet="SYN", comment="not it")), (gate(60002), passed()),
      (gate(60003, six=True), dict(result="lost", packet="SYN", comment="not it", chain="y"))]),
    ("ct state vmap, then drop", chain("y", "forward", [STATES, "drop"]),
     [(gate(), lost("SYN", "nft table inet x, chain y: drop"))]),
    ("ct state vmap, then policy drop",
     chain("y", "forward", [STATES, "tcp dport 5432 accept"], policy="drop"),
     [(gate(5432), passed()), (gate(60001), lost("SYN", "nft table inet x, chain y: policy drop", chain="y"))]),
    ("ct state vmap drops what is invalid", NOTRACK + chain("y", "forward", [STATES]),
     [(gate(), lost("SYN/ACK", f"nft table inet x, chain y: {STATES}"))]),
    ("iifname vmap", "nft add table inet x; nft add chain inet x others; nft add rule inet x others tcp dport 60001 drop\n" +
     chain("y", "forward", ['iifname vmap { "eth0" : jump others, "eth1" : accept }']),
     [(gate(60001), lost("SYN", "nft table inet x, chain others: tcp dport 60001 drop", chain="others")),
      (gate(5432), passed())]),
    *[(f"{hook} {priority}", chain("y", hook, ["tcp dport 5432 drop"], priority),
       [(line, lost("SYN", "nft table inet x, chain y: tcp dport 5432 drop"))])
      for hook, priority, line in [("prerouting", -300, gate()), ("prerouting", -2000, gate()),
                                   ("postrouting", 300, gate()),
                                   ("input", 0, comes()), ("output", -300, goes()), ("output", 0, goes())]],
    ("output policy drop", chain("y", "output", [], policy="drop"),
     [(goes(), lost("SYN", "nft table inet x, chain y: policy drop")),
      (comes(), lost("SYN/ACK", "nft table inet x, chain y: policy drop")), (gate(), passed())]),
    ("netdev ingress", chain("y", 'ingress device "eth0"', ["tcp dport 60001 drop"], table="netdev x"),
     [(gate(60001), lost("SYN", "nft table netdev x, chain y: tcp dport 60001 drop")), (gate(), passed()),
      (gate(60001, six=True), lost("SYN", "nft table netdev x, chain y: tcp dport 60001 drop"))]),
    ("netdev ingress of the answers",
     chain("y", 'ingress device "eth1"', ["tcp sport 60001 drop"], table="netdev x", priority=-500),
     [(gate(60001), lost("SYN/ACK", "nft table netdev x, chain y: tcp sport 60001 drop"))]),
    ("netdev egress", chain("y", 'egress device "eth1"', ["tcp dport 60001 drop"], table="netdev x"),
     [(gate(60001), lost("SYN", "nft table netdev x, chain y: tcp dport 60001 drop")), (comes(60001), passed()),
      (goes(60001), lost("SYN", "nft table netdev x, chain y: tcp dport 60001 drop"))]),
    ("accepts the services but not the answers", chain("y", "forward", ["tcp dport 5432 accept"], policy="drop"),
     [(gate(), lost("SYN/ACK", "nft table inet x, chain y: policy drop"))]),
    ("reject", chain("y", "forward", ["tcp dport 1 reject with tcp reset", "tcp dport 2 reject"]),
     [(gate(1), refused("SYN", "nft table inet x, chain y: tcp dport 1 reject with tcp reset")),
      (gate(1, six=True), refused("SYN", "nft table inet x, chain y: tcp dport 1 reject with tcp reset")),
      (gate(2), dict(result="refused", packet="SYN", chain="y")),
      (gate(2, six=True), dict(result="refused", packet="SYN", chain="y"))]),
    ("redirect and dnat",
     chain("y", "prerouting", ["tcp dport 60001 redirect to :8080", "tcp dport 60002 dnat to 10.0.1.77"], -100, kind="nat",
           table="ip x"),
     [(gate(60001), refused("SYN", "nft table ip x, chain y: tcp dport 60001 redirect to :8080")),
      (gate(60002), passed(seen_to="10.0.1.77", rule="nft table ip x, chain y: tcp dport 60002 dnat to 10.0.1.77"))]),
    ("masquerade fully-random", chain("y", "postrouting", ['oifname "eth1" masquerade fully-random'], 100, kind="nat"),
     [(gate(), passed(moved=True, rule='nft table inet x, chain y: oifname "eth1" masquerade fully-random')),
      (gate(six=True), passed(moved=True, seen_from="fd00:1::1"))]),
    ("masquerade and two pods", chain("y", "postrouting", ['oifname "eth1" masquerade'], 100, kind="nat"),
     [(gate(client=5, group=3), passed(moved=False)),
      (gate(client=6, group=3), passed(moved=True, rule='nft table inet x, chain y: oifname "eth1" masquerade')),
      (gate(client=7), passed(moved=False))]),
    ("beside iptables",
     "iptables-nft -A FORWARD -p tcp --dport 1 -j DROP; iptables-legacy -A FORWARD -p tcp --dport 2 -j DROP\n" +
     chain("FORWARD", "forward", ["tcp dport 3 drop"], table="ip mine"),
     [(gate(1), lost("SYN", "iptables-nft -t filter -A FORWARD -p tcp -m tcp --dport 1 -j DROP")),
      (gate(2), lost("SYN", "iptables-legacy -t filter -A FORWARD -p tcp -m tcp --dport 2 -j DROP")),
      (gate(3), lost("SYN", "nft table ip mine, chain FORWARD: tcp dport 3 drop")), (gate(4), passed())]),
]

FAR = "eth0 10.0.0.5 61001 99.0.0.9 5432 0"
KERNEL = [
    ("no rules", "", [
        (gate(), passed(out="eth1")), (gate(six=True), passed(out="eth1")), (comes(), passed(out="", arrived=True)),
        (comes(six=True), passed(out="")), (goes(), passed(out="eth1", seen_from="10.0.1.1", seen_sport=61001)),
        (goes(six=True), passed(out="eth1")), (gate(group=1), passed()), (gate(client=6, group=1), passed()),
        ("eth7 10.0.0.5 61001 10.0.1.9 5432 0", dict(result="not played")),
        ("- 10.0.9.9 61001 10.0.1.9 5432 0", dict(result="not played")),
        ("- 10.0.0.1 61001 10.0.1.1 5432 0", dict(result="not played")),
        ("eth0 10.0.0.5 61001 fd00:1::9 5432 0", dict(result="not played"))]),
    ("rp_filter", "set_to ipv4/conf/eth0/rp_filter 1",
     [("eth0 10.0.1.5 61001 10.0.1.9 5432 0", lost("SYN", "rp_filter of eth0", is_rule=False)), (gate(), passed())]),
    ("rp_filter of the answers", "set_to ipv4/conf/eth1/rp_filter 1\nip route add 99.0.0.0/24 dev eth0\n"
     "ip rule add fwmark 1 lookup 99\nip route add 99.0.0.0/24 dev eth1 table 99\n"
     "iptables -t mangle -A PREROUTING -i eth0 -j MARK --set-mark 1",
     [(FAR, lost("SYN/ACK", "rp_filter of eth1", out="eth1"))]),
    ("no route", "", [
        (FAR, refused("SYN", "no route to 99.0.0.9 from 10.0.0.5 by eth0: Network is unreachable")),
        ("eth0 fd00:0::5 61001 fd99::9 5432 0",
         refused("SYN", "no route to fd99::9 from fd00::5 by eth0: Network is unreachable")),
        ("- 10.0.1.1 61001 99.0.0.9 5432 0",
         refused("SYN", "no route to 99.0.0.9 from 10.0.1.1: Network is unreachable"))]),
    ("a blackhole and a prohibition", "ip route add blackhole 99.0.0.9; ip route add prohibit 99.0.0.8",
     [(FAR, lost("SYN", "no route to 99.0.0.9 from 10.0.0.5 by eth0: Invalid argument")),
      (FAR.replace("0.9", "0.8"), refused("SYN", "no route to 99.0.0.8 from 10.0.0.5 by eth0: Permission denied"))]),
    ("no way back", "ip route add blackhole 10.0.0.5",
     [(gate(), lost("SYN/ACK", "no route to 10.0.0.5 from 10.0.1.9 by eth1: Invalid argument"))]),
    ("forwarding is off", "set_to ipv4/ip_forward 0\nset_to ipv6/conf/all/forwarding 0",
     [(gate(), lost("SYN", "forwarding is off on eth0")), (gate(six=True), lost("SYN", "forwarding is off on eth0")),
      (comes(), passed()), (goes(), passed())]),
    ("many at once", "iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE",
     [(gate(port=p, sport=61001 + s, client=c), passed(moved=False))
      for p in range(5001, 5006) for s in range(10) for c in (5, 6, 7)] +
     [(line(port=p, sport=61001 + s), passed(moved=False))
      for p in range(5001, 5006) for s in range(10) for line in (comes, goes)]),
    ("many that are lost", "iptables -A FORWARD -p tcp --dport 5001:5099 -j DROP",
     [(gate(port=p), lost("SYN", "iptables-nft -t filter -A FORWARD -p tcp -m tcp --dport 5001:5099 -j DROP")
       if p < 5100 else passed()) for p in range(5095, 5106)]),
]


def complaints(line, want, got, names):
    """What is not as it must be."""
    blame = got.get("blame") or {}
    seen = {**blame, **got, "moved": got["arrived"] and got["seen_sport"] != int(line.split()[2])}
    for key, value in want.items():
        value = value.format(**names) if isinstance(value, str) and "{I}" in value or "{J}" in str(value) else value
        if seen.get(key) != value:
            yield f"{key} is {seen.get(key)!r}, not {value!r}"


def case(name, setup, plays, names):
    try:
        for key, value in names.items():
            setup = setup.replace(f"{{{key}}}", value)
        results = play(setup, [line for line, _ in plays])
    except RuntimeError as error:
        return name, [str(error)]
    return name, [f"{line}: {text}" for (line, want), got in zip(plays, results)
                  for text in complaints(line, want, got, names)]


def main():
    tap = fptest.Tap()
    if os.geteuid() or not fptest.can_make_netns():
        tap.cannot("connections through a twin", "network namespaces cannot be made here")
        tap.end()
    cases = [(f"{backend}: {name}", setup, plays, {"I": f"iptables-{backend}", "J": f"ip6tables-{backend}"})
             for backend in ("nft", "legacy") for name, setup, plays in IPTABLES]
    cases += [(f"nft rules: {name}", setup, plays, {}) for name, setup, plays in NFT]
    cases += [(name, setup, plays, {}) for name, setup, plays in KERNEL]
    cases = [one for one in cases if all(word in one[0] for word in sys.argv[1:])]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for name, wrong in pool.map(lambda one: case(*one), cases):
            tap.point(not wrong, name, *wrong)
    tap.end()


if __name__ == "__main__":
    main()
