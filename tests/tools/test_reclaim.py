#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-pool reclaim as a node's helper: ports in quarantine are free as soon as the node's connection tracking
has forgotten what has ended, and nobody who lives loses an entry. A node in a namespace, with pods and a host, plain
MASQUERADE, and the kernel's own timeouts.

    tests/tools/test_reclaim.py
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SERVER, PORT, OTHER_PORT = "192.168.31.67", 60002, 60003
POD = "10.200.1.91"
PORTS = range(61001, 61021)
NODE = """
mount -t tmpfs none /run && mkdir -p /run/netns
sysctl -qw net.ipv4.ip_forward=1
ip netns add host; ip link add host type veth peer name eth0 netns host; ip link set host up
ip addr add 192.168.31.17/24 dev host
ip -n host addr add 192.168.31.67/24 dev eth0; ip -n host link set eth0 up; ip -n host route add 10.200.0.0/16 via 192.168.31.17
iptables -w -t nat -A POSTROUTING -s 10.200.0.0/16 -d 192.168.31.0/24 -j MASQUERADE
"""
POD_UP = """
ip netns add $1; ip link add $1 type veth peer name eth0 netns $1; ip link set $1 up
ip addr add 10.200.1.1/32 dev $1; ip route replace $2/32 dev $1
ip -n $1 addr add $2/32 dev eth0; ip -n $1 link set eth0 up
ip -n $1 route add 10.200.1.1 dev eth0; ip -n $1 route add default via 10.200.1.1
"""
SIX = """
sysctl -qw net.ipv6.conf.all.forwarding=1
ip netns add six; ip link add six type veth peer name eth0 netns six; ip link set six up
ip addr add fd00:31::17/64 dev host nodad; ip -n host addr add fd00:31::67/64 dev eth0 nodad
ip addr add fd00:10::1/64 dev six nodad; ip -n six addr add fd00:10::91/64 dev eth0 nodad; ip -n six link set eth0 up
ip -n six route add default via fd00:10::1
ip6tables -w -t nat -A POSTROUTING -s fd00:10::/64 -j MASQUERADE
"""
# Says which port it saw, and then what it is sent, twice.
SERVES = """
import contextlib, socket, sys, threading
def serve(peer, where):
    with peer, contextlib.suppress(ConnectionError):
        peer.sendall(b"%d\\n" % where[1])
        while data := peer.recv(9):
            peer.sendall(data)
def listen(server):
    while True:
        threading.Thread(target=serve, args=server.accept(), daemon=True).start()
for port in map(int, sys.argv[1:]):
    threading.Thread(target=listen, args=[socket.create_server(("", port), backlog=1024, family=socket.AF_INET6, dualstack_ipv6=True)]).start()
print("ready", flush=True)
"""
# Each line: "go N": N connections one after the other; "from PORT TO": one that stays; "echo": whether all that stay
# work; "close". Says ok and what the server saw, or what is wrong.
CLIENT = """
import socket, sys
kept = []
def connect(to, port=0):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) if port else None
    client.bind(("", port)) if port else None
    client.settimeout(10)
    client.connect(("192.168.31.67", to))
    seen = client.makefile().readline().strip()
    return client, "" if seen == str(client.getsockname()[1]) else " moved"
def end(client):
    client.shutdown(socket.SHUT_WR)
    while client.recv(9):
        pass
    client.close()
for line in sys.stdin:
    word, *rest = line.split()
    said = "ok"
    try:
        if word == "go":
            for _ in range(int(rest[0])):
                client, moved = connect(60002)
                said += moved
                end(client)
        if word == "from":
            client, moved = connect(int(rest[1]), int(rest[0]))
            said += moved
            kept.append(client)
        if word == "echo":
            for client in kept:
                client.sendall(b"x")
                assert client.recv(9) == b"x", "it is closed"
        if word == "close":
            while kept:
                end(kept.pop())
    except (OSError, AssertionError) as error:
        said = str(error)
    print(said, flush=True)
"""


def run(*argv, **more):
    return subprocess.run(argv, capture_output=True, text=True, check=True, **more).stdout


def until(check):
    """Return: what @check answers at last, which is true if it ever is."""
    deadline = time.monotonic() + 20
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


class Node:
    """Pods of a node, and a pool."""

    def __init__(self, folder, ports=PORTS, pool=None):
        self.pool = pool or tempfile.mktemp(prefix="pool-", dir=folder)
        self.files = contextlib.ExitStack()
        Path(f"{folder}/conf").write_text(f"[pool]\nports = {ports[0]}-{ports[-1]}\n", encoding="utf-8")
        run(fptest.POOL_TOOL, "create", "-c", f"{folder}/conf", "--pool", self.pool)

    def pod(self, name, address=POD):
        run("bash", "-ec", POD_UP, "-", name, address)

    def client(self, netns, shim=True):
        """Programs in a pod; on the node itself if @netns is none."""
        argv = [sys.executable, "-c", CLIENT]
        return self.files.enter_context(subprocess.Popen(
            fptest.in_netns(netns, *argv) if netns else argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=fptest.environment(FIXPORT_POOL=self.pool) if shim else dict(os.environ)))

    def reclaim(self, *options, capabilities=("net_admin",)):
        """As in the manifest. Return: how many ports were freed, or what it said."""
        bounds = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        done = subprocess.run(["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", fptest.POOL_TOOL, "reclaim",
                               "--json", "--pool", self.pool, *options], capture_output=True, text=True, check=False)
        return json.loads(done.stdout)["freed"] if done.stdout else done.stderr

    def leases(self, state):
        text = run(fptest.POOL_TOOL, "list", "--json", "--state", state, "--pool", self.pool)
        return [item["port"] for item in json.loads(text)["leases"]]


def ask(client, words):
    print(words, file=client.stdin, flush=True)
    return client.stdout.readline().strip()


def kill(client, netns=None):
    client.kill()
    client.wait()
    if netns:
        run("ip", "netns", "del", netns)


def entries(*filters):
    """(state, s left) of entries."""
    text = run("conntrack", "-L", "-p", "tcp", *map(str, filters))
    return [(state, int(left)) for left, state in re.findall(r"^tcp +6 (\d+) (\w+) ", text, re.M)]


def all_over(*filters):
    return all(state in ("TIME_WAIT", "CLOSE") for state, _ in entries(*filters))


def check_successor(tap, folder):
    """A pod that has gone round its ports is killed, and its successor begins at once."""
    node = Node(folder)
    node.pod("old")
    node.pod("new", "10.200.1.92")
    old, new = node.client("old"), node.client("new")
    tap.equal(ask(old, f"go {len(PORTS)}"), "ok", "a pod uses all ports, one after the other")
    kill(old, "old")
    tap.equal(ask(new, "go 1"), "[Errno 99] Cannot assign requested address", "its successor finds none")
    until(all_over)
    tap.equal(node.reclaim(capabilities=()), 0, "without NET_ADMIN the quarantine stays, and that is no fault")
    tap.equal(ask(new, "go 1"), "[Errno 99] Cannot assign requested address", "then it still finds none")
    tap.equal(node.reclaim(), len(PORTS), "with it all of them are free")
    tap.equal(entries("-s", POD), [], "and the node has forgotten the dead pod's connections")
    tap.equal(ask(new, f"go {len(PORTS)}"), "ok", "the successor has them all, and none is moved")
    tap.equal(node.reclaim() in range(1, len(PORTS) + 1), True, "a pod that lives on gives back what rests, too")
    third = node.pod("third", "10.200.1.93") or node.client("third")
    tap.equal(ask(third, "go 1"), "ok", "to a newcomer beside it")
    node.files.close()


def check_others(tap, folder):
    """Ports that rest, and others who have them: nothing of theirs is touched."""
    node = Node(folder, range(61101, 61108))
    kept, unknown, alive, same, local, elsewhere, gone = node_ports = list(range(61101, 61108))
    node.pod("dead", "10.200.1.101")
    node.pod("plain", "10.200.1.102")
    dead = node.client("dead")
    tap.equal(ask(dead, f"go {len(node_ports)}"), "ok", "a pod uses ports")
    kill(dead, "dead")
    until(all_over)
    plain, on_node = node.client("plain", shim=False), node.client(None, shim=False)
    node.pod("again", "10.200.1.101")
    again = node.client("again", shim=False)
    # The node has an entry of the dead pod with each of these ports: who comes from another address is moved.
    said = {
        "a pod without the library, with the same port": ask(plain, f"from {alive} {PORT}"),
        "the dead pod's address is a new pod's, with the same port": ask(again, f"from {same} {PORT}"),
        "the node itself": ask(on_node, f"from {local} {PORT}"),
        "another server": ask(plain, f"from {gone} {OTHER_PORT}"),
        "outside of the range": ask(plain, f"from 61500 {PORT}"),
    }
    tap.point(all(words.startswith("ok") for words in said.values()), "others connect from ports that rest", said)
    tap.equal(ask(on_node, f"from {kept} {PORT}").split()[0], "ok", "and so does the node")
    run("conntrack", "-D", "-p", "tcp", "-s", "10.200.1.101", "--sport", str(unknown)) # as if it had not been seen
    before = {port: entries("--sport", port) for port in (alive, same, local, gone, 61500)}
    freed = node.reclaim()
    tap.equal((freed, node.leases("resting")), (2, [kept, unknown, alive, same, local]),
              "ports that others have go on to rest, and the rest is free")
    tap.point(all(state == "ESTABLISHED" and left > 400000 for port in (alive, same, local, gone, 61500)
                  for state, left in entries("--sport", port) if state not in ("TIME_WAIT", "CLOSE")),
              "and no entry of them lost its time", before)
    tap.equal([ask(client, "echo") for client in (plain, again, on_node)], ["ok"] * 3, "all of them still work")
    tap.equal([len(entries("--sport", port, "--dport", PORT)) for port in (gone, elsewhere)], [0, 0],
              "the dead pod's entries are gone")
    for client in (plain, again, on_node):
        ask(client, "close")
    until(all_over)
    tap.equal(node.reclaim(), 2, "when the others have ended, too, their ports are free, but for those of the node itself")
    tap.equal(node.leases("resting"), [kept, unknown, local], "whose entries are not translated, and say nothing of pods")
    tap.equal(all(left > 20 for _, left in entries("-s", "192.168.31.17")), True, "and stay as they were")
    node.files.close()


def check_six(tap, folder):
    """IPv6, by the same words."""
    run("bash", "-ec", SIX)
    node = Node(folder, range(61501, 61506))
    argv = fptest.in_netns("six", sys.executable, "-c", CLIENT.replace("192.168.31.67", "fd00:31::67")
                           .replace("socket.socket()", "socket.socket(socket.AF_INET6)"))
    with subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=fptest.environment(FIXPORT_POOL=node.pool)) as client:
        tap.equal(ask(client, "go 5"), "ok", "IPv6: a pod uses all ports")
        kill(client)
    until(lambda: all_over("-f", "ipv6"))
    tap.equal((node.reclaim(), entries("-f", "ipv6")), (5, []), "IPv6: they are free, and forgotten")
    node.files.close()


def check_unseen(tap, folder):
    """Where connection tracking does not see, or sees another thing, nothing is freed."""
    for name, rules in {
            "NOTRACK": [["-p", "tcp", way, str(PORT), "-j", "NOTRACK"] for way in ("--dport", "--sport")],
            "a zone": [["-i", "zone", "-j", "CT", "--zone", "7"], ["-p", "tcp", "--sport", str(PORT), "-j", "CT", "--zone", "7"]]}.items():
        node = Node(folder, range(61201, 61206))
        for rule in rules:
            run("iptables", "-w", "-t", "raw", "-A", "PREROUTING", *rule)
        node.pod("zone", "10.200.1.111")
        client = node.client("zone")
        tap.equal(ask(client, "go 5").split()[0], "ok", f"{name}: a pod uses ports")
        kill(client, "zone")
        tap.equal((node.reclaim(), len(node.leases("resting"))), (0, 5), f"{name}: they go on to rest")
        run("iptables", "-w", "-t", "raw", "-F")
        node.files.close()
    node = Node(folder, range(61221, 61226))
    node.pod("moved", "10.200.1.113")
    run("iptables", "-w", "-t", "nat", "-I", "POSTROUTING", "-p", "tcp", "-s", "10.200.1.113", "-j", "SNAT", "--to-source",
        "192.168.31.17:61221")
    moved = node.client("moved", shim=False)
    tap.equal(ask(moved, f"from 61500 {PORT}"), "ok moved", "somebody was moved to a port")
    node.pod("owner", "10.200.1.114")
    client = node.client("owner")
    tap.equal(ask(client, "go 5"), "ok moved", "somebody was moved to a port: a pod uses it, which is moved in turn")
    kill(client, "owner")
    until(lambda: all_over("-s", "10.200.1.114"))
    tap.equal((node.reclaim(), node.leases("resting")), (4, [61221]), "somebody was moved to a port: it goes on to rest")
    node.files.close()
    node = Node(folder, range(61211, 61216))
    run("iptables", "-w", "-t", "nat", "-I", "POSTROUTING", "-s", "10.200.1.112", "-j", "ACCEPT")
    node.pod("own", "10.200.1.112")
    client = node.client("own")
    tap.equal(ask(client, "go 5"), "ok", "a pod that keeps its address: uses ports")
    kill(client, "own")
    until(all_over)
    tap.equal((node.reclaim(), len(node.leases("resting"))), (0, 5), "a pod that keeps its address: they go on to rest")
    node.files.close()


def check_race(tap, folder):
    """Somebody connects again from a port that rests, after connection tracking was read and before the entry is told
    to expire: as if the helper had been away just then."""
    if not shutil.which("strace"):
        tap.cannot("race", "strace is not installed")
        return
    run("conntrack", "-F") # what is read at once, before it is stopped, is some ten entries
    node = Node(folder, range(61301, 61303))
    node.pod("dead", "10.200.1.121")
    dead = node.client("dead")
    tap.equal(ask(dead, "go 2"), "ok", "race: a pod uses ports")
    kill(dead, "dead")
    node.pod("since", "10.200.1.121")
    again = node.client("since", shim=False)
    until(all_over)
    with subprocess.Popen(["strace", "-qq", "-o", f"{folder}/calls", "-e", "inject=sendto:signal=STOP:when=1",
                           fptest.POOL_TOOL, "reclaim", "--json", "--pool", node.pool], stdout=subprocess.PIPE, text=True) as tracer:
        calls = Path(f"{folder}/calls")
        until(lambda: calls.exists() and "stopped by SIGSTOP" in calls.read_text(encoding="utf-8"))
        helper = int(Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text(encoding="utf-8"))
        said = ask(again, f"from 61301 {PORT}")
        os.kill(helper, signal.SIGCONT)
        freed = json.loads(tracer.stdout.read())["freed"]
    tap.equal((said, freed, node.leases("resting")), ("ok", 1, [61301]),
              "race: what somebody has by now is not freed")
    told = calls.read_text(encoding="utf-8").count("sendto(")
    tap.point(told >= 6, "race: its entry was told to expire, looked at, and told to stay", told)
    tap.equal([(state, left > 400000) for state, left in entries("--sport", 61301)], [("ESTABLISHED", True)],
              "race: it has the time that it had")
    tap.equal(ask(again, "echo"), "ok", "race: and works")
    node.files.close()


def check_every(tap, folder):
    """reclaim --every: it stays."""
    pool = f"{folder}/late"
    with subprocess.Popen(["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", fptest.POOL_TOOL, "reclaim",
                           "--every", "3600", "--pool", pool], stderr=subprocess.PIPE, text=True) as helper:
        said = helper.stderr.readline()
        tap.point("there is no pool" in said, "--every: there is no pool yet, it says, and stays", said)
        node = Node(folder, range(61401, 61411), pool)
        node.pod("busy", "10.200.1.131")
        node.pod("come", "10.200.1.132")
        busy = node.client("busy")
        tap.equal(ask(busy, "go 10"), "ok", "--every: a pod uses all ports")
        come = node.client("come")
        tap.equal(until(lambda: ask(come, "go 1") == "ok"), True, "--every: a newcomer beside it has one, without anybody who asks")
        kill(busy, "busy")
        tap.equal(until(lambda: ask(come, "go 10") == "ok"), True, "--every: and all of them after its end")
        helper.terminate()
        tap.equal((helper.wait(timeout=5), helper.stderr.read()), (0, ""),
                  "--every: SIGTERM ends it, and it has said nothing twice")
    for options, words in ((["--every", "0"], "1-86400"), (["--every", "x"], "1-86400"), (["--every", "86401"], "1-86400"),
                           (["--every", "5", "--json"], "exclude each other")):
        done = subprocess.run([fptest.POOL_TOOL, "reclaim", *options, "--pool", node.pool], capture_output=True, text=True, check=False)
        tap.point(done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1,
                  f"reclaim {' '.join(options)}: is refused", done.stderr)
    node.files.close()


def main():
    tap = fptest.Tap()
    if os.geteuid() or not fptest.can_make_netns() or not shutil.which("conntrack") or not shutil.which("setpriv"):
        tap.cannot("reclaim", "namespaces need root, and conntrack")
        tap.end()
    if os.environ.get("FIXPORT_TEST_OWN_NETWORK") != "1":
        os.environ["FIXPORT_TEST_OWN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                              sys.executable, *sys.argv])
    run("bash", "-ec", NODE)
    with tempfile.TemporaryDirectory(prefix="fixport-test-") as folder, \
            subprocess.Popen(fptest.in_netns("host", sys.executable, "-c", SERVES, str(PORT), str(OTHER_PORT)),
                             stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        try:
            for check in (check_successor, check_others, check_six, check_unseen, check_race, check_every):
                if not sys.argv[1:] or check.__name__ in sys.argv[1:]:
                    check(tap, folder)
        finally:
            server.kill()
    tap.end()


if __name__ == "__main__":
    main()
