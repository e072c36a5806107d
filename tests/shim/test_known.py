#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the library takes for known without asking the kernel, and where it may not: words of a process' own
(scope = address) say nothing of what others have, and a pool may be another one after a wait. As
test_bind.py, by range and by bind. Prints TAP.
"""

import os
import subprocess
import sys
import textwrap

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fptest  # noqa: E402
from test_bind import WAYS, begin, grounds, inside  # noqa: E402

# answer(port): a server that ends each connection when its client has, or with first[0] at once.
# elsewhere(program, ...): another process of this namespace, without the library.
TOOLS = """
first = [False]
def answer(port):
    listener = socket.socket(FAMILY)
    listener.setsockopt(*REUSE)
    listener.bind((ME, port))
    listener.listen(4000)
    def end(connection):
        if not first[0]:
            connection.recv(1)
        connection.close()
    def take():
        while True:
            threading.Thread(target=end, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=take, daemon=True).start()
def time_waits():
    with open("/proc/net/tcp6" if ":" in ME else "/proc/net/tcp") as file:
        return sum(line.split()[3] == "06" for line in file)
def until(test):
    end = time.monotonic() + 60
    while not test() and time.monotonic() < end:
        time.sleep(0.005)
def elsewhere(program, *arguments):
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    process = subprocess.Popen([sys.executable, "-c", program, ME, *map(str, arguments)], env=env, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    kept.append(process)
    return process.stdout.readline().strip()
HERE = '''
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
me, lo, hi, step, to = sys.argv[1], *map(int, sys.argv[2:6])
held = []
for port in range(lo, hi, step):
    sock = socket.socket(socket.AF_INET6 if ":" in me else socket.AF_INET)
    if to:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((me, port))
    if to:
        sock.connect((me, to))
    held.append(sock)
print(len(held), flush=True)
sys.stdin.read()
'''
"""


def program(body):
    return TOOLS + textwrap.dedent(body)


def check_over(tap):
    """A port of the own words rests, its TIME_WAIT was seen; and another process has it since."""
    with grounds(count=20, more="scope = address\n") as found:
        for name, me, one, _, ground in found:
            low = int(one.split("-")[0])
            ground.configure("reload", f"[rule all]\nto = 127.0.0.0/8, ::1\nports = {one}\n")
            got = ground.run(me, program("""
                LOW = int(sys.argv[4])
                answer(ONE), answer(TWO)
                for _ in range(20):
                    s = tcp()
                    s.connect((ME, ONE))
                    s.close()
                until(lambda: time_waits() >= 20)
                held = [tcp() for _ in range(20)]
                for s in held:
                    s.connect((ME, TWO))
                full = [code(tcp().connect, (ME, TWO)) for _ in range(5)]
                taken = elsewhere(HERE, LOW, LOW + 20, 2, ONE)
                more = [tcp() for _ in range(10)]
                tell(full, taken, [leave(s, ONE) for s in more])
            """), low)
            tap.equal((got[:2], sorted(got[2], key=str) if got[2] else got),
                      ([["EADDRNOTAVAIL"] * 5, "10"], [low + i for i in range(1, 20, 2)]),
                      f"scope = address: what rests is asked about, others may have it ({name})")


def check_budget(tap):
    """Nobody else can make a search in own words long: it does not end for having taken its time."""
    with grounds(count=2000, more="scope = address\n") as found:
        for name, me, one, _, ground in found:
            low = int(one.split("-")[0])
            got = ground.run(me, program("""
                LOW = int(sys.argv[4])
                answer(ONE)
                taken = elsewhere(HERE, LOW + 3, LOW + 2000, 1, 0)
                held = [tcp() for _ in range(3)]
                tell(taken, [leave(s, ONE) for s in held], code(tcp().connect, (ME, ONE)))
            """), low)
            tap.equal((got[0], sorted(got[1] or [], key=str), got[2]),
                      ("1997", [low, low + 1, low + 2], "EADDRNOTAVAIL"),
                      f"scope = address: the last of 2,000 ports are found, and then none ({name})")


def check_other_pool(tap):
    """While a connect waits, a reload makes the ports the node's: what is refused is given back there."""
    with grounds(count=20, exhausted="wait 100 s", more="scope = address\n") as found:
        for name, me, one, two, ground in found:
            low = int(two.split("-")[0])
            ground.configure("reload", f"[rule all]\nto = 127.0.0.0/8, ::1\nports = {one}\n")
            next_conf = ground.conf + ".next"
            with open(next_conf, "w", encoding="ascii") as file:
                file.write(f"[pool]\nquarantine = 0\n[rule all]\nto = 127.0.0.0/8, ::1\nports = {two}\n")
            got = ground.run(me, program("""
                LOW, TOOL, POOL, CONF = int(sys.argv[4]), *sys.argv[5:8]
                answer(ONE)
                for i in range(1, 20):
                    s = socket.socket(FAMILY)
                    s.bind((ME, LOW + i))
                    s.listen()
                    kept.append(s)
                held = [tcp() for _ in range(20)]
                for s in held:
                    s.connect((ME, ONE))
                late, said = tcp(), []
                thread = threading.Thread(target=lambda: said.append(leave(late, ONE)))
                thread.start()
                def run(*words):
                    return subprocess.run([TOOL, *words, "--pool", POOL], check=True, text=True, capture_output=True).stdout
                until(lambda: json.loads(run("status", "--json"))["counters"]["waited"])
                run("reload", "-c", CONF)
                thread.join()
                tell(said, [lease["port"] for lease in json.loads(run("list", "--json"))["leases"]])
            """), low, fptest.POOL_TOOL, ground.path, next_conf)
            # The connections that it has had may be taken in there.
            tap.equal((got[0], [port for port in got[1] or [] if inside(port, two)]), ([low], [low]),
                      f"what the new pool's words say after a wait ({name})")


def check_linger(tap):
    """Whether connections leave a TIME_WAIT is found out in either scope, and where both are used in turn."""
    for scopes in (("node",), ("address",), ("node", "address")):
        with grounds(count=2000, ways=WAYS[:1]) as found:
            for name, me, one, _, ground in found:
                ground.configure("reload", "".join(
                    f"[rule {rule}]\nto = 127.0.0.0/8:{ground.servers[i]}, [::1]:{ground.servers[i]}\nports = {one}\n"
                    f"scope = {scopes[i % len(scopes)]}\n" for i, rule in enumerate(("one", "two"))))
                got = ground.run(me, program("""
                    answer(ONE), answer(TWO)
                    def turn(i):
                        s = tcp()
                        s.connect((ME, (ONE, TWO)[i % 2]))
                        flag = s.getsockopt(*REUSE[:2])
                        if first[0]:
                            s.recv(1)
                        s.close()
                        return flag
                    first[0] = True
                    clean = [turn(i) for i in range(300)]
                    first[0] = False
                    tell(clean[0], clean[-10:], [turn(i) for i in range(400)][-10:])
                """))
                tap.equal(got[:3], [1, [0] * 10, [1] * 10],
                          f"TIME_WAITs are looked for, scope {' and '.join(scopes)} ({name})")


def main():
    tap = begin("what is known without asking")
    for check in (check_over, check_budget, check_other_pool, check_linger):
        check(tap)
    tap.end()


if __name__ == "__main__":
    main()
