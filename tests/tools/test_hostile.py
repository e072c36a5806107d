#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Root among hostile pods. On a node the pool and its folder are mounted into pods, which may write
there. So here is an attacker, an ordinary user with that folder in its hands, that does what such a
pod can: renames links in and out while root works there, holds the pool's lock and is stopped,
scribbles. Nothing of root's outside may change, nothing may hang, and apply and undo work all the
same. And what the machine itself can do to an undo: another /run, a full disk, a dead watcher.

The machine is that of test_setup.py.

    FIXPORT_BUILD=build tests/tools/test_hostile.py [WORD...]   only the tests with WORD in their name
    FIXPORT_HOSTILE_SECONDS   how long each race lasts (4)
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import test_setup
from test_setup import JOURNAL, Machine, Test, read, run, wait_for, write

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SECONDS = float(os.environ.get("FIXPORT_HOSTILE_SECONDS", "4"))
SOON = 60  # seconds that bounded work may take on a busy machine
DEADLINE = 20  # of apply --confirm: longer than an apply takes
POOL = "/run/fixport/pool"
USER = 65534
NODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib", "docker",
                    "fixport-node")


class Attacker:
    """A process of an ordinary user that runs @attack(round) as often as it can."""

    def __init__(self, attack):
        self.rounds, self.pipe = 0, os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(self.pipe[1])
            return
        os.close(self.pipe[0])
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
        rounds = 0
        while not ended:
            try:
                attack(rounds)
            except OSError:
                pass
            rounds += 1
        os.write(self.pipe[1], str(rounds).encode())
        os._exit(0)

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        self.rounds = int(os.read(self.pipe[0], 64) or b"0")
        os.waitpid(self.pid, 0)
        os.close(self.pipe[0])
        return self.rounds


def victim(machine):
    """A file of root's that nobody else may read."""
    path = os.path.join(machine.scratch, "victim")
    write(path, "root's own\n", 0o600)
    os.chown(path, 0, 0)
    os.chmod(machine.scratch, 0o755)
    return path


def same(path):
    info = os.lstat(path)
    return (info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_nlink, read(path))


def give_folder(machine):
    """The pool's folder in the attacker's hands, and its path open to it."""
    folder = os.path.dirname(machine.root + POOL)
    for path in (machine.root, machine.root + "/run"):
        os.chmod(path, 0o755)
    os.chmod(folder, 0o777)
    return folder


def swapping(folder, name, target):
    """Swaps a link to @target in and out under @name: in most looks root sees what it expects."""
    link, aside = os.path.join(folder, "link"), os.path.join(folder, "aside")

    def attack(number):
        if number % 2 == 0:
            if not os.path.islink(link):
                os.symlink(target, link)
            os.rename(os.path.join(folder, name), aside)
            os.rename(link, os.path.join(folder, name))
            time.sleep(0.001)
        else:
            os.rename(aside, os.path.join(folder, name))
            time.sleep(0.003)
    return attack


def raced(test, attack, work, name):
    """@work again and again for some seconds beside the attacker. Return: the rounds of both."""
    path = victim(test.machine)
    before, rounds = same(path), 0
    attacker = Attacker(attack(path))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until or rounds < 4:
        work(rounds)
        rounds += 1
    attacks = attacker.end()
    test.tap.equal(same(path), before, f"{name}: root's file is as it was")
    test.tap.point(attacks > 20 and rounds > 3, f"{name}: it was a race", f"{attacks}, {rounds}")


def test_pool_swapped(test):
    """Links under the pool's name, while apply and fixport-pool change mode and group."""
    machine = test.machine
    machine.roles = "node"
    site = read(machine.config)
    for mode in (0o660, 0o666):
        write(machine.config + str(mode), site.replace("[pool]", f"[pool]\nmode = {mode:04o}\n"
                                                       f"group = {mode % 7}"))
    test.expect(machine("apply"), 0, "apply")
    folder = give_folder(machine)

    def apply(number):
        machine.config = machine.config.split(".conf")[0] + ".conf" + str((0o660, 0o666)[number % 2])
        machine("apply")
    config = machine.config
    raced(test, lambda path: swapping(folder, "pool", path), apply, "apply in a race")
    tool = os.path.join(machine.tools, "fixport-pool")
    verbs = (["reload", "--any"], ["create"], ["reload"], ["remove", "--force", "--any"])

    def pool(number):
        take = [] if verbs[number % 4][0] == "remove" else ["-c", config + str(0o660 + number % 2 * 6)]
        run([tool, *verbs[number % 4], "--pool", machine.root + POOL, *take])
    raced(test, lambda path: swapping(folder, "pool", path), pool, "fixport-pool in a race")
    machine.config = config
    shutil.rmtree(folder)
    test.expect(machine("undo", "--force"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_pool_hard_linked(test):
    """Another name for the pool, in a folder that it was not made for."""
    machine = test.machine
    pool = os.path.join(machine.scratch, "pool")
    tool = os.path.join(machine.tools, "fixport-pool")
    make = ["--pool", pool, "-c", "/dev/stdin"]
    text = "[pool]\nports = 60001-60010\nmode = {}\n"

    def tell(verb, mode):
        return subprocess.run([tool, verb, *make], input=text.format(mode), text=True, check=False,
                              capture_output=True)
    tell("create", "0600")
    os.link(pool, pool + ".other")
    done = tell("reload", "0666")
    test.expect(done, 1, "a pool with two names gets no other mode", r"too many links|Too many links")
    test.tap.equal(os.stat(pool).st_mode & 0o777, 0o600, "it has the mode that it had")
    os.unlink(pool)
    os.unlink(pool + ".other")


def test_folder_linked(test):
    """A folder on the way is a link that is neither root's nor lies where only root can put one."""
    machine = test.machine
    folder = os.path.join(machine.scratch, "open")
    tool = os.path.join(machine.tools, "fixport-pool")
    os.makedirs(folder)
    os.chmod(folder, 0o777)
    os.makedirs(machine.scratch + "/theirs")
    os.symlink(machine.scratch + "/theirs", folder + "/way")
    os.lchown(folder + "/way", USER, USER)
    for verb in ("create", "reload", "remove"):
        take = [] if verb == "remove" else ["-p", "60001-60010"]
        test.expect(run([tool, verb, "--pool", folder + "/way/pool", *take]), {"create": 1}.get(verb, 2),
                    f"{verb} by way of a user's link", r"link")
    test.tap.equal(os.listdir(machine.scratch + "/theirs"), [], "nothing was made there")
    os.symlink("theirs", machine.scratch + "/way")
    test.expect(run([tool, "create", "--pool", machine.scratch + "/way/pool", "-p", "60001-60010"]), 0,
                "a link of root's is followed")
    shutil.rmtree(folder)
    shutil.rmtree(machine.scratch + "/theirs")
    os.unlink(machine.scratch + "/way")


def test_roll_back_hindered(test):
    """An apply was killed, and what it began from cannot be made again: undo goes past that."""
    machine = test.machine
    machine.roles = "node"
    folder = os.path.dirname(machine.root + POOL)

    def kill_second():
        test.expect(machine("apply"), 0, "apply")
        mark = machine.mark()
        machine.wrap("sysctl", f"[ -e {mark} ] || kill -KILL $PPID\n: >{mark}\nexec \"$REAL\" \"$@\"",
                     "-w*")
        machine.site(ports="61100-61200")
        machine("apply", wrapped=True)
        machine.unwrap()
        machine.site()
    kill_second()
    shutil.rmtree(folder)
    write(folder, "")
    test.expect(machine("undo", "--force"), 1, "undo where the pool's folder is a file", r"Not a directory")
    os.unlink(folder)
    test.expect(machine("undo"), 0, "undo where it is gone")
    test.unchanged("all is as before")
    kill_second()
    machine.wrap("sysctl", "exit 1", "-w*62000-62999*")
    test.expect(machine("undo", "--force", wrapped=True), 0, "undo where the last apply's setting is refused",
                "sysctl")
    machine.unwrap()
    test.unchanged("all is as before")


class Leased:
    """A process of a pod's root that has a lease on the pool: who opens it must wait, or fails."""

    def __init__(self, pool):
        script = ("import fcntl, os, signal, sys\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\n"
                  "fd = os.open(sys.argv[1], os.O_RDWR)\nfcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
                  "print('leased', flush=True)\nsignal.pause()\n")
        self.process = subprocess.Popen([sys.executable, "-c", script, pool], text=True,
                                        stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == "leased\n"

    __enter__ = lambda self: self  # noqa: E731

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Stopped:
    """A process of an ordinary user that has the pool locked, and is stopped."""

    def __init__(self, pool):
        script = ("import fcntl, os, signal, sys\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
                  "file = open(sys.argv[1], 'rb')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
                  "print('locked', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n")
        self.process = subprocess.Popen([sys.executable, "-c", script, pool], text=True,
                                        stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == "locked\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def timed(work):
    begun = time.monotonic()
    return work(), time.monotonic() - begun


def test_lock_held(test):
    """A pod holds the pool's lock for ever: reload, apply and undo come to their end."""
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    give_folder(machine)
    machine.site(ports="62000-62100")
    with Stopped(machine.root + POOL):
        done, took = timed(lambda: machine("apply"))
        test.expect(done, 0, "the pool is locked by a process that is stopped: apply")
        test.tap.point(took < SOON, "it does not wait for ever", took)
        test.tap.point("has not come to its end" not in done.stderr, "it has no need of that lock",
                       done.stderr)
        test.expect(machine("status"), 0, "status")
        done, took = timed(lambda: machine("undo"))
        test.expect(done, 0, "undo", stream="stdout")
        test.tap.point(took < SOON, "it does not wait for ever", took)
    test.unchanged("after undo all is as before")


def test_leased(test):
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    with Leased(machine.root + POOL):
        test.expect(machine("status"), 2, "somebody holds a lease on the pool: status", r"lease", "stdout")
        done, took = timed(lambda: machine("apply"))
        test.expect(done, 0, "apply makes it anew")
        test.tap.point(took < SOON, "at once", took)
    with Leased(machine.root + POOL):
        test.expect(machine("undo"), 0, "undo takes it away")
    test.unchanged("after undo all is as before")


def test_confirm_with_lock_held(test):
    """The roll-back comes at its deadline, whatever a pod holds."""
    machine = test.machine
    test.expect(machine("apply"), 0, "apply")
    give_folder(machine)
    before = machine.state()
    machine.site(ports="62000-62100")
    machine.start("apply", "--confirm", str(DEADLINE)).communicate()
    old = read(machine.root + JOURNAL)
    test.tap.point("unconfirmed" in old, "another pool waits to be confirmed")
    with Stopped(machine.root + POOL):
        gone = wait_for(lambda: '"unconfirmed"' not in read(machine.root + JOURNAL), DEADLINE + SOON)
        machine.settle()
        test.tap.point(gone, "not confirmed, and the pool is locked: it is rolled back")
    lines = test_setup.differences(before, machine.state())
    lines = [line for line in lines if not re.search("journal|pool|another order", line)]
    test.tap.point(not lines, "as it was", *lines)
    machine.site()
    test.expect(machine("plan"), 0, "and there is nothing to change for the old configuration")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_step_hangs(test):
    """A tool that never ends: the sentence says which, and all is as before."""
    machine = test.machine
    machine.wrap("sysctl", "exec sleep 600", "-w*")
    env = dict(machine.environment(True), FIXPORT_SETUP_SECONDS="2")
    done, took = timed(lambda: run(machine.argv("apply"), env=env))
    test.expect(done, 1, "a step that does not end",
                r"'sysctl -w .*' had not ended after 2 s and was stopped: .*lock")
    test.tap.point(took < 5 * SOON, "apply comes to its end", took)
    machine.unwrap()
    test.expect(machine("undo", "--force"), 0, "undo")
    test.unchanged("all is as before")
    mark = machine.mark()
    machine.wrap("sysctl", f"[ -e {mark} ] && exec \"$REAL\" \"$@\"\n: >{mark}\nexec sleep 600", "-w*")
    done, took = timed(lambda: machine("apply", "--confirm", str(DEADLINE), wrapped=True))
    test.expect(done, 1, "a step that does not end before the deadline", r"as it was before")
    test.tap.point(took < DEADLINE + SOON, "is stopped there", took)
    machine.unwrap()
    test.unchanged("and all is as before")


def test_apply_stopped(test):
    """An apply --confirm that is stopped with the lock in its hands."""
    machine = test.machine
    mark = machine.mark()
    machine.wrap("sysctl", f": >{mark}\nkill -STOP $PPID\nexec sleep 600", "-w*")
    apply = machine.start("apply", "--confirm", str(DEADLINE), wrapped=True)
    test.tap.point(wait_for(lambda: os.path.exists(mark)), "apply is stopped, its tool hangs")
    machine.unwrap()
    reader = subprocess.Popen(["sleep", "600"],  # somebody who only reads the lock's file
                              stdin=open(machine.root + "/var/lib/fixport/lock", "rb"))
    gone = wait_for(lambda: not os.path.exists(machine.root + JOURNAL), DEADLINE + 20 + SOON)
    machine.settle()
    test.tap.point(gone, "at the deadline it is rolled back")
    test.tap.point(reader.poll() is None, "and who only reads the lock's file lives")
    reader.kill()
    reader.wait()
    apply.kill()
    apply.communicate()
    test.unchanged("all is as before")


def test_scribbled(test):
    """Eight bytes, anywhere in what says what the pool is; or something else under its name."""
    machine = test.machine
    give = machine.root + POOL

    def put(offset):
        with open(give, "r+b") as file:
            file.seek(offset)
            file.write(b"\3" * 8)

    def other(make):
        os.unlink(give)
        make(give)
    link = lambda path: os.symlink(victim(machine), path)  # noqa: E731
    damages = [(f"byte {offset}", lambda offset=offset: put(offset))
               for offset in (0, 8, 16, 24, 160, 192, 200, 4096)]
    damages += [("a truncated file", lambda: os.truncate(give, 5)),
                ("a longer file", lambda: os.truncate(give, os.path.getsize(give) + 4096)),
                ("a link", lambda: other(link)), ("a FIFO", lambda: other(os.mkfifo)),
                ("a folder", lambda: other(os.mkdir)),
                ("a user's file", lambda: os.chown(give, USER, USER))]
    good = victim(machine)
    before = same(good)
    for name, damage in damages:
        if machine("apply").returncode:
            test.tap.point(False, f"{name}: apply before")
        damage()
        status, plan = machine("status"), machine("plan")
        again = machine("apply")
        then = machine("status")
        damage()
        undo = machine("undo")
        said = [done.stderr + done.stdout for done in (status, plan, again, then, undo)]
        test.tap.equal([done.returncode for done in (status, plan, again, then, undo)], [2, 2, 0, 0, 0],
                       f"{name}: status and plan see it, apply replaces it, undo removes it")
        if any("Traceback" in text for text in said) or undo.returncode:
            print("#", "\n# ".join("\n".join(said).splitlines()))
        test.unchanged(f"{name}: after undo all is as before")
    test.tap.equal(same(good), before, "what the link led to is as it was")


def test_not_a_pool(test):
    """A path of a person's that is something else: it is not ours to replace."""
    machine = test.machine
    path = "/etc/precious"
    write(machine.root + path, "mine\n")
    write(machine.config, read(machine.config).replace("[pool]", f"[pool]\npath = {path}"))
    test.expect(machine("apply"), 1, "the pool's path is somebody's file: apply",
                r"/etc/precious is there, and nothing of ours")
    test.tap.equal(read(machine.root + path), "mine\n", "it is left alone")
    os.unlink(machine.root + path)
    test.unchanged("and all is as before")


def test_two_runs(test):
    """Two mount namespaces, each with its own /run: one apply at a time all the same."""
    machine = test.machine
    machine.wrap("sysctl", "sleep 0.1\nexec \"$REAL\" \"$@\"", "-w*")
    script = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    wrong = []
    for number in range(6):
        machine.site(ports=f"62000-62{number + 1}00", services=str(8000 + number))
        pair = [subprocess.Popen(["unshare", "--mount", "sh", "-c", script, machine.root + "/run",
                                  *machine.argv("apply")], env=machine.environment(True),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        told = [(process.communicate()[0], process.returncode) for process in pair]
        if sorted(code for _, code in told) not in ([0, 0], [0, 1]) or not any(
                code == 0 or "another fixport-setup is at work" in text for text, code in told):
            wrong.append(told)
        refused = [text for text, code in told if code]
        if any("another fixport-setup is at work" not in text for text in refused):
            wrong.append(refused)
    test.tap.point(not wrong, "two at once, with two folders /run: one waits its turn", *wrong)
    machine.unwrap()
    test.expect(machine("undo", "--force"), 0, "undo")
    test.unchanged("after undo all is as before")


def test_undo_and_apply_at_once(test):
    """The lock goes with the last journal: nobody may be left with a lock that is none."""
    machine = test.machine
    for _ in range(8):
        machine("apply")
        pair = [machine.start(command) for command in ("undo", "apply", "undo", "apply")]
        for process in pair:
            process.communicate()
        status = machine("status")
        if status.returncode:
            test.tap.point(False, "undo and apply at once: it is the one or the other",
                           test_setup.told(status))
    test.expect(machine("undo"), 0, "undo after many at once")
    test.unchanged("all is as before")


def fill(folder):
    with open(folder + "/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def test_full_disk(test):
    """All that fixport-setup writes to is full: undo needs no room."""
    machine = test.machine
    files = machine.root
    saved = machine.scratch + "/saved"
    shutil.move(files, saved)
    os.mkdir(files)
    run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", files])
    run(["cp", "-a", saved + "/.", files])
    for force in ([], ["--force"]):
        before = machine.state()
        test.expect(machine("apply"), 0, "apply")
        fill(files)
        done = machine("undo", *force)
        test.expect(done, 0, f"the disk is full: undo {' '.join(force)}")
        os.unlink(files + "/filler")
        lines = test_setup.differences(before, machine.state())
        test.tap.point(not lines, "all is as before", *lines)
    before = machine.state()
    test.expect(machine("apply"), 0, "apply")
    mark = machine.mark()
    machine.wrap("sysctl", f"[ -e {mark} ] || kill -KILL $PPID\n: >{mark}\nexec \"$REAL\" \"$@\"", "-w*")
    machine.site(ports="62000-62100", node_ports="30000-30999")
    machine("apply", wrapped=True)
    machine.unwrap()
    fill(files)
    test.expect(machine("status"), 2, "a second apply was killed", r"was interrupted", "stdout")
    test.expect(machine("undo"), 0, "the disk is full, and an apply was killed: undo")
    os.unlink(files + "/filler")
    lines = test_setup.differences(before, machine.state())
    test.tap.point(not lines, "all is as before", *lines)
    machine.site()
    run(["umount", files])
    os.rmdir(files)
    shutil.move(saved, files)


def keeper(machine):
    return json.loads(machine("status", "--json").stdout).get("keeper")


def test_watcher_killed(test):
    """status says who will roll back; if nobody will, it says that."""
    machine = test.machine
    machine.start("apply", "--confirm", "600").communicate()
    test.tap.equal(keeper(machine), "process", "a process waits to roll back")
    test.expect(machine("status"), 2, "status says so", r"rolled back unless .*: by a process", "stdout")
    folder = machine.root + "/var/lib/fixport"
    locks = [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("watcher-")]
    holders = run(["sh", "-c", 'for fd in /proc/[0-9]*/fd/*; do [ "$fd" -ef "$0" ] && echo "$fd"; done',
                   *locks]).stdout.split()
    for fd in holders:
        os.kill(int(fd.split("/")[2]), signal.SIGKILL)
    test.tap.point(len(holders) == 1 and wait_for(lambda: keeper(machine) == "nobody"),
                   "it is killed: nobody waits", holders)
    test.expect(machine("status"), 2, "status says so", r"Nobody is there to roll it back", "stdout")
    test.expect(machine("confirm"), 0, "confirm works all the same")
    test.expect(machine("undo"), 0, "undo")
    test.unchanged("after undo all is as before")


SYSTEMD_RUN = """#!/bin/sh
# Of systemd-run as much as fixport-setup asks for. The timer's unit is a file.
echo "$*" >>"$0.log"
[ ! -e "$0.refuses" ] || { echo "Failed to start transient timer unit: no bus" >&2; exit 1; }
for word; do
    case $word in
    --unit=*) unit=${word#--unit=} ;;
    --on-active=*) seconds=${word#--on-active=}; seconds=${seconds%s} ;;
    -*) ;;
    *) break ;;
    esac
    shift
done
: >"$0.$unit.timer"
exec </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
setsid sh -c 'left=$1; timer=$2; shift 2
while [ -e "$timer" ]; do
    [ $((left -= 1)) -ge 0 ] || { rm "$timer"; exec "$@"; }
    sleep 1
done' sh "$seconds" "$0.$unit.timer" "$@" &
"""
SYSTEMCTL = """#!/bin/sh
run=$(dirname "$0")/systemd-run
for unit; do :; done
case "$*" in
*is-active*timer) [ -e "$run.$unit" ] ;;
*stop*timer) rm "$run.$unit" ;;
*is-active*) exit 1 ;;
esac
"""


def test_systemd_timer(test):
    """Where systemd runs, it is what rolls back."""
    machine = test.machine
    tool = os.path.join(machine.wrappers, "systemd-run")
    write(tool, SYSTEMD_RUN, 0o755)
    write(os.path.join(machine.wrappers, "systemctl"), SYSTEMCTL, 0o755)
    os.makedirs("/run/systemd/system")
    env = machine.environment(True)

    def setup(*argv):
        return run([machine.setup, *argv], env=env)
    apply = ["--config", machine.config, "--role", "gateway", "apply", "--confirm", str(DEADLINE)]
    test.expect(setup(*apply), 0, "apply --confirm where systemd runs")
    told = read(tool + ".log")
    test.tap.point(re.search(r"--unit=fixport-setup-expire-\d+ --on-active=20s .*/fixport-setup expire \d+$",
                             told, re.M), "a timer of systemd's is set", told)
    test.expect(setup("status"), 2, "status names it", r"by fixport-setup-expire-\d+\.timer", "stdout")
    gone = wait_for(lambda: not os.path.exists(JOURNAL), DEADLINE + SOON)
    test.tap.point(gone, "it rolls back")
    wait_for(lambda: not os.path.exists("/var/lib/fixport"))
    test.unchanged("all is as before")
    test.expect(setup(*apply[:-1], "600"), 0, "apply --confirm again")
    timers = [name for name in os.listdir(machine.wrappers) if name.endswith(".timer")]
    test.expect(setup("confirm"), 0, "confirm")
    left = [name for name in os.listdir(machine.wrappers) if name.endswith(".timer")]
    test.tap.equal((len(timers), left), (1, []), "takes the timer away")
    test.expect(setup("undo"), 0, "undo")
    write(tool + ".refuses", "")
    test.expect(setup(*apply[:-1], "600"), 0, "systemd refuses: a process waits instead", r"no bus")
    test.tap.equal(json.loads(setup("status", "--json").stdout)["keeper"], "process", "status says so")
    test.expect(setup("undo"), 0, "undo")
    shutil.rmtree("/run/systemd")
    wait_for(lambda: not os.path.exists("/var/lib/fixport"))
    test.unchanged("after undo all is as before")


def test_library_installed(test):
    """fixport-node puts the library where pods may write."""
    machine = test.machine
    folder, library = os.path.join(machine.scratch, "opt"), os.path.join(machine.scratch, "source.so")
    os.mkdir(folder)
    os.chmod(folder, 0o777)
    env = dict(machine.environment(False), FIXPORT_LIBRARY=library,
               FIXPORT_STATE=os.path.join(machine.scratch, "state"))
    env["PATH"] += ":" + os.path.join(fptest.BUILD, "tools")
    done = []

    def install(number):
        write(library, f"library {number}\n" * 1000)
        done.append(run(["sh", NODE, "install", folder], env=env).returncode)

    def attack(path):
        link = os.path.join(folder, "mine")

        def swap(number):
            for name in os.listdir(folder):
                if name.startswith(".libfixport"):
                    os.symlink(path, link)
                    os.rename(link, os.path.join(folder, name))
        return swap
    raced(test, attack, install, "fixport-node install in a race")
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    install(0)
    info = os.stat(folder + "/libfixport.so")
    test.tap.equal((info.st_mode & 0o777, read(folder + "/libfixport.so")), (0o644, read(library)),
                   "left alone it is installed")
    os.mkdir(folder + "/not-there")
    os.unlink(folder + "/libfixport.so")
    os.symlink(folder + "/not-there", folder + "/libfixport.so")
    install(1)
    test.tap.equal((os.path.islink(folder + "/libfixport.so"), os.listdir(folder + "/not-there")),
                   (False, []), "a link to a folder in its place is replaced")
    shutil.rmtree(folder)


if __name__ == "__main__":
    test_setup.main(globals(), test_setup.SITE)
