#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""CPython's own tests of its network modules give the same results with the shim as without it.

    cpython.py                  the modules of MODULES
    cpython.py test_socket      these

They ask more of sockets than we would think of: every errno, every option, inheritance, time
limits. What is compared is each single test's outcome, so it does not matter which of them fail or
are skipped on this machine, only that the shim changes nothing. Timing tests fail now and then by
themselves: those that differ are run again, alone, up to twice, and are named. Output is TAP, a
point per module. Both runs together take about four minutes on two cores.
"""

import argparse
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

sys.dont_write_bytecode = True  # the source tree stays as it is

import network
from processes import Failure, adopt_orphans, end_descendants, run
from settings import MUST_WORK, PORTS, PYTHON, SHIM, in_range, plain_env, shim_env
from tap import Tap, bail_out

# The longest first, so that two cores are busy to the end. The three that matter most are on top.
MODULES = [
    "test_subprocess",
    "test_socket",
    "test_asyncio",
    "test_asyncore",
    "test_ftplib",
    "test_httplib",
    "test_smtplib",
    "test_urllib2_localnet",
    "test_xmlrpc",
]

# What a module's tests are of, where newer Pythons do not have that any more.
GONE = {"test_asyncore": "asyncore"}

# These hang on some virtual machines, which answer on AF_VSOCK in their own way.
LEFT_OUT = "ThreadedVSOCK*"

TRIES = 3
# In seconds, for what hangs; a run takes two minutes, and on a machine with much to do ten.
RUN_LIMIT = 1800  # for one run of everything
FILE_LIMIT = 600  # for one file of tests, so that a hanging one costs its own results only


def python(arguments, shim, home, timeout):
    env = {**plain_env(home), "TMPDIR": str(home), **(shim_env(home / "pool") if shim else {})}
    return run([PYTHON, *arguments], env, cwd=home, timeout=timeout)


def files_of(module):
    """The test files of @module; a package's are run side by side. Empty if it is not installed."""
    script = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.find_spec('test.' + sys.argv[1])\n"
        "names = [sys.argv[1]] if spec else []\n"
        "for folder in spec and spec.submodule_search_locations or ():\n"
        "    names = ['test.%s.%s' % (sys.argv[1], path.stem)\n"
        "             for path in sorted(pathlib.Path(folder).glob('test_*.py'))]\n"
        "print(*names)\n"
    )
    return python(["-c", script, module], False, Path("/"), 60).out.split()


def is_gone(module):
    """Whether @module's tests are of something that this Python does not have."""
    find = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]))"
    return module in GONE and python(["-c", find, GONE[module]], False, Path("/"), 60).out == "None\n"


def module_of(test):
    """The module of a test's name, such as test.test_asyncio.test_tasks.Class.method."""
    return test.removeprefix("test.").split(".")[0]


def outcome(testcase):
    for kind in ("failure", "error", "skipped"):
        if testcase.find(kind) is not None:
            return kind
    return "passed"


def results(files, shim, home, only=()):
    """Run the tests in @files, or @only some of them. Return: {test: [outcome, ...]}."""
    report = home / "report.xml"
    report.unlink(missing_ok=True)
    matches = [word for test in only for word in ("-m", test)]
    said = python(
        [
            "-m",
            "test",
            "-j2",
            f"--timeout={FILE_LIMIT}",
            f"--junit-xml={report}",
            "-i",
            LEFT_OUT,
            *matches,
            *files,
        ],
        shim,
        home,
        RUN_LIMIT,
    )
    found = defaultdict(list)
    with suppress(FileNotFoundError, ElementTree.ParseError):
        for testcase in ElementTree.parse(report).iter("testcase"):
            found[testcase.get("name")].append(outcome(testcase))
    if not found:
        raise Failure(
            f"no results {'with' if shim else 'without'} the shim:\n{said.out}{said.err}"[-4000:]
        )
    return found


def differences(plain, shimmed):
    return {
        test: f"{' '.join(plain.get(test, ['missing']))} without the shim, "
        f"{' '.join(shimmed.get(test, ['missing']))} with it"
        for test in sorted(plain.keys() | shimmed.keys())
        if plain.get(test) != shimmed.get(test)
    }


def compare(files, home, tap):
    """Return: ({test: outcomes without the shim}, {test: how it differs})."""
    every = [file for names in files.values() for file in names]
    both = []
    for shim in (False, True):
        start = time.monotonic()
        both.append(results(every, shim, home))
        tap.comment(
            f"{len(both[-1])} tests {'with' if shim else 'without'} the shim "
            f"in {time.monotonic() - start:.0f} s"
        )
    differing = differences(*both)
    for number in range(2, TRIES + 1):
        if not differing:
            break
        for test, how in differing.items():
            tap.comment(f"run again: {test} ({how})")
        again = [
            file
            for module in {module_of(test) for test in differing}
            for file in files.get(module, ())
        ]
        differing = differences(
            results(again, False, home, differing), results(again, True, home, differing)
        )
        tap.comment(f"{len(differing)} of them differ in run {number}")
    return both[0], differing


def shim_works(home):
    """Without this, the same results would show nothing."""
    script = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    with socket.create_connection(server.getsockname()):\n"
        "        print(server.accept()[1][1])\n"
    )
    said = python(["-c", script], True, home, 60)
    return said.status == 0 and in_range(int(said.out))


def report(tap, files, plain, differing):
    counts = defaultdict(int)
    for test in plain:
        counts[module_of(test)] += 1
    for module, names in files.items():
        title = f"CPython's {module}: same results"
        theirs = {test: how for test, how in differing.items() if module_of(test) == module}
        if not names and not MUST_WORK:
            tap.skip(title, f"test.{module} is not installed")
        elif not counts[module]:
            tap.not_ok(title, "no test of it was run: is it installed?")
        elif theirs:
            tap.not_ok(title, "\n".join(f"{test}: {how}" for test, how in theirs.items()))
        else:
            tap.ok(f"{title} ({counts[module]} tests)")


def main():
    parser = argparse.ArgumentParser(description="Runs CPython's tests with and without the shim.")
    parser.add_argument("module", nargs="*", default=MODULES, help="such as test_socket")
    modules = [name for name in parser.parse_args().module if not is_gone(name)]
    if not SHIM.is_file():
        bail_out(f"{SHIM} is not there: build it, or set FIXPORT_BUILD")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_orphans()
    network.enter_new()
    files = {module: files_of(module) for module in modules}
    tap = Tap(len(files))
    tap.comment(f"connecting from {PORTS} with {SHIM}")
    with tempfile.TemporaryDirectory(prefix="fixport-cpython-") as name:
        home = Path(name)
        try:
            if not shim_works(home):
                bail_out("the shim does not work here: a connection came from outside its range")
            plain, differing = compare(files, home, tap) if any(files.values()) else ({}, {})
            report(tap, files, plain, differing)
        except Failure as failure:
            bail_out(str(failure).replace("\n", " | "))
        finally:
            end_descendants()
    return tap.status()


if __name__ == "__main__":
    sys.exit(main())
