# SPDX-License-Identifier: MIT
"""What a run of these tests is told from outside, in one place.

FIXPORT_BUILD       top of the build tree; default: the source tree's top
FIXPORT_MUST_WORK   1: a missing program is a failure instead of a skip
FIXPORT_TEST_PORTS  the range to connect from, default 61100-61999
FIXPORT_TEST_PRELOAD  libraries to load before the shim (a sanitizer's runtime)

The default range lies above the kernel's own ephemeral range, so that a port in it can never be
luck. With a range inside the ephemeral range (50000-50899) the same assertions run against the
other way the shim may take; only "without the shim the port is outside" cannot be asserted then.
"""

import os
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
BUILD = Path(os.environ.get("FIXPORT_BUILD", HERE.parent.parent)).resolve()
SHIM = BUILD / "shim" / "libfixport.so"
MUST_WORK = os.environ.get("FIXPORT_MUST_WORK") == "1"

PORTS = os.environ.get("FIXPORT_TEST_PORTS", "61100-61999")
_range = re.fullmatch(r"(\d+)-(\d+)", PORTS)
if not _range:
    raise SystemExit(f"FIXPORT_TEST_PORTS={PORTS}: expected one range, such as 61100-61999")
LOW, HIGH = int(_range[1]), int(_range[2])

# Debian's own programs, not what else a person may have first in the path.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = "/usr/bin/python3"

# No wait is longer than this, whatever goes wrong. The longest real one is a JVM's start.
TIMEOUT = 60


def in_range(port):
    return LOW <= port <= HIGH


def overlaps_ephemeral():
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = map(int, file.read().split())
    return LOW <= high and low <= HIGH


def plain_env(home):
    """An environment that says nothing of proxies, certificates, locales or this user's habits."""
    return {"PATH": PATH, "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "dumb"}


def shim_env(pool=None):
    """What a user sets, and nothing else. Without @pool the shim makes one by itself."""
    before = os.environ.get("FIXPORT_TEST_PRELOAD", "").split()
    return {
        "LD_PRELOAD": ":".join([*before, str(SHIM)]),
        "FIXPORT_PORTS": PORTS,
        "FIXPORT_TO": "127.0.0.0/8,::1",
        **({"FIXPORT_POOL": str(pool)} if pool else {}),
    }
