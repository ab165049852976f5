"""What a process asks the kernel about itself after a fork."""

from __future__ import annotations

import contextlib
import ctypes
import os

from layerstore.linux.libc import libc

_PR_SET_PDEATHSIG = 1
_MADV_POPULATE_WRITE = 23
"""madvise(2), since Linux 5.14: map pages as a write to each would, in one call."""


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent's thread ends; 0 for none."""
    libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def close_others(*kept: int) -> None:
    """Close every descriptor but the three streams and some."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(fd)


def own_pages() -> None:
    """Copy now what a fork shares with its parent, which else costs a fault at each first write.

    Only saves time; where the kernel cannot, nothing happens.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        lines = list(file)  # which the kernel must not be asked for while they change
    for line in lines:
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        is_memory = inode == "0" and (not name or name[0].strip() == "[heap]")
        if rights == "rw-p" and is_memory:
            first, _, end = addresses.partition("-")
            start = int(first, 16)
            size = int(end, 16) - start
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)
