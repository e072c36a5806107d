# SPDX-License-Identifier: MIT
"""Pods: the manifests of contrib/kubernetes/pods, started as they are shipped."""

import re

import clients
import fptest
import manifests
import node as nodes
import yaml
from cases_images import make_pool

PORTS = 61001, 61899
CROWD = 20
HELD = 20
ROUNDS = 2
KINDS = ("node-pool", "unprivileged")


def install(node):
    """The library on the node, as base does it; see cases_node.py for the DaemonSet itself."""
    node.podman("run", "--rm", "-v", "/opt/fixport:/opt/fixport", "fixport", "install",
                "/opt/fixport/lib")


def pool(node, quarantine="3s", small=None, ports=PORTS):
    """A pool with a short quarantine; with @small, with ports of their own towards SMALL."""
    rules = f"[pool]\nquarantine = {quarantine}\nports = {ports[0]}-{ports[1]}\n"
    if small:
        rules += (f"[rule small]\nto = {nodes.HOST}:{nodes.SMALL}\nports = {small[0]}-{small[1]}\n"
                  "[rule rest]\n")
    node.write("/run/pool.conf", rules)
    node.must([fptest.POOL_TOOL, "create", "-c", "/run/pool.conf", "--pool", "/run/fixport/pool"])


def case_pods(tap, node):
    """Each manifest alone: what its own program says, and the image's other programs in it."""
    install(node)
    pool(node)
    for kind in (*KINDS, "host-network"):
        container = node.pod(kind)
        said = nodes.wait_for(lambda c=container: re.search(
            rf"^fixport\[\d+\] connect {nodes.HOST}:{nodes.SERVICE} port (\d+)$", node.logs(c),
            re.M))
        tap.point(said and clients.in_range([int(said[1])], *PORTS),
                  f"pods/{kind}.yaml: its log tells a port of the range", node.logs(container))
        clients.check_programs(tap, node, clients.DEBIAN, ["exec", "-e", "FIXPORT_LOG=", container],
                               f"pods/{kind}.yaml", PORTS)
    status = node.podman("exec", "example-unprivileged-app", "grep", "-E",
                         "^(Uid|CapEff|NoNewPrivs)", "/proc/self/status").split()
    tap.equal((status[1], status[6], status[8]), ("1000", "0" * 16, "1"),
              "pods/unprivileged.yaml: it is an ordinary user without any capability")
    tap.point(node.podman_try("exec", "example-unprivileged-app", "touch", "/x").returncode != 0,
              "pods/unprivileged.yaml: its root is read-only")


def case_own_pool(tap, node):
    """A pool of the pod's own, brought by an init container: no hostPath."""
    container = node.pod("own-pool")
    text = manifests.read("pods/own-pool.yaml")
    tap.point("hostPath:" not in text, "pods/own-pool.yaml: it mounts nothing of the node")
    clients.check_programs(tap, node, clients.DEBIAN, ["exec", "-e", "FIXPORT_LOG=", container],
                           "pods/own-pool.yaml", (61900, 61949))
    tap.point(node.pool_status() is None, "pods/own-pool.yaml: the node has no pool")


def case_sysctl(tap, node):
    """Without the library. This podman takes no sysctls from a manifest: they are given to it."""
    pod = yaml.safe_load(manifests.read("pods/sysctl.yaml"))
    sysctls = pod["spec"]["securityContext"]["sysctls"]
    given = [f"--sysctl={item['name']}={item['value']}" for item in sysctls]
    clients.check_programs(tap, node, clients.DEBIAN, ["run", "--rm", *given, nodes.BASE],
                           "pods/sysctl.yaml", (61001, 61999))


def case_moved(tap, node):
    """Why pods must share a pool: the node's MASQUERADE moves the second of two equal ports."""
    for name in ("one", "two"):
        text = manifests.read("pods/sysctl.yaml")
        node.play(text.replace("name: example-sysctl", f"name: {name}"))
    seen = []
    running = [node.podman_start("exec", "-i", f"{name}-app", "python3", "-c", clients.HOLD,
                                 nodes.HOST, str(nodes.SERVICE), "61500")
               for name in ("one", "two")]
    for process in running:
        found = re.match(r"\S+ (\d+)$", process.stdout.readline().strip())
        seen.append(int(found[1]) if found else None)
    for process in running:
        process.stdin.close()
        process.wait()
    tap.point(seen.count(61500) == 1 and None not in seen,
              "without a pool, of two pods with one port one is moved", seen)


def start_crowd(node):
    """Twenty pods, as root and as nobody in particular. Return: the names of their containers."""
    documents = []
    for i in range(CROWD):
        text = manifests.read(f"pods/{KINDS[i % 2]}.yaml")
        own = manifests.name_of(text)
        documents.append(text.replace(f"name: {own}\n", f"name: crowd{i}\n", 1))
    node.play("---\n".join(documents), manifests.example(f"{nodes.HOST}:{nodes.OTHER}"))
    return [f"crowd{i}-app" for i in range(CROWD)]


def case_crowd(tap, node):
    """Twenty pods, one in the node's network and a program of the node: one destination."""
    install(node)
    pool(node)
    starts = [["podman", "exec", "-i", "-e", "FIXPORT_LOG=", container]
              for container in [*start_crowd(node), node.pod("host-network", service=nodes.OTHER)]]
    starts.append(["env", "LD_PRELOAD=/opt/fixport/lib/libfixport.so"])
    running = [clients.held(node, start, HELD, ROUNDS) for start in starts]
    lines, still_open, wrong = [], [], []
    for process in running:
        own, other = clients.lines_of(process)
        lines += own
        still_open += [line[2] for line in own[-HELD:]]
        wrong += [other] if other or len(own) != HELD * ROUNDS else []
    tap.equal(wrong, [], f"{CROWD} pods, one in the node's network and a program of the node: each "
              f"makes {HELD * ROUNDS} connections, {HELD} at a time")
    tap.equal([line for line in lines if line[0] != line[2]], [],
              "no connection was moved to another port: the server saw what the pod has")
    tap.point({line[1] for line in lines} == {nodes.NODE}, "all under the address of the node")
    tap.point(clients.in_range([line[2] for line in lines], *PORTS), "all from the range")
    tracked = [pair for pair in node.tracked() if clients.in_range([pair[0]], *PORTS)]
    tap.point(len(tracked) >= CROWD * HELD and all(a == b for a, b in tracked),
              "connection tracking says the same", f"{len(tracked)} connections",
              [pair for pair in tracked if pair[0] != pair[1]][:9])
    tap.equal(len(set(still_open)), len(running) * HELD,
              "all that are open at once have different ports")
    status = node.pool_status()
    alive = [holder["host"] for holder in status["holders"] if holder["alive"]]
    tap.equal((len(alive), status["counters"]["lost"]), (CROWD + 1, 0),
              "the pool has a holder for each pod, and one for the node's network")
    for process in running:
        process.stdin.close()
        process.wait()


def case_killed(tap, node):
    """A pod that is killed gives its ports back; the other one needs them all."""
    install(node)
    pool(node, small=(61880, 61899), ports=(61001, 61879))
    for name in ("victim", "heir"):
        node.pod("node-pool", rename=name, service=nodes.OTHER)
    start = ["podman", "exec", "-i", "-e", "FIXPORT_LOG="]
    lines, other = clients.lines_of(clients.held(node, [*start, "victim-app"], 20, 1, nodes.SMALL))
    tap.equal(sorted(line[2] for line in lines), list(range(61880, 61900)),
              "a pod has all ports towards a destination", )
    tap.equal(other, "", "and no complaint")
    many = ["exec", "-e", "FIXPORT_LOG=", "heir-app", "python3", "-c", clients.MANY, nodes.HOST,
            str(nodes.SMALL), "1"]
    tap.equal(node.podman(*many).strip(), "Cannot assign requested address",
              "another pod gets none of them")
    node.podman("pod", "kill", "-s", "KILL", "victim")

    def heir_connects():
        done = node.podman_try(*many)
        return re.match(r"(\d+) \S+ (\d+)\n", done.stdout)

    found = nodes.wait_for(heir_connects)
    tap.point(found and found[1] == found[2] and clients.in_range([int(found[2])], 61880, 61899),
              "after SIGKILL and the quarantine, it gets one, and keeps it through the node",
              found and found[0])
    lines, other = clients.lines_of(clients.held(node, [*start, "heir-app"], 19, 1, nodes.SMALL))
    tap.point(len(lines) == 19 and all(line[0] == line[2] for line in lines),
              "and all the others", lines, other)


def complaints(node, container):
    """Ten connections of one process. Return: (whether all were made, what fixport said)."""
    done = node.podman_try("exec", "-e", "FIXPORT_LOG=", container, "python3", "-c", clients.MANY,
                           nodes.HOST, str(nodes.SERVICE), "10")
    made = re.findall(r"^(\d+) \S+ (\d+)$", done.stdout, re.M)
    return len(made) == 10, done.stderr


def case_faults(tap, node):
    """A pool that is missing, unwritable or of another version: programs run on, and say so."""
    install(node)
    containers = {kind: node.pod(kind, service=nodes.OTHER) for kind in KINDS}

    def expect(kind, words, what):
        made, said = complaints(node, containers[kind])
        tap.point(made and said.startswith("fixport: ") and said.count("\n") == 1 and words in said,
                  f"pods/{kind}.yaml, {what}: it connects, and says so once", said)

    for kind in KINDS:
        expect(kind, "there is no such file", "no pool")
    pool(node)
    node.must(["chmod", "600", "/run/fixport/pool"])
    expect("unprivileged", "permission denied", "a pool that is not for its user")
    node.must(["chmod", "644", "/run/fixport/pool"])
    with open(node.path("/run/fixport/pool"), "r+b") as file:
        file.seek(8)  # pool/layout.h: the version comes after the magic number
        file.write(b"\xfe")
    for kind in KINDS:
        expect(kind, "version", "a pool of another version")
    node.must(["rm", "/run/fixport/pool"])
    pool(node)
    for kind in KINDS:
        made, said = complaints(node, containers[kind])
        tap.equal((made, said), (True, ""), f"pods/{kind}.yaml, a good pool again: all is well")


def case_kept_apart_by_musl(tap, node):
    """Images with glibc and with musl share one pool."""
    make_pool(node, (61001, 61040))
    install(node)
    node.podman("run", "-d", "--name", "musl", "-v", "/run/fixport:/run/fixport", "-v",
                "/opt/fixport/lib:/opt/fixport:ro", "-e", "LD_PRELOAD=/opt/fixport/libfixport.so",
                "localhost/musl", "sh", "-c", "while :; do sleep 1000; done")
    node.pod("node-pool", service=nodes.OTHER)
    lines, _ = clients.lines_of(clients.held(
        node, ["podman", "exec", "-i", "-e", "FIXPORT_LOG=", "example-node-pool-app"], 20, 1))
    seen = [clients.seen_in(node.podman("exec", "musl", *clients.with_destination(
        clients.MUSL["wget"], nodes.SERVICE)))[1] for _ in range(10)]
    tap.point(len(lines) == 20 and clients.in_range(seen, 61001, 61040) and
              not {line[2] for line in lines} & set(seen),
              "a pod with musl gets none of the ports that one with glibc has", lines, seen)


CASES = [(name[5:], function) for name, function in list(globals().items())
         if name.startswith("case_")]
