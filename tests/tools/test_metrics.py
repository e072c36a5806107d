#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""fixport-pool metrics --listen: what strangers may do to the server, and pods to its labels.

The server runs in 64 MiB of address space; who asks does so over loopback, in a network namespace of
the test's own. Prints TAP.
"""

import contextlib
import glob
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

PORT = 9464
MEMORY = 64 << 20
WORDS = 4096 + 1024 * 128 + 4096 + 4 * 4096  # where they begin, with 256 lanes
PAGE, HOLDERS, HOLDER_BYTES, HOST = 4096, 1024, 128, 48  # pool/layout.h
MOST = 1 << 20  # bytes of an answer
SOME = 128  # holders that have series of their own
LABEL = r'[a-z_]+="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"([a-z_:]+)(?:{{{LABEL}(?:,{LABEL})*}})? (\d+(?:\.\d+)?(?:e[+-]\d+)?)$")


class Server:
    def __init__(self, pool):
        self.process = subprocess.Popen(
            ["prlimit", f"--as={MEMORY}", fptest.POOL_TOOL, "metrics", "--pool", pool, "--listen", str(PORT)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.begun = self.process.stdout.readline()

    def resident(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) << 10

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self):
        self.process.terminate()
        return self.process.communicate(timeout=20)


@contextlib.contextmanager
def serving(pool):
    server = Server(pool)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def dial(source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", PORT), timeout=20, source_address=(source, 0))


def whole(sock):
    """All that comes. A reset is an end, too."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            got += more
    return got


def ask(text=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", source="127.0.0.1", half=False):
    with dial(source) as sock:
        sock.sendall(text)
        if half:
            sock.shutdown(socket.SHUT_WR)
        return whole(sock)


def is_whole(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return head.startswith(b"HTTP/1.1 200 ") and length and int(length[1]) == len(body) and \
        b"\nfixport_pool_ports " in body


def check_http(tap, server):
    tap.equal(server.begun, f"listening on port {PORT}\n", "it says where it listens")
    tap.point(is_whole(ask()), "a scrape")
    tap.point(b"\r\nContent-Type: text/plain; version=0.0.4\r\n" in ask(), "its type")
    tap.point(is_whole(ask(b"GET /cgi-bin/metrics?x=1 HTTP/1.0\n\n", half=True)),
              "the path that busybox had, and a client that closes its side")
    head = ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    tap.point(head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n"), "HEAD", head)
    for text, status in ((b"GET / HTTP/1.1\r\n\r\n", b"404"), (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
                         (b"\0\xff\r\n\r\n", b"405"), (b"\r\n\r\n", b"405"), (b"GET " + b"/x" * 4000, b"431"),
                         (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000, b"431")):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            answer = ask(text)
            tap.point(answer.startswith(b"HTTP/1.1 " + status), f"{text[:20]}: {status.decode()}", answer[:100])
    with socket.create_connection(("::1", PORT), timeout=20) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        tap.point(is_whole(whole(sock)), "over IPv6")


def held_up(tap, server, what, held, source="127.0.0.1"):
    """A scrape among these connections."""
    begun = time.monotonic()
    good = is_whole(ask(source=source))
    took = time.monotonic() - begun
    tap.point(good and took < 10, f"{what}: a scrape is answered", f"{took:.2f} s, {len(held)} held")
    tap.point(server.process.poll() is None and server.resident() < MEMORY and server.descriptors() < 80,
              f"{what}: the server lives, in {server.resident() >> 20} MiB with {server.descriptors()} descriptors")


def opened(count, text=b"", source="127.0.0.2"):
    held = []
    for _ in range(count):
        held.append(dial(source))
        if text:
            with contextlib.suppress(OSError):
                held[-1].sendall(text)
    return held


def closed(held):
    for sock in held:
        sock.close()


def drip(held):
    """One byte on each that is still open."""
    for sock in held:
        with contextlib.suppress(OSError):
            sock.send(b"G", socket.MSG_NOSIGNAL)


def check_flood(tap, server):
    for source in ("127.0.0.2", "127.0.0.1"):
        held = opened(1000, source=source)
        held_up(tap, server, f"1000 idle ones from {source}", held)
        for _ in range(3):
            drip(held)
            held_up(tap, server, f"byte by byte from {source}", held)
        closed(held)
        held = []
        for i in range(1000):  # they ask, and read nothing
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", PORT))
            sock.send(b"GET /metrics HTTP/1.1\r\n\r\n")
            held.append(sock)
        held_up(tap, server, f"1000 that do not read from {source}", held)
        closed(held)


def check_others(tap, server):
    """One that was there before, and is slow, is not ended by another address' thousand."""
    with dial("127.0.0.3") as slow:
        slow.sendall(b"GET /metrics HT")
        held = opened(1000)
        slow.sendall(b"TP/1.1\r\n\r\n")
        tap.point(is_whole(whole(slow)), "who is slow is not ended for another address")
        closed(held)


def check_time(tap, server):
    with dial() as sock:
        begun = time.monotonic()
        while time.monotonic() - begun < 30 and not select.select([sock], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                sock.send(b"G")
        took = time.monotonic() - begun
        tap.point(took < 25, "one that never ends its request is ended", took)


def put_holder(file, slot, cookie, host):
    file.seek(PAGE + slot * HOLDER_BYTES)
    file.write(struct.pack("<QQ", cookie, 1 << 62 if slot % 2 else 5))
    file.seek(PAGE + slot * HOLDER_BYTES + HOST)
    file.write(host.ljust(64, b"\0")[:64])


def samples_of(text):
    """{series: value}. Every line is in the exposition format, and no series is there twice."""
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        series = line.rsplit(" ", 1)[0]
        if not match or series in samples or max(map(len, re.findall(LABEL, line)), default=0) > 400:
            raise ValueError(line)
        samples[series] = float(match[match.lastindex])
    return samples


def asked_until(is_so):
    """What was worked out is kept for a second or more. Return: the last answer, after 30 s whatever it is."""
    end = time.monotonic() + 30
    while not is_so(answer := ask()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


def check_labels(tap, pool, shares):
    names = [b'"}\n\\', b"\xff\xfe" * 32, "ä".encode() * 32, b"\x1b[31m", b'x",slot="1"} 1\nfixport_leases{state="u', b"\\" * 64]
    with open(shares, "r+b") as file:
        for slot in range(HOLDERS):
            put_holder(file, slot, slot + 1, names[slot % len(names)])
        now = int(time.monotonic() * 1000)
        file.seek(WORDS)  # that nobody, holders and guests have
        for i in range(64 * 512):
            file.write(struct.pack("<Q", (1 + i % 3) << 60 | (i * 7 % 4096) << 48 | now))
    done = subprocess.run([fptest.POOL_TOOL, "metrics", "--pool", pool], capture_output=True, check=False)
    try:
        samples = samples_of(done.stdout.decode())
    except ValueError as error:
        tap.point(False, "hostile labels are in the exposition format", error)
        return
    tap.point(len(done.stdout) < MOST, f"hostile labels are in the exposition format: {len(done.stdout)} bytes")
    of_holders = {key: value for key, value in samples.items() if key.startswith("fixport_holder_leases")}
    tap.equal(len(of_holders), 3 * (SOME + 1), "so many holders have series, and all others one")
    for state in ("used", "letgo", "resting"):
        total = sum(value for key, value in of_holders.items() if f'state="{state}"' in key)
        tap.point(total == samples[f'fixport_leases{{state="{state}"}}'], f"the sum of the {state} is right", total)
    tap.point(samples['fixport_holder_leases{holder="other",slot="",state="used"}'] > 0, "others have some")
    answer = asked_until(lambda it: len(it) > 50000)
    tap.point(is_whole(answer) and len(answer) < MOST, "and it is served", len(answer))


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    if os.environ.get("FIXPORT_TEST_OWN_NETWORK") != "1":
        tap.cannot("a server of its own", "only root can make a network namespace")
        tap.end()
    with tempfile.TemporaryDirectory(prefix="fixport-metrics-", dir="/dev/shm") as folder:
        pool = os.path.join(folder, "pool")
        create = [fptest.POOL_TOOL, "create", "--pool", pool, "-p", "50000-50799", "-t", "127.0.0.1"]
        subprocess.run(create, check=True, capture_output=True)
        shares = glob.glob(pool + ".*")[0]
        with serving(pool) as server:
            check_http(tap, server)
            check_flood(tap, server)
            check_others(tap, server)
            check_time(tap, server)
            check_labels(tap, pool, shares)
            held = opened(1000, b"GET /metrics HTTP/1.1\r\n\r\n")
            held_up(tap, server, "1000 with answers as big as can be", held)
            closed(held)
            os.unlink(pool)
            answer = asked_until(lambda it: not is_whole(it))
            tap.point(answer.startswith(b"HTTP/1.1 503 ") and b"there is no pool" in answer, "no pool: 503, and why",
                      answer)
            out, err = server.end()
            tap.equal((server.process.returncode, out), (0, ""), "SIGTERM ends it")
            tap.point(len(err.splitlines()) <= 2, "and it has not said much", err)
        with serving(pool) as server:
            again = subprocess.run([fptest.POOL_TOOL, "metrics", "--listen", str(PORT)], check=False,
                                   capture_output=True, text=True)
            tap.point(again.returncode == 1 and again.stderr.count("\n") == 1, "a port in use is refused", again.stderr)
    tap.end()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
