# SPDX-License-Identifier: MIT
"""The DaemonSets of contrib/kubernetes, run as pods with their own securityContext and mounts."""

import json
import re

import clients
import fptest
import manifests
import node as nodes

NODE = "base/node.yaml"
SETUP = "components/node-setup/setup.yaml"
SHIPPED = manifests.read("base/fixport.conf")
LIBRARY = "/opt/fixport/lib/libfixport.so"
RANGE = 61001, 61899
NEW_RANGE = 61100, 61199
SITE = f"""
[pool]
ports = 61001-61899
[node node]
address = {nodes.NODE}
pods = 10.89.0.0/16
[hosts]
addresses = {nodes.HOST}
[setup]
persist = none
node-pool = no
"""

# Makes a connection for each line of its input, in one process, and keeps them all.
STEPS = """
import socket, sys
kept = []
for _ in sys.stdin:
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
    c.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    f = c.makefile()
    kept.append((c, f))
    print([f.readline() for _ in range(4)][3], end="", flush=True)
"""


class Steps:
    """A program in a pod that goes on through all that happens."""

    def __init__(self, node, container):
        self.process = node.podman_start("exec", "-i", "-e", "FIXPORT_LOG=", container, "python3",
                                         "-c", STEPS, nodes.HOST, str(nodes.SERVICE))

    def port(self):
        """Return: the source port of one more connection, as the server saw it, or 0."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = re.match(r"\S+ (\d+)$", self.process.stdout.readline().strip())
        return int(found[1]) if found else 0

    def end(self):
        self.process.stdin.close()
        return self.process.wait()


def is_ready(node, container):
    """What the readiness probe of the manifest asks."""
    what = container.rpartition("-")[2]
    return node.podman_try("exec", container, "fixport-node", "ready", what).returncode == 0


def round_of(node):
    """When the configuration was last looked at that it cannot take."""
    return node.podman("exec", "fixport-node-pool", "stat", "-c", "%y",
                       "/run/fixport-node/fixport.conf")


def configure(node, text, key="fixport.conf"):
    """The ConfigMap changes, and the kubelet puts the new file into the volume, by a rename."""
    folder = json.loads(node.podman("volume", "inspect", "fixport"))[0]["Mountpoint"]
    node.write(f"{folder}/..new", text)
    node.must(["mv", f"{folder}/..new", f"{folder}/{key}"])


def start_node(node, config=SHIPPED):
    node.play(manifests.daemon(NODE, config))
    nodes.wait_for(lambda: is_ready(node, "fixport-node-pool"))


def process_of(node, container):
    """The node's number of the first process of a container."""
    return json.loads(node.podman("inspect", container))[0]["State"]["Pid"]


def may(node, container):
    """What the first process of a container may: (user, capabilities, read-only root)."""
    process = process_of(node, container)
    status = node.must(["cat", f"/proc/{process}/status"])
    mounts = node.must(["cat", f"/proc/{process}/mounts"])
    root = re.search(r"^\S+ / \S+ (\S+)", mounts, re.M)[1].split(",")
    return (int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1]),
            int(re.search(r"^CapEff:\s+(\w+)", status, re.M)[1], 16), "ro" in root)


def case_node(tap, node):
    """The library, the pool and the metrics; with the configuration that is shipped."""
    start_node(node)
    tap.point(is_ready(node, "fixport-node-pool"), "node.yaml: it is ready",
              node.logs("fixport-node-pool"))
    tap.equal((may(node, "fixport-node-pool"), may(node, "fixport-node-metrics")),
              ((0, 0, True), (65534, 0, True)),
              "node.yaml: neither has a capability or a writable root, and metrics no root user")
    container = node.pod("node-pool", service=nodes.OTHER)
    clients.check_programs(tap, node, clients.DEBIAN, ["exec", "-e", "FIXPORT_LOG=", container],
                           "node.yaml, pods/node-pool.yaml", RANGE)
    url = f"http://{node.address('fixport-node-metrics')}:9464/metrics"
    metrics = node.must(["curl", "-sSi", "-m", "10", url])
    tap.point("200 OK" in metrics and "text/plain; version=0.0.4" in metrics and
              re.search(r"^fixport_pool_ports 899$", metrics, re.M) and
              re.search(r'^fixport_holders\{alive="true"\} [1-9]', metrics, re.M),
              "node.yaml: the metrics are those of the node's pool", metrics)
    keeper = str(process_of(node, "fixport-node-pool"))
    node.must(["kill", "-STOP", keeper])  # it would make another at once
    node.must(["mv", "/run/fixport/pool", "/run/fixport/away"])
    said = nodes.wait_for(lambda: " 503 " in (text := node.must(["curl", "-sSi", "-m", "10", url])) and
                          text)  # an answer is good for a second and more
    ready = node.podman_try("exec", "fixport-node-pool", "fixport-node", "ready", "pool")
    gone = "/run/fixport/pool: there is no pool"
    tap.point(said and gone in said and ready.returncode and gone in ready.stdout + ready.stderr,
              "node.yaml: without a pool, metrics and readiness say so", said, ready)
    node.must(["kill", "-CONT", keeper])
    tap.point(nodes.wait_for(lambda: is_ready(node, "fixport-node-pool")),
              "node.yaml: and it is made again")
    inode = node.must(["stat", "-c", "%i", "/run/fixport/pool"])
    node.must(["truncate", "-s", "5000", "/run/fixport/pool"])
    tap.point(nodes.wait_for(lambda: is_ready(node, "fixport-node-pool") and
                             node.must(["stat", "-c", "%i", "/run/fixport/pool"]) != inode),
              "node.yaml: a damaged pool is made anew", node.logs("fixport-node-pool"))


def case_group(tap, node):
    """A pool for a group: what node.yaml says of supplementalGroups, which this podman does not
    take from a manifest: they are given to it."""
    node.write("/run/group.conf", SHIPPED.replace("[pool]", "[pool]\nmode = 0660\ngroup = 2000"))
    start = ["run", "--rm", "--cap-drop=all", "-v", "/run/fixport:/run/fixport", "-v",
             "/run/group.conf:/etc/fixport/fixport.conf"]
    done = node.podman_try(*start, "fixport", "once", "pool")
    tap.point(done.returncode != 0 and "pool cannot be made" in done.stdout + done.stderr,
              "a pool for a group, without the group: it says so", done.stdout, done.stderr)
    done = node.podman_try(*start, "--group-add=2000", "fixport", "once", "pool")
    tap.equal((done.returncode, node.must(["stat", "-c", "%a %u %g", "/run/fixport/pool"])),
              (0, "640 0 2000\n"), "a pool for a group, with the group: it is made")
    metrics = [node.podman_try(*start, "--user=65534:65534", *group, "--entrypoint",
                               "fixport-pool", "fixport", "metrics").returncode
               for group in ([], ["--group-add=2000"])]
    tap.point(metrics[0] and not metrics[1], "a pool for a group: metrics needs it, too", metrics)


def starts(node, name):
    """Whether a pod that is shipped starts, or has to wait for the node."""
    try:
        node.pod(name, service=nodes.OTHER)
    except nodes.Failed:
        node.remove(f"example-{name}")
        return False
    return True


def has_library(node):
    return node.run(["test", "-e", LIBRARY]).returncode == 0


def try_start(node, documents):
    """Starts what may fail, as a kubelet does again and again."""
    try:
        node.play(documents)
    except nodes.Failed:
        pass


def case_early(tap, node):
    """A new node: pods are there before the DaemonSet's image is, or its configuration is good."""
    tap.point(not starts(node, "node-pool"),
              "a new node, its folders just made: a pod waits, and does not go without the library")
    try_start(node, manifests.daemon(NODE, "[pool]\nports = 60001-80001\n"))
    tap.point(not has_library(node) and not starts(node, "node-pool"),
              "a new node, its pool cannot be made: the same")
    node.remove()
    node.podman_try("volume", "rm", "-a", "-f")
    start_node(node)
    tap.point(has_library(node) and starts(node, "node-pool"), "a new node, ready: it starts",
              node.logs("fixport-node-install"))


def case_reload(tap, node):
    """One place for the configuration: a change reaches programs that run."""
    start_node(node)
    steps = Steps(node, node.pod("unprivileged", service=nodes.OTHER))
    first = steps.port()
    configure(node, SHIPPED.replace("61001-61899", "61100-61199"))
    tap.point(not is_ready(node, "fixport-node-pool") or node.pool_status()["generation"] == 1,
              "a change of the ConfigMap: not ready until the pool has it")
    nodes.wait_for(lambda: is_ready(node, "fixport-node-pool"))
    second = [steps.port() for _ in range(5)]
    tap.point(clients.in_range([first], *RANGE) and clients.in_range(second, *NEW_RANGE),
              "a change of the ConfigMap: a program that runs leaves from the new range",
              first, second)
    configure(node, "[node node1]\naddress = 192.168.31.17\n[pool]\n", "discovered.conf")
    said = nodes.wait_for(lambda: "ConfigMap, key discovered.conf: line 3: " in
                          node.logs("fixport-node-pool"))
    tap.point(said and not is_ready(node, "fixport-node-pool"),
              "discovered.conf is read as a part of it: a mistake is said with its line",
              node.logs("fixport-node-pool"))
    configure(node, "[node node1]\naddress = 192.168.31.17\n", "discovered.conf")
    tap.point(nodes.wait_for(lambda: is_ready(node, "fixport-node-pool")),
              "without the mistake it is ready again", node.logs("fixport-node-pool"))
    configure(node, "[pool]\nports = 60001-80001\n")
    said = nodes.wait_for(lambda: "80001 is not a port" in node.logs("fixport-node-pool"))
    tap.point(said and not is_ready(node, "fixport-node-pool"),
              "a ConfigMap with a mistake: it says so, and is not ready",
              node.logs("fixport-node-pool"))
    tap.point(clients.in_range([steps.port()], *NEW_RANGE), "and the pool stays as it was")
    now = round_of(node)
    tap.point(nodes.wait_for(lambda: round_of(node) != now) and
              node.logs("fixport-node-pool").count("80001 is not a port") == 1,
              "it says so once, not in each round", node.logs("fixport-node-pool"))
    tap.equal(steps.end(), 0, "the program went on through all of this")


def set_version(node, version=b""):
    """Return: the pool's version, a byte, as it was."""
    with open(node.path("/run/fixport/pool"), "r+b", buffering=0) as file:
        file.seek(8)  # pool/layout.h: it comes after the magic number
        was = file.read(1)
        if version:
            file.seek(8)
            file.write(version)
    return was


def case_upgrade(tap, node):
    """Another library in the place of the one that programs have mapped."""
    start_node(node)
    steps = Steps(node, node.pod("node-pool", service=nodes.OTHER))
    before = steps.port()
    version = set_version(node)
    old = node.must(["stat", "-c", "%i", LIBRARY])
    node.must(["mkdir", "-p", "/run/next"])
    node.write("/run/next/Dockerfile", "FROM fixport\nRUN printf x >>/usr/lib/libfixport.so\n")
    node.build("/run/next", "next")
    node.remove("fixport-node")
    upgrade = manifests.daemon(NODE, SHIPPED).replace("image: fixport", "image: next")
    set_version(node, b"\xfe")
    try_start(node, upgrade)
    tap.equal((node.must(["stat", "-c", "%i", LIBRARY]),
               "another version" in node.logs("fixport-node-make")), (old, True),
              "upgrade: where the pool is of another version the library stays the one it is for")
    set_version(node, version)
    node.remove("fixport-node")
    node.podman_try("volume", "rm", "-a", "-f")
    node.play(upgrade)
    nodes.wait_for(lambda: is_ready(node, "fixport-node-pool"))
    new = node.must(["stat", "-c", "%i", LIBRARY])
    tap.point(old != new, "upgrade: the library is another file now")
    ports = [steps.port() for _ in range(3)]
    tap.point(clients.in_range([before, *ports], *RANGE) and len({before, *ports}) == 4,
              "upgrade: a program that runs goes on with the old one", before, ports)
    clients.check_programs(tap, node, {"curl": clients.DEBIAN["curl"]},
                           ["exec", "-e", "FIXPORT_LOG=", "example-node-pool-app"],
                           "upgrade: a new program", RANGE)
    tap.equal((steps.end(), node.must(["find", "/opt/fixport", "-type", "f"])),
              (0, f"{LIBRARY}\n"),
              "upgrade: nothing is left behind")


def connected(node):
    """Ten connections from a pod. Return: [(port, port that the host saw)]."""
    text = node.podman("exec", "-e", "FIXPORT_LOG=", "example-node-pool-app", "python3", "-c",
                       clients.MANY, nodes.HOST, str(nodes.SERVICE), "10")
    return [(int(own), int(other)) for own, other in re.findall(r"^(\d+) \S+ (\d+)$", text, re.M)]


def moved(node):
    """Return: of ten connections from a pod, those whose port the node has changed."""
    found = connected(node)
    return None if len(found) != 10 else [pair for pair in found if pair[0] != pair[1]]


def leases_in(node, state):
    """The ports that the node's pool has in this state."""
    text = node.must([fptest.POOL_TOOL, "list", "--json", "--state", state, "--pool", "/run/fixport/pool"])
    return {item["port"] for item in json.loads(text)["leases"]}


def table(node):
    return node.run(["nft", "list", "table", "ip", "fixport"]).stdout


def pool_of(node):
    """Return: (which file the node's pool is, the names of its rules)."""
    inode = node.must(["stat", "-c", "%i", "/run/fixport/pool"])
    return inode, [rule["name"] for rule in node.pool_status()["rules"]]


def check_reclaim(tap, node):
    """What the pod has let go comes back, though it makes no connection but one in ten seconds."""
    tap.equal(may(node, "fixport-setup-reclaim"), (0, 1 << 12, True),
              "setup.yaml: what gives back ports has NET_ADMIN and nothing else")
    node.sysctl(netfilter__nf_conntrack_tcp_timeout_time_wait=120)
    pairs = connected(node)
    tap.point(len(pairs) == 10, "setup.yaml: a pod connects, and lets go", pairs)
    ports = {port for port, _ in pairs}
    tap.equal(nodes.wait_for(lambda: ports <= leases_in(node, "resting")), True,
              "setup.yaml: what connection tracking has seen end rests")
    node.sysctl(netfilter__nf_conntrack_tcp_timeout_time_wait=1)


def case_setup(tap, node):
    """fixport-setup as a DaemonSet, on a node whose CNI chooses random ports, as Calico's does."""
    start_node(node, SITE)
    node.pod("node-pool", service=nodes.OTHER)
    random = ["POSTROUTING", "-s", "10.89.0.0/16", "-o", "lan", "-j", "MASQUERADE",
              "--random-fully"]
    node.must(["iptables", "-w", "5", "-t", "nat", "-I", *random])
    tap.point(moved(node), "MASQUERADE --random-fully: the node moves ports")
    node.play(manifests.daemon(SETUP, SITE))
    ready = nodes.wait_for(lambda: is_ready(node, "fixport-setup-setup"))
    tap.point(ready and "masquerade to :61001-61899" in table(node),
              "setup.yaml: it is ready, and the node has the table",
              node.logs("fixport-setup-setup"), table(node))
    tap.equal(may(node, "fixport-setup-setup"), (0, 1 << 12, True),
              "setup.yaml: what stays has NET_ADMIN and nothing else")
    tap.equal(moved(node), [], "setup.yaml: ports stay")
    check_reclaim(tap, node)
    reserved = node.must(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"])
    tap.equal(reserved, "61001-61899\n", "setup.yaml: its init container has reserved the ports")
    node.must(["nft", "delete", "table", "ip", "fixport"])
    tap.point(nodes.wait_for(lambda: "masquerade" in table(node)),
              "setup.yaml: what somebody flushes is set again", node.logs("fixport-setup-setup"))
    node.remove("fixport-setup")
    node.must(["nft", "delete", "table", "ip", "fixport"])
    node.must(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports="])
    node.play(manifests.daemon(SETUP, SITE))
    nodes.wait_for(lambda: is_ready(node, "fixport-setup-setup"))
    again = node.must(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"])
    tap.equal((again, moved(node)), (reserved, []), "setup.yaml: after a reboot all is set again")
    configure(node, SITE.replace("61001-61899", "61100-61199"))
    tap.point(nodes.wait_for(lambda: "cannot be set" in node.logs("fixport-setup-setup")) and
              not is_ready(node, "fixport-setup-setup") and "to :61001-61899" in table(node),
              "setup.yaml: other ports in the ConfigMap: not ready, and all is as it was",
              node.logs("fixport-setup-setup"), table(node))
    changed = SITE + f"[rule hosts]\nto = {nodes.HOST}\n"
    configure(node, changed)
    nodes.wait_for(lambda: is_ready(node, "fixport-node-pool") and
                   is_ready(node, "fixport-setup-setup"))
    pool = pool_of(node)
    tap.equal(pool[1], ["hosts"], "a change of the ConfigMap: the pool has it")
    node.remove("fixport-setup")
    try_start(node, manifests.daemon(SETUP, changed, (["once", "undo"], ["keep", "undo"])))
    tap.point(nodes.wait_for(lambda: is_ready(node, "fixport-setup-setup")) is not None and
              not table(node), "node-undo: the table is gone", table(node))
    tap.equal(node.must(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"]), "\n",
              "node-undo: and the reserved ports")
    tap.equal(pool_of(node), pool, "node-undo: the pool stays, which is not its own")
    node.must(["iptables", "-w", "5", "-t", "nat", "-D", *random])


CASES = [(name[5:], function) for name, function in list(globals().items())
         if name.startswith("case_")]
