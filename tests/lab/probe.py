# SPDX-License-Identifier: MIT
"""fixport-probe in the reference network: each verdict, caused by the very rules that cause it in
the field, on both families, with and without the shim. The listener captures, so that what did not
come back is told as well.

Every scene has a port of its own, so all scenes of a network are played at the same time.
"""

import json
import re
import signal
import sys
from dataclasses import dataclass

import machine
import siteconf
from network import CLUSTER, GATEWAY, Kind, Network, STATIONS
from trial import Trial, at_once, environment

RANGE = "61001-61999"
FAMILIES = (4, 6)
HOST, POD, NODE = STATIONS["host-a"], STATIONS["pod-c"], STATIONS["node1"]

# A port is open for requests to a host, and answers. Not for all from that port: a try of another
# scene may come from it by chance.
OPEN = """\
-I FORWARD 1 -p tcp -d {host} --dport {port} -j ACCEPT
-I FORWARD 1 -p tcp -s {host} --sport {port} -j ACCEPT
"""
SITE_PATH = "/etc/site.conf"
PROHIBITED = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}

HOLD = """\
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", int(sys.argv[3])))
s.connect((sys.argv[1], int(sys.argv[2])))
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Told:
    """What one side has to say: its verdict, and patterns of its other words."""

    verdict: str  # several with | between
    status: int = 2
    text: str = ""
    advice: str = ""
    cause: str = None


@dataclass(frozen=True)
class Scene:
    """A port, what stands in its way, and what both sides must say of it."""

    name: str
    port: int
    connect: Told
    listen: Told  # None: nothing, because nothing arrived
    rules: str = ""  # of the gateway's table filter
    host_rules: str = ""
    node_rules: str = ""  # of node1's table nat
    how: tuple = ("--capture",)  # options of listen; None: it is not started
    ports: str = RANGE  # None: not said
    shims: tuple = (False, True)
    held: bool = False  # another pod has a connection to it, from the first port of the range


def same(verdict, **more):
    told = Told(verdict, **more)
    return {"connect": told, "listen": told}


KEPT = r"^SNAT to {node}; the port is kept\."
ROUTE = r"^ip route replace {pod}/(32|128) via {node}$"

PLAIN = [
    Scene("SNAT, the port kept; answers outside of the range rejected", 60001,
          **same("snat-kept", status=0, text=KEPT + ".*outside of the range do not get through",
                 advice=ROUTE)),
    Scene("the same, and the listener sees nothing but connections", 60011, rules=OPEN, how=(),
          **same("snat-kept", status=2, text=KEPT + ".*get through, too")),
    Scene("the host has the site's configuration", 60021, rules=OPEN,
          how=("--capture", "--config", SITE_PATH),
          **same("snat-kept", status=2, text=r"^SNAT to {node} \(node node1\); the port is kept",
                 advice="^ip route replace (10.200.1.0/24|fd00:200:1::/64) via {gateway}$")),
    Scene("REJECT", 60002, Told("rejected", text=r"^REJECT by {gateway} \(icmp6? port unreachable"),
          None),
    Scene("REJECT as prohibited", 60003,
          Told("rejected", text=r"^REJECT by {gateway} \(icmp6? admin prohibited",
               advice=r"-I FORWARD 1 .*-d {host} --dport 60003.*-j ACCEPT"),
          None, rules="-I FORWARD 1 -p tcp --dport 60003 -j REJECT --reject-with {prohibited}\n"),
    Scene("REJECT by a RST looks like nothing listening", 60004, Told("refused"), None,
          rules="-I FORWARD 1 -p tcp --dport 60004 -j REJECT --reject-with tcp-reset\n"),
    Scene("REJECT by a RST, when other tries tell", 60014,
          **same("rejected", text="reset on the way"),
          rules=OPEN + "-I FORWARD 1 -p tcp --dport 60014 --sport 61001:61999 -j REJECT "
          "--reject-with tcp-reset\n"),
    Scene("everything dropped", 60005, Told("no-answer", text="cannot tell", advice="--capture"),
          None, rules="-I FORWARD 1 -p tcp --dport 60005 -j DROP\n"),
    Scene("the range dropped", 60006,
          **same("nothing-arrived", text="dropped on its way",
                 advice=r"tables -I FORWARD 1 -p tcp -d {host} --dport 60006 -s {node} "
                 "--sport 61001:61999 -j ACCEPT"),
          rules=OPEN + "-I FORWARD 1 -p tcp --dport 60006 --sport 61001:61999 -j DROP\n"),
    Scene("the answers dropped", 60007, Told("no-answer", text="cannot tell"),
          Told("answer-blocked", text="the port is kept; but the answer did not come back: "
               "something between drops it"),
          rules="-I FORWARD 1 -p tcp --dport 60007 -j ACCEPT\n"
          "-I FORWARD 1 -p tcp --sport 60007 -j DROP\n"),
    Scene("the answers to the range dropped", 60008,
          **same("answer-blocked", text="something between drops it",
                 advice=r"-I FORWARD 1 -p tcp -s {host} --sport 60008 -d {node} "
                 "--dport 61001:61999 -j ACCEPT"),
          rules=OPEN + "-I FORWARD 1 -p tcp --sport 60008 --dport 61001:61999 -j DROP\n"),
    Scene("the answers to the range rejected", 60018,
          **same("answer-blocked", text=r"REJECT by {gateway} \(icmp"),
          rules=OPEN + "-I FORWARD 1 -p tcp --sport 60018 --dport 61001:61999 -j REJECT\n"),
    Scene("the host's own firewall", 60010, Told("no-answer"),
          Told("answer-blocked", text="none left the host", advice="-I INPUT 1 .*--dport 60010"),
          rules=OPEN, host_rules="-A INPUT -p tcp --dport 60010 -j DROP\n"),
    Scene("nothing listens", 60012, Told("refused", text="nothing listens on port 60012"), None,
          rules=OPEN, how=None),
    Scene("nothing listens, and it is looked at", 60013, Told("refused"),
          Told("refused", text="nothing listens"), rules=OPEN, how=("--capture", "--no-listen")),
    # what Cilium's masquerading does
    Scene("only high ports are kept", 60022, shims=(False,), ports="20001-20999", rules=OPEN,
          node_rules="-I POSTROUTING 1 -p tcp --dport 60022 --sport 1024:32767 "
          "-j MASQUERADE --random-fully\n",
          **same("port-changed", cause="low-ports", text="below 32768 were changed: Cilium")),
    # from a port of its own: the kernel moves it for other destinations of the pod as well
    Scene("the port is taken by another pod", 60009,
          **same("port-changed", cause="taken", text="^SNAT to {node}.* 62001 became "),
          rules=OPEN, ports="62001", held=True),
]

RANDOM = [
    Scene("random-fully", 60009,
          **same("port-changed", cause="random", text="^SNAT to {node}.*--random-fully",
                 advice=r"^\[snat\]\nmode = keep   # none, where"), rules=OPEN),
    # by chance a port is one of those that the firewall lets through
    Scene("random-fully behind a firewall", 60001, Told("no-answer|port-changed"),
          Told("port-changed", cause="random", text="got no answer")),
]

TO_PORTS = [
    Scene("masquerading to a range", 60009,
          **same("port-changed", cause="range", text=r"some of 45\d\d\d-45\d\d\d: .*--to-ports"),
          rules=OPEN),
    # the shim's range is another one
    Scene("masquerading to the very range", 60019, ports="45000-45999", shims=(False,),
          **same("snat-kept", status=0, text="outside of the range are moved into it"),
          rules=OPEN),
]

NO_SNAT = [
    Scene("no SNAT, the host has no route to the pod", 60001, Told("no-answer"),
          Told("answer-blocked", text="the host has no route to {pod}",
               advice="^ip route replace {pod}/(32|128) via ")),
]

ROUTED = [
    Scene("no SNAT", 60001,
          **same("no-snat", status=0,
                 text="^No SNAT: it arrives from the pod's own address {pod}")),
]


class Stage(Network):
    """The network with a pool on the node, and no servers."""

    def _build(self):
        super()._build()
        self["node1"].run(["fixport-pool", "create", "--pool", "/run/fixport/pool", "-p", RANGE],
                          env=environment())

        with open(self["host-a"].path(SITE_PATH), "w", encoding="ascii") as file:
            file.write(siteconf.Wish(address=True).text())

    def prepare(self, scenes):
        for family in FAMILIES:
            for scene in scenes:
                rules = scene.rules.format(port=scene.port, prohibited=PROHIBITED[family],
                                           host=HOST.address(family))
                if rules:
                    self.restore(self["gateway"], family, "filter", rules)
                if scene.host_rules:
                    self.restore(self["host-a"], family, "filter", scene.host_rules)
                if scene.node_rules:
                    self.restore(self["node1"], family, "nat", scene.node_rules)

    def no_snat(self):
        for tool in ("iptables", "ip6tables"):
            self["node1"].must([f"{tool}-{self.kind.iptables}", "-w", "-t", "nat", "-F", "POSTROUTING"])


def listen(network, scene):
    """Return: a Popen that listens, or None."""
    if scene.how is None:
        return None
    listener = network["host-a"].start(["fixport-probe", "listen", "--port", str(scene.port),
                                        "--json", *scene.how], environment())
    first = listener.stdout.readline()
    if not first.startswith('{"listening"'):
        raise machine.Failed(f"fixport-probe listen: {first}{listener.stdout.read()}")
    return listener


def hold(network, scene, family):
    if not scene.held:
        return None
    holder = network["pod-c2"].start(
        [sys.executable, "-c", HOLD, HOST.address(family), str(scene.port),
         scene.ports.split("-", maxsplit=1)[0]], environment())
    first = holder.stdout.readline()
    if first != "held\n":
        raise machine.Failed(f"{scene.name}: no connection to hold: {first}"
                             f"{holder.communicate()[0]}")
    return holder


def connect(network, scene, family, shim):
    """Return: the exit status and the one line of JSON that the connector says."""
    ports = ["--ports", scene.ports] if scene.ports else []
    done = network["pod-c"].run(
        ["fixport-probe", "connect", HOST.address(family), "--port", str(scene.port), *ports,
         "--wait", "2", "--json"], env=environment(shim))
    if not done.stdout:
        raise machine.Failed(f"fixport-probe connect: {done.returncode} {done.stderr}")
    return done.returncode, json.loads(done.stdout)


def said(told, status, line, family):
    """What is wrong with what a side says, as a list of lines."""
    words = {"node": NODE.address(family), "host": HOST.address(family),
             "pod": POD.address(family), "gateway": GATEWAY.address(family)}
    words = {name: re.escape(text) for name, text in words.items()}
    text = " ".join([line["text"], *line["notes"]])
    advice = [item["line"] for item in line["advice"]]

    def find(pattern, where):
        for name, address in words.items():
            pattern = pattern.replace("{" + name + "}", address)
        return re.search(pattern, where, re.M | re.S)
    wrong = []
    if line["verdict"] not in told.verdict.split("|"):
        wrong.append(f"verdict {line['verdict']}, not {told.verdict}")
    if told.cause and line["cause"] != told.cause:
        wrong.append(f"cause {line['cause']}, not {told.cause}")
    if status != told.status or line["status"] != told.status:
        wrong.append(f"status {status} and {line['status']}, not {told.status}")
    if not find(told.text, text):
        wrong.append(f"not said: {told.text}")
    if told.advice and not any(find(told.advice, item) for item in advice):
        wrong.append(f"not advised: {told.advice}")
    return [*wrong, text, *advice, json.dumps(line)] if wrong else []


def play(stage, scene, shim):
    """Return: (what, wrong) for each thing that is to be right."""
    listener = listen(stage, scene)
    holders = [hold(stage, scene, family) for family in FAMILIES]
    sides = at_once(lambda family: connect(stage, scene, family, shim), FAMILIES)
    heard = []
    if listener:
        listener.send_signal(signal.SIGINT)
        heard = [json.loads(text) for text in listener.communicate()[0].splitlines()
                 if text.startswith("{")]
    for holder in filter(None, holders):
        holder.communicate()
    points = []
    for family, (status, line) in zip(FAMILIES, sides):
        points.append((f"the pod, IPv{family}", said(scene.connect, status, line, family) or
                       check_shim(line, shim)))
        lines = [item for item in heard if item.get("to_address") == HOST.address(family)]
        if scene.listen:
            wrong = [f"{len(lines)} results, not 1", *map(json.dumps, heard)] \
                if len(lines) != 1 else said(scene.listen, lines[0]["status"], lines[0], family)
            if not wrong and line["contact"] and line["text"] != lines[0]["text"]:
                wrong = ["the two sides say", line["text"], lines[0]["text"]]
        else:
            wrong = list(map(json.dumps, lines))
        points.append((f"the host, IPv{family}", wrong))
    return points


def check_shim(line, shim):
    """A program's port is the shim's if it is there, and only then."""
    ports = [item["own_port"] for item in line["tries"] if item["kind"] == "plain"]
    inside = [61001 <= port <= 61999 for port in ports if port]
    if line["shim"] == shim and all(good == shim for good in inside):
        return []
    return [f"shim {line['shim']}, ports {ports}"]


def play_all(tap, stage, scenes):
    for shim in (False, True):
        now = [scene for scene in scenes if shim in scene.shims]
        for scene, points in zip(now, at_once(lambda it, s=shim: play(stage, it, s), now)):
            for what, wrong in points:
                how = "with" if shim else "without"
                tap.point(not wrong, f"probe: {scene.name}: {what}, {how} the shim", *wrong)


def case_probe_plain(tap):
    with Stage(Kind(cni="plain")) as stage:
        stage.prepare(PLAIN)
        play_all(tap, stage, PLAIN)


def case_probe_changed(tap):
    for cni, scenes in (("random-fully", RANDOM), ("to-ports", TO_PORTS)):
        with Stage(Kind(cni=cni)) as stage:
            stage.prepare(scenes)
            play_all(tap, stage, scenes)


def case_probe_no_snat(tap):
    with Stage(Kind(cni="plain")) as stage:
        stage.no_snat()
        play_all(tap, stage, NO_SNAT)
        for family in FAMILIES:
            stage["host-a"].ip(f"route add {CLUSTER[family]} via {GATEWAY.address(family)}\n")
            stage["gateway"].ip(f"route add {CLUSTER[family]} via {NODE.address(family)}\n")
        play_all(tap, stage, ROUTED)


# On a port that the site opens for pods and on which nothing else listens. The ports are the
# pool's, the names the configuration's, which are on the machines.
BEFORE = [Scene("before fixport-setup", 60002, Told("rejected"), None, shims=(False,))]
APPLIED = {
    "keep": [Scene("after fixport-setup, port kept", 60002, ports=None, **same(
        "snat-kept", status=0,
        text=r"^SNAT to {node} \(node node1\); the port is kept.*not get through, as it should"))],
    "none": [Scene("after fixport-setup, no SNAT", 60002, ports=None, **same(
        "no-snat", status=0, text="own address {pod}.*do not get through, as it should"))],
    "confine": [Scene("after fixport-setup, confined", 60002, ports=None, **same(
        "snat-kept", status=0, text="outside of the range are moved into it"))],
}


def case_probe_applied(tap):
    """The hardest CNI; fixport-setup makes it right, and there is nothing left to do."""
    for snat, scenes in APPLIED.items():
        with Trial(Kind(cni="random-fully"), siteconf.Wish(snat=snat)) as trial:
            if snat == "keep":
                play_all(tap, trial, BEFORE)
            for name, done in trial.setup_all("apply").items():
                if done.returncode:
                    raise machine.Failed(f"apply on {name}: {done.stdout}{done.stderr}")
            play_all(tap, trial, scenes)


CASES = {name[5:]: function for name, function in list(globals().items())
         if name.startswith("case_")}
