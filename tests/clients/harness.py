# SPDX-License-Identifier: MIT
"""What a case of these tests is made of: a name, a context, and one question asked twice.

The question is always the same: does the program give the same result with the shim as without it,
and did the server see every connection come from the range? Case.same() asks it; what differs
between programs (how the server tells the ports, what varies in the output) is given to it.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import Failure, run
from servers import Peer
from settings import HIGH, LOW, PATH, PYTHON, in_range, overlaps_ephemeral, plain_env, shim_env

CASES = []

PT_INTERP = 3


class Skip(Exception):
    """A program that this case needs is not here."""


def case(name):
    """Register the decorated function as the case @name, which begins with its program's name."""

    def register(function):
        CASES.append((name, function))
        return function

    return register


def told(result):
    """The connections that the program itself told of, by lines "local ADDRESS PORT"."""
    return [
        Peer(address, int(port))
        for address, port in re.findall(r"^local (\S+) (\d+)$", result.out, re.M)
    ]


def without_ports(text):
    return re.sub(r"^(local \S+) \d+$", r"\1 PORT", text, flags=re.M)


def sorted_lines(text):
    return "".join(sorted(text.splitlines(keepends=True)))


class Case(contextlib.ExitStack):
    """What one case works with: a directory of its own, and servers that end with it."""

    def __init__(self, log=None):
        super().__init__()
        self.log = log
        self.notes = []

    def __enter__(self):
        self.tmp = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="fixport-clients-")))
        self.tmp.chmod(0o711)  # servers that give up root have to find their files
        return super().__enter__()

    # What there is

    @staticmethod
    def need(program):
        """Return: the path of @program. Raises Skip without it."""
        path = shutil.which(program, path=PATH)
        if not path:
            raise Skip(f"{program} is not installed")
        return path

    @staticmethod
    def is_static(program):
        """Whether @program (ELF, 64 bits) is linked statically: it asks for no dynamic linker."""
        head = Path(program).read_bytes()
        table, size, count = (
            int.from_bytes(head[at : at + length], sys.byteorder)
            for at, length in ((32, 8), (54, 2), (56, 2))
        )
        kinds = [
            int.from_bytes(head[at : at + 4], sys.byteorder)
            for at in range(table, table + size * count, size)
        ]
        return PT_INTERP not in kinds

    def env(self, shim, **more):
        """The environment of a program. @more wins, but for LD_PRELOAD, which is joined."""
        env = plain_env(self.tmp)
        if shim:
            env.update(shim_env(self.tmp / "pool"))
            if "LD_PRELOAD" in more:
                env["LD_PRELOAD"] += ":" + more.pop("LD_PRELOAD")
            if self.log:
                env["FIXPORT_LOG"] = str(self.log)
        return {**env, **more}

    def compile(self, source, *options):
        """Compile @source with gcc. Return: the path of the result."""
        made = self.tmp / source.stem
        command = [self.need("gcc"), "-o", made, source, *options]
        done = subprocess.run(
            command, env=self.env(False), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failure(f"{' '.join(map(str, command))}:\n{done.stderr}")
        return made

    # What must be so

    def note(self, text):
        self.notes.append(text)

    @staticmethod
    def equal(got, expected, what):
        if got != expected:
            raise Failure(
                f"{what}:\n  expected {repr(expected)[:2000]}\n  got      {repr(got)[:2000]}"
            )

    def from_range(self, peers, at_least=1):
        """All of @peers came from the range, and there were @at_least so many."""
        self._enough(peers, at_least)
        outside = [peer for peer in peers if not in_range(peer.port)]
        if outside:
            raise Failure(
                f"{len(outside)} of {len(peers)} connections came from outside {LOW}-{HIGH}: "
                f"{ports_of(outside)}"
            )
        self.note(f"{len(peers)} from the range: {ports_of(peers)}")

    def from_kernel(self, peers, at_least=1):
        """The kernel chose the ports of @peers.

        With a range that overlaps the kernel's own only their number can be asserted: to one
        destination the kernel goes from one port to the next, so all of them may be in the range.
        """
        self._enough(peers, at_least)
        inside = [peer for peer in peers if in_range(peer.port)]
        if inside and not overlaps_ephemeral():
            raise Failure(
                f"{len(inside)} of {len(peers)} connections came from {LOW}-{HIGH}: "
                f"{ports_of(inside)}"
            )
        self.note(f"{len(peers)} from the kernel's ports: {ports_of(peers)}")

    def judge_of(self, program):
        """What is to be asserted of @program, which Debian has in a static build too."""
        return self.from_kernel if self.is_static(program) else self.from_range

    @staticmethod
    def _enough(peers, at_least):
        if len(peers) < at_least:
            raise Failure(f"the server saw {len(peers)} connections, expected {at_least} or more")

    def quiet(self, result):
        """The shim says nothing unless there is a fault."""
        if "fixport" in result.err:
            raise Failure(f"the shim spoke:\n{result.err}")

    def run(self, argv, shim, env=None, **options):
        """Run a program once, in this case's directory."""
        return run(argv, self.env(shim, **env or {}), **{"cwd": self.tmp, **options})

    def same(
        self,
        argv,
        seen,
        *,
        status=0,
        normalise=None,
        judge=None,
        same_count=True,
        at_least=1,
        before=None,
        **options,
    ):
        """Run @argv without and with the shim and compare.

        @seen: given a result, returns the peers that the server saw (and forgets them).
        @status: the exit status that both must have; None for any, as long as it is the same.
        @normalise: takes out of the output what differs from run to run anyway.
        @judge: what the peers must satisfy; default: self.from_range.
        @same_count: both make the same number of connections.
        @before: called before each run, to lay out the same things.
        Return: both results, without the shim first.
        """
        normalise = normalise or (lambda text: text)
        results, peers = [], []
        for shim in (False, True):
            if before:
                before()
            result = self.run(argv, shim, **options)
            results.append(result)
            peers.append(seen(result))
            if status is not None and result.status != status:
                raise Failure(
                    f"{'with' if shim else 'without'} the shim: exit status {result.status}, "
                    f"expected {status}\n{result.out}{result.err}"
                )
        plain, shimmed = results
        self.equal(shimmed.status, plain.status, "exit status with the shim")
        self.equal(normalise(shimmed.out), normalise(plain.out), "output with the shim")
        self.quiet(shimmed)
        if same_count:
            self.equal(len(peers[1]), len(peers[0]), "number of connections with the shim")
            self.equal(
                addresses_of(peers[1]), addresses_of(peers[0]), "source addresses with the shim"
            )
        self.from_kernel(peers[0], at_least)
        (judge or self.from_range)(peers[1], at_least)
        return results

    def same_told(self, argv, server, at_least=1, judge=None, **options):
        """As same(), for a program that tells its own ports: the server saw the same."""

        def seen(result):
            peers = server.take()
            self.equal(
                sorted(told(result)), sorted(peers), "the program's own view of its connections"
            )
            return peers

        return self.same(
            argv, seen, normalise=without_ports, at_least=at_least, judge=judge, **options
        )

    def shim_works(self, server):
        """With @server, an Http: the shim does its work here. Otherwise "this program is not
        covered" would show nothing.
        """
        script = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
        result = self.run([PYTHON, "-c", script, server.url()], shim=True)
        self.equal(result.status, 0, f"exit status of a python client ({result.err})")
        self.from_range(server.take())


def addresses_of(peers):
    return sorted(peer.address for peer in peers)


def ports_of(peers):
    ports = [str(peer.port) for peer in peers]
    return " ".join(ports[:8] + ["..."] * (len(ports) > 8))
