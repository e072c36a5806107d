#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A port that is chosen before the destination is known: bind() to port 0, and what programs do next.

Each case is tried by range (ports inside ip_local_port_range) and by bind (outside), with IPv4 and
IPv6, with the kernel as it is and with one that has no IP_LOCAL_PORT_RANGE.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

FAKE = fptest.program("fake", "libfake.so")
LOCAL_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
# The first may not be above the second.
SETTINGS = "/proc/sys/net/ipv4/ip_unprivileged_port_start", LOCAL_RANGE
FIRST_SERVER = 7100  # each ground has two server ports of its own, one for each of two rules

# What each program below begins with. Servers are in the same process: they take and keep.
PRELUDE = """
import ctypes, errno, json, os, socket, struct, subprocess, sys, threading, time
ME, FAMILY = sys.argv[1], socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
ONE, TWO = map(int, sys.argv[2:4])
kept = []
def serve(port):
    listener = socket.socket(FAMILY)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((ME, port))
    listener.listen(4000)
    def take():
        while True:
            connection, peer = listener.accept()
            kept.append(connection)
            seen.append(peer[1])
    seen = []
    threading.Thread(target=take, daemon=True).start()
    return seen
def tcp(*options, proto=0):
    sock = socket.socket(FAMILY, socket.SOCK_STREAM, proto)
    for option in options:
        sock.setsockopt(*option)
    return sock
REUSE, SHARE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
def code(call, *arguments):
    try:
        return call(*arguments) or 0
    except OSError as error:
        return errno.errorcode[error.errno]
def port(sock):
    return sock.getsockname()[1]
def raw_port(sock):
    name, length = ctypes.create_string_buffer(128), ctypes.c_int(128)
    libc = ctypes.CDLL(None)
    assert libc.syscall(51, sock.fileno(), name, ctypes.byref(length)) == 0
    return int.from_bytes(name[2:4], "big")
def leave(sock, to):
    \"\"\"The port that the server sees, or the error.\"\"\"
    result = code(sock.connect, (ME, to))
    return result or port(sock)
def tell(*values):
    print(json.dumps(values), flush=True)
"""


class Ground:
    """A pool with two rules, and what happens to it."""

    count = 0

    def __init__(self, folder, one, two, exhausted="fail", fake=None, more=""):
        Ground.count += 2
        self.servers = FIRST_SERVER + Ground.count, FIRST_SERVER + Ground.count + 1
        self.path, self.log = os.path.join(folder, "pool"), os.path.join(folder, "log")
        self.conf = os.path.join(folder, "conf")
        self.pool = f"[pool]\nports = {one}\nwhen-exhausted = {exhausted}\nquarantine = 0\n{more}"
        self.configure("create",
                       f"[rule one]\nto = 127.0.0.0/8:{self.servers[0]}, [::1]:{self.servers[0]}\nports = {one}\n"
                       f"[rule two]\nto = 127.0.0.0/8:{self.servers[1]}, [::1]:{self.servers[1]}\nports = {two}\n")
        self.env = fptest.environment(FIXPORT_POOL=self.path, FIXPORT_LOG=self.log)
        if fake:
            self.env["FAKE"] = fake
            self.env["LD_PRELOAD"] += ":" + FAKE

    def configure(self, command, rules):
        with open(self.conf, "w", encoding="ascii") as file:
            file.write(self.pool + rules)
        done = subprocess.run([fptest.POOL_TOOL, command, "--pool", self.path, "-c", self.conf],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def argv(self, me, body, *arguments):
        return [sys.executable, "-c", PRELUDE + textwrap.dedent(body), me, *map(str, self.servers),
                *map(str, arguments)]

    def run(self, me, body, *arguments, env=None):
        done = subprocess.run(self.argv(me, body, *arguments), env=env or self.env, capture_output=True, text=True, timeout=100,
                              check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
        if done.returncode or len(lines) != 1:
            return [f"status {done.returncode}: {done.stdout}{done.stderr}"] + [None] * 19
        return __import__("json").loads(lines[0])

    def logged(self, what):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log, encoding="ascii") as file:
                return len(re.findall(rf"^fixport\[\d+\] {what} ", file.read(), re.M))
        return 0

    def counter(self, name):
        out = subprocess.run([fptest.POOL_TOOL, "status", "--json", "--pool", self.path],
                             capture_output=True, text=True, check=False).stdout
        found = re.search(rf'"{name}":\s*(\d+)', out)
        return int(found.group(1)) if found else out


def inside(port, ports):
    low, high = map(int, ports.split("-"))
    return isinstance(port, int) and low <= port <= high


# The name of a way, where the ports of two rules begin, what fails.
WAYS = [("by range", (40000, 50000), None), ("by bind", (20000, 61000), None),
        ("by bind, no IP_LOCAL_PORT_RANGE", (40000, 50000), "setsockopt/0/51=92")]


@contextlib.contextmanager
def grounds(count=100, shift=0, ways=WAYS, reserved=True, **options):
    """For each way and family: its name, the address, the rules' ports, a fresh pool. @shift: where what
    stays of one check, as MPTCP's TIME_WAIT does, must not be in the way of the next. @reserved: where the
    library cannot tell the kernel not to choose a rule's port for others, the machine does, as
    fixport-setup has it."""
    found = []
    with contextlib.ExitStack() as stack:
        for way, first, fake in ways:
            one, two = (f"{low + shift}-{low + shift + count - 1}" for low in first)
            for me in ("127.0.0.1", "::1"):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fixport-test-",
                                                                         dir="/dev/shm"))
                found.append((f"{way}, {me}", me, one, two,
                              Ground(folder, one, two, fake=fake, **options)))
        yield apart(found, reserved)


def apart(found, reserved):
    """Each in a network of its own: what is in TIME_WAIT for a minute, of one way or of a server on a port
    of the kernel's choice, may have one of the few ports that the next counts on."""
    for ground in found:
        fptest.new_network(*SETTINGS)
        if reserved and "no IP_LOCAL_PORT_RANGE" in ground[0]:
            with open(RESERVED, "w", encoding="ascii") as file:
                file.write(",".join(ground[2:4]))
        yield ground


def has_networks():
    return os.environ.get("FIXPORT_TEST_OWN_NETWORK") == "1" and os.access(LOCAL_RANGE, os.W_OK)


# ---- the choice can be made again ----


def check_second_rule(tap):
    """README's own example has two rules with disjoint ports."""
    with grounds() as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(ONE), (seen := serve(TWO))
                out = []
                for options in ((), (REUSE,), (SHARE,)):
                    for asks in (False, True):
                        for where in (ME, ""):
                            s = tcp(*options)
                            s.bind((where, 0))
                            told = port(s) if asks else 1
                            out += [told > 0, leave(s, TWO)]
                            kept.append(s)
                tell(*out)
            """)
            tap.point(all(value is True for value in got[0::2]) and
                      all(inside(value, two) for value in got[1::2]) and len(got) == 24,
                      f"bind to port 0, asked for or not, then the second rule ({name})", got)


def check_mptcp(tap):
    with grounds(shift=300) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                try:
                    s = tcp(proto=262)
                except OSError:
                    tell(None)
                    sys.exit()
                s.bind((ME, 0))
                told = port(s)
                tell(told, leave(s, TWO), s.getsockname()[0] == ME)
            """)
            if got[0] is None:
                tap.cannot(f"MPTCP ({name})", "no MPTCP here")
            else:
                tap.point(inside(got[1], two) and got[2] is True,
                          f"bind to port 0, then connect, with MPTCP ({name})", got)


def check_mptcp_again(tap):
    """MPTCP takes no SO_REUSEADDR once it is connected, and its ports are used again like others'."""
    for scope in ("node", "address"):
        check_mptcp_scope(tap, scope)


def check_mptcp_scope(tap, scope):
    with grounds(20, shift=340, exhausted="wait 5s", more=f"scope = {scope}\n") as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                listener = socket.socket(FAMILY)
                listener.bind((ME, TWO))
                listener.listen(100)
                def answer():
                    while True:
                        peer = listener.accept()[0]
                        peer.recv(1)
                        peer.close()
                threading.Thread(target=answer, daemon=True).start()
                results = []
                for _ in range(60):
                    try:
                        s = tcp(proto=262)
                    except OSError:
                        tell(None)
                        sys.exit()
                    results.append(leave(s, TWO))
                    if results[-1] == "EADDRNOTAVAIL":
                        break
                    s.close()
                tell(results)
            """)
            if got[0] is None:
                tap.cannot(f"MPTCP ({name})", "no MPTCP here")
            else:
                tap.point(all(inside(value, two) for value in got[0]) and len(got[0]) == 60,
                          f"60 MPTCP connections through 20 ports, one after the other, {scope} ({name})", got)


def check_options(tap):
    """What the program has set on the socket is set after a connect as without the library."""
    body = """
        serve(TWO)
        out = []
        for proto in (0, 262):
            s = tcp(proto=proto)
            for option, value in {1: 1, 2: 900, 4: 33, 5: 7, 6: 4, 7: 3, 8: 9, 10: 3000, 12: 0,
                                  18: 1234, 25: 5000, 46: 20000}.items():
                code(s.setsockopt, socket.IPPROTO_TCP, option, value)
            for option, value in {7: 20000, 8: 20000, 9: 1, 12: 3}.items():
                code(s.setsockopt, socket.SOL_SOCKET, option, value)
            s.bind((ME, 0))
            told = port(s)
            there = leave(s, TWO)
            out.append([isinstance(there, int)] + [code(s.getsockopt, level, option) for level, options in
                       ((socket.IPPROTO_TCP, (1, 2, 4, 5, 6, 7, 8, 10, 12, 18, 25, 46)),
                        (socket.SOL_SOCKET, (7, 8, 9, 12))) for option in options])
        tell(*out)
    """
    with grounds(shift=400) as found:
        for name, me, one, two, ground in found:
            plain = ground.run(me, body, env=dict(os.environ))
            got = ground.run(me, body)
            tap.equal(got, plain, f"options stay as they are ({name})")


def check_shared_descriptor(tap):
    """It is known of a duplicate, and in a child."""
    with grounds() as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                s = tcp()
                s.bind((ME, 0))
                told, copy = port(s), s.dup()
                s.close()
                again = port(copy) == told
                there = leave(copy, TWO)
                s = tcp()
                s.bind((ME, 0))
                read, write = os.pipe()
                if os.fork() == 0:
                    os.write(write, str(leave(s, TWO)).encode())
                    os._exit(0)
                tell(again, there, int(os.read(read, 100) or 0))
            """)
            tap.point(got[0] is True and inside(got[1], two) and inside(got[2], two),
                      f"a duplicate and a child know of it ({name})", got)


def check_after_time_wait(tap):
    """All ports of the rule are in TIME_WAIT in the namespace itself."""
    with grounds(count=10) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                for i in range(10):
                    s = tcp()
                    leave(s, TWO)
                    s.close()
                    kept.pop().close() if kept else None
                out = []
                for i in range(5):
                    s = tcp()
                    s.bind((ME, 0))
                    told = port(s)
                    out.append(leave(s, TWO))
                    s.close()
                tell(*out)
            """)
            tap.point(all(inside(value, two) or value == "EADDRNOTAVAIL" for value in got),
                      f"no port outside of the range when they rest ({name})", got)


def check_exhausted(tap):
    """The rule has no port left: it decides, and it is logged and counted."""
    for exhausted in ("fail", "pass"):
        with grounds(count=3, exhausted=exhausted) as found:
            for name, me, one, two, ground in found:
                got = ground.run(me, """
                    serve(TWO)
                    for i in range(3):
                        s = tcp()
                        assert isinstance(leave(s, TWO), int)
                        kept.append(s)
                    s = tcp()
                    s.bind((ME, 0))
                    told = port(s)
                    tell(leave(s, TWO))
                """)
                good = got[0] == "EADDRNOTAVAIL" if exhausted == "fail" else \
                    isinstance(got[0], int) and not inside(got[0], two)
                counted = ground.counter("exhausted"), ground.counter("passed")
                tap.point(good and ground.logged("exhausted") == 1 and
                          counted == (1, int(exhausted == "pass")),
                          f"none left: {exhausted}, logged and counted ({name})", got, counted)


def check_other_namespace(tap):
    """Another pod has gone round the ports of the rule, and let them go."""
    if os.environ.get("FIXPORT_TEST_OWN_NETWORK") != "1":
        tap.cannot("another namespace has the ports", "making network namespaces needs root")
        return
    with grounds(count=10, exhausted="fail") as found:
        for name, me, one, two, ground in found:
            argv = ground.argv(me, """
                serve(TWO)
                for i in range(10):
                    s = tcp()
                    leave(s, TWO)
                    s.close()
                print("ready", flush=True)
                sys.stdin.read()
            """)
            other = subprocess.Popen(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"',
                                      "sh", *argv], env=ground.env, text=True, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE)
            other.stdout.readline()
            got = ground.run(me, """
                serve(TWO)
                s = tcp()
                s.bind((ME, 0))
                told = port(s)
                tell(leave(s, TWO))
            """)
            other.communicate()
            counted = ground.logged("exhausted"), ground.counter("exhausted")
            tap.point(got == ["EADDRNOTAVAIL"] and counted == (1, 1),
                      f"another namespace has the ports: refused, logged, counted ({name})", got, counted)


def check_two_destinations(tap):
    """A connect that was refused by one rule's destination, then one to the other's."""
    for exhausted in ("fail", "pass"):
        with grounds(exhausted=exhausted) as found:
            for name, me, one, two, ground in found:
                got = ground.run(me, """
                    serve(TWO)
                    s = tcp()
                    tell(leave(s, ONE), leave(s, TWO))
                """)
                told = ground.logged("exhausted"), ground.counter("exhausted"), ground.counter("passed")
                passes = exhausted == "pass"
                good = inside(got[1], two) and told == (0, 0, 0)
                if "bind" in name:
                    # That socket has the first rule's port for ever, see fixport(7).
                    good = (isinstance(got[1], int) if passes else got[1] == "EADDRNOTAVAIL") and \
                        told == (1, 1, int(passes))
                tap.point(got[0] == "ECONNREFUSED" and good,
                          f"refused by one rule's destination, then the other's: {exhausted} ({name})",
                          got, told)


def check_failed_before(tap):
    """As without the library, a failed connect gives a port that was any back."""
    with grounds() as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                s = tcp()
                s.bind((ME, 0))
                first = port(s)
                tell(leave(s, 7003), code(s.bind, (ME, 0)), leave(s, TWO))
            """)
            tap.point(got[:2] == ["ECONNREFUSED", 0] and inside(got[2], two),
                      f"refused by a destination of no rule, bound again, connected ({name})", got)


# ---- who listens ----


def check_listener(tap):
    with grounds() as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                s = tcp()
                s.bind((ME, 0))
                before = raw_port(s)
                told = port(s)
                s.listen(5)
                after = port(s)
                c = tcp()
                c.connect((ME, told))
                s.accept()
                again = tcp()
                tell(before == told == after != 0, code(again.bind, (ME, told)), code(s.bind, (ME, 0)))
            """)
            tap.equal(got, [True, "EADDRINUSE", "EINVAL"],
                      f"a listener has the port that it was told, also by a raw call ({name})")


def check_servers_take_nothing(tap):
    """20 servers on port 0 beside rules of 20 ports."""
    with grounds(count=20) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                told = []
                for i in range(20):
                    s = tcp()
                    s.bind(("", 0))
                    told.append(port(s))
                    s.listen(5)
                    kept.append(s)
                out = []
                for i in range(20):
                    s = tcp()
                    out.append(leave(s, TWO))
                    kept.append(s)
                tell(told, out)
            """)
            tap.point(len(got) == 2 and not any(inside(value, ports) for value in got[0]
                                                for ports in (one, two)) and
                      all(inside(value, two) for value in got[1]),
                      f"20 servers take no port of the pool ({name})", got)


FTP = """
    listener = socket.create_server((ME, ONE), family=FAMILY)
    def ftp():
        control, _ = listener.accept()
        lines = control.makefile("rw", newline="\\r\\n")
        def say(text):
            lines.write(text + "\\n")
            lines.flush()
        say("220 ready")
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word in ("PORT", "EPRT"):
                numbers = rest.split(",") if word == "PORT" else None
                where = (".".join(numbers[:4]), int(numbers[4]) * 256 + int(numbers[5])) if numbers else \
                    (rest.split("|")[2], int(rest.split("|")[3]))
            if word == "RETR":
                say("150 here it is")
                with socket.create_connection(where) as data:
                    data.sendall(b"hello")
                peers.append([control.getpeername()[1], where[1]])
            say({"USER": "331 yes", "PASS": "230 in", "PWD": '257 "/"', "RETR": "226 done",
                 "SIZE": "502 no", "QUIT": "221 bye"}.get(word, "200 well"))
    peers = []
    threading.Thread(target=ftp, daemon=True).start()
    host = "[" + ME + "]" if ":" in ME else ME
    if sys.argv[4] == "curl":
        got = subprocess.run(["curl", "-s", "-g", "-P", "-", f"ftp://{host}:{ONE}/x"], capture_output=True,
                             text=True, timeout=30).stdout
    else:
        import ftplib
        client, chunks = ftplib.FTP(), []
        client.connect(ME, ONE)
        client.login()
        client.set_pasv(False)
        client.retrbinary("RETR x", chunks.append)
        client.quit()
        got = b"".join(chunks).decode()
    tell(got, *sum(peers, []))
"""


def check_active_ftp(tap):
    """A client listens on the port that it has told the server, and is connected to from there."""
    clients = ["ftplib"]
    # With a sanitizer's runtime, and nothing else, preloaded curl waits for ever in setlocale().
    if not fptest.BEFORE:
        if shutil.which("curl"):
            clients.append("curl")
        else:
            tap.cannot("curl's active FTP", "curl is not installed")
    for client in clients:
        with grounds(count=20) as found:
            for name, me, one, two, ground in found:
                got = ground.run(me, FTP, client)
                tap.point(len(got) == 3 and got[0] == "hello" and inside(got[1], one) and
                          not inside(got[2], one) and not inside(got[2], two),
                          f"{client}'s active FTP ({name})", got)


def check_socketserver(tap):
    with grounds(count=20) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                import socketserver
                class Echo(socketserver.BaseRequestHandler):
                    def handle(self):
                        self.request.sendall(self.request.recv(100))
                class Server(socketserver.ThreadingTCPServer):
                    address_family, daemon_threads = FAMILY, True
                serve(TWO)
                said, ports, there = [], [], []
                for i in range(20):
                    server = Server((ME, 0), Echo)
                    threading.Thread(target=server.serve_forever, daemon=True).start()
                    ports.append(server.server_address[1])
                    with socket.create_connection((ME, ports[-1])) as c:
                        c.sendall(b"hello")
                        said.append(c.recv(100) == b"hello")
                    s = tcp()
                    there.append(leave(s, TWO))
                    kept += [server, s]
                tell(said, ports, there)
            """)
            tap.point(len(got) == 3 and all(got[0]) and all(inside(value, two) for value in got[2]) and
                      not any(inside(value, one) or inside(value, two) for value in got[1]),
                      f"20 of socketserver's servers ({name})", got)


def check_free_port(tap):
    """Looks for a free port and uses the number later, while others connect."""
    with grounds(count=100) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                taken = 0
                for i in range(200):
                    s = tcp()
                    s.bind((ME, 0))
                    told = port(s)
                    s.close()
                    c = tcp()
                    leave(c, TWO)
                    kept.append(c) if i < 50 else c.close()
                    s = tcp()
                    taken += code(s.bind, (ME, told)) != 0
                    s.close()
                tell(taken)
            """)
            tap.equal(got, [0], f"a free port's number is good a little later ({name})")


# ---- options of the program's own ----

DUPLICATES = """
    serve(TWO)
    options = {"plain": (), "reuse": (REUSE,), "share": (SHARE,)}[sys.argv[4]]
    for i in range(150):
        s = tcp(*options)
        assert isinstance(leave(s, TWO), int)
        kept.append(s.dup())
        s.close()
    failed, ports, first = {}, set(), None
    for i in range(600):
        s = tcp(*options)
        there = leave(s, TWO)
        if not isinstance(there, int):
            failed[there] = failed.get(there, 0) + 1
            first = i if first is None else first
        ports.add(there)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    tell(failed, len(ports), first)
"""


def check_duplicates(tap):
    """Connections that live in a duplicate whose first descriptor is closed, as after a fork."""
    for count in (200, 4000):
        for options in ("share", "reuse", "plain"):
            with grounds(count=count) as found:
                for name, me, one, two, ground in found:
                    got = ground.run(me, DUPLICATES, options)
                    tap.point(got[0] == {}, f"150 of {count} live in duplicates, {options}: "
                              f"600 short ones find a port ({name})", got)


def check_own_range(tap):
    """IP_LOCAL_PORT_RANGE, set by the program: a choice of its own, as a port would be."""
    with grounds(shift=4400, ways=WAYS[:2]) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                def own(lo, hi):
                    s = tcp()
                    s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("I", lo | hi << 16))
                    return s
                def kept_range(s):
                    value = struct.unpack("I", s.getsockopt(socket.IPPROTO_IP, 51, 4))[0]
                    kept.append(s)
                    return [value & 0xffff, value >> 16]
                for port_ in (ONE, TWO, 7003):
                    serve(port_)
                out = []
                for to, lo, hi in ((TWO, 45000, 45010), (TWO, 54390, 54410), (TWO, 54420, 54439),
                                   (TWO, 1030, 1040), (7003, 45000, 45010)):
                    for wait in (0, 0.02):
                        s = own(lo, hi)
                        time.sleep(wait)
                        out.append([to, lo, hi, leave(s, to), kept_range(s) == [lo, hi]])
                s = own(45000, 45010)
                s.bind((ME, 0))
                told = port(s)
                s.listen(1)
                out.append([0, 45000, 45010, told, kept_range(s) == [45000, 45010]])
                s = own(45000, 45010)
                out.append([leave(s, 7004), kept_range(s)])
                out.append([leave(own(1030, 1040), 7004)])
                tell(*out)
            """)
            want = two if "range" in name else None
            for to, lo, hi, there, stays in got[:-2]:
                good = stays and isinstance(there, int)
                if to == ground.servers[1] and hi < 32768:
                    good = good and inside(there, two)  # the kernel ignores it: it is no choice
                else:
                    good = good and lo <= there <= hi
                    good = good and (not want or to != ground.servers[1] or hi < 54000 or inside(there, two))
                tap.point(good, f"its own IP_LOCAL_PORT_RANGE {lo}-{hi}, to {to} ({name})",
                          there, stays)
            tap.equal(got[-2:], [["ECONNREFUSED", [45000, 45010]], ["ECONNREFUSED"]],
                      f"is there after an error ({name})")
            tap.equal(ground.logged("bound-by-program"), 2 if want else 6, f"is logged ({name})")


def check_own_range_exhausted(tap):
    """The ports that the rule and the program have in common are in use."""
    with grounds(shift=4400, ways=WAYS[:1]) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(TWO)
                out = []
                for i in range(7):
                    s = tcp()
                    s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("I", 54390 | 54404 << 16))
                    out.append(leave(s, TWO))
                    kept.append(s)
                value = struct.unpack("I", s.getsockopt(socket.IPPROTO_IP, 51, 4))[0]
                tell(out, value == 54390 | 54404 << 16)
            """)
            tap.point(len(got) == 2 and set(got[0][:5]) == set(range(54400, 54405)) and
                      got[0][5:] == ["EADDRNOTAVAIL"] * 2 and got[1] is True and
                      ground.counter("exhausted") == 2,
                      f"no port in common is left ({name})", got)


# ---- sandboxes that forbid bind() ----

SANDBOX = """
    libc = ctypes.CDLL(None, use_errno=True)
    serve(TWO)
    def landlock():
        ruleset = libc.syscall(444, ctypes.byref((ctypes.c_uint64 * 2)(0, 3)), ctypes.c_size_t(16), 0)
        allowed = struct.pack("QQ", 2, TWO)
        assert ruleset >= 0 and libc.syscall(445, ruleset, 2, allowed, 0) == 0
        assert libc.syscall(446, ruleset, 0) == 0
    def seccomp():
        def op(code, jt, jf, k):
            return struct.pack("HBBI", code, jt, jf, k)
        code = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 49) + op(6, 0, 0, 0x50000 | 1) + op(6, 0, 0, 0x7fff0000)
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))
        assert libc.prctl(22, 2, program) == 0
    first = leave(tcp(), TWO)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    locals()[sys.argv[4]]()
    s = tcp()
    assert code(s.bind, (ME, 0)) == ("EACCES" if sys.argv[4] == "landlock" else "EPERM")
    tell(first, leave(tcp(), TWO), leave(s, TWO))
"""


def can_landlock():
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 4


def check_sandbox(tap):
    for how in ("landlock", "seccomp"):
        if how == "landlock" and not can_landlock():
            tap.cannot("Landlock", "this kernel cannot restrict bind()")
            continue
        with grounds() as found:
            for name, me, one, two, ground in found:
                env = dict(ground.env, FIXPORT_ON_ERROR="pass")
                got = ground.run(me, SANDBOX, how, env=env)
                by_range = "range" in name.split(",")[0]
                good = all(inside(value, two) for value in got) if by_range else \
                    inside(got[0], two) and all(isinstance(value, int) and not inside(value, two) for value in got[1:])
                told = ground.logged("not-permitted"), ground.counter("passed")
                tap.point(good and told == ((0, 0) if by_range else (2, 2)),
                          f"{how} without bind(): a connect passes, and it is told ({name})", got, told)
                got = ground.run(me, SANDBOX, how, env=dict(ground.env, FIXPORT_ON_ERROR="fail"))
                good = all(inside(value, two) for value in got) if by_range else \
                    got[1:] == ["EADDRNOTAVAIL"] * 2
                tap.point(good, f"{how} without bind(): ON_ERROR=fail refuses ({name})", got)


def check_listen_forbidden(tap):
    """A port that cannot be given back counts as none of the rule's."""
    for exhausted in ("fail", "pass"):
        with grounds(exhausted=exhausted) as found:
            for name, me, one, two, ground in found:
                got = ground.run(me, """
                    libc = ctypes.CDLL(None, use_errno=True)
                    serve(TWO)
                    s = tcp()
                    s.bind((ME, 0))
                    told = port(s)
                    def op(code, jt, jf, k):
                        return struct.pack("HBBI", code, jt, jf, k)
                    code_ = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 50) + op(6, 0, 0, 0x50001) + op(6, 0, 0, 0x7fff0000)
                    buffer = ctypes.create_string_buffer(code_)
                    program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))
                    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
                    there = leave(s, TWO)
                    tell(there == told or there, leave(tcp(), TWO))
                """)
                counted = ground.logged("exhausted"), ground.counter("exhausted"), ground.counter("passed")
                tap.point(got[0] == (True if exhausted == "pass" else "EADDRNOTAVAIL") and
                          inside(got[1], two) and counted == (1, 1, int(exhausted == "pass")),
                          f"listen() is forbidden: {exhausted} ({name})", got, counted)


# ---- bind() after a connect that failed ----


def check_bind_after_failure(tap):
    with grounds(shift=600) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                libc = ctypes.CDLL(None, use_errno=True)
                serve(TWO)
                if FAMILY == socket.AF_INET6:
                    wrong = struct.pack("=H", 2) + struct.pack("!H", TWO) + bytes([127, 0, 0, 1] + [0] * 20)
                else:
                    wrong = struct.pack("=H", 10) + struct.pack("!H", TWO) + bytes([0] * 19 + [1] + [0] * 4)
                out = []
                for proto in (0, 262):
                    s = tcp(proto=proto)
                    result = libc.connect(s.fileno(), wrong, len(wrong))
                    out.append([result, errno.errorcode.get(ctypes.get_errno()), code(s.bind, (ME, 45555))])
                    s.close()
                    s = tcp(proto=proto)
                    out.append([leave(s, ONE), code(s.bind, ("", 0)), code(s.listen, 1)])
                    s.close()
                    s = tcp(proto=proto)
                    out.append([leave(s, ONE), code(s.bind, (ME, 45557))])
                    s.close()
                tell(*out)
            """)
            for which, rest in (("TCP", got[:3]), ("MPTCP", got[3:])):
                tap.equal(rest[:2], [[-1, "EAFNOSUPPORT", 0], ["ECONNREFUSED", 0, 0]],
                          f"{which}, bound after a wrong family, or to any port after a refusal ({name})")
                tap.equal(rest[2:], [["ECONNREFUSED", "EINVAL" if "bind" in name else 0]],
                          f"{which}, bound to a port after a refusal: see fixport(7) ({name})")


@contextlib.contextmanager
def local_range(text):
    with open(LOCAL_RANGE, encoding="ascii") as file:
        before = file.read()
    try:
        with open(LOCAL_RANGE, "w", encoding="ascii") as file:
            file.write(text)
        yield
    finally:
        with open(LOCAL_RANGE, "w", encoding="ascii") as file:
            file.write(before)


def check_wide_range(tap):
    """Containers may set ip_local_port_range to anything."""
    with local_range("1024 65535"), grounds() as found:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w", encoding="ascii") as file:
            file.write("0")
        with open(LOCAL_RANGE, "w", encoding="ascii") as file:
            file.write("1 65535")
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(7003)
                told = []
                for i in range(5):
                    s = tcp()
                    s.bind((ME, 0))
                    s.listen(1)
                    told.append(port(s))
                    kept.append(s)
                out = []
                for i in range(5):
                    s = tcp()
                    s.bind((ME, 0))
                    out.append(isinstance(leave(s, 7003), int))
                    kept.append(s)
                tell(told, out)
            """)
            # The library narrows the kernel's choice to unprivileged ports where it can. Where it
            # cannot, one below 1024 is as good as any: whoever sets this range says so.
            lowest = 1 if "no IP_LOCAL_PORT_RANGE" in name else 1024
            tap.point(len(got) == 2 and len(set(got[0])) == 5 and min(got[0]) >= lowest and got[1] == [True] * 5 and
                      not any(inside(value, one) or inside(value, two) for value in got[0]),
                      f"ip_local_port_range 1 65535 ({name})", got)


def check_all_of_the_range(tap):
    """The rules have all ports that the kernel chooses from: then servers take of them."""
    with local_range("40000 40009"), grounds(count=10, ways=(WAYS[0], WAYS[2]), reserved=False) as found:
        for name, me, one, two, ground in found:
            got = ground.run(me, """
                serve(ONE)
                told = []
                for i in range(4):
                    s = tcp()
                    s.bind((ME, 0))
                    s.listen(1)
                    told.append(port(s))
                    kept.append(s)
                out = []
                for i in range(7):
                    s = tcp()
                    out.append(leave(s, ONE))
                    kept.append(s)
                read, write = os.pipe() # subprocess closes these sockets in a child of vfork()
                os.posix_spawn(sys.argv[4], [sys.argv[4], "list", "--pool", os.environ["FIXPORT_POOL"]], {},
                               file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
                os.close(write)
                listed = os.fdopen(read).read()
                tell(told, out, listed.count(" used "), listed)
            """, fptest.POOL_TOOL)
            tap.point(len(got) == 4 and len(set(got[0])) == 4 and got[2] == 6 and
                      all(inside(value, one) for value in got[1][:6]) and
                      got[1][6] == "EADDRNOTAVAIL" and not set(got[0]) & set(got[1]),
                      f"the rules have all of ip_local_port_range ({name})", got)


def begin(what):
    """For tests with grounds(): ports that others have, or had a moment ago, would decide."""
    fptest.in_own_network(user=True)
    tap = fptest.Tap()
    if not has_networks():
        tap.cannot(what, "neither root nor user namespaces: there is no network of its own to be had")
        tap.end()
    return tap


def main():
    tap = begin("bound sockets")
    for check in (check_second_rule, check_mptcp, check_mptcp_again, check_options, check_shared_descriptor,
                  check_after_time_wait, check_exhausted, check_other_namespace, check_two_destinations, check_failed_before, check_listener,
                  check_servers_take_nothing, check_active_ftp, check_socketserver, check_free_port, check_duplicates,
                  check_own_range, check_own_range_exhausted, check_sandbox, check_listen_forbidden,
                  check_bind_after_failure, check_wide_range, check_all_of_the_range):
        check(tap)
    tap.end()


if __name__ == "__main__":
    main()
