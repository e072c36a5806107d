#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""README's two commands on a fresh Debian of another release than this machine's: a minimal system
made by debootstrap, this tree in it, and nothing else. First root has what is missing installed,
with all warnings of that release's compilers as errors; then an ordinary user does the same.

    FIXPORT_BUILD=build tests/fresh/debian.py RELEASE            such as trixie
    FIXPORT_BUILD=build tests/fresh/debian.py RELEASE --prepare  makes the system only
    FIXPORT_BUILD=build tests/fresh/debian.py RELEASE COMMAND... runs something as root in it instead

Output is TAP. The minimal system, and the packages that were installed in it, are kept in the build
tree.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True  # the source tree stays as it is

SOURCE = Path(__file__).resolve().parent.parent.parent
for folder in ("lib", "containers"):
    sys.path.append(str(SOURCE / "tests" / folder))

import fptest  # noqa: E402
import images  # noqa: E402

CACHE = Path(fptest.BUILD, "fresh")
HOME = "home/fixport"  # where the tree is, in the new system
# What a build leaves in the tree: a fresh clone has none of it.
LEFT_OUT = (".git", "build", "build-*", "build-aux", "m4", "configure", "*.m4", "autom4te.cache",
            "Makefile.in", "__pycache__")
CHECKED = ("tests/unit", "tests/shim", "tests/tools")
CHECKED_BY_USER = CHECKED[:2]  # most of the tools' tests need root

# In a tmpfs of its own, because dpkg waits for the disk after each file.
MAKE = """
set -e
mount -n -t tmpfs -o mode=755 tmpfs "$1"
debootstrap --variant=minbase "$2" "$1/root" "$3"
tar -C "$1/root" --numeric-owner -cf "$4" .
"""

# Enters a system as its only one: a process whose root is changed by chroot only may not make user
# namespaces. The network is the machine's, for apt.
ENTER = """
set -e
mount -n --rbind "$1" "$1"
cd "$1"
mount -n -t proc proc proc
mount -n -t sysfs sysfs sys
mount -n --rbind /sys/fs/cgroup sys/fs/cgroup
mount -n -t tmpfs -o mode=755 tmpfs dev
for name in full null random tty urandom zero; do
    touch "dev/$name"
    mount -n --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -n -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -n -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -n -t tmpfs -o mode=755 tmpfs run
mkdir run/lock
mount -n --bind "$2" var/cache/apt/archives
pivot_root . mnt
cd /
umount -l /mnt
shift 2
exec "$@"
"""


def base(release):
    """Return: an archive of a minimal Debian of this release."""
    CACHE.mkdir(exist_ok=True)
    archive = CACHE / f"{release}.tar"
    with open(CACHE / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            new = archive.with_suffix(".new")
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                images.run(["unshare", "--mount", "sh", "-c", MAKE, "sh", folder, release,
                            images.mirror()[0], str(new)])
            new.rename(archive)
    return archive


def unpack(archive, root):
    """A system that nothing was done in, with this tree."""
    images.run(["tar", "-C", str(root), "--numeric-owner", "-xf", str(archive)])
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    (root / "etc/dpkg/dpkg.cfg.d/unsafe").write_text("force-unsafe-io\n", encoding="ascii")
    proxies = images.run(["sh", "-c", "apt-config dump | grep -E '^Acquire::[^:]*::Proxy' || :"])
    (root / "etc/apt/apt.conf.d/proxy").write_text(proxies, encoding="utf-8")
    shutil.copytree(SOURCE, root / HOME, symlinks=True, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns(*LEFT_OUT))


class Fresh:
    """A system that goes with the block."""

    def __init__(self, release):
        self.release = release
        self.archives = CACHE / f"{release}-packages"
        self.folder = None
        self.began = 0  # when the last command was started

    def __enter__(self):
        archive = base(self.release)
        self.folder = tempfile.TemporaryDirectory(dir=CACHE)  # pylint: disable=consider-using-with
        os.chmod(self.folder.name, 0o755)
        unpack(archive, Path(self.folder.name))
        self.archives.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def run(self, argv, quiet=True, **variables):
        """Runs a command in the tree, in an environment that says nothing of this machine's."""
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", **variables}
        env |= {name: value for name, value in os.environ.items() if name.endswith("_proxy")}
        self.began = time.monotonic()
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "sh", "-c",
             ENTER, "sh", self.folder.name, str(self.archives), "env", "-C", f"/{HOME}", *argv],
            env=env, text=True, check=False, stdin=subprocess.DEVNULL,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}))

    def took(self):
        return f"{time.monotonic() - self.began:.0f} s"


def said(done):
    """The failures that a command told of, and its end."""
    return "\n".join([*re.findall(r"^not ok.*(?:\n#.*)*", done.stdout, re.M)[:20],
                      done.stdout[-3000:]])


def check(tap, fresh, name, stages, who=(), **variables):
    """./bootstrap check, in which nothing may fail; as root nothing may be skipped, either."""
    done = fresh.run([*who, "./bootstrap", "check", *stages], **variables)
    count = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped\n\Z", done.stdout, re.M)
    good = done.returncode == 0 and count and int(count[1]) > 100 and count[2] == "0"
    tap.point(good, f"{name}: {count[0].strip() if count else 'no count'} ({fresh.took()})",
              *([] if good else [said(done)]))


def demo(tap, fresh, name, who=(), **variables):
    done = fresh.run([*who, "./bootstrap", "demo"], **variables)
    rows = re.findall(r"^.* {2}\d+(?: \d+)* +61\d\d\d(?: 61\d\d\d)* *$", done.stdout, re.M)
    good = done.returncode == 0 and len(rows) >= 4
    tap.point(good, f"{name}: {len(rows)} programs are shown with ports of the range ({fresh.took()})",
              *([] if good else [said(done)]))


def commands(tap, fresh):
    versions = "gcc --version | head -n 1; clang --version | head -n 1; python3 --version"
    # fixport-setup is killed often enough on this machine's own release
    strict = {"FIXPORT_MUST_WORK": "1", "CFLAGS": "-g -O2 -Werror", "FIXPORT_SETUP_ROUNDS": "2"}
    demo(tap, fresh, "root, ./bootstrap demo", **strict)
    check(tap, fresh, f"root, ./bootstrap check {' '.join(CHECKED)} clang", [*CHECKED, "clang"],
          **strict)
    print("# " + fresh.run(["sh", "-c", versions]).stdout.strip().replace("\n", "\n# "))
    fresh.run(["sh", "-c", f"useradd fixport && chown -R fixport /{HOME}"])
    user = ["setpriv", "--reuid=fixport", "--regid=fixport", "--init-groups", "env", f"HOME=/{HOME}"]
    demo(tap, fresh, "a user, ./bootstrap demo", user)
    check(tap, fresh, f"a user, ./bootstrap check {' '.join(CHECKED_BY_USER)}", CHECKED_BY_USER,
          user)


def refused():
    """Return: why this cannot be tried here, or None."""
    if os.geteuid():
        return "root only can make a system"
    if not shutil.which("debootstrap"):
        return "debootstrap is not installed"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True,
                          text=True, check=False)
    return (done.stderr.strip() or "no namespaces") if done.returncode else None


def main():
    release, *command = sys.argv[1:] or sys.exit("debian.py: expected a release, such as trixie")
    if command == ["--prepare"]:
        return 0 if refused() else bool(base(release)) - 1
    if command:
        with Fresh(release) as fresh:
            return fresh.run(command, quiet=False).returncode
    tap = fptest.Tap()
    why = refused()
    try:
        if not why:
            with Fresh(release) as fresh:
                commands(tap, fresh)
    except images.Failed as error:
        print("# " + str(error).replace("\n", "\n# "))
        why = "a system could not be made"
    if why:
        tap.cannot(f"a fresh Debian {release}", why)
    tap.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
