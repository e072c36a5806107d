#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport in real containers and pods: podman with runc, its CNI bridge and its MASQUERADE.

    run.py             all cases, in their order
    run.py musl ...    these cases
    run.py --list      their names

What counts is what a server outside of the node saw. Each case leaves the node as a fresh one: no
pods, no pool. Output is TAP.
"""

import os
import subprocess
import sys
import traceback

sys.dont_write_bytecode = True  # the source tree stays as it is

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("lab", "lib"):
    sys.path.append(os.path.join(os.path.dirname(HERE), folder))

import fptest  # noqa: E402
import images  # noqa: E402
import isolation  # noqa: E402
from machine import Failed as MachineFailed  # noqa: E402

CACHE = os.path.join(fptest.BUILD, "containers")


def cases():
    """Return: (name, function) of each case; those that need containers are loaded inside only."""
    import cases_node  # pylint: disable=import-outside-toplevel
    import cases_images
    import cases_kustomize
    import cases_pods
    import cases_rollout
    return [*cases_kustomize.CASES, *cases_images.CASES, *cases_pods.CASES, *cases_node.CASES,
            *cases_rollout.CASES]


def start_node(tap):
    """A node with the images that all cases use."""
    import cases_images
    import node
    world = node.Node(), node.Host()
    node.connect(*world)
    world[0].import_image(images.base(CACHE), node.BASE, node.PATH, 'CMD ["bash"]')
    world[0].import_image(images.musl(CACHE), "localhost/musl", "ENV PATH=/bin", 'CMD ["sh"]')
    cases_images.build_fixport(tap, world[0])
    return world[0]


def clean(node):
    """A fresh node for the next case."""
    node.remove()
    node.podman_try("rm", "-a", "-f", "-t", "0")
    node.podman_try("volume", "rm", "-a", "-f")
    node.track()
    node.run(["sh", "-c", "rm -rf /run/fixport /opt/fixport/* /opt/fixport/.lib*; "
              "mkdir -p /run/fixport; conntrack -F"])


def run_cases(tap, chosen):
    node = start_node(tap)
    for name, function in chosen:
        try:
            clean(node)
            function(tap, node)
        except (Exception, subprocess.TimeoutExpired):  # pylint: disable=broad-except
            tap.point(False, f"{name}: it can be tried at all", traceback.format_exc())
    clean(node)
    node.halt()


def inside(tap, names):
    isolation.settle()
    chosen = [case for case in cases() if not names or case[0] in names]
    try:
        run_cases(tap, chosen)
    except (images.Failed, MachineFailed, subprocess.SubprocessError, OSError):
        tap.point(False, "there is a node", traceback.format_exc())
    tap.end()


def main():
    names = sys.argv[1:]
    if names == ["--list"]:
        print("\n".join(name for name, _ in cases()))
        return 0
    if isolation.is_inside():
        return inside(fptest.Tap(), names)
    tap = fptest.Tap()
    why = "root only can do this" if os.geteuid() else isolation.refused()
    why = why or images.prepare(CACHE)
    if why:
        tap.cannot("containers and pods", why)
        tap.end()
    return isolation.run_inside()


if __name__ == "__main__":
    sys.exit(main())
