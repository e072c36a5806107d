#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""doctor against the packets: rule sets in the forms that real machines have (rules/*.rules), each on
a machine of a site in namespaces. The connections that the configuration promises are really made and
their fate is recorded; then doctor looks at the machine, which it must leave as it was, and has to say
the same: nothing if all go as promised, else a finding, unless the rule is one of those that it says
could not be judged.

    FIXPORT_BUILD=build tests/doctor/agreement.py [--table] [--all] [PART-OF-A-NAME...]
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib"), os.path.join(HERE, "..", "lab")]
import corpus  # noqa: E402
import fptest  # noqa: E402
import ground  # noqa: E402
import machine  # noqa: E402
from trial import impossible  # noqa: E402

SITES_AT_ONCE = 10  # most of the time is waiting for what is lost
CASES_OF_A_SITE = 28


BY_NO_RULE = ("connections-let-through", "address-changed")  # what no rule did, but should have
NOTHING_PLAYED = {"id": "nothing-played", "severity": "error", "what": "doctor tried nothing"}


@dataclass
class Said:
    """What doctor said of a machine."""

    findings: list
    played: list = field(default_factory=list)
    unjudged: list = field(default_factory=list)


def said(done):
    """doctor's JSON, the one place that knows its form."""
    if done.returncode not in (0, 2):
        raise machine.Failed(f"doctor: exit status {done.returncode}: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    if isinstance(found, list):
        return Said(found)
    if not any(row["tries"] for row in found["played"]):
        found["findings"].append(NOTHING_PLAYED)
    return Said(found["findings"], found["played"], found["not-judged"])


def alarms(findings, usual):
    """What is found here and not on the machine without the rules."""
    return [finding for finding in findings if finding["severity"] == "error" and
            (finding["id"], finding["what"]) not in usual]


@dataclass
class Outcome:
    """Of one case."""

    case: corpus.Case
    fate: list = field(default_factory=list)  # what did not go as promised
    alarms: list = field(default_factory=list)
    unjudged: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    skipped: str = ""
    failed: str = ""  # could not be tried
    seconds: float = 0

    def excused(self):
        """Whether doctor says that it cannot judge the rule."""
        text = " ".join(f"{note['what']} {note.get('line') or ''}" for note in self.unjudged)
        return bool(self.case.unjudged) and self.case.unjudged in text

    def agrees(self):
        return bool(self.fate) == bool(self.alarms) or self.excused()

    def blames(self):
        """Whether the line that did it is named; None: the case does not say."""
        ended = [f for f in self.alarms if f["id"] not in BY_NO_RULE]
        if not self.fate or not ended or not self.case.guilty:
            return None
        text = "\n".join(f"{f['what']} {f.get('line') or ''}" for f in ended)
        return any(part in text for part in self.case.guilty)

    def row(self):
        reality = f"{len(self.fate)} fail" if self.fate else "all pass"
        doctor = ", ".join(sorted({f["id"] for f in self.alarms})) or "nothing"
        if self.excused():
            doctor += " (not judged)"
        blame = {True: "yes", False: "NO", None: ""}[self.blames()]
        verdict = self.skipped or self.failed.split("\n")[0] or ("yes" if self.agrees() else "NO")
        return f"| {self.case.title()} | {self.case.role} | {reality} | {doctor} | {blame} | {verdict} |"


class Bench:
    """The cases of one kind of machine, in one site."""

    def __init__(self, role, cases, tell):
        self.role = role
        self.tell = tell
        self.after = [case for case in cases if case.order == "after"]
        self.before = [case for case in cases if case.order == "before"]
        self.usual = set()

    def run(self):
        with ground.Ground(self.role) as site:
            site.change(site.target.machine, "apply")
            applied = site._rules()
            nothing = Outcome(corpus.Case("nobody's rules", self.role, "nft", "after"))
            first = said(ground.doctor(site))
            self.usual = {(f["id"], f["what"]) for f in first.findings
                          if f["id"] in ("no-systemd", "library-missing")}  # true, in a lab
            self._judge(site, nothing)
            self.tell(nothing)
            for case in sorted(self.after, key=lambda case: case.backend, reverse=True):
                self._case(site, case, applied)
            if not self.before:
                return
            site.change(site.target.machine, "undo")
            for case in sorted(self.before, key=lambda case: case.backend, reverse=True):
                self._case(site, case, site.bare)

    def _case(self, site, case, rules):
        outcome = Outcome(case)
        began = time.monotonic()
        try:
            outcome.skipped = site.load(case) or ""
            if not outcome.skipped:
                if case.order == "before":
                    site.change(site.target.machine, "apply")
                self._judge(site, outcome)
        except machine.Failed as failure:
            outcome.failed = str(failure)
        if case.order == "before":
            site.setup(site.target.machine, "undo")
        site.reset(rules, case)
        outcome.seconds = time.monotonic() - began
        self.tell(outcome)

    def _judge(self, site, outcome):
        outcome.fate = site.fate()
        before = site.look()
        it = said(ground.doctor(site))
        after = site.look()
        if before != after:
            old, new = before.splitlines(), after.splitlines()
            outcome.changed = [f"-{line}" for line in old if line not in new] + \
                [f"+{line}" for line in new if line not in old]
        outcome.alarms = alarms(it.findings, self.usual)
        outcome.unjudged = it.unjudged


def parts(cases):
    """Cases for one site each; those that are loaded first together, so few sites are set up twice."""
    cases = sorted(cases, key=lambda case: case.order)
    count = -(-len(cases) // CASES_OF_A_SITE)
    return [cases[len(cases) * i // count:len(cases) * (i + 1) // count] for i in range(count)]


def tell(tap, outcome, outcomes, lock):
    with lock:
        outcomes.append(outcome)
        name = f"agrees: {outcome.case.title()}, on a {outcome.case.role}"
        if outcome.skipped:
            tap.skip(name, outcome.skipped)
            return
        good = not outcome.failed and outcome.agrees() and not outcome.changed and \
            outcome.blames() is not False
        why = []
        if not good:
            why = [f"packets: {line}" for line in outcome.fate or ["all as promised"]][:8]
            why += [f"doctor: {f['id']}: {f['what']}: {f.get('line')}" for f in outcome.alarms] or \
                ["doctor: nothing"]
            why += [f"not judged: {note}" for note in outcome.unjudged]
            why += [f"changed: {line}" for line in outcome.changed]
            why += [outcome.failed]
        tap.point(good, name, *why)


def table(outcomes):
    print("| rules | on | packets | doctor | names the line | agree |\n"
          "| --- | --- | --- | --- | --- | --- |")
    for outcome in sorted(outcomes, key=lambda o: (o.case.role, o.case.name)):
        print(outcome.row())
    for role in ground.TARGETS:
        mine = [o for o in outcomes if o.case.role == role and not o.skipped and not o.failed]
        wrong = [o for o in mine if not o.agrees()]
        silent = sum(bool(o.fate) for o in wrong)
        print(f"{role}: {len(mine)} cases, {sum(bool(o.fate) for o in mine)} with lost connections; wrong: "
              f"{silent} by silence, {len(wrong) - silent} by false alarm")


def main():
    tap = fptest.Tap()
    why = impossible()
    if why:
        tap.cannot("doctor against the packets", why)
        tap.end()
    machine.isolate()
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    cases = corpus.cases(names, "--all" in sys.argv)
    outcomes, lock = [], threading.Lock()
    benches = [Bench(role, part, lambda outcome: tell(tap, outcome, outcomes, lock))
               for role in ground.TARGETS for part in parts([c for c in cases if c.role == role])]
    began = time.monotonic()
    with ThreadPoolExecutor(SITES_AT_ONCE) as threads:
        for bench, future in [(bench, threads.submit(bench.run)) for bench in benches]:
            try:
                future.result()
            except machine.Failed as failure:
                tap.point(False, f"the site of a {bench.role} could be made", failure)
    if "--table" in sys.argv:
        table([o for o in outcomes if o.case.text])
    print(f"# {len(cases)} cases: {time.monotonic() - began:.0f} s", flush=True)
    tap.end()


if __name__ == "__main__":
    main()
