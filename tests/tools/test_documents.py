#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the documents show is true: their configurations are taken by the tools, their links and the
names of files lead somewhere, and each option of --help is in the manual page and in the completion.

    FIXPORT_BUILD=build tests/tools/test_documents.py
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests" / "lib"))
import fptest  # noqa: E402

PAGES = ("README.md", "CONTRIBUTING.md", "NEWS.md", "contrib/kubernetes/README.md", "tests/README.md")
MANUALS = {"fixport-run": "1", "fixport-pool": "8", "fixport-setup": "8", "fixport-probe": "1"}
ADDRESS = "192.168.31.67/24"  # of the host in the site that the documents show


def read(name):
    return (SOURCE / name).read_text(encoding="utf-8")


def run(tool, *argv):
    return subprocess.run([os.path.join(fptest.BUILD, "tools", tool), *argv], capture_output=True,
                          text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def examples():
    """Each configuration that is shown, with a name."""
    fences = re.findall(r"^```ini\n(.*?)^```$", read("README.md"), re.M | re.S)
    displays = re.findall(r"^\.Bd -literal.*?\n(\[.*?)^\.Ed$", read("tools/man/fixport.conf.5"),
                          re.M | re.S)
    for where, texts in (("README.md", fences), ("fixport.conf(5)", displays)):
        for number, text in enumerate(texts, 1):
            yield f"{where}, configuration {number}", text
    yield "contrib/examples/fixport.conf", read("contrib/examples/fixport.conf")
    yield "contrib/kubernetes/base/fixport.conf", read("contrib/kubernetes/base/fixport.conf")


def check_examples(tap, folder):
    """A pool is made from each, and no warning given; where there is a whole site, a host plans it."""
    connected = subprocess.run(
        ["sh", "-c", f"ip link add site0 type veth peer name site1 && ip link set site0 up && "
         f"ip link set site1 up && ip address add {ADDRESS} dev site0"],
        capture_output=True, check=False).returncode == 0
    shown = list(examples())
    tap.point(len(shown) >= 7, f"{len(shown)} configurations are found")
    for number, (name, text) in enumerate(shown):
        config = Path(folder, f"{number}.conf")
        config.write_text(text, encoding="utf-8")
        done = run("fixport-pool", "create", "-c", str(config), "--pool", f"{folder}/{number}.pool")
        tap.equal((done.returncode, done.stderr), (0, ""), f"{name}: a pool is made of it, no warning")
        if not re.search(r"^\[hosts\]", text, re.M):
            continue
        if not connected:
            tap.cannot(f"{name}: a host plans it", "a network of one's own needs root")
            continue
        done = run("fixport-setup", "plan", "--root", folder, "--config", str(config), "--role", "host")
        tap.point(done.returncode == 2, f"{name}: a host plans it", done.returncode, done.stderr)


def anchors(page):
    """The names that a page's headings have, as web sites make them."""
    for heading in re.findall(r"^#+ (.*)$", read(page), re.M):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def check_links(tap):
    for page in PAGES:
        dead = []
        for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
            name, _, anchor = target.partition("#")
            if not (SOURCE / page).parent.joinpath(name).exists() or \
                    (anchor and not name and anchor not in anchors(page)):
                dead.append(target)
        tap.equal(dead, [], f"{page}: links lead somewhere")
        named = re.findall(r"\b(?:contrib|pool|shim|tests|tools)/[\w./-]*[\w/](?=[`: ])", read(page))
        built = (SOURCE, Path(fptest.BUILD))
        tap.equal([n for n in named if not any((top / n).exists() or (top / f"{n}.c").exists()
                                               for top in built)],
                  [], f"{page}: the files that it names exist")


def check_options(tap):
    completion = read("contrib/completion/fixport.bash")
    for tool, section in MANUALS.items():
        text = run(tool, "--help").stdout
        said = set(re.findall(r"--[a-z][a-z-]+", text))
        tap.point(said, f"{tool}: --help names options")
        tap.equal([line for line in text.splitlines() if line != line.rstrip() or len(line) > 100], [],
                  f"{tool}: --help has no line that ends in spaces or is too long")
        manual = read(f"tools/man/{tool}.{section}").replace("\\-", "-")
        # mdoc writes --name as "Fl -name", or ", -name" after "Fl n".
        tap.equal([o for o in sorted(said) if not re.search(rf"(Fl|,) {o[1:]}(?![\w-])", manual)], [],
                  f"{tool}: its manual page has each option")
        tap.equal([o for o in sorted(said) if not re.search(rf"(?<![\w-]){o}(?![\w-])", completion)], [],
                  f"{tool}: its completion has each option")


def main():
    fptest.in_own_network()
    tap = fptest.Tap()
    with tempfile.TemporaryDirectory(prefix="fixport-test-") as folder:
        check_examples(tap, folder)
    check_links(tap)
    check_options(tap)
    tap.end()


if __name__ == "__main__":
    main()
