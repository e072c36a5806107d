#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows in half a minute what fixport-setup does: a cluster, hosts and a firewall on one LAN.

It is the network of the tests (tests/lab), made of namespaces: real firewalls, real masquerading,
real programs, and nothing of this machine is touched. Needs root.
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "lab"))
import machine  # noqa: E402
import state  # noqa: E402
from network import Kind  # noqa: E402
from siteconf import (FEW_PORTS, FEW_SERVICE, HOST_PORTS, HOST_SERVICE,  # noqa: E402
                      OTHER_SERVICE, POD_PORTS, POD_SERVICE, Wish)
from trial import Trial, at_once, environment, impossible  # noqa: E402

PICTURE = """
  LAN 192.168.31.0/24                                 pods 10.200.0.0/16

  host-a .67  ──┐                       ┌── node1 .17 ──┬── pod-c  10.200.1.91
                ├──── gateway .2 ───────┤               └── pod-c2 10.200.1.92
  host-b .130 ──┘      firewall         └── node2 .45 ───── pod-d  10.200.36.5
"""
WIDTH = 32  # of what was tried
failures = []


def say(text=""):
    print(text, flush=True)


def title(text):
    say(f"\n{paint(text, '1')}\n")


def paint(text, color):
    return f"\x1b[{color}m{text}\x1b[0m" if sys.stdout.isatty() else text


def line(good, what, how, mark=None):
    """One thing that was tried, and whether it came out as it has to at this point. @mark: ✗ for
    what cannot work yet."""
    if not good:
        failures.append(what)
    sign = mark if good and mark else "✓" if good else "✗"
    say(f"  {paint(sign, '32' if sign == '✓' else '33' if good else '31')} {what:{WIDTH}} {how}")
    return good


def shown(ports):
    return f"{ports[0]}-{ports[-1]}"


def way(where, to, port, tool=""):
    return f"{f'{where} → {to}:{port}':{WIDTH - 8}} {tool}"


def request(trial, where, to, port, ports, **how):
    """A connection that has to be answered, and to come from one of @ports."""
    answer = trial.ask(where, to, port, **how)
    told = f"{to} saw {answer.address} port {answer.port}" if answer else answer.text.strip()
    line(answer and answer.port in ports, way(where, to, port, how.get("tool", "curl")), told)


def rejected(trial, where, to, port, why, **how):
    answer = trial.ask(where, to, port, **how)
    line(not answer, way(where, to, port, "curl"), f"rejected: {why}")


def problem(trial):
    title("1. Without fixport")
    answer = trial.ask("host-a", "pod-c", POD_SERVICE, shim=False)
    line(not answer, way("host-a", "pod-c", POD_SERVICE), "host-a has no route to the pods", "✗")
    before = trial.rejected()
    answer = trial.ask("pod-c", "host-a", HOST_SERVICE, shim=False,
                       options=("--connect-timeout", "1"))
    left = [out for _, _, out in trial.tracked("node1", "host-a", HOST_SERVICE)]
    rejections = trial.rejected() - before
    line(rejections or answer.port in POD_PORTS, way("pod-c", "host-a", HOST_SERVICE),
         f"node1 sent it from port {left[0] if left else '?'}; the gateway lets answers", "✗")
    say(f"    {'':{WIDTH}} through to {shown(POD_PORTS)}: it rejected {rejections}")


def apply(trial):
    title("2. The same configuration file on every machine, and there: fixport-setup apply")
    for computer in trial:
        planned = trial.setup(computer.name, "plan", "--json")
        done = trial.setup(computer.name, "apply")
        if done.returncode:
            return line(False, computer.name, done.stderr)
        changes = json.loads(planned.stdout)["changes"]
        line(True, computer.name, f"{len(changes)} changes, among them")
        for text in dict.fromkeys(f"{change['type']:9} {change['why']}" for change in changes
                                  if change["type"] not in ("file", "link")):
            say(f"      {text}")
    return True


def traffic(trial):
    title(f"3. With fixport: pods connect from {shown(POD_PORTS)}, hosts from {shown(HOST_PORTS)}")
    for tool in ("curl", "python3", "nc"):
        request(trial, "pod-c", "host-a", HOST_SERVICE, POD_PORTS, tool=tool)
    request(trial, "pod-d", "host-b", HOST_SERVICE, POD_PORTS)
    request(trial, "pod-d", "host-b", HOST_SERVICE, POD_PORTS, family=6)
    for tool in ("curl", "python3", "nc"):
        request(trial, "host-a", "pod-c", POD_SERVICE, HOST_PORTS, tool=tool)
    request(trial, "host-b", "pod-d", POD_SERVICE, HOST_PORTS)
    say("\n  and everything else stays closed\n")
    rejected(trial, "host-a", "pod-c", POD_SERVICE, "port 59999 is not one of the hosts'",
             shim=False, options=("--local-port", "59999"))
    rejected(trial, "pod-c", "host-a", OTHER_SERVICE, "not a service that was opened")


def two_pods(trial):
    title(f"4. Two pods of one node, one destination, {len(FEW_PORTS)} ports")
    running = at_once(lambda pod: trial.hold(pod, "host-b", FEW_SERVICE, 24, 2),
                      ("pod-c", "pod-c2"))
    status = trial["node1"].run(["fixport-pool", "status"], env=environment()).stdout
    pairs = [pair for client in running for pair in client.finish()]
    moved = [pair for pair in pairs if pair[0] != pair[1] or pair[1] not in FEW_PORTS]
    line(len(pairs) == 96 and not moved, f"pod-c, pod-c2 → host-b:{FEW_SERVICE}",
         f"{len(pairs)} connections, {len(moved)} moved to another port by node1")
    say("\n  Meanwhile on node1: fixport-pool status\n")
    say("".join(f"    {text}\n" for text in status.splitlines()[:9]).rstrip())


def undo(trial, before):
    title("5. fixport-setup undo")
    for computer in trial:
        done = trial.setup(computer.name, "undo")
        changed = state.difference(before[computer.name], state.of_machine(computer))
        line(done.returncode == 0 and not changed, computer.name,
             "\n".join(changed) or "rules, routes, sysctls, files: all as before")


def story():
    say(PICTURE)
    with Trial(Kind(cni="random-fully"), Wish(snat="keep")) as trial:
        before = {computer.name: state.of_machine(computer) for computer in trial}
        say("  The nodes masquerade as Flannel and Calico do: each connection of a pod leaves\n"
            "  from a random port. The gateway lets answers through to a range of ports only.")
        problem(trial)
        if apply(trial):
            traffic(trial)
            two_pods(trial)
            undo(trial, before)
    say()


def main():
    why = impossible()
    if why:
        say(f"\nThe second part, fixport-setup and a firewall, cannot be shown here: {why}.")
        return
    machine.isolate()
    story()
    if failures:
        sys.exit(f"demo: not as expected: {', '.join(failures)}")


if __name__ == "__main__":
    main()
