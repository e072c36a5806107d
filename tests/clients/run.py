#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Real programs, as Debian ships them, with and without the shim.

    run.py             all cases
    run.py curl nc     the cases of these programs, or those whose names match a glob pattern
    run.py --list      their names
    run.py -v ...      also what the shim decided, and the ports that were seen

Every other test of the project uses sockets as its authors would; these use them as everybody else
does. Output is TAP. What can be set from outside stands in settings.py.
"""

import argparse
import fnmatch
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True  # the source tree stays as it is

# Each of these registers its cases.
import cases_databases  # noqa: F401
import cases_download  # noqa: F401
import cases_languages  # noqa: F401
import cases_proxies  # noqa: F401
import cases_remote  # noqa: F401
import cases_streams  # noqa: F401
import cases_uncovered  # noqa: F401
import network
from harness import CASES, Case, Failure, Skip
from processes import adopt_orphans, end_descendants
from settings import MUST_WORK, PORTS, SHIM
from tap import Tap, bail_out


def arguments():
    parser = argparse.ArgumentParser(description="Runs real programs with and without the shim.")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print ports, times and the shim's log"
    )
    parser.add_argument("name", nargs="*", help="a program's name, or a pattern for a case's name")
    return parser.parse_args()


def chosen(names):
    return [
        (name, function)
        for name, function in CASES
        if not names
        or any(name.split(":")[0] == wanted or fnmatch.fnmatch(name, wanted) for wanted in names)
    ]


def log_of(context):
    """Have the shim's decisions noted, whatever user a program becomes."""
    context.log = context.tmp / "shim.log"
    context.log.touch()
    context.log.chmod(0o666)
    context.callback(lambda: context.note(context.log.read_text()[-2000:]))


def run_case(tap, name, function, verbose):
    start = time.monotonic()
    context = Case()
    network.enter_new()
    try:
        with context:
            if verbose:
                log_of(context)
            function(context)
        tap.ok(name)
    except Skip as skip:
        if MUST_WORK:
            tap.not_ok(name, f"{skip}, and FIXPORT_MUST_WORK=1")
        else:
            tap.skip(name, str(skip))
    except Failure as failure:
        tap.not_ok(name, str(failure))
    except Exception:  # a fault of one case is no reason to keep silent on the others
        tap.not_ok(name, traceback.format_exc())
    finally:
        end_descendants()
    if verbose:
        for note in filter(None, context.notes):
            tap.comment(note)
        tap.comment(f"{time.monotonic() - start:.1f} s")


def main():
    wanted = arguments()
    cases = chosen(wanted.name)
    if wanted.list:
        print("\n".join(name for name, _ in cases))
        return 0
    if not cases:
        bail_out(f"no case is called {' or '.join(wanted.name)}; try --list")
    if not SHIM.is_file():
        bail_out(f"{SHIM} is not there: build it, or set FIXPORT_BUILD")
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # so that servers are ended on the way out
    adopt_orphans()
    tap = Tap(len(cases))
    tap.comment(f"connecting from {PORTS} with {SHIM}")
    for name, function in cases:
        run_case(tap, name, function, wanted.verbose)
    return tap.status()


if __name__ == "__main__":
    sys.exit(main())
