#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-setup discover: what clusters say (tests/discover/, the shapes of the projects' sources),
what becomes of the configuration, and everything that may be wrong with either.

kubectl is played by a script that comes first in PATH; where the real one is installed, it asks an
HTTP server that answers like an API server.

    FIXPORT_BUILD=build tests/tools/test_discover.py [WORD...]   only tests with WORD in their name
"""

import copy
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]
import fptest  # noqa: E402
from apiserver import ApiServer  # noqa: E402

SETUP = os.path.join(fptest.BUILD, "tools", "fixport-setup")
FIXTURES = os.path.join(HERE, "..", "discover")
POOL = "[pool]\nports = 61001-61999\n"
TIME_MOST = 20  # s of a processor that 5,000 nodes may take; 1 s without sanitizers

# The sections that come out of each cluster of tests/discover.
EXPECTED = {
    "calico-v1": {"node1": ("192.168.31.17", "10.200.1.0/26, 10.200.1.64/26"),
                  "node2": ("192.168.31.45", "10.200.36.64/26, 10.200.1.93")},
    "calico-v3": {"node1": ("192.168.31.17, fd00:31::17",
                            "10.200.1.0/26, 10.200.5.7, fd00:200:1::/122"),
                  "node2": ("192.168.31.45, fd00:31::45",
                            "10.200.1.64/26, 10.200.5.63, fd00:200:1::3e")},
    "flannel": {"node1": ("192.168.31.17", "10.200.1.0/24"),
                "node2": ("192.168.31.45", "10.200.36.0/24")},
    "cilium": {"node1": ("192.168.31.17, fd00:31::17", "10.200.1.0/24, fd00:200:1::/64"),
               "node2": ("192.168.31.45, fd00:31::45", "10.200.36.0/24, fd00:200:36::/64")},
    "kindnet": {"kind-control-plane": ("172.18.0.3, fc00:f853:ccd:e793::3",
                                       "10.244.0.0/24, fd00:10:244::/64"),
                "kind-worker": ("172.18.0.2, fc00:f853:ccd:e793::2",
                                "10.244.1.0/24, fd00:10:244:1::/64")},
    "pods": {"node1": ("192.168.31.17", "192.168.40.11, 192.168.40.12"),
             "node2": ("192.168.31.45", "192.168.40.13")},
    "azure": {"node1": ("192.168.31.17", "192.168.31.20"),
              "node2": ("192.168.31.45", "192.168.31.50")},
    "ovn-kubernetes": {"node1": ("192.168.31.17", "10.200.1.0/24"),
                       "node2": ("192.168.31.45, fd00:31::45", "10.200.36.0/24, fd00:200:36::/64")},
    "kube-ovn": {"node1": ("192.168.31.17", "10.16.0.9, 10.16.0.11"),
                 "node2": ("192.168.31.45", "10.16.0.10")},
    "weave": {"node1": ("192.168.31.17", "10.32.0.2, 10.32.0.3"), "node2": ("192.168.31.45", "")},
}
CNI = {"calico-v1": "Calico", "calico-v3": "Calico", "flannel": "Flannel", "cilium": "Cilium",
       "kindnet": "kindnet", "pods": "Amazon VPC CNI", "azure": "Azure CNI",
       "ovn-kubernetes": "OVN-Kubernetes", "kube-ovn": "Kube-OVN", "weave": "none that is known"}
# What is said of source ports, with the line that turns it off.
NOTES = {"calico-v1": "kubectl patch felixconfigurations.crd.projectcalico.org default",
         "calico-v3": "nothing has to be turned off",
         "flannel": '"--ip-masq-fully-random-disable"', "cilium": "enable-ipv4-masquerade",
         "kindnet": "masqueradeAll: false", "pods": "AWS_VPC_K8S_CNI_RANDOMIZESNAT=none",
         "azure": "the virtual network, which routes them itself",
         "ovn-kubernetes": "in Open vSwitch", "kube-ovn": "natOutgoing: false",
         "weave": "the CNI gives pods single addresses, which change with every pod"}

KUBECTL = """\
#!/usr/bin/python3
import os, subprocess, sys, time
folder = {folder!r}
with open(folder + "/asked", "a") as log:
    log.write("\\0".join(sys.argv[1:]) + "\\n")
kind = sys.argv[sys.argv.index("get") + 1]
if os.path.exists(folder + "/hang"):
    child = subprocess.Popen(["sleep", "600"])
    with open(folder + "/child", "w") as file:
        file.write(str(child.pid))
    time.sleep(600)
if os.path.exists(folder + "/" + kind + ".err"):
    sys.stderr.write(open(folder + "/" + kind + ".err").read())
    sys.exit(1)
if not os.path.exists(folder + "/" + kind):
    if "--ignore-not-found" in sys.argv:
        sys.exit(0)
    sys.exit(f"error: the server doesn't have a resource type \\"{{kind.split('.')[0]}}\\"")
sys.stdout.buffer.write(open(folder + "/" + kind, "rb").read())
"""


def fixture(name):
    with open(os.path.join(FIXTURES, name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def node(name, *addresses, cidrs=()):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": list(cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]}}


def noted(item, **annotations):
    item["metadata"]["annotations"] = annotations
    return item


def pod(name, on, *addresses, **annotations):
    return noted({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                  "spec": {"nodeName": on},
                  "status": {"phase": "Running", "podIPs": [{"ip": a} for a in addresses]}},
                 **annotations)


def affinity(name, of, cidr, **spec):
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "metadata": {"name": name},
            "spec": dict({"node": of, "cidr": cidr, "state": "confirmed"}, **spec)}


def listed(*items):
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


PAIR = listed(node("node1", "192.168.31.17", cidrs=["10.200.1.0/24"]),
              node("node2", "192.168.31.45", cidrs=["10.200.36.0/24"]))


class Tap(fptest.Tap):
    """What explains a failure is shown with one only: it is long here."""

    def point(self, good, name, *diagnostics):
        return super().point(good, name, *([] if good else diagnostics))


class Place:
    """A folder with a configuration, which a person writes, and its part, which discover does."""

    def __init__(self, folder):
        self.folder = folder
        self.config = os.path.join(folder, "fixport.conf")
        self.parts = self.config + ".d"
        self.file = os.path.join(self.parts, "discovered.conf")

    def write(self, text, part=None):
        """A new beginning: this configuration, and this as discover's part."""
        self.remove()
        with open(self.config, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        if part is not None:
            self.add("discovered.conf", part)

    def add(self, name, text):
        os.makedirs(self.parts, exist_ok=True)
        with open(os.path.join(self.parts, name), "w", encoding="utf-8", newline="") as file:
            file.write(text)

    def read(self):
        with open(self.config, encoding="utf-8", newline="") as file:
            return file.read()

    def found(self):
        """What discover has written; nothing if it has not."""
        if not os.path.exists(self.file):
            return ""
        with open(self.file, encoding="utf-8", newline="") as file:
            return file.read()

    def remove(self):
        shutil.rmtree(self.parts, ignore_errors=True)
        if os.path.lexists(self.config):
            os.remove(self.config)

    def discover(self, *argv, data=None, env=None):
        """Runs it; @data, text, bytes or anything as JSON, is its standard input."""
        if data is not None and not isinstance(data, (str, bytes)):
            data = json.dumps(data)
        if isinstance(data, str):
            data = data.encode()
        argv = [SETUP, "discover", "--config", self.config, *argv,
                *(["-"] if data is not None else [])]
        done = subprocess.run(argv, input=data, stdin=None if data is not None else
                              subprocess.DEVNULL, capture_output=True, check=False, timeout=300,
                              env=dict(os.environ, **(env or {})))
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    def to(self, data, *argv):
        """What discover has written afterwards."""
        done = self.discover("--write", *argv, data=data)
        return self.found() if done.returncode == 0 else done.stderr


def sections(text):
    """The nodes' sections: {name: (address, pods)}."""
    found = {}
    for name, body in re.findall(r"^\[node (\S+)\]\n((?:[^\[\n].*\n?)*)", text, re.M):
        values = [re.findall(rf"^{key}(?:-\d+)? = (.*)$", body, re.M)
                  for key in ("address", "pods")]
        found[name] = tuple(", ".join(value) for value in values)
    return found


def one_line(done, *words):
    """Refused by one line that has all the words."""
    return (done.returncode == 1 and done.stderr.count("\n") == 1 and
            done.stderr.startswith("fixport-setup: ") and all(w in done.stderr for w in words))


def processor_seconds():
    """Of children that have ended: how busy the machine is with others does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---- what clusters say ----


def test_fixtures(tap, place):
    for name, expected in EXPECTED.items():
        place.write(POOL)
        path = os.path.join(FIXTURES, name + ".json")
        shown = place.discover(path)
        tap.point(shown.returncode == 2 and not os.path.exists(place.parts),
                  f"{name}: without --write it is shown, and nothing is written", shown.stderr)
        tap.point(f"CNI: {CNI[name]}" in shown.stdout and NOTES[name] in shown.stdout,
                  f"{name}: it says which CNI it is, and how its ports are kept", shown.stdout)
        done = place.discover("--write", path)
        tap.equal(sections(place.found()), expected, f"{name}: the sections")
        tap.equal(place.read(), POOL, f"{name}: and the configuration itself stays as it is")
        again = place.discover(path)
        tap.point(done.returncode == 0 and again.returncode == 0 and
                  "Nothing to change" in again.stdout, f"{name}: once more changes nothing",
                  done.stderr, again.stdout, again.stderr)


def test_beginning(tap, place):
    place.remove()
    shown = place.discover(data=PAIR)
    tap.point(shown.returncode == 2 and os.listdir(place.folder) == [] and
              f"{place.config} would be begun" in shown.stdout,
              "without a configuration it is shown how one begins", shown.stdout, shown.stderr)
    text = place.to(PAIR)
    tap.equal(sorted(sections(text)), ["node1", "node2"], "the nodes are written")
    begun = place.read()
    tap.point("[pool]\n" in begun and not sections(begun), "and a configuration without them", begun)
    pool = subprocess.run([SETUP, "plan", "--config", place.config, "--role", "gateway"],
                          capture_output=True, text=True, check=False)
    tap.point("there are no hosts to let through" in pool.stderr,
              "it is one that plan reads, and asks for the hosts", pool.stderr)
    tap.equal([os.stat(path).st_mode & 0o777 for path in (place.config, place.parts, place.file)],
              [0o644, 0o755, 0o644], "all may read it")
    uncommented = re.sub("^;", "", begun, flags=re.M)
    with open(place.config, "w", encoding="utf-8") as file:
        file.write(uncommented)
    done = place.discover("--write", data=listed(PAIR["items"][0]))
    tap.point(done.returncode == 0 and "\n[gateway]\n" in uncommented and
              place.read() == uncommented and sorted(sections(place.found())) == ["node1"],
              "its examples hold if their ';' is taken off, and it is not written again",
              done.stderr)
    os.remove(place.config)
    done = place.discover("--write", data=listed(PAIR["items"][0]))
    tap.point(done.returncode == 0 and place.read() == begun and "Nothing to change" in done.stdout,
              "only the configuration is missing: it is begun", done.stdout, done.stderr)
    place.remove()
    os.symlink("nowhere", place.config)
    done = place.discover("--write", data=PAIR)
    tap.point(one_line(done, place.config) and not os.path.exists(place.parts),
              "a symlink that leads nowhere is refused", done.stderr)
    os.remove(place.config)
    os.mkfifo(place.config)
    done = place.discover("--write", data=PAIR)
    tap.point(one_line(done, "it is no file") and not os.path.exists(place.parts),
              "a configuration that is a pipe has no folder", done.stderr)
    os.remove(place.config)
    for name, data in {"no address": listed(node("node1")),
                       "a bad name": listed(node("a b", "192.168.31.17"))}.items():
        for argv in ((), ("--write",)):
            done = place.discover(*argv, data=data)
            tap.point(done.returncode == 1 and "there is nothing to write" in done.stderr and
                      "would change" not in done.stdout and not os.path.exists(place.config),
                      f"no node that can be used, {name} {argv}: a sentence, and nothing is begun",
                      done.stdout, done.stderr)


def test_said(tap, place):
    """Each thing that is left out is told, with its name."""
    place.write(POOL)
    done = place.discover(os.path.join(FIXTURES, "calico-v1.json"))
    tap.point("BlockAffinity node2-10-200-1-128-26: 10.200.1.128/26" in done.stderr and
              "not confirmed" in done.stderr, "an affinity that is not confirmed is told",
              done.stderr)
    tap.equal(done.stderr.count("\n"), 1,
              "what is deleted, virtual, a tunnel's or said twice needs no word")
    cases = {
        "a block of a node that is gone": (
            listed(*PAIR["items"], affinity("a", "node1", "10.1.0.0/26"),
                   affinity("stale", "node9", "10.1.1.0/26")), "BlockAffinity stale: says", "node9"),
        "two nodes with one block": (
            listed(*PAIR["items"], affinity("a", "node1", "10.1.0.0/26"),
                   affinity("b", "node2", "10.1.0.0/26")), "BlockAffinity a", "BlockAffinity b"),
        "overlapping blocks": (
            listed(node("node1", "192.168.31.17", cidrs=["10.200.0.0/16"]),
                   node("node2", "192.168.31.45", cidrs=["10.200.36.0/24"])),
            "Node node1: says that 10.200.0.0/16", "both are left out"),
        "a block that contains a node": (
            listed(node("node1", "192.168.31.17", cidrs=["192.168.31.0/26"]),
                   node("node2", "192.168.31.45")), "Node node1: 192.168.31.0/26 contains"),
        "two nodes with one address": (
            listed(node("node1", "192.168.31.17"), node("node2", "192.168.31.17")),
            "Node node1: 192.168.31.17 is also", "Node node2: 192.168.31.17 is also"),
        "a node without an address": (listed(*PAIR["items"], node("node3")),
                                      "Node node3: it has no address of type InternalIP"),
        "a block of the other family": (
            listed(node("node1", "192.168.31.17", cidrs=["10.200.1.0/24", "fd00:1::/64"])),
            "Node node1: fd00:1::/64 is IPv6"),
        "OVN-Kubernetes' annotation without a block": (
            listed(*PAIR["items"], noted(node("node3", "192.168.31.46"), **{
                "k8s.ovn.org/node-subnets": '{"blue":"10.1.0.0/24"}'})), "Node node3: its annotation"),
        "OVN-Kubernetes' annotation that is no JSON": (
            listed(*PAIR["items"], noted(node("node3", "192.168.31.46"), **{
                "k8s.ovn.org/node-subnets": "10.1.0.0/24"})), "Node node3: its annotation"),
        "a block with bits behind its prefix": (
            listed(node("node1", "192.168.31.17", cidrs=["10.200.1.5/24"])),
            "Node node1: \"10.200.1.5/24\" is no block"),
        "a second address of a family": (
            listed(node("node1", "192.168.31.17", "10.0.0.1")), "10.0.0.1 is not taken"),
        "objects of another kind": (
            listed(*PAIR["items"], {"apiVersion": "v1", "kind": "Secret", "metadata": {}}),
            "1 object of kind Secret"),
        "a kind of the same name from another group": (
            listed(*PAIR["items"], dict(affinity("a", "node1", "10.9.0.0/26"),
                                        apiVersion="network.kubesphere.io/v1alpha1")),
            "1 object of kind BlockAffinity"),
        "what is no object": (listed(*PAIR["items"], 7), "what is no object"),
        "a name that is too long": (
            listed(*PAIR["items"], node("x" * 70, "192.168.31.18")), "longer than 63 letters"),
    }
    for name, (data, *words) in cases.items():
        done = place.discover("--write", data=data)
        tap.point(done.returncode == 0 and all(word in done.stderr for word in words),
                  f"{name} is told, and the rest is taken", done.stderr)


def test_commands(tap, place):
    """What is to be pasted into a shell, with names that are made for one."""
    for name, space in (("kube-flannel-$(id)", "a;id"), ("kube-flannel'`id`", "-n x|id"),
                        ("kube-flannel ds", "$HOME"), ("kube-flannel-ds", "kube-flannel")):
        cluster = fixture("flannel")
        for item in cluster["items"]:
            if item["kind"] == "DaemonSet":
                item["metadata"].update(name=name, namespace=space)
        place.write(POOL)
        said = place.discover(data=cluster).stdout
        command = re.search(r"kubectl -n .*", said)[0]
        words = subprocess.run(["sh", "-c", command.replace("kubectl", "printf '%s\\n'", 1)],
                               capture_output=True, text=True, check=False).stdout.split("\n")
        tap.equal(words[:5], ["-n", space, "patch", "daemonset", name],
                  f"the command's words are {name!r} in {space!r}")


def test_names(tap, place):
    place.write(POOL)
    long = "node1." + "x" * 70 + ".example"
    text = place.to(listed(node(long, "192.168.31.17", cidrs=["10.200.1.0/24"])))
    tap.equal(sections(text), {"node1": ("192.168.31.17", "10.200.1.0/24")},
              "a name that is too long is taken up to its first dot")
    for bad in ("a]\n[hosts", "a\nports = 1-2", "-a", "a b", "ä", "a;b", "A", "a\x1b[2Jb", "../x"):
        place.write(POOL)
        text = place.to(listed(node("good", "192.168.31.9"), node(bad, "192.168.31.17")))
        tap.equal(sections(text), {"good": ("192.168.31.9", "")},
                  f"no section comes of a node {bad!r}")
        done = place.discover(data=listed(node("good", "192.168.31.9"), node(bad, "192.168.31.17")))
        tap.point("\x1b" not in done.stderr and done.stderr.count("\n") == 1,
                  f"and it is told in one line, without what a terminal obeys: {bad!r}",
                  repr(done.stderr))


def test_sources(tap, place):
    """Which source is the truth."""
    place.write(POOL)
    mine = listed(*PAIR["items"])
    mine["items"].append(affinity("a", "node1", "10.7.0.0/26"))
    tap.equal(sections(place.to(mine)), {"node1": ("192.168.31.17", "10.7.0.0/26"),
                                         "node2": ("192.168.31.45", "")},
              "where Calico has blocks, podCIDRs are none")
    tap.equal(sections(place.to(mine, "--pod-cidrs"))["node2"][1], "10.200.36.0/24",
              "unless --pod-cidrs says so")
    calico = copy.deepcopy(PAIR)
    calico["items"][0]["metadata"]["annotations"] = {
        "projectcalico.org/IPv4Address": "192.168.31.17/24"}
    before = place.found()
    done = place.discover("--write", data=calico)
    tap.point(one_line(done, "this cluster has Calico", "--pod-cidrs") and place.found() == before,
              "Calico without its blocks is refused: podCIDRs would be wrong", done.stderr)
    calico["items"][0]["status"] = {}
    tap.equal(sections(place.to(calico, "--pod-cidrs"))["node1"][0], "192.168.31.17",
              "a node's address from Calico's annotation, if it has no other")
    annotated = copy.deepcopy(PAIR)
    annotated["items"][0]["metadata"]["annotations"] = {
        "io.cilium.network.ipv4-pod-cidr": "10.8.0.0/24"}
    tap.equal([pods for _, pods in sections(place.to(annotated)).values()],
              ["10.8.0.0/24", "10.200.36.0/24"], "Cilium's annotation, on the node that has one")
    pools = listed(*PAIR["items"], {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "node1"},
        "spec": {"ipam": {"pools": {"allocated": [{"pool": "default", "cidrs": ["10.9.0.0/27"]}]}}}})
    tap.equal(sections(place.to(pools))["node1"][1], "10.9.0.0/27", "a block of Cilium's multi-pool")


def test_proof(tap, place):
    """podCIDRs count where the CNI uses them: the pods that are read show it."""
    both = [node("node1", "192.168.31.17", "fd00:31::17", cidrs=["10.1.0.0/24", "fd00:1::/64"]),
            node("node2", "192.168.31.45", "fd00:31::45", cidrs=["10.2.0.0/24", "fd00:2::/64"])]
    blocks = {"node1": "10.1.0.0/24, fd00:1::/64", "node2": "10.2.0.0/24, fd00:2::/64"}
    host = pod("host", "node1", "192.168.31.17")
    host["spec"]["hostNetwork"] = True
    done = pod("done", "node1", "10.32.0.9")
    done["status"]["phase"] = "Succeeded"
    cases = {
        "no pods": ([], {}, "podCIDRs are taken as they are"),
        "only pods of the host's network, or that have ended": (
            [host, done], {}, "podCIDRs are taken as they are"),
        "pods within": ([pod("a", "node1", "10.1.0.7"), pod("b", "node2", "10.2.0.7")], {}),
        "one within, and one elsewhere on the same node": (
            [pod("a", "node1", "10.1.0.7"), pod("b", "node1", "10.32.0.7")],
            {"node1": "10.1.0.0/24, 10.32.0.7, fd00:1::/64"}),
        "within on one node, elsewhere on the other": (
            [pod("a", "node1", "10.1.0.7"), pod("b", "node2", "10.32.0.7")],
            {"node2": "10.32.0.7, fd00:2::/64"}, "podCIDRs of 1 node, such as 10.2.0.0/24 of node2"),
        "elsewhere, and no pods on the other": (
            [pod("a", "node1", "10.32.0.7")],
            {"node1": "10.32.0.7, fd00:1::/64", "node2": "fd00:2::/64"},
            "podCIDRs of 2 nodes, such as 10.1.0.0/24 of node1", "Pod a has 10.32.0.7"),
        "elsewhere in one family only": (
            [pod("a", "node1", "10.1.0.7", "fd00:32::7")],
            {"node1": "10.1.0.0/24, fd00:32::7", "node2": "10.2.0.0/24"},
            "podCIDRs of 2 nodes, such as fd00:1::/64 of node1"),
        "in the other node's": (
            [pod("a", "node1", "10.2.0.7"), pod("b", "node2", "10.2.0.8")],
            {"node1": "10.2.0.7, fd00:1::/64"}, "podCIDRs of 1 node, such as 10.1.0.0/24 of node1"),
    }
    for name, (pods, expected, *words) in cases.items():
        place.write(POOL)
        done = place.discover("--write", data=listed(*pods, *both))
        said = done.stdout + done.stderr
        tap.equal({n: p for n, (_, p) in sections(place.found()).items()}, {**blocks, **expected},
                  f"podCIDRs and pods: {name}")
        tap.point(all(word in said for word in words) and (words or "podCIDRs" not in said),
                  f"and what becomes of them is said: {name}", said)
    place.write(POOL)
    place.discover("--write", "--pod-cidrs", data=listed(pod("a", "node1", "10.32.0.7"), *both))
    tap.equal(sections(place.found())["node2"][1], blocks["node2"], "--pod-cidrs takes them anyway")


def test_single(tap, place):
    """CNIs with single addresses: what that means, and what to do instead."""
    for name, *words in (("pods", "hosts in it need no routes", "blocks in [pods]", "a timer"),
                         ("azure", "hosts in it need no routes", "[snat] mode = none"),
                         ("kube-ovn", "a timer", "1 pod in VPCs other than ovn-cluster is left out"),
                         ("weave", "a timer", "Pod a has 10.32.0.3")):
        place.write(POOL)
        done = place.discover(os.path.join(FIXTURES, name + ".json"))
        tap.point("which change with every pod" in done.stdout and
                  all(word in done.stdout + done.stderr for word in words),
                  f"{name}: what single addresses mean is said", done.stdout, done.stderr)
    kubenet = fixture("azure")
    for number, item in enumerate(i for i in kubenet["items"] if i["kind"] == "Node"):
        item["spec"]["podCIDR"] = f"10.244.{number}.0/24"
    for number, item in enumerate(i for i in kubenet["items"] if i["kind"] == "Pod"):
        item["status"]["podIPs"] = [{"ip": f"10.244.{number}.7"}]
    done = place.discover(data=kubenet)
    tap.point("CNI: none that is known" in done.stdout and "every pod" not in done.stdout and
              "+pods = 10.244.1.0/24" in done.stdout, "Azure's kubenet has blocks", done.stdout)
    plain = fixture("kube-ovn")
    for item in plain["items"]:
        if item["kind"] == "Subnet":
            item["spec"]["natOutgoing"] = False
    done = place.discover(data=plain)
    tap.point("no Subnet has natOutgoing" in done.stdout, "Kube-OVN without SNAT", done.stdout)


def test_forms(tap, place):
    """Documents as kubectl and others write them."""
    typed = {"apiVersion": "v1", "kind": "NodeList", "metadata": {},
             "items": [{k: v for k, v in n.items() if k not in ("apiVersion", "kind")}
                       for n in PAIR["items"]]}
    texts = {"a list of a type of its own": json.dumps(typed),
             "single objects behind each other": "\n".join(map(json.dumps, PAIR["items"])),
             "without anything between": "".join(map(json.dumps, PAIR["items"])),
             "a list in a list": json.dumps(listed(PAIR)),
             "an empty list before": json.dumps(listed()) + json.dumps(PAIR)}
    for name, text in texts.items():
        place.write(POOL)
        tap.equal(sorted(sections(place.to(text))), ["node1", "node2"], name)
    place.write(POOL)
    names = []
    for i, item in enumerate(PAIR["items"]):
        names.append(os.path.join(place.folder, f"{i}.json"))
        with open(names[-1], "w", encoding="utf-8") as file:
            json.dump(item, file)
    done = place.discover("--write", names[0], names[1])
    tap.equal(sorted(sections(place.found())), ["node1", "node2"], "several files")
    done = place.discover("-", "-")
    tap.point(one_line(done, "twice"), "standard input can be read once", done.stderr)
    done = place.discover("--kubectl", "kubectl", names[0])
    tap.point(one_line(done, "kubectl is not asked"), "files, or kubectl", done.stderr)
    done = place.discover(place.folder + "/none.json")
    tap.point(one_line(done, "No such file"), "a file that is not there", done.stderr)
    done = place.discover(place.folder)
    tap.point(one_line(done, "folder"), "a folder", done.stderr)


def test_hostile(tap, place):
    """One clear line, and nothing is changed."""
    whole = json.dumps(PAIR)
    cases = {
        "empty": ("", "it is empty"), "spaces": (" \n\t ", "it is empty"),
        "YAML": ("apiVersion: v1\nkind: List\n", "it is no JSON", "YAML"),
        "truncated": (whole[:-5], "it is no JSON", "the end is missing"),
        "truncated in a string": (whole[:whole.index("node1") + 3], "it is no JSON"),
        "garbage behind": (whole + "}", "it is no JSON"),
        "binary": (bytes(range(256)), "it is no JSON"),
        "a NUL": (b"\0" + whole.encode(), "it is no JSON"),
        "a NUL in a string": (whole.replace("node1", "no\\u0000de1"), "it is no JSON"),
        "no UTF-8": (whole.encode().replace(b"node1", b"\xff\xfe"), "it is no JSON"),
        "a key twice": ('{"apiVersion": "v1", "kind": "Node", "kind": "Pod"}', "duplicate"),
        "deep": ("[" * 100000, "it is no JSON"),
        "deep objects": ('{"a":' * 100000, "it is no JSON"),
        "deep lists": ('{"kind":"List","apiVersion":"v1","items":[' * 40 + "]}" * 40, "lists in"),
        "a huge number": (whole[:-1] + ', "x": ' + "9" * 400 + "}", "it is no JSON"),
        "no nodes": (listed(), "there is no Node"),
        "only pods": (listed(pod("a", "node1", "10.200.1.7")), "there is no Node",
                      "nodes,pods -A -o json"),
        "only blocks": (listed(affinity("a", "node1", "10.200.1.0/26")), "there is no Node"),
        "only what is of no use": (listed({"apiVersion": "v1", "kind": "Service",
                                           "metadata": {"name": "x"}}), "there is no Node"),
        "a part of a list": (dict(PAIR, metadata={"continue": "eyJ2Ijoi"}), "part of a list"),
        "a part of a list in a list": (listed(dict(PAIR, kind="NodeList",
                                                   metadata={"continue": "e"})), "part of a list"),
        "only text": ('"text"', "it is no JSON"),
        "an error of the server": ({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                                    "message": "Unauthorized\x1b[2J"}, "Unauthorized"),
    }
    before = TITLE + "\n[node old]\naddress = 192.168.31.9\n"
    for name, (data, *words) in cases.items():
        place.write(POOL, before)
        done = place.discover("--write", data=data)
        tap.point(one_line(done, *words) and "\x1b" not in done.stderr and not done.stdout and
                  place.found() == before, f"refused: {name}", repr(done.stderr[-500:]))


def test_types(tap, place):
    """Every field of every object as every other type: nothing falls over, what comes is valid."""
    others = [None, True, 7, -1, 1.5, "", "x", [], {}, [7], {"a": 1}, [[]], "10.0.0.0/8", 2 ** 62]

    def fields(value, path=()):
        if path:
            yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) \
            if isinstance(value, list) else ()
        for key, item in items:
            if key not in ("labels", "status") or not path:
                yield from fields(item, (*path, key))

    failures = []
    for name in EXPECTED:
        cluster = fixture(name)
        for item in cluster["items"]:
            for key in ("nodeInfo", "images", "conditions", "allocatable", "capacity"):
                item.get("status", {}).pop(key, None)
            if "allocations" in item.get("spec", {}):
                item["spec"]["allocations"] = item["spec"]["allocations"][:32]
                item["spec"].pop("unallocated")
        documents = []
        for path in list(fields(cluster["items"]))[::7]:
            for other in others:
                changed = copy.deepcopy(cluster)
                at = changed["items"]
                for key in path[:-1]:
                    at = at[key]
                at[path[-1]] = other
                documents.append(changed)
        for number, changed in enumerate(documents[::29]):
            place.write(POOL)
            done = place.discover("--write", data=changed)
            if done.returncode not in (0, 1) or "\0" in place.found():
                failures.append((name, number, done.returncode, done.stderr[-200:]))
            elif place.read() != POOL or (done.returncode == 1 and place.found()):
                failures.append((name, number, "changed"))
    tap.point(not failures, "fields of other types are passed over or refused", *failures[:5])


# ---- what becomes of the configuration ----


SITE = """\
# The site, by hand.  \t
[pool]
ports = 61001-61999   ; as agreed

[hosts]   
addresses=192.168.31.67,\\
   192.168.31.68
"""
TITLE = """\
# Written by "fixport-setup discover", whole, each time: put nothing of your own here.
# A [node NAME] that stands in the configuration itself is left out here.
"""
FOUND = TITLE + """
[node node1]
address = 192.168.31.17
pods = 10.200.1.0/24

[node node7]
address = 192.168.31.77
pods = 10.200.77.0/24
"""


def test_whole(tap, place):
    """Its file is replaced whole, and no other is touched."""
    place.write(SITE, FOUND)
    place.add("site.conf", "# more\n[pods]\nservices = 8088\n")
    for path in (place.config, place.file):
        os.chmod(path, 0o640)
        if os.geteuid() == 0:
            os.chown(path, 0, 12)
    stamps = [(os.stat(path).st_mtime_ns, os.stat(path).st_ino)
              for path in (place.config, place.parts + "/site.conf")]
    before = os.stat(place.file)
    pair = copy.deepcopy(PAIR)
    pair["items"][0]["spec"]["podCIDRs"] = ["10.200.2.0/24"]
    tap.equal(place.to(pair), TITLE + """
[node node1]
address = 192.168.31.17
pods = 10.200.2.0/24

[node node2]
address = 192.168.31.45
pods = 10.200.36.0/24
""", "what is not in the cluster any more goes, what is new comes")
    after = os.stat(place.file)
    tap.equal((after.st_mode, after.st_uid, after.st_gid),
              (before.st_mode, before.st_uid, before.st_gid), "mode and owner are kept")
    stamp = os.stat(place.file).st_mtime_ns, os.stat(place.file).st_ino
    tap.equal(place.discover("--write", data=pair).returncode, 0, "once more, with --write")
    tap.equal((os.stat(place.file).st_mtime_ns, os.stat(place.file).st_ino), stamp,
              "does not touch the file")
    tap.equal(sorted(os.listdir(place.folder) + os.listdir(place.parts)),
              ["discovered.conf", "fixport.conf", "fixport.conf.d", "site.conf"],
              "and nothing is left beside it")
    tap.equal([(os.stat(path).st_mtime_ns, os.stat(path).st_ino)
               for path in (place.config, place.parts + "/site.conf")], stamps,
              "other files were not touched")
    tap.equal(place.to(listed()) and len(sections(place.found())), 2, "no nodes: nothing goes")
    for name, data in {"single objects": json.dumps(PAIR["items"][0]),
                       "a list of other objects, and single nodes": json.dumps(listed(
                           affinity("a", "node1", "10.7.0.0/26"))) + json.dumps(PAIR["items"][0])
                       }.items():
        place.write(SITE, FOUND)
        tap.equal(sorted(sections(place.to(data))), ["node1", "node7"],
                  f"{name} are not the whole cluster: what else is there stays")
    down = copy.deepcopy(PAIR)
    down["items"][0]["status"] = {}
    place.write(SITE, FOUND)
    tap.equal(sections(place.to(down)), {"node1": ("192.168.31.17", "10.200.1.0/24"),
                                         "node2": ("192.168.31.45", "10.200.36.0/24")},
              "a node that has no address now keeps its section")
    for text in ("[node node1]\naddress = 192.168.31.17\n", "", "# Written by hand\n"):
        place.write(SITE, text)
        done = place.discover("--write", data=PAIR)
        tap.point(one_line(done, place.file, "first line") and place.found() == text,
                  f"a file of that name that discover has not written stays: {text!r}", done.stderr)
    for name, make in {"symlink": lambda path: os.symlink("/dev/null", path),
                       "folder": os.mkdir}.items():
        place.write(SITE)
        os.mkdir(place.parts)
        make(place.file)
        done = place.discover("--write", data=PAIR)
        tap.point(one_line(done, place.file), f"instead of its file there is a {name}", done.stderr)
        if name == "folder":
            os.rmdir(place.file)


def test_persons(tap, place):
    """What a person wrote wins, and what the cluster says else is told."""
    mine = POOL + "[node node1]\naddress = 192.168.31.17\npods = 10.200.1.0/25 # ours\n"
    place.write(mine)
    data = listed(node("node1", "192.168.31.17", cidrs=["10.200.1.0/25"]))
    done = place.discover(data=data)
    tap.point(done.returncode == 0 and not done.stderr and "Nothing to change" in done.stdout,
              "a person's section that says the same: there is nothing to write", done.stderr)
    data["items"][0]["spec"]["podCIDRs"] += ["10.200.4.0/24", "10.200.5.0/24"]
    data["items"].append(node("node2", "192.168.31.45"))
    done = place.discover("--write", data=data)
    tap.equal((list(sections(place.found())), place.read()), (["node2"], mine),
              "it is not written twice, nor changed")
    tap.point(f"[node node1]: it stands in {place.config}, line 3, and stays as it is there; but "
              "the cluster says that 10.200.4.0/24 and 1 other is behind it\n" in done.stderr,
              "what it lacks is told", done.stderr)
    done = place.discover(data=listed(node("node1", "192.168.31.18", cidrs=["10.5.0.0/24"])))
    tap.point("but the cluster says that 192.168.31.18 is its address, that 10.5.0.0/24 is behind "
              "it, that 10.200.1.0/25 is not\n" in done.stderr, "what differs is told", done.stderr)
    done = place.discover("--write", data=listed(node("node2", "192.168.31.45")))
    tap.point(place.read() == mine and "does not have this node" in done.stderr,
              "a node that is gone", done.stderr)
    tap.equal(json.loads(place.discover("--json", data=data).stdout)["nodes"][0]["state"], "left",
              "for scripts: it is left")
    place.write(POOL)
    place.add("a.conf", "\n[node node1]\naddress = 192.168.31.9\n")
    done = place.discover(data=PAIR)
    tap.point(f"[node node1]: it stands in {place.parts}/a.conf, line 2" in done.stderr,
              "so does one in another part", done.stderr)
    place.write(POOL + "[node node1]\naddress = 192.168.31.17\npods = 10.200.0.0/16\n")
    done = place.discover("--write", data=listed(PAIR["items"][0]))
    tap.point(not done.stderr and not place.found(), "a person's wider block covers those in it",
              done.stderr)


def test_upgrade(tap, place):
    """A configuration into which fixport 0.1.0 has written."""
    old = POOL + """\
[node node1]
address = 192.168.31.17 ; discovered
pods = 10.200.1.0/24 ; discovered

[node node2]
address = 192.168.31.45 ; discovered\t
pods = 10.200.9.0/24
[hosts]
addresses = 192.168.31.67 ; discovered by a colleague
"""
    for text in (old, old.replace("\n", "\r\n")):
        place.write(text)
        done = place.discover("--write", data=PAIR)
        tap.point(done.returncode == 0 and place.read() == text and not place.found() and
                  f"{place.config} has 2 sections of nodes, the first in line 3, that an earlier "
                  "release wrote" in done.stderr and place.file in done.stderr,
                  "its nodes are not written twice, and it is said what to do", done.stderr)
    place.write(old[:old.index("[node")] + old[old.index("[hosts]"):])
    done = place.discover("--write", data=PAIR)
    tap.point(sorted(sections(place.found())) == ["node1", "node2"] and not done.stderr,
              "when that is done, it has them", done.stderr)


def test_conflicts(tap, place):
    """What would be refused by apply is refused here, with the object's name."""
    cases = {
        "[hosts]\naddresses = 10.200.1.7\n": ("10.200.1.0/24 overlaps", "Node node1"),
        "[gateway]\naddress = 10.200.36.1\n": ("10.200.36.0/24 overlaps", "Node node2"),
        "[pods]\nblocks = 10.200.1.0/24\n": ("10.200.36.0/24 is not within", "Node node2"),
        "[node x]\naddress = 192.168.31.9\npods = 10.200.1.0/25\n": ("overlaps",),
    }
    for more, words in cases.items():
        place.write(POOL + more)
        done = place.discover("--write", data=PAIR)
        tap.point(done.returncode == 1 and place.file + ":" in done.stderr and
                  all(word in done.stderr for word in words) and not place.found(),
                  f"refused: {more!r}", done.stderr)
    for bad, word in (("[pool]\nports = 60001-80001\n", "80001 is not a port"),
                      (POOL + "[node a]\n", "[node a]"), ("[pool\n", "ends with ']'")):
        place.write(bad)
        done = place.discover("--write", data=PAIR)
        tap.point(one_line(done, place.config + ":", word) and not place.found(), f"a configuration that is refused: {bad!r}", done.stderr)
    place.write(POOL)
    many = listed(node("node1", "192.168.31.17"), *(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{i}"},
         "spec": {"nodeName": "node1"},
         "status": {"phase": "Running", "podIP": f"10.{i >> 8}.{i & 255}.1"}}
        for i in range(12000)))
    done = place.discover("--write", data=many)
    tap.point(one_line(done, "node1", "12000") and not place.found(),
              "more single pods than a section can hold", done.stderr)
    many["items"] = many["items"][:3001]
    place.to(many)
    tap.equal(len(sections(place.found())["node1"][1].split(", ")), 3000, "3,000 of them fit")


def test_json(tap, place):
    place.write(SITE, FOUND)
    done = place.discover("--json", data=PAIR)
    said = json.loads(done.stdout)
    tap.equal((done.returncode, said["result"], said["config"], said["file"], said["begins"]),
              (2, "changes", place.config, place.file, False), "--json: what would change")
    tap.equal({n["name"]: n["state"] for n in said["nodes"]},
              {"node1": "same", "node2": "new", "node7": "gone"}, "what becomes of each node")
    tap.equal(next(n for n in said["nodes"] if n["name"] == "node2"),
              {"name": "node2", "state": "new", "addresses": ["192.168.31.45"],
               "blocks": ["10.200.36.0/24"], "single": []}, "a node")
    tap.point("+[node node2]" in said["diff"], "the difference", said["diff"])
    done = place.discover("--json", "--write", data=PAIR)
    tap.equal((done.returncode, json.loads(done.stdout)["result"]), (0, "written"), "--write")
    done = place.discover("--json", data=PAIR)
    said = json.loads(done.stdout)
    tap.equal((done.returncode, said["result"], said["diff"]), (0, "unchanged", None), "unchanged")
    done = place.discover("--json", data="{")
    said = json.loads(done.stdout)
    tap.point(done.returncode == 1 and said["result"] == "failed" and "no JSON" in said["error"],
              "an error", done.stdout)
    with open(os.path.join(FIXTURES, "calico-v1.json"), "rb") as file:
        place.write(POOL)
        said = json.loads(place.discover("--json", data=file.read()).stdout)
    tap.point(said["cni"] == "Calico" and said["notes"][0]["object"] == "Calico" and
              said["warnings"][0]["object"] == "BlockAffinity node2-10-200-1-128-26",
              "the CNI, notes and warnings", said)
    tap.equal(said["nodes"][1]["single"], ["10.200.1.93"], "a borrowed address")


def test_scale(tap, place):
    """5,000 nodes and 20,000 blocks, and then one change."""
    items = []
    for i in range(5000):
        items.append(node(f"node-{i:04}", f"172.{16 + (i >> 12)}.{i >> 4 & 255}.{1 + (i & 15)}"))
    for i in range(20000):
        text = f"10.{i >> 10}.{i >> 2 & 255}.{(i & 3) << 6}/26"
        items.append({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
                      "metadata": {"name": text.replace(".", "-").replace("/", "-")},
                      "spec": {"cidr": text, "affinity": f"host:node-{i % 5000:04}",
                               "allocations": [0, 1] + [None] * 62, "deleted": False,
                               "attributes": [{"handle_id": "h", "secondary": {
                                   "node": f"node-{(i + k) % 5000:04}", "pod": "p",
                                   "namespace": "default"}} for k in (0, i % 50 == 0)],
                               "unallocated": list(range(2, 64))}})
    place.write(POOL)
    for name, count in (("all new", 20400), ("nothing new", 20400), ("one block less", 20399)):
        text = json.dumps(listed(*(items if count == 20400 else items[:-1])))
        before = processor_seconds()
        done = place.discover("--write", data=text)
        took = processor_seconds() - before
        pods = sum(len(pods.split(", ")) for _, pods in sections(place.found()).values())
        tap.point(done.returncode == 0 and pods == count and took < TIME_MOST,
                  f"5,000 nodes and 20,000 blocks ({len(text) >> 20} MiB), {name}: {pods} in the "
                  f"file", f"{took:.2f} s", done.stderr[-300:])


# ---- kubectl ----


class Kubectl:
    """A kubectl of the test's own, first in PATH, that says what is in a folder."""

    def __init__(self, place):
        self.folder = os.path.join(place.folder, "cluster")
        self.tools = os.path.join(place.folder, "tools")
        os.mkdir(self.folder)
        os.mkdir(self.tools)
        self.path = os.path.join(self.tools, "kubectl")
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(KUBECTL.format(folder=self.folder))
        os.chmod(self.path, 0o755)
        self.env = {"PATH": f"{self.tools}:{os.environ['PATH']}"}

    def has(self, name, data):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(data if isinstance(data, str) else json.dumps(data))

    def asked(self):
        """What it was called with, and forgets that."""
        path = os.path.join(self.folder, "asked")
        with open(path, encoding="utf-8") as file:
            lines = [line.split("\0") for line in file.read().splitlines()]
        os.remove(path)
        return lines

    def clear(self):
        for name in os.listdir(self.folder):
            os.remove(os.path.join(self.folder, name))


def calico_parts(version):
    """A fixture by resources, as kubectl is asked for them."""
    group = "crd.projectcalico.org" if version == "v1" else "projectcalico.org"
    names = {"Node": "nodes", "BlockAffinity": f"blockaffinities.{group}",
             "IPAMBlock": f"ipamblocks.{group}", "IPPool": f"ippools.{group}",
             "FelixConfiguration": f"felixconfigurations.{group}"}
    items = fixture("calico-" + version)["items"]
    return {name: listed(*(i for i in items if i["kind"] == kind))
            for kind, name in names.items()}


def service(name, *addresses, port=80, selector=None, kind="ClusterIP", **more):
    spec = {"type": kind, "clusterIPs": list(addresses), "clusterIP": (addresses or ["None"])[0],
            "ports": [{"port": port, "targetPort": 7000, "protocol": "TCP"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": dict(spec, **({"selector": selector} if selector else {}), **more)}


def endpoints(name, *addresses, port=7000, family="IPv4", of=None, **more):
    """An EndpointSlice."""
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "namespace": "default",
                         "labels": {"kubernetes.io/service-name": of or name}},
            "endpoints": [dict({"addresses": [address]}, **more) for address in addresses],
            "ports": [{"port": port, "protocol": "TCP"}]}


def aliases(text):
    """The aliases' sections: {name: (server, addresses)}."""
    return {name: (server, addresses) for name, server, addresses in
            re.findall(r"^\[alias (\S+)\]\nserver = (.*)\naddresses = (.*)\n", text, re.M)}


def test_aliases(tap, place):
    shop = [service("shop", "10.96.0.1"), endpoints("shop", "192.168.31.67")]
    place.write(POOL)
    text = place.to(listed(*PAIR["items"], *shop))
    tap.equal((aliases(text), sorted(sections(text))),
              ({"default.shop.80": ("192.168.31.67:7000", "10.96.0.1:80")}, ["node1", "node2"]),
              "a Service without a selector, that leads to a host")
    pool = os.path.join(place.folder, "pool")
    with open(os.path.join(place.parts, "pool.conf"), "w", encoding="utf-8") as file:
        file.write(f"[rule all]\nports = 61001-61999\nto = 192.168.31.67\n")
    made = subprocess.run([os.path.join(fptest.BUILD, "tools", "fixport-pool"), "--pool", pool, "create",
                           "-c", place.config], capture_output=True, text=True, check=False)
    status = subprocess.run([os.path.join(fptest.BUILD, "tools", "fixport-pool"), "--pool", pool, "status"],
                            capture_output=True, text=True, check=False)
    tap.point("10.96.0.1:80 counts as 192.168.31.67:7000" in status.stdout,
              "fixport-pool takes it from there", made.stderr, status.stdout, status.stderr)
    subprocess.run([os.path.join(fptest.BUILD, "tools", "fixport-pool"), "--pool", pool, "remove", "--force"],
                   capture_output=True, check=False)
    os.remove(os.path.join(place.parts, "pool.conf"))
    same = place.discover(data=listed(*PAIR["items"], *reversed(shop)))
    tap.point(same.returncode == 0 and "Nothing to change" in same.stdout, "the order is of no account",
              same.stdout, same.stderr)
    kept = place.to(listed(*PAIR["items"]))
    tap.equal(aliases(kept), aliases(text), "input without Services leaves them as they are")
    kept = place.to(listed(*PAIR["items"], shop[0]))
    tap.equal(aliases(kept), aliases(text), "and so does one without EndpointSlices")
    moved = place.to(listed(*PAIR["items"], shop[0], endpoints("shop", "192.168.31.68")))
    tap.equal(aliases(moved), {"default.shop.80": ("192.168.31.68:7000", "10.96.0.1:80")},
              "another host is another server")
    gone = place.to(listed(*PAIR["items"], service("shop", "10.96.0.1", selector={"app": "x"}),
                           endpoints("shop", "192.168.31.68")))
    tap.equal(aliases(gone), {}, "a Service that selects pods has none")
    cases = {
        "all its addresses": (
            [service("a", "10.96.0.1", externalIPs=["203.0.113.9"]), endpoints("a", "10.7.0.2", "10.7.0.1"),
             endpoints("a-2", "10.7.0.3", of="a")],
            {"default.a.80": ("10.7.0.1:7000, 10.7.0.2:7000, 10.7.0.3:7000",
                              "10.96.0.1:80, 203.0.113.9:80")}),
        "a load balancer's": (
            [dict(service("a", "10.96.0.1", kind="LoadBalancer"), status={"loadBalancer": {"ingress": [
                {"ip": "203.0.113.9"}, {"hostname": "x.example"}, {"ip": "203.0.113.10", "ipMode": "Proxy"}]}}),
             endpoints("a", "10.7.0.1")],
            {"default.a.80": ("10.7.0.1:7000", "10.96.0.1:80, 203.0.113.9:80")}),
        "IPv4 and IPv6": (
            [service("a", "10.96.0.1", "fd00:96::1"), endpoints("a", "10.7.0.1"),
             endpoints("a6", "fd00::7", family="IPv6", of="a")],
            {"default.a.80": ("10.7.0.1:7000", "10.96.0.1:80"),
             "default.a.80.ipv6": ("[fd00::7]:7000", "[fd00:96::1]:80")}),
        "ports by their names": (
            [service("a", "10.96.0.1", ports=[{"name": "x", "port": 80}, {"name": "y", "port": 81},
                                             {"name": "z", "port": 82, "protocol": "UDP"}]),
             dict(endpoints("a", "10.7.0.1"), ports=[{"name": "y", "port": 7001}, {"name": "x", "port": 7000},
                                                     {"name": "z", "port": 7002, "protocol": "UDP"}])],
            {"default.a.80": ("10.7.0.1:7000", "10.96.0.1:80"),
             "default.a.81": ("10.7.0.1:7001", "10.96.0.1:81")}),
        "pods' slices, pods' addresses, names, and other namespaces": (
            [service("a", "10.96.0.1"), endpoints("a", "10.7.0.1", targetRef={"kind": "Pod", "name": "x"}),
             service("b", "10.96.0.2"), endpoints("b", "10.200.1.5"),
             service("c", kind="ExternalName", externalName="db.example"), endpoints("c", "10.7.0.1"),
             service("d", "None"), endpoints("d", "10.7.0.1"),
             service("e", "10.96.0.3"),
             dict(endpoints("e", "10.7.0.1"), metadata={"name": "e", "namespace": "other", "labels": {
                 "kubernetes.io/service-name": "e"}}),
             service("f", "10.96.0.4"), dict(endpoints("f", "x.example"), addressType="FQDN")], {}),
    }
    mixed = endpoints("a", "10.7.0.1")
    mixed["endpoints"].append({"addresses": ["10.7.0.9"], "targetRef": {"kind": "Pod", "name": "x"}})
    cases["a slice with a host and a pod"] = ([service("a", "10.96.0.1"), mixed],
                                              {"default.a.80": ("10.7.0.1:7000", "10.96.0.1:80")})
    cases["an address that is the server's own, too"] = (
        [service("a", "10.96.0.1", port=7000, externalIPs=["10.7.0.1"]), endpoints("a", "10.7.0.1"),
         service("b", "None", port=7000, externalIPs=["10.7.0.1"]), endpoints("b", "10.7.0.1")],
        {"default.a.7000": ("10.7.0.1:7000", "10.96.0.1:7000")})
    cases["an address of two Services, and of a host"] = (
        [service("a", "10.96.0.1", externalIPs=["203.0.113.9"], port=7000), endpoints("a", "10.7.0.1"),
         service("b", "10.96.0.2", externalIPs=["203.0.113.9", "10.7.0.1"], port=7000), endpoints("b", "10.7.0.2")],
        {"default.a.7000": ("10.7.0.1:7000", "10.96.0.1:7000, 203.0.113.9:7000"),
         "default.b.7000": ("10.7.0.2:7000", "10.7.0.1:7000, 10.96.0.2:7000, 203.0.113.9:7000")})
    cases["addresses that are nobody's"] = (
        [service("a", "10.96.0.1", "::", externalIPs=["0.0.0.0", "127.0.0.1", "::ffff:0.0.0.0"]),
         endpoints("a", "10.7.0.1", "0.0.0.0"), endpoints("a6", "::", "fd00::7", family="IPv6", of="a"),
         service("b", "10.96.0.2"), endpoints("b", "10.7.0.2")],
        {"default.a.80": ("10.7.0.1:7000", "10.96.0.1:80"), "default.b.80": ("10.7.0.2:7000", "10.96.0.2:80")})
    for name, (items, expected) in cases.items():
        tap.equal(aliases(place.to(listed(*PAIR["items"], *items))), expected, name)
        made = subprocess.run([SETUP, "--config", place.config, "doctor"], capture_output=True, text=True, check=False)
        tap.point("fixport.conf" not in made.stderr, f"{name}: the configuration can be read", made.stderr)
    hostile = [service("x]\n[pool]\npath = /x", "10.96.0.1"), endpoints("x]\n[pool]\npath = /x", "10.7.0.1"),
               service("y", "10.96.0.1\n[pool]"), endpoints("y", "10.7.0.1, !any"),
               {"apiVersion": "v1", "kind": "Service", "metadata": [], "spec": {"ports": [7, None, {}]}},
               {"apiVersion": "v1", "kind": "Service", "spec": "x"},
               {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": [1, {"addresses": 7}],
                "ports": {"port": -1}},
               service("z", "10.96.0.9", ports=[{"port": 2 ** 40}, {"port": "80"}]), endpoints("z", "10.7.0.1")]
    done = place.discover("--write", data=listed(*PAIR["items"], *hostile))
    tap.point(done.returncode == 0 and aliases(place.found()) == {} and "path" not in place.found() and
              "has no name" in done.stderr and "is no address" in done.stderr, "what is no Service is told",
              done.stderr, place.found())
    many = [item for i in range(150) for item in (service(f"s{i:03}", f"10.96.1.{i}"),
                                                 endpoints(f"s{i:03}", f"10.7.1.{i}"))]
    done = place.discover("--write", data=listed(*PAIR["items"], *many))
    tap.point(done.returncode == 0 and len(aliases(place.found())) == 125 and "more than 250" in done.stderr,
              "more than fit are told", done.stderr[:500])
    many = [item for i in range(4000) for item in (service(f"s{i:04}", f"10.96.{i >> 8}.{i & 255}"),
                                                  endpoints(f"s{i:04}", f"10.7.{i >> 8}.{i & 255}"))]
    before = processor_seconds()
    done = place.discover("--write", data=listed(*PAIR["items"], *many))
    took = processor_seconds() - before
    tap.point(done.returncode == 0 and took < TIME_MOST, "4,000 Services do not take long", f"{took:.1f} s")
    place.write(POOL + "[alias default.shop.80]\nserver = 10.9.9.9:1\naddresses = 10.96.0.1:80\n")
    done = place.discover("--write", data=listed(*PAIR["items"], *shop))
    tap.point(done.returncode == 0 and aliases(place.found()) == {} and
              "[alias default.shop.80]: it stands in" in done.stderr, "a person's own stays", done.stderr)


def test_kubectl(tap, place):
    kubectl = Kubectl(place)
    for version in ("v1", "v3"):
        kubectl.clear()
        for name, data in calico_parts(version).items():
            kubectl.has(name, data)
        place.write(POOL)
        done = place.discover("--write", env=kubectl.env)
        tap.equal((done.returncode, sections(place.found())), (0, EXPECTED[f"calico-{version}"]),
                  f"kubectl is asked, Calico {version}")
    kubectl.asked()
    done = place.discover("--kubeconfig", "/x/$(id).conf", "--context", "a; b", "--timeout", "7",
                          "--kubectl", kubectl.path)
    asked = kubectl.asked()
    tap.point(done.returncode == 0 and
              all(a[:4] == ["--kubeconfig=/x/$(id).conf", "--context=a; b", "--request-timeout=7s",
                            "get"] for a in asked), "its options are passed on, without a shell",
              asked[:2], done.stderr)
    kubectl.clear()
    kubectl.has("nodes", PAIR)
    place.write(POOL)
    done = place.discover("--write", env=kubectl.env)
    tap.point(done.returncode == 0 and not done.stderr and len(sections(place.found())) == 2,
              "a cluster without Calico and Cilium is no error", done.stderr)
    tap.equal([a[a.index("get") + 1] for a in kubectl.asked()],
              ["nodes", "ipamblocks.crd.projectcalico.org", "ipamblocks.projectcalico.org",
               "blockaffinities.crd.projectcalico.org", "blockaffinities.projectcalico.org",
               "ippools.crd.projectcalico.org", "ippools.projectcalico.org",
               "felixconfigurations.crd.projectcalico.org", "felixconfigurations.projectcalico.org",
               "ciliumnodes.cilium.io", "subnets.kubeovn.io", "configmaps", "daemonsets.apps",
               "services", "endpointslices.discovery.k8s.io", "pods"], "what is asked for; for pods, if nothing else says where they are")
    for name in ("flannel", "kindnet", "cilium", "ovn-kubernetes"):
        kubectl.clear()
        kubectl.has("nodes", listed(*(i for i in fixture(name)["items"] if i["kind"] == "Node")))
        place.discover(env=kubectl.env)
        tap.point(not any("pods" in a for a in kubectl.asked()), f"not for pods: {name}")
    kubectl.clear()
    for name, kind in (("nodes", "Node"), ("pods", "Pod")):
        kubectl.has(name, listed(*(i for i in fixture("weave")["items"] if i["kind"] == kind)))
    place.write(POOL)
    place.discover("--write", env=kubectl.env)
    tap.equal(sections(place.found()), EXPECTED["weave"], "pods show that podCIDRs are not used")
    tap.point(["--all-namespaces", "--field-selector=status.phase=Running"] ==
              kubectl.asked()[-1][-3:-1], "those that run, of all namespaces")


def test_kubectl_refuses(tap, place):
    kubectl = Kubectl(place)
    forbidden = ('Error from server (Forbidden): {0} is forbidden: User "x" cannot list resource '
                 '"{0}" in API group "" at the cluster scope\n')
    place.write(POOL)
    for name, data in calico_parts("v1").items():
        kubectl.has(name, data)
    kubectl.has("ipamblocks.crd.projectcalico.org.err", forbidden.format("ipamblocks"))
    done = place.discover("--write", env=kubectl.env)
    tap.point(done.returncode == 0 and "forbidden to this user" in done.stderr and
              "borrowed" in done.stderr and "10.200.1.93" not in place.found() and
              "10.200.36.64/26" in place.found(),
              "what is forbidden is a warning that says what is missed", done.stderr)
    kubectl.has("blockaffinities.crd.projectcalico.org.err", forbidden.format("blockaffinities"))
    before = place.found()
    done = place.discover("--write", env=kubectl.env)
    tap.point(done.returncode == 1 and "this cluster has Calico" in done.stderr and
              done.stderr.count("forbidden to this user") == 2 and place.found() == before,
              "none of Calico's blocks may be read: nothing is changed", done.stderr)
    kubectl.has("nodes.err", forbidden.format("nodes"))
    done = place.discover("--write", env=kubectl.env)
    tap.point(one_line(done, "ClusterRole") and place.found() == before,
              "without nodes nothing goes", done.stderr)
    kubectl.clear()
    kubectl.has("nodes", PAIR)
    failures = {
        "no answer from the server": ("nodes.err", "The connection to the server 10.0.0.1:6443 was "
                                      "refused - did you specify the right host or port?\n",
                                      "was refused"),
        "an error of an optional type": ("ciliumnodes.cilium.io.err",
                                         "Error from server (InternalError): etcd\n",
                                         "kubectl get ciliumnodes.cilium.io", "etcd"),
        "garbage": ("configmaps", "<html>502 Bad Gateway</html>", "it is no JSON"),
        "half an answer": ("ciliumnodes.cilium.io", '{"kind": "List", "items": [', "it is no JSON"),
    }
    for name, (file, text, *words) in failures.items():
        kubectl.clear()
        kubectl.has("nodes", PAIR)
        kubectl.has(file, text)
        done = place.discover("--write", env=kubectl.env)
        tap.point(one_line(done, *words) and place.found() == before, f"refused: {name}", done.stderr)
    log = ('E1123 08:58:12.301838   19655 memcache.go:265] "Unhandled Error" err="couldn\'t get '
           'resource list for metrics.k8s.io/v1beta1: the server is currently unable to ..."\n')
    kubectl.clear()
    kubectl.has("nodes.err", 5 * log + "The connection to the server 10.0.0.1:6443 was refused\n")
    done = place.discover(env=kubectl.env)
    tap.point(one_line(done, "The connection to the server") and "E1123" not in done.stderr,
              "what is told of a failure is not kubectl's log", done.stderr)
    kubectl.clear()
    kubectl.has("nodes", PAIR)
    kubectl.has("ciliumnodes.cilium.io.err",
                40 * log + "error: the server doesn't have a resource type \"ciliumnodes\"\n")
    done = place.discover(env=kubectl.env)
    tap.point(done.returncode == 2 and not done.stderr,
              "nor does a long one hide that there is no such type", done.stderr)
    done = place.discover(env={"PATH": place.folder})
    tap.point(one_line(done, "kubectl is not there", "--kubectl"), "no kubectl", done.stderr)
    done = place.discover("--kubectl", place.folder + "/none")
    tap.point(one_line(done, "none"), "--kubectl names none", done.stderr)


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid):
    """Who is killed takes a moment to go."""
    until = time.monotonic() + 60
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not runs(pid)


def test_kubectl_hangs(tap, place):
    kubectl = Kubectl(place)
    kubectl.has("hang", "")
    place.write(POOL)
    done = place.discover("--write", "--timeout", "2", env=kubectl.env)
    with open(os.path.join(kubectl.folder, "child"), encoding="ascii") as file:
        child = int(file.read())
    tap.point(one_line(done, "no answer within 2 seconds", "--timeout") and not place.found(),
              "a kubectl that hangs is ended", done.stderr)
    tap.point(gone(child), "with what it has started")
    os.remove(os.path.join(kubectl.folder, "child"))
    running = subprocess.Popen([SETUP, "discover", "--config", place.config],
                               env=dict(os.environ, **kubectl.env), stdin=subprocess.DEVNULL)
    until = time.monotonic() + 60
    path = os.path.join(kubectl.folder, "child")
    while not (os.path.exists(path) and os.path.getsize(path)) and time.monotonic() < until:
        time.sleep(0.05)  # asks whether it is there, until it is
    running.terminate()
    tap.equal(running.wait(60), -15, "SIGTERM ends it")
    with open(path, encoding="ascii") as file:
        tap.point(gone(int(file.read())), "and kubectl with it")


def test_real_kubectl(tap, place):
    """The real kubectl against something that answers like an API server."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        tap.cannot("the real kubectl", "kubectl is not installed")
        return
    config = os.path.join(place.folder, "kubeconfig")
    env = {"HOME": place.folder, "KUBECONFIG": config, "no_proxy": "127.0.0.1"}

    def cluster(server):
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "lab",
                       "clusters": [{"name": "lab", "cluster": {"server": server.url}}],
                       "users": [{"name": "lab", "user": {}}],
                       "contexts": [{"name": "lab",
                                     "context": {"cluster": "lab", "user": "lab"}}]}, file)

    for name in EXPECTED:
        place.write(POOL)
        with ApiServer(fixture(name)["items"]) as server:
            cluster(server)
            done = place.discover("--write", env=env)
        tap.equal((done.returncode, sections(place.found())), (0, EXPECTED[name]),
                  f"{name} by the real kubectl")
        tap.point(f"CNI: {CNI[name]}" in done.stdout and NOTES[name] in done.stdout,
                  f"{name}: the same is said of source ports", done.stdout, done.stderr)
    place.write(POOL)
    with ApiServer(fixture("calico-v1")["items"], forbidden=["ipamblocks", "ippools"]) as server:
        cluster(server)
        done = place.discover("--kubeconfig", config, "--context", "lab", env=env)
    tap.point(done.returncode == 2 and done.stderr.count("forbidden to this user") == 2,
              "what it forbids is a warning", done.stderr)
    with ApiServer(fixture("calico-v1")["items"], forbidden=["nodes"]) as server:
        cluster(server)
        done = place.discover(env=env)
    tap.point(one_line(done, "ClusterRole"), "forbidden nodes are not", done.stderr)
    done = place.discover("--timeout", "20", env=env)  # nobody listens any more
    tap.point(one_line(done, "kubectl get nodes", "refused") and "memcache" not in done.stderr,
              "a server that is not there", done.stderr)


TESTS = {name[5:]: function for name, function in list(globals().items())
         if name.startswith("test_")}


def main():
    tap = Tap()
    words = sys.argv[1:]
    for name, function in TESTS.items():
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="fixport-test.") as folder:
            began = time.monotonic()
            function(tap, Place(folder))
            print(f"# {name}: {time.monotonic() - began:.1f} s", flush=True)
    tap.end()


if __name__ == "__main__":
    main()
