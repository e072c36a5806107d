#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-setup with the real tools, on one machine that has all roles at once: a gateway that is a
node and has the API server. The gateway's address is a third machine's on the network that it shares
with the hosts, so connections are steered: routes in a table of their own, and a rule that leads
there. It runs in a mount and a network namespace of its own; what it has in /etc, /run and /var/lib
is its own too.

Whatever goes wrong at whatever point, the machine must be as it was, exactly: the rules, the
routes, the settings, and every file with its bytes, mode and owner. Tools that fail or that are
the last thing that fixport-setup sees are played by wrappers that come first in PATH.

    FIXPORT_BUILD=build tests/tools/test_setup.py [WORD...]   only the tests with WORD in their name
    FIXPORT_SETUP_ROUNDS   how many times it is killed at a random moment, each (12)
"""

import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SETUP = os.path.join(fptest.BUILD, "tools", "fixport-setup")
ROUNDS = int(os.environ.get("FIXPORT_SETUP_ROUNDS", "12"))
ROLES = "gateway,node,control-plane"
UNSHARE = ["unshare", "--mount", "--net", "--uts"]
MANIFEST_PATH = "/etc/kubernetes/manifests/kube-apiserver.yaml"
JOURNAL = "/var/lib/fixport/journal.json"
PUBLIC = "/var/lib/fixport/public-journal.json"
LOCK = "/var/lib/fixport/lock"
UNIT = "/etc/systemd/system/fixport-setup.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/fixport-setup.service"

SITE = """\
[node node1]
address = 192.168.31.17, fd00:31::17
pods = 10.200.1.0/24, fd00:200:1::/64
[node node2]
address = 192.168.31.45, fd00:31::45
pods = 10.200.36.0/24, fd00:200:36::/64, 10.200.1.93
[pods]
services = 8088
[hosts]
addresses = 192.168.31.67, 192.168.31.128/25, fd00:31::67
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
# There each node is the firewall for its own pods, and they get its address: nothing is steered.
KEPT = SITE.replace("[gateway]\naddress = 192.168.31.2, fd00:31::2\n", "[snat]\nmode = keep\n")

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=192.168.31.17
    - --service-cluster-ip-range=10.96.0.0/12   # do not change
    image: registry.k8s.io/kube-apiserver:v1.31.0
    name: kube-apiserver
"""

# What was there before: somebody's rules, a route of his, and a reserved port.
BEFORE = r"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/lock "$1/etc" "$1/work" "$1/lib"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" overlay /etc 2>/dev/null || {
    cp -a /etc/. "$1/etc"
    mount --bind "$1/etc" /etc
}
mount --bind "$1/lib" /var/lib
if docker=$(command -v dockerd); then # whether it is installed must not matter here
    mount --bind /dev/null "$docker"
fi
hostname fixport-test
ip link set lo up
ip link add lan type veth peer name wire
ip link set lan addrgenmode none
ip link set wire addrgenmode none
ip address add 192.168.31.17/24 dev lan
ip address add fd00:31::17/64 dev lan nodad
ip link set lan up
ip link set wire up
ip route add 172.20.0.0/16 via 192.168.31.99
echo 8080,9000-9010 >/proc/sys/net/ipv4/ip_local_reserved_ports
# What the kernel sets by itself when forwarding is switched on or off.
echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects
echo 1 >/proc/sys/net/ipv4/conf/wire/forwarding
echo 1 >/proc/sys/net/ipv6/conf/lan/forwarding
"""

RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:SOMEBODY - [0:0]
-A FORWARD -j SOMEBODY
-A SOMEBODY -s 172.20.0.0/16 -m comment --comment "it's \\"mine\\"" -j ACCEPT
COMMIT
"""

SAVES = [["iptables-nft-save"], ["ip6tables-nft-save"], ["iptables-legacy-save"],
         ["ip6tables-legacy-save"], ["nft", "-s", "list", "ruleset"], ["ip", "-4", "rule"], ["ip", "-6", "rule"],
         ["ip", "-4", "route", "show", "table", "all"],
         ["ip", "-6", "route", "show", "table", "all"], ["ip", "-o", "address"]]
VOLATILE = re.compile(r"\[\d+:\d+\]|^# .*\n|counter packets \d+ bytes \d+", re.M)
UNSTEADY = re.compile(r"conntrack_count|/conntrack_buckets|random|unix/|/stat|netfilter/nf_log")


def in_own_machine():
    """Starts this again where nothing of the real machine can be changed."""
    if os.environ.pop("FIXPORT_TEST_MACHINE", "") == "inside":
        return None
    tap = fptest.Tap()
    if not os.path.exists(SETUP):
        sys.exit(f"there is no {SETUP}")
    for tool in ("iptables-nft-save", "nft", "ip", "sysctl"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            tap.cannot("fixport-setup", f"{tool} is not installed")
            tap.end()
    done = subprocess.run([*UNSHARE, "iptables-nft", "-L"], capture_output=True, check=False)
    if done.returncode:
        tap.cannot("fixport-setup", "no namespaces or no nftables: " + done.stderr.decode().strip())
        tap.end()
    scratch = tempfile.mkdtemp(prefix="fixport-test.", dir="/tmp")
    os.chmod(scratch, 0o755)
    env = dict(os.environ, FIXPORT_TEST_MACHINE="inside", FIXPORT_TEST_SCRATCH=scratch,
               PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    done = subprocess.run([*UNSHARE, sys.executable, *sys.argv], env=env, check=False)
    shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(done.returncode)


def run(argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120,
                          stdin=subprocess.DEVNULL, **options)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


class Machine:
    """The machine under test, its files under @root."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.root = os.path.join(scratch, "root")
        self.wrappers = os.path.join(scratch, "wrappers")
        self.tools = os.path.join(scratch, "tools")
        for folder in (self.wrappers, self.tools):
            os.mkdir(folder)
        for tool in ("fixport-setup", "fixport-pool"):  # where nobody else can reach the build
            shutil.copy(os.path.join(fptest.BUILD, "tools", tool), self.tools)
        self.setup = os.path.join(self.tools, "fixport-setup")
        self.config = os.path.join(scratch, "site.conf")
        self.roles = ROLES
        self.clear()
        self.site()

    def clear(self):
        """The files as they are before anything."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.makedirs(self.root + os.path.dirname(MANIFEST_PATH))
        os.makedirs(self.root + "/etc/systemd/system")
        os.makedirs(self.root + "/etc/iproute2")
        os.makedirs(self.root + "/var/lib")
        os.makedirs(self.root + "/run/lock")
        write(self.root + MANIFEST_PATH, MANIFEST, 0o600)
        os.chown(self.root + MANIFEST_PATH, 1, 1)

    def site(self, text=SITE, **changes):
        """Writes the configuration, with key=value instead of what stands there."""
        for key, value in changes.items():
            text = re.sub(rf"^{key.replace('_', '-')} = .*$", f"{key.replace('_', '-')} = {value}",
                          text, flags=re.M)
        write(self.config, text)

    def environment(self, wrapped):
        path = [self.wrappers] if wrapped else []
        return dict(os.environ, PATH=":".join([*path, self.tools, os.environ["PATH"]]),
                    LC_ALL="C.UTF-8", COUNTER=os.path.join(self.scratch, "counter"))

    def argv(self, command, *more):
        site = ["--config", self.config, "--role", self.roles]
        takes_site = command in ("plan", "apply", "doctor")
        return [self.setup, "--root", self.root, *(site if takes_site else []), command, *more]

    def __call__(self, command, *more, wrapped=False):
        return run(self.argv(command, *more), env=self.environment(wrapped))

    def start(self, command, *more, wrapped=False):
        return subprocess.Popen(self.argv(command, *more), env=self.environment(wrapped),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def settle(self):
        """Waits for a tool that outlives its fixport-setup: it holds the lock."""
        if os.path.exists(self.root + LOCK):
            with open(self.root + LOCK, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)

    def wrap(self, tool, text, arguments="*"):
        """Puts a script before a tool, for calls with these arguments; $REAL is the tool, $N how
        many such calls of such tools came before."""
        real = shutil.which(tool) or shutil.which(tool, path=self.tools)
        if real:
            write(os.path.join(self.wrappers, tool), f"""#!/bin/sh
REAL={real}
case "$*" in
{arguments}) ;;
*) exec "$REAL" "$@" ;;
esac
N=$(cat "$COUNTER" 2>/dev/null || echo 0)
echo $((N + 1)) >"$COUNTER"
{text}
""", 0o755)

    def mark(self):
        """A file that a wrapper makes when its turn has come; it is not there."""
        path = os.path.join(self.scratch, "mark")
        if os.path.exists(path):
            os.unlink(path)
        return path

    def unwrap(self):
        shutil.rmtree(self.wrappers)
        os.mkdir(self.wrappers)
        self.count_again()

    def count_again(self):
        write(os.path.join(self.scratch, "counter"), "0\n")

    # ---- what it is like ----

    def state(self, exact=False):
        """All that could have been changed. With @exact, files with their times and inodes."""
        state = {" ".join(argv): VOLATILE.sub("", run(argv).stdout) for argv in SAVES}
        text = run(["grep", "-r", "", "/proc/sys/net"]).stdout
        state["sysctl"] = "\n".join(sorted(line for line in text.splitlines()
                                           if not UNSTEADY.search(line)))
        state["files"] = "\n".join(self.files(exact))
        return state

    def files(self, exact):
        for folder, folders, names in os.walk(self.root):
            for name in sorted(folders + names):
                path = os.path.join(folder, name)
                if path != self.root + LOCK:
                    shares = re.sub(r"(/run/fixport/pool)\.[0-9a-f]{16}$", r"\1.TAG", path)
                    yield shares[len(self.root):] + (describe(path, exact) if shares == path else "")
            folders.sort()


def describe(path, exact):
    info = os.lstat(path)
    text = f" {info.st_mode:o} {info.st_uid} {info.st_gid}"
    if os.path.islink(path):
        text += f" {os.readlink(path)}"
    elif path.endswith("/run/fixport/pool"):
        text += " " + run([os.path.join(fptest.BUILD, "tools", "fixport-pool"), "status", "--json",
                           "--pool", path]).stdout.partition('"created"')[0]
    elif os.path.isfile(path):
        with open(path, "rb") as file:
            text += f" {file.read()!r}"
    if exact and not os.path.isdir(path):
        text += f" {info.st_ino} {info.st_mtime_ns}"
    return text


def differences(before, after):
    """Lines that are in one of two states alone."""
    lines = []
    for name, text in before.items():
        old, new = text.splitlines(), after[name].splitlines()
        lines += [f"- {name}: {line[:300]}" for line in old if line not in new]
        lines += [f"+ {name}: {line[:300]}" for line in new if line not in old]
        if old != new and sorted(old) == sorted(new):
            lines.append(f"{name}: in another order")
    return lines


def told(done):
    return f"exit status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"


class Test:
    """One test: its machine, the state at its begin, and TAP."""

    def __init__(self, tap, machine):
        self.tap = tap
        self.machine = machine
        self.before = machine.state()

    def expect(self, done, status, name, pattern=None, stream="stderr"):
        """The exit status, and what stdout or stderr must have in it."""
        good = done.returncode == status
        if pattern:
            good = good and re.search(pattern, getattr(done, stream), re.M) is not None
        return self.tap.point(good, name, *([] if good else [told(done)]))

    def one_line(self, done, name, pattern):
        """A refusal: exit status 1, one line on stderr, and nothing changed."""
        lines = done.stderr.splitlines()
        changed = differences(self.before, self.machine.state())
        good = (done.returncode == 1 and len(lines) == 1 and not done.stdout and not changed
                and re.search(pattern, lines[0]) is not None)
        return self.tap.point(good, name, *([] if good else [told(done), *changed]))

    def one_line_only(self, done, name, pattern):
        """A refusal, where the test has changed the machine itself."""
        self.before = self.machine.state()
        return self.one_line(done, name, pattern)

    def unchanged(self, name, before=None, exact=False):
        changed = differences(before or self.before, self.machine.state(exact))
        return self.tap.point(not changed, name, *changed[:40])


def marked(value, site=SITE):
    """The site with a mark of its own."""
    return site.replace("[setup]\n", f"[setup]\nmark = {value}\n")


def own_routes(table):
    """Ours of both families in a routing table."""
    return "".join(run(["ip", family, "route", "show", "table", table, "proto", "161"]).stdout
                   for family in ("-4", "-6"))


def own_rules():
    """Ours of both families, of policy routing; not every ip(8) chooses them by "protocol"."""
    return "".join(line + "\n" for family in ("-4", "-6")
                   for line in run(["ip", family, "rule"]).stdout.splitlines() if "proto 161" in line)


# ---- the tests ----


def test_life(test):
    """plan, apply, status, again, undo."""
    machine = test.machine
    done = machine("plan")
    test.expect(done, 2, "plan: exit status 2", r"^\[#\] ip(6)?tables-nft-restore", "stdout")
    test.tap.point("-A FIXPORT-FORWARD" in done.stdout and "+    - --service-node-port-range" in
                   done.stdout, "plan: the rules and the manifest's difference")
    test.tap.point("(mode, owner, group 0600 0 0)\n(%d lines, for undo)" % MANIFEST.count("\n") in
                   done.stdout and done.stdout.count("apiVersion: v1") == 0,
                   "plan: not the whole manifest", done.stdout)
    test.expect(done, 2, "plan: what kubeadm must know", r"extraArgs:", "stdout")
    test.unchanged("plan changes nothing")
    done = machine("apply")
    test.expect(done, 0, "apply", r"^\[#\] ip -4 -batch -")
    changed = differences(test.before, machine.state())
    missing = [word for word in ("FIXPORT-FORWARD",
                                 "192.168.31.128/25 via 192.168.31.2 dev lan table 161",
                                 "fd00:31::67 via fd00:31::2 dev lan table 161",
                                 "ip -4 rule: 5:\tfrom 10.200.1.0/24 fwmark 0x2000/0x2000 lookup 161",
                                 "ip -6 rule: 5:\tfrom fd00:200:1::/64 fwmark 0x2000/0x2000 lookup 161",
                                 "ct mark set ct mark | 0x00002000", "table ip fixport", "ip_forward:1", "service-node-port-range",
                                 "fixport-setup.service", "run/fixport/pool",
                                 "8080,9000-9010,62000-62999")
               if not any(word in line for line in changed)]
    test.tap.equal(missing, [], "apply has changed what it should")
    test.tap.equal(own_routes("main"), "", "and has no route in table main for all")
    test.expect(machine("status"), 0, "status", r"^iptables ipv4 +as applied", "stdout")
    test.expect(machine("plan"), 0, "plan has nothing left", r"^Nothing to change", "stdout")
    exact = machine.state(exact=True)
    test.expect(machine("apply"), 0, "a second apply", r"^Nothing to change", "stdout")
    test.unchanged("a second apply changes nothing, not even a time", exact, exact=True)
    test.expect(machine("undo"), 0, "undo", r"^Undone", "stdout")
    test.unchanged("after undo all is as before")
    test.expect(machine("undo"), 0, "a second undo", r"^Nothing to undo", "stdout")


def test_rules_and_hosts(test):
    """What [rule] and [hosts] do not agree about is said by plan and by apply, or refused."""
    machine = test.machine
    whole = read(machine.config)
    plain = whole.replace("address = 192.168.31.2, fd00:31::2\n", "")
    argv = [machine.setup, "--root", machine.root, "--config", machine.config, "--role", "node"]
    for rule, note in (("192.168.31.0/24, fd00:31::67", None),
                       ("192.168.31.0/24, fd00:31::67, 10.9.9.9",
                        r"line \d+: \[rule r\] has 10\.9\.9\.9, but the addresses of \[hosts\], line \d+"),
                       ("192.168.31.0/24:60001, fd00:31::67",
                        r"line \d+: no \[rule\] is for 192\.168\.31\.67:60002")):
        write(machine.config, f"{plain}[rule r]\nto = {rule}\n")
        done = run([*argv, "plan"], env=machine.environment(False))
        found = [line for line in done.stderr.splitlines() if "[rule" in line]
        test.tap.point(done.returncode == 2 and len(found) == bool(note) and
                       (not note or re.search(note, found[0])), f"plan: to = {rule}", told(done))
        said = [n for n in json.loads(run([*argv, "plan", "--json"], env=machine.environment(False)).stdout)["notes"]
                if "[rule" in n]
        test.tap.equal(len(said), bool(note), "plan --json: the same note")
    done = run([*argv, "apply"], env=machine.environment(False))
    test.expect(done, 0, "apply says it, too", r"^fixport-setup: note: .*no \[rule\] is for")
    test.expect(machine("undo"), 0, "undo")
    write(machine.config, f"{whole}[rule r]\nto = 192.168.31.67:22\n[rule rest]\n")
    done = run([*argv, "plan"], env=machine.environment(False))
    test.one_line(done, "a port that the gateway rejects is refused",
                  r'\[rule r\] to = "192\.168\.31\.67:22": .* none of the services of \[hosts\], line \d+')
    write(machine.config, whole)


def test_other_configuration(test):
    """What an earlier apply made and nobody wants any more goes back."""
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    first = machine.state()
    changes = {"services": "8089", "ports": "63000-63999", "node_ports": "30500-31000"}
    machine.site(marked("0x80000000"), **changes)
    test.expect(machine("apply"), 0, "apply of another configuration")
    test.expect(machine("status"), 0, "status after that")
    test.tap.point(own_rules().count(" fwmark 0x80000000/0x80000000 lookup 161") == 2
                   and own_rules().count("\n") == 2, "with another mark", own_rules())
    machine.site(KEPT, mode="confine", **changes)
    test.expect(machine("apply"), 0, "apply of one without steering", r"not wanted any more")
    test.expect(machine("status"), 0, "status after that")
    test.tap.equal(own_rules() + own_routes("161"), "", "takes the rules and their table away")
    test.tap.point("masquerade to :63000-63999" in run(["nft", "list", "table", "ip", "fixport"]).stdout,
                   "and confines")
    machine.site()
    test.expect(machine("apply"), 0, "apply of the first one again")
    changed = [line for line in differences(first, machine.state()) if "journal.json" not in line]
    test.tap.point(not changed, "is as it was the first time", *changed)
    done = run([machine.setup, "--root", machine.root, "--config", machine.config, "--role",
                "control-plane", "apply"], env=machine.environment(False))
    test.expect(done, 0, "apply with one role less", r"not wanted any more")
    changed = differences(test.before, machine.state())
    others = [line for line in changed  # folders stay until undo
              if not re.search("manifests/|var/lib/fixport|/fixport-setup.service| 40755 0 0$", line)]
    test.tap.point(changed and not others, "only that role's things are left", *others)
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_one_network(test):
    """Behind a node's address answers would go past the gateway: refused, whatever machine it is."""
    machine = test.machine
    third = SITE.replace("address = 192.168.31.17, fd00:31::17", "address = 192.168.31.18, fd00:31::18")
    sites = {
        "gateway,node,control-plane": SITE, "node": SITE,
        "gateway": third.replace("192.168.31.2, fd00:31::2", "192.168.31.17, fd00:31::17"),
        "host": third.replace("192.168.31.67,", "192.168.31.17,").replace("fd00:31::67", "fd00:31::17"),
        "host,gateway": third.replace("192.168.31.67,", "192.168.31.17,").replace(
            "192.168.31.2, fd00:31::2", "192.168.31.17, fd00:31::17"),
    }
    for machine.roles, site in sites.items():
        for mode in ("keep", "confine"):
            machine.site(site + f"[snat]\nmode = {mode}\n")
            for command in ("plan", "apply"):
                test.one_line(machine(command), f"{machine.roles}: mode = {mode}: {command}",
                              rf"site\.conf: \[snat\] mode = {mode}: .*allowed .* mode = none")
        plans = []
        for snat in ("", "[snat]\nmode = none\n"):
            machine.site(site + snat)
            plans.append(json.loads(machine("plan", "--json").stdout))
        # The pool's rules are the file's: a node says that they would be better with the word in it.
        said = [note for note in plans[0]["notes"] if "scope = address" in note]
        test.tap.equal(len(said), "node" in machine.roles, f"{machine.roles}: and what it would change is said")
        plans[0]["notes"] = [note for note in plans[0]["notes"] if note not in said]
        alike = [json.dumps(plan).replace(r"scope = address\n", "") for plan in plans]
        test.tap.point(alike[0] == alike[1] and plans[0]["changes"],
                       f"{machine.roles}: mode = none is the default", *plans)
    machine.roles = "control-plane"
    machine.site(SITE + "[snat]\nmode = keep\n")
    test.expect(machine("plan"), 2, "a control plane alone is not concerned")
    machine.roles = "node"
    for family, gateway in (("IPv4", "192.168.31.2"), ("IPv6", "fd00:31::2")):
        machine.site(SITE.replace("192.168.31.2, fd00:31::2", gateway) + "[snat]\nmode = keep\n")
        test.one_line(machine("apply"), f"only {family} has a gateway: mode = keep", r"mode = keep")
    machine.site(KEPT)
    plan = machine("plan")
    test.expect(plan, 2, "without the gateway's address: mode = keep", r"masquerade to :62000-62999", "stdout")
    test.tap.point("lookup 161" not in plan.stdout, "needs no steering")
    test.unchanged("nothing was changed")


def test_routed(test):
    """Hosts on a network of their own, behind the gateway: there mode = keep is allowed, and the
    default; a route for all is made where there was none, and steering is needed where there was."""
    machine = test.machine
    machine.roles = "node"
    machine.site(SITE.replace("192.168.31.67, 192.168.31.128/25, fd00:31::67",
                              "192.168.77.0/24, fd00:77::67"))
    test.expect(machine("apply"), 0, "no way to the hosts before: apply")
    table = run(["nft", "list", "table", "ip", "fixport"]).stdout
    test.tap.point("masquerade to :62000-62999" in table, "keeps the port by default", table)
    test.tap.equal([line.split(" dev")[0] for line in own_routes("main").splitlines()],
                   ["192.168.77.0/24 via 192.168.31.2", "fd00:77::67 via fd00:31::2"],
                   "has routes in table main")
    test.tap.equal(own_rules() + own_routes("161"), "", "and steers nothing")
    test.expect(machine("apply"), 0, "a second apply", r"^Nothing to change", "stdout")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")
    run(["ip", "route", "add", "default", "via", "192.168.31.2"])
    before = machine.state()
    test.expect(machine("apply"), 0, "the gateway is the default router: apply")
    test.tap.point("fd00:77::67" in own_routes("main") and "192" not in own_routes("main"),
                   "needs no route", own_routes("main"))
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before", before)
    run(["ip", "route", "replace", "default", "via", "192.168.31.1"])
    before = machine.state()
    test.expect(machine("apply"), 0, "another default router: apply")
    test.tap.point("192.168.77.0/24 via 192.168.31.2 " in own_routes("161") and "lookup 161" in own_rules()
                   and "192" not in own_routes("main"), "steers", own_routes("161") + own_rules())
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before", before)
    run(["ip", "route", "del", "default"])


def checksum(value):
    """As the journal has it: FNV-1a of the JSON with sorted keys and without spaces."""
    total = 0xcbf29ce484222325
    for byte in json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode():
        total = (total ^ byte) * 0x100000001b3 % 2**64
    return f"{total:016x}"


OLD_ROUTES = {"ipv4": "192.168.31.67/32 via 192.168.31.2\n192.168.31.128/25 via 192.168.31.2\n",
              "ipv6": "fd00:31::67/128 via fd00:31::2\n"}


def apply_as_0_1_0(machine):
    """What 0.1.0 left on a node: SNAT that keeps the port, and routes to the hosts for everything."""
    machine.site(KEPT)
    machine("apply")
    path = machine.root + JOURNAL
    file = json.loads(read(path))
    entries = file["journal"]["entries"]
    at = [entry["type"] for entry in entries].index("nft")
    for name, lines in OLD_ROUTES.items():
        for line in lines.splitlines():
            run(["ip", f"-{name[3:]}", "route", "add", *line.split(), "proto", "161"])
        entries.insert(at, {"type": "routes", "name": name, "before": None, "previous": None,
                            "why": "send what is for the hosts through the gateway", "wanted": lines,
                            "after": lines, "done": True, "dropped": False})
    for entry in entries:
        entry["hidden"] = False
    file["checksum"] = checksum(file["journal"]) + checksum(None)
    write(path, json.dumps(file), 0o600)
    machine.site()


def test_upgrade(test):
    """From 0.1.0, whose nodes had their way to the hosts by the gateway for all that they send."""
    machine = test.machine
    machine.roles = "node"
    untouched = machine.state()
    apply_as_0_1_0(machine)
    old = machine.state()
    test.expect(machine("status"), 0, "what 0.1.0 applied: status",
                r"^routes ipv4 +as applied", "stdout")
    main = own_routes("main")
    test.tap.equal(main.count("\n"), 3, "it has its routes in table main")
    machine.site(SITE + "[snat]\nmode = keep\n")
    for command in ("plan", "apply"):
        test.one_line_only(machine(command), f"mode = keep is refused, in spite of 0.1.0's routes: {command}",
                           r"\[snat\] mode = keep: hosts and nodes are on one network")
    machine.site()
    machine.wrap("ip", """BATCH=$(cat)
case "$BATCH" in *"route del 192.168.31.67/32 "*" table main"*) echo "tool: no" >&2; exit 1 ;; esac
printf '%s\\n' "$BATCH" | "$REAL" "$@" """, STEPS["ip"])
    done = machine("apply", wrapped=True)
    test.expect(done, 1, "ip keeps the old routes: apply", r"tool: no.*\n(.*\n)*.*as it was before")
    changed = [line for line in differences(old, machine.state())  # the journal is written anew
               if "journal.json" not in line and line != "nft -s list ruleset: in another order"]
    test.tap.point(not changed, "ip keeps the old routes: all is as 0.1.0 left it", *changed)
    machine.unwrap()
    plan = json.loads(machine("plan", "--json").stdout)
    test.tap.point(plan["topology"].startswith("one network"), "plan sees one network", plan["topology"])
    test.expect(machine("apply"), 0, "apply", r"^# routes ipv4: not wanted any more")
    test.tap.equal(own_routes("main"), "", "takes the routes out of table main")
    table = run(["nft", "list", "table", "ip", "fixport"]).stdout
    test.tap.point("snat to ip saddr" in table and "masquerade" not in table,
                   "pods keep their address from now on", table)
    test.tap.point(own_routes("161").count("\n") == 3 and own_rules().count("\n") == 2,
                   "and are steered", own_routes("161") + own_rules())
    exact = machine.state(exact=True)
    test.expect(machine("plan"), 0, "plan has nothing left", r"^Nothing to change", "stdout")
    test.expect(machine("apply"), 0, "a second apply", r"^Nothing to change", "stdout")
    test.unchanged("changes nothing", exact, exact=True)
    test.expect(machine("status"), 0, "status")
    applied = machine.state()
    reboot_node(machine)
    test.expect(machine("boot"), 0, "boot")
    test.unchanged("sets it again", applied)
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before 0.1.0", untouched)
    apply_as_0_1_0(machine)
    reboot_node(machine)
    test.expect(machine("boot"), 0, "a reboot before the new apply: boot")
    test.tap.equal(own_routes("main"), main, "sets what 0.1.0 applied")
    test.expect(machine("undo"), 0, "undo of what 0.1.0 applied")
    test.unchanged("after undo all is as before 0.1.0", untouched)


def test_table_of_others(test):
    """Table 161 and our protocol's number are ours alone, or nothing is done."""
    machine = test.machine
    untouched = machine.state()
    for route in (["192.168.31.200", "via", "192.168.31.99"], ["blackhole", "10.99.0.0/16"],
                  ["192.168.31.128/25", "via", "192.168.31.2", "proto", "static"],
                  ["-6", "fd00:99::/64", "via", "fd00:31::99"]):
        family = ["-6"] if route[0] == "-6" else []
        route = [word for word in route if word != "-6"]
        run(["ip", *family, "route", "add", *route, "table", "161"])
        said = " ".join(route[:2]) if route[0] == "blackhole" else route[0]
        for command in ("plan", "apply"):
            test.one_line_only(machine(command), f"a route in table 161, {' '.join(route)}: {command}",
                               rf"routing table 161 has a route that is not fixport's \('.*{said}.*'\)")
        run(["ip", *family, "route", "flush", "table", "161"])
    run(["ip", "rule", "add", "priority", "99", "iif", "lan", "lookup", "99", "protocol", "161"])
    for command in ("plan", "apply"):
        test.one_line_only(machine(command), f"a rule with our number that we do not make: {command}",
                           r"policy routing with priority 99 has fixport's protocol number")
    run(["ip", "rule", "del", "priority", "99"])
    for kind in ("tables", "protos"):
        os.makedirs(f"/etc/iproute2/rt_{kind}.d", exist_ok=True)
        write(f"/etc/iproute2/rt_{kind}.d/test.conf", "161 somebodys\n")
    test.expect(machine("apply"), 0, "table and protocol have names on this machine: apply")
    test.tap.point("lookup somebodys proto somebodys" in run(["ip", "rule"]).stdout, "ip(8) shows them")
    test.expect(machine("plan"), 0, "plan has nothing left", r"^Nothing to change", "stdout")
    test.expect(machine("undo"), 0, "undo")
    for kind in ("tables", "protos"):
        os.unlink(f"/etc/iproute2/rt_{kind}.d/test.conf")
    test.unchanged("after undo all is as before", untouched)
    others = ["ip", "rule", "add", "priority", "5", "fwmark", "0x3000/0x3000", "lookup", "77"]
    run(others)
    test.one_line_only(machine("apply"), "somebody's rule for our mark",
                       r"\[setup\] mark = 0x2000 is in use here: .*priority 5, fwmark 0x3000/0x3000")
    run(["ip", "rule", "del", *others[3:]])
    others[6] = "0x10"
    run(others)
    before = machine.state()
    test.expect(machine("apply"), 0, "somebody's rule with our priority: apply")
    test.expect(machine("status"), 0, "status")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("leaves it", before)
    run(["ip", "rule", "del", *others[3:]])
    test.unchanged("and then all is as before", untouched)


def test_drift(test):
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    run(["iptables-nft", "-I", "FIXPORT-FORWARD", "-s", "10.9.9.9", "-j", "ACCEPT"])
    run(["ip", "route", "del", "192.168.31.128/25", "table", "161"])
    run(["ip", "rule", "del", "priority", "5"])
    done = machine("status")
    test.expect(done, 2, "status finds what has changed", r"^iptables ipv4 +changed", "stdout")
    test.expect(done, 2, "status misses the rule", r"^rule ipv4 +missing", "stdout")
    test.expect(done, 2, "status has the other family's", r"^rule ipv6 +as applied", "stdout")
    test.expect(done, 2, "and shows it", r"^\+.*10\.9\.9\.9", "stdout")
    test.expect(done, 2, "and the route", r"^-192\.168\.31\.128/25", "stdout")
    drifted = machine.state(exact=True)
    done = machine("undo")
    test.expect(done, 1, "undo refuses", r"nothing was undone")
    test.expect(done, 1, "and names it", r"iptables ipv4 was changed")
    test.unchanged("and changes nothing", drifted, exact=True)
    test.expect(machine("apply"), 0, "apply mends it")
    test.expect(machine("status"), 0, "status then")
    run(["ip", "rule", "add", "priority", "7", "fwmark", "0x4", "lookup", "7", "protocol", "161"])
    done = machine("status")
    test.expect(done, 2, "a rule of policy routing more: status", r"^\+7: fwmark 0x4 lookup 7", "stdout")
    test.expect(machine("undo"), 1, "undo refuses", r"rule ipv4 was changed")
    test.expect(machine("apply"), 0, "apply takes it away")
    test.expect(machine("status"), 0, "status then")
    run(["iptables-nft", "-I", "FIXPORT-FORWARD", "-s", "10.9.9.9", "-j", "ACCEPT"])
    run(["ip", "rule", "del", "priority", "5"])
    run(["ip", "-6", "route", "flush", "table", "161"])
    test.expect(machine("undo", "--force"), 0, "undo --force")
    test.unchanged("after undo --force all is as before")


def test_a_router_already(test):
    """Forwarding was on before: then it stays, and nothing comes with it."""
    machine = test.machine
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        run(["sysctl", "-w", f"net.{name}=1"])
    before = machine.state()
    test.expect(machine("apply"), 0, "a router already: apply")
    exact = machine.state(exact=True)
    test.expect(machine("apply"), 0, "a second apply", r"^Nothing to change", "stdout")
    test.unchanged("a second apply changes nothing", exact, exact=True)
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("a router already: after undo still", before)
    for name in ("ipv6.conf.all.forwarding", "ipv4.ip_forward"):
        run(["sysctl", "-w", f"net.{name}=0"])
    for name in ("ipv4.conf.all.accept_redirects=0", "ipv4.conf.wire.forwarding=1",
                 "ipv6.conf.lan.forwarding=1"):
        run(["sysctl", "-w", f"net.{name}"])


def test_interface_gone(test):
    """The settings of an interface that has gone meanwhile are nobody's to put back."""
    machine = test.machine
    for then in ("undo", "apply"):
        run(["ip", "link", "add", "extra", "type", "veth", "peer", "name", "other"])
        run(["sysctl", "-w", "net.ipv4.conf.extra.forwarding=1"])
        test.expect(machine("apply"), 0, "apply with an interface that forwards")
        run(["ip", "link", "del", "extra"])
        test.expect(machine("status"), 2, "it goes: status",
                    r"^sysctl net.ipv4.conf.extra.forwarding +missing", "stdout")
        test.expect(machine(then), 0, f"it goes: {then}")
    test.expect(machine("status"), 0, "status then")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


RESTORES = ("iptables-nft-restore", "ip6tables-nft-restore")
# The arguments with which each tool changes something (and not only looks).
STEPS = {**{tool: "*--noflush*" for tool in RESTORES}, "nft": "-f\\ -", "ip": "*-batch*",
         "sysctl": "*-w*", "ln": "*", "rm": "*"}


def test_failing_tools(test):
    """Each tool in turn says no when it is to change something, at its first, second... time."""
    machine = test.machine
    failures = {
        "at once": 'echo "tool: no" >&2; exit 1',
        "half-way": 'head -n 3 | "$REAL" "$@" >/dev/null 2>&1; echo "tool: no" >&2; exit 1',
        "when done": '"$REAL" "$@"; echo "tool: no" >&2; exit 1',
    }
    for tool, how in ((tool, how) for tool in STEPS for how in failures):
        wrong, count = [], 0
        while count < 8:
            machine.unwrap()
            mark = machine.mark()
            machine.wrap(tool, f"""[ $N -ne {count} ] || {{ : >{mark}; {failures[how]}; }}
exec "$REAL" "$@" """, STEPS[tool])
            done = machine("apply", wrapped=True)
            if not os.path.exists(mark):
                break
            if done.returncode != 1 or not re.search("as it was before|tool: no", done.stderr):
                wrong.append(told(done))
            wrong += differences(test.before, machine.state())
            count += 1
        machine("undo")
        if count:
            test.tap.point(not wrong, f"{tool} fails {how}, at each of {count}: nothing is changed",
                           *wrong)
    machine.unwrap()


def test_silent_tools(test):
    """A tool that says yes and does nothing is found out."""
    machine = test.machine
    for tool in ("iptables-nft-restore", "ip", "sysctl"):
        machine.unwrap()
        machine.wrap(tool, "exit 0", STEPS[tool])
        test.expect(machine("apply", wrapped=True), 1, f"{tool} does nothing: apply",
                    r"still it is not as asked")
        test.unchanged(f"{tool} does nothing: all is as before")
    machine.unwrap()
    machine.wrap("ip", """BATCH=$(cat)
case "$BATCH" in "rule add"*) exit 0 ;; esac
printf '%s\\n' "$BATCH" | "$REAL" "$@" """, STEPS["ip"])
    test.expect(machine("apply", wrapped=True), 1, "ip makes routes and no rules: apply",
                r"rule ipv4.*still it is not as asked")
    test.unchanged("ip makes routes and no rules: all is as before")
    machine.unwrap()


def mended(test, name, then):
    """After a kill: status says what happened, @then mends it. Return: what went wrong."""
    machine = test.machine
    machine.settle()
    journal = machine.root + JOURNAL
    phase = json.loads(read(journal))["journal"]["phase"] if os.path.exists(journal) else "none"
    done = machine("status")
    said = phase in ("none", "applied") or "interrupted" in done.stdout
    wrong = [] if said and done.returncode == (0 if phase in ("none", "applied") else 2) else \
        [f"{name}: phase {phase}: {told(done)}"]
    done = machine(then)
    if done.returncode:
        wrong.append(f"{name}: {then}: {told(done)}")
    return phase, wrong


def killed_often(test, command, then, moment):
    """Kills @command again and again; @moment(n) does it once, and says when to end."""
    machine = test.machine
    phases, wrong, count = {}, [], 0
    applied = None
    while len(wrong) < 3:
        if command == "undo":
            machine("apply")
            applied = applied or machine.state()
        if not moment(command, count):
            break
        name = f"{command}, {count}"
        phase, bad = mended(test, name, then)
        phases[phase] = phases.get(phase, 0) + 1
        if then == "apply":
            done = machine("status")
            bad += [] if done.returncode == 0 else [f"{name}: status then: {told(done)}"]
            machine("undo")
        bad += [f"{name}, {phase}: {line}" for line in differences(test.before, machine.state())]
        wrong += bad[:10]
        if bad:
            machine("undo", "--force")
            machine.clear()
        count += 1
    machine("undo", "--force")
    said = ", ".join(f"{phase} {number}" for phase, number in sorted(phases.items()))
    test.tap.point(not wrong and count, f"{command} killed {count} times ({said}): {then} mends it",
                   *wrong)


def test_killed_at_random(test):
    machine = test.machine
    seed = int(os.environ.get("FIXPORT_SETUP_SEED", random.randrange(1 << 30)))
    random.seed(seed)
    print(f"# FIXPORT_SETUP_SEED={seed}")
    began = time.monotonic()
    machine("apply")
    middle = time.monotonic()
    machine("undo")
    lasts = {"apply": middle - began, "undo": time.monotonic() - middle}

    def moment(command, count):
        process = machine.start(command)
        try:
            process.wait(random.uniform(0, 1.1) * lasts[command])
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        return count < ROUNDS

    for command in ("apply", "undo"):
        for then in ("undo", "apply"):
            killed_often(test, command, then, moment)


def test_killed_by_tools(test):
    """Killed when it has started its n-th step, before or after that has done its work, or while
    it is at it: then it outlives fixport-setup."""
    machine = test.machine

    def moment_of(text):
        def moment(command, count):
            machine.unwrap()
            mark = machine.mark()
            for tool, arguments in STEPS.items():
                machine.wrap(tool, f'[ $N -ne {count} ] || {{ : >{mark}; {text}; }}\n'
                                   'exec "$REAL" "$@"', arguments)
            process = machine.start(command, wrapped=True)
            process.communicate()
            machine.settle()
            machine.unwrap()
            return os.path.exists(mark)
        return moment

    before = moment_of("kill -KILL $PPID; exit 1")
    after = moment_of('"$REAL" "$@"; kill -KILL $PPID; exit 0')
    outlives = moment_of("kill -KILL $PPID")
    killed_often(test, "apply", "undo", before)
    killed_often(test, "apply", "apply", after)
    killed_often(test, "apply", "undo", outlives)
    killed_often(test, "undo", "undo", after)
    killed_often(test, "undo", "apply", before)


def test_signals(test):
    """INT, TERM and HUP while a tool runs: it ends, then all is rolled back."""
    machine = test.machine
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        machine.unwrap()
        mark = machine.mark()
        machine.wrap("iptables-nft-restore", f"""[ -e {mark} ] || kill -{int(number)} $PPID
: >{mark}
exec "$REAL" "$@" """, STEPS["iptables-nft-restore"])
        done = machine("apply", wrapped=True)
        test.expect(done, 128 + number, f"{number.name} during apply", r"as it was before")
        test.unchanged(f"{number.name}: all is as before")
    machine.unwrap()


def wait_for(what, seconds=30):
    """Asks until it is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def test_confirm(test):
    machine = test.machine
    test.one_line(machine("confirm"), "confirm when nothing waits", r"no apply waits")
    done = machine("apply", "--confirm", "600")
    test.expect(done, 0, "apply --confirm", r"'fixport-setup confirm'", "stdout")
    test.expect(machine("status"), 2, "status says that it waits", r"confirm", "stdout")
    test.expect(machine("apply"), 1, "apply meanwhile", r"waits for its confirmation")
    test.expect(machine("confirm"), 0, "confirm", r"kept", "stdout")
    test.expect(machine("status"), 0, "status then")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")
    test.expect(machine("apply", "--confirm", "600"), 0, "apply --confirm again")
    test.expect(machine("boot"), 0, "boot meanwhile", r"not confirmed")
    test.unchanged("boot has rolled it back")


def test_confirm_expires(test):
    """Left alone, and killed in the middle."""
    machine = test.machine
    machine.start("apply", "--confirm", "10").communicate()
    gone = wait_for(lambda: not os.path.exists(machine.root + JOURNAL))
    machine.settle()
    test.tap.point(gone, "what is not confirmed is rolled back")
    test.unchanged("not confirmed: all is as before")
    mark = machine.mark()
    machine.wrap("iptables-nft-restore", f"""[ -e {mark} ] || kill -KILL $PPID
: >{mark}
exec "$REAL" "$@" """, STEPS["iptables-nft-restore"])
    machine.start("apply", "--confirm", "10", wrapped=True).communicate()
    test.tap.point(os.path.exists(machine.root + JOURNAL), "apply --confirm killed in the middle")
    gone = wait_for(lambda: not os.path.exists(machine.root + JOURNAL))
    machine.settle()
    machine.unwrap()
    test.tap.point(gone, "killed in the middle, it is rolled back all the same")
    test.unchanged("killed and not confirmed: all is as before")


def test_confirm_terminal_goes(test):
    """A terminal of its own, that is closed after apply --confirm."""
    machine = test.machine
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execvpe("sh", ["sh", "-c", '"$@"; exec cat', "sh", *machine.argv("apply", "--confirm",
                                                                           "10")],
                   machine.environment(False))
    text = b""
    while b"confirm' comes" not in text:
        try:
            text += os.read(terminal, 4096)
        except OSError:
            break
    os.close(terminal)
    os.waitpid(pid, 0)
    test.tap.point(b"Applied" in text, "apply --confirm on a terminal")
    gone = wait_for(lambda: not os.path.exists(machine.root + JOURNAL))
    machine.settle()
    test.tap.point(gone, "the terminal goes: it is rolled back all the same")
    test.unchanged("the terminal is gone: all is as before")


def test_boot(test):
    machine = test.machine
    test.expect(machine("boot"), 0, "boot when nothing is applied", r"^Nothing to set", "stdout")
    test.expect(machine("apply"), 0, "apply")
    applied = machine.state()
    reboot(machine)
    test.tap.equal(own_routes("161") + own_rules(), "", "a reboot takes routes and rules away")
    done = machine("status")
    test.expect(done, 2, "status after a reboot", r"missing|as before", "stdout")
    for name in ("rule ipv4", "rule ipv6", "routes ipv4 table 161", "routes ipv6 table 161"):
        test.expect(done, 2, f"status misses {name}", rf"^{name} +(missing|as before)", "stdout")
    test.expect(machine("boot"), 0, "boot", r"^Set what was applied", "stdout")
    lines = differences(applied, machine.state())
    test.tap.point(not lines, "boot has set all again", *lines)
    test.expect(machine("boot"), 0, "a second boot", r"0 changes", "stdout")
    test.expect(machine("undo"), 0, "undo after a reboot")
    test.unchanged("undo after a reboot: all is as before the first apply")


def reboot(machine):
    """What a reboot takes away, as far as it is ours; what others had, they make again."""
    for family in ("-4", "-6"):
        run(["ip", family, "route", "flush", "table", "all", "proto", "161"])
        run(["ip", family, "rule", "flush", "protocol", "161"])
    run(["nft", "flush", "ruleset"])
    subprocess.run(["iptables-nft-restore"], input=RULES, text=True, check=True)
    run(["sysctl", "-w", "net.ipv4.ip_local_reserved_ports=8080,9000-9010"])
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        run(["sysctl", "-w", f"net.{name}=0"])
    for name in os.listdir(machine.root + "/run/fixport"):
        os.unlink(os.path.join(machine.root, "run/fixport", name))


def reboot_node(machine):
    """A node's forwarding is not ours: whoever switched it on does so again."""
    reboot(machine)
    for name in ("ipv4.conf.wire.forwarding", "ipv6.conf.lan.forwarding"):
        run(["sysctl", "-w", f"net.{name}=1"])


def test_locked(test):
    machine = test.machine
    before = test.before
    os.mkdir(os.path.dirname(machine.root + LOCK))
    test.before = machine.state()
    with open(machine.root + LOCK, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in ("apply", "undo", "confirm", "boot"):
            test.one_line(machine(command), f"{command} while another one is at work",
                          r"another fixport-setup is at work")
        test.expect(machine("plan"), 2, "plan does not mind")
        test.expect(machine("status"), 0, "status neither", r"another fixport-setup", "stdout")
    test.before = before
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("and the lock is gone with its folder")


def test_not_root(test):
    machine = test.machine
    os.chmod(machine.root, 0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
              "--bounding-set=-all", "--inh-caps=-all"]
    if run([*nobody, "true"]).returncode:
        test.tap.cannot("not root", "nobody else can be played here")
        return
    def plan(roles, *more):
        argv = [machine.setup, "--root", machine.root, "--config", machine.config, "--role", roles,
                *more]
        return run([*nobody, *argv], env=machine.environment(False))

    done = plan("gateway,node")
    test.expect(done, 2, "not root: plan works", r"^\[#\] ", "stdout")
    test.expect(done, 2, "not root: plan says what it could not see", r"without root")
    test.one_line(plan("control-plane"), "not root: a manifest that only root may read",
                  r"kube-apiserver.yaml: Permission denied")
    for command in ("apply", "undo", "confirm", "boot", "status"):
        done = run([*nobody, *machine.argv(command)], env=machine.environment(False))
        test.one_line(done, f"not root: {command} says so in one line", "needs root")
    test.expect(machine("apply"), 0, "apply")
    test.tap.equal(os.stat(machine.root + JOURNAL).st_mode & 0o777, 0o600, "the journal is root's")
    done = plan("gateway,node", "--json")
    test.expect(done, 2, "not root: plan works after an apply too", r"without root")
    left = {change["type"] for change in json.loads(done.stdout)["changes"]}
    test.tap.point(left <= {"iptables", "nft"}, "and has nothing to do that it can see", left)
    write(machine.root + PUBLIC, "{}\n")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("a copy of the journal that 0.1.0 made for everybody goes with it")


def test_json(test):
    machine = test.machine
    plan = json.loads(machine("plan", "--json").stdout)
    test.tap.point(plan["roles"] == ["gateway", "node", "control-plane"] and plan["changes"] and
                   all(change["steps"] for change in plan["changes"]), "plan --json")
    test.tap.point(plan["topology"].startswith("one network, a gateway with one arm: "),
                   "it says which topology it is", plan["topology"])
    test.tap.equal([[word in note for note in plan["notes"]] for word in (
        "has none of [gateway] address", "hosts and gateway should be applied first", "scope = address")],
                   [[True, False, False], [False, True, False], [False, False, True]], "and has a list of notes")
    applied = json.loads(machine("apply", "--json").stdout)
    test.tap.equal(applied["result"], "applied", "apply --json")
    for key in ("changes", "topology", "notes", "config", "roles", "resources"):
        test.tap.equal(applied[key], plan[key], f"has what plan had: {key}")
    test.tap.equal(sorted(change["name"] for change in plan["changes"] if change["type"] == "rule"),
                   ["ipv4", "ipv6"], "the rules are among them")
    test.tap.equal(json.loads(machine("apply", "--json").stdout)["result"], "unchanged",
                   "apply --json again")
    status = json.loads(machine("status", "--json").stdout)
    test.tap.point(status["phase"] == "applied" and all(it["good"] for it in status["resources"]),
                   "status --json")
    test.tap.equal(json.loads(machine("boot", "--json").stdout)["result"], "unchanged",
                   "boot --json")
    test.tap.equal(json.loads(machine("undo", "--json").stdout)["result"], "undone", "undo --json")
    test.tap.equal(json.loads(machine("undo", "--json").stdout)["result"], "unchanged",
                   "undo --json again")
    test.tap.equal(json.loads(machine("status", "--json").stdout)["phase"], "none",
                   "status --json of nothing")
    test.tap.equal(json.loads(machine("confirm", "--json").stdout)["result"], "failed",
                   "confirm --json of nothing")
    machine.site(pods="10.200.1.0/99")
    for command in ("plan", "apply", "doctor"):
        failed = json.loads(machine(command, "--json").stdout)
        test.tap.point(failed["result"] == "failed" and "10.200.1.0/99" in failed["error"],
                       f"{command} --json of a bad configuration", failed)
    machine.site()
    journal = machine.root + "/var/lib/fixport/journal.json"
    os.makedirs(os.path.dirname(journal), exist_ok=True)
    write(journal, "{}")
    for command in ("plan", "apply", "status", "undo", "boot", "confirm"):
        failed = json.loads(machine(command, "--json").stdout)
        test.tap.point(failed["result"] == "failed" and "damaged" in failed["error"],
                       f"{command} --json with a damaged journal", failed)
    shutil.rmtree(os.path.dirname(journal))


def test_json_of_errors(test):
    """Who asks for JSON gets one object, whatever is wrong."""
    machine = test.machine

    def failed(done, name, pattern, status=1):
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"result": "no JSON", "error": ""}
        good = (done.returncode == status and answer["result"] == "failed"
                and re.search(pattern, answer["error"]) is not None)
        test.tap.point(good, f"--json: {name}", *([] if good else [told(done)]))

    def line(*argv):
        return run([machine.setup, *argv], env=machine.environment(False))
    failed(line("plan", "--bogus", "--json"), "an unknown option before it", r"--bogus")
    failed(line("stauts", "--json"), "an unknown command", r"stauts")
    failed(line("--json", "--root", "/nowhere/at/all"), "no root", r"no such folder")
    failed(line("--json", "--config", "/nowhere.conf"), "no configuration", r"nowhere\.conf")
    failed(line("--json", "--config", b"/nowh\xe9re.conf"), "a name that is no UTF-8", r"nowh\?re")
    before = test.before
    os.mkdir(os.path.dirname(machine.root + LOCK))
    test.before = machine.state()
    with open(machine.root + LOCK, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in ("apply", "undo", "confirm", "boot"):
            failed(machine(command, "--json"), f"{command} while another is at work", r"at work")
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    if not run([*nobody, "true"]).returncode:
        for command in ("apply", "undo", "confirm", "boot"):
            failed(run([*nobody, *machine.argv(command, "--json")]), f"{command}, not root", r"root")
    done = line("--json", "--help")
    test.expect(done, 0, "--json --help", r"\AUsage", "stdout")
    test.tap.point("{" not in done.stdout, "is no JSON")
    path = os.path.join(os.fsencode(machine.scratch), b"s\xe9te.conf")
    shutil.copy(machine.config, path)
    argv = [machine.setup, "--root", machine.root, "--role", "gateway", "--json", "--config", path]
    plan = json.loads(line(*argv[1:], "plan").stdout)
    test.tap.point(plan["config"].endswith("s?te.conf"), "a path that is no UTF-8: plan --json")
    test.tap.equal(json.loads(line(*argv[1:], "apply").stdout)["result"], "applied", "and apply")
    test.tap.equal(json.loads(line(*argv[1:], "apply").stdout)["result"], "unchanged", "and again")
    test.expect(machine("undo"), 0, "undo")


def test_streams(test):
    """Standard streams that are missing or full: what is said goes nowhere else."""
    machine = test.machine

    def line(command, redirections, *more):
        return run(["sh", "-c", f'exec "$@" {redirections}', "sh", *machine.argv(command, *more)],
                   env=machine.environment(False))
    for command in ("plan", "status"):
        test.expect(line(command, ">/dev/full", "--json"), 1, f"{command} --json, stdout is full",
                    r"^fixport-setup: stdout cannot be written$")
    for streams in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        status = 0 if streams == "2>&-" else 1
        test.expect(line("apply", streams), status, f"apply with {streams}")
        test.tap.equal(read(machine.root + LOCK), "", "the lock stays empty")
        test.expect(machine("status"), 0, "all is applied", r"^iptables ipv4 +as applied", "stdout")
        test.expect(line("undo", streams), status, f"undo with {streams}")
        test.tap.point(not os.path.exists(machine.root + LOCK), "the lock goes")
        test.unchanged("after undo all is as before")


def test_folders(test):
    """What was made goes again; what others use by then stays."""
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    folder = machine.root + "/etc/iproute2/rt_protos.d"
    write(folder + "/other.conf", "# somebody's\n")
    test.expect(machine("status"), 0, "status with somebody's file in our folder")
    test.expect(machine("undo"), 0, "undo")
    test.tap.equal(os.listdir(folder), ["other.conf"], "his file and its folder stay")
    test.tap.point(not os.path.exists(os.path.dirname(machine.root + WANTED)), "other folders go")
    shutil.rmtree(folder)
    test.unchanged("nothing else is left")
    shutil.rmtree(machine.root)  # a system without anything
    os.makedirs(machine.root)
    machine.roles = "gateway,node"
    plan = json.loads(machine("plan", "--json").stdout)
    test.tap.equal(json.loads(machine("apply", "--json").stdout)["changes"], plan["changes"],
                   "an empty root: apply does what plan says")
    test.expect(machine("apply"), 0, "a second apply", r"^Nothing to change", "stdout")
    test.expect(machine("undo"), 0, "an empty root: undo")
    left = [os.path.join(folder, name)[len(machine.root):]
            for folder, folders, files in os.walk(machine.root) for name in folders + files]
    test.tap.equal(left, [], "nothing is left")
    machine.roles = ROLES
    machine.clear()


def test_path_spellings(test):
    """However a path is written, it is the same file in the same folders."""
    machine = test.machine
    machine.site()
    text = read(machine.config).replace("[pool]\n", "[pool]\npath = /run/a//b/.//./pool\n")
    write(machine.config, text)
    test.expect(machine("apply"), 0, "// and /./ in the pool's path: apply")
    test.tap.point(os.path.exists(machine.root + "/run/a/b/pool"), "the pool is there")
    write(machine.config, text.replace("/run/a//b/.//./pool", "/run/a/b/pool"))
    test.expect(machine("apply"), 0, "written plainly", r"^Nothing to change", "stdout")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_killed_between_folder_and_file(test):
    """A folder is there, or is not, and what was to come into it is not."""
    machine = test.machine
    for folder in ("etc/iproute2", "etc/systemd"):
        shutil.rmtree(os.path.join(machine.root, folder))
    test.before = machine.state()
    wrong, count, reached = [], 0, True
    while reached:
        for kill in ("kill -KILL $PPID; exit 1", '"$REAL" "$@"; kill -KILL $PPID; exit 0'):
            machine.unwrap()
            mark = machine.mark()
            machine.wrap("mkdir", f'[ $N -ne {count} ] || {{ : >{mark}; {kill}; }}\n'
                                  'exec "$REAL" "$@"')
            machine.start("apply", wrapped=True).communicate()
            reached = os.path.exists(mark)
            _, bad = mended(test, f"mkdir {count}, {kill}", "undo")
            wrong += bad + differences(test.before, machine.state())
        count += reached
    test.tap.point(not wrong and count > 3, f"killed at each of {count} folders: undo mends it",
                   *wrong[:10])


def test_root_is_not_left(test):
    """Symlinks under the root lead to where they would if it were the root."""
    machine = test.machine
    outside = os.path.join(machine.scratch, "outside")
    os.makedirs(outside + "/manifests")
    write(outside + "/manifests/kube-apiserver.yaml", MANIFEST)
    os.makedirs(machine.root + outside)
    os.symlink(outside + "/wants", machine.root + os.path.dirname(WANTED))
    for path in ("/etc/kubernetes", "/etc/systemd", "/etc/iproute2", "/var/lib", "/run"):
        name = os.path.basename(path)
        target = machine.root + outside + "/" + name
        shutil.move(machine.root + path, target)
        os.symlink(outside + "/" + name, machine.root + path)
    os.makedirs(machine.root + outside + "/wants")
    os.makedirs(machine.root + outside + "/state")
    os.symlink(outside + "/state", machine.root + outside + "/lib/fixport")
    host = run(["find", outside, "-printf", "%p %s %T@\n"]).stdout
    before = machine.state()
    test.expect(machine("apply"), 0, "absolute symlinks under the root: apply")
    test.expect(machine("status"), 0, "status")
    test.tap.point("30000-31999" in read(machine.root + outside +
                                         "/kubernetes/manifests/kube-apiserver.yaml"),
                   "the manifest under the root is changed")
    test.expect(machine("undo"), 0, "undo")
    test.tap.equal(run(["find", outside, "-printf", "%p %s %T@\n"]).stdout, host,
                   "nothing outside of the root is touched")
    lines = [line for line in differences(before, machine.state()) if "fixport/lock" not in line]
    test.tap.point(not lines, "under the root all is as before", *lines)
    machine.clear()
    os.rmdir(machine.root + "/var/lib")
    os.symlink("/nowhere", machine.root + "/var/lib")
    test.one_line_only(machine("apply"), "a symlink to nothing under the root",
                       r"/var/lib/.*leads to nothing under the root")
    machine.clear()


def test_manifest_keeps(test):
    """Extended attributes and access lists stay with the manifest; hard links are refused."""
    machine = test.machine
    path = machine.root + MANIFEST_PATH
    os.setxattr(path, "trusted.note", b"mine")
    machine.roles = "control-plane"
    before = sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    test.expect(machine("apply"), 0, "apply with extended attributes")
    now = sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    test.tap.equal(now, before, "they are kept")
    test.expect(machine("undo"), 0, "undo")
    now = sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    test.tap.equal(now, before, "they are kept by undo")
    os.link(path, machine.root + "/copy")
    for command in ("plan", "apply"):
        test.one_line_only(machine(command), f"a manifest with two names: {command}", r"2 names")
    os.unlink(machine.root + "/copy")
    machine.roles = ROLES


def services(*ports):
    """What kubectl says of Services with these node ports."""
    items = [{"metadata": {"namespace": "default", "name": f"web{i}"},
              "spec": {"ports": [{"port": 80}, {"port": 81, "nodePort": port}]}}
             for i, port in enumerate(ports)]
    return json.dumps({"kind": "List", "items": items})


def test_nodeports_of_services(test):
    """What is outside of the new range is told by plan; apply refuses it."""
    machine = test.machine
    machine.roles = "control-plane"
    admin = machine.root + "/etc/kubernetes/admin.conf"
    kubectl = os.path.join(machine.tools, "kubectl")
    asked = os.path.join(machine.scratch, "asked")

    def says(text):
        write(kubectl, f'#!/bin/sh\necho "$@" >{asked}\n{text}\n', 0o755)

    def answers(text):
        write(os.path.join(machine.scratch, "answer"), text)
        says(f"cat {machine.scratch}/answer")

    not_looked = (r"^fixport-setup: note: .*30000-31999 was not looked at \({}.*"
                  r"'kubectl get services --all-namespaces'")
    answers(services(32080))
    test.expect(machine("plan"), 2, "no admin.conf under the root: another cluster is not asked",
                not_looked.format("there is no"))
    test.tap.point(not os.path.exists(asked), "kubectl is not run")
    write(admin, "")
    test.before = machine.state()
    test.expect(machine("plan"), 2, "a Service with another node port: plan",
                r"^fixport-setup: note: apply will refuse: .*30000-31999: default/web0 32080\. ")
    test.tap.equal(read(asked), "get services --all-namespaces --output=json --request-timeout=5s "
                   f"--kubeconfig={admin}\n", "how kubectl is asked")
    test.one_line(machine("apply"), "apply refuses", r"default/web0 32080.* or --force$")
    done = machine("apply", "--json")
    test.tap.point(done.returncode == 1 and json.loads(done.stdout)["result"] == "failed",
                   "apply --json refuses", told(done))
    answers(services(29999, 30000, 31999, 32000, *range(40000, 40008)))
    test.expect(machine("plan"), 2, "many of them",
                r": default/web0 29999, default/web3 32000, .*/web6 40002 and 5 more\. ")
    answers(services(30000, 31999))
    done = machine("plan")
    test.tap.point(done.returncode == 2 and "node ports" not in done.stderr, "all are inside: nothing is said",
                   told(done))
    answers(services(30000).replace("30000}", '30000}], "healthCheckNodePort": 32001, "x": [1'))
    test.expect(machine("plan"), 2, "the port of a health check", r"default/web0 32001\.")
    answers(services(32080).replace("web0", "\\u001b[31m\\n"))
    test.expect(machine("plan"), 2, "a name that is none", r"default/\?\[31m\? 32080\.")
    for text in ("[]", "{}", '{"items": 1}', '{"items": [1, {}, {"spec": {"ports": [[], 7]}}]}'):
        answers(text)
        done = machine("plan")
        test.tap.point(done.returncode == 2 and "node ports" not in done.stderr, f"an odd answer: {text}", told(done))
    answers("no JSON")
    test.expect(machine("plan"), 2, "no JSON", not_looked.format("kubectl: its answer"))
    says("echo 'error: refused' >&2; exit 1")
    test.expect(machine("plan"), 2, "kubectl fails", not_looked.format("kubectl: error: refused"))
    says("sleep 600 & wait")
    test.expect(machine("plan"), 2, "kubectl hangs", not_looked.format("kubectl: .*8 s"))
    test.unchanged("nothing was changed")
    answers(services(32080))
    test.expect(machine("apply", "--force"), 0, "apply --force")
    os.unlink(asked)
    done = machine("plan")
    test.tap.point(done.returncode == 0 and "node ports" not in done.stderr and not os.path.exists(asked),
                   "once that is the range nobody is asked", told(done))
    os.unlink(kubectl)


def test_interrupted_undo(test):
    """Whoever comes next says what he makes of it."""
    machine = test.machine

    def interrupt():
        machine("apply")
        machine.wrap("ip", "kill -KILL $PPID; exit 1", STEPS["ip"])
        machine("undo", wrapped=True)
        machine.settle()
        machine.unwrap()
    interrupt()
    test.expect(machine("status"), 2, "status", r"^An undo was interrupted.*undo goes on", "stdout")
    test.expect(machine("plan"), 2, "plan", r"undo was interrupted here: apply sets again")
    test.expect(machine("apply"), 0, "apply", r"undo was interrupted: what it has put back")
    test.expect(machine("status"), 0, "status after apply")
    test.expect(machine("undo"), 0, "undo after that")
    test.unchanged("all is as before")
    interrupt()
    done = machine("boot")
    test.expect(done, 0, "boot", r"undo was interrupted: going on")
    test.expect(done, 0, "boot says that it is undone", r"undo was interrupted; it is done", "stdout")
    test.unchanged("boot has undone it")
    interrupt()
    test.expect(machine("undo"), 0, "undo", r"undo was interrupted: going on")
    test.unchanged("undo has gone on")


def test_read_only_sysctls(test):
    machine = test.machine
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    done = run(["unshare", "--mount", "sh", "-c", script, "sh", *machine.argv("apply")],
               env=machine.environment(False))
    test.one_line(done, "/proc/sys is read-only: apply", r"/proc/sys is read-only")


def test_no_place_for_the_journal(test):
    """A read-only /var/lib: nothing is begun, at first and when something is applied already."""
    machine = test.machine
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'

    def apply():
        return run(["unshare", "--mount", "sh", "-c", script, machine.root + "/var/lib",
                    *machine.argv("apply")], env=machine.environment(False))
    test.one_line(apply(), "/var/lib is read-only: apply", r"Read-only")
    test.unchanged("/var/lib is read-only: all is as before")
    test.expect(machine("apply"), 0, "apply where it can be written")
    applied = machine.state(exact=True)
    machine.site(services="8089")
    test.expect(apply(), 1, "/var/lib is read-only: a second apply",
                r"Read-only.*\n.*as it was before")
    test.unchanged("/var/lib is read-only: all is as after the first", applied, exact=True)
    machine.site()
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_legacy(test):
    """With iptables-legacy. Its tables cannot be taken away again, so they are there before."""
    machine = test.machine
    if run(["iptables-legacy", "-w", "-nL"]).returncode or run(["ip6tables-legacy", "-w", "-nL"]).returncode:
        test.tap.cannot("iptables-legacy", "this kernel or system does not have it")
        return
    before = machine.state()
    machine.site(iptables="legacy")
    done = machine("apply")
    test.expect(done, 0, "iptables = legacy: apply", r"^\[#\] iptables-legacy-restore")
    test.tap.point("FIXPORT-FORWARD" in run(["iptables-legacy-save"]).stdout,
                   "iptables = legacy: the rules are there")
    machine.site()
    test.expect(machine("apply"), 1, "another backend now: apply refuses", r"undo first")
    machine.site(iptables="auto")
    test.expect(machine("apply"), 0, "auto keeps to what was used", r"^Nothing to change", "stdout")
    test.expect(machine("status"), 0, "status")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("iptables = legacy: after undo all is as before", before)


def test_without_iptables(test):
    """Only the other tools are to be found."""
    machine = test.machine
    folder = os.path.join(machine.scratch, "few")
    os.mkdir(folder)
    for name in ("ip", "nft", "sysctl", "ln", "rm", "mkdir"):
        shutil.copy2(os.path.realpath(shutil.which(name)), os.path.join(folder, name))
    script = 'mount -t tmpfs tmpfs /usr/sbin; mount -t tmpfs tmpfs /sbin; PATH="$0" exec "$@"'
    done = run(["unshare", "--mount", "sh", "-c", script, folder, *machine.argv("apply")])
    test.one_line(done, "no iptables: apply", r"iptables")


def journal_bytes(machine):
    with open(machine.root + JOURNAL, "rb") as file:
        return file.read()


def test_garbled_journal(test):
    machine = test.machine
    machine("apply")
    good = journal_bytes(machine)
    before = machine.state()
    random.seed(7)
    wrong = []
    for i in range(200):
        bad = bytearray(good)
        if i % 3 == 0:
            for _ in range(1 + i % 7):
                bad[random.randrange(len(bad))] = random.randrange(33, 127)
        elif i % 3 == 1:
            del bad[random.randrange(len(bad) - 2):]
        else:
            bad = bytearray(random.randbytes(random.randrange(1, 2000)))
        if bytes(bad) == good:
            continue
        with open(machine.root + JOURNAL, "wb") as file:
            file.write(bad)
        for command in [("status", "undo", "plan", "apply", "boot", "confirm")[i % 6], "undo"]:
            done = machine(command)
            if done.returncode != 1 or len(done.stderr.splitlines()) != 1 or done.stdout:
                wrong.append(f"{i}, {command}: {told(done)}")
    with open(machine.root + JOURNAL, "wb") as file:
        file.write(good)
    test.tap.point(not wrong, "200 garbled journals: each is refused with one line", *wrong[:5])
    lines = [line for line in differences(before, machine.state()) if "journal" not in line]
    test.tap.point(not lines, "and nothing is changed", *lines)
    test.expect(machine("undo"), 0, "the good one again: undo")
    test.unchanged("after undo all is as before")


def test_bad_input(test):
    """Each refusal is one line, and nothing is changed."""
    machine = test.machine
    def line(*argv):
        return run([machine.setup, *argv], env=machine.environment(False))
    root = ["--root", machine.root]
    for argv, name, pattern in (
            (["stauts"], "unknown command", r"'stauts'.*status"),
            (["-z"], "unknown option", r"unknown option -z"),
            (["--jason"], "unknown long option", r"unknown option --jason"),
            (["--config"], "option without value", r"needs a value"),
            (["status", "more"], "an argument too many", r"'more' is one argument too many"),
            (["status", "--force"], "option of another command", r"status does not take --force"),
            (["undo", "--role", "host"], "--role for undo", r"undo does not take"),
            (["plan", "--confirm", "60"], "--confirm for plan", r"plan does not take --confirm"),
            (["apply", "--confirm", "9"], "--confirm too short", r"10 to 3600"),
            (["apply", "--confirm", "3601"], "--confirm too long", r"10 to 3600"),
            (["apply", "--confirm", "1e3"], "--confirm that is no number", r"10 to 3600"),
            (["apply", "--confirm", "-60"], "--confirm below zero", r"10 to 3600"),
            (["apply", "--role", "king"], "unknown role", r"king.*host"),
            (["apply", "--role", ""], "empty role", r"--role"),
            (["--root", "/nowhere/at/all"], "a root that is not there", r"no such folder"),
            (["--config", "a", "--config", "b"], "--config twice", r"given twice"),
            ([*root, "--config", "/nowhere.conf"], "no configuration", r"/nowhere\.conf"),
            ([*root, "--config", machine.config], "no role for this machine", r"fixport-test"),
    ):
        test.one_line(line(*argv), name, pattern)
    for changes, name, pattern in (
            ({"ports": "60001-80001"}, "a port beyond 65535", r"80001 is not a port"),
            ({"services": "8088; rm -rf /"}, "a shell in a port", r"services"),
            ({"node_ports": "62500-62600"}, "node ports in the pool's range", r"62500"),
            ({"text": KEPT, "mode": "maybe"}, "an unknown mode", r"keep"),
            ({"persist": "yes"}, "an unknown persist", r"own"),
    ):
        machine.site(**changes)
        test.one_line(machine("apply"), name, pattern)
    for mark in ("0", "0x0", "0x3", "12288", "-8192", "+8192", "0x", "0x100000000", "0x2000/0x2000",
                 "18446744073709559808", "08", "one", "0x2000,0x4000", ""):
        machine.site(marked(mark))
        test.one_line(machine("apply"), f"mark = {mark}", r"\[setup\] mark")
    machine.site()
    write(machine.root + MANIFEST_PATH, "kind: Service\n", 0o600)
    os.chown(machine.root + MANIFEST_PATH, 1, 1)
    test.before = machine.state()
    test.one_line(machine("apply"), "a manifest that is not an API server's", r"kube-apiserver")


def test_smuggling(test):
    """Nothing of the configuration gets into a rule but numbers and addresses."""
    machine = test.machine
    for text in ("-j ACCEPT", "--help", "$(id)", "`id`", "\\n-A FORWARD", "'", '"', "10.0.0.1\t-j"):
        for key in ("addresses", "services", "address", "pods", "mark"):
            machine.site(marked("0x2000"), **{key: text})
            done = machine("plan")
            if done.returncode != 1 or len(done.stderr.splitlines()) != 1:
                test.tap.point(False, f"{key} = {text}", told(done))
    machine.site()
    test.unchanged("values that are no ports or addresses are refused")


PERSISTENT = """#!/bin/sh
mkdir -p /etc/iptables
iptables-nft-save >/etc/iptables/rules.v4
ip6tables-nft-save >/etc/iptables/rules.v6
"""


def test_distribution(test):
    """persist = distribution, with the real paths: /etc and /var/lib are the test's own here."""
    machine = test.machine
    os.makedirs("/etc/iptables", exist_ok=True)
    write("/etc/iptables/rules.v4", "# old\n")
    argv = [machine.setup, "--config", machine.config, "--role", "gateway"]
    machine.site(persist="distribution")
    write(os.path.join(machine.wrappers, "netfilter-persistent"), PERSISTENT, 0o755)
    env = machine.environment(True)
    run(["iptables-nft", "-N", "DOCKER-TEST"])
    docker = machine.state()
    done = run([*argv, "apply"], env=env)
    test.expect(done, 1, "a chain of Docker's is there: apply refuses", r"DOCKER-TEST")
    test.unchanged("and nothing is changed", docker)
    run(["iptables-nft", "-X", "DOCKER-TEST"])
    done = run([*argv, "apply"], env=env)
    test.expect(done, 0, "persist = distribution: apply", r"^\[#\] netfilter-persistent save")
    saved = read("/etc/iptables/rules.v4")
    test.tap.point("FIXPORT-FORWARD" in saved, "the rules are saved")
    times = os.stat("/etc/iptables/rules.v4").st_mtime_ns
    test.expect(run([*argv, "apply"], env=env), 0, "a second apply", r"^Nothing", "stdout")
    test.tap.equal(os.stat("/etc/iptables/rules.v4").st_mtime_ns, times, "does not save again")
    write("/etc/iptables/rules.v4", saved + "# mine\n")
    machine.site()
    test.expect(run([*argv, "apply"], env=env), 1, "persist = own, others have saved since: apply",
                r"rules\.v4 is not wanted any more, and others have changed it")
    test.tap.equal(read("/etc/iptables/rules.v4"), saved + "# mine\n", "loses nothing of theirs")
    write("/etc/iptables/rules.v4", saved)
    machine.site(persist="distribution")
    test.expect(run([machine.setup, "status"], env=env), 0, "status")
    test.expect(run([machine.setup, "undo"], env=env), 0, "undo")
    test.tap.equal(read("/etc/iptables/rules.v4"), "# old\n", "undo puts the saved rules back")
    test.tap.point(not os.path.exists("/etc/iptables/rules.v6"), "and removes what was not there")
    test.unchanged("after undo all is as before")
    shutil.rmtree("/etc/iptables")
    machine.unwrap()
    test.expect(run([*argv, "apply"], env=env), 1, "without netfilter-persistent",
                r"netfilter-persistent")


def test_empty_machine(test):
    """No table at all before: none afterwards."""
    machine = test.machine
    run(["nft", "flush", "ruleset"])
    for table in ("ip filter", "ip6 filter"):
        run(["nft", "delete", "table", *table.split()])
    before = machine.state()
    test.expect(machine("apply"), 0, "no rules at all: apply")
    test.expect(machine("undo"), 0, "no rules at all: undo")
    test.unchanged("no rules at all: none afterwards", before)
    subprocess.run(["iptables-nft-restore"], input=RULES, text=True, check=True)


def test_owners(test):
    """A machine has one who sets it up: neither takes away what is the other's."""
    machine = test.machine
    daemon = ("--owner", "the DaemonSet fixport-setup")
    by_hand = r"set up by hand, for role gateway, node, control-plane from .*site\.conf"
    by_daemon = r"set up by the DaemonSet fixport-setup, for role node from"
    test.expect(machine("apply"), 0, "by hand, all roles: apply")
    hand = machine.state()
    machine.roles = "node"
    for command in ("plan", "apply", "undo"):
        test.expect(machine(command, *daemon), 1, f"{command} by a DaemonSet is refused, and says who was first", by_hand)
    test.unchanged("what was applied by hand stays", hand)
    test.expect(machine("undo"), 0, "undo by hand")
    test.expect(machine("apply", *daemon), 0, "then the DaemonSet may")
    test.expect(machine("status"), 0, "status says who", r"^Applied .* for role node, by the DaemonSet fixport-setup\.", "stdout")
    applied = machine.state()
    machine.roles = "control-plane"
    for command in ("plan", "apply", "undo"):
        test.expect(machine(command), 1, f"{command} by hand is refused, and says who was first", by_daemon)
    test.unchanged("what the DaemonSet applied stays", applied)
    machine.roles = "node"
    test.expect(machine("apply", *daemon), 0, "the DaemonSet applies again", "Nothing to change", "stdout")
    journal = read(machine.root + JOURNAL)
    test.tap.point('"owner": "the DaemonSet fixport-setup"' in journal, "the journal says whose it is")
    test.expect(machine("undo", "--force"), 0, "undo --force by hand")
    test.expect(machine("apply", "--owner", "a" * 48), 1, "an owner's name that is too long", "--owner: a name of at most 47")


RESERVED = "net.ipv4.ip_local_reserved_ports"


def test_reserved_ports_of_others(test):
    """What the administrator reserves after the first apply is his, and stays."""
    machine = test.machine

    def reserve(ports):
        run(["sysctl", "-w", f"{RESERVED}={ports}"])

    def reserved(ports, name):
        test.tap.equal(run(["sysctl", "-n", RESERVED]).stdout.strip(), ports, name)

    test.expect(machine("apply"), 0, "apply")
    reserve("5000,8080,9000-9010,62000-62999,64000")
    test.expect(machine("status"), 0, "status is content with others' ports")
    test.expect(machine("plan"), 0, "so is plan", r"^Nothing to change", "stdout")
    test.expect(machine("boot"), 0, "boot", r"0 changes", "stdout")
    test.expect(machine("apply"), 0, "a second apply")
    reserved("5000,8080,9000-9010,62000-62999,64000", "all are there still")
    machine.site(ports="62500-63999")
    test.expect(machine("apply"), 0, "apply of other ports")
    reserved("5000,8080,9000-9010,62500-64000", "ours are others, his are there still")
    reserve("5000,8080")
    test.expect(machine("status"), 2, "ours gone: status", rf"^sysctl {RESERVED} +changed",
                "stdout")
    test.expect(machine("boot"), 0, "ours gone: boot")
    reserved("5000,8080,62500-63999", "puts ours to his")
    test.expect(machine("undo"), 0, "undo")
    reserved("5000,8080", "takes only ours away")
    reserve("8080,9000-9010")
    test.unchanged("and then all is as before")
    machine.site()
    machine("apply")
    reserve("5000,8080,9000-9010,62000-62999")
    done = run([machine.setup, "--root", machine.root, "--config", machine.config, "--role",
                "control-plane", "apply"], env=machine.environment(False))
    test.expect(done, 0, "a role that reserves none")
    reserved("5000,8080,9000-9010", "leaves his alone")
    machine("undo")
    reserve("8080,9000-9010")


def docker_comes():
    """What dockerd does to the chain FORWARD when it starts."""
    for line in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-D FORWARD -j DOCKER-USER",
                 "-N DOCKER-FORWARD", "-I FORWARD -j DOCKER-FORWARD", "-I FORWARD -j DOCKER-USER"):
        run(["iptables-nft", *line.split()])


def docker_goes():
    for line in ("-D FORWARD -j DOCKER-USER", "-D FORWARD -j DOCKER-FORWARD", "-F DOCKER-USER",
                 "-X DOCKER-USER", "-X DOCKER-FORWARD"):
        run(["iptables-nft", *line.split()])


def guarded(test, name):
    """Packets that are forwarded come to our chain, and are forwarded."""
    rules = run(["iptables-nft-save", "-t", "filter"]).stdout
    ours = re.search(r"^-A FORWARD -j DOCKER-USER\n", rules, re.M) and re.search(
        r"^-A DOCKER-USER .*-j FIXPORT-FORWARD\n", rules, re.M)
    good = ours and read("/proc/sys/net/ipv4/ip_forward") == "1\n"
    test.tap.point(good, name, *([] if good else [rules]))


def test_docker_starts_later(test):
    """A reboot takes DOCKER-USER away; boot may be there before Docker."""
    machine = test.machine
    docker_comes()
    before = machine.state()
    test.expect(machine("apply"), 0, "Docker is there: apply")
    guarded(test, "its chain has the jump to ours")
    run(["iptables-nft", "-D", "FORWARD", "-j", "DOCKER-USER"])
    test.expect(machine("status"), 2, "nothing leads to its chain: status", r"^\+0 -A DOCKER-USER",
                "stdout")
    test.expect(machine("apply"), 0, "nothing leads to its chain: apply")
    guarded(test, "mends it")
    reboot(machine)
    test.expect(machine("boot"), 0, "boot before Docker has come")
    guarded(test, "guards the machine")
    test.expect(machine("status"), 0, "status then")
    docker_comes()
    test.expect(machine("status"), 0, "status when Docker has come")
    guarded(test, "the machine is guarded still")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before, with Docker's", before)
    test.expect(machine("apply"), 0, "apply again")
    reboot(machine)
    test.expect(machine("boot"), 0, "boot, and Docker does not come any more")
    test.expect(machine("undo"), 0, "undo then")
    test.unchanged("after undo nothing is left of Docker's chain")


def test_docker_installed(test):
    """Docker is installed and has not been started: its chain is where it will look for it."""
    machine = test.machine
    machine.wrap("true", "")
    os.rename(os.path.join(machine.wrappers, "true"), os.path.join(machine.wrappers, "dockerd"))
    test.expect(machine("apply", wrapped=True), 0, "Docker is not there yet: apply")
    guarded(test, "DOCKER-USER is there, and has the jump to ours")
    docker_comes()
    test.expect(machine("apply", wrapped=True), 0, "Docker comes: apply", r"^Nothing", "stdout")
    docker_goes()
    test.expect(machine("undo", "--force"), 0, "undo when it has gone, with our jump")
    test.unchanged("after undo all is as before")


def test_others_around_ours(test):
    """Rules of others above our jump are their business: undo takes only ours away."""
    machine = test.machine
    others = ["iptables-nft", "-I", "FORWARD", "-s", "10.9.9.9", "-j", "DROP"]
    run(others)
    run(others)
    wanted = machine.state()
    run(["iptables-nft", "-D", *others[2:]])
    run(["iptables-nft", "-D", *others[2:]])
    test.expect(machine("apply"), 0, "apply")
    run(others)
    run(others)
    test.expect(machine("status"), 2, "a rule above ours: status shows it", r"^\+3 -A FORWARD",
                "stdout")
    test.expect(machine("undo"), 0, "undo needs no force")
    test.unchanged("and leaves the others'", wanted)
    test.expect(machine("apply"), 0, "apply")
    run(["iptables-nft", "-I", "FIXPORT-FORWARD", "-j", "RETURN"])
    test.expect(machine("undo"), 1, "a rule among ours: undo refuses", r"nothing was undone")
    test.expect(machine("undo", "--force"), 0, "undo --force")
    run(["iptables-nft", "-D", *others[2:]])
    run(["iptables-nft", "-D", *others[2:]])
    test.unchanged("and then all is as before")


def test_boot_unguarded(test):
    """Without the rules, of whichever tool, nothing is forwarded; the rest comes up."""
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    for tool in ("iptables-nft-restore", "nft"):
        reboot(machine)
        machine.wrap(tool, 'echo "tool: no" >&2; exit 1', STEPS[tool])
        test.expect(machine("boot", wrapped=True), 1, f"{tool} fails: boot", r"not turned on")
        machine.unwrap()
        forward = read("/proc/sys/net/ipv4/ip_forward") + read(
            "/proc/sys/net/ipv6/conf/all/forwarding")
        test.tap.equal(forward, "0\n0\n", f"{tool} fails: nothing is forwarded")
        test.tap.point("192.168.31.128/25" in own_routes("161") and "lookup 161" in own_rules(),
                       f"{tool} fails: the routes are there")
        test.expect(machine("boot"), 0, f"{tool} works again: boot")
        test.expect(machine("status"), 0, f"{tool} works again: status")


def test_control_plane_not_confirmed(test):
    """The manifest outlasts a reboot: the unit has to be there to roll it back."""
    machine = test.machine
    machine.roles = "control-plane"
    done = machine("apply", "--confirm", "600")
    test.expect(done, 0, "control-plane: apply --confirm", r"^\+ExecStart=.*boot$")
    test.tap.point(os.path.exists(machine.root + UNIT) and os.path.islink(machine.root + WANTED),
                   "the unit is there")
    test.expect(machine("boot"), 0, "a reboot before it is confirmed", r"was not confirmed")
    test.unchanged("it is rolled back")


def test_confirm_needs_the_unit(test):
    machine = test.machine
    machine.site(persist="none")
    test.one_line(machine("apply", "--confirm", "600"), "persist = none: apply --confirm refuses",
                  r"persist = none")
    test.expect(machine("apply"), 0, "persist = none: apply")
    test.tap.point(not os.path.exists(machine.root + UNIT), "persist = none: no unit")


def test_notes(test):
    """What stands in the way of a reboot is told, by plan and by apply; there is no other note."""
    machine = test.machine
    machine.site(KEPT)
    done = machine("plan")
    program = re.search(r"ExecStart=(\S+)", done.stdout)[1]
    note = rf"^fixport-setup: note: the unit starts {machine.root}{program}, which is not there"
    test.expect(done, 2, "plan: what the unit starts is not there", note)
    test.expect(machine("apply"), 0, "apply says so too", note)
    test.tap.point("note" not in machine("apply").stderr, "a second apply does not")
    os.makedirs(machine.root + os.path.dirname(program))
    write(machine.root + program, "", 0o644)
    test.expect(machine("plan"), 0, "it cannot be executed: plan says so", note)
    os.chmod(machine.root + program, 0o755)
    test.tap.equal(machine("plan").stderr, "", "it is there: nothing to say")
    machine("undo")
    machine.site()
    plan = [machine.setup, "--config", machine.config, "--role", "node", "plan"]
    folders = ("/run/systemd/system", "/run/systemd/netif", "/run/NetworkManager")
    test.expect(run(plan), 2, "no systemd: plan says so", r"note: systemd does not run here")
    for folder in folders:
        os.makedirs(folder)
    write("/run/systemd/netif/state", "")
    done = run(plan)
    test.tap.point("systemd does not run" not in done.stderr, "systemd runs: nothing to say")
    test.expect(done, 2, "systemd-networkd runs", r"note: systemd-networkd drops routes")
    test.expect(done, 2, "NetworkManager runs", r"note: when NetworkManager takes")
    shutil.rmtree("/run/systemd")
    shutil.rmtree("/run/NetworkManager")


SYSTEMCTL = """#!/bin/sh
# Of systemd as much as fixport-setup asks for: boot runs on its own, and needs the lock.
echo "$*" >>"$0.log"
case "$*" in
*is-active*) [ -e "$0.active" ] ;;
*start*) : >"$0.active"; setsid sh -c 'exec "$1" boot >"$0.boot" 2>&1' "$0" "$SETUP" & ;;
*stop*) rm "$0.active" ;;
esac
"""


def test_unit_is_active(test):
    """systemd restarts units with those they are part of only if they are active."""
    machine = test.machine
    tool = os.path.join(machine.wrappers, "systemctl")
    started = "--no-block --job-mode=ignore-dependencies start fixport-setup.service"
    env = dict(machine.environment(True), SETUP=machine.setup)

    def setup(*argv):
        return run([machine.setup, *argv], env=env)

    def told():
        lines = read(tool + ".log").splitlines()
        os.unlink(tool + ".log")
        return [line for line in lines if "is-active" not in line]

    def booted():
        for _ in range(500):
            if os.path.exists(tool + ".boot") and read(tool + ".boot").endswith("\n"):
                break
            time.sleep(0.02)
        text = read(tool + ".boot")
        os.unlink(tool + ".boot")
        return text

    write(tool, SYSTEMCTL, 0o755)
    os.makedirs("/run/systemd/system")
    apply = ["--config", machine.config, "--role", "gateway", "apply"]
    test.expect(setup(*apply), 0, "apply where systemd runs")
    test.tap.equal(told(), ["daemon-reload", started], "it starts the unit")
    test.tap.equal(booted(), "Set what was applied: 0 changes.\n", "whose boot finds nothing to do")
    test.expect(setup(*apply), 0, "a second apply")
    test.tap.equal(told(), [], "has nothing to tell systemd")
    test.expect(setup("undo"), 0, "undo")
    test.tap.equal(told(), ["daemon-reload", started.replace("start", "stop", 1)], "stops it again")
    test.expect(setup(*apply, "--confirm", "600"), 0, "apply --confirm")
    test.tap.equal(told(), ["daemon-reload"], "does not start it: boot would roll back")
    test.expect(setup("confirm"), 0, "confirm")
    test.tap.equal((told(), booted()), ([started], "Set what was applied: 0 changes.\n"), "does")
    test.expect(setup("undo"), 0, "undo")
    test.unchanged("and all is as before")
    shutil.rmtree("/run/systemd")
    os.unlink(tool)


def test_distribution_saves_another(test):
    """The distribution's tool may be of the other iptables: then it has saved nothing of ours."""
    machine = test.machine
    machine.site(persist="distribution")
    argv = [machine.setup, "--config", machine.config, "--role", "gateway"]
    tool = os.path.join(machine.wrappers, "netfilter-persistent")
    env = machine.environment(True)
    write(tool, PERSISTENT.replace("ip6tables-nft-save", "true"), 0o755)
    done = run([*argv, "apply"], env=env)
    test.expect(done, 1, "IPv6 is not saved: apply fails",
                r"rules\.v6 has no chain FIXPORT-FORWARD")
    test.unchanged("and all is as before")
    write(tool, PERSISTENT.replace("-nft-", "-legacy-"), 0o755)
    done = run([*argv, "apply"], env=env)
    test.expect(done, 1, "legacy is saved: apply fails", r"rules\.v4 has no chain FIXPORT-FORWARD")
    test.unchanged("and all is as before")
    write(tool, PERSISTENT, 0o755)
    run(["iptables-nft", "-N", "KUBE-TEST"])
    done = run([*argv, "plan"], env=env)
    test.expect(done, 2, "a chain of Kubernetes' is there: plan tells that apply will refuse",
                r"^fixport-setup: note: apply will refuse: .*KUBE-TEST")
    run(["iptables-nft", "-X", "KUBE-TEST"])
    test.tap.point("refuse" not in run([*argv, "plan"], env=env).stderr, "without it plan is quiet")
    shutil.rmtree("/etc/iptables")


def main(tests, site=SITE):
    """Runs the functions test_... among @tests, each on the machine with @site."""
    # A shell that runs this in the background has SIGINT ignored, and fixport-setup would respect it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    in_own_machine()
    scratch = os.environ["FIXPORT_TEST_SCRATCH"]
    done = run(["sh", "-c", BEFORE, "sh", scratch])
    if done.returncode:
        sys.exit(f"the machine cannot be made: {done.stderr}")
    subprocess.run(["iptables-nft-restore"], input=RULES, text=True, check=True)
    tap = fptest.Tap()
    machine = Machine(scratch)
    write(machine.config, site)
    for name, function in list(tests.items()):
        if not name.startswith("test_") or not callable(function) or not (
                len(sys.argv) < 2 or any(word in name for word in sys.argv[1:])):
            continue
        print(f"# {name[5:]}")
        function(Test(tap, machine))
        machine.unwrap()
        machine("undo", "--force")
        machine.roles = ROLES
        machine.clear()
        write(machine.config, site)
    tap.end()


if __name__ == "__main__":
    main(globals())
