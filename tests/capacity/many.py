# SPDX-License-Identifier: MIT
"""Many processes, many namespaces, the smallest and the largest range, many connections."""

from place import BY_BIND, BY_RANGE, LONG, Client, Places, Pool


def total(said, name):
    return sum(one.get(name, -1) for one in said)


def check_left(tap, pool, what):
    pool.reclaim()
    left = pool.leases()
    tap.point(left["used"] == 0, f"many: nothing is in use after reclaim: {what}", left)


def check_processes(tap, way, sysctls):
    """64 processes x 8 threads in four namespaces."""
    each, ports = 5300 if LONG else 250, "40000-44095"
    with Places(4, *sysctls, connections=20000) as places, Pool(ports, 3) as pool:
        clients = [Client(places[i % 4], pool, "short", "-d", 3, "-n", each, "-t", 8, "-r", ports,
                          tag=i + 1) for i in range(64)]
        said = [client.said() for client in clients]
        ends = [client.end() for client in clients]
        made = total(said, "made")
        tap.point(ends == [0] * 64 and made == 64 * 3 * each and not total(said, "outside") and
                  not total(said, "clash"), f"many: 64 processes x 8 threads, {way}",
                  *({n: total(said, n) for n in ("made", "refused", "failed", "outside", "clash")},),
                  pool.said())
        tap.equal(pool.entries(), 0, f"many: the ledger is empty, {way}")
        check_left(tap, pool, f"{made} connections, {way}")


def check_namespaces(tap):
    """As many as a node has pods: each gets its part of the ports towards one destination."""
    count, each = 110, 9
    with Places(count) as places, Pool("40000-40999", 1) as pool:
        clients = [Client(place, pool, "hold", "-n", each, "-r", pool.ports, tag=tag)
                   for tag, place in enumerate(places, 1)]
        said = [client.said() for client in clients]
        made = total(said, "made")
        tap.point(made == count * each == pool.entries() and not total(said, "clash") and
                  not total(said, "outside"),
                  f"many: {count} namespaces, {each} ports each, none twice", *said[:1],
                  {"made": made, "entries": pool.entries(), "clash": total(said, "clash")},
                  pool.said())
        alive = sum(holder["alive"] for holder in pool.status()["holders"])
        tap.equal(alive, count, "many: each is a holder")
        for client in clients:
            client.kill()
        back = pool.reclaim()
        tap.equal((back["reclaimed"], len(pool.status()["holders"])), (count * each, 0),
                  "many: all of them die: one reclaim buries them and takes everything back")


def check_one_port(tap, way, sysctls):
    with Places(2, *sysctls) as (here, there), Pool("40000", 30) as pool:
        client = Client(here, pool, "hold", "-d", 30, "-n", 1, "-r", "40000-40000")
        said = client.said()
        tap.point(said["made"] == 30 and not said["outside"],
                  f"many: one port serves 30 destinations, {way}", said)
        said = client.ask("more 3")
        tap.equal(said["refused"], 3, f"many: and none of them twice, {way}")
        other = Client(there, pool, "hold", "-d", 30, "-n", 1, tag=2)
        tap.equal(other.said()["refused"], 30, f"many: nor from another namespace, {way}")
        client.ask("close 30")
        said = client.ask("more 1")
        tap.equal((said["made"], said["clash"]), (31, 0), f"many: then again, {way}")
        client.end()
        other.end()
        check_left(tap, pool, f"a range of one port, {way}")


def check_all_ports(tap, way, *sysctls):
    """Every port above 1023, at the same time, by four processes."""
    size, parts = 64512, 4
    with Places(1, *sysctls, connections=size + size // 4) as (place,), \
            Pool("1024-65535", 1) as pool:
        clients = [Client(place, pool, "hold", "-n", size // parts, "-t", 2, "-r", pool.ports,
                          tag=tag) for tag in range(1, parts + 1)]
        said = [client.said() for client in clients]
        tap.point(total(said, "made") == size == pool.entries() and not total(said, "clash") and
                  not total(said, "outside"), f"many: all of {size} ports at once, {way}", *said,
                  f"{pool.entries()} in the ledger")
        refused = clients[0].ask("more 2")
        tap.equal(refused["refused"], said[0]["refused"] + 2, f"many: and not one more, {way}")
        for client in clients:
            client.end()
        check_left(tap, pool, f"{size} ports, {way}")


def check(tap):
    for way, sysctls in (("by range", BY_RANGE), ("by bind", BY_BIND)):
        check_processes(tap, way, sysctls)
        check_one_port(tap, way, sysctls)
    check_all_ports(tap, "by range", "ip_local_port_range=1024 65535")
    check_all_ports(tap, "half by range, half by bind")
    check_namespaces(tap)
