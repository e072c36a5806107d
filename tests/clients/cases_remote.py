# SPDX-License-Identifier: MIT
"""ssh and what rides on it: the client closes every descriptor it does not know, and programs start
it in children of their own, with the environment they were given.
"""

import re
import shutil

from daemons import git_daemon, sshd
from harness import case
from processes import run


@case("ssh: a command over IPv4 and IPv6")
def ssh(t):
    program = t.need("ssh")
    server = t.enter_context(sshd(t))
    for host in ("127.0.0.1", "::1"):
        t.same(
            [
                program,
                "-p",
                server.port,
                *server.options,
                f"{server.user}@{host}",
                "echo $SSH_CLIENT; exit 3",
            ],
            server.peers.take,
            status=3,
            normalise=lambda text: re.sub(r" \d+ ", " PORT ", text),
        )


@case("ssh: -b takes the address and not the port")
def ssh_bind(t):
    program = t.need("ssh")
    server = t.enter_context(sshd(t))
    t.same(
        [
            program,
            "-p",
            server.port,
            "-b",
            "127.0.0.2",
            *server.options,
            f"{server.user}@127.0.0.1",
            "echo hello",
        ],
        server.peers.take,
    )


@case("ssh: through ProxyCommand nc")
def ssh_proxy_command(t):
    program, nc = t.need("ssh"), t.need("nc")
    server = t.enter_context(sshd(t))
    t.same(
        [
            program,
            "-p",
            server.port,
            *server.options,
            "-o",
            f"ProxyCommand={nc} %h %p",
            f"{server.user}@127.0.0.1",
            "echo hello",
        ],
        server.peers.take,
    )


@case("rsync: a tree over ssh")
def rsync(t):
    program, ssh_program = t.need("rsync"), t.need("ssh")
    server = t.enter_context(sshd(t))
    source, copy = t.tmp / "source", t.tmp / "copy"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(bytes(range(256)) * 4096)
    t.same(
        [
            program,
            "-a",
            "--itemize-changes",
            "-e",
            server.command(ssh_program),
            f"{source}/",
            f"{server.user}@127.0.0.1:{copy}/",
        ],
        server.peers.take,
        before=lambda: shutil.rmtree(copy, ignore_errors=True),
    )
    t.equal(
        (copy / "folder" / "file").read_bytes(),
        (source / "folder" / "file").read_bytes(),
        "the copy",
    )


def repository(t):
    """Return: (the path of a repository with one commit, that commit's name)."""
    path = t.tmp / "served" / "project.git"
    env = t.env(
        False,
        GIT_CONFIG_NOSYSTEM="1",
        GIT_AUTHOR_NAME="A",
        GIT_AUTHOR_EMAIL="a@example.org",
        GIT_COMMITTER_NAME="A",
        GIT_COMMITTER_EMAIL="a@example.org",
    )
    git = t.need("git")
    for command in (
        ["init", "-q", path],
        ["-C", path, "commit", "-q", "--allow-empty", "-m", "First"],
    ):
        done = run([git, *command], env)
        t.equal(done.status, 0, f"exit status of git {command[0]} ({done.err})")
    return path, run([git, "-C", path, "rev-parse", "HEAD"], env).out


def clone_is(t, clone, commit):
    head = run([t.need("git"), "-C", clone, "rev-parse", "HEAD"], t.env(False)).out
    t.equal(head, commit, "the clone's commit")


@case("git: clone over ssh")
def git_over_ssh(t):
    git, ssh_program = t.need("git"), t.need("ssh")
    server = t.enter_context(sshd(t))
    path, commit = repository(t)
    clone = t.tmp / "clone"
    t.same(
        [git, "clone", "-q", f"ssh://{server.user}@127.0.0.1{path}", clone],
        server.peers.take,
        env={"GIT_SSH_COMMAND": server.command(ssh_program)},
        before=lambda: shutil.rmtree(clone, ignore_errors=True),
    )
    clone_is(t, clone, commit)


@case("git: clone over its own protocol")
def git_protocol(t):
    git = t.need("git")
    path, commit = repository(t)
    port, peers = t.enter_context(git_daemon(t, path.parent))
    clone = t.tmp / "clone"
    t.same(
        [git, "clone", "-q", f"git://127.0.0.1:{port}/{path.name}", clone],
        peers.take,
        before=lambda: shutil.rmtree(clone, ignore_errors=True),
    )
    clone_is(t, clone, commit)
