# SPDX-License-Identifier: MIT
"""Starting programs so that none outlives its case.

Servers leave their process group and their parent on purpose (postgres, sshd and master-worker
proxies all do), so neither is enough to find them again. This process makes itself the reaper of
its orphans: whatever a case leaves behind becomes a child of ours and is ended by
end_descendants().
"""

import ctypes
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from settings import TIMEOUT

PR_SET_CHILD_SUBREAPER = 36


class Failure(AssertionError):
    """A test point's reason for failing: its text is shown to the person."""


@dataclass
class Result:
    status: int
    out: str
    err: str


def adopt_orphans():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _stat(pid):
    """Return: (state, parent) of process @pid. Raises OSError if there is none."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def children(pid):
    """Return: the pids of the children of @pid, running or dead but not waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if _stat(entry.name)[1] == pid:
                    found.append(int(entry.name))
    return found


def is_dead(pid):
    """Whether @pid is gone, or dead and not waited for."""
    try:
        return _stat(pid)[0] in "ZX"
    except OSError:
        return True


def end_descendants():
    """End every process that was started here and is still alive, however it is related by now."""
    while left := children(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)  # its children are ours from here on: hence the loop


def wait_until(ready, what, timeout=TIMEOUT):
    """Poll @ready until it returns something true.

    Return: what it returned. Raises Failure naming @what when @timeout seconds have passed.
    """
    end = time.monotonic() + timeout
    while not (value := ready()):
        if time.monotonic() > end:
            raise Failure(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)  # the pace of polling, not a guess at how long it takes
    return value


def run(argv, env, *, stdin="", stdin_open=False, cwd=None, timeout=TIMEOUT):
    """Run a program to its end.

    @stdin_open: its standard input never ends; some programs take the end as an order to stop.
    """
    argv = [str(arg) for arg in argv]
    held = os.pipe() if stdin_open else None
    try:
        done = subprocess.run(
            argv,
            env=env,
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            start_new_session=True,
            **({"stdin": held[0]} if held else {"input": stdin.encode()}),
        )
    except subprocess.TimeoutExpired as expired:
        said = ((expired.stdout or b"") + (expired.stderr or b"")).decode(errors="replace")
        raise Failure(f"no end after {timeout} s: {' '.join(argv)}\n{said}") from None
    finally:
        for fd in held or ():
            os.close(fd)
    return Result(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


class Daemon:
    """A server process, running for as long as the with block."""

    def __init__(self, argv, env, log, *, ready, stop=signal.SIGTERM, **popen):
        self.argv = [str(arg) for arg in argv]
        self.log = Path(log)
        self.ready = ready
        self.stop = stop
        self.popen = dict(env=env, stdin=subprocess.DEVNULL, start_new_session=True, **popen)
        self.process = None

    def __enter__(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, **self.popen)
        try:
            wait_until(self._is_ready, f"{self.argv[0]} to serve")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failure(
                f"{' '.join(self.argv)} ended with {self.process.returncode}:\n{self.said()}"
            )
        return self.ready()

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        return self.log.read_text(errors="replace")[-4000:]

    def signal(self, number):
        self.process.send_signal(number)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(self.stop)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
