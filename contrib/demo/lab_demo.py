#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Shows in half a minute what fixport-setup does: a cluster, hosts and a firewall on one LAN.

It is the network of the tests (tests/lab), made of namespaces: real firewalls, real masquerading,
real programs, and nothing of this machine is touched. Needs root.
"""

import concurrent.futures
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
from trial import Trial, environment, impossible  # noqa: E402

PICTURE = """
  hosts                                firewall            cluster

  host-a 192.168.31.67   ──┐                            ┌── node1 192.168.31.17 ─┬─ pod-c   10.200.1.91
                           ├──  gateway 192.168.31.2  ──┤                        └─ pod-c2  10.200.1.92
  host-b 192.168.31.130  ──┘                            └── node2 192.168.31.45 ─── pod-d   10.200.36.5
"""
COLORS = {True: "32", False: "31", None: "33"}
failures = []


def say(text=""):
    print(text, flush=True)


def title(text):
    say(f"\n{paint(text, '1')}\n")


def paint(text, color):
    return f"\x1b[{color}m{text}\x1b[0m" if sys.stdout.isatty() else text


def line(good, what, how, expected=True):
    """One thing that was tried: whether it works, and whether it should at this point."""
    if good != expected:
        failures.append(what)
    say(f"  {paint('✓' if good else '✗', COLORS[good])} {what:32} {how}")
    return good


def shown(ports):
    return f"{ports[0]}-{ports[-1]}"


def request(trial, where, to, port, why="", **how):
    """A line about one request; @why: what is known of it if there is no answer."""
    answer = trial.ask(where, to, port, **how)
    expected = not why
    told = f"{to} saw {answer.address} port {answer.port}" if answer else why or answer.text.strip()
    tool = how.get("tool", "curl")
    line(bool(answer), f"{where} → {to}:{port}", f"{tool:8} {told}", expected)


def problem(trial):
    title("1. Without fixport")
    request(trial, "host-a", "pod-c", POD_SERVICE, "no route to the pod", shim=False)
    before = trial.rejected()
    seen = trial.ask("pod-c", "host-a", HOST_SERVICE, shim=False,
                     options=("--connect-timeout", "1"))
    ports = [out for _, _, out in trial.tracked("node1", "host-a", HOST_SERVICE)]
    why = (f"left node1 from port {ports[0] if ports else '?'}; the firewall rejected "
           f"{trial.rejected() - before} answers: it knows {shown(POD_PORTS)} only")
    line(bool(seen), f"pod-c → host-a:{HOST_SERVICE}", f"{'curl':8} {why}", bool(seen))


def apply(trial):
    title("2. The same configuration file on every machine, and there: fixport-setup apply")
    for computer in trial:
        planned = trial.setup(computer.name, "plan", "--json")
        done = trial.setup(computer.name, "apply")
        good = line(done.returncode == 0, computer.name, "")
        if not good:
            say(done.stdout + done.stderr)
            return False
        for change in json.loads(planned.stdout)["changes"]:
            say(f"      {change['type']:9} {change['why']}")
    return True


def traffic(trial):
    title(f"3. With fixport: pods connect from {shown(POD_PORTS)}, hosts from {shown(HOST_PORTS)}")
    for tool in ("curl", "python3", "nc"):
        request(trial, "pod-c", "host-a", HOST_SERVICE, tool=tool)
    request(trial, "pod-d", "host-b", HOST_SERVICE)
    request(trial, "pod-c", "host-a", HOST_SERVICE, family=6)
    for tool in ("curl", "python3", "nc"):
        request(trial, "host-a", "pod-c", POD_SERVICE, tool=tool)
    request(trial, "host-b", "pod-d", POD_SERVICE)
    say()
    request(trial, "host-a", "pod-c", POD_SERVICE, "rejected: port 59999 is not in the range",
            shim=False, options=("--local-port", "59999"))
    request(trial, "pod-c", "host-a", OTHER_SERVICE, "rejected: a service that is not open")


def two_pods(trial):
    title(f"4. Two pods of one node, one destination, {len(FEW_PORTS)} ports")
    with concurrent.futures.ThreadPoolExecutor() as together:
        running = list(together.map(
            lambda pod: trial.hold(pod, "host-b", FEW_SERVICE, 24, 2), ("pod-c", "pod-c2")))
    pairs = [pair for client in running for pair in client.finish()]
    moved = [pair for pair in pairs if pair[0] != pair[1] or pair[1] not in FEW_PORTS]
    line(len(pairs) == 96 and not moved, f"pod-c, pod-c2 → host-b:{FEW_SERVICE}",
         f"{len(pairs)} connections, {len(moved)} moved to another port by node1")
    status = trial["node1"].run(["fixport-pool", "status"], env=environment()).stdout
    say("\n" + "".join(f"    {text}\n" for text in status.splitlines()[:12]).rstrip())


def undo(trial, before):
    title("5. fixport-setup undo")
    for computer in trial:
        done = trial.setup(computer.name, "undo")
        changed = state.difference(before[computer.name], state.of_machine(computer))
        line(done.returncode == 0 and not changed, computer.name,
             "rules, routes, sysctls, files: all as before" if not changed else "\n".join(changed))


def story():
    say(PICTURE)
    with Trial(Kind(cni="random-fully"), Wish(snat="keep")) as trial:
        before = {computer.name: state.of_machine(computer) for computer in trial}
        say("  The nodes masquerade as Flannel and Calico do: each connection of a pod leaves from a\n"
            "  random port. The gateway lets answers through to a range of ports only.")
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
