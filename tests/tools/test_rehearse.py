#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""plan and apply rehearse: what would stop working is said and refused, with the connections of
people who are really there. The machine is that of test_setup.py, with neighbours:

    admin 192.168.31.67, 192.168.31.99, 172.20.0.5 ── lan ── machine ── cni0 ── pod 10.200.1.91
                                                                     └─ dmz ── other 10.99.0.5

    FIXPORT_BUILD=build tests/tools/test_rehearse.py [WORD...]   only the tests with WORD in their name
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import test_setup
from test_setup import run, told, write

# Each node is the firewall of its own pods. This machine is node1.
NODES = test_setup.KEPT
# This machine is a gateway with a leg in each of two networks.
BETWEEN = """\
[node node1]
address = 192.168.31.17
pods = 10.200.1.0/24
[pods]
services = 8088
[hosts]
addresses = 192.168.31.67
services = 60001
ports = 61000-61999
[setup]
iptables = nft
[pool]
ports = 62000-62999
"""
# This machine is a host as well.
OWN = """\
[node node2]
address = 192.168.31.45, fd00:31::45
pods = 10.200.36.0/24, fd00:200:36::/64
[pods]
services = 8088
[hosts]
addresses = 192.168.31.17, fd00:31::17
services = 60001
ports = 61000-61999
[gateway]
address = 192.168.31.17, fd00:31::17
[setup]
iptables = nft
[pool]
ports = 62000-62999
"""

NEIGHBOURS = """
set -e
for name in admin pod other; do
    ip netns add $name
    ip -n $name link set lo up
done
ip link set wire netns admin
ip link add cni0 type veth peer name eth0 netns pod
ip link add dmz type veth peer name eth0 netns other
ip link set cni0 addrgenmode none
ip link set dmz addrgenmode none
ip address add fd00:200:1::1/64 dev cni0 nodad
ip address add 10.200.1.1/24 dev cni0
ip address add 10.99.0.1/24 dev dmz
ip link set cni0 up
ip link set dmz up
ip -n admin link set wire up
for address in 192.168.31.67/24 192.168.31.99/24 192.168.31.45/24 172.20.0.5/32 10.200.36.5/32; do
    ip -n admin address add $address dev wire
done
for address in fd00:31::45/64 fd00:200:36::5/128; do
    ip -n admin address add $address dev wire nodad
done
ip -n admin route add default via 192.168.31.17
ip -n pod link set eth0 up
ip -n pod address add 10.200.1.91/24 dev eth0
ip -n pod route add default via 10.200.1.1
ip -n other link set eth0 up
ip -n other address add 10.99.0.5/24 dev eth0
ip -n other route add default via 10.99.0.1
ip route add 10.200.36.5/32 dev lan
ip route add fd00:200:36::5/128 dev lan
"""

SERVER = """
import socket, sys, threading
def echo(connection):
    while data := connection.recv(1):
        connection.sendall(data)
server = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen()
print("up", flush=True)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys
client = socket.create_connection((sys.argv[3], int(sys.argv[4])), 10,
                                  (sys.argv[1], int(sys.argv[2])))
client.settimeout(3)
print("up", flush=True)
for line in sys.stdin:
    client.sendall(b"x")
    print("goes on" if client.recv(1) else "closed", flush=True)
"""


def place(name):
    return ["ip", "netns", "exec", name] if name else []


@contextlib.contextmanager
def program(where, text, *args):
    """A program that is at work while the block is."""
    with subprocess.Popen([*place(where), sys.executable, "-c", text, *args], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        try:
            if process.stdout.readline() != "up\n":
                raise RuntimeError(f"{where}: {args}: it does not begin")
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def session(client, source, server, address, port):
    """A connection that is open. @client, @server: namespaces; @source: "address:port"."""
    sport = source.rpartition(":")[2]
    with program(server[0], SERVER, server[1], server[2]), \
            program(client, CLIENT, source.rpartition(":")[0], sport, address, port) as process:
        yield process


def goes_on(process):
    """Whether data still pass both ways."""
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline() == "goes on\n"


def opens(where, source, address, port):
    """Whether such a connection comes about now."""
    try:
        with program(where, CLIENT, source, "0", address, port):
            return True
    except RuntimeError:
        return False


@contextlib.contextmanager
def tracked(chain):
    """Somebody's rule by which connections are tracked."""
    rule = [chain, "-m", "conntrack", "--ctstate", "INVALID", "-m", "comment", "--comment", "counts"]
    run(["iptables-nft", "-w", "-A", *rule])
    try:
        yield
    finally:
        run(["iptables-nft", "-w", "-D", *rule])


@contextlib.contextmanager
def forwarding():
    run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    try:
        with tracked("FORWARD"):
            yield
    finally:
        run(["sysctl", "-qw", "net.ipv4.ip_forward=0"])


def check(test, good, name, done):
    test.tap.point(good, name, *([] if good else [told(done)]))


class Rehearsed:
    """A test without --root: the machine has its own /etc, /run and /var/lib."""

    def __init__(self, test, role, site):
        self.test = test
        self.machine = test.machine
        self.role = role
        write(self.machine.config, site)

    def __call__(self, command, *more, wrapped=False, before=()):
        site = ["--config", self.machine.config, "--role", self.role]
        return run([*before, self.machine.setup, *(site if command in ("plan", "apply") else []),
                    command, *more], env=self.machine.environment(wrapped))

    def rehearsal(self):
        return json.loads(self("plan", "--json").stdout)["rehearsal"]

    def cuts(self, what, connection, by):
        """plan says that it would be cut, apply refuses and changes nothing, --force goes on."""
        test = self.test
        before = self.machine.state()
        line = rf"^# would stop working: {connection} \([^)]*\): (lost|refused) by .*{by}"
        plan = self("plan")
        test.expect(plan, 2, f"{what}: plan says what would stop, and by which rule", line, "stdout")
        test.expect(plan, 2, f"{what}: plan says that apply will refuse",
                    r"note: apply will refuse: \d+ connections? would stop working")
        test.unchanged(f"{what}: plan has changed nothing", before)
        stops = self.rehearsal()["stops"]
        test.tap.point(any(re.search(by, stop["rule"] or "") for stop in stops),
                       f"{what}: plan --json has it", stops)
        done = self("apply")
        test.expect(done, 1, f"{what}: apply refuses", line)
        check(test, "--force" in done.stderr and "[#]" not in done.stderr, f"{what}: before the first step, and names --force", done)
        test.unchanged(f"{what}: apply has changed nothing", before)
        done = self("apply", "--json")
        said = json.loads(done.stdout)
        check(test, done.returncode == 1 and said["result"] == "refused" and
                       said["rehearsal"]["stops"], f"{what}: so does apply --json", done)
        test.expect(self("apply", "--force"), 0, f"{what}: apply --force", r"^Applied", "stdout")

    def undo(self):
        return self("undo", "--force")


# ---- the tests ----


def test_healthy(test):
    """What the configuration promises begins to work, and nobody loses anything."""
    on = Rehearsed(test, "gateway,node", NODES)
    before = test.machine.state()
    plan = on("plan")
    test.expect(plan, 2, "plan: what will work", r"^# will work: hosts to pods, IPv4 \((\d+) of \1\)$",
                "stdout")
    test.expect(plan, 2, "plan: IPv6, too", r"^# will work: pods to hosts, IPv6 \((\d+) of \1\)$",
                "stdout")
    test.expect(plan, 2, "plan: and nothing stops", r"^# nothing stops working: ", "stdout")
    check(test, "refuse" not in plan.stderr, "plan: apply will not refuse", plan)
    test.unchanged("plan has changed nothing", before)
    test.expect(on("apply"), 0, "apply", r"^Applied", "stdout")
    test.tap.equal(on.rehearsal(), None, "nothing to change, nothing to rehearse")
    test.tap.point("ehears" not in on("plan").stdout, "and nothing is said of it")
    on.undo()
    done = on("plan", "--no-rehearsal")
    check(test, done.returncode == 2 and "ehears" not in done.stdout, "plan --no-rehearsal", done)
    test.expect(on("apply", "--no-rehearsal"), 0, "apply --no-rehearsal", r"^Applied", "stdout")
    on.undo()
    done = test.machine("plan", "--no-rehearsal")
    test.expect(test.machine("status", "--no-rehearsal"), 1, "status does not take it",
                r"status does not take --no-rehearsal")


def test_session_to_this_machine(test):
    """A pod's administrator is logged in on this machine, which becomes a host with a firewall."""
    on = Rehearsed(test, "host,gateway", OWN)
    with session("admin", "10.200.36.5:40022", ("", "0.0.0.0", "2222"), "192.168.31.17",
                 "2222") as login:
        on.cuts("a session to this machine",
                r"10\.200\.36\.5 port 40022 to 192\.168\.31\.17 port 2222",
                r"FIXPORT-PODS-OUT.* -j REJECT")
        test.tap.point(not goes_on(login), "and that is what becomes of it")
        test.tap.point(opens("admin", "192.168.31.67", "192.168.31.17", "2222"),
                       "while another one is made as before")
        on.undo()


def test_session_goes_on(test):
    """The same where connections are tracked already: what is open goes on, and what would become of
    the next one is what the configuration asks for."""
    on = Rehearsed(test, "host,gateway", OWN)
    with tracked("INPUT"), session("admin", "10.200.36.5:40026", ("", "0.0.0.0", "2222"),
                                   "192.168.31.17", "2222") as login:
        test.tap.equal(on.rehearsal()["ending"], 1, "plan --json counts it")
        test.expect(on("plan"), 2, "plan says so",
                    r"^# will be rejected if made anew: 1 connection between pods and hosts, open now$",
                    "stdout")
        test.expect(on("apply"), 0, "apply", r"^Applied", "stdout")
        test.tap.point(goes_on(login), "it goes on")
        test.tap.point(not opens("admin", "10.200.36.5", "192.168.31.17", "2222"),
                       "and another one is not made")
        on.undo()


def test_session_ipv6(test):
    """The same over IPv6, to a socket for both."""
    on = Rehearsed(test, "host,gateway", OWN)
    with session("admin", "fd00:200:36::5:40025", ("", "::", "2222"), "fd00:31::17", "2222"):
        on.cuts("an IPv6 session", r"fd00:200:36::5 port 40025 to fd00:31::17 port 2222",
                r"ip6tables-nft .*FIXPORT-PODS-OUT.* -j REJECT")
        on.undo()


def test_session_from_this_machine(test):
    on = Rehearsed(test, "host,gateway", OWN)
    with session("", "192.168.31.17:40023", ("admin", "10.200.36.5", "2223"), "10.200.36.5", "2223"):
        on.cuts("a session of this machine's",
                r"192\.168\.31\.17 port 40023 to 10\.200\.36\.5 port 2223", r"FIXPORT-PODS-IN.* -j REJECT")
        on.undo()


def test_others_forwarded(test):
    """exclusive = yes, on a machine that somebody else uses as a router."""
    on = Rehearsed(test, "gateway", BETWEEN)
    with forwarding(), session("other", "10.99.0.5:40024", ("admin", "172.20.0.5", "7000"),
                               "172.20.0.5", "7000"):
        done = on("plan")
        test.expect(done, 2, "exclusive = no: nothing stops", r"^# nothing stops working: 1 connection ", "stdout")
        write(test.machine.config, BETWEEN + "[gateway]\nexclusive = yes\n")
        on.cuts("others' forwarding", r"10\.99\.0\.5 port 40024 to 172\.20\.0\.5 port 7000",
                r"FIXPORT-FORWARD.* -j REJECT")
        on.undo()


def test_many_unknown(test):
    """Where somebody comes from is asked of ip(8), for each anew: of thousands only the first."""
    if not shutil.which("conntrack"):
        test.tap.cannot("many whose way is not known", "conntrack is not installed")
        return
    on = Rehearsed(test, "gateway", BETWEEN)
    listed = "".join(f"-I -s 172.30.{i}.1 -d 192.168.31.17 -p tcp --sport 40000 --dport 22 "
                     "--state ESTABLISHED -t 600 -u SEEN_REPLY,ASSURED\n" for i in range(250))
    with forwarding():
        write(test.machine.config + ".tracked", listed)
        run(["conntrack", "-R", test.machine.config + ".tracked"])
        test.tap.equal(on.rehearsal()["not-tried"], 200, "of 250 whose way is not known 50 are asked for")
        run(["conntrack", "-F"])


NODE_PORT = {
    "iptables": """\
*nat
:KUBE-NODEPORTS - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 30080 \
-j DNAT --to-destination 10.99.0.5:8080
COMMIT
""",
    "nft": """\
table ip kube-proxy {
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30079 comment "default/db" : goto db, tcp . 30080 comment "default/web" : goto web }
    }
    chain db { meta l4proto tcp dnat to 10.99.0.6:8080; }
    chain web { meta l4proto tcp dnat to 10.99.0.5:8080; }
    chain prerouting {
        type nat hook prerouting priority dstnat;
        fib daddr type local meta l4proto . th dport vmap @service-nodeports
    }
}
""",
}
NODE_PORT_GONE = {"iptables": ["table", "ip", "nat"], "nft": ["table", "ip", "kube-proxy"]}


def test_node_port(test):
    """A NodePort of kube-proxy's, in each of its modes, in the way of which the configuration is."""
    on = Rehearsed(test, "gateway,node", NODES.replace("[setup]", "[gateway]\nexclusive = yes\n[setup]"))
    for mode, rules in NODE_PORT.items():
        load = {"iptables": ["iptables-nft-restore", "--noflush"], "nft": ["nft", "-f", "-"]}[mode]
        with forwarding(), program("other", SERVER, "10.99.0.5", "8080"):
            subprocess.run(load, input=rules, text=True, check=True)
            on.cuts(f"a node port by {mode}", r"192\.168\.31\.67 port \d+ to 192\.168\.31\.17 port 30080",
                    r"FIXPORT-FORWARD.* -j REJECT")
            test.tap.point(not opens("admin", "192.168.31.67", "192.168.31.17", "30080"),
                           "and that is what becomes of it")
            on.undo()
            test.tap.point(opens("admin", "192.168.31.67", "192.168.31.17", "30080"), "undo: it is back")
        run(["nft", "delete", *NODE_PORT_GONE[mode]])


def test_promised_rejects(test):
    """What the configuration asks to be rejected is nobody's loss: sshd listens here, for pods too."""
    on = Rehearsed(test, "host,gateway", OWN)
    with program("", SERVER, "0.0.0.0", "2222"):
        plan = on("plan")
        lines = [line for line in plan.stdout.splitlines() if line.startswith("# will ")]
        test.tap.equal(len(set(lines)), len(lines), "each promise is one line, of both roles")
        test.expect(plan, 2, "plan: pods may not connect to what listens here, and nothing stops",
                    r"^# nothing stops working: [1-9]", "stdout")
        test.expect(on("apply"), 0, "apply", r"^Applied", "stdout")
    on.undo()


def test_listening(test):
    """Somebody's rule is in the way of nobody yet: but it will be."""
    on = Rehearsed(test, "gateway,node", NODES)
    with program("", SERVER, "192.168.31.17", "2222"):
        listens = on.rehearsal()
        test.tap.point(listens["connections"] >= 2 and not listens["stops"],
                       "hosts and nodes reach what listens, before and after", listens)
        # In the twin alone something goes wrong with a step.
        test.machine.wrap("iptables-nft-restore", """TEXT=$(cat)
case "$TEXT" in
*FIXPORT-FORWARD*) TEXT=$(printf '%s' "$TEXT" | sed 's/^COMMIT/-I INPUT -p tcp --dport 2222 -j DROP\\nCOMMIT/') ;;
esac
printf '%s\\n' "$TEXT" | exec "$REAL" "$@\"""")
        done = run([test.machine.setup, "--config", test.machine.config, "--role", on.role, "apply"],
                   env=test.machine.environment(True))
        test.expect(done, 1, "a step that closes it: apply refuses",
                    r"^# would stop working: 192\.168\.31\.\d+ port \d+ to 192\.168\.31\.17 port 2222 "
                    r"\(somebody listens there\): lost by .*INPUT.*--dport 2222.*DROP")
        test.unchanged("and all is as it was")


def test_step_fails(test):
    """What would fail is not begun."""
    machine = test.machine
    for tool, role, site in (("iptables-nft-restore", "gateway,node", NODES),
                             ("ip6tables-nft-restore", "gateway,node", NODES),
                             ("sysctl", "gateway,node", NODES), ("ip", "node", test_setup.SITE)):
        on = Rehearsed(test, role, site)
        before = machine.state()
        mark = machine.mark()
        machine.unwrap()
        machine.wrap(tool, f': >{mark}; echo "tool: the kernel says no" >&2; exit 1',
                     r"-?\ -batch*" if tool == "ip" else test_setup.STEPS[tool])
        test.expect(on("plan", wrapped=True), 2, f"{tool} fails: plan says so",
                    r"note: apply will refuse: a step fails \(tried in a twin .*the kernel says no")
        test.tap.point(os.path.exists(mark), f"{tool}: it was run")
        done = on("apply", wrapped=True)
        test.expect(done, 1, f"{tool} fails: apply refuses", r"a step fails \(tried in a twin .*the kernel says no")
        check(test, "[#]" not in done.stderr, f"{tool} fails: before the first step", done)
        test.unchanged(f"{tool} fails: and nothing has changed", before)
        for option in ("--no-rehearsal", "--force"):
            test.expect(on("apply", option, wrapped=True), 1, f"{tool} fails: {option} tries, and rolls back",
                        r"not applied: everything is as it was before")
        test.unchanged(f"{tool} fails: and nothing has changed", before)


def test_signals(test):
    """What comes while it is rehearsed ends it, and nothing was begun."""
    machine = test.machine
    for name, number, status in (("TERM", 15, 143), ("INT", 2, 130), ("KILL", 9, -9)):
        on = Rehearsed(test, "gateway,node", NODES)
        before = machine.state()
        machine.unwrap()
        machine.wrap("iptables-nft-restore", f'kill -{name} $PPID; exec "$REAL" "$@"',
                     test_setup.STEPS["iptables-nft-restore"])
        done = on("apply", wrapped=True)
        check(test, done.returncode == status and "[#]" not in done.stderr,
              f"{name} comes: apply ends before the first step", done)
        test.unchanged(f"{name} comes: nothing has changed", before)


def test_no_namespaces(test):
    """A container: one sentence, and it goes on."""
    on = Rehearsed(test, "gateway,node", NODES)
    drop = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    if not shutil.which("setpriv") or run([*drop, "unshare", "--net", "true"]).returncode == 0:
        test.tap.cannot("no right to make namespaces", "setpriv cannot take it away")
        return
    test.expect(on("plan", before=drop), 2, "plan says why not", r"^# Not rehearsed: .*namespace", "stdout")
    done = on("apply", before=drop)
    test.expect(done, 0, "apply goes on", r"^fixport-setup: note: not rehearsed: .*namespace")
    test.tap.equal(done.stderr.count("ehearsed"), 1, "with one sentence")
    on.undo()
    done = on("apply", "--no-rehearsal", before=drop)
    check(test, done.returncode == 0 and "ehearsed" not in done.stderr, "apply --no-rehearsal does not even ask", done)
    on.undo()
    machine = test.machine
    argv = [machine.setup, "--config", machine.config, "--role", on.role, "plan"]
    os.chmod(machine.scratch, 0o755)
    done = run(["setpriv", "--reuid", "65534", "--clear-groups", *argv], env=machine.environment(False))
    test.expect(done, 2, "plan without root", r"^# Not rehearsed: only root", "stdout")


def test_root(test):
    """Of another root's tree nothing is rehearsed."""
    write(test.machine.config, NODES)
    test.machine.roles = "gateway,node"
    test.expect(test.machine("plan"), 2, "plan --root", r"^# Not rehearsed: with --root", "stdout")
    done = test.machine("apply")
    check(test, done.returncode == 0 and "ehearsed" not in done.stderr, "apply --root", done)


def main(tests):
    test_setup.BEFORE += NEIGHBOURS
    test_setup.main(tests)


if __name__ == "__main__":
    main(globals())
