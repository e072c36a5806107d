#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Nothing ends a program: not SIGBUS, whatever it has set, not a line that cannot be written; and what
leaves a connect in the middle takes nothing along.

FIXPORT_ENDS_ROUNDS  how often each kind of leaving is tried (300)
FIXPORT_TEST_SEED    of the moments (1)
"""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402
import hostile  # noqa: E402

ENDS = fptest.program("hostile", "ends")
ROUNDS = int(os.environ.get("FIXPORT_ENDS_ROUNDS", "300"))
NOWHERE = {"FIXPORT_POOL": "/nonexistent"}


def run(argv, env, **options):
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False, **options)


# ---- SIGBUS ----


def check_says(tap, server):
    """What a program sets for SIGBUS, and gets, is what it is without the library."""
    with hostile.pool_of(server) as pool:
        plain = run([ENDS, "says"], dict(os.environ))
        shimmed = run([ENDS, "says"], pool.environment)
        expected, got = plain.stdout.splitlines(), shimmed.stdout.splitlines()
        different = [f"{a} | {b}" for a, b in zip(expected, got) if a != b]
        tap.point(expected == got and len(got) > 200 and shimmed.returncode == plain.returncode == 0,
                  f"SIGBUS: {len(got)} answers, as without the library", *different[:20], shimmed.stderr)


def check_no_dlsym(tap, server, folder):
    """The library in a program that has no dlsym(), as without libdl before glibc 2.34."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    header, library = os.path.join(folder, "no-dlsym.h"), os.path.join(folder, "libfixport.so")
    with open(header, "w", encoding="ascii") as file:
        file.write("#pragma weak no_dlsym\n#define dlsym no_dlsym\n")
    files = [os.path.join(source, sub, name) for sub in ("pool", "shim")
             for name in os.listdir(os.path.join(source, sub)) if name.endswith(".c")]
    done = run(["cc", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-nostdlib", "-fno-stack-protector", "-D_GNU_SOURCE",
                "-U_FORTIFY_SOURCE", f"-I{source}/pool", "-include", header, "-include", f"{source}/shim/weak.h",
                f"-Wl,--version-script={source}/shim/libfixport.map", "-Wl,-Bsymbolic", "-o", library, *files],
               dict(os.environ))
    if done.returncode:
        tap.cannot("no dlsym()", "the library cannot be built here: " + done.stderr[-200:])
        return
    with hostile.pool_of(server) as pool:
        env = dict(pool.environment, LD_PRELOAD=library)
        tap.equal(run([ENDS, "says"], env).stdout, run([ENDS, "says"], dict(os.environ)).stdout,
                  "no dlsym(): SIGBUS is as without the library")
        done = run([ENDS, "dial", str(server.ports[0]), "100", str(hostile.LO), str(hostile.HI), "ppoll"], env)
        tap.point(done.returncode == 0 and done.stdout.endswith(" out 0\n") and not done.stdout.startswith("in 0"),
                  "no dlsym(): ports are the rule's", done.stdout, done.stderr)


DIALS = ["plain", "mask of a handler", "sigset", "sigset, hold", "sighold", "sigsetmask", "ignored", "its own handler",
         "once", "attribute", "sigsuspend", "ppoll", "pselect", "epoll_pwait", "raw"]


def check_dials(tap, server):
    """The shares are cut all the time."""
    with hostile.pool_of(server) as pool, hostile.attacking(pool, hostile.cut):
        ms = str(int(hostile.SECONDS * 1000))
        started = {kind: subprocess.Popen([ENDS, "dial", str(server.ports[0]), ms, str(hostile.LO), str(hostile.HI),
                                           kind], env=pool.environment, text=True, stdout=subprocess.PIPE)
                   for kind in DIALS}
        for kind, process in started.items():
            out = process.communicate(timeout=hostile.SECONDS * 10 + 60)[0]
            words = out.split()
            tap.point(process.returncode == 0 and len(words) == 4 and int(words[1]) > 0 and words[3] == "0",
                      f"cut, SIGBUS in {kind}: {out.strip()}", process.returncode)


def check_race(tap, server):
    """Four threads set handlers for SIGBUS: none is lost, and none has another one's mask or flags."""
    with hostile.pool_of(server) as pool, hostile.attacking(pool, hostile.cut):
        done = run([ENDS, "race", str(server.ports[0]), str(int(hostile.SECONDS * 1000))], pool.environment)
        tap.equal((done.stdout, done.returncode), ("lost 0 mixed 0\n", 0), f"cut, four threads set handlers: {done.stderr.strip()}")


def check_starts_blocked(tap, server):
    """Programs that start with SIGBUS blocked, or ignored."""
    with hostile.pool_of(server) as pool, hostile.attacking(pool, hostile.cut):
        ends = []
        for blocked in (signal.SIG_BLOCK, signal.SIG_UNBLOCK):
            def prepare(blocked=blocked):
                signal.pthread_sigmask(blocked, [signal.SIGBUS])
                if blocked == signal.SIG_UNBLOCK:
                    signal.signal(signal.SIGBUS, signal.SIG_IGN)
            end = time.monotonic() + hostile.SECONDS
            while time.monotonic() < end:
                ends.append(subprocess.run([ENDS, "dial", str(server.ports[0]), "1", "1", "65535", "plain"], check=False,
                                           env=pool.environment, preexec_fn=prepare, capture_output=True).returncode)
        tap.point(set(ends) == {0}, f"cut: {len(ends)} programs that start with SIGBUS blocked or ignored", set(ends))


# ---- lines ----

TALK = """
import os, resource, signal, socket, sys, threading
kind = sys.argv[2]
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
if kind == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU])
if kind == "own":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    signal.pthread_kill(threading.get_ident(), signal.SIGPIPE)
if sys.argv[3] == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
def dial():
    for _ in range(int(sys.argv[4])):
        try:
            socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
        except OSError:
            pass
threads = [threading.Thread(target=dial) for _ in range(8)]
for thread in threads:
    thread.start()
dial()
for thread in threads:
    thread.join()
sys.exit(10 + sum(1 << i for i, s in enumerate((signal.SIGPIPE, signal.SIGXFSZ)) if s in signal.sigpending()))
"""


def talk(server, kind, what, count, env, **options):
    """Return: a process that exits with 10 and no signal pending, 11 with its own SIGPIPE."""
    return subprocess.Popen([sys.executable, "-S", "-c", TALK, str(server.ports[0]), kind, what, str(count)], env=env,
                            **options)


def check_lines(tap, server, folder):
    """Pipes that are closed, limits on files."""
    for kind in ("plain", "blocked", "own"):
        for what in ("pipe", "size"):
            for log in ({}, {"FIXPORT_LOG": "stderr"}, {"FIXPORT_LOG": os.path.join(folder, "log")}):
                for pool in (NOWHERE, {"FIXPORT_PORTS": "50700-50719", "FIXPORT_TO": "127.0.0.1",
                                       "FIXPORT_POOL": os.path.join(folder, f"{kind}-{what}")}):
                    ends = os.pipe()
                    os.close(ends[0])
                    with open(os.path.join(folder, "err"), "wb") as file:
                        process = talk(server, kind, what, 5, fptest.environment(**pool, **log),
                                       stderr=ends[1] if what == "pipe" else file)
                    os.close(ends[1])
                    tap.equal(process.wait(timeout=60), 11 if kind == "own" else 10,
                              f"a line on a closed {what}, signals {kind}, {sorted(log.values())}, {sorted(pool)}")


def ends_in(process, most):
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=most)
    process.kill()
    process.wait()
    return "hangs"


def check_full(tap, server, folder):
    """Nobody reads what stderr, or the log, is."""
    def fill(fd):
        os.set_blocking(fd, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x")
        os.set_blocking(fd, True)

    for what in ("pipe", "terminal", "socket", "FIFO"):
        for full in (True, False):
            for log in ({}, {"FIXPORT_LOG": "stderr"}):
                if what == "pipe":
                    ends = os.pipe()
                elif what == "terminal":
                    ends = pty.openpty()
                elif what == "socket":
                    pair = hostile.socket.socketpair()
                    ends = [one.detach() for one in pair]
                else:
                    name = os.path.join(folder, "fifo")
                    with contextlib.suppress(FileExistsError):
                        os.mkfifo(name)
                    ends = (os.open(name, os.O_RDWR), os.open(name, os.O_RDWR))
                    log = {"FIXPORT_LOG": name} if log else log
                if full:
                    fill(ends[1])
                pool = {"FIXPORT_PORTS": "50720-50999", "FIXPORT_TO": "127.0.0.1",
                        "FIXPORT_POOL": os.path.join(folder, f"full-{what}-{full}")} if log else NOWHERE
                process = talk(server, "plain", "-", 200, fptest.environment(**pool, **log), stderr=ends[1])
                tap.equal(ends_in(process, 60), 10,
                          f"a {what} that is {'full' if full else 'filled'}, {'log' if log else 'a fault'}: goes on")
                for end in ends:
                    os.close(end)


def check_terminal(tap, server):
    """A background process of a terminal with tostop."""
    pid, master = pty.fork()
    if pid == 0:
        settings = termios.tcgetattr(0)
        settings[3] |= termios.TOSTOP
        termios.tcsetattr(0, termios.TCSANOW, settings)
        process = talk(server, "plain", "-", 5, fptest.environment(**NOWHERE, FIXPORT_LOG="stderr"),
                       preexec_fn=lambda: (signal.signal(signal.SIGTTOU, signal.SIG_DFL), os.setpgid(0, 0)))
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        os._exit(99 if os.WIFSTOPPED(status) else os.WEXITSTATUS(status))
    said = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 4096):
            said += chunk
    status = os.waitpid(pid, 0)[1]
    tap.point(os.waitstatus_to_exitcode(status) == 10 and b"fixport: /nonexistent" in said,
              "a line from the background of a terminal with tostop", status, said)
    os.close(master)


# ---- leaving ----

KINDS = ["longjmp", "handler", "fork in a handler", "cancel", "cancel at once", "thread exit", "fork",
         "fork beside a thread", "vfork", "clone", "clone with memory"]


def check_leaving(tap, server):
    """At random moments. Afterwards the program can have all ports, and so can the next one."""
    for ports, way in (("50300-50315", "by range"), ("61300-61315", "by bind")):
        for wait in ("fail", "wait 100 ms"):
            for kind in KINDS:
                with hostile.pool_of(server, ports=ports, exhausted=wait) as pool:
                    argv = [ENDS, "leave", str(server.ports[0]), str(ROUNDS), "16", kind, str(hostile.SEED)]
                    done = run(argv, pool.environment)
                    good = done.returncode == 0 and done.stdout == "held 16 descriptors 0 maps 0 mask 1\n"
                    tap.point(good and " 0 out" in done.stderr, f"{kind} ({way}, {wait}): leaves nothing", done.stdout, done.stderr,
                              done.returncode)
                    argv = [ENDS, "leave", str(server.ports[0]), "0", "16", "fork", "1"]
                    done = run(argv, pool.environment)
                    tap.point(done.stdout.startswith("held 16 "), f"{kind} ({way}, {wait}): and so has the next program",
                              done.stdout, done.stderr)


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    if os.geteuid() != 0:
        tap.cannot("attacks by another user", "only root can be one")
        tap.end()
    server = hostile.Server()
    checks = sys.argv[1:] or ["says", "no-dlsym", "dials", "race", "starts", "terminal", "lines", "full", "leaving"]
    with hostile.tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fixport-ends-") as folder:
        for name, check in (("says", check_says), ("dials", check_dials), ("race", check_race), ("starts", check_starts_blocked),
                            ("terminal", check_terminal), ("leaving", check_leaving)):
            if name in checks:
                check(tap, server)
        for name, check in (("no-dlsym", check_no_dlsym), ("lines", check_lines), ("full", check_full)):
            if name in checks:
                check(tap, server, folder)
    tap.end()


if __name__ == "__main__":
    main()
