# SPDX-License-Identifier: MIT
"""Programs that fetch over HTTP: most of what a pod starts, and each picks its sockets apart
differently.

curl binds before it connects (--interface) and reports with precise exit codes; with HTTP/2 and
parallel transfers it mixes kept and new connections. ab and wrk come in numbers, non-blocking.
"""

import re

from daemons import nginx_http2
from harness import case, sorted_lines
from processes import Failure
from servers import Http, Peer, free_port

ABOVE = "62100-62199"  # a range that is in nobody's way


def curl(case_, *options):
    return [case_.need("curl"), "--silent", "--show-error", "--max-time", "30", *options]


@case("curl: over IPv4")
def curl_ipv4(t):
    server = t.enter_context(Http())
    t.same(curl(t, server.url()), server.take)


@case("curl: over IPv6")
def curl_ipv6(t):
    server = t.enter_context(Http())
    t.same(curl(t, server.url("::1")), server.take)


@case("curl: by name, first address refused")
def curl_by_name(t):
    server = t.enter_context(Http())
    resolve = f"somewhere:{server.port}:127.0.0.2,127.0.0.1"
    t.same(curl(t, "--resolve", resolve, server.url("somewhere")), server.take)


@case("curl: --interface ADDRESS")
def curl_interface_address(t):
    server = t.enter_context(Http())
    for address in ("127.0.0.1", "127.0.0.2"):
        t.same(curl(t, "--interface", address, server.url()), server.take)


@case("curl: --interface lo")
def curl_interface_name(t):
    server = t.enter_context(Http())
    t.same(curl(t, "--interface", "lo", server.url()), server.take)


@case("curl: --local-port stays what it says")
def curl_local_port(t):
    server = t.enter_context(Http())

    def judge(peers, at_least):
        t.from_kernel(peers, at_least)
        if not 62100 <= peers[0].port <= 62199:
            raise Failure(f"curl asked for {ABOVE}, the server saw {peers[0].port}")

    t.same(curl(t, "--local-port", ABOVE, server.url()), server.take, judge=judge)


@case("curl: ten parallel transfers")
def curl_parallel(t):
    server = t.enter_context(Http())
    urls = [server.url(path=f"/{number}") for number in range(10)]
    t.same(
        curl(t, "--parallel", "--parallel-immediate", *urls),
        server.take,
        normalise=sorted_lines,
        at_least=10,
    )


@case("curl: HTTP/2 in clear text")
def curl_h2c(t):
    server = t.enter_context(nginx_http2(t))
    t.same(
        curl(t, "--http2-prior-knowledge", server.clear),
        told_by_nginx,
        normalise=without_nginx_ports,
    )


@case("curl: HTTP/2 over TLS")
def curl_h2(t):
    server = t.enter_context(nginx_http2(t))
    t.same(
        curl(t, "--http2", "--cacert", server.certificate, server.tls),
        told_by_nginx,
        normalise=without_nginx_ports,
    )


def told_by_nginx(result):
    return list(
        {
            Peer(address, int(port))
            for address, port in re.findall(r"^(\S+) (\d+) HTTP/2\.0$", result.out, re.M)
        }
    )


def without_nginx_ports(text):
    return re.sub(r" \d+ (HTTP/2\.0)$", r" PORT \1", text, flags=re.M)


@case("curl: connection refused is exit status 7")
def curl_refused(t):
    url = f"http://127.0.0.1:{free_port()}/"
    for options in ((), ("--interface", "127.0.0.1")):
        t.same(curl(t, *options, url), lambda _: [], status=7, at_least=0)


@case("wget: over IPv4 and IPv6")
def wget(t):
    server = t.enter_context(Http())
    for host in ("127.0.0.1", "::1"):
        t.same([t.need("wget"), "-q", "-O", "-", server.url(host)], server.take)


@case("wget: --bind-address")
def wget_bind(t):
    server = t.enter_context(Http())
    t.same([t.need("wget"), "-q", "-O", "-", "--bind-address=127.0.0.2", server.url()], server.take)


@case("busybox: wget")
def busybox_wget(t):
    busybox = t.need("busybox")
    server = t.enter_context(Http())
    t.same([busybox, "wget", "-q", "-O", "-", server.url()], server.take, judge=t.judge_of(busybox))


def ab(t, *options):
    return [t.need("ab"), "-q", "-s", "30", *options]


def ab_counts(text):
    """The lines of ab's report that do not tell a time."""
    return re.findall(
        r"^(?:Complete requests|Failed requests|Keep-Alive requests|HTML transferred): .*$",
        text,
        re.M,
    )


@case("ab: 400 connections, 20 at a time")
def ab_short(t):
    server = t.enter_context(Http())
    t.same(
        ab(t, "-n", "400", "-c", "20", server.url()),
        server.take,
        normalise=ab_counts,
        same_count=False,
        at_least=400,
    )


@case("ab: kept connections")
def ab_kept(t):
    server = t.enter_context(Http())
    t.same(
        ab(t, "-k", "-n", "1000", "-c", "10", server.url()),
        server.take,
        normalise=ab_counts,
        same_count=False,
        at_least=10,
    )


@case("ab: more connections than ports, one after another")
def ab_many(t):
    server = t.enter_context(Http())
    t.same(
        ab(t, "-n", "2000", "-c", "8", server.url()),
        server.take,
        normalise=ab_counts,
        same_count=False,
        at_least=2000,
    )


@case("wrk: two threads, 20 kept connections")
def wrk(t):
    server = t.enter_context(Http())
    argv = [t.need("wrk"), "-t2", "-c20", "-d1s", server.url()]
    results = t.same(argv, server.take, normalise=wrk_faults, same_count=False, at_least=20)
    t.equal(wrk_faults(results[1].out), [], "wrk's errors")


def wrk_faults(text):
    return re.findall(r"^ *(?:Socket errors|Non-2xx).*$", text, re.M)
