#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One server, two addresses. A node translates a Service's address into the server's own, and its pods'
into its own: connections of one port to both are one on the wire, and the second is moved. Pods, node
and server are network namespaces; what counts is the source port that the server sees. Prints TAP.
Needs root.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SERVICE, SERVER = "10.96.0.1:80", "10.77.9.2:7000"
RULES = """
table ip node {
    chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 80 dnat to 10.77.9.2:7000; }
    chain post { type nat hook postrouting priority srcnat; ip saddr 10.200.1.0/24 masquerade; }
}
"""
CONFIG = """
[pool]
path = {path}
ports = {first}-{last}
[rule server]
to = {to}
"""
ALIAS = f"[alias shop]\nserver = {SERVER}\naddresses = {SERVICE}\n"

# Reads "LO HI", forgets what came before; at each further line says how many connections came, how many
# from other ports, and how many ports twice at the same time.
LISTEN = """
import selectors, socket, sys
listener = socket.create_server(("10.77.9.2", 7000), backlog=4096)
listener.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
ports, lo, hi = [], 0, 0
print("ready", flush=True)
def accept():
    while True:
        try:
            connection, peer = listener.accept()
        except BlockingIOError:
            return
        ports.append(peer[1])
        selector.register(connection, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            accept()
        elif key.fileobj is not sys.stdin:
            try:
                key.fileobj.recv(1)
            except ConnectionResetError:
                pass
            selector.unregister(key.fileobj)
            key.fileobj.close()
        else:
            accept()
            line = sys.stdin.readline().split()
            if not line:
                sys.exit()
            if line[0] == "count":
                print(len(ports), sum(not lo <= port <= hi for port in ports), flush=True)
            else:
                lo, hi = map(int, line)
                ports = []
                print("forgotten", flush=True)
"""

# argv: ADDRESS:PORT... Each line "hold N" or "short N" makes so many connections, to one after the other
# address; answers how many were made, refused for want of a port, and failed otherwise.
DIAL = """
import errno, socket, sys
to = [(name.split(":")[0], int(name.split(":")[1])) for name in sys.argv[1:]]
held, turn = [], 0
for line in sys.stdin:
    word, count = line.split()
    made = refused = failed = 0
    for _ in range(int(count)):
        sock = socket.socket()
        sock.settimeout(20)
        try:
            sock.connect(to[turn % len(to)])
            made += 1
            if word == "hold":
                held.append(sock)
        except OSError as error:
            refused += error.errno == errno.EADDRNOTAVAIL
            failed += error.errno != errno.EADDRNOTAVAIL
        turn += 1
        if word == "short":
            sock.close()
    print(made, refused, failed, flush=True)
"""


def must(*argv, stdin=None):
    subprocess.run(argv, check=True, input=stdin, text=True)


class Talker:
    """A program that answers lines."""

    def __init__(self, netns, program, *arguments, env=None):
        self.process = subprocess.Popen(fptest.in_netns(netns, sys.executable, "-c", program, *arguments),
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def hear(self):
        return self.process.stdout.readline().split()

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Network:
    """pods - node - server, with routes and the node's translation; a fresh one for each case, since
    connection tracking remembers."""

    def __init__(self, pods):
        prefix = f"fpalias{os.getpid()}"
        self.node, self.server = f"{prefix}n", f"{prefix}s"
        self.pods = [f"{prefix}p{i}" for i in range(pods)]

    def join(self, netns, device, address, node_address):
        must("ip", "-n", self.node, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", netns)
        must("ip", "-n", self.node, "addr", "add", node_address, "dev", device)
        must("ip", "-n", netns, "addr", "add", address, "dev", "eth0")
        must("ip", "-n", netns, "link", "set", "eth0", "up")
        must("ip", "-n", netns, "link", "set", "lo", "up")
        must("ip", "-n", self.node, "link", "set", device, "up")

    def __enter__(self):
        for name in (self.node, self.server, *self.pods):
            must("ip", "netns", "add", name)
        self.join(self.server, "lan", "10.77.9.2/24", "10.77.9.1/24")
        for i, pod in enumerate(self.pods):
            self.join(pod, f"pod{i}", f"10.200.1.{4 * i + 2}/30", f"10.200.1.{4 * i + 1}/30")
            must("ip", "-n", pod, "route", "add", "default", "via", f"10.200.1.{4 * i + 1}")
        must(*fptest.in_netns(self.node, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        must(*fptest.in_netns(self.node, "nft", "-f", "-"), stdin=RULES)
        return self

    def __exit__(self, *_):
        for name in (*self.pods, self.server, self.node):
            subprocess.run(["ip", "netns", "del", name], check=False)


def configure(folder, first, ports, config, command, prefix=()):
    """Gives the pool the configuration, with the aliases in @config. @prefix: what runs the tool."""
    path = os.path.join(folder, "pool")
    text = CONFIG.format(path=path, first=first, last=first + ports - 1, to=SERVER + ", 10.96.0.0/16") + config
    with open(os.path.join(folder, "conf"), "w", encoding="ascii") as file:
        file.write(text)
    subprocess.run([*prefix, fptest.POOL_TOOL, command, "-c", os.path.join(folder, "conf")], check=True,
                   capture_output=True)


def play(folder, first, pods, ports, config, work):
    """@pods: the addresses that each uses, in turn. Return: what the pods said, and the server."""
    path = os.path.join(folder, "pool")
    configure(folder, first, ports, config, "create")
    with Network(len(pods)) as network, contextlib.ExitStack() as stack:
        server = Talker(network.server, LISTEN)
        stack.callback(server.close)
        server.hear()
        server.ask(f"{first} {first + ports - 1}")
        env = fptest.environment(FIXPORT_POOL=path, FIXPORT_ON_ERROR="fail")
        clients = [Talker(pod, DIAL, *to, env=env) for pod, to in zip(network.pods, pods)]
        for client in clients:
            stack.callback(client.close)
        said = []
        for line in work:
            for client in clients:
                client.tell(line)
            said += [[int(number) for number in client.hear()] for client in clients]
        status = subprocess.run([fptest.POOL_TOOL, "--pool", path, "status"], text=True, check=True,
                                capture_output=True).stdout
        came, outside = (int(number) for number in server.ask("count"))
    subprocess.run([fptest.POOL_TOOL, "--pool", path, "remove", "--force"], check=True, capture_output=True)
    return [sum(column) for column in zip(*said)], came, outside, status


# what, the addresses that each pod uses, ports, what each does, how many of it if none had to wait
CASES = [
    ("held by two pods", [[SERVICE], [SERVER]], 20, ["hold 15"], 20),
    ("held by one pod", [[SERVICE, SERVER]], 20, ["hold 30"], 20),
    ("short, two pods", [[SERVICE], [SERVER]], 999, ["short 600"], 1200),
    ("short, one pod", [[SERVICE, SERVER]], 999, ["short 1200"], 1200),
    ("held and short, two pods with both", [[SERVICE, SERVER], [SERVER, SERVICE]], 20,
     ["hold 3", "short 20", "hold 3"], 52),
]


def check_case(tap, folder, way, first, case):
    what, pods, ports, work, most = case
    (made, refused, failed), came, outside, status = play(folder, first, pods, ports, ALIAS, work)
    tap.point(not outside and not failed and made == came and made >= min(ports, most) - 6
              and made + refused == sum(int(line.split()[1]) for line in work) * len(pods),
              f"{what}, {ports} ports, {way}: none is moved",
              f"{made} made, {refused} refused, {failed} failed; {came} came, {outside} outside")
    tap.point(f"{SERVICE} counts as {SERVER}" in status, f"{what}, {way}: status names both")


def alias(name, server, *addresses):
    return f"[alias {name}]\nserver = {server}\naddresses = {', '.join(addresses)}\n"


OTHERS = [f"10.96.0.{i}:80" for i in range(2, 40)]
# None of these changes that the Service's address and the server's own are one.
SAME = [ALIAS,
        alias("shop", SERVER, *OTHERS[:20], SERVICE) + alias("z", "10.96.7.7:80", *OTHERS[20:]),
        alias("a", "10.95.0.1:1", "10.95.0.2:1", "10.95.0.3:1") + alias("b", SERVICE, SERVER),
        alias("shop", SERVER, *OTHERS[30:], SERVICE),
        alias("shop", OTHERS[0], SERVICE) + alias("more", SERVER, SERVICE)]


class Site:
    """A network with two pods, the first of which uses the Service's address, and a pool."""

    def __init__(self, folder, first, ports, config, second=SERVER):
        self.folder, self.first, self.ports, self.to = folder, first, ports, (SERVICE, second)
        self.stack = contextlib.ExitStack()
        self.path = os.path.join(folder, "pool")
        configure(folder, first, ports, config, "create")

    def __enter__(self):
        network = self.stack.enter_context(Network(2))
        self.stack.callback(subprocess.run, [fptest.POOL_TOOL, "--pool", self.path, "remove", "--force"], check=True,
                            capture_output=True)
        self.node, self.second = network.node, network.pods[1]
        self.server = self.talker(network.server, LISTEN)
        self.server.hear()
        self.server.ask(f"{self.first} {self.first + self.ports - 1}")
        env = fptest.environment(FIXPORT_POOL=self.path, FIXPORT_ON_ERROR="fail")
        self.pods = [self.talker(pod, DIAL, to, env=env) for pod, to in zip(network.pods, self.to)]
        return self

    def __exit__(self, *_):
        self.stack.close()

    def talker(self, *arguments, env=None):
        talker = Talker(*arguments, env=env)
        self.stack.callback(talker.close)
        return talker

    def reload(self, config, slowly=()):
        configure(self.folder, self.first, self.ports, config, "reload", slowly)

    def ask(self, pod, line):
        return [int(number) for number in self.pods[pod].ask(line)]

    def came(self):
        """How many connections the server has seen, how many from other ports."""
        return [int(number) for number in self.server.ask("count")]

    def addresses(self):
        """What list says by which address the leases are, in each state: {(slot, destination, address): count}."""
        done = subprocess.run([fptest.POOL_TOOL, "--pool", self.path, "list", "--json"], check=True, text=True,
                              capture_output=True)
        counts = {}
        for lease in json.loads(done.stdout)["leases"]:
            key = lease["slot"], lease["destination"], lease["address"]
            counts[key] = counts.get(key, 0) + 1
        return counts


def check_moves(tap, folder, way, first):
    """Addresses become one server, and two, while connections are open."""
    for what, before, after, second, turn in (
            ("an alias is added", "", ALIAS, SERVER, (0, 1)),
            ("an alias is added, the other way", "", ALIAS, SERVER, (1, 0)),
            ("an alias is removed", ALIAS, "", SERVICE, (0, 1)),
            ("another server comes first", ALIAS, alias("shop", SERVICE, SERVER), SERVER, (0, 1))):
        with Site(folder, first, 20, before, second) as site:
            held = site.ask(turn[0], "hold 14")
            site.reload(after)
            more = site.ask(turn[1], "hold 14")
            came, outside = site.came()
            tap.equal((held, more, came, outside), ([14, 0, 0], [6, 8, 0], 20, 0),
                      f"{what} while connections are open, {way}: none is moved")


def check_names(tap, folder, way, first):
    """list says by which address a port is used, whatever is added, removed or in another order."""
    with Site(folder, first, 200, SAME[0]) as site:
        site.ask(0, "hold 10")
        site.ask(1, "hold 10")
        wrong, known, ours = [], [], (SERVICE, SERVER)
        slots = {slot: address for slot, _, address in site.addresses()}
        tap.equal(sorted(slots.values()), sorted(ours), f"list says by which address a pod uses its ports, {way}")
        for round, config in enumerate((*SAME, "", *SAME[::-1], ALIAS)):
            site.reload(config)
            site.ask(0, "hold 1")
            site.ask(1, "hold 1")
            counts = site.addresses()
            right = [sum(count for (_, _, address), count in counts.items() if address == each) for each in ours]
            wrong += [(round, *key) for key in counts if key[2] not in (None, slots[key[0]])]
            known.append(min(right) >= 1)
        tap.equal((wrong, known.count(False)), ([], 0), f"no reload has list name a wrong address, {way}")
        text = subprocess.run([fptest.POOL_TOOL, "--pool", site.path, "list"], check=True, text=True,
                              capture_output=True).stdout
        tap.point(f"{SERVER} by {SERVICE} " in text and f"{SERVER}  " in text, f"it shows both, {way}", text)


def check_storm(tap, folder, way, first):
    """Reloads that leave the two one server, while they are connected to."""
    with Site(folder, first, 999, SAME[0]) as site:
        for pod in site.pods:
            pod.tell("short 400")
        said = [None, None]
        threads = [threading.Thread(target=lambda i=i: said.__setitem__(i, site.pods[i].hear())) for i in (0, 1)]
        for thread in threads:
            thread.start()
        reloads = 0
        # A moment before and after each step that others see.
        slowly = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=pwrite64:delay_enter=2ms:delay_exit=2ms"] \
            if shutil.which("strace") else []
        while reloads < 2 or any(thread.is_alive() for thread in threads):
            reloads += 1
            site.reload(SAME[reloads % len(SAME)], slowly)
        for thread in threads:
            thread.join()
        came, outside = site.came()
        made = [int(numbers[0]) for numbers in said]
        # One may have to be undone, and made again.
        tap.point(made == [400, 400] and came >= 800 and not outside,
                  f"reloads while they connect, {way}: none is moved or refused",
                  f"{said} said, {came} came, {outside} outside, {reloads} reloads")


def check_told(tap, folder, way, first):
    """status says for whom the node's connection tracking holds the port that is free next."""
    with Site(folder, first, 20, ALIAS) as site:
        def told():
            text = subprocess.run(fptest.in_netns(site.node, fptest.POOL_TOOL, "--pool", site.path, "status"), check=True,
                                  text=True, capture_output=True).stdout
            return [re.sub(r"free in \d+ s", "free in N s", line.strip()) for line in text.splitlines() if "first port" in line]
        site.ask(0, "short 20")
        subprocess.run([fptest.POOL_TOOL, "--pool", site.path, "reclaim"], check=True, capture_output=True)
        host = os.uname().nodename
        held = told()
        subprocess.run(fptest.in_netns(site.node, "conntrack", "-F"), check=True, capture_output=True)
        tap.equal((held, told()), ([f"first port free in N s, held by conntrack for {host}"],
                                   [f"first port free in N s, let go of by {host}"]),
                  f"status says that connection tracking holds a port, and for whom, {way}")
        log = os.path.join(folder, "log")
        refused = site.talker(site.second, DIAL, SERVER, env=fptest.environment(
            FIXPORT_POOL=site.path, FIXPORT_ON_ERROR="fail", FIXPORT_LOG=log)).ask("hold 1")
        with open(log, encoding="ascii") as file:
            line = re.sub(r"free in \d+ s", "free in N s", file.read())
        os.remove(log)
        tap.point(refused == ["0", "1", "0"] and line.endswith(f" exhausted {SERVER} first port free in N s, let go of by {host}\n"),
                  f"and the log, {way}", refused, line)


def main():
    tap = fptest.Tap()
    if not fptest.can_make_netns() or subprocess.run(["nft", "--version"], capture_output=True,
                                                     check=False).returncode:
        tap.cannot("one server, two addresses", "needs root, and nft(8)")
        tap.end()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fixport-alias-") as folder:
        for way, first in (("by range", 50000), ("by bind", 61001)):
            for case in CASES:
                check_case(tap, folder, way, first, case)
            (made, *_), came, outside, _ = play(folder, first, CASES[0][1], 20,
                                                "[rule service]\nto = 10.96.0.1\n", CASES[0][3])
            check_moves(tap, folder, way, first)
            check_names(tap, folder, way, first)
            check_storm(tap, folder, way, first)
            if shutil.which("conntrack"):
                check_told(tap, folder, way, first)
            else:
                tap.cannot("who holds a port", "conntrack(8) is not installed")
            tap.point(outside, f"without the alias some are, {way}: the test can see it",
                      f"{made} made; {came} came, {outside} outside")
    tap.end()


if __name__ == "__main__":
    main()
