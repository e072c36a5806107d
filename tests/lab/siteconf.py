# SPDX-License-Identifier: MIT
"""The one configuration file of the reference network, the same on every machine."""

from dataclasses import dataclass

POD_PORTS = range(61001, 62000)  # pods towards hosts
HOST_PORTS = range(60101, 61000)  # hosts towards pods; inside the kernel's own range
FEW_PORTS = range(62001, 62201)  # pods towards host-b, port FEW_SERVICE
HOST_SERVICE, FEW_SERVICE, POD_SERVICE = 60001, 60005, 8088
FREE_PORT, BUSY_PORT = 61600, 61500  # of POD_PORTS; on the second one a pod listens
IDLE_SERVICES = "60002-60003"  # opened for pods, nothing listens
NOT_HOST_PORTS = "59998-59999"
OTHER_SERVICE, SSH = 45000, 22  # listening everywhere; opened nowhere, or for the administrator
NODE_PORTS = "30000-31999"

SITE = """\
[machine host-a]
roles = host
[machine host-b]
roles = host
[machine gateway]
roles = {roles}
[machine node1]
roles = node, control-plane
[machine node2]
roles = node

[node node1]
address = 192.168.31.17, fd00:31::17
pods = 10.200.1.0/24, fd00:200:1::/64
[node node2]
address = 192.168.31.45, fd00:31::45
# the last two are borrowed from node1
pods = 10.200.36.0/24, fd00:200:36::/64, 10.200.1.93, fd00:200:1::93

{more}
[pods]
services = 8088
[hosts]
addresses = 192.168.31.67, 192.168.31.128/25, fd00:31::67, fd00:31::130
services = 60001-60005
ports = 60101-60999
[gateway]
{address}
stateful = {stateful}
exclusive = {exclusive}
[snat]
mode = {snat}
[control-plane]
node-ports = 30000-31999
[setup]
iptables = {iptables}

[pool]
ports = 61001-61999
[rule few]
to = 192.168.31.130:60005, [fd00:31::130]:60005
ports = 62001-62200
[rule hosts]
to = 192.168.31.67, 192.168.31.128/25, fd00:31::67, fd00:31::130
"""

NODE_GATEWAY = """\
[node gateway]
address = 192.168.31.2, fd00:31::2
pods = 10.200.3.0/24, fd00:200:3::/64
"""

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


@dataclass(frozen=True)
class Wish:
    """What differs between the sites that are tried."""

    snat: str = "keep"
    stateful: str = "yes"
    exclusive: str = "no"
    iptables: str = "auto"
    address: bool = False  # the gateway's: without, hosts and nodes send to each other
    node_gateway: bool = False

    def text(self):
        wish = dict(vars(self), more=NODE_GATEWAY if self.node_gateway else "",
                    roles="gateway, node" if self.node_gateway else "gateway",
                    address="address = 192.168.31.2, fd00:31::2" if self.address else "")
        return SITE.format(**wish)
