#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport 0.1.0 and this one on one node: the DaemonSet's steps of each with programs of the other
running. 0.1.0 is built from the repository's own history, and kept in the build tree.

    host 192.168.31.67 ---- node 192.168.31.17, MASQUERADE ---- pods 10.200.1.2, 10.200.1.3

    tests/tools/test_upgrade.py
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402
import old as releases  # noqa: E402

SOURCE = Path(__file__).resolve().parent.parent.parent
POOL = "/run/fixport/pool"
PYTHON = next(path for path in ("/usr/bin/python3", sys.executable) if os.path.exists(path))  # that any user may run
PORTS = range(61001, 61900)
CONFIG = "[pool]\nports = 61001-61899\nquarantine = 3s\n"

NODE = """
mount -t tmpfs none /run
mkdir /run/netns
sysctl -qw net.ipv4.ip_forward=1
ip link add bridge type bridge
ip addr add 10.200.1.1/24 dev bridge
ip link set bridge up
for name in host old new; do
    ip netns add $name
    ip link add $name type veth peer name eth0 netns $name
    ip link set $name up
    nsenter --net=/run/netns/$name ip link set lo up
    nsenter --net=/run/netns/$name ip link set eth0 up
done
ip addr add 192.168.31.17/24 dev host
nsenter --net=/run/netns/host ip addr add 192.168.31.67/24 dev eth0
for name in old new; do
    ip link set $name master bridge
    nsenter --net=/run/netns/$name ip addr add 10.200.1.$([ $name = old ] && echo 2 || echo 3)/24 dev eth0
    nsenter --net=/run/netns/$name ip route add default via 10.200.1.1
done
iptables -w -t nat -A POSTROUTING -s 10.200.1.0/24 -o host -j MASQUERADE
# The two minutes for which a node remembers connections, and a pool that is made anew does not, are short here.
for state in close close_wait fin_wait last_ack time_wait; do
    sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_$state=1
done
"""

SERVER = """
import socket, threading
server = socket.create_server(("", 60001), backlog=1024)
print("ready", flush=True)
def serve(peer, where):
    with peer:
        peer.sendall(b"%d\\n" % where[1])
        peer.recv(1)
while True:
    threading.Thread(target=serve, args=server.accept(), daemon=True).start()
"""

# For each line, so many connections as it says, and keeps the last ones open: for each the port
# that it has and the one that the host saw, or the error.
CLIENT = """
import socket, sys
kept = []
for line in sys.stdin:
    said = []
    for _ in range(int(line)):
        try:
            c = socket.create_connection(("192.168.31.67", 60001), 10)
            said.append("%d:%s" % (c.getsockname()[1], c.recv(9).decode().strip()))
            kept.append(c)
            if len(kept) > 3:
                kept.pop(0).close()
        except OSError as error:
            said.append(error.strerror.replace(" ", "-"))
    print(*said, flush=True)
"""


class Pod:
    """A program in a pod that goes on through all that happens."""

    def __init__(self, netns, library, on_error, user=0, read_only=False):
        bind = ["unshare", "--mount", "sh", "-c", "mount --bind /run/fixport /run/fixport && "
                'mount -o remount,bind,ro /run/fixport && exec "$@"', "sh"] if read_only else []
        env = dict(os.environ, LD_PRELOAD=":".join([*fptest.BEFORE, str(library)]), FIXPORT_ON_ERROR=on_error)
        env = {name: value for name, value in env.items() if not name.startswith("FIXPORT_") or name == "FIXPORT_ON_ERROR"}
        self.open = []  # ports of connections that are open
        self.words = tempfile.TemporaryFile("w+")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            fptest.in_netns(netns, *bind, "setpriv", f"--reuid={user}", "--clear-groups", "env",
                            *(f"{name}={value}" for name, value in env.items() if name in ("LD_PRELOAD", "FIXPORT_ON_ERROR")),
                            PYTHON, "-c", CLIENT),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True,
            env={name: value for name, value in env.items() if name != "LD_PRELOAD"})

    def connect(self, count=5):
        """Return: [(own port, port that the host saw)], or an error's words in the place of a pair."""
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return []
        made = [tuple(map(int, word.split(":"))) if ":" in word else word.replace("-", " ")
                for word in self.process.stdout.readline().split()]
        self.open = [*self.open, *(pair[0] for pair in made if isinstance(pair, tuple))][-3:]
        return made

    def said(self):
        self.words.seek(0)
        return self.words.read()

    def end(self):
        """Return: its exit status."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        return self.process.wait(60)


STRANGERS = []  # pods whose connections are from another pool than the one that is there now


def are_in(made):
    """Whether all are connections from the range that left the node as they were. Those that had the bad
    luck to meet one of a stranger are documented."""
    known = {port for pod in STRANGERS for port in pod.open}
    return bool(made) and all(isinstance(pair, tuple) and pair[0] in PORTS and (pair[0] == pair[1] or pair[0] in known)
                              for pair in made)


def are_out(made):
    """Whether all are connections from any port."""
    return bool(made) and all(isinstance(pair, tuple) and pair[0] not in PORTS for pair in made)


def are_refused(made):
    return bool(made) and set(made) == {"Cannot assign requested address"}


def comes_true(pod, check):
    """Connects until @check holds of what comes of it: programs look after the pool once a second."""
    deadline = time.monotonic() + 20
    while not check(made := pod.connect(1)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return check(made)


class Release:
    """One of the two: the DaemonSet's image, so to say."""

    def __init__(self, tree, build):
        self.tree, self.build = Path(tree), Path(build)
        self.library = Path(f"/run/{self.tree.name}.so")  # where any user can read it
        shutil.copy(self.build / "shim" / "libfixport.so", self.library)
        self.state = f"/run/state-{self.tree.name}"

    def node(self, *argv):
        """fixport-node as the containers run it. Return: (exit status, what it said)."""
        env = dict(os.environ, FIXPORT_CONFIG="/run/site.conf", FIXPORT_STATE=self.state, FIXPORT_LIBRARY=str(self.library),
                   PATH=f"{self.build}/tools:{os.environ['PATH']}")
        done = subprocess.run(["sh", self.tree / "contrib/docker/fixport-node", *argv], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
        return done.returncode, done.stdout

    def pool(self, *argv):
        done = subprocess.run([self.build / "tools/fixport-pool", *argv], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, timeout=60)
        return done.returncode, done.stdout

    def rollout(self):
        """The DaemonSet's pod starts: its init containers, one after the other, until one fails.
        Return: (whether all went well, what they said)."""
        status, said = self.node("once", "pool")
        if status == 0:
            status, more = self.node("install", "/opt/fixport/lib")
            said += more
        return status == 0, said


def file_state(path):
    """What tells whether anybody touched a file."""
    st = os.stat(path)
    return st.st_ino, st.st_size, stat.S_IMODE(st.st_mode), st.st_ctime_ns


def check_stop(tap, release, what, pool_stays):
    """@release's DaemonSet on a node whose pool is the other's: it stops there, and changes nothing."""
    library = file_state("/opt/fixport/lib/libfixport.so")
    before = file_state(POOL)
    good, said = release.rollout()
    tap.point(not good and "another version of fixport" in said, f"{what}: the rollout stops at the node, and says why", said)
    status, said = release.node("ready", "pool")
    tap.point(status, f"{what}: it is not ready", said)
    for words in (["status"], ["status", "--json"], ["list"], ["metrics"], ["reclaim"], ["reload", "-c", "/run/site.conf"]):
        status, said = release.pool(*words)
        tap.point(status == 2 and "another version of fixport" in said and said.count("\n") == 1,
                  f"{what}: {' '.join(words[:2])} says that the pool is of another version", status, said)
    tap.equal((file_state(POOL), file_state("/opt/fixport/lib/libfixport.so")), (before, library),
              f"{what}: pool and library are as they were")
    status, said = pool_stays.pool("status")
    tap.equal(status, 0, f"{what}: and the pool is in order")


def make_pods(netns, release):
    return {(on_error, user): Pod(netns, release.library, on_error, user) for on_error in ("pass", "fail") for user in (0, 1000)}


def check_pods(tap, pods, what, good):
    """All of @pods connect from the range."""
    for (on_error, user), pod in pods.items():
        made = pod.connect()
        tap.point(good(made), f"{what}: FIXPORT_ON_ERROR={on_error}, user {user}", made, pod.said())


def check_without(tap, pods, what):
    """The pool at their path is none of theirs: they say so, once, and do as FIXPORT_ON_ERROR says."""
    for (on_error, user), pod in pods.items():
        check = are_out if on_error == "pass" else are_refused
        good = comes_true(pod, check) and check(pod.connect())
        words = pod.said()
        # 0.1.0 asks for the right to write first, which now only root has.
        tap.point(good and re.search("another version of fixport|permission denied", words) and words.count("\n") == 1,
                  f"{what}: FIXPORT_ON_ERROR={on_error}, user {user}: it says so once, and "
                  f"{'is not restricted' if on_error == 'pass' else 'is refused'}", pod.connect(1), words)


def check_back(tap, pods, what):
    for (on_error, user), pod in pods.items():
        tap.point(comes_true(pod, are_in), f"{what}: FIXPORT_ON_ERROR={on_error}, user {user}", pod.connect(1), pod.said())


def check_apart(tap, pods, what):
    """All pods, at once, and with connections that stay open: the node moves none."""
    made = [pair for _ in range(3) for pod in pods for pair in pod.connect(4)]
    tap.point(are_in(made), f"{what}: no port is in two hands, the node moves none", made)


def remove_pool(strangers):
    """What contrib/kubernetes/README.md says is done at a node that was drained, the two minutes being over. But
    pods of DaemonSets stay."""
    os.unlink(POOL)
    STRANGERS[:] = strangers
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and re.search("^tcp(?!.* ESTABLISHED )", subprocess.run(
            ["conntrack", "-L", "-p", "tcp"], capture_output=True, text=True, check=True).stdout, re.M):
        time.sleep(0.1)


def try_upgrade(tap, old, new):
    """From 0.1.0 to this one, and back."""
    tap.point(old.rollout()[0], "0.1.0: its DaemonSet makes the pool and brings the library")
    was = make_pods("old", old)
    check_pods(tap, was, "0.1.0 by itself", are_in)
    check_stop(tap, new, "upgrade", old)
    check_pods(tap, was, "upgrade, the rollout has stopped: programs of 0.1.0 go on", are_in)
    pods = make_pods("new", new)
    check_without(tap, pods, "this library with a pool of 0.1.0")

    remove_pool(was.values())
    good, said = new.rollout()
    tap.point(good, "upgrade, the pool is removed: the rollout goes on", said)
    check_without(tap, was, "upgrade: programs of 0.1.0 that stayed")
    check_back(tap, pods, "upgrade: programs of this one leave from the range")
    more = make_pods("old", new)  # started in a pod of 0.1.0's manifests, which has all of /run/fixport to write
    check_pods(tap, more, "upgrade: new programs in pods as they were written for 0.1.0", are_in)
    check_apart(tap, [*pods.values(), *more.values()], "upgrade")
    status, said = new.pool("status")
    tap.point(status == 0 and "2 alive" in said, "upgrade: status sees who has the new library", said)

    check_stop(tap, old, "rollback", new)
    check_pods(tap, pods, "rollback, it has stopped: programs of this one go on", are_in)
    late = {("fail", 1000): Pod("new", old.library, "fail", 1000)}
    check_without(tap, late, "0.1.0's library with a pool of this one")
    remove_pool([*pods.values(), *more.values()])
    good, said = old.rollout()
    tap.point(good, "rollback, the pool is removed: it goes on", said)
    check_back(tap, was, "rollback: programs of 0.1.0 have a pool again")
    check_back(tap, late, "rollback: and one that began with the other one's")
    first = make_pods("new", new)
    check_without(tap, first, "rollback: programs of this one")
    check_apart(tap, [*was.values(), *late.values()], "rollback")
    early = Pod("new", old.library, "pass", 1000, read_only=True)
    made = early.connect()
    tap.point(are_out(made) and "read-only" in early.said(),
              "this one's manifests on a node of 0.1.0, whose library must write all: it says so", made, early.said())

    # "reload --any", by hand, without the words that stop the DaemonSet.
    STRANGERS[:] = [*was.values(), *first.values(), *pods.values(), *more.values(), *late.values()]
    for release, mine, others in ((new, [*first.values()], was), (old, [*was.values()], {})):
        status, said = release.pool("reload", "--any", "-c", "/run/site.conf")
        tap.equal(status, 0, f"reload --any by {release.tree.name}: it makes the pool anew {said if status else ''}")
        tap.point(all(comes_true(pod, are_in) for pod in mine), "its own programs leave from the range", [pod.said() for pod in mine])
        for (on_error, _), pod in others.items():
            tap.point(comes_true(pod, are_out if on_error == "pass" else are_refused), f"the others' do not ({on_error})")
    ended = [pod.end() for pod in (*was.values(), *pods.values(), *more.values(), *late.values(), *first.values(), early)]
    tap.equal(set(ended), {0}, "no program came to harm in all of this")


def inside(tap, tree):
    subprocess.run(["bash", "-ec", NODE], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/opt"], check=True)
    os.makedirs("/opt/fixport")
    os.makedirs("/run/fixport")
    Path("/run/site.conf").write_text(CONFIG, encoding="utf-8")
    with subprocess.Popen(fptest.in_netns("host", sys.executable, "-c", SERVER), stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        try:
            try_upgrade(tap, Release(tree, f"{tree}/build"), Release(SOURCE, fptest.BUILD))
        finally:
            server.kill()


def main():
    tap = fptest.Tap()
    if sys.argv[1:2] == ["--inside"]:
        inside(tap, sys.argv[2])
        tap.end()
    if os.geteuid() or not fptest.can_make_netns():
        tap.cannot("upgrade from 0.1.0", "namespaces need root")
        tap.end()
    for tool in ("conntrack", "iptables", "setpriv"):
        if not shutil.which(tool):
            tap.cannot("upgrade from 0.1.0", f"there is no {tool}")
            tap.end()
    tree = releases.build(tap, "upgrade from 0.1.0")
    if tree:
        done = subprocess.run(["unshare", "--mount", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                               sys.executable, __file__, "--inside", tree], stdout=subprocess.PIPE, text=True, check=False, timeout=600)
        lines = re.findall(r"^(ok|not ok) \d+ - (.*)((?:\n# .*)*)", done.stdout, re.M)
        for word, name, more in lines:
            tap.point(word == "ok", name, more.replace("\n# ", "\n").strip())
        tap.point(lines and done.stdout.rstrip().endswith(f"1..{len(lines)}"), "all of it was tried")
    tap.end()


if __name__ == "__main__":
    main()
