#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Ports that run short: which is taken last, who waits for one and for how long, what is said.

As in test_bind.py each case is tried by range and by bind, with IPv4 and IPv6, and with a kernel that
has no IP_LOCAL_PORT_RANGE.
"""

import contextlib
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fptest  # noqa: E402
from test_bind import Ground, grounds, inside  # noqa: E402


def check_itself(tap):
    """A destination of the machine's own, at a port of the range, where nobody listens."""
    with grounds(count=20) as found:
        for name, me, one, _, ground in found:
            low = int(one.split("-")[0])
            ground.configure("reload", f"[rule all]\nto = 127.0.0.0/8, ::1\nports = {one}\n")
            got = ground.run(me, """
                made, errors = [], set()
                for turn in range(60):
                    for target in (LOW + turn % 20, LOW + 7):
                        s = tcp()
                        errors.add(code(s.connect, (ME, target)))
                        s.close()
                tell(sorted(errors, key=str))
            """.replace("LOW", str(low)))
            tap.equal(got, [["ECONNREFUSED"]], f"no connection to itself ({name})")


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    for check in (check_itself,):
        check(tap)
    tap.end()


if __name__ == "__main__":
    main()
