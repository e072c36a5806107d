# SPDX-License-Identifier: MIT
"""Rule sets in the forms that real machines have: rules/*.rules, read.

A file has cases, each begun by "=== NAME". Then lines "KEY: VALUE", then sections, a line with the
name and a colon alone:

    roles:    on which machines of ground.py (host gateway one-arm node node-gateway); one case each
    backend:  nft, legacy: by which iptables (default: nft); one case each
    order:    after, before: whether it is loaded when fixport-setup has set up the machine (default),
              or first; one case each
    guilty:   part of the line that ends the connections, if some are ended; several: of any
    unjudged: part of what doctor says of the rules that cannot be judged without the real machine
    iptables:, ip6tables:  as iptables-save prints it, added by iptables-restore --noflush; without the
              second the first is both's
    nft:      for nft -f
    sh:       commands, before the rules; undo: commands, after all
    kernel:   a command whose failure means that this kernel cannot do it

In all of these are replaced: %PODS% %NODES% %HOSTS% %SERVICES% (of the rules' family; %PODS4% and %PODS6%
of that one), %POD% %NODE% %HOST% (one address), %OUT% (the interface towards hosts, or of a host), %IN%
(towards nodes and pods).
"""

import glob
import os
import re
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = ("roles", "backend", "order", "guilty", "unjudged", "kernel")
SECTIONS = ("iptables", "ip6tables", "nft", "sh", "undo")


@dataclass(frozen=True)
class Case:
    """A rule set on one machine."""

    name: str
    role: str
    backend: str
    order: str
    guilty: tuple = ()
    unjudged: str = ""
    kernel: str = ""
    text: dict = field(default_factory=dict)  # by section

    def title(self):
        uses = "iptables" in self.text or "ip6tables" in self.text
        more = f", iptables-{self.backend}" if uses and self.backend != "nft" else ""
        return f"{self.name}{more}{', loaded first' if self.order == 'before' else ''}"


def cases(names=()):
    """All cases; or those of which a part of the title is one of @names."""
    found = [case for path in sorted(glob.glob(os.path.join(HERE, "rules", "*.rules")))
             for case in read(path)]
    return [case for case in found
            if not names or any(name in f"{case.title()} on {case.role}" for name in names)]


def read(path):
    with open(path, encoding="ascii") as file:
        blocks = re.split(r"^=== ", file.read(), flags=re.M)
    for block in blocks[1:]:
        yield from case_read(path, block)


def case_read(path, block):
    name, *lines = block.splitlines()
    values, text, section = {}, {}, None
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and not value.strip() and key in SECTIONS:
            section = text.setdefault(key, [])
        elif section is not None:
            section.append(line)
        elif colon and key in KEYS:
            values.setdefault(key, []).append(value.strip())
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path}: {name}: {line!r} is no line of a case")
    text = {key: "\n".join(part).strip() + "\n" for key, part in text.items()}
    for role in values["roles"][0].split():
        for backend in values.get("backend", ["nft"])[0].split():
            for order in values.get("order", ["after"])[0].split():
                yield Case(name, role, backend, order, tuple(values.get("guilty", ())),
                           *(values.get(key, [""])[0] for key in ("unjudged", "kernel")), text)


def fill(text, words, family):
    """Replaces %WORD%: words of the family, or of the one that the word names."""
    def word(match):
        name = match[1]
        if name[-1] in "46" and name[:-1] in words[4]:
            return words[int(name[-1])][name[:-1]]
        return words[family][name]
    return re.sub(r"%([A-Z]+[46]?)%", word, text)


def for_ipv6(text):
    """What a distribution writes for IPv6 where it writes @text for IPv4."""
    text = text.replace("icmp-port-unreachable", "icmp6-port-unreachable")
    text = text.replace("icmp-host-prohibited", "icmp6-adm-prohibited")
    text = text.replace("icmp-admin-prohibited", "icmp6-adm-prohibited")
    text = text.replace("127.0.0.0/8", "::1/128").replace("127.0.0.1/32", "::1/128")
    text = re.sub(r"-p icmp -m icmp --icmp-type \S+|-p icmp\b", "-p ipv6-icmp", text)
    return text
