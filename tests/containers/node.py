# SPDX-License-Identifier: MIT
"""A node that runs containers, and a host outside of it that tells what it saw.

    host 192.168.31.67 ---- node 192.168.31.17 ---- podman's bridge, with its MASQUERADE ---- pods

Both are machines of the lab. podman keeps all it has in the node's /var/lib, /etc and /run.
"""

import json
import os
import re
import subprocess
import time

import fptest
import manifests
from machine import WORK, Machine, environment

HOST, NODE = "192.168.31.67", "192.168.31.17"
SERVICE, SMALL, OTHER = 60001, 60002, 60003
BASE = "docker.io/library/debian:bookworm-slim"
PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(SOURCE, "tests", "lab")

# A container may have what the tests' own limits allow. Health checks would need systemd.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
image_copy_tmp_dir = "/run/podman"
runtime = "runc"
[network]
"""

# podman's own bridge is made by CNI's plugins; since podman 5 only by netavark, here with iptables, too.
NETWORK = {True: 'network_backend = "cni"\n',
           False: 'network_backend = "netavark"\nfirewall_driver = "iptables"\n'}

# podman 4.3 removes an init container when it has ended, and fails if it does not know that yet.
INIT_STAYS = "--annotation=io.podman.annotations.init.container.type=always"
# And it starts one again and again, if the pod's policy is to restart what ends.
ENDS = "  restartPolicy: Never\n"

# Connection tracking remembers closed connections for two minutes, and so long is the quarantine.
# Here both are short, but where a case wants the kernel's own.
TRACKING = {"close": 10, "close_wait": 60, "fin_wait": 120, "last_ack": 30, "time_wait": 120}


class Failed(Exception):
    """A command did not do what it should."""


def wait_for(what, seconds=30):
    """Asks @what until it answers. Return: the answer, or what it said last."""
    deadline = time.monotonic() + seconds
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


class Node(Machine):
    """The node, with podman on it."""

    def __init__(self):
        super().__init__("node", WORK)
        for folder in ("/opt", "/var/tmp"):
            self.must(["mount", "-n", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder])
        self.must(["mkdir", "-p", "/run/podman", "/run/home", "/etc/cni/net.d", "/opt/fixport"])
        version = re.search(r"\d+", self.must(["podman", "--version"]))[0]
        self.write("/run/containers.conf", CONTAINERS_CONF + NETWORK[int(version) < 5])
        self.sysctl(ipv4__ip_forward=1)
        self.track()
        self.files = 0
        self.host = None

    @staticmethod
    def environment():
        # podman 5 warns on stderr wherever control groups are of version 1.
        return environment(CONTAINERS_CONF="/run/containers.conf", TMPDIR="/run/podman",
                           HOME="/run/home", PODMAN_IGNORE_CGROUPSV1_WARNING="1")

    def track(self, as_kernel=False):
        """Connection tracking remembers what has ended for a second, or as long as the kernel has it."""
        for state, seconds in TRACKING.items():
            self.sysctl(**{f"netfilter__nf_conntrack_tcp_timeout_{state}": seconds if as_kernel else 1})

    def podman_try(self, *argv, stdin="", timeout=180):
        """Return: as subprocess.run()."""
        return self.run(["podman", *argv], stdin=stdin, env=self.environment(), timeout=timeout)

    def podman(self, *argv, stdin="", timeout=180):
        """Return: the output of a command that must not fail."""
        done = self.podman_try(*argv, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise Failed(f"podman {' '.join(argv)}: exit status {done.returncode}\n"
                         f"{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def podman_start(self, *argv):
        """Return: a Popen that goes on."""
        return self.start(["podman", *argv], env=self.environment())

    def import_image(self, archive, name, *changes):
        self.podman("import", "-q", *(f"--change={change}" for change in changes), archive, name)

    def build(self, context, name, *options, dockerfile="Dockerfile"):
        return self.podman("build", "--network=none", "-q", "-t", name, *options, "-f",
                           os.path.join(context, dockerfile), context, timeout=600)

    def play(self, documents, configmap=None):
        """Starts the pods of @documents, which are text."""
        documents = "---\n".join(
            re.sub("^spec:\n", f"spec:\n{ENDS}", part, flags=re.M) if "initContainers:" in part
            else part for part in re.split("^---\n", documents, flags=re.M))
        self.files += 1
        path = f"/run/play-{self.files}.yaml"
        self.write(path, documents)
        options = [INIT_STAYS]
        if configmap:
            self.write(f"{path}.map", configmap)
            options += ["--configmap", f"{path}.map"]
        return self.podman("kube", "play", *options, path)

    def pod(self, name, rename=None, service=SERVICE):
        """Starts a pod that is shipped, from its very file; with @rename, under another name.
        Its own program connects to @service of the host. Return: the name of its container."""
        text = manifests.read(f"pods/{name}.yaml")
        own = manifests.name_of(text)
        if rename:
            text = text.replace(f"name: {own}\n", f"name: {rename}\n", 1)
        self.play(text, manifests.example(f"{HOST}:{service}"))
        return f"{rename or own}-app"

    def remove(self, *pods):
        """Ends pods; none are all, and containers without a pod, too. podman 4.3 fails to remove a
        container that ends at that moment, and waits for seconds until a pod's group is empty: so
        they are killed first."""
        self.podman_try(*(["pod", "kill", *pods] if pods else ["kill", "-a"]))
        wait_for(lambda: not self.podman_try(
            "ps", "-q", *(f"--filter=pod={pod}" for pod in pods)).stdout)
        for _ in range(5):
            done = self.podman_try("pod", "rm", "-f", "-i", "-t", "0", *(pods or ["-a"]))
            if done.returncode == 0:
                return
        raise Failed(f"podman pod rm {' '.join(pods)}: {done.stderr}")

    def address(self, container):
        """The address of the pod that a container is in."""
        infra = json.loads(self.podman("inspect", container))[0]["NetworkSettings"]["SandboxKey"]
        text = self.must(["nsenter", f"--net={infra}", "ip", "-4", "-o", "address", "show", "eth0"])
        return re.search(r"inet ([0-9.]+)", text)[1]

    def logs(self, container):
        """What a container has said on stdout and stderr."""
        done = self.podman_try("logs", container)
        return done.stdout + done.stderr

    def pool_status(self):
        """Return: the pool's status as an object, or None."""
        done = self.run([fptest.POOL_TOOL, "status", "--json", "--pool", "/run/fixport/pool"])
        return json.loads(done.stdout) if done.returncode == 0 else None

    def tracked(self):
        """What connection tracking has of TCP to the host: pairs of the port before and after."""
        text = self.run(["conntrack", "-L", "-p", "tcp", "--orig-dst", HOST]).stdout
        return [(int(line[0]), int(line[1]))
                for line in re.findall(r" sport=(\d+) dport=\d+ .* dport=(\d+)", text)]


class Host(Machine):
    """The host outside."""

    def __init__(self):
        super().__init__("host", WORK)
        self.server = None

    def serve(self):
        self.server = self.start(["python3", os.path.join(LAB, "server.py"),
                                  *map(str, (SERVICE, SMALL, OTHER))])
        if self.server.stdout.readline() != "ready\n":
            raise Failed("the server did not start")


def connect(node, host):
    """One cable between the two."""
    node.ip("link add lan type veth peer name lan-host\n")
    subprocess.run(["nsenter", f"--target={node.process.pid}", "--net", "ip", "link", "set",
                    "lan-host", "netns", str(host.process.pid)], check=True)
    node.ip(f"address add {NODE}/24 dev lan\nlink set lan up\n")
    host.ip(f"link set lan-host name lan\naddress add {HOST}/24 dev lan\nlink set lan up\n")
    host.serve()
    node.host = host
