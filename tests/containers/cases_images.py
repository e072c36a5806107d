# SPDX-License-Identifier: MIT
"""Images: contrib/docker's Dockerfiles, built and run; glibc and musl."""

import os

import clients
import node as nodes

DOCKER = os.path.join(nodes.SOURCE, "contrib", "docker")
CREATE = ["run", "--rm", "--entrypoint=fixport-pool", "-v", "/run/fixport:/run/fixport", "fixport",
          "create"]
POOL = ["-v", "/run/fixport:/run/fixport:ro", "-v", "/run/fixport/shared:/run/fixport/shared"]
PORTS = 61001, 61099


def build_fixport(tap, node):
    """The image "fixport", which all cases need, from the source tree."""
    for target in ("library", "fixport"):
        done = node.podman_try("build", "--network=none", "-q", "-t",
                               "fixport" if target == "fixport" else "fixport-library", "--target",
                               target, "-f", os.path.join(DOCKER, "Dockerfile"), nodes.SOURCE,
                               timeout=600)
        tap.point(done.returncode == 0, f"Dockerfile: podman builds {target} from the source tree",
                  done.stderr[-3000:])


def make_pool(node, ports=PORTS):
    node.podman(*CREATE, "-p", f"{ports[0]}-{ports[1]}")


def case_baked(tap, node):
    """ENV LD_PRELOAD=... in one's own image."""
    make_pool(node)
    node.podman("build", "--network=none", "-q", "-t", "baked", "-f",
                os.path.join(DOCKER, "Dockerfile.app"), DOCKER)
    clients.check_programs(tap, node, clients.DEBIAN, ["run", "--rm", *POOL, "baked"],
                           "library in the image", PORTS)
    done = node.podman_try("run", "--rm", *POOL, "--read-only", "--user=1000", "--cap-drop=all",
                           "baked",
                           *clients.with_destination(clients.DEBIAN["curl"], nodes.SERVICE))
    seen = clients.seen_in(done.stdout)
    tap.point(seen and clients.in_range([seen[1]], *PORTS),
              "library in the image: so it does for a user who may nothing", done.stderr)


def case_mounted(tap, node):
    """The library mounted into an image that knows nothing of it."""
    make_pool(node)
    node.podman("run", "--rm", "-v", "/opt/fixport:/opt/fixport", "fixport", "install",
                "/opt/fixport")
    mounted = ["run", "--rm", *POOL, "-v", "/opt/fixport:/opt/fixport:ro", "-e",
               "LD_PRELOAD=/opt/fixport/libfixport.so"]
    clients.check_programs(tap, node, clients.DEBIAN, [*mounted, nodes.BASE],
                           "library mounted", PORTS)
    clients.check_programs(tap, node, clients.MUSL, [*mounted, "localhost/musl"],
                           "library mounted, musl", PORTS)


def case_without(tap, node):
    """What the others assert would not be so without the library."""
    done = node.podman_try("run", "--rm", nodes.BASE,
                           *clients.with_destination(clients.DEBIAN["curl"], nodes.SERVICE))
    seen = clients.seen_in(done.stdout)
    tap.point(seen and seen[0] == nodes.NODE and not clients.in_range([seen[1]], *PORTS),
              "without the library: another port, under the address of the node", done.stderr)


def case_musl(tap, node):
    """The same file in an image that has musl, and nothing of glibc."""
    make_pool(node)
    node.podman("build", "--network=none", "-q", "-t", "musl-baked", "--build-arg",
                "APP=localhost/musl", "-f", os.path.join(DOCKER, "Dockerfile.app"), DOCKER)
    start = ["run", "--rm", *POOL, "musl-baked"]
    clients.check_programs(tap, node, clients.MUSL, start, "musl, library in the image", PORTS)
    done = node.podman_try(*start, "sh", "-c", "exit 7")
    tap.equal((done.returncode, done.stdout, done.stderr), (7, "", ""),
              "musl: a shell that connects to nothing is as it was")
    mounts = {image: node.podman("image", "mount", image).strip()
              for image in ("fixport", "musl-baked")}
    same = node.run(["cmp", f"{mounts['fixport']}/usr/lib/libfixport.so",
                     f"{mounts['musl-baked']}/usr/local/lib/libfixport.so"])
    tap.point(same.returncode == 0, "musl: it is the very file that images with glibc have",
              same.stdout + same.stderr)
    node.podman("image", "umount", "-a")



CASES = [(name[5:], function) for name, function in list(globals().items())
         if name.startswith("case_")]
