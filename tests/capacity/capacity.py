#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How much a pool can do: as many connections as the kernel alone, for as long as it likes, whoever
dies, stops, reloads or scribbles meanwhile. Counts and invariants only, never times.

Each network namespace stands for a pod: they share one pool file, and have a server each at the
same addresses, so that they compete for the ports towards the same destinations. That no port is
given out twice is checked outside of the pool: by a ledger that all clients write (client.c), and
by the kernel.

    capacity.py [PART...]

FIXPORT_CAPACITY_LONG=1: 10,000 processes are killed, 1,000,000 connections made, and short ones for
a minute each; it takes half an hour. FIXPORT_CAPACITY_SEED repeats a storm. Prints TAP. Needs root,
for namespaces.
"""

import os
import random
import subprocess
import sys

import apart
import dying
import full
import many
import reload
import scribbler
import sharing
import short
import waiting
from place import fptest

PARTS = {"sharing": sharing.check, "apart": apart.check, "short": short.check, "waiting": waiting.check,
         "many": many.check, "dying": dying.check,
         "full": full.check, "reload": reload.check,
         "scribbler": scribbler.check}


def main():
    tap = fptest.Tap()
    wanted = sys.argv[1:] or list(PARTS)
    parts = dict(PARTS, **{full.INSIDE: full.check_inside})
    seed = os.environ.get("FIXPORT_CAPACITY_SEED", str(random.randrange(1 << 30)))
    random.seed(int(seed))
    print(f"# seed {seed}", flush=True)
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        tap.cannot("capacity", "making network namespaces needs root")
        wanted = []
    for name in wanted:
        parts[name](tap)
    tap.end()


if __name__ == "__main__":
    main()
