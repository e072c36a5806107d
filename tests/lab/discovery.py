# SPDX-License-Identifier: MIT
"""From the cluster to a configuration, as the README tells it: the API server's machine has a
kubectl, and nothing of fixport is configured anywhere. discover begins the configuration, a person
adds what no cluster knows, fixport-probe says that nothing comes through, apply on each machine,
and the same probe says that all is well. Then a pod's borrowed address goes, and a node comes.

The cluster is Calico: what kubectl prints is made from the lab's own network, IPv4 and IPv6, with
the address that node2 has borrowed from node1's block.
"""

import ipaddress
import json
import os
import re

import machine
from network import BLOCK, BORROWED, Kind, PODS, STATIONS, Station, WORKERS
from siteconf import HOST_SERVICE, POD_PORTS, POD_SERVICE, Wish
from trial import CONFIG, Trial, environment

FAMILIES = (4, 6)
GROUP = "crd.projectcalico.org"
CLUSTER = "/etc/lab-cluster"
KUBECTL = f"""\
#!/bin/sh
for word; do
    [ ! -f "{CLUSTER}/$word" ] || exec cat "{CLUSTER}/$word"
done
case " $* " in *" --ignore-not-found "*) exit 0 ;; esac
echo "error: the server doesn't have a resource type" >&2
exit 1
"""
FOUND = CONFIG + ".d/discovered.conf"
PROBE_PORT = 60002  # one that the site opens, where nothing listens
RANGE = f"{POD_PORTS[0]}-{POD_PORTS[-1]}"


def node_object(station, number):
    addresses = [station.ipv4, station.ipv6]
    return {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": station.name, "annotations": {
                "projectcalico.org/IPv4Address": f"{station.ipv4}/24"}},
            "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},  # Calico does not mind those
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]}}


def block_object(node, family, borrowed):
    block = ipaddress.ip_network(BLOCK[node, family])
    used = {}
    for pod, on in PODS:
        address = ipaddress.ip_address(pod.address(family))
        if address in block and (borrowed or pod is not BORROWED):
            used[int(address) - int(block.network_address)] = (pod.name, on)
    allocations, attributes = [None] * (max(used, default=0) + 1), []
    for at, (pod, on) in sorted(used.items()):
        allocations[at] = len(attributes)
        attributes.append({"handle_id": f"k8s-pod-network.{pod}", "secondary": {
            "namespace": "default", "node": on, "pod": pod}})
    return {"apiVersion": f"{GROUP}/v1", "kind": "IPAMBlock",
            "metadata": {"name": re.sub("[./:]", "-", str(block))},
            "spec": {"affinity": f"host:{node}", "allocations": allocations, "deleted": False,
                     "attributes": attributes, "cidr": str(block), "strictAffinity": False}}


def affinity_object(node, family):
    return {"apiVersion": f"{GROUP}/v1", "kind": "BlockAffinity",
            "metadata": {"name": f"{node}.{family}c5a0d3"},
            "spec": {"cidr": BLOCK[node, family], "deleted": "false", "node": node,
                     "state": "confirmed", "type": "host"}}


def cluster_put(trial, borrowed=True, more=()):
    """Gives node1 a kubectl that knows the lab's cluster."""
    names = [node.name for node in WORKERS]
    lists = {
        "nodes": [*(node_object(node, i) for i, node in enumerate(WORKERS)), *more],
        f"ipamblocks.{GROUP}": [block_object(n, f, borrowed) for n in names for f in FAMILIES],
        f"blockaffinities.{GROUP}": [affinity_object(n, f) for n in names for f in FAMILIES],
        f"ippools.{GROUP}": [{"apiVersion": f"{GROUP}/v1", "kind": "IPPool",
                              "metadata": {"name": "default-ipv4-ippool"},
                              "spec": {"cidr": "10.200.0.0/16", "natOutgoing": True}}],
    }
    folder = trial["node1"].path(CLUSTER)
    os.makedirs(folder, exist_ok=True)
    for name, items in lists.items():
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": items}, file)
    with open(os.path.join(folder, "kubectl"), "w", encoding="ascii") as file:
        file.write(KUBECTL)
    os.chmod(os.path.join(folder, "kubectl"), 0o755)


def discover(trial, *argv):
    return trial.setup("node1", "discover", "--config", CONFIG, "--kubectl", f"{CLUSTER}/kubectl",
                       *argv)


def text_read(trial, path):
    with open(trial["node1"].path(path), encoding="utf-8") as file:
        return file.read()


def config_spread(trial, texts):
    """Gives each machine the configuration: its file, and the one that discover has written."""
    for computer in trial:
        for path, text in zip((CONFIG, FOUND), texts):
            os.makedirs(os.path.dirname(computer.path(path)), exist_ok=True)
            with open(computer.path(path), "w", encoding="utf-8") as file:
                file.write(text)


def by_hand():
    """What the cluster cannot know: the site's text without its nodes and the pool's ports."""
    text = re.sub(r"^\[node .*\n(?:[^\[\n].*\n)*", "", Wish(address=False).text(), flags=re.M)
    return text.replace("[pool]\nports = 61001-61999\n", "")


def probe(trial, family):
    """Return: the exit status of the pod's side, and what it said."""
    listener = trial["host-a"].start(["fixport-probe", "listen", "--port", str(PROBE_PORT),
                                      "--ports", RANGE, "--json", f"-{family}"], environment())
    if not listener.stdout.readline().startswith('{"listening"'):
        raise machine.Failed("fixport-probe listen does not listen")
    done = trial["pod-c"].run(["fixport-probe", "connect", STATIONS["host-a"].address(family),
                               "--port", str(PROBE_PORT), "--ports", RANGE, "--wait", "3"],
                              env=environment(shim=True), timeout=60)
    listener.terminate()
    listener.communicate()
    return done.returncode, done.stdout + done.stderr


def begin(tap, trial):
    """From nothing."""
    for computer in trial:
        os.remove(computer.path(CONFIG))
    cluster_put(trial)
    shown = discover(trial)
    tap.point(shown.returncode == 2 and "+[node node2]" in shown.stdout and
              not os.path.exists(trial["node1"].path(CONFIG)),
              "discover shows a configuration where there is none", shown.stdout, shown.stderr)
    tap.point("CNI: Calico" in shown.stdout and "MASQFullyRandom=false" in shown.stdout,
              "it says that Calico moves source ports, and what turns that off")
    done = discover(trial, "--write")
    text = text_read(trial, FOUND)
    tap.point(done.returncode == 0 and "[pool]" in text_read(trial, CONFIG) and
              "pods = 10.200.36.0/24, 10.200.1.93, fd00:200:36::/64, fd00:200:1::93\n" in text and
              "address = 192.168.31.45, fd00:31::45\n" in text,
              "and writes it: blocks of both families, and what is borrowed", text, done.stderr)
    for family in FAMILIES:
        status, said = probe(trial, family)
        tap.point(status == 2, f"fixport-probe: nothing comes through yet (IPv{family})", said)


def complete(tap, trial):
    """A person's part, then apply everywhere."""
    config_spread(trial, (text_read(trial, CONFIG) + "\n" + by_hand(), text_read(trial, FOUND)))
    again = discover(trial)
    tap.point(again.returncode == 0, "with the rest by hand, discover finds nothing to change",
              again.stdout, again.stderr)
    for name, done in trial.setup_all("apply").items():
        tap.point(done.returncode == 0, f"apply on {name}", done.stdout, done.stderr)
    for family in FAMILIES:
        status, said = probe(trial, family)
        tap.point(status == 0, f"fixport-probe: all is as it should be (IPv{family})", said)


def traffic(tap, trial):
    for family in FAMILIES:
        for pod in ("pod-c", "pod-d", "pod-e"):  # the last with the borrowed address
            there = trial.ask(pod, "host-a", HOST_SERVICE, family=family)
            back = trial.ask("host-a", pod, POD_SERVICE, family=family)
            tap.point(there and there.port in POD_PORTS, f"{pod} → host-a, IPv{family}", there)
            tap.point(bool(back), f"host-a → {pod}, IPv{family}", back)


def change(tap, trial):
    """The cluster changes: so do the configuration and the routes, and nothing else."""
    node3 = node_object(Station("node3", "192.168.31.46", "fd00:31::46"), 3)
    before = text_read(trial, CONFIG)
    cluster_put(trial, borrowed=False, more=[node3])
    done = discover(trial, "--write")
    text = text_read(trial, FOUND)
    tap.point(done.returncode == 0 and "10.200.1.93" not in text and "[node node3]" in text and
              text_read(trial, CONFIG) == before and by_hand() in before,
              "a borrowed address goes, a node comes, what is by hand stays", text, done.stderr)
    config_spread(trial, (before, text))
    done = trial.setup("host-a", "apply")
    routes = trial["host-a"].must(["ip", "route"])
    tap.point(done.returncode == 0 and "10.200.1.93" not in routes and "10.200.1.0/24" in routes,
              "apply on host-a takes the borrowed address's route away", routes, done.stderr)


def case_discover(tap):
    with Trial(Kind(cni="random-fully"), Wish(address=False)) as trial:
        begin(tap, trial)
        complete(tap, trial)
        traffic(tap, trial)
        change(tap, trial)


CASES = {"discover": case_discover}
