# SPDX-License-Identifier: MIT
"""The manifests that are shipped, and what podman needs to have changed in them.

podman's kube play knows pods, but no DaemonSet: that one's template is a pod. Nothing else is
changed, but for the configuration of the site, which is the site's, and how often a DaemonSet looks
at it.
"""

import os

import yaml

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KUBERNETES = os.path.join(SOURCE, "contrib", "kubernetes")


def read(path):
    with open(os.path.join(KUBERNETES, path), encoding="utf-8") as file:
        return file.read()


def name_of(text):
    return yaml.safe_load(text)["metadata"]["name"]


def example(server):
    """The ConfigMap by which the pods that are shipped are told where to connect to."""
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap",
                           "metadata": {"name": "fixport-example"}, "data": {"SERVER": server}})


def config_map(text):
    """The ConfigMap that the base makes of fixport.conf."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fixport"},
            "data": {"fixport.conf": text}}


def daemon(path, config, args=None, only=None):
    """The pod of a DaemonSet, with the configuration. @args: of its init container and the others,
    instead of the manifest's. @only: this container, and none else."""
    template = yaml.safe_load(read(path))
    pod = {"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": template["metadata"]["name"]},
           "spec": template["spec"]["template"]["spec"]}
    for container in pod["spec"]["containers"]:
        container.setdefault("env", []).append({"name": "FIXPORT_INTERVAL", "value": "2"})
    if only:
        pod["spec"].pop("initContainers")
        pod["spec"]["containers"] = [container for container in pod["spec"]["containers"]
                                     if container["name"] == only]
    if args:
        for kind, words in zip(("initContainers", "containers"), args):
            pod["spec"][kind][0]["args"] = words
    return yaml.safe_dump_all([config_map(config), pod])
