# SPDX-License-Identifier: MIT
"""fixport 0.1.0, built from the repository's own history and kept in the build tree."""

import os
import shutil
import subprocess
from pathlib import Path

import fptest

SOURCE = Path(__file__).resolve().parent.parent.parent
COMMIT = "f8131b55d"  # the last commit before NEWS.md has something after 0.1.0
TREE = Path(fptest.BUILD, "tests", f"fixport-{COMMIT}")
BUILD = ("autoreconf -fi; cd build; ../configure -q; "
         "make -s shim/libfixport.so tools/fixport-pool tools/fixport-run")


def is_built():
    return (TREE / "done").exists()


def build(tap, what):
    """Return: the tree of 0.1.0, with its build in "build"; None: it cannot be had here, and @tap has
    said so of @what."""
    if is_built():
        return TREE
    git = ["git", "-c", f"safe.directory={SOURCE}", "-C", SOURCE]
    if not (SOURCE / ".git").exists() or subprocess.run([*git, "cat-file", "-e", COMMIT], capture_output=True,
                                                        check=False).returncode:
        tap.skip(what, "this is no clone of the whole repository, which has 0.1.0")
        return None
    shutil.rmtree(TREE, ignore_errors=True)
    os.makedirs(TREE / "build")
    archive = subprocess.run([*git, "archive", COMMIT], capture_output=True, check=True)
    subprocess.run(["tar", "-xC", TREE], input=archive.stdout, check=True)
    done = subprocess.run(["sh", "-ec", BUILD], cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if not tap.equal(done.returncode, 0, "0.1.0 is built from the repository"):
        print("\n".join(f"# {line}" for line in done.stdout.splitlines()[-20:]))
        return None
    (TREE / "done").touch()
    return TREE
