# SPDX-License-Identifier: MIT
"""The images that the tests start from, made of Debian's packages, because there is no registry.

They are kept in the build tree: the second run finds them there. Made before the tests isolate
themselves, since this is the one thing that needs a network.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ["curl", "wget", "netcat-openbsd", "python3-minimal"]
BUILDING = ["autoconf", "automake", "gcc", "libc6-dev", "libiniparser-dev", "libjansson-dev",
            "libmnl-dev", "libtool", "libyaml-dev", "make", "pkg-config"]
TOOLS = ["conntrack", "iproute2", "iptables", "nftables", "procps"]
SLIM = ["usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*",
        "usr/share/i18n/*", "var/lib/apt/lists/*", "var/cache/*", "var/log/*",
        "usr/lib/gcc/*/*/lto1", "usr/lib/gcc/*/*/lib*san*"]

# In a tmpfs of its own, because dpkg waits for the disk after each file.
DEBOOTSTRAP = """
set -e
mount -n -t tmpfs -o mode=755 tmpfs "$1"
debootstrap --variant=minbase --include="$2" "$3" "$1/root" "$4" >&2
shift 4
tar -C "$WORKDIR/root" --numeric-owner "$@" -cf "$WORKDIR.tar" .
"""

BUSYBOX = ["ASH", "CAT", "ECHO", "ENV", "NC", "NC_EXTRA", "PRINTF", "SH_IS_ASH", "SLEEP", "TIMEOUT",
           "WGET", "XARGS", "ASH_ECHO", "ASH_PRINTF", "FEATURE_WGET_TIMEOUT", "LFS"]


class Failed(Exception):
    """An image could not be made."""


def run(argv, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(argv[:6])}: exit status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def mirror():
    """Return: where apt gets Debian itself from, and its release."""
    with open("/etc/os-release", encoding="utf-8") as release:
        names = dict(line.strip().split("=", 1) for line in release if "=" in line)
    code = names["VERSION_CODENAME"].strip('"')
    for line in run(["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(ORIGIN)",
                     "Identifier: Packages"]).splitlines():
        site, name, *origin = line.split()
        if name == code and origin == ["Debian"]:
            return site, code
    raise Failed(f"apt has no source of Debian {code} here")


def release():
    """The release of Debian that the image is made from, whatever this machine's is."""
    with open(os.path.join(SOURCE, "contrib/docker/Dockerfile"), encoding="utf-8") as file:
        return re.search(r"^ARG BASE=.*/debian:(\w+)-slim$", file.read(), re.M)[1]


def base(cache):
    """Return: a tar archive of a small Debian with what the tests' pods and builds need."""
    packages = ",".join([*PROGRAMS, *BUILDING, *TOOLS])
    site, code = mirror()[0], release()
    made = hashlib.sha256(f"{packages} {code} {SLIM}".encode()).hexdigest()[:12]
    path = os.path.join(cache, f"debian-{made}.tar")
    if os.path.exists(path):
        return path
    print("# making a Debian image by debootstrap", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        root = os.path.join(folder, "image")
        os.mkdir(root)
        run(["unshare", "--mount", "sh", "-c", DEBOOTSTRAP, "sh", root, packages, code, site,
             *(f"--exclude=./{part}" for part in SLIM)], env=dict(os.environ, WORKDIR=root))
        os.rename(f"{root}.tar", path)
    return path


def busybox_source(folder):
    """Unpacks busybox as Debian has it. Return: where."""
    site, code = mirror()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={key}] " if os.path.exists(key) else ""
    sources = os.path.join(folder, "sources.list")
    with open(sources, "w", encoding="ascii") as file:
        file.write(f"deb-src {signed}{site} {code} main\n")
    os.makedirs(os.path.join(folder, "lists", "partial"))
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={sources}", "-o",
           "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={folder}/lists",
           "-o", "APT::Sandbox::User=root"]
    run([*apt, "update"])
    run([*apt, "source", "--download-only", "busybox"], cwd=folder)
    archive = next(name for name in os.listdir(folder) if ".orig.tar." in name)
    run(["tar", "-xf", archive], cwd=folder)
    return next(entry.path for entry in os.scandir(folder)
                if entry.name.startswith("busybox-") and entry.is_dir())


def busybox(cache):
    """Return: a busybox that musl-gcc has linked dynamically."""
    path = os.path.join(cache, "busybox-musl")
    if os.path.exists(path):
        return path
    print("# building busybox with musl-gcc", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        source = busybox_source(folder)
        # musl-gcc looks into musl's headers only; the kernel's have no C library in them.
        headers = os.path.join(folder, "headers")
        os.mkdir(headers)
        machine = run(["gcc", "-print-multiarch"]).strip()
        for name, place in (("linux", "linux"), ("asm-generic", "asm-generic"),
                            ("asm", f"{machine}/asm"), ("mtd", "mtd")):
            os.symlink(f"/usr/include/{place}", os.path.join(headers, name))
        make = ["make", "-s", "-C", source, "CC=musl-gcc",
                f"CONFIG_EXTRA_CFLAGS=-isystem {headers}"]
        run([*make, "allnoconfig"])
        config = os.path.join(source, ".config")
        with open(config, encoding="ascii") as file:
            text = file.read()
        for name in BUSYBOX:
            text = text.replace(f"# CONFIG_{name} is not set\n", "") + f"CONFIG_{name}=y\n"
        with open(config, "w", encoding="ascii") as file:
            file.write(text.replace("CONFIG_SH_IS_NONE=y\n", ""))
        run([*make, "oldconfig"], input="\n" * 2000)
        run([*make, f"-j{os.cpu_count() or 1}", "busybox"])
        os.rename(os.path.join(source, "busybox"), path)
    return path


def loader(program):
    """The dynamic loader that @program asks for."""
    for line in run(["readelf", "--program-headers", program]).splitlines():
        if "program interpreter:" in line:
            return line.split(":", 1)[1].strip(" ]")
    raise Failed(f"{program} has no dynamic loader")


def musl(cache):
    """Return: a tar archive with nothing but musl and busybox in it."""
    program = busybox(cache)
    path = os.path.join(cache, "musl.tar")
    interpreter = loader(program)
    with tarfile.open(path, "w") as tar:
        tar.add(program, "bin/busybox")
        tar.add(os.path.realpath(interpreter), interpreter.lstrip("/"))
        for name in ("sh", "cat", "env", "nc", "printf", "sleep", "timeout", "wget", "xargs"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        users = b"root:x:0:0:root:/:/bin/sh\n"
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size = len(users)
        tar.addfile(passwd, io.BytesIO(users))
    return path


def prepare(cache):
    """Makes what is not there yet. Return: why that is impossible here, or None."""
    for tool in ("podman", "runc", "debootstrap", "catatonit", "musl-gcc", "conntrack", "nft"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    os.makedirs(cache, exist_ok=True)
    try:
        base(cache)
        musl(cache)
    except (Failed, OSError) as error:
        print(f"# {error}".replace("\n", "\n# "), file=sys.stderr)
        return "an image could not be made"
    return None
