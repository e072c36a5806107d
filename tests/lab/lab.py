#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The lab: the whole method in the reference network (network.py), with real firewalls, real
masquerading and real programs. First the problem as it is without fixport, then fixport-setup on
each machine, then traffic both ways, a reboot, and undo.

    FIXPORT_BUILD=build tests/lab/lab.py [CASE...]
"""

import os
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import discovery  # noqa: E402
import fptest  # noqa: E402
import machine  # noqa: E402
import matrix  # noqa: E402
import probe  # noqa: E402
import siteconf  # noqa: E402
import state  # noqa: E402
from network import Kind, STATIONS  # noqa: E402
from siteconf import (BUSY_PORT, FEW_PORTS, FEW_SERVICE, FREE_PORT, HOST_PORTS,  # noqa: E402
                      HOST_SERVICE, IDLE_SERVICES, NODE_PORTS, NOT_HOST_PORTS, OTHER_SERVICE,
                      POD_PORTS, POD_SERVICE, SSH, Wish)
from trial import MANIFEST, Trial, at_once, impossible  # noqa: E402

FAMILIES = (4, 6)
PROGRAMS = ("curl", "python3", "nc")
NO_CONNECTION = 7  # curl's exit status; it is another one if nothing came
IMPATIENT = ("--connect-timeout", "1")  # where nothing will come


def local(ports):
    """curl binds to one of them: both families at once need two."""
    return ("--local-port", str(ports))


def unlucky(ask):
    """A port that is random is one of the range now and then: asks until it is not.

    Return: the first request that failed, or else the last.
    """
    for _ in range(5):
        answer = ask()
        if not answer:
            break
    return answer


# ---- without fixport ----


def problem(tap, trial):
    """What this project exists for."""
    for family in FAMILIES:
        answer = trial.ask("host-a", "pod-c", POD_SERVICE, family=family, shim=False)
        route = trial["host-a"].run(["ip", "route", "get", STATIONS["pod-c"].address(family)])
        tap.point(not answer and "unreachable" in route.stderr,
                  f"without fixport a host has no route to a pod (IPv{family})", answer.text,
                  route.stdout + route.stderr)
        before = trial.rejected(family)
        answer = unlucky(lambda: trial.ask("pod-c", "host-a", HOST_SERVICE, family=family,
                                           shim=False, options=IMPATIENT))
        after = trial.rejected(family)
        tap.point(not answer and after > before,
                  f"without fixport the answers to a pod are rejected (IPv{family})", answer.text,
                  f"rejected packets: {before} before, {after} after")


def problem_moved(tap, trial):
    """A program that has the right port all by itself, and then the node changes it."""
    held = None
    if trial.kind.cni == "plain":  # which keeps the first one's port
        held = trial.hold("pod-c2", "host-b", HOST_SERVICE, 1, 1, FREE_PORT)
    answer = trial.ask("pod-c", "host-b", HOST_SERVICE, shim=False,
                       options=(*IMPATIENT, *local(FREE_PORT)))
    moved = {entry for entry in trial.tracked("node1", "host-b", HOST_SERVICE)
             if entry[0] == STATIONS["pod-c"].ipv4}
    seen = held.finish() if held else [(FREE_PORT, FREE_PORT)]
    tap.point(seen == [(FREE_PORT, FREE_PORT)] and moved and
              all(port == FREE_PORT != out for _, port, out in moved),
              f"without fixport the node moves a right port to another ({trial.kind.cni})", seen,
              answer.text, moved)


def problem_found(tap, trial):
    """What doctor says of it."""
    expected = {"host-a": "route-missing", "gateway": "connections-refused", "node1": "port-moved"}
    for name, what in expected.items():
        found = trial.findings(name)
        tap.point(any(finding["id"] == what for finding in found),
                  f"without fixport, doctor on {name} finds {what}", *found)


# ---- setting up and taking back ----


def apply_all(tap, trial):
    """From one configuration file, on all machines."""
    for name, done in trial.setup_all("plan").items():
        tap.point(done.returncode == 2, f"plan on {name} has something to do", done.stdout,
                  done.stderr)
    for name, done in trial.setup_all("apply").items():
        if not tap.point(done.returncode == 0, f"apply on {name}", done.stdout, done.stderr):
            raise machine.Failed("nothing to try without it")
    for name, done in trial.setup_all("plan").items():
        tap.point(done.returncode == 0, f"plan on {name} has nothing to do after apply",
                  done.stdout, done.stderr)
    for name, found in trial.on_all(trial.findings).items():
        tap.point(not found, f"doctor on {name} finds no error after apply", *found)


def apply_again(tap, trial):
    def exactly():
        return trial.on_all(lambda name: state.of_machine(trial[name], exact=True))
    before, again, after = exactly(), trial.setup_all("apply"), exactly()
    for name, done in again.items():
        changed = state.difference(before[name], after[name])
        tap.point(done.returncode == 0 and not changed,
                  f"a second apply on {name} changes nothing, not even a file's time",
                  done.stdout, done.stderr, *changed)


def check_status(tap, trial, when):
    for name, done in trial.setup_all("status").items():
        tap.point(done.returncode == 0, f"{when}, status on {name} finds all as it should be",
                  done.stdout, done.stderr)


def undo_all(tap, trial, before):
    undone, after = trial.setup_all("undo"), snapshot(trial)
    for name, done in undone.items():
        changed = state.difference(before[name], after[name])
        tap.point(done.returncode == 0 and not changed,
                  f"after undo on {name} everything is as before", done.stdout, done.stderr,
                  *changed)


def restart(tap, trial):
    trial.reboot()
    for computer in trial:
        done = trial.boot(computer.name)
        tap.point(done.returncode == 0, f"boot on {computer.name} after a restart", done.stdout,
                  done.stderr)


# ---- traffic ----


def source(trial, pod, family):
    """The address under which a host sees a pod."""
    if trial.wish.snat == "none":
        return STATIONS[pod].address(family)
    return STATIONS[trial[pod].node.name].address(family)


def works(tap, trial, where, to, port, ports, address, **how):
    """One request that has to be answered, from the right address and port."""
    answer = trial.ask(where, to, port, **how)
    tap.point(answer and answer.address == address and answer.port in ports,
              f"{where} → {to} port {port} by {how.get('tool', 'curl')}, "
              f"IPv{how.get('family', 4)}: from {address} port {ports[0]}-{ports[-1]}",
              *([] if answer.port in ports else [answer]))


def both_ways(tap, trial, programs=PROGRAMS):
    for family in FAMILIES:
        for tool in programs:
            works(tap, trial, "pod-c", "host-a", HOST_SERVICE, POD_PORTS,
                  source(trial, "pod-c", family), tool=tool, family=family)
            works(tap, trial, "host-a", "pod-c", POD_SERVICE, HOST_PORTS,
                  STATIONS["host-a"].address(family), tool=tool, family=family)
        for pod in ("pod-d", "pod-e"):  # on the other node; the second with a borrowed address
            works(tap, trial, pod, "host-b", HOST_SERVICE, POD_PORTS, source(trial, pod, family),
                  family=family)
            works(tap, trial, "host-b", pod, POD_SERVICE, HOST_PORTS,
                  STATIONS["host-b"].address(family), family=family)
        works(tap, trial, "pod-c", "pod-e", POD_SERVICE, range(1, 65536),
              STATIONS["pod-c"].address(family), family=family)


def refused(tap, trial, what, where, to, port, **how):
    def ask(family):
        return trial.ask(where, to, port, family=family, **how)
    chosen = "options" in how  # a port that is not random, and can be had once
    answers = at_once(lambda family: ask(family) if chosen else unlucky(lambda: ask(family)),
                      FAMILIES)
    for family, answer in zip(FAMILIES, answers):
        tap.point(not answer and answer.status == NO_CONNECTION,
                  f"rejected: {what} (IPv{family})", answer)


def closed(tap, trial):
    """What the gateway has to reject still."""
    if trial.wish.snat != "confine":
        refused(tap, trial, "a pod's port outside the range", "pod-c", "host-a", HOST_SERVICE,
                shim=False)
    refused(tap, trial, "a host's port outside the range", "host-a", "pod-c", POD_SERVICE,
            shim=False, options=local(NOT_HOST_PORTS))
    refused(tap, trial, "a service that was not opened, on a host", "pod-c", "host-a",
            OTHER_SERVICE)
    refused(tap, trial, "a service that was not opened, on a pod", "host-a", "pod-c",
            OTHER_SERVICE)
    # the answers' way is no way in
    refused(tap, trial, "a connection that looks like an answer", "host-a", "pod-c", BUSY_PORT,
            shim=False, options=local(IDLE_SERVICES))


NEIGHBOURS = ("pod-c", "pod-c2", "pod-h", "node1")  # behind one address


def neighbours(tap, trial):
    """All who leave under a node's address to one destination: two pods, one in the node's network,
    and the node itself, each with 15 connections that it renews. Ports drawn without knowing of
    each other would meet many times: 200 are not many for 180."""
    for family in FAMILIES:
        running = at_once(
            lambda who: trial.hold(who, "host-b", FEW_SERVICE, 15, 3, family=family), NEIGHBOURS)
        entries = trial.tracked("node1", "host-b", FEW_SERVICE, family)
        pairs = [pair for one in running for pair in one.finish()]
        tap.point(len(pairs) == len(NEIGHBOURS) * 15 * 3 and
                  all(mine == seen and seen in FEW_PORTS for mine, seen in pairs),
                  f"{', '.join(NEIGHBOURS)}: no port of {len(pairs)} is moved (IPv{family})",
                  *(pair for pair in pairs if pair[0] != pair[1]), len(pairs))
        tap.point(len({out for _, _, out in entries}) >= len(NEIGHBOURS) * 15 and
                  all(port == out for _, port, out in entries),
                  f"conntrack of the node says the same of {len(entries)} entries (IPv{family})",
                  *(entry for entry in entries if entry[1] != entry[2]))


def all_ports_each(tap, trial):
    """Pods that keep their own addresses have all ports each, at the same time; and so has the next one to
    come, although nothing has rested."""
    pods = ("pod-c", "pod-c2")
    for family in FAMILIES:
        running = at_once(lambda who: trial.hold(who, "host-b", FEW_SERVICE, len(FEW_PORTS), 1,
                                                 family=family), pods)
        for pod, one in zip(pods, running):
            pairs = one.finish()
            tap.point(sorted(seen for _, seen in pairs) == list(FEW_PORTS) and
                      all(mine == seen for mine, seen in pairs),
                      f"{pod} has all {len(FEW_PORTS)} ports, as its neighbour has (IPv{family})",
                      len(pairs), *pairs[:5])


def control_plane(tap, trial):
    """The API server's range, and nothing else of its manifest."""
    with open(trial["node1"].path(MANIFEST), encoding="ascii") as file:
        lines = file.read().splitlines()
    added = [line.strip() for line in lines if line not in siteconf.MANIFEST.splitlines()]
    tap.equal(added, [f"- --service-node-port-range={NODE_PORTS}"],
              "the API server's manifest has one line more")


def nothing_tracked(tap, trial):
    for family in FAMILIES:
        text = trial["gateway"].must(["conntrack", "-L", "-f", f"ipv{family}"])
        tap.equal(text, "", f"all that went through a gateway that tracks nothing (IPv{family})")


def kept(tap, trial):
    """problem_moved() has left the node a translation of this port of this pod, to another host: it
    must not be used for this one, too."""
    works(tap, trial, "pod-c", "host-a", HOST_SERVICE, [FREE_PORT], source(trial, "pod-c", 4),
          shim=False, options=local(FREE_PORT))


def confined(tap, trial):
    """Programs without the shim, moved into the range by the node."""
    for family in FAMILIES:
        works(tap, trial, "pod-c", "host-a", HOST_SERVICE, POD_PORTS,
              source(trial, "pod-c", family), shim=False, family=family)


# ---- the cases: a network each ----


def snapshot(trial):
    return trial.on_all(lambda name: state.of_machine(trial[name]))


def case_story(tap):
    """Everything, with the CNI that is the hardest."""
    with Trial(Kind(cni="random-fully"), Wish(snat="keep")) as trial:
        before = snapshot(trial)
        problem(tap, trial)
        problem_moved(tap, trial)
        problem_found(tap, trial)
        apply_all(tap, trial)
        kept(tap, trial)
        control_plane(tap, trial)
        both_ways(tap, trial)
        closed(tap, trial)
        neighbours(tap, trial)
        apply_again(tap, trial)
        restart(tap, trial)
        check_status(tap, trial, "after a restart")
        both_ways(tap, trial, ("curl",))
        closed(tap, trial)
        undo_all(tap, trial, before)


def case_stateless(tap):
    """Mirrored rules on a gateway that tracks nothing and did not forward; no masquerading."""
    with Trial(Kind(cni="random-fully", untracked=True, forwarding=False),
               Wish(snat="none", stateful="no")) as trial:
        before = snapshot(trial)
        apply_all(tap, trial)
        both_ways(tap, trial)
        closed(tap, trial)
        all_ports_each(tap, trial)
        neighbours(tap, trial)
        nothing_tracked(tap, trial)
        undo_all(tap, trial, before)


def case_legacy(tap):
    """The other backend of iptables, and all programs of pods confined."""
    with Trial(Kind(cni="to-ports", iptables="legacy"),
               Wish(snat="confine", iptables="legacy")) as trial:
        before = snapshot(trial)
        problem(tap, trial)
        problem_moved(tap, trial)
        apply_all(tap, trial)
        kept(tap, trial)
        both_ways(tap, trial, ("curl",))
        confined(tap, trial)
        closed(tap, trial)
        neighbours(tap, trial)
        undo_all(tap, trial, before)


def case_docker(tap):
    """Docker owns FORWARD on the gateway; the CNI keeps ports as long as they are free."""
    with Trial(Kind(cni="plain", firewall="docker"), Wish(snat="keep")) as trial:
        before = snapshot(trial)
        apply_all(tap, trial)
        rules = trial["gateway"].must(["iptables-nft-save", "-t", "filter"])
        tap.point("-A DOCKER-USER" in rules and
                  not re.search("^-A FORWARD .*FIXPORT", rules, re.M),
                  "the jump to our chain is in DOCKER-USER", rules)
        both_ways(tap, trial, ("curl",))
        closed(tap, trial)
        undo_all(tap, trial, before)


# What dockerd does to FORWARD when it starts: DOCKER-USER is kept, and its jump comes to the top.
DOCKERD = """
-D FORWARD -j DOCKER-USER
-N DOCKER-FORWARD
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-I FORWARD -j DOCKER-FORWARD
-I FORWARD -j DOCKER-USER
-P FORWARD DROP
"""


def firewall(trial, lines):
    for tool in ("iptables-nft", "ip6tables-nft"):
        for line in lines.strip().splitlines():
            trial["gateway"].must([tool, *line.split()])


def case_docker_late(tap):
    """The machines start anew, and on the gateway boot is there before Docker."""
    with Trial(Kind(cni="plain", firewall="docker"), Wish(snat="keep")) as trial:
        apply_all(tap, trial)
        trial.reboot()
        firewall(trial, "-P FORWARD ACCEPT\n-F\n-X")
        for computer in trial:
            done = trial.boot(computer.name)
            tap.point(done.returncode == 0, f"boot on {computer.name}, Docker has not come",
                      done.stdout, done.stderr)
        both_ways(tap, trial, ("curl",))
        closed(tap, trial)
        firewall(trial, DOCKERD)
        check_status(tap, trial, "when Docker has come")
        both_ways(tap, trial, ("curl",))
        closed(tap, trial)
        done = trial.setup("gateway", "undo")
        rules = trial["gateway"].must(["iptables-nft-save", "-t", "filter"])
        docker = "\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n"
        tap.point(done.returncode == 0 and docker in rules and "FIXPORT" not in rules,
                  "undo leaves Docker's chains, and no other", done.stdout, done.stderr, rules)


def case_plain(tap):
    """What plain masquerading does to two pods, with and without fixport."""
    with Trial(Kind(cni="plain"), Wish(snat="confine", exclusive="yes")) as trial:
        before = snapshot(trial)
        problem_moved(tap, trial)
        apply_all(tap, trial)
        kept(tap, trial)
        both_ways(tap, trial, ("curl",))
        confined(tap, trial)
        neighbours(tap, trial)
        undo_all(tap, trial, before)


def case_confirm(tap):
    """The administrator sits at host-b and has an ssh to node1 through the gateway. An exclusive
    firewall cuts it; he cannot confirm, and it comes back."""
    with Trial(Kind(), Wish(exclusive="yes")) as trial:
        before = state.of_machine(trial["gateway"])
        done = trial.setup("gateway", "apply", "--confirm", "10")
        cut = trial.ask("host-b", "node1", SSH, shim=False, options=IMPATIENT)
        tap.point(not cut, "an apply with --confirm cut the administrator's connection", cut,
                  done.stdout, done.stderr)
        back = wait_for(lambda: trial.ask("host-b", "node1", SSH, shim=False, options=IMPATIENT))
        tap.point(back, "without confirm it comes back by itself", back)
        changed = wait_for_equal(trial["gateway"], before)
        tap.point(not changed, "and everything else is as before, too", *changed)
        done = trial.setup("gateway", "apply", "--confirm", "60")
        tap.point(done.returncode == 0, "apply with --confirm", done.stdout, done.stderr)
        done = trial.setup("gateway", "confirm")
        tap.point(done.returncode == 0, "confirm in time", done.stdout, done.stderr)
        done = trial.setup("gateway", "status")
        tap.point(done.returncode == 0, "what was confirmed stays", done.stdout, done.stderr)
        done = trial.setup("gateway", "undo")
        changed = state.difference(before, state.of_machine(trial["gateway"]))
        tap.point(done.returncode == 0 and not changed, "and can be undone", done.stdout,
                  done.stderr, *changed)


def case_flat(tap):
    """One wire: what keeps the traffic on its way through the gateway are routes, on nodes for what
    is steered, and that nobody is told of a shorter one."""
    with Trial(Kind(flat=True), Wish(snat="none", address=True)) as trial:
        before = snapshot(trial)
        apply_all(tap, trial)
        both_ways(tap, trial, ("curl",))
        closed(tap, trial)
        for where, to, by in (("host-a", "pod-c", None), ("node1", "host-a", "pod-c")):
            for family in FAMILIES:
                steered = ["from", STATIONS[by].address(family), "iif", "cni0", "mark",
                           "0x2000"] if by else []
                route = trial[where].must(["ip", "route", "get", STATIONS[to].address(family),
                                           *steered])
                tap.point(STATIONS["gateway"].address(family) in route,
                          f"{where} still sends to {to} through the gateway (IPv{family})", route)
        undo_all(tap, trial, before)


def case_node_gateway(tap):
    """The gateway is a node itself, and has a pod."""
    with Trial(Kind(node_gateway=True), Wish(node_gateway=True, address=True, snat="none")) as trial:
        before = snapshot(trial)
        apply_all(tap, trial)
        both_ways(tap, trial, ("curl",))
        for family in FAMILIES:
            works(tap, trial, "pod-b", "host-a", HOST_SERVICE, POD_PORTS,
                  source(trial, "pod-b", family), family=family)
            works(tap, trial, "host-a", "pod-b", POD_SERVICE, HOST_PORTS,
                  STATIONS["host-a"].address(family), family=family)
        closed(tap, trial)
        undo_all(tap, trial, before)


def wait_for(condition, seconds=30):
    """Return: the first good answer, or the last one when the time is over."""
    limit = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < limit:
        time.sleep(0.05)
    return answer


def wait_for_equal(computer, before):
    changed = []

    def equal():
        changed[:] = state.difference(before, state.of_machine(computer))
        return not changed
    wait_for(equal)
    return changed


CASES = {name[5:]: function for name, function in list(globals().items())
         if name.startswith("case_")}
CASES.update(discovery.CASES)
CASES.update(probe.CASES)
CASES.update(matrix.CASES)


def main():
    tap = fptest.Tap()
    why = impossible()
    if why:
        tap.cannot("the lab", why)
        tap.end()
    machine.isolate()
    for name in sys.argv[1:] or CASES:
        began = time.monotonic()
        try:
            CASES[name](tap)
        except machine.Failed as failure:
            tap.point(False, f"case {name} could be tried to its end", failure)
        print(f"# {name}: {time.monotonic() - began:.1f} s", flush=True)
    tap.end()


if __name__ == "__main__":
    main()
