#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The shim from outside: programs behave as without it, ports are in the range, and faults are said
once and do no harm.

Everything runs on loopback, with a rule that names loopback. Two ranges: one outside the kernel's
ephemeral range, where the shim binds, and one inside, where it uses IP_LOCAL_PORT_RANGE.
"""

import contextlib
import glob
import os
import random
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

BEHAVE = fptest.program("shim", "behave")
FAKE = fptest.program("fake", "libfake.so")
BY_BIND, BY_RANGE = "61000-61799", "50000-50799"
LOOPBACK = "127.0.0.0/8,::1"

# Prints the source port of each of argv[2] connections held at once, or the error's name.
DIAL = """
import errno, socket, sys
held = []
for i in range(int(sys.argv[2])):
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1])
    except OSError as e:
        print(errno.errorcode[e.errno])
    held.append(s)
"""


# Prints whether SO_REUSEADDR is on after connecting: of the first connection, after 100 that were
# reset, and after 20 that were closed.
OWN_PORT = """
import errno, socket, sys
kept = []
def connect(port):
    sock = socket.socket()
    if port:
        sock.bind(("127.0.0.1", port))
    try:
        sock.connect(("127.0.0.1", int(sys.argv[1])))
    except OSError as error:
        return errno.errorcode[error.errno]
    kept.append(sock)
    return "own" if sock.getsockname()[1] == port else "other"
free = [socket.socket() for _ in range(2)]
for sock in free:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
own = [sock.getsockname()[1] for sock in free]
for sock in free:
    sock.close()
print(connect(own[0]))
connect(0), connect(0)
print(connect(0))
print(connect(own[1]))
"""

PREPARED = """
import socket, struct, sys

def dial(reset):
    with socket.socket() as s:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        if reset:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return int(s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0)

# One in 16 is looked at afterwards, and that finds nothing if its port is already another's.
print(dial(True), [dial(True) for _ in range(100)][-1], [dial(False) for _ in range(60)][-1])
"""


class Server:
    """Listens on 127.0.0.1 and ::1 at one port; keeps what it accepts until the client closes."""

    def __init__(self, port=0):
        v4 = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port = v4.getsockname()[1]
        v6 = socket.create_server(("::1", self.port), family=socket.AF_INET6, backlog=512)
        self.selector = selectors.DefaultSelector()
        for listener in (v4, v6):
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, True)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            for key, _ in self.selector.select():
                if key.data:
                    connection, _ = key.fileobj.accept()
                    self.selector.register(connection, selectors.EVENT_READ, False)
                elif not self.alive(key.fileobj):
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()

    @staticmethod
    def alive(connection):
        try:
            return bool(connection.recv(4096))
        except OSError:
            return False


def alone():
    """For who counts on each single port of a range: the kernel may have given one of them to another
    server, or to a program that has ended less than a minute ago. Return: a server outside of all ranges,
    in a network in which nobody else has had a port, where one can be made."""
    if os.environ.get("FIXPORT_TEST_OWN_NETWORK") != "1":
        return Server()
    fptest.new_network()
    return Server(7000)


def run(argv, env, **options):
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False,
                          **options)


def split(output):
    lines = output.splitlines()
    return ([line for line in lines if not line.startswith("port ")],
            [line for line in lines if line.startswith("port ")])


@contextlib.contextmanager
def pool_folder():
    with tempfile.TemporaryDirectory(prefix="fixport-test-", dir="/dev/shm") as folder:
        yield folder


def asked(folder, ports, **more):
    return fptest.environment(FIXPORT_POOL=os.path.join(folder, "pool"), FIXPORT_PORTS=ports,
                              FIXPORT_TO=LOOPBACK, BEHAVE_RANGE=ports, **more)


# What a socket that was bound cannot do again; see fixport(7), LIMITS.
KNOWN = {("unspec", BY_BIND): ["bind: EINVAL"]}


def check_behaviour(tap):
    names = run([BEHAVE, "?", "0"], os.environ).stdout.split()
    for ports, way in ((BY_RANGE, "by range"), (BY_BIND, "by bind")):
        for name in names:
            server = Server()  # nothing has been connected to it, so that every port is as new
            plain = run([BEHAVE, name, str(server.port)], dict(os.environ, BEHAVE_RANGE=ports))
            with pool_folder() as folder:
                shimmed = run([BEHAVE, name, str(server.port)], asked(folder, ports))
            expected, _ = split(plain.stdout)
            got, where = split(shimmed.stdout)
            if (name, ports) in KNOWN:
                expected = [line for line in expected if not line.startswith("bind: ")]
                tap.point([line for line in got if line.startswith("bind: ")] == KNOWN[name, ports],
                          f"{name} ({way}): the known limit is what it was")
                got = [line for line in got if not line.startswith("bind: ")]
            tap.point(got == expected and shimmed.returncode == plain.returncode == 0 and
                      not shimmed.stderr, f"{name} ({way}): behaves as without the shim",
                      *difference(expected, got), shimmed.stderr)
            tap.point(all(line.endswith(": in") for line in where),
                      f"{name} ({way}): {len(where)} ports in the range", *where)


def difference(expected, got):
    if expected == got:
        return []
    return [f"without: {expected}", f"with:    {got}"]


def dial(env, server, count=1, python=sys.executable):
    return run([python, "-c", DIAL, str(server.port), str(count)], env)


def in_range(text, ports):
    low, high = map(int, ports.split("-"))
    return [line for line in text.split() if line.isdigit() and low <= int(line) <= high]


def check_exhaustion(tap):
    server = alone()
    for ports, way in (("50300-50309", "by range"), ("61300-61309", "by bind")):
        with pool_folder() as folder:
            done = dial(asked(folder, ports), server, 12)
            tap.point(len(set(in_range(done.stdout, ports))) == 10 and
                      done.stdout.split()[10:] == ["EADDRNOTAVAIL"] * 2,
                      f"10 ports make 10 connections, then EADDRNOTAVAIL ({way})", done.stdout,
                      done.stderr)


# Binds to port 0 and asks for the name, at the address argv[2]: what is asked for is not the program's own.
NAMED = """
import errno, socket, sys
held = []
for i in range(12):
    s = socket.socket()
    s.bind((sys.argv[2], 0))
    s.getsockname()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        print(s.getsockname()[1])
    except OSError as e:
        print(errno.errorcode[e.errno])
    held.append(s)
"""


def check_named(tap):
    server = alone()
    # each with ports of its own: what is in TIME_WAIT cannot be bound without knowing the destination
    for ports, address, way in (("52310-52319", "0.0.0.0", "by range"), ("52320-52329", "127.0.0.1", "by range"),
                                ("62310-62319", "0.0.0.0", "by bind"), ("62320-62329", "127.0.0.1", "by bind")):
        with pool_folder() as folder:
            done = run([sys.executable, "-c", NAMED, str(server.port), address], asked(folder, ports))
            tap.point(len(set(in_range(done.stdout, ports))) == 10 and
                      done.stdout.split()[10:] == ["EADDRNOTAVAIL"] * 2,
                      f"bound to port 0 at {address} and asked for it: 10 ports, then EADDRNOTAVAIL ({way})",
                      done.stdout, done.stderr)


def check_own_port(tap):
    """Who has chosen a port needs none of the pool's, and does not wait for one."""
    server = Server()
    for ports, way in (("50300-50301", "by range"), ("61300-61301", "by bind")):
        with pool_folder() as folder:
            done = run([sys.executable, "-c", OWN_PORT, str(server.port)], asked(folder, ports))
            tap.equal((done.stdout.split(), done.stderr), (["own", "EADDRNOTAVAIL", "own"], ""),
                      f"a port of the program's own, when the pool has none left ({way})")
        with pool_folder() as folder:
            log = os.path.join(folder, "log")
            run([sys.executable, "-c", OWN_PORT, str(server.port)],
                asked(folder, ports, FIXPORT_LOG=log))
            with open(log, encoding="utf-8") as lines:
                told = lines.read()
            tap.point(re.search(rf"^fixport\[\d+\] bound-by-program 127.0.0.1:{server.port} "
                                r"port \d+$", told, re.M) is not None,
                      f"FIXPORT_LOG names a port of the program's own ({way})", told)


def check_prepared(tap, server):
    """Sockets are prepared for being replaced while the program leaves TIME_WAITs behind."""
    for ports, expected in (("50300-52400", "1 0 1"), ("50300-50500", "1 1 1")):
        with pool_folder() as folder:
            done = run([sys.executable, "-c", PREPARED, str(server.port)], asked(folder, ports))
            tap.equal((done.stdout.strip(), done.stderr), (expected, ""),
                      f"SO_REUSEADDR as long as ports may lack, {ports}")


# ---- faults: one line, once, and the program runs on ----


def garble(path, how):
    """Makes a good pool file a bad one."""
    if how == "truncated":
        os.truncate(path, 5000)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "another version":
        patch(path, 8, b"\x63\0\0\0")
    elif how == "no pool":
        patch(path, 0, b"#!/bin/sh")
    elif how == "a garbled policy":
        patch(path, 4096 + 40, os.urandom(64))
    elif how == "a symlink":
        os.rename(path, path + ".real")
        os.symlink(path + ".real", path)
    elif how == "a directory":
        os.remove(path)
        os.mkdir(path)
    elif how == "a FIFO":
        os.remove(path)
        os.mkfifo(path)
    elif how == "of another owner":
        os.chown(path, 12345, 12345)
    elif how == "missing":
        os.remove(path)


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


FAULTS = ["truncated", "empty", "another version", "no pool", "a garbled policy", "a symlink",
          "a directory", "a FIFO", "of another owner", "missing"]


def shares_of(path):
    """The file that all users of a pool write to: pool.TAG (layout.h)."""
    found = glob.glob(path + ".*")
    assert len(found) == 1, found
    return found[0]


def make_pool(folder, server, ports=BY_RANGE):
    dial(asked(folder, ports), server)
    return os.path.join(folder, "pool")


def check_faults(tap, server):
    for how in FAULTS:
        if how == "of another owner" and os.geteuid() != 0:
            tap.cannot(f"pool {how}", "chown needs root")
            continue
        with pool_folder() as folder:
            path = make_pool(folder, server)
            garble(path, how)
            only_pool = fptest.environment(FIXPORT_POOL=path)
            done = dial(only_pool, server, 3)
            lines = done.stderr.splitlines()
            tap.point(done.returncode == 0 and len(lines) == 1 and
                      lines[0].startswith(f"fixport: {path}: ") and
                      len([p for p in done.stdout.split() if p.isdigit()]) == 3,
                      f"pool {how}: said once, and the program runs on unrestricted", done.stderr,
                      done.stdout)
            if how == "missing":
                continue # with FIXPORT_PORTS it is made, then
            env = asked(folder, BY_RANGE, FIXPORT_ON_ERROR="fail")
            done = dial(env, server, 2)
            tap.point(done.stdout.split() == ["EADDRNOTAVAIL"] * 2 and
                      len(done.stderr.splitlines()) == 1,
                      f"pool {how}: FIXPORT_ON_ERROR=fail refuses", done.stdout, done.stderr)


def check_environment_faults(tap, server):
    cases = [("FIXPORT_PORTS", "60001-80001", "80001 is not a port: ports end at 65535"),
             ("FIXPORT_PORTS", "0-10", "0 is not a port"), ("FIXPORT_PORTS", "200-100", "200-100"),
             ("FIXPORT_PORTS", "", ""), ("FIXPORT_PORTS", "banana", "banana"),
             ("FIXPORT_PORTS", "1-10,5-20", "overlap"),
             ("FIXPORT_TO", "10.0.0.0/33", "33"), ("FIXPORT_TO", "nowhere", "nowhere"),
             ("FIXPORT_ON_ERROR", "maybe", "pass and fail")]
    for name, value, expected in cases:
        with pool_folder() as folder:
            env = asked(folder, BY_RANGE, **{}) | {name: value}
            done = dial(env, server, 2)
            tap.point(done.returncode == 0 and len(done.stderr.splitlines()) == 1 and
                      done.stderr.startswith(f"fixport: {name}=") and expected in done.stderr and
                      not os.path.exists(os.path.join(folder, "pool")),
                      f"{name}={value}: said once, nothing made, the program runs on", done.stderr)
    with pool_folder() as folder:
        done = dial(asked(folder, BY_BIND, FIXPORT_DISABLE="1"), server)
        tap.point(not in_range(done.stdout, BY_BIND) and not done.stderr and
                  not os.listdir(folder), "FIXPORT_DISABLE=1: as if the shim were not there",
                  done.stdout, done.stderr)


def check_stderr_is_respected(tap, server):
    """A daemon has something else on descriptor 2 by the time there is a fault to be said."""
    code = f"""
import os, socket, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.dup2(fd, 2)
socket.create_connection(("127.0.0.1", {server.port}))
"""
    with pool_folder() as folder:
        victim = os.path.join(folder, "database")
        done = run([sys.executable, "-c", code, victim],
                   fptest.environment(FIXPORT_POOL=os.path.join(folder, "none")))
        tap.point(done.returncode == 0 and os.path.getsize(victim) == 0,
                  "nothing is written to what took the place of stderr")


def check_random_pools(tap, server, variants):
    """Bytes of the pool's own file, and of its shares, changed at random."""
    seed = int(os.environ.get("FIXPORT_TEST_SEED", "1"))
    chance = random.Random(seed)
    crashes = []
    with pool_folder() as folder:
        path = make_pool(folder, server)
        files = (path, shares_of(path))
        good = [open(name, "rb").read(400000) for name in files]
        for i in range(variants):
            which, area = chance.choice([(0, (0, 64)), (0, (0, 512)), (0, (4096, len(good[0]))),
                                         (1, (0, 150000)), (1, (140000, 400000))])
            bad = bytearray(good[which])
            for _ in range(chance.choice([1, 4, 64, 1000])):
                bad[chance.randrange(*area)] = chance.randrange(256)
            patch(files[which], 0, bad)
            patch(files[1 - which], 0, good[1 - which])
            done = run([BEHAVE, chance.choice(["plain", "bind-zero", "descriptors"]),
                        str(server.port)], fptest.environment(FIXPORT_POOL=path))
            if done.returncode or len(done.stderr.splitlines()) > 1:
                crashes.append((i, done.returncode, done.stderr[-300:]))
        tap.point(not crashes, f"{variants} garbled pools: no crash (seed {seed})", *crashes[:5])


def check_truncation(tap, server, cut, name):
    """The file is cut to nothing while a program is connecting all the time."""
    code = """
import socket, sys, time
end = time.monotonic() + 1.5
count = 0
while time.monotonic() < end:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
        count += 1
    except OSError:
        pass
print("survived", count > 0)
"""
    with pool_folder() as folder:
        path = make_pool(folder, server)
        client = subprocess.Popen([sys.executable, "-c", code, str(server.port)],
                                  env=fptest.environment(FIXPORT_POOL=path), text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.7)  # in the middle of its 1.5 s; whenever it hits, the result is the same
        os.truncate(cut(path), 0)
        out, err = client.communicate(timeout=60)
        tap.point(client.returncode == 0 and "survived True" in out,
                  f"{name} truncated under a running program: it runs on", out, err)


def check_truncation_before_close(tap, server):
    """Cut when a program has a port of the pool, and has not closed it yet."""
    code = """
import os, socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
print("in range", 50900 <= sock.getsockname()[1] <= 50999)
os.truncate(sys.argv[2], int(sys.argv[1]))
sock.close()
print("survived")
"""
    for size in (0, 5000):
        with pool_folder() as folder:
            path = make_pool(folder, server, "50900-50999")
            done = run([sys.executable, "-c", code, str(size), shares_of(path),
                        str(server.port)],
                       fptest.environment(FIXPORT_POOL=path))
            tap.equal((done.returncode, done.stdout), (0, "in range True\nsurvived\n"),
                      f"the pool's shares cut to {size} bytes before a first close: it runs on")


# ---- namespaces ----

SETNS = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def dial():
    s = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    return s.getsockname()[1], s
one = dial()
fd = os.open("/run/netns/" + sys.argv[1], os.O_RDONLY)
raw = sys.argv[3] == "raw"
result = libc.syscall(308, fd, 0) if raw else libc.setns(fd, 0)
assert result == 0, ctypes.get_errno()
import time
tick = lambda: time.clock_gettime_ns(6) // 1000000  # CLOCK_MONOTONIC_COARSE
before = tick()
while raw and tick() == before:
    pass  # what is done behind the library's back it notices from the next tick on
two = dial()
print(one[0], two[0])
import subprocess
print(subprocess.run([sys.argv[4], "--pool", os.environ["FIXPORT_POOL"], "status", "--json"],
                     capture_output=True, text=True, env={}).stdout)
"""


def check_setns(tap, server):
    name = f"fptest{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        tap.cannot("setns", "making network namespaces needs root")
        return
    try:
        subprocess.run(fptest.in_netns(name, "ip", "link", "set", "lo", "up"), check=True)
        other = subprocess.Popen(
            fptest.in_netns(
                name, sys.executable, "-u", "-c",
                f"import socket; s = socket.create_server(('127.0.0.1', {server.port}), backlog=50);"
                "print('ready'); k = []\nwhile True: k.append(s.accept())"),
            stdout=subprocess.PIPE, text=True)
        other.stdout.readline()
        for how in ("libc", "raw"):
            with pool_folder() as folder:
                done = run([sys.executable, "-c", SETNS, name, str(server.port), how,
                            fptest.POOL_TOOL], asked(folder, BY_RANGE))
                ports = done.stdout.splitlines()[:1]
                holders = len(set(re.findall(r'"netns":\s*(\d+)', done.stdout)))
                tap.point(done.returncode == 0 and len(in_range(" ".join(ports), BY_RANGE)) == 2 and
                          len(set(ports[0].split())) == 2 and holders == 2,
                          f"setns ({how}): another namespace is another holder", done.stdout,
                          done.stderr)
        other.kill()
        other.wait()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


# A namespace's worth of programs, commanded line by line: "connect PORT" prints the source port or an
# error, "reset" closes all without leaving a TIME_WAIT, "bound PORT SOURCE" connects from a port.
COMMANDED = """
import errno, socket, struct, sys
listeners = [socket.create_server(("127.0.0.1", port), backlog=4096) for port in (7000, 7001)]
held = []
print("ready", flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    try:
        if word == "reset":
            for s in held:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
            held.clear()
            print("done", flush=True)
            continue
        s = socket.socket()
        if word == "bound":
            s.bind(("127.0.0.1", int(numbers[1])))
        s.connect(("127.0.0.1", int(numbers[0])))
        held.append(s)
        print(s.getsockname()[1], flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
"""


class Commanded:
    """COMMANDED in a network namespace of its own, or in that of another one's process."""

    def __init__(self, env, inside=None):
        enter = ["nsenter", f"--net=/proc/{inside.process.pid}/ns/net"] if inside else \
            ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        code = COMMANDED.replace("7000, 7001", "") if inside else COMMANDED
        self.process = subprocess.Popen([*enter, sys.executable, "-c", code], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.kill()
        self.process.communicate()


def small_pool(folder):
    """Ten ports, and no quarantine."""
    path, conf = os.path.join(folder, "pool"), os.path.join(folder, "conf")
    with open(conf, "w", encoding="ascii") as file:
        file.write("[pool]\nports = 50000-50009\nquarantine = 0\n[rule all]\nto = 127.0.0.0/8\n")
    done = run([fptest.POOL_TOOL, "create", "--pool", path, "-c", conf], dict(os.environ))
    assert done.returncode == 0, done.stderr
    return path


def check_giving_back(tap):
    with pool_folder() as folder:
        env = fptest.environment(FIXPORT_POOL=small_pool(folder))
        idle, poor = Commanded(env), Commanded(env)
        ports = {idle.tell("connect 7000") for _ in range(10)}
        tap.equal(len(ports), 10, "one namespace takes all ports")
        idle.tell("reset")
        tap.equal(poor.tell("connect 7000"), "EADDRNOTAVAIL",
                  "what it let go is its own as long as nobody asks")
        deadline = time.monotonic() + 30
        answer = "EADDRNOTAVAIL"
        while answer == "EADDRNOTAVAIL" and time.monotonic() < deadline:
            idle.tell("connect 7001")
            time.sleep(0.05)  # at most one answer a second
            answer = poor.tell("connect 7000")
        tap.point(answer in ports, "asked, it gives back when it next connects, to whatever", answer)
        idle.end()
        poor.end()


def check_adoption(tap):
    with pool_folder() as folder:
        env = fptest.environment(FIXPORT_POOL=small_pool(folder))
        plain = Commanded(dict(os.environ))
        tap.equal(plain.tell("bound 7000 50005"), "50005", "a connection that the pool never saw")
        late = Commanded(env, inside=plain)
        out = run([fptest.POOL_TOOL, "list", "--pool", env["FIXPORT_POOL"]], dict(os.environ)).stdout
        tap.point(re.search(r"^50005 +127.0.0.1:7000 +used", out, re.M) is not None,
                  "is taken in when its namespace joins", out)
        late.end()
        plain.end()


def check_replacing(tap):
    with pool_folder() as folder:
        path = small_pool(folder)
        client = Commanded(fptest.environment(FIXPORT_POOL=path))
        first = client.tell("connect 7000")
        os.unlink(path)
        second = client.tell("connect 7000")
        done = run([fptest.POOL_TOOL, "create", "--pool", path, "-p", "61100-61109", "-t", LOOPBACK],
                   dict(os.environ))
        deadline = time.monotonic() + 30
        port = second
        while not in_range(port, "61100-61109") and time.monotonic() < deadline:
            port = client.tell("connect 7001")
            client.tell("reset")
            time.sleep(0.05)  # it looks once a second
        tap.point(len(in_range(f"{first} {second}", "50000-50009")) == 2 and
                  len(in_range(port, "61100-61109")) == 1,
                  "a pool unlinked stays in use, and one made in its place is taken up",
                  first, second, port, done.stderr)
        client.end()


def check_adoption_after_rest(tap):
    with pool_folder() as folder:
        path = small_pool(folder)
        env = fptest.environment(FIXPORT_POOL=path)
        plain, other = Commanded(dict(os.environ)), Commanded(env)
        plain.tell("bound 7000 50005")
        ports = {other.tell("connect 7000") for _ in range(10)}
        other.tell("reset")
        deadline = time.monotonic() + 30
        listed = ""
        while listed.count("\n") != 1 and time.monotonic() < deadline:
            run([fptest.POOL_TOOL, "reclaim", "--pool", path], dict(os.environ))
            time.sleep(0.2)  # a lease younger than a second is left alone
            listed = run([fptest.POOL_TOOL, "list", "--pool", path], dict(os.environ)).stdout
        late, third = Commanded(env, inside=plain), Commanded(env)
        taken = {third.tell("connect 7000") for _ in range(10)}
        tap.point(len(ports) == 10 and "50005" not in taken and len(taken) == 10,
                  "so is one whose port another namespace has just given back", ports, taken)
        for commanded in (plain, other, late, third):
            commanded.end()


# Threads that connect all the time, and how many ports were not in 61000-61999.
BUSY = """
import socket, sys, threading, time
server = socket.create_server(("127.0.0.1", 7000), backlog=4096)
def serve():
    while True:
        server.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
end, counts = time.monotonic() + float(sys.argv[1]), [0, 0]
def dial():
    while time.monotonic() < end:
        s = socket.socket()
        try:
            s.connect(("127.0.0.1", 7000))
            counts[not 61000 <= s.getsockname()[1] <= 61999] += 1
        except OSError:
            pass
        s.close()
        time.sleep(0.001)
threads = [threading.Thread(target=dial) for _ in range(8)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for thread in threads:
    thread.join()
print(*counts)
"""


def check_replacing_under_threads(tap):
    with pool_folder() as folder:
        path = os.path.join(folder, "pool")

        def make(name):
            run([fptest.POOL_TOOL, "create", "--pool", name, "-p", "61000-61999", "-t", LOOPBACK],
                dict(os.environ))

        make(path)
        busy = subprocess.Popen(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                                 sys.executable, "-c", BUSY, "5"], stdout=subprocess.PIPE, text=True,
                                env=fptest.environment(FIXPORT_POOL=path))
        busy.stdout.readline()
        for _ in range(3):
            make(path + ".new")
            os.rename(path + ".new", path)
            time.sleep(1.2)  # it looks once a second
        inside, outside = map(int, busy.communicate()[0].split())
        tap.point(inside > 0 and outside == 0, "a pool replaced under 8 threads: no port out of range",
                  f"{inside} in the range, {outside} not")


def check_between_namespaces(tap):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        tap.cannot("between namespaces", "making network namespaces needs root")
        return
    check_giving_back(tap)
    check_adoption(tap)
    check_adoption_after_rest(tap)
    check_replacing(tap)
    check_replacing_under_threads(tap)


# ---- a system on which something fails ----

FAKES = [
    # what fails, the range, whether ports must still be right
    ("setsockopt/0/51=92", BY_RANGE, True, "a kernel without IP_LOCAL_PORT_RANGE"),
    ("getsockopt/1/71=92", BY_RANGE, True, "a kernel without SO_NETNS_COOKIE"),
    ("getsockopt/1/71=1", BY_RANGE, True, "SO_NETNS_COOKIE refused"),
    ("getrandom=38", BY_RANGE, True, "no getrandom"),
    ("fallocate=95", BY_RANGE, True, "a file system without fallocate"),
    ("linkat=1@1", BY_BIND, None, "a link that is not permitted"),
    ("fallocate=28", BY_BIND, None, "a full file system"),
    ("ftruncate=28", BY_BIND, None, "a full file system, later"),
    ("mmap=12", BY_BIND, None, "no memory to map it"),
    ("fcntl=22", BY_BIND, None, "no open-file-description locks"),
    ("fchmod=1", BY_BIND, None, "a mode that cannot be set"),
    ("socket=24@1-1", BY_RANGE, True, "no descriptor at the start"),
    ("openat=13", BY_BIND, None, "a pool that may not be opened"),
]


def check_fakes(tap, server):
    for fake, ports, restricted, what in FAKES:
        with pool_folder() as folder:
            env = asked(folder, ports, FAKE=fake)
            env["LD_PRELOAD"] += ":" + FAKE
            done = dial(env, server, 5)
            inside = len(in_range(done.stdout, ports))
            if restricted:
                good = inside == 5 and not done.stderr
            else:
                good = (inside == 0 and len(done.stdout.split()) == 5 and
                        "E" not in done.stdout and len(done.stderr.splitlines()) == 1)
            tap.point(good and done.returncode == 0, f"{what} ({fake}): " +
                      ("ports are right all the same" if restricted else
                       "said once, and the program runs on"), done.stdout, done.stderr)


def check_reconcile_without_kernel(tap, server):
    """The kernel does not answer: nothing is concluded, and nothing is lost for good."""
    code = """
import socket, sys
for i in range(30):
    s = socket.socket()
    try:
        s.connect(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        pass
    s.detach()
print("done")
"""
    with pool_folder() as folder:
        env = asked(folder, "50300-50309", FAKE="recvfrom=1")
        env["LD_PRELOAD"] += ":" + FAKE
        done = run([sys.executable, "-c", code, str(server.port)], env)
        tap.point(done.returncode == 0 and done.stdout == "done\n",
                  "NETLINK_SOCK_DIAG refused: the program runs on", done.stderr)


# Connects often, and resets: no TIME_WAIT has to be prepared for. Prints the fewest system calls that
# the library made for one, which are those of a connect in the same tick of the clock as the one before.
COUNTED = """
import ctypes, signal, socket, struct, sys
calls = ctypes.CDLL(None).fake_calls
if sys.argv[2] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGBUS])
fewest = 99
for _ in range(2000):
    before = calls()
    with socket.socket() as s:
        s.connect(("127.0.0.1", int(sys.argv[1])))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    fewest = min(fewest, calls() - before)
print(fewest)
"""

# Goes round the ports, and leaves a TIME_WAIT on each. Prints how many system calls a connect takes in the middle.
RECYCLED = """
import ctypes, socket, statistics, sys
calls = ctypes.CDLL(None).fake_calls
counts = []
for _ in range(4500):
    with socket.socket() as s:
        before = calls()
        s.connect(("127.0.0.1", int(sys.argv[1])))
        counts.append(calls() - before)
        s.shutdown(socket.SHUT_WR)
        s.recv(1)
print(statistics.median(counts[-2000:]))
"""


def check_calls(tap, server):
    with pool_folder() as folder:
        env = asked(folder, "61000-63000")
        env["LD_PRELOAD"] += ":" + FAKE
        done = run([sys.executable, "-S", "-c", COUNTED, str(server.port), "never"], env)
        tap.equal(done.stdout, "1\n", "a connect by bind makes one beside bind")
    for ports, way in (("50300-51799", "by range"), ("61300-62799", "by bind")):
        with pool_folder() as folder:
            env = asked(folder, ports)
            env["LD_PRELOAD"] += ":" + FAKE
            done = run([sys.executable, "-S", "-c", RECYCLED, str(Server().port)], env)
            tap.point(done.stdout.strip() and float(done.stdout) <= 5,  # it would take 8; in a tick of its own, 3
                      f"a connect over a TIME_WAIT does not ask about it ({way})", done.stdout, done.stderr)
    for mask, what in (("never", "that blocks no signal"), ("blocked", "that had SIGBUS blocked once")):
        with pool_folder() as folder:
            env = asked(folder, "50000-52000")
            env["LD_PRELOAD"] += ":" + FAKE
            done = run([sys.executable, "-S", "-c", COUNTED, str(server.port), mask], env)
            tap.equal(done.stdout, "1\n", f"a connect makes one system call more, in a program {what}")


# ---- what the library is ----


def check_redirected(tap, server):
    """Another library that is preloaded sends the connection elsewhere: there it counts."""
    connect = DIAL.replace("127.0.0.1", "198.51.100.1")
    for to, inside in (("127.0.0.0/8", True), ("198.51.100.1", False)):
        env = {k: v for k, v in os.environ.items() if not k.startswith("FIXPORT_")}
        env["LD_PRELOAD"] = ":".join([*fptest.BEFORE, fptest.program("shim", "libredirect.so")])
        done = run([fptest.RUN_TOOL, "-p", BY_RANGE, "-t", to, "--", sys.executable, "-c", connect,
                    str(server.port), "3"], env)
        lo, hi = map(int, BY_RANGE.split("-"))
        ports = [word.isdigit() and lo <= int(word) <= hi for word in done.stdout.split()]
        tap.equal(ports, [inside] * 3, f"fixport-run behind a library that redirects, a rule for {to}")


def check_library(tap):
    dynamic = run(["readelf", "-d", fptest.SHIM], os.environ).stdout
    tap.point("(NEEDED)" not in dynamic, "it needs no library", dynamic)
    symbols = run(["nm", "-D", fptest.SHIM], os.environ).stdout
    exported = sorted(line.split()[-1] for line in symbols.splitlines() if " T " in line)
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shim")
    with open(os.path.join(source, "libfixport.map"), encoding="ascii") as file:
        listed = sorted(re.findall(r"^    (\w+);", file.read(), re.M))
    tap.equal(exported, listed, "it exports what its map lists, and nothing else")
    with open(os.path.join(source, "weak.h"), encoding="ascii") as file:
        weak = sorted(re.findall(r"#pragma weak (\w+)", file.read()))
    undefined = sorted(line.split() for line in symbols.splitlines() if line.split()[0] in "wUv")
    tap.equal(undefined, [["w", name] for name in weak],
              "it asks the C library for weak symbols without versions only")


def check_musl(tap, server):
    """The same file in a program with another C library."""
    if not shutil.which("musl-gcc"):
        tap.cannot("musl", "musl-gcc is not installed")
        return
    with pool_folder() as folder:
        program = os.path.join(folder, "dial")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dial.c")
        build = run(["musl-gcc", "-O1", "-o", program, source], os.environ)
        if not tap.point(build.returncode == 0, "a program for musl is built", build.stderr):
            return
        for ports, way in ((BY_RANGE, "by range"), (BY_BIND, "by bind")):
            sub = os.path.join(folder, way)
            os.mkdir(sub)
            env = asked(sub, ports)
            done = run([program, str(server.port), "5"], env)
            tap.point(len(set(in_range(done.stdout, ports))) == 5,
                      f"musl: the same library file ({way})", done.stdout, done.stderr)


def check_no_libc(tap):
    """A dynamically linked program without a C library (as Go's can be) must start as ever."""
    code = """
    .globl _start
_start:
    mov $60, %eax
    mov $42, %edi
    syscall
"""
    if os.uname().machine != "x86_64":
        tap.cannot("no C library", "the program is for x86-64")
        return
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "a.s"), os.path.join(folder, "a")
        with open(source, "w", encoding="ascii") as file:
            file.write(code)
        run(["cc", "-nostdlib", "-pie", "-o", program, source,
             "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"], os.environ)
        plain = run([program], os.environ)
        done = run([program], fptest.environment(FIXPORT_PORTS=BY_RANGE))
        tap.point(plain.returncode == done.returncode == 42 and not done.stderr,
                  "a program without a C library is not touched",
                  f"{plain.returncode} {done.returncode}", done.stderr)


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    sanitized = bool(fptest.BEFORE)
    check_behaviour(tap)
    check_exhaustion(tap)
    check_named(tap)
    check_own_port(tap)
    server = Server()  # in the network that the checks above have come to
    check_prepared(tap, server)
    check_faults(tap, server)
    check_environment_faults(tap, server)
    check_stderr_is_respected(tap, server)
    check_truncation(tap, server, str, "the pool file")
    check_truncation(tap, server, shares_of, "the file of its shares")
    check_truncation_before_close(tap, server)
    check_setns(tap, server)
    check_between_namespaces(tap)
    check_fakes(tap, server)
    check_calls(tap, server)
    check_reconcile_without_kernel(tap, server)
    check_random_pools(tap, server, 300 if sanitized else 2000)
    if not sanitized:
        check_redirected(tap, server)
        check_library(tap)
        check_musl(tap, server)
        check_no_libc(tap)
    tap.end()


if __name__ == "__main__":
    main()
