# SPDX-License-Identifier: MIT
"""Namespaces with addresses of their own (scope = address): each has all ports at once, whatever the
others have, and nothing has to rest when one of them ends."""

import sys

from place import BY_BIND, BY_RANGE, NO_OPTION, Client, Places, Pool

WAYS = [("by range", BY_RANGE, None), ("by bind", BY_BIND, None),
        ("without IP_LOCAL_PORT_RANGE", BY_RANGE, NO_OPTION)]
COUNT = 3

# destinations, ports, lanes, threads
CASES = [(2, 500, None, 4), (1, 5000, None, 2), (20, 40, 8, 1)]


def fill(pool, places, case, fake):
    """Every place takes all, each with a ledger of its own. Return: the clients, what they said, the
    entries in each ledger."""
    destinations, each, _, threads = case
    clients, ledgers = [], []
    for tag, place in enumerate(places, 1):
        ledgers.append(pool.sparse(f"ledger-{tag}", destinations * 65536))
        pool.ledger = ledgers[-1]
        clients.append(Client(place, pool, "hold", "-d", destinations, "-n", each, "-t", threads, "-r",
                              pool.ports, tag=tag, fake=fake))
    said = [client.said() for client in clients]
    entries = []
    for pool.ledger in ledgers:
        entries.append(pool.entries())
    return clients, said, entries


def has_all(said, entries, wanted):
    """Whether every client had all ports, and none of them twice."""
    return all(one.get("made") == wanted == written and
               not any(one[name] for name in ("failed", "refused", "outside", "clash"))
               for one, written in zip(said, entries))


def check_case(tap, case, way, sysctls, fake):
    destinations, each, lanes, threads = case
    wanted = destinations * each
    name = f"apart: {destinations} x {each}, {threads} thread(s), {lanes or 'default'} lanes, {way}"
    with Places(COUNT, *sysctls, connections=wanted) as places, \
            Pool(f"40000-{40000 + each - 1}", lanes=lanes, quarantine=120, scope="address") as pool:
        clients, said, entries = fill(pool, places, case, fake)
        tap.point(has_all(said, entries, wanted), f"{name}: each of {COUNT} has all, at once",
                  *said, entries, pool.said())
        clients[0].kill()
        with Places(1, *sysctls, connections=wanted) as successor:
            more, said, entries = fill(pool, successor, case, fake)
            tap.point(has_all(said, entries, wanted),
                      f"{name}: one dies, and its successor has all at once", *said, pool.said())
            status = pool.status()
            tap.equal((status["rules"][0]["scope"], status["leases"]["resting"]), ("address", 0),
                      f"{name}: status says so, and nothing rests")
        for client in clients + more:
            client.kill()


def check_one(tap, way, sysctls, fake):
    """Processes of one namespace that know nothing of each other have all together, and nobody twice; and
    nobody is refused while there is a port."""
    for each, ports in ((600, 1000), (333, 1000), (1660, 5000)):
        with Places(1, *sysctls, connections=ports) as places, \
                Pool(f"40000-{40000 + ports - 1}", destinations=1, quarantine=120, scope="address") as pool:
            clients = [Client(places[0], pool, "hold", "-n", each, "-t", 2, "-r", pool.ports, tag=tag,
                              fake=fake) for tag in (1, 2, 3)]
            said = [client.said() for client in clients]
            wrong = sum(one[name] for one in said for name in ("failed", "outside", "clash"))
            made = sum(one["made"] for one in said)
            tap.point((made, pool.entries(), wrong) == (min(ports, 3 * each), min(ports, 3 * each), 0),
                      f"apart: three processes of one namespace have {made} of {ports} together, {way}",
                      *said, pool.said())
            for client in clients:
                client.kill()


# All ports in the namespace that it starts in, and then in another one, and then half of them anew.
WANDER = """
import errno, os, socket, sys
libc = __import__("ctypes").CDLL(None, use_errno=True)
def dial(count):
    held = []
    for _ in range(count):
        sock = socket.socket()
        try:
            sock.connect(("127.0.0.1", 1000))
            held.append(sock)
        except OSError as error:
            assert error.errno == errno.EADDRNOTAVAIL, error
            sock.close()
    return held
here = dial(120)
fd = os.open(sys.argv[1], os.O_RDONLY)
assert libc.setns(fd, 0x40000000) == 0
there = dial(120)
print(len(here), len(there), len({s.getsockname()[1] for s in here + there}))
for sock in there[:50]:
    sock.close()
again = dial(50)
print(len(again), len({s.getsockname()[1] for s in again + there[50:]}), 0)
"""


def check_wander(tap, way, sysctls, fake):
    with Places(2, *sysctls) as (here, there), \
            Pool("40000-40099", quarantine=120, scope="address") as pool:
        done = here.run([sys.executable, "-c", WANDER, there.netns], pool.environment(fake))
        tap.equal((done.stdout.split(), done.stderr), (["100", "100", "100", "50", "100", "0"], ""),
                  f"apart: a process that goes to another namespace has all ports there, too, {way}")


def check_short(tap, way, sysctls, fake):
    """Others hold all but one port; the last one serves one that connects and closes."""
    with Places(COUNT, *sysctls) as places, \
            Pool("40000-40199", quarantine=120, scope="address") as pool:
        held = [Client(place, pool, "hold", "-n", 200, fake=fake) for place in places[1:]]
        full = [client.said() for client in held]
        short = Client(places[0], pool, "short", "-n", 3000, "-t", 2, "-r", pool.ports, fake=fake)
        said = short.said()
        short.end()
        tap.point(all(one.get("made") == 200 for one in full) and said.get("made") == 3000
                  and not said["refused"] and not said["outside"],
                  f"apart: short connections, while others hold all ports, {way}", full, said,
                  pool.said())
        for client in held:
            client.kill()


def check(tap):
    for way, sysctls, fake in WAYS:
        for case in CASES:
            check_case(tap, case, way, sysctls, fake)
        check_wander(tap, way, sysctls, fake)
        check_one(tap, way, sysctls, fake)
        check_short(tap, way, sysctls, fake)
