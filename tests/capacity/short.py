# SPDX-License-Identifier: MIT
"""Short connections that the client closes first, many more than there are ports."""

import signal
import time

from place import BY_BIND, BY_RANGE, LONG, Client, Places, Pool, wait_for

WAYS = [("by range", BY_RANGE), ("by bind", BY_BIND)]


def ports_of(count):
    return f"40000-{40000 + count - 1}"


def run(place, pool, *arguments):
    client = Client(place, pool, "short", "-r", pool.ports, *arguments)
    return client.said(), client.end()


def check_on_end(tap, way, sysctls, timestamps):
    """On and on. Without timestamps it is done when each port has served; then it is a refusal."""
    seconds = 60 if LONG else 2
    for count in (1000, 100, 10):
        with Places(1, f"tcp_timestamps={timestamps}", *sysctls) as (place,), \
                Pool(ports_of(count), 1) as pool:
            said, status = run(place, pool, "-n", 10 ** 9, "-s", seconds)
            good = said.get("made", 0) > count and not said["refused"] if timestamps else \
                said.get("made", 0) >= count
            tap.point(good and status == 0 and not said["outside"] and not said["failed"] and
                      not said["clash"],
                      f"short: {seconds} s on end through {count} ports, timestamps {timestamps}, "
                      f"{way}", f"{said['made'] / seconds:.0f} a second", said, pool.said())


def check_recycling(tap, way, sysctls):
    """Each side's end is over before the client goes on: then no port may be found missing."""
    for count, total in ((1000, 20000), (100, 5000), (10, 3000), (1, 500)):
        with Places(1, *sysctls) as (place,), Pool(ports_of(count), 1) as pool:
            said, status = run(place, pool, "-n", total)
            tap.point(status == 0 and said.get("made") == total and not said["outside"] and
                      not said["clash"],
                      f"short: {total} connections through {count} port(s), {way}", said, pool.said())
            left = pool.reclaim() and pool.leases()
            tap.point(left["used"] == 0, "short: nothing is in use after reclaim", left)


def check_abrupt(tap, way, sysctls):
    """It goes on before the server has closed: only when all ports wait for that, there is none. On
    a machine with much to do the server may be so late that a thousand do: then the client waits
    for it, when half of them do."""
    for count, total, may_fail, most in ((1000, 20000, False, ("-m", 1000)), (10, 5000, True, ())):
        with Places(1, *sysctls) as (place,), Pool(ports_of(count), 1) as pool:
            said, status = run(place, pool, "-n", total, "-a", *most)
            good = status == 0 and not said["outside"] and not said["failed"]
            tap.point(good and (may_fail or said["made"] == total) and said["made"] >= count,
                      f"short: {total} abrupt connections through {count} ports, {way}", said,
                      pool.said())


def check_without_timestamps(tap, way, sysctls):
    """The kernel does not recycle: each port serves once, then the error is EADDRNOTAVAIL."""
    for count in (1000, 100, 10):
        with Places(1, "tcp_timestamps=0", *sysctls) as (place,), Pool(ports_of(count), 1) as pool:
            said, status = run(place, pool, "-n", 2 * count)
            tap.point(status == 0 and said.get("made", 0) >= count == said["ports"] and
                      not said["failed"] and not said["outside"],
                      f"short: without timestamps {count} ports serve once each, {way}", said,
                      pool.said())


def check_range_sizes(tap, way, sysctls):
    """Elsewhere than on loopback tcp_tw_reuse does not help: what this library shares, only."""
    for count in (1000, 1500, 4000):
        with Places(1, "tcp_tw_reuse=0", *sysctls) as (place,), Pool(ports_of(count), 1) as pool:
            said, status = run(place, pool, "-n", 2 * count)
            tap.point(status == 0 and said.get("made") == 2 * count and not said["outside"],
                      f"short: {count} ports serve twice at once, tcp_tw_reuse=0, {way}", said)


def check_mixed(tap, way, sysctls, timestamps):
    """Some ports are in TIME_WAIT, some connections were reset: those ports are to be had."""
    with Places(1, f"tcp_timestamps={timestamps}", *sysctls) as (place,), Pool(ports_of(20)) as pool:
        client = Client(place, pool, "hold", "-n", 20)
        client.said()
        client.ask("close 10")
        client.ask("reset 10")
        said = client.ask("more 10")
        tap.point(said["made"] == 30 and not said["refused"],
                  f"short: ports that are free are found beside those in TIME_WAIT, "
                  f"timestamps {timestamps}, {way}", said, sorted(place.states().values()))
        client.end()


def leave_in_fin_wait(place, pool, count):
    """@count connections that the client has closed, and the server not. Return: their ports."""
    client = Client(place, pool, "hold", "-n", count, "-k")
    client.said()
    client.ask(f"close {count}")
    client.end()
    wait_for(lambda: list(place.states().values()).count("FIN-WAIT-2") == count)
    return sorted(place.states())


def check_just_free(tap, way, sysctls, kept, free):
    """A few of many ports come free a moment after none was, and so after the kernel was asked."""
    with Places(1, *sysctls) as (place,), Pool(ports_of(kept + free), 1) as pool:
        leave_in_fin_wait(place, pool, kept)
        client = Client(place, pool, "hold", "-n", free, "-a")
        client.said()
        place.signal(signal.SIGSTOP)
        client.ask(f"close {free}")
        before = client.ask("again")
        place.signal(signal.SIGCONT)
        gone = wait_for(lambda: list(place.states().values()).count("TIME-WAIT") == free)
        said = client.ask(f"more {free}")
        tap.point(gone and before["refused"] == 1 and said["made"] == 2 * free and
                  said["refused"] == 1 and not said["outside"],
                  f"short: {free} ports that have just come free, {kept} being in FIN_WAIT, are "
                  f"found, {way}", before, said)
        client.end()


def check_slow(tap, way, sysctls, slow):
    """The same where each system call takes longer, as on a machine with much to do: who has used up
    the time that a connect may take asks the kernel, too, before it gives up."""
    with Places(1, *sysctls) as (place,), Pool(ports_of(1000), 1) as pool:
        others = Client(place, pool, "hold", "-n", 980, "-k")
        others.said()
        client = Client(place, pool, "hold", "-n", 20, fake={"FAKE_SLOW": slow})
        client.said()
        before = client.ask("again")
        others.ask("close 980")
        client.ask("close 20")
        said = client.ask("more 20")
        tap.point(before["refused"] == 1 and said["made"] == 40 and said["refused"] == 1 and not said["outside"],
                  f"short: 20 ports that have just come free, system calls taking {slow} us more, are found, "
                  f"{way}", before, said)
        others.end()
        client.end()


def have_all(holder, said, wanted):
    """Some may come a little later only: sockets are compared with leases ten times a second."""
    limit = time.monotonic() + 10
    while said["made"] < wanted and time.monotonic() < limit:
        said = holder.ask(f"more {wanted - said['made']}")
    return said


def check_fin_wait(tap, way, sysctls, kept, rest):
    """A tuple in FIN_WAIT is not offered; what can be recycled is found among many that cannot."""
    what = f"{kept} of {kept + rest} ports in FIN_WAIT, {way}"
    with Places(1, *sysctls) as (place,), Pool(ports_of(kept + rest), 1) as pool:
        taken = leave_in_fin_wait(place, pool, kept)
        unwanted = [part for port in taken for part in ("-x", port)]
        said, status = run(place, pool, "-n", 20 * rest, *unwanted)
        tap.point(len(taken) == kept and status == 0 and said["made"] == 20 * rest and
                  not said["outside"], f"short: the others go round: {what}", said)
        holder = Client(place, pool, "hold", "-n", rest, *unwanted)
        said = holder.said()
        tap.point(said["made"] == rest and not said["outside"],
                  f"short: the others, all at once: {what}", said)
        refused = holder.ask("again")
        tap.point(refused["refused"] == said["refused"] + 1 and not refused["failed"],
                  f"short: and then none: {what}", refused)
        place.release()
        gone = wait_for(lambda: "FIN-WAIT-2" not in place.states().values())
        again = holder.ask("again")
        tap.point(gone and again["made"] == said["made"] + 1,
                  f"short: the server has closed, and the refused socket connects: {what}", again)
        more = have_all(holder, again, rest + kept)
        tap.point(more["made"] == rest + kept, f"short: and every port is to be had: {what}", more)
        holder.end()


def check(tap):
    for way, sysctls in WAYS:
        check_recycling(tap, way, sysctls)
        check_on_end(tap, way, sysctls, 1)
        check_on_end(tap, way, sysctls, 0)
        check_abrupt(tap, way, sysctls)
        check_without_timestamps(tap, way, sysctls)
        check_range_sizes(tap, way, sysctls)
        check_mixed(tap, way, sysctls, 1)
        check_mixed(tap, way, sysctls, 0)
        check_fin_wait(tap, way, sysctls, 30, 30)
        check_fin_wait(tap, way, sysctls, 300, 50)
        check_just_free(tap, way, sysctls, 980, 20)
        for slow in (5, 20, 50):
            check_slow(tap, way, sysctls, slow)
