#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a pod can do to others beyond writing to the shares while they connect (hostile.py): leave
something behind, come at the worst moment, play with the file and its folder, or make root's tools
work for it.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hostile  # noqa: E402
from hostile import HOLDERS, HOLDER_BYTES, NOBODY, PAGE, WORDS_LEAST, fptest, word  # noqa: E402

DIAL = """
import socket, sys
for _ in range(int(sys.argv[2])):
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1], flush=True)
    except OSError as error:
        print(-error.errno, flush=True)
    s.close()
"""


def dial(pool, server, count=1, code=DIAL, **options):
    """Ports of connections, or -errno."""
    done = subprocess.run([sys.executable, "-S", "-c", code, str(server.ports[0]), str(count)],
                          env=pool.environment, capture_output=True, text=True, check=False, timeout=60,
                          **options)
    return [int(line) for line in done.stdout.split()], f"exit {done.returncode}: {done.stdout}{done.stderr}"


def inside(ports):
    return bool(ports) and all(hostile.LO <= port <= hostile.HI for port in ports)


def geometry(pool):
    """How many lanes there are, and where their words begin: pool/layout_size.h."""
    with open(pool.path, "rb") as file:
        lanes = struct.unpack_from("<I", file.read(PAGE), 24)[0]
    return lanes, PAGE + HOLDERS * HOLDER_BYTES + -(-lanes * 8 // PAGE) * PAGE + -(-lanes * 64 // PAGE) * PAGE


def fill(shares, *words):
    """Each word of the pool is one of these, in turn."""
    with hostile.written(shares) as memory:
        block = b"".join(words) * (PAGE // 8 // len(words) + 1)
        for at in range(WORDS_LEAST & ~(PAGE - 1), len(memory), PAGE):
            memory[at:at + PAGE] = block[:PAGE]


def check_aftermath(tap, server):
    """Ports that were given to nobody, or in a way that makes no sense, come back."""
    now = int(time.monotonic() * 1000)
    for name, words in (("of holders that there are not", [word(1, 700, now), word(2, 13, now), word(4, 1024, now)]),
                        ("of holders that there cannot be", [word(1, 0, now), word(1, 4095, now), word(2, 1025, now)]),
                        ("in no state that there is", [word(9, 0, now), word(15, 1, now), word(5, 2000, now)])):
        with hostile.pool_of(server) as pool:
            fill(pool.shares, *words)
            end = time.monotonic() + 10
            ports, said = dial(pool, server)
            while not inside(ports) and time.monotonic() < end:
                time.sleep(0.2)
                ports, said = dial(pool, server)
            tap.point(inside(ports), f"ports {name} come back after the quarantine", said)


NO_ROOM = """
import resource, socket, sys
def dial():
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1], flush=True)
    except OSError as error:
        print(-error.errno, flush=True)
    s.close()
dial()
%s
input()
dial()
dial()
"""


def check_no_room(tap, server):
    """Shares are cut under a program that may not map more memory."""
    limits = {
        "data": "resource.setrlimit(resource.RLIMIT_DATA, (1 << 20, 1 << 20))",
        "address space": "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))",
        "locked memory": "import ctypes; resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20)); "
                         "ctypes.CDLL(None).mlockall(2)",
    }
    for name, code in limits.items():
        with hostile.pool_of(server) as pool:
            process = subprocess.Popen(["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-S", "-c",
                                        NO_ROOM % code, str(server.ports[0])], env=pool.environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            first = process.stdout.readline()
            time.sleep(0.1)
            os.truncate(pool.shares, 0)
            try:
                out, err = process.communicate("\n", timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                err += "it hangs"
            ports = [int(line) for line in (first + out).split()]
            tap.point(process.returncode == 0 and len(ports) == 3 and inside(ports),
                      f"shares cut under a program at its limit of {name}", process.returncode, ports, err)


def check_starting_blocked(tap, server):
    """A program that is started with SIGBUS blocked, while the shares are cut all the time."""
    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGBUS})
    with hostile.pool_of(server) as pool, hostile.attacking(pool, hostile.cut):
        ends = [subprocess.run(["unshare", "--net", "true"], env=pool.environment, preexec_fn=block, check=False,
                               capture_output=True).returncode for _ in range(100)]
        tap.point(set(ends) == {0}, "starts with SIGBUS blocked while the shares are cut", ends)


ALWAYS = """
import socket, sys, time
while True:
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1], flush=True)
    except OSError as error:
        print(-error.errno, flush=True)
    s.close()
    time.sleep(0.05)
"""


def maps_of(pid, path):
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as file:
        return sum(line.rstrip().endswith(" " + path) for line in file)


def check_taken_away(tap, server):
    """Whoever has the shares' folder takes them away and gives them back: afterwards all is as before."""
    with hostile.pool_of(server) as pool:
        process = subprocess.Popen([sys.executable, "-S", "-c", ALWAYS, str(server.ports[0])], text=True,
                                   env=pool.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        before = maps_of(process.pid, pool.path)
        for _ in range(3):
            os.rename(pool.shares, pool.shares + "x")
            os.truncate(pool.shares + "x", 0)
            time.sleep(1.3)
            os.rename(pool.shares + "x", pool.shares)
            time.sleep(1.3)
        after = maps_of(process.pid, pool.path)
        process.kill()
        out, err = process.communicate()
        last = [int(line) for line in out.split()][-5:]
        tap.point(before == after and inside(last), "shares taken away three times: no attachment is used up",
                  before, after, last, err)
        tap.point(err.count("\n") == 1, "and it is said", err)


# What who has the shares' folder can make of them. "keep" is a process that goes on; it says when it has begun.
IN_ITS_PLACE = {
    "a folder": 'os.unlink(path); os.mkdir(path)',
    "a symbolic link": 'os.unlink(path); os.symlink("/etc/passwd", path)',
    "a device": 'os.unlink(path); os.mknod(path, 0o020666, os.makedev(1, 3))',
    "a FIFO": 'os.unlink(path); os.mkfifo(path); keep = lambda: os.open(path, os.O_WRONLY)',
    "somebody else's file": 'os.rename(path, path + "x"); open(path, "w").close(); os.truncate(path, 8 << 20)',
    "with a second name and other rights": 'os.link(path, path + "x"); os.chmod(path, 0o600)',
    "with a lease": 'fd = os.open(path, os.O_RDONLY); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK); '
                    'signal.signal(signal.SIGIO, signal.SIG_IGN); keep = signal.pause',
    "that are being executed": 'data = open("/bin/sleep", "rb").read(); open(path, "wb").write(data); '
                               'os.chmod(path, 0o755); done = os.fork(); '
                               'done or os.execv(path, ["sleep", "60"]); time.sleep(0.3); keep = signal.pause',
}


def check_in_its_place(tap, server):
    """Something else with the shares' name, or nothing that could be opened: root's tools see to it."""
    for name, code in IN_ITS_PLACE.items():
        with hostile.pool_of(server) as pool:
            head = "import fcntl, os, signal, sys, time\npath = sys.argv[1]; keep = None\n"
            tail = "\nprint('begun', flush=True)\nif keep: keep()\n"
            attacker = subprocess.Popen([sys.executable, "-S", "-c", head + code + tail, pool.shares], text=True,
                                        stdout=subprocess.PIPE, start_new_session=True)
            attacker.stdout.readline()
            said = [pool.tool(*words).stderr for words in (["status"], ["reclaim"], ["list"], ["metrics"])]
            dial(pool, server)
            if name == "a FIFO":
                time.sleep(0.1)
                tap.equal(attacker.poll(), None, "shares that are a FIFO: nobody opens it")
            done = pool.tool("reload", "--any", "-c", pool.conf)
            ports, err = dial(pool, server)
            tap.point(done.returncode == 0 and inside(ports), f"shares {name}: reload --any puts it right", *said,
                      done.stderr, err)
            done = pool.tool("remove", "--force")
            tap.equal(done.returncode, 0, f"shares {name}: remove")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(attacker.pid, signal.SIGKILL)
            attacker.wait()


def check_many_leases(tap, server):
    """As many leases as there are words."""
    with hostile.pool_of(server) as pool:
        fill(pool.shares, word(1, 5, int(time.monotonic() * 1000)))
        for words in (["list", "--json"], ["list"], ["status", "--json"], ["metrics"]):
            done = subprocess.run(["sh", "-c", 'ulimit -v 100000; exec "$@"', "sh", fptest.POOL_TOOL, *words,
                                   "--pool", pool.path], capture_output=True, text=True, check=False)
            good = done.returncode == 0
            if words == ["list", "--json"] and good:
                leases = json.loads(done.stdout)["leases"]
                good = len(leases) > 100000
            tap.point(good, f"all words in use: {' '.join(words)} in 100 MB", done.stderr)


MANY = """
import fcntl, mmap, os, socket, struct, sys
cookie = socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8)
netns = struct.pack("<Q", os.stat("/proc/self/ns/net").st_ino)
fds = [os.open(path, os.O_RDWR if path == sys.argv[1] else os.O_RDONLY) for path in sys.argv[1:]]
memory = mmap.mmap(fds[0], 4096 + 1024 * 128)
for slot in range(1024):
    memory[4096 + slot * 128:4096 + slot * 128 + 32] = cookie + bytes(16) + netns
for fd in fds:
    fcntl.fcntl(fd, 37, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 1 << 40, 1024, 0))
print("locked", flush=True)
sys.stdin.read()
"""


def check_many_holders(tap, server):
    """One namespace is all holders that there can be, all alive."""
    with hostile.pool_of(server) as pool:
        attacker = subprocess.Popen(["unshare", "--net", "setpriv", f"--reuid={NOBODY}", "--clear-groups",
                                     sys.executable, "-S", "-c", MANY, pool.shares, pool.path], text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        attacker.stdout.readline()
        began = time.monotonic()
        done = pool.tool("reclaim")
        took = time.monotonic() - began
        tap.point(done.returncode == 0 and took < 25, f"1024 holders that are one: reclaim takes {took:.1f} s",
                  done.stdout[-200:], done.stderr)
        attacker.communicate()


HOLES = """
import ctypes, os, struct, sys
fd, begin, lanes = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
assert libc.fallocate(fd, 3, begin, os.fstat(fd).st_size - begin) == 0  # FALLOC_FL_PUNCH_HOLE
os.pwrite(fd, b"".join(struct.pack("<Q", lane + 1) for lane in range(lanes)), 4096 + 1024 * 128)
"""

MEMORY = """
import socket, sys
for name in (0, 1):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.getsockname() if name else None
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
    except ConnectionRefusedError:
        pass
    print(s.getsockname()[1])
"""


def check_holes(tap, server):
    """Holes in the shares of a large pool are not filled at the expense of who comes."""
    with hostile.pool_of(server, ports="1024-65535") as pool:
        with open(pool.conf, encoding="ascii") as file:
            text = file.read().replace("[pool]", "[pool]\nlanes = 240")
        with open(pool.conf, "w", encoding="ascii") as file:
            file.write(text)
        pool.tool("remove", "--force")
        assert pool.tool("create", "-c", pool.conf).returncode == 0
        pool.shares = next(os.path.join(os.path.dirname(pool.path), name)
                           for name in os.listdir(os.path.dirname(pool.path)) if name.startswith("pool."))
        lanes, begin = geometry(pool)
        subprocess.run([sys.executable, "-S", "-c", HOLES, pool.shares, str(begin), str(lanes)], check=True)
        done = subprocess.run(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable,
                               "-S", "-c", MEMORY, str(server.ports[0])], env=pool.environment, text=True,
                              capture_output=True, check=False)
        filled = os.stat(pool.shares).st_blocks // 2
        tap.point(len(done.stdout.split()) == 2 and filled < 16384,
                  f"holes in 120 MiB of shares: a program fills {filled} KiB of them", done.stdout, done.stderr)


BOUND = """
import socket, sys, time
for _ in range(int(sys.argv[2])):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    began = time.thread_time()
    s.getsockname()
    print(int((time.thread_time() - began) * 1000))
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1])
    except OSError as error:
        print(-error.errno)
"""


def check_bound(tap, server):
    """A program that asks for its port before it connects, when no port seems to be free."""
    with hostile.pool_of(server) as pool:
        reuse = BOUND.replace("s.bind", "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind")
        got = dial(pool, server, 3, reuse)[0][1::2]
        tap.point(inside(got), f"SO_REUSEADDR, bind, getsockname, connect: {got}")
    others = word(1, 700, int(time.monotonic() * 1000)) * 512
    for exhausted, ports in (("fail", "50000-50799"), ("pass", "50000-50799"), ("fail", "20000-60999")):
        with hostile.pool_of(server, exhausted=exhausted, ports=ports) as pool:
            lanes, begin = geometry(pool)
            with open(pool.shares, "r+b", buffering=0) as file:
                for at in range(begin + (lanes - 1) * PAGE, os.path.getsize(pool.shares), lanes * PAGE):
                    os.pwrite(file.fileno(), others, at)
            numbers, said = dial(pool, server, 3, BOUND)
            took, got = numbers[0::2], numbers[1::2]
            lo, hi = map(int, ports.split("-"))
            good = len(got) == 3 and all(lo <= port <= hi for port in got)
            tap.point(good, f"bind, getsockname, connect: {ports}, {exhausted}: {got}", said)
            tap.point(max(took, default=999) < hostile.BUDGET, f"and in its time: {took} ms", said)
            fill(pool.shares, others)
            got = dial(pool, server, 3, BOUND)[0][1::2]
            # A holder that is not alive may be found out, and its ports be had.
            good = len(got) == 3 and (exhausted == "pass" or
                                      all(port == -99 or lo <= port <= hi for port in got))
            tap.point(good, f"if all are others': {got}")


STAYING = """
import socket, sys
for line in sys.stdin:
    s = socket.socket()
    s.connect(("127.0.0.1", int(sys.argv[1])))
    print(s.getsockname()[1], flush=True)
    s.close()
"""


def check_lost_again(tap, server):
    """The pool is removed, made anew, and removed again: each time that is said, if not too often."""
    with hostile.pool_of(server) as pool, subprocess.Popen(
            [sys.executable, "-S", "-c", STAYING, str(server.ports[0])], env=pool.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        def connects(wanted):
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                print(file=program.stdin, flush=True)
                if inside([int(program.stdout.readline())]) == wanted:
                    return True
                time.sleep(0.1)
            return False

        good = connects(True)
        for again in (True, True, False):  # a moment after the last one it is not said once more
            good = pool.tool("remove", "--force").returncode == 0 and connects(False) and good
            good = pool.tool("create", "-c", pool.conf).returncode == 0 and connects(True) and good
            if again:
                time.sleep(10.5)  # shim/fault.c
        pool.tool("remove", "--force")
        connects(False)
        said = program.communicate()[1].splitlines()
        tap.point(good and len(said) == 3 and all("removed" in line or "no such file" in line for line in said),
                  "a pool that is lost again is said to be", *said)


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    if os.geteuid() != 0:
        tap.cannot("attacks by another user", "only root can be one")
        tap.end()
    server = hostile.Server()
    which = sys.argv[1:]
    for name, check in list(globals().items()):
        if name.startswith("check_") and (not which or name[6:] in which):
            check(tap, server)
    tap.end()


if __name__ == "__main__":
    main()
