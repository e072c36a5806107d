#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Nothing fails in silence: where the kernel may not be asked, or has nothing left to give.

Whatever a program's seccomp filter refuses, and whatever runs out: each connection that a rule
matches has a port of the range, or the promised line has been written, once, and the connection is
refused if FIXPORT_ON_ERROR=fail, and goes on if not. The ports are those that the server sees.
"""

import collections
import contextlib
import ctypes
import glob
import itertools
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

FILTERED = fptest.program("hostile", "filtered")
BY_BIND, BY_RANGE = (61000, 61799), (50000, 50799)
EPERM, ENOSYS, ENOPROTOOPT, EADDRNOTAVAIL = 1, 38, 92, 99
COOKIE, NETLINK, UNIX = "getsockopt/1:1/2:71", "socket/0:16", "socket/0:1"


def in_own_mounts():
    """What is mounted from now on is seen by this test only."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0:  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Server:
    """Accepts, and tells where from. Closes by a reset, so that no port stays in use."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Condition()
        self.accepted = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, peer = self.listener.accept()
            with self.lock:
                self.accepted.append((connection, peer[1]))
                self.lock.notify()

    def take(self, count):
        """The source ports of the @count connections since the last time."""
        with self.lock:
            self.lock.wait_for(lambda: len(self.accepted) >= count, timeout=5)
            taken, self.accepted = self.accepted, []
        for connection, _ in taken:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        return [port for _, port in taken]


class Pool:
    def __init__(self, folder, server, ports, exhausted="fail", quarantine=0):
        os.chmod(folder, 0o755)
        self.path, self.ports, self.server = os.path.join(folder, "pool"), ports, server
        self.conf = os.path.join(folder, "conf")
        with open(self.conf, "w", encoding="ascii") as file:
            file.write(f"[pool]\nports = {ports[0]}-{ports[1]}\nmode = 0666\nquarantine = {quarantine}\n"
                       f"[rule all]\nto = 127.0.0.1:{server.port}\nwhen-exhausted = {exhausted}\n")
        done = self.tool("create", "-c", self.conf)
        assert done.returncode == 0, done.stderr

    def tool(self, *argv):
        return subprocess.run([fptest.POOL_TOOL, argv[0], "--pool", self.path, *argv[1:]], check=False,
                              capture_output=True, text=True, timeout=60)

    def environment(self, **more):
        return fptest.environment(FIXPORT_POOL=self.path, **more)

    def has(self, port):
        return self.ports[0] <= port <= self.ports[1]


@contextlib.contextmanager
def pool_of(server, ports=BY_RANGE, **options):
    with tempfile.TemporaryDirectory(prefix="fixport-silence-", dir="/dev/shm") as folder:
        yield Pool(folder, server, ports, **options)


def dial(pool, rules, launcher=False, count=3, after=0, kinds=(), before=(), **more):
    """Return: what became of each connection, the source ports, what was said, and the status."""
    argv = [FILTERED, "-" if launcher else rules, "dial", str(pool.server.port), str(count),
            str(after), *kinds]
    if launcher:
        argv = [FILTERED, rules, "run", *argv]
    done = subprocess.run([*before, *argv], env=pool.environment(**more), capture_output=True, text=True,
                          timeout=60, check=False)
    results = re.findall(r"^(ok|\d+)$", done.stdout, re.M)
    return results, pool.server.take(results.count("ok")), done.stderr, done.returncode


def fault_of(pool, answer, count, refuse):
    """What is wrong with what became of @count connections; None: nothing."""
    results, ports, said, status = answer
    lines = said.splitlines()
    outside = [port for port in ports if not pool.has(port)]
    if status != 0 or len(results) != count or len(ports) != results.count("ok"):
        return f"the program ended early: {answer}"
    if len(lines) > 1 or any(not line.startswith("fixport: ") for line in lines):
        return f"not one line: {answer}"
    failed = [result for result in results if result != "ok"]
    if not lines and (outside or failed):
        return f"and nothing was said: {answer}"
    if refuse and (outside or any(result != str(EADDRNOTAVAIL) for result in failed)):
        return f"not refused: {answer}"
    if not refuse and failed:
        return f"refused: {answer}"
    if lines and not lines[0].endswith("connections are refused (FIXPORT_ON_ERROR=fail)" if refuse
                                       else "source ports are not restricted"):
        return f"the line's end: {answer}"
    return None


# ---- filters ----

# What is refused, and whether it can always be done without: "always"; "fresh": for sockets that
# the library has seen made; "never" is said.
REFUSED = {
    "getsockopt": "fresh", COOKIE: "always", "setsockopt": "always", NETLINK: "always",
    UNIX: "always", "openat": "always", "newfstatat": "always", "newfstatat/3:0": "always", "getsockname": "some",
    "bind": "some", "fcntl": "some", "fstat": "always", "futex": "always", "nanosleep": "always",
    "clock_gettime": "always", "rt_sigprocmask": "always", "rt_sigaction": "always",
    "openat/2:0x80802": "some", "recvfrom": "always", "sendto": "always",
}
AT_START = [name for name in REFUSED if name not in ("openat", "fstat", "newfstatat")]  # the loader needs them
PAIRS = ["getsockopt", COOKIE, "setsockopt", NETLINK, "openat", "newfstatat/3:0", "bind", "getsockname"]
KINDS = [(), ("old",), ("bare",), ("nonblock",), ("again",)]


def combinations():
    """Rules, and how they are refused."""
    for name in REFUSED:
        for error in (EPERM, ENOSYS):
            yield (name,), error
    yield (COOKIE,), ENOPROTOOPT
    for pair in itertools.combinations(PAIRS, 2):
        yield pair, EPERM
    yield ("getsockopt", "setsockopt", NETLINK, "openat", "newfstatat/3:0"), EPERM
    yield tuple(PAIRS), ENOSYS


def nobody_knows(names, launcher):
    """Where the process is, if it was not to be found out at the start either."""
    return launcher and "newfstatat/3:0" in names and (COOKIE in names or "getsockopt" in names)


def check_filters(tap, server):
    for ports, way in ((BY_RANGE, "by range"), (BY_BIND, "by bind")):
        for names, error in combinations():
            rules = ",".join(f"{name}={error}" for name in names)
            moments = [(False, 0), (False, 1)]
            if all(name in AT_START for name in names):
                moments.append((True, 0))
            faults, silent = [], 0
            with pool_of(server, ports) as pool:
                for (launcher, after), kinds, on_error in itertools.product(moments, KINDS, ("pass", "fail")):
                    more = {"FIXPORT_ON_ERROR": on_error}
                    if launcher and any(name.startswith("openat") for name in names):
                        # there is no pool then, that could say that it is meant for loopback
                        more.update(policy(pool))
                    answer = dial(pool, rules, launcher, 3, after, kinds, **more)
                    fault = fault_of(pool, answer, 3, on_error == "fail")
                    known = {"always"} if "bare" in kinds else {"always", "fresh"}
                    if not fault and answer[2] and not nobody_knows(names, launcher) and \
                            known.issuperset(REFUSED[name] for name in names):
                        fault = f"can be avoided: {answer}"
                    if fault:
                        faults.append(f"{'launcher' if launcher else after} {kinds} {on_error}: {fault}")
                    silent += not answer[2]
            tap.point(not faults, f"refused, {way}: {rules}: {silent} without a line", *faults[:6])


def check_netns_at_start(tap, server):
    """Nobody says where a socket is: it is where the process started, and takes no second slot."""
    for rules, after in ((f"{COOKIE}={EPERM}", 1), (f"getsockopt={EPERM}", 1),
                         (f"getsockopt={EPERM},newfstatat={EPERM}", 1)):
        with pool_of(server) as pool:
            results, ports, said, _ = dial(pool, rules, after=after, kinds=("old",))
            holders = pool.tool("status", "--json").stdout.count('"taken"')
            tap.point(results == ["ok"] * 3 and all(map(pool.has, ports)) and not said and holders == 1,
                      f"{rules}: the namespace of the start is used", results, ports, said, f"{holders} holders")


def check_told(tap, server):
    """What fixport-run --check is told under a launcher's filter is what the first connection will say."""
    with pool_of(server) as pool:
        for rules, fault in ((f"{COOKIE}={EPERM},newfstatat/3:0={EPERM}", "SO_NETNS_COOKIE"),
                             (f"fcntl={EPERM}", "may not lock"), (f"openat/2:0x80802={EPERM}", "permission denied"),
                             (f"getsockopt={EPERM}", None), (f"setsockopt={ENOSYS}", None)):
            told = checked(pool, rules=rules)
            tap.point("state=fault" in told and fault in told if fault else "state=ok" in told,
                      f"--check, {rules}: {fault or 'ok'}", told)


def check_datagrams(tap, server):
    """A socket of UDP that a rule's addresses match is left alone, whatever cannot be asked."""
    with pool_of(server) as pool:
        for rules in (f"getsockopt={EPERM}", f"getsockopt={EPERM},setsockopt={EPERM}"):
            done = subprocess.run([FILTERED, rules, "dial", str(server.port), "2", "0", "datagram", "old"],
                                  env=pool.environment(FIXPORT_ON_ERROR="fail"), capture_output=True,
                                  text=True, timeout=60, check=False)
            tap.equal((done.stdout, done.stderr), ("ok\nok\n", ""), f"{rules}: UDP is left alone")


# ---- what runs out ----


def check_exhaustion(tap, server):
    """Ports that were closed unseen come back by a comparison with the kernel, or it is said why not."""
    cases = [("-", ("unseen",), None), (f"{NETLINK}={EPERM}", ("unseen",), "may not ask"),
             (f"sendto={ENOSYS}", ("unseen",), "may not ask"),
             ("-", ("unseen", "full"), "too many open files"),
             ("-", ("unseen", "memory"), "not enough memory"),
             (f"{NETLINK}={EPERM}", ("closed",), None), ("-", ("closed", "full"), None),
             ("-", ("closed", "memory"), None)]
    # beside the ports of what came before, which has left its TIME_WAITs
    for ports, (rules, kinds, why) in itertools.product(((52000, 52009), (62000, 62009)), cases):
        with pool_of(server, ports, exhausted="wait 2 s") as pool:
            results, seen, said, status = dial(pool, rules, count=11, after=0, kinds=kinds)
            expected = ["ok"] * 11 if not why else ["ok"] * 10 + [str(EADDRNOTAVAIL)]
            good = status == 0 and results == expected and all(map(pool.has, seen))
            good = good and (said.count("\n") == 1 and why in said and "not taken back" in said
                             if why else not said)
            tap.point(good, f"11 connections from {ports[0]} on, {rules}, {kinds}: {why or 'ports come back'}",
                      results, seen, said)


def check_few_descriptors(tap, server):
    """One descriptor is enough, at the start as later."""
    with pool_of(server) as pool:
        answer = dial(pool, "-", count=3, kinds=("closed",),
                      before=("sh", "-c", 'ulimit -n 4; exec "$@"', "sh"))
        tap.point(answer[0] == ["ok"] * 3 and all(map(pool.has, answer[1])) and not answer[2],
                  "a limit of 4 descriptors", answer)


def checked(pool, preexec=None, rules="-", **more):
    """What fixport-run --check would be told."""
    answer, hold = os.pipe(), os.pipe()
    env = pool.environment(FIXPORT_CHECK=f"{hold[0]},{answer[1]}", **more)
    argv = [FILTERED, "-", "dial", "1", "0", "0"]
    if rules != "-":  # the launcher is not asked
        told = [f"{name}={env.pop(name)}" for name in ("LD_PRELOAD", "FIXPORT_CHECK")]
        argv = [FILTERED, rules, "run", "env", *told, *argv]
    process = subprocess.Popen(argv, env=env, preexec_fn=preexec,
                               pass_fds=(hold[0], answer[1]), stderr=subprocess.DEVNULL)
    os.close(answer[1])
    os.close(hold[0])
    with os.fdopen(answer[0]) as file:
        text = ""
        for line in file:
            text += line
            if line == "\n":
                break
    os.close(hold[1])
    process.wait()
    return text


def check_memory(tap, server):
    """Whatever a limit leaves room for: the program ends as it would, or has its ports, or it is said."""
    short, faults = 0, []
    with pool_of(server) as pool:
        for limit in range(2 << 20, 20 << 20, 512 << 10):
            argv = [FILTERED, "-", "dial", str(server.port), "2", "0"]
            limited = ["prlimit", f"--as={limit}", *argv]
            bare = subprocess.run(limited, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
                                  check=False)
            server.take(bare.stdout.count("ok"))
            done = subprocess.run(limited, env=pool.environment(), capture_output=True, text=True, check=False)
            seen = server.take(done.stdout.count("ok"))
            if done.returncode == 127 or (bare.returncode and done.returncode == bare.returncode):
                continue  # the loader had not enough
            lines = [line for line in done.stderr.splitlines() if line.startswith("fixport: ")]
            if "cannot be preloaded" in done.stderr:
                continue
            if done.stdout != "ok\nok\n" or len(seen) != 2 or (not all(map(pool.has, seen)) and
                                             (len(lines) != 1 or "not enough memory" not in lines[0])):
                faults.append(f"{limit}: {done.returncode} {done.stdout} {done.stderr} {seen}")
            if lines:
                short += 1
                told = checked(pool, lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
                if "state=fault" not in told or "not enough memory" not in told:
                    faults.append(f"{limit}: --check: {told}")
    tap.point(short and not faults, f"too little address space is said to be that, {short} times", *faults[:5])


def check_space(tap, server):
    """A file system without space."""
    fill = 'cat /dev/zero > "$0" 2> /dev/null; exec "$@"'
    for how in ("cut", "holes"):
        for on_error in ("pass", "fail"):
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", folder], check=True)
                try:
                    pool = Pool(folder, server, BY_RANGE)
                    shares = next(name for name in os.listdir(folder) if name.startswith("pool."))
                    shares = os.path.join(folder, shares)
                    running = subprocess.Popen([FILTERED, "-", "dial", str(server.port), "4", "0", "pause"],
                                               env=pool.environment(FIXPORT_ON_ERROR=on_error, **policy(pool)),
                                               text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                               stderr=subprocess.PIPE)
                    first = running.stdout.readline()
                    at_first = server.take(1)
                    if how == "cut":
                        os.truncate(shares, 0)
                    else:
                        subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length",
                                        str(os.path.getsize(shares)), shares], check=True)
                    subprocess.run(["sh", "-c", fill, os.path.join(folder, "full"), "true"], check=False)
                    answer = dial(pool, "-", FIXPORT_ON_ERROR=on_error, **policy(pool))
                    told = checked(pool)
                    fault = fault_of(pool, answer, 3, on_error == "fail")
                    tap.point(not fault and "no space left" in answer[2], f"no space for shares ({how}), "
                              f"{on_error}: said", fault, answer)
                    tap.point("state=fault" in told and "no space left" in told, "and by --check", told)
                    out, err = running.communicate("\n" * 4, timeout=60)
                    results = (first + out).split()
                    answer = (results, at_first + server.take(results.count("ok") - 1), err, running.returncode)
                    # the connection in whose middle it was cut may still have its port
                    fault = fault_of(pool, answer, 4, on_error == "fail")
                    tap.point(not fault and "no space left" in err, f"no space for shares ({how}), {on_error}: "
                              "said by a running program", fault, answer)
                finally:
                    subprocess.run(["umount", "-l", folder], check=True)
    env = fptest.environment(FIXPORT_PORTS="50900-50909", FIXPORT_TO="127.0.0.1")
    for size, why in (("64k", "no space left"), ("8m", None)):
        done = subprocess.run(["unshare", "-m", "sh", "-c",
                               f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh", FILTERED, "-",
                               "dial", str(server.port), "2", "0"], env=env, capture_output=True, text=True,
                              check=False)
        inside = all(50900 <= port <= 50909 for port in server.take(2))
        tap.point(done.stdout == "ok\nok\n" and (why in done.stderr and done.stderr.count("\n") == 1
                                                 if why else inside and not done.stderr),
                  f"a private pool where there are {size}", done.stdout, done.stderr)
    with pool_of(server) as pool:
        answer = dial(pool, "-", FIXPORT_LOG="/dev/full")
        tap.point(answer[0] == ["ok"] * 3 and answer[2] ==
                  "fixport: FIXPORT_LOG=/dev/full: no space left; lines are missing\n", "a full log", answer)
    check_log_without_descriptors(tap, server)


NO_DESCRIPTORS = """
import os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sockets = [socket.socket() for _ in range(3)]
sockets[0].connect(("127.0.0.1", int(sys.argv[1])))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    sockets[1].connect(("127.0.0.1", int(sys.argv[1])))
for fd in taken:
    os.close(fd)
sockets[2].connect(("127.0.0.1", int(sys.argv[1])))
"""


def check_log_without_descriptors(tap, server):
    """The log is opened for each line: what is said of one that is missing is true of that one only."""
    with pool_of(server) as pool:
        log = pool.path + ".log"
        done = subprocess.run([sys.executable, "-c", NO_DESCRIPTORS, str(server.port)], text=True,
                              env=pool.environment(FIXPORT_LOG=log), capture_output=True, check=False)
        server.take(3)
        with open(log, encoding="ascii") as file:
            lines = file.readlines()
        tap.point(done.returncode == 0 and [" connect " in line for line in lines] == [True] * 2 and done.stderr ==
                  f"fixport: FIXPORT_LOG={log}: the program has too many open files; lines are missing\n",
                  "no descriptor is left for a line of the log, and one is for the next", done, lines)


# ---- locked memory ----


def locked(done):
    """Kilobytes: locked, and mapped."""
    found = re.search(r"VmLck (\d+) VmSize (\d+)", done)
    return (int(found[1]), int(found[2])) if found and "mlockall" not in done else (None, None)


def check_locked_memory(tap, server):
    """What a program locks does not grow by the pool, and nothing fails for the pool's sake."""
    with pool_of(server) as pool:
        most = os.path.getsize(glob.glob(pool.path + ".*")[0]) // 1024 // 4
        dialled = [FILTERED, "-", "dial", str(server.port), "3", "0", "closed"]
        for kind in ("lock", "lockfuture", "lockonfault"):
            plain, shimmed = (subprocess.run([*dialled, kind], env=env, capture_output=True, text=True,
                                             check=False) for env in (dict(os.environ), pool.environment()))
            least, mapped = locked(plain.stdout)
            after = locked(shimmed.stdout)[0]
            inside = all(map(pool.has, server.take(6)[3:]))
            tap.point(least and after and after - least < most and inside and not shimmed.stderr,
                      f"{kind}: {least} kB are locked, {after} kB with the library, whose pool has {most * 4} kB",
                      plain.stdout, shimmed.stdout, shimmed.stderr)
            limit = (mapped + 1024) * 1024
            user = ["setpriv", "--reuid=65534", "--clear-groups", "prlimit", f"--memlock={limit}:{limit}"]
            for name, env in (("without", dict(os.environ)), ("with", pool.environment())):
                done = subprocess.run([*user, *dialled, kind], env=env, capture_output=True, text=True, check=False)
                ports = server.take(3)
                good = locked(done.stdout)[0] and done.stdout.count("ok") == 3 and not done.stderr
                tap.point(good and (name == "without" or all(map(pool.has, ports))),
                          f"{kind}: as little as {limit} may be locked, {name} the library", done.stdout, done.stderr)
        for how in ("replaced", "cut", "cut within a limit"):
            before = user if "limit" in how else []
            busy = subprocess.Popen([*before, *dialled, "lockfuture", "pause"], env=pool.environment(), text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            busy.stdout.readline()
            if "cut" in how:
                os.truncate(glob.glob(pool.path + ".*")[0], 0)
            else:
                assert pool.tool("remove", "--force").returncode == 0
                assert pool.tool("create", "-c", pool.conf).returncode == 0
                time.sleep(1.1)  # it looks once a second
            out, err = busy.communicate("\n" * 3, timeout=60)
            after = locked(out)[0]
            ports = server.take(3)
            said = "the limit on locked memory" in err and err.count("\n") == 1  # zeros would be locked as well
            good = all(map(pool.has, ports)) and not err if not before else said or all(map(pool.has, ports))
            tap.point(after and after - least < most and len(ports) == 3 and good,
                      f"the pool is {how}: {after} kB", out, err, ports)


# ---- other users' eyes ----


def in_user_namespace(uid_map, uid, argv, env):
    """Runs @argv as @uid of a user namespace with that map, None for none. Return: what it printed, and said."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        ready, go = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # That the server's thread might hold a lock: the child takes none, and becomes another program.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                os.setgroups([])
                if uid_map is None:
                    os.setresuid(1000, 1000, 1000)
                assert libc.unshare(0x10000000) == 0, ctypes.get_errno()  # CLONE_NEWUSER
                os.write(ready[1], b"1")
                os.read(go[0], 1)
                if uid_map is not None:
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.execve(argv[0], argv, env)
            finally:
                os._exit(99)
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map") if uid_map is not None else ():
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(uid_map)
        os.write(go[1], b"1")
        os.waitpid(pid, 0)
        for end in (*ready, *go):
            os.close(end)
        out.seek(0)
        err.seek(0)
        return out.read(), err.read()


def check_user_namespaces(tap, server):
    """Root's pool where root is not mapped is used, and one that others may write is not."""
    maps = [("1000 is mapped alone", "1000 1000 1", 1000), ("nobody is mapped", None, 65534),
            ("a pod's users", "0 100000 65536", 1000), ("a pod's root", "0 100000 65536", 0),
            ("rootless", "0 1000 1\n1 100000 65535", 0)]
    for name, uid_map, uid in maps:
        with pool_of(server, BY_BIND) as pool:  # the kernel's own choice is elsewhere
            argv = [FILTERED, "-", "dial", str(server.port), "2", "0"]

            def tried(pool=pool, uid_map=uid_map, uid=uid, argv=argv):
                out, err = in_user_namespace(uid_map, uid, argv, pool.environment())
                return out, server.take(out.count("ok")), err
            out, ports, err = tried()
            tap.point(out == "ok\nok\n" and len(ports) == 2 and all(map(pool.has, ports)) and not err,
                      f"a user namespace, {name}: root's pool is used", out, ports, err)
            for mode in (0o646, 0o664):
                os.chmod(pool.path, mode)
                out, ports, err = tried()
                tap.point(out == "ok\nok\n" and err.count("\n") == 1 and "others may write it" in err and
                          not any(map(pool.has, ports)), f"{name}: not with mode {mode:o}", out, ports, err)
            os.chmod(pool.path, 0o644)
            owners = [102000] if uid_map and "100000" in uid_map else []
            if uid == 0:
                owners.append(100000 + 65534 if uid_map == "0 100000 65536" else 100000 + 65533)
            for owner in owners:  # those that are mapped; the last is "nobody" there, as root is
                os.chown(pool.path, owner, owner)
                out, ports, err = tried()
                tap.point(out == "ok\nok\n" and err.count("\n") == 1 and not any(map(pool.has, ports)),
                          f"{name}: not if {owner} is its owner", out, ports, err)


SECURE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/fixport /run/etc /run/bin
chmod 755 /run
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
"$1" create --pool /run/fixport/pool -c "$2" > /run/out
for kind in plain setuid capable; do cp "$4" /run/bin/$kind; done
chmod 4755 /run/bin/setuid
setcap cap_net_raw+ep /run/bin/capable
test "$5" = there || "$1" remove --pool /run/fixport/pool > /run/out
echo "$3" > /etc/ld.so.preload
shift 5
exec "$@"
"""


def check_secure(tap, server):
    """Loaded by /etc/ld.so.preload, the library obeys no environment in who has more rights than its user."""
    with pool_of(server, BY_BIND) as real, pool_of(server, (61800, 61899)) as evil:
        for kind, there, name in itertools.product(
                ("plain", "setuid", "capable"), ("there", "missing"),
                ("FIXPORT_POOL", "FIXPORT_PORTS", "FIXPORT_LOG", "FIXPORT_DISABLE", "FIXPORT_ON_ERROR",
                 "FIXPORT_CHECK")):
            log = os.path.join(os.path.dirname(evil.path), "log")
            folder = os.path.dirname(evil.path)
            os.chmod(folder, 0o777)
            answer, hold = os.pipe(), os.pipe()
            value = {"FIXPORT_POOL": evil.path, "FIXPORT_PORTS": "61800-61899", "FIXPORT_LOG": log,
                     "FIXPORT_DISABLE": "1", "FIXPORT_ON_ERROR": "fail",
                     "FIXPORT_CHECK": f"{hold[0]},{answer[1]}"}[name]
            more = ["FIXPORT_TO=127.0.0.1"] if name in ("FIXPORT_PORTS", "FIXPORT_ON_ERROR") else []
            if name == "FIXPORT_ON_ERROR":
                more.append("FIXPORT_PORTS=61000-61799")
                more.append("FIXPORT_POOL=/run/fixport/pool")
            process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", SECURE, "sh", fptest.POOL_TOOL, real.conf, fptest.SHIM, FILTERED,
                 there, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"{name}={value}",
                 *more, f"/run/bin/{kind}", "-", "dial", str(server.port), "1", "0"],
                env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                pass_fds=(hold[0], answer[1]))
            for end in (answer[1], hold[0], hold[1]):
                os.close(end)
            out, err = process.communicate(timeout=60)
            with os.fdopen(answer[0], "rb") as pipe:
                told = pipe.read()
            ports = server.take(out.count("ok"))
            logged = os.path.exists(log)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(log)
            if there == "there":
                same = out == "ok\n" and all(map(real.has, ports)) and len(ports) == 1 and not err
            else:
                same = out == "ok\n" and not any(map(real.has, ports)) and not any(map(evil.has, ports)) and \
                    len(ports) == 1 and err.count("\n") == 1 and "/run/fixport/pool: there is no such file" in err
            same = same and not told and not logged
            if kind == "plain":
                matters = {"FIXPORT_ON_ERROR": "missing", "FIXPORT_LOG": "there"}.get(name, there)
                obeyed = not same or there != matters
                tap.point(obeyed, f"{name}: obeyed where it may be, pool {there}", out, err, ports, told)
            else:
                tap.point(same, f"{name}: not obeyed, {kind}, pool {there}", out, err, ports, told, logged)
            for pool in glob.glob("/dev/shm/fixport-65534-*") + glob.glob("/dev/shm/fixport-0-*"):
                os.unlink(pool)


# ---- the calls that it makes ----

ROWS = {"start": "at the start", "connect": "at a connect", "short": "where no port is left",
        "close": "at a close", "line": "when a line is written", "lock": "at mlockall()"}


def documented():
    """SECURITY.md's table: for each moment the calls."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "SECURITY.md")
    with open(source, encoding="utf-8") as file:
        text = file.read()
    table = {}
    for row, title in ROWS.items():
        found = re.search(rf"^\| {re.escape(title)}[^|]*\| (.*) \|$", text, re.M)
        table[row] = set(re.findall(r"`(\w+)`", found[1])) if found else set()
    return table


def traced(folder, env, argv):
    """For each step of the program its system calls, and how many."""
    trace = os.path.join(folder, "trace")
    variables = [word for name in env if name.startswith(("FIXPORT_", "LD_PRELOAD")) for word in
                 ("-E", f"{name}={env[name]}")]
    done = subprocess.run(["strace", "-f", "-qq", "-o", trace, "-e", "signal=none", *variables, *argv],
                          env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    steps, step = collections.Counter(), "start"
    with open(trace, encoding="utf-8", errors="replace") as file:
        for line in file:
            mark = re.search(r'write\(-1, "(\w+)"', line)
            call = re.match(r"\d+ +(\w+)\(", line)
            if mark:
                step = mark[1]
            elif call:
                steps[step, call[1]] += 1
    return steps, done


def check_calls(tap, server):
    """What the library adds to a program's system calls is in SECURITY.md, and what is there is added."""
    if not shutil.which("strace") or not shutil.which("cc"):
        tap.cannot("the library's system calls", "there is no strace or no compiler")
        return
    table, seen = documented(), {row: set() for row in ROWS}
    with tempfile.TemporaryDirectory() as folder:
        empty = os.path.join(folder, "empty.so")
        subprocess.run(["cc", "-shared", "-nostdlib", "-o", empty, "-x", "c", "/dev/null"], check=True)

        def added(what, env, kinds, count, rows, before=()):
            """@rows: for each step of the program, the rows that its calls may be of."""
            argv = [*before, FILTERED, "-", "dial", str(server.port), str(count), "0", "marks", *kinds]
            plain, _ = traced(folder, {"LD_PRELOAD": empty}, argv)
            shimmed, done = traced(folder, env, argv)
            server.take(count)
            if not shimmed:
                tap.cannot("the library's system calls", "strace may not trace here")
                return
            unknown = {}
            for (step, call), times in shimmed.items():
                if times <= plain[step, call] or call in LOADERS:
                    continue
                of = rows.get(step, [])
                for row in of:
                    seen[row].add(call)
                if not any(call in table[row] for row in of):
                    unknown.setdefault(step, []).append(call)
            tap.point(not unknown, f"system calls, {what}: those that are documented", unknown, done.stderr)

        usual = {"start": ["start"], "connect": ["connect"], "close": ["close"],
                 "main": ["lock"]}
        for ports, way in ((BY_RANGE, "by range"), (BY_BIND, "by bind")):
            with pool_of(server, ports) as pool:
                added(f"{way}", pool.environment(), ["closed"], 5, usual)
                added(f"{way}, sockets not seen made", pool.environment(), ["closed", "bare"], 5, usual)
                added(f"{way}, a second later", pool.environment(), ["closed", "slow"], 3, usual)
                added(f"{way}, a vain connection", pool.environment(), ["closed", "again"], 3, usual)
                added(f"{way}, locked", pool.environment(), ["closed", "lockfuture"], 3, usual)
                added(f"{way}, locked within a limit", pool.environment(), ["closed", "lockfuture"], 3, usual,
                      ["setpriv", "--reuid=65534", "--clear-groups", "prlimit", "--memlock=5000000:5000000"])
                os.truncate(glob.glob(pool.path + ".*")[0], 5000)
                added(f"{way}, shares cut", pool.environment(), ["closed"], 2, usual)
            with pool_of(server, (ports[0], ports[0] + 3)) as pool:
                few = dict(usual, connect=["connect", "short"])
                added(f"{way}, few ports", pool.environment(), ["closed"], 12, few)
                added(f"{way}, none left", pool.environment(), [], 6, few)
            with pool_of(server, (ports[0], ports[0] + 3), exhausted="wait 2 s") as pool:
                added(f"{way}, waits", pool.environment(), ["unseen"], 5, few)
                added(f"{way}, somebody has waited", pool.environment(), ["closed"], 2, few)
            with pool_of(server, ports) as pool:
                own = fptest.environment(FIXPORT_PORTS=f"{ports[0]}-{ports[1]}", FIXPORT_TO="127.0.0.1",
                                         FIXPORT_POOL=pool.path + "own")
                added(f"{way}, a private pool", own, ["closed"], 3, usual)
                line = dict(usual, connect=["connect", "start", "line"])
                added(f"{way}, no pool", fptest.environment(FIXPORT_POOL="/nonexistent"), [], 2, line)
                line["connect"].remove("start")
                added(f"{way}, a log", pool.environment(FIXPORT_LOG=os.path.join(folder, "log")), [], 2, line)
                added(f"{way}, a log on stderr", pool.environment(FIXPORT_LOG="stderr"), [], 2, line)
        for row, calls in table.items():
            others = set().union(*(table[other] for other in ROWS if other != row))
            missing = calls - seen[row] - RARE.get(row, set())
            tap.point(calls and not missing, f"{ROWS[row]}: what is documented is made", missing,
                      f"seen: {sorted(seen[row] & (calls | (seen[row] - others)))}")


# What is documented, and is only made where something else fails or happens meanwhile.
RARE = {"start": {"unlinkat", "faccessat", "munlock", "madvise", "clock_gettime", "nanosleep"},
        "connect": {"connect", "sendto", "recvfrom"}, "line": {"rt_sigtimedwait", "ppoll"},
        "short": {"nanosleep"}, "close": {"futex"}}
LOADERS = {"mprotect"}


def policy(pool):
    """What makes the library know the rule without its pool."""
    return {"FIXPORT_PORTS": f"{pool.ports[0]}-{pool.ports[1]}", "FIXPORT_TO": "127.0.0.1"}


def main():
    fptest.in_own_network()
    in_own_mounts()
    tap = fptest.Tap()
    server = Server()
    check_filters(tap, server)
    check_netns_at_start(tap, server)
    check_datagrams(tap, server)
    check_told(tap, server)
    check_exhaustion(tap, server)
    check_few_descriptors(tap, server)
    check_memory(tap, server)
    check_space(tap, server)
    check_locked_memory(tap, server)
    check_user_namespaces(tap, server)
    check_secure(tap, server)
    check_calls(tap, server)
    tap.end()


if __name__ == "__main__":
    main()
