"""Sees whether anybody opens or changes what lies in a directory (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OPEN, _MODIFY, _ATTRIB, _MOVED, _CREATE, _DELETE = 0x20, 0x2, 0x4, 0xC0, 0x100, 0x200
_IS_DIR = 0x40000000
_EVENT = struct.Struct("iIII")
_NAMES = {
    _OPEN: "opened", _MODIFY: "changed", _ATTRIB: "attributes changed", 0x40: "moved away",
    0x80: "moved here", _CREATE: "created", _DELETE: "deleted",
}  # fmt: skip


class Watch:
    """Collects what happens to a directory's files from now on."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _OPEN | _MODIFY | _ATTRIB | _MOVED | _CREATE | _DELETE
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify does not work here")

    def events(self) -> list[str]:
        """Return what happened since the last call; listing the directory itself is nothing."""
        found = []
        while data := self._read():
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                what = next((word for bit, word in _NAMES.items() if mask & bit), hex(mask))
                if name or not mask & _IS_DIR:
                    found.append(f"{os.fsdecode(name)} {what}")
        return found

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._fd)
