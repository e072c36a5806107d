# SPDX-License-Identifier: MIT
"""kubectl kustomize with every combination of the components, and what comes out of it."""

import itertools
import os
import re
import shutil
import subprocess

import manifests
import yaml

WORK = "/run/kustomize"
LABELS = ("node-pool", "own-pool", "sysctl")
KINDS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
FOR_WORKLOADS = ("inject-node-pool", "inject-own-pool", "sysctl")
FOR_NODES = ((), ("node-setup",), ("node-undo",))
IMAGE = "registry.example/fixport:1"


def workload(kind, label):
    """A workload as others write it: one container with an environment and one without."""
    name = f"{kind.lower()}-{label or 'plain'}"
    spec = {"template": {
        "metadata": {"labels": {"app": name, "fixport-ports": "61900-61949"}},
        "spec": {"containers": [
            {"name": "web", "image": "web", "env": [{"name": "KEPT", "value": "1"}],
             "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]},
            {"name": "side", "image": "side"}],
            "volumes": [{"name": "kept", "emptyDir": {}}]}}}
    return {"apiVersion": "batch/v1" if kind.endswith("Job") else "apps/v1", "kind": kind,
            "metadata": {"name": name, "labels": {"fixport": label} if label else {}},
            "spec": {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec}


def bystander(kind, label):
    """What a label put on all objects reaches too, and is none of the components' business."""
    return {"apiVersion": "v1", "kind": kind,
            "metadata": {"name": f"of-{label}", "labels": {"fixport": label}}, "spec": {}}


WORKLOADS = [workload(kind, label) for kind in KINDS for label in (*LABELS, None)]
BYSTANDERS = [bystander("Service", label) for label in LABELS]


def build(components):
    """Return: (the objects by kind and name, what kubectl complained of)."""
    with open(f"{WORK}/kustomization.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump({"resources": ["apps.yaml", "kubernetes/base"],
                        "components": [f"kubernetes/components/{name}" for name in components],
                        "images": [{"name": "fixport", "newName": IMAGE.split(":", maxsplit=1)[0],
                                    "newTag": IMAGE.split(":")[1]}]}, file)
    done = subprocess.run(["kubectl", "kustomize", WORK], capture_output=True, text=True,
                          check=False)
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    return ({(item["kind"], item["metadata"]["name"]): item for item in objects},
            done.stderr if done.returncode or done.stderr else "")


def pod_of(item):
    spec = item["spec"]
    return spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]


def preload_of(container):
    return [item.get("value") for item in container.get("env", []) if item["name"] == "LD_PRELOAD"]


def workload_is_right(item, label, components):
    """A workload has what the component for its label gives, in all containers, and only that."""
    pod = pod_of(item)
    chosen = label and (f"inject-{label}" in components or label in components)
    if not chosen:
        kept = {key: value for key, value in item["metadata"].items() if value}
        return (item["spec"], kept["name"]) == (workload(item["kind"], label)["spec"], kept["name"])
    if label == "sysctl":
        return pod["securityContext"]["sysctls"] == [
            {"name": "net.ipv4.ip_local_port_range", "value": "61001 61999"}]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    kind = "hostPath" if label == "node-pool" else "emptyDir"
    names = ("library", "pool", "shares") if label == "node-pool" else ("library", "pool")
    return ("kept" in volumes and len(pod["containers"]) == 2 and
            {"name": "KEPT", "value": "1"} in pod["containers"][0]["env"] and
            all(kind in volumes[f"fixport-{name}"] for name in names) and
            all(preload_of(container) == ["/opt/fixport/libfixport.so"] and
                {"name": "fixport-library", "mountPath": "/opt/fixport", "readOnly": True}
                in container["volumeMounts"] for container in pod["containers"]))


def privileges(objects):
    """What the containers of fixport itself have beyond nothing: a set of texts."""
    found = set()
    for (kind, name), item in objects.items():
        if kind != "DaemonSet" or not name.startswith("fixport-"):
            continue
        pod = pod_of(item)
        found |= {f"{name} {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)}
        for container in pod.get("initContainers", []) + pod["containers"]:
            own = container["securityContext"]
            found |= {f"{name}/{container['name']} privileged"} if own.get("privileged") else set()
            found |= {f"{name}/{container['name']} {cap}"
                      for cap in own.get("capabilities", {}).get("add", [])}
            if own.get("privileged") is not True and (
                    own["capabilities"]["drop"] != ["ALL"] or own["allowPrivilegeEscalation"]):
                found.add(f"{name}/{container['name']} keeps capabilities")
            if not own["readOnlyRootFilesystem"] or container["image"] != IMAGE:
                found.add(f"{name}/{container['name']} has another root or image")
    return found


UNDO = {"fixport-setup hostNetwork", "fixport-setup/apply privileged",
        "fixport-setup/setup NET_ADMIN"}
SETUP = UNDO | {"fixport-setup/reclaim NET_ADMIN"}


def combination_faults(components):
    """Return: what is wrong with what comes out of these components."""
    objects, complaint = build(components)
    if complaint:
        return [complaint]
    for_node = any(name.startswith("node-") for name in components)
    faults = [f"{item['kind']} {item['metadata']['name']}" for item in WORKLOADS
              if not workload_is_right(objects[item["kind"], item["metadata"]["name"]],
                                       item["metadata"]["labels"].get("fixport"), components)]
    expected = UNDO if "node-undo" in components else SETUP if for_node else set()
    if privileges(objects) != expected:
        faults.append(f"privileges: {privileges(objects)}")
    shipped = manifests.read("base/fixport.conf")
    if objects["ConfigMap", "fixport"]["data"] != {"fixport.conf": shipped}:
        faults.append("the ConfigMap")
    faults += [f"a CronJob's pod is another than a Deployment's: {label}" for label in LABELS
               if pod_of(objects["CronJob", f"cronjob-{label}"]) !=
               pod_of(objects["Deployment", f"deployment-{label}"])]
    faults += [f"{item['kind']} {item['metadata']['name']}" for item in BYSTANDERS
               if objects[item["kind"], item["metadata"]["name"]] != item]
    expected = len(WORKLOADS) + len(BYSTANDERS) + 3 + for_node
    if len(objects) != expected:
        faults.append(f"{len(objects)} objects, not {expected}")
    return faults


def case_kustomize(tap, _):
    """Components came into kubectl with 1.21."""
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True,
                             check=False).stdout if shutil.which("kubectl") else ""
    found = re.search(r"v1\.(\d+)", version)
    if not found or int(found[1]) < 21:
        tap.cannot("kustomize", "there is no kubectl from 1.21 on")
        return
    text = subprocess.run(["kubectl", "kustomize", f"{manifests.KUBERNETES}/base"],
                          capture_output=True, text=True, check=False).stdout
    tap.equal(len(re.findall(r"^ +image: fixport$", text, re.M)), 4,
              "kustomize: the command in the README finds the images that it puts the registry into")
    os.mkdir(WORK)
    shutil.copytree(manifests.KUBERNETES, f"{WORK}/kubernetes")
    with open(f"{WORK}/apps.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump_all([*WORKLOADS, *BYSTANDERS], file)
    for count in range(len(FOR_WORKLOADS) + 1):
        for chosen in itertools.combinations(FOR_WORKLOADS, count):
            for nodes in FOR_NODES:
                components = [*chosen, *nodes]
                tap.equal(combination_faults(components), [],
                          f"kustomize: base with {', '.join(components) or 'nothing else'}")


def case_manifests(tap, _):
    """Each file is one that kubectl takes, and a pod is as little as it says."""
    for name in sorted(os.listdir(f"{manifests.KUBERNETES}/pods")):
        pod = yaml.safe_load(manifests.read(f"pods/{name}"))
        own = pod["spec"]["containers"][0].get("securityContext", {})
        restricted = own.get("capabilities") == {"drop": ["ALL"]} and own["readOnlyRootFilesystem"]
        tap.equal((pod["kind"], bool(restricted), pod["spec"].get("hostNetwork", False)),
                  ("Pod", name in ("unprivileged.yaml", "own-pool.yaml", "sysctl.yaml"),
                   name == "host-network.yaml"), f"pods/{name}: it asks for what it is about")


CASES = [(name[5:], function) for name, function in list(globals().items())
         if name.startswith("case_")]
