#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What is shipped for Kubernetes against the API's own rules, as far as no server is needed: each
template that kubectl kustomize makes, and each pod. The rules are those of the API server's validation
(pkg/apis/core/validation) for what is used here; that the check finds what it is there for is tried on
manifests that break one rule each.

    tests/tools/test_kubernetes.py
"""

import contextlib
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SOURCE = Path(__file__).resolve().parent.parent.parent
KUBERNETES = SOURCE / "contrib" / "kubernetes"
KINDS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
# net.ipv4.ip_local_reserved_ports is one from 1.27 on.
SAFE_SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
                "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
                "net.ipv4.ip_local_reserved_ports"}
FIELDS = {
    "pod": """affinity automountServiceAccountToken containers enableServiceLinks hostIPC hostNetwork hostPID
        imagePullSecrets initContainers nodeSelector priorityClassName restartPolicy securityContext
        serviceAccountName terminationGracePeriodSeconds tolerations volumes dnsPolicy""",
    "container": """args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports
        readinessProbe resources restartPolicy securityContext startupProbe volumeMounts workingDir""",
    "volume": "name hostPath emptyDir configMap secret projected downwardAPI image",
    "mount": "name mountPath readOnly subPath recursiveReadOnly",
    "term": "labelSelector matchLabelKeys mismatchLabelKeys namespaceSelector namespaces topologyKey",
}


# ---- the rules ----

def labels_faults(labels, where):
    for key, value in labels.items():
        prefix, _, name = key.rpartition("/")
        if not re.fullmatch(WORD, name) or len(name) > 63 or not re.fullmatch(rf"({NAME}(\.{NAME})*)?", prefix):
            yield f"{where}: label key {key!r}"
        if not isinstance(value, str) or len(value) > 63 or not re.fullmatch(rf"({WORD})?", value):
            yield f"{where}: label {key}: value {value!r}"


def unknown_fields(kind, item, where):
    for field in sorted(set(item) - set(FIELDS[kind].split())):
        yield f"{where}: no field {field!r}"


def selector_faults(selector, where):
    yield from labels_faults(selector.get("matchLabels", {}), where)
    for rule in selector.get("matchExpressions", []):
        one_of = rule["operator"] in ("In", "NotIn")
        if rule["operator"] not in ("In", "NotIn", "Exists", "DoesNotExist") or one_of != bool(rule.get("values")):
            yield f"{where}: operator {rule['operator']} with values {rule.get('values')}"


def term_faults(term, where):
    """validatePodAffinityTerm, validateMatchLabelKeysAndMismatchLabelKeys."""
    selector = term.get("labelSelector")
    match, mismatch = term.get("matchLabelKeys", []), term.get("mismatchLabelKeys", [])
    yield from unknown_fields("term", term, where)
    yield from selector_faults(selector or {}, where)
    yield from selector_faults(term.get("namespaceSelector", {}), where)
    if not term.get("topologyKey"):
        yield f"{where}: topologyKey is required"
    if (match or mismatch) and selector is None:
        yield f"{where}: matchLabelKeys without labelSelector"
    selected = set((selector or {}).get("matchLabels", {})) | \
        {rule["key"] for rule in (selector or {}).get("matchExpressions", [])}
    for key in match:
        if key in selected:
            yield f"{where}: {key!r}: exists in both matchLabelKeys and labelSelector"
        if key in mismatch:
            yield f"{where}: {key!r}: exists in both matchLabelKeys and mismatchLabelKeys"


def security_faults(own, pod, where):
    added = own.get("capabilities", {}).get("add", [])
    if own.get("allowPrivilegeEscalation") is False and (own.get("privileged") or
                                                         {"SYS_ADMIN", "CAP_SYS_ADMIN"} & set(added)):
        yield f"{where}: allowPrivilegeEscalation: false with privileged or SYS_ADMIN"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) and own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield f"{where}: runAsNonRoot as user 0"
    if [name for name in added if name.startswith("CAP_")]:
        yield f"{where}: a capability is named without CAP_"
    if own.get("seccompProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Unconfined", "Localhost"):
        yield f"{where}: seccompProfile"


def env_faults(container, where):
    for item in container.get("env", []):
        source = item.get("valueFrom")
        if source and "value" in item:
            yield f"{where}: {item['name']}: value and valueFrom"
        if source and len(source) != 1:
            yield f"{where}: {item['name']}: valueFrom has {len(source)} sources"
        if "value" in item and not isinstance(item["value"], str):
            yield f"{where}: {item['name']}: value is no string"
        path = (source or {}).get("fieldRef", {}).get("fieldPath", "metadata.name")
        if not re.fullmatch(r"metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]|"
                            r"spec\.(nodeName|serviceAccountName)|status\.(hostIPs?|podIPs?)", path):
            yield f"{where}: {item['name']}: fieldPath {path}"


def mount_faults(container, volumes, where):
    paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    for mount in container.get("volumeMounts", []):
        yield from unknown_fields("mount", mount, where)
        if mount["name"] not in volumes:
            yield f"{where}: volumeMount {mount['name']!r}: not found"
    if len(set(paths)) < len(paths) or [path for path in paths if ":" in path]:
        yield f"{where}: mountPath: must be unique, and without ':'"


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)([mMGK]i?)?", str(text)).groups()
    return int(number) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


def container_faults(container, pod, init, where):
    yield from unknown_fields("container", container, where)
    if not re.fullmatch(NAME, container["name"]) or len(container["name"]) > 63 or not container.get("image"):
        yield f"{where}: name or image"
    if init and container.get("restartPolicy") != "Always" and \
            {"readinessProbe", "livenessProbe", "startupProbe", "lifecycle"} & set(container):
        yield f"{where}: an init container has no probe"
    for port in container.get("ports", []):
        if len(port.get("name", "")) > 15 or not 0 < port["containerPort"] < 65536:
            yield f"{where}: port {port}"
        if pod.get("hostNetwork") and port.get("hostPort", port["containerPort"]) != port["containerPort"]:
            yield f"{where}: with hostNetwork hostPort is containerPort"
    limits = container.get("resources", {}).get("limits", {})
    for name, value in container.get("resources", {}).get("requests", {}).items():
        if name in limits and bytes_of(value) > bytes_of(limits[name]):
            yield f"{where}: requests more {name} than its limit"
    yield from security_faults(container.get("securityContext", {}), pod.get("securityContext", {}), where)
    yield from env_faults(container, where)
    yield from mount_faults(container, {volume["name"] for volume in pod.get("volumes", [])}, where)


def volume_faults(volume, where):
    yield from unknown_fields("volume", volume, where)
    if len(volume) != 2 or not re.fullmatch(NAME, volume["name"]):
        yield f"{where}: volume {volume['name']}: one source, and a name"
    path = volume.get("hostPath")
    if path and (".." in path["path"].split("/") or path.get("type", "") not in (
            "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket")):
        yield f"{where}: hostPath {path}"
    if (volume.get("emptyDir") or {}).get("medium", "") not in ("", "Memory", "HugePages"):
        yield f"{where}: emptyDir medium"


def sysctl_faults(pod, where):
    sysctls = pod.get("securityContext", {}).get("sysctls", [])
    names = [item["name"] for item in sysctls]
    if len(set(names)) < len(names) or [item for item in sysctls if not isinstance(item["value"], str)]:
        yield f"{where}: sysctls: each once, with a string"
    for name in names:
        if name not in SAFE_SYSCTLS:
            yield f"{where}: sysctl {name}: not one that is safe"
        if pod.get("hostNetwork") and name.startswith("net."):
            yield f"{where}: sysctl {name} with hostNetwork"


def pod_faults(pod, where):
    yield from unknown_fields("pod", pod, where)
    containers = pod.get("initContainers", []) + pod["containers"]
    for what, items in (("container", containers), ("volume", pod.get("volumes", []))):
        names = [item["name"] for item in items]
        if len(set(names)) < len(names):
            yield f"{where}: {what} names: {names}"
    for number, container in enumerate(containers):
        yield from container_faults(container, pod, number < len(pod.get("initContainers", [])),
                                    f"{where}/{container['name']}")
    for volume in pod.get("volumes", []):
        yield from volume_faults(volume, where)
    yield from sysctl_faults(pod, where)
    for kind in ("podAffinity", "podAntiAffinity"):
        affinity = pod.get("affinity", {}).get(kind, {})
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", []):
            yield from term_faults(term, f"{where}: {kind}")
        for item in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", []):
            yield from term_faults(item["podAffinityTerm"], f"{where}: {kind}")


def object_faults(item):
    """Return: a list of what the API server would refuse, in its words or nearly."""
    where, meta, spec = f"{item['kind']} {item['metadata']['name']}", item["metadata"], item.get("spec", {})
    faults = [] if re.fullmatch(rf"{NAME}(\.{NAME})*", meta["name"]) and len(meta["name"]) < 254 else [f"{where}: name"]
    faults += labels_faults(meta.get("labels", {}), where)
    if item["kind"] == "Pod":
        return faults + list(pod_faults(spec, where))
    if item["kind"] not in KINDS:
        return faults
    spec = spec["jobTemplate"]["spec"] if item["kind"] == "CronJob" else spec
    template = spec["template"]
    labels = template.get("metadata", {}).get("labels", {})
    faults += labels_faults(labels, where)
    if not item["kind"].endswith("Job"):
        chosen = spec["selector"]["matchLabels"]
        if not chosen or not chosen.items() <= labels.items():
            faults.append(f"{where}: selector does not match template labels")
    policy = template["spec"].get("restartPolicy", "Always")
    if (policy == "Always") == item["kind"].endswith("Job"):
        faults.append(f"{where}: restartPolicy {policy}")
    return faults + list(pod_faults(template["spec"], where))


def restricted_faults(pod):
    """Return: what Pod Security "restricted" (pod-security-admission/policy) refuses, in its names for it."""
    faults = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    faults += [f"volume {next(iter(set(volume) - {'name'}))}" for volume in pod.get("volumes", [])
               if set(volume) - {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image",
                                 "persistentVolumeClaim", "projected", "secret"}]
    faults += [f"sysctl {item['name']}" for item in pod.get("securityContext", {}).get("sysctls", [])
               if item["name"] not in SAFE_SYSCTLS]
    for container in pod.get("initContainers", []) + pod["containers"]:
        own = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        for name, good in {
                "privileged": not own.get("privileged"),
                "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
                "runAsNonRoot": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
                "seccompProfile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
                "capabilities": "ALL" in capabilities.get("drop", []) and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
                "hostPort": not [port for port in container.get("ports", []) if port.get("hostPort")]}.items():
            if not good:
                faults.append(f"{container['name']}: {name}")
    return sorted(set(faults))


# ---- what they are tried on ----

def workload(kind, label, slice_of="61900-61949"):
    name, job = f"{kind.lower()}-{label}", kind.endswith("Job")
    pod = {"containers": [{"name": "web", "image": "web", "env": [{"name": "KEPT", "value": "1"}]},
                          {"name": "side", "image": "side"}]}
    if job:
        pod["restartPolicy"] = "Never"
    spec = {"template": {"metadata": {"labels": {"app": name, "fixport-ports": slice_of}}, "spec": pod}}
    if not job:
        spec["selector"] = {"matchLabels": {"app": name}}
    return {"apiVersion": "batch/v1" if job else "apps/v1", "kind": kind,
            "metadata": {"name": name, "labels": {"fixport": label}},
            "spec": {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec}


def kustomize(folder, *resources, components=(), **more):
    """Return: (the objects, what kubectl said)."""
    with open(f"{folder}/kustomization.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump({"resources": list(resources), **more,
                        "components": [f"kubernetes/components/{name}" for name in components]}, file)
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    return [item for item in yaml.safe_load_all(done.stdout) if item], done.stderr


def all_faults(objects):
    return [fault for item in objects for fault in object_faults(item)]


def check_templates(tap, folder):
    """Each component in each kind of workload, and the DaemonSets."""
    for label, name in (("own-pool", "inject-own-pool"), ("node-pool", "inject-node-pool"), ("sysctl", "sysctl")):
        with open(f"{folder}/apps.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump_all([workload(kind, label) for kind in KINDS], file)
        objects, said = kustomize(folder, "apps.yaml", components=[name])
        tap.equal((len(objects), said), (len(KINDS), ""), f"{name}: kustomize makes each workload")
        tap.equal(all_faults(objects), [], f"{name}: the API takes each")
    objects, said = kustomize(folder, "kubernetes/base", components=["reclaim"])
    tap.equal((len(objects), said, all_faults(objects)), (4, "", []), "base with reclaim: the API takes it")
    objects, said = kustomize(folder, "kubernetes/base", components=["node-setup", "reclaim", "monitoring"])
    tap.equal((len(objects), said, all_faults(objects)), (8, "", []), "base with all that is for nodes: the API takes it")
    for name in ("node-setup", "node-undo"):
        objects, said = kustomize(folder, "kubernetes/base", components=[name])
        tap.equal(sorted(item["metadata"]["name"] for item in objects if item["kind"] == "DaemonSet"),
                  ["fixport-node", "fixport-setup"], f"{name}: the two DaemonSets are there {said}")
        tap.equal(all_faults(objects), [], f"base with {name}: the API takes it")
        tap.equal({item["spec"]["template"]["spec"].get("priorityClassName") for item in objects
                   if item["kind"] == "DaemonSet"}, {"system-node-critical"},
                  f"base with {name}: what others wait for is not evicted first")
    for path in sorted((KUBERNETES / "pods").iterdir()):
        tap.equal(all_faults(yaml.safe_load_all(path.read_text(encoding="utf-8"))), [], f"pods/{path.name}: the API takes it")


RESTRICTED = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
              "seccompProfile": {"type": "RuntimeDefault"}}


def pod_of(item):
    spec = item["spec"]
    return spec if item["kind"] == "Pod" else spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]


def check_restricted(tap, folder):
    """Where contrib/kubernetes says that "restricted" allows it: a workload that is, stays so."""
    for label, name, expected in (("own-pool", "inject-own-pool", []), ("sysctl", "sysctl", []),
                                  ("node-pool", "inject-node-pool", ["volume hostPath"])):
        items = [workload(kind, label) for kind in KINDS]
        for item in items:
            for container in pod_of(item)["containers"]:
                container["securityContext"] = RESTRICTED
        tap.equal({str(restricted_faults(pod_of(item))) for item in items}, {"[]"}, f"{name}: the workloads are restricted")
        with open(f"{folder}/apps.yaml", "w", encoding="utf-8") as file:
            yaml.dump_all(items, file, Dumper=NoAliases)
        objects, _ = kustomize(folder, "apps.yaml", components=[name])
        tap.equal({str(restricted_faults(pod_of(item))) for item in objects}, {str(expected)},
                  f"{name}: what \"restricted\" has against them")
    for name, expected in (("own-pool", []), ("sysctl", []), ("unprivileged", ["volume hostPath"])):
        pod = yaml.safe_load((KUBERNETES / f"pods/{name}.yaml").read_text(encoding="utf-8"))
        tap.equal(restricted_faults(pod["spec"]), expected, f"pods/{name}.yaml: what \"restricted\" has against it")
    pod = {"hostNetwork": True, "containers": [{"name": "web", "securityContext": dict(RESTRICTED, runAsUser=0)}, {"name": "x"}]}
    tap.equal(restricted_faults(pod), ["hostNetwork", "web: runAsNonRoot", "x: allowPrivilegeEscalation", "x: capabilities",
                                       "x: runAsNonRoot", "x: seccompProfile"], "the check finds what is not")


class NoAliases(yaml.SafeDumper):
    """Without anchors: kustomize's labels would be one object's."""
    def ignore_aliases(self, data):
        return True


def pool_mounts(pod):
    """(container, path of the node, whether it may write there) of what lies below /run/fixport."""
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod.get("volumes", []) if "hostPath" in volume}
    return {(container["name"], paths[mount["name"]], not mount.get("readOnly", False))
            for container in pod.get("initContainers", []) + pod["containers"] for mount in container.get("volumeMounts", [])
            if paths.get(mount["name"], "").startswith("/run/fixport")}


def check_mounts(tap, folder):
    """What steers programs is base's alone to write; the shares are what others write. No template has more."""
    (Path(folder) / "apps.yaml").write_text(yaml.safe_dump_all([workload(kind, "node-pool") for kind in KINDS]), encoding="utf-8")
    objects, _ = kustomize(folder, "apps.yaml", "kubernetes/base",
                           components=["inject-node-pool", "node-setup", "reclaim", "monitoring"])
    objects += [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (KUBERNETES / "pods").iterdir()]
    both = {("/run/fixport", False), ("/run/fixport/shared", True)}
    for item in objects:
        if item["kind"] not in (*KINDS, "Pod"):
            continue
        found, name = {}, item["metadata"]["name"]
        for container, *mount in pool_mounts(pod_of(item)):
            found.setdefault(container, set()).add(tuple(mount))
        expected = {"fixport-node": {"make": {("/run/fixport", True)}, "pool": {("/run/fixport", True)},
                                     "metrics": {("/run/fixport", False)}},
                    "fixport-setup": {"reclaim": both}, "fixport-reclaim": {"reclaim": both},
                    "example-own-pool": {}, "example-sysctl": {}}.get(
                        name, {container["name"]: both for container in pod_of(item)["containers"]})
        tap.equal(found, expected, f"{name}: who writes what of /run/fixport")


def kept_apart(one, other, known):
    """Whether the scheduler refuses the pod of template @other beside @one's on a node. @known: whether
    the API knows matchLabelKeys (1.31); one that does not drops it."""
    term, = other["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = dict(term["labelSelector"]["matchLabels"])
    for key in term["matchLabelKeys"] if known else []:
        if key in other["metadata"]["labels"]:
            wanted[key] = other["metadata"]["labels"][key]
    return wanted.items() <= one["metadata"]["labels"].items()


def check_slices(tap, folder):
    """podAntiAffinity of inject-own-pool."""
    with open(f"{folder}/apps.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump_all([workload("Deployment", "own-pool"), workload("StatefulSet", "own-pool"),
                            workload("ReplicaSet", "own-pool", "61950-61999"),
                            workload("DaemonSet", "node-pool")], file)
    objects, _ = kustomize(folder, "apps.yaml", components=["inject-own-pool"])
    pods = {item["kind"]: item["spec"]["template"] for item in objects}
    for known, others in ((True, False), (False, True)):
        api = "from 1.31 on" if known else "before 1.31"
        tap.equal([kept_apart(pods["Deployment"], pods[kind], known) for kind in ("Deployment", "StatefulSet", "ReplicaSet")],
                  [True, True, others], f"inject-own-pool: a slice is on a node once, {api}")
        tap.point(not kept_apart(pods["DaemonSet"], pods["Deployment"], known),
                  f"inject-own-pool: other pods are no matter, {api}")


def broken(path, value):
    """The pod template with one thing that the API refuses."""
    item = copy.deepcopy(workload("Deployment", "x"))
    pod = item["spec"]["template"]["spec"]
    pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["c"], "topologyKey": "kubernetes.io/hostname"}]}}
    pod["volumes"] = [{"name": "v", "emptyDir": {}}]
    if value is None:
        return item
    at = pod
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return item


def check_the_check(tap):
    term = ["affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution", 0]
    web = ["containers", 0]
    tap.equal(all_faults([broken([], None)]), [], "the check finds nothing in a good manifest")
    for path, value, fault in (
            (term + ["labelSelector"], {"matchExpressions": [{"key": "c", "operator": "Exists"}]}, "'c': exists in both"),
            (term + ["labelSelector"], {"matchLabels": {"c": "d"}}, "'c': exists in both"),
            (term + ["labelSelector"], {"matchExpressions": [{"key": "x", "operator": "In"}]}, "operator In"),
            (term + ["mismatchLabelKeys"], ["c"], "mismatchLabelKeys"),
            (term + ["topologyKey"], "", "topologyKey"),
            (term + ["matchLabelsKeys"], ["c"], "no field"),
            (web + ["volumeMounts"], [{"name": "other", "mountPath": "/x"}], "not found"),
            (web + ["volumeMounts"], [{"name": "v", "mountPath": "/x"}] * 2, "unique"),
            (web + ["env"], [{"name": "X", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], "valueFrom"),
            (web + ["env"], [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}], "fieldPath"),
            (web + ["env"], [{"name": "X", "value": 1}], "no string"),
            (web + ["name"], "side", "container names"),
            (web + ["name"], "Web", "name or image"),
            (web + ["securityContext"], {"privileged": True, "allowPrivilegeEscalation": False}, "allowPrivilegeEscalation"),
            (web + ["securityContext"], {"runAsNonRoot": True, "runAsUser": 0}, "runAsNonRoot"),
            (web + ["resources"], {"requests": {"memory": "2Mi"}, "limits": {"memory": "1Mi"}}, "its limit"),
            (["initContainers"], [{"name": "i", "image": "i", "readinessProbe": {}}], "no probe"),
            (["securityContext"], {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}, "safe"),
            (["volumes"], [{"name": "v", "hostPath": {"path": "/a/../b"}}], "hostPath"),
            (["restartPolicy"], "Never", "restartPolicy")):
        found = all_faults([broken(path, value)])
        tap.point(any(fault in text for text in found), f"the check finds: {fault} ({path[-1]})")


def check_namespaces(tap, folder):
    """base beside a namespace transformer."""
    Path(folder, "apps.yaml").write_text(yaml.safe_dump(workload("Deployment", "node-pool")), encoding="utf-8")
    objects, said = kustomize(folder, "apps.yaml", "kubernetes/base", namespace="shop")
    tap.point(not objects and "fixport-stays-in-namespace-fixport.give-your-application-a-kustomization-of-its-own" in said,
              "base in a kustomization with another namespace is refused, with what to do")
    objects, _ = kustomize(folder, "apps.yaml", namespace="shop", components=["inject-node-pool"])
    tap.equal([item["metadata"]["namespace"] for item in objects], ["shop"], "the application's own has its namespace")
    objects, said = kustomize(folder, "kubernetes/base", components=["node-setup"])
    tap.equal({item["metadata"].get("namespace", item["metadata"]["name"]) for item in objects}, {"fixport"},
              f"base's own is in fixport alone {said}")


# ---- what the shipped configuration makes of a node ----

SERVER = """
import socket
server = socket.create_server(("", 60001))
print("ready", flush=True)
while True:
    peer, where = server.accept()
    peer.sendall(str(where[1]).encode())
    peer.close()
"""
CLIENT = """
import socket, sys
for port in map(int, sys.argv[3:]):
    client = socket.socket()
    client.bind(("", port))
    client.connect((sys.argv[1], int(sys.argv[2])))
    print(client.recv(9).decode(), flush=True)
"""
NODE = """
mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /run/netns
sysctl -qw net.ipv4.ip_forward=1
for name in host pod next; do ip netns add $name; ip link add $name type veth peer name eth0 netns $name; ip link set $name up; done
ip addr add 192.168.31.17/24 dev host; ip addr add 10.200.1.1/24 dev pod
enter() { nsenter --net=/run/netns/$1 ip "${@:2}"; }
enter host addr add 192.168.31.67/24 dev eth0; enter host link set eth0 up
enter pod addr add 10.200.1.91/24 dev eth0; enter pod link set eth0 up; enter pod route add default via 10.200.1.1
ip addr add 10.200.1.1/32 dev next; ip route add 10.200.1.92/32 dev next
enter next addr add 10.200.1.92/32 dev eth0; enter next link set eth0 up
enter next route add 10.200.1.1 dev eth0; enter next route add default via 10.200.1.1
ip route add default via 192.168.31.67
iptables -w -t nat -A OUTPUT -d 10.96.0.10 -j MARK --set-xmark 0x4000/0x4000
iptables -w -t nat -A OUTPUT -d 10.96.0.10 -p tcp -j DNAT --to-destination 192.168.31.67:60001
iptables -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
iptables -w -t nat -A POSTROUTING -s 10.200.0.0/16 -j MASQUERADE --random-fully
"""


def shipped_site():
    """base/fixport.conf with what stands behind ";" in force, but for its rule."""
    text = (KUBERNETES / "base" / "fixport.conf").read_text(encoding="utf-8")
    return re.sub(r"^;", "", re.sub(r"^;\[rule.*\n;to.*\n", "", text, flags=re.M), flags=re.M)


def ports_of(text):
    """All ports of "61001-61010, 61020"."""
    spans = [part.split("-") for part in re.split(r"[, ]+", text.strip())]
    return {port for span in spans for port in range(int(span[0]), int(span[-1]) + 1)}


def shipped_ports():
    """Name of a component or pod, and the ports that it uses as it is shipped."""
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for found in re.findall(r"fixport-ports: ([\d-]+)", text):
            yield f"{path.parent.name}/{path.name}", ports_of(found)
        for low, high in re.findall(r"ip_local_port_range, value: (\d+) (\d+)", text):
            yield f"{path.parent.name}/{path.name}", ports_of(f"{low}-{high}")


@contextlib.contextmanager
def serving(code):
    """A server on the host, which ends with the block, however that ends."""
    with subprocess.Popen(fptest.in_netns("host", sys.executable, "-c", code), stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            yield
        finally:
            server.kill()


def seen(where, address, port, sources):
    """What the host saw, in a list. @where: a namespace, or "" for the node."""
    argv = [sys.executable, "-c", CLIENT, address, str(port), *map(str, sources)]
    done = subprocess.run(fptest.in_netns(where, *argv) if where else argv, capture_output=True, text=True,
                          check=False, timeout=60)
    return [int(word) for word in done.stdout.split()] or done.stderr


def node_checks(tap, folder):
    """In namespaces of its own: the node is this one."""
    subprocess.run(["bash", "-ec", NODE], check=True)
    Path(folder, "site.conf").write_text(shipped_site(), encoding="utf-8")
    with serving(SERVER):
        tries = {"a pod": ("pod", "192.168.31.67", 60001), "the node, by a Service": ("", "10.96.0.10", 80)}
        before = {name: seen(*way, range(61001, 61005)) for name, way in tries.items()}
        tap.point(all(ports != list(range(61001, 61005)) for ports in before.values()),
                  "the node's rules change ports, as a CNI's and kube-proxy's do")
        done = subprocess.run([os.path.join(fptest.BUILD, "tools", "fixport-setup"), "apply", "--config",
                               f"{folder}/site.conf", "--role", "node"], capture_output=True, text=True, check=False)
        tap.equal(done.returncode, 0, f"fixport-setup takes the shipped configuration {done.stderr if done.returncode else ''}")
        used, followed = set(range(61001, 61005)), {}
        for name, ports in shipped_ports():
            first = {}
            for who, way in tries.items():
                free = sorted(ports - used)  # each once: the host remembers, and so does the node
                sources = free[:2] + free[-2:]
                used.update(sources)
                first[who] = sources
                tap.equal(seen(*way, sources), sources, f"{name}: its ports leave {who} as they are")
            followed[name] = first["a pod"]
            tap.equal(ports - ports_of("61001-61999"), set(), f"{name}: all of them are in the documented range")
        # At last, as they are moved to whatever is free. The kernel's own timeouts: the node remembers the
        # connections of the pods before.
        for name, sources in followed.items():
            follower = seen("next", "192.168.31.67", 60001, sources)
            tap.point(len(follower) == len(sources) and set(follower) <= ports_of("61001-61999"),
                      f"{name}: a pod that follows another with its ports stays in the range", follower)


IDLE = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
for _ in range(20):
    client = socket.create_connection(server.getsockname())
    peer = server.accept()[0]
    peer.close()
    client.close()
kept = []
try:
    while len(kept) < int(sys.argv[1]):
        kept.append(socket.create_connection(server.getsockname()))
except OSError:
    pass  # one too many
print("ready", flush=True)
sys.stdin.read()
"""


def metrics_of(pool):
    done = subprocess.run([fptest.POOL_TOOL, "metrics", "--pool", pool], capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in re.findall(r"^(\w+)(?:{rule=[^}]*})? (\S+)$", done.stdout, re.M)}


def alarm(rule, before, now):
    """Whether an alert's expression holds: "increase(A[..]) > N" or "A / B > N"."""
    found = re.fullmatch(r"increase\((\w+)\[\w+\]\) > (\d+)", rule["expr"])
    if found:
        return now[found[1]] - before[found[1]] > float(found[2])
    over, under, limit = re.fullmatch(r"(\w+) / (\w+) > ([\d.]+)", rule["expr"]).groups()
    return now[over] / now[under] > float(limit)


def check_alerts(tap, folder):
    """A program that has let go all ports and idles raises no alert, and one that has them all does."""
    objects, said = kustomize(folder, "kubernetes/base", components=["monitoring"])
    tap.equal((len(objects), said), (6, ""), "monitoring: it goes with base")
    found = {item["kind"]: item for item in objects}
    node = found["DaemonSet"]["spec"]["template"]
    port, = [port for item in node["spec"]["containers"] for port in item.get("ports", [])]
    policy, monitor = found["NetworkPolicy"]["spec"], found["PodMonitor"]["spec"]
    chosen = [item["matchLabels"].items() <= node["metadata"]["labels"].items()
              for item in (policy["podSelector"], monitor["selector"])]
    tap.equal((chosen, policy["ingress"][0]["ports"][0]["port"], monitor["podMetricsEndpoints"][0]["port"]),
              ([True, True], port["containerPort"], port["name"]), "monitoring: it is about the pods and the port of base")
    rules = {rule["alert"]: rule for rule in found["PrometheusRule"]["spec"]["groups"][0]["rules"]}
    del rules["FixportPoolGone"]
    for name, kept, expected in (("all ports let go", 0, []), ("all ports in use", 10, ["FixportPortsNearlyUsed"]),
                                 ("a connection too many", 11, ["FixportNoPortLeft", "FixportPortsNearlyUsed"])):
        pool = f"{folder}/pool-{kept}"
        subprocess.run([fptest.POOL_TOOL, "create", "-p", "61001-61010", "-t", "127.0.0.0/8", "--pool", pool],
                       check=True, capture_output=True)
        before = metrics_of(pool)
        with subprocess.Popen([sys.executable, "-c", IDLE, str(kept)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=fptest.environment(FIXPORT_POOL=pool)) as idle:
            ready = idle.stdout.readline()
            now = metrics_of(pool)
            raised = sorted(alert for alert, rule in rules.items() if alarm(rule, before, now))
            idle.stdin.close()
        tap.equal((ready, raised), (b"ready\n", expected), f"alerts: {name}")
        if not kept:
            tap.equal(now["fixport_rule_busiest_leases"], 10, "alerts: there all ports have a lease")


def check_reclaim(tap, folder):
    """Ports that a pod has let go which idles, with the capabilities of the manifest and without."""
    if os.geteuid() or not fptest.can_make_netns() or not shutil.which("setpriv"):
        tap.cannot("reclaim", "namespaces and capabilities need root")
        return
    template = yaml.safe_load((KUBERNETES / "components/reclaim/reclaim.yaml").read_text(encoding="utf-8"))
    container, = template["spec"]["template"]["spec"]["containers"]
    added = container["securityContext"]["capabilities"]["add"]
    pool = f"{folder}/pool-reclaim"
    subprocess.run([fptest.POOL_TOOL, "create", "-p", "61001-61010", "-t", "127.0.0.0/8", "--pool", pool],
                   check=True, capture_output=True)
    env = dict(os.environ, FIXPORT_POOL=pool, FIXPORT_STATE=f"{folder}/reclaim",
               PATH=f"{fptest.BUILD}/tools:{os.environ['PATH']}")
    def helper(capabilities):
        bounds = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
        done = subprocess.run(["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all",
                               SOURCE / "contrib/docker/fixport-node", "once", "reclaim"], env=env,
                              capture_output=True, text=True, check=False)
        return done, letgo()
    def letgo():
        leases = subprocess.run([fptest.POOL_TOOL, "metrics", "--pool", pool], capture_output=True, text=True, check=True)
        return int(re.search(r'leases{state="letgo"} (\d+)', leases.stdout)[1])
    with subprocess.Popen(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                           sys.executable, "-c", IDLE, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=fptest.environment(FIXPORT_POOL=pool)) as idle:
        idle.stdout.readline()
        idles = letgo()  # a connect may have given back some of those before
        done, left = helper([])
        tap.point(done.returncode == 1 and left == idles > 0 and "cannot be entered" in done.stdout,
                  "reclaim: without capabilities it fails, and says so", done.stdout, done.stderr, left, idles)
        done, left = helper(added)
        tap.equal((done.returncode, done.stdout, left), (0, "", 0),
                  "reclaim: with those of the manifest an idle pod's ports come back")
        idle.stdin.close()


# In a pod: so many connections, and with a + they stay open until there is a number without; or one that a
# child goes on with. Both ends close the others.
TRACKED = """
import os, socket, sys, time
def connect():
    return socket.create_connection(("192.168.31.67", 60002))
kept = []
for line in sys.stdin:
    if line == "child\\n":
        client = connect()
        if os.fork() == 0:
            sys.stdin.close()
            for other in kept:
                other.close()
            os.read(int(sys.argv[1]), 1)
            os._exit(0)
        client.close()
        print("ok", flush=True)
        continue
    try:
        kept += [connect() for _ in range(int(line))]
        while kept and line[0] != "+":
            client = kept.pop(0)
            client.shutdown(socket.SHUT_WR)
            while client.recv(9):
                pass
            client.close()
        print("ok", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
ECHO = """
import socket, threading
server = socket.create_server(("", 60002), backlog=1024)
print("ready", flush=True)
def serve(peer, where):
    with peer:
        peer.sendall(str(where[1]).encode())
        peer.recv(1)
while True:
    threading.Thread(target=serve, args=server.accept(), daemon=True).start()
"""


class Tracked:
    """Programs in pods of the node, and the helper that gives back what they let go."""

    def __init__(self, folder):
        template = yaml.safe_load((KUBERNETES / "components/node-setup/setup.yaml").read_text(encoding="utf-8"))
        container, = [item for item in template["spec"]["template"]["spec"]["containers"] if item["name"] == "reclaim"]
        self.capabilities = container["securityContext"]["capabilities"]["add"]
        self.pool = tempfile.mktemp(prefix="pool-", dir=folder)
        self.env = dict(os.environ, FIXPORT_POOL=self.pool, FIXPORT_STATE=f"{folder}/tracked",
                        PATH=f"{fptest.BUILD}/tools:{os.environ['PATH']}")
        self.held = os.pipe()
        subprocess.run([fptest.POOL_TOOL, "create", "-c", f"{folder}/tracked.conf", "--pool", self.pool], check=True,
                       capture_output=True)

    def pod(self, netns):
        return subprocess.Popen(fptest.in_netns(netns, sys.executable, "-c", TRACKED, str(self.held[0])), text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self.held[0]],
                                env=fptest.environment(FIXPORT_POOL=self.pool))

    def let_go(self):
        text = subprocess.run([fptest.POOL_TOOL, "list", "--json", "--state", "letgo", "--pool", self.pool],
                              capture_output=True, text=True, check=True).stdout
        return [item["port"] for item in yaml.safe_load(text)["leases"]]

    def helper(self, capabilities=None):
        """Return: (exit status, what it said)."""
        added = self.capabilities if capabilities is None else capabilities
        bounds = ",".join(["-all", *(f"+{name.lower()}" for name in added)])
        done = subprocess.run(["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all",
                               SOURCE / "contrib/docker/fixport-node", "once", "reclaim"], env=self.env,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout


def ask(pod, words):
    print(words, file=pod.stdin, flush=True)
    return pod.stdout.readline().strip()


def until(check, expected=None):
    """Return: what @check answers at last, which is @expected, or true, if it ever is."""
    deadline = time.monotonic() + 20
    while True:
        answer = check()
        if (answer == expected if expected else answer) or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def entries(*filters):
    return subprocess.run(["conntrack", "-L", "-p", "tcp", "--dport", "60002", *filters], capture_output=True, text=True,
                          check=True).stdout.count("\n")


def all_over():
    return entries() == entries("--state", "TIME_WAIT") + entries("--state", "CLOSE")


def tracked_checks(tap, folder):
    """node-setup's container "reclaim": what a pod's connection is that another pod cannot have, and that
    connection tracking has seen end. The kernel's own timeouts, but for one: a segment that comes late, on a busy
    machine, is reset, and CLOSE is forgotten after ten seconds."""
    subprocess.run(["bash", "-ec", NODE + "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=120"], check=True)
    Path(folder, "tracked.conf").write_text("[pool]\nports = 61001-61100\nquarantine = 1s\n", encoding="utf-8")
    tracked = Tracked(folder)
    with serving(ECHO), tracked.pod("pod") as idle, tracked.pod("next") as other:
        # All of them at once: a pod that goes on to connect gives back what is over.
        said = ask(idle, "+99"), ask(idle, "child"), ask(idle, "0"), ask(other, "1")
        tap.equal((said, len(tracked.let_go())), (("ok", "ok", "ok", "Cannot assign requested address"), 100),
                  "reclaim: an idle pod has all ports let go, and another finds none")
        tap.equal(until(lambda: entries("--state", "TIME_WAIT") + entries("--state", "CLOSE"), 99), 99,
                  "reclaim: connection tracking has seen all of them end, but for the child's")
        done = tracked.helper([])
        tap.point(done[0] == 1 and "left alone" in done[1] and "was not asked" in done[1] and len(tracked.let_go()) == 100,
                  "reclaim: without NET_ADMIN nothing is given back, and it says so", *done)
        done = tracked.helper()
        alive = tracked.let_go()
        tap.equal((done, len(alive)), ((0, ""), 1), "reclaim: with it, what has ended is given back, not what a child has")
        tap.equal(until(lambda: ask(other, "1") == "ok"), True, "reclaim: after the quarantine, another pod connects")

        # As if nobody had sent anything for days.
        subprocess.run(["conntrack", "-D", "-p", "tcp", "--dport", "60002", "--state", "ESTABLISHED"], check=True,
                       capture_output=True)
        done = until(lambda: (found := tracked.helper())[0] and found)
        tap.point(done and "does not know of 1 let go" in done[1] and set(alive) <= set(tracked.let_go()),
                  "reclaim: that there is no entry proves nothing; it says what it does not know", done)
        os.write(tracked.held[1], b"x")
        idle.stdin.close()
        other.stdin.close()

        # A program without the library, in another pod, with the same port. (What that pod had before may
        # have been any port.)
        subprocess.run(["conntrack", "-D", "-p", "tcp", "-s", "10.200.1.92", "--dport", "60002"], check=False,
                       capture_output=True)
        tracked = Tracked(folder)
        with tracked.pod("pod") as idle:
            said, ports = ask(idle, "5"), tracked.let_go()
            taken = seen("next", "192.168.31.67", 60002, ports[:1])
            until(all_over)
            tracked.helper()
            tap.equal((said, len(taken), len(ports), tracked.let_go()), ("ok", 1, 5, ports[:1]),
                      "reclaim: entries of two pods with one port prove nothing")
            idle.stdin.close()

        # What connection tracking does not see.
        for way in ("--dport", "--sport"):
            subprocess.run(["iptables", "-w", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", way, "60002", "-j", "NOTRACK"],
                           check=True)
        subprocess.run(fptest.in_netns("host", "ip", "route", "add", "10.200.0.0/16", "via", "192.168.31.17"), check=True)
        tracked = Tracked(folder)
        # Of these ports there are entries that are older by more than TRACKED_SLACK_MS.
        until(lambda: all(int(left) < 112 for left in re.findall(r"^tcp +6 (\d+) (?:TIME_WAIT|CLOSE)", subprocess.run(
            ["conntrack", "-L", "-p", "tcp"], capture_output=True, text=True, check=True).stdout, re.M)))
        with tracked.pod("pod") as idle:
            said, ports = ask(idle, "5"), tracked.let_go()
            tracked.helper()
            tap.equal((said, len(ports), tracked.let_go()), ("ok", 5, ports), "reclaim: nor does what is not tracked")
            idle.stdin.close()


# So many connections at once, the first of them from these ports; for each, the port that it has and the
# one that the host saw.
CROWD = """
import socket, sys
kept = []
for port in [*map(int, sys.argv[3:])] + [0] * (int(sys.argv[2]) - len(sys.argv[3:])):
    kept.append(socket.create_connection((sys.argv[1], 60002), 10, ("", port) if port else None))
    print(kept[-1].getsockname()[1], kept[-1].recv(9).decode())
print("done", flush=True)
sys.stdin.read()
"""
# Two pods that nobody has a memory of: neither their namespaces (a TIME_WAIT keeps a port) nor the node (what it
# has moved once it moves again, towards whatever server).
NEW_PODS = """
for i in $1 $(($1 + 1)); do
    ip netns add pod$i; ip link add pod$i type veth peer name eth0 netns pod$i
    ip addr add 10.200.1.1/32 dev pod$i; ip link set pod$i up; ip route add 10.200.1.$i/32 dev pod$i
    printf '%s\n' "addr add 10.200.1.$i/32 dev eth0" "link set eth0 up" "route add 10.200.1.1 dev eth0" \\
        "route add default via 10.200.1.1" | nsenter --net=/run/netns/pod$i ip -b -
done
"""


class Cells:
    """README's table "What goes together": pods of two kinds on a node, towards one server."""
    PORTS = "61001-61400"  # so few that two which do not know of each other meet in every other try
    COUNT = {"node-pool": 195, "own-pool": 40, "own-pool, another slice": 40, "sysctl": 100, "hostNetwork": 195}
    FORCED = 20
    # Kinds, whether the first has ended before the second begins, and whether ports are moved.
    TABLE = [("node-pool", "node-pool", False, False), ("node-pool", "own-pool", False, False),
             ("hostNetwork", "node-pool", False, False), ("hostNetwork", "own-pool", False, False),
             ("own-pool", "own-pool, another slice", False, False), ("own-pool", "own-pool", True, True),
             ("node-pool", "sysctl", False, True), ("own-pool", "sysctl", False, True), ("sysctl", "sysctl", False, True),
             ("hostNetwork", "sysctl", False, True)]

    def __init__(self, folder):
        self.folder, self.servers = folder, 0
        self.pool = tempfile.mktemp(prefix="pool-", dir=folder)
        subprocess.run([fptest.POOL_TOOL, "create", "-c", f"{folder}/cells.conf", "--pool", self.pool], check=True,
                       capture_output=True)

    def start(self, netns, kind, server, forced=()):
        """@forced: what the kernel chooses for the first connections of a "sysctl", which knows of nobody."""
        env = fptest.environment(FIXPORT_POOL=self.pool)
        if kind.startswith("own-pool"):
            env = fptest.environment(FIXPORT_POOL=tempfile.mktemp(prefix="own-", dir=self.folder),
                                     FIXPORT_PORTS="61950-61999" if "another" in kind else "61900-61949")
        if kind == "sysctl":
            env = dict(os.environ)
        argv = [sys.executable, "-c", CROWD, server, str(self.COUNT[kind]), *map(str, forced if kind == "sysctl" else ())]
        if kind != "hostNetwork":
            ports = self.PORTS.replace("-", " ") if kind == "sysctl" else "32768 60999"
            argv = fptest.in_netns(netns, "sh", "-c", f'sysctl -qw net.ipv4.ip_local_port_range="{ports}" && exec "$@"', "sh", *argv)
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def connect(self, process, kind):
        """Return: [(port, port that the host saw)]."""
        lines = list(iter(lambda: process.stdout.readline() or "done\n", "done\n"))
        if len(lines) != self.COUNT[kind]:
            process.stdin.close()
            raise OSError(f"{kind}: {len(lines)} connections, then {process.stderr.read()}")
        return [tuple(map(int, line.split())) for line in lines]

    def cell(self, one, other, follows):
        """Return: as connect(), of the first and of the second."""
        self.servers += 1
        server, pod = f"192.168.31.{100 + self.servers}", 100 + 2 * self.servers
        subprocess.run(["bash", "-ec", NEW_PODS, "bash", str(pod)], check=True)
        with self.start(f"pod{pod}", one, server) as first:
            pairs = self.connect(first, one)
            if follows:
                first.stdin.close()
                first.wait()
            with self.start(f"pod{pod + 1}", other, server, [port for port, _ in pairs[:self.FORCED]]) as second:
                more = self.connect(second, other)
                for process in (first, second):
                    process.stdin.close()
        return pairs, more

    def check(self, tap, where, cell, within):
        """One line of the table. @within: where the ports are that the host saw."""
        one, other, follows, moves = cell
        name = (f"cells, {where}: {one}, {'then' if follows else 'and'} {other}: "
                f"{'moved' if moves else 'none is moved'}{', within the range' if moves and within else ''}")
        try:
            first, second = self.cell(one, other, follows)
        except OSError as error:
            tap.point(False, name, error)
            return
        moved = [pair for pair in first + second if pair[0] != pair[1]]
        both = {port for port, _ in first} & {port for port, _ in second}
        tap.point(bool(both) == bool(moved) == moves and both <= {port for port, _ in moved} and
                  not [port for port, seen_as in first if port != seen_as] and
                  (not within or {seen_as for _, seen_as in first + second} <= within),
                  name, f"{len(both)} ports are both's; moved: {len(moved)}", *([] if moves else [moved]))


def cells_checks(tap, folder):
    subprocess.run(["bash", "-ec", NODE.replace(" --random-fully", "") +
                    'for i in {101..126}; do enter host addr add 192.168.31.$i/32 dev eth0; ip route add 192.168.31.$i/32 via 192.168.31.67; done'],
                   check=True)
    site = shipped_site().replace("addresses = 192.168.31.67", "addresses = 192.168.31.67, 192.168.31.96/27")
    Path(folder, "cells.conf").write_text(site.replace("ports = 61001-61899", f"ports = {Cells.PORTS}"), encoding="utf-8")
    cells = Cells(folder)
    with serving(ECHO):
        for cell in cells.TABLE:
            cells.check(tap, "plain MASQUERADE", cell, set())
        for source in ("10.200.0.0/16", "192.168.31.17/32"):
            subprocess.run(["iptables", "-w", "-t", "nat", "-I", "POSTROUTING", "-s", source, "-j", "MASQUERADE", "--random-fully"],
                           check=True)
        done = subprocess.run([os.path.join(fptest.BUILD, "tools", "fixport-setup"), "apply", "--config",
                               f"{folder}/cells.conf", "--role", "node"], capture_output=True, text=True, check=False)
        tap.equal(done.returncode, 0, f"cells: node-setup {done.stderr if done.returncode else ''}")
        for cell in cells.TABLE:
            cells.check(tap, "with node-setup", cell, ports_of(f"{Cells.PORTS}, 61900-61999"))


def check_words(tap, folder):
    """What fixport-node says of a ConfigMap that cannot be taken, in the log and to the probe."""
    config = Path(folder, "config")
    config.mkdir()
    env = dict(os.environ, FIXPORT_CONFIG=f"{config}/fixport.conf", FIXPORT_STATE=f"{folder}/state",
               FIXPORT_POOL=f"{folder}/pool", PATH=f"{fptest.BUILD}/tools:{os.environ['PATH']}")
    good = "[pool]\nports = 61001-61999\n"
    for key, text, said in (
            ("fixport.conf", "[pool]\nports = 60001-80001\n", 'ConfigMap, key fixport.conf: [pool] ports = "60001-80001": 80001 is not a port'),
            ("fixport.conf", "[pool]\nports 61001\n", "ConfigMap, key fixport.conf: line 2: "),
            ("discovered.conf", "[node a]\nadress = 192.168.31.17\n", "ConfigMap, key discovered.conf: [node a] adress")):
        (config / "fixport.conf").write_text(good, encoding="utf-8")
        (config / key).write_text(text, encoding="utf-8")
        words = []
        for argv in (["once", "pool"], ["ready", "pool"]):
            done = subprocess.run([SOURCE / "contrib/docker/fixport-node", *argv], env=env, check=False, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            words.append(done.stdout)
            tap.point(done.returncode, f"fixport-node {argv[0]}: {text!r} in {key} is refused")
        tap.point(all(said in word and folder not in word and "cmp:" not in word for word in words),
                  f"and log and probe say: {said}", *words)
    (config / "discovered.conf").unlink()
    (config / "fixport.conf").write_text(good, encoding="utf-8")
    done = [subprocess.run([SOURCE / "contrib/docker/fixport-node", word, "pool"], env=env, check=False,
                           stdout=subprocess.DEVNULL).returncode for word in ("once", "ready")]
    tap.equal(done, [0, 0], "fixport-node: a good one is taken, and it is ready")


# A node each: points that it has at least, and what it does.
NODES = {"--node": (12, node_checks), "--tracked": (7, tracked_checks), "--cells": (2 * len(Cells.TABLE) + 1, cells_checks)}


def start_nodes(folder):
    """Runs this program again as each node, side by side, for they have networks of their own. Return: {word: Popen},
    empty where there can be none."""
    if os.geteuid() or not fptest.can_make_netns() or not shutil.which("conntrack"):
        return {}
    inside = ["timeout", "-k", "5", "300", "unshare", "--mount", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    for word in NODES:
        os.mkdir(f"{folder}/{word}")
    return {word: subprocess.Popen([*inside, sys.executable, __file__, word, f"{folder}/{word}"], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for word in NODES}


def check_nodes(tap, nodes):
    """What they said, as points of this test."""
    if not nodes:
        tap.cannot("a node", "namespaces need root, and conntrack")
    for word, process in nodes.items():
        said = process.communicate()[0]
        lines = re.findall(r"^(ok|not ok) \d+ - (.*)((?:\n# .*)*)", said, re.M)
        for verdict, name, more in lines:
            tap.point(verdict == "ok", name, more.replace("\n# ", "\n").strip())
        whole = len(lines) >= NODES[word][0] and re.search(r"^1\.\.\d+\n\Z", said, re.M)
        tap.point(whole, f"{word[2:]}: all of it was tried", "" if whole else
                  f"exit status {process.returncode} (124: not done in 300 s)\n{said[-2000:]}")


def main():
    tap = fptest.Tap()
    if sys.argv[1:]:
        NODES[sys.argv[1]][1](tap, sys.argv[2])
        tap.end()
    check_the_check(tap)
    if not shutil.which("kubectl"):
        tap.cannot("manifests", "there is no kubectl")
        tap.end()
    with tempfile.TemporaryDirectory(prefix="fixport-test-") as folder:
        shutil.copytree(KUBERNETES, f"{folder}/kubernetes")
        nodes = start_nodes(folder)
        for check in (check_templates, check_restricted, check_mounts, check_slices, check_namespaces, check_alerts, check_reclaim, check_words):
            check(tap, folder)
        check_nodes(tap, nodes)
    tap.end()


if __name__ == "__main__":
    main()
