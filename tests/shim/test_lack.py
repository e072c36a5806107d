#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Ports that run short: which is taken last, who waits for one and for how long, what is said.

As in test_bind.py each case is tried by range and by bind, with IPv4 and IPv6, and with a kernel that
has no IP_LOCAL_PORT_RANGE.
"""

import os
import subprocess
import sys
import textwrap

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fptest  # noqa: E402
from test_bind import begin, grounds, inside  # noqa: E402

CANCEL = fptest.program("shim", "cancel")


def check_itself(tap):
    """A destination of the machine's own, at a port of the range, where nobody listens."""
    with grounds(count=20) as found:
        for name, me, one, _, ground in found:
            low = int(one.split("-")[0])
            ground.configure("reload", f"[rule all]\nto = 127.0.0.0/8, ::1\nports = {one}\n")
            got = ground.run(me, """
                made, errors = [], set()
                for turn in range(60):
                    for target in (LOW + turn % 20, LOW + 7):
                        s = tcp()
                        errors.add(code(s.connect, (ME, target)))
                        s.close()
                tell(sorted(errors, key=str))
            """.replace("LOW", str(low)))
            tap.equal(got, [["ECONNREFUSED"]], f"no connection to itself ({name})")


# The program has all ports, and then: wait(before, FLAG...) connects once more, by the C library, because
# Python tries again by itself.
WAITING = """
    import fcntl, signal
    libc = ctypes.CDLL(None, use_errno=True)
    serve(ONE)
    def name(to):
        body = socket.inet_pton(FAMILY, ME)
        head = struct.pack("=HH", FAMILY, socket.htons(to))
        return head + body + bytes(8) if FAMILY == socket.AF_INET else head + bytes(4) + body + bytes(4)
    def dial(s, to=ONE, flags=None):
        address = name(to)
        if flags is None:
            result = libc.connect(s.fileno(), address, len(address))
        else:
            result = libc.sendto(s.fileno(), b"x", 1, flags | 0x20000000, address, len(address))
        return port(s) if result >= 0 else errno.errorcode[ctypes.get_errno()]
    def ticks(restart=False, often=0.02, action=signal.SIGALRM):
        read, write = socket.socketpair()
        write.setblocking(False), kept.append(write)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        signal.signal(action, lambda *_: None)
        signal.siginterrupt(action, not restart)
        signal.setitimer(signal.ITIMER_REAL, often, often)
        return read
    def timeout(s, seconds, micros=0):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, micros))
    def timeout_of(s):
        return list(struct.unpack("ll", s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)))
    got = []
    def after(source, count, call):
        def run():
            while count > len(got):
                got.extend(source.recv(1))
            call()
        threading.Thread(target=run, daemon=True).start()
    held = [tcp((socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))) for _ in range(4)]
    for s in held:
        s.connect((ME, ONE))
    def end(*values): # Python's own end would leave signals without a handler
        tell(*values)
        os._exit(0)
"""


def check_waiting(tap):
    """As connect(2) waits for a peer: signals, SO_SNDTIMEO, O_NONBLOCK."""
    cases = {
        "a signal ends it, and it can begin anew": ("""
            ticks()
            s = tcp()
            first = [dial(s) for _ in range(5)]
            signal.setitimer(signal.ITIMER_REAL, 0)
            held[0].close()
            end(first, dial(s))
         """, lambda got, ports: got[0] == ["EINTR"] * 5 and inside(got[1], ports)),
        "signals with SA_RESTART do not": ("""
            after(ticks(restart=True), 30, held[0].close)
            end(dial(tcp()))
         """, lambda got, ports: inside(got[0], ports)),
        "beside others, that are without": ("""
            signal.signal(signal.SIGUSR1, lambda *_: None)
            after(ticks(restart=True), 30, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
            s = tcp()
            first = dial(s)
            held[0].close()
            end(first, len(got) >= 30, dial(s))
         """, lambda got, ports: got[:2] == ["EINTR", True] and inside(got[2], ports)),
        "with SO_SNDTIMEO they do": ("""
            ticks(restart=True)
            s = tcp()
            timeout(s, 50)
            end(dial(s), timeout_of(s))
         """, lambda got, ports: got == ["EINTR", [50, 0]]),
        "SO_SNDTIMEO ends it": ("""
            s = tcp()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            timeout(s, 0, 300000)
            first = dial(s)
            held[0].close()
            end(first, dial(s), timeout_of(s))
         """, lambda got, ports: got[0] == "EINPROGRESS" and inside(got[1], ports) and got[2] == [0, 300000]),
        "a signal that is blocked does not, nor an ignored one": ("""
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            end(dial(tcp()))
         """, lambda got, ports: got == ["EADDRNOTAVAIL"]),
        "a non-blocking connect and MSG_DONTWAIT have their answer": ("""
            s = tcp()
            s.setblocking(False)
            blocking = tcp()
            end(dial(s), dial(blocking, flags=0x40))
         """, lambda got, ports: got == ["EADDRNOTAVAIL"] * 2),
    }
    for case, (body, good) in cases.items():
        # what may wait to the end waits for a second, what must not for longer than the test does
        rule = "wait 1 s" if "blocked" in case else "wait 500 s"
        with grounds(count=4, exhausted=rule) as found:
            for name, me, one, _, ground in found:
                got = ground.run(me, textwrap.dedent(WAITING) + textwrap.dedent(body))
                tap.point(good(got, one), f"waiting: {case} ({name})", got)


def check_send_timeout(tap):
    """What the wait for a port has used of SO_SNDTIMEO, the kernel's wait for the peer has no more: here the
    peer has its backlog full, and takes the connection later."""
    with grounds(count=4, exhausted="wait 500 s") as found:
        for name, me, one, _, ground in found:
            got = ground.run(me, """
                TOOL, POOL = sys.argv[4:]
                listener = socket.socket(FAMILY)
                listener.setsockopt(*REUSE)
                listener.bind((ME, ONE))
                listener.listen(3)
                held = [tcp((socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))) for _ in range(4)]
                for s in held:
                    s.connect((ME, ONE))
                def timeout_of(s):
                    seconds, micros = struct.unpack("ll", s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
                    return seconds + micros / 1e6
                def waited():
                    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
                    status = subprocess.run([TOOL, "status", "--json", "--pool", POOL], env=env, check=True, capture_output=True)
                    return json.loads(status.stdout)["counters"]["waited"]
                def sent(s):
                    return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\\2"
                late, said = tcp(), []
                late.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 100, 0))
                thread = threading.Thread(target=lambda: said.append(leave(late, ONE)))
                thread.start()
                while not waited():
                    pass
                began = time.monotonic()
                while time.monotonic() < began + 0.3:
                    waited()
                used = time.monotonic() - began
                held[0].close()
                while not sent(late) and not said:
                    pass
                left = timeout_of(late)
                listener.listen(100)
                thread.join()
                tell(left <= 100 - used + 0.01, left > 0, said, timeout_of(late), used, left)
            """, fptest.POOL_TOOL, ground.path)
            tap.point(got[:2] == [True, True] and inside(got[2][0], one) and got[3] == 100,
                      f"waiting: what is left of SO_SNDTIMEO is the call's ({name})", got)


def check_cancellation(tap):
    """connect() is a cancellation point, also while it waits for a port."""
    with grounds(count=4, exhausted="wait 5 s") as found:
        for name, me, _, _, ground in found:
            if me != "127.0.0.1":
                continue
            server = subprocess.Popen(ground.argv(me, """
                serve(ONE)
                tell()
                sys.stdin.read()
            """), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            server.stdout.readline()
            # Where a cancelled thread's functions were, address sanitizer still forbids the stack to its own
            # sigaltstack() at the thread's end (without the library, too).
            env = dict(ground.env, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":use_sigaltstack=0")
            done = subprocess.run([CANCEL, str(ground.servers[0]), "4"], env=env, capture_output=True,
                                  text=True, check=False)
            server.communicate()
            tap.equal((done.returncode, done.stdout, done.stderr), (0, "cancelled\n", ""),
                      f"waiting: cancellation ends it ({name})")


def main():
    tap = begin("a lack of ports")
    for check in (check_itself, check_waiting, check_send_timeout, check_cancellation):
        check(tap)
    tap.end()


if __name__ == "__main__":
    main()
