# SPDX-License-Identifier: MIT
"""nginx and haproxy as proxies: servers that connect.

They are what a preload library finds hardest. Their workers are forked, give up root, change their
root directory, lose their environment (nginx) or get a new program image (haproxy's master) at each
reload, and connect without blocking, thousands of times. Here the proxy has the shim, and the
servers behind it note the ports. Traffic flows during the reload.
"""

import os
import pwd
import signal
import threading
import urllib.request
from contextlib import contextmanager, suppress

from daemons import user_directive
from harness import case
from processes import Daemon, Failure, children, is_dead, run, wait_until
from servers import Http, free_port, is_listening
from settings import TIMEOUT, in_range

THREADS = 4


def fetch(port, path="/"):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT) as answer:
        return answer.status, answer.read().decode()


class Traffic:
    """Requests from several threads for as long as the with block; each must get its answer."""

    def __init__(self, port, paths):
        self.port = port
        self.paths = paths
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.answers = 0
        self.faults = []
        self.threads = [threading.Thread(target=self._fetch, daemon=True) for _ in range(THREADS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def _fetch(self):
        while not self.ended.is_set():
            for path in self.paths:
                try:
                    got, fault = fetch(self.port, path), None
                    if got != (200, "hello\n"):
                        fault = f"{path}: {got}"
                except OSError as error:
                    fault = f"{path}: {error}"
                with self.lock:
                    self.answers += 1
                    if fault:
                        self.faults.append(fault)

    def more(self, count=100):
        """Wait until @count more requests have had their answers."""
        wanted = self.answers + count
        wait_until(lambda: self.answers >= wanted, f"{count} more answers")

    def judge(self):
        """Every request was answered."""
        if self.faults:
            few = "\n".join(self.faults[:3])
            raise Failure(f"{len(self.faults)} of {self.answers} requests failed:\n{few}")

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(TIMEOUT)


def judged(t, traffic, server, shim, at_least=20):
    """Every request was answered, and with the shim every connection behind it is in range."""
    traffic.judge()
    (t.from_range if shim else t.from_kernel)(server.take(), at_least)


def workers_replaced(t, daemon, reload):
    """Does @reload and waits until none of the old workers is left."""
    before = set(children(daemon.pid))
    reload()
    wait_until(
        lambda: (now := set(children(daemon.pid))) and not now & before,
        f"the workers of {daemon.argv[0]} to be replaced",
    )
    t.note(f"workers {sorted(before)} replaced by {sorted(children(daemon.pid))}")


# nginx

NGINX = """
{user}
daemon {daemon};
worker_processes 2;
pid {tmp}/proxy.pid;
error_log {tmp}/proxy.log warn;
{env}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {tmp}/body;
    proxy_temp_path {tmp}/proxy;
    fastcgi_temp_path {tmp}/fastcgi;
    uwsgi_temp_path {tmp}/uwsgi;
    scgi_temp_path {tmp}/scgi;
    upstream kept {{ server 127.0.0.1:{behind}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location /plain {{ proxy_pass http://127.0.0.1:{behind}; }}
        location /six {{ proxy_pass http://[::1]:{behind}; }}
        location /bound {{ proxy_pass http://127.0.0.1:{behind}; proxy_bind 127.0.0.2; }}
        location /kept {{
            proxy_pass http://kept;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def nginx_command(t, **settings):
    """Return: the command line of an nginx with these @settings."""
    config = t.tmp / "proxy.conf"
    config.write_text(NGINX.format(user=user_directive("www-data"), tmp=t.tmp, **settings))
    return [t.need("nginx"), "-e", "stderr", "-c", config]


def nginx_complaints(t):
    lines = (t.tmp / "proxy.log").read_text().splitlines()
    t.equal([line for line in lines if "[notice]" not in line], [], "what nginx complained of")


@contextmanager
def nginx_proxy(t, behind, shim):
    port = free_port()
    command = nginx_command(t, behind=behind, port=port, daemon="off", env="")
    with Daemon(
        command,
        t.env(shim),
        t.tmp / "nginx.out",
        ready=lambda: is_listening(port),
        stop=signal.SIGQUIT,
    ) as daemon:
        yield daemon, port
        t.equal(daemon.said(), "", "what nginx said")
        nginx_complaints(t)


def nginx_reloaded(t, shim, paths):
    with Http() as behind, nginx_proxy(t, behind.port, shim) as (daemon, port):
        with Traffic(port, paths) as traffic:
            traffic.more()
            workers_replaced(t, daemon, lambda: daemon.signal(signal.SIGHUP))
            traffic.more()
        judged(t, traffic, behind, shim)


@case("nginx: proxy, reloaded under traffic")
def nginx_reload(t):
    t.need("nginx")
    for shim in (False, True):
        nginx_reloaded(t, shim, ["/plain", "/six"])


@case("nginx: proxy with proxy_bind, reloaded under traffic")
def nginx_bound(t):
    t.need("nginx")
    for shim in (False, True):
        nginx_reloaded(t, shim, ["/bound"])


@case("nginx: proxy with kept connections")
def nginx_kept(t):
    t.need("nginx")
    for shim in (False, True):
        with Http() as behind, nginx_proxy(t, behind.port, shim) as (_, port):
            with Traffic(port, ["/kept"]) as traffic:
                traffic.more()
            judged(t, traffic, behind, shim, at_least=1)


# nginx gives its new program only the variables that it is told to keep.
KEEP = "env LD_PRELOAD; env FIXPORT_PORTS; env FIXPORT_TO; env FIXPORT_POOL; env FIXPORT_LOG;"


def pid_in(path, other_than=0):
    """Return: the pid in the file at @path, or 0 if there is none or it is @other_than."""
    with suppress(OSError, ValueError):
        pid = int(path.read_text())
        return pid if pid != other_than else 0
    return 0


def nginx_upgraded(t, shim, env):
    """nginx starts its new program, which gets the variables named in @env, and ends."""
    judge_old = t.from_range if shim else t.from_kernel
    judge_new = t.from_range if shim and env else t.from_kernel
    port, pid_file = free_port(), t.tmp / "proxy.pid"
    with Http() as behind:
        # In the background: nginx takes a parent that stays for the program that it replaced.
        command = nginx_command(t, behind=behind.port, port=port, daemon="on", env=env)
        result = run(command, t.env(shim))
        t.equal((result.status, result.err), (0, ""), "nginx's start")
        old = wait_until(lambda: pid_in(pid_file), "nginx to serve")
        with Traffic(port, ["/plain"]) as traffic:
            traffic.more()
            judge_old(behind.take(), at_least=20)
            os.kill(old, signal.SIGUSR2)
            new = wait_until(lambda: pid_in(pid_file, old), "the new program's pid file")
            wait_until(lambda: len(children(new)) == 2, "the new program's workers")
            os.kill(old, signal.SIGQUIT)
            wait_until(lambda: is_dead(old), "the old program to end")
            traffic.more(THREADS)  # what was under way when the old program ended
            of_either = behind.take()
            if judge_old == judge_new:
                judge_new(of_either)
            traffic.more()
        traffic.judge()
        judge_new(behind.take(), at_least=20)
        nginx_complaints(t)
        os.kill(new, signal.SIGQUIT)
        wait_until(lambda: is_dead(new), "the new program to end")


@case("nginx: replaced by a new program under traffic (env directives)")
def nginx_upgrade(t):
    t.need("nginx")
    for shim in (False, True):
        nginx_upgraded(t, shim, KEEP)


@case("nginx: without env directives the new program is not covered")
def nginx_upgrade_uncovered(t):
    t.need("nginx")
    nginx_upgraded(t, True, "")


# haproxy

HAPROXY = """
global
    maxconn 200
    {identity}
defaults
    mode http
    timeout connect 10s
    timeout check 10s
    timeout client 30s
    timeout server 30s
    option http-server-close
    option httpchk GET /
listen proxy
    bind 127.0.0.1:{port}
    {server}
"""


@contextmanager
def haproxy(t, server, shim):
    """haproxy in master-worker mode, its workers in an empty root and without root's rights.

    Checks are requests: a check without one is undone before any server could see it.
    """
    port = free_port()
    identity = ""
    if os.geteuid() == 0:
        empty = t.tmp / "empty"
        empty.mkdir(exist_ok=True)
        user = next(name for name in ("haproxy", "nobody") if has_user(name))
        identity = f"chroot {empty}\n    user {user}"
    config = t.tmp / "haproxy.cfg"
    config.write_text(HAPROXY.format(identity=identity, port=port, server=server))
    with Daemon(
        [t.need("haproxy"), "-W", "-q", "-db", "-f", config],
        t.env(shim),
        t.tmp / "haproxy.log",
        ready=lambda: is_listening(port),
    ) as daemon:
        yield daemon, port
        if "fixport" in daemon.said():
            raise Failure(f"the shim spoke:\n{daemon.said()}")


def has_user(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


@case("haproxy: proxy with checks, reloaded under traffic")
def haproxy_reload(t):
    t.need("haproxy")
    for shim in (False, True):
        with Http() as behind:
            servers = (
                f"server four 127.0.0.1:{behind.port} check inter 50ms\n"
                f"    server six [::1]:{behind.port} check inter 50ms"
            )
            with haproxy(t, servers, shim) as (daemon, port):
                with Traffic(port, ["/"]) as traffic:
                    traffic.more()
                    workers_replaced(t, daemon, lambda: daemon.signal(signal.SIGUSR2))
                    traffic.more()
                judged(t, traffic, behind, shim)


@case("haproxy: source with an address")
def haproxy_source(t):
    t.need("haproxy")
    for shim in (False, True):
        with Http() as behind, haproxy(
            t, f"server one 127.0.0.1:{behind.port} source 127.0.0.2", shim
        ) as (_, port):
            with Traffic(port, ["/"]) as traffic:
                traffic.more()
            judged(t, traffic, behind, shim)


@case("haproxy: source with ports of its own stays")
def haproxy_own_ports(t):
    t.need("haproxy")
    with Http() as behind, haproxy(
        t, f"server one 127.0.0.1:{behind.port} source 127.0.0.1:62200-62399", shim=True
    ) as (_, port):
        with Traffic(port, ["/"]) as traffic:
            traffic.more(50)
        traffic.judge()
        ports = [peer.port for peer in behind.take()]
        outside = [port for port in ports if not 62200 <= port <= 62399 or in_range(port)]
        if outside or not ports:
            raise Failure(f"haproxy was told 62200-62399, the server saw {outside or 'nothing'}")
