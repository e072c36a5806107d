#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""That the bench measures what it says: a few rows with few rounds, the table of what was promised
held against the numbers in the file, and the picture made from them. No time is asserted.

Prints TAP. Needs root, for namespaces.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = ["close", "full-0", "start"]
FACTS = ["fixport", "date", "rounds", "kernel", "cpu", "cores", "machine", "governor",
         "tcp_timestamps", "tcp_tw_reuse", "load before", "load after"]


def bench(*flags):
    return subprocess.run(["make", "-s", "-C", fptest.BUILD, "bench", "BENCH_FLAGS=" + " ".join(flags)],
                          text=True, capture_output=True, check=False, timeout=300)


def read(path):
    """Return: {fact: value}, {(row, way, measure): value}."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
    return facts, {(r["row"], r["way"], r["measure"]): float(r["value"]) for r in rows}


def promises(out):
    """[(row, way, bound's direction, bound, measured, verdict)] of the table for people."""
    table = out[out.index("\npromised "):]
    return re.findall(r"^(\S+) +(\S.*?) +([<>]=) +(\S+) +(\S+) +(kept|NOT) ", table, re.M)


def is_true(promise, figures):
    row, way, direction, bound, measured, verdict = promise
    near = [value for (r, w, _), value in figures.items()
            if (r, w) == (row, way) and abs(value - float(measured)) <= 1e-5 * abs(value)]
    kept = float(measured) <= float(bound) if direction == "<=" else float(measured) >= float(bound)
    return bool(near) and verdict == ("kept" if kept else "NOT")


def check_picture(tap, path):
    done = subprocess.run([sys.executable, os.path.join(HERE, "plot"), path], text=True,
                          capture_output=True, check=False)
    try:
        root = xml.etree.ElementTree.fromstring(done.stdout)
        words = [element.text for element in root.iter() if element.text]
    except xml.etree.ElementTree.ParseError as error:
        words = [str(error)]
    tap.point(done.returncode == 0 and {"fixport", "0 %"} <= set(words),
              "bench: the picture has a line for fixport and the shares that were measured", words,
              done.stderr)


def check(tap, path):
    done = bench("--quick", "--tsv", path, *ROWS)
    tap.equal((done.returncode, done.stderr), (0, ""), "bench: it runs")
    if done.returncode:
        return
    facts, figures = read(path)
    tap.equal([name for name in FACTS if not facts.get(name)], [],
              "bench: the file tells where and how it was measured")
    tap.equal({row for row, _, _ in figures}, set(ROWS),
              "bench: the rows that were asked for, and no others")
    found = promises(done.stdout)
    tap.point({"close", "start"} == {p[0] for p in found},
              "bench: what was promised of these rows stands beside what was measured", found)
    tap.equal([promise for promise in found if not is_true(promise, figures)], [],
              "bench: and both tables say the same")
    check_picture(tap, path)
    tap.point(bench("--quick", "--tsv", "/dev/full", "close").returncode != 0,
              "bench: a file that cannot be written is a failure")


def main():
    tap = fptest.Tap()
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        tap.cannot("bench", "making network namespaces needs root")
    else:
        with tempfile.TemporaryDirectory() as folder:
            check(tap, os.path.join(folder, "tsv"))
    tap.end()


if __name__ == "__main__":
    main()
