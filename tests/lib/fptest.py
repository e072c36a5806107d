# SPDX-License-Identifier: MIT
"""What the Python tests share: TAP output, and where the things under test are.

FIXPORT_BUILD         top of the build tree
FIXPORT_MUST_WORK     1: what cannot run here is a failure instead of a skip
FIXPORT_TEST_PRELOAD  libraries to load beside the shim (a sanitizer's runtime)
"""

import ctypes
import os
import subprocess
import sys
import traceback

BUILD = os.path.abspath(os.environ.get("FIXPORT_BUILD", "build"))
SHIM = os.path.join(BUILD, "shim", "libfixport.so")
POOL_TOOL = os.path.join(BUILD, "tools", "fixport-pool")
RUN_TOOL = os.path.join(BUILD, "tools", "fixport-run")
MUST_WORK = os.environ.get("FIXPORT_MUST_WORK") == "1"
BEFORE = os.environ.get("FIXPORT_TEST_PRELOAD", "").split()
# Address sanitizer insists on being the first. What thread sanitizer calls itself, sigaction() above
# all, must not come to the shim, which is instrumented, before it has begun.
PRELOAD = ":".join([SHIM, *BEFORE] if any("libtsan" in name for name in BEFORE) else [*BEFORE, SHIM])


def program(*parts):
    """A program of the tests, in the build tree."""
    return os.path.join(BUILD, "tests", *parts)


def environment(**more):
    """This environment with the shim in it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FIXPORT_")}
    return dict(clean, LD_PRELOAD=PRELOAD, **more)


def can_make_netns(*options):
    """@options: of unshare(1), besides --net."""
    return subprocess.run(["unshare", "--net", *options, "true"], capture_output=True, check=False).returncode == 0


def in_netns(name, *argv):
    """A command line that runs in a namespace of "ip netns add". "ip netns exec" would make a mount
    namespace, too, which cannot be done where the root is no mount, as in a chroot."""
    return ["nsenter", f"--net=/var/run/netns/{name}", *argv]


def in_own_network(user=False):
    """Starts the test again in a network namespace of its own, where that is allowed, so that what
    other tests left behind (TIME_WAIT lasts a minute) does not matter. @user: for an ordinary user in
    a user namespace, as its root."""
    if os.environ.get("FIXPORT_TEST_OWN_NETWORK") == "1":
        return
    options = ["--user", "--map-root-user"] if user and os.getuid() != 0 else []
    if can_make_netns(*options):
        os.environ["FIXPORT_TEST_OWN_NETWORK"] = "1"
        argv = ["unshare", "--net", *options, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
        os.execvp(argv[0], argv)


def new_network(*kept):
    """This thread, and what it starts from now on, is in a network namespace of its own, in which nothing
    has had a port yet. @kept: files of settings that are there as they are here."""
    values = {}
    for path in kept:
        with open(path, encoding="ascii") as file:
            values[path] = file.read()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path, value in values.items():
        with open(path, "w", encoding="ascii") as file:
            file.write(value)


class Tap:
    """The Test Anything Protocol; the plan comes at the end. An exception that nobody catches fails the
    test with its words, and ends it with no plan."""

    def __init__(self):
        self.count = 0
        self.failed = 0
        sys.excepthook = self._bail_out

    @staticmethod
    def _line(text):
        print(text, flush=True)

    def _bail_out(self, kind, error, trace):
        self.point(False, "the test comes to its end", "".join(traceback.format_exception(kind, error, trace)))
        self._line(f"Bail out! {kind.__name__}")

    def point(self, good, name, *diagnostics):
        self.count += 1
        self.failed += not good
        self._line(f"{'ok' if good else 'not ok'} {self.count} - {name}")
        for text in diagnostics:
            for line in str(text).splitlines():
                self._line(f"# {line}")
        return good

    def equal(self, got, expected, name):
        return self.point(got == expected, name,
                          *([] if got == expected else [f"got      {got!r}", f"expected {expected!r}"]))

    def cannot(self, name, why):
        """A point that cannot be tried here."""
        if MUST_WORK:
            self.point(False, name, why)
        else:
            self.skip(name, why)

    def skip(self, name, why):
        """The same, where no package or privilege would help."""
        self.count += 1
        self._line(f"ok {self.count} - {name} # SKIP {why}")

    def end(self):
        self._line(f"1..{self.count}")
        sys.exit(1 if self.failed else 0)
