# SPDX-License-Identifier: MIT
"""The Test Anything Protocol, as far as these tests speak it.

Apart from run.py and cpython.py because both print it, and automake's TAP driver (and any CI)
counts the same points from both. Lines are flushed at once: a run that is killed still shows how
far it got.
"""

import sys


class Tap:
    def __init__(self, points):
        self.number = 0
        self.failed = 0
        self._print(f"1..{points}")

    @staticmethod
    def _print(line):
        print(line, file=sys.stdout, flush=True)

    def comment(self, text):
        for line in str(text).rstrip("\n").split("\n"):
            self._print(f"# {line}")

    def _point(self, word, name):
        self.number += 1
        self._print(f"{word} {self.number} - {name}")

    def ok(self, name):
        self._point("ok", name)

    def skip(self, name, reason):
        self._point("ok", f"{name} # SKIP {reason}")

    def not_ok(self, name, diagnostics):
        self.failed += 1
        self._point("not ok", name)
        self.comment(diagnostics)

    def status(self):
        """Return: the exit status of the whole run."""
        return 1 if self.failed else 0


def bail_out(reason):
    """Nothing can be tested: say why, in a way every TAP reader takes for a failure."""
    print(f"Bail out! {reason}", flush=True)
    sys.exit(1)
