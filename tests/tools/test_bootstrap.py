#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bootstrap's choice of packages, with an apt that is played by scripts: what it installs on
releases that have other packages, and what it says of those that are not to be had.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import fptest  # noqa: E402

SOURCE = Path(__file__).resolve().parent.parent.parent

LISTS = {
    "tests/packages": """
# A comment with | and {clang}.
alpha             # the alphas
librt-{clang}-dev | libcommon-{clang}-dev # the fuzzers
gone | nowhere    # the lost
sh() | dash       # a shell
refused           # the refused
""",
    "tests/clients/packages": "libpython{python3}-testsuite # CPython's own tests\nsecond | third\n",
    "tests/containers/packages": "box # containers\n",
}

# What is installed, what can be, and what stands for what is in files. apt-get refuses all for one
# name that it does not like.
FAKES = {
    "apt-cache": """#!/bin/sh
case $1 in
depends) grep "^$2 " "$WORLD/depends" | while read -r _ on; do printf '%s\\n  Depends: %s\\n' "$2" "$on"; done ;;
policy)
    shift
    for name; do
        grep -qx "$name" "$WORLD/installed" && have=1 || have='(none)'
        grep -qx "$name" "$WORLD/available" && can=1 || can='(none)'
        [ "$have$can" = '(none)(none)' ] ||
            printf '%s:\\n  Installed: %s\\n  Candidate: %s\\n  Version table:\\n' "$name" "$have" "$can"
    done ;;
esac
""",
    "apt-get": """#!/bin/sh
echo " $* " >>"$WORLD/log"
case " $* " in
*" install "*" refused "*) echo "E: refused" >&2; exit 100 ;;
*" update "*) if [ -e "$WORLD/news" ]; then cat "$WORLD/news" >>"$WORLD/available"; fi ;;
esac
""",
    "id": "#!/bin/sh\necho 1000\n",
    "sudo": '#!/bin/sh\nexec "$@"\n',
}


def script(path, text):
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class World:
    """A tree with these lists, on a machine with this apt."""

    def __init__(self, folder, available, installed=("sh",), news=(), left_out=(),
                 depends=("clang clang-19", "python3 python3.13")):
        self.tree, self.fakes = Path(folder, "tree"), Path(folder, "fakes")
        self.fakes.mkdir()
        for name, text in FAKES.items():
            if name not in left_out:
                script(self.fakes / name, text)
        for name, lines in (("available", available), ("installed", installed), ("news", news),
                            ("depends", depends), ("log", ())):
            (self.fakes / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for name, text in LISTS.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text, encoding="utf-8")
        shutil.copy(SOURCE / "bootstrap", self.tree)
        (self.tree / "configure.ac").touch()
        script(self.tree / "configure", "#!/bin/sh\n")
        (self.tree / "build").mkdir()
        (self.tree / "build/Makefile").write_text("all:\n", encoding="utf-8")
        script(self.tree / "tests/run-all", '#!/bin/sh\necho "stages: $*"\n')

    def check(self, *stages, **more):
        path = self.path()
        return subprocess.run([self.tree / "bootstrap", "check", *stages], capture_output=True,
                              text=True, check=False,
                              env={"PATH": path, "WORLD": str(self.fakes), **more})

    def path(self):
        """The scripts, then the machine's own programs but those of package managers."""
        real = self.fakes / "real"
        if not real.exists():
            real.mkdir()
            for name in ("awk", "cat", "dirname", "env", "getconf", "grep", "make", "mkdir", "sed", "sh",
                         "tr", "dash"):
                if found := shutil.which(name):
                    (real / name).symlink_to(found)
        return f"{self.fakes}:{real}"

    def installed(self):
        """Return: what was installed, a list for each call, without what was only simulated."""
        log = (self.fakes / "log").read_text(encoding="utf-8")
        return [line.split(" install ")[1].split() for line in log.splitlines()
                if " install " in line and " -s " not in line]


BUILD = ["gcc", "libc6-dev", "make", "autoconf", "automake", "libtool", "pkg-config",
         "libiniparser-dev", "libjansson-dev", "libmnl-dev", "libyaml-dev"]
DEBIAN = ["alpha", "librt-19-dev", "libpython3.13-testsuite", "second", "third", "box"]


def case(tap, name, wanted, *stages, said=(), status=0, env=None, **machine):
    """What is installed by one call each, and what is said, in a world."""
    machine = {"installed": ("sh", *BUILD), **machine}
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, **machine)
        done = world.check(*stages, **(env or {}))
        text = done.stdout + done.stderr
        got = world.installed()
    good = got == wanted and (done.returncode == 0) == (status == 0) and all(
        re.search(line, text, re.M) for line in said)
    good = good and ("stages: " + " ".join(stages) in done.stdout) == (status == 0)
    tap.point(good, name, *([] if good else [f"installed: {got}", f"status: {done.returncode}", text]))


def configured_again(tap):
    """A build that was configured before Criterion was there has no unit tests until it is again."""
    for has, libs, wanted in ((0, "", ["-q --recheck", "-q"]), (1, "", []), (0, "-lcriterion", [])):
        with tempfile.TemporaryDirectory() as folder:
            world = World(folder, DEBIAN, installed=("sh", *BUILD))
            script(world.fakes / "pkg-config", f"#!/bin/sh\nexit {has}\n")
            build = world.tree / "build"
            (build / "Makefile").write_text(f"CRITERION_LIBS = {libs}\nall:\n", encoding="utf-8")
            script(build / "config.status", '#!/bin/sh\necho "$*" >>told\n')
            done = world.check("clang")
            told = build / "told"
            got = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
        tap.point(got == wanted and done.returncode == 0,
                  f"Criterion is {'not ' * has}installed, the build has {libs or 'none'}: "
                  f"configured again {len(wanted) // 2} times", got, done.stderr)


LOST = (r"^bootstrap: there is no package nowhere here; not tested without it: the lost$",)
REFUSED = (r"^bootstrap: apt-get cannot install refused here; not tested without it: the refused$",)


def main():
    tap = fptest.Tap()
    case(tap, "versions are the machine's, alternatives in their order, the rest is said",
         [["alpha", "librt-19-dev", "libpython3.13-testsuite", "second", "box"]], said=LOST,
         available=DEBIAN)
    case(tap, "another release: another version, the second name", [
        ["alpha", "libcommon-14-dev", "libpython3.10-testsuite", "third", "box"]], said=LOST,
         available=["alpha", "libcommon-14-dev", "libpython3.10-testsuite", "third", "box"],
         depends=("clang clang-14", "python3 python3.10"))
    case(tap, "one that apt refuses does not cost the others",
         [["alpha", "librt-19-dev", "libpython3.13-testsuite", "second", "box"]],
         said=LOST + REFUSED, available=["refused", *DEBIAN])
    case(tap, "FIXPORT_MUST_WORK=1: what is not to be had is a failure, and no test is run",
         [["alpha", "librt-19-dev", "libpython3.13-testsuite", "second", "box"]],
         said=LOST + REFUSED, available=["refused", *DEBIAN], env={"FIXPORT_MUST_WORK": "1"},
         status=1)
    case(tap, "a fresh machine, whose apt knows nothing before its first update",
         [["alpha", "librt-19-dev", "libpython3.13-testsuite", "second", "box"]],
         available=(), news=DEBIAN)
    case(tap, "stages: only what they need", [["alpha", "librt-19-dev"]], "clang", "tests/tools",
         available=DEBIAN)
    case(tap, "stages: CPython's own tests",
         [["alpha", "librt-19-dev", "libpython3.13-testsuite", "second"]], "cpython",
         available=DEBIAN)
    case(tap, "nothing is missing: apt-get is not called", [], available=DEBIAN,
         said=(r"\Astages: \nbootstrap: building\n\Z",), installed=[*BUILD, "alpha", "librt-19-dev", "nowhere", "refused",
                                               "libpython3.13-testsuite", "third", "box"])
    case(tap, "an ordinary user without sudo: said, and it goes on", [], available=DEBIAN,
         left_out=("sudo",), said=(r"^  alpha librt-19-dev nowhere refused ", r"no sudo here.*as root"))
    case(tap, "the same with FIXPORT_MUST_WORK=1 is a failure", [], available=DEBIAN,
         left_out=("sudo",), status=1, env={"FIXPORT_MUST_WORK": "1"})
    case(tap, "the build's packages, too", [["alpha", "librt-19-dev"], ["gcc", "libc6-dev", "make"]],
         "clang", available=[*DEBIAN, *BUILD], installed=("sh", *BUILD[3:]))
    configured_again(tap)
    for path in LISTS:
        named = [line for line in (SOURCE / path).read_text(encoding="utf-8").splitlines()
                 if re.search(r"-\d+\b|\d\.\d", line.partition("#")[0])]
        tap.equal(named, [], f"{path}: no version of a release")
    tap.end()


if __name__ == "__main__":
    main()
