#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-probe by itself, on loopback in a network namespace of its own: its options, where it has
the range from, its JSON, and what strangers can make the listener do. What networks do to it is
tests/lab/probe.py's.

    FIXPORT_BUILD=build tests/tools/test_probe.py [WORD...]   only the tests with WORD in their name
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

PROBE = os.path.join(fptest.BUILD, "tools", "fixport-probe")
PORT = 7777
RANGE = "61001-61999"
NONCE = "0123456789abcdef"
HELLO = f"fixport-probe/1 try {NONCE} 1 plain 10.200.1.91 61001\n".encode()
PEERS = 64  # PEERS_MOST in probe.h
RUNS = 128  # RUNS_MOST

# The machine may have a pool: the tests have none but those that they make.
CLEAN = {name: value for name, value in os.environ.items()
         if not name.startswith("FIXPORT_") and name != "LD_PRELOAD"}
CLEAN["FIXPORT_POOL"] = "/nonexistent/pool"


def run(*argv, env=None, **more):
    return subprocess.run([PROBE, *map(str, argv)], capture_output=True, text=True, check=False,
                          env=dict(CLEAN, **(env or {})), timeout=60, **more)


def connect(*argv, env=None):
    """Return: the exit status and what it says."""
    done = run("connect", *argv, "--json", env=env)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


class Tap(fptest.Tap):
    """Says more of what failed only."""

    def point(self, good, name, *diagnostics):
        return super().point(good, name, *([] if good else diagnostics))


class Listener:
    """One that is ended by the end of the block, as by Ctrl-C."""

    def __init__(self, *argv, as_json=True, **more):
        self.process = subprocess.Popen(
            [PROBE, "listen", "--port", str(PORT), *argv, *(["--json"] if as_json else [])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN, **more)
        self.first = self.process.stdout.readline()
        self.out = self.err = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self, send=signal.SIGINT):
        if self.process.returncode is None:
            if send:
                self.process.send_signal(send)
            self.out, self.err = self.process.communicate(timeout=60)
        return self.process.returncode

    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


def dial(family=socket.AF_INET, port=PORT):
    connection = socket.socket(family)
    connection.settimeout(20)
    connection.connect(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    return connection


def rest(connection):
    """All that comes until the other side closes."""
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            text += piece
    return text


# ---- the command line ----

BAD = {
    "no command": [],
    "an unknown command": ["look"],
    "no host": ["connect"],
    "two hosts": ["connect", "127.0.0.1", "127.0.0.2"],
    "an operand too many": ["listen", "7777"],
    "an unknown option": ["listen", "--quick"],
    "an unknown letter": ["listen", "-x"],
    "an option without its value": ["listen", "--port"],
    "port 0": ["listen", "--port", "0"],
    "port 65536": ["listen", "--port", "65536"],
    "a port that is none": ["listen", "--port", "http"],
    "a negative port": ["listen", "--port", "-1"],
    "two ports": ["listen", "--port", "1", "--port", "2"],
    "a range beyond all ports": ["connect", "127.0.0.1", "--ports", "60001~80001"],
    "two ranges": ["connect", "127.0.0.1", "--ports", "1-2", "--ports", "3-4"],
    "an empty range": ["connect", "127.0.0.1", "--ports", ""],
    "too many tries": ["connect", "127.0.0.1", "--tries", "6"],
    "no tries": ["connect", "127.0.0.1", "--tries", "0"],
    "too long a wait": ["connect", "127.0.0.1", "--wait", "31"],
    "a listener that waits": ["listen", "--wait", "3"],
    "a connector that captures": ["connect", "127.0.0.1", "--capture"],
    "no listening and no capture": ["listen", "--no-listen"],
    "both families alone": ["listen", "-4", "-6"],
    "an address that is none": ["listen", "--address", "localhost"],
    "an address of another machine": ["listen", "--address", "192.0.2.1"],
    "a configuration that is not there": ["listen", "--config", "/nonexistent"],
    "a link-local host": ["connect", "fe80::1%lo"],
    "a multicast host": ["connect", "224.0.0.1"],
    "a host that is not there": ["connect", "no-such-host.invalid"],
    "a time that is none": ["listen", "--timeout", "1e9"],
    "a count of none": ["listen", "--count", "0"],
}


def test_bad_input(tap):
    for name, argv in BAD.items():
        done = run(*argv)
        lines = done.stderr.splitlines()
        tap.point(done.returncode == 1 and len(lines) == 1 and not done.stdout and
                  lines[0].startswith("fixport-probe: "), f"{name}: one line, status 1",
                  done.returncode, done.stdout, done.stderr)
    done = run("connect", "127.0.0.1", "--ports", "60001~80001")
    tap.point("80001 is not a port: ports end at 65535" in done.stderr, "why 80001 is no port",
              done.stderr)


def test_help(tap):
    for argv in (["help"], ["--help"], ["connect", "--help"]):
        done = run(*argv)
        both = "listen" in done.stdout and "connect HOST" in done.stdout
        tap.point(done.returncode == 0 and both, f"{' '.join(argv)}", done)
    done = run("--version")
    tap.point(done.returncode == 0 and re.fullmatch(r"fixport-probe \S+\n", done.stdout),
              "--version", done)


def test_output_that_cannot_be_written(tap):
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run([PROBE, "help"], stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False, env=CLEAN)
    tap.point(done.returncode == 1 and "cannot be written" in done.stderr, "stdout is full", done)


# ---- two sides ----


def test_a_stream_that_is_missing(tap):
    """Its number is not given to a socket, into which would be said what is for people."""
    for stream in (0, 2):
        with Listener(preexec_fn=lambda stream=stream: os.close(stream)) as listener:
            stranger_is_heard()
            held = descriptors(tap, listener, f"without descriptor {stream}")
            if held is not None:
                tap.equal(held[str(stream)], "/dev/null", f"without descriptor {stream}")
    done = run("listen", "--port", PORT, preexec_fn=lambda: os.close(1))
    tap.point(done.returncode == 1 and "stdout cannot be written" in done.stderr, "without stdout",
              done)


def descriptors(tap, listener, name):
    """What a listener has open, by descriptor. It has given root up: root without CAP_SYS_PTRACE, as
    in a container, may not look. Return: None, then."""
    folder = f"/proc/{listener.process.pid}/fd"
    held = {}
    try:
        for entry in os.listdir(folder):
            try:
                held[entry] = os.readlink(f"{folder}/{entry}")
            except FileNotFoundError:
                pass  # a stranger's, who has gone meanwhile
    except PermissionError:
        tap.cannot(name, "its descriptors cannot be looked at without CAP_SYS_PTRACE")
        return None
    return held


def stranger_is_heard():
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError), dial():
            return
        time.sleep(0.05)


def test_both_families(tap):
    for to in ("127.0.0.1", "::1"):
        with Listener() as listener:
            status, (line,), _ = connect(to, "--port", PORT, "--ports", RANGE)
        heard = listener.lines()[0]
        tap.equal((status, listener.process.returncode), (0, 0), f"{to}: both end with status 0")
        tap.equal((line["verdict"], line["pod"], line["arrives_from"]), ("no-snat", to, to),
                  f"{to}: arrives as it left")
        tap.point(line["contact"] and all(line[key] == heard[key] for key in
                                          ("verdict", "text", "notes", "advice", "tries")),
                  f"{to}: both say the same", line, heard)
        kinds = [item["kind"] for item in line["tries"]]
        tap.equal(sorted(kinds), sorted(["plain", "inside", "outside"] * 2), f"{to}: six tries")
        for item in line["tries"]:
            inside = 61001 <= item["own_port"] <= 61999
            tap.point(inside == (item["kind"] == "inside") and item["port_kept"],
                      f"{to}: the port of a try that is {item['kind']}", item)


def test_a_name_has_both_families(tap):
    try:
        known = {info[4][0] for info in socket.getaddrinfo("localhost", PORT)}
    except socket.gaierror:
        tap.cannot("a name", "localhost has no address here")
        return
    with Listener("--count", "2"):
        status, lines, err = connect("localhost", "--port", PORT)
    tap.equal((status, {line["to_address"] for line in lines}), (0, known),
              "a name is probed in each family that it has")
    with Listener():
        _, lines, err = connect("localhost", "-4", "--port", PORT)
    tap.equal([line["to_address"] for line in lines], ["127.0.0.1"], "-4")


def test_another_family(tap):
    with Listener("-6"):
        status, (line,), err = connect("127.0.0.1", "--port", PORT)
    tap.equal((status, line["verdict"]), (2, "refused"), "a listener of the other family alone")
    tap.equal(err, "", "nothing on stderr")


def test_words_for_people(tap):
    with Listener(as_json=False) as listener:
        done = run("connect", "127.0.0.1", "--port", PORT, "--ports", RANGE)
    both = "No SNAT: it arrives from the pod's own address 127.0.0.1, and its port is kept."
    tap.point(both in done.stdout and both in listener.out, "both print the verdict", done.stdout,
              listener.out)
    tap.point(f"--port {PORT}" in listener.first, "the listener says what to do in the pod",
              listener.first)
    tap.point(re.search(r"127\.0\.0\.1 +127\.0\.0\.1 +2 of 2 +no-snat", listener.out),
              "the listener ends with a table", listener.out)


def test_ends(tap):
    with Listener("--count", "1", as_json=False) as listener:
        run("connect", "127.0.0.1", "--port", PORT)
        tap.equal(listener.end(send=None), 0, "--count ends it")
    with Listener("--timeout", "1", as_json=False) as listener:
        tap.equal(listener.end(send=None), 2, "--timeout ends it; nothing arrived is status 2")
    tap.point("Nothing arrived" in listener.out, "and it says so", listener.out)
    with Listener() as listener:
        tap.equal(listener.end(signal.SIGTERM), 2, "SIGTERM ends it, too")
    tap.equal(listener.lines(), [{"summary": True, "probes": 0, "verdicts": {}, "others": 0,
                                  "not_shown": 0, "status": 2}], "the summary in JSON")


def test_port_in_use(tap):
    with socket.create_server(("127.0.0.1", PORT)):
        done = run("listen", "--port", PORT)
    tap.point(done.returncode == 1 and "Address already in use" in done.stderr,
              "a port that another program has", done)


def test_not_a_probe(tap):
    with socket.create_server(("127.0.0.1", PORT)):
        status, (line,), _ = connect("127.0.0.1", "--port", PORT, "--wait", "1")
    tap.equal((status, line["verdict"]), (2, "not-a-probe"), "another program that is silent")
    server = subprocess.Popen([sys.executable, "-c", TALKER, str(PORT)], stdout=subprocess.PIPE,
                              text=True)
    server.stdout.readline()
    status, (line,), _ = connect("127.0.0.1", "--port", PORT, "--wait", "1")
    server.kill()
    server.communicate()
    tap.equal((status, line["verdict"]), (2, "not-a-probe"), "another program that talks")


def test_progress(tap):
    """A terminal is told what is waited for, after two seconds; nobody else is."""
    outer, inner = os.openpty()
    with socket.create_server(("127.0.0.1", PORT)):
        done = subprocess.run([PROBE, "connect", "127.0.0.1", "--port", str(PORT), "--wait", "3"],
                              stdout=subprocess.PIPE, stderr=inner, env=CLEAN, check=False)
        os.close(inner)
        shown = os.read(outer, 10000)
        os.close(outer)
        quiet = run("connect", "127.0.0.1", "--port", PORT, "--wait", "3")
    tap.point(done.returncode == 2 and b"tries that have come to an end: 0 of 2" in shown,
              "progress on a terminal", shown)
    tap.equal(quiet.stderr, "", "and nowhere else")


TALKER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=99)
print("ready", flush=True)
while True:
    connection = server.accept()[0]
    connection.sendall(b"fixport-probe/1 seen 99 1.2.3.4 5\\n" * 1000)
    connection.close()
"""


# ---- the range ----


def test_where_the_range_is_from(tap):
    def told(*argv, **env):
        status, lines, err = connect("127.0.0.1", "--port", PORT, *argv, env=env)
        return lines[0]["range"] if lines else (status, err)
    with tempfile.TemporaryDirectory() as folder:
        config, pool = os.path.join(folder, "conf"), os.path.join(folder, "pool")
        with open(config, "w", encoding="ascii") as file:
            file.write("[pool]\nports = 62001-62099\n[rule a]\nto = 127.0.0.1:7777\n"
                       "ports = 62101-62199\n[rule b]\nto = 10.0.0.0/8\n")
        subprocess.run([fptest.POOL_TOOL, "create", "--pool", pool, "-p", "63001-63099",
                        "-t", "127.0.0.1"], check=True, env=CLEAN, capture_output=True)
        tap.equal(told("--ports", "61001-61009"), "61001-61009", "--ports")
        tap.equal(told("--config", config), "62101-62199", "--config: the rule for the host")
        tap.equal(told(FIXPORT_PORTS="61011-61019"), "61011-61019", "FIXPORT_PORTS")
        tap.equal(told(FIXPORT_POOL=pool), "63001-63099", "the pool")
        tap.equal(told("--ports", "61001", FIXPORT_POOL=pool), "61001", "--ports is the strongest")
        tap.equal(connect("127.0.0.1", "--config", config, "--port", "7778")[1][0]["range"],
                  "62001-62099,62101-62199", "no rule for it: the ports of all")
    status, _, err = connect("127.0.0.1", env={"FIXPORT_PORTS": "60001-80001"})
    tap.point(status == 1 and "80001 is not a port" in err, "a bad FIXPORT_PORTS", err)
    tap.equal(told(), None, "nobody says")


def test_few_ports_can_be_tried_again(tap):
    with Listener("--count", "3"):
        results = [connect("127.0.0.1", "--port", PORT, "--ports", "61001")[0] for _ in range(3)]
    tap.equal(results, [0, 0, 0], "a range of one port, three times in a row")


@contextlib.contextmanager
def own_pool(ports):
    """A pool that nobody has used: ports rest for a while before another namespace has them."""
    with tempfile.TemporaryDirectory() as folder:
        yield {"FIXPORT_POOL": os.path.join(folder, "pool"), "FIXPORT_PORTS": ports,
               "FIXPORT_TO": "127.0.0.1", "LD_PRELOAD": fptest.PRELOAD}


def test_few_ports_with_the_shim(tap):
    """What the probe itself takes must not leave the shim without a port."""
    for ports in ("62101", "62101-62102", "62101-62103"):
        with own_pool(ports) as env, Listener():
            status, (line,), err = connect("127.0.0.1", "--port", PORT, env=env)
        tap.point(status == 0, f"with the shim and {ports}", line["text"], line["tries"], err)
        tried = min(int(ports[-1]), 2)
        tap.equal((line["counted"], line["answered"]), (tried, tried),
                  f"of {ports}, what the shim gives is tried")


def test_no_port_left(tap):
    with own_pool("62111") as env, Listener(), socket.socket() as holder:
        holder.bind(("0.0.0.0", 62111))
        status, (line,), _ = connect("127.0.0.1", "--port", PORT, env=env)
    tap.equal((status, line["verdict"]), (2, "not-sent"), "the shim has no port left")
    tap.point("fixport-pool status" in line["text"], "and it says where to look", line)


def test_output_that_is_not_read(tap):
    listener = Listener()
    listener.process.stdout.close()
    connect("127.0.0.1", "--port", PORT)
    tap.equal(listener.process.wait(timeout=20), 1, "a listener that nobody reads ends")
    listener.process.stderr.close()


def test_shim(tap):
    with own_pool(RANGE) as pool:
        with Listener():
            status, (line,), err = connect("127.0.0.1", "--port", PORT, env=pool)
        ports = [item["own_port"] for item in line["tries"] if item["kind"] == "plain"]
        tap.point(status == 0 and line["shim"] and all(61001 <= port <= 61999 for port in ports),
                  "with the shim every port is inside", line, err)
        with Listener():
            status, (line,), err = connect("127.0.0.1", "--port", PORT,
                                           env=dict(pool, FIXPORT_DISABLE="1"))
        tap.point(status == 0 and not line["shim"], "a shim that is disabled is none", line, err)
        with Listener():
            status, (line,), err = connect("127.0.0.1", "--port", PORT, "--ports", "50001-50099",
                                           env=pool)
        tap.point(status == 2 and any("The shim is loaded, but" in note for note in line["notes"]),
                  "a shim with other ports than were asked about", line, err)


# ---- capturing ----


def test_capture(tap):
    if not can_capture():
        tap.cannot("--capture", "needs CAP_NET_RAW")
        return
    with Listener("--capture") as listener:
        connect("127.0.0.1", "--port", PORT, "--ports", RANGE)
    tries = listener.lines()[0]["tries"]
    tap.point(all(item["syns"] == 1 and item["answer_left"] == "syn-ack" for item in tries),
              "every SYN and its answer are seen", *tries)
    with Listener("--capture", "--no-listen") as listener:
        connect("127.0.0.1", "--port", PORT, "--ports", RANGE)
        dial_refused(9)
    lines = listener.lines()
    tap.equal([line.get("verdict") for line in lines], ["refused", None], "without listening")
    tap.equal(lines[-1]["others"], 9, "SYNs that are no probe's are counted")
    with socket.create_server(("127.0.0.1", PORT)), Listener("--capture") as listener:
        connect("127.0.0.1", "--port", PORT, "--wait", "1")
    tap.point('"listening":false' in listener.first and "only looking" in listener.err,
              "another program has the port: it looks", listener.first, listener.err)


def dial_refused(count):
    for _ in range(count):
        with contextlib.suppress(ConnectionRefusedError):
            dial()


def can_capture():
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def test_capture_needs_a_privilege(tap):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copy(PROBE, folder)  # nobody may not be let into the build tree
        nobody = {} if os.geteuid() else {"user": 65534, "group": 65534}
        done = subprocess.run([os.path.join(folder, "fixport-probe"), "listen", "--capture",
                               "--port", str(PORT)], capture_output=True, text=True, check=False,
                              env=CLEAN, timeout=60, **nobody)
    tap.point(done.returncode == 1 and "CAP_NET_RAW" in done.stderr and
              len(done.stderr.splitlines()) == 1, "--capture as anybody: one sentence", done)


def test_root_is_given_up(tap):
    if os.geteuid() != 0:
        tap.cannot("root is given up", "needs root")
        return
    with Listener("--capture") as listener:
        with open(f"/proc/{listener.process.pid}/status", encoding="ascii") as file:
            status = file.read()
    tap.point(re.search(r"^Uid:\t65534\t65534\t65534", status, re.M) and
              re.search(r"^CapEff:\t0+$", status, re.M), "the listener gives root up", status)


# ---- strangers ----

STRANGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "nothing": b"",
    "an endless line": b"A" * 100000,
    "zeros": bytes(5000),
    "escape sequences": b"\x1b[2J\x1b]0;pwned\x07\n",
    "an index of 0": HELLO.replace(b" 1 plain", b" 0 plain"),
    "an index of 16": HELLO.replace(b" 1 plain", b" 16 plain"),
    "a nonce of 0": HELLO.replace(NONCE.encode(), b"0" * 16),
    "a report without a try": b"fixport-probe/1 report 1 -\nfixport-probe/1 end\n",
    "the end without a report": HELLO + b"fixport-probe/1 end\n",
    "two tries": HELLO + HELLO,
    "another version": b"fixport-probe/2 try\n",
}


def test_strangers_are_sent_away(tap):
    for name, words in STRANGE.items():
        with Listener(as_json=False) as listener:
            with dial() as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(words)
                    connection.shutdown(socket.SHUT_WR)
                answer = rest(connection)
            status, _, _ = connect("127.0.0.1", "--port", PORT)
        tap.point(status == 0, f"{name}: the next one is served")
        tap.point(all(line.startswith(b"fixport-probe/1 seen 1 127.0.0.1 ")
                      for line in answer.splitlines()), f"{name}: nothing is told", answer)
        clean = all(char.isprintable() for char in listener.out.replace("\n", ""))
        tap.point(clean and "pwned" not in listener.out and len(listener.out.splitlines()) < 60,
                  f"{name}: nothing of it is printed", listener.out)


def test_many_at_once(tap):
    with Listener() as listener:
        idle = [dial() for _ in range(PEERS + 40)]
        began = time.monotonic()
        status, _, _ = connect("127.0.0.1", "--port", PORT)
        took = time.monotonic() - began
        with open(f"/proc/{listener.process.pid}/status", encoding="ascii") as file:
            memory = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
        most = "no more than so many are held at once"
        held = descriptors(tap, listener, most)
        for connection in idle:
            connection.close()
    tap.point(status == 0 and took < 4, f"{PEERS + 40} silent ones do not keep a probe out", status,
              took)
    if held is not None:
        tap.point(len(held) <= PEERS + 16, most, held)
    tap.point(memory < 32768 or "fsanitize" in BUILT, "memory is bounded", memory)


def test_silent_ones_are_sent_away(tap):
    with Listener(), dial() as connection:
        tap.equal(rest(connection), b"", "who says nothing is sent away after some seconds")


def test_many_runs(tap):
    """Each with a number of its own, and none is ever reported."""
    with Listener() as listener:
        for number in range(1, RUNS + 60):
            with dial() as connection:
                connection.sendall(HELLO.replace(NONCE.encode(), b"%016x" % number))
                connection.recv(100)
        status, _, _ = connect("127.0.0.1", "--port", PORT)
    tap.equal(status, 0, f"{RUNS + 60} runs that never report: the next one is served")
    lines = listener.lines()
    tap.point(len(lines) <= 30 and lines[-1]["not_shown"] > 90, "and few lines are said of them",
              len(lines), lines[-1])


def test_flood_of_lines(tap):
    with Listener(as_json=False) as listener:
        for _ in range(200):
            with dial() as connection:
                connection.sendall(b"x\n")
                rest(connection)
    tap.point(len(listener.out.splitlines()) < 40, "200 strangers: not a line for each",
              len(listener.out.splitlines()))
    tap.point("200 other connections" in listener.out, "but all are counted", listener.out[-300:])


def test_a_report_that_lies(tap):
    """What a stranger says of its own address leads to no advice that harms."""
    for own in ("127.0.0.1", "224.0.0.1", "255.255.255.255"):
        with Listener() as listener, dial() as connection:
            said = f"1 inside {own} {connection.getsockname()[1]}"
            connection.sendall(f"fixport-probe/1 try {NONCE} {said}\n".encode())
            connection.recv(200)
            connection.sendall(f"fixport-probe/1 report 1 61001-61999\n"
                               f"fixport-probe/1 mine {said} answered 0 - 0 0\n"
                               f"fixport-probe/1 end\n".encode())
            rest(connection)
        line = listener.lines()[0]
        tap.equal(line["advice"], [], f"no route to {own}")


def slow(connection, text):
    for byte in text:
        connection.sendall(bytes([byte]))


def test_a_slow_one(tap):
    with Listener() as listener, dial() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slow(connection, HELLO)
        answer = connection.recv(200)
        tap.point(answer.startswith(b"fixport-probe/1 seen 1 127.0.0.1 "),
                  "words may come byte by byte", answer)
        slow(connection, b"fixport-probe/1 report 0 -\n")
        slow(connection, b"fixport-probe/1 end\n")
        tap.point(rest(connection).endswith(b"fixport-probe/1 end\n"), "to the end")
    tap.equal(listener.lines()[0]["contact"], True, "and are understood")


with open(PROBE, "rb") as program:
    BUILT = "fsanitize" if b"__asan_init" in program.read() else ""

TESTS = {name[5:]: function for name, function in list(globals().items())
         if name.startswith("test_")}


def main():
    fptest.in_own_network()
    tap = Tap()
    for name, function in TESTS.items():
        if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
            function(tap)
    tap.end()


if __name__ == "__main__":
    main()
