# SPDX-License-Identifier: MIT
"""Real servers for the clients to talk to: each laid out in the case's directory, on loopback only.

Each says in its own words which port a client came from (a log line at accept, a variable in a
page): that is the port an administrator would see. They run without the shim.
"""

import os
import pwd
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import network
from harness import Skip
from processes import Daemon, run
from servers import Peer, free_port, is_listening


class PeersInLog:
    """Reads the peers out of a server's log, which names each before the client has an answer."""

    def __init__(self, path, pattern):
        self.path = Path(path)
        self.pattern = re.compile(pattern)
        self.offset = 0

    def take(self, _result=None):
        text = self.path.read_text(errors="replace")
        new, self.offset = text[self.offset :], len(text)
        return [Peer(address, int(port)) for address, port in self.pattern.findall(new)]

    def contains(self, text):
        return self.path.exists() and text in self.path.read_text(errors="replace")


def user_directive(name):
    """nginx's line for the user of its workers; without root there is no choice of user."""
    return f"user {name};" if os.geteuid() == 0 else ""


def certificate(t):
    """A key and a self-signed certificate for localhost, in files of the case."""
    key, cert = t.tmp / "key.pem", t.tmp / "cert.pem"
    made = run(
        [
            t.need("openssl"),
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        t.env(False),
    )
    t.equal(made.status, 0, f"exit status of openssl req ({made.err})")
    return key, cert


@dataclass
class Http2:
    clear: str
    tls: str
    certificate: Path


NGINX_HTTP2 = """
{user}
daemon off;
worker_processes 1;
pid {tmp}/http2.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{clear} http2;
        listen 127.0.0.1:{tls} ssl http2;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{ return 200 "$remote_addr $remote_port $server_protocol\\n"; }}
    }}
}}
"""


@contextmanager
def nginx_http2(t):
    """nginx with HTTP/2, whose only page tells the client's address and port."""
    nginx = t.need("nginx")
    key, cert = certificate(t)
    clear, tls = free_port(), free_port()
    config = t.tmp / "http2.conf"
    config.write_text(
        NGINX_HTTP2.format(
            user=user_directive("www-data"), tmp=t.tmp, clear=clear, tls=tls, cert=cert, key=key
        )
    )
    with Daemon(
        [nginx, "-e", "stderr", "-c", config],
        t.env(False),
        t.tmp / "http2.log",
        ready=lambda: is_listening(clear) and is_listening(tls),
    ):
        yield Http2(f"http://127.0.0.1:{clear}/", f"https://127.0.0.1:{tls}/", cert)


@contextmanager
def redis(t):
    """A redis-server that keeps nothing. Yields (port, peers)."""
    port, log = free_port(), t.tmp / "redis.log"
    argv = [
        t.need("redis-server"),
        "--bind",
        "127.0.0.1",
        "::1",
        "--port",
        str(port),
        "--save",
        "",
        "--appendonly",
        "no",
        "--loglevel",
        "verbose",
        "--dir",
        t.tmp,
        "--logfile",
        log,
    ]
    peers = PeersInLog(log, r"Accepted (\S+?):(\d+)\n")
    with Daemon(
        argv,
        t.env(False),
        t.tmp / "redis.out",
        ready=lambda: peers.contains("eady to accept connections"),
    ):
        peers.take()
        yield port, peers


def postgres_bin():
    """Debian keeps PostgreSQL's programs out of the path, by version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4])
    )
    if not found:
        raise Skip("postgresql is not installed")
    return found[-1].parent


@contextmanager
def postgres(t):
    """A PostgreSQL cluster of its own. Yields (port, peers)."""
    programs = postgres_bin()
    identity, data, log = {}, t.tmp / "cluster", t.tmp / "postgres.log"
    data.mkdir()
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam("postgres")
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(data, user.pw_uid, user.pw_gid)
    env = t.env(False)
    with Daemon(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
        env,
        t.tmp / "initdb.log",
        ready=lambda: (data / "PG_VERSION").exists(),
        cwd="/",
        **identity,
    ) as initdb:
        t.equal(initdb.process.wait(120), 0, f"exit status of initdb ({initdb.said()})")
    port = free_port()
    argv = [
        programs / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1,::1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
        "-c",
        "log_connections=on",
    ]
    peers = PeersInLog(log, r"connection received: host=(\S+) port=(\d+)")
    with Daemon(
        argv,
        env,
        log,
        ready=lambda: peers.contains("ready to accept connections"),
        stop=signal.SIGINT,
        cwd="/",
        **identity,
    ):
        peers.take()
        yield port, peers


@dataclass
class Sshd:
    port: int
    peers: PeersInLog
    options: list  # of every ssh to it
    user: str

    def command(self, ssh):
        """The ssh command line as one string, for programs that start ssh themselves."""
        return " ".join([ssh, "-p", str(self.port), *map(str, self.options)])


SSHD = """
Port {port}
ListenAddress 127.0.0.1
ListenAddress ::1
HostKey {tmp}/host_key
AuthorizedKeysFile {tmp}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PidFile none
LogLevel VERBOSE
"""


@contextmanager
def sshd(t):
    """An sshd with keys of its own, for whoever runs the tests."""
    program = t.need("sshd")
    user = pwd.getpwuid(os.geteuid())
    if user.pw_shell.endswith(("/nologin", "/false")):
        raise Skip(f"{user.pw_name} must not log in")
    if os.geteuid() == 0:
        _privilege_separation_directory()
    for key in ("host_key", "user_key"):
        made = run(
            [t.need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", t.tmp / key], t.env(False)
        )
        t.equal(made.status, 0, f"exit status of ssh-keygen ({made.err})")
    port, log = free_port(), t.tmp / "sshd.log"
    (t.tmp / "sshd_config").write_text(SSHD.format(port=port, tmp=t.tmp))
    host_key = (t.tmp / "host_key.pub").read_text()
    (t.tmp / "known_hosts").write_text(
        "".join(f"[{address}]:{port} {host_key}" for address in ("127.0.0.1", "::1"))
    )
    options = [
        "-F",
        "none",
        "-i",
        t.tmp / "user_key",
        "-o",
        f"UserKnownHostsFile={t.tmp}/known_hosts",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
    ]
    peers = PeersInLog(log, r"Connection from (\S+) port (\d+) on")
    with Daemon(
        [program, "-D", "-e", "-f", t.tmp / "sshd_config"],
        t.env(False),
        log,
        ready=lambda: peers.contains("Server listening on ::1 "),
    ):
        yield Sshd(port, peers, options, user.pw_name)


def _privilege_separation_directory():
    """What Debian's start script makes for sshd. Another run may make and remove it at this moment:
    so it is in a /run of the case's own, or else it stays."""
    network.cover("/run")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


@contextmanager
def git_daemon(t, base):
    """git's own protocol, serving what is under @base. Yields (port, peers)."""
    port, log = free_port(), t.tmp / "git-daemon.log"
    argv = [
        t.need("git"),
        "daemon",
        "--verbose",
        "--log-destination=stderr",
        "--export-all",
        "--listen=127.0.0.1",
        f"--port={port}",
        f"--base-path={base}",
        base,
    ]
    peers = PeersInLog(log, r"Connection from (\S+):(\d+)")
    with Daemon(argv, t.env(False), log, ready=lambda: is_listening(port)):
        yield port, peers


@contextmanager
def openssl_server(t):
    """openssl s_server that gives lines back reversed. Yields (port, certificate)."""
    key, cert = certificate(t)
    port = free_port()
    with Daemon(
        [
            t.need("openssl"),
            "s_server",
            "-accept",
            f"127.0.0.1:{port}",
            "-rev",
            "-quiet",
            "-key",
            key,
            "-cert",
            cert,
        ],
        t.env(False),
        t.tmp / "s_server.log",
        ready=lambda: is_listening(port),
    ):
        yield port, cert
