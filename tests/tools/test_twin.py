#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The twin of a machine: what is in it is what the machine has, the machine is the same afterwards,
and whatever ends it, nothing of it stays. Each machine is a network namespace of its own.

    FIXPORT_BUILD=build tests/tools/test_twin.py [WORD...]   only the tests with WORD in their name
"""

import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SETUP = os.path.join(fptest.BUILD, "tools", "fixport-setup")
TAP = fptest.Tap()

COMMON = """
set -e
pair() {
    ip link add name "$1" type veth peer name "$1-end"
    for end in "$1" "$1-end"; do ip link set dev "$end" addrgenmode none; done
    ip link set dev "$1-end" up
    ip link set dev "$1" up
}
export XTABLES_LOCKFILE=/proc/self/ns/net  # not the machine's lock
ip link set lo up
"""

NETWORK = """
pair eth0; pair eth1
ip link add name br0 type bridge
ip link set br0 addrgenmode none
ip link set br0 up
ip link add name off type veth peer name off-end
ip link set off mtu 1300 group 7
pair dark; ip link set dark-end down
ip address add 192.168.31.17/24 brd + dev eth0
ip address add 192.168.31.18/24 dev eth0
ip address add 192.168.32.17/24 dev eth0 metric 50 noprefixroute
ip address add 10.0.0.1 peer 10.0.0.2/32 dev eth1
ip address add 172.17.0.1/16 dev br0
ip address add 172.18.0.1/16 dev dark
ip address add 10.96.0.10/32 dev lo
ip address add 169.254.7.7/16 scope link dev eth1
for n in 1 2 3; do ip address add fd00:31::$n/64 dev eth0 nodad; done
ip address add fd00:31::9/64 dev eth0 nodad preferred_lft 0
ip address add fe80::17/64 dev eth0 nodad
ip address add fd00:32::1/64 dev eth1 nodad noprefixroute
"""

ROUTING = """
ip route add default via 192.168.31.1 dev eth0
ip route add default via 192.168.31.2 dev eth0 metric 600 proto dhcp
ip route add 10.200.0.0/16 via 192.168.31.45 dev eth0 src 192.168.31.18 mtu 1400 proto 161
ip route add 10.201.0.0/16 nexthop via 192.168.31.3 dev eth0 weight 2 nexthop via 10.0.0.2 dev eth1
ip route add 10.202.0.0/16 via 1.2.3.4 dev eth1 onlink
ip route add 10.203.0.0/16 via inet6 fe80::1 dev eth0
ip route add blackhole 10.204.0.0/16
ip route add unreachable 10.205.0.0/16 metric 4278198272
ip route add prohibit 10.206.0.0/16 table 100
ip route add throw 10.207.0.0/16 table 100
ip route add default dev eth1 table 4000000
ip route add local 10.208.0.0/16 dev lo
ip route add 10.209.0.0/16 dev eth0 tos 0x10
ip route del 172.17.0.0/16 dev br0
ip route del 10.0.0.2 dev eth1
ip nexthop add id 5 via 192.168.31.2 dev eth0
ip nexthop add id 6 dev eth1
ip nexthop add id 3 group 5/6,3
ip nexthop add id 8 blackhole
ip route add 10.210.0.0/16 nhid 3
ip route add 10.211.0.0/16 nhid 5 table 7
ip -6 route add default via fd00:31::ff dev eth0 expires 600
ip -6 route add fd00:200::/64 via fe80::1 dev eth0 metric 5 src fd00:31::2
ip -6 route add fd00:201::/64 nexthop via fd00:31::a dev eth0 nexthop via fd00:31::b dev eth0
ip -6 route add unreachable fd00:202::/64
ip -6 route add blackhole default table 100 metric 1
ip -6 route add fd00:203::/64 dev eth1 pref high
ip -6 route add local fd00:204::/64 dev lo
ip -6 route del fe80::/64 dev eth0
ip -6 route del fd00:31::/64 dev eth0
ip -6 route add fd00:31::/64 dev eth0 metric 256 proto ra
ip rule add pref 5 goto 2000
ip rule add pref 100 lookup local
ip rule del pref 0
ip rule add pref 200 fwmark 0x200/0xf00 lookup 100
ip rule add pref 200 fwmark 0x300/0xf00 lookup 4000000
ip rule add pref 201 iif eth1 ipproto tcp dport 5000-6000 sport 7 lookup 100
ip rule add pref 202 oif gone uidrange 5-6 lookup 100
ip rule add pref 203 not from 10.0.0.0/8 to 192.168.0.0/16 tos 0x10 lookup main suppress_prefixlength 0
ip rule add pref 204 from 10.9.0.0/16 prohibit
ip rule add pref 205 from 10.10.0.0/16 unreachable
ip rule add pref 206 from 10.11.0.0/16 blackhole
ip rule add pref 207 lookup 100 suppress_ifgroup 7 proto 161
ip rule add pref 2000 nop
ip -6 rule add pref 10 from fd00:9::/64 lookup 100
"""

SETTINGS = """
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=2 \
    net.ipv4.conf.eth1.forwarding=0 net.ipv6.conf.eth1.forwarding=0 net.ipv4.conf.eth0.rp_filter=1 \
    net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.eth0.accept_local=1 \
    net.ipv4.conf.eth1.route_localnet=1 net.ipv6.conf.off.disable_ipv6=1 \
    net.ipv4.ip_local_port_range="20000 30000" net.ipv4.ip_local_reserved_ports=22000-22999 \
    net.ipv4.tcp_timestamps=0 net.ipv4.fib_multipath_hash_policy=1
iptables-nft -A INPUT -m conntrack --ctstate INVALID -j DROP
sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1 \
    net.netfilter.nf_conntrack_tcp_timeout_established=77
"""

ALL_OFF = """
sysctl -qw net.ipv6.conf.all.disable_ipv6=1
sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0
ip address add fd00:77::1/64 dev eth0 nodad
"""

RULES = """
ipset create people hash:net
ipset add people 10.1.0.0/16
ipset create banned hash:ip timeout 9000
ipset add banned 10.66.0.1
ipset create both list:set
ipset add both people
nft -f - <<END
table ip nat {
 chain mine {
  type nat hook prerouting priority dstnat; policy accept;
  tcp dport { 80, 443 } dnat to ip saddr map { 10.0.0.1 : 10.0.0.2, 10.0.0.3 : 10.0.0.4 }
 }
}
END
iptables-nft -P FORWARD DROP
iptables-nft -N THEIRS
iptables-nft -A FORWARD -m set --match-set people src -m comment --comment 'say "-m owner" to all' -j THEIRS
iptables-nft -A THEIRS -m set ! --match-set both dst -p tcp -m multiport --dports 1,2,5:9 -j REJECT
iptables-nft -t raw -A PREROUTING -p udp -j CT --notrack
ip6tables-nft -t nat -A POSTROUTING -s fd00::/16 -j MASQUERADE --random-fully
iptables-legacy -t mangle -A PREROUTING -i eth0 -j MARK --set-xmark 0x3/0xff
iptables-legacy -A INPUT -m set --match-set banned src -j DROP
ip6tables-legacy -P FORWARD DROP
nft -f - <<END
table inet fw {
 set v4 {
  type ipv4_addr
  flags interval
  elements = { 10.0.0.0/8, 192.168.0.1-192.168.0.9 }
 }
 set seen {
  type ipv4_addr . inet_service
  flags dynamic,timeout
  timeout 1h
 }
 map ports {
  type inet_service : verdict
  elements = { 22 : accept, 23 : jump slow }
 }
 counter c { }
 chain slow {
  limit rate 5/second accept
 }
 chain in {
  type filter hook input priority -5; policy drop;
  ct state vmap { established : accept, related : accept, invalid : drop }
  tcp dport vmap @ports
  iifname "br*" ip saddr @v4 counter name c accept comment "quoted; { odd"
  fib daddr type local accept
 }
}
table inet asleep {
 flags dormant
 chain in {
  type filter hook input priority 0; policy drop;
 }
}
table netdev early {
 chain e0 {
  type filter hook ingress device "eth0" priority -500; policy accept;
  ip saddr 6.6.6.6 drop
 }
}
table arp a {
 chain out {
  type filter hook output priority 0; policy accept;
 }
}
END
"""

# What is asked, in the machine and in the twin. What differs by design is taken out: the kernel's
# own words for a carrier, NOARP, how link-local addresses are made.
STATE = {
    "interfaces": "ip -j link show",
    "addresses": "ip -j -d address show",
    "routes": "ip -d route show table all",
    "IPv6 routes": "ip -6 -d route show table all",
    "nexthops": "ip -d nexthop show",
    "rules of policy routing": "ip -d rule; ip -6 -d rule",
    "settings": "sysctl -a 2>/dev/null | grep '^net[.]'",
    "iptables-nft": "iptables-nft-save 2>&1; ip6tables-nft-save 2>&1",
    "iptables-legacy": "for f in '' 6; do for t in $(sort /proc/net/ip${f}_tables_names); do "
                       "ip${f}tables-legacy-save -t $t; done; done",
    "nft": "nft list tables; for t in 'inet fw' 'inet asleep' 'netdev early' 'arp a' 'ip nat'; do "
           "nft -s list table $t 2>&1; done",
    "ipsets": "ipset save",
}
LEFT_OUT = re.compile(r"addr_gen_mode|stable_secret|\.neigh\.|nf_conntrack_count|fastopen_key|random|"
                      r"net\.core|net\.unix|net\.mptcp|nf_conntrack_buckets")


def plain(what, text):
    """What of an answer must be the same."""
    if what == "interfaces":
        return sorted((link["ifindex"], link["ifname"], link["mtu"], link["group"], link["address"],
                       "UP" in link["flags"], "LOWER_UP" in link["flags"]) for link in json.loads(text))
    if what == "addresses":
        keys = ("family", "local", "address", "prefixlen", "broadcast", "scope", "metric", "noprefixroute",
                "deprecated")
        return [(link["ifname"], [tuple(a.get(key) for key in keys) for a in link["addr_info"]])
                for link in json.loads(text)]
    # That there is no carrier, a route says a moment later than its interface.
    lines = [re.sub(r" linkdown| expires \S+| timeout \d+|\[\d+:\d+\]", "", line).strip()
             for line in text.splitlines()
             if line and not line.startswith("# Generated") and not line.startswith("# Completed")]
    if what == "settings":
        return sorted(line for line in lines if not LEFT_OUT.search(line))
    return lines if "rules" in what or "nft" in what or "legacy" in what else sorted(lines)


def members(space):
    """The processes in a network namespace."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == space:
                found.append(int(pid))
        except OSError:
            pass
    return found


class Machine:
    """A network (and mount) namespace in which a script has been run."""

    def __init__(self, script, *unshare):
        self.enter = ["--net", "--mount", *unshare]
        self.holder = subprocess.Popen(["unshare", *self.enter, "sh", "-c",
                                        "echo here; exec sleep infinity"], stdout=subprocess.PIPE, text=True)
        self.holder.stdout.readline()
        made = self.run("sh", "-c", COMMON + script)
        if made.returncode:
            self.__exit__()
            raise RuntimeError(f"{script}\n{made.stderr}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in members(os.readlink(f"/proc/{self.holder.pid}/ns/net")):
            os.kill(pid, signal.SIGKILL)
        self.holder.communicate()

    def command(self, *argv):
        return ["nsenter", "-t", str(self.holder.pid), *self.enter, *argv]

    def run(self, *argv):
        return subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, timeout=60)

    def twin(self, *argv):
        return self.run(SETUP, "twin", *argv)

    def states(self, *before):
        """All of STATE, by one run."""
        script = "\n".join(f"echo '@@ {name}'; {{ {line}; }}" for name, line in STATE.items())
        result = self.run(*before, "sh", "-c", script)
        parts = dict(part.split("\n", 1) for part in result.stdout.split("@@ ")[1:])
        return {name: plain(name, parts[name]) for name in STATE}, result.stderr


def differences(got, expected):
    """A few lines that tell two states apart."""
    return ([f"only in the twin: {line}" for line in got if line not in expected][:8]
            + [f"only on the machine: {line}" for line in expected if line not in got][:8])


def modules():
    if not os.path.exists("/proc/modules"):
        return set()
    with open("/proc/modules", encoding="ascii") as file:
        return {line.split()[0] for line in file} | {"veth"}


def same(after, before, name):
    differ = [f"{what}, {sign}: {line}" for what in STATE for sign, some, others in
              (("new", after[what], before[what]), ("gone", before[what], after[what]))
              for line in some if line not in others]
    TAP.equal(differ, [], name)


def compare(machine, name, before=("twin",)):
    """That the twin is as the machine, and the machine as before."""
    here, _ = machine.states()
    loaded = modules()
    there, errors = machine.states(SETUP, *before)
    again, _ = machine.states()
    for what in STATE:
        TAP.point(there[what] == here[what] and (here[what] or what in ("nexthops", "ipsets", "nft", "iptables-nft",
                                                                        "iptables-legacy")),
                  f"{name}: its {what}", *differences(there[what], here[what]))
    same(again, here, f"{name}: the machine is unchanged")
    TAP.equal(sorted(modules() - loaded), [], f"{name}: no module was loaded but veth")
    return errors


def point(good, name, *diagnostics):
    TAP.point(good, name, *([] if good else diagnostics))


def notes(text, cgroups=False):
    """cgroups: also what concerns the programs that are really on this machine's."""
    return [line for line in text.splitlines()
            if line.startswith("note: ") and (cgroups or "of the cgroups" not in line)]


def others(told):
    """What RULES has of a rate and of ARP is to be noted, once for each twin."""
    due = ("note: rules that count packets by time", "note: tables for bridges and ARP")
    kept = [line for line in told if not line.startswith(due)]
    return kept if len(told) - len(kept) in (2, 4) else [f"{len(told) - len(kept)} of those due"]


def test_network():
    with Machine(NETWORK + ROUTING + SETTINGS) as machine:
        TAP.equal(notes(compare(machine, "network")), [], "network: without a note")
    with Machine(NETWORK + ALL_OFF) as machine:
        TAP.equal(notes(compare(machine, "IPv6 off but for one interface")), [],
                  "IPv6 off but for one interface: without a note")


def test_rules():
    with Machine(NETWORK + RULES) as machine:
        errors = compare(machine, "rules")
        TAP.equal(others(notes(errors)), [], "rules: without a note but those that are due")


def test_order():
    """Of two chains with one priority the one that was made later is the first."""
    for order in (("nft", "iptables"), ("iptables", "nft")):
        make = {"nft": "nft 'add table ip own; add chain ip own post "
                       "{ type nat hook postrouting priority srcnat; }'\n",
                "iptables": "iptables-nft -t nat -A POSTROUTING -j ACCEPT\n"}
        with Machine(make[order[0]] + make[order[1]]) as machine:
            TAP.equal(machine.twin("nft", "list", "tables").stdout, machine.run("nft", "list", "tables").stdout,
                      f"order: {' before '.join(order)}")


def test_mixed():
    """A table of iptables' with a chain of nft's in it, and both kinds of iptables with NAT."""
    script = """
iptables-nft -A INPUT -p tcp --dport 5 -j DROP
nft 'add chain ip filter own { type filter hook input priority 5; }; add rule ip filter own tcp dport 7 drop'
"""
    with Machine(script) as machine:
        ask = ("nft", "list", "table", "ip", "filter")
        there = machine.twin(*ask)
        TAP.equal((there.stdout, notes(there.stderr)), (machine.run(*ask).stdout, []),
                  "mixed: nft's chain in iptables' table")
    with Machine("iptables-legacy -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 5\n"
                 "iptables-nft -t nat -A POSTROUTING -j MASQUERADE\n") as machine:
        told = notes(machine.twin("true").stderr)
        point(len(told) == 1 and "both iptables-legacy and nf_tables" in told[0], "mixed: two that translate", *told)


def test_vrf():
    script = """
pair eth0
ip link add name red type vrf table 77
ip link set red up
ip link set eth0 master red
ip address add 10.7.0.1/24 dev eth0
ip route add default via 10.7.0.2 table 77
ip rule add pref 2000 l3mdev
ip rule del pref 1000
"""
    if subprocess.run(["unshare", "--net", "ip", "link", "add", "name", "v", "type", "vrf", "table", "7"],
                      capture_output=True, check=False).returncode:
        TAP.skip("vrf", "the kernel has no vrf")
        return
    with Machine(script) as machine:
        TAP.equal(notes(compare(machine, "vrf")), [], "vrf: without a note")


def test_twin_of_a_twin():
    with Machine(NETWORK + ROUTING + SETTINGS + RULES) as machine:
        TAP.equal(others(notes(compare(machine, "twin of a twin", ("twin", SETUP, "twin")))), [],
                  "twin of a twin: without a note but those that are due")


NOTED = {
    "owner": ("iptables-nft -A OUTPUT -m owner --uid-owner 5 -j DROP", "whose socket"),
    "nft's owner": ("meta skuid 5 drop", "whose socket"),
    "recent": ("iptables-nft -A INPUT -m recent --name x --set", "earlier connections"),
    "nft's connection count": ("ct count over 5 drop", "earlier connections"),
    "a set that packets fill": ("add @filled { ip saddr }", "earlier connections"),
    "physdev": ("iptables-nft -A FORWARD -m physdev --physdev-in eth0 -j DROP", "ports of a bridge"),
    "NFQUEUE": ("iptables-nft -A INPUT -j NFQUEUE", "NFQUEUE"),
    "nft's queue": ("queue num 1", "NFQUEUE"),
    "mac": ("iptables-nft -A INPUT -m mac --mac-source 02:00:00:00:00:01 -j DROP", "hardware addresses"),
    "TPROXY": ("iptables-nft -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 5", "TPROXY"),
    "chance": ("iptables-nft -A INPUT -m statistic --mode random --probability 0.5 -j DROP", "by chance"),
    "nft's chance": ("numgen random mod 2 0 drop", "by chance"),
}


def test_notes():
    for name, (rule, said) in NOTED.items():
        if not rule.startswith("iptables"):
            rule = ("nft 'add table inet t; add set inet t filled { type ipv4_addr; flags dynamic; }; "
                    f"add chain inet t c; add rule inet t c {rule}; add rule inet t c {rule} comment \"again\"'")
        try:
            machine = Machine(rule)
        except RuntimeError as error:
            why = " ".join(str(error).split())[-200:].replace("#", "")  # the kernel has no such rule
            TAP.skip(f"noted: {name}", why)
            continue
        with machine:
            told = notes(machine.twin("true").stderr)
            point(len(told) == 1 and said in told[0] and "the first is" in told[0], f"noted: {name}",
                  f"{len(told)} notes", *told)
    quiet = """
iptables-nft -N NFQUEUED
iptables-nft -A INPUT -m comment --comment '-m owner -j NFQUEUE' -j NFQUEUED
nft -f - <<'END'
table inet t {
 chain c {
  tcp dport 1 log prefix "skuid 5 queue " accept comment "numgen random"
 }
}
END
"""
    with Machine(quiet) as machine:
        TAP.equal(notes(machine.twin("true").stderr), [], "not noted: such words in comments and names")


def bpf(command, *fields):
    """bpf(2). Fields: a number (32 bits), bytes as they are, or a ctypes buffer (its address)."""
    attr = b"".join(struct.pack("=I", f) if isinstance(f, int) else f if isinstance(f, bytes)
                    else struct.pack("=Q", ctypes.addressof(f)) for f in fields).ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(321, command, ctypes.create_string_buffer(attr), 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def bpf_program(kind, name, result, attach=0):
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, result, 0x95, 0, 0, 0))
    return bpf(5, kind, 2, code, ctypes.create_string_buffer(b"MIT"), 0, 0, bytes(8), 0, 0,
               name.encode().ljust(16, b"\0"), 0, attach)


def bpf_attach(group):
    """In a machine: programs wherever packets and connections can meet them, and one of each."""
    eth0, root = socket.if_nametoindex("eth0"), os.open("/sys/fs/cgroup/unified", os.O_RDONLY)
    if os.fstat(root).st_ino != int(group):
        sys.exit("that is not the test's own cgroup")
    _held = bpf(28, bpf_program(6, "test_xdp", 2), eth0, 37, 0)
    bpf(8, eth0, bpf_program(3, "test_tcx", -1), 46, 0)
    bpf(8, root, bpf_program(18, "test_connect4", 1, 10), 10, 0)
    bpf(6, ctypes.create_string_buffer(b"/sys/fs/bpf/tc"), bpf_program(3, "test_tc", -1))
    subprocess.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"], check=True)
    subprocess.run(["tc", "filter", "add", "dev", "eth0", "egress", "bpf", "da", "object-pinned", "/sys/fs/bpf/tc"],
                   check=True)
    print("attached", flush=True)
    signal.pause()


def test_bpf():
    script = """
pair eth0
mkdir -p /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs none /sys/fs/cgroup; mkdir /sys/fs/cgroup/unified; mount -t cgroup2 none /sys/fs/cgroup/unified
"""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        tops = [line.split()[1] for line in file if " cgroup2 " in line]
    group = f"{tops[0]}/fixport-test-{os.getpid()}" if tops else None
    if not tops or os.uname().machine != "x86_64":
        TAP.cannot("BPF", "no cgroup2 here, or bpf(2) has another number")
        return
    try:
        os.mkdir(group)
    except OSError as error:
        TAP.cannot("BPF", str(error))
        return
    mine = os.path.join(tops[0], open("/proc/self/cgroup", encoding="ascii").read().split("0::/")[1].split("\n")[0])
    try:
        with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        with Machine(script, "--cgroup") as machine:
            with open(f"{mine}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            with subprocess.Popen(machine.command(sys.executable, __file__, "--bpf",
                                                  str(os.stat(group).st_ino)), stdout=subprocess.PIPE,
                                  text=True) as attached:
                attached.stdout.readline()
                told = notes(machine.twin("true").stderr, cgroups=True)
                attached.kill()
        for name, said in {"test_xdp": "XDP", "test_tcx": "tc", "test_connect4": "cgroup"}.items():
            point(any(f": {name} (program" in note and said in note for note in told), f"BPF: {name}", *told)
        point(any("(2, the first is: eth0: " in note for note in told), "BPF: tc's filter is counted", *told)
    finally:
        wait_until(lambda: not open(f"{group}/cgroup.procs", encoding="ascii").read())
        os.rmdir(group)


def wait_until(question, seconds=20):
    until = time.monotonic() + seconds
    while not question() and time.monotonic() < until:
        time.sleep(0.01)
    return question()


def test_killed():
    """Whenever it is killed: in the middle of making it, and with its command running."""
    with Machine(NETWORK + ROUTING + RULES) as machine:
        before, _ = machine.states()
        started = time.monotonic()
        machine.twin("true")
        took = time.monotonic() - started
        for part in range(8):
            with subprocess.Popen(machine.command(SETUP, "twin", "sleep", "infinity"),
                                  stderr=subprocess.DEVNULL) as twin:
                time.sleep(took * part / 8)
                twin.kill()
        TAP.point(wait_until(lambda: members(os.readlink(f"/proc/{machine.holder.pid}/ns/net")) == [machine.holder.pid]),
                  "killed while it is made: nothing goes on")
        after, _ = machine.states()
        same(after, before, "killed while it is made: the machine is unchanged")
        with subprocess.Popen(machine.command(SETUP, "twin", "sh", "-c",
                                              "readlink /proc/self/ns/net; exec sleep infinity"),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as twin:
            space = twin.stdout.readline().strip()
            twin.send_signal(signal.SIGKILL)
        TAP.point(space.startswith("net:") and wait_until(lambda: not members(space)), "killed with a command in it: the command ends, too")


def refused(name, said, *argv):
    result = subprocess.run([*argv, SETUP, "twin", "true"], capture_output=True, text=True, check=False)
    point(result.returncode == 1 and said in result.stderr and result.stderr.count("\n") == 1,
          f"refused: {name}", result.returncode, result.stderr)


def test_refused():
    refused("a container without rights", "CAP_SYS_ADMIN", "unshare", "--net", "setpriv", "--bounding-set",
            "-sys_admin", "--inh-caps", "-sys_admin")
    refused("no namespaces left", "max_net_namespaces", "unshare", "--user", "--map-root-user", "--net",
            "sh", "-c", 'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"', "sh")
    refused("no way back", "CAP_SYS_ADMIN", "unshare", "--user", "--map-root-user")
    refused("no ip(8)", "'ip' is needed here", "unshare", "--net", "--mount", "sh", "-c",
            'mount --bind /proc/version "$(readlink -f "$(command -v ip)")"; exec "$@"', "sh")


def test_surroundings():
    """What is bad there becomes a note, and the rest is there."""
    hide = 'mount --bind /proc/version "$(readlink -f "$(command -v {})")"\n'
    nft = "nft 'add table inet t; add chain inet t c; add rule inet t c drop'\n"
    cases = {
        "/proc/sys read-only": ("pair eth0; sysctl -qw net.ipv4.ip_forward=1; mount -o bind,ro /proc/sys /proc/sys",
                                "Read-only file system", "ip link show eth0", "eth0"),
        "no nft": ("iptables-nft -A INPUT -j DROP\n" + nft + hide.format("nft"), "'nft' is needed here",
                   "iptables-nft-save", "-A INPUT -j DROP"),
        "no ipset": ("ipset create s hash:ip; iptables-nft -A INPUT -m set --match-set s src -j DROP\n"
                     "iptables-nft -A INPUT -s 1.1.1.1 -j DROP\n" + hide.format("ipset"),
                     "'ipset' is needed here", "iptables-nft-save", "-A INPUT -s 1.1.1.1/32 -j DROP", 2),
        "an interface with an odd name": ("pair eth0; ip link add name 'a#b' type veth peer name 'a\"b'",
                                          "such a name", "ip link show eth0", "eth0"),
        "the network of a table's owner": (
            "exec 3<>/dev/null; mkfifo /tmp/owned.$$; sh -c 'exec nft -i </tmp/owned.'$$ >/dev/null 2>&1 & "
            "exec 4>/tmp/owned.$$; rm /tmp/owned.$$; "
            "echo 'add table inet mine { flags owner; }; add chain inet mine c; "
            "add rule inet mine c ip saddr 1.1.1.1 drop' >&4; "
            "until nft list table inet mine | grep -q 1.1.1.1; do :; done; sleep infinity <&4 >/dev/null 2>&1 &",
            None, "nft list table inet mine", "ip saddr 1.1.1.1 drop"),
    }
    for name, (script, said, ask, answer, *count) in cases.items():
        count = count[0] if count else 1
        with Machine(script) as machine:
            result = machine.twin("sh", "-c", ask)
            told = notes(result.stderr)
            point(answer in result.stdout and result.returncode == 0
                  and (not told if said is None else told and said in told[0] and len(told) == count),
                  f"surroundings: {name}", result.returncode, *told, result.stdout)


def test_command():
    with Machine("") as machine:
        TAP.equal([machine.twin(*argv).returncode for argv in (["sh", "-c", "exit 7"], ["true"], ["/nowhere"], ["/"],
                                                              ["sh", "-c", "kill -TERM $$"], [])],
                  [7, 0, 127, 126, 143, 1], "command: its exit status")
        TAP.equal(machine.twin("echo", "-e", "--json").stdout, "--json\n", "command: its options are its own")


def test_large():
    script = """
sysctl -qw net.ipv6.conf.default.addr_gen_mode=1
{ for i in $(seq 100); do echo "link add name v$i type veth peer name w$i"; done; } | ip -batch -
{ for i in $(seq 100); do
    echo "link set v$i up"; echo "link set w$i up"
    echo "address add 10.3.$i.1/24 dev v$i"; echo "address add fd00:$i::1/64 dev w$i nodad"
done; } | ip -batch -
{ echo '*filter'
  for i in $(seq 3600); do echo "-A INPUT -s 10.$((i / 250)).$((i % 250)).1/32 -p tcp --dport $i -j ACCEPT"; done
  echo COMMIT; } | iptables-nft-restore -n
"""
    with Machine(script) as machine:
        started = time.monotonic()
        machine.twin("true")
        print(f"# 200 interfaces and 3,600 rules: {time.monotonic() - started:.2f} s", flush=True)
        compare(machine, "large")


def main():
    if sys.argv[1:2] == ["--bpf"]:
        bpf_attach(sys.argv[2])
    if os.geteuid() != 0 or not fptest.can_make_netns():
        TAP.cannot("the twin", "needs root and network namespaces")
        TAP.end()
    for name, test in list(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or any(word in name for word in sys.argv[1:])):
            test()
    TAP.end()


main()
