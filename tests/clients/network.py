# SPDX-License-Identifier: MIT
"""A network of its own for each case, where that can be had.

A connection that the client closed stays in the kernel's tables for a minute (TIME_WAIT). In one
network the cases would hand each other ports that are not free, and so would two runs in a row;
what is tested would depend on what ran before. A fresh network namespace has nothing but loopback.
Without root the cases run in the network that is there.

So it is with the pools that the shim makes by itself, in /dev/shm, which another run may use, too.
"""

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def enter_new():
    """Leave for a new network with its loopback up, for this thread and all that it starts.

    Return: whether that could be done.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    # In a chroot the root may be no mount: then what is mounted would be seen outside.
    if libc.unshare(CLONE_NEWNS) == 0 and \
            libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0:
        mounts_are_own.add(True)
        cover("/dev/shm", b"mode=1777")
    return True


mounts_are_own = set()


def cover(folder, options=b"mode=755"):
    """An empty folder in the place of @folder, for this case only; where that can be had."""
    if mounts_are_own:
        ctypes.CDLL(None).mount(b"tmpfs", folder.encode(), b"tmpfs", 0, options)
