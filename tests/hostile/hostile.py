#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a pod can write must not steer, crash, hang or starve another.

An attacker, an ordinary user who may write what all users of a pool may write (its shares), does
one thing for some seconds, while victims of several kinds connect: programs in C with and without a
handler for SIGBUS, Python, a JVM. None may end, leave from outside of its rule, bind where no rule
matches, or take longer than its budget.

  hostile.py [--minutes N] [ATTACK...]

--minutes N  each attack lasts N minutes; a table of figures is printed at the end
ATTACK       only those whose names contain one of these

FIXPORT_HOSTILE_SECONDS  how long each attack lasts (2)
FIXPORT_TEST_SEED        of what is written at random (1)
"""

import argparse
import contextlib
import glob
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
VICTIM = fptest.program("hostile", "victim")
SECONDS = float(os.environ.get("FIXPORT_HOSTILE_SECONDS", "2"))
SEED = int(os.environ.get("FIXPORT_TEST_SEED", "1"))
NOBODY = 65534
LO, HI = 50000, 50799
MEMORY = 65536  # KiB of a victim; a JVM is not asked
# ms of CPU in one connect: 10 of our own work, and a dump of the kernel's sockets. What the kernel does
# for others in an interrupt counts as the CPU time of whoever runs: on a busy machine 41 were seen.
BUDGET = 100

FIGURES = []  # attack, victim, what it printed

# pool/layout.h
PAGE, HOLDERS, HOLDER_BYTES = 4096, 1024, 128
WORDS_LEAST = PAGE + HOLDERS * HOLDER_BYTES + 2 * PAGE
USED, LETGO, RESTING, CLOSING = 1, 2, 3, 4

PYTHON = """
import socket, struct, sys, time
port, ms, lo, hi = map(int, sys.argv[1:5])
inside = outside = failed = 0
end = time.monotonic() + ms / 1e3
while time.monotonic() < end:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        s.connect(("127.0.0.1", port))
        good = lo <= s.getsockname()[1] <= hi
        inside, outside = inside + good, outside + (not good)
    except OSError:
        failed += 1
    s.close()
import resource
print("in", inside, "out", outside, "failed", failed, "longest 0 lost 0 memory",
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Server:
    """Accepts and closes, at two ports: the rules name the first. It is a process of its own, because its
    threads would be in the way of the test's fork()."""

    def __init__(self):
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        until, self.goes_on = os.pipe()
        if os.fork() == 0:
            os.close(self.goes_on)
            for listener in listeners:
                threading.Thread(target=self.serve, args=(listener,), daemon=True).start()
            os.read(until, 1)  # the test has ended, however that was
            os._exit(0)
        os.close(until)
        for listener in listeners:
            listener.close()

    @staticmethod
    def serve(listener):
        while True:
            with contextlib.suppress(OSError):
                listener.accept()[0].close()


class Pool:
    """One as root makes it for all users of the machine, its path open to them."""

    def __init__(self, folder, server, exhausted="fail", ports=f"{LO}-{HI}", quarantine=1, lanes=0):
        self.path = os.path.join(folder, "pool")
        self.range = ports.split("-")
        os.chmod(folder, 0o755)
        conf = os.path.join(folder, "conf")
        with open(conf, "w", encoding="ascii") as file:
            file.write(f"[pool]\nports = {ports}\nmode = 0666\nquarantine = {quarantine}\n"
                       + (f"lanes = {lanes}\n" if lanes else "") + "[rule all]\n"
                       f"to = 127.0.0.1:{server.ports[0]}\nwhen-exhausted = {exhausted}\n")
        self.conf = conf
        done = self.tool("create", "-c", conf)
        assert done.returncode == 0, done.stderr
        self.shares = glob.glob(self.path + ".*")[0]
        self.environment = fptest.environment(FIXPORT_POOL=self.path)

    def others(self):
        """Pools of other sizes, as files beside it."""
        for i, argv in enumerate((("-p", "1024-65535", "-t", "0.0.0.0/0"), ("-p", "22", "-t", "127.0.0.0/8"))):
            subprocess.run([fptest.POOL_TOOL, "create", "--pool", os.path.join(os.path.dirname(self.path), f"other{i}"),
                            *argv], check=True, capture_output=True)

    def tool(self, *argv, **options):
        return subprocess.run([fptest.POOL_TOOL, argv[0], "--pool", self.path, *argv[1:]], check=False,
                              capture_output=True, text=True, timeout=60, **options)


@contextlib.contextmanager
def pool_of(server, **options):
    with tempfile.TemporaryDirectory(prefix="fixport-hostile-", dir="/dev/shm") as folder:
        yield Pool(folder, server, **options)


@contextlib.contextmanager
def attacking(pool, attack):
    """@attack(shares, chance) again and again, as nobody, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            chance = random.Random(SEED)
            while True:
                with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
                    attack(pool.shares, chance)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the attacker ended early: {status}"


# ---- attacks ----


def cut(shares, chance):
    os.truncate(shares, chance.choice([0, 1, PAGE, 100000, 500000]))
    if chance.random() < 0.3:
        os.truncate(shares, 8 << 20)


def written(shares):
    fd = os.open(shares, os.O_RDWR)
    size = min(os.fstat(fd).st_size, 5 << 20)  # a victim that lengthens it may cut what is beyond
    memory = mmap.mmap(fd, size)
    os.close(fd)
    return memory


def random_bytes(shares, chance):
    with written(shares) as memory:
        for _ in range(2000):
            at = chance.randrange(len(memory) - 64)
            memory[at:at + 8] = chance.randbytes(8)


def word(state, holder, when):
    return struct.pack("<Q", state << 60 | holder << 48 | when & (1 << 48) - 1)


def flipped_words(shares, chance):
    """Words as others would have them, over all there are, all the time."""
    now = int(time.monotonic() * 1000)
    with written(shares) as memory:
        for at in range(WORDS_LEAST & ~4095, len(memory), 4096):
            memory[at:at + 4096] = word(chance.choice([USED, RESTING, LETGO]), chance.randrange(1025), now) * 512


def planted_holders(shares, chance):
    """Dead holders without number, and every comparison with the kernel due again."""
    with written(shares) as memory:
        for slot in range(HOLDERS):
            at = PAGE + slot * HOLDER_BYTES
            if struct.unpack_from("<Q", memory, at)[0] == 0:
                struct.pack_into("<Q", memory, at, chance.randrange(1, 1 << 40))
            struct.pack_into("<Q", memory, at + 16, 0)


def feeding(shares, chance):
    """All words in the hands of holders that are dead, and every other namespace asked to look."""
    flipped_words(shares, chance)
    planted_holders(shares, chance)
    with written(shares) as memory:
        struct.pack_into("<Q", memory, 0, int(time.monotonic() * 1000))


def single_words(shares, chance):
    """Now one word, now another, so that leases are lost after they were taken."""
    now = int(time.monotonic() * 1000)
    with written(shares) as memory:
        for _ in range(20000):
            at = chance.randrange(WORDS_LEAST // 8, len(memory) // 8) * 8
            memory[at:at + 8] = chance.choice([bytes(8), word(USED, 700, now)])


def lanes(shares, chance):
    """Keys of lanes, so that destinations find none of their own, or another's; and who they are for."""
    with written(shares) as memory:
        for at in range(PAGE + HOLDERS * HOLDER_BYTES, len(memory) - 8, 4096):
            page = [chance.choice([0, 0, 1, chance.randrange(1 << 64)]) for _ in range(512)]
            if at < PAGE + HOLDERS * HOLDER_BYTES + 16 * PAGE:
                memory[at:at + 4096] = struct.pack("<512Q", *page)[:len(memory) - at]


def counters(shares, chance):
    """Somebody wants ports all the time, futexes change, nothing has ever been compared."""
    now = int(time.monotonic() * 1000)
    with written(shares) as memory:
        for _ in range(200):
            for at in range(0, PAGE, 8):
                struct.pack_into("<Q", memory, at, chance.choice([now, now + 1, 0, (1 << 64) - 1, chance.randrange(1 << 64)]))
            for slot in range(HOLDERS):
                struct.pack_into("<Q", memory, PAGE + slot * HOLDER_BYTES + 16, 0)


def plausible(shares, chance):
    """Words as a healthy pool has them, in the names of holders that there are, and of some that come."""
    now = int(time.monotonic() * 1000)
    with written(shares) as memory:
        alive = [slot + 1 for slot in range(HOLDERS)
                 if struct.unpack_from("<Q", memory, PAGE + slot * HOLDER_BYTES)[0]] or [1]
        for at in range(WORDS_LEAST & ~4095, len(memory), 4096):
            memory[at:at + 4096] = b"".join(
                word(chance.choice([0, USED, LETGO, RESTING, CLOSING]), chance.choice([*alive, chance.randrange(1, 1025)]),
                     now - chance.choice([0, 50, 2000, 200000])) for _ in range(512))


def foreign(shares, chance):
    """A whole pool of another size, with its checksums, and the shares of one."""
    others = sorted(glob.glob(os.path.join(os.path.dirname(shares), "other*")))
    with open(chance.choice(others), "rb") as file:
        other = file.read()
    with written(shares) as memory:
        at = chance.choice([0, 0, PAGE, chance.randrange(len(memory) // 4096) * 4096])
        length = min(len(other), len(memory) - at)
        memory[at:at + length] = other[:length]


def structured(shares, chance):
    chance.choice([random_bytes, flipped_words, planted_holders, lanes, counters, plausible, foreign,
                   cut])(shares, chance)


# ---- victims ----


def victims_of(pool, server, java):
    ms = str(int(SECONDS * 1000))
    plain = [str(server.ports[0]), ms, *pool.range]
    kinds = {"plain": [VICTIM, *plain], "with a handler": [VICTIM, *plain, "handler"],
             "with SIGBUS blocked": [VICTIM, *plain, "blocked"],
             "non-blocking": [VICTIM, *plain, "nonblock"],
             "asking its name": [VICTIM, *plain, "named"],
             "an ordinary user": ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", VICTIM, *plain],
             "Python": [sys.executable, "-c", PYTHON, *plain]}
    if java:
        kinds["JVM"] = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", java, "Victim", *plain]
    started = {name: subprocess.Popen(argv, env=pool.environment, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True, cwd="/tmp")
               for name, argv in kinds.items()}
    other = [VICTIM, str(server.ports[1]), ms, "0", "0"]
    started["no rule matches"] = subprocess.Popen(
        other, env=pool.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return started


def judge(tap, what, name, process, few_fail):
    out, err = process.communicate(timeout=SECONDS * 10 + 120)
    numbers = dict(zip(*[iter(out.split())] * 2))
    said = f"{name}: exit {process.returncode}: {out}{err[-400:]}"
    FIGURES.append((what, name, numbers))
    if process.returncode or not numbers:
        return tap.point(False, f"{what}: {name}: lives", said)
    inside, outside, failed, lost = (int(numbers[key]) for key in ("in", "out", "failed", "lost"))
    if name == "no rule matches":
        good = failed == 0 and outside > 0
    elif few_fail == 0:
        good = failed == 0 and inside + outside > 0
    else:
        good = outside == 0 and (inside > 0 or not few_fail)
        good = good and (not few_fail or failed <= (inside + failed) * few_fail)
    good = good and lost == 0 and float(numbers["longest"]) < BUDGET
    good = good and int(numbers["memory"]) < MEMORY
    return tap.point(good, f"{what}: {name}: {out.strip()}", said)


def check_attack(tap, server, java, name, attack, few_fail, **options):
    """@few_fail: the share of connections that may fail; None: however many; 0: none, from wherever."""
    with pool_of(server, **options) as pool, attacking(pool, attack):
        if attack in (foreign, structured):
            pool.others()
        for victim, process in victims_of(pool, server, java).items():
            judge(tap, name, victim, process, few_fail)
        begun = time.monotonic()
        done = pool.tool("reclaim")
        good = done.returncode == 0 or "truncated under us" in done.stderr
        tap.point(good and time.monotonic() - begun < 20, f"{name}: reclaim ends", done.stderr)
        done = pool.tool("status")
        tap.point(done.returncode == 0, f"{name}: status", done.stderr)


def check_steering(tap, server):
    """What steers cannot be written by who may use the pool."""
    code = ("import os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for flags in (os.O_WRONLY, os.O_RDWR):\n"
            "    try:\n        os.open(sys.argv[1], flags)\n        print('opened')\n"
            "    except PermissionError:\n        print('refused')\n"
            "try:\n    os.truncate(sys.argv[1], 0)\n    print('cut')\n"
            "except PermissionError:\n    print('refused')\n")
    with pool_of(server) as pool:
        done = subprocess.run([sys.executable, "-c", code, pool.path], capture_output=True, text=True,
                              check=False)
        tap.equal(done.stdout, "refused\n" * 3, "rules, sizes and state are the owner's to write")


def check_grown(tap, server):
    """2 GiB of shares cost no start of a program more than it had."""
    with pool_of(server) as pool:
        os.truncate(pool.shares, 2 << 30)
        for tool in ("status", "reclaim"):
            before = time.monotonic()
            done = subprocess.run(["sh", "-c", 'ulimit -v 300000; exec "$@"', "sh", fptest.POOL_TOOL, tool,
                                   "--pool", pool.path], capture_output=True, text=True, check=False)
            tap.point(done.returncode == 0 and time.monotonic() - before < 10,
                      f"shares of 2 GiB: {tool} in 300 MB", done.stderr)
        code = "print(open('/proc/self/statm').read().split()[0])"
        pages = [int(subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True,
                                    text=True, check=True).stdout)
                 for env in (dict(os.environ), pool.environment)]
        tap.point(pages[1] - pages[0] < 8192, "and a program maps what the pool has", pages)


def check_locked(tap, server):
    """Somebody has locked both files, and is stopped."""
    code = ("import fcntl, os, signal, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for name in sys.argv[1:]:\n    fd = os.open(name, os.O_RDONLY)\n"
            "    fcntl.flock(fd, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\nsignal.pause()\n")
    with pool_of(server) as pool:
        holder = subprocess.Popen([sys.executable, "-c", code, pool.path, pool.shares], text=True,
                                  stdout=subprocess.PIPE)
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        for tool, argv in (("reload", ("-p", "50100-50199", "-t", "127.0.0.1")), ("reload", ("-c", pool.conf)),
                           ("status", ()), ("reclaim", ())):
            begun = time.monotonic()
            done = pool.tool(tool, *argv)
            tap.point(done.returncode == 0 and time.monotonic() - begun < 5,
                      f"locks held by a stopped process: {tool}", done.stderr)
        done = subprocess.run([VICTIM, str(server.ports[0]), "300", str(LO), str(HI)], text=True,
                              env=pool.environment, capture_output=True, check=False)
        tap.point(re.match(r"in [1-9]\d* out 0 ", done.stdout), "and a program that starts", done.stdout)
        holder.kill()
        holder.wait()


LOCKER = """
import fcntl, mmap, os, signal, struct, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
F_OFD_SETLK, BASE, MANY = 37, 1 << 40, int(sys.argv[1])
held = []
def lock(name, kind, start, length):
    try:
        held.append(os.open(name, os.O_RDWR if kind == fcntl.F_WRLCK else os.O_RDONLY))
        fcntl.fcntl(held[-1], F_OFD_SETLK, struct.pack("hhxxxxqqixxxx", kind, 0, start, length, 0))
    except OSError:
        pass
for name in sys.argv[2:]:
    for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
        lock(name, kind, 0, 0)
    try:
        held.append(os.open(name, os.O_RDONLY))  # neighbours of one open file would become one lock
        for at in range(BASE, BASE + 2 * MANY, 2):
            fcntl.fcntl(held[-1], F_OFD_SETLK, struct.pack("hhxxxxqqixxxx", fcntl.F_RDLCK, 0, at, 1, 0))
    except OSError:
        pass  # the shares may be locked for writing by now
print("locked", flush=True)
signal.pause()
"""


@contextlib.contextmanager
def locking(pool, many=0):
    """Whatever can be locked is, by nobody, who is stopped then."""
    holder = subprocess.Popen([sys.executable, "-c", LOCKER, str(many), pool.path, pool.shares], text=True,
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "locked\n"
    holder.send_signal(signal.SIGSTOP)
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


ELSEWHERE = """
import socket, sys
port = int(sys.argv[1])
listener = socket.create_server(("127.0.0.1", port), backlog=512)
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(int(sys.argv[2]))]
print(*[s.getsockname()[1] for s in held], flush=True)
sys.stdin.read()
"""


def dialling_elsewhere(pool, server, count):
    """A program in a network namespace of its own that holds @count connections to the rule's server."""
    argv = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-S", "-c",
            ELSEWHERE, str(server.ports[0]), str(count)]
    return subprocess.Popen(argv, env=pool.environment, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ports_elsewhere(tap, what, pool, server, count, pods):
    """@pods namespaces at a time: all inside, and none has another's port."""
    started = [dialling_elsewhere(pool, server, count) for _ in range(pods)]
    ports = [set(map(int, process.stdout.readline().split())) for process in started]
    said = [process.communicate()[1] for process in started]
    inside = all(len(own) == count and all(LO <= port <= HI for port in own) for own in ports)
    tap.point(inside and not any(said), f"{what}: {pods} namespaces have ports of the rule", ports, said)
    tap.equal(len(set().union(*ports)), sum(map(len, ports)), f"{what}: none has another's")


def check_starved(tap, server):
    """All that can be locked is locked, every slot is said to be taken, and who did it is stopped."""
    plain = [VICTIM, str(server.ports[0]), "300", str(LO), str(HI)]
    for many, plant in ((0, False), (0, True), (5000, True)):
        what = f"all slots locked{' and planted' if plant else ''}{', 20000 times' if many else ''}"
        with pool_of(server) as pool, locking(pool, many) as locker:
            if plant:
                planted_holders(pool.shares, random.Random(SEED))
            ports_elsewhere(tap, what, pool, server, 100, 3)
            done = subprocess.run(plain, text=True, env=pool.environment, capture_output=True, check=False)
            tap.point(re.match(r"in [1-9]\d* out 0 ", done.stdout) and not done.stderr,
                      f"{what}: a program that starts has ports", done.stdout, done.stderr)
            begun = time.monotonic()
            done = pool.tool("status")
            tap.point(done.returncode == 0 and time.monotonic() - begun < 5 and
                      re.search(rf"\b{locker} python3\b", done.stdout),
                      f"{what}: status names who holds them", done.stdout[-3000:], done.stderr)
    with pool_of(server, ports="50000-50199") as pool:
        with locking(pool):
            planted_holders(pool.shares, random.Random(SEED))
            ports_elsewhere(tap, "guests", pool, server, 150, 1)
        done = pool.tool("reclaim")
        tap.point(done.returncode == 0 and "150 leases of dead ones taken back" in done.stdout,
                  "guests: when the locks are gone, the dead are buried", done.stdout[-300:], done.stderr)
        time.sleep(1.1)  # the quarantine is 1 s
        ports_elsewhere(tap, "after that", pool, server, 150, 1)


def scribbled(shares, chance):
    """Every byte: words that are all leases of all holders, lanes with destinations, and noise."""
    now = int(time.monotonic() * 1000)
    with open(shares, "r+b") as file:
        size = min(os.fstat(file.fileno()).st_size, 128 << 20)
        file.write(chance.randbytes(WORDS_LEAST))
        page = b"".join(word(USED, holder % 4096, now) for holder in range(0, 4096, 8))
        noise = chance.randbytes(1 << 16) + page * 32
        while file.tell() < size:
            file.write(noise[:size - file.tell()])


def check_tools(tap, server):
    """Each tool comes to an end, in little memory, and says something, whatever the shares hold."""
    everything = [["status"], ["status", "--json"], ["list"], ["list", "--json"], ["list", "--port", "50001"],
                  ["metrics"], ["reclaim"], ["reclaim", "--json"], ["reload", "-p", f"{LO}-{HI}", "-t", "127.0.0.1"],
                  ["create", "-p", f"{LO}-{HI}"], ["run"], ["run", "--check"], ["remove"]]

    def attempt(pool, what):
        for argv in everything:
            tool = [fptest.POOL_TOOL, *argv, "--pool", pool.path]
            if argv[0] == "run":
                tool = [fptest.RUN_TOOL, *argv[1:], "--pool", pool.path, "true"]
            begun = time.monotonic()
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile("w+") as err:
                done = subprocess.run(["prlimit", f"--as={200 << 20}", *tool], stdout=out, stderr=err, check=False,
                                      timeout=120)
                err.seek(0)
                err, said = err.read(), out.tell()
            took = time.monotonic() - begun
            good = took < 30 and 0 <= done.returncode <= 2 and (said or err or argv == ["run"])
            good = good and (argv[0] != "create" or "exists already" in err)
            good = good and (argv[0] not in ("status", "list", "metrics") or done.returncode == 0)
            good = good and (done.returncode == 0 or err.count("\n") == 1 or argv == ["run", "--check"])
            tap.point(good, f"{what}: {' '.join(argv)} ends with {done.returncode}", f"{took:.1f} s", err[-300:])

    with pool_of(server, lanes=4096, ports="10240-13823") as pool, locking(pool):
        tap.point(os.stat(pool.shares).st_size > 100 << 20, "a pool of more than 100 MiB",
                  os.stat(pool.shares).st_size)
        scribbled(pool.shares, random.Random(SEED))
        attempt(pool, "128 MiB of garbage, all locked")
    with pool_of(server) as pool, attacking(pool, cut):
        attempt(pool, "cut and grown")
    with pool_of(server) as pool, attacking(pool, planted_holders), attacking(pool, random_bytes):
        attempt(pool, "random bytes")


def check_handlers(tap, server):
    """A thread sets handlers for SIGBUS, another connects: each is what was set."""
    with pool_of(server) as pool:
        done = subprocess.run([VICTIM, str(server.ports[0]), "1000", str(LO), str(HI), "setting"],
                              env=pool.environment, capture_output=True, text=True, check=False)
        tap.point(done.returncode == 0 and " lost 0 " in done.stdout,
                  "a program's own handlers for SIGBUS", done.stdout, done.stderr)


def check_pipes(tap, server):
    """A line that cannot be written ends nobody."""
    code = ("import os, resource, signal, socket, sys\n"
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
            "if sys.argv[2] == 'size': resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
            "for _ in range(2): socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()\n"
            "sys.exit(7)\n")
    for log in (None, "stderr"):
        for kind in ("pipe", "size"):
            with tempfile.TemporaryFile() as file:
                ends = os.pipe()
                os.close(ends[0])
                more = {"FIXPORT_LOG": log} if log else {}
                env = fptest.environment(FIXPORT_POOL="/nonexistent", **more)
                done = subprocess.run([sys.executable, "-c", code, str(server.ports[0]), kind], env=env,
                                      stderr=ends[1] if kind == "pipe" else file, check=False)
                os.close(ends[1])
                tap.equal(done.returncode, 7, f"stderr is a closed {kind}, log {log}: the program goes on")


FAKE = fptest.program("fake", "libfake.so")
WAITER = """
import socket, sys, time
held = [socket.socket() for _ in range(3)]
for s in held:
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
    except OSError as error:
        print(error.errno)
print("clock", int(time.monotonic()))
"""
# In a namespace of its own, with a server of its own: two connections, closed by a reset.
GUEST = """
import errno, socket, struct, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
for _ in range(2):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1])
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def check_clock(tap, server):
    """A preloaded clock that stands still, or is ahead: a wait ends, and not before; ports rest as long."""
    for clock in ("frozen", "+1000"):
        with pool_of(server, ports="61000-61001", exhausted="wait 1 s") as pool:
            env = dict(pool.environment, FAKE_CLOCK=clock)
            env["LD_PRELOAD"] += ":" + FAKE
            begun, now = time.monotonic(), int(time.monotonic())
            done = subprocess.run([sys.executable, "-S", "-c", WAITER, str(server.ports[0])], env=env,
                                  capture_output=True, text=True, check=False, timeout=60)
            took = time.monotonic() - begun
            error, _, faked = (done.stdout.split() + ["", "", "0"])[:3]
            tap.point(error == "99" and 0.9 < took < 20, f"clock {clock}: a wait of 1 s ends, and not before",
                      took, done.stdout, done.stderr)
            tap.point(int(faked) == 1000 if clock == "frozen" else int(faked) >= now + 1000, "and it is faked", faked)
        for quarantine in (0, 600):
            with pool_of(server, ports="61000-61001", quarantine=quarantine) as pool:
                env = dict(pool.environment)
                answers = []
                for fake in (None, clock):
                    if fake:
                        env.update(FAKE_CLOCK=fake, LD_PRELOAD=env["LD_PRELOAD"] + ":" + FAKE)
                    done = subprocess.run(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                                           sys.executable, "-S", "-c", GUEST, str(server.ports[0])], env=env,
                                          capture_output=True, text=True, check=False, timeout=60)
                    answers.append(done.stdout.split())
                good = sorted(answers[0]) == ["61000", "61001"] and \
                    (answers[1] == ["EADDRNOTAVAIL"] * 2 if quarantine else set(answers[1]) <= {"61000", "61001"})
                tap.point(good, f"clock {clock}: another namespace's ports after a quarantine of {quarantine} s",
                          answers, done.stderr)


PRIVATE = """
import socket, sys
try:
    print(socket.create_connection(("127.0.0.1", int(sys.argv[1]))).getsockname()[1])
except OSError:
    pass
"""


def check_private(tap, server):
    """Whoever makes a user's private pool first makes nothing that is used."""
    env = fptest.environment(FIXPORT_PORTS="61800-61809", FIXPORT_TO="127.0.0.1")
    user = 20000 + os.getpid() % 30000  # other tests run beside this one

    def dial(on_error="pass"):
        done = subprocess.run(["setpriv", f"--reuid={user}", "--clear-groups", sys.executable, "-S", "-c", PRIVATE,
                               str(server.ports[0])], env=dict(env, FIXPORT_ON_ERROR=on_error), capture_output=True, text=True, check=False)
        return done.stdout.strip(), done.stderr

    def pools():
        return glob.glob(f"/dev/shm/fixport-{user}-*")
    for name in pools():
        os.unlink(name)
    port, err = dial()
    tap.point(61800 <= int(port or 0) <= 61809 and len(pools()) == 2, "a private pool", port, err, pools())
    own = min(pools(), key=len)
    tap.equal({os.stat(name).st_mode & 0o777 for name in pools()}, {0o600}, "is its user's alone")
    for name in pools():
        os.unlink(name)
    def refused(what, why):
        """Neither used, nor silent; and with FIXPORT_ON_ERROR=fail there is no connection."""
        port, err = dial()
        tap.point(port and not 61800 <= int(port) <= 61819 and err.count("\n") == 1 and why in err,
                  f"a private pool's place is taken: {what}: said", port, err)
        port, err = dial("fail")
        tap.point(not port and why in err, f"{what}: refused", port, err)
        for name in pools() + glob.glob(f"/dev/shm/fixport-{user}.other*"):
            shutil.rmtree(name) if os.path.isdir(name) and not os.path.islink(name) else os.unlink(name)

    def make(path, ports, owner):
        subprocess.run([fptest.POOL_TOOL, "create", "--pool", path, "-p", ports, "-t", "127.0.0.1"],
                       check=True, capture_output=True)
        for name in glob.glob(path + "*"):
            os.chown(name, owner, owner)
            os.chmod(name, 0o600 if name != path else 0o644)

    other = f"/dev/shm/fixport-{user}.other"
    nobodys, not_alone = "its owner is neither root nor this user", "it is not this user's alone"
    for owner, why in ((54321, nobodys), (0, "permission denied")):
        make(own, "61810-61819", owner)
        refused(f"a pool of user {owner}'s", why)
    make(own, "61810-61819", 0)  # all may write its shares, as of one in /run/fixport
    os.chmod(glob.glob(own + ".*")[0], 0o666)
    refused("a pool of root's for all", not_alone)
    make(other, "61810-61819", 0)
    os.chmod(glob.glob(other + ".*")[0], 0o666)
    os.link(other, own)
    for name in glob.glob(other + ".*"):
        os.link(name, own + name[len(other):])
    refused("a hard link to root's", "")
    for how in ("a second link", "mode 0640", "mode 0604", "mode 0660", "a symbolic link", "other rules", "a FIFO",
                "a directory", "other shares", "another's shares"):
        assert 61800 <= int(dial()[0]) <= 61809
        shares = glob.glob(own + ".*")[0]
        why = not_alone
        if how == "a second link":
            os.link(own, other)
        elif how.startswith("mode"):
            os.chmod(own, int(how[5:], 8))
            why = nobodys if how == "mode 0660" else not_alone
        elif how == "a symbolic link":
            os.rename(own, other)
            os.symlink(other, own)
            why = "symbolic link"
        elif how == "other rules":
            os.unlink(own), os.unlink(shares)
            make(own, "61810-61819", user)
            os.chmod(own, 0o600)
        elif how in ("a FIFO", "a directory"):
            os.unlink(own)
            os.mkfifo(own) if how == "a FIFO" else os.mkdir(own)
            why = "not a regular file" if how == "a FIFO" else "a directory"
        else:
            os.unlink(shares)
            with open(shares, "wb") as file:
                file.truncate(8 << 20)
            os.chown(shares, *(2 * (user if how == "other shares" else 54321,)))
            os.chmod(shares, 0o666)
            why = "not its own"
        refused(how, why)
    for mode, owner, used in ((0o700, user, True), (0o755, user, False), (0o700, 54321, False), (0o700, 0, False)):
        code = (f"mount -t tmpfs tmpfs /run && mkdir -p -m 755 /run/user && mkdir -m {mode:o} /run/user/{user} && "
                f'chown {owner} /run/user/{user} && "$@"; ls /run/user/{user}')
        done = subprocess.run(["unshare", "-m", "sh", "-c", code, "sh", "setpriv", f"--reuid={user}", "--clear-groups",
                               sys.executable, "-S", "-c", PRIVATE, str(server.ports[0])], env=env,
                              capture_output=True, text=True, check=False)
        there = [name for name in done.stdout.split() if name.startswith("fixport-")]
        tap.point(61800 <= int(done.stdout.split()[0]) <= 61809 and not done.stderr and
                  (len(there) == 2 and not pools() if used else not there and len(pools()) == 2),
                  f"/run/user/UID with mode {mode:o}, owner {owner}: {'used' if used else 'not used'}", done.stdout,
                  done.stderr, pools())
        for name in pools():
            os.unlink(name)


# Enters the namespaces of all these processes, at once one after the other, and connects there; keeps one
# connection, in the fifth. Then it goes home, and connects there until it is told to end.
AGENT = """
import ctypes, os, select, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
port, pids = int(sys.argv[1]), sys.argv[2:]
home = os.open("/proc/self/ns/net", os.O_RDONLY)
spaces = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in pids]
kept = []
for i, space in enumerate(spaces):
    assert libc.setns(space, 0x40000000) == 0, ctypes.get_errno()
    os.close(space)
    listener = socket.create_server(("127.0.0.1", port))
    s = socket.create_connection(("127.0.0.1", port))
    print(s.getsockname()[1], end=" ")
    if i == 4:
        kept = [s, listener]
    s, listener = None, None
assert libc.setns(home, 0x40000000) == 0
print(flush=True)
while not select.select([0], [], [], 0.3)[0]:
    socket.create_connection(("127.0.0.1", port)).close()
"""


def check_agent(tap, server):
    """One process in 40 namespaces, one after the other; those end, and what it keeps of them is named."""
    with pool_of(server) as pool:
        pods = [subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec cat"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(40)]
        for pod in pods:
            pod.stdout.readline()
        agent = subprocess.Popen([sys.executable, "-S", "-c", AGENT, str(server.ports[0]),
                                  *[str(pod.pid) for pod in pods]], env=pool.environment, text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        inside = [LO <= int(port) <= HI for port in agent.stdout.readline().split()]
        tap.equal(inside, [True] * 40, "40 namespaces entered by one process: a port of the rule in each")

        def visits():
            """{slot: whether the agent is elsewhere} of the holders that it keeps."""
            holders = json.loads(pool.tool("status", "--json").stdout)["holders"]
            return {holder["slot"]: process["elsewhere"] for holder in holders if holder["alive"]
                    for process in holder["processes"] if process["pid"] == agent.pid}
        got = visits()
        tap.point(1 <= len(got) <= 16 and sorted(got.values())[:1] == [False] and sum(got.values()) == len(got) - 1,
                  "status names it for those that it keeps, and says that it is elsewhere", got)
        done = pool.tool("status")
        tap.point(f"{agent.pid} python3, which is elsewhere" in done.stdout, "in words, too", done.stdout[-2500:])
        for pod in pods:
            pod.stdin.close()
            pod.wait()
        done = pool.tool("reclaim")
        line = rf"cannot be entered from here; kept by {agent.pid} python3, which is elsewhere$"
        tap.point(re.search(line, done.stdout, re.M), "the pods have ended: reclaim names it", done.stdout[-1500:],
                  done.stderr)
        kept = {holder["slot"] for holder in json.loads(pool.tool("reclaim", "--json").stdout)["holders"]
                if {"pid": agent.pid, "command": "python3"} in holder.get("kept_by", [])}
        tap.equal(kept, {slot for slot, elsewhere in visits().items() if elsewhere}, "reclaim --json, too")
        end = time.monotonic() + 60
        while len(got := visits()) > 2 and time.monotonic() < end:
            time.sleep(0.2)
        tap.equal(sorted(got.values()), [False, True], "it leaves them: its own and that of its connection are left")
        done = pool.tool("reclaim")
        left = json.loads(pool.tool("status", "--json").stdout)["holders"]
        tap.equal({holder["slot"] for holder in left}, set(got), "and the others' leases are taken back")
        err = agent.communicate("\n")[1]
        tap.equal((agent.returncode, err), (0, ""), "it said nothing, and ends")


def compiled(folder):
    if not shutil.which("javac") or not shutil.which("java"):
        return None
    done = subprocess.run(["javac", "-d", folder, os.path.join(HERE, "Victim.java")], check=False,
                          capture_output=True)
    os.chmod(folder, 0o755)
    return folder if done.returncode == 0 else None


CHECKS = [check_steering, check_grown, check_locked, check_starved, check_tools, check_handlers, check_pipes,
          check_clock, check_agent, check_private]

BIND, FEW = {"ports": "61000-61799"}, {"ports": "50000-50015"}
ATTACKS = [
    # name, what it does, the share that may fail (check_attack()), the pool
    ("cut", cut, 0.3, {}),
    ("holders planted", planted_holders, 0.5, {}),
    ("random bytes", random_bytes, 0.5, {}),
    ("words flipped", flipped_words, None, {}),
    ("words flipped, by bind", flipped_words, None, BIND),
    ("fed", feeding, None, {}),
    ("fed, wait", feeding, None, {"exhausted": "wait 100 ms"}),
    ("words flipped, pass", single_words, 0, {"exhausted": "pass"}),
    ("all words, pass", flipped_words, 0, {"exhausted": "pass"}),
    ("all words, pass, by bind", flipped_words, 0, {"exhausted": "pass", **BIND}),
    ("lanes", lanes, None, {}),
    ("counters", counters, None, {}),
    ("counters, few ports", counters, None, FEW),
    ("plausible", plausible, None, {}),
    ("plausible, by bind", plausible, None, BIND),
    ("foreign", foreign, None, {}),
    ("structured", structured, None, {}),
    ("structured, wait, by bind", structured, None, {"exhausted": "wait 100 ms", **BIND}),
]


def print_figures():
    for attack in dict.fromkeys(attack for attack, _, _ in FIGURES):
        of = [numbers for what, name, numbers in FIGURES if what == attack and name != "no rule matches"]

        def total(key, of=of):
            return sum(int(numbers.get(key, 0)) for numbers in of)
        print(f"# {attack}: {total('in')} from the rule's ports, {total('out')} from others, {total('failed')} failed, "
              f"longest {max(float(numbers.get('longest', 0)) for numbers in of)} ms, "
              f"memory {max(int(numbers.get('memory', 0)) for numbers in of)} KiB")


def main():
    global SECONDS
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float)
    parser.add_argument("attacks", nargs="*")
    arguments = parser.parse_args()
    if arguments.minutes:
        SECONDS = arguments.minutes * 60
    fptest.in_own_network()
    tap = fptest.Tap()
    if os.geteuid() != 0:
        tap.cannot("attacks by another user", "only root can be one")
        tap.end()
    server = Server()
    with tempfile.TemporaryDirectory() as folder:
        java = compiled(folder)
        if not java:
            tap.cannot("a JVM", "there is no javac")
        for check in CHECKS if not arguments.attacks else ():
            check(tap, server)
        for name, attack, few_fail, options in ATTACKS:
            if not arguments.attacks or any(part in name for part in arguments.attacks):
                check_attack(tap, server, java, name, attack, few_fail, **options)
    print_figures()
    tap.end()


if __name__ == "__main__":
    main()
