#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""[setup] leave: what others set is not touched, and plan says what is needed there. And what apply
says of the other machines. The machine is that of test_setup.py.

    FIXPORT_BUILD=build tests/tools/test_leave.py [WORD...]   only the tests with WORD in their name
"""

import glob
import json
import os
import sys

import test_setup
from test_setup import read, run, write

SITE = test_setup.SITE.replace("[snat]\nmode = keep\n", "")
# Each word, and what of the machine shows that it is not there.
TRACES = {
    "routes": ("lookup 161", "proto 161", "rt_protos.d/fixport.conf"),
    "pool": ("run/fixport/pool",),
    "sysctl": ("ip_forward:1", "9010,62000-62999"),
    "iptables": ("FIXPORT-FORWARD",),
    "nft": ("table ip fixport",),
    "node-ports": ("service-node-port-range", "kube-apiserver.yaml.before"),
    "unit": ("fixport-setup.service",),
}


def leaving(machine, *words, name=None):
    """The site that leaves these to others, on every machine or on the one called @name."""
    section = f"[machine {name}]\nroles = node\n" if name else "[setup]\n"
    site = SITE if not name else SITE.replace("[setup]\n", f"{section}[setup]\n")
    if words:
        site = site.replace(section, f"{section}leave = {', '.join(words)}\n")
    write(machine.config, site)


def traces(test):
    """Which of TRACES there are."""
    lines = test_setup.differences(test.before, test.machine.state())
    return {word for word, signs in TRACES.items()
            if any(sign in line for sign in signs for line in lines if line.startswith("+")
                   and "journal.json" not in line)}


def test_each_word(test):
    machine = test.machine
    for word in TRACES:
        leaving(machine, word)
        plan = json.loads(machine("plan", "--json").stdout)
        test.tap.point(plan["left"] and all(left["wanted"] and left["why"] for left in plan["left"]),
                       f"leave = {word}: plan --json has what is needed", plan["left"])
        test.expect(machine("plan"), 2, f"leave = {word}: plan says so",
                    r"^# .* is left to others \(\[setup\] leave\)\. What is needed there, to .*:\n#     \S",
                    "stdout")
        test.expect(machine("apply"), 0, f"leave = {word}: apply", r"^Left to others: ", "stdout")
        test.tap.equal(traces(test), set(TRACES) - {word}, f"leave = {word}: all but that is there")
        test.expect(machine("status"), 0, f"leave = {word}: status")
        test.expect(machine("undo"), 0, f"leave = {word}: undo")
        test.unchanged(f"leave = {word}: after undo all is as before")
    leaving(machine, *TRACES)
    test.expect(machine("apply"), 0, "everything is left to others: apply")
    test.tap.equal(traces(test), set(), "nothing is there")
    machine("undo")


def test_handed_over(test):
    """What an earlier apply has made stays as it is, and is not ours any more."""
    machine = test.machine
    leaving(machine)
    test.expect(machine("apply"), 0, "apply of everything")
    was = machine.state()
    leaving(machine, "pool", "routes", "nft", "sysctl")
    test.expect(machine("plan"), 0, "some of it is left to others: plan says what becomes of it",
                r"note: pool /run/fixport/pool was applied, and is left to others from now on: it stays")
    test.expect(machine("apply"), 0, "apply")
    lines = [line for line in test_setup.differences(was, machine.state()) if "journal" not in line]
    test.tap.point(not lines, "nothing has changed", *lines)
    kept = {entry["type"] for entry in json.loads(read(machine.root + test_setup.JOURNAL))["journal"]
            ["entries"]}
    test.tap.equal(kept & {"pool", "routes", "rule", "nft", "sysctl"}, set(), "the journal forgets it")
    test.expect(machine("plan"), 0, "a second plan has nothing to say of that")
    test.tap.point("was applied, and is left" not in machine("plan").stderr, "nor says it again")
    run(["nft", "delete", "table", "ip", "fixport"])
    for name in glob.glob(machine.root + "/run/fixport/pool*"):
        os.unlink(name)
    test.expect(machine("status"), 0, "what others do with it is nothing to status")
    test.expect(machine("undo"), 0, "undo")
    test.tap.equal(traces(test) - {"nft"}, {"routes", "sysctl"}, "undo leaves what was handed over")
    leaving(machine)
    test.expect(machine("apply"), 0, "taken back: apply")
    test.expect(machine("undo", "--force"), 0, "undo")
    run(["sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"])


def test_one_machine(test):
    """[machine NAME] leave is for that machine; node-pool = no for nodes."""
    machine = test.machine
    name = os.uname().nodename
    leaving(machine, "routes", name=name)
    left = {left["type"] for left in json.loads(machine("plan", "--json").stdout)["left"]}
    test.tap.equal(left & {"routes", "rule", "pool"}, {"routes", "rule"}, "left on this machine")
    leaving(machine, "routes", name="another")
    test.tap.equal(json.loads(machine("plan", "--json").stdout)["left"], [], "left on another")
    write(machine.config, SITE.replace("[setup]\n", "[setup]\nnode-pool = no\n"))
    left = [left["type"] for left in json.loads(machine("plan", "--json").stdout)["left"]]
    test.tap.equal(left, ["pool"], "node-pool = no")


def test_bad_words(test):
    machine = test.machine
    for words, why in (("rutes", r'leave = "rutes": "rutes" is no thing to leave to others: allowed are'),
                       ("routes, routes", "given twice"), ("", "leave"), ("none", "allowed are routes")):
        leaving(machine, words)
        test.one_line(machine("plan"), f"leave = {words}", why)
    leaving(machine, "unit")
    test.one_line(machine("apply", "--confirm", "60"), "leave = unit: apply --confirm refuses",
                  r"leave = unit")


def test_elsewhere(test):
    """What this machine's part is not enough for."""
    machine = test.machine
    name = os.uname().nodename
    machine.roles = "node"
    for machines, said in (
            ("", r"the machine of \[gateway\] address \(gateway\), the hosts of \[hosts\] addresses"),
            (f"[machine gw]\nroles = gateway\n[machine {name}]\nroles = node\n[machine db]\n"
             "roles = host\n", r"once it is applied there, too: gw \(gateway\), db \(host\)\.$")):
        write(machine.config, machines + SITE)
        test.expect(machine("apply"), 0, "apply names the other machines", said, "stdout")
        test.expect(machine("apply"), 0, "a second one too", r"cannot be known from here", "stdout")
        elsewhere = json.loads(machine("apply", "--json").stdout)["elsewhere"]
        test.tap.point("(gateway)" in elsewhere and "node2" not in elsewhere, "and apply --json",
                       elsewhere)
    machine("undo")
    machine.roles = "gateway,node"
    write(machine.config, SITE)
    test.expect(machine("apply"), 0, "a gateway needs the other nodes", r"node2 \(node\)", "stdout")
    machine("undo")
    machine.roles = "control-plane"
    done = machine("apply")
    test.tap.point(done.returncode == 0 and "applied there" not in done.stdout,
                   "a control plane needs nobody", done.stdout)


if __name__ == "__main__":
    test_setup.main(globals(), SITE)
