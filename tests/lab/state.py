# SPDX-License-Identifier: MIT
"""All that a set-up tool could have changed on a machine, so that two moments can be compared."""

import difflib
import hashlib
import os
import re
import stat

COMMANDS = {
    "iptables (nft)": ["iptables-nft-save"],
    "ip6tables (nft)": ["ip6tables-nft-save"],
    "iptables (legacy)": ["iptables-legacy-save"],
    "ip6tables (legacy)": ["ip6tables-legacy-save"],
    "nft": ["nft", "-s", "list", "ruleset"],
    "routes": ["ip", "-4", "route", "show", "table", "all"],
    "routes (IPv6)": ["ip", "-6", "route", "show", "table", "all"],
    "rules": ["ip", "-4", "rule"],
    "rules (IPv6)": ["ip", "-6", "rule"],
    "addresses": ["ip", "-o", "addr"],
}
LOCKS = {"/run/xtables.lock"}  # empty, and may stay
FOLDERS = ("/etc", "/var/lib", "/run")
# Counters, the time of day, and what the kernel counts by itself.
VOLATILE = re.compile(r"\[\d+:\d+\]|^# (Generated|Completed|Warning).*\n|"
                      r"counter packets \d+ bytes \d+", re.M)
UNSTEADY = re.compile(r"conntrack_count|/conntrack_buckets|random|unix/|/stat|netfilter/nf_log")


def of_machine(machine, exact=False):
    """Return: {what: text}. With @exact, files with their times and inodes too."""
    state = {}
    for name, argv in COMMANDS.items():
        state[name] = VOLATILE.sub("", machine.must(argv))
    state["sysctls"] = sysctls(machine)
    state["files"] = "".join(files(machine, exact))
    return state


def sysctls(machine):
    """/proc/sys/net as a process of the machine sees it."""
    text = machine.run(["grep", "-r", "", "/proc/sys/net"]).stdout
    return "".join(sorted(line + "\n" for line in text.splitlines() if not UNSTEADY.search(line)))


def files(machine, exact):
    for top in FOLDERS:
        root = machine.path(top)
        for folder, folders, names in os.walk(root):
            for name in sorted(folders + names):
                path = os.path.join(folder, name)
                seen = top + path[len(root):]
                if seen not in LOCKS:
                    yield f"{seen} {describe(path, exact)}\n"
            folders.sort()


def describe(path, exact):
    info = os.lstat(path)
    text = f"{info.st_mode:o} {info.st_uid} {info.st_gid}"
    if stat.S_ISLNK(info.st_mode):
        text += f" -> {os.readlink(path)}"
    elif stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            text += " " + hashlib.sha256(file.read()).hexdigest()[:16]
    if exact and not stat.S_ISDIR(info.st_mode):
        text += f" {info.st_ino} {info.st_mtime_ns}"
    return text


def difference(before, after):
    """Return: lines that say what differs, none if nothing does."""
    lines = []
    for name, old in before.items():
        lines += difflib.unified_diff(old.splitlines(), after[name].splitlines(), f"{name}, before",
                                      f"{name}, after", n=0, lineterm="")
    return lines
